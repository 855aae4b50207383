"""Second half of the regulatory stage: tracks and calls from the scan, binding sites, dependency maps, the page.

Requires  results/{cohort}/regulatory/scan, elements; config: regulatory
Produces  results/{cohort}/regulatory/*.bw, elements.bed, igv_session.xml
          results/{cohort}/regulatory/constrained.parquet              sites that the sequence model constrains
          results/{cohort}/regulatory/elements/{element}/motifs.parquet, seqlets.parquet, contributions.bw
          results/{cohort}/regulatory/sites.bed, sites.tsv, dependencies.parquet
          results/{cohort}/regulatory.html
"""

INFORMATION = [] if config["regulatory"]["information"] == "none" else ["entropy", "information"]
INFORMATION += [f"information_{strand}" for strand in ("forward", "reverse")] if INFORMATION else []


rule write_tracks:
    input:
        cli=script("write_tracks.py"),
        lib=library("errors", "files", "contigs", "tracks"),
        scan=expand(rules.scan_regions.output.scan, scan=SCANS),
        fasta=FASTA,
        contigs=CONTIGS,
    output:
        tracks=[f"{REGULATORY}/{name}.bw" for name in [*INFORMATION, *(f"probability.{name}" for name in ELEMENTS)]],
        calls=f"{REGULATORY}/elements.bed",
        session=f"{REGULATORY}/igv_session.xml",
    log:
        f"logs/{COHORT}/write_tracks.log",
    conda:
        "../envs/regulatory.yaml"
    resources:
        mem_mb=2000,
        runtime=120,
    params:
        threshold=config["regulatory"]["threshold"],
        folder=subpath(output.calls, parent=True),
        # made after the calls, and there when the session is opened
        also=[f"{REGULATORY}/sites.bed", *(f"{REGULATORY}/elements/{name}/contributions.bw" for name in MUTATED)],
    shell:
        "python {input.cli:q} --scan {input.scan:q} --fasta {input.fasta:q} --contigs {input.contigs:q}"
        " --threshold {params.threshold} --also {params.also:q} --output {params.folder:q} --calls {output.calls:q}"
        " --session {output.session:q} 2>&1 | tee {log:q} >&2"


rule find_constrained:
    input:
        cli=script("find_constrained.py"),
        lib=library(*SITES),
        scan=expand(rules.scan_regions.output.scan, scan=SCANS),
        control=expand(rules.scan_regions.output.scan, scan=CONTROL),
        fasta=FASTA,
        contigs=CONTIGS,
        motifs=config["regulatory"]["motifs"] or [],
    output:
        sites=f"{REGULATORY}/constrained.parquet",
    log:
        f"logs/{COHORT}/find_constrained.log",
    conda:
        "../envs/regulatory.yaml"
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        fdr=config["regulatory"]["fdr"],
    shell:
        "python {input.cli:q} --scan {input.scan:q} --control {input.control:q} --fasta {input.fasta:q}"
        " --contigs {input.contigs:q} --motifs {input.motifs:q} --fdr {params.fdr} --output {output.sites:q}"
        " 2>&1 | tee {log:q} >&2"


rule explain_element:
    input:
        cli=script("explain_element.py"),
        lib=library(*ENGINE, *READER, *SCANNER, "motifs", "significance", "seqlets", "mutagenesis"),
        intervals=lambda wildcards: (
            expand(rules.draw_intervals.output.intervals, element=wildcards.element)
            if wildcards.element in TRAINED
            else []
        ),
        calls=rules.write_tracks.output.calls,
        head=lambda wildcards: head_files(wildcards.element),
        fasta=FASTA,
        contigs=CONTIGS,
        motifs=config["regulatory"]["motifs"] or [],
        registry=REGISTRY,
        manifest=expand(rules.fetch_model.output.manifest, model=REGULATOR),
    output:
        motifs=f"{REGULATORY}/elements/{{element}}/motifs.parquet",
        seqlets=f"{REGULATORY}/elements/{{element}}/seqlets.parquet",
        contributions=f"{REGULATORY}/elements/{{element}}/contributions.bw",
    log:
        f"logs/{COHORT}/explain_element.{{element}}.log",
    benchmark:
        f"logs/{COHORT}/explain_element.{{element}}.benchmark.tsv"
    conda:
        "../envs/regulatory.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
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
        head=lambda wildcards: head_folder(wildcards.element),
        settings=json.dumps(
            {key: config["regulatory"][key] for key in ("mutagenesis_windows", "mutagenesis_context", "fdr", "seed")}
        ),
    shell:
        "python {input.cli:q} --element {wildcards.element:q} --head {params.head:q} --intervals {input.intervals:q}"
        " --calls {input.calls:q} --fasta {input.fasta:q} --contigs {input.contigs:q} --aliases {params.aliases:q}"
        " --registry {input.registry:q} --model {params.model:q} --checkpoint {params.checkpoint:q}"
        " --lock {resources.lock:q} --allow-code {params.allowed:q} --device {params.device} --dtype {params.dtype}"
        " --batch-tokens {resources.batch_tokens:q} --threads {threads} --motifs {input.motifs:q}"
        " --settings {params.settings:q} --found {output.motifs:q} --seqlets {output.seqlets:q}"
        " --contributions {output.contributions:q} 2>&1 | tee {log:q} >&2"


rule map_dependencies:
    input:
        cli=script("map_dependencies.py"),
        lib=library(*ENGINE, *READER, *SCANNER, "motifs", "significance", "seqlets", "mutagenesis", "dependencies"),
        regions=config["regulatory"]["dependencies"] or [],
        fasta=FASTA,
        contigs=CONTIGS,
        registry=REGISTRY,
        manifest=expand(rules.fetch_model.output.manifest, model=REGULATOR),
    output:
        maps=f"{REGULATORY}/dependencies.parquet",
    log:
        f"logs/{COHORT}/map_dependencies.log",
    conda:
        "../envs/regulatory.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=240,
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
    shell:
        "python {input.cli:q} --regions {input.regions:q} --fasta {input.fasta:q} --contigs {input.contigs:q}"
        " --aliases {params.aliases:q} --registry {input.registry:q} --model {params.model:q}"
        " --checkpoint {params.checkpoint:q} --lock {resources.lock:q} --allow-code {params.allowed:q}"
        " --device {params.device} --dtype {params.dtype} --batch-tokens {resources.batch_tokens:q} --threads {threads}"
        " --output {output.maps:q} 2>&1 | tee {log:q} >&2"


rule gather_sites:
    input:
        cli=script("gather_sites.py"),
        lib=library(*SITES),
        sites=[
            *([rules.find_constrained.output.sites] if INFORMATION else []),
            *expand(rules.explain_element.output.seqlets, element=MUTATED),
        ],
        contigs=CONTIGS,
    output:
        tsv=f"{REGULATORY}/sites.tsv",
        bed=f"{REGULATORY}/sites.bed",
    log:
        f"logs/{COHORT}/gather_sites.log",
    conda:
        "../envs/regulatory.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    shell:
        "python {input.cli:q} --sites {input.sites:q} --contigs {input.contigs:q} --tsv {output.tsv:q}"
        " --bed {output.bed:q} 2>&1 | tee {log:q} >&2"


rule write_regulatory_page:
    input:
        cli=script("write_regulatory_page.py"),
        lib=library("errors", "files", "columns", "sequence", "motifs", "report", "regulatory_page"),
        template=workflow.source_path("../report/regulatory.html.j2"),
        assets=[workflow.source_path(f"../report/{name}") for name in ("report.css", "regulatory.css")],
        heads=[head_files(name)[0] for name in ELEMENTS],
        trained=expand(
            [
                rules.draw_intervals.output.summary,
                rules.train_element.output.metrics,
                rules.train_element.output.curves,
            ],
            element=TRAINED,
        ),
        motifs=expand(rules.explain_element.output.motifs, element=MUTATED),
        calls=rules.write_tracks.output.calls,
        sites=rules.gather_sites.output.tsv,
        stats=expand(rules.scan_regions.output.stats, scan=SCANS),
        maps=rules.map_dependencies.output.maps if config["regulatory"]["dependencies"] else [],
    output:
        html=f"results/{COHORT}/regulatory.html",
    log:
        f"logs/{COHORT}/write_regulatory_page.log",
    conda:
        "../envs/report.yaml"
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        cohort=COHORT,
        model=REGULATOR,
        elements=list(ELEMENTS),
        trained=TRAINED,
        mutated=MUTATED,
        heads=[head_folder(name) for name in ELEMENTS],
        folder=subpath(input.calls, parent=True),
        fdr=config["regulatory"]["fdr"],
        template=subpath(input.template, parent=True),
    shell:
        "python {input.cli:q} --cohort {params.cohort:q} --model {params.model:q} --elements {params.elements:q}"
        " --heads {params.heads:q} --trained {params.trained:q} --mutated {params.mutated:q} --folder {params.folder:q}"
        " --calls {input.calls:q} --sites {input.sites:q} --stats {input.stats:q} --dependencies {input.maps:q}"
        " --fdr {params.fdr} --template-dir {params.template:q} --output {output.html:q} 2>&1 | tee {log:q} >&2"
