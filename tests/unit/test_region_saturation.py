"""Saturation of regions: the listing equals brute force, and table, tracks and page say what the scores say."""

from __future__ import annotations

import base64
import itertools
import json
import math
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pyBigWig
import pysam
import pytest
from region_run import HOSTILE, MODELS, TEMPLATES, Scored, random_bases, write_fasta

from seqprior import region_alleles, region_saturation
from seqprior.columns import VARIANTS, scores_schema
from seqprior.contigs import ContigNames, contigs_of, write_contigs
from seqprior.errors import BadInput
from seqprior.region_alleles import Region, list_saturation, listed_alleles, stretches
from seqprior.saturation import NO_SCORE, SCALE
from seqprior.variants import left_align, normalise_variants, table_schemas

html5lib = pytest.importorskip("html5lib")


def brute_force(sequence: str, spans: list[tuple[int, int]], deletions: int) -> Counter:
    """(start, ref, alt) -> number of equal changes that lie in the union of some spans."""
    covered = {at for start, end in spans for at in range(start, end)}
    found: Counter = Counter()
    for at in covered:
        if sequence[at] in "ACGT":
            found.update((at, sequence[at], alt) for alt in "ACGT" if alt != sequence[at])
    for length in range(1, deletions + 1):
        for at in covered:
            run = range(at, at + length)
            if covered.issuperset(run) and len(sequence) > length and set(sequence[at : at + length]) <= set("ACGT"):
                found[left_align(sequence, at, sequence[at : at + length], "")] += 1
    return found


def regions_of(spans: list[tuple[int, int]], chrom: str = "c") -> list[Region]:
    return [Region(f"r{n}", chrom, start, end, n) for n, (start, end) in enumerate(spans)]


CASES = [
    ("ACGTTTTTGACACACAGG", [(0, 18)]),
    ("ACGTTTTTGACACACAGG", [(4, 5), (6, 7), (10, 14)]),
    ("AAAAAAAAAA", [(0, 1), (3, 4), (6, 10)]),
    ("AAAAAAAAAA", [(9, 10)]),
    ("CACACACACACAC", [(2, 3), (4, 7), (5, 9), (9, 10)]),
    ("ANNAANTTTNACGNN", [(0, 15)]),
    ("NNNACNNN", [(2, 6), (3, 4)]),
    ("A", [(0, 1)]),
    ("AC", [(0, 2)]),
    ("TTTTTTTTTGTTTTTTTT", [(8, 9), (12, 14), (16, 17)]),
]
CASES += [
    (random_bases(seed, 60, "ACN" if seed % 3 else "AC"), [(s, s + w) for s, w in zip(*draw, strict=True)])
    for seed in range(12)
    for draw in [
        (
            np.random.default_rng(seed + 50).integers(0, 50, 5).tolist(),
            np.random.default_rng(seed + 90).integers(1, 10, 5).tolist(),
        )
    ]
]


@pytest.mark.parametrize("block", [1, 3, 10_000])
@pytest.mark.parametrize(("sequence", "spans"), CASES)
def test_listing_equals_brute_force_in_order(sequence, spans, block, monkeypatch):
    monkeypatch.setattr(region_alleles, "BLOCK", block)
    rows = [row for rows in listed_alleles(sequence, regions_of(spans), 3) for row in rows]
    assert [row[:3] for row in rows] == sorted(row[:3] for row in rows)
    assert {row[:3]: row[3] for row in rows} == dict(brute_force(sequence, spans, 3))
    assert len({row[:3] for row in rows}) == len(rows)


def test_stretches_are_the_union_and_name_the_first_region_of_the_file():
    spans = [(5, 9), (0, 3), (2, 6), (9, 12), (20, 21), (5, 9)]
    found = list(stretches(regions_of(spans)))
    assert [(pieces[0][0], pieces[-1][1]) for pieces in found] == [(0, 12), (20, 21)]
    for pieces in found:
        for (_, end, _), (start, _, _) in itertools.pairwise(pieces):
            assert end == start
        for start, end, region in pieces:
            for at in range(start, end):
                assert region.line == min(n for n, (a, b) in enumerate(spans) if a <= at < b)


@pytest.fixture
def genome(tmp_path) -> tuple[Path, ContigNames]:
    first = random_bases(1, 80) + "NNN" + random_bases(2, 40, "AC") + "TTTTTTTT" + random_bases(3, 20)
    fasta = write_fasta(tmp_path, chrI=first, chrII=random_bases(4, 70))
    return fasta, ContigNames(contigs_of(fasta))


def test_alleles_are_what_the_variants_stage_makes_of_a_vcf_with_the_same_changes(genome, tmp_path):
    fasta, names = genome
    bed = tmp_path / "r.bed"
    bed.write_text("chrII\t10\t20\tb\nchrI\t70\t140\ta\nI\t0\t5\nchrII\t15\t900\t.\n")
    summary = list_saturation(bed, fasta, names, tmp_path / "listed.parquet", 3)
    listed = pd.read_parquet(tmp_path / "listed.parquet")

    lines = ["##fileformat=VCFv4.3", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    spans = {"chrI": [(0, 5), (70, 140)], "chrII": [(10, 70)]}
    with pysam.FastaFile(str(fasta)) as reference:
        for chrom, own in spans.items():
            sequence = reference.fetch(chrom)
            for (start, ref, alt), count in brute_force(sequence, own, 3).items():
                lines += ["\t".join([chrom, str(start + 1), ".", ref, alt, ".", ".", "."])] * count
    vcf = tmp_path / "all.vcf"
    vcf.write_text("\n".join(lines) + "\n")
    whole = normalise_variants([vcf], fasta, names, tmp_path / "whole", max_length=50, max_mismatch_share=0.1)
    expected = pd.read_parquet(tmp_path / "whole" / "variants.parquet")

    same = list(VARIANTS[: VARIANTS.index("input_file")])
    pd.testing.assert_frame_equal(listed[same], expected[same])
    assert pq.read_schema(tmp_path / "listed.parquet").equals(table_schemas()[0])
    assert set(expected.loc[expected["status"] == "skipped", "reason"]) == {"ambiguous_base"}
    for key in ("input_alleles", "unique_alleles", "merged_equivalent", "by_status_reason"):
        assert summary[key] == whole[key]
    assert summary["files"][0].keys() == whole["files"][0].keys()
    assert summary["known_bases"] == 5 + 70 - 3 + 60 and summary["unknown_bases"] == 3
    assert [(r["name"], r["chrom"], r["start"], r["end"]) for r in summary["regions"]] == [
        ("b", "chrII", 10, 20),
        ("a", "chrI", 70, 140),
        ("I:0-5", "chrI", 0, 5),
        ("chrII:15-900", "chrII", 15, 70),
    ]
    named = listed[(listed["chrom"] == "chrII") & (listed["ref"].str.len() == 1)]
    assert (named["input_id"] == np.where(named["pos"] <= 20, "b", "chrII:15-900")).all()
    assert json.loads(json.dumps(summary)) == summary


def test_same_regions_give_the_same_bytes(genome, tmp_path):
    fasta, names = genome
    bed = tmp_path / "r.bed"
    bed.write_text("chrI\t0\t130\n")
    for name in ("a", "b"):
        list_saturation(bed, fasta, names, tmp_path / name, 2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_regions_beyond_the_contig_are_left_out_and_none_left_is_bad_input(genome, tmp_path, caplog):
    fasta, names = genome
    bed = tmp_path / "r.bed"
    bed.write_text("chrII\t500\t600\tfar\nchrII\t0\t4\n")
    summary = list_saturation(bed, fasta, names, tmp_path / "v", 0)
    assert summary["unique_alleles"] == 12 and "line 1" in caplog.text
    bed.write_text("chrII\t500\t600\tfar\n")
    with pytest.raises(BadInput, match="every region lies beyond the end of its contig"):
        list_saturation(bed, fasta, names, tmp_path / "w", 0)
    assert not (tmp_path / "w").exists()


# --- what the scores say ---


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Scored:
    made = Scored(tmp_path_factory.mktemp("scored"))
    done = made.command()
    assert done.returncode == 0, done.stderr
    return made


def test_table_has_the_scores_and_consequences_of_every_allele(scored):
    table = pd.read_csv(scored.folder / "saturated_regions.tsv", sep="\t", keep_default_na=False, na_values=[""])
    assert list(table)[:8] == ["chrom", "pos", "ref", "alt", "gene", "consequence", "llr.one", "llr.two"]
    assert list(table)[-3:] == ["status", "reason", "region"]
    for name in ("chrom", "pos", "ref", "alt"):
        assert table[name].tolist() == scored.variants[name].tolist()
    for model in MODELS:
        scores = pd.read_parquet(scored.folder / f"{model}.parquet")
        for name in ("llr", "llr_calibrated", "entropy", "embedding_l2"):
            assert table[f"{name}.{model}"].to_numpy() == pytest.approx(scores[name].to_numpy(), rel=1e-5, nan_ok=True)
    seen = np.isfinite(np.stack(list(scored.llr.values()))).any(0)
    assert ((table["status"] == "scored") == seen).all() and (table["reason"].isna() == seen).all()
    known = scored.variants["status"] == "scored"
    assert (table["consequence"].notna() == known).all()
    assert table.loc[known, "gene"].tolist() == ("G" + scored.variants.loc[known, "variant_id"].str[3:6]).tolist()
    assert table["region"].tolist() == scored.variants["input_id"].tolist()


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("model", MODELS)
def test_tracks_hold_the_lowest_llr_of_each_position(scored, model, kind):
    expected = scored.worst(model)[kind]
    with pyBigWig.open(str(scored.folder / f"{('worst', 'worst_deletion')[kind]}.{model}.bw")) as track:
        assert track.chroms() == {name: len(sequence) for name, sequence in scored.contigs.items()}
        for chrom, sequence in scored.contigs.items():
            values = track.values(chrom, 0, len(sequence))
            wanted = [expected.get((chrom, at), math.nan) for at in range(len(sequence))]
            assert values == pytest.approx(wanted, rel=1e-6, nan_ok=True)
    assert len(expected) > 2000


def test_blocks_of_any_size_give_the_same_files(scored, tmp_path, monkeypatch):
    monkeypatch.setattr(region_saturation, "BLOCK", 7)
    few = [r for r in scored.regions if r.chrom == "chrI"]
    names = ContigNames(contigs_of(scored.fasta))
    bed = tmp_path / "few.bed"
    bed.write_text("".join(f"{r.chrom}\t{r.start}\t{r.end}\t{r.name}\n" for r in few))
    list_saturation(bed, scored.fasta, names, tmp_path / "variants.parquet", 3)
    chosen = pd.read_parquet(tmp_path / "variants.parquet")["variant_id"]
    paths = {}
    for model in MODELS:
        scores = pd.read_parquet(scored.folder / f"{model}.parquet")
        own = scores[scores["variant_id"].isin(set(chosen))]
        assert own["variant_id"].tolist() == chosen.tolist()
        paths[model] = tmp_path / f"{model}.parquet"
        own.to_parquet(paths[model], schema=scores_schema(), index=False)
    sizes = [(name, len(sequence)) for name, sequence in scored.contigs.items()]
    tracks = [[tmp_path / f"{kind}.{model}.bw" for model in MODELS] for kind in ("worst", "worst_deletion")]
    region_saturation.write_region_saturation(
        tmp_path / "variants.parquet",
        few,
        paths,
        None,
        scored.fasta,
        sizes,
        tmp_path / "t.tsv",
        *tracks,
    )
    for path in itertools.chain(*tracks):
        with pyBigWig.open(str(path)) as small, pyBigWig.open(str(scored.folder / path.name)) as large:
            found, expected = (track.values("chrI", 0, sizes[0][1]) for track in (small, large))
            assert found == pytest.approx(expected, nan_ok=True)


def island(html: str) -> dict:
    tree = html5lib.parse(html, namespaceHTMLElements=False)
    return json.loads(next(s for s in tree.iter("script") if s.get("id") == "saturated").text)


def unpacked(text: str) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(text), "<i2").astype(float)
    return np.where(values == NO_SCORE, np.nan, values / SCALE)


@pytest.fixture(scope="module")
def html(scored) -> str:
    return (scored.folder / "page.html").read_text(encoding="utf-8")


def test_page_carries_the_cells_of_short_regions_and_the_profile_of_long_ones(scored, html):
    data = island(html)
    assert data["models"] == list(MODELS) and [r["step"] > 1 for r in data["regions"]] == [False, False, True, False]
    for number, model in enumerate(MODELS):
        value = dict(zip(scored.variants["variant_id"], scored.llr[model], strict=True))
        worst, deletions = scored.worst(model)
        for region in data["regions"]:
            chrom, start, step = region["chrom"], region["start"], region["step"]
            places = range(start, start + region["length"])
            columns = [places[at : at + step] for at in range(0, len(places), step)]

            def lowest(values: dict, chrom: str = chrom, columns: list = columns) -> list[float]:
                return [min(values.get((chrom, at), math.inf) for at in column) for column in columns]

            def close(packed: str, wanted: list[float]) -> None:
                assert unpacked(packed) == pytest.approx(
                    [math.nan if math.isinf(x) else x for x in wanted], abs=0.0051, nan_ok=True
                )

            close(region["deletions"][number], lowest(deletions))
            if step > 1:
                assert region["sequence"] == "" and len(columns) <= region_saturation.BINS
                close(region["worst"][number], lowest(worst))
            else:
                sequence = scored.contigs[chrom]
                assert region["sequence"] == sequence[start : places.stop]
                cells = [
                    value.get(f"{chrom}-{at + 1}-{sequence[at]}-{alt}", math.nan) for at in places for alt in "ACGT"
                ]
                close(region["cells"][number], cells)


def test_page_names_the_most_surprising_substitution_of_each_region(scored, html):
    tree = html5lib.parse(html, namespaceHTMLElements=False)
    rows = [["".join(cell.itertext()) for cell in row] for row in next(tree.iter("tbody"))]
    for row, region in zip(rows, scored.regions, strict=True):
        assert row[:2] == [region.name, f"{region.chrom}:{region.start + 1}-{region.end}"]
        inside = (
            (scored.variants["chrom"] == region.chrom)
            & scored.variants["pos"].between(region.start + 1, region.end)
            & (scored.variants["ref"].str.len() == 1)
        ).to_numpy()
        for number, model in enumerate(MODELS):
            best = scored.variants.iloc[int(np.nanargmin(np.where(inside, scored.llr[model], np.nan)))]
            assert row[3 + 2 * number] == f"{best['pos']} {best['ref']}>{best['alt']}"


def test_page_is_inert_valid_and_asks_for_nothing(html):
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(html)
    assert len(list(tree.iter("script"))) == 2
    assert HOSTILE in "".join(next(tree.iter("h1")).itertext())
    identifiers = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(identifiers) == len(set(identifiers))
    links = set()
    for element in tree.iter():
        assert not [name for name in element.attrib if name in ("src", "srcset", "action") or name.startswith("on")]
        address = element.get("href")
        if address and address.startswith("#"):
            assert address[1:] in identifiers
        elif address:
            links.add(address)
    assert links == {"data:,", "saturated_regions.tsv"}
    policy = next(m.get("content") for m in tree.iter("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
    names = (*region_saturation.STYLES, *region_saturation.SCRIPTS)
    assets = "".join((TEMPLATES / name).read_text() for name in names)
    assets = assets.replace("http://www.w3.org/2000/svg", "")  # a name, which is not fetched
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(|https?:|innerHTML", assets)


def test_size_of_the_page_has_a_bound(scored, tmp_path):
    many = [Region(f"r{n}", "chrII", 0, 2000, n) for n in range(500)]
    drawn = region_saturation.drawings(many, 1)
    assert len(drawn) == region_saturation.PAGE_REGIONS
    assert sum(d.region.end - d.region.start for d in drawn if d.cells is not None) <= region_saturation.PAGE_BASES
    assert all(d.worst.shape[1] <= region_saturation.BINS for d in drawn if d.cells is None)
    region_saturation.write_page(
        drawn, ["one"], scored.fasta, len(many), tmp_path / "t.tsv", tmp_path / "p.html", TEMPLATES
    )
    text = (tmp_path / "p.html").read_text()
    assert len(text) < 1_000_000 and "draws the first 100 regions of 500" in text


def test_run_without_deletions_has_no_second_track(tmp_path):
    made = Scored(tmp_path, deletions=0)
    done = made.command(deletion_tracks=[], consequences=[])
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("*.bw")) == ["worst.one.bw", "worst.two.bw"]
    assert all(region["deletions"] == [] for region in island((tmp_path / "page.html").read_text())["regions"])
    table = pd.read_csv(tmp_path / "saturated_regions.tsv", sep="\t", keep_default_na=False)
    assert set(table["gene"]) == set(table["consequence"]) == {""}
    assert not list(tmp_path.glob(".partial*"))


def test_tracks_without_any_score_are_empty_and_readable(scored, tmp_path):
    track = region_saturation.WorstTrack([tmp_path / "t.bw"], [("c", 10)])
    track.add("c", np.array([1, 1]), np.array([[np.nan], [np.nan]]), 1)
    track.close()
    with pyBigWig.open(str(tmp_path / "t.bw")) as read:
        assert read.chroms() == {"c": 10} and np.isnan(read.values("c", 0, 10)).all()


def test_scores_of_other_alleles_are_refused(scored, tmp_path):
    done = scored.command(
        scores=[scored.folder / "one.parquet", scored.folder / "consequences.parquet"],
        **{name: tmp_path / name for name in ("table", "output")},
        tracks=[tmp_path / "a.bw", tmp_path / "b.bw"],
        deletion_tracks=[],
    )
    assert done.returncode == 1
    assert list(tmp_path.iterdir()) == []


def test_listing_from_the_command_line(genome, tmp_path):
    fasta, names = genome
    write_contigs(names.contigs.values(), tmp_path / "contigs.tsv")
    bed = tmp_path / "r.bed"

    def run() -> subprocess.CompletedProcess:
        script = TEMPLATES.parent / "scripts" / "list_saturation.py"
        command = [sys.executable, script, "--regions", bed, "--fasta", fasta]
        command += ["--contigs", tmp_path / "contigs.tsv", "--deletions", "1", "--output", tmp_path / "v.parquet"]
        command += ["--summary", tmp_path / "v.json"]
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)

    bed.write_text("chrII\t3\t9\n")
    done = run()
    assert done.returncode == 0, done.stderr
    rows = pq.read_metadata(tmp_path / "v.parquet").num_rows
    assert json.loads((tmp_path / "v.json").read_text())["unique_alleles"] == rows and rows > 18
    bed.write_text("chrII\t3\t9\nchrX9\t1\t2\n")
    done = run()
    assert done.returncode == 2 and "line 2: the reference has no contig 'chrX9'" in done.stderr
