"""Scores of alleles by a sequence model: `llr = log p(alt) - log p(ref)`, natural log, lower is more surprising.

A shard is scored a group of alleles at a time. Each allele is planned as requests (`seqprior.plans`); equal requests
are one. What the score store knows is read from it, the rest is computed in batches and added to the store. Reading
and planning of the next group go on while the model works, and the model is not even loaded if nothing is left to
compute. Both strands are scored and averaged; their difference is kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

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


class Asked(Protocol):
    """What is asked for together.

    Attributes:
        requests: each distinct request once. known: those of them that the store answers.
        plans: scores from which the error of an approximate arithmetic is measured.
    """

    plans: list[Plan]
    requests: dict[Request, None]
    known: dict[Request, np.ndarray]


class Asker:
    """Answers requests from the score store or by the model, which is loaded when something has to be computed.

    Attributes:
        load: loads the model; called once.
        exact: loads it in exact arithmetic, to measure the error of an approximate one; None if `load` is exact.
        store: where answers are kept; None keeps none.
        counts: of requests and of those that the store answered. error: of the approximation, once it is known.
    """

    def __init__(
        self,
        scheme: Scheme,
        load: Callable[[], Adapter],
        batch_tokens: int | None = None,
        store: ScoreStore | None = None,
        exact: Callable[[], Adapter] | None = None,
    ) -> None:
        self.scheme, self.load, self.batch_tokens, self.store, self.exact = scheme, load, batch_tokens, store, exact
        self._adapter: Adapter | None = None
        self._batcher: Batcher | None = None
        self.counts = {"requests": 0, "from_store": 0}
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

    def answered(
        self, groups: Callable[[], Iterator[Asked]], *, at_once: bool
    ) -> Iterator[tuple[Asked, dict[Request, np.ndarray]]]:
        """Each group with the answers to all its requests, float64 (strands, width).

        Args:
            groups: called for a new iteration over the groups.
            at_once: look up the requests of all groups in one pass over the store and hold what it knows; else group by
                group, for answers that are large.
        """
        salt, known = self.scheme.salt, {}
        asks = self.store is not None and not self.store.is_empty()
        if asks and at_once:
            known = self._look_up(groups())
        with nullcontext() if self.store is None else self.store.writer() as writer:
            answers: dict[Request, np.ndarray] = {}
            for group, work in ahead(self._work(groups, known, asks and not at_once)):
                if work is not None:
                    kept = [stored(answer) for answer in self.compute(work)]
                    if writer is not None:
                        writer.add([request.key(salt) for request in work.requests], kept)
                    for request, values in zip(work.requests, kept, strict=True):  # as a rerun will find them
                        answers[request] = restored(values, request.width, self.scheme.strands)
                    continue
                if self.exact is not None and self.error is None and group.plans:
                    self.error = self._error(group)
                yield group, group.known | answers
                answers.clear()

    def _look_up(self, groups: Iterable[Asked]) -> dict[bytes, np.ndarray]:
        """All that the store knows of some groups, by one pass over the store."""
        salt, store = self.scheme.salt, self.store
        assert store is not None
        return store.lookup(list({request.key(salt) for group in groups for request in group.requests}))

    def _work(
        self, groups: Callable[[], Iterator[Asked]], known: dict[bytes, np.ndarray], by_group: bool
    ) -> Iterator[tuple[Asked, Work | None]]:
        """What is left to compute for each group, portion by portion, and None when a group is complete."""
        salt, strands = self.scheme.salt, self.scheme.strands
        for group in groups():
            if by_group:
                known = self._look_up([group])
            missing: dict[tuple[str, int], list[Request]] = {}
            for request in group.requests:
                values = known.get(request.key(salt)) if known else None
                if values is not None and values.size == stored_size(request.width, strands):
                    group.known[request] = restored(values, request.width, strands)
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
        return adapter.answer(self._batcher, work)

    def _error(self, group: Asked) -> dict[str, float] | None:
        """Error of the LLR: measured once something is computed, else as it was measured for the store's answers."""
        if self._adapter is None:
            return self.store.read_note(ERROR_NOTE) if self.store is not None else None
        error = self._measured_error(group)
        if self.store is not None:
            self.store.write_note(ERROR_NOTE, error)
        return error

    def _measured_error(self, group: Asked) -> dict[str, float]:
        """How far the approximate LLRs of the first alleles lie from exact ones."""
        plans = group.plans[:CHECKED]
        exact = self.exact()
        found = []
        for adapter in (self.adapter, exact):
            by_request: dict[Request, np.ndarray] = {}
            kinds: dict[tuple[str, int], dict[Request, None]] = {}
            for plan in plans:
                for request in plan.requests:
                    kinds.setdefault((request.kind, request.width), {})[request] = None
            for requests in kinds.values():
                batcher = Batcher(adapter.device, self._batcher.budget)
                by_request.update(zip(requests, adapter.answers(batcher, list(requests)), strict=True))
            found.append(np.array([plan.llr(by_request) for plan in plans]).mean(1))
        error = np.abs(found[0] - found[1])
        summary = {"alleles": len(plans), "mean": float(error.mean()), "largest": float(error.max())}
        log.info(
            "%s: LLRs of %d alleles are off by %.4f on average, %.4f at most",
            self.adapter.arithmetic,
            *summary.values(),
        )
        return summary

    def report(self, what: str, total: int, started: float) -> dict:
        """What the job did, for run.json; also a line of the log.

        Args:
            what: was scored, `total` of it. started: of `time.perf_counter`.
        """
        done, seconds = self.throughput, time.perf_counter() - started
        rate = done.tokens / done.seconds if done.seconds else 0.0
        device = self._adapter.device.type if self._adapter is not None else "none"
        log.info(
            "%d %s in %.1f s, %d of %d answers from the store, %.0f tokens a second on %s",
            total,
            what,
            seconds,
            self.counts["from_store"],
            self.counts["requests"],
            rate,
            device,
        )
        return {
            **self.counts,
            "seconds": seconds,
            "tokens": done.tokens,
            "compute_seconds": done.seconds,
            "tokens_per_second": rate,
            "batches": done.batches,
            "halvings": done.halvings,
            "device": device,
            "error": self.error,
        }


class Scorer(Asker):
    """Scores the alleles of one shard.

    Attributes:
        embedding_window: bases over which embeddings are compared; None leaves them out.
    """

    def __init__(
        self,
        scheme: Scheme,
        load: Callable[[], Adapter],
        batch_tokens: int | None = None,
        embedding_window: int | None = None,
        store: ScoreStore | None = None,
        exact: Callable[[], Adapter] | None = None,
    ) -> None:
        super().__init__(scheme, load, batch_tokens, store, exact)
        self.embedding_window = embedding_window
        self.counts |= {"alleles": 0, "evaluable": 0, "not_evaluable": 0}

    def score_groups(self, groups: Callable[[], Iterator[tuple]], total: int) -> Iterator[pd.DataFrame]:
        """`columns.SCORES` of each group, `llr_calibrated` left empty.

        Args:
            groups: called for a new iteration over (frame, windows, number of the first window). total: alleles of all.
        """
        progress = Progress("alleles", total, "allele")
        for group, answers in self.answered(lambda: self._planned(groups), at_once=True):
            yield self._table(group, answers)
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

    def compute(self, work: Work) -> np.ndarray:
        if work.requests[0].kind == DISTANCES:
            return distances(self.adapter, self._batcher, work.requests)
        return super().compute(work)

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
            by_strand[rows] = [plan.llr(answers) for plan in group.plans]
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
    """An answer (strands, width) as the store keeps it, in float32; likelihoods with what that leaves over.

    A likelihood may be in the thousands, where float32 has steps of a thousandth, and it is differences that count.
    """
    kept = answer.astype(np.float32)
    if answer.shape[1] > 1:
        return kept.ravel()
    return np.concatenate([kept.ravel(), (answer - kept).astype(np.float32).ravel()])


def stored_size(width: int, strands: int) -> int:
    """Numbers that `stored` makes of an answer (strands, width)."""
    return strands * (2 if width == 1 else width)


def restored(values: np.ndarray, width: int, strands: int) -> np.ndarray:
    """What `stored` was given, float64 (strands, width)."""
    wide = values.astype(np.float64)
    return (wide[:strands] + wide[strands:] if width == 1 else wide).reshape(strands, width)


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
    return scorer.report("alleles", total, started)
