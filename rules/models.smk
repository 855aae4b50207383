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
        lock=config["models"]["lock"],  # a resource, since another place of the file changes nothing
    params:
        checkpoint=lambda wildcards, input: os.path.dirname(input.checkpoint[0]) if input.checkpoint else "",
        keep="" if config["models"]["registry"] else "--copy",  # shipped files are in a cache that ends with the run
        folder=subpath(output.manifest, parent=True),
    shell:
        "python {input.cli:q} --registry {input.registry:q} --model {wildcards.model:q}"
        " --checkpoint {params.checkpoint:q} {params.keep:q} --lock {resources.lock:q} --output {params.folder:q}"
        " 2>&1 | tee {log:q} >&2"


rule list_models:
    input:
        cli=script("list_models.py"),
        lib=library("errors", "files", "models", "fetching", "configuration", "catalogue"),
        registry=REGISTRY,
        manifests=expand(rules.fetch_model.output.manifest, model=ALL_MODELS),
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
