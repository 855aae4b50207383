"""Plans: which facts alleles need, which alleles share them, and which token rows answer them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from random_models import KINDS, facts_of, write_vocabulary

from seqprior import plans
from seqprior.errors import BadInput
from seqprior.models import ModelFacts
from seqprior.plans import MAX_SPAN, Reading, Request, Row, read_scheme

OTHER = str.maketrans("ACGT", "TGCA")
ONE_PASS, EXACT = Reading(one_pass_marginals=True), Reading(exact_likelihoods=True)
TOKENS = ["bert-base", "dnabert-3", "nt-v1", "modernbert", "generator", "mistral-dna", "neox-base"]
WINDOW = "".join(random.Random(3).choices("ACGT", k=60))
PAIRS = "".join(random.Random(8).choices(["ACGT", "GATTACA", "TTG", "CCGA"], k=16))[:60]


def identity(row) -> tuple:
    return row.ids.tobytes(), row.masked, row.prefix


def other_strand(text: str) -> str:
    return text.translate(OTHER)[::-1]


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """Registry entries with vocabulary and config files of their own, by the kind of model; no network."""
    folder = tmp_path_factory.mktemp("vocabularies")

    @cache
    def make(name: str) -> ModelFacts:
        (folder / name).mkdir()
        write_vocabulary(
            KINDS[name], folder / name, 60, [PAIRS, WINDOW, *("".join(p) for p in itertools.permutations("ACGT"))]
        )
        write_config(folder / name)
        return facts_of(name, folder / name, 60)

    return make


def write_config(folder: Path, **changes) -> None:
    """What a config.json says of positions: 600 of them, where padding is token 1 of ESM."""
    config = {"n_positions": 600, "max_position_embeddings": 600, "pad_token_id": 1, **changes}
    (folder / "config.json").write_text(json.dumps(config))


def conv(window: int = 11) -> ModelFacts:
    entry = facts_of("bert-base", Path("x"), window)
    return dataclasses.replace(
        entry, family="bidirectional-conv", objective="bidirectional", tokens={}, embedding_window=window
    )


def changed(window: str, at: int, size: int = 1) -> str:
    """Another allele of the window's bases [at, at + size)."""
    return "".join("ACGT"["ACGT".index(base) - 3] for base in window[at : at + size])


# --- identity ---


def test_a_key_depends_on_every_part_of_the_fact_and_on_the_salt():
    base = Request("masked_marginal", "ACGTA", (2,), 4)
    others = [
        (Request("unmasked_marginal", "ACGTA", (2,), 4), b"salt"),
        (Request("masked_marginal", "ACGTC", (2,), 4), b"salt"),
        (Request("masked_marginal", "ACGTA", (3,), 4), b"salt"),
        (Request("masked_marginal", "ACGTA", (2, 3), 4), b"salt"),
        (Request("masked_marginal", "ACGTA", (), 4), b"salt"),
        (base, b"pepper"),
    ]
    keys = [base.key(b"salt"), *(request.key(salt) for request, salt in others)]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {16}
    assert base.key(b"salt") == Request("masked_marginal", "ACGTA", (2,), 4).key(b"salt")


def test_the_fields_of_a_key_cannot_run_into_one_another():
    pairs = [(Request("a", "AC", (1, 2)), Request("a", "AC", (12,))), (Request("a", "CA"), Request("aC", "A"))]
    assert all(first.key(b"s") != second.key(b"s") for first, second in pairs)


def test_what_the_model_reads_salts_its_keys(facts):
    entry = facts("nt-v1")
    variants = [
        entry,
        dataclasses.replace(entry, tokens={**entry.tokens, "end": "<eos>"}),
        dataclasses.replace(entry, tokens={key: value for key, value in entry.tokens.items() if key != "start"}),
        dataclasses.replace(facts("dnabert-3"), id=entry.id),
        facts("generator"),
    ]
    salts = [read_scheme(variant, Reading()).salt for variant in variants]
    assert len(set(salts)) == len(variants)
    renamed = dataclasses.replace(entry, id="other", window=30, embedding_window=12, licence="x", description="y")
    assert read_scheme(renamed, Reading()).salt == salts[0], "neither name nor window change an answer about a sequence"
    assert {len(salt) for salt in salts} == {32}


def test_numbers_of_the_registry_salt_the_keys(facts):
    numbers = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4, "A": 5, "C": 6, "G": 7, "T": 8}
    swapped = {**numbers, "A": 6, "C": 5}
    first, second = (dataclasses.replace(facts("bert-base"), vocabulary=entry) for entry in (numbers, swapped))
    assert read_scheme(first, Reading()).salt != read_scheme(second, Reading()).salt


@pytest.mark.parametrize("name", TOKENS)
def test_modes_never_share_a_key_unless_they_ask_the_same(facts, name):
    """Under one salt, the exact and the fast reading of a haplotype differ, and masked and unmasked sites do."""
    window = PAIRS
    snv, insertion = (window, 30, window[30], changed(window, 30)), (window, 30, window[30], window[30] + "AC")
    methods: dict[bytes, str] = {}
    for reading in (Reading(), ONE_PASS, EXACT):
        scheme = read_scheme(facts(name), reading)
        for plan in filter(None, (scheme.plan(*snv), scheme.plan(*insertion))):
            assert plan.method == plan.alt.kind == plan.ref.kind
            for request in (plan.alt, plan.ref):
                assert methods.setdefault(request.key(scheme.salt), plan.method) == plan.method


def test_the_far_bases_of_a_tile_are_no_part_of_the_key():
    scheme = read_scheme(conv(11), Reading())
    tile = "".join(random.Random(1).choices("ACGT", k=40))
    at = 20
    plan = scheme.plan(tile, at, tile[at], changed(tile, at))
    own = scheme.plan(tile[at - 5 : at + 6], 5, tile[at], changed(tile, at))
    assert plan.alt.key(scheme.salt) == own.alt.key(scheme.salt)
    far = changed(tile, 0) + tile[1 : at - 6] + changed(tile, at - 6) + tile[at - 5 : at + 6] + "N" * 23
    assert scheme.plan(far, at, tile[at], changed(tile, at)).alt.key(scheme.salt) == plan.alt.key(scheme.salt)
    for near in (at - 5, at + 5, at + 1):
        text = tile[:near] + changed(tile, near) + tile[near + 1 :]
        assert scheme.plan(text, at, tile[at], changed(tile, at)).alt.key(scheme.salt) != plan.alt.key(scheme.salt)


def test_a_token_models_whole_window_is_part_of_the_key(facts):
    scheme = read_scheme(facts("bert-base"), Reading())
    first, second = (scheme.plan(text, 30, WINDOW[30], "A") for text in (WINDOW, changed(WINDOW, 0) + WINDOW[1:]))
    assert first.ref.key(scheme.salt) != second.ref.key(scheme.salt)


# --- sharing ---


@pytest.mark.parametrize("name", ["bert-base", "dnabert-3", "nt-v1", "conv"])
@pytest.mark.parametrize("reading", [Reading(), ONE_PASS])
def test_the_alleles_of_a_site_are_one_request(facts, name, reading):
    scheme = read_scheme(conv(60) if name == "conv" else facts(name), reading)
    ref = WINDOW[30]
    found = [scheme.plan(WINDOW, 30, ref, alt) for alt in "ACGT" if alt != ref]
    assert len({plan.alt for plan in found} | {plan.ref for plan in found}) == 1
    assert sorted({plan.alt_entry - plan.site for plan in found}) == [n for n, base in enumerate("ACGT") if base != ref]
    assert {plan.ref_entry - plan.site for plan in found} == {"ACGT".index(ref)}


@pytest.mark.parametrize(("name", "reading"), [("nt-v1", Reading()), ("nt-v1", ONE_PASS), ("generator", ONE_PASS)])
def test_all_substitutions_within_a_kmer_are_one_request_with_entries_of_their_own(facts, name, reading):
    scheme = read_scheme(facts(name), reading)
    found = {
        (at, alt): scheme.plan(WINDOW, at, WINDOW[at], alt)
        for at in range(24, 30)
        for alt in "ACGT"
        if alt != WINDOW[at]
    }
    assert len({plan.alt for plan in found.values()}) == 1
    (request,) = {plan.ref for plan in found.values()}
    assert (request.at, request.width) == ((24,), 24)
    assert len({plan.alt_entry for plan in found.values()}) == 18
    for strand, part in enumerate(scheme.parts(request)):
        assert part.strand == strand
        kmers = [plans._kmer(int(number), 6) for number in part.candidates[0]]
        read = kmers if strand == 0 else list(map(other_strand, kmers))
        for (at, alt), plan in found.items():
            token = WINDOW[24:30]
            assert read[plan.ref_entry] == token
            assert read[plan.alt_entry] == token[: at - 24] + alt + token[at - 23 :]
            assert (plan.site, plan.alt_entry - plan.site) == (4 * (at - 24), "ACGT".index(alt))
    assert scheme.plan(WINDOW, 30, WINDOW[30], changed(WINDOW, 30)).alt != request, "the next token is another request"


@pytest.mark.parametrize(("name", "reading"), [("nt-v1", Reading()), ("generator", ONE_PASS)])
def test_several_bases_within_a_kmer_are_one_token_and_over_its_border_two_haplotypes(facts, name, reading):
    scheme = read_scheme(facts(name), reading)
    for at, size in ((24, 2), (24, 6), (27, 3), (28, 2)):
        ref, alt = WINDOW[at : at + size], changed(WINDOW, at, size)
        plan = scheme.plan(WINDOW, at, ref, alt)
        assert (plan.alt, plan.alt_entry, plan.ref_entry, plan.alt.width) == (plan.ref, 1, 0, 2)
        for strand, part in enumerate(scheme.parts(plan.alt)):
            read = [plans._kmer(int(number), 6) for number in part.candidates[0]]
            changed_token = (WINDOW[:at] + alt + WINDOW[at + size :])[24:30]
            wanted = [WINDOW[24:30], changed_token]
            assert read == (wanted if strand == 0 else list(map(other_strand, wanted)))
    for at, size in ((29, 2), (23, 2), (24, 7)):
        ref, alt = WINDOW[at : at + size], changed(WINDOW, at, size)
        plan = scheme.plan(WINDOW, at, ref, alt)
        assert plan.method == scheme.pair_method
        assert plan.alt != plan.ref
    one = scheme.plan(WINDOW, 24, WINDOW[24:26], changed(WINDOW, 24, 2))
    two = scheme.plan(WINDOW, 26, WINDOW[26:28], changed(WINDOW, 26, 2))
    assert one.alt.key(scheme.salt) != two.alt.key(scheme.salt)


@pytest.mark.parametrize("name", ["generator", "mistral-dna", "neox-base"])
def test_the_haplotypes_of_a_causal_site_share_what_comes_before_the_allele(facts, name):
    scheme = read_scheme(facts(name), Reading())
    text = PAIRS
    found = [scheme.plan(text, 30, text[30], alt) for alt in "ACGT" if alt != text[30]]
    requests = {request for plan in found for request in (plan.alt, plan.ref)}
    if name != "mistral-dna":  # pieces may end at another place for another allele
        assert len({plan.ref for plan in found}) == 1
        assert len(requests) == 4
    for plan in found:
        parts = [list(scheme.parts(request)) for request in (plan.alt, plan.ref)]
        for first, second in zip(*parts, strict=True):
            assert first.row.prefix == second.row.prefix > 0
            np.testing.assert_array_equal(first.row.ids[: first.row.prefix], second.row.ids[: second.row.prefix])


# --- rows ---


def spelling(scheme) -> dict[int, str]:
    """Tokens by number, from the vocabulary file."""
    from seqprior.tokenisation import read_vocabulary

    return {number: token for token, number in read_vocabulary(scheme.facts).items()}


@pytest.mark.parametrize("reading", [Reading(), ONE_PASS])
@pytest.mark.parametrize("at", [0, 1, 30, 58, 59])
def test_a_masked_site_hides_its_own_base_alone(facts, reading, at):
    scheme = read_scheme(facts("bert-base"), reading)
    plan = scheme.plan(WINDOW, at, WINDOW[at], changed(WINDOW, at))
    for strand, (part, text) in enumerate(zip(scheme.parts(plan.alt), (WINDOW, other_strand(WINDOW)), strict=True)):
        place = 1 + (at if strand == 0 else 59 - at)
        assert part.row.masked == (() if reading.one_pass_marginals else (place,))
        assert part.positions.tolist() == [place]
        assert part.candidates.tolist() == [[0, 1, 2, 3] if strand == 0 else [3, 2, 1, 0]]
        names = spelling(scheme)
        assert [names[token] for token in part.row.ids] == ["[CLS]", *text, "[SEP]"]


@pytest.mark.parametrize("at", [0, 1, 2, 17, 57, 58, 59])
def test_all_kmers_over_a_site_are_masked_and_asked(facts, at):
    scheme = read_scheme(facts("dnabert-3"), Reading())
    plan = scheme.plan(WINDOW, at, WINDOW[at], changed(WINDOW, at))
    for strand, part in enumerate(scheme.parts(plan.alt)):
        text, place = (WINDOW, at) if strand == 0 else (other_strand(WINDOW), 59 - at)
        covering = [start for start in range(58) if start <= place < start + 3]
        assert part.row.masked == tuple(1 + start for start in covering)
        assert part.positions.tolist() == [1 + start for start in covering]
        assert part.weight == pytest.approx(1 / len(covering))
        for start, candidates in zip(covering, part.candidates, strict=True):
            for entry, base in enumerate("ACGT"):
                own = base if strand == 0 else base.translate(OTHER)
                kmer = text[start:place] + own + text[place + 1 : start + 3]
                assert plans._kmer(int(candidates[entry]), 3) == kmer


@pytest.mark.parametrize("name", ["bert-base", "dnabert-3", "nt-v1", "modernbert"])
def test_exact_likelihoods_mask_each_token_once_and_fast_ones_read_a_single_row(facts, name):
    sequence = PAIRS[:40]
    fast = list(read_scheme(facts(name), ONE_PASS).parts(Request("unmasked_pseudo_likelihood", sequence)))
    assert [part.strand for part in fast] == [0, 1]
    assert all(part.row.masked == () for part in fast)
    scheme = read_scheme(facts(name), EXACT)
    exact = list(scheme.parts(Request("masked_pseudo_likelihood", sequence)))
    tokens = {
        strand: len(scheme.tokeniser.cut(text)[0]) for strand, text in enumerate((sequence, other_strand(sequence)))
    }
    for strand in range(2):
        rows = [part.row for part in exact if part.strand == strand]
        assert len({identity(row) for row in rows}) == (len(sequence) if name == "dnabert-3" else tokens[strand])
        assert all(part.positions.tolist() == list(part.row.masked) for part in exact)
    for strand in range(2):
        constant = sum(part.constant for part in fast if part.strand == strand)
        share = 3 if name == "dnabert-3" else 1
        bases = 3 * 38 if name == "dnabert-3" else 40
        assert constant == pytest.approx(bases * math.log(4) / share)


@pytest.mark.parametrize("name", TOKENS)
def test_a_reading_of_unknown_bases_is_left_out(facts, name):
    scheme = read_scheme(facts(name), Reading())
    window = PAIRS[:12] + "N" + PAIRS[13:]
    kind = scheme.pair_method if scheme.pair_method != "masked_span_likelihood" else "unmasked_pseudo_likelihood"
    if name == "modernbert":
        scheme = read_scheme(facts(name), ONE_PASS)
    at = () if KINDS[name].objective == "masked" else (6, 54, 0, 60)
    names = spelling(scheme)
    for part in scheme.parts(Request(kind, window, at)):
        read = [names[int(token)] for token in part.row.ids[part.positions]]
        assert read
        assert all(set(token) <= set("ACGT") for token in read)
        assert [int(number) for number in scheme.tokeniser.outcomes[part.candidates[:, 0]]] == part.row.ids[
            part.positions
        ].tolist()


def test_an_exact_likelihood_of_overlapping_kmers_asks_each_base_among_its_four_alternatives(facts):
    """Log 4 is what a base costs where all are equally likely, whatever k is."""
    scheme = read_scheme(facts("dnabert-3"), EXACT)
    sequence = PAIRS[:12] + "N" + PAIRS[13:25]
    found = list(scheme.parts(Request("masked_pseudo_likelihood", sequence)))
    known = [at for at, base in enumerate(sequence) if base != "N"]
    readable = [
        at for at in known if any("N" not in sequence[s : s + 3] for s in range(max(at - 2, 0), min(at, 22) + 1))
    ]
    assert len(found) == 2 * len(readable)
    for number, part in enumerate(found):
        at, strand = readable[number // 2], number % 2
        assert (part.strand, part.constant, part.own) == (strand, math.log(4), "ACGT".index(sequence[at]))
        text, place = (sequence, at) if strand == 0 else (other_strand(sequence), len(sequence) - 1 - at)
        starts = [int(position) - 1 for position in part.positions]
        assert starts == [
            s for s in range(max(place - 2, 0), place + 1) if len(text[s : s + 3]) == 3 and "N" not in text[s : s + 3]
        ]
        assert part.row.masked == tuple(part.positions)
        assert part.weight == pytest.approx(1 / len(starts))
        for start, candidates in zip(starts, part.candidates, strict=True):
            spelt = [plans._kmer(int(candidate), 3) for candidate in candidates]
            letters = [base if strand == 0 else base.translate(OTHER) for base in "ACGT"]
            assert spelt == [text[start:place] + letter + text[place + 1 : start + 3] for letter in letters]
            assert spelt[part.own] == text[start : start + 3]


# --- spans of byte pairs ---


def brute_span(first: list[int], second: list[int], lead: int) -> tuple[int, int, int] | None:
    """The shortest replaced stretch, found by trying all; the longest common start decides between equals."""
    if first == second:
        return None
    best = None
    for start in range(min(len(first), len(second)) + 1):
        for tail in range(min(len(first), len(second)) - start + 1):
            same_start = first[:start] == second[:start]
            same_end = first[len(first) - tail :] == second[len(second) - tail :]
            if same_start and same_end and (best is None or start > best[0] or (start == best[0] and tail > best[1])):
                best = (start, tail)
    start, tail = best
    if min(len(first), len(second)) == start + tail:
        start, tail = (start - 1, tail) if start > lead else (start, tail - 1)
    return start, len(first) - tail, len(second) - tail


@pytest.mark.parametrize("lead", [0, 1])
def test_differing_tokens_equal_a_search_over_all_stretches(lead):
    rng = random.Random(lead)
    for _ in range(400):
        middles = [[rng.randint(1, 3) for _ in range(rng.randint(1, 5))] for _ in range(2)]
        first, second = ([9] * lead + middle + [8] for middle in middles)
        found = plans._differing(np.array(first), np.array(second), lead)
        assert found == brute_span(first, second, lead)
        if found is not None:
            start, *ends = found
            assert lead <= start < min(ends)
            assert first[:start] == second[:start]
            assert first[ends[0] :] == second[ends[1] :]


def test_a_lost_or_gained_token_takes_a_neighbour_with_it():
    assert plans._differing(np.array([9, 1, 2, 8]), np.array([9, 1, 8]), 1) == (1, 3, 2)
    assert plans._differing(np.array([9, 1, 8]), np.array([9, 1, 2, 8]), 1) == (1, 2, 3)
    assert plans._differing(np.array([9, 2, 1, 8]), np.array([9, 1, 8]), 1) == (1, 3, 2)
    assert plans._differing(np.array([5, 6]), np.array([5, 6]), 0) is None


def test_a_span_holds_the_differing_pieces_of_both_strands_and_nothing_else(facts):
    scheme = read_scheme(facts("modernbert"), Reading())
    names = spelling(scheme)
    for at in range(5, 55, 3):
        for alt in (PAIRS[at] + "GG", PAIRS[at] + "C"):
            plan = scheme.plan(PAIRS, at, PAIRS[at], alt)
            texts = [PAIRS[:at] + allele + PAIRS[at + 1 :] for allele in (alt, PAIRS[at])]
            both = [list(scheme.parts(request)) for request in (plan.alt, plan.ref)]
            for strand in range(2):
                spoken = [text if strand == 0 else other_strand(text) for text in texts]
                pieces = [[names[int(token)] for token in scheme.tokeniser.tokens(text).ids] for text in spoken]
                rows = [parts[strand].row.ids.tolist() for parts in both]
                hidden = [[n for n, token in enumerate(row) if names[token] == "[MASK]"] for row in rows]
                outside = [
                    [piece for n, piece in enumerate(own) if n not in set(masked)]
                    for own, masked in zip(pieces, hidden, strict=True)
                ]
                assert outside[0] == outside[1]
                assert all(masked == list(range(masked[0], masked[-1] + 1)) for masked in hidden)
                for parts, own, masked in zip(both, pieces, hidden, strict=True):
                    part = parts[strand]
                    assert part.positions.tolist() == masked
                    read = scheme.tokeniser.outcomes[part.candidates[:, 0]]
                    assert [names[int(token)] for token in read] == [own[n] for n in masked]
                    bases = sum(len(own[n]) for n in masked)
                    assert part.constant == pytest.approx(bases * math.log(4))


def test_haplotypes_whose_spans_are_equally_long_share_their_row(facts):
    scheme = read_scheme(facts("modernbert"), Reading())
    shared = []
    for at in range(5, 55):
        plan = scheme.plan(PAIRS, at, PAIRS[at], PAIRS[at] + "G")
        for first, second in zip(scheme.parts(plan.alt), scheme.parts(plan.ref), strict=True):
            equal = len(first.positions) == len(second.positions)
            assert (identity(first.row) == identity(second.row)) == equal
            shared.append(equal)
    assert 10 < sum(shared) < len(shared) - 10


def cuts(text: str, pieces: set[str], count: int) -> set[tuple[str, ...]]:
    """All ways to write a text as so many pieces, by trying every set of borders."""
    found = set()
    for borders in itertools.combinations(range(1, len(text)), count - 1):
        parts = tuple(text[a:b] for a, b in itertools.pairwise((0, *borders, len(text))))
        if set(parts) <= pieces:
            found.add(parts)
    return found


def test_a_substitution_is_read_by_all_spellings_of_its_span_in_one_row_for_all_alleles(facts):
    scheme = read_scheme(facts("modernbert"), Reading())
    names, pieces = spelling(scheme), set(scheme.tokeniser.pieces)
    mask = next(number for number, name in names.items() if name == "[MASK]")
    planned = 0
    for at in range(4, 56, 3):
        for alt in "ACGT".replace(PAIRS[at], ""):
            plan = scheme.plan(PAIRS, at, PAIRS[at], alt)
            if plan is None:
                continue
            planned += 1
            both = [list(scheme.parts(request)) for request in (plan.alt, plan.ref)]
            for allele, parts in zip((alt, PAIRS[at]), both, strict=True):
                text = PAIRS[:at] + allele + PAIRS[at + 1 :]
                for part, strand in zip(parts, (text, other_strand(text)), strict=True):
                    masked = np.flatnonzero(part.row.ids == mask)
                    assert part.positions.tolist() == masked.tolist()
                    outside = [names[int(token)] for token in part.row.ids]
                    before = sum(map(len, outside[1 : masked[0]]))
                    after = sum(map(len, outside[masked[-1] + 1 : -1]))
                    span = strand[before : len(strand) - after]
                    ways = {
                        tuple(names[int(scheme.tokeniser.outcomes[number])] for number in way)
                        for way in part.candidates.T
                    }
                    assert ways == cuts(span, pieces, len(masked))
                    assert part.candidates.shape == (len(masked), len(ways))
                    assert "".join(outside[1 : masked[0]]) + span == strand[: len(strand) - after]
            for first, second in zip(*both, strict=True):
                assert identity(first.row) == identity(second.row)
    assert planned > 20


# --- what a model cannot answer ---


def test_an_allele_beside_an_unknown_base_of_its_token_is_not_evaluable(facts):
    kmers, overlapping = (read_scheme(facts(name), Reading()) for name in ("nt-v1", "dnabert-3"))
    broken = WINDOW[:26] + "N" + WINDOW[27:]
    for at in range(18, 36):
        assert (kmers.plan(broken, at, broken[at], "A") is None) == (24 <= at < 30)
        if at != 26:
            assert (overlapping.plan(broken, at, broken[at], "A") is None) == (24 <= at <= 28)


def test_a_kmer_that_the_contig_cuts_off_is_compared_as_haplotypes(facts):
    scheme = read_scheme(facts("nt-v1"), Reading())
    short = WINDOW[:57]
    assert scheme.plan(short, 55, short[55], changed(short, 55)).method == "unmasked_pseudo_likelihood"
    assert scheme.plan(short, 53, short[53], changed(short, 53)).method == "masked_token_marginal"


def test_a_window_shorter_than_a_kmer_is_not_evaluable(facts):
    scheme = read_scheme(facts("dnabert-3"), Reading())
    assert scheme.plan("AC", 0, "A", "C") is None
    assert scheme.plan("ACG", 0, "A", "C") is not None


def test_a_change_of_more_pieces_than_a_local_one_is_not_evaluable(facts):
    scheme = read_scheme(facts("modernbert"), Reading())
    window = PAIRS * 6
    answers = []
    for size in range(20, 300, 20):
        texts = [window[:4] + allele + window[4 + size :] for allele in (window[4], window[4 : 4 + size])]
        longest = 0
        for pair in (texts, list(map(other_strand, texts))):
            start, *ends = brute_span(*(scheme.tokeniser.tokens(text).ids.tolist() for text in pair), 1)
            longest = max(longest, *(end - start for end in ends))
        plan = scheme.plan(window, 4, window[4 : 4 + size], window[4])
        assert (plan is None) == (longest > MAX_SPAN)
        answers.append(plan is None)
    assert 3 < sum(answers) < len(answers) - 1


def test_a_substitution_that_no_piece_stands_for_is_not_evaluable_in_one_pass(facts):
    scheme = read_scheme(facts("modernbert"), ONE_PASS)
    answers = {True: 0, False: 0}
    alleles = [(at, alt) for at, ref in enumerate(PAIRS) for alt in "ACGT" if alt != ref]
    for at, alt in alleles:
        expected = True
        for text, place, base in ((PAIRS, at, alt), (other_strand(PAIRS), 59 - at, alt.translate(OTHER))):
            ends = [0, *scheme.tokeniser.cut(text)[2].tolist()]
            (piece,) = [(a, b) for a, b in itertools.pairwise(ends) if a <= place < b]
            expected &= text[piece[0] : place] + base + text[place + 1 : piece[1]] in scheme.tokeniser.pieces
        plan = scheme.plan(PAIRS, at, PAIRS[at], alt)
        assert (plan is not None) == expected
        answers[expected] += 1
    assert min(answers.values()) > 2


def test_a_causal_model_needs_something_before_what_it_predicts(facts):
    entry = facts("neox-base")
    started = read_scheme(entry, Reading())
    tokens = {role: token for role, token in entry.tokens.items() if role != "start"}
    bare = read_scheme(dataclasses.replace(entry, tokens=tokens), Reading())
    for at in (0, 59):
        assert started.plan(WINDOW, at, WINDOW[at], changed(WINDOW, at)) is not None
        assert bare.plan(WINDOW, at, WINDOW[at], changed(WINDOW, at)) is None
    assert bare.plan(WINDOW, 1, WINDOW[1], changed(WINDOW, 1)) is not None


@pytest.mark.parametrize(
    ("tokenisation", "objective"), [("overlapping-kmer", "causal"), ("kmer", "bidirectional"), ("bpe", "bidirectional")]
)
def test_a_combination_without_a_way_to_score_is_refused(facts, tokenisation, objective):
    entry = dataclasses.replace(facts("bert-base"), id="m", tokenisation=tokenisation, objective=objective)
    with pytest.raises(BadInput) as caught:
        read_scheme(entry, Reading())
    assert str(caught.value) == (
        f"m: no way to score a bert network with tokenisation {tokenisation} and objective {objective}; "
        "correct the model registry"
    )


# --- room ---


def room_of(facts, folder: Path, name: str, **changes) -> int | None:
    entry = facts(name)
    for file in entry.path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    write_config(folder, **changes)
    return read_scheme(dataclasses.replace(entry, path=folder), Reading()).room


@pytest.mark.parametrize(
    ("name", "config", "room"),
    [
        ("bert-base", {"max_position_embeddings": 512}, 512),
        ("dnabert-3", {"max_position_embeddings": 512}, 512),
        ("gpt2-base", {"n_positions": 300, "max_position_embeddings": 5}, 300),
        ("nt-v1", {"max_position_embeddings": 1002, "pad_token_id": 1}, 1000),
        ("nt-v1", {"max_position_embeddings": 1002, "pad_token_id": 0, "position_embedding_type": "absolute"}, 1001),
        ("esm-base", {"position_embedding_type": "rotary"}, None),
        ("nt-v2", {}, None),
        ("modernbert", {}, None),
        ("generator", {}, None),
        ("mistral-dna", {}, None),
        ("neox-base", {}, None),
    ],
)
def test_the_room_is_that_of_learned_positions_alone(facts, tmp_path, name, config, room):
    assert room_of(facts, tmp_path, name, **config) == room


@pytest.mark.parametrize("name", ["bert-base", "gpt2-base", "nt-v1"])
@pytest.mark.parametrize("value", [None, "many", [512]])
def test_a_config_without_a_number_of_positions_is_refused(facts, tmp_path, name, value):
    with pytest.raises(BadInput) as caught:
        room_of(facts, tmp_path, name, n_positions=value, max_position_embeddings=value)
    start, end = f"{tmp_path / 'config.json'}: no config of a {KINDS[name].family} network (", "); restore the file"
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(end)


@pytest.mark.parametrize("size", [1, 3])
def test_what_would_be_read_in_more_tokens_than_there_is_room_for_is_not_evaluable(facts, size):
    """Substitutions and insertions of byte pairs; spellings may need more masks than there were tokens."""
    scheme = read_scheme(facts("modernbert"), Reading())
    alleles = [(at, changed(PAIRS, at) if size == 1 else PAIRS[at] + "GT") for at in range(5, 55)]

    def planned() -> list:
        return [scheme.plan(PAIRS, at, PAIRS[at], alt) for at, alt in alleles]

    longest = []
    for plan in planned():
        parts = [part for request in (plan.alt, plan.ref) for part in scheme.parts(request)] if plan else []
        longest.append(max((len(part.row) for part in parts), default=None))
    lengths = sorted({length for length in longest if length is not None})
    assert len(lengths) > 2
    for room in (lengths[0] - 1, *lengths):
        scheme.room = room
        found = [plan is not None for plan in planned()]
        assert found == [length is not None and length <= room for length in longest]


# --- cost, flanks and rows ---


@pytest.mark.parametrize("name", [*TOKENS, "nt-v2"])
@pytest.mark.parametrize("reading", [Reading(), ONE_PASS, EXACT])
def test_the_passes_of_a_request_are_about_its_rows(facts, name, reading):
    scheme = read_scheme(facts(name), reading)
    seen = 0
    for alt in (changed(PAIRS, 30), PAIRS[30] + "AC"):
        plan = scheme.plan(PAIRS, 30, PAIRS[30], alt)
        if plan is None:
            continue
        seen += 1
        rows = len({identity(part.row) for part in scheme.parts(plan.alt)})
        if KINDS[name].tokenisation == "bpe":  # pieces have several bases, which is known only after tokenisation
            assert rows <= scheme.passes(plan.alt)
        else:
            assert scheme.passes(plan.alt) == pytest.approx(rows, rel=0.2)
    assert seen


def test_flanks_keep_the_frame_of_the_window_and_the_size_of_the_haplotype(facts):
    scheme = read_scheme(facts("nt-v1"), Reading())
    for offset in range(60):
        for longest, size in ((1, 30), (5, 30), (1, 12), (8, 30)):
            left, right = scheme.haplotype_flanks(offset, longest, size)
            assert 0 <= left <= offset
            assert (offset - left) % 6 == 0, "the haplotype starts where a k-mer of the window does"
            assert left + longest <= size + 6
            assert right >= 1
    plain = read_scheme(facts("bert-base"), Reading())
    assert plain.haplotype_flanks(30, 1, 31) == (15, 15)
    assert plain.haplotype_flanks(4, 1, 31) == (4, 15)


def test_rows_are_told_apart_by_tokens_masks_and_prefix():
    ids = np.array([1, 2, 3], np.int32)
    rows = [Row(ids), Row(ids, (1,)), Row(ids, (2,)), Row(ids, (), 1), Row(ids[:2])]
    assert len({identity(row) for row in rows}) == len(rows)
    assert identity(Row(ids.copy(), (1,))) == identity(rows[1])
    assert [len(row) for row in rows] == [3, 3, 3, 3, 2]
