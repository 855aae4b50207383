"""Saturation of regions: every substitution and every short deletion, as alleles to score, and what their scores say.

The listing has the columns and the order of `variants.normalise_variants`, so that the stages after it run on it as on
a cohort. A deletion is written in its left-aligned form, once, however many runs of bases it may stand for; in tracks
and on the page its score counts for each base that one of those runs removes.
"""

from __future__ import annotations

import csv
import heapq
import logging
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqprior.columns import ALLELE, VARIANTS, Reason, Status
from seqprior.contigs import ContigNames
from seqprior.errors import BadInput
from seqprior.files import written_whole
from seqprior.sequence import BASES, UNKNOWN, encode
from seqprior.variants import FileSummary, ReferenceSequence, left_align, table_schemas

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

BLOCK = 16_384  # bases that are listed, and rows that are written, at a time
DETAILED = 2_000  # bases of the longest region whose cells the page draws; a longer one has a profile of its worst
PAGE_BASES = 40_000  # of the regions whose cells the page draws, all together; 14 bytes each and model
PAGE_REGIONS = 100  # that the page draws; the table has all
BINS = 1_000  # most values in the profile of a long region; 3 bytes each and model
EVIDENCE = ("llr", "llr_calibrated", "entropy", "embedding_l2")
LEAD = ("chrom", "pos", "ref", "alt", "gene", "consequence")
TAIL = ("status", "reason", "region")
STYLES = ("report.css", "panels.css", "region_saturation.css")
SCRIPTS = ("marks.js", "region_saturation.js")


@dataclass(frozen=True)
class Region:
    """One line of the BED file, cut at the contig's ends. 0-based half-open."""

    name: str
    chrom: str
    start: int
    end: int
    line: int


# --- which alleles ---


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


# --- what the scores say ---


class _Stream:
    """Rows of a Parquet file, so many at a time."""

    def __init__(self, path: Path, columns: Sequence[str], stack: ExitStack) -> None:
        import pyarrow.parquet as pq

        self._batches = stack.enter_context(pq.ParquetFile(path)).iter_batches(columns=[*columns], batch_size=BLOCK)
        self._rest: pd.DataFrame | None = None

    def buffered(self, count: int) -> pd.DataFrame:
        """At least the next `count` rows, or all that are left. They stay until `drop`."""
        import pandas as pd

        while self._rest is None or len(self._rest) < count:
            batch = next(self._batches, None)
            if batch is None:
                return pd.DataFrame() if self._rest is None else self._rest
            frame = batch.to_pandas()
            self._rest = frame if self._rest is None else pd.concat([self._rest, frame], ignore_index=True)
        return self._rest

    def drop(self, count: int) -> None:
        if self._rest is not None:
            self._rest = self._rest.iloc[count:].reset_index(drop=True)

    def take(self, count: int) -> pd.DataFrame:
        """The next `count` rows, or what is left."""
        taken = self.buffered(count).iloc[:count]
        self.drop(count)
        return taken


def scored_blocks(
    variants: Path, scores: Mapping[str, Path], consequences: Path | None
) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Blocks of the listed alleles and of the table's rows, in the order of `variants`.

    An allele is scored if a model scored it; else the first model's reason stands.

    Raises:
        AssertionError: scores do not hold exactly the alleles of `variants`, or consequences not in their order.
    """
    with ExitStack() as stack:
        alleles = _Stream(variants, [*ALLELE, "reason", "input_id"], stack)
        models = {
            model: _Stream(path, ["variant_id", *EVIDENCE, "status", "reason"], stack) for model, path in scores.items()
        }
        effects = None if consequences is None else _Stream(consequences, ["variant_id", "gene", "consequence"], stack)
        while len(frame := alleles.take(BLOCK)):
            frame = frame.reset_index(drop=True)
            table = frame[[*ALLELE[1:]]].copy()
            table["gene"], table["consequence"] = _effects(frame["variant_id"], effects)
            scored = np.zeros(len(frame), bool)
            reason = frame["reason"].fillna("").to_numpy(object)
            for model, stream in models.items():
                found = stream.take(len(frame)).reset_index(drop=True)
                if found["variant_id"].tolist() != frame["variant_id"].tolist():
                    raise AssertionError(f"the scores of {model} do not follow the alleles of {variants}")
                for name in EVIDENCE:
                    table[f"{name}.{model}"] = found[name].to_numpy(float)
                scored |= (found["status"] == Status.SCORED).to_numpy()
                reason = np.where(reason == "", found["reason"].to_numpy(object), reason)
            table["status"] = np.where(scored, str(Status.SCORED), str(Status.SKIPPED))
            table["reason"] = np.where(scored, "", reason)
            table["region"] = frame["input_id"]
            order = [f"{name}.{model}" for name in EVIDENCE for model in models]
            yield frame, table[[*LEAD, *order, *TAIL]]
        for model, stream in models.items():
            if len(stream.take(1)):
                raise AssertionError(f"the scores of {model} hold more alleles than {variants}")
        if effects is not None and len(effects.take(1)):
            raise AssertionError(f"{consequences} does not follow the alleles of {variants}")


def _effects(identifiers: pd.Series, effects: _Stream | None) -> tuple[Any, Any]:
    """Gene and consequence of some alleles; nothing for those without a row, which are in the same order."""
    if effects is None:
        return "", ""
    known = effects.buffered(len(identifiers))
    if known.empty:
        return "", ""
    found = known[known["variant_id"].isin(set(identifiers))].set_index("variant_id")
    effects.drop(len(found))
    joined = found.reindex(identifiers)
    return tuple(joined[name].fillna("").to_numpy(object) for name in ("gene", "consequence"))


class WorstTrack:
    """The lowest LLR of each position, by model, on its way into bigWig files.

    Args:
        files: one for each model. contigs: names and lengths, in the reference's order.
    """

    def __init__(self, files: Sequence[Path], contigs: Sequence[tuple[str, int]]) -> None:
        import pyBigWig

        self._files = [pyBigWig.open(str(path), "w") for path in files]
        for file in self._files:
            file.addHeader(list(contigs))
        self._chrom = ""
        self._positions = np.empty(0, np.int64)
        self._values = np.empty((0, len(files)))

    def add(self, chrom: str, positions: np.ndarray, values: np.ndarray, final: int) -> None:
        """Take values (N, models), NaN for none, at positions (N,), 0-based; none before `final` comes after this."""
        if chrom != self._chrom:
            self.flush()
            self._chrom = chrom
        positions = np.concatenate([self._positions, positions])
        values = np.concatenate([self._values, values])
        order = np.argsort(positions, kind="stable")
        positions, values = positions[order], values[order]
        firsts = np.flatnonzero(np.diff(positions, prepend=-1))
        if len(firsts):
            values = np.fmin.reduceat(values, firsts, axis=0)
        positions = positions[firsts]
        cut = int(np.searchsorted(positions, final))
        self._write(positions[:cut], values[:cut])
        self._positions, self._values = positions[cut:], values[cut:]

    def flush(self) -> None:
        """Write what waits."""
        self._write(self._positions, self._values)
        self._positions, self._values = self._positions[:0], self._values[:0]

    def _write(self, positions: np.ndarray, values: np.ndarray) -> None:
        for file, column in zip(self._files, values.T, strict=True):
            known = np.isfinite(column)
            if known.any():
                file.addEntries(self._chrom, positions[known].tolist(), values=column[known].tolist(), span=1)

    def close(self) -> None:
        self.flush()
        for file in self._files:
            file.close()


@dataclass
class Drawing:
    """What the page draws of one region. `step` is the number of bases of one column; 1 where cells are drawn.

    Attributes:
        cells: LLR of each base as alternative (models, columns, 4), for step 1. worst: lowest LLR of the substitutions
        of a column (models, columns). deletions: the same of deletions. lowest: of each model the lowest LLR with its
        allele.
    """

    region: Region
    step: int
    cells: np.ndarray | None
    worst: np.ndarray
    deletions: np.ndarray
    lowest: list[tuple[float, str]]

    def substitutions(self, positions: np.ndarray, alt: np.ndarray, llr: np.ndarray, names: Sequence[str]) -> None:
        """Take some alleles: positions (N,), codes of the alternatives (N,), LLR (N, models), names for people."""
        columns = (positions - self.region.start) // self.step
        if self.cells is not None:
            self.cells[:, columns, alt] = llr.T
        self._lower(self.worst, columns, llr)
        for model in range(llr.shape[1]):
            if np.isfinite(llr[:, model]).any():
                place = int(np.nanargmin(llr[:, model]))
                if llr[place, model] < self.lowest[model][0]:
                    self.lowest[model] = (float(llr[place, model]), names[place])

    def deleted(self, positions: np.ndarray, llr: np.ndarray) -> None:
        self._lower(self.deletions, (positions - self.region.start) // self.step, llr)

    @staticmethod
    def _lower(target: np.ndarray, columns: np.ndarray, llr: np.ndarray) -> None:
        for own, values in zip(target, llr.T, strict=True):
            np.fmin.at(own, columns, values)


def drawings(regions: Sequence[Region], models: int) -> list[Drawing]:
    """Empty drawings of the first regions: cells of the short ones as long as there is room, profiles of the others."""
    found, room = [], PAGE_BASES
    for region in regions[:PAGE_REGIONS]:
        length = region.end - region.start
        detailed = length <= min(DETAILED, room)
        room -= length if detailed else 0
        step = 1 if detailed else -(-length // BINS)
        columns = -(-length // step)
        cells = np.full((models, columns, 4), np.nan, np.float32) if detailed else None
        empty = [np.full((models, columns), np.nan, np.float32) for _ in range(2)]
        found.append(Drawing(region, step, cells, *empty, [(np.inf, "")] * models))
    return found


@dataclass
class _Deleted:
    """Which bases the deletions of one contig may remove, within the regions."""

    codes: np.ndarray
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def bases(self, pos: int, ref: str, alt: str) -> list[tuple[int, int]]:
        """Ranges [first, last) of what any of the equal deletions inside a stretch of regions removes."""
        length = len(ref) - 1
        start = 0 if pos == 1 and ref[-1] == alt else pos
        end = start + length + repeats_to_right(self.codes, start, length, len(self.codes))
        found = []
        for number in range(max(bisect_right(self.starts, start) - 1, 0), len(self.starts)):
            if self.starts[number] >= end:
                break
            low, high = max(self.starts[number], start), min(self.ends[number], end)
            if high - low >= length:
                found.append((low, high))
        return found


def write_region_saturation(
    variants: Path,
    regions: Sequence[Region],
    scores: Mapping[str, Path],
    consequences: Path | None,
    fasta: Path,
    contigs: Sequence[tuple[str, int]],
    table: Path,
    tracks: Sequence[Path],
    deletion_tracks: Sequence[Path],
) -> tuple[list[Drawing], int]:
    """Write the table of all changes and the tracks of the worst case, block by block.

    Args:
        variants: as `list_saturation` wrote it, with its `regions`. scores: tables of `columns.SCORES` by model.
        consequences: a table of `columns.CONSEQUENCES`, or None. fasta: the prepared reference.
        contigs: names and lengths, in the reference's order.
        tracks: a bigWig of each model, in the order of `scores`. deletion_tracks: likewise, or empty for none.

    Returns:
        What the page draws, and the number of rows.
    """
    drawn = drawings(regions, len(scores))
    reference, deleted, current = ReferenceSequence(fasta), _Deleted(np.empty(0, np.uint8)), ""
    rows = 0
    with ExitStack() as stack:
        partial = stack.enter_context(written_whole(table))
        handle = stack.enter_context(partial.open("w", encoding="utf-8", newline=""))
        kinds = [
            WorstTrack([stack.enter_context(written_whole(path)) for path in paths], contigs) if paths else None
            for paths in (tracks, deletion_tracks)
        ]
        for frame, block in scored_blocks(variants, scores, consequences):
            block.to_csv(
                handle,
                sep="\t",
                index=False,
                header=rows == 0,
                float_format="%.6g",
                lineterminator="\n",
                quoting=csv.QUOTE_MINIMAL,
            )
            rows += len(block)
            llr = block[[f"llr.{model}" for model in scores]].to_numpy(float)
            for chrom, own in frame.groupby("chrom", sort=False):
                if chrom != current:
                    current = chrom
                    merged = list(stretches(region for region in regions if region.chrom == chrom))
                    deleted = _Deleted(
                        encode(reference.contig(chrom)),
                        [pieces[0][0] for pieces in merged],
                        [pieces[-1][1] for pieces in merged],
                    )
                _add(chrom, own, llr[own.index], deleted, kinds, [d for d in drawn if d.region.chrom == chrom])
        if rows == 0:
            raise BadInput(f"{variants}: found no allele; the regions hold no known base; correct the BED file")
        for track in filter(None, kinds):
            track.close()
    return drawn, rows


def _add(
    chrom: str,
    alleles: pd.DataFrame,
    llr: np.ndarray,
    deleted: _Deleted,
    tracks: Sequence[WorstTrack | None],
    drawn: Sequence[Drawing],
) -> None:
    """Put the scores (N, models) of some alleles of one contig, in order, where they belong."""
    start = alleles["pos"].to_numpy(np.int64) - 1
    ref, alt = alleles["ref"].to_numpy(object), alleles["alt"].to_numpy(object)
    single = np.array([len(letters) == 1 for letters in ref])
    positions, values = start[single], llr[single]
    letters = encode("".join(alt[single]))
    names = [f"{p + 1} {r}>{a}" for p, r, a in zip(positions, ref[single], alt[single], strict=True)]
    final = int(start[-1])
    if tracks[0] is not None:
        tracks[0].add(chrom, positions, values, final)
    for drawing in drawn:
        low, high = np.searchsorted(positions, [drawing.region.start, drawing.region.end])
        if low < high:
            drawing.substitutions(positions[low:high], letters[low:high], values[low:high], names[low:high])
    spread, owners = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for row in np.flatnonzero(~single):
        for low, high in deleted.bases(int(start[row]) + 1, ref[row], alt[row]):
            spread.append(np.arange(low, high))
            owners.append(np.full(high - low, row))
    bases, values = np.concatenate(spread), llr[np.concatenate(owners)]
    if tracks[1] is not None:
        tracks[1].add(chrom, bases, values, final)
    for drawing in drawn:
        inside = (bases >= drawing.region.start) & (bases < drawing.region.end)
        if inside.any():
            drawing.deleted(bases[inside], values[inside])


# --- the page ---


def page_data(drawn: Sequence[Drawing], models: Sequence[str], fasta: Path) -> dict[str, Any]:
    """What the page draws.

    Returns:
        letters, scale, missing: of the packed LLRs, as in `saturation.packed`. models: their names. regions: each with
        name, chrom, start (0-based), length, step, and by model `cells` (of step 1), `worst`, `deletions` (empty if
        there is none).
    """
    import pysam

    from seqprior.saturation import NO_SCORE, SCALE, packed

    regions = []
    with pysam.FastaFile(str(fasta)) as reference:
        for drawing in drawn:
            own = drawing.region
            detailed = drawing.cells is not None
            none = np.isnan(drawing.deletions).all()
            regions.append(
                {
                    "name": own.name,
                    "chrom": own.chrom,
                    "start": own.start,
                    "length": own.end - own.start,
                    "step": drawing.step,
                    "sequence": reference.fetch(own.chrom, own.start, own.end).upper() if detailed else "",
                    "cells": [packed(values) for values in drawing.cells] if detailed else [],
                    "worst": [] if detailed else [packed(values) for values in drawing.worst],
                    "deletions": [] if none else [packed(values) for values in drawing.deletions],
                }
            )
    return {"letters": BASES, "scale": SCALE, "missing": NO_SCORE, "models": list(models), "regions": regions}


def write_page(
    drawn: Sequence[Drawing],
    models: Sequence[str],
    fasta: Path,
    regions: int,
    table: Path,
    output: Path,
    template_dir: Path,
    cohort: str = "",
) -> None:
    """Write the page: one self-contained HTML file that loads nothing.

    Its size is bounded: it draws at most `PAGE_REGIONS` regions, cells of at most `PAGE_BASES` bases, and at most
    `BINS` values of each other region.

    Args:
        regions: how many there are in all. table: the table of all changes, which the page names.
        template_dir: folder of region_saturation.html.j2 and its assets. cohort: shown as the title.
    """
    from seqprior.report import environment, inlined, policy_of

    style, style_source = inlined(*(template_dir / name for name in STYLES))
    script, script_source = inlined(*(template_dir / name for name in SCRIPTS))
    rows = []
    for drawing in drawn:
        best = [
            {"model": model, "llr": llr, "change": change} if change else {"model": model, "llr": None, "change": ""}
            for model, (llr, change) in zip(models, drawing.lowest, strict=True)
        ]
        rows.append({"region": drawing.region, "step": drawing.step, "lowest": best})
    text = (
        environment(template_dir)
        .get_template("region_saturation.html.j2")
        .render(
            cohort=cohort,
            data=page_data(drawn, models, fasta),
            rows=rows,
            regions=regions,
            models=models,
            table=os.path.relpath(table, output.parent),
            style=style,
            script=script,
            policy=policy_of(style_source, script_source),
        )
    )
    with written_whole(output) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")
