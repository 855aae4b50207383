"""Outcomes of base editors against regular expressions over whole strands, and comparison alleles by brute force."""

from __future__ import annotations

import itertools
import logging
import re
from collections import Counter

import numpy as np
import pytest

from seqprior.base_editing import EDITORS, Editor, known_editors, nearby_shapes, outcomes, why_no_guide
from seqprior.errors import BadInput
from seqprior.variants import left_align

IUPAC = {"N": "[ACGT]", "R": "[AG]", "Y": "[CT]", "W": "[AT]", "V": "[ACG]"}
COMPLEMENT = str.maketrans("ACGTN", "TGCAN")


def random_bases(length: int, seed: int, letters: str = "ACGT") -> str:
    return "".join(np.random.default_rng(seed).choice(list(letters), length))


def slicer(sequence: str):
    def fetch(chrom: str, start: int, end: int) -> str:
        assert start >= 0
        return sequence[start:end]

    return fetch


def brute_outcomes(sequence: str, position: int, editor: Editor) -> Counter:
    """Every outcome as (guide, pam, strand, start, end, edited genome), found on whole strands by their PAM."""
    found: Counter = Counter()
    length, first, last = editor.protospacer, *editor.window
    base, new = editor.change.split(">")
    pattern = re.compile(
        f"(?=([ACGT]{{{length}}})(" + "".join(IUPAC.get(letter, letter) for letter in editor.pam) + "))"
    )
    for strand in "+-":
        text = sequence if strand == "+" else sequence.translate(COMPLEMENT)[::-1]
        target = position if strand == "+" else len(sequence) - 1 - position
        for match in pattern.finditer(text):
            window = range(match.start() + first - 1, match.start() + last)
            editable = [place for place in window if text[place] == base]
            if target not in editable:
                continue
            start = match.start() if strand == "+" else len(text) - match.start() - length
            for flags in itertools.product([False, True], repeat=len(editable)):
                if any(flags):
                    edited = list(text)
                    for place, flag in zip(editable, flags, strict=True):
                        if flag:
                            edited[place] = new
                    genome = "".join(edited)
                    genome = genome if strand == "+" else genome.translate(COMPLEMENT)[::-1]
                    found[match[1], match[2], strand, start, start + length, genome] += 1
    return found


@pytest.mark.parametrize(
    "editor",
    [
        *(EDITORS[name] for name in ("ABE7.10", "ABE8e", "BE4max", "evoCDA1-BE4max", "SpRY-BE4max")),
        Editor("short", "C>G", "NRNT", (1, 7), 15),
        Editor("end", "A>C", "NV", (28, 30), 30),
    ],
    ids=lambda editor: editor.name,
)
def test_outcomes_equal_those_of_a_regular_expression_over_both_strands(editor):
    sequence = random_bases(150, 3, "ACGGTC" if editor.change[0] == "C" else "AATGGC") + "N" + random_bases(60, 4)
    reached = set()
    for position in range(len(sequence)):
        expected = brute_outcomes(sequence, position, editor)
        listed = outcomes(slicer(sequence), "c", position, editor, most=2**15)
        found: Counter = Counter()
        for outcome in listed:
            genome = list(sequence)
            for place, ref, alt in outcome.changes:
                assert genome[place] == ref
                genome[place] = alt
            site = (outcome.guide, outcome.pam, outcome.strand, outcome.start, outcome.end)
            found[(*site, "".join(genome))] += 1
        assert found == expected
        assert max(found.values(), default=1) == 1
        reached |= {strand for _, _, strand, *_ in expected}
    assert reached == {"+", "-"}


def test_each_outcome_says_what_became_of_the_target():
    sequence = random_bases(400, 5, "AATGGC")
    editor = EDITORS["ABE8e"]
    with_target = without = 0
    for position in range(400):
        for outcome in outcomes(slicer(sequence), "c", position, editor):
            places = [place for place, _, _ in outcome.changes]
            spacer = sequence[outcome.start : outcome.end]
            if outcome.strand == "-":
                spacer = spacer.translate(COMPLEMENT)[::-1]
                numbers = sorted(outcome.end - place for place in places)
                assert outcome.target_number == outcome.end - position
            else:
                numbers = sorted(place - outcome.start + 1 for place in places)
                assert outcome.target_number == position - outcome.start + 1
            assert spacer == outcome.guide and spacer[outcome.target_number - 1] == "A"
            assert outcome.edited == tuple(numbers) and places == sorted(places)
            assert outcome.bystanders == len(set(places) - {position})
            with_target += position in places
            without += position not in places
    assert with_target > without > 0


def test_the_target_comes_first_and_then_the_fewest_bystanders():
    #           position 1..20     PAM
    sequence = "TTT" + "TTTATAAATTTTTTTTTTTT" + "TGG" + "TTT"
    listed = outcomes(slicer(sequence), "c", 3 + 5, EDITORS["ABE8e"])
    assert {(outcome.guide, outcome.strand, outcome.start, outcome.end) for outcome in listed} == {
        ("TTTATAAATTTTTTTTTTTT", "+", 3, 23)
    }
    assert [outcome.edited for outcome in listed] == [
        *[(6,), (4, 6), (6, 7), (6, 8), (4, 6, 7), (4, 6, 8), (6, 7, 8), (4, 6, 7, 8)],
        *[(4,), (7,), (8,), (4, 7), (4, 8), (7, 8), (4, 7, 8)],
    ]
    assert [outcome.bystanders for outcome in listed] == [0, 1, 1, 1, 2, 2, 2, 3, 1, 1, 1, 2, 2, 2, 3]
    assert listed[1].changes == ((6, "A", "G"), (8, "A", "G"))


def test_a_guide_of_the_other_strand_changes_the_complement():
    forward = "TTT" + "TTTATAAATTTTTTTTTTTT" + "TGG" + "TTT"
    sequence = forward.translate(COMPLEMENT)[::-1]
    position = len(sequence) - 1 - 8
    listed = outcomes(slicer(sequence), "c", position, EDITORS["ABE8e"])
    assert listed[0].changes == ((position, "T", "C"),) and listed[0].strand == "-"
    assert listed[0].guide == "TTTATAAATTTTTTTTTTTT" and listed[0].pam == "TGG"
    assert outcomes(slicer(sequence), "c", position, EDITORS["ABE8e"], strand="+") == []
    assert outcomes(slicer(sequence), "c", position, EDITORS["ABE8e"], strand="-") == listed


def test_what_is_left_out_is_the_end_of_the_list_and_is_said(caplog):
    editor = Editor("wide", "A>G", "NGG", (1, 20))
    sequence = "A" * 20 + "TGG"
    with caplog.at_level(logging.WARNING):
        few = outcomes(slicer(sequence), "c", 4, editor, most=30)
    assert "c:5: guide AAAAAAAAAAAAAAAAAAAA (+) of wide has 1048575 outcomes; the 30 with" in caplog.text
    assert len(few) == 30 and few[0].edited == (5,)
    assert [outcome.bystanders for outcome in few] == [0] + [1] * 19 + [2] * 10
    assert all(5 in outcome.edited for outcome in few)
    caplog.clear()
    short = Editor("short", "A>G", "NGG", (4, 6))
    assert outcomes(slicer(sequence), "c", 4, short, most=7) == outcomes(slicer(sequence), "c", 4, short)
    assert not caplog.text


def test_the_reason_names_the_base_or_the_missing_pam():
    editor = EDITORS["ABE8e"]
    sequence = "T" * 30 + "A" + "T" * 30
    here = slicer(sequence.replace("A", "C"))
    assert why_no_guide(here, "c", 30, editor) == "the reference has C there, and ABE8e changes A or T"
    assert why_no_guide(slicer(sequence), "c", 30, editor, strand="-") == (
        "the reference has A there, and ABE8e changes T for a guide on the - strand"
    )
    assert why_no_guide(slicer(sequence), "c", 30, editor) == (
        "no PAM NGG is where it would bring the target to 4 to 8 of the protospacer"
    )
    assert why_no_guide(slicer("A" + "TGG" * 30), "c", 0, editor) == (
        "no protospacer of known bases has the target at 4 to 8"
    )
    assert why_no_guide(slicer("ACGT"), "c", 9, editor).startswith("the reference has no base there")


def test_editors_of_the_config_stand_beside_the_presets():
    editors = known_editors({"mine": {"change": "C>G", "pam": "NGA", "window": [2, 5], "protospacer": 21}})
    assert editors["mine"] == Editor("mine", "C>G", "NGA", (2, 5), 21)
    assert set(editors) == {*EDITORS, "mine"}
    assert known_editors({"plain": {"change": "C>G", "pam": "NGA"}})["plain"].window == (4, 8)
    assert all(editor.name == name for name, editor in editors.items())
    for name, entry, message in (
        ("ABE8e", {"change": "A>G", "pam": "NGG"}, "'ABE8e' is the name of a known base editor"),
        ("mine", {"change": "A>A", "pam": "NGG"}, "'mine' has the change A>A; expected two different bases"),
        ("mine", {"change": "A>G", "pam": "NGG", "window": [8, 4]}, "'mine' has the window 8 to 4; expected"),
        ("mine", {"change": "A>G", "pam": "NGG", "window": [4, 21]}, "within the 20 bases of its protospacer"),
    ):
        with pytest.raises(BadInput, match=re.escape(message)):
            known_editors({name: entry})


def test_the_page_has_the_presets_as_they_are(repo):
    page = (repo / "docs" / "edits.md").read_text()
    rows = re.findall(r"^\| `(\S+)` \| (\w>\w) \| (\w+) \| (\d+)-(\d+) \|$", page, re.MULTILINE)
    assert [Editor(name, change, pam, (int(first), int(last))) for name, change, pam, first, last in rows] == [
        *EDITORS.values()
    ]


def haplotype(sequence: str, place: tuple[int, str, str]) -> str:
    start, ref, alt = place
    assert sequence.startswith(ref, start)
    return sequence[:start] + alt + sequence[start + len(ref) :]


def unique(sequence: str, alleles) -> dict[str, tuple[int, str, str]]:
    """Alleles by the haplotype they give; two alleles of one haplotype are a mistake."""
    by_haplotype = {haplotype(sequence, allele): allele for allele in alleles}
    assert len(by_haplotype) == len(alleles)
    assert all(left_align(sequence, *allele) == allele for allele in alleles)
    return by_haplotype


REPEATS = random_bases(40, 7) + "ATATATATAT" + random_bases(20, 8) + "CCCCCC" + random_bases(40, 9)


@pytest.mark.parametrize("position", [0, 3, 45, 60, len(REPEATS) - 1])
def test_a_substitution_is_compared_with_every_snv_around_it(position):
    base = REPEATS[position]
    alt = "ACGT".replace(base, "")[0]
    found = nearby_shapes(slicer(REPEATS), "c", (position, base, alt), 6)
    assert found == sorted(
        (place, REPEATS[place], other)
        for place in range(max(0, position - 6), min(len(REPEATS), position + 7))
        for other in "ACGT"
        if other != REPEATS[place]
    )


@pytest.mark.parametrize("start", [0, 2, 44, 70, len(REPEATS) - 3])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_deletion_is_compared_with_every_deletion_of_its_size(start, size):
    allele = left_align(REPEATS, start, REPEATS[start : start + size], "")
    event = allele[0] + (1 if allele[2] == allele[1][0] and allele[0] + size < len(REPEATS) else 0)
    if haplotype(REPEATS, (event, REPEATS[event : event + size], "")) != haplotype(REPEATS, allele):
        event = allele[0]
    found = unique(REPEATS, nearby_shapes(slicer(REPEATS), "c", allele, 8))
    expected = {
        REPEATS[:place] + REPEATS[place + size :]
        for place in range(max(0, event - 8), min(len(REPEATS) - size, event + 8) + 1)
    }
    assert set(found) == expected and haplotype(REPEATS, allele) in found


@pytest.mark.parametrize("start", [0, 1, 45, 73, len(REPEATS)])
@pytest.mark.parametrize("inserted", ["T", "AT", "CCG"])
def test_an_insertion_is_compared_with_the_same_bases_everywhere(start, inserted):
    allele = left_align(REPEATS, start, "", inserted)
    anchored = allele[2].startswith(allele[1])
    event, written = (allele[0] + 1, allele[2][1:]) if anchored else (allele[0], allele[2][:-1])
    found = unique(REPEATS, nearby_shapes(slicer(REPEATS), "c", allele, 9))
    expected = {
        REPEATS[:place] + written + REPEATS[place:]
        for place in range(max(0, event - 9), min(len(REPEATS), event + 9) + 1)
    }
    assert set(found) == expected and haplotype(REPEATS, allele) in found


KIND = {
    frozenset(pair): kind
    for kind, pairs in {"transition": ("AG", "CT"), "weak": ("AT", "CG"), "amino": ("AC", "GT")}.items()
    for pair in pairs
}


def test_several_substitutions_are_moved_along_each_of_its_own_kind():
    start = 50
    changes = [(50, "transition"), (53, "amino"), (54, "transition")]

    def changed(shift: int) -> str | None:
        text = list(REPEATS)
        for place, kind in changes:
            if not 0 <= place + shift < len(text):
                return None
            base = text[place + shift]
            text[place + shift] = next(b for b in "ACGT" if b != base and KIND[frozenset((base, b))] == kind)
        return "".join(text)

    own = changed(0)
    allele = (start, REPEATS[50:55], own[50:55])
    found = unique(REPEATS, nearby_shapes(slicer(REPEATS), "c", allele, 62))
    expected = {changed(shift) for shift in range(-62, 63)} - {None}
    assert set(found) == expected and len(found) == 112
    parts = [(place, REPEATS[place], own[place]) for place, _ in changes]
    assert nearby_shapes(slicer(REPEATS), "c", allele, 62, parts) == sorted(found.values())


def test_an_editors_outcome_is_compared_with_the_same_base_changes_where_the_bases_are_there():
    sequence = random_bases(400, 11, "AATGGC")
    position = next(p for p in range(200, 400) if outcomes(slicer(sequence), "c", p, EDITORS["ABE8e"], strand="+"))
    for outcome in outcomes(slicer(sequence), "c", position, EDITORS["ABE8e"], strand="+"):
        if len(outcome.changes) == 1:
            continue
        first, last = outcome.changes[0][0], outcome.changes[-1][0] + 1
        alt = list(sequence[first:last])
        for place, _, base in outcome.changes:
            alt[place - first] = base
        allele = (first, sequence[first:last], "".join(alt))
        alleles = nearby_shapes(slicer(sequence), "c", allele, 25, outcome.changes)
        assert len(alleles) == 51 and allele in alleles
        for start, ref, new in alleles:
            assert len(ref) == len(new) == last - first
            offsets = [offset for offset in range(len(ref)) if ref[offset] != new[offset]]
            assert offsets == [place - first for place, _, _ in outcome.changes]
            assert all(new[offset] == "G" for offset in offsets if ref[offset] == "A")
            assert sequence[start : start + len(ref)] == ref


def test_a_haplotype_with_a_deletion_is_moved_with_its_unchanged_bases_between():
    sequence = REPEATS
    parts = [(20, sequence[20], "ACGT".replace(sequence[20], "")[0]), (25, sequence[25:28], sequence[25])]
    kind = KIND[frozenset(parts[0][1:])]

    def changed(shift: int) -> str:
        at, gone = 20 + shift, 26 + shift
        new = next(b for b in "ACGT" if b != sequence[at] and KIND[frozenset((sequence[at], b))] == kind)
        return sequence[:at] + new + sequence[at + 1 : gone] + sequence[gone + 2 :]

    own = changed(0)
    allele = left_align(sequence, 20, sequence[20:28], own[20:26])
    found = unique(sequence, nearby_shapes(slicer(sequence), "c", allele, 10, parts))
    assert set(found) == {changed(shift) for shift in range(-10, 11)} and own in found


def test_a_replacement_writes_the_same_bases_and_keeps_its_size():
    sequence = REPEATS
    start = next(p for p in range(30, 60) if sequence[p] != "C" and sequence[p + 2] != "T")
    allele = (start, sequence[start : start + 3], "CT")
    found = unique(sequence, nearby_shapes(slicer(sequence), "c", allele, 20))
    expected = {
        sequence[:place] + "CT" + sequence[place + 3 :]
        for place in range(start - 20, start + 21)
        if sequence[place] != "C" and sequence[place + 2] != "T"
    }
    assert set(found) == expected and allele in found.values()


def test_places_where_a_moved_pattern_changes_nothing_are_left_out():
    sequence = "GCATC" + "T" * 9 + "GACTG"
    parts = [(1, "CA", "C"), (4, "C", "CT")]  # within the run of T it takes one away and puts it back
    own = sequence[:2] + sequence[3:5] + "T" + sequence[5:]
    allele = left_align(sequence, 2, sequence[2:5], own[2:5])
    found = {haplotype(sequence, place) for place in nearby_shapes(slicer(sequence), "c", allele, 12, parts)}
    assert own in found and sequence not in found and len(found) > 5


def test_places_with_unknown_bases_are_left_out():
    sequence = "ACGTNACGTACGGTCANNNNACGTAC"
    for allele, size in (((10, "C", "T"), 1), ((9, "AC", "A"), 2), ((10, "CGG", "TGT"), 3)):
        alleles = nearby_shapes(slicer(sequence), "c", allele, 30)
        assert allele in alleles and all("N" not in ref + alt for _, ref, alt in alleles)
        assert len({start for start, _, _ in alleles if len(sequence[start : start + size]) == size}) > 3


def test_nothing_around_leaves_the_place_itself():
    assert nearby_shapes(slicer("ACGTACGT"), "c", (3, "T", "G"), 0) == [(3, "T", "A"), (3, "T", "C"), (3, "T", "G")]
    assert nearby_shapes(slicer("ACGTACGT"), "c", (2, "GT", "G"), 0) == [(2, "GT", "G")]
