"""What protein models and structures say of each allele that touches a coding sequence."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqprior.errors import run_script
from seqprior.options import add_protein_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=Path, required=True, help="changes of proteins, by allele")
    parser.add_argument("--haplotypes", type=Path, required=True, help="joint changes of one codon")
    parser.add_argument("--proteins", type=Path, required=True, help="sequences of the proteins")
    add_protein_options(parser)
    parser.add_argument("--change-scores", type=Path, nargs="*", default=[], help="likewise, of longer changes")
    parser.add_argument(
        "--missense", type=Path, nargs="?", help="coefficients of the missense score; none leaves it out"
    )
    parser.add_argument("--output", type=Path, required=True, help="protein evidence, as Parquet")
    args = parser.parse_args()

    import pandas as pd

    from seqprior.files import written_whole
    from seqprior.missense import read_model
    from seqprior.protein_evidence import protein_evidence, read_answers, residues_asked

    changes, haplotypes = pd.read_parquet(args.changes), pd.read_parquet(args.haplotypes)
    proteins = pd.read_parquet(args.proteins)
    sequences = dict(zip(proteins["protein"], proteins["sequence"], strict=True))
    wanted = residues_asked(changes, haplotypes)
    shards = len(args.profiles) // max(len(args.protein_models), 1)
    protein_answers = {}
    for number, model in enumerate(args.protein_models):
        own = slice(number * shards, (number + 1) * shards)
        protein_answers[model] = read_answers(args.profiles[own], args.change_scores[own], sequences, wanted)
    structure_answers = {
        model: read_answers([path], [], sequences, wanted)
        for model, path in zip(args.structure_models, args.structure_profiles, strict=True)
    }
    features = pd.read_parquet(args.residues) if args.residues else None
    structures = pd.read_parquet(args.structures) if args.structures else None
    missense = read_model(args.missense) if args.missense else None
    evidence = protein_evidence(
        changes, haplotypes, proteins, protein_answers, structure_answers, features, structures, missense
    )
    with written_whole(args.output) as partial:
        evidence.to_parquet(partial, index=False)


if __name__ == "__main__":
    run_script(main)
