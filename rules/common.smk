"""What every stage shares: the checked config, the cohort's files, where scripts and their libraries are."""

import csv
import json
import math
import os
import re

import yaml


def check(data, schema, what, described):
    """Validate and fill in defaults; an error is one sentence that names the key."""
    try:
        validate(data, schema)
    except WorkflowError as error:
        fault = error.__context__  # the message alone also prints the schema
        if not hasattr(fault, "json_path"):
            raise
        where = fault.json_path.removeprefix("$").lstrip(".") or "top level"
        message = fault.message
        if fault.validator == "oneOf":  # its own message names nothing
            message = f"{fault.instance!r} is neither {' nor '.join(map(option, fault.validator_value))}"
        raise WorkflowError(f"{what}, {where}: {message}; {described} describes every key")


def option(schema):
    """One of several schemas in words."""
    words = schema.get("type", "").replace("integer", "a whole number")
    words += f" of at least {schema['minimum']}" if "minimum" in schema else ""
    return repr(schema["const"]) if "const" in schema else words or f"an entry with {schema['required'][0]}"


def require_finite(values, where="config"):
    """NaN and infinity are numbers to a schema, and would quietly undo the ranking."""
    if isinstance(values, float) and not math.isfinite(values):
        raise WorkflowError(f"{where}: {values} is no finite number; give one")
    for key, value in values.items() if isinstance(values, dict) else ():
        require_finite(value, f"{where}, {key}")


require_finite(config)
check(config, "../schemas/config.schema.yaml", "config", "config/README.md")

for section, key in (("scoring", "store"), ("models", "lock")):
    if config[section][key]:
        config[section][key] = os.path.expanduser(config[section][key])

COHORT = config["cohort"]
REFERENCE = config["reference"]["name"]
MODELS = config["models"]["dna"]
SHARED = f"results/shared/{REFERENCE}"
BACKGROUND = f"{SHARED}/background"
# Alleles of a cohort, candidate edits, and all changes of some regions: each a folder with a variants.parquet.
VARIANTS, EDITED, SATURATED = f"results/{COHORT}", f"results/{COHORT}/edits", f"results/{COHORT}/saturated_regions"
FASTA = f"{SHARED}/genome.fa.gz"
CONTIGS = f"{SHARED}/contigs.tsv"
GENES = f"{SHARED}/genes.gff3.gz" if config["reference"]["genes"] else []
REGISTRY = config["models"]["registry"] or workflow.source_path("../config/models.yaml")


def shard_count():
    """Scoring jobs of a cohort; `auto` takes what the target estimate found."""
    estimate = f"results/{COHORT}/estimate.json"
    if config["scoring"]["shards"] != "auto":
        return config["scoring"]["shards"]
    if not os.path.isfile(estimate):
        return 2
    with open(estimate) as handle:
        return max(model["shards"] for model in json.load(handle)["models"].values())


SHARDS = [f"{number:04d}" for number in range(shard_count())]
BACKGROUND_SHARDS = ["0000", "0001"]  # of all cohorts alike, so that none of them cuts it anew

# Where seqprior is a module of another workflow, that one's rules may make the input files.
SEQPRIOR = os.path.dirname(workflow.current_basedir.get_path_or_uri(secret_free=True))
STANDALONE = os.path.realpath(workflow.basedir) in map(os.path.realpath, (SEQPRIOR, f"{SEQPRIOR}/workflow"))


def require_files(paths, where):
    """Stop before any job if a local file is missing."""
    for path in filter(None, paths):
        if "{" in path:
            raise WorkflowError(
                f"{where}: {path!r} holds a brace, which Snakemake reads as a wildcard; rename the file"
            )
        if path.startswith("-"):
            raise WorkflowError(f"{where}: {path!r} starts with a dash, which reads like an option; write ./{path}")
        if STANDALONE and "://" not in path and not os.path.isfile(path):
            raise WorkflowError(f"{where}: no file {path!r}; paths count from the working directory, {os.getcwd()}")


def read_samples(path):
    """(sample, VCF) of each row of the sample sheet."""
    require_files([path], "config, samples")
    with open(path, newline="", encoding="utf-8-sig") as sheet:
        table = csv.DictReader(sheet, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = {"sample", "vcf"} - set(table.fieldnames or ())
        if missing:
            columns = " and ".join(sorted(missing))
            raise WorkflowError(f"{path}, line 1: no column {columns}; expected tab-separated sample, vcf")
        rows = list(table)
    for number, row in enumerate(rows, 2):
        if not row["sample"] or not row["vcf"]:
            raise WorkflowError(f"{path}, line {number}: sample or vcf is empty; expected tab-separated sample, vcf")
        require_files([row["vcf"]], f"{path}, line {number}")
    return [(row["sample"], row["vcf"]) for row in rows]


SAMPLES = read_samples(config["samples"]) if config["samples"] else []
INPUT_VCFS = list(dict.fromkeys([*(vcf for _, vcf in SAMPLES), *config["variants"]]))
named = [config["regions"], config["edits"], config["protein"]["saturation"], config["regulatory"]["elements"]]
if not (INPUT_VCFS or any(named)):
    raise WorkflowError("config: neither samples nor variants names a file; name at least one VCF or BCF file")
require_files(config["variants"], "config, variants")
for key in ("regions", "edits"):
    require_files([config[key]], f"config, {key}")
for section, key in (("reference", "fasta"), ("reference", "genes"), ("report", "highlights"), ("models", "registry")):
    require_files([config[section][key]], f"config, {section}.{key}")


def one_of(values):
    """A wildcard that is one of some texts; nothing fits none of them."""
    return "|".join(map(re.escape, values)) or "(?!)"


def input_vcfs(wildcards):
    """What the variants stage reads; a config of regions alone has nothing for it."""
    if not INPUT_VCFS:
        raise WorkflowError(
            "config: this target needs variants, and neither samples nor variants names a file; name a VCF or BCF file"
        )
    return INPUT_VCFS


wildcard_constraints:
    base=one_of((VARIANTS, EDITED, SATURATED, BACKGROUND)),
    shard=r"\d{4}",


def script(name):
    """A CLI of scripts/, as an input, so that editing it reruns its rule (also when imported as a module)."""
    return workflow.source_path(f"../scripts/{name}")


def library(*names):
    """Library files a CLI imports, as inputs. tests/workflow checks these lists against the imports."""
    return [workflow.source_path(f"../scripts/seqprior/{name}.py") for name in ("__init__", *names)]
