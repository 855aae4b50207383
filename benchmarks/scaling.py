"""How time and memory grow with the number of sites: windows, scoring with a tiny model, gathering.

Prints a table and writes it to benchmarks/results/scaling.tsv. Each stage is the workflow's own script in a process of
its own; peak memory is the largest resident set that the kernel saw of it. Sites are distinct, random and synthetic,
and the model is small, so that what is measured is the host's work and not the network's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import RESULTS, ROOT, print_table, write_table
from random_models import Shape, entry_of, write_checkpoint

from seqprior.errors import run_script

COLUMNS = ("sites", "model", "stage", "seconds", "microseconds_per_site", "peak_mb", "device")
GENOME = 12_000_000  # bases in three contigs
WINDOW = 120
SHARDS = 2


def write_reference(folder: Path, seed: int) -> dict[str, str]:
    """A random genome as the reference stage leaves it."""
    import numpy as np
    import pysam

    rng = np.random.default_rng(seed)
    contigs = {f"c{number}": rng.choice(list(b"ACGT"), GENOME // 3).astype("u1").tobytes() for number in range(3)}
    with pysam.BGZFile(str(folder / "genome.fa.gz"), "wb") as handle:
        for name, bases in contigs.items():
            handle.write(f">{name}\n".encode())
            for start in range(0, len(bases), 60):
                handle.write(bases[start : start + 60] + b"\n")
    pysam.faidx(str(folder / "genome.fa.gz"))
    return {name: bases.decode() for name, bases in contigs.items()}


def write_variants(path: Path, contigs: dict[str, str], sites: int, seed: int) -> None:
    """`variants.parquet` with one substitution at each of so many random sites."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    from seqprior.variants import table_schemas

    rng = np.random.default_rng(seed)
    schema, _ = table_schemas()
    frames = []
    for number, (name, bases) in enumerate(contigs.items()):
        count = sites // 3 + (sites % 3 if number == 0 else 0)
        starts = np.sort(rng.choice(len(bases), count, replace=False))
        ref = [bases[at] for at in starts]
        alt = [{"A": "C", "C": "G", "G": "T", "T": "A"}[base] for base in ref]
        frame = pd.DataFrame({"chrom": name, "pos": starts + 1, "ref": ref, "alt": alt})
        frame["variant_id"] = [f"{name}-{at + 1}-{r}-{a}" for at, r, a in zip(starts, ref, alt, strict=True)]
        frames.append(frame)
    table = pd.concat(frames, ignore_index=True)
    filled = pd.DataFrame(dict.fromkeys(schema.names, ""), index=table.index)
    filled[list(table)] = table
    filled["status"], filled["input_count"], filled["input_line"], filled["input_pos"] = "scored", 1, 1, table["pos"]
    pq.write_table(pa.Table.from_pandas(filled, schema=schema, preserve_index=False), path, row_group_size=50_000)


def run(script: str, *arguments: object) -> tuple[float, float]:
    """Seconds and peak resident megabytes of one of the workflow's scripts."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, ROOT / "scripts" / script, *map(str, arguments)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{script} ended with {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def measure(kind: str, sites: int, folder: Path, contigs: dict[str, str], seed: int, store: bool) -> list[tuple]:
    import pandas as pd

    from seqprior.calibration import Calibration, write_calibration

    work = folder / f"{kind}-{sites}"
    work.mkdir()
    shape = Shape(width=32, layers=1, heads=2, inner=32)
    write_checkpoint(kind, folder / "checkpoints" / kind, shape=shape, window=WINDOW)
    entry = entry_of(kind, folder / "checkpoints" / kind, WINDOW)
    registry = work / "models.json"
    registry.write_text(json.dumps({"models": {kind: entry}}))
    write_variants(work / "variants.parquet", contigs, sites, seed)
    model, lock = ("--registry", registry, "--model", kind), ("--lock", work / "lock")
    run("fetch_model.py", *model, *lock, "--checkpoint", entry["path"], "--output", work / "model")
    shards = [work / "windows" / f"{number:04d}" for number in range(SHARDS)]
    scored = [work / f"{number}.parquet" for number in range(SHARDS)]
    places = ("--variants", work / "variants.parquet", "--fasta", folder / "genome.fa.gz")
    kept = ("--store", work / "store") if store else ()
    stages = {"windows": [run("extract_windows.py", *places, *model, "--max-unknown-share", 0.5, "--shards", *shards)]}
    stages["scoring"] = []
    for shard, scores in zip(shards, scored, strict=True):
        files = ("--shard", shard, "--checkpoint", work / "model", "--output", scores, "--stats", f"{scores}.json")
        job = ("--device", "cpu", "--no-embeddings", "--threads", 1)
        stages["scoring"].append(run("score_variants.py", *model, *lock, *files, *kept, *job))
    calibration = Calibration(
        pd.DataFrame(columns=["context", "alt", "mean", "count"]),
        pd.DataFrame([{"kind": "substitution", "mean": 0.0, "sd": 1.0, "count": 9}]),
    )
    write_calibration(calibration, kind, ["none"], work / "calibration")
    last = ("--calibration", work / "calibration", "--output", work / "scores.parquet")
    stages["gathering"] = [run("gather_scores.py", *places, "--shards", *scored, *last)]
    rows = []
    for stage, jobs in stages.items():
        seconds = sum(job[0] for job in jobs)
        name = f"{stage}, {len(jobs)} jobs" if len(jobs) > 1 else stage
        rows.append(
            (sites, f"tiny {kind}", name, seconds, 1e6 * seconds / sites, max(job[1] for job in jobs), "cpu, 1 thread")
        )
        print(*rows[-1], sep="\t", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--model", default="nt-v2", help="kind of random model (default: %(default)s)")
    parser.add_argument("--no-store", action="store_true", help="keep no answers")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.tsv", help="default: %(default)s")
    args = parser.parse_args()

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        contigs = write_reference(folder, args.seed)
        for sites in args.sites:
            rows += measure(args.model, sites, folder, contigs, args.seed, not args.no_store)
    print_table(COLUMNS, rows)
    write_table(args.output, COLUMNS, rows)


if __name__ == "__main__":
    run_script(main)
