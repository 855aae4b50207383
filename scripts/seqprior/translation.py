"""From a transcript's gene model to its protein: genetic codes, the spliced coding sequence, its translation.

Genetic codes are NCBI's, https://www.ncbi.nlm.nih.gov/Taxonomy/Utils/wprintgc.cgi, as Biopython has them. Positions in
a coding sequence are 0-based, on the coding strand, and count from the first whole codon.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from seqprior.contigs import MITOCHONDRION, ContigNames, aliases_of
from seqprior.errors import BadInput
from seqprior.files import open_text, require_file
from seqprior.sequence import reverse_complement

if TYPE_CHECKING:
    from seqprior.genes import CodingTranscript

STANDARD, VERTEBRATE_MITOCHONDRIAL, YEAST_MITOCHONDRIAL = 1, 2, 3
# Length of a mitochondrion -> its code: human rCRS and hg19's, mouse, S. cerevisiae.
MITOCHONDRIAL_CODES = dict.fromkeys((16569, 16571, 16299), VERTEBRATE_MITOCHONDRIAL) | {85779: YEAST_MITOCHONDRIAL}
_MITOCHONDRIAL_NAME = re.compile(r"(?:chr)?(?:m|mt|mt_?dna|mito.*)", re.IGNORECASE)
STOP, UNKNOWN_RESIDUE = "*", "X"
_VERSION = re.compile(r"\.\d+$")
_IUPAC = {"R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC", "B": "CGT", "D": "AGT", "H": "ACT"}
_IUPAC |= {"V": "ACG", "N": "ACGT", "A": "A", "C": "C", "G": "G", "T": "T"}


@dataclass(frozen=True)
class GeneticCode:
    """An NCBI translation table: residue ('*' for a stop) of each codon, and its start codons."""

    number: int
    residue_of: Mapping[str, str]
    starts: frozenset[str]

    def residue(self, codon: str) -> str:
        """One residue. With unknown bases, that which all possible codons share, or else 'X'."""
        found = self.residue_of.get(codon)
        return found if found is not None else _shared_residue(self, codon)

    def translate(self, bases: str) -> str:
        """Residues and stops of the whole codons of `bases`."""
        known = self.residue_of
        try:
            return "".join([known[bases[place : place + 3]] for place in range(0, len(bases) - 2, 3)])
        except KeyError:
            return "".join([self.residue(bases[place : place + 3]) for place in range(0, len(bases) - 2, 3)])

    def translate_to_stop(self, bases: str) -> str:
        """Residues up to the first stop, which is included, or to the last whole codon."""
        found = []
        for place in range(0, len(bases) - 2, 3):
            found.append(self.residue(bases[place : place + 3]))
            if found[-1] == STOP:
                break
        return "".join(found)

    def __hash__(self) -> int:
        return hash(self.number)


@lru_cache(maxsize=100_000)
def _shared_residue(code: GeneticCode, codon: str) -> str:
    possible = {code.residue_of["".join(bases)] for bases in product(*(_IUPAC.get(base, "ACGT") for base in codon))}
    return possible.pop() if len(possible) == 1 else UNKNOWN_RESIDUE


@cache
def genetic_code(number: int) -> GeneticCode:
    """The translation table of a number. Codons that may be either are residues, not stops, as within a CDS.

    Raises:
        KeyError: NCBI has no such table.
    """
    from Bio.Data.CodonTable import unambiguous_dna_by_id

    table = unambiguous_dna_by_id[number]
    residue_of = dict.fromkeys(table.stop_codons, STOP) | dict(table.forward_table)
    return GeneticCode(number, residue_of, frozenset(table.start_codons))


def looks_mitochondrial(name: str, length: int) -> bool:
    """True if a contig's name, or another name that it is known by, is that of a mitochondrion."""
    return any(other in MITOCHONDRION for other in (name, *aliases_of(name, length))) or bool(
        _MITOCHONDRIAL_NAME.fullmatch(name)
    )


def code_of_contig(name: str, length: int, configured: Mapping[str, int]) -> int | None:
    """Number of a contig's genetic code: as configured, as known of mitochondria, or 1; None if it cannot be known."""
    if name in configured:
        return configured[name]
    if looks_mitochondrial(name, length):
        return MITOCHONDRIAL_CODES.get(length)
    return STANDARD


def configured_codes(codes: Mapping[str, int], names: ContigNames) -> dict[str, int]:
    """Codes by the reference's names of contigs.

    Raises:
        BadInput: a contig that the reference does not have, or a table that NCBI does not have.
    """
    from Bio.Data.CodonTable import unambiguous_dna_by_id

    found = {}
    for contig, number in codes.items():
        own = names.resolve(contig)
        if own is None:
            raise BadInput(
                f"config, reference.genetic_codes: the reference has no contig '{contig}'; expected one of "
                f"{', '.join(list(names.contigs)[:5])}, ...; correct the name"
            )
        if number not in unambiguous_dna_by_id:
            raise BadInput(
                f"config, reference.genetic_codes: NCBI has no translation table {number} (contig '{contig}'); "
                f"expected one of {', '.join(map(str, sorted(unambiguous_dna_by_id)))}; correct the number"
            )
        found[own] = number
    return found


def choose_transcripts(transcripts: Iterable[CodingTranscript], order: Sequence[str]) -> list[CodingTranscript]:
    """One transcript of each gene: of the first kind in `order` that the gene has, ties to the longest CDS.

    Args:
        order: of MANE_Select, MANE_Plus_Clinical, canonical and longest; a gene with none of them has no transcript.

    Returns:
        Transcripts by preference, the most preferred first, so that ties between genes can be broken.
    """
    kinds = {
        "MANE_Select": {"MANE_Select"},
        "MANE_Plus_Clinical": {"MANE_Plus_Clinical"},
        "canonical": {"Ensembl_canonical", "RefSeq_Select"},
    }

    def rank(transcript: CodingTranscript) -> tuple[int, int, str]:
        ranks = [i for i, kind in enumerate(order) if kind == "longest" or kinds[kind] & transcript.tags]
        return min(ranks, default=len(order)), -transcript.cds_length, transcript.id

    best: dict[str, tuple[tuple[int, int, str], CodingTranscript]] = {}
    for transcript in transcripts:
        ranked = rank(transcript)
        if ranked[0] < len(order) and (transcript.gene_id not in best or ranked < best[transcript.gene_id][0]):
            best[transcript.gene_id] = ranked, transcript
    return [transcript for _, transcript in sorted(best.values(), key=lambda item: item[0])]


@dataclass
class ProteinSequences:
    """Given protein sequences by every name that a header has; names that stand for different ones, for neither."""

    by_name: dict[str, str] = field(default_factory=dict)

    def of(self, transcript: CodingTranscript) -> str | None:
        """The sequence of a transcript: by its name, its protein's, then its gene's."""
        for name in names_of(transcript):
            if found := self.by_name.get(name):
                return found
        return None


def names_of(transcript: CodingTranscript) -> list[str]:
    """Names by which tables and sequences may know a transcript or its protein, the most exact ones first.

    SGD's transcripts are named after their gene, with an ending.
    """
    names = [transcript.id, transcript.protein, transcript.id.removesuffix("_mRNA"), transcript.gene_id]
    names.append(transcript.gene)
    plain = [_VERSION.sub("", name) for name in names]
    return list(dict.fromkeys(name for pair in zip(names, plain, strict=True) for name in pair if name))


def read_sequences(path: Path) -> ProteinSequences:
    """Read a FASTA of proteins: NCBI's, Ensembl's, GENCODE's and SGD's headers are understood.

    A final stop ('*') is taken off. Names are kept with and without version.

    Raises:
        BadInput: no such file, or one that is not FASTA.
    """
    from Bio.SeqIO.FastaIO import SimpleFastaParser

    require_file(path, "FASTA of proteins")
    found: dict[str, str] = {}
    with open_text(path) as lines:
        for title, letters in SimpleFastaParser(_checked_fasta(path, lines)):
            sequence = letters.upper().rstrip(STOP)
            words = title.split()
            names = {part.partition(":")[2] for part in words[1:] if part.startswith("transcript:")}
            for name in (*names, *(words[0].split("|") if words else ())):
                for spelled in {name, _VERSION.sub("", name)} - {"", "-"}:
                    found[spelled] = sequence if found.get(spelled, sequence) == sequence else ""
    return ProteinSequences({name: sequence for name, sequence in found.items() if sequence})


def _checked_fasta(path: Path, lines: Iterable[str]):
    """The same lines; the first must be a header."""
    for number, line in enumerate(lines):
        if number == 0 and not line.startswith(">"):
            raise BadInput(
                f"{path}, line 1: found '{line.strip()[:40]}', expected a FASTA of proteins that starts with '>'; "
                "correct protein.sequences"
            )
        yield line


def read_accessions(path: Path) -> dict[str, tuple[str, ...]]:
    """UniProt accessions by name of gene or transcript, from a tab-separated table with columns name and accession.

    Raises:
        BadInput: no such file, other columns, or an incomplete line.
    """
    require_file(path, "table of UniProt accessions")
    found: dict[str, list[str]] = {}
    with open_text(path) as lines:
        header = next(lines).rstrip("\r\n").split("\t")
        if "name" not in header or "accession" not in header:
            raise BadInput(
                f"{path}, line 1: found the columns {', '.join(header)[:80]}, expected name and accession separated by "
                "tabs; correct protein.uniprot"
            )
        name_at, accession_at = header.index("name"), header.index("accession")
        for number, line in enumerate(lines, 2):
            if not line.strip():
                continue
            cells = [cell.strip() for cell in line.rstrip("\r\n").split("\t")]
            if len(cells) <= max(name_at, accession_at) or not cells[name_at] or not cells[accession_at]:
                raise BadInput(
                    f"{path}, line {number}: found '{line.strip()[:40]}', expected a name and a UniProt accession "
                    "separated by a tab; complete the line of protein.uniprot"
                )
            own = found.setdefault(cells[name_at], [])
            if cells[accession_at] not in own:
                own.append(cells[accession_at])
    return {name: tuple(accessions) for name, accessions in found.items()}


@dataclass
class CodingSequence:
    """One transcript, spliced, on its coding strand.

    Attributes:
        code: None if the contig's genetic code is not known; then `protein` is empty.
        bases: from the first whole codon to the end of the CDS, stop codon included.
        beyond: of the exons behind the CDS; what a protein without its stop goes on with.
        parts: (start, end, place) of the CDS parts in reading order: 0-based half-open on the contig, and the place
            in `bases` of the part's first base in reading order, negative where a part starts with a broken codon.
        protein: residues of all whole codons, with the final stop if there is one.
        starts: the first codon is a start codon. stops: the last codon is a stop.
        agrees: whether the given protein sequence is the same; None if none is given.
    """

    transcript: CodingTranscript
    code: GeneticCode | None
    bases: str
    beyond: str
    parts: list[tuple[int, int, int]]
    protein: str = ""
    starts: bool = False
    stops: bool = False
    agrees: bool | None = None

    @property
    def reverse(self) -> bool:
        return self.transcript.strand == "-"

    @cached_property
    def residues(self) -> str:
        """The protein without its stop."""
        return self.protein.removesuffix(STOP) if self.stops else self.protein

    @cached_property
    def broken(self) -> bool:
        """True if a stop stands before the end, so that the residues behind it belong to no protein."""
        return STOP in self.residues

    @cached_property
    def translated(self) -> str:
        """All that can be translated: the coding sequence and, where it ends with a stop, what lies behind it."""
        return self.bases + self.beyond if self.stops else self.bases


def coding_sequence(
    transcript: CodingTranscript, contig: str, number: int | None, given: str | None = None
) -> CodingSequence:
    """Splice and translate a transcript.

    Args:
        contig: its whole sequence, upper-case.
        number: genetic code of the contig; the transcript's own goes first.
        given: the protein as its database has it. An in-frame stop that it shows as selenocysteine (U) or
            pyrrolysine (O) is one, and a first codon that it shows as M is a start codon.
    """
    reverse = transcript.strand == "-"
    ordered = transcript.cds[::-1] if reverse else transcript.cds
    parts, place = [], -transcript.phase
    for start, end in ordered:
        parts.append((start, end, place))
        place += end - start
    bases = _spliced(contig, ordered, reverse)[transcript.phase :]
    beyond = _spliced(contig, _behind(transcript, reverse), reverse)
    number = transcript.table or number
    code = None
    if number is not None:
        try:
            code = genetic_code(number)
        except KeyError:
            code = None
    sequence = CodingSequence(transcript, code, bases, beyond, parts)
    if code is None or len(bases) < 3:
        return sequence
    if completed := _polyadenylated(sequence):
        bases = completed
        sequence.bases, sequence.beyond = bases, ""
    residues = list(code.translate(bases))
    for start, _, residue in _placed_exceptions(sequence):
        if 0 <= start < len(residues) and residue != STOP:
            residues[start] = residue
    if given is not None and len(given) in (len(residues), len(residues) - 1):
        for place, letter in enumerate(given):
            if residues[place] == STOP and letter in "UO":
                residues[place] = letter
    whole_start = transcript.phase == 0 and "cds_start_NF" not in transcript.tags
    if whole_start and (bases[:3] in code.starts or residues[0] == "M" or (given or "")[:1] == "M"):
        residues[0], sequence.starts = "M", True
    sequence.stops = residues[-1] == STOP
    sequence.protein = "".join(residues)
    if given is not None:
        sequence.agrees = sequence.residues == given
    return sequence


def _spliced(contig: str, ordered: Iterable[tuple[int, int]], reverse: bool) -> str:
    pieces = (contig[start:end] for start, end in ordered)
    return "".join(map(reverse_complement, pieces) if reverse else pieces)


def _behind(transcript: CodingTranscript, reverse: bool) -> list[tuple[int, int]]:
    """What the exons have behind the CDS, in reading order."""
    if reverse:
        low = transcript.cds[0][0]
        return [(start, min(end, low)) for start, end in transcript.exons[::-1] if start < low]
    high = transcript.cds[-1][1]
    return [(max(start, high), end) for start, end in transcript.exons if end > high]


def _placed_exceptions(sequence: CodingSequence) -> Iterable[tuple[int, int, str]]:
    """(codon, bases, residue) of the transcript's exceptions."""
    for start, end, residue in sequence.transcript.exceptions:
        for left, right, place in sequence.parts:
            if left <= start and end <= right:
                first = place + (right - end if sequence.reverse else start - left)
                if first % 3 == 0:
                    yield first // 3, end - start, residue


def _polyadenylated(sequence: CodingSequence) -> str:
    """The bases with the stop codon that polyadenylation completes, as in animal mitochondria; empty where none is."""
    bases, code = sequence.bases, sequence.code
    rest = len(bases) % 3
    completed = bases + "A" * (3 - rest)
    if not rest or code.residue(completed[-3:]) != STOP:
        return ""
    said = any(residue == STOP and length == rest for _, length, residue in _placed_exceptions(sequence))
    return completed if said or code.number == VERTEBRATE_MITOCHONDRIAL else ""
