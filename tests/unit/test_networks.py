"""Networks: wrong loads are refused, and right ones give the states and logits of an independent forward pass."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_models import KINDS, Shape, facts_of, special_tokens, write_checkpoint
from safetensors.torch import load_file, save_file
from torch import Tensor

from seqprior.adapters import longest_row
from seqprior.errors import BadInput
from seqprior.models import ModelFacts
from seqprior.networks import PackedLinear, load_network, pack_linears
from seqprior.tokenisation import load_tokeniser

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
LOADED = ["bert-base", "esm-base", "nt-v1", "modernbert", "generator", "neox-base", "gpt2-base"]  # by transformers
PORTS = ["nt-v2", "dnabert-2"]
WIDE = Shape(width=64, inner=96, spread=0.15)  # wide enough for packed layers


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Random checkpoints by kind of model, to be read only."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return cache(lambda name, shape=None: write_checkpoint(name, folder / f"{name}-{shape is None}", shape=shape))


@pytest.fixture
def copied(checkpoints, tmp_path):
    """A checkpoint of one's own to break."""

    def make(name: str) -> ModelFacts:
        facts = checkpoints(name)
        shutil.copytree(facts.path, tmp_path / name)
        return dataclasses.replace(facts, path=tmp_path / name)

    return make


def load(facts: ModelFacts, arithmetic: str = "float32", device: torch.device = CPU):
    tokeniser = load_tokeniser(facts)
    return load_network(facts, tokeniser, device, arithmetic, longest=longest_row(facts, tokeniser))


def refused(facts: ModelFacts, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        load(facts)
    assert str(caught.value) == sentence


def refused_like(facts: ModelFacts, pattern: str) -> None:
    with pytest.raises(BadInput, match=f"^{re.escape(str(facts.path))}: {pattern}$") as caught:
        load(facts)
    assert "\n" not in str(caught.value)


def change_weights(facts: ModelFacts, change) -> None:
    file = facts.path / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def change_config(facts: ModelFacts, **changes) -> None:
    file = facts.path / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def some_ids(facts: ModelFacts, rows: int = 3, length: int = 17, seed: int = 0) -> Tensor:
    """Rows of tokens with masks among them, where the model has one."""
    tokeniser = load_tokeniser(facts)
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(tokeniser.outcomes), (rows, length), generator=generator)
    ids = torch.from_numpy(tokeniser.outcomes)[picks]
    if tokeniser.start is not None:
        ids[:, 0] = tokeniser.start
    if tokeniser.mask is not None and facts.objective == "masked":
        ids[:, 5] = tokeniser.mask
        ids[0, 9:11] = tokeniser.mask
    return ids


def own_class(facts: ModelFacts):
    """The network as transformers itself loads it."""
    import transformers

    (name,) = json.loads((facts.path / "config.json").read_text())["architectures"]
    return getattr(transformers, name).from_pretrained(facts.path).eval()


# --- the load gate: weights ---


def layer_weight(facts: ModelFacts) -> str:
    """A matrix of a layer that is tied to no other."""
    weights = load_file(facts.path / "model.safetensors")
    return next(name for name in sorted(weights) if weights[name].ndim == 2 and re.search(r"\.(0|1)\.", name))


@pytest.mark.parametrize("name", [*LOADED, *PORTS])
def test_a_missing_weight_is_refused_by_name(copied, name):
    facts = copied(name)
    lost = layer_weight(facts)
    change_weights(facts, lambda weights: weights.pop(lost))
    refused(
        facts,
        f"{facts.path}: the weights do not fit the architecture {facts.family} (missing: {lost}; unexpected: none); "
        "check family in the model registry",
    )


@pytest.mark.parametrize("name", [*LOADED, *PORTS])
def test_an_unexpected_weight_is_refused_by_name(copied, name):
    facts = copied(name)
    change_weights(facts, lambda weights: weights.update(surplus=torch.zeros(2)))
    refused(
        facts,
        f"{facts.path}: the weights do not fit the architecture {facts.family} (missing: none; unexpected: surplus); "
        "check family in the model registry",
    )


@pytest.mark.parametrize("name", LOADED)
def test_a_weight_of_another_shape_is_refused_by_name(copied, name):
    facts = copied(name)
    wrong = layer_weight(facts)
    change_weights(facts, lambda weights: weights.update({wrong: torch.cat([weights[wrong], weights[wrong][:1]])}))
    refused(
        facts,
        f"{facts.path}: the weights do not fit the architecture {facts.family} (missing: {wrong}; unexpected: none); "
        "check family in the model registry",
    )


@pytest.mark.parametrize("name", PORTS)
def test_a_weight_of_another_shape_is_refused_by_a_port(copied, name):
    facts = copied(name)
    wrong = layer_weight(facts)
    change_weights(facts, lambda weights: weights.update({wrong: torch.cat([weights[wrong], weights[wrong][:1]])}))
    refused(facts, f"{facts.path}: the weights do not have config.json's shapes; restore both files")


def test_many_wrong_weights_are_counted(copied):
    facts = copied("bert-base")
    change_weights(facts, lambda weights: weights.update({f"surplus{n}": torch.zeros(1) for n in range(7)}))
    with pytest.raises(BadInput, match="unexpected: surplus0, surplus1, surplus2, surplus3 and 3 more"):
        load(facts)


LEFTOVERS = {
    "bert-base": [
        "bert.pooler.dense.weight",
        "bert.pooler.dense.bias",
        "cls.seq_relationship.weight",
        "cls.seq_relationship.bias",
        "bert.embeddings.position_ids",
    ],
    "esm-base": [
        "esm.contact_head.regression.weight",
        "esm.contact_head.regression.bias",
        "esm.embeddings.position_ids",
        "esm.embeddings.position_embeddings.weight",
    ],
    "nt-v1": ["esm.contact_head.regression.weight", "esm.embeddings.position_ids", "esm.pooler.dense.weight"],
    "nt-v2": [
        "esm.contact_head.regression.weight",
        "esm.embeddings.position_ids",
        "esm.pooler.dense.weight",
        "esm.encoder.layer.1.attention.self.rotary_embeddings.inv_freq",
    ],
    "dnabert-2": ["bert.pooler.dense.weight", "bert.pooler.dense.bias"],
    "generator": ["model.layers.0.self_attn.rotary_emb.inv_freq"],
    "neox-base": [
        "gpt_neox.layers.0.attention.bias",
        "gpt_neox.layers.0.attention.masked_bias",
        "gpt_neox.layers.1.attention.rotary_emb.inv_freq",
    ],
    "gpt2-base": ["transformer.h.0.attn.bias", "transformer.h.1.attn.masked_bias"],
}


@pytest.mark.parametrize("name", LEFTOVERS)
def test_what_published_files_hold_and_no_score_needs_changes_nothing(checkpoints, copied, name):
    facts = copied(name)
    shapes = {"contact_head.regression.weight": (1, 8), "contact_head.regression.bias": (1,)}  # 2 layers, 4 heads
    shape_of = {tensor: shapes.get(tensor.removeprefix("esm."), (3,)) for tensor in LEFTOVERS[name]}
    change_weights(facts, lambda weights: weights.update({key: torch.full(s, 7.0) for key, s in shape_of.items()}))
    ids = some_ids(facts)
    with torch.no_grad():
        found, expected = (network.head(network.states(ids)) for network in (load(facts), load(checkpoints(name))))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("name", PORTS)
def test_a_decoder_that_differs_from_the_embedding_it_is_tied_to_is_refused(copied, name):
    facts = copied(name)
    change_config(facts, tie_word_embeddings=True)
    (decoder,) = [key for key in load_file(facts.path / "model.safetensors") if key.endswith("decoder.weight")]
    change_weights(facts, lambda weights: weights.update({decoder: weights[decoder] + 1}))
    refused_like(facts, rf"the weights are not those of {name} \({decoder} differs from .*\); restore the files")


@pytest.mark.parametrize("name", PORTS)
def test_a_folder_without_safetensors_and_a_damaged_file_are_refused_by_name(copied, name):
    facts = copied(name)
    file = facts.path / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(
        BadInput, match=rf"^{re.escape(str(file))}: not readable as safetensors \(.*\); restore the file$"
    ):
        load(facts)
    file.unlink()
    (facts.path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    refused(facts, f"{facts.path}: found no safetensors file of {name}; restore the files")


@pytest.mark.parametrize("name", ["bert-base", "gpt2-base"])
def test_transformers_reads_safetensors_alone(copied, name):
    facts = copied(name)
    weights = load_file(facts.path / "model.safetensors")
    (facts.path / "model.safetensors").unlink()
    torch.save(weights, facts.path / "pytorch_model.bin")
    refused_like(facts, rf"transformers cannot load {name} \(.*\); restore the files")


@pytest.mark.parametrize("name", ["bert-base", "generator", *PORTS])
def test_sharded_weights_are_those_of_one_file(checkpoints, copied, name):
    facts = copied(name)
    file = facts.path / "model.safetensors"
    weights = load_file(file)
    names = sorted(weights)
    shards = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for shard, own in shards.items():
        save_file({key: weights[key] for key in own}, facts.path / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: shard for shard, own in shards.items() for key in own}}
    (facts.path / "model.safetensors.index.json").write_text(json.dumps(index))
    file.unlink()
    ids = some_ids(facts)
    with torch.no_grad():
        found, expected = (network.head(network.states(ids)) for network in (load(facts), load(checkpoints(name))))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kept", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["bert-base", "esm-base", "modernbert", "generator", *PORTS])
def test_a_file_in_half_precision_is_computed_in_float32(copied, name, kept):
    facts = copied(name)
    change_weights(
        facts, lambda weights: weights.update({key: w.to(getattr(torch, kept)) for key, w in weights.items()})
    )
    change_config(facts, dtype=kept, torch_dtype=kept)
    network = load(facts)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    with torch.no_grad():
        assert network.head(network.states(some_ids(facts))).dtype == torch.float32


# --- the load gate: another kind of model ---


def wrong_kind(facts: ModelFacts, found: str, architecture: str) -> str:
    return (
        f"{facts.path}: the checkpoint is {found!r} with {architecture}, the registry says family: {facts.family}, "
        f"objective: {facts.objective}; correct the entry or fetch the right model"
    )


@pytest.mark.parametrize(
    ("name", "family", "found", "architecture"),
    [
        ("bert-base", "esm", "bert", "BertForMaskedLM"),
        ("esm-base", "bert", "esm", "EsmForMaskedLM"),
        ("modernbert", "bert", "modernbert", "ModernBertForMaskedLM"),
        ("generator", "mistral", "llama", "LlamaForCausalLM"),
        ("generator", "gpt2", "llama", "LlamaForCausalLM"),
        ("bert-base", "llama", "bert", "BertForMaskedLM"),
        ("gpt2-base", "bert", "gpt2", "GPT2LMHeadModel"),
    ],
)
def test_a_checkpoint_of_another_model_type_is_refused(checkpoints, name, family, found, architecture):
    facts = dataclasses.replace(checkpoints(name), family=family)
    refused(facts, wrong_kind(facts, found, architecture))


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("bert-base", "BertLMHeadModel"),
        ("modernbert", "ModernBertForCausalLM"),
        ("generator", "LlamaForMaskedLM"),
        ("gpt2-base", "GPT2ForMaskedLM"),
    ],
)
def test_a_checkpoint_of_the_other_objective_is_refused(copied, name, architecture):
    facts = copied(name)
    change_config(facts, architectures=[architecture])
    refused(facts, wrong_kind(facts, KINDS[name].family, architecture))


def test_a_bert_that_reads_from_left_to_right_is_refused(copied):
    facts = copied("bert-base")
    change_config(facts, is_decoder=True)
    refused(facts, wrong_kind(facts, "bert", "BertForMaskedLM"))


@pytest.mark.parametrize(("name", "other"), [("nt-v2", "nt-v1"), ("dnabert-2", "bert-base")])
def test_weights_of_the_plain_and_of_the_changed_architecture_are_not_mistaken_for_each_other(checkpoints, name, other):
    """NT v2 says model_type esm, DNABERT-2 bert: only the weights tell them from the classes of transformers."""
    first = dataclasses.replace(checkpoints(name), family=KINDS[other].family)
    second = dataclasses.replace(checkpoints(other), family=KINDS[name].family)
    for facts in (first, second):
        with pytest.raises(BadInput, match=f"^{re.escape(str(facts.path))}: "):
            load(facts)


@pytest.mark.parametrize("name", ["bert-base", "gpt2-base", *PORTS])
@pytest.mark.parametrize("content", [None, "{", "[1]", "7"])
def test_a_checkpoint_without_a_config_is_refused_by_file_name(copied, name, content):
    facts = copied(name)
    file = facts.path / "config.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(
        BadInput, match=rf"^{re.escape(str(file))}: no config of a {facts.family} network \(.*\); restore"
    ):
        load(facts)


@pytest.mark.parametrize("name", PORTS)
@pytest.mark.parametrize("change", [{"hidden_size": None}, {"hidden_size": "wide"}, {"num_attention_heads": 7}])
def test_a_config_that_a_port_cannot_read_is_refused(copied, name, change):
    facts = copied(name)
    change_config(facts, **change)
    refused_like(
        facts,
        rf"config.json describes no {facts.family} network that seqprior knows \(.*\); check family in the model "
        "registry",
    )


# --- the load gate: tokens and positions ---


@pytest.mark.parametrize("name", ["bert-base", "gpt2-base", *PORTS])
def test_a_vocabulary_beyond_the_embedding_table_is_refused(checkpoints, name):
    facts = checkpoints(name)
    tokeniser = load_tokeniser(facts)
    network = load(facts)
    tokeniser.size += 1
    with pytest.raises(BadInput) as caught:
        load_network(facts, tokeniser, CPU, "float32", longest=10)
    assert str(caught.value) == (
        f"{facts.path}: the vocabulary of {name} has {network.vocab_size + 1} tokens and the network "
        f"{network.vocab_size}; the files are of different models: restore them"
    )


def test_a_vocabulary_with_more_lines_than_the_table_is_refused(copied):
    facts = copied("bert-base")
    lines = (facts.path / "vocab.txt").read_text() + "X\nY\n"
    (facts.path / "vocab.txt").write_text(lines)
    with pytest.raises(BadInput, match="has 12 tokens and the network 10; the files are of different models"):
        load(facts)


@pytest.mark.parametrize(("rows", "passes"), [(10, True), (64, True), (74, True), (75, False), (400, False)])
def test_an_embedding_table_may_be_padded_but_not_of_another_vocabulary(tmp_path, rows, passes):
    import transformers

    facts = write_checkpoint("bert-base", tmp_path / "m")
    model = transformers.BertForMaskedLM.from_pretrained(facts.path)
    model.resize_token_embeddings(rows)
    model.save_pretrained(facts.path)
    if passes:
        assert load(facts).vocab_size == rows
    else:
        with pytest.raises(BadInput, match=f"has 10 tokens and the network {rows}; the files are of different models"):
            load(facts)


@pytest.mark.parametrize("name", ["esm-base", "nt-v1"])
def test_another_mask_token_than_the_one_that_token_dropout_looks_for_is_refused(checkpoints, name):
    facts = checkpoints(name)
    wrong = dataclasses.replace(facts, tokens={**facts.tokens, "mask": "<eos>"})
    refused(
        wrong,
        f"{facts.path}: the network masks with token 2, the registry's mask token is 4; "
        "correct tokens in the model registry",
    )


def test_a_masked_model_without_a_mask_token_is_refused(checkpoints):
    facts = checkpoints("bert-base")
    bare = dataclasses.replace(facts, tokens={role: name for role, name in facts.tokens.items() if role != "mask"})
    refused(
        bare,
        f"{facts.path}: the network masks with token None, the registry's mask token is None; "
        "correct tokens in the model registry",
    )


@pytest.mark.parametrize(
    ("name", "window", "room"),
    [
        ("bert-base", 38, 40),  # with [CLS] and [SEP]
        ("dnabert-3", 40, 40),  # 38 k-mers
        ("esm-absolute", 37, 38),  # as in RoBERTa, positions begin after the padding's
        ("nt-v1", 222, 38),  # 37 6-mers and the start token
        ("gpt2-base", 39, 40),
    ],
)
def test_a_window_longer_than_the_learned_positions_is_refused(tmp_path, name, window, room):
    import transformers

    kind = "esm-base" if name == "esm-absolute" else name
    facts = write_checkpoint(kind, tmp_path / "m", shape=Shape(positions=40))
    if name == "esm-absolute":
        config = transformers.EsmConfig.from_pretrained(facts.path, position_embedding_type="absolute")
        transformers.EsmForMaskedLM(config).save_pretrained(facts.path)
    step = facts.k if facts.tokenisation == "kmer" else 1
    network = load(dataclasses.replace(facts, window=window))
    with torch.no_grad():
        assert network.states(some_ids(facts, 1, room)).shape[1] == room
    refused(
        dataclasses.replace(facts, window=window + step),
        f"{facts.path}: the network takes up to {room} tokens and window: {window + step} of the registry needs "
        f"{room + 1}; choose a smaller window",
    )


@pytest.mark.parametrize("name", ["esm-base", "modernbert", "generator", "neox-base", *PORTS])
def test_other_positions_allow_any_window(tmp_path, name):
    facts = write_checkpoint(name, tmp_path / "m", shape=Shape(positions=40))
    facts = dataclasses.replace(facts, window=600)
    with torch.no_grad():
        assert load(facts).states(some_ids(facts, 1, 90)).shape[1] == 90


def test_the_longest_row_is_that_of_a_whole_window(checkpoints):
    for name in ("bert-base", "dnabert-3", "nt-v1", "generator", "neox-base"):
        facts = checkpoints(name)
        tokeniser = load_tokeniser(facts)
        window = "".join(random.Random(1).choices("ACGT", k=facts.window))
        assert longest_row(facts, tokeniser) == len(tokeniser.tokens(window)), name


# --- states and logits ---


@pytest.mark.parametrize("name", ["bert-base", "dnabert-3", "esm-base", "nt-v1", "modernbert"])
def test_the_logits_of_kept_positions_are_those_of_the_class_itself(checkpoints, name):
    """nt-v1 and esm-base drop masked tokens, esm-base has rotary positions and nt-v1 learned ones."""
    facts = checkpoints(name)
    network, model, ids = load(facts), own_class(facts), some_ids(facts)
    keep = torch.tensor([[5, 9], [0, 16], [5, 5]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        found = network.head(network.states(ids, keep=keep))
        everything = network.head(network.states(ids))
    torch.testing.assert_close(everything, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(
        found, torch.stack([expected[row, at] for row, at in enumerate(keep)]), atol=2e-5, rtol=0
    )
    assert (expected[:, 0] - expected[:, 9]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["bert-base", "esm-base", "nt-v1", "modernbert", *PORTS])
def test_padding_changes_no_kept_logit(checkpoints, name):
    facts = checkpoints(name)
    network, ids = load(facts), some_ids(facts)
    pad = load_tokeniser(facts).pad
    padded = torch.cat([ids, torch.full((3, 6), pad)], 1)
    attention = torch.arange(23).expand(3, 23) < 17
    keep = torch.tensor([[5, 9], [0, 16], [5, 4]])
    with torch.no_grad():
        expected = network.head(network.states(ids, keep=keep))
        found = network.head(network.states(padded, attention, keep))
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["bert-base", "esm-base", "modernbert", "generator", "gpt2-base", *PORTS])
def test_states_of_inner_layers_are_those_of_the_class_itself(checkpoints, name):
    facts = checkpoints(name)
    network, ids = load(facts), some_ids(facts)
    with torch.no_grad():
        if name in PORTS:
            whole = network.states(ids)
            assert [network.states(ids, layer=layer).shape for layer in (0, 1)] == [whole.shape] * 2
            assert (network.states(ids, layer=0) - network.states(ids, layer=1)).abs().max() > 0.01
            return
        expected = own_class(facts)(input_ids=ids, output_hidden_states=True).hidden_states
        for layer in (0, 1):
            torch.testing.assert_close(network.states(ids, layer=layer), expected[layer], atol=1e-5, rtol=0)
        torch.testing.assert_close(network.states(ids, layer=2), expected[2], atol=1e-5, rtol=0)


def layer_norm(values: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """(x - mean) / sqrt(variance + 1e-12) * weight + bias."""
    centred = values - values.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(values: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    return values @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def attend(query: Tensor, key: Tensor, value: Tensor, causal: bool = False) -> Tensor:
    """Softmax attention of one head, token by token: (T, D)."""
    rows = []
    for at in range(len(query)):
        seen = at + 1 if causal else len(key)
        scores = torch.stack([query[at] @ key[other] for other in range(seen)]) / math.sqrt(query.shape[1])
        shares = (scores - scores.max()).exp()
        rows.append((shares / shares.sum()) @ value[:seen])
    return torch.stack(rows)


def gelu(values: Tensor) -> Tensor:
    return values * (1 + torch.erf(values / math.sqrt(2))) / 2


def bert_logits(weights: dict[str, Tensor], ids: Tensor, heads: int, layers: int) -> Tensor:
    """BERT for one row, from Devlin et al. 2019, in float64: (T, V)."""
    embedding = "bert.embeddings"
    words = weights[f"{embedding}.word_embeddings.weight"]
    states = words[ids] + weights[f"{embedding}.position_embeddings.weight"][: len(ids)]
    states = layer_norm(
        states + weights[f"{embedding}.token_type_embeddings.weight"][0], weights, f"{embedding}.LayerNorm"
    )
    for number in range(layers):
        layer = f"bert.encoder.layer.{number}"
        parts = [linear(states, weights, f"{layer}.attention.self.{part}") for part in ("query", "key", "value")]
        mixed = torch.cat([attend(*head) for head in zip(*(part.chunk(heads, -1) for part in parts), strict=True)], -1)
        mixed = linear(mixed, weights, f"{layer}.attention.output.dense")
        states = layer_norm(states + mixed, weights, f"{layer}.attention.output.LayerNorm")
        inner = linear(gelu(linear(states, weights, f"{layer}.intermediate.dense")), weights, f"{layer}.output.dense")
        states = layer_norm(states + inner, weights, f"{layer}.output.LayerNorm")
    head = "cls.predictions"
    states = gelu(linear(states, weights, f"{head}.transform.dense"))
    return layer_norm(states, weights, f"{head}.transform.LayerNorm") @ words.T + weights[f"{head}.bias"]


@pytest.mark.parametrize("name", ["bert-base", "dnabert-3"])
def test_bert_is_what_its_paper_says(checkpoints, name):
    facts = checkpoints(name)
    weights = {key: value.double() for key, value in load_file(facts.path / "model.safetensors").items()}
    ids = some_ids(facts, 2, 12)
    network, keep = load(facts), torch.tensor([[0, 5, 11], [3, 5, 9]])
    with torch.no_grad():
        found = network.head(network.states(ids, keep=keep))
    for row in range(2):
        expected = bert_logits(weights, ids[row], heads=4, layers=2)[keep[row]]
        torch.testing.assert_close(found[row].double(), expected, atol=1e-4, rtol=0)


def rotated(values: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021) as Llama pairs the channels: i with i + D / 2, angle t / 10000**(2 i / D)."""
    half = values.shape[1] // 2
    turned = values.clone()
    for at in range(len(values)):
        for plane in range(half):
            angle = at / 10000 ** (2 * plane / values.shape[1])
            first, second = values[at, plane], values[at, plane + half]
            turned[at, plane] = first * math.cos(angle) - second * math.sin(angle)
            turned[at, plane + half] = first * math.sin(angle) + second * math.cos(angle)
    return turned


def llama_logits(weights: dict[str, Tensor], ids: Tensor, heads: int, groups: int, layers: int) -> Tensor:
    """Llama for one row, from Touvron et al. 2023, in float64: (T, V)."""

    def norm(values: Tensor, name: str) -> Tensor:
        return values / (values.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"{name}.weight"]

    states = weights["model.embed_tokens.weight"][ids]
    for number in range(layers):
        layer = f"model.layers.{number}"
        normed = norm(states, f"{layer}.input_layernorm")
        query, key, value = (linear(normed, weights, f"{layer}.self_attn.{part}_proj") for part in "qkv")
        queries, keys, values = query.chunk(heads, -1), key.chunk(groups, -1), value.chunk(groups, -1)
        shared = heads // groups
        mixed = [
            attend(rotated(own), rotated(keys[head // shared]), values[head // shared], causal=True)
            for head, own in enumerate(queries)
        ]
        states = states + linear(torch.cat(mixed, -1), weights, f"{layer}.self_attn.o_proj")
        normed = norm(states, f"{layer}.post_attention_layernorm")
        gate = linear(normed, weights, f"{layer}.mlp.gate_proj")
        inner = gate / (1 + (-gate).exp()) * linear(normed, weights, f"{layer}.mlp.up_proj")
        states = states + linear(inner, weights, f"{layer}.mlp.down_proj")
    return norm(states, "model.norm") @ weights["lm_head.weight"].T


def test_llama_is_what_its_paper_says(checkpoints):
    facts = checkpoints("generator")
    weights = {key: value.double() for key, value in load_file(facts.path / "model.safetensors").items()}
    ids = some_ids(facts, 2, 12)
    network = load(facts)
    with torch.no_grad():
        found = network.head(network.states(ids))
    for row in range(2):
        expected = llama_logits(weights, ids[row], heads=4, groups=2, layers=2)
        torch.testing.assert_close(found[row].double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["generator", "mistral-dna", "mixtral-dna", "neox-base", "gpt2-base"])
def test_branches_after_a_shared_prefix_are_blind_to_one_another(checkpoints, copied, name):
    facts = copied(name)
    if name == "mistral-dna":
        change_config(facts, sliding_window=4)
    network, model = load(facts), own_class(facts)
    assert getattr(network, "sliding_window", None) == (4 if name == "mistral-dna" else None)
    prefix, *branches = (some_ids(facts, 1, length, seed)[0] for seed, length in enumerate((7, 5, 3, 6)))
    row = torch.cat([prefix, *branches])
    positions, branch = list(range(7)), [0] * 7
    for number, tokens in enumerate(branches, start=1):
        positions += range(7, 7 + len(tokens))
        branch += [number] * len(tokens)
    visible = torch.zeros(1, len(row), len(row), dtype=torch.bool)
    for at in range(len(row)):
        for other in range(len(row)):
            seen = branch[other] in (0, branch[at]) and positions[other] <= positions[at]
            if name == "mistral-dna":
                seen &= positions[at] - positions[other] < 4
            visible[0, at, other] = seen
    with torch.no_grad():
        found = network.head(network.states(row[None], positions=torch.tensor([positions]), visible=visible))[0]
        start = 7
        for tokens in branches:
            alone = model(input_ids=torch.cat([prefix, tokens])[None]).logits[0]
            torch.testing.assert_close(found[:7], alone[:7], atol=2e-5, rtol=0)
            torch.testing.assert_close(found[start : start + len(tokens)], alone[7:], atol=2e-5, rtol=0)
            start += len(tokens)
        keep = torch.tensor([[3, 10, 14]])
        some = network.head(network.states(row[None], keep=keep, positions=torch.tensor([positions]), visible=visible))
    torch.testing.assert_close(some[0], found[keep[0]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["generator", "mistral-dna", "gpt2-base"])
def test_padding_on_the_right_changes_no_earlier_token(checkpoints, name):
    facts = checkpoints(name)
    network, ids = load(facts), some_ids(facts)
    padded = torch.cat([ids, torch.full((3, 6), load_tokeniser(facts).pad)], 1)
    with torch.no_grad():
        found, expected = network.states(padded)[:, :17], network.states(ids)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


# --- number formats ---


def count_packed(network) -> int:
    return sum(isinstance(module, PackedLinear) for module in network.modules())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 64), (64,)])
def test_a_packed_layer_gives_what_the_plain_one_does(bias, shape):
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Linear(64, 50, bias=bias), torch.nn.GELU(), torch.nn.Linear(50, 7))
    values = torch.randn(shape)
    with torch.no_grad():
        expected = plain(values)
        pack_linears(plain)
        assert [type(layer) for layer in plain] == [PackedLinear, torch.nn.GELU, torch.nn.Linear], "50 is too narrow"
        torch.testing.assert_close(plain(values), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", [*LOADED, *PORTS])
def test_packed_networks_give_what_plain_ones_do(checkpoints, name):
    """GPT-2 has no linear layers but its head; the two ports read the weights of some of theirs themselves."""
    facts = checkpoints(name, WIDE)
    packed = load(facts)
    assert count_packed(packed) >= 1
    ids = some_ids(facts)
    with torch.inference_mode():
        found = packed.head(packed.states(ids))
        if name in PORTS:
            plain = load(facts, "bfloat16").float()  # never packed
            weights = load_file(facts.path / "model.safetensors")
            with torch.no_grad():
                for key, parameter in plain.named_parameters():
                    if key in weights:
                        parameter.copy_(weights[key])
            expected = plain.head(plain.states(ids))
        else:
            expected = own_class(facts)(input_ids=ids).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["bert-base", "generator"])
def test_layers_are_packed_on_the_cpu_in_float32_alone(checkpoints, name):
    facts = checkpoints(name, WIDE)
    assert count_packed(load(facts)) > 4
    assert count_packed(load(facts, "bfloat16")) == 0
    assert count_packed(load(facts, "int8")) == 0
    assert count_packed(load(facts, device=torch.device("meta"))) == 0


@pytest.mark.parametrize("name", [*LOADED, *PORTS])
def test_int8_stays_near_float32(checkpoints, name):
    facts = checkpoints(name, WIDE)
    ids = some_ids(facts)
    with torch.inference_mode():
        exact, coarse = (network.head(network.states(ids)) for network in (load(facts), load(facts, "int8")))
    exact, coarse = exact.log_softmax(-1), coarse.log_softmax(-1)
    assert 0 < (exact - coarse).abs().mean() < 0.15 * exact.std()
    assert np.corrcoef(exact.flatten(), coarse.flatten())[0, 1] > 0.99


def test_int8_on_a_gpu_is_refused(checkpoints):
    with pytest.raises(BadInput) as caught:
        load(checkpoints("bert-base"), "int8", torch.device("cuda"))
    assert str(caught.value) == (
        "scoring.dtype is int8, which runs on the CPU alone; set scoring.device to cpu or use bfloat16"
    )


@pytest.mark.parametrize("name", [*LOADED, *PORTS])
def test_bfloat16_stays_near_float32(checkpoints, name):
    facts = checkpoints(name, WIDE)
    ids = some_ids(facts)
    network = load(facts, "bfloat16")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    with torch.inference_mode():
        coarse = network.head(network.states(ids)).float().log_softmax(-1)
        exact = load(facts).head(load(facts).states(ids)).log_softmax(-1)
    assert 0 < (exact - coarse).abs().mean() < 0.15 * exact.std()
    assert np.corrcoef(exact.flatten(), coarse.flatten())[0, 1] > 0.99


@pytest.mark.parametrize(("name", "width"), [("esm-base", 6), ("generator", 6), ("neox-base", None), ("modernbert", 6)])
def test_rotary_frequencies_are_not_rounded_in_bfloat16(checkpoints, name, width):
    network = load(checkpoints(name), "bfloat16")
    frequencies = {key: value for key, value in network.named_buffers() if key.endswith("inv_freq")}
    assert frequencies
    plain = dict(load(checkpoints(name)).named_buffers())
    for key, found in frequencies.items():
        assert found.dtype == torch.float32
        assert torch.equal(found, plain[key])
        if width and name != "modernbert":
            torch.testing.assert_close(found, 1.0 / 10000 ** (torch.arange(0, width, 2) / width), atol=0, rtol=1e-6)


@pytest.mark.parametrize("kept", [torch.float32, torch.float16, torch.bfloat16])
def test_rotary_frequencies_of_a_file_in_half_precision_are_not_taken(copied, kept):
    """ESM-2's files hold them for each layer."""
    facts = copied("esm-base")
    exact = 1.0 / 10000 ** (torch.arange(0, 6, 2) / 6)
    names = [f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq" for layer in range(2)]
    change_weights(facts, lambda weights: weights.update({name: exact.clone() for name in names}))
    change_weights(facts, lambda weights: weights.update({key: value.to(kept) for key, value in weights.items()}))
    for arithmetic in ("float32", "bfloat16"):
        (found,) = [value for key, value in load(facts, arithmetic).named_buffers() if key.endswith("inv_freq")]
        torch.testing.assert_close(found, exact, atol=0, rtol=1e-6)


# --- code of a checkpoint ---

CODE = """
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput, MaskedLMOutput

Path({marker!r}).write_text("run")


class XConfig(PretrainedConfig):
    model_type = "x-{name}"

    def __init__(self, vocab_size=12, hidden_size=6, **other):
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        super().__init__(**other)


class XModel(PreTrainedModel):
    config_class = XConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.out = torch.nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.embed

    def logits(self, input_ids, attention_mask):
        states = self.embed(input_ids)
        counts = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        counted = states * counts[..., None]
        return states, counted


class XForMaskedLM(XModel):
    def forward(self, input_ids, attention_mask=None, output_hidden_states=False, **other):
        states, counted = self.logits(input_ids, attention_mask)
        mixed = states + {factor} * counted.sum(1, keepdim=True)
        return MaskedLMOutput(logits=self.out(mixed), hidden_states=(states, mixed))


class XForCausalLM(XModel):
    def forward(self, input_ids, attention_mask=None, output_hidden_states=False, **other):
        states, counted = self.logits(input_ids, attention_mask)
        mixed = states + {factor} * counted.cumsum(1)
        return CausalLMOutput(logits=self.out(mixed), hidden_states=(states, mixed))
"""


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """Checkpoints with code of their own. Returns a function of the objective that gives facts and marker file."""
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(objective: str, code_at: Path | None = None) -> tuple[ModelFacts, Path]:
        folder, marker = tmp_path / f"x-{objective}", tmp_path / f"{objective}-has-run"
        folder.mkdir()
        name = f"{tmp_path.name}-{objective}"
        code = CODE.format(marker=str(marker), name=name, factor=0.25)
        (code_at or folder).mkdir(parents=True, exist_ok=True)
        ((code_at or folder) / "modeling_x.py").write_text(code)
        kind = "MaskedLM" if objective == "masked" else "CausalLM"
        generator = torch.Generator().manual_seed(4)
        weights = {
            "embed.weight": torch.randn(12, 6, generator=generator),
            "out.weight": torch.randn(12, 6, generator=generator),
            "out.bias": torch.randn(12, generator=generator),
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        auto = {"AutoConfig": "modeling_x.XConfig", f"AutoModelFor{kind}": f"modeling_x.XFor{kind}"}
        config = {"model_type": f"x-{name}", "architectures": [f"XFor{kind}"], "auto_map": auto, "vocab_size": 12}
        (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 6}))
        special, roles = special_tokens(KINDS["bert-base" if objective == "masked" else "neox-base"])
        (folder / "vocab.txt").write_text("\n".join([*special, *"ACGTN"]))
        entry = facts_of("bert-base", folder, 20)
        return dataclasses.replace(entry, id="x", family="remote-code", objective=objective, tokens=roles), marker

    return make


@pytest.mark.parametrize("objective", ["masked", "causal"])
def test_code_of_a_checkpoint_is_run_from_its_folder(remote, objective):
    facts, marker = remote(objective)
    load_tokeniser(facts)
    assert not marker.exists()
    network = load(facts)
    assert marker.exists()
    weights = load_file(facts.path / "model.safetensors")
    ids = torch.tensor([[2, 5, 6, 7, 4, 8], [2, 8, 8, 4, 0, 0]])
    attention = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]], dtype=torch.bool)
    states = weights["embed.weight"][ids]
    counted = states * attention[..., None]
    context = counted.sum(1, keepdim=True) if objective == "masked" else counted.cumsum(1)
    expected = F.linear(states + 0.25 * context, weights["out.weight"], weights["out.bias"])
    keep = torch.tensor([[4, 1], [3, 0]])
    with torch.no_grad():
        torch.testing.assert_close(network.head(network.states(ids, attention)), expected, atol=1e-5, rtol=0)
        found = network.head(network.states(ids, attention, keep))
        torch.testing.assert_close(found, expected.gather(1, keep[..., None].expand(-1, -1, 12)), atol=1e-5, rtol=0)
        torch.testing.assert_close(network.states(ids, attention, layer=0), states, atol=0, rtol=0)


@pytest.mark.parametrize("fault", ["missing", "unexpected"])
def test_wrong_weights_under_code_of_a_checkpoint_are_refused_by_name(remote, fault):
    facts, _ = remote("masked")
    change = {"missing": lambda w: w.pop("out.bias"), "unexpected": lambda w: w.update(surplus=torch.zeros(2))}[fault]
    change_weights(facts, change)
    missing, unexpected = ("out.bias", "none") if fault == "missing" else ("none", "surplus")
    refused(
        facts,
        f"{facts.path}: the weights do not fit the architecture remote-code (missing: {missing}; unexpected: "
        f"{unexpected}); check family in the model registry",
    )


def test_weights_of_another_shape_under_code_of_a_checkpoint_are_refused(remote):
    facts, _ = remote("masked")
    change_weights(facts, lambda weights: weights.update({"out.weight": torch.zeros(12, 7)}))
    refused_like(facts, ".*")


def test_code_of_a_checkpoint_that_fails_is_refused_with_its_reason(remote):
    facts, _ = remote("masked")
    (facts.path / "modeling_x.py").write_text("raise ZeroDivisionError('no such kernel')\n")
    refused(
        facts,
        f"{facts.path}: the checkpoint's own code cannot load x (no such kernel); it may need further packages or "
        "another version of transformers",
    )


def test_a_pickled_file_beside_code_of_a_checkpoint_is_not_read(remote):
    facts, _ = remote("masked")
    weights = load_file(facts.path / "model.safetensors")
    (facts.path / "model.safetensors").unlink()
    torch.save(weights, facts.path / "pytorch_model.bin")
    refused_like(facts, ".*")


def test_code_is_never_taken_from_another_repository(remote, tmp_path, monkeypatch):
    """auto_map may name another repository, whose code may lie in the hub's cache, outside the verified folder."""
    import huggingface_hub.constants as constants
    import transformers.utils.hub as hub

    cache_folder, commit = tmp_path / "hub", "0" * 40
    elsewhere = cache_folder / "models--other--code" / "snapshots" / commit
    facts, marker = remote("masked", elsewhere)
    refs = cache_folder / "models--other--code" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(commit)
    for module in (constants, hub):
        if hasattr(module, "HF_HUB_CACHE"):
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(cache_folder))
    auto = {
        "AutoConfig": "other/code--modeling_x.XConfig",
        "AutoModelForMaskedLM": "other/code--modeling_x.XForMaskedLM",
    }
    change_config(facts, auto_map=auto)
    with pytest.raises(BadInput):
        load(facts)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["bert-base", "gpt2-base", *PORTS])
def test_code_of_a_checkpoint_of_a_known_family_is_never_run(checkpoints, copied, name):
    facts = copied(name)
    marker = facts.path / "has-run"
    (facts.path / "modeling_x.py").write_text(f"from pathlib import Path\nPath({str(marker)!r}).write_text('run')\n")
    auto = {
        "AutoConfig": "modeling_x.X",
        "AutoModelForMaskedLM": "modeling_x.X",
        "AutoModelForCausalLM": "modeling_x.X",
    }
    change_config(facts, auto_map=auto)
    ids = some_ids(facts)
    with torch.no_grad():
        found, expected = (network.head(network.states(ids)) for network in (load(facts), load(checkpoints(name))))
    assert torch.equal(found, expected)
    assert not marker.exists()
