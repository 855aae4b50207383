"""Changes of proteins against whole transcripts that are mutated, spliced and translated by Biopython."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pysam
import pytest
from Bio.Seq import Seq
from Bio.SeqUtils import seq1, seq3

from seqprior.columns import PROTEIN_CHANGES, PROTEIN_HAPLOTYPES, PROTEINS, ProteinReason
from seqprior.contigs import ContigNames, contigs_of, write_contigs
from seqprior.errors import BadInput
from seqprior.genes import CodingTranscript, prepare_genes
from seqprior.protein_changes import (
    ContigGenes,
    GeneSource,
    coding_position,
    list_protein_changes,
    place_allele,
    proteins_of,
    rolled,
    room_to_roll,
    trimmed,
)
from seqprior.reference import prepare_fasta
from seqprior.residues import protein_id
from seqprior.sequence import reverse_complement
from seqprior.translation import coding_sequence
from seqprior.variants import ReferenceSequence, left_align, normalise_variants

CODONS = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]
SENSE = [codon for codon in CODONS if codon not in ("TAA", "TAG", "TGA")]


# Random gene models -----------------------------------------------------------------------------------------------


def random_gene(draw, alphabet=SENSE, complete=True):
    """A contig of one gene, upper-case, and its transcript: UTRs, one to four coding parts, introns, either strand."""
    codons = ["ATG", *draw.choices(alphabet, k=draw.randint(6, 20)), draw.choice(["TAA", "TAG", "TGA"])]
    if not complete:
        codons = draw.choices(alphabet, k=draw.randint(6, 20))
    coding = "".join(codons)
    phase = 0 if complete else draw.randint(0, 2)
    coding = "".join(draw.choices("ACGT", k=phase)) + coding
    bounds = sorted({0, len(coding), *draw.sample(range(4, len(coding) - 4), draw.randint(0, 3))})
    contig, exons, cds = "".join(draw.choices("ACGT", k=draw.randint(2, 12))), [], []

    def add(bases):
        nonlocal contig
        contig += bases
        return len(contig) - len(bases), len(contig)

    def any_bases(low, high):
        return "".join(draw.choices("ACGT" if draw.random() < 0.5 else "AT", k=draw.randint(low, high)))

    if draw.random() < 0.5:  # a UTR exon apart
        exons.append(add(any_bases(3, 8)))
        add(any_bases(8, 14))
    opened = add(any_bases(0, 6))[0]
    for left, right in pairwise(bounds):
        start, end = add(coding[left:right])
        cds.append((start, end))
        if right < len(coding):
            exons.append((opened, end))
            opened = add("GT" + any_bases(6, 12) + "AG")[1]
    exons.append((opened, add(any_bases(0, 30))[1]))
    if draw.random() < 0.5:
        add(any_bases(8, 14))
        exons.append(add(any_bases(3, 20)))
    add(any_bases(2, 12))
    strand = draw.choice("+-")
    if strand == "-":
        size = len(contig)
        contig = reverse_complement(contig)
        exons = [(size - end, size - start) for start, end in exons[::-1]]
        cds = [(size - end, size - start) for start, end in cds[::-1]]
    transcript = CodingTranscript(
        "t", "g", "G", "c", strand, tuple(exons), tuple(cds), phase, frozenset(), None, (), "", ()
    )
    return contig, transcript


def random_allele(draw, contig):
    """Position, REF and ALT as a normalised VCF has them."""
    while True:
        start = draw.randrange(1, len(contig) - 8)
        kind = draw.choice(["snv", "snv", "mnv", "insertion", "deletion", "delins"])
        if kind == "snv":
            ref, alt = contig[start], draw.choice("ACGT")
        elif kind == "mnv":
            length = draw.randint(2, 5)
            ref, alt = contig[start : start + length], "".join(draw.choices("ACGT", k=length))
        elif kind == "insertion":
            length = draw.choice([1, 2, 3, 3, 3, 6, 6, 4])
            copied = contig[start + 1 : start + 1 + length]
            ref, alt = contig[start], contig[start] + draw.choice([copied, "".join(draw.choices("ACGT", k=length))])
        elif kind == "deletion":
            ref, alt = contig[start : start + 1 + draw.choice([1, 2, 3, 3, 3, 6, 6, 12])], contig[start]
        else:
            ref = contig[start : start + draw.randint(1, 7)]
            alt = "".join(draw.choices("ACGT", k=draw.randint(1, 7)))
        if ref != alt:
            return left_align(contig, start, ref, alt)


# The oracle -------------------------------------------------------------------------------------------------------


def placements(contig, start, end, alt):
    """Every way to put the same number of bases in the place of as many and get the same sequence, by trial."""
    mutated = contig[:start] + alt + contig[end:]
    if start != end and alt:
        return [(start, end, alt)]
    found = []
    for place in range(len(contig) - (end - start) + 1):
        inserted = mutated[place : place + len(alt)]
        if contig[:place] + inserted + contig[place + end - start :] == mutated:
            found.append((place, place + end - start, inserted))
    return found


def mutated_transcript(contig, transcript, start, end, alt):
    """Bases from the first whole codon to the transcript's end, with an allele within one exon, spliced by hand."""
    growth = len(alt) - (end - start)
    sequence = contig[:start] + alt + contig[end:]

    def moved(left, right):
        inside = left <= start and end <= right and (start < right or end > start or left < start)
        return left + (growth if left >= end and not inside else 0), right + (growth if right >= end else 0)

    low, high = transcript.cds[0][0], transcript.cds[-1][1]
    if transcript.strand == "+":
        pieces = [*transcript.cds, *((max(left, high), right) for left, right in transcript.exons if right > high)]
    else:
        pieces = [*((left, min(right, low)) for left, right in transcript.exons if left < low), *transcript.cds]
    # Adjacent pieces of one exon are spliced as one, so that what stands between two of them cannot get lost.
    whole = []
    for left, right in pieces:
        if whole and whole[-1][1] == left:
            whole[-1] = (whole[-1][0], right)
        else:
            whole.append((left, right))
    text = "".join(sequence[slice(*moved(left, right))] for left, right in whole)
    text = str(Seq(text).reverse_complement()) if transcript.strand == "-" else text
    return text[transcript.phase :]


def to_stop(bases):
    """Residues up to and with the first stop, by Biopython."""
    residues = str(Seq(bases[: len(bases) // 3 * 3]).translate())
    return residues[: residues.index("*") + 1] if "*" in residues else residues


def residue_index(text):
    match = re.match(r"([A-Z][a-z]{2})(\d+)", text)
    return seq1(match[1], custom_map={"Ter": "*"}), int(match[2]) - 1


def letters(text):
    return seq1(text, custom_map={"Ter": "*"}) if text else ""


def check_hgvs_p(name, before, after):
    """Read an HGVS name back and see that it turns one protein into the other; both end with their stop, if any."""
    body = name.removeprefix("p.")
    if match := re.fullmatch(r"(\w{3}\d+)(\w{3})fsTer(\d+|\?)", body):
        residue, place = residue_index(match[1])
        assert before[place] == residue and before[:place] == after[:place]
        assert after[place] == letters(match[2]) != residue
        assert match[3] == (str(after.index("*") - place + 1) if "*" in after else "?")
        return
    if match := re.fullmatch(r"(Ter\d+)(\w{3})extTer(\d+|\?)", body):
        residue, place = residue_index(match[1])
        assert place == len(before) - 1 and before[:-1] == after[:place] and after[place] == letters(match[2])
        assert match[3] == (str(after.index("*") - place) if "*" in after else "?")
        return
    if match := re.fullmatch(r"(\w{3}\d+)fs", body):
        residue, place = residue_index(match[1])
        assert before[place] == residue and after == before[:place]
        return
    if body.endswith("="):
        assert before == after
        for end in body[:-1].split("_"):
            residue, place = residue_index(end)
            assert before[place] == residue
        return
    match = re.fullmatch(r"(\w{3}\d+)(?:_(\w{3}\d+))?(delins|del|ins|dup|)(\w*)", body)
    assert match, name
    first, start = residue_index(match[1])
    last, stop = residue_index(match[2] or match[1])
    assert before[start] == first and before[stop] == last
    kind, new = match[3], letters(match[4])
    if kind == "ins":
        assert stop == start + 1
        made = before[: start + 1] + new + before[stop:]
        assert before[start + 1 - len(new) : start + 1] != new  # else it is a duplication
        assert before[stop] != new[0] or "*" in new  # else it can move to the right
    elif kind == "dup":
        assert not new
        made = before[: stop + 1] + before[start:]
        assert before[start : stop + 1] != before[start + 1 : stop + 2] or stop + 1 == len(before)
        copy = before[start : stop + 1]
        assert before[stop + 1 : stop + 2] != copy[0]
    elif kind == "del":
        assert not new
        made = before[:start] + before[stop + 1 :]
        assert before[stop + 1 : stop + 2] != before[start]
    elif kind == "delins":
        made = before[:start] + new + before[stop + 1 :]
        assert new[0] != first and ("*" in new or "*" in before[start : stop + 1] or new[-1] != last)
    else:
        assert len(new) == 1 and new != first
        made = before[:start] + new + before[start + 1 :]
    made = made[: made.index("*") + 1] if "*" in made else made
    assert made == after, name


def check_hgvs_c(name, coding, mutated):
    """Read a name within the coding sequence back: it turns one spliced sequence into the other."""
    if re.fullmatch(r"c\.-\d+_\d+dup|c\.\d+_\*\d+dup", name):
        return  # a copy of bases that lie partly in the UTR of the same exon
    match = re.fullmatch(r"c\.(\d+)(?:_(\d+))?(?:([ACGT])>([ACGT])|(delins|del|ins|dup|inv)([ACGT]*))", name)
    assert match, name
    start, stop = int(match[1]) - 1, int(match[2] or match[1])
    if match[3]:
        assert coding[start] == match[3]
        made = coding[:start] + match[4] + coding[stop:]
    elif match[5] == "ins":
        assert stop == start + 2
        made = coding[: start + 1] + match[6] + coding[start + 1 :]
    else:
        old = coding[start:stop]
        new = {"del": "", "dup": old * 2, "inv": reverse_complement(old)}.get(match[5], match[6])
        made = coding[:start] + new + coding[stop:]
    assert made == mutated, name


def expected_effect(before, after, bases, growth):
    """Effect of a change within the coding exons, from whole proteins and the new first codon."""
    if to_stop(bases[:3]) != "M":
        return "start_lost"
    if before == after:
        return {"synonymous_variant", "stop_retained_variant"}
    place = next(i for i in range(len(before) + 1) if before[: i + 1] != after[: i + 1])
    if growth % 3:
        return "stop_lost" if place == len(before) - 1 else "frameshift_variant"
    ended, expected = after.endswith("*"), len(before) + growth // 3
    if not ended or len(after) > expected:
        return "stop_lost"
    if len(after) < expected:
        return "stop_gained"
    if not growth:
        return "missense_variant"
    shorter, longer = sorted((before, after), key=len)
    within = any(longer[:i] + longer[i + abs(growth) // 3 :] == shorter for i in range(len(shorter) + 1))
    return ("inframe_insertion" if growth > 0 else "inframe_deletion") if within else "protein_altering_variant"


@pytest.mark.parametrize("seed", range(8))
def test_alleles_change_proteins_as_mutated_transcripts_do(seed):
    draw = random.Random(seed)
    seen: Counter = Counter()
    for _ in range(60):
        repeats = draw.random() < 0.4  # repeats let insertions and deletions move
        contig, transcript = random_gene(draw, ["CAG", "CAA", "AAA", "GCG"] if repeats else SENSE)
        sequence = coding_sequence(transcript, contig, 1)
        before = to_stop(sequence.bases)
        assert sequence.starts and sequence.stops and before == sequence.protein
        low, high = transcript.cds[0][0], transcript.cds[-1][1]
        for _ in range(60):
            start, end, alt = trimmed(*random_allele(draw, contig))
            ways = placements(contig, start, end, alt)
            placed = place_allele(sequence, contig, start, end, alt)
            outside = any(e <= low or s >= high for s, e, _ in ways)
            inner = start == end
            inside = [
                way
                for way in ways
                if any(left + inner <= way[0] and way[1] <= right - inner for left, right in transcript.cds)
            ]
            touching = any(overlaps(way, transcript) for way in ways)
            if not touching:
                assert placed is None
            elif outside:
                assert placed.change.reason == ProteinReason.SAME_PROTEIN and placed.edits == ()
                assert placed.change.effect in ("start_retained_variant", "stop_retained_variant")
                seen["outside"] += 1
            elif inside:
                bases = {mutated_transcript(contig, transcript, *way) for way in inside}
                coding = mutated_transcript(contig, transcript, 0, 0, "")
                bases = bases.pop() if len(bases) == 1 else None
                seen["inside"] += 1
                assert bases is not None or len(transcript.cds) > 1
                bases = bases or mutated_transcript(contig, transcript, *chosen(inside, transcript))
                check_inside(sequence, placed, before, coding, bases, len(alt) - (end - start), seen)
            elif any(not overlaps(way, transcript) for way in ways):
                assert placed is None  # it can be placed in an intron
            else:
                seen["across"] += 1
                check_across(sequence, placed, contig, transcript, *chosen(ways, transcript))
    assert min(seen[kind] for kind in ("inside", "across", "outside")) > 5, seen
    wanted = {"missense_variant", "synonymous_variant", "stop_gained", "frameshift_variant", "stop_lost", "start_lost"}
    assert wanted | {"inframe_insertion", "inframe_deletion", "protein_altering_variant"} <= seen.keys()


def overlaps(way, transcript):
    start, end, _ = way
    if start == end:
        return any(left < start < right for left, right in transcript.cds)
    return any(start < right and left < end for left, right in transcript.cds)


def chosen(inside, transcript):
    """The placement nearest the transcript's 3' end."""
    return (min if transcript.strand == "-" else max)(inside)


def check_inside(sequence, placed, before, coding, bases, growth, seen):
    change, after = placed.change, to_stop(bases)
    effect = expected_effect(before, after, bases, growth)
    seen[change.effect] += 1
    assert change.effect == effect or change.effect in effect, (change, before, after)
    check_hgvs_c(placed.hgvs_c, coding, bases)
    if effect == "start_lost":
        assert (change.hgvs_p, change.reason) == ("p.Met1?", ProteinReason.START_LOST)
        return
    if change.hgvs_p != "p.?":
        check_hgvs_p(change.hgvs_p, before, after)
    else:
        assert change.effect == "stop_lost" and not after.endswith("*")
    if change.effect in ("frameshift_variant", "stop_lost"):
        assert change.reason == ProteinReason.STOP_OR_FRAMESHIFT
        assert before[change.start : change.start + len(change.ref)] == change.ref
        assert before[: change.start] == after[: change.start]
        return
    made = before[: change.start] + change.alt + before[change.start + len(change.ref) :]
    made = made[: made.index("*") + 1] if "*" in made else made
    assert before[change.start : change.start + len(change.ref)] == change.ref and made == after
    scored = change.effect in {"missense_variant", "inframe_insertion", "inframe_deletion", "protein_altering_variant"}
    assert scored == (change.reason == "")
    assert (before == after) == (change.reason == ProteinReason.SAME_PROTEIN)


def check_across(sequence, placed, contig, transcript, start, end, alt):
    """Where an allele takes coding and other bases: no residues are told, unless it only runs into the 3' UTR."""
    low, high = transcript.cds[0][0], transcript.cds[-1][1]
    before, behind = (start < low, end > high) if transcript.strand == "+" else (end > high, start < low)
    if before:
        assert placed.change.reason == ProteinReason.START_LOST
        assert placed.change.effect in ("start_lost", "transcript_ablation")
    elif behind and any(left <= start and end <= right for left, right in transcript.exons):
        bases = mutated_transcript(contig, transcript, start, end, alt)
        after = to_stop(bases)
        if placed.change.hgvs_p != "p.?":
            check_hgvs_p(placed.change.hgvs_p, sequence.protein, after)
        else:
            assert not after.endswith("*")
        assert (placed.change.reason == ProteinReason.SAME_PROTEIN) == (after == sequence.protein)
    elif behind and not any(start < right and right < end for _, right in transcript.cds[:-1]):
        assert placed.change.reason in (ProteinReason.STOP_OR_FRAMESHIFT, ProteinReason.CROSSES_EXON_END)
    else:
        assert placed.change.reason == ProteinReason.CROSSES_EXON_END
        assert placed.change.effect in ("splice_donor_variant", "splice_acceptor_variant")


# Cases by hand ----------------------------------------------------------------------------------------------------

#        1   2   3   4   5   6   7   8   9  10  11
CODING = "ATGAAACGTCGTTGGCAACAACAAGATTTATAA"  # M K R R W Q Q Q D L *
UTR = "CAGGCATGACCCTTAACTAACTAAC"


def gene_of(coding=CODING, utr=UTR, strand="+", phase=0, tags=(), table=None, exceptions=(), lead="TTCTTC"):
    contig = lead + coding + utr + "GGG"
    exons, cds = ((0, len(contig) - 3),), ((len(lead), len(lead) + len(coding)),)
    if strand == "-":
        size = len(contig)
        contig = reverse_complement(contig)
        exons, cds = (tuple((size - end, size - start) for start, end in spans) for spans in (exons, cds))
    tags = frozenset(tags)
    return contig, CodingTranscript("t", "g", "G", "c", strand, exons, cds, phase, tags, table, exceptions, "", ())


def changed(place, ref, alt, number=1, given=None, **gene):
    """What replacing `ref` by `alt` at a base of the coding sequence (1-based) does; on both strands alike."""
    found = []
    for strand in "+-":
        contig, transcript = gene_of(strand=strand, **gene)
        sequence = coding_sequence(transcript, contig, number, given)
        low, high = transcript.cds[0]
        start = low + place - 1 if strand == "+" else high - place + 1 - len(ref)
        own = (ref, alt) if strand == "+" else (reverse_complement(ref), reverse_complement(alt))
        assert contig[start : start + len(ref)] == own[0]
        if not ref or not alt:
            base = contig[start - 1]
            start, own = start - 1, (base + own[0], base + own[1])
        found.append(place_allele(sequence, contig, *trimmed(*left_align(contig, start, *own))))
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize(
    ("place", "ref", "alt", "effect", "c", "p", "reason"),
    [
        (7, "C", "T", "missense_variant", "c.7C>T", "p.Arg3Cys", ""),
        (9, "T", "C", "synonymous_variant", "c.9T>C", "p.Arg3=", "same_protein"),
        (16, "C", "T", "stop_gained", "c.16C>T", "p.Gln6Ter", "stop_or_frameshift"),
        (2, "T", "C", "start_lost", "c.2T>C", "p.Met1?", "start_lost"),
        (31, "T", "C", "stop_lost", "c.31T>C", "p.Ter11GlnextTer3", "stop_or_frameshift"),
        (33, "A", "G", "stop_retained_variant", "c.33A>G", "p.Ter11=", "same_protein"),
        (16, "CAA", "", "inframe_deletion", "c.22_24del", "p.Gln8del", ""),
        (16, "", "CAA", "inframe_insertion", "c.22_24dup", "p.Gln8dup", ""),
        (16, "CAACAA", "", "inframe_deletion", "c.19_24del", "p.Gln7_Gln8del", ""),
        (13, "", "GCA", "inframe_insertion", "c.12_13insGCA", "p.Arg4_Trp5insAla", ""),
        (8, "GTCG", "A", "protein_altering_variant", "c.8_11delinsA", "p.Arg3_Arg4delinsHis", ""),
        (7, "CGTCGT", "TGTTGT", "missense_variant", "c.7_10delinsTGTT", "p.Arg3_Arg4delinsCysCys", ""),
        (8, "GT", "AC", "missense_variant", "c.8_9inv", "p.Arg3His", ""),
        (4, "A", "", "frameshift_variant", "c.6del", "p.Lys2AsnfsTer15", "stop_or_frameshift"),
        (13, "T", "", "frameshift_variant", "c.13del", "p.Trp5GlyfsTer12", "stop_or_frameshift"),
        (14, "", "A", "frameshift_variant", "c.13_14insA", "p.Trp5Ter", "stop_or_frameshift"),
        (30, "A", "", "frameshift_variant", "c.30del", "p.Leu10PhefsTer7", "stop_or_frameshift"),
        (13, "TGG", "TAG", "stop_gained", "c.14G>A", "p.Trp5Ter", "stop_or_frameshift"),
        (13, "", "GCATAG", "stop_gained", "c.12_13insGCATAG", "p.Arg4_Trp5insAlaTer", "stop_or_frameshift"),
        (28, "TTATAA", "", "stop_lost", "c.28_33del", "p.Leu10_Ter11delinsGlnAlaTer", "stop_or_frameshift"),
    ],
)
def test_names_as_the_field_writes_them(place, ref, alt, effect, c, p, reason):
    placed = changed(place, ref, alt)
    change = placed.change
    assert (change.effect, placed.hgvs_c, change.hgvs_p, change.reason) == (effect, c, p, reason)


def test_stop_lost_without_a_known_utr_has_an_unknown_extension():
    assert changed(31, "T", "C", utr="").change.hgvs_p == "p.Ter11GlnextTer?"
    assert changed(31, "T", "C", utr="CAGGCA").change.hgvs_p == "p.Ter11GlnextTer?"


def test_frameshift_without_a_known_stop_has_an_unknown_end():
    assert changed(14, "", "A", coding=CODING[:24], utr="").change.hgvs_p == "p.Trp5Ter"
    assert changed(7, "C", "", coding="ATGAAACGTCGTGGG", utr="").change.hgvs_p == "p.Arg3ValfsTer?"


def test_frame_of_an_incomplete_start_counts_from_the_first_whole_codon():
    coding = "GG" + CODING[3:]
    change = changed(2 + 4, "C", "T", coding=coding, phase=2, tags=("cds_start_NF",))
    assert (change.hgvs_c, change.change.hgvs_p, change.change.start) == ("c.4C>T", "p.Arg2Cys", 1)
    broken = changed(1, "G", "A", coding=coding, phase=2)
    assert (broken.change.reason, broken.change.start, broken.hgvs_c) == ("incomplete_cds", None, "")
    # The first residue of an incomplete sequence is like any other, even if it is a methionine.
    assert changed(2, "T", "C", tags=("cds_start_NF",)).change[:5] == ("missense_variant", 0, "M", "T", "p.Met1Thr")


def test_broken_last_codon_of_an_incomplete_end_is_not_translated():
    coding = CODING[:24] + "GA"
    assert changed(26, "A", "C", coding=coding, utr="").change.reason == "incomplete_cds"
    assert changed(26, "A", "C", coding=coding, utr="").change.effect == "incomplete_terminal_codon_variant"
    assert changed(24, "A", "C", coding=coding, utr="").change.hgvs_p == "p.Gln8His"


def test_stop_within_the_coding_sequence_leaves_no_protein_to_ask():
    coding = CODING[:12] + "TGA" + CODING[15:]
    for place, ref, alt in ((7, "C", "T"), (19, "C", "G")):
        change = changed(place, ref, alt, coding=coding).change
        assert (change.effect, change.reason) == ("missense_variant", "internal_stop")


def test_unknown_bases_of_a_codon_are_a_reason_only_where_they_matter():
    coding = CODING[:6] + "CTN" + CODING[9:]
    assert changed(7, "C", "A", coding=coding).change.reason == "ambiguous_codon"  # ATN is Ile or Met
    silent = changed(8, "T", "G", coding=coding).change  # CTN is Leu and CGN is Arg, whatever N is
    assert (silent.ref, silent.alt, silent.reason) == ("L", "R", "")


def test_selenocysteine_is_known_from_an_exception_or_from_the_given_protein():
    coding = CODING[:12] + "TGA" + CODING[15:]
    protein = "MKRRUQQQDL"
    for strand, more in (("+", {}), ("-", {"given": protein})):
        size = len(gene_of(coding)[0])
        span = (18, 21) if strand == "+" else (size - 21, size - 18)
        exceptions = () if more else ((*span, "U"),)
        contig, transcript = gene_of(coding, strand=strand, exceptions=exceptions)
        sequence = coding_sequence(transcript, contig, 1, more.get("given"))
        assert sequence.residues == protein and not sequence.broken
        assert sequence.agrees is (True if more else None)
    change = changed(14, "G", "C", coding=coding, given=protein).change
    assert (change.ref, change.alt, change.hgvs_p) == ("U", "S", "p.Sec5Ser")
    assert change.reason == "nonstandard_residue"
    assert changed(7, "C", "T", coding=coding, given=protein).change.reason == ""
    assert changed(15, "A", "G", coding=coding, given=protein).change.hgvs_p == "p.Sec5Trp"


def test_codes_of_mitochondria():
    coding = "ATAAAACGTTGACTTTAA"
    human, yeast = changed(7, "C", "A", number=2, coding="ATAAAACGTTGACTTTAA"), changed(14, "T", "C", 3, coding=coding)
    assert (human.change.hgvs_p, human.change.reason) == ("p.Arg3Ser", "")  # TGA is Trp
    assert yeast.change.hgvs_p == "p.Thr5Pro"  # CTN is Thr
    # AGA is Arg by the standard code and a stop in vertebrate mitochondria
    assert changed(7, "C", "A", number=2, coding="ATGAAACGATGACTTTAA").change.hgvs_p == "p.Arg3Ter"
    unknown = changed(7, "C", "A", number=None, coding=coding)
    assert (unknown.change.reason, unknown.change.start) == ("genetic_code_unknown", None)


def test_start_codons_other_than_atg_are_methionine_and_must_stay():
    coding = "TTG" + CODING[3:]
    contig, transcript = gene_of(coding)
    assert coding_sequence(transcript, contig, 1).protein == "MKRRWQQQDL*"
    retained = changed(1, "T", "A", coding=coding).change
    assert (retained.effect, retained.hgvs_p, retained.reason) == ("start_retained_variant", "p.Met1=", "same_protein")
    assert changed(1, "T", "G", coding=coding).change.reason == "start_lost"


def test_a_start_codon_that_stays_is_methionine_beside_an_insertion():
    """The exon ends with the start codon TTG, so that GAC within it leaves TTG and cannot be placed behind it."""
    contig = "CCTTGGTAAGTCAGAAACGTTAACC"
    cds = ((2, 5), (14, 23))
    transcript = CodingTranscript("t", "g", "G", "c", "+", cds, cds, 0, frozenset(), None, (), "", ())
    sequence = coding_sequence(transcript, contig, 1)
    assert sequence.protein == "MKR*"
    change = place_allele(sequence, contig, *trimmed(*left_align(contig, 3, "T", "TGAC"))).change
    assert (change.effect, change.start, change.alt) == ("inframe_insertion", 1, "T")
    assert change.hgvs_p == "p.Met1_Lys2insThr"


def test_polyadenylation_completes_the_stop_codon_of_a_mitochondrial_transcript():
    contig, transcript = gene_of("ATGAAACGTT", utr="")
    assert coding_sequence(transcript, contig, 2).protein == "MKR*"
    assert coding_sequence(transcript, contig, 1).protein == "MKR"
    assert changed(10, "T", "C", number=2, coding="ATGAAACGTT", utr="").change.effect == "stop_lost"


def test_alleles_at_the_ends_of_the_contig():
    contig, transcript = gene_of(lead="", utr="")
    contig = contig[:-3]
    transcript = transcript._replace(exons=transcript.cds)
    sequence = coding_sequence(transcript, contig, 1)
    first = place_allele(sequence, contig, *trimmed(0, "AT", "T"))
    last = place_allele(sequence, contig, *trimmed(len(contig) - 1, "A", "AT"))
    assert first.change.reason == "start_lost" and last is None
    gone = place_allele(sequence, contig, *trimmed(*left_align(contig, len(contig) - 2, "AA", "A")))
    assert gone.change.effect == "stop_lost" and gone.hgvs_c == "c.33del"


def test_insertions_before_the_start_codon_leave_it():
    """An A before ATG is in the 5' UTR, although it may also be placed within the codon's first base."""
    contig, transcript = gene_of(lead="TTCTTC")
    sequence = coding_sequence(transcript, contig, 1)
    placed = place_allele(sequence, contig, 6, 6, "A")
    assert (placed.change.effect, placed.change.reason) == ("start_retained_variant", "same_protein")


def test_positions_outside_the_coding_sequence():
    """Two coding exons of 20 and 40 bases and a UTR exon at either end, on both strands."""
    exons, cds = ((5, 10), (20, 50), (70, 120), (140, 150)), ((30, 50), (70, 110))
    draw = random.Random(3)
    contig = "".join(draw.choices("ACGT", k=160))
    names = []
    for strand in "+-":
        size = len(contig)
        own = exons, cds
        text = contig
        if strand == "-":
            text = reverse_complement(contig)
            own = [tuple((size - end, size - start) for start, end in spans[::-1]) for spans in own]
        transcript = CodingTranscript("t", "g", "G", "c", strand, *map(tuple, own), 0, frozenset(), 1, (), "", ())
        sequence = coding_sequence(transcript, text, 1)
        wanted = [4, 5, 9, 10, 12, 18, 29, 30, 49, 50, 55, 59, 60, 69, 109, 110, 119, 121, 139, 140, 151]
        places = wanted if strand == "+" else [size - 1 - place for place in wanted]
        names.append([coding_position(sequence, place) for place in places])
    assert names[0] == names[1]
    assert names[0] == (
        [
            "-16",
            "-15",
            "-11",
            "-11+1",
            "-11+3",
            "-10-2",
            "-1",
            "1",
            "20",
            "20+1",
            "20+6",
            "20+10",
            "21-10",
            "21-1",
            "60",
            "*1",
            "*10",
            "*10+2",
            "*11-1",
            "*11",
            "*22",
        ]
    )


# Tables -----------------------------------------------------------------------------------------------------------


def gff_lines(gene, contig, strand, parts, own="", more="", exons=None):
    """A gene with one transcript, 0-based half-open parts."""
    own = own or f"{gene}.t"
    low, high = min(start for start, _ in exons or parts), max(end for _, end in exons or parts)
    yield f"{contig}\tx\tgene\t{low + 1}\t{high}\t.\t{strand}\t.\tID=gene:{gene};Name={gene};biotype=protein_coding\n"
    attributes = f"ID=transcript:{own};Parent=gene:{gene};biotype=protein_coding{more}"
    yield f"{contig}\tx\tmRNA\t{low + 1}\t{high}\t.\t{strand}\t.\t{attributes}\n"
    yield from cds_lines(contig, strand, parts, own, exons or parts)


def cds_lines(contig, strand, parts, own, exons):
    for start, end in exons:
        yield f"{contig}\tx\texon\t{start + 1}\t{end}\t.\t{strand}\t.\tParent=transcript:{own}\n"
    done = 0
    for start, end in parts if strand == "+" else parts[::-1]:
        yield f"{contig}\tx\tCDS\t{start + 1}\t{end}\t.\t{strand}\t{-done % 3}\tParent=transcript:{own}\n"
        done += end - start


class Project:
    """A genome, its gene models and a VCF, as the stages before have them."""

    def __init__(self, folder, contigs, lines):
        self.folder = folder
        (folder / "in.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in contigs.items()))
        self.fasta, self.genes = folder / "reference.fa.gz", folder / "genes.gff3.gz"
        prepare_fasta(str(folder / "in.fa"), None, self.fasta)
        self.names = ContigNames(contigs_of(self.fasta))
        (folder / "in.gff3").write_text("##gff-version 3\n" + "".join(lines))
        prepare_genes(folder / "in.gff3", self.names, self.genes)

    def normalise(self, *vcfs):
        normalise_variants(vcfs, self.fasta, self.names, self.folder, max_length=50, max_mismatch_share=1)

    def list(self, *vcfs, **options):
        """Changes, haplotypes, proteins and summary."""
        self.normalise(*vcfs)
        order = options.pop("order", ["MANE_Select", "MANE_Plus_Clinical", "canonical", "longest"])
        options = {"genetic_codes": {}, "sequences": None, "uniprot": None} | options
        tables = {name: self.folder / f"{name}.parquet" for name in ("changes", "haplotypes", "proteins")}
        summary = list_protein_changes(
            self.folder / "variants.parquet",
            self.fasta,
            self.genes,
            self.names,
            order=order,
            records=self.folder / "records.parquet",
            vcfs=vcfs,
            **options,
            **tables,
        )
        return *(pd.read_parquet(path) for path in tables.values()), summary

    def vcf(self, rows, samples=(), name="in.vcf", format="GT"):
        """Rows of chrom, pos, ref, alt and genotypes."""
        path = self.folder / name
        head = "\t".join(["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO"])
        meta = "##fileformat=VCFv4.3\n"
        meta += "".join(f"##contig=<ID={one.name},length={one.length}>\n" for one in self.names.contigs.values())
        meta += '##FORMAT=<ID=GT,Number=1,Type=String,Description="g">\n'
        meta += '##FORMAT=<ID=PS,Number=1,Type=Integer,Description="p">\n'
        head += "".join(f"\t{sample}" for sample in ("FORMAT", *samples)) if samples else ""
        lines = []
        for chrom, pos, ref, alt, *calls in rows:
            shown = "\t".join([chrom, str(pos), ".", ref, alt, ".", ".", "."])
            lines.append(shown + "".join(f"\t{call}" for call in ((format, *calls) if samples else ())))
        path.write_text(meta + head + "\n" + "\n".join(lines) + "\n")
        return path


SEQUENCE = "TTCTTC" + CODING + UTR  # a gene in [6, 39)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path, {"chr1": SEQUENCE}, gff_lines("G", "chr1", "+", [(6, 39)]))


def test_tables_have_their_columns_and_one_row_per_coding_allele(project):
    vcf = project.vcf([("chr1", 3, "C", "T"), ("chr1", 13, "C", "T"), ("chr1", 13, "C", "G"), ("chr1", 15, "T", "C")])
    changes, haplotypes, proteins, summary = project.list(vcf)
    assert tuple(changes.columns) == PROTEIN_CHANGES
    assert tuple(haplotypes.columns) == PROTEIN_HAPLOTYPES and haplotypes.empty
    assert tuple(proteins.columns) == PROTEINS
    assert list(changes["variant_id"]) == ["chr1-13-C-G", "chr1-13-C-T", "chr1-15-T-C"]
    assert list(changes["hgvs_p"]) == ["p.Arg3Gly", "p.Arg3Cys", "p.Arg3="]
    assert list(changes["status"]) == ["scored", "scored", "skipped"]
    assert proteins.to_dict("records") == [
        {
            "protein": protein_id("MKRRWQQQDL"),
            "sequence": "MKRRWQQQDL",
            "transcripts": "G.t",
            "genes": "G",
            "accessions": "",
        }
    ]
    assert summary.alleles == {("scored", ""): 2, ("skipped", "same_protein"): 1}


def test_proteins_of_skipped_changes_alone_are_not_listed(project):
    _, _, proteins, _ = project.list(project.vcf([("chr1", 15, "T", "C")]))
    assert proteins.empty and list(proteins.columns) == list(PROTEINS)


def test_no_allele_gives_empty_tables(project):
    changes, haplotypes, proteins, _ = project.list(project.vcf([("chr1", 2, "T", "A")]))
    assert changes.empty and haplotypes.empty and proteins.empty
    assert changes["start"].dtype.kind in "if" and haplotypes["carriers"].dtype.kind in "if"


def test_an_allele_is_put_down_to_the_gene_that_it_changes_most(tmp_path):
    """Two genes overlap out of frame; in one the allele is silent, in the other it is missense or worse."""
    draw = random.Random(1)
    while True:
        bases = "".join(draw.choices("ACGT", k=90))
        first = "ATG" + bases[:84] + "TAA"
        if "*" not in str(Seq(first[:-3]).translate()) and "*" not in str(Seq(first[1:88]).translate()):
            break
    sequence = "CC" + first + "CC"
    lines = [*gff_lines("LONG", "chr1", "+", [(2, 92)]), *gff_lines("SHIFT", "chr1", "+", [(3, 90)])]
    project = Project(tmp_path, {"chr1": sequence}, lines)
    rows = [("chr1", p + 1, sequence[p], a) for p in range(8, 86) for a in "ACGT" if a != sequence[p]]
    changes, *_ = project.list(project.vcf(rows))
    assert len(changes) == len(rows)
    severity = ["stop_gained", "missense_variant", "synonymous_variant"]
    seen = Counter()
    for row in changes.itertuples():
        _, pos, _, alt = row.variant_id.split("-")
        effects = {}
        for gene, start in (("LONG", 2), ("SHIFT", 3)):
            place = (int(pos) - 1 - start) // 3 * 3 + start
            codon = sequence[place : place + 3]
            new = codon[: int(pos) - 1 - place] + alt + codon[int(pos) - place :]
            was, now = str(Seq(codon).translate()), str(Seq(new).translate())
            effects[gene] = severity.index(
                "synonymous_variant" if was == now else "stop_gained" if now == "*" else "missense_variant"
            )
        best = min(("LONG", "SHIFT"), key=lambda gene: effects[gene])
        seen[best] += 1
        assert (row.gene, row.effect) == (best, severity[effects[best]])
    assert min(seen.values()) > 5


def test_transcripts_are_chosen_in_the_configured_order(tmp_path):
    lines = list(gff_lines("G", "chr1", "+", [(6, 39)], own="long"))
    for own, end, tag in (("mane", 30, "MANE_Select"), ("canonical", 27, "Ensembl_canonical")):
        lines.append(
            f"chr1\tx\tmRNA\t7\t{end}\t.\t+\t.\tID=transcript:{own};Parent=gene:G;biotype=protein_coding;tag={tag}\n"
        )
        lines += cds_lines("chr1", "+", [(6, end)], own, [(6, end)])
    project = Project(tmp_path, {"chr1": SEQUENCE}, lines)
    vcf = project.vcf([("chr1", 13, "C", "T")])
    for order, wanted in (
        (["MANE_Select", "MANE_Plus_Clinical", "canonical", "longest"], "mane"),
        (["canonical", "MANE_Select"], "canonical"),
        (["longest", "MANE_Select"], "long"),
        (["MANE_Plus_Clinical", "longest"], "long"),
    ):
        assert list(project.list(vcf, order=order)[0]["transcript"]) == [wanted]
    assert project.list(vcf, order=["MANE_Plus_Clinical"])[0].empty


def test_mitochondria_of_unknown_code_have_a_reason_and_configured_ones_none(tmp_path):
    project = Project(tmp_path, {"chrM": SEQUENCE}, gff_lines("G", "chrM", "+", [(6, 39)]))
    vcf = project.vcf([("chrM", 13, "C", "T")])
    changes, _, proteins, _ = project.list(vcf)
    assert changes.iloc[0][["reason", "protein", "hgvs_c", "hgvs_p"]].tolist() == [
        "genetic_code_unknown",
        "",
        "c.7C>T",
        "p.?",
    ]
    assert np.isnan(changes["start"][0]) and proteins.empty
    assert project.list(vcf, genetic_codes={"MT": 2})[0]["hgvs_p"].tolist() == ["p.Arg3Cys"]  # by its alias
    with pytest.raises(BadInput, match="no translation table 7"):
        project.list(vcf, genetic_codes={"chrM": 7})
    with pytest.raises(BadInput, match="no contig 'chr9'"):
        project.list(vcf, genetic_codes={"chr9": 2})


def test_differences_from_the_given_proteins_are_counted_and_told(project):
    vcf = project.vcf([("chr1", 13, "C", "T"), ("chr1", 16, "C", "T")])
    fasta = project.folder / "proteins.fa"
    fasta.write_text(">ENSP1.2 pep transcript:G.t.3 gene:G\nMKRRWQQQDL*\n")
    summary = project.list(vcf, sequences=fasta)[-1]
    assert (summary.checked, summary.differing) == (1, [])
    fasta.write_text(">G.t|G\nMKRKWQQQDL\n")
    summary = project.list(vcf, sequences=fasta)[-1]
    ((transcript, how),) = summary.differing
    assert (summary.checked, transcript) == (1, "G.t")
    assert how.startswith("residue 4 is R in the translation and K in the given sequence")


def test_accessions_come_from_the_table_first_and_else_from_the_gene_models(tmp_path):
    lines = gff_lines("G", "chr1", "+", [(6, 39)], more=";Dbxref=GeneID:1,UniProtKB/Swiss-Prot:P12345")
    project = Project(tmp_path, {"chr1": SEQUENCE}, lines)
    vcf = project.vcf([("chr1", 13, "C", "T")])
    assert project.list(vcf)[2]["accessions"].tolist() == ["P12345"]
    table = tmp_path / "uniprot.tsv"
    table.write_text("name\taccession\nG\tQ9Y5X4\nG\tA0A024RBG1\nother\tP00001\n")
    assert project.list(vcf, uniprot=table)[2]["accessions"].tolist() == ["Q9Y5X4,A0A024RBG1"]


# Phased alleles ---------------------------------------------------------------------------------------------------


def random_cohort(draw, project, samples):
    """SNVs of a few codons with random genotypes: rows of a VCF, and genotypes as (alleles, phase) by row."""
    rows, calls = [], []
    for place in range(9, 30):  # bases of the coding sequence: residues 4 to 10
        ref = SEQUENCE[6 + place]
        for alt in draw.sample("ACGT".replace(ref, ""), draw.randint(0, 2)):
            own, texts = [], []
            for _ in range(samples):
                alleles = draw.choice(["00", "00", "01", "10", "11"])
                sign, phase = draw.choice([("|", "."), ("|", "7"), ("|", "7"), ("|", "8"), ("/", ".")])
                own.append((alleles, sign, phase))
                texts.append(f"{sign.join(alleles)}:{phase}")
            rows.append(("chr1", 7 + place, ref, alt, *texts))
            calls.append(own)
    return rows, calls


def expected_haplotypes(rows, calls, samples):
    """By residue and chromosome, one sample at a time."""
    found = Counter()
    for sample in range(samples):
        for residue in range(3, 10):
            own = []
            for (_, pos, ref, alt, *_), call in zip(rows, calls, strict=True):
                alleles, sign, phase = call[sample]
                if (pos - 7) // 3 == residue and "1" in alleles:
                    own.append((pos, ref, alt, alleles, alleles == "11", sign, phase))
            hets = [one for one in own if not one[4]]
            if any(one[5] == "/" for one in hets) or len({one[6] for one in hets}) > 1:
                continue
            for chromosome in range(2):
                together = [one for one in own if one[3][chromosome] == "1"]
                if len(together) < 2 or len({one[0] for one in together}) < len(together):
                    continue
                codon = list(SEQUENCE[6 + 3 * residue : 9 + 3 * residue])
                for pos, _, alt, *_ in together:
                    codon[pos - 7 - 3 * residue] = alt
                ids = "+".join(f"chr1-{pos}-{ref}-{alt}" for pos, ref, alt, *_ in together)
                was = "MKRRWQQQDL*"[residue]
                found[ids, residue, was, str(Seq("".join(codon)).translate())] += 1
    return found


@pytest.mark.parametrize("form", ["text", "indexed", "bcf", "unsorted"])
def test_haplotypes_are_those_of_each_chromosome_one_by_one(project, form):
    draw = random.Random(5)
    rows, calls = random_cohort(draw, project, 40)
    expected = expected_haplotypes(rows, calls, 40)
    assert len(expected) > 8 and max(expected.values()) > 2
    shown = draw.sample(rows, len(rows)) if form == "unsorted" else rows
    vcf = project.vcf(shown, [f"s{i}" for i in range(40)], format="GT:PS")
    if form == "indexed":
        vcf = Path(pysam.tabix_index(str(vcf), preset="vcf", force=True))
    if form == "bcf":
        with pysam.VariantFile(str(vcf)) as text, pysam.VariantFile(f"{vcf}.bcf", "wb", header=text.header) as binary:
            for record in text:
                binary.write(record)
        vcf = Path(f"{vcf}.bcf")
    haplotypes, proteins = project.list(vcf)[1:3]
    found = {(row.variant_ids, row.start, row.ref, row.alt): row.carriers for row in haplotypes.itertuples()}
    assert found == expected
    assert set(haplotypes["protein"]) <= set(proteins["protein"])
    for row in haplotypes.itertuples():
        assert (row.effect == "stop_gained") == (row.alt == "*")
        assert (row.effect == "synonymous_variant") == (row.alt == row.ref)
        assert row.hgvs_p == f"p.{seq3(row.ref)}{row.start + 1}{'=' if row.alt == row.ref else seq3(row.alt)}"


@pytest.mark.parametrize(
    ("first", "second", "carriers"),
    [
        ("0|1", "0|1", 1),
        ("0|1", "1|0", 0),
        ("1|1", "0|1", 1),
        ("1/1", "1/1", 2),
        ("1/1", "0|1", 1),
        ("0/1", "0/1", 0),
        ("1|1", "0/1", 0),
        ("1", "1", 1),
        (".|1", "0|1", 1),
        ("0|0", "1|1", 0),
        ("0|1|1", "0|1|1", 2),
        ("0|0|1", "0|0|1", 1),
    ],
)
def test_chromosomes_that_carry_both(project, first, second, carriers):
    vcf = project.vcf([("chr1", 13, "C", "T", first), ("chr1", 14, "G", "A", second)], ["s"])
    haplotypes = project.list(vcf)[1]
    assert haplotypes["carriers"].sum() == carriers
    if carriers:
        row = haplotypes.iloc[0]
        assert row["variant_ids"] == "chr1-13-C-T+chr1-14-G-A"
        assert (row["ref"], row["alt"], row["hgvs_p"], row["effect"]) == ("R", "Y", "p.Arg3Tyr", "missense_variant")


def test_alleles_of_neighbouring_codons_are_no_haplotype(project):
    rows = [("chr1", 15, "T", "C", "1|1"), ("chr1", 16, "C", "T", "1|1")]
    assert project.list(project.vcf(rows, ["s"]))[1].empty


def test_a_codon_that_an_intron_splits_is_one_codon(tmp_path):
    sequence = SEQUENCE[:13] + "GTAAGTCAG" + SEQUENCE[13:]
    lines = gff_lines("G", "chr1", "+", [(6, 13), (22, 48)])
    project = Project(tmp_path, {"chr1": sequence}, lines)
    vcf = project.vcf([("chr1", 13, "C", "T", "0|1"), ("chr1", 23, "G", "A", "0|1")], ["s"])
    changes, haplotypes, *_ = project.list(vcf)
    assert changes["hgvs_p"].tolist() == ["p.Arg3Cys", "p.Arg3His"]
    assert changes["hgvs_c"].tolist() == ["c.7C>T", "c.8G>A"]
    assert haplotypes["hgvs_p"].tolist() == ["p.Arg3Tyr"]


def test_two_alternate_alleles_of_a_record_and_a_joint_indel(project):
    """An insertion within a codon together with a substitution of the same codon, from a record of two alleles."""
    rows = [("chr1", 13, "C", "T,G", "1|2"), ("chr1", 14, "G", "GAAA", "0|1")]
    haplotypes = project.list(project.vcf(rows, ["s"]))[1]
    bases = CODING[:6] + "GG" + "AAA" + CODING[8:]
    assert str(Seq(bases).translate()).startswith("MKGNRW")
    (row,) = haplotypes.itertuples()
    assert row.variant_ids == "chr1-13-C-G+chr1-14-G-GAAA"
    made = "MKRRWQQQDL"[: row.start] + row.alt + "MKRRWQQQDL"[row.start + len(row.ref) :]
    assert made == str(Seq(bases).translate())[:-1]


# Named proteins, the script, real data ----------------------------------------------------------------------------


def test_proteins_of_named_genes_and_transcripts(tmp_path):
    shifted = {"chr1": SEQUENCE, "chr2": "CC" + reverse_complement(CODING) + "CC"}
    lines = [*gff_lines("A", "chr1", "+", [(6, 39)]), *gff_lines("B", "chr2", "-", [(2, 35)], own="ENST2.5")]
    lines += gff_lines("BROKEN", "chr1", "+", [(7, 37)])
    project = Project(tmp_path, shifted, lines)
    options = {"order": ["longest"], "genetic_codes": {}}
    arguments = (project.genes, project.fasta, project.names)
    table = proteins_of(*arguments, ["A", "ENST2"], **options)
    assert table["sequence"].tolist() == ["MKRRWQQQDL"] and table["transcripts"].tolist() == ["A.t,ENST2.5"]
    assert proteins_of(*arguments, ["B"], **options)["genes"].tolist() == ["B"]
    with pytest.raises(BadInput, match="no coding gene or transcript is called 'C'"):
        proteins_of(*arguments, ["A", "C"], **options)
    with pytest.raises(BadInput, match=r"BROKEN\.t of 'BROKEN' gives no protein"):
        proteins_of(*arguments, ["BROKEN"], **options)


def test_the_script_writes_the_tables(project, repo):
    vcf = project.vcf([("chr1", 13, "C", "T", "0|1"), ("chr1", 14, "G", "A", "0|1")], ["s"])
    project.normalise(vcf)
    write_contigs(contigs_of(project.fasta), project.folder / "contigs.tsv")
    outputs = [project.folder / f"{name}.out.parquet" for name in ("changes", "haplotypes", "proteins")]
    fasta = project.folder / "p.fa"
    fasta.write_text(">G\nMKRRWQQQDD\n")
    command = [
        *(sys.executable, repo / "scripts" / "list_protein_changes.py"),
        *("--variants", project.folder / "variants.parquet", "--records", project.folder / "records.parquet"),
        *("--vcfs", vcf, "--fasta", project.fasta, "--contigs", project.folder / "contigs.tsv"),
        *("--genes", project.genes, "--transcripts", "canonical", "longest", "--genetic-codes", json.dumps({"1": 1})),
        *("--sequences", fasta, "--uniprot", "--changes", outputs[0]),
        *("--haplotypes", outputs[1], "--proteins", outputs[2]),
    ]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    assert [len(pd.read_parquet(path)) for path in outputs] == [2, 1, 1]
    assert "differing from the translation: 1" in run.stderr and "G.t: residue 10 is L" in run.stderr


def test_contig_genes_find_every_overlapping_transcript():
    draw = random.Random(2)
    parts = {}
    transcripts = []
    for number in range(60):
        start = draw.randrange(1000)
        spans = tuple((start + 40 * i, start + 40 * i + draw.randint(3, 30)) for i in range(draw.randint(1, 5)))
        own = f"t{number:02d}"
        parts[own] = spans
        transcripts.append(CodingTranscript(own, own, own, "c", "+", spans, spans, 0, frozenset(), None, (), "", ()))
    found = ContigGenes.__new__(ContigGenes)
    found._index(transcripts)
    for _ in range(500):
        start = draw.randrange(1300)
        end = start + draw.randint(1, 60)
        own = {found.transcripts[number].id for number in found.at(start, end)}
        wanted = {name for name, spans in parts.items() if any(a < end and start < b for a, b in spans)}
        assert own == wanted
        assert found.covered(np.array([start]), np.array([end]))[0] == bool(wanted)


def test_room_to_roll_is_found_by_trial():
    draw = random.Random(4)
    for _ in range(300):
        contig = "".join(draw.choices("AC", k=30))
        start, ref, alt = random_allele(draw, contig)
        start, end, alt = trimmed(start, ref, alt)
        room = room_to_roll(contig, start, end, alt)
        if start == end or not alt:
            assert [(start, end, alt), *(rolled(start, end, alt, by) for by in range(1, room + 1))] == placements(
                contig, start, end, alt
            )
        else:
            assert room == 0


def test_residues_of_published_missense_variants(shared_data, tmp_path):
    data = shared_data / "human"
    prepare_fasta(str(data / "GRCh37_chr20.fa.gz"), None, tmp_path / "reference.fa.gz")
    names = ContigNames(contigs_of(tmp_path / "reference.fa.gz"))
    prepare_genes(data / "chr20_genes.gff3.gz", names, tmp_path / "genes.gff3.gz")
    source = GeneSource.open(
        tmp_path / "genes.gff3.gz", tmp_path / "reference.fa.gz", names, ["longest"], {}, None, None
    )
    found, contig = ContigGenes(source, "20"), ReferenceSequence(tmp_path / "reference.fa.gz").contig("20")
    table = pd.read_csv(data / "clinvar_missense_chr20.tsv", sep="\t")
    coding = same = placed_alike = 0
    for row in table.itertuples():
        start = row.pos_hg19 - 1
        for number in found.at(start, start + 1):
            change = place_allele(found.sequence(number), contig, start, start + 1, row.alt).change
            published = row.protein_variant.partition(":")[2]
            coding += 1
            same += (change.ref, change.alt) == (published[0], published[-1])
            placed_alike += f"{change.ref}{change.start + 1}{change.alt}" == published
    assert coding == 541 and same >= coding - 1 and placed_alike >= 519
