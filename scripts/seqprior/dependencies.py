"""Nucleotide-dependency maps: how far what a model expects at one position moves when another is changed.

The effect of position i on position j is the largest change, over the three other bases at i and the four bases at j,
of the log odds of a base at j (Tomaz da Silva et al. 2025, doi:10.1038/s41588-025-02347-3; in natural logarithms here,
in bits there). Whole windows are read, nothing is masked: exact for seqprior's own network, whose answer at j never
depends on the base at j. The log odds are those of both strands' mean logits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seqprior.columns import DEPENDENCIES
from seqprior.contigs import ContigNames
from seqprior.errors import BadInput
from seqprior.files import written_whole
from seqprior.information import MarginalReader, Stretch
from seqprior.mutagenesis import substituted, substitutions
from seqprior.regions import read_regions
from seqprior.sequence import BASES, encode
from seqprior.windows import padded

if TYPE_CHECKING:
    from seqprior.models import ModelFacts

log = logging.getLogger(__name__)

LONGEST = 1000  # bases of a region; the cost grows with the square, and a region is a table of as many rows


@dataclass(frozen=True, slots=True)
class Target:
    """A region, text[first:last]; the rest of the text is what the model may see. `start` is 0-based."""

    name: str
    chrom: str
    start: int
    text: str
    first: int
    last: int


def read_targets(bed: Path, fasta: Path, names: ContigNames, facts: ModelFacts) -> Iterator[Target]:
    """The regions of a BED file with their bases; what lies beyond a contig's end is cut off.

    Raises:
        BadInput: a region is longer than `LONGEST` or lies beyond its contig's end.
    """
    import pysam

    context = facts.window // 2 if facts.shares_windows else facts.window
    with pysam.FastaFile(str(fasta)) as reference:
        for row in read_regions(bed, names):
            length = names.contigs[row.chrom].length
            if row.start >= length:
                raise BadInput(
                    f"{bed}, line {row.line}: the region starts at {row.start}, expected a start below {length}, the "
                    f"length of {row.chrom}; correct the line"
                )
            end = min(row.end, length)
            if end - row.start > LONGEST:
                raise BadInput(
                    f"{bed}, line {row.line}: found a region of {end - row.start} bases, expected at most {LONGEST}, "
                    "since every pair of its bases is read; cut it into shorter ones"
                )
            begin = max(row.start - context, 0) // facts.k * facts.k  # k-mers keep the contig's frame
            text = reference.fetch(row.chrom, begin, end + context)
            yield Target(
                row.id, row.chrom, row.start, padded(text.upper(), 0, len(text)), row.start - begin, end - begin
            )


def dependency_map(reader: MarginalReader, target: Target) -> np.ndarray:
    """Effect of changing each position of a region on each other, float32 (W, W): changed, read.

    NaN on the diagonal, where either base is unknown and where the model cannot answer; 0 where the window in which a
    model reads a position does not hold the other.
    """
    width = target.last - target.first
    places, letters = substitutions(encode(target.text[target.first : target.last]))

    def stretches() -> Iterator[Stretch]:
        yield Stretch(target.text, target.first, target.last)
        for place, letter in zip(places.tolist(), letters.tolist(), strict=True):
            changed = substituted(target.text, target.first + place, BASES[letter])
            yield Stretch(changed, target.first, target.last)

    answers = reader.marginals(stretches)
    expected = log_odds(next(answers))
    effects = np.full((width, width), -np.inf, np.float32)
    for place, logs in zip(places.tolist(), answers, strict=True):
        effects[place] = np.maximum(effects[place], np.abs(log_odds(logs) - expected).max(1))
    effects[np.isinf(effects)] = np.nan
    np.fill_diagonal(effects, np.nan)
    return effects


def log_odds(logs: np.ndarray) -> np.ndarray:
    """Log odds of each base, float64 (L, 4), of both strands' mean logits, from log p (L, 2, 4); both are natural."""
    logits = logs.astype(np.float64).mean(1)
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        others = [np.logaddexp.reduce(np.delete(logits, base, 1), axis=1) for base in range(4)]
    return logits - np.stack(others, 1)


def write_maps(reader: MarginalReader, targets: Iterable[Target], output: Path) -> int:
    """A table of `DEPENDENCIES`: each pair of positions with an effect, by region; returns how many regions there are.

    Memory: one region.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = (pa.string(), pa.string(), pa.int64(), pa.int64(), pa.float32())
    schema = pa.schema(list(zip(DEPENDENCIES, kinds, strict=True)))
    count = 0
    with written_whole(output) as partial, pq.ParquetWriter(partial, schema) as writer:
        for target in targets:
            effects = dependency_map(reader, target)
            changed, read = np.nonzero(~np.isnan(effects))
            columns = [[target.name] * len(changed), [target.chrom] * len(changed)]
            columns += [target.start + changed, target.start + read, effects[changed, read]]
            writer.write_table(pa.table(columns, schema=schema))
            log.info("%s: %d pairs of positions", target.name, len(changed))
            count += 1
    return count
