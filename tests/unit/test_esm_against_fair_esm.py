"""ESM-2 and ESM-1b through the engine equal fair-esm, the authors' own code, on the same random weights.

The weights are made by fair-esm's classes and renamed into the layout in which the hub has them. fair-esm reads its
rows in padded batches of unequal lengths, or one at a time; log probabilities are compared over the 20 amino acids.
"""

from __future__ import annotations

import json
import random
import re
from argparse import Namespace
from pathlib import Path

import esm
import numpy as np
import pandas as pd
import pytest
import torch
from random_models import ESM_LETTERS, ESM_SPECIAL, ESM_TOKENS, facts_of
from safetensors.torch import save_file

from seqprior.adapters import load_adapter
from seqprior.embedding import Asker
from seqprior.models import ModelFacts
from seqprior.plans import Reading
from seqprior.protein_scoring import score_proteins
from seqprior.residues import AMINO_ACIDS

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
WINDOW, WIDTH, LAYERS, HEADS = 40, 32, 3, 4
ALPHABET = esm.data.Alphabet.from_architecture("ESM-1b")
LENGTHS = {"p1": 12, "p2": 40, "p3": 25, "p4": 26, "p5": 97}  # the last in tiles
PROTEINS = {name: "".join(random.Random(n).choices(AMINO_ACIDS, k=n)) for name, n in LENGTHS.items()}
PROTEINS["p3"] = PROTEINS["p3"][:7] + "X" + PROTEINS["p3"][8:15] + "U" + PROTEINS["p3"][16:]
TILES = [(0, 40), (20, 60), (40, 80), (57, 97)]  # of p5, half a window apart
MASKED = {"p1": (0, 5, 11), "p2": (39,), "p3": (3, 12), "p5": (0, 31, 48, 50, 96)}

# From fair-esm's names to those of transformers.
RENAMED = [
    (r"^embed_tokens\.", "esm.embeddings.word_embeddings."),
    (r"^embed_positions\.", "esm.embeddings.position_embeddings."),
    (r"^emb_layer_norm_before\.", "esm.embeddings.layer_norm."),
    (r"^emb_layer_norm_after\.", "esm.encoder.emb_layer_norm_after."),
    (r"^contact_head\.", "esm.contact_head."),
    (r"^layers\.(\d+)\.self_attn\.q_proj\.", r"esm.encoder.layer.\1.attention.self.query."),
    (r"^layers\.(\d+)\.self_attn\.k_proj\.", r"esm.encoder.layer.\1.attention.self.key."),
    (r"^layers\.(\d+)\.self_attn\.v_proj\.", r"esm.encoder.layer.\1.attention.self.value."),
    (r"^layers\.(\d+)\.self_attn\.out_proj\.", r"esm.encoder.layer.\1.attention.output.dense."),
    (r"^layers\.(\d+)\.self_attn_layer_norm\.", r"esm.encoder.layer.\1.attention.LayerNorm."),
    (r"^layers\.(\d+)\.fc1\.", r"esm.encoder.layer.\1.intermediate.dense."),
    (r"^layers\.(\d+)\.fc2\.", r"esm.encoder.layer.\1.output.dense."),
    (r"^layers\.(\d+)\.final_layer_norm\.", r"esm.encoder.layer.\1.LayerNorm."),
    (r"^lm_head\.weight$", "lm_head.decoder.weight"),
]


def authors_model(kind: str) -> torch.nn.Module:
    """A tiny network of the authors' code with random weights, large enough that every residue matters."""
    torch.manual_seed(7)
    if kind == "esm2":
        network = esm.model.esm2.ESM2(LAYERS, WIDTH, HEADS, ALPHABET)
    else:
        options = Namespace(
            arch="roberta_large",
            layers=LAYERS,
            embed_dim=WIDTH,
            ffn_embed_dim=4 * WIDTH,
            attention_heads=HEADS,
            max_positions=1024,
            emb_layer_norm_before=True,
            token_dropout=True,
            final_bias=True,
            logit_bias=True,
        )
        network = esm.model.esm1.ProteinBertModel(options, ALPHABET)
    for name, weight in network.named_parameters():
        centre = 1.0 if "layer_norm" in name and name.endswith("weight") else 0.0
        torch.nn.init.normal_(weight, centre, 0.3 if weight.ndim > 1 else 0.2)
    network.embed_tokens.weight.data[ALPHABET.padding_idx] = 0.0
    return network.eval()


def written(network: torch.nn.Module, kind: str, folder: Path) -> ModelFacts:
    """The same weights as a checkpoint in the hub's layout."""
    folder.mkdir()
    tensors = {}
    for name, tensor in network.state_dict().items():
        if "rot_emb" in name or name.endswith("_float_tensor") or name == "embed_out":
            continue
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        tensors[name] = tensor.clone().contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "model_type": "esm",
        "architectures": ["EsmForMaskedLM"],
        "vocab_size": len(ALPHABET),
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 4 * WIDTH,
        "max_position_embeddings": 1026,
        "pad_token_id": ALPHABET.padding_idx,
        "mask_token_id": ALPHABET.mask_idx,
        "position_embedding_type": "rotary" if kind == "esm2" else "absolute",
        "emb_layer_norm_before": kind != "esm2",
        "token_dropout": True,
        "layer_norm_eps": 1e-5,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("\n".join(ALPHABET.all_toks) + "\n")
    return facts_of(kind, folder, WINDOW)


@pytest.fixture(scope="module", params=["esm2", "esm1b"])
def model(request, tmp_path_factory) -> tuple[torch.nn.Module, ModelFacts]:
    network = authors_model(request.param)
    return network, written(network, request.param, tmp_path_factory.mktemp("authors") / request.param)


@torch.no_grad()
def authors_logs(network: torch.nn.Module, rows: list[tuple[str, tuple[int, ...]]], batch: int) -> list[np.ndarray]:
    """log p (L, 20) of each sequence with some residues masked, by the authors' batch converter and network."""
    convert = ALPHABET.get_batch_converter()
    columns = [ALPHABET.get_idx(letter) for letter in AMINO_ACIDS]
    found = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        _, _, tokens = convert([("", sequence) for sequence, _ in part])
        for line, (_, masked) in enumerate(part):
            for place in masked:
                tokens[line, place + 1] = ALPHABET.mask_idx
        logits = network(tokens)["logits"].double()
        for line, (sequence, _) in enumerate(part):
            found.append(logits[line, 1 : len(sequence) + 1, columns].log_softmax(-1).numpy())
    return found


def own_tile(place: int) -> tuple[int, int]:
    """By hand: the tile of p5 whose middle is nearest, the first of two."""
    distances = [abs((start + end) / 2 - (place + 0.5)) for start, end in TILES]
    return TILES[distances.index(min(distances))]


def scored(facts: ModelFacts, folder: Path, reading: Reading, budget: int = 4096) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Profiles and scores of changes: those residues of MASKED, and some longer changes of p4."""
    pd.DataFrame({"protein": list(PROTEINS), "sequence": list(PROTEINS.values())}).to_parquet(folder / "proteins")
    rows = [
        (name, place, PROTEINS[name][place], "W" if PROTEINS[name][place] != "W" else "A")
        for name, places in MASKED.items()
        for place in places
    ]
    rows += [("p4", 3, "PCS", "WCA"), ("p4", 9, "", "GAG"), ("p4", 20, PROTEINS["p4"][20:22], "")]
    pd.DataFrame(rows, columns=["protein", "start", "ref", "alt"]).to_parquet(folder / "changes")
    adapter = load_adapter(facts, CPU, "float32", reading)
    asker = Asker(adapter.scheme, lambda: adapter, budget)
    score_proteins(asker, folder / "proteins", [folder / "changes"], folder / "profiles", folder / "scores")
    return pd.read_parquet(folder / "profiles"), pd.read_parquet(folder / "scores")


def test_the_vocabulary_is_that_of_the_authors():
    assert facts_of("esm2", Path(), WINDOW).tokens == ESM_TOKENS
    assert ALPHABET.all_toks == [*ESM_SPECIAL, *ESM_LETTERS]


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("budget", [1, 4096])
def test_wild_type_marginals_equal_the_authors_with_padding_and_in_tiles(model, tmp_path, batch, budget):
    network, facts = model
    profiles, _ = scored(facts, tmp_path, Reading(one_pass_marginals=True), budget)
    whole = [name for name in PROTEINS if name != "p5"]
    rows = [(PROTEINS[name], ()) for name in whole] + [(PROTEINS["p5"][slice(*tile)], ()) for tile in TILES]
    logs = authors_logs(network, rows, batch)
    expected = dict(zip(whole, logs, strict=False))
    tiles = dict(zip(TILES, logs[len(whole) :], strict=True))
    expected["p5"] = np.stack([tiles[own_tile(place)][place - own_tile(place)[0]] for place in range(97)])
    assert len(profiles) == sum(map(len, PROTEINS.values()))
    for name, part in profiles.groupby("protein"):
        assert part["residue"].tolist() == list(range(len(PROTEINS[name])))
        assert set(part["method"]) == {"wild_type_marginal" + "_tiled" * (name == "p5")}
        np.testing.assert_allclose(np.stack(part["logp"]), expected[name], atol=1e-4)
        assert np.stack(part["logp"]).std() > 0.3, "the residues are told apart"


@pytest.mark.parametrize("batch", [1, 7])
def test_masked_marginals_equal_the_authors_with_padding_and_in_tiles(model, tmp_path, batch):
    network, facts = model
    profiles, scores = scored(facts, tmp_path, Reading())
    found = profiles[profiles["method"].str.startswith("masked")].set_index(["protein", "residue"])
    asked, rows = [], []
    for name, places in MASKED.items():
        for place in places:
            start, end = own_tile(place) if name == "p5" else (0, len(PROTEINS[name]))
            asked.append((name, place, start))
            rows.append((PROTEINS[name][start:end], (place - start,)))
    rows.append((PROTEINS["p4"], (3, 5)))  # what stays is not masked
    *logs, joint = authors_logs(network, rows, batch)
    assert len(found) == len(asked)
    for (name, place, start), expected in zip(asked, logs, strict=True):
        row = found.loc[name, place]
        assert row["method"] == "masked_marginal" + "_tiled" * (name == "p5")
        np.testing.assert_allclose(row["logp"], expected[place - start], atol=1e-4)
    difference = sum(
        joint[place, AMINO_ACIDS.index(alt)] - joint[place, AMINO_ACIDS.index(PROTEINS["p4"][place])]
        for place, alt in ((3, "W"), (5, "A"))
    )
    (llr,) = scores.loc[scores["alt"] == "WCA", "llr"]
    assert llr == pytest.approx(difference, abs=1e-4)


@pytest.mark.parametrize("exact", [False, True])
def test_pseudo_likelihoods_of_indels_equal_sums_over_the_authors_residues(model, tmp_path, exact):
    network, facts = model
    _, scores = scored(facts, tmp_path, Reading(True, exact))
    protein = PROTEINS["p4"]

    def likelihood(sequence: str) -> float:
        masks = [(place,) for place in range(len(sequence))] if exact else [()]
        logs = authors_logs(network, [(sequence, places) for places in masks], 8)
        each = [logs[place if exact else 0][place, AMINO_ACIDS.index(a)] for place, a in enumerate(sequence)]
        return sum(each) + len(each) * np.log(20)

    for change in scores[scores["ref"].str.len() != scores["alt"].str.len()].itertuples():
        altered = protein[: change.start] + change.alt + protein[change.start + len(change.ref) :]
        assert change.llr == pytest.approx(likelihood(altered) - likelihood(protein), abs=5e-4)
        assert change.method == ("masked" if exact else "unmasked") + "_pseudo_likelihood"
    assert len(scores) == 3
