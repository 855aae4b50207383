"""Folding: what the network gives is what the files say, once for all cohorts, on whatever memory there is."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from seqprior import folding
from seqprior.columns import STRUCTURES
from seqprior.errors import BadInput, OutOfMemory
from seqprior.fetching import fetch
from seqprior.files import sha256
from seqprior.models import ModelFacts
from seqprior.residues import AMINO_ACIDS, protein_id

pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
# The start of human ubiquitin, of bovine insulin's B chain, and of hen lysozyme.
PROTEINS = ["MQIFVKTLTGKTITLEVEPSDTIENVKAKIQ", "FVNQHLCGSHLVEALYLVCGERGFFYTPKA", "KVFGRCELAAAMK"]
CPU = torch.device("cpu")
REMARKS = ["PREDICTED"]


def write_checkpoint(folder: Path, *, folds: bool = True, half: bool = True) -> Path:
    """A tiny random ESMFold; `half` stores the language model in half precision, as the published one is."""
    from transformers import EsmConfig, EsmForMaskedLM, EsmForProteinFolding

    structure = {"sequence_dim": 16, "pairwise_dim": 8, "ipa_dim": 4, "resnet_dim": 8, "num_heads_ipa": 2}
    structure |= {"num_qk_points": 2, "num_v_points": 2, "num_blocks": 2, "num_resnet_blocks": 1}
    trunk = {"num_blocks": 2, "sequence_state_dim": 16, "pairwise_state_dim": 8, "sequence_head_width": 4}
    trunk |= {"pairwise_head_width": 4, "position_bins": 4, "max_recycles": 2, "structure_module": structure}
    torch.manual_seed(20)
    config = EsmConfig(
        vocab_size=33,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        pad_token_id=1,
        mask_token_id=32,
        position_embedding_type="rotary",
        token_dropout=True,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        is_folding_model=folds,
        vocab_list=vocabulary() if folds else None,
        esmfold_config={"fp16_esm": half, "lddt_head_hid_dim": 8, "trunk": trunk} if folds else None,
    )
    model = (EsmForProteinFolding if folds else EsmForMaskedLM)(config)
    for parameter in model.parameters():  # the usual start is nearly the same for every input
        noise = torch.randn(parameter.shape) * (0.3 if parameter.dim() > 1 else 0.1)
        parameter.data = parameter.data + noise.to(parameter.dtype)
    model.save_pretrained(folder)
    return folder


def vocabulary() -> list[str]:
    from transformers.models.esm.configuration_esm import get_default_vocab_list

    return list(get_default_vocab_list())


def facts_of(folder: Path) -> ModelFacts:
    entry = {"name": "Tiny fold", "family": "esmfold", "objective": "folding", "tokenisation": "residue"}
    texts = dict.fromkeys(("species", "citation", "description", "limits"), "none")
    return ModelFacts("tiny", **entry, **texts, parameters=1, licence="MIT", kind="folding", path=folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("esmfold"))


@pytest.fixture(scope="module")
def network(checkpoint) -> folding.EsmFold:
    return folding.load_esmfold(facts_of(checkpoint), CPU, "float32")


@pytest.fixture
def fresh(checkpoint) -> folding.EsmFold:
    """A network of the test's own, whose chunk size may change."""
    return folding.load_esmfold(facts_of(checkpoint), CPU, "float32")


@pytest.fixture(scope="module")
def oracle(checkpoint):
    """The same checkpoint through transformers alone, all in float32."""
    from transformers import EsmForProteinFolding

    model = EsmForProteinFolding.from_pretrained(checkpoint, dtype=torch.float32).float().eval()
    rotary = model.esm.rotary_embeddings
    rotary.inv_freq = 1 / 10_000 ** (torch.arange(0, 8, 2) / 8)
    return model


def fold(network: folding.EsmFold, *sequences: str) -> list[folding.Fold]:
    with torch.inference_mode():
        return network.fold(sequences)


def parsed(text: str):
    """Atoms of a PDB file as biotite reads them."""
    from biotite.structure.io.pdb import PDBFile

    return PDBFile.read(io.StringIO(text)).get_structure(model=1, extra_fields=["b_factor"])


def residues_of(text: str) -> dict[int, str]:
    """One-letter code by residue number."""
    from biotite.sequence import ProteinSequence

    atoms = parsed(text)
    atoms = atoms[atoms.atom_name == "CA"]
    letters = map(ProteinSequence.convert_letter_3to1, atoms.res_name)
    return dict(zip(atoms.res_id.tolist(), letters, strict=True))


def sequences_of(*sequences: str) -> dict[str, str]:
    return {protein_id(sequence): sequence for sequence in sequences}


def structures(*rows: tuple[str, str]) -> pd.DataFrame:
    """A table of structures of (sequence, reason)."""
    empty = dict.fromkeys(STRUCTURES, "")
    return pd.DataFrame(
        [{**empty, "protein": protein_id(s), "accession": "P1", "reason": reason} for s, reason in rows]
    )


@contextmanager
def opened(network):
    yield network


def fold_missing(folder, table, sequences, network, longest=1000, **options):
    files = folding.FoldedFiles(folder, "0123456789abcdef" * 4, "float32")
    facts, remarks = facts_of(folder), lambda sequence: REMARKS
    found, stats = folding.fold_missing(
        table, sequences, files, facts, "v1", longest, lambda: opened(network), remarks, **options
    )
    return found, stats, files


def test_the_file_has_the_residues_and_coordinates_that_transformers_writes(network, oracle):
    for sequence in PROTEINS:
        text = folding.pdb_text(fold(network, sequence)[0], REMARKS)
        assert residues_of(text) == dict(enumerate(sequence, 1))
        ours, theirs = parsed(text), parsed(oracle.infer_pdb(sequence))
        assert ours.atom_name.tolist() == theirs.atom_name.tolist()
        np.testing.assert_allclose(ours.coord, theirs.coord, atol=2e-3)  # a file has three decimals
    assert set(ours.chain_id) == {"A"}


def test_b_factors_are_the_plddt_of_the_c_alpha_from_0_to_100(network, oracle):
    for sequence in PROTEINS:
        atoms = parsed(folding.pdb_text(fold(network, sequence)[0], REMARKS))
        with torch.no_grad():
            expected = 100 * oracle.infer(sequence)["plddt"][0, :, 1].numpy()
        assert 1 < expected.min() < expected.max() < 100
        assert np.ptp(expected) > 1, "residues differ, so the order is tested too"
        np.testing.assert_allclose(atoms.b_factor, expected[atoms.res_id - 1], atol=0.006)


def test_the_predicted_aligned_error_is_square_and_in_the_format_of_alphafold_db(network, oracle):
    entries = json.loads(folding.pae_text(fold(network, PROTEINS[0])[0]))
    assert [sorted(entry) for entry in entries] == [["max_predicted_aligned_error", "predicted_aligned_error"]]
    errors = np.array(entries[0]["predicted_aligned_error"])
    with torch.no_grad():
        expected = oracle.infer(PROTEINS[0])["predicted_aligned_error"][0].numpy()
    assert errors.shape == (len(PROTEINS[0]),) * 2
    np.testing.assert_allclose(errors, expected, atol=0.051)
    assert np.abs(errors - errors.T).max() > 0.5, "rows and columns are told apart"
    assert entries[0]["max_predicted_aligned_error"] == 31.75


def test_proteins_of_unequal_length_fold_together_as_alone(network):
    together = fold(network, *PROTEINS, "M")
    for sequence, one in zip([*PROTEINS, "M"], together, strict=True):
        alone = fold(network, sequence)[0]
        assert one.positions.shape == (len(sequence), 37, 3)
        np.testing.assert_allclose(one.positions, alone.positions, atol=1e-4)
        np.testing.assert_allclose(one.plddt, alone.plddt, atol=1e-3)
        np.testing.assert_allclose(one.pae, alone.pae, atol=1e-4)
        assert (one.present == alone.present).all()
    assert np.abs(together[0].positions[:13, 1] - together[2].positions[:, 1]).max() > 0.1, "the sequence matters"


def test_folding_again_gives_the_same_bytes(checkpoint, network):
    again = folding.load_esmfold(facts_of(checkpoint), CPU, "float32")
    first, second = fold(network, PROTEINS[1])[0], fold(again, PROTEINS[1])[0]
    assert folding.pdb_text(first, REMARKS) == folding.pdb_text(second, REMARKS)
    assert folding.pae_text(first) == folding.pae_text(second)


@pytest.mark.parametrize("chunk", [1, 4, 16])
def test_smaller_chunks_change_nothing_but_memory(fresh, network, chunk):
    fresh.model.trunk.set_chunk_size(chunk)
    np.testing.assert_allclose(
        fold(fresh, PROTEINS[0])[0].positions, fold(network, PROTEINS[0])[0].positions, atol=1e-4
    )


def test_residues_that_the_model_lacks_are_folded_as_their_relative_or_left_out(network):
    sequence = "MKUAXGOFBW"
    assert folding.folded_as(sequence) == "MKCAXGKFXW"
    folded = fold(network, sequence)[0]
    expected = {1: "M", 2: "K", 3: "C", 4: "A", 6: "G", 7: "K", 8: "F", 10: "W"}
    assert residues_of(folding.pdb_text(folded, REMARKS)) == expected
    errors = np.array(json.loads(folding.pae_text(folded))[0]["predicted_aligned_error"])
    kept = np.array(list(expected)) - 1
    assert errors.shape == (8, 8)
    np.testing.assert_allclose(errors, folded.pae[np.ix_(kept, kept)], atol=0.051)
    remarks = folding.remarks_of(facts_of(Path()), "v1", "ab", "float32", sequence)
    assert "U3, X5, O7, B9 folded as" in remarks[-1]
    assert not any("folded as" in line for line in folding.remarks_of(facts_of(Path()), "v1", "ab", "float32", "MK"))


def test_every_known_residue_has_the_atoms_of_its_kind(network):
    from biotite.structure.info import residue as component

    atoms = parsed(folding.pdb_text(fold(network, AMINO_ACIDS)[0], REMARKS))
    for number in range(1, 21):
        own = atoms[atoms.res_id == number]
        ideal = component(own.res_name[0])
        expected = set(ideal.atom_name[ideal.element != "H"]) - {"OXT"}
        assert set(own.atom_name) == expected


def test_remarks_come_before_the_atoms_within_eighty_columns(network):
    facts = replace(facts_of(Path()), citation="Müller " * 30, licence="MIT", hub="owner/name")
    remarks = folding.remarks_of(facts, "c0ffee", "ab" * 32, "bfloat16", "M")
    lines = folding.pdb_text(fold(network, "M")[0], remarks).splitlines()
    head = [line for line in lines if line.startswith("REMARK")]
    assert lines[: len(head)] == head
    assert max(map(len, head)) <= 80
    words = " ".join(line[11:] for line in head)
    for part in (
        "Tiny fold",
        "owner/name",
        "revision c0ffee",
        "ab" * 32,
        "LICENCE OF THE MODEL: MIT",
        "bfloat16",
        "M?ller",
    ):
        assert part in words


def test_proteins_without_a_structure_get_one_and_the_table_says_where(tmp_path, network):
    no, other, accession = PROTEINS
    found, long, unknown = "MKV", "M" * 40, "XX"
    table = structures((no, "no_structure"), (other, "structure_of_other_protein"), (accession, "no_accession"))
    kept = structures((found, ""), (found, "no_structure"), (long, "no_accession"), (unknown, "no_structure"))
    table = pd.concat([table, kept, structures((no, "no_accession"))])
    sequences = sequences_of(*PROTEINS, found, long, unknown)
    answer, stats, files = fold_missing(tmp_path, table, sequences, network, longest=39)
    assert tuple(answer.columns) == STRUCTURES
    assert answer["protein"].tolist() == [protein_id(s) for s in (*PROTEINS, long, unknown)]
    assert answer["reason"].tolist() == ["", "", "", "no_accession", "no_structure"]
    assert answer["source"].tolist() == ["esmfold"] * 3 + ["", ""]
    assert answer["version"].tolist() == ["v1"] * 3 + ["", ""]
    assert set(answer["accession"]) == {"P1"}
    for row, sequence in zip(answer.head(3).to_dict("records"), PROTEINS, strict=True):
        path = Path(row["path"])
        assert path == tmp_path / "0123456789abcdef" / f"{protein_id(sequence)}.pdb"
        assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert residues_of(path.read_text()) == dict(enumerate(sequence, 1))
        errors = json.loads(Path(row["pae"]).read_text())[0]["predicted_aligned_error"]
        assert {len(errors), *map(len, errors)} == {len(sequence)}
    counts = {"without_structure": 5, "too_long": 1, "reused": 0, "folded": 3, "residues": sum(map(len, PROTEINS))}
    assert stats.items() >= counts.items()
    assert not list(files.folder.glob(".partial*"))


def test_what_is_folded_is_not_folded_again(tmp_path, network):
    table, sequences = structures(*((s, "no_structure") for s in PROTEINS[:2])), sequences_of(*PROTEINS)
    first, _, _ = fold_missing(tmp_path, table, sequences, network)
    again, stats, _ = fold_missing(tmp_path, table, sequences, None)  # no network to open
    pd.testing.assert_frame_equal(first, again)
    assert (stats["reused"], stats["folded"], stats["device"]) == (2, 0, "none")
    more = structures(*((s, "no_accession") for s in PROTEINS))
    other, stats, _ = fold_missing(tmp_path, more, sequences, network)  # another cohort
    assert (stats["reused"], stats["folded"]) == (2, 1)
    assert other["sha256"].tolist()[:2] == first["sha256"].tolist()


@pytest.mark.parametrize("suffix", [".pdb", ".pae.json", ".sha256"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_file_is_folded_anew(tmp_path, network, suffix, damage):
    table, sequences = structures((PROTEINS[2], "no_structure")), sequences_of(PROTEINS[2])
    first, _, files = fold_missing(tmp_path, table, sequences, network)
    path = files.folder / f"{protein_id(PROTEINS[2])}{suffix}"
    whole = path.read_bytes()
    path.unlink() if damage == "gone" else path.write_bytes(whole[:-70])
    again, stats, _ = fold_missing(tmp_path, table, sequences, network)
    assert stats["folded"] == 1
    assert path.read_bytes() == whole
    pd.testing.assert_frame_equal(first, again)


def test_of_two_jobs_with_one_protein_the_first_to_end_counts(tmp_path, network):
    files = folding.FoldedFiles(tmp_path, "ab" * 32, "float32")
    one = fold(network, PROTEINS[2])[0]
    files.write("p", one, REMARKS)
    digest, whole = files.digest("p"), files.structure("p").read_bytes()
    files.write("p", replace(one, positions=one.positions + 1), REMARKS)
    assert files.structure("p").read_bytes() == whole
    assert files.digest("p") == digest == sha256(files.structure("p"))


def test_a_file_system_without_locks_is_named(tmp_path, network, monkeypatch):
    def flock(*args):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(folding.fcntl, "flock", flock)
    files = folding.FoldedFiles(tmp_path, "ab" * 32, "float32")
    with pytest.raises(BadInput, match=r"the file system offers no locks \(.*implemented\); work on another one"):
        files.write("p", fold(network, "MK")[0], REMARKS)


def test_a_full_disk_leaves_no_part_of_a_protein(tmp_path, network, monkeypatch):
    def full(fold, remarks):
        raise OSError(28, "No space left on device")

    files = folding.FoldedFiles(tmp_path, "ab" * 32, "float32")
    monkeypatch.setattr(folding, "pdb_text", full)
    with pytest.raises(OSError, match="No space"):
        files.write("p", fold(network, "MK")[0], REMARKS)
    assert files.digest("p") == ""
    assert not list(files.folder.glob(".partial*"))


def test_checksums_are_as_sha256sum_reads_them(tmp_path, network):
    files = folding.FoldedFiles(tmp_path, "ab" * 32, "float32")
    files.write("p", fold(network, "MK")[0], REMARKS)
    command = ["sha256sum", "--check", "--strict", "p.sha256"]
    assert subprocess.run(command, cwd=files.folder, capture_output=True, timeout=60, check=False).returncode == 0


def test_another_arithmetic_or_model_has_a_folder_of_its_own(tmp_path):
    folders = {
        folding.FoldedFiles(tmp_path, digest, arithmetic).folder.name
        for digest in ("a" * 64, "b" * 64)
        for arithmetic in ("float32", "bfloat16")
    }
    assert folders == {"a" * 16, "a" * 16 + "-bfloat16", "b" * 16, "b" * 16 + "-bfloat16"}


class Crowded:
    """A network with memory for `rows` proteins at once, and for one of `longest` residues in chunks of `chunk`."""

    def __init__(self, network, rows=99, longest=10**6, chunk=10**6):
        self.network, self.device, self.limits, self.calls = network, CPU, (rows, longest, chunk), []

    chunk_size = property(lambda self: self.network.chunk_size)

    def reduce_chunk(self, length):
        return self.network.reduce_chunk(length)

    def fold(self, sequences):
        rows, longest, chunk = self.limits
        self.calls.append((len(sequences), self.chunk_size))
        crowded = len(sequences) > rows
        if crowded or (max(map(len, sequences)) > longest and (self.chunk_size or 10**6) > chunk):
            raise torch.OutOfMemoryError("pretended")
        return self.network.fold(sequences)


def test_too_many_at_once_are_folded_in_smaller_batches(fresh, network):
    sequences = sequences_of(*(PROTEINS[0][:-1] + letter for letter in AMINO_ACIDS[:8]))
    crowded, folds = Crowded(fresh, rows=2), {}
    stats = folding.fold_all(crowded, sequences, folds.__setitem__)
    assert [rows for rows, _ in crowded.calls] == [8, 4, 2, 2, 2, 2]
    assert {chunk for _, chunk in crowded.calls} == {128}, "several do fit in smaller batches"
    assert stats["halvings"] == 2
    for name, sequence in sequences.items():
        np.testing.assert_allclose(folds[name].positions, fold(network, sequence)[0].positions, atol=1e-4)


@pytest.mark.parametrize("start", [None, 128, 16])
def test_one_that_does_not_fit_is_folded_in_smaller_chunks(fresh, network, start):
    fresh.model.trunk.set_chunk_size(start)
    crowded, folds = Crowded(fresh, longest=30, chunk=8), {}
    folding.fold_all(crowded, sequences_of(PROTEINS[0], PROTEINS[2]), folds.__setitem__)
    # The short one goes first. A chunk that is longer than the protein is as good as none.
    smaller = [8] if start == 16 else [15, 7]
    assert crowded.calls == [(1, start), (1, start), *((1, chunk) for chunk in smaller)]
    np.testing.assert_allclose(
        folds[protein_id(PROTEINS[0])].positions, fold(network, PROTEINS[0])[0].positions, atol=1e-4
    )


def test_one_that_never_fits_ends_the_job_and_the_others_stay(tmp_path, fresh):
    table, sequences = structures(*((s, "no_structure") for s in PROTEINS)), sequences_of(*PROTEINS)
    with pytest.raises(OutOfMemory, match=rf"protein {protein_id(PROTEINS[0])} of 31 residues .* below 31"):
        fold_missing(tmp_path, table, sequences, Crowded(fresh, longest=30, chunk=0))
    files = folding.FoldedFiles(tmp_path, "0123456789abcdef" * 4, "float32")
    assert [bool(files.digest(protein_id(s))) for s in PROTEINS] == [False, True, True]
    _, stats, _ = fold_missing(tmp_path, table, sequences, fresh)
    assert (stats["reused"], stats["folded"]) == (2, 1)


def test_other_errors_of_the_network_are_no_lack_of_memory(fresh, monkeypatch):
    monkeypatch.setattr(fresh.model, "infer", lambda letters: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        folding.fold_all(fresh, sequences_of("MK"), lambda name, fold: None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 12_345.0])
def test_numbers_that_are_no_coordinates_are_refused(network, value):
    one = fold(network, "MK")[0]
    one.positions[1, 1, 2] = value
    network = Crowded(network)
    network.fold = lambda sequences: [one]
    with pytest.raises(BadInput, match=r"no numbers or lie more than 999 Angstrom off; set scoring\.dtype"):
        folding.fold_all(network, sequences_of("MK"), lambda name, fold: pytest.fail("kept"))


def test_bfloat16_is_for_the_language_model_alone(checkpoint, network):
    half = folding.load_esmfold(facts_of(checkpoint), CPU, "bfloat16")
    kinds = {name.split(".")[0]: value.dtype for name, value in half.model.named_parameters()}
    assert kinds.pop("esm") == torch.bfloat16
    assert set(kinds.values()) == {torch.float32}
    exact, rounded = fold(network, PROTEINS[0])[0], fold(half, PROTEINS[0])[0]
    assert 0 < np.abs(exact.plddt - rounded.plddt).max() < 2
    assert half.model.esm.rotary_embeddings.inv_freq.dtype == torch.float32
    assert [folding.arithmetic_of(name) for name in ("auto", "float32", "int8", "bfloat16")] == ["float32"] * 3 + [
        "bfloat16"
    ]


def test_weights_stored_in_half_precision_are_computed_with_in_float32(network, checkpoint):
    from safetensors.torch import load_file

    stored = load_file(checkpoint / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.weight"
    assert stored[f"esm.{name}"].dtype == torch.float16
    assert torch.equal(network.model.esm.state_dict()[name], stored[f"esm.{name}"].float())
    exact = 1 / 10_000 ** (torch.arange(0, 8, 2) / 8)
    torch.testing.assert_close(network.model.esm.rotary_embeddings.inv_freq, exact)
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_a_config_that_asks_for_half_precision_rounds_no_weights(tmp_path):
    write_checkpoint(tmp_path, half=False)
    expected = folding.load_esmfold(facts_of(tmp_path), CPU, "float32").model.state_dict()
    assert not torch.equal(
        *(expected["esm.embeddings.word_embeddings.weight"].to(kind).float() for kind in (torch.float16, torch.float32))
    )
    config = json.loads((tmp_path / "config.json").read_text())
    config["esmfold_config"]["fp16_esm"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = folding.load_esmfold(facts_of(tmp_path), CPU, "float32").model.state_dict()
    assert loaded.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(loaded[name], tensor)] == []


def altered(checkpoint: Path, folder: Path, change) -> ModelFacts:
    """A copy of the checkpoint with other weights."""
    from safetensors.torch import load_file, save_file

    weights = load_file(checkpoint / "model.safetensors")
    change(weights)
    folder.mkdir()
    (folder / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return facts_of(folder)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda weights: weights.pop("trunk.recycle_disto.weight"), "missing: trunk.recycle_disto.weight"),
        (lambda weights: weights.pop("lddt_head.1.bias"), "missing: lddt_head.1.bias"),
        (lambda weights: weights.update({"trunk.more": torch.zeros(2)}), "unexpected: trunk.more"),
        (lambda weights: weights.update({"ptm_head.bias": torch.zeros(9)}), "missing: ptm_head.bias"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(checkpoint, tmp_path, change, named):
    with pytest.raises(BadInput, match=r"do not fit the architecture esmfold") as refusal:
        folding.load_esmfold(altered(checkpoint, tmp_path / "m", change), CPU, "float32")
    assert named in str(refusal.value)


def test_a_language_model_is_refused(tmp_path):
    write_checkpoint(tmp_path, folds=False)
    with pytest.raises(BadInput, match=r"is 'esm' with EsmForMaskedLM, the registry says family: esmfold, obj"):
        folding.load_esmfold(facts_of(tmp_path), CPU, "float32")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_cut_checkpoint_is_refused(checkpoint, tmp_path, file):
    facts = altered(checkpoint, tmp_path / "m", lambda weights: None)
    path = facts.path / file
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(BadInput, match=r"restore the file"):
        folding.load_esmfold(facts, CPU, "float32")


def test_a_config_of_wrong_types_is_refused(checkpoint, tmp_path):
    facts = altered(checkpoint, tmp_path / "m", lambda weights: None)
    config = json.loads((facts.path / "config.json").read_text())
    config["esmfold_config"]["trunk"]["num_blocks"] = "two"
    (facts.path / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"transformers cannot load tiny \(.*\); restore the files"):
        folding.load_esmfold(facts, CPU, "float32")


def test_a_model_that_folds_nothing_is_refused():
    folding.require_folding(facts_of(Path()))
    with pytest.raises(BadInput, match=r"family 'esm' folds no proteins; known are esmfold; correct protein\.folding"):
        folding.require_folding(replace(facts_of(Path()), family="esm"))


def test_tables_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "structures.tsv"
    with pytest.raises(BadInput, match=r"no such file; expected a table of structures"):
        folding.read_structures(path)
    path.write_text("protein\treason\np\tno_structure\n")
    with pytest.raises(
        BadInput, match=r"structures\.tsv, line 1: no column accession; expected tab-separated protein, "
    ):
        folding.read_structures(path)
    path.write_text("protein\np\ns\tt\n")
    with pytest.raises(BadInput, match=r"structures\.tsv: no tab-separated table of structures \("):
        folding.read_structures(path)
    table = structures(("MK", "no_structure"), ("NA", ""))
    table.to_csv(path, sep="\t", index=False)
    pd.testing.assert_frame_equal(folding.read_structures(path), table)
    with pytest.raises(BadInput, match=r"structures\.tsv that proteins\.parquet lacks"):
        fold_missing(tmp_path, table, {}, None)


def test_a_protein_under_another_name_is_refused(tmp_path):
    path = tmp_path / "proteins.parquet"
    path.write_text("no Parquet")
    with pytest.raises(BadInput, match=r"proteins\.parquet: no table of proteins \("):
        folding.read_sequences(path)
    pd.DataFrame({"protein": [protein_id("MK")], "sequence": ["MK"]}).to_parquet(path)
    assert folding.read_sequences(path) == {protein_id("MK"): "MK"}
    pd.DataFrame({"protein": ["../other"], "sequence": ["MK"]}).to_parquet(path)
    with pytest.raises(BadInput, match=r"'\.\./other' is not the name of its protein's sequence"):
        folding.read_sequences(path)
    pd.DataFrame({"protein": [protein_id("MK")]}).to_parquet(path)
    with pytest.raises(BadInput, match=r"no table of proteins"):
        folding.read_sequences(path)


@pytest.fixture
def project(checkpoint, tmp_path) -> list[str]:
    """A fetched model and two proteins, as the options of fold_proteins.py."""
    entry = {"name": "Tiny fold", "kind": "folding", "family": "esmfold", "objective": "folding"}
    entry |= {"tokenisation": "residue", "path": str(checkpoint), "parameters": 1, "licence": "MIT"}
    entry |= dict.fromkeys(("species", "citation", "description", "limits"), "none")
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": {"tiny": entry}}))
    fetch(facts_of(checkpoint), tmp_path / "models.lock", tmp_path / "fetched", copy=True)
    names = list(sequences_of(*PROTEINS))
    pd.DataFrame({"protein": names, "sequence": PROTEINS}).to_parquet(tmp_path / "proteins.parquet")
    rows = structures(*((s, "no_structure") for s in PROTEINS[1:]), (PROTEINS[0], ""))
    rows.to_csv(tmp_path / "structures.tsv", sep="\t", index=False)
    options = {"proteins": "proteins.parquet", "structures": "structures.tsv", "registry": "models.yaml"}
    options |= {"checkpoint": "fetched", "lock": "models.lock", "folder": "cache", "output": "folded.tsv"}
    options |= {"stats": "folded.json"}
    paths = [part for name, file in options.items() for part in (f"--{name}", str(tmp_path / file))]
    return [*paths, "--model", "tiny", "--device", "cpu", "--longest", "100", "--batch-tokens", "13"]


def run(options: list[str], before: str = "") -> subprocess.CompletedProcess[str]:
    """fold_proteins.py in a process of its own, `before` run first; prints the heavy modules that it loaded."""
    code = (
        f"import sys, runpy; sys.argv = ['fold_proteins.py', *{options!r}]; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        f"{before}\n"
        f"runpy.run_path({str(SCRIPTS / 'fold_proteins.py')!r}, run_name='__main__')\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_script_folds_and_the_next_one_needs_no_torch(project, tmp_path):
    first = run(project)
    assert first.returncode == 0, first.stderr
    table = (tmp_path / "folded.tsv").read_text()
    rows = pd.read_csv(io.StringIO(table), sep="\t", dtype=str, keep_default_na=False)
    assert rows["protein"].tolist() == [protein_id(s) for s in PROTEINS[1:]]
    digest = json.loads((tmp_path / "fetched" / "manifest.json").read_text())["digest"]
    assert set(rows["version"]) == {digest[:16]}, "a folder has no revision"
    head = Path(rows["path"][0]).read_text()
    assert digest in head
    assert "Tiny fold" in head
    stats = json.loads((tmp_path / "folded.json").read_text())
    assert stats.items() >= {"model": "tiny", "folded": 2, "reused": 0, "device": "cpu", "batches": 2}.items()

    again = run(project)
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() == "[]"
    assert (tmp_path / "folded.tsv").read_text() == table
    assert json.loads((tmp_path / "folded.json").read_text())["reused"] == 2


def test_a_killed_job_keeps_what_it_has_folded(project, tmp_path):
    kill = (
        "import os; from pathlib import Path; from seqprior import folding, files\n"
        "replace, count = Path.replace, []\n"
        "def killed(self, target):\n"
        "    count.append(target)\n"
        "    return replace(self, target) if len(count) < 5 else os.kill(os.getpid(), 9)\n"
        "Path.replace = killed"
    )
    assert run(project, kill).returncode == -signal.SIGKILL
    assert not (tmp_path / "folded.tsv").exists()
    (folder,) = (tmp_path / "cache").iterdir()
    files = folding.FoldedFiles(tmp_path / "cache", folder.name, "float32")
    # Three files of the shorter protein, then the longer one's error file, and its structure under a passing name.
    assert files.digest(protein_id(PROTEINS[2]))
    assert not files.digest(protein_id(PROTEINS[1]))
    assert not files.structure(protein_id(PROTEINS[1])).exists()
    whole = files.structure(protein_id(PROTEINS[2])).stat().st_mtime_ns
    again = run(project)
    assert again.returncode == 0, again.stderr
    assert files.structure(protein_id(PROTEINS[2])).stat().st_mtime_ns == whole
    assert json.loads((tmp_path / "folded.json").read_text()).items() >= {"folded": 1, "reused": 1}.items()


@pytest.fixture
def main(project, monkeypatch):
    """The script within this process, with further options."""
    import runpy

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def call(*options: str) -> None:
        monkeypatch.setattr(sys, "argv", ["fold_proteins.py", *project, *options])
        threads = torch.get_num_threads()
        runpy.run_path(str(SCRIPTS / "fold_proteins.py"))["main"]()
        torch.set_num_threads(threads)

    return call


def test_a_gpu_that_is_not_there_is_an_error_and_no_slow_job(main, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=r"scoring\.device is gpu but"):
        main("--device", "gpu")
    assert not (tmp_path / "folded.tsv").exists()


def test_a_changed_checkpoint_is_refused_before_anything_is_folded(main, tmp_path):
    weights = tmp_path / "fetched" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BadInput, match=r"model\.safetensors: SHA-256 is"):
        main()
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "folded.tsv").exists()


def test_a_bfloat16_job_has_its_own_files_and_says_so(main, tmp_path):
    main("--dtype", "bfloat16")
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.name.endswith("-bfloat16")
    assert json.loads((tmp_path / "folded.json").read_text())["arithmetic"] == "bfloat16"
    assert "bfloat16 in the language model" in next(folder.glob("*.pdb")).read_text()


def test_a_folded_protein_of_the_scans_parses_with_all_its_residues(network, shared_data, tmp_path):
    fasta = min((shared_data / "proteins" / "fasta").iterdir(), key=lambda path: path.stat().st_size)
    sequence = "".join(line.strip() for line in fasta.read_text().splitlines() if not line.startswith(">"))
    table, stats, _ = fold_missing(tmp_path, structures((sequence, "no_structure")), sequences_of(sequence), network)
    assert stats["folded"] == 1
    assert residues_of(Path(table["path"][0]).read_text()) == dict(enumerate(sequence, 1))
