"""Profiles of residues: read from shards, and the LLRs, spread and z that follow."""

from __future__ import annotations

import numpy as np
import pytest
from protein_run import log_softmax, write_profiles

from seqprior import profiles
from seqprior.errors import BadInput
from seqprior.profiles import by_model, read_profiles
from seqprior.residues import AMINO_ACIDS, INDEX_OF

SEQUENCE = "MKTAYIAKQUR"  # U is none of the 20


@pytest.fixture
def values():
    return log_softmax(np.random.default_rng(5).normal(0, 2, (len(SEQUENCE), 20)))


def test_llr_mean_and_z_equal_a_loop_over_substitutions(tmp_path, values):
    rows = [("p", residue, "wild_type_marginal", values[residue]) for residue in range(len(SEQUENCE))]
    path = write_profiles(tmp_path / "1.parquet", [*rows[::2], *rows[1::2]])
    profile = dict(read_profiles([path], {"p": SEQUENCE}))["p"]
    llrs = {
        (place, alt): values[place, INDEX_OF[alt]] - values[place, INDEX_OF[ref]]
        for place, ref in enumerate(SEQUENCE)
        for alt in AMINO_ACIDS
        if ref in INDEX_OF and alt != ref
    }
    mean, sd = np.mean(list(llrs.values())), np.std(list(llrs.values()))
    assert profile.spread() == pytest.approx((mean, sd), rel=1e-5)
    for (place, alt), llr in llrs.items():
        assert profile.llr()[place, INDEX_OF[alt]] == pytest.approx(llr, abs=1e-5)
        assert profile.z()[place, INDEX_OF[alt]] == pytest.approx((mean - llr) / sd, abs=1e-4)
    assert np.isnan(profile.llr()[SEQUENCE.index("U")]).all()


def test_z_equals_that_of_the_protein_evidence(tmp_path, values):
    from seqprior.protein_evidence import read_answers

    masked = log_softmax(np.random.default_rng(6).normal(0, 2, 20))
    rows = [("p", residue, "wild_type_marginal", values[residue]) for residue in range(len(SEQUENCE))]
    path = write_profiles(tmp_path / "p.parquet", [*rows, ("p", 3, "masked_marginal", masked)])
    answers = read_answers([path], [], {"p": SEQUENCE}, {("p", 3), ("p", 4)})
    profile = dict(read_profiles([path], {"p": SEQUENCE}))["p"]
    for place, method in ((3, "masked_marginal"), (4, "wild_type_marginal")):
        llr, z, found = answers.llr("p", place, SEQUENCE[place], "W")
        assert found == profile.method(place) == method
        assert profile.llr()[place, INDEX_OF["W"]] == pytest.approx(llr, abs=1e-5)
        assert profile.z()[place, INDEX_OF["W"]] == pytest.approx(z, abs=1e-4)


def test_masked_profile_is_the_evidence_and_the_other_stays(tmp_path, values):
    masked = log_softmax(np.arange(20.0))
    rows = [("p", 3, "masked_marginal_tiled", masked), ("p", 3, "wild_type_marginal_tiled", values[3])]
    for order in (rows, rows[::-1]):
        profile = dict(read_profiles([write_profiles(tmp_path / "p.parquet", order)], {"p": SEQUENCE}))["p"]
        assert np.allclose(profile.logp[3], masked, atol=1e-5) and np.allclose(profile.whole[3], values[3], atol=1e-5)
        assert profile.method(3) == "masked_marginal_tiled" and profile.method(2) == ""


def test_profiles_that_are_all_alike_have_no_z(tmp_path):
    rows = [("p", residue, "m", np.full(20, -np.log(20))) for residue in range(len(SEQUENCE))]
    profile = dict(read_profiles([write_profiles(tmp_path / "p.parquet", rows)], {"p": SEQUENCE}))["p"]
    assert np.isnan(profile.spread()[1]) and np.isnan(profile.z()).all()


def test_other_proteins_are_left_out(tmp_path, values):
    path = write_profiles(tmp_path / "p.parquet", [("p", 0, "m", values[0]), ("other", 900, "m", values[1])])
    assert list(dict(read_profiles([path], {"p": SEQUENCE}))) == ["p"]


def test_profiles_of_another_run_are_bad_input(tmp_path, values):
    path = write_profiles(tmp_path / "p.parquet", [("p", 40, "m", values[0])])
    with pytest.raises(BadInput, match="profile of residue 41 of protein p, which has 11"):
        dict(read_profiles([path], {"p": SEQUENCE}))
    path = write_profiles(tmp_path / "short.parquet", [("p", 0, "m", values[0][:19])])
    with pytest.raises(BadInput, match="other than 20 residues"):
        dict(read_profiles([path], {"p": SEQUENCE}))


def test_table_without_profiles_is_bad_input(tmp_path):
    import pandas as pd

    pd.DataFrame({"protein": ["p"], "residue": [0]}).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(BadInput, match="no column logp, method"):
        dict(read_profiles([tmp_path / "p.parquet"], {"p": SEQUENCE}))


def test_a_protein_in_two_places_is_bad_input(tmp_path, values):
    paths = [write_profiles(tmp_path / f"{n}.parquet", [("p", n, "m", values[n])]) for n in range(2)]
    with pytest.raises(BadInput, match="protein p stands in several places"):
        dict(read_profiles(paths, {"p": SEQUENCE}))


def test_proteins_are_read_one_at_a_time_whatever_the_size_of_batches(tmp_path, values, monkeypatch):
    monkeypatch.setattr(profiles, "ROWS", 4)
    names = [f"p{number}" for number in range(5)]
    rows = [(name, residue, "m", values[residue]) for name in names for residue in range(len(SEQUENCE))]
    path = write_profiles(tmp_path / "p.parquet", rows)
    found = list(read_profiles([path], dict.fromkeys(names, SEQUENCE)))
    assert [name for name, _ in found] == names
    assert all(np.allclose(profile.logp, values, atol=1e-5) for _, profile in found)


def test_shards_go_to_their_model(tmp_path, values):
    sequences = {"p": SEQUENCE, "q": SEQUENCE}
    paths = [write_profiles(tmp_path / f"{n}.parquet", [("pq"[n % 2], n, "m", values[n])]) for n in range(4)]
    found = by_model(["a", "b"], paths, sequences, "--profiles")
    answered = {(m, p): [n for n in range(4) if found[m][p].method(n)] for m in "ab" for p in "pq"}
    assert answered == {("a", "p"): [0], ("a", "q"): [1], ("b", "p"): [2], ("b", "q"): [3]}
    with pytest.raises(BadInput, match="3 tables of 2 models"):
        by_model(["a", "b"], paths[:3], sequences, "--profiles")
    assert by_model([], [], sequences, "--profiles") == {}
