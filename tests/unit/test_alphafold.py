"""Structures are found in folders and in AlphaFold DB, fetched once and whole, and checked at each use."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from protein_builder import SEQUENCE, cif_text, globule, write

from seqprior.alphafold import SUSPICIOUS, Database, Folders, find_structures, pae_of
from seqprior.columns import PROTEINS, STRUCTURES
from seqprior.errors import BadInput
from seqprior.files import sha256
from seqprior.residues import AMINO_ACIDS, protein_id

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "fetch_structures.py"
OTHER = SEQUENCE[::-1]
PAE = json.dumps([{"predicted_aligned_error": [[1] * 60] * 60}])


def random_protein(length: int, seed: int = 1) -> str:
    generator = random.Random(seed)
    return "".join(generator.choice(AMINO_ACIDS) for _ in range(length))


def proteins_of(*rows: dict[str, str]) -> pd.DataFrame:
    plain = {"sequence": SEQUENCE, "transcripts": "", "genes": "", "accessions": ""}
    full = [plain | row | {"protein": protein_id(row.get("sequence", SEQUENCE))} for row in rows]
    return pd.DataFrame(full)[list(PROTEINS)]


def names_found(folder: Path, accessions=(), names=(), version: int = 6) -> set[str]:
    folders = Folders(version)
    folders.add(folder)
    return {str(found.path.relative_to(folder)) for found, _ in folders.search(list(accessions), list(names))}


def filled(folder: Path, *names: str) -> Path:
    for name in names:
        write(folder / name, "x")
    return folder


# Folders

LAYOUTS = {
    "mirror of AlphaFold DB": (
        ("AF-P04637-F1-model_v4.cif.gz", "AF-P04637-F1-predicted_aligned_error_v4.json.gz"),
        ("AF-P04637-F1-confidence_v4.json", "AF-P04638-F1-model_v4.cif.gz"),
    ),
    "mirror in folders": (("46/37/AF-P04637-F1-model_v4.pdb", ""), ()),
    "AlphaFold 2": (
        ("P04637/ranked_0.pdb", "P04637/pae_model_2_ptm_pred_0.json"),
        ("P04637/ranked_1.pdb", "P04637/relaxed_model_2_ptm_pred_0.pdb", "P04637/unrelaxed_model_1_ptm_pred_0.pdb"),
    ),
    "AlphaFold 2, relaxed only": (
        ("P04637/relaxed_model_1_ptm_pred_0.pdb", "P04637/pae_model_1_ptm_pred_0.json"),
        ("P04637/unrelaxed_model_1_ptm_pred_0.pdb",),
    ),
    "AlphaFold 3": (
        ("p04637/p04637_model.cif", "p04637/p04637_confidences.json"),
        (
            "p04637/p04637_summary_confidences.json",
            "p04637/seed-1_sample-0/p04637_seed-1_sample-0_model.cif",
            "p04637/seed-1_sample-1/p04637_seed-1_sample-1_model.cif",
        ),
    ),
    "AlphaFold server": (
        ("fold_p04637/fold_p04637_model_0.cif", "fold_p04637/fold_p04637_full_data_0.json"),
        ("fold_p04637/fold_p04637_model_1.cif", "fold_p04637/fold_p04637_summary_confidences_0.json"),
    ),
    "ColabFold": (
        (
            "P04637_unrelaxed_rank_001_alphafold2_ptm_model_3_seed_000.pdb",
            "P04637_scores_rank_001_alphafold2_ptm_model_3_seed_000.json",
        ),
        (
            "P04637_unrelaxed_rank_002_alphafold2_ptm_model_1_seed_000.pdb",
            "P04637_predicted_aligned_error_v1.json",
            "P04638_unrelaxed_rank_001_alphafold2_ptm_model_3_seed_000.pdb",
        ),
    ),
    "ColabFold, relaxed": (
        (
            "P04637_relaxed_rank_001_alphafold2_ptm_model_3_seed_000.pdb",
            "P04637_predicted_aligned_error_v1.json",
        ),
        ("P04637_unrelaxed_rank_001_alphafold2_ptm_model_3_seed_000.pdb",),
    ),
    "ESMFold": (("P04637.pdb", ""), ("P046370.pdb", "XP04637.pdb")),
    "anything, mmCIF before PDB": (("my P04637 v2.cif", "my P04637 v2_pae.json"), ("my P04637 v2.pdb",)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_program_s_files_are_found_with_their_predicted_aligned_error(tmp_path, layout):
    (structure, pae), rest = LAYOUTS[layout]
    filled(tmp_path, structure, *([pae] if pae else []), *rest)
    if layout == "AlphaFold 2":
        (tmp_path / "P04637/ranking_debug.json").write_text('{"order": ["model_2_ptm_pred_0", "model_1_ptm_pred_0"]}')
    folders = Folders(4)
    folders.add(tmp_path)
    ((found, accession),) = folders.search(["P04637"], [])
    assert found.path == tmp_path / structure
    assert accession == "P04637"
    assert pae_of(found) == (tmp_path / pae if pae else None)


def test_names_are_whole_words_in_any_case(tmp_path):
    filled(tmp_path, "TP53.pdb", "TP53BP1.pdb", "hla_a/ranked_0.pdb", "ENST00000269305.9.cif", "x/YAL001C_model.cif")
    assert names_found(tmp_path, names=["TP53"]) == {"TP53.pdb"}
    assert names_found(tmp_path, names=["tp53"]) == {"TP53.pdb"}
    assert names_found(tmp_path, names=["HLA-A"]) == {"hla_a/ranked_0.pdb"}
    assert names_found(tmp_path, names=["HLA-B", "HLA-DRA"]) == set()
    assert names_found(tmp_path, names=["ENST00000269305"]) == {"ENST00000269305.9.cif"}
    assert names_found(tmp_path, names=["ENST00000269305.9"]) == {"ENST00000269305.9.cif"}
    assert names_found(tmp_path, names=["YAL001C"]) == {"x/YAL001C_model.cif"}
    assert names_found(tmp_path, names=["F1", "model", "ranked", "cif"]) == set()


def test_a_mirror_is_searched_by_accession_alone(tmp_path):
    """F2 is a gene and part of every second fragment's name."""
    filled(tmp_path, "AF-P00734-F1-model_v6.cif", "AF-P00001-F2-model_v6.cif")
    assert names_found(tmp_path, names=["F2"]) == set()


def test_the_configured_version_is_preferred_and_else_the_latest(tmp_path):
    filled(tmp_path, *(f"AF-P04637-F1-model_v{version}.cif" for version in (3, 4, 6, 10)), "AF-P04637-F1-model_v4.pdb")
    assert names_found(tmp_path, ["P04637"], version=4) == {"AF-P04637-F1-model_v4.cif"}
    assert names_found(tmp_path, ["P04637"], version=5) == {"AF-P04637-F1-model_v10.cif"}


def test_all_fragments_are_found(tmp_path):
    names = {f"AF-Q8WZ42-F{number}-model_v4.cif.gz" for number in range(1, 13)}
    filled(tmp_path, *names)
    assert names_found(tmp_path, ["Q8WZ42"]) == names


def test_the_model_of_an_isoform_goes_before_the_canonical_one(tmp_path):
    filled(tmp_path, "AF-P04637-F1-model_v6.cif", "AF-P04637-2-F1-model_v6.cif")
    assert names_found(tmp_path, ["P04637-2"]) == {"AF-P04637-2-F1-model_v6.cif"}
    assert names_found(tmp_path, ["P04637"]) == {"AF-P04637-F1-model_v6.cif"}
    assert names_found(tmp_path, ["P04637-3"]) == {"AF-P04637-F1-model_v6.cif"}


def test_links_that_lead_back_are_entered_once(tmp_path):
    filled(tmp_path / "a", "P04637.pdb")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    assert names_found(tmp_path, ["P04637"]) == {"a/P04637.pdb"}


def test_what_is_no_file_is_no_structure(tmp_path):
    folder = filled(tmp_path / "f", "gene1.pdb")
    (folder / "gene2.pdb").symlink_to(tmp_path / "gone.pdb")
    os.mkfifo(folder / "gene3.cif")
    assert names_found(folder, names=["gene1", "gene2", "gene3"]) == {"gene1.pdb"}


def test_a_name_that_no_table_can_hold_is_refused(tmp_path):
    folder = filled(tmp_path / "f", "gene1.pdb")
    (folder / os.fsdecode(b"gene2\xff.pdb")).write_text("x")
    with pytest.raises(BadInput, match="no UTF-8 in the name of a file; rename it"):
        names_found(folder)


def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    folder = filled(tmp_path / "f", "gene1.pdb")
    (folder / "closed").mkdir()
    scan = os.scandir

    def closed(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(BadInput, match=r"closed: cannot be read \(Permission denied\)"):
        names_found(folder)


def test_a_folder_without_a_structure_is_refused(tmp_path):
    filled(tmp_path, "readme.txt", "AF-P04637-F1-predicted_aligned_error_v4.json")
    with pytest.raises(BadInput, match="no structure in the folder; expected files that end in .cif or .pdb"):
        Folders(6).add(tmp_path)
    with pytest.raises(BadInput, match="no such folder of structures"):
        Folders(6).add(tmp_path / "none")


def test_a_damaged_ranking_is_refused(tmp_path):
    filled(tmp_path, "P04637/ranked_0.pdb", "P04637/ranking_debug.json")
    folders = Folders(6)
    folders.add(tmp_path)
    with pytest.raises(BadInput, match="no ranking of AlphaFold 2"):
        pae_of(folders.search(["P04637"], [])[0][0])


def test_folders_give_rows_with_checksums_and_others_a_reason(tmp_path):
    mine = write(tmp_path / "s" / "TP53.pdb", globule())
    write(tmp_path / "s" / "BRCA1.pdb", globule())
    table = find_structures(
        proteins_of(
            {"genes": "TP53"}, {"genes": "BRCA1", "sequence": OTHER}, {"genes": "X", "sequence": SEQUENCE[:40] * 2}
        ),
        [tmp_path / "s"],
        None,
        6,
    )
    assert tuple(table.columns) == STRUCTURES
    assert table["path"].tolist() == [str(mine), "", ""]
    assert table["sha256"].tolist() == [sha256(mine), "", ""]
    assert table["source"].tolist() == ["folder", "", ""]
    assert table["reason"].tolist() == ["", "structure_of_other_protein", "no_structure"]


def test_a_damaged_structure_in_a_folder_is_refused(tmp_path):
    write(tmp_path / "TP53.cif", cif_text(globule())[:4000])
    with pytest.raises(BadInput, match="TP53.cif: cannot be read as mmCIF"):
        find_structures(proteins_of({"genes": "TP53"}), [tmp_path], None, 6)


# AlphaFold DB


class Server:
    """AlphaFold DB on the loopback: files by name, with ways to fail."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.files: dict[str, bytes] = {}
        self.failures: dict[str, list[int | str]] = {}  # by file, what its next answers are instead
        self.requests: list[str] = []
        self.gate = threading.Event()
        self.gate.set()

    def add(self, accession: str, sequence: str = SEQUENCE, fragment: int = 1, version: int = 6, seed: int = 7) -> None:
        self.files[f"AF-{accession}-F{fragment}-model_v{version}.cif"] = cif_text(globule(sequence, seed)).encode()
        self.files[f"AF-{accession}-F{fragment}-predicted_aligned_error_v{version}.json"] = PAE.encode()

    def count(self) -> Counter:
        return Counter(self.requests)


@pytest.fixture
def server():
    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        known: Server

        def log_message(self, *_) -> None:
            pass

        def do_GET(self) -> None:
            known, name = self.known, self.path.rpartition("/")[2]
            known.requests.append(name)
            known.gate.wait(20)
            failure = known.failures[name].pop(0) if known.failures.get(name) else None
            body = known.files.get(name, b"<html>Not Found</html>")
            code = 200 if name in known.files else 404
            if isinstance(failure, int):
                code, body = failure, b"<html>later</html>"
            elif failure == "short":  # cut before it reached the server
                body = body[: len(body) // 2]
            elif failure == "page":
                body = b"<html>Please log in</html>"
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if failure == "cut" else body)
            if failure == "cut":
                self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as http:
        http.daemon_threads = True
        Answers.known = Server(f"http://127.0.0.1:{http.server_port}/files")
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        yield Answers.known
        http.shutdown()
        thread.join()


@pytest.fixture
def database(server, tmp_path):
    return Database(server.address, 6, tmp_path / "cache", wait=0.01)


CIF, ERROR = "AF-P04637-F1-model_v6.cif", "AF-P04637-F1-predicted_aligned_error_v6.json"


def test_a_model_is_fetched_once_with_its_predicted_aligned_error(server, database, tmp_path):
    server.add("P04637")
    for _ in range(2):
        ((accession, structure, error),) = database.models("P04637", 60)
        assert accession == "P04637"
        assert structure == tmp_path / "cache" / "alphafold_db" / "v6" / CIF
        assert structure.read_bytes() == server.files[CIF]
        assert error.read_bytes() == server.files[ERROR]
    assert server.count() == {CIF: 1, ERROR: 1}
    assert (structure.parent / f"{CIF}.sha256").read_text() == f"{sha256(structure)}  {CIF}\n"


def test_a_model_without_predicted_aligned_error_is_still_a_model(server, database):
    server.add("P04637")
    del server.files[ERROR]
    assert database.models("P04637", 60)[0][2] is None


@pytest.mark.parametrize(
    "failures", [[500, 503], [429], ["cut", "cut"], ["page"], ["short"], [502, "cut", "page", 500]]
)
def test_passing_failures_are_outlasted(server, database, failures):
    server.add("P04637")
    server.failures[CIF] = list(failures)
    ((_, structure, _),) = database.models("P04637", 60)
    assert structure.read_bytes() == server.files[CIF]
    assert server.count()[CIF] == len(failures) + 1


@pytest.mark.parametrize(
    ("failure", "attempts", "message"),
    [
        (500, 5, "the download failed .HTTP status 500.; check the address and the network"),
        (403, 1, "the download failed .HTTP status 403."),
        ("cut", 5, "the download failed .*IncompleteRead"),
        ("short", 5, "the answer is no complete file of AlphaFold DB"),
        ("page", 5, "the answer is no complete file of AlphaFold DB"),
    ],
)
def test_a_lasting_failure_is_an_error_and_leaves_nothing(server, database, tmp_path, failure, attempts, message):
    server.add("P04637")
    server.failures[CIF] = [failure] * 9
    with pytest.raises(BadInput, match=message) as raised:
        database.models("P04637", 60)
    assert f"{server.address}/{CIF}" in str(raised.value)
    assert server.count()[CIF] == attempts
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_an_address_that_nobody_answers_is_an_error(tmp_path):
    database = Database("http://127.0.0.1:9", 6, tmp_path / "cache", attempts=2, wait=0.01)
    with pytest.raises(BadInput, match="http://127.0.0.1:9/AF-P04637-F1-model_v6.cif: the download failed"):
        database.models("P04637", 60)


def test_what_changed_in_the_cache_is_refused(server, database):
    server.add("P04637")
    ((_, structure, error),) = database.models("P04637", 60)
    structure.write_bytes(structure.read_bytes().replace(b"MET", b"ALA"))
    with pytest.raises(BadInput, match=f"{CIF}: SHA-256 is .*, fetched was .*; delete the file and {CIF}.sha256"):
        database.models("P04637", 60)
    structure.unlink()
    structure.with_name(f"{CIF}.sha256").unlink()
    assert database.models("P04637", 60)[0][1].read_bytes() == server.files[CIF]
    error.write_bytes(b"[]")
    with pytest.raises(BadInput, match=ERROR):
        database.models("P04637", 60)


def test_a_fetch_that_was_stopped_before_its_record_starts_anew(server, database):
    server.add("P04637")
    ((_, structure, _),) = database.models("P04637", 60)
    structure.with_name(f"{CIF}.sha256").unlink()
    structure.write_bytes(b"half")
    assert database.models("P04637", 60)[0][1].read_bytes() == server.files[CIF]


def test_a_cache_that_cannot_be_written_to_is_named(server, tmp_path):
    server.add("P04637")
    write(tmp_path / "cache", "a file")
    with pytest.raises(BadInput, match="cache: cannot be written to .*; name another protein.structures.cache"):
        Database(server.address, 6, tmp_path / "cache").models("P04637", 60)


def test_runs_at_the_same_time_leave_one_whole_file(server, tmp_path):
    server.add("P04637")
    server.gate.clear()
    databases = [Database(server.address, 6, tmp_path / "cache", wait=0.01) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(database.models, "P04637", 60) for database in databases]
        while len(server.requests) < 6:
            threading.Event().wait(0.01)
        server.gate.set()
        paths = {answer.result()[0][1] for answer in answers}
    (path,) = paths
    assert path.read_bytes() == server.files[CIF]
    kept = sorted(file.name for file in path.parent.iterdir())
    assert kept == sorted([CIF, f"{CIF}.sha256", ERROR, f"{ERROR}.sha256"])


def test_fragments_are_fetched_until_there_is_none(server, database):
    sequence = random_protein(1500)
    for number in (1, 2, 3):
        server.add("Q8WZ42", sequence[:30], fragment=number)
    assert [path.name for _, path, _ in database.models("Q8WZ42", 2800)] == [
        f"AF-Q8WZ42-F{number}-model_v6.cif" for number in (1, 2, 3)
    ]
    assert "AF-Q8WZ42-F4-model_v6.cif" in server.requests
    assert len(database.models("Q8WZ42", 900)) == 1


def test_an_isoform_without_a_model_gets_the_canonical_one(server, database):
    server.add("P04637")
    server.add("Q00001-2")
    server.add("Q00001")
    assert [model[0] for model in database.models("P04637-4", 60)] == ["P04637"]
    assert [model[0] for model in database.models("Q00001-2", 60)] == ["Q00001-2"]
    assert database.models("Q99999", 60) == []


def test_proteins_without_a_file_are_asked_for_and_every_other_has_a_reason(server, database, tmp_path, caplog):
    server.add("P04637")
    server.add("P38398", random_protein(60, 8))
    write(tmp_path / "s" / "LOCAL.pdb", globule(OTHER))
    write(tmp_path / "s" / "MIXED.pdb", globule(OTHER))
    sequences = [random_protein(60, seed) for seed in (21, 22, 23, 24)]
    proteins = proteins_of(
        {"accessions": "P04637", "genes": "TP53"},
        {"accessions": "P04638", "genes": "LOCAL", "sequence": OTHER},
        {"accessions": "P38398", "genes": "BRCA1", "sequence": sequences[0]},
        {"accessions": "Q99999", "genes": "GONE", "sequence": sequences[1]},
        {"genes": "NONE", "sequence": sequences[2]},
        {"accessions": "../../x", "genes": "ODD", "sequence": sequences[3]},
        {"genes": "MIXED", "sequence": SEQUENCE[:30] + sequences[3][:30]},
    )
    table = find_structures(proteins, [tmp_path / "s"], database, 6)
    assert table["protein"].tolist() == proteins["protein"].tolist()
    assert table["reason"].tolist() == [
        "",
        "",
        "structure_of_other_protein",
        "no_structure",
        "no_accession",
        "no_accession",
        "structure_of_other_protein",
    ]
    assert table["source"].tolist()[:2] == ["alphafold_db", "folder"]
    assert table.loc[0, ["accession", "version"]].tolist() == ["P04637", "6"]
    assert Path(table.loc[0, "pae"]).name == ERROR
    assert not any("P04638" in name or name[:1] == "x" for name in server.requests)
    assert "has no model of version 6 for Q99999" in caplog.text
    assert "ODD: no UniProt accession: '../../x'" in caplog.text
    assert "AF-P38398-F1-model_v6.cif: structure of another protein than BRCA1" in caplog.text


def test_one_model_serves_all_isoforms_that_lack_their_own(server, database):
    server.add("P04637")
    proteins = proteins_of({"accessions": "P04637-2,P04637"}, {"accessions": "P04637-3", "sequence": SEQUENCE[20:]})
    table = find_structures(proteins, [], database, 6)
    assert table["accession"].tolist() == ["P04637", "P04637"]
    assert table["path"].nunique() == 1
    assert server.count()[CIF] <= 3


def test_a_version_that_the_database_does_not_have_is_told_from_unknown_proteins(server, tmp_path):
    rows = [{"accessions": f"P{number:05d}", "sequence": random_protein(40, number)} for number in range(SUSPICIOUS)]
    for row in rows:
        server.add(row["accessions"], row["sequence"], version=6)
    database = Database(server.address, 4, tmp_path / "cache", wait=0.01)
    with pytest.raises(BadInput, match=f"no model of version 4 for any of {SUSPICIOUS} accessions"):
        find_structures(proteins_of(*rows), [], database, 4)
    few = find_structures(proteins_of(*rows[: SUSPICIOUS - 1]), [], database, 4)
    assert set(few["reason"]) == {"no_structure"}


def run(tmp_path: Path, proteins: pd.DataFrame, *options: object) -> subprocess.CompletedProcess[str]:
    proteins.to_parquet(tmp_path / "proteins.parquet")
    command = [sys.executable, SCRIPT, "--proteins", tmp_path / "proteins.parquet", "--version", 6]
    command += ["--cache", tmp_path / "cache", "--output", tmp_path / "structures.tsv", *options]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def test_the_script_writes_a_table_that_is_the_same_again_without_the_network(server, tmp_path):
    server.add("P04637")
    write(tmp_path / "s" / "LOCAL.pdb.gz", globule(OTHER))
    proteins = proteins_of({"accessions": "P04637"}, {"genes": "LOCAL", "sequence": OTHER})
    options = ("--folders", tmp_path / "s", "--database", server.address)
    texts = []
    for _ in range(2):
        answer = run(tmp_path, proteins, *options)
        assert answer.returncode == 0, answer.stderr
        texts.append((tmp_path / "structures.tsv").read_text())
        server.files.clear()
    assert texts[0] == texts[1]
    table = pd.read_csv(tmp_path / "structures.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert table["source"].tolist() == ["alphafold_db", "folder"]


def test_the_script_ends_with_2_and_one_sentence_when_a_folder_is_empty(tmp_path):
    (tmp_path / "s").mkdir()
    answer = run(tmp_path, proteins_of({"genes": "X"}), "--folders", tmp_path / "s")
    assert answer.returncode == 2
    assert answer.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 's'}: no structure in the folder")
    assert not (tmp_path / "structures.tsv").exists()


def test_real_models_are_found_by_gene(shared_data):
    folder = shared_data / "proteins" / "structures"
    from Bio import SeqIO

    record = SeqIO.read(shared_data / "proteins" / "fasta" / "SUMO1_HUMAN_Weile_2017.fasta", "fasta")
    table = find_structures(proteins_of({"genes": "SUMO1", "sequence": str(record.seq)}), [folder], None, 6)
    assert [Path(path).name for path in table["path"]] == ["SUMO1_HUMAN_Weile_2017.pdb.gz"]
