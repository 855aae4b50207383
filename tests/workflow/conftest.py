"""One small project, run once; tests that change something take a copy."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_project import Project, copy_code, write_data, write_model


@pytest.fixture(scope="session")
def untouched(tmp_path_factory) -> Project:
    """The project before any run, its model where the shipped one would be. Not to be changed."""
    folder = tmp_path_factory.mktemp("untouched") / "project"
    folder.mkdir()
    copy_code(folder)
    write_data(folder / "data")
    write_model(folder / "resources" / "models" / "tiny", folder / "config" / "models.yaml", "resources/models/tiny")
    return Project(folder)


@pytest.fixture(scope="session")
def completed(untouched, tmp_path_factory) -> Project:
    """The project after a whole run. Not to be changed."""
    project = untouched.copy(tmp_path_factory.mktemp("completed") / "project")
    project.run()
    return project


@pytest.fixture
def fresh(untouched, tmp_path: Path) -> Project:
    """A copy of the project that has not run."""
    return untouched.copy(tmp_path / "project")


@pytest.fixture
def done(completed) -> Iterator[Project]:
    """The project that has run, in its place, since Snakemake knows scripts by their absolute path; restored after."""
    pristine = completed.folder.with_name("pristine")
    if not pristine.exists():
        shutil.copytree(completed.folder, pristine, symlinks=True)
    yield Project(completed.folder)
    shutil.rmtree(completed.folder)
    shutil.copytree(pristine, completed.folder, symlinks=True)
