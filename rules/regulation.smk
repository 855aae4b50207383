"""What alleles of a cohort, or candidate edits, do to regulatory elements and binding sites: evidence for the ranking.

Requires  {base}/variants.parquet, heads and, with motifs, sites.tsv; config: regulatory, regions
Produces  {base}/regulation.parquet
"""


rule score_regulation:
    input:
        cli=script("score_regulation.py"),
        lib=library(*ENGINE, *READER, *SCANNER, "motifs", "regulation"),
        variants="{base}/variants.parquet",
        regions=config["regions"] or [],
        heads=[file for name in ELEMENTS for file in head_files(name)],
        motifs=config["regulatory"]["motifs"] or [],
        sites=rules.gather_sites.output.tsv if config["regulatory"]["motifs"] else [],
        fasta=FASTA,
        contigs=CONTIGS,
        registry=REGISTRY,
        manifest=expand(rules.fetch_model.output.manifest, model=REGULATOR),
    output:
        table="{base}/regulation.parquet",
    log:
        "logs/{base}/score_regulation.log",
    benchmark:
        "logs/{base}/score_regulation.benchmark.tsv"
    wildcard_constraints:
        base=one_of((VARIANTS, EDITED)),
    conda:
        "../envs/regulatory.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=480,
        gpu=1 if config["scoring"]["device"] == "gpu" else 0,
        lock=config["models"]["lock"],
        batch_tokens=str(config["scoring"]["batch_tokens"]),
    params:
        model=REGULATOR,
        device=config["scoring"]["device"],
        dtype=config["scoring"]["dtype"],
        checkpoint=lambda wildcards, input: os.path.dirname(input.manifest[0]),
        allowed=[model for model in config["models"]["remote_code"] if model == REGULATOR],
        aliases=json.dumps(config["reference"]["aliases"]),
        elements=list(ELEMENTS),
        heads=[head_folder(name) for name in ELEMENTS],
        context=config["regulatory"]["mutagenesis_context"],
        prevalence=config["regulatory"]["prevalence"] or "",
        max_unknown_share=config["scoring"]["max_unknown_share"],
    shell:
        "python {input.cli:q} --variants {input.variants:q} --regions {input.regions:q} --fasta {input.fasta:q}"
        " --contigs {input.contigs:q} --aliases {params.aliases:q} --registry {input.registry:q}"
        " --model {params.model:q} --checkpoint {params.checkpoint:q} --lock {resources.lock:q}"
        " --allow-code {params.allowed:q} --device {params.device} --dtype {params.dtype}"
        " --batch-tokens {resources.batch_tokens:q} --threads {threads} --elements {params.elements:q}"
        " --heads {params.heads:q} --context {params.context} --prevalence {params.prevalence:q} --max-unknown-share {params.max_unknown_share}"
        " --motifs {input.motifs:q} --sites {input.sites:q} --output {output.table:q} 2>&1 | tee {log:q} >&2"
