"""What alleles do to regulatory elements and binding sites, as evidence for the ranking."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from seqprior.errors import run_script
from seqprior.options import add_model_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=Path, required=True, help="variants.parquet")
    parser.add_argument(
        "--regions", type=Path, nargs="?", help="BED file that was scanned; the whole reference if none"
    )
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--contigs", type=Path, required=True, help="contigs.tsv")
    parser.add_argument("--aliases", type=json.loads, default={}, help="further contig names, as JSON")
    add_model_options(parser)
    parser.add_argument("--elements", nargs="*", default=[], help="names of elements")
    parser.add_argument("--heads", type=Path, nargs="*", default=[], help="folder of each element's trained head")
    parser.add_argument("--context", type=int, required=True, help="bases either side of a window that the model sees")
    parser.add_argument("--prevalence", type=float, nargs="?", help="share of windows that are an element")
    parser.add_argument("--max-unknown-share", type=float, required=True, help="of a region's bases")
    parser.add_argument("--motifs", type=Path, nargs="?", help="MEME file of known motifs")
    parser.add_argument("--sites", type=Path, nargs="?", help="sites.tsv")
    parser.add_argument("--output", type=Path, required=True, help="effects, as Parquet")
    args = parser.parse_args()

    os.environ["HF_HUB_OFFLINE"] = "1"  # what a job reads is in its verified folder
    import pandas as pd
    import torch

    from seqprior.batching import Batcher
    from seqprior.contigs import ContigNames, read_contigs
    from seqprior.features import Reader
    from seqprior.loading import Job, Reading, arithmetic_of, open_scheme
    from seqprior.motifs import read_motifs
    from seqprior.regulation import Effects, score_regulation
    from seqprior.scanning import load_heads, target_regions

    torch.set_num_threads(args.threads)
    names = ContigNames(read_contigs(args.contigs), args.aliases)
    regions = target_regions(args.regions, args.fasta, names, args.max_unknown_share)
    motifs = read_motifs(args.motifs) if args.motifs else []
    sites = pd.read_csv(args.sites, sep="\t", keep_default_na=False, dtype={"chrom": str}) if args.sites else None
    facts, digest, _ = open_scheme(args.registry, args.model, args.checkpoint, args.lock, args.allow_code, Reading())
    heads = load_heads(dict(zip(args.elements, args.heads, strict=True)), args.model, digest, args.prevalence)
    with Job(facts, Reading(), args.device, args.threads) as job:
        reader = None
        if any(head.uses_states for head in heads.values()):
            adapter = job.load(arithmetic_of(args.dtype))
            reader = Reader(adapter, Batcher(adapter.device, args.batch_tokens), None)
        effects = Effects(heads, reader, args.context)
        score_regulation(args.variants, args.fasta, regions, effects, motifs, sites, args.output)


if __name__ == "__main__":
    run_script(main)
