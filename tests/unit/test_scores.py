"""Gathering of score shards."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pysam
import pytest

from seqprior.calibration import Calibration, write_calibration
from seqprior.columns import ALLELE, SCORES, VARIANTS
from seqprior.scores import gather_scores
from seqprior.variants import table_schemas

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "gather_scores.py"
CALIBRATION = Calibration(
    pd.DataFrame([("GTAGT", "C", -0.5, 9)], columns=["context", "alt", "mean", "count"]),
    pd.DataFrame(
        [("substitution", -0.25, 1.0, 9), ("insertion", -2.0, 3.0, 5)], columns=["kind", "mean", "sd", "count"]
    ),
)


@pytest.fixture
def fasta(tmp_path) -> Path:
    path = tmp_path / "r.fa"
    path.write_text(">c\nACGTAGTACGT\n")
    pysam.faidx(str(path))
    return path


def variant(pos, ref: str, alt: str, reason: str = "") -> dict:
    status = "skipped" if reason else "scored"
    identifier = f"f.vcf:{ref}" if pos is None else f"c-{pos}-{ref}-{alt}"
    values = {"variant_id": identifier, "chrom": "c", "pos": pos, "ref": ref, "alt": alt}
    return {**dict.fromkeys(VARIANTS), **values, "status": status, "reason": reason}


TABLE = [
    variant(0, "N", "<DEL>", "symbolic_allele"),
    variant(1, "A", "C"),
    variant(5, "A", "C"),
    variant(5, "A", "*", "spanning_deletion"),
    variant(6, "G", "GT"),
    variant(7, "TA", "T"),
    variant(9, "C", "CA"),
    variant(None, "NA", "T", "malformed_record"),
]


def write_variants(path: Path, rows: list[dict], row_group: int = 100) -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=table_schemas()[0]), path, row_group_size=row_group)
    return path


def score_rows(rows: list[dict]) -> pd.DataFrame:
    """Scores as a shard has them: the value is the number of the row."""
    frame = pd.DataFrame([row for row in rows if row["status"] == "scored"], columns=[*ALLELE, "status", "reason"])
    frame = frame.astype({"pos": "int64"})
    for number, name in enumerate(SCORES):
        if name not in frame:
            frame[name] = "method" if name == "method" else np.arange(len(frame)) + number / 100.0
    frame["llr_calibrated"] = np.nan
    return frame[list(SCORES)]


def write_shards(folder: Path, scored: pd.DataFrame, sizes: list[int]) -> list[Path]:
    paths, start = [], 0
    for size in sizes:
        path = folder / f"{len(paths)}.parquet"
        scored.iloc[start : start + size].to_parquet(path, index=False)
        paths.append(path)
        start += size
    assert start == len(scored)
    return paths


@pytest.mark.parametrize("row_group", [1, 3, 100])
@pytest.mark.parametrize("sizes", [[5], [0, 2, 0, 3, 0], [1, 1, 1, 1, 1]])
def test_every_allele_has_one_row_in_the_order_of_the_variants(tmp_path, fasta, row_group, sizes):
    variants = write_variants(tmp_path / "v.parquet", TABLE, row_group)
    shards = write_shards(tmp_path, score_rows(TABLE), sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gather_scores(variants, shards, CALIBRATION, fasta, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert tuple(table.column_names) == SCORES
    assert table.schema.field("pos").type == pa.int64()
    rows = table.to_pylist()
    assert [row["variant_id"] for row in rows] == [row["variant_id"] for row in TABLE]
    assert [row["pos"] for row in rows] == [0, 1, 5, 5, 6, 7, 9, None]
    assert [row["ref"] for row in rows] == [row["ref"] for row in TABLE], "an allele NA is not a missing one"
    assert [row["reason"] for row in rows] == [row["reason"] for row in TABLE]
    scored = [row for row in rows if row["status"] == "scored"]
    assert [row["llr"] for row in scored] == pytest.approx([number + 0.06 for number in range(5)])
    # by hand: contig end and unseen context take the kind's mean, the seen context its own, an unseen kind has none
    expected = [0.06 + 0.25, 1.06 + 0.5, 2.06 + 2.0, None, 4.06 + 2.0]
    assert [row["llr_calibrated"] for row in scored] == [None if e is None else pytest.approx(e) for e in expected]
    for row in rows:
        if row["status"] == "skipped":
            assert row["method"] == "" and row["llr"] is None and row["entropy"] is None


def test_shards_that_miss_or_repeat_or_reorder_alleles_stop_the_run(tmp_path, fasta):
    variants = write_variants(tmp_path / "v.parquet", TABLE)
    scored = score_rows(TABLE)
    for wrong in (scored.iloc[:-1], pd.concat([scored, scored.iloc[-1:]]), scored.iloc[[1, 0, 2, 3, 4]]):
        shards = write_shards(tmp_path, wrong, [len(wrong)])
        with pytest.raises(AssertionError, match="score shards"):
            gather_scores(variants, shards, CALIBRATION, fasta, tmp_path / "out.parquet")
        assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("rows", [[], [TABLE[0]], [TABLE[-1]]], ids=["none", "skipped", "without position"])
def test_nothing_scored_gives_a_table_of_the_usual_types(tmp_path, fasta, rows):
    variants = write_variants(tmp_path / "v.parquet", rows)
    shards = write_shards(tmp_path, score_rows(rows), [0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gather_scores(variants, shards, CALIBRATION, fasta, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert len(table) == len(rows) and tuple(table.column_names) == SCORES
    assert table.schema.field("llr").type == pa.float64() and table.schema.field("method").type == pa.string()


def test_the_script_writes_what_the_library_does(tmp_path, fasta):
    variants = write_variants(tmp_path / "v.parquet", TABLE)
    shards = write_shards(tmp_path, score_rows(TABLE), [2, 3])
    write_calibration(CALIBRATION, "m", ["intron_variant"], tmp_path / "calibration")
    command = [sys.executable, SCRIPT, "--variants", variants, "--shards", *shards, "--fasta", fasta]
    command += ["--calibration", tmp_path / "calibration", "--output", tmp_path / "script.parquet"]
    subprocess.run(list(map(str, command)), check=True)
    gather_scores(variants, shards, CALIBRATION, fasta, tmp_path / "library.parquet")
    assert pq.read_table(tmp_path / "script.parquet").equals(pq.read_table(tmp_path / "library.parquet"))
