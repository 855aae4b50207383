"""Make the bgzipped, indexed reference FASTA and the table of its contigs."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqprior.contigs import contigs_of, write_contigs
from seqprior.errors import run_script
from seqprior.reference import prepare_fasta


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fasta", required=True, help="path or URL; plain, gzip or bgzip")
    parser.add_argument(
        "--sha256", nargs="?", const="", default="", help="digest of the file as fetched; required for a URL"
    )
    parser.add_argument("--output", type=Path, required=True, help="bgzipped FASTA (.fa.gz); .fai and .gzi beside it")
    parser.add_argument("--contigs", type=Path, required=True, help="contig table (TSV)")
    args = parser.parse_args()

    prepare_fasta(args.fasta, args.sha256 or None, args.output)
    write_contigs(contigs_of(args.output), args.contigs)


if __name__ == "__main__":
    run_script(main)
