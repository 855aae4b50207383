"""Regions of BED files, with the reference's contig names and bases. Light: scripts without a model use it too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from seqprior.columns import Reason, Status
from seqprior.contigs import ContigNames
from seqprior.errors import BadInput
from seqprior.files import open_text, require_file
from seqprior.windows import unknown_share


@dataclass(slots=True)
class Row:
    """One allele or region. `start` and `end` are 0-based half-open, -1 where the input has no position.

    `texts` are what is embedded, in the order of `vectors.HAPLOTYPES`, none if the row is skipped; `origin` is the
    position of their first base. `line` is that of the BED file.
    """

    id: str
    chrom: str
    start: int
    end: int
    status: str = str(Status.SCORED)
    reason: str = ""
    ref: str = ""
    alt: str = ""
    line: int = 0
    texts: tuple[str, ...] = ()
    origin: int = 0

    def skipped(self, reason: str) -> Row:
        self.status, self.reason, self.texts = str(Status.SKIPPED), str(reason), ()
        return self


def read_regions(bed: Path, names: ContigNames) -> Iterator[Row]:
    """The regions of a BED file; see `region_lines`."""
    return (row for row, _ in region_lines(bed, names))


def region_lines(bed: Path, names: ContigNames) -> Iterator[tuple[Row, list[str]]]:
    """The regions of a BED file, plain or gzip, in its order and with the reference's contig names, and their columns.

    Columns are separated by tabs, or by blanks where a line has no tab; the fourth is the name. A region
    without a name is called contig:start-end. Lines that start with '#', 'track' or 'browser' are no regions.

    Raises:
        BadInput: a line is no region of the reference, or there is none.
    """
    require_file(bed, "BED file")
    found = False
    with open_text(bed) as lines:
        for number, line in enumerate(lines, 1):
            text = line.rstrip("\r\n").lstrip("\ufeff")
            if not text.strip() or text.startswith("#") or text.split()[0] in ("track", "browser"):
                continue
            found = True
            columns = text.split("\t") if "\t" in text else text.split()
            yield _region(columns, f"{bed}, line {number}", number, names), columns
    if not found:
        raise BadInput(f"{bed}: found no region; expected lines of contig, start and end; check how the file was made")


def _region(columns: list[str], where: str, number: int, names: ContigNames) -> Row:
    if len(columns) < 3:
        raise BadInput(
            f"{where}: found {len(columns)} columns, expected contig, start and end separated by tabs; correct the line"
        )
    contig, start, end = (column.strip() for column in columns[:3])
    if not all(value.isascii() and value.isdigit() for value in (start, end)) or int(start) >= int(end):
        raise BadInput(
            f"{where}: found start '{start}' and end '{end}', expected whole numbers, 0-based, with start < end; "
            "correct the line"
        )
    chrom = names.resolve(contig)
    if chrom is None:
        raise BadInput(
            f"{where}: the reference has no contig '{contig}'; expected one of {', '.join(list(names.contigs)[:5])}, "
            "... or a known alias; correct the line or add the name to reference.aliases"
        )
    name = columns[3].strip() if len(columns) > 3 else ""
    if name in ("", "."):
        name = f"{contig}:{start}-{end}"
    return Row(name, chrom, int(start), int(end), line=number)


def region_rows(bed: Path, fasta: Path, names: ContigNames, max_unknown_share: float) -> Iterator[Row]:
    """Regions with their bases. What lies beyond a contig's end is cut off, in `start` and `end` too.

    A region of which nothing is left, or with a larger share of unknown bases, is skipped.
    """
    import pysam

    with pysam.FastaFile(str(fasta)) as reference:
        for row in read_regions(bed, names):
            end = min(row.end, names.contigs[row.chrom].length)
            text = reference.fetch(row.chrom, row.start, end).upper() if row.start < end else ""
            if unknown_share(text, 0, len(text)) > max_unknown_share or not text:
                yield row.skipped(Reason.WINDOW_AMBIGUOUS)
            else:
                row.end, row.texts, row.origin = end, (text,), row.start
                yield row
