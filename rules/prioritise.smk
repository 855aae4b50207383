"""Prioritise stage: calibration against neutral alleles, and the ranking.

Requires  scores and consequences; config: calibration, prioritise
Produces  results/shared/{reference}/background/          random alleles of the reference
          results/shared/{reference}/calibration/{model}  contexts.tsv, kinds.tsv, calibration.json
          results/{cohort}/ranked.tsv, .parquet, .vcf.gz (with .tbi)
"""


rule draw_background:
    input:
        cli=script("draw_background.py"),
        lib=library("errors", "files", "columns", "contigs", "sequence", "vcf", "variants", "calibration"),
        fasta=FASTA,
    output:
        variants=f"{BACKGROUND}/variants.parquet",
        summary=f"{BACKGROUND}/variants.json",
    log:
        f"logs/{REFERENCE}/draw_background.log",
    conda:
        "../envs/prioritise.yaml"
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        **{key: config["calibration"][key] for key in ("blocks", "block_length", "others", "seed")},
    shell:
        "python {input.cli:q} --fasta {input.fasta:q} --blocks {params.blocks} --block-length {params.block_length}"
        " --others {params.others} --seed {params.seed} --output {output.variants:q} --summary {output.summary:q}"
        " 2>&1 | tee {log:q} >&2"


rule calibrate_scores:
    input:
        cli=script("calibrate_scores.py"),
        lib=library("errors", "files", "columns", "contigs", "sequence", "vcf", "variants", "calibration"),
        shards=[f"{BACKGROUND}/shards/{{model}}/{shard}.parquet" for shard in BACKGROUND_SHARDS],
        consequences=f"{BACKGROUND}/consequences.parquet",
        fasta=FASTA,
    output:
        folder=directory(f"{SHARED}/calibration/{{model}}"),
    log:
        f"logs/{REFERENCE}/calibrate_scores.{{model}}.log",
    conda:
        "../envs/prioritise.yaml"
    resources:
        mem_mb=1000,
        runtime=15,
    params:
        neutral=config["calibration"]["neutral"],
    shell:
        "python {input.cli:q} --shards {input.shards:q} --consequences {input.consequences:q}"
        " --model {wildcards.model:q} --neutral {params.neutral:q} --fasta {input.fasta:q} --output {output.folder:q} 2>&1 | tee {log:q} >&2"


rule rank_variants:
    input:
        cli=script("rank_variants.py"),
        lib=library(
            "errors",
            "files",
            "columns",
            "contigs",
            "sequence",
            "vcf",
            "variants",
            "calibration",
            "genes",
            "consequences",
            "prioritise",
        ),
        variants=rules.normalise_variants.output.variants,
        records=rules.normalise_variants.output.records,
        consequences=f"results/{COHORT}/consequences.parquet",
        scores=expand(rules.gather_scores.output.scores, base=VARIANTS, model=MODELS),
        calibrations=expand(rules.calibrate_scores.output.folder, model=MODELS),
        proteins=expand(rules.gather_protein_evidence.output.evidence, base=VARIANTS) if GENES else [],
        regulation=expand(rules.score_regulation.output.table, base=VARIANTS) if REGULATED else [],
        contigs=CONTIGS,
    output:
        tsv=f"results/{COHORT}/ranked.tsv",
        parquet=f"results/{COHORT}/ranked.parquet",
        vcf=f"results/{COHORT}/ranked.vcf.gz",
        index=f"results/{COHORT}/ranked.vcf.gz.tbi",
    log:
        f"logs/{COHORT}/rank_variants.log",
    benchmark:
        f"logs/{COHORT}/rank_variants.benchmark.tsv"
    conda:
        "../envs/prioritise.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        models=MODELS,
        settings=json.dumps(config["prioritise"]),
    shell:
        "python {input.cli:q} --variants {input.variants:q} --records {input.records:q}"
        " --consequences {input.consequences:q} --models {params.models:q} --scores {input.scores:q}"
        " --calibrations {input.calibrations:q} --proteins {input.proteins:q} --regulation {input.regulation:q} --contigs {input.contigs:q} --settings {params.settings:q}"
        " --tsv {output.tsv:q} --parquet {output.parquet:q} --vcf {output.vcf:q} 2>&1 | tee {log:q} >&2"
