"""The model registry: a model is data. Nothing here imports torch, so that rules and reports can read it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from seqprior.errors import BadInput
from seqprior.files import sha256


@dataclass(frozen=True)
class ModelFacts:
    """One entry of config/models.yaml; the schema describes each field.

    `window` is the number of bases that one prediction sees; `embedding_window` those over which embeddings are
    compared. `path` is the folder of the checkpoint.
    """

    id: str
    name: str
    family: str
    objective: str
    tokenisation: str
    window: int
    embedding_window: int
    path: Path
    digest: str
    parameters: int
    species: str
    licence: str
    citation: str
    description: str
    limits: str
    card: str = ""
    vocabulary: dict[str, int] = field(default_factory=dict)

    @property
    def shares_windows(self) -> bool:
        """True if sites of one stretch may share a window, since a prediction depends on `window` bases alone."""
        return self.objective == "bidirectional"


def read_registry(path: Path) -> dict[str, ModelFacts]:
    """Every model of a registry file.

    Raises:
        BadInput: the file is no valid registry.
    """
    import yaml

    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))["models"]
        models = {key: ModelFacts(id=key, **{**entry, "path": Path(entry["path"])}) for key, entry in entries.items()}
        for key, facts in models.items():
            if not 1 <= facts.embedding_window <= facts.window:
                raise ValueError(f"{key}: embedding_window {facts.embedding_window} is not within 1 to {facts.window}")
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: not a model registry ({error}); see schemas/models.schema.yaml") from error
    return models


def model_facts(registry: Path, model: str, checkpoint: Path | None = None) -> ModelFacts:
    """The entry of one model; `checkpoint` replaces its path, which counts from wherever the registry's owner says.

    Raises:
        BadInput: the registry has no such model.
    """
    models = read_registry(registry)
    if model not in models:
        raise BadInput(f"{registry}: no model {model!r}; known are {', '.join(sorted(models))}; see models.dna")
    return replace(models[model], path=checkpoint or models[model].path)


def verify_weights(facts: ModelFacts) -> Path:
    """The weights file, after its SHA-256 was compared with the registry's.

    Raises:
        BadInput: the file is missing or a byte of it has changed.
    """
    weights = facts.path / "model.safetensors"
    if not weights.is_file():
        raise BadInput(f"{weights}: no such file; expected the weights of {facts.id}; check path in the model registry")
    found = sha256(weights)
    if found != facts.digest:
        raise BadInput(
            f"{weights}: SHA-256 is {found}, the registry says {facts.digest}; "
            f"restore the file, or register the new weights under a name of their own"
        )
    return weights
