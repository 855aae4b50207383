"""Features of residues equal those of independent implementations, and each protein gets its best structure."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from protein_builder import HELIX, SEQUENCE, STRAND, build, globule, write

from seqprior.columns import PROTEINS, RESIDUE_FEATURES, STRUCTURES
from seqprior.errors import BadInput
from seqprior.files import sha256
from seqprior.residues import AMINO_ACIDS, protein_id
from seqprior.structure_features import (
    HEAVY_ATOMS,
    LARGEST_SURFACE,
    STRUCTURE_OF_PROTEIN,
    beta_directions,
    describe_protein,
    describe_structures,
    neighbours,
    pae_domains,
    read_pae,
    read_sites,
    read_structure_tables,
    relative_solvent_accessibility,
    residue_features,
    secondary_structure,
    site_distances,
)
from seqprior.structures import read_chains, read_structure


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write(tmp_path_factory.mktemp("structure") / "a.pdb", globule(SEQUENCE * 2))


@pytest.fixture(scope="module")
def structure(path):
    return read_structure(path)


def model_of(path: Path):
    from Bio.PDB import PDBParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PDBParser(QUIET=True).get_structure("a", path)[0]


# Neighbours


def brute_force(structure):
    """Contact number and half spheres by a loop over pairs."""
    central = structure.backbone[:, 1].astype(float)
    beta = beta_directions(structure)
    rows = []
    for i in range(len(central)):
        contacts = up = down = 0
        for j in range(len(central)):
            distance = np.linalg.norm(central[j] - central[i])
            if i == j or distance >= 13:
                continue
            contacts += distance < 10
            angle = np.dot(central[j] - central[i], beta[i]) / distance / np.linalg.norm(beta[i])
            up, down = up + (angle > 0), down + (angle <= 0)
        rows.append((contacts, up, down))
    return np.array(rows, float).T


def test_contact_numbers_and_half_spheres_equal_a_loop_over_pairs(structure):
    found = neighbours(structure)
    for ours, expected in zip(found, brute_force(structure), strict=True):
        assert ours.tolist() == expected.tolist()
    assert np.ptp(found[0]) > 5


def test_neighbours_equal_those_of_biopython(path, structure):
    from Bio.PDB.HSExposure import ExposureCN, HSExposureCB

    model = model_of(path)
    contacts, up, down = neighbours(structure)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = HSExposureCB(model, radius=13.0)
        numbers = ExposureCN(model, radius=10.0)
    assert len(theirs) == len(structure)
    for place, number in enumerate(structure.numbers):
        key = ("A", (" ", int(number), " "))
        assert theirs[key][:2] == (up[place], down[place])
        assert numbers[key] == contacts[place]


def test_half_spheres_are_missing_without_the_atoms_that_give_the_direction(tmp_path):
    atoms = globule()
    lacking = ((atoms.res_id == 20) & np.isin(atoms.atom_name, ("CB", "N"))) | (
        (atoms.res_id == 30) & (atoms.atom_name == "CB")
    )
    structure = read_structure(write(tmp_path / "a.pdb", atoms[~lacking]))
    contacts, up, down = neighbours(structure)
    assert np.flatnonzero(np.isnan(up)).tolist() == np.flatnonzero(np.isnan(down)).tolist() == [19]
    assert np.isfinite(contacts).all()


def test_the_direction_without_c_beta_is_near_the_real_one(tmp_path):
    atoms = globule("A" * 30)
    real = beta_directions(read_structure(write(tmp_path / "a.pdb", atoms)))
    virtual = beta_directions(read_structure(write(tmp_path / "b.pdb", atoms[atoms.atom_name != "CB"])))
    cosines = (real * virtual).sum(axis=1) / np.linalg.norm(real, axis=1) / np.linalg.norm(virtual, axis=1)
    assert cosines.min() > 0.97


# Surface


def test_surfaces_equal_shrake_and_rupley_by_brute_force(tmp_path):
    from biotite.structure.info import vdw_radius_protor

    structure = read_structure(write(tmp_path / "a.pdb", globule(SEQUENCE[:20])))
    atoms = structure.atoms
    radii = np.array([vdw_radius_protor(r, a) for r, a in zip(atoms.res_name, atoms.atom_name, strict=True)]) + 1.4
    turn, height = np.pi * (1 + 5**0.5) * np.arange(1500), 1 - (np.arange(1500) * 2 + 1) / 1500  # golden spiral
    points = np.stack([np.cos(turn), np.sin(turn), height]) * np.stack([np.sqrt(1 - height**2)] * 2 + [np.ones(1500)])
    points = points.T
    surfaces = np.zeros(len(radii))
    for i, (centre, radius) in enumerate(zip(atoms.coord, radii, strict=True)):
        on_sphere = centre + radius * points
        distance = np.linalg.norm(on_sphere[:, None] - atoms.coord[None], axis=2)
        distance[:, i] = np.inf
        surfaces[i] = (distance >= radii).all(axis=1).mean() * 4 * np.pi * radius**2
    expected = np.add.reduceat(surfaces, structure.starts) / [LARGEST_SURFACE[a] for a in structure.sequence]
    np.testing.assert_allclose(relative_solvent_accessibility(structure), expected, atol=0.02)


def test_surfaces_agree_with_those_of_biopython(path, structure):
    from Bio.PDB.SASA import ShrakeRupley

    model = model_of(path)
    ShrakeRupley(n_points=1000).compute(model, level="R")
    theirs = np.array(
        [residue.sasa / LARGEST_SURFACE[letter] for residue, letter in zip(model["A"], structure.sequence, strict=True)]
    )
    ours = relative_solvent_accessibility(structure)
    # Biopython's radii are those of elements, so values differ a little and ranks hardly.
    assert np.corrcoef(ours, theirs)[0, 1] > 0.99
    assert np.abs(ours - theirs).mean() < 0.05


@pytest.mark.parametrize("letter", AMINO_ACIDS)
def test_a_residue_between_two_glycines_is_nearly_all_surface(tmp_path, letter):
    structure = read_structure(write(tmp_path / "a.pdb", build(f"G{letter}G", STRAND)))
    assert 0.75 < relative_solvent_accessibility(structure)[1] < 1.1


def test_a_residue_that_is_none_of_the_20_has_no_relative_surface(tmp_path):
    atoms = globule()
    atoms.res_name[atoms.res_id == 1] = "UNK"
    structure = read_structure(write(tmp_path / "a.pdb", atoms))
    assert structure.sequence[0] == "X"
    assert np.flatnonzero(np.isnan(relative_solvent_accessibility(structure))).tolist() == [0]


def test_a_residue_that_lacks_atoms_has_no_relative_surface(tmp_path):
    atoms = globule()
    lacking = (atoms.res_id == 2) & ~np.isin(atoms.atom_name, ("N", "CA", "C", "O", "CB"))
    structure = read_structure(write(tmp_path / "a.pdb", atoms[~lacking]))
    assert np.flatnonzero(np.isnan(relative_solvent_accessibility(structure))).tolist() == [1]


@pytest.mark.parametrize("letter", AMINO_ACIDS)
def test_complete_residues_have_as_many_heavy_atoms_as_the_dictionary_says(letter):
    assert HEAVY_ATOMS[letter] == build(letter).array_length()


@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize("trace", [False, True])
def test_short_chains_and_traces_of_c_alphas_have_features(tmp_path, length, trace):
    atoms = build(SEQUENCE[:length])
    structure = read_structure(write(tmp_path / "a.cif", atoms[atoms.atom_name == "CA"] if trace else atoms))
    features = residue_features(structure, [0])
    assert {len(values) for values in features.values()} == {length}
    assert features["contact_number"].tolist() == [length - 1.0] * length
    assert np.isnan(features["half_sphere_up"]).all() == trace


# Secondary structure


def test_helices_and_strands_are_recognised(tmp_path):
    torsions = [HELIX] * 16 + [(-60.0, 140.0), (70.0, 20.0), (-80.0, 100.0), (60.0, 30.0)] + [STRAND] * 12
    structure = read_structure(write(tmp_path / "a.pdb", build(SEQUENCE[: len(torsions)], torsions)))
    kinds = "".join(secondary_structure(structure))
    assert len(kinds) == 32
    assert kinds[2:14] == "H" * 12
    assert kinds[22:30] == "E" * 8
    assert set(kinds) == {"H", "E", "C"}


# Sites


def test_site_distances_equal_a_loop_over_atoms(structure):
    sites = [4, 77]
    groups = np.split(structure.atoms.coord, structure.starts[1:])
    expected = [
        min(np.linalg.norm(own[:, None] - groups[site][None], axis=2).min() for site in sites) for own in groups
    ]
    found = site_distances(structure, sites)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found[4] == found[77] == 0
    assert np.isnan(site_distances(structure, [])).all()


def test_sites_are_read_with_their_lines(tmp_path):
    path = write(
        tmp_path / "s.tsv", "name\tresidue\tsite\nP04637\t248\tDNA contact\n\n#x\nTP53\t 175 \tzinc\nP04637\t273\tDNA\n"
    )
    assert read_sites(path) == {"P04637": [(248, 2), (273, 6)], "TP53": [(175, 5)]}


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path):
    path = tmp_path / "s.tsv"
    path.write_bytes(b"\xef\xbb\xbfname\tresidue\tsite\r\nA\t3\tx\r\n")
    assert read_sites(path) == {"A": [(3, 2)]}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("P04637\t" + "9" * 5000 + "\tDNA", "999"),
        ("P04637\tR248\tDNA", "R248"),
        ("P04637\t0\tDNA", "P04637 0"),
        ("P04637 248 DNA", "P04637 248 DNA"),
        ("\t3\tx", " 3 x"),
        ("P04637\t²\tDNA", "²"),
    ],
)
def test_a_bad_line_of_sites_is_named(tmp_path, line, found):
    path = write(tmp_path / "s.tsv", f"name\tresidue\tsite\nA\t1\tx\n{line}\n")
    with pytest.raises(BadInput, match=f"s.tsv, line 3: found '.*{found}.*', expected a name, a residue from 1 on"):
        read_sites(path)


def test_sites_need_their_header(tmp_path):
    with pytest.raises(BadInput, match="line 1: found 'P04637 248 DNA', expected tab-separated name, residue and site"):
        read_sites(write(tmp_path / "s.tsv", "P04637\t248\tDNA\n"))


# Predicted aligned error


def blocks(*lengths: int, linker: int = 0, low: float = 2.0, high: float = 25.0):
    """Errors within and between domains, with a linker after each, and the domain of each residue."""
    labels = np.concatenate(
        [part for number, length in enumerate(lengths) for part in (np.full(length, number), np.full(linker, -1))]
    )
    near = (labels[:, None] == labels[None]) & (labels[:, None] >= 0)
    pae = np.where(near, low, high) + np.random.default_rng(0).uniform(0, 1.5, near.shape)
    np.fill_diagonal(pae, 0)
    return pae, labels


@pytest.mark.parametrize("lengths", [(80,), (60, 90), (120, 40, 70), (30, 30, 30, 30)])
def test_blocks_of_low_error_are_domains_and_linkers_are_none(lengths):
    pae, labels = blocks(*lengths, linker=8)
    assert pae_domains(pae).tolist() == labels.tolist()


def test_domains_may_be_made_of_parts_that_lie_apart():
    pae, _ = blocks(150)
    part = np.isin(np.arange(150), range(50, 90))
    pae[np.ix_(part, ~part)] = pae[np.ix_(~part, part)] = 20
    assert pae_domains(pae).tolist() == part.astype(int).tolist()


def test_domains_of_a_long_protein_end_within_a_few_residues():
    pae, labels = blocks(700, 610, linker=40)
    found = pae_domains(pae)
    assert np.count_nonzero(found != labels) <= 12
    assert set(found.tolist()) == {-1, 0, 1}


def test_small_groups_and_uncertain_proteins_have_no_domain():
    pae, _ = blocks(60, 9)
    assert pae_domains(pae)[60:].tolist() == [-1] * 9
    assert pae_domains(np.full((50, 50), 20.0)).tolist() == [-1] * 50


def test_both_errors_of_a_pair_count():
    pae, labels = blocks(50, 50)
    pae[:50, 50:] = 3  # placed well as seen from the one domain alone
    assert pae_domains(pae).tolist() == pae_domains(pae.T).tolist() == labels.tolist()


def test_domains_do_not_change_from_call_to_call():
    pae = np.random.default_rng(3).uniform(0, 9, (120, 120))
    assert pae_domains(pae).tolist() == pae_domains(pae.copy()).tolist()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return read_structure(write(tmp_path_factory.mktemp("small") / "a.pdb", build(SEQUENCE[:12])))


MATRIX = np.random.default_rng(5).integers(0, 31, (12, 12)).astype(float)


def first_version():
    rows, columns = np.indices(MATRIX.shape) + 1
    return [
        {"residue1": rows.ravel().tolist(), "residue2": columns.ravel().tolist(), "distance": MATRIX.ravel().tolist()}
    ]


def alphafold3():
    """A ligand of two tokens before the protein, and a modified residue with three tokens as its fourth."""
    place = [-1, -1, 0, 1, 2, 3, 3, 3, *range(4, 12)]
    pae = [[MATRIX[i, j] if i >= 0 and j >= 0 else 30.0 for j in place] for i in place]
    kept = {2, 3, 4, 5, *range(8, 16)}
    for i in range(16):
        for j in range(16):
            if i not in kept or j not in kept:
                pae[i][j] = 31.0
    return {"pae": pae, "token_chain_ids": ["B"] * 2 + ["A"] * 14, "token_res_ids": [1, 1, *(p + 1 for p in place[2:])]}


@pytest.mark.parametrize(
    "content",
    [
        [{"predicted_aligned_error": MATRIX.tolist(), "max_predicted_aligned_error": 31.75}],
        {"predicted_aligned_error": MATRIX.tolist()},
        first_version(),
        alphafold3(),
        {"plddt": [90.0] * 12, "pae": MATRIX.tolist(), "ptm": 0.9},
    ],
    ids=["alphafold-db", "colab", "alphafold-db-1", "alphafold3", "colabfold"],
)
@pytest.mark.parametrize("suffix", ["json", "json.gz"])
def test_predicted_aligned_errors_of_all_programs_are_read(tmp_path, small, content, suffix):
    path = write(tmp_path / f"pae.{suffix}", json.dumps(content))
    np.testing.assert_array_equal(read_pae(path, small), MATRIX)


def test_of_a_complex_the_part_of_the_chain_is_taken(tmp_path):
    import biotite.structure as struc

    both = struc.concatenate([build(SEQUENCE[:5], chain="A"), build(SEQUENCE[20:32], chain="B")])
    chain = read_chains(write(tmp_path / "a.pdb", both))[1]
    whole = np.full((17, 17), 30.0)
    whole[5:, 5:] = MATRIX
    path = write(tmp_path / "pae.json", json.dumps({"pae": whole.tolist()}))
    np.testing.assert_array_equal(read_pae(path, chain), MATRIX)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps([{"predicted_aligned_error": MATRIX.tolist()}])[:-40], "no complete JSON"),
        (json.dumps({"plddt": [1.0]}), "no predicted aligned error of AlphaFold or ColabFold"),
        (json.dumps([]), "no predicted aligned error of AlphaFold or ColabFold"),
        (json.dumps({"pae": [[1.0, 2.0]]}), "no predicted aligned error of AlphaFold or ColabFold"),
        (json.dumps({"pae": [[1.0, None], [1.0, 2.0]]}), "no predicted aligned error of AlphaFold or ColabFold"),
        (json.dumps({"pae": MATRIX[:7, :7].tolist()}), "of 7 residues, while .* has 12"),
    ],
)
def test_a_predicted_aligned_error_that_does_not_fit_is_refused(tmp_path, small, content, message):
    with pytest.raises(BadInput, match=message):
        read_pae(write(tmp_path / "pae.json", content), small)


# The structure of a protein


def protein_row(sequence: str = SEQUENCE, **other: str) -> dict[str, str]:
    row = {
        "protein": protein_id(sequence),
        "sequence": sequence,
        "transcripts": "T1.2",
        "genes": "G1",
        "accessions": "P00001",
    }
    return row | other


def structure_row(path: Path, sequence: str = SEQUENCE, **other: str) -> dict[str, str]:
    row = dict.fromkeys(STRUCTURES, "") | {"protein": protein_id(sequence), "source": "folder", "path": str(path)}
    return row | {"sha256": sha256(path)} | other


def test_features_are_those_of_the_agreeing_residues_under_their_place_in_the_protein(tmp_path):
    other = "GSH" + SEQUENCE[5:30] + "W" + SEQUENCE[31:]
    path = write(tmp_path / "x.cif.gz", globule(other, first=-2))
    features, summary = describe_protein(protein_row(), [structure_row(path)], {})
    expected = residue_features(read_structure(path))
    kept = [n for n in range(3, len(other)) if n != 28]
    assert list(features) == list(RESIDUE_FEATURES)
    assert features["residue"].tolist() == [n + 2 for n in kept]
    assert features["number"].tolist() == [n - 2 for n in kept]
    assert set(features["structure"]) == {"x.cif.gz"} and set(features["chain"]) == {"A"}
    for name, values in expected.items():
        np.testing.assert_array_equal(features[name], values[kept])
    assert summary["status"] == "scored" and summary["reason"] == ""
    assert summary["identity"] == pytest.approx(54 / 55)
    assert summary["coverage"] == pytest.approx(54 / 60)
    assert summary["residues"] == 54
    assert summary["mean_plddt"] == pytest.approx(expected["plddt"][kept].mean())


def test_the_best_of_several_structures_is_taken(tmp_path):
    def low(atoms, factor):
        atoms.b_factor *= factor
        return atoms

    short = write(tmp_path / "a_short.pdb", globule(SEQUENCE[:40]))
    poor = write(tmp_path / "b_poor.pdb", low(globule(), 0.5))
    good = write(tmp_path / "c_good.pdb", globule())
    same = write(tmp_path / "d_same.pdb", globule())
    mutant = write(tmp_path / "e_mutant.pdb", globule(SEQUENCE[:20] + "WWWW" + SEQUENCE[24:]))
    other = write(tmp_path / "0_other.pdb", globule(SEQUENCE[::-1]))
    everything = [other, short, poor, good, same, mutant]
    order = [good, same, poor, short, mutant]
    for left in range(len(order)):
        files = [path for path in everything if path not in order[:left]]
        for arranged in (files, files[::-1]):
            _, summary = describe_protein(protein_row(), [structure_row(path) for path in arranged], {})
            assert summary["path"] == str(order[left])


def test_a_whole_structure_with_a_polymorphism_wins_over_a_part_without(tmp_path):
    generator = random.Random(1)
    sequence = "".join(generator.choice(AMINO_ACIDS) for _ in range(220))
    changed = sequence[:100] + ("A" if sequence[100] != "A" else "G") + sequence[101:]
    whole = write(tmp_path / "whole.pdb", build(changed))
    part = write(tmp_path / "part.pdb", build(sequence[:120]))
    rows = [structure_row(path, sequence) for path in (part, whole)]
    assert describe_protein(protein_row(sequence), rows, {})[1]["path"] == str(whole)


def test_a_structure_of_another_protein_is_refused(tmp_path, caplog):
    path = write(tmp_path / "x.pdb", globule(SEQUENCE[::-1]))
    features, summary = describe_protein(protein_row(), [structure_row(path)], {})
    assert features is None
    assert (summary["status"], summary["reason"]) == ("skipped", "structure_of_other_protein")
    assert summary["path"] == "" and summary["residues"] == 0
    assert "x.pdb: structure of another protein than" in caplog.text


def test_another_isoform_gives_what_agrees_and_is_reported(tmp_path, caplog):
    path = write(tmp_path / "x.pdb", build(SEQUENCE[:45] + "AGAGAGAGAGAGAGA"))
    features, summary = describe_protein(protein_row(), [structure_row(path)], {})
    assert features["residue"].tolist() == list(range(45))
    assert summary["reason"] == ""
    assert "agrees with 45 of 60 residues" in caplog.text and "isoform" in caplog.text


def test_a_protein_without_a_file_keeps_its_reason():
    row = dict.fromkeys(STRUCTURES, "") | {"protein": protein_id(SEQUENCE), "reason": "no_accession"}
    assert describe_protein(protein_row(), [row], {})[1]["reason"] == "no_accession"
    assert describe_protein(protein_row(), [], {})[1]["reason"] == "no_structure"


def test_b_factors_that_are_no_plddt_leave_it_empty_and_keep_the_geometry(tmp_path, caplog):
    atoms = globule()
    atoms.b_factor[:] = 0
    features, summary = describe_protein(protein_row(), [structure_row(write(tmp_path / "x.pdb", atoms))], {})
    assert np.isnan(features["plddt"]).all() and np.isnan(summary["mean_plddt"])
    assert np.isfinite(features["contact_number"]).all()
    assert summary["plddt_source"] == "" and summary["status"] == "scored"
    assert "B-factors are no pLDDT: all B-factors are 0" in caplog.text


@pytest.mark.parametrize("change", ["other bytes", "gone"])
def test_a_structure_that_changed_since_it_was_found_is_refused(tmp_path, change):
    path = write(tmp_path / "x.pdb", globule())
    row = structure_row(path)
    path.unlink() if change == "gone" else path.write_text(path.read_text() + "\n")
    with pytest.raises(BadInput, match="gone or changed since it was found; run fetch_structures again"):
        describe_protein(protein_row(), [row], {})


def test_fragments_are_joined_by_the_one_in_which_a_residue_is_most_central(tmp_path):
    generator = random.Random(9)
    sequence = "".join(generator.choice(AMINO_ACIDS) for _ in range(100))
    starts, rows, expected = (0, 30, 60), [], []
    for number, start in enumerate(starts, start=1):
        path = write(tmp_path / f"AF-P00001-F{number}-model_v6.cif", globule(sequence[start : start + 40], seed=number))
        rows.append(structure_row(path, sequence, source="alphafold_db"))
        expected.append(residue_features(read_structure(path)))
    features, summary = describe_protein(protein_row(sequence), rows, {})
    assert features["residue"].tolist() == list(range(100))
    assert summary["paths"] == [row["path"] for row in rows] and summary["chains"] == ["A"] * 3
    assert summary["sha256"] == [row["sha256"] for row in rows]
    for residue in range(100):
        depth = [min(residue - start, start + 39 - residue) for start in starts]
        best = max(range(3), key=lambda n: (depth[n], -n))
        assert features["structure"][residue] == f"AF-P00001-F{best + 1}-model_v6.cif"
        assert features["contact_number"][residue] == expected[best]["contact_number"][residue - starts[best]]
        assert features["plddt"][residue] == expected[best]["plddt"][residue - starts[best]]


def test_domains_that_the_ends_of_fragments_cut_are_joined(tmp_path):
    """Domains of 25 residues with a linker after the second, in fragments of 60 that begin every 20 residues."""
    generator = random.Random(9)
    sequence = "".join(generator.choice(AMINO_ACIDS) for _ in range(160))
    truth = np.repeat([0, 1, -1, 2, 3, 4, 5], [25, 25, 10, 25, 25, 25, 25])
    near = (truth[:, None] == truth[None]) & (truth >= 0)
    pae, rows = np.where(near, 2.0, 25.0), []
    for number, start in enumerate(range(0, 101, 20), start=1):
        part = slice(start, start + 60)
        path = write(tmp_path / f"AF-P00001-F{number}-model_v6.cif", globule(sequence[part], seed=number))
        error = write(tmp_path / f"pae{number}.json", json.dumps({"pae": pae[part, part].tolist()}))
        rows.append(structure_row(path, sequence, pae=str(error)))
    features, _ = describe_protein(protein_row(sequence), rows, {})
    assert features["pae_domain"].tolist() == truth.tolist()
    assert np.isnan(
        describe_protein(protein_row(sequence), [row | {"pae": ""} for row in rows], {})[0]["pae_domain"]
    ).all()


@pytest.mark.parametrize("name", ["P00001", "G1", "T1.2", "T1", protein_id(SEQUENCE)])
def test_sites_go_by_any_name_of_the_protein(tmp_path, name):
    path = write(tmp_path / "x.pdb", globule())
    features, _ = describe_protein(protein_row(), [structure_row(path)], {name: [(11, 2)], "other": [(1, 3)]})
    np.testing.assert_array_equal(features["site_distance"], site_distances(read_structure(path), [10]))


def test_sites_of_an_accession_count_along_the_databases_sequence(tmp_path):
    """The transcript lacks the first ten residues of the canonical sequence, along which UniProt numbers sites."""
    path = write(tmp_path / "AF-P00001-F1-model_v6.cif", globule())
    isoform = SEQUENCE[10:]
    row = structure_row(path, isoform, source="alphafold_db", accession="P00001")
    for sites, place in (({"P00001": [(21, 2)]}, 20), ({"G1": [(21, 2)]}, 30)):
        features, _ = describe_protein(protein_row(isoform), [row], sites)
        expected = site_distances(read_structure(path), [place])
        np.testing.assert_array_equal(features["site_distance"], expected[10:])


def test_a_site_beyond_the_protein_is_reported(tmp_path, caplog):
    path = write(tmp_path / "x.pdb", globule())
    features, _ = describe_protein(protein_row(), [structure_row(path)], {"G1": [(61, 7)]})
    assert np.isnan(features["site_distance"]).all()
    assert "line 7: residue 61 of G1 is beyond the 60 residues" in caplog.text


# Tables


def test_the_script_writes_one_row_for_each_agreeing_residue_and_each_protein(tmp_path):
    """Two tables, of structures found and folded; one protein in neither."""
    second, third = SEQUENCE[::-1], SEQUENCE[30:] + SEQUENCE[:30]
    proteins = pd.DataFrame([protein_row(), protein_row(second), protein_row(third, accessions="")])[list(PROTEINS)]
    proteins.to_parquet(tmp_path / "proteins.parquet")
    found = [
        structure_row(write(tmp_path / "x.pdb", globule())),
        structure_row_without(second),
        structure_row_without(third),
    ]
    folded = [structure_row(write(tmp_path / "y.pdb.gz", globule(second)), second, source="esmfold", version="1")]
    for name, rows in (("found", found), ("folded", folded)):
        pd.DataFrame(rows)[list(STRUCTURES)].to_csv(tmp_path / f"{name}.tsv", sep="\t", index=False)
    sites = write(tmp_path / "sites.tsv", "name\tresidue\tsite\nG1\t3\tactive\n")
    script = Path(__file__).resolve().parents[2] / "scripts" / "describe_structures.py"
    command = [sys.executable, script, "--proteins", tmp_path / "proteins.parquet", "--tables", tmp_path / "found.tsv"]
    command += [
        tmp_path / "folded.tsv",
        "--sites",
        sites,
        "--residues",
        tmp_path / "r.parquet",
        "--structures",
        tmp_path / "s.parquet",
    ]
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    residues, structures = pd.read_parquet(tmp_path / "r.parquet"), pd.read_parquet(tmp_path / "s.parquet")
    assert tuple(residues.columns) == RESIDUE_FEATURES
    assert residues.groupby("protein", sort=False).size().to_dict() == {
        protein_id(SEQUENCE): 60,
        protein_id(second): 60,
    }
    assert residues["pae_domain"].isna().all() and residues["site_distance"].notna().all()
    assert residues["secondary_structure"].isin(["H", "E", "C"]).all()
    assert tuple(structures.columns) == STRUCTURE_OF_PROTEIN
    assert structures["protein"].tolist() == proteins["protein"].tolist()
    assert structures["reason"].tolist() == ["", "", "no_structure"]
    assert structures["source"].tolist() == ["folder", "esmfold", ""]
    assert structures["paths"].map(list).tolist() == [[str(tmp_path / "x.pdb")], [str(tmp_path / "y.pdb.gz")], []]


def structure_row_without(sequence: str) -> dict[str, str]:
    return dict.fromkeys(STRUCTURES, "") | {"protein": protein_id(sequence), "reason": "no_structure"}


def test_a_table_without_a_column_is_refused(tmp_path):
    path = write(tmp_path / "t.tsv", "protein\tpath\nx\ty\n")
    with pytest.raises(BadInput, match="line 1: no column 'accession'; make the table with fetch_structures.py"):
        read_structure_tables([path])


def test_nothing_is_written_when_a_structure_is_damaged(tmp_path):
    path = write(tmp_path / "x.pdb.gz", globule())
    path.write_bytes(gzip.compress(b"ATOM  nonsense\n"))
    table = pd.DataFrame([structure_row(path)])
    with pytest.raises(BadInput, match="cannot be read as PDB"):
        describe_structures(pd.DataFrame([protein_row()]), table, {}, tmp_path / "r.parquet", tmp_path / "s.parquet")
    assert list(tmp_path.glob("*.parquet")) == [] and list(tmp_path.glob(".partial*")) == []


# Real models


def test_features_of_alphafold_models_agree_with_biopython(shared_data):
    from Bio.PDB import PDBParser
    from Bio.PDB.SASA import ShrakeRupley

    path = shared_data / "proteins" / "structures" / "RASH_HUMAN_Bandaru_2017.pdb.gz"
    structure = read_structure(path)
    with gzip.open(path, "rt") as handle:
        model = PDBParser(QUIET=True).get_structure("a", handle)[0]
    ShrakeRupley(n_points=1000).compute(model, level="R")
    theirs = np.array(
        [residue.sasa / LARGEST_SURFACE[letter] for residue, letter in zip(model["A"], structure.sequence, strict=True)]
    )
    features = residue_features(structure, [11])
    assert np.corrcoef(features["relative_solvent_accessibility"], theirs)[0, 1] > 0.99
    for ours, expected in zip(neighbours(structure), brute_force(structure), strict=True):
        assert ours.tolist() == expected.tolist()
    kinds = "".join(features["secondary_structure"])
    # The P-loop GTPase fold: strand 1 (residues 2-9), helix 1 (16-25), helix 5 (152-166).
    assert kinds[1:8].count("E") >= 5 and kinds[16:24].count("H") >= 7 and kinds[152:164].count("H") >= 11


def test_a_predicted_aligned_error_that_is_gone_is_named(tmp_path, structure):
    with pytest.raises(BadInput, match="pae.json: the predicted aligned error is gone since its structure was found"):
        read_pae(tmp_path / "pae.json", structure)
