"""run.json: what was run, on what, with which models, versions and counts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=json.loads, required=True, help="effective config, as JSON")
    parser.add_argument("--inputs", type=Path, nargs="+", required=True, help="input files of the run")
    parser.add_argument("--registry", type=Path, required=True, help="model registry")
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--manifests", type=Path, nargs="+", required=True, help="of the models, in their order")
    parser.add_argument("--summary", type=Path, required=True, help="counts of the variants stage")
    parser.add_argument("--ranked", type=Path, required=True, help="ranked.parquet")
    parser.add_argument("--stats", type=Path, nargs="+", required=True, help="throughput of each scoring job")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    from seqprior.files import written_whole
    from seqprior.provenance import describe_run

    run = describe_run(
        args.config, args.inputs, args.registry, args.models, args.manifests, args.summary, args.ranked, args.stats
    )
    with written_whole(args.output) as partial:
        partial.write_text(json.dumps(run, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
