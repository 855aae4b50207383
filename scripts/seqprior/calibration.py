"""What the model thinks of changes that should not matter: the zero point and the spread of its scores.

Mutability and base composition move a language model's LLR whatever a change does. Every possible substitution in
random blocks of the reference, and random short insertions, deletions and double substitutions there, are scored like
any other allele; those of neutral consequence give, for each substitution in its pentanucleotide, the mean LLR that
is subtracted. Contexts seen rarely lean on the mean of their trinucleotide, and that on the overall mean.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from seqprior.columns import Status
from seqprior.errors import BadInput
from seqprior.files import written_whole
from seqprior.sequence import BASES
from seqprior.sequence import reverse_complement as other_strand
from seqprior.variants import ReferenceSequence, left_align, table_schemas

SUBSTITUTION, INSERTION, DELETION, MULTIPLE = "substitution", "insertion", "deletion", "multiple"
SHRINKAGE = 10.0  # pseudo-observations of the wider context
MAX_INDEL = 10


def allele_kind(ref: pd.Series, alt: pd.Series) -> pd.Series:
    """Substitution of one base, insertion, deletion, or several bases replaced."""
    before, after = ref.str.len(), alt.str.len()
    kind = pd.Series(MULTIPLE, ref.index, dtype=object)
    kind[(before == 1) & (after == 1)] = SUBSTITUTION
    kind[(before == 1) & (after > 1) & (ref == alt.str[:1])] = INSERTION
    kind[(before > 1) & (after == 1) & (alt == ref.str[:1])] = DELETION
    return kind


def draw_blocks(fasta: Path, blocks: int, length: int, seed: int) -> list[tuple[str, int]]:
    """Random blocks without unknown bases: (contig, 0-based start), sorted in reference order.

    Raises:
        BadInput: the reference has too little known sequence for a block.
    """
    import pysam

    with pysam.FastaFile(str(fasta)) as handle:
        names, lengths = handle.references, np.array(handle.lengths)
    room = np.maximum(lengths - length - 4, 0)
    if room.sum() == 0:
        raise BadInput(f"{fasta}: no contig is longer than calibration.block_length {length}; lower it")
    rng = np.random.default_rng(seed)
    reference = ReferenceSequence(fasta)
    tries = sorted(
        (int(contig), int(rng.integers(2, room[contig] + 2)))
        for contig in rng.choice(len(names), size=4 * blocks, p=room / room.sum())
    )
    usable = [
        (names[contig], start)
        for contig, start in tries
        if set(reference.contig(names[contig])[start - 2 : start + length + 2]) <= set(BASES)
    ]
    if not usable:
        raise BadInput(f"{fasta}: found no block of {length} known bases; lower calibration.block_length")
    kept = sorted(rng.permutation(len(usable))[:blocks])
    return [usable[index] for index in kept]


def background_alleles(
    fasta: Path, blocks: int, length: int, others: int, seed: int
) -> list[tuple[str, int, str, str]]:
    """Every substitution of the blocks and `others` short alleles of each further kind: (chrom, start, ref, alt)."""
    chosen = draw_blocks(fasta, blocks, length, seed)
    reference = ReferenceSequence(fasta)
    rng = np.random.default_rng((seed, 1))
    alleles: dict[tuple[str, int, str, str], None] = {}
    covered: dict[str, int] = {}
    extras = np.bincount(rng.integers(len(chosen), size=3 * others), minlength=len(chosen))
    for (name, block), extra in zip(chosen, extras, strict=True):
        sequence = reference.contig(name)
        for start in range(max(block, covered.get(name, 0)), block + length):
            for alt in BASES.replace(sequence[start], ""):
                alleles[name, start, sequence[start], alt] = None
        covered[name] = block + length
        for _ in range(extra):
            alleles[name, *short_allele(sequence, block, length, rng)] = None
    order = {name: index for index, (name, _) in enumerate(dict.fromkeys((name, 0) for name, _ in chosen))}
    return sorted(alleles, key=lambda allele: (order[allele[0]], *allele[1:]))


def short_allele(sequence: str, block: int, length: int, rng: np.random.Generator) -> tuple[int, str, str]:
    """A random insertion, deletion or double substitution in a block, normalised: start, ref, alt."""
    kind = rng.integers(3)
    start = int(rng.integers(block, block + length - MAX_INDEL - 1))
    size = int(rng.integers(1, MAX_INDEL + 1))
    if kind == 0:
        inserted = "".join(rng.choice(list(BASES), size))
        return left_align(sequence, start, sequence[start], sequence[start] + inserted)
    if kind == 1:
        return left_align(sequence, start, sequence[start : start + size + 1], sequence[start])
    ref = sequence[start : start + 2]
    return start, ref, "".join(str(rng.choice(list(BASES.replace(base, "")))) for base in ref)


def background_table(alleles: list[tuple[str, int, str, str]]) -> pd.DataFrame:
    """The background as rows of `columns.VARIANTS`."""
    frame = pd.DataFrame(alleles, columns=["chrom", "start", "ref", "alt"])
    pos = frame["start"] + 1
    schema, _ = table_schemas()
    table = pd.DataFrame(dict.fromkeys(schema.names, ""), index=frame.index)
    for name in ("chrom", "ref", "alt"):
        table[name] = table[f"input_{name}"] = frame[name]
    table["pos"] = table["input_pos"] = pos
    table["input_line"], table["input_count"] = np.arange(1, len(frame) + 1), 1
    table["status"] = str(Status.SCORED)
    table["variant_id"] = frame["chrom"] + "-" + pos.astype(str) + "-" + frame["ref"] + "-" + frame["alt"]
    return table


def substitution_contexts(frame: pd.DataFrame, fasta: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pentanucleotide and alternate base of each single-base substitution, as read from the strand with A or C.

    Args:
        frame: chrom, pos (1-based), ref, alt of substitutions.

    Returns:
        contexts, alternates: object arrays (N,). A context over a contig's end or an unknown base holds N.
    """
    reference = ReferenceSequence(fasta)
    contexts, alternates = [], []
    for chrom, pos, alt in frame[["chrom", "pos", "alt"]].itertuples(index=False, name=None):
        sequence = reference.contig(chrom)
        start = int(pos) - 1
        context = (
            sequence[max(start - 2, 0) : start + 3].rjust(5, "N") if start < 2 else sequence[start - 2 : start + 3]
        )
        context = context.ljust(5, "N")
        if context[2] in "GT":
            context, alt = other_strand(context), other_strand(alt)
        contexts.append(context)
        alternates.append(alt)
    return np.array(contexts, dtype=object), np.array(alternates, dtype=object)


@dataclass
class Calibration:
    """Mean LLR of neutral alleles by kind and context, and the spread that remains.

    `table` has kind, context, alt, mean, count; `kinds` has kind, mean, sd, count.
    """

    table: pd.DataFrame
    kinds: pd.DataFrame

    def expected(self, frame: pd.DataFrame, fasta: Path) -> np.ndarray:
        """Mean LLR of neutral alleles like each of `frame`'s (chrom, pos, ref, alt); NaN where none was seen."""
        kind = allele_kind(frame["ref"], frame["alt"])
        by_kind = self.kinds.set_index("kind")["mean"]
        expected = kind.map(by_kind).to_numpy(float, copy=True)
        single = np.flatnonzero(kind == SUBSTITUTION)
        contexts, alternates = substitution_contexts(frame.iloc[single], fasta)
        means = {
            (context, alt): mean for context, alt, mean in self.table[["context", "alt", "mean"]].itertuples(False)
        }
        fallback = by_kind.get(SUBSTITUTION, np.nan)
        expected[single] = [means.get(key, fallback) for key in zip(contexts, alternates, strict=True)]
        return expected

    def spread(self, frame: pd.DataFrame) -> np.ndarray:
        """Standard deviation of the calibrated LLR of neutral alleles of each allele's kind."""
        return allele_kind(frame["ref"], frame["alt"]).map(self.kinds.set_index("kind")["sd"]).to_numpy(float)


def calibrate(scores: pd.DataFrame, consequences: pd.DataFrame, neutral: list[str], fasta: Path) -> Calibration:
    """Fit a calibration to the scored background.

    Args:
        scores: `columns.SCORES` of the background. consequences: `columns.CONSEQUENCES` of it.
        neutral: consequence terms that count as neutral.

    Raises:
        BadInput: no background allele is of a neutral consequence.
    """
    joined = scores.merge(consequences[["variant_id", "consequence"]], on="variant_id", validate="one_to_one")
    joined = joined[joined["consequence"].isin(neutral) & joined["llr"].notna()].reset_index(drop=True)
    if joined.empty:
        raise BadInput(
            f"no background allele has one of the consequences in calibration.neutral ({', '.join(neutral)}); "
            "add terms or raise calibration.blocks"
        )
    kind = allele_kind(joined["ref"], joined["alt"])
    single = joined[kind == SUBSTITUTION]
    contexts, alternates = substitution_contexts(single, fasta)
    table = shrunken_means(contexts, alternates, single["llr"].to_numpy())
    overall = joined.groupby(kind)["llr"].agg(["mean", "count"])
    first = Calibration(table, overall.assign(sd=np.nan).rename_axis("kind").reset_index())
    residual = joined["llr"] - first.expected(joined, fasta)
    overall["sd"] = residual.groupby(kind).std(ddof=1)
    return Calibration(table, overall.rename_axis("kind").reset_index())


def shrunken_means(contexts: np.ndarray, alternates: np.ndarray, llr: np.ndarray) -> pd.DataFrame:
    """Mean LLR of all 1,536 substitutions in context, each leaning on its trinucleotide's: context, alt, mean, count."""
    observed = pd.DataFrame({"context": contexts, "alt": alternates, "llr": llr})
    observed["core"] = observed["context"].str[1:4]
    overall = float(observed["llr"].mean()) if len(observed) else 0.0
    wide = observed.groupby(["core", "alt"])["llr"].agg(["sum", "count"])
    narrow = observed.groupby(["context", "alt"])["llr"].agg(["sum", "count"])
    rows = []
    for context in map("".join, np.array(np.meshgrid(*[list(BASES)] * 5)).reshape(5, -1).T):
        if context[2] in "GT":
            continue
        for alt in BASES.replace(context[2], ""):
            core_sum, core_count = wide.loc[(context[1:4], alt)] if (context[1:4], alt) in wide.index else (0.0, 0)
            prior = (core_sum + SHRINKAGE * overall) / (core_count + SHRINKAGE)
            total, count = narrow.loc[(context, alt)] if (context, alt) in narrow.index else (0.0, 0)
            rows.append((context, alt, (total + SHRINKAGE * prior) / (count + SHRINKAGE), int(count)))
    return pd.DataFrame(rows, columns=["context", "alt", "mean", "count"])


def write_calibration(calibration: Calibration, model: str, neutral: list[str], folder: Path) -> None:
    """`contexts.tsv`, `kinds.tsv` and, for the report, `calibration.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("contexts", calibration.table), ("kinds", calibration.kinds)):
        with written_whole(folder / f"{name}.tsv") as partial:
            table.to_csv(partial, sep="\t", index=False)
    kinds = calibration.kinds.set_index("kind")
    summary = {
        "definition": ", ".join(neutral),
        "neutral_alleles": int(kinds["count"].sum()),
        "neutral_substitutions": int(kinds["count"].get(SUBSTITUTION, 0)),
        "sd": float(kinds["sd"].get(SUBSTITUTION, float("nan"))),
    }
    with written_whole(folder / "calibration.json") as partial:
        partial.write_text(json.dumps({model: summary}, indent=2) + "\n")


def read_calibration(folder: Path) -> Calibration:
    """What `write_calibration` wrote."""
    return Calibration(*(pd.read_csv(folder / f"{name}.tsv", sep="\t") for name in ("contexts", "kinds")))
