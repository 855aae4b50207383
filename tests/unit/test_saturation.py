"""Saturation: the table has every substitution once, and the page carries the same numbers and nothing that runs."""

from __future__ import annotations

import base64
import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from protein_run import HOSTILE, MODELS, STRUCTURE_MODELS, ProteinRun

from seqprior import saturation
from seqprior.errors import BadInput
from seqprior.panels import Evidence, read_evidence
from seqprior.profiles import Profile
from seqprior.residues import AMINO_ACIDS, HYDROPHOBICITY, INDEX_OF, blosum62

html5lib = pytest.importorskip("html5lib")

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "report"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> ProteinRun:
    return ProteinRun(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def evidence(run) -> Evidence:
    return read_evidence(**run.files)


@pytest.fixture(scope="module")
def table(evidence, tmp_path_factory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("table") / "saturation.tsv"
    written = saturation.write_table(evidence, path)
    table = pd.read_csv(path, sep="\t", keep_default_na=False, quoting=csv.QUOTE_MINIMAL)
    assert len(table) == written
    return table


@pytest.fixture(scope="module")
def html(evidence, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "saturation.html"
    saturation.write_page(evidence, path, TEMPLATES, HOSTILE)
    return path.read_text(encoding="utf-8")


def number(cell: object) -> float:
    return math.nan if cell == "" else float(cell)


def test_table_has_every_substitution_once_in_order(run, table):
    wanted = [
        (protein, place + 1, ref, alt)
        for protein, sequence in run.sequences.items()
        for place, ref in enumerate(sequence)
        for alt in AMINO_ACIDS
        if alt != ref
    ]
    assert list(zip(table["protein"], table["residue"], table["ref"], table["alt"], strict=True)) == wanted
    assert set(table["gene"]) == {HOSTILE, "GENE2"} and set(table["transcript"]) == {"T1,T2", "T3"}


def test_scores_of_the_table_equal_a_loop_over_what_the_models_wrote(run, table):
    llrs: dict[tuple[str, str], list[float]] = {}
    for row in table.to_dict("records"):
        for model in (*MODELS, *STRUCTURE_MODELS):
            kind = "structure" if model in STRUCTURE_MODELS else "protein"
            logp = run.logp[model].get(row["protein"])
            if logp is None:
                assert row[f"{kind}_llr.{model}"] == row[f"{kind}_z.{model}"] == row[f"{kind}_method.{model}"] == ""
                continue
            place = row["residue"] - 1
            llr = logp[place, INDEX_OF[row["alt"]]] - logp[place, INDEX_OF[row["ref"]]]
            assert number(row[f"{kind}_llr.{model}"]) == pytest.approx(llr, abs=6e-4)  # five significant digits
            llrs.setdefault((model, row["protein"]), []).append(llr)
    for (model, protein), values in llrs.items():
        own = table[table["protein"] == protein]
        column = f"{'structure' if model in STRUCTURE_MODELS else 'protein'}_z.{model}"
        z = (np.mean(values) - np.array(values)) / np.std(values)
        assert own[column].map(number).to_numpy() == pytest.approx(z, abs=2e-3)


def test_substitutions_and_features_of_the_table_are_those_of_their_residue(run, table):
    features = run.residues.set_index(["protein", "residue"])
    for row in table.iloc[::37].to_dict("records"):
        assert float(row["blosum62"]) == blosum62()[INDEX_OF[row["ref"]], INDEX_OF[row["alt"]]]
        change = HYDROPHOBICITY[row["alt"]] - HYDROPHOBICITY[row["ref"]]
        assert float(row["hydrophobicity_change"]) == pytest.approx(change, abs=0.051)
        key = (row["protein"], row["residue"] - 1)
        if key in features.index:
            assert float(row["plddt"]) == pytest.approx(features.at[key, "plddt"], rel=1e-4)
            assert row["secondary_structure"] == features.at[key, "secondary_structure"]
            assert float(row["contact_number"]) == features.at[key, "contact_number"] and row["site_distance"] == ""
        else:
            assert row["plddt"] == row["secondary_structure"] == row["contact_number"] == ""


@pytest.mark.parametrize(
    ("residue", "ref", "alt", "name"),
    [
        (175, "R", "H", "p.Arg175His"),
        (1, "M", "V", "p.Met1?"),
        (1, "A", "V", "p.Ala1Val"),
        (2, "M", "V", "p.Met2Val"),
        (46, "U", "C", "p.Sec46Cys"),
        (9, "X", "C", "p.Xaa9Cys"),
    ],
)
def test_names_follow_hgvs(residue, ref, alt, name):
    assert saturation.hgvs(residue, ref, alt) == name


def one_protein(sequence: str, whole: np.ndarray) -> Evidence:
    table = pd.DataFrame(
        [("p", sequence, "T", "G", "")], columns=["protein", "sequence", "transcripts", "genes", "accessions"]
    )
    profile = Profile(sequence, whole.astype(np.float32), np.full_like(whole, np.nan, dtype=np.float32), "m")
    return Evidence(table, {"a": {"p": profile}})


def test_residue_that_is_none_of_the_20_has_all_alternatives_without_a_score(tmp_path):
    evidence = one_protein("MUK", np.random.default_rng(2).normal(size=(3, 20)))
    assert saturation.write_table(evidence, tmp_path / "t.tsv") == 19 + 20 + 19
    rows = pd.read_csv(tmp_path / "t.tsv", sep="\t", keep_default_na=False)
    own = rows[rows["ref"] == "U"]
    assert own["alt"].tolist() == list(AMINO_ACIDS) and set(own["protein_llr.a"]) == {""}
    assert set(own["blosum62"]) == {""} and "plddt" not in rows


def test_run_without_a_protein_is_bad_input(evidence, tmp_path):
    empty = Evidence(evidence.proteins.head(0))
    with pytest.raises(BadInput, match="no protein to write; name genes or transcripts in protein.saturation"):
        saturation.write_table(empty, tmp_path / "t.tsv")
    with pytest.raises(BadInput, match="no protein to draw"):
        saturation.write_page(empty, tmp_path / "t.html", TEMPLATES)
    assert list(tmp_path.iterdir()) == []


def island(html: str) -> dict:
    tree = html5lib.parse(html, namespaceHTMLElements=False)
    return json.loads(next(s for s in tree.iter("script") if s.get("id") == "saturation").text)


def test_page_carries_the_numbers_of_the_table(html, table):
    data = island(html)
    place = {letter: i for i, letter in enumerate(data["letters"])}
    for protein in data["proteins"]:
        own = table[table["protein"] == protein["protein"]]
        for model in protein["models"]:
            packed = np.frombuffer(base64.b64decode(model["llr"]), "<i2").reshape(-1, 20)
            assert len(packed) == len(protein["sequence"])
            column = f"{model['kind']}_%s.{model['model']}"
            drawn = np.array([packed[r - 1, place[a]] for r, a in zip(own["residue"], own["alt"], strict=True)])
            llr = drawn / data["scale"]
            assert llr == pytest.approx(own[column % "llr"].map(number).to_numpy(), abs=0.0052)
            z = (model["mean"] - llr) / model["sd"]
            assert z == pytest.approx(own[column % "z"].map(number).to_numpy(), abs=0.01)


def test_missing_scores_are_told_from_zero():
    values = np.zeros((1, 20), np.float32)
    values[0, 3] = np.nan
    values[0, 4] = -1000
    packed = np.frombuffer(base64.b64decode(saturation.packed(values)), "<i2")
    assert packed[3] == saturation.NO_SCORE and packed[0] == 0 and saturation.NO_SCORE < packed[4] < -30000


def test_page_is_inert_valid_and_asks_for_nothing(html):
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(html)
    assert len(list(tree.iter("script"))) == 2
    assert HOSTILE in "".join(next(tree.iter("h1")).itertext())
    for element in tree.iter():
        assert not [name for name in element.attrib if name in ("src", "srcset", "action") or name.startswith("on")]
        if element.get("href"):
            assert element.get("href").startswith(("#", "data:,"))
    policy = next(m.get("content") for m in tree.iter("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
    assets = "".join((TEMPLATES / name).read_text() for name in (*saturation.STYLES, *saturation.SCRIPTS))
    assets = assets.replace("http://www.w3.org/2000/svg", "")  # a name, which is not fetched
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|WebSocket|import\(|https?:", assets)


def test_page_names_every_protein_with_a_link(html):
    tree = html5lib.parse(html, namespaceHTMLElements=False)
    identifiers = [element.get("id") for element in tree.iter() if element.get("id")]
    assert len(identifiers) == len(set(identifiers)) and {"protein-1", "protein-2"} <= set(identifiers)
    for element in tree.iter("a"):
        assert element.get("href")[1:] in identifiers


def test_long_protein_is_quick_and_small(tmp_path):
    import time

    random = np.random.default_rng(4)
    sequence = "".join(random.choice(list(AMINO_ACIDS), 5000))
    evidence = one_protein(sequence, random.normal(size=(5000, 20)))
    started = time.monotonic()
    saturation.write_page(evidence, tmp_path / "t.html", TEMPLATES)
    assert saturation.write_table(evidence, tmp_path / "t.tsv") == 5000 * 19
    assert time.monotonic() - started < 20
    assert (tmp_path / "t.html").stat().st_size < 600_000


def command(run: ProteinRun, folder: Path, **changed: object) -> subprocess.CompletedProcess:
    arguments = (
        run.files | {"template_dir": TEMPLATES, "table": folder / "t.tsv", "output": folder / "t.html"} | changed
    )
    flat = [sys.executable, str(ROOT / "scripts" / "write_saturation.py"), "--cohort", "c"]
    for name, value in arguments.items():
        flat += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return subprocess.run(flat, capture_output=True, text=True, check=False)


def test_command_line_writes_both_files(run, tmp_path):
    done = command(run, tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.html", "t.tsv"]
    total = 19 * sum(map(len, run.sequences.values()))
    assert f"{total} substitutions of 2 proteins" in done.stderr
    assert len((tmp_path / "t.tsv").read_text().splitlines()) == total + 1


def test_missing_shard_is_bad_input(run, tmp_path):
    done = command(run, tmp_path, profiles=run.files["profiles"][:3])
    assert done.returncode == 2 and "3 tables of 2 models" in done.stderr and "Traceback" not in done.stderr
    done = command(run, tmp_path, proteins=tmp_path / "gone.parquet")
    assert done.returncode == 2 and "gone.parquet: no such file" in done.stderr
