"""Windows against slices of a contig that is padded or cut into tokens by hand."""

from __future__ import annotations

import math
import random
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pysam
import pytest

from seqprior import windows as windows_module
from seqprior.columns import SCORES, VARIANTS
from seqprior.models import ModelFacts
from seqprior.shards import ALLELE_COLUMNS, read_groups
from seqprior.variants import left_align, table_schemas
from seqprior.windows import (
    MAX_TILE,
    Windows,
    allele_costs,
    extract_windows,
    padded,
    shard_ends,
    unknown_share,
)


def facts(
    window: int, objective: str = "masked", tokenisation: str = "single-base", k: int = 1, downstream: int = 0
) -> ModelFacts:
    text = dict.fromkeys(("species", "licence", "citation", "description", "limits"), "x")
    return ModelFacts(
        id="m",
        name="m",
        family="family",
        objective=objective,
        tokenisation=tokenisation,
        window=window,
        embedding_window=min(window, 5 * k),
        parameters=1,
        k=k,
        downstream=downstream,
        **text,
    )


def random_bases(length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=length))


def snv(contig: str, sequence: str, start: int) -> tuple:
    ref = sequence[start]
    alt = "ACGT"["ACGT".index(ref) - 1]
    return f"{contig}-{start + 1}-{ref}-{alt}", contig, start + 1, ref, alt


def cut(model: ModelFacts, sequence: str, alleles: list[tuple[int, str, str]], one_pass: bool = False) -> list[tuple]:
    """(window, offset) of each allele (0-based start, ref, alt), None for one that is skipped."""
    part = Windows(model, 1.0, one_pass)
    for start, ref, alt in alleles:
        part.add("c", sequence, ("id", "c", start + 1, ref, alt))
    part.flush()
    return [None if row[5] is None else (part.sequences[row[5]], row[6]) for row in part.alleles]


def substitutions(sequence: str) -> list[tuple[int, str, str]]:
    return [(start, ref, "ACGT"["ACGT".index(ref) - 1]) for start, ref in enumerate(sequence)]


def write_reference(path: Path, contigs: dict[str, str]) -> Path:
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in contigs.items()))
    pysam.faidx(str(path))
    return path


def write_variants(path: Path, alleles: list[tuple], skipped: int = 0, group: int | None = None) -> Path:
    schema, _ = table_schemas()
    rows = [
        {**dict.fromkeys(VARIANTS), **dict(zip(VARIANTS, allele, strict=False)), "status": "scored", "reason": ""}
        for allele in alleles
    ]
    malformed = {"status": "skipped", "reason": "malformed_record", "chrom": "?", "ref": "", "alt": "", "pos": None}
    rows += [{**dict.fromkeys(VARIANTS), **malformed, "variant_id": f"x:{line}"} for line in range(skipped)]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)
    return path


def read_shards(shards: list[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Alleles of all shards with the text of their window in place of its number."""
    frames, all_windows = [], []
    for shard in shards:
        alleles = pd.read_parquet(shard / "alleles.parquet")
        windows = pd.read_parquet(shard / "windows.parquet")
        assert windows["window"].tolist() == list(range(len(windows)))
        alleles["window"] = [None if pd.isna(n) else windows["sequence"].iloc[int(n)] for n in alleles["window"]]
        frames.append(alleles)
        all_windows += windows["sequence"].tolist()
    return pd.concat(frames, ignore_index=True), all_windows


@pytest.mark.parametrize(("start", "end"), [(0, 4), (-3, 2), (5, 12), (-2, 11), (9, 12), (-5, -2), (10, 13), (3, 3)])
def test_padding_puts_n_beyond_both_ends(start, end):
    sequence = "ACGTTGCAAC"
    by_base = "".join(sequence[at] if 0 <= at < len(sequence) else "N" for at in range(start, end))
    assert padded(sequence, start, end) == by_base


def test_unknown_share_counts_bases_inside_the_contig_only():
    assert unknown_share("ACGNRA", 0, 6) == pytest.approx(2 / 6)
    assert unknown_share("ACGNRA", -4, 2) == 0.0
    assert unknown_share("ACGNRA", 4, 20) == pytest.approx(1 / 2)


@pytest.mark.parametrize("window", [8, 9])
def test_own_windows_hold_the_site_in_the_middle_also_at_contig_ends(window):
    sequence = random_bases(30, 1)
    part = Windows(facts(window), 1.0)
    for start in range(len(sequence)):
        part.add("c", sequence, snv("c", sequence, start))
    part.flush()
    framed = "N" * window + sequence + "N" * window
    for start, (_, _, _, ref, _, number, offset, status, reason) in enumerate(part.alleles):
        first = start + window - window // 2
        assert (part.sequences[number], offset) == (framed[first : first + window], window // 2)
        assert part.sequences[number][offset] == ref
        assert (status, reason) == ("scored", "")


@pytest.mark.parametrize(("tokenisation", "k"), [("overlapping-kmer", 3), ("overlapping-kmer", 6)])
@pytest.mark.parametrize("window", [12, 13])
@pytest.mark.parametrize("length", [5, 40])
def test_windows_of_models_whose_tokens_n_would_shift_end_with_the_contig(tokenisation, k, window, length):
    sequence = random_bases(length, 2)
    found = cut(facts(window, "masked", tokenisation, k), sequence, substitutions(sequence))
    for start, (text, offset) in enumerate(found):
        first = max(start - window // 2, 0)
        assert text == sequence[first : max(start - window // 2 + window, 0)]
        assert first + offset == start
    assert {len(text) for text, _ in found[window // 2 : length - window // 2]} <= {window}


@pytest.mark.parametrize("window", [16, 40, 41])
def test_windows_of_byte_pairs_lie_on_a_grid_an_eighth_apart_and_end_with_the_contig(window):
    sequence, stride = random_bases(130, 2), window // 8
    found = cut(facts(window, "masked", "bpe"), sequence, substitutions(sequence))
    for start, (text, offset) in enumerate(found):
        begin = start // stride * stride - (window - stride) // 2
        assert text == sequence[max(begin, 0) : begin + window]
        assert max(begin, 0) + offset == start
        assert abs(begin + window / 2 - start) <= stride + 1, "the site is in the middle"


@pytest.mark.parametrize(("ref", "alt"), [(1, 4), (4, 1), (2, 2)])
def test_flanks_of_other_alleles_end_with_the_contig_and_are_equal_elsewhere(ref, alt):
    sequence, window = random_bases(40, 3), 15
    for start in range(len(sequence) - ref + 1):
        allele = (start, sequence[start : start + ref], "A" * alt)
        ((text, offset),) = cut(facts(window, "masked", "bpe"), sequence, [allele])
        flank = (window - max(ref, alt)) // 2
        assert text[:offset] == sequence[max(start - flank, 0) : start]
        assert text[offset + ref :] == sequence[start + ref : start + ref + flank]


def tokens_of_contig(sequence: str, k: int, at: int) -> tuple[list[str], int, int]:
    """Tokens of the contig in the frame of base `at`, that base's token, and bases before the first token.

    The frame starts with the contig; where its last bases fill no token, they are read in a frame that ends with it.
    """
    left_over = len(sequence) % k
    shift = left_over if at >= len(sequence) - left_over else 0
    text = sequence[shift : shift + len(sequence) // k * k]
    return [text[first : first + k] for first in range(0, len(text), k)], (at - shift) // k, shift


@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.parametrize("objective", ["masked", "causal"])
@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 3, 20])
def test_kmer_windows_are_whole_tokens_in_the_frame_of_the_contig(k, objective, extra, size):
    sequence, half = random_bases(size * k + extra, 5), 4
    model = facts(2 * half * k, objective, "kmer", k)
    for start, found in enumerate(cut(model, sequence, substitutions(sequence))):
        tokens, at, shift = tokens_of_contig(sequence, k, start)
        if objective == "causal":  # as much after the token as before it, since the other strand reads from there
            before = after = 2 * half - half // 2
        else:
            before, after = half, half - 1
        first = max(at - before, 0)
        text, offset = found
        assert text == "".join(tokens[first : at + after + 1])
        assert shift + first * k + offset == start
        assert len(text) % k == 0, "the other strand has the same tokens"


@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.parametrize("one_pass", [False, True])
def test_all_substitutions_in_a_token_share_one_window(k, one_pass):
    sequence = random_bases(30 * k + 2, 6)
    model = facts(10 * k, "masked", "kmer", k)
    part = Windows(model, 1.0, one_pass)
    for start, ref in enumerate(sequence):
        for alt in "ACGT".replace(ref, ""):
            part.add("c", sequence, ("id", "c", start + 1, ref, alt))
    for token in range(30):
        rows = part.alleles[3 * k * token : 3 * k * (token + 1)]
        assert len({row[5] for row in rows}) == 1
        offsets = [row[6] for row in rows[::3]]
        assert offsets == list(range(offsets[0], offsets[0] + k)) and offsets[0] % k == 0
    assert len(part.alleles) == 3 * len(sequence)
    if not one_pass:
        assert len(part.sequences) == 30 + 1, "and one for the two bases that are left over"


def test_a_multiple_substitution_within_a_token_has_its_window_and_one_across_two_has_a_haplotype_window():
    sequence, k = random_bases(120, 7), 6
    model = facts(60, "masked", "kmer", k)
    single, within, across = cut(
        model,
        sequence,
        [
            (61, sequence[61], "ACGT".replace(sequence[61], "")[0]),
            (63, sequence[63:66], "AAA"),
            (65, sequence[65:67], "AA"),
        ],
    )
    assert within[0] == single[0] and within[1] == single[1] + 2
    assert across[0] != single[0] and across[0][across[1] : across[1] + 2] == sequence[65:67]


@pytest.mark.parametrize("k", [3, 6])
def test_a_contig_shorter_than_a_token_cannot_be_evaluated(k):
    sequence = random_bases(k - 1, 8)
    assert cut(facts(4 * k, "masked", "kmer", k), sequence, substitutions(sequence)) == [None] * (k - 1)
    assert None not in cut(facts(4 * k, "masked", "kmer", k), sequence + "A", substitutions(sequence + "A"))


def kmer_tokens(text: str, k: int) -> int:
    """Tokens of a text whose left-over bases are tokens of their own."""
    return len(text) // k + len(text) % k


@pytest.mark.parametrize("k", [3, 6])
@pytest.mark.parametrize(("ref", "alt"), [(1, 2), (1, 9), (2, 1), (8, 1), (7, 7), (7, 5), (5, 12)])
def test_both_haplotypes_of_kmers_fit_into_the_window_with_the_bases_left_over(k, ref, alt):
    sequence, size = random_bases(300, 9), 20 * k
    model = facts(size, "masked", "kmer", k)
    for start in (0, 5, *range(150, 150 + k), 300 - ref):
        allele = (start, sequence[start : start + ref], "A" * alt)
        ((text, offset),) = cut(model, sequence, [allele])
        left, right = text[:offset], text[offset + ref :]
        first = start - offset
        assert text == sequence[first : first + len(text)] and text[offset : offset + ref] == allele[1]
        assert first % k == 0 and len(text) % k == 0
        for haplotype in (text, left + allele[2] + right):
            assert kmer_tokens(haplotype, k) <= size // k
        if start >= 150 and start < 160:
            changed = (start // k * k, -(-(start + ref) // k) * k)
            assert changed[0] - first == first + len(text) - changed[1], "as many whole tokens left as right"
            wider = len(text) + 2 * k + max(0, alt - ref)
            assert wider + k * (k - 1) > size, "no further token would surely fit on both sides"


def test_a_kmer_allele_without_room_for_its_left_over_bases_is_skipped():
    sequence = random_bases(200, 10)
    part = Windows(facts(42, "masked", "kmer", 6), 1.0)
    part.add("c", sequence, ("id", "c", 61, sequence[60], sequence[60] + "A"))
    assert part.alleles[0][5:] == (None, None, "skipped", "not_evaluable_by_model")


@pytest.mark.parametrize(
    ("objective", "tokenisation", "k"),
    [
        ("masked", "single-base", 1),
        ("masked", "overlapping-kmer", 3),
        ("masked", "kmer", 6),
        ("masked", "bpe", 1),
        ("causal", "single-base", 1),
        ("causal", "kmer", 6),
    ],
)
def test_whole_windows_lie_on_a_grid_with_the_site_in_the_middle_half(objective, tokenisation, k):
    size, length = 60, 500
    sequence = random_bases(length, 11)
    model = facts(size, objective, tokenisation, k)
    frame = k if tokenisation == "kmer" else 1
    alleles = substitutions(sequence)
    found = cut(model, sequence, alleles, one_pass=True)
    assert found[::7] == [cut(model, sequence, [allele], one_pass=True)[0] for allele in alleles[::7]]
    for start, (text, offset) in enumerate(found):
        first = start - offset
        assert text == sequence[first : first + len(text)] and "N" not in text
        if start < length - length % frame:
            assert first % frame == len(text) % frame == 0
        inside = size // 4 <= start < length - size
        if inside:
            token = (offset // frame * frame, offset // frame * frame + frame)
            assert min(token[0], size - token[1]) >= size // 4 - frame
            assert first == 0 or len(text) == size
    assert len({text for text, _ in found}) <= length // (size // 2) + 3, "sites share windows"
    least = length // 8 if tokenisation == "bpe" else length // frame // 2  # byte pairs have a finer grid
    assert len({text for text, _ in cut(model, sequence, alleles)}) > least, "which they do less otherwise"


def test_one_pass_changes_nothing_where_sites_share_windows_exactly():
    sequence = random_bases(300, 12)
    model = facts(31, "bidirectional")
    alleles = substitutions(sequence)[::9]
    assert cut(model, sequence, alleles, one_pass=True) == cut(model, sequence, alleles)


@pytest.mark.parametrize(("downstream", "expected"), [(0, 10), (7, 7)])
@pytest.mark.parametrize(("ref", "alt"), [(1, 1), (1, 4), (4, 1), (3, 3)])
def test_causal_windows_leave_the_context_without_what_follows_on_both_sides(downstream, expected, ref, alt):
    sequence, size = random_bases(150, 13), 40
    model = facts(size, "causal", downstream=downstream)
    for start in (0, 3, 70, 150 - ref):
        ((text, offset),) = cut(model, sequence, [(start, sequence[start : start + ref], "A" * alt)])
        reach = size - expected
        assert text == sequence[max(start - reach, 0) : start + ref + reach]
        assert start - offset == max(start - reach, 0)


def test_an_allele_longer_than_what_a_causal_model_reads_after_it_cannot_be_evaluated():
    sequence = random_bases(150, 14)
    model = facts(40, "causal", downstream=5)
    found = cut(model, sequence, [(70, sequence[70], "A" * 5), (71, sequence[71], "A" * 6), (72, sequence[72:78], "A")])
    assert [entry is None for entry in found] == [False, True, True]
    assert cut(facts(6, "causal", downstream=6), sequence, [(70, sequence[70], "A")]) == [None], "no room before it"


@pytest.mark.parametrize("seed", range(5))
def test_tiles_hold_every_base_within_reach_of_each_of_their_sites(seed):
    rng = random.Random(seed)
    contigs = {"b": random_bases(600, seed), "a": random_bases(90, seed + 100)}
    part, window = Windows(facts(31, "bidirectional"), 1.0), 31
    expected = []
    for name, sequence in contigs.items():
        chosen = sorted({0, len(sequence) - 1, *rng.choices(range(len(sequence)), k=25)})
        for start in chosen:
            part.add(name, sequence, snv(name, sequence, start))
            expected.append(padded(sequence, start - 15, start + 16))
    part.flush()
    assert len(part.alleles) == len(expected)
    for allele, own in zip(part.alleles, expected, strict=True):
        tile, offset = part.sequences[allele[5]], allele[6]
        assert tile[offset - 15 : offset + 16] == own and len(tile[offset - 15 : offset + 16]) == window
    assert sum(map(len, part.sequences)) < sum(map(len, expected))


def test_dense_sites_share_a_window_and_sparse_ones_have_their_own():
    window, sequence = 401, random_bases(6000, 11)
    dense, sparse, pair = range(500, 900, 10), range(2000, 3000, 100), (4000, 4010)
    part = Windows(facts(window, "bidirectional"), 1.0)
    for start in (*dense, *sparse, *pair):
        for _ in range(2):  # a second allele at a site costs nothing and must not count as a site
            part.add("c", sequence, snv("c", sequence, start))
    part.flush()
    placed = {allele[2] - 1: (allele[5], allele[6]) for allele in part.alleles}
    for start, (number, offset) in placed.items():
        assert part.sequences[number][offset - 200 : offset + 201] == sequence[start - 200 : start + 201]
    assert len({placed[start][0] for start in dense}) == 1
    for start in (*sparse, *pair):
        assert len(part.sequences[placed[start][0]]) == window and placed[start][1] == window // 2
    assert len(part.sequences) == 1 + len(sparse) + len(pair)


def test_tiles_stay_below_their_largest_size_and_never_cross_contigs():
    sequence = random_bases(3 * MAX_TILE, 7)
    part = Windows(facts(31, "bidirectional"), 1.0)
    for name in ("a", "b"):
        for start in range(0, len(sequence), 20):
            part.add(name, sequence, snv(name, sequence, start))
    part.flush()
    assert max(map(len, part.sequences)) <= MAX_TILE
    assert all(tile.strip("N") in sequence for tile in part.sequences)
    half = len(part.alleles) // 2
    assert [a[5:7] for a in part.alleles[:half]] == [a[5:7] for a in part.alleles[half:]], "same bases, same windows"


def test_alleles_at_one_site_share_its_window():
    sequence = random_bases(50, 3)
    part = Windows(facts(9), 1.0)
    ref = sequence[20]
    for alt in set("ACGT") - {ref}:
        part.add("c", sequence, (f"c-21-{ref}-{alt}", "c", 21, ref, alt))
    part.flush()
    assert len(part.sequences) == 1
    assert len(part.alleles) == 3


@pytest.mark.parametrize(("ref_length", "alt_length"), [(1, 4), (4, 1), (3, 3), (2, 6)])
@pytest.mark.parametrize("window", [20, 21])
def test_haplotype_windows_have_the_same_flanks_and_neither_haplotype_exceeds_the_window(
    ref_length, alt_length, window
):
    sequence = random_bases(60, 4)
    for start in (0, 1, 30, 60 - ref_length):
        ref = sequence[start : start + ref_length]
        part = Windows(facts(window), 1.0)
        part.add("c", sequence, ("id", "c", start + 1, ref, "A" * alt_length))
        text, offset = part.sequences[0], part.alleles[0][6]
        assert text[offset : offset + ref_length] == ref
        left, right = text[:offset], text[offset + ref_length :]
        assert len(left) == len(right) == (window - max(ref_length, alt_length)) // 2
        assert text == padded(sequence, start - len(left), start + ref_length + len(right))
        assert len(left) + max(ref_length, alt_length) + len(right) in (window, window - 1)


def test_equivalent_representations_give_the_same_window():
    sequence = "GATTACA" + "CAG" * 6 + "TTGACCATG"
    windows = set()
    for start in range(7, 7 + 3 * 5):
        ref, alt = sequence[start : start + 4], sequence[start : start + 1]
        start, ref, alt = left_align(sequence, start, ref, alt)
        part = Windows(facts(21, "bidirectional"), 1.0)
        part.add("c", sequence, ("id", "c", start + 1, ref, alt))
        windows.add((part.sequences[0], part.alleles[0][3:]))
    assert len(windows) == 1


def test_an_allele_that_leaves_no_flank_and_one_among_unknown_bases_are_skipped_with_their_reason():
    sequence = "ACGT" * 10 + "N" * 20 + "ACGT" * 10
    part = Windows(facts(10), 0.25)
    part.add("c", sequence, ("a", "c", 5, "A", "ACCCCCCCC"))
    part.add("c", sequence, ("b", "c", 39, sequence[38], "T"))
    part.add("c", sequence, ("c", "c", 37, sequence[36], "T"))
    assert [(allele[5], allele[8]) for allele in part.alleles] == [
        (None, "not_evaluable_by_model"),
        (None, "window_ambiguous"),
        (0, ""),
    ]


@pytest.mark.parametrize("objective", ["masked", "bidirectional"])
@pytest.mark.parametrize("count", [1, 3, 7, 60])
def test_shards_hold_every_allele_once_in_order_with_the_same_bases(tmp_path, objective, count):
    contigs = {"a": random_bases(300, 5), "b": random_bases(40, 6)}
    reference = write_reference(tmp_path / "r.fa", contigs)
    alleles = [snv(name, text, start) for name, text in contigs.items() for start in range(0, len(text), 13)]
    alleles.insert(3, ("a-30-N", "a", 28, contigs["a"][27:30], "C"))
    variants = write_variants(tmp_path / "variants.parquet", alleles)
    shards = [tmp_path / f"{count}-{index}" for index in range(count)]
    number = extract_windows(variants, reference, facts(21, objective), shards, max_unknown_share=1.0)
    joined, windows = read_shards(shards)
    assert number == len(windows)
    assert joined["variant_id"].tolist() == [allele[0] for allele in alleles]
    for allele, window, offset in zip(alleles, joined["window"], joined["offset"].astype(int), strict=True):
        reach = 10 if len(allele[3]) == 1 else (21 - len(allele[3])) // 2
        start = allele[2] - 1
        own = padded(contigs[allele[1]], start - reach, start + len(allele[3]) + reach)
        assert window[offset - reach : offset + len(allele[3]) + reach] == own
    costs = [sum(1 + (len(ref) > 1) for ref in pd.read_parquet(shard / "alleles.parquet")["ref"]) for shard in shards]
    assert sum(costs) == len(alleles) + 1
    assert max(costs) - min(costs) <= 2, "an allele with two haplotypes counts twice"


@pytest.mark.parametrize("group", [None, 1, 3])
def test_a_site_costs_once_and_other_alleles_their_haplotypes(tmp_path, group):
    text = [("a", 3, "A", "C"), ("a", 3, "A", "G"), ("a", 3, "A", "AT"), ("a", 4, "C", "T"), ("a", 4, "CG", "C")]
    text += [("a", 5, "GA", "TT"), ("b", 5, "G", "A"), ("b", 5, "G", "C"), ("b", 5, "G", "T"), ("b", 9, "G", "T")]
    alleles = [(f"{c}-{p}-{r}-{a}", c, p, r, a) for c, p, r, a in text]
    variants = write_variants(tmp_path / "variants.parquet", alleles, skipped=2, group=group)
    expected, seen = [], set()
    for chrom, pos, ref, alt in text:
        single = len(ref) == len(alt) == 1
        expected.append(float((chrom, pos) not in seen) if single else 7.0)
        if single:
            seen.add((chrom, pos))
    assert allele_costs(variants, 7.0).tolist() == expected
    assert len(allele_costs(write_variants(tmp_path / "none.parquet", [], skipped=1), 7.0)) == 0


def ends_by_hand(costs: list[float], shards: int) -> list[int]:
    """Each shard takes alleles until the running sum reaches its share of the total."""
    ends = []
    for shard in range(1, shards):
        count = running = 0
        while running < sum(costs) * shard / shards - 1e-6:
            running += costs[count]
            count += 1
        ends.append(count)
    return [*ends, len(costs)]


@pytest.mark.parametrize("shards", [1, 2, 5, 40])
@pytest.mark.parametrize("seed", range(4))
def test_shards_have_about_equal_costs(shards, seed):
    rng = random.Random(seed)
    costs = [1.0] + [rng.choice([0, 1, 1, 2, 9]) for _ in range(rng.choice([3, 30, 200]))]
    ends = shard_ends(np.array(costs, np.float32), shards)
    assert ends == ends_by_hand(costs, shards)
    parts = [sum(costs[first:last]) for first, last in zip([0, *ends], ends, strict=False)]
    assert sum(parts) == sum(costs) and max(parts) < sum(costs) / shards + max(costs)


def test_shards_without_alleles_with_few_and_with_one_that_outweighs_all():
    assert shard_ends(np.empty(0, np.float32), 3) == [0, 0, 0]
    assert shard_ends(np.zeros(4, np.float32), 3) == [4, 4, 4]
    few = shard_ends(np.ones(2, np.float32), 5)
    assert len(few) == 5 and few == sorted(few) and few[-1] == 2 and {1, 2} <= set(few)
    huge = np.ones(100, np.float32)
    huge[40] = 1e6
    assert shard_ends(huge, 4) == [41, 41, 41, 100]


def test_costs_are_summed_without_loss():
    """Float32 stays at 2**24 when ones are added to it."""
    ones, shards = 2**18, 66
    costs = np.concatenate([[2.0**24], np.ones(ones)]).astype(np.float32)
    target = (2**24 + ones) * (shards - 1) / shards
    assert shard_ends(costs, shards)[-2:] == [1 + math.ceil(target - 2**24), 1 + ones]


@pytest.mark.parametrize(
    "model",
    [facts(21), facts(21, "bidirectional"), facts(60, "masked", "kmer", 6)],
    ids=["masked", "bidirectional", "kmer"],
)
def test_a_group_of_alleles_holds_the_windows_that_it_names(tmp_path, monkeypatch, model):
    contigs = {"a": random_bases(200, 5) + "N" * 70 + random_bases(40, 7), "b": random_bases(40, 6)}
    reference = write_reference(tmp_path / "r.fa", contigs)
    alleles = [snv(n, text, at) for n, text in contigs.items() for at in range(0, len(text), 2) if text[at] != "N"]
    variants = write_variants(tmp_path / "variants.parquet", alleles)

    def shard(name: str, size: int) -> Path:
        monkeypatch.setattr(windows_module, "GROUP", size)
        extract_windows(variants, reference, model, [tmp_path / name], max_unknown_share=0.9)
        return tmp_path / name

    expected, _ = read_shards([shard("whole", 10**6)])
    groups = list(read_groups(shard("groups", 7)))
    assert [len(frame) for frame, _, _ in groups] == [7] * (len(alleles) // 7)
    number, rows = 0, []
    for frame, windows, first in groups:
        assert tuple(frame.columns) == ALLELE_COLUMNS
        assert first == number
        number += len(windows)
        assert len(set(windows)) == len(windows)
        rows += [(row.variant_id, windows[int(row.window) - first], int(row.offset)) for row in frame.itertuples()]
    if model.shares_windows:  # tiles end with their group
        assert number > len(read_shards([tmp_path / "whole"])[1])
        cuts = [(v, w[o - 10 : o + 11]) for v, w, o in rows]
        whole = zip(expected["variant_id"], expected["window"], expected["offset"].astype(int), strict=True)
        assert cuts == [(v, w[o - 10 : o + 11]) for v, w, o in whole]
    else:
        assert rows == list(zip(expected["variant_id"], expected["window"], expected["offset"], strict=True))


def test_groups_whose_alleles_were_all_skipped_keep_their_place(tmp_path, monkeypatch):
    monkeypatch.setattr(windows_module, "GROUP", 2)
    sequence = "ACGTACGTAC" + "N" * 30 + "A" + "N" * 30 + "ACGTACGTAC"
    reference = write_reference(tmp_path / "r.fa", {"c": sequence})
    starts = [3, 4, 40, 40, 40, 40, 75, 76]
    alleles = [
        (f"{n}", "c", start + 1, sequence[start], "ACGT".replace(sequence[start], "")[n % 3])
        for n, start in enumerate(starts)
    ]
    variants = write_variants(tmp_path / "variants.parquet", alleles)
    assert extract_windows(variants, reference, facts(5), [tmp_path / "s"], max_unknown_share=0.3) == 4
    groups = list(read_groups(tmp_path / "s"))
    assert [windows for _, windows, _ in groups] == [["CGTAC", "GTACG"], [], [], [sequence[73:78], sequence[74:79]]]
    assert [frame["variant_id"].tolist() for frame, _, _ in groups] == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]]
    assert groups[1][0]["reason"].tolist() == ["window_ambiguous"] * 2 and groups[3][2] == 2


def test_memory_holds_the_windows_of_a_group_or_two_however_many_alleles_there_are(tmp_path, monkeypatch):
    alive: list[weakref.ref] = []
    held = []

    class Watched(Windows):
        def __post_init__(self) -> None:
            super().__post_init__()
            held.append(sum(len(part().sequences) for part in alive if part() is not None))
            alive.append(weakref.ref(self))

    monkeypatch.setattr(windows_module, "GROUP", 10)
    monkeypatch.setattr(windows_module, "Windows", Watched)
    sequence = random_bases(1000, 15)
    reference = write_reference(tmp_path / "r.fa", {"c": sequence})
    alleles = [snv("c", sequence, start) for start in range(1000)]
    variants = write_variants(tmp_path / "variants.parquet", alleles)
    shards = [tmp_path / "s", tmp_path / "t"]
    assert extract_windows(variants, reference, facts(21), shards, max_unknown_share=1.0) == 1000
    assert len(held) == 100 and 0 < max(held) <= 10


def test_soft_masked_bases_are_read_as_upper_case(tmp_path):
    reference = write_reference(tmp_path / "r.fa", {"c": "acgtacgtacgt"})
    variants = write_variants(tmp_path / "variants.parquet", [("c-5-A-G", "c", 5, "A", "G")])
    extract_windows(variants, reference, facts(5), [tmp_path / "s"], max_unknown_share=0.0)
    assert read_shards([tmp_path / "s"])[1] == ["GTACG"]


def test_a_record_without_a_position_beside_an_allele_does_not_disturb_it(tmp_path):
    reference = write_reference(tmp_path / "r.fa", {"c": "ACGTACGTACGT"})
    variants = write_variants(tmp_path / "variants.parquet", [("c-5-A-G", "c", 5, "A", "G")], skipped=1)
    extract_windows(variants, reference, facts(5), [tmp_path / "s"], max_unknown_share=0.0)
    joined, windows = read_shards([tmp_path / "s"])
    assert windows == ["GTACG"] and joined["pos"].tolist() == [5]


@pytest.mark.parametrize("skipped", [0, 2])
def test_no_allele_to_score_gives_empty_tables_of_the_usual_types(tmp_path, skipped):
    reference = write_reference(tmp_path / "r.fa", {"c": "ACGTACGTACGT"})
    variants = write_variants(tmp_path / "variants.parquet", [], skipped=skipped)
    assert extract_windows(variants, reference, facts(5), [tmp_path / "s", tmp_path / "t"], max_unknown_share=0) == 0
    for shard in ("s", "t"):
        alleles = pq.read_table(tmp_path / shard / "alleles.parquet")
        windows = pq.read_table(tmp_path / shard / "windows.parquet")
        assert len(alleles) == len(windows) == 0
        assert tuple(alleles.column_names) == ALLELE_COLUMNS
        assert {alleles.schema.field(name).type for name in ("pos", "window", "offset")} == {pa.int64()}
        assert windows.schema.field("sequence").type == pa.large_string()


def test_allele_columns_begin_like_those_of_the_scores():
    assert ALLELE_COLUMNS[:5] == SCORES[:5]
