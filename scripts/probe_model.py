"""Speed of one model on this machine's device, for estimates."""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path

from seqprior.errors import run_script
from seqprior.options import add_model_options, add_reading_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shard", type=Path, help="windows to measure on; random DNA without")
    add_model_options(parser)
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    add_reading_options(parser)
    parser.add_argument("--seconds", type=float, default=30.0, help="time to measure once the model is loaded")
    parser.add_argument("--output", type=Path, required=True, help="speed, as JSON")
    args = parser.parse_args()

    started = time.perf_counter()
    os.environ["HF_HUB_OFFLINE"] = "1"  # what a job reads is in its verified folder
    from seqprior import VERSION
    from seqprior.files import written_whole
    from seqprior.loading import Job, Reading, arithmetic_of, open_scheme
    from seqprior.probing import probe

    reading = Reading(args.marginals == "one-pass", args.pseudo_likelihood == "exact")
    facts, digest, scheme = open_scheme(args.registry, args.model, args.checkpoint, args.lock, args.allow_code, reading)
    arithmetic = arithmetic_of(args.dtype)
    with Job(facts, reading, args.device, args.threads) as job:
        load = partial(job.load, arithmetic, compiled=args.compile)
        before = time.perf_counter() - started  # each scoring job pays for imports and for checking the files too
        found = probe(scheme, load, args.batch_tokens, args.seconds, args.shard)
    found["load_seconds"] += before
    asked = {
        "model": args.model,
        "digest": digest,
        "seqprior_version": VERSION,
        "arithmetic": arithmetic,
        "compiled": args.compile,
        "threads": args.threads,
        "marginals": args.marginals,
        "pseudo_likelihood": args.pseudo_likelihood,
        "measured_on": str(args.shard) if args.shard else "random DNA",
    }
    with written_whole(args.output) as partial_file:
        partial_file.write_text(json.dumps(asked | found, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
