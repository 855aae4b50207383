"""Regulatory stage, on request (target `regulatory`): elements, information tracks and binding sites.

Requires  the reference, results/models/{model}; config: regulatory, regions
Produces  results/{cohort}/regulatory/elements/{element}/    labelled intervals, head with its card, measures, motifs
          results/{cohort}/regulatory/scan/                  information and probabilities, block by block
          results/{cohort}/regulatory/*.bw, elements.bed, sites.bed, sites.tsv, igv_session.xml
          results/{cohort}/regulatory.html                   one self-contained file
"""


rule draw_intervals:
    input:
        cli=script("draw_intervals.py"),
        lib=library(
            "errors",
            "files",
            "columns",
            "models",
            "contigs",
            "sequence",
            "vcf",
            "variants",
            "shards",
            "windows",
            "repeats",
            "regions",
            "intervals",
        ),
        intervals=lambda wildcards: ELEMENTS[wildcards.element]["intervals"],
        negatives=lambda wildcards: ELEMENTS[wildcards.element]["negatives"] or [],
        fasta=FASTA,
        contigs=CONTIGS,
    output:
        intervals=f"{REGULATORY}/elements/{{element}}/intervals.parquet",
        summary=f"{REGULATORY}/elements/{{element}}/intervals.json",
    log:
        f"logs/{COHORT}/draw_intervals.{{element}}.log",
    wildcard_constraints:
        element=one_of(TRAINED),
    conda:
        "../envs/windows.yaml"
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        **{key: config["regulatory"][key] for key in ("window", "folds", "negative_ratio", "seed")},
        label=lambda wildcards: ELEMENTS[wildcards.element]["label"] or "",
        aliases=json.dumps(config["reference"]["aliases"]),
        max_unknown_share=config["scoring"]["max_unknown_share"],
    shell:
        "python {input.cli:q} --intervals {input.intervals:q} --label {params.label:q}"
        " --negatives {input.negatives:q} --fasta {input.fasta:q} --contigs {input.contigs:q}"
        " --aliases {params.aliases:q} --window {params.window} --folds {params.folds}"
        " --negative-ratio {params.negative_ratio} --max-unknown-share {params.max_unknown_share}"
        " --seed {params.seed} --output {output.intervals:q} --summary {output.summary:q} 2>&1 | tee {log:q} >&2"


rule train_element:
    input:
        cli=script("train_element.py"),
        lib=library(*ENGINE, *READER, "elements"),
        intervals=rules.draw_intervals.output.intervals,
        summary=rules.draw_intervals.output.summary,
        fasta=FASTA,
        registry=REGISTRY,
        manifest=expand(rules.fetch_model.output.manifest, model=REGULATOR),
    output:
        head=[
            f"{REGULATORY}/elements/{{element}}/head/{name}" for name in ("head.json", "head.safetensors", "README.md")
        ],
        metrics=f"{REGULATORY}/elements/{{element}}/metrics.tsv",
        predictions=f"{REGULATORY}/elements/{{element}}/predictions.parquet",
        curves=f"{REGULATORY}/elements/{{element}}/curves.json",
    log:
        f"logs/{COHORT}/train_element.{{element}}.log",
    benchmark:
        f"logs/{COHORT}/train_element.{{element}}.benchmark.tsv"
    wildcard_constraints:
        element=one_of(TRAINED),
    conda:
        "../envs/regulatory.yaml"
    threads: 1
    resources:
        mem_mb=8000,
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
        settings=json.dumps(
            {key: config["regulatory"][key] for key in ("window", "heads", "epochs", "threshold", "seed")}
        ),
        head=lambda wildcards: head_folder(wildcards.element),
    shell:
        "python {input.cli:q} --element {wildcards.element:q} --intervals {input.intervals:q} --summary {input.summary:q}"
        " --fasta {input.fasta:q} --registry {input.registry:q} --model {params.model:q}"
        " --checkpoint {params.checkpoint:q} --lock {resources.lock:q} --allow-code {params.allowed:q}"
        " --device {params.device} --dtype {params.dtype} --batch-tokens {resources.batch_tokens:q}"
        " --threads {threads} --settings {params.settings:q} --head {params.head:q} --metrics {output.metrics:q}"
        " --predictions {output.predictions:q} --curves {output.curves:q} 2>&1 | tee {log:q} >&2"


rule scan_regions:
    input:
        cli=script("scan_regions.py"),
        lib=library(*ENGINE, *READER, *SCANNER, "store"),
        regions=config["regions"] or [],
        heads=lambda wildcards: (
            [] if wildcards.scan == CONTROL else [file for name in ELEMENTS for file in head_files(name)]
        ),
        fasta=FASTA,
        contigs=CONTIGS,
        registry=REGISTRY,
        manifest=expand(rules.fetch_model.output.manifest, model=REGULATOR),
    output:
        scan=f"{REGULATORY}/scan/{{scan}}.parquet",
        stats=f"{REGULATORY}/scan/{{scan}}.json",
    log:
        f"logs/{COHORT}/scan_regions.{{scan}}.log",
    benchmark:
        f"logs/{COHORT}/scan_regions.{{scan}}.benchmark.tsv"
    conda:
        "../envs/regulatory.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=480,
        gpu=1 if config["scoring"]["device"] == "gpu" else 0,
        store=config["scoring"]["store"] or "",
        lock=config["models"]["lock"],
        batch_tokens=str(config["scoring"]["batch_tokens"]),
    params:
        model=REGULATOR,
        device=config["scoring"]["device"],
        dtype=config["scoring"]["dtype"],
        checkpoint=lambda wildcards, input: os.path.dirname(input.manifest[0]),
        allowed=[model for model in config["models"]["remote_code"] if model == REGULATOR],
        aliases=json.dumps(config["reference"]["aliases"]),
        max_unknown_share=config["scoring"]["max_unknown_share"],
        elements=lambda wildcards: [] if wildcards.scan == CONTROL else list(ELEMENTS),
        heads=lambda wildcards: [] if wildcards.scan == CONTROL else [head_folder(name) for name in ELEMENTS],
        part=lambda wildcards: ["--control"] if wildcards.scan == CONTROL else ["--shard", int(wildcards.scan)],
        settings=json.dumps(
            {
                key: config["regulatory"][key]
                for key in ("information", "stride", "prevalence", "control_bases", "seed", "shards")
            }
        ),
    shell:
        "python {input.cli:q} --regions {input.regions:q} --fasta {input.fasta:q} --contigs {input.contigs:q}"
        " --aliases {params.aliases:q} --registry {input.registry:q} --model {params.model:q}"
        " --checkpoint {params.checkpoint:q} --lock {resources.lock:q} --allow-code {params.allowed:q}"
        " --device {params.device} --dtype {params.dtype} --batch-tokens {resources.batch_tokens:q} --threads {threads}"
        " --elements {params.elements:q} --heads {params.heads:q} --settings {params.settings:q}"
        " --max-unknown-share {params.max_unknown_share} --store {resources.store:q} {params.part:q}"
        " --output {output.scan:q} --stats {output.stats:q} 2>&1 | tee {log:q} >&2"
