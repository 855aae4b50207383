"""Nucleotide-dependency maps of short regions: which position's prediction moves when another is changed."""

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
    parser.add_argument("--regions", type=Path, required=True, help="BED file of short regions")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--contigs", type=Path, required=True, help="contigs.tsv")
    parser.add_argument("--aliases", type=json.loads, default={}, help="further contig names, as JSON")
    add_model_options(parser)
    parser.add_argument("--output", type=Path, required=True, help="effect of each position on each other, as Parquet")
    args = parser.parse_args()

    os.environ["HF_HUB_OFFLINE"] = "1"  # what a job reads is in its verified folder
    from seqprior.contigs import ContigNames, read_contigs
    from seqprior.dependencies import read_targets, write_maps
    from seqprior.information import MarginalReader
    from seqprior.loading import Job, Reading, arithmetic_of, open_scheme

    reading, names = Reading(one_pass_marginals=True), ContigNames(read_contigs(args.contigs), args.aliases)
    facts, _, scheme = open_scheme(args.registry, args.model, args.checkpoint, args.lock, args.allow_code, reading)
    targets = list(read_targets(args.regions, args.fasta, names, facts))  # all are checked before the first is read
    with Job(facts, reading, args.device, args.threads) as job:
        reader = MarginalReader(scheme, partial(job.load, arithmetic_of(args.dtype)), args.batch_tokens)
        write_maps(reader, targets, args.output)


if __name__ == "__main__":
    run_script(main)
