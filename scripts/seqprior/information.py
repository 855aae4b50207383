"""What a sequence model expects at every position: log p(A, C, G, T), entropy and information.

Each base is read on both strands. seqprior's own network answers for all positions of a text at once. Token models are
asked for the three substitutions of a base, as when variants are scored and with the same requests, so that the score
store serves both: log p over the bases is the softmax of their llr, with 0 for the base that is there. Whether the
windows are read whole (fast) or each site is masked in turn (exact) is the scheme's `Reading`.

Information is 2 bits minus the entropy (Schneider et al. 1986, doi:10.1016/0022-2836(86)90165-8, without the correction
for small samples): 0 where all bases are equally likely, 2 where the model is sure of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from seqprior.adapters import BidirectionalAdapter
from seqprior.batching import Batcher
from seqprior.embedding import Asker
from seqprior.plans import Plan, Request, Scheme
from seqprior.sequence import BASES, UNKNOWN, encode
from seqprior.windows import padded

TILE = 16_384  # positions that the network answers for at a time
GROUP_BASES = 2**25  # bases of windows that are asked for together


@dataclass(frozen=True, slots=True)
class Stretch:
    """Positions [first, last) of a text, 0-based half-open; the rest of it is context.

    The text is upper-case and, for models of k-mers, in the frame of k-mers that starts at its first base.
    """

    text: str
    first: int
    last: int


@dataclass
class Sites:
    """Positions that are asked for together.

    Attributes:
        known_base: code of the base at each position, (N,). last: they are the last of their stretch.
        rows, bases: position and substituted base of each plan.
    """

    known_base: np.ndarray
    last: bool
    plans: list[Plan] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    bases: list[int] = field(default_factory=list)
    requests: dict[Request, None] = field(default_factory=dict)
    known: dict[Request, np.ndarray] = field(default_factory=dict)

    def logs(self, answers: Mapping[Request, np.ndarray]) -> np.ndarray:
        """log p of each base, float32 (N, 2, 4); NaN where a substitution has no plan."""
        logits = np.full((len(self.known_base), 2, 4), np.nan)
        present = np.flatnonzero(self.known_base < UNKNOWN)
        logits[present, :, self.known_base[present]] = 0.0
        if self.plans:
            logits[self.rows, :, self.bases] = [plan.llr(answers) for plan in self.plans]
        return normalised(logits).astype(np.float32)


class MarginalReader(Asker):
    """Reads log p(A, C, G, T) at every position of texts, from the score store or by the model.

    The store is not used for seqprior's own network, which is faster than it.
    """

    @property
    def batcher(self) -> Batcher:
        """Batches of the loaded model, for whatever else it is asked."""
        self.adapter  # noqa: B018 - loads it
        assert self._batcher is not None
        return self._batcher

    def marginals(self, stretches: Callable[[], Iterable[Stretch]]) -> Iterator[np.ndarray]:
        """For each stretch log p, natural, on the forward and the reverse strand, in forward letters.

        Args:
            stretches: called once; its items are made by another thread where the model reads tokens.

        Returns:
            float32 (last - first, 2, 4) for each; NaN at unknown bases and where the model cannot answer.
        """
        if self.scheme.facts.shares_windows:
            yield from self._whole(stretches())
            return
        parts = []
        for group, answers in self.answered(lambda: self._sites(stretches()), at_once=False):
            parts.append(group.logs(answers))
            if group.last:
                yield np.concatenate(parts)
                parts = []

    def _sites(self, stretches: Iterable[Stretch]) -> Iterator[Sites]:
        size = max(GROUP_BASES // self.scheme.facts.window, 1)
        for stretch in stretches:
            ends = [*range(stretch.first, stretch.last, size), stretch.last]
            for first, last in pairwise(ends if len(ends) > 1 else ends * 2):
                yield planned(self.scheme, stretch.text, first, last, last == stretch.last)

    def _whole(self, stretches: Iterable[Stretch]) -> Iterator[np.ndarray]:
        """Answers of the bidirectional network; short stretches are read together."""
        waiting: list[Stretch] = []
        for stretch in stretches:
            waiting.append(stretch)
            if sum(len(each.text[each.first : each.last]) for each in waiting) >= TILE:
                yield from self._tiled(waiting)
                waiting = []
        yield from self._tiled(waiting)

    def _tiled(self, stretches: list[Stretch]) -> Iterator[np.ndarray]:
        reach = self.scheme.facts.window // 2
        tiles = [
            (number, stretch.text[max(at - reach, 0) : end + reach], at - max(at - reach, 0), end - at)
            for number, stretch in enumerate(stretches)
            for at in range(stretch.first, stretch.last, TILE)
            for end in (min(at + TILE, stretch.last),)
        ]
        parts: list[list[np.ndarray]] = [[np.empty((0, 2, 4), np.float32)] for _ in stretches]
        states = self.adapter.states(self.batcher, [text for _, text, _, _ in tiles])
        for (number, _, first, count), found in zip(tiles, states, strict=True):
            parts[number].append(state_marginals(self.adapter, found[first : first + count]).cpu().numpy())
        for stretch, found in zip(stretches, parts, strict=True):
            logs = np.concatenate(found)
            logs[encode(stretch.text[stretch.first : stretch.last]) == UNKNOWN] = np.nan
            yield logs


def state_marginals(adapter: BidirectionalAdapter, states: Tensor) -> Tensor:
    """log p on both strands from what `BidirectionalAdapter.states` gave: (..., H) to float32 (..., 2, 4)."""
    with torch.inference_mode():
        left, right = states.to(adapter.dtype).chunk(2, -1)
        logs = torch.stack(adapter.network.strand_logits(left, right), -2).log_softmax(-1)
        adapter.require_finite(logs)
    return logs


def planned(scheme: Scheme, text: str, first: int, last: int, ends: bool = True) -> Sites:
    """What is asked of a token model for the positions [first, last) of a text."""
    sites = Sites(encode(text[first:last]), ends)
    cut, window = None, ""
    for row, code in enumerate(sites.known_base):
        if code == UNKNOWN:
            continue
        at, ref = first + row, BASES[code]
        place = scheme.cutter.window(len(text), at, ref, ref)
        if place is None:
            continue
        if place != cut:
            cut, window = place, padded(text, *place)
        for base, alt in enumerate(BASES):
            plan = scheme.plan(window, at - place[0], ref, alt) if base != code else None
            if plan is not None:
                sites.plans.append(plan)
                sites.rows.append(row)
                sites.bases.append(base)
                sites.requests.update(dict.fromkeys(plan.requests))
    return sites


def normalised(logits: np.ndarray) -> np.ndarray:
    """Natural logarithms of the softmax over the last axis. NaN spreads over its distribution."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def entropy_bits(logs: np.ndarray) -> np.ndarray:
    """Entropy, in bits, of distributions (..., 4) given by natural logarithms that need not be normalised."""
    logs = normalised(logs.astype(np.float64))
    chance = np.exp(logs)
    terms = np.where(chance > 0, chance * np.maximum(logs, -1e300), chance)  # 0 log 0 is 0, and NaN stays
    return np.minimum(-terms.sum(-1) / np.log(2), 2.0)


def information_tracks(logs: np.ndarray) -> dict[str, np.ndarray]:
    """Tracks, in bits and float32 (L,), from log p (L, 2, 4): of both strands' mean logits, and of each strand."""
    both = entropy_bits(logs.mean(1))
    strands = 2.0 - entropy_bits(logs)
    tracks = {
        "entropy": both,
        "information": 2.0 - both,
        "information_forward": strands[:, 0],
        "information_reverse": strands[:, 1],
    }
    return {name: values.astype(np.float32) for name, values in tracks.items()}
