"""The conda environments and both requirement files name the same exact versions."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
ENVIRONMENTS = sorted((REPOSITORY / "envs").glob("*.yaml"))
REQUIREMENT_FILES = ("requirements.txt", "requirements-dev.txt", "requirements-no-deps.txt")
PYPI_NAMES = {"pytorch": "torch"}  # conda's name: PyPI's, where they differ
EXACT_PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][0-9a-z.]*")
GPU_PACKAGE = re.compile(r"nvidia|cuda|cudnn|nccl|triton", re.IGNORECASE)


def statements(file: str) -> list[str]:
    """The lines of a requirement file that are neither empty nor a comment."""
    lines = (REPOSITORY / file).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pinned(file: str) -> dict[str, str]:
    """The version of each package that a requirement file itself names, by canonical name."""
    pairs = (line.split("==") for line in statements(file) if not line.startswith("-r"))
    return {canonicalize_name(name): version for name, version in pairs}


def dependencies(environment: Path) -> dict[str, str]:
    """The version of each package of a conda environment, by conda's name."""
    return dict(entry.split("=") for entry in yaml.safe_load(environment.read_text())["dependencies"])


def test_packages_without_their_requirements_are_installed_as_such_by_make_and_conda():
    """pip's --no-deps holds for a whole command, so such packages have a file, and in conda a script, of their own."""
    pins = pinned("requirements-no-deps.txt")
    assert (
        "pip install --quiet --disable-pip-version-check --no-deps -r requirements-no-deps.txt"
        in (REPOSITORY / "Makefile").read_text()
    )
    scripts = [path.read_text() for path in (REPOSITORY / "envs").glob("*.post-deploy.sh")]
    assert dict(pair for text in scripts for pair in re.findall(r"--no-deps (\S+)==(\S+)", text)) == pins
    assert all(
        path.with_name(f"{path.name.partition('.')[0]}.yaml") in ENVIRONMENTS
        for path in (REPOSITORY / "envs").glob("*.sh")
    )


@pytest.mark.parametrize("file", REQUIREMENT_FILES)
def test_every_requirement_is_one_exact_version(file):
    lines = [line for line in statements(file) if not line.startswith("-r")]
    assert [line for line in lines if not EXACT_PIN.fullmatch(line)] == []
    assert len(pinned(file)) == len(lines), "a package is named twice"


def test_development_adds_to_the_run_time_requirements():
    assert statements("requirements-dev.txt")[0] == "-r requirements.txt"
    assert not pinned("requirements-dev.txt").keys() & pinned("requirements.txt").keys()


def test_torch_is_pinned_without_a_build_or_gpu_packages():
    assert pinned("requirements.txt")["torch"] == "2.13.0"
    names = [*pinned("requirements.txt"), *pinned("requirements-dev.txt")]
    assert [name for name in names if GPU_PACKAGE.search(name)] == []


def test_requirements_name_all_that_they_pull_in():
    """What an installed package asks for is pinned too; only the GPU libraries of some torch builds are left to it."""
    pins = pinned("requirements.txt") | pinned("requirements-dev.txt")
    missing = []
    for name, version in pins.items():
        try:
            needs = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:
            pytest.fail(f"{name} is not installed; install requirements-dev.txt")
        for need in needs:
            if need.marker and not need.marker.evaluate({"extra": ""}):
                continue
            pin = pins.get(canonicalize_name(need.name))
            if not GPU_PACKAGE.search(need.name) and (
                pin is None or not need.specifier.contains(pin, prereleases=True)
            ):
                missing.append(f"{name}=={version} needs {need}, pinned is {pin}")
    assert missing == []


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: environment.stem)
def test_environment_has_the_versions_of_the_requirements(environment):
    pins = pinned("requirements.txt")
    packages = dependencies(environment)
    assert re.fullmatch(r"3\.1[1-9]", packages.pop("python"))
    assert packages == {name: pins[PYPI_NAMES.get(name, name)] for name in packages}


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: environment.stem)
def test_environment_names_only_community_channels_and_no_gpu_package(environment):
    content = yaml.safe_load(environment.read_text())
    assert content["channels"] == ["conda-forge", "bioconda", "nodefaults"]
    assert [name for name in dependencies(environment) if GPU_PACKAGE.search(name)] == []


def test_environments_agree_on_one_python():
    assert len({dependencies(environment)["python"] for environment in ENVIRONMENTS}) == 1


@pytest.mark.parametrize("file", [*REQUIREMENT_FILES, *(f"envs/{path.name}" for path in ENVIRONMENTS)])
def test_no_address_is_named(file):
    text = (REPOSITORY / file).read_text()
    assert "://" not in text
    assert "index-url" not in text
