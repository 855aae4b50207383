"""How good the embedded model is, on contigs it has not seen, beside Markov models and a reading-frame rule.

Prints a table and writes it to benchmarks/results/accuracy.tsv. Intervals are 95 % bootstrap intervals over blocks of
10 kb. Lower llr is more surprising; AUROC is above 0.5 if the first-named class is the more surprising one, except for
natural variants, which are expected to be the less surprising ones. Markov models are interpolated, counted on both
strands of the same training contigs and averaged over both strands. Unlike those read left to right, leave-one-out
Markov models know the bases on both sides, as the model does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from common import (
    DEMO_GENES,
    DEMO_GENOME,
    RESULTS,
    YEAST_DATA,
    cell,
    cores,
    load_model,
    marginals,
    print_table,
    run_cli,
    write_table,
)

from seqprior.errors import BadInput, run_script

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

MODEL = "yeast-mini"
ORDERS = (3, 5, 8, 11)
RULE = "longest-orf"
TEST, VALIDATION = "chrXV", "chrVI"
BLOCK = 10_000
CONTROLS = 5  # random sites per natural variant
FEWEST = 20  # members of the smaller class; below it a figure says nothing
GENERAL_FACTORS = {"Spt15", "Sua7"}  # TBP and TFIIB bind nearly every promoter
BINDING_FLANK, BINDING_HALF = 50, 10
ROMAN = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII", "XIII", "XIV", "XV", "XVI"]
SIMULATED = {
    "stop_gained vs synonymous": ({"stop_gained"}, {"synonymous_variant"}),
    "missense vs synonymous": ({"missense_variant"}, {"synonymous_variant"}),
    "start_lost vs synonymous": ({"start_lost"}, {"synonymous_variant"}),
    "splice donor or acceptor vs synonymous": (
        {"splice_donor_variant", "splice_acceptor_variant"},
        {"synonymous_variant"},
    ),
    "splice donor or acceptor vs intron": ({"splice_donor_variant", "splice_acceptor_variant"}, {"intron_variant"}),
}


class Row(NamedTuple):
    """One figure; `n` counts bases or variants, `prevalence` is the share of the first-named class."""

    dataset: str
    subset: str
    score: str
    metric: str
    value: float
    low: float
    high: float
    n: int
    prevalence: float | None


@dataclass
class Study:
    """A genome, its gene models and everything that scores it.

    Attributes:
        genome, repeats: base codes and repeated positions of each contig.
        fasta, genes: prepared for bcftools csq. limit: bases of each contig that are evaluated.
        scorers: name to function of (contig, sorted positions) that gives log p(base | all others), (N, 4).
        markov: Markov models by name.
    """

    genome: dict[str, np.ndarray]
    repeats: dict[str, np.ndarray]
    fasta: Path
    genes: Path
    folder: Path
    limit: int
    bootstraps: int
    rng: np.random.Generator
    scorers: dict = field(default_factory=dict)
    markov: dict = field(default_factory=dict)

    def length(self, contig: str) -> int:
        return min(self.limit, len(self.genome[contig]))

    def llr(self, scorer: str, variants: pd.DataFrame) -> np.ndarray:
        """log p(alt) - log p(ref) of rows with contig, at (0-based), ref and alt (base codes)."""
        import numpy as np

        scores = np.zeros(len(variants))
        for contig, rows in variants.groupby("contig").indices.items():
            part = variants.iloc[rows]
            sites, site = np.unique(part["at"].to_numpy(), return_inverse=True)
            logs = self.scorers[scorer](contig, sites)
            scores[rows] = logs[site, part["alt"].to_numpy()] - logs[site, part["ref"].to_numpy()]
        return scores


def prepare(folder: Path, limit: int, bootstraps: int, seed: int) -> Study:
    """The demo genome, the embedded model, and Markov models of the same training contigs."""
    import numpy as np

    from seqprior.baselines import both_strands_leave_one_out, fit_markov
    from seqprior.repeats import repeat_masks
    from seqprior.sequence import read_genome

    fasta, contigs, genes = folder / "genome.fa.gz", folder / "contigs.tsv", folder / "genes.gff3.gz"
    run_cli("prepare_reference.py", "--fasta", DEMO_GENOME, "--output", fasta, "--contigs", contigs)
    run_cli("prepare_genes.py", "--genes", DEMO_GENES, "--contigs", contigs, "--output", genes)
    genome = read_genome(fasta)
    repeats = repeat_masks(genome)
    study = Study(genome, repeats, fasta, genes, folder, limit, bootstraps, np.random.default_rng(seed))

    training = [codes for name, codes in genome.items() if name not in (TEST, VALIDATION)]
    fitted = fit_markov(training, {VALIDATION: genome[VALIDATION]}, {VALIDATION: ~repeats[VALIDATION]}, max(ORDERS))
    strengths = ", ".join(f"{model.strength:g}" for model in fitted[1:])
    print(f"Markov models: pseudo-counts {strengths} for orders 1 to {max(ORDERS)}, chosen on {VALIDATION}", flush=True)
    facts, adapter = load_model(MODEL)
    study.scorers[MODEL] = ModelScorer(adapter, facts.window // 2, genome)
    for order in ORDERS:
        model = study.markov[f"markov-{order}"] = fitted[order]
        study.scorers[f"markov-{order}"] = lambda contig, sites, model=model: both_strands_leave_one_out(
            model, genome[contig], sites
        )
    return study


@dataclass
class ModelScorer:
    """The model's marginals at sites of a contig; what was computed for a whole contig is kept."""

    adapter: object
    reach: int
    genome: dict[str, np.ndarray]
    kept: dict = field(default_factory=dict)

    def keep(self, contig: str, length: int) -> np.ndarray:
        self.kept[contig] = marginals(self.adapter, self.reach, self.genome[contig], 0, length)
        return self.kept[contig]

    def __call__(self, contig: str, sites: np.ndarray) -> np.ndarray:
        import numpy as np

        if contig in self.kept:
            return self.kept[contig][sites]
        parts = np.split(sites, np.flatnonzero(np.diff(sites) > 2 * self.reach) + 1)  # a stretch shares its flanks
        codes = self.genome[contig]
        stretches = [marginals(self.adapter, self.reach, codes, part[0], part[-1] + 1) for part in parts if len(part)]
        return np.concatenate([logs[part - part[0]] for logs, part in zip(stretches, parts, strict=True)])


def interval(samples: np.ndarray) -> tuple[float, float]:
    import numpy as np

    return tuple(float(value) for value in np.nanpercentile(samples, [2.5, 97.5]))


def auroc(
    study: Study, dataset: str, subset: str, score: str, labels: np.ndarray, values: np.ndarray, blocks: np.ndarray
) -> Row:
    """AUROC of `values` for `labels` (True is the first-named class), with its interval over resampled blocks."""
    import numpy as np
    from sklearn.metrics import roc_auc_score

    block = np.unique(blocks, return_inverse=True)[1]
    count = block.max() + 1
    samples = []
    for _ in range(study.bootstraps):
        weights = study.rng.multinomial(count, np.full(count, 1 / count))[block]
        used = weights > 0
        both = labels[used].any() and not labels[used].all()
        samples.append(roc_auc_score(labels[used], values[used], sample_weight=weights[used]) if both else np.nan)
    point = float(roc_auc_score(labels, values))
    return Row(dataset, subset, score, "AUROC", point, *interval(np.array(samples)), len(labels), float(labels.mean()))


def compare(
    study: Study, dataset: str, subset: str, variants: pd.DataFrame, labels: np.ndarray, scores: dict[str, np.ndarray]
) -> Iterator[Row]:
    """AUROC of each score over one set of variants; a class that is too small is named and left out."""
    smaller = int(min(labels.sum(), (~labels).sum()))
    if smaller < FEWEST:
        print(f"skipped: {dataset}, {subset}: {smaller} in the smaller class, fewer than {FEWEST}")
        return
    blocks = (variants["contig"] + ":" + (variants["at"] // BLOCK).astype(str)).to_numpy()
    for name, values in scores.items():
        yield auroc(study, dataset, subset, name, labels, values, blocks)


def bits_per_base(study: Study) -> Iterator[Row]:
    """Mean -log2 p(base) of the held-out contigs."""
    import numpy as np

    from seqprior.baselines import both_strands_left_to_right

    for contig in (TEST, VALIDATION):
        length = study.length(contig)
        codes = study.genome[contig][:length]
        known = codes < 4
        subsets = {"all": known, "outside repeats": known & ~study.repeats[contig][:length]}
        block = np.arange(length) // BLOCK
        present = np.minimum(codes, 3).astype(np.int64)[:, None]
        sites = np.arange(length)
        predictions = {(MODEL, "bits per base"): study.scorers[MODEL].keep(contig, length)}
        for name in study.markov:
            predictions[name, "bits per base"] = study.scorers[name](contig, sites)
        bits = {key: -np.take_along_axis(logs, present, 1)[:, 0] / np.log(2) for key, logs in predictions.items()}
        for name, model in study.markov.items():
            logs = both_strands_left_to_right(model, study.genome[contig])[:length]
            bits[name, "bits per base, left to right"] = -logs / np.log(2)
        for (name, metric), values in bits.items():
            for subset, counted in subsets.items():
                total = np.bincount(block, np.where(counted, values, 0.0))
                number = np.bincount(block, counted)
                drawn = study.rng.multinomial(len(total), np.full(len(total), 1 / len(total)), 1000)
                spread = interval((drawn @ total) / np.maximum(drawn @ number, 1))
                point = float(total.sum() / number.sum())
                dataset = contig if contig == TEST else f"{contig} (validation)"
                yield Row(dataset, subset, name, metric, point, *spread, int(number.sum()), None)


def coding_parts(genes: Path, contig: str) -> dict[str, tuple[str, list[tuple[int, int]]]]:
    """Strand and sorted coding intervals (0-based half-open) of each transcript of a contig."""
    from seqprior.files import open_text

    parts: dict[str, tuple[str, list[tuple[int, int]]]] = {}
    with open_text(genes) as lines:
        for line in lines:
            fields = line.rstrip("\n").split("\t")
            if len(fields) == 9 and fields[0] == contig and fields[2] == "CDS":
                parent = next(item for item in fields[8].split(";") if item.startswith("Parent="))
                parts.setdefault(parent, (fields[6], []))[1].append((int(fields[3]) - 1, int(fields[4])))
    return {name: (strand, sorted(intervals)) for name, (strand, intervals) in parts.items()}


def simulated_sites(study: Study, count: int) -> np.ndarray:
    """Random sites of the test contig outside repeats, and all of its start codons and introns."""
    import numpy as np

    length = study.length(TEST)
    unique = np.flatnonzero(~study.repeats[TEST][:length])
    sites = [study.rng.choice(unique, min(count, len(unique)), replace=False)]
    for strand, intervals in coding_parts(study.genes, TEST).values():
        start = intervals[0][0] if strand == "+" else intervals[-1][1] - 3
        sites.append(np.arange(start, start + 3))
        sites += [np.arange(left[1], right[0]) for left, right in pairwise(intervals)]
    return np.intersect1d(np.concatenate(sites), unique)


def all_substitutions(contig: str, codes: np.ndarray, sites: np.ndarray) -> pd.DataFrame:
    """Three rows per site: contig, at, ref, alt."""
    import numpy as np
    import pandas as pd

    frame = pd.DataFrame({"contig": contig, "at": np.repeat(sites, 4), "alt": np.tile(np.arange(4), len(sites))})
    frame["ref"] = codes[frame["at"]].astype(np.int64)
    return frame[(frame["ref"] < 4) & (frame["ref"] != frame["alt"])].reset_index(drop=True)


def consequences_of(study: Study, variants: pd.DataFrame) -> np.ndarray:
    """The most severe consequence of each substitution, by bcftools csq in a process of its own."""
    import pandas as pd

    from seqprior.sequence import BASES

    table = pd.DataFrame({"chrom": variants["contig"], "pos": variants["at"] + 1})
    for name in ("ref", "alt"):
        table[name] = [BASES[code] for code in variants[name]]
    table["variant_id"], table["status"], table["reason"] = "", "scored", ""
    source, output = study.folder / "variants.parquet", study.folder / "consequences.parquet"
    table.to_parquet(source)
    options = ("--variants", source, "--fasta", study.fasta, "--genes", study.genes, "--source", "csq")
    run_cli("annotate_consequences.py", *options, "--output", output)
    return pd.read_parquet(output)["consequence"].to_numpy()


def simulated_substitutions(study: Study, count: int) -> Iterator[Row]:
    """Every substitution of sampled sites: does a score tell consequence classes apart?"""
    import numpy as np

    from seqprior.baselines import stops_longest_frame

    codes = study.genome[TEST]
    variants = all_substitutions(TEST, codes, simulated_sites(study, count))
    terms = consequences_of(study, variants)
    scores = {name: -study.llr(name, variants) for name in study.scorers}
    scores[RULE] = stops_longest_frame(codes, variants["at"].to_numpy(), variants["alt"].to_numpy()).astype(float)
    for subset, (first, second) in SIMULATED.items():
        rows = np.isin(terms, [*first, *second])
        labels = np.isin(terms[rows], [*first])
        chosen = {name: values[rows] for name, values in scores.items()}
        yield from compare(study, f"{TEST} simulated SNVs", subset, variants[rows], labels, chosen)


def natural_substitutions(study: Study, path: Path) -> pd.DataFrame:
    """SNVs with one alternate of the evaluated part of the test contig; REF must be the reference's base."""
    import pandas as pd

    from seqprior.files import open_text
    from seqprior.sequence import BASES

    rows = []
    with open_text(path) as lines:
        for line in lines:
            fields = line.split("\t", 5)
            if fields[0] == TEST and int(fields[1]) <= study.length(TEST) and fields[3] in BASES and fields[4] in BASES:
                rows.append((TEST, int(fields[1]) - 1, BASES.index(fields[3]), BASES.index(fields[4])))
    frame = pd.DataFrame(rows, columns=["contig", "at", "ref", "alt"]).drop_duplicates()
    agrees = study.genome[TEST][frame["at"]] == frame["ref"]
    if not agrees.all():
        raise BadInput(f"{path}: REF differs from {TEST} at {(~agrees).sum()} of {len(agrees)} SNVs; expected sacCer3")
    return frame.reset_index(drop=True)


def matched_substitutions(study: Study, natural: pd.DataFrame) -> pd.DataFrame:
    """`CONTROLS` random substitutions for each natural one, of the same trinucleotide to the same base."""
    import numpy as np
    import pandas as pd

    codes = study.genome[TEST].astype(np.int64)
    free = ~study.repeats[TEST]
    free[natural["at"]] = False
    free[study.length(TEST) :] = free[:1] = free[-1:] = False
    context = np.full(len(codes), -1)
    context[1:-1] = codes[:-2] * 25 + codes[1:-1] * 5 + codes[2:]
    drawn = []
    for (number, alternate), group in natural.groupby([context[natural["at"]], natural["alt"]]):
        pool = np.flatnonzero(free & (context == number))
        sites = study.rng.choice(pool, min(len(pool), CONTROLS * len(group)), replace=False)
        drawn.append(pd.DataFrame({"contig": TEST, "at": sites, "ref": codes[sites], "alt": alternate}))
    return pd.concat(drawn, ignore_index=True)


def natural_variants(study: Study) -> Iterator[Row]:
    """Natural variants have passed selection, so they should surprise less than random ones of the same context."""
    import numpy as np
    import pandas as pd

    path, effects = YEAST_DATA / "by_rm.vcf.gz", YEAST_DATA / "by_rm_vep.txt.gz"
    if missing(path, effects):
        return
    natural = natural_substitutions(study, path)
    natural = natural[~study.repeats[TEST][natural["at"]]].reset_index(drop=True)
    random = matched_substitutions(study, natural)
    both = pd.concat([natural, random], ignore_index=True)
    labels = np.arange(len(both)) < len(natural)
    scores = {name: study.llr(name, both) for name in study.scorers}
    dataset = f"{TEST} BY x RM SNVs"
    yield from compare(study, dataset, "natural vs random of the same context", both, labels, scores)

    changes = protein_changes(effects)
    kinds = np.array([changes.get(key, -1) for key in zip(natural["at"], natural["alt"], strict=True)])
    coding = kinds >= 0
    scores = {name: -study.llr(name, natural[coding]) for name in study.scorers}
    subset = "missense or stop vs synonymous"
    yield from compare(study, dataset, subset, natural[coding], kinds[coding] == 1, scores)


def protein_changes(path: Path) -> dict[tuple[int, int], int]:
    """1 for missense and stop-gained, 0 for synonymous SNVs of the test contig, by (0-based position, alternate)."""
    from seqprior.files import open_text
    from seqprior.sequence import BASES

    changes: dict[tuple[int, int], int] = {}
    with open_text(path) as lines:
        for line in lines:
            name, _, alternate, terms = line.split("\t")[:4] if line.count("\t") > 3 else ("", "", "", "")
            changed = "missense_variant" in terms or "stop_gained" in terms
            if name.startswith(f"{TEST}:") and alternate in BASES and (changed or "synonymous_variant" in terms):
                key = (int(name.partition(":")[2].partition("_")[0]) - 1, BASES.index(alternate))
                changes[key] = max(changes.get(key, 0), int(changed))
    return changes


def promoter_variants(study: Study) -> Iterator[Row]:
    """Do promoter variants with a measured effect on expression surprise more? Their contigs were trained on."""
    import numpy as np
    import pandas as pd

    path = YEAST_DATA / "promoter_mpra.tsv.gz"
    if missing(path):
        return
    table = pd.read_csv(path, sep="\t", keep_default_na=False)
    table = table[table["ref"].isin(list("ACGT")) & table["alt"].isin(list("ACGT"))]
    table["significant"] = pd.to_numeric(table["adj.P.Val"], errors="coerce") < 0.05
    table = table.groupby(["chr", "pos", "ref", "alt"], as_index=False)["significant"].any()
    variants = pd.DataFrame({"contig": table["chr"], "at": table["pos"].astype(int) - 1})
    for name in ("ref", "alt"):
        variants[name] = table[name].map("ACGT".index)
    present = [study.genome[contig][at] for contig, at in zip(variants["contig"], variants["at"], strict=True)]
    kept = (variants["ref"] == present) & (variants["at"] < study.limit) & (variants["contig"] != VALIDATION)
    variants, labels = variants[kept].reset_index(drop=True), table["significant"].to_numpy()[kept]
    print(
        f"promoter MPRA: {len(variants)} SNVs; {(~kept).sum()} on {VALIDATION}, beyond the limit or unlike the genome"
    )
    scores = {}
    for name in study.scorers:
        llr = study.llr(name, variants)
        scores |= {name: -llr, f"{name} |llr|": np.abs(llr)}
    dataset = "promoter MPRA SNVs (training contigs)"
    yield from compare(study, dataset, "significant effect vs none", variants, labels, scores)


def information(logs: np.ndarray) -> np.ndarray:
    """2 bits less the entropy of each distribution (N, 4)."""
    import numpy as np

    normalised = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
    return 2 + (np.exp(normalised) * normalised).sum(1) / np.log(2)


def binding_sites(study: Study) -> Iterator[Row]:
    """Is the model surer inside ChIP-exo peaks than 50 bases beside them? Noncoding positions outside repeats only."""
    import numpy as np

    folder = YEAST_DATA / "chip_exo"
    if missing(folder):
        return
    length = study.length(TEST)
    open_positions = ~study.repeats[TEST][:length]
    for _, intervals in coding_parts(study.genes, TEST).values():
        open_positions[intervals[0][0] : intervals[-1][1]] = False
    width = 2 * BINDING_HALF + 1
    usable = np.convolve(open_positions, np.ones(width), "same") == width
    means = {}
    for name in (MODEL, f"markov-{max(ORDERS)}"):
        bits = information(study.scorers[name](TEST, np.arange(length)))
        means[name] = np.convolve(bits, np.full(width, 1 / width), "same")

    pooled = []
    for bed in sorted(folder.glob("*.bed")):
        fields = (line.split("\t") for line in bed.read_text().splitlines())
        peaks = [int(start) for chrom, start, *_ in fields if chrom == f"chr{ROMAN.index(TEST[3:]) + 1}"]
        triples = np.array(sorted(set(peaks)), int)[:, None] + [0, -BINDING_FLANK, BINDING_FLANK]
        triples = triples[(triples >= 0).all(1) & (triples < length).all(1)]
        triples = triples[usable[triples].all(1)]
        if bed.stem not in GENERAL_FACTORS:
            pooled.append(triples)
        if len(triples) >= FEWEST:
            yield from binding_rows(study, bed.stem, triples, means)
    yield from binding_rows(study, "all but TBP and TFIIB", np.concatenate([np.empty((0, 3), int), *pooled]), means)


def binding_rows(study: Study, factor: str, triples: np.ndarray, means: dict[str, np.ndarray]) -> Iterator[Row]:
    import numpy as np
    import pandas as pd

    windows = pd.DataFrame({"contig": TEST, "at": triples.ravel()})
    labels = np.tile([True, False, False], len(triples))
    scores = {name: values[windows["at"]] for name, values in means.items()}
    yield from compare(study, f"{TEST} ChIP-exo, mean information", f"{factor}: peak vs flank", windows, labels, scores)


def missing(*paths: Path) -> bool:
    """Say so if data are not there."""
    absent = [path for path in paths if not path.exists()]
    for path in absent:
        print(f"skipped: {path.name} is not in ../shared/data/yeast")
    return bool(absent)


def markdown(rows: list[Row]) -> str:
    """One line per comparison, scores side by side; the model's figure with its interval."""
    names = [MODEL, *(f"markov-{order}" for order in ORDERS), RULE]
    lines = [
        f"| data | comparison | metric | n | prevalence | {' | '.join(names)} |",
        f"|---|---|---|---|---|{'---|' * len(names)}",
    ]
    groups: dict[tuple, dict[str, Row]] = {}
    for row in rows:
        name, _, kind = row.score.partition(" ")
        groups.setdefault((row.dataset, row.subset, f"{row.metric} {kind}".strip()), {})[name] = row
    for (dataset, subset, metric), found in groups.items():
        first = next(iter(found.values()))
        cells = [f"{found[name].value:.3f}" if name in found else "" for name in names]
        if MODEL in found:
            cells[0] += f" ({found[MODEL].low:.3f} to {found[MODEL].high:.3f})"
        shown = [dataset, subset, metric.replace("|", "\\|"), f"{first.n:,}", cell(first.prevalence), *cells]
        lines.append(f"| {' | '.join(shown)} |")
    return "\n".join(lines)


def fill_card(card: Path, rows: list[Row]) -> None:
    """Rewrite what stands between `<!-- name -->` and `<!-- /name -->`: accuracy, digest and training."""
    from common import ROOT

    from seqprior.files import sha256, written_whole

    folder = ROOT / "resources" / "models" / MODEL
    weights = folder / "model.safetensors"
    header, *_, last = (line.split("\t") for line in (folder / "training.tsv").read_text().splitlines())
    end = dict(zip(header, map(float, last), strict=True))
    course = (
        f"{end['step']:.0f} steps, {end['epoch']:.2f} epochs, {end['seconds'] / 60:.0f} minutes; {VALIDATION} outside "
        f"repeats: {end['validation_bits']:.4f} bits per base at the end."
    )
    text = card.read_text()
    for name, content in {
        "accuracy": markdown(rows),
        "digest": f"SHA-256 of `model.safetensors`: `{sha256(weights)}`",
        "training": course,
    }.items():
        opening, closing = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = text.partition(opening)
        _, ended, after = rest.partition(closing)
        if not found or not ended:
            raise BadInput(f"{card}: expected the markers {opening} and {closing}; put them back")
        text = f"{before}{opening}\n{content}\n{closing}{after}"
    with written_whole(card) as partial:
        partial.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, help="evaluate the first LIMIT bases of each contig; writes no table")
    parser.add_argument("--sites", type=int, default=20_000, help="simulated sites (default: %(default)s)")
    parser.add_argument("--bootstraps", type=int, default=200, help="resamples per AUROC (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=cores(), help="default: all cores")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/accuracy.tsv without --limit")
    parser.add_argument("--markdown", action="store_true", help="print the model card's table instead")
    parser.add_argument("--card", type=Path, help="model card whose marked places are rewritten")
    args = parser.parse_args()
    if args.limit and args.card:
        parser.error("a model card wants figures of whole contigs; leave out --limit")

    import torch

    torch.set_num_threads(args.threads)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        study = prepare(Path(folder), args.limit or sys.maxsize, args.bootstraps, args.seed)
        rows += bits_per_base(study)
        rows += simulated_substitutions(study, args.sites)
        for part in (natural_variants, promoter_variants, binding_sites):
            rows += part(study)
    if args.markdown:
        print(markdown(rows))
    else:
        print_table(Row._fields, rows)
    output = args.output or (None if args.limit else RESULTS / "accuracy.tsv")
    if output:
        write_table(output, Row._fields, rows)
    if args.card:
        fill_card(args.card, rows)


if __name__ == "__main__":
    run_script(main)
