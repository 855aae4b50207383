"""Pages of regulatory elements and of saturated regions in a real browser: drawn, offline, and nothing hostile runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from region_run import TEMPLATES, Scored

from seqprior.columns import DEPENDENCIES, ELEMENT_METRICS, MOTIFS, SITES
from seqprior.regulatory_page import ElementFiles, write_page

pytestmark = pytest.mark.browser

HOSTILE = "<img src=http://example.org/x onerror=document.title='owned'>"
HEADS = ("linear", "sequence", "selected")
COUNTS = {
    "split": "contigs",
    "intervals": {"positive": 50, "negative": 48},
    "drawn": {"wanted": 50, "found": 48, "missing": 2},
}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("regulatory")
    random = np.random.default_rng(1)
    (folder / "head").mkdir()
    (folder / "head" / "head.json").write_text(
        json.dumps({"kind": "sequence", "window": 200, "prevalence": 0.5, "finding": HOSTILE})
    )
    (folder / "counts.json").write_text(json.dumps(COUNTS))
    rows = [
        ("Reb1", head, "head", metric, 0.9, 0.8, 0.95, 100, 50)
        for head in HEADS
        for metric in ("auroc", "auprc", "brier", "ece")
    ]
    pd.DataFrame(rows, columns=list(ELEMENT_METRICS)).to_csv(folder / "metrics.tsv", sep="\t", index=False)
    steps = np.linspace(0, 1, 20)
    curves = {
        kind: np.stack([steps, np.sqrt(steps)], 1).tolist() for kind in ("roc", "precision_recall", "reliability")
    }
    (folder / "curves.json").write_text(json.dumps(dict.fromkeys(HEADS, curves)))
    matrix = random.dirichlet(np.full(4, 0.3), 9)
    motif = ("Reb1", HOSTILE, 40, "TTACCCG", matrix.ravel().tolist(), "MA1", HOSTILE, 1e-9, 1e-7, 0, "+")
    pd.DataFrame([motif], columns=list(MOTIFS)).to_parquet(folder / "motifs.parquet")
    (folder / "elements.bed").write_text("chrI\t100\t300\tReb1\t990\t.\t150\t151\t0\t0.99\n")
    site = ("chrI", 120, 129, "+", "mutagenesis", "Reb1", 5.0, 0.01, 0.02, "MA1", HOSTILE, 1e-4, 1e-3)
    pd.DataFrame([site], columns=list(SITES)).to_csv(folder / "sites.tsv", sep="\t", index=False)
    (folder / "scan.json").write_text(json.dumps({"bases": 5000}))
    pairs = [(HOSTILE, "chrI", i, j, float(abs(i - j) < 3)) for i in range(50, 90) for j in range(50, 90) if i != j]
    pd.DataFrame(pairs, columns=list(DEPENDENCIES)).to_parquet(folder / "dependencies.parquet")
    files = ("counts.json", "metrics.tsv", "curves.json", "motifs.parquet")
    counts, metrics, drawn, motifs = (folder / name for name in files)
    write_page(
        folder / "regulatory.html",
        TEMPLATES,
        cohort=HOSTILE,
        model="mini",
        elements=[ElementFiles("Reb1", counts, folder / "head", metrics, drawn, motifs)],
        calls=folder / "elements.bed",
        sites=folder / "sites.tsv",
        stats=[folder / "scan.json"],
        dependencies=folder / "dependencies.parquet",
        fdr=0.05,
        folder=folder,
    )
    return folder / "regulatory.html"


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> Path:
    made = Scored(tmp_path_factory.mktemp("saturated"))
    done = made.command()
    assert done.returncode == 0, done.stderr
    return made.folder / "page.html"


@pytest.fixture(scope="module")
def browser(chromium):
    return chromium()


def opened(browser, path: Path):
    browser.get("about:blank")
    browser.get(path.as_uri())
    return browser


def test_figures_logos_and_maps_are_drawn(browser, page):
    window = opened(browser, page)
    assert len(window.find_elements("css selector", "svg.curve")) == 3
    for line in window.find_elements("css selector", "svg.curve .line"):
        assert line.value_of_css_property("stroke") != "none" and line.rect["width"] > 50
    assert len(window.find_elements("css selector", "svg.curve .line")) == 3 * len(HEADS)
    letters = window.find_elements("css selector", ".logo svg path[transform]")
    assert len(letters) >= 9 and max(letter.rect["height"] for letter in letters) > 10
    natural = "const i = document.querySelector('.map img'); return [i.complete, i.naturalWidth, i.naturalHeight]"
    assert window.execute_script(natural) == [True, 40, 40]
    assert "2 of 50 wanted negatives could not be drawn" in window.find_element("css selector", "main").text


def test_figures_have_words_for_those_who_cannot_see_them(browser, page):
    window = opened(browser, page)
    pictures = window.find_elements("css selector", "svg[role=img], img")
    assert len(pictures) == 5
    assert all(each.get_attribute("aria-label") or each.get_attribute("alt") for each in pictures)
    tables = window.find_elements("css selector", "main table")
    assert tables and all(table.find_elements("css selector", "caption") for table in tables)


def test_heat_maps_of_regions_are_drawn_and_read_by_keyboard(browser, maps, until):
    from selenium.webdriver import ActionChains, Keys

    window = opened(browser, maps)
    until(lambda: bool(window.find_elements("css selector", ".saturated svg .heat")), "a heat map")
    figure = window.find_element("css selector", ".saturated svg[tabindex='0']")
    assert figure.rect["width"] > 100
    read = figure.find_element("xpath", "../following-sibling::*[@role='status']")
    said = []
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN):
        window.execute_script("arguments[0].focus()", figure)
        ActionChains(window).send_keys(key).perform()
        said.append(read.text)
    assert said[0].startswith("chrI:61 C: worst case") and said[1].startswith("chrI:62 G: worst case")
    assert said[2].startswith("chrI:62 G>A:")


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_of_regions_never_scroll_sideways(browser, page, maps, width):
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        for path in (page, maps):
            opened(browser, path)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_pages_request_nothing_and_nothing_hostile_runs(browser, page, maps, requested):
    requested(browser), browser.get_log("browser")
    for path in (page, maps):
        opened(browser, path)
        sent = requested(browser)
        assert path.as_uri() in sent, "the log must have seen the page itself"
        assert [a for a in sent if not a.startswith(("file:", "data:", "blob:", "about:"))] == []
        assert browser.title != "owned"
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
