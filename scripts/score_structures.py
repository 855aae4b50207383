"""What a model that sees a protein's backbone says of each residue: log p of the 20 amino acids."""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proteins", type=Path, required=True, help="distinct proteins, as Parquet")
    parser.add_argument("--structures", type=Path, required=True, help="structure of each protein, as Parquet")
    parser.add_argument("--registry", type=Path, required=True, help="model registry")
    parser.add_argument("--model", required=True, help="model of the registry, of kind structure")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that fetch_model.py made")
    parser.add_argument("--lock", type=Path, required=True, help="models.lock")
    parser.add_argument("--device", choices=["cpu", "gpu"], required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--conditional", action="store_true", help="see the other residues too, one pass a residue")
    parser.add_argument("--store", nargs="?", const="", default="", help="folder of the score store; empty for none")
    parser.add_argument("--profiles", type=Path, required=True, help="log p of the 20 residues at places, as Parquet")
    parser.add_argument("--stats", type=Path, required=True, help="throughput, as JSON")
    args = parser.parse_args()

    os.environ["HF_HUB_OFFLINE"] = "1"  # what a job reads is in its verified folder
    from seqprior.files import written_whole
    from seqprior.protein_mpnn import open_model, opened_network, score_structures

    facts, digest = open_model(args.registry, args.model, args.checkpoint, args.lock)
    store = None
    if args.store:
        from seqprior.store import ScoreStore

        store = ScoreStore(Path(args.store), digest, "float32")
    network = partial(opened_network, facts, args.device, args.threads)
    stats = score_structures(args.proteins, args.structures, args.profiles, network, store, args.conditional)
    with written_whole(args.stats) as partial_file:
        partial_file.write_text(json.dumps({"model": args.model, "arithmetic": "float32", **stats}, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
