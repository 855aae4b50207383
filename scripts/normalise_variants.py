"""Unique, left-aligned, reference-checked alleles of any number of VCF and BCF files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=Path, nargs="+", required=True, help="VCF, VCF.gz or BCF files")
    parser.add_argument("--samples", type=json.loads, default=[], help="pairs of sample and file, as JSON")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--contigs", type=Path, required=True, help="contig table of the reference")
    parser.add_argument("--aliases", type=json.loads, default={}, help="further contig names, as JSON")
    parser.add_argument("--max-allele-length", type=int, required=True)
    parser.add_argument("--max-mismatch-share", type=float, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of variants.parquet and records.parquet")
    parser.add_argument("--summary", type=Path, required=True, help="counts, as JSON")
    args = parser.parse_args()

    from seqprior.contigs import ContigNames, read_contigs
    from seqprior.files import written_whole
    from seqprior.variants import normalise_variants, require_samples

    require_samples(args.samples)
    names = ContigNames(read_contigs(args.contigs), args.aliases)
    summary = normalise_variants(
        args.variants,
        args.fasta,
        names,
        args.output,
        max_length=args.max_allele_length,
        max_mismatch_share=args.max_mismatch_share,
    )
    with written_whole(args.summary) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
