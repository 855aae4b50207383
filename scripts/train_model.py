"""Train the bidirectional convolutional model on a reference. A run that was stopped goes on where it was."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--settings", type=json.loads, required=True, help="train section of the config, as JSON")
    parser.add_argument("--device", choices=["cpu", "gpu"], required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint and the trained model")
    args = parser.parse_args()

    from seqprior.sequence import read_genome
    from seqprior.training import TrainingSettings, train

    train(read_genome(args.fasta), TrainingSettings.from_dict(args.settings), args.output, args.device)


if __name__ == "__main__":
    run_script(main)
