"""The network of Nucleotide Transformer v2: ESM with rotary positions and a gated feed-forward network.

It follows the code published with the checkpoints (modeling_esm.py and esm_config.py of
InstaDeepAI/nucleotide-transformer-v2-50m-multi-species and its larger sisters; doi:10.1038/s41592-024-02523-z). What
sets it apart from ESM-2: `intermediate.dense` gives gate and value at once, in this order, the gate goes through SiLU,
and `add_bias_fnn` says whether the feed-forward matrices have biases. Layer norms come before each half of a layer and
once after the last one. Parameters are named as in the checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqprior.ports import Port, gathered

# Entries of published files that no prediction needs: positions come from the rotation alone (the table of absolute
# positions is never read, the frequencies follow from the width of a head), and contacts and pooled states are other
# predictions.
IGNORED = (
    r"^esm\.embeddings\.position_ids$",
    r"^esm\.embeddings\.position_embeddings\.weight$",
    r"^esm\.encoder\.layer\.\d+\.attention\.self\.rotary_embeddings\.inv_freq$",
    r"^esm\.contact_head\.regression\.(weight|bias)$",
    r"^esm\.pooler\.dense\.(weight|bias)$",
)

EMBEDDING, DECODER = "esm.embeddings.word_embeddings.weight", "lm_head.decoder.weight"
TRAINED_MASK_SHARE = 0.15 * 0.8  # of all tokens, in the training of every ESM model
ROTARY_BASE = 10_000.0
CACHED_LENGTH = 4096  # tokens; tables of longer inputs are made for the call and not kept


@dataclass(frozen=True)
class GatedEsmConfig:
    """Shape and settings of the network, under the names of the published config.json."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    layer_norm_eps: float = 1e-12
    add_bias_fnn: bool = True
    emb_layer_norm_before: bool = False
    token_dropout: bool = False
    mask_token_id: int | None = None
    tie_word_embeddings: bool = True

    @classmethod
    def from_dict(cls, values: dict) -> GatedEsmConfig:
        """The config of a checkpoint's config.json. Settings that inference does not need are ignored, and what the
        file leaves out is as in the published code.

        Raises:
            ValueError: a size is missing, or a setting has a value that this network does not implement.
        """
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        for name in sizes:
            if not isinstance(values.get(name), int) or values[name] < 1:
                raise ValueError(f"{name} is {values.get(name)!r}, not a positive whole number")
        implemented = {
            "position_embedding_type": ("absolute", "rotary"),  # the published default and the only one known here
            "is_folding_model": (False, False),
            "is_decoder": (False, False),
            "rope_theta": (ROTARY_BASE, ROTARY_BASE),
            "rescaling_factor": (None, None),
        }
        for name, (default, wanted) in implemented.items():
            if values.get(name, default) != wanted:
                raise ValueError(f"{name} is {values.get(name, default)!r}, and only {wanted!r} is implemented")
        if values["hidden_size"] % (2 * values["num_attention_heads"]):
            raise ValueError(
                f"hidden_size {values['hidden_size']} is no even multiple of num_attention_heads "
                f"{values['num_attention_heads']}"
            )
        if values.get("token_dropout") and values.get("mask_token_id") is None:
            raise ValueError("token_dropout is set, and mask_token_id, which it needs, is not")
        return cls(
            **{name: values[name] for name in sizes},
            layer_norm_eps=values.get("layer_norm_eps", cls.layer_norm_eps),
            add_bias_fnn=bool(values.get("add_bias_fnn", cls.add_bias_fnn)),
            emb_layer_norm_before=bool(values.get("emb_layer_norm_before")),
            token_dropout=bool(values.get("token_dropout")),
            mask_token_id=values.get("mask_token_id"),
            tie_word_embeddings=bool(values.get("tie_word_embeddings", cls.tie_word_embeddings)),
        )


def tie(state_dict: dict[str, Tensor], config: GatedEsmConfig | None = None) -> dict[str, Tensor]:
    """The weights of a file, with the token embedding as decoder where the file has no decoder of its own.

    Files leave the decoder out if it shares its weights with the embedding. Given a config that says it does not, as
    the published ones do, the weights come back as they are, so that loading them names a missing decoder.

    Raises:
        ValueError: the config says that they share weights, and the file has a decoder that differs from the embedding.
    """
    if EMBEDDING not in state_dict or (config is not None and not config.tie_word_embeddings):
        return state_dict
    if DECODER not in state_dict:
        return {**state_dict, DECODER: state_dict[EMBEDDING]}
    if config is not None and not torch.equal(state_dict[DECODER], state_dict[EMBEDDING]):
        raise ValueError(f"{DECODER} differs from {EMBEDDING}, and tie_word_embeddings says that they are the same")
    return state_dict


class _Dense(nn.Module):
    """A linear map under the name that the checkpoints give it."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs, bias=bias)


class _Projections(nn.Module):
    """Queries, keys and values of one layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))


class _Attention(nn.Module):
    """Rotary self-attention on normed states, added to the states."""

    def __init__(self, config: GatedEsmConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.head_width = width // config.num_attention_heads
        self.self = _Projections(width)
        self.output = _Dense(width, width, bias=True)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, states: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, keep: Tensor | None) -> Tensor:
        normed = self.LayerNorm(states)
        heads = (*normed.shape[:2], -1, self.head_width)
        key = _rotated(self.self.key(normed).view(heads), *turn)
        value = self.self.value(normed).view(heads)
        if keep is not None:
            states, normed = gathered(states, keep), gathered(normed, keep)
            heads = (*normed.shape[:2], -1, self.head_width)
            turn = tuple(table[keep] for table in turn)
        query = _rotated(self.self.query(normed).view(heads), *turn)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output.dense(mixed.transpose(1, 2).flatten(2)).add_(states)


class _Layer(nn.Module):
    """Attention, then the gated feed-forward network; (B, T, H) to (B, T, H), or to (B, n, H) with `keep`."""

    def __init__(self, config: GatedEsmConfig) -> None:
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.add_bias_fnn
        self.attention = _Attention(config)
        self.intermediate = _Dense(width, 2 * inner, bias)
        self.output = _Dense(inner, width, bias)
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, states: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, keep: Tensor | None) -> Tensor:
        states = self.attention(states, turn, mask, keep)
        gate, value = self.intermediate.dense(self.LayerNorm(states)).chunk(2, -1)
        return self.output.dense(F.silu(gate).mul_(value)).add_(states)


class _Embeddings(nn.Module):
    """Token embeddings, (B, T) to (B, T, H)."""

    def __init__(self, config: GatedEsmConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        before = config.emb_layer_norm_before
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if before else None
        self.mask_token = config.mask_token_id if config.token_dropout else None

    def forward(self, ids: Tensor, attention: Tensor | None) -> Tensor:
        states = self.word_embeddings(ids)
        if self.mask_token is not None:
            masked = ids == self.mask_token
            tokens = ids.shape[1] if attention is None else attention.sum(-1, keepdim=True)
            scale = (1 - TRAINED_MASK_SHARE) / (1 - masked.sum(-1, keepdim=True) / tokens)
            states = (states * torch.where(masked, 0.0, scale).unsqueeze(-1)).to(states.dtype)
        return states if self.layer_norm is None else self.layer_norm(states)


class _Encoder(nn.Module):
    """The layers and the norm after the last one."""

    def __init__(self, config: GatedEsmConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self.emb_layer_norm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class _Esm(nn.Module):
    """Embeddings and encoder under the prefix of the checkpoints."""

    def __init__(self, config: GatedEsmConfig) -> None:
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)


class _LMHead(nn.Module):
    """From states to logits: dense, GELU, norm, decoder."""

    def __init__(self, config: GatedEsmConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, states: Tensor) -> Tensor:
        return self.decoder(self.layer_norm(F.gelu(self.dense(states)))) + self.bias


class GatedEsmForMaskedLM(Port):
    """Nucleotide Transformer v2 for masked tokens, in the dtype of its parameters.

    A checkpoint loads with `load_state_dict(tie(weights))` once the entries that `IGNORED` matches are dropped.
    """

    def __init__(self, config: GatedEsmConfig) -> None:
        super().__init__(config)
        self.esm = _Esm(config)
        self.lm_head = _LMHead(config)
        if config.tie_word_embeddings:
            self.lm_head.decoder.weight = self.esm.embeddings.word_embeddings.weight
        self._turns: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def states(
        self, ids: Tensor, attention: Tensor | None = None, keep: Tensor | None = None, layer: int | None = None
    ) -> Tensor:
        """States of tokens.

        `ids` is int64 (B, T). `attention` is bool (B, T), True where a token counts, padding on the right; None if all
        count. States at padding mean nothing. `keep`, int64 (B, n), names the positions wanted: the last layer then
        does the work of queries and feed-forward network there only, for the same numbers. `layer` stops after that
        many layers (0 gives the embeddings) and leaves the final norm out.

        Returns (B, T, H), or (B, n, H) with `keep`, in the dtype of the parameters.

        Raises:
            ValueError: `layer` is out of range, or comes together with `keep`.
        """
        self.require_layer(layer, keep)
        depth = self.config.num_hidden_layers
        if attention is not None and bool(attention.all()):
            attention = None  # attention without a mask has the faster kernels
        states = self.esm.embeddings(ids, attention)
        mask = None if attention is None else attention[:, None, None, :]
        turn = self._turn(ids.shape[1], ids.device)
        for number, block in enumerate(self.esm.encoder.layer[:layer], start=1):
            states = block(states, turn, mask, keep if number == depth else None)
        return states if layer is not None else self.esm.encoder.emb_layer_norm_after(states)

    def head(self, states: Tensor) -> Tensor:
        """Logits (..., V) of states (..., H)."""
        return self.lm_head(states)

    def _turn(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosine (T, 1, D) and sine (T, 1, D / 2) of the angles by which each position turns heads of width D.

        Always float32, as in the published code: bfloat16 has 8 bits, and would confuse neighbours beyond position 256.
        """
        if device in self._turns and self._turns[device][0].shape[0] >= length:
            cosine, sine = self._turns[device]
            return cosine[:length], sine[:length]
        head_width = self.config.hidden_size // self.config.num_attention_heads
        with torch.inference_mode(False), torch.no_grad():  # kept tables must also serve calls with gradients
            steps = torch.arange(0, head_width, 2, dtype=torch.float32, device=device) / head_width
            angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), 1.0 / ROTARY_BASE**steps)
            turn = angles.cos().repeat(1, 2).unsqueeze(1), angles.sin().unsqueeze(1)
        if length <= CACHED_LENGTH:
            self._turns[device] = turn
        return turn


def _rotated(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions: channel i of the first half and of the second half of a head turn as one plane.

    `heads` is (B, T, heads, D), `cosine` broadcasts from (T, 1, D), `sine` from (T, 1, D / 2). Both halves are written
    into one tensor, which on CPUs takes a quarter of the time of joining two.
    """
    half = sine.shape[-1]
    turned = heads * cosine
    turned[..., :half].addcmul_(heads[..., half:], sine, value=-1)
    turned[..., half:].addcmul_(heads[..., :half], sine)
    return turned.to(heads.dtype)
