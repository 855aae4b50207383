"""Which positions of a genome are repeated: they flatter every model that memorises, so figures are given without."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

REPEAT_LENGTH = 24
UNKNOWN_KMER = np.uint64(2**64 - 1)  # stands for every k-mer with a letter other than A, C, G, T


def canonical_kmers(codes: np.ndarray, k: int) -> np.ndarray:
    """The k-mer that starts at each position, as the smaller of itself and its reverse complement.

    Args:
        codes: uint8 (L,) with A, C, G, T = 0..3 and anything above for other letters.
        k: at most 31.

    Returns:
        uint64 (L - k + 1,); k-mers with another letter are all ones.
    """
    count = len(codes) - k + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    forward = np.zeros(count, np.uint64)
    reverse = np.zeros(count, np.uint64)
    clean = (codes & 3).astype(np.uint64)
    for offset in range(k):
        base = clean[offset : offset + count]
        forward = (forward << np.uint64(2)) | base
        reverse |= (np.uint64(3) - base) << np.uint64(2 * offset)
    canonical = np.minimum(forward, reverse)
    bad = np.convolve(codes > 3, np.ones(k, np.int64), mode="valid") > 0
    canonical[bad] = UNKNOWN_KMER
    return canonical


def repeat_masks(genome: Mapping[str, np.ndarray], k: int = REPEAT_LENGTH) -> dict[str, np.ndarray]:
    """Positions covered by a k-mer that occurs more than once in the genome, on either strand: bool (L,) per contig."""
    kmers = {name: canonical_kmers(codes, k) for name, codes in genome.items()}
    pooled = np.sort(np.concatenate(list(kmers.values())))
    repeated = np.unique(pooled[1:][pooled[1:] == pooled[:-1]])
    repeated = repeated[repeated != UNKNOWN_KMER]
    masks = {}
    for name, codes in genome.items():
        starts = np.isin(kmers[name], repeated, kind="sort")
        edges = np.zeros(len(codes) + 1, np.int64)
        edges[: len(starts)] += starts
        edges[k : k + len(starts)] -= starts
        masks[name] = np.cumsum(edges)[: len(codes)] > 0
    return masks
