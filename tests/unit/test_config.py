"""The config: its schema, its description for people, the examples, the registry and the profiles."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import jsonschema
import pytest
import yaml

from seqprior.configuration import key_table, keys, type_words, value_text, with_table
from seqprior.errors import BadInput
from seqprior.models import ModelFacts, read_registry

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((REPOSITORY / "config" / "examples").glob("*.yaml"))
PROFILES = sorted((REPOSITORY / "profiles").glob("*/config.yaml"))
RULES = "\n".join(path.read_text() for path in sorted((REPOSITORY / "rules").glob("*.smk")))


def read(name: str) -> dict:
    return yaml.safe_load((REPOSITORY / name).read_text())


@pytest.fixture(scope="module")
def schema() -> dict:
    return read("schemas/config.schema.yaml")


@pytest.fixture(scope="module")
def registry_schema() -> dict:
    return read("schemas/models.schema.yaml")


def parse_workflow(folder: Path, config: dict) -> subprocess.CompletedProcess[str]:
    """A dry run of the workflow in an empty folder with `config` and nothing else."""
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--snakefile", str(REPOSITORY / "Snakefile")]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    return subprocess.run(
        [*command, "--directory", str(folder), "--configfile", str(folder / "mine.yaml")],
        capture_output=True, text=True, env=environment, timeout=120,
    )  # fmt: skip


SMALLEST = {
    "cohort": "mine",
    "variants": ["mine.vcf"],
    "reference": {"name": "mine", "fasta": "mine.fa"},
    "models": {"dna": ["yeast-mini"]},
}


def test_every_key_has_a_description_and_a_default(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    found = list(keys(schema))
    assert len(found) > 50
    assert [key for key, entry, _ in found if not entry.get("description", "").strip()] == []
    assert [key for key, entry, _ in found if "default" not in entry] == []


def test_every_section_refuses_keys_that_it_does_not_describe(schema):
    sections = [("the top level", schema), *((key, entry) for key, entry, _ in keys(schema) if "properties" in entry)]
    assert [name for name, section in sections if section.get("additionalProperties") is not False] == []


def test_every_default_is_valid_where_the_key_may_be_left_out(schema):
    for key, entry, required in keys(schema):
        if not required and "properties" not in entry:
            assert jsonschema.Draft202012Validator(entry).is_valid(entry["default"]), key


def test_config_readme_has_the_table_of_the_schema(schema):
    text = (REPOSITORY / "config" / "README.md").read_text()
    assert with_table(text, key_table(schema), "keys") == text, "run scripts/describe_config.py"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"type": "string"}, "text"),
        ({"type": ["string", "null"]}, "text or null"),
        ({"type": "integer", "minimum": 1}, "whole number, at least 1"),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 2}, "number, above 0, at most 2"),
        ({"type": "array", "items": {"type": "string"}, "minItems": 1}, "list of text, not empty"),
        ({"type": "array", "items": {"type": "string"}, "maxItems": 0}, "list of text, empty"),
        ({"enum": ["a", "b"]}, "`a`, `b`"),
        ({"oneOf": [{"const": "auto"}, {"type": "integer"}]}, "`auto` or whole number"),
    ],
)
def test_types_are_told_in_words(entry, words):
    assert type_words(entry) == words


def test_values_are_written_as_yaml_reads_them():
    for value in (None, True, 0.1, "", [], ["a", "b"], {"a": 1}, "auto"):
        assert yaml.safe_load(value_text(value).strip("`")) == value


@pytest.mark.parametrize("text", ["no marks", "<!-- keys -->", "<!-- /keys --> <!-- keys -->", "<!-- keys -->" * 2])
def test_a_readme_without_a_place_for_the_table_is_refused(text):
    with pytest.raises(BadInput, match="no place for the table of keys"):
        with_table(text, "table", "keys")


def test_describe_config_replaces_an_old_table_and_keeps_the_rest(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("above\n<!-- keys -->\nold\n<!-- /keys -->\nbelow\n")
    script, source = REPOSITORY / "scripts" / "describe_config.py", REPOSITORY / "schemas" / "config.schema.yaml"
    command = [sys.executable, str(script), "--schema", str(source), "--output", str(readme)]
    subprocess.run(command, check=True, timeout=60)
    lines = readme.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("above", "below")
    assert "old" not in lines
    assert any(line.startswith("| `scoring.device` | `cpu`, `gpu` | `cpu` |") for line in lines)


@pytest.mark.parametrize("path", [REPOSITORY / "config" / "config.yaml", *EXAMPLES], ids=lambda path: path.name)
def test_configs_that_come_with_seqprior_are_valid(schema, path):
    jsonschema.validate(yaml.safe_load(path.read_text()), schema)


@pytest.mark.parametrize("name", ["yeast.yaml", "human-chr20.yaml"])
def test_the_development_data_of_an_example_exist(shared_data, name):
    example = read(f"config/examples/{name}")
    named = [*example["variants"], example["reference"]["fasta"], example["reference"]["genes"]]
    assert [path for path in named if not (REPOSITORY / path).is_file()] == []
    assert all(path.startswith("../shared/data/") for path in named)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"colour": "blue"}, "config, top level: Additional properties are not allowed ('colour' was unexpected)"),
        ({"scoring": {"dtyp": 1}}, "config, scoring: Additional properties are not allowed ('dtyp' was unexpected)"),
        ({"models": {"dna": "yeast-mini"}}, "config, models.dna: 'yeast-mini' is not of type 'array'"),
        ({"scoring": {"shards": 0}}, "config, scoring.shards: 0 is neither 'auto' nor a whole number of at least 1"),
        ({"calibration": {"blocks": 0}}, "config, calibration.blocks: 0 is less than the minimum of 1"),
        ({"reference": {"name": "mine"}}, "config, reference: 'fasta' is a required property"),
    ],
)
def test_a_wrong_config_is_refused_with_a_sentence(tmp_path, change, sentence):
    answer = parse_workflow(tmp_path, {**copy.deepcopy(SMALLEST), **change})
    assert answer.returncode != 0
    assert f"{sentence}; config/README.md describes every key\n" in answer.stderr + answer.stdout
    assert "On instance" not in answer.stderr + answer.stdout


def test_a_config_without_variants_is_refused_with_a_sentence(tmp_path):
    answer = parse_workflow(tmp_path, {**SMALLEST, "variants": []})
    assert answer.returncode != 0
    assert "name at least one VCF or BCF file" in answer.stderr + answer.stdout


def test_the_sample_sheet_has_the_header_and_no_sample():
    assert (REPOSITORY / "config" / "samples.tsv").read_text() == "sample\tvcf\n"


# --- the registry ---


def test_the_shipped_registry_is_valid(registry_schema):
    jsonschema.Draft202012Validator.check_schema(registry_schema)
    jsonschema.validate(read("config/models.yaml"), registry_schema)


def test_the_registry_schema_describes_exactly_the_fields_of_a_model(registry_schema):
    entry = registry_schema["properties"]["models"]["additionalProperties"]
    known = {field.name: field for field in fields(ModelFacts) if field.name != "id"}
    assert set(entry["properties"]) == set(known)
    needed = {name for name, field in known.items() if field.default is field.default_factory is MISSING}
    assert set(entry["required"]) == needed
    assert [name for name, value in entry["properties"].items() if not value.get("description", "").strip()] == []


def test_the_registry_schema_knows_the_families_of_the_adapters(registry_schema):
    from seqprior.adapters import FAMILIES

    entry = registry_schema["properties"]["models"]["additionalProperties"]
    others = {"protein-mpnn", "esmfold"}  # which answer other questions than an adapter is asked
    assert set(entry["properties"]["family"]["enum"]) == {*FAMILIES, *others}


@pytest.mark.parametrize(
    "change",
    [
        {"family": "unheard-of"},
        {"digest": "c7985d"},
        {"window": "1019"},
        {"colour": "blue"},
        {"family": "bert", "objective": "masked"},  # without tokens
        {"family": "bert", "objective": "masked", "tokens": {"pad": "[PAD]"}},  # without a mask
        {"family": "bert", "objective": "causal", "tokens": {"mask": "[MASK]"}},
        {"family": "llama", "objective": "masked", "tokens": {"mask": "[MASK]"}},
        {"objective": "masked"},  # of a bidirectional network
        {"tokenisation": "kmer"},  # of a bidirectional network
        {"vocabulary": {"A": -1}},
        {"vocabulary": {"A": "7"}},
        {"hub": "owner/name"},  # beside a path
    ],
)
def test_a_wrong_registry_entry_is_refused(registry_schema, change):
    registry = read("config/models.yaml")
    registry["models"]["yeast-mini"] |= change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(registry, registry_schema)


def test_the_wrong_entries_have_one_fault_each(registry_schema):
    registry = read("config/models.yaml")
    good = {key: value for key, value in registry["models"]["yeast-mini"].items() if key != "digest"}
    tokens = {"mask": "[MASK]"}
    for change in (
        {"family": "bert", "objective": "masked", "tokens": tokens},
        {"family": "llama", "objective": "causal", "tokens": {}},
        {"family": "esm", "objective": "masked", "tokens": tokens, "tokenisation": "kmer", "k": 6},
        {"family": "bert", "objective": "masked", "tokens": tokens, "vocabulary": {"A": 0}},
    ):
        jsonschema.validate({"models": {"m": {**good, **change}}}, registry_schema)
    wrong = {"family": "esm", "objective": "masked", "tokens": tokens, "tokenisation": "kmer"}  # without k
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"models": {"m": {**good, **wrong}}}, registry_schema)


def test_the_entry_of_the_usage_page_is_valid(registry_schema):
    blocks = re.findall(r"```yaml\n(models:\n.*?)```", (REPOSITORY / "docs" / "usage.md").read_text(), re.DOTALL)
    entries = [yaml.safe_load(block) for block in blocks if "family:" in block]
    assert len(entries) == 1
    jsonschema.validate(entries[0], registry_schema)
    assert entries[0]["models"].popitem()[1]["objective"] == "masked"


def test_shipped_weights_are_those_of_the_registry():
    shipped = [facts for facts in read_registry(REPOSITORY / "config" / "models.yaml").values() if facts.path]
    assert shipped
    for facts in shipped:
        weights = (REPOSITORY / facts.path / "model.safetensors").read_bytes()
        assert hashlib.sha256(weights).hexdigest() == facts.digest
        (length,) = struct.unpack("<Q", weights[:8])
        tensors = json.loads(weights[8 : 8 + length])
        tensors.pop("__metadata__", None)
        sizes = [tensor["data_offsets"][1] - tensor["data_offsets"][0] for tensor in tensors.values()]
        assert {tensor["dtype"] for tensor in tensors.values()} == {"F32"}
        assert sum(sizes) == 4 * facts.parameters


# --- the profiles ---


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.parent.name)
def test_a_profile_holds_nothing_of_one_site_and_no_science(path):
    profile = yaml.safe_load(path.read_text())
    assert not profile.keys() & {"config", "configfile", "configfiles"}
    asked = [profile.get("default-resources", {}), *profile.get("set-resources", {}).values()]
    assert set().union(*asked) <= {"mem_mb", "runtime"}


def test_no_profile_loads_by_itself():
    assert sorted(path.parent.name for path in PROFILES) == ["cpu", "local-gpu", "slurm"]


def test_the_slurm_profile_asks_at_first_for_what_the_rules_declare():
    profile = yaml.safe_load((REPOSITORY / "profiles" / "slurm" / "config.yaml").read_text())
    declared = {}
    for name, body in re.findall(r"^rule (\w+):\n(.*?)(?=^rule |\Z)", RULES, re.MULTILINE | re.DOTALL):
        numbers = re.findall(r"^        (mem_mb|runtime)=(\d+),$", body, re.MULTILINE)
        declared[name] = {key: f"{number} * attempt" for key, number in numbers}
    assert profile["set-resources"] == declared


def test_an_own_config_takes_nothing_from_the_demo(tmp_path):
    (tmp_path / "genome.fa").write_text(">one\nACGT\n")
    config = {"cohort": "mine", "reference": {"name": "own", "fasta": "genome.fa"}, "models": {"dna": ["yeast-mini"]}}
    answer = parse_workflow(tmp_path, config)
    assert answer.returncode != 0
    assert "config: neither samples nor variants names a file" in answer.stdout + answer.stderr
