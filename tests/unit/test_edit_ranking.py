"""The order and percentiles of edits redone by hand, and the script on tables as the stages before it write them."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from seqprior.calibration import Calibration, write_calibration
from seqprior.columns import CONSEQUENCES, EDITS, NEARBY, RANKED_TAIL, SCORES, VARIANTS
from seqprior.edit_ranking import LEAD, percentiles, rank_edits, read_nearby
from seqprior.prioritise import EVIDENCE, join_evidence, rank_alleles

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "rank_edits.py"
SETTINGS = {
    "consequence_weights": {"missense_variant": 6.0, "synonymous_variant": 0.0, "other": 1.0},
    "model_weight": 1.5,
    "model_clip": 5.0,
    "protein_weight": 1.0,
    "protein_clip": 4.0,
}
CALIBRATION = Calibration(
    pd.DataFrame(columns=["context", "alt", "mean", "count"]),
    pd.DataFrame([("substitution", 0.0, 100, 0.5)], columns=["kind", "mean", "count", "sd"]),
)
TERMS = ("missense_variant", "synonymous_variant", "intron_variant")
GUIDED = {
    "editor": "ABE8e",
    "guide": "ACGT" * 5,
    "pam": "TGG",
    "guide_strand": "-",
    "guide_start": 99,
    "guide_end": 119,
    "target_in_guide": 6,
    "edited_in_guide": "6,7",
    "bystanders": 1,
}


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    """60 alleles, of which every seventh has no score, and edits that compare with some of them."""
    rng = np.random.default_rng(1)
    variants, consequences, scores = [], [], []
    for number in range(60):
        pos = 101 + number
        identifier = f"c-{pos}-A-G"
        allele = {"variant_id": identifier, "chrom": "c", "pos": pos, "ref": "A", "alt": "G"}
        skipped = number % 7 == 6
        tail = {"status": "skipped", "reason": "window_ambiguous"} if skipped else {"status": "scored", "reason": ""}
        empty = {**dict.fromkeys(VARIANTS, ""), "input_count": 1, "input_line": 1, "input_pos": 1}
        variants.append({**empty, **allele, "status": "scored"})
        consequences.append((identifier, "GENE", "TX", TERMS[number % 3], "p.X" if number % 3 == 0 else "", "csq"))
        llr = float(rng.choice([-2.0, -1.0, -0.5, 0.0, 0.25]))  # few values, so that there are ties
        numbers = dict.fromkeys(EVIDENCE, math.nan if skipped else 0.1)
        if not skipped:
            numbers |= {"llr": llr, "llr_calibrated": llr, "llr_fwd": llr - 0.1, "llr_rev": llr + 0.1}
        scores.append({**allele, "method": "m", **numbers, **tail})
    plain = {**dict.fromkeys(EDITS, ""), **dict.fromkeys(GUIDED), "line": 1, "status": "scored"}
    edits = [
        {**plain, "edit_id": f"e{n}", "given": f"c:{101 + n}A>G", "changes": f"{101 + n} A>G", "variant_id": v}
        for n in range(40)
        for v in [f"c-{101 + n}-A-G"]
    ]
    edits[3] |= GUIDED
    edits.insert(2, {**edits[7], **GUIDED, "edit_id": "again/1"})
    edits.insert(
        0, {**plain, "edit_id": "bad", "given": "zz:1A>G", "status": "skipped", "reason": "contig_not_in_reference"}
    )
    nearby = [
        (f"c-{101 + n}-A-G", f"c-{101 + other}-A-G")
        for n in range(40)
        for other in range(max(0, n - (9 if n < 30 else 3)), n + (10 if n < 30 else 4))
    ]
    return {
        "variants": pd.DataFrame(variants, columns=list(VARIANTS)),
        "consequences": pd.DataFrame(consequences, columns=list(CONSEQUENCES)),
        "scores": pd.DataFrame(scores, columns=list(SCORES)),
        "edits": pd.DataFrame(edits, columns=list(EDITS)),
        "nearby": pd.DataFrame(nearby, columns=list(NEARBY)).sample(frac=1, random_state=0),
        "proteins": pd.DataFrame(
            [(f"c-{101 + n}-A-G", "TX", f"p.Ala{n}Val", float(n % 5 - 2), "scored", "") for n in range(0, 60, 3)],
            columns=[
                *("variant_id", "protein_transcript", "protein_hgvs_p", "protein_z.esm"),
                *("protein_status", "protein_reason"),
            ],
        ),
        "regulation": pd.DataFrame({"variant_id": ["c-101-A-G"], "element_change.Reb1": [-1.25], "site": ["REB1"]}),
    }


def ranking(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    evidence = join_evidence(tables["variants"], tables["consequences"], {"m": tables["scores"]}, tables["proteins"])
    return rank_alleles(evidence, {"m": CALIBRATION}, SETTINGS["consequence_weights"], 1.5, 5.0, 1.0, 4.0)


def expected_score(number: int, tables: dict[str, pd.DataFrame]) -> float:
    row = tables["scores"].iloc[number]
    weight = SETTINGS["consequence_weights"].get(TERMS[number % 3], 1.0)
    return weight + 1.5 * -row["llr"] / 0.5 + (number % 5 - 2 if number % 3 == 0 else 0)


def test_scores_are_those_of_the_ranking_with_all_terms_and_rise(tables):
    ranked = rank_edits(tables["edits"], ranking(tables), [tables["nearby"]])
    assert ranked["rank"].tolist() == list(range(1, 43))
    assert ranked["score"].dropna().is_monotonic_increasing
    for row in ranked.to_dict("records"):
        if row["status"] == "scored":
            number = row["pos"] - 101
            assert row["score"] == pytest.approx(expected_score(number, tables))
            assert row["variant_id"] == f"c-{row['pos']}-A-G" and row["changes"] == f"{row['pos']} A>G"
            assert (row["gene"], row["consequence"]) == ("GENE", TERMS[number % 3])
            assert row["hgvs_p"] == (f"p.Ala{number}Val" if number % 3 == 0 else "")


def test_edits_of_one_score_come_by_consequence_and_then_as_given(tables):
    cohort = ranking(tables)
    cohort["score"] = (3.0 + np.random.default_rng(2).normal(0, 1e-13, 60)) + 0 * cohort["score"]
    ranked = rank_edits(tables["edits"], cohort, [])
    scored = ranked[ranked["status"] == "scored"]
    given = {edit: place for place, edit in enumerate(tables["edits"]["edit_id"])}
    keys = [(weight, given[edit]) for weight, edit in zip(scored["consequence_weight"], scored["edit_id"], strict=True)]
    assert keys == sorted(keys) and {key[0] for key in keys} == {0.0, 1.0, 6.0}
    assert scored["edit_id"].tolist().index("again/1") + 1 < scored["edit_id"].tolist().index("e7")


def test_skipped_edits_come_last_in_the_order_given_with_their_reason(tables):
    ranked = rank_edits(tables["edits"], ranking(tables), [tables["nearby"]])
    last = ranked[ranked["status"] == "skipped"]
    assert last.index.tolist() == list(range(len(ranked) - len(last), len(ranked)))
    assert last["edit_id"].tolist() == ["bad", "e6", "e13", "e20", "e27", "e34"]
    assert last["reason"].tolist() == ["contig_not_in_reference"] + ["window_ambiguous"] * 5
    assert last[["score", "score_low", "score_high", "percentile", "nearby"]].isna().all(axis=None)
    assert last.iloc[0][["variant_id", "chrom", "ref", "gene", "consequence"]].tolist() == [""] * 5
    assert pd.isna(last.iloc[0]["pos"]) and last.iloc[1]["pos"] == 107
    assert (ranked.loc[ranked["status"] == "scored", "reason"] == "").all()


def test_percentiles_equal_brute_force(tables):
    ranked = rank_edits(tables["edits"], ranking(tables), [tables["nearby"]])
    seen = {True: 0, False: 0}
    for row in ranked[ranked["status"] == "scored"].to_dict("records"):
        number = row["pos"] - 101
        reach = 9 if number < 30 else 3
        others = [n for n in range(max(0, number - reach), number + reach + 1) if n != number and n % 7 != 6]
        own = expected_score(number, tables)
        points = [
            1.0 if other < own - 1e-9 else 0.5 if abs(other - own) <= 1e-9 else 0.0
            for other in (expected_score(n, tables) for n in others)
        ]
        assert row["nearby"] == len(others)
        assert math.isnan(row["percentile"]) == (len(others) < 10)
        if len(others) >= 10:
            assert row["percentile"] == pytest.approx(100 * sum(points) / len(points))
        seen[len(others) < 10] += 1
    assert min(seen.values()) > 5


def test_the_least_disruptive_of_all_has_percentile_0_and_the_most_100():
    scores = pd.Series(np.arange(12.0), index=[f"v{n}" for n in range(12)])
    scores["gone"] = math.nan
    pairs = [("v0", other) for other in scores.index] + [("v11", other) for other in scores.index]
    pairs += [("v5", other) for other in scores.index] + [("gone", other) for other in scores.index]
    pairs += [("v3", f"v{n}") for n in range(10)]
    found = percentiles(scores, [pd.DataFrame(pairs, columns=list(NEARBY))])
    assert found.loc[["v0", "v11"], "percentile"].tolist() == [0.0, 100.0]
    assert found.loc["v5", "percentile"] == pytest.approx(100 * 5 / 11)
    assert found["nearby"].to_dict() | {"v0": 11, "v11": 11, "v5": 11, "v3": 9} == found["nearby"].to_dict()
    assert found.loc[["v3", "gone", "v7"], "percentile"].isna().all() and found.loc["gone", "nearby"] == 0
    scores[:] = 2.0
    scores["v1"] += 1e-13
    assert (percentiles(scores, [pd.DataFrame(pairs, columns=list(NEARBY))])["percentile"].dropna() == 50).all()


def test_blocks_of_the_comparison_add_up(tables, tmp_path):
    whole = rank_edits(tables["edits"], ranking(tables), [tables["nearby"]])
    tables["nearby"].to_parquet(tmp_path / "nearby.parquet", index=False, row_group_size=50)
    blocks = list(read_nearby(tmp_path / "nearby.parquet"))
    assert sum(map(len, blocks)) == len(tables["nearby"])
    pieces = np.array_split(np.arange(len(tables["nearby"])), 7)
    cut = rank_edits(tables["edits"], ranking(tables), [tables["nearby"].iloc[piece] for piece in pieces])
    pd.testing.assert_frame_equal(whole, cut)


def test_guides_stay_with_their_edits_and_start_at_1(tables):
    ranked = rank_edits(tables["edits"], ranking(tables), [tables["nearby"]]).set_index("edit_id")
    for edit in ("e3", "again/1"):
        assert ranked.loc[edit, list(GUIDED)].to_dict() == {**GUIDED, "guide_start": 100}
    assert ranked.loc["e7", "guide_start":"guide_end"].isna().all()
    pd.testing.assert_series_equal(
        ranked.loc["e7", "score":"nearby"], ranked.loc["again/1", "score":"nearby"], check_names=False
    )


def test_evidence_stands_as_in_the_ranking_of_a_cohort(tables):
    cohort = ranking(tables)
    ranked = rank_edits(tables["edits"], cohort, [tables["nearby"]])
    assert tuple(ranked.columns[: len(LEAD)]) == LEAD and tuple(ranked.columns[-2:]) == RANKED_TAIL
    assert len(set(ranked.columns)) == len(ranked.columns)
    evidence = [name for name in cohort if name not in (*LEAD, *RANKED_TAIL)]
    assert list(ranked.columns[len(LEAD) : -2]) == evidence
    by_allele = cohort.set_index("variant_id")
    for row in ranked[ranked["status"] == "scored"].to_dict("records"):
        for name in set(evidence) - {"rank_by_consequence"}:
            assert row[name] == by_allele.loc[row["variant_id"], name] or pd.isna(row[name])
    weights = ranked.loc[ranked["status"] == "scored", "consequence_weight"]
    lowest = ranked.loc[weights.index, "rank_by_consequence"][weights == 0]
    assert (lowest == (len(lowest) + 1) / 2).all()


def test_the_page_explains_every_column(repo):
    page = (repo / "docs" / "edits.md").read_text()
    section = page.partition("## Columns")[2].partition("\n## ")[0]
    cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert [name for cell in cells for name in re.findall(r"`(\w+)`", cell)] == [*LEAD, *RANKED_TAIL]


def test_an_allele_that_was_not_ranked_stops_the_run(tables):
    cohort = ranking(tables)
    with pytest.raises(AssertionError, match="the allele of the edit e5 is not among those ranked"):
        rank_edits(tables["edits"], cohort[cohort["variant_id"] != "c-106-A-G"], [])
    with pytest.raises(AssertionError, match="an allele of the comparison is not among those ranked"):
        rank_edits(tables["edits"], cohort, [pd.DataFrame([("c-101-A-G", "nowhere")], columns=list(NEARBY))])


def run(folder: Path, tables: dict[str, pd.DataFrame], *optional: str) -> Path:
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    write_calibration(CALIBRATION, "m", ["synonymous_variant"], folder / "calibration")
    command = [sys.executable, SCRIPT, "--models", "m", "--calibrations", folder / "calibration"]
    for name in ("edits", "nearby", "variants", "consequences", "scores"):
        command += [f"--{name}", folder / f"{name}.parquet"]
    command += ["--settings", json.dumps(SETTINGS), "--tsv", folder / "edits.tsv", "--parquet", folder / "out.parquet"]
    done = subprocess.run([*map(str, command), *optional], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "edits.tsv"


def test_the_script_writes_the_table_with_regulation_as_evidence(tables, tmp_path):
    proteins, regulation = (str(tmp_path / f"{name}.parquet") for name in ("proteins", "regulation"))
    path = run(tmp_path, tables, "--proteins", proteins, "--regulation", regulation)
    text = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False).set_index("edit_id")
    expected = rank_edits(tables["edits"], ranking(tables), [tables["nearby"]])
    assert text.index.tolist() == expected["edit_id"].tolist()
    assert text["rank"].tolist() == expected["rank"].astype(str).tolist()
    for found, value in zip(text["percentile"], expected["percentile"], strict=True):
        assert found == ("" if math.isnan(value) else f"{value:.6g}")
    assert text.loc["e0", ["element_change.Reb1", "site"]].tolist() == ["-1.25", "REB1"]
    assert text.loc["e1", ["element_change.Reb1", "site"]].tolist() == ["", ""]
    assert text.loc["e3", ["guide_start", "guide_end", "target_in_guide", "bystanders"]].tolist() == [
        *("100", "119", "6", "1")
    ]
    assert text.loc["bad", ["pos", "score", "nearby", "reason"]].tolist() == ["", "", "", "contig_not_in_reference"]
    stored = pq.read_table(tmp_path / "out.parquet").to_pandas()
    assert stored["edit_id"].tolist() == text.index.tolist()
    assert stored.columns.tolist() == pd.read_csv(path, sep="\t", nrows=0).columns.tolist()


def test_the_script_needs_no_proteins_or_regulation(tables, tmp_path):
    path = run(tmp_path, tables, "--proteins", "--regulation")
    first = path.read_bytes()
    assert run(tmp_path, tables, "--proteins", "--regulation").read_bytes() == first
    text = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    assert len(text) == len(tables["edits"]) and "protein_term" not in text
