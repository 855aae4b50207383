"""Scores of alleles by a sequence model: `llr = log p(alt) - log p(ref)`, natural log, lower is more surprising.

A shard is scored a group of alleles at a time. Each allele is planned as requests (`seqprior.plans`); equal requests
are one. What the score store knows is read from it, the rest is computed in batches and added to the store. Reading
and planning of the next group go on while the model works, and the model is not even loaded if nothing is left to
compute. Both strands are scored and averaged; their difference is kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from seqprior.adapters import Adapter, strand_states
from seqprior.batching import Batcher, Progress, Throughput, ahead
from seqprior.columns import SCORES, Reason, Status, scores_schema
from seqprior.files import written_whole
from seqprior.plans import Plan, Request, Scheme
from seqprior.shards import read_groups
from seqprior.work import DISTANCES, Group, Work, make_work, plan_group, portions

if TYPE_CHECKING:
    from seqprior.store import ScoreStore

log = logging.getLogger(__name__)

HELD_BASES = {"cpu": 16_384, "cuda": 131_072}  # whose states are held at a time for distances
ERROR_NOTE = "llr_error"
CHECKED = 64  # alleles whose LLR is computed exactly too, to measure the error of an approximation


def distances(adapter: Adapter, batcher: Batcher, requests: Sequence[Request]) -> np.ndarray:
    """Distances between the last-layer states of two haplotypes, by strand: float32 (N, 2, 2).

    The Euclidean distance is over all bases of the flanks, and of the allele if it keeps its length; the cosine
    distance is one minus the cosine of the states averaged over the haplotype's bases. A token's state stands for each
    of its bases.
    """
    results = np.zeros((len(requests), 2, 2), np.float32)
    held = HELD_BASES.get(adapter.device.type, HELD_BASES["cuda"])
    chunk: list[int] = []
    bases = 0

    def flush() -> None:
        pieces = [requests[number].sequence.split(" ") for number in chunk]
        pairs = [(left + ref + right, left + alt + right) for left, ref, alt, right in pieces]
        distinct = list(dict.fromkeys(haplotype for pair in pairs for haplotype in pair))
        states = dict(zip(distinct, strand_states(adapter, batcher, distinct), strict=True))
        for number, (left, ref, alt, right), pair in zip(chunk, pieces, pairs, strict=True):
            for strand in range(2):
                reference, alternate = (states[haplotype][strand] for haplotype in pair)
                results[number, strand] = distance(reference, alternate, len(left), len(right), len(ref) == len(alt))
        chunk.clear()

    for number, request in enumerate(requests):
        chunk.append(number)
        bases += 2 * len(request.sequence)
        if bases >= held:
            flush()
            bases = 0
    if chunk:
        flush()
    return results


def distance(reference: Tensor, alternate: Tensor, left: int, right: int, same_length: bool) -> tuple[float, float]:
    """Euclidean and cosine distance of two haplotypes' states (L, H) with flanks of `left` and `right` bases."""
    if same_length:
        difference = reference - alternate
    else:
        ends = [torch.cat([states[:left], states[len(states) - right :]]) for states in (reference, alternate)]
        difference = ends[0] - ends[1]
    means = [states.mean(0, dtype=torch.float64) for states in (reference, alternate)]
    cosine = 1.0 - torch.dot(*means) / (means[0].norm() * means[1].norm()).clamp(min=1e-30)
    return float(difference.double().square().sum().sqrt()), max(float(cosine), 0.0)


@dataclass
class Scorer:
    """Scores the alleles of one shard.

    Attributes:
        load: loads the model; called once, when something has to be computed.
        exact: loads it in exact arithmetic, to measure the error of an approximate one; None if `load` is exact.
        embedding_window: bases over which embeddings are compared; None leaves them out.
        store: where answers are kept; None keeps none.
    """

    scheme: Scheme
    load: Callable[[], Adapter]
    batch_tokens: int | None = None
    embedding_window: int | None = None
    store: ScoreStore | None = None
    exact: Callable[[], Adapter] | None = None

    def __post_init__(self) -> None:
        self._adapter: Adapter | None = None
        self._batcher: Batcher | None = None
        self._known: dict[bytes, np.ndarray] = {}
        self.counts = {"requests": 0, "from_store": 0, "alleles": 0, "evaluable": 0, "not_evaluable": 0}
        self.error: dict[str, float] | None = None

    @property
    def adapter(self) -> Adapter:
        if self._adapter is None:
            self._adapter = self.load()
            self._batcher = Batcher(self._adapter.device, self.batch_tokens)
        return self._adapter

    @property
    def throughput(self) -> Throughput:
        return self._batcher.throughput if self._batcher is not None else Throughput()

    def score_groups(self, groups: Callable[[], Iterator[tuple]], total: int) -> Iterator[pd.DataFrame]:
        """`columns.SCORES` of each group, `llr_calibrated` left empty.

        Args:
            groups: called for a new iteration over (frame, windows, number of the first window). total: alleles of all.
        """
        if self.store is not None and not self.store.is_empty():
            self._look_up(self._planned(groups))
        progress = Progress("alleles", total, "allele")
        salt = self.scheme.salt
        with nullcontext() if self.store is None else self.store.writer() as writer:
            answers: dict[Request, np.ndarray] = {}
            for group, work in ahead(self._work(groups)):
                if work is not None:
                    kept = [stored(answer) for answer in self.compute(work)]
                    if writer is not None:
                        writer.add([request.key(salt) for request in work.requests], kept)
                    for request, values in zip(work.requests, kept, strict=True):  # as a rerun will find them
                        answers[request] = restored(values, request.width)
                    continue
                if self.exact is not None and self.error is None and group.plans:
                    self.error = self._error(group)
                yield self._table(group, group.known | answers)
                answers.clear()
                progress.add(len(group.frame))
        progress.close()

    def score(self, alleles: pd.DataFrame, windows: Sequence[str]) -> pd.DataFrame:
        """Scores of one table of alleles (`shards.ALLELE_COLUMNS`) with its windows by number."""
        group = (alleles.reset_index(drop=True), windows, 0)
        (table,) = self.score_groups(lambda: iter([group]), len(alleles))
        return table

    def _planned(self, groups: Callable[[], Iterator[tuple]]) -> Iterator[Group]:
        for frame, windows, first in groups():
            yield plan_group(self.scheme, frame, windows, first, self.embedding_window)

    def _look_up(self, groups: Iterator[Group]) -> None:
        """All that the store knows of a shard, by one pass over the store."""
        salt, store = self.scheme.salt, self.store
        assert store is not None
        keys = {request.key(salt) for group in groups for request in group.requests}
        self._known = store.lookup(list(keys))

    def _work(self, groups: Callable[[], Iterator[tuple]]) -> Iterator[tuple[Group, Work | None]]:
        """What is left to compute for each group, portion by portion, and None when a group is complete."""
        salt = self.scheme.salt
        for group in self._planned(groups):
            missing: dict[tuple[str, int], list[Request]] = {}
            for request in group.requests:
                known = self._known.get(request.key(salt)) if self._known else None
                if known is not None and known.size == (4 if request.width == 1 else 2 * request.width):
                    group.known[request] = restored(known, request.width)
                else:
                    missing.setdefault((request.kind, request.width), []).append(request)
            self.counts["requests"] += len(group.requests)
            self.counts["from_store"] += len(group.known)
            for requests in missing.values():
                for portion in portions(requests, self.scheme.passes):
                    yield group, make_work(self.scheme, portion)
            yield group, None

    def compute(self, work: Work) -> np.ndarray:
        """Answers of the model itself to requests of one kind."""
        adapter = self.adapter
        assert self._batcher is not None
        if work.requests[0].kind == DISTANCES:
            return distances(adapter, self._batcher, work.requests)
        return adapter.answer(self._batcher, work)

    def _error(self, group: Group) -> dict[str, float] | None:
        """Error of the LLR: measured once something is computed, else as it was measured for the store's answers."""
        if self._adapter is None:
            return self.store.read_note(ERROR_NOTE) if self.store is not None else None
        error = self._measured_error(group)
        if self.store is not None:
            self.store.write_note(ERROR_NOTE, error)
        return error

    def _measured_error(self, group: Group) -> dict[str, float]:
        """How far the approximate LLRs of the first alleles lie from exact ones."""
        plans = group.plans[:CHECKED]
        exact = self.exact()
        found = []
        for adapter in (self.adapter, exact):
            by_request: dict[Request, np.ndarray] = {}
            kinds: dict[tuple[str, int], dict[Request, None]] = {}
            for plan in plans:
                for request in (plan.alt, plan.ref):
                    kinds.setdefault((request.kind, request.width), {})[request] = None
            for requests in kinds.values():
                batcher = Batcher(adapter.device, self._batcher.budget)
                by_request.update(zip(requests, adapter.answers(batcher, list(requests)), strict=True))
            found.append(np.array([_by_strand(plan, by_request) for plan in plans]).mean(1))
        error = np.abs(found[0] - found[1])
        summary = {"alleles": len(plans), "mean": float(error.mean()), "largest": float(error.max())}
        log.info(
            "%s: LLRs of %d alleles are off by %.4f on average, %.4f at most",
            self.adapter.arithmetic,
            *summary.values(),
        )
        return summary

    def _table(self, group: Group, answers: dict[Request, np.ndarray]) -> pd.DataFrame:
        frame = group.frame.reset_index(drop=True)
        status, reason = frame["status"].to_numpy(object, copy=True), frame["reason"].to_numpy(object, copy=True)
        rows = np.array(group.rows, np.int64)
        refused = frame.index[(status == Status.SCORED)].difference(rows)
        status[refused], reason[refused] = str(Status.SKIPPED), str(Reason.NOT_EVALUABLE_BY_MODEL)
        frame["status"], frame["reason"] = status, reason
        method = np.full(len(frame), "", object)
        method[rows] = [plan.method for plan in group.plans]
        frame["method"] = method
        by_strand = np.full((len(frame), 2), np.nan)
        entropies = np.full(len(frame), np.nan)
        embedded = np.full((len(frame), 2), np.nan)
        if len(rows):
            by_strand[rows] = [_by_strand(plan, answers) for plan in group.plans]
            sites = [number for number, plan in enumerate(group.plans) if plan.site >= 0]
            if sites:
                plans = [group.plans[number] for number in sites]
                logs = np.stack([answers[plan.alt][:, plan.site : plan.site + 4] for plan in plans])
                entropies[rows[sites]] = entropy(logs.mean(1))
            if group.distances:
                for row, request in zip(rows, group.distances, strict=True):
                    if request is not None:
                        embedded[row] = answers[request].mean(0)
        frame["llr"] = by_strand.mean(1)
        frame["llr_fwd"], frame["llr_rev"] = by_strand.T
        frame["strand_gap"] = np.abs(by_strand[:, 0] - by_strand[:, 1])
        frame["llr_calibrated"] = np.nan
        frame["entropy"] = entropies
        frame["embedding_l2"], frame["embedding_cosine"] = embedded.T
        self.counts["alleles"] += len(frame)
        self.counts["evaluable"] += len(rows)
        self.counts["not_evaluable"] += int((reason == Reason.NOT_EVALUABLE_BY_MODEL).sum())
        return frame[list(SCORES)]


def stored(answer: np.ndarray) -> np.ndarray:
    """An answer (2, width) as the store keeps it, in float32; likelihoods with what that leaves over.

    A likelihood may be in the thousands, where float32 has steps of a thousandth, and it is differences that count.
    """
    kept = answer.astype(np.float32)
    if answer.shape[1] > 1:
        return kept.ravel()
    return np.concatenate([kept.ravel(), (answer - kept).astype(np.float32).ravel()])


def restored(values: np.ndarray, width: int) -> np.ndarray:
    """What `stored` was given, float64 (2, width)."""
    wide = values.astype(np.float64)
    return (wide[:2] + wide[2:] if width == 1 else wide).reshape(2, width)


def _by_strand(plan: Plan, answers: dict[Request, np.ndarray]) -> np.ndarray:
    """LLR of both strands, float64 (2,)."""
    alternate, reference = answers[plan.alt][:, plan.alt_entry], answers[plan.ref][:, plan.ref_entry]
    return alternate - reference


def entropy(logs: np.ndarray) -> np.ndarray:
    """Entropy in nats of the renormalised distributions (N, 4) given by mean log probabilities."""
    normalised = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
    return -(np.exp(normalised) * normalised).sum(1)


def score_shard(scorer: Scorer, shard: Path, output: Path) -> dict:
    """Score the shard that `windows.extract_windows` wrote; returns the job's throughput for run.json."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    started = time.perf_counter()
    schema = scores_schema()
    with pq.ParquetFile(shard / "alleles.parquet") as table:
        total = table.metadata.num_rows
    with written_whole(output) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for frame in scorer.score_groups(lambda: read_groups(shard), total):
            writer.write_table(pa.Table.from_pandas(frame, schema=schema, preserve_index=False))
    done = scorer.throughput
    seconds = time.perf_counter() - started
    rate = done.tokens / done.seconds if done.seconds else 0.0
    device = scorer._adapter.device.type if scorer._adapter is not None else "none"
    log.info(
        "%d alleles in %.1f s, %d of %d answers from the store, %.0f tokens a second on %s",
        total,
        seconds,
        scorer.counts["from_store"],
        scorer.counts["requests"],
        rate,
        device,
    )
    return {
        **scorer.counts,
        "seconds": seconds,
        "tokens": done.tokens,
        "compute_seconds": done.seconds,
        "tokens_per_second": rate,
        "batches": done.batches,
        "halvings": done.halvings,
        "device": device,
        "error": scorer.error,
    }
