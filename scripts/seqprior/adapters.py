"""Sequence models behind one interface: leave-one-out marginals, pseudo-log-likelihoods, embeddings.

An adapter stands for a tokenisation and an objective, not for a model. It takes base codes (`seqprior.sequence`) in
batches, right-padded with N, and never sees a file, a strand rule or an allele: strands are handled here, once.

All probabilities are natural logarithms over A, C, G, T, renormalised to these four.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from seqprior.bidirectional import PAD_CODE, BidirectionalConfig, BidirectionalConvLM, reverse_complement
from seqprior.device import torch_device
from seqprior.errors import BadInput
from seqprior.models import ModelFacts, verify_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Adapter(ABC):
    """One loaded model.

    Attributes:
        site_method, pair_method: names of the scores it gives, as documented in docs/scores.md.
        strand_symmetric: embeddings of a sequence and of its reverse complement hold the same numbers.
        pads_exactly: N on the right of a shorter sequence changes nothing, so lengths may be mixed in a batch.
    """

    site_method: str
    pair_method: str
    strand_symmetric = False
    pads_exactly = False

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype

    @abstractmethod
    def marginals(self, codes: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
        """log p(base | all other bases) at (rows[i], offsets[i]) on both strands, in forward letters.

        Args:
            codes: int64 (B, L). rows, offsets: int64 (N,).

        Returns:
            float32 (N, 2, 4): forward strand, reverse strand.
        """

    @abstractmethod
    def pseudo_log_likelihoods(self, codes: Tensor, rows: int) -> Tensor:
        """Sum over known bases of log p(base | the others) + log 4, both strands: float64 (B, 2).

        The uniform background keeps sequences of different lengths comparable: a base that the model finds no more
        likely than chance adds nothing. An adapter that needs several passes makes them with `rows` rows each.
        """

    @abstractmethod
    def embeddings(self, codes: Tensor) -> Tensor:
        """Last-layer states of the forward strand, float32 (B, L, H)."""

    def to_device(self, codes: np.ndarray) -> Tensor:
        return torch.from_numpy(codes.astype(np.int64)).to(self.device)


class BidirectionalAdapter(Adapter):
    """The bidirectional convolutional model: every position and both strands in one pass, nothing masked."""

    site_method = "leave_one_out_marginal"
    pair_method = "leave_one_out_pseudo_likelihood"
    strand_symmetric = True
    pads_exactly = True

    def __init__(self, network: BidirectionalConvLM, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device, dtype)
        self.network = network.to(device).eval()
        self.network.tabulate(dtype)

    def marginals(self, codes: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
        reach = self.network.config.reach
        middles = codes.shape[1] == 2 * reach + 1 and bool((offsets == reach).all())
        if middles and torch.equal(rows, torch.arange(len(codes), device=rows.device)):
            left, right = self.network.site_states(codes, self.dtype)
        else:
            left, right = (states[rows, offsets] for states in self.network.states(codes, self.dtype))
        logits = self.network.strand_logits(left, right)
        return torch.stack(logits, 1).log_softmax(-1)

    def pseudo_log_likelihoods(self, codes: Tensor, rows: int) -> Tensor:
        logits = torch.stack(self.network(codes, self.dtype), 1)
        return known_base_sum(logits.log_softmax(-1), codes)

    def embeddings(self, codes: Tensor) -> Tensor:
        return torch.cat(self.network.states(codes, self.dtype), -1).float()


class MaskedBaseAdapter(Adapter):
    """Masked language models of transformers with one token per base, an optional start and an optional end token.

    Args:
        network: a `...ForMaskedLM`, its parameters in `dtype` already (its buffers need not be).
        vocabulary: token ids of A, C, G, T, N, [MASK], [PAD] and, where used, [CLS] and [SEP].
        exact: pseudo-log-likelihoods mask one position per row instead of reading all from one unmasked pass.
    """

    site_method = "masked_marginal"

    def __init__(self, network, vocabulary: dict[str, int], device: torch.device, dtype: torch.dtype, exact: bool):
        super().__init__(device, dtype)
        self.network = network.to(device).eval()
        self.vocabulary = vocabulary
        self.exact = exact
        self.pair_method = "masked_pseudo_likelihood" if exact else "unmasked_pseudo_likelihood"
        self.bases = torch.tensor([vocabulary[base] for base in "ACGT"], device=device)
        self.token_of = torch.tensor([vocabulary[base] for base in "ACGTN"], device=device)
        self.starts = "[CLS]" in vocabulary

    def _tokens(self, codes: Tensor) -> Tensor:
        tokens = self.token_of[codes]

        def edge(name: str) -> list[Tensor]:
            present = name in self.vocabulary
            return [torch.full_like(tokens[:, :1], self.vocabulary[name])] if present else []

        return torch.cat([*edge("[CLS]"), tokens, *edge("[SEP]")], 1)

    def _log_probabilities(self, tokens: Tensor, at: Tensor) -> Tensor:
        """Over the four bases at token position `at` (N,) of each row: (N, 4)."""
        logits = self.network(input_ids=tokens).logits
        chosen = logits[torch.arange(len(at), device=self.device), at]
        return chosen[:, self.bases].float().log_softmax(-1)

    def _masked(self, codes: Tensor, offsets: Tensor) -> Tensor:
        tokens = self._tokens(codes)
        at = offsets + int(self.starts)
        tokens[torch.arange(len(at), device=self.device), at] = self.vocabulary["[MASK]"]
        return self._log_probabilities(tokens, at)

    def marginals(self, codes: Tensor, rows: Tensor, offsets: Tensor) -> Tensor:
        windows = codes[rows]
        forward = self._masked(windows, offsets)
        reverse = self._masked(reverse_complement(windows), codes.shape[1] - 1 - offsets).flip(-1)
        return torch.stack([forward, reverse], 1)

    def pseudo_log_likelihoods(self, codes: Tensor, rows: int) -> Tensor:
        strands = []
        for strand in (codes, reverse_complement(codes)):
            if self.exact:
                logs = torch.zeros(*codes.shape, 4, device=self.device)
                for sites in (strand < PAD_CODE).nonzero().split(rows):
                    number, offset = sites.T
                    logs[number, offset] = self._masked(strand[number], offset)
            else:
                logits = self.network(input_ids=self._tokens(strand)).logits[:, int(self.starts) :]
                logs = logits[:, : codes.shape[1], self.bases].float().log_softmax(-1)
            strands.append(known_base_sum(logs[:, None], strand))
        return torch.cat(strands, 1)

    def embeddings(self, codes: Tensor) -> Tensor:
        states = self.network.base_model(input_ids=self._tokens(codes)).last_hidden_state
        return states[:, int(self.starts) : int(self.starts) + codes.shape[1]].float()


def known_base_sum(logs: Tensor, codes: Tensor) -> Tensor:
    """Sum of log p(base) + log 4 over the known bases: log probabilities (B, S, L, 4), codes (B, L), float64 (B, S)."""
    known = (codes < PAD_CODE)[:, None]
    target = codes.clamp(max=3)[:, None, :, None].expand(*logs.shape[:3], 1)
    picked = logs.gather(-1, target)[..., 0] + float(np.log(4))
    return (picked * known).sum(-1, dtype=torch.float64)  # differences of long sums: float32 would show in LLRs


def load_bidirectional(facts: ModelFacts, device: torch.device, dtype: torch.dtype, exact: bool) -> Adapter:
    from safetensors.torch import load_file

    weights = load_file(verify_weights(facts))
    config_file = facts.path / "config.json"
    try:
        config = BidirectionalConfig.from_dict(json.loads(config_file.read_text())["network"])
    except (OSError, KeyError, TypeError, ValueError) as error:
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
    return BidirectionalAdapter(network, device, dtype)


def load_masked_base(facts: ModelFacts, device: torch.device, dtype: torch.dtype, exact: bool) -> Adapter:
    from transformers import AutoModelForMaskedLM

    verify_weights(facts)
    try:
        network, info = AutoModelForMaskedLM.from_pretrained(
            facts.path, local_files_only=True, attn_implementation="sdpa", output_loading_info=True, dtype=dtype
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise BadInput(f"{facts.path}: transformers cannot load {facts.id} ({reason}); restore the files") from error
    require_all_weights(facts, info["missing_keys"], info["unexpected_keys"])
    require_vocabulary(facts, network)
    require_room(facts, network)
    return MaskedBaseAdapter(network, facts.vocabulary, device, dtype, exact)


def require_all_weights(facts: ModelFacts, missing, unexpected) -> None:
    """A missing weight would be left random, an unexpected one ignored: both give plausible nonsense."""
    if missing or unexpected:
        raise BadInput(
            f"{facts.path}: the weights do not fit the architecture {facts.family} "
            f"(missing: {', '.join(sorted(missing)) or 'none'}; unexpected: {', '.join(sorted(unexpected)) or 'none'})"
        )


def require_vocabulary(facts: ModelFacts, network) -> None:
    """Every token has a number of its own within the checkpoint's table, and the checkpoint masks with the same one."""
    size = network.get_input_embeddings().num_embeddings
    numbers = [facts.vocabulary.get(token) for token in (*"ACGT", "[MASK]")]
    own = getattr(network.config, "mask_token_id", None)  # ESM's token dropout looks for it
    if (
        "N" not in facts.vocabulary
        or not all(isinstance(number, int) and 0 <= number < size for number in (*numbers, *facts.vocabulary.values()))
        or len(set(numbers)) < len(numbers)
        or own not in (None, facts.vocabulary["[MASK]"])
    ):
        raise BadInput(f"{facts.id}: the registry's vocabulary does not fit the checkpoint's {size} tokens")


def require_room(facts: ModelFacts, network) -> None:
    """A window fits into the table of learned positions, where there is one."""
    for name, module in network.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            first = 0 if module.padding_idx is None else module.padding_idx + 1  # as in RoBERTa and ESM
            room = module.num_embeddings - first - len({"[CLS]", "[SEP]"} & set(facts.vocabulary))
            if facts.window > room:
                raise BadInput(
                    f"{facts.path}: the network takes up to {room} bases, the registry says window: {facts.window}"
                )


FAMILIES = {"bidirectional-conv": load_bidirectional, "masked-base": load_masked_base}


def load_adapter(facts: ModelFacts, device: str, dtype: str, exact: bool) -> Adapter:
    """Load a registered model.

    Args:
        device: 'cpu' or 'gpu'. dtype: 'auto' (float32), 'float32' or 'bfloat16'.
        exact: mask every position in turn for pseudo-log-likelihoods of masked models.

    Raises:
        BadInput: unknown family, damaged or unfitting weights, or a GPU was asked for and there is none.
    """
    if facts.family not in FAMILIES:
        raise BadInput(f"{facts.id}: unknown family {facts.family!r}; known are {', '.join(FAMILIES)}")
    place = torch_device(device)
    torch_dtype = torch.float32 if dtype == "auto" else DTYPES[dtype]
    torch.backends.cudnn.allow_tf32 = False  # PyTorch's default lets convolutions round float32 to 10 bits
    return FAMILIES[facts.family](facts, place, torch_dtype, exact)
