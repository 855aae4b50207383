"""Markov models and the reading-frame rule, against counts and translations by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from Bio.Seq import Seq

from seqprior.baselines import (
    STRENGTHS,
    both_strands_leave_one_out,
    both_strands_left_to_right,
    count_windows,
    fit_markov,
    open_frames,
    other_strand,
    stops_longest_frame,
)
from seqprior.sequence import BASES, encode, reverse_complement


def random_bases(seed: int, length: int, unknown: int = 0) -> str:
    draw = np.random.default_rng(seed)
    letters = draw.choice(list("AACGTTTG"), length)
    letters[draw.choice(length, unknown, replace=False)] = "N"
    return "".join(letters)


TRAINING = [random_bases(1, 300, unknown=2), random_bases(2, 200)]
VALIDATION = random_bases(3, 150)
ORDER = 3


@pytest.fixture(scope="module")
def models():
    validation = encode(VALIDATION)
    return fit_markov(map(encode, TRAINING), {"v": validation}, {"v": np.ones(len(validation), bool)}, ORDER)


def probability_by_hand(base: str, context: str, strengths: list[float]) -> float:
    """p(base | context), from windows that are counted letter by letter."""
    windows = Counter()
    for contig in TRAINING:
        for strand in (contig, reverse_complement(contig)):
            windows.update(strand[at : at + ORDER + 1] for at in range(len(strand) - ORDER))
    known = {window: count for window, count in windows.items() if "N" not in window}

    def seen(suffix: str) -> int:
        return sum(count for window, count in known.items() if window.endswith(suffix))

    if not context:
        return seen(base) / sum(known.values())
    total = sum(seen(context + other) for other in BASES)
    lower = probability_by_hand(base, context[1:], strengths)
    strength = strengths[len(context)]
    return (seen(context + base) + strength * lower) / (total + strength)


def test_window_counts_equal_counts_by_hand():
    counts = count_windows([encode("ACGNTTACG")], 3)
    found = {"".join(BASES[number >> 2 * (2 - at) & 3] for at in range(3)): counts[number] for number in range(64)}
    expected = {"ACG": 2, "TTA": 1, "TAC": 1, "CGT": 2, "TAA": 1, "GTA": 1}
    assert {window: count for window, count in found.items() if count} == expected


@pytest.mark.parametrize("order", range(ORDER + 1))
def test_probabilities_equal_those_counted_by_hand(models, order):
    text = "TACGATTGNACCAT"
    logs = models[order].left_to_right(encode(text))
    strengths = [model.strength for model in models]
    for at, base in enumerate(text):
        context = text[max(at - order, 0) : at]
        if base == "N":
            assert math.isnan(logs[at])
            continue
        if "N" in context or len(context) < order:
            context = ""
        assert logs[at] == pytest.approx(math.log(probability_by_hand(base, context, strengths)), abs=1e-5)


def test_each_order_takes_the_strength_that_predicts_validation_best(models):
    """Order 1 by hand for every strength; the chosen one has the lowest loss."""
    losses = []
    for strength in STRENGTHS:
        logs = [
            math.log(probability_by_hand(base, VALIDATION[at - 1] if at else "", [0, strength]))
            for at, base in enumerate(VALIDATION)
        ]
        losses.append(-sum(logs))
    assert models[1].strength == STRENGTHS[int(np.argmin(losses))]


def test_probabilities_sum_to_one(models):
    for model in models:
        assert np.allclose(np.exp(model.logs).reshape(-1, 4).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("order", [1, ORDER])
def test_leave_one_out_is_bayes_rule_over_whole_sequences(models, order):
    text = random_bases(5, 40)
    positions = np.array([order, order + 1, 17, 30, 38, 39])
    found = models[order].leave_one_out(encode(text), positions)
    for row, at in zip(found, positions, strict=True):
        whole = [models[order].left_to_right(encode(text[:at] + base + text[at + 1 :])).sum() for base in BASES]
        assert row == pytest.approx(np.array(whole) - np.logaddexp.reduce(whole), abs=1e-4)


def test_leave_one_out_does_not_depend_on_the_base_that_stands_there(models):
    text = random_bases(6, 30)
    answers = [models[ORDER].leave_one_out(encode(text[:12] + base + text[13:]), np.array([12]))[0] for base in BASES]
    assert np.ptp(answers, axis=0).max() < 1e-5


def test_both_strands_give_the_same_answer(models):
    codes = encode(random_bases(7, 60, unknown=1))
    positions = np.arange(60)
    other = both_strands_leave_one_out(models[ORDER], other_strand(codes), positions)[::-1, ::-1]
    logs = both_strands_leave_one_out(models[ORDER], codes, positions)
    assert np.allclose(logs, other, atol=1e-5)
    assert np.allclose(np.exp(logs).sum(1), 1, atol=1e-5)
    reverse = both_strands_left_to_right(models[ORDER], other_strand(codes))[::-1]
    assert np.allclose(both_strands_left_to_right(models[ORDER], codes), reverse, atol=1e-5, equal_nan=True)


def test_other_strand_is_the_reverse_complement():
    text = random_bases(8, 50, unknown=3)
    assert np.array_equal(other_strand(encode(text)), encode(reverse_complement(text)))


def frames_by_hand(text: str) -> np.ndarray:
    """Open stretches by translating each frame with Biopython and splitting at stops."""
    lengths = np.zeros((6, len(text)), int)
    for strand, read in enumerate((text, reverse_complement(text))):
        for frame in range(3):
            whole = (len(read) - frame) // 3 * 3
            protein = str(Seq(read[frame : frame + whole]).translate())
            at = frame
            for stretch in protein.split("*"):
                for start in range(at, at + 3 * len(stretch)):
                    lengths[3 * strand + frame, len(text) - 1 - start if strand else start] = len(stretch)
                at += 3 * len(stretch) + 3
    return lengths


@pytest.mark.parametrize("length", [5, 60, 61, 62, 400])
def test_open_frames_equal_a_translation(length):
    text = random_bases(length, length)
    assert np.array_equal(open_frames(encode(text)), frames_by_hand(text))


def test_an_unknown_base_ends_an_open_stretch():
    assert open_frames(encode("GCAGCNGCAGCA"))[0].tolist() == [1, 1, 1, 0, 0, 0, 2, 2, 2, 2, 2, 2]


ORF = "GCA" * 4 + "TAC" + "GCA" * 4  # stops in no frame; of the three forward frames the first comes first
GENE = "TAA" + "GCC" * 3 + "TGG" + "GCC" * 3 + "TAG"


def test_a_stop_in_the_longest_stretch_is_found():
    # TAC to TAA and TAG at the last base of the codon; TAT, and any change that leaves the frame open, are none.
    codes = encode(ORF)
    found = stops_longest_frame(codes, np.array([14, 14, 14, 13]), encode("AGTG"))
    assert found.tolist() == [True, True, False, False]


def test_the_rule_reads_the_strand_of_the_longest_stretch():
    """Every substitution of a sequence, against one frame at a time translated by Biopython, on either strand."""
    for text in (GENE, reverse_complement(GENE), ORF, reverse_complement(ORF), random_bases(11, 90)):
        codes, lengths = encode(text), frames_by_hand(text)
        for at in range(len(text)):
            frame = int(lengths[:, at].argmax())
            for base in BASES:
                changed = text[:at] + base + text[at + 1 :]
                read = reverse_complement(changed) if frame >= 3 else changed
                place = len(text) - 1 - at if frame >= 3 else at
                start = place - (place - frame % 3) % 3
                expected = bool(lengths[frame, at]) and str(Seq(read[start : start + 3]).translate()) == "*"
                assert stops_longest_frame(codes, np.array([at]), encode(base)).tolist() == [expected]


def test_no_position_gives_no_answer():
    assert stops_longest_frame(encode(ORF), np.array([], int), np.array([], np.uint8)).shape == (0,)
