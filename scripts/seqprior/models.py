"""The model registry: a model is data. Nothing here imports torch, so that rules and reports can read it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from seqprior.errors import BadInput


@dataclass(frozen=True)
class ModelFacts:
    """One entry of config/models.yaml; the schema describes each field.

    A model comes from a hub (`hub`, `revision`), from a folder (`path`) or from an installed Python package (`package`,
    with the weights' path within it). `window` is the number of bases or residues that one prediction sees;
    `embedding_window` those over which embeddings are compared (DNA). `tokens` names the special tokens by role: start,
    end, mask, pad, unknown. `kind` is what a model answers for: dna, protein, structure or folding.
    """

    id: str
    name: str
    family: str
    objective: str
    tokenisation: str
    parameters: int
    species: str
    licence: str
    citation: str
    description: str
    limits: str
    kind: str = "dna"
    window: int = 0
    embedding_window: int = 0
    hub: str = ""
    revision: str = "main"
    path: Path | None = None
    package: str = ""
    digest: str = ""
    k: int = 1
    downstream: int = 0
    tokens: dict[str, str] = field(default_factory=dict)
    vocabulary: dict[str, int] = field(default_factory=dict)
    card: str = ""

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
        models = {key: _facts(key, entry) for key, entry in entries.items()}
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: not a model registry ({error}); see schemas/models.schema.yaml") from error
    return models


def _facts(key: str, entry: dict) -> ModelFacts:
    facts = ModelFacts(id=key, **entry)
    if facts.kind == "dna" and not 1 <= facts.embedding_window <= facts.window:
        raise ValueError(f"{key}: embedding_window {facts.embedding_window} is not within 1 to {facts.window}")
    if facts.tokenisation == "kmer" and (facts.window % facts.k or facts.embedding_window % facts.k):
        raise ValueError(f"{key}: window and embedding_window are not whole numbers of {facts.k}-mers")
    return replace(facts, path=None if facts.path is None else Path(facts.path))


def model_facts(registry: Path, model: str, checkpoint: Path | None = None) -> ModelFacts:
    """The entry of one model; `checkpoint` is the folder of its fetched files and replaces `path`.

    Raises:
        BadInput: the registry has no such model.
    """
    models = read_registry(registry)
    if model not in models:
        raise BadInput(f"{registry}: no model {model!r}; known are {', '.join(sorted(models))}; see models.dna")
    return replace(models[model], path=checkpoint or models[model].path)


def checkpoint_folder(facts: ModelFacts) -> Path:
    """The folder of a model's files; a bug if the caller named none."""
    assert facts.path is not None
    return facts.path


def read_config(facts: ModelFacts) -> dict:
    """The checkpoint's config.json.

    Raises:
        BadInput: there is none, or it is no JSON object.
    """
    file = checkpoint_folder(facts) / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError("no JSON object")
    except (OSError, ValueError, TypeError) as error:
        raise BadInput(f"{file}: no config of a {facts.family} network ({error}); restore the file") from error
    return config
