"""Protein evidence: looked-up LLRs, the spread of a protein's substitutions, features, haplotypes, and reasons."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from seqprior.columns import (
    CHANGE_SCORES,
    PROFILES,
    PROTEIN_CHANGES,
    PROTEIN_HAPLOTYPES,
    PROTEINS,
    RESIDUE_FEATURES,
)
from seqprior.missense import MissenseModel
from seqprior.protein_evidence import Answers, protein_evidence, read_answers, residues_asked, substitution_facts
from seqprior.residues import AMINO_ACIDS, INDEX_OF, protein_id

SEQUENCE = "MKTAYIAKQR"
OTHER = "MSTUWC"
PROTEIN, SECOND = protein_id(SEQUENCE), protein_id(OTHER)
SEQUENCES = {PROTEIN: SEQUENCE, SECOND: OTHER}


def random_profile(seed: int, residues: int) -> np.ndarray:
    """log p (residues, 20)."""
    raw = np.random.default_rng(seed).normal(size=(residues, 20))
    return raw - np.log(np.exp(raw).sum(1, keepdims=True))


def write_profiles(path: Path, parts: list[tuple[str, list[int], str, np.ndarray]]) -> Path:
    rows = [
        (protein, residue, method, logp[number].astype(np.float32).tolist())
        for protein, residues, method, logp in parts
        for number, residue in enumerate(residues)
    ]
    pd.DataFrame(rows, columns=list(PROFILES)).to_parquet(path, index=False)
    return path


def change(variant: str, start: int | None, ref: str, alt: str, reason: str = "", protein: str = PROTEIN) -> tuple:
    status = "skipped" if reason else "scored"
    return (variant, "g", "t", protein, "missense_variant", start, ref, alt, "c.1A>G", "p.?", status, reason)


def table(rows: list[tuple]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(PROTEIN_CHANGES)).astype({"start": "Int64"})


NO_HAPLOTYPES = pd.DataFrame([], columns=list(PROTEIN_HAPLOTYPES))
ALL_PROTEINS = pd.DataFrame(
    [(PROTEIN, SEQUENCE, "t", "g", "P12345,Q00001"), (SECOND, OTHER, "u", "h", "")], columns=list(PROTEINS)
)


@pytest.fixture
def answered(tmp_path):
    """Profiles of both proteins in two files, one residue of the first also masked."""
    whole, small, masked = random_profile(1, 10), random_profile(2, 6), random_profile(3, 1)
    parts = [
        (PROTEIN, list(range(4)), "wild_type_marginal", whole),
        (PROTEIN, [4], "masked_marginal", masked),
        (PROTEIN, list(range(4, 10)), "wild_type_marginal", whole[4:]),
    ]
    first = write_profiles(tmp_path / "0.parquet", parts)
    second = write_profiles(tmp_path / "1.parquet", [(SECOND, list(range(6)), "wild_type_marginal", small)])
    scores = tmp_path / "changes.parquet"
    pd.DataFrame([(PROTEIN, 6, "AK", "A", "masked_pseudo_likelihood", -2.5)], columns=list(CHANGE_SCORES)).to_parquet(
        scores
    )
    wanted = {(PROTEIN, residue) for residue in range(10)} | {(SECOND, residue) for residue in range(6)}
    return read_answers([first, second], [scores], SEQUENCES, wanted), whole, small, masked


def brute_force(profile: np.ndarray, sequence: str) -> np.ndarray:
    """LLRs of all substitutions of standard residues."""
    return np.array(
        [
            profile[place, INDEX_OF[alt]] - profile[place, INDEX_OF[ref]]
            for place, ref in enumerate(sequence)
            if ref in INDEX_OF
            for alt in AMINO_ACIDS
            if alt != ref
        ]
    )


def test_a_substitution_is_the_difference_of_two_entries_and_z_its_place_among_all_of_the_protein(answered):
    answers, whole, small, _ = answered
    for protein, sequence, profile in ((PROTEIN, SEQUENCE, whole), (SECOND, OTHER, small)):
        everything = brute_force(profile, sequence)
        for place, ref in enumerate(sequence):
            if ref not in INDEX_OF or (protein, place) == (PROTEIN, 4):
                continue
            for alt in AMINO_ACIDS.replace(ref, ""):
                llr, z, method = answers.llr(protein, place, ref, alt)
                assert llr == pytest.approx(profile[place, INDEX_OF[alt]] - profile[place, INDEX_OF[ref]], abs=1e-6)
                assert z == pytest.approx((everything.mean() - llr) / everything.std(), abs=1e-5)
                assert method == "wild_type_marginal"


def test_a_masked_profile_gives_the_score_and_the_wild_type_pass_the_spread(answered):
    answers, whole, _, masked = answered
    everything = brute_force(whole, SEQUENCE)
    llr, z, method = answers.llr(PROTEIN, 4, "Y", "C")
    assert llr == pytest.approx(masked[0, INDEX_OF["C"]] - masked[0, INDEX_OF["Y"]], abs=1e-6)
    assert z == pytest.approx((everything.mean() - llr) / everything.std(), abs=1e-5)
    assert method == "masked_marginal"


def test_several_residues_add_up_and_are_compared_with_as_many_substitutions(answered):
    answers, whole, *_ = answered
    everything = brute_force(whole, SEQUENCE)
    llr, z, _ = answers.llr(PROTEIN, 1, "KT", "RS")
    parts = [answers.llr(PROTEIN, 1, "K", "R")[0], answers.llr(PROTEIN, 2, "T", "S")[0]]
    assert llr == pytest.approx(sum(parts))
    assert z == pytest.approx((2 * everything.mean() - llr) / (math.sqrt(2) * everything.std()), abs=1e-5)


def test_a_change_of_length_has_its_own_score_and_no_z(answered):
    llr, z, method = answered[0].llr(PROTEIN, 6, "AK", "A")
    assert (llr, method) == (-2.5, "masked_pseudo_likelihood")
    assert math.isnan(z)


@pytest.mark.parametrize(
    "key", [(PROTEIN, 6, "AK", "AKK"), (SECOND, 3, "U", "C"), (SECOND, 2, "T", "X"), ("x", 0, "M", "V")]
)
def test_what_was_not_answered_is_missing(answered, key):
    llr, z, method = answered[0].llr(*key)
    assert math.isnan(llr)
    assert math.isnan(z)
    assert method == ""


def test_a_model_that_cannot_tell_residues_apart_has_no_z(tmp_path):
    flat = np.full((10, 20), -math.log(20))
    path = write_profiles(tmp_path / "p.parquet", [(PROTEIN, list(range(10)), "wild_type_marginal", flat)])
    answers = read_answers([path], [], SEQUENCES, {(PROTEIN, 0)})
    llr, z, _ = answers.llr(PROTEIN, 0, "M", "V")
    assert llr == 0
    assert math.isnan(z)


def test_only_wanted_profiles_are_kept(tmp_path):
    path = write_profiles(
        tmp_path / "p.parquet", [(PROTEIN, list(range(10)), "wild_type_marginal", random_profile(1, 10))]
    )
    changes = table([change("a", 3, "A", "V"), change("b", 1, "KT", "K"), change("c", None, "", "", "same_protein")])
    answers = read_answers([path], [], SEQUENCES, residues_asked(changes, NO_HAPLOTYPES))
    assert set(answers.profiles) == {(PROTEIN, 3), (PROTEIN, 1), (PROTEIN, 2)}
    everything = brute_force(random_profile(1, 10), SEQUENCE)
    assert answers.spreads[PROTEIN] == pytest.approx((everything.mean(), everything.std()), abs=1e-5)


def test_each_change_has_one_row_with_reason_or_score(answered):
    changes = table(
        [
            change("a", 3, "A", "V"),
            change("b", 5, "I", "*", "stop_or_frameshift"),
            change("c", 3, "U", "C", protein=SECOND),
            change("d", None, "", "", "incomplete_cds", protein=""),
        ]
    )
    frame = protein_evidence(changes, NO_HAPLOTYPES, ALL_PROTEINS, {"esm": answered[0]}, {}, None, None)
    assert frame["variant_id"].tolist() == list("abcd")
    assert frame["protein_status"].tolist() == ["scored", "skipped", "skipped", "skipped"]
    assert frame["protein_reason"].tolist() == ["", "stop_or_frameshift", "not_evaluable_by_model", "incomplete_cds"]
    assert frame["protein_llr.esm"].notna().tolist() == [True, False, False, False]
    assert frame["residue"].tolist()[:3] == [4, 6, 4]
    assert frame["residue"].isna().tolist() == [False, False, False, True]
    assert frame["uniprot"].tolist() == ["P12345", "P12345", "", ""]
    assert frame.loc[0, ["blosum62", "hydrophobicity_change"]].tolist() == pytest.approx([0.0, 4.2 - 1.8])
    p = np.exp(random_profile(1, 10)[3])
    assert frame["protein_entropy.esm"][0] == pytest.approx(-(p * np.log(p)).sum(), abs=1e-5)


def test_without_any_model_a_change_that_could_be_scored_says_so():
    frame = protein_evidence(table([change("a", 3, "A", "V")]), NO_HAPLOTYPES, ALL_PROTEINS, {}, {}, None, None)
    assert frame["protein_reason"].tolist() == ["no_model"]
    assert not [name for name in frame if name.startswith(("protein_llr", "structure_llr", "plddt"))]


def test_features_follow_the_residue_and_their_absence_has_a_reason(answered):
    features = pd.DataFrame(
        [(PROTEIN, residue, "s", "A", residue + 1, 90.0, 0.2, "H", 14, 3, 4, np.nan, 0) for residue in (3, 4)],
        columns=list(RESIDUE_FEATURES),
    )
    structures = pd.DataFrame(
        [(PROTEIN, "Q00001", "found", ""), (SECOND, "", "none", "no_accession")],
        columns=["protein", "accession", "status", "reason"],
    )
    changes = table([change("a", 3, "A", "V"), change("b", 5, "I", "V"), change("c", 4, "W", "C", protein=SECOND)])
    frame = protein_evidence(changes, NO_HAPLOTYPES, ALL_PROTEINS, {}, {"mpnn": answered[0]}, features, structures)
    assert frame["plddt"].tolist()[0] == 90
    assert frame["plddt"].isna().tolist() == [False, True, True]
    assert frame["structure_reason"].tolist() == ["", "not_in_structure", "no_accession"]
    assert frame["uniprot"].tolist() == ["Q00001", "Q00001", ""]


def test_a_structure_model_alone_gives_the_structures_reason(tmp_path):
    path = write_profiles(tmp_path / "p.parquet", [(PROTEIN, [3], "structure_unconditional", random_profile(1, 1))])
    answers = read_answers([path], [], SEQUENCES, {(PROTEIN, 3), (SECOND, 4)})
    features = pd.DataFrame(
        [(PROTEIN, 3, "s", "A", 4, 90.0, 0.2, "H", 14, 3, 4, np.nan, 0)], columns=list(RESIDUE_FEATURES)
    )
    structures = pd.DataFrame(
        [(PROTEIN, "Q00001", "found", ""), (SECOND, "", "none", "no_structure")],
        columns=["protein", "accession", "status", "reason"],
    )
    changes = table([change("a", 3, "A", "V"), change("c", 4, "W", "C", protein=SECOND)])
    frame = protein_evidence(changes, NO_HAPLOTYPES, ALL_PROTEINS, {}, {"mpnn": answers}, features, structures)
    assert frame["protein_reason"].tolist() == ["", "no_structure"]
    assert frame["structure_z.mpnn"].notna().tolist() == [True, False]


def test_alleles_of_one_haplotype_show_their_joint_change(answered):
    changes = table([change("a", 3, "A", "V"), change("b", 3, "A", "D"), change("c", 7, "K", "R")])
    haplotypes = pd.DataFrame(
        [
            ("a+b", "t", PROTEIN, "missense_variant", 3, "A", "F", "p.Ala4Phe", 3),
            ("a+c", "other", SECOND, "missense_variant", 0, "M", "G", "p.Met1Gly", 9),
            ("a+x", "t", PROTEIN, "missense_variant", 3, "A", "G", "p.Ala4Gly", 1),
        ],
        columns=list(PROTEIN_HAPLOTYPES),
    )
    frame = protein_evidence(changes, haplotypes, ALL_PROTEINS, {"esm": answered[0]}, {}, None, None)
    assert frame["haplotype_hgvs_p"].tolist() == ["p.Ala4Phe", "p.Ala4Phe", ""]
    assert frame["haplotype_with"].tolist() == ["b", "a", ""]
    assert frame["haplotype_carriers"].tolist()[:2] == [3, 3]
    assert frame["haplotype_llr.esm"][0] == answered[0].llr(PROTEIN, 3, "A", "F")[0]


def test_the_missense_score_is_that_of_its_model_for_one_residue_in_the_place_of_another(answered):
    names = ("plddt", "relative_solvent_accessibility", "secondary_structure", "contact_number", "half_sphere_up")
    values = (90.0, 0.2, "H", 14.0, 3.0)
    blank = dict.fromkeys(RESIDUE_FEATURES, 0.0) | dict(zip(names, values, strict=True))
    features = pd.DataFrame([blank | {"protein": PROTEIN, "residue": residue} for residue in (3, 6)])
    structures = pd.DataFrame([(PROTEIN, "", "")], columns=["protein", "accession", "reason"])
    changes = table([change("a", 3, "A", "V"), change("b", 6, "AK", "A"), change("c", 3, "A", "A", "same_protein")])
    model = MissenseModel(
        ("llr", "to_proline", "plddt"), *(np.array(v) for v in ((0, 0, 80.0), (1, 1, 2.0), (3, 1, -1.0)))
    )
    frame = protein_evidence(
        changes, NO_HAPLOTYPES, ALL_PROTEINS, {}, {"proteinmpnn": answered[0]}, features, structures, model
    )
    llr = answered[0].llr(PROTEIN, 3, "A", "V")[0]
    assert frame["missense_score"].tolist()[0] == pytest.approx(3 * llr - (90 - 80) / 2)
    assert frame["missense_score"].isna().tolist() == [False, True, True]


@pytest.mark.parametrize(("ref", "alt", "expected"), [("W", "W", (11, 0)), ("D", "E", (2, 0)), ("I", "R", (-3, -9.0))])
def test_substitution_facts(ref, alt, expected):
    assert substitution_facts(ref, alt) == pytest.approx(expected)


@pytest.mark.parametrize(("ref", "alt"), [("U", "C"), ("AK", "A"), ("", "A"), ("A", "*")])
def test_no_facts_where_no_residue_takes_the_place_of_one(ref, alt):
    assert all(map(math.isnan, substitution_facts(ref, alt)))


def test_nothing_that_changes_gives_a_table_without_rows():
    empty = ALL_PROTEINS.iloc[:0]
    frame = protein_evidence(table([]), NO_HAPLOTYPES, empty, {"esm": Answers()}, {}, None, None)
    assert len(frame) == 0
    assert {"variant_id", "protein_llr.esm", "protein_status", "protein_reason"} <= set(frame)


def test_the_script_reads_each_models_shards(tmp_path, answered):
    whole, other = random_profile(1, 10), random_profile(5, 10)
    paths = []
    for model, profile in (("m1", whole), ("m2", other)):
        for shard, rows in enumerate(([], list(range(10)))):
            file = tmp_path / f"{model}.{shard}.parquet"
            paths.append(write_profiles(file, [(PROTEIN, rows, "wild_type_marginal", profile[rows])]))
    empty = [tmp_path / f"{path.name}.changes" for path in paths]
    for path in empty:
        pd.DataFrame([], columns=list(CHANGE_SCORES)).to_parquet(path)
    table([change("a", 3, "A", "V"), change("b", 5, "I", "V")]).to_parquet(tmp_path / "changes.parquet")
    NO_HAPLOTYPES.to_parquet(tmp_path / "haplotypes.parquet")
    ALL_PROTEINS.to_parquet(tmp_path / "proteins.parquet")
    script = Path(__file__).parents[2] / "scripts" / "gather_protein_evidence.py"
    tables = {name: tmp_path / f"{name}.parquet" for name in ("changes", "haplotypes", "proteins")}
    command = [sys.executable, str(script), *(str(x) for name, path in tables.items() for x in (f"--{name}", path))]
    command += ["--protein-models", "m1", "m2", "--profiles", *map(str, paths), "--change-scores", *map(str, empty)]
    subprocess.run([*command, "--output", str(tmp_path / "evidence.parquet")], check=True)
    frame = pd.read_parquet(tmp_path / "evidence.parquet")
    for model, profile in (("m1", whole), ("m2", other)):
        expected = [
            profile[3, INDEX_OF["V"]] - profile[3, INDEX_OF["A"]],
            profile[5, INDEX_OF["V"]] - profile[5, INDEX_OF["I"]],
        ]
        assert frame[f"protein_llr.{model}"].tolist() == pytest.approx(expected, abs=1e-6)
