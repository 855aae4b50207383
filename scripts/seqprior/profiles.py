"""Profiles of residues as models wrote them: log p of the 20 residues at each place, and the spread of their LLRs.

A place may have two profiles: one of a pass over the whole protein and one with the residue masked. The masked one is
the residue's evidence; the mean and spread of a protein's substitutions are those of the pass over the whole protein.
Tables are read a protein at a time, so memory does not grow with the number of proteins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqprior.columns import PROFILES
from seqprior.errors import BadInput
from seqprior.residues import AMINO_ACIDS, INDEX_OF

MASKED = "masked_marginal"  # starts the name of the method that is taken before others
ROWS = 16_384  # of a table that are held at a time
NO_SPREAD = 1e-6  # standard deviation; below, all substitutions are alike and nothing stands out among them


@dataclass
class Profile:
    """What one model says of one protein of L residues.

    Attributes:
        sequence: its residues.
        whole, masked: float32 (L, 20), log p in the order of `residues.AMINO_ACIDS`; NaN where the model was not asked.
        whole_method, masked_method: names of the methods; empty without such profiles.
    """

    sequence: str
    whole: np.ndarray
    masked: np.ndarray
    whole_method: str = ""
    masked_method: str = ""

    def __post_init__(self) -> None:
        self._index = np.array([INDEX_OF.get(letter, -1) for letter in self.sequence], int)

    @property
    def logp(self) -> np.ndarray:
        """Float32 (L, 20): the masked profile where there is one, else that of the pass over the whole protein."""
        return np.where(np.isnan(self.masked), self.whole, self.masked)

    def method(self, residue: int) -> str:
        """Method of `logp` at a residue (0-based); empty where there is none."""
        if not np.isnan(self.masked[residue, 0]):
            return self.masked_method
        return "" if np.isnan(self.whole[residue, 0]) else self.whole_method

    def llr(self, logp: np.ndarray | None = None) -> np.ndarray:
        """LLR of each substitution, float32 (L, 20): 0 for the residue itself, NaN where it is none of the 20."""
        logp = self.logp if logp is None else logp
        own = np.take_along_axis(logp, np.maximum(self._index, 0)[:, None], axis=1)
        return np.where((self._index < 0)[:, None], np.nan, logp - own)

    def spread(self) -> tuple[float, float]:
        """Mean and standard deviation of the LLRs of all substitutions; NaN where they are too few or all alike."""
        llr = self.llr(self.whole if self.whole_method else self.masked).astype(float)
        places = np.flatnonzero(self._index >= 0)
        llr[places, self._index[places]] = np.nan  # a residue is no substitution of itself
        known = llr[~np.isnan(llr)]
        if known.size < 2:
            return float("nan"), float("nan")
        return float(known.mean()), float(known.std()) if known.std() > NO_SPREAD else float("nan")

    def z(self) -> np.ndarray:
        """Standard deviations by which each substitution is more surprising than the mean one, float64 (L, 20)."""
        mean, sd = self.spread()
        return (mean - self.llr().astype(float)) / sd


def of_proteins(proteins: Iterable[str]) -> list[tuple[str, str, list[str]]]:
    """The filter with which Parquet is read for some proteins alone."""
    return [("protein", "in", list(proteins) or [""])]  # an empty list has no type, which Arrow refuses


def read_profiles(paths: Iterable[Path], sequences: Mapping[str, str]) -> Iterator[tuple[str, Profile]]:
    """Name and profiles of each protein by one model. A protein's rows stand together in one of the tables.

    Args:
        paths: tables of `columns.PROFILES`. sequences: residues by protein; other proteins of the tables are left out.

    Raises:
        BadInput: a table has other columns, or a profile does not fit its protein.
    """
    import pyarrow.parquet as pq

    seen: set[str] = set()
    for path in paths:
        if absent := set(PROFILES) - set(pq.read_schema(path).names):
            raise BadInput(
                f"{path}: no column {', '.join(sorted(absent))}; expected a table of residues' profiles; rerun the "
                "protein stage"
            )
        open_protein, profile = "", None
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=ROWS, columns=list(PROFILES)):
                for protein, *rows in _proteins_of(path, batch):
                    if protein not in sequences:
                        continue
                    if protein != open_protein:
                        if profile is not None:
                            yield open_protein, profile
                        if protein in seen:
                            raise BadInput(
                                f"{path}: protein {protein} stands in several places; expected its profiles together; "
                                "rerun the protein stage"
                            )
                        seen.add(protein)
                        empty = np.full((len(sequences[protein]), len(AMINO_ACIDS)), np.nan, np.float32)
                        open_protein, profile = protein, Profile(sequences[protein], empty, empty.copy())
                    _fill(profile, path, protein, *rows)
        if profile is not None:
            yield open_protein, profile


def _proteins_of(path: Path, batch) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, residues (n,), whether each was masked (n,) with its method, and log p (n, 20), by protein."""
    values = batch["logp"].flatten().to_numpy(zero_copy_only=False)
    if len(values) != batch.num_rows * len(AMINO_ACIDS):
        raise BadInput(f"{path}: profiles of other than 20 residues; expected log p of 20; rerun the protein stage")
    values = values.reshape(-1, len(AMINO_ACIDS)).astype(np.float32)
    names = np.array(batch["protein"].to_pylist(), object)
    methods = np.array(batch["method"].to_pylist(), object)
    residues = batch["residue"].to_numpy()
    starts = np.flatnonzero(np.append(True, names[1:] != names[:-1])) if len(names) else []
    for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
        yield names[start], residues[start:end], methods[start:end], values[start:end]


def _fill(
    profile: Profile, path: Path, protein: str, residues: np.ndarray, methods: np.ndarray, values: np.ndarray
) -> None:
    length = len(profile.sequence)
    if residues.min() < 0 or residues.max() >= length:
        raise BadInput(
            f"{path}: a profile of residue {residues.max() + 1} of protein {protein}, which has {length}; "
            "expected both of one run; rerun the protein stage"
        )
    for method in dict.fromkeys(methods.tolist()):
        kind, rows = "masked" if method.startswith(MASKED) else "whole", methods == method
        getattr(profile, kind)[residues[rows]] = values[rows]
        setattr(profile, f"{kind}_method", method)


def by_model(
    models: list[str], paths: list[Path], sequences: Mapping[str, str], what: str
) -> dict[str, dict[str, Profile]]:
    """Profiles of several models, whose tables follow each other in the models' order, as many for each.

    Raises:
        BadInput: the tables are no whole number for each model; `what` names the option that gave them.
    """
    shards, rest = divmod(len(paths), len(models)) if models else (0, len(paths))
    if rest or (models and not shards):
        raise BadInput(
            f"{what}: {len(paths)} tables of {len(models)} models; expected as many tables for each model; name all "
            "of one model before those of the next"
        )
    return {
        model: dict(read_profiles(paths[number * shards : (number + 1) * shards], sequences))
        for number, model in enumerate(models)
    }
