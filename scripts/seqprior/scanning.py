"""A scan of regions, or of the whole reference: information of every base and probabilities of elements.

Overlapping and touching regions are one. They are cut into blocks, which are what a shard holds and what memory holds;
neither the blocks nor the numbers depend on how many shards there are. Windows of an element start every `stride` bases
from a region's start, as far as they fit into it. Where a model answers for all positions of a text at once, its
states are computed once for the information and for all classifiers; a token model reads each window in the context
that its classifier was trained with.

The control is the same information of shuffled sequence with the same dinucleotides (`shuffling`).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise, repeat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from seqprior.batching import Progress
from seqprior.contigs import ContigNames
from seqprior.errors import BadInput
from seqprior.features import Projection, Reader
from seqprior.files import written_whole
from seqprior.information import MarginalReader, Stretch, information_tracks, state_marginals
from seqprior.regions import region_rows
from seqprior.sequence import UNKNOWN, encode
from seqprior.shuffling import dinucleotide_shuffle
from seqprior.tracks import PROBABILITY
from seqprior.windows import padded

if TYPE_CHECKING:
    from seqprior.heads import Head

log = logging.getLogger(__name__)

BLOCK = 50_000  # bases of a row of the output
TILE = 16_384  # positions whose states are computed together
CONTROL_PIECE = 5000  # bases of the control that are shuffled together
HEAD_WINDOWS = 256  # windows that a classifier is given together
READ_WINDOWS = 64  # windows that a token model reads together
TRACKS = ("entropy", "information", "information_forward", "information_reverse")


@dataclass(frozen=True, slots=True)
class Region:
    """0-based half-open."""

    chrom: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a merged region. Its windows begin within it and end no later than `limit`, the region's end."""

    chrom: str
    start: int
    end: int
    limit: int


@dataclass(frozen=True, slots=True)
class Passage:
    """A block with its bases, text[first:last]; the rest of the text is what a model may see."""

    block: Block
    text: str
    first: int

    @property
    def last(self) -> int:
        return self.first + self.block.end - self.block.start

    @property
    def limit(self) -> int:
        """Where in the text the region ends."""
        return self.first + self.block.limit - self.block.start


def target_regions(bed: Path | None, fasta: Path, names: ContigNames, max_unknown_share: float) -> list[Region]:
    """The regions of a BED file, or the whole reference, merged and in the reference's order.

    Raises:
        BadInput: a line of the BED file is no region of the reference, or no region has bases.
    """
    if bed is None:
        return [Region(contig.name, 0, contig.length) for contig in names.contigs.values()]
    kept, skipped = [], 0
    for row in region_rows(bed, fasta, names, max_unknown_share):
        if row.texts:
            kept.append(Region(row.chrom, row.start, row.end))
        else:
            skipped += 1
    if skipped:
        log.warning("%s: %d of %d regions have too many unknown bases", bed, skipped, skipped + len(kept))
    if not kept:
        raise BadInput(
            f"{bed}: all regions lie beyond their contig's end or have too many unknown bases; correct the regions or "
            "raise scoring.max_unknown_share"
        )
    return merged(kept, list(names.contigs))


def merged(regions: Iterable[Region], order: Sequence[str]) -> list[Region]:
    """Overlapping and touching regions as one, sorted by contig and start."""
    place = {name: number for number, name in enumerate(order)}
    found: list[Region] = []
    for region in sorted(regions, key=lambda each: (place[each.chrom], each.start)):
        if found and found[-1].chrom == region.chrom and region.start <= found[-1].end:
            found[-1] = Region(region.chrom, found[-1].start, max(region.end, found[-1].end))
        else:
            found.append(region)
    return found


def blocks_of(regions: Iterable[Region], stride: int) -> list[Block]:
    """The regions in blocks of whole strides, so that each block's first window begins with it."""
    size = max(BLOCK // stride, 1) * stride
    return [
        Block(region.chrom, start, min(start + size, region.end), region.end)
        for region in regions
        for start in range(region.start, region.end, size)
    ]


def share_of(blocks: Sequence[Block], shard: int, shards: int) -> Sequence[Block]:
    """The blocks of one of `shards` contiguous shares of about as many bases; `shard` counts from 0."""
    done = [0, *accumulate(block.end - block.start for block in blocks)]
    borders = [done[-1] * number / shards for number in (shard, shard + 1)]
    # A block belongs to the share in which its middle lies.
    middles = [(one + two) / 2 for one, two in pairwise(done)]
    return [block for block, middle in zip(blocks, middles, strict=True) if borders[0] <= middle < borders[1]]


def reference_passages(fasta: Path, blocks: Iterable[Block]) -> Iterator[Passage]:
    """The blocks with their whole contigs around them. Memory: one contig."""
    import pysam

    name, text = None, ""
    with pysam.FastaFile(str(fasta)) as reference:
        for block in blocks:
            if block.chrom != name:
                name, text = block.chrom, reference.fetch(block.chrom).upper()
            yield Passage(block, text, block.start)


def control_blocks(regions: Sequence[Region], bases: int, seed: int) -> list[Block]:
    """Pieces of the regions, in random order, that are shuffled to make `bases` of control sequence.

    Regions that have fewer bases are used several times.
    """
    pieces = [
        (region.chrom, start, min(start + CONTROL_PIECE, region.end))
        for region in regions
        for start in range(region.start, region.end, CONTROL_PIECE)
    ]
    rng = np.random.default_rng(seed)
    blocks: list[Block] = []
    while bases > 0:
        for number in rng.permutation(len(pieces)):
            chrom, start, end = pieces[number]
            end = min(end, start + bases)
            blocks.append(Block(chrom, start, end, end))
            bases -= end - start
            if bases <= 0:
                break
    return blocks


def control_passages(fasta: Path, blocks: Iterable[Block], flank: int, seed: int) -> Iterator[Passage]:
    """Each block shuffled together with up to `flank` bases either side, which a model sees."""
    import pysam

    with pysam.FastaFile(str(fasta)) as reference:
        for number, block in enumerate(blocks):
            begin = max(block.start - flank, 0)
            text = reference.fetch(block.chrom, begin, block.end + flank).upper()
            own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
            yield Passage(block, dinucleotide_shuffle(text, own_seed), block.start - begin)


# A passage, log p (L, 2, 4) of its bases if they are wanted, and each element's logits of its windows.
Read = tuple[Passage, np.ndarray | None, dict[str, np.ndarray]]


class Scanner:
    """Scans passages with one model and any number of classifiers.

    Attributes:
        reader: of the model, which is loaded if something needs it.
        heads: classifier of each element. stride: bases from one window to the next.
        informs: the information is wanted too.
        max_unknown_share: of the bases that a window, or a position's model window, may have; else it is NaN.
    """

    def __init__(
        self, reader: MarginalReader, heads: Mapping[str, Head], stride: int, informs: bool, max_unknown_share: float
    ) -> None:
        self.reader, self.heads, self.stride = reader, heads, stride
        self.informs, self.max_unknown_share = informs, max_unknown_share
        self.facts = reader.scheme.facts
        self.counts = {"bases": 0, "windows": 0}

    def scan(self, passages: Callable[[], Iterator[Passage]]) -> Iterator[dict[str, np.ndarray]]:
        """Columns of each passage: float32 arrays, of `TRACKS` one a base, of each element one a window.

        Args:
            passages: called for a new iteration; twice for token models, which plan ahead.
        """
        for passage, logs, logits in self._read_whole(passages) if self.facts.shares_windows else self._read(passages):
            codes, begin = self._codes(passage)
            columns = {}
            if logs is not None:
                at = np.arange(passage.first, passage.last)
                half = self.facts.window // 2
                shares = unknown_shares(codes, at - half - begin, self.facts.window, len(passage.text) - begin)
                logs[shares > self.max_unknown_share] = np.nan
                columns |= information_tracks(logs)
            for element, head in self.heads.items():
                starts = self._starts(passage, head.window)
                shares = unknown_shares(codes, starts - begin, head.window, len(passage.text) - begin)
                probability = np.asarray(head.probability(logits[element]), np.float32)
                probability[shares > self.max_unknown_share] = np.nan
                columns[PROBABILITY + element] = probability
                self.counts["windows"] += len(starts)
            self.counts["bases"] += passage.last - passage.first
            yield columns

    def _codes(self, passage: Passage) -> tuple[np.ndarray, int]:
        """Codes of all bases that a model may see of a passage, and where in its text they begin."""
        around = max([self.facts.window, *(head.window for head in self.heads.values())])
        begin = max(passage.first - around, 0)
        return encode(passage.text[begin : passage.last + around]), begin

    def _starts(self, passage: Passage, window: int) -> np.ndarray:
        """Where in the text windows start."""
        return np.arange(passage.first, min(passage.last, passage.limit - window + 1), self.stride)

    def _read_whole(self, passages: Callable[[], Iterator[Passage]]) -> Iterator[Read]:
        """Each passage read by seqprior's own network, in one pass over it."""
        reading = [head for head in self.heads.values() if head.uses_states]
        projections = distinct_projections(reading)
        for passage in passages():
            ends = [int(end) for head in reading for end in self._starts(passage, head.window)[-1:] + head.window]
            end = max([passage.last if self.informs else passage.first, *ends])
            logs = [np.empty((0, 2, 4), np.float32)]
            parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in projections]
            for first in range(passage.first, end, TILE):
                states = self._states(passage.text, first, min(first + TILE, end))
                if self.informs:
                    own = states[: max(passage.last - first, 0)]
                    logs.append(state_marginals(self.reader.adapter, own).cpu().numpy())
                both = (states, self.reader.adapter.turned(states)) if projections else ()
                for part, projection in zip(parts, projections, strict=True):
                    part.append(tuple(projected(projection, strand) for strand in both))
            features = [tuple(map(torch.cat, zip(*part, strict=True))) for part in parts]
            logits = {}
            for element, head in self.heads.items():
                strands = features[place_of(head.projection, projections)] if head.uses_states else ()
                logits[element] = self._logits(passage, head, strands)
            joined = np.concatenate(logs) if self.informs else None
            if joined is not None:
                joined[encode(passage.text[passage.first : passage.last]) == UNKNOWN] = np.nan
            yield passage, joined, logits

    def _states(self, text: str, first: int, last: int) -> Tensor:
        """States of the bases [first, last) of a text, (last - first, H), each with all that the network can see."""
        reach = self.facts.window // 2
        begin = max(first - reach, 0)
        around = padded(text, begin, min(last + reach, len(text)))
        (states,) = self.reader.adapter.states(self.reader.batcher, [around])
        return states[first - begin : last - begin]

    def _logits(self, passage: Passage, head: Head, strands: Sequence[Tensor]) -> np.ndarray:
        """Logits of a passage's windows, float32 (N,); `strands` are features (L, D) of its bases, if it needs them."""
        starts = self._starts(passage, head.window)
        if not len(starts):
            return np.empty(0, np.float32)
        bases = torch.from_numpy(encode(passage.text[passage.first : starts[-1] + head.window]).astype(np.int64))
        views = [bases.unfold(0, head.window, self.stride)]
        for features in strands:
            views += [features[: len(bases)].unfold(0, head.window, self.stride).transpose(1, 2)]
        found = []
        for first in range(0, len(starts), HEAD_WINDOWS):
            codes, *both = (view[first : first + HEAD_WINDOWS] for view in views)
            found.append(asked(head, *(both or (None, None)), codes))
        return np.concatenate(found)

    def _read(self, passages: Callable[[], Iterator[Passage]]) -> Iterator[Read]:
        """The same by a token model, which is asked for each site, and for each window in its context."""
        asked_for = (Stretch(passage.text, passage.first, passage.last) for passage in passages())
        found = self.reader.marginals(lambda: asked_for) if self.informs else repeat(None)
        groups: dict[tuple[int, int], list[str]] = {}
        for element, head in self.heads.items():
            if head.uses_states:
                groups.setdefault((head.window, head.context), []).append(element)
        for logs, passage in zip(found, passages(), strict=False):  # `found` first: at its end the store is written
            blind = {name: head for name, head in self.heads.items() if not head.uses_states}
            logits = {name: self._logits(passage, head, ()) for name, head in blind.items()}
            for (window, context), elements in groups.items():
                logits |= self._window_logits(passage, window, context, elements)
            yield passage, logs, logits

    def _window_logits(
        self, passage: Passage, window: int, context: int, elements: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Logits of each of the elements, whose windows and contexts are alike, from one reading of each window."""
        starts = self._starts(passage, window)
        found: dict[str, list[np.ndarray]] = {element: [np.empty(0, np.float32)] for element in elements}
        states = None
        for chunk in (starts[at : at + READ_WINDOWS].tolist() for at in range(0, len(starts), READ_WINDOWS)):
            states = states or Reader(self.reader.adapter, self.reader.batcher, None)
            begins = [max(start - context, 0) for start in chunk]
            ends = [min(start + window + context, len(passage.text)) for start in chunk]
            texts = [padded(passage.text, begin, end) for begin, end in zip(begins, ends, strict=True)]
            own = [(start - begin, start - begin + window) for start, begin in zip(chunk, begins, strict=True)]
            strands = [torch.stack(each) for each in zip(*states.read(texts, own), strict=True)]
            codes = np.stack([encode(passage.text[start : start + window]) for start in chunk]).astype(np.int64)
            for element in elements:
                head = self.heads[element]
                both = (projected(head.projection, each) for each in strands)
                found[element].append(asked(head, *both, torch.from_numpy(codes)))
        return {element: np.concatenate(parts) for element, parts in found.items()}


def asked(head: Head, forward: Tensor | None, reverse: Tensor | None, codes: Tensor) -> np.ndarray:
    """Logits of windows, float32 (B,), by a classifier on the CPU."""
    both = (None if features is None else features.cpu() for features in (forward, reverse))
    with torch.inference_mode():
        return head.logits(*both, codes).float().numpy()


def projected(projection: Projection | None, states: Tensor) -> Tensor:
    return states if projection is None else projection(states)


def distinct_projections(heads: Iterable[Head]) -> list[Projection | None]:
    """The heads' projections, equal ones once: elements of one config are trained with the same."""
    found: list[Projection | None] = []
    for head in heads:
        if place_of(head.projection, found) == len(found):
            found.append(head.projection)
    return found


def place_of(projection: Projection | None, among: Sequence[Projection | None]) -> int:
    """Number of the equal one, or how many there are if there is none."""
    for number, other in enumerate(among):
        if projection is other:
            return number
        if projection is None or other is None:
            continue
        if torch.equal(projection.mean, other.mean) and torch.equal(projection.matrix, other.matrix):
            return number
    return len(among)


def unknown_shares(codes: np.ndarray, starts: np.ndarray, size: int, length: int) -> np.ndarray:
    """Share of unknown bases of the windows [start, start + size) as far as they lie within `length` bases.

    Args:
        codes: of the bases from 0 on, at least as far as the windows reach. starts: may be negative.
    """
    unknown = np.concatenate([[0], np.cumsum(codes == UNKNOWN)])
    first = np.clip(starts, 0, length)
    last = np.clip(starts + size, 0, min(length, len(codes)))
    return (unknown[last] - unknown[first]) / np.maximum(last - first, 1)


def load_heads(
    folders: Mapping[str, Path], model: str, digest: str, prevalence: float | None = None
) -> dict[str, Head]:
    """The classifier of each element, for windows of which such a share is the element.

    Raises:
        BadInput: a folder holds none, or one that reads the states of another model.
    """
    heads = {}
    for element, folder in folders.items():
        from seqprior.heads import load_head

        head = load_head(folder)
        if head.uses_states and head.digest != digest:
            raise BadInput(
                f"{folder}: the head of {element} was trained on the states of {head.model} with digest "
                f"{head.digest[:12]}, and this job reads {model} with digest {digest[:12]}; set regulatory.model to "
                "that model or train the head again"
            )
        heads[element] = head.at(prevalence)
    return heads


def write_scan(
    scanner: Scanner, passages: Callable[[], Iterator[Passage]], blocks: Sequence[Block], output: Path
) -> dict:
    """Scan the blocks that the passages hold into a Parquet file, a row group for each; returns what the job did.

    Columns are chrom, start, end, and lists of float32: `TRACKS`, one value a base, if information is wanted, and
    probability.{element}, one value for each window, which start at `start` and every `stride` bases from it. The
    schema's metadata has, under `seqprior`, the stride and the window of each element as JSON.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    started = time.perf_counter()
    lists = [*(TRACKS if scanner.informs else ()), *(PROBABILITY + element for element in scanner.heads)]
    shape = {"stride": scanner.stride, "windows": {name: head.window for name, head in scanner.heads.items()}}
    schema = pa.schema(
        [
            ("chrom", pa.string()),
            ("start", pa.int64()),
            ("end", pa.int64()),
            *((name, pa.list_(pa.float32())) for name in lists),
        ],
        metadata={"seqprior": json.dumps(shape)},
    )
    total = sum(block.end - block.start for block in blocks)
    progress = Progress("bases", total, "base")
    with written_whole(output) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        for block, columns in zip(blocks, scanner.scan(passages), strict=True):
            place = [[block.chrom], [block.start], [block.end]]
            values = [pa.array(columns[name]) for name in lists]
            arrays = [pa.ListArray.from_arrays([0, len(column)], column) for column in values]
            writer.write_table(pa.table([*map(pa.array, place), *arrays], schema=schema))
            progress.add(block.end - block.start)
    progress.close()
    if blocks and scanner.heads and not scanner.counts["windows"]:
        log.warning("no region of this scan is as long as a window of an element, so none has a probability")
    return {**scanner.reader.report("bases", total, started), "blocks": len(blocks), **scanner.counts}
