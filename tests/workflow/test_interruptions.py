"""What a killed job, a killed run and two runs at once leave behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_project import Project

# Runs a script, but goes to sleep where it would give its first complete file its final name.
SLEEPER = """
import os, pathlib, runpy, sys, time
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
rename = pathlib.Path.replace
def replace(self, target):
    pathlib.Path("asleep", str(os.getpid())).touch()
    time.sleep(120)
    return rename(self, target)
pathlib.Path.replace = replace
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture
def sleepy(done, monkeypatch):
    """Make the jobs of one script fall asleep just before they finish; the function returned starts such a run."""
    binaries = done.folder / "bin"
    binaries.mkdir()
    (done.folder / "asleep").mkdir()
    (done.folder / "sleeper.py").write_text(SLEEPER)
    (binaries / "python").symlink_to(binaries / "wrapper")
    started: list[subprocess.Popen[str]] = []

    def start(script: str) -> subprocess.Popen[str]:
        wrapper = binaries / "wrapper"
        wrapper.write_text(
            f'#!/bin/sh\ncase "$1" in */{script}) exec "{sys.executable}" sleeper.py "$@";; esac\n'
            f'exec "{sys.executable}" "$@"\n'
        )
        wrapper.chmod(0o755)
        environment = done.environment()
        environment["PATH"] = f"{binaries}{os.pathsep}{environment['PATH']}"
        monkeypatch.setattr(Project, "environment", lambda self: environment)
        process = done.start()
        started.append(process)
        monkeypatch.undo()
        return process

    yield start
    for process in started:
        if process.poll() is None:
            kill_group(process)


def sleepers(folder: Path, run: subprocess.Popen[str], count: int) -> list[int]:
    """Process numbers of the run's jobs that sleep, once there are `count`."""
    limit = time.monotonic() + 120
    while time.monotonic() < limit and run.poll() is None:
        found = [int(path.name) for path in (folder / "asleep").iterdir()]
        if len(found) >= count:
            return found
        time.sleep(0.05)
    raise AssertionError("no job got as far as its first file")


def kill_group(process: subprocess.Popen[str]) -> None:
    """End Snakemake and, since jobs run in its group, everything it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def ranked(project: Project) -> bytes:
    return (project.results / "ranked.tsv").read_bytes()


def test_a_killed_scoring_job_is_done_again(done, sleepy):
    expected = ranked(done)
    shutil.rmtree(done.results / "shards")
    (done.results / "ranked.tsv").unlink()
    process = sleepy("score_variants.py")
    for number in sleepers(done.folder, process, 2):
        os.kill(number, signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Error in rule score_variants" in output
    assert list((done.results / "shards").rglob("[!.]*.parquet")) == []
    assert not (done.results / "ranked.tsv").exists()
    done.run("--rerun-incomplete")
    assert ranked(done) == expected


def test_a_second_run_is_refused_and_a_killed_run_is_finished_by_the_next(done, sleepy):
    expected = ranked(done)
    for name in ("windows", "shards"):
        shutil.rmtree(done.results / name)
    (done.results / "ranked.tsv").unlink()
    process = sleepy("extract_windows.py")
    sleepers(done.folder, process, 1)
    code, output = done.outcome("--rerun-incomplete")
    assert code != 0
    assert "Error: Directory cannot be locked. Please make sure that no other Snakemake process" in output
    assert process.poll() is None
    kill_group(process)
    shards = sorted((done.results / "windows" / "tiny").rglob("*.parquet"))
    assert [path.name for path in shards if not path.name.startswith(".partial-")] == []
    done.run("--unlock")
    done.run("--rerun-incomplete")
    assert ranked(done) == expected
    assert list((done.results / "windows").rglob(".partial*")) == []
    assert done.planned() == {}
