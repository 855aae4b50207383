"""What each allele in a coding sequence changes in a protein, and which alleles share a codon on one chromosome."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from seqprior.errors import run_script
from seqprior.options import add_translation_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=Path, required=True, help="variants.parquet")
    parser.add_argument(
        "--records", type=Path, nargs="?", help="records.parquet, to find phased alleles in the input files"
    )
    parser.add_argument("--vcfs", type=Path, nargs="*", default=[], help="input files; those with genotypes are read")
    add_translation_options(parser)
    parser.add_argument("--changes", type=Path, required=True, help="output, as Parquet")
    parser.add_argument("--haplotypes", type=Path, required=True, help="output, as Parquet")
    parser.add_argument("--proteins", type=Path, required=True, help="output, as Parquet")
    args = parser.parse_args()

    from seqprior.contigs import ContigNames, read_contigs
    from seqprior.protein_changes import list_protein_changes

    summary = list_protein_changes(
        args.variants,
        args.fasta,
        args.genes,
        ContigNames(read_contigs(args.contigs), args.aliases),
        order=args.transcripts,
        genetic_codes=args.genetic_codes,
        sequences=args.sequences,
        uniprot=args.uniprot,
        records=args.records,
        vcfs=args.vcfs,
        changes=args.changes,
        haplotypes=args.haplotypes,
        proteins=args.proteins,
    )
    for (status, reason), count in sorted(summary.alleles.items()):
        logging.info("%s: %d alleles", f"{status}, {reason}" if reason else status, count)
    logging.info("haplotypes with several alleles in one codon: %d", summary.haplotypes)
    if summary.unplaced:
        logging.info("haplotypes left out, since their alleles overlap or leave the exon: %d", summary.unplaced)
    logging.info("proteins: %d, with a UniProt accession: %d", summary.proteins, summary.with_accession)
    if args.sequences:
        logging.info("proteins compared with %s: %d", args.sequences, summary.checked)
        logging.info("of these, differing from the translation: %d", len(summary.differing))
        for transcript, how in summary.differing:
            logging.info("  %s: %s", transcript, how)


if __name__ == "__main__":
    run_script(main)
