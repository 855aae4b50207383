"""What one element's classifier relies on: contribution of each base, seqlets and motifs, by in-silico mutagenesis."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from seqprior.errors import run_script
from seqprior.options import add_model_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--element", required=True, help="name of the element")
    parser.add_argument("--head", type=Path, required=True, help="folder of its trained head")
    parser.add_argument("--intervals", type=Path, nargs="?", help="labelled intervals; their positives are mutated")
    parser.add_argument("--calls", type=Path, nargs="?", help="elements.bed of a scan; the element's are mutated too")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--contigs", type=Path, required=True, help="contigs.tsv")
    parser.add_argument("--aliases", type=json.loads, default={}, help="further contig names, as JSON")
    add_model_options(parser)
    parser.add_argument("--motifs", type=Path, nargs="?", help="MEME file of known motifs")
    parser.add_argument("--settings", type=json.loads, required=True, help="the config's section regulatory, as JSON")
    parser.add_argument("--found", type=Path, required=True, help="motifs that were found, as Parquet")
    parser.add_argument("--seqlets", type=Path, required=True, help="binding sites, as Parquet")
    parser.add_argument("--contributions", type=Path, required=True, help="contribution of each base, as bigWig")
    args = parser.parse_args()

    os.environ["HF_HUB_OFFLINE"] = "1"  # what a job reads is in its verified folder
    from seqprior import mutagenesis
    from seqprior.columns import motifs_schema, sites_schema
    from seqprior.contigs import ContigNames, read_contigs
    from seqprior.loading import Job, Reading, arithmetic_of, open_scheme
    from seqprior.motifs import read_motifs
    from seqprior.scanning import load_heads

    settings, names = args.settings, ContigNames(read_contigs(args.contigs), args.aliases)
    known = read_motifs(args.motifs) if args.motifs else []
    lengths = {contig.name: contig.length for contig in names.contigs.values()}
    facts, digest, _ = open_scheme(args.registry, args.model, args.checkpoint, args.lock, args.allow_code, Reading())
    head = load_heads({args.element: args.head}, args.model, digest)[args.element]
    places = mutagenesis.labelled_places(args.intervals, head.window, lengths) if args.intervals else []
    places += mutagenesis.called_places(args.calls, args.element, head.window, names) if args.calls else []
    with Job(facts, Reading(), args.device, args.threads) as job:
        asker = mutagenesis.open_mutagenesis(head, job, arithmetic_of(args.dtype), args.batch_tokens)
        most, context = settings["mutagenesis_windows"], settings["mutagenesis_context"]
        windows = mutagenesis.most_probable(asker, args.fasta, places, most, context)
        found = mutagenesis.explain(asker, args.element, windows, known, settings["fdr"], settings["seed"], lengths)
    mutagenesis.write_table(found.motifs, args.found, motifs_schema())
    mutagenesis.write_table(found.sites, args.seqlets, sites_schema())
    mutagenesis.write_contributions(found, lengths, args.contributions)


if __name__ == "__main__":
    run_script(main)
