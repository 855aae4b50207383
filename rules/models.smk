"""Models stage: each checkpoint, fetched once from a hub or linked from a folder, and recorded in models.lock.

Requires  config: models (dna, registry, lock); a network for hub models that HF_HOME lacks
Produces  results/models/{model}/manifest.json   the checkpoint lies beside it; written last, so that it stands for all
          results/models/models.tsv              what the registry offers and what is fetched
          models.lock                            for the user to commit; no output, since every model's job writes to it

The jobs run where snakemake runs: compute nodes of a cluster often have no network. The manifest and not the folder is
the output, since Snakemake compares a small file's content where its time alone has changed, as after a copy of the
project. There is no `cache:`: what a hub gives depends on models.lock, which the cache's key cannot see, and the hub's
own cache in HF_HOME is shared between projects already.
"""


def read_models(path):
    """Entries of the model registry by name."""
    with open(path) as registry:
        try:
            entries = yaml.safe_load(registry)
        except yaml.YAMLError as error:
            raise WorkflowError(f"{path}: expected a model registry in YAML ({error})")
    entries = entries if isinstance(entries, dict) else {}
    check(entries, "../schemas/models.schema.yaml", "model registry", "schemas/models.schema.yaml")
    for name in MODELS:
        if name not in entries["models"]:
            known = ", ".join(sorted(entries["models"]))
            raise WorkflowError(f"config, models.dna: no model {name!r} in the registry; known are {known}")
    return entries["models"]


def checkpoint_files(model):
    """Files of a model's folder; none for a model of a hub. Paths of the shipped registry count from seqprior's folder."""
    folder = REGISTERED[model].get("path")
    if folder is None:
        return []
    if not config["models"]["registry"]:
        return [workflow.source_path(f"../{folder}/{name}") for name in ("model.safetensors", "config.json")]
    kinds = (".safetensors", ".json", ".txt", ".bin", ".py")
    found = sorted(name for name in os.listdir(folder) if name.endswith(kinds)) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in found or ["config.json"]]


REGISTERED = read_models(REGISTRY)


rule fetch_model:
    input:
        cli=script("fetch_model.py"),
        lib=library("errors", "files", "models", "fetching"),
        registry=REGISTRY,
        checkpoint=lambda wildcards: checkpoint_files(wildcards.model),
    output:
        manifest="results/models/{model}/manifest.json",
    log:
        "logs/models/fetch_model.{model}.log",
    localrule: True
    conda:
        "../envs/embedding.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        checkpoint=lambda wildcards, input: os.path.dirname(input.checkpoint[0]) if input.checkpoint else "",
        keep="" if config["models"]["registry"] else "--copy",  # shipped files are in a cache that ends with the run
        lock=config["models"]["lock"],
        folder=subpath(output.manifest, parent=True),
    shell:
        "python {input.cli:q} --registry {input.registry:q} --model {wildcards.model:q}"
        " --checkpoint {params.checkpoint:q} {params.keep:q} --lock {params.lock:q} --output {params.folder:q}"
        " 2>&1 | tee {log:q} >&2"


rule list_models:
    input:
        cli=script("list_models.py"),
        lib=library("errors", "files", "models", "fetching", "catalogue"),
        registry=REGISTRY,
        manifests=expand(rules.fetch_model.output.manifest, model=MODELS),
    output:
        table="results/models/models.tsv",
    log:
        "logs/models/list_models.log",
    localrule: True
    conda:
        "../envs/embedding.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        lock=config["models"]["lock"],
        folder=subpath(output.table, parent=True),
    shell:
        "python {input.cli:q} --registry {input.registry:q} --folder {params.folder:q} --lock {params.lock:q}"
        " --output {output.table:q} 2>&1 | tee {log:q} >&2"
