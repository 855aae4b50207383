"""Runs that stand out of a track, and how many of them chance would give."""

from __future__ import annotations

import numpy as np
import pytest

from seqprior.significance import LONGEST, SHORTEST, error_rates, maximal_runs, standing_out


def maximal_by_recursion(values: list[float], first: int = 0) -> list[tuple[int, int, float]]:
    """The definition: the contiguous run of the highest positive sum, then the same left and right of it."""
    best = max(
        ((sum(values[i:j]), -(j - i), -i, j) for i in range(len(values)) for j in range(i + 1, len(values) + 1)),
        default=(0, 0, 0, 0),
    )
    total, _, start, end = best[0], best[1], -best[2], best[3]
    if total <= 0:
        return []
    left = maximal_by_recursion(values[:start], first)
    right = maximal_by_recursion(values[end:], first + end)
    return [*left, (first + start, first + end, total), *right]


@pytest.mark.parametrize("seed", range(40))
def test_maximal_runs_are_those_of_the_definition(seed):
    values = np.random.default_rng(seed).normal(-0.2, 1, size=30)
    found = maximal_runs(values)
    expected = maximal_by_recursion(values.tolist())
    assert [run[:2] for run in found] == [run[:2] for run in expected]
    np.testing.assert_allclose([run[2] for run in found], [run[2] for run in expected])


def test_runs_are_neither_too_short_nor_too_long_and_score_their_values():
    values = np.zeros(200)
    values[10 : 10 + SHORTEST - 1] = 2.0
    values[50:58] = 1.5
    values[100:170] = 1.0
    values[120:140] = 1.9
    found = standing_out(values, 0.5)
    assert found[0] == (50, 58, 12.0)
    assert len(found) == 2
    start, end, score = found[1]
    assert end - start == LONGEST and start <= 120 and end >= 140
    assert score == pytest.approx(values[start:end].sum())


def test_rates_are_those_of_counting():
    rng = np.random.default_rng(5)
    scores, control = rng.normal(1, 1, 60).round(1), rng.normal(0, 1, 80).round(1)
    p_values, q_values = error_rates(scores, control, 1000, 3000)
    for score, p, q in zip(scores, p_values, q_values, strict=True):
        assert p == ((control >= score).sum() + 1) / 81
        rates = [
            min(((control >= cut).sum() + 1) / 3000 / ((scores >= cut).sum() / 1000), 1.0)
            for cut in scores
            if cut <= score
        ]
        assert q == pytest.approx(min(rates))
    assert q_values.min() > 0


def test_no_scores_have_no_rates():
    p_values, q_values = error_rates(np.empty(0), np.ones(3), 10, 10)
    assert len(p_values) == len(q_values) == 0


@pytest.mark.parametrize("planted", [0, 60])
def test_the_rate_that_is_stated_is_kept(planted):
    """Over many draws the share of false ones among those kept at 10 % stays near or below 10 %."""
    shares = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        scores = np.concatenate([rng.gumbel(0, 1, 400), rng.normal(8, 1, planted)])
        _, q_values = error_rates(scores, rng.gumbel(0, 1, 4000), 10_000, 100_000)
        kept = q_values <= 0.1
        shares.append(kept[:400].sum() / max(kept.sum(), 1))
        assert not planted or kept[400:].mean() > 0.7
    assert np.mean(shares) < 0.13
