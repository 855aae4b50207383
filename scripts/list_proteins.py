"""The proteins of named genes or transcripts."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqprior.errors import run_script
from seqprior.options import add_translation_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--names", nargs="+", required=True, help="genes or transcripts, by name or id")
    add_translation_options(parser)
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
