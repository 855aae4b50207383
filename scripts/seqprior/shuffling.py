"""Control sequence: random sequence with the dinucleotides of a given one.

Source: Altschul & Erickson 1985, Mol Biol Evol 2:526.

A sequence is a path over its dinucleotides, the edges of a graph of the four bases, and each rearrangement with the
same dinucleotides and the same first and last base is another path over all of them. Such a path is fixed by the order
in which the edges out of each base are taken, and an order is a path exactly if the edges taken last lead from every
base to the final one (BEST theorem; Kandel et al. 1996, Discrete Appl Math 71:171). So these last edges are drawn
first, among all trees they can form and by the number of edges that can serve, and the others in any order: every
rearrangement is equally likely.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from seqprior.sequence import BASES, UNKNOWN, encode


def dinucleotide_shuffle(sequence: str, seed: int) -> str:
    """A random rearrangement with exactly the same dinucleotides, each possible one with the same probability.

    Letters other than A, C, G and T stay where they are; each stretch between them is shuffled on its own and keeps
    its first and last base. The result is upper case, of the same length, and the same for the same seed (0 or more).
    """
    text = sequence.upper()
    codes = encode(text)
    shuffled = np.frombuffer(text.encode("ascii"), np.uint8).copy()
    letters = np.frombuffer(BASES.encode("ascii"), np.uint8)
    rng = np.random.default_rng(seed)
    borders = np.flatnonzero(np.diff(codes != UNKNOWN, prepend=False, append=False))
    for start, end in borders.reshape(-1, 2):
        shuffled[start:end] = letters[_shuffled(codes[start:end], rng)]
    return shuffled.tobytes().decode("ascii")


def _shuffled(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A rearrangement of the codes 0..3, uint8 (L,)."""
    if len(codes) < 4:  # the first and the last stay, and there is at most one between them
        return codes
    last_edge = _tree(codes, rng)
    following = []
    for base in range(len(BASES)):
        edges = codes[1:][codes[:-1] == base]
        if base in last_edge:
            at = int(np.flatnonzero(edges == last_edge[base])[0])
            edges = np.append(rng.permutation(np.delete(edges, at)), edges[at])
        else:
            edges = rng.permutation(edges)
        following.append(iter(edges.tolist()))
    base = int(codes[0])
    path = bytearray([base])
    for _ in range(len(codes) - 1):
        base = next(following[base])
        path.append(base)
    return np.frombuffer(bytes(path), np.uint8)


def _tree(codes: np.ndarray, rng: np.random.Generator) -> dict[int, int]:
    """To which base the last edge of each base but the final one leads: a tree towards the final base.

    Four bases have at most 27 choices, so all are weighed: the same distribution as Wilson's algorithm draws from,
    without its long walks where few edges lead out of a repeat.
    """
    pairs = np.bincount(codes[:-1].astype(np.int64) * 4 + codes[1:], minlength=16).reshape(4, 4).tolist()
    root = int(codes[-1])
    inner = [base for base in range(4) if base != root and any(pairs[base])]
    trees, weights = [], []
    for targets in product(range(4), repeat=len(inner)):
        tree = dict(zip(inner, targets, strict=True))
        weight = 1.0
        for base, target in tree.items():
            weight *= pairs[base][target]
        if weight and all(_leads_to(root, tree, base) for base in inner):
            trees.append(tree)
            weights.append(weight)
    return trees[int(rng.choice(len(trees), p=np.array(weights) / sum(weights)))]


def _leads_to(root: int, tree: dict[int, int], base: int) -> bool:
    for _ in range(len(tree)):
        if base == root:
            break
        base = tree[base]
    return base == root
