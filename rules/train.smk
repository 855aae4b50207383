"""Training of the embedded model, on request only (target `train`).

Requires  config: train, reference
Produces  results/shared/{reference}/training/   model.safetensors, config.json, training.tsv
"""


rule train_model:
    input:
        cli=script("train_model.py"),
        lib=library("errors", "files", "sequence", "repeats", "bidirectional", "claims", "device", "training"),
        fasta=FASTA,
    output:
        weights=f"{SHARED}/training/model.safetensors",
        config=f"{SHARED}/training/config.json",
        history=f"{SHARED}/training/training.tsv",
    log:
        f"logs/{REFERENCE}/train_model.log",
    conda:
        "../envs/train.yaml"
    threads: config["train"]["processes"]
    resources:
        mem_mb=8000,
        runtime=600,
        gpu=1 if config["scoring"]["device"] == "gpu" else 0,
    params:
        settings=json.dumps(config["train"]),
        device=config["scoring"]["device"],
        folder=subpath(output.weights, parent=True),
    shell:
        "python {input.cli:q} --fasta {input.fasta:q} --settings {params.settings:q} --device {params.device} --output {params.folder:q}"
        " 2>&1 | tee {log:q} >&2"
