"""Embedding stage: scores by a sequence model, one job per shard, the model loaded once per job.

Requires  {base}/windows/{model}/{shard}; config: scoring
Produces  {base}/shards/{model}/{shard}.parquet     scores, not yet calibrated
          {base}/shards/{model}/{shard}.json        throughput
          results/{cohort}/scores/{model}.parquet   every unique allele, calibrated
"""


rule score_variants:
    input:
        cli=script("score_variants.py"),
        lib=library(
            "errors", "files", "columns", "sequence", "models", "bidirectional", "device", "adapters", "embedding"
        ),
        shard="{base}/windows/{model}/{shard}",
        registry=REGISTRY,
        checkpoint=lambda wildcards: CHECKPOINTS[wildcards.model],
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
    params:
        device=config["scoring"]["device"],
        dtype=config["scoring"]["dtype"],
        batch_tokens=config["scoring"]["batch_tokens"],
        pseudo_likelihood=config["scoring"]["pseudo_likelihood"],
        checkpoint=lambda wildcards, input: os.path.dirname(input.checkpoint[0]),
        embeddings=lambda wildcards: (
            "" if config["scoring"]["embeddings"] and wildcards.base != BACKGROUND else "--no-embeddings"
        ),
    shell:
        "python {input.cli:q} --shard {input.shard:q} --registry {input.registry:q} --model {wildcards.model:q}"
        " --checkpoint {params.checkpoint:q} --device {params.device} --dtype {params.dtype} --batch-tokens {params.batch_tokens}"
        " --pseudo-likelihood {params.pseudo_likelihood} {params.embeddings} --threads {threads}"
        " --output {output.scores:q} --stats {output.stats:q} 2>&1 | tee {log:q} >&2"


rule gather_scores:
    input:
        cli=script("gather_scores.py"),
        lib=library("errors", "files", "columns", "contigs", "sequence", "vcf", "variants", "calibration", "scores"),
        variants=rules.normalise_variants.output.variants,
        shards=[f"results/{COHORT}/shards/{{model}}/{shard}.parquet" for shard in SHARDS],
        calibration=f"{SHARED}/calibration/{{model}}",
        fasta=FASTA,
    output:
        scores=f"results/{COHORT}/scores/{{model}}.parquet",
    log:
        f"logs/{COHORT}/gather_scores.{{model}}.log",
    conda:
        "../envs/prioritise.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    shell:
        "python {input.cli:q} --variants {input.variants:q} --shards {input.shards:q}"
        " --calibration {input.calibration:q} --fasta {input.fasta:q} --output {output.scores:q} 2>&1 | tee {log:q} >&2"
