"""HGVS names against places counted by hand, transcripts mutated base by base, and the names of the protein stage."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pysam
import pytest
from test_protein_changes import random_allele, random_gene

from seqprior.contigs import Contig, ContigNames, contigs_of
from seqprior.errors import BadInput
from seqprior.genes import prepare_genes
from seqprior.hgvs_names import HgvsNames
from seqprior.protein_changes import hgvs_c, rolled, room_to_roll, trimmed
from seqprior.reference import prepare_fasta
from seqprior.sequence import reverse_complement
from seqprior.translation import coding_sequence
from seqprior.variants import left_align

WHERE = "edits.tsv, line 7"
ORDER = ["MANE_Select", "MANE_Plus_Clinical", "canonical", "longest"]
# Places (1-based) on chr1, which is as long as a known chrI of yeast is not: 200 bases.
EXONS = [(11, 30), (51, 70), (91, 120)]  # with the CDS from 21 to 100: c.1-10, c.11-30, c.31-40
CODING = [(21, 30), (51, 70), (91, 100)]


@pytest.fixture(scope="module")
def genome() -> dict[str, str]:
    draw = random.Random(3)
    return {"chr1": "".join(draw.choices("ACGT", k=200)), "chr2": "".join(draw.choices("ACGT", k=120))}


@pytest.fixture(scope="module")
def project(tmp_path_factory, genome) -> tuple[ContigNames, Path]:
    """Gene models: PLUS and MINUS of the same exons, TWO with two transcripts, TWIN on both contigs, PART."""
    folder = tmp_path_factory.mktemp("hgvs")
    (folder / "in.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in genome.items()))
    prepare_fasta(str(folder / "in.fa"), None, folder / "reference.fa.gz")
    names = ContigNames(contigs_of(folder / "reference.fa.gz"), {"NC_9.1": "chr1"})
    lines = ["##gff-version 3\n"]

    def gene(name, symbol, contig, strand, *transcripts):
        start = min(exons[0][0] for _, exons, _, _ in transcripts)
        end = max(exons[-1][1] for _, exons, _, _ in transcripts)
        biotype = "biotype=protein_coding"
        lines.append(f"{contig}\tx\tgene\t{start}\t{end}\t.\t{strand}\t.\tID=gene:{name};Name={symbol};{biotype}\n")
        for own, exons, coding, extra in transcripts:
            ends = f"{exons[0][0]}\t{exons[-1][1]}\t.\t{strand}\t."
            lines.append(f"{contig}\tx\tmRNA\t{ends}\tID=transcript:{own};Parent=gene:{name};{biotype};{extra}\n")
            for kind, parts in (("exon", exons), ("CDS", coding)):
                for a, b in parts:
                    phase = "2" if extra == "tag=cds_start_NF" else "."
                    lines.append(f"{contig}\tx\t{kind}\t{a}\t{b}\t.\t{strand}\t{phase}\tParent=transcript:{own}\n")

    gene("G1", "PLUS", "chr1", "+", ("NM_1.2", EXONS, CODING, ""))
    gene("G2", "MINUS", "chr1", "-", ("NM_2.1", EXONS, CODING, ""))
    two = [(131, 160)]
    gene("G3.1", "TWO", "chr1", "+", ("NM_3.1", two, [(131, 160)], ""), ("ENST4", two, [(134, 157)], "tag=MANE_Select"))
    gene("G4", "TWIN", "chr1", "+", ("T5", two, two, ""))
    gene("G5", "TWIN", "chr2", "+", ("T6", [(11, 40)], [(11, 40)], ""))
    gene("G7", "SHIFT", "chr2", "+", ("T8", [(91, 111)], [(91, 99), (101, 111)], ""))
    gene("G8", "OUT", "chr2", "-", ("T9", [(91, 100)], [(91, 108)], ""))
    gene("G6", "PART", "chr2", "+", ("T7", [(51, 82)], [(51, 82)], "tag=cds_start_NF"))
    (folder / "in.gff3").write_text("".join(lines))
    prepare_genes(folder / "in.gff3", names, folder / "genes.gff3.gz")
    return names, folder / "genes.gff3.gz"


@pytest.fixture
def read(project, genome):
    """Contig and changes of a name."""
    names, genes = project

    def changes(text, order=ORDER, models=genes):
        found = HgvsNames(lambda chrom, start, end: genome[chrom][start:end], names, models, order, [text])
        return found.changes(text, WHERE)

    return changes


def spliced(bases: str, strand: str) -> str:
    """The transcript by hand."""
    text = "".join(bases[a - 1 : b] for a, b in EXONS)
    return text if strand == "+" else reverse_complement(text)


def labels(strand: str) -> dict[int, list[str]]:
    """Names of every base of the gene, by its 1-based place: exons counted in reading order, introns from both ends."""
    exons = EXONS if strand == "+" else [(b, a) for a, b in EXONS[::-1]]
    step = 1 if strand == "+" else -1
    first, last = (21, 100) if strand == "+" else (100, 21)
    places = [place for a, b in exons for place in range(a, b + step, step)]
    c1, stop = places.index(first), places.index(last)
    named = {}
    for n, place in enumerate(places):
        named[place] = [f"-{c1 - n}" if n < c1 else f"*{n - stop}" if n > stop else str(n - c1 + 1)]
    for (_, end), (start, _) in pairwise(exons):
        for n in range(1, abs(start - end)):
            place = end + step * n
            named[place] = [f"{named[end][0]}+{n}", f"{named[start][0]}-{abs(start - end) - n}"]
    return named


# Substitutions of every base ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("strand", "transcript"), [("+", "NM_1.2"), ("-", "NM_2.1")])
def test_every_substitution_of_a_spliced_gene_is_where_counting_puts_it(project, genome, strand, transcript):
    names, genes = project
    bases = genome["chr1"]
    reader = HgvsNames(
        lambda chrom, start, end: genome[chrom][start:end], names, genes, ORDER, [f"{transcript}:c.1A>C"]
    )
    count = 0
    for place, own in labels(strand).items():
        ref = bases[place - 1]
        for alt in set("ACGT") - {ref}:
            stated = (ref, alt) if strand == "+" else (reverse_complement(ref), reverse_complement(alt))
            for label in own:
                text = f"{transcript}:c.{label}{stated[0]}>{stated[1]}"
                assert reader.changes(text, WHERE) == ("chr1", [(place - 1, ref, alt)]), text
                count += 1
    assert count == 3 * (70 + 2 * 40)


def test_names_counted_by_hand(read, genome):
    bases = genome["chr1"]

    def cut(first, last):
        return bases[first - 1 : last]

    other = {"A": "C", "C": "G", "G": "T", "T": "A"}
    for name, start, ref, alt in [
        ("NM_1.2:c.10_11del", 29, cut(30, 51), ""),  # the intron between lies within
        ("NM_1.2:c.10+1_11-1del", 30, cut(31, 50), ""),
        ("NM_1.2:c.-10_-9del", 10, cut(11, 12), ""),
        ("NM_1.2:c.*20del", 119, cut(120, 120), ""),
        ("NM_1.2:c.1_2insGTT", 21, "", "GTT"),
        ("NM_2.1:c.1_2insGTT", 99, "", "AAC"),
        ("NM_2.1:c.1_3del", 97, cut(98, 100), ""),
        ("NM_2.1:c.40_*1del", 19, cut(20, 21), ""),
        ("NM_2.1:c.4_6dup", 97, "", cut(95, 97)),
        ("NM_1.2:c.4_6dup", 26, "", cut(24, 26)),
        ("NM_1.2:c.4_9inv", 23, cut(24, 29), reverse_complement(cut(24, 29))),
        ("NM_2.1:c.1_2delinsA", 98, cut(99, 100), "T"),
        ("chr1:g.5_7del", 4, cut(5, 7), ""),
        ("1:g.5_6insA", 5, "", "A"),
        ("NC_9.1:m.5_6inv", 4, cut(5, 6), reverse_complement(cut(5, 6))),
        (f"chr1:g.200{bases[199]}>{other[bases[199]]}", 199, bases[199], other[bases[199]]),
        (f"chr1:g.5{bases[4].lower()}>{other[bases[4]].lower()}", 4, bases[4], other[bases[4]]),
        (f"NC_9.1(NM_1.2):c.1{bases[20]}>{other[bases[20]]}", 20, bases[20], other[bases[20]]),
        (f"NM_1.2(PLUS):c.1{bases[20]}>{other[bases[20]]}", 20, bases[20], other[bases[20]]),
    ]:
        assert read(name) == ("chr1", [(start, ref, alt)]), name


@pytest.mark.parametrize("name", ["NM_1.2:c.1=", "chr1:g.5=", "NM_2.1:c.[1_3=;7=]"])
def test_a_name_without_a_change_has_none(read, name):
    assert read(name) == ("chr1", [])


def test_a_transcript_is_mutated_as_its_spliced_sequence_is(read, genome):
    bases, draw = genome["chr1"], random.Random(8)
    for strand, transcript, c1 in (("+", "NM_1.2", 10), ("-", "NM_2.1", 20)):
        message = spliced(bases, strand)
        number = {n: str(n - c1 + 1) if n >= c1 else str(n - c1) for n in range(c1 + 40)}
        for _ in range(150):
            exon = draw.choice([(0, 20), (20, 40), (40, 70)] if strand == "+" else [(0, 30), (30, 50), (50, 70)])
            first = draw.randrange(exon[0], min(exon[1], c1 + 40) - 6)
            last = first + draw.randint(1, 5)
            new, kind = (
                "".join(draw.choices("ACGT", k=draw.randint(1, 4))),
                draw.choice(["del", "ins", "dup", "inv", "delins"]),
            )
            old = message[first : last + 1]
            if kind == "ins":
                last = first + 1
            changed = {
                "del": "",
                "ins": message[first] + new + message[last],
                "dup": old + old,
                "inv": reverse_complement(old),
                "delins": new,
            }[kind]
            text = f"{transcript}:c.{number[first]}_{number[last]}{kind}{new if 'ins' in kind else ''}"
            _, [(start, ref, alt)] = read(text)
            assert bases[start : start + len(ref)] == ref
            growth = len(alt) - len(ref)
            moved = [(a + growth * (a - 1 > start), b + growth * (b > start)) for a, b in EXONS]
            if not ref and any(start in (a - 1, b) for a, b in EXONS):
                continue  # at an exon's end the splice site decides where it belongs
            mutated = bases[:start] + alt + bases[start + len(ref) :]
            found = "".join(mutated[a - 1 : b] for a, b in moved)
            assert (found if strand == "+" else reverse_complement(found)) == message[:first] + changed + message[
                last + 1 :
            ], text


def test_changes_in_cis_are_all_given_and_stay_where_they_are_written(project):
    """In a repeat a deletion could also be written further right, where the other change is."""
    bases = {"chr1": "GACTTTTGACCAGT"}
    reader = HgvsNames(
        lambda chrom, start, end: bases[chrom][start:end], ContigNames([Contig("chr1", 14, ())]), None, ORDER, []
    )
    assert reader.changes("chr1:g.[7T>C;4del]", WHERE) == ("chr1", [(3, "T", ""), (6, "T", "C")])


@pytest.mark.parametrize(("transcript", "strand"), [("NM_1.2", "+"), ("NM_2.1", "-")])
def test_changes_in_cis_come_in_the_order_of_the_genome(read, genome, transcript, strand):
    bases = genome["chr1"]
    first, second = (21, 24) if strand == "+" else (100, 97)
    ref = bases[first - 1] if strand == "+" else reverse_complement(bases[first - 1])
    alt = "A" if ref != "A" else "C"
    expected = [(first - 1, bases[first - 1], alt if strand == "+" else reverse_complement(alt))]
    expected.append((second - 1, bases[second - 1], ""))
    assert read(f"{transcript}:c.[1{ref}>{alt};4del]") == ("chr1", sorted(expected))


def test_names_of_the_protein_stage_lead_back_to_their_alleles():
    draw = random.Random(5)
    count = beyond = 0
    for _ in range(60):
        contig, transcript = random_gene(draw)
        names = ContigNames([Contig("c", len(contig), ())])
        reader = HgvsNames(lambda chrom, start, end, bases=contig: bases[start:end], names, None, ORDER, [])
        reader.genes = Path("given below")
        reader.by_id["t"].append(transcript)
        sequence = coding_sequence(transcript, contig, 1)
        for _ in range(25):
            allele = random_allele(draw, contig)
            start, end, alt = trimmed(*allele)
            room = room_to_roll(contig, start, end, alt)
            start, end, alt = rolled(start, end, alt, 0 if sequence.reverse else room)
            name = hgvs_c(sequence, contig, start, end, alt)
            if not name:
                continue
            outside = start - (start == end) < transcript.exons[0][0] or end + (start == end) > transcript.exons[-1][1]
            if outside and "dup" not in name:
                with pytest.raises(BadInput, match="lies beyond the"):
                    reader.changes(f"t:{name}", WHERE)
                beyond += 1
            elif not outside:
                chrom, [change] = reader.changes(f"t:{name}", WHERE)
                assert (chrom, left_align(contig, *change)) == ("c", allele), name
                count += 1
    assert count > 1000 and beyond > 50


def test_names_in_the_coding_sequence_agree_with_vep(shared_data, tmp_path):
    """VEP numbered 25,805 substitutions in yeast's coding sequences; three of its genes are others."""
    data = shared_data / "yeast"
    prepare_fasta(str(data / "sacCer3.fa.gz"), None, tmp_path / "reference.fa.gz")
    names = ContigNames(contigs_of(tmp_path / "reference.fa.gz"))
    prepare_genes(data / "sgd_genes.gff3.gz", names, tmp_path / "genes.gff3.gz")
    vep = pd.read_csv(data / "by_rm_vep.txt.gz", sep="\t", dtype=str)
    vep = vep[vep["CDS_position"].str.fullmatch(r"\d+") & (vep["BIOTYPE"] == "protein_coding")]
    given = vep["Uploaded_variation"].str.extract(r"(\w+):(\d+)_([ACGT])/([ACGT])$")
    expected = {}
    for (chrom, place, *alleles), gene, number, strand in zip(
        given[given[0].notna()].itertuples(index=False),
        *(vep.loc[given[0].notna(), name] for name in ("Gene", "CDS_position", "STRAND")),
        strict=True,
    ):
        ref, alt = alleles if strand == "1" else map(reverse_complement, alleles)
        expected[f"{gene}:c.{number}{ref}>{alt}"] = chrom, [(int(place) - 1, *alleles)]
    with pysam.FastaFile(str(tmp_path / "reference.fa.gz")) as fasta:
        bases = {name: fasta.fetch(name).upper() for name in fasta.references}
    genes = tmp_path / "genes.gff3.gz"
    reader = HgvsNames(lambda chrom, start, end: bases[chrom][start:end], names, genes, ORDER, expected)
    agree, other, unknown = Counter(), Counter(), 0
    for name, place in expected.items():
        gene = name.partition(":")[0]
        try:
            (agree if reader.changes(name, WHERE) == place else other)[gene] += 1
        except BadInput as error:
            unknown += "no coding transcript" in str(error)
            other[gene] += "states" in str(error)
    assert agree.total() > 25_000 and unknown < 600
    assert set(+other) == {"YIL111W", "YJL041W", "YDR098C"} and not set(+other) & set(agree)


# Which transcript --------------------------------------------------------------------------------------------------


def test_a_transcript_is_found_by_each_of_its_names(read):
    expected = read("NM_1.2:c.3del")
    for name in ("NM_1", "PLUS", "G1", "NC_9.1(NM_1.2)", "NC_9.1(NM_1)", "chr1(PLUS)"):
        assert read(f"{name}:c.3del") == expected


def test_a_gene_stands_for_its_preferred_transcript(read):
    assert read("TWO:c.3del") == read("ENST4:c.3del") == ("chr1", read("chr1:g.136del")[1])
    assert read("TWO:c.3del", order=["longest"]) == read("NM_3.1:c.3del") == ("chr1", read("chr1:g.133del")[1])
    assert read("G3:c.3del") == read("G3.1:c.3del") == read("ENST4:c.3del")


def test_a_version_that_the_models_do_not_state_is_taken_with_a_warning(read, caplog):
    assert read("ENST4.7:c.3del") == read("ENST4:c.3del")
    assert "the gene models have ENST4 without version; it is taken for ENST4.7" in caplog.text


# Refusals ----------------------------------------------------------------------------------------------------------


def stated(genome, place, wrong=True):
    """A base that is not, or is, at a place of chr1."""
    ref = genome["chr1"][place - 1]
    return {"A": "C", "C": "G", "G": "T", "T": "A"}[ref] if wrong else ref


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("NM_1.2:c.3A", "cannot be read as HGVS (from 'A' on)"),
        ("NM_1.2:c.3[999999999]", "cannot be read as HGVS (more copies than any allele that is scored)"),
        ("1:c.3del", "no coding transcript or gene '1'"),
        ("NM_1.2:c.3del;9del", "cannot be read as HGVS (from ';9del' on)"),
        ("NM_1.2:c.", "cannot be read as HGVS"),
        ("c.3del", "cannot be read as HGVS (a sequence, a colon"),
        ("NM_1.2 c.3del", "cannot be read as HGVS"),
        ("NM_1.2:c.9_3del", "cannot be read as HGVS (range 9_3 runs backwards"),
        ("NM_1.2:c.[3del];[9del]", "cannot be read as HGVS"),
        ("NM_1.2:p.Met1Leu", "names a change of a protein"),
        ("NP_1:p.(Lys2fs)", "give the one that is meant as c. or g."),
        ("NM_1.2:n.3del", "is numbered as n.; expected c., g. or m."),
        ("NM_1.2:r.3del", "is numbered as r.; expected c., g. or m."),
        ("chr9:g.3del", "the reference has no contig 'chr9'"),
        ("NC_000001.11:g.3del", "the reference has no contig 'NC_000001.11'"),
        ("NM_8:c.3del", "the gene models have no coding transcript or gene 'NM_8'"),
        ("NM_1.3:c.3del", "names NM_1.3, and the gene models have NM_1.2; expected the same version"),
        ("TWIN:c.3del", "'TWIN' ('TWIN:c.3del') may be any of T5, T6; expected one transcript"),
        ("chr2(NM_1.2):c.3del", "puts NM_1.2 on chr2, and the gene models have it on chr1"),
        ("PART:c.3del", "numbered on T7, whose coding sequence lacks its start"),
        ("SHIFT:c.3del", "numbered on T8, which is read with a shift of its frame"),
        ("OUT:c.3del", "numbered on T9, and in the gene models the coding sequence leaves the exons"),
        ("NM_1.2:c.41del", "41 lies beyond the coding sequence, which ends with 40"),
        ("NM_1.2:c.-11del", "-11 lies beyond the transcript, which reaches from -10 to *20"),
        ("NM_1.2:c.*21del", "*21 lies beyond the transcript, which reaches from -10 to *20"),
        ("NM_2.1:c.-21del", "-21 lies beyond the transcript, which reaches from -20 to *10"),
        ("NM_3.1:c.-1del", "-1 lies beyond the transcript, which reaches from 1 to 30"),
        ("NM_1.2:c.9+1del", "9+1 counts from a base that is not at the end of an exon"),
        ("NM_1.2:c.10-1del", "10-1 counts from a base that is not at the end of an exon"),
        ("NM_1.2:c.10+21del", "10+21 lies beyond the intron, which has 20 bases"),
        ("NM_2.1:c.11-21del", "11-21 lies beyond the intron, which has 20 bases"),
        ("NM_1.2:c.*20+1del", "*20+1 lies beyond the transcript"),
        ("NM_1.2:c.[3del;41del]", "41 lies beyond the coding sequence"),
        ("chr1:g.201del", "lies beyond chr1, which has 200 bases"),
        ("chr1:g.200_201insA", "lies beyond chr1, which has 200 bases"),
        ("NM_1.2:c.10_11insA", "inserts at an exon junction"),
        ("NM_1.2:c.1_5insA", "inserts between bases that are not neighbours"),
        ("chr1:g.(3_5)del", "describes no single change of the genome"),
        ("NM_1.2:c.=", "describes no single change of the genome"),
        ("NM_1.2:c.3_4insN[9]", "describes no single change of the genome"),
        ("NM_1.2:c.[3_5dup;4del]", "describes no single change of the genome"),
        ("chr1:g.[5_6insA;5_6insC]", "describes no single change of the genome"),
    ],
)
def test_what_does_not_fit_is_refused_with_file_line_and_name(read, name, sentence):
    with pytest.raises(BadInput) as refusal:
        read(name)
    message = str(refusal.value)
    assert message.startswith(f"{WHERE}: ")
    assert sentence in message and f"'{name}'" in message and "\n" not in message


@pytest.mark.parametrize(
    ("name", "place", "strand"),
    [("NM_1.2:c.3", 23, "+"), ("NM_2.1:c.3", 98, "-"), ("NM_1.2:c.10+2", 32, "+"), ("NM_2.1:c.11-2", 72, "-")],
)
def test_a_base_that_is_not_there_is_refused_with_that_which_is(read, genome, name, place, strand):
    there = stated(genome, place, wrong=False)
    there = there if strand == "+" else reverse_complement(there)
    wrong = {"A": "C", "C": "G", "G": "T", "T": "A"}[there]
    other = ({*"ACGT"} - {there, wrong}).pop()
    with pytest.raises(BadInput, match=rf"states {wrong} where \S+ has {there}; expected the bases that are there"):
        read(f"{name}{wrong}>{other}")


def test_the_reference_of_a_genomic_name_is_checked(read, genome):
    wrong = stated(genome, 5)
    with pytest.raises(BadInput, match=f"states {wrong} where chr1 has {genome['chr1'][4]}"):
        read(f"chr1:g.5{wrong}>{genome['chr1'][4]}")


def test_without_gene_models_names_on_the_genome_alone_are_read(read):
    assert read("chr1:g.5del", models=None)[0] == "chr1"
    with pytest.raises(BadInput, match="there are no gene models; set reference.genes, or give the change as g."):
        read("NM_1.2:c.3del", models=None)
