"""All binding sites of a run, as a table and as BED."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=Path, nargs="*", default=[], help="tables of sites, as Parquet; none is fine")
    parser.add_argument("--contigs", type=Path, required=True, help="contigs.tsv")
    parser.add_argument("--tsv", type=Path, required=True)
    parser.add_argument("--bed", type=Path, required=True)
    args = parser.parse_args()

    from seqprior.constraint import gather_sites
    from seqprior.contigs import read_contigs

    contigs = {contig.name: contig.length for contig in read_contigs(args.contigs)}
    logging.info("%d sites", gather_sites(args.sites, contigs, args.tsv, args.bed))


if __name__ == "__main__":
    run_script(main)
