"""From alleles to what a network is fed: torch-free, so that a job can be made ready, and costed, without a model.

A group of alleles is planned as distinct requests; requests of one kind become distinct token rows; rows that share a
prefix become one input with branches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from seqprior.columns import Status
from seqprior.plans import Part, Plan, Request, Row, Scheme

if TYPE_CHECKING:
    import pandas as pd

DISTANCES = "embedding_distance"  # kind of the requests for distances between two haplotypes' states
ROWS_AHEAD = 2**22  # bases of requests that are turned into token rows at a time
SHARED = 32  # bases that a further request of the same sequence counts
BRANCHED = 3  # times its length that a row may grow to by the branches of others


@dataclass
class Group:
    """Alleles that are scored together.

    Attributes:
        frame: rows of `shards.ALLELE_COLUMNS`. rows: those of it that have a plan. plans: one for each of these.
        requests: each distinct request once. distances: of each planned row, if they are wanted, the
            request, or None where the haplotypes have more tokens than the network takes.
        known: answers from the store.
    """

    frame: pd.DataFrame
    rows: list[int]
    plans: list[Plan]
    requests: dict[Request, None]
    distances: list[Request | None] = field(default_factory=list)
    known: dict[Request, np.ndarray] = field(default_factory=dict)


def plan_group(
    scheme: Scheme, frame: pd.DataFrame, windows: Sequence[str], first: int, embedding_window: int | None
) -> Group:
    """What has to be asked for a group of alleles; `first` is the number of `windows`' first."""
    group = Group(frame, [], [], {})
    columns = frame[["window", "offset", "ref", "alt", "status"]].itertuples(index=False, name=None)
    for row, (window, offset, ref, alt, status) in enumerate(columns):
        if status != Status.SCORED:
            continue
        text, at = windows[int(window) - first], int(offset)
        plan = scheme.plan(text, at, ref, alt)
        if plan is None:
            continue
        wanted = list(plan.requests)
        if embedding_window is not None:
            request = distance_request(scheme, text, at, ref, alt, embedding_window)
            group.distances.append(request)
            wanted += [] if request is None else [request]
        group.rows.append(row)
        group.plans.append(plan)
        group.requests.update(dict.fromkeys(wanted))
    return group


def distance_request(scheme: Scheme, window: str, offset: int, ref: str, alt: str, size: int) -> Request | None:
    """Distances of both haplotypes' embeddings, within `size` bases around the allele; None if they do not fit."""
    left, right = scheme.haplotype_flanks(offset, max(len(ref), len(alt)), size)
    before, after = window[offset - left : offset], window[offset + len(ref) : offset + len(ref) + right]
    if not scheme.fits(before + ref + after, before + alt + after):
        return None
    return Request(DISTANCES, f"{before} {ref} {alt} {after}", (), 2)


def portions(requests: Sequence[Request], passes: Callable[[Request], int]) -> Iterator[list[Request]]:
    """The requests in portions whose token rows fit into memory together. Those of one sequence share its rows."""
    portion: list[Request] = []
    bases, previous = 0, ""
    for request in requests:
        portion.append(request)
        bases += (len(request.sequence) if request.sequence is not previous else SHARED) * passes(request)
        previous = request.sequence
        if bases >= ROWS_AHEAD:
            yield portion
            portion, bases = [], 0
    if portion:
        yield portion


@dataclass
class Work:
    """Requests of one kind and width as distinct token rows: what can be made ready before the model is free.

    Attributes:
        rows: distinct rows. reads: for each row the parts that are read from it.
        parts: all parts. owner: request of each part.
        constants: float64 (requests, strands, width), what answers hold before anything is read.
    """

    requests: list[Request]
    constants: np.ndarray
    rows: list[Row] = field(default_factory=list)
    reads: list[list[int]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)


def make_work(scheme: Scheme, requests: list[Request]) -> Work:
    """The rows of some requests; none where no token row answers them (seqprior's own network, distances)."""
    work = Work(requests, np.zeros((len(requests), scheme.strands, requests[0].width)))
    if scheme.tokeniser is None or requests[0].kind == DISTANCES:
        return work
    number_of: dict[tuple, int] = {}
    content: dict[int, bytes] = {}  # by array, since rows that mask one token each share their token numbers
    for number, request in enumerate(requests):
        for part in scheme.parts(request):
            ids = part.row.ids
            text = content.get(id(ids)) or content.setdefault(id(ids), ids.tobytes())
            row = number_of.setdefault((text, part.row.masked, part.row.prefix), len(work.rows))
            if row == len(work.rows):
                work.rows.append(part.row)
                work.reads.append([])
            work.reads[row].append(len(work.parts))
            work.parts.append(part)
            work.owner.append(number)
            work.constants[number, part.strand] += part.constant
    return work


@dataclass(slots=True)
class Pack:
    """Rows that share a prefix, as one input: the prefix once, then the rest of each row, blind to one another."""

    rows: list[int]
    prefix: int
    starts: list[int]
    length: int


def make_packs(rows: Sequence[Row], branches: bool) -> list[Pack]:
    """Rows of one prefix together, where the network can tell `branches` apart; else each row on its own."""
    if not branches:
        return [Pack([number], 0, [0], len(row)) for number, row in enumerate(rows)]
    shared: dict[bytes, list[int]] = {}
    packs = []
    for number, row in enumerate(rows):
        if row.prefix:
            shared.setdefault(row.ids[: row.prefix].tobytes(), []).append(number)
        else:
            packs.append(Pack([number], 0, [0], len(row)))
    for numbers in shared.values():
        prefix = rows[numbers[0]].prefix
        pack = Pack([], prefix, [], prefix)
        for number in numbers:
            length = len(rows[number]) - prefix
            if pack.rows and pack.length + length > BRANCHED * len(rows[number]):
                packs.append(pack)
                pack = Pack([], prefix, [], prefix)
            pack.rows.append(number)
            pack.starts.append(pack.length)
            pack.length += length
        packs.append(pack)
    return packs
