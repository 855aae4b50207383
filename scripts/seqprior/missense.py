"""One score for a substitution from a structure model's profile, what the structure says of the residue, and chemistry.

A linear model of few features, each of which may only count in the direction that is known of it: a weight is zero or
more after the feature's sign. It was fitted to deep mutational scans; the card beside the coefficients says how and how
well. The score is lower for a change that does more harm, as an LLR is, and compares substitutions of one protein; it
has no unit, and how it compares between proteins has not been tested.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqprior.errors import BadInput
from seqprior.files import written_whole
from seqprior.residues import AMINO_ACIDS, HYDROPHOBICITY, INDEX_OF, blosum62

# Volumes of residues in cubic Å, Zamyatnin (1972), doi:10.1016/0079-6107(72)90005-3.
_VOLUMES = (88.6, 108.5, 111.1, 138.4, 189.9, 60.1, 153.2, 166.7, 168.6, 166.7)
_VOLUMES += (162.9, 114.1, 112.7, 143.8, 173.4, 89.0, 116.1, 140.0, 227.8, 193.6)
CHARGED, AROMATIC = "DEKR", "FHWY"

# Each feature, and +1 if harm falls as it rises, -1 if harm rises with it. A missing one counts as the mean.
SIGNS = {
    "llr": 1,  # of the structure model, log p(alt) - log p(ref)
    "log_p_alt": 1,
    "entropy": 1,  # of the profile, nats
    "relative_solvent_accessibility": 1,  # up to 1
    "contact_number": -1,
    "half_sphere_up": -1,
    "plddt": -1,
    "blosum62": 1,
    "hydrophobicity_gap": -1,  # |difference| of Kyte and Doolittle's values
    "volume_gap": -1,  # |difference| in cubic Å
    "buried_volume_gap": -1,  # the same times 1 - accessibility
    "buried_charge": -1,  # 1 - accessibility if alt is charged
    "to_proline": -1,
    "to_proline_in_helix_or_strand": -1,
    "to_proline_where_sure": -1,  # pLDDT if alt is proline
    "from_glycine": -1,
    "from_cysteine": -1,
    "from_aromatic": -1,
    "ref_hydrophobicity": -1,
}
SITE_FEATURES = (
    "relative_solvent_accessibility",
    "contact_number",
    "half_sphere_up",
    "plddt",
    "secondary_structure",
)


@dataclass(frozen=True)
class MissenseModel:
    """Weights of features: score = sum of coefficients * (feature - mean) / scale.

    Attributes:
        features: names out of `SIGNS`. means, scales, coefficients: float64, one for each.
    """

    features: tuple[str, ...]
    means: np.ndarray
    scales: np.ndarray
    coefficients: np.ndarray

    def score(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Score of N substitutions from their features, float64 (N,). A feature that is NaN counts as its mean."""
        columns = [features[name] for name in self.features]
        return sum(
            weight * np.nan_to_num((column - mean) / scale)
            for column, mean, scale, weight in zip(columns, self.means, self.scales, self.coefficients, strict=True)
        )


def substitution_features(
    logp: np.ndarray, ref: np.ndarray, alt: np.ndarray, sites: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Features of N substitutions, float64 (N,) each, by the names of `SIGNS`.

    Args:
        logp: (N, 20), the structure model's profile at the residue. ref, alt: int (N,), indices of `AMINO_ACIDS`.
        sites: arrays (N,) of the residue's `SITE_FEATURES`, by the names and units of `columns.RESIDUE_FEATURES`.
    """
    rows = np.arange(len(ref))
    logp = np.asarray(logp, float)
    hydrophobicity = np.array([HYDROPHOBICITY[letter] for letter in AMINO_ACIDS])
    volume = np.array(_VOLUMES)
    exposed = np.clip(np.asarray(sites["relative_solvent_accessibility"], float), 0.0, 1.0)
    confidence = np.asarray(sites["plddt"], float)
    ordered = np.isin(np.asarray(sites["secondary_structure"], object), ["H", "E"])
    volume_gap = np.abs(volume[alt] - volume[ref])
    proline = (alt == INDEX_OF["P"]).astype(float)
    return {
        "llr": logp[rows, alt] - logp[rows, ref],
        "log_p_alt": logp[rows, alt],
        "entropy": -(np.exp(logp) * logp).sum(axis=1),
        "relative_solvent_accessibility": exposed,
        "contact_number": np.asarray(sites["contact_number"], float),
        "half_sphere_up": np.asarray(sites["half_sphere_up"], float),
        "plddt": confidence,
        "blosum62": blosum62()[ref, alt],
        "hydrophobicity_gap": np.abs(hydrophobicity[alt] - hydrophobicity[ref]),
        "volume_gap": volume_gap,
        "buried_volume_gap": (1 - exposed) * volume_gap,
        "buried_charge": np.where(_among(alt, CHARGED), 1 - exposed, 0.0),
        "to_proline": proline,
        "to_proline_in_helix_or_strand": proline * ordered,
        "to_proline_where_sure": np.where(proline > 0, confidence, 0.0),
        "from_glycine": _among(ref, "G").astype(float),
        "from_cysteine": _among(ref, "C").astype(float),
        "from_aromatic": _among(ref, AROMATIC).astype(float),
        "ref_hydrophobicity": hydrophobicity[ref],
    }


def _among(indices: np.ndarray, letters: str) -> np.ndarray:
    return np.isin(indices, [INDEX_OF[letter] for letter in letters])


def protein_scores(
    model: MissenseModel, sequence: str, logp: np.ndarray, sites: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Score of every substitution of a protein of L residues, float64 (L, 20), in the order of `AMINO_ACIDS`.

    NaN for a residue's own amino acid, for residues that are none of the 20, and where there is no profile.

    Args:
        logp: (L, 20), NaN without a profile. sites: arrays (L,), see `substitution_features`.
    """
    own = np.array([INDEX_OF.get(letter, -1) for letter in sequence])
    scores = np.full((len(sequence), len(AMINO_ACIDS)), np.nan)
    places = np.flatnonzero((own >= 0) & ~np.isnan(logp).any(axis=1))
    place, alt = np.repeat(places, len(AMINO_ACIDS)), np.tile(np.arange(len(AMINO_ACIDS)), len(places))
    place, alt = place[alt != own[place]], alt[alt != own[place]]
    at = {name: np.asarray(sites[name], object if name == "secondary_structure" else float)[place] for name in sites}
    scores[place, alt] = model.score(substitution_features(logp[place], own[place], alt, at))
    return scores


@dataclass
class Moments:
    """Weighted sums over variants whose features and outcomes were centred within their scan.

    Centring leaves out what differs between proteins and scans, and so only differences within a scan are learned.
    Moments of several proteins add up, which makes leaving one out cheap.
    """

    weight: float
    means: np.ndarray
    squares: np.ndarray
    products: np.ndarray

    def __add__(self, other: Moments) -> Moments:
        weight = self.weight + other.weight
        means = (self.weight * self.means + other.weight * other.means) / weight
        return Moments(weight, means, self.squares + other.squares, self.products + other.products)


def moments(features: np.ndarray, outcomes: np.ndarray, scans: np.ndarray) -> Moments:
    """Of one protein, which has weight 1 whatever the number of its scans and variants; each scan has an equal share.

    Args:
        features: float (N, F), may have NaN, which count as the scan's mean. outcomes: (N,), higher is fitter.
        scans: (N,) labels.
    """
    labels = np.unique(scans)
    width = features.shape[1]
    total = Moments(1.0, np.zeros(width), np.zeros((width, width)), np.zeros(width))
    for label in labels:
        rows = scans == label
        known = ~np.isnan(features[rows])
        filled = np.where(known, features[rows], 0.0)
        mean = filled.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
        centred = np.where(known, features[rows] - mean, 0.0)
        share = 1 / len(labels)
        total.means += share * mean
        total.squares += share * centred.T @ centred / rows.sum()
        total.products += share * centred.T @ (outcomes[rows] - outcomes[rows].mean()) / rows.sum()
    return total


def fit(names: Sequence[str], signs: Sequence[int], summed: Moments, penalty: float) -> MissenseModel:
    """Least squares with a ridge penalty on standardised features, whose weights have the signs given.

    Args:
        names, signs: of the F features. summed: of the proteins to fit to. penalty: relative to a feature's variance.
    """
    from scipy.optimize import nnls

    signs = np.asarray(signs, float)
    spread = np.sqrt(np.diag(summed.squares) / summed.weight)
    scales = np.where(spread > 1e-12, spread, 1.0)
    squares = summed.squares / summed.weight / np.outer(scales, scales) * np.outer(signs, signs)
    products = summed.products / summed.weight / scales * signs
    # Non-negative least squares on the factor R of the normal equations: |R x - R'^-1 b|^2 differs by a constant.
    factor = np.linalg.cholesky(squares + penalty * np.eye(len(signs))).T
    weights, _ = nnls(factor, np.linalg.solve(factor.T, products))
    return MissenseModel(tuple(names), summed.means, scales, signs * weights)


def write_model(model: MissenseModel, path: Path) -> None:
    """Write the coefficients as JSON, rounded to six digits."""
    rows = {
        name: {"coefficient": _rounded(weight), "mean": _rounded(mean), "scale": _rounded(scale)}
        for name, weight, mean, scale in zip(model.features, model.coefficients, model.means, model.scales, strict=True)
    }
    with written_whole(path) as partial:
        partial.write_text(json.dumps({"features": rows}, indent=2) + "\n", encoding="utf-8")


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def read_model(path: Path) -> MissenseModel:
    """The model that `write_model` wrote.

    Raises:
        BadInput: the file is none, or has a feature that is not known or counts in the wrong direction.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["features"]
        numbers = np.array([[row[key] for key in ("mean", "scale", "coefficient")] for row in rows.values()], float)
        means, scales, coefficients = numbers.T
        fitting = all(weight * SIGNS[name] >= 0 for name, weight in zip(rows, coefficients, strict=True))
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise BadInput(
            f"{path}: no coefficients of a missense model ({type(error).__name__}: {error}); restore the file"
        ) from error
    if not fitting or not np.isfinite(numbers).all() or (scales <= 0).any():
        raise BadInput(
            f"{path}: a coefficient has the wrong sign or is no number; expected what benchmarks/proteins.py --fit"
            " writes; restore the file"
        )
    return MissenseModel(tuple(rows), means, scales, coefficients)
