"""Windows stage, for a cohort, candidate edits, saturated regions and the neutral background alike ({base}).

Requires  {base}/variants.parquet; config: scoring
Produces  {base}/windows/{model}/{shard}/windows.parquet   distinct sequences
          {base}/windows/{model}/{shard}/alleles.parquet   alleles with their window and offset
"""


rule extract_windows:
    input:
        cli=script("extract_windows.py"),
        lib=library(
            "errors", "options", "files", "columns", "models", "contigs", "vcf", "variants", "shards", "windows"
        ),
        variants="{base}/variants.parquet",
        fasta=FASTA,
        registry=REGISTRY,
    output:
        shards=[directory(f"{{base}}/windows/{{model}}/{shard}") for shard in SHARDS],
    log:
        "logs/{base}/extract_windows.{model}.log",
    benchmark:
        "logs/{base}/extract_windows.{model}.benchmark.tsv"
    wildcard_constraints:
        base=one_of((VARIANTS, EDITED, SATURATED)),
    conda:
        "../envs/windows.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        max_unknown_share=config["scoring"]["max_unknown_share"],
        marginals=config["scoring"]["marginals"],
        pseudo_likelihood=config["scoring"]["pseudo_likelihood"],
    shell:
        "python {input.cli:q} --variants {input.variants:q} --fasta {input.fasta:q} --registry {input.registry:q}"
        " --model {wildcards.model:q} --max-unknown-share {params.max_unknown_share}"
        " --marginals {params.marginals} --pseudo-likelihood {params.pseudo_likelihood}"
        " --shards {output.shards:q} 2>&1 | tee {log:q} >&2"


use rule extract_windows as extract_background_windows with:
    output:
        shards=[directory(f"{{base}}/windows/{{model}}/{shard}") for shard in BACKGROUND_SHARDS],
    wildcard_constraints:
        base=re.escape(BACKGROUND),
