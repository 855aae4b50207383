"""Consequence, gene, transcript and protein change of each allele."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=Path, required=True, help="variants.parquet")
    parser.add_argument("--summary", type=Path, help="counts of the variants stage, for the input's annotation fields")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--genes", type=Path, nargs="?", help="prepared gene models; none leaves alleles unannotated")
    parser.add_argument("--source", choices=["auto", "csq", "input"], default="auto")
    parser.add_argument("--output", type=Path, required=True, help="consequences, as Parquet")
    args = parser.parse_args()

    from seqprior.consequences import annotate_consequences

    files = json.loads(args.summary.read_text())["files"] if args.summary else []
    fields = {file["path"]: file["annotations"] for file in files}
    count = annotate_consequences(args.variants, args.fasta, args.genes, fields, args.source, args.output)
    print(f"{count} alleles annotated")


if __name__ == "__main__":
    run_script(main)
