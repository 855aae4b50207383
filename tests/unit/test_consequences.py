"""Consequences by csq against Ensembl VEP and by hand, protein changes, and annotations of the input."""

from __future__ import annotations

import csv
import gzip
import os
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pandas as pd
import pysam
import pytest
from Bio.SeqUtils import seq3

from seqprior import consequences
from seqprior.columns import CONSEQUENCES
from seqprior.consequences import (
    SEVERITY,
    Consequence,
    annotate_consequences,
    info_of,
    most_severe,
    most_severe_term,
    parse_bcsq,
    parse_input_annotation,
    protein_hgvs,
)
from seqprior.contigs import ContigNames, contigs_of, write_contigs
from seqprior.genes import prepare_genes
from seqprior.reference import prepare_fasta

# Protein changes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "terms", "expected"),
    [
        ("30D>30G", "missense_variant", "p.Asp30Gly"),
        ("7Y>7U", "missense_variant", "p.Tyr7Sec"),
        ("16E", "synonymous_variant", "p.Glu16="),
        ("16EK", "synonymous_variant", "p.Glu16_Lys17="),
        ("52*", "stop_retained_variant", "p.Ter52="),
        ("12KW>12KC", "missense_variant", "p.Trp13Cys"),
        ("12KWA>12KCA", "missense_variant", "p.Trp13Cys"),
        ("30Q>30*", "stop_gained", "p.Gln30Ter"),
        ("30QK>30Q*", "stop_gained", "p.Lys31Ter"),
        ("100*>100Q", "stop_lost", "p.Ter100GlnextTer?"),
        ("1M>1V", "start_lost", "p.Met1?"),
        ("1MK>1K", "start_lost&inframe_deletion", "p.Met1?"),
        ("11NIRF*>11RHQ*", "frameshift_variant", "p.Asn11fs"),
        ("11NIRF*>11NIHQ*", "frameshift_variant", "p.Arg13fs"),
        ("11NIRF*>11NI*", "frameshift_variant", "p.Arg13Ter"),
        ("25E..329>25G..94", "frameshift_variant", "p.Glu25fs"),
        ("250*>250*", "frameshift_variant", "p.Ter250="),
        ("44KQ>44K", "inframe_deletion", "p.Gln45del"),
        ("44KAQ>44KQ", "inframe_deletion", "p.Ala45del"),
        ("44KAVQ>44Q", "inframe_deletion", "p.Lys44_Val46del"),
        ("44KQ>44N", "inframe_deletion", "p.Lys44_Gln45delinsAsn"),
        ("44KQRS>44KNS", "inframe_deletion", "p.Gln45_Arg46delinsAsn"),
        ("44K>44KQ", "inframe_insertion", "p.Lys44delinsLysGln"),
        ("44K>44QK", "inframe_insertion", "p.Lys44delinsGlnLys"),
        ("44KW>44KAW", "inframe_insertion", "p.Trp45delinsAlaTrp"),
        ("417T*>417K", "stop_lost&inframe_deletion", "p.Thr417_Ter418delinsLys"),
        ("417T*>417T", "stop_lost&inframe_deletion", "p.Ter418del"),
        ("52?>52TFF", "stop_gained", ""),
        ("", "intron_variant", ""),
    ],
)
def test_protein_hgvs(change, terms, expected):
    assert protein_hgvs(change, terms) == expected


@pytest.mark.parametrize("letter", "ACDEFGHIKLMNPQRSTVWYU")
def test_every_residue_has_its_three_letters(letter):
    assert protein_hgvs(f"5{letter}", "synonymous_variant") == f"p.{seq3(letter)}5="


# Terms and their order --------------------------------------------------------------------------------------------


def consequence(term, transcript="T"):
    return Consequence("G", transcript, term, "", "csq")


def test_the_most_severe_consequence_is_kept_and_among_equals_the_preferred_transcript():
    found = [consequence("intron_variant", "A"), consequence("missense_variant", "B"), consequence("stop_gained", "C")]
    assert most_severe(found, {"A": 0, "B": 1}).transcript == "C"
    found = [consequence("missense_variant", name) for name in "ABC"]
    assert most_severe(found, {"C": 0, "B": 1}).transcript == "C"
    assert most_severe(found, {}).transcript == "A"
    assert most_severe([], {}) is None


def test_joined_terms_count_by_their_most_severe_one():
    found = [consequence("splice_region_variant&intron_variant"), consequence("synonymous_variant&stop_gained")]
    assert most_severe(found, {}) is found[1]
    assert most_severe_term(found[1].term) == "stop_gained"


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ("disruptive_inframe_deletion", "synonymous_variant"),  # names of SnpEff
        ("conservative_inframe_insertion", "downstream_gene_variant"),
        ("5_prime_UTR_premature_start_codon_gain_variant", "intron_variant"),
        ("intron_variant", "intergenic_region"),
        ("intergenic_variant", "a term that nobody knows"),
    ],
)
def test_terms_of_other_tools_have_their_place(more, less):
    assert consequence(more).severity < consequence(less).severity
    assert len(set(SEVERITY)) == len(SEVERITY)


def test_bcsq_becomes_sequence_ontology():
    value = "missense|BDH2|T1|protein_coding|+|30D>30G|90A>G,intron|X||protein_coding,*splice_region&intron|Y|T2|x,@105"
    assert parse_bcsq(value, "csq") == [
        Consequence("BDH2", "T1", "missense_variant", "p.Asp30Gly", "csq"),
        Consequence("X", "", "intron_variant", "", "csq"),
        Consequence("Y", "T2", "splice_region_variant&intron_variant", "", "csq"),
    ]
    assert parse_bcsq("@105", "csq") == parse_bcsq("", "csq") == []


@pytest.mark.parametrize(
    ("value", "term", "hgvs"),
    [
        ("feature_truncation|G|T|protein_coding,intron|G||protein_coding", "intron_variant", ""),
        ("feature_elongation|G|T|protein_coding,3_prime_utr|G|T|protein_coding", "3_prime_UTR_variant", ""),
        ("splice_acceptor&feature_truncation|G|T|protein_coding", "splice_acceptor_variant", ""),
        (
            "feature_truncation|G|T|protein_coding,feature_truncation|G|T|protein_coding|+|14FTN>14LG|7CAA>G",
            "protein_altering_variant",
            "p.Phe14_Asn16delinsLeuGly",
        ),
    ],
)
def test_a_replacement_by_more_or_fewer_bases_is_no_truncated_gene(value, term, hgvs):
    best = most_severe(parse_bcsq(value, "csq"), {})
    assert (best.term, best.hgvs_p) == (term, hgvs)


# Annotations of the input -----------------------------------------------------------------------------------------

FIELDS = {
    "CSQ": ["allele", "consequence", "symbol", "gene", "feature", "hgvsp"],
    "ANN": [
        "allele",
        "annotation",
        "annotation_impact",
        "gene_name",
        "gene_id",
        "feature_type",
        "feature_id",
        "hgvs.p",
    ],
}


def test_vep_and_snpeff_annotations_are_taken_as_they_are():
    csq = (
        "CSQ=-|inframe_deletion&splice_region_variant|TP53|ENSG1|ENST1|ENSP1.3:p.Ala2del,-|intron_variant||ENSG2|ENST2|"
    )
    assert parse_input_annotation(csq, FIELDS) == [
        Consequence("TP53", "ENST1", "inframe_deletion&splice_region_variant", "p.Ala2del", "input:CSQ"),
        Consequence("ENSG2", "ENST2", "intron_variant", "", "input:CSQ"),
    ]
    ann = "ANN=C|synonymous_variant|LOW|TP53|ENSG1|transcript|ENST1.4|p.Ala2Ala"
    assert parse_input_annotation(ann, FIELDS) == [
        Consequence("TP53", "ENST1.4", "synonymous_variant", "p.Ala2Ala", "input:ANN")
    ]


def test_percent_signs_of_the_vcf_are_decoded():
    (found,) = parse_input_annotation("CSQ=A|synonymous_variant|TP53|E|T|ENSP1.3:p.Ala2%3D", FIELDS)
    assert found.hgvs_p == "p.Ala2="


def test_short_and_empty_entries_are_no_consequences():
    assert parse_input_annotation("CSQ=A|", FIELDS) == parse_input_annotation("CSQ=.", FIELDS) == []


def test_bcsq_of_the_input_is_marked_as_such():
    (found,) = parse_input_annotation("BCSQ=missense|G|T|protein_coding|+|3A>3V|9C>T", {})
    assert found == Consequence("G", "T", "missense_variant", "p.Ala3Val", "input:BCSQ")


# The whole step on a small genome ---------------------------------------------------------------------------------

#                  1-20                      M  K  Y  Q  G  W  T  *           45-60
CODING = "TTGACCTTAGCATTACCATG" + "ATGAAATATCAGGGTTGGACTTAA" + "CCTTAGGCATTACCAGTTAC"
PLAIN = "ACGTTGCAACGTTGGACCATTAGGCA"
GENES = """##gff-version 3
c1\tx\tgene\t1\t64\t.\t+\t.\tID=gene:g1;Name=YFG1;biotype=protein_coding
c1\tx\tmRNA\t1\t64\t.\t+\t.\tID=transcript:t1;Parent=gene:g1;biotype=protein_coding
c1\tx\texon\t1\t64\t.\t+\t.\tParent=transcript:t1
c1\tx\tCDS\t21\t44\t.\t+\t0\tParent=transcript:t1
"""


def cli(repo, script, *options):
    """csq keeps state within a process, so every run has its own."""
    command = [sys.executable, repo / "scripts" / script, *options]
    environment = {**os.environ, "PYTHONPATH": str(repo / "scripts")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def annotate(repo, folder, vcf, source="auto", genes=True):
    """The tables of both steps, merged."""
    common = ["--fasta", folder / "genome.fa.gz"]
    normalising = ["--contigs", folder / "contigs.tsv", "--max-allele-length", "50", "--max-mismatch-share", "0.1"]
    output = ["--output", folder, "--summary", folder / "variants.json"]
    cli(repo, "normalise_variants.py", "--variants", vcf, *common, *normalising, *output)
    options = ["--variants", folder / "variants.parquet", "--summary", folder / "variants.json", "--source", source]
    options += ["--genes", folder / "genes.gff3.gz"] if genes else ["--genes"]
    cli(repo, "annotate_consequences.py", *options, *common, "--output", folder / "consequences.parquet")
    variants, table = (pd.read_parquet(folder / f"{name}.parquet") for name in ("variants", "consequences"))
    assert tuple(table.columns) == CONSEQUENCES
    return variants.merge(table, on="variant_id", how="left", validate="one_to_one")


def prepare(folder, fasta, genes):
    prepare_fasta(str(fasta), None, folder / "genome.fa.gz")
    contigs = contigs_of(folder / "genome.fa.gz")
    write_contigs(contigs, folder / "contigs.tsv")
    prepare_genes(genes, ContigNames(contigs), folder / "genes.gff3.gz")


@pytest.fixture
def small(tmp_path):
    """A contig with a gene of eight codons at 20, one without genes and one that is all gene-free repeats."""
    (tmp_path / "in.fa").write_text(f">c1\n{CODING}\n>c2\n{PLAIN}\n>c3\n{'ACGT' * 30}\n")
    (tmp_path / "in.gff3").write_text(GENES)
    prepare(tmp_path, tmp_path / "in.fa", tmp_path / "in.gff3")
    return tmp_path


def write_vcf(folder, rows, header=""):
    path = folder / "in.vcf"
    columns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    lines = "".join("{}\t{}\t.\t{}\t{}\t.\t.\t{}\n".format(*row, *["."] * (5 - len(row))) for row in rows)
    path.write_text(f"##fileformat=VCFv4.2\n{header}{columns}{lines}")
    return path


def test_each_kind_of_change_has_its_term_gene_and_protein_change(repo, small):
    expected = {
        ("c1", 5, "C", "G"): ("5_prime_UTR_variant", ""),
        ("c1", 21, "A", "C"): ("start_lost", "p.Met1?"),
        ("c1", 26, "A", "G"): ("synonymous_variant", "p.Lys2="),
        ("c1", 28, "A", "G"): ("missense_variant", "p.Tyr3Cys"),
        ("c1", 28, "A", "AA"): ("frameshift_variant", "p.Tyr3Ter"),
        ("c1", 29, "T", "A"): ("stop_gained", "p.Tyr3Ter"),
        ("c1", 29, "TCAG", "T"): ("inframe_deletion", "p.Gln4del"),
        ("c1", 32, "G", "GCCC"): ("inframe_insertion", "p.Gln4delinsGlnPro"),
        ("c1", 33, "GGTTGG", "CCC"): ("protein_altering_variant", "p.Gly5_Trp6delinsPro"),
        ("c1", 34, "GT", "G"): ("frameshift_variant", "p.Trp6fs"),
        ("c1", 36, "TG", "AC"): ("missense_variant", "p.Trp6Thr"),
        ("c1", 42, "T", "C"): ("stop_lost", "p.Ter8GlnextTer?"),
        ("c1", 44, "A", "G"): ("stop_retained_variant", "p.Ter8="),
        ("c1", 50, "G", "A"): ("3_prime_UTR_variant", ""),
        ("c1", 51, "GC", "TTT"): ("3_prime_UTR_variant", ""),
        ("c2", 5, "T", "A"): ("intergenic_variant", ""),
    }
    found = annotate(repo, small, write_vcf(small, expected))
    assert len(found) == len(expected)
    by_allele = found.set_index(["input_chrom", "input_pos", "input_ref", "input_alt"])
    for allele, (term, change) in expected.items():
        row = by_allele.loc[allele]
        assert (row["consequence"], row["hgvs_p"]) == (term, change), allele
        inside = allele[0] == "c1"
        assert (row["gene"], row["transcript"]) == (("YFG1", "t1") if inside else ("", "")), allele
        assert row["consequence_source"] == "csq"


def test_csq_answers_each_record_once_whatever_it_is(repo, small):
    rows = [("c1", pos, base, alt) for pos, base in enumerate(CODING, 1) for alt in "ACGT" if alt != base]
    rows += [("c1", pos, CODING[pos - 1 :], CODING[pos - 1]) for pos in range(1, 64)]  # up to the contig's end
    rows += [("c1", pos, base, base + "GATC" * 20) for pos, base in enumerate(CODING, 1)]  # too long to be scored
    rows += [("c1", pos, CODING[pos - 1 : pos + 5], "GGCA") for pos in range(1, 58)]
    rows += [("c2", pos, base, base + "T") for pos, base in enumerate(PLAIN, 1)] + [("c3", 9, "A", "G")] * 2
    rows += [("c9", 1, "A", "G"), ("c1", 3, "G", "<DEL>")]
    found = annotate(repo, small, write_vcf(small, rows))
    skipped = found["reason"].isin(["contig_not_in_reference", "symbolic_allele"])
    assert list(found["consequence"].isna()) == list(skipped)
    assert skipped.sum() == 2
    assert set(found["reason"]) == {"", "allele_too_long", "contig_not_in_reference", "symbolic_allele"}
    assert not found["consequence"].isin(["feature_truncation", "feature_elongation"]).any()
    assert set(found.loc[found["chrom"] == "c2", "consequence"]) == {"intergenic_variant"}


CSQ = '##INFO=<ID=CSQ,Number=.,Type=String,Description="Format: Allele|Consequence|SYMBOL|Feature|HGVSp">\n'


@pytest.mark.parametrize(
    ("source", "genes", "expected"),
    [
        ("auto", True, [("stop_lost", "input:CSQ"), ("start_lost", "input:CSQ"), ("synonymous_variant", "csq")]),
        ("csq", True, [("missense_variant", "csq"), ("stop_gained", "csq"), ("synonymous_variant", "csq")]),
        ("input", True, [("stop_lost", "input:CSQ"), ("start_lost", "input:CSQ"), ("not_annotated", "")]),
        ("auto", False, [("stop_lost", "input:CSQ"), ("start_lost", "input:CSQ"), ("not_annotated", "")]),
        ("csq", False, [("not_annotated", "")] * 3),
    ],
)
def test_the_source_says_whom_to_believe(repo, small, source, genes, expected):
    """The input states what csq would not say for both alleles of one record, and nothing for another record."""
    rows = [("c1", 26, "A", "G")]
    rows.append(("c1", 28, "ATCA", "ATCC,A", "DP=3;CSQ=-|start_lost|YFG|t|p.Met1?,TCC|stop_lost|YFG|t|p.Gln4%3D"))
    found = annotate(repo, small, write_vcf(small, rows, CSQ), source, genes).set_index("input_alt")
    rows = [found.loc[alt] for alt in ("ATCC", "A", "G")]
    assert [(row["consequence"], row["consequence_source"]) for row in rows] == expected
    if source != "csq":
        assert [row["hgvs_p"] for row in rows][:2] == ["p.Gln4=", "p.Met1?"]


def test_a_header_alone_gives_an_empty_table(repo, small):
    assert len(annotate(repo, small, write_vcf(small, []))) == 0


# What must not happen ---------------------------------------------------------------------------------------------

ALLELE = SimpleNamespace(chrom="c1", pos=5.0, ref="A", alt="C", variant_id="c1-5-A-C")


def test_an_answer_to_another_question_is_an_error():
    assert info_of("c1\t5\t.\tA\tC\t.\t.\tBCSQ=x\n", ALLELE) == "BCSQ=x"
    with pytest.raises(AssertionError, match=r"^bcftools csq answered c1-5-A-G where c1-5-A-C was asked$"):
        info_of("c1\t5\t.\tA\tG\t.\t.\tBCSQ=x\n", ALLELE)
    with pytest.raises(AssertionError, match=r"^bcftools csq answered nothing where c1-5-A-C was asked$"):
        info_of("", ALLELE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: lines[::-1], "answered c1-28-A-G where c1-26-A-G was asked"),
        (lambda lines: lines[:1], "answered nothing where c1-28-A-G was asked"),
        (lambda lines: [*lines, lines[0]], "answered more alleles than were asked"),
    ],
)
def test_lost_added_and_swapped_answers_are_noticed_and_leave_no_file(repo, small, monkeypatch, change, said):
    annotate(repo, small, write_vcf(small, [("c1", 26, "A", "G"), ("c1", 28, "A", "G")]))

    def run_csq(sites, fasta, genes, output):
        lines = sites.read_text().splitlines(keepends=True)
        body = [line for line in lines if not line.startswith("#")]
        output.write_text("".join(lines[: -len(body)] + change(body)))

    monkeypatch.setattr(consequences, "run_csq", run_csq)
    files = [small / f"{name}" for name in ("variants.parquet", "genome.fa.gz", "genes.gff3.gz")]
    with pytest.raises(AssertionError, match=said):
        annotate_consequences(*files, {}, "auto", small / "out" / "consequences.parquet")
    assert list((small / "out").iterdir()) == []


# Against Ensembl VEP ----------------------------------------------------------------------------------------------

NONCODING = {"upstream_gene_variant", "downstream_gene_variant", "intergenic_variant", "intron_variant"}
NONCODING |= {"5_prime_UTR_variant", "3_prime_UTR_variant", "non_coding_transcript_exon_variant"}
NONCODING |= {"non_coding_transcript_variant", "splice_region_variant"}


def comparable(terms):
    term = min(terms.split(","), key=SEVERITY.index)
    return "noncoding" if term in NONCODING else term


def vep_change(row):
    """VEP's protein change in HGVS where it is simple, or None."""
    letters, position, term = row["Amino_acids"], row["Protein_position"], row["Consequence"]
    if term == "synonymous_variant" and len(letters) == 1:
        return f"p.{seq3(letters)}{position}="
    if term == "missense_variant" and len(letters) == 3:
        return f"p.{seq3(letters[0])}{position}{seq3(letters[2])}"
    return f"p.{seq3(letters[0])}{position}Ter" if term == "stop_gained" and len(letters) == 3 else None


def test_natural_yeast_variants_have_the_consequences_that_vep_gives(repo, shared_data, tmp_path):
    yeast = shared_data / "yeast"
    prepare(tmp_path, yeast / "sacCer3.fa.gz", yeast / "sgd_genes.gff3.gz")
    found = annotate(repo, tmp_path, yeast / "by_rm.vcf.gz")
    assert len(found) == 45_565
    assert set(found["reason"]) == {"", "allele_too_long"}
    with gzip.open(yeast / "by_rm_vep.txt.gz", "rt") as lines:
        vep = {row["Uploaded_variation"]: row for row in csv.DictReader(lines, delimiter="\t")}

    pairs, changes = Counter(), Counter()
    for allele in found.itertuples():
        row = vep.get(f"{allele.input_chrom}:{allele.input_pos}_{allele.input_ref}/{allele.input_alt}")
        if row is None:  # VEP has one allele per record
            continue
        pairs[comparable(row["Consequence"]), comparable(allele.consequence)] += 1
        change = vep_change(row)
        if change and allele.transcript == row["Feature"].removesuffix("."):
            changes[change == allele.hgvs_p] += 1
    assert pairs.total() == 45_543

    def agreement(*terms, side=0):
        chosen = {pair: count for pair, count in pairs.items() if not terms or pair[side] in terms}
        return sum(count for (a, b), count in chosen.items() if a == b) / sum(chosen.values())

    # Residue numbers differ by one in genes with a programmed frameshift, which VEP counts as an intron.
    assert changes.total() > 25_700
    assert changes[True] / changes.total() > 0.999
    assert agreement() > 0.998
    assert agreement("missense_variant", "synonymous_variant") > 0.9999
    assert agreement("stop_gained", "start_lost", "stop_lost") > 0.97
    assert agreement("inframe_insertion", "inframe_deletion") > 0.99
    # VEP takes a +1 insertion into a start codon for a frameshift, csq for a lost start.
    assert agreement("frameshift_variant") > 0.97
    # VEP has no proteins for transposable elements: 45 alleles are coding by SGD's models alone.
    assert agreement("noncoding") > 0.997
    assert agreement("missense_variant", "synonymous_variant", "stop_gained", side=1) > 0.998


def test_prepared_real_genes_take_alleles_of_any_length(repo, shared_data, tmp_path):
    """A deletion of 50 genes and an insertion of 60,000 bases: csq takes them and they stand in the table."""
    yeast = shared_data / "yeast"
    prepare(tmp_path, yeast / "sacCer3.fa.gz", yeast / "sgd_genes.gff3.gz")
    with pysam.FastaFile(str(tmp_path / "genome.fa.gz")) as fasta:
        sequence = fasta.fetch("chrI").upper()
    rows = [
        ("chrI", 30_000, sequence[29_999:130_000], sequence[29_999]),
        ("chrI", 33_600, sequence[33_599], sequence[33_599] + "GAC" * 20_000),
    ]
    found = annotate(repo, tmp_path, write_vcf(tmp_path, rows))
    assert set(found["reason"]) == {"allele_too_long"}
    assert list(found["consequence"]) == ["splice_acceptor_variant", "inframe_insertion"]
    assert found["gene"].iloc[1] == "BDH2"
