"""What every stage shares: the checked config, the cohort's files, where scripts and their libraries are."""

import csv
import json
import os
import re

import yaml

CONFIG_SCHEMA = "../schemas/config.schema.yaml"


def check_config():
    """Validate the config and fill in defaults; an error is one sentence that names the key."""
    try:
        validate(config, CONFIG_SCHEMA)
    except WorkflowError as error:
        fault = error.args[-1]
        if not hasattr(fault, "json_path"):
            raise
        where = fault.json_path.removeprefix("$").lstrip(".") or "top level"
        raise WorkflowError(f"config, {where}: {fault.message}; config/README.md describes every key")


check_config()

COHORT = config["cohort"]
REFERENCE = config["reference"]["name"]
MODELS = config["models"]["dna"]
SHARED = f"results/shared/{REFERENCE}"
BACKGROUND = f"{SHARED}/background"
FASTA = f"{SHARED}/genome.fa.gz"
CONTIGS = f"{SHARED}/contigs.tsv"
GENES = f"{SHARED}/genes.gff3.gz" if config["reference"]["genes"] else []
REGISTRY = config["models"]["registry"] or workflow.source_path("../config/models.yaml")
SHARDS = [f"{number:04d}" for number in range(config["scoring"]["shards"])]


def read_samples(path):
    """(sample, VCF) of each row of the sample sheet."""
    try:
        with open(path, newline="") as sheet:
            rows = list(csv.DictReader(sheet, delimiter="\t"))
    except OSError as error:
        raise WorkflowError(f"{path}: {error.strerror}; expected the sample sheet that the config names as samples")
    for number, row in enumerate(rows, 2):
        if not row.get("sample") or not row.get("vcf"):
            raise WorkflowError(f"{path}, line {number}: sample or vcf is empty; expected tab-separated sample, vcf")
    return [(row["sample"], row["vcf"]) for row in rows]


SAMPLES = read_samples(config["samples"]) if config["samples"] else []
INPUT_VCFS = list(dict.fromkeys([*(vcf for _, vcf in SAMPLES), *config["variants"]]))
if not INPUT_VCFS:
    raise WorkflowError("config: neither samples nor variants names a file; name at least one VCF or BCF file")


wildcard_constraints:
    base="|".join(map(re.escape, (f"results/{COHORT}", BACKGROUND))),
    model="|".join(map(re.escape, MODELS)),
    shard=r"\d{4}",


def script(name):
    """A CLI of scripts/, as an input, so that editing it reruns its rule (also when imported as a module)."""
    return workflow.source_path(f"../scripts/{name}")


def library(*names):
    """Library files a CLI imports, as inputs. tests/workflow checks these lists against the imports."""
    return [workflow.source_path(f"../scripts/seqprior/{name}.py") for name in ("__init__", *names)]


def read_models(path):
    """Entries of the model registry by name."""
    with open(path) as registry:
        models = yaml.safe_load(registry)["models"]
    for name in MODELS:
        if name not in models:
            known = ", ".join(sorted(models))
            raise WorkflowError(f"config, models.dna: no model {name!r} in the registry; known are {known}")
    return models


def checkpoint_files(folder):
    """Files of a checkpoint; folders of the shipped registry count from seqprior's own folder."""
    names = ("model.safetensors", "config.json")
    shipped = config["models"]["registry"] is None
    return [workflow.source_path(f"../{folder}/{name}") if shipped else os.path.join(folder, name) for name in names]


CHECKPOINTS = {name: checkpoint_files(entry["path"]) for name, entry in read_models(REGISTRY).items() if name in MODELS}
