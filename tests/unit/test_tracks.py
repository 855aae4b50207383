"""Tracks and calls against loops over all bases, bigWigs also by a reader of its own, after the published format."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyBigWig
import pytest

from seqprior.errors import BadInput
from seqprior.tracks import element_calls, known_runs, open_scan, write_bigwigs, write_calls, write_session

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CONTIGS = {"two": 4000, "ten": 900, "one": 6000}  # the reference's order is not that of the alphabet
TRACKS = ("entropy", "information")


def blocks_with(regions, stride: int, windows: dict[str, int], size: int, seed: int = 0) -> list[dict]:
    """Rows of a scan with random values, unknown ones among them."""
    rng = np.random.default_rng(seed)
    rows = []
    for chrom, begin, limit in regions:
        for start in range(begin, limit, size // stride * stride):
            end = min(start + size // stride * stride, limit)
            row: dict = {"chrom": chrom, "start": start, "end": end}
            for track in TRACKS:
                row[track] = np.where(rng.random(end - start) < 0.1, np.nan, 2 * rng.random(end - start))
            for element, window in windows.items():
                count = len(range(start, min(end, limit - window + 1), stride))
                row[f"probability.{element}"] = np.where(rng.random(count) < 0.1, np.nan, rng.random(count) ** 2)
            rows.append(row)
    return rows


def write_rows(path: Path, rows: list[dict], stride: int, windows: dict[str, int], tracks=TRACKS) -> Path:
    lists = [*tracks, *(f"probability.{element}" for element in windows)]
    schema = pa.schema(
        [("chrom", pa.string()), ("start", pa.int64()), ("end", pa.int64())]
        + [(name, pa.list_(pa.float32())) for name in lists],
        metadata={"seqprior": json.dumps({"stride": stride, "windows": windows})},
    )
    with pq.ParquetWriter(path, schema) as writer:
        for row in rows:
            writer.write_table(pa.Table.from_pylist([row], schema))
    return path


REGIONS = [("two", 100, 1000), ("two", 1003, 1100), ("two", 3000, 4000), ("one", 0, 6000)]
WINDOWS = {"Reb1": 60, "weird.name-2": 33}


@pytest.fixture(scope="module")
def scanned(tmp_path_factory):
    """Rows, and the scan of them in two shards and an empty one."""
    folder = tmp_path_factory.mktemp("scan")
    rows = blocks_with(REGIONS, 20, WINDOWS, 500)
    parts = (rows[:3], rows[3:], [])
    return rows, open_scan([write_rows(folder / f"{n}.parquet", part, 20, WINDOWS) for n, part in enumerate(parts)])


def expected(rows: list[dict], column: str, stride: int, window: int | None) -> dict[str, np.ndarray]:
    """Value of each base of each contig, NaN for none."""
    values = {name: np.full(length, np.nan, np.float32) for name, length in CONTIGS.items()}
    for row in rows:
        for number, value in enumerate(row[column]):
            if window is None:
                values[row["chrom"]][row["start"] + number] = value
            else:
                span = min(stride, window)
                first = row["start"] + number * stride + window // 2 - span // 2
                values[row["chrom"]][first : first + span] = value
    return values


def decoded(path: Path) -> tuple[dict[str, int], int, tuple, Iterator[tuple[str, int, int, float]]]:
    """Contigs, zoom levels, summary and (contig, start, end, value) in file order, by the format's description."""
    raw = path.read_bytes()
    magic, _, zooms, tree, _, index, _, _, _, summary, buffer = struct.unpack_from("<IHHQQQHHQQI", raw)
    assert magic == 0x888FFC26
    assert raw[-4:] == raw[:4]
    magic, _, key, _, count, _ = struct.unpack_from("<IIIIQQ", raw, tree)
    assert magic == 0x78CA8C91
    names: list[str] = []
    contigs: dict[str, int] = {}
    for at in leaves(raw, tree + 32, key + 8, key):
        name = raw[at : at + key].rstrip(b"\0").decode()
        number, contigs[name] = struct.unpack_from("<II", raw, at + key)
        assert number == len(names)
        names.append(name)
    assert len(contigs) == count
    assert struct.unpack_from("<I", raw, index)[0] == 0x2468ACE0

    def intervals() -> Iterator[tuple[str, int, int, float]]:
        for at in leaves(raw, index + 48, 32, 16):
            offset, size = struct.unpack_from("<QQ", raw, at + 16)
            block = zlib.decompress(raw[offset : offset + size])
            assert len(block) <= buffer
            number, start, _, step, span, kind, _, count = struct.unpack_from("<IIIIIBBH", block)
            for item in range(count):
                if kind == 1:
                    first, last, value = struct.unpack_from("<IIf", block, 24 + 12 * item)
                elif kind == 2:
                    first, value = struct.unpack_from("<If", block, 24 + 8 * item)
                    last = first + span
                else:
                    first = start + item * step
                    last, value = first + span, struct.unpack_from("<f", block, 24 + 4 * item)[0]
                yield names[number], first, last, value

    return contigs, zooms, struct.unpack_from("<Qdddd", raw, summary), intervals()


def leaves(raw: bytes, node: int, leaf_size: int, key: int) -> Iterator[int]:
    """Where the items of a tree's leaves are. Items of inner nodes are a key of so many bytes and an offset."""
    leaf, _, count = struct.unpack_from("<BBH", raw, node)
    for item in range(count):
        if leaf:
            yield node + 4 + item * leaf_size
        else:
            (child,) = struct.unpack_from("<Q", raw, node + 4 + item * (key + 8) + key)
            yield from leaves(raw, child, leaf_size, key)


@pytest.mark.parametrize("column", [*TRACKS, *(f"probability.{element}" for element in WINDOWS)])
def test_bigwig_has_each_value_once_and_nothing_else(column, scanned, tmp_path):
    rows, scan = scanned
    paths = write_bigwigs(scan, CONTIGS, tmp_path)
    assert [path.name for path in paths] == [*(f"{t}.bw" for t in TRACKS), *(f"probability.{e}.bw" for e in WINDOWS)]
    wanted = expected(rows, column, 20, WINDOWS.get(column.removeprefix("probability.")))
    contigs, zooms, summary, intervals = decoded(tmp_path / f"{column}.bw")
    assert contigs == CONTIGS
    assert zooms >= 1
    found = {name: np.full(length, np.nan, np.float32) for name, length in CONTIGS.items()}
    order, previous = list(CONTIGS), (0, 0)
    for name, start, end, value in intervals:
        assert (order.index(name), start) >= previous
        previous = order.index(name), end
        found[name][start:end] = value
    every = np.concatenate(list(wanted.values()))
    with pyBigWig.open(str(tmp_path / f"{column}.bw")) as file:
        assert list(file.chroms()) == sorted(CONTIGS) or file.chroms() == CONTIGS
        for name, values in wanted.items():
            np.testing.assert_array_equal(found[name], values)
            np.testing.assert_array_equal(np.array(file.values(name, 0, CONTIGS[name]), np.float32), values)
        known = every[~np.isnan(every)].astype(float)
        np.testing.assert_allclose(summary, [len(known), *(f(known) for f in (min, max, sum)), (known**2).sum()])
        mean = np.nanmean(wanted["one"].astype(float))
        assert file.stats("one", 0, 6000, exact=True)[0] == pytest.approx(mean, rel=1e-6)
        assert file.stats("one", 0, 6000)[0] == pytest.approx(mean, rel=0.05)  # from the zoom levels


@pytest.mark.parametrize("stride", [7, 20, 50, 90])
def test_probabilities_stay_within_their_windows(stride, tmp_path):
    windows = {"E": 50}
    rows = blocks_with([("two", 0, 400), ("two", 403, 4000)], stride, windows, 500)
    scan = open_scan([write_rows(tmp_path / "scan.parquet", rows, stride, windows)])
    write_bigwigs(scan, CONTIGS, tmp_path)
    wanted = expected(rows, "probability.E", stride, 50)["two"]
    with pyBigWig.open(str(tmp_path / "probability.E.bw")) as file:
        np.testing.assert_array_equal(np.array(file.values("two", 0, 4000), np.float32), wanted)


def test_scan_without_a_known_value_gives_an_empty_track_that_opens(tmp_path):
    rows = blocks_with([("two", 0, 40)], 20, {"E": 30}, 500)
    for name in (*TRACKS, "probability.E"):
        rows[0][name][:] = np.nan
    scan = open_scan([write_rows(tmp_path / "scan.parquet", rows, 20, {"E": 30})])
    write_bigwigs(scan, CONTIGS, tmp_path)
    with pyBigWig.open(str(tmp_path / "entropy.bw")) as file:
        assert file.chroms() == CONTIGS
        assert file.header()["nBasesCovered"] == 0
    assert write_calls(scan, 0.5, CONTIGS, tmp_path / "elements.bed") == 0
    assert (tmp_path / "elements.bed").read_text() == ""


def test_runs_without_nan_are_found():
    values = np.array([np.nan, 1, 2, np.nan, 3, np.nan])
    assert known_runs(values) == [(1, 3), (4, 5)]
    assert known_runs(values[:0]) == known_runs(values[:1]) == []
    assert known_runs(values[1:3]) == [(0, 2)]


def base_by_base_calls(rows: list[dict], element: str, stride: int, threshold: float) -> list[tuple]:
    """Calls by painting the windows on each contig; touching runs of bases are one call."""
    window, found = WINDOWS[element], []
    for contig, length in CONTIGS.items():
        hits = [
            (row["start"] + n * stride, np.float32(p))
            for row in rows
            if row["chrom"] == contig
            for n, p in enumerate(row[f"probability.{element}"])
            if p >= threshold
        ]
        painted = np.zeros(length + 1, bool)
        for start, _ in hits:
            painted[start : start + window] = True
        edges = np.flatnonzero(np.diff(painted.astype(int), prepend=0))
        for start, end in zip(edges[::2], edges[1::2], strict=True):
            best = max((hit for hit in hits if start <= hit[0] < end), key=lambda hit: (hit[1], -hit[0]))
            found.append((contig, start, end, element, best[1], best[0] + window // 2))
    return found


@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("element", WINDOWS)
def test_calls_are_runs_of_bases_under_windows_that_reach_the_threshold(element, threshold, scanned):
    rows, scan = scanned
    found = [
        (c.chrom, c.start, c.end, c.element, c.probability, c.summit) for c in element_calls(scan, element, threshold)
    ]
    assert found == base_by_base_calls(rows, element, 20, threshold)
    assert len(found) > 5


def test_bed_of_calls_is_sorted_and_has_valid_columns(scanned, tmp_path):
    rows, scan = scanned
    count = write_calls(scan, 0.7, CONTIGS, tmp_path / "elements.bed")
    lines = [line.split("\t") for line in (tmp_path / "elements.bed").read_text().splitlines()]
    assert len(lines) == count == sum(len(base_by_base_calls(rows, element, 20, 0.7)) for element in WINDOWS)
    order = list(CONTIGS)
    places = [(order.index(line[0]), int(line[1])) for line in lines]
    assert places == sorted(places)
    for chrom, start, end, element, score, strand, thick, thick_end, colour, probability in lines:
        assert 0 <= int(start) <= int(thick) < int(thick_end) <= int(end) <= CONTIGS[chrom]
        assert element in WINDOWS
        assert int(score) == pytest.approx(1000 * float(probability), abs=0.6)
        assert 0.7 <= float(probability) <= 1
        assert (strand, colour) == (".", "0")


def test_session_names_every_file_by_a_path_that_is_there(scanned, tmp_path):
    _, scan = scanned
    folder, fasta = tmp_path / "cohort" / "regulatory", tmp_path / "shared" / "a & b.fa.gz"
    files = [*write_bigwigs(scan, CONTIGS, folder), folder / "elements.bed", tmp_path / "shared" / "genes.gff3.gz"]
    (folder / "Reb1").mkdir()
    files.append(folder / "Reb1" / "contributions.bw")
    fasta.parent.mkdir()
    for file in (fasta, *files[-3:]):
        file.touch()
    session = folder / "igv_session.xml"
    write_session(scan, fasta, files, session)
    root = ET.parse(session).getroot()
    assert (root.tag, root.get("version"), root.get("locus")) == ("Session", "8", "two:101-600")
    assert (folder / root.get("genome")).samefile(fasta)
    named = [resource.get("path") for resource in root.find("Resources")]
    assert all((folder / path).samefile(file) for path, file in zip(named, files, strict=True))
    assert not any(Path(path).is_absolute() for path in named)
    tracks = {track.get("id"): track for track in root.iter("Track")}
    assert set(tracks) == {*named, "Reference sequence"}
    assert tracks["probability.Reb1.bw"].find("DataRange").get("maximum") == "1.0"
    assert tracks["information.bw"].find("DataRange").get("maximum") == "2.0"
    assert tracks["Reb1/contributions.bw"].get("autoScale") == "true"
    assert tracks["probability.Reb1.bw"].get("color") != tracks["probability.weird.name-2.bw"].get("color")
    names = [track.get("name") for track in tracks.values()]
    assert len(set(names)) == len(names)


def test_what_is_no_scan_is_refused(scanned, tmp_path):
    _, scan = scanned
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(BadInput, match=r"text.parquet: not a Parquet file, expected a file of scan_regions.py"):
        open_scan([tmp_path / "text.parquet"])
    pq.write_table(pa.table({"chrom": ["one"]}), tmp_path / "other.parquet")
    with pytest.raises(BadInput, match=r"other.parquet: not a scan, expected a file of scan_regions.py"):
        open_scan([tmp_path / "other.parquet"])
    foreign = write_rows(tmp_path / "foreign.parquet", [], 30, WINDOWS)
    with pytest.raises(BadInput, match="the columns or windows differ from those of .*0.parquet, expected shards of"):
        open_scan([scan.shards[0], foreign])


def test_the_script_writes_tracks_calls_and_session(scanned, tmp_path):
    rows, scan = scanned
    (tmp_path / "contigs.tsv").write_text(
        "contig\tlength\taliases\n" + "".join(f"{name}\t{length}\t\n" for name, length in CONTIGS.items())
    )
    out = tmp_path / "regulatory"
    command = [sys.executable, SCRIPTS / "write_tracks.py", "--scan", *scan.shards, "--fasta", tmp_path / "ref.fa.gz"]
    command += ["--contigs", tmp_path / "contigs.tsv", "--threshold", 0.6, "--output", out, "--also"]
    command += ["--calls", out / "elements.bed", "--session", out / "igv_session.xml"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=60)
    made = {path.name for path in out.iterdir()}
    columns = [*TRACKS, *(f"probability.{element}" for element in WINDOWS)]
    assert made == {*(f"{column}.bw" for column in columns), "elements.bed", "igv_session.xml"}
    wanted = sum(len(base_by_base_calls(rows, element, 20, 0.6)) for element in WINDOWS)
    assert len((out / "elements.bed").read_text().splitlines()) == wanted
