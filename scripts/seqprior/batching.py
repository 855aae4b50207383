"""Batches: in order of length, as large as pays and as memory allows.

The budget of a batch, in tokens, is found while working: it doubles as long as the batches get faster by it. Running
out of memory halves it for good.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from seqprior.errors import OutOfMemory

log = logging.getLogger(__name__)

FIRST_BUDGET = {"cpu": 1024, "cuda": 16_384}
LARGEST_BUDGET = {"cpu": 65_536, "cuda": 2_097_152}
GAIN = 1.05  # a doubled budget stays if it makes tokens this much faster
NO_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
PADDED = 1.1  # a row may be padded to so many times its length
PROGRESS_SECONDS = 10.0


@dataclass
class Throughput:
    """What a job computed; `tokens` counts those through the network, padding included."""

    tokens: int = 0
    seconds: float = 0.0
    batches: int = 0
    halvings: int = 0


@dataclass
class Batcher:
    """Decides what is computed together. `budget` is in tokens; None finds it while working."""

    device: torch.device
    budget: int | None = None
    throughput: Throughput = field(default_factory=Throughput)

    def __post_init__(self) -> None:
        self._searching = self.budget is None
        if self.budget is None:
            self.budget = FIRST_BUDGET.get(self.device.type, FIRST_BUDGET["cuda"])
        self._largest = LARGEST_BUDGET.get(self.device.type, LARGEST_BUDGET["cuda"])
        self._best_rate = 0.0
        self._seen: list[tuple[int, float]] = []

    def run(
        self,
        lengths: Sequence[int],
        compute: Callable[[list[int]], None],
        *,
        pads: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """Call `compute(numbers)` until each number of `lengths` has been in one call that did not run out of memory.

        Args:
            lengths: tokens of each row. pads: rows of different lengths may be together, padded to the longest.
        """
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        waiting = [order] if order else []
        while waiting:
            pending = waiting.pop()
            numbers, rest, full = self._cut(lengths, pending, pads)
            if rest:
                waiting.append(rest)
            width = lengths[numbers[-1]]
            started = time.perf_counter()
            if not fits_into_memory(compute, numbers, self.device):
                self._halve(len(numbers), width)
                waiting.append(numbers)
                continue
            self._learn(len(numbers) * width, time.perf_counter() - started, full)
            if progress is not None:
                progress.add(sum(lengths[number] for number in numbers))

    def _cut(self, lengths: Sequence[int], pending: list[int], pads: bool) -> tuple[list[int], list[int], bool]:
        """The next batch, the rest, and whether it is the budget that ends the batch."""
        shortest = lengths[pending[0]]
        limit = shortest * PADDED if pads else shortest
        count = 1
        for number in pending[1:]:
            if lengths[number] > limit or (count + 1) * lengths[number] > self.budget:
                break
            count += 1
        rest = pending[count:]
        return pending[:count], rest, bool(rest) and (count + 1) * lengths[rest[0]] > self.budget

    def _learn(self, tokens: int, seconds: float, full: bool) -> None:
        self.throughput.tokens += tokens
        self.throughput.seconds += seconds
        self.throughput.batches += 1
        if not self._searching or not full:
            return
        self._seen.append((tokens, seconds))
        if len(self._seen) < 3:  # the first batch of a size also pays for its kernels
            return
        rate = max(tokens / max(seconds, 1e-9) for tokens, seconds in self._seen)
        self._seen.clear()
        if rate < self._best_rate * GAIN:
            self.budget, self._searching = self.budget // 2, False
        elif self.budget * 2 > self._largest:
            self._searching = False
        else:
            self._best_rate = rate
            self.budget *= 2

    def _halve(self, rows: int, width: int) -> None:
        if rows == 1:
            raise OutOfMemory(f"one window of {width} tokens does not fit into memory; use a larger device")
        self._searching = False
        self.budget = max(width, rows * width // 2)
        self.throughput.halvings += 1
        log.warning(
            "out of memory with %d windows of %d tokens; going on with %d tokens a batch", rows, width, self.budget
        )


def fits_into_memory(compute: Callable[[list[int]], None], numbers: list[int], device: torch.device) -> bool:
    """Run `compute(numbers)`; False if the device or the host has no memory for it.

    A function of its own, so that the failed pass's tensors are free before the next one.
    """
    try:
        with torch.inference_mode():
            compute(numbers)
    except MemoryError:
        return False
    except RuntimeError as error:  # on the CPU, PyTorch has no class for this
        if not isinstance(error, torch.OutOfMemoryError) and not any(word in str(error) for word in NO_MEMORY):
            raise
        if device.type == "cuda":
            torch.cuda.empty_cache()
        return False
    return True


class Progress:
    """A progress bar on a terminal, plain lines every few seconds in a log."""

    def __init__(self, what: str, total: int, unit: str = "token") -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self.started = self.last = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=what, unit=unit, unit_scale=True)

    def add(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(count)
        elif now - self.last >= PROGRESS_SECONDS:
            self.last = now
            rate = self.done / (now - self.started)
            share = 100 * self.done / max(self.total, 1)
            log.info("%s: %.0f%% of %d %ss, %.0f a second", self.what, share, self.total, self.unit, rate)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def ahead(items: Iterable) -> Iterator:
    """The same items, each made by another thread while the one before it is used."""
    ready: queue.Queue = queue.Queue(maxsize=1)
    stop = threading.Event()
    end = object()

    def make() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((end, None))
        except BaseException as error:  # noqa: BLE001 - raised again where the items are used
            put((end, error))

    def put(entry: tuple) -> bool:
        while not stop.is_set():
            try:
                ready.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is end:
                return
            yield item
    finally:
        stop.set()
        thread.join()
