"""The report in a real browser: it works from a file, without a network, by keyboard, and holds one page of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqprior import report
from seqprior.columns import RANKED_LEAD, RANKED_TAIL

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
ROWS = 50_000
HOSTILE = "<img src=http://example.org/x onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def ranked() -> pd.DataFrame:
    random = np.random.default_rng(7)
    score = np.sort(random.normal(size=ROWS))[::-1]
    table = pd.DataFrame(
        {
            "rank": np.arange(1, ROWS + 1),
            "chrom": random.choice(["chr2", "chr10"], ROWS),
            "pos": 1 + random.permutation(ROWS) * 11,
            "ref": "A",
            "alt": random.choice(["C", "G", "T"], ROWS),
            "gene": [f"GENE{i % 700}" for i in range(ROWS)],
            "transcript": "T1",
            "consequence": random.choice(["missense_variant", "synonymous_variant"], ROWS),
            "hgvs_p": "p.Ala1Val",
            "score": score,
            "score_low": score - 0.1,
            "score_high": score + 0.1,
            "llr.mini": random.normal(size=ROWS),
            # As the page rounds them, so that ties are the same on both sides.
            "llr_calibrated.mini": [
                float(f"{x:.5g}") for x in random.normal(size=ROWS) * 10.0 ** random.integers(-6, 5, ROWS)
            ],
            "rank_by_consequence": random.choice([1.5, 20000.0], ROWS),
            "input_count": 1,
            "status": "scored",
            "reason": "",
        }
    )
    table.loc[ROWS - 20 :, ["status", "reason"]] = ["skipped", "ref_mismatch"]
    table.loc[ROWS - 20 :, ["score", "score_low", "score_high", "llr.mini", "llr_calibrated.mini"]] = np.nan
    table.loc[12345, "gene"] = HOSTILE
    table.loc[0, "alt"] = "ACGTACGTACGTACGT"
    table["variant_id"] = table["chrom"] + "-" + table["pos"].astype(str) + "-" + table["ref"] + "-" + table["alt"]
    evidence = [column for column in table if column not in (*RANKED_LEAD, *RANKED_TAIL)]
    return table[[*RANKED_LEAD, *evidence, *RANKED_TAIL]]


@pytest.fixture(scope="module")
def page(ranked, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("report") / "report.html"
    counts = {"unique": ROWS, "input": ROWS, "status": "scored", "reason": ""}
    known = ranked.head(3)[["gene", "chrom", "pos", "ref", "alt"]].assign(
        name=HOSTILE, protein_change="", phenotype="", kind="", reference="10.1000/x", evidence=""
    )
    report.write_report(
        run={"cohort": "browser", "config": {}, "models": [{"id": "mini", "description": HOSTILE}]},
        ranked=ranked,
        variants_summary={"input_alleles": ROWS, "unique_alleles": ROWS, "by_status_reason": [counts]},
        highlights=known,
        calibration={},
        output=output,
        template_dir=ROOT / "report",
        top=ROWS,
    )
    return output


@pytest.fixture
def window(chromium, page):
    window = chromium()
    window.get(page.as_uri())
    yield window
    window.quit()


def rows(window) -> list[list[str]]:
    """Text of the body's cells, one line per cell."""
    return window.execute_script(
        "return [...document.querySelectorAll('#ranked tbody tr')].map(r => [...r.cells]"
        ".map(c => c.textContent.trim().replace(/\\s+/g, ' ')))"
    )


def header(window, key: str):
    return window.find_element("css selector", f"#ranked th[data-key='{key}']")


def test_header_sorts_by_click_and_by_keyboard(window, ranked):
    rank = header(window, "rank")
    assert rank.get_attribute("aria-sort") == "ascending"
    position = header(window, "variant")
    position.find_element("tag name", "button").click()
    assert position.get_attribute("aria-sort") == "ascending" and rank.get_attribute("aria-sort") is None
    first = ranked[ranked["chrom"] == "chr2"].sort_values("pos").head(report.PAGE_ROWS)
    assert [row[1] for row in rows(window)] == [f"chr2:{r.pos:,} {r.ref}>{r.alt}" for r in first.itertuples()]

    llr = header(window, "llr_calibrated.mini")
    window.execute_script("arguments[0].focus()", llr.find_element("tag name", "button"))
    from selenium.webdriver.common.keys import Keys

    window.switch_to.active_element.send_keys(Keys.ENTER)
    assert llr.get_attribute("aria-sort") == "ascending"
    wanted = ranked.sort_values("llr_calibrated.mini", kind="stable")["rank"].head(report.PAGE_ROWS)
    assert [row[0] for row in rows(window)] == [f"{rank:,}" for rank in wanted]
    window.switch_to.active_element.send_keys(Keys.ENTER)
    assert llr.get_attribute("aria-sort") == "descending"
    wanted = ranked.sort_values("llr_calibrated.mini", ascending=False, kind="stable")["rank"].head(report.PAGE_ROWS)
    assert [row[0] for row in rows(window)] == [f"{rank:,}" for rank in wanted], "missing values must stay last"


def test_search_and_filters_leave_the_rows_that_match(window, ranked, until):
    search = window.find_element("id", "search")
    search.send_keys("gene69 MISSENSE")
    matches = ranked[ranked["gene"].str.contains("gene69", case=False) & (ranked["consequence"] == "missense_variant")]
    shown = window.find_element("id", "shown")
    until(lambda: f"of {len(matches):,} that match" in shown.text, "the search")
    assert [row[0] for row in rows(window)] == [f"{rank:,}" for rank in matches["rank"].head(report.PAGE_ROWS)]

    search.clear()
    search.send_keys(f"{ranked['chrom'][77]}:{ranked['pos'][77]:,}")
    until(lambda: "78" in [row[0] for row in rows(window)] and len(rows(window)) < 20, "a position")
    search.clear()
    search.send_keys("nothing like this")
    until(lambda: "None of 50,000" in shown.text, "the empty search")
    assert rows(window) == [["No allele matches."]]
    search.clear()
    window.find_element("css selector", "#status option[value='skipped']").click()
    until(lambda: len(rows(window)) == 20, "the filter")
    assert {row[-1] for row in rows(window)} == {"skipped REF is not what the reference has there"}


def test_rows_drawn_by_the_script_equal_those_in_the_file(chromium, window, page):
    without = chromium(scripts=False)
    without.get(page.as_uri())
    assert not without.find_element("id", "controls").is_displayed()
    html5lib = pytest.importorskip("html5lib")
    tree = html5lib.parse(page.read_text(encoding="utf-8"), namespaceHTMLElements=False)
    table = next(t for t in tree.iter("table") if t.get("id") == "ranked")
    static = [[" ".join("".join(cell.itertext()).split()) for cell in row] for row in table.find("tbody")]
    assert len(static) == report.PAGE_ROWS and rows(window) == static


def test_document_holds_one_page_and_turns_it(window):
    assert window.execute_script("return document.querySelectorAll('#ranked tbody tr').length") == report.PAGE_ROWS
    window.find_element("id", "next").click()
    assert rows(window)[0][0] == str(report.PAGE_ROWS + 1)
    assert window.execute_script("return document.querySelectorAll('tr').length") < 2 * report.PAGE_ROWS


def test_variant_opens_its_evidence(window, ranked):
    button = window.find_element("css selector", "#ranked tbody tr th button")
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    text = window.find_element("css selector", "tr.evidence").text
    assert report.figure(ranked["llr.mini"][0]) in text and ranked["alt"][0] in text
    button.click()
    assert not window.find_elements("css selector", "tr.evidence")


def test_download_holds_the_rows_that_match(window, ranked, until):
    window.find_element("css selector", "#status option[value='skipped']").click()
    until(lambda: len(rows(window)) == 20, "the filter")
    window.find_element("id", "download").click()
    target = window.downloads / "ranked-shown.tsv"
    until(target.exists, "the download")
    table = pd.read_csv(target, sep="\t", keep_default_na=False)
    assert list(table.columns) == list(ranked.columns)
    assert table["variant_id"].tolist() == ranked["variant_id"].tail(20).tolist()
    assert set(table["score"]) == {""}


def test_nothing_is_requested_and_nothing_hostile_runs(window, until, requested):
    header(window, "gene").find_element("tag name", "button").click()
    window.find_element("id", "search").send_keys("onerror")
    until(lambda: len(rows(window)) == 1, "the hostile name")
    assert rows(window)[0][2] == HOSTILE and window.title != "owned"
    assert not window.find_elements("tag name", "img")
    addresses = requested(window)
    assert any(address.startswith("file:") for address in addresses), "the log must have seen the page itself"
    assert [address for address in addresses if not address.startswith(("file:", "data:", "blob:"))] == []
    assert [entry for entry in window.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("width", [390, 1280])
def test_page_never_scrolls_sideways(window, width):
    screen = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 800}
    window.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    assert window.execute_script("return document.documentElement.scrollWidth") <= width
