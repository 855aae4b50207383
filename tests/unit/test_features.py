"""Features against the network's own states, one text and one base at a time, and against numpy's eigenvectors."""

from __future__ import annotations

import json
import random
from functools import cache

import numpy as np
import pysam
import pytest
import torch
from random_models import write_checkpoint

from seqprior.adapters import load_adapter
from seqprior.batching import Batcher
from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM
from seqprior.errors import BadInput
from seqprior.features import Projection, Reader, context_of, fit_projection, random_windows
from seqprior.models import ModelFacts
from seqprior.plans import Reading
from seqprior.sequence import encode, reverse_complement
from seqprior.vectors import Embedder

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
WINDOW = 60
KINDS = ("bidirectional", "bert-base", "dnabert-3", "nt-v1", "dnabert-2", "generator")
CONFIG = BidirectionalConfig(width=8, kernel=3, dilations=(1, 2), head=8)
REACH = 7


def write_bidirectional(folder) -> ModelFacts:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = BidirectionalConvLM(CONFIG)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"network": CONFIG.to_dict()}))
    words = dict.fromkeys(("name", "species", "licence", "citation", "description", "limits"), "x")
    shape = {"window": 2 * REACH + 1, "embedding_window": 5, "parameters": 1}
    family = {"family": "bidirectional-conv", "objective": "bidirectional", "tokenisation": "single-base"}
    return ModelFacts(id="small", path=folder, **family, **shape, **words)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")

    @cache
    def load(name: str):
        make = write_bidirectional if name == "bidirectional" else lambda at: write_checkpoint(name, at, window=WINDOW)
        return load_adapter(make(folder / name), CPU, "float32", Reading())

    return load


def texts_of(count: int, length: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("ACGT", k=length)) for _ in range(count)]


def reader(adapter, projection: Projection | None = None) -> Reader:
    return Reader(adapter, Batcher(CPU, 512), projection)


@pytest.mark.parametrize("name", KINDS)
def test_each_base_has_the_state_of_its_token_on_either_strand(adapters, name):
    adapter = adapters(name)
    for text in texts_of(3, 48):
        ((forward, reverse),) = reader(adapter).read([text], [(5, 40)])
        other = reverse_complement(text)
        first, second = (adapter.states(Batcher(CPU, 512), [strand])[0] for strand in (text, other))
        for row, base in enumerate(range(5, 40)):
            mirrored = len(text) - 1 - base
            there = first[adapter.token_of_base(text)[base]]
            back = second[adapter.token_of_base(other)[mirrored]]
            torch.testing.assert_close(forward[row], there, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(reverse[row], back, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_the_reverse_complement_has_the_readings_exchanged_and_turned_round(adapters, name):
    texts = texts_of(4, 54, seed=1)
    found = reader(adapters(name)).read(texts, [(3, 50)] * 4)
    turned = reader(adapters(name)).read([reverse_complement(text) for text in texts], [(4, 51)] * 4)
    for (forward, reverse), (other_forward, other_reverse) in zip(found, turned, strict=True):
        torch.testing.assert_close(other_forward, reverse.flip(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(other_reverse, forward.flip(0), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(forward, reverse, atol=1e-2)


def test_the_bidirectional_network_reads_its_left_and_right_states(adapters):
    adapter = adapters("bidirectional")
    text = texts_of(1, 50)[0]
    with torch.inference_mode():
        left, right = adapter.network.states(torch.from_numpy(encode(text).astype(np.int64))[None])
    ((forward, reverse),) = reader(adapter).read([text], [(10, 30)])
    torch.testing.assert_close(forward, torch.cat([left, right], -1)[0, 10:30])
    torch.testing.assert_close(reverse, torch.cat([right, left], -1)[0, 10:30])


def test_bases_within_reach_are_all_that_the_bidirectional_network_needs(adapters):
    text = texts_of(1, 9000)[0]  # longer than one tile
    whole = reader(adapters("bidirectional")).read([text], [(4000, 4300)])[0]
    context = context_of(adapters("bidirectional").scheme.facts, 300)
    cut = reader(adapters("bidirectional")).read([text[4000 - context : 4300 + context]], [(context, context + 300)])[0]
    assert context == REACH
    for one, two in zip(whole, cut, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", KINDS[1:])
def test_a_text_longer_than_the_window_is_read_piece_by_piece(adapters, name):
    text = texts_of(1, 200, seed=2)[0]
    found = reader(adapters(name)).read([text, text], [(0, 200), (70, 130)])
    for whole, part in zip(*found, strict=True):
        assert len(whole) == 200
        assert torch.isfinite(whole).all()
        torch.testing.assert_close(whole[70:130], part, atol=1e-5, rtol=1e-4)
    pieces = Embedder(adapters(name), Batcher(CPU, 512)).pieces(text)
    assert len(pieces) > 3
    for start, piece in pieces:
        alone = reader(adapters(name)).read([piece.text], [(piece.first, piece.last)])[0]
        for whole, part in zip(found[0], alone, strict=True):
            torch.testing.assert_close(whole[start + piece.first : start + piece.last], part, atol=1e-5, rtol=1e-4)


def test_the_order_and_the_company_of_texts_do_not_matter(adapters):
    texts = [*texts_of(40, 50, seed=3), *texts_of(3, 31, seed=4)]
    own = [(number % 5, 20 + number % 7) for number in range(43)]
    together = reader(adapters("nt-v1")).read(texts, own)
    for text, span, (forward, reverse) in zip(texts, own, together, strict=True):
        ((alone, other),) = reader(adapters("nt-v1")).read([text], [span])
        torch.testing.assert_close(forward, alone, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(reverse, other, atol=1e-5, rtol=1e-4)


def test_a_text_without_a_token_is_refused(adapters):
    with pytest.raises(BadInput, match="a text of 2 bases holds no token"):
        reader(adapters("dnabert-3")).read(["AC"], [(0, 2)])


@pytest.mark.parametrize("name", ["bidirectional", "nt-v1"])
def test_the_projection_is_that_of_the_covariance_of_both_readings(adapters, name):
    texts = texts_of(12, 48, seed=5)
    states = [each for pair in reader(adapters(name)).read(texts, [(0, 48)] * 12) for each in pair]
    rows = torch.cat(states).double().numpy()
    values, vectors = np.linalg.eigh(np.cov(rows.T, bias=True))
    found = fit_projection(reader(adapters(name)), texts, components=6)
    features = found(torch.from_numpy(rows).float()).numpy()
    assert found.matrix.shape == (rows.shape[1], 6)
    np.testing.assert_allclose(np.cov(features.T, bias=True), np.eye(6), atol=1e-3)
    for column, (value, vector) in enumerate(zip(values[::-1][:6], vectors.T[::-1][:6], strict=True)):
        expected = (rows - rows.mean(0)) @ vector / np.sqrt(value)
        assert abs(np.corrcoef(expected, features[:, column])[0, 1]) > 0.999
    projected = reader(adapters(name), found).read(texts[:1], [(4, 20)])[0][1]
    torch.testing.assert_close(projected, found(states[1][4:20]), atol=1e-4, rtol=1e-3)


def test_a_projection_has_no_more_components_than_the_states_have_dimensions(adapters):
    found = fit_projection(reader(adapters("bidirectional")), texts_of(12, 48), components=500)
    assert found.matrix.shape[1] <= 2 * CONFIG.width
    assert torch.isfinite(found.matrix).all()


def test_context_is_the_reach_or_what_the_window_leaves(adapters):
    facts = adapters("nt-v1").scheme.facts
    assert context_of(facts, 20) == (WINDOW - 20) // 2
    assert context_of(facts, 100) == 0


def test_random_windows_are_the_same_for_a_seed_and_hold_few_unknown_bases(tmp_path):
    fasta = tmp_path / "a.fa"
    one, two = texts_of(2, 3000, seed=6)
    fasta.write_text(f">a\n{one}{'N' * 3000}\n>b\n{two.lower()}\n>c\nACGTTGCA\n")
    pysam.faidx(str(fasta))
    found = random_windows(fasta, 30, 100, seed=1)
    assert found == random_windows(fasta, 30, 100, seed=1) != random_windows(fasta, 30, 100, seed=2)
    assert len(found) == 30
    assert all(text.count("N") <= 10 for text in found)
    assert sum(text in one + two for text in found) > 20
    assert any(text in two for text in found)
    assert any(text in one for text in found)


def test_a_reference_of_unknown_bases_is_refused(tmp_path):
    fasta = tmp_path / "a.fa"
    fasta.write_text(f">a\n{'N' * 500}\n")
    pysam.faidx(str(fasta))
    with pytest.raises(BadInput, match="known bases in a row"):
        random_windows(fasta, 3, 100, seed=1)
