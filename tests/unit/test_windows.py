"""Windows against slices of a contig that is padded by hand."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pysam
import pytest

from seqprior.columns import SCORES, VARIANTS
from seqprior.models import ModelFacts
from seqprior.variants import left_align, table_schemas
from seqprior.windows import ALLELE_COLUMNS, MAX_TILE, Windows, extract_windows, padded, unknown_share


def facts(window: int, objective: str = "masked") -> ModelFacts:
    return ModelFacts(
        *("m", "m", "family", objective, "single-base", window, min(window, 5), Path(), "", 1),
        *("species", "licence", "citation", "description", "limits"),
    )


def random_bases(length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=length))


def snv(contig: str, sequence: str, start: int) -> tuple:
    ref = sequence[start]
    alt = "ACGT"["ACGT".index(ref) - 1]
    return f"{contig}-{start + 1}-{ref}-{alt}", contig, start + 1, ref, alt


def write_reference(path: Path, contigs: dict[str, str]) -> Path:
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in contigs.items()))
    pysam.faidx(str(path))
    return path


def write_variants(path: Path, alleles: list[tuple], skipped: int = 0) -> Path:
    schema, _ = table_schemas()
    rows = [
        {**dict.fromkeys(VARIANTS), **dict(zip(VARIANTS, allele, strict=False)), "status": "scored", "reason": ""}
        for allele in alleles
    ]
    malformed = {"status": "skipped", "reason": "malformed_record", "chrom": "?", "ref": "", "alt": "", "pos": None}
    rows += [{**dict.fromkeys(VARIANTS), **malformed, "variant_id": f"x:{line}"} for line in range(skipped)]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
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
@pytest.mark.parametrize("count", [1, 3, 7])
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
    sizes = [len(pd.read_parquet(shard / "alleles.parquet")) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


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
