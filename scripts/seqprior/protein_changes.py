"""From alleles to changes of proteins: the residues that change, their HGVS names, and alleles that share a codon.

Of each gene one transcript is read. An allele is placed on it by its contig's sequence: of the equivalent placements
of an insertion or deletion, one that leaves start and stop codon as they are goes first, then one within a coding exon,
and of those the one nearest the 3' end, as HGVS asks (https://hgvs-nomenclature.org). Effects are terms of the Sequence
Ontology.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from seqprior.columns import PROTEIN_CHANGES, PROTEIN_HAPLOTYPES, PROTEINS, ProteinReason, Status
from seqprior.consequences import SEVERITY, annotatable, residues
from seqprior.contigs import ContigNames
from seqprior.errors import BadInput
from seqprior.files import RowWriter, rows_schema, written_whole
from seqprior.genes import LONGEST_FRAMESHIFT, CodingTranscript, coding_transcripts
from seqprior.phasing import CodonMates, SharedCodons
from seqprior.residues import INDEX_OF, protein_id
from seqprior.sequence import reverse_complement
from seqprior.translation import (
    STOP,
    UNKNOWN_RESIDUE,
    CodingSequence,
    ProteinSequences,
    choose_transcripts,
    code_of_contig,
    coding_sequence,
    configured_codes,
    names_of,
    read_accessions,
    read_sequences,
)
from seqprior.variants import ReferenceSequence

log = logging.getLogger(__name__)

_SEVERITY_OF = {term: rank for rank, term in enumerate(SEVERITY)}
# Joint changes of alleles of one codon that say something of the codon.
TOLD_OF_HAPLOTYPES = {
    "",
    ProteinReason.SAME_PROTEIN,
    ProteinReason.STOP_OR_FRAMESHIFT,
    ProteinReason.NONSTANDARD_RESIDUE,
}


class Edit(NamedTuple):
    """Bases [start, end) of a coding sequence become `bases`; 0-based, coding strand, from the first whole codon."""

    start: int
    end: int
    bases: str


class Change(NamedTuple):
    """What becomes of a protein: residues [start, start + len(ref)) become `alt`; 0-based; None where not known.

    `reason` is empty for what a protein model can be asked, a missense or in-frame change within the protein.
    """

    effect: str
    start: int | None
    ref: str
    alt: str
    hgvs_p: str
    reason: str


class Placed(NamedTuple):
    """An allele on a transcript; `edits` is empty where it does not lie within the coding exons."""

    change: Change
    hgvs_c: str
    edits: tuple[Edit, ...]


# Changes of residues ----------------------------------------------------------------------------------------------


def protein_change(sequence: CodingSequence, edits: Sequence[Edit]) -> Change:
    """What edits of a coding sequence do to its protein.

    Args:
        edits: ascending, not overlapping; all are on one chromosome.
    """
    change = _protein_change(sequence, edits)
    if sequence.broken and change.reason != ProteinReason.INCOMPLETE_CDS:
        return change._replace(reason=ProteinReason.INTERNAL_STOP)
    return change


def _protein_change(sequence: CodingSequence, edits: Sequence[Edit]) -> Change:
    begin, end = edits[0].start, edits[-1].end
    longer = sum(len(edit.bases) - (edit.end - edit.start) for edit in edits)
    unknown = "frameshift_variant" if longer % 3 else "coding_sequence_variant"
    if sequence.code is None:
        return Change(unknown, None, "", "", "p.?", ProteinReason.GENETIC_CODE_UNKNOWN)
    whole = 3 * len(sequence.protein)
    if begin < 0 or (not sequence.stops and (end > whole or begin >= whole)):
        if begin >= whole and not longer % 3:
            unknown = "incomplete_terminal_codon_variant"
        return Change(unknown, None, "", "", "p.?", ProteinReason.INCOMPLETE_CDS)
    first, last = begin // 3, -(-end // 3)
    code, protein = sequence.code, sequence.protein

    start_changed = False
    if sequence.starts and first == 0:
        codon = _edited(sequence, edits, 0, 3 * max(last, 1) + 3)[:3]
        start_changed = codon != sequence.bases[:3]
        if start_changed and code.residue(codon) != "M":
            alt = code.translate(_edited(sequence, edits, 0, 3 * last)) if not longer else ""
            return Change("start_lost", 0, protein[:last], alt, "p.Met1?", ProteinReason.START_LOST)

    def translated(bases: str, translate) -> str:
        found = translate(bases)
        return "M" + found[1:] if first == 0 and sequence.starts else found

    if longer % 3 or (sequence.stops and last >= len(protein)):
        alt = translated(_edited(sequence, edits, 3 * first, len(sequence.translated)), code.translate_to_stop)
        return _to_the_end(sequence, first, alt, longer)
    changed = _edited(sequence, edits, 3 * first, 3 * last)
    alt = translated(changed, code.translate)
    if not longer:  # a codon that stays keeps its residue, however it is read
        before = sequence.bases[3 * first : 3 * last]
        kept = (changed[place : place + 3] == before[place : place + 3] for place in range(0, len(before), 3))
        alt = "".join(protein[first + n] if same else alt[n] for n, same in enumerate(kept))
    change = _within(sequence, first, protein[first:last], alt)
    if start_changed and change.reason == ProteinReason.SAME_PROTEIN:
        return change._replace(effect="start_retained_variant")
    return change


def _edited(sequence: CodingSequence, edits: Sequence[Edit], start: int, end: int) -> str:
    """Bases [start, end) of the translated sequence after the edits, all of which lie within."""
    text, pieces, place = sequence.translated, [], start
    for edit in edits:
        pieces += (text[place : edit.start], edit.bases)
        place = edit.end
    return "".join([*pieces, text[place:end]])


def _shared(a: str, b: str) -> int:
    """Length of the common start of two sequences."""
    shared = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        shared += 1
    return shared


def _span(letters: str, place: int) -> str:
    """Residues from `place` (0-based) on, as HGVS names them: the first and, of several, the last."""
    first = f"{residues(letters[0])}{place + 1}"
    return first if len(letters) == 1 else f"{first}_{residues(letters[-1])}{place + len(letters)}"


def _reason(ref: str, alt: str) -> str:
    """Why a change of residues cannot be asked of a model; empty if it can."""
    if UNKNOWN_RESIDUE in ref + alt:
        return ProteinReason.AMBIGUOUS_CODON
    return "" if all(letter in INDEX_OF for letter in ref + alt) else ProteinReason.NONSTANDARD_RESIDUE


def _within(sequence: CodingSequence, first: int, ref: str, alt: str) -> Change:
    """Residues `ref` from `first` on become `alt`, and all behind them stay."""
    protein = sequence.protein
    if UNKNOWN_RESIDUE in ref + alt:
        return Change("coding_sequence_variant", first, ref, alt, "p.?", ProteinReason.AMBIGUOUS_CODON)
    if ref == alt:
        effect = "stop_retained_variant" if ref == STOP else "synonymous_variant"
        name = f"p.{_span(ref, first)}=" if ref else "p.="
        return Change(effect, first, ref, alt, name, ProteinReason.SAME_PROTEIN)
    if STOP in alt and STOP not in ref:
        return _stop_gained(sequence, first, ref, alt[: alt.index(STOP) + 1])
    if STOP in ref:  # one within the sequence: what follows belongs to no protein yet
        return Change("stop_lost", first, ref, alt, "p.?", ProteinReason.STOP_OR_FRAMESHIFT)
    shared = _shared(ref, alt)
    place, ref, alt = first + shared, ref[shared:], alt[shared:]
    shared = _shared(ref[::-1], alt[::-1])
    ref, alt = ref[: len(ref) - shared], alt[: len(alt) - shared]
    if ref and alt:
        if len(ref) == len(alt):
            effect = "missense_variant"
            name = f"{_span(ref, place)}{residues(alt)}" if len(ref) == 1 else ""
        else:
            effect, name = "protein_altering_variant", ""
        return Change(
            effect, place, ref, alt, f"p.{name or f'{_span(ref, place)}delins{residues(alt)}'}", _reason(ref, alt)
        )
    if ref:
        length = len(ref)
        while place + length < len(protein) and protein[place] == protein[place + length]:
            place += 1
        ref = protein[place : place + length]
        return Change("inframe_deletion", place, ref, "", f"p.{_span(ref, place)}del", _reason(ref, ""))
    while place < len(protein) and protein[place] == alt[0]:
        place, alt = place + 1, alt[1:] + alt[0]
    return Change("inframe_insertion", place, "", alt, _insertion(protein, place, alt), _reason("", alt))


def _insertion(protein: str, place: int, alt: str) -> str:
    """HGVS of residues inserted before `place`: a duplication where they repeat those before."""
    if protein[max(place - len(alt), 0) : place] == alt:
        return f"p.{_span(alt, place - len(alt))}dup"
    if 0 < place < len(protein):
        return f"p.{_span(protein[place - 1 : place + 1], place - 1)}ins{residues(alt)}"
    return "p.?"  # before the first or behind the last residue known


def _same(sequence: CodingSequence, first: int) -> Change:
    """Everything from residue `first` on stays, though the bases that tell it do not."""
    place = len(sequence.protein) - 1 if sequence.stops else first
    effect = "stop_retained_variant" if sequence.stops else "coding_sequence_variant"
    residue = sequence.protein[place]
    return Change(effect, place, residue, residue, f"p.{_span(residue, place)}=", ProteinReason.SAME_PROTEIN)


def _stop_gained(sequence: CodingSequence, first: int, ref: str, alt: str) -> Change:
    """Residues from `first` on become `alt`, which ends with a stop that the protein does not have there."""
    protein = sequence.protein
    if alt == protein[first:]:
        return _same(sequence, first)
    shared = _shared(protein[first:], alt)
    place = first + shared
    if alt[shared] == STOP:
        ref, alt = protein[place], STOP
        name = f"p.{_span(ref, place)}Ter"
    else:
        ref, alt = ref[shared:], alt[shared:]
        name = f"p.{_span(ref, place)}delins{residues(alt)}" if ref else _insertion(protein, place, alt)
    return Change("stop_gained", place, ref, alt, name, ProteinReason.STOP_OR_FRAMESHIFT)


def _to_the_end(sequence: CodingSequence, first: int, alt: str, longer: int) -> Change:
    """Everything from residue `first` on becomes `alt`, which ends with a stop unless none is known.

    Args:
        longer: bases by which the coding sequence grows.
    """
    protein = sequence.protein
    ref = protein[first:]
    if alt == ref:
        return _same(sequence, first)
    ended = alt.endswith(STOP)
    shared = _shared(ref, alt)
    place, new = first + shared, alt[shared:]
    was = protein[place : place + 1]
    if not longer % 3:
        expected = len(ref) + longer // 3
        if ended and len(alt) == expected:
            return _within(sequence, first, ref[:-1], alt[:-1])
        if ended and len(alt) < expected:
            return _stop_gained(sequence, first, ref[:-1], alt)
    reason = ProteinReason.STOP_OR_FRAMESHIFT
    if sequence.stops and place == len(protein) - 1:
        tail = len(alt) - len(ref) if ended else "?"
        name = f"p.{_span(was, place)}{residues(new[0])}extTer{tail}" if new else "p.?"
        return Change("stop_lost", place, was, new[:1], name, reason)
    if not longer % 3:
        name = f"p.{_span(protein[place:], place)}delins{residues(new)}" if ended else "p.?"
        return Change("stop_lost", place, protein[place:], new.removesuffix(STOP), name, reason)
    if UNKNOWN_RESIDUE in was + new[:1] or not was:
        name = "p.?"
    elif not new:
        name = f"p.{_span(was, place)}fs"
    elif new[0] == STOP:
        name = f"p.{_span(was, place)}Ter"
    else:
        name = f"p.{_span(was, place)}{residues(new[0])}fsTer{len(new) if ended else '?'}"
    return Change("frameshift_variant", place, was, "", name, reason)


# Alleles on transcripts -------------------------------------------------------------------------------------------


def trimmed(start: int, ref: str, alt: str) -> tuple[int, int, str]:
    """An allele without the bases that REF and ALT share at both ends: [start, end) of the contig becomes `alt`."""
    shared = _shared(ref[::-1], alt[::-1])
    ref, alt = ref[: len(ref) - shared], alt[: len(alt) - shared]
    shared = _shared(ref, alt)
    return start + shared, start + len(ref), alt[shared:]


def room_to_roll(contig: str, start: int, end: int, alt: str) -> int:
    """By how many bases an insertion or deletion can move to the right and give the same sequence; 0 for others."""
    room = 0
    if start == end and alt:
        while start + room < len(contig) and contig[start + room] == alt[room % len(alt)]:
            room += 1
    elif not alt:
        while end + room < len(contig) and contig[start + room] == contig[end + room]:
            room += 1
    return room


def rolled(start: int, end: int, alt: str, by: int) -> tuple[int, int, str]:
    """The same insertion or deletion, further right."""
    turn = by % len(alt) if alt else 0
    return start + by, end + by, alt[turn:] + alt[:turn]


def edits_at(sequence: CodingSequence, start: int, end: int, alt: str) -> tuple[Edit, ...]:
    """Edits of the coding sequence by an allele within coding exons; two where parts overlap, none elsewhere.

    An insertion at the very end of a part is outside it.
    """
    found = []
    for left, right, place in sequence.parts:
        if (left < start < right) if start == end else (left <= start and end <= right):
            if sequence.reverse:
                found.append(Edit(place + right - end, place + right - start, reverse_complement(alt)))
            else:
                found.append(Edit(place + start - left, place + end - left, alt))
    return tuple(sorted(found))


def _shifts_within(sequence: CodingSequence, start: int, end: int, room: int) -> Iterator[tuple[int, int]]:
    """First and last shift at which an allele lies within a part, for each part."""
    inner = start == end  # an insertion needs a base of the part on either side
    for left, right, _ in sequence.parts:
        first, last = max(left + inner - start, 0), min(right - inner - end, room)
        if first <= last:
            yield first, last


def place_allele(
    sequence: CodingSequence, contig: str, start: int, end: int, alt: str, room: int | None = None
) -> Placed | None:
    """What an allele does to a transcript's protein; None if it does not touch the coding sequence.

    Args:
        contig: upper-case.
        start, end, alt: as `trimmed` gives them, left-aligned. room: as `room_to_roll` gives it.
    """
    if end - start == len(alt) == 1:
        edits = edits_at(sequence, start, end, alt)
        if not edits:
            return None
        return Placed(protein_change(sequence, edits), hgvs_c(sequence, contig, start, end, alt), edits)
    room = room_to_roll(contig, start, end, alt) if room is None else room
    low, high = sequence.transcript.cds[0][0], sequence.transcript.cds[-1][1]
    if end <= low or start + room >= high:
        return _at_the_edge(sequence, contig, start, end, alt, room)
    shifts = list(_shifts_within(sequence, start, end, room))
    if shifts:
        by = min(first for first, _ in shifts) if sequence.reverse else max(last for _, last in shifts)
        here = rolled(start, end, alt, by)
        edits = edits_at(sequence, *here)
        return Placed(protein_change(sequence, edits), hgvs_c(sequence, contig, *here), edits)
    ordered = sequence.transcript.cds
    in_intron = any(
        max(gap - start, 0) <= min(end_of_gap - end, room) for (_, gap), (end_of_gap, _) in pairwise(ordered)
    )
    if start == end or in_intron:
        return None
    here = rolled(start, end, alt, 0 if sequence.reverse else room)
    return _across(sequence, contig, *here)


def _at_the_edge(sequence: CodingSequence, contig: str, start: int, end: int, alt: str, room: int) -> Placed | None:
    """An allele that can be placed wholly before or behind the coding sequence: start and stop codon stay."""
    low, high = sequence.transcript.cds[0][0], sequence.transcript.cds[-1][1]
    left = end <= low
    if end + room <= low or start >= high:
        return None
    by = (0 if sequence.reverse else low - end) if left else max(high - start, 0) if sequence.reverse else room
    here = rolled(start, end, alt, by)
    name = hgvs_c(sequence, contig, *here)
    if left != sequence.reverse and sequence.starts:
        change = Change("start_retained_variant", 0, "M", "M", "p.Met1=", ProteinReason.SAME_PROTEIN)
    elif left == sequence.reverse and sequence.stops:
        place = len(sequence.protein) - 1
        change = Change("stop_retained_variant", place, STOP, STOP, f"p.Ter{place + 1}=", ProteinReason.SAME_PROTEIN)
    else:
        reason = ProteinReason.INCOMPLETE_CDS if sequence.code else ProteinReason.GENETIC_CODE_UNKNOWN
        change = Change("coding_sequence_variant", None, "", "", "p.?", reason)
    return Placed(change, name, ())


def _across(sequence: CodingSequence, contig: str, start: int, end: int, alt: str) -> Placed:
    """An allele that takes both bases of the coding sequence and bases outside of it."""
    low, high = sequence.transcript.cds[0][0], sequence.transcript.cds[-1][1]
    name = hgvs_c(sequence, contig, start, end, alt)
    before, behind = (end > high, start < low) if sequence.reverse else (start < low, end > high)
    covered = sum(max(0, min(end, right) - max(start, left)) for left, right, _ in sequence.parts)
    reason: str = ProteinReason.CROSSES_EXON_END
    if sequence.code is None:
        reason = ProteinReason.GENETIC_CODE_UNKNOWN
    elif before:
        reason = ProteinReason.START_LOST if sequence.starts else ProteinReason.INCOMPLETE_CDS
    exons = sequence.transcript.exons
    if start <= exons[0][0] and exons[-1][1] <= end and not alt:
        return Placed(Change("transcript_ablation", None, "", "", "p.?", reason), name, ())
    if before:
        known = reason == ProteinReason.START_LOST
        change = Change("start_lost" if known else "coding_sequence_variant", None, "", "", "p.?", reason)
        return Placed(change._replace(start=0, ref="M", hgvs_p="p.Met1?") if known else change, name, ())
    if covered < min(end, high) - max(start, low):
        return Placed(Change(_splice_effect(sequence, start, end), None, "", "", "p.?", reason), name, ())
    if not behind or sequence.code is None or not sequence.stops:
        reason = ProteinReason.INCOMPLETE_CDS if sequence.code else reason
        return Placed(Change("coding_sequence_variant", None, "", "", "p.?", reason), name, ())
    left, right, place = sequence.parts[-1]
    within_exon = any(first <= start and end <= last for first, last in exons)
    if within_exon and (left <= start if not sequence.reverse else end <= right):
        first = place + (right - end if sequence.reverse else start - left)
        edit = Edit(first, first + end - start, reverse_complement(alt) if sequence.reverse else alt)
        return Placed(protein_change(sequence, (edit,)), name, ())
    stop = len(sequence.protein) - 1
    change = Change("stop_lost", stop, STOP, "", "p.?", ProteinReason.STOP_OR_FRAMESHIFT)
    return Placed(change, name, ())


def _splice_effect(sequence: CodingSequence, start: int, end: int) -> str:
    """Which end of an intron is taken away; the acceptor, as the more severe, where both are."""
    parts = sequence.parts
    ends = set()
    for (left, right, _), (next_left, next_right, _) in pairwise(parts):
        gap = (next_right, left) if sequence.reverse else (right, next_left)
        if gap[1] - gap[0] <= LONGEST_FRAMESHIFT or end <= gap[0] or gap[1] <= start:
            continue
        if start < gap[0]:
            ends.add("acceptor" if sequence.reverse else "donor")
        if end > gap[1]:
            ends.add("donor" if sequence.reverse else "acceptor")
    if not ends:
        return "coding_sequence_variant"
    return f"splice_{min(ends)}_variant"


# HGVS of coding sequences -----------------------------------------------------------------------------------------


def hgvs_c(sequence: CodingSequence, contig: str, start: int, end: int, alt: str) -> str:
    """HGVS of an allele on the coding strand, 'c.76A>C'; empty before the first whole codon of an incomplete CDS.

    c.1 is the first base of the first whole codon. Bases outside the exons count from the nearest one.
    """
    reverse = sequence.reverse

    def span(first: int, last: int) -> str:
        """Positions of [first, last] on the contig, in reading order."""
        ends = [coding_position(sequence, place) for place in ((last, first) if reverse else (first, last))]
        return "" if "" in ends else ends[0] if first == last else "_".join(ends)

    new = reverse_complement(alt) if reverse else alt
    if start == end:
        first, behind = (start, start + len(alt)) if reverse else (start - len(alt), start)
        exons = sequence.transcript.exons
        # What a copy takes of an exon's end and of the intron beside it stands nowhere in the transcript.
        whole = all(behind <= left or right <= first or left <= first <= behind <= right for left, right in exons)
        if first >= 0 and whole and contig[first:behind] == alt:
            where = span(first, behind - 1)
            return where and f"c.{where}dup"
        where = span(start - 1, start)
        return where and f"c.{where}ins{new}"
    where = span(start, end - 1)
    if not where:
        return ""
    if not alt:
        return f"c.{where}del"
    old = reverse_complement(contig[start:end]) if reverse else contig[start:end]
    if len(old) == len(new) == 1:
        return f"c.{where}{old}>{new}"
    if len(old) > 1 and new == reverse_complement(old):
        return f"c.{where}inv"
    return f"c.{where}delins{new}"


def coding_position(sequence: CodingSequence, place: int) -> str:
    """HGVS position of a base of the contig; empty in the broken codon at the start of an incomplete CDS."""
    for left, right, first in sequence.parts:
        if left <= place < right:
            offset = first + (right - 1 - place if sequence.reverse else place - left)
            return str(offset + 1) if offset >= 0 else ""
    ordered = sequence.transcript.exons[::-1] if sequence.reverse else sequence.transcript.exons
    first_base = sequence.parts[0][1] - 1 if sequence.reverse else sequence.parts[0][0]
    last_base = sequence.parts[-1][0] if sequence.reverse else sequence.parts[-1][1] - 1

    def spliced(base: int) -> int:
        """Bases of the transcript before one of its exons' bases."""
        before = 0
        for left, right in ordered:
            if left <= base < right:
                return before + (right - 1 - base if sequence.reverse else base - left)
            before += right - left
        raise AssertionError(f"base {base} is in no exon of {sequence.transcript.id}")

    def numbered(count: int) -> str:
        """A place that is `count` bases behind the first of the CDS, in the exons."""
        length = spliced(last_base) - spliced(first_base) + 1
        return f"-{-count}" if count < 0 else f"*{count - length + 1}" if count >= length else str(count + 1)

    start = spliced(first_base) + sequence.transcript.phase
    edges = [(right - 1, left) if sequence.reverse else (left, right - 1) for left, right in ordered]
    sign = -1 if sequence.reverse else 1
    for index, (head, tail) in enumerate(edges):
        if (place - head) * sign < 0:
            if index == 0:
                return numbered(spliced(head) - start + (place - head) * sign)
            upstream, downstream = (place - edges[index - 1][1]) * sign, (head - place) * sign
            if upstream <= downstream:
                return f"{numbered(spliced(edges[index - 1][1]) - start)}+{upstream}"
            return f"{numbered(spliced(head) - start)}-{downstream}"
        if (place - tail) * sign <= 0:
            return numbered(spliced(place) - start)
    return numbered(spliced(edges[-1][1]) - start + (place - edges[-1][1]) * sign)


# Tables -----------------------------------------------------------------------------------------------------------


@dataclass
class GeneSource:
    """Where coding sequences come from: gene models, reference and what is known besides.

    Attributes:
        order: kinds of transcripts, see `choose_transcripts`. codes: genetic codes by contig.
        given: protein sequences to compare with. accessions: UniProt by name.
    """

    genes: Path
    reference: ReferenceSequence
    names: ContigNames
    order: Sequence[str]
    codes: Mapping[str, int]
    given: ProteinSequences
    accessions: Mapping[str, tuple[str, ...]]

    @classmethod
    def open(
        cls,
        genes: Path,
        fasta: Path,
        names: ContigNames,
        order: Sequence[str],
        genetic_codes: Mapping[str, int],
        sequences: Path | None,
        uniprot: Path | None,
    ) -> GeneSource:
        """Read what is small. Raises `BadInput` as `configured_codes` and the readers of `translation` do."""
        return cls(
            genes,
            ReferenceSequence(fasta),
            names,
            order,
            configured_codes(genetic_codes, names),
            read_sequences(sequences) if sequences else ProteinSequences(),
            read_accessions(uniprot) if uniprot else {},
        )

    def sequence(self, transcript: CodingTranscript) -> CodingSequence:
        """The coding sequence of a transcript."""
        contig = self.names.contigs[transcript.contig]
        number = code_of_contig(contig.name, contig.length, self.codes)
        return coding_sequence(transcript, self.reference.contig(contig.name), number, self.given.of(transcript))

    def accessions_of(self, transcript: CodingTranscript) -> tuple[str, ...]:
        """UniProt accessions: of the table, or else of the gene models."""
        for name in names_of(transcript):
            if name in self.accessions:
                return self.accessions[name]
        return transcript.accessions


class ContigGenes:
    """The chosen transcripts of one contig, found by position; each is spliced when it is first asked for."""

    def __init__(self, source: GeneSource, contig: str) -> None:
        self._source = source
        found = choose_transcripts(coding_transcripts(source.genes, contig), source.order)
        self._index([transcript for transcript in found if transcript.cds_length - transcript.phase >= 3])
        self._sequences: dict[int, CodingSequence] = {}

    def _index(self, transcripts: list[CodingTranscript]) -> None:
        self.transcripts = transcripts
        parts = sorted((*part, number) for number, transcript in enumerate(transcripts) for part in transcript.cds)
        self._starts = [start for start, _, _ in parts]
        self._ends = [end for _, end, _ in parts]
        self._owners = [number for _, _, number in parts]
        self._reach = list(accumulate(self._ends, max))

    def at(self, start: int, end: int) -> list[int]:
        """Numbers of the transcripts with coding bases in [start, end), by preference."""
        found = set()
        place = bisect_left(self._starts, end) - 1
        while place >= 0 and self._reach[place] > start:
            if self._ends[place] > start:
                found.add(self._owners[place])
            place -= 1
        return sorted(found)

    def covered(self, starts, ends):
        """Which of the intervals [starts, ends) (arrays) have coding bases: bool array."""
        import numpy as np

        if not self._starts:
            return np.zeros(len(starts), bool)
        before = np.searchsorted(self._starts, ends, "left")  # parts that begin before the interval ends
        reach = np.array([-1, *self._reach])
        return reach[before] > starts

    def sequence(self, number: int) -> CodingSequence:
        if number not in self._sequences:
            self._sequences[number] = self._source.sequence(self.transcripts[number])
        return self._sequences[number]


@dataclass
class Proteins:
    """The distinct proteins of a table, in the order in which they came."""

    source: GeneSource
    rows: dict[str, tuple[str, dict[str, None], dict[str, None], dict[str, None]]] = field(default_factory=dict)
    _known: dict[str, str] = field(default_factory=dict)

    def name(self, sequence: CodingSequence) -> str:
        """Its name, empty where there is no protein to name."""
        transcript = sequence.transcript.id
        if transcript not in self._known:
            usable = sequence.residues and not sequence.broken
            self._known[transcript] = protein_id(sequence.residues) if usable else ""
        return self._known[transcript]

    def add(self, sequence: CodingSequence) -> None:
        transcript = sequence.transcript
        row = self.rows.setdefault(self.name(sequence), (sequence.residues, {}, {}, {}))
        row[1][transcript.id] = row[2][transcript.gene] = None
        row[3].update(dict.fromkeys(self.source.accessions_of(transcript)))

    def frame(self):
        """Pandas frame of `columns.PROTEINS`."""
        import pandas as pd

        rows = [(name, row[0], *(",".join(names) for names in row[1:])) for name, row in self.rows.items()]
        return pd.DataFrame(rows, columns=list(PROTEINS), dtype=str)


@dataclass
class Summary:
    """Counts of a run.

    Attributes:
        alleles: in coding sequences, by (status, reason).
        checked: transcripts that were compared with a given protein sequence.
        differing: those that differ: transcript, and where and how.
        haplotypes: rows of the table. unplaced: haplotypes whose alleles overlap or leave the coding exons.
        proteins: distinct ones in the table, with_accession: those with a UniProt accession.
    """

    alleles: Counter = field(default_factory=Counter)
    checked: int = 0
    differing: list[tuple[str, str]] = field(default_factory=list)
    haplotypes: int = 0
    unplaced: int = 0
    proteins: int = 0
    with_accession: int = 0


def list_protein_changes(
    variants: Path,
    fasta: Path,
    genes: Path,
    names: ContigNames,
    *,
    order: Sequence[str],
    genetic_codes: Mapping[str, int],
    sequences: Path | None,
    uniprot: Path | None,
    records: Path | None,
    vcfs: Sequence[Path],
    changes: Path,
    haplotypes: Path,
    proteins: Path,
) -> Summary:
    """Write `changes.parquet`, `haplotypes.parquet` and `proteins.parquet`. Memory depends on the largest contig.

    Args:
        variants, records: of the variants stage; `records` may be None where no file has genotypes.
        genes: as `prepare_genes` writes it. names: the reference's contigs and their aliases.
        order: kinds of transcripts, the most wanted first. genetic_codes: NCBI tables by contig.
        sequences: FASTA of proteins to compare with. uniprot: table of accessions.
        vcfs: input files, read again where two alleles share a codon.

    Raises:
        BadInput: a table or FASTA that cannot be read, or a genetic code that does not exist.
    """
    source = GeneSource.open(genes, fasta, names, order, genetic_codes, sequences, uniprot)
    table, summary = Proteins(source), Summary()
    changes.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(dir=changes.parent, prefix=".partial-codons-") as folder,
        written_whole(changes) as partial_changes,
        written_whole(haplotypes) as partial_haplotypes,
        written_whole(proteins) as partial_proteins,
    ):
        shared = SharedCodons(Path(folder), names)
        with RowWriter(partial_changes, rows_schema(PROTEIN_CHANGES, {"start"})) as writer:
            for contig, frames in _by_contig(variants):
                if contig not in names.contigs:
                    continue
                found = ContigGenes(source, contig)
                mates = CodonMates()
                for frame in frames:
                    for row in _changes_of(frame, found, source, table, mates, summary):
                        writer.add(row)
                if records is not None and vcfs:
                    shared.keep(contig, mates, records)
        with RowWriter(partial_haplotypes, rows_schema(PROTEIN_HAPLOTYPES, {"start", "carriers"})) as writer:
            for contig, carried in shared.carried(vcfs):
                found = ContigGenes(source, contig)
                for row in _haplotypes_of(carried, found, table, summary):
                    writer.add(row)
                    summary.haplotypes += 1
        table.frame().to_parquet(partial_proteins, index=False)
    summary.proteins = len(table.rows)
    summary.with_accession = sum(bool(accessions) for *_, accessions in table.rows.values())
    return summary


def _by_contig(variants: Path):
    """(contig, frames of its alleles that have a sequence); the table is sorted by contig."""
    from itertools import groupby

    def pieces():
        for frame in annotatable(variants):
            yield from frame.groupby("chrom", sort=False)

    for contig, group in groupby(pieces(), key=lambda piece: piece[0]):
        yield contig, (rows for _, rows in group)


def _changes_of(frame, found: ContigGenes, source: GeneSource, table: Proteins, mates: CodonMates, summary: Summary):
    """Rows of `columns.PROTEIN_CHANGES`; alleles that share codons go to `mates`."""
    import numpy as np

    if not found.transcripts:
        return
    contig = source.reference.contig(found.transcripts[0].contig)
    starts = frame["pos"].to_numpy(np.int64) - 1
    ref_length, alt_length = (frame[name].str.len().to_numpy() for name in ("ref", "alt"))
    # What is inserted or deleted may belong further right, in a coding exon.
    chosen = found.covered(starts, starts + ref_length) | (ref_length != alt_length)
    columns = frame.loc[chosen, ["variant_id", "pos", "ref", "alt"]].itertuples(index=False, name=None)
    for variant, pos, ref, alt in columns:
        start, end, bases = trimmed(int(pos) - 1, ref, alt)
        room = room_to_roll(contig, start, end, bases) if start == end or not bases else 0
        best: tuple | None = None
        touched = []
        for number in found.at(start - 1, end + room + 1):
            sequence = found.sequence(number)
            placed = place_allele(sequence, contig, start, end, bases, room)
            if placed is None:
                continue
            rank = _SEVERITY_OF[placed.change.effect]
            if best is None or rank < best[0]:
                best = rank, number, placed
            if len(placed.edits) == 1 and (len(bases) - (end - start)) % 3 == 0:
                touched.append((number, placed.edits[0]))
        if best is None:
            continue
        _, number, placed = best
        sequence, change = found.sequence(number), placed.change
        for owner, edit in touched:
            mates.add(variant, owner, edit.start, edit.end, owner == number)
        status = Status.SKIPPED if change.reason else Status.SCORED
        protein = table.name(sequence)
        if status == Status.SCORED:
            table.add(sequence)
        summary.alleles[str(status), str(change.reason)] += 1
        _check(sequence, source, summary)
        transcript = sequence.transcript
        yield (
            variant,
            transcript.gene,
            transcript.id,
            protein,
            *change[:4],
            placed.hgvs_c,
            change.hgvs_p,
            str(status),
            str(change.reason),
        )


def _check(sequence: CodingSequence, source: GeneSource, summary: Summary) -> None:
    """Count a transcript that has a given protein sequence, once, and note where the two differ."""
    if sequence.agrees is None:
        return
    summary.checked += 1
    if not sequence.agrees:
        given = source.given.of(sequence.transcript) or ""
        summary.differing.append((sequence.transcript.id, difference(sequence.residues, given)))
    sequence.agrees = None


def difference(translated: str, given: str) -> str:
    """Where two protein sequences first differ, in words."""
    place = _shared(translated, given)
    ours, theirs = translated[place : place + 1] or "nothing", given[place : place + 1] or "nothing"
    lengths = f"{len(translated)} and {len(given)} residues"
    return f"residue {place + 1} is {ours} in the translation and {theirs} in the given sequence ({lengths})"


def _haplotypes_of(carried, found: ContigGenes, table: Proteins, summary: Summary):
    """Rows of `columns.PROTEIN_HAPLOTYPES`.

    Args:
        carried: (transcript number, alleles as (variant_id, start, REF, ALT) of the file, carriers).
    """
    rows: Counter = Counter()  # files may spell the same alleles differently
    for number, alleles, carriers in carried:
        sequence = found.sequence(number)
        edits = [edits_at(sequence, *trimmed(start, ref, alt)) for _, start, ref, alt in alleles]
        single = sorted(edit for pair in edits for edit in pair)
        apart = all(a.end <= b.start and a[:2] != b[:2] for a, b in pairwise(single))
        if not apart or any(len(pair) != 1 for pair in edits):
            summary.unplaced += 1
            continue
        change = protein_change(sequence, single)
        if change.reason in TOLD_OF_HAPLOTYPES and change.start is not None and table.name(sequence):
            rows["+".join(variant for variant, *_ in alleles), number, change] += carriers
    for (variants, number, change), carriers in rows.items():
        sequence = found.sequence(number)
        table.add(sequence)
        yield variants, sequence.transcript.id, table.name(sequence), *change[:4], change.hgvs_p, carriers


def proteins_of(
    genes: Path,
    fasta: Path,
    names: ContigNames,
    wanted: Sequence[str],
    *,
    order: Sequence[str],
    genetic_codes: Mapping[str, int],
    sequences: Path | None = None,
    uniprot: Path | None = None,
):
    """Pandas frame of `columns.PROTEINS` of named genes (their chosen transcript) or transcripts.

    Args:
        wanted: names or ids of genes, or ids of transcripts, with or without version; the others as
            `list_protein_changes` has them.

    Raises:
        BadInput: a name that the gene models do not have, or one whose coding sequence gives no protein.
    """
    source = GeneSource.open(genes, fasta, names, order, genetic_codes, sequences, uniprot)
    table = Proteins(source)
    missing, unusable = dict.fromkeys(wanted), {}
    for contig in names.contigs:
        transcripts = coding_transcripts(genes, contig)
        chosen = {transcript.gene_id: transcript for transcript in choose_transcripts(transcripts, order)}
        for transcript in transcripts:
            own = {transcript.id, transcript.id.partition(".")[0]} & missing.keys()
            if chosen.get(transcript.gene_id) is transcript:
                own |= {transcript.gene, transcript.gene_id, transcript.gene_id.partition(".")[0]} & missing.keys()
            if not own:
                continue
            sequence = source.sequence(transcript)
            for name in own:
                if table.name(sequence):
                    table.add(sequence)
                    missing[name] = transcript.id
                else:
                    unusable[name] = transcript.id
    for name, transcript in missing.items():
        if transcript is None and name in unusable:
            raise BadInput(
                f"{genes}: transcript {unusable[name]} of '{name}' gives no protein, since its genetic code is not "
                "known or a stop stands within its coding sequence; name another transcript in protein.saturation"
            )
        if transcript is None:
            raise BadInput(
                f"{genes}: no coding gene or transcript is called '{name}'; expected a name or id of the gene models; "
                "correct protein.saturation"
            )
    return table.frame()
