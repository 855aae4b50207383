"""Panels of the report: what they say of a residue equals the tables, and a structure comes back as it was."""

from __future__ import annotations

import base64
import gzip
import io
import json

import numpy as np
import pandas as pd
import pytest
from protein_run import HOSTILE, MODELS, STRUCTURE_MODELS, ProteinRun, helix, write_pdb, write_profiles

from seqprior import panels
from seqprior.columns import PROTEIN_REASON_TEXT, ProteinReason
from seqprior.errors import BadInput
from seqprior.residues import AMINO_ACIDS, INDEX_OF
from seqprior.structures import align, read_structure


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> ProteinRun:
    return ProteinRun(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def made(run) -> dict:
    return panels.panels_of_run(run.ranked, 50, **run.files)[0]


def test_only_alleles_that_replace_residues_have_a_panel(run, made):
    changing = run.ranked[run.ranked["residue"].notna() & (run.ranked["protein_reason"] == "")]
    assert list(made["panels"]) == changing["variant_id"].tolist() and len(changing) == 12
    few, sources = panels.panels_of_run(run.ranked, 3, **run.files)
    assert list(few["panels"]) == changing["variant_id"].tolist()[:3]
    assert sources == {"alphafold_db": 1}


def test_run_without_proteins_has_no_panel(run):
    bare = run.ranked.drop(columns=["residue", "protein"])
    assert panels.rows_with_panels(bare, 50).empty
    assert panels.panels_of_run(bare, 50, **run.files)[0] is None
    assert panels.panels_of_run(run.ranked.tail(6), 50, **run.files)[0] is None


def test_neighbourhood_and_strips_equal_the_protein_and_its_features(run, made):
    for row in run.ranked.head(12).itertuples():
        panel, sequence = made["panels"][row.variant_id], run.sequences[row.protein]
        start = int(row.residue) - 1
        low, high = max(0, start - 15), min(len(sequence), start + 16)
        assert panel["first"] == low and panel["sequence"] == sequence[low:high] and panel["length"] == len(sequence)
        assert panel["sequence"][panel["start"] - low] == row.residue_ref
        features = run.residues[run.residues["protein"] == row.protein].set_index("residue")
        if features.empty:
            assert (panel["sse"], panel["plddt"], panel["rsa"]) == ("", [], [])
            continue
        for place in range(low, high):
            assert panel["sse"][place - low] == features.at[place, "secondary_structure"]
            assert panel["plddt"][place - low] == round(float(features.at[place, "plddt"]))
            exposed = features.at[place, "relative_solvent_accessibility"]
            assert panel["rsa"][place - low] == pytest.approx(exposed, abs=0.006)


def test_profiles_and_heat_equal_what_the_models_wrote(run, made):
    for row in run.ranked.head(12).itertuples():
        panel, start = made["panels"][row.variant_id], int(row.residue) - 1
        models = [m for m in (*MODELS, *STRUCTURE_MODELS) if row.protein in run.logp[m]]
        assert [profile["model"] for profile in panel["profiles"]] == models
        assert [heat["model"] for heat in panel["heat"]] == models
        for profile, heat in zip(panel["profiles"], panel["heat"], strict=True):
            logp = run.logp[profile["model"]][row.protein]
            assert np.array(profile["logp"]) / panels.SCALE == pytest.approx(logp[start], abs=0.0051)
            assert (profile["ref"], profile["alt"]) == (row.residue_ref, row.residue_alt)
            for column, letter in enumerate(panel["sequence"]):
                place = panel["first"] + column
                llr = [logp[place, other] - logp[place, INDEX_OF[letter]] for other in range(20)]
                assert np.array(heat["llr"][column]) / panels.SCALE == pytest.approx(llr, abs=0.0051)


def test_heat_is_drawn_only_if_the_whole_neighbourhood_has_profiles(tmp_path, run):
    first = next(iter(run.sequences))
    row = run.ranked[run.ranked["protein"] == first].head(1)
    start = int(row["residue"].iloc[0]) - 1
    masked = [(first, start, "masked_marginal", run.logp[MODELS[0]][first][start])]
    files = run.files | {"protein_models": ["m"], "profiles": [write_profiles(tmp_path / "m.parquet", masked)]}
    panel = next(iter(panels.panels_of_run(row, 1, **files)[0]["panels"].values()))
    assert panel["profiles"][0]["method"] == "masked_marginal"
    assert [heat["model"] for heat in panel["heat"]] == list(STRUCTURE_MODELS)


def test_scores_are_those_of_the_row(run, made):
    from seqprior.report import figure

    row = run.ranked.iloc[0]
    scores = made["panels"][row["variant_id"]]["scores"]
    assert [(s["kind"], s["model"]) for s in scores] == [
        *(("protein", model) for model in MODELS),
        *(("structure", model) for model in STRUCTURE_MODELS),
    ]
    for score in scores:
        assert score["llr"] == figure(row[f"{score['kind']}_llr.{score['model']}"])
        assert score["z"] == figure(row[f"{score['kind']}_z.{score['model']}"])


def atoms_of(entry: dict):
    from biotite.structure.io import pdbx

    data = gzip.decompress(base64.b64decode(entry["data"]))
    file = pdbx.BinaryCIFFile.read(io.BytesIO(data))
    return pdbx.get_structure(file, model=1, extra_fields=["b_factor"]), file


def test_embedded_structure_equals_the_file(run, made):
    assert len(made["structures"]) == 1
    entry = made["structures"][0]
    atoms, file = atoms_of(entry)
    sequence = next(iter(run.sequences.values()))
    wanted = helix(sequence)
    assert atoms.atom_name.tolist() == wanted.atom_name.tolist() and atoms.res_name.tolist() == wanted.res_name.tolist()
    assert np.abs(atoms.coord - wanted.coord).max() < 0.011
    assert atoms.res_id.tolist() == wanted.res_id.tolist()
    assert np.abs(atoms.b_factor - wanted.b_factor).max() <= 0.5 and entry["confident"]
    assert entry["sse"].count("H") > 30 and len(entry["sse"]) == len(sequence)
    assert entry["runs"] == [[0, 0, len(sequence)]]
    assert "AlphaFold DB, P00001, version 4" in entry["about"]
    assert "pdbx_struct_oper_list" in file.block  # without it the viewer's reader fails


def test_place_and_neighbours_equal_all_pairs_of_atoms(run, made):
    sequence = next(iter(run.sequences.values()))
    atoms = helix(sequence)
    for row in run.ranked.head(12).itertuples():
        panel = made["panels"][row.variant_id]
        if not row.uniprot:
            assert panel["structure"] is None and panel["near"] == []
            assert PROTEIN_REASON_TEXT[ProteinReason.NO_STRUCTURE] in panel["note"]
            continue
        own = atoms.res_id == row.residue
        distances = np.linalg.norm(atoms.coord[own][:, None] - atoms.coord[None], axis=2).min(axis=0)
        near = sorted(set(atoms.res_id[distances <= panels.NEAR].tolist()) - {row.residue})
        assert panel["structure"] == 0 and panel["place"] == [row.residue - 1]
        assert panel["near"] == [[number - 1, f"{sequence[number - 1]}{number}"] for number in near] and near


def test_structure_of_a_part_is_counted_as_the_protein_counts(tmp_path, run):
    first, sequence = next(iter(run.sequences.items()))
    pdb = write_pdb(sequence[8:40], tmp_path / "part.pdb")
    table = run.structures.head(1).assign(path=str(pdb), paths=[[str(pdb)]])
    features = run.residues[run.residues["residue"].between(8, 39)].assign(structure=pdb.name)
    evidence = panels.Evidence(run.proteins, residues=features, structures=table)
    rows = run.ranked[run.ranked["protein"] == first]
    rows = pd.concat([rows.head(1).assign(residue=residue, variant_id=f"v{residue}") for residue in (4, 20)])
    found = panels.protein_panels(rows, evidence)
    outside, inside = found["panels"]["v4"], found["panels"]["v20"]
    assert outside["structure"] is None and PROTEIN_REASON_TEXT[ProteinReason.NOT_IN_STRUCTURE] in outside["note"]
    assert inside["place"] == [11] and found["structures"][0]["runs"] == [[0, 8, 32]]
    assert all(name == f"{sequence[at + 8]}{at + 9}" for at, name in inside["near"]) and inside["near"]


def test_fragment_that_has_the_residue_is_the_one_that_is_shown(tmp_path, run):
    first, sequence = next(iter(run.sequences.items()))
    parts = {name: write_pdb(sequence[low:high], tmp_path / name) for name, low, high in
             (("AF-X-F1-model_v4.pdb", 0, 30), ("AF-X-F2-model_v4.pdb", 18, 48))}  # fmt: skip
    paths = [str(path) for path in parts.values()]
    table = run.structures.head(1).assign(path=paths[0], paths=[paths], chains=[["A", "A"]])
    names = np.where(run.residues["residue"] < 24, *list(parts))
    evidence = panels.Evidence(run.proteins, residues=run.residues.assign(structure=names), structures=table)
    rows = run.ranked[run.ranked["protein"] == first]
    rows = pd.concat([rows.head(1).assign(residue=residue, variant_id=f"v{residue}") for residue in (20, 40)])
    found = panels.protein_panels(rows, evidence)
    assert [found["panels"][key]["structure"] for key in ("v20", "v40")] == [0, 1]
    assert [found["panels"][key]["place"] for key in ("v20", "v40")] == [[19], [39 - 18]]
    assert "F2" in found["structures"][1]["about"]


def test_structures_beyond_the_bound_are_left_out_with_a_note(monkeypatch, run):
    monkeypatch.setattr(panels, "MAX_STRUCTURES", 100)
    made, _ = panels.panels_of_run(run.ranked, 50, **run.files)
    assert made["structures"] == []
    panel = next(p for p in made["panels"].values() if p["near"])
    assert panel["structure"] is None and "left out of this page" in panel["note"]


def test_structure_that_is_gone_is_bad_input(run):
    table = run.structures.head(1).assign(path="gone.pdb", paths=[["gone.pdb"]])
    evidence = panels.Evidence(run.proteins, residues=None, structures=table)
    with pytest.raises(BadInput, match="gone.pdb: no such file"):
        panels.protein_panels(run.ranked.head(1), evidence)


def test_embedded_structures_are_small(tmp_path):
    sequence = "".join(np.random.default_rng(1).choice(list(AMINO_ACIDS), 500))
    structure = read_structure(write_pdb(sequence, tmp_path / "x.pdb"))
    entry = panels.embedded(structure, align(structure.sequence, sequence), {"protein": "p"})
    assert len(entry["data"]) < 100 * 500  # characters a residue


@pytest.mark.parametrize(
    ("ref", "alt", "count", "alts"),
    [("AC", "GT", 2, ["G", "T"]), ("ACDE", "GTGT", 3, ["G", "T", "G"]), ("AC", "", 2, ["", ""]), ("", "G", 1, [""])],
)
def test_changes_of_several_residues_show_a_profile_each(run, ref, alt, count, alts):
    row = run.ranked.head(1).assign(residue=5, residue_ref=ref, residue_alt=alt)
    panel = next(iter(panels.panels_of_run(row, 1, **run.files)[0]["panels"].values()))
    own = [profile for profile in panel["profiles"] if profile["model"] == MODELS[0]]
    assert [profile["residue"] for profile in own] == list(range(4, 4 + count))
    assert [profile["alt"] for profile in own] == alts


def test_features_are_put_in_words():
    row = {"blosum62": -3.0, "hydrophobicity_change": 5.6, "plddt": 43.2, "relative_solvent_accessibility": 0.04}
    row |= {"secondary_structure": "E", "contact_number": 12, "site_distance": 0.0, "pae_domain": float("nan")}
    words = {label: (value, meaning) for label, value, meaning in panels.feature_rows(row)}
    assert words["BLOSUM62"] == ("−3", "rare among related proteins")
    assert words["Hydrophobicity"] == ("+5.6", "much more hydrophobic")
    assert words["pLDDT"][0] == "43.2" and "disordered" in words["pLDDT"][1]
    assert words["Solvent accessibility"][1] == "buried" and words["Secondary structure"] == ("E", "strand")
    assert words["Contacts"][0] == "12" and words["Site"][1] == "an annotated site itself" and "Domain" not in words


@pytest.mark.parametrize(
    ("plddt", "grade"), [(90, "very high"), (89.9, "high"), (70, "high"), (69, "low"), (50, "low"), (49.9, "very low")]
)
def test_confidence_has_the_grades_of_alphafold_db(plddt, grade):
    assert panels.feature_rows({"plddt": plddt})[0][2].startswith(f"{grade} confidence")


def test_haplotype_is_told():
    row = {"haplotype_hgvs_p": "p.Arg5Leu", "haplotype_with": "a+b", "haplotype_carriers": 1}
    assert panels.haplotype_text(row) == "Together with a and b the change is p.Arg5Leu, on 1 chromosome."
    assert panels.haplotype_text({"haplotype_hgvs_p": pd.NA}) == ""


def test_data_are_plain_json(made):
    assert HOSTILE in json.dumps(made, allow_nan=False)


def test_real_alphafold_model_comes_back_whole(shared_data, tmp_path):
    path = shared_data / "proteins" / "structures" / "CALM1_HUMAN_Weile_2017.pdb.gz"
    structure = read_structure(path)
    entry = panels.embedded(structure, align(structure.sequence, structure.sequence), {"protein": "p"})
    atoms, _ = atoms_of(entry)
    assert np.abs(atoms.coord - structure.atoms.coord).max() < 0.011
    assert entry["runs"] == [[0, 0, len(structure)]] and len(entry["data"]) < 20_000
