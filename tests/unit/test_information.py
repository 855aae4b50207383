"""log p of every position against the scoring of variants, allele by allele."""

from __future__ import annotations

import random
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from random_models import write_checkpoint
from scipy.special import log_softmax
from scipy.stats import entropy

from seqprior import information
from seqprior.adapters import BidirectionalAdapter, load_adapter
from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM
from seqprior.embedding import Scorer
from seqprior.information import MarginalReader, Stretch, information_tracks
from seqprior.models import ModelFacts
from seqprior.plans import Reading, read_scheme
from seqprior.shards import ALLELE_COLUMNS
from seqprior.store import ScoreStore
from seqprior.windows import Windows

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
CONTIG = "".join(random.Random(4).choices("ACGT", k=65)) + "N" + "".join(random.Random(5).choices("ACGT", k=35))
KINDS = ("bert-base", "dnabert-3", "nt-v1", "dnabert-2", "neox-base", "generator", "mistral-dna")
READINGS = {"exact": Reading(), "fast": Reading(one_pass_marginals=True)}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return cache(lambda name: write_checkpoint(name, folder / name, window=36))


def network_adapter(arithmetic: str = "float32") -> BidirectionalAdapter:
    torch.manual_seed(0)
    network = BidirectionalConvLM(BidirectionalConfig(width=8, kernel=3, dilations=(1, 2, 4), head=8))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    words = dict.fromkeys(("name", "species", "licence", "citation", "description", "limits"), "x")
    facts = ModelFacts(
        id="small",
        family="bidirectional-conv",
        objective="bidirectional",
        tokenisation="single-base",
        parameters=1,
        window=2 * network.config.reach + 1,
        embedding_window=5,
        **words,
    )
    return BidirectionalAdapter(network, read_scheme(facts, Reading()), CPU, arithmetic)


def reader_of(adapter, store: ScoreStore | None = None) -> MarginalReader:
    return MarginalReader(adapter.scheme, lambda: adapter, 4096, store)


def variant_scores(adapter, contig: str, first: int, last: int) -> np.ndarray:
    """llr of every SNV as variants are scored: (last - first, 2, 4), 0 for the reference, NaN if not evaluable."""
    facts, reading = adapter.scheme.facts, adapter.scheme.reading
    part = Windows(facts, 1.0, reading.one_pass_marginals)
    for at in range(first, last):
        for alt in "ACGT".replace(contig[at], ""):
            if contig[at] != "N":
                part.add("c", contig, (f"c-{at}-{alt}", "c", at + 1, contig[at], alt))
    part.flush()
    frame = pd.DataFrame(part.alleles, columns=list(ALLELE_COLUMNS))
    scores = Scorer(adapter.scheme, lambda: adapter, 4096).score(frame, part.sequences)
    llr = np.full((last - first, 2, 4), np.nan)
    for row in scores.itertuples():
        llr[row.pos - 1 - first, :, "ACGT".index(row.alt)] = row.llr_fwd, row.llr_rev
        llr[row.pos - 1 - first, :, "ACGT".index(row.ref)] = 0.0
    return llr


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("name", KINDS)
def test_llr_of_every_substitution_is_that_of_variant_scoring(name, reading, checkpoints):
    facts = checkpoints(name)
    adapter = load_adapter(facts, CPU, "float32", READINGS[reading])
    # Both ends of the contig, a stretch across the unknown base, and one of no position.
    stretches = [Stretch(CONTIG, 0, 9), Stretch(CONTIG, 50, 71), Stretch(CONTIG, 90, 101), Stretch(CONTIG, 20, 20)]
    found = list(reader_of(adapter).marginals(lambda: stretches))
    answered = 0
    for stretch, logs in zip(stretches, found, strict=True):
        wanted = variant_scores(adapter, CONTIG, stretch.first, stretch.last)
        assert logs.shape == wanted.shape
        assert logs.dtype == np.float32
        answerable = ~np.isnan(wanted).any((1, 2))
        assert np.array_equal(~np.isnan(logs).any((1, 2)), answerable)
        np.testing.assert_allclose(logs[answerable], log_softmax(wanted[answerable], -1), atol=1e-4)
        answered += answerable.sum()
    assert answered > (5 if "dnabert-2" in name and reading == "fast" else 15)


def test_groups_of_sites_do_not_change_the_answer(checkpoints, monkeypatch):
    adapter = load_adapter(checkpoints("nt-v1"), CPU, "float32", READINGS["fast"])
    (whole,) = reader_of(adapter).marginals(lambda: [Stretch(CONTIG, 5, 60)])
    monkeypatch.setattr(information, "GROUP_BASES", 7 * 36)
    (cut,) = reader_of(adapter).marginals(lambda: [Stretch(CONTIG, 5, 60)])
    np.testing.assert_allclose(cut, whole, atol=1e-5)


@pytest.mark.parametrize("arithmetic", ["float32", "bfloat16"])
def test_network_gives_every_position_what_its_own_window_gives(arithmetic, monkeypatch):
    adapter = network_adapter(arithmetic)
    monkeypatch.setattr(information, "TILE", 16)  # stretches of several tiles, and several stretches in a batch
    stretches = [Stretch(CONTIG, 0, 101), Stretch(CONTIG, 60, 64), Stretch(CONTIG, 3, 8), Stretch(CONTIG, 7, 7)]
    found = list(reader_of(adapter).marginals(lambda: stretches))
    assert [len(logs) for logs in found] == [101, 4, 5, 0]
    wanted = log_softmax(variant_scores(adapter, CONTIG, 0, 101), -1)
    assert np.isnan(wanted[65]).all()
    for stretch, logs in zip(stretches, found, strict=True):
        expected = wanted[stretch.first : stretch.last]
        np.testing.assert_allclose(logs, expected, atol=1e-4 if arithmetic == "float32" else 0.05)


def test_reverse_strand_is_the_forward_strand_of_the_reverse_complement():
    reader = reader_of(network_adapter())
    text = CONTIG[:60]
    turned = text[::-1].translate(str.maketrans("ACGT", "TGCA"))
    one, two = reader.marginals(lambda: [Stretch(text, 0, 60), Stretch(turned, 0, 60)])
    np.testing.assert_allclose(one[:, 0], two[::-1, 1, ::-1], atol=1e-5)
    np.testing.assert_allclose(one[:, 1], two[::-1, 0, ::-1], atol=1e-5)
    assert np.abs(one[:, 0] - one[:, 1]).max() > 0.01


def test_answers_are_kept_and_shared_with_variant_scoring(checkpoints, tmp_path):
    facts = checkpoints("bert-base")
    adapter = load_adapter(facts, CPU, "float32", Reading())
    store = ScoreStore(tmp_path, "ab" * 32, "float32")
    part = Windows(facts, 1.0)
    for at in (30, 31):
        part.add("c", CONTIG, (f"c-{at}", "c", at + 1, CONTIG[at], "ACGT".replace(CONTIG[at], "")[0]))
    part.flush()
    frame = pd.DataFrame(part.alleles, columns=list(ALLELE_COLUMNS))
    Scorer(adapter.scheme, lambda: adapter, 4096, store=store).score(frame, part.sequences)
    first = reader_of(adapter, ScoreStore(tmp_path, "ab" * 32, "float32"))
    (computed,) = first.marginals(lambda: [Stretch(CONTIG, 28, 40)])
    assert first.counts == {"requests": 12, "from_store": 2}
    second = reader_of(adapter, ScoreStore(tmp_path, "ab" * 32, "float32"))
    (kept,) = second.marginals(lambda: [Stretch(CONTIG, 28, 40)])
    assert second.counts == {"requests": 12, "from_store": 12}
    assert np.array_equal(computed, kept)


def test_entropy_is_that_of_scipy_in_bits():
    logits = np.random.default_rng(0).normal(0, 3, (50, 2, 4))
    logs = log_softmax(logits, -1)
    logs[7] = np.nan
    tracks = information_tracks(logs)
    means = np.exp(log_softmax(logs.mean(1), -1))
    np.testing.assert_allclose(tracks["entropy"], entropy(means, base=2, axis=1), atol=1e-6)
    np.testing.assert_allclose(tracks["information"], 2 - entropy(means, base=2, axis=1), atol=1e-6)
    for strand, name in enumerate(("information_forward", "information_reverse")):
        np.testing.assert_allclose(tracks[name], 2 - entropy(np.exp(logs[:, strand]), base=2, axis=1), atol=1e-6)
    assert all(np.isnan(track).tolist() == [row == 7 for row in range(50)] for track in tracks.values())


def test_information_is_zero_for_equal_bases_and_two_bits_for_a_certain_one():
    certain = np.array([0.0, -np.inf, -np.inf, -np.inf])
    tracks = information_tracks(np.stack([np.zeros((2, 4)), np.tile(certain, (2, 1))]))
    assert all(np.allclose(tracks[name], [0, 2]) for name in tracks if name != "entropy")
    assert min(track.min() for track in tracks.values()) >= 0
