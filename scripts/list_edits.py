"""The alleles of candidate edits, and those of the same shape nearby with which each is compared."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    kinds = ["MANE_Select", "MANE_Plus_Clinical", "canonical", "longest"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=Path, required=True, help="table of edits, VCF or BCF")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--contigs", type=Path, required=True, help="contig table of the reference")
    parser.add_argument("--aliases", type=json.loads, default={}, help="further contig names, as JSON")
    parser.add_argument("--genes", type=Path, nargs="?", help="prepared gene models, for names of transcripts")
    parser.add_argument("--transcripts", nargs="+", choices=kinds, default=kinds, help="which of a gene, in this order")
    parser.add_argument("--editors", type=json.loads, default={}, help="editing.editors of the config, as JSON")
    parser.add_argument("--most-outcomes", type=int, default=256, help="outcomes of one guide that are listed")
    parser.add_argument("--nearby", type=int, default=25, help="bases either side for comparison; 0 for none")
    parser.add_argument("--max-allele-length", type=int, required=True, help="longest change that is scored")
    parser.add_argument("--max-span", type=int, default=200, help="most bases from first to last change of an edit")
    parser.add_argument("--output", type=Path, required=True, help="folder of edits, variants and nearby, as Parquet")
    parser.add_argument("--summary", type=Path, required=True, help="counts, as JSON")
    args = parser.parse_args()

    from seqprior.base_editing import known_editors
    from seqprior.contigs import ContigNames, read_contigs
    from seqprior.edits import list_edits
    from seqprior.files import written_whole

    summary = list_edits(
        args.edits,
        args.fasta,
        ContigNames(read_contigs(args.contigs), args.aliases),
        args.output,
        genes=args.genes,
        order=args.transcripts,
        editors=known_editors(args.editors),
        most_outcomes=args.most_outcomes,
        nearby=args.nearby,
        max_length=args.max_allele_length,
        max_span=args.max_span,
    )
    with written_whole(args.summary) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
