"""The proteins of named genes or transcripts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", nargs="+", required=True, help="genes or transcripts, by name or id")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--contigs", type=Path, required=True, help="contig table of the reference")
    parser.add_argument("--aliases", type=json.loads, default={}, help="further contig names, as JSON")
    parser.add_argument("--genes", type=Path, required=True, help="prepared gene models")
    kinds = ["MANE_Select", "MANE_Plus_Clinical", "canonical", "longest"]
    parser.add_argument("--transcripts", nargs="+", choices=kinds, default=kinds, help="which of a gene, in this order")
    parser.add_argument("--genetic-codes", type=json.loads, default={}, help="NCBI table of contigs, as JSON")
    parser.add_argument("--sequences", type=Path, nargs="?", help="FASTA of proteins to compare with")
    parser.add_argument("--uniprot", type=Path, nargs="?", help="table of UniProt accessions")
    parser.add_argument("--output", type=Path, required=True, help="proteins, as Parquet")
    args = parser.parse_args()

    from seqprior.contigs import ContigNames, read_contigs
    from seqprior.files import written_whole
    from seqprior.protein_changes import proteins_of

    table = proteins_of(
        args.genes,
        args.fasta,
        ContigNames(read_contigs(args.contigs), args.aliases),
        args.names,
        order=args.transcripts,
        genetic_codes=args.genetic_codes,
        sequences=args.sequences,
        uniprot=args.uniprot,
    )
    with written_whole(args.output) as partial:
        table.to_parquet(partial, index=False)


if __name__ == "__main__":
    run_script(main)
