"""One ranked table from the models' scores and the consequences, by a sum that anyone can redo.

    score = consequence weight + model weight * mean over DNA models of clip(-llr_calibrated / sd)
            + protein weight * mean over protein and structure models of clip(z)

`sd` is the spread of neutral alleles, so the model's term counts how unusual a change is among changes that do not
matter; where no neutral allele of the kind was seen, the term is empty and adds nothing. `z` counts how many standard
deviations a change of a protein is more surprising than the mean substitution of that protein, so the protein term
moves a missense allele up or down among missense alleles. `score_low` and `score_high` put the strand that finds the
change less, and more, surprising in the place of the mean of both. Skipped alleles have no score and come last, the
more severe consequence first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seqprior.calibration import Calibration, read_calibration
from seqprior.columns import RANKED_LEAD, RANKED_TAIL, VARIANTS, Status
from seqprior.consequences import NOT_ANNOTATED
from seqprior.files import written_whole

EVIDENCE = ("llr", "llr_calibrated", "llr_fwd", "llr_rev", "strand_gap", "entropy", "embedding_l2", "embedding_cosine")


def join_evidence(
    variants: pd.DataFrame,
    consequences: pd.DataFrame,
    scores: Mapping[str, pd.DataFrame],
    proteins: pd.DataFrame | None = None,
    regulation: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """One row per allele with its consequence and each model's evidence as `name.model`.

    Args:
        scores: tables of `columns.SCORES`, row by row the alleles of `variants`.
        proteins: as `protein_evidence.protein_evidence` gives it; `hgvs_p` becomes its own where the transcript of the
            consequence is the one that was translated.
        regulation: as `regulation.score_regulation` writes it; evidence that is no part of the score.

    Returns:
        `variant_id` to `reason` of `columns.VARIANTS`, consequence, evidence. An allele is scored if at least one
        model scored it; else the first model's reason stands. `pos` is Int64: a record without a position has none.
    """
    frame = variants[[*VARIANTS[:8]]].merge(consequences, on="variant_id", how="left", validate="many_to_one")
    frame["pos"] = frame["pos"].astype("Int64")
    for name in ("gene", "transcript", "hgvs_p", "consequence_source"):
        frame[name] = frame[name].fillna("")
    frame["consequence"] = frame["consequence"].fillna(NOT_ANNOTATED)
    scored = np.zeros(len(frame), bool)
    reason = frame["reason"].to_numpy(object)
    for model, table in scores.items():
        if table["variant_id"].tolist() != frame["variant_id"].tolist():
            raise AssertionError(f"the scores of {model} do not follow the alleles")
        for name in EVIDENCE:
            frame[f"{name}.{model}"] = table[name].to_numpy(float)
        scored |= (table["status"] == Status.SCORED).to_numpy()
        reason = np.where(reason == "", table["reason"].to_numpy(object), reason)
    frame["status"] = np.where(scored, str(Status.SCORED), str(Status.SKIPPED))
    frame["reason"] = np.where(scored, "", reason)
    if proteins is not None:
        frame = _with_proteins(frame, proteins)
    return frame if regulation is None else _joined(frame, regulation)


def _joined(frame: pd.DataFrame, evidence: pd.DataFrame) -> pd.DataFrame:
    """The columns of further evidence, by variant_id; text is empty where an allele has none."""
    joined = frame.merge(evidence, on="variant_id", how="left", validate="many_to_one")
    for name in evidence.columns.drop("variant_id"):
        if joined[name].dtype == object or pd.api.types.is_string_dtype(joined[name]):
            joined[name] = joined[name].fillna("")
    return joined


def _with_proteins(frame: pd.DataFrame, proteins: pd.DataFrame) -> pd.DataFrame:
    """The columns of protein evidence, of which `hgvs_p` takes the protein's name."""
    joined = _joined(frame, proteins)
    same = (joined["protein_transcript"] == joined["transcript"]) & (joined["protein_hgvs_p"] != "")
    joined["hgvs_p"] = joined["protein_hgvs_p"].where(same, joined["hgvs_p"])
    return joined


def surprise(frame: pd.DataFrame, model: str, calibration: Calibration, clip: float) -> dict[str, np.ndarray]:
    """Clipped -llr_calibrated / sd of one model from the mean of both strands, and from each: mid, low, high."""
    spread = calibration.spread(frame)
    shift = (frame[f"llr.{model}"] - frame[f"llr_calibrated.{model}"]).to_numpy()
    strands = np.stack([frame[f"llr_fwd.{model}"], frame[f"llr_rev.{model}"]])
    mid = -frame[f"llr_calibrated.{model}"].to_numpy() / spread
    ends = np.stack([*(-(strands - shift) / spread), mid])  # with the mean, so that rounding keeps it in between
    return {
        "mid": np.clip(mid, -clip, clip),
        "low": np.clip(ends.min(0), -clip, clip),
        "high": np.clip(ends.max(0), -clip, clip),
    }


def rank_tables(
    variants: Path,
    consequences: Path,
    scores: Mapping[str, Path],
    calibrations: Mapping[str, Path],
    proteins: Path | None,
    regulation: Path | None,
    settings: Mapping[str, Any],
) -> pd.DataFrame:
    """The ranked table of the alleles in some files; see `join_evidence` and `rank_alleles`.

    Args:
        scores, calibrations: of each model. settings: the config's section `prioritise`.
    """
    tables = {model: pd.read_parquet(path) for model, path in scores.items()}
    further = (pd.read_parquet(path) if path else None for path in (proteins, regulation))
    evidence = join_evidence(pd.read_parquet(variants), pd.read_parquet(consequences), tables, *further)
    terms = (settings[f"{kind}_{name}"] for kind in ("model", "protein") for name in ("weight", "clip"))
    read = {model: read_calibration(path) for model, path in calibrations.items()}
    return rank_alleles(evidence, read, settings["consequence_weights"], *terms)


def rank_alleles(
    frame: pd.DataFrame,
    calibrations: Mapping[str, Calibration],
    weights: Mapping[str, float],
    model_weight: float,
    clip: float,
    protein_weight: float = 1.0,
    protein_clip: float = 4.0,
) -> pd.DataFrame:
    """The ranked table, best first.

    Args:
        frame: as `join_evidence` gives it.
        weights: consequence term to weight; 'other' for the terms not named.
        model_weight: weight of the DNA models' mean surprise. clip: its largest absolute value before weighting.
        protein_weight, protein_clip: the same of protein and structure models.

    Returns:
        `columns.RANKED_LEAD`, evidence, `columns.RANKED_TAIL`. `rank_by_consequence` is the mid-rank that the
        consequence weight alone would give.
    """
    frame = frame.copy()
    scored = (frame["status"] == Status.SCORED).to_numpy()
    frame["consequence_weight"] = frame["consequence"].map(weights).fillna(weights["other"]).astype(float)
    terms = [surprise(frame, model, calibration, clip) for model, calibration in calibrations.items()]
    for name, column in (("mid", "model_term"), ("low", "score_low"), ("high", "score_high")):
        stacked = np.stack([term[name] for term in terms]) if terms else np.zeros((1, len(frame)))
        seen = np.isfinite(stacked)
        total = np.where(seen, stacked, 0.0).sum(0) * model_weight
        frame[column] = np.where(seen.any(0), total / np.maximum(seen.sum(0), 1), np.nan)
    fixed, terms_shown = frame["consequence_weight"], ["model_term"]
    measured = [name for name in frame if str(name).startswith(("protein_z.", "structure_z."))]
    if measured:
        frame["protein_term"] = frame[measured].clip(-protein_clip, protein_clip).mean(axis=1) * protein_weight
        fixed = fixed + frame["protein_term"].fillna(0.0)
        terms_shown.append("protein_term")
    for name, term in (("score", "model_term"), ("score_low", "score_low"), ("score_high", "score_high")):
        frame[name] = fixed + frame[term].fillna(0.0)
    frame.loc[~scored, ["score", "score_low", "score_high", *terms_shown]] = np.nan
    frame["rank_by_consequence"] = np.nan
    frame.loc[scored, "rank_by_consequence"] = frame.loc[scored, "consequence_weight"].rank(ascending=False)
    frame["unscored"] = ~scored
    frame["shown"] = frame["score"].round(9)  # ties do not hang on the last bits of a float
    frame["order"] = np.arange(len(frame))
    frame = frame.sort_values(
        ["unscored", "shown", "consequence_weight", "order"], ascending=[True, False, False, True], kind="stable"
    ).reset_index(drop=True)
    frame.insert(0, "rank", np.arange(1, len(frame) + 1))
    lead = [*RANKED_LEAD]
    drop = {"unscored", "shown", "order", *lead, *RANKED_TAIL}
    return frame[[*lead, *(name for name in frame if name not in drop), *RANKED_TAIL]]


def write_table(ranked: pd.DataFrame, tsv: Path, parquet: Path) -> None:
    """The ranked table twice: TSV for people (six significant digits, nothing for missing), Parquet for programs."""
    with written_whole(tsv) as partial:
        ranked.to_csv(partial, sep="\t", index=False, float_format="%.6g")
    with written_whole(parquet) as partial:
        ranked.to_parquet(partial, index=False)


INFO_HEADER = (
    '##INFO=<ID=SP_RANK,Number=A,Type=Integer,Description="Rank of the allele in the cohort, 1 is first">',
    '##INFO=<ID=SP_SCORE,Number=A,Type=Float,Description="Score that the ranking follows, higher comes first">',
    '##INFO=<ID=SP_LLR,Number=A,Type=Float,Description="ln p(alt) - ln p(ref) by {model}, mean of both strands">',
    '##INFO=<ID=SP_STATUS,Number=A,Type=String,Description="scored, or the reason why the allele was skipped">',
)


def write_ranked_vcf(
    records: Path, ranked: pd.DataFrame, model: str, contigs: Mapping[str, int], version: str, output: Path
) -> None:
    """The input's records, each once and without genotypes, with the ranking in INFO: bgzip and a tabix index.

    Args:
        records: `records.parquet`. ranked: variant_id, rank, score, llr, status, reason.
        contigs: names and lengths of the reference, in order.
    """
    import pyarrow.parquet as pq
    import pysam

    columns = (ranked[name] for name in ("variant_id", "rank", "score", "llr", "status", "reason"))
    ranking: dict[str, tuple] = {}
    for variant_id, *row in zip(*columns, strict=True):
        ranking.setdefault(variant_id, tuple(row))
    with pq.ParquetFile(records) as table:
        present = dict.fromkeys(
            name for batch in table.iter_batches(columns=["chrom"]) for name in batch["chrom"].unique().to_pylist()
        )
        header = ["##fileformat=VCFv4.3", f"##source=seqprior {version}"]
        header += [f"##contig=<ID={name},length={length}>" for name, length in contigs.items()]
        header += [f"##contig=<ID={name}>" for name in present if name not in contigs]
        header += [line.format(model=model) for line in INFO_HEADER]
        header.append("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO")
        with written_whole(output) as partial:
            with pysam.BGZFile(str(partial), "w") as handle:
                handle.write(("\n".join(header) + "\n").encode())
                for batch in table.iter_batches():
                    lines = []
                    for record in batch.to_pylist():
                        rows = [ranking[variant_id] for variant_id in record["variant_ids"]]
                        fields = [
                            record["chrom"],
                            str(record["pos"]),
                            record["id"] or ".",
                            record["ref"],
                            record["alts"],
                        ]
                        lines.append("\t".join([*fields, ".", ".", info_field(rows, record["alts"])]) + "\n")
                    handle.write("".join(lines).encode())
            index = output.with_name(output.name + ".tbi")
            with written_whole(index) as partial_index:
                pysam.tabix_index(str(partial), preset="vcf", index=str(partial_index), force=True)


def info_field(rows: list[tuple], alts: str) -> str:
    """SP_* of one record; rows are (rank, score, llr, status, reason) in ALT's order."""
    if alts == ".":
        return "."
    ranks, scores, llrs, statuses, reasons = zip(*rows, strict=True)
    states = (reason or status for status, reason in zip(statuses, reasons, strict=True))
    return (
        f"SP_RANK={','.join(map(str, ranks))};SP_SCORE={','.join(map(vcf_number, scores))};"
        f"SP_LLR={','.join(map(vcf_number, llrs))};SP_STATUS={','.join(states)}"
    )


def vcf_number(value: float) -> str:
    return "." if value is None or math.isnan(value) else f"{value:.5g}"
