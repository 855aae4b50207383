"""Where a network runs."""

from __future__ import annotations

import torch

from seqprior.errors import BadInput


def torch_device(name: str) -> torch.device:
    """The device that scoring.device names, 'cpu' or 'gpu'.

    Raises:
        BadInput: a GPU was asked for and there is none: better an end than a slow run.
    """
    if name == "gpu" and not torch.cuda.is_available():
        raise BadInput("scoring.device is gpu but this machine shows none; give the job a GPU or set it to cpu")
    return torch.device("cuda" if name == "gpu" else "cpu")
