"""What scoring a cohort will cost: sites, tokens, what the score store has, device hours and disk, by model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from seqprior.errors import run_script
from seqprior.options import add_reading_options


def scored(folder: Path, shards: list[str]) -> list[bool]:
    """For each shard whether its scores are there."""
    return [(folder / f"{shard}.parquet").is_file() for shard in shards]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohort", required=True)
    parser.add_argument("--models", nargs="+", required=True, help="models of the registry")
    parser.add_argument("--registry", type=Path, required=True, help="model registry")
    parser.add_argument("--checkpoints", type=Path, nargs="+", required=True, help="fetched folder of each model")
    parser.add_argument("--probes", type=Path, nargs="+", required=True, help="what probe_model.py wrote of each model")
    parser.add_argument("--base", type=Path, required=True, help="folder with windows, and shards once scored")
    parser.add_argument("--background", type=Path, help="the same of the neutral background")
    parser.add_argument("--shards", nargs="+", required=True, help="names of the shards")
    parser.add_argument("--shard-minutes", type=float, required=True, help="that a scoring job should take")
    add_reading_options(parser)
    parser.add_argument("--no-embeddings", action="store_true", help="the embedding distances will be left empty")
    parser.add_argument("--store", type=Path, help="score store")
    parser.add_argument("--compile", action="store_true", help="scores will be computed with torch.compile")
    parser.add_argument("--tsv", type=Path, required=True, help="table to write")
    parser.add_argument("--json", type=Path, required=True, help="the same as JSON")
    args = parser.parse_args()

    from seqprior.costs import as_json, as_table, as_tsv, count_cost, estimate, read_probe
    from seqprior.fetching import manifest_digest
    from seqprior.files import written_whole
    from seqprior.models import model_facts
    from seqprior.plans import Reading, read_scheme
    from seqprior.store import ScoreStore

    reading = Reading(args.marginals == "one-pass", args.pseudo_likelihood == "exact")
    estimates = []
    for model, checkpoint, probe_file in zip(args.models, args.checkpoints, args.probes, strict=True):
        facts = model_facts(args.registry, model, checkpoint)
        probe, store = read_probe(probe_file), None
        if args.store:
            arithmetic = probe.arithmetic + "-compiled" * args.compile
            store = ScoreStore(args.store, manifest_digest(checkpoint), arithmetic)
        shards = [args.base / "windows" / model / shard for shard in args.shards]
        embedding_window = None if args.no_embeddings else facts.embedding_window
        scheme = read_scheme(facts, reading)
        cost, background = count_cost(scheme, shards, embedding_window, store), None
        folders = sorted((args.background / "windows" / model).iterdir()) if args.background else []
        if not all(scored(args.background / "shards" / model, [folder.name for folder in folders])):
            background = count_cost(scheme, folders, None, store)
        estimates.append(
            estimate(
                model,
                cost,
                probe,
                minutes=args.shard_minutes,
                shards=len(shards),
                started=any(scored(args.base / "shards" / model, args.shards)),
                stored=store is not None,
                background=background,
            )
        )
        sys.stdout.write(as_table(estimates[-1]))
    for path, text in ((args.tsv, as_tsv(estimates)), (args.json, as_json(args.cohort, estimates))):
        with written_whole(path) as partial:
            partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
