"""Genetic codes, choice of transcripts, translation and given proteins, against Biopython and by hand."""

from __future__ import annotations

import random

import pytest
from Bio.Data.CodonTable import ambiguous_dna_by_id, unambiguous_dna_by_id
from Bio.Seq import Seq

from seqprior.contigs import Contig, ContigNames
from seqprior.errors import BadInput
from seqprior.genes import CodingTranscript
from seqprior.sequence import reverse_complement
from seqprior.translation import (
    choose_transcripts,
    code_of_contig,
    coding_sequence,
    configured_codes,
    genetic_code,
    names_of,
    read_accessions,
    read_sequences,
)


def transcript(own="t", gene="g", strand="+", cds=((0, 9),), exons=None, phase=0, tags=(), **more):
    facts = {"table": None, "exceptions": (), "protein": "", "accessions": ()} | more
    return CodingTranscript(own, gene, gene, "c", strand, exons or cds, cds, phase, frozenset(tags), **facts)


@pytest.mark.filterwarnings("ignore:This table contains")  # codons that are both sense and stop
@pytest.mark.parametrize("number", sorted(unambiguous_dna_by_id))
def test_every_code_translates_as_biopython_does(number):
    code, draw = genetic_code(number), random.Random(number)
    assert ambiguous_dna_by_id[number] and len(code.residue_of) == 64
    bases = "".join(draw.choices("ACGT", k=3000))
    assert code.translate(bases) == str(Seq(bases).translate(table=number))
    assert code.starts == frozenset(unambiguous_dna_by_id[number].start_codons)
    residues = code.translate_to_stop(bases)
    assert residues.rstrip("*") == code.translate(bases).partition("*")[0]


def test_unknown_bases_give_a_residue_where_all_codons_agree():
    code = genetic_code(1)
    assert code.translate("CTNACNATNNNNTARTGGMGR") == "LTXX*WR"
    for codon in ("CTN", "ACN", "GGN", "TAR", "YTA"):
        assert code.residue(codon) == str(Seq(codon).translate())


@pytest.mark.parametrize(
    ("name", "length", "number"),
    [
        ("chrM", 16569, 2),
        ("chrM", 16571, 2),
        ("MT", 16569, 2),
        ("NC_012920.1", 16569, 2),
        ("chrM", 85779, 3),
        ("NC_001224.1", 85779, 3),
        ("chrM", 16299, 2),
        ("chrM", 5000, None),
        ("Mt", 366924, None),
        ("mitochondrion_genome", 19524, None),
        ("chr1", 16569, 1),
        ("chrUn_M", 100, 1),
        ("Mt4_scaffold", 100, 1),
    ],
)
def test_codes_of_contigs(name, length, number):
    assert code_of_contig(name, length, {}) == number
    assert code_of_contig(name, length, {name: 11}) == 11


def test_configured_codes_go_by_the_references_names():
    names = ContigNames([Contig("chrM", 500, ("MT",))])
    assert configured_codes({"MT": 5}, names) == {"chrM": 5}
    with pytest.raises(BadInput, match="the reference has no contig 'Pt'"):
        configured_codes({"Pt": 11}, names)
    with pytest.raises(BadInput, match="NCBI has no translation table 8"):
        configured_codes({"chrM": 8}, names)


def test_transl_table_of_the_gene_models_goes_before_the_contigs_code():
    contig = "ATGTGATAA"
    assert coding_sequence(transcript(), contig, 1).broken
    assert coding_sequence(transcript(table=2), contig, 1).protein == "MW*"
    assert coding_sequence(transcript(table=2), contig, None).protein == "MW*"
    assert coding_sequence(transcript(), contig, None).protein == ""


def random_spans(draw, length):
    places = sorted(draw.sample(range(length), 2 * draw.randint(1, 4)))
    return tuple(zip(places[::2], places[1::2], strict=True))


@pytest.mark.parametrize("strand", "+-")
def test_spliced_sequences_and_places_of_their_bases(strand):
    draw = random.Random(strand)
    for _ in range(200):
        contig = "".join(draw.choices("ACGT", k=120))
        cds = random_spans(draw, 120)
        exons = ((max(cds[0][0] - 4, 0), cds[0][1]), *cds[1:-1], (cds[-1][0], min(cds[-1][1] + 5, 120)))
        exons = exons if len(cds) > 1 else ((max(cds[0][0] - 4, 0), min(cds[0][1] + 5, 120)),)
        spliced = "".join(contig[start:end] for start, end in cds)
        phase = draw.randint(0, min(2, len(spliced) - 1))
        behind = contig[cds[-1][1] : exons[-1][1]] if strand == "+" else contig[exons[0][0] : cds[0][0]]
        if strand == "-":
            spliced, behind = reverse_complement(spliced), reverse_complement(behind)
        sequence = coding_sequence(transcript(strand=strand, cds=cds, exons=exons, phase=phase), contig, 1)
        assert (sequence.bases, sequence.beyond) == (spliced[phase:], behind)
        for start, end, place in sequence.parts:
            for position in range(start, end):
                offset = place + (position - start if strand == "+" else end - 1 - position)
                base = contig[position] if strand == "+" else reverse_complement(contig[position])
                assert offset < 0 or sequence.bases[offset] == base
        whole = len(sequence.bases) // 3 * 3
        expected = str(Seq(sequence.bases[:whole]).translate())
        assert sequence.protein[1:] == expected[1:]
        assert sequence.protein[:1] == ("M" if sequence.starts else expected[:1])


def test_only_a_complete_start_makes_a_start_codon_of_another_codon():
    contig = "TTGAAATAA"
    assert coding_sequence(transcript(), contig, 1).protein == "MK*"
    assert coding_sequence(transcript(tags=["cds_start_NF"]), contig, 1).protein == "LK*"
    assert coding_sequence(transcript(phase=1, cds=((0, 10),)), "A" + contig, 1).protein == "LK*"
    unusual = "GTGAAATAA"  # no start codon by the table, but the protein's database says so
    assert coding_sequence(transcript(), unusual, 1).protein == "VK*"
    assert coding_sequence(transcript(), unusual, 1, "MK").protein == "MK*"


def test_exceptions_on_either_strand():
    coding = "ATGTGAAAATAA"
    for strand, span in (("+", (3, 6)), ("-", (6, 9))):
        contig = coding if strand == "+" else reverse_complement(coding)
        own = transcript(strand=strand, cds=((0, 12),), exceptions=((*span, "U"),))
        assert coding_sequence(own, contig, 1).protein == "MUK*"
    assert coding_sequence(transcript(cds=((0, 12),)), coding, 1, "MUK").protein == "MUK*"
    assert coding_sequence(transcript(cds=((0, 12),)), coding, 1, "MWK").protein == "M*K*"


def test_stop_codons_completed_by_polyadenylation():
    own = transcript(cds=((0, 8),), exceptions=((6, 8, "*"),))
    assert coding_sequence(own, "ATGAAATA", 1).protein == "MK*"
    assert coding_sequence(transcript(cds=((0, 8),)), "ATGAAATA", 1).protein == "MK"
    assert coding_sequence(transcript(cds=((0, 8),)), "ATGAAACA", 2).protein == "MK"


def test_ties_between_transcripts_go_to_the_longest_and_then_by_name():
    chosen = choose_transcripts(
        [
            transcript("b", "g", cds=((0, 9),)),
            transcript("a", "g", cds=((0, 9),)),
            transcript("short", "g", cds=((0, 6),)),
            transcript("y", "h", cds=((0, 30),)),
            transcript("z", "h", cds=((0, 3),), tags=["MANE_Plus_Clinical"]),
            transcript("refseq", "i", tags=["RefSeq_Select"]),
            transcript("i", "i", cds=((0, 90),)),
        ],
        ["MANE_Select", "MANE_Plus_Clinical", "canonical", "longest"],
    )
    assert [one.id for one in chosen] == ["z", "refseq", "a"]


def test_headers_of_protein_files(tmp_path):
    path = tmp_path / "p.fa"
    path.write_text(
        ">NP_000001.2 a protein [Homo sapiens]\nMKA\n"
        ">ENSP00000000002.3 pep chromosome:GRCh38:1 gene:ENSG2.1 transcript:ENST00000000002.7\nmkc\nDD*\n"
        ">ENSP3.1|ENST3.4|ENSG3.2|-|OTTHUMT|NAME-201|NAME|5\nMKD\n"
        ">YAL001C TFC3 SGDID:S1, Chr I\nMKE*\n"
        ">twice.1\nMA\n>twice.2\nMC\n"
    )
    given = read_sequences(path)
    wanted = {
        "MKA": transcript("rna-NM_1", protein="NP_000001.2"),
        "MKCDD": transcript("ENST00000000002"),
        "MKD": transcript("ENST3.9"),
        "MKE": transcript("YAL001C_mRNA"),
        "MC": transcript("twice.2"),
        None: transcript("twice"),
    }
    assert {given.of(one): one.id for one in wanted.values()} == {key: one.id for key, one in wanted.items()}


def test_names_of_a_transcript_begin_with_its_own():
    own = transcript("ENST1.2", "BRCA1", protein="ENSP1.3")
    assert names_of(own) == ["ENST1.2", "ENST1", "ENSP1.3", "ENSP1", "BRCA1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MKA\n", "line 1: found 'MKA', expected a FASTA of proteins"),
        ("", "the file is empty"),
    ],
)
def test_protein_files_that_are_none(tmp_path, text, message):
    path = tmp_path / "p.fa"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        read_sequences(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gene\tuniprot\nA\tP12345\n", "line 1: found the columns gene, uniprot, expected name and accession"),
        ("name\taccession\nA\tP12345\nB\n", "line 3: found 'B', expected a name and a UniProt accession"),
        ("name accession\nA P12345\n", "line 1"),
    ],
)
def test_tables_of_accessions_that_are_none(tmp_path, text, message):
    path = tmp_path / "u.tsv"
    path.write_text(text)
    with pytest.raises(BadInput, match=message):
        read_accessions(path)


def test_accessions_of_a_name_keep_their_order_and_further_columns_are_ignored(tmp_path):
    path = tmp_path / "u.tsv"
    path.write_text("accession\tnote\tname\nQ1\tx\tA\nP1\ty\tA\nQ1\tz\tA\n\nP2\t\tB\n")
    assert read_accessions(path) == {"A": ("Q1", "P1"), "B": ("P2",)}
