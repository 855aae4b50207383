"""Files that are either complete or absent, and their digests."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from seqprior.errors import BadInput

ROWS = 50_000  # rows of a table that are held before they are written
FULL_DISK = 65_536  # bytes; a disk with less left counts as full when a write has failed
# The empty block that ends every bgzip file (SAM specification, section 4.1.2).
BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turn whatever a full disk makes a library raise into one sentence; libraries rarely say what went wrong."""
    try:
        yield
    except Exception as error:
        if shutil.disk_usage(folder).free < FULL_DISK:
            raise BadInput(f"{folder}: no space left on the device; free some and run again") from error
        raise


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that is renamed to it if the block succeeds and deleted if it does not.

    The temporary name keeps the suffixes, since some libraries choose the format by them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        with full_disk_named(path.parent):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def require_file(path: Path, what: str) -> None:
    """Raise `BadInput` unless `path` is a readable, non-empty file. `what` names its role, for example 'VCF'."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file; expected a {what}; check the path in the config")
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: the file is empty; expected a {what}; check that it was copied completely")


def is_gzip(path: Path) -> bool:
    """True if the file starts with the gzip magic number (bgzip included)."""
    with path.open("rb") as handle:
        return handle.read(2) == b"\x1f\x8b"


def require_bgzf_end(path: Path) -> None:
    """Raise `BadInput` if a block-gzip file lacks its end marker: it was cut between two blocks. Plain gzip passes."""
    with path.open("rb") as handle:
        start = handle.read(18)
        if start[12:14] != b"BC":
            return
        handle.seek(-min(28, path.stat().st_size), os.SEEK_END)
        if handle.read() != BGZF_END:
            raise BadInput(f"{path}: the end marker of block-gzip is missing, so the file was cut; copy it again")


@contextmanager
def intact_gzip(path: Path) -> Iterator[None]:
    """Turn what reading a truncated or corrupt gzip raises into `BadInput`."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"{path}: the gzip data end early or are damaged ({error}); copy the file again") from error


@contextmanager
def open_text(path: Path) -> Iterator[Iterator[str]]:
    """A plain or gzip text file for reading, whatever its name. A truncated or corrupt gzip is `BadInput`.

    Bytes that are not UTF-8 become U+FFFD: Arrow tables and JSON cannot hold them. A byte order mark is left out.
    """
    opener = gzip.open if is_gzip(path) else open
    with intact_gzip(path), opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="\n") as handle:
        yield handle


def rows_schema(columns: Sequence[str], numbers: Collection[str]):
    """Arrow schema of a table of text, with whole numbers in some columns."""
    import pyarrow as pa

    return pa.schema([(name, pa.int64() if name in numbers else pa.string()) for name in columns])


class RowWriter:
    """Rows of a Parquet table, written in groups."""

    def __init__(self, path: Path, schema) -> None:
        import pyarrow.parquet as pq

        self.schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._rows: list[tuple] = []

    def add(self, row: tuple) -> None:
        self._rows.append(row)
        if len(self._rows) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        columns = list(zip(*self._rows, strict=True)) or [()] * len(self.schema)
        arrays = [pa.array(column, kind) for column, kind in zip(columns, self.schema.types, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))
        self._rows = []

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
