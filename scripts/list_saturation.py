"""Every substitution, and every short deletion, in the regions of a BED file, as alleles to score."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regions", type=Path, required=True, help="BED file")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--contigs", type=Path, required=True, help="contig table of the reference")
    parser.add_argument("--aliases", type=json.loads, default={}, help="further contig names, as JSON")
    parser.add_argument("--deletions", type=int, choices=range(4), default=0, help="longest deletion in bases")
    parser.add_argument("--output", type=Path, required=True, help="variants.parquet")
    parser.add_argument("--summary", type=Path, required=True, help="counts and regions, as JSON")
    args = parser.parse_args()

    from seqprior.contigs import ContigNames, read_contigs
    from seqprior.files import written_whole
    from seqprior.region_alleles import list_saturation

    names = ContigNames(read_contigs(args.contigs), args.aliases)
    summary = list_saturation(args.regions, args.fasta, names, args.output, args.deletions)
    with written_whole(args.summary) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")
    logging.info("%d alleles in %d regions", summary["unique_alleles"], len(summary["regions"]))


if __name__ == "__main__":
    run_script(main)
