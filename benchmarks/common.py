"""What the benchmark programs share: where things are, the embedded model, its answers along a contig, tables."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))  # the library is not installed

DEMO_GENOME = ROOT / "resources" / "demo" / "S288C.fa.gz"
DEMO_GENES = ROOT / "resources" / "demo" / "S288C.gff3.gz"
REGISTRY = ROOT / "config" / "models.yaml"
RESULTS = ROOT / "benchmarks" / "results"
YEAST_DATA = ROOT.parent / "shared" / "data" / "yeast"
TILE = 16_384


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_model(name: str):
    """Facts and adapter of a registered model on the CPU, in float32."""
    from dataclasses import replace

    import torch

    from seqprior.adapters import load_adapter
    from seqprior.models import model_facts
    from seqprior.plans import Reading

    facts = model_facts(REGISTRY, name)
    facts = replace(facts, path=ROOT / facts.path)
    return facts, load_adapter(facts, torch.device("cpu"), "float32", Reading())


def marginals(adapter, reach: int, codes, start: int, end: int):
    """log p(base | all others), from both strands' mean logits, at [start, end) of a contig: float32 (end - start, 4).

    Exact for models that see `reach` bases either side and no more.
    """
    import numpy as np
    import torch

    pieces = [np.empty((0, 4), np.float32)]
    with torch.inference_mode():
        for first in range(start, end, TILE):
            last, lower = min(first + TILE, end), max(first - reach, 0)
            window = torch.from_numpy(codes[lower : last + reach][None].astype(np.int64))
            offsets = torch.arange(first - lower, last - lower)
            strands = adapter.marginals(window, torch.zeros_like(offsets), offsets)
            pieces.append(strands.mean(1).log_softmax(-1).numpy())
    return np.concatenate(pieces)


def run_cli(script: str, *arguments: object) -> None:
    """Run one of the workflow's scripts in a process of its own."""
    subprocess.run([sys.executable, ROOT / "scripts" / script, *map(str, arguments)], check=True)


def cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A TSV with a header; None is an empty cell."""
    from seqprior.files import written_whole

    with written_whole(path) as partial, partial.open("w", newline="") as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([[cell(value) for value in row] for row in rows])


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """The same table in aligned columns."""
    lines = [list(columns), *([cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
