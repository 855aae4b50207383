"""Networks of every family behind one interface, loaded so that a wrong load cannot go unnoticed.

A network turns token numbers into states and states into logits. Everything that could load silently wrong is an error
before the first score: weights that are missing or left over, a checkpoint of another kind than the registry says, a
vocabulary that does not fit the embedding table, a window that the position table cannot hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from seqprior.errors import BadInput
from seqprior.models import ModelFacts, checkpoint_folder, read_config
from seqprior.ports import gathered
from seqprior.tokenisation import Tokeniser

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.float32}

# Parts of published checkpoints that no score uses: poolers, heads of other tasks, tables that are computed.
UNUSED = re.compile(
    r"pooler\.|contact_head\.|cls\.seq_relationship\.|position_ids$|inv_freq$|\.attn\.(bias|masked_bias)$"
    r"|\.attention\.(bias|masked_bias)$"
)


class Network(Protocol):
    """What a scoring job asks of a network. B rows of T tokens, H wide, V tokens in the vocabulary."""

    vocab_size: int

    def states(
        self, ids: Tensor, attention: Tensor | None = None, keep: Tensor | None = None, layer: int | None = None
    ) -> Tensor:
        """States after the last layer, or after `layer` layers (0: the embeddings).

        Args:
            ids: int64 (B, T). attention: bool (B, T), True where a token counts; None if all do.
            keep: int64 (B, n), the positions that are wanted; the last layer may leave out the others.

        Returns:
            (B, T, H), or (B, n, H) with `keep`.
        """

    def head(self, states: Tensor) -> Tensor:
        """Logits (..., V)."""


class Transformer(nn.Module):
    """A masked model of transformers' own classes, or of a checkpoint's own code.

    In the last layer of BERT and ESM everything after the attention is computed at the wanted positions only.
    """

    def __init__(self, model, head: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.head_of = model, head
        self.vocab_size = model.get_input_embeddings().num_embeddings
        self._keep: Tensor | None = None
        layers = getattr(getattr(model.base_model, "encoder", None), "layer", None)
        self._prunes = layers is not None and hasattr(layers[-1], "attention")
        if self._prunes:
            layers[-1].attention.register_forward_hook(self._select)

    def _select(self, module, args, output):
        """Forward hook of the last attention: its output, residual included, at the wanted positions."""
        if self._keep is None:
            return output
        if isinstance(output, tuple):
            return (gathered(output[0], self._keep), *output[1:])
        return gathered(output, self._keep)

    def states(self, ids, attention=None, keep=None, layer=None):
        mask = None if attention is None else attention.long()
        if layer is not None:
            answer = self.model.base_model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            return answer.hidden_states[layer]
        self._keep = keep if self._prunes else None
        try:
            states = self.model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
        finally:
            self._keep = None
        return states if keep is None or self._prunes else gathered(states, keep)

    def head(self, states):
        return self.head_of(states)


class CausalTransformer(nn.Module):
    """A causal model of transformers' own classes. Rows may hold several branches after a shared prefix."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model
        self.vocab_size = model.get_input_embeddings().num_embeddings
        self.sliding_window = getattr(model.config, "sliding_window", None)

    def states(self, ids, attention=None, keep=None, layer=None, positions=None, visible=None):
        """`positions` (B, T) and `visible` bool (B, T, T), what each token may look at, for rows with branches.

        Without them each token looks at those before it, so padding on the right needs no mask.
        """
        extra = {}
        if visible is not None:
            extra = {"attention_mask": visible[:, None], "position_ids": positions}
        if layer is not None:
            return self.model.base_model(
                input_ids=ids, use_cache=False, output_hidden_states=True, **extra
            ).hidden_states[layer]
        states = self.model.base_model(input_ids=ids, use_cache=False, **extra).last_hidden_state
        return states if keep is None else gathered(states, keep)

    def head(self, states):
        return self.model.get_output_embeddings()(states)


def _bert_head(model):
    return model.cls


def _esm_head(model):
    return model.lm_head


def _modernbert_head(model):
    return lambda states: model.decoder(model.head(states))


# family: model_type of config.json, class of transformers, its head
TRANSFORMERS = {
    "bert": ("bert", "BertForMaskedLM", _bert_head),
    "esm": ("esm", "EsmForMaskedLM", _esm_head),
    "modernbert": ("modernbert", "ModernBertForMaskedLM", _modernbert_head),
    "esmc": ("esmc", "EsmcForMaskedLM", _esm_head),
    "llama": ("llama", "LlamaForCausalLM", None),
    "mistral": ("mistral", "MistralForCausalLM", None),
    "mixtral": ("mixtral", "MixtralForCausalLM", None),
    "gpt-neox": ("gpt_neox", "GPTNeoXForCausalLM", None),
    "gpt2": ("gpt2", "GPT2LMHeadModel", None),
}
PORTS = ("esm-gated", "mosaic-bert")
FAMILIES = ("bidirectional-conv", *TRANSFORMERS, *PORTS, "remote-code")


def load_transformer(facts: ModelFacts, dtype: torch.dtype) -> nn.Module:
    """A network that transformers has a class for."""
    import transformers

    kind, class_name, head = TRANSFORMERS[facts.family]
    config = read_config(facts)
    found = config.get("model_type")
    architectures = config.get("architectures") or [class_name]
    masked = head is not None
    if found != kind or (masked and config.get("is_decoder")) or not _same_objective(architectures, masked):
        raise BadInput(
            f"{facts.path}: the checkpoint is {found!r} with {', '.join(architectures)}, the registry says family: "
            f"{facts.family}, objective: {facts.objective}; correct the entry or fetch the right model"
        )
    model = _pretrained(facts, getattr(transformers, class_name), dtype)
    rotary = getattr(model.base_model, "rotary_embeddings", None)
    if rotary is not None:  # ESM's files hold the frequencies, rounded if in half precision
        rotary.inv_freq = rotary.compute_default_rope_parameters(model.config)[0]
    return Transformer(model, head(model)) if head is not None else CausalTransformer(model)


def _same_objective(architectures: list[str], masked: bool) -> bool:
    """A checkpoint that was saved for another objective carries another head."""
    causal = [name for name in architectures if name.endswith(("ForCausalLM", "LMHeadModel"))]
    return not causal if masked else not any(name.endswith("ForMaskedLM") for name in architectures)


def _pretrained(facts: ModelFacts, kind, dtype: torch.dtype):
    try:
        model, info = kind.from_pretrained(
            facts.path,
            local_files_only=True,
            use_safetensors=True,
            attn_implementation="sdpa",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to refuse them below, by name
            dtype=dtype,
        )
    except (OSError, ValueError, RuntimeError, KeyError, AttributeError, ImportError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise BadInput(f"{facts.path}: transformers cannot load {facts.id} ({reason}); restore the files") from error
    wrong = [name for name, *_ in info.get("mismatched_keys", ())]
    require_all_weights(facts, [*info["missing_keys"], *wrong], info["unexpected_keys"])
    return model.eval()


def load_port(facts: ModelFacts, dtype: torch.dtype) -> nn.Module:
    """A network of an architecture that seqprior carries itself."""
    if facts.family == "esm-gated":
        from seqprior.gated_esm import IGNORED, tie
        from seqprior.gated_esm import GatedEsmConfig as Config
        from seqprior.gated_esm import GatedEsmForMaskedLM as Port
    else:
        from seqprior.mosaic_bert import IGNORED, tie
        from seqprior.mosaic_bert import MosaicBertConfig as Config
        from seqprior.mosaic_bert import MosaicBertForMaskedLM as Port

    config = read_config(facts)
    try:
        shape = Config.from_dict(config)
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(
            f"{facts.path}: config.json describes no {facts.family} network that seqprior knows ({error}); "
            "check family in the model registry"
        ) from error
    try:
        weights = tie(read_weights(facts), shape)
    except ValueError as error:
        raise BadInput(f"{facts.path}: the weights are not those of {facts.id} ({error}); restore the files") from error
    weights = {name: tensor for name, tensor in weights.items() if not any(re.search(p, name) for p in IGNORED)}
    with torch.device("meta"):
        network = Port(shape)
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False, assign=True)
    except RuntimeError as error:
        raise BadInput(f"{facts.path}: the weights do not have config.json's shapes; restore both files") from error
    require_all_weights(facts, missing, unexpected)
    return network.to(dtype).eval()


def read_weights(facts: ModelFacts) -> dict[str, Tensor]:
    """All tensors of a checkpoint's safetensors files."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = checkpoint_folder(facts)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BadInput(f"{folder}: found no safetensors file of {facts.id}; restore the files")
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            weights.update(load_file(file))
        except (SafetensorError, OSError) as error:
            raise BadInput(f"{file}: not readable as safetensors ({error}); restore the file") from error
    return weights


def load_remote_code(facts: ModelFacts, dtype: torch.dtype) -> nn.Module:
    """A network by the checkpoint's own code, from the verified folder alone. The caller has asked for permission."""
    import transformers

    named = json.dumps(read_config(facts).get("auto_map", {}))
    if "--" in named:
        raise BadInput(
            f"{facts.path}: the code is to come from another repository ({named}), which nothing pins; put all of it "
            "into one folder and name that as path"
        )
    kind = transformers.AutoModelForMaskedLM if facts.objective == "masked" else transformers.AutoModelForCausalLM
    model = _pretrained_remote(facts, kind, dtype)
    return RemoteCode(model)


def _pretrained_remote(facts: ModelFacts, kind, dtype: torch.dtype):
    try:
        model, info = kind.from_pretrained(
            facts.path,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=dtype,
            trust_remote_code=True,
        )
    except Exception as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise BadInput(
            f"{facts.path}: the checkpoint's own code cannot load {facts.id} ({reason}); it may need further packages "
            "or another version of transformers"
        ) from error
    require_all_weights(facts, info["missing_keys"], info["unexpected_keys"])
    return model.eval()


class RemoteCode(nn.Module):
    """A network that is known by its logits alone, so the whole head is computed."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model
        self.vocab_size = model.get_input_embeddings().num_embeddings

    def states(self, ids, attention=None, keep=None, layer=None):
        mask = {} if attention is None else {"attention_mask": attention.long()}
        if layer is not None:
            return self.model(input_ids=ids, output_hidden_states=True, **mask).hidden_states[layer]
        logits = self.model(input_ids=ids, **mask).logits
        return logits if keep is None else gathered(logits, keep)

    def head(self, states):
        return states


def require_all_weights(facts: ModelFacts, missing, unexpected) -> None:
    """A missing weight would be left random, an unexpected one ignored: both give plausible nonsense."""
    missing, unexpected = (sorted(n for n in {*names} if not UNUSED.search(n)) for names in (missing, unexpected))
    if missing or unexpected:
        raise BadInput(
            f"{facts.path}: the weights do not fit the architecture {facts.family} "
            f"(missing: {_few(missing)}; unexpected: {_few(unexpected)}); check family in the model registry"
        )


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:4]) or "none"
    return shown if len(names) <= 4 else f"{shown} and {len(names) - 4} more"


def require_vocabulary(facts: ModelFacts, network: Network, tokeniser: Tokeniser) -> None:
    """Every token has a row of the embedding table, few rows have no token, and both agree on the mask token."""
    size = network.vocab_size
    config = getattr(getattr(network, "model", network), "config", None)
    own = getattr(config, "mask_token_id", None)  # ESM's token dropout looks for it
    if tokeniser.size > size or size - tokeniser.size > max(64, size // 8):
        raise BadInput(
            f"{facts.path}: the vocabulary of {facts.id} has {tokeniser.size} tokens and the network {size}; "
            "the files are of different models: restore them"
        )
    if facts.objective == "masked" and (tokeniser.mask is None or own not in (None, tokeniser.mask)):
        raise BadInput(
            f"{facts.path}: the network masks with token {own}, the registry's mask token is {tokeniser.mask}; "
            "correct tokens in the model registry"
        )


def require_room(facts: ModelFacts, network: nn.Module, tokens: int) -> None:
    """The longest row fits into the table of learned positions, where there is one."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith(("position_embeddings", "wpe")):
            first = 0 if module.padding_idx is None else module.padding_idx + 1  # as in RoBERTa and ESM
            room = module.num_embeddings - first
            if tokens > room:
                raise BadInput(
                    f"{facts.path}: the network takes up to {room} tokens and window: {facts.window} of the registry "
                    f"needs {tokens}; choose a smaller window"
                )


class PackedLinear(nn.Module):
    """A linear layer whose weight lies as oneDNN wants it: the same sums in another order, 1.1 to 1.4 times as fast."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, values: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(values, self.packed, self.bias, "none", [], "")


def pack_linears(network: nn.Module) -> None:
    """Replace the linear layers of a CPU network in float32 by packed ones, where this PyTorch has them."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child.weight.dtype == torch.float32 and child.in_features >= 64:
                setattr(module, name, PackedLinear(child))


def quantised(network: nn.Module) -> nn.Module:
    """The network with int8 weights in its linear layers; activations are rounded as they come (CPU)."""
    from torch.ao.quantization import quantize_dynamic

    return quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8, inplace=True)


def load_network(
    facts: ModelFacts, tokeniser: Tokeniser, device: torch.device, arithmetic: str, *, longest: int
) -> nn.Module:
    """Load a token model's network, ready to be asked.

    Args:
        arithmetic: a key of `DTYPES`. longest: tokens of the longest row that will be asked for.

    Raises:
        BadInput: the checkpoint does not fit the registry entry.
    """
    dtype = DTYPES[arithmetic]
    if facts.family in TRANSFORMERS:
        network = load_transformer(facts, dtype)
    elif facts.family in PORTS:
        network = load_port(facts, dtype)
    else:
        network = load_remote_code(facts, dtype)
    require_vocabulary(facts, network, tokeniser)
    require_room(facts, network, longest)
    if arithmetic == "int8":
        if device.type != "cpu":
            raise BadInput(
                "scoring.dtype is int8, which runs on the CPU alone; set scoring.device to cpu or use bfloat16"
            )
        return quantised(network)
    network = network.to(device)
    if device.type == "cpu":
        pack_linears(network)
    return network
