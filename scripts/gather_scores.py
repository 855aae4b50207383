"""All scores of a cohort by one model: shards joined, calibrated, and every skipped allele with its reason."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=Path, required=True, help="variants.parquet")
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="scores of each shard")
    parser.add_argument("--calibration", type=Path, required=True, help="folder that calibrate_scores.py wrote")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--output", type=Path, required=True, help="scores, as Parquet")
    args = parser.parse_args()

    from seqprior.calibration import read_calibration
    from seqprior.scores import gather_scores

    gather_scores(args.variants, args.shards, read_calibration(args.calibration), args.fasta, args.output)


if __name__ == "__main__":
    run_script(main)
