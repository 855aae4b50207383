"""Model-ready windows around alleles, cut once per distinct site.

A window holds bases in forward letters, upper-case, with N beyond a contig's ends; the other strand is the model's
business. Where a model's reach is finite and exact (`ModelFacts.shares_windows`), neighbouring sites share one longer
window, which gives the same answers for fewer bases.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from seqprior.columns import ALLELE, Reason, Status
from seqprior.files import written_whole
from seqprior.models import ModelFacts
from seqprior.variants import ReferenceSequence, scored_alleles

MAX_TILE = 8192  # bases of a shared window; bounds the memory of one row
SITE_BASES = 32  # bases of a shared window that cost as much as one site in a window of its own (measured on a CPU)

ALLELE_COLUMNS = (*ALLELE, "window", "offset", "status", "reason")


def padded(sequence: str, start: int, end: int) -> str:
    """`sequence[start:end]` with N for what lies beyond the ends. 0-based half-open; start may be negative."""
    inner = sequence[max(start, 0) : max(end, 0)]
    left = min(max(-start, 0), end - start)
    return "N" * left + inner + "N" * (end - start - left - len(inner))


def unknown_share(sequence: str, start: int, end: int) -> float:
    """Share of the window's bases inside the contig that are not A, C, G or T."""
    inner = sequence[max(start, 0) : end]
    known = sum(map(inner.count, "ACGT"))
    return 1.0 - known / len(inner) if inner else 1.0


@dataclass
class Windows:
    """Windows and alleles of one shard, in the making."""

    facts: ModelFacts
    max_unknown_share: float
    sequences: list[str] = field(default_factory=list)
    alleles: list[tuple] = field(default_factory=list)
    _numbers: dict[str, int] = field(default_factory=dict)
    _contig: str = ""
    _sequence: str = ""
    _sites: list[tuple[int, int]] = field(default_factory=list)

    def add(self, contig: str, sequence: str, allele: tuple) -> None:
        """Place one allele (values of `columns.ALLELE`, pos 1-based). Alleles come sorted by contig and position."""
        start, ref, alt = allele[2] - 1, allele[3], allele[4]
        size = self.facts.window
        longest = max(len(ref), len(alt))
        flank = (size - longest) // 2
        if flank < 1:
            self._skip(allele, Reason.NOT_EVALUABLE_BY_MODEL)
        elif unknown_share(sequence, start - size // 2, start - size // 2 + size) > self.max_unknown_share:
            self._skip(allele, Reason.WINDOW_AMBIGUOUS)
        elif longest > 1:
            self._place(padded(sequence, start - flank, start + len(ref) + flank), flank, allele)
        elif self.facts.shares_windows:
            self._extend_tile(contig, sequence, start, allele)
            self.alleles.append(allele)  # completed by `flush`, so that alleles keep their order
        else:
            self._place(padded(sequence, start - size // 2, start - size // 2 + size), size // 2, allele)

    def _skip(self, allele: tuple, reason: Reason) -> None:
        self.alleles.append((*allele, None, None, str(Status.SKIPPED), str(reason)))

    def _place(self, window: str, offset: int, allele: tuple) -> None:
        self.alleles.append((*allele, self._number(window), offset, str(Status.SCORED), ""))

    def _number(self, window: str) -> int:
        number = self._numbers.setdefault(window, len(self.sequences))
        if number == len(self.sequences):
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

    def write(self, path: Path) -> None:
        """Two tables: `path`/windows.parquet (window, sequence) and `path`/alleles.parquet (`ALLELE_COLUMNS`)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.flush()
        windows = pa.table(
            {
                "window": pa.array(range(len(self.sequences)), pa.int64()),
                "sequence": pa.array(self.sequences, pa.large_string()),
            }
        )
        kinds = {"pos": pa.int64(), "window": pa.int64(), "offset": pa.int64()}
        columns = list(zip(*self.alleles, strict=True)) or [()] * len(ALLELE_COLUMNS)
        alleles = pa.table(
            {
                name: pa.array(column, kinds.get(name, pa.string()))
                for name, column in zip(ALLELE_COLUMNS, columns, strict=True)
            }
        )
        for name, table in (("windows", windows), ("alleles", alleles)):
            with written_whole(path / f"{name}.parquet") as partial:
                pq.write_table(table, partial, compression="zstd")


def alleles_in_order(variants: Path) -> Iterator[tuple]:
    """Alleles that reached a sequence, as tuples of `columns.ALLELE`."""
    for frame in scored_alleles(variants, ALLELE):
        # A record without a position makes the whole column of its batch float.
        yield from frame.astype({"pos": "int64"}).itertuples(index=False, name=None)


def extract_windows(
    variants: Path, fasta: Path, facts: ModelFacts, shards: Iterable[Path], *, max_unknown_share: float
) -> int:
    """Cut the windows of every allele into as many equal, contiguous shards as there are paths.

    Args:
        variants: `variants.parquet`. fasta: the prepared reference.
        shards: folders to write, in order.
        max_unknown_share: windows with a larger share of unknown bases are skipped.

    Returns:
        Number of windows.
    """
    shards = list(shards)
    total = sum(len(frame) for frame in scored_alleles(variants, ()))
    reference = ReferenceSequence(fasta)
    alleles = alleles_in_order(variants)
    windows = 0
    for index, shard in enumerate(shards):
        share = total * (index + 1) // len(shards) - total * index // len(shards)
        part = Windows(facts, max_unknown_share)
        for _, allele in zip(range(share), alleles, strict=False):
            part.add(allele[1], reference.contig(allele[1]), allele)
        part.write(shard)
        windows += len(part.sequences)
    return windows
