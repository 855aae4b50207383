"""Command-line options that several scripts have, described once. Light, since `--help` waits for it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which model, where its files are and may come from, and on what it runs."""
    parser.add_argument("--registry", type=Path, required=True, help="model registry")
    parser.add_argument("--model", required=True, help="model of the registry")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder that fetch_model.py made")
    parser.add_argument("--lock", type=Path, required=True, help="models.lock")
    parser.add_argument("--allow-code", nargs="*", default=[], help="models that may run their checkpoint's code")
    parser.add_argument("--device", choices=["cpu", "gpu"], required=True)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16", "int8"], default="auto")
    parser.add_argument("--batch-tokens", type=batch_tokens, default=None, help="tokens in a batch, or auto")
    parser.add_argument("--threads", type=int, default=1)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """How substitutions and haplotypes are read."""
    parser.add_argument("--marginals", choices=["exact", "one-pass"], default="exact")
    parser.add_argument("--pseudo-likelihood", choices=["one-pass", "exact"], default="one-pass")


def add_translation_options(parser: argparse.ArgumentParser) -> None:
    """Gene models and how they are translated."""
    kinds = ["MANE_Select", "MANE_Plus_Clinical", "canonical", "longest"]
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference")
    parser.add_argument("--contigs", type=Path, required=True, help="contig table of the reference")
    parser.add_argument("--aliases", type=json.loads, default={}, help="further contig names, as JSON")
    parser.add_argument("--genes", type=Path, required=True, help="prepared gene models")
    parser.add_argument("--transcripts", nargs="+", choices=kinds, default=kinds, help="which of a gene, in this order")
    parser.add_argument("--genetic-codes", type=json.loads, default={}, help="NCBI table of contigs, as JSON")
    parser.add_argument("--sequences", type=Path, nargs="?", help="FASTA of proteins to compare with")
    parser.add_argument("--uniprot", type=Path, nargs="?", help="table of UniProt accessions")


def add_protein_options(parser: argparse.ArgumentParser) -> None:
    """What protein models and structures say."""
    parser.add_argument("--protein-models", nargs="*", default=[], help="protein models")
    parser.add_argument(
        "--profiles", type=Path, nargs="*", default=[], help="of each protein model, its shards in order"
    )
    parser.add_argument("--structure-models", nargs="*", default=[], help="structure models")
    parser.add_argument("--structure-profiles", type=Path, nargs="*", default=[], help="of each structure model")
    parser.add_argument("--residues", type=Path, nargs="?", help="features of residues; none without structures")
    parser.add_argument("--structures", type=Path, nargs="?", help="structure of each protein")


def batch_tokens(text: str) -> int | None:
    """The number, or None for auto."""
    return None if text == "auto" else int(text)
