"""The target `estimate`: what scoring will cost, known before any of it."""

from __future__ import annotations

import csv
import json

import pytest
from small_project import MODEL, Project

SCORING = {"score_variants", "calibrate_scores", "gather_scores", "rank_variants"}


@pytest.fixture(scope="module")
def project(untouched, tmp_path_factory) -> Project:
    """A project of which these tests are steps, in order."""
    return untouched.copy(tmp_path_factory.mktemp("estimate") / "project")


def planned(project: Project) -> dict[str, int]:
    """Jobs of an estimate by rule, without the target itself."""
    jobs = project.planned("estimate")
    jobs.pop("estimate", None)
    return jobs


def values(project: Project) -> dict[str, float]:
    with (project.results / "estimate.tsv").open(newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert list(rows[0]) == ["model", "quantity", "value", "unit", "how"]
    assert {row["model"] for row in rows} == {MODEL}
    return {row["quantity"]: float(row["value"]) for row in rows}


def test_an_estimate_takes_no_scoring_and_is_printed(project):
    jobs = planned(project)
    assert jobs["probe_model"] == jobs["estimate_cost"] == 1
    assert not jobs.keys() & SCORING
    output = project.run("estimate")
    found = values(project)
    assert not (project.results / "shards").exists()
    for quantity in ("sites", "windows", "tokens", "cached_share", "device_hours", "store_bytes"):
        assert quantity in output, output
        assert quantity in found
    counted = json.loads((project.results / "variants.json").read_text())
    assert found["alleles"] > 30
    assert found["alleles"] <= counted["input_alleles"]
    assert found["evaluable"] + sum(v for k, v in found.items() if k.startswith("skipped_")) == found["alleles"]
    assert found["cached_share"] == found["requests_cached"] == 0
    assert found["tokens_left"] == found["tokens"] > 0
    assert found["device_hours"] > 0
    assert (
        json.loads((project.results / "estimate.json").read_text())["models"][MODEL]["shards"] == found["shards"] == 1
    )
    probe = json.loads((project.folder / "results" / "shared" / "probes" / f"{MODEL}.json").read_text())
    assert min(probe["tokens_per_second"].values()) > 0


def test_a_second_estimate_does_nothing(project):
    assert "Nothing to be done" in project.run("estimate")


def test_another_cohort_is_not_measured_again(project):
    other = Project(project.folder, project.snakefile, {**project.config, "cohort": "c2"})
    jobs = planned(other)
    assert jobs["estimate_cost"] == 1
    assert "probe_model" not in jobs


def test_another_number_format_is_measured_again(project):
    other = Project(project.folder, project.snakefile, {**project.config, "scoring": {"dtype": "bfloat16"}})
    assert planned(other) == {"probe_model": 1, "estimate_cost": 1}


def test_what_was_scored_is_found_in_the_store(project):
    folders = ["results/c1", "results/shared/made.up/background"]
    score = [f"{folder}/shards/{MODEL}/{shard}.parquet" for folder in folders for shard in ("0000", "0001")]
    before = values(project)
    project.run(*score)
    assert planned(project) == {"estimate_cost": 1}
    project.run("estimate")
    after = values(project)
    assert after["cached_share"] == 1
    assert after["requests_cached"] == after["requests"] == before["requests"]
    assert after["tokens_left"] == after["device_hours"] == after["store_bytes"] == 0
    assert after["tokens"] == before["tokens"]
    assert after["background_device_hours"] == 0 < before["background_device_hours"]
    assert after["shards"] == 2  # another number would score both anew
    assert "Nothing to be done" in project.run("estimate")


def test_a_gpu_that_is_not_there_ends_the_estimate_with_a_sentence(project):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    other = Project(project.folder, project.snakefile, {**project.config, "scoring": {"device": "gpu"}})
    code, output = other.outcome("estimate")
    assert code != 0
    assert "error: scoring.device is gpu but " in output
