"""Saturation, on request only (target `saturation`): every substitution of chosen proteins, every change in regions.

Requires  config: protein.saturation, reference.genes, models (protein, structure); regions, saturation, models.dna
Produces  results/{cohort}/saturation/proteins.parquet            the chosen proteins
          results/{cohort}/saturation.tsv                         LLR and features of every substitution
          results/{cohort}/saturation.html                        heat maps, one self-contained file
          results/{cohort}/saturated_regions/variants.parquet     every change in the regions, for the stages of a cohort
          results/{cohort}/saturated_regions/worst.{model}.bw     lowest LLR of each position
          results/{cohort}/saturated_regions.tsv, .html           the same for regions
"""


rule list_saturated_proteins:
    input:
        cli=script("list_proteins.py"),
        lib=library(*PROTEIN_CHANGES),
        fasta=FASTA,
        contigs=CONTIGS,
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
        aliases=json.dumps(config["reference"]["aliases"]),
    shell:
        "python {input.cli:q} --names {params.names:q} --fasta {input.fasta:q} --contigs {input.contigs:q}"
        " --aliases {params.aliases:q} --genes {input.genes:q} --transcripts {params.order:q}"
        " --genetic-codes {params.codes:q} --sequences {input.sequences:q} --uniprot {input.uniprot:q}"
        " --output {output.proteins:q} 2>&1 | tee {log:q} >&2"


rule write_saturation:
    input:
        cli=script("write_saturation.py"),
        lib=library(*PANELS, "saturation"),
        template=workflow.source_path("../report/saturation.html.j2"),
        assets=[workflow.source_path(f"../report/{name}") for name in ASSETS],
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
        cohort=COHORT,
        template=subpath(input.template, parent=True),
    shell:
        "python {input.cli:q} --proteins {input.proteins:q} --protein-models {params.models:q}"
        " --profiles {input.profiles:q} --structure-models {params.structure_models:q}"
        " --structure-profiles {input.structure_profiles:q} --residues {input.residues:q}"
        " --structures {input.structures:q} --cohort {params.cohort:q} --template-dir {params.template:q}"
        " --table {output.table:q} --output {output.html:q} 2>&1 | tee {log:q} >&2"


rule list_saturation:
    input:
        cli=script("list_saturation.py"),
        lib=library(*REGION_ALLELES),
        regions=config["regions"] or [],
        fasta=FASTA,
        contigs=CONTIGS,
    output:
        variants=f"{SATURATED}/variants.parquet",
        summary=f"{SATURATED}/variants.json",
    log:
        f"logs/{COHORT}/list_saturation.log",
    conda:
        "../envs/windows.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        aliases=json.dumps(config["reference"]["aliases"]),
        deletions=config["saturation"]["deletions"],
    shell:
        "python {input.cli:q} --regions {input.regions:q} --fasta {input.fasta:q} --contigs {input.contigs:q}"
        " --aliases {params.aliases:q} --deletions {params.deletions} --output {output.variants:q}"
        " --summary {output.summary:q} 2>&1 | tee {log:q} >&2"


rule write_region_saturation:
    input:
        cli=script("write_region_saturation.py"),
        lib=library(*REGION_ALLELES, *REGION_SATURATION),
        template=workflow.source_path("../report/region_saturation.html.j2"),
        assets=[
            workflow.source_path(f"../report/{name}")
            for name in ("report.css", "panels.css", "region_saturation.css", "marks.js", "region_saturation.js")
        ],
        variants=rules.list_saturation.output.variants,
        summary=rules.list_saturation.output.summary,
        scores=expand(rules.gather_scores.output.scores, base=SATURATED, model=MODELS),
        consequences=expand(rules.annotate_consequences.output.table, base=SATURATED) if GENES else [],
        fasta=FASTA,
        contigs=CONTIGS,
    output:
        table=f"results/{COHORT}/saturated_regions.tsv",
        html=f"results/{COHORT}/saturated_regions.html",
        tracks=expand(f"{SATURATED}/worst.{{model}}.bw", model=MODELS),
        deletions=expand(
            f"{SATURATED}/worst_deletion.{{model}}.bw", model=MODELS if config["saturation"]["deletions"] else []
        ),
    log:
        f"logs/{COHORT}/write_region_saturation.log",
    conda:
        "../envs/regulatory.yaml"
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        models=MODELS,
        cohort=COHORT,
        template=subpath(input.template, parent=True),
    shell:
        "python {input.cli:q} --variants {input.variants:q} --summary {input.summary:q} --models {params.models:q}"
        " --scores {input.scores:q} --consequences {input.consequences:q} --fasta {input.fasta:q}"
        " --contigs {input.contigs:q} --cohort {params.cohort:q} --template-dir {params.template:q}"
        " --table {output.table:q} --tracks {output.tracks:q} --deletion-tracks {output.deletions:q}"
        " --output {output.html:q} 2>&1 | tee {log:q} >&2"
