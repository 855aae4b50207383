"""Candidate edits from the least to the most disruptive, each beside what else could be done nearby.

An edit has the score that its allele has in a cohort's ranking (`prioritise`), so a low score is wanted here. Its
percentile says how it compares with other alleles of its shape within a few bases (`base_editing.nearby_shapes`):

    percentile = 100 * (alleles with a lower score + half of those with the same) / alleles compared

Compared are the scored alleles nearby without the edit's own, so 0 is less disruptive than all of them and 100 more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from seqprior.columns import ALLELE, EDITS, NEARBY, RANKED_LEAD, RANKED_TAIL, Status

FEWEST_NEARBY = 10  # a percentile of fewer says little
GUIDE = EDITS[EDITS.index("editor") : EDITS.index("bystanders") + 1]
LEAD = (
    *("rank", "edit_id", "given", *ALLELE, "changes"),
    *RANKED_LEAD[RANKED_LEAD.index("gene") :],
    *("percentile", "nearby", *GUIDE),
)


def read_nearby(path: Path) -> Iterator[pd.DataFrame]:
    """A table of `columns.NEARBY` in blocks, so that memory does not grow with the number of comparisons."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches(columns=list(NEARBY)):
            yield batch.to_pandas()


def percentiles(scores: pd.Series, nearby: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """How each edited allele compares with its neighbours.

    Args:
        scores: score by variant_id, unique; NaN where an allele has none.
        nearby: tables of `columns.NEARBY`, each pair once; an edit's own allele does not count.

    Returns:
        By variant_id: `percentile` (NaN for an allele without a score or with fewer than `FEWEST_NEARBY` compared) and
        `nearby`, the number compared.
    """
    shown = scores.to_numpy(float).round(9)  # as in the ranking, ties do not hang on the last bits
    compared = np.zeros(len(shown), np.int64)
    below = np.zeros(len(shown))
    for block in nearby:
        own = scores.index.get_indexer(block["edit_variant_id"])
        other = scores.index.get_indexer(block["variant_id"])
        if (own < 0).any() or (other < 0).any():
            raise AssertionError("an allele of the comparison is not among those ranked")
        pairs = (own != other) & np.isfinite(shown[own]) & np.isfinite(shown[other])
        own, other = own[pairs], other[pairs]
        np.add.at(compared, own, 1)
        np.add.at(below, own, (shown[other] < shown[own]) + 0.5 * (shown[other] == shown[own]))
    share = 100 * below / np.maximum(compared, 1)
    return pd.DataFrame(
        {"percentile": np.where(compared >= FEWEST_NEARBY, share, np.nan), "nearby": compared}, index=scores.index
    )


def rank_edits(edits: pd.DataFrame, ranked: pd.DataFrame, nearby: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """One row per edit, the least disruptive first; edits without a score come last, in the order given.

    Edits of one score are ordered by the weight of their consequence, then as given. `rank_by_consequence` is the
    mid-rank that this weight alone would give.

    Args:
        edits: `columns.EDITS`; several may share an allele, and skipped ones may have none.
        ranked: as `prioritise.rank_alleles` gives it, of all alleles of edits and of those nearby.
        nearby: tables of `columns.NEARBY`.

    Returns:
        `LEAD`, evidence as in the ranking of a cohort, `columns.RANKED_TAIL`. `guide_start` is 1-based.
    """
    alleles = ranked.drop(columns="rank").drop_duplicates("variant_id").set_index("variant_id")
    alleles = alleles.join(percentiles(alleles["score"], nearby))
    frame = edits.reset_index(drop=True).astype({"guide_start": "Int64", "guide_end": "Int64"})
    frame["guide_start"] += 1
    listed = frame["status"] == Status.SCORED
    frame["variant_id"] = frame["variant_id"].fillna("")
    absent = frame.loc[listed & ~frame["variant_id"].isin(alleles.index), "edit_id"]
    if len(absent):
        raise AssertionError(f"the allele of the edit {absent.iloc[0]} is not among those ranked")
    found = {name: f"{name}_found" for name in RANKED_TAIL}
    frame = frame.join(alleles.rename(columns=found), on="variant_id", validate="many_to_one")
    for name, other in found.items():
        frame[name] = frame[name].where(~listed, frame[other])
    scored = frame["status"] == Status.SCORED
    frame["nearby"] = frame["nearby"].where(scored).astype("Int64")
    frame.loc[~scored, ["score", "score_low", "score_high", "percentile"]] = np.nan
    frame["rank_by_consequence"] = frame["consequence_weight"].where(scored).rank()
    order = pd.DataFrame(
        {"unscored": ~scored, "shown": frame["score"].round(9), "weight": frame["consequence_weight"].where(scored)}
    )
    frame = frame.loc[order.sort_values(["unscored", "shown", "weight"], kind="stable").index].reset_index(drop=True)
    frame.insert(0, "rank", np.arange(1, len(frame) + 1))
    for name in (*ALLELE[1:2], *ALLELE[3:], "gene", "transcript", "consequence", "hgvs_p"):
        frame[name] = frame[name].fillna("")
    evidence = [name for name in alleles if name not in (*LEAD, *RANKED_TAIL)]
    return frame[[*LEAD, *evidence, *RANKED_TAIL]]
