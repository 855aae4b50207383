"""Work: what a group of alleles asks for, in which rows, and which rows go into one input."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from random_models import KINDS, facts_of, write_vocabulary

from seqprior import work
from seqprior.models import ModelFacts
from seqprior.plans import Reading, Request, Row, read_scheme
from seqprior.shards import ALLELE_COLUMNS
from seqprior.work import DISTANCES, distance_request, make_packs, make_work, plan_group, portions

REPOSITORY = Path(__file__).resolve().parents[2]
OTHER = str.maketrans("ACGT", "TGCA")
TOKENS = ["bert-base", "dnabert-3", "nt-v1", "modernbert", "generator", "mistral-dna", "neox-base"]
FIRST, SECOND = ("".join(random.Random(seed).choices("ACGT", k=60)) for seed in (3, 4))


def identity(row) -> tuple:
    return row.ids.tobytes(), row.masked, row.prefix


def other_strand(text: str) -> str:
    return text.translate(OTHER)[::-1]


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    """Registry entries with vocabulary and config files of their own; no network."""
    folder = tmp_path_factory.mktemp("vocabularies")

    @cache
    def make(name: str, positions: int = 600) -> ModelFacts:
        own = folder / f"{name}-{positions}"
        own.mkdir(exist_ok=True)
        write_vocabulary(KINDS[name], own, 60, [FIRST, *("".join(p) for p in itertools.permutations("ACGT"))])
        numbers = {"n_positions": positions, "max_position_embeddings": positions, "pad_token_id": 1}
        (own / "config.json").write_text(json.dumps(numbers))
        return facts_of(name, own, 60)

    return make


def conv(window: int = 11) -> ModelFacts:
    entry = facts_of("bert-base", Path("x"), window)
    return dataclasses.replace(
        entry, family="bidirectional-conv", objective="bidirectional", tokens={}, embedding_window=window
    )


def changed(text: str, at: int) -> str:
    return "ACGT"["ACGT".index(text[at]) - 3]


def table(alleles: list[tuple]) -> pd.DataFrame:
    """Alleles of (window, offset, ref, alt, status)."""
    rows = [
        ("id", "c", 1, ref, alt, window, offset, status, "" if status == "scored" else "window_ambiguous")
        for window, offset, ref, alt, status in alleles
    ]
    return pd.DataFrame(rows, columns=list(ALLELE_COLUMNS))


# --- groups ---


def test_each_scored_allele_has_a_plan_on_its_own_window_and_a_skipped_one_has_none(facts):
    scheme = read_scheme(facts("nt-v1"), Reading())
    alleles = [
        (7, 30, FIRST[30], changed(FIRST, 30), "scored"),
        (None, None, "A", "<DEL>", "skipped"),
        (8, 30, SECOND[30], changed(SECOND, 30), "scored"),
        (8, 31, SECOND[31], SECOND[31] + "AC", "scored"),
    ]
    group = plan_group(scheme, table(alleles), [FIRST, SECOND], 7, None)
    assert group.rows == [0, 2, 3]
    windows = {7: FIRST, 8: SECOND}
    assert group.plans == [scheme.plan(windows[alleles[row][0]], *alleles[row][1:4]) for row in group.rows]
    assert group.distances == []
    assert list(group.requests) == list(dict.fromkeys(r for plan in group.plans for r in (plan.alt, plan.ref)))
    assert group.known == {}


def test_alleles_that_the_model_cannot_score_have_no_plan(facts):
    scheme = read_scheme(facts("nt-v1"), Reading())
    broken = FIRST[:26] + "N" + FIRST[27:]
    alleles = [(0, at, broken[at], changed(broken, at), "scored") for at in (10, 25, 40)]
    assert plan_group(scheme, table(alleles), [broken], 0, 30).rows == [0, 2]


@pytest.mark.parametrize("name", [*TOKENS, "conv"])
def test_equal_requests_of_a_group_are_one_and_each_planned_allele_has_its_distance(facts, name):
    scheme = read_scheme(conv(61) if name == "conv" else facts(name), Reading())
    alleles = [(0, at, FIRST[at], alt, "scored") for at in (30, 31) for alt in "ACGT" if alt != FIRST[at]]
    group = plan_group(scheme, table(alleles + alleles), [FIRST], 0, 12)
    assert len(group.plans) == len(group.distances) == len(group.rows) > 6
    assert group.distances == [
        distance_request(scheme, FIRST, *(alleles + alleles)[row][1:4], 12) for row in group.rows
    ]
    asked = {request for plan in group.plans for request in (plan.alt, plan.ref)} | set(group.distances)
    assert set(group.requests) == asked
    assert len(asked) <= len(group.plans) / 2 * 3, "the second time costs nothing"


@pytest.mark.parametrize("name", ["conv", "bert-base", "nt-v1", "modernbert"])
@pytest.mark.parametrize("size", [3, 12, 31])
def test_a_distance_names_both_haplotypes_between_flanks_of_the_window_that_never_vanish(facts, name, size):
    scheme = read_scheme(conv(61) if name == "conv" else facts(name), Reading())
    for offset in (1, 5, 30, 55):
        for ref, alt in ((FIRST[offset : offset + 3], FIRST[offset]), (FIRST[offset], changed(FIRST, offset))):
            request = distance_request(scheme, FIRST, offset, ref, alt, size)
            assert (request.kind, request.at, request.width) == (DISTANCES, (), 2)
            left, first, second, right = request.sequence.split(" ")
            assert (first, second) == (ref, alt)
            assert FIRST[:offset].endswith(left)
            assert FIRST[offset + len(ref) :].startswith(right)
            assert min(len(left) or offset % 6 == 0, len(right)) >= 1
            assert len(left) + len(right) <= max(size, 2) + 6


# --- room ---


def rows_in_tokens(scheme, text: str) -> int:
    """Tokens of the longer strand, k-mers cut by slices."""
    counts = []
    for strand in (text, other_strand(text)):
        pieces = [strand[at : at + 6] for at in range(0, len(strand), 6)]
        counts.append(sum(1 if len(piece) == 6 and "N" not in piece else len(piece) for piece in pieces) + 1)
    return max(counts)


@pytest.mark.parametrize(("positions", "size"), [(13, None), (13, 60), (13, 54), (18, 30), (18, 54), (600, 54)])
@pytest.mark.parametrize("unknown", ["", "N", "NN"])
def test_what_has_more_tokens_than_the_network_has_positions_is_not_asked(facts, positions, size, unknown):
    """Also for the haplotypes of embeddings, whose bases left over by k-mers are tokens too."""
    scheme = read_scheme(facts("nt-v1", positions), Reading())
    room = positions - 2
    assert scheme.room == room
    window = FIRST[:45] + unknown + FIRST[45 + len(unknown) :]
    alleles = [(0, at, window[at], changed(window, at), "scored") for at in range(20, 42)]
    group = plan_group(scheme, table(alleles), [window], 0, size)
    for number, (_, at, ref, alt, _) in enumerate(alleles):
        assert (number in group.rows) == (rows_in_tokens(scheme, window) <= room)
        if size is not None and number in group.rows:
            left, right = scheme.haplotype_flanks(at, 1, size)
            texts = [window[at - left : at] + allele + window[at + 1 : at + 1 + right] for allele in (ref, alt)]
            asked = group.distances[group.rows.index(number)] is not None
            assert asked == all(rows_in_tokens(scheme, text) <= room for text in texts), (
                "else only distances are left out"
            )
    assert len(group.plans) == len(group.rows) == len(group.distances or group.rows)
    for request in group.requests:
        texts = [request.sequence]
        if request.kind == DISTANCES:
            left, ref, alt, right = request.sequence.split(" ")
            texts = [left + ref + right, left + alt + right]
        assert all(len(scheme.tokeniser.tokens(t)) <= room for text in texts for t in (text, other_strand(text)))


# --- portions ---


def test_portions_keep_the_order_and_hold_no_more_bases_than_one_request_too_many(monkeypatch):
    monkeypatch.setattr(work, "ROWS_AHEAD", 100)
    rng = random.Random(1)
    requests = [Request("k", "A" * rng.randint(1, 40), (number,)) for number in range(60)]
    passes = {request: rng.randint(1, 3) for request in requests}
    found = list(portions(requests, passes.__getitem__))
    assert list(itertools.chain(*found)) == requests
    sizes = [[len(request.sequence) * passes[request] for request in portion] for portion in found]
    assert all(sum(size[:-1]) < 100 for size in sizes)
    assert all(sum(size) >= 100 for size in sizes[:-1])
    assert len(found) > 10


def test_a_request_larger_than_a_portion_is_one_by_itself_and_nothing_is_no_portion(monkeypatch):
    monkeypatch.setattr(work, "ROWS_AHEAD", 10)
    requests = [Request("k", "A" * 50, (number,)) for number in range(3)]
    assert list(portions(requests, lambda _: 1)) == [[request] for request in requests]
    assert list(portions([], lambda _: 1)) == []


# --- rows ---


def some_requests(scheme) -> list[Request]:
    """Requests of one kind and width, of neighbouring alleles and of both strands of one window."""
    found: dict[Request, None] = {}
    for window in (FIRST, other_strand(FIRST), SECOND):
        for at in (29, 30, 31):
            plan = scheme.plan(window, at, window[at], window[at] + "AC")
            found |= dict.fromkeys((plan.alt, plan.ref) if plan else ())
    return list(found)


@pytest.mark.parametrize("name", TOKENS)
@pytest.mark.parametrize("exact", [False, True])
def test_the_parts_of_requests_are_read_from_distinct_rows(facts, name, exact):
    scheme = read_scheme(facts(name), Reading(exact_likelihoods=exact))
    requests = some_requests(scheme)
    found = make_work(scheme, requests)
    assert found.requests == requests
    assert len({identity(row) for row in found.rows}) == len(found.rows) == len(found.reads)
    assert sorted(itertools.chain(*found.reads)) == list(range(len(found.parts)))
    row_of = {part: row for row, parts in enumerate(found.reads) for part in parts}
    expected = [(number, part) for number, request in enumerate(requests) for part in scheme.parts(request)]
    assert found.owner == [number for number, _ in expected]
    constants = np.zeros((len(requests), 2, requests[0].width))
    for number, (own, (owner, part)) in enumerate(zip(found.parts, expected, strict=True)):
        assert identity(found.rows[row_of[number]]) == identity(own.row) == identity(part.row)
        assert (own.strand, own.weight, own.own) == (part.strand, part.weight, part.own)
        np.testing.assert_array_equal(own.positions, part.positions)
        np.testing.assert_array_equal(own.candidates, part.candidates)
        constants[owner, part.strand] += part.constant
    np.testing.assert_allclose(found.constants, constants)
    assert found.constants.dtype == np.float64
    if not exact or KINDS[name].objective == "masked":
        assert len(found.rows) < len(found.parts), "a window and its other strand are read from the same rows"


def test_distances_and_the_bidirectional_network_have_no_token_rows(facts):
    scheme = read_scheme(facts("bert-base"), Reading())
    distance = make_work(scheme, [distance_request(scheme, FIRST, 30, FIRST[30], "A", 12)])
    network = read_scheme(conv(61), Reading())
    site = make_work(network, [network.plan(FIRST, 30, FIRST[30], changed(FIRST, 30)).alt])
    for found, width in ((distance, 2), (site, 4)):
        assert (found.rows, found.reads, found.parts, found.owner) == ([], [], [], [])
        assert found.constants.shape == (1, 2, width)
        assert not found.constants.any()


# --- packs ---


def some_rows(seed: int, count: int = 60) -> list[Row]:
    """Rows of a few prefixes, two of which are equally long and one is the start of another, and rows of none."""
    rng = random.Random(seed)
    prefixes = [[1, 2, 3, 4], [1, 2, 3, 5], [1, 2], []]
    rows = []
    for _ in range(count):
        prefix = rng.choice(prefixes)
        tail = rng.choices(range(10, 20), k=rng.randint(1, 9))
        rows.append(Row(np.array([*prefix, *tail], np.int32), (), len(prefix)))
    return rows


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [0, 1.5, 3, 100])
def test_a_pack_holds_one_prefix_and_the_rest_of_each_of_its_rows(monkeypatch, seed, limit):
    monkeypatch.setattr(work, "BRANCHED", limit)
    rows = some_rows(seed)
    packs = make_packs(rows, branches=True)
    assert sorted(number for pack in packs for number in pack.rows) == list(range(len(rows)))
    for pack in packs:
        first = rows[pack.rows[0]]
        tokens = list(first.ids[: pack.prefix])
        for start, number in zip(pack.starts, pack.rows, strict=True):
            row = rows[number]
            assert row.prefix == pack.prefix
            assert row.ids[: row.prefix].tolist() == first.ids[: row.prefix].tolist()
            assert start == len(tokens)
            tokens += row.ids[row.prefix :].tolist()
        assert pack.length == len(tokens)
        assert len(pack.rows) == 1 or (pack.prefix and pack.length <= limit * len(rows[pack.rows[-1]]))
    whole = {row.ids[: row.prefix].tobytes() for row in rows if row.prefix}
    alone = sum(not row.prefix for row in rows)
    if limit == 100:
        assert len(packs) == len(whole) + alone
    else:
        assert len(packs) > len(whole) + alone
    if limit == 0:
        assert len(packs) == len(rows)


def test_a_pack_is_closed_by_the_first_row_that_would_make_it_too_long():
    rows = [Row(np.array([1, 2, 3, 10, 11 + n], np.int32), (), 3) for n in range(16)]
    packs = make_packs(rows, branches=True)
    # 3 tokens of the prefix and 6 branches of 2 are 15, three times a row of 5.
    assert [pack.rows for pack in packs] == [list(range(6)), list(range(6, 12)), list(range(12, 16))]
    assert [(pack.starts, pack.length) for pack in packs[::2]] == [([3, 5, 7, 9, 11, 13], 15), ([3, 5, 7, 9], 11)]


def test_networks_that_cannot_tell_branches_apart_get_each_row_by_itself():
    rows = some_rows(1)
    packs = make_packs(rows, branches=False)
    assert [(pack.rows, pack.prefix, pack.starts) for pack in packs] == [([n], 0, [0]) for n in range(len(rows))]
    assert [pack.length for pack in packs] == [len(row) for row in rows]
    assert make_packs([], branches=True) == make_packs([], branches=False) == []


def test_work_is_made_ready_without_torch():
    code = (
        "import sys, seqprior.work; sys.exit(bool({'torch', 'transformers', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY / "scripts", check=False).returncode == 0
