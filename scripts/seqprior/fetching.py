"""Checkpoints: fetched once from a hub, an installed package or a folder, recorded in models.lock, checked before use.

`models.lock` says which bytes each model of a project is: where they come from, the commit, a SHA-256 for every file.
A fetched folder holds the checkpoint and `manifest.json`, and is complete or absent.

Only safetensors are kept. A checkpoint that exists as `pytorch_model*.bin` alone, or as a package's `.pt`, is converted
while it is fetched, by PyTorch's restricted reader (`weights_only`), which builds tensors and runs nothing; no other
code reads such files.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from seqprior.errors import BadInput
from seqprior.files import full_disk_named, sha256, written_whole
from seqprior.models import ModelFacts

MANIFEST = "manifest.json"
CONFIG = "config.json"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
TOKENISER = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
PACKAGE = "package:"  # starts the source of a checkpoint within an installed Python package
STATE = "model_state_dict"  # of a package's file; what stands beside it becomes config.json
PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")  # neither a folder in it nor a dot before it
COMMIT = re.compile(r"[0-9a-f]{40}")
DIGEST = re.compile(r"[0-9a-f]{64}")
HASHERS = 4  # threads; hashlib lets the others run, and disks gain nothing from more


@dataclass(frozen=True)
class Locked:
    """One entry of models.lock. `requested` is the registry's revision, "" for what is no hub's; `revision` the hub's
    commit, the package's version or "" for a path.

    `files` has the SHA-256 of each file as its source has it: of a .bin, not of what it was converted to.
    """

    source: str
    revision: str
    files: dict[str, str]
    requested: str = ""


@dataclass(frozen=True)
class Manifest:
    """What a fetched folder holds. `converted` has the SHA-256 of the files that were made into safetensors."""

    model: str
    source: str
    revision: str
    files: dict[str, str]
    digest: str
    converted: dict[str, str] = field(default_factory=dict)

    @property
    def fetched(self) -> dict[str, str]:
        """SHA-256 of each file as its source has it, comparable with `Locked.files`."""
        if self.source.startswith(PACKAGE):
            return dict(self.converted)  # the config comes from the same file
        kept = {name: digest for name, digest in self.files.items() if not (self.converted and _is_weights(name))}
        return kept | self.converted


def fetch(facts: ModelFacts, lock: Path, output: Path, copy: bool = False) -> str:
    """Make `output` the folder of a model's checkpoint, as models.lock has it, and record a new model there.

    A hub's files go through its own cache (HF_HOME) and are asked for only if that lacks them; HF_ENDPOINT, HF_TOKEN
    and HF_HUB_OFFLINE count as everywhere. Files of a path are linked, or copied with `copy`, for a path that will go.
    A package's file is read where the package is installed; the package is not imported. An existing `output` is
    replaced.

    Returns:
        The digest of the files, which names this checkpoint's results.

    Raises:
        BadInput: hub, package or folder cannot give the checkpoint, or its files are not those of models.lock.
    """
    source = f"hub:{facts.hub}" if facts.hub else f"{PACKAGE}{facts.package}" if facts.package else "path"
    requested = facts.revision if facts.hub else ""
    with _exclusive(output):  # a second fetch of the same model finds the work done, in the hub's cache
        _earlier_fetch(output)
        entry = read_lock(lock).get(facts.id)
        if entry:
            _require_same_source(facts.id, entry, source, requested, lock)
        revision, paths, listed = "", {}, {}
        if facts.hub:
            revision, paths, listed = _from_hub(facts, entry, output)
        elif facts.package:
            revision, paths = _from_package(facts)
        else:
            paths = _from_folder(facts)
        digests = hash_files(paths)
        _require_listed(facts, listed, digests, paths)
        if entry:
            _require_locked(facts.id, entry.files, digests, paths, lock)
        _require_registered(facts, digests, paths)
        _require_own_code(facts, paths)
        _require_whole(facts.id, paths)
        with full_disk_named(output.parent):
            staging = output.with_name(f".partial-{output.name}")
            shutil.rmtree(staging, ignore_errors=True)  # of a fetch that was killed
            staging.mkdir()
            try:
                manifest = _fill(staging, Manifest(facts.id, source, revision, digests, ""), paths, copy)
                # First the lock: whoever is stopped between the two is held to it by the next fetch.
                _record(lock, facts.id, Locked(source, revision, digests, requested))
                _replace(output, staging)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    return manifest.digest


def verify(folder: Path, lock: Path | None = None) -> str:
    """Check every byte of a fetched folder against its manifest and against models.lock, where that has the model.

    Returns:
        The manifest's digest.

    Raises:
        BadInput: a file was changed, is missing or came in addition, or the lock has other bytes; the file is named.
    """
    manifest = read_manifest(folder)
    again = f"restore it, or delete {folder / MANIFEST} to fetch the model anew"
    surplus = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not path.name.startswith(".") and (path.is_symlink() or not path.is_dir())
    )
    for name in surplus:
        if name != MANIFEST and name not in manifest.files:
            raise BadInput(f"{folder / name}: no file of {manifest.model}, which has no such file; delete it")
    for name in sorted(manifest.files):
        if not (folder / name).is_file():
            raise BadInput(f"{folder / name}: the file of {manifest.model} is missing; {again}")
    for name, digest in hash_files({name: folder / name for name in sorted(manifest.files)}).items():
        if digest != manifest.files[name]:
            raise BadInput(f"{folder / name}: SHA-256 is {digest}, fetched was {manifest.files[name]}; {again}")
    entry = read_lock(lock).get(manifest.model) if lock else None
    packaged = manifest.source.startswith(PACKAGE)  # another version of the package may well have the same file
    if entry and (entry.source != manifest.source or (entry.revision != manifest.revision and not packaged)):
        raise BadInput(
            f"{folder}: holds {manifest.model} from {manifest.source} {manifest.revision}, {lock} says {entry.source}"
            f" {entry.revision}; delete {folder / MANIFEST} to fetch the model anew"
        )
    if entry:
        differing = _first_difference(entry.files, manifest.fetched)
        if differing:
            raise BadInput(
                f"{folder / differing}: differs from what {lock} has for {manifest.model}; delete"
                f" {folder / MANIFEST} to fetch the model anew"
            )
    return manifest.digest


def manifest_digest(folder: Path) -> str:
    """The digest of a fetched folder, as its manifest says. Nothing is hashed: for jobs that read no weights."""
    return read_manifest(folder).digest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a fetched folder.

    Raises:
        BadInput: there is none, or it is not as it was written.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest(**json.loads(path.read_text(encoding="utf-8")))
        intact = _are_digests(manifest.files) and manifest.digest == files_digest(manifest.files)
        intact = intact and (manifest.converted == {} or _are_digests(manifest.converted))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: no manifest of a fetched model ({error}); delete it and run again") from error
    if not intact:
        raise BadInput(f"{path}: its digest is not that of its files; delete it and run again")
    return manifest


def files_digest(files: dict[str, str]) -> str:
    """SHA-256 over the canonical JSON (sorted keys, no blanks) of file names and their SHA-256."""
    return hashlib.sha256(json.dumps(files, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def hash_files(paths: dict[str, Path]) -> dict[str, str]:
    """SHA-256 of each file, by its name, several files at once."""
    with ThreadPoolExecutor(HASHERS) as pool:
        return dict(zip(paths, pool.map(sha256, paths.values()), strict=True))


def read_lock(lock: Path) -> dict[str, Locked]:
    """The entries of models.lock by model; none if there is no such file.

    Raises:
        BadInput: it is no such file, for example since a merge left both versions in it.
    """
    try:
        entries = {model: Locked(**entry) for model, entry in json.loads(lock.read_text(encoding="utf-8")).items()}
        faulty = [model for model, entry in entries.items() if not _is_entry(entry)]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{lock}: no lock file of models ({error}); restore it, or delete it to lock anew") from error
    if faulty:
        raise BadInput(
            f"{lock}: the entry of {faulty[0]} lacks a source, a commit or the SHA-256 of its files; restore it, or"
            " delete the entry to lock anew"
        )
    return entries


def _is_entry(entry: Locked) -> bool:
    source = entry.source if isinstance(entry.source, str) else ""
    if source.startswith("hub:"):
        revision = COMMIT.fullmatch(entry.revision)
    elif source.startswith(PACKAGE):
        revision = isinstance(entry.revision, str) and entry.revision
    else:
        revision = source == "path" and entry.revision == ""
    return bool(revision) and isinstance(entry.requested, str) and _are_digests(entry.files)


def _are_digests(files: dict[str, str]) -> bool:
    """True if every name stays within a folder and has a SHA-256; whoever edits the file could write anything."""
    return bool(files) and all(PLAIN_NAME.fullmatch(name) and DIGEST.fullmatch(files[name]) for name in files)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Let one process at a time change `path`, by a lock on a hidden file beside it, which stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.guard").open("w") as guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX)
        except OSError as error:
            raise BadInput(f"{guard.name}: the file system offers no locks ({error}); work on another one") from error
        yield


def _record(lock: Path, model: str, entry: Locked) -> None:
    """Add a model to the lock, unless another process has meanwhile added the same; other models' entries stay."""
    with _exclusive(lock):
        entries = read_lock(lock)
        known = entries.get(model)
        if known:
            _require_same_source(model, known, entry.source, entry.requested, lock)
            _require_locked(model, known.files, entry.files, {}, lock)
            return
        entries[model] = entry
        plain = {name: asdict(value) for name, value in entries.items()}
        with written_whole(lock) as partial:
            partial.write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _require_same_source(model: str, entry: Locked, source: str, requested: str, lock: Path) -> None:
    if entry.source != source or (entry.requested or requested) != requested:
        raise BadInput(
            f"{lock}: {model} is locked to {entry.source} {entry.requested}, the model registry says {source}"
            f" {requested}; delete the entry of {model} from {lock} if the change is meant"
        )


def _first_difference(expected: dict[str, str], found: dict[str, str]) -> str:
    """The first name that only one of them has or whose digests differ; empty if there is none."""
    return min((name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)), default="")


def _require_locked(
    model: str, expected: dict[str, str], found: dict[str, str], paths: dict[str, Path], lock: Path
) -> None:
    name = _first_difference(expected, found)
    if name:
        where = paths[name].resolve() if name in paths else name
        raise BadInput(
            f"{where}: {name} of {model} has SHA-256 {found.get(name, 'of no file')}, {lock} says"
            f" {expected.get(name, 'no such file')}; restore the file or delete that copy, or delete the entry of"
            f" {model} from {lock} if the change is meant"
        )


def _is_weights(name: str) -> bool:
    return name == WEIGHTS_INDEX or name.endswith(".safetensors")


def _needed(names: set[str], read: Callable[[str], Path], facts: ModelFacts) -> list[str]:
    """The files of a checkpoint that decide a result; `read` gives the path of one of `names`.

    Weights are safetensors in one file or in shards, pickled ones only where there are no others.

    Raises:
        BadInput: there is no config or no weights, or the index of shards names what is not there.
    """
    where = facts.hub or facts.path
    if CONFIG not in names:
        raise BadInput(f"{where}: no {CONFIG} of {facts.id}; name a checkpoint in the format of transformers")
    weights = next((name for name in (WEIGHTS, WEIGHTS_INDEX, PICKLED, PICKLED_INDEX) if name in names), None)
    if weights is None:
        raise BadInput(
            f"{where}: neither {WEIGHTS} nor {PICKLED}, nor shards of either; name a checkpoint with weights"
        )
    shards = _shards(read(weights), where) if weights in (WEIGHTS_INDEX, PICKLED_INDEX) else set()
    suffix = ".safetensors" if weights in (WEIGHTS, WEIGHTS_INDEX) else ".bin"
    for shard in sorted(shards):
        if shard not in names or not PLAIN_NAME.fullmatch(shard) or not shard.endswith(suffix):
            raise BadInput(f"{where}: {weights} names the shard {shard!r}, which the checkpoint lacks; complete it")
    code = {name for name in names if name.endswith(".py")} if facts.family == "remote-code" else set()
    return sorted({CONFIG, weights, *shards, *code, *(name for name in TOKENISER if name in names)})


def _shards(index: Path, where: object) -> set[str]:
    try:
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{where}: {index.name} is no index of shards ({error}); restore the file") from error
    if not shards or not all(isinstance(shard, str) for shard in shards):
        raise BadInput(f"{where}: {index.name} is no index of shards (no file is named); restore the file")
    return shards


def _from_folder(facts: ModelFacts) -> dict[str, Path]:
    """Absolute path of each needed file of a checkpoint's folder, by name."""
    folder = facts.path.absolute()
    if not folder.is_dir():
        raise BadInput(
            f"{facts.path}: no such folder; expected the checkpoint of {facts.id}; check path in the registry"
        )
    names = {path.name for path in folder.iterdir() if path.is_file() and PLAIN_NAME.fullmatch(path.name)}
    return {name: folder / name for name in _needed(names, folder.joinpath, facts)}


def _from_package(facts: ModelFacts) -> tuple[str, dict[str, Path]]:
    """Version of the installed package, and the absolute path of its file of weights, by name."""
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    package, _, place = facts.package.partition("/")
    spec = find_spec(package)
    try:
        installed = version(package)
    except PackageNotFoundError:
        installed = ""
    if spec is None or not spec.submodule_search_locations or not installed:
        raise BadInput(
            f"{facts.package}: the Python package {package} is not installed, and the weights of {facts.id} are in it;"
            " install it in the environment of this job"
        )
    path = Path(next(iter(spec.submodule_search_locations))).absolute() / place
    if not path.is_file() or not PLAIN_NAME.fullmatch(path.name):
        raise BadInput(
            f"{path}: {package} {installed} has no such file; expected the weights of {facts.id}; correct package in"
            " the model registry"
        )
    return installed, {path.name: path}


def _from_hub(facts: ModelFacts, entry: Locked | None, output: Path) -> tuple[str, dict[str, Path], dict[str, str]]:
    """The commit; by name, the path in the hub's cache of each needed file; and the SHA-256 of those the hub gives one.

    What the cache lacks is downloaded. With all of it there, and a lock to say what all is, the hub is not asked.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    def cached(name: str, commit: str) -> Path | None:
        path = try_to_load_from_cache(facts.hub, name, revision=commit)
        return Path(path) if isinstance(path, str) else None

    if entry:
        paths = {name: path for name in entry.files if (path := cached(name, entry.revision))}
        code = facts.family != "remote-code" or any(name.endswith(".py") for name in paths)
        if code and len(paths) == len(entry.files):
            names = _needed(set(paths), paths.__getitem__, facts)
            return entry.revision, {name: paths[name] for name in names}, {}

    cache = Path(constants.HF_HUB_CACHE)
    with _hub_errors(facts, cache):
        commit, listing = _list_hub(facts, entry.revision if entry else facts.revision)
    for name in listing:
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or not name.isprintable():
            raise BadInput(f"{facts.hub}: the hub lists a file {name!r}, which lies outside its folder; do not use it")

    def download(name: str) -> Path:
        with _hub_errors(facts, cache):
            return Path(hf_hub_download(facts.hub, name, revision=commit))

    names = _needed({name for name in listing if PLAIN_NAME.fullmatch(name)}, download, facts)
    missing = [name for name in names if not cached(name, commit)]
    _require_space(facts.id, {name: listing[name][0] for name in names}, missing, cache, output.parent)
    paths = {name: download(name) for name in names}
    return commit, paths, {name: listing[name][1] for name in names if listing[name][1]}


def _list_hub(facts: ModelFacts, revision: str) -> tuple[str, dict[str, tuple[int, str]]]:
    """The commit of a revision, and of each file the size in bytes and the hub's SHA-256 ("" for those outside LFS)."""
    from huggingface_hub import HfApi, constants

    info = HfApi().model_info(
        facts.hub, revision=revision, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
    )
    if not COMMIT.fullmatch(info.sha or "") or not info.siblings:
        raise ValueError(f"no commit or no files, but {info.sha!r}")
    if COMMIT.fullmatch(revision) and info.sha != revision:
        raise ValueError(f"asked for commit {revision}, it gave {info.sha}")
    return info.sha, {file.rfilename: (file.size or 0, file.lfs.sha256 if file.lfs else "") for file in info.siblings}


@contextmanager
def _hub_errors(facts: ModelFacts, cache: Path) -> Iterator[None]:
    """Turn what the hub's library raises into a sentence that says what to do."""
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    try:
        cache.mkdir(parents=True, exist_ok=True)
        with full_disk_named(cache):
            yield
    except (HTTPError, OfflineModeIsEnabled, OSError, RuntimeError) as error:  # RuntimeError: its fast transfer's
        raise _refusal(error, facts, cache) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{facts.hub}: HF_ENDPOINT does not answer like a model hub ({_short(error)}); check it and the proxy"
        ) from error


def _refusal(error: Exception, facts: ModelFacts, cache: Path) -> BadInput:
    """The sentence for an error of the hub's library."""
    from huggingface_hub import constants, errors

    hub, endpoint = facts.hub, constants.ENDPOINT
    if constants.is_offline_mode():
        return BadInput(
            f"{hub}: HF_HUB_OFFLINE is set, and {cache} lacks files of {facts.id} or models.lock its entry; fetch it"
            " once with a network"
        )
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, errors.HfHubHTTPError):
        error = error.__cause__  # it means no more than that the cache has no such file either
    if isinstance(error, errors.GatedRepoError):
        return BadInput(f"{hub}: access is restricted; ask for it at {endpoint}/{hub}, then set HF_TOKEN")
    if isinstance(error, errors.RevisionNotFoundError):
        return BadInput(f"{hub}: the hub has no revision {facts.revision!r}; correct it in the model registry")
    if isinstance(error, errors.RepositoryNotFoundError):
        return BadInput(
            f"{hub}: {endpoint} has no such repository, or a private one; correct hub in the model registry, or set"
            " HF_TOKEN"
        )
    if isinstance(error, errors.HfHubHTTPError):
        code = error.response.status_code
        if code in (401, 403):
            return BadInput(f"{hub}: {endpoint} refused access (HTTP {code}); check hub in the registry, and HF_TOKEN")
        if code == 404:
            path = error.response.request.url.path
            return BadInput(f"{hub}: {endpoint} lacks {path} (HTTP 404); correct hub in the model registry")
        return BadInput(f"{hub}: {endpoint} answered with HTTP {code}; try again later")
    if isinstance(error, errors.HTTPError | errors.LocalEntryNotFoundError):
        return BadInput(f"{hub}: {endpoint} cannot be reached ({_short(error)}); check network, proxy and HF_ENDPOINT")
    if isinstance(error, PermissionError):
        return BadInput(f"{hub}: {cache} cannot be written ({_short(error)}); set HF_HOME to another folder")
    return BadInput(f"{hub}: the download failed ({_short(error)}); run again, complete files are kept")


def _short(error: BaseException) -> str:
    """The first cause of an error on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:200] or type(error).__name__


def _require_space(model: str, sizes: dict[str, int], missing: list[str], cache: Path, parent: Path) -> None:
    """Stop before a download that would fill a disk. `sizes` (bytes) has all files, `missing` names those to download.

    Beside the cache lies what is no hard link to it: small files, converted weights, and all on another file system.
    """
    linked = cache.stat().st_dev == parent.stat().st_dev
    placed = sum(size for name, size in sizes.items() if not (linked and name.endswith(".safetensors")))
    downloaded = sum(sizes[name] for name in missing)
    wanted = {cache: downloaded + placed} if linked else {cache: downloaded, parent: placed}
    for folder, size in wanted.items():
        free = shutil.disk_usage(folder).free
        if size > free:
            raise BadInput(
                f"{folder}: {model} takes {size} bytes, {free} are free; free some, or set HF_HOME to a larger disk"
            )


def _require_listed(facts: ModelFacts, listed: dict[str, str], digests: dict[str, str], paths: dict[str, Path]) -> None:
    """Stop if a file differs from the SHA-256 that the hub itself lists."""
    for name in sorted(listed):
        if digests[name] != listed[name]:
            raise BadInput(
                f"{paths[name].resolve()}: {name} of {facts.id} has SHA-256 {digests[name]}, the hub lists"
                f" {listed[name]}; delete that copy and run again"
            )


def _require_registered(facts: ModelFacts, digests: dict[str, str], paths: dict[str, Path]) -> None:
    """Stop if the weights are not those whose SHA-256 the registry has."""
    name = next(iter(paths)) if facts.package else WEIGHTS
    found = digests.get(name, "of no file")
    if facts.digest and found != facts.digest:
        raise BadInput(
            f"{paths.get(name, name)}: SHA-256 is {found}, the registry says {facts.digest}; restore the file, or"
            " register the new weights under a name of their own"
        )


def _require_own_code(facts: ModelFacts, paths: dict[str, Path]) -> None:
    """Stop if a checkpoint wants code of another repository (`owner/name--file.Class`), which nothing here pins."""
    if facts.family != "remote-code":
        return
    for name in sorted({CONFIG, "tokenizer_config.json"} & paths.keys()):
        try:
            named = json.dumps(json.loads(paths[name].read_text(encoding="utf-8")).get("auto_map", {}))
        except (ValueError, AttributeError) as error:
            raise BadInput(f"{paths[name]}: no JSON object ({error}); name another checkpoint") from error
        if "--" in named:
            raise BadInput(
                f"{paths[name]}: the code is to come from another repository ({named}), which nothing pins; put all of"
                " it into one folder and name that as path"
            )


def _require_whole(model: str, paths: dict[str, Path]) -> None:
    """A cut file would be locked as it is, and then be right for ever."""
    from safetensors import SafetensorError, safe_open

    for name, path in paths.items():
        if name.endswith(".safetensors"):
            try:
                with safe_open(path, framework="numpy"):
                    continue
            except (SafetensorError, OSError) as error:
                raise BadInput(
                    f"{path}: the weights of {model} are cut or damaged ({error}); copy or download the file again"
                ) from error


def _fill(staging: Path, fetched: Manifest, paths: dict[str, Path], copy: bool) -> Manifest:
    """Put a checkpoint's files and its manifest into an empty folder.

    Files of a path become symbolic links: no copy of gigabytes, and a later edit is seen by `verify`. Those of a hub
    must outlive its cache and must not be edited through it: weights are hard links where the file system allows it,
    the small files that people edit are copies.
    """
    linked = Path.symlink_to if fetched.source == "path" else _hard_link
    files, converted = {}, {}
    for name, path in paths.items():
        if fetched.source.startswith(PACKAGE):
            target = WEIGHTS
            _convert_packaged(path, staging)
            converted[name] = fetched.files[name]
            files[CONFIG] = sha256(staging / CONFIG)
        elif name.endswith(".bin"):
            target = _safetensors_name(name)
            convert_pickled(path, staging / target)
            converted[name] = fetched.files[name]
        elif name == PICKLED_INDEX:
            target = WEIGHTS_INDEX
            _convert_index(path, staging / target)
            converted[name] = fetched.files[name]
        else:
            if copy or not (fetched.source == "path" or _is_weights(name)):
                shutil.copyfile(path, staging / name)
            else:
                linked(staging / name, path)
            files[name] = fetched.files[name]
            continue
        files[target] = sha256(staging / target)
    manifest = Manifest(fetched.model, fetched.source, fetched.revision, files, files_digest(files), converted)
    text = json.dumps(asdict(manifest), indent=2, sort_keys=True)
    (staging / MANIFEST).write_text(f"{text}\n", encoding="utf-8")
    return manifest


def _hard_link(target: Path, source: Path) -> None:
    try:
        target.hardlink_to(source.resolve())
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _safetensors_name(pickled: str) -> str:
    """Name of what a pickled file becomes: pytorch_model-00001-of-00002.bin gives model-00001-of-00002.safetensors."""
    return f"{Path(pickled).stem.removeprefix('pytorch_')}.safetensors"


def _convert_index(source: Path, target: Path) -> None:
    index = json.loads(source.read_text(encoding="utf-8"))
    index["weight_map"] = {tensor: _safetensors_name(shard) for tensor, shard in index["weight_map"].items()}
    target.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def convert_pickled(source: Path, target: Path) -> None:
    """Write the tensors of a `pytorch_model*.bin` as safetensors. The same input gives the same bytes.

    Tensors that share memory, such as tied embeddings, are written once each, since safetensors knows no aliases.

    Raises:
        BadInput: the file holds anything but named tensors, or is damaged.
    """
    _write_tensors(_read_pickled(source), target, source)


def _convert_packaged(source: Path, folder: Path) -> None:
    """Write the weights and the settings of a package's file as model.safetensors and config.json.

    Raises:
        BadInput: the file is no dictionary of a network's state and plain settings, or is damaged.
    """
    content = _read_pickled(source)
    state = content.pop(STATE, None) if isinstance(content, dict) else None
    plain = state is not None and all(isinstance(value, str | int | float | bool) for value in content.values())
    if not plain:
        raise BadInput(
            f"{source.name}: expected {STATE} with settings that are numbers or words beside it; use another checkpoint"
        )
    _write_tensors(state, folder / WEIGHTS, source)
    (folder / CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read_pickled(source: Path):
    """What a file of PyTorch holds: tensors, numbers, words and containers of these, and nothing else."""
    import torch

    try:
        # A file of PyTorch before 1.6 is no zip archive and cannot be mapped into memory.
        return torch.load(source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
    except Exception as error:  # the restricted reader raises all kinds of errors on damaged or hostile input
        raise BadInput(
            f"{source.name}: cannot be read as tensors alone ({_short(error)}); it is damaged or holds code, use"
            " another checkpoint"
        ) from error


def _write_tensors(state: object, target: Path, source: Path) -> None:
    import torch
    from safetensors.torch import save_file

    if not isinstance(state, dict) or not state:
        raise BadInput(f"{source.name}: holds no named tensors but a {type(state).__name__}; use another checkpoint")
    tensors, storages = {}, set()
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
            raise BadInput(f"{source.name}: {name!r} is no dense tensor; use another checkpoint")
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.detach().clone() if storage in storages else tensor.detach().contiguous()
        storages.add(storage)
    save_file(tensors, target, metadata={"format": "pt"})


def _earlier_fetch(output: Path) -> list[Path]:
    """The files of an earlier fetch in `output`; anything else in there stops the fetch, since it would be deleted."""
    if not output.exists():
        return []
    paths = list(output.iterdir()) if output.is_dir() else [output]
    for path in paths:
        known = path.name in (MANIFEST, CONFIG, *TOKENISER) or _is_weights(path.name) or path.suffix == ".py"
        if not known or output == path:
            raise BadInput(f"{path}: no file of a fetched model, so {output} is not replaced; name another folder")
    return paths


def _replace(output: Path, staging: Path) -> None:
    """Rename the complete folder; the earlier one goes first, so that there is no mixture of both."""
    earlier = _earlier_fetch(output)
    for path in sorted(earlier, key=lambda path: path.name != MANIFEST):  # without a manifest it counts as absent
        path.unlink()
    if output.exists():
        output.rmdir()
    staging.rename(output)
