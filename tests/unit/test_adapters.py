"""Adapters against one window, one position and one base at a time."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import KINDS, Shape, write_checkpoint
from safetensors.torch import load_file, save_file

from seqprior import adapters
from seqprior.adapters import BidirectionalAdapter, TokenAdapter, known_base_sum, load_adapter, strand_states
from seqprior.batching import Batcher
from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM
from seqprior.errors import BadInput
from seqprior.models import ModelFacts
from seqprior.plans import Reading, Request
from seqprior.sequence import encode
from seqprior.work import make_work

CPU = torch.device("cpu")
EXACT = Reading(exact_likelihoods=True)
OTHER = str.maketrans("ACGT", "TGCA")
SINGLE = ["bert-base", "esm-base", "esm-absolute"]
TOKENS = ["bert-base", "dnabert-3", "dnabert-2", "nt-v1", "nt-v2", "modernbert"]
CAUSAL = ["generator", "mistral-dna", "mixtral-dna", "neox-base", "gpt2-base"]

pytestmark = pytest.mark.usefixtures("one_thread")


def other_strand(text: str) -> str:
    return text.translate(OTHER)[::-1]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Random checkpoints by kind of model, to be read only."""
    import transformers

    folder = tmp_path_factory.mktemp("checkpoints")

    @cache
    def make(name: str) -> ModelFacts:
        if name == "bidirectional":
            return bidirectional_checkpoint(folder / name)
        facts = write_checkpoint("esm-base" if name == "esm-absolute" else name, folder / name)
        if name == "esm-absolute":
            config = transformers.EsmConfig.from_pretrained(facts.path, position_embedding_type="absolute")
            torch.manual_seed(1)
            transformers.EsmForMaskedLM(config).save_pretrained(facts.path)
        return facts

    return make


def bidirectional_checkpoint(folder: Path, window: int = 31) -> ModelFacts:
    torch.manual_seed(0)
    config = BidirectionalConfig(width=6, kernel=3, dilations=(1, 2, 4), head=5)
    network = BidirectionalConvLM(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"network": config.to_dict()}))
    words = dict.fromkeys(("name", "species", "licence", "citation", "description", "limits"), "x")
    return ModelFacts(
        id="small",
        family="bidirectional-conv",
        objective="bidirectional",
        tokenisation="single-base",
        window=window,
        embedding_window=11,
        path=folder,
        parameters=1,
        **words,
    )


def load(facts: ModelFacts, reading: Reading | None = None, arithmetic: str = "float32"):
    return load_adapter(facts, CPU, arithmetic, reading or Reading())


def ask(adapter, requests: list[Request], budget: int | None = 4096) -> np.ndarray:
    return adapter.answers(Batcher(CPU, budget), requests)


def own_class(facts: ModelFacts):
    """The network as transformers itself loads it."""
    import transformers

    (name,) = json.loads((facts.path / "config.json").read_text())["architectures"]
    return getattr(transformers, name).from_pretrained(facts.path).eval()


def numbers(facts: ModelFacts) -> dict[str, int]:
    return {token: number for number, token in enumerate((facts.path / "vocab.txt").read_text().split("\n")) if token}


@torch.no_grad()
def probabilities(model, facts: ModelFacts, sequence: str, at: int, mask: bool) -> dict[str, float]:
    """log p(base) at one position of one sequence of single bases, by definition."""
    number, roles = numbers(facts), facts.tokens
    before = [number[roles["start"]]] if "start" in roles else []
    tokens = before + [number[base] for base in sequence] + ([number[roles["end"]]] if "end" in roles else [])
    place = at + len(before)
    if mask:
        tokens[place] = number[roles["mask"]]
    logits = model(input_ids=torch.tensor([tokens])).logits[0, place].double()
    four = {base: logits[number[base]].item() for base in "ACGT"}
    total = math.log(sum(math.exp(value) for value in four.values()))
    return {base: value - total for base, value in four.items()}


def on_both_strands(model, facts, sequence: str, at: int, mask: bool = True) -> list[dict[str, float]]:
    reverse = probabilities(model, facts, other_strand(sequence), len(sequence) - 1 - at, mask)
    forward = probabilities(model, facts, sequence, at, mask)
    return [forward, {base: reverse[base.translate(OTHER)] for base in "ACGT"}]


def random_sequences(count: int, length: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGTN"), length, p=[0.24] * 4 + [0.04])) for _ in range(count)]


def known_sequences(lengths: list[int], seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("ACGT", k=length)) for length in lengths]


# --- marginals and likelihoods ---


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("length", [20, 21])
@pytest.mark.parametrize("mask", [True, False])
def test_marginals_equal_one_pass_each(checkpoints, name, length, mask):
    facts = checkpoints(name)
    adapter = load(facts, Reading(one_pass_marginals=not mask))
    sequences = random_sequences(3, length)
    sites = [(text, at) for text in sequences for at in (0, 7, length // 2, length - 1)]
    found = ask(adapter, [Request(adapter.scheme.site_method, text, (at,), 4) for text, at in sites])
    model = own_class(facts)
    for (text, at), strands in zip(sites, found, strict=True):
        for expected, logs in zip(on_both_strands(model, facts, text, at, mask), strands, strict=True):
            np.testing.assert_allclose(logs, [expected[base] for base in "ACGT"], atol=1e-4)
    assert np.abs(found[:, 0] - found[:, 1]).max() > 0.01
    assert found.dtype == np.float64


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("exact", [True, False])
def test_pseudo_likelihoods_equal_a_sum_over_positions(checkpoints, name, exact):
    facts = checkpoints(name)
    adapter, model = load(facts, Reading(exact_likelihoods=exact)), own_class(facts)
    sequences = [*random_sequences(2, 14, 1), *random_sequences(1, 9, 2)]
    expected = [
        [
            sum(
                on_both_strands(model, facts, text, at, mask=exact)[strand][base] + math.log(4)
                for at, base in enumerate(text)
                if base != "N"
            )
            for strand in range(2)
        ]
        for text in sequences
    ]
    for budget in (1, 50, 4096):
        found = ask(adapter, [Request(adapter.scheme.pair_method, text) for text in sequences], budget)
        assert found.shape == (3, 2, 1)
        np.testing.assert_allclose(found[..., 0], expected, atol=1e-4)


def test_the_two_pseudo_likelihoods_differ_and_say_so(checkpoints):
    (text,) = random_sequences(1, 20)
    exact, fast = load(checkpoints("bert-base"), EXACT), load(checkpoints("bert-base"))
    methods = exact.scheme.pair_method, fast.scheme.pair_method
    assert methods == ("masked_pseudo_likelihood", "unmasked_pseudo_likelihood")
    answers = [ask(adapter, [Request(method, text)]) for adapter, method in zip((exact, fast), methods, strict=True)]
    assert np.abs(answers[0] - answers[1]).min() > 0.01


def seen_inputs(adapter: TokenAdapter) -> list[torch.Tensor]:
    """The inputs of each forward pass, as they come."""
    seen: list[torch.Tensor] = []
    adapter.network.model.base_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    return seen


def test_passes_hold_no_more_tokens_than_the_budget_and_unknown_bases_take_none(checkpoints):
    adapter = load(checkpoints("bert-base"), EXACT)
    seen = seen_inputs(adapter)
    texts = ["ACGTNNACGT", "TCGTNNACGA", "AAGTNNACCT"]
    ask(adapter, [Request("masked_pseudo_likelihood", text) for text in texts], budget=5 * 12)
    assert max(len(ids) for ids in seen) == 5
    assert all(ids.shape[1] == 12 for ids in seen)
    strands = {*texts, *map(other_strand, texts)}
    assert sum(len(ids) for ids in seen) == 8 * len(strands)


def test_equal_rows_are_computed_once(checkpoints):
    adapter = load(checkpoints("bert-base"))
    seen = seen_inputs(adapter)
    (text,) = known_sequences([20])
    request = Request("masked_marginal", text, (7,), 4)
    mirrored = Request("masked_marginal", other_strand(text), (12,), 4)  # asks for the same two rows
    found = ask(adapter, [request, mirrored, request])
    assert sum(len(ids) for ids in seen) == 2
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_allclose(found[1, ::-1, ::-1], found[0], atol=1e-6)


@pytest.mark.parametrize("name", [*TOKENS, *CAUSAL])
def test_batches_of_unequal_lengths_give_what_single_rows_give(checkpoints, name):
    adapter = load(checkpoints(name))
    texts = known_sequences([36, 48, 42, 60, 54, 36, 41, 59], seed=2)
    plans = [adapter.scheme.plan(text, 20, text[20:22], text[20]) for text in texts]
    requests = [request for plan in plans if plan for request in (plan.alt, plan.ref)]
    assert len(requests) >= 12
    together = ask(adapter, requests, 10_000)
    alone = np.concatenate([ask(adapter, [request], 1) for request in requests])
    np.testing.assert_allclose(together, alone, atol=2e-5)
    shuffled = random.Random(1).sample(range(len(requests)), len(requests))
    np.testing.assert_allclose(ask(adapter, [requests[n] for n in shuffled], 200), alone[shuffled], atol=2e-5)


@pytest.mark.parametrize("name", ["bidirectional", "bert-base", "generator"])
def test_work_that_was_made_ready_gives_the_answers_to_its_requests(checkpoints, name):
    adapter = load(checkpoints(name))
    (text,) = known_sequences([48], seed=8)
    plans = [adapter.scheme.plan(text, at, text[at], text[at] + "AC") for at in (20, 21)]
    requests = [request for plan in plans for request in (plan.alt, plan.ref)]
    prepared = make_work(adapter.scheme, requests)
    for _ in range(2):
        np.testing.assert_array_equal(adapter.answer(Batcher(CPU, 4096), prepared), ask(adapter, requests))


def test_kmers_and_left_over_bases_are_normalised_apart(checkpoints):
    adapter = load(checkpoints("nt-v1"))
    facts, number = adapter.scheme.facts, numbers(checkpoints("nt-v1"))
    (text,) = known_sequences([20], seed=9)  # three 6-mers, two bases
    found = ask(adapter, [Request(adapter.scheme.pair_method, text)])[0, :, 0]
    for strand, read in enumerate((text, other_strand(text))):
        tokens = [read[0:6], read[6:12], read[12:18], read[18], read[19]]
        ids = [number[facts.tokens["start"]], *(number[token] for token in tokens)]
        with torch.no_grad():
            logits = own_class(facts)(input_ids=torch.tensor([ids])).logits[0, 1:].double()
        total = 0.0
        for row, token in zip(logits, tokens, strict=True):
            rivals = [n for other, n in number.items() if len(other) == len(token) and set(other) <= set("ACGT")]
            assert len(rivals) == 4 ** len(token)
            total += (row[number[token]] - row[rivals].logsumexp(0)).item() + len(token) * math.log(4)
        assert found[strand] == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("name", ["nt-v1", "generator", "dnabert-2"])
def test_logits_that_are_made_a_few_at_a_time_are_the_same(checkpoints, name, monkeypatch):
    adapter = load(checkpoints(name))
    texts = known_sequences([48, 54, 60], seed=3)
    plans = [adapter.scheme.plan(text, 20, text[20:22], text[20]) for text in texts]
    requests = [request for plan in plans if plan for request in (plan.alt, plan.ref)]
    whole = ask(adapter, requests)
    monkeypatch.setattr(adapters, "HEAD_ELEMENTS", 3 * adapter.network.vocab_size)
    rows: list[int] = []
    head = adapter.network.head
    monkeypatch.setattr(adapter.network, "head", lambda states: rows.append(len(states)) or head(states))
    np.testing.assert_allclose(ask(adapter, requests), whole, atol=2e-5)
    assert max(rows) <= 3
    assert len(rows) > 3


def test_a_sliding_window_shorter_than_the_row_holds_in_shared_prefixes(tmp_path):
    """Branches of one prefix see what each would see alone: the last tokens within the window."""
    facts = write_checkpoint("mistral-dna", tmp_path / "m")
    config = json.loads((facts.path / "config.json").read_text())
    (facts.path / "config.json").write_text(json.dumps({**config, "sliding_window": 5}))
    adapter, model = load(facts), own_class(facts)
    (text,) = known_sequences([60], seed=5)
    plans = [adapter.scheme.plan(text, 30, text[30], alt) for alt in ("A", "C", "G", "T", text[30] + "CC")]
    requests = [request for plan in plans if plan for request in (plan.alt, plan.ref)]
    found = ask(adapter, requests)
    tokeniser = adapter.tokeniser
    for request, answer in zip(requests, found, strict=True):
        for part in adapter.scheme.parts(request):
            assert len(part.row) - part.row.prefix > 1
            assert len(part.row) > 10
            with torch.no_grad():
                logits = model(input_ids=torch.from_numpy(part.row.ids.astype(np.int64))[None]).logits[0]
            logs = logits[:, torch.from_numpy(tokeniser.outcomes)].double().log_softmax(-1)
            expected = part.constant + sum(
                logs[at - 1, candidate].item()
                for at, (candidate,) in zip(part.positions, part.candidates.tolist(), strict=True)
            )
            assert answer[part.strand, 0] == pytest.approx(expected, abs=1e-4)


def test_a_vocabulary_without_start_and_end_tokens_is_read_without_them(checkpoints):
    facts = checkpoints("bert-base")
    tokens = {role: name for role, name in facts.tokens.items() if role not in ("start", "end")}
    adapter = load(dataclasses.replace(facts, tokens=tokens))
    found = ask(adapter, [Request("masked_marginal", "ACGTTGCA", (3,), 4)])[0, 0]
    number = numbers(facts)
    ids = torch.tensor([[number[base] for base in "ACGTTGCA"]])
    ids[0, 3] = number["[MASK]"]
    with torch.no_grad():
        logits = own_class(facts)(input_ids=ids).logits[0, 3]
    np.testing.assert_allclose(found, logits[[number[base] for base in "ACGT"]].log_softmax(-1), atol=1e-5)


@pytest.mark.parametrize("name", ["bidirectional", *SINGLE])
def test_the_reverse_complement_swaps_strands(checkpoints, name):
    adapter = load(checkpoints(name))
    scheme = adapter.scheme
    for length in (30, 31):  # in an even window the middle base is another one on the other strand
        text = random_sequences(1, length)[0]
        both, at = (text, other_strand(text)), length // 2
        places = (at, length - 1 - at)
        first, second = (
            ask(adapter, [Request(scheme.site_method, t, (p,), 4)]) for t, p in zip(both, places, strict=True)
        )
        np.testing.assert_allclose(second[:, ::-1, ::-1], first, atol=1e-5)
        first, second = (ask(adapter, [Request(scheme.pair_method, sequence)]) for sequence in both)
        np.testing.assert_allclose(second[:, ::-1], first, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "bound"), [("bidirectional", 0.5), ("bert-base", 0.5), ("esm-base", 0.5), ("nt-v2", 1.0)]
)
def test_bfloat16_is_float32_but_for_rounding(checkpoints, name, bound):
    facts = checkpoints(name)
    texts = known_sequences([60] * 8, seed=4)
    answers = []
    for arithmetic in ("float32", "bfloat16"):
        adapter = load(facts, arithmetic=arithmetic)
        plans = [adapter.scheme.plan(text, 30, text[30], "A" if text[30] != "A" else "C") for text in texts]
        answers.append(ask(adapter, [plan.alt for plan in plans]))
    exact, coarse = answers
    assert exact.dtype == coarse.dtype == np.float64
    assert 0 < np.abs(exact - coarse).mean() < bound / 4
    assert np.abs(exact - coarse).max() < bound


def test_an_unknown_base_in_a_window_as_long_as_the_learned_positions_ends_no_run(tmp_path):
    """Each base of a k-mer with an unknown one is a token, so such a window has more tokens than one without."""
    facts = write_checkpoint("nt-v1", tmp_path / "m", shape=Shape(positions=13))  # 60 bases are 11 tokens, 11 fit
    adapter = load(facts)
    (text,) = known_sequences([60], seed=1)
    for window in (text, text[:50] + "N" + text[51:]):
        plan = adapter.scheme.plan(window, 20, window[20], "A" if window[20] != "A" else "C")
        assert plan is None or np.isfinite(ask(adapter, [plan.alt])).all()


@pytest.mark.parametrize("name", ["bert-base", "dnabert-3", "nt-v1", "gpt2-base"])
def test_the_room_of_a_scheme_is_what_the_network_takes_and_no_token_more(tmp_path, name):
    facts = write_checkpoint(name, tmp_path / "m", shape=Shape(positions=70))
    adapter = load(facts)
    room = adapter.scheme.room
    assert room == (68 if name == "nt-v1" else 70)
    base = torch.full((1, room + 1), int(adapter.tokeniser.outcomes[0]))
    with torch.no_grad():
        assert torch.isfinite(adapter.network.states(base[:, :room])).all()
        with pytest.raises((IndexError, RuntimeError)):
            adapter.network.states(base)


# --- states ---


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("layer", [None, 0, 1])
def test_states_leave_out_start_and_end_tokens_and_padding(checkpoints, name, layer):
    facts = checkpoints(name)
    adapter, model, number = load(facts), own_class(facts), numbers(checkpoints(name))
    texts = [*random_sequences(2, 12), *random_sequences(1, 11, 3)]
    found = adapter.states(Batcher(CPU, 4096), texts, layer)
    lead, end = int("start" in facts.tokens), int("end" in facts.tokens)
    for text, states in zip(texts, found, strict=True):
        tokens = [number[facts.tokens["start"]]] * lead + [number[base] for base in text]
        tokens += [number[facts.tokens["end"]]] if end else []
        with torch.no_grad():
            hidden = model(input_ids=torch.tensor([tokens]), output_hidden_states=True).hidden_states
        whole = hidden[-1 if layer is None else layer][0]
        torch.testing.assert_close(states, whole[lead : len(tokens) - end], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["bidirectional", *TOKENS, "generator", "neox-base"])
def test_each_base_has_the_state_of_a_token_that_covers_it(checkpoints, name):
    adapter = load(checkpoints(name))
    for text in known_sequences([30, 31, 45], seed=6):
        (states,) = adapter.states(Batcher(CPU, 4096), [text])
        rows = adapter.token_of_base(text)
        assert len(rows) == len(text)
        if name == "bidirectional":
            assert rows.tolist() == list(range(len(text)))
            continue
        _, first, last, _ = adapter.tokeniser.cut(text)
        assert len(states) == len(first)
        for base, row in enumerate(rows):
            assert first[row] <= base < last[row]


def test_the_state_of_a_base_under_overlapping_kmers_is_that_of_the_token_around_it(checkpoints):
    adapter = load(checkpoints("dnabert-3"))
    assert adapter.token_of_base("ACGTAC").tolist() == [0, 0, 1, 2, 3, 3]


@pytest.mark.parametrize("name", ["bert-base", "nt-v1", "dnabert-3"])
def test_both_strands_states_are_in_forward_order(checkpoints, name):
    adapter = load(checkpoints(name))
    texts = known_sequences([24, 31], seed=7)
    for text, (forward, reverse) in zip(texts, strand_states(adapter, Batcher(CPU, 4096), texts), strict=True):
        alone, other = (adapter.states(Batcher(CPU, 4096), [strand])[0] for strand in (text, other_strand(text)))
        rows = adapter.token_of_base(text)
        backwards = adapter.token_of_base(other_strand(text))[::-1]
        torch.testing.assert_close(forward, alone[torch.from_numpy(rows)], atol=2e-5, rtol=0)
        torch.testing.assert_close(reverse, other[torch.from_numpy(backwards.copy())], atol=2e-5, rtol=0)
        assert len(forward) == len(reverse) == len(text)


def test_the_bidirectional_network_reads_both_strands_at_once(checkpoints):
    """The other strand's states are the same numbers, those from the left and from the right swapped."""
    adapter = load(checkpoints("bidirectional"))
    (text,) = random_sequences(1, 31)
    ((forward, reverse),) = strand_states(adapter, Batcher(CPU, 4096), [text])
    assert torch.equal(forward, reverse)
    (other,) = adapter.states(Batcher(CPU, 4096), [other_strand(text)])
    torch.testing.assert_close(torch.cat(other.flip(0).chunk(2, -1)[::-1], -1), forward, atol=1e-5, rtol=0)


# --- refusals ---


def refused(facts: ModelFacts, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        load(facts)
    assert str(caught.value) == sentence


def change_weights(facts: ModelFacts, change) -> None:
    file = facts.path / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


def test_an_unknown_family_is_refused(checkpoints):
    facts = dataclasses.replace(checkpoints("bert-base"), family="crystal-ball")
    refused(
        facts,
        "bert-base: unknown family 'crystal-ball'; known are bidirectional-conv, bert, esm, modernbert, esmc, llama, "
        "mistral, mixtral, gpt-neox, gpt2, esm-gated, mosaic-bert, remote-code",
    )


@pytest.mark.parametrize("fault", ["missing", "unexpected"])
def test_missing_and_unexpected_weights_of_the_bidirectional_network_are_refused_by_name(tmp_path, fault):
    facts = bidirectional_checkpoint(tmp_path / "small")
    first = sorted(load_file(facts.path / "model.safetensors"))[0]
    change = {"missing": lambda w: w.pop(first), "unexpected": lambda w: w.update(surplus=torch.zeros(2))}[fault]
    change_weights(facts, change)
    missing, unexpected = (first, "none") if fault == "missing" else ("none", "surplus")
    refused(
        facts,
        f"{facts.path}: the weights do not fit the architecture bidirectional-conv "
        f"(missing: {missing}; unexpected: {unexpected}); check family in the model registry",
    )


def test_bidirectional_weights_of_another_shape_are_refused(tmp_path):
    facts = bidirectional_checkpoint(tmp_path / "small")

    def widen(weights):
        name = next(name for name in sorted(weights) if weights[name].ndim == 2)
        weights[name] = torch.zeros(len(weights[name]) + 1, weights[name].shape[1])

    change_weights(facts, widen)
    refused(facts, f"{facts.path}: the weights do not have config.json's shapes; restore both files")


@pytest.mark.parametrize(
    "content", [None, "{", "{}", "[]", '{"network": 3}', '{"network": {"colour": 1}, "model_type": "nonesuch"}']
)
def test_a_bidirectional_checkpoint_without_a_usable_config_is_refused(tmp_path, content):
    facts = bidirectional_checkpoint(tmp_path / "small")
    file = facts.path / "config.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    sentence = rf"^{re.escape(str(file))}: no (config|shape) of a bidirectional-conv network \(.*\); restore the file$"
    with pytest.raises(BadInput, match=sentence) as caught:
        load(facts)
    assert "\n" not in str(caught.value)


def test_a_window_that_the_network_does_not_see_is_refused(tmp_path):
    facts = bidirectional_checkpoint(tmp_path / "small", window=29)
    refused(facts, f"{facts.path}: the network sees 31 bases, the registry says window: 29")


def test_int8_is_refused_by_the_bidirectional_network(checkpoints):
    with pytest.raises(BadInput) as caught:
        load(checkpoints("bidirectional"), arithmetic="int8")
    assert str(caught.value) == ("small: scoring.dtype is int8, which this network has not; use float32 or bfloat16")


def test_the_bidirectional_network_has_states_of_its_last_layer_alone(checkpoints):
    with pytest.raises(BadInput) as caught:
        load(checkpoints("bidirectional")).states(Batcher(CPU, 4096), ["ACGT"], layer=1)
    assert str(caught.value) == "small has states of its last layer alone; leave the layer out"


@pytest.mark.parametrize("name", ["bidirectional", "bert-base", "generator"])
@pytest.mark.parametrize(
    ("arithmetic", "advice"),
    [("float32", "check the checkpoint and its registry entry"), ("bfloat16", "set scoring.dtype to float32")],
)
def test_numbers_that_are_not_finite_are_refused(checkpoints, name, arithmetic, advice):
    adapter = load(checkpoints(name), arithmetic=arithmetic)
    with torch.no_grad():
        for parameter in adapter.network.parameters():
            if parameter.is_floating_point() and parameter.layout == torch.strided:
                parameter.fill_(math.nan)
    (text,) = known_sequences([48])
    plan = adapter.scheme.plan(text, 20, text[20:22], text[20])
    for act in (lambda: ask(adapter, [plan.alt]), lambda: adapter.states(Batcher(CPU, 4096), [text])):
        with pytest.raises(BadInput) as caught:
            act()
        assert str(caught.value) == f"the model gave NaN or infinity in {arithmetic}; {advice}"


# --- the bidirectional network ---


def test_the_bidirectional_adapter_reads_the_network_it_loads(checkpoints):
    adapter = load(checkpoints("bidirectional"))
    assert isinstance(adapter, BidirectionalAdapter)
    texts = random_sequences(2, 40)
    codes = torch.from_numpy(np.stack([encode(text) for text in texts]).astype(np.int64))
    with torch.no_grad():
        logits = torch.stack(adapter.network(codes), 1).log_softmax(-1)
    sites = [(0, 3), (1, 0), (1, 39)]
    found = ask(adapter, [Request("leave_one_out_marginal", texts[row], (at,), 4, 15) for row, at in sites])
    np.testing.assert_allclose(found, torch.stack([logits[row, :, at] for row, at in sites]), atol=1e-5)
    sums = ask(adapter, [Request("leave_one_out_pseudo_likelihood", text) for text in texts])
    for row in range(2):
        known = [at for at in range(40) if codes[row, at] < 4]
        for strand in range(2):
            expected = sum(logits[row, strand, at, codes[row, at]].item() + math.log(4) for at in known)
            assert sums[row, strand, 0] == pytest.approx(expected, abs=1e-4)


def test_sites_of_one_tile_and_sites_in_windows_of_their_own_get_the_same_answer(checkpoints):
    adapter = load(checkpoints("bidirectional"))
    (tile,) = random_sequences(1, 90, 5)
    sites = [at for at in range(15, 75) if tile[at] != "N"]
    shared = ask(adapter, [Request("leave_one_out_marginal", tile, (at,), 4, 15) for at in sites])
    single = [Request("leave_one_out_marginal", tile[at - 15 : at + 16], (15,), 4, 15) for at in sites]
    np.testing.assert_allclose(ask(adapter, single), shared, atol=1e-5)
    np.testing.assert_allclose(ask(adapter, single, budget=31), shared, atol=1e-5)


def test_likelihoods_of_unequal_lengths_are_padded_without_a_trace(checkpoints):
    adapter = load(checkpoints("bidirectional"))
    requests = [Request("leave_one_out_pseudo_likelihood", text) for text in known_sequences([50, 47, 52, 49])]
    alone = np.concatenate([ask(adapter, [request]) for request in requests])
    np.testing.assert_allclose(ask(adapter, requests, 10_000), alone, atol=1e-4)


def test_the_sum_over_known_bases_equals_a_loop():
    torch.manual_seed(0)
    logs = torch.randn(2, 2, 7, 4).log_softmax(-1)
    codes = torch.tensor([[0, 1, 4, 3, 2, 2, 4], [4, 4, 4, 4, 1, 0, 3]])
    found = known_base_sum(logs, codes)
    for row in range(2):
        for strand in range(2):
            terms = [logs[row, strand, at, code].item() + math.log(4) for at, code in enumerate(codes[row]) if code < 4]
            assert found[row, strand].item() == pytest.approx(sum(terms), abs=1e-5)


def test_every_kind_of_model_has_an_adapter(checkpoints):
    assert {*TOKENS, *CAUSAL, "esm-base", "dnabert-4", "dnabert-5", "dnabert-6"} == set(KINDS)
