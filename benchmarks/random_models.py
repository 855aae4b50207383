"""Random checkpoints of every family, in the files and with the vocabularies that published ones have.

Tests use tiny ones; benchmarks use the published widths and depths. Nothing here has learned anything.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqprior.models import ModelFacts
from seqprior.tokenisation import kmers

BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NT_SPECIAL = ["<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>"]
LLAMA_SPECIAL = ["<oov>", "<s>", "</s>", "<pad>", "<mask>"]
BERT_TOKENS = {"start": "[CLS]", "end": "[SEP]", "mask": "[MASK]", "pad": "[PAD]", "unknown": "[UNK]"}
NT_TOKENS = {"start": "<cls>", "mask": "<mask>", "pad": "<pad>", "unknown": "<unk>"}
LLAMA_TOKENS = {"start": "<s>", "pad": "<pad>", "unknown": "<oov>"}
ESM_SPECIAL = ["<cls>", "<pad>", "<eos>", "<unk>"]
ESM_LETTERS = [*"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
ESM_TOKENS = {"start": "<cls>", "end": "<eos>", "mask": "<mask>", "pad": "<pad>", "unknown": "<unk>"}
PROT_BERT_LETTERS = list("LAGVESIKRDTPNQFYMHCWXUBZO")


@dataclass(frozen=True)
class Shape:
    """Size of a network; `spread`, the standard deviation of its weights, is large in tiny ones: inputs then matter."""

    width: int = 24
    layers: int = 2
    heads: int = 4
    inner: int = 40
    spread: float = 0.3
    positions: int = 600


@dataclass(frozen=True)
class Kind:
    """A family with the tokenisation that published models of it have."""

    family: str
    objective: str
    tokenisation: str
    k: int = 1
    special: str = "bert"
    rotary: bool = False


KINDS = {
    **{f"dnabert-{k}": Kind("bert", "masked", "overlapping-kmer", k) for k in (3, 4, 5, 6)},
    "dnabert-2": Kind("mosaic-bert", "masked", "bpe"),
    "nt-v1": Kind("esm", "masked", "kmer", 6, "nt"),
    "nt-v2": Kind("esm-gated", "masked", "kmer", 6, "nt"),
    "bert-base": Kind("bert", "masked", "single-base"),
    "esm-base": Kind("esm", "masked", "single-base", 1, "nt", True),
    "modernbert": Kind("modernbert", "masked", "bpe"),
    "generator": Kind("llama", "causal", "kmer", 6, "llama"),
    "mistral-dna": Kind("mistral", "causal", "bpe", 1, "llama"),
    "mixtral-dna": Kind("mixtral", "causal", "bpe", 1, "llama"),
    "neox-base": Kind("gpt-neox", "causal", "single-base", 1, "llama"),
    "gpt2-base": Kind("gpt2", "causal", "single-base", 1, "llama"),
}
PROTEIN_KINDS = {
    "esm2": Kind("esm", "masked", "residue", 1, "esm", True),
    "esm1b": Kind("esm", "masked", "residue", 1, "esm"),
    "esmc": Kind("esmc", "masked", "residue", 1, "esm"),
    "prot-bert": Kind("bert", "masked", "residue"),
}


def kind_of(name: str) -> Kind:
    return KINDS[name] if name in KINDS else PROTEIN_KINDS[name]


def special_tokens(kind: Kind) -> tuple[list[str], dict[str, str]]:
    """Special tokens in the order of the vocabulary, and their roles."""
    return {
        "bert": (BERT_SPECIAL, BERT_TOKENS),
        "nt": (NT_SPECIAL, NT_TOKENS),
        "llama": (LLAMA_SPECIAL, LLAMA_TOKENS),
        "esm": (ESM_SPECIAL, ESM_TOKENS),
    }[kind.special]


def write_vocabulary(kind: Kind, folder: Path, pieces: int, text: Sequence[str]) -> dict[str, int]:
    """The vocabulary file of a kind: vocab.txt, or for byte pairs a tokenizer.json learned from `text`."""
    special, _ = special_tokens(kind)
    if kind.family == "esmc":
        import transformers

        tokenizer = transformers.EsmcTokenizer()
        tokenizer.save_pretrained(folder)
        return tokenizer.get_vocab()
    if kind.tokenisation == "bpe":
        from tokenizers import Tokenizer, models, trainers

        unknown = special_tokens(kind)[1]["unknown"]
        tokenizer = Tokenizer(models.BPE(unk_token=unknown))
        trainer = trainers.BpeTrainer(
            vocab_size=pieces, special_tokens=special, initial_alphabet=list("ACGT"), show_progress=False
        )
        tokenizer.train_from_iterator(text, trainer)
        tokenizer.save(str(folder / "tokenizer.json"))
        return tokenizer.get_vocab()
    words = kmers(kind.k) if kind.k > 1 else list("ACGTN")
    if kind.tokenisation == "residue":
        words = ESM_LETTERS if kind.special == "esm" else PROT_BERT_LETTERS
    letters = list("ATCGN") if kind.special == "nt" and kind.k > 1 else []
    tokens = [*special, *words, *letters]
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n")
    return {token: number for number, token in enumerate(tokens)}


def make_network(kind: Kind, vocabulary: dict[str, int], shape: Shape, seed: int = 0):
    """The random network of transformers or of seqprior's ports, and its config.json."""
    import torch
    import transformers

    torch.manual_seed(seed)
    roles = special_tokens(kind)[1]
    size = len(vocabulary)
    common = {
        "vocab_size": size,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.inner,
        "max_position_embeddings": shape.positions,
        "initializer_range": shape.spread,
        "pad_token_id": vocabulary[roles["pad"]],
    }
    if kind.family == "bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(**common)), None
    if kind.family == "esm":
        config = transformers.EsmConfig(
            **common,
            mask_token_id=vocabulary[roles["mask"]],
            token_dropout=True,
            position_embedding_type="rotary" if kind.rotary else "absolute",
            emb_layer_norm_before=kind.tokenisation == "residue" and not kind.rotary,
        )
        return transformers.EsmForMaskedLM(config), None
    if kind.family == "esmc":
        return transformers.EsmcForMaskedLM(transformers.EsmcConfig(**{**common, "vocab_size": 64})), None
    if kind.family == "modernbert":
        config = transformers.ModernBertConfig(
            **common, cls_token_id=None, sep_token_id=None, bos_token_id=None, eos_token_id=None, local_attention=16
        )
        return transformers.ModernBertForMaskedLM(config), None
    causal = {**common, "pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    if kind.family == "llama":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**causal, num_key_value_heads=2)), None
    if kind.family == "mistral":
        config = transformers.MistralConfig(**causal, num_key_value_heads=2, sliding_window=64)
        return transformers.MistralForCausalLM(config), None
    if kind.family == "mixtral":
        config = transformers.MixtralConfig(**causal, num_key_value_heads=2, num_local_experts=3, sliding_window=None)
        return transformers.MixtralForCausalLM(config), None
    if kind.family == "gpt-neox":
        return transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**causal)), None
    if kind.family == "gpt2":
        config = transformers.GPT2Config(
            vocab_size=size,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_positions=shape.positions,
            initializer_range=shape.spread,
            bos_token_id=None,
            eos_token_id=None,
        )
        return transformers.GPT2LMHeadModel(config), None
    return _port(kind, vocabulary, common, shape)


def _port(kind: Kind, vocabulary: dict[str, int], common: dict, shape: Shape):
    """seqprior's own ports, from a config.json as it is published."""
    import torch

    if kind.family == "esm-gated":
        from seqprior.gated_esm import GatedEsmConfig, GatedEsmForMaskedLM

        config = {
            **common,
            "model_type": "esm",
            "architectures": ["EsmForMaskedLM"],
            "mask_token_id": vocabulary["<mask>"],
            "token_dropout": False,
            "position_embedding_type": "rotary",
            "emb_layer_norm_before": False,
            "add_bias_fnn": False,
            "tie_word_embeddings": False,
            "layer_norm_eps": 1e-12,
        }
        network = GatedEsmForMaskedLM(GatedEsmConfig.from_dict(config))
    else:
        from seqprior.mosaic_bert import MosaicBertConfig, MosaicBertForMaskedLM

        config = {
            **common,
            "model_type": "bert",
            "architectures": ["BertForMaskedLM"],
            "alibi_starting_size": 512,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "hidden_act": "gelu",
        }
        network = MosaicBertForMaskedLM(MosaicBertConfig.from_dict(config))
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=shape.spread)
        elif "bias" in name:
            torch.nn.init.normal_(parameter, std=shape.spread / 4)
    return network, config


def random_text(count: int = 400, length: int = 400, seed: int = 0) -> list[str]:
    """Random DNA with repeated words, so that byte pairs have something to join."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("ACGT", k=rng.randint(3, 9))) for _ in range(300)]
    return ["".join(rng.choices(words, k=length // 6)) for _ in range(count)]


def write_checkpoint(
    name: str,
    folder: Path,
    *,
    shape: Shape | None = None,
    window: int = 60,
    pieces: int = 300,
    text: Sequence[str] | None = None,
    seed: int = 0,
) -> ModelFacts:
    """A random checkpoint of a kind in `folder`, and its registry entry."""
    from safetensors.torch import save_file

    kind, shape = kind_of(name), shape or Shape()
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_vocabulary(kind, folder, pieces, text or random_text())
    network, config = make_network(kind, vocabulary, shape, seed)
    if config is None:
        network.save_pretrained(folder)
    else:
        tensors = {key: value.clone().contiguous() for key, value in network.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    return facts_of(name, folder, window, sum(parameter.numel() for parameter in network.parameters()))


def entry_of(name: str, folder: Path | str, window: int, parameters: int = 1) -> dict:
    """A registry entry of a random checkpoint."""
    kind = kind_of(name)
    framed = window // kind.k * kind.k if kind.tokenisation == "kmer" else window
    entry = {
        "name": f"random {name}",
        "family": kind.family,
        "objective": kind.objective,
        "tokenisation": kind.tokenisation,
        "window": framed,
        "embedding_window": min(framed, 30),
        "path": str(folder),
        "parameters": parameters,
        "species": "none",
        "licence": "MIT",
        "citation": "none",
        "description": "Random weights.",
        "limits": "It has learned nothing.",
        "tokens": special_tokens(kind)[1],
    }
    if kind.tokenisation == "residue":
        del entry["embedding_window"]
        entry["kind"] = "protein"
    return entry | ({"k": kind.k} if kind.k > 1 else {})


def facts_of(name: str, folder: Path, window: int, parameters: int = 1) -> ModelFacts:
    return ModelFacts(id=name, **{**entry_of(name, folder, window, parameters), "path": folder})
