import gzip
import random
import subprocess
import sys
from collections import Counter, defaultdict

import pysam
import pytest
from Bio.Seq import Seq

from seqprior.contigs import Contig, ContigNames, contigs_of
from seqprior.errors import BadInput
from seqprior.genes import (
    CODING,
    NONCODING,
    UNKNOWN_PHASE,
    accessions_of,
    coding_transcripts,
    preferred_transcripts,
    prepare_genes,
    reading_frame,
    transcript_table,
)
from seqprior.reference import prepare_fasta
from seqprior.sequence import reverse_complement

# One gene on either strand, 1-based: two coding exons, a stop codon of its own, and a UTR at both ends. On the minus
# strand everything is mirrored, and 400 is added.
LENGTH, SHIFT = 300, 400
EXONS = ((101, 160), (201, 270))
PARTS = ((111, 160, 0), (201, 252, 1))
STOP = (250, 252)
CODONS = ["ATG", *["AAA", "CTG", "GGC", "TCA", "TGG", "CAA", "GAT", "TTA"] * 4, "TAA"]


def mirrored(start, end, *phase, strand):
    return (start, end, *phase) if strand == "+" else (SHIFT + LENGTH + 1 - end, SHIFT + LENGTH + 1 - start, *phase)


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    """A contig with the gene on the plus strand and its mirror image on the minus strand."""
    flank = random.Random(1).choices("ACGT", k=LENGTH)
    coding = "".join(CODONS)
    assert len(coding) == 102
    flank[110:160], flank[200:252] = coding[:50], coding[50:]
    flank[160:162], flank[198:200] = "GT", "AG"
    plus = "".join(flank)
    sequence = plus + "A" * (SHIFT - LENGTH) + reverse_complement(plus) + "C" * 100
    folder = tmp_path_factory.mktemp("genome")
    (folder / "in.fa").write_text(f">chrI\n{sequence}\n")
    prepare_fasta(str(folder / "in.fa"), None, folder / "reference.fa.gz")
    return folder / "reference.fa.gz", sequence


def gff3(contig, kind, span, strand, attributes):
    start, end, phase = (*mirrored(*span, strand=strand), ".")[:3]
    return f"{contig}\tx\t{kind}\t{start}\t{end}\t.\t{strand}\t{phase}\t{attributes}\n"


def gtf(contig, kind, span, strand, **attributes):
    text = " ".join(f'{key} "{value}";' for key, one in attributes.items() for value in one.split(","))
    return gff3(contig, kind, span, strand, text)


def ensembl_gff3(gene, strand):
    yield gff3("I", "gene", (101, 270), strand, f"ID=gene:{gene};Name={gene};biotype=protein_coding;version=1")
    parent, tags = f"Parent=transcript:{gene}.t", "tag=gencode_basic,Ensembl_canonical,MANE_Select"
    attributes = f"ID=transcript:{gene}.t;Parent=gene:{gene};biotype=protein_coding;{tags}"
    yield gff3("I", "mRNA", (101, 270), strand, attributes)
    yield gff3("I", "five_prime_UTR", (101, 110), strand, parent)
    yield from (gff3("I", "exon", exon, strand, f"{parent};Name=e") for exon in EXONS)
    yield from (gff3("I", "CDS", part, strand, f"ID=CDS:p;{parent}") for part in PARTS)
    yield "###\n"


def gencode_gff3(gene, strand):
    common = f"gene_id={gene};gene_type=protein_coding;gene_name={gene}"
    yield gff3("chrI", "gene", (101, 270), strand, f"ID={gene};{common}")
    more = f"{common};transcript_id={gene}.t;transcript_type=protein_coding;tag=basic,MANE_Select,appris_principal_1"
    yield gff3("chrI", "transcript", (101, 270), strand, f"ID={gene}.t;Parent={gene};{more}")
    parent = f"Parent={gene}.t;{more}"
    yield from (gff3("chrI", "exon", exon, strand, f"ID=exon:{gene}.t:{exon[0]};{parent}") for exon in EXONS)
    yield from (gff3("chrI", "CDS", part, strand, f"ID=CDS:{gene}.t;{parent}") for part in PARTS)
    yield gff3("chrI", "stop_codon", (*STOP, 0), strand, f"ID=stop_codon:{gene}.t;{parent}")


def gtf_lines(contig, gene, strand, word, tag):
    of_gene = {"gene_id": gene, f"gene_{word}": "protein_coding", "gene_name": gene}
    of_transcript = of_gene | {"transcript_id": f"{gene}.t", f"transcript_{word}": "protein_coding", "tag": tag}
    yield gtf(contig, "gene", (101, 270), strand, **of_gene)
    yield gtf(contig, "transcript", (101, 270), strand, **of_transcript)
    yield from (gtf(contig, "exon", exon, strand, **of_transcript) for exon in EXONS)
    first, (start, _, phase) = PARTS
    for part in (first, (start, STOP[0] - 1, phase)):
        yield gtf(contig, "CDS", part, strand, **of_transcript)
    yield gtf(contig, "start_codon", (111, 113, 0), strand, **of_transcript)
    yield gtf(contig, "stop_codon", (*STOP, 0), strand, **of_transcript)


def ensembl_gtf(gene, strand):
    return gtf_lines("I", gene, strand, "biotype", "basic,MANE_Select")


def gencode_gtf(gene, strand):
    return gtf_lines("chrI", gene, strand, "type", "basic,MANE_Select,CCDS")


def gtf_without_gene_lines(gene, strand):
    return (line for line in ensembl_gtf(gene, strand) if line.split("\t")[2] not in ("gene", "transcript"))


def ncbi_gff3(gene, strand):
    contig, common = "NC_000001.11", f"Dbxref=GeneID:1;gene={gene}"
    yield gff3(contig, "region", (1, 300), "+", f"ID={contig}:1..300;gbkey=Src;genome=chromosome")
    attributes = f"ID=gene-{gene};{common};Name={gene};gbkey=Gene;gene_biotype=protein_coding"
    yield gff3(contig, "gene", (101, 270), strand, attributes)
    attributes = f"ID=rna-{gene}.t;Parent=gene-{gene};{common};Name={gene}.t;gbkey=mRNA;product=a%2C b;tag=MANE Select"
    yield gff3(contig, "mRNA", (101, 270), strand, attributes)
    yield from (gff3(contig, "exon", exon, strand, f"ID=exon-{exon[0]};Parent=rna-{gene}.t;{common}") for exon in EXONS)
    yield from (gff3(contig, "CDS", part, strand, f"ID=cds-NP_1;Parent=rna-{gene}.t;{common}") for part in PARTS)


def sgd_old(gene, strand):
    number = {"+": 100, "-": 200}[strand]
    yield gff3("chrI", "gene", (111, 252), strand, f"Name={gene};ID={number};Note=Dubious%20open%3B reading")
    yield gff3("chrI", "mRNA", (111, 252), strand, f"Name={gene}.t;Parent={number};ID={number + 1}")
    yield from (gff3("chrI", "CDS", part, strand, f"Name={gene}_CDS;Parent={number + 1};ID={part}") for part in PARTS)
    yield gff3("chrI", "intron", (161, 200), strand, f"Name={gene}_intron;Parent={number + 1};ID={number + 2}")


def sgd_current(gene, strand):
    yield gff3("chrI", "gene", (111, 252), strand, f"ID={gene};Name={gene};Ontology_term=GO:0003674,SO:0000704")
    yield from (gff3("chrI", "CDS", part, strand, f"Parent={gene}.t;Name={gene}_CDS") for part in PARTS)
    yield gff3("chrI", "intron", (161, 200), strand, f"Parent={gene}.t;Name={gene}_intron")
    yield gff3("chrI", "mRNA", (111, 252), strand, f"ID={gene}.t;Name={gene}.t;Parent={gene}")
    yield "###\n"


DIALECTS = [
    ensembl_gff3,
    gencode_gff3,
    ensembl_gtf,
    gencode_gtf,
    gtf_without_gene_lines,
    ncbi_gff3,
    sgd_old,
    sgd_current,
]
CSQ_LOG = "; print(pysam.bcftools.csq.get_messages(), file=sys.stderr)"
ALIASES = {"NC_000001.11": "chrI"}


def prepared(lines, fasta, folder, length=None):
    source, output = folder / "in.genes", folder / "genes.gff3.gz"
    source.write_text("##gff-version 3\n" + "".join(lines))
    names = ContigNames(contigs_of(fasta), ALIASES)
    return output, prepare_genes(source, names, output)


def consequences(fasta, genes, snvs, warning=None):
    """csq's consequence by (position, alt), each SNV (chrom, pos, ref, alt) on its own. Fails on any other warning."""
    vcf = genes.parent / "snvs.vcf"
    with pysam.FastaFile(str(fasta)) as reference:
        contigs = "".join(
            f"##contig=<ID={name},length={length}>\n"
            for name, length in zip(reference.references, reference.lengths, strict=True)
        )
    rows = "".join(f"{chrom}\t{pos}\t.\t{ref}\t{alt}\t.\t.\t.\n" for chrom, pos, ref, alt in snvs)
    vcf.write_text(f"##fileformat=VCFv4.2\n{contigs}#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n{rows}")
    # A process of its own: csq keeps the last position it saw, and a second call in one process finds "not sorted".
    call = "import sys, pysam.bcftools; pysam.bcftools.csq(*sys.argv[1:], catch_stdout=False)"
    arguments = ["-l", "-f", str(fasta), "-g", str(genes), str(vcf)]
    run = subprocess.run([sys.executable, "-c", call + CSQ_LOG, *arguments], capture_output=True, text=True, check=True)
    assert "Indexed" in run.stderr
    warned = [line for line in run.stderr.splitlines() if "warning" in line.lower()]
    assert len(warned) == (warning is not None) and all(warning in line for line in warned), warned
    found = {}
    for line in run.stdout.splitlines():
        if not line.startswith("#"):
            _, pos, _, _, alt, _, _, info = line.split("\t")
            found[int(pos), alt] = info.removeprefix("BCSQ=") if info != "." else ""
    return found


def kinds(annotation):
    """Consequences of an SNV; csq separates those of one transcript by '&' or, near splice sites, by a comma."""
    return {kind for one in annotation.split(",") for kind in one.split("|")[0].split("&")}


def every_snv(sequence, positions):
    return [("chrI", pos, sequence[pos - 1], alt) for pos in positions for alt in "ACGT" if alt != sequence[pos - 1]]


def expected_consequence(place, alt, strand):
    """By translation with Biopython: what an SNV does at a base of the CDS, counted from the start codon."""
    codon, base = CODONS[place // 3], place % 3
    changed = codon[:base] + (alt if strand == "+" else reverse_complement(alt)) + codon[base + 1 :]
    before, after = str(Seq(codon).translate()), str(Seq(changed).translate())
    if place < 3:
        return "start_lost"
    if before == after:
        return "stop_retained" if after == "*" else "synonymous"
    return "stop_lost" if before == "*" else "stop_gained" if after == "*" else "missense"


@pytest.mark.parametrize("strand", ["+", "-"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_gives_the_consequences_of_translation(genome, tmp_path, dialect, strand):
    fasta, sequence = genome
    genes, counts = prepared([*dialect("PLUS", "+"), *dialect("MINUS", "-")], fasta, tmp_path)
    assert counts == {"genes": 2, "transcripts": 2, "coding_transcripts": 2}
    places = [*range(111, 161), *range(201, 253)]
    position = {mirrored(place, place, strand=strand)[0]: number for number, place in enumerate(places)}
    found = consequences(fasta, genes, every_snv(sequence, sorted(position)))
    assert len(found) == 3 * 102
    gene = {"+": "PLUS", "-": "MINUS"}[strand]
    for (pos, alt), annotation in found.items():
        assert {tuple(one.split("|")[1:4]) for one in annotation.split(",")} == {(gene, f"{gene}.t", "protein_coding")}
        assert expected_consequence(position[pos], alt, strand) in kinds(annotation), (pos, alt, annotation)
    assert {"synonymous", "missense", "stop_gained", "stop_lost", "start_lost", "stop_retained"} <= {
        kind for annotation in found.values() for kind in kinds(annotation)
    }
    sites = {mirrored(p, p, strand=strand)[0]: k for p, k in {161: "donor", 162: "donor", 199: "acceptor"}.items()}
    for (pos, _), annotation in consequences(fasta, genes, every_snv(sequence, sorted(sites))).items():
        assert annotation.startswith(f"splice_{sites[pos]}|{gene}|")


@pytest.mark.parametrize("dialect", [d for d in DIALECTS if not d.__name__.startswith("sgd")])
def test_utrs_are_told_from_exons_and_cds(genome, tmp_path, dialect):
    fasta, sequence = genome
    genes, _ = prepared([*dialect("PLUS", "+"), *dialect("MINUS", "-")], fasta, tmp_path)
    for strand in "+-":
        for place, utr in ((105, "5_prime_utr"), (260, "3_prime_utr")):
            pos = mirrored(place, place, strand=strand)[0]
            for annotation in consequences(fasta, genes, every_snv(sequence, [pos])).values():
                assert annotation.startswith(f"{utr}|")


@pytest.mark.parametrize("dialect", [ensembl_gff3, gencode_gff3, ensembl_gtf, gencode_gtf, ncbi_gff3])
def test_mane_select_is_kept_in_every_dialect_that_has_it(genome, tmp_path, dialect):
    genes, _ = prepared(dialect("G", "+"), genome[0], tmp_path)
    assert preferred_transcripts(genes) == {"G.t": 0}


def test_preference_follows_the_best_tag(genome, tmp_path):
    tags = {
        "a": "basic,Ensembl_canonical,MANE_Select",
        "b": "MANE_Plus_Clinical",
        "c": "Ensembl_canonical",
        "d": "RefSeq Select",
        "e": "basic,appris_principal_1",
        "f": "",
    }
    lines = [gff3("chrI", "gene", (1, 9), "+", "ID=gene:g")]
    for own, tag in tags.items():
        lines.append(gff3("chrI", "mRNA", (1, 9), "+", f"ID=transcript:{own};Parent=gene:g;tag={tag}"))
        lines.append(gff3("chrI", "CDS", (1, 9, 0), "+", f"Parent=transcript:{own}"))
    genes, _ = prepared(lines, genome[0], tmp_path)
    assert preferred_transcripts(genes) == {"a": 0, "b": 1, "c": 2, "d": 2, "e": 3, "f": 3}


def test_transcript_table(genome, tmp_path):
    lines = [*ensembl_gff3("B", "-"), *ensembl_gff3("A", "+")]
    lines += [gff3("I", "lnc_RNA", (21, 30), "+", "ID=transcript:n;Parent=gene:A;biotype=lncRNA")]
    lines += [gff3("I", "exon", (21, 30), "+", "Parent=transcript:n")]
    table = transcript_table(prepared(lines, genome[0], tmp_path)[0])
    assert list(table.columns) == [
        "transcript",
        "gene_id",
        "gene",
        "chrom",
        "start",
        "end",
        "strand",
        "cds_length",
        "preference",
    ]
    assert [tuple(row) for row in table.itertuples(index=False)] == [
        ("n", "A", "A", "chrI", 20, 30, "+", 0, 3),
        ("A.t", "A", "A", "chrI", 100, 270, "+", 102, 0),
        ("B.t", "B", "B", "chrI", 430, 600, "-", 102, 0),
    ]


def test_output_is_sorted_by_reference_order_and_indexed(genome, tmp_path):
    names = ContigNames([Contig("chrII", 1000, ("II",)), Contig("chrI", 1000, ("I",))])
    source = tmp_path / "in.gff3"
    other = [line.replace("I\t", "II\t", 1) for line in ensembl_gff3("OTHER", "+") if "\t" in line]
    source.write_text("".join([*ensembl_gff3("LATE", "-"), *ensembl_gff3("EARLY", "+"), *other]))
    output = tmp_path / "genes.gff3.gz"
    assert prepare_genes(source, names, output)["genes"] == 3
    rows = [line.split("\t") for line in gzip.decompress(output.read_bytes()).decode().splitlines()[1:]]
    assert [row[0] for row in rows] == ["chrII"] * 8 + ["chrI"] * 16
    starts = [int(row[3]) for row in rows if row[0] == "chrI"]
    assert starts == sorted(starts)
    with pysam.TabixFile(str(output)) as tabix:
        assert [line.split("\t")[2] for line in tabix.fetch("chrI", 100, 101)] == [
            "gene",
            "mRNA",
            "exon",
            "five_prime_UTR",
        ]


def test_stop_codon_that_an_intron_splits_becomes_part_of_the_cds():
    cds, stops = [(0, 10, 0), (20, 30, 2)], [(30, 31, 0), (40, 42, 2)]
    assert reading_frame(cds, stops, "+") == [(0, 10, 0), (20, 31, 2), (40, 42, 0)]
    mirror = [(100 - e, 100 - s, p) for s, e, p in cds], [(100 - e, 100 - s, p) for s, e, p in stops]
    assert reading_frame(*mirror, "-") == [(58, 60, 0), (69, 80, 2), (90, 100, 0)]


def test_stop_codon_within_the_cds_changes_nothing():
    assert reading_frame([(0, 12, 0)], [(9, 12, 0)], "+") == [(0, 12, 0)]


def test_missing_phases_are_filled_in():
    cds = [(0, 10, UNKNOWN_PHASE), (20, 31, UNKNOWN_PHASE)]
    assert reading_frame(cds, [], "+") == [(0, 10, 0), (20, 31, 2)]
    assert reading_frame(cds, [], "-") == [(0, 10, 1), (20, 31, 0)]


def test_first_part_too_short_for_its_phase_is_dropped():
    assert reading_frame([(0, 1, 2), (10, 20, 1)], [], "+") == [(10, 20, 1)]
    assert reading_frame([(10, 20, 1), (30, 31, 2)], [], "-") == [(10, 20, 1)]


def test_phase_that_contradicts_lengths_is_refused():
    assert reading_frame([(0, 10, 0), (20, 31, 0)], [], "+") is None


def noncoding_lines(kind, biotype):
    attribute = f";biotype={biotype}" if biotype else ""
    return [
        gff3("chrI", "gene", (1, 30), "+", "ID=g"),
        gff3("chrI", kind, (1, 30), "+", f"ID=t;Parent=g{attribute}"),
        gff3("chrI", "exon", (1, 30), "+", "Parent=t"),
    ]


def test_transcript_without_cds_is_noncoding_for_csq_whatever_its_biotype(genome, tmp_path):
    fasta, sequence = genome
    biotypes = sorted(NONCODING | CODING | {"TEC", "tRNA", "vault_RNA", "Y_RNA", "new_RNA"})
    lines = [gff3("chrI", "gene", (1, 790), "+", "ID=g")]
    for number, biotype in enumerate(biotypes):
        lines.append(
            gff3(
                "chrI", "transcript", (9 * number + 1, 9 * number + 9), "+", f"ID=t{number};Parent=g;biotype={biotype}"
            )
        )
        lines.append(gff3("chrI", "exon", (9 * number + 1, 9 * number + 9), "+", f"Parent=t{number}"))
    genes, counts = prepared(lines, fasta, tmp_path)
    assert counts == {"genes": 1, "transcripts": len(biotypes), "coding_transcripts": 0}
    found = consequences(fasta, genes, every_snv(sequence, [9 * number + 5 for number in range(len(biotypes))]))
    for (pos, _), annotation in found.items():
        assert "non_coding" in kinds(annotation), biotypes[pos // 9]


@pytest.mark.parametrize(
    ("kind", "biotype", "written"),
    [
        ("lnc_RNA", "", "lncRNA"),
        ("snoRNA", "", "snoRNA"),
        ("tRNA", "", "misc_RNA"),
        ("mRNA", "", "processed_transcript"),
        ("transcript", "protein_coding_CDS_not_defined", "processed_transcript"),
        ("transcript", "rRNA_pseudogene", "pseudogene"),
        ("transcript", "unprocessed_pseudogene", "unprocessed_pseudogene"),
    ],
)
def test_biotype_written_for_noncoding_transcripts(genome, tmp_path, kind, biotype, written):
    genes, _ = prepared(noncoding_lines(kind, biotype), genome[0], tmp_path)
    assert f"biotype={written}\n" in gzip.decompress(genes.read_bytes()).decode()


def test_pseudogene_is_not_translated(genome, tmp_path):
    lines = [
        gff3("chrI", "pseudogene", (111, 252), "+", "ID=gene-P;Name=P;gene_biotype=pseudogene;pseudo=true"),
        *(gff3("chrI", "CDS", part, "+", "ID=cds-1;Parent=gene-P;pseudo=true") for part in PARTS),
    ]
    genes, counts = prepared(lines, genome[0], tmp_path)
    assert counts == {"genes": 1, "transcripts": 1, "coding_transcripts": 0}
    assert "biotype=pseudogene\n" in gzip.decompress(genes.read_bytes()).decode()


def test_cds_directly_under_a_gene_is_a_transcript_of_its_own(genome, tmp_path):
    lines = [gff3("chrI", "gene", (111, 252), "+", "ID=gene-ND1;Name=ND1;gene_biotype=protein_coding")]
    lines += [gff3("chrI", "CDS", part, "+", "ID=cds-1;Parent=gene-ND1") for part in PARTS]
    genes, counts = prepared(lines, genome[0], tmp_path)
    assert counts == {"genes": 1, "transcripts": 1, "coding_transcripts": 1}
    snvs = every_snv(genome[1], [111])
    assert {a.split("|")[2] for a in consequences(genome[0], genes, snvs).values()} == {"ND1"}


def test_product_of_a_precursor_belongs_to_the_precursors_gene(genome, tmp_path):
    lines = [gff3("chrI", "gene", (1, 60), "+", "ID=gene-MIR;gene_biotype=miRNA")]
    lines += [gff3("chrI", "primary_transcript", (1, 60), "+", "ID=rna-NR;Parent=gene-MIR")]
    lines += [gff3("chrI", "exon", (1, 60), "+", "Parent=rna-NR")]
    lines += [gff3("chrI", "miRNA", (5, 30), "+", "ID=rna-MIR;Parent=rna-NR")]
    lines += [gff3("chrI", "exon", (5, 30), "+", "Parent=rna-MIR")]
    genes, counts = prepared(lines, genome[0], tmp_path)
    assert counts == {"genes": 1, "transcripts": 2, "coding_transcripts": 0}
    assert set(transcript_table(genes)["gene_id"]) == {"MIR"}


@pytest.mark.parametrize("shift", [1, -1])
def test_programmed_frameshift_has_one_exon_and_no_splice_site(genome, tmp_path, shift):
    """A +1 shift skips a base, a -1 shift reads one twice: neither is an intron."""
    fasta, sequence = genome
    second = 121 + shift
    lines = [gff3("chrI", "gene", (112, 152), "+", "ID=EST3")]
    lines += [gff3("chrI", "mRNA", (112, 152), "+", "ID=EST3.t;Parent=EST3")]
    exception = ";exception=ribosomal slippage"
    lines += [gff3("chrI", "CDS", (112, 120, 0), "+", f"Parent=EST3.t{exception}")]
    lines += [gff3("chrI", "CDS", (second, second + 29, 0), "+", f"Parent=EST3.t{exception}")]
    genes, counts = prepared(lines, fasta, tmp_path)
    assert counts["coding_transcripts"] == 1
    rows = [line.split("\t") for line in gzip.decompress(genes.read_bytes()).decode().splitlines()[1:]]
    assert [row[3:5] for row in rows if row[2] == "exon"] == [["112", str(second + 29)]]
    protein = str(Seq(sequence[111:120] + sequence[second - 1 : second + 29]).translate())
    snvs = every_snv(sequence, range(131, 149))
    warning = "ribosomal slippage?" if shift == -1 else None
    for (pos, _), annotation in consequences(fasta, genes, snvs, warning).items():
        number = 3 + (pos - second) // 3
        assert annotation.split("|")[5].startswith(f"{number + 1}{protein[number]}")


LEFT_OUT = {
    "on_two_strands_or_contigs": [
        gff3("chrI", "CDS", (111, 160, 0), "+", "Parent=bad"),
        gff3("chrI", "CDS", (201, 252, 1), "-", "Parent=bad"),
    ],
    "strand_unknown": ["chrI\tx\texon\t5\t50\t.\t.\t.\tParent=bad\n"],
    "phase_inconsistent": [
        gff3("chrI", "CDS", (111, 160, 0), "+", "Parent=bad"),
        gff3("chrI", "CDS", (201, 252, 0), "+", "Parent=bad"),
    ],
}


@pytest.mark.parametrize("reason", LEFT_OUT)
def test_transcript_that_csq_would_refuse_is_left_out_and_counted(genome, tmp_path, reason):
    bad = gff3("chrI", "mRNA", (5, 252), "+", "ID=bad;Parent=g")
    lines = [gff3("chrI", "gene", (5, 252), "+", "ID=g"), bad, *LEFT_OUT[reason]]
    genes, counts = prepared([*lines, *ensembl_gff3("GOOD", "+")], genome[0], tmp_path)
    assert counts == {
        "genes": 1,
        "transcripts": 1,
        "coding_transcripts": 1,
        "left_out_gene_without_transcript": 1,
        f"left_out_{reason}": 1,
    }
    assert "start_lost" in consequences(genome[0], genes, every_snv(genome[1], [111])).popitem()[1]


def test_genes_that_the_reference_cannot_hold_are_counted(genome, tmp_path):
    lines = [
        *ensembl_gff3("GOOD", "+"),
        *(line.replace("I\t", "7\t", 1) for line in ensembl_gff3("ELSEWHERE", "+")),
        *(line.replace("\t270\t", "\t2700\t") for line in ensembl_gff3("LONG", "+")),
        gff3("chrI", "exon", (1, 9), "+", "Parent=none"),
    ]
    _, counts = prepared(lines, genome[0], tmp_path)
    assert counts == {
        "genes": 1,
        "transcripts": 1,
        "coding_transcripts": 1,
        "left_out_contig_not_in_reference": 1,
        "left_out_beyond_contig_end": 1,
        "left_out_transcript_line_missing": 1,
    }


def test_sequence_region_of_another_length_tells_another_assembly(genome, tmp_path):
    lines = ["##sequence-region I 1 16571\n", *ensembl_gff3("A", "+"), *gencode_gff3("B", "-")]
    _, counts = prepared(lines, genome[0], tmp_path)
    assert counts["left_out_contig_length_differs"] == 1
    assert counts["genes"] == 1


def test_same_id_on_two_contigs_of_a_gtf_gives_two_genes(tmp_path):
    names = ContigNames([Contig("X", 1000, ()), Contig("Y", 1000, ())])
    source, output = tmp_path / "in.gtf", tmp_path / "genes.gff3.gz"
    lines = [line for contig in "XY" for line in gtf_lines(contig, "PAR", "+", "biotype", "basic")]
    source.write_text("".join(lines))
    assert prepare_genes(source, names, output) == {"genes": 2, "transcripts": 2, "coding_transcripts": 2}
    assert list(transcript_table(output)["transcript"]) == ["PAR.t", "PAR.t_Y"]


def test_compression_line_ends_and_fasta_section_do_not_matter(genome, tmp_path):
    names = ContigNames(contigs_of(genome[0]), ALIASES)
    text = "".join(sgd_current("G", "+")) + "##FASTA\n>chrI\nACGT\n"
    contents = set()
    for number, data in enumerate((text.encode(), text.replace("\n", "\r\n").encode(), gzip.compress(text.encode()))):
        source, output = tmp_path / f"in{number}", tmp_path / f"out{number}.gff3.gz"
        source.write_bytes(data)
        prepare_genes(source, names, output)
        contents.add(output.read_bytes())
    assert len(contents) == 1


def test_names_cannot_break_the_annotation(genome, tmp_path):
    lines = [gff3("chrI", "gene", (1, 9), "+", "ID=g;Name=a%2Cb%7Cc d")]
    lines += [gff3("chrI", "mRNA", (1, 9), "+", "ID=t,1;Parent=g"), gff3("chrI", "CDS", (1, 9, 0), "+", "Parent=g")]
    genes, _ = prepared(lines, genome[0], tmp_path)
    assert list(transcript_table(genes)["gene"]) == ["a_b_c_d"]


BAD_LINES = [
    (
        "chrI\tx\tgene\t1\t9\n",
        "found 5 columns, expected the 9 tab-separated columns of GFF3 or GTF; "
        "check that the file is a gene annotation",
    ),
    (
        "chrI\tx\tgene\t1e3\t9\t.\t+\t.\tID=g\n",
        "found start '1e3' and end '9', expected whole numbers with 1 <= start <= end; correct the line",
    ),
    (
        "chrI\tx\tgene\t10\t9\t.\t+\t.\tID=g\n",
        "found start '10' and end '9', expected whole numbers with 1 <= start <= end; correct the line",
    ),
    (
        "chrI\tx\tgene\t0\t9\t.\t+\t.\tID=g\n",
        "found start '0' and end '9', expected whole numbers with 1 <= start <= end; correct the line",
    ),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_malformed_line_is_named(genome, tmp_path, line, message):
    with pytest.raises(BadInput) as error:
        prepared([*ensembl_gff3("A", "+"), line], genome[0], tmp_path)
    assert str(error.value) == f"{tmp_path}/in.genes, line 10: {message}"
    assert not list(tmp_path.glob("genes*"))


def test_no_gene_on_the_references_contigs(genome, tmp_path):
    with pytest.raises(BadInput) as error:
        prepared([line.replace("I\t", "chr20\t", 1) for line in ensembl_gff3("A", "+")], genome[0], tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/in.genes: none of its 1 genes lies within the reference's contigs (found chr20; expected chrI); "
        "use gene models of the reference's assembly or add contig aliases"
    )


def test_no_gene_at_all(genome, tmp_path):
    with pytest.raises(BadInput) as error:
        prepared(["chrI\tx\tregion\t1\t9\t.\t+\t.\tID=r\n"], genome[0], tmp_path)
    assert str(error.value) == (
        f"{tmp_path}/in.genes: found no gene with exons or CDS, expected gene models in GFF3 or GTF; "
        "check that the file is a gene annotation"
    )


def test_missing_empty_and_cut_files(genome, tmp_path):
    names, source = ContigNames(contigs_of(genome[0])), tmp_path / "in.gff3"
    with pytest.raises(BadInput) as error:
        prepare_genes(source, names, tmp_path / "out.gz")
    assert str(error.value) == f"{source}: no such file; expected a GFF3 or GTF file; check the path in the config"
    source.write_bytes(b"")
    with pytest.raises(BadInput) as error:
        prepare_genes(source, names, tmp_path / "out.gz")
    assert str(error.value) == (
        f"{source}: the file is empty; expected a GFF3 or GTF file; check that it was copied completely"
    )
    source.write_bytes(gzip.compress("".join(ensembl_gff3("A", "+")).encode())[:-9])
    with pytest.raises(BadInput) as error:
        prepare_genes(source, names, tmp_path / "out.gz")
    assert str(error.value) == (
        f"{source}: the gzip data end early or are damaged (Compressed file ended before the end-of-stream marker was "
        "reached); copy the file again"
    )


def test_sgd_models_agree_with_ensembl_vep(shared_data, tmp_path):
    """csq on the converted SGD genes against VEP's calls for the same natural variants (SNVs with one consequence)."""
    prepare_fasta(str(shared_data / "yeast" / "sacCer3.fa.gz"), None, tmp_path / "reference.fa.gz")
    fasta, genes = tmp_path / "reference.fa.gz", tmp_path / "genes.gff3.gz"
    counts = prepare_genes(shared_data / "yeast" / "sgd_genes.gff3.gz", ContigNames(contigs_of(fasta)), genes)
    assert counts == {
        "genes": 7100,
        "transcripts": 7100,
        "coding_transcripts": 6693,
        "left_out_contig_not_in_reference": 4,
    }
    vep = defaultdict(dict)
    kinds = {"synonymous_variant": "synonymous", "missense_variant": "missense", "stop_gained": "stop_gained"}
    with gzip.open(shared_data / "yeast" / "by_rm_vep.txt.gz", "rt") as lines:
        header = next(line for line in lines if line.startswith("Uploaded_variation")).rstrip("\n").split("\t")
        for line in lines:
            row = dict(zip(header, line.rstrip("\n").split("\t"), strict=True))
            if row["Consequence"] in kinds and row["Uploaded_variation"].startswith("chrI:"):
                vep[row["Uploaded_variation"]][row["Gene"]] = kinds[row["Consequence"]]
    snvs, keys = [], {}
    for variant in vep:
        place, alleles = variant.split("_")
        ref, alt = alleles.split("/")
        if len(ref) == len(alt) == 1:
            snvs.append(("chrI", int(place.split(":")[1]), ref, alt))
            keys[snvs[-1][1], alt] = variant
    agreement = Counter()
    for key, annotations in consequences(fasta, genes, sorted(snvs)).items():
        ours = {}
        for annotation in annotations.split(","):
            kind, _, transcript, *_ = [*annotation.split("|"), "", ""]
            ours.setdefault(transcript.removesuffix("_mRNA"), set()).update(kind.split("&"))
        for gene, kind in vep[keys[key]].items():
            agreement[kind in ours.get(gene, ())] += 1
    assert agreement.total() > 300
    assert agreement[True] / agreement.total() > 0.99


def test_real_human_models_are_accepted_as_they_are(shared_data, tmp_path):
    prepare_fasta(str(shared_data / "human" / "GRCh37_chr20.fa.gz"), None, tmp_path / "reference.fa.gz")
    fasta, genes = tmp_path / "reference.fa.gz", tmp_path / "genes.gff3.gz"
    counts = prepare_genes(shared_data / "human" / "chr20_genes.gff3.gz", ContigNames(contigs_of(fasta)), genes)
    assert counts == {"genes": 544, "transcripts": 544, "coding_transcripts": 520}
    # The first coding base of DEFB125.
    found = consequences(fasta, genes, [("20", 68351, "A", "G")])
    assert found[68351, "G"].startswith("start_lost|DEFB125|DEFB125.1|protein_coding|+")


# What is known of proteins ----------------------------------------------------------------------------------------


def ncbi_with_facts(gene, strand, dbxref="GeneID:1,UniProtKB/Swiss-Prot:P12345", more=""):
    for line in ncbi_gff3(gene, strand):
        if "\tCDS\t" in line:
            line = line.replace("Dbxref=GeneID:1", f"Dbxref={dbxref}").rstrip("\n") + f";protein_id=NP_1.1{more}\n"
        yield line


def test_ncbi_facts_of_proteins_are_kept(genome, tmp_path):
    exception = "transl_except=(pos:117..119%2Caa:Sec),(pos:250..252%2Caa:TERM)"
    lines = ncbi_with_facts("G", "+", more=f";transl_table=2;{exception}")
    genes, _ = prepared(lines, genome[0], tmp_path)
    (found,) = coding_transcripts(genes, "chrI")
    assert (found.id, found.gene, found.strand, found.protein, found.table) == ("G.t", "G", "+", "NP_1.1", 2)
    assert found.exceptions == ((116, 119, "U"), (249, 252, "*"))
    assert found.accessions == ("P12345",)
    assert found.cds == ((110, 160), (200, 252)) and found.exons == ((100, 160), (200, 270)) and found.phase == 0
    assert found.cds_length == 102
    assert consequences(genome[0], genes, every_snv(genome[1], [120]))  # csq takes the file as it is


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("stop_codon_redefined_as_selenocysteine", "ID=sec:1;Parent=G.t"),
        ("Selenocysteine", 'gene_id "G"; transcript_id "G.t";'),
    ],
)
def test_selenocysteines_of_gencode_and_gtf_are_kept(genome, tmp_path, kind, text):
    dialect = gencode_gff3 if "ID=" in text else gencode_gtf
    lines = [*dialect("G", "-"), gff3("chrI", kind, (201, 203), "-", text)]
    genes, counts = prepared(lines, genome[0], tmp_path)
    assert counts["coding_transcripts"] == 1
    start, end = mirrored(201, 203, strand="-")
    assert coding_transcripts(genes, "chrI")[0].exceptions == ((start - 1, end, "U"),)


@pytest.mark.parametrize(
    ("attributes", "accessions"),
    [
        ({"Dbxref": "GeneID:1,UniProtKB/Swiss-Prot:P12345,UniProtKB/TrEMBL:A0A024RBG1"}, ["P12345", "A0A024RBG1"]),
        ({"Dbxref": "UniProtKB%2FSwiss-Prot:Q9Y5X4-2"}, ["Q9Y5X4"]),
        ({"dbxref": "SGD:S000002143,UniProtKB:P39709"}, ["P39709"]),
        ({"db_xref": "GeneID:1,UniProtKB/Swiss-Prot:P0ADD9"}, ["P0ADD9"]),
        ({"uniprot_id": "P12345.2"}, ["P12345"]),
        ({"swissprot": "P12345,Q9Y5X4"}, ["P12345", "Q9Y5X4"]),
        ({"Dbxref": "GeneID:12345,HGNC:P12345", "gene": "P12345"}, []),
        ({"Dbxref": "UniProtKB:NOTONE"}, []),
    ],
)
def test_accessions_of_attributes(attributes, accessions):
    assert accessions_of(attributes) == accessions


def test_a_genes_accession_stands_for_its_transcripts_that_have_none(genome, tmp_path):
    lines = [line.replace("ID=gene-G;", "ID=gene-G;uniprot=Q9Y5X4;") for line in ncbi_gff3("G", "+")]
    genes, _ = prepared(lines, genome[0], tmp_path)
    assert coding_transcripts(genes, "chrI")[0].accessions == ("Q9Y5X4",)
    lines = [line.replace("ID=gene-G;", "ID=gene-G;uniprot=Q9Y5X4;") for line in ncbi_with_facts("G", "+")]
    genes, _ = prepared(lines, genome[0], tmp_path)
    assert coding_transcripts(genes, "chrI")[0].accessions == ("P12345",)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_coding_transcripts_of_every_dialect(genome, tmp_path, dialect):
    genes, _ = prepared([*dialect("PLUS", "+"), *dialect("MINUS", "-")], genome[0], tmp_path)
    found = {transcript.gene: transcript for transcript in coding_transcripts(genes, "chrI")}
    assert set(found) == {"PLUS", "MINUS"} and coding_transcripts(genes, "chrNone") == []
    for gene, strand in (("PLUS", "+"), ("MINUS", "-")):
        spans = [mirrored(start, end, strand=strand) for start, end, _ in PARTS]
        assert found[gene].cds == tuple(sorted((start - 1, end) for start, end in spans))
        assert (found[gene].strand, found[gene].phase, found[gene].table) == (strand, 0, None)
    tagged = "MANE_Select" in preferred_transcripts(genes) or 0 in preferred_transcripts(genes).values()
    assert tagged == ("MANE_Select" in found["PLUS"].tags)


def test_phase_of_an_incomplete_start_is_told(genome, tmp_path):
    lines = [gff3("chrI", "gene", (112, 152), "-", "ID=G"), gff3("chrI", "mRNA", (112, 152), "-", "ID=t;Parent=G")]
    lines += [gff3("chrI", "CDS", (112, 152, 2), "-", "Parent=t")]
    genes, _ = prepared(lines, genome[0], tmp_path)
    assert coding_transcripts(genes, "chrI")[0].phase == 2
