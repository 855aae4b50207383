"""How fast the engine scores with published architectures beside plain scripts, on random weights: rows for speed.py.

Baselines and engine run in one process, on one device, and must give the same scores. A baseline is what a user would
write: for a variant two alleles on two strands, each a forward pass of the whole network with logits of all tokens, (a)
one at a time and (b) in padded batches. What takes too long is timed on a sample, as the table says, and extrapolated.
"""

from __future__ import annotations

import contextlib
import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common import DEMO_GENOME
from random_models import Shape, write_checkpoint

if TYPE_CHECKING:
    import numpy as np

BATCH = 32
TOLERANCE = 2e-3  # of an llr in float32; sums in another order differ by far less
CARRIERS = 100
PEAK_BF16 = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense FLOP/s of the SXM boards, NVIDIA's data sheets
REGION = 300


@dataclass(frozen=True)
class Model:
    """A published architecture in a benchmark's size."""

    name: str
    kind: str
    shape: Shape
    window: int
    eager: bool  # the published code spells attention out, without a fused kernel


MODELS = (
    Model("NT-v2-50M-shaped", "nt-v2", Shape(512, 12, 16, 2048, 0.02, 2050), 1020, True),
    Model("DNABERT-2-shaped", "dnabert-2", Shape(768, 12, 12, 3072, 0.02, 512), 700, True),
    Model("DNABERT-6-shaped", "dnabert-6", Shape(768, 12, 12, 3072, 0.02, 512), 507, False),
    Model("Llama-50M, 6-mers", "generator", Shape(512, 12, 8, 2048, 0.02, 2050), 1020, False),
)


def snvs(genome: str, sites: Sequence[int], each: int) -> list[tuple]:
    """The first `each` alternates of each site, as tuples of `columns.ALLELE`."""
    found = []
    for at in sites:
        ref = genome[at]
        others = [base for base in "ACGT" if base != ref][:each]
        found += [(f"c-{at + 1}-{ref}-{alt}", "c", at + 1, ref, alt) for alt in others]
    return found


def windows_of(facts, genome: str, alleles: list[tuple], one_pass: bool):
    """Alleles with their windows, as the windows stage cuts them."""
    import pandas as pd

    from seqprior.shards import ALLELE_COLUMNS
    from seqprior.windows import Windows

    part = Windows(facts, 0.5, one_pass)
    for allele in alleles:
        part.add("c", genome, allele)
    part.flush()
    return pd.DataFrame(part.alleles, columns=list(ALLELE_COLUMNS)), part.sequences


def engine(adapter, facts, genome: str, alleles: list[tuple], store=None) -> tuple[np.ndarray, float]:
    """LLRs as the workflow computes them, and the share of alleles that the model can evaluate."""
    from seqprior.embedding import Scorer

    reading = adapter.scheme.reading
    frame, windows = windows_of(facts, genome, alleles, reading.one_pass_marginals)
    scorer = Scorer(adapter.scheme, lambda: adapter, None, None, store)
    scores = scorer.score(frame, windows)["llr"].to_numpy()
    return scores, scorer.counts["evaluable"] / max(len(frame), 1)


def naive(adapter, plain, facts, genome: str, alleles: list[tuple], batch: int) -> np.ndarray:
    """Two alleles, two strands, a forward of the whole network each."""
    import numpy as np
    import torch

    scheme, tokeniser = adapter.scheme, adapter.tokeniser
    frame, windows = windows_of(facts, genome, alleles, scheme.reading.one_pass_marginals)
    rows, reads = [], []
    for window, offset, ref, alt in frame[["window", "offset", "ref", "alt"]].itertuples(index=False, name=None):
        plan = scheme.plan(windows[int(window)], int(offset), ref, alt)
        for request, entry in ((plan.alt, plan.alt_entry), (plan.ref, plan.ref_entry)):
            for part in scheme.parts(request):
                ids = part.row.ids.astype(np.int64)
                if part.row.masked:
                    ids[list(part.row.masked)] = tokeniser.mask
                rows.append(ids)
                reads.append((part, entry))
    sums = np.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda number: len(rows[number]))
    with torch.inference_mode():
        for start in range(0, len(rows), batch):
            numbers = order[start : start + batch]
            width = max(len(rows[number]) for number in numbers)
            ids = torch.full((len(numbers), width), tokeniser.pad or 0)
            for line, number in enumerate(numbers):
                ids[line, : len(rows[number])] = torch.from_numpy(rows[number])
            lengths = torch.tensor([len(rows[number]) for number in numbers])
            mask = torch.arange(width) < lengths[:, None]
            logits = plain(ids.to(adapter.device), None if bool(mask.all()) else mask.to(adapter.device))
            logs = logits[..., adapter.outcomes].float().log_softmax(-1).cpu()
            for line, number in enumerate(numbers):
                part, entry = reads[number]
                at = torch.from_numpy(part.positions - int(adapter.causal))
                columns = logs[line, at].gather(1, torch.from_numpy(part.candidates)).double().sum(0) * part.weight
                sums[number] = (columns.logsumexp(0) if part.spelt else columns[entry]) + part.constant
    alternate, reference = sums.reshape(-1, 2, 2).mean(2).T
    return alternate - reference


def plain_network(facts, eager: bool, device) -> Callable:
    """The network as its published code or transformers' default runs it: logits of all positions."""
    import torch
    import torch.nn.functional as F
    import transformers

    from seqprior.networks import PORTS, TRANSFORMERS, load_port

    if facts.family not in PORTS:
        model = getattr(transformers, TRANSFORMERS[facts.family][1]).from_pretrained(facts.path).eval().to(device)
        return lambda ids, mask: model(input_ids=ids, attention_mask=None if mask is None else mask.long()).logits
    network = load_port(facts, torch.float32).to(device)

    def spelled_out(query, key, value, attn_mask=None):
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -1e30) if attn_mask.dtype == torch.bool else scores + attn_mask
        return scores.softmax(-1) @ value

    @contextlib.contextmanager
    def without_fused_attention():
        fused = F.scaled_dot_product_attention
        F.scaled_dot_product_attention = spelled_out if eager else fused
        try:
            yield
        finally:
            F.scaled_dot_product_attention = fused

    def forward(ids, mask):
        with without_fused_attention():
            return network.head(network.states(ids, mask))

    return forward


def timed(task: Callable, repeats: int = 1) -> tuple[float, object]:
    """Best wall-clock seconds of some runs, and the answer."""
    best, answer = math.inf, None
    for _ in range(repeats):
        started = time.perf_counter()
        answer = task()
        best = min(best, time.perf_counter() - started)
    return best, answer


LARGE = Model("NT-v2-500M-shaped", "nt-v2", Shape(1024, 29, 16, 4096, 0.02, 2050), 6000, True)


class Bench:
    """All rows of one model."""

    def __init__(self, model: Model, folder: Path, genome: str, args, device) -> None:
        import torch

        from seqprior.adapters import load_adapter
        from seqprior.plans import Reading

        self.model, self.genome, self.args, self.folder = model, genome, args, folder
        text = [genome[start : start + 1000] for start in range(0, 400_000, 1000)]
        self.facts = write_checkpoint(
            model.kind, folder / model.kind, shape=model.shape, window=model.window, pieces=4096, text=text
        )
        self.readings = {"exact": Reading(), "one-pass": Reading(one_pass_marginals=True)}
        self.load = lambda mode, dtype="float32": load_adapter(self.facts, device, dtype, self.readings[mode])
        self.plain = plain_network(self.facts, model.eager, device)
        self.device = f"{device.type}, {torch.get_num_threads()} threads"
        self.rng = random.Random(args.seed)
        self.rows: list[tuple] = []

    def sites(self, count: int) -> list[int]:
        return sorted(self.rng.sample(range(5_000, len(self.genome) - 5_000), count))

    def compare(self, case: str, alleles: list[tuple], mode: str = "exact", sample: int | None = None, times: int = 1):
        """Engine against both baselines. `times`: how often the baseline meets each allele (carriers)."""
        import numpy as np

        adapter = self.load(mode)
        chosen = alleles if sample is None else alleles[:sample]
        engine(adapter, self.facts, self.genome, chosen[:2])  # first calls set up kernels
        seconds, (scores, evaluable) = timed(lambda: engine(adapter, self.facts, self.genome, chosen))
        seconds *= len(alleles) / len(chosen)
        method = (
            adapter.scheme.site_method if evaluable == 1 else f"{adapter.scheme.site_method}, {evaluable:.0%} evaluable"
        )
        if sample is not None:
            method += f"; {len(chosen)} of {len(alleles)}, extrapolated"
        usable = np.flatnonzero(np.isfinite(scores))
        part = self.rng.sample(list(usable), min(self.args.subsample, len(usable)))
        exact = adapter if mode == "one-pass" else self.load("exact")
        subset = [chosen[number] for number in part]
        for label, batch in (("(a) one at a time", 1), (f"(b) batches of {BATCH}", BATCH)):
            taken, expected = timed(lambda b=batch: naive(exact, self.plain, self.facts, self.genome, subset, b))
            difference = float(np.abs(np.asarray(expected) - scores[part]).max())
            if difference > TOLERANCE:
                raise AssertionError(f"{self.model.name}, {case}: scores differ by {difference:.2g}")
            total = taken * len(alleles) * times * (evaluable if mode == "one-pass" else 1) / len(subset)
            baseline = f"{label}; {len(subset)} of {len(alleles) * times}, extrapolated"
            self.add(case, f"float32, {method}", seconds, baseline, total)
        return seconds, scores

    def add(self, case: str, method: str, seconds: float, baseline: str, total: float) -> None:
        row = (self.model.name, case, method, seconds, baseline, total, total / seconds, self.device)
        self.rows.append(row)
        print(
            f"{self.model.name}: {case}: {method}: {seconds:.4g} s, {baseline}: {total / seconds:.1f} times", flush=True
        )

    def all(self) -> list[tuple]:
        import numpy as np

        from seqprior.store import ScoreStore

        count, sample = self.args.sites, self.args.sample
        sparse = self.sites(count)
        self.rng.shuffle(sparse)
        one, three = snvs(self.genome, sparse, 1), snvs(self.genome, sparse, 3)
        _, scores = self.compare(f"{count} sparse SNVs", one, sample=sample)
        baseline = next(row for row in self.rows if row[4].startswith("(a)"))
        self.compare(f"3 alleles at each of {count} sites", three, sample=3 * sample)
        self.compare(f"{count} SNVs of {CARRIERS} carriers", one, sample=sample, times=CARRIERS)
        start = len(self.genome) // 2
        dense = snvs(self.genome, range(start, start + REGION), 3)
        tokens = self.model.kind in ("nt-v2", "generator")
        self.compare(f"all SNVs of {REGION} bases", dense, sample=None if tokens else 3 * sample)
        self.compare(f"all SNVs of {REGION} bases", dense, mode="one-pass")
        adapter = self.load("exact")
        store = ScoreStore(self.folder / "store", self.model.kind.encode().hex().ljust(64, "0"), "float32")
        part = one[:sample]
        engine(adapter, self.facts, self.genome, part, store)
        again, _ = timed(lambda: engine(adapter, self.facts, self.genome, part, store), 3)
        each = baseline[5] / count * len(part)
        self.add(f"{len(part)} sparse SNVs, rerun", "float32, score store", again, f"{baseline[4]}", each)
        fast = self.load("exact", "bfloat16")
        engine(fast, self.facts, self.genome, part[:2])
        taken, (rough, _) = timed(lambda: engine(fast, self.facts, self.genome, part))
        error = np.abs(rough - scores[: len(part)])
        method = f"bfloat16, LLR off by {error.mean():.3f} on average, {error.max():.3f} at most"
        self.add(f"{len(part)} sparse SNVs", method, taken, baseline[4], each)
        return self.rows


def utilisation_row(bench: Bench, device) -> tuple:
    """How much of a GPU's bfloat16 peak the engine uses: 2 FLOP a weight of the layers and token, plus attention's."""
    import torch

    from seqprior.embedding import Scorer

    adapter, facts, shape = bench.load("exact", "bfloat16"), bench.facts, bench.model.shape
    alleles = snvs(bench.genome, bench.sites(2000), 1)
    frame, windows = windows_of(facts, bench.genome, alleles, False)
    scorer = Scorer(adapter.scheme, lambda: adapter)
    scorer.score(frame.head(400), windows)  # finds the batch budget
    before = (scorer.throughput.tokens, scorer.throughput.seconds)
    scorer.score(frame, windows)
    tokens, seconds = (
        now - old for now, old in zip((scorer.throughput.tokens, scorer.throughput.seconds), before, strict=True)
    )
    weights = sum(p.numel() for name, p in adapter.network.named_parameters() if ".layer." in name)
    length = facts.window // facts.k + 1
    done = tokens * (2 * weights + 4 * shape.layers * shape.width * length)
    name = torch.cuda.get_device_name(device)
    peak = next((flops for key, flops in PEAK_BF16.items() if key in name), float("nan"))
    method = (
        f"bfloat16, {tokens / seconds:.0f} tokens a second of {length} in a row, {done / seconds / peak:.0%} of peak"
    )
    return (bench.model.name, f"{len(alleles)} sparse SNVs", method, seconds, f"peak of {name}", done / peak,
            done / peak / seconds, bench.device)  # fmt: skip


def family_rows(args) -> list[tuple]:
    """Rows of the models that `args.models` names, on `args.device`."""
    import pysam

    from seqprior.device import claimed_device

    chosen = [model for model in MODELS if model.name in args.models]
    with pysam.FastxFile(str(DEMO_GENOME)) as reference:
        genome = max((record.sequence.upper() for record in reference), key=len)
    rows = []
    with tempfile.TemporaryDirectory() as folder, claimed_device(args.device) as device:
        for model in chosen:
            rows += Bench(model, Path(folder), genome, args, device).all()
        if device.type == "cuda":
            rows.append(utilisation_row(Bench(LARGE, Path(folder) / "large", genome, args, device), device))
    return rows
