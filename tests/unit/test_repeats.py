"""Repeated positions, against a search by hand through every pair of windows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqprior.repeats import canonical_kmers, repeat_masks
from seqprior.sequence import encode, reverse_complement


def masks_by_hand(genome: dict[str, str], k: int) -> dict[str, list[bool]]:
    """Each window of k known bases is looked for at every other place, as it is and as its reverse complement."""
    places = [(name, start) for name, text in genome.items() for start in range(len(text) - k + 1)]
    window = {place: genome[place[0]][place[1] : place[1] + k] for place in places}
    places = [place for place in places if "N" not in window[place]]
    masks = {name: [False] * len(text) for name, text in genome.items()}
    for place in places:
        forms = {window[place], reverse_complement(window[place])}
        if any(window[other] in forms for other in places if other != place):
            name, start = place
            masks[name][start : start + k] = [True] * k
    return masks


@settings(max_examples=200, deadline=None)
@given(
    genome=st.dictionaries(st.sampled_from(["a", "b", "c"]), st.text("ACGT", max_size=40), min_size=1),
    k=st.integers(2, 7),
)
def test_masks_equal_a_search_by_hand(genome, k):
    found = repeat_masks({name: encode(text) for name, text in genome.items()}, k)
    assert {name: mask.tolist() for name, mask in found.items()} == masks_by_hand(genome, k)


@pytest.mark.parametrize(
    "genome",
    [
        {"a": "ACGTTGCANNGGATCC"},
        {"a": "NNNNACGGTCANNNNN", "b": "TTGACCGTAA"},
        {"a": "ACGGTCAN", "b": "NACGGTCA"},
        {"a": "NNNN", "b": "NNNNNN"},
    ],
)
def test_unknown_bases_are_no_repeat(genome):
    found = repeat_masks({name: encode(text) for name, text in genome.items()}, 4)
    assert {name: mask.tolist() for name, mask in found.items()} == masks_by_hand(genome, 4)


def test_a_repeat_on_the_other_strand_counts():
    unit = "ACCGATTGCA"
    genome = {"a": unit + "TTTT", "b": "GG" + reverse_complement(unit)}
    masks = repeat_masks({name: encode(text) for name, text in genome.items()}, 10)
    assert masks["a"].tolist() == [True] * 10 + [False] * 4
    assert masks["b"].tolist() == [False] * 2 + [True] * 10


def test_a_window_that_is_its_own_reverse_complement_is_no_repeat_of_itself():
    assert not repeat_masks({"a": encode("GAATTC")}, 6)["a"].any()


def test_both_strands_give_the_same_kmers():
    text = "ACGTTGCATNGGATCCATTA"
    forward = canonical_kmers(encode(text), 5)
    reverse = canonical_kmers(encode(reverse_complement(text)), 5)
    assert np.array_equal(forward, reverse[::-1])


def test_a_contig_shorter_than_a_window_has_no_repeat():
    masks = repeat_masks({"a": encode("ACG"), "b": encode("ACGACG")}, 4)
    assert masks["a"].tolist() == [False] * 3
