"""Heads against plain loops over windows and positions, and what a damaged folder gives."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.optimize import minimize

from seqprior.errors import BadInput
from seqprior.features import Projection
from seqprior.heads import (
    DETECTORS,
    KINDS,
    MOTIF_LENGTH,
    Calibration,
    Head,
    Network,
    fit_isotonic,
    fit_platt,
    load_head,
    save_head,
    uses_sequence,
    uses_states,
)

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH, FEATURES, STATES = 40, 5, 7


def random_network(kind: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    network = Network(kind, FEATURES)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    network.centre.normal_()
    network.spread.uniform_(0.5, 2)
    return network.eval()


def random_head(kind: str, calibration: Calibration | None = None) -> Head:
    projection = Projection(torch.randn(STATES), torch.randn(STATES, FEATURES)) if uses_states(kind) else None
    calibration = calibration or Calibration("platt", 1.5, -0.25)
    return Head("E", kind, WIDTH, random_network(kind), calibration, "m", "d", "float32", 9, projection, 0.5, 0.7, "x")


def random_windows(count: int = 6, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    forward, reverse = (torch.randn(count, WIDTH, FEATURES, generator=generator) for _ in range(2))
    return forward, reverse, torch.randint(0, 5, (count, WIDTH), generator=generator)


def turned(forward, reverse, codes):
    """The same windows on the other strand."""
    return reverse.flip(1), forward.flip(1), torch.where(codes < 4, 3 - codes, codes).flip(1)


def strongest_matches(network: Network, codes: np.ndarray) -> np.ndarray:
    """Of each detector the strongest match on either strand, by loops."""
    weight, bias = (value.detach().numpy() for value in (network.detectors.weight, network.detectors.bias))
    half = MOTIF_LENGTH // 2
    best = np.zeros(DETECTORS)
    for strand in (codes, np.where(codes < 4, 3 - codes, codes)[::-1]):
        for middle in range(len(strand)):
            score = bias.copy()
            for offset in range(MOTIF_LENGTH):
                place = middle + offset - half
                if 0 <= place < len(strand) and strand[place] < 4:
                    score += weight[:, strand[place], offset]
            best = np.maximum(best, score)
    return best


def pooled_by_loops(network: Network, strands: list[np.ndarray]) -> np.ndarray:
    if network.kind == "attention":
        query = network.query.weight.detach().numpy()
        readings = []
        for features in strands:
            weights = np.exp(features @ query.T)
            weights /= weights.sum(0)
            readings.append(np.concatenate([(weights[:, a : a + 1] * features).sum(0) for a in range(len(query))]))
        return np.mean(readings, 0)
    if network.kind != "linear":
        strands = [detected(network, strands[0]), detected(network, strands[1][::-1])]
    mean = np.mean([features.mean(0) for features in strands], 0)
    return np.concatenate([mean, np.max([features.max(0) for features in strands], 0)])


def detected(network: Network, features: np.ndarray) -> np.ndarray:
    """Detectors of features (W, D) at each place, (W, detectors)."""
    weight, bias = (value.detach().numpy() for value in (network.hidden.weight, network.hidden.bias))
    half = weight.shape[2] // 2
    found = np.tile(bias, (len(features), 1))
    for place in range(len(features)):
        for offset in range(weight.shape[2]):
            if 0 <= place + offset - half < len(features):
                found[place] += weight[:, :, offset] @ features[place + offset - half]
    return np.maximum(found, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_loops_over_windows_and_positions(kind):
    network = random_network(kind)
    windows = random_windows()
    weight, bias = (value.detach().numpy() for value in (network.out.weight[0], network.out.bias[0]))
    expected = []
    for forward, reverse, codes in zip(*(part.numpy() for part in windows), strict=True):
        parts = [strongest_matches(network, codes)] if uses_sequence(kind) else []
        if uses_states(kind):
            pooled = pooled_by_loops(network, [forward, reverse])
            parts.append((pooled - network.centre.numpy()) / network.spread.numpy())
        expected.append(np.concatenate(parts) @ weight + bias)
    head = Head("E", kind, WIDTH, network, Calibration("platt"))
    found = head.logits(*windows).detach().numpy()
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_and_its_reverse_complement_have_the_same_logit(kind):
    head, windows = random_head(kind), random_windows(20)
    here, there = head.logits(*windows), head.logits(*turned(*windows))
    torch.testing.assert_close(here, there, atol=1e-5, rtol=1e-5)
    assert here.std() > 0.01


def test_a_head_of_bases_needs_no_features():
    head = random_head("sequence")
    windows = random_windows()
    assert not head.uses_states
    torch.testing.assert_close(head.logits(None, None, windows[2]), head.logits(*windows))


def test_a_head_of_states_does_not_see_bases():
    head = random_head("attention")
    forward, reverse, codes = random_windows()
    assert not head.uses_sequence
    torch.testing.assert_close(head.logits(forward, reverse, codes.flip(0)), head.logits(forward, reverse, codes))


def test_features_are_withheld_from_some_windows_in_training_alone():
    network = random_network("convolution-and-sequence")
    network.dropout.p = 0.0
    windows = [part.repeat(400, *[1] * (part.ndim - 1)) for part in random_windows(1)]
    assert len(network(*windows).unique()) == 1
    shares = network.train()(*windows).detach().unique(return_counts=True)[1] / 400
    assert len(shares) == 2
    assert 0.4 < float(shares.min()) <= 0.5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "calibration", [Calibration("platt", 2.0, 0.5), Calibration("isotonic", points=((-1.0, 0.1), (0.5, 0.75)))]
)
def test_a_saved_head_is_read_back(tmp_path, kind, calibration):
    head, windows = random_head(kind, calibration), random_windows()
    save_head(head, tmp_path / "a")
    save_head(head, tmp_path / "b")
    found = load_head(tmp_path / "a")
    assert torch.equal(found.logits(*windows), head.logits(*windows))
    names = (
        "element",
        "kind",
        "window",
        "model",
        "digest",
        "dtype",
        "context",
        "prevalence",
        "threshold",
        "finding",
        "version",
    )
    assert [getattr(found, name) for name in names] == [getattr(head, name) for name in names]
    assert found.calibration == calibration
    if head.projection is None:
        assert found.projection is None
    else:
        assert torch.equal(found.projection.matrix, head.projection.matrix)
        assert torch.equal(found.projection.mean, head.projection.mean)
    for name in ("head.safetensors", "head.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def change(folder, **values) -> None:
    file = folder / "head.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def change_weights(folder, edit) -> None:
    weights = load_file(folder / "head.safetensors")
    edit(weights)
    save_file(weights, folder / "head.safetensors")


PLATT = {"method": "platt", "slope": 1.0, "intercept": 0.0, "points": []}
DAMAGE = {
    "no description": (lambda at: (at / "head.json").unlink(), "head.json: no description of a head"),
    "no JSON": (lambda at: (at / "head.json").write_text("{"), "head.json: no description of a head"),
    "a list": (lambda at: (at / "head.json").write_text("[]"), "head.json: no description of a head"),
    "a kind of its own": (lambda at: change(at, kind="forest"), "kind is 'forest', known are sequence, "),
    "no window": (lambda at: change(at, window=0), "window is 0"),
    "no calibration": (lambda at: change(at, calibration=None), "no description of a head"),
    "another calibration": (lambda at: change(at, calibration={**PLATT, "method": "beta"}), "no calibration of method"),
    "no curve": (lambda at: change(at, calibration={**PLATT, "method": "isotonic"}), "no calibration of method"),
    "no number": (lambda at: change(at, calibration={**PLATT, "slope": float("nan")}), "NaN or infinity"),
    "no weights": (lambda at: (at / "head.safetensors").unlink(), "head.safetensors: no weights of a head"),
    "cut weights": (lambda at: (at / "head.safetensors").write_bytes(b"abc"), "no weights of a head"),
    "another head's weights": (lambda at: change(at, kind="attention"), "not the weights that head.json describes"),
    "a missing weight": (lambda at: change_weights(at, lambda w: w.pop("network.out.bias")), "Missing key"),
    "no projection": (lambda at: change_weights(at, lambda w: w.pop("projection.mean")), "projection.mean"),
    "a weight too many": (lambda at: change_weights(at, lambda w: w.update(x=torch.zeros(1))), "Unexpected key"),
    "NaN": (lambda at: change_weights(at, lambda w: w["network.out.bias"].fill_(float("nan"))), "NaN or infinity"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_head_is_refused_in_one_sentence(tmp_path, damage):
    save_head(random_head("convolution-and-sequence"), tmp_path)
    spoil, sentence = DAMAGE[damage]
    spoil(tmp_path)
    with pytest.raises(BadInput, match=sentence) as caught:
        load_head(tmp_path)
    assert "\n" not in str(caught.value)


def drawn(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of which p(1) is a logistic curve of 2 * logit - 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, count)
    return logits, (rng.random(count) < 1 / (1 + np.exp(1 - 2 * logits))).astype(int)


def test_platt_has_the_likeliest_logistic_curve():
    logits, labels = drawn(500)
    positives = labels.sum()
    wanted = np.where(labels == 1, (positives + 1) / (positives + 2), 1 / (500 - positives + 2))  # Platt's targets

    def loss(given):
        at = given[0] * logits + given[1]
        return (wanted * np.logaddexp(0, -at) + (1 - wanted) * np.logaddexp(0, at)).mean()

    slope, intercept = minimize(loss, [1.0, 0.0]).x
    found = fit_platt(logits, labels)
    assert (found.slope, found.intercept) == pytest.approx((slope, intercept), rel=1e-2)
    np.testing.assert_allclose(found(logits[:5]), 1 / (1 + np.exp(-(slope * logits[:5] + intercept))), atol=1e-3)


def test_platt_of_separable_logits_is_not_sure():
    found = fit_platt(np.arange(40.0), np.arange(40) // 20)
    assert 0.9 < found(np.array([39.0]))[0] < 0.99999


def test_platt_of_logits_that_are_worse_than_chance_is_flat():
    logits, labels = drawn(500)
    assert fit_platt(-logits, labels)(logits[:3]) == pytest.approx([labels.mean()] * 3)


def test_platt_of_far_logits_is_finite():
    assert Calibration("platt")(np.array([-1e6, 0.0, 1e6])).tolist() == [0.0, 0.5, 1.0]


def test_isotonic_rises_and_is_right_on_average():
    logits, labels = drawn(4000)
    found = fit_isotonic(logits, labels)
    assert all(one[0] < two[0] and one[1] < two[1] for one, two in pairwise(found.points))
    grid = np.linspace(-3, 4, 50)
    np.testing.assert_allclose(found(grid), 1 / (1 + np.exp(1 - 2 * grid)), atol=0.12)
    assert 0 < found(np.array([-100.0]))[0] < 0.01
    assert 0.99 < found(np.array([100.0]))[0] < 1


@pytest.mark.parametrize(
    "calibration",
    [Calibration("platt", 1.7, -0.4), Calibration("isotonic", points=((-2.0, 0.05), (0.0, 0.3), (3.0, 0.9)))],
)
@pytest.mark.parametrize("prevalence", [0.02, 0.5, 0.9])
def test_probabilities_at_another_prevalence_follow_bayes_rule(calibration, prevalence):
    logits = np.array([-2.0, 0.0, 3.0])
    before = calibration(logits)
    likelihood_ratio = before / (1 - before) / (0.25 / 0.75)
    odds = likelihood_ratio * prevalence / (1 - prevalence)
    np.testing.assert_allclose(calibration.moved(0.25, prevalence)(logits), odds / (1 + odds), rtol=1e-9)


def test_a_head_at_another_prevalence_is_the_same_but_for_its_probabilities():
    head = random_head("sequence", Calibration("platt", 1.0, 0.0))
    rarer = head.at(0.01)
    assert head.at(None) is head and rarer.network is head.network and rarer.prevalence == 0.01
    assert rarer.probability(np.zeros(1))[0] == pytest.approx(0.01)
    assert head.probability(np.zeros(1))[0] == 0.5


@pytest.mark.parametrize(
    "calibration",
    [
        {"method": "isotonic", "slope": 1, "intercept": 0, "points": [[0, 0.2], [1, 1.0]]},
        {"method": "isotonic", "slope": 1, "intercept": 0, "points": [[0, -3], [1, 7]]},
        {"method": "isotonic", "slope": 1, "intercept": 0, "points": [[0, 0.8], [1, 0.2]]},
        {"method": "platt", "slope": -1, "intercept": 0, "points": []},
    ],
)
def test_a_calibration_that_is_no_rising_curve_of_probabilities_is_refused(tmp_path, calibration):
    save_head(random_head("sequence"), tmp_path)
    file = tmp_path / "head.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"calibration": calibration}))
    with pytest.raises(BadInput, match="no rising curve of probabilities"):
        load_head(tmp_path)


@pytest.mark.parametrize("text", ['{"window": Infinity}', "[" * 100_000])
def test_a_description_that_json_cannot_hold_is_refused(tmp_path, text):
    save_head(random_head("sequence"), tmp_path)
    file = tmp_path / "head.json"
    given = json.loads(file.read_text())
    file.write_text(text if text.startswith("[") else json.dumps(given | {"window": float("inf")}))
    with pytest.raises(BadInput, match="no description of a head"):
        load_head(tmp_path)
