"""Scores of alleles, from windows to the table, against one allele at a time on the whole sequence."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from seqprior import embedding
from seqprior.adapters import Adapter, BidirectionalAdapter, MaskedBaseAdapter
from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM
from seqprior.columns import SCORES
from seqprior.embedding import Batcher, Scorer, distances, entropy, haplotype_pair, score_shard
from seqprior.errors import BadInput, OutOfMemory
from seqprior.models import ModelFacts
from seqprior.sequence import BASES, encode
from seqprior.variants import left_align
from seqprior.windows import ALLELE_COLUMNS, Windows

REACH, WINDOW = 15, 31
NUMBERS = [name for name in SCORES if name.startswith(("llr", "entropy", "embedding", "strand"))]
CPU = torch.device("cpu")
VOCABULARY = {"[CLS]": 1, "[SEP]": 2, "[MASK]": 3, "N": 4, "T": 5, "G": 6, "A": 7, "C": 8}


pytestmark = pytest.mark.usefixtures("one_thread")


def bidirectional(dtype: torch.dtype = torch.float32, seed: int = 0) -> BidirectionalAdapter:
    torch.manual_seed(seed)
    network = BidirectionalConvLM(BidirectionalConfig(width=8, kernel=3, dilations=(1, 2, 4), head=8))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return BidirectionalAdapter(network, CPU, dtype)


def masked(exact: bool = False) -> MaskedBaseAdapter:
    from transformers import EsmConfig, EsmForMaskedLM

    torch.manual_seed(0)
    network = EsmForMaskedLM(
        EsmConfig(
            vocab_size=10,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            initializer_range=0.4,
            pad_token_id=0,
            mask_token_id=3,
            token_dropout=True,
            position_embedding_type="rotary",
        )
    )
    return MaskedBaseAdapter(network, VOCABULARY, CPU, torch.float32, exact)


ADAPTERS = {"bidirectional": bidirectional, "masked": masked, "masked-exact": lambda: masked(exact=True)}


class Uniform(Adapter):
    """A model that knows nothing."""

    site_method, pair_method = "uniform", "uniform_pair"

    def __init__(self) -> None:
        super().__init__(CPU, torch.float32)

    def marginals(self, codes, rows, offsets):
        return torch.full((len(rows), 2, 4), -math.log(4))

    def pseudo_log_likelihoods(self, codes, rows):
        known = (codes < 4).sum(1, dtype=torch.float64)
        return torch.stack([known * (math.log(4) - math.log(4))] * 2, 1)

    def embeddings(self, codes):
        return torch.ones(*codes.shape, 3)


def model_facts(objective: str, window: int = WINDOW) -> ModelFacts:
    return ModelFacts(
        *("small", "small", "family", objective, "single-base", window, 11, Path(), "", 1),
        *("species", "licence", "citation", "description", "limits"),
    )


def random_bases(length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(BASES, k=length))


def reverse_complement(sequence: str) -> str:
    return sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))


def cut(genome: dict[str, str], alleles: list[tuple], objective: str, window: int = WINDOW):
    """Table and windows of alleles (contig, 0-based start, ref, alt)."""
    part = Windows(model_facts(objective, window), 1.0)
    for contig, start, ref, alt in alleles:
        assert genome[contig][start : start + len(ref)] == ref
        part.add(contig, genome[contig], (f"{contig}-{start + 1}-{ref}-{alt}", contig, start + 1, ref, alt))
    part.flush()
    return pd.DataFrame(part.alleles, columns=list(ALLELE_COLUMNS)), part.sequences


def scores(adapter, table, windows, budget: int = 4096, embedding_window: int | None = 11) -> pd.DataFrame:
    return Scorer(adapter, budget, embedding_window).score(table, windows)


GENOME = {
    "one": random_bases(90, 1) + "N" * 9 + random_bases(160, 2),
    "two": random_bases(60, 3),
}


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
    return sorted(set(found), key=lambda item: (list(genome).index(item[0]), *item[1:]))


def own_window(sequence: str, start: int, reach: int = REACH) -> str:
    framed = "N" * reach + sequence + "N" * reach
    return framed[start : start + 2 * reach + 1]


@torch.no_grad()
def log_probabilities(adapter, window: str, at: int) -> np.ndarray:
    """(2, 4) at one position of one window, by the network's own forward pass."""
    if isinstance(adapter, BidirectionalAdapter):
        codes = torch.from_numpy(encode(window).astype(np.int64))[None]
        return np.stack([logits[0, at].double().log_softmax(-1).numpy() for logits in adapter.network(codes)])
    strands = []
    for text, position, order in (
        (window, at, "ACGT"),
        (reverse_complement(window), len(window) - 1 - at, "TGCA"),
    ):
        tokens = [VOCABULARY[base] for base in text]
        tokens[position] = VOCABULARY["[MASK]"]
        logits = adapter.network(input_ids=torch.tensor([[1, *tokens, 2]])).logits[0, position + 1].double()
        strands.append(logits[[VOCABULARY[base] for base in order]].log_softmax(-1).numpy())
    return np.stack(strands)


@pytest.mark.parametrize("name", ["bidirectional", "masked"])
def test_substitutions_score_as_one_window_and_one_allele_at_a_time(name):
    adapter, alleles = ADAPTERS[name](), substitutions(GENOME, every=7 if name == "bidirectional" else 40)
    found = scores(adapter, *cut(GENOME, alleles, "bidirectional" if name == "bidirectional" else "masked"))
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
        assert (row.method, row.status, row.reason) == (adapter.site_method, "scored", "")


@torch.no_grad()
def pseudo_log_likelihood(adapter, sequence: str) -> np.ndarray:
    """(2,): one position after the other."""
    total = np.zeros(2)
    for at, base in enumerate(sequence):
        if base == "N":
            continue
        if isinstance(adapter, BidirectionalAdapter) or adapter.exact:
            logs = log_probabilities(adapter, sequence, at)[:, BASES.index(base)]
        else:
            logs = []
            for text, position in ((sequence, at), (reverse_complement(sequence), len(sequence) - 1 - at)):
                tokens = torch.tensor([[1, *(VOCABULARY[letter] for letter in text), 2]])
                four = adapter.network(input_ids=tokens).logits[0, position + 1].double()
                four = four[[VOCABULARY[letter] for letter in BASES]].log_softmax(-1)
                logs.append(four[BASES.index(text[position])].item())
        total += np.asarray(logs) + math.log(4)
    return total


@pytest.mark.parametrize("name", ADAPTERS)
def test_other_alleles_score_as_the_difference_of_two_haplotypes_summed_base_by_base(name):
    adapter, alleles = ADAPTERS[name](), changes(GENOME)
    alleles = alleles if name == "bidirectional" else alleles[::4]
    objective = "bidirectional" if name == "bidirectional" else "masked"
    found = scores(adapter, *cut(GENOME, alleles, objective), embedding_window=None)
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
        assert (row.method, row.status) == (adapter.pair_method, "scored")
        assert math.isnan(row.entropy)
    assert found["llr"].abs().median() > 0.05


def test_shared_windows_give_the_scores_of_own_windows():
    adapter, alleles = bidirectional(), substitutions(GENOME, every=3)
    tiles, own = (cut(GENOME, alleles, objective) for objective in ("bidirectional", "masked"))
    assert len(tiles[1]) < 6 < len(own[1])
    pd.testing.assert_frame_equal(scores(adapter, *tiles), scores(adapter, *own), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["bidirectional", "masked"])
def test_the_reverse_complemented_genome_swaps_the_strands_and_changes_nothing_else(name):
    adapter = ADAPTERS[name]()
    mutated = [(c, s, r, a) for c, s, r, a in changes(GENOME) if len(r) == len(a)]  # an indel's anchor would move
    alleles = sorted(substitutions(GENOME) + mutated)
    flipped_genome = {contig: reverse_complement(sequence) for contig, sequence in GENOME.items()}
    flipped = [(c, len(GENOME[c]) - s - len(r), reverse_complement(r), reverse_complement(a)) for c, s, r, a in alleles]
    order = sorted(range(len(flipped)), key=lambda number: flipped[number])
    objective = "bidirectional" if name == "bidirectional" else "masked"
    first = scores(adapter, *cut(GENOME, alleles, objective))
    second = scores(adapter, *cut(flipped_genome, [flipped[number] for number in order], objective))
    second.index = order
    second = second.sort_index()
    np.testing.assert_allclose(second["llr_fwd"], first["llr_rev"], atol=1e-4)
    np.testing.assert_allclose(second["llr_rev"], first["llr_fwd"], atol=1e-4)
    same = ["llr", "strand_gap", "entropy", "embedding_l2", "embedding_cosine"]
    np.testing.assert_allclose(second[same], first[same], atol=1e-4)
    assert first["strand_gap"].max() > 0.01


@pytest.mark.parametrize("name", ["bidirectional", "masked"])
def test_an_indel_read_on_the_other_strand_swaps_the_strands(name):
    adapter = ADAPTERS[name]()
    window, other = own_window(GENOME["two"], 30), reverse_complement(own_window(GENOME["two"], 30))
    ref, alt = window[10:14], "G"
    rows = [
        ("id", "two", 1, ref, alt, 0, 10, "scored", ""),
        ("id", "two", 1, reverse_complement(ref), reverse_complement(alt), 1, len(window) - 14, "scored", ""),
    ]
    found = scores(adapter, pd.DataFrame(rows, columns=list(ALLELE_COLUMNS)), [window, other])
    np.testing.assert_allclose(found.loc[0, ["llr_fwd", "llr_rev"]], found.loc[1, ["llr_rev", "llr_fwd"]], atol=1e-4)
    same = ["llr", "embedding_l2", "embedding_cosine"]
    np.testing.assert_allclose(found.loc[0, same].astype(float), found.loc[1, same].astype(float), atol=1e-4)


@pytest.mark.parametrize("name", ADAPTERS)
def test_batch_size_order_and_shards_do_not_move_a_score(name):
    adapter = ADAPTERS[name]()
    alleles = sorted(substitutions(GENOME, every=20) + changes(GENOME)[::3])
    objective = "bidirectional" if name == "bidirectional" else "masked"
    table, windows = cut(GENOME, alleles, objective)
    whole = scores(adapter, table, windows)
    assert whole[["llr", "embedding_l2", "embedding_cosine"]].notna().all(axis=None)

    def same(other: pd.DataFrame) -> None:
        np.testing.assert_allclose(other[NUMBERS], whole[NUMBERS], atol=1e-5)

    same(scores(adapter, table, windows, budget=1))
    same(scores(adapter, table, windows, budget=77))
    shuffled = table.sample(frac=1.0, random_state=5)
    again = scores(adapter, shuffled, windows)
    again.index = shuffled.index
    same(again.sort_index())
    halves = [cut(GENOME, part, objective) for part in (alleles[:9], alleles[9:])]
    same(pd.concat([scores(adapter, *half) for half in halves], ignore_index=True))


def test_padding_to_a_longer_neighbour_does_not_move_a_score():
    adapter = bidirectional()
    haplotypes = [encode(random_bases(length, length)) for length in (50, 52, 55, 59)]
    together = embedding.pseudo_log_likelihoods(Batcher(adapter, 4096), haplotypes)
    batcher = Batcher(adapter, 4096)
    states = embedding.last_states(batcher, haplotypes)
    assert batcher.throughput.batches == 1, "all were padded into one batch"
    for haplotype, sums, state in zip(haplotypes, together, states, strict=True):
        alone = embedding.pseudo_log_likelihoods(Batcher(adapter, 1), [haplotype])[0]
        np.testing.assert_allclose(sums, alone, atol=1e-5)
        np.testing.assert_allclose(state, embedding.last_states(Batcher(adapter, 1), [haplotype])[0], atol=1e-5)


def test_a_model_that_pads_inexactly_never_sees_two_lengths_in_a_batch():
    adapter, widths = masked(), []
    batcher = Batcher(adapter, 4096)
    sequences = [encode(random_bases(length, length)) for length in (20, 21, 20, 22, 21, 20)]
    batcher.run(sequences, lambda codes, numbers: widths.append((codes.shape, sorted(numbers))))
    assert widths == [((3, 20), [0, 2, 5]), ((2, 21), [1, 4]), ((1, 22), [3])]


def test_batches_stay_within_the_budget_and_cover_everything_once():
    rng, seen = random.Random(0), []
    sequences = [encode(random_bases(rng.randint(5, 80), n)) for n in range(200)]

    def compute(codes, numbers):
        assert codes.size <= 300 or len(codes) == 1
        for row, number in zip(codes, numbers, strict=True):
            assert (row[: len(sequences[number])] == sequences[number]).all()
            assert (row[len(sequences[number]) :] == 4).all()
        seen.extend(numbers)

    Batcher(bidirectional(), 300).run(sequences, compute)
    assert sorted(seen) == list(range(200))


def test_equivalent_representations_score_the_same():
    sequence = random_bases(40, 8) + "CAG" * 7 + random_bases(40, 9)
    written = [(start, sequence[start - 1 : start + 3], sequence[start - 1]) for start in range(40, 40 + 3 * 6)] + [
        (45, sequence[44 : 44 + 8], sequence[44 : 44 + 5])
    ]
    alleles = {("c", *left_align(sequence, start - 1, ref, alt)) for start, ref, alt in written}
    assert len(alleles) == 1
    haplotypes = {sequence[: start - 1] + alt + sequence[start - 1 + len(ref) :] for start, ref, alt in written}
    assert len(haplotypes) == 1, "they are the same change"


def test_length_alone_does_not_move_a_score():
    alleles = substitutions(GENOME) + changes(GENOME)
    table, windows = cut(GENOME, sorted(alleles), "masked")
    found = scores(Uniform(), table, windows)
    assert found["llr"].abs().max() == found["strand_gap"].max() == 0
    assert found["entropy"].dropna().to_numpy() == pytest.approx(math.log(4))


def test_a_real_network_with_an_untrained_readout_gives_zero_for_any_indel():
    adapter = bidirectional()
    torch.nn.init.zeros_(adapter.network.readout)
    torch.nn.init.zeros_(adapter.network.readout_bias)
    found = scores(adapter, *cut(GENOME, changes(GENOME), "bidirectional"))
    assert found["llr"].abs().max() < 1e-5


@torch.no_grad()
def distances_by_loops(adapter: Adapter, left: str, ref: str, alt: str, right: str) -> tuple[float, float]:
    """Mean over strands of the Euclidean and the cosine distance, position by position."""
    results = []
    for flip in (False, True):
        states = []
        for sequence in (left + ref + right, left + alt + right):
            text = reverse_complement(sequence) if flip else sequence
            codes = torch.from_numpy(encode(text).astype(np.int64))[None]
            rows = adapter.embeddings(codes)[0].double().numpy()
            states.append(rows[::-1] if flip else rows)
        pairs = [(at, at) for at in range(len(left))]
        pairs += [(len(left) + at, len(left) + at) for at in range(len(ref)) if len(ref) == len(alt)]
        pairs += [(len(left) + len(ref) + at, len(left) + len(alt) + at) for at in range(len(right))]
        squared = sum(((states[0][a] - states[1][b]) ** 2).sum() for a, b in pairs)
        means = [rows.mean(0) for rows in states]
        cosine = means[0] @ means[1] / math.sqrt(means[0] @ means[0]) / math.sqrt(means[1] @ means[1])
        results.append((math.sqrt(squared), 1 - cosine))
    return tuple(np.mean(results, 0))


@pytest.mark.parametrize("name", ["bidirectional", "masked"])
@pytest.mark.parametrize("size", [11, 12])
def test_embedding_distances_equal_loops_over_positions(name, size):
    adapter = ADAPTERS[name]()
    alleles = sorted(substitutions(GENOME, every=40) + changes(GENOME)[::3])
    objective = "bidirectional" if name == "bidirectional" else "masked"
    found = scores(adapter, *cut(GENOME, alleles, objective), embedding_window=size)
    for row, (contig, start, ref, alt) in zip(found.itertuples(), alleles, strict=True):
        framed, start = "N" * WINDOW + GENOME[contig] + "N" * WINDOW, start + WINDOW
        flank = (size - max(len(ref), len(alt))) // 2
        left, right = framed[start - flank : start], framed[start + len(ref) : start + len(ref) + flank]
        expected = distances_by_loops(adapter, left, ref, alt, right)
        assert (row.embedding_l2, row.embedding_cosine) == pytest.approx(expected, abs=1e-4)
        assert row.embedding_l2 > 1e-3


def test_embedding_distances_hold_the_states_of_one_chunk_only(monkeypatch):
    monkeypatch.setattr(embedding, "HELD_BASES", 64)
    held, original = [], embedding.last_states

    def counted(batcher, haplotypes):
        states = original(batcher, haplotypes)
        held.append(sum(state.shape[1] for state in states))
        return states

    table, windows = cut(GENOME, substitutions(GENOME, every=3), "bidirectional")
    whole = scores(bidirectional(), table, windows)
    monkeypatch.setattr(embedding, "last_states", counted)
    chunked = scores(bidirectional(), table, windows, budget=10**6)
    assert len(held) > 10 and max(held) <= 2 * 64
    columns = ["embedding_l2", "embedding_cosine"]
    np.testing.assert_allclose(chunked[columns], whole[columns], atol=1e-5)


def test_equal_haplotypes_have_no_distance_and_flanks_never_vanish():
    pair = haplotype_pair(encode("ACGTACGTACG"), 5, "CGT", "C", size=3)
    assert (len(pair.left), len(pair.right)) == (1, 1)
    states = np.random.default_rng(0).normal(size=(2, 5, 4))
    assert distances(pair, states, states)[0] == 0.0
    assert distances(pair, states, states)[1] == pytest.approx(0.0, abs=1e-12)


class Crowded(BidirectionalAdapter):
    """Fails as a device does that has memory for so many bases."""

    room, error = 200, torch.OutOfMemoryError("CUDA out of memory")

    def checked(self, codes):
        if codes.numel() > self.room:
            raise self.error
        return codes

    def marginals(self, codes, rows, offsets):
        return super().marginals(self.checked(codes), rows, offsets)

    def pseudo_log_likelihoods(self, codes, rows):
        return super().pseudo_log_likelihoods(self.checked(codes), rows)

    def embeddings(self, codes):
        return super().embeddings(self.checked(codes))


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_out_of_memory_halves_the_budget_and_changes_no_score(error):
    alleles = sorted(substitutions(GENOME) + changes(GENOME))
    table, windows = cut(GENOME, alleles, "masked")
    crowded = Crowded(bidirectional().network, CPU, torch.float32)
    crowded.error = error
    scorer = Scorer(crowded, 4096, 11)
    found = scorer.score(table, windows)
    pd.testing.assert_frame_equal(found, scores(bidirectional(), table, windows), rtol=0, atol=1e-5)
    assert scorer.batcher.budget <= crowded.room
    assert scorer.batcher.throughput.halvings >= 3


def test_a_window_that_does_not_fit_alone_ends_in_out_of_memory():
    crowded = Crowded(bidirectional().network, CPU, torch.float32)
    crowded.room = WINDOW - 1
    table, windows = cut(GENOME, substitutions(GENOME), "masked")
    with pytest.raises(OutOfMemory, match=f"^one window of {WINDOW} bases does not fit into memory"):
        scores(crowded, table, windows)


def test_another_error_of_the_network_is_not_taken_for_lack_of_memory():
    crowded = Crowded(bidirectional().network, CPU, torch.float32)
    crowded.error = RuntimeError("shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        scores(crowded, *cut(GENOME, substitutions(GENOME), "masked"))


def test_one_sequence_that_takes_many_passes_gets_smaller_passes_before_it_is_given_up():
    adapter, rows_seen = masked(exact=True), []

    def checked(module, args, kwargs):
        if len(kwargs["input_ids"]) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        rows_seen.append(len(kwargs["input_ids"]))

    haplotype = encode(random_bases(24, 1))
    expected = embedding.pseudo_log_likelihoods(Batcher(adapter, 4096), [haplotype])
    adapter.network.register_forward_pre_hook(checked, with_kwargs=True)
    found = embedding.pseudo_log_likelihoods(Batcher(adapter, 4096), [haplotype])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert max(rows_seen) <= 3


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
        "import resource, runpy, sys; sys.path.insert(0, sys.argv[1]); import torch, seqprior.embedding as e; "
        "old = e.score_shard\n"
        "def limited(*args):\n"
        "    used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))\n"
        "    return old(*args)\n"
        "e.score_shard = limited; script = sys.argv[2]; sys.argv[:3] = [script]\n"
        "runpy.run_path(script, run_name='__main__')\n"
    )
    done = run_script(tmp_path, [sys.executable, "-c", program, str(SCRIPTS), str(SCRIPTS / "score_variants.py")])
    assert done.returncode == 3, done.stderr
    assert "error: one window of 2000001 bases does not fit into memory; use a larger device" in done.stderr
    assert not (tmp_path / "scores.parquet").exists()


def write_shard(folder: Path, table: pd.DataFrame, windows: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    table.to_parquet(folder / "alleles.parquet")
    pd.DataFrame({"window": range(len(windows)), "sequence": windows}).to_parquet(folder / "windows.parquet")


def save_checkpoint(folder: Path) -> None:
    """The random network as a registered checkpoint; the registry goes beside its folder."""
    import json

    from safetensors.torch import save_file

    from seqprior.files import sha256

    folder.mkdir()
    network = bidirectional().network
    save_file(network.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"network": network.config.to_dict()}))
    text = dict.fromkeys(("name", "tokenisation", "species", "licence", "citation", "description", "limits"), "x")
    entry = {
        **text,
        "family": "bidirectional-conv",
        "objective": "bidirectional",
        "window": WINDOW,
        "embedding_window": 11,
        "path": "elsewhere",
        "digest": sha256(folder / "model.safetensors"),
        "parameters": 1,
    }
    (folder.parent / "models.yaml").write_text(yaml.safe_dump({"models": {"small": entry}}))


def run_script(folder: Path, command: list[str], *extra: str) -> subprocess.CompletedProcess:
    arguments = {
        "shard": folder / "shard",
        "registry": folder / "models.yaml",
        "model": "small",
        "checkpoint": folder / "small",
        "device": "cpu",
        "output": folder / "scores.parquet",
        "stats": folder / "stats.json",
    }
    options = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
    return subprocess.run([*command, *options, *extra], capture_output=True, text=True, check=False)


def test_the_script_scores_a_shard_as_the_library_does(tmp_path):
    table, windows = cut(GENOME, sorted(substitutions(GENOME, 30) + changes(GENOME)), "bidirectional")
    write_shard(tmp_path / "shard", table, windows)
    save_checkpoint(tmp_path / "small")
    done = run_script(tmp_path, [sys.executable, str(SCRIPTS / "score_variants.py")], "--batch-tokens", "200")
    assert done.returncode == 0, done.stderr
    found = pd.read_parquet(tmp_path / "scores.parquet")
    expected = scores(bidirectional(), table, windows)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-5, check_dtype=False)
    stats = yaml.safe_load((tmp_path / "stats.json").read_text())
    assert (stats["model"], stats["alleles"], stats["windows"]) == ("small", len(table), len(windows))
    assert stats["tokens"] > 0 and stats["halvings"] == 0


def test_nan_from_the_model_is_an_error_that_says_what_to_do():
    table, windows = cut(GENOME, sorted(substitutions(GENOME, 30) + changes(GENOME)), "bidirectional")
    for dtype, advice in (
        (torch.bfloat16, "bfloat16; set scoring.dtype to float32"),
        (torch.float32, "float32; check"),
    ):
        adapter = bidirectional(dtype)
        with torch.no_grad():
            adapter.network.readout_bias[2] = torch.nan
        with pytest.raises(BadInput, match=f"the model gave NaN or infinity in {advice}"):
            scores(adapter, table, windows)


def test_nan_in_embeddings_is_an_error_too():
    adapter = bidirectional()
    with torch.no_grad():
        adapter.network.scale[0] = torch.nan
    pair = haplotype_pair(encode("ACGTACGTACG"), 5, "C", "T")
    with pytest.raises(BadInput, match="NaN or infinity"):
        embedding.embedding_distances(Batcher(adapter, 100), [pair])


def test_bfloat16_scores_stay_near_float32():
    table, windows = cut(GENOME, sorted(substitutions(GENOME) + changes(GENOME)), "bidirectional")
    exact, coarse = (scores(bidirectional(dtype), table, windows) for dtype in (torch.float32, torch.bfloat16))
    single = exact["method"] == "leave_one_out_marginal"
    error = (exact["llr"] - coarse["llr"]).abs()
    assert 0 < error[single].mean() < 0.01
    assert error[single].max() < 0.05
    assert error[~single].max() < 0.1  # a sum over some thirty positions
    assert exact["llr"].std() > 0.3, "the differences are worth comparing"


@pytest.mark.parametrize("skipped", [0, 2])
@pytest.mark.parametrize("embedding_window", [None, 11])
def test_nothing_to_score_gives_the_usual_columns(tmp_path, skipped, embedding_window):
    rows = [("id", "c", 5, "A", "<DEL>", None, None, "skipped", "window_ambiguous")] * skipped
    write_shard(tmp_path / "shard", pd.DataFrame(rows, columns=list(ALLELE_COLUMNS)), [])
    stats = score_shard(Scorer(bidirectional(), None, embedding_window), tmp_path / "shard", tmp_path / "o.parquet")
    found = pd.read_parquet(tmp_path / "o.parquet")
    assert tuple(found.columns) == SCORES
    assert found["status"].tolist() == ["skipped"] * skipped
    assert found[NUMBERS].isna().all(axis=None) and (found["method"] == "").all()
    assert (stats["alleles"], stats["tokens"], stats["tokens_per_second"]) == (skipped, 0, 0.0)


def test_without_embeddings_their_columns_stay_empty():
    found = scores(bidirectional(), *cut(GENOME, substitutions(GENOME), "bidirectional"), embedding_window=None)
    assert found[["embedding_l2", "embedding_cosine"]].isna().all(axis=None) and found["llr"].notna().all()


def test_entropy_is_that_of_the_renormalised_mean():
    logs = np.log(np.array([[0.25] * 4, [0.5, 0.25, 0.125, 0.125]]))
    expected = [math.log(4), 1.75 * math.log(2)]
    np.testing.assert_allclose(entropy(logs), expected)
    np.testing.assert_allclose(entropy(logs - 3.0), expected)
