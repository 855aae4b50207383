"""Structures are read whatever their format and flaws, and only residues that agree with the protein count."""

from __future__ import annotations

import gzip
import random

import numpy as np
import pytest
from protein_builder import SEQUENCE, build, cif_text, globule, pdb_text, write

from seqprior import structures
from seqprior.errors import BadInput
from seqprior.residues import AMINO_ACIDS
from seqprior.structures import align, align_to_protein, best_chain, most_central, plddt, read_chains, read_structure


@pytest.fixture(scope="module")
def protein():
    return globule()


def random_protein(length: int, generator: random.Random) -> str:
    return "".join(generator.choice(AMINO_ACIDS) for _ in range(length))


def edited(text: str, change) -> str:
    """A PDB file with each ATOM line replaced by what `change` makes of it: one line or several."""
    lines = []
    for line in text.splitlines():
        lines += change(line) if line.startswith("ATOM") else [line]
    return "\n".join(lines) + "\n"


# Reading


@pytest.mark.parametrize("name", ["a.pdb", "a.cif", "a.pdb.gz", "a.cif.gz"])
def test_each_format_gives_the_same_structure(tmp_path, protein, name):
    structure = read_structure(write(tmp_path / name, protein))
    assert structure.sequence == SEQUENCE
    assert structure.chain == "A"
    assert structure.numbers.tolist() == list(range(1, 61))
    assert structure.backbone.dtype == np.float32
    for place, atom in enumerate(("N", "CA", "C", "O")):
        expected = protein.coord[protein.atom_name == atom]
        np.testing.assert_allclose(structure.backbone[:, place], expected, atol=2e-3)
    np.testing.assert_allclose(structure.b_factors, 50 + 40 / np.arange(1, 61), atol=0.01)


def test_the_format_is_told_by_the_content_and_not_by_the_name(tmp_path, protein):
    path = tmp_path / "a.pdb"
    path.write_text(cif_text(protein))
    assert read_structure(path).sequence == SEQUENCE


def test_only_the_first_of_several_models_is_read(tmp_path, protein):
    body = pdb_text(protein, end=False)
    other = pdb_text(build("GGGG"), end=False)
    text = f"MODEL        1\n{body}ENDMDL\nMODEL        2\n{other}ENDMDL\nEND\n"
    assert [chain.sequence for chain in read_chains(write(tmp_path / "a.pdb", text))] == [SEQUENCE]


def test_the_chain_that_agrees_with_the_protein_is_taken(tmp_path, protein):
    import biotite.structure as struc

    both = struc.concatenate([build("GAVLIPFMWSTCYNQDEKRH", chain="A"), globule(chain="B")])
    path = write(tmp_path / "a.cif", both)
    chains = read_chains(path)
    assert [chain.chain for chain in chains] == ["A", "B"]
    assert [(chain.offset, chain.total) for chain in chains] == [(0, 80), (20, 80)]
    best, found = best_chain(chains, SEQUENCE)
    assert best.chain == "B" and found.agrees.all()
    assert read_structure(path).chain == "A"
    assert read_structure(path, "B").sequence == SEQUENCE
    with pytest.raises(BadInput, match="no protein chain 'C'; the file has A, B"):
        read_structure(path, "C")


def test_of_alternative_locations_the_most_occupied_counts(tmp_path, protein):
    def doubled(line: str) -> list[str]:
        if line[12:16].strip() != "CA" or int(line[22:26]) != 5:
            return [line]
        rare = f"{line[:16]}A{line[17:30]}{'   0.000' * 3}  0.30{line[60:]}"
        return [rare, f"{line[:16]}B{line[17:54]}  0.70{line[60:]}"]

    structure = read_structure(write(tmp_path / "a.pdb", edited(pdb_text(protein), doubled)))
    assert structure.sequence == SEQUENCE
    np.testing.assert_allclose(structure.backbone[4, 1], protein.coord[protein.atom_name == "CA"][4], atol=2e-3)


def test_water_ligands_and_hydrogens_are_left_out(tmp_path, protein):
    extra = (
        "HETATM 9001  O   HOH A 301      10.000  10.000  10.000  1.00 20.00           O\n"
        "HETATM 9002  C1  GOL A 302      11.000  10.000  10.000  1.00 20.00           C\n"
        "HETATM 9003 ZN    ZN A 303      12.000  10.000  10.000  1.00 20.00          ZN\n"
    )
    hydrogen = "ATOM   9004  HA  MET A   1       1.000   1.000   1.000  1.00 20.00           H\n"
    text = hydrogen + pdb_text(protein, end=False) + extra + "END\n"
    structure = read_structure(write(tmp_path / "a.pdb", text))
    assert structure.sequence == SEQUENCE
    assert set(structure.atoms.element.tolist()) == {"C", "N", "O", "S"}
    assert structure.atoms.array_length() == protein.array_length()


def test_a_modified_residue_counts_as_its_parent(tmp_path, protein):
    def selenium(line: str) -> list[str]:
        if line[17:20] != "MET":
            return [line]
        line = f"HETATM{line[6:17]}MSE{line[20:]}"
        return [line.replace(" SD ", "SE  ").replace("           S", "          SE")]

    structure = read_structure(write(tmp_path / "a.pdb", edited(pdb_text(protein), selenium)))
    assert "MSE" in set(structure.atoms.res_name.tolist())
    assert structure.sequence == SEQUENCE


@pytest.mark.parametrize("form", ["pdb", "cif"])
def test_negative_numbers_and_insertion_codes_lose_no_residue(tmp_path, form):
    atoms = globule(first=-3)
    inserted = (atoms.res_id >= 10) & (atoms.res_id <= 12)
    for number, code in ((10, ""), (11, "A"), (12, "B")):
        atoms.ins_code[atoms.res_id == number] = code
    atoms.res_id[inserted] = 10
    structure = read_structure(write(tmp_path / f"a.{form}", atoms))
    assert structure.sequence == SEQUENCE
    assert structure.numbers[:6].tolist() == [-3, -2, -1, 0, 1, 2]
    assert structure.numbers[13:16].tolist() == [10, 10, 10]


def test_a_residue_without_c_alpha_is_not_in_the_structure_and_other_gaps_are_nan(tmp_path, protein):
    lacking = ((protein.res_id == 7) & (protein.atom_name == "CA")) | (
        (protein.res_id == 9) & (protein.atom_name == "O")
    )
    structure = read_structure(write(tmp_path / "a.cif", protein[~lacking]))
    assert structure.sequence == SEQUENCE[:6] + SEQUENCE[7:]
    assert np.isnan(structure.backbone[7, 3]).all()
    assert np.isnan(structure.backbone).sum() == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pdb", b"", "the file is empty; expected a structure as mmCIF or PDB"),
        ("a.pdb", b"<html>not found</html>\n", "neither mmCIF nor PDB"),
        ("a.cif", b"data_a\n#\n_entry.id a\n#\n", "cannot be read as mmCIF"),
        ("a.pdb.gz", gzip.compress(b"ATOM")[:-9], "the gzip data end early or are damaged"),
    ],
)
def test_what_is_no_structure_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_chains(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BadInput, match="no such file; expected a structure"):
        read_chains(tmp_path / "a.pdb")


@pytest.mark.parametrize("form", ["pdb", "cif"])
def test_a_structure_without_c_alphas_is_refused(tmp_path, protein, form):
    with pytest.raises(BadInput, match="no amino acid with a C-alpha atom"):
        read_chains(write(tmp_path / f"a.{form}", protein[protein.atom_name != "CA"]))


@pytest.mark.parametrize("announced", [True, False])
def test_a_truncated_mmcif_is_refused_wherever_it_is_cut(tmp_path, protein, announced):
    text = cif_text(protein, announced)
    begin, end = text.index("ATOM"), text.rindex("ATOM")
    path = tmp_path / "a.cif"
    line_ends = [place for place in range(begin, end) if text[place] == "\n"]
    for cut in [*range(begin, end, 1009), *line_ends[::40]]:
        path.write_text(text[:cut])
        with pytest.raises(BadInput, match="cut|end before"):
            read_chains(path)
    path.write_text(text)
    assert read_structure(path).sequence == SEQUENCE


def test_an_mmcif_that_no_number_sign_ends_is_complete_if_its_last_residue_is_there(tmp_path, protein):
    text = cif_text(protein, announced=True).rstrip()
    assert text.endswith("#")
    assert read_structure(write(tmp_path / "a.cif", text.removesuffix("#"))).sequence == SEQUENCE


def test_a_truncated_pdb_is_refused_within_a_residue_and_where_residues_are_announced(tmp_path, protein):
    text = pdb_text(protein, end=False)
    lines = text.splitlines(keepends=True)
    atoms = [number for number, line in enumerate(lines) if line.startswith("ATOM")]
    inside = next(number for number in atoms[200:] if lines[number][12:16].strip() == "CA")
    for cut in ("".join(lines[: inside + 1]), "".join(lines[: inside + 9])[:-30]):
        with pytest.raises(BadInput, match="cut|end before"):
            read_chains(write(tmp_path / "a.pdb", cut))
    announced = "SEQRES   1 A   60  MET LYS THR ALA TYR ILE ALA LYS GLN ARG TRP CYS ASP\n" * 5
    first = next(number for number in atoms if int(lines[number][22:26]) == 20)
    with pytest.raises(BadInput, match="end before the last residue"):
        read_chains(write(tmp_path / "a.pdb", announced + "".join(lines[:first])))
    assert read_structure(write(tmp_path / "a.pdb", text)).sequence == SEQUENCE


# Alignment


def test_equal_and_contained_sequences_are_placed_exactly():
    assert align_to_protein(SEQUENCE, SEQUENCE).tolist() == list(range(60))
    inner = align_to_protein(SEQUENCE[15:40], SEQUENCE)
    assert inner.tolist() == [-1] * 15 + list(range(25)) + [-1] * 20
    outer = align_to_protein("GSHM" + SEQUENCE + "HHHHHH", SEQUENCE)
    assert outer.tolist() == list(range(4, 64))


def test_a_polymorphism_has_no_features_and_its_neighbours_have():
    other = SEQUENCE[:30] + ("A" if SEQUENCE[30] != "A" else "G") + SEQUENCE[31:]
    found = align(other, SEQUENCE)
    assert np.flatnonzero(~found.agrees).tolist() == [30]
    assert found.identity == pytest.approx(59 / 60)
    assert found.of_same_protein


def test_unknown_residues_agree_with_nothing():
    masked = SEQUENCE[:20] + "XX" + SEQUENCE[22:]
    for structure, protein in ((masked, masked), (masked, SEQUENCE), (SEQUENCE, masked)):
        assert np.flatnonzero(~align(structure, protein).agrees).tolist() == [20, 21]


def test_an_isoform_agrees_outside_the_exon_that_differs():
    generator = random.Random(3)
    first, exon, last = (random_protein(length, generator) for length in (150, 60, 120))
    tail = random_protein(40, generator)
    skipped = align(first + last, first + exon + last)
    assert skipped.of_same_protein
    assert skipped.agrees.nonzero()[0].tolist() == [*range(150), *range(210, 330)]
    retained = align(first + exon + last, first + last)
    assert retained.index.tolist() == [*range(150), *range(210, 330)]
    swapped = align(first + last, first + tail)
    assert swapped.of_same_protein
    assert swapped.agrees[:150].all()
    assert swapped.agrees[150:].sum() <= 1
    assert swapped.coverage == pytest.approx(150 / 190, abs=0.01)


def test_an_equal_residue_among_others_that_differ_is_chance():
    generator = random.Random(6)
    protein = random_protein(120, generator)
    between = ["A" if letter != "A" else "G" for letter in protein[50:62]]
    between[6] = protein[56]
    found = align(protein[:50] + "".join(between) + protein[62:], protein)
    assert found.index[56] == 56
    assert np.flatnonzero(~found.agrees).tolist() == list(range(50, 62))


def test_other_proteins_and_homologues_are_told_from_the_protein_itself():
    generator = random.Random(5)
    protein = random_protein(300, generator)
    relative = "".join(generator.choice(AMINO_ACIDS) if generator.random() < 0.2 else letter for letter in protein)
    assert not align(random_protein(300, generator), protein).of_same_protein
    assert not align(relative, protein).of_same_protein
    assert not align(protein[:50] + random_protein(250, generator), protein).of_same_protein
    assert not align("ACDEF", protein).of_same_protein
    assert not align("", protein).of_same_protein
    assert align(protein[100:160], protein).of_same_protein
    assert align(protein[:8], protein[:8]).of_same_protein


@pytest.mark.parametrize("largest", [structures.LARGEST_MATRIX, 2_000])
def test_substitutions_insertions_and_deletions_leave_the_places_known(monkeypatch, largest):
    """The truth is kept while a protein is changed. The small limit forces the way that long proteins take."""
    monkeypatch.setattr(structures, "LARGEST_MATRIX", largest)
    generator = random.Random(11)
    kept = total = 0
    for _ in range(15):
        protein = random_protein(400, generator)
        structure, truth = "", []
        for place, letter in enumerate(protein):
            if 60 <= place % 200 < 75:
                truth.append(-1)
                continue
            if place % 133 == 0:
                structure += random_protein(20, generator)
            truth.append(len(structure))
            structure += generator.choice(AMINO_ACIDS) if generator.random() < 0.02 else letter
        expected = np.array([at if at >= 0 and structure[at] == protein[n] else -1 for n, at in enumerate(truth)])
        found = align_to_protein(structure, protein)
        placed = found >= 0
        # Beside a gap the same letter may stand on both sides, so that a place or two cannot be known.
        assert np.count_nonzero(found[placed] != expected[placed]) <= 4
        kept += np.count_nonzero(found[placed] == expected[placed])
        total += np.count_nonzero(expected >= 0)
    assert kept > 0.98 * total


def test_a_protein_of_36000_residues_is_aligned_in_parts():
    generator = random.Random(2)
    protein = random_protein(36_000, generator)
    structure = protein[:9000] + random_protein(15, generator) + protein[10_000:]
    found = align(structure, protein)
    assert found.agrees.sum() >= 34_990
    assert found.index[[0, 8_999, 20_000, 35_999]].tolist() == [0, 8_999, 19_015, 35_014]


def test_each_residue_is_described_by_the_fragment_in_which_it_is_most_central():
    generator = random.Random(4)
    protein = random_protein(90, generator)
    fragments = [(start, protein[start : start + 40]) for start in (0, 20, 50)]
    chosen = most_central([align(piece, protein) for _, piece in fragments], [40] * 3)
    for residue in range(90):
        depths = [min(residue - start, start + 39 - residue) for start, _ in fragments]
        assert chosen[residue] == max(range(3), key=lambda n: (depths[n], -n))
    assert most_central([align(protein[:30], protein)], [30])[30:].tolist() == [-1] * 60


# B-factors


def with_b_factors(tmp_path, atoms, values, experiment=""):
    atoms = atoms.copy()
    atoms.set_annotation("b_factor", np.asarray(values, float))
    header = f"EXPDTA    {experiment}\n" if experiment else ""
    return read_structure(write(tmp_path / "a.pdb", header + pdb_text(atoms)))


def test_b_factors_of_a_prediction_are_plddt(tmp_path, protein):
    values, source = plddt(with_b_factors(tmp_path, protein, protein.b_factor, "THEORETICAL MODEL"))
    np.testing.assert_allclose(values, 50 + 40 / np.arange(1, 61), atol=0.01)
    assert source == "b_factor"


def test_b_factors_from_0_to_1_are_taken_times_100(tmp_path, protein):
    values, source = plddt(with_b_factors(tmp_path, protein, protein.b_factor / 100))
    np.testing.assert_allclose(values, 50 + 40 / np.arange(1, 61), atol=0.6)
    assert source == "b_factor_times_100"


def outwards(protein, step: float) -> np.ndarray:
    side = ~np.isin(protein.atom_name, ("N", "CA", "C", "O", "CB"))
    return 40.0 + np.where(side, step, 0.0) + np.arange(len(side)) % 3


def test_confidence_may_differ_between_atoms_as_in_alphafold_3(tmp_path, protein):
    values, source = plddt(with_b_factors(tmp_path, protein, outwards(protein, -10.0)))
    assert source == "b_factor"
    assert values.shape == (60,)


@pytest.mark.parametrize(
    ("values", "experiment", "reason"),
    [
        (lambda protein: protein.b_factor, "X-RAY DIFFRACTION", "from an experiment"),
        (lambda protein: protein.b_factor, "ELECTRON MICROSCOPY", "from an experiment"),
        (lambda protein: protein.b_factor, "SOLUTION NMR", "from an experiment"),
        (lambda protein: np.zeros(protein.array_length()), "", "all B-factors are 0"),
        (lambda protein: np.full(protein.array_length(), 20.0), "", "all B-factors are 20"),
        (lambda protein: protein.b_factor * 1.5, "", "outside 0 to 100"),
        (lambda protein: protein.b_factor - 60, "", "outside 0 to 100"),
        (lambda protein: outwards(protein, 10.0), "", "rise towards the ends"),
    ],
)
def test_b_factors_that_are_no_plddt_are_told(tmp_path, protein, values, experiment, reason):
    found, said = plddt(with_b_factors(tmp_path, protein, values(protein), experiment))
    assert found is None
    assert reason in said


def test_the_experiment_of_an_mmcif_file_is_seen(tmp_path, protein):
    text = cif_text(protein) + "_exptl.entry_id 1ABC\n_exptl.method 'X-RAY DIFFRACTION'\n#\n"
    structure = read_structure(write(tmp_path / "a.cif", text))
    assert structure.experiment == "X-RAY DIFFRACTION"
    assert plddt(structure)[0] is None


# Real models


def test_alphafold_models_have_the_sequences_of_their_proteins(shared_data):
    from Bio import SeqIO

    paths = sorted((shared_data / "proteins" / "structures").glob("*.pdb.gz"))
    assert paths
    for path in paths:
        record = SeqIO.read(shared_data / "proteins" / "fasta" / f"{path.name.removesuffix('.pdb.gz')}.fasta", "fasta")
        structure = read_structure(path)
        assert structure.sequence == str(record.seq), path.name
        values, source = plddt(structure)
        assert source == "b_factor"
        assert 40 < values.mean() < 95
        with gzip.open(path, "rt") as handle:
            lines = [line for line in handle if line.startswith("ATOM") and line[12:16].strip() == "CA"]
        np.testing.assert_allclose(values, [float(line[60:66]) for line in lines], atol=1e-4)
        np.testing.assert_allclose(
            structure.backbone[:, 1], [[float(line[at : at + 8]) for at in (30, 38, 46)] for line in lines], atol=1e-3
        )
