"""All changes of regions, every substitution and every short deletion, as alleles to score.

The listing has the columns and the order of `variants.normalise_variants`, so that the stages after it run on it as on
a cohort. A deletion is written in its left-aligned form, once, however many runs of bases it may stand for.
"""

from __future__ import annotations

import heapq
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from seqprior.columns import VARIANTS, Reason, Status
from seqprior.contigs import ContigNames
from seqprior.errors import BadInput
from seqprior.files import written_whole
from seqprior.sequence import BASES, UNKNOWN, encode
from seqprior.variants import FileSummary, ReferenceSequence, left_align, table_schemas

log = logging.getLogger(__name__)

BLOCK = 16_384  # bases that are listed at a time


@dataclass(frozen=True)
class Region:
    """One line of the BED file, cut at the contig's ends. 0-based half-open."""

    name: str
    chrom: str
    start: int
    end: int
    line: int


def given_regions(bed: Path, names: ContigNames) -> list[Region]:
    """The regions of a BED file, in its order; those of which the contig has nothing are left out and logged.

    Raises:
        BadInput: a line is no region, or no region holds a base of the reference.
    """
    from seqprior.regions import read_regions

    regions = []
    for row in read_regions(bed, names):
        end = min(row.end, names.contigs[row.chrom].length)
        if row.start < end:
            regions.append(Region(row.id, row.chrom, row.start, end, row.line))
        else:
            log.warning("%s, line %d: the region lies beyond the end of %s and is left out", bed, row.line, row.chrom)
    if not regions:
        raise BadInput(f"{bed}: every region lies beyond the end of its contig; use a BED file of this reference")
    return regions


def stretches(regions: Iterable[Region]) -> Iterator[list[tuple[int, int, Region]]]:
    """Regions of one contig, merged where they overlap or touch, in order.

    Each merged stretch is a list of pieces [start, end), with the region, the first in the file, that holds them.
    """
    by_start = sorted(regions, key=lambda region: (region.start, region.line))
    active: list[tuple[int, int]] = []
    pieces: list[tuple[int, int, Region]] = []
    following = 0
    for left, right in pairwise(sorted({edge for region in by_start for edge in (region.start, region.end)})):
        while following < len(by_start) and by_start[following].start <= left:
            heapq.heappush(active, (by_start[following].line, following))
            following += 1
        while active and by_start[active[0][1]].end <= left:
            heapq.heappop(active)
        if not active:
            yield pieces
            pieces = []
            continue
        region = by_start[active[0][1]]
        if pieces and pieces[-1][2] is region:
            pieces[-1] = (pieces[-1][0], right, region)
        else:
            pieces.append((left, right, region))
    if pieces:
        yield pieces


def repeats_to_right(codes: np.ndarray, start: int, length: int, limit: int) -> int:
    """How many steps a deletion of `length` bases at `start` can be moved right, ending at `limit`, and stay equal."""
    steps = 0
    while start + length + steps < limit and codes[start + steps] == codes[start + length + steps]:
        steps += 1
    return steps


def _leading_deletions(
    sequence: str, codes: np.ndarray, merged: Sequence[list[tuple[int, int, Region]]], deletions: int
) -> dict[tuple[int, int], tuple[tuple[int, str, str], int, Region]]:
    """Deletions of each stretch's first bases, which may move left out of it.

    Returns:
        By first deleted base and length: the left-aligned allele, how many runs inside the stretches it stands for, and
        the first region.
    """
    found: dict[tuple[int, int], tuple[tuple[int, str, str], int, Region]] = {}
    for pieces in merged:
        first, last = pieces[0][0], pieces[-1][1]
        for length in range(1, min(deletions, last - first) + 1):
            if length >= len(sequence) or (codes[first : first + length] == UNKNOWN).any():
                continue
            allele = left_align(sequence, first, sequence[first : first + length], "")
            begins = 0 if allele[0] == 0 and allele[1][-1] == allele[2] else allele[0] + 1
            runs = 1 + repeats_to_right(codes, first, length, last)
            _, before, region = found.get((begins, length), (None, 0, pieces[0][2]))
            found[begins, length] = (allele, before + runs, region)
    return found


def listed_alleles(
    sequence: str, regions: Iterable[Region], deletions: int
) -> Iterator[list[tuple[int, str, str, int, Region]]]:
    """Every substitution of every known base of one contig's regions, and deletions of up to so many bases, sorted.

    Args:
        sequence: of the contig, upper-case.

    Yields:
        Blocks of start (0-based), ref, alt, number of equal changes, and the region that holds the first changed base.
    """
    codes = encode(sequence)
    merged = list(stretches(regions))
    leading = _leading_deletions(sequence, codes, merged, deletions)
    waiting = sorted(leading, key=lambda key: leading[key][0], reverse=True)
    for pieces in merged:
        first, last = pieces[0][0], pieces[-1][1]
        starts = [piece[0] for piece in pieces]
        for left, right, region in pieces:
            for begin in range(left, right, BLOCK):
                end = min(begin + BLOCK, right)
                rows = [
                    (at, sequence[at], alt, 1, region)
                    for at in range(begin, end)
                    if codes[at] != UNKNOWN
                    for alt in BASES
                    if alt != sequence[at]
                ]
                for length in range(1, min(deletions, last - first - 1) + 1):
                    for at, runs in _inner_deletions(codes, begin + 1, min(end, last - length), length, last):
                        runs += leading.pop((at, length), (None, 0))[1]
                        own = pieces[bisect_right(starts, at) - 1][2]
                        rows.append((at - 1, sequence[at - 1 : at + length], sequence[at - 1], runs, own))
                while waiting and (waiting[-1] not in leading or leading[waiting[-1]][0][0] < end):
                    allele, runs, own = leading.pop(waiting.pop(), (None, 0, None))
                    if allele is not None:
                        rows.append((*allele, runs, own))
                rows.sort(key=lambda row: row[:3])
                yield rows


def _inner_deletions(codes: np.ndarray, first: int, last: int, length: int, end: int) -> Iterator[tuple[int, int]]:
    """Left-aligned deletions of known bases that begin in [first, last], and how many equal runs lie before `end`."""
    if first > last:
        return
    at = np.arange(first, last + 1)
    begins = codes[at - 1] != codes[at + length - 1]
    for step in range(length):
        begins &= codes[at + step] != UNKNOWN
    own = at[begins]
    for start in own.tolist():
        yield start, 1 + repeats_to_right(codes, start, length, end)


def list_saturation(bed: Path, fasta: Path, names: ContigNames, output: Path, deletions: int) -> dict[str, Any]:
    """Write `variants.parquet` of every change in the regions of a BED file.

    Memory holds one contig, as in the variants stage, and one block of alleles. Deletions whose base before is unknown
    cannot be written with letters and are skipped, with their reason.

    Args:
        fasta: the prepared reference. deletions: longest deletion, in bases; 0 for none.

    Returns:
        The summary, with the keys of `normalise_variants`, and `regions`, `known_bases` and `unknown_bases`.

    Raises:
        BadInput: the BED file has no region of the reference.
    """
    import pyarrow.parquet as pq

    regions = given_regions(bed, names)
    by_contig: dict[str, list[Region]] = {}
    for region in regions:
        by_contig.setdefault(region.chrom, []).append(region)
    schema = table_schemas()[0]
    reference = ReferenceSequence(fasta)
    counts: Counter = Counter()
    bases = known = 0
    waiting: list[tuple] = []
    with written_whole(output) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for chrom in (name for name in names.contigs if name in by_contig):
            sequence = reference.contig(chrom)
            for pieces in stretches(by_contig[chrom]):
                bases += pieces[-1][1] - pieces[0][0]
                known += sum(map(sequence[pieces[0][0] : pieces[-1][1]].count, BASES))
            for rows in listed_alleles(sequence, by_contig[chrom], deletions):
                for row in rows:
                    reason = Reason.AMBIGUOUS_BASE if encode(row[2])[0] == UNKNOWN else ""
                    status = Status.SKIPPED if reason else Status.SCORED
                    waiting.append((chrom, *row, str(status), str(reason)))
                    counts[str(status), str(reason), "unique"] += 1
                    counts[str(status), str(reason), "input"] += row[3]
                if len(waiting) >= BLOCK:
                    writer.write_table(_variants(waiting, bed, schema))
                    waiting = []
        writer.write_table(_variants(waiting, bed, schema))
    return _summary(bed, regions, counts, bases, known)


def _variants(rows: Sequence[tuple], bed: Path, schema):
    """Rows (chrom, start, ref, alt, count, region, status, reason) as a table of `columns.VARIANTS`."""
    import pyarrow as pa

    chrom, start, ref, alt, count, region, status, reason = zip(*rows, strict=True) if rows else [()] * 8
    pos = [at + 1 for at in start]
    values = (
        [f"{c}-{p}-{r}-{a}" for c, p, r, a in zip(chrom, pos, ref, alt, strict=True)],
        *(chrom, pos, ref, alt, count, status, reason),
        [str(bed)] * len(rows),
        [own.line for own in region],
        *(chrom, pos, ref, alt),
        [own.name for own in region],
        [""] * len(rows),
    )
    columns = dict(zip(VARIANTS, values, strict=True))
    return pa.table([pa.array(columns[entry.name], entry.type) for entry in schema], schema=schema)


def _summary(bed: Path, regions: Sequence[Region], counts: Counter, bases: int, known: int) -> dict[str, Any]:
    outcomes = sorted({key[:2] for key in counts})
    table = [
        {"status": s, "reason": r, "unique": counts[s, r, "unique"], "input": counts[s, r, "input"]}
        for s, r in outcomes
    ]
    total, unique = (sum(row[name] for row in table) for name in ("input", "unique"))
    return {
        "files": [vars(FileSummary(str(bed), 0, records=len(regions), alleles=total))],
        "input_alleles": total,
        "unique_alleles": unique,
        "merged_equivalent": total - unique,
        "ref_alt_swapped": 0,
        "by_status_reason": table,
        "known_bases": known,
        "unknown_bases": bases - known,
        "regions": [
            {"name": r.name, "chrom": r.chrom, "start": r.start, "end": r.end, "line": r.line} for r in regions
        ],
    }
