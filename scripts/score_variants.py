"""Scores of one shard's alleles by one sequence model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shard", type=Path, required=True, help="folder with windows.parquet and alleles.parquet")
    parser.add_argument("--registry", type=Path, required=True, help="model registry")
    parser.add_argument("--model", required=True, help="model of the registry")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the model's files")
    parser.add_argument("--device", choices=["cpu", "gpu"], required=True)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--batch-tokens", default="auto", help="bases in a batch, or auto")
    parser.add_argument("--pseudo-likelihood", choices=["one-pass", "exact"], default="one-pass")
    parser.add_argument("--no-embeddings", action="store_true", help="leave the embedding distances empty")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True, help="scores, as Parquet")
    parser.add_argument("--stats", type=Path, required=True, help="throughput, as JSON")
    args = parser.parse_args()

    import torch

    from seqprior.adapters import load_adapter
    from seqprior.embedding import Scorer, score_shard
    from seqprior.files import written_whole
    from seqprior.models import model_facts

    torch.set_num_threads(args.threads)
    facts = model_facts(args.registry, args.model, args.checkpoint)
    adapter = load_adapter(facts, args.device, args.dtype, args.pseudo_likelihood == "exact")
    budget = None if args.batch_tokens == "auto" else int(args.batch_tokens)
    scorer = Scorer(adapter, budget, None if args.no_embeddings else facts.embedding_window)
    stats = score_shard(scorer, args.shard, args.output)
    with written_whole(args.stats) as partial:
        partial.write_text(json.dumps({"model": args.model, **stats}, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
