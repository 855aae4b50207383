"""Runs of a track that stand out, and how many of them chance would give."""

from __future__ import annotations

import numpy as np

SHORTEST, LONGEST = 4, 40  # bases of a site


def maximal_runs(values: np.ndarray) -> list[tuple[int, int, float]]:
    """All maximal-scoring runs [start, end) of the values, with their sums, in order (Ruzzo and Tompa 1999)."""
    done: list[tuple[int, int, float, float]] = []  # start, end, sum before start, sum up to end
    runs: list[tuple[int, int, float, float]] = []  # the same, of those that a later value may still join
    total = 0.0
    for at, value in enumerate(np.asarray(values, np.float64).tolist()):
        before, total = total, total + value
        if value <= 0:
            continue
        run = (at, at + 1, before, total)
        while True:
            lower = next((n for n in range(len(runs) - 1, -1, -1) if runs[n][2] < run[2]), None)
            if lower is None:  # nothing before this run can be part of a longer one
                done += runs
                runs = []
                break
            if runs[lower][3] >= run[3]:
                break
            run = (runs[lower][0], run[1], runs[lower][2], run[3])
            del runs[lower:]
        runs.append(run)
    return [(start, end, up_to - before) for start, end, before, up_to in [*done, *runs]]


def standing_out(values: np.ndarray, baseline: float) -> list[tuple[int, int, float]]:
    """Runs [start, end) of a track (L,) above a baseline, with the sum of the values themselves.

    Of a run longer than a site may be, the part that is worth most is taken; shorter ones are left out.
    """
    found = []
    for start, end, _ in maximal_runs(values - baseline):
        if end - start > LONGEST:
            sums = np.convolve(values[start:end], np.ones(LONGEST), "valid")
            start += int(sums.argmax())
            end = start + LONGEST
        if end - start >= SHORTEST:
            found.append((start, end, float(values[start:end].sum())))
    return found


def error_rates(
    scores: np.ndarray, control: np.ndarray, bases: int, control_bases: int
) -> tuple[np.ndarray, np.ndarray]:
    """p- and q-values of scores, from the scores that shuffled sequence gives.

    The p-value is the share of control scores as high, the score itself counted among them. The false discovery rate
    at a score is the number of control scores as high per control base over that of scores per base; one more control
    score is counted than was found, so that no q-value is 0. The q-value is the lowest rate at which a score is kept.

    Args:
        bases, control_bases: that were searched.
    """
    null = np.sort(control)
    at_least = len(null) - np.searchsorted(null, scores, "left") + 1
    order = np.argsort(scores, kind="stable")
    found = len(scores) - np.searchsorted(scores[order], scores, "left")
    rates = (at_least / max(control_bases, 1)) / np.maximum(found / max(bases, 1), 1e-300)
    q_values = np.empty(len(scores))
    q_values[order] = np.minimum.accumulate(np.minimum(rates[order], 1.0))
    return at_least / (len(null) + 1), q_values
