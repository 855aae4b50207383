"""Tracks and calls from a scan: bigWig, BED and a session for IGV.

A bigWig (Kent et al. 2010, doi:10.1093/bioinformatics/btq351) has every contig of the reference, in its order, and no
value where the scan has none. Everything is streamed: memory holds one block of the scan, whatever its size.
"""

from __future__ import annotations

import heapq
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqprior.errors import BadInput
from seqprior.files import written_whole

if TYPE_CHECKING:
    import numpy as np
    import pyarrow.parquet as pq

PROBABILITY = "probability."  # begins the column of an element
SHOWN = 20_000  # bases of the first region that the session shows
# Okabe and Ito's colours, which people with any colour vision can tell apart.
COLOURS = ("0,114,178", "213,94,0", "0,158,115", "204,121,167", "230,159,0", "86,180,233")
GREY = "90,90,90"


@dataclass(frozen=True)
class Scan:
    """The shards of one scan, in order.

    Attributes:
        tracks: columns with a value for each base. stride: bases from one window to the next.
        windows: bases of a window of each element.
    """

    shards: Sequence[Path]
    tracks: tuple[str, ...]
    stride: int
    windows: Mapping[str, int]

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[str, int, int, list[np.ndarray]]]:
        """Contig, start, end and the float32 values of some columns of each block, in order."""
        for shard in self.shards:
            with _opened(shard) as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, columns=["chrom", "start", "end", *columns])
                    places = (table[name].to_pylist() for name in ("chrom", "start", "end"))
                    for row, (chrom, start, end) in enumerate(zip(*places, strict=True)):
                        values = [table[name][row].values.to_numpy(zero_copy_only=False) for name in columns]
                        yield chrom, start, end, values


def open_scan(shards: Sequence[Path]) -> Scan:
    """What the shards of one scan hold.

    Raises:
        BadInput: a file is no scan, or the shards are not of one scan.
    """
    found = []
    for shard in shards:
        with _opened(shard) as file:
            schema = file.schema_arrow
        shape = (schema.metadata or {}).get(b"seqprior")
        if shape is None:
            raise BadInput(f"{shard}: not a scan, expected a file of scan_regions.py; check the path")
        if found and (schema.names, shape) != found[0]:
            raise BadInput(
                f"{shard}: the columns or windows differ from those of {shards[0]}, expected shards of one scan; scan "
                "all of them again"
            )
        found.append((schema.names, shape))
    names, shape = found[0]
    values = json.loads(shape)
    tracks = tuple(name for name in names[3:] if not name.startswith(PROBABILITY))
    return Scan(shards, tracks, values["stride"], values["windows"])


def _opened(shard: Path) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(shard)
    except (OSError, pa.ArrowInvalid) as error:
        raise BadInput(f"{shard}: not a Parquet file, expected a file of scan_regions.py; scan again") from error


def write_bigwigs(scan: Scan, contigs: Mapping[str, int], folder: Path) -> list[Path]:
    """A bigWig for each column of the scan, named {column}.bw.

    A window's probability stands for the `stride` bases in its middle, or for the whole window if that is shorter.

    Args:
        contigs: length of each contig, in the reference's order.
    """
    import pyBigWig

    elements = [PROBABILITY + element for element in scan.windows]
    columns = [*scan.tracks, *elements]
    paths = [folder / f"{column}.bw" for column in columns]
    with ExitStack() as stack:
        files = []
        for path in paths:
            partial = stack.enter_context(written_whole(path))
            files.append(pyBigWig.open(str(partial), "w"))
            stack.callback(files[-1].close)
            files[-1].addHeader(list(contigs.items()))
        for chrom, start, _, values in scan.rows(columns):
            for file, column, numbers in zip(files, columns, values, strict=True):
                window = scan.windows.get(column.removeprefix(PROBABILITY)) if column in elements else None
                step = 1 if window is None else scan.stride
                span = 1 if window is None else min(step, window)
                first = start if window is None else start + window // 2 - span // 2
                for begin, end in known_runs(numbers):
                    own = numbers[begin:end]
                    file.addEntries(chrom, first + begin * step, values=own, span=span, step=step)
    return paths


def known_runs(values: np.ndarray) -> list[tuple[int, int]]:
    """The stretches [begin, end) without NaN."""
    import numpy as np

    borders = np.flatnonzero(np.diff(~np.isnan(values), prepend=False, append=False))
    return [(int(begin), int(end)) for begin, end in borders.reshape(-1, 2)]


@dataclass(frozen=True, slots=True)
class Call:
    """Merged windows of one element, 0-based half-open, with the highest probability among them and where it is.

    `summit` is the middle of the most probable window, of the first of several.
    """

    chrom: str
    start: int
    end: int
    element: str
    probability: float
    summit: int


def element_calls(scan: Scan, element: str, threshold: float) -> Iterator[Call]:
    """Windows whose probability is at least `threshold`, overlapping and touching ones as one, in the scan's order."""
    import numpy as np

    size = scan.windows[element]
    call: Call | None = None
    for chrom, start, _, (values,) in scan.rows([PROBABILITY + element]):
        for number in np.flatnonzero(values >= np.float32(threshold)).tolist():
            begin, probability = start + number * scan.stride, float(values[number])
            found = Call(chrom, begin, begin + size, element, probability, begin + size // 2)
            if call is None or call.chrom != chrom or begin > call.end:
                if call is not None:
                    yield call
                call = found
            else:
                best = max(call, found, key=lambda each: each.probability)
                call = Call(chrom, call.start, found.end, element, best.probability, best.summit)
    if call is not None:
        yield call


def write_calls(scan: Scan, threshold: float, order: Iterable[str], output: Path) -> int:
    """The calls of all elements as BED, sorted by contig and start; returns how many there are.

    Columns are contig, start, end, element, probability times 1000, '.', the summit and the base after it (which
    viewers draw thick), 0 and the probability.
    """
    place = {name: number for number, name in enumerate(order)}
    calls = heapq.merge(
        *(element_calls(scan, element, threshold) for element in scan.windows),
        key=lambda call: (place[call.chrom], call.start, call.end),
    )
    count = 0
    with written_whole(output) as partial, partial.open("w") as handle:
        for call in calls:
            score, thick = round(1000 * call.probability), (call.summit, call.summit + 1)
            columns = (call.chrom, call.start, call.end, call.element, score, ".", *thick, 0, f"{call.probability:.4f}")
            handle.write("\t".join(map(str, columns)) + "\n")
            count += 1
    return count


def write_session(scan: Scan, fasta: Path, files: Sequence[Path], output: Path) -> None:
    """A session, version 8, with which IGV desktop opens the reference and all files, by paths relative to it.

    Signals have a panel, and everything else, which IGV tells by its name, another below it. What IGV reads is in its
    sources, org.broad.igv.session (github.com/igvteam/igv).
    """
    session = ET.Element("Session", genome=_beside(fasta, output), hasSequenceTrack="true", version="8")
    first = next(scan.rows([]), None)
    if first is not None:
        chrom, start, end, _ = first
        session.set("locus", f"{chrom}:{start + 1}-{min(end, start + SHOWN)}")
    resources = ET.SubElement(session, "Resources")
    for file in files:
        ET.SubElement(resources, "Resource", path=_beside(file, output))
    signals = [file for file in files if file.suffix == ".bw"]
    panel = ET.SubElement(session, "Panel", name="DataPanel", height="500", width="1200")
    colours = dict(zip((PROBABILITY + element for element in scan.windows), _cycled(len(scan.windows)), strict=True))
    for file in signals:
        highest = "1.0" if file.stem in colours else "2.0" if file.stem in scan.tracks else None
        track = ET.SubElement(
            panel,
            "Track",
            id=_beside(file, output),
            name=_title(file),
            clazz="org.broad.igv.track.DataSourceTrack",
            color=colours.get(file.stem, GREY),
            renderer="BAR_CHART",
            windowFunction="mean",
            autoScale="false" if highest else "true",
            height="50",
            visible="true",
        )
        if highest:
            ET.SubElement(track, "DataRange", minimum="0.0", baseline="0.0", maximum=highest, type="LINEAR")
    panel = ET.SubElement(session, "Panel", name="FeaturePanel", height="200", width="1200")
    ET.SubElement(
        panel, "Track", id="Reference sequence", name="Reference sequence", clazz="org.broad.igv.track.SequenceTrack"
    )
    for file in files:
        if file not in signals:
            ET.SubElement(
                panel,
                "Track",
                id=_beside(file, output),
                name=_title(file),
                clazz="org.broad.igv.track.FeatureTrack",
                color=COLOURS[0],
                visible="true",
            )
    ET.indent(session)
    with written_whole(output) as partial:
        ET.ElementTree(session).write(partial, encoding="UTF-8", xml_declaration=True)


def _beside(file: Path, session: Path) -> str:
    return Path(os.path.relpath(file.resolve(), session.parent.resolve())).as_posix()


def _title(file: Path) -> str:
    """`probability.Reb1.bw` is called 'probability Reb1'; files of one name are told apart by their folder."""
    name = Path(file.name.removesuffix(".gz")).stem.replace(".", " ").replace("_", " ")
    return f"{file.parent.name} {name}" if name == "contributions" else name


def _cycled(count: int) -> list[str]:
    return [COLOURS[number % len(COLOURS)] for number in range(count)]
