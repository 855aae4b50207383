"""From a registry entry to a loaded model: permission, verified bytes, a device, the network."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from random_models import entry_of, write_checkpoint

from seqprior.errors import BadInput
from seqprior.fetching import fetch
from seqprior.loading import Job, arithmetic_of, open_scheme
from seqprior.models import model_facts
from seqprior.plans import MaskedBases, Reading

pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def fetched(folder: Path, **changes) -> tuple[Path, Path, Path]:
    """A registry with the model `m`, the folder of its fetched files, and the lock."""
    facts = write_checkpoint("bert-base", folder / "source")
    if changes.get("family") == "remote-code":
        (facts.path / "modeling_x.py").write_text(f"open({str(folder / 'has-run')!r}, 'w').close()\n")
        config = json.loads((facts.path / "config.json").read_text())
        auto = {"AutoConfig": "modeling_x.X", "AutoModelForMaskedLM": "modeling_x.X"}
        (facts.path / "config.json").write_text(json.dumps({**config, "model_type": "x", "auto_map": auto}))
    registry = folder / "models.yaml"
    entry = {**entry_of("bert-base", facts.path, 60), **changes}
    registry.write_text(yaml.safe_dump({"models": {"m": entry}}))
    fetch(model_facts(registry, "m"), folder / "models.lock", folder / "fetched", copy=True)
    return registry, folder / "fetched", folder / "models.lock"


def test_a_fetched_model_opens_with_its_facts_its_digest_and_how_it_is_asked(tmp_path):
    registry, folder, lock = fetched(tmp_path)
    facts, digest, scheme = open_scheme(registry, "m", folder, lock, [], Reading(one_pass_marginals=True))
    assert (facts.id, facts.path, facts.window) == ("m", folder, 60)
    assert digest == json.loads((folder / "manifest.json").read_text())["digest"]
    assert isinstance(scheme, MaskedBases)
    assert scheme.site_method == "unmasked_marginal"
    assert open_scheme(registry, "m", folder, None, [], Reading())[1] == digest, "without a lock, the manifest counts"


def test_other_bytes_have_another_digest(tmp_path):
    registry, folder, lock = fetched(tmp_path)
    first = open_scheme(registry, "m", folder, lock, [], Reading())[1]
    vocabulary = tmp_path / "source" / "vocab.txt"
    vocabulary.write_text(vocabulary.read_text().replace("A\nC", "C\nA"))
    for name, expected in (("again", False), ("once more", True)):
        other = tmp_path / name
        fetch(model_facts(registry, "m"), tmp_path / f"{name}.lock", other, copy=True)
        assert (open_scheme(registry, "m", other, None, [], Reading())[1] == first) == expected
        vocabulary.write_text(vocabulary.read_text().replace("C\nA", "A\nC"))


def test_opening_needs_no_torch(tmp_path):
    registry, folder, lock = fetched(tmp_path)
    code = (
        "import sys; from pathlib import Path; from seqprior.loading import open_scheme; "
        "from seqprior.plans import Reading; "
        f"open_scheme(Path({str(registry)!r}), 'm', Path({str(folder)!r}), Path({str(lock)!r}), [], Reading()); "
        "print([name for name in ('torch', 'transformers', 'pandas') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True, timeout=60, check=True
    )
    assert answer.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt"])
def test_a_changed_byte_of_any_file_is_refused_by_file_name(tmp_path, name):
    registry, folder, lock = fetched(tmp_path)
    file = folder / name
    content = bytearray(file.read_bytes())
    before = hashlib.sha256(content).hexdigest()
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        open_scheme(registry, "m", folder, lock, [], Reading())
    assert str(caught.value) == (
        f"{file}: SHA-256 is {hashlib.sha256(content).hexdigest()}, fetched was {before}; restore it, or delete "
        f"{folder / 'manifest.json'} to fetch the model anew"
    )


def test_a_file_that_was_added_is_refused(tmp_path):
    registry, folder, lock = fetched(tmp_path)
    (folder / "modeling_x.py").write_text("print('hello')\n")
    with pytest.raises(BadInput, match=f"^{re.escape(str(folder / 'modeling_x.py'))}: no file of m"):
        open_scheme(registry, "m", folder, lock, [], Reading())


def test_an_unknown_model_is_refused(tmp_path):
    registry, folder, lock = fetched(tmp_path)
    with pytest.raises(BadInput, match="no model 'other'; known are m; see models.dna"):
        open_scheme(registry, "other", folder, lock, [], Reading())


def test_a_registry_without_the_tokens_of_the_files_is_refused(tmp_path):
    registry, folder, lock = fetched(tmp_path)
    entries = yaml.safe_load(registry.read_text())
    entries["models"]["m"]["tokens"]["mask"] = "<mask>"
    registry.write_text(yaml.safe_dump(entries))
    with pytest.raises(BadInput, match="the vocabulary of m has no mask token '<mask>'"):
        open_scheme(registry, "m", folder, lock, [], Reading())


@pytest.mark.parametrize("allowed", [[], ["other"], ["M"], ["my"]])
def test_code_of_a_checkpoint_is_not_run_unless_the_config_names_the_model(tmp_path, allowed):
    registry, folder, lock = fetched(tmp_path, family="remote-code")
    with pytest.raises(BadInput) as caught:
        open_scheme(registry, "m", folder, lock, allowed, Reading())
    assert str(caught.value) == (
        f"m: this model runs code of its checkpoint, which is not allowed; read {folder}/*.py and, if you trust it, "
        "add m to models.remote_code in the config"
    )
    assert not (tmp_path / "has-run").exists()


def test_code_that_is_allowed_is_verified_before_it_is_run(tmp_path, monkeypatch):
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path))
    registry, folder, lock = fetched(tmp_path, family="remote-code")
    facts, _, _ = open_scheme(registry, "m", folder, lock, ["m"], Reading())
    assert not (tmp_path / "has-run").exists(), "opening runs nothing"
    with (
        Job(facts, Reading(), "cpu", 1) as job,
        pytest.raises(BadInput, match="the checkpoint's own code cannot load m"),
    ):
        job.load("float32")
    assert (tmp_path / "has-run").exists()
    (folder / "modeling_x.py").unlink()
    (folder / "modeling_x.py").write_text("print('another')\n")
    with pytest.raises(BadInput, match=r"modeling_x\.py: SHA-256 is"):
        open_scheme(registry, "m", folder, lock, ["m"], Reading())


def test_auto_is_the_exact_arithmetic():
    assert [arithmetic_of(name) for name in ("auto", "float32", "bfloat16", "int8")] == [
        "float32",
        "float32",
        "bfloat16",
        "int8",
    ]


def test_a_job_loads_the_model_in_the_arithmetic_that_is_asked_and_on_its_threads(tmp_path, monkeypatch):
    threads: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    facts = write_checkpoint("bert-base", tmp_path / "m")
    with Job(facts, Reading(exact_likelihoods=True), "cpu", 3) as job:
        exact, coarse = job.load("float32"), job.load("bfloat16")
    assert set(threads) == {3}
    assert exact.device == torch.device("cpu")
    assert exact.scheme.pair_method == "masked_pseudo_likelihood"
    assert {parameter.dtype for parameter in exact.network.parameters()} == {torch.float32}
    assert {parameter.dtype for parameter in coarse.network.parameters()} == {torch.bfloat16}
    assert (exact.arithmetic, coarse.arithmetic) == ("float32", "bfloat16")


def test_a_job_holds_its_device_once_until_the_block_ends(tmp_path, monkeypatch):
    from contextlib import contextmanager

    import seqprior.device

    events: list[str] = []

    @contextmanager
    def claimed(name: str):
        events.append(f"claimed {name}")
        yield torch.device("cpu")
        events.append("released")

    monkeypatch.setattr(seqprior.device, "claimed_device", claimed)
    facts = write_checkpoint("bert-base", tmp_path / "m")
    with Job(facts, Reading(), "gpu", 1) as job:
        assert events == [], "a job that has nothing to compute takes no device"
        job.load("float32")
        job.load("float32")
        assert events == ["claimed gpu"]
    assert events == ["claimed gpu", "released"]
    with pytest.raises(BadInput), Job(dataclasses.replace(facts, family="nonesuch"), Reading(), "gpu", 1) as job:
        job.load("float32")
    assert events[2:] == ["claimed gpu", "released"]


def test_a_gpu_that_was_asked_for_and_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    facts = write_checkpoint("bert-base", tmp_path / "m")
    with Job(facts, Reading(), "gpu", 1) as job, pytest.raises(BadInput, match="scoring.device is gpu but"):
        job.load("float32")
