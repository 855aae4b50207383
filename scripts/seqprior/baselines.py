"""What a sequence model has to beat: Markov models of the same genome, and a rule that knows reading frames alone.

Base codes are those of `seqprior.sequence`; all logarithms are natural.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

STRENGTHS = tuple(4.0**power for power in range(9))


@dataclass(frozen=True)
class MarkovModel:
    """p(base | the `order` bases before it).

    Attributes:
        logs: float32 (4 ** (order + 1),), numbered as by `window_numbers`.
        background: float32 (4,), for positions whose context is unknown or cut by the contig's end.
        strength: pseudo-count of the next lower order in the mixture; 0 for order 0.
    """

    order: int
    logs: np.ndarray
    background: np.ndarray
    strength: float

    def left_to_right(self, codes: np.ndarray) -> np.ndarray:
        """log p(base | bases before it) at every position of one strand, float32 (L,); NaN where the base is N."""
        numbers, known = window_numbers(codes, self.order + 1)
        logs = np.where(known, self.logs[numbers * known], self.background[codes & 3])
        logs[codes > 3] = np.nan
        return logs

    def leave_one_out(self, codes: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """log p(base | all other bases) of one strand read left to right, float32 (N, 4).

        By Bayes' rule from the likelihoods of the `order + 1` windows that hold the position, so the difference of two
        entries is the log likelihood ratio of the two sequences.
        """
        numbers, known = window_numbers(codes, self.order + 1)
        present = (codes[positions] & 3).astype(np.int64)
        logs = np.zeros((len(positions), 4), np.float32)
        for offset in range(self.order + 1):
            ends = np.minimum(positions + offset, len(codes) - 1)
            used = (positions + offset < len(codes)) & known[ends]
            for base in range(4):
                changed = numbers[ends] + ((base - present) << (2 * offset))
                otherwise = self.background[base] if offset == 0 else 0.0
                logs[:, base] += np.where(used, self.logs[changed * used], otherwise)
        return logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)


def window_numbers(codes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Number of the `length` bases that end at each position, and whether all of them are known.

    Returns:
        int64 (L,), to base 4 with the last base as lowest digit; bool (L,).
    """
    clean = (codes & 3).astype(np.int64)
    numbers = np.zeros(len(codes), np.int64)
    unknown = np.zeros(len(codes), bool)
    unknown[: length - 1] = True
    for back in range(length):
        shown = len(codes) - back
        numbers[back:] += clean[:shown] << (2 * back)
        unknown[back:] |= codes[:shown] > 3
    return numbers, ~unknown


def other_strand(codes: np.ndarray) -> np.ndarray:
    """Base codes of the reverse complement."""
    return np.where(codes < 4, 3 - codes, codes)[::-1].astype(np.uint8)


def both_strands_left_to_right(model: MarkovModel, codes: np.ndarray) -> np.ndarray:
    """Mean over strands of `MarkovModel.left_to_right`, in forward order."""
    return (model.left_to_right(codes) + model.left_to_right(other_strand(codes))[::-1]) / 2


def both_strands_leave_one_out(model: MarkovModel, codes: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Mean over strands of `MarkovModel.leave_one_out` in forward letters, normalised to probabilities again."""
    reverse = model.leave_one_out(other_strand(codes), len(codes) - 1 - positions)[:, ::-1]
    logs = (model.leave_one_out(codes, positions) + reverse) / 2
    return logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)


def count_windows(contigs: Iterable[np.ndarray], length: int) -> np.ndarray:
    """Occurrences of every window of `length` known bases on both strands, float64 (4 ** length,)."""
    counts = np.zeros(4**length)
    for codes in contigs:
        for strand in (codes, other_strand(codes)):
            numbers, known = window_numbers(strand, length)
            counts += np.bincount(numbers[known], minlength=len(counts))
    return counts


def fit_markov(
    training: Iterable[np.ndarray], validation: Mapping[str, np.ndarray], counted: Mapping[str, np.ndarray], order: int
) -> list[MarkovModel]:
    """Interpolated Markov models of order 0 to `order`, from both strands.

    Each order is mixed with the one below it, `p_k = (count(context, base) + s p_{k-1}) / (count(context) + s)`; of
    `STRENGTHS` each order takes the s that predicts the validation contigs best. All orders are counted from the same
    windows of `order + 1` bases.

    Args:
        training: base codes of the training contigs.
        validation: base codes by contig. counted: positions (bool) of each that are predicted.
    """
    counts = [count_windows(training, order + 1)]
    while len(counts) <= order:
        counts.insert(0, counts[0].reshape(4, -1).sum(0))
    table = counts[0] / counts[0].sum()
    background = np.log(table).astype(np.float32)
    models = [MarkovModel(0, background, background, 0.0)]
    for k in range(1, order + 1):
        seen = counts[k].reshape(-1, 4)
        below = np.tile(table.reshape(-1, 4), (4, 1))  # the oldest base is the highest digit
        best, lowest = None, np.inf
        for strength in STRENGTHS:
            mixed = (seen + strength * below) / (seen.sum(1, keepdims=True) + strength)
            model = MarkovModel(k, np.log(mixed, dtype=np.float32).ravel(), background, strength)
            loss = -np.nanmean(
                np.concatenate([model.left_to_right(validation[name])[counted[name]] for name in validation])
            )
            if loss < lowest:
                best, lowest, chosen = model, loss, mixed
        models.append(best)
        table = chosen.ravel()
    return models


def stop_codons(codes: np.ndarray) -> np.ndarray:
    """True where a TAA, TAG or TGA starts, bool (L - 2,)."""
    first, second, third = codes[:-2], codes[1:-1], codes[2:]
    purines = ((second == 0) & ((third == 0) | (third == 2))) | ((second == 2) & (third == 0))
    return (first == 3) & purines


def open_frames(codes: np.ndarray) -> np.ndarray:
    """Codons of the stretch without a stop codon that holds each position, in each of six frames: int64 (6, L).

    Rows 0 to 2 are the forward frames that start at positions 0, 1, 2; rows 3 to 5 those of the reverse complement.
    Stretches run from stop to stop, whether or not they hold a start codon. Positions in a stop codon, in a codon with
    N and beyond the last whole codon have 0.
    """
    lengths = np.zeros((6, len(codes)), np.int64)
    for strand, read in enumerate((codes, other_strand(codes))):
        unknown = (read[:-2] > 3) | (read[1:-1] > 3) | (read[2:] > 3)
        closed = stop_codons(read) | unknown
        for frame in range(3):
            ends = closed[frame::3]
            edges = np.concatenate([[-1], np.flatnonzero(ends), [len(ends)]])
            stretch = np.where(ends, 0, (np.diff(edges) - 1)[np.cumsum(ends)])
            row = lengths[3 * strand + frame]
            row[frame : frame + 3 * len(ends)] = np.repeat(stretch, 3)
            if strand:
                row[:] = row[::-1].copy()
    return lengths


def stops_longest_frame(codes: np.ndarray, positions: np.ndarray, alternates: np.ndarray) -> np.ndarray:
    """Whether each substitution puts a stop codon into the longest open stretch around it: bool (N,).

    The stretch is the longest of the six frames of the reference (`open_frames`; the first of equals). Nothing is known
    of genes.

    Args:
        positions: 0-based. alternates: base codes in forward letters.
    """
    frames = open_frames(codes)[:, positions]
    frame = frames.argmax(0)
    reverse = frame >= 3
    at = np.where(reverse, len(codes) - 1 - positions, positions)
    changed = np.where(reverse, 3 - alternates, alternates)
    start = at - (at - frame % 3) % 3
    codons = np.full((len(positions), 3), 4, np.uint8)
    for strand, read in ((False, codes), (True, other_strand(codes))):
        chosen = reverse == strand
        codons[chosen] = read[np.clip(start[chosen, None] + np.arange(3), 0, len(codes) - 1)]
    codons[np.arange(len(positions)), at - start] = changed
    stops = np.array([stop_codons(codon)[0] for codon in codons], bool) if len(codons) else np.zeros(0, bool)
    return stops & (frames.max(0, initial=0) > 0)
