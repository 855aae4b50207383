"""The house rules that a reader cannot check at a glance."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
LARGEST_FILE = 12 * 2**20

FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.~}])/(?:work|root|home/\w+|Users/\w+|opt/\w+)/"),
    "a package registry": re.compile(
        r"pypi\.(?:org|io)|pythonhosted\.org|registry\.npmjs|deb\.debian\.org|conda\.anaconda\.org|download\.pytorch\.org|"
        r"proxy\.golang\.org|static\.crates\.io"
    ),
    "unpickling": re.compile(r"\bpickle\.loads?\b"),
    "a bare except": re.compile(r"^\s*except\s*:", re.MULTILINE),
}


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """Every file that is tracked, or would be with the next `git add`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    paths = [REPOSITORY / name for name in listing.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def text_of(path: Path) -> str:
    """The text of a file; nothing if it is binary."""
    data = path.read_bytes()
    try:
        return "" if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return ""


def length(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("what", FORBIDDEN)
def test_no_text_file_holds(files, what):
    found = []
    for path in files:
        text = text_of(path)
        for match in FORBIDDEN[what].finditer(text):
            line = text.count("\n", 0, match.end()) + 1
            found.append(f"{path.relative_to(REPOSITORY)}:{line}: {match.group().strip()}")
    assert found == []


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("a path of one machine", "open('" + "/work" + "/main/x')"),
        ("a package registry", "--index-url https://" + "pypi" + ".org/simple"),
        ("unpickling", "pickle" + ".load(handle)"),
        ("a bare except", "    except" + ":\n        pass"),
    ],
)
def test_the_forbidden_is_recognised(what, line):
    assert FORBIDDEN[what].search(line)


def test_no_file_is_too_large_for_a_repository(files):
    assert [path.name for path in files if path.stat().st_size > LARGEST_FILE] == []


@pytest.mark.parametrize(
    ("pattern", "limit"),
    [("Snakefile", 100), ("scripts/*.py", 100), ("rules/*.smk", 250), ("rules/common.smk", 150)],
)
def test_files_stay_short_enough_to_read(pattern, limit):
    paths = list(REPOSITORY.glob(pattern))
    assert paths, f"no {pattern}"
    assert [f"{path.name}: {length(path)} lines" for path in paths if length(path) >= limit] == []
