"""The documentation explains every column, reason, score, error and command that the code has, and no other."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from seqprior.columns import CONSEQUENCES, PROTEIN_REASON_TEXT, RANKED_LEAD, RANKED_TAIL, REASON_TEXT, SCORES, VARIANTS
from seqprior.errors import BAD_INPUT, OUT_OF_MEMORY

REPOSITORY = Path(__file__).resolve().parents[2]
SKIPPED = {".venv", ".git", ".snakemake", ".pytest_cache", "results", "logs", "node_modules"}
PAGES = [
    path for path in sorted(REPOSITORY.rglob("*.md")) if not SKIPPED & set(path.relative_to(REPOSITORY).parts[:-1])
]
# demo.py and configuration.py serve those who build seqprior, not those who run it.
SPEAKING = [
    path
    for folder in ("scripts/seqprior", "scripts")
    for path in sorted((REPOSITORY / folder).glob("*.py"))
    if path.name not in {"demo.py", "configuration.py"}
]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def page(name: str) -> str:
    return (REPOSITORY / name).read_text()


def section(text: str, heading: str) -> str:
    """The text below a heading, up to the next one of its level or above."""
    found = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert found, f"no heading {heading!r}"
    rest = text[found.end() :]
    following = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: following.start()] if following else rest


def table_cells(text: str) -> set[str]:
    """What stands as code in the first column of the tables of a text."""
    return {name for row in re.findall(r"^\| (.*?) \|", text, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}


def anchors(text: str) -> set[str]:
    """The anchors that the headings of a page get."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def messages() -> list[tuple[str, str]]:
    """(place, constant part) of the sentences with which scripts refuse input or give up."""
    found = []
    for path in SPEAKING:
        tree = ast.parse(path.read_text())
        built = {  # functions that only make a sentence: `raise BadInput(_some_message(...))`
            node.args[0].func.id
            for node in ast.walk(tree)
            if is_refusal(node) and isinstance(node.args[0], ast.Call) and isinstance(node.args[0].func, ast.Name)
        }
        for node in ast.walk(tree):
            if is_refusal(node) and isinstance(node.args[0], ast.JoinedStr | ast.Constant):
                found.append((f"{path.name}:{node.lineno}", node.args[0]))
            elif isinstance(node, ast.FunctionDef) and node.name in built:
                returned = [part for part in ast.walk(node) if isinstance(part, ast.Return)]
                found += [(f"{path.name}:{part.lineno}", part.value) for part in returned]
    return [(place, part) for place, sentence in found for part in constant_parts(sentence)]


def is_refusal(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") in {"BadInput", "OutOfMemory"}


def constant_parts(sentence: ast.expr) -> list[str]:
    """The longest constant part of a sentence, and all others of some length."""
    values = sentence.values if isinstance(sentence, ast.JoinedStr) else [sentence]
    parts = sorted((part.value.strip() for part in values if isinstance(part, ast.Constant)), key=len)
    return [parts[-1], *(part for part in parts[:-1] if len(part) > 15)]


def test_there_are_pages_to_check():
    names = {str(path.relative_to(REPOSITORY)) for path in PAGES}
    pages = {f"docs/{name}.md" for name in ("usage", "outputs", "scores", "design", "troubleshooting")}
    assert pages | {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "config/README.md"} <= names


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_relative_link_leads_somewhere(path):
    broken = []
    for target in LINK.findall(path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_tables_have_rows_as_wide_as_their_heading(path):
    for block in re.findall(r"(?:^\|.*\n)+", path.read_text(), re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", row))) for row in block.splitlines()}
        assert len(widths) == 1, block[:200]


@pytest.mark.parametrize(("heading", "texts"), [("Reasons", REASON_TEXT), ("Reasons of proteins", PROTEIN_REASON_TEXT)])
def test_outputs_gives_each_reason_its_text(heading, texts):
    text = section(page("docs/outputs.md"), heading).partition("\n###")[0].replace("`", "")
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", text, re.MULTILINE))
    assert rows.keys() - {"reason"} == {str(reason) for reason in texts}
    assert [reason for reason, meaning in texts.items() if not rows[reason].startswith(meaning)] == []


@pytest.mark.parametrize(
    ("heading", "columns"),
    [
        ("Ranked table", (*RANKED_LEAD, *RANKED_TAIL)),
        ("Scores", SCORES),
        ("Variants", VARIANTS),
    ],
)
def test_outputs_explains_every_column(heading, columns):
    assert set(columns) - table_cells(section(page("docs/outputs.md"), heading)) == set()


def test_outputs_explains_every_column_of_the_ranked_table_between_lead_and_tail():
    pd = pytest.importorskip("pandas")
    from seqprior.calibration import Calibration
    from seqprior.prioritise import join_evidence, rank_alleles

    text = {"variant_id": "c-1-A-C", "chrom": "c", "pos": 1, "ref": "A", "alt": "C", "status": "scored", "reason": ""}
    variants = pd.DataFrame([dict.fromkeys(VARIANTS, "") | text | {"input_count": 1}])
    scores = pd.DataFrame([dict.fromkeys(SCORES, 0.0) | text])
    consequences = pd.DataFrame([dict.fromkeys(CONSEQUENCES, "") | {"variant_id": "c-1-A-C"}])
    calibration = Calibration(
        pd.DataFrame(columns=["context", "alt", "mean", "count"]),
        pd.DataFrame([{"kind": "substitution", "mean": 0.0, "sd": 1.0, "count": 9}]),
    )
    evidence = join_evidence(variants, consequences, {"{model}": scores})
    ranked = rank_alleles(evidence, {"{model}": calibration}, {"other": 1.0}, 1.0, 5.0)
    assert set(ranked.columns) - table_cells(section(page("docs/outputs.md"), "Ranked table")) == set()


def test_outputs_explains_every_column_of_protein_evidence():
    pd = pytest.importorskip("pandas")
    from seqprior.columns import PROTEIN_CHANGES, PROTEIN_HAPLOTYPES, PROTEINS, RESIDUE_FEATURES
    from seqprior.missense import MissenseModel
    from seqprior.protein_evidence import FITTED_WITH, Answers, protein_evidence

    changes = pd.DataFrame([dict.fromkeys(PROTEIN_CHANGES, "") | {"variant_id": "v", "protein": "p", "start": 0}])
    haplotypes = pd.DataFrame(
        [dict.fromkeys(PROTEIN_HAPLOTYPES, "") | {"variant_ids": "v+w", "start": 0, "carriers": 1}]
    )
    features = pd.DataFrame([dict.fromkeys(RESIDUE_FEATURES, 0.0) | {"protein": "p", "residue": 0}])
    structures = pd.DataFrame([{"protein": "p", "accession": "", "reason": ""}])
    proteins = pd.DataFrame([dict.fromkeys(PROTEINS, "") | {"protein": "p"}])
    models = {"{model}": Answers()}
    asked = models | {FITTED_WITH: Answers()}
    table = protein_evidence(
        changes, haplotypes, proteins, models, asked, features, structures, MissenseModel((), *[[]] * 3)
    )
    assert {name for name in table.columns if FITTED_WITH not in name} - {"variant_id"} == table_cells(
        section(page("docs/outputs.md"), "Proteins")
    ) - {
        name
        for name in table_cells(section(page("docs/outputs.md"), "Proteins"))
        if "/" in name or "saturation" in name
    }


def test_outputs_explains_every_info_field_of_the_ranked_vcf():
    from seqprior.prioritise import INFO_HEADER

    header = {re.search(r"ID=(\w+)", line)[1] for line in INFO_HEADER}
    assert table_cells(section(page("docs/outputs.md"), "Ranked VCF")) == header


def test_scores_explains_the_methods_of_the_schemes_and_no_other():
    tree = ast.parse(page("scripts/seqprior/plans.py"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any("_method" in ast.unparse(target) for target in node.targets):
            names |= {part.value for part in ast.walk(node.value) if isinstance(part, ast.Constant)} - {True, False}
    assert len(names) > 3
    explained = {name for name in table_cells(section(page("docs/scores.md"), "Methods")) if "_" in name}
    assert explained == names


def test_the_exit_codes_are_explained():
    codes = re.findall(r"^\| (\d) \|", section(page("docs/usage.md"), "Errors and exit codes"), re.MULTILINE)
    assert [int(code) for code in codes] == [0, 1, BAD_INPUT, OUT_OF_MEMORY]


def test_every_sentence_that_refuses_input_is_explained():
    text = re.sub(r"\s+", " ", page("docs/troubleshooting.md"))
    spoken = messages()
    assert len(spoken) > 40
    assert [f"{place}: {sentence}" for place, sentence in spoken if sentence not in text] == []


def test_the_readme_names_make_targets_that_exist_and_all_of_them():
    targets = set(re.findall(r"^([a-z]+):.*## ", page("Makefile"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", page("README.md").replace("`make` and", ""))) == targets


def test_the_targets_of_the_usage_page_are_those_of_the_snakefile():
    rules = re.findall(r"^rule (\w+):", page("Snakefile"), re.MULTILINE)
    assert table_cells(section(page("docs/usage.md"), "Targets")) == set(rules)


def test_the_config_of_the_readme_is_valid():
    jsonschema = pytest.importorskip("jsonschema")
    (block,) = re.findall(r"```yaml\n(.*?)```", page("README.md"), re.DOTALL)
    jsonschema.validate(yaml.safe_load(block), yaml.safe_load(page("schemas/config.schema.yaml")))


def test_the_profiles_of_the_usage_page_exist():
    named = set(re.findall(r"profiles/([\w-]+)", page("docs/usage.md")))
    assert named == {path.parent.name for path in REPOSITORY.glob("profiles/*/config.yaml")}


def test_the_changelog_ends_up_with_the_version_of_the_package():
    from seqprior import VERSION

    assert VERSION in page("CHANGELOG.md")
    assert f"version: {VERSION}" in page("CITATION.cff")


def test_no_page_is_ignored_by_git():
    command = ["git", "check-ignore", *map(str, PAGES)]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if answer.returncode == 128:
        pytest.skip("not a git checkout")
    assert answer.stdout == ""
