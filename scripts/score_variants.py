"""Scores of one shard's alleles by one sequence model."""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path

from seqprior.errors import run_script
from seqprior.options import add_model_options, add_reading_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shard", type=Path, required=True, help="folder with windows.parquet and alleles.parquet")
    add_model_options(parser)
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    add_reading_options(parser)
    parser.add_argument("--no-embeddings", action="store_true", help="leave the embedding distances empty")
    parser.add_argument("--store", nargs="?", const="", default="", help="folder of the score store; empty for none")
    parser.add_argument("--output", type=Path, required=True, help="scores, as Parquet")
    parser.add_argument("--stats", type=Path, required=True, help="throughput, as JSON")
    args = parser.parse_args()

    os.environ["HF_HUB_OFFLINE"] = "1"  # what a job reads is in its verified folder
    from seqprior.embedding import Scorer, score_shard
    from seqprior.files import written_whole
    from seqprior.loading import Job, Reading, arithmetic_of, open_scheme

    reading = Reading(args.marginals == "one-pass", args.pseudo_likelihood == "exact")
    facts, digest, scheme = open_scheme(args.registry, args.model, args.checkpoint, args.lock, args.allow_code, reading)
    arithmetic, store = arithmetic_of(args.dtype), None
    if args.store:
        from seqprior.store import ScoreStore

        store = ScoreStore(Path(args.store), digest, arithmetic + "-compiled" * args.compile)
    with Job(facts, reading, args.device, args.threads) as job:
        load = partial(job.load, arithmetic, compiled=args.compile)
        exact = None if arithmetic == "float32" and not args.compile else partial(job.load, "float32")
        scorer = Scorer(
            scheme, load, args.batch_tokens, None if args.no_embeddings else facts.embedding_window, store, exact
        )
        stats = score_shard(scorer, args.shard, args.output)
    with written_whole(args.stats) as partial_file:
        partial_file.write_text(json.dumps({"model": args.model, **stats}, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
