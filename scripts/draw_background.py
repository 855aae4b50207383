"""Alleles of random blocks of the reference, for calibration."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--blocks", type=int, required=True, help="number of random blocks")
    parser.add_argument("--block-length", type=int, required=True, help="bases in a block; all substitutions are drawn")
    parser.add_argument("--others", type=int, required=True, help="insertions, deletions, double substitutions, each")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="variants.parquet of the background")
    parser.add_argument("--summary", type=Path, required=True, help="its summary, which names no input file")
    args = parser.parse_args()

    from seqprior.calibration import background_alleles, background_table
    from seqprior.files import written_whole

    alleles = background_alleles(args.fasta, args.blocks, args.block_length, args.others, args.seed)
    with written_whole(args.output) as partial:
        background_table(alleles).to_parquet(partial, index=False)
    with written_whole(args.summary) as partial:
        partial.write_text('{"files": []}\n')


if __name__ == "__main__":
    run_script(main)
