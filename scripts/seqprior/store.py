"""The score store: what models have answered, kept so that no forward pass is paid for twice.

A fact is a key of 16 bytes, a hash of the request that the caller makes, and a vector of float32, the model's answer.
The facts of one model in one arithmetic lie in one folder, `{store}/{digest[:32]}-{arithmetic}/`, as Parquet files that
are written once and never changed, the parts. A writer adds a complete part by renaming it; a reader unites the parts.
That needs no lock, so several hosts and users may read and write at once, on NFS too, and any file may be deleted at
any time: what it held is computed again.

Parts hold the columns `key` (fixed-size binary) and `value` (list of float), sorted by key, uncompressed, since hashes
and likelihoods hardly shrink. A damaged part is noticed and not believed: every page has a checksum, and the name holds
the hash of the footer, which is compared first, since Parquet readers may crash on a damaged one.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seqprior.errors import BadInput
from seqprior.files import written_whole

log = logging.getLogger(__name__)

VERSION = 1  # of the layout of parts; readers leave parts of other versions alone
KEY_BYTES = 16
PART_BYTES = 64 * 2**20  # of keys and values that a writer collects before it writes a part
PART_FACTS = 2_000_000  # the same in facts, since short vectors weigh little and sorting takes memory
PART_SECONDS = 300.0  # the longest that a fact waits for its part: what a killed job loses
GROUP_BYTES, GROUP_FACTS = 4 * 2**20, 65_536  # of a row group, the least that is read
GATHER = 2**18  # floats that are copied at once, which bounds the memory of their indices
TAIL_BYTES = 8  # a Parquet file ends with the length of its footer and a magic number
TOUCH_SECONDS = 86_400.0  # a part's last use is noted once a day
YOUNG_SECONDS = 3_600.0  # whatever is younger may be in use and is neither removed nor merged

SCHEMA = pa.schema(
    [
        pa.field("key", pa.binary(KEY_BYTES), nullable=False),
        pa.field("value", pa.list_(pa.field("element", pa.float32(), nullable=False)), nullable=False),
    ]
)
FOLDER = re.compile(r"([0-9a-f]{32})-[A-Za-z0-9][A-Za-z0-9_.-]*")
PART = re.compile(r"part-[0-9a-f]{32}\.parquet")
PARTIAL = re.compile(r"\.(partial|probe)-.*")
GONE = {errno.ENOENT, errno.ESTALE}  # the file was deleted, here or by another host
UNREADABLE = (OSError, pa.ArrowException, ValueError)

Keys = Sequence[bytes] | np.ndarray


class ScoreStore:
    """The facts about one model in one arithmetic.

    A look-up reads the keys of every part, so ask once for many keys, not often for few.
    """

    def __init__(self, root: Path, digest: str, arithmetic: str):
        """Make the folder if it is missing.

        Args:
            root: folder of the store, which may hold other models too.
            digest: what identifies the model, at least 32 hexadecimal digits.
            arithmetic: class of number format and kernels within which answers agree, for example `float32`.

        Raises:
            BadInput: the folder cannot be written.
            ValueError: the digest or the arithmetic cannot name a folder.
        """
        name = f"{digest[:32]}-{arithmetic}"
        if not FOLDER.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a folder of facts")
        self.folder = Path(root) / name
        self._identity = _identity(digest, arithmetic)
        self._warned: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".probe-{uuid.uuid4().hex}"  # permissions alone do not tell, on NFS least of all
            probe.open("xb").close()
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise BadInput(
                f"{self.folder}: the score store cannot be written ({error.strerror}); make the folder writable for you"
                " or your group, or set scoring.store to another one"
            ) from error

    def is_empty(self) -> bool:
        """True if there is no part, so that asking is of no use."""
        return not _parts(self.folder)

    def write_note(self, name: str, note: dict) -> None:
        """Keep a small fact about all answers of this folder, as JSON; the last writer wins."""
        with written_whole(self.folder / f"{name}.json") as partial:
            partial.write_text(json.dumps(note) + "\n", encoding="utf-8")

    def read_note(self, name: str) -> dict | None:
        """What `write_note` kept; None if there is none that can be read."""
        try:
            return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def lookup(self, keys: Keys) -> dict[bytes, np.ndarray]:
        """The facts that are there: key to float32 vector. See `lookup_arrays`, which is faster for many keys."""
        rows = _key_rows(keys)
        found, offsets, values = self.lookup_arrays(rows)
        text, bounds = rows.tobytes(), offsets.tolist()
        return {
            text[KEY_BYTES * i : KEY_BYTES * (i + 1)]: values[bounds[i] : bounds[i + 1]]
            for i in np.flatnonzero(found).tolist()
        }

    def lookup_arrays(self, keys: Keys) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The facts that are there, as arrays in the order of the keys.

        If several parts hold a fact, one of them answers. Memory follows the keys and what is found, about twice, plus
        one row group; it does not follow the size of the store. Parts that are damaged, or of another version, are
        skipped with a warning.

        Args:
            keys: N keys of 16 bytes, or an array (N, 16) uint8. They may repeat.

        Returns:
            found (N,) bool; offsets (N + 1,) int64; values float32, where fact i is
            `values[offsets[i]:offsets[i + 1]]`, empty if it was not found.
        """
        wanted = _Wanted.of(_key_rows(keys))
        answers = _Answers()
        self._scan(wanted, answers)
        lengths = np.zeros(len(wanted), np.int64)
        starts = np.zeros(len(wanted), np.int64)
        if answers.which:
            which = np.concatenate(answers.which)
            lengths[which] = each = np.concatenate(answers.lengths)
            starts[which] = np.cumsum(each) - each
        stored = np.concatenate(answers.values) if answers.values else np.empty(0, np.float32)
        answers.values.clear()
        values, offsets = _gather(stored, starts[wanted.inverse], lengths[wanted.inverse])
        return wanted.found[wanted.inverse], offsets, values

    def known(self, keys: Keys) -> int:
        """How many of the distinct keys are there. Reads no values, so damage to values is not noticed."""
        wanted = _Wanted.of(_key_rows(keys))
        self._scan(wanted, None)
        return int(wanted.found.sum())

    @contextmanager
    def writer(self) -> Iterator[StoreWriter]:
        """A writer whose facts are all stored when the block ends, also by an exception: what was computed is true."""
        writer = StoreWriter(self.folder, self._identity)
        try:
            yield writer
        except BaseException:
            try:
                writer.flush()
            except BadInput as error:
                log.warning("%s", error)  # the exception that ended the block matters more
            raise
        else:
            writer.flush()

    def _scan(self, wanted: _Wanted, answers: _Answers | None) -> None:
        """Mark what is found, part by part, and collect the values if asked.

        A part that vanished may have been merged into a new one, so the folder is listed again.
        """
        seen: set[Path] = set()
        again = True
        while again:
            again = False
            for part in _parts(self.folder):
                if part in seen:
                    continue
                if wanted.found.all():
                    return
                seen.add(part)
                try:
                    if _scan_part(part, self._identity, wanted, answers) and answers is not None:
                        _note_use(part)
                except UNREADABLE as error:
                    if getattr(error, "errno", None) in GONE:
                        again = True
                    elif part.name not in self._warned:
                        self._warned.add(part.name)
                        log.warning("%s: skipped, its facts count as unknown (%s)", part, _first_line(error))


class StoreWriter:
    """Collects facts and writes parts: every 64 MB, at the latest 5 minutes after the last. For one thread."""

    def __init__(self, folder: Path, identity: dict[bytes, bytes]):
        self._folder, self._identity = folder, identity
        self._forget()

    def _forget(self) -> None:
        self._keys: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._values: list[np.ndarray] = []
        self._bytes, self._facts = 0, 0
        self._since = time.monotonic()

    def add(self, keys: Keys, vectors: Sequence[np.ndarray] | np.ndarray) -> None:
        """Take N facts; the arrays are copied.

        Args:
            keys: N keys of 16 bytes, or an array (N, 16) uint8.
            vectors: N vectors of float32, each of 1 or more numbers, or an array (N, W) float32.

        Raises:
            ValueError: the facts are not of these shapes and types, or not finite. None of them is taken.
            BadInput: a part was due and could not be written. The facts are still held.
        """
        rows = _key_rows(keys)
        if len(rows) != len(vectors):
            raise ValueError(f"{len(rows)} keys for {len(vectors)} vectors")
        if not len(rows):
            return
        if isinstance(vectors, np.ndarray) and vectors.ndim == 2:
            lengths = np.full(len(vectors), vectors.shape[1], np.int64)
            flat = vectors.flatten()
        else:
            lengths = np.fromiter(map(len, vectors), np.int64, len(vectors))
            flat = np.concatenate(vectors)
        if flat.dtype != np.float32 or flat.ndim != 1 or not lengths.all():
            raise ValueError(f"facts are vectors of float32, not empty; found {flat.dtype}, {flat.ndim} dimensions")
        if not np.isfinite(flat).all():
            raise ValueError("a fact has NaN or infinity; check what the model gave before it is stored")
        self._keys.append(rows.copy())
        self._lengths.append(lengths)
        self._values.append(flat)
        self._facts += len(rows)
        self._bytes += rows.nbytes + flat.nbytes
        if (
            self._bytes >= PART_BYTES
            or self._facts >= PART_FACTS
            or time.monotonic() - self._since >= PART_SECONDS  # a killed job loses what is not yet written
        ):
            self.flush()

    def flush(self) -> None:
        """Write what was collected as one part.

        Raises:
            BadInput: the disk is full, over quota or fails. The facts are still held.
        """
        if self._facts:
            self._keys = [np.concatenate(self._keys)]
            self._lengths = [np.concatenate(self._lengths)]
            self._values = [np.concatenate(self._values)]
            facts = _Facts(self._keys[0], self._lengths[0], self._values[0])
            _write_part(self._folder, facts, facts.in_order(), self._identity)
        self._forget()


@dataclass(frozen=True)
class _Facts:
    """N facts in memory: keys (N, 16) uint8, lengths (N,) int64, values float32, fact after fact."""

    keys: np.ndarray
    lengths: np.ndarray
    values: np.ndarray

    def in_order(self) -> np.ndarray:
        """Which facts make a part, by key; of several facts of one key the first."""
        high, low = _halves(self.keys)
        order = np.lexsort((low, high))
        return order[_first_of_run(high[order], low[order])]

    def part(self, rows: np.ndarray, identity: dict[bytes, bytes]) -> pa.Buffer:
        """The facts at `rows` as a Parquet file."""
        starts = np.cumsum(self.lengths) - self.lengths
        sizes = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(self.lengths[rows], out=sizes[1:])
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(
            sink,
            SCHEMA,
            compression="NONE",
            use_dictionary=False,
            write_statistics=["key"],
            write_page_checksum=True,
            store_schema=False,
        ) as writer:
            for first, last in pairwise(_steps(sizes, GROUP_BYTES // 4, GROUP_FACTS)):
                group = rows[first:last]
                values, offsets = _gather(self.values, starts[group], self.lengths[group])
                columns = [_key_column(self.keys[group]), _value_column(values, offsets)]
                writer.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), len(group))
            writer.add_key_value_metadata(identity | {b"seqprior.store.part": uuid.uuid4().hex.encode()})
        return sink.getvalue()


@dataclass
class _Wanted:
    """Distinct keys in rising order, as their big-endian halves; `inverse` leads from each asked key to its place."""

    high: np.ndarray
    low: np.ndarray
    inverse: np.ndarray
    found: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray) -> _Wanted:
        high, low = _halves(keys)
        order = np.lexsort((low, high))
        high, low = high[order], low[order]
        first = _first_of_run(high, low)
        inverse = np.empty(len(order), np.int64)
        inverse[order] = np.cumsum(first) - 1
        return cls(high[first], low[first], inverse, np.zeros(int(first.sum()), bool))

    def __len__(self) -> int:
        return len(self.high)

    def matches(self, keys: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(M,) places within start to stop, and (M,) rows of `keys`, of the keys that are wanted and not yet found.

        `keys` is (R, 16) in rising order. The fewer are looked for among the more.
        """
        part, own = _halves(keys), (self.high[start:stop], self.low[start:stop])
        if len(part[0]) < len(own[0]):
            place = _places(part, own)
            rows = np.flatnonzero(place >= 0)
            which = place[rows] + start
        else:
            row = _places(own, part)
            which = np.flatnonzero(row >= 0)
            rows = row[which]
            which = which + start
        new = ~self.found[which]
        return which[new], rows[new]


@dataclass
class _Answers:
    """What was found, in the order of finding: places among the wanted keys, lengths and values."""

    which: list[np.ndarray] = field(default_factory=list)
    lengths: list[np.ndarray] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)


def _identity(digest: str, arithmetic: str) -> dict[bytes, bytes]:
    """What a part says about itself; a part in the wrong folder is not believed."""
    named = {"version": str(VERSION), "digest": digest[:32], "arithmetic": arithmetic}
    return {f"seqprior.store.{key}".encode(): value.encode() for key, value in named.items()}


def _key_rows(keys: Keys) -> np.ndarray:
    """(N, 16) uint8."""
    if isinstance(keys, np.ndarray):
        if keys.dtype != np.uint8 or keys.ndim != 2 or keys.shape[1] != KEY_BYTES:
            raise ValueError(f"keys are an array (N, {KEY_BYTES}) uint8; found {keys.shape} {keys.dtype}")
        return np.ascontiguousarray(keys)
    if set(map(len, keys)) - {KEY_BYTES}:
        raise ValueError(f"a key is {KEY_BYTES} bytes; found one of another length")
    return np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES)


def _halves(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, 16) uint8 as two (N,) uint64 whose order is that of the bytes."""
    halves = keys.view(">u8").astype(np.uint64)
    return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])


def _first_of_run(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """(N,) bool, True where a sorted key differs from the one before."""
    first = np.ones(len(high), bool)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    return first


def _places(sought: tuple[np.ndarray, np.ndarray], among: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(N,) int64: where each sought key stands among sorted ones, -1 if nowhere. Keys are pairs of halves."""
    if not len(among[0]):
        return np.full(len(sought[0]), -1, np.int64)
    last = len(among[0]) - 1
    place = np.minimum(np.searchsorted(among[0], sought[0]), last)
    hit = (among[0][place] == sought[0]) & (among[1][place] == sought[1])
    # Different keys of one first half are rare among hashes, and stand next to each other.
    left = np.flatnonzero((among[0][place] == sought[0]) & ~hit & (place < last))
    while left.size:
        place[left] += 1
        left = left[among[0][place[left]] == sought[0][left]]
        equal = among[1][place[left]] == sought[1][left]
        hit[left[equal]] = True
        left = left[~equal & (place[left] < last)]
    place[~hit] = -1
    return place


def _gather(values: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The vectors at `starts` of `lengths`, one after another, and their (N + 1,) offsets."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    gathered = np.empty(offsets[-1], np.float32)
    for first, last in pairwise(_steps(offsets, GATHER, len(lengths))):
        size = lengths[first:last]
        index = np.arange(offsets[first], offsets[last]) + np.repeat(starts[first:last] - offsets[first:last], size)
        gathered[offsets[first] : offsets[last]] = values[index]
    return gathered, offsets


def _steps(offsets: np.ndarray, size: int, count: int) -> list[int]:
    """Cuts 0, ..., N between items so that no piece has more than `count` items or, unless it is one item, `size`."""
    cuts = [0]
    while cuts[-1] < len(offsets) - 1:
        fits = int(np.searchsorted(offsets, offsets[cuts[-1]] + size, "right")) - 1
        cuts.append(min(max(fits, cuts[-1] + 1), cuts[-1] + count, len(offsets) - 1))
    return cuts


def _parts(folder: Path) -> list[Path]:
    """The complete parts of a folder by name; none if it is gone."""
    try:
        return sorted(path for path in folder.iterdir() if PART.fullmatch(path.name))
    except OSError as error:
        if error.errno in GONE:
            return []
        raise


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _note_use(part: Path) -> None:
    """Set the time of a part's last use, by which pruning goes."""
    with suppress(OSError):  # deleted, or another user's: the time of its writing then counts
        if time.time() - part.stat().st_mtime > TOUCH_SECONDS:
            os.utime(part)


@contextmanager
def _opened(part: Path, identity: dict[bytes, bytes]) -> Iterator[pq.ParquetFile]:
    """A part of this model whose footer is whole and whose pages are checked. Raises one of `UNREADABLE`."""
    with part.open("rb") as handle:
        size = os.fstat(handle.fileno()).st_size
        handle.seek(max(size - TAIL_BYTES, 0))
        tail = handle.read()
        length = int.from_bytes(tail[:4], "little") + TAIL_BYTES
        if length <= size:
            handle.seek(size - length)
        if length > size or part.name != _name(handle.read()):
            raise ValueError("its end is missing or damaged; delete it")
        with pq.ParquetFile(handle, page_checksum_verification=True) as file:
            said = file.metadata.metadata or {}
            for name, value in identity.items():
                if said.get(name) != value:
                    what, found = name.decode().rpartition(".")[2], said.get(name, b"missing").decode()
                    raise ValueError(f"its {what} is {found}, expected {value.decode()}")
            if not file.schema_arrow.equals(SCHEMA):
                raise ValueError("its columns are not those of its version")
            yield file


def _name(footer: bytes) -> str:
    """The name of a part by its footer, the length of it and the magic number."""
    return f"part-{blake2b(footer, digest_size=16).hexdigest()}.parquet"


def _key_column(keys: np.ndarray) -> pa.Array:
    """(N, 16) uint8, without a copy."""
    return pa.Array.from_buffers(SCHEMA.field("key").type, len(keys), [None, pa.py_buffer(keys)])


def _value_column(values: np.ndarray, offsets: np.ndarray) -> pa.Array:
    """float32 values and the (N + 1,) offsets of N vectors; the values are not copied."""
    buffers = [None, pa.py_buffer(offsets.astype(np.int32))]
    return pa.Array.from_buffers(SCHEMA.field("value").type, len(offsets) - 1, buffers, children=[pa.array(values)])


def _keys_of(file: pq.ParquetFile, group: int) -> np.ndarray:
    """(R, 16) uint8 of a row group."""
    column = file.read_row_group(group, columns=["key"], use_threads=False).column(0).combine_chunks()
    start = column.offset * KEY_BYTES
    rows = np.frombuffer(column.buffers()[1], np.uint8)[start : start + len(column) * KEY_BYTES]
    return rows.reshape(-1, KEY_BYTES)


def _values_of(file: pq.ParquetFile, group: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of a row group of `count` facts, float32, with the (R,) starts and lengths of its vectors."""
    column = file.read_row_group(group, columns=["value"], use_threads=False).column(0).combine_chunks()
    if len(column) != count:
        raise ValueError(f"it has {len(column)} values for {count} keys; delete it")
    offsets = column.offsets.to_numpy().astype(np.int64)
    return column.values.to_numpy(), offsets[:-1], np.diff(offsets)


def _scan_part(part: Path, identity: dict[bytes, bytes], wanted: _Wanted, answers: _Answers | None) -> bool:
    """Mark the wanted facts of a part as found and collect them if asked. True if there are any."""
    before = int(wanted.found.sum())
    with _opened(part, identity) as file:
        for group in range(file.num_row_groups):
            start, stop = _range(file.metadata.row_group(group).column(0).statistics, wanted)
            if wanted.found[start:stop].all():
                continue  # also if nothing wanted is in the range
            keys = _keys_of(file, group)
            which, rows = wanted.matches(keys, start, stop)
            if answers is not None and which.size:
                values, starts, lengths = _values_of(file, group, len(keys))
                answers.values.append(_gather(values, starts[rows], lengths[rows])[0])
                answers.lengths.append(lengths[rows])
                answers.which.append(which)
            wanted.found[which] = True
    return int(wanted.found.sum()) > before


def _range(statistics: pq.Statistics | None, wanted: _Wanted) -> tuple[int, int]:
    """Which of the wanted keys can be in a row group of these least and greatest keys."""
    if statistics is None or not statistics.has_min_max:
        return 0, len(wanted)
    least, greatest = (np.uint64(int.from_bytes(key[:8], "big")) for key in (statistics.min, statistics.max))
    return int(np.searchsorted(wanted.high, least)), int(np.searchsorted(wanted.high, greatest, "right"))


def _write_part(folder: Path, facts: _Facts, rows: np.ndarray, identity: dict[bytes, bytes]) -> Path:
    """The facts at `rows` as a new part that is complete on the disk before it gets its name.

    Raises:
        BadInput: it cannot be written.
    """
    data = facts.part(rows, identity)
    footer = int.from_bytes(data[-TAIL_BYTES:-4].to_pybytes(), "little") + TAIL_BYTES
    path = folder / _name(data[-footer:].to_pybytes())
    for attempt in range(3):
        try:
            with written_whole(path) as partial, partial.open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            break
        except OSError as error:
            if error.errno == errno.ENOENT and attempt < 2:
                continue  # the folder was deleted meanwhile, which is allowed; written_whole makes it again
            raise BadInput(
                f"{folder}: a part of the score store cannot be written ({error.strerror}); free space or raise the"
                " quota and run again; the parts before it are kept"
            ) from error
    with suppress(OSError):  # not every file system can; then the name may be lost if the host crashes, and no more
        entry = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(entry)
        finally:
            os.close(entry)
    return path


@dataclass(frozen=True)
class Pruned:
    """What pruning did to one folder, or would do: counts of parts and their bytes.

    `merged` parts became `merged_into` parts. What remains is counted after merging; a dry run counts merged parts as
    they were, since it cannot know how many of their facts are the same. `leftovers` are unfinished files of killed
    writers that were removed.
    """

    folder: str
    parts: int = 0
    bytes: int = 0
    removed: int = 0
    removed_bytes: int = 0
    merged: int = 0
    merged_into: int = 0
    leftovers: int = 0


def prune(
    root: Path,
    *,
    keep_bytes: int | None = None,
    older_than_days: float | None = None,
    model: str | None = None,
    compact: bool = False,
    dry_run: bool = False,
) -> list[Pruned]:
    """Remove parts, longest unused first, and merge small ones. Never touches a file younger than an hour.

    Args:
        root: folder of the store. Only folders and files named like those of a store are looked at.
        keep_bytes: remove until no more than this remains, in all folders or in those of `model`.
        older_than_days: remove parts that were neither written nor used for so long.
        model: a folder's name, or a model's digest or its start: nothing else is touched. Without `keep_bytes`,
            `older_than_days` and `compact`, all of that model's parts are removed.
        compact: merge small parts of a folder into few of about 64 MB, without facts that stand in several of them
            or in a large part. Memory stays within a few times 64 MB.
        dry_run: change nothing and report what would be done.

    Returns:
        One report a folder, by name.

    Raises:
        BadInput: `root` is no folder, or `model` is no model of it or several.
    """
    if not root.is_dir():
        raise BadInput(f"{root}: no such folder; expected the folder of a score store; check --store")
    folders = [path for path in sorted(root.iterdir()) if FOLDER.fullmatch(path.name) and path.is_dir()]
    if model is not None:
        folders = _folders_of(root, folders, model)
    present = {folder: _sizes(folder, PART) for folder in folders}
    whole_model = model is not None and keep_bytes is None and older_than_days is None and not compact
    now = time.time()
    due = _due(present, keep_bytes, older_than_days, 0 if whole_model else None, now)
    return [_prune_folder(folder, present[folder], due, compact, dry_run, now) for folder in folders]


def _folders_of(root: Path, folders: list[Path], model: str) -> list[Path]:
    exact = [folder for folder in folders if folder.name == model]
    digests = {folder: FOLDER.fullmatch(folder.name)[1] for folder in folders}
    chosen = exact or [folder for folder in folders if model and digests[folder].startswith(model[:32])]
    if len({digests[folder] for folder in chosen}) != 1:
        there = ", ".join(folder.name for folder in folders) or "none"
        raise BadInput(f"{root}: {model!r} does not name one model of the score store; expected one of {there}")
    return chosen


def _sizes(folder: Path, names: re.Pattern[str]) -> dict[Path, os.stat_result]:
    """The files of such names, the longest unused first."""
    found = {}
    try:
        files = [path for path in folder.iterdir() if names.fullmatch(path.name)]
    except OSError as error:
        log.warning("%s: passed over (%s)", folder, error.strerror)
        return {}
    for path in files:
        with suppress(FileNotFoundError):  # another one prunes too
            found[path] = path.stat()
    return dict(sorted(found.items(), key=lambda item: (item[1].st_mtime, item[0].name)))


def _due(
    present: dict[Path, dict[Path, os.stat_result]],
    keep_bytes: int | None,
    older_than_days: float | None,
    keep_of_model: int | None,
    now: float,
) -> set[Path]:
    """The parts to remove."""
    parts = sorted(
        ((info.st_mtime, path, info.st_size) for files in present.values() for path, info in files.items()),
        key=lambda part: part[:2],
    )
    limit = keep_of_model if keep_bytes is None else keep_bytes
    total = sum(size for *_, size in parts)
    due = set()
    for used, path, size in parts:
        old = older_than_days is not None and now - used > older_than_days * 86_400
        if now - used > YOUNG_SECONDS and (old or (limit is not None and total > limit)):
            due.add(path)
            total -= size
    return due


def _prune_folder(
    folder: Path, present: dict[Path, os.stat_result], due: set[Path], compact: bool, dry_run: bool, now: float
) -> Pruned:
    removed = [path for path in present if path in due and (dry_run or _removed(path))]
    left = {path: info for path, info in present.items() if path not in set(removed)}
    old = [path for path, info in _sizes(folder, PARTIAL).items() if now - info.st_mtime > YOUNG_SECONDS]
    leftovers = [path for path in old if dry_run or _removed(path)]
    report = Pruned(
        folder.name,
        removed=len(removed),
        removed_bytes=sum(present[path].st_size for path in removed),
        leftovers=len(leftovers),
    )
    if compact:
        young = {path for path, info in left.items() if now - info.st_mtime <= YOUNG_SECONDS}
        small = {path: info for path, info in left.items() if info.st_size < PART_BYTES // 2 and path not in young}
        large = [path for path in left if path not in small]
        for group in _batches(small):
            if dry_run:
                report = replace(report, merged=report.merged + len(group), merged_into=report.merged_into + 1)
                continue
            merged, new = _merge(folder, group, large)
            large += new
            report = replace(report, merged=report.merged + merged, merged_into=report.merged_into + len(new))
    if not dry_run:
        left = _sizes(folder, PART)
        with suppress(OSError):  # not empty
            folder.rmdir()
    return replace(report, parts=len(left), bytes=sum(info.st_size for info in left.values()))


def _removed(path: Path) -> bool:
    """Delete a file; False with a warning if it belongs to somebody else."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s: left, it cannot be deleted (%s)", path, error.strerror)
        return False
    return True


def _batches(small: dict[Path, os.stat_result]) -> list[list[Path]]:
    """Neighbours in age that make one part together; at least two each."""
    batches: list[list[Path]] = [[]]
    size = 0
    for path, info in small.items():
        if size + info.st_size > PART_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(path)
        size += info.st_size
    return [batch for batch in batches if len(batch) > 1]


def _merge(folder: Path, batch: list[Path], large: list[Path]) -> tuple[int, list[Path]]:
    """Merge parts into one, without what `large` parts have: the count of parts that are gone, and the new part.

    The new part is complete before an old one is deleted; a crash in between leaves facts twice, which does no harm.
    """
    digest = FOLDER.fullmatch(folder.name)[1]
    identity = _identity(digest, folder.name[len(digest) + 1 :])
    read: list[Path] = []
    pieces: list[_Facts] = []
    used = 0.0
    for path in batch:
        try:
            time_of_use = path.stat().st_mtime
            pieces += list(_facts_of(path, identity))
        except UNREADABLE as error:
            log.warning("%s: left as it is (%s)", path, _first_line(error))
        else:
            read.append(path)
            used = max(used, time_of_use)
    if len(read) < 2:
        return 0, []
    facts = _Facts(
        np.concatenate([piece.keys for piece in pieces]),
        np.concatenate([piece.lengths for piece in pieces]),
        np.concatenate([piece.values for piece in pieces]),
    )
    pieces.clear()
    rows = facts.in_order()
    wanted = _Wanted.of(facts.keys[rows])  # which is in order already
    for path in large:
        try:
            _scan_part(path, identity, wanted, None)
        except UNREADABLE as error:
            log.warning("%s: left as it is (%s)", path, _first_line(error))
    rows = rows[~wanted.found]
    new = []
    if len(rows):
        new.append(_write_part(folder, facts, rows, identity))
        with suppress(OSError):  # deleted at once, or a file system without times
            os.utime(new[0], (used, used))  # merging is no use
    return sum(_removed(path) for path in read), new


def _facts_of(part: Path, identity: dict[bytes, bytes]) -> Iterator[_Facts]:
    """The facts of a part by row group."""
    with _opened(part, identity) as file:
        for group in range(file.num_row_groups):
            keys = _keys_of(file, group)
            values, starts, lengths = _values_of(file, group, len(keys))
            yield _Facts(keys, lengths, _gather(values, starts, lengths)[0])
