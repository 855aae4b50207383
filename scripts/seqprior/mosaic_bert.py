"""The network of DNABERT-2: MosaicBERT, a BERT with linear attention biases (ALiBi) and a gated feed-forward network.

It follows the code published with the checkpoint (bert_layers.py of zhihan1996/DNABERT-2-117M; MosaicBERT is
arXiv:2312.17482, ALiBi arXiv:2108.12409), in plain PyTorch: no Triton kernel and no removal of padding. What sets it
apart from BERT: no position embeddings but a bias of -slope * |i - j| on each head's scores, one matrix `Wqkv` for
queries, keys and values, and a feed-forward network whose `gated_layers` give gate and value at once, in this order,
with GELU on the gate. Layer norms come after each half of a layer. Parameters are named as in the checkpoint.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqprior.ports import Port, gathered

# Entries of published files that no prediction needs: buffers of numbers in a row, and the pooler of classifiers.
IGNORED = (
    r"^bert\.embeddings\.(position_ids|token_type_ids)$",
    r"^bert\.pooler\.dense\.(weight|bias)$",
)

EMBEDDING, DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
HEAD_NORM_EPS = 1e-12  # fixed in the published code, whatever layer_norm_eps is
CACHED_LENGTH = 1024  # tokens; 50 MB for 12 heads in float32. The bias of longer inputs is made for the call, not kept
ALIGNMENT = 8  # columns; attention kernels of GPUs copy a bias whose rows do not start at a multiple of it


@dataclass(frozen=True)
class MosaicBertConfig:
    """Shape and settings of the network, under the names of the published config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    @classmethod
    def from_dict(cls, values: dict) -> MosaicBertConfig:
        """The config of a checkpoint's config.json. Settings that inference does not need are ignored, among them
        position_embedding_type: published files say "absolute" and have no position embeddings.

        Raises:
            ValueError: a size is missing, or a setting has a value that this network does not implement.
        """
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in sizes:
            if not isinstance(values.get(name), int) or values[name] < 1:
                raise ValueError(f"{name} is {values.get(name)!r}, not a positive whole number")
        for name, wanted in {"hidden_act": "gelu", "is_decoder": False}.items():
            if values.get(name, wanted) != wanted:
                raise ValueError(f"{name} is {values[name]!r}, and only {wanted!r} is implemented")
        if values["hidden_size"] % values["num_attention_heads"]:
            raise ValueError(
                f"hidden_size {values['hidden_size']} is no multiple of num_attention_heads "
                f"{values['num_attention_heads']}"
            )
        return cls(
            **{name: values[name] for name in sizes},
            type_vocab_size=values.get("type_vocab_size", cls.type_vocab_size),
            layer_norm_eps=values.get("layer_norm_eps", cls.layer_norm_eps),
        )


def tie(state_dict: dict[str, Tensor], config: MosaicBertConfig | None = None) -> dict[str, Tensor]:
    """The weights of a file, with the token embedding as decoder where the file has no decoder of its own.

    The decoder always shares its weights with the embedding, whatever `config` says; its bias is its own.

    Raises:
        ValueError: the file has a decoder, and it is another one than the embedding.
    """
    if EMBEDDING not in state_dict:
        return state_dict
    if not torch.equal(state_dict.get(DECODER, state_dict[EMBEDDING]), state_dict[EMBEDDING]):
        raise ValueError(f"{DECODER} differs from {EMBEDDING}, which the network takes for it")
    return {**state_dict, DECODER: state_dict[EMBEDDING]}


def alibi_slopes(heads: int) -> list[float]:
    """The slope of each head's bias: 2**(-8/n), 2**(-16/n), ... for n heads if n is a power of two.

    For other counts the slopes of the next lower power of two come first, then every second slope, from the first on,
    of the next higher one.
    """
    lower = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (head + 1) / lower) for head in range(lower)]
    return slopes + ([] if lower == heads else alibi_slopes(2 * lower)[0::2][: heads - lower])


class _SelfAttention(nn.Module):
    """Queries, keys and values of one layer in one matrix, in this order."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.Wqkv = nn.Linear(width, 3 * width)


class _AttentionOutput(nn.Module):
    """What leads from the heads back to the states."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class _Attention(nn.Module):
    """Self-attention with a bias on its scores, added to the states and normed."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.self = _SelfAttention(config.hidden_size)
        self.output = _AttentionOutput(config)

    def forward(self, states: Tensor, bias: Tensor, keep: Tensor | None) -> Tensor:
        """`bias` broadcasts to (B, heads, T, T), or with `keep` to (B, heads, n, T)."""
        query, key, value = self._split(self.self.Wqkv(states), 3)
        if keep is not None:
            query = query.gather(2, keep[:, None, :, None].expand(-1, self.heads, -1, query.shape[-1]))
            states = gathered(states, keep)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.output.LayerNorm(self.output.dense(mixed.transpose(1, 2).flatten(2)).add_(states))

    def _split(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, T, parts * H) to that many tensors (B, heads, T, head width)."""
        shaped = projected.view(*projected.shape[:2], parts, self.heads, -1)
        return shaped.transpose(1, 3).unbind(2)


class _GatedMLP(nn.Module):
    """The gated feed-forward network, added to the states and normed."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        gate, value = self.gated_layers(states).chunk(2, -1)
        return self.layernorm(self.wo(F.gelu(gate).mul_(value)).add_(states))


class _Layer(nn.Module):
    """Attention, then the feed-forward network; (B, T, H) to (B, T, H), or to (B, n, H) with `keep`."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.mlp = _GatedMLP(config)

    def forward(self, states: Tensor, bias: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.mlp(self.attention(states, bias, keep))


class _Embeddings(nn.Module):
    """Token embeddings, (B, T) to (B, T, H); every token is of type 0."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        return self.LayerNorm(self.word_embeddings(ids) + self.token_type_embeddings.weight[0])


class _Encoder(nn.Module):
    """The layers."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))


class _Bert(nn.Module):
    """Embeddings and encoder under the prefix of the checkpoint."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)


class _Transform(nn.Module):
    """What comes before the decoder."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=HEAD_NORM_EPS)


class _Predictions(nn.Module):
    """From states to logits: dense, GELU, norm, decoder."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.transform = _Transform(config.hidden_size)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, states: Tensor) -> Tensor:
        return self.decoder(self.transform.LayerNorm(F.gelu(self.transform.dense(states))))


class _Head(nn.Module):
    """The predictions under the prefix of the checkpoint."""

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__()
        self.predictions = _Predictions(config)


class MosaicBertForMaskedLM(Port):
    """DNABERT-2 for masked tokens, in the dtype of its parameters.

    A checkpoint loads with `load_state_dict(tie(weights))` once the entries that `IGNORED` matches are dropped. Files
    without a head, such as DNABERT-S, cannot predict tokens and do not load.
    """

    def __init__(self, config: MosaicBertConfig) -> None:
        super().__init__(config)
        self.bert = _Bert(config)
        self.cls = _Head(config)
        self.cls.predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight
        self._biases: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def states(
        self, ids: Tensor, attention: Tensor | None = None, keep: Tensor | None = None, layer: int | None = None
    ) -> Tensor:
        """States of tokens.

        `ids` is int64 (B, T). `attention` is bool (B, T), True where a token counts, padding on the right; None if all
        count. States at padding mean nothing. `keep`, int64 (B, n), names the positions wanted: the last layer then
        does the work of queries and feed-forward network there only, for the same numbers. `layer` stops after that
        many layers (0 gives the embeddings).

        Returns (B, T, H), or (B, n, H) with `keep`, in the dtype of the parameters.

        Raises:
            ValueError: `layer` is out of range, or comes together with `keep`.
        """
        self.require_layer(layer, keep)
        if attention is not None and bool(attention.all()):
            attention = None  # then all rows share one bias
        states = self.bert.embeddings(ids)
        bias = self._bias(ids.shape[1], states, attention)
        for block in self.bert.encoder.layer[: layer if keep is None else -1]:
            states = block(states, bias)
        if keep is None:
            return states
        rows = bias.expand(len(ids), -1, -1, -1) if attention is None else bias
        index = keep[:, None, :, None].expand(-1, self.config.num_attention_heads, -1, ids.shape[1])
        return self.bert.encoder.layer[-1](states, rows.gather(2, index), keep)

    def head(self, states: Tensor) -> Tensor:
        """Logits (..., V) of states (..., H)."""
        return self.cls.predictions(states)

    def _bias(self, length: int, states: Tensor, attention: Tensor | None) -> Tensor:
        """What all layers add to their scores, (1 or B, heads, T, T) in the dtype of the states.

        Padding gets the lowest number of the dtype: some kernels turn -inf into NaN in a row of nothing but padding.
        """
        aligned = -(-length // ALIGNMENT) * ALIGNMENT
        bias = self._alibi(aligned, states.device, states.dtype)[:, :, :length, :aligned]
        if attention is not None:
            padding = F.pad(~attention, (0, aligned - length), value=True)
            bias = bias.masked_fill(padding[:, None, None, :], torch.finfo(states.dtype).min)
        return bias[..., :length]

    def _alibi(self, length: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """-slope * |i - j|, (1, heads, L, L) with L at least `length`: the longest so far serves shorter inputs."""
        kept = self._biases.get((device, dtype))
        if kept is not None and kept.shape[-1] >= length:
            return kept
        with torch.inference_mode(False), torch.no_grad():  # what is kept must also serve calls with gradients
            at = torch.arange(length, dtype=torch.float32, device=device)
            slopes = torch.tensor(alibi_slopes(self.config.num_attention_heads), device=device)
            bias = ((at - at[:, None]).abs() * -slopes[:, None, None]).to(dtype).unsqueeze(0)
        if length <= CACHED_LENGTH:
            self._biases[device, dtype] = bias
        return bias
