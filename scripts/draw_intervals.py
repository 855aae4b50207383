"""Labelled intervals of a regulatory element, of one width and in folds, with negatives matched to its positives."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--intervals", type=Path, required=True, help="BED or narrowPeak file of labelled intervals")
    parser.add_argument("--label", nargs="?", help="label, in the fourth column, of the element; every row if empty")
    parser.add_argument("--negatives", type=Path, nargs="?", help="BED file of negatives; drawn if there are none")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--contigs", type=Path, required=True, help="contigs.tsv")
    parser.add_argument("--aliases", type=json.loads, default={}, help="further contig names, as JSON")
    parser.add_argument("--window", type=int, required=True, help="bases of each interval")
    parser.add_argument("--folds", type=int, required=True, help="folds that are held out in turn")
    parser.add_argument("--negative-ratio", type=float, required=True, help="negatives drawn for each positive")
    parser.add_argument("--max-unknown-share", type=float, required=True, help="of an interval's bases")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="intervals.parquet")
    parser.add_argument("--summary", type=Path, required=True, help="what became of the files' rows, as JSON")
    args = parser.parse_args()

    from seqprior.contigs import ContigNames, read_contigs
    from seqprior.files import written_whole
    from seqprior.intervals import Choice, draw_intervals

    names = ContigNames(read_contigs(args.contigs), args.aliases)
    choice = Choice(args.window, args.folds, args.negative_ratio, args.max_unknown_share, args.seed, args.label or None)
    table, summary = draw_intervals(args.intervals, args.negatives, args.fasta, names, choice)
    with written_whole(args.output) as partial:
        table.to_parquet(partial, index=False)
    with written_whole(args.summary) as partial:
        partial.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
