"""Reference stage.

Requires  config: reference (fasta, sha256, genes)
Produces  results/shared/{reference}/genome.fa.gz    bgzip, with .fai and .gzi
          results/shared/{reference}/contigs.tsv     contig, length, aliases
          results/shared/{reference}/genes.gff3.gz   gene models as bcftools csq reads them, with .tbi
"""

FASTA_SOURCE = config["reference"]["fasta"]
FASTA_IS_URL = "://" in FASTA_SOURCE


rule prepare_reference:
    input:
        cli=script("prepare_reference.py"),
        lib=library("errors", "files", "contigs", "reference"),
        fasta=[] if FASTA_IS_URL else FASTA_SOURCE,
    output:
        fasta=FASTA,
        fai=f"{FASTA}.fai",
        gzi=f"{FASTA}.gzi",
        contigs=CONTIGS,
    log:
        f"logs/{REFERENCE}/prepare_reference.log",
    conda:
        "../envs/reference.yaml"
    resources:
        mem_mb=1000,
        runtime=60,
    params:
        source=lambda wildcards, input: input.fasta or FASTA_SOURCE,
        sha256=config["reference"]["sha256"],
    shell:
        "python {input.cli:q} --fasta {params.source:q} --sha256 {params.sha256:q}"
        " --output {output.fasta:q} --contigs {output.contigs:q} 2>&1 | tee {log:q} >&2"


rule prepare_genes:
    input:
        cli=script("prepare_genes.py"),
        lib=library("errors", "files", "contigs", "genes"),
        genes=config["reference"]["genes"] or [],
        contigs=CONTIGS,
    output:
        genes=f"{SHARED}/genes.gff3.gz",
        tbi=f"{SHARED}/genes.gff3.gz.tbi",
    log:
        f"logs/{REFERENCE}/prepare_genes.log",
    conda:
        "../envs/reference.yaml"
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        aliases=json.dumps(config["reference"]["aliases"]),
    shell:
        "python {input.cli:q} --genes {input.genes:q} --contigs {input.contigs:q}"
        " --aliases {params.aliases:q} --output {output.genes:q} 2>&1 | tee {log:q} >&2"
