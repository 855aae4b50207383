"""Embedding stage: scores by a sequence model, one job per shard, the model loaded once per job.

Requires  {base}/windows/{model}/{shard}, results/models/{model}; config: scoring, models
Produces  {base}/shards/{model}/{shard}.parquet     scores, not yet calibrated
          {base}/shards/{model}/{shard}.json        throughput, share from the score store, measured error
          scoring.store                             answers of the models; no output, since jobs and cohorts share it
          {base}/scores/{model}.parquet             every unique allele, calibrated
"""


rule score_variants:
    input:
        cli=script("score_variants.py"),
        lib=library(*ENGINE, "embedding", "store"),
        shard="{base}/windows/{model}/{shard}",
        registry=REGISTRY,
        manifest=rules.fetch_model.output.manifest,
    output:
        scores="{base}/shards/{model}/{shard}.parquet",
        stats="{base}/shards/{model}/{shard}.json",
    log:
        "logs/{base}/score_variants.{model}.{shard}.log",
    benchmark:
        "logs/{base}/score_variants.{model}.{shard}.benchmark.tsv"
    conda:
        "../envs/embedding.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
        gpu=1 if config["scoring"]["device"] == "gpu" else 0,
        # Here and not under params, since a change of these changes no score and shall rerun nothing.
        store=config["scoring"]["store"] or "",
        lock=config["models"]["lock"],
        batch_tokens=str(config["scoring"]["batch_tokens"]),
    params:
        device=config["scoring"]["device"],
        dtype=config["scoring"]["dtype"],
        compiled="--compile" if config["scoring"]["compile"] else "",
        marginals=config["scoring"]["marginals"],
        pseudo_likelihood=config["scoring"]["pseudo_likelihood"],
        checkpoint=subpath(input.manifest, parent=True),
        allowed=lambda wildcards: [model for model in config["models"]["remote_code"] if model == wildcards.model],
        embeddings=lambda wildcards: (
            "" if config["scoring"]["embeddings"] and wildcards.base != BACKGROUND else "--no-embeddings"
        ),
    shell:
        "python {input.cli:q} --shard {input.shard:q} --registry {input.registry:q} --model {wildcards.model:q}"
        " --checkpoint {params.checkpoint:q} --lock {resources.lock:q} --allow-code {params.allowed:q}"
        " --device {params.device} --dtype {params.dtype} {params.compiled} --batch-tokens {resources.batch_tokens:q}"
        " --marginals {params.marginals} --pseudo-likelihood {params.pseudo_likelihood} {params.embeddings}"
        " --store {resources.store:q} --threads {threads} --output {output.scores:q} --stats {output.stats:q} 2>&1 | tee {log:q} >&2"


rule gather_scores:
    input:
        cli=script("gather_scores.py"),
        lib=library("errors", "files", "columns", "contigs", "sequence", "vcf", "variants", "calibration", "scores"),
        variants="{base}/variants.parquet",
        shards=[f"{{base}}/shards/{{model}}/{shard}.parquet" for shard in SHARDS],
        calibration=f"{SHARED}/calibration/{{model}}",
        fasta=FASTA,
    output:
        scores="{base}/scores/{model}.parquet",
    log:
        "logs/{base}/gather_scores.{model}.log",
    wildcard_constraints:
        base=one_of((VARIANTS, EDITED, SATURATED)),
    conda:
        "../envs/prioritise.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        "python {input.cli:q} --variants {input.variants:q} --shards {input.shards:q}"
        " --calibration {input.calibration:q} --fasta {input.fasta:q} --output {output.scores:q} 2>&1 | tee {log:q} >&2"
