"""Make a folder hold a model's checkpoint: from a hub or a path, as models.lock records it. New models are recorded."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqprior.errors import run_script
from seqprior.fetching import fetch
from seqprior.models import model_facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry", type=Path, required=True, help="model registry")
    parser.add_argument("--model", required=True, help="name of the model in the registry")
    parser.add_argument("--checkpoint", type=Path, nargs="?", help="folder of a model that is no hub's")
    parser.add_argument(
        "--copy", action="store_true", help="copy the files of --checkpoint, which are linked otherwise"
    )
    parser.add_argument("--lock", type=Path, required=True, help="models.lock, read and written")
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint and its manifest.json")
    args = parser.parse_args()

    fetch(model_facts(args.registry, args.model, args.checkpoint), args.lock, args.output, args.copy)


if __name__ == "__main__":
    run_script(main)
