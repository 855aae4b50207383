"""The report: what it says must be true, what it carries must be inert, and it must open without a network."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

html5lib = pytest.importorskip("html5lib")

from protein_run import HOSTILE as HOSTILE_GENE  # noqa: E402
from protein_run import MODELS, STRUCTURE_MODELS, ProteinRun  # noqa: E402

from seqprior import panels, report  # noqa: E402
from seqprior.columns import PROTEIN_REASON_TEXT, RANKED_LEAD, RANKED_TAIL, ProteinReason, Reason  # noqa: E402
from seqprior.errors import BadInput  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "report"
HOSTILE = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>]]></style>{{7*7}}"
WEIGHTS = {"stop_gained": 1.0, "missense_variant": 0.6, "synonymous_variant": 0.1, "intergenic_variant": 0.05}


def ranked_table(rows: int, seed: int = 1) -> pd.DataFrame:
    """A ranked table of the stage's shape: the last 2 % of the alleles are skipped."""
    random = np.random.default_rng(seed)
    consequence = random.choice(list(WEIGHTS), rows, p=[0.02, 0.4, 0.38, 0.2])
    weight = pd.Series(consequence).map(WEIGHTS).astype(float).to_numpy()
    llr = random.normal(-1.0 - 2 * weight, 1.2)
    score = weight - 0.1 * llr
    table = pd.DataFrame(
        {
            "chrom": random.choice(["chrI", "chrII", "chrX"], rows),
            "pos": 1000 + 37 * np.arange(rows),
            "ref": "A",
            "alt": random.choice(["C", "G", "T"], rows),
            "gene": [f"YAL{i % 400:03d}W" for i in range(rows)],
            "transcript": [f"YAL{i % 400:03d}W_mRNA" for i in range(rows)],
            "consequence": consequence,
            "hgvs_p": [f"p.Ala{i}Val" if kind == "missense_variant" else "" for i, kind in enumerate(consequence)],
            "score": score,
            "score_low": score - 0.05,
            "score_high": score + 0.05,
            "llr.mini": llr,
            "llr_calibrated.mini": llr + 0.8,
            "strand_gap.mini": np.abs(random.normal(0, 0.3, rows)),
            "entropy.mini": random.uniform(0.4, 1.386, rows),
            "embedding_l2.mini": random.gamma(2, 1, rows),
            "embedding_cosine.mini": random.uniform(0, 1e-4, rows),
            "consequence_weight": weight,
            "model_term": -0.1 * llr,
            "rank_by_consequence": pd.Series(-weight).rank().to_numpy(),
            "input_count": random.integers(1, 5, rows),
            "status": "scored",
            "reason": "",
        }
    )
    skipped = max(1, rows // 50) if rows else 0
    if skipped:
        numbers = [c for c in table if c.startswith(("score", "llr", "strand", "entropy", "embedding", "model_term"))]
        table.loc[table.index[-skipped:], numbers] = np.nan
        table.loc[table.index[-skipped:], ["status", "reason"]] = ["skipped", str(Reason.REF_MISMATCH)]
    table = table.sort_values("score", ascending=False, na_position="last", ignore_index=True)
    table["variant_id"] = table["chrom"] + "-" + table["pos"].astype(str) + "-" + table["ref"] + "-" + table["alt"]
    table["rank"] = table.index + 1
    evidence = [column for column in table if column not in (*RANKED_LEAD, *RANKED_TAIL)]
    return table[[*RANKED_LEAD, *evidence, *RANKED_TAIL]]


def summary_of(ranked: pd.DataFrame) -> dict:
    groups = ranked.groupby(["status", "reason"], sort=True)["input_count"].agg(["size", "sum"]).reset_index()
    return {
        "files": [
            {
                "path": "cohort/a.vcf.gz",
                "samples": 12,
                "alleles": int(ranked["input_count"].sum()),
                "contigs_mapped": {"1": "chrI", "chrX": "chrX"},
            }
        ],
        "input_alleles": int(ranked["input_count"].sum()),
        "unique_alleles": len(ranked),
        "merged_equivalent": 7,
        "by_status_reason": [
            {"status": row.status, "reason": row.reason, "unique": int(row.size_), "input": int(row.sum_)}
            for row in groups.rename(columns={"size": "size_", "sum": "sum_"}).itertuples()
        ],
    }


def run_record() -> dict:
    return {
        "cohort": "demo",
        "seqprior_version": "0.1.0",
        "config": {
            "reference": {"name": "sacCer3", "fasta": "ref/sacCer3.fa", "genes": "ref/genes.gff3.gz"},
            "models": {"dna": ["mini"], "protein": []},
            "scoring": {"strands": "both", "max_allele_length": 50},
            "prioritise": {
                "consequence_weights": {"missense_variant": 6, "other": 1},
                "model_weight": 0.25,
                "model_clip": 5,
            },
        },
        "inputs": [{"path": "cohort/a.vcf.gz", "sha256": "ab" * 32, "bytes": 1234567}],
        "models": [
            {
                "id": "mini",
                "name": "Yeast mini",
                "description": "A small causal model.",
                "family": "bidirectional",
                "objective": "next base",
                "licence": "CC BY-NC 4.0",
                "digest": "sha256:" + "0123456789abcdef" * 4,
                "species": "Saccharomyces cerevisiae",
                "parameters": 1200000,
                "context": 512,
                "card": "resources/models/mini.md",
                "citation": "Doe J. A model. Journal 2025;1:1.",
            }
        ],
        "software": {"python": "3.11.9", "pysam": "0.23.0", "snakemake": "9.27.0"},
        "counts": {
            "input_alleles": 2834,
            "unique_alleles": 2500,
            "scored": 2450,
            "skipped": 50,
            "skipped_by_reason": {"ref_mismatch": 50},
        },
        "timings": [{"stage": "embedding", "seconds": 192.4, "items": 2450, "unit": "alleles", "per_second": 12.7}],
        "started": "2025-01-01T10:00:00Z",
        "finished": "2025-01-01T10:05:00Z",
    }


CALIBRATION = {
    "mini": {
        "neutral_sites": 900,
        "neutral_substitutions": 2700,
        "sd": 1.234,
        "definition": "synonymous_variant, intergenic_variant",
    }
}


def highlights_of(ranked: pd.DataFrame, rows: list[int]) -> pd.DataFrame:
    known = ranked.iloc[rows][["chrom", "pos", "ref", "alt", "gene"]].copy()
    known["name"] = [f"known-{i}" for i in rows]
    for column in ("protein_change", "phenotype", "kind", "evidence"):
        known[column] = column
    known["reference"] = "10.1000/xyz123"
    return known[list(report.KNOWN_ALLELES)].reset_index(drop=True)


def written(folder: Path, ranked: pd.DataFrame, run: dict | None = None, highlights=None, summary=None, top=500) -> str:
    output = folder / "report.html"
    report.write_report(
        run=run or run_record(),
        ranked=ranked,
        variants_summary=summary or summary_of(ranked),
        highlights=highlights,
        calibration=CALIBRATION,
        output=output,
        template_dir=TEMPLATES,
        top=top,
    )
    return output.read_text(encoding="utf-8")


def parsed(html: str):
    """The document tree; html5lib in strict mode raises on any error of the markup."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(html)


def text_of(element) -> str:
    return " ".join("".join(element.itertext()).split())


def section(tree, name: str):
    return next(element for element in tree.iter("section") if element.get("id") == name)


def island(tree) -> dict:
    return json.loads(next(s for s in tree.iter("script") if s.get("id") == "rows").text)


@pytest.fixture(scope="module")
def ranked():
    return ranked_table(2500)


@pytest.fixture(scope="module")
def html(ranked, tmp_path_factory):
    return written(tmp_path_factory.mktemp("report"), ranked, highlights=highlights_of(ranked, [0, 3, 90, 400, 2400]))


def test_markup_has_no_parse_error_and_unique_identifiers(html):
    tree = parsed(html)
    identifiers = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(identifiers) == len(set(identifiers))
    for element in tree.iter():
        assert element.get("aria-labelledby") in (None, *identifiers)
        if element.tag == "a" and (element.get("href") or "").startswith("#"):
            assert element.get("href")[1:] in identifiers


def test_page_is_accessible_in_structure(html):
    tree = parsed(html)
    tags = [element.tag for element in tree.iter() if isinstance(element.tag, str)]
    assert tags.count("main") == 1 and tags.count("h1") == 1 and "nav" in tags and "header" in tags
    assert next(tree.iter("a")).get("href") == "#main"
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for table in tree.iter("table"):
        assert table.find("caption") is not None
    for cell in tree.iter("th"):
        assert cell.get("scope") in ("row", "col")
    for svg in tree.iter("svg"):
        assert svg.get("aria-hidden") == "true" or (svg.get("role") == "img" and svg.get("aria-label"))


def test_nothing_is_loaded_from_a_network(html):
    tree = parsed(html)
    for element in tree.iter():
        for attribute, value in element.attrib.items():
            if attribute in ("src", "srcset", "data", "action", "poster", "xlink:href", "background"):
                pytest.fail(f"{element.tag} {attribute}={value}")
            if attribute == "href" and element.tag != "a":
                assert value == "data:,"
            if attribute == "href" and element.tag == "a":
                assert value.startswith(("#", "https://doi.org/", "http"))
    names = ("report.css", "panels.css", "marks.js", "panels.js", "report.js")
    assets = "".join((TEMPLATES / name).read_text() for name in names)
    assets = assets.replace("http://www.w3.org/2000/svg", "")  # a name, which is not fetched
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(|https?:", assets)
    policy = next(m.get("content") for m in tree.iter("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy


def test_hostile_names_are_inert(tmp_path):
    ranked = ranked_table(60).astype({"gene": object, "chrom": object, "reason": object})
    for column in ("gene", "transcript", "hgvs_p", "consequence", "chrom", "ref", "alt", "variant_id"):
        ranked.loc[0, column] = HOSTILE
    ranked.loc[ranked.index[-1], "reason"] = HOSTILE
    ranked["llr." + HOSTILE] = ranked["llr.mini"]
    run = run_record()
    run["cohort"] = run["seqprior_version"] = HOSTILE
    run["config"][HOSTILE] = {"a": HOSTILE}
    run["models"][0].update(dict.fromkeys(run["models"][0], HOSTILE), card="javascript:alert(1)")
    run["software"] = {HOSTILE: HOSTILE}
    run["timings"][0].update(stage=HOSTILE, unit=HOSTILE)
    run["inputs"][0].update(path=HOSTILE, sha256=HOSTILE)
    known = highlights_of(ranked, [0, 1])
    for column in set(report.KNOWN_ALLELES) - {"chrom", "pos", "ref", "alt"}:
        known[column] = HOSTILE
    summary = summary_of(ranked)
    summary["files"][0].update(path=HOSTILE, contigs_mapped={HOSTILE: HOSTILE + "2"})
    tree = parsed(written(tmp_path, ranked, run, known, summary))
    assert len(list(tree.iter("script"))) == 2 and not list(tree.iter("img"))
    assert not [a for element in tree.iter() for a in element.attrib if a.startswith("on")]
    assert not [a for a in tree.iter("a") if a.get("href", "").startswith("javascript")]
    assert HOSTILE in text_of(tree) and "49" not in text_of(next(tree.iter("h1")))
    data = island(tree)["data"]["gene"]
    assert HOSTILE in (data.get("levels") or data["values"])


def test_paths_that_are_not_utf8_do_not_stop_the_report(tmp_path, ranked):
    summary = summary_of(ranked)
    summary["files"][0]["path"] = b"caf\xe9.vcf".decode("utf-8", errors="surrogateescape")
    assert "caf?.vcf" in written(tmp_path, ranked, summary=summary)


def test_counts_of_the_balance_add_up_to_the_input(html, ranked):
    rows = [[text_of(cell) for cell in row] for row in section(parsed(html), "alleles").find(".//table").iter("tr")]
    total = int(ranked["input_count"].sum())
    body = [row for row in rows if row[0] in ("scored", "skipped")]
    assert sum(int(row[2].replace(",", "")) for row in body) == total
    assert sum(int(row[4].replace(",", "")) for row in body) == len(ranked)
    assert rows[-1][1] == f"{total:,}"
    text = text_of(section(parsed(html), "alleles"))
    assert f"make {total:,}, the number read" in text and "REF is not what the reference has there" in text


def test_alleles_that_only_the_model_skipped_count_as_skipped(tmp_path, ranked):
    later = ranked.copy()
    later.loc[later.index[10:30], ["status", "reason"]] = ["skipped", "not_evaluable_by_model"]
    text = text_of(section(parsed(written(tmp_path, later, summary=summary_of(ranked))), "alleles"))
    skipped = int(later.loc[later["status"] == "skipped", "input_count"].sum())
    assert f"{skipped:,} skipped make" in text and "the model has no score for this allele" in text


def test_counts_that_do_not_add_up_raise_an_alarm(tmp_path, ranked):
    summary = summary_of(ranked)
    summary["input_alleles"] += 1
    text = text_of(section(parsed(written(tmp_path, ranked, summary=summary)), "alleles"))
    assert "do not add up" in text and "accounted for" not in text


def test_empty_ranked_table_gives_a_report_that_says_so(tmp_path):
    empty = ranked_table(5).head(0)
    summary = {"files": [], "input_alleles": 0, "unique_alleles": 0, "merged_equivalent": 0, "by_status_reason": []}
    tree = parsed(written(tmp_path, empty, highlights=highlights_of(ranked_table(5), [0]), summary=summary))
    assert "no allele to rank" in text_of(section(tree, "ranking"))
    assert not [table for table in tree.iter("table") if table.get("id") == "ranked"]


def test_run_record_without_optional_keys_is_enough(tmp_path):
    parsed(written(tmp_path, ranked_table(20), run={"cohort": "bare", "config": {}, "models": [{"id": "mini"}]}))


def test_fifty_thousand_rows_stay_small_and_keep_one_page_in_the_document(tmp_path):
    table = ranked_table(50_000)
    started = time.monotonic()
    html = written(tmp_path, table, top=50_000)
    assert time.monotonic() - started < 60
    assert len(html.encode()) < 25e6
    assert html.count("<tr>") < report.PAGE_ROWS + 60
    rows = json.loads(re.search(r'id="rows">(.*?)</script>', html, re.DOTALL)[1])
    assert rows["rows"] == 50_000
    for column, data in rows["data"].items():
        values = data.get("values") or [data["levels"][code] for code in data["codes"]]
        assert len(values) == 50_000, column
        if column in ("score", "llr.mini"):
            assert np.allclose([math.nan if v is None else v for v in values], table[column], rtol=1e-4, equal_nan=True)
        if column in ("gene", "variant_id", "status"):
            assert values == table[column].tolist()


def test_top_limits_the_rows(tmp_path, ranked):
    tree = parsed(written(tmp_path, ranked, top=30))
    assert island(tree)["rows"] == 30 and "The first 30 of 2,500 unique alleles" in text_of(section(tree, "ranking"))


def test_first_page_shows_without_a_script(html, ranked):
    table = next(t for t in parsed(html).iter("table") if t.get("id") == "ranked")
    rows = [[text_of(cell) for cell in row] for row in table.find("tbody")]
    assert len(rows) == report.PAGE_ROWS
    best = ranked.iloc[0]
    assert rows[0][:3] == ["1", f"{best['chrom']}:{best['pos']:,} {best['ref']}>{best['alt']}", best["gene"]]


def test_missing_numbers_show_as_an_en_dash(tmp_path):
    table = next(t for t in parsed(written(tmp_path, ranked_table(20))).iter("table") if t.get("id") == "ranked")
    last = [text_of(cell) for cell in table.find("tbody")][-1], text_of(list(table.find("tbody"))[-1])
    assert "–" in last[1] and "nan" not in last[1].lower()


def test_ranks_of_known_alleles_equal_a_direct_count(ranked):
    known = report.known_alleles(ranked, highlights_of(ranked, [0, 3, 90, 400, 2000]))
    scored = ranked[ranked["score"].notna()]
    for row in known.itertuples():
        here = scored[(scored["chrom"] == row.chrom) & (scored["pos"] == row.pos)].iloc[0]
        peers = scored[scored["consequence"] == here["consequence"]]
        assert row.score_rank == (scored["score"] > here["score"]).sum() + 1
        assert row.class_rank == (peers["score"] > here["score"]).sum() + 1
        assert row.class_size == len(peers)
        weight = scored["consequence_weight"]
        ties = (weight == here["consequence_weight"]).sum()
        assert row.consequence_rank == (weight > here["consequence_weight"]).sum() + (ties + 1) / 2
        assert row.score_percentile == pytest.approx(100 * (scored["score"] < here["score"]).sum() / (len(scored) - 1))


def test_known_alleles_outside_the_input_or_without_score_are_told_apart(tmp_path, ranked):
    known = highlights_of(ranked, [5, 2499])
    known = pd.concat([known, known.head(1).assign(pos=1, name="elsewhere")], ignore_index=True)
    text = text_of(section(parsed(written(tmp_path, ranked, highlights=known)), "known"))
    assert "2 known alleles of 3 in the list occur in this input; 1 of them scored." in text
    assert "not in this input" in text and "skipped: REF is not what the reference has there" in text


@pytest.mark.parametrize(
    ("full", "alone", "words"),
    [
        ([90.0, 80.0], [50.0, 60.0], "higher by 30.0 points (2 rise, 0 fall, 0 stay)"),
        ([10.0, 20.0], [50.0, 60.0], "lower by 40.0 points (0 rise, 2 fall, 0 stay)"),
        ([50.0, 60.0], [50.0, 60.0], "no differently (0 rise, 0 fall, 2 stay)"),
    ],
)
def test_sentence_on_known_alleles_says_which_order_does_better(full, alone, words):
    known = pd.DataFrame({"status": "scored", "score_percentile": full, "consequence_percentile": alone})
    assert words in report.known_summary(known.assign(class_percentile=50.0))


def test_figures_draw_the_quantiles_of_the_data(ranked):
    drawn = report.distribution(ranked, "mini")
    assert sum(row["n"] for row in drawn["rows"]) == ranked["llr_calibrated.mini"].notna().sum()
    assert [row["name"] for row in drawn["rows"]] == list(WEIGHTS)
    for row in drawn["rows"]:
        values = ranked.loc[ranked["consequence"] == row["name"], "llr_calibrated.mini"].dropna()
        assert row["quantiles"] == pytest.approx(np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]))
        assert drawn["axis"].low < row["quantiles"][0] and row["quantiles"][-1] < drawn["axis"].high


@pytest.mark.parametrize(("low", "high"), [(-6.1, 2.2), (0.0, 0.0), (-1e-5, 3e-5), (0, 123456)])
def test_axis_has_a_few_round_ticks_inside(low, high):
    axis = report.axis_over(low, high)
    assert 2 <= len(axis.ticks) <= 8
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)
    assert axis.at(axis.low) == "0.00%" and axis.at(axis.high) == "100.00%"


def test_swarm_keeps_every_point_and_parts_neighbours():
    placed = report.swarm([50.4, *[50.0] * 9, 90.0])
    assert sorted(position for position, _ in placed) == [*[50.0] * 9, 50.4, 90.0]
    assert len({height for position, height in placed if position < 60}) == 10
    assert all(-1 <= height <= 1 for _, height in placed)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (pd.NA, "–"),
        (0, "0"),
        (0.5, "0.500"),
        (-2.345, "−2.35"),
        (100, "100"),
        (999.7, "1,000"),
        (1234567, "1,234,567"),
        (0.0000123, "1.23 × 10⁻⁵"),
        (float("-inf"), "−∞"),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert report.figure(value) == text


def test_units_of_time_and_size():
    assert report.moment("2025-01-01T10:05:00Z") == "1 January 2025, 10:05 UTC"
    assert [report.moment(text) for text in ("yesterday", None)] == ["yesterday", "–"]
    assert [report.duration(s) for s in (0.4212, 192.4, 7500)] == ["0.421 s", "3 min 12 s", "2 h 5 min"]
    assert [report.size(b) for b in (999, 1234567, 45.6e9)] == ["999 bytes", "1.23 MB", "45.6 GB"]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://example.org/card", "https://example.org/card"),
        ("doi:10.1000/xyz123", "https://doi.org/10.1000/xyz123"),
        ("Lutz et al. 2019; DOI 10.1371/journal.pgen.1008375.", "https://doi.org/10.1371/journal.pgen.1008375"),
        ("Yvert et al. 2003; PMID 12897782", "https://pubmed.ncbi.nlm.nih.gov/12897782/"),
        ("javascript:alert(1)", None),
        ("data:text/html,x", None),
        ("resources/card.md", None),
        (None, None),
    ],
)
def test_only_web_addresses_and_literature_numbers_become_links(text, address):
    assert report.link(text) == address


def test_methods_text_states_what_a_reader_needs():
    text = report.methods_text({**run_record(), "calibration": CALIBRATION})
    for fact in (
        "seqprior 0.1.0",
        "sacCer3",
        "left-aligned",
        "llr = log p(alt) - log p(ref), natural logarithm",
        "two strands averaged",
        "same pentanucleotide context",
        "2,700 neutral substitutions",
        "standard deviation 1.23",
        "window of 512 bases",
        "neutral: synonymous_variant, intergenic_variant",
        "missense_variant 6, other 1",
        "0.25 times the mean over models",
        "between -5 and 5",
        "2,834 input alleles gave 2,500 unique ones",
        "REF is not what the reference has there: 50",
        "Yeast mini",
        "CC BY-NC 4.0",
        "pysam 0.23.0",
        "Doe J. A model.",
    ):
        assert fact in text, fact
    sources = re.findall(r"^\[(\d+)\]", text, re.MULTILINE)
    assert sources and set(re.findall(r"\[(\d+)\]", text.split("References")[0])) == set(sources)


def test_methods_text_follows_the_config():
    run = run_record()
    run["config"]["scoring"]["strands"] = "forward"
    text = report.methods_text(run)
    assert "two strands averaged" not in text and "strand setting was forward" in text
    assert "were calibrated" not in text
    assert "predicted with bcftools csq" in text
    run["config"]["consequences"] = {"source": "input"}
    text = report.methods_text(run)
    assert "csq" not in text and "taken from the annotation of the input" in text


def test_registry_words_on_limits_come_first_and_are_not_repeated():
    said = "Do not use it for other species or for any clinical decision."
    assert report.limits({"limits": said, "species": "yeast", "licence": "MIT"}) == [said]
    assert len(report.limits({"species": "yeast", "licence": "MIT"})) == 2


def test_licence_that_forbids_commerce_is_said():
    assert any("commercial" in limit for limit in report.limits({"licence": "CC BY-NC-SA 4.0"}))
    assert not any("commercial" in limit for limit in report.limits({"licence": "MIT"}))


@pytest.fixture(scope="module")
def proteins(tmp_path_factory) -> ProteinRun:
    return ProteinRun(tmp_path_factory.mktemp("proteins"))


def protein_record() -> dict:
    run = run_record()
    run["models"][0]["kind"] = "dna"
    for model in (*MODELS, *STRUCTURE_MODELS):
        kind = "structure" if model in STRUCTURE_MODELS else "protein"
        run["models"].append({"id": model, "kind": kind, "window": 1022, "citation": f"Somebody. {model}. 2023."})
        run["config"]["models"].setdefault(kind, []).append(model)
    run["config"]["protein"] = {"transcripts": ["mane_select", "longest"]}
    run["config"]["prioritise"] |= {"protein_weight": 0.75, "protein_clip": 4}
    return run


def written_with_panels(folder: Path, run: ProteinRun, limit: int = 50) -> str:
    made, sources = panels.panels_of_run(run.ranked, limit, **run.files)
    report.write_report(
        run=protein_record(),
        ranked=run.ranked,
        variants_summary=summary_of(run.ranked),
        highlights=None,
        calibration={},
        output=folder / "report.html",
        template_dir=TEMPLATES,
        top=500,
        panels=made,
        structure_sources=sources,
    )
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def protein_html(proteins, tmp_path_factory) -> str:
    return written_with_panels(tmp_path_factory.mktemp("report"), proteins)


def test_run_without_proteins_mentions_none(html):
    tree = parsed(html)
    assert not [s for s in tree.iter("section") if s.get("id") == "proteins"]
    assert len(list(tree.iter("script"))) == 2 and "3Dmol" not in html and "seqpriorPanels = (" not in html
    assert "Residue" not in text_of(next(t for t in tree.iter("table") if t.get("id") == "ranked"))


def test_report_with_proteins_is_valid_and_carries_the_viewer_once(protein_html):
    tree = parsed(protein_html)
    assert len(list(tree.iter("script"))) == 4
    viewer = (TEMPLATES / report.VIEWER).read_text()
    assert protein_html.count(viewer[:2000]) == 1
    assert "University of Pittsburgh" in text_of(section(tree, "provenance"))
    policy = next(m.get("content") for m in tree.iter("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.count("'sha256-") == 3 and "unsafe" not in policy and "http" not in policy
    assert len(protein_html.encode()) < 1.5e6


def test_viewer_is_embedded_only_with_a_structure(tmp_path, proteins):
    files = {**proteins.files, "structures": None}
    made, sources = panels.panels_of_run(proteins.ranked, 5, **files)
    assert sources == {}
    report.write_report(
        protein_record(),
        proteins.ranked,
        summary_of(proteins.ranked),
        None,
        {},
        tmp_path / "r.html",
        TEMPLATES,
        50,
        made,
    )
    html = (tmp_path / "r.html").read_text()
    assert "3Dmol=" not in html and "seqpriorPanels = (" in html and len(html) < 300_000
    assert "Rego N" not in text_of(section(parsed(html), "methods"))


def test_viewer_is_the_file_that_its_note_describes():
    import hashlib

    note = (TEMPLATES / "vendor" / "README.md").read_text()
    assert hashlib.sha256((TEMPLATES / report.VIEWER).read_bytes()).hexdigest() in note


def test_hostile_gene_of_a_panel_is_inert(protein_html):
    tree = parsed(protein_html)
    assert HOSTILE_GENE not in protein_html
    data = json.loads(next(s for s in tree.iter("script") if s.get("id") == "panels").text)
    assert HOSTILE_GENE in {panel["genes"] for panel in data["panels"].values()}


def test_alleles_in_coding_sequences_are_all_accounted_for(protein_html, proteins):
    found = report.account_proteins(proteins.ranked)
    coding = proteins.ranked[proteins.ranked["protein_status"] != ""]
    assert found["coding"] == found["sums"]["unique"] == len(coding) == 15
    assert found["sums"]["input"] == coding["input_count"].sum()
    scored = next(row for row in found["rows"] if row["status"] == "scored")
    assert scored["unique"] == 12
    structure = {row["reason"]: row["unique"] for row in found["structure_rows"]}
    assert structure == {"": 9, "no_structure": 3}
    text = text_of(section(parsed(protein_html), "proteins"))
    assert f"15 unique alleles of {len(proteins.ranked)} touch a coding sequence" in text
    for reason in (ProteinReason.STOP_OR_FRAMESHIFT, ProteinReason.SAME_PROTEIN, ProteinReason.NO_STRUCTURE):
        assert PROTEIN_REASON_TEXT[reason] in text
    assert "says nothing of damage" in protein_html and "none is folded anew" in text


def test_table_shows_the_residue_and_the_model_that_is_most_surprised(protein_html, proteins):
    table = next(t for t in parsed(protein_html).iter("table") if t.get("id") == "ranked")
    heads = [text_of(cell) for cell in table.find("thead").iter("th")]
    cells = [[text_of(cell) for cell in row] for row in table.find("tbody")]
    z = {model: f"{'structure' if model in STRUCTURE_MODELS else 'protein'}_z.{model}"
         for model in (*MODELS, *STRUCTURE_MODELS)}  # fmt: skip
    for row, shown in zip(proteins.ranked.to_dict("records"), cells, strict=True):
        known = {model: row[column] for model, column in z.items() if not pd.isna(row[column])}
        best = f"{report.figure(max(known.values()))} {max(known, key=known.get)}" if known else "–"
        assert shown[heads.index("Protein z")] == best
        residue = "–" if pd.isna(row["residue"]) else f"{row['residue_ref']}{row['residue']}{row['residue_alt']}"
        assert shown[heads.index("Residue")] == residue


@pytest.mark.parametrize(
    ("ref", "alt", "label"),
    [
        ("R", "H", "R175H"),
        ("R", "", "R175del"),
        ("", "GA", "175insGA"),
        ("ACDEF", "G", "ACDE…175G"),
        ("Q", "*", "Q175*"),
    ],
)
def test_residues_have_short_labels(ref, alt, label):
    assert report.residue_label(175, ref, alt) == label and report.residue_label(pd.NA, ref, alt) == "–"


def test_a_frameshift_is_no_deletion():
    assert report.residue_label(130, "V", "", "frameshift_variant") == "V130fs"
    assert report.residue_label(130, "V", "", "inframe_deletion") == "V130del"


def test_every_column_of_proteins_has_a_label_and_a_meaning(protein_html, proteins):
    facts = {fact["key"]: fact for fact in island(parsed(protein_html))["columns"]}
    for key in proteins.ranked:
        assert facts[key]["label"] != key and facts[key]["meaning"], key
    assert facts["protein_z.esm-b"]["label"] == "Protein z, esm-b"
    assert [key for key, fact in facts.items() if fact.get("derived")] == list(report.DERIVED)
    assert not facts["llr.mini"].get("protein")


def test_whatever_the_protein_stage_writes_has_a_label(proteins):
    from seqprior.columns import PROTEIN_CHANGES, PROTEIN_HAPLOTYPES
    from seqprior.protein_evidence import protein_evidence, read_answers

    protein, sequence = next(iter(proteins.sequences.items()))
    change = ["v1", "G", "T1", protein, "missense_variant", 4, sequence[4], "W", "c.1A>G", "p.X", "scored", ""]
    changes = pd.DataFrame([change], columns=list(PROTEIN_CHANGES)).astype({"start": "Int64"})
    joint = pd.DataFrame(
        [("v1+v2", "T1", protein, "missense_variant", 4, sequence[4], "Y", "p.Y", 2)], columns=list(PROTEIN_HAPLOTYPES)
    )
    answers = read_answers(proteins.files["profiles"][:2], [], proteins.sequences, {(protein, 4)})
    evidence = protein_evidence(
        changes, joint, proteins.proteins, {"m": answers}, {"s": answers}, proteins.residues, proteins.structures
    )
    assert {"haplotype_llr.m", "structure_entropy.s", "protein_z.m", "plddt", "structure_reason"} <= set(evidence)
    unknown = {column.partition(".")[0] for column in evidence} - report.COLUMN_TEXT.keys()
    assert unknown == set()


def test_methods_of_proteins_say_what_was_done(protein_html):
    text = text_of(section(parsed(protein_html), "methods"))
    for fact in (
        "the first there is of: mane select, longest",
        "Proteins were read by esm-a (window of 1,022 residues)",
        "Given the backbone alone, residues were scored by mpnn",
        "1 from AlphaFold DB [",
        "0.75 times the mean over protein and structure models",
        "each held between -4 and 4",
        "scored in a window of the reference sequence around it, as long as the model's context allows, by Yeast mini",
    ):
        assert fact in text, fact
    for source in ("biotite", "alphafold", "alphafold_db", "blosum62", "hydrophobicity", "half_sphere", "3dmol"):
        assert report.CITATIONS[source] in text
    assert "Somebody. esm-b. 2023." in text
    numbers = [int(n) for n in re.findall(r"\[(\d+)\]", text.split("References")[0])]
    assert max(numbers) <= text.split("References")[1].count("[")


@pytest.mark.parametrize(
    ("source", "cited", "words"),
    [
        ("alphafold3", ["alphafold3"], "by AlphaFold 3"),
        ("colabfold", ["alphafold", "colabfold"], "by ColabFold"),
        ("folder", [], "from local folders"),
    ],
)
def test_only_the_sources_in_use_are_cited(source, cited, words):
    run = {**protein_record(), "proteins": True, "structure_sources": {source: 4}}
    text = report.methods_text(run)
    assert f"4 {words}" in text
    for key in ("alphafold", "alphafold_db", "alphafold3", "colabfold"):
        assert (report.CITATIONS[key] in text) == (key in cited)


def test_protein_model_is_limited_to_proteins_like_those_it_learnt():
    said = report.limits({"kind": "protein", "species": "UniRef50"})
    assert "Not for proteins far from its training data (UniRef50)." in said


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb or #rgb colours."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_colours_of_all_themes_meet_wcag_aa():
    themes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]+)", block))
        for block in re.findall(r":root \{(.*?)\}", (TEMPLATES / "report.css").read_text(), re.DOTALL)
    ]
    assert len(themes) == 3
    for theme in themes:
        for ground in ("paper", "shade"):
            for ink in ("ink", "quiet", "accent", "alarm"):
                assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)
        assert contrast(theme["mark"], theme["paper"]) >= 3 and contrast(theme["mark"], theme["fill"]) >= 3


def test_ranked_table_of_another_shape_is_refused(tmp_path, ranked):
    with pytest.raises(BadInput, match="no column gene"):
        written(tmp_path, ranked.drop(columns="gene"), summary=summary_of(ranked))


def test_colours_of_residues_stand_out_in_all_themes():
    themes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]+)", block))
        for name in ("report.css", "panels.css")
        for block in re.findall(r":root \{(.*?)\}", (TEMPLATES / name).read_text(), re.DOTALL)
    ]
    assert len(themes) == 6
    for page, residues in zip(themes[:3], themes[3:], strict=True):
        assert residues.keys() == {"surprise", "even", "favour", "none", "helix", "strand", "alt"}
        for ground in ("paper", "shade"):
            assert contrast(residues["alt"], page[ground]) >= 4.5
            for mark in ("helix", "strand", "surprise", "favour"):
                assert contrast(residues[mark], page[ground]) >= 3, (mark, ground)
        assert contrast(residues["surprise"], residues["even"]) >= 3 <= contrast(residues["favour"], residues["even"])


def command(
    folder: Path, ranked: pd.DataFrame, highlights: str = "", more: dict | None = None
) -> subprocess.CompletedProcess:
    ranked.to_parquet(folder / "ranked.parquet")
    (folder / "run.json").write_text(json.dumps(run_record()))
    (folder / "summary.json").write_text(json.dumps(summary_of(ranked)))
    (folder / "calibration.json").write_text(json.dumps(CALIBRATION))
    arguments = {
        "--run": folder / "run.json",
        "--ranked": folder / "ranked.parquet",
        "--variants-summary": folder / "summary.json",
        "--highlights": highlights,
        "--calibration": folder / "calibration.json",
        "--output": folder / "out" / "report.html",
        "--template-dir": TEMPLATES,
        "--top": 20,
    }
    flat = [str(part) for pair in arguments.items() for part in pair]
    for name, value in (more or {}).items():
        flat += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "write_report.py", *flat], capture_output=True, text=True, check=False
    )


def test_command_line_writes_the_report(tmp_path, ranked):
    highlights_of(ranked, [1, 2]).to_csv(tmp_path / "known.tsv", sep="\t", index=False)
    done = command(tmp_path, ranked, str(tmp_path / "known.tsv"))
    assert done.returncode == 0, done.stderr
    tree = parsed((tmp_path / "out" / "report.html").read_text())
    assert "known-1" in text_of(section(tree, "known")) and "pentanucleotide" in text_of(section(tree, "methods"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.html"]


def test_position_that_is_no_number_is_bad_input_with_its_line(tmp_path, ranked):
    known = highlights_of(ranked, [1, 2]).astype({"pos": object})
    known.loc[1, "pos"] = "12x"
    known.to_csv(tmp_path / "known.tsv", sep="\t", index=False)
    done = command(tmp_path, ranked, str(tmp_path / "known.tsv"))
    assert done.returncode == 2 and "known.tsv line 3" in done.stderr and "Traceback" not in done.stderr


def test_command_line_writes_panels(tmp_path, proteins):
    done = command(tmp_path, proteins.ranked, more={**proteins.files, "panels": 4})
    assert done.returncode == 0, done.stderr
    tree = parsed((tmp_path / "out" / "report.html").read_text())
    data = json.loads(next(s for s in tree.iter("script") if s.get("id") == "panels").text)
    assert list(data["panels"]) == proteins.ranked["variant_id"].tolist()[:4] and len(data["structures"]) == 1


def test_command_line_without_protein_files_writes_none(tmp_path, ranked):
    empty = {name: [] for name in ("proteins", "protein_models", "profiles", "residues", "structures")}
    done = command(tmp_path, ranked, more=empty)
    assert done.returncode == 0, done.stderr
    assert 'id="panels"' not in (tmp_path / "out" / "report.html").read_text()
