"""The shipped registry: every entry is valid, and its facts agree with each other and with what was published."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from seqprior.models import ModelFacts, read_registry

REPOSITORY = Path(__file__).resolve().parents[2]
REGISTRY = REPOSITORY / "config" / "models.yaml"
SCHEMA = yaml.safe_load((REPOSITORY / "schemas" / "models.schema.yaml").read_text(encoding="utf-8"))
ENTRIES = yaml.safe_load(REGISTRY.read_text(encoding="utf-8"))["models"]
MODELS = read_registry(REGISTRY)
FIELDS = SCHEMA["properties"]["models"]["additionalProperties"]["properties"]

# Most tokens that a model takes, special ones included, where its authors say so.
CONTEXT = {
    "zhihan1996/DNA_bert_": 512,  # Ji et al. 2021: sequences of at most 510 k-mers between [CLS] and [SEP]
    "InstaDeepAI/nucleotide-transformer-500m": 1000,  # Dalla-Torre et al. 2025: 1,000 tokens, [CLS] included
    "InstaDeepAI/nucleotide-transformer-2.5b": 1000,
    "InstaDeepAI/agro-nucleotide-transformer": 1024,  # Mendoza-Revilla et al. 2024
    "InstaDeepAI/nucleotide-transformer-v2": 2048,  # Dalla-Torre et al. 2025: 12 kb
    "GenerTeam/GENERator": 16384,  # Wu et al. 2025: 98 kb
    "zhangtaolab/plant-dnabert": 512,  # config.json: max_position_embeddings
    "LongSafari/hyenadna-small-32k": 32768,  # Nguyen et al. 2023: as the name says
    "LongSafari/hyenadna-large-1m": 1000000,
    "kuleshov-group/caduceus": 131072,  # Schiff et al. 2024: as the name says
    "togethercomputer/evo-1-8k": 8192,  # Nguyen et al. 2024: as the name says
    "togethercomputer/evo-1-131k": 131072,
    "facebook/esm1": 1024,  # Rives et al. 2021, Meier et al. 2021: a table of 1,024 positions
    "facebook/esm2": 1024,  # Lin et al. 2023: trained on crops of 1,024 tokens
    "biohub/ESMC": 2048,  # transformers, EsmcConfig: max_position_embeddings
}
# The same for byte-pair pieces. How many a window takes depends on its bases; the windows are chosen so that it fits
# with two bases a piece, about half of what DNABERT-2's vocabulary comes to on a genome. Runs of N can still exceed it.
PIECES = {
    "RaphaelMourad/Mistral-DNA": 512,  # config.json: max_position_embeddings
    "PoetschLab/GROVER": 512,  # Sanabria et al. 2024: 510 pieces
    "zhangtaolab/plant-dnagpt": 1024,  # config.json: n_positions
    "AIRI-Institute/gena-lm-bert": 512,  # Fishman et al. 2025: 4.5 kb, so nine bases a piece
}
BASES_A_PIECE = {"AIRI-Institute/gena-lm-bert": 4}


def models(**facts: object) -> list:
    """The models with the given facts, as test parameters named after them."""
    chosen = [model for model in MODELS.values() if all(getattr(model, name) == fact for name, fact in facts.items())]
    assert chosen, f"no model with {facts}"
    return [pytest.param(model, id=model.id) for model in chosen]


def tokens_of(model: ModelFacts) -> int:
    """Tokens of a window, by counting the places of its k-mers or residues, with start and end token."""
    step = {"single-base": 1, "overlapping-kmer": 1, "residue": 1, "kmer": model.k}[model.tokenisation]
    places = range(0, model.window - model.k + 1, step)
    return len(places) + sum(role in model.tokens for role in ("start", "end"))


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_is_valid(name):
    jsonschema.Draft202012Validator(SCHEMA).validate({"models": {name: ENTRIES[name]}})


def test_there_are_the_models_of_the_field():
    assert len(MODELS) >= 45
    hubs = " ".join(model.hub for model in MODELS.values())
    for family in ("DNA_bert_", "DNABERT-2", "nucleotide-transformer-v2", "agro", "GENERator", "Mistral-DNA", "GROVER"):
        assert family in hubs


def test_there_are_the_sizes_of_esm():
    proteins = {model.id: model for model in MODELS.values() if model.kind == "protein"}
    sizes = {"8m": 8e6, "35m": 35e6, "150m": 150e6, "650m": 650e6, "3b": 3e9, "15b": 15e9}
    for size, weights in sizes.items():
        assert proteins[f"esm2-{size}"].parameters == pytest.approx(weights, rel=0.07)
        assert proteins[f"esm2-{size}"].hub.endswith(f"_{size.upper()}_UR50D")
    assert {"esm1b-650m", "esmc-300m", "esmc-600m", *(f"esm1v-650m-{seed}" for seed in range(1, 6))} <= set(proteins)


@pytest.mark.parametrize("model", models(kind="protein"))
def test_models_of_proteins_read_residues_between_start_and_end(model):
    assert (model.tokenisation, model.objective, model.k) == ("residue", "masked", 1)
    assert set(model.tokens) == {"start", "end", "mask", "pad", "unknown"}
    assert not set("ACDEFGHIKLMNPQRSTVWY") & set(model.tokens.values())
    assert "in-frame changes only" in model.limits


@pytest.mark.parametrize("field", ["kind", "tokenisation", "objective"])
def test_every_kind_has_a_model(field):
    assert {getattr(model, field) for model in MODELS.values()} == set(FIELDS[field]["enum"])


def test_every_family_has_a_model_but_those_without_a_published_one():
    # No DNA model of GPT-NeoX' kind was found that others may load; the family serves models of one's own.
    assert set(FIELDS["family"]["enum"]) - {model.family for model in MODELS.values()} == {"gpt-neox"}


def test_no_name_is_given_twice():
    names = re.findall(r"^  ([A-Za-z0-9][\w.-]*):$", REGISTRY.read_text(encoding="utf-8"), re.MULTILINE)
    assert names == list(MODELS)  # a YAML reader keeps the last of two silently


def test_each_checkpoint_stands_once():
    sources = [(model.hub, model.revision) if model.hub else (model.path, model.package) for model in MODELS.values()]
    assert len(set(sources)) == len(sources)


@pytest.mark.parametrize("name", ["nAME", "licence"])
def test_a_misspelt_field_would_be_noticed(name):
    entry = {"N" + key if key == name.lower() else key: value for key, value in ENTRIES["dnabert-3"].items()}
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid({"models": {"x": entry}})


@pytest.mark.parametrize("model", models(tokenisation="kmer"))
def test_windows_are_whole_kmers(model):
    assert model.window % model.k == model.embedding_window % model.k == 0


@pytest.mark.parametrize("model", models())
def test_embeddings_are_compared_over_less_than_a_window(model):
    assert model.embedding_window <= model.window / 2


@pytest.mark.parametrize("model", models())
def test_a_window_fits_into_the_published_context(model):
    context = [tokens for start, tokens in CONTEXT.items() if model.hub.startswith(start)]
    pieces = [(tokens, BASES_A_PIECE.get(start, 2)) for start, tokens in PIECES.items() if model.hub.startswith(start)]
    assert len(context) + len(pieces) <= 1, "two contexts for one model"
    for tokens in context:
        assert tokens_of(model) <= tokens
    for tokens, bases in pieces:
        special = sum(role in model.tokens for role in ("start", "end"))
        assert model.window / bases + special <= tokens


@pytest.mark.parametrize("start", [*CONTEXT, *PIECES])
def test_every_published_context_is_that_of_a_model(start):
    assert any(model.hub.startswith(start) for model in MODELS.values())


@pytest.mark.parametrize("model", models(objective="masked"))
def test_a_masked_model_has_a_mask_token(model):
    assert model.tokens["mask"]


@pytest.mark.parametrize("model", models())
def test_roles_have_tokens_of_their_own(model):
    # A model may begin and fill up with one token, but nothing else shares one.
    roles = {role: token for role, token in model.tokens.items() if role != "pad"}
    assert len(set(roles.values())) == len(roles)
    assert all(token.strip() == token and token for token in model.tokens.values())
    assert not {"A", "C", "G", "T"} & set(model.tokens.values())


@pytest.mark.parametrize("model", [*models(kind="dna"), *models(kind="protein")])
def test_a_batch_can_be_filled_up(model):
    assert model.family == "bidirectional-conv" or model.tokens["pad"]


@pytest.mark.parametrize("model", [model for model in MODELS.values() if model.vocabulary], ids=lambda model: model.id)
def test_a_given_vocabulary_has_the_bases_and_the_special_tokens(model):
    assert {"A", "C", "G", "T", *model.tokens.values()} <= model.vocabulary.keys()
    assert len(set(model.vocabulary.values())) == len(model.vocabulary)


@pytest.mark.parametrize(
    "family", ["bert", "esm", "esm-gated", "mosaic-bert", "modernbert", "esmc", "llama", "mixtral"]
)
def test_vocabularies_of_known_families_come_from_their_files(family):
    assert all(not model.vocabulary for model in MODELS.values() if model.family == family)


@pytest.mark.parametrize("prefix", ["nt-", "agro-nt-", "plant-nt-"])
def test_nucleotide_transformers_have_a_start_and_no_end_token(prefix):
    chosen = [model for model in MODELS.values() if model.id.startswith(prefix)]
    assert chosen
    assert {(model.tokens["start"], model.tokens["mask"], model.tokens.get("end")) for model in chosen} == {
        ("<cls>", "<mask>", None)
    }


@pytest.mark.parametrize("model", models())
def test_who_uses_a_model_learns_its_licence_and_limits(model):
    assert model.limits.endswith(".") and model.description.endswith(".")
    if "NC" in model.licence:
        assert "Non-commercial" in model.limits
    if model.licence == "not stated":
        assert "licence" in model.limits
    if model.objective == "causal" and model.family not in ("mistral", "mixtral", "remote-code"):
        assert "both strands" in model.limits


@pytest.mark.parametrize("model", models())
def test_a_citation_leads_somewhere(model):
    assert re.search(r"doi:10\.\d{4,}/\S+|github\.com/\S+|README\.md$", model.citation)
    assert model.card.endswith(model.hub or ("" if model.package else "README.md"))


@pytest.mark.parametrize("model", models(family="remote-code"))
def test_foreign_code_comes_from_a_hub_that_the_lock_can_pin(model):
    assert model.hub and not model.path


def test_the_registry_keeps_to_the_line_length():
    assert max(map(len, REGISTRY.read_text(encoding="utf-8").splitlines())) <= 120
