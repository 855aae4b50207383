"""Calibration against plain group-bys and sums by hand."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pysam
import pytest

from seqprior.calibration import (
    Calibration,
    allele_kind,
    background_alleles,
    background_table,
    calibrate,
    draw_blocks,
    read_calibration,
    shrunken_means,
    substitution_contexts,
    write_calibration,
)
from seqprior.columns import SCORES, VARIANTS
from seqprior.errors import BadInput
from seqprior.sequence import BASES
from seqprior.variants import left_align

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SWAP = str.maketrans("ACGTN", "TGCAN")


def random_bases(length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(BASES, weights=[3, 2, 2, 3], k=length))


CONTIGS = {
    "two": random_bases(700, 1) + "N" * 300 + "CAG" * 60 + random_bases(900, 2),
    "tiny": "ACG",
    "one": random_bases(1500, 3) + "R" + "A" * 90 + random_bases(300, 4),
}


@pytest.fixture(scope="module")
def fasta(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "r.fa"
    lower = {name: text.lower() if name == "two" else text for name, text in CONTIGS.items()}
    path.write_text("".join(f">{name}\n{text}\n" for name, text in lower.items()))
    pysam.faidx(str(path))
    return path


def text(*values: str) -> pd.Series:
    return pd.Series(list(values), dtype=object)


def test_kinds_of_normalised_alleles():
    found = allele_kind(
        text("A", "A", "AT", "AT", "AT", "A", "AT", "A"), text("C", "AT", "A", "GC", "T", "TTA", "GCA", "CT")
    )
    assert found.tolist() == [
        *("substitution", "insertion", "deletion", "multiple"),
        *("deletion", "insertion", "multiple", "multiple"),  # the first two anchored behind, as at a contig's start
    ]
    assert allele_kind(text(), text()).tolist() == []


@pytest.mark.parametrize("seed", range(3))
def test_the_background_is_true_to_the_reference_normalised_unique_and_sorted(fasta, seed):
    alleles = background_alleles(fasta, 12, 60, 80, seed)
    assert len(set(alleles)) == len(alleles) and set(map(len, alleles)) == {4}
    order = {name: number for number, name in enumerate(CONTIGS)}
    assert alleles == sorted(alleles, key=lambda allele: (order[allele[0]], *allele[1:]))
    for name, start, ref, alt in alleles:
        assert CONTIGS[name][start : start + len(ref)] == ref
        assert set(ref + alt) <= set(BASES)
        assert left_align(CONTIGS[name], start, ref, alt) == (start, ref, alt)
    kinds = Counter(allele_kind(text(*(a[2] for a in alleles)), text(*(a[3] for a in alleles))))
    assert kinds["substitution"] % 3 == 0 and 12 * 30 < kinds["substitution"] <= 12 * 60 * 3
    assert all(40 < kinds[kind] < 130 for kind in ("insertion", "deletion", "multiple"))
    sites = Counter(allele[:2] for allele in alleles if len(allele[2]) == len(allele[3]) == 1)
    assert set(sites.values()) == {3}, "every substitution of a site"


def test_repeats_that_end_at_unknown_bases_give_no_allele_with_an_unknown_base(tmp_path):
    path = tmp_path / "r.fa"
    path.write_text(">c\n" + "N" * 30 + "A" * 80 + "N" * 30 + "\n")
    pysam.faidx(str(path))
    alleles = background_alleles(path, 3, 50, 200, 1)
    assert {len(a[2]) for a in alleles} > {1} or {len(a[3]) for a in alleles} > {1}
    assert set("".join(ref + alt for _, _, ref, alt in alleles)) <= set(BASES)


def test_the_draw_follows_the_seed(fasta):
    first, again, other = (background_alleles(fasta, 5, 60, 30, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_blocks_lie_within_contigs_among_known_bases(fasta):
    blocks = draw_blocks(fasta, 40, 60, 7)
    assert len(blocks) == 40 and {name for name, _ in blocks} == {"one", "two"}
    for name, start in blocks:
        framed = CONTIGS[name][start - 2 : start + 62]
        assert start >= 2 and len(framed) == 64 and set(framed) <= set(BASES)


def test_no_further_kinds_if_none_are_asked_for(fasta):
    assert all(len(ref) == len(alt) == 1 for _, _, ref, alt in background_alleles(fasta, 3, 50, 0, 1))


def test_a_reference_too_short_or_all_unknown_is_refused(tmp_path, fasta):
    with pytest.raises(BadInput, match="no contig is longer than calibration.block_length 5000; lower it"):
        draw_blocks(fasta, 1, 5000, 1)
    path = tmp_path / "r.fa"
    path.write_text(">c\n" + "N" * 200 + "\n")
    pysam.faidx(str(path))
    with pytest.raises(BadInput, match="found no block of 60 known bases"):
        draw_blocks(path, 1, 60, 1)


def test_the_background_table_looks_like_variants(fasta):
    alleles = background_alleles(fasta, 2, 50, 5, 1)
    table = background_table(alleles)
    assert tuple(table.columns) == VARIANTS
    assert table["variant_id"].is_unique and table["variant_id"][0] == "-".join(
        (alleles[0][0], str(alleles[0][1] + 1), *alleles[0][2:])
    )
    assert (table["pos"] == [allele[1] + 1 for allele in alleles]).all()
    assert (table["status"] == "scored").all() and (table["input_count"] == 1).all()


def context_by_hand(name: str, pos: int, alt: str) -> tuple[str, str]:
    framed = "NN" + CONTIGS[name] + "NN"
    context = framed[pos - 1 : pos + 4]
    if context[2] in "GT":
        return context[::-1].translate(SWAP), alt.translate(SWAP)
    return context, alt


def test_contexts_are_read_from_the_strand_with_a_or_c_and_padded_at_contig_ends(fasta):
    sites = [(name, pos) for name, sequence in CONTIGS.items() for pos in (1, 2, 3, len(sequence) - 1, len(sequence))]
    sites += [("one", pos) for pos in range(10, 60)]
    frame = pd.DataFrame(
        [
            (name, pos, CONTIGS[name][pos - 1], alt)
            for name, pos in sites
            for alt in BASES
            if alt != CONTIGS[name][pos - 1]
        ],
        columns=["chrom", "pos", "ref", "alt"],
    )
    contexts, alternates = substitution_contexts(frame, fasta)
    expected = [context_by_hand(*row) for row in frame[["chrom", "pos", "alt"]].itertuples(index=False)]
    assert list(zip(contexts, alternates, strict=True)) == expected
    assert {context[2] for context in contexts} == {"A", "C"}
    assert {len(context) for context in contexts} == {5}


def background(fasta: Path, blocks: int = 30) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores that depend on kind and context plus noise, and consequences of which two in three are neutral."""
    table = background_table(background_alleles(fasta, blocks, 100, 60, 1))
    rng = np.random.default_rng(0)
    shift = allele_kind(table["ref"], table["alt"]).map(
        {"substitution": 0.0, "insertion": -1.0, "deletion": -3.0, "multiple": -2.0}
    )
    scores = table.reindex(columns=list(SCORES)).astype({"llr": float})
    scores["llr"] = shift + 0.3 * (table["ref"] == "C") + rng.normal(0, 0.5, len(table))
    terms = np.array(["intron_variant", "synonymous_variant", "missense_variant"])[rng.integers(3, size=len(table))]
    scores.loc[terms == "missense_variant", "llr"] -= 5.0
    return scores, pd.DataFrame({"variant_id": table["variant_id"], "consequence": terms})


NEUTRAL = ["intron_variant", "synonymous_variant"]


def test_shrunken_means_follow_the_formula_on_small_data():
    contexts = np.array(["AAAAA", "AAAAA", "CAAAC", "GGCGG"], dtype=object)
    alternates = np.array(["C", "C", "C", "T"], dtype=object)
    llr = np.array([1.0, 3.0, -2.0, 6.0])
    table = shrunken_means(contexts, alternates, llr).set_index(["context", "alt"])
    overall = 8.0 / 4
    core = (1.0 + 3.0 - 2.0 + 10 * overall) / (3 + 10)  # AAA>C
    assert table.loc[("AAAAA", "C"), "mean"] == pytest.approx((4.0 + 10 * core) / (2 + 10))
    assert table.loc[("CAAAC", "C"), "mean"] == pytest.approx((-2.0 + 10 * core) / (1 + 10))
    assert table.loc[("TAAAT", "C"), "mean"] == pytest.approx(core)
    assert table.loc[("TTCTT", "A"), "mean"] == pytest.approx(overall)
    assert table.loc[("AAAAA", "C"), "count"] == 2 and table["count"].sum() == 4
    assert len(table) == 2 * 4**4 * 3 and table.index.is_unique


def test_means_equal_a_plain_group_by_where_counts_are_large():
    rng = np.random.default_rng(1)
    contexts = rng.choice(np.array(["AACAA", "TTCTT", "GGAGG"], dtype=object), 90_000)
    alternates = np.full(90_000, "T", dtype=object)
    llr = rng.normal(0, 1, 90_000) + np.where(contexts == "AACAA", 2.0, -1.0)
    plain = pd.Series(llr).groupby(contexts).mean()
    table = shrunken_means(contexts, alternates, llr)
    table = table[table["alt"] == "T"].set_index("context")["mean"]
    np.testing.assert_allclose(table[plain.index], plain, atol=2e-3)


def test_both_strands_of_a_context_are_pooled(fasta):
    scores, consequences = background(fasta)
    table = calibrate(scores, consequences, NEUTRAL, fasta).table.set_index(["context", "alt"])
    kept = scores[consequences["consequence"].isin(NEUTRAL)]
    kept = kept[(kept["ref"].str.len() == 1) & (kept["alt"].str.len() == 1)]
    keys = [context_by_hand(*row) for row in kept[["chrom", "pos", "alt"]].itertuples(index=False)]
    counts = Counter(keys)
    assert table["count"].sum() == len(kept)
    assert all(table.loc[key, "count"] == number for key, number in counts.items())


def test_neutral_alleles_have_no_mean_left_and_the_kinds_their_spread(fasta):
    scores, consequences = background(fasta)
    calibration = calibrate(scores, consequences, NEUTRAL, fasta)
    neutral = scores[consequences["consequence"].isin(NEUTRAL)].reset_index(drop=True)
    calibrated = neutral["llr"] - calibration.expected(neutral, fasta)
    kind = allele_kind(neutral["ref"], neutral["alt"])
    kinds = calibration.kinds.set_index("kind")
    assert kinds["count"].sum() == len(neutral)
    for name, values in calibrated.groupby(kind):
        assert abs(values.mean()) < (0.02 if name == "substitution" else 1e-9)
        assert kinds.loc[name, "sd"] == pytest.approx(values.std(ddof=1))
        assert kinds.loc[name, "mean"] == pytest.approx(neutral.loc[kind == name, "llr"].mean())
        assert kinds.loc[name, "sd"] == pytest.approx(0.5, rel=0.3)
    single = neutral[kind == "substitution"]
    keys = ["-".join(context_by_hand(*row)) for row in single[["chrom", "pos", "alt"]].itertuples(index=False)]
    left = calibrated[kind == "substitution"].groupby(keys).agg(["mean", "count"])
    raw = single["llr"].groupby(keys).mean()
    common = left["count"] >= 10
    assert left.loc[common, "mean"].abs().mean() < 0.5 * raw[common].abs().mean()
    np.testing.assert_allclose(calibration.spread(neutral), kind.map(kinds["sd"]))


def test_an_allele_of_a_context_over_a_contig_end_gets_the_mean_of_its_kind(fasta):
    scores, consequences = background(fasta)
    calibration = calibrate(scores, consequences, NEUTRAL, fasta)
    frame = pd.DataFrame([("tiny", 1, "A", "C"), ("tiny", 3, "G", "T")], columns=["chrom", "pos", "ref", "alt"])
    mean = calibration.kinds.set_index("kind").loc["substitution", "mean"]
    assert calibration.expected(frame, fasta).tolist() == [mean, mean]


@pytest.mark.parametrize("missing", ["substitution", "insertion", "deletion", "multiple"])
def test_a_kind_without_neutral_alleles_has_no_expectation_and_no_spread(tmp_path, fasta, missing):
    scores, consequences = background(fasta, blocks=4)
    kind = allele_kind(scores["ref"], scores["alt"])
    consequences.loc[kind == missing, "consequence"] = "missense_variant"
    write_calibration(calibrate(scores, consequences, NEUTRAL, fasta), "m", NEUTRAL, tmp_path)
    calibration = read_calibration(tmp_path)
    assert np.isnan(calibration.expected(scores[kind == missing], fasta)).all()
    assert np.isnan(calibration.spread(scores[kind == missing])).all()
    assert np.isfinite(calibration.expected(scores[kind != missing], fasta)).all()

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    summary = json.loads((tmp_path / "calibration.json").read_text(), parse_constant=no_constant)["m"]
    assert (summary["sd"] is None) == (missing == "substitution")


def test_a_kind_with_one_neutral_allele_or_without_variation_has_no_spread():
    kinds = pd.DataFrame(
        [("insertion", 0.1, 1, np.nan), ("deletion", 0.2, 9, 0.0)], columns=["kind", "mean", "count", "sd"]
    )
    frame = pd.DataFrame({"ref": ["A", "AC"], "alt": ["AC", "A"]})
    assert np.isnan(Calibration(pd.DataFrame(), kinds).spread(frame)).all()


def test_unscored_background_alleles_are_left_out(fasta):
    scores, consequences = background(fasta, blocks=4)
    gone = scores.index % 2 == 0
    halved = scores.assign(llr=scores["llr"].where(~gone))
    first = calibrate(halved, consequences, NEUTRAL, fasta)
    second = calibrate(scores[~gone], consequences[~gone], NEUTRAL, fasta)
    pd.testing.assert_frame_equal(first.table, second.table)
    pd.testing.assert_frame_equal(first.kinds, second.kinds)


def test_a_background_without_a_neutral_allele_is_refused(fasta):
    scores, consequences = background(fasta, blocks=2)
    with pytest.raises(BadInput, match=r"calibration.neutral \(no_such_term\); add terms or raise calibration.blocks"):
        calibrate(scores, consequences, ["no_such_term"], fasta)


def test_what_is_written_is_read_again_to_the_last_digit(tmp_path, fasta):
    calibration = calibrate(*background(fasta, blocks=4), NEUTRAL, fasta)
    write_calibration(calibration, "m", NEUTRAL, tmp_path)
    again = read_calibration(tmp_path)
    pd.testing.assert_frame_equal(again.table, calibration.table, check_dtype=False, rtol=1e-15)
    pd.testing.assert_frame_equal(again.kinds, calibration.kinds, check_dtype=False, rtol=1e-15)
    summary = json.loads((tmp_path / "calibration.json").read_text())["m"]
    assert summary["neutral_alleles"] == calibration.kinds["count"].sum()
    assert summary["definition"] == "intron_variant, synonymous_variant"


def test_the_scripts_draw_and_calibrate_as_the_library_does(tmp_path, fasta):
    draw = ["draw_background.py", "--fasta", fasta, "--blocks", 4, "--block-length", 100, "--others", 60, "--seed", 1]
    draw += ["--output", tmp_path / "variants.parquet", "--summary", tmp_path / "variants.json"]
    scores, consequences = background(fasta, blocks=4)
    half = len(scores) // 2
    shards = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    scores.iloc[:half].to_parquet(shards[0])
    scores.iloc[half:].to_parquet(shards[1])
    consequences.to_parquet(tmp_path / "consequences.parquet")
    fit = ["calibrate_scores.py", "--shards", *shards, "--consequences", tmp_path / "consequences.parquet", "--fasta"]
    fit += [fasta, "--neutral", *NEUTRAL, "--model", "m", "--output", tmp_path / "calibration"]
    for script, *arguments in (draw, fit):
        subprocess.run([sys.executable, str(SCRIPTS / script), *map(str, arguments)], check=True)
    drawn = pd.read_parquet(tmp_path / "variants.parquet")
    pd.testing.assert_frame_equal(drawn, background_table(background_alleles(fasta, 4, 100, 60, 1)), check_dtype=False)
    assert json.loads((tmp_path / "variants.json").read_text()) == {"files": []}
    expected = calibrate(scores, consequences, NEUTRAL, fasta)
    pd.testing.assert_frame_equal(
        read_calibration(tmp_path / "calibration").table, expected.table, check_dtype=False, rtol=1e-12
    )
