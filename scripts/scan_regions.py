"""Scan regions, or the whole reference: information of every base and probabilities of elements, as Parquet."""

from __future__ import annotations

import argparse
import json
import os
from functools import partial
from pathlib import Path

from seqprior.errors import run_script
from seqprior.options import add_model_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--regions", type=Path, nargs="?", help="BED file; without one the whole reference")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--contigs", type=Path, required=True, help="contigs.tsv")
    parser.add_argument("--aliases", type=json.loads, default={}, help="further contig names, as JSON")
    add_model_options(parser)
    parser.add_argument("--elements", nargs="*", default=[], help="names of elements")
    parser.add_argument("--heads", type=Path, nargs="*", default=[], help="folder of each element's trained head")
    parser.add_argument("--settings", type=json.loads, required=True, help="the config's section regulatory, as JSON")
    parser.add_argument("--max-unknown-share", type=float, required=True, help="of a window's bases")
    parser.add_argument("--store", nargs="?", const="", default="", help="folder of the score store; empty for none")
    parser.add_argument("--shard", type=int, default=0, help="which of the settings' shards, from 0")
    parser.add_argument("--control", action="store_true", help="shuffled sequence of the regions, in one shard")
    parser.add_argument("--output", type=Path, required=True, help="the scan, as Parquet")
    parser.add_argument("--stats", type=Path, required=True, help="throughput, as JSON")
    args = parser.parse_args()

    os.environ["HF_HUB_OFFLINE"] = "1"  # what a job reads is in its verified folder
    from seqprior import scanning
    from seqprior.contigs import ContigNames, read_contigs
    from seqprior.files import written_whole
    from seqprior.information import MarginalReader
    from seqprior.loading import Job, Reading, arithmetic_of, open_scheme

    settings, names = args.settings, ContigNames(read_contigs(args.contigs), args.aliases)
    reading = Reading(one_pass_marginals=settings["information"] == "fast")
    facts, digest, scheme = open_scheme(args.registry, args.model, args.checkpoint, args.lock, args.allow_code, reading)
    regions = scanning.target_regions(args.regions, args.fasta, names, args.max_unknown_share)
    if args.control:
        heads, blocks = {}, scanning.control_blocks(regions, settings["control_bases"], settings["seed"])
        cut = partial(scanning.control_passages, args.fasta, blocks, facts.window, settings["seed"])
    else:
        folders = dict(zip(args.elements, args.heads, strict=True))
        heads = scanning.load_heads(folders, args.model, digest, settings["prevalence"])
        blocks = scanning.blocks_of(regions, settings["stride"])
        blocks = scanning.share_of(blocks, args.shard, settings["shards"])
        cut = partial(scanning.reference_passages, args.fasta, blocks)
    arithmetic, store = arithmetic_of(args.dtype), None
    if args.store and not facts.shares_windows:
        from seqprior.store import ScoreStore

        store = ScoreStore(Path(args.store), digest, arithmetic)
    with Job(facts, reading, args.device, args.threads) as job:
        reader = MarginalReader(scheme, partial(job.load, arithmetic), args.batch_tokens, store)
        informs = settings["information"] != "none"
        scanner = scanning.Scanner(reader, heads, settings["stride"], informs, args.max_unknown_share)
        stats = scanning.write_scan(scanner, cut, blocks, args.output)
    with written_whole(args.stats) as partial_file:
        partial_file.write_text(json.dumps({"model": args.model, **stats}, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
