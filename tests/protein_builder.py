"""Small proteins with known geometry, built atom by atom, and files of them."""

from __future__ import annotations

import gzip
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

HELIX, STRAND = (-57.0, -47.0), (-120.0, 130.0)  # phi and psi, in degrees
# 60 residues with each of the 20 more than once and no stretch of five that comes twice.
SEQUENCE = "MKTAYIAKQRWCDEFGHILMNPSVTYQWERNDCGHKPLFISAVMTEYWDQRGNKHLCFPS"


def place(a: np.ndarray, b: np.ndarray, c: np.ndarray, length: float, angle: float, torsion: float) -> np.ndarray:
    """The atom after a, b and c, by bond length (Å), bond angle and torsion (degrees)."""
    angle, torsion = np.radians(angle), np.radians(torsion)
    bc = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, bc)
    normal /= np.linalg.norm(normal)
    frame = np.stack([bc, np.cross(normal, bc), normal])
    local = length * np.array([-np.cos(angle), np.sin(angle) * np.cos(torsion), np.sin(angle) * np.sin(torsion)])
    return c + local @ frame


@lru_cache
def _residue(letter: str):
    """Heavy atoms of one amino acid from the chemical component dictionary, and the places of N, CA and C in it."""
    from biotite.sequence import ProteinSequence
    from biotite.structure.info import residue

    atoms = residue(ProteinSequence.convert_letter_1to3(letter))
    atoms = atoms[(atoms.element != "H") & (atoms.atom_name != "OXT")]
    return atoms, [int(np.flatnonzero(atoms.atom_name == name)[0]) for name in ("N", "CA", "C")]


def build(
    sequence: str,
    torsions: Sequence[tuple[float, float]] | tuple[float, float] = HELIX,
    chain: str = "A",
    first: int = 1,
):
    """AtomArray of a protein whose residues have these phi and psi, with side chains and a B-factor of 50 + 40 / n.

    Side chains may overlap: geometry counts, not chemistry.
    """
    import biotite.structure as struc

    if isinstance(torsions[0], float):
        torsions = [torsions] * len(sequence)
    n, ca, c = np.array([0.0, 0, 0]), np.array([1.46, 0, 0]), np.array([2.0, 1.42, 0])
    parts = []
    for number, letter in enumerate(sequence):
        phi, psi = torsions[number]
        if number:
            before = torsions[number - 1][1]
            n_next = place(n, ca, c, 1.329, 116.6, before)
            ca_next = place(ca, c, n_next, 1.458, 121.7, 180.0)
            c_next = place(c, n_next, ca_next, 1.525, 111.0, phi)
            n, ca, c = n_next, ca_next, c_next
        template, frame = _residue(letter)
        atoms = template.copy()
        _, moved = struc.superimpose(np.stack([n, ca, c]), atoms.coord[frame])
        atoms.coord = moved.apply(atoms.coord)
        for name, coordinates in zip(("N", "CA", "C"), (n, ca, c), strict=True):
            atoms.coord[atoms.atom_name == name] = coordinates
        atoms.coord[atoms.atom_name == "O"] = place(n, ca, c, 1.23, 120.5, psi + 180)
        atoms.res_id[:] = first + number
        parts.append(atoms)
    atoms = struc.concatenate(parts)
    atoms.chain_id[:] = chain
    atoms.hetero[:] = False
    atoms.set_annotation("b_factor", np.round(50 + 40 / (atoms.res_id - first + 1), 2))
    atoms.set_annotation("occupancy", np.ones(atoms.array_length()))
    return atoms


def globule(sequence: str = SEQUENCE, seed: int = 7, chain: str = "A", first: int = 1):
    """A protein of helices, strands and turns, so that residues have very different neighbours."""
    generator = np.random.default_rng(seed)
    kinds = [HELIX, STRAND]
    torsions = [
        kinds[number // 8 % 2] if number % 8 else tuple(generator.uniform(-150, 150, 2))
        for number in range(len(sequence))
    ]
    return build(sequence, torsions, chain, first)


def pdb_text(atoms, end: bool = True) -> str:
    from biotite.structure.io.pdb import PDBFile

    file, text = PDBFile(), io.StringIO()
    file.set_structure(atoms)
    file.write(text)
    return text.getvalue() + ("END\n" if end else "")


def cif_text(atoms, announced: bool = False) -> str:
    """An mmCIF file; with `announced` it also lists the residues of its polymer, as files of AlphaFold do."""
    from biotite.structure.io.pdbx import CIFCategory, CIFFile, set_structure

    file, text = CIFFile(), io.StringIO()
    set_structure(file, atoms, data_block="AF-P00001-F1")
    if announced:
        numbers = np.unique(atoms.res_id)
        file.block["entity_poly_seq"] = CIFCategory(
            {"entity_id": np.ones(len(numbers), int), "num": numbers, "mon_id": np.full(len(numbers), "ALA")}
        )
        file.block["atom_site"] = file.block.pop("atom_site")  # last, as in files of AlphaFold DB
    file.write(text)
    return text.getvalue()


def write(path: Path, content) -> Path:
    """Write atoms or text, as PDB or mmCIF by the name, gzip if it ends in .gz."""
    if not isinstance(content, str):
        content = cif_text(content) if ".cif" in path.name else pdb_text(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content.encode()) if path.suffix == ".gz" else content.encode())
    return path
