"""How far the changes of proteins agree with bcftools csq, and with published residues.

Yeast: random substitutions in every coding sequence. Human: published missense variants of chromosome 20, and all
alleles of the 1000 Genomes file there. Prints a table and writes it to benchmarks/results/consequences.tsv. Effect and
residues are compared on the transcript that seqprior chose. Where the two differ, both proteins are also translated by
hand, from the contig and the CDS lines alone, and the table says which of the two is right. Seconds are those of one
process each, of listing the changes of all alleles and of csq on the same alleles as a VCF.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common import RESULTS, YEAST_DATA, print_table, run_cli, write_table

from seqprior.errors import BadInput, run_script

if TYPE_CHECKING:
    import pandas as pd

HUMAN_DATA = YEAST_DATA.parent / "human"
COLUMNS = ("dataset", "subset", "measure", "value", "n")
CODING = {
    "missense": "missense_variant",
    "synonymous": "synonymous_variant",
    "stop_gained": "stop_gained",
    "stop_lost": "stop_lost",
    "start_lost": "start_lost",
    "stop_retained": "stop_retained_variant",
    "start_retained": "start_retained_variant",
    "frameshift": "frameshift_variant",
    "inframe_insertion": "inframe_insertion",
    "inframe_deletion": "inframe_deletion",
    "inframe_altering": "protein_altering_variant",
}


@dataclass(frozen=True)
class Work:
    """A folder with what the workflow's first stages make of a genome and its gene models."""

    folder: Path

    fasta = property(lambda self: self.folder / "reference.fa.gz")
    contigs = property(lambda self: self.folder / "contigs.tsv")
    genes = property(lambda self: self.folder / "genes.gff3.gz")

    def prepare(self, fasta: Path, genes: Path) -> None:
        run_cli("prepare_reference.py", "--fasta", fasta, "--output", self.fasta, "--contigs", self.contigs)
        run_cli("prepare_genes.py", "--genes", genes, "--contigs", self.contigs, "--output", self.genes)

    def changes(self, vcf: Path) -> tuple[pd.DataFrame, pd.DataFrame, float]:
        """Alleles, changes of proteins, and seconds that the changes took."""
        import pandas as pd

        arguments = ("--fasta", self.fasta, "--contigs", self.contigs)
        limits = ("--max-allele-length", 50, "--max-mismatch-share", 0.1)
        output = ("--output", self.folder, "--summary", self.folder / "variants.json")
        run_cli("normalise_variants.py", "--variants", vcf, *arguments, *limits, *output)
        tables = [self.folder / f"{name}.parquet" for name in ("changes", "haplotypes", "proteins")]
        started = time.perf_counter()
        run_cli(
            "list_protein_changes.py",
            *("--variants", self.folder / "variants.parquet", *arguments, "--genes", self.genes),
            *("--changes", tables[0], "--haplotypes", tables[1], "--proteins", tables[2]),
        )
        seconds = time.perf_counter() - started
        return pd.read_parquet(self.folder / "variants.parquet"), pd.read_parquet(tables[0]), seconds

    def csq(self) -> tuple[dict[str, dict[str, tuple[str, str]]], float]:
        """(terms, residues) by allele and transcript, and seconds that csq took."""
        from seqprior.consequences import write_sites
        from seqprior.genes import transcript_table

        sites, called = self.folder / "sites.vcf", self.folder / "csq.vcf"
        contigs = set(transcript_table(self.genes)["chrom"])
        write_sites(self.folder / "variants.parquet", contigs, self.fasta, sites)
        call = "import sys; from pathlib import Path; from seqprior.consequences import run_csq; "
        call += "run_csq(*map(Path, sys.argv[1:]))"
        started = time.perf_counter()
        command = [sys.executable, "-c", call, sites, self.fasta, self.genes, called]
        path = {"PYTHONPATH": str(Path(__file__).resolve().parents[1] / "scripts")}
        subprocess.run(list(map(str, command)), check=True, env=path)
        seconds = time.perf_counter() - started
        found: dict[str, dict[str, tuple[str, str]]] = defaultdict(dict)
        with called.open() as lines:
            for line in lines:
                if line.startswith("#"):
                    continue
                chrom, pos, _, ref, alt, _, _, info = line.rstrip("\n").split("\t")
                for entry in info.removeprefix("BCSQ=").split(",") if info != "." else ():
                    fields = (entry.split("|") + [""] * 7)[:7]
                    if fields[5]:  # of a transcript's entries, the one with residues
                        found[f"{chrom}-{pos}-{ref}-{alt}"][fields[2]] = fields[0], fields[5]
        return found, seconds


class Hand:
    """Translation from CDS lines and the contig alone: an oracle that shares no code with what it judges."""

    def __init__(self, work: Work, table_of: dict[str, int]) -> None:
        import gzip

        import pysam

        self._fasta, self._table_of = pysam.FastaFile(str(work.fasta)), table_of
        self._cds: dict[str, list[tuple[str, str, int, int, int]]] = defaultdict(list)
        with gzip.open(work.genes, "rt") as lines:
            for line in lines:
                fields = line.rstrip("\n").split("\t")
                if len(fields) == 9 and fields[2] == "CDS":
                    parent = fields[8].partition("Parent=transcript:")[2].partition(";")[0]
                    row = (fields[0], fields[6], int(fields[3]), int(fields[4]), int(fields[7]))
                    self._cds[parent].append(row)

    def proteins(self, transcript: str, pos: int, alt: str) -> tuple[str, str]:
        """Residues of the transcript and of the transcript with a substitution at a 1-based position."""
        from Bio.Seq import Seq

        parts = sorted(self._cds[transcript], key=lambda part: part[2])
        chrom, strand = parts[0][:2]
        found = []
        for base in ("", alt):
            text = ""
            for _, _, first, last, _ in parts:
                piece = list(self._fasta.fetch(chrom, first - 1, last).upper())
                if base and first <= pos <= last:
                    piece[pos - first] = base
                text += "".join(piece)
            spliced = Seq(text).reverse_complement() if strand == "-" else Seq(text)
            spliced = spliced[parts[0 if strand == "+" else -1][4] :]
            whole = spliced[: len(spliced) // 3 * 3]
            found.append(str(whole.translate(table=self._table_of.get(chrom, 1))))
        return found[0], found[1]


def agreement(changes: pd.DataFrame, called: dict, hand: Hand | None) -> tuple[int, Counter, Counter]:
    """Number of alleles on which both agree, counts of the classes of disagreement, and who is right in each."""
    agree, classes, right = 0, Counter(), Counter()
    for row in changes.itertuples(index=False):
        answer = called.get(row.variant_id, {}).get(row.transcript)
        terms, letters = answer or ("", "")
        kinds = {CODING.get(term, "") for term in terms.lstrip("*").split("&")} - {""}
        place = "" if row.start != row.start else int(row.start) + 1
        ours = f"{place}{row.ref}" if row.ref == row.alt else f"{place}{row.ref}>{place}{row.alt}"
        indel = len(row.ref) != len(row.alt) or "frameshift" in row.effect
        if row.effect in kinds and (indel or ours == letters) and not terms.startswith("*"):
            agree += 1
            continue
        name = kind_of_difference(row, terms, answer is not None, ours, letters)
        classes[name] += 1
        _, pos, ref, alt = row.variant_id.rsplit("-", 3)
        if hand is not None and len(ref) == len(alt) == 1:
            before, after = hand.proteins(row.transcript, int(pos), alt)
            right[name, judged(row, before, after, letters)] += 1
    return agree, classes, right


def kind_of_difference(row, terms: str, answered: bool, ours: str, letters: str) -> str:
    """Why csq and seqprior say different things of an allele."""
    if row.variant_id.startswith("chrM-"):
        return "mitochondrion, which csq reads by the standard code"
    if row.reason == "internal_stop":
        return "a stop within the coding sequence, behind or before the residue"
    if not answered:
        return f"{row.effect} ({row.reason or 'scored'}) where csq gives no residues"
    if ours != letters and row.effect in {CODING.get(term) for term in terms.split("&")}:
        return f"{row.effect}: other residues"
    return f"{row.effect} where csq says {terms}"


def judged(row, before: str, after: str, letters: str) -> str:
    """Whose residues are those of a translation by hand."""
    if row.start != row.start:
        return "not decided by translation"
    place = int(row.start)
    ours = (row.ref, row.alt) == (before[place : place + 1], after[place : place + 1])
    ours |= place == 0 and row.ref == "M"  # a start codon is read as M, whatever its bases
    theirs = {f"{place + 1}{before[place]}", f"{place + 1}{before[place]}>{place + 1}{after[place]}"}
    return {
        (True, True): "both have the residues of a translation by hand",
        (True, False): "seqprior has the residues of a translation by hand",
        (False, True): "csq has the residues of a translation by hand",
        (False, False): "neither has the residues of a translation by hand",
    }[bool(ours), letters in theirs]


def random_substitutions(work: Work, count: int, seed: int) -> Iterator[tuple[str, int, str, str]]:
    """Distinct substitutions, uniform over all coding bases, sorted by position."""
    import gzip

    import numpy as np
    import pysam

    parts: dict[str, list[tuple[int, int]]] = defaultdict(list)
    with gzip.open(work.genes, "rt") as lines:
        for line in lines:
            fields = line.split("\t")
            if len(fields) == 9 and fields[2] == "CDS":
                parts[fields[0]].append((int(fields[3]) - 1, int(fields[4])))
    places = {chrom: np.unique(np.concatenate([np.arange(*part) for part in own])) for chrom, own in parts.items()}
    sites = [(chrom, position) for chrom, own in places.items() for position in own.tolist()]
    drawn = random.Random(seed)
    with pysam.FastaFile(str(work.fasta)) as fasta:
        bases = {chrom: fasta.fetch(chrom).upper() for chrom in places}
        for site in sorted(drawn.sample(range(3 * len(sites)), count)):
            chrom, position = sites[site // 3]
            ref = bases[chrom][position]
            yield chrom, position + 1, ref, "ACGT".replace(ref, "")[site % 3]


def write_vcf(path: Path, rows) -> None:
    lines = (f"{chrom}\t{pos}\t.\t{ref}\t{alt}\t.\t.\t.\n" for chrom, pos, ref, alt in rows)
    path.write_text("##fileformat=VCFv4.3\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "".join(lines))


def compared(dataset: str, work: Work, vcf: Path, hand: Hand | None) -> list[tuple]:
    """Rows of the table: agreement with csq, its exceptions and the seconds of both."""
    variants, changes, seconds = work.changes(vcf)
    called, csq_seconds = work.csq()
    agree, classes, right = agreement(changes, called, hand)
    total = len(changes)
    rows = [
        (dataset, "alleles", "listed", len(variants), len(variants)),
        (dataset, "alleles", "in a coding sequence", total, len(variants)),
        (dataset, "alleles", "seconds, seqprior", seconds, len(variants)),
        (dataset, "alleles", "seconds, csq", csq_seconds, len(variants)),
        (dataset, "against csq", "same effect and residues", agree / max(total, 1), total),
    ]
    rows += [(dataset, "against csq", f"differs: {name}", count, total) for name, count in classes.most_common()]
    rows += [(dataset, name, who, count, classes[name]) for (name, who), count in right.most_common()]
    ours = set(changes["variant_id"])
    coding = {variant for variant, own in called.items() if any(one[1] for one in own.values())}
    rows.append((dataset, "against csq", "coding for csq alone", len(coding - ours), len(coding)))
    for (status, reason), count in changes.groupby(["status", "reason"]).size().items():
        rows.append((dataset, "status", reason or status, int(count), total))
    return rows


def yeast(folder: Path, count: int, seed: int) -> list[tuple]:
    work = Work(folder)
    work.prepare(YEAST_DATA / "sacCer3.fa.gz", YEAST_DATA / "sgd_genes.gff3.gz")
    write_vcf(folder / "random.vcf", random_substitutions(work, count, seed))
    return compared("yeast, random SNVs", work, folder / "random.vcf", Hand(work, {"chrM": 3}))


def human(folder: Path) -> list[tuple]:
    import pandas as pd

    work = Work(folder)
    work.prepare(HUMAN_DATA / "GRCh37_chr20.fa.gz", HUMAN_DATA / "chr20_genes.gff3.gz")
    hand = Hand(work, {})
    published = pd.read_csv(HUMAN_DATA / "clinvar_missense_chr20.tsv", sep="\t", keep_default_na=False)
    published = published.sort_values(["pos_hg19", "alt"], kind="stable")
    write_vcf(folder / "clinvar.vcf", (("20", row.pos_hg19, row.ref, row.alt) for row in published.itertuples()))
    name = "human chr20, published missense"
    rows = compared(name, work, folder / "clinvar.vcf", hand)
    changes = pd.read_parquet(folder / "changes.parquet").set_index("variant_id")
    outcomes: Counter = Counter()
    for row in published.itertuples():
        variant = f"20-{row.pos_hg19}-{row.ref}-{row.alt}"
        change = row.protein_variant.partition(":")[2]
        outcomes[outcome(changes.loc[variant] if variant in changes.index else None, change)] += 1
    rows += [(name, "against published residues", what, n, len(published)) for what, n in outcomes.most_common()]
    vcf = HUMAN_DATA / "1000G_b37_chr20_1-4Mb.reference.vcf.gz"
    return rows + compared("human chr20, 1000 Genomes", work, vcf, hand)


def outcome(change, published: str) -> str:
    """How a listed change compares with a published one, such as 'E243G'."""
    if change is None:
        return "in no coding sequence of the gene models"
    if change["reason"]:
        return f"reason: {change['reason']}"
    if (change["ref"], change["alt"]) != (published[0], published[-1]):
        return "other residues"
    if f"{int(change['start']) + 1}" == published[1:-1]:
        return "same residues at the same place"
    return "same residues at another place (another isoform)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--snvs", type=int, default=100_000, help="random substitutions in yeast")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "consequences.tsv")
    args = parser.parse_args()
    rows: list[tuple] = []
    for data, make in ((YEAST_DATA, lambda folder: yeast(folder, args.snvs, args.seed)), (HUMAN_DATA, human)):
        if data.is_dir():
            with tempfile.TemporaryDirectory() as folder:
                rows += make(Path(folder))
    if not rows:
        raise BadInput(f"{YEAST_DATA.parent}: no folder yeast or human there; put the data beside the repository")
    print_table(COLUMNS, rows)
    write_table(args.output, COLUMNS, rows)


if __name__ == "__main__":
    run_script(main)
