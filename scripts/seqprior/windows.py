"""Model-ready windows around alleles, cut once per distinct site.

A window holds bases in forward letters, upper-case; the other strand is the model's business. What lies beyond a
contig's end is N for models that read single bases, and left out for the others, whose tokens N would shift. Tokens of
k bases keep one frame, that of the contig, so that neighbouring sites share tokens and windows. Where a model's reach
is finite and exact (`ModelFacts.shares_windows`), or where whole windows are read in one pass, neighbouring sites share
one longer window.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from seqprior.columns import ALLELE, Reason, Status
from seqprior.files import written_whole
from seqprior.models import ModelFacts
from seqprior.shards import Cutter, ShardWriter
from seqprior.variants import ReferenceSequence, scored_alleles

UNKNOWN_LETTER = re.compile("[^ACGT]")
MAX_TILE = 8192  # bases of a shared window; bounds the memory of one row
SITE_BASES = 32  # bases of a shared window that cost as much as one site in a window of its own (measured on a CPU)
GROUP = 16_384  # alleles whose windows are held, written and scored together


def padded(sequence: str, start: int, end: int) -> str:
    """`sequence[start:end]` in A, C, G, T, with N for other letters and for what lies beyond the ends.

    0-based half-open; start may be negative.
    """
    inner = UNKNOWN_LETTER.sub("N", sequence[max(start, 0) : max(end, 0)])
    left = min(max(-start, 0), end - start)
    return "N" * left + inner + "N" * (end - start - left - len(inner))


def unknown_share(sequence: str, start: int, end: int) -> float:
    """Share of the window's bases inside the contig that are not A, C, G or T."""
    inner = sequence[max(start, 0) : end]
    known = sum(map(inner.count, "ACGT"))
    return 1.0 - known / len(inner) if inner else 1.0


@dataclass
class Windows:
    """Windows and alleles of one shard, in the making. `number` is that of the first window."""

    facts: ModelFacts
    max_unknown_share: float
    one_pass: bool = False
    number: int = 0
    sequences: list[str] = field(default_factory=list)
    alleles: list[tuple] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)
    _contig: str = ""
    _sequence: str = ""
    _sites: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._cutter = Cutter(self.facts, self.one_pass and not self.facts.shares_windows)

    def add(self, contig: str, sequence: str, allele: tuple) -> None:
        """Place one allele (values of `columns.ALLELE`, pos 1-based). Alleles come sorted by contig and position."""
        start, ref, alt = allele[2] - 1, allele[3], allele[4]
        size = self.facts.window
        place = self._cutter.window(len(sequence), start, ref, alt)
        if place is None:
            self._skip(allele, Reason.NOT_EVALUABLE_BY_MODEL)
        elif unknown_share(sequence, start - size // 2, start - size // 2 + size) > self.max_unknown_share:
            self._skip(allele, Reason.WINDOW_AMBIGUOUS)
        elif self.facts.shares_windows and len(ref) == len(alt) == 1:
            self._extend_tile(contig, sequence, start, allele)
            self.alleles.append(allele)  # completed by `flush`, so that alleles keep their order
        else:
            self._place(padded(sequence, *place), start - place[0], allele)

    def _skip(self, allele: tuple, reason: Reason) -> None:
        self.alleles.append((*allele, None, None, str(Status.SKIPPED), str(reason)))

    def _place(self, window: str, offset: int, allele: tuple) -> None:
        self.alleles.append((*allele, self._number(window), offset, str(Status.SCORED), ""))

    def _number(self, window: str) -> int:
        number = self._numbers.setdefault(window, self.number + len(self.sequences))
        if number == self.number + len(self.sequences):
            self.sequences.append(window)
        return number

    def _extend_tile(self, contig: str, sequence: str, start: int, allele: tuple) -> None:
        if self._sites and (
            contig != self._contig
            or not 0 <= start - self._sites[-1][0] <= SITE_BASES
            or start - self._sites[0][0] > MAX_TILE - self.facts.window
        ):
            self.flush()
        self._contig, self._sequence = contig, sequence
        self._sites.append((start, len(self.alleles)))

    def flush(self) -> None:
        """Place the sites that wait: in one shared window if they lie densely enough, else each in its own."""
        if not self._sites:
            return
        reach = self.facts.window // 2
        first, last = self._sites[0][0], self._sites[-1][0]
        distinct = len({start for start, _ in self._sites})
        shared = last - first + self.facts.window < distinct * SITE_BASES
        cut = None
        for start, row in self._sites:
            ends = (first, last) if shared else (start, start)
            if ends != cut:
                number = self._number(padded(self._sequence, ends[0] - reach, ends[1] + reach + 1))
                cut = ends
            self.alleles[row] = (*self.alleles[row], number, start - ends[0] + reach, str(Status.SCORED), "")
        self._sites = []


def alleles_in_order(variants: Path) -> Iterator[tuple]:
    """Alleles that reached a sequence, as tuples of `columns.ALLELE`."""
    for frame in scored_alleles(variants, ALLELE):
        # A record without a position makes the whole column of its batch float.
        yield from frame.astype({"pos": "int64"}).itertuples(index=False, name=None)


def allele_costs(variants: Path, pair_cost: float):
    """Cost of each allele in order, in passes over a window: one for a new site of one base, `pair_cost` for others.

    Returns:
        float32 (N,). A further allele of a site costs nothing.
    """
    import numpy as np

    parts = [np.empty(0, np.float32)]
    previous = (None, None)
    for frame in scored_alleles(variants, ("chrom", "pos", "ref", "alt")):
        single = ((frame["ref"].str.len() == 1) & (frame["alt"].str.len() == 1)).to_numpy(bool)
        places = list(zip(frame["chrom"], frame["pos"], strict=True))
        cost = np.full(len(frame), pair_cost, np.float32)
        for row in np.flatnonzero(single):
            cost[row] = places[row] != previous
            previous = places[row]
        parts.append(cost)
    return np.concatenate(parts)


def shard_ends(costs, shards: int) -> list[int]:
    """Where each of `shards` contiguous shards of about equal cost ends, as numbers of alleles; the last at the end."""
    import numpy as np

    total = np.cumsum(costs, dtype=np.float64)
    if not len(total) or total[-1] == 0:
        return [len(total)] * shards
    targets = total[-1] * np.arange(1, shards) / shards
    return [*map(int, np.searchsorted(total, targets - 1e-9) + 1), len(total)]


def extract_windows(
    variants: Path,
    fasta: Path,
    facts: ModelFacts,
    shards: Iterable[Path],
    *,
    max_unknown_share: float,
    one_pass: bool = False,
    pair_cost: float = 2.0,
) -> int:
    """Cut the windows of every allele into contiguous shards of equal cost, as many as there are paths.

    Memory holds one group of windows, whatever the number of alleles.

    Args:
        variants: `variants.parquet`. fasta: the prepared reference.
        shards: folders to write, in order.
        max_unknown_share: windows with a larger share of unknown bases are skipped.
        one_pass: windows are read whole, see `Cutter`. pair_cost: see `allele_costs`.

    Returns:
        Number of windows.
    """
    shards = list(shards)
    ends = shard_ends(allele_costs(variants, pair_cost), len(shards))
    reference = ReferenceSequence(fasta)
    alleles = alleles_in_order(variants)
    windows = done = 0
    for shard, end in zip(shards, ends, strict=True):
        with (
            written_whole(shard / "windows.parquet") as window_file,
            written_whole(shard / "alleles.parquet") as allele_file,
        ):
            writer, number = ShardWriter(window_file, allele_file), 0
            while done < end:
                part = Windows(facts, max_unknown_share, one_pass, number)
                for _, allele in zip(range(min(GROUP, end - done)), alleles, strict=False):
                    part.add(allele[1], reference.contig(allele[1]), allele)
                writer.write(part)
                number += len(part.sequences)
                done += len(part.alleles)
            writer.close()
        windows += number
    return windows
