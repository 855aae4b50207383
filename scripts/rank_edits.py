"""Candidate edits from the least to the most disruptive, as TSV and Parquet."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=Path, required=True, help="edits.parquet")
    parser.add_argument("--nearby", type=Path, required=True, help="nearby.parquet")
    parser.add_argument("--variants", type=Path, required=True, help="variants.parquet of the edits and those nearby")
    parser.add_argument("--consequences", type=Path, required=True, help="consequences.parquet of these alleles")
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="scores of each model, in that order")
    parser.add_argument("--calibrations", type=Path, nargs="+", required=True, help="calibration of each model")
    parser.add_argument("--proteins", type=Path, nargs="?", help="protein evidence; none without gene models")
    parser.add_argument("--regulation", type=Path, nargs="?", help="effects on regulatory elements and sites, if any")
    parser.add_argument("--settings", type=json.loads, required=True, help="prioritise section of the config, as JSON")
    parser.add_argument("--tsv", type=Path, required=True)
    parser.add_argument("--parquet", type=Path, required=True)
    args = parser.parse_args()

    import pandas as pd

    from seqprior.edit_ranking import rank_edits, read_nearby
    from seqprior.prioritise import rank_tables, write_table

    ranked = rank_tables(
        args.variants,
        args.consequences,
        dict(zip(args.models, args.scores, strict=True)),
        dict(zip(args.models, args.calibrations, strict=True)),
        args.proteins,
        args.regulation,
        args.settings,
    )
    edits = rank_edits(pd.read_parquet(args.edits), ranked, read_nearby(args.nearby))
    write_table(edits, args.tsv, args.parquet)


if __name__ == "__main__":
    run_script(main)
