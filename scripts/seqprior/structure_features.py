"""What a structure says of each residue: confidence, exposure, secondary structure, neighbours, domains, sites.

Distances are in Å between centres of atoms. Only the chain itself counts, not the other chains of a complex.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqprior.columns import RESIDUE_FEATURES, STRUCTURES, ProteinReason, Status
from seqprior.errors import BadInput
from seqprior.files import open_text, sha256
from seqprior.residues import AMINO_ACIDS
from seqprior.structures import Alignment, Structure, best_chain, most_central, plddt, read_chains, read_structure

# Theoretical maxima of Tien et al. (2013), doi:10.1371/journal.pone.0080635, in square Å.
_SURFACES = (129.0, 167.0, 193.0, 223.0, 240.0, 104.0, 224.0, 197.0, 236.0, 201.0)
_SURFACES += (224.0, 195.0, 159.0, 225.0, 274.0, 155.0, 172.0, 174.0, 285.0, 263.0)
LARGEST_SURFACE = dict(zip(AMINO_ACIDS, _SURFACES, strict=True))
_ATOMS = (5, 6, 8, 9, 11, 4, 10, 8, 9, 8, 8, 8, 7, 9, 11, 6, 7, 7, 14, 12)
HEAVY_ATOMS = dict(zip(AMINO_ACIDS, _ATOMS, strict=True))  # without the second oxygen of the last residue
SURFACE_POINTS = 1000  # on each atom; a residue errs by about one percent of its largest surface
CONTACT_RADIUS = 10.0  # Å between C-alphas
SPHERE_RADIUS = 13.0  # Å, as in Hamelryck (2005)
PAE_CUTOFF = 5.0  # Å; pairs of residues with a larger error are not tied to each other
PAE_FLOOR = 0.5  # Å; AlphaFold DB rounds to whole ones, and zero would tie infinitely
RESOLUTION = 0.5  # of the communities; lower makes fewer, larger domains
SMALLEST_DOMAIN = 10  # residues
LARGEST_GRAPH = 500  # nodes; longer proteins are taken in stretches of a few residues
STRUCTURE_OF_PROTEIN = (
    "protein",
    "accession",
    "source",
    "version",
    "path",
    "paths",
    "chains",
    "sha256",
    "status",
    "reason",
    "identity",
    "coverage",
    "mean_plddt",
    "plddt_source",
    "residues",
)
_FRAGMENT = re.compile(r"-F\d+-")


def residue_features(
    structure: Structure, sites: Sequence[int] = (), pae: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Features of the N residues of a structure, by the names of `columns.RESIDUE_FEATURES` from `plddt` on.

    Args:
        sites: indices of the residues that are annotated sites.
        pae: (N, N) predicted aligned error in Å.

    Returns:
        Arrays (N,), float32 with NaN for what is not known, except secondary_structure (text).

        plddt: 0 to 100, see `structures.plddt`.
        relative_solvent_accessibility: surface that water reaches (Shrake and Rupley 1973, all heavy atoms, radii of
            Tsai et al. 1999, probe of 1.4 Å) over the residue's largest one (Tien et al. 2013); may pass 1 at ends.
        secondary_structure: H, E or C, by P-SEA (Labesse et al. 1997) from C-alphas.
        contact_number: other residues whose C-alpha is within 10 Å of this one's.
        half_sphere_up, half_sphere_down: other residues whose C-alpha is within 13 Å, on the side of the plane through
            the C-alpha to which C-beta points, and on the other (Hamelryck 2005, doi:10.1002/prot.20379).
        site_distance: smallest distance between heavy atoms of the residue and of any site; 0 at a site.
        pae_domain: see `pae_domains`.
    """
    count = len(structure)
    confidence, _ = plddt(structure)
    unknown = np.full(count, np.nan, np.float32)
    contacts, up, down = neighbours(structure)
    return {
        "plddt": unknown if confidence is None else confidence,
        "relative_solvent_accessibility": relative_solvent_accessibility(structure),
        "secondary_structure": secondary_structure(structure),
        "contact_number": contacts,
        "half_sphere_up": up,
        "half_sphere_down": down,
        "site_distance": site_distances(structure, sites),
        "pae_domain": unknown.copy() if pae is None else pae_domains(pae).astype(np.float32),
    }


def relative_solvent_accessibility(structure: Structure) -> np.ndarray:
    """Float32 (N,); NaN for residues that are none of the 20 or lack an atom. See `residue_features`."""
    import biotite.structure as struc

    atoms = structure.atoms
    names = list(zip(atoms.res_name.tolist(), atoms.atom_name.tolist(), atoms.element.tolist(), strict=True))
    radius_of = {name: _radius(*name) for name in set(names)}
    surfaces = struc.sasa(
        atoms, point_number=SURFACE_POINTS, ignore_ions=False, vdw_radii=np.array([radius_of[name] for name in names])
    )
    by_residue = np.add.reduceat(np.nan_to_num(surfaces), structure.starts)
    largest = np.array([LARGEST_SURFACE.get(letter, np.nan) for letter in structure.sequence])
    complete = np.add.reduceat(atoms.atom_name != "OXT", structure.starts, dtype=int)
    expected = np.array([HEAVY_ATOMS.get(letter, 0) for letter in structure.sequence])
    return np.where(complete >= expected, by_residue / largest, np.nan).astype(np.float32)


def _radius(residue: str, atom: str, element: str) -> float:
    """Radius of an atom with its hydrogens, in Å; for atoms that are in no dictionary that of its element alone."""
    from biotite.structure.info import vdw_radius_protor, vdw_radius_single

    try:
        radius = vdw_radius_protor(residue, atom)
    except KeyError:
        radius = None
    if radius is None:
        radius = vdw_radius_single(element)
    return 1.8 if radius is None else float(radius)


def secondary_structure(structure: Structure) -> np.ndarray:
    """Text (N,): H, E or C. See `residue_features`."""
    import biotite.structure as struc

    names = {"a": "H", "b": "E"}
    return np.array([names.get(str(kind), "C") for kind in struc.annotate_sse(structure.atoms)], "<U1")


def beta_directions(structure: Structure) -> np.ndarray:
    """Vector from C-alpha to C-beta of each residue, float64 (N, 3) in Å.

    Where there is no C-beta, as in glycine, the nitrogen turned by -120 degrees about the axis from C-alpha to C stands
    for it, as in Bio.PDB. NaN where the backbone lacks one of these atoms.
    """
    count, atoms = len(structure), structure.atoms
    residue = np.repeat(np.arange(count), np.diff(structure.starts, append=atoms.array_length()))
    backbone = structure.backbone.astype(float)
    central = backbone[:, 1]
    to_nitrogen, axis = backbone[:, 0] - central, backbone[:, 2] - central
    axis = axis / np.linalg.norm(axis, axis=1, keepdims=True)
    angle = -2 * np.pi / 3  # Rodrigues' rotation
    vectors = to_nitrogen * np.cos(angle) + np.cross(axis, to_nitrogen) * np.sin(angle)
    vectors += axis * (axis * to_nitrogen).sum(axis=1, keepdims=True) * (1 - np.cos(angle))
    at = np.flatnonzero((atoms.atom_name == "CB") & (atoms.res_name != "GLY"))[::-1]
    vectors[residue[at]] = atoms.coord[at].astype(float) - central[residue[at]]
    return vectors


def neighbours(structure: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contact number, half-sphere exposure up and down, each float32 (N,). See `residue_features`."""
    from scipy.spatial import cKDTree

    count = len(structure)
    central = structure.backbone[:, 1].astype(float)
    first, second = cKDTree(central).query_pairs(SPHERE_RADIUS, output_type="ndarray").T
    of, other = np.concatenate([first, second]), np.concatenate([second, first])
    between = central[other] - central[of]
    distance = np.linalg.norm(between, axis=1)
    contacts = np.bincount(of[distance < CONTACT_RADIUS], minlength=count)
    beta = beta_directions(structure)
    above = (between * beta[of]).sum(axis=1) > 0
    within = distance < SPHERE_RADIUS
    known = np.isfinite(beta).all(axis=1)
    up, down = (
        np.where(known, np.bincount(of[side & within], minlength=count), np.nan).astype(np.float32)
        for side in (above, ~above)
    )
    return contacts.astype(np.float32), up, down


def site_distances(structure: Structure, sites: Sequence[int]) -> np.ndarray:
    """Float32 (N,), all NaN without sites. `sites` are indices of residues. See `residue_features`."""
    from scipy.spatial import cKDTree

    if not len(sites):
        return np.full(len(structure), np.nan, np.float32)
    coordinates = structure.atoms.coord
    residue = np.repeat(np.arange(len(structure)), np.diff(structure.starts, append=len(coordinates)))
    nearest, _ = cKDTree(coordinates[np.isin(residue, sites)]).query(coordinates)
    return np.minimum.reduceat(nearest, structure.starts).astype(np.float32)


def pae_domains(pae: np.ndarray) -> np.ndarray:
    """Parts of a protein whose residues are placed well relative to each other, by their predicted aligned error.

    Residues are tied by 1 / error where it is below `PAE_CUTOFF`, and the communities of this graph are the domains:
    the idea of T. Croll's pae_to_domains (https://github.com/tristanic/pae_to_domains; Oeffner et al. 2022,
    doi:10.1107/S2059798322010026), here with the communities of Blondel et al. (2008) as networkx finds them. The two
    errors of a pair are averaged, and so are those of neighbouring residues in proteins of more than 500.

    Args:
        pae: (N, N) in Å.

    Returns:
        int (N,): 0, 1, ... in the order of their first residues; -1 in none, or in one of fewer than 10 residues.
    """
    import networkx

    count = len(pae)
    step = -(-count // LARGEST_GRAPH)
    edges = np.arange(0, count, step)
    weight = np.diff(edges, append=count)
    symmetric = (pae + pae.T) / 2
    pooled = np.add.reduceat(np.add.reduceat(symmetric, edges, axis=0), edges, axis=1) / np.outer(weight, weight)
    first, second = np.nonzero(np.triu(pooled < PAE_CUTOFF, 1))
    ties = 1 / np.maximum(pooled[first, second], PAE_FLOOR)
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(edges)))
    graph.add_weighted_edges_from(zip(first.tolist(), second.tolist(), ties.tolist(), strict=True))
    found = networkx.community.louvain_communities(graph, resolution=RESOLUTION, seed=1)
    domains = np.full(len(edges), -1)
    large = [sorted(nodes) for nodes in found if weight[list(nodes)].sum() >= SMALLEST_DOMAIN]
    for number, nodes in enumerate(sorted(large)):
        domains[nodes] = number
    return np.repeat(domains, weight)


def read_pae(path: Path, structure: Structure) -> np.ndarray:
    """Predicted aligned error of a structure's residues, float32 (N, N) in Å, from a JSON file, gzip or not.

    Known are the formats of AlphaFold DB (`predicted_aligned_error`; `residue1` and `distance` in its first version),
    AlphaFold 2, AlphaFold 3 and its server (`pae` with the chain and residue of each token) and ColabFold (`pae`). Of
    several chains the structure's part is taken.

    Raises:
        BadInput: the file is damaged, of another kind, or of another number of residues.
    """
    if not path.is_file():
        raise BadInput(
            f"{path}: the predicted aligned error is gone since its structure was found; delete structures.tsv and run"
            " again"
        )
    with open_text(path) as handle:
        try:
            content = json.load(handle)
        except (ValueError, RecursionError) as error:
            raise BadInput(
                f"{path}: no complete JSON ({error}); copy or fetch the predicted aligned error again"
            ) from error
    content = content[0] if isinstance(content, list) and content else content
    try:
        matrix = _matrix(content)
        matrix = _own_part(matrix, content, structure)
    except (TypeError, ValueError, LookupError, AttributeError, MemoryError) as error:
        raise BadInput(
            f"{path}: no predicted aligned error of AlphaFold or ColabFold ({type(error).__name__}: {error}); remove"
            " or restore the file"
        ) from error
    if matrix.shape != (len(structure),) * 2:
        raise BadInput(
            f"{path}: a predicted aligned error of {len(matrix)} residues, while {structure.path} has {len(structure)};"
            " expected those of one prediction; restore or remove the file"
        )
    return matrix


def _matrix(content: Mapping) -> np.ndarray:
    if "distance" in content:
        size = max(content["residue1"])
        matrix = np.full((size, size), np.nan, np.float32)
        rows, columns = np.asarray(content["residue1"]) - 1, np.asarray(content["residue2"]) - 1
        matrix[rows, columns] = content["distance"]
    else:
        name = "predicted_aligned_error" if "predicted_aligned_error" in content else "pae"
        matrix = np.asarray(content[name], np.float32)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all() or matrix.min() < 0:
        raise ValueError(f"shape {matrix.shape}, or numbers below 0 or missing")
    return matrix


def _own_part(matrix: np.ndarray, content: Mapping, structure: Structure) -> np.ndarray:
    """The rows and columns of the structure's chain. A modified residue has a token for each atom: the first counts."""
    if "token_chain_ids" in content:
        chains, numbers = np.asarray(content["token_chain_ids"]), np.asarray(content["token_res_ids"])
        own = np.flatnonzero(chains == structure.chain)
        _, first = np.unique(numbers[own], return_index=True)
        kept = own[first]
    elif len(matrix) == structure.total:
        kept = np.arange(structure.offset, structure.offset + len(structure))
    else:
        return matrix
    return matrix[np.ix_(kept, kept)]


def read_sites(path: Path) -> dict[str, list[tuple[int, int]]]:
    """Annotated sites by name (UniProt accession, gene, transcript or protein): residue (1-based) and line.

    Raises:
        BadInput: the header or a line is not as expected; the line is named.
    """
    sites: dict[str, list[tuple[int, int]]] = {}
    with open_text(path) as handle:
        rows = (line.rstrip("\r\n").split("\t") for line in handle)
        header = next(rows, [])
        if [name.strip() for name in header[:3]] != ["name", "residue", "site"]:
            raise BadInput(
                f"{path}, line 1: found {' '.join(header)!r}, expected tab-separated name, residue and site; write that"
                " header"
            )
        for line, row in enumerate(rows, start=2):
            if row == [""] or row[0].startswith("#"):
                continue
            name, number = (row[0].strip(), row[1].strip()) if len(row) >= 3 else ("", "")
            if not name or not re.fullmatch("0*[1-9][0-9]{0,8}", number):
                raise BadInput(
                    f"{path}, line {line}: found {' '.join(row)!r}, expected a name, a residue from 1 on and a site,"
                    " separated by tabs; correct the line"
                )
            sites.setdefault(name, []).append((int(number), line))
    return sites


def read_structure_tables(paths: Iterable[Path]):
    """Rows of `columns.STRUCTURES` of several tables, as one pandas table of text; missing values are empty.

    Raises:
        BadInput: a table lacks a column.
    """
    import pandas as pd

    tables = []
    for path in paths:
        with open_text(path) as handle:
            table = pd.read_csv(handle, sep="\t", dtype=str, keep_default_na=False)
        lacking = [name for name in STRUCTURES if name not in table]
        if lacking:
            raise BadInput(f"{path}, line 1: no column {lacking[0]!r}; make the table with fetch_structures.py")
        tables.append(table[list(STRUCTURES)])
    return pd.concat(tables, ignore_index=True)


@dataclass
class _Piece:
    """One file of a protein's structure: its row, chain, alignment, confidence and, while it is small, content."""

    row: Mapping[str, str]
    chain: str
    length: int
    found: Alignment
    confidence: np.ndarray | None
    confidence_source: str
    structure: Structure | None


def describe_protein(
    protein: Mapping[str, str], rows: Sequence[Mapping[str, str]], sites: Mapping[str, Sequence[tuple[int, int]]]
) -> tuple[dict[str, np.ndarray] | None, dict[str, object]]:
    """The best of a protein's structures, and its features of those residues that agree with the protein.

    Best is the one with the highest identity over the aligned part (in whole percent, so that a whole structure with a
    polymorphism wins over a short one without), then the highest coverage, then the highest mean pLDDT, then the first
    by name. Files that differ only by a fragment's number (`-F1-`, `-F2-`) are one structure, and each residue is
    described by the fragment in which it lies most central.

    Args:
        protein: a row of `columns.PROTEINS`. rows: those of `columns.STRUCTURES` for it. sites: see `read_sites`.

    Returns:
        Arrays by the names of `columns.RESIDUE_FEATURES`, one element for each residue that agrees, or None; and a row
        of `STRUCTURE_OF_PROTEIN`.

    Raises:
        BadInput: a file is gone, changed, cut or no structure.
    """
    candidates: dict[str, list[Mapping[str, str]]] = {}
    for row in rows:
        if row["path"]:
            candidates.setdefault(_FRAGMENT.sub("-F-", row["path"]), []).append(row)
    best: list[_Piece] = []
    best_rank: tuple = ()
    for name, files in candidates.items():
        pieces = list(_pieces(protein["sequence"], files))
        if not pieces:
            continue
        rank = (*_rank(pieces), name)
        if not best or rank < best_rank:
            best, best_rank = pieces, rank
    if not best:
        reason = str(ProteinReason.STRUCTURE_OF_OTHER_PROTEIN)
        if not candidates:
            reason = next((row["reason"] for row in rows if row["reason"]), str(ProteinReason.NO_STRUCTURE))
        return None, _summary(protein, [], reason)
    return _features(protein, best, sites), _summary(protein, best, "")


def _pieces(sequence: str, files: Sequence[Mapping[str, str]]) -> Iterator[_Piece]:
    """The files of one structure that are of the protein. Several are too much to be held at once."""
    for row in files:
        path = Path(row["path"])
        if not path.is_file() or sha256(path) != row["sha256"]:
            raise BadInput(f"{path}: the structure is gone or changed since it was found; run fetch_structures again")
        structure, found = best_chain(read_chains(path), sequence)
        if not found.of_same_protein:
            logging.warning(
                "%s: structure of another protein than %s: %.0f %% of the %d aligned residues agree, %.0f %% of the"
                " shorter sequence; it is left out",
                *(path, row["protein"], 100 * found.identity, np.count_nonzero(found.index >= 0), 100 * found.share),
            )
            continue
        if found.share < 0.99:
            logging.warning(
                "%s: agrees with %d of %d residues of %s, so it may be of another isoform; the rest gets no features",
                *(path, np.count_nonzero(found.agrees), len(sequence), row["protein"]),
            )
        confidence, source = plddt(structure)
        if confidence is None:
            logging.warning("%s: B-factors are no pLDDT: %s; pLDDT stays empty", path, source)
            source = ""
        kept = structure if len(files) == 1 else None
        yield _Piece(row, structure.chain, len(structure), found, confidence, source, kept)


def _rank(pieces: Sequence[_Piece]) -> tuple[float, float, float]:
    """Smaller is better."""
    coverage = float(np.logical_or.reduce([piece.found.agrees for piece in pieces]).mean())
    confidence = _mean_plddt(pieces)
    return -round(_identity(pieces), 2), -coverage, -(confidence if np.isfinite(confidence) else -1.0)


def _identity(pieces: Sequence[_Piece]) -> float:
    aligned = sum(np.count_nonzero(piece.found.index >= 0) for piece in pieces)
    return sum(np.count_nonzero(piece.found.agrees) for piece in pieces) / aligned


def _best_piece(pieces: Sequence[_Piece]) -> np.ndarray:
    return most_central([piece.found for piece in pieces], [piece.length for piece in pieces])


def _mean_plddt(pieces: Sequence[_Piece]) -> float:
    """Mean over the residues that agree, each from the piece that describes it; NaN where none is known."""
    chosen = _best_piece(pieces)
    values = [
        piece.confidence[piece.found.index[chosen == number]]
        for number, piece in enumerate(pieces)
        if piece.confidence is not None
    ]
    known = np.concatenate(values) if values else np.empty(0)
    return float(known.mean()) if known.size else float("nan")


def _summary(protein: Mapping[str, str], pieces: Sequence[_Piece], reason: str) -> dict[str, object]:
    first = pieces[0].row if pieces else dict.fromkeys(STRUCTURES, "")
    agreeing = int(np.logical_or.reduce([piece.found.agrees for piece in pieces]).sum()) if pieces else 0
    return {
        "protein": protein["protein"],
        "accession": first["accession"],
        "source": first["source"],
        "version": first["version"],
        "path": first["path"],
        "paths": [piece.row["path"] for piece in pieces],
        "chains": [piece.chain for piece in pieces],
        "sha256": [piece.row["sha256"] for piece in pieces],
        "status": str(Status.SKIPPED if reason else Status.SCORED),
        "reason": reason,
        "identity": _identity(pieces) if pieces else float("nan"),
        "coverage": agreeing / len(protein["sequence"]),
        "mean_plddt": _mean_plddt(pieces) if pieces else float("nan"),
        "plddt_source": pieces[0].confidence_source if pieces else "",
        "residues": agreeing,
    }


def _features(
    protein: Mapping[str, str], pieces: Sequence[_Piece], sites: Mapping[str, Sequence[tuple[int, int]]]
) -> dict[str, np.ndarray]:
    """Arrays by the names of `columns.RESIDUE_FEATURES`, residue after residue."""
    chosen = _best_piece(pieces)
    parts: list[dict[str, np.ndarray]] = []
    length = len(protein["sequence"])
    domains, nearest = np.full(length, np.nan), np.full(length, np.nan)
    for number, piece in enumerate(pieces):
        structure = piece.structure or read_structure(Path(piece.row["path"]), piece.chain)
        pae = read_pae(Path(piece.row["pae"]), structure) if piece.row["pae"] else None
        places = _site_residues(protein, piece, structure, sites, whole=len(pieces) == 1)
        features = residue_features(structure, places, pae)
        agreeing = np.flatnonzero(piece.found.agrees)
        index = piece.found.index[agreeing]
        # A site may lie in another fragment than the one that describes a residue.
        nearest[agreeing] = np.fmin(nearest[agreeing], features["site_distance"][index])
        _join_domains(domains, agreeing, features["pae_domain"][index], chosen == number)
        residues = np.flatnonzero(chosen == number)
        index = piece.found.index[residues]
        features = {name: values[index] for name, values in features.items()}
        parts.append(
            {
                "protein": np.full(len(residues), protein["protein"], object),
                "residue": residues,
                "structure": np.full(len(residues), Path(piece.row["path"]).name, object),
                "chain": np.full(len(residues), piece.chain, object),
                "number": structure.numbers[index],
                **features,
            }
        )
    joined = {name: np.concatenate([part[name] for part in parts]) for name in RESIDUE_FEATURES}
    joined["pae_domain"] = _in_order(domains)[joined["residue"]]
    joined["site_distance"] = nearest[joined["residue"]]
    order = np.argsort(joined["residue"], kind="stable")
    return {name: values[order] for name, values in joined.items()}


def _join_domains(domains: np.ndarray, residues: np.ndarray, found: np.ndarray, own: np.ndarray) -> None:
    """Add the domains of a fragment to those of the protein.

    A domain is that of an earlier fragment if each has most of the other's residues among those that both fragments
    have: at the end of a fragment a domain is cut. All others are numbered on.

    Args:
        domains: (length of the protein,), changed. residues: those of the fragment that agree. found: their domains in
        it. own: (length of the protein,), whether this fragment describes the residue.
    """
    if np.isnan(found).all():
        return
    following = int(np.nanmax(domains, initial=-1)) + 1
    earlier = domains[residues].copy()
    taken = own[residues] | np.isnan(earlier)
    labels = np.where(found < 0, -1.0, 0.0)
    for number in range(int(found.max()) + 1):
        members = found == number
        known = earlier[members & ~np.isnan(earlier)]
        counts = np.bincount(known[known >= 0].astype(int), minlength=1)
        label, shared = int(counts.argmax()), int(counts.max())
        if shared * 2 <= len(known) or shared * 2 <= np.count_nonzero(earlier == label):
            label, following = following, following + 1
        labels[members] = label
    domains[residues[taken]] = labels[taken]


def _in_order(domains: np.ndarray) -> np.ndarray:
    """Domains numbered 0, 1, ... by their first residues; -1 and NaN stay."""
    known, first = np.unique(domains[domains >= 0], return_index=True)
    order = dict(zip(known[np.argsort(first)].tolist(), range(len(known)), strict=True))
    return np.array([order.get(domain, domain) for domain in domains.tolist()])


def _site_residues(
    protein: Mapping[str, str],
    piece: _Piece,
    structure: Structure,
    sites: Mapping[str, Sequence[tuple[int, int]]],
    whole: bool,
) -> list[int]:
    """Indices of the structure's residues that are annotated sites of the protein.

    AlphaFold DB numbers residues along UniProt's sequence, and so do sites of a UniProt accession: they hold for the
    database's model of that accession whatever the isoform. All other sites count along the protein itself.
    """
    accessions, accession = None, piece.row["accession"]
    places: set[int] = set()
    by_number = {int(number): place for place, number in enumerate(structure.numbers)} if whole else {}
    if by_number and accession and piece.row["source"] == "alphafold_db":
        places.update(by_number[residue] for residue, _ in sites.get(accession, ()) if residue in by_number)
        accessions = []
    for name in _names(protein, accessions):
        for residue, line in sites.get(name, ()):
            if residue > len(piece.found.agrees):
                logging.warning(
                    "sites, line %d: residue %d of %s is beyond the %d residues of the protein %s",
                    *(line, residue, name, len(piece.found.agrees), protein["protein"]),
                )
            elif piece.found.agrees[residue - 1]:
                places.add(int(piece.found.index[residue - 1]))
    return sorted(places)


def _names(protein: Mapping[str, str], accessions: Sequence[str] | None = None) -> set[str]:
    """Under which a table of sites may have a protein; its own accessions unless others are given."""
    own = protein["accessions"].split(",") if accessions is None else accessions
    names = [*protein["transcripts"].split(","), *protein["genes"].split(","), protein["protein"]]
    names += [name.rpartition(".")[0] for name in names if re.fullmatch(r".+\.\d+", name)]
    return {*names, *own, *(name.partition("-")[0] for name in own)} - {""}


def features_schema():
    """Arrow schema of a table of `columns.RESIDUE_FEATURES`."""
    import pyarrow as pa

    text = dict.fromkeys(("protein", "structure", "chain", "secondary_structure"), pa.string())
    whole = ("residue", "number", "contact_number", "half_sphere_up", "half_sphere_down", "pae_domain")
    kinds = {**text, **dict.fromkeys(whole, pa.int32())}
    return pa.schema([(name, kinds.get(name, pa.float32())) for name in RESIDUE_FEATURES])


def features_table(features: Mapping[str, np.ndarray]):
    """Arrow table of what `describe_protein` gives; what is not known is null."""
    import pyarrow as pa

    columns = [
        pa.array(features[field.name].astype(float), from_pandas=True).cast(field.type)
        if field.type != pa.string()
        else pa.array(features[field.name].tolist(), pa.string())
        for field in features_schema()
    ]
    return pa.Table.from_arrays(columns, schema=features_schema())


def summary_schema():
    """Arrow schema of the table of `STRUCTURE_OF_PROTEIN`: one row a protein.

    `paths`, `chains` and `sha256` are lists, one element for each fragment; `path` is the first.
    """
    import pyarrow as pa

    kinds = {
        **dict.fromkeys(("paths", "chains", "sha256"), pa.list_(pa.string())),
        **dict.fromkeys(("identity", "coverage", "mean_plddt"), pa.float64()),
        "residues": pa.int32(),
    }
    return pa.schema([(name, kinds.get(name, pa.string())) for name in STRUCTURE_OF_PROTEIN])


def describe_structures(
    proteins, structures, sites: Mapping[str, Sequence[tuple[int, int]]], residues: Path, summary: Path
):
    """Write the features of all proteins, one protein in memory at a time, and the structure that each one got.

    Args:
        proteins: pandas table of `columns.PROTEINS`. structures: of `columns.STRUCTURES`. sites: see `read_sites`.
        residues: Parquet of `columns.RESIDUE_FEATURES` to write. summary: Parquet of `STRUCTURE_OF_PROTEIN` to write.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from seqprior.files import written_whole

    by_protein: dict[str, list[Mapping[str, str]]] = {}
    for row in structures.to_dict("records"):
        by_protein.setdefault(row["protein"], []).append(row)
    rows, waiting, size = [], [], 0
    with written_whole(residues) as partial, written_whole(summary) as partial_summary:
        with pq.ParquetWriter(partial, features_schema()) as writer:
            for protein in proteins.to_dict("records"):
                features, row = describe_protein(protein, by_protein.get(protein["protein"], []), sites)
                rows.append(row)
                if features is not None:
                    waiting.append(features_table(features))
                    size += waiting[-1].num_rows
                if size >= 100_000:
                    writer.write_table(pa.concat_tables(waiting))
                    waiting, size = [], 0
            if waiting:
                writer.write_table(pa.concat_tables(waiting))
        pq.write_table(pa.Table.from_pylist(rows, summary_schema()), partial_summary)
    found = sum(row["status"] == Status.SCORED for row in rows)
    logging.info("%d of %d proteins have a structure", found, len(rows))
    if sites:
        known = {name for protein in proteins.to_dict("records") for name in _names(protein)}
        logging.info("%d of %d names of the table of sites are of these proteins", len(known & set(sites)), len(sites))
