"""The score store keeps every fact bit by bit, whoever writes, dies, deletes or damages at the same time."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from contextlib import contextmanager
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqprior import store as module
from seqprior.errors import BadInput
from seqprior.store import ScoreStore, prune

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
DIGEST, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
HOUR, DAY = 3_600.0, 86_400.0


def key(number: int) -> bytes:
    return blake2b(str(number).encode(), digest_size=16).digest()


def vector(number: int, width: int = 0) -> np.ndarray:
    """A fact that anybody can compute again from its number."""
    draw = np.random.default_rng(number)
    return draw.normal(size=width or draw.integers(1, 9)).astype(np.float32)


def open_store(root: Path, digest: str = DIGEST, arithmetic: str = "float32") -> ScoreStore:
    return ScoreStore(root, digest, arithmetic)


def add(store: ScoreStore, numbers, width: int = 0) -> Path:
    """Write the facts of these numbers as one part, and return it."""
    before = set(parts(store))
    with store.writer() as writer:
        writer.add([key(number) for number in numbers], [vector(number, width) for number in numbers])
    (part,) = set(parts(store)) - before
    return part


def parts(store: ScoreStore) -> list[Path]:
    return sorted(store.folder.glob("part-*.parquet"))


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def numbers_found(store: ScoreStore, numbers, width: int = 0) -> set[int]:
    """Which of the numbers are known; each fact that is found has to be the right one."""
    facts = store.lookup([key(number) for number in numbers])
    known = {number for number in numbers if key(number) in facts}
    assert len(known) == len(facts)
    for number in known:
        assert facts[key(number)].tobytes() == vector(number, width).tobytes()
    return known


@contextmanager
def peak_bytes():
    """A list that gets the peak of numpy's and Arrow's memory within the block."""
    peak: list[int] = []
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        yield peak
        peak.append(tracemalloc.get_traced_memory()[1] + pool.max_memory())
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


@contextmanager
def read_only_folder():
    """A folder in which this process may not write, also if it is root's."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    folder.chmod(0o555)
    if root:
        os.seteuid(65_534)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(0o755)
        shutil.rmtree(folder)


def start_python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A process with `seqprior` and this module's functions at hand."""
    path = os.pathsep.join([str(SCRIPTS), str(Path(__file__).parent)])
    return subprocess.Popen(
        [sys.executable, "-c", "from test_store import *\n" + code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


# Facts


def test_facts_come_back_bit_by_bit(tmp_path):
    store = open_store(tmp_path)
    tiny, huge = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    facts = {key(1): np.array([-0.0, 0.0, tiny, -huge], np.float32), key(2): np.array([-0.0], np.float32)}
    with store.writer() as writer:
        writer.add(list(facts), list(facts.values()))
    found = open_store(tmp_path).lookup(list(facts))
    assert {name: value.tobytes() for name, value in found.items()} == {
        name: value.tobytes() for name, value in facts.items()
    }
    assert all(value.dtype == np.float32 for value in found.values())


@pytest.mark.parametrize("seed", range(8))
def test_the_store_does_what_a_dict_does(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(module, "GROUP_FACTS", 7)  # several row groups
    monkeypatch.setattr(module, "GATHER", 16)
    draw = np.random.default_rng(seed)
    # Few distinct halves, so that keys share one of them, and zeros at both ends.
    pool = [bytes(draw.choice([0, 255], 16, p=[0.7, 0.3]).astype(np.uint8)) for _ in range(120)]
    store, truth = open_store(tmp_path), {}
    for _ in range(draw.integers(1, 8)):
        with store.writer() as writer:
            for _ in range(draw.integers(0, 5)):
                new = [pool[i] for i in draw.integers(0, 120, draw.integers(0, 12))]
                vectors = [vector(int.from_bytes(name, "big") % 2**32) for name in new]
                writer.add(new, vectors)
                truth |= dict(zip(new, vectors, strict=True))
        asked = [pool[i] for i in draw.integers(0, 120, draw.integers(0, 60))]
        found = store.lookup(asked)
        assert set(found) == {name for name in asked if name in truth}
        assert all(found[name].tobytes() == truth[name].tobytes() for name in found)
        assert store.known(asked) == len(found)


def test_arrays_are_in_the_order_of_the_keys_with_repeats(tmp_path):
    store = open_store(tmp_path)
    add(store, [3, 1, 2])
    asked = [2, 9, 1, 2, 3, 9]
    found, offsets, values = store.lookup_arrays(np.frombuffer(b"".join(map(key, asked)), np.uint8).reshape(-1, 16))
    assert found.tolist() == [True, False, True, True, True, False]
    assert (offsets.dtype, values.dtype, len(offsets)) == (np.int64, np.float32, 7)
    expected = [b"" if number == 9 else vector(number).tobytes() for number in asked]
    assert [values[a:b].tobytes() for a, b in pairwise(offsets)] == expected


def test_no_keys_and_an_empty_store_are_no_special_cases(tmp_path):
    store = open_store(tmp_path)
    assert store.lookup([]) == {}
    assert store.lookup([key(1)]) == {}
    assert store.known([key(1)]) == 0
    with store.writer() as writer:
        writer.add([], [])
    assert parts(store) == []
    add(store, [1])
    found, offsets, values = store.lookup_arrays(np.empty((0, 16), np.uint8))
    assert (found.tolist(), offsets.tolist(), values.tolist()) == ([], [0], [])


def test_models_and_arithmetics_do_not_share_facts(tmp_path):
    add(open_store(tmp_path), [1])
    assert numbers_found(open_store(tmp_path), [1]) == {1}
    assert numbers_found(open_store(tmp_path, OTHER), [1]) == set()
    assert numbers_found(open_store(tmp_path, arithmetic="bfloat16"), [1]) == set()


def test_vectors_may_be_an_array_and_are_copied(tmp_path):
    store = open_store(tmp_path)
    keys = np.frombuffer(key(1) + key(2), np.uint8).reshape(2, 16).copy()
    block = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    with store.writer() as writer:
        writer.add(keys, block)
        keys[:] = 0
        block[:] = 0
    assert [store.lookup([key(number)])[key(number)].tolist() for number in (1, 2)] == [[1, 2, 3], [4, 5, 6]]


def test_of_two_answers_the_first_added_stays(tmp_path):
    store = open_store(tmp_path)
    with store.writer() as writer:
        writer.add([key(1)], [np.float32([1])])
        writer.add([key(1), key(1)], [np.float32([2, 2]), np.float32([3])])
    assert store.lookup([key(1)])[key(1)].tolist() == [1]
    assert pq.read_metadata(parts(store)[0]).num_rows == 1


def test_of_two_parts_that_hold_a_fact_one_answers_and_the_other_is_not_read(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    for number in (1, 2):
        with store.writer() as writer:
            writer.add([key(1), key(number + 1)], [np.float32([number]), np.float32([number] * 3)])
    first = pq.read_table(parts(store)[0]).to_pylist()
    (expected,) = [row["value"] for row in first if row["key"] == key(1)]
    read = []
    values_of = module._values_of
    monkeypatch.setattr(module, "_values_of", lambda *arguments: read.append(arguments) or values_of(*arguments))
    found, offsets, values = store.lookup_arrays([key(1)])
    assert (found.tolist(), offsets.tolist(), values.tolist()) == ([True], [0, 1], expected)
    assert len(read) == 1
    found, offsets, values = store.lookup_arrays([key(2), key(1), key(3)])
    assert (offsets.tolist(), values.tolist()) == ([0, 3, 4, 7], [1, 1, 1, *expected, 2, 2, 2])
    assert len(read) == 3


@pytest.mark.parametrize(
    ("keys", "vectors"),
    [
        ([key(1), key(2)], [np.float32([1]), np.float32([np.nan])]),
        ([key(1), key(2)], [np.float32([1]), np.float32([0, -np.inf])]),
        ([key(1)], [np.array([1.0])]),
        ([key(1)], [np.float16([1])]),
        ([key(1)], [np.float32([])]),
        ([key(1)], [np.float32([[1]])]),
        ([key(1)], np.empty((1, 0), np.float32)),
        ([key(1)], []),
        ([key(1)[:15]], [np.float32([1])]),
        ([key(1)[:15], key(1) + b"x"], [np.float32([1]), np.float32([1])]),
        (np.zeros((1, 8), np.uint8), [np.float32([1])]),
        (np.zeros((1, 16), np.int8), [np.float32([1])]),
    ],
)
def test_what_is_no_fact_is_refused_and_nothing_of_it_is_kept(tmp_path, keys, vectors):
    store = open_store(tmp_path)
    with store.writer() as writer, pytest.raises(ValueError, match=r"key|vector|fact"):
        writer.add(keys, vectors)
    assert parts(store) == []


@pytest.mark.parametrize(
    ("digest", "arithmetic"), [("abc", "float32"), (DIGEST, "../up"), (DIGEST, ""), ("G" * 64, "x")]
)
def test_a_folder_is_named_by_a_digest_and_an_arithmetic(tmp_path, digest, arithmetic):
    with pytest.raises(ValueError, match="no name"):
        ScoreStore(tmp_path, digest, arithmetic)
    assert list(tmp_path.iterdir()) == []


# Writing


def test_what_was_computed_is_kept_when_an_exception_passes(tmp_path):
    store = open_store(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.writer() as writer:  # noqa: PT012
        writer.add([key(1)], [vector(1)])
        raise KeyboardInterrupt
    assert numbers_found(store, [1]) == {1}


@pytest.mark.parametrize(("name", "value"), [("PART_BYTES", 200), ("PART_FACTS", 10), ("PART_SECONDS", 0.0)])
def test_a_part_is_written_when_enough_is_collected_or_time_has_passed(tmp_path, monkeypatch, name, value):
    store = open_store(tmp_path)
    with store.writer() as writer:
        writer.add([key(number) for number in range(9)], [np.float32([number]) for number in range(9)])
        assert parts(store) == []
        monkeypatch.setattr(module, name, value)
        writer.add([key(9)], [np.float32([9])])
        assert len(parts(store)) == 1
        assert store.known([key(number) for number in range(10)]) == 10
    assert len(parts(store)) == 1


def test_other_programs_can_read_a_part(tmp_path):
    part = add(open_store(tmp_path), range(50))
    rows = pq.read_table(part).to_pylist()
    assert [row["key"] for row in rows] == sorted(key(number) for number in range(50))
    assert {row["key"]: row["value"] for row in rows} == {key(n): vector(n).tolist() for n in range(50)}


def test_files_follow_the_umask(tmp_path):
    before = os.umask(0o002)
    try:
        part = add(open_store(tmp_path), [1])
    finally:
        os.umask(before)
    assert part.stat().st_mode & 0o777 == 0o664
    assert part.parent.stat().st_mode & 0o777 == 0o775


def test_a_store_that_cannot_be_written_is_refused_when_opened():
    with read_only_folder() as folder, pytest.raises(BadInput, match="score store cannot be written"):
        open_store(folder)


def test_a_store_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="score store cannot be written"):
        open_store(tmp_path / "file")


def test_a_full_disk_is_named_and_the_parts_before_it_stay(tmp_path):
    """A limit on the size of files stands for the full disk or the quota."""
    process = start_python(
        """
store = open_store(Path(sys.argv[1]))
add(store, range(100))
from resource import RLIMIT_FSIZE, setrlimit
setrlimit(RLIMIT_FSIZE, (20_000, 20_000))
try:
    with store.writer() as writer:
        writer.add([key(number) for number in range(100, 5000)], [vector(number) for number in range(100, 5000)])
except BadInput as error:
    print(error)
""",
        tmp_path,
    )
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "a part of the score store cannot be written (File too large)" in said
    store = open_store(tmp_path)
    assert numbers_found(store, range(5000)) == set(range(100))
    assert [path.name for path in store.folder.iterdir()] == [path.name for path in parts(store)]


def test_facts_that_could_not_be_written_are_held_for_another_try(tmp_path, monkeypatch):
    store = open_store(tmp_path)

    def fail(_):
        raise OSError(28, "No space left on device")

    with store.writer() as writer:
        writer.add([key(1)], [vector(1)])
        with monkeypatch.context() as patch:
            patch.setattr(module.os, "fsync", fail)
            with pytest.raises(BadInput, match=r"No space left on device.*the parts before it are kept"):
                writer.flush()
        assert list(store.folder.iterdir()) == []
    assert numbers_found(store, [1]) == {1}


def test_a_failing_disk_does_not_hide_the_exception_that_ended_the_block(tmp_path, monkeypatch, caplog):
    def fail(_):
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr(module.os, "fsync", fail)
    with pytest.raises(ZeroDivisionError), open_store(tmp_path).writer() as writer:  # noqa: PT012
        writer.add([key(1)], [vector(1)])
        raise ZeroDivisionError
    assert "Disk quota exceeded" in caplog.text


def test_a_folder_deleted_under_a_writer_is_made_again(tmp_path):
    store = open_store(tmp_path / "store")
    with store.writer() as writer:
        writer.add([key(1)], [vector(1)])
        shutil.rmtree(tmp_path / "store")
    assert numbers_found(store, [1]) == {1}


def test_a_folder_deleted_while_a_part_is_written_is_made_again(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    fsync, deleted = os.fsync, []

    def delete_once(number):
        fsync(number)
        if not deleted:
            deleted.append(store.folder)
            shutil.rmtree(store.folder)

    monkeypatch.setattr(module.os, "fsync", delete_once)
    add(store, [1])
    assert deleted
    assert numbers_found(store, [1]) == {1}


# Several at once


def test_four_writers_and_a_reader_at_once_lose_nothing(tmp_path):
    code = """
module.PART_FACTS = 40
first = int(sys.argv[2])
with open_store(Path(sys.argv[1])).writer() as writer:
    for number in range(first, first + 500):
        writer.add([key(number)], [vector(number)])
"""
    store = open_store(tmp_path)
    writers = [start_python(code, tmp_path, first) for first in (0, 250, 500, 2000)]  # the first three overlap
    expected = {*range(1000), *range(2000, 2500)}
    seen: set[int] = set()
    while any(process.poll() is None for process in writers):
        now = numbers_found(store, range(2500))
        assert seen <= now <= expected  # nothing that was there goes away
        seen = now
    assert [process.wait() for process in writers] == [0] * 4
    assert numbers_found(store, range(2500)) == expected


def test_a_killed_writer_leaves_whole_parts_only(tmp_path):
    process = start_python(
        """
module.PART_FACTS = 2000
values = np.arange(20_000, dtype=np.float32).reshape(2000, 10)
keys = np.frombuffer(b"".join(map(key, range(2000))), np.uint8).reshape(-1, 16)
with open_store(Path(sys.argv[1])).writer() as writer:
    print("started", flush=True)
    while True:
        writer.add(keys, values)
""",
        tmp_path,
    )
    assert process.stdout.readline() == "started\n"
    store = open_store(tmp_path)
    deadline = time.monotonic() + 60
    while not parts(store) and time.monotonic() < deadline:
        time.sleep(0.01)
    while process.poll() is None:  # in the middle of writing a file
        if list(store.folder.glob(".partial-*")):
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert process.returncode == -signal.SIGKILL
    assert parts(store)
    for part in parts(store):
        assert pq.read_table(part).num_rows == 2000
    assert store.known([key(number) for number in range(2000)]) == 2000


def test_unfinished_files_are_not_read_and_go_when_they_are_old(tmp_path):
    store = open_store(tmp_path)
    part = add(store, [1])
    for name, seconds in (("old", 2 * HOUR), ("new", 0)):
        copy = store.folder / f".partial-{name}-{part.name}"
        shutil.copy(part, copy)
        age(copy, seconds)
    part.unlink()
    assert numbers_found(store, [1]) == set()
    (report,) = prune(tmp_path, older_than_days=365)
    assert report.leftovers == 1
    assert [path.name for path in store.folder.iterdir()] == [f".partial-new-{part.name}"]


def test_parts_that_vanish_while_they_are_read_are_no_error(tmp_path, monkeypatch, caplog):
    store = open_store(tmp_path)
    for first in range(0, 100, 10):
        add(store, range(first, first + 10))
    listed = module._parts
    gone = parts(store)[3]

    def listing(folder):
        found = listed(folder)
        gone.unlink(missing_ok=True)
        return found

    monkeypatch.setattr(module, "_parts", listing)
    assert len(numbers_found(store, range(100))) == 90
    assert caplog.text == ""


def test_a_store_deleted_while_it_is_read_has_no_facts(tmp_path):
    store = open_store(tmp_path / "store")
    add(store, [1])
    shutil.rmtree(tmp_path / "store")
    assert numbers_found(store, [1]) == set()
    assert store.known([key(1)]) == 0


def test_merging_at_the_same_time_hides_no_fact(tmp_path):
    store = open_store(tmp_path)
    for first in range(0, 400, 10):
        age(add(store, range(first, first + 10)), 2 * HOUR)
    stop = threading.Event()
    failures: list[BaseException] = []

    def keep_merging():
        try:
            while not stop.is_set():
                prune(tmp_path, compact=True)
                for number in range(400, 410):
                    age(add(store, [number]), 2 * HOUR)
        except BaseException as error:
            failures.append(error)
            raise

    merging = threading.Thread(target=keep_merging)
    merging.start()
    try:
        for _ in range(25):
            assert numbers_found(store, range(400)) == set(range(400))
    finally:
        stop.set()
        merging.join()
    assert failures == []


# Damage


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"no Parquet at all, but of some length", id="garbage"),
        pytest.param(lambda data: data[: len(data) // 2], id="cut"),
        pytest.param(lambda data: data[:-1], id="cut by one byte"),
        pytest.param(lambda data: data[:100] + bytes(len(data) - 100), id="zeros after the start"),
        pytest.param(lambda data: bytes(len(data) // 2) + data[len(data) // 2 :], id="zeros at the start"),
        pytest.param(lambda data: data[:5] + data, id="shifted"),
    ],
)
def test_a_damaged_part_is_skipped_with_one_warning_that_names_it(tmp_path, caplog, damage):
    store = open_store(tmp_path)
    add(store, range(100))
    bad = add(store, range(100, 200))
    bad.write_bytes(damage(bad.read_bytes()))
    assert numbers_found(store, range(200)) == set(range(100))
    numbers_found(store, range(200))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [str(bad) in record.getMessage() for record in warnings] == [True]
    add(store, range(100, 200))  # computed again
    assert numbers_found(store, range(200)) == set(range(200))


def test_flipped_bits_never_give_a_wrong_fact(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(module, "GROUP_FACTS", 20)
    part = add(open_store(tmp_path), range(60))
    data, draw = part.read_bytes(), np.random.default_rng(0)
    lost = 0
    for _ in range(400):
        flipped = bytearray(data)
        flipped[draw.integers(len(data))] ^= 1 << draw.integers(8)
        part.write_bytes(flipped)
        lost += len(numbers_found(open_store(tmp_path), range(60))) < 60
    assert lost > 300  # bits of the page headers do not matter


@pytest.mark.parametrize(
    "strange",
    [
        {b"seqprior.store.version": b"2"},
        {b"seqprior.store.digest": OTHER[:32].encode()},
        {b"seqprior.store.arithmetic": b"bfloat16"},
    ],
)
def test_parts_of_another_version_or_model_are_skipped_with_a_warning(tmp_path, caplog, strange):
    store = open_store(tmp_path)
    facts = module._Facts(np.frombuffer(key(1), np.uint8).reshape(1, 16), np.array([1]), np.float32([5]))
    part = module._write_part(store.folder, facts, np.array([0]), store._identity | strange)
    assert store.lookup([key(1)]) == {}
    (message,) = [record.getMessage() for record in caplog.records]
    assert str(part) in message and next(iter(strange.values())).decode() in message
    age(part, 2 * HOUR)
    age(add(store, [2]), 2 * HOUR)
    prune(tmp_path, compact=True)
    assert part.exists()  # a later version may still want it


def test_a_part_that_may_not_be_read_is_skipped_with_a_warning(tmp_path, monkeypatch, caplog):
    store = open_store(tmp_path)
    closed, _ = add(store, [1]), add(store, [2])
    opened = Path.open

    def refuse(path, *arguments, **options):
        if path == closed:
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    assert numbers_found(store, [1, 2]) == {2}
    assert "Permission denied" in caplog.text and str(closed) in caplog.text


# Cost


@pytest.fixture(scope="module")
def large_store(tmp_path_factory):
    """200,000 facts of 64 numbers, 54 MB, in two parts of several row groups; their keys, and their values' bytes."""
    store = open_store(tmp_path_factory.mktemp("store"))
    draw = np.random.default_rng(7)
    keys = draw.integers(0, 256, (200_000, 16), dtype=np.uint8)
    values = draw.normal(size=(200_000, 64)).astype(np.float32)
    with store.writer() as writer:
        writer.add(keys[:120_000], values[:120_000])
        writer.flush()
        writer.add(keys[120_000:], values[120_000:])
    assert sum(path.stat().st_size for path in parts(store)) > values.nbytes
    return store, keys, values


def test_memory_follows_what_is_found_and_not_the_store(large_store):
    store, keys, values = large_store
    with peak_bytes() as peak:
        found, _, got = store.lookup_arrays(keys[::100])
    assert found.all() and got.tobytes() == values[::100].tobytes()
    assert peak[0] < 4 * module.GROUP_BYTES + 4 * got.nbytes < values.nbytes / 2


def test_looking_up_200_000_unknown_facts_takes_little_memory(large_store):
    store, keys, values = large_store
    asked = np.random.default_rng(8).integers(0, 256, keys.shape, dtype=np.uint8)
    with peak_bytes() as peak:
        found, offsets, got = store.lookup_arrays(asked)
    assert not found.any() and not offsets.any() and not got.size
    assert peak[0] < 6 * asked.nbytes < values.nbytes / 2  # 96 bytes a key


def test_looking_up_everything_takes_twice_what_is_found(large_store):
    store, keys, values = large_store
    with peak_bytes() as peak:
        found, _, got = store.lookup_arrays(keys)
    assert found.all() and got.tobytes() == values.tobytes()
    assert peak[0] < 2 * values.nbytes + 5 * module.GROUP_BYTES + 8 * keys.nbytes


def test_values_are_not_read_where_nothing_matches(large_store, monkeypatch):
    store, keys, _ = large_store
    read = []
    values_of = module._values_of
    monkeypatch.setattr(module, "_values_of", lambda *arguments: read.append(arguments) or values_of(*arguments))
    assert store.known(keys) == len(keys)
    assert not store.lookup_arrays(np.random.default_rng(9).integers(0, 256, (1000, 16), dtype=np.uint8))[0].any()
    assert read == []
    assert store.lookup_arrays(keys[:1])[0].all()
    assert len(read) == 1  # one row group


def test_row_groups_whose_range_of_keys_holds_nothing_wanted_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROUP_FACTS", 10)
    store = open_store(tmp_path)
    add(store, range(100))
    read = []
    keys_of = module._keys_of
    monkeypatch.setattr(module, "_keys_of", lambda file, group: read.append(group) or keys_of(file, group))
    ordered = sorted(range(100), key=key)
    for place in (0, 9, 10, 55, 99):
        assert numbers_found(store, [ordered[place]]) == {ordered[place]}
    assert read == [0, 0, 1, 5, 9]


def test_bytes_of_values_are_not_read_where_nothing_matches(large_store):
    """The kernel counts what the process reads."""
    counter = Path("/proc/self/io")
    if not counter.exists():
        pytest.skip("no /proc/self/io on this system")

    def bytes_read():
        return int(counter.read_text().split()[1])

    store, keys, values = large_store
    before = bytes_read()
    store.known(keys)
    assert keys.nbytes < bytes_read() - before < keys.nbytes * 1.5 < values.nbytes / 2


# Use and pruning


def test_a_look_up_that_finds_something_notes_the_use_of_a_part_once_a_day(tmp_path):
    store = open_store(tmp_path)
    used, unused, fresh = add(store, [1]), add(store, [2]), add(store, [3])
    for part, seconds in ((used, 3 * DAY), (unused, 3 * DAY), (fresh, 3 * HOUR)):
        age(part, seconds)
    before = {part: part.stat().st_mtime for part in (used, unused, fresh)}
    store.known([key(number) for number in (1, 2, 3)])  # an estimate is no use
    assert {part: part.stat().st_mtime for part in before} == before
    numbers_found(store, [1, 3])
    assert time.time() - used.stat().st_mtime < HOUR
    assert (unused.stat().st_mtime, fresh.stat().st_mtime) == (before[unused], before[fresh])


def test_pruning_by_size_removes_the_longest_unused_and_nothing_young(tmp_path):
    one, two = open_store(tmp_path), open_store(tmp_path, OTHER)
    made = [add(one, range(100)), add(two, range(100)), add(one, range(100, 200)), add(two, range(100, 200))]
    sizes = [part.stat().st_size for part in made]
    for part, seconds in zip(made, (4 * DAY, 3 * DAY, 2 * DAY, 0.5 * HOUR), strict=True):
        age(part, seconds)
    reports = prune(tmp_path, keep_bytes=sizes[2] + sizes[3], dry_run=True)
    assert [report.removed for report in reports] == [1, 1]
    assert all(part.exists() for part in made)
    assert prune(tmp_path, keep_bytes=sizes[2] + sizes[3]) == reports
    assert [part.exists() for part in made] == [False, False, True, True]
    prune(tmp_path, keep_bytes=0)
    assert [part.exists() for part in made] == [False, False, False, True]
    (left,) = prune(tmp_path, keep_bytes=0)  # the empty folder is gone
    assert (left.folder, left.parts, left.bytes) == (two.folder.name, 1, sizes[3])


def test_pruning_by_age_removes_what_was_not_used_for_so_long(tmp_path):
    store = open_store(tmp_path)
    old, new = add(store, [1]), add(store, [2])
    age(old, 31 * DAY)
    age(new, 29 * DAY)
    (report,) = prune(tmp_path, older_than_days=30)
    assert (report.removed, report.parts, report.bytes) == (1, 1, new.stat().st_size)
    assert (old.exists(), new.exists()) == (False, True)
    age(new, 0.5 * HOUR)
    assert prune(tmp_path, older_than_days=0)[0].removed == 0


def test_pruning_a_model_removes_its_parts_and_no_others(tmp_path):
    mine, half, other = open_store(tmp_path), open_store(tmp_path, arithmetic="bfloat16"), open_store(tmp_path, OTHER)
    for store in (mine, half, other):
        age(add(store, [1]), 2 * HOUR)
    with pytest.raises(BadInput, match=r"does not name one model.*expected one of"):
        prune(tmp_path, model="")
    with pytest.raises(BadInput, match="does not name one model"):
        prune(tmp_path, model="77")
    assert [report.removed for report in prune(tmp_path, model=half.folder.name)] == [1]
    assert (numbers_found(mine, [1]), numbers_found(half, [1])) == ({1}, set())
    assert [report.removed for report in prune(tmp_path, model=DIGEST)] == [1]
    assert (numbers_found(mine, [1]), numbers_found(other, [1])) == (set(), {1})
    assert [report.removed for report in prune(tmp_path, model=OTHER[:6], older_than_days=1)] == [0]
    assert numbers_found(other, [1]) == {1}


def test_pruning_leaves_alone_what_is_not_the_stores(tmp_path):
    store = open_store(tmp_path)
    part = add(store, [1])
    strangers = [
        store.folder / "notes.txt",
        store.folder / "part-of-something.parquet",
        tmp_path / "results" / part.name,
    ]
    for path in strangers:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        age(path, 99 * DAY)
    age(part, 99 * DAY)
    prune(tmp_path, keep_bytes=0, older_than_days=0, compact=True)
    assert not part.exists()
    assert all(path.read_text() == "mine" for path in strangers)


def test_pruning_no_store_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no such folder; expected the folder of a score store"):
        prune(tmp_path / "nowhere", keep_bytes=0)


def test_merging_makes_few_sorted_parts_without_duplicates(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "GROUP_FACTS", 16)
    store = open_store(tmp_path)
    for first in range(0, 300, 10):
        age(add(store, range(first, first + 20)), 2 * DAY)
    used = parts(store)[0]
    age(used, 5 * HOUR)
    size = sum(part.stat().st_size for part in parts(store))
    (dry,) = prune(tmp_path, compact=True, dry_run=True)
    assert (dry.merged, dry.merged_into, dry.parts) == (30, 1, 30)
    (report,) = prune(tmp_path, compact=True)
    assert (report.merged, report.merged_into, report.parts) == (30, 1, 1)
    assert report.bytes < size
    (merged,) = parts(store)
    assert pq.read_table(merged).column("key").to_pylist() == sorted(key(number) for number in range(310))
    assert numbers_found(store, range(400)) == set(range(310))
    assert 4 * HOUR < time.time() - merged.stat().st_mtime < 6 * HOUR  # the last use of any of them
    assert prune(tmp_path, compact=True)[0].merged == 0


def test_merging_leaves_out_what_a_large_part_has(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    large = add(store, range(1000))
    age(large, 2 * HOUR)
    monkeypatch.setattr(module, "PART_BYTES", large.stat().st_size)
    small = [add(store, range(first, first + 10)) for first in (0, 995, 500)]
    for part in small:
        age(part, 2 * HOUR)
    prune(tmp_path, compact=True)
    (new,) = set(parts(store)) - {large}
    assert new not in small and large.exists()
    assert pq.read_table(new).column("key").to_pylist() == sorted(key(number) for number in range(1000, 1005))


def test_merging_takes_batches_and_neither_young_nor_damaged_parts(tmp_path, monkeypatch, caplog):
    store = open_store(tmp_path)
    old = [add(store, range(first, first + 100)) for first in range(0, 600, 100)]
    young, bad = add(store, [9000]), add(store, range(8000, 8100))
    bad.write_bytes(bad.read_bytes()[:-3])
    for part in (*old, bad):
        age(part, 2 * HOUR)
    monkeypatch.setattr(module, "PART_BYTES", 4 * max(part.stat().st_size for part in old))
    (report,) = prune(tmp_path, compact=True)
    assert report.merged == 6
    assert report.merged_into == 2
    assert young.exists() and bad.exists() and not any(part.exists() for part in old)
    assert str(bad) in caplog.text
    assert numbers_found(store, range(9001)) == {*range(600), 9000}


def test_a_crash_after_merging_leaves_duplicates_that_do_no_harm(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    for first in (0, 5):
        age(add(store, range(first, first + 10)), 2 * HOUR)

    def crash(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_removed", crash)
        with pytest.raises(KeyboardInterrupt):
            prune(tmp_path, compact=True)
    assert len(parts(store)) == 3
    assert numbers_found(store, range(20)) == set(range(15))
    prune(tmp_path, compact=True)
    assert len(parts(store)) == 1
    assert numbers_found(store, range(20)) == set(range(15))


def test_merging_takes_memory_by_the_batch(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    draw = np.random.default_rng(3)
    for _ in range(30):
        with store.writer() as writer:
            keys = draw.integers(0, 256, (4000, 16), dtype=np.uint8)
            writer.add(keys, draw.normal(size=(4000, 64)).astype(np.float32))
    for part in parts(store):
        age(part, 2 * HOUR)
    total = sum(part.stat().st_size for part in parts(store))
    monkeypatch.setattr(module, "PART_BYTES", 4 * 2**20)
    monkeypatch.setattr(module, "GROUP_BYTES", 2**20)
    with peak_bytes() as peak:
        (report,) = prune(tmp_path, compact=True)
    assert report.merged == 30
    assert peak[0] < 6 * module.PART_BYTES < total


def test_a_part_that_may_not_be_deleted_is_left_and_named(tmp_path, monkeypatch, caplog):
    store = open_store(tmp_path)
    part = add(store, [1])
    age(part, 2 * HOUR)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        (report,) = prune(tmp_path, keep_bytes=0)
    assert (report.removed, report.parts) == (0, 1)
    assert f"{part}: left, it cannot be deleted (Permission denied)" in caplog.text


def run_prune(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "prune_store.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_script_says_what_it_removes_and_what_remains(tmp_path):
    one, two = open_store(tmp_path), open_store(tmp_path, OTHER)
    for part in (add(one, range(50)), add(one, range(50, 90)), add(two, range(10))):
        age(part, 2 * DAY)
    answer = run_prune("--store", tmp_path, "--model", DIGEST[:8], "--compact")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith(f"{one.folder.name}: parts removed 0 (0.000 GB), merged 2 into 1, remaining 1 (")
    answer = run_prune("--store", tmp_path, "--older-than-days", 1.5, "--dry-run")
    assert answer.stdout.count("parts would be removed 1 (") == 2
    assert answer.stdout.splitlines()[-1] == "total: would be removed 0.000 GB, remaining 0.000 GB"
    assert len(parts(one)) == len(parts(two)) == 1
    assert run_prune("--store", tmp_path, "--keep-gb", 0).returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "nothing to do: give --keep-gb, --older-than-days, --model or --compact"),
        (("--dry-run",), "nothing to do"),
        (("--keep-gb", "-1"), "--keep-gb"),
        (("--older-than-days", "nan"), "--older-than-days"),
        (("--model", "0123"), "does not name one model of the score store"),
    ],
)
def test_the_script_refuses_what_it_cannot_do(tmp_path, arguments, sentence):
    answer = run_prune("--store", tmp_path, *arguments)
    assert answer.returncode == 2
    assert sentence in answer.stderr
