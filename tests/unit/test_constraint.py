"""Constrained sites: planted runs are found, shuffled ones are not, and names and files are as documented."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pysam
import pytest

from seqprior import constraint
from seqprior.columns import SITES, sites_schema
from seqprior.constraint import control_baseline, find_constrained, find_runs, gather_sites
from seqprior.motifs import Motif
from seqprior.sequence import encode
from seqprior.tracks import open_scan

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CONTIGS = {"b": 30_000, "a": 30_000}
SITE = "TTACCCGTA"
BLOCK = 5_000


def track(rng: np.random.Generator, length: int) -> np.ndarray:
    """Information without constraint: mostly little, with short chance peaks."""
    return np.clip(rng.exponential(0.15, length), 0, 2)


def write_scan(path: Path, tracks: dict[str, np.ndarray]) -> Path:
    kinds = [("chrom", pa.string()), ("start", pa.int64()), ("end", pa.int64())]
    schema = pa.schema(
        [*kinds, ("information", pa.list_(pa.float32()))],
        metadata={"seqprior": json.dumps({"stride": 50, "windows": {}})},
    )
    with pq.ParquetWriter(path, schema) as writer:
        for chrom, values in tracks.items():
            for start in range(0, len(values), BLOCK):
                part = values[start : start + BLOCK]
                row = {"chrom": chrom, "start": start, "end": start + len(part), "information": part}
                writer.write_table(pa.Table.from_pylist([row], schema))
    return path


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A genome with sites, the information that a model which knows them would have, and a control."""
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(8)
    places, tracks, texts = [], {}, {}
    for contig, length in CONTIGS.items():
        values, bases = track(rng, length), rng.choice(list("ACGT"), length)
        for start in range(400, length - 200, 1_500):
            turned = (start // 1_500) % 2 == 1
            text = SITE[::-1].translate(str.maketrans("ACGT", "TGCA")) if turned else SITE
            bases[start : start + len(SITE)] = list(text)
            values[start : start + len(SITE)] = 1.7
            places.append((contig, start, "-" if turned else "+"))
        values[100:110] = np.nan
        tracks[contig], texts[contig] = values.astype(np.float32), "".join(bases)
    fasta = folder / "genome.fa"
    fasta.write_text("".join(f">{name}\n{text}\n" for name, text in texts.items()))
    pysam.faidx(str(fasta))
    table = write_scan(folder / "scan.parquet", tracks)
    control = write_scan(folder / "control.parquet", {"b": track(rng, 60_000).astype(np.float32)})
    return folder, fasta, table, control, places


def site_motif() -> Motif:
    matrix = np.full((len(SITE), 4), 0.02)
    matrix[np.arange(len(SITE)), encode(SITE)] = 0.94
    return Motif("M1", "REB1", matrix)


def test_planted_sites_are_found_and_named_with_their_strand(planted):
    folder, fasta, table, control, places = planted
    decoy = Motif("M0", "decoy", np.full((8, 4), 0.25))
    output = folder / "sites.parquet"
    kept = find_constrained(
        open_scan([table]), open_scan([control]), fasta, CONTIGS, [decoy, site_motif()], 0.05, output
    )
    sites = pd.read_parquet(output)
    assert list(sites) == list(SITES) and len(sites) == kept
    found = {(row.chrom, place, strand) for row in sites.itertuples() for c, place, strand in places
             if c == row.chrom and row.start <= place and place + len(SITE) <= row.end}  # fmt: skip
    assert found == set(places)
    assert len(sites) <= 1.1 * len(places)
    hit = sites[sites["motif"] == "M1"]
    assert len(hit) == len(places)
    assert {(row.chrom, row.strand) for row in hit.itertuples()} == {("a", "+"), ("a", "-"), ("b", "+"), ("b", "-")}
    assert (sites["q_value"] <= 0.05).all() and (sites["q_value"] > 0).all() and (hit["motif_q_value"] < 0.01).all()
    assert sites["chrom"].tolist() == sorted(sites["chrom"], key=list(CONTIGS).index)
    assert set(sites["source"]) == {"constraint"}


def test_shuffled_sequence_against_shuffled_sequence_gives_nothing(planted):
    folder, fasta, _, control, _ = planted
    rng = np.random.default_rng(80)
    other = write_scan(folder / "other.parquet", {"b": track(rng, 30_000).astype(np.float32)})
    output = folder / "none.parquet"
    assert find_constrained(open_scan([other]), open_scan([control]), fasta, CONTIGS, [site_motif()], 0.05, output) == 0
    assert pq.read_schema(output).names == list(SITES)


def test_the_baseline_is_a_quantile_of_the_control(planted):
    _, _, _, control, _ = planted
    values = np.concatenate([values for *_, (values,) in open_scan([control]).rows(["information"])])
    assert control_baseline(open_scan([control])) == pytest.approx(np.quantile(values, 0.9), abs=0.002)


def test_what_was_searched_are_the_known_bases(planted):
    _, _, table, _, _ = planted
    assert find_runs(open_scan([table]), 0.3, CONTIGS).bases == sum(CONTIGS.values()) - 20


def test_sites_are_not_named_by_motifs_that_chance_gives(planted):
    _, fasta, *_ = planted
    rng = np.random.default_rng(5)
    motifs = [Motif(f"r{n}", f"R{n}", rng.dirichlet(np.full(4, 0.4), size=8)) for n in range(60)]
    places = [("b", start, start + 12) for start in range(600, 29_000, 90)]
    best = constraint.best_motifs(places, fasta, motifs)
    assert (best.motif >= 0).mean() > 0.5  # nearly any stretch has one at p < 0.001
    (rows,) = constraint.named(places, np.ones((len(places), 3)), fasta, motifs, 0.01)
    assert {(row["motif"], row["motif_name"], row["strand"], row["motif_q_value"]) for row in rows} == {
        ("", "", ".", None)
    }


def test_names_do_not_depend_on_how_many_sites_are_scanned_together(planted, monkeypatch):
    _, fasta, _, _, sites = planted
    places = [(chrom, start, start + len(SITE)) for chrom, start, _ in sites] + [("a", 29_995, 30_000)]
    figures = np.arange(3.0 * len(places)).reshape(-1, 3)
    whole = [row for part in constraint.named(places, figures, fasta, [site_motif()], 0.05) for row in part]
    assert [row["strand"] for row in whole] == [*(strand for *_, strand in sites), "."]
    monkeypatch.setattr(constraint, "NAMED", 7)
    parts = list(constraint.named(places, figures, fasta, [site_motif()], 0.05))
    assert len(parts) == 6 and [row for part in parts for row in part] == whole


def test_without_motifs_sites_have_no_name(planted):
    folder, fasta, table, control, _ = planted
    output = folder / "nameless.parquet"
    assert find_constrained(open_scan([table]), open_scan([control]), fasta, CONTIGS, [], 0.05, output) > 30
    sites = pd.read_parquet(output)
    assert set(sites["motif"]) == {""} and set(sites["strand"]) == {"."} and sites["motif_p_value"].isna().all()


def site(chrom: str, start: int, source: str = "constraint", name: str = "", q: float = 0.01) -> dict:
    return dict(zip(SITES, (chrom, start, start + 9, "+", source, "", 5.0, q, q, name, name, None, None), strict=True))


def test_sites_of_all_sources_are_put_in_order_and_none_is_lost(tmp_path):
    rows = [site("a", 5, name="R EB"), site("b", 9, q=1e-300)], [site("a", 5, "mutagenesis"), site("b", 2)], []
    paths = []
    for number, part in enumerate(rows):
        paths.append(tmp_path / f"{number}.parquet")
        pq.write_table(pa.Table.from_pylist(part, schema=sites_schema()), paths[-1])
    tsv, bed = tmp_path / "s.tsv", tmp_path / "s.bed"
    assert gather_sites(paths, CONTIGS, tsv, bed) == 4
    table = pd.read_csv(tsv, sep="\t", keep_default_na=False)
    assert list(table) == list(SITES)
    order = [("b", 2, "constraint"), ("b", 9, "constraint"), ("a", 5, "constraint"), ("a", 5, "mutagenesis")]
    assert list(zip(table["chrom"], table["start"], table["source"], strict=True)) == order
    lines = [line.split("\t") for line in bed.read_text().splitlines()]
    assert [line[3] for line in lines] == ["site", "site", "R_EB", "site"]
    assert [line[4] for line in lines] == ["20", "1000", "20", "20"]


def test_the_scripts_write_empty_files_where_nothing_is_found(planted, tmp_path):
    _, fasta, _, control, _ = planted
    (tmp_path / "contigs.tsv").write_text(
        "contig\tlength\taliases\n" + "".join(f"{n}\t{s}\t\n" for n, s in CONTIGS.items())
    )
    output, tsv, bed = (tmp_path / name for name in ("c.parquet", "s.tsv", "s.bed"))
    options = ["--scan", control, "--control", control, "--fasta", fasta, "--contigs", tmp_path / "contigs.tsv"]
    command = [
        sys.executable,
        SCRIPTS / "find_constrained.py",
        *options,
        "--motifs",
        "--fdr",
        "0.01",
        "--output",
        output,
    ]
    subprocess.run(command, check=True)
    gather = [SCRIPTS / "gather_sites.py", "--sites", output, "--contigs", tmp_path / "contigs.tsv"]
    subprocess.run([sys.executable, *gather, "--tsv", tsv, "--bed", bed], check=True)
    assert tsv.read_text().split() == list(SITES) and bed.read_text() == ""


def test_no_table_of_sites_gives_files_without_sites(tmp_path):
    assert gather_sites([], CONTIGS, tmp_path / "s.tsv", tmp_path / "s.bed") == 0
    assert (tmp_path / "s.tsv").read_text().split() == list(SITES) and (tmp_path / "s.bed").read_text() == ""
