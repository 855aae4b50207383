"""Structures of proteins: read from mmCIF or PDB, aligned to the protein that a transcript encodes.

A structure serves a protein only where their residues agree, so everything else counts residues of the protein and asks
`align_to_protein` which residue of the structure stands for each.
"""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seqprior.errors import BadInput
from seqprior.files import is_gzip, require_file

if TYPE_CHECKING:
    from biotite.structure import AtomArray

BACKBONE = ("N", "CA", "C", "O")
MIN_IDENTITY = 0.9  # of the aligned residues that are equal; below, the structure is of another protein
MIN_SHARE = 0.3  # of the shorter sequence's residues that agree; below, what is aligned may be chance
MIN_AGREEING = 10  # residues, or the whole of a shorter sequence
# Scores of the alignment. Where the two differ altogether over more than about twelve residues, as in an exon that only
# one of two isoforms has, they are not aligned. Gaps cost the same however long, since exons have no typical length.
MATCH, MISMATCH, GAP = 1.0, -1.0, -6.0
NEIGHBOURS = 5  # aligned places on each side that have to confirm an equal residue
LARGEST_MATRIX = 25_000_000  # cells of an alignment; larger ones are cut at stretches that both sequences have once
ANCHOR = 12  # residues of such a stretch
EXPERIMENTS = ("DIFFRACTION", "MICROSCOPY", "NMR", "SCATTERING", "CRYSTALLOGRAPHY", "SPECTROSCOPY")
NOT_STANDARD = "X"


@dataclass(frozen=True)
class Structure:
    """One chain of a structure, without hydrogens and without residues that have no C-alpha.

    Attributes:
        path: file. chain: the authors' chain.
        sequence: one letter a residue, N of them; the parent's for a modified one.
        numbers: (N,) int, the authors' residue numbers, which may be negative or repeat with insertion codes.
        backbone: float32 (N, 4, 3) in Å, the atoms N, CA, C, O; NaN for those that are missing.
        b_factors: float32 (N,), of each C-alpha, as in the file.
        atoms: biotite AtomArray of all heavy atoms, residue by residue, with the annotation b_factor.
        starts: (N,) int, index of each residue's first atom.
        experiment: how it was determined, as the file says; empty for a prediction or where nothing is said.
        offset: number of residues of the file's chains before this one, which tells its part of a matrix of all chains.
        total: number of residues of all chains.
    """

    path: Path
    chain: str
    sequence: str
    numbers: np.ndarray
    backbone: np.ndarray
    b_factors: np.ndarray
    atoms: AtomArray = field(repr=False)
    starts: np.ndarray = field(repr=False)
    experiment: str = ""
    offset: int = 0
    total: int = 0

    def __len__(self) -> int:
        return len(self.sequence)


@dataclass(frozen=True)
class Alignment:
    """A structure's residues against a protein's.

    Attributes:
        index: (length of the protein,) int, the structure's residue at each place, -1 for none.
        agrees: likewise bool, whether that residue is equal and those around it confirm the place.
        share: of the shorter sequence, how many of its residues agree.
    """

    index: np.ndarray
    agrees: np.ndarray
    share: float

    @property
    def identity(self) -> float:
        """Share of the aligned residues that agree; 0 if none is aligned."""
        aligned = np.count_nonzero(self.index >= 0)
        return float(np.count_nonzero(self.agrees) / aligned) if aligned else 0.0

    @property
    def coverage(self) -> float:
        """Share of the protein's residues that agree."""
        return float(self.agrees.mean()) if self.agrees.size else 0.0

    @property
    def of_same_protein(self) -> bool:
        """Whether the structure is that of the protein, of an isoform of it or of a part of it."""
        enough = np.count_nonzero(self.agrees) >= MIN_AGREEING or self.coverage == 1.0
        return bool(enough and self.identity >= MIN_IDENTITY and self.share >= MIN_SHARE)


def read_structure(path: Path, chain: str | None = None) -> Structure:
    """One chain of a structure, the first with amino acids unless `chain` names another.

    Raises:
        BadInput: as `read_chains`, or there is no such chain.
    """
    chains = read_chains(path)
    if chain is None:
        return chains[0]
    for structure in chains:
        if structure.chain == chain:
            return structure
    known = ", ".join(structure.chain for structure in chains)
    raise BadInput(f"{path}: no protein chain {chain!r}; the file has {known}; name one of them")


def read_chains(path: Path) -> list[Structure]:
    """Every chain of amino acids of the first model of an mmCIF or PDB file, gzip or not, in the file's order.

    Of alternative locations the one with the highest occupancy is taken. Modified residues count as their parent.
    Water, ligands and hydrogens are left out.

    Raises:
        BadInput: the file is empty, cut or damaged, neither mmCIF nor PDB, or has no C-alpha of an amino acid.
    """
    return parse_chains(_content(Path(path)), Path(path))


def parse_chains(text: str, path: Path) -> list[Structure]:
    """As `read_chains`, of a file's text; `path` is what errors and the structures name."""
    kind = _kind(text, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # biotite's remarks on elements it guesses
        try:
            atoms, experiment, whole = (_read_cif if kind == "mmCIF" else _read_pdb)(text)
        except _damage() as error:
            raise BadInput(
                f"{path}: cannot be read as {kind} ({type(error).__name__}: {error}); the file may be cut; copy or"
                " fetch it again"
            ) from error
    if not whole:
        raise BadInput(f"{path}: the {kind} data end before the last residue that the file announces; copy it again")
    chains = _chains(path, atoms, experiment)
    if not chains:
        raise BadInput(
            f"{path}: no amino acid with a C-alpha atom; expected the structure of a protein; remove the file"
        )
    return chains


def _damage() -> tuple[type[Exception], ...]:
    """What biotite raises on a cut or damaged file: errors of its own, and those of numbers and indexing."""
    from biotite import DeserializationError, InvalidFileError
    from biotite.structure import BadStructureError

    return (
        InvalidFileError,
        BadStructureError,
        DeserializationError,
        ValueError,
        LookupError,
        TypeError,
        OverflowError,
    )


def _content(path: Path) -> str:
    require_file(path, "structure as mmCIF or PDB")
    try:
        data = gzip.decompress(path.read_bytes()) if is_gzip(path) else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"{path}: the gzip data end early or are damaged ({error}); copy the file again") from error
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}); mend its permissions or remove it") from error
    return data.decode("utf-8", errors="replace")


def _kind(text: str, path: Path) -> str:
    """By content, since names of files lie."""
    for line in text.splitlines():
        if line.startswith("data_"):
            return "mmCIF"
        if line.startswith(("ATOM  ", "HETATM")):
            return "PDB"
    raise BadInput(f"{path}: neither mmCIF nor PDB; expected one of them, gzip or not; convert or remove the file")


def _read_cif(text: str) -> tuple[AtomArray, str, bool]:
    """Atoms of the first model, how they were determined, and whether the last announced residue is there."""
    from biotite.structure.io import pdbx

    block = pdbx.CIFFile.read(io.StringIO(text)).block
    occupied = "occupancy" in block["atom_site"]
    atoms = pdbx.get_structure(
        block, model=1, altloc="occupancy" if occupied else "first", extra_fields=["b_factor"], use_author_fields=True
    )
    methods = ", ".join(block["exptl"]["method"].as_array(str)) if "exptl" in block else ""
    return atoms, _experiment(methods), _all_of_cif(block, text)


def _all_of_cif(block, text: str) -> bool:
    """Whether the file is complete: the last polymer residue that it announces is there, or a '#' ends it.

    Most writers set a '#' after each category; where nothing is announced, a file with such lines must end with one.
    """
    if text.rstrip().endswith("\n#"):
        return True
    if "entity_poly_seq" not in block or "label_seq_id" not in block["atom_site"]:
        return "\n#\n" not in text.replace("\r", "")
    announced: dict[str, int] = {}
    for entity, number in zip(
        *(block["entity_poly_seq"][name].as_array(str) for name in ("entity_id", "num")), strict=True
    ):
        announced[entity] = max(announced.get(entity, 0), int(number))
    entities = block["atom_site"]["label_entity_id"].as_array(str)
    numbers = block["atom_site"]["label_seq_id"].as_array(str)
    for entity, number in zip(entities[::-1], numbers[::-1], strict=True):
        if entity in announced and number.isdigit():
            return int(number) == announced[entity]
    return False


def _read_pdb(text: str) -> tuple[AtomArray, str, bool]:
    from biotite.structure.io import pdb

    lines = text.splitlines()
    atoms = pdb.PDBFile.read(io.StringIO(text)).get_structure(model=1, altloc="occupancy", extra_fields=["b_factor"])
    methods = " ".join(line[10:].strip() for line in lines if line.startswith("EXPDTA"))
    last = next((line for line in reversed(lines) if line.strip()), "")
    if last.startswith(("ATOM", "HETATM")):  # neither END nor TER: not every writer ends with them
        announced = sum(len(line[19:].split()) for line in lines if line.startswith("SEQRES"))
        residues = {line[21:27] for line in lines if line.startswith("ATOM")}
        main = {name: {line[21:27] for line in lines if line[12:16].strip() == name} for name in BACKBONE}
        ended = all(last[21:27] in places for places in main.values() if len(places) > 1)
        whole = len(last) >= 54 and len(residues) >= announced and (last[:4] != "ATOM" or ended)
        return atoms, _experiment(methods), whole
    return atoms, _experiment(methods), True


def _experiment(methods: str) -> str:
    return methods if any(word in methods.upper() for word in EXPERIMENTS) else ""


def _chains(path: Path, atoms: AtomArray, experiment: str) -> list[Structure]:
    import biotite.structure as struc

    heavy = ~np.isin(atoms.element, ("H", "D")) & np.isfinite(atoms.coord).all(axis=1)
    atoms = atoms[heavy & struc.filter_amino_acids(atoms)]
    parts = []
    for chain in dict.fromkeys(atoms.chain_id.tolist()):
        own = atoms[atoms.chain_id == chain]
        starts = struc.get_residue_starts(own, add_exclusive_stop=True)
        residue = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
        central = np.isin(np.arange(len(starts) - 1), residue[own.atom_name == "CA"])
        own = own[central[residue]]
        if own.array_length():
            parts.append((chain, own, struc.get_residue_starts(own)))
    total = sum(len(starts) for *_, starts in parts)
    chains, offset = [], 0
    for chain, own, starts in parts:
        chains.append(_chain(path, chain, own, starts, experiment, offset, total))
        offset += len(starts)
    return chains


def _chain(path: Path, chain: str, atoms: AtomArray, starts: np.ndarray, experiment: str, offset: int, total: int):
    from biotite.structure.info import one_letter_code

    count = len(starts)
    residue = np.repeat(np.arange(count), np.diff(starts, append=atoms.array_length()))
    backbone = np.full((count, len(BACKBONE), 3), np.nan, np.float32)
    for place, name in enumerate(BACKBONE):
        # Reversed, so that of two atoms of one name the first stays.
        at = np.flatnonzero(atoms.atom_name == name)[::-1]
        backbone[residue[at], place] = atoms.coord[at]
    b_factors = np.zeros(count, np.float32)
    at = np.flatnonzero(atoms.atom_name == "CA")[::-1]
    b_factors[residue[at]] = atoms.b_factor[at]
    letters = {name: one_letter_code(name) or NOT_STANDARD for name in set(atoms.res_name[starts].tolist())}
    return Structure(
        path=path,
        chain=str(chain),
        sequence="".join(letters[name] for name in atoms.res_name[starts].tolist()),
        numbers=atoms.res_id[starts].astype(int),
        backbone=backbone,
        b_factors=b_factors,
        atoms=atoms,
        starts=starts,
        experiment=experiment,
        offset=offset,
        total=total,
    )


def align_to_protein(structure_sequence: str, protein_sequence: str) -> np.ndarray:
    """The structure's residue that agrees with each residue of the protein.

    Returns:
        int (length of the protein,), indices into the structure's sequence, -1 where the structure has no residue,
        another one, or an equal one that stands there by chance.
    """
    found = align(structure_sequence, protein_sequence)
    return np.where(found.agrees, found.index, -1)


def align(structure_sequence: str, protein_sequence: str) -> Alignment:
    """Align a structure's sequence to a protein's, both upper-case letters; ends may hang over on both sides.

    An equal residue counts only if at least half of the aligned places around it are equal too. Unknown residues (X)
    agree with nothing.
    """
    index = _aligned(structure_sequence, protein_sequence)
    aligned = np.flatnonzero(index >= 0)
    structure = np.frombuffer(structure_sequence.encode("ascii", "replace"), np.uint8)
    protein = np.frombuffer(protein_sequence.encode("ascii", "replace"), np.uint8)
    agrees = np.zeros(len(protein_sequence), bool)
    if aligned.size:
        equal = (structure[index[aligned]] == protein[aligned]) & (protein[aligned] != ord(NOT_STANDARD))
        agrees[aligned] = equal & _confirmed(equal)
    shorter = min(len(structure_sequence), len(protein_sequence))
    share = float(np.count_nonzero(agrees) / shorter) if shorter else 0.0
    return Alignment(index, agrees, share)


def _confirmed(equal: np.ndarray) -> np.ndarray:
    """Whether at least half of the aligned places within `NEIGHBOURS` of each one, itself included, are equal."""
    sums = np.concatenate([[0], np.cumsum(equal)])
    places = np.arange(len(equal))
    low, high = np.maximum(places - NEIGHBOURS, 0), np.minimum(places + NEIGHBOURS + 1, len(equal))
    return (sums[high] - sums[low]) * 2 >= high - low


def _aligned(structure: str, protein: str) -> np.ndarray:
    """Index of the structure's residue at each of the protein's, -1 for none, equal or not."""
    index = np.full(len(protein), -1)
    if not structure or not protein:
        return index
    at, within = protein.find(structure), structure.find(protein)
    if at >= 0 and protein.find(structure, at + 1) < 0:
        index[at : at + len(structure)] = np.arange(len(structure))
    elif within >= 0 and structure.find(protein, within + 1) < 0:
        index[:] = np.arange(within, within + len(protein))
    elif len(structure) * len(protein) <= LARGEST_MATRIX:
        _align_parts(structure, protein, 0, 0, index)
    else:
        _align_between_anchors(structure, protein, index)
    return index


def _align_parts(
    structure: str, protein: str, first: int, start: int, index: np.ndarray, ends: tuple[bool, bool] = (True, True)
) -> None:
    """Align two stretches that begin at `first` and `start`.

    Args:
        ends: whether each end is one of the sequences, where what does not fit may hang over, and not an anchor.
    """
    from Bio.Align import PairwiseAligner

    if not structure or not protein or len(structure) * len(protein) > LARGEST_MATRIX:
        return  # what is too large even between anchors has nothing in common that a structure could tell
    aligner = PairwiseAligner(match_score=MATCH, mismatch_score=MISMATCH)
    aligner.mode = "local" if all(ends) else "global"
    aligner.open_gap_score, aligner.extend_gap_score = GAP, 0.0
    if ends[0]:
        aligner.open_left_gap_score = 0.0
    if ends[1]:
        aligner.open_right_gap_score = 0.0
    best = next(iter(aligner.align(protein, structure)), None)
    if best is None:
        return
    for (low, high), (other, _) in zip(*best.aligned, strict=True):
        index[start + low : start + high] = np.arange(first + other, first + other + high - low)


def _align_between_anchors(structure: str, protein: str, index: np.ndarray) -> None:
    """Align by the stretches that both have exactly once, in the longest common order, and what lies between them."""
    places_structure, places_protein = _unique(structure), _unique(protein)
    shared = sorted(
        (place, places_structure[word]) for word, place in places_protein.items() if word in places_structure
    )
    chain = _longest_increasing(shared)
    previous_protein = previous_structure = 0
    for start, first in [*chain, (len(protein), len(structure))]:
        if start > previous_protein or first > previous_structure:
            _align_parts(
                structure[previous_structure:first],
                protein[previous_protein:start],
                previous_structure,
                previous_protein,
                index,
                ends=(previous_protein == 0, start == len(protein)),
            )
        index[start : start + ANCHOR] = np.arange(first, first + ANCHOR)[: len(protein) - start]
        previous_protein, previous_structure = start + ANCHOR, first + ANCHOR


def _unique(sequence: str) -> dict[str, int]:
    """Place of every stretch of `ANCHOR` residues that occurs once."""
    places: dict[str, int] = {}
    for place in range(len(sequence) - ANCHOR + 1):
        word = sequence[place : place + ANCHOR]
        places[word] = -1 if word in places else place
    return {word: place for word, place in places.items() if place >= 0}


def _longest_increasing(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Longest chain of (protein, structure) places that increase in both and do not overlap; pairs are in order."""
    from bisect import bisect_left

    tails: list[int] = []  # smallest structure place that ends a chain of each length
    last: list[int] = []
    before = [-1] * len(pairs)
    for number, (_, place) in enumerate(pairs):
        length = bisect_left(tails, place)
        before[number] = last[length - 1] if length else -1
        tails[length : length + 1] = [place]
        last[length : length + 1] = [number]
    chain: list[tuple[int, int]] = []
    number = last[-1] if last else -1
    while number >= 0:
        chain.append(pairs[number])
        number = before[number]
    apart: list[tuple[int, int]] = []
    for pair in reversed(chain):
        if not apart or (pair[0] - apart[-1][0] >= ANCHOR and pair[1] - apart[-1][1] >= ANCHOR):
            apart.append(pair)
    return apart


def plddt(structure: Structure) -> tuple[np.ndarray | None, str]:
    """Confidence (pLDDT, 0 to 100) of each residue, if the B-factors of a structure are that.

    Values from 0 to 1, as some releases of ESMFold write them, are taken times 100. B-factors are no pLDDT if the file
    names an experiment, if all are alike, if one lies outside 0 to 100, or if they rise from the backbone to the side
    chains: thermal motion grows outwards, confidence falls.

    Returns:
        float32 (N,) and `b_factor` or `b_factor_times_100`; or None and why the B-factors are no pLDDT.
    """
    values = structure.atoms.b_factor
    if structure.experiment:
        return None, f"the structure is from an experiment ({structure.experiment.lower()})"
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > 100:
        return None, "B-factors lie outside 0 to 100"
    if values.max() == values.min() and (len(structure) > 1 or values.max() == 0):
        return None, f"all B-factors are {values.max():g}"
    varied = [np.ptp(part) > 0.01 for part in np.split(values, structure.starts[1:])]
    if np.mean(varied) > 0.5:  # one value for each atom
        main = np.isin(structure.atoms.atom_name, BACKBONE)
        ends = ~main & (structure.atoms.atom_name != "CB")
        if ends.any() and values[ends].mean() > values[main].mean():
            return None, "B-factors rise towards the ends of side chains, as in experiments"
    if values.max() <= 1:
        return structure.b_factors * 100, "b_factor_times_100"
    return structure.b_factors, "b_factor"


def best_chain(chains: Sequence[Structure], protein_sequence: str) -> tuple[Structure, Alignment]:
    """The chain of which most residues agree with a protein, the first of several alike, and its alignment."""
    known: dict[str, Alignment] = {}
    for structure in chains:
        if structure.sequence not in known:
            known[structure.sequence] = align(structure.sequence, protein_sequence)
    best = max(chains, key=lambda structure: np.count_nonzero(known[structure.sequence].agrees))
    return best, known[best.sequence]


def most_central(alignments: Sequence[Alignment], lengths: Sequence[int]) -> np.ndarray:
    """Which of several structures, such as fragments of a long protein, describes each residue of the protein best.

    Args:
        alignments: of each structure to the same protein. lengths: residues of each structure.

    Returns:
        int (length of the protein,), the structure in which the residue agrees and lies farthest from an end, the
        first of several alike; -1 where it agrees in none.
    """
    depth = np.stack(
        [
            np.where(found.agrees, np.minimum(found.index, length - 1 - found.index), -1)
            for found, length in zip(alignments, lengths, strict=True)
        ]
    )
    return np.where(depth.max(axis=0) >= 0, depth.argmax(axis=0), -1)
