"""What a protein language model says of residues and changes: `llr = log p(alt) - log p(ref)`, natural log.

Each distinct protein is read once, in tiles where it is longer than the model's window; that gives log p of the 20
amino acids at every residue, and with it the LLR of every substitution, whatever the number of variants. Masked
marginals, changes of several residues and in-frame insertions and deletions are asked for beside that
(`plans.MaskedResidues`). Proteins go through the engine in groups, so memory follows a group and not the proteome.
Residues are 0-based.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from seqprior.columns import CHANGE_SCORES, Status, profiles_schema
from seqprior.errors import BadInput
from seqprior.files import written_whole
from seqprior.plans import TILED, MaskedResidues, Plan, Request
from seqprior.residues import AMINO_ACIDS, INDEX_OF

if TYPE_CHECKING:
    import pyarrow as pa

    from seqprior.embedding import Asker

log = logging.getLogger(__name__)

GROUP_RESIDUES = 2**17  # of proteins that are held at a time, with 20 numbers for each
ERROR_PLANS = 64  # changes that stand for all residues where an approximation's error is measured


class Change(NamedTuple):
    """Residues [start, start + len(ref)) of a protein become alt."""

    start: int
    ref: str
    alt: str


@dataclass
class Protein:
    """A protein and what is asked about it.

    Attributes:
        changes: in order, each once. masked: residues whose masked marginals are wanted.
    """

    name: str
    sequence: str
    changes: list[Change] = field(default_factory=list)
    masked: list[int] = field(default_factory=list)


@dataclass
class ProteinGroup:
    """Proteins that are scored together; `requests`, `plans` and `known` as an `embedding.Asker` wants them.

    Attributes:
        scored: plan of each change that the model can score, by protein and change.
    """

    proteins: list[Protein]
    scored: dict[tuple[str, Change], Plan] = field(default_factory=dict)
    plans: list[Plan] = field(default_factory=list)
    requests: dict[Request, None] = field(default_factory=dict)
    known: dict[Request, np.ndarray] = field(default_factory=dict)


def change_scores_schema() -> pa.Schema:
    """Arrow schema of a table of `columns.CHANGE_SCORES`."""
    import pyarrow as pa

    kinds = {"start": pa.int64(), "llr": pa.float64()}
    return pa.schema([(name, kinds.get(name, pa.string())) for name in CHANGE_SCORES])


def read_proteins(proteins: Path, changes: Sequence[Path]) -> list[Protein]:
    """The proteins that have changes, with these, each distinct one once; or all proteins if there are no tables.

    Args:
        proteins: table of `columns.PROTEINS`. changes: tables with protein, start, ref, alt, and status where not all
            rows are to be scored.

    Raises:
        BadInput: a change does not fit the protein, or there is no such protein.
    """
    import pyarrow.parquet as pq

    table = pq.read_table(proteins, columns=["protein", "sequence"])
    found = {
        name: Protein(name, sequence.upper())
        for name, sequence in zip(table["protein"].to_pylist(), table["sequence"].to_pylist(), strict=True)
    }
    if not changes:
        return list(found.values())
    asked: dict[str, set[Change]] = {}
    for path in changes:
        for name, change in _changes_of(path):
            if name not in found:
                raise BadInput(f"{path}: protein {name} is not in {proteins}; list changes and proteins together again")
            there = found[name].sequence[change.start : change.start + len(change.ref)]
            if there != change.ref or not 0 <= change.start <= len(found[name].sequence):
                raise BadInput(
                    f"{path}: protein {name} is to have {change.ref!r} from residue {change.start + 1} on and has "
                    f"{there!r} in {proteins}; list changes and proteins together again"
                )
            asked.setdefault(name, set()).add(change)
    for name, own in asked.items():
        found[name].changes = sorted(own)
    return [protein for protein in found.values() if protein.changes]


def _changes_of(path: Path) -> Iterator[tuple[str, Change]]:
    import pyarrow.parquet as pq

    names = [name for name in ("protein", "start", "ref", "alt", "status") if name in pq.read_schema(path).names]
    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches(columns=names):
            for row in batch.to_pylist():
                if row.get("status", Status.SCORED) == Status.SCORED:
                    yield row["protein"], Change(int(row["start"]), row["ref"].upper(), row["alt"].upper())


def shard_of(proteins: Sequence[Protein], scheme: MaskedResidues, shard: int, shards: int) -> list[Protein]:
    """The `shard`-th (from 0) of so many contiguous slices of about equal cost. Each protein is in exactly one."""
    costs = np.array([_cost(protein, scheme) for protein in proteins], float)
    if not costs.sum():
        return list(proteins) if shard == 0 else []
    middles = (np.cumsum(costs) - costs / 2) / costs.sum()
    slices = np.minimum((middles * shards).astype(int), shards - 1)
    return [proteins[number] for number in np.flatnonzero(slices == shard)]


def _cost(protein: Protein, scheme: MaskedResidues) -> int:
    """Residues that pass through the network, about."""
    window, length = scheme.facts.window, len(protein.sequence)
    read = min(length, window)
    several = sum(len(change.ref) > 1 or len(change.alt) != 1 for change in protein.changes)
    passes = len(protein.masked) + several * (2 * read if scheme.reading.exact_likelihoods else 2)
    return sum(end - start for start, end in scheme.tiles(length)) + passes * read


def score_proteins(
    asker: Asker,
    proteins: Path,
    changes: Sequence[Path],
    profiles: Path,
    change_scores: Path,
    *,
    shard: int = 0,
    shards: int = 1,
) -> dict:
    """Score the changes of one shard's proteins, or all their residues if there are no tables of changes.

    `columns.PROFILES` gets the wild-type marginals of all residues of each protein, and beside them masked ones of the
    residues that are exchanged (of all residues without tables of changes) where the scheme reads those.
    `columns.CHANGE_SCORES` gets changes of several residues and of a protein's length. What the model cannot score is
    absent there and counted.

    Args:
        proteins, changes: as in `read_proteins`. profiles, change_scores: what is written, as Parquet.

    Returns:
        Counts and throughput for run.json.
    """
    started = time.perf_counter()
    scheme = asker.scheme
    assert isinstance(scheme, MaskedResidues)
    chosen = read_proteins(proteins, changes)
    masked = scheme.site_method == scheme.masked_method
    for protein in chosen:
        if masked and not changes:
            protein.masked = list(range(len(protein.sequence)))
        elif masked:
            singles = (change for change in protein.changes if len(change.ref) == len(change.alt) == 1)
            protein.masked = sorted({change.start for change in singles if scheme.plan(protein.sequence, *change)})
    chosen = shard_of(chosen, scheme, shard, shards)
    total = sum(len(protein.sequence) for protein in chosen)
    asker.counts |= {"proteins": len(chosen), "residues": total, "tiled": 0}
    asker.counts |= {"changes": 0, "evaluable": 0, "not_evaluable": 0}
    _write(asker, lambda: _groups(chosen, scheme, asker.exact is not None), total, profiles, change_scores)
    return asker.report("residues", total, started)


def _write(
    asker: Asker, groups: Callable[[], Iterator[ProteinGroup]], total: int, profiles: Path, change_scores: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from seqprior.batching import Progress

    scheme, progress = asker.scheme, Progress("residues", total, "residue")
    schemas = profiles_schema(), change_scores_schema()
    with (
        written_whole(profiles) as first,
        written_whole(change_scores) as second,
        pq.ParquetWriter(first, schemas[0], compression="zstd") as profile_writer,
        pq.ParquetWriter(second, schemas[1], compression="zstd") as change_writer,
    ):
        for group, answers in asker.answered(groups, at_once=False):
            profile_writer.write_table(pa.table(profile_rows(scheme, group, answers), schema=schemas[0]))
            rows = change_rows(group, answers)
            change_writer.write_table(pa.table(list(zip(*rows, strict=True)) or [[]] * 6, schema=schemas[1]))
            _count(asker.counts, scheme, group)
            progress.add(sum(len(protein.sequence) for protein in group.proteins))
    progress.close()


def _groups(proteins: Sequence[Protein], scheme: MaskedResidues, measured: bool) -> Iterator[ProteinGroup]:
    """Proteins in groups of about `GROUP_RESIDUES`. `measured`: an approximation's error will be."""
    held: list[Protein] = []
    residues = 0
    for protein in proteins:
        held.append(protein)
        residues += len(protein.sequence)
        if residues >= GROUP_RESIDUES:
            yield _planned(held, scheme, measured)
            held, residues = [], 0
    if held:
        yield _planned(held, scheme, measured)


def _planned(proteins: list[Protein], scheme: MaskedResidues, measured: bool) -> ProteinGroup:
    """What has to be asked for a group of proteins."""
    group = ProteinGroup(proteins)
    for protein in proteins:
        group.requests.update((request, None) for request, *_ in scheme.profile(protein.sequence))
        group.requests.update((scheme.residue(protein.sequence, place), None) for place in protein.masked)
        for change in protein.changes:
            plan = scheme.plan(protein.sequence, *change)
            if plan is not None:
                group.scored[protein.name, change] = plan
                group.requests.update(dict.fromkeys(plan.requests))
    group.plans = list(group.scored.values())
    if measured and not group.plans:
        group.plans = _any_plans(proteins, scheme)
    return group


def _any_plans(proteins: Sequence[Protein], scheme: MaskedResidues) -> list[Plan]:
    """Some substitutions, for an error to be measured where no changes are asked for."""
    plans: list[Plan] = []
    for protein in proteins:
        for place, ref in enumerate(protein.sequence):
            if len(plans) == ERROR_PLANS:
                return plans
            if ref in INDEX_OF:
                alt = AMINO_ACIDS[(INDEX_OF[ref] + 1) % len(AMINO_ACIDS)]
                plans += filter(None, [scheme.plan(protein.sequence, place, ref, alt)])
    return plans


def profile_rows(scheme: MaskedResidues, group: ProteinGroup, answers: Mapping[Request, np.ndarray]) -> list[pa.Array]:
    """The columns of `columns.PROFILES`: each protein's wild-type marginals, then its masked ones if there are any."""
    import pyarrow as pa

    names, places, methods, logs = [], [], [], []
    for protein in group.proteins:
        masked = [answers[scheme.residue(protein.sequence, place)][0] for place in protein.masked]
        for method, own, found in (
            (scheme.wild_type_method, np.arange(len(protein.sequence)), profile_of(scheme, protein.sequence, answers)),
            (scheme.masked_method, np.array(protein.masked, np.int64), np.array(masked)),
        ):
            names += [protein.name] * len(own)
            methods += [scheme.named(method, len(protein.sequence))] * len(own)
            places.append(own)
            logs.append(found.reshape(-1))
    flat = pa.array(np.concatenate(logs).astype(np.float32))
    lists = pa.FixedSizeListArray.from_arrays(flat, len(AMINO_ACIDS))
    return [pa.array(names), pa.array(np.concatenate(places)), pa.array(methods), lists]


def profile_of(scheme: MaskedResidues, sequence: str, answers: Mapping[Request, np.ndarray]) -> np.ndarray:
    """Wild-type log probabilities of all residues of a protein, float64 (L, 20)."""
    width = len(AMINO_ACIDS)
    profile = np.empty((len(sequence), width))
    for request, first, last, entry in scheme.profile(sequence):
        profile[first:last] = answers[request][0, entry : entry + (last - first) * width].reshape(-1, width)
    return profile


def change_rows(group: ProteinGroup, answers: Mapping[Request, np.ndarray]) -> list[tuple]:
    """Rows of `columns.CHANGE_SCORES`: the changes that no single profile answers."""
    return [
        (name, *change, plan.method, float(plan.llr(answers)[0]))
        for (name, change), plan in group.scored.items()
        if len(change.ref) != 1 or len(change.alt) != 1
    ]


def _count(counts: dict[str, int], scheme: MaskedResidues, group: ProteinGroup) -> None:
    asked = sum(len(protein.changes) for protein in group.proteins)
    counts["changes"] += asked
    counts["evaluable"] += len(group.scored)
    counts["not_evaluable"] += asked - len(group.scored)
    counts["tiled"] += sum(scheme.named("", len(protein.sequence)) == TILED for protein in group.proteins)
