"""The classifier of one regulatory element: trained, calibrated, and judged on folds that it has not seen."""

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
    parser.add_argument("--element", required=True, help="name of the element")
    parser.add_argument("--intervals", type=Path, required=True, help="labelled intervals of draw_intervals.py")
    parser.add_argument("--summary", type=Path, required=True, help="what draw_intervals.py says of them, as JSON")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    add_model_options(parser)
    parser.add_argument("--settings", type=json.loads, required=True, help="the config's section regulatory, as JSON")
    parser.add_argument("--head", type=Path, required=True, help="folder of the trained head and its card")
    parser.add_argument("--metrics", type=Path, required=True, help="measures of heads and baselines, as TSV")
    parser.add_argument("--predictions", type=Path, required=True, help="of intervals of held-out folds, as Parquet")
    parser.add_argument("--curves", type=Path, required=True, help="of heads and baselines, as JSON")
    args = parser.parse_args()

    os.environ["HF_HUB_OFFLINE"] = "1"  # what a job reads is in its verified folder
    import torch

    from seqprior.elements import Training, train_element
    from seqprior.loading import Job, Reading, arithmetic_of, open_scheme

    keys = ("window", "heads", "epochs", "threshold", "seed")
    choice = Training(**{key: args.settings[key] for key in keys})
    counts = json.loads(args.summary.read_text(encoding="utf-8"))
    outputs = {name: getattr(args, name) for name in ("head", "metrics", "predictions", "curves")}
    facts, digest, _ = open_scheme(args.registry, args.model, args.checkpoint, args.lock, args.allow_code, Reading())
    torch.set_num_threads(args.threads)
    with Job(facts, Reading(), args.device, args.threads) as job:
        load, source = partial(job.load, arithmetic_of(args.dtype)), (args.model, digest)
        train_element(
            args.element, args.intervals, counts, args.fasta, load, source, args.batch_tokens, choice, **outputs
        )


if __name__ == "__main__":
    run_script(main)
