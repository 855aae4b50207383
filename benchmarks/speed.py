"""How fast models score substitutions, beside scripts that score each allele in a window of its own.

The embedded model first, then published architectures with random weights (`families.py`, `protein_speed.py`). Prints a
table and writes it to benchmarks/results/speed.tsv. Method and baselines run in the same process on the same device and
must give the same scores. A baseline is timed on a subsample, as its method says, and extrapolated.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from common import DEMO_GENOME, RESULTS, cores, load_model, print_table, write_table
from families import MODELS, family_rows
from protein_speed import PROTEIN_MODEL, protein_rows

from seqprior.errors import run_script

if TYPE_CHECKING:
    import numpy as np

MODEL = "yeast-mini"
COLUMNS = ("model", "case", "method", "seconds", "baseline", "baseline_seconds", "ratio", "device")
REGION = ("chrXV", 500_000, 520_000)
TOLERANCE = 1e-3  # of an llr; sums in another order differ by far less


def sampled_sites(genome: dict[str, str], count: int, rng: np.random.Generator) -> list[tuple[str, int]]:
    """Distinct sites, spread evenly over the genome."""
    sites = [(name, at) for name, text in genome.items() for at in rng.choice(len(text), count, replace=False)]
    return sorted(sites[index] for index in rng.choice(len(sites), count, replace=False))


def alleles_at(genome: dict[str, str], sites: list[tuple[str, int]], each: int) -> list[tuple]:
    """The first `each` alternates of each site, as tuples of `columns.ALLELE`."""
    rows = []
    for contig, at in sites:
        ref = genome[contig][at]
        alternates = [base for base in "ACGT" if base != ref][:each]
        rows += [(f"{contig}-{at + 1}-{ref}-{alt}", contig, int(at) + 1, ref, alt) for alt in alternates]
    return rows


def scored_by_seqprior(facts, adapter, genome: dict[str, str], alleles: list[tuple]) -> np.ndarray:
    """As the workflow does it: windows cut and shared, one pass for all bases of all sites of a window."""
    import pandas as pd

    from seqprior.embedding import Scorer
    from seqprior.shards import ALLELE_COLUMNS
    from seqprior.windows import Windows

    windows = Windows(facts, max_unknown_share=0.5)
    for allele in alleles:
        windows.add(allele[1], genome[allele[1]], allele)
    windows.flush()
    frame = pd.DataFrame(windows.alleles, columns=ALLELE_COLUMNS)
    return Scorer(adapter.scheme, lambda: adapter).score(frame, windows.sequences)["llr"].to_numpy()


def scored_naively(facts, adapter, genome: dict[str, str], alleles: list[tuple], batch: int) -> np.ndarray:
    """Each allele on each strand in a window of its own: four forwards per substitution.

    A forward of this network always reads both strands; the answer for one is used, as with a model that reads one.
    """
    import numpy as np
    import torch

    from seqprior.sequence import encode, reverse_complement
    from seqprior.windows import padded

    centre = facts.window // 2
    windows = []
    for _, contig, pos, _, alt in alleles:
        reference = padded(genome[contig], pos - 1 - centre, pos + centre)
        alternate = reference[:centre] + alt + reference[centre + 1 :]
        windows += [reference, reverse_complement(reference), alternate, reverse_complement(alternate)]
    codes = np.stack([encode(window) for window in windows])
    logs = []
    with torch.inference_mode():
        for start in range(0, len(codes), batch):
            part = torch.from_numpy(codes[start : start + batch].astype(np.int64))
            answers = adapter.network(part)[0][:, centre].log_softmax(-1)
            logs.append(answers.gather(1, part[:, centre, None])[:, 0].cpu())
    reference, alternate = torch.cat(logs).view(-1, 2, 2).double().mean(2).T.numpy()
    return alternate - reference


def median_seconds(task: Callable[[], np.ndarray], repeats: int) -> tuple[float, np.ndarray]:
    """Median wall-clock seconds of `repeats` runs, and the task's answer."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        answer = task()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), answer


def yeast_mini_rows(args) -> list[tuple]:
    """Rows of the embedded model, on the CPU."""
    import numpy as np
    import pysam

    with pysam.FastxFile(str(DEMO_GENOME)) as reference:
        genome = {record.name: record.sequence.upper() for record in reference}
    facts, adapter = load_model(MODEL)
    rng = np.random.default_rng(args.seed)
    sites = sampled_sites(genome, args.sites, rng)
    contig, start, end = REGION
    cases = {
        f"{args.sites} sparse SNVs": alleles_at(genome, sites, 1),
        f"3 alleles at each of {args.sites} sparse sites": alleles_at(genome, sites, 3),
        f"all SNVs of {end - start} bases": alleles_at(genome, [(contig, at) for at in range(start, end)], 3),
    }
    scored_naively(facts, adapter, genome, alleles_at(genome, sites[:8], 1), 32)  # first calls set up kernels
    device = f"{adapter.device.type}, {args.threads} threads"
    rows = []
    for case, alleles in cases.items():
        seconds, scores = median_seconds(lambda a=alleles: scored_by_seqprior(facts, adapter, genome, a), args.repeats)
        chosen = np.sort(rng.choice(len(alleles), min(100, len(alleles)), replace=False))
        part = [alleles[index] for index in chosen]
        for batch in (1, 32):
            taken, expected = median_seconds(
                lambda a=part, b=batch: scored_naively(facts, adapter, genome, a, b), args.repeats
            )
            difference = float(np.abs(scores[chosen] - expected).max())
            if difference > TOLERANCE:
                raise AssertionError(f"{case}: scores differ by {difference:.2g} from those of single windows")
            baseline = f"a window per allele and strand, batch {batch}; {len(part)} of {len(alleles)}, extrapolated"
            total = taken * len(alleles) / len(part)
            rows.append((MODEL, case, "seqprior", seconds, baseline, total, total / seconds, device))
    return rows


def main() -> None:
    names = [MODEL, *(model.name for model in (*MODELS, PROTEIN_MODEL))]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=names, default=names, help="default: all")
    parser.add_argument("--sites", type=int, default=1000, help="sparse sites (default: %(default)s)")
    parser.add_argument("--sample", type=int, default=48, help="sites a large model is timed on (default: %(default)s)")
    parser.add_argument("--subsample", type=int, default=8, help="alleles of its baseline (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="the median is given (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=cores(), help="default: all cores")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="of the large models")
    parser.add_argument("--output", type=Path, default=RESULTS / "speed.tsv", help="default: %(default)s")
    args = parser.parse_args()

    import torch

    torch.set_num_threads(args.threads)
    rows = yeast_mini_rows(args) if MODEL in args.models else []
    rows += family_rows(args)
    rows += protein_rows(args)
    print_table(COLUMNS, rows)
    write_table(args.output, COLUMNS, rows)


if __name__ == "__main__":
    run_script(main)
