"""From candidate edits to alleles that can be scored, each beside the alleles of its shape that could be made nearby.

Edits are rows of a table (an allele as in a VCF, an HGVS name, or a target base and a base editor) or records of a VCF.
The changes of one id are on one chromosome and become one allele, from the first to the last changed base, so that a
model reads them together. An edit that cannot be made is kept with its reason; only a name, editor or table that says
nothing certain stops the run.

The input is held in memory, since rows of one id may stand anywhere in it; the alleles and comparisons that follow from
it, two hundred times as many, are written as they are made.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from seqprior.base_editing import ContigBases, Editor, Outcome, nearby_shapes, outcomes, why_no_guide
from seqprior.columns import EDITS, NEARBY, EditReason, Reason, Status
from seqprior.contigs import ContigNames
from seqprior.errors import BadInput
from seqprior.files import RowWriter, full_disk_named, open_text, require_file, rows_schema, written_whole
from seqprior.hgvs_names import Change, HgvsNames
from seqprior.sequence import BASES
from seqprior.variants import (
    FileSummary,
    Spill,
    allele_reason,
    check_assembly,
    collapse,
    gather,
    left_align,
    table_schemas,
)
from seqprior.vcf import LAST_POSITION, VcfFile, is_bcf

log = logging.getLogger(__name__)

COLUMNS = ("id", "chrom", "pos", "ref", "alt", "hgvs", "editor", "strand")
BLOCK = 16_384  # bases that are read at a time
BLOCKS = 512  # that are kept
_NUMBER = re.compile(r"[1-9][0-9]{0,9}\Z")


class Genome:
    """Upper-case bases of an indexed FASTA by place; the last blocks read stay in memory (8 MB)."""

    def __init__(self, fasta: Path) -> None:
        import pysam

        self._fasta = pysam.FastaFile(str(fasta))
        self._block = lru_cache(BLOCKS)(self._read)

    def _read(self, chrom: str, number: int) -> str:
        return self._fasta.fetch(chrom, number * BLOCK, (number + 1) * BLOCK).upper()

    def fetch(self, chrom: str, start: int, end: int) -> str:
        """Bases [start, end), 0-based; fewer where the contig ends. `start` is not negative."""
        first = start // BLOCK
        text = "".join(self._block(chrom, number) for number in range(first, -(-end // BLOCK)))
        return text[start - first * BLOCK : max(end - first * BLOCK, 0)]

    def contig(self, chrom: str) -> ContigBases:
        return ContigBases(self.fetch, chrom)


class Row(NamedTuple):
    """What the input says of an edit or of a part of it. `start` is 0-based, None where it is no position."""

    line: int
    chrom: str
    start: int | None
    ref: str
    alt: str
    hgvs: str = ""
    editor: str = ""
    strand: str | None = None

    @property
    def given(self) -> str:
        """For people: the name, target and editor, or the change as in a VCF."""
        if self.hgvs:
            return self.hgvs
        place = f"{self.chrom}:{'?' if self.start is None else self.start + 1}"
        if self.editor:
            return f"{place} {self.editor}{f' ({self.strand})' if self.strand else ''}"
        return f"{place} {self.ref}>{self.alt}"


class Allele(NamedTuple):
    """A left-aligned allele of the reference; `start` is 0-based."""

    chrom: str
    start: int
    ref: str
    alt: str

    @property
    def variant_id(self) -> str:
        return f"{self.chrom}-{self.start + 1}-{self.ref}-{self.alt}"


class Skipped(Exception):
    """An edit that has no allele, with the reason."""

    def __init__(self, reason: Reason | EditReason, detail: str = "") -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def read_edits(path: Path, names: ContigNames, editors: Mapping[str, Editor]) -> tuple[dict[str, list[Row]], int]:
    """Rows of each id, ids in order of appearance, and the number of rows.

    Args:
        path: a table with the columns `COLUMNS` or some of them, plain or gzip, or a VCF or BCF file. A record with
            several ALT and an ID that no other record has gives the ids ID/1, ID/2 and so on; without ID its alleles
            are named chrom-pos-ref-alt.

    Raises:
        BadInput: a file that is neither, a row without id or with more cells than columns, one that says its change in
            two ways, or an editor or strand that does not exist.
    """
    require_file(path, "table of edits, VCF or BCF file")
    with open_text(path) as lines:
        is_vcf = is_bcf(path) or next(lines, "").startswith("##fileformat=VCF")
    rows = _vcf_rows(path, names) if is_vcf else _table_rows(path, editors)
    groups: dict[str, list[Row]] = defaultdict(list)
    several = set()
    count = 0
    for identifier, alternates in rows:
        count += 1
        if len(alternates) > 1 and identifier not in groups:
            several.add(identifier)
        else:
            several.discard(identifier)
        groups[identifier] += alternates
    if not groups:
        raise BadInput(f"{path}: found no edit below the header; expected one on each line; check the file")
    if several:
        groups = _numbered(path, groups, several)
    return dict(groups), count


def _numbered(path: Path, groups: Mapping[str, list[Row]], several: set[str]) -> dict[str, list[Row]]:
    """The alleles of each record of `several`, apart."""
    apart: dict[str, list[Row]] = defaultdict(list)
    for identifier, rows in groups.items():
        if identifier not in several:
            apart[identifier] += rows
            continue
        for number, row in enumerate(rows, 1):
            apart[_numbered_id(path, identifier, number, groups)].append(row)
    return apart


def _numbered_id(path: Path, identifier: str, number: int, groups: Mapping[str, list[Row]]) -> str:
    """Id of one of several edits that an id stands for."""
    own = f"{identifier}/{number}"
    if own in groups:
        raise BadInput(
            f"{path}, line {groups[own][0].line}: the id '{own}' is also that of an edit that comes from "
            f"'{identifier}'; expected ids that differ; rename one of them"
        )
    return own


def _table_rows(path: Path, editors: Mapping[str, Editor]) -> Iterator[tuple[str, list[Row]]]:
    """Id and row of each line of a table."""
    with open_text(path) as lines:
        header = [name.strip().lower() for name in next(lines, "").split("\t")]
        header[:1] = [name.removeprefix("#") for name in header[:1]]
        known = [name for name in header if name in COLUMNS]
        ways = ({"chrom", "pos", "ref", "alt"}, {"hgvs"}, {"chrom", "pos", "editor"})
        if "id" not in known or len(set(known)) < len(known) or not any(way <= set(known) for way in ways):
            raise BadInput(
                f"{path}, line 1: found the columns {', '.join(header)[:80]}; expected id with chrom, pos, ref, alt, "
                "or with hgvs, or with chrom, pos, editor, separated by tabs, or a VCF; correct the header"
            )
        for line, text in enumerate(lines, 2):
            if text.isspace():
                continue
            values = text.rstrip("\r\n").split("\t")
            if len(values) > len(header):
                raise BadInput(
                    f"{path}, line {line}: found {len(values)} cells, expected at most {len(header)}, as in the "
                    "header; correct the line"
                )
            cell = dict.fromkeys(COLUMNS, "") | dict(zip(header, map(str.strip, values), strict=False))
            yield cell["id"], [_table_row(path, line, cell, editors)]


def _table_row(path: Path, line: int, cell: Mapping[str, str], editors: Mapping[str, Editor]) -> Row:
    if not cell["id"]:
        raise BadInput(f"{path}, line {line}: the id is empty; expected a name for the edit; give one")
    ways = [cell["hgvs"], cell["editor"], cell["ref"] or cell["alt"]]
    if sum(map(bool, ways)) > 1:
        raise BadInput(
            f"{path}, line {line}: the edit '{cell['id']}' is described in two ways ({', '.join(filter(None, ways))}); "
            "expected ref and alt, or hgvs, or an editor; leave the others empty"
        )
    if cell["editor"] and cell["editor"] not in editors:
        raise BadInput(
            f"{path}, line {line}: no base editor '{cell['editor']}' is known; expected one of {', '.join(editors)}; "
            "correct the name, or describe it in editing.editors"
        )
    if cell["editor"] and cell["strand"] not in ("", "+", "-", "."):
        raise BadInput(
            f"{path}, line {line}: found the strand '{cell['strand']}', expected + or - for guides of that strand, or "
            "nothing for both; correct it"
        )
    pos = cell["pos"]
    placed = _NUMBER.match(pos) and int(pos) <= LAST_POSITION
    return Row(
        line,
        cell["chrom"],
        int(pos) - 1 if placed else None,
        cell["ref"],
        cell["alt"],
        cell["hgvs"],
        cell["editor"],
        cell["strand"] if cell["strand"] in ("+", "-") else None,
    )


def _vcf_rows(path: Path, names: ContigNames) -> Iterator[tuple[str, list[Row]]]:
    """Id and alternate alleles of each record; alleles without id are named by what they are."""
    vcf = VcfFile(path)
    check_assembly(path, vcf.header, names)
    for record in vcf:
        alternates = [Row(record.line, record.chrom, record.start, record.ref, alt) for alt in record.alts or (".",)]
        if record.id not in ("", "."):
            yield record.id, alternates
            continue
        for row in alternates:
            pos = "?" if row.start is None else row.start + 1
            yield f"{row.chrom}-{pos}-{row.ref}-{row.alt}", [row]


def trimmed(start: int, ref: str, alt: str) -> Change:
    """A change without the bases that REF and ALT share, at the start first, where a VCF has one."""
    shared, shorter = 0, min(len(ref), len(alt))
    while shared < shorter and ref[shared] == alt[shared]:
        shared += 1
    start, ref, alt = start + shared, ref[shared:], alt[shared:]
    shared, shorter = 0, min(len(ref), len(alt))
    while shared < shorter and ref[-1 - shared] == alt[-1 - shared]:
        shared += 1
    return start, ref[: len(ref) - shared], alt[: len(alt) - shared]


@dataclass
class EditReader:
    """Turns what is given of an edit into one allele.

    Attributes:
        max_length: longest REF or ALT of one change, in bases. max_span: most bases from first to last change.
        contigs_mapped: contig as given -> of the reference, where they differ.
    """

    path: Path
    genome: Genome
    names: ContigNames
    hgvs: HgvsNames
    max_length: int
    max_span: int
    contigs_mapped: dict[str, str] = field(default_factory=dict)

    def contig(self, name: str) -> str:
        """The reference's name of a contig."""
        resolved = self.names.resolve(name)
        if resolved is None:
            raise Skipped(Reason.CONTIG_NOT_IN_REFERENCE, f"'{name}'")
        if resolved != name:
            self.contigs_mapped[name] = resolved
        return resolved

    def changes(self, row: Row) -> tuple[str, list[Change]]:
        """Contig and changes of a row that names no editor.

        Raises:
            Skipped: REF is not there, or it or ALT has no sequence.
            BadInput: an HGVS name that does not fit.
        """
        if row.hgvs:
            return self.hgvs.changes(row.hgvs, f"{self.path}, line {row.line}")
        if row.start is None:
            raise Skipped(Reason.MALFORMED_RECORD, row.given)
        chrom = self.contig(row.chrom)
        ref, alt = row.ref.upper(), row.alt.upper()
        if reason := allele_reason(ref, alt):
            raise Skipped(reason, row.given)
        there = self.genome.fetch(chrom, row.start, row.start + len(ref)) if row.start >= 0 else ""
        if there != ref:
            raise Skipped(Reason.REF_MISMATCH, f"{row.given}, where the reference has {there[:20] or 'no base'}")
        return chrom, [(row.start, ref, alt)]

    def haplotype(self, rows: Sequence[Row]) -> tuple[Allele, list[Change]]:
        """One allele of all changes of an id, and the changes, which are trimmed and ascending.

        Raises:
            Skipped, BadInput: as `changes` and `join` say, or the changes lie on several contigs.
        """
        # a name that does not fit stops the run whatever the other rows say
        given = [self.changes(row) for row in sorted(rows, key=lambda row: not row.hgvs)]
        chroms = {chrom for chrom, _ in given}
        if len(chroms) > 1:
            raise Skipped(EditReason.SEVERAL_CONTIGS, ", ".join(sorted(chroms)))
        return self.join(chroms.pop(), [change for _, changes in given for change in changes])

    def join(self, chrom: str, changes: Sequence[Change]) -> tuple[Allele, list[Change]]:
        """The allele from the first to the last changed base, with all changes made.

        Raises:
            Skipped: the changes overlap, are too long or too far apart, have unknown bases, or change nothing.
        """
        steps = sorted({trimmed(*change) for change in changes})
        steps = [step for step in steps if step[1] != step[2]]
        if not steps:
            raise Skipped(Reason.NO_ALTERNATE_ALLELE, "the reference stays as it is")
        for (start, ref, _), (other, other_ref, _) in pairwise(steps):
            # Two insertions between the same bases could stand in either order.
            if other < start + len(ref) or (other == start and not ref and not other_ref):
                raise Skipped(EditReason.CHANGES_OVERLAP, _short(steps))
        # Where one allele is empty, a VCF has another base.
        if any(max(len(ref), len(alt)) + (not ref or not alt) > self.max_length for _, ref, alt in steps):
            raise Skipped(Reason.ALLELE_TOO_LONG, _short(steps))
        first, last = steps[0][0], max(start + len(ref) for start, ref, _ in steps)
        if len(steps) > 1 and last - first > self.max_span:
            raise Skipped(EditReason.CHANGES_TOO_FAR_APART, f"{last - first} bases")
        reference = self.genome.fetch(chrom, first, last)
        pieces, place = [], first
        for start, ref, alt in steps:
            pieces += (reference[place - first : start - first], alt)
            place = start + len(ref)
        changed = "".join(pieces)
        if changed == reference:
            raise Skipped(Reason.NO_ALTERNATE_ALLELE, _short(steps))
        if set(reference + changed) - set(BASES):  # left-aligning would walk through all of a run of N
            raise Skipped(Reason.AMBIGUOUS_BASE, _short(steps))
        allele = Allele(chrom, *left_align(self.genome.contig(chrom), first, reference, changed))
        if reason := allele_reason(allele.ref, allele.alt):
            raise Skipped(reason, allele.variant_id)
        return allele, steps

    def outcomes(self, row: Row, editor: Editor, most: int) -> tuple[str, list[Outcome]]:
        """Contig, and what a base editor may do at its target.

        Raises:
            Skipped: no guide reaches it.
        """
        if row.start is None:
            raise Skipped(Reason.MALFORMED_RECORD, row.given)
        chrom = self.contig(row.chrom)
        place = {"strand": row.strand}
        found = outcomes(self.genome.fetch, chrom, row.start, editor, most=most, **place)
        if not found:
            why = why_no_guide(self.genome.fetch, chrom, row.start, editor, **place)
            raise Skipped(EditReason.NO_GUIDE, f"{row.given}: {why}")
        return chrom, found


def _short(changes: Sequence[Change]) -> str:
    """Changes for a log, however long they are."""
    return ";".join(f"{start + 1} {ref[:20] or '-'}>{alt[:20] or '-'}" for start, ref, alt in changes[:10])


def written(genome: Genome, chrom: str, changes: Sequence[Change]) -> str:
    """Changes for people, as pos ref>alt joined by ';'; pos is 1-based, and no allele is empty, as in a VCF."""
    texts = []
    for start, ref, alt in changes:
        if not (ref and alt):
            start, ref, alt = left_align(genome.contig(chrom), start, ref, alt)
        texts.append(f"{start + 1} {ref}>{alt}")
    return ";".join(texts)


def edits_schema():
    """Arrow schema of a table of `columns.EDITS`."""
    return rows_schema(EDITS, ("line", "guide_start", "guide_end", "target_in_guide", "bystanders"))


@dataclass
class EditWriter:
    """Rows of the edits, their alleles, and the alleles nearby with which each is compared."""

    path: Path
    genome: Genome
    around: int
    edits: RowWriter
    nearby: RowWriter
    alleles: Spill
    counts: Counter = field(default_factory=Counter)
    compared: set[str] = field(default_factory=set)

    def skip(self, identifier: str, rows: Sequence[Row], skipped: Skipped, made: Outcome | None = None) -> None:
        """An edit without an allele."""
        reason, line = skipped.reason, rows[0].line
        log.warning("%s, line %d: edit '%s' is skipped, %s: %s", self.path, line, identifier, reason, skipped)
        self._edit(identifier, rows, "", made, "", Status.SKIPPED, reason)

    def add(
        self, identifier: str, rows: Sequence[Row], allele: Allele, steps: Sequence[Change], made: Outcome | None = None
    ) -> None:
        """An edit with its allele. The first edit of an allele tells its shape."""
        own = allele.variant_id
        changes = written(self.genome, allele.chrom, steps)
        self._edit(identifier, rows, changes, made, own, Status.SCORED, "")
        self._allele(allele, 1, str(self.path), rows[0].line, identifier)
        if own in self.compared:
            return
        self.compared.add(own)
        if not self.around:
            return
        shape = steps if len(steps) > 1 else None
        for place in nearby_shapes(self.genome.fetch, allele.chrom, allele[1:], self.around, shape):
            other = Allele(allele.chrom, *place)
            if other != allele:
                self._allele(other, 0, "", None, ".")
                self.nearby.add((own, other.variant_id))

    def _edit(self, identifier, rows, changes, made: Outcome | None, variant_id, status, reason) -> None:
        given = "; ".join(dict.fromkeys(row.given for row in rows))
        guide = (rows[0].editor, "", "", "", None, None, None, "", None)
        if made is not None:
            edited = ",".join(map(str, made.edited))
            guide = (rows[0].editor, made.guide, made.pam, made.strand, made.start, made.end)
            guide += (made.target_number, edited, made.bystanders)
        self.edits.add((identifier, rows[0].line, given, changes, *guide, variant_id, str(status), str(reason)))
        self.counts[str(status), str(reason)] += 1

    def _allele(self, allele: Allele, count: int, file: str, line: int | None, identifier: str) -> None:
        chrom, start, ref, alt = allele
        place = (chrom, start + 1, ref, alt)
        source = (file, line, *place, identifier, "")
        self.alleles.add((allele.variant_id, *place, count, Status.SCORED, "", *source))


def unique_alleles(rows):
    """Unique alleles of whole contigs, sorted; of equal ones an edit's row is kept, with the number of edits."""
    return collapse(rows.sort_values("input_count", ascending=False, kind="stable"))


def list_edits(
    path: Path,
    fasta: Path,
    names: ContigNames,
    output: Path,
    *,
    genes: Path | None,
    order: Sequence[str],
    editors: Mapping[str, Editor],
    most_outcomes: int,
    nearby: int,
    max_length: int,
    max_span: int,
) -> dict:
    """Write `edits.parquet`, `nearby.parquet` and `variants.parquet` into `output` and return the summary.

    Args:
        path: the edits, as `read_edits` takes them.
        fasta: the prepared reference. genes: prepared gene models, for names of transcripts.
        order: which transcript stands for a gene, as `protein.transcripts` says.
        editors: base editors by name. most_outcomes: of one guide that are listed.
        nearby: bases either side within which alleles of the same shape are listed; 0 for none.
        max_length: longest change, in bases, that is scored. max_span: most bases from first to last change of an id.

    Returns:
        As `normalise_variants` does, counting edits as input and no allele that is only nearby, and `nearby_alleles`.

    Raises:
        BadInput: what `read_edits` and `HgvsNames.changes` refuse, or an id of a base editor that has further rows.
    """
    groups, count = read_edits(path, names, editors)
    genome = Genome(fasta)
    hgvs = HgvsNames(
        genome.fetch, names, genes, order, {row.hgvs for rows in groups.values() for row in rows if row.hgvs}
    )
    reader = EditReader(path, genome, names, hgvs, max_length, max_span)
    spill = output / ".partial-spill"
    shutil.rmtree(spill, ignore_errors=True)
    variant_schema, _ = table_schemas()
    try:
        with full_disk_named(output), ExitStack() as stack:
            tables = []
            for name, schema in (("edits", edits_schema()), ("nearby", nearby_schema())):
                partial = stack.enter_context(written_whole(output / f"{name}.parquet"))
                tables.append(stack.enter_context(RowWriter(partial, schema)))
            alleles = Spill(spill / "variants.arrow", variant_schema)
            writer = EditWriter(path, genome, nearby, *tables, alleles)
            for identifier, rows in groups.items():
                add_edits(writer, reader, identifier, rows, groups, editors, most_outcomes)
            alleles.finish()
            chroms = [name for name in names.contigs if name in alleles.batches]
            unique = gather(alleles, chroms, output / "variants.parquet", unique_alleles)
    finally:
        shutil.rmtree(spill, ignore_errors=True)
    source = FileSummary(str(path), 0, count, sum(writer.counts.values()), reader.contigs_mapped)
    return summarise(source, writer, unique[Status.SCORED, "", "unique"])


def add_edits(
    writer: EditWriter,
    reader: EditReader,
    identifier: str,
    rows: Sequence[Row],
    groups: Mapping[str, list[Row]],
    editors: Mapping[str, Editor],
    most_outcomes: int,
) -> None:
    """The edit, or the outcomes of a base editor, that an id stands for."""
    editor_rows = [row for row in rows if row.editor]
    if editor_rows and len(rows) > 1:
        raise BadInput(
            f"{reader.path}, line {rows[1].line}: the id '{identifier}' stands on line {rows[0].line} too, and one of "
            "them names a base editor, whose outcomes are edits of their own; expected an id of its own; rename it"
        )
    if not editor_rows:
        add_edit(writer, identifier, rows, lambda: reader.haplotype(rows))
        return
    try:
        chrom, found = reader.outcomes(rows[0], editors[rows[0].editor], most_outcomes)
    except Skipped as skipped:
        writer.skip(identifier, rows, skipped)
        return
    for number, outcome in enumerate(found, 1):
        own = _numbered_id(reader.path, identifier, number, groups)
        add_edit(writer, own, rows, lambda made=outcome: reader.join(chrom, made.changes), outcome)


def add_edit(
    writer: EditWriter,
    identifier: str,
    rows: Sequence[Row],
    join: Callable[[], tuple[Allele, list[Change]]],
    made: Outcome | None = None,
) -> None:
    """An edit with the allele that `join` gives, or with the reason why it gives none."""
    try:
        writer.add(identifier, rows, *join(), made)
    except Skipped as skipped:
        writer.skip(identifier, rows, skipped, made)


def nearby_schema():
    """Arrow schema of a table of `columns.NEARBY`."""
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in NEARBY])


def summarise(source: FileSummary, writer: EditWriter, alleles: int) -> dict:
    """The accounting of edits: each is scored or skipped."""
    edited = len(writer.compared)
    table = [
        {"status": status, "reason": reason, "unique": edited if status == Status.SCORED else count, "input": count}
        for (status, reason), count in sorted(writer.counts.items())
    ]
    unique = sum(row["unique"] for row in table)
    return {
        "files": [vars(source)],
        "input_alleles": source.alleles,
        "unique_alleles": unique,
        "merged_equivalent": source.alleles - unique,
        "ref_alt_swapped": 0,
        "by_status_reason": table,
        "nearby_alleles": alleles - edited,
    }
