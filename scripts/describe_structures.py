"""What structures say of the residues of proteins: confidence, exposure, secondary structure, neighbours, domains."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proteins", type=Path, required=True, help="distinct proteins, as Parquet")
    parser.add_argument("--tables", type=Path, nargs="+", required=True, help="files of structures, found or folded")
    parser.add_argument("--sites", type=Path, nargs="?", help="annotated sites: name, residue, site; tab-separated")
    parser.add_argument("--residues", type=Path, required=True, help="features of residues, as Parquet")
    parser.add_argument("--structures", type=Path, required=True, help="structure of each protein, as Parquet")
    args = parser.parse_args()

    import pandas as pd

    from seqprior.structure_features import describe_structures, read_sites, read_structure_tables

    proteins = pd.read_parquet(args.proteins)
    sites = read_sites(args.sites) if args.sites else {}
    describe_structures(proteins, read_structure_tables(args.tables), sites, args.residues, args.structures)


if __name__ == "__main__":
    run_script(main)
