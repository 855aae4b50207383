"""Amino acids: their order in every table and array of residues, and what is known of each without a model."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"  # the 20 that a model is asked for; U, O and X are read and never asked for
INDEX_OF = {letter: index for index, letter in enumerate(AMINO_ACIDS)}

# Kyte and Doolittle (1982), doi:10.1016/0022-2836(82)90515-0; higher is more hydrophobic.
_HYDROPHOBICITIES = (1.8, 2.5, -3.5, -3.5, 2.8, -0.4, -3.2, 4.5, -3.9, 3.8)
_HYDROPHOBICITIES += (1.9, -3.5, -1.6, -3.5, -4.5, -0.8, -0.7, 4.2, -0.9, -1.3)
HYDROPHOBICITY = dict(zip(AMINO_ACIDS, _HYDROPHOBICITIES, strict=True))


def protein_id(sequence: str) -> str:
    """Name of a protein in tables: the first 16 hexadecimal digits of the SHA-256 of its residues."""
    return hashlib.sha256(sequence.encode("ascii")).hexdigest()[:16]


@lru_cache(maxsize=1)
def blosum62() -> np.ndarray:
    """BLOSUM62 in the order of `AMINO_ACIDS`, float64 (20, 20). Henikoff and Henikoff (1992), by Biopython."""
    import numpy as np
    from Bio.Align import substitution_matrices

    matrix = substitution_matrices.load("BLOSUM62")
    return np.array([[matrix[a][b] for b in AMINO_ACIDS] for a in AMINO_ACIDS], float)
