"""A small run with proteins, made up for tests: helices, random profiles, and the rows of a ranked table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from protein_builder import build

from seqprior.columns import PROFILES, RANKED_LEAD, RANKED_TAIL
from seqprior.residues import AMINO_ACIDS, HYDROPHOBICITY, INDEX_OF, blosum62, protein_id

HOSTILE = "<script>document.title='owned'</script>"
MODELS, STRUCTURE_MODELS = ("esm-a", "esm-b"), ("mpnn",)


def helix(sequence: str):
    """An alpha helix as biotite atoms, pLDDT falling from 96 to 40."""
    atoms = build(sequence)
    atoms.b_factor = np.round(96 - 56 * (atoms.res_id - 1) / max(len(sequence) - 1, 1))
    return atoms


def write_pdb(sequence: str, path: Path) -> Path:
    from biotite.structure.io import pdb

    file = pdb.PDBFile()
    file.set_structure(helix(sequence))
    file.write(path)
    return path


def write_profiles(path: Path, rows: list[tuple[str, int, str, np.ndarray]]) -> Path:
    """A table of `columns.PROFILES`."""
    pd.DataFrame([(p, r, m, v.tolist()) for p, r, m, v in rows], columns=list(PROFILES)).to_parquet(path, index=False)
    return path


def log_softmax(values: np.ndarray) -> np.ndarray:
    return values - np.log(np.exp(values).sum(axis=-1, keepdims=True))


class ProteinRun:
    """Files and tables of a run over two proteins, the second without a structure.

    Attributes:
        sequences: residues by protein. logp: by model and protein, (L, 20) of the wild-type marginals.
        files: what `panels.read_evidence` takes. ranked: rows that change residues, then some that do not.
    """

    def __init__(self, folder: Path, sizes: tuple[int, int] = (48, 25), gene: str = HOSTILE, changes: int = 12) -> None:
        random = np.random.default_rng(11)
        letters = list(AMINO_ACIDS)
        self.sequences = {}
        for size in sizes:
            sequence = "M" + "".join(random.choice(letters, size - 1))
            self.sequences[protein_id(sequence)] = sequence
        first, second = self.sequences
        self.proteins = pd.DataFrame(
            {
                "protein": [first, second],
                "sequence": [self.sequences[first], self.sequences[second]],
                "transcripts": ["T1,T2", "T3"],
                "genes": [gene, "GENE2"],
                "accessions": ["P00001", ""],
            }
        )
        pdb = write_pdb(self.sequences[first], folder / "AF-P00001-F1-model_v4.pdb")
        self.structures = pd.DataFrame(
            [
                (first, "P00001", "alphafold_db", "4", str(pdb), [str(pdb)], ["A"], "scored", ""),
                (second, "", "", "", "", [], [], "skipped", "no_structure"),
            ],
            columns=["protein", "accession", "source", "version", "path", "paths", "chains", "status", "reason"],
        )
        size = sizes[0]
        self.residues = pd.DataFrame(
            {
                "protein": first,
                "residue": np.arange(size),
                "structure": pdb.name,
                "chain": "A",
                "number": np.arange(size) + 1,
                "plddt": np.linspace(96, 40, size).astype(np.float32),
                "relative_solvent_accessibility": random.uniform(0, 1, size).astype(np.float32),
                "secondary_structure": ["H"] * (size - 5) + ["C"] * 5,
                "contact_number": random.integers(3, 20, size),
                "half_sphere_up": 5,
                "half_sphere_down": 9,
                "site_distance": np.float32(np.nan),
                "pae_domain": -1,
            }
        )
        self.logp, profiles = {}, {}
        for model in (*MODELS, *STRUCTURE_MODELS):
            method = "unconditional" if model in STRUCTURE_MODELS else "wild_type_marginal"
            rows = []
            self.logp[model] = {}
            for protein, sequence in self.sequences.items():
                if model in STRUCTURE_MODELS and protein == second:
                    continue
                values = log_softmax(random.normal(0, 2, (len(sequence), 20)))
                self.logp[model][protein] = values
                rows += [(protein, residue, method, values[residue]) for residue in range(len(sequence))]
            # One model in two shards, as a cohort has them.
            shards = [[row for row in rows if row[0] == protein] for protein in self.sequences]
            shards = shards if model in MODELS else [rows]
            profiles[model] = [write_profiles(folder / f"{model}.{n}.parquet", shard) for n, shard in enumerate(shards)]
        paths = {}
        for name in ("proteins", "residues", "structures"):
            paths[name] = folder / f"{name}.parquet"
            getattr(self, name).to_parquet(paths[name], index=False)
        self.files = {
            **paths,
            "protein_models": list(MODELS),
            "profiles": [path for model in MODELS for path in profiles[model]],
            "structure_models": list(STRUCTURE_MODELS),
            "structure_profiles": [path for model in STRUCTURE_MODELS for path in profiles[model]],
        }
        self.ranked = self._ranked(random, changes)

    def z(self, model: str, protein: str, residue: int, alt: str) -> float:
        """By a loop over every substitution of the protein."""
        values, sequence = self.logp[model][protein], self.sequences[protein]
        llrs = [
            values[place, other] - values[place, INDEX_OF[letter]]
            for place, letter in enumerate(sequence)
            for other in range(20)
            if AMINO_ACIDS[other] != letter
        ]
        llr = values[residue, INDEX_OF[alt]] - values[residue, INDEX_OF[sequence[residue]]]
        return float((np.mean(llrs) - llr) / np.std(llrs))

    def _ranked(self, random: np.random.Generator, changes: int) -> pd.DataFrame:
        rows = []
        proteins = list(self.sequences)
        for number in range(changes + 6):
            row = {
                "rank": number + 1,
                "chrom": "chr1",
                "pos": 1000 + 10 * number,
                "ref": "A",
                "alt": "G",
                "gene": "GENE1",
                "transcript": "T1",
                "consequence": "missense_variant",
                "hgvs_p": "",
                "score": 10.0 - number,
                "score_low": 9.0 - number,
                "score_high": 11.0 - number,
                "llr.mini": -1.0,
                "llr_calibrated.mini": -0.5,
                "input_count": 1 + number % 2,
                "status": "scored",
                "reason": "",
            }
            row["variant_id"] = f"chr1-{row['pos']}-A-G"
            row |= {"protein_status": "", "protein_reason": ""}
            if number < changes:
                protein = proteins[1] if number % 4 == 3 else proteins[0]
                sequence = self.sequences[protein]
                residue = int(random.integers(1, len(sequence)))
                ref = sequence[residue]
                alt = str(random.choice([letter for letter in AMINO_ACIDS if letter != ref]))
                row |= {
                    "protein_transcript": "T1" if protein == proteins[0] else "T3",
                    "protein": protein,
                    "uniprot": "P00001" if protein == proteins[0] else "",
                    "residue": residue + 1,
                    "residue_ref": ref,
                    "residue_alt": alt,
                    "protein_hgvs_p": f"p.{ref}{residue + 1}{alt}",
                    "blosum62": float(blosum62()[INDEX_OF[ref], INDEX_OF[alt]]),
                    "hydrophobicity_change": HYDROPHOBICITY[alt] - HYDROPHOBICITY[ref],
                    "protein_status": "scored",
                    "structure_reason": "" if protein == proteins[0] else "no_structure",
                }
                for model in (*MODELS, *STRUCTURE_MODELS):
                    values = self.logp[model].get(protein)
                    if values is None:
                        continue
                    kind = "structure" if model in STRUCTURE_MODELS else "protein"
                    row[f"{kind}_llr.{model}"] = float(values[residue, INDEX_OF[alt]] - values[residue, INDEX_OF[ref]])
                    row[f"{kind}_z.{model}"] = self.z(model, protein, residue, alt)
                    row[f"{kind}_method.{model}"] = "wild_type_marginal" if kind == "protein" else "unconditional"
                if protein == proteins[0]:
                    features = self.residues.iloc[residue]
                    for name in ("plddt", "relative_solvent_accessibility", "secondary_structure", "contact_number"):
                        row[name] = features[name]
            elif number < changes + 3:
                protein = proteins[0]
                row |= {
                    "protein": protein,
                    "residue": 7,
                    "residue_ref": self.sequences[protein][6],
                    "residue_alt": "*",
                    "protein_status": "skipped",
                    "protein_reason": "stop_or_frameshift" if number % 2 else "same_protein",
                }
            else:
                row["consequence"] = "intergenic_variant"
            rows.append(row)
        table = pd.DataFrame(rows)
        table["residue"] = table["residue"].astype("Int64")
        evidence = [column for column in table if column not in (*RANKED_LEAD, *RANKED_TAIL)]
        return table[[*RANKED_LEAD, *evidence, *RANKED_TAIL]]
