"""What a protein language model says of the residues and changes of a shard of proteins."""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path

from seqprior.errors import run_script
from seqprior.options import add_model_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proteins", type=Path, required=True, help="sequences of the proteins")
    parser.add_argument(
        "--changes", type=Path, nargs="*", default=[], help="changes of proteins; all residues are scored without"
    )
    add_model_options(parser)
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--marginals", choices=["wild-type", "masked"], default="wild-type")
    parser.add_argument("--pseudo-likelihood", choices=["one-pass", "exact"], default="one-pass")
    parser.add_argument("--shard", type=int, default=0, help="number of this shard, from 0")
    parser.add_argument("--shards", type=int, default=1, help="how many there are")
    parser.add_argument("--store", nargs="?", const="", default="", help="folder of the score store; empty for none")
    parser.add_argument("--profiles", type=Path, required=True, help="log p of the 20 residues at places, as Parquet")
    parser.add_argument("--change-scores", type=Path, required=True, help="scores of longer changes, as Parquet")
    parser.add_argument("--stats", type=Path, required=True, help="throughput, as JSON")
    args = parser.parse_args()

    os.environ["HF_HUB_OFFLINE"] = "1"  # what a job reads is in its verified folder
    from seqprior.embedding import Asker
    from seqprior.files import written_whole
    from seqprior.loading import Job, Reading, arithmetic_of, open_scheme
    from seqprior.protein_scoring import score_proteins

    reading = Reading(args.marginals == "wild-type", args.pseudo_likelihood == "exact")
    facts, digest, scheme = open_scheme(
        args.registry, args.model, args.checkpoint, args.lock, args.allow_code, reading, kind="protein"
    )
    arithmetic, store = arithmetic_of(args.dtype), None
    if args.store:
        from seqprior.store import ScoreStore

        store = ScoreStore(Path(args.store), digest, arithmetic + "-compiled" * args.compile)
    with Job(facts, reading, args.device, args.threads) as job:
        load = partial(job.load, arithmetic, compiled=args.compile)
        exact = None if arithmetic == "float32" and not args.compile else partial(job.load, "float32")
        asker = Asker(scheme, load, args.batch_tokens, store, exact)
        stats = score_proteins(
            asker,
            args.proteins,
            args.changes,
            args.profiles,
            args.change_scores,
            shard=args.shard,
            shards=args.shards,
        )
    with written_whole(args.stats) as partial_file:
        partial_file.write_text(json.dumps({"model": args.model, **stats}, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
