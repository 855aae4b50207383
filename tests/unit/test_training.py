"""Training on a genome of a few hundred bases with a network of a few hundred weights."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from seqprior import training
from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM
from seqprior.errors import BadInput
from seqprior.training import CropSampler, TrainingSettings, bits_per_base, learning_rate_factor, train

SETTINGS = TrainingSettings(
    test=("test",),
    validation=("held",),
    epochs=8.0,
    crop_length=64,
    crops_per_step=4,
    warmup_steps=3,
    processes=1,
    checkpoint_every=10,
    network={"width": 16, "kernel": 3, "dilations": [1, 2], "head": 16},
)


def regular(seed: int, length: int) -> np.ndarray:
    """A sequence in which each base is the next or the next but one of A, C, G, T in turn: 1 bit a base, no repeats."""
    return (np.random.default_rng(seed).integers(1, 3, length).cumsum() % 4).astype(np.uint8)


@pytest.fixture
def genome() -> dict[str, np.ndarray]:
    return {"one": regular(1, 700), "two": regular(2, 500), "held": regular(3, 200), "test": regular(4, 200)}


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """One process or two, as the settings say, on machines with a GPU as well."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def history(folder) -> list[dict[str, float]]:
    with (folder / training.HISTORY_FILE).open() as handle:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(handle, delimiter="\t")]


@pytest.mark.parametrize("processes", [1, 2])
def test_the_loss_falls(genome, tmp_path, processes):
    train(genome, replace(SETTINGS, processes=processes), tmp_path)
    rows = history(tmp_path)
    assert rows[-1]["step"] == round(8 * 1200 / (4 * 64))
    assert rows[-1]["train_bits"] < rows[0]["train_bits"] < 2.1
    assert rows[-1]["validation_bits"] < 1.5  # a model that knows nothing has 2


def test_the_saved_model_is_the_one_that_was_validated(genome, tmp_path):
    train(genome, SETTINGS, tmp_path)
    recipe = json.loads((tmp_path / training.CONFIG_FILE).read_text())
    network = BidirectionalConvLM(BidirectionalConfig.from_dict(recipe["network"]))
    network.load_state_dict(load_file(tmp_path / training.WEIGHTS_FILE))
    masks = training.repeat_masks(genome)
    bits = bits_per_base(network, genome["held"], ~masks["held"])
    assert bits == pytest.approx(history(tmp_path)[-1]["validation_bits"], abs=1e-4)
    assert TrainingSettings.from_dict(recipe["training"]) == SETTINGS


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(genome, tmp_path, monkeypatch):
    train(genome, SETTINGS, tmp_path / "whole")
    validate = training.bits_per_base
    calls = []

    def stopped(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return validate(*arguments)

    monkeypatch.setattr(training, "bits_per_base", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(genome, SETTINGS, tmp_path / "stopped")
    assert not (tmp_path / "stopped" / training.WEIGHTS_FILE).exists()
    monkeypatch.setattr(training, "bits_per_base", validate)
    first_steps = []
    batch = CropSampler.batch
    monkeypatch.setattr(CropSampler, "batch", lambda self, step, at: first_steps.append(step) or batch(self, step, at))
    train(genome, SETTINGS, tmp_path / "stopped")

    assert first_steps[0] == 20
    whole, resumed = (load_file(tmp_path / name / training.WEIGHTS_FILE) for name in ("whole", "stopped"))
    assert whole.keys() == resumed.keys()
    for name, weights in whole.items():
        assert torch.allclose(weights, resumed[name], atol=1e-5), name
    assert [row["step"] for row in history(tmp_path / "stopped")] == [10, 20, 30, 38]


@pytest.mark.parametrize("change", [{"seed": 2}, {"epochs": 4.0}])
def test_a_checkpoint_of_another_recipe_is_not_continued(genome, tmp_path, change):
    train(genome, SETTINGS, tmp_path / "used")
    other = replace(SETTINGS, **change)
    train(genome, other, tmp_path / "used")
    train(genome, other, tmp_path / "fresh")
    used, fresh = (load_file(tmp_path / name / training.WEIGHTS_FILE) for name in ("used", "fresh"))
    for name, weights in fresh.items():
        assert torch.allclose(weights, used[name], atol=1e-5), name


def sampler(genome: dict[str, np.ndarray], length: int = 64) -> CropSampler:
    weights = {name: np.linspace(0, 1, len(codes), dtype=np.float32) for name, codes in genome.items()}
    return CropSampler(genome, weights, length, seed=1)


def test_two_processes_see_the_crops_of_one(genome):
    for step in range(5):
        whole = sampler(genome).batch(step, range(4))
        shares = [sampler(genome).batch(step, indices) for indices in (range(2), range(2, 4))]
        for together, parts in zip(whole, zip(*shares, strict=True), strict=True):
            assert torch.equal(together, torch.cat(parts))


def test_steps_see_different_crops(genome):
    codes = [sampler(genome).batch(step, range(4))[0] for step in range(5)]
    assert not any(torch.equal(codes[0], other) for other in codes[1:])


def test_every_crop_is_drawn_equally_often():
    genome = {
        "short": np.zeros(2, np.uint8),
        "a": np.arange(4, dtype=np.uint8),
        "b": np.array([3, 2, 1, 0, 3], np.uint8),
    }
    drawn = sampler(genome, length=3)
    crops = [drawn.crop(step, 0)[0].tobytes() for step in range(3000)]
    expected = {bytes(crop) for crop in ([0, 1, 2], [1, 2, 3], [3, 2, 1], [2, 1, 0], [1, 0, 3])}
    assert set(crops) == expected
    assert all(500 < crops.count(crop) < 700 for crop in expected)


def test_a_crop_carries_the_weights_of_its_positions(genome):
    codes, weights = sampler({"one": genome["one"]}).crop(3, 2)
    start = round(float(weights[0]) * (len(genome["one"]) - 1))
    assert np.array_equal(codes, genome["one"][start : start + 64])
    assert np.allclose(weights, np.linspace(0, 1, len(genome["one"]))[start : start + 64])


@pytest.fixture
def sampled(monkeypatch) -> dict[str, np.ndarray]:
    """Loss weights by contig, as the sampler of a training gets them."""
    seen = {}
    keep = CropSampler.__init__

    def watched(self, contigs, weights, *rest):
        assert set(contigs) == set(weights)
        seen.update(weights)
        keep(self, contigs, weights, *rest)

    monkeypatch.setattr(CropSampler, "__init__", watched)
    return seen


def test_held_out_contigs_are_never_cropped(genome, tmp_path, sampled):
    train(genome | {"out": regular(5, 300)}, replace(SETTINGS, epochs=0.5, exclude=("out",)), tmp_path)
    assert set(sampled) == {"one", "two"}


def test_repeated_positions_weigh_less(genome, tmp_path, sampled):
    draw = np.random.default_rng(9)
    unique = draw.integers(0, 4, 300).astype(np.uint8)
    contigs = {"one": np.concatenate([unique, unique[:50]]), "held": genome["held"], "test": genome["test"]}
    train(contigs, replace(SETTINGS, epochs=0.5, repeat_weight=0.25), tmp_path)
    expected = np.repeat([0.25, 1.0, 0.25], [50, 250, 50])
    assert np.allclose(sampled["one"], expected)


def test_the_learning_rate_warms_up_stays_and_falls_to_zero():
    settings = replace(SETTINGS, warmup_steps=10, decay_share=0.4)
    factors = [learning_rate_factor(step, 100, settings) for step in range(101)]
    assert factors[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert factors[10:61] == [1.0] * 51
    assert factors[60:] == pytest.approx(np.linspace(1, 0, 41))


def test_bits_per_base_does_not_depend_on_tiles(genome):
    torch.manual_seed(0)
    network = BidirectionalConvLM(BidirectionalConfig(width=8, kernel=3, dilations=(1, 2), head=8)).eval()
    torch.nn.init.normal_(network.readout)
    counted = np.arange(700) % 3 > 0
    whole = bits_per_base(network, genome["one"], counted, tile=1000)
    assert bits_per_base(network, genome["one"], counted, tile=37) == pytest.approx(whole, abs=1e-5)
    codes = torch.from_numpy(genome["one"].astype(np.int64))
    joint = (sum(network(codes[None])) / 2).softmax(-1)[0]
    bits = [-np.log2(joint[at, codes[at]].item()) for at in np.flatnonzero(counted)]
    assert whole == pytest.approx(np.mean(bits), abs=1e-5)


@pytest.mark.parametrize("role", ["test", "validation"])
def test_a_held_out_contig_that_is_not_there_is_named(genome, tmp_path, role):
    with pytest.raises(BadInput, match=r"no contig chrZ to hold out; it has one, two, held, test; see train\.test"):
        train(genome, replace(SETTINGS, **{role: ("chrZ",)}), tmp_path)


def test_crops_that_cannot_be_shared_out_are_refused(genome, tmp_path):
    with pytest.raises(BadInput, match=r"crops_per_step is 4, which 3 processes .* a multiple of train\.processes"):
        train(genome, replace(SETTINGS, processes=3), tmp_path)


def test_crops_longer_than_every_contig_are_refused(genome, tmp_path):
    with pytest.raises(BadInput, match=r"as long as a crop of 5000 bases; lower train\.crop_length"):
        train(genome, replace(SETTINGS, crop_length=5000), tmp_path)
