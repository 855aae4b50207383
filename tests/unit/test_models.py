"""The model registry as data. That weights are those of the registry is the business of fetching."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import yaml

from seqprior.errors import BadInput
from seqprior.models import model_facts, read_registry

ENTRY = {
    "name": "small 1",
    "family": "bert",
    "objective": "masked",
    "tokenisation": "single-base",
    "window": 21,
    "embedding_window": 11,
    "path": "models/small",
    "tokens": {"mask": "[MASK]"},
    "parameters": 1,
    "species": "none",
    "licence": "MIT",
    "citation": "none",
    "description": "none",
    "limits": "none",
}


def registry(folder: Path, **changes) -> Path:
    path = folder / "models.yaml"
    path.write_text(yaml.safe_dump({"models": {"small": {**ENTRY, **changes}}}))
    return path


def test_the_shipped_registry_is_readable_and_its_weights_are_those_it_names(repo):
    models = read_registry(repo / "config" / "models.yaml")
    for facts in models.values():
        assert facts.shares_windows == (facts.objective == "bidirectional")
        assert [bool(facts.hub), bool(facts.path), bool(facts.package)].count(True) == 1
    shipped = [facts for facts in models.values() if facts.path]
    assert shipped
    for facts in shipped:
        weights = repo / facts.path / "model.safetensors"
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == facts.digest


def test_an_entry_keeps_its_fields_and_a_checkpoint_replaces_its_path(tmp_path):
    path = registry(tmp_path, vocabulary={"A": 5}, k=3)
    facts = model_facts(path, "small")
    assert (facts.id, facts.path, facts.window, facts.vocabulary) == ("small", Path("models/small"), 21, {"A": 5})
    assert (facts.k, facts.tokens, facts.downstream) == (3, {"mask": "[MASK]"}, 0)
    assert not facts.shares_windows
    assert model_facts(path, "small", Path("elsewhere")).path == Path("elsewhere")


def test_a_model_of_a_hub_has_no_path_before_it_is_fetched_and_the_default_revision(tmp_path):
    path = registry(tmp_path, hub="owner/name", path=None)
    facts = model_facts(path, "small")
    assert (facts.hub, facts.revision, facts.path) == ("owner/name", "main", None)
    assert model_facts(path, "small", Path("fetched")).path == Path("fetched")


def test_an_unknown_model_is_refused_with_the_names_of_the_known_ones(tmp_path):
    path = registry(tmp_path)
    sentence = f"{path}: no model 'large'; known are small; see models.dna"
    with pytest.raises(BadInput, match=f"^{re.escape(sentence)}$"):
        model_facts(path, "large")


@pytest.mark.parametrize(
    "text",
    ["", "models:\n", "- 1\n", "models: {a: 1}\n", "models: {a: {path: x}}\n", "models: {a: {name: x}}\n", "a: [\n"],
)
def test_what_is_no_registry_is_refused_by_name(tmp_path, text):
    path = tmp_path / "models.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=f"^{re.escape(str(path))}: not a model registry"):
        read_registry(path)


def test_a_registry_that_is_missing_or_not_text_is_refused(tmp_path):
    with pytest.raises(BadInput, match="not a model registry"):
        read_registry(tmp_path / "none.yaml")
    (tmp_path / "models.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(BadInput, match="not a model registry"):
        read_registry(tmp_path / "models.yaml")


def test_an_unknown_field_is_refused(tmp_path):
    with pytest.raises(BadInput, match="colour"):
        read_registry(registry(tmp_path, colour="red"))


@pytest.mark.parametrize("embedding_window", [0, 22])
def test_embeddings_cannot_be_compared_over_more_than_the_window(tmp_path, embedding_window):
    with pytest.raises(BadInput, match=f"small: embedding_window {embedding_window} is not within 1 to 21"):
        read_registry(registry(tmp_path, embedding_window=embedding_window))


@pytest.mark.parametrize(("window", "embedding_window"), [(61, 30), (60, 31)])
def test_windows_of_kmers_are_whole_numbers_of_them(tmp_path, window, embedding_window):
    changes = {"tokenisation": "kmer", "k": 6, "window": window, "embedding_window": embedding_window}
    with pytest.raises(BadInput, match="small: window and embedding_window are not whole numbers of 6-mers"):
        read_registry(registry(tmp_path, **changes))
    read_registry(registry(tmp_path, **{**changes, "tokenisation": "overlapping-kmer"}))
    read_registry(registry(tmp_path, **{**changes, "window": 60, "embedding_window": 30}))
