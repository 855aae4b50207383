"""Proteins as tokens, tiles and requests, against loops over residues."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_models import ESM_LETTERS, ESM_SPECIAL, ESM_TOKENS, PROTEIN_KINDS, facts_of

from seqprior.errors import BadInput
from seqprior.plans import BLOCK, MaskedResidues, Reading, leftmost, read_scheme
from seqprior.residues import AMINO_ACIDS
from seqprior.tokenisation import Residues
from seqprior.work import make_work

WILD_TYPE, MASKED = Reading(one_pass_marginals=True), Reading()
ESM = {token: number for number, token in enumerate([*ESM_SPECIAL, *ESM_LETTERS])}


def tokeniser(vocabulary: dict[str, int] = ESM, **tokens: str | None) -> Residues:
    roles = {role: token for role, token in {**ESM_TOKENS, **tokens}.items() if token is not None}
    return Residues(replace(facts_of("esm2", Path(), 50), id="m", tokens=roles), vocabulary)


def scheme(window: int, reading: Reading = WILD_TYPE) -> MaskedResidues:
    facts = replace(facts_of("esm2", Path(), window), tokens=ESM_TOKENS)
    return MaskedResidues(facts, Residues(facts, ESM), reading)


def protein(length: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices(AMINO_ACIDS, k=length))


# Tokens


def test_a_residue_is_a_token_between_start_and_end():
    tokens = tokeniser().tokens("MKUX")
    assert tokens.ids.tolist() == [ESM["<cls>"], ESM["M"], ESM["K"], ESM["U"], ESM["X"], ESM["<eos>"]]
    assert tokens.known.tolist() == [False, True, True, False, False, False]
    assert tokens.first.tolist() == [0, 0, 1, 2, 3, 0] and tokens.last.tolist() == [0, 1, 2, 3, 4, 0]


def test_outcomes_are_the_twenty_amino_acids_in_their_order():
    found = tokeniser()
    assert [list(ESM)[number] for number in found.outcomes] == list(AMINO_ACIDS)
    assert np.exp(found.chance).sum() == pytest.approx(1)
    assert [found.index_of[ESM[letter]] for letter in "ACWYX"] == [0, 1, 18, 19, -1]


@pytest.mark.parametrize("letter", list("BJOUXZ*"))
def test_other_letters_are_tokens_of_their_own_else_x_else_unknown_else_mask(letter):
    own = ESM.get(letter, ESM["X"])
    assert tokeniser().cut(letter)[0].tolist() == [own]
    lacking = {token: number for token, number in ESM.items() if token not in "BJOUZ"}
    assert tokeniser(lacking).cut(letter)[0].tolist() == [ESM["X"]]
    del lacking["X"]
    assert tokeniser(lacking).cut(letter)[0].tolist() == [ESM["<unk>"]]
    assert tokeniser(lacking, unknown=None).cut(letter)[0].tolist() == [ESM["<mask>"]]


def test_an_empty_sequence_has_no_residues():
    assert tokeniser().tokens("").ids.tolist() == [ESM["<cls>"], ESM["<eos>"]]


def test_a_vocabulary_without_an_amino_acid_is_refused():
    lacking = {token: number for token, number in ESM.items() if token != "W"}
    with pytest.raises(BadInput) as caught:
        tokeniser(lacking)
    assert str(caught.value) == (
        ".: the vocabulary of m has no number of its own for W; expected 20 tokens of the 20 amino acids; check "
        "tokenisation and k in the model registry"
    )


def test_a_vocabulary_without_any_token_for_an_unknown_residue_is_refused():
    lacking = {token: number for token, number in ESM.items() if token != "X"}
    with pytest.raises(BadInput) as caught:
        tokeniser(lacking, unknown=None, mask=None)
    assert str(caught.value) == (
        ".: the vocabulary of m has no token for an unknown residue; expected X or an unknown or mask token; name one "
        "under tokens in the model registry"
    )


# Tiles


@pytest.mark.parametrize("window", [3, 4, 10, 41])
@pytest.mark.parametrize("length", [1, 3, 9, 10, 11, 14, 15, 16, 41, 42, 100, 203])
def test_each_residue_is_read_from_the_tile_in_which_it_lies_most_central(window, length):
    asked = scheme(window)
    tiles = asked.tiles(length)
    assert tiles[0][0] == 0 and tiles[-1][1] == length
    assert all(end - start == min(window, length) for start, end in tiles)
    owner = {}
    for place in range(length):
        distances = {tile: abs(sum(tile) / 2 - (place + 0.5)) for tile in tiles if tile[0] <= place < tile[1]}
        owner[place] = min(distances, key=distances.get)
        assert asked.tile_of(length, place, place + 1) == owner[place]
        if length > window and window >= 10:  # a quarter of the window on either side, but at the protein's ends
            start, end = owner[place]
            assert place - start >= window // 4 - 1 or start == 0
            assert end - place - 1 >= window // 4 - 1 or end == length
    sequence = protein(length)
    seen = Counter()
    for request, first, last, entry in asked.profile(sequence):
        for place in range(first, last):
            seen[place] += 1
            start, end = owner[place]
            assert request.sequence == sequence[start:end]
            assert request.at[0] + entry // 20 + place - first == place - start
            assert entry + 20 * (last - first) <= request.width
    assert seen == Counter(range(length))


def test_a_protein_of_the_window_takes_one_pass_and_isoforms_share_tiles():
    asked = scheme(1022)
    rows = make_work(asked, [request for request, *_ in asked.profile(protein(1022))]).rows
    assert len(rows) == 1
    whole = protein(3000)
    first, second = ({r for r, *_ in asked.profile(text)} for text in (whole, whole[:2500] + "W" * 40))
    assert len({request.sequence for request in first & second}) == 3


def test_a_change_is_read_from_the_tile_that_has_all_of_it():
    asked = scheme(10)
    assert asked.tiles(23) == [(0, 10), (5, 15), (10, 20), (13, 23)]
    assert asked.tile_of(23, 4, 9) == (0, 10)
    assert asked.tile_of(23, 6, 11) == (5, 15)
    assert asked.tile_of(23, 4, 15) is None


# Plans


def entries(plan) -> list[tuple]:
    return [(p.method, p.alt.kind, p.alt.sequence, p.alt.at, p.alt_entry, p.ref_entry) for p in [plan, *plan.more]] + [
        p.alt == p.ref for p in [plan, *plan.more]
    ]


def test_a_substitution_is_read_from_the_pass_over_its_protein():
    sequence = protein(200, 3)
    sequence = sequence[:150] + "C" + sequence[151:]
    plan = scheme(300).plan(sequence, 150, "C", "W")
    block = 150 // BLOCK * BLOCK
    entry = 20 * (150 - block)
    assert entries(plan) == [
        ("wild_type_marginal", "wild_type_marginal", sequence, (block,), entry + 18, entry + 1),
        True,
    ]
    assert plan.alt in {request for request, *_ in scheme(300).profile(sequence)}


def test_every_plan_of_a_wild_type_marginal_is_answered_by_the_profile():
    for length in (9, 41, 100, 333):
        asked, sequence = scheme(41), protein(length, length)
        known = {request for request, *_ in asked.profile(sequence)}
        for place in range(length - 2):
            alt = "".join(AMINO_ACIDS[(AMINO_ACIDS.index(a) + 1) % 20] for a in sequence[place : place + 3])
            assert set(asked.plan(sequence, place, sequence[place : place + 3], alt).requests) <= known


def test_masked_residues_of_one_change_are_masked_together():
    sequence = "MKTAYIAKQR"
    asked = scheme(20, MASKED)
    plan = asked.plan(sequence, 2, "TAYI", "CAWV")
    (request,) = set(plan.requests)
    assert (request.kind, request.at, request.width) == ("masked_marginal", (2, 4, 5), 60)
    places = [
        (20 * n + AMINO_ACIDS.index(b), 20 * n + AMINO_ACIDS.index(a)) for n, (a, b) in enumerate(["TC", "YW", "IV"])
    ]
    assert [(p.alt_entry, p.ref_entry) for p in [plan, *plan.more]] == places
    (part,) = asked.parts(request)
    assert part.row.masked == (3, 5, 6) and part.positions.tolist() == [3, 5, 6]
    assert asked.plan(sequence, 2, "T", "C").alt == asked.residue(sequence, 2)


@pytest.mark.parametrize("reading", [WILD_TYPE, MASKED])
@pytest.mark.parametrize(
    ("start", "ref", "alt"),
    [(1, "K", "K"), (1, "K", "X"), (1, "K", "*"), (1, "K", "U"), (6, "X", "A"), (6, "XA", "WA"), (1, "K", "KX")],
)
def test_what_is_none_of_the_twenty_has_no_score(reading, start, ref, alt):
    sequence = "MKTAYIXAKQR"
    assert sequence[start : start + len(ref)] == ref
    assert scheme(20, reading).plan(sequence, start, ref, alt) is None


@pytest.mark.parametrize("reading", [WILD_TYPE, MASKED])
def test_an_unknown_residue_that_stays_is_no_obstacle(reading):
    plan = scheme(20, reading).plan("MKTAYIXAKQR", 5, "IXA", "VXC")
    assert len(plan.more) == 1


def test_masked_changes_over_more_than_a_tile_have_no_score():
    sequence, asked = protein(60, 5), scheme(10, MASKED)
    ref = sequence[14:30]
    alt = "".join("A" if a != "A" else "C" for a in ref)
    assert asked.plan(sequence, 14, ref, alt) is None
    assert scheme(10).plan(sequence, 14, ref, alt) is not None, "each residue has a pass that reads it"


def haplotypes(plan) -> tuple[str, str]:
    return plan.alt.sequence, plan.ref.sequence


@pytest.mark.parametrize(
    ("exact", "method"), [(False, "unmasked_pseudo_likelihood"), (True, "masked_pseudo_likelihood")]
)
def test_indels_compare_both_whole_proteins_where_they_fit(exact, method):
    plan = scheme(12, Reading(True, exact)).plan("MKTAYIAKQR", 4, "Y", "YWW")
    assert haplotypes(plan) == ("MKTAYWWIAKQR", "MKTAYIAKQR")
    assert (plan.method, plan.alt.kind) == (method, method)


@pytest.mark.parametrize("start", [0, 1, 20, 31, 57, 58, 60])
@pytest.mark.parametrize(("deleted", "inserted"), [(0, 2), (2, 0), (1, 3), (0, 9)])
def test_indels_of_long_proteins_have_equal_flanks_that_fill_the_window(start, deleted, inserted):
    sequence = "MK"
    for letter in protein(200, 6):  # no W, and none as one of the two before it, so that no deletion can be shifted
        sequence += letter if letter not in "W" + sequence[-2:] and len(sequence) < 60 else ""
    start = min(start, 60 - deleted)
    ref = sequence[start : start + deleted]
    plan = scheme(16).plan(sequence, start, ref, "W" * inserted)
    alternate, reference = haplotypes(plan)
    assert plan.method == "unmasked_pseudo_likelihood_tiled"
    flanks = 16 - max(deleted, inserted)
    assert len(reference) == flanks + deleted and len(alternate) == flanks + inserted
    at = sequence.index(reference)
    left = start - at
    assert alternate == reference[:left] + "W" * inserted + reference[left + deleted :]
    assert abs(2 * left - flanks) <= 1 or at == 0 or at + len(reference) == 60


def test_equivalent_indels_are_one_request():
    sequence = "MKQQQQTAYAYAYIR" + protein(40, 8)
    asked = scheme(14)
    deletions = [asked.plan(sequence, start, "Q", "") for start in range(2, 6)]
    anchored = [asked.plan(sequence, 1, "KQ", "K"), asked.plan(sequence, 5, "QT", "T")]
    insertions = [
        asked.plan(sequence, 7, "", "AY"),
        asked.plan(sequence, 8, "", "YA"),
        asked.plan(sequence, 13, "", "AY"),
    ]
    assert len(set(deletions + anchored)) == 1 and len(set(insertions)) == 1
    replaced = [asked.plan(sequence, 6, "TAY", "TWWY"), asked.plan(sequence, 7, "A", "WW")]
    assert len(set(replaced)) == 1


def test_leftmost_changes_give_the_same_protein():
    rng = random.Random(1)
    for _ in range(500):
        sequence = "".join(rng.choices("AC", k=12))
        start = rng.randrange(12)
        ref = sequence[start : start + rng.randrange(4)]
        alt = "".join(rng.choices("AC", k=rng.randrange(4)))
        if ref == alt:
            continue
        first, old, new = leftmost(sequence, start, ref, alt)
        changed = sequence[:start] + alt + sequence[start + len(ref) :]
        assert sequence[first : first + len(old)] == old
        assert sequence[:first] + new + sequence[first + len(old) :] == changed
        if not old or not new:
            size = len(new) - len(old)
            ways = [
                n
                for n in range(len(sequence) + 1)
                if (size > 0 and sequence[:n] + changed[n : n + size] + sequence[n:] == changed)
                or (size < 0 and n - size <= len(sequence) and sequence[:n] + sequence[n - size :] == changed)
            ]
            assert first == min(ways)


def test_a_change_that_leaves_no_flank_has_no_score():
    assert scheme(10).plan("MKT", 0, "MKT", "") is None
    assert scheme(10).plan(protein(30, 2), 3, "", "W" * 10) is None


# What a request is


def test_proteins_are_read_on_one_strand():
    asked = scheme(40)
    sequence = protein(30, 4)
    requests = [request for request, *_ in asked.profile(sequence)]
    assert make_work(asked, requests).constants.shape == (1, 1, 20 * BLOCK)
    plan = asked.plan(sequence, 3, sequence[3], "")
    work = make_work(asked, list(plan.requests))
    assert work.constants.shape == (2, 1, 1) and len(work.rows) == 2
    assert asked.passes(plan.alt) == 1
    assert (
        scheme(40, Reading(True, True)).passes(scheme(40, Reading(True, True)).plan(sequence, 3, sequence[3], "").alt)
        == 29
    )


def test_readings_share_the_keys_of_what_is_the_same():
    sequence = protein(30, 4)
    wild, masked = scheme(40), scheme(40, MASKED)
    assert wild.salt == masked.salt
    assert [r.key(b"x") for r, *_ in wild.profile(sequence)] == [r.key(b"x") for r, *_ in masked.profile(sequence)]
    keys = {r.key(b"x") for place in range(30) for r in (masked.residue(sequence, place),)}
    keys |= {r.key(b"x") for r, *_ in wild.profile(sequence)}
    assert len(keys) == 31


@pytest.mark.parametrize("name", PROTEIN_KINDS)
def test_the_registry_entry_chooses_the_scheme(tmp_path, name):
    facts = replace(facts_of(name, tmp_path, 50), vocabulary=ESM, tokens=ESM_TOKENS)
    (tmp_path / "config.json").write_text('{"pad_token_id": 1}')
    found = read_scheme(facts, WILD_TYPE)
    assert isinstance(found, MaskedResidues) and isinstance(found.tokeniser, Residues)
    assert found.site_method == "wild_type_marginal"


@pytest.mark.parametrize(("kind", "tokenisation"), [("dna", "residue"), ("protein", "single-base")])
def test_dna_and_proteins_are_not_mixed_up(tmp_path, kind, tokenisation):
    facts = replace(facts_of("esm2", tmp_path, 50), id="m", kind=kind, tokenisation=tokenisation)
    with pytest.raises(BadInput) as caught:
        read_scheme(facts, WILD_TYPE)
    assert str(caught.value) == (
        f"m: the entry says kind: {kind} and tokenisation: {tokenisation}, and residue goes with protein alone; "
        "correct the model registry"
    )
