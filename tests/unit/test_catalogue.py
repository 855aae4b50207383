"""The listing of a registry says what is there, and prints what it writes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from seqprior.catalogue import (
    COLUMNS,
    aligned,
    as_tsv,
    catalogue,
    locked_words,
    model_table,
    path_root,
    short_count,
)
from seqprior.configuration import with_table
from seqprior.errors import BAD_INPUT, BadInput
from seqprior.fetching import Locked
from seqprior.models import read_registry

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "list_models.py"
SHIPPED = REPOSITORY / "config" / "models.yaml"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

COMMON = {
    "name": "A model",
    "objective": "masked",
    "tokenisation": "single-base",
    "window": 511,
    "embedding_window": 101,
    "parameters": 1234567,
    "species": "Oryza sativa",
    "licence": "MIT",
    "citation": "Nobody 2025",
    "description": "A model for tests.",
    "limits": "For tests only.",
    "tokens": {"mask": "[MASK]"},
}
ENTRIES = {
    "fetched": {
        "family": "bert",
        "hub": "owner/fetched",
        "tokenisation": "kmer",
        "k": 3,
        "window": 510,
        "embedding_window": 102,
    },
    "absent": {"family": "esm", "hub": "owner/absent", "revision": "v2"},
    "local": {"family": "bert", "path": "checkpoints/local"},
    "gone": {"family": "bert", "path": "checkpoints/gone"},
    "foreign": {"family": "remote-code", "objective": "causal", "hub": "owner/foreign", "licence": "not stated"},
}

BEGIN, END = "<!-- models -->", "<!-- /models -->"


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A working folder with a registry of five models, one of them fetched, one a folder, and a lock of two."""
    monkeypatch.chdir(tmp_path)
    registry = {"models": {name: COMMON | entry for name, entry in ENTRIES.items()}}
    (tmp_path / "registry.yaml").write_text(yaml.safe_dump(registry, sort_keys=False))
    for folder in ("results/models/fetched", "results/models/absent", "checkpoints/local"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "results/models/fetched/manifest.json").write_text("{}\n")  # `absent` has a folder without one
    digests = {"config.json": "0" * 64}
    lock = {
        "fetched": Locked("hub:owner/fetched", COMMIT, digests, "main"),
        "local": Locked("path", "", digests),
    }
    (tmp_path / "models.lock").write_text(json.dumps({name: asdict(entry) for name, entry in lock.items()}))
    return tmp_path


def rows_of(folder: Path) -> dict[str, dict]:
    rows = catalogue(folder / "registry.yaml", folder / "results/models", folder / "models.lock")
    return {row["model"]: row for row in rows}


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60)


def test_every_model_has_a_row_in_the_order_of_the_registry(project):
    rows = catalogue(project / "registry.yaml", project / "results/models", project / "models.lock")
    assert [row["model"] for row in rows] == list(ENTRIES)
    assert {tuple(row) for row in rows} == {COLUMNS}


def test_here_means_a_manifest_or_an_existing_folder(project):
    here = {name: row["here"] for name, row in rows_of(project).items()}
    assert here == {"fetched": "yes", "absent": "no", "local": "yes", "gone": "no", "foreign": "no"}


def test_paths_of_the_shipped_registry_count_from_seqprior_whatever_the_working_folder(project):
    assert path_root(SHIPPED) == REPOSITORY
    assert path_root(project / "registry.yaml") == Path()
    rows = catalogue(SHIPPED, project / "results/models", project / "none")
    assert {row["model"]: row["here"] for row in rows}["yeast-mini"] == "yes"


def test_locked_is_the_start_of_the_commit(project):
    locked = {name: row["locked"] for name, row in rows_of(project).items()}
    assert locked == {"fetched": COMMIT[:12], "absent": "-", "local": "files", "gone": "-", "foreign": "-"}


def test_without_a_lock_nothing_is_locked(project):
    (project / "models.lock").unlink()
    assert {row["locked"] for row in rows_of(project).values()} == {"-"}


def test_a_lock_of_another_source_or_revision_is_pointed_out(project):
    facts = read_registry(project / "registry.yaml")["fetched"]
    entry = Locked("hub:owner/fetched", COMMIT, {}, "main")
    assert locked_words(facts, entry) == COMMIT[:12]
    assert locked_words(replace(facts, hub="owner/moved"), entry) == "other source"
    assert locked_words(replace(facts, revision="v2"), entry) == "other source"
    assert locked_words(replace(facts, hub="", path=Path("x")), entry) == "other source"


@pytest.mark.parametrize("text", ["<<<<<<< ours", "[]", '{"fetched": {"source": "path"}}', '{"fetched": 1}'])
def test_a_damaged_lock_is_refused(project, text):
    (project / "models.lock").write_text(text)
    with pytest.raises(BadInput, match=r"models\.lock"):
        rows_of(project)


def test_code_is_marked_for_models_that_bring_their_own(project):
    code = {name: row["code"] for name, row in rows_of(project).items()}
    assert code == {"fetched": "-", "absent": "-", "local": "-", "gone": "-", "foreign": "to be allowed"}


def test_source_and_tokenisation_are_told_in_words(project):
    rows = rows_of(project)
    assert [row["source"] for row in rows.values()] == [
        "hub:owner/fetched",
        "hub:owner/absent@v2",
        "checkpoints/local",
        "checkpoints/gone",
        "hub:owner/foreign",
    ]
    assert [row["tokenisation"] for row in rows.values()] == ["kmer 3", *["single-base"] * 4]


def test_the_printed_columns_line_up(project):
    heading, *lines = aligned(rows_of(project).values()).splitlines()
    assert len(lines) == len(ENTRIES)
    for name in ("family", "licence", "source", "code", "here", "locked"):  # text, to the left
        start = re.search(rf"\b{name}\b", heading).start()
        assert all(line[start - 2 : start] == "  " and line[start] != " " for line in lines)
    for name in ("window", "parameters"):  # numbers, to the right
        end = re.search(rf"\b{name}\b", heading).end()
        assert all(line[end - 1].isdigit() and line[end] == " " for line in lines)


def test_the_script_prints_the_table_that_it_writes(project):
    done = run("--registry", "registry.yaml", "--output", "out/table.tsv", cwd=project)
    assert done.returncode == 0, done.stderr
    # Cells are parted by two blanks or more; none of these cells has two blanks in it.
    printed = [re.split(r" {2,}", line.strip()) for line in done.stdout.splitlines()]
    written = [line.split("\t") for line in (project / "out/table.tsv").read_text().splitlines()]
    assert written[0] == printed[0] == list(COLUMNS)
    assert [[cell.replace(",", "") for cell in row] for row in printed] == written
    assert [row[0] for row in written[1:]] == list(ENTRIES)


def test_folder_and_lock_can_lie_elsewhere(project):
    (project / "other").mkdir()
    done = run(
        "--registry", "registry.yaml", "--folder", "other", "--lock", "other/lock", "--output", "t.tsv", cwd=project
    )
    assert done.returncode == 0, done.stderr
    cells = [line.split("\t") for line in (project / "t.tsv").read_text().splitlines()[1:]]
    assert [row[COLUMNS.index("here")] for row in cells] == ["no", "no", "yes", "no", "no"]
    assert {row[COLUMNS.index("locked")] for row in cells} == {"-"}


def test_a_damaged_registry_ends_the_script_with_a_sentence_and_no_table(project):
    (project / "registry.yaml").write_text("models: [1, 2]\n")
    done = run("--registry", "registry.yaml", "--output", "table.tsv", cwd=project)
    assert done.returncode == BAD_INPUT
    assert done.stderr.startswith("error: registry.yaml: not a model registry")
    assert not (project / "table.tsv").exists()


def test_a_cell_cannot_break_the_tsv(project):
    row = rows_of(project)["fetched"] | {"licence": "two\twords\nand more"}
    assert as_tsv([row]).splitlines()[1].split("\t")[COLUMNS.index("licence")] == "two words and more"


@pytest.mark.parametrize(
    ("number", "text"),
    [(756_484, "0.756 M"), (4_070_000, "4.07 M"), (89_196_549, "89.2 M"), (991_261_206, "991 M"),
     (999_499_999, "999 M"), (999_500_000, "1 B"), (2_547_801_226, "2.55 B"), (7_000_000_000, "7 B")],
)  # fmt: skip
def test_weights_are_told_to_three_digits(number, text):
    assert short_count(number) == text


def test_the_page_has_the_table_of_the_shipped_registry():
    text = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")
    assert with_table(text, model_table(read_registry(SHIPPED)), "models") == text, (
        "run scripts/list_models.py with --page"
    )


def test_names_lead_to_their_cards(project):
    models = read_registry(project / "registry.yaml")
    models["fetched"] = replace(models["fetched"], card="hub.example/owner/fetched")
    models["local"] = replace(models["local"], card="checkpoints/local/README.md")
    models["absent"] = replace(models["absent"], card="http://hub.example/absent")
    first = [row.split(" | ")[0] for row in model_table(models).splitlines()[2:]]
    assert first == [
        "| [`fetched`](https://hub.example/owner/fetched)",
        "| [`absent`](http://hub.example/absent)",
        "| [`local`](../checkpoints/local/README.md)",
        "| `gone`",
        "| `foreign`",
    ]


def test_a_bar_in_a_cell_does_not_make_a_column(project):
    models = {name: replace(facts, species="a | b") for name, facts in read_registry(project / "registry.yaml").items()}
    assert {row.count("|") for row in model_table(models).splitlines()} == {10}


@pytest.mark.parametrize("text", ["no marks", BEGIN, f"{END} {BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_a_place_for_the_table_is_refused(text):
    with pytest.raises(BadInput, match="no place for the table of models"):
        with_table(text, "table", "models")


def test_the_script_replaces_the_table_of_a_page_and_keeps_the_rest(project):
    page = project / "page.md"
    page.write_text(f"above\n{BEGIN}\nold\n{END}\nbelow\n")
    done = run("--registry", "registry.yaml", "--page", page, cwd=project)
    assert (done.returncode, done.stdout) == (0, "")
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("above", "below")
    assert "old" not in lines
    assert [line.split("`")[1] for line in lines if line.startswith(("| `", "| [`"))] == list(ENTRIES)
