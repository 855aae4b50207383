"""Score every SNV of a genome with the embedded model, in processes of one thread each.

Writes {contig}.npy per contig: float16 (length, 4), the llr of a change to A, C, G, T at each position; 0 is the
reference base, NaN an unknown one. The time includes starting the processes and writing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from common import DEMO_GENOME, ROOT, TILE, cores, load_model, marginals, print_table

from seqprior.errors import BadInput, run_script

if TYPE_CHECKING:
    import numpy as np

MODEL = "yeast-mini"
_LOADED = None  # adapter of a worker process


def load() -> None:
    """Start of a worker."""
    global _LOADED
    import torch

    torch.set_num_threads(1)
    _LOADED = load_model(MODEL)[1]


def tiles(genome: dict[str, np.ndarray], reach: int) -> Iterator[tuple[str, int, int, np.ndarray]]:
    """Contig, start, number of positions before the tile, and the codes of the tile with its flanks."""
    for contig, codes in genome.items():
        for start in range(0, len(codes), TILE):
            lower = max(start - reach, 0)
            yield contig, start, start - lower, codes[lower : start + TILE + reach]


def score_tile(task: tuple[str, int, int, np.ndarray, int]) -> tuple[str, int, np.ndarray]:
    """Contig, start and float16 (positions, 4) of one tile."""
    import numpy as np

    contig, start, before, codes, reach = task
    end = min(before + TILE, len(codes))
    logs = marginals(_LOADED, reach, codes, before, end)
    present = codes[before:end]
    llr = logs - np.take_along_axis(logs, (present & 3).astype(np.int64)[:, None], 1)
    llr[present > 3] = np.nan
    return contig, start, llr.astype(np.float16)


def read_contigs(fasta: Path, limit: int | None) -> dict[str, np.ndarray]:
    """Base codes of the contigs, together at most `limit` bases."""
    import pysam

    from seqprior.files import require_file
    from seqprior.sequence import encode

    require_file(fasta, "FASTA")
    genome, left = {}, limit
    with pysam.FastxFile(str(fasta)) as records:
        for record in records:
            codes = encode(record.sequence)[:left]
            if len(codes):
                genome[record.name] = codes
            left = None if left is None else left - len(codes)
    if not genome:
        raise BadInput(f"{fasta}: no sequence; expected a FASTA of at least one contig")
    return genome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fasta", type=Path, default=DEMO_GENOME, help="default: the demo genome")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "genome_scores", help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=cores(), help="default: all cores")
    parser.add_argument("--limit-bases", type=int, help="score the first LIMIT_BASES bases only")
    args = parser.parse_args()

    import numpy as np

    from seqprior.files import written_whole

    genome = read_contigs(args.fasta, args.limit_bases)
    started = time.perf_counter()
    reach = load_model(MODEL)[0].window // 2
    tasks = ((*tile, reach) for tile in tiles(genome, reach))
    snvs = 0
    with multiprocessing.get_context("spawn").Pool(args.processes, load) as pool:
        results = pool.imap(score_tile, tasks)  # in order, so that one contig is open at a time
        for contig, codes in genome.items():
            parts = [next(results)[2] for _ in range(0, len(codes), TILE)]
            with written_whole(args.output / f"{contig}.npy") as partial:
                np.save(partial, np.concatenate(parts))
            snvs += 3 * int((codes < 4).sum())
    seconds = time.perf_counter() - started
    bases = sum(map(len, genome.values()))
    columns = ("model", "contigs", "bases", "SNVs", "processes", "seconds", "SNVs_per_second")
    print_table(columns, [(MODEL, len(genome), bases, snvs, args.processes, round(seconds, 1), round(snvs / seconds))])
    print(f"{args.output}: one array per contig")


if __name__ == "__main__":
    run_script(main)
