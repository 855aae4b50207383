"""seqprior: from sequence model to ranked variants. Each included file is one stage; docs/usage.md explains the targets.

Paths: results/{cohort}/ holds one cohort, results/shared/{reference}/ what cohorts on the same reference share.
"""

from snakemake.utils import min_version, validate

min_version("9.15")


if not workflow.overwrite_configfiles:  # the demo; what a user leaves out of an own config must not come from it

    configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/registry.smk"
include: "rules/models.smk"
include: "rules/reference.smk"
include: "rules/variants.smk"
include: "rules/windows.smk"
include: "rules/embedding.smk"
include: "rules/estimate.smk"
include: "rules/embeddings.smk"
include: "rules/proteins.smk"
include: "rules/regulators.smk"
include: "rules/structures.smk"
include: "rules/protein.smk"
include: "rules/saturation.smk"
include: "rules/regulatory.smk"
include: "rules/sites.smk"
include: "rules/regulation.smk"
include: "rules/prioritise.smk"
include: "rules/edits.smk"
include: "rules/report.smk"
include: "rules/train.smk"


rule all:
    default_target: True
    input:
        rules.rank_variants.output,
        rules.record_run.output,
        rules.write_report.output,


rule variants:
    input:
        rules.normalise_variants.output,
        expand(rules.annotate_consequences.output.table, base=VARIANTS),


rule windows:
    input:
        expand(rules.extract_windows.output, base=VARIANTS, model=MODELS),


rule embeddings:
    input:
        expand(rules.export_embeddings.output, model=MODELS),


rule regulatory:
    input:
        rules.write_tracks.output,
        rules.gather_sites.output,
        rules.write_regulatory_page.output,


rule edits:
    input:
        rules.rank_edits.output,


rule saturation:
    input:
        lambda wildcards: saturations(),


rule estimate:
    input:
        rules.estimate_cost.output,


rule models:
    input:
        rules.list_models.output,


rule train:
    input:
        rules.train_model.output,
