"""Scores of proteins, from tables to tables, against one residue and one row at a time by transformers' own classes."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import transformers
import yaml
from random_models import PROTEIN_KINDS, Shape, entry_of, write_checkpoint

from seqprior import protein_scoring
from seqprior.adapters import Adapter, load_adapter
from seqprior.columns import CHANGE_SCORES, PROFILES
from seqprior.embedding import Asker
from seqprior.errors import BadInput
from seqprior.fetching import fetch
from seqprior.models import ModelFacts, model_facts
from seqprior.plans import Reading
from seqprior.protein_evidence import read_answers
from seqprior.protein_scoring import read_proteins, score_proteins
from seqprior.residues import AMINO_ACIDS
from seqprior.store import ScoreStore

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
WINDOW = 70  # more than a block of residues
WILD_TYPE, MASKED = Reading(one_pass_marginals=True), Reading()
EXACT = Reading(one_pass_marginals=True, exact_likelihoods=True)


def residues(length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(AMINO_ACIDS, k=length))


PROTEINS = {
    "short": residues(9, 1),
    "whole": residues(70, 2),
    "odd": residues(20, 3) + "X" + residues(10, 4) + "U" + residues(6, 5),
    "long": residues(180, 6),
    "quiet": residues(30, 7),  # without a change
}


def other(letter: str, step: int = 1) -> str:
    return AMINO_ACIDS[(AMINO_ACIDS.index(letter) + step) % 20]


def substitution(name: str, start: int, size: int = 1) -> tuple:
    ref = PROTEINS[name][start : start + size]
    return (name, start, ref, "".join(map(other, ref)))


CHANGES = [
    *(substitution("short", start) for start in (0, 4, 8)),
    substitution("short", 3, 3),
    ("short", 2, PROTEINS["short"][2:4], ""),
    *(substitution("whole", start) for start in (0, 63, 64, 69)),
    substitution("whole", 62, 4),
    ("whole", 70, "", "AC"),
    ("whole", 11, PROTEINS["whole"][11:14], "W"),
    ("odd", 20, "X", "A"),  # of no model
    substitution("odd", 21),
    ("odd", 25, "", "GG"),
    *(substitution("long", start) for start in (0, 51, 52, 90, 179)),
    substitution("long", 69, 2),
    ("long", 100, PROTEINS["long"][100], ""),
    ("long", 0, "", "MM"),
]
SINGLES = [change for change in CHANGES if len(change[2]) == len(change[3]) == 1 and change[2] != "X"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> Callable[[str], ModelFacts]:
    folder = tmp_path_factory.mktemp("proteins")
    return cache(lambda name: write_checkpoint(name, folder / name, window=WINDOW))


def write_tables(folder: Path, changes=None, proteins=None) -> tuple[Path, list[Path]]:
    folder.mkdir(exist_ok=True)
    proteins = PROTEINS if proteins is None else proteins
    pd.DataFrame({"protein": list(proteins), "sequence": list(proteins.values())}).to_parquet(folder / "proteins")
    frame = pd.DataFrame(CHANGES if changes is None else changes, columns=["protein", "start", "ref", "alt"])
    frame["status"] = "scored"
    skipped = pd.DataFrame([("nowhere", None, "", "", "skipped")], columns=list(frame))
    frame["start"] = frame["start"].astype("Int64")
    pd.concat([frame, frame.iloc[:2], skipped.astype({"start": "Int64"})]).to_parquet(folder / "changes")
    return folder / "proteins", [folder / "changes"]


def loaded(facts: ModelFacts, reading: Reading, arithmetic: str = "float32") -> Adapter:
    return load_adapter(facts, CPU, arithmetic, reading)


def scored(asker: Asker, folder: Path, *, changes=None, proteins=None, everything: bool = False, **shard):
    tables = write_tables(folder, changes, proteins)
    stats = score_proteins(
        asker, tables[0], [] if everything else tables[1], folder / "profiles", folder / "scores", **shard
    )
    return pd.read_parquet(folder / "profiles"), pd.read_parquet(folder / "scores"), stats


def score(facts: ModelFacts, reading: Reading, folder: Path, budget: int | None = 4096, **options):
    adapter = loaded(facts, reading)
    return scored(Asker(adapter.scheme, lambda: adapter, budget), folder, **options)


def table(frame: pd.DataFrame) -> dict[tuple, np.ndarray | float]:
    """A table's values by what they are of."""
    keys = ["protein", "residue", "method"] if "logp" in frame else ["protein", "start", "ref", "alt", "method"]
    assert not frame.duplicated(keys).any()
    return dict(
        zip(frame[keys].itertuples(index=False, name=None), frame[next(iter(set(frame) - set(keys)))], strict=True)
    )


def assert_same(first: tuple, second: tuple, atol: float = 1e-5) -> None:
    for one, two in zip(first[:2], second[:2], strict=True):
        one, two = table(one), table(two)
        assert one.keys() == two.keys() and len(one) > 0
        for key, value in one.items():
            np.testing.assert_allclose(value, two[key], rtol=0, atol=atol, err_msg=str(key))


class Reference:
    """One model, one unpadded row at a time, in float64 and without fused attention."""

    def __init__(self, facts: ModelFacts) -> None:
        config = json.loads((facts.path / "config.json").read_text())
        kind = getattr(transformers, config["architectures"][0])
        self.model = kind.from_pretrained(facts.path, attn_implementation="eager", dtype=torch.float64).eval()
        if facts.family == "esmc":
            self.number = transformers.EsmcTokenizer().get_vocab()
        else:
            self.number = {t: n for n, t in enumerate((facts.path / "vocab.txt").read_text().splitlines())}
        self.tokens = facts.tokens
        self.logs = cache(self._logs)

    @torch.no_grad()
    def _logs(self, sequence: str, masked: tuple[int, ...] = ()) -> np.ndarray:
        roles = {role: self.number[token] for role, token in self.tokens.items()}
        ids = [roles["start"], *(self.number[letter] for letter in sequence), roles["end"]]
        for place in masked:
            ids[place + 1] = roles["mask"]
        logits = self.model(input_ids=torch.tensor([ids])).logits[0, 1:-1].double()
        return logits[:, [self.number[letter] for letter in AMINO_ACIDS]].log_softmax(-1).numpy()

    def likelihood(self, sequence: str, exact: bool) -> float:
        total = 0.0
        for place, letter in enumerate(sequence):
            if letter in AMINO_ACIDS:
                logs = self.logs(sequence, (place,) if exact else ())
                total += logs[place, AMINO_ACIDS.index(letter)] + math.log(20)
        return total


def tile(length: int, start: int, end: int) -> tuple[int, int]:
    """Tiles half a window apart, the last one at the end; the one whose middle is nearest."""
    starts = [0] if length <= WINDOW else [*range(0, length - WINDOW, WINDOW // 2), length - WINDOW]
    holding = [(s, min(s + WINDOW, length)) for s in starts if s <= start and end <= s + WINDOW]
    return min(holding, key=lambda t: abs(t[0] + t[1] - start - end))


@pytest.mark.parametrize("name", PROTEIN_KINDS)
def test_profiles_equal_one_row_at_a_time(checkpoints, tmp_path, name):
    facts = checkpoints(name)
    profiles, _, stats = score(facts, MASKED, tmp_path)
    reference = Reference(facts)
    wild = profiles[profiles["method"].str.startswith("wild_type_marginal")]
    masked = profiles[profiles["method"].str.startswith("masked_marginal")]
    assert len(wild) + len(masked) == len(profiles)
    touched = {change[0] for change in CHANGES}
    assert list(zip(wild["protein"], wild["residue"], strict=True)) == [
        (p, n) for p in PROTEINS if p in touched for n in range(len(PROTEINS[p]))
    ]
    assert set(zip(masked["protein"], masked["residue"], strict=True)) == {change[:2] for change in SINGLES}
    for row in profiles.itertuples():
        sequence = PROTEINS[row.protein]
        start, end = tile(len(sequence), row.residue, row.residue + 1)
        hidden = (row.residue - start,) if row.method.startswith("masked") else ()
        expected = reference.logs(sequence[start:end], hidden)[row.residue - start]
        np.testing.assert_allclose(row.logp, expected, atol=1e-4)
        assert row.method.endswith("_tiled") == (row.protein == "long")
        assert np.exp(row.logp.astype(float)).sum() == pytest.approx(1, abs=1e-5)
    assert np.stack(profiles["logp"]).std() > 0.1
    assert (stats["changes"], stats["evaluable"], stats["not_evaluable"]) == (len(CHANGES), len(CHANGES) - 1, 1)


@pytest.mark.parametrize("reading", [WILD_TYPE, MASKED, EXACT], ids=["wild-type", "masked", "exact"])
@pytest.mark.parametrize("name", ["esm2", "esmc"])
def test_longer_changes_equal_one_row_at_a_time(checkpoints, tmp_path, name, reading):
    facts = checkpoints(name)
    _, scores, _ = score(facts, reading, tmp_path)
    reference = Reference(facts)
    found = table(scores)
    expected = [change for change in CHANGES if len(change[2]) != 1 or len(change[3]) != 1]
    assert {key[:4] for key in found} == set(expected)
    for (protein, start, ref, alt, method), llr in found.items():
        sequence, tiled = PROTEINS[protein], "_tiled" * (protein == "long")
        if len(ref) != len(alt):
            room = WINDOW - max(len(ref), len(alt))
            after = len(sequence) - start - len(ref)
            left = min(start, max(room // 2, room - after))
            right = min(after, room - left)
            before, behind = sequence[start - left : start], sequence[start + len(ref) :][:right]
            tiled = "_tiled" * (left + right + len(ref) < len(sequence))
            exact = reading.exact_likelihoods
            assert method == ("masked" if exact else "unmasked") + "_pseudo_likelihood" + tiled
            wanted = reference.likelihood(before + alt + behind, exact) - reference.likelihood(
                before + ref + behind, exact
            )
        else:
            places = range(start, start + len(ref))
            wanted = 0.0
            for place, a, b in zip(places, ref, alt, strict=True):
                first, last = (places[0], places[-1] + 1) if reading == MASKED else (place, place + 1)
                begin, end = tile(len(sequence), first, last)
                hidden = tuple(p - begin for p in places) if reading == MASKED else ()
                logs = reference.logs(sequence[begin:end], hidden)[place - begin]
                wanted += logs[AMINO_ACIDS.index(b)] - logs[AMINO_ACIDS.index(a)]
            assert method == ("masked_marginal" if reading == MASKED else "wild_type_marginal") + tiled
        assert llr == pytest.approx(wanted, abs=5e-4), (protein, start, ref, alt)
    assert np.std(list(found.values())) > 0.05


@pytest.mark.parametrize("name", PROTEIN_KINDS)
@pytest.mark.parametrize("reading", [MASKED, EXACT], ids=["masked", "exact"])
def test_batches_groups_and_order_change_nothing(checkpoints, tmp_path, monkeypatch, name, reading):
    facts = checkpoints(name)
    first = score(facts, reading, tmp_path / "a", None)
    assert_same(first, score(facts, reading, tmp_path / "b", 1), 2e-5)
    monkeypatch.setattr(protein_scoring, "GROUP_RESIDUES", 40)
    backwards = dict(reversed(PROTEINS.items()))
    assert_same(first, score(facts, reading, tmp_path / "c", 300, changes=CHANGES[::-1], proteins=backwards), 2e-5)


@pytest.mark.parametrize("shards", [1, 2, 3, 9])
def test_shards_share_the_proteins_out(checkpoints, tmp_path, shards):
    facts = checkpoints("esm2")
    whole = score(facts, MASKED, tmp_path / "whole")
    parts = [score(facts, MASKED, tmp_path / str(n), shard=n, shards=shards) for n in range(shards)]
    together = [pd.concat([part[n] for part in parts], ignore_index=True) for n in (0, 1)]
    assert_same(whole, tuple(together))
    assert together[0]["protein"].drop_duplicates().tolist() == whole[0]["protein"].drop_duplicates().tolist()
    for key in ("proteins", "residues", "changes", "evaluable", "not_evaluable", "tiled", "requests"):
        assert sum(part[2][key] for part in parts) == whole[2][key]
    if shards == 2:
        assert min(part[2]["tokens"] for part in parts) > 0.2 * whole[2]["tokens"]


def never() -> Adapter:
    raise AssertionError("the model was loaded")


@pytest.mark.parametrize("reading", [WILD_TYPE, MASKED, EXACT], ids=["wild-type", "masked", "exact"])
def test_a_rerun_is_answered_from_the_store_without_the_model(checkpoints, tmp_path, reading):
    adapter = loaded(checkpoints("esm2"), reading)
    store = ScoreStore(tmp_path / "store", "0" * 64, "float32")
    first = scored(Asker(adapter.scheme, lambda: adapter, 4096, store), tmp_path / "a")
    again = scored(Asker(adapter.scheme, never, 4096, store), tmp_path / "b")
    assert_same(first, again, 0)
    assert first[2]["from_store"] == 0 < first[2]["requests"] == again[2]["from_store"]
    assert (again[2]["device"], again[2]["tokens"]) == ("none", 0)


def test_further_substitutions_of_a_known_protein_load_no_model(checkpoints, tmp_path):
    adapter = loaded(checkpoints("esm2"), WILD_TYPE)
    store = ScoreStore(tmp_path / "store", "0" * 64, "float32")
    scored(Asker(adapter.scheme, lambda: adapter, 4096, store), tmp_path / "a", changes=[substitution("long", 3)])
    more = [substitution("long", start, 1 + start % 3) for start in range(4, 170, 5)]
    _, scores, stats = scored(Asker(adapter.scheme, never, 4096, store), tmp_path / "b", changes=more)
    assert stats["evaluable"] == len(more) and len(scores) > 10


def test_one_pass_answers_for_any_number_of_substitutions(checkpoints, tmp_path):
    tokens = []
    for count in (1, 20, 70):
        changes = [substitution("whole", start) for start in range(count)]
        tokens.append(score(checkpoints("esm2"), WILD_TYPE, tmp_path, changes=changes)[2]["tokens"])
    assert tokens == [72, 72, 72], "one row of 70 residues, start and end"


def test_without_changes_all_residues_of_all_proteins_are_scored(checkpoints, tmp_path):
    facts = checkpoints("esm2")
    some = table(score(facts, MASKED, tmp_path / "some")[0])
    profiles, scores, stats = score(facts, MASKED, tmp_path / "all", everything=True)
    everything = table(profiles)
    assert len(scores) == 0 and stats["changes"] == 0 and stats["proteins"] == len(PROTEINS)
    assert len(everything) == 2 * sum(map(len, PROTEINS.values()))
    assert {(p, n) for p, n, _ in everything} == {(p, n) for p, text in PROTEINS.items() for n in range(len(text))}
    for key, value in some.items():
        np.testing.assert_allclose(everything[key], value, atol=2e-5)
    wild, _, _ = score(facts, WILD_TYPE, tmp_path / "wild", everything=True)
    assert len(wild) == len(everything) // 2


def test_the_tables_are_those_that_the_evidence_reads(checkpoints, tmp_path):
    profiles, scores, _ = score(checkpoints("esm2"), MASKED, tmp_path)
    assert tuple(profiles) == PROFILES and tuple(scores) == CHANGE_SCORES
    assert str(pq.read_schema(tmp_path / "profiles").field("logp").type) == "fixed_size_list<element: float>[20]"
    wanted = {(name, start) for name, start, *_ in CHANGES}
    answers = read_answers([tmp_path / "profiles"], [tmp_path / "scores"], PROTEINS, wanted)
    rows, longer = table(profiles), table(scores)
    for name, start, ref, alt in CHANGES:
        llr, _, method = answers.llr(name, start, ref, alt)
        if ref == "X":
            assert math.isnan(llr)
        elif len(ref) == len(alt) == 1:
            logs = rows[name, start, method]
            assert method.startswith("masked_marginal")
            assert llr == pytest.approx(logs[AMINO_ACIDS.index(alt)] - logs[AMINO_ACIDS.index(ref)], abs=1e-5)
        else:
            assert llr == longer[name, start, ref, alt, method]


@pytest.mark.parametrize("case", ["no proteins", "skipped changes", "no changes"])
def test_nothing_to_score_gives_empty_tables_and_loads_no_model(checkpoints, tmp_path, case):
    scheme = loaded(checkpoints("esm2"), WILD_TYPE).scheme
    proteins, changes = write_tables(tmp_path, proteins={} if case == "no proteins" else PROTEINS)
    frame = pd.read_parquet(changes[0])
    frame.iloc[:0].astype(object).to_parquet(tmp_path / "none")  # columns without a type
    frame[frame["status"] == "skipped"].to_parquet(tmp_path / "skipped")
    tables = {"no proteins": [], "skipped changes": [tmp_path / "skipped"], "no changes": [tmp_path / "none"]}[case]
    stats = score_proteins(Asker(scheme, never), proteins, tables, tmp_path / "profiles", tmp_path / "scores")
    profiles, scores = pd.read_parquet(tmp_path / "profiles"), pd.read_parquet(tmp_path / "scores")
    assert (len(profiles), len(scores), stats["proteins"], stats["device"]) == (0, 0, 0, "none")
    assert tuple(profiles) == PROFILES and tuple(scores) == CHANGE_SCORES


@pytest.mark.parametrize(
    ("name", "arithmetic", "everything"),
    [("esm2", "bfloat16", False), ("esm2", "bfloat16", True), ("esmc", "bfloat16", False), ("esmc", "int8", False)],
)
def test_the_error_of_an_approximate_arithmetic_is_measured(checkpoints, tmp_path, name, arithmetic, everything):
    exact, coarse = (loaded(checkpoints(name), WILD_TYPE, dtype) for dtype in ("float32", arithmetic))
    store = ScoreStore(tmp_path / "store", "0" * 64, arithmetic)
    asker = Asker(coarse.scheme, lambda: coarse, 4096, store, lambda: exact)
    profiles, _, stats = scored(asker, tmp_path / "a", everything=everything)
    truth, _, _ = score(checkpoints(name), WILD_TYPE, tmp_path / "truth", everything=everything)
    off = np.abs(np.stack(profiles["logp"]) - np.stack(truth["logp"]))
    assert 0 < stats["error"]["mean"] <= stats["error"]["largest"] <= 2 * off.max() + 0.5
    assert 0 < off.mean() < 0.3 * np.stack(truth["logp"]).std()
    assert stats["error"]["alleles"] == (64 if everything else len(CHANGES) - 1)
    again = Asker(coarse.scheme, never, 4096, store, never)
    assert scored(again, tmp_path / "b", everything=everything)[2]["error"] == stats["error"]


@pytest.mark.parametrize("name", ["esm2", "esmc"])
def test_packed_layers_give_the_same(tmp_path, name):
    shape = Shape(width=64, layers=2, heads=4, inner=128, spread=0.2)
    facts = write_checkpoint(name, tmp_path / name, shape=shape, window=WINDOW)
    adapter, reference = loaded(facts, WILD_TYPE), Reference(facts)
    assert any(type(module).__name__ == "PackedLinear" for module in adapter.network.modules())
    profiles, _, _ = scored(Asker(adapter.scheme, lambda: adapter), tmp_path / "tables")
    for row in profiles[profiles["protein"].isin(["short", "odd"])].itertuples():
        np.testing.assert_allclose(row.logp, reference.logs(PROTEINS[row.protein])[row.residue], atol=1e-4)


def test_esm_c_has_its_rotary_frequencies_in_full_precision(checkpoints):
    coarse = loaded(checkpoints("esmc"), WILD_TYPE, "bfloat16").network.model.base_model.rotary_emb
    exact = loaded(checkpoints("esmc"), WILD_TYPE).network.model.base_model.rotary_emb
    assert coarse.inv_freq.dtype == torch.float32
    torch.testing.assert_close(coarse.inv_freq, exact.inv_freq, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("gone", 3, "A", "C"), "protein gone is not in {proteins}; list changes and proteins together again"),
        (
            ("short", 4, "", ""),
            None,
        ),
        (
            ("short", 4, "WWWW", "A"),
            "protein short is to have 'WWWW' from residue 5 on and has {there!r} in {proteins}; list changes and "
            "proteins together again",
        ),
        (
            ("short", 40, "", "A"),
            "protein short is to have '' from residue 41 on and has '' in {proteins}; list changes and proteins "
            "together again",
        ),
    ],
)
def test_changes_that_do_not_fit_their_protein_are_refused(tmp_path, change, sentence):
    proteins, changes = write_tables(tmp_path, [change])
    if sentence is None:
        assert [protein.name for protein in read_proteins(proteins, changes)] == ["short"]
        return
    with pytest.raises(BadInput) as caught:
        read_proteins(proteins, changes)
    expected = sentence.format(proteins=proteins, there=PROTEINS["short"][4:8])
    assert str(caught.value) == f"{changes[0]}: {expected}"


def test_lower_case_residues_are_residues(checkpoints, tmp_path):
    lower = {name: text.lower() for name, text in PROTEINS.items()}
    facts = checkpoints("esm2")
    assert_same(score(facts, WILD_TYPE, tmp_path / "a"), score(facts, WILD_TYPE, tmp_path / "b", proteins=lower), 0)


def command(folder: Path, *options: object, script: str = "score_proteins.py") -> subprocess.CompletedProcess[str]:
    given = ["--registry", folder / "models.yaml", "--model", "m", "--checkpoint", folder / "fetched"]
    given += ["--lock", folder / "models.lock", "--device", "cpu", *options]
    return subprocess.run(
        [sys.executable, SCRIPTS / script, *map(str, given)], capture_output=True, text=True, timeout=120
    )


def test_the_script_scores_shards_of_a_fetched_model(checkpoints, tmp_path):
    facts = checkpoints("esm2")
    registry = {"models": {"m": entry_of("esm2", facts.path, WINDOW)}}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(registry))
    fetch(model_facts(tmp_path / "models.yaml", "m"), tmp_path / "models.lock", tmp_path / "fetched", copy=True)
    proteins, (changes,) = write_tables(tmp_path)
    columns = ["protein", "start", "ref", "alt"]
    pd.DataFrame([substitution("quiet", 3, 2)], columns=columns).to_parquet(tmp_path / "haplotypes")
    output = ["--profiles", tmp_path / "p", "--change-scores", tmp_path / "c", "--stats", tmp_path / "s"]
    given = ["--proteins", proteins, "--changes", changes, tmp_path / "haplotypes", "--store", tmp_path / "store"]
    frames, stats = [], []
    for shard in (0, 1):
        answer = command(tmp_path, *given, *output, "--marginals", "masked", "--shard", shard, "--shards", 2)
        assert answer.returncode == 0, answer.stderr
        frames.append((pd.read_parquet(tmp_path / "p"), pd.read_parquet(tmp_path / "c")))
        stats.append(json.loads((tmp_path / "s").read_text()))
    everything = [*CHANGES, substitution("quiet", 3, 2)]
    expected = score(facts, MASKED, tmp_path / "here", changes=everything)
    assert_same(expected, tuple(pd.concat(part, ignore_index=True) for part in zip(*frames, strict=True)), 2e-5)
    assert [entry["model"] for entry in stats] == ["m", "m"]
    assert sum(entry["evaluable"] for entry in stats) == len(everything) - 1


def test_scripts_refuse_a_model_of_another_kind(checkpoints, tmp_path):
    facts = checkpoints("esm2")
    registry = {"models": {"m": entry_of("esm2", facts.path, WINDOW) | {"kind": "dna", "embedding_window": 9}}}
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(registry))
    names = ("proteins", "profiles", "change-scores", "stats")
    answer = command(tmp_path, *(part for name in names for part in (f"--{name}", tmp_path / name)))
    assert answer.returncode == 2
    assert answer.stderr.endswith(
        f"error: {tmp_path / 'models.yaml'}: m is a model of kind dna, and one of kind protein is asked for; name it "
        "under the config's key of its kind or correct kind in the registry\n"
    )
    registry["models"]["m"]["kind"] = "protein"
    (tmp_path / "models.yaml").write_text(yaml.safe_dump(registry))
    names = ("shard", "output", "stats")
    options = (part for name in names for part in (f"--{name}", tmp_path / name))
    answer = command(tmp_path, *options, script="score_variants.py")
    assert answer.returncode == 2 and "m is a model of kind protein, and one of kind dna is asked for" in answer.stderr


def test_real_proteins_are_read_in_one_pass_each(checkpoints, tmp_path, shared_data):
    records = [path for path in sorted((shared_data / "proteins").rglob("*.fa*")) if path.suffix in (".fa", ".fasta")]
    if not records:
        pytest.skip("no FASTA of proteins in ../shared/data")
    from Bio import SeqIO

    texts = {record.id: str(record.seq)[:WINDOW] for record in list(SeqIO.parse(records[0], "fasta"))[:20]}
    profiles, _, stats = score(checkpoints("esm2"), WILD_TYPE, tmp_path, proteins=texts, everything=True)
    assert len(profiles) == sum(map(len, texts.values())) and stats["tokens"] >= len(profiles) + 2 * len(texts)
