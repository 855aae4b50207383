"""Zero point and spread of a model's scores, from the neutral alleles of the background."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="scores of the background")
    parser.add_argument("--consequences", type=Path, required=True, help="consequences of the background")
    parser.add_argument("--neutral", nargs="+", required=True, help="consequence terms that count as neutral")
    parser.add_argument("--model", required=True)
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    args = parser.parse_args()

    import pandas as pd

    from seqprior.calibration import calibrate, write_calibration

    scores = pd.concat([pd.read_parquet(shard) for shard in args.shards], ignore_index=True)
    calibration = calibrate(scores, pd.read_parquet(args.consequences), args.neutral, args.fasta)
    write_calibration(calibration, args.model, args.neutral, args.output)


if __name__ == "__main__":
    run_script(main)
