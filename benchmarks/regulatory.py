"""Regulatory elements, binding sites and measured effects on expression, by the workflow itself on real labels.

Every figure comes from results of `snakemake regulatory all` with a config that this program writes:

yeast   heads for ChIP-exo peaks of five factors and of TFIIB (promoters), leave-chromosomes-out, against matched random
        negatives; motifs by mutagenesis against JASPAR; a scan of the whole genome; promoter variants with measured
        effects (MPRA) against |LLR|, embedding distance and change of element probability.
sites   heads trained without chrVI and chrXV, which the embedded model has not seen either, and the peaks there: how
        many have a binding site by mutagenesis, by the motif alone and by the sequence model's constraint, each at a
        false discovery rate of 5 % against shuffled sequence.
human   chromosome 20: heads for ENCODE peaks and labelled enhancers, and the saturation MPRA of the HNF4A promoter. The
        embedded model knows nothing of human sequence; its rows say what the procedure gives without a fitting model.

AUROC and AUPRC have 95 % bootstrap intervals over blocks of 100 kb, Spearman's rho over variants; null is the mean
absolute rho of shuffled effects. Prints a table and writes benchmarks/results/regulatory.tsv.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import RESULTS, ROOT, YEAST_DATA, cores, print_table, write_table

from seqprior.contigs import Contig, ContigNames, aliases_of
from seqprior.errors import BadInput, run_script

HUMAN_DATA = YEAST_DATA.parent / "human"
MODEL = "yeast-mini"
FACTORS = ("Reb1", "Abf1", "Cbf1", "Tbf1", "Ume6")
PROMOTER_PEAKS = 2_000  # of TFIIB's, drawn at random: the rest would train for hours and change nothing
HELD_OUT = ("chrVI", "chrXV")
WINDOW = 200
RELEASE = "JASPAR2026"
MUTATED = 100  # windows of an element that are mutated base by base, half the default, to save time
SHUFFLES, BOOTSTRAPS = 1_000, 1_000
FDR = 0.05


class Row(NamedTuple):
    """One figure; `n` counts intervals, peaks or variants."""

    dataset: str
    subset: str
    score: str
    metric: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    prevalence: float | None = None


def run_workflow(folder: Path, config: dict, *targets: str) -> Path:
    """Run the workflow in a folder of its own; returns its results of this config."""
    import yaml

    path = folder / f"{config['cohort']}.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [
        sys.executable,
        "-m",
        "snakemake",
        *targets,
        "--cores",
        str(cores()),
        "--rerun-incomplete",
        "--quiet",
        "all",
    ]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(folder), "--configfile", str(path)]
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    print(f"snakemake {' '.join(targets)}: {config['cohort']}", flush=True)
    with (folder / f"{config['cohort']}.log").open("w") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise BadInput(f"{folder / config['cohort']}.log: the workflow failed; read the end of this file")
    return folder / "results" / config["cohort"]


def write_jaspar(group: str, path: Path) -> Path:
    """JASPAR's CORE profiles of a taxonomic group as a MEME file (Rauluseviciute et al. 2024, 10.1093/nar/gkad1059)."""
    from pyjaspar import jaspardb

    from seqprior.motifs import Motif, iter_lines

    motifs = []
    for profile in jaspardb(release=RELEASE).fetch_motifs(collection="CORE", tax_group=[group], all_versions=False):
        counts = np.array([profile.counts[base] for base in "ACGT"], float).T + 0.1
        motifs.append(Motif(profile.matrix_id, profile.name, counts / counts.sum(1, keepdims=True)))
    path.write_text("".join(iter_lines(motifs)))
    return path


def yeast_names() -> ContigNames:
    import pysam

    with pysam.FastxFile(str(YEAST_DATA / "sacCer3.fa.gz")) as records:
        contigs = [Contig(r.name, len(r.sequence), aliases_of(r.name, len(r.sequence))) for r in records]
    return ContigNames(contigs)


def peaks_of(factor: str, names: ContigNames) -> list[tuple[str, int]]:
    """Contig, by the reference's name, and position of each peak."""
    fields = (line.split("\t") for line in (YEAST_DATA / "chip_exo" / f"{factor}.bed").read_text().splitlines())
    return [(names.resolve(chrom), int(start)) for chrom, start, *_ in fields]


def write_bed(path: Path, peaks: Sequence[tuple[str, int]]) -> str:
    path.write_text("".join(f"{chrom}\t{at}\t{at + 1}\n" for chrom, at in peaks))
    return str(path)


# --- elements ---


def element_rows(dataset: str, results: Path) -> Iterator[Row]:
    """Measures of every head and baseline, and the best motif of each element."""
    import pandas as pd

    for folder in sorted((results / "regulatory" / "elements").iterdir()):
        metrics = pd.read_csv(folder / "metrics.tsv", sep="\t")
        for row in metrics[metrics["metric"].isin(["auroc", "auprc", "ece"])].itertuples():
            share = row.positives / row.intervals
            name = f"{row.head} ({row.role})"
            yield Row(
                dataset, folder.name, name, row.metric.upper(), row.value, row.low, row.high, row.intervals, share
            )
        motifs = pd.read_parquet(folder / "motifs.parquet")
        if motifs.empty:
            yield Row(dataset, folder.name, "motif by mutagenesis: none", "q", float("nan"))
        for row in motifs.sort_values("sites", ascending=False).head(1).itertuples():
            yield Row(
                dataset, folder.name, f"top motif by mutagenesis: {row.match_name}", "q", row.q_value, n=row.sites
            )


# --- measured effects ---


def effect_rows(dataset: str, results: Path, effects: dict[str, float]) -> Iterator[Row]:
    """Spearman's rho of each absolute score with the absolute effect, by variant id."""
    import pandas as pd

    ranked = pd.read_parquet(results / "ranked.parquet").set_index("variant_id")
    table = ranked.loc[[name for name in effects if name in ranked.index and ranked.at[name, "status"] == "scored"]]
    measured = np.abs([effects[name] for name in table.index])
    print(f"{dataset}: {len(table)} of {len(effects)} variants are scored", flush=True)
    scores = {"|LLR|": f"llr.{MODEL}", "embedding distance": f"embedding_l2.{MODEL}"}
    scores |= {f"|change of {name.partition('.')[2]}|": name for name in table if name.startswith("element_change.")}
    scores |= {"|change of motif score|": "site_change"} if "site_change" in table else {}
    rng = np.random.default_rng(1)
    for name, column in scores.items():
        values = np.abs(table[column].to_numpy(float))
        values = np.where(np.isfinite(values), values, 0.0) if column == "site_change" else values
        known = np.isfinite(values)
        yield from correlation(dataset, name, values[known], measured[known], rng)


def correlation(
    dataset: str, name: str, values: np.ndarray, measured: np.ndarray, rng: np.random.Generator
) -> Iterator[Row]:
    from scipy.stats import rankdata

    def rho(rows: np.ndarray) -> float:
        ranks = rankdata(values[rows]), rankdata(measured[rows])
        return float(np.corrcoef(*ranks)[0, 1]) if np.ptp(ranks[0]) and np.ptp(ranks[1]) else 0.0

    count = len(values)
    samples = [rho(rng.integers(0, count, count)) for _ in range(BOOTSTRAPS)]
    ranks = rankdata(values), rankdata(measured)
    null = (
        [abs(np.corrcoef(ranks[0], rng.permutation(ranks[1]))[0, 1]) for _ in range(SHUFFLES)]
        if np.ptp(values)
        else [0.0]
    )
    low, high = np.percentile(samples, [2.5, 97.5])
    yield Row(dataset, "all", name, "Spearman", rho(np.arange(count)), float(low), float(high), count)
    yield Row(dataset, "all", name, "Spearman, null", float(np.mean(null)), 0.0, float(np.percentile(null, 95)), count)


def write_vcf(path: Path, lengths: dict[str, int], rows: Sequence[tuple[str, int, str, str]]) -> str:
    """Sites-only VCF of alleles, sorted."""
    order = {name: at for at, name in enumerate(lengths)}
    lines = ["##fileformat=VCFv4.2", *(f"##contig=<ID={name},length={size}>" for name, size in lengths.items())]
    lines.append("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO")
    rows = sorted(set(rows), key=lambda row: (order[row[0]], row[1:]))
    lines += [f"{chrom}\t{pos}\t.\t{ref}\t{alt}\t.\t.\t." for chrom, pos, ref, alt in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def promoter_variants(results: Path) -> dict[str, float]:
    """Mean effect of each promoter variant, by variant id after normalisation."""
    import pandas as pd

    table = pd.read_csv(YEAST_DATA / "promoter_mpra.tsv.gz", sep="\t", keep_default_na=False)
    table["effect"] = pd.to_numeric(table["logFC"], errors="coerce")
    means = table.dropna(subset="effect").groupby(["chr", "pos", "ref", "alt"])["effect"].mean()
    return by_normalised(results, {(c, int(p), r, a): float(v) for (c, p, r, a), v in means.items()})


def by_normalised(results: Path, effects: dict[tuple[str, int, str, str], float]) -> dict[str, float]:
    """Effects by variant id, found through the alleles as they were given."""
    import pandas as pd

    given = pd.read_parquet(results / "variants.parquet")
    columns = ["input_chrom", "input_pos", "input_ref", "input_alt", "variant_id"]
    found = {}
    for chrom, pos, ref, alt, name in given[columns].itertuples(index=False, name=None):
        effect = effects.get((chrom, int(pos), ref, alt))
        if effect is not None:
            found[name] = effect
    return found


def yeast(folder: Path) -> Iterator[Row]:
    import pandas as pd

    names = yeast_names()
    rng = np.random.default_rng(1)
    promoters = peaks_of("Sua7", names)
    chosen = [promoters[n] for n in np.sort(rng.choice(len(promoters), PROMOTER_PEAKS, replace=False))]
    mpra = pd.read_csv(YEAST_DATA / "promoter_mpra.tsv.gz", sep="\t", keep_default_na=False)
    alleles = list(zip(mpra["chr"], mpra["pos"].astype(int), mpra["ref"], mpra["alt"], strict=True))
    lengths = {name: contig.length for name, contig in names.contigs.items()}
    sources = {factor: write_bed(folder / f"{factor}.bed", peaks_of(factor, names)) for factor in FACTORS}
    sources["promoter"] = write_bed(folder / "promoter.bed", chosen)
    config = {
        "cohort": "yeast",
        "variants": [write_vcf(folder / "mpra.vcf", lengths, alleles)],
        "reference": reference("sacCer3"),
        "models": {"dna": [MODEL]},
        "regulatory": {
            "elements": {name: {"intervals": path} for name, path in sources.items()},
            "motifs": str(write_jaspar("Fungi", folder / "fungi.meme")),
            "mutagenesis_windows": MUTATED,
        },
    }
    results = run_workflow(folder, config, "regulatory", "all")
    yield from element_rows("yeast ChIP-exo, leave-chromosomes-out", results)
    yield from scan_rows(
        "yeast genome", folder / "logs" / "yeast" / "scan_regions.0000.benchmark.tsv", sum(lengths.values())
    )
    yield from effect_rows("yeast promoter MPRA", results, promoter_variants(results))


def reference(name: str, fasta: Path | None = None) -> dict:
    genes = YEAST_DATA / "sgd_genes.gff3.gz"
    return {"name": name, "fasta": str(fasta or YEAST_DATA / "sacCer3.fa.gz"), "genes": None if fasta else str(genes)}


def scan_rows(dataset: str, benchmark: Path, bases: int) -> Iterator[Row]:
    """Time and memory of one scan, as Snakemake measured them."""
    with benchmark.open() as handle:
        measured = next(csv.DictReader(handle, delimiter="\t"))
    yield Row(dataset, "all heads, fast, one thread", "scan", "minutes", float(measured["s"]) / 60, n=bases)
    yield Row(dataset, "all heads, fast, one thread", "scan", "memory, GB", float(measured["max_rss"]) / 1024, n=bases)


# --- sites in peaks that nothing was trained on ---


def sites(folder: Path) -> Iterator[Row]:
    import pysam

    names = yeast_names()
    motifs = write_jaspar("Fungi", folder / "fungi.meme")
    training = folder / "training.fa"
    with pysam.FastxFile(str(YEAST_DATA / "sacCer3.fa.gz")) as records, training.open("w") as handle:
        for record in records:
            if record.name not in HELD_OUT:
                handle.write(f">{record.name}\n{record.sequence}\n")
    seen, unseen = {}, {}
    for factor in FACTORS:
        peaks = peaks_of(factor, names)
        unseen[factor] = [peak for peak in peaks if peak[0] in HELD_OUT]
        seen[factor] = write_bed(folder / f"{factor}.train.bed", [peak for peak in peaks if peak[0] not in HELD_OUT])
    shared = {"motifs": str(motifs), "mutagenesis_windows": 0, "information": "none"}
    config = {
        "cohort": "training",
        "regions": write_bed(folder / "somewhere.bed", [("chrI", 50_000)]),
        "reference": reference("training", training),
        "models": {"dna": [MODEL]},
        "regulatory": {"elements": {name: {"intervals": path} for name, path in seen.items()}, **shared},
    }
    trained = run_workflow(
        folder, config, *(f"results/training/regulatory/elements/{f}/head/head.json" for f in FACTORS)
    )
    regions = folder / "held_out.bed"
    regions.write_text("".join(f"{name}\t0\t{names.contigs[name].length}\n" for name in HELD_OUT))
    heads = {name: {"head": str(trained / "regulatory" / "elements" / name / "head")} for name in FACTORS}
    config |= {"cohort": "held-out", "regions": str(regions), "reference": reference("sacCer3")}
    config["regulatory"] = {"elements": heads, "motifs": str(motifs), "mutagenesis_windows": 300, "fdr": FDR}
    results = run_workflow(folder, config, "regulatory")
    yield from site_rows(results, unseen, folder)


def site_rows(results: Path, peaks: dict[str, list[tuple[str, int]]], folder: Path) -> Iterator[Row]:
    """Share of peaks within whose window a site lies, and share of sites that lie within a peak's window."""
    import pandas as pd

    table = pd.read_csv(results / "regulatory" / "sites.tsv", sep="\t", keep_default_na=False)
    table["middle"] = (table["start"] + table["end"]) // 2
    alone = motif_alone(folder, results)
    for factor, places in peaks.items():
        own = table["motif_name"].str.upper() == factor.upper()
        mutated = (table["source"] == "mutagenesis") & (table["element"] == factor)
        constrained = table["source"] == "constraint"
        found = {
            "mutagenesis": table[mutated],
            "mutagenesis, named by the factor's motif": table[mutated & own],
            "constraint": table[constrained],
            "constraint, named by the factor's motif": table[constrained & own],
            "motif alone": alone[alone["factor"] == factor.upper()],
        }
        for name, sites_of in found.items():
            yield from shares("held-out ChIP-exo peaks, sites at 5 % FDR", factor, name, sites_of, places)


def shares(dataset: str, factor: str, name: str, sites_of, places: Sequence[tuple[str, int]]) -> Iterator[Row]:
    by_contig = defaultdict(list)
    for chrom, at in places:
        by_contig[chrom].append(at)
    middles = {chrom: np.sort(rows["middle"].to_numpy()) for chrom, rows in sites_of.groupby("chrom")}
    hit = [len(middles.get(c, [])) and np.abs(middles[c] - at).min() <= WINDOW // 2 for c, at in places]
    inside = [
        bool(by_contig[chrom]) and np.abs(np.array(by_contig[chrom]) - middle).min() <= WINDOW // 2
        for chrom, middle in zip(sites_of["chrom"], sites_of["middle"], strict=True)
    ]
    yield Row(dataset, factor, name, "peaks with a site", float(np.mean(hit)), n=len(places))
    yield Row(
        dataset, factor, name, "sites in a peak", float(np.mean(inside)) if inside else float("nan"), n=len(inside)
    )


def motif_alone(folder: Path, results: Path):
    """Occurrences of each factor's JASPAR profile in the held-out contigs, at that rate against shuffled sequence."""
    import pandas as pd
    import pysam

    from seqprior.motifs import place_scores, read_motifs
    from seqprior.sequence import encode
    from seqprior.shuffling import dinucleotide_shuffle
    from seqprior.significance import error_rates

    known = {motif.name.upper(): motif for motif in read_motifs(folder / "fungi.meme")}
    rows = []
    with pysam.FastaFile(str(results.parent / "shared" / "sacCer3" / "genome.fa.gz")) as genome:
        texts = {name: genome.fetch(name).upper() for name in HELD_OUT}
    shuffled = {name: dinucleotide_shuffle(text, 1) for name, text in texts.items()}
    for factor in map(str.upper, FACTORS):
        matrix = known[factor].matrix
        scores = {name: place_scores(matrix, encode(text)) for name, text in texts.items()}
        null = np.concatenate([place_scores(matrix, encode(text)) for text in shuffled.values()])
        joined = np.concatenate(list(scores.values()))
        above = joined > np.quantile(null, 0.99)  # lower ones cannot be significant, and are many
        q_values = np.ones(len(joined))
        q_values[above] = error_rates(joined[above], null[null >= joined[above].min()], len(joined), len(null))[1]
        places = [(name, at) for name, values in scores.items() for at in range(len(values))]
        rows += [(factor, *places[n], places[n][1] + len(matrix) // 2) for n in np.flatnonzero(q_values <= FDR)]
    return pd.DataFrame(rows, columns=["factor", "chrom", "start", "middle"])


# --- human ---


def human(folder: Path) -> Iterator[Row]:
    import pandas as pd

    labelled = folder / "enhancers.bed"
    with gzip.open(HUMAN_DATA / "regulatory" / "genomic_benchmarks_chr20.tsv.gz", "rt") as handle:
        rows = [row for row in csv.DictReader(handle, delimiter="\t") if row["dataset"] == "human_enhancers_ensembl"]
    labelled.write_text("".join(f"{r['chrom']}\t{r['start']}\t{r['end']}\t{r['label']}\n" for r in rows))
    mpra = pd.read_csv(HUMAN_DATA / "hnf4a_saturation_mpra.tsv", sep="\t", dtype=str, keep_default_na=False)
    substitutions = mpra[mpra["Alt"] != "-"]
    alleles = list(
        zip(
            substitutions["Chrom"],
            substitutions["Pos"].astype(int),
            substitutions["Ref"],
            substitutions["Alt"],
            strict=True,
        )
    )
    effects = dict(zip(alleles, substitutions["Coefficient"].astype(float), strict=True))
    first, last = min(a[1] for a in alleles), max(a[1] for a in alleles)
    regions = folder / "hnf4a.bed"
    regions.write_text(f"20\t{first - 5_000}\t{last + 5_000}\tHNF4A P2\n")
    peaks = HUMAN_DATA / "encode_peaks"
    config = {
        "cohort": "human",
        "variants": [write_vcf(folder / "hnf4a.vcf", {"20": 63_025_520}, alleles)],
        "regions": str(regions),
        "reference": {
            "name": "GRCh37-chr20",
            "fasta": str(HUMAN_DATA / "GRCh37_chr20.fa.gz"),
            "genes": str(HUMAN_DATA / "chr20_genes.gff3.gz"),
        },
        "models": {"dna": [MODEL]},
        "regulatory": {
            "elements": {
                "HNF4A": {"intervals": str(peaks / "HepG2.HNF4A.chr20.narrowPeak.gz")},
                "CTCF": {"intervals": str(peaks / "HepG2.CTCF.chr20.narrowPeak.gz")},
                "enhancer": {"intervals": str(labelled), "label": "positive"},
            },
            "motifs": str(write_jaspar("Vertebrates", folder / "vertebrates.meme")),
            "mutagenesis_windows": MUTATED,
        },
    }
    results = run_workflow(folder, config, "regulatory", "all")
    yield from element_rows("human chr20, leave-blocks-out", results)
    yield from effect_rows("HNF4A saturation MPRA, substitutions", results, by_normalised(results, effects))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["yeast", "sites", "human"], default=["yeast", "sites", "human"])
    parser.add_argument("--folder", type=Path, help="where the workflow runs; kept, and what is there is not run again")
    parser.add_argument("--output", type=Path, default=RESULTS / "regulatory.tsv", help="default: %(default)s")
    args = parser.parse_args()
    if not YEAST_DATA.is_dir():
        raise BadInput(f"{YEAST_DATA}: no such folder; this benchmark needs the development data beside the repository")
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        rows = [row for part in args.parts for row in {"yeast": yeast, "sites": sites, "human": human}[part](folder)]
    print_table(Row._fields, rows)
    write_table(args.output, Row._fields, rows)


if __name__ == "__main__":
    run_script(main)
