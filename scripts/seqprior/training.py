"""Training of the bidirectional convolutional model on a genome.

The recipe is deterministic in its data: crop i of step s is the same whatever the number of processes, and a run that
was stopped goes on from its last checkpoint. Matrices are updated by Muon (Jordan et al. 2024, as shipped in PyTorch),
everything else by AdamW; the learning rate is constant after a short warm-up and falls linearly at the end.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM
from seqprior.device import claimed_device
from seqprior.errors import BadInput
from seqprior.files import written_whole
from seqprior.repeats import repeat_masks

log = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
HISTORY_FILE = "training.tsv"
CHECKPOINT_FILE = "checkpoint.pt"
HISTORY_COLUMNS = ("step", "epoch", "seconds", "learning_rate", "train_bits", "validation_bits")


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides the trained weights, besides the genome.

    `test` and `validation` contigs are never trained on. A step sees `crops_per_step` crops of `crop_length` bases.
    `repeat_weight` is the loss weight of repeated positions. `epochs` counts passes over the training bases.
    """

    test: tuple[str, ...] = ("chrXV",)
    validation: tuple[str, ...] = ("chrVI",)
    exclude: tuple[str, ...] = ()
    seed: int = 1
    epochs: float = 5.0
    crop_length: int = 2048
    crops_per_step: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup_steps: int = 100
    decay_share: float = 0.4
    repeat_weight: float = 0.1
    processes: int = 2
    checkpoint_every: int = 250
    network: dict = field(default_factory=dict)

    @property
    def held_out(self) -> set[str]:
        """Contigs that are never trained on."""
        return {*self.test, *self.validation, *self.exclude}

    @classmethod
    def from_dict(cls, values: Mapping) -> TrainingSettings:
        lists = {"test", "validation", "exclude"}
        return cls(**{key: tuple(value) if key in lists else value for key, value in values.items()})


def learning_rate_factor(step: int, steps: int, settings: TrainingSettings) -> float:
    """Warm-up, plateau, linear decay to zero: the factor of the learning rate at a step."""
    warmup = min(1.0, (step + 1) / settings.warmup_steps)
    decay = min(1.0, (steps - step) / max(1, round(steps * settings.decay_share)))
    return warmup * decay


class CropSampler:
    """Random crops of the training contigs, a pure function of (seed, step, crop)."""

    def __init__(self, genome: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray], length: int, seed: int):
        usable = [name for name in genome if len(genome[name]) >= length]
        self.genome, self.weights, self.length, self.seed = genome, weights, length, seed
        self.names = usable
        starts = [len(genome[name]) - length + 1 for name in usable]
        self.ends = np.cumsum(starts)

    def crop(self, step: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes uint8 (length,) and loss weights float32 (length,) of one crop."""
        draw = np.random.default_rng((self.seed, step, index)).integers(self.ends[-1])
        contig = int(np.searchsorted(self.ends, draw, side="right"))
        start = int(draw - (self.ends[contig - 1] if contig else 0))
        name = self.names[contig]
        window = slice(start, start + self.length)
        return self.genome[name][window], self.weights[name][window]

    def batch(self, step: int, indices: range) -> tuple[Tensor, Tensor]:
        """Codes int64 (B, L) and weights float32 (B, L) of the crops that one process handles in a step."""
        codes, weights = zip(*(self.crop(step, index) for index in indices), strict=True)
        return torch.from_numpy(np.stack(codes).astype(np.int64)), torch.from_numpy(np.stack(weights))


def leave_one_out_loss(model: BidirectionalConvLM, codes: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """Weighted mean cross-entropy over both strands, in nats. N is not predicted."""
    known = weights * (codes < 4)
    target = codes.clamp(max=3).flatten()
    losses = [F.cross_entropy(logits.flatten(0, 1), target, reduction="none") for logits in model(codes, dtype)]
    return ((losses[0] + losses[1]) / 2 * known.flatten()).sum() / known.sum()


@torch.inference_mode()
def bits_per_base(model: BidirectionalConvLM, codes: np.ndarray, counted: np.ndarray, tile: int = 16384) -> float:
    """Mean -log2 p(base | all others) over the counted positions of one contig, p from both strands' mean logits."""
    reach = model.config.reach
    device = model.embedding.device
    total, count = 0.0, 0
    for start in range(0, len(codes), tile):
        lower = max(0, start - reach)
        piece = torch.from_numpy(codes[lower : start + tile + reach].astype(np.int64))[None].to(device)
        forward, reverse = model(piece)
        inner = slice(start - lower, start - lower + min(tile, len(codes) - start))
        target = piece[0, inner]
        chosen = torch.from_numpy(counted[start : start + tile]).to(device) & (target < 4)
        joint = ((forward[0, inner] + reverse[0, inner]) / 2).log_softmax(-1)
        picked = joint.gather(1, target.clamp(max=3)[:, None])[:, 0]
        total -= picked[chosen].sum().item()
        count += int(chosen.sum())
    return total / count / math.log(2)


def build_optimizers(model: BidirectionalConvLM, settings: TrainingSettings) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if name.startswith("blocks") and p.ndim == 2]
    matrices.append(model.join)
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    rate, decay = settings.learning_rate, settings.weight_decay
    return [
        torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=rate, weight_decay=0.0, betas=(0.9, 0.98)),
    ]


def average_gradients(model: torch.nn.Module) -> None:
    """Mean of the gradients over all processes."""
    gradients = [p.grad for p in model.parameters()]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def fingerprint(genome: Mapping[str, np.ndarray], settings: TrainingSettings) -> str:
    """Digest of all that decides the weights, so that a checkpoint is never continued under another recipe."""
    decisive = {key: value for key, value in vars(settings).items() if key not in {"processes", "checkpoint_every"}}
    digest = hashlib.sha256(json.dumps(decisive, default=list, sort_keys=True).encode())
    for name, codes in genome.items():
        digest.update(name.encode() + codes.tobytes())
    return digest.hexdigest()


def train_process(
    rank: int,
    world: int,
    genome: Mapping[str, np.ndarray],
    settings: TrainingSettings,
    output: Path,
    device: torch.device,
) -> None:
    """One of `world` data-parallel training processes; rank 0 validates, logs and saves."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.manual_seed(settings.seed)
    if device.type == "cpu":
        torch.set_num_threads(1)
    if world > 1:
        store = f"file://{(output / 'rendezvous').resolve()}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)

    masks = repeat_masks(genome)
    training = {name: codes for name, codes in genome.items() if name not in settings.held_out}
    weights = {name: np.where(masks[name], settings.repeat_weight, 1.0).astype(np.float32) for name in training}
    sampler = CropSampler(training, weights, settings.crop_length, settings.seed)
    bases = sum(map(len, training.values()))
    steps = round(settings.epochs * bases / (settings.crops_per_step * settings.crop_length))

    config = BidirectionalConfig.from_dict({**BidirectionalConfig().to_dict(), **settings.network})
    model = BidirectionalConvLM(config).to(device)
    optimizers = build_optimizers(model, settings)
    history: list[tuple] = []
    first, elapsed = 0, 0.0
    checkpoint = output / CHECKPOINT_FILE
    recipe = fingerprint(genome, settings)
    saved = torch.load(checkpoint, map_location=device, weights_only=True) if checkpoint.exists() else {}
    if saved and saved["recipe"] != recipe:
        log.info("%s belongs to other data or settings; training starts anew", checkpoint)
    elif saved:
        model.load_state_dict(saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        first, elapsed, history = saved["step"], saved["seconds"], [tuple(row) for row in saved["history"]]
        log.info("resumed at step %d of %d", first, steps)

    share = settings.crops_per_step // world
    indices = range(rank * share, (rank + 1) * share)
    started, running = time.monotonic() - elapsed, []
    for step in range(first, steps):
        rate = settings.learning_rate * learning_rate_factor(step, steps, settings)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        codes, crop_weights = (tensor.to(device) for tensor in sampler.batch(step, indices))
        loss = leave_one_out_loss(model, codes, crop_weights, torch.bfloat16)
        loss.backward()
        if world > 1:
            average_gradients(model)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        running.append(loss.item() / math.log(2))
        done = step + 1
        if rank == 0 and (done % settings.checkpoint_every == 0 or done == steps):
            model.eval()
            validation = [bits_per_base(model, genome[name], ~masks[name]) for name in settings.validation]
            model.train()
            epoch = done * settings.crops_per_step * settings.crop_length / bases
            row = (done, epoch, time.monotonic() - started, rate, float(np.mean(running)), float(np.mean(validation)))
            history.append(row)
            running = []
            log.info("step %d of %d epoch %.2f: %.0f s, lr %.1e, train %.4f, validation %.4f", row[0], steps, *row[1:])
            state = {
                "model": model.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "recipe": recipe,
                "step": done,
                "seconds": row[2],
                "history": history,
            }
            with written_whole(checkpoint) as partial:
                torch.save(state, partial)
    if rank == 0:
        save_model(model, settings, history, output)
    if world > 1:
        dist.destroy_process_group()


def save_model(model: BidirectionalConvLM, settings: TrainingSettings, history: list[tuple], output: Path) -> None:
    """Weights as safetensors, shape and recipe as JSON, the course of training as TSV."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with written_whole(output / WEIGHTS_FILE) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
    lines = ["\t".join(HISTORY_COLUMNS), *("\t".join(f"{value:.6g}" for value in row) for row in history)]
    with written_whole(output / HISTORY_FILE) as partial:
        partial.write_text("\n".join(lines) + "\n")
    recipe = {"architecture": "bidirectional-conv", "network": model.config.to_dict(), "training": vars(settings)}
    with written_whole(output / CONFIG_FILE) as partial:
        partial.write_text(json.dumps(recipe, indent=2, default=list) + "\n")


def train(genome: Mapping[str, np.ndarray], settings: TrainingSettings, output: Path, device: str = "cpu") -> None:
    """Train and leave `model.safetensors`, `config.json` and `training.tsv` in `output`.

    Args:
        genome: base codes uint8 per contig (A, C, G, T = 0..3, 4 otherwise).

    Raises:
        BadInput: a held-out contig is not in the genome, crops cannot be shared out evenly, or no GPU can be had.
    """
    missing = sorted({*settings.test, *settings.validation} - set(genome))
    if missing:
        raise BadInput(
            f"the reference has no contig {', '.join(missing)} to hold out; it has {', '.join(genome)}; "
            f"see train.test and train.validation"
        )
    if all(len(codes) < settings.crop_length for name, codes in genome.items() if name not in settings.held_out):
        raise BadInput(
            f"no training contig is as long as a crop of {settings.crop_length} bases; lower train.crop_length"
        )
    world = 1 if device == "gpu" else settings.processes
    if settings.crops_per_step % world:
        raise BadInput(
            f"train.crops_per_step is {settings.crops_per_step}, which {world} processes cannot share out evenly; "
            f"make it a multiple of train.processes"
        )
    with claimed_device(device) as place:
        output.mkdir(parents=True, exist_ok=True)
        if world == 1:
            train_process(0, 1, genome, settings, output, place)
            return
        (output / "rendezvous").unlink(missing_ok=True)
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        torch.multiprocessing.spawn(train_process, (world, dict(genome), settings, output, place), nprocs=world)
        (output / "rendezvous").unlink(missing_ok=True)
