"""Saturation of regions: what the scores of all changes say, as a table, as tracks and on a page of heat maps.

The changes are those of `region_alleles`. A deletion may stand for several runs of bases; in tracks and on the page its
score counts for each base that one of those runs removes.
"""

from __future__ import annotations

import csv
import logging
import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqprior.columns import ALLELE, Status
from seqprior.errors import BadInput
from seqprior.files import written_whole
from seqprior.region_alleles import Region, repeats_to_right, stretches
from seqprior.sequence import BASES, encode
from seqprior.variants import ReferenceSequence

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

BLOCK = 16_384  # rows that are written at a time
DETAILED = 2_000  # bases of the longest region whose cells the page draws; a longer one has a profile of its worst
PAGE_BASES = 40_000  # of the regions whose cells the page draws, all together; 14 bytes each and model
PAGE_REGIONS = 100  # that the page draws; the table has all
BINS = 1_000  # most values in the profile of a long region; 3 bytes each and model
EVIDENCE = ("llr", "llr_calibrated", "entropy", "embedding_l2")
LEAD = ("chrom", "pos", "ref", "alt", "gene", "consequence")
TAIL = ("status", "reason", "region")
STYLES = ("report.css", "panels.css", "region_saturation.css")
SCRIPTS = ("marks.js", "region_saturation.js")


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
