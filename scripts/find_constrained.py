"""Binding sites that a sequence model constrains, at a false discovery rate against shuffled sequence."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scan", type=Path, nargs="+", required=True, help="shards of scan_regions.py, in order")
    parser.add_argument("--control", type=Path, required=True, help="scan of shuffled sequence")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--contigs", type=Path, required=True, help="contigs.tsv")
    parser.add_argument("--motifs", type=Path, nargs="?", help="MEME file of motifs to name sites by")
    parser.add_argument("--fdr", type=float, required=True, help="false discovery rate")
    parser.add_argument("--output", type=Path, required=True, help="sites, as Parquet")
    args = parser.parse_args()

    from seqprior.constraint import find_constrained
    from seqprior.contigs import read_contigs
    from seqprior.motifs import read_motifs
    from seqprior.tracks import open_scan

    contigs = {contig.name: contig.length for contig in read_contigs(args.contigs)}
    motifs = read_motifs(args.motifs) if args.motifs else []
    table, control = open_scan(args.scan), open_scan([args.control])
    find_constrained(table, control, args.fasta, contigs, motifs, args.fdr, args.output)


if __name__ == "__main__":
    run_script(main)
