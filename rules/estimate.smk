"""Estimate, on request only (target `estimate`): what scoring will cost, before any of it is done.

Requires  {base}/windows, results/models/{model}; config: scoring, models
Produces  results/shared/probes/{model}.json   tokens a second on the device, measured on random DNA for all cohorts
          results/{cohort}/estimate.tsv        sites, tokens, share of the score store, device hours, disk, by model
          results/{cohort}/estimate.json       the same; scoring.shards: auto reads the number of shards from it
"""

import glob
import hashlib

STORED_PARTS = os.path.join(glob.escape(config["scoring"]["store"] or os.devnull), "*", "part-*.parquet")


rule probe_model:
    input:
        cli=script("probe_model.py"),
        lib=library(*ENGINE, "embedding", "costs", "probing", "store"),
        registry=REGISTRY,
        manifest=rules.fetch_model.output.manifest,
    output:
        probe="results/shared/probes/{model}.json",
    log:
        "logs/models/probe_model.{model}.log",
    conda:
        "../envs/embedding.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=1 if config["scoring"]["device"] == "gpu" else 0,
        lock=config["models"]["lock"],
    params:
        device=config["scoring"]["device"],
        dtype=config["scoring"]["dtype"],
        compiled="--compile" if config["scoring"]["compile"] else "",
        batch_tokens=config["scoring"]["batch_tokens"],
        marginals=config["scoring"]["marginals"],
        pseudo_likelihood=config["scoring"]["pseudo_likelihood"],
        checkpoint=subpath(input.manifest, parent=True),
        allowed=lambda wildcards: [model for model in config["models"]["remote_code"] if model == wildcards.model],
    shell:
        "python {input.cli:q} --registry {input.registry:q} --model {wildcards.model:q}"
        " --checkpoint {params.checkpoint:q} --lock {resources.lock:q} --allow-code {params.allowed:q}"
        " --device {params.device} --dtype {params.dtype} {params.compiled} --batch-tokens {params.batch_tokens}"
        " --marginals {params.marginals} --pseudo-likelihood {params.pseudo_likelihood}"
        " --threads {threads} --output {output.probe:q} 2>&1 | tee {log:q} >&2"


rule estimate_cost:
    input:
        cli=script("estimate_cost.py"),
        lib=library(
            "errors",
            "options",
            "files",
            "columns",
            "sequence",
            "residues",
            "models",
            "fetching",
            "shards",
            "tokenisation",
            "plans",
            "work",
            "costs",
            "store",
        ),
        registry=REGISTRY,
        manifests=expand(rules.fetch_model.output.manifest, model=MODELS),
        probes=expand(rules.probe_model.output.probe, model=MODELS),
        windows=expand(f"results/{COHORT}/windows/{{model}}/{{shard}}", model=MODELS, shard=SHARDS),
        background=expand(f"{BACKGROUND}/windows/{{model}}/{{shard}}", model=MODELS, shard=BACKGROUND_SHARDS),
    output:
        tsv=f"results/{COHORT}/estimate.tsv",
        json=f"results/{COHORT}/estimate.json",
    log:
        f"logs/{COHORT}/estimate_cost.log",
    conda:
        "../envs/embedding.yaml"
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        cohort=COHORT,
        models=MODELS,
        checkpoints=lambda wildcards, input: [os.path.dirname(manifest) for manifest in input.manifests],
        base=lambda wildcards, input: os.path.normpath(f"{input.windows[0]}/../../.."),
        background=lambda wildcards, input: os.path.normpath(f"{input.background[0]}/../../.."),
        shards=SHARDS,
        shard_minutes=config["scoring"]["shard_minutes"],
        marginals=config["scoring"]["marginals"],
        pseudo_likelihood=config["scoring"]["pseudo_likelihood"],
        embeddings="" if config["scoring"]["embeddings"] else "--no-embeddings",
        compiled="--compile" if config["scoring"]["compile"] else "",
        store=["--store", config["scoring"]["store"]] if config["scoring"]["store"] else [],
        # What the store holds, as one short text: another estimate is due when it changes.
        answers=lambda wildcards: hashlib.sha256(" ".join(sorted(glob.glob(STORED_PARTS))).encode()).hexdigest(),
    shell:
        "python {input.cli:q} --cohort {params.cohort:q} --models {params.models:q} --registry {input.registry:q}"
        " --checkpoints {params.checkpoints:q} --probes {input.probes:q} --base {params.base:q}"
        " --background {params.background:q} --shards {params.shards:q} --shard-minutes {params.shard_minutes:q}"
        " --marginals {params.marginals} --pseudo-likelihood {params.pseudo_likelihood} {params.embeddings}"
        " {params.compiled} {params.store:q} --tsv {output.tsv:q} --json {output.json:q} 2>&1 | tee {log:q} >&2"
