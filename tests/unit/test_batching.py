"""Batches and threads, with computations that fail and clocks that run as told."""

from __future__ import annotations

import logging
import random
import threading

import pytest
import torch

from seqprior import batching
from seqprior.batching import FIRST_BUDGET, GAIN, LARGEST_BUDGET, PADDED, Batcher, Progress, ahead
from seqprior.errors import OutOfMemory

CPU = torch.device("cpu")
ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
]


def some_lengths(count: int = 200, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randint(5, 80) for _ in range(count)]


def test_batches_stay_within_the_budget_and_cover_everything_once():
    lengths, seen = some_lengths(), []

    def compute(numbers):
        widest = max(lengths[number] for number in numbers)
        assert widest * len(numbers) <= 300
        assert widest <= PADDED * min(lengths[number] for number in numbers)
        seen.append(numbers)

    batcher = Batcher(CPU, 300)
    batcher.run(lengths, compute)
    assert sorted(number for numbers in seen for number in numbers) == list(range(200))
    assert len(seen) < 100, "rows are computed together"
    assert batcher.throughput.batches == len(seen)
    assert batcher.throughput.tokens == sum(max(lengths[n] for n in numbers) * len(numbers) for numbers in seen)
    assert batcher.budget == 300 and batcher.throughput.halvings == 0


def test_a_batch_takes_as_many_rows_as_the_budget_allows():
    seen = []
    Batcher(CPU, 100).run([10] * 25, lambda numbers: seen.append(len(numbers)))
    assert seen == [10, 10, 5]


def test_a_row_longer_than_the_budget_is_computed_alone():
    seen = []
    Batcher(CPU, 20).run([50, 8, 8, 50], lambda numbers: seen.append(sorted(numbers)))
    assert seen == [[1, 2], [0], [3]]


def test_rows_of_two_lengths_are_never_together_where_padding_is_not_wanted():
    seen = []
    lengths = [20, 21, 20, 22, 21, 20]
    Batcher(CPU, 4096).run(lengths, lambda numbers: seen.append(sorted(numbers)), pads=False)
    assert seen == [[0, 2, 5], [1, 4], [3]]
    padded = []
    Batcher(CPU, 4096).run(lengths, lambda numbers: padded.append(sorted(numbers)))
    assert padded == [[0, 1, 2, 3, 4, 5]]


def test_nothing_to_compute_is_nothing_computed():
    batcher = Batcher(CPU)
    batcher.run([], lambda numbers: pytest.fail("called"))
    assert batcher.throughput.batches == batcher.throughput.tokens == 0


def test_no_gradients_are_kept():
    seen = []
    Batcher(CPU, 10).run([5], lambda numbers: seen.append(torch.is_inference_mode_enabled()))
    assert seen == [True] and not torch.is_inference_mode_enabled()


class Clock:
    """In place of the module `time`: a batch takes `overhead` and a second for each `speed` tokens."""

    def __init__(self, monkeypatch, overhead: float, speed: float, first: float = 0.0) -> None:
        self.now, self.overhead, self.speed, self.first = 0.0, overhead, speed, first
        self.sizes: list[int] = []
        monkeypatch.setattr(batching.time, "perf_counter", lambda: self.now)

    def seconds(self, tokens: int) -> float:
        warm = self.sizes.count(tokens) > 1
        return self.overhead + tokens / self.speed + (0.0 if warm else self.first)

    def compute(self, numbers: list[int]) -> None:
        tokens = 64 * len(numbers)
        self.sizes.append(tokens)
        self.now += self.seconds(tokens)


def searched(clock: Clock, rows: int = 20_000) -> Batcher:
    batcher = Batcher(CPU)
    batcher.run([64] * rows, clock.compute)
    return batcher


@pytest.mark.parametrize("first", [0.0, 50.0])
def test_the_budget_doubles_while_that_pays(monkeypatch, first):
    """Seconds are 1 + tokens / 1024, and 50 more while a size is new, which says nothing about its speed."""
    clock = Clock(monkeypatch, 1.0, 1024.0, first)
    batcher = searched(clock)
    rates = {size: size / (1.0 + size / 1024) for size in (FIRST_BUDGET["cpu"] * 2**step for step in range(7))}
    pays = [2 * size for size in rates if rates.get(2 * size, 0) >= GAIN * rates[size]]
    assert batcher.budget == max(pays) and FIRST_BUDGET["cpu"] < batcher.budget < LARGEST_BUDGET["cpu"]
    order = list(dict.fromkeys(clock.sizes))
    assert order[: len(pays) + 2] == list(rates)[: len(pays) + 2]
    assert max(clock.sizes) == 2 * batcher.budget, "the doubling that did not pay was tried"
    assert clock.sizes.count(2 * batcher.budget) <= 3, "and given up soon"
    assert clock.sizes[-2] == batcher.budget


def test_the_budget_stays_where_larger_batches_are_no_faster(monkeypatch):
    assert searched(Clock(monkeypatch, 0.0, 4096.0)).budget == FIRST_BUDGET["cpu"]


def test_the_budget_ends_at_its_largest(monkeypatch):
    clock = Clock(monkeypatch, 1000.0, 1e9)
    assert searched(clock).budget == max(clock.sizes) == LARGEST_BUDGET["cpu"]


def test_a_budget_that_was_given_is_kept(monkeypatch):
    clock = Clock(monkeypatch, 1000.0, 1e9)
    batcher = Batcher(CPU, 640)
    batcher.run([64] * 1000, clock.compute)
    assert batcher.budget == 640 and max(clock.sizes) == 640


def test_the_budget_that_was_found_serves_later_runs(monkeypatch):
    clock = Clock(monkeypatch, 1.0, 4096.0)
    batcher = searched(clock)
    found = batcher.budget
    clock.sizes.clear()
    batcher.run([64] * 3000, clock.compute)
    assert batcher.budget == found and set(clock.sizes[:-1]) == {found}


def test_batches_too_few_to_fill_the_budget_do_not_change_it(monkeypatch):
    clock = Clock(monkeypatch, 1.0, 4096.0)
    batcher = Batcher(CPU)
    for _ in range(20):
        batcher.run([64] * 3, clock.compute)
    assert batcher.budget == FIRST_BUDGET["cpu"] and batcher.throughput.batches == 20
    assert batcher.throughput.seconds == pytest.approx(20 * (1.0 + 192 / 4096))


def test_batches_cut_short_by_unequal_lengths_do_not_end_the_search(monkeypatch):
    clock = Clock(monkeypatch, 1.0, 1024.0)
    batcher = Batcher(CPU)
    lengths = [20] * 30 + [23] * 30 + [26] * 30 + [29, 33, 37, 41]  # at the end one row each

    def compute(numbers):
        clock.now += clock.seconds(sum(lengths[number] for number in numbers))

    batcher.run(lengths, compute)
    batcher.run([64] * 20_000, clock.compute)
    assert batcher.budget == searched(Clock(monkeypatch, 1.0, 1024.0)).budget


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("given", [4096, None])
def test_out_of_memory_halves_the_budget_for_good_and_leaves_nothing_out(caplog, error, given):
    lengths, done, room = [40 + number % 4 for number in range(200)], [], 200

    def compute(numbers):
        if max(lengths[number] for number in numbers) * len(numbers) > room:
            raise error
        done.extend(numbers)

    batcher = Batcher(CPU, given)
    with caplog.at_level(logging.WARNING):
        batcher.run(lengths, compute)
    assert sorted(done) == list(range(200))
    assert batcher.throughput.halvings >= 2
    assert batcher.throughput.halvings == sum("out of memory with" in record.message for record in caplog.records)
    assert max(lengths) <= batcher.budget <= room
    halvings = batcher.throughput.halvings
    batcher.run(lengths, compute)
    assert batcher.throughput.halvings == halvings, "the second run knows"


def test_the_search_for_larger_batches_ends_where_memory_does(monkeypatch):
    clock, failed = Clock(monkeypatch, 1000.0, 1e9), []

    def compute(numbers):
        if 64 * len(numbers) > 5000:
            failed.append(len(numbers))
            raise MemoryError
        clock.compute(numbers)

    batcher = Batcher(CPU)
    for _ in range(2):
        batcher.run([64] * 5000, compute)
    assert failed == [8192 // 64] and batcher.budget == 4096


def test_a_failed_batch_is_not_counted_as_computed():
    def compute(numbers):
        if len(numbers) > 2:
            raise MemoryError

    batcher = Batcher(CPU, 80)
    batcher.run([10] * 8, compute)
    assert (batcher.throughput.tokens, batcher.throughput.batches, batcher.budget) == (80, 4, 20)


def test_a_row_that_does_not_fit_alone_is_given_up_with_its_length():
    def compute(numbers):
        if 30 in numbers:
            raise MemoryError

    lengths = [20] * 60
    lengths[30] = 77
    with pytest.raises(OutOfMemory, match="^one window of 77 tokens does not fit into memory; use a larger device$"):
        Batcher(CPU, 4096).run(lengths, compute)


def test_another_error_is_not_taken_for_lack_of_memory():
    def compute(numbers):
        raise RuntimeError("shapes cannot be multiplied")

    batcher = Batcher(CPU, 4096)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        batcher.run([5, 6], compute)
    assert batcher.throughput.halvings == 0


def test_progress_is_told_in_plain_lines_every_few_seconds(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr(batching.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(batching.sys, "stderr", type("Log", (), {"isatty": staticmethod(lambda: False)}))
    with caplog.at_level(logging.INFO):
        progress = Progress("alleles", 200, "allele")
        for _ in range(20):
            now[0] += 1.5
            progress.add(5)
        progress.close()
    assert [record.message for record in caplog.records] == [
        "alleles: 18% of 200 alleles, 3 a second",
        "alleles: 35% of 200 alleles, 3 a second",
    ]


def test_progress_of_a_run_counts_tokens_without_padding():
    progress = Progress("tokens", 100)
    Batcher(CPU, 100).run([20, 21, 22], lambda numbers: None, progress=progress)
    assert progress.done == 63


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


@pytest.mark.parametrize("count", [0, 1, 50])
def test_items_made_ahead_keep_their_order(count):
    before = threads()
    assert list(ahead(iter(range(count)))) == list(range(count))
    assert threads() == before


def test_the_next_item_is_made_while_one_is_used():
    made = [threading.Event() for _ in range(3)]
    makers = set()

    def items():
        for number, event in enumerate(made):
            makers.add(threading.current_thread())
            event.set()
            yield number

    for number in ahead(items()):
        following = made[min(number + 1, 2)]
        assert following.wait(10), "the next item waits for this one"
    assert len(makers) == 1 and threading.current_thread() not in makers


def test_no_more_than_two_items_wait():
    made, most = [], 0

    def items():
        for number in range(30):
            made.append(number)
            yield number

    for number in ahead(items()):
        threading.Event().wait(0.01)
        most = max(most, len(made) - 1 - number)
    assert 1 <= most <= 2


def test_an_error_of_the_maker_passes_through_after_what_was_made_before_it():
    def items():
        yield from "ab"
        raise KeyError("the third")

    before, seen = threads(), []
    with pytest.raises(KeyError, match="the third"):
        seen.extend(ahead(items()))
    assert seen == ["a", "b"] and threads() == before


@pytest.mark.parametrize("stop", ["break", "error"])
def test_the_making_thread_ends_when_the_consumer_stops(stop):
    before, made = threads(), []

    def items():
        for number in range(10**6):
            made.append(number)
            yield number

    def consume():
        for number in ahead(items()):
            if number == 3 and stop == "break":
                break
            if number == 3:
                raise ValueError("enough")

    if stop == "error":
        with pytest.raises(ValueError, match="enough"):
            consume()
    else:
        consume()
    assert threads() == before and len(made) < 10
