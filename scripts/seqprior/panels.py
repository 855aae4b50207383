"""Panels of the report: for each of the first alleles that change residues, the residue in its sequence and structure.

Everything is data for `report/panels.js`, which draws a panel when its row is opened. Structures are embedded as
BinaryCIF, gzip and base64, once each however many panels show them.
"""

from __future__ import annotations

import base64
import gzip
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqprior.columns import PROTEIN_REASON_TEXT, ProteinReason
from seqprior.profiles import Profile
from seqprior.report import figure, is_missing
from seqprior.residues import AMINO_ACIDS

if TYPE_CHECKING:
    import pandas

    from seqprior.structures import Alignment, Structure

AROUND = 15  # residues on each side of the first changed one
PLACES = 3  # changed residues whose profiles a panel shows
NEAR = 5.0  # Å between heavy atoms of the changed residue and of its neighbours
DECIMALS = 2  # of coordinates in Å
MAX_STRUCTURES = 8_000_000  # characters of all embedded structures together: about 300 of 500 residues
SCALE = 100  # log p and LLR are passed on as whole hundredths
# A residue that takes no other's place has no panel.
NO_PANEL = {
    ProteinReason.SAME_PROTEIN,
    ProteinReason.STOP_OR_FRAMESHIFT,
    ProteinReason.START_LOST,
    ProteinReason.CROSSES_EXON_END,
    ProteinReason.INCOMPLETE_CDS,
    ProteinReason.INTERNAL_STOP,
    ProteinReason.AMBIGUOUS_CODON,
    ProteinReason.GENETIC_CODE_UNKNOWN,
}


@dataclass
class Evidence:
    """What the protein stage found, for the proteins that panels or pages show.

    Attributes:
        proteins: columns.PROTEINS. models, structure_models: profiles by model and protein.
        residues: columns.RESIDUE_FEATURES, or None. structures: the structure of each protein
        (structure_features.STRUCTURE_OF_PROTEIN), or None.
    """

    proteins: pandas.DataFrame
    models: Mapping[str, Mapping[str, Profile]] = field(default_factory=dict)
    structure_models: Mapping[str, Mapping[str, Profile]] = field(default_factory=dict)
    residues: pandas.DataFrame | None = None
    structures: pandas.DataFrame | None = None


def read_evidence(
    proteins: Path,
    chosen: Sequence[str] | None = None,
    protein_models: Sequence[str] = (),
    profiles: Sequence[Path] = (),
    structure_models: Sequence[str] = (),
    structure_profiles: Sequence[Path] = (),
    residues: Path | None = None,
    structures: Path | None = None,
) -> Evidence:
    """The protein stage's tables, of the `chosen` proteins alone; None for all of them.

    Args:
        profiles: of each model all its shards, in the models' order; likewise `structure_profiles`.

    Raises:
        BadInput: a file is missing, or a table is not what it should be.
    """
    import pandas

    from seqprior.files import require_file
    from seqprior.profiles import by_model, of_proteins

    for path, what in ((proteins, "proteins"), (residues, "residues' features"), (structures, "structures")):
        if path is not None:
            require_file(path, f"table of {what}")
    table = pandas.read_parquet(proteins)
    if chosen is not None:
        table = table[table["protein"].isin(list(chosen))]
    sequences = dict(zip(table["protein"], table["sequence"], strict=True))

    def own(path: Path | None) -> pandas.DataFrame | None:
        return None if path is None else pandas.read_parquet(path, filters=of_proteins(sequences))

    return Evidence(
        table.reset_index(drop=True),
        by_model(list(protein_models), list(profiles), sequences, "--profiles"),
        by_model(list(structure_models), list(structure_profiles), sequences, "--structure-profiles"),
        own(residues),
        own(structures),
    )


def panels_of_run(ranked: pandas.DataFrame, limit: int, **tables: Any) -> tuple[dict[str, Any] | None, dict[str, int]]:
    """The panels of the first `limit` rows that have one, and the number of proteins by the source of their structure.

    Args:
        tables: paths and models as `read_evidence` takes them.
    """
    import pandas

    rows = rows_with_panels(ranked, limit)
    evidence = read_evidence(**tables, chosen=list(dict.fromkeys(rows["protein"])) if len(rows) else [])
    sources: dict[str, int] = {}
    if tables.get("structures"):
        found = pandas.read_parquet(tables["structures"], columns=["source", "reason"])
        used = found[found["reason"].fillna("") == ""]
        sources = {str(source): int(number) for source, number in used["source"].value_counts().items() if source}
    return protein_panels(rows, evidence), sources


def rows_with_panels(ranked: pandas.DataFrame, limit: int) -> pandas.DataFrame:
    """The first `limit` rows that replace, insert or delete residues; none of a run without proteins."""
    if "residue" not in ranked or "protein" not in ranked:
        return ranked.head(0)
    reason = ranked["protein_reason"] if "protein_reason" in ranked else ranked["protein"] * 0
    chosen = ranked["residue"].notna() & ranked["protein"].notna() & ~reason.isin(list(map(str, NO_PANEL)))
    return ranked[chosen].head(limit)


def protein_panels(rows: pandas.DataFrame, evidence: Evidence) -> dict[str, Any] | None:
    """The panels of some rows of the ranked table (see `rows_with_panels`), as data for the page.

    Returns:
        letters: order of the profiles. scale: what whole numbers are multiples of. structures: see `embedded`.
        panels: by variant_id. None if there is no row whose protein is known.

    Raises:
        BadInput: a structure cannot be read.
    """
    sequences = dict(zip(evidence.proteins["protein"], evidence.proteins["sequence"], strict=True))
    facts = evidence.proteins.set_index("protein")
    shelf = _Structures(evidence)
    panels = {}
    for row in rows.to_dict("records"):
        protein = row["protein"]
        if protein not in sequences or not 1 <= int(row["residue"]) <= len(sequences[protein]):
            continue
        panel = _panel(row, sequences[protein], evidence)
        panel["genes"] = str(facts.at[protein, "genes"])
        panel |= shelf.view(row, sequences[protein])
        panels[str(row["variant_id"])] = panel
    if not panels:
        return None
    return {"letters": AMINO_ACIDS, "scale": SCALE, "structures": shelf.embedded, "panels": panels}


def text_of(row: Mapping[str, Any], key: str) -> str:
    """A text cell; empty where the column or the value is missing."""
    value = row.get(key)
    return "" if is_missing(value) else str(value)


def _panel(row: Mapping[str, Any], sequence: str, evidence: Evidence) -> dict[str, Any]:
    """One panel without its structure. Residues are 0-based."""
    start = int(row["residue"]) - 1
    ref, alt = text_of(row, "residue_ref"), text_of(row, "residue_alt")
    low, high = max(0, start - AROUND), min(len(sequence), start + AROUND + 1)
    strips = residue_strips(evidence.residues, row["protein"], low, high)
    answers = [(model, "protein", found) for model, found in evidence.models.items()]
    answers += [(model, "structure", found) for model, found in evidence.structure_models.items()]
    profiles, heat = [], []
    for model, kind, found in answers:
        profile = found.get(row["protein"])
        if profile is None:
            continue
        profiles += [
            {
                "model": model,
                "kind": kind,
                "method": profile.method(place),
                "residue": place,
                "ref": sequence[place],
                "alt": alt[place - start] if len(ref) == len(alt) and alt[place - start] in AMINO_ACIDS else "",
                "logp": _hundredths(profile.logp[place]),
            }
            for place in range(start, min(start + min(max(len(ref), 1), PLACES), len(sequence)))
            if profile.method(place)
        ]
        for logp, method in ((profile.whole, profile.whole_method), (profile.masked, profile.masked_method)):
            known = [letter in AMINO_ACIDS for letter in sequence[low:high]]
            if method and not np.isnan(logp[low:high][known]).any():
                llr = profile.llr(logp)[low:high]
                rows = [None if np.isnan(line).any() else _hundredths(line) for line in llr]
                heat.append({"model": model, "kind": kind, "method": method, "llr": rows})
                break
    return {
        "change": text_of(row, "protein_hgvs_p") or text_of(row, "hgvs_p"),
        "transcript": text_of(row, "protein_transcript"),
        "uniprot": text_of(row, "uniprot"),
        "length": len(sequence),
        "first": low,
        "sequence": sequence[low:high],
        "start": start,
        "ref": ref,
        "alt": alt,
        **strips,
        "profiles": profiles,
        "heat": heat,
        "scores": scores_of(row),
        "features": feature_rows(row),
        "haplotype": haplotype_text(row),
    }


def _hundredths(values: np.ndarray) -> list[int]:
    return np.rint(np.clip(values.astype(float), -300, 300) * SCALE).astype(int).tolist()


def residue_strips(residues: pandas.DataFrame | None, protein: str, low: int, high: int) -> dict[str, Any]:
    """Features of residues [low, high): `sse` as a string of H, E, C and - for unknown; `plddt` and `rsa` or None each.

    A strip of which nothing is known is empty.
    """
    size = high - low
    sse, plddt, rsa = ["-"] * size, [None] * size, [None] * size
    if residues is not None:
        own = residues[(residues["protein"] == protein) & residues["residue"].between(low, high - 1)]
        for line in own.itertuples(index=False):
            place = int(line.residue) - low
            if not is_missing(line.secondary_structure) and line.secondary_structure in ("H", "E", "C"):
                sse[place] = line.secondary_structure
            plddt[place] = None if is_missing(line.plddt) else round(float(line.plddt))
            exposed = line.relative_solvent_accessibility
            rsa[place] = None if is_missing(exposed) else round(float(exposed), 2)
    return {
        "sse": "".join(sse) if set(sse) != {"-"} else "",
        "plddt": plddt if any(value is not None for value in plddt) else [],
        "rsa": rsa if any(value is not None for value in rsa) else [],
    }


def scores_of(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """LLR and z of each model that has one, as text."""
    found = []
    for kind in ("protein", "structure"):
        for key in row:
            stem, _, model = str(key).partition(".")
            if stem == f"{kind}_llr" and not is_missing(row[key]):
                z = row.get(f"{kind}_z.{model}")
                found.append({"model": model, "kind": kind, "llr": figure(row[key]), "z": figure(z)})
                found[-1]["method"] = text_of(row, f"{kind}_method.{model}").replace("_", " ")
    return found


def haplotype_text(row: Mapping[str, Any]) -> str:
    """A sentence on alleles of the same codon on the same chromosome; empty without any."""
    change, others = text_of(row, "haplotype_hgvs_p"), text_of(row, "haplotype_with")
    if not change:
        return ""
    carriers = row.get("haplotype_carriers")
    seen = "" if is_missing(carriers) else f", on {int(carriers):,} {'chromosome' if carriers == 1 else 'chromosomes'}"
    return f"Together with {others.replace('+', ' and ')} the change is {change}{seen}."


# --- features in words ---


def feature_rows(row: Mapping[str, Any]) -> list[list[str]]:
    """Label, value and meaning of what a substitution and the structure say, of that which is known."""
    rows = []
    for key, label, unit, says in FEATURE_WORDS:
        value = row.get(key)
        if is_missing(value) or value == "":
            continue
        if isinstance(value, str):
            shown = value
        else:
            value = float(value)
            shown = f"{value:+.3g}" if key in SIGNED and value else figure(value)
            shown = f"{value:,.0f}" if value.is_integer() and key not in SIGNED else shown
            shown = shown.replace("-", "−")
        rows.append([label, f"{shown}{unit}", says(value)])
    return rows


def _confidence(value: float) -> str:
    grade = "very high" if value >= 90 else "high" if value >= 70 else "low" if value >= 50 else "very low"
    tail = ", likely disordered" if value < 50 else ""
    return f"{grade} confidence of the prediction{tail}; says nothing of damage"


def _exposure(value: float) -> str:
    return "buried" if value < 0.2 else "partly exposed" if value < 0.5 else "exposed to water"


def _substitution(value: float) -> str:
    if value >= 1:
        return "common among related proteins"
    return "as common as by chance" if value == 0 else "rare among related proteins"


def _greasiness(value: float) -> str:
    size = "much " if abs(value) >= 4 else ""
    return "much the same" if abs(value) < 1 else f"{size}{'more' if value > 0 else 'less'} hydrophobic"


def _site(value: float) -> str:
    return "an annotated site itself" if value == 0 else "to the nearest annotated site"


FOLDS = {"H": "helix", "E": "strand", "C": "neither helix nor strand"}
SIGNED = {"blosum62", "hydrophobicity_change"}
FEATURE_WORDS = (
    ("blosum62", "BLOSUM62", "", _substitution),
    ("hydrophobicity_change", "Hydrophobicity", "", _greasiness),
    ("plddt", "pLDDT", "", _confidence),
    ("relative_solvent_accessibility", "Solvent accessibility", "", _exposure),
    ("secondary_structure", "Secondary structure", "", lambda value: FOLDS.get(value, "unknown")),
    ("contact_number", "Contacts", "", lambda value: "residues within 10 Å; many in a protein's core"),
    ("half_sphere_up", "Half sphere, up", "", lambda value: "residues within 13 Å on the side chain's side"),
    ("half_sphere_down", "Half sphere, down", "", lambda value: "residues within 13 Å on the other side"),
    ("site_distance", "Site", " Å", _site),
    ("pae_domain", "Domain", "", lambda value: "in no domain" if value < 0 else "number, by predicted aligned error"),
)


# --- structures ---


class _Structures:
    """Structures that panels show, each embedded once, as long as there is room."""

    def __init__(self, evidence: Evidence) -> None:
        self.embedded: list[dict[str, Any]] = []
        self._rows: dict[str, Mapping[str, Any]] = {}
        if evidence.structures is not None:
            self._rows = {row["protein"]: row for row in evidence.structures.to_dict("records")}
        self._features = evidence.residues
        self._known: dict[tuple, tuple[Structure, Alignment, int | None]] = {}
        self._used = 0

    def view(self, row: Mapping[str, Any], sequence: str) -> dict[str, Any]:
        """What a panel shows of a structure: `structure`, index into `embedded`, or None and a `note` that says why.

        `place` are indices of the changed residues within the structure, `near` pairs of index and name of residues
        within 5 Å of them.
        """
        none: dict[str, Any] = {"structure": None, "place": [], "near": []}
        protein, start = row["protein"], int(row["residue"]) - 1
        found = self._rows.get(protein)
        if found is None:
            reason = text_of(row, "structure_reason")
            return none | {"note": sentence(reason) if reason else ""}
        file = self._file(found, protein, start)
        if file is None:
            return none | {"note": sentence(text_of(found, "reason") or str(ProteinReason.NOT_IN_STRUCTURE))}
        structure, alignment, number = self._read(file, found, sequence)
        changed = slice(start, start + max(1, len(text_of(row, "residue_ref"))))
        places = alignment.index[changed][alignment.agrees[changed]].tolist()
        if not places:
            return none | {"note": sentence(ProteinReason.NOT_IN_STRUCTURE)}
        near = neighbours_of(structure, places)
        names = residue_names(alignment, structure.sequence)
        shown = {"place": places, "near": [[at, names[at]] for at in near]}
        if number is None:
            note = "The structure is left out of this page to bound its size; those of higher ranks are in it."
            return none | shown | {"note": note}
        return {"structure": number, "note": "", **shown}

    def _file(self, found: Mapping[str, Any], protein: str, start: int) -> tuple[str, str | None] | None:
        """Path and chain of the structure that has the residue; the first, if features do not tell which."""
        paths = _listed(found.get("paths")) or _listed(found.get("path"))
        chains = _listed(found.get("chains")) or [None] * len(paths)
        if not paths or text_of(found, "reason"):
            return None
        if self._features is not None:
            own = self._features[(self._features["protein"] == protein) & (self._features["residue"] == start)]
            for name, chain in zip(own["structure"], own["chain"], strict=True):
                for path, other in zip(paths, chains, strict=False):
                    if Path(path).name == Path(str(name)).name and other in (None, chain):
                        return path, other
        return paths[0], chains[0]

    def _read(self, file: tuple[str, str | None], found: Mapping[str, Any], sequence: str):
        """The structure, its alignment and its number among those embedded; None if it is beyond the bound."""
        from seqprior.structures import align, best_chain, read_chains, read_structure

        key = (*file, found["protein"])
        if key not in self._known:
            path, chain = Path(file[0]), file[1]
            if chain is None:
                structure, alignment = best_chain(read_chains(path), sequence)
            else:
                structure = read_structure(path, chain)
                alignment = align(structure.sequence, sequence)
            entry = embedded(structure, alignment, found)
            number: int | None = None
            if self._used + len(entry["data"]) <= MAX_STRUCTURES:
                self._used += len(entry["data"])
                number = len(self.embedded)
                self.embedded.append(entry)
            self._known[key] = structure, alignment, number
        return self._known[key]


def _listed(value: object) -> list[str]:
    """A cell of paths: a list or array of them, or one; empty for none."""
    if isinstance(value, np.ndarray | list | tuple):
        return [str(part) for part in value]
    return [] if is_missing(value) or not str(value) else [str(value)]


def sentence(reason: str) -> str:
    """A reason as a sentence of its own."""
    text = PROTEIN_REASON_TEXT.get(reason, str(reason))  # type: ignore[call-overload]
    return f"No structure is shown: {text}."


def embedded(structure: Structure, alignment: Alignment, found: Mapping[str, Any]) -> dict[str, Any]:
    """A structure for the page.

    Returns:
        data: BinaryCIF, gzip, base64, of all heavy atoms, whose residues are numbered from 1 in the structure's order
        and whose B-factors are pLDDT. confident: whether pLDDT is known. sse: H, E or C for each residue.
        runs: [first residue of the structure, residue of the protein that it stands for, how many follow], 0-based.
        about: where it comes from, in words.
    """
    from seqprior.structure_features import secondary_structure
    from seqprior.structures import plddt

    confidence, _ = plddt(structure)
    version = text_of(found, "version")
    accession = text_of(found, "accession")
    about = [text_of(found, "source").replace("_", " ").replace("alphafold db", "AlphaFold DB")]
    about += [accession] if accession else []
    about += [f"version {version.removeprefix('v')}"] if version else []
    about.append(Path(structure.path).name)
    return {
        "data": binary_cif(structure, np.full(len(structure), -1.0) if confidence is None else confidence),
        "confident": confidence is not None,
        "sse": "".join(secondary_structure(structure)),
        "residues": len(structure),
        "runs": runs_of(alignment.index),
        "about": ", ".join(filter(None, about)),
    }


def binary_cif(structure: Structure, b_factors: np.ndarray) -> str:
    """A structure as BinaryCIF (Sehnal et al. 2020, doi:10.1371/journal.pcbi.1008247), gzip and base64.

    Args:
        b_factors: float (N,), one for each residue. Residues are numbered from 1 and insertion codes are left out.
    """
    from biotite.structure.io import pdbx

    atoms = structure.atoms.copy()
    residue = np.repeat(np.arange(len(structure)), np.diff(structure.starts, append=atoms.array_length()))
    atoms.coord = np.round(atoms.coord, DECIMALS)
    atoms.res_id = (residue + 1).astype(int)
    atoms.ins_code[:] = ""
    atoms.chain_id[:] = "A"
    atoms.hetero[:] = False
    atoms.set_annotation("b_factor", np.round(b_factors[residue]).astype(np.float32))
    file = pdbx.BinaryCIFFile()
    pdbx.set_structure(file, atoms, data_block="structure")
    # The viewer's reader takes this table for granted; the identity alone is in it.
    file.block["pdbx_struct_oper_list"] = pdbx.BinaryCIFCategory({"id": np.array(["1"])})
    written = io.BytesIO()
    pdbx.compress(file).write(written)
    return base64.b64encode(gzip.compress(written.getvalue(), 9, mtime=0)).decode("ascii")


def runs_of(index: np.ndarray) -> list[list[int]]:
    """Stretches over which both count alike; `index` is the structure's residue at each of the protein's, else -1."""
    runs: list[list[int]] = []
    for protein, structure in enumerate(index.tolist()):
        if structure < 0:
            continue
        if runs and runs[-1][0] + runs[-1][2] == structure and runs[-1][1] + runs[-1][2] == protein:
            runs[-1][2] += 1
        else:
            runs.append([structure, protein, 1])
    return runs


def neighbours_of(structure: Structure, places: Sequence[int], radius: float = NEAR) -> list[int]:
    """Other residues with a heavy atom within `radius` Å of one of the residues `places`; indices in order."""
    from biotite.structure import CellList

    atoms = structure.atoms
    residue = np.repeat(np.arange(len(structure)), np.diff(structure.starts, append=atoms.array_length()))
    own = np.isin(residue, places)
    close = CellList(atoms, cell_size=radius).get_atoms(atoms.coord[own], radius)
    near = set(residue[close[close >= 0]].tolist()) - set(places)
    return sorted(near)


def residue_names(alignment: Alignment, sequence: str) -> list[str]:
    """Name of each residue of a structure as the protein counts it, `R175`; its letter alone outside of the protein."""
    names = list(sequence)
    for protein, at in enumerate(alignment.index.tolist()):
        if at >= 0:
            names[at] = f"{sequence[at]}{protein + 1}"
    return names
