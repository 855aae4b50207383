"""Loaded models that answer requests: one adapter for all token models, one for seqprior's own network.

An adapter never sees a file, an allele or a strand rule: `seqprior.plans` says which token rows answer a request and
how their readings add up. Log probabilities are natural, normalised over the tokens that stand for bases.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seqprior.batching import Batcher
from seqprior.bidirectional import PAD_CODE, BidirectionalConfig, BidirectionalConvLM
from seqprior.errors import BadInput
from seqprior.models import ModelFacts, read_config
from seqprior.networks import FAMILIES, load_network, read_weights, require_all_weights
from seqprior.plans import Reading, Request, Row, Scheme, read_scheme
from seqprior.sequence import encode
from seqprior.sequence import reverse_complement as other_strand
from seqprior.tokenisation import Tokeniser
from seqprior.work import Pack, Work, make_packs, make_work

HEAD_ELEMENTS = 2**25  # logits that are held at a time


class Adapter(ABC):
    """One loaded model.

    Attributes:
        scheme: what it can be asked. arithmetic: number format of its weights.
        strand_symmetric: states of a sequence and of its reverse complement hold the same numbers.
    """

    strand_symmetric = False

    def __init__(self, scheme: Scheme, device: torch.device, arithmetic: str) -> None:
        self.scheme, self.device, self.arithmetic = scheme, device, arithmetic

    @abstractmethod
    def answer(self, batcher: Batcher, work: Work) -> np.ndarray:
        """Answers to requests of one kind and width: float64 (N, strands, width), in forward letters."""

    def answers(self, batcher: Batcher, requests: Sequence[Request]) -> np.ndarray:
        """The same from the requests themselves."""
        return self.answer(batcher, make_work(self.scheme, list(requests)))

    @abstractmethod
    def states(self, batcher: Batcher, sequences: Sequence[str], layer: int | None = None) -> list[Tensor]:
        """States of each sequence as read from its start, one a token that covers bases: float32 (T, H), on the device.

        Args:
            layer: after so many layers; None after the last.
        """

    def turned(self, states: Tensor) -> Tensor:
        """Where `strand_symmetric`: states (..., H) of the same bases, in the same order, read on the other strand."""
        raise NotImplementedError(f"{self.scheme.facts.id} has to read the other strand")

    @abstractmethod
    def token_of_base(self, sequence: str) -> np.ndarray:
        """For each base the row of `states` that stands for it: int64 (L,)."""

    @abstractmethod
    def compile(self) -> None:
        """Compile the network with torch.compile, for inputs of any shape."""

    def require_finite(self, values: Tensor) -> None:
        if not torch.isfinite(values).all():
            advice = (
                "check the checkpoint and its registry entry"
                if self.arithmetic == "float32"
                else "set scoring.dtype to float32"
            )
            raise BadInput(f"the model gave NaN or infinity in {self.arithmetic}; {advice}")


class BidirectionalAdapter(Adapter):
    """The bidirectional convolutional model: every position and both strands in one pass, nothing masked."""

    strand_symmetric = True

    def __init__(self, network: BidirectionalConvLM, scheme: Scheme, device: torch.device, arithmetic: str) -> None:
        super().__init__(scheme, device, arithmetic)
        self.dtype = torch.bfloat16 if arithmetic == "bfloat16" else torch.float32
        self.network = network.to(device).eval()
        self.network.tabulate(self.dtype)

    def answer(self, batcher: Batcher, work: Work) -> np.ndarray:
        requests = work.requests
        if requests[0].kind == self.scheme.site_method:
            return self._marginals(batcher, requests)
        results = np.zeros((len(requests), 2, 1))
        codes = [encode(request.sequence) for request in requests]

        def compute(numbers: list[int]) -> None:
            stacked = self._stacked([codes[number] for number in numbers])
            logs = torch.stack(self.network(stacked, self.dtype), 1).log_softmax(-1)
            sums = known_base_sum(logs, stacked)
            self.require_finite(sums)
            results[numbers, :, 0] = sums.cpu().numpy()

        batcher.run([len(code) for code in codes], compute)
        return results

    def _marginals(self, batcher: Batcher, requests: Sequence[Request]) -> np.ndarray:
        """Sites of one window are read from one pass over it."""
        results = np.zeros((len(requests), 2, 4))
        sites: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            sites.setdefault(request.sequence, []).append(number)
        windows = list(sites)
        codes = [encode(window) for window in windows]

        def compute(numbers: list[int]) -> None:
            stacked = self._stacked([codes[number] for number in numbers])
            asked = [(row, site) for row, number in enumerate(numbers) for site in sites[windows[number]]]
            rows = torch.tensor([row for row, _ in asked], device=self.device)
            offsets = torch.tensor([requests[site].at[0] for _, site in asked], device=self.device)
            logs = self.marginals(stacked, rows, offsets)
            self.require_finite(logs)
            results[[site for _, site in asked]] = logs.cpu().numpy()

        batcher.run([len(code) for code in codes], compute)
        return results

    def marginals(self, codes: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
        """log p(base | all other bases) at (rows[i], offsets[i]) on both strands, in forward letters.

        Args:
            codes: int64 (B, L). rows, offsets: int64 (N,).

        Returns:
            float32 (N, 2, 4): forward strand, reverse strand.
        """
        reach = self.network.config.reach
        middles = codes.shape[1] == 2 * reach + 1 and bool((offsets == reach).all())
        if middles and torch.equal(rows, torch.arange(len(codes), device=rows.device)):
            left, right = self.network.site_states(codes, self.dtype)
        else:
            left, right = (states[rows, offsets] for states in self.network.states(codes, self.dtype))
        return torch.stack(self.network.strand_logits(left, right), 1).log_softmax(-1)

    def states(self, batcher: Batcher, sequences: Sequence[str], layer: int | None = None) -> list[Tensor]:
        if layer is not None:
            raise BadInput(f"{self.scheme.facts.id} has states of its last layer alone; leave the layer out")
        results: list[Tensor] = [torch.empty(0)] * len(sequences)
        codes = [encode(sequence) for sequence in sequences]

        def compute(numbers: list[int]) -> None:
            states = torch.cat(self.network.states(self._stacked([codes[n] for n in numbers]), self.dtype), -1).float()
            self.require_finite(states)
            for row, number in enumerate(numbers):
                results[number] = states[row, : len(codes[number])].clone()

        batcher.run([len(code) for code in codes], compute)
        return results

    def turned(self, states: Tensor) -> Tensor:
        left, right = states.chunk(2, -1)
        return torch.cat([right, left], -1)

    def token_of_base(self, sequence: str) -> np.ndarray:
        return np.arange(len(sequence))

    def compile(self) -> None:
        self.network.tower = torch.compile(self.network.tower, dynamic=True)
        self.network.prefix_state = torch.compile(self.network.prefix_state, dynamic=True)

    def _stacked(self, codes: Sequence[np.ndarray]) -> Tensor:
        """Codes of one batch, padded with N, which the network reads like a contig's end: int64 (B, L)."""
        stacked = np.full((len(codes), max(map(len, codes))), PAD_CODE, np.int64)
        for row, code in enumerate(codes):
            stacked[row, : len(code)] = code
        return torch.from_numpy(stacked).to(self.device)


def known_base_sum(logs: Tensor, codes: Tensor) -> Tensor:
    """Sum of log p(base) + log 4 over the known bases: log probabilities (B, S, L, 4), codes (B, L), float64 (B, S)."""
    known = (codes < PAD_CODE)[:, None]
    target = codes.clamp(max=3)[:, None, :, None].expand(*logs.shape[:3], 1)
    picked = logs.gather(-1, target)[..., 0] + float(np.log(4))
    return (picked * known).sum(-1, dtype=torch.float64)  # differences of long sums: float32 would show in LLRs


class TokenAdapter(Adapter):
    """A masked or causal language model over tokens of any kind."""

    def __init__(self, network, tokeniser: Tokeniser, scheme: Scheme, device: torch.device, arithmetic: str) -> None:
        super().__init__(scheme, device, arithmetic)
        self.network, self.tokeniser = network, tokeniser
        self.causal = scheme.facts.objective == "causal"
        self.outcomes = torch.from_numpy(tokeniser.outcomes).to(device)
        self.branches = hasattr(network, "sliding_window")

    def answer(self, batcher: Batcher, work: Work) -> np.ndarray:
        results = work.constants.copy()
        packs = make_packs(work.rows, self.branches)

        def compute(numbers: list[int]) -> None:
            chosen = [packs[number] for number in numbers]
            asked = [part for pack in chosen for row in pack.rows for part in work.reads[row]]
            sums = self._read(chosen, work)
            self.require_finite(sums)
            values, first = sums.cpu().numpy(), 0
            for number in asked:
                part = work.parts[number]
                value = values[first : first + part.sums].reshape(-1)
                results[work.owner[number], part.strand, : len(value)] += value
                first += part.sums

        batcher.run([pack.length for pack in packs], compute)
        return results

    def _read(self, packs: list[Pack], work: Work) -> Tensor:
        """One forward pass: the weighted sums that each part of each row reads, float64 (sums of all parts, C)."""
        ids, attention, positions, visible = self._inputs(packs, work.rows)
        places, candidates, weights, owners = [], [], [], []
        at = 0
        own, spelt = [], False
        for line, pack in enumerate(packs):
            for start, row in zip(pack.starts, pack.rows, strict=True):
                for part in (work.parts[number] for number in work.reads[row]):
                    # Causal models predict a token from the one before: the first of a branch from the prefix's last.
                    spot = part.positions - int(self.causal)
                    if pack.prefix:
                        spot = np.where(spot < pack.prefix, spot, spot - pack.prefix + start)
                    places.append(line * ids.shape[1] + spot)
                    candidates.append(part.candidates)
                    spelt |= part.spelt
                    weights.append(np.full(len(spot), part.weight))
                    own.append(np.full(len(spot), part.own))
                    owners.append(at + np.arange(len(spot)) if part.apart else np.full(len(spot), at))
                    at += part.sums
        place, read_of = np.unique(np.concatenate(places), return_inverse=True)
        states = self._wanted(ids, attention, positions, visible, place)
        picks = torch.from_numpy(as_wide(candidates)).to(self.device)
        scale = torch.from_numpy(np.concatenate(weights)).to(self.device)
        owner = torch.from_numpy(np.concatenate(owners)).to(self.device)
        read_of = torch.from_numpy(read_of).to(self.device)
        picked = torch.empty(picks.shape, dtype=torch.float64, device=self.device)
        step = max(1, HEAD_ELEMENTS // self.network.vocab_size)
        order = torch.argsort(read_of, stable=True)
        bounds = torch.searchsorted(read_of[order], torch.arange(0, len(place) + step, step, device=self.device))
        for chunk in range(len(bounds) - 1):
            chosen = order[bounds[chunk] : bounds[chunk + 1]]
            logits = self.network.head(states[chunk * step : (chunk + 1) * step])
            groups = logits[:, self.outcomes].float().split(self.tokeniser.groups, 1)
            logs = torch.cat([group.log_softmax(-1) for group in groups], 1)
            picked[chosen] = logs[read_of[chosen] - chunk * step].gather(1, picks[chosen].clamp(min=0)).double()
        among = self._sent(np.concatenate(own))
        if len(among) and among[0] >= 0:
            picked = picked.log_softmax(1).gather(1, among[:, None])
        if spelt:
            picked = picked.masked_fill(picks < 0, -torch.inf)
        sums = torch.zeros((at, picked.shape[1]), dtype=torch.float64, device=self.device)
        sums.index_add_(0, owner, picked * scale[:, None])
        return sums.logsumexp(1, keepdim=True) if spelt else sums

    def _inputs(self, packs: list[Pack], rows: list[Row]) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Token numbers (B, T), and as they are needed: which tokens count, their positions, what each may see."""
        width = max(pack.length for pack in packs)
        pad = self.tokeniser.pad if self.tokeniser.pad is not None else 0
        ids = np.full((len(packs), width), pad, np.int64)
        for line, pack in enumerate(packs):
            first = rows[pack.rows[0]]
            ids[line, : pack.prefix] = first.ids[: pack.prefix]
            for start, number in zip(pack.starts, pack.rows, strict=True):
                row = rows[number]
                ids[line, start : start + len(row) - pack.prefix] = row.ids[pack.prefix :]
                if row.masked:
                    ids[line, list(row.masked)] = self.tokeniser.mask
        lengths = np.array([pack.length for pack in packs])
        short = lengths < width
        attention = None
        if short.any() and not self.branches:
            attention = self._sent(np.arange(width)[None] < lengths[:, None])
        if not any(len(pack.rows) > 1 for pack in packs):
            return self._sent(ids), attention, None, None
        positions, visible = self._branched(packs, width)
        return self._sent(ids), None, self._sent(positions), self._sent(visible)

    def _branched(self, packs: list[Pack], width: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions (B, T) as if each branch followed the prefix alone, and what each token may see (B, T, T)."""
        positions = np.zeros((len(packs), width), np.int64)
        branch = np.full((len(packs), width), -1, np.int64)
        for line, pack in enumerate(packs):
            positions[line, : pack.prefix] = np.arange(pack.prefix)
            branch[line, : pack.prefix] = 0
            for number, (start, end) in enumerate(zip(pack.starts, [*pack.starts[1:], pack.length], strict=True), 1):
                positions[line, start:end] = pack.prefix + np.arange(end - start)
                branch[line, start:end] = number
        before = positions[:, :, None] >= positions[:, None, :]
        own = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
        visible = before & own & (branch[:, None, :] >= 0)
        if self.network.sliding_window:
            visible &= positions[:, :, None] - positions[:, None, :] < self.network.sliding_window
        visible |= np.eye(width, dtype=bool)  # padding sees itself: a row that sees nothing would be NaN
        return positions, visible

    def _wanted(self, ids, attention, positions, visible, place: np.ndarray) -> Tensor:
        """States at flat token positions `place` (N,), sorted: (N, H)."""
        line, spot = np.divmod(place, ids.shape[1])
        counts = np.bincount(line, minlength=len(ids))
        extra = {} if visible is None else {"positions": positions, "visible": visible}
        if 2 * counts.max() > ids.shape[1]:
            return self.network.states(ids, attention, **extra)[self._sent(line), self._sent(spot)]
        rank = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        keep = np.zeros((len(ids), counts.max()), np.int64)
        keep[line, rank] = spot
        states = self.network.states(ids, attention, keep=self._sent(keep), **extra)
        return states[self._sent(line), self._sent(rank)]

    def _sent(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values)
        return (
            tensor.to(self.device)
            if self.device.type == "cpu"
            else tensor.pin_memory().to(self.device, non_blocking=True)
        )

    def compile(self) -> None:
        self.network.states = torch.compile(self.network.states, dynamic=True)

    def states(self, batcher: Batcher, sequences: Sequence[str], layer: int | None = None) -> list[Tensor]:
        tokens = [self.tokeniser.tokens(sequence) for sequence in sequences]
        rows = [Row(entry.ids) for entry in tokens]
        results: list[Tensor] = [torch.empty(0)] * len(sequences)

        def compute(numbers: list[int]) -> None:
            packs = [Pack([number], 0, [0], len(rows[number])) for number in numbers]
            ids, attention, _, _ = self._inputs(packs, rows)
            found = self.network.states(ids, attention, layer=layer).float()
            for line, number in enumerate(numbers):
                covering = tokens[number].last > tokens[number].first
                results[number] = found[line, : len(covering)][self._sent(covering)]
                self.require_finite(results[number])

        batcher.run([len(row) for row in rows], compute)
        return results

    def token_of_base(self, sequence: str) -> np.ndarray:
        first, last = self.tokeniser.cut(sequence)[1:3]
        if self.scheme.facts.tokenisation == "overlapping-kmer":  # the token in whose middle the base lies
            return np.clip(np.arange(len(sequence)) - self.scheme.facts.k // 2, 0, max(len(first) - 1, 0))
        return np.repeat(np.arange(len(first)), last - first)


def as_wide(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays (M, C) one below the other, as wide as the widest, filled up with -1."""
    width = max(array.shape[1] for array in columns)
    stacked = np.full((sum(map(len, columns)), width), -1, np.int64)
    start = 0
    for array in columns:
        stacked[start : start + len(array), : array.shape[1]] = array
        start += len(array)
    return stacked


def strand_states(adapter: Adapter, batcher: Batcher, sequences: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
    """States of every base (L, H) as read on the forward and on the reverse strand, both in forward order."""
    if adapter.strand_symmetric:
        return [(states, states) for states in _base_states(adapter, batcher, sequences)]
    forward = _base_states(adapter, batcher, sequences)
    reverse = _base_states(adapter, batcher, [other_strand(sequence) for sequence in sequences])
    return [(first, second.flip(0)) for first, second in zip(forward, reverse, strict=True)]


def _base_states(adapter: Adapter, batcher: Batcher, sequences: Sequence[str]) -> list[Tensor]:
    """States of each base (L, H): those of the token that stands for it."""
    found = adapter.states(batcher, sequences)
    tokens = (torch.from_numpy(adapter.token_of_base(sequence)) for sequence in sequences)
    return [states[index.to(states.device)] for states, index in zip(found, tokens, strict=True)]


def load_adapter(facts: ModelFacts, device: torch.device, arithmetic: str, reading: Reading) -> Adapter:
    """Load a registered model from its verified folder.

    Args:
        arithmetic: 'float32', 'bfloat16' or 'int8'.

    Raises:
        BadInput: unknown family, or weights, vocabulary or registry entry do not fit each other.
    """
    if facts.family not in FAMILIES:
        raise BadInput(f"{facts.id}: unknown family {facts.family!r}; known are {', '.join(FAMILIES)}")
    torch.backends.cudnn.allow_tf32 = False  # PyTorch's default lets convolutions round float32 to 10 bits
    scheme = read_scheme(facts, reading)
    if facts.family == "bidirectional-conv":
        if arithmetic == "int8":
            raise BadInput(f"{facts.id}: scoring.dtype is int8, which this network has not; use float32 or bfloat16")
        return BidirectionalAdapter(load_bidirectional(facts), scheme, device, arithmetic)
    tokeniser = scheme.tokeniser
    assert tokeniser is not None
    network = load_network(facts, tokeniser, device, arithmetic, longest=longest_row(facts, tokeniser))
    return TokenAdapter(network, tokeniser, scheme, device, arithmetic)


def longest_row(facts: ModelFacts, tokeniser: Tokeniser) -> int:
    """Tokens of the longest row that a window gives, start and end tokens included."""
    ends = tokeniser.lead + int(tokeniser.end is not None)
    if facts.tokenisation == "kmer":
        return facts.window // facts.k + ends
    if facts.tokenisation == "overlapping-kmer":
        return facts.window - facts.k + 1 + ends
    return (facts.window // 3 if facts.tokenisation == "bpe" else facts.window) + ends


def load_bidirectional(facts: ModelFacts) -> BidirectionalConvLM:
    """seqprior's own network."""
    weights = read_weights(facts)
    config_file = Path(str(facts.path)) / "config.json"
    try:
        config = BidirectionalConfig.from_dict(read_config(facts)["network"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{config_file}: no shape of a {facts.family} network ({error}); restore the file") from error
    if 2 * config.reach + 1 != facts.window:
        raise BadInput(
            f"{facts.path}: the network sees {2 * config.reach + 1} bases, the registry says window: {facts.window}"
        )
    network = BidirectionalConvLM(config)
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise BadInput(f"{facts.path}: the weights do not have config.json's shapes; restore both files") from error
    require_all_weights(facts, missing, unexpected)
    return network
