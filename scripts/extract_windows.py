"""Model-ready windows around alleles, in shards."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqprior.errors import run_script
from seqprior.options import add_reading_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=Path, required=True, help="variants.parquet")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--registry", type=Path, required=True, help="model registry")
    parser.add_argument("--model", required=True, help="model of the registry")
    parser.add_argument("--max-unknown-share", type=float, required=True, help="of a window's bases")
    add_reading_options(parser)
    parser.add_argument("--shards", type=Path, nargs="+", required=True, help="folders to write, in order")
    args = parser.parse_args()

    from seqprior.models import model_facts
    from seqprior.windows import extract_windows

    facts = model_facts(args.registry, args.model)
    passes = 2.0 * (facts.window / facts.k if args.pseudo_likelihood == "exact" else 1)
    count = extract_windows(
        args.variants,
        args.fasta,
        facts,
        args.shards,
        max_unknown_share=args.max_unknown_share,
        one_pass=args.marginals == "one-pass",
        pair_cost=passes,
    )
    print(f"{count} windows for {args.model}")


if __name__ == "__main__":
    run_script(main)
