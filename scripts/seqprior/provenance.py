"""What was run: the content of run.json."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from seqprior import VERSION
from seqprior.columns import Status
from seqprior.files import sha256
from seqprior.models import ModelFacts, model_facts

SOFTWARE = (
    "snakemake",
    "pysam",
    "pandas",
    "pyarrow",
    "numpy",
    "biopython",
    "biotite",
    "torch",
    "transformers",
    "jinja2",
)


def software_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; what is not in this environment is left out."""
    found = {"python": platform.python_version()}
    for package in SOFTWARE:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def describe_model(facts: ModelFacts, manifest: dict, jobs: Sequence[dict]) -> dict:
    """A model as the report shows it: facts, files as fetched, and what its scoring jobs say.

    Args:
        manifest: of the fetched folder. jobs: throughput of each scoring job of the cohort.
    """
    described = {key: value for key, value in vars(facts).items() if key not in {"path", "vocabulary", "tokens"}}
    counted = ("requests", "from_store", "evaluable", "not_evaluable")
    total = {key: sum(job.get(key, 0) for job in jobs) for key in counted}
    asked = total["evaluable"] + total["not_evaluable"]
    errors = [job["error"] for job in jobs if job.get("error")]
    return described | {
        "digest": manifest["digest"],
        "source": manifest["source"],
        "revision": manifest["revision"],
        "evaluable_share": total["evaluable"] / asked if asked else None,
        "not_evaluable": total["not_evaluable"],
        "share_from_store": total["from_store"] / total["requests"] if total["requests"] else None,
        "llr_error": {key: max(error[key] for error in errors) for key in ("mean", "largest")} if errors else None,
    }


def describe_run(
    config: dict,
    inputs: Sequence[Path],
    registry: Path,
    models: Sequence[str],
    manifests: Sequence[Path],
    summary: Path,
    ranked: Path,
    stats: Sequence[Path],
) -> dict:
    """Effective config, input digests, models, software, timings and counts of a run.

    Args:
        manifests: of the models, in their order. summary: counts of the variants stage. ranked: `ranked.parquet`.
        stats: one JSON per scoring job.
    """
    import pandas as pd

    counted = json.loads(summary.read_text())
    table = pd.read_parquet(ranked, columns=["status", "reason", "input_count"])
    skipped = table[table["status"] == Status.SKIPPED]
    jobs = [json.loads(path.read_text()) for path in stats]
    return {
        "cohort": config["cohort"],
        "seqprior_version": VERSION,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": config,
        "inputs": [{"path": str(path), "sha256": sha256(path), "bytes": path.stat().st_size} for path in inputs],
        "models": [
            describe_model(
                model_facts(registry, model),
                json.loads(path.read_text()),
                [job for job in jobs if job["model"] == model],
            )
            for model, path in zip(models, manifests, strict=True)
        ],
        "software": software_versions(),
        "counts": {
            "input_alleles": counted["input_alleles"],
            "unique_alleles": len(table),
            "scored": int((table["status"] == Status.SCORED).sum()),
            "skipped": len(skipped),
            "skipped_by_reason": {reason: int(count) for reason, count in skipped["reason"].value_counts().items()},
        },
        "timings": [describe_job(job) for job in jobs],
    }


def describe_job(job: dict) -> dict:
    """How long a job took: tokens of a language model, residues of a structure or folding model."""
    unit = "tokens" if "tokens_per_second" in job else "residues"
    return {
        "stage": f"{'fold' if 'folded' in job else 'score'} {job['model']}",
        "seconds": job["seconds"],
        "items": job[unit],
        "unit": unit,
        "per_second": job.get(f"{unit}_per_second", job[unit] / job["seconds"] if job["seconds"] else 0.0),
        "device": job["device"],
    }
