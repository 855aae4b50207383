"""Embeddings, on request only (target `embeddings`): vectors of alleles or regions, one job a model.

Requires  {cohort}/variants.parquet and windows, or config: regions; results/models/{model}; config: embeddings, scoring
Produces  results/{cohort}/embeddings/{model}.zarr   a Zarr store; its zarr.json comes with all the rest and stands for it
          results/{cohort}/embeddings/{model}.h5ad   the same for AnnData, if embeddings.h5ad is true
"""

if config["embeddings"]["of"] == "regions" and not config["regions"]:
    raise WorkflowError("config, embeddings: of is regions and the key regions names no BED file; name one")
if config["embeddings"]["h5ad"] and config["embeddings"]["pool"] != "mean":
    raise WorkflowError("config, embeddings: h5ad needs one vector a row; set pool to mean, or h5ad to false")

if config["embeddings"]["of"] == "regions":
    EMBEDDED = {"regions": config["regions"]}
else:
    EMBEDDED = {
        "variants": rules.normalise_variants.output.variants,
        "shards": [f"results/{COHORT}/windows/{{model}}/{shard}" for shard in SHARDS],
    }


rule export_embeddings:
    input:
        **EMBEDDED,
        cli=script("export_embeddings.py"),
        lib=library(*ENGINE, "contigs", "vcf", "variants", "windows", "regions", "vectors"),
        fasta=FASTA,
        contigs=CONTIGS,
        registry=REGISTRY,
        manifest=rules.fetch_model.output.manifest,
    output:
        **({"h5ad": f"results/{COHORT}/embeddings/{{model}}.h5ad"} if config["embeddings"]["h5ad"] else {}),
        store=f"results/{COHORT}/embeddings/{{model}}.zarr/zarr.json",
    log:
        f"logs/{COHORT}/export_embeddings.{{model}}.log",
    benchmark:
        f"logs/{COHORT}/export_embeddings.{{model}}.benchmark.tsv"
    conda:
        "../envs/vectors.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=1 if config["scoring"]["device"] == "gpu" else 0,
        lock=config["models"]["lock"],
    params:
        sequences=lambda wildcards, input: [
            part
            for name in EMBEDDED
            for part in (f"--{name}", *([input[name]] if isinstance(input[name], str) else input[name]))
        ],
        aliases=json.dumps(config["reference"]["aliases"]),
        device=config["scoring"]["device"],
        dtype=config["scoring"]["dtype"],
        batch_tokens=config["scoring"]["batch_tokens"],
        max_unknown_share=config["scoring"]["max_unknown_share"],
        checkpoint=subpath(input.manifest, parent=True),
        allowed=lambda wildcards: [model for model in config["models"]["remote_code"] if model == wildcards.model],
        settings=json.dumps(config["embeddings"]),
        folder=subpath(output.store, parent=True),
        h5ad=lambda wildcards, output: ["--h5ad", output.h5ad] if config["embeddings"]["h5ad"] else [],
    shell:
        "python {input.cli:q} {params.sequences:q} --fasta {input.fasta:q} --contigs {input.contigs:q}"
        " --aliases {params.aliases:q} --registry {input.registry:q} --model {wildcards.model:q}"
        " --checkpoint {params.checkpoint:q} --lock {resources.lock:q} --allow-code {params.allowed:q}"
        " --device {params.device} --dtype {params.dtype} --batch-tokens {params.batch_tokens}"
        " --max-unknown-share {params.max_unknown_share} --settings {params.settings:q} --threads {threads}"
        " --output {params.folder:q} {params.h5ad:q} 2>&1 | tee {log:q} >&2"
