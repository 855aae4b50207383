"""Alleles that share a codon, and on how many phased chromosomes they lie together.

Genotypes are read from the input files a second time, at the records of such alleles alone: through the file's index
where it has one, or else line by line without parsing the others. Memory depends on the codons that are open at one
place, not on the number of records or samples. Chromosomes are told apart as the VCF specification has it: by the place
in GT within one phase set (PS); records without PS are one set.
"""

from __future__ import annotations

import heapq
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from seqprior.contigs import ContigNames
from seqprior.files import open_text
from seqprior.vcf import VcfFile, is_bcf, open_bcf

log = logging.getLogger(__name__)

SPAN_GAP = 65_536  # bases between records above which an index is asked anew
UNPHASED = "unphased"  # no phase set's name: those are numbers, "." or, in this module, "" for none

Allele = tuple[str, int, str, str]  # variant_id, start (0-based), REF and ALT as the file has them


class Member(NamedTuple):
    """An allele of a cluster and the codons that it changes, [first, last]."""

    variant: str
    first: int
    last: int


class CodonMates:
    """Alleles of one contig by the codons of transcripts that they change."""

    def __init__(self) -> None:
        self._touched: dict[int, dict[Member, bool]] = defaultdict(dict)

    def add(self, variant: str, owner: int, start: int, end: int, chosen: bool) -> None:
        """Note an edit of bases [start, end) of a transcript; `chosen` if it is the allele's transcript.

        An insertion between two codons changes neither.
        """
        if start == end and start % 3 == 0:
            return
        self._touched[owner][Member(variant, start // 3, max(start, end - 1) // 3)] = chosen

    def clusters(self) -> Iterator[tuple[int, list[Member]]]:
        """(transcript, alleles linked by shared codons), two or more of which one at least has this transcript."""
        for owner, touched in self._touched.items():
            for members in linked(list(touched)):
                if len(members) > 1 and any(touched[member] for member in members):
                    yield owner, members


def linked(members: list[Member]) -> list[list[Member]]:
    """Groups of alleles, each linked to the others of its group by codons that two of them share."""
    groups: list[list[Member]] = []
    reach = -1
    for member in sorted(members, key=lambda member: (member.first, member.last, member.variant)):
        if groups and member.first <= reach:
            groups[-1].append(member)
        else:
            groups.append([member])
            reach = -1
        reach = max(reach, member.last)
    return groups


@lru_cache(maxsize=10_000)
def parse_genotype(text: str) -> tuple[tuple[str, ...], bool]:
    """Allele numbers and whether the call is phased; homozygous and haploid calls are."""
    plain = text.lstrip("|/")  # VCF 4.4 may begin with the first allele's phase
    alleles = tuple(plain.replace("|", "/").split("/"))
    whole = "." not in alleles and len(set(alleles)) == 1
    return alleles, whole or "/" not in plain


@dataclass
class Cluster:
    """Alleles linked by shared codons of one transcript, and what samples carry of them while a file is read.

    Attributes:
        end: position (1-based) of the last record with one of them.
        carried: by sample, each allele's chromosomes and phase set; None where it is homozygous.
    """

    owner: int
    members: list[Member]
    end: int = 0
    carried: dict[int, dict[str, tuple[tuple[int, ...], str | None]]] = field(default_factory=dict)
    written: dict[str, Allele] = field(default_factory=dict)

    def count(self, haplotypes: Counter) -> None:
        """Add the haplotypes of all samples, by (transcript, alleles), and forget them."""
        by_variant = {member.variant: member for member in self.members}
        for own in self.carried.values():
            if len(own) < 2:
                continue
            for group in linked([by_variant[variant] for variant in own]):
                phases = {own[member.variant][1] for member in group} - {None}
                if len(group) < 2 or UNPHASED in phases or len(phases) > 1:
                    continue
                for chromosome in sorted({one for member in group for one in own[member.variant][0]}):
                    together = [member for member in group if chromosome in own[member.variant][0]]
                    for mates in linked(together):
                        if len(mates) > 1:
                            alleles = (self.written[mate.variant] for mate in mates)
                            key = tuple(sorted(alleles, key=lambda allele: (allele[1], allele[0])))
                            haplotypes[self.owner, key] += 1
        self.carried = {}


class OpenContig:
    """The clusters of one contig while a file is read."""

    def __init__(self, path: Path) -> None:
        kept = json.loads(path.read_text())
        self.records = {(pos, ref, alts): variants for pos, ref, alts, variants in kept["records"]}
        self.clusters = [Cluster(owner, [Member(*one) for one in members]) for owner, members in kept["clusters"]]
        self._of: dict[str, list[int]] = defaultdict(list)
        for number, cluster in enumerate(self.clusters):
            for member in cluster.members:
                self._of[member.variant].append(number)
        for (pos, _, _), variants in self.records.items():
            for variant in variants:
                for number in self._of.get(variant, ()):
                    self.clusters[number].end = max(self.clusters[number].end, pos)
        self.last = 0
        self._open: list[tuple[int, int]] = []

    def add(self, pos: int, ref: str, alts: str, line: str) -> None:
        """Take up what samples carry of a record of this contig."""
        variants = self.records[pos, ref, alts]
        written = alts.split(",")
        numbers = {str(index + 1): variant for index, variant in enumerate(variants) if variant}
        for index, variant in enumerate(variants):
            for number in self._of.get(variant, ()):
                cluster = self.clusters[number]
                cluster.written.setdefault(variant, (variant, pos - 1, ref.upper(), written[index].upper()))
                heapq.heappush(self._open, (cluster.end, number))
        for sample, alleles, phase in called(line):
            for allele in {*alleles} & numbers.keys():
                variant = numbers[allele]
                chromosomes = tuple(index for index, one in enumerate(alleles) if one == allele)
                own = chromosomes, (None if len(chromosomes) == len(alleles) else phase)
                for number in self._of[variant]:
                    self.clusters[number].carried.setdefault(sample, {}).setdefault(variant, own)

    def close_before(self, pos: int | None, haplotypes: Counter) -> None:
        """Count the clusters that end before `pos`, or all."""
        while self._open and (pos is None or self._open[0][0] < pos):
            self.clusters[heapq.heappop(self._open)[1]].count(haplotypes)


def called(line: str) -> Iterator[tuple[int, tuple[str, ...], str]]:
    """(sample, allele numbers, phase set) of the samples of a VCF line that carry an alternate allele."""
    columns = line.rstrip("\r\n").split("\t")
    keys = columns[8].split(":") if len(columns) > 9 else []
    if not keys or keys[0] != "GT":
        return
    at = keys.index("PS") if "PS" in keys else 0
    for sample, text in enumerate(columns[9:]):
        if text[:3] in ("0|0", "0/0", "./.", ".|.") and text[3:4] in ("", ":"):
            continue
        values = text.split(":")
        alleles, phased = parse_genotype(values[0])
        if not phased:
            yield sample, alleles, UNPHASED
        elif at and at < len(values) and values[at] != ".":
            yield sample, alleles, values[at]
        else:
            yield sample, alleles, ""


class NotSorted(Exception):
    """A file's records do not stand in the order of positions."""


class SharedCodons:
    """The clusters of all contigs, kept on disk until the files are read."""

    def __init__(self, folder: Path, names: ContigNames) -> None:
        self._folder, self._names = folder, names
        self._kept: dict[str, Path] = {}

    def keep(self, contig: str, mates: CodonMates, records: Path) -> None:
        """Keep the clusters of a contig with the records that hold their alleles.

        Args:
            records: `records.parquet` of the variants stage.
        """
        import pyarrow.dataset as ds

        clusters = list(mates.clusters())
        if not clusters:
            return
        wanted = {member.variant for _, members in clusters for member in members}
        rows = []
        columns = ["pos", "ref", "alts", "variant_ids"]
        scanner = ds.dataset(records).scanner(columns=columns, filter=ds.field("chrom") == contig, batch_size=65_536)
        for batch in scanner.to_batches():
            for pos, ref, alts, variants in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                if not wanted.isdisjoint(variants):
                    rows.append((pos, ref, alts, [one if one in wanted else "" for one in variants]))
        self._kept[contig] = self._folder / f"{len(self._kept)}.json"
        self._kept[contig].write_text(json.dumps({"clusters": clusters, "records": rows}))

    def carried(self, vcfs: Sequence[Path]) -> Iterator[tuple[str, list[tuple[int, tuple[Allele, ...], int]]]]:
        """(contig, haplotypes), each haplotype a transcript's number, its alleles and the chromosomes with it."""
        totals: dict[str, Counter] = {contig: Counter() for contig in self._kept}
        for path in vcfs if self._kept else ():
            try:
                found = self._read(path, ordered=True)
            except NotSorted:
                log.info("%s is not sorted by position, so its shared codons are held in memory", path)
                found = self._read(path, ordered=False)
            for contig, haplotypes in found.items():
                totals[contig].update(haplotypes)
        for contig, haplotypes in totals.items():
            if haplotypes:
                ordered = sorted(haplotypes.items(), key=lambda item: (item[0][1][0][1], item[0]))
                yield contig, [(owner, alleles, count) for (owner, alleles), count in ordered]

    def _read(self, path: Path, ordered: bool) -> dict[str, Counter]:
        """Haplotypes of one file by contig. With `ordered`, raises `NotSorted` at the first record out of order."""
        header = VcfFile(path).header
        found: dict[str, Counter] = defaultdict(Counter)
        if not header.samples:
            return found
        resolved = {name: self._names.resolve(name, header.contigs.get(name)) for name in header.contigs}
        opened: dict[str, OpenContig] = {}
        done: set[str] = set()
        current = ""
        for name, pos, ref, alts, line in self._lines(path, resolved):
            if name not in resolved:
                resolved[name] = self._names.resolve(name)
            contig = resolved[name]
            if contig not in self._kept:
                continue
            if contig != current and ordered:
                if contig in done:
                    raise NotSorted
                if current:
                    opened.pop(current).close_before(None, found[current])
                    done.add(current)
            current = contig
            if contig not in opened:
                opened[contig] = OpenContig(self._kept[contig])
            clusters = opened[contig]
            if (pos, ref, alts) not in clusters.records:
                continue
            if ordered:
                if pos < clusters.last:
                    raise NotSorted
                clusters.last = pos
                clusters.close_before(pos, found[contig])
            clusters.add(pos, ref, alts, line())
        for contig, clusters in opened.items():
            clusters.close_before(None, found[contig])
        return found

    def _lines(self, path: Path, resolved: dict[str, str | None]):
        """Records as (contig, position, REF, ALT, function that gives the line), all or those an index leads to."""
        if is_bcf(path):
            with open_bcf(path) as handle:
                for record in handle:
                    yield record.chrom, record.pos, record.ref, ",".join(record.alts or ()), record.__str__
        elif any(Path(f"{path}{ending}").is_file() for ending in (".tbi", ".csi")):
            yield from self._indexed_lines(path, resolved)
        else:
            with open_text(path) as lines:
                for line in lines:
                    if line[0] != "#" and (parsed := _split(line)):
                        yield parsed

    def _indexed_lines(self, path: Path, resolved: dict[str, str | None]):
        import pysam

        with pysam.TabixFile(str(path)) as table:
            for name in table.contigs:
                contig = resolved[name] if name in resolved else self._names.resolve(name)
                if contig not in self._kept:
                    continue
                places = sorted({row[0] for row in json.loads(self._kept[contig].read_text())["records"]})
                for first, last in _spans(places):
                    for line in table.fetch(name, first - 1, last):
                        parsed = _split(line)
                        if parsed and first <= parsed[1] <= last:
                            yield parsed


def _split(line: str):
    """Contig, position, REF, ALT and a function that gives the line; None for a line that is no record."""
    columns = line.split("\t", 5)
    if len(columns) < 6 or not (columns[1].isascii() and columns[1].isdecimal()):
        return None
    return columns[0], int(columns[1]), columns[3], columns[4], lambda: line


def _spans(places: list[int]) -> Iterator[tuple[int, int]]:
    """First and last of runs of ascending positions without a large gap."""
    first = last = None
    for place in places:
        if last is not None and place - last > SPAN_GAP:
            yield first, last
            first = None
        first = place if first is None else first
        last = place
    if first is not None:
        yield first, last
