"""Saturation, on request only (target `saturation`): every substitution of chosen proteins.

Requires  config: protein.saturation, reference.genes, models (protein, structure)
Produces  results/{cohort}/saturation/proteins.parquet   the chosen proteins
          results/{cohort}/saturation.tsv                LLR and features of every substitution
          results/{cohort}/saturation.html               heat maps, one self-contained file
"""


rule list_saturated_proteins:
    input:
        cli=script("list_proteins.py"),
        lib=library("errors", "files", "columns", "contigs", "genes", "residues"),
        fasta=FASTA,
        genes=GENES,
        sequences=config["protein"]["sequences"] or [],
        uniprot=config["protein"]["uniprot"] or [],
    output:
        proteins=f"{SATURATION}/proteins.parquet",
    log:
        f"logs/{COHORT}/list_saturated_proteins.log",
    conda:
        "../envs/protein.yaml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        names=lambda wildcards: saturated(),
        order=config["protein"]["transcripts"],
        codes=json.dumps(config["reference"]["genetic_codes"]),
    shell:
        "TODO"


rule write_saturation:
    input:
        cli=script("write_saturation.py"),
        lib=library("errors", "files", "columns", "residues", "saturation"),
        template=workflow.source_path("../report/saturation.html.j2"),
        proteins=rules.list_saturated_proteins.output.proteins,
        profiles=expand(
            rules.score_proteins.output.profiles, proteins=SATURATION, model=PROTEIN_MODELS, shard=PROTEIN_SHARDS
        ),
        structure_profiles=expand(rules.score_structures.output.profiles, proteins=SATURATION, model=STRUCTURE_MODELS),
        residues=expand(rules.describe_structures.output.residues, proteins=SATURATION) if STRUCTURES else [],
        structures=expand(rules.describe_structures.output.structures, proteins=SATURATION) if STRUCTURES else [],
    output:
        table=f"results/{COHORT}/saturation.tsv",
        html=f"results/{COHORT}/saturation.html",
    log:
        f"logs/{COHORT}/write_saturation.log",
    conda:
        "../envs/report.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        models=PROTEIN_MODELS,
        structure_models=STRUCTURE_MODELS,
    shell:
        "TODO"
