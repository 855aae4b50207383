"""How fast proteins are scored beside a plain script, on a published architecture's random weights: rows for speed.py.

The script asks transformers for each allele of each variant: two forwards a variant, one at a time, with logits of all
tokens. It is timed on a sample and extrapolated, as the table says. Engine and script must give the same scores.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from families import Model
from random_models import Shape, write_checkpoint

PROTEIN_MODEL = Model("ESM-2-35M-shaped", "esm2", Shape(480, 12, 20, 1920, 0.02, 1026), 1022, False)
LENGTH, VARIANTS, MASKED = 400, 100, 20
TOLERANCE = 1e-3  # of an llr in float32; sums in another order differ by far less

Variant = tuple[int, str, str]  # residue (0-based), ref, alt


def some_variants(protein: str, count: int | None, rng: random.Random) -> list[Variant]:
    """So many substitutions, each at another residue; None for all of all residues."""
    from seqprior.residues import AMINO_ACIDS

    if count is None:
        return [(at, ref, alt) for at, ref in enumerate(protein) for alt in AMINO_ACIDS if alt != ref]
    places = sorted(rng.sample(range(len(protein)), count))
    return [(at, protein[at], rng.choice(AMINO_ACIDS.replace(protein[at], ""))) for at in places]


def by_engine(adapter, protein: str, variants: Sequence[Variant], folder: Path) -> list[float]:
    """LLRs from the tables that the workflow's step writes."""
    import pandas as pd

    from seqprior.embedding import Asker
    from seqprior.protein_scoring import score_proteins
    from seqprior.residues import INDEX_OF

    asker = Asker(adapter.scheme, lambda: adapter)
    score_proteins(asker, folder / "proteins", [folder / "changes"], folder / "profiles", folder / "scores")
    profiles = pd.read_parquet(folder / "profiles")
    profiles = profiles[profiles["method"] == adapter.scheme.site_method]
    logs = dict(zip(profiles["residue"], profiles["logp"], strict=True))
    return [float(logs[at][INDEX_OF[alt]] - logs[at][INDEX_OF[ref]]) for at, ref, alt in variants]


def by_script(model, adapter, protein: str, variants: Sequence[Variant], masked: bool) -> list[float]:
    """A forward of the whole network for each allele of each variant."""
    import torch

    from seqprior.residues import AMINO_ACIDS

    tokeniser = adapter.tokeniser
    ids = torch.from_numpy(tokeniser.tokens(protein).ids).long()

    def log_probability(at: int, letter: str) -> float:
        row = ids.clone()
        if masked:
            row[at + 1] = tokeniser.mask
        with torch.inference_mode():
            logits = model(input_ids=row[None].to(adapter.device)).logits[0, at + 1]
        logs = logits[adapter.outcomes].float().log_softmax(-1)
        return logs[AMINO_ACIDS.index(letter)].item()

    return [log_probability(at, alt) - log_probability(at, ref) for at, ref, alt in variants]


def protein_rows(args) -> list[tuple]:
    """Rows of the protein model, if `args.models` names it, on `args.device`."""
    import numpy as np
    import pandas as pd
    import torch
    import transformers

    from seqprior.adapters import load_adapter
    from seqprior.device import claimed_device
    from seqprior.plans import Reading
    from seqprior.residues import AMINO_ACIDS

    if PROTEIN_MODEL.name not in args.models:
        return []
    rng, rows = random.Random(args.seed), []
    protein = "".join(rng.choices(AMINO_ACIDS, k=LENGTH))
    cases = [
        (f"{VARIANTS} substitutions of one protein of {LENGTH} residues", VARIANTS, True),
        (f"all {19 * LENGTH} substitutions of it", None, True),
        (f"{MASKED} substitutions of it, masked", MASKED, False),
    ]
    with tempfile.TemporaryDirectory() as name, claimed_device(args.device) as device:
        folder = Path(name)
        facts = write_checkpoint("esm2", folder / "esm2", shape=PROTEIN_MODEL.shape, window=PROTEIN_MODEL.window)
        model = transformers.EsmForMaskedLM.from_pretrained(facts.path).eval().to(device)
        pd.DataFrame({"protein": ["p"], "sequence": [protein]}).to_parquet(folder / "proteins")
        for case, count, one_pass in cases:
            adapter = load_adapter(facts, device, "float32", Reading(one_pass_marginals=one_pass))
            variants = some_variants(protein, count, rng)
            table = pd.DataFrame(variants, columns=["start", "ref", "alt"]).assign(protein="p")
            table.to_parquet(folder / "changes")
            by_engine(adapter, protein, variants, folder)  # first calls set up kernels
            seconds = []
            for _ in range(args.repeats):
                started = time.perf_counter()
                scores = by_engine(adapter, protein, variants, folder)
                seconds.append(time.perf_counter() - started)
            chosen = sorted(rng.sample(range(len(variants)), min(args.subsample, len(variants))))
            started = time.perf_counter()
            expected = by_script(model, adapter, protein, [variants[number] for number in chosen], not one_pass)
            taken = (time.perf_counter() - started) * len(variants) / len(chosen)
            difference = float(np.abs(np.array(expected) - np.array(scores)[chosen]).max())
            if difference > TOLERANCE:
                raise AssertionError(f"{case}: scores differ by {difference:.2g} from those of the script")
            own = float(np.median(seconds))
            baseline = f"two forwards a variant, one at a time; {len(chosen)} of {len(variants)}, extrapolated"
            device_words = f"{device.type}, {torch.get_num_threads()} threads"
            method = f"float32, {adapter.scheme.site_method}"
            rows.append((PROTEIN_MODEL.name, case, method, own, baseline, taken, taken / own, device_words))
            print(f"{PROTEIN_MODEL.name}: {case}: {own:.3g} s, {taken / own:.0f} times", flush=True)
    return rows
