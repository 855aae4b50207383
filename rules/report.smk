"""Report stage.

Requires  everything above; config: report
Produces  results/{cohort}/run.json      effective config, digests, models, versions, timings, counts
          results/{cohort}/report.html   one self-contained file
"""

LOCAL_INPUTS = [*INPUT_VCFS, *([] if FASTA_IS_URL else [FASTA_SOURCE]), *filter(None, [config["reference"]["genes"]])]
LOCAL_INPUTS += filter(None, [config["protein"][key] for key in ("sequences", "uniprot")])
if REGULATED:
    LOCAL_INPUTS += filter(None, [config["regions"], config["regulatory"]["motifs"]])
    LOCAL_INPUTS += [source[key] for source in ELEMENTS.values() for key in ("intervals", "negatives") if source[key]]
    LOCAL_INPUTS += [file for name in ELEMENTS if name not in TRAINED for file in head_files(name)]
    LOCAL_INPUTS = list(dict.fromkeys(LOCAL_INPUTS))


rule record_run:
    input:
        cli=script("record_run.py"),
        lib=library("errors", "files", "columns", "models", "provenance"),
        files=LOCAL_INPUTS,
        registry=REGISTRY,
        manifests=expand(rules.fetch_model.output.manifest, model=ALL_MODELS),
        summary=rules.normalise_variants.output.summary,
        ranked=rules.rank_variants.output.parquet,
        stats=[
            *expand(rules.score_variants.output.stats, base=VARIANTS, model=MODELS, shard=SHARDS),
            *expand(rules.score_proteins.output.stats, proteins=PROTEINS, model=PROTEIN_MODELS, shard=PROTEIN_SHARDS),
            *expand(rules.score_structures.output.stats, proteins=PROTEINS, model=STRUCTURE_MODELS),
            *expand(rules.fold_proteins.output.stats, proteins=[PROTEINS] if FOLDING else []),
        ],
    output:
        run=f"results/{COHORT}/run.json",
    log:
        f"logs/{COHORT}/record_run.log",
    conda:
        "../envs/report.yaml"
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        config=json.dumps(config),
        models=ALL_MODELS,
    shell:
        "python {input.cli:q} --config {params.config:q} --inputs {input.files:q} --registry {input.registry:q}"
        " --models {params.models:q} --manifests {input.manifests:q} --summary {input.summary:q} --ranked {input.ranked:q} --stats {input.stats:q}"
        " --output {output.run:q} 2>&1 | tee {log:q} >&2"


rule write_report:
    input:
        cli=script("write_report.py"),
        lib=library(*PANELS),
        template=workflow.source_path("../report/template.html.j2"),
        assets=[workflow.source_path(f"../report/{name}") for name in ASSETS],
        run=rules.record_run.output.run,
        ranked=rules.rank_variants.output.parquet,
        summary=rules.normalise_variants.output.summary,
        calibration=expand(rules.calibrate_scores.output.folder, model=MODELS),
        highlights=config["report"]["highlights"] or [],
        proteins=expand(rules.list_protein_changes.output.proteins, base=VARIANTS) if GENES else [],
        profiles=expand(
            rules.score_proteins.output.profiles, proteins=PROTEINS, model=PROTEIN_MODELS, shard=PROTEIN_SHARDS
        ),
        structure_profiles=expand(rules.score_structures.output.profiles, proteins=PROTEINS, model=STRUCTURE_MODELS),
        residues=expand(rules.describe_structures.output.residues, proteins=PROTEINS) if STRUCTURES else [],
        structures=expand(rules.describe_structures.output.structures, proteins=PROTEINS) if STRUCTURES else [],
    output:
        html=f"results/{COHORT}/report.html",
    log:
        f"logs/{COHORT}/write_report.log",
    conda:
        "../envs/report.yaml"
    resources:
        mem_mb=2000,
        runtime=15,
    params:
        top=config["report"]["top"],
        panels=config["report"]["panels"],
        protein_models=PROTEIN_MODELS,
        structure_models=STRUCTURE_MODELS,
        template=subpath(input.template, parent=True),
        calibration=[f"{SHARED}/calibration/{model}/calibration.json" for model in MODELS],
    shell:
        "python {input.cli:q} --run {input.run:q} --ranked {input.ranked:q} --variants-summary {input.summary:q}"
        " --highlights {input.highlights:q} --calibration {params.calibration:q} --output {output.html:q}"
        " --template-dir {params.template:q} --top {params.top} --panels {params.panels} --proteins {input.proteins:q}"
        " --protein-models {params.protein_models:q} --profiles {input.profiles:q}"
        " --structure-models {params.structure_models:q} --structure-profiles {input.structure_profiles:q}"
        " --residues {input.residues:q} --structures {input.structures:q} 2>&1 | tee {log:q} >&2"
