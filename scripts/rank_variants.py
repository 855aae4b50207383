"""The ranked table of a cohort, as TSV, Parquet and VCF."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=Path, required=True, help="variants.parquet")
    parser.add_argument("--records", type=Path, required=True, help="records.parquet")
    parser.add_argument("--consequences", type=Path, required=True, help="consequences.parquet")
    parser.add_argument("--models", nargs="+", required=True, help="models, the first one's LLR goes into the VCF")
    parser.add_argument("--scores", type=Path, nargs="+", required=True, help="scores of each model, in that order")
    parser.add_argument("--calibrations", type=Path, nargs="+", required=True, help="calibration of each model")
    parser.add_argument("--proteins", type=Path, nargs="?", help="protein evidence; none without gene models")
    parser.add_argument("--regulation", type=Path, nargs="?", help="effects on elements and binding sites, if any")
    parser.add_argument("--contigs", type=Path, required=True, help="contig table of the reference")
    parser.add_argument("--settings", type=json.loads, required=True, help="prioritise section of the config, as JSON")
    parser.add_argument("--tsv", type=Path, required=True)
    parser.add_argument("--parquet", type=Path, required=True)
    parser.add_argument("--vcf", type=Path, required=True, help="the index goes beside it")
    args = parser.parse_args()

    from seqprior import VERSION
    from seqprior.contigs import read_contigs
    from seqprior.prioritise import rank_tables, write_ranked_vcf, write_table

    ranked = rank_tables(
        args.variants,
        args.consequences,
        dict(zip(args.models, args.scores, strict=True)),
        dict(zip(args.models, args.calibrations, strict=True)),
        args.proteins,
        args.regulation,
        args.settings,
    )
    write_table(ranked, args.tsv, args.parquet)
    lengths = {contig.name: contig.length for contig in read_contigs(args.contigs)}
    first = args.models[0]
    write_ranked_vcf(args.records, ranked.rename(columns={f"llr.{first}": "llr"}), first, lengths, VERSION, args.vcf)


if __name__ == "__main__":
    run_script(main)
