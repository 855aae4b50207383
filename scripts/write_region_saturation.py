"""Write every change in some regions: a table, tracks of each position's worst case, and a page of heat maps."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=Path, required=True, help="variants.parquet of list_saturation.py")
    parser.add_argument("--summary", type=Path, required=True, help="its summary, with the regions")
    parser.add_argument("--models", nargs="+", required=True, help="models")
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="scores of each model, in that order")
    parser.add_argument("--consequences", type=Path, nargs="?", help="consequences.parquet")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--contigs", type=Path, required=True, help="contig table of the reference")
    parser.add_argument("--cohort", default="", help="name of the run, for the page's head")
    parser.add_argument("--template-dir", type=Path, required=True, help="folder of region_saturation.html.j2")
    parser.add_argument("--table", type=Path, required=True, help="table of all changes, as TSV")
    parser.add_argument("--tracks", type=Path, nargs="+", required=True, help="bigWig of each model")
    parser.add_argument("--deletion-tracks", type=Path, nargs="*", default=[], help="bigWig of each model, or none")
    parser.add_argument("--output", type=Path, required=True, help="the page, as HTML")
    args = parser.parse_args()

    from seqprior.contigs import read_contigs
    from seqprior.region_alleles import Region
    from seqprior.region_saturation import write_page, write_region_saturation

    regions = [Region(**region) for region in json.loads(args.summary.read_text())["regions"]]
    drawn, rows = write_region_saturation(
        args.variants,
        regions,
        dict(zip(args.models, args.scores, strict=True)),
        args.consequences,
        args.fasta,
        [(contig.name, contig.length) for contig in read_contigs(args.contigs)],
        args.table,
        args.tracks,
        args.deletion_tracks,
    )
    write_page(
        drawn, args.models, args.fasta, len(regions), args.table, args.output, args.template_dir, cohort=args.cohort
    )
    logging.info("%d changes in %d regions", rows, len(regions))


if __name__ == "__main__":
    run_script(main)
