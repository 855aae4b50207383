"""Embeddings for downstream models: vectors of alleles or regions, as Zarr and on request as AnnData's HDF5.

What is embedded is a text of bases: both haplotypes of an allele over the same flanks, or the bases of a region. A text
that the model cannot take at once is cut into overlapping `Piece`s; each base belongs to one. A pooled vector is the
mean over the text's bases, each with the state of the token that `Adapter.token_of_base` names; vectors of tokens are
kept as they are. The other strand is read as its own text, and what it gives is turned back into forward order.

Memory holds a block of rows and the states of some ten thousand bases, whatever the number of rows or the length of a
region. Formats: Zarr 3 (zarr-specs.readthedocs.io), AnnData's on-disk format 0.1.0 (anndata.readthedocs.io).
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from seqprior import VERSION
from seqprior.adapters import Adapter, longest_row
from seqprior.batching import Batcher, Progress, ahead
from seqprior.columns import ALLELE, Reason, Status
from seqprior.contigs import ContigNames
from seqprior.errors import BadInput
from seqprior.files import full_disk_named, written_whole
from seqprior.models import ModelFacts
from seqprior.plans import Scheme
from seqprior.regions import Row, read_regions
from seqprior.regions import region_rows as region_rows
from seqprior.sequence import reverse_complement
from seqprior.shards import read_groups
from seqprior.windows import MAX_TILE

if TYPE_CHECKING:
    import h5py
    import zarr

log = logging.getLogger(__name__)

HAPLOTYPES = {"alleles": ("ref", "alt"), "regions": ("vectors",)}
HELD_BASES = {"cpu": 16_384, "cuda": 131_072}  # whose states are held at a time
BLOCK_ROWS, BLOCK_BASES = 4096, 2**22  # rows that are read ahead, and whose equal haplotypes are computed once
CHUNK_NUMBERS = 2**20  # numbers in a chunk of vectors
CHUNK_ROWS = 2**16  # rows in a chunk of any other array
PROBE = "ACGT" * 8  # says how wide the vectors are


@dataclass(frozen=True)
class Choice:
    """What is exported; the config's section `embeddings`.

    Attributes:
        layer: after so many layers, 0 for the input's embeddings; None for what the model's predictions are made from.
        pool: 'mean' over bases, or 'none' for a vector of each token.
        strand: 'both' (their mean), 'forward' or 'reverse'.
        dtype: 'float32' or 'float16'.
    """

    layer: int | None = None
    pool: str = "mean"
    strand: str = "both"
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Piece:
    """One input of the model, of whose bases [first, last) are its own; the others are context."""

    text: str
    first: int
    last: int


def allele_rows(
    variants: Path, shards: Sequence[Path], scheme: Scheme, window: int, lengths: Mapping[str, int]
) -> Iterator[Row]:
    """Every allele of `variants.parquet`, in its order, with both haplotypes over `window` bases.

    Args:
        shards: folders that `windows.extract_windows` wrote. lengths: of each contig; bases beyond are left out.

    Raises:
        AssertionError: the shards do not hold exactly the alleles of `variants` that reached a sequence.
    """
    import pyarrow.parquet as pq

    placed = _placed(shards)
    columns = [*ALLELE, "status", "reason"]
    with pq.ParquetFile(variants) as table:
        for batch in table.iter_batches(columns=columns):
            values = [batch.column(name).to_pylist() for name in columns]
            for name, chrom, pos, ref, alt, status, reason in zip(*values, strict=True):
                start, end = (-1, -1) if pos is None else (int(pos) - 1, int(pos) - 1 + len(ref))
                row = Row(name, chrom, start, end, ref=ref, alt=alt)
                if status != Status.SCORED:
                    yield row.skipped(reason)
                    continue
                found, text, offset, outcome = next(placed, ("", "", 0, ""))
                if found != name:
                    raise AssertionError(f"the windows do not follow the alleles of {variants}")
                if outcome:
                    yield row.skipped(outcome)
                    continue
                yield _with_haplotypes(row, text, offset, scheme, window, lengths[chrom])
    if next(placed, None) is not None:
        raise AssertionError(f"the windows hold more alleles than {variants}")


def _placed(shards: Sequence[Path]) -> Iterator[tuple[str, str, int, str]]:
    """Id, window, offset and reason for skipping of each allele of the shards."""
    for shard in shards:
        for frame, windows, first in read_groups(shard):
            columns = frame[["variant_id", "window", "offset", "status", "reason"]].itertuples(index=False, name=None)
            for name, window, offset, status, reason in columns:
                if status != Status.SCORED:
                    yield name, "", 0, reason
                else:
                    yield name, windows[int(window) - first], int(offset), ""


def _with_haplotypes(row: Row, text: str, offset: int, scheme: Scheme, window: int, length: int) -> Row:
    left, right = scheme.haplotype_flanks(offset, max(len(row.ref), len(row.alt)), window)
    left = min(left, row.start)
    right = min(right, length - row.end)
    before, after = text[offset - left : offset], text[offset + len(row.ref) : offset + len(row.ref) + right]
    row.texts, row.origin = (before + row.ref + after, before + row.alt + after), row.start - left
    return row


def tiles(length: int, size: int, overlap: int, frame: int) -> list[tuple[int, int, int, int]]:
    """Tiles [start, end) over `length` bases, each with the bases [first, last) that are its own.

    Tiles are `size` long and overlap by at least `overlap`; where two do, each has the half that lies farther from its
    edge. Starts and inner borders are whole numbers of `frame`; `size` is one, and more than `overlap`.
    """
    if length <= size:
        return [(0, length, 0, length)]
    stride = max((size - overlap) // frame, 1) * frame
    last = -(-(length - size) // frame) * frame
    starts = [*range(0, last, stride), last]
    borders = [0]
    for start, following in pairwise(starts):
        borders.append((following + start + size) // 2 // frame * frame)
    borders.append(length)
    return [(start, min(start + size, length), *borders[n : n + 2]) for n, start in enumerate(starts)]


@dataclass
class Embedder:
    """Vectors of texts by one loaded model."""

    adapter: Adapter
    batcher: Batcher
    choice: Choice = field(default_factory=Choice)

    def __post_init__(self) -> None:
        facts, self.tokeniser = self.adapter.scheme.facts, self.adapter.scheme.tokeniser
        self.frame = facts.k if facts.tokenisation == "kmer" else 1
        self.shortest = facts.k if facts.tokenisation == "overlapping-kmer" else 1
        if facts.shares_windows:  # exact: every base sees as far as the network does, as in one long input
            self.overlap = facts.window - 1
            self.size = max(MAX_TILE, 2 * facts.window)
        else:
            self.size = facts.window // self.frame * self.frame
            self.overlap = max(self.size // 4, 2 * facts.k)  # a token at a border lies in both tiles
        self.most_tokens = None
        if self.tokeniser is not None and facts.tokenisation in ("kmer", "bpe"):
            ends = self.tokeniser.lead + int(self.tokeniser.end is not None)
            self.most_tokens = longest_row(facts, self.tokeniser) - ends

    def width(self) -> int:
        """Numbers in a vector.

        Raises:
            BadInput: the model has no such layer.
        """
        try:
            return self.adapter.states(self.batcher, [PROBE], self.choice.layer)[0].shape[1]
        except (IndexError, ValueError) as error:
            if self.choice.layer is None:
                raise
            raise BadInput(
                f"{self.adapter.scheme.facts.id}: the model has no layer {self.choice.layer}; set embeddings.layer to "
                "a smaller number, or leave it empty for the last"
            ) from error

    def pieces(self, text: str) -> list[tuple[int, Piece]]:
        """The pieces of a text, each with where in the text it starts; none if the text holds no token.

        Tiles get smaller until none has more tokens than the model's window may: unknown bases, and bases left over at
        the end, are tokens of their own.
        """
        if len(text) < self.shortest:
            return []
        size = self.size
        while True:
            cut = tiles(len(text), size, min(self.overlap, size - self.frame), self.frame)
            excess = max(map(self._excess, {text[start:end] for start, end, _, _ in cut}))
            smallest = max((self.most_tokens or 0) // self.frame, 1) * self.frame
            if excess <= 0 or size <= smallest:
                break
            size = max(min(size, len(text)) // self.frame * self.frame - excess * self.frame, smallest)
        return [(start, Piece(text[start:end], first - start, last - start)) for start, end, first, last in cut]

    def _excess(self, text: str) -> int:
        """Tokens beyond what the model's window may have, on the worse strand."""
        if self.most_tokens is None or len(text) <= self.most_tokens:
            return 0
        counts = [len(self.tokeniser.cut(strand)[0]) for strand in (text, reverse_complement(text))]
        return max(counts) - self.most_tokens

    def sums(self, pieces: Iterable[Piece]) -> dict[Piece, np.ndarray]:
        """Sum of the vectors of each distinct piece's own bases: float64 (H,)."""
        distinct = list(dict.fromkeys(pieces))
        found: dict[Piece, np.ndarray] = {}
        for chunk in self._chunks(distinct):
            sums = []
            for piece, strands in zip(chunk, self._strands(chunk), strict=True):
                read = [self._sum(states, *part) for states, part in self._own(piece, strands)]
                sums.append(torch.stack(read).mean(0))
            found |= zip(chunk, torch.stack(sums).cpu().numpy(), strict=True)
        return found

    def _own(self, piece: Piece, strands: dict[str, Tensor]) -> Iterator[tuple[Tensor, tuple[str, int, int]]]:
        """States of each strand, with its text and which of its bases are the piece's own."""
        length = len(piece.text)
        if "forward" in strands:
            yield strands["forward"], (piece.text, piece.first, piece.last)
        if "reverse" in strands:
            yield strands["reverse"], (reverse_complement(piece.text), length - piece.last, length - piece.first)

    def _sum(self, states: Tensor, text: str, first: int, last: int) -> Tensor:
        """Sum over the bases [first, last) of the state of each one's token: float64 (H,)."""
        weight = np.bincount(self.adapter.token_of_base(text)[first:last], minlength=len(states))
        return torch.from_numpy(weight).to(states.device, torch.float64) @ states.double()

    def tokens(self, pieces: Sequence[Piece]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For each piece in order the tokens that begin in its own bases: first base, end (T,), vectors (T, H).

        Both are counted in the piece's text, on the forward strand and in its order.
        """
        for chunk in self._chunks(pieces):
            distinct = list(dict.fromkeys(chunk))
            found = {}
            for piece, strands in zip(distinct, self._strands(distinct), strict=True):
                first, last, states = self._merged(piece.text, strands)
                own = (first >= piece.first) & (first < piece.last)
                found[piece] = first[own], last[own], states.cpu().numpy()[own]
            for piece in chunk:
                yield found[piece]

    def _merged(self, text: str, strands: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Tokens in forward order: first base, end (T,), vectors (T, H), of one strand or the mean of both.

        Where the strands' tokens differ the forward strand's are kept, and the other strand adds the mean over each
        token's bases.
        """
        if "forward" in strands:
            first, last = self._spans(text)
            states = strands["forward"]
        if "reverse" not in strands:
            return first, last, states
        other = reverse_complement(text)
        ends, starts = (len(text) - edge[::-1] for edge in self._spans(other))
        turned = strands["reverse"].flip(0)
        if "forward" not in strands:
            return starts, ends, turned
        if not (np.array_equal(first, starts) and np.array_equal(last, ends)):
            token = len(turned) - 1 - self.adapter.token_of_base(other)[::-1]
            sizes = last - first
            bases = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
            owner = torch.from_numpy(np.repeat(np.arange(len(first)), sizes)).to(states.device)
            picked = turned[torch.from_numpy(token[bases]).to(states.device)]
            turned = torch.zeros_like(states).index_add_(0, owner, picked)
            turned /= torch.from_numpy(sizes).to(states.device)[:, None]
        return first, last, (states + turned) / 2

    def _spans(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """First base and end of each token that covers bases, int64 (T,)."""
        if self.tokeniser is None:
            at = np.arange(len(text))
            return at, at + 1
        first, last = (edge.astype(np.int64) for edge in self.tokeniser.cut(text)[1:3])
        return first[last > first], last[last > first]

    def _chunks(self, pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
        """The pieces in portions whose states fit into memory."""
        held = HELD_BASES.get(self.adapter.device.type, HELD_BASES["cuda"])
        chunk: list[Piece] = []
        bases = 0
        for piece in pieces:
            if chunk and bases + len(piece.text) > held:
                yield chunk
                chunk, bases = [], 0
            chunk.append(piece)
            bases += len(piece.text)
        if chunk:
            yield chunk

    def _strands(self, pieces: Sequence[Piece]) -> Iterator[dict[str, Tensor]]:
        """The states (T, H) of each piece by strand, each in the order in which the model read it."""
        texts = list(dict.fromkeys(piece.text for piece in pieces))
        wanted = ("forward", "reverse") if self.choice.strand == "both" else (self.choice.strand,)
        spelt = {"forward": texts, "reverse": list(map(reverse_complement, texts))}
        read = dict.fromkeys(text for strand in wanted for text in spelt[strand])
        found = dict(zip(read, self.adapter.states(self.batcher, list(read), self.choice.layer), strict=True))
        for piece in pieces:
            text = {"forward": piece.text, "reverse": reverse_complement(piece.text)}
            yield {strand: found[text[strand]] for strand in wanted}


class Column:
    """An array of a Zarr group that grows by whole chunks of rows."""

    def __init__(self, group: zarr.Group, name: str, dtype: str | type, width: int | None = None) -> None:
        rows = CHUNK_ROWS if width is None else max(CHUNK_NUMBERS // width, 1)
        inner = () if width is None else (width,)
        fill = {"fill_value": float("nan")} if width is not None else {}
        self._array = group.create_array(name, shape=(0, *inner), chunks=(rows, *inner), dtype=dtype, **fill)
        self._rows = rows
        self._waiting: list[np.ndarray] = []
        self.count = 0

    def append(self, values: np.ndarray) -> None:
        if len(values):
            self._waiting.append(values)
            self.count += len(values)
        if self.count - self._array.shape[0] >= self._rows:
            self._write((self.count - self._array.shape[0]) // self._rows * self._rows)

    def close(self) -> None:
        self._write(self.count - self._array.shape[0])

    def _write(self, rows: int) -> None:
        if not rows:
            return
        values = np.concatenate(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
        at = self._array.shape[0]
        self._array.resize((at + rows, *self._array.shape[1:]))
        self._array[at : at + rows] = values[:rows]
        self._waiting = [values[rows:].copy()] if rows < len(values) else []


class Store:
    """The arrays of one export, in the making."""

    def __init__(self, folder: Path, of: str, choice: Choice, width: int, attributes: dict) -> None:
        import zarr

        self._group = zarr.create_group(folder, attributes=attributes)
        self.width, self._of, self._dtype, self._model = width, of, np.dtype(choice.dtype), attributes["model"]
        text = ["id", "chrom", "status", "reason"] + (["ref_allele", "alt_allele"] if of == "alleles" else [])
        numbers = ["start", "end"] + (["line"] if of == "regions" else [])
        self._columns = {name: Column(self._group, name, str) for name in text}
        self._columns |= {name: Column(self._group, name, np.int64) for name in numbers}
        vectors = [*HAPLOTYPES[of], *(["difference"] if of == "alleles" and choice.pool == "mean" else [])]
        self._columns |= {name: Column(self._group, name, choice.dtype, width) for name in vectors}
        self._prefixes = {}
        if choice.pool == "none":
            self._prefixes = {name: "" if of == "regions" else f"{name}_" for name in vectors}
            for prefix in self._prefixes.values():
                for name in ("offsets", "token_start", "token_end"):
                    self._columns[prefix + name] = Column(self._group, prefix + name, np.int64)
                self._columns[f"{prefix}offsets"].append(np.zeros(1, np.int64))

    def add_rows(self, rows: Sequence[Row]) -> None:
        """What the rows are, without their vectors."""
        values = {
            "id": [row.id for row in rows],
            "chrom": [row.chrom for row in rows],
            "start": [row.start for row in rows],
            "end": [row.end for row in rows],
            "status": [row.status for row in rows],
            "reason": [row.reason for row in rows],
            "ref_allele": [row.ref for row in rows],
            "alt_allele": [row.alt for row in rows],
            "line": [row.line for row in rows],
        }
        for name, column in values.items():
            if name in self._columns:
                numbers = name in ("start", "end", "line")
                self._columns[name].append(np.array(column, np.int64 if numbers else object))

    def add_vectors(self, vectors: np.ndarray) -> None:
        """Pooled vectors of rows, float64 (N, haplotypes, H); NaN for those that are skipped."""
        for number, name in enumerate(HAPLOTYPES[self._of]):
            self._columns[name].append(self._narrowed(vectors[:, number]))
        if self._of == "alleles":
            self._columns["difference"].append(self._narrowed(vectors[:, 1] - vectors[:, 0]))

    def add_tokens(self, haplotype: str, start: np.ndarray, end: np.ndarray, vectors: np.ndarray) -> None:
        prefix = self._prefixes[haplotype]
        self._columns[f"{prefix}token_start"].append(start)
        self._columns[f"{prefix}token_end"].append(end)
        self._columns[haplotype].append(self._narrowed(vectors))

    def end_row(self, haplotype: str) -> None:
        """All tokens of a row have been added."""
        offset = self._columns[haplotype].count
        self._columns[f"{self._prefixes[haplotype]}offsets"].append(np.array([offset], np.int64))

    def _narrowed(self, vectors: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            narrow = vectors.astype(self._dtype)
        if np.isinf(narrow).any():
            raise BadInput(
                f"{self._model}: a vector holds {np.nanmax(np.abs(vectors)):.4g}, more than {self._dtype} can; set "
                "embeddings.dtype to float32"
            )
        return narrow

    def close(self) -> None:
        for column in self._columns.values():
            column.close()


def blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in blocks that are worked on together."""
    block: list[Row] = []
    bases = 0
    for row in rows:
        block.append(row)
        bases += sum(map(len, row.texts))
        if len(block) >= BLOCK_ROWS or bases >= BLOCK_BASES:
            yield block
            block, bases = [], 0
    if block:
        yield block


def embed_rows(embedder: Embedder, rows: Iterable[Row], store: Store, of: str, progress: Progress) -> dict[str, int]:
    """Add rows and their vectors to a store. A row with a text that holds no token is skipped.

    Returns:
        How many rows there are, by status.
    """
    counts = {str(status): 0 for status in Status}
    for block in ahead(blocks(rows)):
        cut = []
        for row in block:
            pieces = [embedder.pieces(text) for text in row.texts]
            if row.texts and not all(pieces):
                row.skipped(Reason.NOT_EVALUABLE_BY_MODEL)
            cut.append(pieces if row.texts else [])
            counts[row.status] += 1
        store.add_rows(block)
        if embedder.choice.pool == "mean":
            store.add_vectors(_pooled(embedder, cut, len(HAPLOTYPES[of]), store.width))
        else:
            for number, haplotype in enumerate(HAPLOTYPES[of]):
                _add_tokens(embedder, store, haplotype, block, [pieces[number] if pieces else [] for pieces in cut])
        progress.add(len(block))
    progress.close()
    return counts


def _pooled(embedder: Embedder, cut: list[list[list[tuple[int, Piece]]]], haplotypes: int, width: int) -> np.ndarray:
    """Mean over the bases of each haplotype of each row, float64 (N, haplotypes, H)."""
    sums = embedder.sums(piece for row in cut for pieces in row for _, piece in pieces)
    vectors = np.full((len(cut), haplotypes, width), np.nan)
    for number, row in enumerate(cut):
        for haplotype, pieces in enumerate(row):
            bases = sum(piece.last - piece.first for _, piece in pieces)
            vectors[number, haplotype] = sum(sums[piece] for _, piece in pieces) / bases
    return vectors


def _add_tokens(
    embedder: Embedder, store: Store, haplotype: str, block: Sequence[Row], cut: Sequence[list[tuple[int, Piece]]]
) -> None:
    found = embedder.tokens([piece for pieces in cut for _, piece in pieces])
    for row, pieces in zip(block, cut, strict=True):
        for at, _ in pieces:
            first, last, vectors = next(found)
            store.add_tokens(haplotype, first + at + row.origin, last + at + row.origin, vectors)
        store.end_row(haplotype)


def rows_of(variants: Path | None, bed: Path | None, names: ContigNames) -> int:
    """How many alleles or regions there are; checks every line of a BED file."""
    import pyarrow.parquet as pq

    if bed is not None:
        return sum(1 for _ in read_regions(bed, names))
    with pq.ParquetFile(variants) as table:
        return table.metadata.num_rows


def window_of(facts: ModelFacts, window: int | None) -> int:
    """Bases around an allele that embeddings.window stands for.

    Raises:
        BadInput: the windows stage cuts fewer.
    """
    window = window or facts.embedding_window
    if window > facts.window:
        raise BadInput(
            f"embeddings.window is {window}, and windows of {facts.id} have {facts.window} bases; lower it, or leave "
            "it empty"
        )
    return window


def described(facts: ModelFacts, digest: str, choice: Choice, of: str, window: int, arithmetic: str) -> dict:
    """Attributes of a store: what its vectors are and where they come from."""
    return {
        "model": facts.id,
        "model_name": facts.name,
        "digest": digest,
        "licence": facts.licence,
        "citation": facts.citation,
        "of": of,
        "layer": "last" if choice.layer is None else choice.layer,
        "pool": choice.pool,
        "strand": choice.strand,
        "window": window if of == "alleles" else facts.window,
        "arithmetic": arithmetic,
        "coordinates": "0-based half-open, on the reference's contigs",
        "seqprior_version": VERSION,
    }


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Like `files.written_whole` for a folder. One that is there is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        with full_disk_named(path.parent):
            yield partial
            if path.is_dir():
                (path / "zarr.json").unlink(missing_ok=True)  # first, so that what is left is not taken for a store
                shutil.rmtree(path)
            partial.replace(path)
    finally:
        if partial.exists():
            shutil.rmtree(partial)


def export(
    embedder: Embedder,
    rows: Iterable[Row],
    total: int,
    of: str,
    output: Path,
    attributes: dict,
    h5ad: Path | None = None,
) -> dict[str, int]:
    """Write the vectors of all rows.

    Args:
        total: number of rows. of: 'alleles' or 'regions'. output: folder of the Zarr store.
        attributes: of the store, `model` among them. h5ad: also written, with pooled vectors only.

    Returns:
        How many rows there are, by status.

    Raises:
        BadInput: the model has no such layer, or its vectors do not fit the number format.
    """
    import zarr

    if h5ad is not None and embedder.choice.pool != "mean":
        raise BadInput("embeddings.h5ad needs one vector a row; set embeddings.pool to mean, or h5ad to false")
    width = embedder.width()
    with folder_written_whole(output) as partial:
        store = Store(partial, of, embedder.choice, width, attributes)
        counts = embed_rows(embedder, rows, store, of, Progress(of, total, of.removesuffix("s")))
        store.close()
        if h5ad is not None:
            write_h5ad(zarr.open_group(partial, mode="r"), h5ad)
    log.info("%d of %d %s embedded by %s, %d numbers each", counts["scored"], total, of, attributes["model"], width)
    return counts


def write_h5ad(group: zarr.Group, output: Path) -> None:
    """A store of pooled vectors in AnnData's format, a chunk of rows at a time.

    X is `difference`, with the layers `ref` and `alt`, or `vectors`. The metadata are obs, the attributes uns.
    """
    import h5py

    alleles = "difference" in group
    vectors = group["difference" if alleles else "vectors"]
    with written_whole(output) as partial, h5py.File(partial, "w") as file:
        _encode(file, "anndata", "0.1.0")
        _copy(file, "X", vectors)
        for name in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
            _encode(file.create_group(name), "dict", "0.1.0")
        for name in ("ref", "alt") if alleles else ():
            _copy(file["layers"], name, group[name])
        numbers = ["start", "end"] + ([] if alleles else ["line"])
        columns = ["chrom", *numbers, *(["ref_allele", "alt_allele"] if alleles else []), "status", "reason"]
        obs = _frame(file, "obs", columns)
        for name in columns:
            _copy(obs, name, group[name])
        _copy(obs, "_index", group["id"])
        _text(_frame(file, "var", []), "_index", np.array([str(n) for n in range(vectors.shape[1])], object))
        for name, value in group.attrs.items():
            if value is None:
                continue
            entry = file["uns"].create_dataset(name, data=value)
            _encode(entry, "string" if isinstance(value, str) else "numeric-scalar", "0.2.0")


def _encode(node: h5py.HLObject, kind: str, version: str) -> None:
    node.attrs["encoding-type"], node.attrs["encoding-version"] = kind, version


def _frame(file: h5py.File, name: str, columns: list[str]) -> h5py.Group:
    import h5py

    group = file.create_group(name)
    _encode(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    group.attrs["column-order"] = np.array(columns, h5py.string_dtype())
    return group


def _text(parent: h5py.Group, name: str, values: np.ndarray) -> None:
    import h5py

    _encode(parent.create_dataset(name, data=values, dtype=h5py.string_dtype()), "string-array", "0.2.0")


def _copy(parent: h5py.Group, name: str, array: zarr.Array) -> None:
    """An array of the store, a chunk of rows at a time."""
    import h5py

    text = array.dtype.kind not in "iuf"
    rows = array.chunks[0]
    options = {}
    if array.size and not text:
        options = {"chunks": (min(rows, array.shape[0]), *array.shape[1:]), "compression": "gzip"}
    kind = h5py.string_dtype() if text else array.dtype
    target = parent.create_dataset(name, shape=array.shape, dtype=kind, **options)
    _encode(target, "string-array" if text else "array", "0.2.0")
    for start in range(0, array.shape[0], rows):
        block = array[start : start + rows]
        target[start : start + len(block)] = block.astype(object) if text else block
