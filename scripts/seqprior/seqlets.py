"""Seqlets, spans of bases that a classifier relies on, and the motifs that they are occurrences of.

A seqlet is a maximal-scoring run of contributions above what shuffled windows have (Ruzzo and Tompa 1999). Seqlets of
shuffled windows say how many are found by chance: q-values follow from their rate per base. Patches of bases around
seqlets, weighted by contribution, are compared at every shift and in both orientations, clustered by average linkage
and refined: each seqlet is aligned to the motif it is most like until nothing moves. The idea, contribution-weighted
patches clustered into motifs, is that of TF-MoDISco (Shrikumar et al. 2018, arXiv:1811.00416); the method is a smaller
one. Nothing is random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from seqprior.significance import SHORTEST, error_rates, standing_out

HALF = 15  # bases of a patch on either side of its middle
SHIFT = 8  # largest shift at which patches are compared
CLUSTERED = 2000  # seqlets, the strongest, that are compared with each other
FEWEST = 10  # seqlets of a motif
ALIKE = 0.55  # similarity of seqlets of one cluster, on average
MEMBER = 0.45  # similarity of a seqlet to its motif
SAME = 0.75  # similarity of two motifs that are one
ROUNDS = 10
EDGE_BITS = 0.3  # information of a motif's outermost positions
EDGE_WEIGHT = 0.1  # contribution of them, as a share of the position that is worth most
PSEUDOCOUNT = 1.0  # over all four bases


@dataclass(frozen=True, slots=True)
class Seqlet:
    """Bases [start, end) of a window, 0-based, and the sum of their contributions."""

    window: int
    start: int
    end: int
    score: float
    p_value: float = 1.0
    q_value: float = 1.0


@dataclass(frozen=True)
class Motif:
    """A motif and where it was found.

    Attributes:
        matrix: p(base), float64 (L, 4). members: numbers of its seqlets. reverse: whether each is on the reverse
            strand, in the order of `members`.
    """

    matrix: np.ndarray
    members: tuple[int, ...]
    reverse: tuple[bool, ...]


def find_seqlets(contributions: np.ndarray, baseline: float) -> list[Seqlet]:
    """Runs of contributions (N, W) above `baseline`, scored by their contributions. Without p- and q-values."""
    return [
        Seqlet(window, *run) for window, values in enumerate(contributions) for run in standing_out(values, baseline)
    ]


def significant(seqlets: Sequence[Seqlet], control: Sequence[Seqlet], bases: int, control_bases: int) -> list[Seqlet]:
    """The seqlets with p- and q-values from those of shuffled windows, as `significance.error_rates` gives them.

    Args:
        bases, control_bases: that were searched.
    """
    scores, null = (np.array([seqlet.score for seqlet in each]) for each in (seqlets, control))
    p_values, q_values = error_rates(scores, null, bases, control_bases)
    pairs = zip(seqlets, p_values.tolist(), q_values.tolist(), strict=True)
    return [replace(seqlet, p_value=p, q_value=q) for seqlet, p, q in pairs]


@dataclass
class Patches:
    """Windows and where in them patches of `2 * HALF + 1` bases are.

    Attributes:
        codes: base codes of the windows, (N, W). weights: contributions (N, W); what speaks against the element is 0.
        window, centre: of each patch, int64 (S,). reverse: whether it is read on the reverse strand, bool (S,).
    """

    codes: np.ndarray
    weights: np.ndarray
    window: np.ndarray
    centre: np.ndarray
    reverse: np.ndarray

    @classmethod
    def around(cls, seqlets: Sequence[Seqlet], codes: np.ndarray, contributions: np.ndarray) -> Patches:
        window = np.array([seqlet.window for seqlet in seqlets], np.int64)
        middle = np.array([(seqlet.start + seqlet.end - 1) // 2 for seqlet in seqlets], np.int64)
        return cls(codes, np.maximum(contributions, 0), window, middle, np.zeros(len(seqlets), bool))

    def _letters(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes and weights of chosen patches, as read on their strand: (S, P); beyond a window 4 and 0."""
        at = self.centre[chosen][:, None] + np.arange(-HALF, HALF + 1)
        inside = (at >= 0) & (at < self.codes.shape[1])
        row, at = self.window[chosen][:, None], at.clip(0, self.codes.shape[1] - 1)
        codes = np.where(inside, self.codes[row, at], 4)
        weights = np.where(inside, self.weights[row, at], 0.0)
        turned = self.reverse[chosen]
        codes[turned] = np.where(codes < 4, 3 - codes, 4)[turned, ::-1]
        weights[turned] = weights[turned, ::-1]
        return codes, weights

    def one_hot(self, chosen: np.ndarray) -> np.ndarray:
        """Which base is where, float64 (S, P, 4)."""
        return (self._letters(chosen)[0][..., None] == np.arange(4)).astype(np.float64)

    def profiles(self, chosen: np.ndarray) -> np.ndarray:
        """Bases weighted by contribution, of length 1: float64 (S, P, 4)."""
        codes, weights = self._letters(chosen)
        return unit((codes[..., None] == np.arange(4)) * weights[..., None])

    def move(self, chosen: np.ndarray, shift: np.ndarray, turned: np.ndarray) -> None:
        """Read the chosen patches on the other strand where `turned`, then `shift` bases further along."""
        self.reverse[chosen] ^= turned
        self.centre[chosen] += np.where(self.reverse[chosen], -shift, shift)


def unit(profiles: np.ndarray) -> np.ndarray:
    """Profiles (S, P, 4) divided by their lengths."""
    lengths = np.sqrt((profiles**2).sum((1, 2), keepdims=True))
    return profiles / np.maximum(lengths, 1e-12)


def alignments(profiles: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How profiles (S, P, 4) are best laid over others (K, P, 4), both of length 1.

    Returns:
        The cosine, float64 (S, K); the shift, and whether the profile is turned first, as `Patches.move` takes them.
        Of equal ones the smallest shift, not turned, is taken.
    """
    flat = others.reshape(len(others), -1).T
    best = np.full((len(profiles), len(others)), -np.inf)
    shifts = np.zeros(best.shape, np.int64)
    turned = np.zeros(best.shape, bool)
    for shift in sorted(range(-SHIFT, SHIFT + 1), key=lambda value: (abs(value), value)):
        for turn in (False, True):
            laid = profiles[:, ::-1, ::-1] if turn else profiles
            moved = np.zeros_like(laid)
            if shift >= 0:
                moved[:, : laid.shape[1] - shift] = laid[:, shift:]
            else:
                moved[:, -shift:] = laid[:, :shift]
            cosine = moved.reshape(len(moved), -1) @ flat
            better = cosine > best + 1e-9
            best[better], shifts[better], turned[better] = cosine[better], shift, turn
    return best, shifts, turned


def find_motifs(seqlets: Sequence[Seqlet], codes: np.ndarray, contributions: np.ndarray) -> list[Motif]:
    """Motifs of at least `FEWEST` seqlets, the one with the most first.

    Args:
        codes, contributions: of the windows, (N, W).
    """
    if len(seqlets) < FEWEST:
        return []
    patches = Patches.around(seqlets, codes, contributions)
    strongest = np.sort(np.argsort([-seqlet.score for seqlet in seqlets], kind="stable")[:CLUSTERED])
    groups = [strongest[group] for group in clusters(patches.profiles(strongest))]
    references = [reference(patches, group) for group in groups if len(group) >= FEWEST]
    everything, assigned = np.arange(len(seqlets)), np.full(len(seqlets), -1)
    for _ in range(ROUNDS):
        references = distinct(references)
        if not references:
            return []
        cosines, shifts, turned = alignments(patches.profiles(everything), np.stack(references))
        nearest = cosines.argmax(1)
        best = cosines[everything, nearest]
        nearest[best < MEMBER] = -1
        kept = [motif for motif in range(len(references)) if (nearest == motif).sum() >= FEWEST]
        following = np.full(len(seqlets), -1)
        moved = False
        for number, motif in enumerate(kept):
            members = np.flatnonzero(nearest == motif)
            following[members] = number
            shift, turn = shifts[members, motif], turned[members, motif]
            moved |= bool(shift.any() or turn.any())
            patches.move(members, shift, turn)
        settled = not moved and np.array_equal(following, assigned)
        assigned = following
        if settled:
            break
        references = [mean_profile(patches, np.flatnonzero(assigned == number)) for number in range(len(kept))]
    found = [motif_of(patches, np.flatnonzero(assigned == number)) for number in range(assigned.max() + 1)]
    found = [motif for motif in found if motif is not None]
    return sorted(found, key=lambda motif: -len(motif.members))


def clusters(profiles: np.ndarray) -> list[np.ndarray]:
    """Rows of profiles (S, P, 4) that belong together by average linkage, the largest group first."""
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if len(profiles) < 2:
        return [np.arange(len(profiles))]
    distances = 1.0 - alignments(profiles, profiles)[0]
    distances = (distances + distances.T) / 2
    np.fill_diagonal(distances, 0.0)
    labels = fcluster(linkage(squareform(distances, checks=False), "average"), 1.0 - ALIKE, "distance")
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def reference(patches: Patches, group: np.ndarray) -> np.ndarray:
    """The group's mean profile (P, 4) once all are laid over the one that is most like the others, which are moved."""
    profiles = patches.profiles(group)
    cosines, shifts, turned = alignments(profiles, profiles)
    middle = int(cosines.sum(0).argmax())
    patches.move(group, shifts[:, middle], turned[:, middle])
    return mean_profile(patches, group)


def mean_profile(patches: Patches, members: np.ndarray) -> np.ndarray:
    """Mean profile of patches as they lie, of length 1: float64 (P, 4)."""
    return unit(patches.profiles(members).mean(0, keepdims=True))[0]


def distinct(references: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The references, without those that are like one before them."""
    kept: list[np.ndarray] = []
    for candidate in references:
        if not kept or alignments(candidate[None], np.stack(kept))[0].max() < SAME:
            kept.append(candidate)
    return kept


def motif_of(patches: Patches, members: np.ndarray) -> Motif | None:
    """The motif of aligned patches, cut to where its outermost positions are informative and contribute.

    None where there are no such positions, or too few.
    Information is corrected for the number of seqlets (Schneider et al. 1986, doi:10.1016/0022-2836(86)90165-8).
    """
    counts = patches.one_hot(members).sum(0)
    total = counts.sum(1, keepdims=True)
    matrix = (counts + PSEUDOCOUNT / 4) / (total + PSEUDOCOUNT)
    error = 3 / (2 * np.log(2) * np.maximum(total[:, 0], 1))
    bits = 2 + (matrix * np.log2(matrix)).sum(1) - error
    weight = patches.profiles(members).sum((0, 2))
    matters = (bits >= EDGE_BITS) & (weight >= EDGE_WEIGHT * weight.max()) & (total[:, 0] >= len(members) / 2)
    informative = np.flatnonzero(matters)
    if not len(informative) or informative[-1] - informative[0] + 1 < SHORTEST:
        return None
    chosen = slice(informative[0], informative[-1] + 1)
    return Motif(matrix[chosen], tuple(members.tolist()), tuple(patches.reverse[members].tolist()))


def consensus(matrix: np.ndarray) -> str:
    """IUPAC letters of a matrix (L, 4), by the rules of Cavener 1987 (doi:10.1093/nar/15.4.1353)."""
    from Bio.motifs.matrix import FrequencyPositionMatrix

    return str(FrequencyPositionMatrix("ACGT", dict(zip("ACGT", matrix.T.tolist(), strict=True))).degenerate_consensus)
