"""Candidate edits, on request (target `edits`): each one an allele that runs through the stages of a cohort.

Requires  config: edits, editing, scoring, prioritise; the reference
Produces  results/{cohort}/edits/edits.parquet      the edits, or outcomes of base editors, and their alleles
          results/{cohort}/edits/variants.parquet   these alleles and those of the same shape nearby
          results/{cohort}/edits/nearby.parquet     which are compared with which
          results/{cohort}/edits.tsv, .parquet      the edits, from the least to the most disruptive
"""


rule list_edits:
    input:
        cli=script("list_edits.py"),
        lib=library(
            "errors",
            "files",
            "columns",
            "contigs",
            "sequence",
            "vcf",
            "variants",
            "genes",
            "translation",
            "base_editing",
            "hgvs_names",
            "edits",
        ),
        edits=lambda wildcards: edits_file(),
        fasta=FASTA,
        contigs=CONTIGS,
        genes=GENES,
    output:
        edits=f"{EDITED}/edits.parquet",
        variants=f"{EDITED}/variants.parquet",
        nearby=f"{EDITED}/nearby.parquet",
        summary=f"{EDITED}/variants.json",
    log:
        f"logs/{COHORT}/list_edits.log",
    conda:
        "../envs/edits.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        aliases=json.dumps(config["reference"]["aliases"]),
        order=config["protein"]["transcripts"],
        editors=json.dumps(config["editing"]["editors"]),
        most_outcomes=config["editing"]["most_outcomes"],
        nearby=config["editing"]["nearby"],
        max_allele_length=config["scoring"]["max_allele_length"],
        folder=subpath(output.edits, parent=True),
    shell:
        "python {input.cli:q} --edits {input.edits:q} --fasta {input.fasta:q} --contigs {input.contigs:q}"
        " --aliases {params.aliases:q} --genes {input.genes:q} --transcripts {params.order:q}"
        " --editors {params.editors:q} --most-outcomes {params.most_outcomes} --nearby {params.nearby}"
        " --max-allele-length {params.max_allele_length} --output {params.folder:q} --summary {output.summary:q}"
        " 2>&1 | tee {log:q} >&2"


rule rank_edits:
    input:
        cli=script("rank_edits.py"),
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
            "edit_ranking",
        ),
        edits=rules.list_edits.output.edits,
        nearby=rules.list_edits.output.nearby,
        variants=rules.list_edits.output.variants,
        consequences=expand(rules.annotate_consequences.output.table, base=EDITED),
        scores=expand(rules.gather_scores.output.scores, base=EDITED, model=MODELS),
        calibrations=expand(rules.calibrate_scores.output.folder, model=MODELS),
        proteins=expand(rules.gather_protein_evidence.output.evidence, base=EDITED) if GENES else [],
        regulation=expand(rules.score_regulation.output.table, base=EDITED) if REGULATED else [],
    output:
        tsv=f"results/{COHORT}/edits.tsv",
        parquet=f"results/{COHORT}/edits.parquet",
    log:
        f"logs/{COHORT}/rank_edits.log",
    conda:
        "../envs/prioritise.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        models=MODELS,
        settings=json.dumps(config["prioritise"]),
    shell:
        "python {input.cli:q} --edits {input.edits:q} --nearby {input.nearby:q} --variants {input.variants:q}"
        " --consequences {input.consequences:q} --models {params.models:q} --scores {input.scores:q}"
        " --calibrations {input.calibrations:q} --proteins {input.proteins:q} --regulation {input.regulation:q}"
        " --settings {params.settings:q} --tsv {output.tsv:q} --parquet {output.parquet:q} 2>&1 | tee {log:q} >&2"
