"""The targets `regulatory`, `edits` and `saturation` of regions, from a config to files that other programs read."""

from __future__ import annotations

import json
import random
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pyBigWig
import pytest
from small_project import CONTIG_LENGTH, MODEL, Project, make_genome, reverse_complement

from seqprior.motifs import Motif, iter_lines

WORD = "CCACGTAACC"  # not its own reverse complement
CONTIGS = ("chr1", "chr2", "chr3", "chr4")
PLACES = [(chrom, at) for chrom in CONTIGS for at in range(2_900, 19_900, 250)]
SETTINGS = {
    "window": 60,
    "stride": 20,
    "heads": ["linear", "sequence"],
    "folds": 3,
    "epochs": 12,
    "mutagenesis_windows": 40,
    "mutagenesis_context": 5,
    "control_bases": 5_000,
}


def planted_genome() -> dict[str, str]:
    """The project's genome and two more contigs, with a word at known places, on either strand."""
    rng = random.Random(5)
    genome = {name: rng.choices("ACGT", k=CONTIG_LENGTH) for name in CONTIGS}
    genome |= {name: list(text) for name, text in make_genome().items()}
    for number, (chrom, at) in enumerate(PLACES):
        genome[chrom][at : at + len(WORD)] = WORD if number % 2 else reverse_complement(WORD)
    return {name: "".join(text) for name, text in genome.items()}


@pytest.fixture(scope="module")
def planted(untouched, tmp_path_factory) -> Project:
    """A project whose genome has an element, with its peaks, motifs and regions."""
    project = untouched.copy(tmp_path_factory.mktemp("planted") / "project")
    data, genome = project.folder / "data", planted_genome()
    (data / "planted.fa").write_text("".join(f">{name}\n{text}\n" for name, text in genome.items()))
    rng = random.Random(3)
    peaks = [(chrom, at + len(WORD) // 2 + rng.randrange(-8, 9)) for chrom, at in PLACES]
    (data / "peaks.bed").write_text("".join(f"{chrom}\t{at}\t{at + 1}\n" for chrom, at in peaks))
    (data / "regions.bed").write_text("chr1\t2000\t9000\tfirst\nchr2\t15000\t20000\tsecond\n")
    (data / "map.bed").write_text("chr1\t2880\t2930\tmap\n")
    matrix = np.full((len(WORD), 4), 0.02)
    matrix[np.arange(len(WORD)), ["ACGT".index(base) for base in WORD]] = 0.94
    decoys = [Motif(f"D{n}", f"D{n}", np.random.default_rng(n).dirichlet(np.full(4, 0.5), 9)) for n in range(60)]
    (data / "motifs.meme").write_text("".join(iter_lines([*decoys, Motif("MA1", "WORD", matrix)])))
    variants = []
    for chrom, at in PLACES[10:14]:
        for offset in (4, -40):
            ref = genome[chrom][at + offset]
            variants.append(f"{chrom}\t{at + offset + 1}\t.\t{ref}\t{'A' if ref != 'A' else 'T'}\t.\t.\t.")
    header = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    (data / "planted.vcf").write_text(header + "\n".join(variants) + "\n")
    project.config |= {
        "variants": ["data/planted.vcf"],
        "regions": "data/regions.bed",
        "reference": {"name": "planted", "fasta": "data/planted.fa", "genes": None},
        "regulatory": SETTINGS
        | {
            "elements": {"Word": {"intervals": "data/peaks.bed"}},
            "motifs": "data/motifs.meme",
            "dependencies": "data/map.bed",
        },
    }
    return project


@pytest.fixture(scope="module")
def scanned(planted) -> Project:
    planted.run("regulatory")
    return planted


def test_the_head_finds_the_planted_element_on_contigs_it_has_not_seen(scanned):
    metrics = pd.read_csv(scanned.results / "regulatory" / "elements" / "Word" / "metrics.tsv", sep="\t")
    auroc = metrics[metrics["metric"] == "auroc"].set_index("head")["value"]
    assert {"linear", "sequence", "selected"} < set(auroc.index)
    assert auroc["sequence"] > 0.85 > 0.75 > auroc["linear"]  # the model has random weights
    assert (
        json.loads((scanned.results / "regulatory" / "elements" / "Word" / "head" / "head.json").read_text())["kind"]
        == "sequence"
    )


def test_calls_are_where_the_element_is(scanned):
    lines = (scanned.results / "regulatory" / "elements.bed").read_text().splitlines()
    calls = [line.split("\t") for line in lines]
    inside = [
        (c, a) for c, a in PLACES if (c == "chr1" and 2_000 <= a < 8_990) or (c == "chr2" and 15_000 <= a < 19_990)
    ]
    hit = [any(c == call[0] and int(call[1]) <= a < int(call[2]) for call in calls) for c, a in inside]
    assert np.mean(hit) > 0.8
    assert all(call[3] == "Word" and 0 <= int(call[4]) <= 1000 for call in calls)


def test_tracks_are_bigwigs_over_the_regions_alone(scanned):
    folder = scanned.results / "regulatory"
    for name in ("entropy", "information", "information_forward", "information_reverse", "probability.Word"):
        with pyBigWig.open(str(folder / f"{name}.bw")) as track:
            assert track.chroms() == dict.fromkeys(CONTIGS, CONTIG_LENGTH)
            assert np.isfinite(track.values("chr1", 5_000, 5_100, numpy=True)).all()
            assert np.isnan(track.values("chr1", 10_000, 10_100, numpy=True)).all()
    with pyBigWig.open(str(folder / "entropy.bw")) as one, pyBigWig.open(str(folder / "information.bw")) as other:
        total = one.values("chr2", 16_000, 16_200, numpy=True) + other.values("chr2", 16_000, 16_200, numpy=True)
        np.testing.assert_allclose(total, 2, atol=1e-5)


def test_mutagenesis_finds_the_word_and_its_sites(scanned):
    motifs = pd.read_parquet(scanned.results / "regulatory" / "elements" / "Word" / "motifs.parquet")
    assert motifs.loc[0, "match_name"] == "WORD" and motifs.loc[0, "q_value"] < 0.01
    sites = pd.read_csv(scanned.results / "regulatory" / "sites.tsv", sep="\t", keep_default_na=False)
    found = sites[(sites["source"] == "mutagenesis") & (sites["motif_name"] == "WORD")]
    strands = {(chrom, at): "+-"[number % 2 == 0] for number, (chrom, at) in enumerate(PLACES)}
    right = 0
    for row in found.itertuples():
        place = next(((c, a) for c, a in PLACES if c == row.chrom and a - 3 <= row.start and row.end <= a + 13), None)
        right += place is not None and row.strand == strands[place]
    assert len(found) > 15 and right > 0.9 * len(found)
    assert (found["q_value"] <= 0.05).all()


def test_the_session_names_files_that_are_there(scanned):
    folder = scanned.results / "regulatory"
    session = ET.parse(folder / "igv_session.xml").getroot()
    paths = [session.attrib["genome"], *(node.attrib["path"] for node in session.iter("Resource"))]
    assert len(paths) > 7
    assert [path for path in paths if not (folder / path).is_file()] == []


def test_the_page_shows_measures_logos_and_maps_and_loads_nothing(scanned):
    html = (scanned.results / "regulatory.html").read_text()
    assert "<script" not in html and ' src="http' not in html and "default-src &#39;none&#39;" in html
    for text in ("Word", "selected", "WORD", "AUROC", "Dependency map of map", "data:image/png;base64,"):
        assert text in html
    assert html.count('class="logo"') >= 1


def test_a_second_run_has_nothing_to_do(scanned):
    assert scanned.planned("regulatory") == {}


def test_alleles_of_a_cohort_have_effects_on_elements_and_sites_as_evidence(scanned):
    scanned.run()
    ranked = pd.read_csv(scanned.results / "ranked.tsv", sep="\t")
    assert len(ranked) == 8
    within = ranked["pos"].map(lambda pos: min(abs(pos - 1 - at - 4) for _, at in PLACES)) == 0
    assert within.sum() == 4
    assert ranked.loc[within, "element_change.Word"].max() < ranked.loc[~within, "element_change.Word"].min()
    assert ranked.loc[~within, "site"].isna().all()
    touched = ranked[within & ranked["site"].notna()]
    assert len(touched) and set(touched["site"]) == {"WORD"} and (touched["site_change"] < -3).all()


def test_a_trained_head_works_in_another_cohort_and_gives_the_same_probabilities(scanned, tmp_path):
    project = scanned.copy(tmp_path / "project")
    head = tmp_path / "heads" / "Word"
    (scanned.results / "regulatory" / "elements" / "Word" / "head").rename(head.parent.mkdir() or head)
    project.config |= {"cohort": "other", "variants": []}
    project.config["regulatory"] |= {"elements": {"Word": {"head": str(head)}}, "mutagenesis_windows": 0}
    project.config["regulatory"] |= {"dependencies": None, "motifs": None}
    assert "train_element" not in project.planned("regulatory")
    project.run("regulatory")
    first, second = (folder / "regulatory" / "scan" / "0000.parquet" for folder in (scanned.results, project.results))
    pd.testing.assert_frame_equal(pd.read_parquet(first), pd.read_parquet(second))
    head.rename(scanned.results / "regulatory" / "elements" / "Word" / "head")


FAULTS = {
    "an element without anything": (
        {"elements": {"x": {}}},
        "config, regulatory.elements.x: name either intervals, to train a head on them, or head, a trained one",
    ),
    "a missing file": ({"elements": {"x": {"intervals": "no.bed"}}}, "config, regulatory.elements.x: no file 'no.bed'"),
    "a missing head": ({"elements": {"x": {"head": "no"}}}, "config, regulatory.elements.x: no file 'no/head.json'"),
    "missing motifs": ({"motifs": "no.meme"}, "config, regulatory.motifs: no file 'no.meme'"),
    "nothing to scan for": (
        {"information": "none"},
        "config, regulatory: neither elements nor information tracks are asked for; name an element or set information",
    ),
    "an unknown model": ({"model": "none"}, "config, regulatory.model: no dna model 'none' in the registry"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_regulatory_config_is_refused_before_any_job(fresh, what):
    change, sentence = FAULTS[what]
    fresh.config["regulatory"] = change
    code, output = fresh.outcome("regulatory")
    assert code != 0 and "Traceback" not in output
    assert sentence in output
    assert not fresh.results.exists()


# --- candidate edits ---


def test_edits_are_ranked_from_the_least_disruptive_and_none_is_lost(untouched, tmp_path):
    project = untouched.copy(tmp_path / "project")
    genome = make_genome()["chr1"]
    start = genome.index("TGG", 2_030)  # within a gene
    other = {"A": "G", "C": "T", "G": "A", "T": "C"}
    target = next(
        at for at in range(3_000, 4_500) if genome[at] == "A" and genome[at + 16 : at + 18] == "GG"
    )  # position 5 of a protospacer with NGG behind it
    rows = [
        "id\tchrom\tpos\tref\talt\thgvs\teditor",
        f"snv\tchr1\t{start + 1}\tT\t{other['T']}\t\t",
        f"pair\tchr1\t{start + 1}\tT\t{other['T']}\t\t",
        f"pair\tchr1\t{start + 3}\tG\t{other['G']}\t\t",
        "named\t\t\t\t\tchr1g0:c.4_6del\t",
        f"wrong\tchr1\t{start + 1}\tA\tC\t\t",
        f"base\tchr1\t{target + 1}\t\t\t\tABE8e",
    ]
    (project.folder / "data" / "edits.tsv").write_text("\n".join(rows) + "\n")
    project.config |= {"edits": "data/edits.tsv", "editing": {"nearby": 10}}
    project.run("edits")
    table = pd.read_csv(project.results / "edits.tsv", sep="\t", keep_default_na=False)
    assert {name.partition("/")[0] for name in table["edit_id"]} == {"snv", "pair", "named", "wrong", "base"}
    assert table["rank"].tolist() == list(range(1, len(table) + 1))
    scored = table[table["status"] == "scored"]
    scores = pd.to_numeric(scored["score"])
    assert scores.is_monotonic_increasing and len(scored) == len(table) - 1
    assert table.iloc[-1]["edit_id"] == "wrong" and table.iloc[-1]["reason"] == "ref_mismatch"
    pair = table[table["edit_id"] == "pair"].iloc[0]
    assert (pair["ref"], pair["alt"]) == ("TGG", "CGA") and pair["changes"].count(";") == 1
    percentiles = pd.to_numeric(scored["percentile"].replace("", "nan"))
    assert percentiles.notna().sum() >= 3 and percentiles.dropna().between(0, 100).all()
    guides = table[table["edit_id"].str.startswith("base")]
    assert len(guides) and (guides["guide"].str.len() == 20).all() and (guides["pam"].str[1:] == "GG").all()
    named = table[table["edit_id"] == "named"].iloc[0]
    assert named["consequence"] == "inframe_deletion" and named["gene"] == "chr1g0"
    parquet = pd.read_parquet(project.results / "edits.parquet")
    assert parquet["edit_id"].tolist() == table["edit_id"].tolist()
    assert project.planned("edits") == {}


def test_a_name_that_does_not_fit_its_transcript_stops_with_one_sentence(untouched, tmp_path):
    project = untouched.copy(tmp_path / "project")
    (project.folder / "data" / "edits.tsv").write_text("id\thgvs\nx\tchr1g0:c.4T>G\n")
    project.config |= {"edits": "data/edits.tsv", "variants": []}
    code, output = project.outcome("edits")
    assert code != 0 and "Traceback" not in output
    assert "error: data/edits.tsv, line 2: 'chr1g0:c.4T>G' states T where" in output


def test_the_target_edits_without_edits_says_so(fresh):
    code, output = fresh.outcome("edits")
    assert code != 0 and "config, edits: this target needs candidate edits; name a table or a VCF file" in output


# --- saturation of regions ---


def test_every_change_of_a_region_is_scored_as_a_variant_would_be(untouched, tmp_path):
    project = untouched.copy(tmp_path / "project")
    (project.folder / "data" / "two.bed").write_text("chr1\t2000\t2060\tin a gene\nchr2\t10\t40\n")
    project.config |= {"regions": "data/two.bed", "variants": [], "saturation": {"deletions": 1}}
    project.run("saturation")
    table = pd.read_csv(project.results / "saturated_regions.tsv", sep="\t", keep_default_na=False)
    single = table[(table["ref"].str.len() == 1) & (table["alt"].str.len() == 1)]
    assert len(single) == 3 * 90 and (single["status"] == "scored").all()
    assert (table["ref"].str.len() > table["alt"].str.len()).sum() > 40
    worst = {}
    for row in single.itertuples(index=False):
        key = (row.chrom, row.pos - 1)
        worst[key] = min(worst.get(key, np.inf), float(row[list(single).index(f"llr.{MODEL}")]))
    with pyBigWig.open(str(project.results / "saturated_regions" / f"worst.{MODEL}.bw")) as track:
        values = track.values("chr1", 2_000, 2_060, numpy=True)
        np.testing.assert_allclose(values, [worst["chr1", at] for at in range(2_000, 2_060)], atol=1e-4)
    assert "in a gene" in (project.results / "saturated_regions.html").read_text()
    vcf = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    vcf += [f"{r.chrom}\t{r.pos}\t.\t{r.ref}\t{r.alt}\t.\t.\t." for r in single.head(60).itertuples()]
    (project.folder / "data" / "same.vcf").write_text("\n".join(vcf) + "\n")
    project.config |= {"cohort": "same", "variants": ["data/same.vcf"]}
    project.run()
    scores = pd.read_parquet(project.results / "scores" / f"{MODEL}.parquet")
    expected = single.head(60)[f"llr.{MODEL}"].astype(float)
    np.testing.assert_allclose(scores["llr"], expected, atol=1e-4)


def test_nothing_to_saturate_is_said(fresh):
    code, output = fresh.outcome("saturation")
    assert code != 0 and "config: nothing to saturate; name genes or transcripts in protein.saturation" in output
