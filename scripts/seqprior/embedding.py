"""Scores of alleles by a sequence model: `llr = log p(alt) - log p(ref)`, natural log, lower is more surprising.

A substitution of one base is read from the leave-one-out marginal of its site, so one forward pass serves all four
bases. Any other allele is compared as a haplotype: the pseudo-log-likelihood of the window with the alternate allele
minus that with the reference allele, over the same flanks. Both strands are scored and averaged; their difference is
kept.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from seqprior.adapters import Adapter
from seqprior.bidirectional import PAD_CODE, reverse_complement
from seqprior.columns import SCORES, Status
from seqprior.errors import BadInput, OutOfMemory
from seqprior.files import written_whole
from seqprior.sequence import encode

log = logging.getLogger(__name__)

CPU_BATCH_TOKENS, GPU_BATCH_TOKENS = 16_384, 262_144
HELD_BASES = 16_384  # of each haplotype, whose states are in host memory at a time
PROGRESS_SECONDS = 10.0


@dataclass
class Throughput:
    """What a job computed; `tokens` counts bases through the network, padding included."""

    tokens: int = 0
    seconds: float = 0.0
    batches: int = 0
    halvings: int = 0


@dataclass
class Batcher:
    """Runs a function over sequences in batches of at most `budget` bases, in order of length.

    Running out of memory halves the budget for good; when a single sequence does not fit, `OutOfMemory` is raised.
    """

    adapter: Adapter
    budget: int
    what: str = ""
    throughput: Throughput = field(default_factory=Throughput)

    def run(
        self,
        sequences: Sequence[np.ndarray],
        compute: Callable[[np.ndarray, list[int]], None],
        quiet: bool = False,
    ) -> None:
        """Call `compute(codes, numbers)` for each batch: codes uint8 (B, L), right-padded; numbers index `sequences`.

        A batch that did not fit is computed again in parts. With `quiet`, the caller reports progress.
        """
        order = sorted(range(len(sequences)), key=lambda number: len(sequences[number]))
        progress = None if quiet else Progress(self.what, sum(map(len, sequences)))
        position = 0
        while position < len(order):
            numbers = self._next(sequences, order, position)
            width = max(len(sequences[number]) for number in numbers)
            codes = np.full((len(numbers), width), PAD_CODE, np.uint8)
            for row, number in enumerate(numbers):
                codes[row, : len(sequences[number])] = sequences[number]
            started = time.perf_counter()
            if not fits_into_memory(compute, codes, numbers):
                self._halve(len(numbers), width)
                continue
            self.throughput.seconds += time.perf_counter() - started
            self.throughput.tokens += codes.size
            self.throughput.batches += 1
            position += len(numbers)
            if progress:
                progress.add(sum(len(sequences[number]) for number in numbers))
        if progress:
            progress.close()

    def _next(self, sequences: Sequence[np.ndarray], order: list[int], position: int) -> list[int]:
        shortest = len(sequences[order[position]])
        numbers: list[int] = []
        for number in (order[index] for index in range(position, len(order))):
            length = len(sequences[number])
            if numbers and ((len(numbers) + 1) * length > self.budget or not self._fits(shortest, length)):
                break
            numbers.append(number)
        return numbers

    def _fits(self, shortest: int, length: int) -> bool:
        return length == shortest or (self.adapter.pads_exactly and length <= 1.2 * shortest)

    def _halve(self, rows: int, width: int) -> None:
        if self.budget <= width:
            raise OutOfMemory(f"one window of {width} bases does not fit into memory; use a larger device")
        # One row may still be computed in passes of several rows, as many as the budget allows.
        self.budget = max(width, (rows * width if rows > 1 else self.budget) // 2)
        self.throughput.halvings += 1
        if self.adapter.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning(
            "out of memory with %d windows of %d bases; going on with %d bases a batch", rows, width, self.budget
        )


def fits_into_memory(compute: Callable[[np.ndarray, list[int]], None], codes: np.ndarray, numbers: list[int]) -> bool:
    """Run `compute(codes, numbers)`; False if the device or the host has no memory for it.

    A function of its own, so that the failed pass's tensors are free before the next one.
    """
    try:
        with torch.inference_mode():
            compute(codes, numbers)
    except MemoryError:
        return False
    except RuntimeError as error:  # on the CPU, PyTorch has no class for this
        if isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error):
            return False
        raise
    return True


class Progress:
    """A progress bar on a terminal, plain lines every few seconds in a log."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0
        self.started = self.last = time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=what, unit="base", unit_scale=True)

    def add(self, bases: int) -> None:
        self.done += bases
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(bases)
        elif now - self.last >= PROGRESS_SECONDS:
            self.last = now
            rate = self.done / (now - self.started)
            log.info("%s: %.0f%% of %d bases, %.0f a second", self.what, 100 * self.done / self.total, self.total, rate)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def site_marginals(
    batcher: Batcher, windows: Sequence[np.ndarray], sites: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], np.ndarray]:
    """log p(base | all others) of each distinct site.

    Args:
        windows: base codes. sites: (window number, offset).

    Returns:
        site to float32 (2, 4): strand, base in forward letters.
    """
    offsets: dict[int, list[int]] = {}
    for window, offset in sorted(set(sites)):
        offsets.setdefault(window, []).append(offset)
    used = list(offsets)
    results: dict[tuple[int, int], np.ndarray] = {}
    adapter = batcher.adapter

    def compute(codes: np.ndarray, numbers: list[int]) -> None:
        keys = [(row, used[number], offset) for row, number in enumerate(numbers) for offset in offsets[used[number]]]
        rows = torch.tensor([key[0] for key in keys], device=adapter.device)
        at = torch.tensor([key[2] for key in keys], device=adapter.device)
        logs = adapter.marginals(adapter.to_device(codes), rows, at)
        require_finite(logs, adapter)
        results.update(
            ((window, offset), log) for (_, window, offset), log in zip(keys, logs.cpu().numpy(), strict=True)
        )

    batcher.run([windows[number] for number in used], compute)
    return results


def pseudo_log_likelihoods(batcher: Batcher, haplotypes: Sequence[np.ndarray]) -> np.ndarray:
    """Pseudo-log-likelihood against a uniform background of each haplotype on both strands: float64 (N, 2)."""
    results = np.zeros((len(haplotypes), 2))
    adapter = batcher.adapter

    def compute(codes: np.ndarray, numbers: list[int]) -> None:
        sums = adapter.pseudo_log_likelihoods(adapter.to_device(codes), max(1, batcher.budget // codes.shape[1]))
        require_finite(sums, adapter)
        results[numbers] = sums.cpu().numpy()

    batcher.run(haplotypes, compute)
    return results


@dataclass(frozen=True)
class HaplotypePair:
    """Reference and alternate haplotype of one allele: the same flanks around it, as base codes."""

    left: np.ndarray
    ref: np.ndarray
    alt: np.ndarray
    right: np.ndarray

    @property
    def reference(self) -> np.ndarray:
        return np.concatenate([self.left, self.ref, self.right])

    @property
    def alternate(self) -> np.ndarray:
        return np.concatenate([self.left, self.alt, self.right])


def embedding_distances(batcher: Batcher, pairs: Sequence[HaplotypePair]) -> np.ndarray:
    """Distances between the last-layer states of the two haplotypes of each pair, mean of both strands.

    Returns:
        float64 (N, 2): Euclidean distance over all states of the flanks (and of the allele if it keeps its length);
        cosine distance, one minus the cosine of the states averaged over the window.
    """
    results = np.zeros((len(pairs), 2))
    lengths = [len(pair.left) + len(pair.right) + max(len(pair.ref), len(pair.alt)) for pair in pairs]
    chunk = max(1, min(batcher.budget, HELD_BASES) // max(lengths, default=1))
    progress = Progress(batcher.what, sum(lengths))
    for start in range(0, len(pairs), chunk):
        part = pairs[start : start + chunk]
        numbers, haplotypes = distinct_haplotypes(part)
        states = last_states(batcher, haplotypes)
        progress.add(sum(lengths[start : start + chunk]))
        for index, (pair, (reference, alternate)) in enumerate(zip(part, numbers, strict=True), start):
            results[index] = distances(pair, states[reference], states[alternate])
    progress.close()
    return results


def distinct_haplotypes(pairs: Sequence[HaplotypePair]) -> tuple[list[tuple[int, int]], list[np.ndarray]]:
    """Each different haplotype once, and for each pair the numbers of its reference and alternate haplotype."""
    numbers: dict[bytes, int] = {}
    haplotypes: list[np.ndarray] = []

    def number_of(sequence: np.ndarray) -> int:
        number = numbers.setdefault(sequence.tobytes(), len(haplotypes))
        if number == len(haplotypes):
            haplotypes.append(sequence)
        return number

    return [(number_of(pair.reference), number_of(pair.alternate)) for pair in pairs], haplotypes


def last_states(batcher: Batcher, haplotypes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Last-layer states (strands, length, width) of each haplotype, in forward order."""
    results: list[np.ndarray] = [np.empty(0)] * len(haplotypes)
    adapter = batcher.adapter

    def compute(codes: np.ndarray, numbers: list[int]) -> None:
        forward = adapter.to_device(codes)
        strands = [adapter.embeddings(forward)]
        if not adapter.strand_symmetric:
            strands.append(adapter.embeddings(reverse_complement(forward)).flip(1))
        stacked = torch.stack(strands, 1)
        require_finite(stacked, adapter)
        for number, row in zip(numbers, stacked.cpu().numpy(), strict=True):
            results[number] = row[:, : len(haplotypes[number])]

    batcher.run(haplotypes, compute, quiet=True)
    return results


def distances(pair: HaplotypePair, reference: np.ndarray, alternate: np.ndarray) -> tuple[float, float]:
    """Euclidean and cosine distance of two stacks of states (strands, length, width), averaged over strands."""
    left, right = len(pair.left), len(pair.right)
    if len(pair.ref) == len(pair.alt):
        difference = reference - alternate
    else:
        ends = [np.r_[0:left, states.shape[1] - right : states.shape[1]] for states in (reference, alternate)]
        difference = reference[:, ends[0]] - alternate[:, ends[1]]
    euclidean = np.sqrt((difference.astype(np.float64) ** 2).sum((1, 2))).mean()
    means = [states.mean(1, dtype=np.float64) for states in (reference, alternate)]
    norms = np.linalg.norm(means[0], axis=1) * np.linalg.norm(means[1], axis=1)
    cosine = 1.0 - (means[0] * means[1]).sum(1) / np.maximum(norms, 1e-30)
    return float(euclidean), float(np.maximum(cosine, 0.0).mean())


def require_finite(values: torch.Tensor, adapter: Adapter) -> None:
    if not torch.isfinite(values).all():
        advice = (
            "check the checkpoint and its registry entry"
            if adapter.dtype == torch.float32
            else "set scoring.dtype to float32"
        )
        raise BadInput(f"the model gave NaN or infinity in {str(adapter.dtype).removeprefix('torch.')}; {advice}")


def haplotype_pair(window: np.ndarray, offset: int, ref: str, alt: str, size: int | None = None) -> HaplotypePair:
    """Both haplotypes of an allele at `offset` of its window. With `size`, flanks are cut so that both fit into it."""
    end = offset + len(ref)
    left, right = window[:offset], window[end:]
    if size is not None:
        flank = max(1, (size - max(len(ref), len(alt))) // 2)
        left, right = left[-flank:], right[:flank]
    return HaplotypePair(left, encode(ref), encode(alt), right)


@dataclass
class Scorer:
    """Scores the alleles of one shard.

    Attributes:
        embedding_window: bases over which embeddings are compared; None leaves them out.
    """

    adapter: Adapter
    batch_tokens: int | None
    embedding_window: int | None

    def __post_init__(self) -> None:
        default = GPU_BATCH_TOKENS if self.adapter.device.type == "cuda" else CPU_BATCH_TOKENS
        self.batcher = Batcher(self.adapter, self.batch_tokens or default)

    def score(self, alleles: pd.DataFrame, windows: Sequence[str]) -> pd.DataFrame:
        """`columns.SCORES` of every allele, `llr_calibrated` left empty.

        Args:
            alleles: rows of `windows.ALLELE_COLUMNS`; skipped ones pass through.
            windows: sequences by window number.
        """
        codes = [encode(window) for window in windows]
        frame = alleles.reset_index(drop=True)
        for column in SCORES:
            if column not in frame:
                frame[column] = "" if column == "method" else np.nan
        scored = frame["status"] == Status.SCORED
        single = scored & (frame["ref"].str.len() == 1) & (frame["alt"].str.len() == 1)
        self._score_sites(frame, codes, frame.index[single])
        self._score_pairs(frame, codes, frame.index[scored & ~single])
        if self.embedding_window is not None:
            self._embed(frame, codes, frame.index[scored])
        return frame[list(SCORES)]

    def _score_sites(self, frame: pd.DataFrame, codes: list[np.ndarray], rows: pd.Index) -> None:
        self.batcher.what = "sites"
        sites = list(zip(frame.loc[rows, "window"].astype(int), frame.loc[rows, "offset"].astype(int), strict=True))
        marginals = site_marginals(self.batcher, codes, sites)
        if not sites:
            return
        logs = np.stack([marginals[site] for site in sites]).astype(np.float64)
        ref, alt = (encode("".join(frame.loc[rows, name])) for name in ("ref", "alt"))
        each = np.arange(len(rows))
        by_strand = logs[each, :, alt] - logs[each, :, ref]
        frame.loc[rows, "method"] = self.adapter.site_method
        frame.loc[rows, "entropy"] = entropy(logs.mean(1))
        set_llr(frame, rows, by_strand)

    def _score_pairs(self, frame: pd.DataFrame, codes: list[np.ndarray], rows: pd.Index) -> None:
        self.batcher.what = "haplotypes"
        numbers, haplotypes = distinct_haplotypes(list(self._pairs(frame, codes, rows)))
        if not numbers:
            return
        likelihoods = pseudo_log_likelihoods(self.batcher, haplotypes)
        reference, alternate = np.array(numbers).T
        frame.loc[rows, "method"] = self.adapter.pair_method
        set_llr(frame, rows, likelihoods[alternate] - likelihoods[reference])

    def _embed(self, frame: pd.DataFrame, codes: list[np.ndarray], rows: pd.Index) -> None:
        self.batcher.what = "embeddings"
        pairs = list(self._pairs(frame, codes, rows, self.embedding_window))
        frame.loc[rows, ["embedding_l2", "embedding_cosine"]] = embedding_distances(self.batcher, pairs)

    @staticmethod
    def _pairs(
        frame: pd.DataFrame, codes: list[np.ndarray], rows: pd.Index, size: int | None = None
    ) -> Iterator[HaplotypePair]:
        columns = frame.loc[rows, ["window", "offset", "ref", "alt"]]
        for window, offset, ref, alt in columns.itertuples(index=False, name=None):
            yield haplotype_pair(codes[int(window)], int(offset), ref, alt, size)


def set_llr(frame: pd.DataFrame, rows: pd.Index, by_strand: np.ndarray) -> None:
    """Mean over strands, each strand, and their absolute difference. `by_strand` is (N, 2)."""
    frame.loc[rows, "llr"] = by_strand.mean(1)
    frame.loc[rows, ["llr_fwd", "llr_rev"]] = by_strand
    frame.loc[rows, "strand_gap"] = np.abs(by_strand[:, 0] - by_strand[:, 1])


def entropy(logs: np.ndarray) -> np.ndarray:
    """Entropy in nats of the renormalised distributions (N, 4) given by mean log probabilities."""
    normalised = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
    return -(np.exp(normalised) * normalised).sum(1)


def score_shard(scorer: Scorer, shard: Path, output: Path) -> dict:
    """Score the shard that `windows.extract_windows` wrote; returns the job's throughput for run.json."""
    started = time.perf_counter()
    alleles = pd.read_parquet(shard / "alleles.parquet")
    windows = pd.read_parquet(shard / "windows.parquet")["sequence"].tolist()
    frame = scorer.score(alleles, windows)
    with written_whole(output) as partial:
        frame.to_parquet(partial, index=False)
    done = scorer.batcher.throughput
    seconds = time.perf_counter() - started
    rate = done.tokens / done.seconds if done.seconds else 0.0
    log.info("%d alleles in %.1f s, %.0f bases a second on %s", len(frame), seconds, rate, scorer.adapter.device)
    return {
        "alleles": len(frame),
        "windows": len(windows),
        "seconds": seconds,
        "tokens": done.tokens,
        "compute_seconds": done.seconds,
        "tokens_per_second": rate,
        "halvings": done.halvings,
        "device": scorer.adapter.device.type,
    }
