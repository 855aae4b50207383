"""Command-line options of the scripts that open a model, described once. Light, since `--help` waits for it."""

from __future__ import annotations

import argparse
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


def batch_tokens(text: str) -> int | None:
    """The number, or None for auto."""
    return None if text == "auto" else int(text)
