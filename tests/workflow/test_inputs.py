"""Bad input ends the run with one sentence, before any job where that is possible."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from small_project import Project

HERE = "paths count from the working directory, {folder}"


@pytest.fixture(scope="module")
def project(untouched, tmp_path_factory) -> Project:
    """One folder for every run that must end before its first job."""
    return untouched.copy(tmp_path_factory.mktemp("inputs") / "project")


@pytest.fixture(autouse=True)
def _own_config(request):
    if "project" in request.fixturenames:
        project = request.getfixturevalue("project")
        before = json.dumps(project.config)
        yield
        project.config = json.loads(before)
    else:
        yield


def refusal(project: Project, *arguments: str) -> str:
    """Output of a run that must fail, after checks that it left nothing."""
    code, output = project.outcome(*arguments)
    assert code != 0, output
    assert "Traceback" not in output, output
    assert list(project.folder.rglob(".partial*")) == []
    return output


CONFIG_FAULTS = {
    "an unknown key": (
        {"colour": "red"},
        "config, top level: Additional properties are not allowed ('colour' was unexpected); "
        "config/README.md describes every key",
    ),
    "an unknown key of a section": (
        {"scoring": {"shard": 3}},
        "config, scoring: Additional properties are not allowed ('shard' was unexpected); "
        "config/README.md describes every key",
    ),
    "a value of the wrong type": (
        {"scoring": {"shards": "two"}},
        "config, scoring.shards: 'two' is neither 'auto' nor a whole number of at least 1; "
        "config/README.md describes every key",
    ),
    "an unknown model": (
        {"models": {"dna": ["evo9"]}},
        "config, models.dna: no dna model 'evo9' in the registry; known are tiny",
    ),
    "no variants": (
        {"variants": []},
        "config: neither samples nor variants names a file; name at least one VCF or BCF file",
    ),
    "no number": (
        {"prioritise": {"model_clip": float("nan")}},
        "config, prioritise, model_clip: nan is no finite number",
    ),
    "an infinite weight": (
        {"prioritise": {"consequence_weights": {"other": float("inf")}}},
        "config, prioritise, consequence_weights, other: inf is no finite number; give one",
    ),
    "a name with a line end": ({"cohort": "c1\n"}, "config, cohort: 'c1\\n' does not match"),
    "a file that reads like an option": (
        {"variants": ["-x.vcf"]},
        "config, variants: '-x.vcf' starts with a dash, which reads like an option; write ./-x.vcf",
    ),
    "a missing VCF": ({"variants": ["no.vcf"]}, f"config, variants: no file 'no.vcf'; {HERE}"),
    "a VCF with a brace": (
        {"variants": ["data/{a}.vcf"]},
        "config, variants: 'data/{{a}}.vcf' holds a brace, which Snakemake reads as a wildcard; rename the file",
    ),
    "a missing sheet": ({"samples": "no.tsv"}, f"config, samples: no file 'no.tsv'; {HERE}"),
    "a missing FASTA": (
        {"reference": {"name": "r", "fasta": "no.fa"}},
        f"config, reference.fasta: no file 'no.fa'; {HERE}",
    ),
    "missing gene models": (
        {"reference": {"name": "r", "fasta": "data/genome.fa", "genes": "no.gff3"}},
        f"config, reference.genes: no file 'no.gff3'; {HERE}",
    ),
    "a missing registry": (
        {"models": {"dna": ["tiny"], "registry": "no.yaml"}},
        f"config, models.registry: no file 'no.yaml'; {HERE}",
    ),
    "a cohort with a slash": ({"cohort": "a/b"}, "config, cohort: 'a/b' does not match "),
    "a cohort called shared": ({"cohort": "shared"}, "config, cohort: 'shared' does not match "),
    "a reference with a slash": (
        {"reference": {"name": "../x", "fasta": "data/genome.fa"}},
        "config, reference.name: '../x' does not match ",
    ),
}


@pytest.mark.parametrize("what", CONFIG_FAULTS)
def test_the_config_is_refused_for(project, what):
    change, sentence = CONFIG_FAULTS[what]
    project.config |= change
    assert sentence.format(folder=project.folder) in refusal(project)
    assert not (project.folder / "results").exists()


SHEETS = {
    "without a column": (
        "sample\tfile\ns1\tdata/samples.vcf\n",
        "line 1: no column vcf; expected tab-separated sample, vcf",
    ),
    "with commas": ("sample,vcf\ns1,a.vcf\n", "line 1: no column sample and vcf; expected tab-separated sample, vcf"),
    "with an empty cell": (
        "sample\tvcf\ns1\tdata/samples.vcf\ns2\t\n",
        "line 3: sample or vcf is empty; expected tab-separated sample, vcf",
    ),
    "with a file that is not there": ("sample\tvcf\ns1\tno.vcf\n", f"line 2: no file 'no.vcf'; {HERE}"),
}


@pytest.mark.parametrize("what", SHEETS)
def test_a_sample_sheet_is_refused(project, what):
    text, sentence = SHEETS[what]
    (project.folder / "sheet.tsv").write_text(text)
    project.config["samples"] = "sheet.tsv"
    assert f"sheet.tsv, {sentence.format(folder=project.folder)}" in refusal(project)


def test_a_sheet_from_a_spreadsheet_is_read(project):
    """With a byte order mark and the line ends of Windows."""
    (project.folder / "sheet.tsv").write_bytes(b"\xef\xbb\xbfsample\tvcf\r\ns1\tdata/samples.vcf\r\n")
    project.config |= {"samples": "sheet.tsv", "variants": []}
    assert project.planned()["normalise_variants"] == 1


def test_a_registry_with_an_unknown_field_is_refused(project):
    registry = yaml.safe_load((project.folder / "config" / "models.yaml").read_text())
    registry["models"]["tiny"]["colour"] = "red"
    (project.folder / "own.yaml").write_text(yaml.safe_dump(registry))
    project.config["models"] = {"dna": ["tiny"], "registry": "own.yaml"}
    sentence = "model registry, models.tiny: Additional properties are not allowed ('colour' was unexpected); "
    assert f"{sentence}schemas/models.schema.yaml describes every key" in refusal(project)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a list\n", "model registry, top level: 'models' is a required property; "),
        ("models: [\n", "own.yaml: expected a model registry in YAML ("),
    ],
)
def test_what_is_no_registry_is_refused(project, text, sentence):
    (project.folder / "own.yaml").write_text(text)
    project.config["models"] = {"dna": ["tiny"], "registry": "own.yaml"}
    assert sentence in refusal(project)


def test_a_vcf_that_another_rule_makes_may_be_absent_where_seqprior_is_a_module(untouched, tmp_path: Path):
    project = Project(tmp_path)
    shutil.copytree(untouched.folder / "data", tmp_path / "data")
    project.config["variants"] = ["calls/made.vcf"]
    (tmp_path / "Snakefile").write_text(
        f"module seqprior:\n    snakefile: {str(untouched.folder / 'Snakefile')!r}\n    config: config\n\n"
        "use rule * from seqprior as seqprior_*\n\n"
        "rule call:\n    output: 'calls/made.vcf'\n    shell: 'cp data/sites.vcf {output}'\n"
    )
    jobs = project.planned("seqprior_all")
    assert jobs["call"] == 1 and jobs["seqprior_normalise_variants"] == 1


def test_a_vcf_of_another_assembly_stops_the_run(done):
    text = (done.folder / "data" / "sites.vcf").read_text().replace("length=20000", "length=21000")
    (done.folder / "data" / "other.vcf").write_text(text)
    done.config |= {"cohort": "other", "variants": ["data/other.vcf"]}
    assert (
        "error: data/other.vcf: the header describes another assembly (chr1 is 21,000 bases long there and 20,000 in "
        "the reference); use the reference that the file was called on"
    ) in refusal(done)
    assert [path for path in done.results.rglob("*") if path.is_file()] == []
