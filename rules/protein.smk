"""Protein stage: what each allele does to genes and proteins, and what protein models and structures say of it.

Requires  {base}/variants.parquet; config: reference.genes, consequences, protein, models (protein, structure)
Produces  {base}/consequences.parquet              gene, transcript, consequence, protein change
          {base}/protein/changes.parquet           changed residues of every allele in a coding sequence
          {base}/protein/haplotypes.parquet        alleles of one codon on one phased chromosome
          {base}/protein/proteins.parquet          each distinct protein once
          {proteins}/scores/{model}/{shard}.*      what a protein model says of residues and changes
          {base}/protein/evidence.parquet          all of it, by allele

{proteins} is a folder of proteins: {base}/protein of a cohort or of candidate edits, or those chosen for the target
saturation.
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
        # other alleles than a cohort's come from no annotated file
        source=lambda wildcards: config["consequences"]["source"] if wildcards.base == VARIANTS else "csq",
    shell:
        "python {input.cli:q} --variants {input.variants:q} --summary {input.summary:q} --fasta {input.fasta:q}"
        " --genes {input.genes:q} --source {params.source} --output {output.table:q} 2>&1 | tee {log:q} >&2"


rule list_protein_changes:
    input:
        cli=script("list_protein_changes.py"),
        lib=library(*PROTEIN_CHANGES),
        variants="{base}/variants.parquet",
        records=lambda wildcards: f"{VARIANTS}/records.parquet" if wildcards.base == VARIANTS else [],
        vcfs=lambda wildcards: input_vcfs(wildcards) if wildcards.base == VARIANTS else [],
        fasta=FASTA,
        contigs=CONTIGS,
        genes=GENES,
        sequences=config["protein"]["sequences"] or [],
        uniprot=config["protein"]["uniprot"] or [],
    output:
        changes="{base}/protein/changes.parquet",
        haplotypes="{base}/protein/haplotypes.parquet",
        proteins="{base}/protein/proteins.parquet",
    log:
        "logs/{base}/list_protein_changes.log",
    benchmark:
        "logs/{base}/list_protein_changes.benchmark.tsv"
    wildcard_constraints:
        base=one_of((VARIANTS, EDITED)),
    conda:
        "../envs/protein.yaml"
    resources:
        mem_mb=2000,
        runtime=60,
    params:
        order=config["protein"]["transcripts"],
        codes=json.dumps(config["reference"]["genetic_codes"]),
        aliases=json.dumps(config["reference"]["aliases"]),
    shell:
        "python {input.cli:q} --variants {input.variants:q} --records {input.records:q} --vcfs {input.vcfs:q}"
        " --fasta {input.fasta:q} --contigs {input.contigs:q} --aliases {params.aliases:q} --genes {input.genes:q}"
        " --transcripts {params.order:q} --genetic-codes {params.codes:q} --sequences {input.sequences:q}"
        " --uniprot {input.uniprot:q} --changes {output.changes:q} --haplotypes {output.haplotypes:q}"
        " --proteins {output.proteins:q} 2>&1 | tee {log:q} >&2"


rule score_proteins:
    input:
        cli=script("score_proteins.py"),
        lib=library(*ENGINE, "embedding", "store", "protein_scoring"),
        proteins="{proteins}/proteins.parquet",
        changes=lambda wildcards: protein_changes(wildcards.proteins),
        registry=REGISTRY,
        manifest=rules.fetch_model.output.manifest,
    output:
        profiles="{proteins}/scores/{model}/{shard}.profiles.parquet",
        changes="{proteins}/scores/{model}/{shard}.changes.parquet",
        stats="{proteins}/scores/{model}/{shard}.json",
    log:
        "logs/{proteins}/score_proteins.{model}.{shard}.log",
    benchmark:
        "logs/{proteins}/score_proteins.{model}.{shard}.benchmark.tsv"
    wildcard_constraints:
        model=one_of(PROTEIN_MODELS),
    conda:
        "../envs/embedding.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=1 if config["scoring"]["device"] == "gpu" else 0,
        store=config["scoring"]["store"] or "",
        lock=config["models"]["lock"],
        batch_tokens=str(config["scoring"]["batch_tokens"]),
    params:
        device=config["scoring"]["device"],
        dtype=config["scoring"]["dtype"],
        compiled="--compile" if config["scoring"]["compile"] else "",
        marginals=config["protein"]["marginals"],
        pseudo_likelihood=config["protein"]["pseudo_likelihood"],
        shards=len(PROTEIN_SHARDS),
        checkpoint=subpath(input.manifest, parent=True),
    shell:
        "python {input.cli:q} --proteins {input.proteins:q} --changes {input.changes:q} --registry {input.registry:q}"
        " --model {wildcards.model:q} --checkpoint {params.checkpoint:q} --lock {resources.lock:q}"
        " --device {params.device} --dtype {params.dtype} {params.compiled} --batch-tokens {resources.batch_tokens:q}"
        " --marginals {params.marginals} --pseudo-likelihood {params.pseudo_likelihood} --shard {wildcards.shard:q}"
        " --shards {params.shards} --store {resources.store:q} --threads {threads} --profiles {output.profiles:q}"
        " --change-scores {output.changes:q} --stats {output.stats:q} 2>&1 | tee {log:q} >&2"


rule gather_protein_evidence:
    input:
        cli=script("gather_protein_evidence.py"),
        lib=library("errors", "options", "files", "columns", "residues", "profiles", "missense", "protein_evidence"),
        changes=rules.list_protein_changes.output.changes,
        haplotypes=rules.list_protein_changes.output.haplotypes,
        proteins=rules.list_protein_changes.output.proteins,
        profiles=expand(
            rules.score_proteins.output.profiles,
            proteins="{base}/protein",
            model=PROTEIN_MODELS,
            shard=PROTEIN_SHARDS,
        ),
        change_scores=expand(
            rules.score_proteins.output.changes,
            proteins="{base}/protein",
            model=PROTEIN_MODELS,
            shard=PROTEIN_SHARDS,
        ),
        structure_profiles=expand(
            rules.score_structures.output.profiles, proteins="{base}/protein", model=STRUCTURE_MODELS
        ),
        residues=expand(rules.describe_structures.output.residues, proteins="{base}/protein") if STRUCTURES else [],
        structures=expand(rules.describe_structures.output.structures, proteins="{base}/protein") if STRUCTURES else [],
        # fitted with what the model says of the backbone alone
        missense=(
            workflow.source_path("../resources/models/missense-structure/coefficients.json")
            if "proteinmpnn" in STRUCTURE_MODELS and not config["protein"]["conditional"]
            else []
        ),
    output:
        evidence="{base}/protein/evidence.parquet",
    log:
        "logs/{base}/gather_protein_evidence.log",
    wildcard_constraints:
        base=one_of((VARIANTS, EDITED)),
    conda:
        "../envs/protein.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        protein_models=PROTEIN_MODELS,
        structure_models=STRUCTURE_MODELS,
    shell:
        "python {input.cli:q} --changes {input.changes:q} --haplotypes {input.haplotypes:q}"
        " --proteins {input.proteins:q} --protein-models {params.protein_models:q} --profiles {input.profiles:q}"
        " --change-scores {input.change_scores:q} --structure-models {params.structure_models:q}"
        " --structure-profiles {input.structure_profiles:q} --residues {input.residues:q}"
        " --structures {input.structures:q} --missense {input.missense:q} --output {output.evidence:q} 2>&1 | tee {log:q} >&2"
