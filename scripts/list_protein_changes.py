"""What each allele in a coding sequence changes in a protein, and which alleles share a codon on one chromosome."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=Path, required=True, help="variants.parquet")
    parser.add_argument("--records", type=Path, help="records.parquet, to find phased alleles in the input files")
    parser.add_argument("--vcfs", type=Path, nargs="*", default=[], help="input files; those with genotypes are read")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--contigs", type=Path, required=True, help="contig table of the reference")
    parser.add_argument("--aliases", type=json.loads, default={}, help="further contig names, as JSON")
    parser.add_argument("--genes", type=Path, required=True, help="prepared gene models")
    kinds = ["MANE_Select", "MANE_Plus_Clinical", "canonical", "longest"]
    parser.add_argument("--transcripts", nargs="+", choices=kinds, default=kinds, help="which of a gene, in this order")
    parser.add_argument("--genetic-codes", type=json.loads, default={}, help="NCBI table of contigs, as JSON")
    parser.add_argument("--sequences", type=Path, nargs="?", help="FASTA of proteins to compare with")
    parser.add_argument("--uniprot", type=Path, nargs="?", help="table of UniProt accessions")
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
