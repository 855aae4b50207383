"""Find a structure for each protein, in folders or in AlphaFold DB."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proteins", type=Path, required=True, help="distinct proteins, as Parquet")
    parser.add_argument("--folders", type=Path, nargs="*", default=[], help="folders of structures, searched first")
    parser.add_argument(
        "--database",
        nargs="?",
        const="",
        default="",
        help="address of AlphaFold DB's files; nothing is fetched without",
    )
    parser.add_argument("--version", type=int, required=True, help="version of AlphaFold DB's models")
    parser.add_argument("--cache", type=Path, required=True, help="folder that keeps what is fetched")
    parser.add_argument("--output", type=Path, required=True, help="the file of each protein's structure, as TSV")
    args = parser.parse_args()

    import pandas as pd

    from seqprior.alphafold import Database, find_structures
    from seqprior.files import written_whole

    proteins = pd.read_parquet(args.proteins)
    database = Database(args.database, args.version, args.cache) if args.database else None
    structures = find_structures(proteins, args.folders, database, args.version)
    with written_whole(args.output) as partial:
        structures.to_csv(partial, sep="\t", index=False)


if __name__ == "__main__":
    run_script(main)
