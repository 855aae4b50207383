"""Scores of alleles, from windows to the table, against one allele at a time on the whole sequence."""

from __future__ import annotations

import logging
import math
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import random_models
import torch
import yaml
from random_models import KINDS, Kind, Shape, write_checkpoint

from seqprior import embedding, work
from seqprior.adapters import Adapter, BidirectionalAdapter, TokenAdapter, load_adapter
from seqprior.batching import Batcher
from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM
from seqprior.columns import SCORES
from seqprior.embedding import Scorer, distance, entropy, score_shard
from seqprior.errors import BadInput, OutOfMemory
from seqprior.models import ModelFacts
from seqprior.plans import Reading, Request, read_scheme
from seqprior.sequence import BASES, encode
from seqprior.shards import ALLELE_COLUMNS
from seqprior.store import ScoreStore
from seqprior.variants import left_align
from seqprior.windows import Windows
from seqprior.work import distance_request

REACH, WINDOW = 15, 31
NUMBERS = [name for name in SCORES if name.startswith(("llr", "entropy", "embedding", "strand"))]
EMBEDDED = ["embedding_l2", "embedding_cosine"]
CPU = torch.device("cpu")
EXACT, ONE_PASS = Reading(exact_likelihoods=True), Reading(one_pass_marginals=True)

# One of each way of cutting and asking; the window of k-mers has room for left-over bases and an odd number of tokens.
WINDOWS = {
    "bidirectional": 31,
    "esm-base": 31,
    "dnabert-3": 31,
    "dnabert-2": 31,
    "nt-v1": 66,
    "neox-base": 31,
    "generator": 66,
    "mistral-dna": 41,
}
NAMES = tuple(WINDOWS)
FRAMED = ("nt-v1", "generator")  # whose tokens have a frame

pytestmark = pytest.mark.usefixtures("one_thread")


def bidirectional_facts(window: int = WINDOW) -> ModelFacts:
    text = dict.fromkeys(("name", "species", "licence", "citation", "description", "limits"), "x")
    return ModelFacts(
        id="small",
        family="bidirectional-conv",
        objective="bidirectional",
        tokenisation="single-base",
        window=window,
        embedding_window=11,
        parameters=1,
        **text,
    )


def bidirectional(arithmetic: str = "float32", kind: type[BidirectionalAdapter] = BidirectionalAdapter):
    torch.manual_seed(0)
    network = BidirectionalConvLM(BidirectionalConfig(width=8, kernel=3, dilations=(1, 2, 4), head=8))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return kind(network, read_scheme(bidirectional_facts(), Reading()), CPU, arithmetic)


@pytest.fixture(scope="module")
def facts_of(tmp_path_factory) -> Callable[[str], ModelFacts]:
    folder = tmp_path_factory.mktemp("checkpoints")

    def made(name: str) -> ModelFacts:
        if name == "bidirectional":
            return bidirectional_facts()
        return write_checkpoint(name, folder / name, window=WINDOWS[name])

    return cache(made)


@pytest.fixture(scope="module")
def model(facts_of) -> Callable[..., Adapter]:
    """A loaded random model by name and reading."""

    def loaded(name: str, reading: Reading = Reading(), arithmetic: str = "float32") -> Adapter:  # noqa: B008 - frozen
        if name == "bidirectional":
            return bidirectional(arithmetic)
        return load_adapter(facts_of(name), CPU, arithmetic, reading)

    return cache(loaded)


def random_bases(length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(BASES, k=length))


def reverse_complement(sequence: str) -> str:
    return sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))


def cut(genome: dict[str, str], alleles: list[tuple], facts: ModelFacts, one_pass: bool = False):
    """Table and windows of alleles (contig, 0-based start, ref, alt)."""
    part = Windows(facts, 1.0, one_pass)
    for contig, start, ref, alt in alleles:
        assert genome[contig][start : start + len(ref)] == ref
        part.add(contig, genome[contig], (f"{contig}-{start + 1}-{ref}-{alt}", contig, start + 1, ref, alt))
    part.flush()
    return pd.DataFrame(part.alleles, columns=list(ALLELE_COLUMNS)), part.sequences


def scores(adapter: Adapter, table, windows, budget: int = 4096, embedding_window: int | None = 11) -> pd.DataFrame:
    return Scorer(adapter.scheme, lambda: adapter, budget, embedding_window).score(table, windows)


def some(adapter: Adapter, every: int = 20, step: int = 3):
    """Table and windows of all kinds of alleles of the genome, as this model wants them."""
    return cut(GENOME, ordered(substitutions(GENOME, every) + changes(GENOME)[::step]), adapter.scheme.facts)


GENOME = {
    "one": random_bases(90, 1) + "N" * 9 + random_bases(165, 2),
    "two": random_bases(60, 3),
}
assert all(len(sequence) % 6 == 0 for sequence in GENOME.values())  # both strands in one frame


def ordered(alleles: list[tuple]) -> list[tuple]:
    return sorted(set(alleles), key=lambda item: (list(GENOME).index(item[0]), *item[1:]))


def substitutions(genome: dict[str, str], every: int = 7) -> list[tuple]:
    """Sites at both ends, along unknown bases and in between, three alleles at some."""
    found = []
    for contig, sequence in genome.items():
        for start in sorted({0, 1, len(sequence) - 2, len(sequence) - 1, *range(0, len(sequence), every)}):
            ref = sequence[start]
            if ref != "N":
                alts = BASES.replace(ref, "") if start % 2 else BASES.replace(ref, "")[start % 3]
                found += [(contig, start, ref, alt) for alt in alts]
    return found


def changes(genome: dict[str, str]) -> list[tuple]:
    """Insertions, deletions and multiple substitutions, normalised, at ends and in between."""
    found = []
    for contig, sequence in genome.items():
        for start in sorted({1, 30, 45, len(sequence) - 12, len(sequence) - 5}):
            found += [
                (contig, *left_align(sequence, start, sequence[start], sequence[start] + "CAT")),
                (contig, *left_align(sequence, start, sequence[start : start + 3], sequence[start])),
                (contig, start, sequence[start : start + 2], reverse_complement(sequence[start : start + 2][::-1])),
            ]
    return ordered(found)


def own_window(sequence: str, start: int, reach: int = REACH) -> str:
    framed = "N" * reach + sequence + "N" * reach
    return framed[start : start + 2 * reach + 1]


def numbers_of(adapter: TokenAdapter) -> dict[str, int]:
    lines = (adapter.scheme.facts.path / "vocab.txt").read_text().splitlines()
    return {token: number for number, token in enumerate(lines)}


@torch.no_grad()
def base_logits(adapter: TokenAdapter, text: str, at: int, *, masked: bool, letters: str = BASES) -> np.ndarray:
    """log p over `letters` at one base, from one unpadded row through transformers' own model with its whole head."""
    number = numbers_of(adapter)
    ids = [number["<cls>"], *(number[base] for base in text)]
    if masked:
        ids[at + 1] = number["<mask>"]
    logits = adapter.network.model(input_ids=torch.tensor([ids])).logits[0, at + 1].double()
    return logits[[number[base] for base in letters]].log_softmax(-1).numpy()


@torch.no_grad()
def log_probabilities(adapter, window: str, at: int) -> np.ndarray:
    """(2, 4) at one position of one window, by the network's own forward pass."""
    if isinstance(adapter, BidirectionalAdapter):
        codes = torch.from_numpy(encode(window).astype(np.int64))[None]
        return np.stack([logits[0, at].double().log_softmax(-1).numpy() for logits in adapter.network(codes)])
    forward = base_logits(adapter, window, at, masked=True)
    reverse = base_logits(adapter, reverse_complement(window), len(window) - 1 - at, masked=True, letters="TGCA")
    return np.stack([forward, reverse])


@pytest.mark.parametrize("name", ["bidirectional", "esm-base"])
def test_substitutions_score_as_one_window_and_one_allele_at_a_time(model, name):
    adapter, alleles = model(name), substitutions(GENOME, every=7 if name == "bidirectional" else 40)
    found = scores(adapter, *cut(GENOME, alleles, adapter.scheme.facts))
    assert len(found) == len(alleles) > 15
    for row, (contig, start, ref, alt) in zip(found.itertuples(), alleles, strict=True):
        window = own_window(GENOME[contig], start)
        logs = []
        for allele in (ref, alt):  # the window of each allele: its own base must not matter
            carrying = window[:REACH] + allele + window[REACH + 1 :]
            logs.append(log_probabilities(adapter, carrying, REACH))
        np.testing.assert_allclose(logs[0], logs[1], atol=1e-6)
        forward, reverse = (logs[1][s, BASES.index(alt)] - logs[0][s, BASES.index(ref)] for s in (0, 1))
        assert row.llr_fwd == pytest.approx(forward, abs=1e-4)
        assert row.llr_rev == pytest.approx(reverse, abs=1e-4)
        assert row.llr == pytest.approx((forward + reverse) / 2, abs=1e-4)
        assert row.strand_gap == pytest.approx(abs(forward - reverse), abs=1e-4)
        mean = np.exp(logs[0].mean(0))
        mean /= mean.sum()
        assert row.entropy == pytest.approx(-(mean * np.log(mean)).sum(), abs=1e-4)
        assert (row.method, row.status, row.reason) == (adapter.scheme.site_method, "scored", "")


@pytest.mark.parametrize("name", ["nt-v1", "dnabert-3", "neox-base"])
def test_entropies_are_those_of_the_four_alleles_of_a_site(model, name):
    """From the scores alone: log p(alt) - log p(ref) of three alleles gives the distribution, strand by strand."""
    reading = ONE_PASS if KINDS[name].objective == "causal" else Reading()
    adapter = model(name, reading)
    sites = [("one", start) for start in (20, 45, 46, 141)] + [("two", 31)]
    alleles = [(c, s, GENOME[c][s], alt) for c, s in sites for alt in BASES if alt != GENOME[c][s]]
    table, windows = cut(GENOME, alleles, adapter.scheme.facts, reading.one_pass_marginals)
    found = scores(adapter, table, windows, embedding_window=None)
    for site in range(len(sites)):
        rows = found.iloc[3 * site : 3 * site + 3]
        both = np.log(np.r_[1.0, np.exp(rows["llr_fwd"])]), np.log(np.r_[1.0, np.exp(rows["llr_rev"])])
        share = np.exp(np.mean(both, axis=0))
        share /= share.sum()
        expected = -(share * np.log(share)).sum()
        np.testing.assert_allclose(rows["entropy"], expected, atol=1e-4)
        assert 0 < expected < math.log(4)


@torch.no_grad()
def pseudo_log_likelihood(adapter, sequence: str) -> np.ndarray:
    """(2,): one position after the other."""
    total = np.zeros(2)
    for at, base in enumerate(sequence):
        if base == "N":
            continue
        if isinstance(adapter, BidirectionalAdapter) or adapter.scheme.reading.exact_likelihoods:
            logs = log_probabilities(adapter, sequence, at)[:, BASES.index(base)]
        else:
            logs = []
            for text, position in ((sequence, at), (reverse_complement(sequence), len(sequence) - 1 - at)):
                logs.append(base_logits(adapter, text, position, masked=False)[BASES.index(text[position])])
        total += np.asarray(logs) + math.log(4)
    return total


@pytest.mark.parametrize(
    ("name", "reading"),
    [("bidirectional", Reading()), ("esm-base", Reading()), ("esm-base", EXACT)],
    ids=["bidirectional", "masked", "masked-exact"],
)
def test_other_alleles_score_as_the_difference_of_two_haplotypes_summed_base_by_base(model, name, reading):
    adapter, alleles = model(name, reading), changes(GENOME)
    alleles = alleles if name == "bidirectional" else alleles[::4]
    found = scores(adapter, *cut(GENOME, alleles, adapter.scheme.facts), embedding_window=None)
    for row, (contig, start, ref, alt) in zip(found.itertuples(), alleles, strict=True):
        framed = "N" * WINDOW + GENOME[contig] + "N" * WINDOW
        start += WINDOW
        flank = (WINDOW - max(len(ref), len(alt))) // 2
        left, right = framed[start - flank : start], framed[start + len(ref) : start + len(ref) + flank]
        by_strand = pseudo_log_likelihood(adapter, left + alt + right) - pseudo_log_likelihood(
            adapter, left + ref + right
        )
        np.testing.assert_allclose([row.llr_fwd, row.llr_rev], by_strand, atol=1e-4)
        assert row.llr == pytest.approx(by_strand.mean(), abs=1e-4)
        assert (row.method, row.status) == (adapter.scheme.pair_method, "scored")
        assert math.isnan(row.entropy)
    assert found["llr"].abs().median() > 0.05


def test_shared_windows_give_the_scores_of_own_windows():
    adapter, alleles = bidirectional(), substitutions(GENOME, every=3)
    tiles = cut(GENOME, alleles, adapter.scheme.facts)
    own = cut(GENOME, alleles, replace(adapter.scheme.facts, objective="masked"))
    assert len(tiles[1]) < 6 < len(own[1])
    pd.testing.assert_frame_equal(scores(adapter, *tiles), scores(adapter, *own), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_reverse_complemented_genome_swaps_the_strands_and_changes_nothing_else(model, name):
    adapter = model(name)
    mutated = [(c, s, r, a) for c, s, r, a in changes(GENOME) if len(r) == len(a)]  # an indel's anchor would move
    alleles = ordered(substitutions(GENOME, every=9) + mutated)
    flipped_genome = {contig: reverse_complement(sequence) for contig, sequence in GENOME.items()}
    flipped = [(c, len(GENOME[c]) - s - len(r), reverse_complement(r), reverse_complement(a)) for c, s, r, a in alleles]
    order = sorted(range(len(flipped)), key=lambda number: flipped[number])
    first = scores(adapter, *cut(GENOME, alleles, adapter.scheme.facts))
    second = scores(adapter, *cut(flipped_genome, [flipped[number] for number in order], adapter.scheme.facts))
    second.index = order
    second = second.sort_index()
    assert second["status"].tolist() == first["status"].tolist() and (first["status"] == "scored").sum() > 15
    np.testing.assert_allclose(second["llr_fwd"], first["llr_rev"], atol=1e-4)
    np.testing.assert_allclose(second["llr_rev"], first["llr_fwd"], atol=1e-4)
    same = ["llr", "strand_gap", "entropy", *([] if name in FRAMED else EMBEDDED)]
    np.testing.assert_allclose(second[same], first[same], atol=1e-4)
    assert first["strand_gap"].max() > 0.01


@pytest.mark.parametrize("name", NAMES)
def test_an_indel_read_on_the_other_strand_swaps_the_strands(model, name):
    adapter = model(name)
    window = random_bases(60, 31)
    other, ref, alt = reverse_complement(window), window[30:34], "G"
    rows = [
        ("id", "two", 1, ref, alt, 0, 30, "scored", ""),
        ("id", "two", 1, reverse_complement(ref), reverse_complement(alt), 1, len(window) - 34, "scored", ""),
    ]
    found = scores(adapter, pd.DataFrame(rows, columns=list(ALLELE_COLUMNS)), [window, other])
    np.testing.assert_allclose(found.loc[0, ["llr_fwd", "llr_rev"]], found.loc[1, ["llr_rev", "llr_fwd"]], atol=1e-4)
    same = ["llr", *([] if name in FRAMED else EMBEDDED)]
    np.testing.assert_allclose(found.loc[0, same].astype(float), found.loc[1, same].astype(float), atol=1e-4)
    assert found["strand_gap"].min() > 1e-3


READINGS = [(name, Reading()) for name in NAMES]
READINGS += [(name, EXACT) for name in ("esm-base", "dnabert-3")]
READINGS += [(name, ONE_PASS) for name in ("esm-base", "nt-v1", "dnabert-2", "generator")]


@pytest.mark.parametrize(("name", "reading"), READINGS, ids=str)
def test_batch_size_order_and_shards_do_not_move_a_score(model, name, reading):
    adapter = model(name, reading)
    few = reading is EXACT  # which takes a pass for every base
    alleles = ordered(substitutions(GENOME, every=40 if few else 20) + changes(GENOME)[:: 12 if few else 3])
    size = None if few else 12
    table, windows = cut(GENOME, alleles, adapter.scheme.facts, reading.one_pass_marginals)
    whole = scores(adapter, table, windows, embedding_window=size)
    done = whole["status"] == "scored"
    assert done.sum() > 9 and set(whole.loc[~done, "reason"]) <= {"not_evaluable_by_model"}
    assert whole.loc[done, ["llr", *([] if few else EMBEDDED)]].notna().all(axis=None)

    def same(other: pd.DataFrame) -> None:
        np.testing.assert_allclose(other[NUMBERS], whole[NUMBERS], atol=5e-5)
        assert other["method"].tolist() == whole["method"].tolist()

    same(scores(adapter, table, windows, budget=1, embedding_window=size))
    same(scores(adapter, table, windows, budget=77, embedding_window=size))
    shuffled = table.sample(frac=1.0, random_state=5)
    again = scores(adapter, shuffled, windows, embedding_window=size)
    again.index = shuffled.index
    same(again.sort_index())
    halves = [
        cut(GENOME, part, adapter.scheme.facts, reading.one_pass_marginals) for part in (alleles[:9], alleles[9:])
    ]
    same(pd.concat([scores(adapter, *half, embedding_window=size) for half in halves], ignore_index=True))


@pytest.mark.parametrize("name", ["neox-base", "generator", "mistral-dna"])
def test_alleles_of_one_site_that_share_a_pass_score_as_each_alone(model, name):
    adapter, (contig, start) = model(name), ("one", 130)
    ref = GENOME[contig][start]
    alts = [alt for alt in BASES if alt != ref] + [ref + "C", ref + "GATTAC"]
    alleles = [(contig, start, ref, alt) for alt in alts] + [(contig, start, GENOME[contig][start : start + 4], ref)]
    together = Scorer(adapter.scheme, lambda: adapter, 4096)
    found = together.score(*cut(GENOME, alleles, adapter.scheme.facts))
    tokens = 0
    for row, allele in zip(found.itertuples(), alleles, strict=True):
        alone = Scorer(adapter.scheme, lambda: adapter, 4096)
        expected = alone.score(*cut(GENOME, [allele], adapter.scheme.facts)).iloc[0]
        assert [row.llr_fwd, row.llr_rev] == pytest.approx([expected.llr_fwd, expected.llr_rev], abs=5e-5)
        tokens += alone.throughput.tokens
    assert together.throughput.tokens < 0.6 * tokens, "what comes before the site is read once"


@pytest.mark.parametrize("name", ["neox-base", "generator", "mistral-dna"])
def test_the_alleles_of_a_site_score_the_same_in_however_many_inputs_they_are(model, monkeypatch, name):
    adapter, (contig, start) = model(name), ("one", 130)
    ref = GENOME[contig][start]
    inserted = {random_bases(1 + number % 9, 40 + number) for number in range(16)}
    alleles = [(contig, start, ref, ref + bases) for bases in sorted(inserted)]
    table, windows = cut(GENOME, alleles, adapter.scheme.facts)
    found, tokens = {}, {}
    for limit in (0, 1.3, 3, 1000):
        monkeypatch.setattr(work, "BRANCHED", limit)
        scorer = Scorer(adapter.scheme, lambda: adapter, 4096)
        found[limit], tokens[limit] = scorer.score(table, windows), scorer.throughput.tokens
    for limit in (1.3, 3, 1000):
        np.testing.assert_allclose(found[limit][["llr_fwd", "llr_rev"]], found[0][["llr_fwd", "llr_rev"]], atol=5e-5)
    assert tokens[1000] < tokens[3] < tokens[1.3] < tokens[0], "each further input repeats what comes before"


@pytest.mark.parametrize("name", NAMES)
def test_padding_to_a_longer_neighbour_does_not_move_states(model, name):
    adapter = model(name)
    sequences = [random_bases(length, length) for length in (96, 96, 97, 102, 103, 103)]
    batcher = Batcher(CPU, 4096)
    together = adapter.states(batcher, sequences)
    assert batcher.throughput.batches < 5, "some were padded into one batch"
    for sequence, states in zip(sequences, together, strict=True):
        alone = adapter.states(Batcher(CPU, 1), [sequence])[0]
        assert len(states) == len(alone) == adapter.token_of_base(sequence)[-1] + 1
        np.testing.assert_allclose(states, alone, atol=5e-5)


@pytest.mark.parametrize("name", ["bidirectional", "esm-base", "dnabert-3", "nt-v1"])
def test_padding_to_a_longer_neighbour_does_not_move_a_likelihood(model, name):
    adapter = model(name)
    requests = [Request(adapter.scheme.pair_method, random_bases(length, length)) for length in (50, 52, 54, 55)]
    batcher = Batcher(CPU, 4096)
    together = adapter.answers(batcher, requests)
    assert batcher.throughput.batches < 4
    for request, answer in zip(requests, together, strict=True):
        np.testing.assert_allclose(answer, adapter.answers(Batcher(CPU, 1), [request])[0], atol=5e-5)


def test_equivalent_representations_score_the_same():
    sequence = random_bases(40, 8) + "CAG" * 7 + random_bases(40, 9)
    written = [(start, sequence[start - 1 : start + 3], sequence[start - 1]) for start in range(40, 40 + 3 * 6)] + [
        (45, sequence[44 : 44 + 8], sequence[44 : 44 + 5])
    ]
    alleles = {("c", *left_align(sequence, start - 1, ref, alt)) for start, ref, alt in written}
    assert len(alleles) == 1
    haplotypes = {sequence[: start - 1] + alt + sequence[start - 1 + len(ref) :] for start, ref, alt in written}
    assert len(haplotypes) == 1, "they are the same change"


class Uniform(torch.nn.Module):
    """A network that finds every token equally likely. `sliding_window` makes the adapter try branches."""

    sliding_window = None

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def states(self, ids, attention=None, keep=None, layer=None, positions=None, visible=None):
        return torch.ones(*(ids if keep is None else keep).shape, 3)

    def head(self, states):
        return torch.zeros(*states.shape[:-1], self.vocab_size)


def uniform(adapter: TokenAdapter) -> TokenAdapter:
    return TokenAdapter(Uniform(adapter.network.vocab_size), adapter.tokeniser, adapter.scheme, CPU, "float32")


@pytest.mark.parametrize(
    ("name", "reading"),
    [
        ("esm-base", Reading()),
        ("esm-base", EXACT),
        ("esm-base", ONE_PASS),
        ("dnabert-3", Reading()),
        ("dnabert-3", EXACT),
        ("neox-base", Reading()),
        ("nt-v1", Reading()),
        ("nt-v1", EXACT),
        ("generator", Reading()),
    ],
    ids=str,
)
def test_length_alone_does_not_move_a_score(model, name, reading):
    adapter = uniform(model(name, reading))
    alleles = ordered(substitutions(GENOME) + changes(GENOME)[:: 6 if reading is EXACT else 1])
    found = scores(adapter, *cut(GENOME, alleles, adapter.scheme.facts, reading.one_pass_marginals))
    assert (found["status"] == "scored").sum() > 30
    assert found[["llr", "strand_gap"]].abs().max(axis=None) < 1e-4
    assert found["entropy"].dropna().to_numpy() == pytest.approx(math.log(4))


def test_a_real_network_with_an_untrained_readout_gives_zero_for_any_indel():
    adapter = bidirectional()
    torch.nn.init.zeros_(adapter.network.readout)
    torch.nn.init.zeros_(adapter.network.readout_bias)
    found = scores(adapter, *cut(GENOME, changes(GENOME), adapter.scheme.facts))
    assert found["llr"].abs().max() < 1e-5


@torch.no_grad()
def base_states(adapter: Adapter, text: str) -> np.ndarray:
    """A state for each base of one sequence, alone in its row, tokens cut by slices: (L, H)."""
    if isinstance(adapter, BidirectionalAdapter):
        codes = torch.from_numpy(encode(text).astype(np.int64))[None]
        return torch.cat(adapter.network.states(codes), -1)[0].double().numpy()
    facts, kind = adapter.scheme.facts, KINDS[adapter.scheme.facts.id]
    if kind.tokenisation == "bpe":
        from tokenizers import Tokenizer

        pairs = Tokenizer.from_file(str(facts.path / "tokenizer.json"))
        number = pairs.get_vocab()
        tokens = [text[first:last] for first, last in pairs.encode(text, add_special_tokens=False).offsets]
    else:
        number = numbers_of(adapter)
        step = 1 if kind.tokenisation == "overlapping-kmer" else kind.k
        tokens = [text[at : at + kind.k] for at in range(0, len(text), step)]
        if kind.tokenisation == "overlapping-kmer":
            tokens = [token for token in tokens if len(token) == kind.k]
        else:
            tokens = [part for token in tokens for part in ([token] if token in number else token)]
    unknown = number[facts.tokens["unknown"]]
    ids = [number[facts.tokens["start"]], *(number.get(token, unknown) for token in tokens)]
    if "end" in facts.tokens:
        ids.append(number[facts.tokens["end"]])
    states = (
        adapter.network.model.base_model(torch.tensor([ids])).last_hidden_state
        if hasattr(adapter.network, "model")
        else adapter.network.states(torch.tensor([ids]))
    )
    states = states[0, 1 : 1 + len(tokens)].double().numpy()
    if kind.tokenisation == "overlapping-kmer":  # the token in whose middle the base lies, at the ends the last one
        return states[[min(max(base - kind.k // 2, 0), len(tokens) - 1) for base in range(len(text))]]
    rows = [row for row, token in enumerate(tokens) for _ in token]
    assert len(rows) == len(text)
    return states[rows]


def distances_by_loops(adapter: Adapter, left: str, ref: str, alt: str, right: str) -> tuple[float, float]:
    """Mean over strands of the Euclidean and the cosine distance, position by position."""
    results = []
    for flip in (False, True):
        states = []
        for sequence in (left + ref + right, left + alt + right):
            rows = base_states(adapter, reverse_complement(sequence) if flip else sequence)
            states.append(rows[::-1] if flip else rows)
        pairs = [(at, at) for at in range(len(left))]
        pairs += [(len(left) + at, len(left) + at) for at in range(len(ref)) if len(ref) == len(alt)]
        pairs += [(len(left) + len(ref) + at, len(left) + len(alt) + at) for at in range(len(right))]
        squared = sum(((states[0][a] - states[1][b]) ** 2).sum() for a, b in pairs)
        means = [rows.mean(0) for rows in states]
        cosine = means[0] @ means[1] / math.sqrt(means[0] @ means[0]) / math.sqrt(means[1] @ means[1])
        results.append((math.sqrt(squared), 1 - cosine))
    return tuple(np.mean(results, 0))


@pytest.mark.parametrize("name", [*NAMES, "modernbert"])
@pytest.mark.parametrize("size", [11, 24])
def test_embedding_distances_equal_loops_over_positions(model, monkeypatch, name, size):
    monkeypatch.setitem(WINDOWS, "modernbert", 31)
    adapter = model(name)
    k = 6 if name in FRAMED else 1
    alleles = ordered(substitutions(GENOME, every=40) + changes(GENOME)[::3])
    table, windows = cut(GENOME, alleles, adapter.scheme.facts)
    found = scores(adapter, table, windows, embedding_window=size)
    compared = 0
    for row, place in zip(found.itertuples(), table.itertuples(), strict=True):
        if row.status != "scored":
            continue
        compared += 1
        window, offset = windows[int(place.window)], int(place.offset)
        flank = max(1, (size - max(len(row.ref), len(row.alt))) // 2)
        # The left flank starts with a token of the window's frame, and holds one base at least where there is one.
        starts = [at for at in range(0, offset + 1, k) if offset - at <= flank]
        first = min(starts, default=offset // k * k)
        left, right = window[first:offset], window[offset + len(row.ref) :][:flank]
        expected = distances_by_loops(adapter, left, row.ref, row.alt, right)
        assert (row.embedding_l2, row.embedding_cosine) == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert row.embedding_l2 > 1e-3
    assert compared > 12


def test_embedding_distances_hold_the_states_of_one_chunk_only(monkeypatch):
    adapter = bidirectional()
    table, windows = cut(GENOME, substitutions(GENOME, every=3), adapter.scheme.facts)
    whole = scores(adapter, table, windows)
    monkeypatch.setitem(embedding.HELD_BASES, "cpu", 64)
    held, original = [], embedding.strand_states

    def counted(adapter, batcher, haplotypes):
        assert len(set(haplotypes)) == len(haplotypes)
        held.append(sum(map(len, haplotypes)))
        return original(adapter, batcher, haplotypes)

    monkeypatch.setattr(embedding, "strand_states", counted)
    chunked = scores(adapter, table, windows, budget=10**6)
    assert len(held) > 10 and max(held) <= 2 * 64
    np.testing.assert_allclose(chunked[EMBEDDED], whole[EMBEDDED], atol=1e-5)


def test_equal_states_have_no_distance():
    states = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 4))).float()
    for same_length in (True, False):
        l2, cosine = distance(states, states, 2, 2, same_length)
        assert l2 == 0.0 and cosine == pytest.approx(0.0, abs=1e-12)


class Crowded(BidirectionalAdapter):
    """Fails as a device does that has memory for so many bases."""

    room, error = 200, torch.OutOfMemoryError("CUDA out of memory")

    def _stacked(self, codes):
        stacked = super()._stacked(codes)
        if stacked.numel() > self.room:
            raise self.error
        return stacked


class CrowdedNetwork(torch.nn.Module):
    """The same for a network of tokens."""

    def __init__(self, network, room: int, error: BaseException) -> None:
        super().__init__()
        self.network, self.room, self.error, self.sizes = network, room, error, []
        self.vocab_size, self.head = network.vocab_size, network.head
        if hasattr(network, "sliding_window"):
            self.sliding_window = network.sliding_window

    def states(self, ids, *args, **kwargs):
        if ids.numel() > self.room:
            raise self.error
        self.sizes.append(tuple(ids.shape))
        return self.network.states(ids, *args, **kwargs)


def crowded(adapter: TokenAdapter, room: int, error: BaseException | None = None) -> TokenAdapter:
    network = CrowdedNetwork(adapter.network, room, error or torch.OutOfMemoryError("CUDA out of memory"))
    return TokenAdapter(network, adapter.tokeniser, adapter.scheme, CPU, "float32")


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_budget_and_changes_no_score(error):
    adapter = bidirectional(kind=Crowded)
    adapter.error = error
    alleles = ordered(substitutions(GENOME) + changes(GENOME))
    table, windows = cut(GENOME, alleles, replace(adapter.scheme.facts, objective="masked"))
    scorer = Scorer(adapter.scheme, lambda: adapter, 4096, 11)
    found = scorer.score(table, windows)
    pd.testing.assert_frame_equal(found, scores(bidirectional(), table, windows), rtol=0, atol=1e-5)
    assert scorer.throughput.halvings >= 2


@pytest.mark.parametrize("name", ["esm-base", "dnabert-2", "generator"])
def test_out_of_memory_changes_no_score_of_any_kind_of_tokens(model, name):
    adapter = crowded(model(name), 80)
    table, windows = some(adapter)
    scorer = Scorer(adapter.scheme, lambda: adapter, 2048, 11)
    found = scorer.score(table, windows)
    np.testing.assert_allclose(found[NUMBERS], scores(model(name), table, windows)[NUMBERS], atol=5e-5)
    assert scorer.throughput.halvings >= 1
    assert sum(rows * width for rows, width in adapter.network.sizes) == scorer.throughput.tokens


def test_a_window_that_does_not_fit_alone_ends_in_out_of_memory():
    adapter = bidirectional(kind=Crowded)
    adapter.room = WINDOW - 1
    table, windows = cut(GENOME, substitutions(GENOME), replace(adapter.scheme.facts, objective="masked"))
    with pytest.raises(OutOfMemory, match=f"^one window of {WINDOW} tokens does not fit into memory"):
        scores(adapter, table, windows)


def test_another_error_of_the_network_is_not_taken_for_lack_of_memory(model):
    for adapter in (bidirectional(kind=Crowded), crowded(model("esm-base"), 200)):
        broken = adapter if isinstance(adapter, Crowded) else adapter.network
        broken.error = RuntimeError("shapes cannot be multiplied")
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            scores(adapter, *cut(GENOME, substitutions(GENOME), adapter.scheme.facts))


def test_one_sequence_that_takes_many_passes_gets_smaller_passes_before_it_is_given_up(model):
    adapter = model("esm-base", EXACT)
    request = Request(adapter.scheme.pair_method, random_bases(24, 1))
    expected = adapter.answers(Batcher(CPU, 4096), [request])
    small = crowded(adapter, 3 * 25)
    found = small.answers(Batcher(CPU, 4096), [request])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert max(rows for rows, _ in small.network.sizes) <= 3
    assert sum(rows for rows, _ in small.network.sizes) == 2 * 24


SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def test_the_script_leaves_with_code_3_if_a_single_window_does_not_fit(tmp_path):
    """A real allocation fails: the address space is limited to what is in use once the model is loaded."""
    sequence = random_bases(2_000_001, 1)
    table = pd.DataFrame(
        [("id", "c", 1, sequence[10**6], "ACGT"["ACGT".index(sequence[10**6]) - 1], 0, 10**6, "scored", "")],
        columns=list(ALLELE_COLUMNS),
    )
    write_shard(tmp_path / "shard", table, [sequence])
    save_checkpoint(tmp_path / "small")
    program = (
        "import resource, runpy, sys; sys.path.insert(0, sys.argv[1]); import seqprior.loading as loading\n"
        "old = loading.Job.load\n"
        "def limited(*args, **options):\n"
        "    adapter = old(*args, **options)\n"
        "    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))\n"
        "    return adapter\n"
        "loading.Job.load = limited; script = sys.argv[2]; sys.argv[:3] = [script]\n"
        "runpy.run_path(script, run_name='__main__')\n"
    )
    done = run_script(tmp_path, [sys.executable, "-c", program, str(SCRIPTS), str(SCRIPTS / "score_variants.py")])
    assert done.returncode == 3, done.stderr
    assert "error: one window of 2000001 tokens does not fit into memory; use a larger device" in done.stderr
    assert not (tmp_path / "scores.parquet").exists()


def write_shard(folder: Path, table: pd.DataFrame, windows: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    table.to_parquet(folder / "alleles.parquet")
    pd.DataFrame({"window": range(len(windows)), "sequence": windows}).to_parquet(folder / "windows.parquet")


def save_checkpoint(folder: Path) -> None:
    """The random network as a registered and fetched checkpoint; the registry goes beside its folder."""
    import json

    from safetensors.torch import save_file

    from seqprior.fetching import fetch
    from seqprior.models import model_facts

    source = folder.parent / "source"
    source.mkdir()
    network = bidirectional().network
    save_file(network.state_dict(), source / "model.safetensors")
    (source / "config.json").write_text(json.dumps({"network": network.config.to_dict()}))
    text = dict.fromkeys(("name", "species", "licence", "citation", "description", "limits"), "x")
    entry = {
        **text,
        "family": "bidirectional-conv",
        "objective": "bidirectional",
        "tokenisation": "single-base",
        "window": WINDOW,
        "embedding_window": 11,
        "path": "elsewhere",
        "parameters": 1,
    }
    registry = folder.parent / "models.yaml"
    registry.write_text(yaml.safe_dump({"models": {"small": entry}}))
    fetch(model_facts(registry, "small", source), folder.parent / "models.lock", folder)


def run_script(folder: Path, command: list[str], *extra: str) -> subprocess.CompletedProcess:
    arguments = {
        "shard": folder / "shard",
        "registry": folder / "models.yaml",
        "model": "small",
        "checkpoint": folder / "small",
        "lock": folder / "models.lock",
        "device": "cpu",
        "output": folder / "scores.parquet",
        "stats": folder / "stats.json",
    }
    options = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
    return subprocess.run([*command, *options, *extra], capture_output=True, text=True, check=False)


def test_the_script_scores_a_shard_as_the_library_does_and_asks_the_model_once(tmp_path):
    adapter = bidirectional()
    table, windows = cut(GENOME, ordered(substitutions(GENOME, 30) + changes(GENOME)), adapter.scheme.facts)
    write_shard(tmp_path / "shard", table, windows)
    save_checkpoint(tmp_path / "small")
    expected = scores(adapter, table, windows)
    command = [sys.executable, str(SCRIPTS / "score_variants.py")]
    for again in (False, True):
        done = run_script(tmp_path, command, "--batch-tokens", "200", "--store", str(tmp_path / "store"))
        assert done.returncode == 0, done.stderr
        found = pd.read_parquet(tmp_path / "scores.parquet")
        pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-5, check_dtype=False)
        stats = yaml.safe_load((tmp_path / "stats.json").read_text())
        assert (stats["model"], stats["alleles"], stats["evaluable"]) == ("small", len(table), len(table))
        assert stats["from_store"] == (stats["requests"] if again else 0) and stats["requests"] > len(table)
        assert (stats["tokens"] > 0) != again and stats["halvings"] == 0
        assert stats["device"] == ("none" if again else "cpu") and stats["error"] is None


def test_nan_from_the_model_is_an_error_that_says_what_to_do():
    for arithmetic, advice in (("bfloat16", "set scoring.dtype to float32"), ("float32", "check the checkpoint")):
        adapter = bidirectional(arithmetic)
        alleles = ordered(substitutions(GENOME, 30) + changes(GENOME))
        table, windows = cut(GENOME, alleles, adapter.scheme.facts)
        with torch.no_grad():
            adapter.network.readout_bias[2] = torch.nan
        with pytest.raises(BadInput, match=f"the model gave NaN or infinity in {arithmetic}; {advice}"):
            scores(adapter, table, windows)


class Nan(Uniform):
    def head(self, states):
        logits = super().head(states)
        logits[..., 8:] = torch.nan
        return logits


@pytest.mark.parametrize("name", ["esm-base", "dnabert-2", "generator"])
def test_nan_from_any_kind_of_tokens_is_an_error(model, name):
    adapter = model(name)
    broken = TokenAdapter(Nan(adapter.network.vocab_size), adapter.tokeniser, adapter.scheme, CPU, "float32")
    for alleles in (substitutions(GENOME, every=90), changes(GENOME)[:2]):
        with pytest.raises(BadInput, match="NaN or infinity in float32"):
            scores(broken, *cut(GENOME, alleles, adapter.scheme.facts), embedding_window=None)


@pytest.mark.parametrize("name", ["bidirectional", "esm-base"])
def test_nan_in_embeddings_is_an_error_too(model, name):
    if name == "bidirectional":
        adapter = bidirectional()
        with torch.no_grad():
            adapter.network.scale[0] = torch.nan
    else:
        adapter = uniform(model(name))
        adapter.network.states = lambda ids, attention=None, **_: torch.full((*ids.shape, 3), torch.nan)
    request = distance_request(adapter.scheme, "ACGTACGTACG", 5, "C", "T", 11)
    with pytest.raises(BadInput, match="NaN or infinity"):
        embedding.distances(adapter, Batcher(CPU, 100), [request])


def test_bfloat16_scores_stay_near_float32_and_their_error_is_measured(monkeypatch, caplog):
    monkeypatch.setattr(embedding, "CHECKED", 20)
    adapters = bidirectional(), bidirectional("bfloat16")
    table, windows = cut(GENOME, ordered(substitutions(GENOME) + changes(GENOME)), adapters[0].scheme.facts)
    exact = scores(adapters[0], table, windows)
    scorer = Scorer(adapters[1].scheme, lambda: adapters[1], 4096, exact=lambda: adapters[0])
    with caplog.at_level(logging.INFO):
        coarse = scorer.score(table, windows)
    single = exact["method"] == "leave_one_out_marginal"
    error = (exact["llr"] - coarse["llr"]).abs()
    assert 0 < error[single].mean() < 0.01
    assert error[single].max() < 0.05
    assert error[~single].max() < 0.1  # a sum over some thirty positions
    assert exact["llr"].std() > 0.3, "the differences are worth comparing"
    measured = {"alleles": 20, "mean": error[:20].mean(), "largest": error[:20].max()}
    assert scorer.error == pytest.approx(measured, abs=1e-5)
    assert f"bfloat16: LLRs of 20 alleles are off by {measured['mean']:.3f}" in caplog.text


def test_the_error_is_measured_once_and_reported_with_the_shard(tmp_path):
    exact, coarse = bidirectional(), bidirectional("bfloat16")
    table, windows = cut(GENOME, substitutions(GENOME, 40), exact.scheme.facts)
    write_shard(tmp_path / "shard", table, windows)
    loads = []

    def load_exact():
        loads.append(1)
        return exact

    stats = score_shard(Scorer(coarse.scheme, lambda: coarse, exact=load_exact), tmp_path / "shard", tmp_path / "o")
    assert 0 < stats["error"]["mean"] <= stats["error"]["largest"] < 0.05
    assert stats["error"]["alleles"] == len(table)
    stats = score_shard(Scorer(exact.scheme, lambda: exact), tmp_path / "shard", tmp_path / "o")
    assert stats["error"] is None
    several = Scorer(coarse.scheme, lambda: coarse, exact=load_exact)
    assert len(list(several.score_groups(lambda: iter([(table, windows, 0)] * 3), 3 * len(table)))) == 3
    assert len(loads) == 2


def never() -> Adapter:
    raise AssertionError("the model was loaded")


@pytest.mark.parametrize("skipped", [0, 2])
@pytest.mark.parametrize("embedding_window", [None, 11])
def test_nothing_to_score_gives_the_usual_columns_and_loads_no_model(tmp_path, skipped, embedding_window):
    rows = [("id", "c", 5, "A", "<DEL>", None, None, "skipped", "window_ambiguous")] * skipped
    write_shard(tmp_path / "shard", pd.DataFrame(rows, columns=list(ALLELE_COLUMNS)), [])
    scorer = Scorer(bidirectional().scheme, never, None, embedding_window, exact=never)
    stats = score_shard(scorer, tmp_path / "shard", tmp_path / "o.parquet")
    found = pd.read_parquet(tmp_path / "o.parquet")
    assert tuple(found.columns) == SCORES
    assert found["status"].tolist() == ["skipped"] * skipped
    assert found[NUMBERS].isna().all(axis=None) and (found["method"] == "").all()
    assert (stats["alleles"], stats["tokens"], stats["tokens_per_second"]) == (skipped, 0, 0.0)
    assert (stats["evaluable"], stats["not_evaluable"], stats["device"]) == (0, 0, "none")


def test_without_embeddings_their_columns_stay_empty():
    adapter = bidirectional()
    found = scores(adapter, *cut(GENOME, substitutions(GENOME), adapter.scheme.facts), embedding_window=None)
    assert found[EMBEDDED].isna().all(axis=None) and found["llr"].notna().all()


def test_skipped_alleles_pass_through_and_those_without_a_score_get_their_reason(model):
    adapter = model("dnabert-3")
    alleles = [("one", s, GENOME["one"][s], "ACGT".replace(GENOME["one"][s], "")[0]) for s in (50, 88, 89, 99, 102)]
    table, windows = cut(GENOME, alleles, adapter.scheme.facts)
    skipped = ("x", "one", 7, "A", "T", None, None, "skipped", "window_ambiguous")
    table = pd.concat([table.iloc[:2], pd.DataFrame([skipped], columns=list(table)), table.iloc[2:]], ignore_index=True)
    scorer = Scorer(adapter.scheme, lambda: adapter, 4096, 11)
    found = scorer.score(table, windows)
    assert found["variant_id"].tolist() == table["variant_id"].tolist()
    refused = "not_evaluable_by_model"  # a k-mer over the site has an N
    assert found["reason"].tolist() == ["", refused, "window_ambiguous", refused, refused, ""]
    assert (found["status"] == "scored").tolist() == (found["reason"] == "").tolist()
    assert found["llr"].notna().tolist() == (found["method"] != "").tolist() == (found["reason"] == "").tolist()
    assert found.loc[found["reason"] != "", NUMBERS].isna().all(axis=None)
    assert {key: scorer.counts[key] for key in ("alleles", "evaluable", "not_evaluable")} == {
        "alleles": 6,
        "evaluable": 2,
        "not_evaluable": 3,
    }


def test_substitutions_whose_piece_is_not_in_the_vocabulary_are_not_evaluable_in_one_pass(model):
    adapter = model("dnabert-2", ONE_PASS)
    alleles = substitutions({"two": GENOME["two"]}, every=3)
    table, windows = cut(GENOME, alleles, adapter.scheme.facts, one_pass=True)
    scorer = Scorer(adapter.scheme, lambda: adapter, 4096)
    found = scorer.score(table, windows)
    pieces = adapter.tokeniser.pieces
    for row, place in zip(found.itertuples(), table.itertuples(), strict=True):
        possible = True
        for flip in (False, True):
            text, at = windows[int(place.window)], int(place.offset)
            alt = reverse_complement(row.alt) if flip else row.alt
            if flip:
                text, at = reverse_complement(text), len(text) - 1 - at
            first = 0
            for token in adapter.tokeniser._tokenizer.encode(text, add_special_tokens=False).tokens:
                if first <= at < first + len(token):
                    possible &= token[: at - first] + alt + token[at - first + 1 :] in pieces
                first += len(token)
        assert (row.status == "scored") == possible
    assert 0 < scorer.counts["not_evaluable"] < len(table)


@dataclass
class MemoryStore:
    """A score store that is a dictionary."""

    facts: dict[bytes, np.ndarray] = field(default_factory=dict)
    notes: dict[str, dict] = field(default_factory=dict)
    lookups: int = 0

    def write_note(self, name: str, note: dict) -> None:
        self.notes[name] = note

    def read_note(self, name: str) -> dict | None:
        return self.notes.get(name)

    def is_empty(self) -> bool:
        return not self.facts

    def lookup(self, keys) -> dict[bytes, np.ndarray]:
        self.lookups += 1
        return {bytes(key): self.facts[bytes(key)] for key in keys if bytes(key) in self.facts}

    @contextmanager
    def writer(self):
        yield self

    def add(self, keys, vectors) -> None:
        for key, vector in zip(keys, vectors, strict=True):
            assert len(key) == 16 and vector.dtype == np.float32 and vector.ndim == 1
            self.facts[bytes(key)] = np.array(vector)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_store_knows_is_not_computed_again_and_no_model_is_loaded(model, name):
    adapter, store = model(name), MemoryStore()
    table, windows = some(adapter)
    without = scores(adapter, table, windows, embedding_window=12)
    first = Scorer(adapter.scheme, lambda: adapter, 4096, 12, store)
    pd.testing.assert_frame_equal(first.score(table, windows), without, rtol=0, atol=1e-5)
    assert first.counts["from_store"] == 0 < first.counts["requests"]
    assert len(store.facts) == first.counts["requests"], "requests of different facts have different keys"
    again = Scorer(adapter.scheme, never, 4096, 12, store)
    pd.testing.assert_frame_equal(again.score(table, windows), without, rtol=0, atol=1e-5)
    assert again.counts["from_store"] == again.counts["requests"] == first.counts["requests"]
    assert store.lookups == 1 and again.throughput.tokens == 0, "all keys are asked for at once, if there are any"


@pytest.mark.parametrize("name", ["bidirectional", "esm-base", "dnabert-3", "nt-v1"])
def test_a_new_allele_at_a_known_site_costs_nothing(model, name):
    adapter, store = model(name), MemoryStore()
    k = 6 if name == "nt-v1" else 1
    sites = [("one", 30), ("one", 36), ("one", 150), ("two", 48)]
    known = [(c, s, GENOME[c][s], BASES.replace(GENOME[c][s], "")[0]) for c, s in sites]
    fresh = [
        (c, at, GENOME[c][at], alt)
        for c, s in sites
        for at in range(s, s + k)
        for alt in BASES
        if alt != GENOME[c][at] and (c, at, GENOME[c][at], alt) not in known
    ]
    Scorer(adapter.scheme, lambda: adapter, 4096, None, store).score(*cut(GENOME, known, adapter.scheme.facts))
    table, windows = cut(GENOME, fresh, adapter.scheme.facts)
    found = Scorer(adapter.scheme, never, 4096, None, store).score(table, windows)
    pd.testing.assert_frame_equal(found, scores(adapter, table, windows, embedding_window=None), rtol=0, atol=1e-5)


def test_a_known_site_costs_nothing_in_whatever_shared_window_it_lies():
    adapter, store = bidirectional(), MemoryStore()
    dense = substitutions(GENOME, every=3)
    tiles = cut(GENOME, dense, adapter.scheme.facts)
    first = Scorer(adapter.scheme, lambda: adapter, 4096, None, store).score(*tiles)
    sparse = dense[20:140:40]
    own = cut(GENOME, sparse, adapter.scheme.facts)
    assert not set(own[1]) & set(tiles[1])
    found = Scorer(adapter.scheme, never, 4096, None, store).score(*own)
    pd.testing.assert_frame_equal(found, first.iloc[20:140:40].reset_index(drop=True), check_exact=True)


def test_readings_and_models_that_answer_differently_share_a_store_without_mixing(model):
    store = MemoryStore()
    cases = [("esm-base", Reading()), ("esm-base", EXACT), ("esm-base", ONE_PASS), ("dnabert-3", Reading())]
    for name, reading in cases:
        adapter = model(name, reading)
        alleles = ordered(substitutions(GENOME, 60) + changes(GENOME)[::9])
        table, windows = cut(GENOME, alleles, replace(adapter.scheme.facts, tokenisation="single-base", k=1))
        found = Scorer(adapter.scheme, lambda adapter=adapter: adapter, 4096, None, store).score(table, windows)
        expected = scores(adapter, table, windows, embedding_window=None)
        pd.testing.assert_frame_equal(found, expected, rtol=0, atol=5e-5)


def test_a_stored_answer_of_another_size_is_computed_anew():
    adapter, store = bidirectional(), MemoryStore()
    table, windows = cut(GENOME, substitutions(GENOME, 60), adapter.scheme.facts)
    expected = Scorer(adapter.scheme, lambda: adapter, 4096, None, store).score(table, windows)
    for key in list(store.facts)[::2]:
        store.facts[key] = np.ones(3, np.float32)
    scorer = Scorer(adapter.scheme, lambda: adapter, 4096, None, store)
    pd.testing.assert_frame_equal(scorer.score(table, windows), expected, rtol=0, atol=1e-6)
    assert scorer.counts["from_store"] == len(store.facts) // 2
    assert {len(vector) for vector in store.facts.values()} == {8}


def grouped(alleles: list[tuple], facts: ModelFacts, size: int):
    """Groups as `read_groups` gives them, windows numbered through."""
    number, groups = 0, []
    for first in range(0, len(alleles), size):
        table, windows = cut(GENOME, alleles[first : first + size], facts)
        table["window"] += number
        groups.append((table, windows, number))
        number += len(windows)
    return groups


def test_groups_are_scored_one_by_one_as_all_at_once():
    adapter = bidirectional()
    alleles = ordered(substitutions(GENOME) + changes(GENOME))
    groups = grouped(alleles, adapter.scheme.facts, 8)
    scorer = Scorer(adapter.scheme, lambda: adapter, 4096, 11)
    found = pd.concat(list(scorer.score_groups(lambda: iter(groups), len(alleles))), ignore_index=True)
    pd.testing.assert_frame_equal(
        found, scores(adapter, *cut(GENOME, alleles, adapter.scheme.facts)), rtol=0, atol=1e-5
    )
    assert scorer.counts["alleles"] == len(alleles)


def test_the_next_group_is_planned_while_one_is_scored():
    adapter = bidirectional()
    alleles = substitutions(GENOME, 20)
    groups = grouped(alleles, adapter.scheme.facts, 5)
    read = [threading.Event() for _ in groups]

    def reading():
        for event, group in zip(read, groups, strict=True):
            assert threading.current_thread() is not threading.main_thread()
            event.set()
            yield group

    for number, _ in enumerate(Scorer(adapter.scheme, lambda: adapter, 4096).score_groups(reading, len(alleles))):
        assert read[min(number + 1, len(read) - 1)].wait(10)


def test_an_error_while_planning_ends_the_run(model):
    adapter = model("esm-base")

    def groups():
        yield from grouped(substitutions(GENOME, 60), adapter.scheme.facts, 5)[:1]
        raise BadInput("the shard is damaged")

    with pytest.raises(BadInput, match="the shard is damaged"):
        list(Scorer(adapter.scheme, lambda: adapter, 4096).score_groups(groups, 5))


@pytest.mark.parametrize("end", ["the consumer stops", "the device fails"])
def test_an_interrupted_run_keeps_what_it_computed(tmp_path, end):
    adapter = bidirectional(kind=Crowded)
    alleles = substitutions(GENOME, 7)
    groups = grouped(alleles, adapter.scheme.facts, 10)
    store = ScoreStore(tmp_path, "0" * 64, "float32")
    scorer = Scorer(adapter.scheme, lambda: adapter, 4096, None, store)
    adapter.room = 10**6

    def run():
        for number, _ in enumerate(scorer.score_groups(lambda: iter(groups), len(alleles))):
            if number == 1 and end == "the consumer stops":
                break
            if number == 1:
                adapter.room, adapter.error = 0, RuntimeError("device lost")

    if end == "the consumer stops":
        run()
    else:
        with pytest.raises(RuntimeError, match="device lost"):
            run()
    adapter.room = 10**6
    assert list(store.folder.glob("*.parquet")), "the first two groups are kept"
    again = Scorer(adapter.scheme, lambda: adapter, 4096, None, ScoreStore(tmp_path, "0" * 64, "float32"))
    found = pd.concat(list(again.score_groups(lambda: iter(groups), len(alleles))), ignore_index=True)
    sites = [{(c, s) for c, s, _, _ in alleles[at : at + 10]} for at in range(0, len(alleles), 10)]
    assert again.counts["from_store"] >= len(sites[0]) + len(sites[1]) > 10
    assert again.counts["requests"] - again.counts["from_store"] <= sum(map(len, sites[2:]))
    expected = scores(adapter, *cut(GENOME, alleles, adapter.scheme.facts), embedding_window=None)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-5)


def test_requests_are_handed_out_in_portions_that_bound_their_rows(monkeypatch, model):
    monkeypatch.setattr(work, "ROWS_AHEAD", 400)
    adapter, asked = model("esm-base"), []
    table, windows = some(adapter)
    expected = scores(model("esm-base"), table, windows)
    scorer = Scorer(adapter.scheme, lambda: adapter, 4096, 11)
    original = scorer.compute
    scorer.compute = lambda portion: asked.append(len(portion.requests)) or original(portion)
    pd.testing.assert_frame_equal(scorer.score(table, windows), expected, rtol=0, atol=5e-5)
    assert len(asked) > 5 and max(asked) <= 400 // (2 * 11) + 1
    assert sum(asked) == scorer.counts["requests"]


def test_entropy_is_that_of_the_renormalised_mean():
    logs = np.log(np.array([[0.25] * 4, [0.5, 0.25, 0.125, 0.125]]))
    expected = [math.log(4), 1.75 * math.log(2)]
    np.testing.assert_allclose(entropy(logs), expected)
    np.testing.assert_allclose(entropy(logs - 3.0), expected)


def test_an_unknown_base_in_a_window_does_not_overrun_learned_positions(tmp_path):
    """A k-mer with an N is k tokens, so such a window has more of them than one of known bases alone."""
    facts = write_checkpoint("nt-v1", tmp_path / "nt", window=66, shape=Shape(positions=14))
    adapter = load_adapter(facts, CPU, "float32", Reading())
    sequence = random_bases(40, 1) + "N" + random_bases(79, 2)
    alleles = [("c", start, sequence[start], BASES.replace(sequence[start], "")[0]) for start in (10, 60, 100)]
    alleles += [("c", start, sequence[start], sequence[start] + "CA") for start in (10, 35)]
    table, windows = cut({"c": sequence}, sorted(alleles), facts)
    for size in (None, 30):
        found = scores(adapter, table, windows, embedding_window=size)
        for row, place in zip(found.itertuples(), table.itertuples(), strict=True):
            window, offset = windows[int(place.window)], int(place.offset)
            left, right = window[:offset], window[offset + len(row.ref) :]
            counts = []
            for text in (left + row.ref + right, left + row.alt + right):
                for strand in (text, reverse_complement(text)):
                    parts = [strand[at : at + 6] for at in range(0, len(strand), 6)]
                    counts.append(1 + sum(1 if len(part) == 6 and "N" not in part else len(part) for part in parts))
            expected = "" if max(counts) <= 14 - 2 else "not_evaluable_by_model"
            assert row.reason == expected
            assert math.isfinite(row.llr) == (expected == "")
        assert set(found["reason"]) == {"", "not_evaluable_by_model"}


@pytest.mark.parametrize("kind", [Kind("bert", "masked", "bpe"), Kind("gpt2", "causal", "bpe", 1, "llama")])
def test_windows_of_more_pieces_than_learned_positions_are_not_evaluable(tmp_path, monkeypatch, kind):
    """As many bases are few pieces where words repeat that the vocabulary has, and many elsewhere."""
    monkeypatch.setitem(random_models.KINDS, "pieces", kind)
    words = ["GATTACAGGC", reverse_complement("GATTACAGGC")]
    turned = [(word[first:] + word[:first]) * 3 for word in words for first in range(10)]
    facts = write_checkpoint("pieces", tmp_path / "m", window=48, pieces=60, text=turned, shape=Shape(positions=20))
    adapter = load_adapter(facts, CPU, "float32", Reading())
    genome = {"c": words[0] * 12 + random_bases(60, 7) + words[1] * 12}
    alleles = [("c", at, genome["c"][at], BASES.replace(genome["c"][at], "")[0]) for at in range(60, 240, 4)]
    alleles += [("c", at, genome["c"][at], genome["c"][at] + "CA") for at in range(62, 240, 8)]
    table, windows = cut(genome, sorted(alleles), facts)
    found = scores(adapter, table, windows, embedding_window=11)
    evaluable = found["reason"] == ""
    assert set(found["reason"]) == {"", "not_evaluable_by_model"}
    assert found.loc[evaluable, ["llr", *EMBEDDED]].notna().all(axis=None)
    adapter.scheme.room = None
    failed = 0
    for number in np.flatnonzero(~evaluable):
        one = table.iloc[[number]]
        ((window, offset, ref, alt),) = one[["window", "offset", "ref", "alt"]].itertuples(index=False)
        if adapter.scheme.plan(windows[int(window)], int(offset), ref, alt) is None:
            continue  # for another reason
        with pytest.raises((IndexError, RuntimeError)):  # none was refused that would have had room
            scores(adapter, one, windows, embedding_window=None)
        failed += 1
    assert failed > 5


def test_a_run_in_another_arithmetic_loads_no_model_either_if_the_store_knows_all():
    exact, coarse, store = bidirectional(), bidirectional("bfloat16"), MemoryStore()
    table, windows = cut(GENOME, substitutions(GENOME, 60), exact.scheme.facts)
    scorer = Scorer(coarse.scheme, lambda: coarse, 4096, None, store, lambda: exact)
    first = scorer.score(table, windows)
    rerun = Scorer(coarse.scheme, never, 4096, None, store, never)
    pd.testing.assert_frame_equal(rerun.score(table, windows), first)
    assert rerun.error == scorer.error, "as it was measured for these answers"
    assert rerun.error is not None
