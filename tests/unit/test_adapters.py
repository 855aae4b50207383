"""Adapters against one window, one position and one base at a time."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from seqprior.adapters import BidirectionalAdapter, MaskedBaseAdapter, load_adapter
from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM
from seqprior.errors import BadInput
from seqprior.files import sha256
from seqprior.models import ModelFacts, model_facts
from seqprior.sequence import encode

VOCABULARY = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[MASK]": 3, "N": 4, "T": 5, "G": 6, "A": 7, "C": 8}
OTHER = {"A": "T", "C": "G", "G": "C", "T": "A", "N": "N"}
KINDS = ["bert", "esm", "esm-absolute"]


pytestmark = pytest.mark.usefixtures("one_thread")


def masked_network(kind: str, seed: int = 0):
    """A tiny random masked language model with single-base tokens."""
    from transformers import BertConfig, BertForMaskedLM, EsmConfig, EsmForMaskedLM

    torch.manual_seed(seed)
    shape = {
        "vocab_size": 10,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
        "initializer_range": 0.4,
        "pad_token_id": 0,
    }
    if kind == "bert":
        return BertForMaskedLM(BertConfig(**shape)).eval()
    positions = "absolute" if kind == "esm-absolute" else "rotary"
    return EsmForMaskedLM(
        EsmConfig(**shape, mask_token_id=3, token_dropout=True, position_embedding_type=positions)
    ).eval()


def registered(folder: Path, family: str, window: int, **changes) -> ModelFacts:
    """The folder's checkpoint as an entry of a registry file."""
    entry = {
        **dict.fromkeys(("name", "tokenisation", "species", "licence", "citation", "description", "limits"), "x"),
        "family": family,
        "objective": "bidirectional" if family == "bidirectional-conv" else "masked",
        "window": window,
        "embedding_window": min(window, 11),
        "path": str(folder),
        "digest": sha256(folder / "model.safetensors"),
        "parameters": 1,
        "vocabulary": VOCABULARY if family == "masked-base" else {},
        **changes,
    }
    path = folder.parent / "models.yaml"
    path.write_text(yaml.safe_dump({"models": {"small": entry}}))
    return model_facts(path, "small")


def masked_checkpoint(tmp_path: Path, kind: str = "bert", **changes) -> ModelFacts:
    masked_network(kind).save_pretrained(tmp_path / "small")
    return registered(tmp_path / "small", "masked-base", 21, **changes)


def bidirectional_checkpoint(tmp_path: Path, **changes) -> ModelFacts:
    torch.manual_seed(0)
    config = BidirectionalConfig(width=6, kernel=3, dilations=(1, 2, 4), head=5)
    network = BidirectionalConvLM(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    folder = tmp_path / "small"
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"network": config.to_dict()}))
    return registered(folder, "bidirectional-conv", changes.pop("window", 31), **changes)


def load(facts: ModelFacts, exact: bool = False, dtype: str = "float32"):
    return load_adapter(facts, "cpu", dtype, exact)


@torch.no_grad()
def probabilities(network, sequence: str, at: int, mask: bool) -> dict[str, float]:
    """log p(base) at one position of one sequence, by definition."""
    tokens = [VOCABULARY["[CLS]"], *(VOCABULARY[base] for base in sequence), VOCABULARY["[SEP]"]]
    if mask:
        tokens[at + 1] = VOCABULARY["[MASK]"]
    logits = network(input_ids=torch.tensor([tokens])).logits[0, at + 1].double()
    four = {base: logits[VOCABULARY[base]].item() for base in "ACGT"}
    total = math.log(sum(math.exp(value) for value in four.values()))
    return {base: value - total for base, value in four.items()}


def on_both_strands(network, sequence: str, at: int, mask: bool = True) -> list[dict[str, float]]:
    other = "".join(OTHER[base] for base in reversed(sequence))
    reverse = probabilities(network, other, len(sequence) - 1 - at, mask)
    return [probabilities(network, sequence, at, mask), {base: reverse[OTHER[base]] for base in "ACGT"}]


def random_sequences(count: int, length: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGTN"), length, p=[0.24] * 4 + [0.04])) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [20, 21])
def test_masked_marginals_equal_one_masked_pass_each(tmp_path, kind, length):
    adapter = load(masked_checkpoint(tmp_path, kind))
    sequences = random_sequences(3, length)
    sites = [(row, at) for row in range(3) for at in (0, 7, length // 2, length - 1)]
    codes = torch.from_numpy(np.stack([encode(text) for text in sequences]).astype(np.int64))
    with torch.no_grad():
        found = adapter.marginals(codes, *torch.tensor(sites).T)
    network = masked_network(kind)
    for (row, at), strands in zip(sites, found, strict=True):
        for expected, logs in zip(on_both_strands(network, sequences[row], at), strands, strict=True):
            np.testing.assert_allclose(logs, [expected[base] for base in "ACGT"], atol=1e-4)
    assert (found[:, 0] - found[:, 1]).abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("exact", [True, False])
def test_pseudo_likelihoods_equal_a_sum_over_positions(tmp_path, kind, exact):
    adapter = load(masked_checkpoint(tmp_path, kind), exact)
    sequences = random_sequences(3, 14, 1)
    codes = torch.from_numpy(np.stack([encode(text) for text in sequences]).astype(np.int64))
    network = masked_network(kind)
    expected = [
        [
            sum(
                on_both_strands(network, text, at, mask=exact)[strand][base] + math.log(4)
                for at, base in enumerate(text)
                if base != "N"
            )
            for strand in range(2)
        ]
        for text in sequences
    ]
    for rows in (1, 5, 1000):
        with torch.no_grad():
            np.testing.assert_allclose(adapter.pseudo_log_likelihoods(codes, rows), expected, atol=1e-4)


def test_the_two_pseudo_likelihoods_differ_and_say_so(tmp_path):
    facts = masked_checkpoint(tmp_path)
    codes = torch.from_numpy(encode(random_sequences(1, 20)[0]).astype(np.int64))[None]
    with torch.no_grad():
        exact, fast = (load(facts, exact).pseudo_log_likelihoods(codes, 8) for exact in (True, False))
    assert (exact - fast).abs().min() > 0.01
    assert (load(facts, True).pair_method, load(facts).pair_method) == (
        "masked_pseudo_likelihood",
        "unmasked_pseudo_likelihood",
    )


def test_exact_passes_hold_no_more_rows_than_asked(tmp_path):
    adapter, seen = load(masked_checkpoint(tmp_path), exact=True), []
    adapter.network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    codes = torch.from_numpy(encode("ACGTNNACGT").astype(np.int64)).repeat(3, 1)
    with torch.no_grad():
        adapter.pseudo_log_likelihoods(codes, 5)
    assert max(seen) == 5 and sum(seen) == 2 * 3 * 8, "unknown bases take no pass"


@pytest.mark.parametrize("kind", KINDS)
def test_masked_embeddings_leave_out_start_and_end_tokens(tmp_path, kind):
    adapter = load(masked_checkpoint(tmp_path, kind))
    text = random_sequences(1, 12)[0]
    with torch.no_grad():
        states = adapter.embeddings(torch.from_numpy(encode(text).astype(np.int64))[None])
        tokens = torch.tensor([[1, *(VOCABULARY[base] for base in text), 2]])
        whole = masked_network(kind)(input_ids=tokens, output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(states, whole[:, 1:-1], atol=1e-5, rtol=0)


def test_a_vocabulary_without_start_and_end_tokens_is_read_without_them():
    plain = {token: number for token, number in VOCABULARY.items() if token not in ("[CLS]", "[SEP]")}
    adapter = MaskedBaseAdapter(masked_network("bert"), plain, torch.device("cpu"), torch.float32, exact=False)
    codes = torch.from_numpy(encode("ACGTTGCA").astype(np.int64))[None]
    tokens = torch.tensor([[VOCABULARY[base] for base in "ACGTTGCA"]])
    tokens[0, 3] = VOCABULARY["[MASK]"]
    with torch.no_grad():
        found = adapter.marginals(codes, torch.tensor([0]), torch.tensor([3]))[0, 0]
        logits = masked_network("bert")(input_ids=tokens).logits[0, 3]
    torch.testing.assert_close(found, logits[[7, 8, 6, 5]].log_softmax(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["bidirectional", *KINDS])
def test_the_reverse_complement_swaps_strands(tmp_path, kind):
    facts = bidirectional_checkpoint(tmp_path) if kind == "bidirectional" else masked_checkpoint(tmp_path, kind)
    adapter = load(facts)
    for length in (30, 31):  # in an even window the middle base is another one on the other strand
        text = random_sequences(1, length)[0]
        other = "".join(OTHER[base] for base in reversed(text))
        both = [torch.from_numpy(encode(sequence).astype(np.int64))[None] for sequence in (text, other)]
        at, row = torch.tensor([length // 2]), torch.tensor([0])
        with torch.no_grad():
            first = adapter.marginals(both[0], row, at)
            second = adapter.marginals(both[1], row, length - 1 - at)
            sums = [adapter.pseudo_log_likelihoods(codes, 4) for codes in both]
        torch.testing.assert_close(second.flip(1, 2), first, atol=1e-5, rtol=0)
        torch.testing.assert_close(sums[1].flip(1), sums[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("kind", "bound"), [("bidirectional", 0.5), ("bert", 0.3), ("esm", 0.3)])
def test_bfloat16_is_float32_but_for_rounding(tmp_path, kind, bound):
    facts = bidirectional_checkpoint(tmp_path) if kind == "bidirectional" else masked_checkpoint(tmp_path, kind)
    codes = torch.from_numpy(np.stack([encode(text) for text in random_sequences(8, 60)]).astype(np.int64))
    rows, at = torch.arange(8), torch.full((8,), 30)
    with torch.no_grad():
        exact, coarse = (load(facts, dtype=dtype).marginals(codes, rows, at) for dtype in ("float32", "bfloat16"))
    assert exact.dtype == coarse.dtype == torch.float32
    assert 0 < (exact - coarse).abs().mean() < bound / 4
    assert (exact - coarse).abs().max() < bound


def test_rotary_frequencies_are_not_rounded_in_bfloat16(tmp_path):
    adapter = load(masked_checkpoint(tmp_path, "esm"), dtype="bfloat16")
    assert next(adapter.network.parameters()).dtype == torch.bfloat16
    frequencies = dict(adapter.network.named_buffers())["esm.rotary_embeddings.inv_freq"]
    torch.testing.assert_close(frequencies, 1.0 / 10000 ** (torch.arange(0, 8, 2) / 8), atol=0, rtol=1e-6)


def test_a_checkpoint_saved_in_half_precision_is_computed_in_float32(tmp_path):
    masked_network("bert").to(torch.bfloat16).save_pretrained(tmp_path / "small")
    adapter = load(registered(tmp_path / "small", "masked-base", 21), dtype="auto")
    assert {parameter.dtype for parameter in adapter.network.parameters()} == {torch.float32}


def refused(facts: ModelFacts, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        load(facts)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("checkpoint", [masked_checkpoint, bidirectional_checkpoint])
def test_a_changed_byte_is_refused_by_file_name(tmp_path, checkpoint):
    facts = checkpoint(tmp_path)
    weights = facts.path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    refused(
        facts,
        f"{weights}: SHA-256 is {sha256(weights)}, the registry says {facts.digest}; "
        "restore the file, or register the new weights under a name of their own",
    )


@pytest.mark.parametrize("checkpoint", [masked_checkpoint, bidirectional_checkpoint])
@pytest.mark.parametrize("fault", ["missing", "unexpected"])
def test_missing_and_unexpected_weights_are_refused_by_name(tmp_path, checkpoint, fault):
    facts = checkpoint(tmp_path)
    file = facts.path / "model.safetensors"
    weights = load_file(file)
    first = sorted(weights)[0]
    if fault == "missing":
        del weights[first]
    else:
        weights["surplus"] = torch.zeros(2)
    save_file(weights, file, metadata={"format": "pt"})
    missing, unexpected = (first, "none") if fault == "missing" else ("none", "surplus")
    refused(
        dataclasses.replace(facts, digest=sha256(file)),
        f"{facts.path}: the weights do not fit the architecture {facts.family} "
        f"(missing: {missing}; unexpected: {unexpected})",
    )


@pytest.mark.parametrize("checkpoint", [masked_checkpoint, bidirectional_checkpoint])
def test_weights_of_another_shape_are_refused(tmp_path, checkpoint):
    facts = checkpoint(tmp_path)
    file = facts.path / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in sorted(weights) if weights[name].ndim == 2)
    weights[name] = torch.zeros(len(weights[name]) + 1, weights[name].shape[1])
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(BadInput, match=f"^{re.escape(str(facts.path))}: "):
        load(dataclasses.replace(facts, digest=sha256(file)))


@pytest.mark.parametrize("checkpoint", [masked_checkpoint, bidirectional_checkpoint])
@pytest.mark.parametrize("content", [None, "{", "{}", '{"network": {"colour": 1}, "model_type": "nonesuch"}'])
def test_a_checkpoint_without_a_usable_config_is_refused(tmp_path, checkpoint, content):
    facts = checkpoint(tmp_path)
    (facts.path / "config.json").unlink()
    if content is not None:
        (facts.path / "config.json").write_text(content)
    with pytest.raises(BadInput, match=f"^{re.escape(str(facts.path))}") as caught:
        load(facts)
    assert "\n" not in str(caught.value)


def test_a_window_that_the_network_does_not_see_is_refused(tmp_path):
    facts = bidirectional_checkpoint(tmp_path, window=29)
    refused(facts, f"{facts.path}: the network sees 31 bases, the registry says window: 29")


@pytest.mark.parametrize(("kind", "room"), [("bert", 62), ("esm-absolute", 61)])
def test_a_window_longer_than_the_learned_positions_is_refused(tmp_path, kind, room):
    facts = masked_checkpoint(tmp_path, kind)
    adapter = load(dataclasses.replace(facts, window=room))
    with torch.no_grad():
        adapter.embeddings(torch.zeros(1, room, dtype=torch.int64))
    refused(
        dataclasses.replace(facts, window=room + 1),
        f"{facts.path}: the network takes up to {room} bases, the registry says window: {room + 1}",
    )


def test_rotary_positions_allow_any_window(tmp_path):
    load(dataclasses.replace(masked_checkpoint(tmp_path, "esm"), window=500))


@pytest.mark.parametrize(
    "change",
    [{"A": 10}, {"A": -1}, {"A": "7"}, {"A": 8}, {"[SEP]": 11}, {"[MASK]": 7}, {"G": None}, {"N": None}],
    ids=str,
)
def test_a_vocabulary_that_does_not_fit_the_checkpoint_is_refused(tmp_path, change):
    vocabulary = {token: number for token, number in {**VOCABULARY, **change}.items() if number is not None}
    facts = masked_checkpoint(tmp_path, vocabulary=vocabulary)
    refused(facts, "small: the registry's vocabulary does not fit the checkpoint's 10 tokens")


def test_another_mask_token_than_the_one_that_token_dropout_looks_for_is_refused(tmp_path):
    facts = masked_checkpoint(tmp_path, "esm", vocabulary={**VOCABULARY, "[MASK]": 9})
    refused(facts, "small: the registry's vocabulary does not fit the checkpoint's 10 tokens")


def test_an_unknown_family_is_refused(tmp_path):
    facts = dataclasses.replace(masked_checkpoint(tmp_path), family="crystal-ball")
    refused(facts, "small: unknown family 'crystal-ball'; known are bidirectional-conv, masked-base")


def test_a_gpu_that_was_asked_for_and_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput) as caught:
        load_adapter(masked_checkpoint(tmp_path), "gpu", "auto", False)
    assert str(caught.value) == (
        "scoring.device is gpu but this machine shows none; give the job a GPU or set it to cpu"
    )


def test_the_bidirectional_adapter_reads_the_network_it_loads(tmp_path):
    facts = bidirectional_checkpoint(tmp_path)
    adapter = load(facts)
    assert isinstance(adapter, BidirectionalAdapter)
    codes = torch.from_numpy(np.stack([encode(text) for text in random_sequences(2, 40)]).astype(np.int64))
    with torch.no_grad():
        logits = torch.stack(adapter.network(codes), 1).log_softmax(-1)
        found = adapter.marginals(codes, torch.tensor([0, 1, 1]), torch.tensor([3, 0, 39]))
        sums = adapter.pseudo_log_likelihoods(codes, 1)
    torch.testing.assert_close(found, torch.stack([logits[0, :, 3], logits[1, :, 0], logits[1, :, 39]]))
    for row in range(2):
        known = [at for at in range(40) if codes[row, at] < 4]
        for strand in range(2):
            expected = sum(logits[row, strand, at, codes[row, at]].item() + math.log(4) for at in known)
            assert sums[row, strand].item() == pytest.approx(expected, abs=1e-4)
