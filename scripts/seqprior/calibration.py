"""What the model thinks of changes that should not matter: the zero point and the spread of its scores.

Mutability and base composition move a language model's LLR whatever a change does. Every possible substitution in
random blocks of the reference, and random short insertions, deletions and double substitutions there, are scored like
any other allele; those of neutral consequence give, for each substitution in its pentanucleotide, the mean LLR that
is subtracted. Contexts seen rarely lean on the mean of their trinucleotide, and that on the overall mean. A kind of
allele that the background lacks has neither zero point nor spread.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
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
    """Substitution of one base, insertion, deletion, or several bases replaced.

    The anchor of a normalised insertion or deletion is its first base, or its last one at a contig's start.
    """
    before, after = ref.str.len(), alt.str.len()
    kind = pd.Series(MULTIPLE, ref.index, dtype=object)
    kind[(before == 1) & (after == 1)] = SUBSTITUTION
    kind[(before == 1) & (after > 1) & ((ref == alt.str[:1]) | (ref == alt.str[-1:]))] = INSERTION
    kind[(before > 1) & (after == 1) & ((alt == ref.str[:1]) | (alt == ref.str[-1:]))] = DELETION
    return kind


def draw_blocks(fasta: Path, blocks: int, length: int, seed: int) -> list[tuple[str, int]]:
    """Up to `blocks` random blocks without unknown bases: (contig, 0-based start), sorted in reference order.

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
            start, ref, alt = short_allele(sequence, block, length, rng)
            if set(ref) <= set(BASES):  # left-aligning through a repeat may end at an unknown base
                alleles[name, start, ref, alt] = None
    order = {name: number for number, name in enumerate(dict.fromkeys(name for name, _ in chosen))}
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
        context = ("N" * (2 - start) + sequence[max(start - 2, 0) : start + 3]).ljust(5, "N")
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
        """Standard deviation of the calibrated LLR of neutral alleles of each allele's kind; NaN if there is none."""
        by_kind = self.kinds.set_index("kind")["sd"]
        return allele_kind(frame["ref"], frame["alt"]).map(by_kind.where(by_kind > 0)).to_numpy(float)


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
    """Mean LLR of all 1,536 substitutions in context, each leaning on its trinucleotide's.

    Args:
        contexts, alternates: as `substitution_contexts` gives them. llr: one value each.

    Returns:
        context, alt, mean, count. Without any observation all means are NaN.
    """
    observed = pd.DataFrame({"context": contexts, "alt": alternates, "llr": llr}, dtype=object).astype({"llr": float})
    every = map("".join, product(BASES, BASES, "AC", BASES, BASES))
    table = pd.DataFrame([(context, alt) for context in every for alt in BASES.replace(context[2], "")])
    table.columns = ["context", "alt"]

    def seen(keys: list, wanted: list) -> pd.DataFrame:
        return observed.groupby(keys)["llr"].agg(["sum", "count"]).reindex(wanted, fill_value=0).reset_index(drop=True)

    core = [context[1:4] for context in contexts]
    wide = seen([core, "alt"], list(zip(table["context"].str[1:4], table["alt"], strict=True)))
    narrow = seen(["context", "alt"], list(table.itertuples(index=False, name=None)))
    prior = (wide["sum"] + SHRINKAGE * observed["llr"].mean()) / (wide["count"] + SHRINKAGE)
    table["mean"] = (narrow["sum"] + SHRINKAGE * prior) / (narrow["count"] + SHRINKAGE)
    table["count"] = narrow["count"]
    return table


def write_calibration(calibration: Calibration, model: str, neutral: list[str], folder: Path) -> None:
    """`contexts.tsv`, `kinds.tsv` and, for the report, `calibration.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in (("contexts", calibration.table), ("kinds", calibration.kinds)):
        with written_whole(folder / f"{name}.tsv") as partial:
            table.to_csv(partial, sep="\t", index=False)
    kinds = calibration.kinds.set_index("kind")
    spread = kinds["sd"].get(SUBSTITUTION, np.nan)
    summary = {
        "definition": ", ".join(neutral),
        "neutral_alleles": int(kinds["count"].sum()),
        "neutral_substitutions": int(kinds["count"].get(SUBSTITUTION, 0)),
        "sd": None if np.isnan(spread) else float(spread),
    }
    with written_whole(folder / "calibration.json") as partial:
        partial.write_text(json.dumps({model: summary}, indent=2) + "\n")


def read_calibration(folder: Path) -> Calibration:
    """What `write_calibration` wrote."""
    return Calibration(*(pd.read_csv(folder / f"{name}.tsv", sep="\t") for name in ("contexts", "kinds")))
