"""Features of genomic windows: a sequence model's states, of each base, as it reads either strand.

A base has the state of the token that stands for it (`Adapter.token_of_base`). Both readings are in forward order of
bases, so that reading a window's reverse complement gives the same two, exchanged and turned round. A projection onto
principal components makes the states few enough for a small classifier; it is fitted to random windows of the
reference, which have no labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seqprior.adapters import Adapter, strand_states
from seqprior.batching import Batcher
from seqprior.errors import BadInput
from seqprior.models import ModelFacts
from seqprior.vectors import HELD_BASES, Embedder
from seqprior.windows import padded, unknown_share

COMPONENTS = 64
FITTED_WINDOWS, FITTED_BASES = 200, 256  # random windows that a projection is fitted to, and their length
UNKNOWN_SHARE = 0.1  # of the bases of such a window
SMALLEST_VARIANCE = 1e-6  # of a component, as a share of the first; what is below is rounding


def context_of(facts: ModelFacts, window: int) -> int:
    """Bases either side of `window` that the model sees: its reach, or half of what its own window leaves."""
    return facts.window // 2 if facts.shares_windows else max((facts.window - window) // 2, 0)


@dataclass(frozen=True, eq=False)
class Projection:
    """Principal components of a variance of one each: features = (states - mean) @ matrix. float32 (H,) and (H, D)."""

    mean: Tensor
    matrix: Tensor

    def __call__(self, states: Tensor) -> Tensor:
        """States (..., H) to features (..., D)."""
        return (states - self.mean.to(states.device)) @ self.matrix.to(states.device)


class Reader:
    """Reads states of genomic windows through a loaded model."""

    def __init__(self, adapter: Adapter, batcher: Batcher, projection: Projection | None) -> None:
        self.adapter, self.batcher, self.projection = adapter, batcher, projection
        self._embedder = Embedder(adapter, batcher)

    def read(self, texts: Sequence[str], own: Sequence[tuple[int, int]]) -> list[tuple[Tensor, Tensor]]:
        """For each text the features (last - first, D) of its own bases, as read on the forward and the reverse strand.

        Both are float32, on the model's device and in forward order of bases. Without a projection D is the width of
        the model's states. A text that is longer than the model's window is read in overlapping pieces. Memory holds
        the states of some ten thousand bases beside the features.

        Args:
            texts: upper-case bases. own: 0-based half-open [first, last) within each text, not empty.

        Raises:
            BadInput: a text is too short for a token of the model.
        """
        read: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in texts]
        for chunk in self._chunks(texts, own):
            pieces = list(dict.fromkeys(text for _, text, _, _ in chunk))
            strands = dict(zip(pieces, self._strands(pieces), strict=True))
            for number, text, first, last in chunk:
                for parts, states in zip(read[number], strands[text], strict=True):
                    parts.append(self._projected(states[first:last]))
        return [(torch.cat(forward), torch.cat(reverse)) for forward, reverse in read]

    def _strands(self, texts: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """States (L, H) of each text's bases as read on the forward and the reverse strand, both in forward order."""
        strands = strand_states(self.adapter, self.batcher, texts)
        if self.adapter.strand_symmetric:
            return [(states, self.adapter.turned(states)) for states, _ in strands]
        return strands

    def _projected(self, states: Tensor) -> Tensor:
        return states.clone() if self.projection is None else self.projection(states)

    def _chunks(
        self, texts: Sequence[str], own: Sequence[tuple[int, int]]
    ) -> Iterator[list[tuple[int, str, int, int]]]:
        """Pieces with wanted bases, in portions whose states fit into memory.

        Each is the number of its text, its bases, and which of them [first, last) are wanted.
        """
        held = HELD_BASES.get(self.adapter.device.type, HELD_BASES["cuda"])
        chunk, bases = [], 0
        for number, (text, (first, last)) in enumerate(zip(texts, own, strict=True)):
            pieces = self._embedder.pieces(text)
            if not pieces:
                raise BadInput(
                    f"{self.adapter.scheme.facts.id}: a text of {len(text)} bases holds no token of the model; raise "
                    "regulatory.window or leave short contigs out"
                )
            for start, piece in pieces:
                begin, end = max(piece.first, first - start), min(piece.last, last - start)
                if begin >= end:
                    continue
                if chunk and bases + len(piece.text) > held:
                    yield chunk
                    chunk, bases = [], 0
                chunk.append((number, piece.text, begin, end))
                bases += len(piece.text)
        if chunk:
            yield chunk


def random_windows(fasta: Path, count: int, length: int, seed: int) -> list[str]:
    """Bases of up to `count` random windows of an indexed FASTA, each of `length` bases or a whole shorter contig.

    Raises:
        BadInput: no window that was drawn has few enough unknown bases.
    """
    import pysam

    rng = np.random.default_rng(seed)
    windows: list[str] = []
    with pysam.FastaFile(str(fasta)) as reference:
        lengths = np.array(reference.lengths)
        for contig in rng.choice(len(lengths), size=8 * count, p=lengths / lengths.sum()):
            start = int(rng.integers(max(lengths[contig] - length, 0) + 1))
            text = reference.fetch(reference.references[contig], start, start + length).upper()
            if unknown_share(text, 0, len(text)) <= UNKNOWN_SHARE:
                windows.append(padded(text, 0, len(text)))
            if len(windows) == count:
                break
    if not windows:
        raise BadInput(
            f"{fasta}: found no {length} known bases in a row to learn the spread of the model's states from; check "
            "the reference"
        )
    return windows


def fit_projection(reader: Reader, texts: Iterable[str], components: int = COMPONENTS) -> Projection:
    """Principal components of the states of all bases of some texts, both readings alike, scaled to a variance of one.

    Memory: one covariance, H squared, whatever the number of texts. The sign of each component is that which makes its
    largest weight positive.

    Args:
        reader: one without a projection. components: at most so many; fewer where the states have fewer dimensions.
    """
    count, total, products = 0, 0.0, 0.0
    for text in texts:
        for strand in reader.read([text], [(0, len(text))])[0]:
            states = strand.double()
            count += len(states)
            total = total + states.sum(0)
            products = products + states.T @ states
    mean = (total / count).cpu()
    covariance = (products / count).cpu() - mean[:, None] * mean
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0)[:components], vectors.flip(1)[:, :components]
    kept = values > values[0] * SMALLEST_VARIANCE
    values, vectors = values[kept], vectors[:, kept]
    largest = vectors.abs().argmax(0)
    vectors = vectors * vectors[largest, torch.arange(len(values))].sign()
    return Projection(mean.float(), (vectors / values.sqrt()).float())
