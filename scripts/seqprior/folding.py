"""Structures of proteins for which none is found, folded by ESMFold.

Each protein becomes a PDB file with the predicted aligned error beside it, in a folder that cohorts share: its name is
that of the model's files and of the arithmetic, so what lies there is right for every cohort, and a protein is folded
once. A checksum file, written last, stands for both.

ESMFold knows the 20 amino acids and X. Selenocysteine (U) is folded as cysteine and pyrrolysine (O) as lysine, of which
they are derivatives; the file then has the amino acid that was folded. Any other letter is X, which takes its place in
the chain but has no atoms, so the file and its predicted aligned error lack it and the numbering has a gap.

Lin et al. (2023), doi:10.1126/science.ade2574. The network and the writing of PDB files are transformers'. Its pLDDT is
between 0 and 1; here it is 0 to 100, as in the files of AlphaFold.
"""

from __future__ import annotations

import fcntl
import json
import logging
import re
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqprior.columns import STRUCTURES, ProteinReason
from seqprior.errors import BadInput, OutOfMemory
from seqprior.files import require_file, sha256, written_whole
from seqprior.models import ModelFacts, read_config
from seqprior.residues import AMINO_ACIDS, protein_id

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

log = logging.getLogger(__name__)

FAMILIES = ("esmfold",)
WITHOUT = (ProteinReason.NO_STRUCTURE, ProteinReason.NO_ACCESSION, ProteinReason.STRUCTURE_OF_OTHER_PROTEIN)
STANDS_FOR = str.maketrans("UO", "CK")
UNKNOWN = "X"
LARGEST_NUMBER = 9999  # residue numbers of a PDB file have four digits
FARTHEST = 999.0  # Angstrom; coordinates have eight characters, three of them behind the point
BATCH_TOKENS = 1024  # residues in a batch; pairs of residues are what fills the memory, so long proteins go alone
SMALLEST_CHUNK = 4
CA = 1  # number of the C-alpha among the 37 atoms


@dataclass(frozen=True)
class Fold:
    """One folded protein of L residues.

    Attributes:
        residues: the L letters that were folded, of the 20 and X.
        positions: float32 (L, 37, 3), Angstrom, in OpenFold's order of atoms.
        present: bool (L, 37), the atoms that the residue has; none for X.
        plddt: float32 (L,), of the C-alpha, 0 to 100, higher is surer.
        pae: float32 (L, L), predicted aligned error of residue j with the frame of residue i superposed, Angstrom.
        largest_pae: the largest value that `pae` could have.
    """

    residues: str
    positions: np.ndarray
    present: np.ndarray
    plddt: np.ndarray
    pae: np.ndarray
    largest_pae: float


class EsmFold:
    """The network, asked for several proteins at once."""

    def __init__(self, model, device: torch.device) -> None:
        self.model, self.device = model, device

    @property
    def chunk_size(self) -> int | None:
        """Rows of the pairs that the trunk attends to at once; None for all."""
        return self.model.trunk.chunk_size

    def reduce_chunk(self, length: int) -> bool:
        """Halve the chunk, for a protein of so many residues; False if that is no use any more. Results stay."""
        chunk = min(self.chunk_size or length, length) // 2
        if chunk < SMALLEST_CHUNK:
            return False
        self.model.trunk.set_chunk_size(chunk)
        log.warning("out of memory with a protein of %d residues; going on with chunks of %d rows", length, chunk)
        return True

    def fold(self, sequences: Sequence[str]) -> list[Fold]:
        """Fold proteins together; each comes out as it would alone, up to rounding."""
        from transformers.models.esm.openfold_utils import atom14_to_atom37

        letters = [folded_as(sequence) for sequence in sequences]
        answer = self.model.infer(letters)
        atoms = atom14_to_atom37(answer["positions"][-1], answer)
        folds = []
        for row, residues in enumerate(letters):
            end = len(residues)
            folds.append(
                Fold(
                    residues,
                    _array(atoms[row, :end]),
                    _array(answer["atom37_atom_exists"][row, :end]) > 0.5,
                    100 * _array(answer["plddt"][row, :end, CA]),
                    _array(answer["predicted_aligned_error"][row, :end, :end]),
                    float(answer["max_predicted_aligned_error"]),
                )
            )
        return folds


def _array(values: torch.Tensor) -> np.ndarray:
    return values.float().cpu().numpy().copy()


def folded_as(sequence: str) -> str:
    """The letters that are folded for a protein: the 20, C for U, K for O, and X for all others."""
    return re.sub(f"[^{AMINO_ACIDS}]", UNKNOWN, sequence.upper().translate(STANDS_FOR))


def arithmetic_of(dtype: str) -> str:
    """Number format of the language model within ESMFold that scoring.dtype stands for; the trunk is always float32.

    int8 is a format for scores on the CPU, in which no fold has been compared; it stands for float32.
    """
    return "bfloat16" if dtype == "bfloat16" else "float32"


def require_folding(facts: ModelFacts) -> None:
    """Raise `BadInput` unless seqprior can fold with the registry's model."""
    if facts.family not in FAMILIES:
        raise BadInput(
            f"{facts.id}: family {facts.family!r} folds no proteins; known are {', '.join(FAMILIES)}; correct "
            "protein.folding in the config"
        )


def load_esmfold(facts: ModelFacts, device: torch.device, arithmetic: str) -> EsmFold:
    """The network of a verified checkpoint, ready to fold.

    Args:
        arithmetic: 'float32', or 'bfloat16' for the language model alone, which has four fifths of the weights.

    Raises:
        BadInput: the checkpoint is of another kind, or weights are missing, left over or of another shape.
    """
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import EsmConfig, EsmForProteinFolding

    from seqprior.networks import DTYPES, require_all_weights

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found = read_config(facts)
    architectures = found.get("architectures") or [EsmForProteinFolding.__name__]
    folds = found.get("is_folding_model") and EsmForProteinFolding.__name__ in architectures
    if found.get("model_type") != "esm" or not folds:
        raise BadInput(
            f"{facts.path}: the checkpoint is {found.get('model_type')!r} with {', '.join(architectures)}, the "
            f"registry says family: {facts.family}, objective: {facts.objective}; correct the entry or fetch the right "
            "model"
        )
    try:
        config = EsmConfig.from_pretrained(facts.path, local_files_only=True)
        config.esmfold_config.fp16_esm = False  # it would round the language model before its number format is known
        model, info = EsmForProteinFolding.from_pretrained(
            facts.path,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to refuse them below, by name
            dtype=torch.float32,
        )
    except (
        OSError,
        ValueError,
        TypeError,
        RuntimeError,
        KeyError,
        AttributeError,
        SafetensorError,
        StrictDataclassError,
    ) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise BadInput(f"{facts.path}: transformers cannot load {facts.id} ({reason}); restore the files") from error
    wrong = [name for name, *_ in info.get("mismatched_keys", ())]
    require_all_weights(facts, [*info["missing_keys"], *wrong], info["unexpected_keys"])
    model.eval().esm.to(DTYPES[arithmetic])
    rotary = getattr(model.esm, "rotary_embeddings", None)
    if rotary is not None:  # the file holds the frequencies, rounded to half precision in the published one
        rotary.inv_freq = rotary.compute_default_rope_parameters(config)[0]
    return EsmFold(model.to(device), device)


@contextmanager
def folding_network(facts: ModelFacts, device: str, arithmetic: str, threads: int) -> Iterator[EsmFold]:
    """The loaded network; its device, 'cpu' or 'gpu', is claimed until the block ends.

    Raises:
        BadInput: a GPU was asked for and there is none, or the checkpoint cannot be loaded.
    """
    import torch

    from seqprior.device import claimed_device

    torch.set_num_threads(threads)
    with claimed_device(device) as place:
        yield load_esmfold(facts, place, arithmetic)


class FoldedFiles:
    """Folded structures of one model in one arithmetic, by protein: `{protein}.pdb`, `.pae.json` and `.sha256`."""

    def __init__(self, folder: Path, digest: str, arithmetic: str) -> None:
        self.folder = folder / (digest[:16] + ("" if arithmetic == "float32" else f"-{arithmetic}"))

    def structure(self, protein: str) -> Path:
        return self.folder / f"{protein}.pdb"

    def pae(self, protein: str) -> Path:
        return self.folder / f"{protein}.pae.json"

    def digest(self, protein: str) -> str:
        """SHA-256 of the protein's structure; empty if there is none or a file of it is not as it was written."""
        try:
            lines = self._sums(protein).read_text(encoding="ascii", errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        noted = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        for path in (self.structure(protein), self.pae(protein)):
            if not path.is_file() or noted.get(path.name) != sha256(path):
                log.warning("%s is not as it was written; the protein is folded anew", path)
                return ""
        return noted[self.structure(protein).name]

    def write(self, protein: str, fold: Fold, remarks: Sequence[str]) -> None:
        """Write a fold, unless another job has written the same protein meanwhile. A killed job leaves no part of it.

        Raises:
            BadInput: the disk is full, or its file system has no locks.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".guard").open("w") as guard:
            try:
                fcntl.flock(guard, fcntl.LOCK_EX)
            except OSError as error:
                raise BadInput(
                    f"{guard.name}: the file system offers no locks ({error}); work on another one"
                ) from error
            if self.digest(protein):
                return
            lines = []
            for path, text in ((self.pae(protein), pae_text(fold)), (self.structure(protein), pdb_text(fold, remarks))):
                with written_whole(path) as partial:
                    partial.write_text(text, encoding="ascii")
                lines.append(f"{sha256(path)}  {path.name}\n")
            with written_whole(self._sums(protein)) as partial:
                partial.write_text("".join(lines), encoding="ascii")

    def _sums(self, protein: str) -> Path:
        return self.folder / f"{protein}.sha256"


def pdb_text(fold: Fold, remarks: Sequence[str]) -> str:
    """A fold as PDB: one chain A, residues numbered from 1, B-factors the residue's pLDDT, remarks in front."""
    import numpy as np
    from transformers.models.esm.openfold_utils import OFProtein, residue_constants, to_pdb

    numbers = np.arange(len(fold.residues))
    protein = OFProtein(
        atom_positions=fold.positions,
        aatype=np.array([residue_constants.restype_order_with_x[letter] for letter in fold.residues]),
        atom_mask=fold.present,
        residue_index=numbers + 1,
        b_factors=np.repeat(fold.plddt[:, None], fold.present.shape[1], axis=1),
    )
    lines = [line for remark in remarks for line in textwrap.wrap(remark, 68)]
    head = "".join(f"REMARK   6 {line}\n".encode("ascii", "replace").decode("ascii") for line in lines)
    return head + to_pdb(protein)


def pae_text(fold: Fold) -> str:
    """Predicted aligned error as JSON in the format of AlphaFold DB, of the residues that the PDB file has, in order.

    Angstrom, to one decimal; row i has the frame of residue i superposed.
    """
    import numpy as np

    kept = np.flatnonzero(fold.present.any(axis=1))
    errors = np.round(fold.pae[np.ix_(kept, kept)].astype(float), 1)
    entry = {"predicted_aligned_error": errors.tolist(), "max_predicted_aligned_error": round(fold.largest_pae, 2)}
    return json.dumps([entry], separators=(",", ":")) + "\n"


def remarks_of(facts: ModelFacts, revision: str, digest: str, arithmetic: str, sequence: str) -> list[str]:
    """What a folded file says of itself."""
    source = facts.hub or "a folder"
    remarks = [
        "PREDICTED STRUCTURE, NO EXPERIMENT",
        f"MODEL: {facts.name} from {source}, revision {revision}, SHA-256 of its files {digest}",
        f"ARITHMETIC: {arithmetic} in the language model, float32 elsewhere",
        f"LICENCE OF THE MODEL: {facts.licence}",
        f"CITATION: {facts.citation}",
        "B-FACTORS: pLDDT of the residue's C-alpha, 0 to 100, higher is surer",
    ]
    replaced = [f"{old}{number}" for number, old in enumerate(sequence, 1) if old not in AMINO_ACIDS]
    if replaced:
        remarks.append(f"RESIDUES: {', '.join(replaced)} folded as C for U, K for O, X without atoms for others")
    return remarks


def read_structures(path: Path) -> pd.DataFrame:
    """The table of structures, columns `STRUCTURES`, all text.

    Raises:
        BadInput: it is not such a table.
    """
    import pandas as pd

    require_file(path, "table of structures")
    try:
        table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # a parser's error is a ValueError
        reason = str(error).strip().replace("\n", " ").rstrip(".")
        raise BadInput(f"{path}: no tab-separated table of structures ({reason}); run the workflow again") from error
    missing = [name for name in STRUCTURES if name not in table]
    if missing:
        raise BadInput(
            f"{path}, line 1: no column {missing[0]}; expected tab-separated {', '.join(STRUCTURES)}; run the workflow "
            "again"
        )
    return table


def read_sequences(path: Path) -> dict[str, str]:
    """Sequence of each protein of proteins.parquet, by its name.

    Raises:
        BadInput: it is no such table, or a name is not that of its sequence.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    require_file(path, "table of proteins")
    try:
        table = pq.read_table(path, columns=["protein", "sequence"])
        sequences = dict(zip(*(table[name].to_pylist() for name in ("protein", "sequence")), strict=True))
        faulty = [name for name, sequence in sequences.items() if name != protein_id(sequence)]
    except (pa.ArrowException, OSError, KeyError, AttributeError, UnicodeError) as error:
        reason = str(error).strip().replace("\n", " ").rstrip(".")
        raise BadInput(f"{path}: no table of proteins ({reason}); run the workflow again") from error
    if faulty:
        raise BadInput(f"{path}: {faulty[0]!r} is not the name of its protein's sequence; run the workflow again")
    return sequences


def without_structure(table: pd.DataFrame) -> pd.DataFrame:
    """The first row of each protein that has no structure in the table, for a reason that folding may mend."""
    found = set(table.loc[table["reason"] == "", "protein"])
    rows = table[table["reason"].isin([reason.value for reason in WITHOUT]) & ~table["protein"].isin(found)]
    return rows.drop_duplicates("protein")


def fold_all(
    network: EsmFold,
    sequences: dict[str, str],
    keep: Callable[[str, Fold], None],
    batch_tokens: int | None = None,
) -> dict[str, int]:
    """Fold proteins, shortest first, and hand each to `keep` as soon as it is there.

    Several that do not fit into memory are folded in smaller batches, a single one in smaller chunks of its pairs.

    Args:
        sequences: by protein. batch_tokens: residues in a batch, padding included; None for `BATCH_TOKENS`.

    Returns:
        Counts of batches, of residues with padding, and of how often the memory did not suffice.

    Raises:
        OutOfMemory: one protein does not fit, in the smallest chunks.
        BadInput: the network gave numbers that are no coordinates.
    """
    from seqprior.batching import Batcher, Progress, fits_into_memory

    names = list(sequences)
    lengths = [len(sequences[name]) for name in names]
    progress = Progress("folding", sum(lengths), unit="residue")

    def compute(numbers: list[int]) -> None:
        folds: list[Fold] = []

        def attempt(numbers: list[int]) -> None:
            folds.extend(network.fold([sequences[names[number]] for number in numbers]))

        while not fits_into_memory(attempt, numbers, network.device):
            if len(numbers) > 1:
                raise MemoryError
            name, length = names[numbers[0]], lengths[numbers[0]]
            if not network.reduce_chunk(length):
                raise OutOfMemory(
                    f"protein {name} of {length} residues does not fit into memory; use a larger device or set "
                    f"protein.longest_folded below {length}"
                )
        for number, fold in zip(numbers, folds, strict=True):
            _require_coordinates(names[number], fold)
            keep(names[number], fold)

    batcher = Batcher(network.device, batch_tokens or BATCH_TOKENS)
    try:
        batcher.run(lengths, compute, progress=progress)
    finally:
        progress.close()
    done = batcher.throughput
    return {"batches": done.batches, "tokens": done.tokens, "halvings": done.halvings}


def _require_coordinates(name: str, fold: Fold) -> None:
    import numpy as np

    values = (fold.positions[fold.present], fold.plddt, fold.pae)
    if not all(np.isfinite(array).all() for array in values) or np.abs(values[0]).max(initial=0.0) > FARTHEST:
        raise BadInput(
            f"protein {name}: the model gave coordinates that are no numbers or lie more than {FARTHEST:.0f} Angstrom "
            "off; set scoring.dtype to float32, or check the checkpoint if it is"
        )


def fold_missing(
    table: pd.DataFrame,
    sequences: dict[str, str],
    files: FoldedFiles,
    facts: ModelFacts,
    version: str,
    longest: int,
    network: Callable[[], AbstractContextManager[EsmFold]],
    remarks: Callable[[str], Sequence[str]],
    batch_tokens: int | None = None,
) -> tuple[pd.DataFrame, dict]:
    """Fold the proteins without a structure that no cohort has folded yet.

    Args:
        table: structures that were found, columns `STRUCTURES`. sequences: by protein.
        version: of the model, for the table. longest: residues; longer proteins stay without a structure.
        network: opened if there is something to fold, and not otherwise. remarks: of a sequence, for its file.

    Returns:
        A table with the columns `STRUCTURES`, one row for each protein that had no structure: now with one, or with
        the reason that it had; and counts for run.json.

    Raises:
        BadInput, OutOfMemory: as `fold_all`; what was folded before is kept.
    """
    started = time.perf_counter()
    rows = without_structure(table)
    unknown = [name for name in rows["protein"] if name not in sequences]
    if unknown:
        raise BadInput(f"{unknown[0]}: a protein of structures.tsv that proteins.parquet lacks; run the workflow again")
    limit = min(longest, LARGEST_NUMBER)
    # With no known residue at all, a file would have no atom.
    foldable = [name for name in rows["protein"] if set(folded_as(sequences[name])) - {UNKNOWN}]
    wanted = [name for name in foldable if len(sequences[name]) <= limit]
    missing = {name: sequences[name] for name in wanted if not files.digest(name)}
    stats = {
        "without_structure": len(rows),
        "too_long": len(foldable) - len(wanted),
        "reused": len(wanted) - len(missing),
        "folded": len(missing),
        "residues": sum(map(len, missing.values())),
        "device": "none",
    }
    if missing:
        with network() as opened:
            stats["device"] = opened.device.type
            stats |= fold_all(
                opened,
                missing,
                lambda name, fold: files.write(name, fold, remarks(sequences[name])),
                batch_tokens,
            )
            stats["chunk_size"] = opened.chunk_size
    stats["seconds"] = time.perf_counter() - started
    log.info(
        "%d proteins without a structure: %d folded in %.0f s, %d folded before, %d longer than %d residues",
        stats["without_structure"],
        stats["folded"],
        stats["seconds"],
        stats["reused"],
        stats["too_long"],
        limit,
    )
    return _filled(rows, set(wanted), files, facts.family, version), stats


def _filled(rows: pd.DataFrame, folded: set[str], files: FoldedFiles, source: str, version: str) -> pd.DataFrame:
    """The rows, those of folded proteins with their files."""
    import pandas as pd

    filled = []
    for row in rows[list(STRUCTURES)].to_dict("records"):
        name = row["protein"]
        if name in folded:
            digest = files.digest(name)
            if not digest:
                raise BadInput(f"{files.structure(name)}: the file was changed or deleted meanwhile; run again")
            places = {"path": str(files.structure(name)), "pae": str(files.pae(name)), "sha256": digest}
            row = {**row, "source": source, "version": version, "reason": "", **places}
        filled.append(row)
    return pd.DataFrame(filled, columns=list(STRUCTURES))
