"""Where a network runs."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from seqprior.claims import ASSIGNED, assigned_by, claim_device, lock_folder
from seqprior.errors import BadInput

log = logging.getLogger(__name__)
ANSWER_SECONDS = 60  # a driver that has slept may need several seconds to list its devices


def torch_device(name: str) -> torch.device:
    """The device that scoring.device names, 'cpu' or 'gpu'.

    Raises:
        BadInput: a GPU was asked for and there is none: better an end than a slow run.
    """
    if name == "gpu" and not torch.cuda.is_available():
        raise BadInput("scoring.device is gpu but this machine shows none; give the job a GPU or set it to cpu")
    return torch.device("cuda" if name == "gpu" else "cpu")


@contextmanager
def claimed_device(name: str, wait_seconds: float | None = None) -> Iterator[torch.device]:
    """The device that scoring.device names, 'cpu' or 'gpu', for the block; a GPU is this process's alone meanwhile.

    Within the block the GPU is PyTorch's current one too, so that nothing lands on the first GPU by default. Where a
    scheduler or CUDA_VISIBLE_DEVICES has chosen the devices, it is the first one that is visible.

    Args:
        wait_seconds: how long to wait at most while other jobs hold all GPUs; None for as long as it takes.

    Raises:
        BadInput: a GPU was asked for and there is none, for a reason that the message gives; or none became free.
    """
    if name != "gpu":
        yield torch_device(name)
        return
    _require_gpu()
    names = device_names(torch.cuda.device_count())
    with claim_device(names, lock_folder(), wait_seconds) as claimed:
        index = claimed if assigned_by() else cuda_index(names[claimed], claimed)
        log.info("running on GPU %d (%s)", index, assigned_by() or names[claimed])
        with torch.cuda.device(index):
            yield torch.device("cuda", index)


def device_names(count: int) -> list[str]:
    """A name for each of `count` GPUs: UUIDs if nvidia-smi lists as many, otherwise their numbers.

    UUIDs name a GPU alike in containers that see different ones. PyTorch's own list of them is not asked for: it starts
    CUDA, before it is known which GPU is this process's.

    Raises:
        BadInput: nvidia-smi hangs; names that other jobs do not use would let two jobs claim one GPU.
    """
    program = shutil.which("nvidia-smi")
    if program:
        try:
            listed = subprocess.run(
                [program, "-L"], capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise BadInput(
                f"nvidia-smi has not listed the GPUs within {ANSWER_SECONDS} seconds; call nvidia-smi -L to see what "
                f"is wrong with the driver"
            ) from error
        # Parts of a GPU (MIG) are indented below it, and are not counted by PyTorch.
        names = re.findall(r"^GPU \d+: .*\(UUID: (GPU-[\w-]+)\)", listed.stdout, re.MULTILINE)
        if listed.returncode == 0 and len(names) == count:
            return names
        log.info("nvidia-smi lists %d GPUs, PyTorch sees %d; numbers are their names", len(names), count)
    return [f"gpu-{index}" for index in range(count)]


def cuda_index(name: str, listed: int) -> int:
    """PyTorch's index of the GPU that is `listed` (0-based) in nvidia-smi's list and has this UUID as its name.

    CUDA puts the fastest GPU first, nvidia-smi goes by the slot.
    """
    if not name.startswith("GPU-"):
        return listed
    for index in range(torch.cuda.device_count()):
        uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
        if str(uuid).removeprefix("GPU-") == name.removeprefix("GPU-"):
            return index
    return listed


def _require_gpu() -> None:
    """Raise `BadInput` with the likely reason if PyTorch can use no GPU."""
    if torch.cuda.is_available():
        return
    if torch.version.cuda is None and torch.version.hip is None:
        raise BadInput(
            f"scoring.device is gpu but PyTorch {torch.__version__} is a build without GPU support; install one for "
            f"CUDA or set it to cpu"
        )
    for variable in ASSIGNED:
        if variable.endswith("_VISIBLE_DEVICES") and os.environ.get(variable) in {"", "-1", "NoDevFiles"}:
            raise BadInput(
                f"scoring.device is gpu but {variable} is '{os.environ[variable]}', which hides all GPUs; give the job "
                f"a GPU, unset {variable} or set scoring.device to cpu"
            )
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
        raise BadInput(
            f"scoring.device is gpu but PyTorch {torch.__version__} cannot use one ({reason}); give the job a GPU, "
            f"update its driver or set it to cpu"
        ) from error
    torch_device("gpu")
