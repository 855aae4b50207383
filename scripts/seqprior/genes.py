"""Gene models from GFF3 or GTF, as the Ensembl-style GFF3 that `bcftools csq` reads.

Understands Ensembl, GENCODE, NCBI RefSeq and SGD files. Written per gene: the gene, its transcripts with biotype and
tags, their exons, UTRs and CDS parts with phase; stop codons belong to the CDS. A coding transcript also says, where
the source does, its genetic code (`transl_table`), codons that are read otherwise (`transl_except`), its protein's name
(`protein_id`) and UniProt accessions (`uniprot`). What csq would refuse or misread is left out and counted.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from seqprior.contigs import ContigNames
from seqprior.errors import BadInput
from seqprior.files import open_text, require_file, written_whole

if TYPE_CHECKING:
    import pandas

EXON, UTR, CDS, STOP = range(4)
KIND_OF_TYPE = {"exon": EXON, "noncoding_exon": EXON, "pseudogenic_exon": EXON, "CDS": CDS, "stop_codon": STOP}
KIND_OF_TYPE |= dict.fromkeys(("five_prime_UTR", "three_prime_UTR", "five_prime_utr", "three_prime_utr", "UTR"), UTR)
UNKNOWN_PHASE = 3

# No spliceosomal intron is this short: such a gap is a programmed frameshift or a flaw of the assembly within one exon.
LONGEST_FRAMESHIFT = 5

# Biotypes that csq takes for coding and for non-coding (gff.c of bcftools 1.24), exactly spelled.
_SEGMENTS = [f"{locus}_{segment}" for locus in ("IG", "TR") for segment in ("C", "D", "J", "V", "LV")]
CODING = {"protein_coding", "polymorphic_pseudogene", "nonsense_mediated_decay", "non_stop_decay"}
CODING |= {*_SEGMENTS, *(f"{segment}_gene" for segment in _SEGMENTS)}
NONCODING = {
    "3prime_overlapping_ncRNA", "IG_C_pseudogene", "IG_J_pseudogene", "IG_V_pseudogene", "IG_pseudogene", "LRG_gene",
    "Mt_rRNA", "Mt_tRNA", "Mt_tRNA_pseudogene", "TR_J_pseudogene", "TR_V_pseudogene", "ambiguous_orf", "antisense",
    "artifact", "bidirectional_promoter_lncRNA", "disrupted_domain", "known_ncrna", "lincRNA", "lncRNA",
    "macro_lncRNA", "miRNA", "miRNA_pseudogene", "misc_RNA", "misc_RNA_pseudogene", "processed_pseudogene",
    "processed_transcript", "pseudogene", "rRNA", "retained_intron", "retrotransposed", "ribozyme", "sRNA",
    "scRNA", "scaRNA", "sense_intronic", "sense_overlapping", "snRNA", "snoRNA", "tRNA_pseudogene",
    "transcribed_processed_pseudogene", "transcribed_unitary_pseudogene", "transcribed_unprocessed_pseudogene",
    "translated_processed_pseudogene", "translated_unprocessed_pseudogene", "unitary_pseudogene",
    "unprocessed_pseudogene", "vaultRNA",
}  # fmt: skip
SYNONYMS = {"lnc_RNA": "lncRNA", "vault_RNA": "vaultRNA", "antisense_RNA": "antisense", "mRNA": "protein_coding"}
SYNONYMS |= {"protein_coding_LoF": "protein_coding", "protein_coding_CDS_not_defined": "processed_transcript"}

PREFERENCE = {"MANE_Select": 0, "MANE_Plus_Clinical": 1, "Ensembl_canonical": 2, "RefSeq_Select": 2}
NO_PREFERENCE = 3
KEPT_TAG = re.compile(r"MANE_|Ensembl_canonical|RefSeq_Select|appris_|cds_(start|end)_NF")

# NCBI has Dbxref=UniProtKB/Swiss-Prot:P12345 and db_xref, SGD dbxref=UniProtKB:P12345, GENCODE's metadata and Ensembl's
# dumps an attribute of its own. The form of accessions: https://www.uniprot.org/help/accession_numbers
_ACCESSION = (
    r"([OPQ][0-9][A-Z0-9]{3}[0-9]|[A-NR-Z][0-9](?:[A-Z][A-Z0-9]{2}[0-9]){1,2})(?:-\d+)?(?:\.\d+)?(?![A-Za-z0-9])"
)
_CROSS_REFERENCE = re.compile(rf"(?:UniProt|Swiss-?Prot|TrEMBL)[A-Za-z/_-]*:{_ACCESSION}", re.IGNORECASE)
_BARE_ACCESSION = re.compile(rf"(?<![A-Za-z0-9]){_ACCESSION}")
_UNIPROT_KEY = re.compile(r"uniprot|swiss_?prot|trembl", re.IGNORECASE)
_TELLS_OF_PROTEIN = re.compile(r"transl_|protein_id|uniprot|swiss.?prot|trembl", re.IGNORECASE)
# A stop codon read as selenocysteine, in GENCODE's GFF3 and in GTF.
SELENOCYSTEINE = {"stop_codon_redefined_as_selenocysteine", "Selenocysteine"}

_PARENT = re.compile(r"(?:^|;) ?Parent=([^;]+)")
_GTF_TRANSCRIPT = re.compile(r'transcript_id "([^"]+)"')
_GTF_ATTRIBUTE = re.compile(r'([^\s";]+)\s+(?:"([^"]*)"|([^\s";]+))')
_ID_PREFIX = re.compile(r"gene:|transcript:|gene-|rna-")
# Characters that would end a name in a GFF3 attribute or in csq's annotation.
_UNSAFE = str.maketrans(dict.fromkeys(" \t;,=|&", "_"))


class Node(NamedTuple):
    """A gene or transcript line. `contig` is the file's own name; coordinates are 0-based half-open."""

    contig: str
    start: int
    end: int
    type: str
    parent: str
    id: str
    name: str
    biotype: str
    tags: str
    uniprot: str = ""


@dataclass
class ProteinFacts:
    """What the lines of a transcript say of its protein: NCBI translation table, exceptions, name, accessions."""

    table: str = ""
    exceptions: dict[str, None] = field(default_factory=dict)
    protein: str = ""
    uniprot: dict[str, None] = field(default_factory=dict)

    def add(self, attributes: dict[str, str]) -> None:
        self.table = attributes.get("transl_table", self.table)
        self.exceptions |= dict.fromkeys(exceptions_of(attributes.get("transl_except", "")))
        self.protein = self.protein or unquote(attributes.get("protein_id", ""))
        self.uniprot |= dict.fromkeys(accessions_of(attributes))


@dataclass
class Parts:
    """Exons, UTRs, CDS parts and stop codons of one transcript: kind, start, end, phase of each in one flat array."""

    contig: str
    strand: str
    flat: array = field(default_factory=lambda: array("i"))
    torn: bool = False

    def of(self, *kinds: int) -> list[tuple[int, int, int]]:
        """(start, end, phase) of the given kinds, ascending; 0-based half-open."""
        rows = zip(self.flat[0::4], self.flat[1::4], self.flat[2::4], self.flat[3::4], strict=True)
        return sorted({row[1:] for row in rows if row[0] in kinds})


class Transcript(NamedTuple):
    """A transcript as written; 0-based half-open; `cds` with phases, empty if it is not coding."""

    id: str
    biotype: str
    tags: str
    strand: str
    exons: list[tuple[int, int]]
    cds: list[tuple[int, int, int]]
    facts: ProteinFacts


class CodingTranscript(NamedTuple):
    """A coding transcript of a prepared file; 0-based half-open, ascending, whatever the strand.

    Attributes:
        gene: the gene's name. phase: bases before the first whole codon.
        table: NCBI translation table, None where the file does not say.
        exceptions: (start, end, one-letter residue) of codons that are read otherwise; '*' completes a stop codon.
        protein: the protein's name. accessions: UniProt. Both may be empty.
    """

    id: str
    gene_id: str
    gene: str
    contig: str
    strand: str
    exons: tuple[tuple[int, int], ...]
    cds: tuple[tuple[int, int], ...]
    phase: int
    tags: frozenset[str]
    table: int | None
    exceptions: tuple[tuple[int, int, str], ...]
    protein: str
    accessions: tuple[str, ...]

    @property
    def cds_length(self) -> int:
        """Bases, stop codon included."""
        return sum(end - start for start, end in self.cds)


def prepare_genes(source: Path, names: ContigNames, output: Path) -> dict[str, int]:
    """Write the gene models of `source` as bgzipped GFF3 for `bcftools csq`, indexed by tabix.

    Contigs get the reference's names and order. Memory: 0.8 GB for 270,000 transcripts in 3 million lines.

    Returns:
        counts: genes, transcripts, coding_transcripts, and left_out_<reason> for each reason that occurred.

    Raises:
        BadInput: a line that is neither GFF3 nor GTF, or no gene on a contig of the reference.
    """
    import pysam

    require_file(source, "GFF3 or GTF file")
    nodes, parts, lengths, facts = _read(source)
    left_out: Counter[str] = Counter()
    genes = _assemble(nodes, parts, facts, left_out)
    by_contig = defaultdict(list)
    for root, transcripts in genes.items():
        gene = nodes[root]
        name = names.resolve(gene.contig, lengths.get(gene.contig))
        if name is None:
            conflict = gene.contig in lengths and names.length_conflict(gene.contig, lengths[gene.contig])
            left_out["contig_length_differs" if conflict else "contig_not_in_reference"] += 1
        elif max(exon[1] for transcript in transcripts for exon in transcript.exons) > names.contigs[name].length:
            left_out["beyond_contig_end"] += 1
        else:
            by_contig[name].append((gene, transcripts))
    if not by_contig:
        raise BadInput(_no_gene_message(source, [nodes[root].contig for root in genes], names))

    counts: Counter[str] = Counter(genes=0, transcripts=0, coding_transcripts=0)
    taken: set[str] = set()
    with written_whole(output) as partial, written_whole(Path(f"{output}.tbi")) as index:
        with pysam.BGZFile(str(partial), "wb") as handle:
            handle.write(b"##gff-version 3\n")
            for contig in names.contigs:
                rows = []
                for gene, transcripts in by_contig.pop(contig, ()):
                    rows += _rows(contig, gene, transcripts, taken)
                    counts["genes"] += 1
                    counts["transcripts"] += len(transcripts)
                    counts["coding_transcripts"] += sum(bool(transcript.cds) for transcript in transcripts)
                for _, _, row in sorted(rows):
                    handle.write(row.encode())
        pysam.tabix_index(str(partial), preset="gff", index=str(index), force=True, keep_original=True)
    return dict(counts) | {f"left_out_{reason}": count for reason, count in sorted(left_out.items())}


def _no_gene_message(source: Path, contigs: list[str], names: ContigNames) -> str:
    if not contigs:
        return (
            f"{source}: found no gene with exons or CDS, expected gene models in GFF3 or GTF; "
            "check that the file is a gene annotation"
        )
    found = ", ".join(list(dict.fromkeys(contigs))[:5])
    return (
        f"{source}: none of its {len(contigs)} genes lies within the reference's contigs (found {found}; expected "
        f"{', '.join(list(names.contigs)[:5])}); use gene models of the reference's assembly or add contig aliases"
    )


def _read(source: Path) -> tuple[dict[str, Node], dict[str, Parts], dict[str, int], dict[str, ProteinFacts]]:
    """Nodes by key, parts and protein facts by the key of their transcript, and contig lengths.

    Lengths are those of `##sequence-region` lines that start at 1.

    Keys are GFF3's ids; in GTF, where an id may recur on another contig and a gene may share it, made from all three.
    """
    nodes: dict[str, Node] = {}
    parts: dict[str, Parts] = {}
    lengths: dict[str, int] = {}
    facts: dict[str, ProteinFacts] = defaultdict(ProteinFacts)
    with open_text(source) as lines:
        for number, line in enumerate(lines, start=1):
            if line.startswith((">", "##FASTA")):
                break
            if line.startswith("##sequence-region"):
                words = line.split()
                if len(words) == 4 and words[2] == "1" and words[3].isdecimal():
                    lengths[words[1]] = int(words[3])
            if line.startswith("#") or line.isspace():
                continue
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) != 9:
                raise BadInput(
                    f"{source}, line {number}: found {len(fields)} columns, expected the 9 tab-separated columns of "
                    "GFF3 or GTF; check that the file is a gene annotation"
                )
            contig, _, kind, first, last, _, strand, phase, text = fields
            if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
                raise BadInput(
                    f"{source}, line {number}: found start '{first}' and end '{last}', expected whole numbers with "
                    "1 <= start <= end; correct the line"
                )
            contig, kind, start, end = intern(contig), intern(kind), int(first) - 1, int(last)
            part = KIND_OF_TYPE.get(kind)
            is_gtf = "=" not in text.partition('"')[0].partition(";")[0]
            if part is None and kind not in SELENOCYSTEINE:
                attributes = dict(_gtf_attributes(text) if is_gtf else _gff3_attributes(text))
                node = _gtf_node if is_gtf else _gff3_node
                nodes |= node(contig, start, end, kind, attributes)
                continue
            if is_gtf:
                found = _GTF_TRANSCRIPT.search(text)
                owners = [f"{contig} transcript {found[1]}"] if found else []
                if found and owners[0] not in nodes:
                    attributes = dict(_gtf_attributes(text))
                    for of in ("gene", "transcript"):
                        for key, made in _gtf_node(contig, start, end, of, attributes).items():
                            nodes.setdefault(key, made)
            else:
                found = _PARENT.search(text)
                owners = found[1].split(",") if found else []
            if part is None:
                for owner in owners:
                    facts[owner].exceptions[f"{start + 1}..{end}:U"] = None
                continue
            if part == CDS and _TELLS_OF_PROTEIN.search(text):
                attributes = dict(_gtf_attributes(text) if is_gtf else _gff3_attributes(text))
                for owner in owners:
                    facts[owner].add(attributes)
            for owner in owners:
                rows = parts.get(owner)
                if rows is None:
                    rows = parts[owner] = Parts(contig, intern(strand))
                rows.torn |= rows.contig != contig or rows.strand != strand
                rows.flat.extend((part, start, end, int(phase) if phase in ("0", "1", "2") else UNKNOWN_PHASE))
    return nodes, parts, lengths, facts


def _gff3_attributes(text: str) -> Iterator[tuple[str, str]]:
    for item in text.split(";"):
        key, equals, value = item.strip().partition("=")
        if equals:
            yield key, value


def _gtf_attributes(text: str) -> Iterator[tuple[str, str]]:
    """Attributes, with the values of a repeated key (tag) joined by commas."""
    values: dict[str, str] = {}
    for key, quoted, bare in _GTF_ATTRIBUTE.findall(text):
        values[key] = f"{values[key]},{quoted or bare}" if key in values else quoted or bare
    return iter(values.items())


def accessions_of(attributes: dict[str, str]) -> list[str]:
    """UniProt accessions among the attributes of a line, without isoform or version, in their order."""
    found: dict[str, None] = {}
    for key, value in attributes.items():
        text = unquote(value)
        found |= dict.fromkeys(accession.upper() for accession in _CROSS_REFERENCE.findall(text))
        if _UNIPROT_KEY.search(key):
            found |= dict.fromkeys(_BARE_ACCESSION.findall(text))
    return list(found)


# pos:59031364..59031366%2Caa:Sec or pos:complement(4..6),aa:Met, as in NCBI's GFF3 and GenBank's feature table
_EXCEPTION = re.compile(r"pos:(?:complement\()?<?(\d+)(?:\.\.>?(\d+))?\)?,aa:(\w+)")
_ONE_LETTER = {
    "ALA": "A", "ARG": "R", "ASN": "N", "ASP": "D", "CYS": "C", "GLN": "Q", "GLU": "E", "GLY": "G", "HIS": "H",
    "ILE": "I", "LEU": "L", "LYS": "K", "MET": "M", "PHE": "F", "PRO": "P", "SER": "S", "THR": "T", "TRP": "W",
    "TYR": "Y", "VAL": "V",
}  # fmt: skip
_ONE_LETTER |= {"SEC": "U", "PYL": "O", "TERM": "*"}


def exceptions_of(text: str) -> list[str]:
    """The value of `transl_except` as 'first..last:residue', 1-based, with one-letter residues; those in full alone.

    A position that joins several exons is left out: such a codon is found by the protein's sequence.
    """
    found = []
    for first, last, residue in _EXCEPTION.findall(unquote(text)):
        found.append(f"{first}..{last or first}:{_ONE_LETTER.get(residue.upper(), 'X')}")
    return found


def _gff3_node(contig: str, start: int, end: int, kind: str, attributes: dict[str, str]) -> dict[str, Node]:
    key = attributes.get("ID")
    if not key:
        return {}
    parent = attributes.get("Parent", "").partition(",")[0]
    name = next((attributes[k] for k in ("gene_name", "gene", "Name") if attributes.get(k)), "")
    biotypes = ("biotype", "transcript_type") if parent else ("biotype", "gene_type", "gene_biotype")
    biotype = next((attributes[k] for k in biotypes if k in attributes), "")
    if attributes.get("pseudo") == "true" and not biotype.endswith("pseudogene"):
        biotype = "pseudogene"
    # The ids of SGD's older dumps are row numbers; the names are the systematic ones.
    own = attributes.get("Name", key) if key.isdecimal() else key
    tags = _kept_tags(attributes.get("tag", ""))
    uniprot = ",".join(accessions_of(attributes))
    return {key: Node(contig, start, end, kind, parent, own, unquote(name), intern(biotype), tags, uniprot)}


def _gtf_node(contig: str, start: int, end: int, kind: str, attributes: dict[str, str]) -> dict[str, Node]:
    own = attributes.get(f"{kind}_id") if kind in ("gene", "transcript") else None
    if not own:
        return {}
    gene = f"{contig} gene {attributes.get('gene_id', '')}"
    biotype = attributes.get(f"{kind}_biotype") or attributes.get(f"{kind}_type") or ""
    name = attributes.get("gene_name") or attributes.get("gene") or ""
    parent, tags = ("", "") if kind == "gene" else (gene, _kept_tags(attributes.get("tag", "")))
    uniprot = ",".join(accessions_of(attributes))
    return {f"{contig} {kind} {own}": Node(contig, start, end, kind, parent, own, name, intern(biotype), tags, uniprot)}


def _kept_tags(tags: str) -> str:
    """Tags that tell which transcript is preferred or incomplete, as Ensembl spells them (NCBI has 'MANE Select')."""
    plain = (tag.strip().replace(" ", "_") for tag in tags.split(","))
    return intern(",".join(tag for tag in plain if KEPT_TAG.match(tag)))


def _assemble(
    nodes: dict[str, Node], parts: dict[str, Parts], facts: dict[str, ProteinFacts], left_out: Counter[str]
) -> dict[str, list[Transcript]]:
    """Usable transcripts by the key of their gene. Whatever holds exons or CDS is a transcript, a gene itself too."""
    genes: dict[str, list[Transcript]] = defaultdict(list)
    for key, rows in parts.items():
        root = _root(nodes, key)
        if root is None:
            left_out["transcript_line_missing"] += 1
        elif rows.torn:
            left_out["on_two_strands_or_contigs"] += 1
        elif rows.strand not in ("+", "-"):
            left_out["strand_unknown"] += 1
        else:
            node, cds = nodes[key], rows.of(CDS)
            biotype = biotype_of(node, nodes[root], bool(cds))
            coding = reading_frame(cds, rows.of(STOP), rows.strand) if biotype in CODING else []
            exons = _joined(rows.of(EXON) or rows.of(CDS, UTR, STOP))
            if coding is None:
                left_out["phase_inconsistent"] += 1
            elif not exons:
                left_out["exons_missing"] += 1
            else:
                if biotype in CODING and not coding:
                    biotype = "processed_transcript"
                own = facts.get(key) or ProteinFacts()
                for source in (node, nodes[root]):  # a gene's accession stands for transcripts that name none
                    if not own.uniprot and source.uniprot:
                        own.uniprot = dict.fromkeys(source.uniprot.split(","))
                genes[root].append(Transcript(node.id, biotype, node.tags, rows.strand, exons, coding, own))
    for key, node in nodes.items():
        if node.type.endswith("gene") and not node.parent and key not in genes:
            left_out["gene_without_transcript"] += 1
    return genes


def _root(nodes: dict[str, Node], key: str) -> str | None:
    """The topmost ancestor in the file, itself if it has none; None if there is no such line or a cycle."""
    seen = set()
    while key in nodes and key not in seen:
        seen.add(key)
        if nodes[key].parent not in nodes:
            return key
        key = nodes[key].parent
    return None


def biotype_of(transcript: Node, gene: Node, has_cds: bool) -> str:
    """The biotype under which csq treats a transcript as what it is: coding exactly if it has a CDS to translate."""
    own = transcript.biotype or transcript.type
    own = SYNONYMS.get(own, own)
    parental = [own] if transcript.biotype else [own, gene.biotype, gene.type]
    pseudo = any(name.endswith("pseudogene") and name not in CODING for name in parental)
    if has_cds and not pseudo:
        return own if own in CODING else "protein_coding"
    for name in (own, gene.biotype):
        if name in NONCODING:
            return name
    if pseudo:
        return "pseudogene"
    return "processed_transcript" if own in CODING or own == "transcript" else "misc_RNA"


def reading_frame(
    cds: Iterable[tuple[int, int, int]], stops: Iterable[tuple[int, int, int]], strand: str
) -> list[tuple[int, int, int]] | None:
    """CDS parts (start, end, phase; 0-based half-open; ascending) with the stop codon and with every phase filled in.

    GTF leaves the stop codon out of the CDS, csq expects it inside. Parts too short for their phase, at the start of an
    incomplete CDS, are dropped. None if a given phase contradicts the lengths of the parts before it: csq would stop.
    """
    parts = sorted(cds)
    for start, end, _ in stops:
        if any(part[0] <= start and end <= part[1] for part in parts):
            continue
        for i, (left, right, phase) in enumerate(parts):
            if end == left or right == start:
                parts[i] = (min(left, start), max(right, end), phase)
                break
        else:
            parts.append((start, end, UNKNOWN_PHASE))
    parts.sort(key=lambda part: part[0] if strand == "+" else -part[1])
    skip = parts[0][2] % UNKNOWN_PHASE if parts else 0
    while parts and parts[0][1] - parts[0][0] <= skip:
        skip -= parts[0][1] - parts[0][0]
        parts.pop(0)
    framed, translated = [], -skip
    for start, end, phase in parts:
        expected = -translated % 3
        if phase not in (expected, UNKNOWN_PHASE):
            return None
        framed.append((start, end, expected))
        translated += end - start
    return sorted(framed)


def _joined(intervals: Iterable[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """Intervals as (start, end), ascending, joined where they touch or are too close for an intron between them."""
    joined: list[tuple[int, int]] = []
    for start, end, _ in intervals:
        if joined and start - joined[-1][1] <= LONGEST_FRAMESHIFT:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return joined


def _rows(contig: str, gene: Node, transcripts: list[Transcript], taken: set[str]) -> Iterator[tuple[int, int, str]]:
    """(start, rank among equal starts, GFF3 line) of a gene and all that belongs to it."""
    strand = transcripts[0].strand
    start = min(exons[0][0] for exons in (transcript.exons for transcript in transcripts))
    end = max(exons[-1][1] for exons in (transcript.exons for transcript in transcripts))
    biotype = gene.biotype or ("protein_coding" if any(t.cds for t in transcripts) else transcripts[0].biotype)
    gene_id = _unique("gene", gene.id, contig, taken)

    def row(rank: int, kind: str, start: int, end: int, phase: int | str, attributes: str) -> tuple[int, int, str]:
        line = f"{contig}\tseqprior\t{kind}\t{start + 1}\t{end}\t.\t{strand}\t{phase}\t{attributes}\n"
        return start, rank, line

    name = (gene.name or gene_id).translate(_UNSAFE)
    attributes = f"ID=gene:{gene_id};biotype={biotype.translate(_UNSAFE)};Name={name}"
    yield row(0, "gene", start, end, ".", attributes)
    for transcript in transcripts:
        strand, exons = transcript.strand, transcript.exons
        own = _unique("transcript", transcript.id, contig, taken)
        attributes = f"ID=transcript:{own};Parent=gene:{gene_id};biotype={transcript.biotype}"
        attributes += f";tag={transcript.tags}" if transcript.tags else ""
        if transcript.cds:
            attributes += "".join(f";{key}={value}" for key, value in _protein_attributes(transcript.facts) if value)
        kind = "mRNA" if transcript.cds else "transcript"
        yield row(1, kind, exons[0][0], exons[-1][1], ".", attributes)
        parent = f"Parent=transcript:{own}"
        for left, right in exons:
            # csq 1.24 warns about every exon and UTR without a phase, and then ignores it.
            yield row(2, "exon", left, right, 0, parent)
        for left, right, phase in transcript.cds:
            yield row(3, "CDS", left, right, phase, parent)
        if not transcript.cds:
            continue
        low, high = transcript.cds[0][0], max(part[1] for part in transcript.cds)
        before, after = ("five_prime_UTR", "three_prime_UTR")[:: 1 if strand == "+" else -1]
        for left, right in exons:
            if left < low:
                yield row(4, before, left, min(right, low), 0, parent)
            if right > high:
                yield row(4, after, max(left, high), right, 0, parent)


def _protein_attributes(facts: ProteinFacts) -> Iterator[tuple[str, str]]:
    yield "transl_table", facts.table if facts.table.isdecimal() else ""
    yield "transl_except", ",".join(facts.exceptions)
    yield "protein_id", facts.protein.translate(_UNSAFE)
    yield "uniprot", ",".join(facts.uniprot)


def _unique(kind: str, raw: str, contig: str, taken: set[str]) -> str:
    """The id without its file's prefix; with the contig and a number added if another gene or transcript has it."""
    plain = _ID_PREFIX.sub("", raw, count=1) if _ID_PREFIX.match(raw) else raw
    own = plain = plain.translate(_UNSAFE)
    copies = 1
    while f"{kind} {own}" in taken:
        own = f"{plain}_{contig}" if copies == 1 else f"{plain}_{contig}_{copies}"
        copies += 1
    taken.add(f"{kind} {own}")
    return own


def _prepared(genes: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Columns and attributes of each line of a file that `prepare_genes` wrote."""
    with open_text(genes) as lines:
        for line in lines:
            if not line.startswith("#"):
                fields = line.rstrip("\n").split("\t")
                yield fields, dict(_gff3_attributes(fields[8]))


def _preference(tags: str) -> int:
    return min((PREFERENCE.get(tag, NO_PREFERENCE) for tag in tags.split(",")), default=NO_PREFERENCE)


def preferred_transcripts(genes: Path) -> dict[str, int]:
    """Transcript id -> 0 MANE Select, 1 MANE Plus Clinical, 2 canonical, 3 none, from a prepared file."""
    return {
        attributes["ID"].removeprefix("transcript:"): _preference(attributes.get("tag", ""))
        for _, attributes in _prepared(genes)
        if attributes.get("ID", "").startswith("transcript:")
    }


def transcript_table(genes: Path) -> pandas.DataFrame:
    """One row per transcript of a prepared file, in its order.

    Columns: transcript, gene_id, gene (its name), chrom, start, end (0-based half-open), strand, cds_length (bases,
    stop codon included, 0 if not coding), preference (see `preferred_transcripts`).
    """
    import pandas as pd

    names, rows, cds = {}, [], Counter()
    for (chrom, _, kind, first, last, _, strand, _, _), attributes in _prepared(genes):
        own, parent = attributes.get("ID", ""), attributes.get("Parent", "").partition(":")[2]
        if kind == "gene":
            names[own.removeprefix("gene:")] = attributes["Name"]
        elif kind == "CDS":
            cds[parent] += int(last) - int(first) + 1
        elif own:
            preference = _preference(attributes.get("tag", ""))
            rows.append((own.removeprefix("transcript:"), parent, chrom, int(first) - 1, int(last), strand, preference))
    table = pd.DataFrame(rows, columns=["transcript", "gene_id", "chrom", "start", "end", "strand", "preference"])
    table.insert(2, "gene", [names[gene] for gene in table["gene_id"]])
    table.insert(7, "cds_length", [cds[transcript] for transcript in table["transcript"]])
    return table


def coding_transcripts(genes: Path, contig: str) -> list[CodingTranscript]:
    """Coding transcripts of a contig of a prepared file, in its order; empty for a contig that it does not have."""
    import pysam

    names: dict[str, str] = {}
    heads: dict[str, tuple[str, str, dict[str, str]]] = {}
    exons: dict[str, list[tuple[int, int]]] = defaultdict(list)
    cds: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    with pysam.TabixFile(str(genes)) as table:
        lines = table.fetch(contig) if contig in table.contigs else ()
        for line in lines:
            _, _, kind, first, last, _, strand, phase, text = line.split("\t")
            attributes = dict(_gff3_attributes(text))
            own, parent = attributes.get("ID", ""), attributes.get("Parent", "").partition(":")[2]
            if kind == "gene":
                names[own.removeprefix("gene:")] = attributes["Name"]
            elif kind == "mRNA":
                heads[own.removeprefix("transcript:")] = (parent, strand, attributes)
            elif kind == "exon":
                exons[parent].append((int(first) - 1, int(last)))
            elif kind == "CDS":
                cds[parent].append((int(first) - 1, int(last), int(phase)))
    found = []
    for own, (gene, strand, attributes) in heads.items():
        parts = sorted(cds[own])
        found.append(
            CodingTranscript(
                own,
                gene,
                names[gene],
                contig,
                strand,
                tuple(sorted(exons[own])),
                tuple((start, end) for start, end, _ in parts),
                parts[0 if strand == "+" else -1][2],
                frozenset(filter(None, attributes.get("tag", "").split(","))),
                int(attributes["transl_table"]) if "transl_table" in attributes else None,
                tuple(_written_exceptions(attributes.get("transl_except", ""))),
                attributes.get("protein_id", ""),
                tuple(filter(None, attributes.get("uniprot", "").split(","))),
            )
        )
    return found


def _written_exceptions(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, residue), 0-based half-open, as `prepare_genes` wrote them."""
    for item in filter(None, text.split(",")):
        span, _, residue = item.partition(":")
        first, _, last = span.partition("..")
        yield int(first) - 1, int(last), residue
