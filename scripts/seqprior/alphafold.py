"""Where the structure of a protein is: in folders of predictions, or in AlphaFold DB, from which it is fetched.

Folders are searched by name: a file, or the folder it lies in, has the UniProt accession, a gene, a transcript or the
protein's own name among its words. Fetched files are kept in a cache that cohorts share, each with a record of its
SHA-256, and are complete or absent.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from seqprior.columns import STRUCTURES, ProteinReason
from seqprior.errors import BadInput
from seqprior.files import full_disk_named, sha256, written_whole
from seqprior.structures import best_chain, parse_chains, read_chains

if TYPE_CHECKING:
    import pandas as pd

ALPHAFOLD_DB = "alphafold_db"
# https://www.uniprot.org/help/accession_numbers, with the number of an isoform.
ACCESSION = re.compile(r"(?:[OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2})(?:-[0-9]+)?")
SUFFIX = re.compile(r"\.(cif|mmcif|pdb|ent)(\.gz)?$", re.IGNORECASE)
FRAGMENT_LENGTH = 1400  # residues; AlphaFold DB cuts proteins of more than 2,700 into fragments of this length
ATTEMPTS = 5
FIRST_WAIT = 1.0  # seconds before the second attempt, doubled before each further one
LONGEST_WAIT = 60.0
TIMEOUT = (20.0, 120.0)  # seconds to connect, and without a byte
CONNECTIONS = 4
SUSPICIOUS = 10  # accessions; if none of so many has a model, the address or version is likely wrong
WORD = re.compile(r"[A-Za-z0-9]+")
PERHAPS_TEMPORARY = (408, 425, 429, 500, 502, 503, 504)

# How the programs name their files, without the suffix; `name` is what the user called the protein.
_DATABASE = re.compile(r"AF-(?P<accession>[A-Z0-9]+(?:-[0-9]+)?)-F(?P<fragment>[0-9]+)(?:-model_v(?P<version>[0-9]+))?")
_ALPHAFOLD2 = re.compile(r"ranked_(?P<rank>[0-9]+)|(?P<kind>relaxed|unrelaxed)_model_.+")
_COLABFOLD = re.compile(r"(?P<name>.+)_(?P<kind>relaxed|unrelaxed)_rank_0*(?P<rank>[0-9]+)(?P<rest>_.+)?")
_SERVER = re.compile(r"fold_(?P<name>.+)_model_(?P<rank>[0-9]+)")
_ALPHAFOLD3 = re.compile(r"(?P<name>.+?)(?P<sample>_seed-[0-9]+_sample-[0-9]+)?_model")
_SAMPLE = re.compile(r"seed-[0-9]+_sample-[0-9]+")


@dataclass(frozen=True)
class Found:
    """A structure in a folder.

    Attributes:
        path: file. source: alphafold_db, alphafold2, alphafold3, colabfold or folder. version: of AlphaFold DB.
        accession: of AlphaFold DB, else empty. words: lists of lower-case words by which it may be found.
        group: equal for files of one prediction. preference: within a group; smaller is better.
    """

    path: Path
    source: str
    version: str = ""
    accession: str = ""
    words: tuple[tuple[str, ...], ...] = ()
    group: tuple = ()
    preference: tuple = ()


@dataclass
class Folders:
    """The structures of some folders, by accession and by word.

    Args:
        version: of AlphaFold DB, preferred where a mirror has several.
    """

    version: int
    by_accession: dict[str, list[Found]] = field(default_factory=dict)
    by_word: dict[str, list[Found]] = field(default_factory=dict)

    def add(self, folder: Path) -> None:
        """Look through a folder and all below it.

        Raises:
            BadInput: it is none, has no structure, cannot be read, or a file's name cannot stand in a table.
        """
        if not folder.is_dir():
            raise BadInput(f"{folder}: no such folder of structures; check protein.structures.folders in the config")
        groups: dict[tuple, list[Found]] = {}
        for path in _files(folder):
            found = _classified(path, self.version)
            if found:
                if any(sign in "\t\n\r" or "\ud800" <= sign <= "\udfff" for sign in str(path)):
                    raise BadInput(f"{str(path)!r}: a tab, line end or no UTF-8 in the name of a file; rename it")
                groups.setdefault(found.group, []).append(found)
        if not groups:
            raise BadInput(
                f"{folder}: no structure in the folder; expected files that end in .cif or .pdb, with or without .gz;"
                " check protein.structures.folders in the config"
            )
        for members in groups.values():
            best = min(member.preference for member in members)
            for member in sorted((m for m in members if m.preference == best), key=lambda m: str(m.path)):
                if member.accession:
                    self.by_accession.setdefault(member.accession, []).append(member)
                for words in member.words:
                    for word in set(words):
                        self.by_word.setdefault(word, []).append(member)

    def search(self, accessions: Sequence[str], names: Iterable[str]) -> list[tuple[Found, str]]:
        """Structures that may be of a protein, each with the accession under which it was found, "" by another name.

        The database's model of an isoform is taken before that of the canonical sequence.
        """
        hits: dict[Path, tuple[Found, str]] = {}
        for accession in accessions:
            for known in dict.fromkeys((accession, accession.partition("-")[0])):
                if known in self.by_accession:
                    hits |= {found.path: (found, known) for found in self.by_accession[known]}
                    break
        for name in dict.fromkeys((*accessions, *(name.partition("-")[0] for name in accessions), *names)):
            words = _words(name)
            for found in min((self.by_word.get(word, []) for word in words), key=len, default=[]):
                if any(_contains(known, words) for known in found.words):
                    hits.setdefault(found.path, (found, name if ACCESSION.fullmatch(name) else ""))
        return list(hits.values())


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder in order of their names; links to folders are followed, each folder is entered once."""
    entered: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(place)
        if real in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        paths = (Path(place) / name for name in sorted(names) if SUFFIX.search(name))
        yield from (path for path in paths if path.is_file())  # no pipe, and no link to what is gone


def _refuse(error: OSError) -> None:
    """A folder that cannot be read might hold the structure that is looked for."""
    raise BadInput(f"{error.filename}: cannot be read ({error.strerror}); mend its permissions or remove it") from error


def _words(text: str) -> tuple[str, ...]:
    """Runs of letters and digits in lower case; the programs replace other signs, each in its way."""
    return tuple(word.lower() for word in WORD.findall(text))


def _contains(words: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    length = len(wanted)
    return any(words[place : place + length] == wanted for place in range(len(words) - length + 1))


def _classified(path: Path, version: int) -> Found | None:
    """What a file is by its name; None for a sample of AlphaFold 3 whose best one lies in the folder above."""
    suffix = SUFFIX.search(path.name)
    stem = path.name[: suffix.start()]
    form = (suffix[1].lower() not in ("cif", "mmcif"), suffix[2] is not None)
    parent = path.parent.name
    if match := _DATABASE.fullmatch(stem):
        own = match["version"] or ""
        preference = (own != str(version), -int(own or 0), *form, str(path))
        group = (ALPHAFOLD_DB, match["accession"], match["fragment"])
        return Found(path, ALPHAFOLD_DB, own, match["accession"], (), group, preference)
    if match := _ALPHAFOLD2.fullmatch(stem):
        # One of them is enough: ranked_0 is the best one after relaxation.
        order = (0, int(match["rank"])) if match["rank"] else (("relaxed", "unrelaxed").index(match["kind"]) + 1, 0)
        return Found(path, "alphafold2", "", "", (_words(parent),), ("alphafold2", path.parent), (*order, *form))
    words = (_words(parent),)
    if match := _COLABFOLD.fullmatch(stem):
        group, rank = ("colabfold", path.parent, match["name"]), int(match["rank"])
        preference = (rank, match["kind"] == "unrelaxed", *form)
        return Found(path, "colabfold", "", "", (_words(match["name"]), *words), group, preference)
    if not form[0] and (match := _SERVER.fullmatch(stem)):
        group = ("alphafold3", path.parent, match["name"])
        preference = (int(match["rank"]), *form)
        return Found(path, "alphafold3", "", "", (_words(match["name"]), *words), group, preference)
    if not form[0] and (match := _ALPHAFOLD3.fullmatch(stem)):
        sample = bool(match["sample"])
        place = path.parent
        if _SAMPLE.fullmatch(parent):
            place, words = path.parent.parent, (_words(path.parent.parent.name),)
        group = ("alphafold3", place, match["name"])
        return Found(path, "alphafold3", "", "", (_words(match["name"]), *words), group, (sample, *form))
    return Found(path, "folder", "", "", (_words(stem), *words), ("folder", path.parent, stem), form)


def pae_of(found: Found) -> Path | None:
    """The file of the predicted aligned error that belongs to a structure; None if there is none.

    Raises:
        BadInput: the ranking of AlphaFold 2 cannot be read.
    """
    folder, stem = found.path.parent, SUFFIX.sub("", found.path.name)
    names: list[str] = []
    if found.source == ALPHAFOLD_DB:
        prefix, _, version = stem.partition("-model")
        names = [f"{prefix}-predicted_aligned_error{version}.json"]
    elif found.source == "alphafold2":
        names = [f"pae_{_ranked(folder, stem)}.json"]
    elif found.source == "colabfold":
        match = _COLABFOLD.fullmatch(stem)
        rest = f"rank_{stem.partition('_rank_')[2]}"
        names = [f"{match['name']}_scores_{rest}.json"]
        if match["rank"] == "1":
            names.append(f"{match['name']}_predicted_aligned_error_v1.json")
    elif found.source == "alphafold3":
        server = _SERVER.fullmatch(stem)
        names = [f"{stem.removesuffix('_model')}_confidences.json"]
        if server:
            names = [f"fold_{server['name']}_full_data_{server['rank']}.json"]
    else:
        names = [f"{stem}{ending}" for ending in ("-predicted_aligned_error.json", "_predicted_aligned_error.json")]
        names += [f"{stem}_pae.json", f"{stem}.pae.json"]
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def _ranked(folder: Path, stem: str) -> str:
    """AlphaFold 2's name of the network and seed behind a file; ranking_debug.json has them in the order of rank."""
    match = _ALPHAFOLD2.fullmatch(stem)
    ranking = folder / "ranking_debug.json"
    if match["kind"]:
        return stem.partition("relaxed_")[2]
    if not ranking.is_file():
        return ""
    try:
        return str(json.loads(ranking.read_text(encoding="utf-8"))["order"][int(match["rank"])])
    except (ValueError, LookupError, TypeError) as error:
        raise BadInput(
            f"{ranking}: no ranking of AlphaFold 2 ({type(error).__name__}: {error}); restore or remove the file"
        ) from error


@dataclass
class Database:
    """AlphaFold DB behind an address, with a cache.

    Attributes:
        address: of its files, without a slash at the end. version: of its models. cache: folder.
        attempts, wait: how often a request is made, and seconds before the second one, which double each time.
    """

    address: str
    version: int
    cache: Path
    attempts: int = ATTEMPTS
    wait: float = FIRST_WAIT
    _own: threading.local = field(default_factory=threading.local, repr=False)

    def models(self, accession: str, length: int) -> list[tuple[str, Path, Path | None]]:
        """Accession, structure and predicted aligned error of each fragment of a protein's model; none if it has none.

        Args:
            accession: of UniProt; for one of an isoform that has no model, the canonical one's is taken.
            length: residues of the protein. Fragments after the first are asked for only if there can be any.

        Raises:
            BadInput: the address does not answer, or not with such files; a cached file was changed.
        """
        for known in dict.fromkeys((accession, accession.partition("-")[0])):
            models: list[tuple[str, Path, Path | None]] = []
            while not models or length > FRAGMENT_LENGTH:
                name = f"AF-{known}-F{len(models) + 1}"
                structure = self._file(f"{name}-model_v{self.version}.cif", _is_cif)
                if structure is None:
                    break
                error = self._file(f"{name}-predicted_aligned_error_v{self.version}.json", _is_json)
                models.append((known, structure, error))
            if models:
                return models
        return []

    def _file(self, name: str, is_complete) -> Path | None:
        """A file from the cache or the address; None if the address has no such file."""
        path = self.cache / ALPHAFOLD_DB / f"v{self.version}" / name
        record = path.with_name(f"{name}.sha256")
        if _checked(path, record):
            return path
        content = self._answer(f"{self.address.rstrip('/')}/{name}", is_complete)
        if content is None:
            return None
        with full_disk_named(self.cache), _alone(self.cache):
            if not _checked(path, record):  # unless another run was faster
                try:
                    with written_whole(path) as partial:
                        partial.write_bytes(content)
                    with written_whole(record) as partial:
                        partial.write_text(f"{sha256(path)}  {name}\n", encoding="ascii")
                except OSError as error:
                    raise _not_writable(self.cache, error) from error
        return path

    def _answer(self, url: str, is_complete) -> bytes | None:
        """What an address has; None if it has nothing there (404)."""
        import requests

        if not hasattr(self._own, "session"):
            self._own.session = requests.Session()  # keeps its connection, and threads cannot share one
            self._own.session.headers["User-Agent"] = "seqprior"
        session = self._own.session
        problem: object = ""
        for attempt in range(self.attempts):
            delay = min(self.wait * 2 ** (attempt - 1), LONGEST_WAIT) if attempt else 0.0
            time.sleep(delay)
            try:
                with session.get(url, timeout=TIMEOUT) as answer:
                    if answer.status_code == 404:
                        return None
                    content = answer.content
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, ValueError) as error:
                problem = error
                break
            except requests.RequestException as error:  # no answer, or one that was cut
                problem = error
                continue
            if answer.status_code == 200 and is_complete(content):
                return content
            problem = f"HTTP status {answer.status_code}"
            if answer.status_code == 200:
                problem = "the answer is no complete file of AlphaFold DB"
            elif answer.status_code not in PERHAPS_TEMPORARY:
                break
        reason = getattr(problem, "reason", None) or problem
        raise BadInput(f"{url}: the download failed ({reason}); check the address and the network")


def _is_cif(content: bytes) -> bool:
    """Whether bytes are a complete structure. What is not must not enter the cache: there it would count as right."""
    try:
        parse_chains(content.decode("utf-8", errors="replace"), Path())
    except BadInput:
        return False
    return content.lstrip().startswith(b"data_")


def _is_json(content: bytes) -> bool:
    return content.lstrip()[:1] in (b"[", b"{") and content.rstrip()[-1:] in (b"]", b"}")


def _checked(path: Path, record: Path) -> bool:
    """Whether a fetched file is there, with its record.

    Raises:
        BadInput: its bytes are not those that were fetched.
    """
    if not path.is_file() or not record.is_file():  # a fetch that was stopped between the two starts anew
        return False
    expected, found = record.read_text(encoding="ascii", errors="replace").split()[:1], sha256(path)
    if expected != [found]:
        raise BadInput(
            f"{path}: SHA-256 is {found}, fetched was {''.join(expected) or 'nothing'}; delete the file and"
            f" {record.name} to fetch it anew"
        )
    return True


def _not_writable(cache: Path, error: OSError) -> BadInput:
    return BadInput(f"{cache}: cannot be written to ({error}); name another protein.structures.cache")


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Let one process at a time add a file to the cache, so that a file and its record are of one fetch."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        guard = (cache / ".guard").open("w")
    except OSError as error:
        raise _not_writable(cache, error) from error
    with guard:
        try:
            fcntl.flock(guard, fcntl.LOCK_EX)
        except OSError as error:
            raise BadInput(f"{guard.name}: the file system offers no locks ({error}); work on another one") from error
        yield


def find_structures(
    proteins: pd.DataFrame, folders: Sequence[Path], database: Database | None, version: int
) -> pd.DataFrame:
    """Where the structure of each protein is: in a folder, else in the database, else nowhere and why.

    A structure counts as found only if a chain of it is that of the protein (`structures.align`). All that a folder has
    for a protein are listed; `structure_features.describe_protein` takes the best.

    Args:
        proteins: table of `columns.PROTEINS`. version: of AlphaFold DB, preferred in a mirror of it.

    Returns:
        Table of `columns.STRUCTURES`, text, at least one row for each protein in their order; `path` is empty where
        `reason` is not.

    Raises:
        BadInput: a folder has no structure, a file is damaged, the database cannot be reached, or it has no model for
        any of many accessions.
    """
    import pandas as pd

    local = Folders(version)
    for folder in folders:
        local.add(Path(folder))
    rows: dict[str, list[dict[str, str]]] = {}
    missing: list[Mapping[str, str]] = []
    for protein in proteins.to_dict("records"):
        names = [name for column in ("transcripts", "genes") for name in protein[column].split(",") if name]
        names += [name.rpartition(".")[0] for name in names if re.fullmatch(r".+\.[0-9]+", name)]
        hits = local.search(_accessions(protein), [*names, protein["protein"]])
        listed = [
            _row(protein, accession, found.source, found.version, found.path, pae_of(found))
            for found, accession in hits
        ]
        if _of_protein(protein, listed):
            rows[protein["protein"]] = listed
        else:
            missing.append(protein)
            reason = ProteinReason.STRUCTURE_OF_OTHER_PROTEIN if listed else ProteinReason.NO_STRUCTURE
            rows[protein["protein"]] = [_without(protein, reason)]
    if database:
        rows |= _from_database(missing, rows, database)
    found = sum(any(row["path"] for row in rows[protein]) for protein in proteins["protein"])
    logging.info("structures are there for %d of %d proteins", found, len(proteins))
    listed = [row for protein in proteins["protein"] for row in rows[protein]]
    return pd.DataFrame(listed, columns=list(STRUCTURES), dtype=str)


def _accessions(protein: Mapping[str, str]) -> list[str]:
    """A protein's UniProt accessions; whatever else stands there is reported and left out."""
    accessions = []
    for name in filter(None, (part.strip() for part in protein["accessions"].split(","))):
        if ACCESSION.fullmatch(name):
            accessions.append(name)
        else:
            logging.warning("%s: no UniProt accession: %r; correct it in protein.uniprot", protein["genes"], name)
    return accessions


def _from_database(
    proteins: Sequence[Mapping[str, str]], before: Mapping[str, list[dict[str, str]]], database: Database
) -> dict[str, list[dict[str, str]]]:
    """Rows of proteins that no folder has; `before` has theirs so far."""
    lengths: dict[str, int] = {}
    for protein in proteins:
        for accession in _accessions(protein):
            lengths[accession] = max(lengths.get(accession, 0), len(protein["sequence"]))
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        try:
            models = dict(zip(lengths, pool.map(database.models, lengths, lengths.values()), strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if len(models) >= SUSPICIOUS and not any(models.values()):
        raise BadInput(
            f"{database.address}: no model of version {database.version} for any of {len(models)} accessions; check"
            " protein.structures.alphafold_db and version in the config"
        )
    rows = {}
    for protein in proteins:
        accessions = _accessions(protein)
        listed = [
            _row(protein, known, ALPHAFOLD_DB, str(database.version), path, error)
            for accession in accessions
            for known, path, error in models[accession]
        ]
        # The same model answers for several isoforms.
        listed = list({row["path"]: row for row in listed}.values())
        if _of_protein(protein, listed):
            rows[protein["protein"]] = listed
            continue
        reason = ProteinReason(before[protein["protein"]][0]["reason"])
        if listed:
            reason = ProteinReason.STRUCTURE_OF_OTHER_PROTEIN
        elif not accessions and reason == ProteinReason.NO_STRUCTURE:
            reason = ProteinReason.NO_ACCESSION
        elif accessions:
            logging.warning(
                "%s: %s has no model of version %d for %s",
                *(protein["genes"], database.address, database.version, ", ".join(accessions)),
            )
        rows[protein["protein"]] = [_without(protein, reason)]
    return rows


def _of_protein(protein: Mapping[str, str], rows: Sequence[Mapping[str, str]]) -> bool:
    """Whether any file is of the protein; they are read until one is."""
    for row in rows:
        _, found = best_chain(read_chains(Path(row["path"])), protein["sequence"])
        if found.of_same_protein:
            return True
    if rows:
        logging.warning(
            "%s: structure of another protein than %s: %.0f %% of the aligned residues and %.0f %% of the shorter "
            "sequence agree; it is not used",
            *(rows[-1]["path"], protein["genes"], 100 * found.identity, 100 * found.share),
        )
    return False


def _row(
    protein: Mapping[str, str], accession: str, source: str, version: str, path: Path, pae: Path | None
) -> dict[str, str]:
    values = (protein["protein"], accession, source, version, str(path), sha256(path), str(pae or ""), "")
    return dict(zip(STRUCTURES, values, strict=True))


def _without(protein: Mapping[str, str], reason: ProteinReason) -> dict[str, str]:
    first = next((name for name in protein["accessions"].split(",") if ACCESSION.fullmatch(name)), "")
    return dict(zip(STRUCTURES, (protein["protein"], first, "", "", "", "", "", str(reason)), strict=True))
