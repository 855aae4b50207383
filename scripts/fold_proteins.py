"""Structures of the proteins for which none was found, by a model that folds them. What was folded before is reused."""

from __future__ import annotations

import argparse
import json
import os
from contextlib import contextmanager
from pathlib import Path

from seqprior.errors import run_script
from seqprior.options import add_model_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proteins", type=Path, required=True, help="proteins.parquet")
    parser.add_argument("--structures", type=Path, required=True, help="structures that were found, or why none was")
    add_model_options(parser)
    parser.add_argument("--longest", type=int, required=True, help="residues; longer proteins are not folded")
    parser.add_argument("--folder", type=Path, required=True, help="where folded files are kept, for all cohorts")
    parser.add_argument("--output", type=Path, required=True, help="the proteins that had no structure, as TSV")
    parser.add_argument("--stats", type=Path, required=True, help="counts, as JSON")
    args = parser.parse_args()

    os.environ["HF_HUB_OFFLINE"] = "1"  # what a job reads is in its verified folder
    from seqprior import folding
    from seqprior.fetching import read_manifest, verify
    from seqprior.files import written_whole
    from seqprior.models import model_facts

    facts = model_facts(args.registry, args.model, args.checkpoint)
    folding.require_folding(facts)
    manifest = read_manifest(args.checkpoint)
    digest, revision = manifest.digest, manifest.revision or manifest.digest[:16]
    arithmetic = folding.arithmetic_of(args.dtype)

    @contextmanager
    def network():
        verify(args.checkpoint, args.lock)
        with folding.folding_network(facts, args.device, arithmetic, args.threads) as opened:
            yield opened

    table, stats = folding.fold_missing(
        folding.read_structures(args.structures),
        folding.read_sequences(args.proteins),
        folding.FoldedFiles(args.folder, digest, arithmetic),
        facts,
        revision,
        args.longest,
        network,
        lambda sequence: folding.remarks_of(facts, revision, digest, arithmetic, sequence),
        args.batch_tokens,
    )
    with written_whole(args.output) as partial:
        table.to_csv(partial, sep="\t", index=False)
    with written_whole(args.stats) as partial:
        partial.write_text(json.dumps({"model": args.model, "arithmetic": arithmetic, **stats}, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
