"""A saturated run with made-up scores, for tests of its files and of its page."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pysam

from seqprior.columns import CONSEQUENCES, SCORES, scores_schema
from seqprior.contigs import ContigNames, contigs_of, write_contigs
from seqprior.region_alleles import Region, list_saturation
from seqprior.variants import left_align

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = ROOT / "report"
HOSTILE = "</script><script>alert(1)</script>&\"'"
MODELS = ("one", "two")


def write_fasta(folder: Path, **contigs: str) -> Path:
    path = folder / "genome.fa"
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in contigs.items()))
    pysam.faidx(str(path))
    return path


def random_bases(seed: int, length: int, letters: str = "ACGT") -> str:
    return "".join(np.random.default_rng(seed).choice(list(letters), length))


class Scored:
    """A listing with drawn scores of two models and consequences, and what is written from them."""

    def __init__(self, folder: Path, deletions: int = 3, tracks: bool = True) -> None:
        first = random_bases(1, 80) + "NNN" + random_bases(2, 40, "AC") + "TTTTTTTT" + random_bases(3, 20)
        self.contigs = {"chrI": first, "chrII": random_bases(4, 2600), "chrIII": "ACGT"}
        self.fasta = write_fasta(folder, **self.contigs)
        write_contigs(contigs_of(self.fasta), folder / "contigs.tsv")
        bed = folder / "r.bed"
        bed.write_text(f"chrI\t60\t140\t{HOSTILE}\nchrI\t100\t120\tinner\nchrII\t20\t2600\tlong\nchrI\t3\t4\n")
        names = ContigNames(contigs_of(self.fasta))
        summary = list_saturation(bed, self.fasta, names, folder / "variants.parquet", deletions)
        (folder / "variants.json").write_text(json.dumps(summary))
        self.regions = [Region(**region) for region in summary["regions"]]
        self.variants = pd.read_parquet(folder / "variants.parquet")
        random = np.random.default_rng(7)
        self.llr = {}
        for model in MODELS:
            rows = self.variants[list(SCORES[:5])].copy()
            values = random.normal(-1, 2, (len(rows), 4))
            usable = (self.variants["status"] == "scored") & (random.random(len(rows)) > 0.1)
            if model == "two":  # a position without any score
                usable &= ~((rows["chrom"] == "chrI") & (rows["pos"] == 101))
            for name, column in zip(("llr", "llr_calibrated", "entropy", "embedding_l2"), values.T, strict=True):
                rows[name] = np.where(usable, column, np.nan)
            rows["status"] = np.where(usable, "scored", "skipped")
            rows["reason"] = np.where(usable, "", "window_ambiguous")
            rows.loc[self.variants["status"] != "scored", "reason"] = "ambiguous_base"
            rows = rows.reindex(columns=list(SCORES)).astype({"method": str})
            rows.to_parquet(folder / f"{model}.parquet", schema=scores_schema(), index=False, row_group_size=700)
            self.llr[model] = rows["llr"].to_numpy()
        effects = self.variants[self.variants["status"] == "scored"][["variant_id"]].copy()
        effects["gene"], effects["consequence"] = "G" + effects["variant_id"].str[3:6], "intron_variant"
        effects = effects.reindex(columns=list(CONSEQUENCES), fill_value="").astype(str)
        effects.to_parquet(folder / "consequences.parquet", index=False, row_group_size=500)
        self.folder = folder

    def command(self, **changed: object) -> subprocess.CompletedProcess:
        folder = self.folder
        given = {
            "variants": folder / "variants.parquet",
            "summary": folder / "variants.json",
            "models": MODELS,
            "scores": [folder / f"{model}.parquet" for model in MODELS],
            "consequences": folder / "consequences.parquet",
            "fasta": self.fasta,
            "contigs": folder / "contigs.tsv",
            "cohort": HOSTILE,
            "template_dir": TEMPLATES,
            "table": folder / "saturated_regions.tsv",
            "tracks": [folder / f"worst.{model}.bw" for model in MODELS],
            "deletion_tracks": [folder / f"worst_deletion.{model}.bw" for model in MODELS],
            "output": folder / "page.html",
        } | changed
        flat = [sys.executable, str(ROOT / "scripts" / "write_region_saturation.py")]
        for name, value in given.items():
            values = value if isinstance(value, list | tuple) else [value]
            flat += [f"--{name.replace('_', '-')}", *map(str, values)]
        return subprocess.run(flat, capture_output=True, text=True, check=False)

    def worst(self, model: str) -> tuple[dict, dict]:
        """By (contig, base): the lowest LLR of its substitutions, and of the deletions that remove it."""
        lowest: tuple[dict, dict] = ({}, {})
        value = dict(zip(self.variants["variant_id"], self.llr[model], strict=True))

        def put(kind: int, place: tuple, llr: float) -> None:
            if math.isfinite(llr):
                lowest[kind][place] = min(llr, lowest[kind].get(place, math.inf))

        for chrom, sequence in self.contigs.items():
            covered = {at for r in self.regions if r.chrom == chrom for at in range(r.start, r.end)}
            for at in covered:
                for alt in "ACGT":
                    if sequence[at] in "ACGT" and alt != sequence[at]:
                        put(0, (chrom, at), value[f"{chrom}-{at + 1}-{sequence[at]}-{alt}"])
                for length in (1, 2, 3):
                    bases = sequence[at : at + length]
                    if covered.issuperset(range(at, at + length)) and set(bases) <= set("ACGT"):
                        start, ref, alt = left_align(sequence, at, bases, "")
                        for place in range(at, at + length):
                            put(1, (chrom, place), value.get(f"{chrom}-{start + 1}-{ref}-{alt}", math.nan))
        return lowest
