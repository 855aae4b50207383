"""An edit reruns what it must and nothing else."""

from __future__ import annotations

import pytest
import yaml
from small_project import write_model

REPORT = {"write_report": 1}
RANKING = {"rank_variants": 1, "record_run": 1, **REPORT}


def edit(project, name: str) -> None:
    path = project.folder / name
    path.write_text(path.read_text() + "\n# edited\n")


def test_a_second_run_has_nothing_to_do(completed):
    assert "Nothing to be done" in completed.run()


def test_a_ranking_weight_reruns_the_ranking_alone(done):
    done.config["prioritise"] = {"model_weight": 2.0}
    assert done.planned() == RANKING


def test_a_row_more_in_the_report_reruns_the_report_and_the_record_of_the_config(done):
    done.config["report"] = {"top": 7}
    assert done.planned() == {"record_run": 1, **REPORT}


def test_a_deleted_report_is_written_again_and_nothing_else(done):
    report = done.results / "report.html"
    before = report.read_text()
    report.unlink()
    assert done.planned() == REPORT
    done.run()
    assert report.read_text() == before


@pytest.mark.parametrize("name", ["scripts/write_report.py", "scripts/seqprior/report.py", "report/template.html.j2"])
def test_code_of_the_report_reruns_the_report_alone(done, name):
    edit(done, name)
    assert done.planned() == REPORT


SCORING = {"score_variants": 4, "calibrate_scores": 1, "gather_scores": 1, **RANKING}


@pytest.mark.parametrize("name", ["scripts/score_variants.py", "scripts/seqprior/embedding.py"])
def test_code_of_scoring_reruns_scoring_and_what_follows_but_no_window(done, name):
    edit(done, name)
    assert done.planned() == SCORING


def test_new_weights_rerun_scoring(done):
    """The registry changes with the digest, so the windows, which read the model's size from it, are cut anew."""
    folder, registry = done.folder / "resources" / "models" / "tiny", done.folder / "config" / "models.yaml"
    old = yaml.safe_load(registry.read_text())["models"]["tiny"]["digest"]
    write_model(folder, registry, "resources/models/tiny", seed=2)
    assert yaml.safe_load(registry.read_text())["models"]["tiny"]["digest"] != old
    assert done.planned() == {"fetch_model": 1, "extract_windows": 1, "extract_background_windows": 1, **SCORING}


@pytest.mark.parametrize("change", [{"store": "elsewhere"}, {"batch_tokens": 512}])
def test_a_setting_that_changes_no_score_reruns_nothing_but_the_record_of_the_config(done, change):
    done.config["scoring"] = change
    assert done.planned() == {"record_run": 1, **REPORT}


def test_a_new_vcf_reruns_the_cohort_and_nothing_shared(done):
    edit_target = done.folder / "data" / "sites.vcf"
    lines = edit_target.read_text().splitlines(keepends=True)
    edit_target.write_text("".join(lines[:-1]))
    assert done.planned() == {
        "normalise_variants": 1,
        "annotate_consequences": 1,
        "extract_windows": 1,
        "score_variants": 2,
        "gather_scores": 1,
        "list_protein_changes": 1,
        "gather_protein_evidence": 1,
        **RANKING,
    }
