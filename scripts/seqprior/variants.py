"""From any VCF to unique, left-aligned, reference-checked alleles, each with a status and a reason.

Normal form follows Tan, Abecasis and Kang (2015), doi:10.1093/bioinformatics/btv112: parsimonious and left-aligned, as
`bcftools norm` gives it. Rows are spilled to disk and gathered contig by contig, so memory depends on the largest
contig alone, never on the number of samples, files or records.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from seqprior.columns import VARIANTS, Reason, Status
from seqprior.contigs import CONTIG_NAME, ContigNames
from seqprior.errors import BadInput
from seqprior.files import full_disk_named, written_whole
from seqprior.vcf import VcfFile, VcfHeader, VcfRecord, annotation_by_allele

log = logging.getLogger(__name__)

_BASES = re.compile(r"[ACGT]+\Z")
_LETTERS = re.compile(r"[A-Za-z]+\Z")
_PRINTABLE = re.compile(r"[!-~]+\Z")
_ALT = re.compile(r"[!-+\--:<-~]+\Z")  # printable, without the comma and semicolon that would end it
LAST_INDEXED = 2**29 - 1
MINIMUM_MISMATCHES = 3  # fewer than these never stop a run, whatever their share
SPILL_ROWS = 200_000
GATHER_ROWS = 50_000  # contigs with fewer rows are read back together

RECORDS = ("chrom", "pos", "id", "ref", "alts", "variant_ids")


class ReferenceSequence:
    """Upper-case contigs of an indexed FASTA; the last one asked for stays in memory (one byte a base)."""

    def __init__(self, fasta: Path) -> None:
        import pysam

        self._fasta = pysam.FastaFile(str(fasta))
        self._name, self._sequence = "", ""

    def contig(self, name: str) -> str:
        if name != self._name:
            self._sequence = self._fasta.fetch(name).upper()
            self._name = name
        return self._sequence


def left_align(sequence: str, start: int, ref: str, alt: str) -> tuple[int, str, str]:
    """Parsimonious, left-most form of an allele whose REF is `sequence[start:start + len(ref)]` and differs from ALT.

    Args:
        sequence: the contig, upper-case.
        start: 0-based.

    Returns:
        start, ref, alt. Both alleles keep at least one base; at a contig's first base the base after the event anchors.
    """
    shorter = min(len(ref), len(alt))
    shared = 0
    while shared < shorter and ref[-1 - shared] == alt[-1 - shared]:
        shared += 1
    ref, alt = ref[: len(ref) - shared], alt[: len(alt) - shared]
    if ref and alt:
        shared = 0
        while shared < min(len(ref), len(alt)) - 1 and ref[shared] == alt[shared]:
            shared += 1
        return start + shared, ref[shared:], alt[shared:]
    event = ref or alt  # deleted or inserted; it rolls over bases before it that equal its end
    rolled = 0
    while rolled < start and sequence[start - 1 - rolled] == event[-1 - rolled % len(event)]:
        rolled += 1
    turn = len(event) - rolled % len(event)
    event, start = event[turn:] + event[:turn], start - rolled
    ref, alt = (event, "") if ref else ("", event)
    if start > 0:
        anchor = sequence[start - 1]
        return start - 1, anchor + ref, anchor + alt
    anchor = sequence[len(ref)]
    return 0, ref + anchor, alt + anchor


def writable(record: VcfRecord, alts: tuple[str, ...]) -> bool:
    """True if a VCF and its tabix index can hold the record: a valid contig name, a position from 1 to 2^29 - 1."""
    placed = record.start is not None and 0 <= record.start < LAST_INDEXED
    return placed and bool(
        CONTIG_NAME.match(record.chrom) and _LETTERS.match(record.ref) and all(map(_ALT.match, alts))
    )


def allele_reason(ref: str, alt: str) -> Reason | None:
    """Why REF and ALT, as written and upper-cased, cannot be an allele with a sequence; None if they can."""
    if not _LETTERS.match(ref):
        return Reason.MALFORMED_RECORD
    if alt == "*":
        return Reason.SPANNING_DELETION
    if alt == "." or alt == ref:
        return Reason.NO_ALTERNATE_ALLELE
    if not alt:
        return Reason.MALFORMED_RECORD
    if alt[0] == "<" or alt[0] == "." or alt[-1] == "." or "[" in alt or "]" in alt:
        return Reason.SYMBOLIC_ALLELE
    if not _LETTERS.match(alt):
        return Reason.MALFORMED_RECORD
    if not _BASES.match(ref) or not _BASES.match(alt):
        return Reason.AMBIGUOUS_BASE
    return None


@dataclass
class FileSummary:
    """Counts of one input file."""

    path: str
    samples: int
    records: int = 0
    alleles: int = 0
    contigs_mapped: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, list[str]] = field(default_factory=dict)


class AlleleReader:
    """Turns the records of one file into rows of `VARIANTS` and `RECORDS`."""

    def __init__(
        self, path: Path, header: VcfHeader, names: ContigNames, reference: ReferenceSequence, max_length: int
    ) -> None:
        self.names, self.reference, self.max_length = names, reference, max_length
        self.lengths = header.contigs
        self.summary = FileSummary(str(path), len(header.samples), annotations=header.annotations)
        self.checked = self.mismatched = self.swapped = 0
        self.first_mismatch = ""
        self._resolved: dict[str, str | None] = {}

    def contig(self, name: str) -> str | None:
        """The reference's name of a contig, or None."""
        if name not in self._resolved:
            resolved = self.names.resolve(name, self.lengths.get(name))
            self._resolved[name] = resolved
            if resolved is not None and resolved != name:
                self.summary.contigs_mapped[name] = resolved
        return self._resolved[name]

    def rows(self, record: VcfRecord) -> tuple[list[tuple], tuple | None]:
        """Rows of `VARIANTS` (one per alternate allele) and the row of `RECORDS` (None if it cannot be written)."""
        self.summary.records += 1
        resolved = self.contig(record.chrom)
        alts = record.alts or (".",)
        annotations = [""] * len(alts)
        if record.annotation:
            annotations = annotation_by_allele(record.annotation, self.summary.annotations, record.ref, alts)
        alleles = []
        for written, annotation in zip(alts, annotations, strict=True):
            self.summary.alleles += 1
            ref, alt = record.ref.upper(), written.upper()
            chrom, start = resolved or record.chrom, record.start
            reason = self._reason(record, resolved, ref, alt)
            if reason is None:
                start, ref, alt = left_align(self.reference.contig(chrom), start, ref, alt)
                if max(len(ref), len(alt)) > self.max_length:
                    reason = Reason.ALLELE_TOO_LONG
            pos = input_pos = None
            variant_id = f"{self.summary.path}:{record.line}"
            if start is not None:
                pos, input_pos = start + 1, record.start + 1
                # A contig of the reference's name but another length is another contig: its alleles stay apart.
                apart = f"{self.summary.path}:" if resolved is None and self.names.resolve(chrom) is not None else ""
                variant_id = f"{apart}{chrom}-{pos}-{ref}-{alt}"
            status = Status.SCORED if reason is None else Status.SKIPPED
            original = (self.summary.path, record.line, record.chrom, input_pos, record.ref, written)
            alleles.append(
                (variant_id, chrom, pos, ref, alt, 1, status, reason or "", *original, record.id, annotation)
            )
        if any(allele[7] == Reason.MALFORMED_RECORD for allele in alleles) or not writable(record, alts):
            return alleles, None
        identifiers = [allele[0] for allele in alleles]
        written_id = record.id if _PRINTABLE.match(record.id) else "."
        return alleles, (
            resolved or record.chrom,
            record.start + 1,
            written_id,
            record.ref,
            ",".join(alts),
            identifiers,
        )

    def _reason(self, record: VcfRecord, resolved: str | None, ref: str, alt: str) -> Reason | None:
        if record.start is None:
            return Reason.MALFORMED_RECORD
        if resolved is None:
            return Reason.CONTIG_NOT_IN_REFERENCE
        reason = allele_reason(ref, alt)
        if reason is not None:
            return reason
        self.checked += 1
        sequence = self.reference.contig(resolved)
        if record.start >= 0 and sequence.startswith(ref, record.start):
            return None
        self.mismatched += 1
        self.swapped += record.start >= 0 and sequence.startswith(alt, record.start)
        if not self.first_mismatch:
            found = sequence[record.start : record.start + len(ref)] if record.start >= 0 else ""
            self.first_mismatch = (
                f"line {record.line} has REF {ref[:20]} at {record.chrom}:{record.start + 1} "
                f"where the reference has {found[:20] or 'no base'}"
            )
        return Reason.REF_MISMATCH

    def check(self, limit: float) -> None:
        """Raise `BadInput` if so many alleles disagree with the reference that it must be another assembly."""
        if self.mismatched >= MINIMUM_MISMATCHES and self.mismatched > limit * self.checked:
            raise BadInput(
                f"{self.summary.path}: {self.mismatched:,} of {self.checked:,} alleles do not match the reference "
                f"({self.first_mismatch}), more than the limit of {limit:.0%}; use the assembly that the file was "
                "called on, or raise reference.max_mismatch_share"
            )


def check_assembly(path: Path, header: VcfHeader, names: ContigNames) -> None:
    """Raise `BadInput` if more of the header's contigs contradict the reference's lengths than agree with them."""
    conflicts = []
    agreeing = 0
    for name, length in header.contigs.items():
        if length is None:
            continue
        contig = names.length_conflict(name, length)
        if contig is not None:
            conflicts.append(f"{name} is {length:,} bases long there and {contig.length:,} in the reference")
        elif names.resolve(name, length) is not None:
            agreeing += 1
    if len(conflicts) > agreeing:
        raise BadInput(
            f"{path}: the header describes another assembly ({conflicts[0]}); "
            "use the reference that the file was called on"
        )


class Spill:
    """Rows of one table in an Arrow file on disk, each batch of one contig, so that a contig is read back alone."""

    def __init__(self, path: Path, schema) -> None:
        import pyarrow as pa

        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.schema = path, schema
        self.batches: dict[str, list[int]] = {}
        self._writer = pa.ipc.new_file(str(path), schema, options=pa.ipc.IpcWriteOptions(compression="zstd"))
        self._contig = schema.get_field_index("chrom")
        self._rows: list[tuple] = []
        self._written = 0

    def add(self, row: tuple) -> None:
        self._rows.append(row)
        if len(self._rows) >= SPILL_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        by_contig: dict[str, list[tuple]] = {}
        for row in self._rows:
            by_contig.setdefault(row[self._contig], []).append(row)
        for contig, rows in by_contig.items():
            columns = zip(*rows, strict=True)
            arrays = [pa.array(column, type) for column, type in zip(columns, self.schema.types, strict=True)]
            self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self.schema))
            self.batches.setdefault(contig, []).append(self._written)
            self._written += 1
        self._rows = []

    def finish(self) -> None:
        """End writing."""
        self._flush()
        self._writer.close()

    def whole_contigs(self, order: Iterable[str]) -> Iterator:
        """Pandas frames of whole contigs, small ones together, each contig's rows in input order.

        `chrom` is categorical, so that sorting by it keeps `order`.
        """
        import pandas as pd
        import pyarrow as pa

        def frame():
            rows = pa.Table.from_batches(batches, schema=self.schema).to_pandas()
            rows["chrom"] = pd.Categorical(rows["chrom"], categories=names)
            return rows

        with pa.OSFile(str(self.path)) as source, pa.ipc.open_file(source) as reader:
            names, batches, count = [], [], 0
            for name in order:
                names.append(name)
                for number in self.batches.get(name, ()):
                    batches.append(reader.get_batch(number))
                    count += batches[-1].num_rows
                if count >= GATHER_ROWS:
                    yield frame()
                    names, batches, count = [], [], 0
            if batches:
                yield frame()


def table_schemas():
    """Arrow schemas of `variants.parquet` and `records.parquet`."""
    import pyarrow as pa

    numbers = {"pos": pa.int64(), "input_pos": pa.int64(), "input_line": pa.int64(), "input_count": pa.int64()}
    variants = pa.schema([(name, numbers.get(name, pa.string())) for name in VARIANTS])
    kinds = {"pos": pa.int64(), "variant_ids": pa.list_(pa.string())}
    return variants, pa.schema([(name, kinds.get(name, pa.string())) for name in RECORDS])


def collapse(rows):
    """Unique alleles of whole contigs, sorted: equivalent and repeated inputs become one row with their count.

    The row kept is the first that the input annotates, or else the first.
    """
    rows["input_count"] = rows.groupby("variant_id")["input_count"].transform("sum")
    rows = rows.sort_values("input_annotation", key=lambda annotation: annotation == "", kind="stable")
    unique = rows.drop_duplicates("variant_id")
    return unique.sort_values(["chrom", "pos", "ref", "alt", "variant_id"], kind="stable", na_position="last")


def normalise_variants(
    paths: Iterable[Path], fasta: Path, names: ContigNames, output: Path, *, max_length: int, max_mismatch_share: float
) -> dict:
    """Write `variants.parquet` and `records.parquet` into `output` and return the summary.

    Args:
        paths: VCF, VCF.gz or BCF files.
        fasta: the prepared reference.
        max_length: longest allele, in bases after normalisation, that is scored.
        max_mismatch_share: share of REF mismatches in a file above which it must be another assembly.

    Returns:
        `files`, `input_alleles`, `unique_alleles`, `merged_equivalent`, `ref_alt_swapped`, `by_status_reason`.

    Raises:
        BadInput: a file cannot be read or belongs to another assembly.
    """
    spill_folder = output / ".partial-spill"
    shutil.rmtree(spill_folder, ignore_errors=True)
    variant_schema, record_schema = table_schemas()
    alleles = Spill(spill_folder / "variants.arrow", variant_schema)
    records = Spill(spill_folder / "records.arrow", record_schema)
    reference = ReferenceSequence(fasta)
    try:
        with full_disk_named(output):
            readers = [
                read_file(path, names, reference, alleles, records, max_length, max_mismatch_share) for path in paths
            ]
            alleles.finish()
            records.finish()
            order = [name for name in names.contigs if name in alleles.batches]
            order += sorted(alleles.batches.keys() - names.contigs)
            counts = gather(alleles, order, output / "variants.parquet", collapse)
            gather(records, order, output / "records.parquet", unique_records)
    finally:
        shutil.rmtree(spill_folder, ignore_errors=True)
    return summarise(readers, counts)


def read_file(
    path: Path,
    names: ContigNames,
    reference: ReferenceSequence,
    alleles: Spill,
    records: Spill,
    max_length: int,
    max_mismatch_share: float,
) -> AlleleReader:
    """Spill the rows of one file."""
    vcf = VcfFile(path)
    check_assembly(path, vcf.header, names)
    reader = AlleleReader(path, vcf.header, names, reference, max_length)
    for record in vcf:
        rows, written = reader.rows(record)
        for row in rows:
            alleles.add(row)
        if written is not None:
            records.add(written)
    reader.check(max_mismatch_share)
    log.info("%s: %d alleles in %d records", path, reader.summary.alleles, reader.summary.records)
    return reader


def unique_records(rows):
    """Each input record once, sorted by position; records that hold different alleles stay apart."""
    key = rows.assign(alleles=rows["variant_ids"].map(tuple))
    kept = rows[~key.duplicated(["chrom", "pos", "ref", "alts", "alleles"])]
    return kept.sort_values(["chrom", "pos", "ref", "alts"], kind="stable")


def gather(spill: Spill, order: list[str], path: Path, reduce) -> Counter:
    """Write the reduced rows of every contig in order; returns counts by (status, reason) where there are any."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    counts: Counter = Counter()
    with written_whole(path) as partial, pq.ParquetWriter(partial, spill.schema, compression="zstd") as writer:
        for rows in spill.whole_contigs(order):
            frame = reduce(rows).astype({"chrom": str})
            if "status" in frame:
                grouped = frame.groupby(["status", "reason"])["input_count"]
                for key, (unique, total) in grouped.agg(["size", "sum"]).iterrows():
                    counts[(*key, "unique")] += int(unique)
                    counts[(*key, "input")] += int(total)
            writer.write_table(pa.Table.from_pandas(frame, schema=spill.schema, preserve_index=False))
    return counts


def summarise(readers: list[AlleleReader], counts: Counter) -> dict:
    """The accounting: its input counts add up to the number of input alleles."""
    keys = sorted({key[:2] for key in counts})
    table = [
        {"status": s, "reason": r, "unique": counts[s, r, "unique"], "input": counts[s, r, "input"]} for s, r in keys
    ]
    total = sum(reader.summary.alleles for reader in readers)
    unique = sum(row["unique"] for row in table)
    if sum(row["input"] for row in table) != total:
        raise AssertionError("the accounting of input alleles does not add up")
    return {
        "files": [vars(reader.summary) for reader in readers],
        "input_alleles": total,
        "unique_alleles": unique,
        "merged_equivalent": total - unique,
        "ref_alt_swapped": sum(reader.swapped for reader in readers),
        "by_status_reason": table,
    }


def require_samples(samples: Iterable[tuple[str, str]]) -> None:
    """Check the sample sheet against the files' headers; a file without genotypes goes with any sample.

    Raises:
        BadInput: a sample stands twice, or its file has genotypes of other samples only.
    """
    seen: set[str] = set()
    headers: dict[str, list[str]] = {}
    for sample, file in samples:
        if sample in seen:
            raise BadInput(f"sample {sample!r} stands twice in the sample sheet; give each sample one row")
        seen.add(sample)
        if file not in headers:
            headers[file] = VcfFile(Path(file)).header.samples
        present = headers[file]
        if present and sample not in present:
            raise BadInput(f"{file}: no sample {sample!r}; the file has {', '.join(present[:5])}; see the sample sheet")


def scored_alleles(path: Path, columns: tuple[str, ...]) -> Iterator:
    """Frames of the alleles that reached a sequence, row group by row group."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as table:
        for batch in table.iter_batches(columns=[*columns, "status"]):
            frame = batch.to_pandas()
            yield frame[frame["status"] == Status.SCORED].drop(columns="status")
