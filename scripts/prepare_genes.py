"""Convert gene models (GFF3 or GTF) into the sorted, indexed GFF3 that consequence calling reads."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from seqprior.contigs import ContigNames, read_contigs
from seqprior.errors import run_script
from seqprior.genes import prepare_genes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--genes", type=Path, required=True, help="GFF3 or GTF; plain, gzip or bgzip")
    parser.add_argument("--contigs", type=Path, required=True, help="contig table of prepare_reference.py")
    parser.add_argument("--aliases", type=json.loads, default={}, help="further contig names, as JSON")
    parser.add_argument("--output", type=Path, required=True, help="bgzipped GFF3; .tbi beside it")
    args = parser.parse_args()

    counts = prepare_genes(args.genes, ContigNames(read_contigs(args.contigs), args.aliases), args.output)
    for what, count in counts.items():
        logging.info("%s: %d", what.replace("_", " "), count)


if __name__ == "__main__":
    run_script(main)
