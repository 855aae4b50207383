"""Variants stage.

Requires  config: samples, variants, scoring.max_allele_length, reference.max_mismatch_share, reference.aliases
Produces  results/{cohort}/variants.parquet   unique alleles, left-aligned, each with a status and a reason
          results/{cohort}/records.parquet    the input's records and the alleles they hold
          results/{cohort}/variants.json      counts by file, status and reason; they add up to the input's
"""


rule normalise_variants:
    input:
        cli=script("normalise_variants.py"),
        lib=library("errors", "files", "columns", "contigs", "vcf", "variants"),
        variants=input_vcfs,
        fasta=FASTA,
        contigs=CONTIGS,
    output:
        variants=f"results/{COHORT}/variants.parquet",
        records=f"results/{COHORT}/records.parquet",
        summary=f"results/{COHORT}/variants.json",
    log:
        f"logs/{COHORT}/normalise_variants.log",
    benchmark:
        f"logs/{COHORT}/normalise_variants.benchmark.tsv"
    conda:
        "../envs/variants.yaml"
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        samples=json.dumps(SAMPLES),
        aliases=json.dumps(config["reference"]["aliases"]),
        max_allele_length=config["scoring"]["max_allele_length"],
        max_mismatch_share=config["reference"]["max_mismatch_share"],
        folder=subpath(output.variants, parent=True),
    shell:
        "python {input.cli:q} --variants {input.variants:q} --samples {params.samples:q}"
        " --fasta {input.fasta:q} --contigs {input.contigs:q} --aliases {params.aliases:q}"
        " --max-allele-length {params.max_allele_length} --max-mismatch-share {params.max_mismatch_share}"
        " --output {params.folder:q} --summary {output.summary:q} 2>&1 | tee {log:q} >&2"
