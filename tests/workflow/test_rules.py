"""The rule files: formatted, linted, light to parse, and each rule's library list as its script imports."""

from __future__ import annotations

import ast
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from small_project import REPOSITORY, Project, copy_code, job_table

SCRIPTS = REPOSITORY / "scripts"
RULES = sorted((REPOSITORY / "rules").glob("*.smk"))
SNAKEFILES = [REPOSITORY / "Snakefile", REPOSITORY / "workflow" / "Snakefile", *RULES]
HEAVY = ("torch", "transformers", "pandas", "pysam", "numpy")
LIST = re.compile(r"^([A-Z]+(?:_[A-Z]+)*) (\+?=) \((.*?)\)$", re.MULTILINE | re.DOTALL)
RULE = re.compile(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def shared_lists() -> dict[str, list[str]]:
    """The lists of modules that several rules name."""
    found: dict[str, list[str]] = {}
    for path in RULES:
        for name, sign, items in LIST.findall(path.read_text()):
            found[name] = (found.get(name, []) if sign == "+=" else []) + re.findall(r'"(\w+)"', items)
    return found


def declared() -> dict[str, tuple[str, list[str]]]:
    """Rule to its script and the modules of its `library(...)`."""
    found, lists = {}, shared_lists()
    for path in RULES:
        for name, body in RULE.findall(path.read_text()):
            script = re.search(r'cli=script\("([\w.]+)"\)', body)
            library = re.search(r"lib=library\(([^)]*)\)", body)
            if script or library:
                shared = [module for name in re.findall(r"\*(\w+)", library[1]) for module in lists[name]]
                found[name] = (script[1], [*shared, *re.findall(r'"(\w+)"', library[1])])
    return found


def imported(path: Path) -> tuple[set[str], set[str]]:
    """Modules of seqprior that a file imports: when it runs, and those under `if TYPE_CHECKING`."""
    run, typing = set(), set()

    def visit(node: ast.AST, into: set[str]) -> None:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "seqprior":
            inner = node.module.split(".")[1:]
            into.update(inner[:1] or [alias.name for alias in node.names if is_module(alias.name)])
        elif isinstance(node, ast.Import):
            into.update(alias.name.split(".")[1] for alias in node.names if alias.name.startswith("seqprior."))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, typing)
            for child in node.orelse:
                visit(child, into)
            return
        for child in ast.iter_child_nodes(node):
            visit(child, into)

    visit(ast.parse(path.read_text()), run)
    return run, typing


def is_module(name: str) -> bool:
    return (SCRIPTS / "seqprior" / f"{name}.py").is_file()


def needed(script: Path) -> tuple[set[str], set[str]]:
    """Every module that a script imports, directly or not, and those that it may list besides."""
    reached: set[str] = set()
    allowed: set[str] = set()
    waiting = [script]
    while waiting:
        run, typing = imported(waiting.pop())
        allowed |= typing
        waiting += [SCRIPTS / "seqprior" / f"{name}.py" for name in run - reached]
        reached |= run
    return reached, allowed


DECLARED = declared()


def test_every_rule_with_a_shell_command_declares_its_script_and_library():
    with_shell = {name for path in RULES for name, body in RULE.findall(path.read_text()) if "shell:" in body}
    assert with_shell == set(DECLARED)
    assert len(with_shell) >= 13


@pytest.mark.parametrize("rule", DECLARED)
def test_the_library_list_is_what_the_script_imports(rule):
    script, library = DECLARED[rule]
    run, typing = needed(SCRIPTS / script)
    assert len(library) == len(set(library))
    assert run - set(library) == set(), "imported but not listed"
    assert set(library) - run - typing == set(), "listed but not imported"


@pytest.mark.parametrize("path", SNAKEFILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_rule_files_import_nothing_heavy(path):
    assert re.findall(rf"^\s*(?:import|from)\s+(?:{'|'.join(HEAVY)}|seqprior)\b", path.read_text(), re.MULTILINE) == []


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_paths_and_texts_in_shell_commands_are_quoted(path):
    """Numbers and words of a closed list may go bare: they hold no space."""
    bare = {"max_allele_length", "max_mismatch_share", "max_unknown_share", "source", "device", "dtype", "batch_tokens"}
    bare |= {
        "pseudo_likelihood",
        "marginals",
        "compiled",
        "embeddings",
        "blocks",
        "block_length",
        "others",
        "seed",
        "top",
        "panels",
        "version",
        "shards",
        "longest",
        "conditional",
        "window",
        "folds",
        "negative_ratio",
        "threshold",
        "fdr",
        "context",
        "most_outcomes",
        "nearby",
        "deletions",
    }
    for name, body in RULE.findall(path.read_text()):
        command = body.partition("shell:")[2]
        for field in re.findall(r"\{([^}]+)\}", command):
            quoted = field.endswith(":q") or field == "threads" or field.removeprefix("params.") in bare
            assert quoted, f"{name}: {{{field}}}"


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_every_rule_has_a_log_an_environment_and_resources(path):
    for name, body in RULE.findall(path.read_text()):
        for directive in ("log:", "conda:", "resources:", "mem_mb=", "runtime="):
            assert directive in body, f"{name}: no {directive}"
        assert not re.search(r"\b(partition|gres|slurm_\w+|gpu_model|qos)\s*=", body), name


def test_snakemake_finds_nothing_to_criticise():
    lint = subprocess.run(
        [sys.executable, "-m", "snakemake", "--lint", "--directory", str(REPOSITORY)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert lint.returncode == 0, lint.stdout + lint.stderr
    assert "Congratulations" in lint.stdout + lint.stderr


def test_rule_files_are_formatted():
    command = [sys.executable, "-m", "snakefmt", "--check", "--config", str(REPOSITORY / "pyproject.toml")]
    check = subprocess.run([*command, *map(str, SNAKEFILES)], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Project:
    """The repository as it is shipped, the demo and the model included."""
    folder = tmp_path_factory.mktemp("demo")
    copy_code(folder)
    (folder / "resources").symlink_to(REPOSITORY / "resources", target_is_directory=True)
    return Project(folder)


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_a_dry_run_of_the_demo_takes_under_three_seconds(demo, snakefile):
    """Processor time, since other processes may hold the cores."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--snakefile", snakefile]
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        dry = subprocess.run(command, cwd=demo.folder, env=demo.environment(), capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
        assert dry.returncode == 0, dry.stdout + dry.stderr
        assert job_table(dry.stdout + dry.stderr)["write_report"] == 1
        if seconds[-1] < 3:
            return
    pytest.fail(f"the dry run took {min(seconds):.1f} s at best")
