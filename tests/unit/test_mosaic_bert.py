"""The MosaicBERT network against the published code, written again as plain tensor algebra."""

from __future__ import annotations

import math
import re

import pytest
import torch

from seqprior.mosaic_bert import CACHED_LENGTH, IGNORED, MosaicBertConfig, MosaicBertForMaskedLM, alibi_slopes, tie

pytestmark = pytest.mark.usefixtures("one_thread")

# config.json of zhihan1996/DNABERT-2-117M
DNABERT_2 = {
    "alibi_starting_size": 512,
    "attention_probs_dropout_prob": 0.0,
    "auto_map": {"AutoConfig": "configuration_bert.BertConfig", "AutoModelForMaskedLM": "bert_layers.BertForMaskedLM"},
    "classifier_dropout": None,
    "gradient_checkpointing": False,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
    "type_vocab_size": 2,
    "use_cache": True,
    "vocab_size": 4096,
}
TINY = {**DNABERT_2, "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 3}
VARIANTS = {"12 heads": {}, "8 heads": {"num_attention_heads": 8}, "wide epsilon": {"layer_norm_eps": 1e-2}}
PAD = 3


def published_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """What the published checkpoint holds for bert_layers.py's BertForMaskedLM, by name."""
    width, inner, tokens = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    shapes = {
        "bert.embeddings.word_embeddings.weight": (tokens, width),
        "bert.embeddings.token_type_embeddings.weight": (config["type_vocab_size"], width),
    }

    def norm(name: str) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    def linear(name: str, inputs: int, outputs: int) -> None:
        shapes.update({f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)})

    norm("bert.embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        name = f"bert.encoder.layer.{layer}"
        linear(f"{name}.attention.self.Wqkv", width, 3 * width)
        linear(f"{name}.attention.output.dense", width, width)
        norm(f"{name}.attention.output.LayerNorm")
        shapes[f"{name}.mlp.gated_layers.weight"] = (2 * inner, width)
        linear(f"{name}.mlp.wo", inner, width)
        norm(f"{name}.mlp.layernorm")
    linear("cls.predictions.transform.dense", width, width)
    norm("cls.predictions.transform.LayerNorm")
    linear("cls.predictions.decoder", width, tokens)
    return shapes


def ignored(name: str) -> bool:
    return any(re.search(pattern, name) for pattern in IGNORED)


def checkpoint(config: dict, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights of a published file, all of them large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in published_shapes(config).items():
        drawn = torch.randn(shape, generator=generator)
        is_norm = "norm" in name.lower() and name.endswith("weight")
        fan_in = shape[-1] if len(shape) == 2 and "embeddings" not in name else 4
        weights[name] = 1 + 0.3 * drawn if is_norm else drawn * fan_in**-0.5
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    return weights


def network(config: dict, weights: dict[str, torch.Tensor]) -> MosaicBertForMaskedLM:
    model = MosaicBertForMaskedLM(MosaicBertConfig.from_dict(config)).eval().requires_grad_(False)
    model.load_state_dict(tie({name: value for name, value in weights.items() if not ignored(name)}))
    return model


def batch(lengths: tuple[int, ...] = (23, 23, 23), seed: int = 0):
    """Token numbers padded on the right, and what counts."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 4096, (len(lengths), max(lengths)), generator=generator)
    attention = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return ids.masked_fill(~attention, PAD), attention


def norm_by_hand(states, weights, name, eps):
    centred = states - states.mean(-1, keepdim=True)
    scale = torch.sqrt((centred * centred).mean(-1, keepdim=True) + eps)
    return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear_by_hand(states, weights, name):
    product = torch.einsum("...i,oi->...o", states, weights[f"{name}.weight"])
    return product + weights[f"{name}.bias"] if f"{name}.bias" in weights else product


def gelu_by_hand(values):
    return values * 0.5 * (1 + torch.erf(values / math.sqrt(2.0)))


SLOPES = {  # of the ALiBi paper for 8 heads; for 12, those of 8 and every second one of 16
    8: [2.0**-power for power in (1, 2, 3, 4, 5, 6, 7, 8)],
    12: [2.0**-power for power in (1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5)],
}


def bias_by_hand(slope: float, length: int) -> torch.Tensor:
    rows = [[-slope * abs(query - key) for key in range(length)] for query in range(length)]
    return torch.tensor(rows, dtype=torch.float64)


def states_by_hand(config: dict, weights: dict[str, torch.Tensor], row: torch.Tensor) -> list[torch.Tensor]:
    """States of one sequence without padding, (T, H), after 0, 1, ... layers."""
    eps, heads, width = config["layer_norm_eps"], config["num_attention_heads"], config["hidden_size"]
    words = torch.stack([weights["bert.embeddings.word_embeddings.weight"][token] for token in row.tolist()])
    states = words + weights["bert.embeddings.token_type_embeddings.weight"][0]
    states = norm_by_hand(states, weights, "bert.embeddings.LayerNorm", eps)
    history = [states]
    for layer in range(config["num_hidden_layers"]):
        name = f"bert.encoder.layer.{layer}"
        three = linear_by_hand(states, weights, f"{name}.attention.self.Wqkv")
        context = []
        for head in range(heads):
            start, size = head * (width // heads), width // heads
            query, key, value = (three[:, part * width + start :][:, :size] for part in range(3))
            scores = torch.einsum("id,jd->ij", query, key) / math.sqrt(size)
            scores = scores + bias_by_hand(SLOPES[heads][head], len(row))
            shares = torch.exp(scores - scores.amax(-1, keepdim=True))
            context.append(torch.einsum("ij,jd->id", shares / shares.sum(-1, keepdim=True), value))
        update = linear_by_hand(torch.cat(context, -1), weights, f"{name}.attention.output.dense")
        states = norm_by_hand(update + states, weights, f"{name}.attention.output.LayerNorm", eps)
        both = linear_by_hand(states, weights, f"{name}.mlp.gated_layers")
        gate, value = both[:, : config["intermediate_size"]], both[:, config["intermediate_size"] :]
        update = linear_by_hand(gelu_by_hand(gate) * value, weights, f"{name}.mlp.wo")
        states = norm_by_hand(update + states, weights, f"{name}.mlp.layernorm", eps)
        history.append(states)
    return history


def logits_by_hand(weights: dict[str, torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    hidden = gelu_by_hand(linear_by_hand(states, weights, "cls.predictions.transform.dense"))
    hidden = norm_by_hand(hidden, weights, "cls.predictions.transform.LayerNorm", 1e-12)
    words = weights["bert.embeddings.word_embeddings.weight"]
    return torch.einsum("ti,oi->to", hidden, words) + weights["cls.predictions.decoder.bias"]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("lengths", [(23, 23, 23), (23, 9, 17)], ids=["equal", "padded"])
def test_states_and_logits_equal_the_published_formula(variant, lengths):
    config = TINY | VARIANTS[variant]
    weights = checkpoint(config)
    model = network(config, weights)
    exact = {name: value.double() for name, value in weights.items()}
    ids, attention = batch(lengths)
    states = model.states(ids, attention)
    logits = model.head(states)
    layers = [model.states(ids, attention, layer=layer) for layer in range(config["num_hidden_layers"] + 1)]
    assert logits.dtype == torch.float32 and logits.shape == (3, 23, 4096)
    for row, length in enumerate(lengths):
        expected = states_by_hand(config, exact, ids[row, :length])
        scores = logits_by_hand(exact, expected[-1])
        torch.testing.assert_close(states[row, :length].double(), expected[-1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(logits[row, :length].double(), scores, atol=1e-5, rtol=1e-5)
        assert scores.std() > 0.5
        for got, wanted in zip(layers, expected, strict=True):
            torch.testing.assert_close(got[row, :length].double(), wanted, atol=1e-5, rtol=1e-5)


def test_every_weight_and_setting_that_counts_changes_the_logits():
    ids, attention = batch()
    weights = checkpoint(TINY)
    before = network(TINY, weights).head(network(TINY, weights).states(ids, attention))
    for name in weights.keys() - {"cls.predictions.decoder.weight"}:
        changed = network(TINY, tied({**weights, name: weights[name] * 1.1 + 0.05}))
        assert (changed.head(changed.states(ids, attention)) - before).abs().max() > 1e-4, name
    for setting in ({"layer_norm_eps": 1e-2}, {"num_attention_heads": 6}):
        changed = network(TINY | setting, weights)
        assert (changed.head(changed.states(ids, attention)) - before).abs().max() > 1e-4, setting


def tied(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return tie({name: value for name, value in weights.items() if name != "cls.predictions.decoder.weight"})


@pytest.mark.parametrize("heads", range(1, 41))
def test_slopes_equal_the_published_recursion(heads):
    """Written as the recipe of the ALiBi paper: a geometric sequence that starts at, and has the ratio, 2**(-8/n)."""

    def power_of_two(count):
        start = 2 ** -(2 ** -(math.log2(count) - 3))
        return [start * start**head for head in range(count)]

    nearest = max(2**power for power in range(6) if 2**power <= heads)
    expected = power_of_two(nearest) + power_of_two(2 * nearest)[0::2][: heads - nearest]
    assert alibi_slopes(heads) == pytest.approx(expected, rel=1e-12)
    assert heads not in SLOPES or alibi_slopes(heads) == pytest.approx(SLOPES[heads], rel=1e-12)


def test_the_bias_is_symmetric_and_the_same_at_every_length():
    model = network(TINY, checkpoint(TINY))
    states = torch.zeros(1)
    longest = model._bias(40, states, None)
    for length in (1, 7, 8, 23, 40):
        bias = model._bias(length, states, None)
        assert bias.shape == (1, 12, length, length) and bias.dtype == torch.float32
        assert torch.equal(bias, longest[..., :length, :length]) and torch.equal(bias, bias.mT)
        for head, slope in enumerate(SLOPES[12]):
            torch.testing.assert_close(bias[0, head].double(), bias_by_hand(slope, length), atol=1e-6, rtol=1e-6)


def test_padding_changes_nothing():
    model = network(TINY, checkpoint(TINY))
    lengths = (31, 12, 25)
    ids, attention = batch(lengths)
    together = model.states(ids, attention)
    everything = model.states(
        torch.nn.functional.pad(ids, (0, 9), value=PAD), torch.nn.functional.pad(attention, (0, 9))
    )
    for row, length in enumerate(lengths):
        alone = model.states(ids[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0], atol=2e-6, rtol=0)
        torch.testing.assert_close(everything[row, :length], alone[0], atol=2e-6, rtol=0)
    other = ids.clone()
    other[~attention] = torch.randint(4, 4096, (int((~attention).sum()),))
    torch.testing.assert_close(model.states(other, attention)[attention], together[attention], atol=1e-6, rtol=0)
    assert model.states(ids, attention & (torch.arange(3) != 1)[:, None]).isfinite().all(), "a row of padding alone"


@pytest.mark.parametrize("lengths", [(31, 31, 31), (31, 12, 25)], ids=["equal", "padded"])
def test_kept_positions_equal_a_slice_of_all(lengths):
    model = network(TINY, checkpoint(TINY))
    ids, attention = batch(lengths)
    keep = torch.tensor([[0, 30, 7, 7], [11, 3, 0, 4], [24, 23, 1, 0]])
    whole = model.states(ids, attention)
    kept = model.states(ids, attention, keep=keep)
    assert kept.shape == (3, 4, 48)
    for row in range(3):
        torch.testing.assert_close(kept[row], whole[row, keep[row]], atol=1e-6, rtol=1e-6)


def test_the_last_layer_works_at_kept_positions_only():
    model = network(TINY, checkpoint(TINY))
    seen = []
    last = model.bert.encoder.layer[-1]
    for part in (last.attention.output.dense, last.mlp.gated_layers, last.mlp.wo):
        part.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    model.states(batch()[0], keep=torch.tensor([[3], [4], [5]]))
    assert seen == [1, 1, 1]


def test_bfloat16_stays_near_float32_on_a_long_input():
    model = network(TINY, checkpoint(TINY))
    ids, attention = batch((700, 650))
    exact = model.head(model.states(ids, attention)).log_softmax(-1)
    coarse_model = network(TINY, checkpoint(TINY)).to(torch.bfloat16)
    coarse = coarse_model.head(coarse_model.states(ids, attention))
    assert coarse.dtype == torch.bfloat16
    assert coarse_model._bias(9, coarse, None).dtype == torch.bfloat16, "kernels of GPUs take no other dtype"
    assert 0 < (exact - coarse.float().log_softmax(-1))[attention].abs().mean() < 0.05


def test_the_bias_serves_shorter_inputs_and_gradients_and_stays_bounded():
    model = network(TINY, checkpoint(TINY))
    states = torch.zeros(1)
    with torch.inference_mode():
        longest = model._bias(50, states, None)
    shorter = model._bias(20, states, None)
    assert shorter.data_ptr() == longest.data_ptr() and not shorter.is_inference()
    model._bias(CACHED_LENGTH + 1, states, None)
    assert [bias.shape[-1] for bias in model._biases.values()] == [56]
    model.requires_grad_(True)
    model.head(model.states(batch()[0])).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_published_config_gives_the_published_count_and_names():
    """Counts as others found them on loading the checkpoint with the published code."""
    published = published_shapes(DNABERT_2)
    with torch.device("meta"):
        model = MosaicBertForMaskedLM(MosaicBertConfig.from_dict(DNABERT_2))
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == published
    assert sum(parameter.numel() for parameter in model.parameters()) == 117_074_176
    encoder = sum(parameter.numel() for parameter in model.bert.parameters())
    assert encoder + 768 * 768 + 768 == 117_068_544, "the published encoder alone, with the pooler it adds"
    assert (model.vocab_size, model.width) == (4096, 768)


def test_only_what_no_prediction_needs_is_ignored():
    assert not any(ignored(name) for name in published_shapes(DNABERT_2))
    assert ignored("bert.pooler.dense.weight") and ignored("bert.pooler.dense.bias")
    assert ignored("bert.embeddings.position_ids") and ignored("bert.embeddings.token_type_ids")
    assert not ignored("bert.embeddings.position_embeddings.weight"), "a file with position embeddings is no MosaicBERT"


def test_a_missing_weight_is_an_error_unless_it_is_the_tied_decoder():
    weights = checkpoint(TINY)
    model = MosaicBertForMaskedLM(MosaicBertConfig.from_dict(TINY))
    assert tie(weights).keys() == tied(weights).keys() == weights.keys()
    model.load_state_dict(tied(weights))
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    with pytest.raises(RuntimeError, match=r"Missing key.*cls\.predictions\.decoder\.bias"):
        model.load_state_dict(tie({name: w for name, w in weights.items() if name != "cls.predictions.decoder.bias"}))
    encoder = {name: value for name, value in weights.items() if name.startswith("bert.")}
    with pytest.raises(RuntimeError, match=r"Missing key.*cls\.predictions\.transform\.dense\.weight"):
        model.load_state_dict(tie(encoder))


def test_a_decoder_other_than_the_embedding_is_refused():
    weights = checkpoint(TINY)
    weights["cls.predictions.decoder.weight"] = weights["cls.predictions.decoder.weight"] + 1e-3
    with pytest.raises(ValueError, match=r"decoder\.weight differs from bert\.embeddings\.word_embeddings\.weight"):
        tie(weights)


def test_weights_assigned_to_an_empty_network_give_the_same_logits():
    weights, (ids, attention) = checkpoint(TINY), batch((23, 9, 17))
    with torch.device("meta"):
        empty = MosaicBertForMaskedLM(MosaicBertConfig.from_dict(TINY)).eval()
    empty.load_state_dict(tied(weights), assign=True)
    copied = network(TINY, weights)
    with torch.inference_mode():
        assert torch.equal(empty.head(empty.states(ids, attention)), copied.head(copied.states(ids, attention)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu', and only 'gelu'"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"intermediate_size": 0}, "intermediate_size is 0"),
        ({"num_attention_heads": 7}, "hidden_size 48 is no multiple of num_attention_heads 7"),
    ],
)
def test_settings_that_the_network_lacks_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        MosaicBertConfig.from_dict(TINY | change)


@pytest.mark.parametrize("arguments", [{"layer": 4}, {"layer": -1}, {"layer": 1, "keep": torch.zeros(3, 1).long()}])
def test_layers_out_of_range_or_with_kept_positions_are_refused(arguments):
    with pytest.raises(ValueError, match="not within 0 to 3, or comes together with keep"):
        network(TINY, checkpoint(TINY)).states(batch()[0], **arguments)
