"""Base codes and whole-genome reading. Codes: A, C, G, T = 0..3, everything else 4, case ignored."""

from __future__ import annotations

from pathlib import Path

import numpy as np

UNKNOWN = 4
BASES = "ACGT"
_CODE_OF = np.full(256, UNKNOWN, np.uint8)
for _code, _base in enumerate(BASES):
    _CODE_OF[ord(_base)] = _CODE_OF[ord(_base.lower())] = _code
_COMPLEMENT = str.maketrans("ACGTRYSWKMBDHVNacgtryswkmbdhvn", "TGCAYRSWMKVHDBNtgcayrswmkvhdbn")


def encode(sequence: str | bytes) -> np.ndarray:
    """Base codes, uint8 (L,)."""
    raw = sequence.encode("ascii") if isinstance(sequence, str) else sequence
    return _CODE_OF[np.frombuffer(raw, np.uint8)]


def reverse_complement(sequence: str) -> str:
    """The other strand, 5' to 3', with IUPAC codes and case kept."""
    return sequence.translate(_COMPLEMENT)[::-1]


def read_genome(fasta: Path) -> dict[str, np.ndarray]:
    """Base codes of every contig of an indexed FASTA, in file order. Memory: one byte a base."""
    import pysam

    with pysam.FastaFile(str(fasta)) as reference:
        return {name: encode(reference.fetch(name)) for name in reference.references}
