"""Saturation: every substitution of chosen proteins, as a table and as a page of heat maps."""

from __future__ import annotations

import base64
import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqprior.columns import RESIDUE_FEATURES
from seqprior.errors import BadInput
from seqprior.files import written_whole
from seqprior.report import environment, inlined, is_missing, policy_of
from seqprior.residues import AMINO_ACIDS, HYDROPHOBICITY, INDEX_OF, blosum62

if TYPE_CHECKING:
    from seqprior.panels import Evidence
    from seqprior.profiles import Profile

FEATURES = RESIDUE_FEATURES[RESIDUE_FEATURES.index("plddt") :]
LEAD = ("gene", "transcript", "protein", "residue", "ref", "alt", "hgvs_p")
SUBSTITUTION = ("blosum62", "hydrophobicity_change")
SCALE = 100  # LLRs of the page are whole hundredths
NO_SCORE = -32768
STYLES = ("report.css", "panels.css")
SCRIPTS = ("marks.js", "saturation.js")


def hgvs(residue: int, ref: str, alt: str) -> str:
    """HGVS name of one residue for another, `p.Arg175His`. What a change of the first methionine gives is not known.

    `residue` is 1-based. HGVS nomenclature, https://hgvs-nomenclature.org, protein substitutions.
    """
    from Bio.Data.IUPACData import protein_letters_1to3_extended as names

    if residue == 1 and ref == "M":
        return "p.Met1?"
    return f"p.{names.get(ref, 'Xaa')}{residue}{names[alt]}"


def models_of(evidence: Evidence) -> list[tuple[str, str, Mapping[str, Profile]]]:
    """Kind (`protein` or `structure`), name and profiles of each model, in order."""
    found = [("protein", model, profiles) for model, profiles in evidence.models.items()]
    return found + [("structure", model, profiles) for model, profiles in evidence.structure_models.items()]


def table_columns(evidence: Evidence) -> list[str]:
    """Columns of the table."""
    scores = [f"{kind}_{score}.{model}" for kind, model, _ in models_of(evidence) for score in ("llr", "z", "method")]
    features = [] if evidence.residues is None else FEATURES
    return [*LEAD, *scores, *SUBSTITUTION, *features]


def write_table(evidence: Evidence, output: Path) -> int:
    """Write every substitution of every residue, tab-separated, by protein, residue (1-based) and alternative.

    A residue that is none of the 20 has all 20 alternatives, without scores. Genes and transcripts of one protein are
    joined by commas. An empty cell is a value that is not known.

    Returns:
        The number of rows.

    Raises:
        BadInput: there is no protein.
    """
    if evidence.proteins.empty:
        raise BadInput(f"{output.name}: no protein to write; name genes or transcripts in protein.saturation")
    rows = 0
    with written_whole(output) as partial, partial.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle, delimiter="\t", lineterminator="\n")
        writer.writerow(table_columns(evidence))
        for protein in evidence.proteins.to_dict("records"):
            for row in _rows_of(protein, evidence):
                writer.writerow(row)
                rows += 1
    return rows


def _rows_of(protein: Mapping[str, Any], evidence: Evidence) -> Iterator[list[str]]:
    sequence, name = protein["sequence"], protein["protein"]
    scores = []
    for _, _, profiles in models_of(evidence):
        profile = profiles.get(name)
        if profile is None:
            scores.append(None)
        else:
            methods = [profile.method(residue) for residue in range(len(sequence))]
            scores.append((profile.llr(), profile.z(), methods))
    features = _features_of(name, len(sequence), evidence)
    for residue, ref in enumerate(sequence):
        lead = [protein["genes"], protein["transcripts"], name, str(residue + 1), ref]
        own = [] if features is None else features[residue]
        for place, alt in enumerate(AMINO_ACIDS):
            if alt == ref:
                continue
            cells = [*lead, alt, hgvs(residue + 1, ref, alt)]
            for found in scores:
                if found is None:
                    cells += ["", "", ""]
                else:
                    llr, z, methods = found
                    value = _cell(llr[residue, place])
                    cells += [value, _cell(z[residue, place]), methods[residue] if value else ""]
            known = ref in INDEX_OF
            cells.append(f"{blosum62()[INDEX_OF[ref], place]:.0f}" if known else "")
            cells.append(f"{HYDROPHOBICITY[alt] - HYDROPHOBICITY[ref]:.1f}" if known else "")
            yield cells + own


def _cell(value: float) -> str:
    """A number of five significant digits; empty where there is none."""
    return f"{value:.5g}" if math.isfinite(value) else ""


def _features_of(protein: str, length: int, evidence: Evidence) -> list[list[str]] | None:
    """Cells of each residue's features; None of a run without structures."""
    if evidence.residues is None:
        return None
    cells = [[""] * len(FEATURES) for _ in range(length)]
    own = evidence.residues[evidence.residues["protein"] == protein]
    for line in own[["residue", *FEATURES]].itertuples(index=False):
        cells[int(line[0])] = [
            "" if is_missing(value) else value if isinstance(value, str) else _cell(float(value)) for value in line[1:]
        ]
    return cells


# --- the page ---


def packed(llr: np.ndarray) -> str:
    """LLRs (L, 20) for the page: int16 hundredths, little-endian, base64; `NO_SCORE` for none."""
    hundredths = np.where(np.isnan(llr), NO_SCORE, np.rint(np.clip(llr.astype(float), -320, 320) * SCALE))
    return base64.b64encode(hundredths.astype("<i2").tobytes()).decode("ascii")


def page_data(evidence: Evidence) -> dict[str, Any]:
    """What the page draws.

    Returns:
        letters, scale, missing: of the packed LLRs. proteins: each with its names, sequence, strips (as in
        `panels.residue_strips`), and by model the packed `llr`, `mean` and `sd` of all substitutions, from which z
        follows, and `methods` in use.
    """
    from seqprior.panels import residue_strips

    proteins = []
    for row in evidence.proteins.to_dict("records"):
        name, sequence = row["protein"], row["sequence"]
        models = []
        for kind, model, profiles in models_of(evidence):
            profile = profiles.get(name)
            if profile is None:
                continue
            mean, sd = profile.spread()
            methods = sorted({profile.method(residue) for residue in range(len(sequence))} - {""})
            models.append(
                {
                    "model": model,
                    "kind": kind,
                    "methods": methods,
                    "mean": mean if math.isfinite(mean) else None,
                    "sd": sd if math.isfinite(sd) else None,
                    "llr": packed(profile.llr()),
                }
            )
        strips = residue_strips(evidence.residues, name, 0, len(sequence))
        names = {key: str(row[key]) for key in ("protein", "genes", "transcripts", "accessions")}
        proteins.append({**names, "sequence": sequence, **strips, "models": models})
    return {"letters": AMINO_ACIDS, "scale": SCALE, "missing": NO_SCORE, "proteins": proteins}


def write_page(evidence: Evidence, output: Path, template_dir: Path, cohort: str = "") -> None:
    """Write the page of heat maps: one self-contained HTML file that loads nothing.

    Args:
        template_dir: folder of saturation.html.j2 and its assets. cohort: shown above the title.

    Raises:
        BadInput: there is no protein.
    """
    if evidence.proteins.empty:
        raise BadInput(f"{output.name}: no protein to draw; name genes or transcripts in protein.saturation")
    style, style_source = inlined(*(template_dir / name for name in STYLES))
    script, script_source = inlined(*(template_dir / name for name in SCRIPTS))
    data = page_data(evidence)
    text = (
        environment(template_dir)
        .get_template("saturation.html.j2")
        .render(
            cohort=cohort,
            data=data,
            rows=[_summary(protein) for protein in data["proteins"]],
            style=style,
            script=script,
            policy=policy_of(style_source, script_source),
        )
    )
    with written_whole(output) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")


def _summary(protein: Mapping[str, Any]) -> dict[str, Any]:
    """A protein's line in the page's table."""
    known: Sequence[float] = [value for value in protein["plddt"] if value is not None]
    return {
        "name": protein["genes"].replace(",", ", ") or protein["protein"],
        "transcripts": protein["transcripts"].replace(",", ", "),
        "accessions": protein["accessions"].replace(",", ", "),
        "residues": len(protein["sequence"]),
        "models": json.dumps([model["model"] for model in protein["models"]])[1:-1].replace('"', ""),
        "plddt": sum(known) / len(known) if known else None,
    }
