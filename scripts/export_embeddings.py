"""Embeddings of a cohort's alleles, or of regions, by one sequence model, as Zarr and AnnData."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from seqprior.errors import run_script
from seqprior.options import add_model_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variants", type=Path, help="variants.parquet, for alleles")
    parser.add_argument("--shards", type=Path, nargs="*", default=[], help="folders of extract_windows.py, in order")
    parser.add_argument("--regions", type=Path, help="BED file, for regions")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--contigs", type=Path, required=True, help="contigs.tsv")
    parser.add_argument("--aliases", type=json.loads, default={}, help="further contig names, as JSON")
    add_model_options(parser)
    parser.add_argument("--max-unknown-share", type=float, required=True, help="of a region's bases")
    parser.add_argument("--settings", type=json.loads, required=True, help="the config's section embeddings, as JSON")
    parser.add_argument("--output", type=Path, required=True, help="Zarr folder")
    parser.add_argument("--h5ad", type=Path, help="the same for AnnData")
    args = parser.parse_args()

    os.environ["HF_HUB_OFFLINE"] = "1"  # what a job reads is in its verified folder
    from seqprior.batching import Batcher
    from seqprior.contigs import ContigNames, read_contigs
    from seqprior.loading import Job, Reading, arithmetic_of, open_scheme
    from seqprior.vectors import Choice, Embedder, allele_rows, described, export, region_rows, rows_of, window_of

    settings, names = args.settings, ContigNames(read_contigs(args.contigs), args.aliases)
    layer, around = (None if settings[key] is None else int(settings[key]) for key in ("layer", "window"))
    choice = Choice(layer, settings["pool"], settings["strand"], settings["dtype"])
    of = "alleles" if args.regions is None else "regions"
    total = rows_of(args.variants, args.regions, names)
    facts, digest, scheme = open_scheme(
        args.registry, args.model, args.checkpoint, args.lock, args.allow_code, Reading()
    )
    window = window_of(facts, around)
    if of == "alleles":
        lengths = {contig.name: contig.length for contig in names.contigs.values()}
        rows = allele_rows(args.variants, args.shards, scheme, window, lengths)
    else:
        rows = region_rows(args.regions, args.fasta, names, args.max_unknown_share)
    arithmetic = arithmetic_of(args.dtype)
    attributes = described(facts, digest, choice, of, window, arithmetic)
    with Job(facts, Reading(), args.device, args.threads) as job:
        adapter = job.load(arithmetic)
        batcher = Batcher(adapter.device, args.batch_tokens)
        export(Embedder(adapter, batcher, choice), rows, total, of, args.output, attributes, args.h5ad)


if __name__ == "__main__":
    run_script(main)
