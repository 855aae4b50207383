"""Residue panels and the saturation page in a real browser: they draw, offline, by keyboard, and nothing hostile runs.

WebGL is drawn by the processor (SwiftShader).
"""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from protein_run import HOSTILE, MODELS, STRUCTURE_MODELS, ProteinRun

from seqprior import panels, report, saturation
from seqprior.residues import AMINO_ACIDS, INDEX_OF

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
SOFTWARE_WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> ProteinRun:
    return ProteinRun(tmp_path_factory.mktemp("run"), changes=60)


@pytest.fixture(scope="module")
def page(run, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("report") / "report.html"
    made, sources = panels.panels_of_run(run.ranked, 50, **run.files)
    total = int(run.ranked["input_count"].sum())
    report.write_report(
        run={"cohort": "browser", "config": {}, "models": [{"id": "mini"}]},
        ranked=run.ranked,
        variants_summary={"input_alleles": total, "unique_alleles": len(run.ranked), "by_status_reason": []},
        highlights=None,
        calibration={},
        output=output,
        template_dir=ROOT / "report",
        top=500,
        panels=made,
        structure_sources=sources,
    )
    return output


@pytest.fixture(scope="module")
def maps(run, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("saturation") / "saturation.html"
    saturation.write_page(panels.read_evidence(**run.files), output, ROOT / "report", "browser")
    return output


@pytest.fixture(scope="module")
def browser(chromium):
    return chromium(*SOFTWARE_WEBGL)


@pytest.fixture
def window(browser, page):
    browser.get("about:blank")
    browser.get(page.as_uri())
    return browser


def buttons(window) -> list:
    return window.find_elements("css selector", "#ranked tbody tr:not(.evidence) th button")


def picture(window, selector: str = ".stage canvas") -> np.ndarray:
    """What a canvas or image shows now, uint8 (height, width, 4)."""
    found = window.execute_script(
        """
        const shown = document.querySelector(arguments[0]), flat = document.createElement("canvas");
        flat.width = shown.naturalWidth || shown.width;
        flat.height = shown.naturalHeight || shown.height;
        const draw = flat.getContext("2d");
        draw.drawImage(shown, 0, 0);
        const bytes = draw.getImageData(0, 0, flat.width, flat.height).data;
        let text = "";
        for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192));
        return [flat.height, flat.width, btoa(text)];
        """,
        selector,
    )
    height, width, text = found
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)


def drawn(window) -> bool:
    found = window.execute_script("return document.querySelectorAll('.stage canvas').length")
    return bool(found) and picture(window)[..., 3].any()


def heat_of(window, scope: str) -> dict[tuple[int, int], int]:
    """Colour (-9 to 9, or None for no score) by column and row of the first heat map in `scope`, from its paths."""
    paths = window.execute_script(
        "return [...document.querySelector(arguments[0] + ' .residues').querySelectorAll('.heat')]"
        ".map(p => [p.classList[1], p.getAttribute('d')])",
        scope,
    )
    cells = {}
    for name, path in paths:
        colour = name.removeprefix("heat-")
        for cell in path.split("M")[1:]:
            x, y = (float(number) for number in cell.split("h")[0].split())
            cells[x, y] = None if colour == "none" else int(colour)
    columns, rows = (sorted({key[axis] for key in cells}) for axis in (0, 1))
    return {(columns.index(x), rows.index(y)): colour for (x, y), colour in cells.items()}


ORDER = "GPAVILMCFYWHKRDENQST"


def colour(value: float, limit: float) -> float:
    return max(-9.0, min(9.0, value / limit * 9))


def assert_colours(cells, sequence: str, value, limit: float) -> None:
    """Each cell has the colour of its value; `value` is of the column and the letter."""
    assert len(cells) == len(sequence) * 20
    for (column, row), found in cells.items():
        wanted = 0 if ORDER[row] == sequence[column] else colour(value(column, ORDER[row]), limit)
        assert abs(found - wanted) <= 0.52, (column, ORDER[row])


def test_panel_opens_and_its_figures_are_those_of_the_tables(window, run):
    row = run.ranked.iloc[0]
    buttons(window)[0].click()
    panel = window.find_element("css selector", ".panel")
    assert row["protein_hgvs_p"] in panel.text and f"residue {row['residue']} of 48" in panel.text
    assert window.title != "owned" and HOSTILE in panel.text
    sequence, start = run.sequences[row["protein"]], int(row["residue"]) - 1
    low, high = max(0, start - 15), min(len(sequence), start + 16)
    letters = [e.text for e in panel.find_elements("css selector", ".neighbourhood .letter")]
    assert "".join(letters) == sequence[low:high]
    assert panel.find_element("css selector", ".neighbourhood .changed").text == row["residue_ref"]

    logp = run.logp[MODELS[0]][row["protein"]]
    llr = np.array([logp[p] - logp[p, INDEX_OF[sequence[p]]] for p in range(low, high)])
    sizes = np.sort(np.abs(np.rint(llr * 100)).ravel())
    limit = max(3, int(np.ceil(sizes[int(0.95 * sizes.size)] / 100)))
    assert f"−{limit} and less" in panel.text
    assert_colours(heat_of(window, ".panel"), sequence[low:high], lambda c, a: llr[c, AMINO_ACIDS.index(a)], limit)

    charts = panel.find_elements("css selector", ".profiles figure")
    assert len(charts) == len(MODELS) + len(STRUCTURE_MODELS)
    for chart, model in zip(charts, (*MODELS, *STRUCTURE_MODELS), strict=True):
        share = np.exp(run.logp[model][row["protein"]][start])
        heights = [float(bar.get_attribute("height")) for bar in chart.find_elements("css selector", ".bar")]
        assert np.array(heights) == pytest.approx([max(0.6, 56 * share[INDEX_OF[a]]) for a in ORDER], abs=0.4)
        assert chart.find_element("css selector", "text.alt").text == row["residue_alt"]
        assert model in chart.text and f"p({row['residue_ref']}) = " in chart.text


def test_choice_of_another_model_redraws_the_heat(window, run):
    buttons(window)[0].click()
    before = heat_of(window, ".panel")
    window.find_element("css selector", ".neighbourhood select option:nth-child(2)").click()
    assert heat_of(window, ".panel") != before


def test_structure_is_drawn_in_the_colours_of_confidence(window, until):
    from selenium.webdriver.common.keys import Keys

    buttons(window)[0].click()
    until(lambda: drawn(window), "the structure")
    window.find_element("xpath", "//button[text()='Whole protein']").click()
    time.sleep(0.3)
    stage = window.find_element("css selector", ".stage")
    parts = []
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ARROW_RIGHT):  # from one side alone, some of it is hidden
        stage.send_keys(key * 6)
        time.sleep(0.3)
        image = picture(window)
        assert (image[..., 3] > 200).sum() > 2000, "the canvas is blank"
        parts.append(image[image[..., 3] > 200][:, :3].astype(int))
    units = np.concatenate(parts)
    units = units / np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1)

    def seen(rgb: tuple[int, int, int], closeness: float) -> int:
        """Pixels of one hue, however bright."""
        return int((units @ (np.array(rgb) / np.linalg.norm(rgb)) > closeness).sum())

    for hue in ((0, 83, 214), (101, 203, 243), (255, 219, 19), (255, 125, 69)):
        assert seen(hue, 0.985) > 50, hue
    assert seen((212, 18, 126), 0.97) > 20, "the changed residue"


def test_structure_turns_by_keyboard_and_takes_the_wheel_only_with_focus(window, until):
    from selenium.webdriver.common.keys import Keys

    buttons(window)[0].click()
    until(lambda: drawn(window), "the structure")
    stage = window.find_element("css selector", ".stage")
    before = picture(window)
    wheel = (
        "arguments[0].querySelector('canvas').dispatchEvent("
        "new WheelEvent('wheel', {deltaY: 300, bubbles: true, cancelable: true}))"
    )
    window.execute_script("document.activeElement.blur();" + wheel, stage)
    time.sleep(0.2)
    assert (picture(window) == before).all()
    window.execute_script("arguments[0].focus()", stage)
    stage.send_keys(Keys.ARROW_RIGHT)
    until(lambda: (picture(window) != before).any(), "a turn")
    turned = picture(window)
    window.execute_script(wheel, stage)
    until(lambda: (picture(window) != turned).any(), "the wheel")
    stage.send_keys("+")


def test_second_structure_leaves_a_still_picture_of_the_first(window, until):
    for button in buttons(window)[:3]:
        button.click()
        time.sleep(0.4)
    until(lambda: drawn(window), "the structure")
    until(lambda: len(window.find_elements("css selector", ".view img")) == 2, "still pictures")
    assert len(window.find_elements("css selector", "canvas")) == 1
    still = picture(window, ".view img")
    assert (still[..., 3] > 200).sum() > 500
    window.find_element("xpath", "//button[text()='Turn it']").click()
    until(lambda: bool(window.find_elements("css selector", ".panel .stage")), "the first again")
    panel = window.find_elements("css selector", ".panel")[0]
    assert panel.find_elements("css selector", ".stage canvas")
    buttons(window)[0].click()  # closes the panel that holds the viewer
    buttons(window)[0].click()
    until(lambda: drawn(window), "the viewer after its panel was closed")


def test_panel_without_a_structure_says_why(window):
    buttons(window)[3].click()
    panel = window.find_element("css selector", ".panel")
    assert "no structure was found for the protein" in panel.text
    assert not panel.find_elements("css selector", ".view")


def test_address_of_an_allele_opens_it(browser, page, run, until):
    browser.get("about:blank")
    last = run.ranked.iloc[49]
    browser.get(page.as_uri() + "#" + last["variant_id"])
    until(lambda: len(browser.find_elements("css selector", ".panel")) == 1, "the panel")
    assert last["protein_hgvs_p"] in browser.find_element("css selector", ".panel h3").text
    beyond = run.ranked.iloc[52]
    browser.execute_script("location.hash = arguments[0]", "#" + beyond["variant_id"])
    until(lambda: "Page 2" in browser.find_element("id", "page").text, "the page of the allele")
    assert browser.switch_to.active_element.get_attribute("aria-expanded") == "true"
    browser.execute_script("location.hash = '#%E0%nothing'")
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


def test_cells_are_read_by_pointer_and_by_keyboard(window, run):
    from selenium.webdriver.common.keys import Keys

    buttons(window)[0].click()
    row = run.ranked.iloc[0]
    drawing = window.find_element("css selector", ".neighbourhood .residues")
    window.execute_script("arguments[0].focus()", drawing)
    drawing.send_keys(Keys.ARROW_DOWN)
    said = window.find_element("css selector", ".neighbourhood .said")
    assert said.text.startswith(f"{row['residue_ref']}{row['residue']}: ") and "pLDDT" in said.text
    drawing.send_keys(Keys.ARROW_DOWN)
    if row["residue_ref"] == "G":
        assert "residue of the reference" in said.text
    else:
        logp = run.logp[MODELS[0]][row["protein"]][int(row["residue"]) - 1]
        llr = round(float(logp[INDEX_OF["G"]] - logp[INDEX_OF[row["residue_ref"]]]), 2)
        assert said.text == f"{row['residue_ref']}{row['residue']}G: LLR {report.figure(llr)}"
    label = drawing.get_attribute("aria-label")
    assert drawing.get_attribute("role") == "img" and f"{row['residue_ref']}{row['residue']}" in label


def test_panels_are_built_when_opened_and_the_page_is_quick(window):
    assert not window.find_elements("css selector", ".panel, .stage")
    timing = window.execute_script(
        "const t = performance.getEntriesByType('navigation')[0]; return t.domContentLoadedEventEnd - t.startTime"
    )
    assert timing < 5000
    took = window.execute_script(
        "const all = [...document.querySelectorAll('#ranked tbody tr:not(.evidence) th button')].slice(0, 10);"
        "const from = performance.now(); all.forEach(b => b.click()); return performance.now() - from"
    )
    assert took < 5000
    assert len(window.find_elements("css selector", ".panel")) == 10


def test_nothing_is_requested_and_nothing_fails(browser, page, maps, until):
    browser.get_log("performance"), browser.get_log("browser")
    browser.get("about:blank")
    browser.get(page.as_uri())
    buttons(browser)[0].click()
    until(lambda: drawn(browser), "the structure")
    browser.get(maps.as_uri())
    until(lambda: bool(browser.find_elements("css selector", ".residues")), "a heat map")
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert any(address.startswith("file:") for address in sent), "the log must have seen the page itself"
    assert [a for a in sent if not a.startswith(("file:", "data:", "blob:", "about:", "chrome:"))] == []
    assert not [m for m in messages if m["method"] == "Network.webSocketCreated"]
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert browser.title != "owned"


@pytest.mark.parametrize("width", [390, 1280])
def test_pages_with_proteins_never_scroll_sideways(browser, page, maps, width):
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 800}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        browser.get("about:blank")
        browser.get(page.as_uri())
        buttons(browser)[0].click()
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        panel = browser.find_element("css selector", ".panel").rect
        assert panel["x"] >= 0 and panel["x"] + panel["width"] <= width
        browser.get(maps.as_uri())
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_browser_without_webgl_gets_words(chromium, page, run, until):
    window = chromium("--disable-3d-apis")
    window.get(page.as_uri())
    buttons(window)[0].click()
    until(lambda: "draws no 3D" in window.find_element("css selector", ".view").text, "the fallback")
    panel = window.find_element("css selector", ".panel")
    assert "within 5 Å:" in panel.text and panel.find_elements("css selector", ".profile")
    assert [entry for entry in window.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_saturation_draws_z_and_llr_of_every_model(browser, maps, run, until):
    browser.get(maps.as_uri())
    until(lambda: bool(browser.find_elements("css selector", "#protein-1 .residues")), "a heat map")
    protein, sequence = next(iter(run.sequences.items()))
    values = {m: run.logp[m][protein] for m in (*MODELS, *STRUCTURE_MODELS)}
    llrs = {m: np.array([v[p] - v[p, INDEX_OF[a]] for p, a in enumerate(sequence)]) for m, v in values.items()}
    own = np.array([[letter != other for other in AMINO_ACIDS] for letter in sequence])

    def value(model, byz):
        llr = llrs[model]
        z = (llr[own].mean() - llr) / llr[own].std()
        return lambda column, letter: (-z if byz else llr)[column, AMINO_ACIDS.index(letter)]

    selects = browser.find_elements("css selector", "#protein-1 select")
    for number, model in enumerate(values):
        selects[0].find_elements("tag name", "option")[number].click()
        selects[1].find_elements("tag name", "option")[0].click()
        until(lambda: bool(browser.find_elements("css selector", "#protein-1 .residues")), "the heat map of z")
        assert_colours(heat_of(browser, "#protein-1"), sequence, value(model, True), 3)
    selects[1].find_elements("tag name", "option")[1].click()
    until(lambda: "LLR −" in browser.find_element("css selector", "#protein-1 .key").text, "the key of LLR")
    until(lambda: bool(browser.find_elements("css selector", "#protein-1 .residues")), "the heat map of LLR")
    sizes = np.sort(np.abs(np.rint(llrs[model] * 100)).ravel())
    limit = max(3, int(np.ceil(sizes[int(0.95 * sizes.size)] / 100)))
    assert f"LLR −{limit} and less" in browser.find_element("css selector", "#protein-1 .key").text
    assert_colours(heat_of(browser, "#protein-1"), sequence, value(model, False), limit)
    second = browser.find_elements("css selector", "#protein-2 select")[0]
    assert len(second.find_elements("tag name", "option")) == len(MODELS)


def test_saturation_downloads_what_it_draws(browser, maps, run, until):
    browser.get(maps.as_uri())
    browser.find_element("xpath", "//section[@id='protein-2']//button").click()
    target = browser.downloads / "saturation-GENE2.tsv"
    until(target.exists, "the download")
    table = pd.read_csv(target, sep="\t", keep_default_na=False)
    protein, sequence = list(run.sequences.items())[1]
    assert len(table) == 19 * len(sequence) and set(table["gene"]) == {"GENE2"}
    for model in MODELS:
        logp = run.logp[model][protein]
        wanted = [
            logp[r - 1, INDEX_OF[a]] - logp[r - 1, INDEX_OF[f]]
            for r, f, a in zip(table["residue"], table["ref"], table["alt"], strict=True)
        ]
        assert table[f"protein_llr.{model}"].to_numpy() == pytest.approx(np.array(wanted), abs=0.0052)


def test_long_protein_is_drawn_as_it_comes_near(chromium, browser, tmp_path, until):
    from seqprior.profiles import Profile

    random = np.random.default_rng(9)
    sequence = "".join(random.choice(list(AMINO_ACIDS), 3000))
    profile = Profile(sequence, random.normal(0, 2, (3000, 20)).astype(np.float32), np.full((3000, 20), np.nan), "m")
    columns = ["protein", "sequence", "transcripts", "genes", "accessions"]
    evidence = panels.Evidence(pd.DataFrame([("p", sequence, "T", "G", "")], columns=columns), {"a": {"p": profile}})
    saturation.write_page(evidence, tmp_path / "long.html", ROOT / "report")
    browser.get((tmp_path / "long.html").as_uri())
    until(lambda: bool(browser.find_elements("css selector", ".residues")), "a heat map")
    lines = browser.execute_script("return document.querySelectorAll('.line').length")
    assert lines >= 30 and len(browser.find_elements("css selector", ".residues")) < 12
    browser.execute_script("document.querySelector('.line:last-child').scrollIntoView()")
    until(lambda: bool(browser.find_elements("css selector", ".line:last-child .residues")), "the last line")
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert len(browser.find_elements("css selector", ".residues")) == lines
