"""What protein models and structures say of each allele: one row per allele that touches a coding sequence.

A model's profiles hold log p of all 20 residues at a place, so the LLR of a substitution is looked up, and the mean and
spread of all substitutions of the protein are known with it. `z` counts how many standard deviations a change is more
surprising than the mean substitution of the same protein: it compares models with each other, and needs no cohort.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from seqprior.columns import RESIDUE_FEATURES, ProteinReason, Status
from seqprior.missense import SITE_FEATURES, MissenseModel, substitution_features
from seqprior.profiles import read_profiles
from seqprior.residues import HYDROPHOBICITY, INDEX_OF, blosum62

FITTED_WITH = "proteinmpnn"  # the structure model whose profiles the missense score was fitted with
FEATURES = RESIDUE_FEATURES[RESIDUE_FEATURES.index("plddt") :]


@dataclass
class Answers:
    """What one model says of the residues and changes that were asked for.

    Attributes:
        profiles: log p (20,) and method by protein and residue (0-based).
        spreads: mean and standard deviation of the LLRs of each protein's substitutions.
        changes: LLR and method by protein, start, ref and alt.
    """

    profiles: dict[tuple[str, int], tuple[np.ndarray, str]] = field(default_factory=dict)
    spreads: dict[str, tuple[float, float]] = field(default_factory=dict)
    changes: dict[tuple[str, int, str, str], tuple[float, str]] = field(default_factory=dict)

    def llr(self, protein: str, start: int, ref: str, alt: str) -> tuple[float, float, str]:
        """LLR, z and method of a change; NaN, NaN and "" where the model has none.

        A sum over several residues is compared with as many independent substitutions. Changes of a protein's length
        have no z: there is no mean substitution to compare them with.
        """
        key = (protein, start, ref, alt)
        if key in self.changes:
            llr, method = self.changes[key]
        elif (
            ref and len(ref) == len(alt) and all((protein, start + place) in self.profiles for place in range(len(ref)))
        ):
            places = [
                (*self.profiles[protein, start + n], INDEX_OF.get(a), INDEX_OF.get(b))
                for n, (a, b) in enumerate(zip(ref, alt, strict=True))
            ]
            if any(first is None or second is None for *_, first, second in places):
                return math.nan, math.nan, ""
            llr = float(sum(logp[second] - logp[first] for logp, _, first, second in places))
            method = places[0][1]
        else:
            return math.nan, math.nan, ""
        changed = sum(a != b for a, b in zip(ref, alt, strict=False))
        if protein not in self.spreads or len(ref) != len(alt) or not changed:
            return llr, math.nan, method
        mean, sd = self.spreads[protein]
        return llr, (changed * mean - llr) / (math.sqrt(changed) * sd), method

    def entropy(self, protein: str, residue: int) -> float:
        """Entropy in nats of the profile at a residue; NaN without one."""
        found = self.profiles.get((protein, residue))
        if found is None:
            return math.nan
        return -float((np.exp(found[0]) * found[0]).sum())


def read_answers(
    profiles: Sequence[Path], changes: Sequence[Path], sequences: Mapping[str, str], wanted: set[tuple[str, int]]
) -> Answers:
    """One model's answers, read a protein at a time; only the residues that are wanted are kept.

    Args:
        profiles: tables of `columns.PROFILES`. changes: tables of `columns.CHANGE_SCORES`.
        sequences: residues of each protein. wanted: protein and residue (0-based).
    """
    answers = Answers()
    places = defaultdict(list)
    for protein, residue in wanted:
        places[protein].append(residue)
    for protein, profile in read_profiles(profiles, sequences):
        answers.spreads[protein] = profile.spread()
        logp = profile.logp.astype(float)
        for residue in places.get(protein, ()):
            if residue < len(logp) and (method := profile.method(residue)):
                answers.profiles[protein, residue] = (logp[residue], method)
    for path in changes:
        for row in pd.read_parquet(path).itertuples(index=False):
            answers.changes[row.protein, int(row.start), row.ref, row.alt] = (float(row.llr), row.method)
    return answers


def residues_asked(changes: pd.DataFrame, haplotypes: pd.DataFrame) -> set[tuple[str, int]]:
    """Protein and residue (0-based) of everything that a profile answers for."""
    wanted = set()
    asked = changes[changes["status"] == Status.SCORED]
    for table in (asked, haplotypes):
        for protein, start, ref in zip(table["protein"], table["start"], table["ref"], strict=True):
            wanted.update((protein, int(start) + place) for place in range(len(ref)))
    return wanted


def substitution_facts(ref: str, alt: str) -> tuple[float, float]:
    """BLOSUM62 and the change of hydrophobicity (Kyte and Doolittle) of one residue for another; NaN for others."""
    if len(ref) != 1 or len(alt) != 1 or ref not in INDEX_OF or alt not in INDEX_OF:
        return math.nan, math.nan
    return float(blosum62()[INDEX_OF[ref], INDEX_OF[alt]]), HYDROPHOBICITY[alt] - HYDROPHOBICITY[ref]


def protein_evidence(
    changes: pd.DataFrame,
    haplotypes: pd.DataFrame,
    proteins: pd.DataFrame,
    protein_answers: Mapping[str, Answers],
    structure_answers: Mapping[str, Answers],
    features: pd.DataFrame | None,
    structures: pd.DataFrame | None,
    missense: MissenseModel | None = None,
) -> pd.DataFrame:
    """One row per row of `changes`, which is one allele.

    Args:
        changes: `columns.PROTEIN_CHANGES`. haplotypes: `columns.PROTEIN_HAPLOTYPES`. proteins: `columns.PROTEINS`.
        protein_answers, structure_answers: by model. features: `columns.RESIDUE_FEATURES`. structures: one row a
        protein with `accession`, `status` and `reason`. missense: the model that gives `missense_score`, from features
        and the profiles of the structure model `FITTED_WITH`.

    Returns:
        variant_id, what changes, each model's `protein_llr`, `protein_z` and so on as `name.model`, the structure's
        features, `protein_status` and `protein_reason`. Residues are 1-based.
    """
    accession = {p: a.partition(",")[0] for p, a in zip(proteins["protein"], proteins["accessions"], strict=True)}
    missing: dict[str, str] = {}
    if structures is not None:
        accession |= {p: a for p, a in zip(structures["protein"], structures["accession"], strict=True) if a}
        missing = dict(zip(structures["protein"], structures["reason"], strict=True))
    frame = pd.DataFrame(
        {
            "variant_id": changes["variant_id"],
            "protein_transcript": changes["transcript"],
            "protein": changes["protein"],
            "uniprot": changes["protein"].map(accession).fillna(""),
            "protein_effect": changes["effect"],
            "residue": (changes["start"] + 1).astype("Int64"),
            "residue_ref": changes["ref"],
            "residue_alt": changes["alt"],
            "hgvs_c": changes["hgvs_c"],
            "protein_hgvs_p": changes["hgvs_p"],
        }
    ).reset_index(drop=True)
    asked = (changes["status"] == Status.SCORED).to_numpy()
    keys = list(
        zip(changes["protein"], changes["start"].fillna(-1).astype(int), changes["ref"], changes["alt"], strict=True)
    )
    facts = [
        substitution_facts(key[2], key[3]) if ask else (math.nan,) * 2 for key, ask in zip(keys, asked, strict=True)
    ]
    frame["blosum62"], frame["hydrophobicity_change"] = np.array(facts, float).reshape(-1, 2).T
    evaluated = np.zeros(len(frame), bool)
    for kind, answers_by_model in (("protein", protein_answers), ("structure", structure_answers)):
        for model, answers in answers_by_model.items():
            nothing = (math.nan, math.nan, "")
            found = [answers.llr(*key) if ask else nothing for key, ask in zip(keys, asked, strict=True)]
            frame[f"{kind}_llr.{model}"] = [llr for llr, _, _ in found]
            frame[f"{kind}_z.{model}"] = [z for _, z, _ in found]
            frame[f"{kind}_entropy.{model}"] = [
                answers.entropy(key[0], key[1]) if ask else math.nan for key, ask in zip(keys, asked, strict=True)
            ]
            frame[f"{kind}_method.{model}"] = [method for _, _, method in found]
            evaluated |= frame[f"{kind}_llr.{model}"].notna().to_numpy()
    if features is not None:
        frame = _with_features(frame, features, missing, asked)
        if missense is not None and FITTED_WITH in structure_answers:
            frame["missense_score"] = missense_scores(frame, structure_answers[FITTED_WITH], missense)
    frame = _with_haplotypes(frame, haplotypes, protein_answers)
    refused = str(ProteinReason.NOT_EVALUABLE_BY_MODEL)
    if not protein_answers and not structure_answers:
        refused = str(ProteinReason.NO_MODEL)
    elif not protein_answers and "structure_reason" in frame:
        refused = np.where(frame["structure_reason"] == "", refused, frame["structure_reason"])
    reason = np.where(asked & ~evaluated, refused, changes["reason"].to_numpy(object))
    frame["protein_status"] = np.where(reason == "", str(Status.SCORED), str(Status.SKIPPED))
    frame["protein_reason"] = reason
    return frame


def _with_features(frame: pd.DataFrame, features: pd.DataFrame, missing: Mapping[str, str], asked: np.ndarray):
    """The structure's features of each first changed residue, and why there are none."""
    by_residue = features.assign(residue=features["residue"].astype("Int64") + 1)[["protein", "residue", *FEATURES]]
    joined = frame.merge(by_residue, on=["protein", "residue"], how="left", validate="many_to_one")
    found = joined["contact_number"].notna().to_numpy()
    whole = joined["protein"].map(missing).fillna(str(ProteinReason.NO_STRUCTURE))
    # A structure that is there lacks the residue, or has another one in its place.
    absent = whole.where(whole != "", str(ProteinReason.NOT_IN_STRUCTURE))
    joined["structure_reason"] = np.where(found | ~asked, "", absent)
    return joined


def missense_scores(frame: pd.DataFrame, answers: Answers, model: MissenseModel) -> np.ndarray:
    """`missense.MissenseModel`'s score of each row that puts one residue in the place of another, float64; NaN else."""
    scores = np.full(len(frame), np.nan)
    rows, profiles = [], []
    exchanged = frame["blosum62"].notna()  # one of the 20 residues for one of the 20
    asked = frame.loc[exchanged, ["protein", "residue"]].itertuples(index=False, name=None)
    for row, (protein, residue) in zip(np.flatnonzero(exchanged), asked, strict=True):
        found = answers.profiles.get((protein, int(residue) - 1))
        if found is not None:
            rows.append(row)
            profiles.append(found[0])
    if rows:
        own = frame.iloc[rows]
        ref, alt = (own[name].map(INDEX_OF).to_numpy(int) for name in ("residue_ref", "residue_alt"))
        sites = {name: own[name].to_numpy() for name in SITE_FEATURES}
        scores[rows] = model.score(substitution_features(np.stack(profiles), ref, alt, sites))
    return scores


def _with_haplotypes(frame: pd.DataFrame, haplotypes: pd.DataFrame, answers_by_model: Mapping[str, Answers]):
    """The joint change of alleles of one codon on one chromosome, on these alleles' rows of the same transcript.

    An allele in several such haplotypes shows the one with most carriers.
    """
    shown: dict[tuple[str, str], tuple] = {}
    ordered = haplotypes.sort_values("carriers", ascending=False, kind="stable")
    for row in ordered.itertuples(index=False):
        members = row.variant_ids.split("+")
        llrs = [answers.llr(row.protein, int(row.start), row.ref, row.alt)[0] for answers in answers_by_model.values()]
        for member in members:
            others = "+".join(other for other in members if other != member)
            shown.setdefault((member, row.transcript), (row.hgvs_p, others, int(row.carriers), *llrs))
    names = ["haplotype_hgvs_p", "haplotype_with", "haplotype_carriers"]
    if not shown:
        return frame
    names += [f"haplotype_llr.{model}" for model in answers_by_model]
    keys = ["variant_id", "protein_transcript"]
    table = pd.DataFrame([(*key, *values) for key, values in shown.items()], columns=[*keys, *names])
    joined = frame.merge(table, on=keys, how="left", validate="many_to_one")
    joined["haplotype_carriers"] = joined["haplotype_carriers"].astype("Int64")
    return joined.fillna({"haplotype_hgvs_p": "", "haplotype_with": ""})
