"""The gated ESM network against the published code, written again as plain tensor algebra, and against transformers."""

from __future__ import annotations

import math
import re

import pytest
import torch

from seqprior.gated_esm import CACHED_LENGTH, IGNORED, GatedEsmConfig, GatedEsmForMaskedLM, tie

pytestmark = pytest.mark.usefixtures("one_thread")

# config.json of InstaDeepAI/nucleotide-transformer-v2-50m-multi-species
NT_50M = {
    "add_bias_fnn": False,
    "architectures": ["EsmForMaskedLM", "EsmForTokenClassification", "EsmForSequenceClassification"],
    "attention_probs_dropout_prob": 0.0,
    "auto_map": {"AutoConfig": "esm_config.EsmConfig", "AutoModelForMaskedLM": "modeling_esm.EsmForMaskedLM"},
    "emb_layer_norm_before": False,
    "esmfold_config": None,
    "hidden_dropout_prob": 0.0,
    "hidden_size": 512,
    "initializer_range": 0.02,
    "intermediate_size": 2048,
    "is_folding_model": False,
    "layer_norm_eps": 1e-12,
    "mask_token_id": 2,
    "max_position_embeddings": 2050,
    "num_attention_heads": 16,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "position_embedding_type": "rotary",
    "tie_word_embeddings": False,
    "token_dropout": False,
    "torch_dtype": "float32",
    "use_cache": False,
    "vocab_list": None,
    "vocab_size": 4107,
}
NT_500M = {**NT_50M, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 29}
TINY = {**NT_50M, "hidden_size": 48, "intermediate_size": 40, "num_attention_heads": 6, "num_hidden_layers": 3}
VARIANTS = {
    "published": {},
    "token dropout": {"token_dropout": True},
    "biases": {"add_bias_fnn": True},
    "norm before": {"emb_layer_norm_before": True},
    "tied": {"tie_word_embeddings": True},
    "wide epsilon": {"layer_norm_eps": 1e-2},
}
MASK, PAD = 2, 1


def published_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """What modeling_esm.py's EsmForMaskedLM stores, by name."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    tokens, heads, layers = config["vocab_size"], config["num_attention_heads"], config["num_hidden_layers"]
    shapes = {
        "esm.embeddings.word_embeddings.weight": (tokens, width),
        "esm.embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
    }

    def norm(name: str) -> None:
        shapes.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs)
        if bias:
            shapes[f"{name}.bias"] = (outputs,)

    if config["emb_layer_norm_before"]:
        norm("esm.embeddings.layer_norm")
    for layer in range(layers):
        name = f"esm.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            linear(f"{name}.attention.self.{part}", width, width)
        shapes[f"{name}.attention.self.rotary_embeddings.inv_freq"] = (width // heads // 2,)
        linear(f"{name}.attention.output.dense", width, width)
        norm(f"{name}.attention.LayerNorm")
        linear(f"{name}.intermediate.dense", width, 2 * inner, config["add_bias_fnn"])
        linear(f"{name}.output.dense", inner, width, config["add_bias_fnn"])
        norm(f"{name}.LayerNorm")
    norm("esm.encoder.emb_layer_norm_after")
    linear("esm.contact_head.regression", layers * heads, 1)
    linear("lm_head.dense", width, width)
    norm("lm_head.layer_norm")
    linear("lm_head.decoder", width, tokens, bias=False)
    shapes["lm_head.bias"] = (tokens,)
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
    if config["tie_word_embeddings"]:
        del weights["lm_head.decoder.weight"]
    return weights


def network(config: dict, weights: dict[str, torch.Tensor]) -> GatedEsmForMaskedLM:
    model = GatedEsmForMaskedLM(GatedEsmConfig.from_dict(config)).eval().requires_grad_(False)
    model.load_state_dict(tie({name: value for name, value in weights.items() if not ignored(name)}, model.config))
    return model


def batch(lengths: tuple[int, ...] = (23, 23, 23), masks: tuple[int, ...] = (1, 0, 4), seed: int = 0):
    """Token numbers with that many masks, padded on the right, and what counts."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths)), PAD)
    for row, (length, count) in enumerate(zip(lengths, masks, strict=True)):
        ids[row, :length] = torch.randint(4, 4107, (length,), generator=generator)
        ids[row, torch.randperm(length, generator=generator)[:count]] = MASK
    return ids, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def norm_by_hand(states, weights, name, eps):
    centred = states - states.mean(-1, keepdim=True)
    scale = torch.sqrt((centred * centred).mean(-1, keepdim=True) + eps)
    return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear_by_hand(states, weights, name):
    product = torch.einsum("...i,oi->...o", states, weights[f"{name}.weight"])
    return product + weights[f"{name}.bias"] if f"{name}.bias" in weights else product


def gelu_by_hand(values):
    return values * 0.5 * (1 + torch.erf(values / math.sqrt(2.0)))


def turned_by_hand(head):
    """Rotary positions of one head, (T, D): plane i holds channels i and i + D / 2."""
    turned = torch.empty_like(head)
    width = head.shape[1]
    for position in range(head.shape[0]):
        for plane in range(width // 2):
            angle = position / 10000 ** (2 * plane / width)
            cosine, sine = math.cos(angle), math.sin(angle)
            first, second = head[position, plane], head[position, plane + width // 2]
            turned[position, plane] = first * cosine - second * sine
            turned[position, plane + width // 2] = second * cosine + first * sine
    return turned


def states_by_hand(config: dict, weights: dict[str, torch.Tensor], row: torch.Tensor) -> list[torch.Tensor]:
    """States of one sequence without padding, (T, H), after 0, 1, ... layers and last after the final norm."""
    eps, heads = config["layer_norm_eps"], config["num_attention_heads"]
    states = torch.stack([weights["esm.embeddings.word_embeddings.weight"][token] for token in row.tolist()])
    if config["token_dropout"]:
        masked = [token == MASK for token in row.tolist()]
        scale = (1 - 0.15 * 0.8) / (1 - sum(masked) / len(masked))
        states = torch.stack([state * 0 if hidden else state * scale for state, hidden in zip(states, masked)])  # noqa: B905
    if config["emb_layer_norm_before"]:
        states = norm_by_hand(states, weights, "esm.embeddings.layer_norm", eps)
    history = [states]
    for layer in range(config["num_hidden_layers"]):
        name = f"esm.encoder.layer.{layer}"
        normed = norm_by_hand(states, weights, f"{name}.attention.LayerNorm", eps)
        parts = [linear_by_hand(normed, weights, f"{name}.attention.self.{part}") for part in ("query", "key", "value")]
        context = []
        for query, key, value in zip(*(part.chunk(heads, -1) for part in parts), strict=True):
            query, key = turned_by_hand(query * query.shape[1] ** -0.5), turned_by_hand(key)
            scores = torch.einsum("id,jd->ij", query, key)
            shares = torch.exp(scores - scores.amax(-1, keepdim=True))
            context.append(torch.einsum("ij,jd->id", shares / shares.sum(-1, keepdim=True), value))
        states = states + linear_by_hand(torch.cat(context, -1), weights, f"{name}.attention.output.dense")
        normed = norm_by_hand(states, weights, f"{name}.LayerNorm", eps)
        both = linear_by_hand(normed, weights, f"{name}.intermediate.dense")
        gate, value = both[:, : config["intermediate_size"]], both[:, config["intermediate_size"] :]
        gated = gate / (1 + torch.exp(-gate)) * value
        states = states + linear_by_hand(gated, weights, f"{name}.output.dense")
        history.append(states)
    return [*history, norm_by_hand(states, weights, "esm.encoder.emb_layer_norm_after", eps)]


def logits_by_hand(config: dict, weights: dict[str, torch.Tensor], states: torch.Tensor) -> torch.Tensor:
    hidden = gelu_by_hand(linear_by_hand(states, weights, "lm_head.dense"))
    hidden = norm_by_hand(hidden, weights, "lm_head.layer_norm", config["layer_norm_eps"])
    decoder = "esm.embeddings.word_embeddings" if config["tie_word_embeddings"] else "lm_head.decoder"
    return torch.einsum("ti,oi->to", hidden, weights[f"{decoder}.weight"]) + weights["lm_head.bias"]


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
    assert logits.dtype == torch.float32 and logits.shape == (3, 23, 4107)
    for row, length in enumerate(lengths):
        *expected, final = states_by_hand(config, exact, ids[row, :length])
        torch.testing.assert_close(states[row, :length].double(), final, atol=1e-5, rtol=1e-5)
        scores = logits_by_hand(config, exact, final)
        torch.testing.assert_close(logits[row, :length].double(), scores, atol=1e-5, rtol=1e-5)
        assert scores.std() > 0.5
        for got, wanted in zip(layers, expected, strict=True):
            torch.testing.assert_close(got[row, :length].double(), wanted, atol=1e-5, rtol=1e-5)


def test_every_weight_and_setting_that_counts_changes_the_logits():
    ids, attention = batch()
    weights = checkpoint(TINY)
    before = network(TINY, weights).head(network(TINY, weights).states(ids, attention))
    for name in weights:
        if not ignored(name) and not name.endswith(
            "key.bias"
        ):  # a key's bias shifts all scores of a query nearly alike
            changed = network(TINY, {**weights, name: weights[name] * 1.1 + 0.05})
            assert (changed.head(changed.states(ids, attention)) - before).abs().max() > 1e-4, name
    for setting in ({"token_dropout": True}, {"layer_norm_eps": 1e-2}, {"num_attention_heads": 12}):
        changed = network(
            TINY | setting, checkpoint(TINY | setting) | {n: w for n, w in weights.items() if not ignored(n)}
        )
        assert (changed.head(changed.states(ids, attention)) - before).abs().max() > 1e-4, setting


def test_attention_equals_that_of_transformers():
    from transformers import EsmConfig
    from transformers.models.esm.modeling_esm import EsmAttention, EsmRotaryEmbedding

    native_config = EsmConfig(
        **{key: value for key, value in TINY.items() if key not in {"architectures", "auto_map", "vocab_list"}},
        attn_implementation="eager",
    )
    native = EsmAttention(native_config).eval()
    model = network(TINY, checkpoint(TINY))
    ours = model.esm.encoder.layer[1].attention
    assert native.load_state_dict(ours.state_dict(), strict=True)
    states = torch.randn(2, 37, 48, generator=torch.Generator().manual_seed(1))
    counts = torch.arange(37) < torch.tensor([[37], [20]])
    position = torch.arange(37).expand(2, -1)
    shift = torch.zeros(2, 1, 1, 37).masked_fill(~counts[:, None, None, :], torch.finfo(torch.float32).min)
    with torch.no_grad():
        turn = EsmRotaryEmbedding(native_config)(states, position)
        expected = native(states, attention_mask=shift, position_embeddings=turn)
        expected = expected[0] if isinstance(expected, tuple) else expected
        got = ours(states, model._turn(37, states.device), counts[:, None, None, :], None)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)


def test_token_dropout_and_head_equal_those_of_transformers():
    from transformers import EsmConfig
    from transformers.models.esm.modeling_esm import EsmEmbeddings, EsmLMHead

    config = TINY | {"token_dropout": True}
    native_config = EsmConfig(
        **{key: value for key, value in config.items() if key not in {"architectures", "auto_map", "vocab_list"}}
    )
    embeddings, head = EsmEmbeddings(native_config).eval(), EsmLMHead(native_config).eval()
    model = network(config, checkpoint(config))
    embeddings.load_state_dict(model.esm.embeddings.state_dict(), strict=True)
    head.load_state_dict(model.lm_head.state_dict(), strict=True)
    ids, attention = batch((23, 9, 17))
    with torch.no_grad():
        expected = embeddings(input_ids=ids, attention_mask=attention.long())
        logits = head(expected)
    got = model.states(ids, attention, layer=0)
    torch.testing.assert_close(got[attention], expected[attention], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(model.head(expected), logits, atol=1e-5, rtol=1e-5)
    assert not got[attention][ids[attention] == MASK].any(), "masked tokens have no embedding"


@pytest.mark.parametrize("dropout", [False, True])
def test_padding_changes_nothing(dropout):
    config = TINY | {"token_dropout": dropout}
    model = network(config, checkpoint(config))
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
    other[~attention] = torch.randint(4, 4107, (int((~attention).sum()),))
    torch.testing.assert_close(model.states(other, attention)[attention], together[attention], atol=1e-6, rtol=0)


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
    ids, _ = batch()
    seen = []
    last = model.esm.encoder.layer[-1]
    for part in (last.attention.self.query, last.attention.self.key, last.intermediate.dense, last.output.dense):
        part.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    model.states(ids, keep=torch.tensor([[3], [4], [5]]))
    assert sorted(seen) == [1, 1, 1, 23]


def test_bfloat16_stays_near_float32_on_a_long_input():
    model = network(TINY, checkpoint(TINY))
    ids, attention = batch((700, 650), (3, 0))
    exact = model.head(model.states(ids, attention)).log_softmax(-1)
    coarse_model = network(TINY, checkpoint(TINY)).to(torch.bfloat16)
    coarse = coarse_model.head(coarse_model.states(ids, attention))
    assert coarse.dtype == torch.bfloat16
    assert all(table.dtype == torch.float32 for table in coarse_model._turn(700, ids.device))
    assert 0 < (exact - coarse.float().log_softmax(-1))[attention].abs().mean() < 0.05


def test_positions_turn_by_the_exact_angle_up_to_the_longest_input():
    cosine, sine = network(TINY, checkpoint(TINY))._turn(2048, torch.device("cpu"))
    for position in (0, 1, 255, 257, 1001, 2047):
        for plane in range(4):
            angle = position / 10000 ** (2 * plane / 8)
            assert (
                cosine[position, 0, plane] == cosine[position, 0, plane + 4] == pytest.approx(math.cos(angle), abs=3e-4)
            )
            assert sine[position, 0, plane] == pytest.approx(math.sin(angle), abs=3e-4)


def test_tables_serve_shorter_inputs_and_gradients_and_stay_bounded():
    model = network(TINY, checkpoint(TINY))
    device = torch.device("cpu")
    with torch.inference_mode():
        cosine, _ = model._turn(50, device)
    shorter, _ = model._turn(20, device)
    assert shorter.data_ptr() == cosine.data_ptr() and not cosine.is_inference()
    model._turn(CACHED_LENGTH + 1, device)
    assert [turn[0].shape[0] for turn in model._turns.values()] == [50]
    model.requires_grad_(True)
    model.head(model.states(batch()[0])).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(("config", "count"), [(NT_50M, 55_904_972), (NT_500M, 498_345_436)], ids=["50m", "500m"])
def test_published_configs_give_the_published_count_and_names(config, count):
    """Counts as others found them on loading the checkpoints with the published code, without its buffers."""
    published = published_shapes(config)
    buffers = {name for name in published if name.endswith("inv_freq")}
    assert sum(math.prod(published[name]) for name in published.keys() - buffers) == count
    with torch.device("meta"):
        model = GatedEsmForMaskedLM(GatedEsmConfig.from_dict(config))
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert ours == {name: shape for name, shape in published.items() if not ignored(name)}
    unused = sum(math.prod(published[name]) for name in published.keys() - buffers - ours.keys())
    assert sum(parameter.numel() for parameter in model.parameters()) == count - unused
    assert unused == 2050 * config["hidden_size"] + config["num_hidden_layers"] * 16 + 1
    assert (model.vocab_size, model.width) == (4107, config["hidden_size"])


def test_only_what_no_prediction_needs_is_ignored():
    dropped = {name for name in published_shapes(TINY) if ignored(name)}
    assert dropped == {
        "esm.embeddings.position_embeddings.weight",
        "esm.contact_head.regression.weight",
        "esm.contact_head.regression.bias",
        *(f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq" for layer in range(3)),
    }
    assert ignored("esm.embeddings.position_ids") and ignored("esm.pooler.dense.bias")


def test_a_missing_weight_is_an_error_unless_it_is_a_tied_decoder():
    weights = {name: value for name, value in checkpoint(TINY).items() if not ignored(name)}
    untied, tied = (GatedEsmForMaskedLM(GatedEsmConfig.from_dict(TINY | {"tie_word_embeddings": t})) for t in (0, 1))
    decoder = weights.pop("lm_head.decoder.weight")
    tied.load_state_dict(tie(weights, tied.config))
    assert tied.lm_head.decoder.weight is tied.esm.embeddings.word_embeddings.weight
    with pytest.raises(RuntimeError, match=r"Missing key.*lm_head\.decoder\.weight"):
        untied.load_state_dict(tie(weights, untied.config))
    weights["lm_head.decoder.weight"] = decoder
    assert tie(weights) is weights
    del weights["lm_head.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*lm_head\.bias"):
        untied.load_state_dict(tie(weights))


def test_a_decoder_other_than_the_embedding_is_refused_where_they_are_to_be_one():
    weights, config = checkpoint(TINY), GatedEsmConfig.from_dict(TINY | {"tie_word_embeddings": True})
    with pytest.raises(ValueError, match=r"lm_head\.decoder\.weight differs from esm\.embeddings"):
        tie(weights, config)
    weights["lm_head.decoder.weight"] = weights["esm.embeddings.word_embeddings.weight"].clone()
    assert tie(weights, config) is weights


def test_weights_assigned_to_an_empty_network_give_the_same_logits():
    weights, (ids, attention) = checkpoint(TINY), batch((23, 9, 17))
    with torch.device("meta"):
        empty = GatedEsmForMaskedLM(GatedEsmConfig.from_dict(TINY)).eval()
    empty.load_state_dict({name: value for name, value in weights.items() if not ignored(name)}, assign=True)
    copied = network(TINY, weights)
    with torch.inference_mode():
        assert torch.equal(empty.head(empty.states(ids, attention)), copied.head(copied.states(ids, attention)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_embedding_type": "absolute"}, "position_embedding_type is 'absolute', and only 'rotary'"),
        ({"position_embedding_type": None}, "position_embedding_type is None"),
        ({"is_folding_model": True}, "is_folding_model is True"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"rope_theta": 500000.0}, "rope_theta is 500000.0"),
        ({"rescaling_factor": 2.5}, "rescaling_factor is 2.5"),
        ({"vocab_size": None}, "vocab_size is None"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_attention_heads": 7}, "hidden_size 48 is no even multiple of num_attention_heads 7"),
        ({"num_attention_heads": 16}, "hidden_size 48 is no even multiple of num_attention_heads 16"),
        ({"token_dropout": True, "mask_token_id": None}, "mask_token_id"),
    ],
)
def test_settings_that_the_network_lacks_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        GatedEsmConfig.from_dict(TINY | change)


def test_a_file_that_says_nothing_of_positions_is_refused():
    values = {key: value for key, value in TINY.items() if key != "position_embedding_type"}
    with pytest.raises(ValueError, match="position_embedding_type is 'absolute'"):
        GatedEsmConfig.from_dict(values)


@pytest.mark.parametrize("arguments", [{"layer": 4}, {"layer": -1}, {"layer": 1, "keep": torch.zeros(3, 1).long()}])
def test_layers_out_of_range_or_with_kept_positions_are_refused(arguments):
    with pytest.raises(ValueError, match="not within 0 to 3, or comes together with keep"):
        network(TINY, checkpoint(TINY)).states(batch()[0], **arguments)
