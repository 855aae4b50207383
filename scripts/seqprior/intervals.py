"""Labelled intervals of one element, all of one width: what its classifier is trained on and judged by.

Intervals come from BED or narrowPeak files. Negatives that nobody gave are drawn from the reference with the positives'
joint distribution of contig, GC content and share of repeats, so that none of these tells the two apart. Folds are
whole contigs, or blocks that lie apart, so that nothing held out has a neighbour in training.

Memory holds the intervals and a block of the reference, whatever the reference's size.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seqprior.columns import INTERVALS
from seqprior.contigs import ContigNames
from seqprior.errors import BadInput
from seqprior.regions import region_lines
from seqprior.repeats import REPEAT_LENGTH, UNKNOWN_KMER, canonical_kmers
from seqprior.sequence import UNKNOWN, encode

if TYPE_CHECKING:
    import pandas as pd
    import pysam

log = logging.getLogger(__name__)

BLOCK = 2**21  # bases of the reference that are held at a time
GAP = 2**16  # bases between two windows from which what lies between is not read
KMER_BLOCK, HASH_BITS = 2**18, 26  # of the reference's k-mers; blocks fit a processor's cache
KMERS_AT_ONCE = 2**23  # k-mers of windows that are counted in one pass over the reference
POOL_BASES = 2**24  # of candidates that are drawn at a time
KMER_GENOME = 300_000_000  # bases; in a larger reference k-mers are not counted
BORDER = 10_000  # bases on either side of a border between two folds of one contig that belong to neither
GC_STEP, REPEAT_STEP = 0.025, 0.25  # width of the bins in which negatives are matched
REACH = 4  # steps of GC content that a negative may lie off; a step of repeats counts as two
ROUNDS, DRAWS, LEAST_DRAWS = 3, 20, 20_000  # rounds of drawing, candidates for each missing negative, least in a round

OUTSIDE, SHORT, AMBIGUOUS = "outside_contig", "contig_too_short", "unknown_bases"
DUPLICATE, OVERLAP, NEAR = "duplicate", "overlaps_positive", "near_border"


@dataclass(frozen=True)
class Choice:
    """How intervals are made of the files; the config's section `regulatory`.

    Attributes:
        window: bases of each interval.
        folds: to hold out in turn.
        ratio: negatives drawn for each positive.
        max_unknown_share: largest share of bases other than A, C, G and T.
        label: in the fourth column, of the positives; if None, every row is one.
    """

    window: int
    folds: int
    ratio: float
    max_unknown_share: float
    seed: int
    label: str | None = None


@dataclass
class Given:
    """Rows of BED files with their windows, in the files' order; arrays (N,).

    `first` and `last` are the row's own, `start` that of its window, all 0-based; `contig` counts the reference's
    contigs. `reason` says why a row is left out, and is empty if it is not.
    """

    contig: np.ndarray
    first: np.ndarray
    last: np.ndarray
    start: np.ndarray
    positive: np.ndarray
    reason: np.ndarray
    name: list[str] = field(default_factory=list)

    def drop(self, which: np.ndarray, reason: str) -> None:
        self.reason[which & (self.reason == "")] = reason


def draw_intervals(
    bed: Path, negatives: Path | None, fasta: Path, names: ContigNames, choice: Choice
) -> tuple[pd.DataFrame, dict]:
    """The intervals of an element and a summary of what became of its files' rows.

    Args:
        bed: BED or narrowPeak of labelled intervals. negatives: BED of more negatives; if there are none, and no row of
            `bed` is one, they are drawn. fasta: prepared reference.

    Returns:
        Columns of `columns.INTERVALS`, sorted by contig in the reference's order and position, 0-based half-open; and
        counts that add up to the files' rows.

    Raises:
        BadInput: a row is no region of the reference, no row has the label, or a fold would lack one of the two labels.
    """
    import pysam

    with pysam.FastaFile(str(fasta)) as sequences:
        return _drawn(bed, read_given(bed, negatives, names, choice), Reference(sequences, list(names.contigs)), choice)


def _drawn(bed: Path, rows: Given, reference: Reference, choice: Choice) -> tuple[pd.DataFrame, dict]:
    import pandas as pd

    gc, repeats = place(rows, reference, choice)
    kept = rows.reason == ""
    if not (kept & rows.positive).any():
        raise BadInput(
            f"{bed}: no interval of the element is left of {int(rows.positive.sum())} "
            f"({_counted(rows.reason[rows.positive])}); check that the file is of this reference, and regulatory.window"
        )
    summary = {"window": choice.window, "rows": _by_label(rows.positive), "drawn": None}
    table = pd.DataFrame({"contig": rows.contig, "start": rows.start, "name": rows.name, "gc": gc, "repeats": repeats})
    table["label"] = rows.positive.astype(np.int8)
    table["source"] = np.where(rows.positive, "positives", "negatives")
    table = table[kept]
    if rows.positive.all():
        drawn, wanted = draw_negatives(table, rows, reference, choice)
        summary["drawn"] = {"wanted": wanted, "found": len(drawn), "missing": wanted - len(drawn)}
        table = pd.concat([table, drawn])
    table = table.sort_values(["contig", "start", "label"], kind="stable", ignore_index=True)
    table["fold"], split = assign_folds(table, choice)
    near = table["fold"].to_numpy() < 0
    dropped = np.concatenate([rows.reason[~kept], np.full(near.sum(), NEAR, dtype=object)])
    labels = np.concatenate([rows.positive[~kept], table["label"][near].to_numpy() == 1])
    table = table[~near]
    _require_both_labels(bed, table, choice)
    summary |= {
        "dropped": {name: dict(sorted(Counter(dropped[labels == value]).items())) for name, value in _LABELS},
        "intervals": _by_label(table["label"].to_numpy() == 1),
        "gc": _means(table, "gc"),
        "repeats": _means(table, "repeats"),
        "repeats_from": reference.repeats_from,
        "split": split,
        "folds": [_fold(table[table["fold"] == fold], reference.contigs) for fold in range(choice.folds)],
    }
    table["chrom"] = [reference.contigs[contig] for contig in table["contig"]]
    table["end"] = table["start"] + choice.window
    return table[list(INTERVALS)].reset_index(drop=True), summary


_LABELS = (("positive", True), ("negative", False))


def _by_label(positive: np.ndarray) -> dict[str, int]:
    return {name: int((positive == value).sum()) for name, value in _LABELS}


def _means(table: pd.DataFrame, column: str) -> dict[str, float] | None:
    if table[column].isna().all():
        return None
    return {name: float(table[column][table["label"] == value].mean()) for name, value in _LABELS}


def _counted(reasons: np.ndarray) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(Counter(reasons.tolist()).items()))


def _fold(table: pd.DataFrame, contigs: Sequence[str]) -> dict:
    return {
        "contigs": [contigs[contig] for contig in sorted(set(table["contig"]))],
        **_by_label(table["label"].to_numpy() == 1),
    }


def _require_both_labels(bed: Path, table: pd.DataFrame, choice: Choice) -> None:
    counts = _by_label(table["label"].to_numpy() == 1)
    for fold in range(choice.folds):
        for name, number in _by_label(table["label"][table["fold"] == fold].to_numpy() == 1).items():
            if not number:
                raise BadInput(
                    f"{bed}: {counts['positive']} positive and {counts['negative']} negative intervals on "
                    f"{table['contig'].nunique()} contigs leave fold {fold + 1} of {choice.folds} without a {name} "
                    "one, expected both labels in each; lower regulatory.folds, or give more intervals"
                )


def read_given(bed: Path, negatives: Path | None, names: ContigNames, choice: Choice) -> Given:
    """All rows of the files, with windows around their summits or middles that lie within the contig.

    A narrowPeak row has ten columns, the last of them the summit's distance from the start, or -1.
    """
    index = {name: number for number, name in enumerate(names.contigs)}
    texts: list[str] = []
    numbers: list[tuple[int, int, int, int, bool]] = []
    labels: set[str] = set()
    for path, may_be_positive in ((bed, True), (negatives, False)) if negatives else ((bed, True),):
        for row, columns in region_lines(path, names):
            label = columns[3].strip() if len(columns) > 3 else ""
            if may_be_positive:
                labels.add(label)
            length = names.contigs[row.chrom].length
            first, last = min(row.start, length), min(row.end, length)
            middle = _summit(columns, row.end - row.start, f"{path}, line {row.line}")
            middle = (first + last) // 2 if middle is None else row.start + middle
            start = max(min(middle - choice.window // 2, length - choice.window), 0)
            positive = may_be_positive and choice.label in (None, label)
            numbers.append((index[row.chrom], first, last, start, positive))
            texts.append(row.id)
    if choice.label is not None and choice.label not in labels:
        known = ", ".join(f"'{label}'" for label in sorted(labels)[:5])
        raise BadInput(
            f"{bed}: no row has the label '{choice.label}' in its fourth column, found {known}"
            f"{', ...' if len(labels) > 5 else ''}; correct the element's label in regulatory.elements"
        )
    contig, first, last, start, positive = np.array(numbers, np.int64).T
    rows = Given(contig, first, last, start, positive.astype(bool), np.full(len(contig), "", dtype=object), texts)
    lengths = np.array([one.length for one in names.contigs.values()])[contig]
    rows.drop(first >= lengths, OUTSIDE)
    rows.drop(lengths < choice.window, SHORT)
    return rows


def _summit(columns: Sequence[str], width: int, where: str) -> int | None:
    """Distance of a narrowPeak row's summit from its start; None if the row is of another kind or has none."""
    if len(columns) != 10 or not columns[9].strip().removeprefix("-").isdecimal():
        return None
    summit = int(columns[9])
    if summit > width:  # peak callers do write the width itself
        raise BadInput(
            f"{where}: found a summit {summit} bases from the start of a peak of {width} bases, expected one within "
            "the peak, or -1; correct the tenth column"
        )
    return summit if summit >= 0 else None


def place(rows: Given, reference: Reference, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
    """Leave out rows whose window is unknown, beside another of its label, or, if negative, upon a positive one.

    Returns:
        GC content and share of repeats of each row's window, float64 (N,), NaN where it was not looked at.
    """
    gc, repeats = np.full((2, len(rows.contig)), np.nan)
    there = np.flatnonzero(rows.reason == "")
    gc[there], unknown = reference.composition(rows.contig[there], rows.start[there], choice.window)
    ambiguous = np.zeros(len(gc), bool)
    ambiguous[there] = (unknown > choice.max_unknown_share) | np.isnan(gc[there])
    rows.drop(ambiguous, AMBIGUOUS)
    positive = rows.positive & (rows.reason == "")
    taken = Covered(rows.contig[positive], rows.start[positive], rows.start[positive] + choice.window)
    rows.drop(~rows.positive & taken.overlap(rows.contig, rows.start, choice.window), OVERLAP)
    for label in (True, False):
        rows.drop(_beside_another(rows, label, choice.window / 4), DUPLICATE)
    kept = np.flatnonzero(rows.reason == "")
    repeats[kept] = reference.repeats(rows.contig[kept], rows.start[kept], choice.window)
    return gc, repeats


def _beside_another(rows: Given, label: bool, distance: float) -> np.ndarray:
    """Which rows start less than `distance` after one that is kept: bool (N,)."""
    dropped = np.zeros(len(rows.contig), bool)
    which = np.flatnonzero((rows.positive == label) & (rows.reason == ""))
    which = which[np.lexsort((rows.start[which], rows.contig[which]))]
    before = (-1, 0)
    for row, contig, start in zip(which, rows.contig[which].tolist(), rows.start[which].tolist(), strict=True):
        if contig == before[0] and start - before[1] < distance:
            dropped[row] = True
        else:
            before = contig, start
    return dropped


class Covered:
    """Stretches of contigs, merged; arrays (N,) of contig, start and end."""

    def __init__(self, contig: np.ndarray, start: np.ndarray, end: np.ndarray) -> None:
        self._starts: dict[int, np.ndarray] = {}
        self._ends: dict[int, np.ndarray] = {}
        for one in np.unique(contig).tolist():
            order = np.argsort(start[contig == one], kind="stable")
            starts, ends = start[contig == one][order], np.maximum.accumulate(end[contig == one][order])
            apart = np.append(True, starts[1:] > ends[:-1])
            self._starts[one] = starts[apart]
            self._ends[one] = ends[np.append(apart[1:], True)]

    def overlap(self, contig: np.ndarray, start: np.ndarray, width: int) -> np.ndarray:
        """Which windows [start, start + width) share a base with a stretch: bool (N,)."""
        found = np.zeros(len(contig), bool)
        for one, starts in self._starts.items():
            here = contig == one
            at = np.searchsorted(self._ends[one], start[here], side="right")
            following = np.append(starts, np.iinfo(np.int64).max)[at]
            found[here] = following < start[here] + width
        return found


class Reference:
    """Composition of windows of an indexed FASTA; `contigs` in the order of their numbers.

    Attributes:
        repeats_from: 'soft mask' if the FASTA has lower- and upper-case bases, else '24-mers', or None for a reference
            of more than `KMER_GENOME` bases, whose repeats are not known.
    """

    def __init__(self, fasta: pysam.FastaFile, contigs: Sequence[str]) -> None:
        self.contigs, self._fasta = list(contigs), fasta
        self.lengths = [self._fasta.get_reference_length(name) for name in self.contigs]
        self.repeats_from: str | None = "soft mask"
        if not self._soft_masked():
            self.repeats_from = f"{REPEAT_LENGTH}-mers" if sum(self.lengths) <= KMER_GENOME else None
        if self.repeats_from is None:
            log.warning(
                "the reference has no soft mask and %d bases, too many to count %d-mers: negatives are matched by GC "
                "content alone; a soft-masked reference has its repeats in lower case",
                sum(self.lengths),
                REPEAT_LENGTH,
            )

    def _fetch(self, contig: int, start: int, end: int) -> np.ndarray:
        """Letters, uint8 (L,)."""
        return np.frombuffer(self._fasta.fetch(self.contigs[contig], start, end).encode("ascii"), np.uint8)

    def _soft_masked(self) -> bool:
        lower = upper = False
        for contig, length in enumerate(self.lengths):
            for start in range(0, length, BLOCK):
                letters = self._fetch(contig, start, start + BLOCK)
                known = letters[encode(letters.tobytes()) != UNKNOWN]
                lower |= bool((known >= ord("a")).any())
                upper |= bool((known < ord("a")).any())
                if lower and upper:
                    return True
        return False

    def _spans(
        self, contig: np.ndarray, start: np.ndarray, width: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Which windows lie in a block, where in it they start, and the block's letters."""
        order = np.lexsort((start, contig))
        apart = (np.diff(contig[order]) != 0) | (np.diff(start[order]) > GAP)
        for run in np.split(order, np.flatnonzero(apart) + 1):
            while len(run):
                one, first = int(contig[run[0]]), int(start[run[0]])
                count = int(np.searchsorted(start[run], first + BLOCK))
                which, run = run[:count], run[count:]
                yield which, start[which] - first, self._fetch(one, first, int(start[which[-1]]) + width)

    def _shares(self, contig: np.ndarray, start: np.ndarray, width: int, masks: Sequence) -> np.ndarray:
        """How many of each window's letters each function of (letters, codes) says True of: int64 (masks, N)."""
        counts = np.zeros((len(masks), len(start)), np.int64)
        for which, offset, letters in self._spans(contig, start, width):
            codes = encode(letters.tobytes())
            for number, mask in enumerate(masks):
                total = np.append(0, np.cumsum(mask(letters, codes)))
                counts[number, which] = total[offset + width] - total[offset]
        return counts

    def composition(self, contig: np.ndarray, start: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
        """GC content among the known bases (NaN if there is none) and share of unknown ones: float64 (N,) each."""
        masks = (lambda letters, codes: (codes == 1) | (codes == 2), lambda letters, codes: codes != UNKNOWN)
        strong, known = self._shares(contig, start, width, masks)
        return np.where(known > 0, strong / np.maximum(known, 1), np.nan), 1.0 - known / width

    def repeats(self, contig: np.ndarray, start: np.ndarray, width: int) -> np.ndarray:
        """Share of each window that is soft-masked or in 24-mers found elsewhere in the reference: float64 (N,)."""
        if self.repeats_from == "soft mask":
            masks = (lambda letters, codes: (letters >= ord("a")) & (codes != UNKNOWN),)
            return self._shares(contig, start, width, masks)[0] / width
        shares = np.full(len(start), np.nan)
        if self.repeats_from is None:
            return shares
        step = max(KMERS_AT_ONCE // (width + 2 * REPEAT_LENGTH), 1)
        for first in range(0, len(start), step):
            chosen = slice(first, first + step)
            shares[chosen] = self._repeated(contig[chosen], start[chosen], width) / width
        return shares

    def _repeated(self, contig: np.ndarray, start: np.ndarray, width: int) -> np.ndarray:
        """Bases of each window that a repeated k-mer covers, as `repeats.repeat_masks` says: int64 (N,)."""
        flank = REPEAT_LENGTH - 1
        kmers = self._kmers(contig, start, width)
        asked, place = np.unique(kmers, return_inverse=True)
        counts = np.zeros(len(asked), np.int64)
        likely = np.zeros(2**HASH_BITS, bool)  # by hash: few of the reference's k-mers have to be looked up
        likely[_hash(asked)] = True
        for number, length in enumerate(self.lengths):
            for begin in range(0, length, KMER_BLOCK):
                codes = encode(self._fetch(number, begin, begin + KMER_BLOCK + flank).tobytes())
                found = canonical_kmers(codes, REPEAT_LENGTH)
                found, times = np.unique(found[likely[_hash(found)]], return_counts=True)
                at = np.minimum(np.searchsorted(asked, found), len(asked) - 1)
                same = asked[at] == found
                counts[at[same]] += times[same]
        repeated = ((counts > 1) & (asked != UNKNOWN_KMER))[place.reshape(kmers.shape)]
        # A k-mer that starts at column c covers the bases c - flank to c of the window.
        total = np.cumsum(np.pad(repeated, ((0, 0), (1, 0))), axis=1, dtype=np.int32)
        return (total[:, flank + 1 :] > total[:, : -flank - 1]).sum(axis=1)

    def _kmers(self, contig: np.ndarray, start: np.ndarray, width: int) -> np.ndarray:
        """The k-mers that share a base with each window: uint64 (N, width + k - 1)."""
        flank = REPEAT_LENGTH - 1
        kmers = np.full((len(start), width + flank), UNKNOWN_KMER)
        for which, offset, letters in self._spans(contig, start, width):
            one, first = int(contig[which[0]]), int(start[which[0]])
            before = self._fetch(one, max(first - flank, 0), first)
            after = self._fetch(one, first + len(letters), first + len(letters) + flank)
            codes = np.full(len(letters) + 2 * flank, UNKNOWN, np.uint8)
            codes[flank - len(before) : flank] = encode(before.tobytes())
            codes[flank : flank + len(letters)] = encode(letters.tobytes())
            codes[flank + len(letters) :][: len(after)] = encode(after.tobytes())
            block = np.lib.stride_tricks.sliding_window_view(canonical_kmers(codes, REPEAT_LENGTH), width + flank)
            kmers[which] = block[offset]
        return kmers


def _hash(kmers: np.ndarray) -> np.ndarray:
    """The upper bits of a product with an odd number near 2**64 / golden ratio (Knuth), in `HASH_BITS` bits."""
    return (kmers * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - HASH_BITS)


Cell = tuple[int, int, int]  # contig, bin of GC content, bin of repeats


@dataclass
class Pool:
    """Candidate windows (contig, start, GC content, share of repeats) by bins, and the numbers of those taken.

    Windows that are taken do not overlap.
    """

    width: int
    windows: list[tuple[int, int, float, float]] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    _cells: dict[Cell, list[int]] = field(default_factory=lambda: defaultdict(list))
    _anywhere: dict[tuple[int, int], list[int]] = field(default_factory=lambda: defaultdict(list))
    _occupied: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, contig: np.ndarray, start: np.ndarray, gc: np.ndarray, repeats: np.ndarray) -> None:
        for window, cell in zip(zip(contig, start, gc, repeats, strict=True), cells(contig, gc, repeats), strict=True):
            self._cells[cell].append(len(self.windows))
            self._anywhere[cell[1:]].append(len(self.windows))
            self.windows.append(window)

    def take(self, contig: int | None, bins: tuple[int, int]) -> bool:
        """Take a free window of the bins, on a contig or on any. False if there is none."""
        waiting = self._anywhere[bins] if contig is None else self._cells[(contig, *bins)]
        while waiting:
            number = waiting.pop()
            if self._free(*self.windows[number][:2]):
                self.taken.append(number)
                return True
        return False

    def _free(self, contig: int, start: int) -> bool:
        """True if the window overlaps none that is taken; it then is. A cell of `width` bases holds at most one."""
        cell = start // self.width
        for other in (cell - 1, cell, cell + 1):
            if abs(self._occupied.get((contig, other), start + self.width) - start) < self.width:
                return False
        self._occupied[contig, cell] = start
        return True


def cells(contig: np.ndarray, gc: np.ndarray, repeats: np.ndarray) -> list[Cell]:
    """Contig and bins of windows. Windows without any repeat have a bin of their own; unknown repeats are none."""
    gc_bins = np.minimum(np.floor(gc / GC_STEP), round(1 / GC_STEP) - 1).astype(int)
    repeat_bins = np.ceil(np.nan_to_num(repeats) / REPEAT_STEP).astype(int)
    return list(zip(contig.tolist(), gc_bins.tolist(), repeat_bins.tolist(), strict=True))


def draw_negatives(
    positives: pd.DataFrame, rows: Given, reference: Reference, choice: Choice
) -> tuple[pd.DataFrame, int]:
    """Random windows that overlap neither a positive row, nor its window, nor one another, matched to the positives.

    Each is matched to one positive: same contig and bins of GC content and repeats, else same bins on any contig, else
    neighbouring bins.

    Args:
        positives: contig, gc and repeats of those that are kept. rows: all rows, for what must not be overlapped.

    Returns:
        contig, start, name, gc, repeats, label and source; and how many negatives were wanted.
    """
    import pandas as pd

    rng = np.random.default_rng(choice.seed)
    width = choice.window
    ends = np.maximum(rows.last, rows.start + width)
    covered = Covered(rows.contig, np.minimum(rows.first, rows.start), ends)
    of = cells(*(positives[name].to_numpy() for name in ("contig", "gc", "repeats")))
    wanted = max(round(len(positives) * choice.ratio), 1)
    whole, part = divmod(wanted, len(of))
    missing = [of[number] for number in rng.permutation(len(of))] * whole
    missing += [of[number] for number in rng.permutation(len(of))[:part]]
    pool = Pool(width)
    lengths = np.array(reference.lengths)
    for _ in range(ROUNDS):
        contigs = np.array([cell[0] for cell in missing])
        draws = min(max(DRAWS * len(missing), LEAST_DRAWS), POOL_BASES // width)
        contig = np.sort(rng.choice(contigs, draws))
        start = np.floor(rng.random(draws) * (lengths[contig] - width + 1)).astype(np.int64)
        free = ~covered.overlap(contig, start, width)
        contig, start = contig[free], start[free]
        gc, unknown = reference.composition(contig, start, width)
        clear = (unknown <= choice.max_unknown_share) & np.isfinite(gc)
        order = rng.permutation(np.flatnonzero(clear))
        contig, start, gc = contig[order], start[order], gc[order]
        pool.add(contig, start, gc, reference.repeats(contig, start, width))
        missing = [cell for cell in missing if not pool.take(cell[0], cell[1:])]
        if not missing:
            break
    for gc_off, repeat_off in _offsets():
        for anywhere in (False, True):
            missing = [
                cell
                for cell in missing
                if not pool.take(None if anywhere else cell[0], (cell[1] + gc_off, cell[2] + repeat_off))
            ]
    if missing:
        log.warning(
            "%d of %d negatives could not be drawn: the reference has too few windows of the positives' GC content and "
            "repeats that no positive overlaps",
            len(missing),
            wanted,
        )
    drawn = pd.DataFrame([pool.windows[one] for one in pool.taken], columns=["contig", "start", "gc", "repeats"])
    drawn = drawn.astype({"contig": np.int64, "start": np.int64, "gc": float, "repeats": float})
    named = zip(drawn["contig"], drawn["start"], strict=True)
    drawn["name"] = [f"{reference.contigs[contig]}:{start}-{start + width}" for contig, start in named]
    drawn["label"], drawn["source"] = np.int8(0), "drawn"
    return drawn, wanted


def _offsets() -> list[tuple[int, int]]:
    """Steps of GC content and repeats to bins that may stand in for one, the nearest first."""
    steps = [(gc, repeats) for gc in range(-REACH, REACH + 1) for repeats in range(-REACH // 2, REACH // 2 + 1)]
    return sorted(
        (step for step in steps if abs(step[0]) + 2 * abs(step[1]) <= REACH),
        key=lambda step: (abs(step[0]) + 2 * abs(step[1]), step),
    )


def assign_folds(table: pd.DataFrame, choice: Choice) -> tuple[np.ndarray, str]:
    """The fold of each interval, int64 (N,), and 'contigs' or 'blocks'.

    Folds are whole contigs, the one with most positives first, each to the fold that has fewest; if fewer contigs than
    folds have positives, blocks of consecutive intervals, as many in each. Intervals within `BORDER` bases of a border
    between two blocks of a contig belong to none: -1.

    Args:
        table: contig, start and label, sorted by contig and start.
    """
    contig, start = table["contig"].to_numpy(), table["start"].to_numpy()
    positives, others = (Counter(contig[table["label"].to_numpy() == label].tolist()) for label in (1, 0))
    if len(positives) >= choice.folds:
        counts, fold_of = [(0, 0)] * choice.folds, {}
        for one in sorted(set(contig.tolist()), key=lambda one: (-positives[one], -others[one], one)):
            fold = counts.index(min(counts))
            counts[fold] = (counts[fold][0] + positives[one], counts[fold][1] + others[one])
            fold_of[one] = fold
        return np.array([fold_of[one] for one in contig.tolist()]), "contigs"
    firsts = [len(table) * fold // choice.folds for fold in range(choice.folds + 1)]
    folds = np.repeat(np.arange(choice.folds), np.diff(firsts))
    places = list(zip(contig.tolist(), start.tolist(), strict=True))
    for first in firsts[1:-1]:
        if 0 < first < len(table) and contig[first - 1] == contig[first]:
            border = (int(start[first - 1]) + choice.window + int(start[first])) // 2
            near = slice(
                bisect_left(places, (int(contig[first]), border - BORDER - choice.window + 1)),
                bisect_left(places, (int(contig[first]), border + BORDER)),
            )
            folds[near] = -1
    return folds, "blocks"
