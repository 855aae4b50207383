"""The ranking redone by hand, and the ranked VCF as bcftools reads it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pysam
import pytest

from seqprior.calibration import Calibration, write_calibration
from seqprior.columns import CONSEQUENCES, RANKED_LEAD, RANKED_TAIL, SCORES, VARIANTS
from seqprior.prioritise import (
    EVIDENCE,
    info_field,
    join_evidence,
    rank_alleles,
    vcf_number,
    write_ranked_vcf,
    write_table,
)
from seqprior.variants import table_schemas

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
WEIGHTS = {"missense_variant": 6, "stop_gained": 10, "synonymous_variant": 0, "other": 1}
KINDS = pd.DataFrame(
    [("substitution", -0.2, 100, 0.5), ("insertion", -1.0, 20, 2.0)], columns=["kind", "mean", "count", "sd"]
)
CALIBRATION = Calibration(pd.DataFrame(columns=["context", "alt", "mean", "count"]), KINDS)

# variant_id, ref, alt, consequence, (llr_fwd, llr_rev, expected) of a model or None, reason
ALLELES = [
    ("c-0-N-<DEL>", 0, "N", "<DEL>", None, None, "symbolic_allele"),
    ("c-1-A-C", 1, "A", "C", "missense_variant", (-1.0, -2.0, -0.2), ""),
    ("c-2-C-T", 2, "C", "T", "synonymous_variant", (0.5, 0.1, -0.1), ""),
    ("c-3-G-GT", 3, "G", "GT", "stop_gained", (-3.0, -1.0, -1.0), ""),
    ("c-4-T-TAA", 4, "T", "TAA", "novel_term", (-90.0, -1.0, -1.0), ""),
    ("c-5-AC-A", 5, "AC", "A", "missense_variant", (-2.0, -4.0, math.nan), ""),
    ("c-6-A-G", 6, "A", "G", None, (-0.2, -0.2, -0.2), ""),
    ("c-7-NA-T", 7, "NA", "T", "stop_gained", None, "allele_too_long"),
    ("c-8-A-G", 8, "A", "G", None, (-0.2, -0.2, -0.2), ""),
    ("f:9", None, "?", "", None, None, "malformed_record"),
]


def tables(alleles=ALLELES, chrom: str = "c") -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Variants, consequences and scores as the stages before write them."""
    variants, consequences, scores = [], [], []
    for identifier, pos, ref, alt, term, values, reason in alleles:
        status = "skipped" if reason else "scored"
        base = {"variant_id": identifier, "chrom": chrom, "pos": pos, "ref": ref, "alt": alt}
        tail = {"status": status, "reason": reason}
        variants.append(
            {**dict.fromkeys(VARIANTS, ""), **base, **tail, "input_count": 1, "input_line": 1, "input_pos": 1}
        )
        if term:
            consequences.append((identifier, "GENE", "TX", term, "p.X", "csq"))
        forward, reverse, expected = values or (math.nan,) * 3
        llr = (forward + reverse) / 2
        numbers = dict(
            zip(EVIDENCE, (llr, llr - expected, forward, reverse, abs(forward - reverse), 1, 2, 3), strict=True)
        )
        scores.append({**base, "method": "m" if values else "", **numbers, **tail})
    return (
        pd.DataFrame(variants, columns=list(VARIANTS)),
        pd.DataFrame(consequences, columns=list(CONSEQUENCES)),
        pd.DataFrame(scores, columns=list(SCORES)),
    )


def ranked(alleles=ALLELES, models=("m",), weight: float = 1.5, clip: float = 5.0) -> pd.DataFrame:
    variants, consequences, scores = tables(alleles)
    evidence = join_evidence(variants, consequences, dict.fromkeys(models, scores))
    return rank_alleles(evidence, dict.fromkeys(models, CALIBRATION), WEIGHTS, weight, clip)


def test_scores_are_the_weight_plus_the_clipped_surprise():
    table = ranked().set_index("variant_id")
    sd = {"A": 0.5, "C": 0.5, "G": 2.0, "T": 2.0}
    for identifier, _, ref, alt, term, values, reason in ALLELES:
        row = table.loc[identifier]
        if reason:
            assert np.isnan([row["score"], row["score_low"], row["score_high"], row["model_term"]]).all()
            continue
        base = WEIGHTS.get(term, 1)
        forward, reverse, expected = values
        if math.isnan(expected):  # a kind that the background lacks
            assert row["score"] == row["score_low"] == row["score_high"] == base
            assert np.isnan(row["model_term"]) and row["llr.m"] == (forward + reverse) / 2
            continue
        spread = 0.5 if len(alt) == 1 else 2.0
        assert spread == sd[ref]
        terms = [
            1.5 * min(5.0, max(-5.0, -(value - expected) / spread))
            for value in ((forward + reverse) / 2, forward, reverse)
        ]
        assert row["model_term"] == pytest.approx(terms[0])
        assert row["score"] == pytest.approx(base + terms[0])
        assert row["score_low"] == pytest.approx(base + min(terms))
        assert row["score_high"] == pytest.approx(base + max(terms))
        assert row["consequence_weight"] == base


PROTEINS = pd.DataFrame(
    [
        ("c-1-A-C", "TX", "p.Ala1Val", 2.0, 9.0, "scored", ""),
        ("c-2-C-T", "TX", "", math.nan, math.nan, "skipped", "same_protein"),
        ("c-5-AC-A", "OTHER", "p.Ala2Val", -1.0, math.nan, "scored", ""),
    ],
    columns=[
        *("variant_id", "protein_transcript", "protein_hgvs_p", "protein_z.esm", "structure_z.mpnn"),
        *("protein_status", "protein_reason"),
    ],
)


def test_protein_and_structure_models_add_their_clipped_mean():
    variants, consequences, scores = tables()
    evidence = join_evidence(variants, consequences, {"m": scores}, PROTEINS)
    table = rank_alleles(evidence, {"m": CALIBRATION}, WEIGHTS, 1.5, 5.0, 0.5, 4.0).set_index("variant_id")
    without = ranked().set_index("variant_id")
    terms = {"c-1-A-C": 0.5 * (2.0 + 4.0) / 2, "c-5-AC-A": 0.5 * -1.0}
    for identifier in without.index[without["status"] == "scored"]:
        for name in ("score", "score_low", "score_high"):
            expected = without.loc[identifier, name] + terms.get(identifier, 0.0)
            assert table.loc[identifier, name] == pytest.approx(expected)
    assert table["protein_term"].dropna().to_dict() == pytest.approx(terms)
    assert table.loc[without["score"].isna(), "protein_term"].isna().all()
    assert table["rank_by_consequence"].to_dict() == pytest.approx(
        without["rank_by_consequence"].to_dict(), nan_ok=True
    )


REGULATION = pd.DataFrame(
    [("c-1-A-C", 0.9, -2.0, "REB1"), ("c-2-C-T", 0.2, 0.5, None)],
    columns=["variant_id", "element_probability.Reb1", "element_change.Reb1", "site"],
)


def test_effects_on_regulation_are_evidence_and_no_part_of_the_score():
    variants, consequences, scores = tables()
    evidence = join_evidence(variants, consequences, {"m": scores}, None, REGULATION)
    table = rank_alleles(evidence, {"m": CALIBRATION}, WEIGHTS, 1.5, 5.0)
    without = ranked()
    own = list(REGULATION.columns.drop("variant_id"))
    pd.testing.assert_frame_equal(table.drop(columns=own), without)
    assert list(table.columns)[-2:] == list(RANKED_TAIL)
    found = table.set_index("variant_id")
    assert found["element_change.Reb1"].dropna().to_dict() == {"c-1-A-C": -2.0, "c-2-C-T": 0.5}
    assert found["site"].to_dict() == dict.fromkeys(found.index, "") | {"c-1-A-C": "REB1"}


def test_the_protein_change_is_that_of_the_translated_transcript_where_it_is_the_consequences():
    variants, consequences, scores = tables()
    table = join_evidence(variants, consequences, {"m": scores}, PROTEINS).set_index("variant_id")
    assert table["hgvs_p"].to_dict() | {"c-1-A-C": "p.Ala1Val"} == table["hgvs_p"].to_dict()
    assert table.loc["c-2-C-T", "hgvs_p"] == "p.X", "the stage has no name for it"
    assert table.loc["c-5-AC-A", "hgvs_p"] == "p.X", "another transcript was translated"
    assert table.loc["c-6-A-G", ["protein_transcript", "protein_reason"]].tolist() == ["", ""]
    assert len(table) == len(variants)


def test_the_best_come_first_ties_in_reference_order_and_skipped_ones_last_by_severity():
    table = ranked()
    assert table["rank"].tolist() == list(range(1, len(ALLELES) + 1))
    assert table["variant_id"].tolist() == [
        *("c-3-G-GT", "c-1-A-C", "c-4-T-TAA", "c-5-AC-A", "c-6-A-G", "c-8-A-G", "c-2-C-T"),
        *("c-7-NA-T", "c-0-N-<DEL>", "f:9"),
    ]
    assert table["score"].dropna().is_monotonic_decreasing
    assert table.loc[table["score"].isna(), "status"].eq("skipped").all()
    assert table.set_index("variant_id")["reason"].to_dict() == {allele[0]: allele[6] for allele in ALLELES}


def test_columns_lead_and_end_as_documented():
    columns = list(ranked(models=("m", "n")).columns)
    assert columns[: len(RANKED_LEAD)] == list(RANKED_LEAD) and columns[-2:] == list(RANKED_TAIL)
    assert {f"{name}.{model}" for name in EVIDENCE for model in "mn"} < set(columns)
    assert not {"shown", "unscored", "order"} & set(columns)


def test_the_interval_holds_the_score_whatever_the_rounding():
    rng = np.random.default_rng(0)
    alleles = []
    for number in range(500):
        forward, expected = rng.normal(size=2)
        reverse = forward if number % 2 else rng.normal()
        alleles.append((f"v{number}", number + 1, "A", "C", "missense_variant", (forward, reverse, expected), ""))
    table = ranked(alleles, weight=1.0, clip=1.7)
    assert (table["score_low"] <= table["score"]).all() and (table["score"] <= table["score_high"]).all()
    same = table["llr_fwd.m"] == table["llr_rev.m"]
    np.testing.assert_allclose(table.loc[same, "score_low"], table.loc[same, "score_high"], atol=1e-12)
    assert table["model_term"].abs().max() == 1.7


def test_scores_that_differ_in_the_last_bits_are_ties():
    alleles = [
        (f"v{number}", number + 1, "A", "C", "missense_variant", (-1.0 - tiny, -1.0, -0.2), "")
        for number, tiny in enumerate([0.0, 4e-14, 1e-14, 8e-14])
    ]
    assert ranked(alleles)["variant_id"].tolist() == ["v0", "v1", "v2", "v3"]


def test_the_rank_by_consequence_is_the_mid_rank_among_scored_alleles():
    table = ranked().set_index("variant_id")["rank_by_consequence"].dropna()
    # weights: stop 10; two missense 6; other, none, none 1; synonymous 0
    expected = {
        "c-3-G-GT": 1,
        "c-1-A-C": 2.5,
        "c-5-AC-A": 2.5,
        "c-4-T-TAA": 5,
        "c-6-A-G": 5,
        "c-8-A-G": 5,
        "c-2-C-T": 7,
    }
    assert table.to_dict() == expected


def test_models_are_averaged_over_those_that_score_and_one_is_enough_to_be_scored():
    alleles = [("v", 1, "A", "C", "missense_variant", (-1.2, -1.2, -0.2), "")]
    variants, consequences, first = tables(alleles)
    second = first.assign(**dict.fromkeys(EVIDENCE, math.nan), status="skipped", reason="window_ambiguous")
    third = first.assign(llr=0.8, llr_calibrated=1.0, llr_fwd=0.8, llr_rev=0.8)

    def score(models: dict) -> pd.Series:
        calibrations = dict.fromkeys(models, CALIBRATION)
        return rank_alleles(join_evidence(variants, consequences, models), calibrations, WEIGHTS, 1.0, 5.0).iloc[0]

    assert score({"a": first, "b": second})["score"] == pytest.approx(6 + 2)
    assert score({"b": second, "a": first})[["status", "reason"]].tolist() == ["scored", ""]
    assert score({"a": first, "c": third})["score"] == pytest.approx(6 + (2 - 2) / 2)
    nothing = score({"b": second, "d": second.assign(reason="not_evaluable_by_model")})
    assert np.isnan(nothing["score"]) and nothing[["status", "reason"]].tolist() == ["skipped", "window_ambiguous"]


def test_an_allele_that_stands_twice_for_different_reasons_keeps_both_rows():
    twice = [ALLELES[1], ("c-1-A-C", 1, "A", "C", None, None, "contig_not_in_reference")]
    table = ranked(twice)
    assert table["status"].tolist() == ["scored", "skipped"] and table["score"].notna().tolist() == [True, False]


def test_scores_in_another_order_than_the_alleles_stop_the_run():
    variants, consequences, scores = tables()
    with pytest.raises(AssertionError, match="the scores of m do not follow the alleles"):
        join_evidence(variants, consequences, {"m": scores.iloc[::-1]})


def test_no_allele_is_lost_and_every_one_has_a_status(tmp_path):
    table = ranked()
    assert sorted(table["variant_id"]) == sorted(allele[0] for allele in ALLELES)
    assert ((table["status"] == "scored") == (table["reason"] == "")).all()


def test_tables_keep_large_positions_and_alleles_called_na(tmp_path):
    alleles = [*ALLELES, ("c-123456789-A-C", 123456789, "A", "C", "missense_variant", (-1.0, -2.0, -0.2), "")]
    write_table(ranked(alleles), tmp_path / "r.tsv", tmp_path / "r.parquet")
    text = pd.read_csv(tmp_path / "r.tsv", sep="\t", dtype=str, keep_default_na=False).set_index("variant_id")
    assert text.loc["c-123456789-A-C", "pos"] == "123456789"
    assert text.loc["f:9", ["pos", "score"]].tolist() == ["", ""]
    assert text.loc["c-0-N-<DEL>", "pos"] == "0"
    assert text.loc["c-7-NA-T", "ref"] == "NA"
    stored = pq.read_table(tmp_path / "r.parquet")
    assert stored.schema.field("pos").type == pa.int64()
    assert stored["pos"].null_count == 1 and 123456789 in stored["pos"].to_pylist()
    assert stored["variant_id"].to_pylist() == text.index.tolist()


RECORDS = [  # chrom, pos, id, ref, alts, variant ids
    ("c", 0, ".", "N", "<DEL>", ["c-0-N-<DEL>"]),
    ("c", 1, "rs1", "A", "C", ["c-1-A-C"]),
    ("c", 2, ".", "CG", "TG,*,CGT", ["c-2-C-T", "c-2-CG-*", "c-3-G-GT"]),
    ("c", 5, "x;y", "ac", "a", ["c-5-AC-A"]),
    ("c", 6, ".", "A", ".", ["c-6-A-."]),
    ("c", 7, ".", "NA", "T,<NON_REF>,A]c:9]", ["c-7-NA-T", "c-7-NA-<NON_REF>", "c-7-NA-A]C:9]"]),
    ("zz", 3, ".", "A", "G", ["zz-3-A-G"]),
]
MORE = [
    ("c-2-CG-*", 2, "CG", "*", None, None, "spanning_deletion"),
    ("c-6-A-.", 6, "A", ".", None, None, "no_alternate_allele"),
    ("c-7-NA-<NON_REF>", 7, "NA", "<NON_REF>", None, None, "symbolic_allele"),
    ("c-7-NA-A]C:9]", 7, "NA", "A]C:9]", None, None, "symbolic_allele"),
    ("zz-3-A-G", 3, "A", "G", None, None, "contig_not_in_reference"),
]


def write_records(path: Path, records=RECORDS) -> Path:
    schema = table_schemas()[1]
    columns = list(zip(*records, strict=True)) or [()] * len(schema)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
    pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, row_group_size=2)
    return path


def bcftools(*arguments: object) -> subprocess.CompletedProcess:
    """A command of bcftools in a process of its own, with what it says on standard error."""
    program = "import sys, pysam.bcftools as b; sys.stdout.write(getattr(b, sys.argv[1])(*sys.argv[2:]))"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def viewed(vcf: Path) -> list[list[str]]:
    done = bcftools("view", "--no-version", vcf)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.split("\t") for line in done.stdout.splitlines() if not line.startswith("#")]


@pytest.fixture
def vcf(tmp_path) -> tuple[Path, pd.DataFrame]:
    table = ranked([*ALLELES, *MORE])
    path = tmp_path / "ranked.vcf.gz"
    records = write_records(tmp_path / "records.parquet")
    write_ranked_vcf(records, table.rename(columns={"llr.m": "llr"}), "model 1", {"c": 500, "d": 9}, "1.0", path)
    return path, table.set_index("variant_id")


def test_the_ranked_vcf_passes_bcftools_without_a_warning_and_keeps_every_record(vcf):
    rows = viewed(vcf[0])
    assert [(row[0], int(row[1]), row[2], row[3], row[4]) for row in rows] == [record[:5] for record in RECORDS]
    assert all(row[5:7] == [".", "."] and len(row) == 8 for row in rows)


def test_info_follows_the_order_of_the_alternate_alleles(vcf):
    path, table = vcf
    for row, record in zip(viewed(path), RECORDS, strict=True):
        if record[4] == ".":
            assert row[7] == "."
            continue
        info = {key: value.split(",") for key, value in (item.split("=") for item in row[7].split(";"))}
        expected = table.loc[record[5]]
        assert info["SP_RANK"] == expected["rank"].astype(str).tolist()
        assert info["SP_STATUS"] == [reason or "scored" for reason in expected["reason"]]
        for name, column in (("SP_SCORE", "score"), ("SP_LLR", "llr.m")):
            for found, value in zip(info[name], expected[column], strict=True):
                assert found == "." if math.isnan(value) else float(found) == pytest.approx(value, rel=1e-4)


def test_the_ranked_vcf_can_be_asked_by_region(vcf):
    assert vcf[0].with_name("ranked.vcf.gz.tbi").is_file()
    assert sorted(path.name for path in vcf[0].parent.iterdir() if path.name.startswith(".")) == []
    with pysam.TabixFile(str(vcf[0])) as handle:
        assert [line.split("\t")[1] for line in handle.fetch("c", 4, 7)] == ["5", "6", "7"]
        assert len(list(handle.fetch("zz"))) == 1
    done = bcftools("view", "-H", vcf[0], "c:5-6")
    assert [line.split("\t")[1] for line in done.stdout.splitlines()] == ["5", "6"]


def test_the_header_names_contigs_model_and_version(vcf):
    header = bcftools("view", "-h", "--no-version", vcf[0]).stdout.splitlines()
    assert "##source=seqprior 1.0" in header
    contigs = [line for line in header if line.startswith("##contig")]
    assert contigs == ["##contig=<ID=c,length=500>", "##contig=<ID=d,length=9>", "##contig=<ID=zz>"]
    info = [line for line in header if line.startswith("##INFO")]
    assert [line.split(",")[1] for line in info] == ["Number=A"] * 4 and "model 1" in info[2]


def test_numbers_and_fields_of_info():
    assert [vcf_number(value) for value in (1.0, -0.123456789, math.nan, None, 1e-7)] == [
        "1",
        "-0.12346",
        ".",
        ".",
        "1e-07",
    ]
    rows = [(3, 1.5, -2.0, "scored", ""), (9, math.nan, math.nan, "skipped", "symbolic_allele")]
    assert info_field(rows, "A,<DEL>") == "SP_RANK=3,9;SP_SCORE=1.5,.;SP_LLR=-2,.;SP_STATUS=scored,symbolic_allele"


def test_no_allele_at_all_gives_empty_tables_and_an_empty_vcf(tmp_path):
    table = ranked([])
    write_table(table, tmp_path / "r.tsv", tmp_path / "r.parquet")
    assert (tmp_path / "r.tsv").read_text().rstrip("\n").split("\t") == list(table.columns)
    assert list(pd.read_parquet(tmp_path / "r.parquet").columns) == list(table.columns) and len(table) == 0
    path = tmp_path / "ranked.vcf.gz"
    records = write_records(tmp_path / "records.parquet", [])
    write_ranked_vcf(records, table.rename(columns={"llr.m": "llr"}), "m", {"c": 500}, "1.0", path)
    assert viewed(path) == []
    assert path.with_name("ranked.vcf.gz.tbi").is_file()


def test_fifty_thousand_alleles_are_ranked_and_written_in_seconds(tmp_path):
    count = 50_000
    rng = np.random.default_rng(0)
    values = rng.normal(size=(count, 2))
    alleles = [(f"c-{n + 1}-A-C", n + 1, "A", "C", "missense_variant", (*values[n], -0.2), "") for n in range(count)]
    variants, consequences, scores = tables(alleles)
    records = write_records(
        tmp_path / "records.parquet", [("c", n + 1, ".", "A", "C", [alleles[n][0]]) for n in range(count)]
    )
    started = time.process_time()
    table = rank_alleles(join_evidence(variants, consequences, {"m": scores}), {"m": CALIBRATION}, WEIGHTS, 1.0, 5.0)
    ranking = time.process_time() - started
    write_ranked_vcf(records, table.rename(columns={"llr.m": "llr"}), "m", {"c": count}, "1.0", tmp_path / "r.vcf.gz")
    assert ranking < 2.0 and time.process_time() - started < 8.0
    assert (table["score"].diff().dropna() <= 1e-9).all()


@pytest.mark.parametrize("alleles", [[*ALLELES, *MORE], []], ids=["some", "none"])
@pytest.mark.parametrize("regulation", [[REGULATION], [REGULATION.head(0)], []], ids=["effects", "no effect", "none"])
def test_the_script_writes_all_four_files(tmp_path, alleles, regulation):
    variants, consequences, scores = tables(alleles)
    pq.write_table(pa.Table.from_pandas(variants, table_schemas()[0], preserve_index=False), tmp_path / "v.parquet")
    consequences.to_parquet(tmp_path / "q.parquet")
    scores.to_parquet(tmp_path / "s.parquet")
    write_calibration(CALIBRATION, "m", ["intron_variant"], tmp_path / "calibration")
    (tmp_path / "contigs.tsv").write_text("contig\tlength\taliases\nc\t500\t\n")
    settings = {
        "consequence_weights": WEIGHTS,
        "model_weight": 1.5,
        "model_clip": 5.0,
        "protein_weight": 1.0,
        "protein_clip": 4.0,
    }
    options = {
        "variants": tmp_path / "v.parquet",
        "records": write_records(tmp_path / "records.parquet", RECORDS if alleles else []),
        "consequences": tmp_path / "q.parquet",
        "models": "m",
        "scores": tmp_path / "s.parquet",
        "calibrations": tmp_path / "calibration",
        "contigs": tmp_path / "contigs.tsv",
        "settings": json.dumps(settings),
        "tsv": tmp_path / "r.tsv",
        "parquet": tmp_path / "r.parquet",
        "vcf": tmp_path / "r.vcf.gz",
    }
    arguments = [str(text) for name, value in options.items() for text in (f"--{name}", value)]
    arguments.append("--regulation")
    for effects in regulation:
        arguments.append(str(tmp_path / "e.parquet"))
        effects.to_parquet(arguments[-1])
    subprocess.run([sys.executable, str(SCRIPTS / "rank_variants.py"), *arguments], check=True)
    expected = ranked(alleles)
    table = pd.read_parquet(tmp_path / "r.parquet")
    assert table["variant_id"].tolist() == expected["variant_id"].tolist()
    assert [name in table for name in REGULATION] == [True, *[bool(regulation)] * 3]
    np.testing.assert_allclose(table["score"].astype(float), expected["score"].astype(float))
    assert len((tmp_path / "r.tsv").read_text().splitlines()) == len(expected) + 1
    assert len(viewed(tmp_path / "r.vcf.gz")) == (len(RECORDS) if alleles else 0)
