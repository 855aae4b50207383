"""Shuffled sequence against enumeration of every rearrangement with the same dinucleotides."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise, permutations

import pytest
from scipy.stats import chisquare

from seqprior.shuffling import dinucleotide_shuffle


def pairs(sequence: str) -> Counter:
    return Counter(pairwise(sequence))


def rearrangements(sequence: str) -> list[str]:
    """Every sequence of the same dinucleotides with the same first and last base."""
    inner = {"".join(order) for order in permutations(sequence[1:-1])}
    found = (sequence[0] + order + sequence[-1] for order in inner)
    return sorted(one for one in found if pairs(one) == pairs(sequence))


@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (8, 1, 1, 8), (50, 1, 0, 0)])
def test_dinucleotides_and_both_ends_are_kept_exactly(weights):
    rng = random.Random(1)
    for seed in range(50):
        sequence = "".join(rng.choices("ACGT", weights, k=rng.randint(1, 300)))
        shuffled = dinucleotide_shuffle(sequence, seed)
        assert pairs(shuffled) == pairs(sequence)
        assert (shuffled[0], shuffled[-1], len(shuffled)) == (sequence[0], sequence[-1], len(sequence))


@pytest.mark.parametrize(
    "sequence", ["ACAGATACG", "AACCAGGATA", "ACGTACTGCA", "TTATCTTGAT", "GGCGAGTGCC", "CAACCCACTA"]
)
def test_every_rearrangement_is_equally_likely(sequence):
    possible = rearrangements(sequence)
    assert len(possible) > 3
    drawn = Counter(dinucleotide_shuffle(sequence, seed) for seed in range(200 * len(possible)))
    assert set(drawn) == set(possible)
    assert chisquare([drawn[one] for one in possible]).pvalue > 1e-4


def test_unknown_letters_stay_and_stretches_between_them_are_shuffled_on_their_own():
    rng = random.Random(2)
    stretches = ["".join(rng.choices("ACGT", k=length)) for length in (60, 1, 2, 90)]
    sequence = "NN" + stretches[0] + "NRN" + stretches[1] + "n" + stretches[2] + "Y" + stretches[3]
    shuffled = dinucleotide_shuffle(sequence, 3)
    at = 0
    for gap, stretch in zip(("NN", "NRN", "N", "Y"), stretches, strict=True):
        assert shuffled[at : at + len(gap)] == gap
        at += len(gap)
        piece = shuffled[at : at + len(stretch)]
        assert pairs(piece) == pairs(stretch)
        assert piece != stretch or len(stretch) < 4
        at += len(stretch)
    assert at == len(shuffled)


def test_lower_case_counts_as_upper_case():
    sequence = "acgtTGCAacggtcaAGGCTA"
    assert dinucleotide_shuffle(sequence, 4) == dinucleotide_shuffle(sequence.upper(), 4)


def test_a_seed_gives_one_sequence_and_another_seed_another():
    sequence = "".join(random.Random(5).choices("ACGT", k=500))
    shuffled = [dinucleotide_shuffle(sequence, seed) for seed in (1, 1, 2)]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert sequence not in shuffled


@pytest.mark.parametrize("sequence", ["", "A", "AC", "ACG", "N", "NNN", "AAAAA"])
def test_what_has_one_arrangement_stays(sequence):
    assert dinucleotide_shuffle(sequence, 0) == sequence


def test_a_single_way_out_of_a_long_repeat_is_found():
    sequence = "AC" * 50_000 + "G" + "TTTT" * 25_000 + "A"
    shuffled = dinucleotide_shuffle(sequence, 6)
    assert pairs(shuffled) == pairs(sequence)
