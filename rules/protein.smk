"""Protein stage: what each allele does to the genes.

Requires  {base}/variants.parquet; config: reference.genes, consequences.source
Produces  {base}/consequences.parquet   gene, transcript, consequence, protein change
"""


rule annotate_consequences:
    input:
        cli=script("annotate_consequences.py"),
        lib=library("errors", "files", "columns", "contigs", "genes", "consequences"),
        variants="{base}/variants.parquet",
        summary="{base}/variants.json",
        fasta=FASTA,
        genes=GENES,
    output:
        table="{base}/consequences.parquet",
    log:
        "logs/{base}/annotate_consequences.log",
    benchmark:
        "logs/{base}/annotate_consequences.benchmark.tsv"
    conda:
        "../envs/protein.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        # the background comes from no file, so nothing but csq can say what is neutral in it
        source=lambda wildcards: "csq" if wildcards.base == BACKGROUND else config["consequences"]["source"],
    shell:
        "python {input.cli:q} --variants {input.variants:q} --summary {input.summary:q} --fasta {input.fasta:q}"
        " --genes {input.genes:q} --source {params.source} --output {output.table:q} 2>&1 | tee {log:q} >&2"
