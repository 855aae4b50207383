"""Seqlets and motifs against brute force and against motifs that were planted."""

from __future__ import annotations

import numpy as np
import pytest

from seqprior.seqlets import (
    FEWEST,
    HALF,
    SHIFT,
    Patches,
    Seqlet,
    alignments,
    clusters,
    consensus,
    find_motifs,
    find_seqlets,
    significant,
    unit,
)
from seqprior.significance import LONGEST


def test_a_seqlet_is_scored_by_its_contributions_and_has_a_length_that_a_site_may_have():
    values = np.zeros((2, 100), np.float32)
    values[0, 10:16] = 2.0  # a seqlet
    values[0, 50:53] = 5.0  # too short
    values[1, 20:90] = 1.0  # too long
    values[1, 40:60] = 2.0
    short, cut = find_seqlets(values, 0.5)
    assert (short.window, short.start, short.end, short.score) == (0, 10, 16, 12.0)
    assert cut.end - cut.start == LONGEST
    assert cut.start <= 40 and cut.end >= 60
    assert cut.score == values[1, cut.start : cut.end].sum() == LONGEST + 20


def test_q_values_are_the_lowest_rate_of_control_over_rate_found():
    rng = np.random.default_rng(1)
    seqlets = [Seqlet(0, 0, 5, float(score)) for score in rng.normal(1, 1, 60).round(1)]
    control = [Seqlet(0, 0, 5, float(score)) for score in rng.normal(0, 1, 45).round(1)]
    bases, control_bases = 1000, 700
    scored = significant(seqlets, control, bases, control_bases)

    def rate(score: float) -> float:
        chance = (sum(other.score >= score for other in control) + 1) / control_bases
        return min(chance / (sum(other.score >= score for other in seqlets) / bases), 1.0)

    for seqlet in scored:
        assert seqlet.p_value == (sum(other.score >= seqlet.score for other in control) + 1) / 46
        assert seqlet.q_value == pytest.approx(min(rate(o.score) for o in seqlets if o.score <= seqlet.score))
    assert len({seqlet.q_value for seqlet in scored}) > 5
    assert significant([], control, bases, control_bases) == []


def test_seqlets_of_nothing_but_noise_are_rarely_significant():
    kept = 0
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(0, 1, (2, 50, 200))
        found, control = (find_seqlets(values, 1.0) for values in noise)
        kept += sum(seqlet.q_value <= 0.05 for seqlet in significant(found, control, 10_000, 10_000))
    assert kept <= 20  # of about 1,000 in all


def test_alignments_are_the_best_of_every_shift_and_orientation():
    rng = np.random.default_rng(2)
    profiles = unit(rng.normal(size=(4, 2 * HALF + 1, 4)))
    others = unit(rng.normal(size=(3, 2 * HALF + 1, 4)))
    others[0] = np.roll(profiles[1][::-1, ::-1], 3, 0)
    cosines, shifts, turned = alignments(profiles, others)
    for one in range(4):
        for two in range(3):
            options = {}
            for turn in (False, True):
                laid = profiles[one][::-1, ::-1] if turn else profiles[one]
                for shift in range(-SHIFT, SHIFT + 1):
                    pairs = [(at + shift, at) for at in range(2 * HALF + 1) if 0 <= at + shift < 2 * HALF + 1]
                    options[shift, turn] = sum(laid[a] @ others[two][b] for a, b in pairs)
            best = max(options, key=options.__getitem__)
            assert (shifts[one, two], turned[one, two]) == best
            assert cosines[one, two] == pytest.approx(options[best])
    assert cosines[1, 0] > 0.8 and turned[1, 0] and shifts[1, 0] == -3


CORES = ("TTACCCGG", "CGTATAAAGTGA")  # neither is its own reverse complement


def planted(seed: int, cores=CORES, windows: int = 120, width: int = 100):
    """Windows of random bases that each hold one core on a random strand, with contributions there and noise."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(4, size=(windows, width))
    worth = rng.normal(0, 0.1, (windows, width)).astype(np.float32)
    truth = []
    for window in range(windows):
        core = cores[window % len(cores)]
        word = np.array(["ACGT".index(base) for base in core])
        reverse = bool(rng.integers(2))
        start = int(rng.integers(2, width - len(core) - 2))
        codes[window, start : start + len(core)] = 3 - word[::-1] if reverse else word
        worth[window, start : start + len(core)] += 1.5
        truth.append((core, start, reverse))
    return codes, worth, truth


def test_planted_motifs_are_found_with_their_strands():
    codes, worth, truth = planted(3)
    seqlets = [seqlet for seqlet in find_seqlets(worth, 0.3) if seqlet.score > 5]
    assert len(seqlets) == 120
    motifs = find_motifs(seqlets, codes, worth)
    assert len(motifs) == 2
    assert sorted(number for motif in motifs for number in motif.members) == list(range(120))
    complement = str.maketrans("ACGT", "TGCA")
    for motif in motifs:
        word = consensus(motif.matrix)
        core = next(core for core in CORES if word in (core, core[::-1].translate(complement)))
        flipped = word != core
        for member, reverse in zip(motif.members, motif.reverse, strict=True):
            expected, start, strand = truth[seqlets[member].window]
            assert expected == core
            assert reverse == (strand != flipped)
            assert abs(seqlets[member].start - start) <= 3
        assert motif.matrix.sum(1) == pytest.approx(1)
        assert (motif.matrix > 0).all()
        assert motif.matrix.max() == pytest.approx((60 + 0.25) / 61)


def test_the_motif_does_not_depend_on_the_strand_in_which_windows_are_read():
    codes, worth, _ = planted(4, CORES[:1])
    both = []
    for c, w in ((codes, worth), (3 - codes[:, ::-1], worth[:, ::-1])):
        (motif,) = find_motifs([s for s in find_seqlets(w, 0.3) if s.score > 5], c, w)
        both.append(motif.matrix)
    assert any(np.allclose(both[0], other, atol=0.05) for other in (both[1], both[1][::-1, ::-1]))


def test_few_or_unlike_seqlets_make_no_motif():
    codes, worth, _ = planted(5, CORES[:1])
    seqlets = [seqlet for seqlet in find_seqlets(worth, 0.3) if seqlet.score > 5]
    assert find_motifs(seqlets[: FEWEST - 1], codes, worth) == []
    assert len(find_motifs(seqlets[:FEWEST], codes, worth)) == 1
    rng = np.random.default_rng(6)
    assert find_motifs(seqlets[:40], rng.integers(4, size=codes.shape), worth) == []


def test_a_motif_cut_off_by_the_edge_of_a_window_is_still_counted():
    codes, worth, _ = planted(7, CORES[:1], windows=40)
    word = np.array(["ACGT".index(base) for base in CORES[0]])
    worth[:2] = 0
    codes[0, :6], worth[0, :6] = word[2:], 1.5
    codes[1, -6:], worth[1, -6:] = word[:-2], 1.5
    seqlets = [seqlet for seqlet in find_seqlets(worth, 0.3) if seqlet.score > 5]
    (motif,) = find_motifs(seqlets, codes, worth)
    assert len(motif.members) == len(seqlets)
    assert len(motif.matrix) == len(CORES[0])


def test_clusters_hold_each_row_once():
    codes, worth, _ = planted(8)
    seqlets = find_seqlets(worth, 0.3)
    patches = Patches.around(seqlets, codes, worth)
    groups = clusters(patches.profiles(np.arange(len(seqlets))))
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(seqlets)))
    assert [len(group) for group in groups] == sorted(map(len, groups), reverse=True)
    assert clusters(patches.profiles(np.arange(1)))[0].tolist() == [0]
