"""Structures of proteins: found or folded, and what they say of each residue.

Requires  {proteins}/proteins.parquet; config: protein.structures, protein.folding, models.structure
Produces  {proteins}/structures.tsv                  the file of each protein's structure, or why there is none
          {proteins}/folded.tsv                      the same of those that a model folded
          {proteins}/residues.parquet                features of the residues that agree with the structure
          {proteins}/structures.parquet              the structure that each protein got
          {proteins}/structure_scores/{model}.*      what a structure model says of each residue
          protein.structures.cache                   fetched and folded files; no output, since cohorts share it
"""


rule fetch_structures:
    input:
        cli=script("fetch_structures.py"),
        lib=library("errors", "files", "columns", "structures", "alphafold"),
        proteins="{proteins}/proteins.parquet",
    output:
        table="{proteins}/structures.tsv",
    log:
        "logs/{proteins}/fetch_structures.log",
    localrule: True
    conda:
        "../envs/structures.yaml"
    resources:
        mem_mb=2000,
        runtime=240,
        cache=config["protein"]["structures"]["cache"],  # a resource, since another place of it changes nothing
    params:
        folders=FOLDERS,
        database=DATABASE or "",
        version=config["protein"]["structures"]["version"],
    shell:
        "python {input.cli:q} --proteins {input.proteins:q} --folders {params.folders:q} --database {params.database:q}"
        " --version {params.version} --cache {resources.cache:q} --output {output.table:q} 2>&1 | tee {log:q} >&2"


rule fold_proteins:
    input:
        cli=script("fold_proteins.py"),
        lib=library(*FOLDS, "folding"),
        proteins="{proteins}/proteins.parquet",
        structures=rules.fetch_structures.output.table,
        registry=REGISTRY,
        manifest=expand(rules.fetch_model.output.manifest, model=[FOLDING] if FOLDING else []),
    output:
        table="{proteins}/folded.tsv",
        stats="{proteins}/folded.json",
    log:
        "logs/{proteins}/fold_proteins.log",
    benchmark:
        "logs/{proteins}/fold_proteins.benchmark.tsv"
    conda:
        "../envs/structures.yaml"
    threads: 1
    resources:
        mem_mb=24000,
        runtime=720,
        gpu=1 if config["scoring"]["device"] == "gpu" else 0,
        lock=config["models"]["lock"],
    params:
        folder=os.path.join(config["protein"]["structures"]["cache"], "folded"),
        model=FOLDING or "",
        device=config["scoring"]["device"],
        dtype=config["scoring"]["dtype"],
        longest=config["protein"]["longest_folded"],
        checkpoint=lambda wildcards, input: os.path.dirname(input.manifest[0]),
    shell:
        "python {input.cli:q} --proteins {input.proteins:q} --structures {input.structures:q}"
        " --registry {input.registry:q} --model {params.model:q} --checkpoint {params.checkpoint:q}"
        " --lock {resources.lock:q} --device {params.device} --dtype {params.dtype} --threads {threads}"
        " --longest {params.longest} --folder {params.folder:q} --output {output.table:q} --stats {output.stats:q}"
        " 2>&1 | tee {log:q} >&2"


rule describe_structures:
    input:
        cli=script("describe_structures.py"),
        lib=library("errors", "files", "columns", "residues", "structures", "structure_features"),
        proteins="{proteins}/proteins.parquet",
        tables=[
            rules.fetch_structures.output.table,
            *([rules.fold_proteins.output.table] if FOLDING else []),
        ],
        sites=config["protein"]["structures"]["sites"] or [],
    output:
        residues="{proteins}/residues.parquet",
        structures="{proteins}/structures.parquet",
    log:
        "logs/{proteins}/describe_structures.log",
    benchmark:
        "logs/{proteins}/describe_structures.benchmark.tsv"
    conda:
        "../envs/structures.yaml"
    resources:
        mem_mb=4000,
        runtime=240,
    shell:
        "python {input.cli:q} --proteins {input.proteins:q} --tables {input.tables:q} --sites {input.sites:q}"
        " --residues {output.residues:q} --structures {output.structures:q} 2>&1 | tee {log:q} >&2"


rule score_structures:
    input:
        cli=script("score_structures.py"),
        lib=library(
            "errors",
            "files",
            "columns",
            "sequence",
            "residues",
            "models",
            "fetching",
            "claims",
            "device",
            "tokenisation",
            "ports",
            "gated_esm",
            "mosaic_bert",
            "networks",
            "store",
            "structures",
            "protein_mpnn",
        ),
        proteins="{proteins}/proteins.parquet",
        structures=rules.describe_structures.output.structures,
        registry=REGISTRY,
        manifest=rules.fetch_model.output.manifest,
    output:
        profiles="{proteins}/structure_scores/{model}.parquet",
        stats="{proteins}/structure_scores/{model}.json",
    log:
        "logs/{proteins}/score_structures.{model}.log",
    benchmark:
        "logs/{proteins}/score_structures.{model}.benchmark.tsv"
    wildcard_constraints:
        model=one_of(STRUCTURE_MODELS),
    conda:
        "../envs/structures.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=240,
        gpu=1 if config["scoring"]["device"] == "gpu" else 0,
        store=config["scoring"]["store"] or "",
        lock=config["models"]["lock"],
    params:
        device=config["scoring"]["device"],
        conditional="--conditional" if config["protein"]["conditional"] else "",
        checkpoint=subpath(input.manifest, parent=True),
    shell:
        "python {input.cli:q} --proteins {input.proteins:q} --structures {input.structures:q}"
        " --registry {input.registry:q} --model {wildcards.model:q} --checkpoint {params.checkpoint:q}"
        " --lock {resources.lock:q} --device {params.device} --threads {threads} {params.conditional}"
        " --store {resources.store:q} --profiles {output.profiles:q} --stats {output.stats:q} 2>&1 | tee {log:q} >&2"
