"""Reading the site columns of VCF and BCF files, one record at a time, whatever the number of samples.

Text is split up to INFO and no further, so genotypes are never parsed; a line that is no record is handed on as such,
with its number, instead of ending the run. BCF goes through htslib.
"""

from __future__ import annotations

import gzip
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from seqprior.errors import BadInput
from seqprior.files import intact_gzip, is_gzip, open_text, require_bgzf_end, require_file

log = logging.getLogger(__name__)

COLUMNS = ["#CHROM", "POS", "ID", "REF", "ALT"]
LAST_POSITION = 2**31 - 1  # a VCF integer has 32 bits

_CONTIG = re.compile(r"##contig=<(?:[^>]*?,)?ID=([^,>]+)")
_LENGTH = re.compile(r"[<,]length=(\d+)")
_ANNOTATION = re.compile(r'##INFO=<ID=(CSQ|ANN|BCSQ),.*Description="([^"]*)"')
_FIELDS = re.compile(r"[^:]*\|[^:]*")


@dataclass
class VcfHeader:
    """What the header says: contig lengths (None where absent), samples, and fields of consequence annotations."""

    contigs: dict[str, int | None] = field(default_factory=dict)
    samples: list[str] = field(default_factory=list)
    annotations: dict[str, list[str]] = field(default_factory=dict)


class VcfRecord(NamedTuple):
    """One record: `start` is 0-based; `alts` is empty where ALT is '.'; `start` is None where the line is malformed.

    `annotation` is the first consequence annotation in INFO, as 'TAG=value', or ''.
    """

    line: int
    chrom: str
    start: int | None
    id: str
    ref: str
    alts: tuple[str, ...]
    annotation: str


def is_bcf(path: Path) -> bool:
    """True if the file holds BCF, compressed or not."""
    opener = gzip.open if is_gzip(path) else open
    with intact_gzip(path), opener(path, "rb") as handle:
        return handle.read(3) == b"BCF"


@contextmanager
def open_bcf(path: Path, **options) -> Iterator:
    """A `pysam.VariantFile` for reading; what htslib cannot read is `BadInput`."""
    import pysam

    try:
        with pysam.VariantFile(str(path), **options) as handle:
            yield handle
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: the BCF data end early or are damaged ({error}); copy the file again") from error


def parse_header(path: Path, lines: list[str]) -> VcfHeader:
    """Contigs, samples and annotation fields of the '#' lines of a VCF.

    Raises:
        BadInput: there is no #CHROM line with tabs, or a sample stands twice.
    """
    header = VcfHeader()
    for line in lines:
        if match := _CONTIG.match(line):
            length = _LENGTH.search(line)
            header.contigs[match[1]] = int(length[1]) if length else None
        elif match := _ANNOTATION.match(line):
            if names := _FIELDS.search(match[2]):
                header.annotations[match[1]] = [name.strip(" '[]*").lower() for name in names[0].split("|")]
            else:
                log.warning("%s: INFO %s is not used, since the header does not name its fields", path, match[1])
    columns = lines[-1].rstrip("\r\n").split("\t") if lines else []
    if columns[:5] != COLUMNS:
        raise BadInput(
            f"{path}: no '{' '.join(COLUMNS)}' line separated by tabs after the header; expected a VCF or BCF file; "
            "check how the file was made"
        )
    header.samples = columns[9:]
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
        self._bcf = is_bcf(self.path)
        if self._bcf:
            with open_bcf(self.path) as handle:
                self.header = parse_header(self.path, str(handle.header).splitlines())
            return
        lines = []
        with open_text(self.path) as handle:
            for number, line in enumerate(handle):
                if number == 0 and not line.startswith("##fileformat=VCF"):
                    found = line.rstrip("\r\n")[:40]
                    raise BadInput(
                        f"{self.path}: line 1 is {found!r}, not '##fileformat=VCF...'; expected a VCF or BCF file; "
                        "check the path in the config"
                    )
                if not line.startswith("#"):
                    break
                lines.append(line)
        self.header = parse_header(self.path, lines)

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
        tags = tuple(self.header.annotations)
        with open_bcf(self.path, drop_samples=True) as handle:
            for number, record in enumerate(handle, 1):
                yield parse_record(number, str(record).rstrip("\n").split("\t", 8), tags)


def parse_record(number: int, columns: list[str], tags: tuple[str, ...]) -> VcfRecord:
    """A record from the first columns of its line; `start` is None if the line is malformed."""
    chrom, pos, identifier, ref, alt = (*columns[:5], "", "", "", "", "")[:5]
    alts = () if alt == "." else tuple(alt.split(","))
    number_like = pos.isascii() and pos.isdecimal() and len(pos) <= len(str(LAST_POSITION))
    if not (chrom and ref and alt and number_like and int(pos) <= LAST_POSITION):
        return VcfRecord(number, chrom, None, identifier, ref, alts, "")
    annotation = ""
    if tags and len(columns) > 7:
        annotation = next((item for item in columns[7].split(";") if item.partition("=")[0] in tags), "")
    return VcfRecord(number, chrom, int(pos) - 1, identifier, ref, alts, annotation)


def annotation_by_allele(annotation: str, fields: dict[str, list[str]], ref: str, alts: tuple[str, ...]) -> list[str]:
    """For each ALT of a record, its own entries of the record's consequence annotation, as 'TAG=value' or ''.

    Args:
        annotation: of the record, for all its alleles.
        fields: names of the '|' separated fields of each tag, from the header.
        ref, alts: as written in the record.
    """
    tag, _, value = annotation.partition("=")
    entries = [(entry, dict(zip(fields[tag], entry.split("|"), strict=False))) for entry in value.split(",")]
    if tag == "BCSQ":
        chosen = _by_dna_change(entries, ref, alts)
    elif len(alts) == 1:
        chosen = [_of_only_allele(entries, ref, alts[0])]
    else:
        # VEP's allele number is exact; it is of no use after a record has been split, so it is asked here alone.
        numbered = "allele_num" in fields[tag]
        key = "allele_num" if numbered else "allele"
        names = [str(i + 1) for i in range(len(alts))] if numbered else _allele_names(tag, ref, alts)
        chosen = [[entry for entry, values in entries if values.get(key) == name] for name in names]
    return [f"{tag}={','.join(own)}" if own else "" for own in chosen]


def _allele_names(tag: str, ref: str, alts: tuple[str, ...]) -> list[str]:
    """ALT alleles as annotation tools name them: SnpEff as written.

    VEP takes the first base off all alleles of a record that share it if any length differs, and writes '-' for
    nothing.
    """
    sequences = [alt for alt in alts if alt != "*"]
    trimmed = any(len(alt) != len(ref) for alt in sequences) and all(alt[:1] == ref[:1] for alt in sequences)
    if tag != "CSQ" or not trimmed:
        return list(alts)
    return [alt if alt == "*" else alt[1:] or "-" for alt in alts]


def _of_only_allele(entries: list[tuple[str, dict[str, str]]], ref: str, alt: str) -> list[str]:
    """Entries for the ALT of a record with one.

    The record may have been split from one with several after annotation, so that entries of the others are left in
    it and the names follow the former record. A name that stays in doubt is not guessed.
    """
    present = {values.get("allele", "") for _, values in entries}
    fitting = present & {alt, *_allele_names("CSQ", ref, (alt,))} or present
    return [entry for entry, values in entries if values.get("allele", "") in fitting] if len(fitting) == 1 else []


def _by_dna_change(entries: list[tuple[str, dict[str, str]]], ref: str, alts: tuple[str, ...]) -> list[list[str]]:
    """Entries of csq for each ALT: by the DNA change, '33478A>AG'; those without one hold for the site."""
    changes = [{part.lstrip("0123456789") for part in values.get("dna_change", "").split("+")} for _, values in entries]
    chosen = []
    for alt in alts:
        own = [change == {""} or f"{ref}>{alt}" in change for change in changes]
        if len(alts) == 1 and not any(f"{ref}>{alt}" in change for change in changes):
            own = [True] * len(entries)  # split from a record with several, and written anew
        chosen.append([entry for (entry, _), fits in zip(entries, own, strict=True) if fits])
    return chosen
