"""Reading the site columns of VCF and BCF files, one record at a time, whatever the number of samples.

Text is split up to INFO and no further, so genotypes are never parsed; a line that is no record is handed on as such,
with its number, instead of ending the run. BCF goes through htslib.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from seqprior.errors import BadInput
from seqprior.files import is_gzip, open_text, require_bgzf_end, require_file

ANNOTATION_TAGS = ("CSQ", "ANN", "BCSQ")
_CONTIG = re.compile(r"##contig=<(?=.*\bID=([^,>]+))(?:.*\blength=(\d+))?")
_ANNOTATION = re.compile(r'##INFO=<ID=(CSQ|ANN|BCSQ),.*Description="([^"]*)"')


@dataclass
class VcfHeader:
    """What the header says: contig lengths (None where absent), samples, and fields of consequence annotations."""

    contigs: dict[str, int | None] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)
    annotations: dict[str, list[str]] = field(default_factory=dict)


class VcfRecord(NamedTuple):
    """One record: `start` is 0-based; `alts` is empty where ALT is '.'; `start` is None where the line is malformed."""

    line: int
    chrom: str
    start: int | None
    id: str
    ref: str
    alts: tuple[str, ...]
    annotation: str


def is_bcf(path: Path) -> bool:
    """True if the (BGZF) file holds BCF."""
    import gzip

    if not is_gzip(path):
        return False
    with gzip.open(path, "rb") as handle:
        return handle.read(3) == b"BCF"


def parse_header(path: Path, lines: list[str]) -> VcfHeader:
    """Contigs, samples and annotation fields of the '#' lines of a VCF.

    Raises:
        BadInput: there is no #CHROM line, or a sample stands twice.
    """
    header = VcfHeader()
    for line in lines:
        if match := _CONTIG.match(line):
            header.contigs[match[1]] = int(match[2]) if match[2] else None
        elif match := _ANNOTATION.match(line):
            names = match[2].split("Format:")[-1] if "Format:" in match[2] else match[2].split(":", 1)[-1]
            names = re.sub(r"\[\*\].*?(?=\||$)", "", names)
            header.annotations[match[1]] = [name.strip(" '[]") for name in names.split("|")]
        elif line.startswith("#CHROM"):
            header.samples = line.rstrip("\r\n").split("\t")[9:]
    if not lines or not lines[-1].startswith("#CHROM"):
        raise BadInput(f"{path}: no #CHROM line after the header; expected a VCF or BCF file; check the file")
    seen: set[str] = set()
    for sample in header.samples:
        if sample in seen:
            raise BadInput(f"{path}: sample {sample!r} stands twice in the header; rename one of them")
        seen.add(sample)
    return header


@dataclass
class VcfFile:
    """A VCF or BCF file: its header, and its records by iteration.

    Raises:
        BadInput: missing, empty, truncated or damaged file, or one that is neither VCF nor BCF.
    """

    path: Path
    header: VcfHeader = field(init=False)
    _bcf: bool = field(init=False)

    def __post_init__(self) -> None:
        require_file(self.path, "VCF or BCF file")
        if is_gzip(self.path):
            require_bgzf_end(self.path)
        self._bcf = self._probe()
        if self._bcf:
            import pysam

            with pysam.VariantFile(str(self.path)) as handle:
                self.header = parse_header(self.path, str(handle.header).splitlines())
            return
        lines = []
        with open_text(self.path) as handle:
            for number, line in enumerate(handle):
                if number == 0 and not line.startswith("##fileformat=VCF"):
                    found = line.rstrip("\r\n")[:40]
                    raise BadInput(
                        f"{self.path}: line 1 is {found!r}, not '##fileformat=VCF...'; expected a VCF or BCF file"
                    )
                if not line.startswith("#"):
                    break
                lines.append(line)
        self.header = parse_header(self.path, lines)

    def _probe(self) -> bool:
        try:
            return is_bcf(self.path)
        except (EOFError, OSError) as error:
            raise BadInput(
                f"{self.path}: the gzip data end early or are damaged ({error}); copy the file again"
            ) from error

    def __iter__(self) -> Iterator[VcfRecord]:
        return self._iterate_bcf() if self._bcf else self._iterate_text()

    def _iterate_text(self) -> Iterator[VcfRecord]:
        tags = tuple(self.header.annotations)
        with open_text(self.path) as handle:
            for number, line in enumerate(handle, 1):
                if line[0] == "#":
                    continue
                columns = line.rstrip("\r\n").split("\t", 8)
                if columns == [""]:
                    continue
                yield parse_record(number, columns, tags)

    def _iterate_bcf(self) -> Iterator[VcfRecord]:
        import pysam

        tags = tuple(self.header.annotations)
        with pysam.VariantFile(str(self.path), drop_samples=True) as handle:
            try:
                for number, record in enumerate(handle, 1):
                    yield parse_record(number, str(record).rstrip("\n").split("\t", 8), tags)
            except OSError as error:
                raise BadInput(f"{self.path}: the BCF data are damaged ({error}); copy the file again") from error


def parse_record(number: int, columns: list[str], tags: tuple[str, ...]) -> VcfRecord:
    """A record from the first columns of its line; `start` is None if the line is malformed."""
    if len(columns) < 5 or not columns[1].isdecimal() or not columns[0] or not columns[3] or not columns[4]:
        padded = (*columns, "", "", "", "", "")
        return VcfRecord(number, padded[0], None, padded[2], padded[3], (padded[4],), "")
    alts = () if columns[4] == "." else tuple(columns[4].split(","))
    annotation = annotation_field(columns[7], tags) if tags and len(columns) > 7 else ""
    return VcfRecord(number, columns[0], int(columns[1]) - 1, columns[2], columns[3], alts, annotation)


def annotation_field(info: str, tags: tuple[str, ...]) -> str:
    """The first consequence annotation in an INFO column, as 'TAG=value', or ''."""
    for item in info.split(";"):
        if item.partition("=")[0] in tags:
            return item
    return ""
