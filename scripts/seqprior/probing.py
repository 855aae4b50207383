"""How fast a model is on a device: tokens a second by kind of request, measured with the engine itself."""

from __future__ import annotations

import logging
import platform
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle
from pathlib import Path

import torch

from seqprior.adapters import Adapter
from seqprior.batching import Batcher
from seqprior.costs import KINDS, asked, kind_of
from seqprior.embedding import distances
from seqprior.errors import BadInput
from seqprior.plans import Request, Scheme
from seqprior.shards import read_groups
from seqprior.work import DISTANCES, ROWS_AHEAD, distance_request, make_work

log = logging.getLogger(__name__)

STEP = 61  # bases between the sites of random DNA; coprime to every k, so that all places in a token occur
GENOME = 200_000  # bases of random DNA that are made at a time
CHUNK_BUDGETS = 6  # full batches that one call gets, about
ENOUGH = 40  # batches at one budget, which the search for the best one would have left after three
HELD_BASES = 2**24  # of a shard's requests
PIECE = 5  # bases of a byte-pair piece, about


class TimeUp(Exception):
    """The time of a measurement is over."""


@dataclass
class TimedBatcher(Batcher):
    """A batcher that notes each batch, and stops with `TimeUp` once a time is reached.

    Attributes:
        until: value of `time.perf_counter` after which no further batch starts; the first one always does.
        most: batches after which it stops too.
        batches: (budget, tokens, seconds) of each.
    """

    until: float = float("inf")
    most: int | None = None
    batches: list[tuple[int, int, float]] = field(default_factory=list)

    def run(self, lengths: Sequence[int], compute: Callable[[list[int]], None], **options) -> None:
        def timed(numbers: list[int]) -> None:
            if self.batches and (time.perf_counter() >= self.until or len(self.batches) == self.most):
                raise TimeUp
            budget, started = self.budget, time.perf_counter()
            compute(numbers)
            tokens = len(numbers) * max(lengths[number] for number in numbers)
            self.batches.append((budget, tokens, time.perf_counter() - started))

        super().run(lengths, timed, **options)

    def start(self, until: float, most: int | None = None) -> None:
        self.until, self.most, self.batches = until, most, []


def probe(
    scheme: Scheme, load: Callable[[], Adapter], budget: int | None, seconds: float, shard: Path | None = None
) -> dict:
    """Load a model and measure it for at most about `seconds`: the batch that runs when the time is over is finished.

    Args:
        budget: tokens of a batch; None finds the best.
        shard: windows to measure on; random DNA without, and for kinds of requests that the shard lacks.

    Returns:
        tokens_per_second by kind (padding included, as in a scoring job), batch_tokens, load_seconds (with each kind's
        first batch, which sets up the device), seconds, device, device_name, peak_host_bytes, peak_device_bytes.
    """
    started = time.perf_counter()
    adapter = load()
    batcher = TimedBatcher(adapter.device, budget)
    sources = {kind: requests for kind in KINDS if (requests := _source(scheme, kind, shard)) is not None}
    if not sources:
        raise BadInput(
            f"{scheme.facts.id}: no allele can be scored with windows of {scheme.facts.window} bases; raise window in "
            "the model registry"
        )
    for requests in sources.values():
        _run(adapter, batcher, requests, until=float("inf"), most=1)
    load_seconds = time.perf_counter() - started
    began = time.perf_counter()
    end = began + seconds
    rates = {}
    for number, (kind, requests) in enumerate(sources.items()):
        now = time.perf_counter()
        rates[kind] = _run(adapter, batcher, requests, until=now + (end - now) / (len(sources) - number))
        log.info("%s: %.0f tokens a second, %d tokens a batch", kind, rates[kind], batcher.budget)
    return {
        "tokens_per_second": rates,
        "batch_tokens": batcher.budget,
        "load_seconds": load_seconds,
        "seconds": time.perf_counter() - began,
        "device": adapter.device.type,
        "device_name": device_name(adapter.device),
        **peak_memory(adapter.device),
    }


def _run(
    adapter: Adapter, batcher: TimedBatcher, requests: Iterator[Request], until: float, most: int | None = None
) -> float:
    """Tokens a second at the batch budget that was reached, less what goes on beside the network.

    As in a scoring job, planning goes on while the model works, so the slower of the two sets the speed.
    """
    facts = adapter.scheme.facts
    size = {"kmer": facts.k, "bpe": PIECE}.get(facts.tokenisation, 1)
    batcher.start(until, most)
    planning = answering = 0.0
    try:
        while not answering or (time.perf_counter() < until and most is None and not _settled(batcher)):
            began = time.perf_counter()
            chunk = _taken(requests, adapter.scheme, 1 if most else CHUNK_BUDGETS * batcher.budget * size)
            work = make_work(adapter.scheme, chunk)
            planned = time.perf_counter()
            try:
                if chunk[0].kind == DISTANCES:
                    distances(adapter, batcher, chunk)
                else:
                    adapter.answer(batcher, work)
            finally:
                answering += time.perf_counter() - planned
            planning += planned - began  # of whole chunks: most of one that time cut short was planned for nothing
    except TimeUp:
        log.debug("stopped after %d batches", len(batcher.batches))
    budget = batcher.batches[-1][0]
    at_budget = [batch for batch in batcher.batches if batch[0] == budget]
    busy = sum(seconds for _, _, seconds in batcher.batches) / max(answering, planning)
    return busy * sum(tokens for _, tokens, _ in at_budget) / sum(seconds for _, _, seconds in at_budget)


def _settled(batcher: TimedBatcher) -> bool:
    last = batcher.batches[-ENOUGH:]
    return len(last) == ENOUGH and last[0][0] == last[-1][0]


def _taken(requests: Iterator[Request], scheme: Scheme, bases: int) -> list[Request]:
    """Requests of about so many bases to be read, but of no more than a scoring job takes together; of one width."""
    first = next(requests)
    chunk, left = [first], min(bases, ROWS_AHEAD) - len(first.sequence) * scheme.passes(first)
    while left > 0:
        request = next(requests)
        left -= len(request.sequence) * scheme.passes(request)
        if (request.kind, request.width) == (first.kind, first.width):
            chunk.append(request)
    return list(dict.fromkeys(chunk))


def _source(scheme: Scheme, kind: str, shard: Path | None) -> Iterator[Request] | None:
    """Endless requests of a kind; None if the model has no such requests."""
    held, bases = [], 0
    for request in shard_requests(scheme, kind, shard) if shard is not None else ():
        held.append(request)
        bases += len(request.sequence)
        if bases > HELD_BASES:
            break
    if held:
        return cycle(held)
    drawn = random_requests(scheme, kind)
    first = next(drawn, None)
    return None if first is None else chain([first], drawn)


def shard_requests(scheme: Scheme, kind: str, shard: Path) -> Iterator[Request]:
    """Distinct requests of a kind for the alleles of a shard, a group at a time."""
    for frame, windows, first in read_groups(shard):
        group = asked(scheme, frame, windows, first, scheme.facts.embedding_window)
        for (name, _), requests in group.requests.items():
            if kind_of(scheme, name) == kind:
                yield from requests


def random_requests(scheme: Scheme, kind: str) -> Iterator[Request]:
    """Requests of a kind for substitutions, or for insertions of two bases, in random DNA; the same in every call.

    Endless, unless the first stretch of DNA has none.
    """
    rng, found = random.Random(1), True
    while found:
        found = False
        genome = "".join(rng.choices("ACGT", k=GENOME + 4 * scheme.facts.window))
        for start in range(2 * scheme.facts.window, len(genome) - 2 * scheme.facts.window, STEP):
            ref = genome[start]
            other = "ACGT"[("ACGT".index(ref) + 1) % 4]
            alt = ref + other + other if kind == "pairs" and scheme.site_method != scheme.pair_method else other
            place = scheme.cutter.window(len(genome), start, ref, alt)
            if place is None:
                continue
            window, offset = genome[place[0] : place[1]], start - place[0]
            plan = scheme.plan(window, offset, ref, alt)
            if plan is None:
                continue
            if kind == "embeddings":
                request = distance_request(scheme, window, offset, ref, alt, scheme.facts.embedding_window)
                if request is not None:
                    found = True
                    yield request
            elif kind_of(scheme, plan.alt.kind) == kind:
                found = True
                yield from dict.fromkeys((plan.alt, plan.ref))


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory(device: torch.device) -> dict[str, int]:
    """Most bytes that this process has held: of the host, and of the device if that is another memory."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if device.type == "cuda":
        peak["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
    return peak
