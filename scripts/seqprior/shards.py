"""Shards: where windows lie, and the files in which windows and alleles go from the windows stage to the models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqprior.columns import ALLELE
from seqprior.models import ModelFacts

if TYPE_CHECKING:
    import pandas as pd

    from seqprior.windows import Windows

ALLELE_COLUMNS = (*ALLELE, "window", "offset", "status", "reason")


@dataclass(frozen=True)
class Cutter:
    """Where the window of an allele lies, by how its model reads.

    Attributes:
        one_pass: windows are read whole, so sites share those of a fixed grid.
    """

    facts: ModelFacts
    one_pass: bool = False

    @property
    def pads(self) -> bool:
        """True if bases beyond a contig's end are N; else the window ends with the contig."""
        return self.facts.tokenisation == "single-base" and self.facts.objective != "causal" and not self.one_pass

    @property
    def downstream(self) -> int:
        """Bases after the allele that a causal model reads, a whole number of k-mers."""
        return (self.facts.downstream or self.facts.window // 4) // self.facts.k * self.facts.k

    def window(self, length: int, start: int, ref: str, alt: str) -> tuple[int, int] | None:
        """First and last base of the window in contig coordinates, 0-based half-open; None if the allele does not fit.

        Args:
            length: of the contig. start: of the allele, 0-based.
        """
        frame = self.facts.k if self.facts.tokenisation == "kmer" else 1
        anchor = 0 if start + len(ref) <= length // frame * frame else length % frame
        first = anchor + (start - anchor) // frame * frame
        last = first - -(start + len(ref) - first) // frame * frame
        if first < 0 or last > length:
            return None  # a contig shorter than one token
        within = len(ref) == len(alt) and last - first == frame
        pieces = self.facts.tokenisation == "bpe"
        if self.one_pass and within and not (pieces and self.facts.objective == "causal"):
            begin, end = self._tile(first - anchor, frame, 2)
        elif pieces and self.facts.objective == "masked" and within:
            begin, end = self._tile(first - anchor, frame, 8)  # sites of one piece share a window, and so a pass
        elif self.facts.objective == "causal":
            before = (self.facts.window - self.downstream) // frame * frame
            if before < frame or self.downstream < max(len(ref), len(alt)):
                return None
            begin, end = first - anchor - before, last - anchor + before
        elif within:
            begin = first - anchor - self.facts.window // frame // 2 * frame
            end = begin + self.facts.window
        else:
            # Bases left over by an indel are tokens of their own: room for them keeps the haplotype in the context.
            room = self.facts.window - frame * (frame - 1) - max(0, len(alt) - len(ref))
            flank = (room - (last - first)) // 2 // frame * frame
            if flank < 1:
                return None
            begin, end = first - anchor - flank, last - anchor + flank
        if self.pads:
            return begin, end
        return max(begin, 0) + anchor, min(end, (length - anchor) // frame * frame) + anchor

    def _tile(self, first: int, frame: int, share: int) -> tuple[int, int]:
        """The window of a grid in whose middle a token lies; the windows are a `share`-th of their size apart."""
        size = self.facts.window
        stride = max(size // share // frame, 1) * frame
        begin = first // stride * stride - (size - stride) // 2 // frame * frame
        return begin, begin + size


class ShardWriter:
    """Two tables of one shard, a row group at a time: `windows.parquet` (window, sequence) and `alleles.parquet`.

    Alleles (`ALLELE_COLUMNS`) name windows of the same row group, so a reader needs to hold one group only.
    """

    def __init__(self, windows: Path, alleles: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._windows = pa.schema([("window", pa.int64()), ("sequence", pa.large_string())])
        kinds = {"pos": pa.int64(), "window": pa.int64(), "offset": pa.int64()}
        self._alleles = pa.schema([(name, kinds.get(name, pa.string())) for name in ALLELE_COLUMNS])
        self._writers = (
            pq.ParquetWriter(windows, self._windows, compression="zstd"),
            pq.ParquetWriter(alleles, self._alleles, compression="zstd"),
        )

    def write(self, part: Windows) -> None:
        import pyarrow as pa

        part.flush()
        numbers = range(part.number, part.number + len(part.sequences))
        rows = [list(column) for column in zip(*part.alleles, strict=True)] or [[] for _ in ALLELE_COLUMNS]
        for writer, schema, columns in zip(
            self._writers, (self._windows, self._alleles), ([list(numbers), part.sequences], rows), strict=True
        ):
            arrays = [pa.array(column, kind.type) for column, kind in zip(columns, schema, strict=True)]
            writer.write_table(pa.table(arrays, schema=schema))

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def read_groups(shard: Path) -> Iterator[tuple[pd.DataFrame, list[str], int]]:
    """Row groups of a shard: alleles as a DataFrame, windows, and the number of the first window."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(shard / "alleles.parquet") as alleles, pq.ParquetFile(shard / "windows.parquet") as windows:
        for group in range(alleles.num_row_groups):
            table = windows.read_row_group(group)
            numbers = table["window"]
            first = numbers[0].as_py() if len(numbers) else 0
            yield alleles.read_row_group(group).to_pandas(), table["sequence"].to_pylist(), first
