"""From a registry entry to a model that can be asked: verified files, permission, a claimed device, the network.

A job opens the scheme first, which needs no torch. The network is loaded, and a device claimed, when something has to
be computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from seqprior.errors import BadInput
from seqprior.fetching import verify
from seqprior.models import ModelFacts, model_facts
from seqprior.plans import Reading, Scheme, read_scheme

if TYPE_CHECKING:
    from seqprior.adapters import Adapter


def arithmetic_of(dtype: str) -> str:
    """Number format that scoring.dtype stands for; auto is the exact one."""
    return "float32" if dtype == "auto" else dtype


def open_scheme(
    registry: Path,
    model: str,
    checkpoint: Path,
    lock: Path | None,
    allowed: Sequence[str],
    reading: Reading,
    kind: str = "dna",
) -> tuple[ModelFacts, str, Scheme]:
    """A fetched model's facts, the digest of its files after every byte was checked, and how it is asked.

    Args:
        allowed: models that may run the code of their checkpoint. kind: of model that is wanted.

    Raises:
        BadInput: the registry has no such model, it is of another kind, a file has changed, or its code may not be run.
    """
    facts = model_facts(registry, model, checkpoint)
    if facts.kind != kind:
        raise BadInput(
            f"{registry}: {model} is a model of kind {facts.kind}, and one of kind {kind} is asked for; name it under "
            f"the config's key of its kind or correct kind in the registry"
        )
    if facts.family == "remote-code" and model not in allowed:
        raise BadInput(
            f"{model}: this model runs code of its checkpoint, which is not allowed; read {checkpoint}/*.py and, if "
            f"you trust it, add {model} to models.remote_code in the config"
        )
    return facts, verify(checkpoint, lock), read_scheme(facts, reading)


class Job:
    """Holds the claimed device of one process until the block ends; `load` may be called several times."""

    def __init__(self, facts: ModelFacts, reading: Reading, device: str, threads: int) -> None:
        self.facts, self.reading, self.device, self.threads = facts, reading, device, threads
        self._stack = ExitStack()
        self._place = None

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def load(self, arithmetic: str, *, compiled: bool = False) -> Adapter:
        import torch

        from seqprior.adapters import load_adapter
        from seqprior.device import claimed_device

        torch.set_num_threads(self.threads)
        if self._place is None:
            self._place = self._stack.enter_context(claimed_device(self.device))
        adapter = load_adapter(self.facts, self._place, arithmetic, self.reading)
        if compiled:
            adapter.compile()
        return adapter
