"""What is read of VCF and BCF files, and what is said of those that cannot be read."""

from __future__ import annotations

import gzip

import pysam
import pysam.bcftools
import pytest

from seqprior.errors import BadInput
from seqprior.vcf import VcfFile, annotation_by_allele, is_bcf, parse_header, parse_record

FORMAT = "##fileformat=VCFv4.2\n"
CONTIGS = "##contig=<ID=chr1,length=1000>\n##contig=<ID=chr2,length=2000>\n"
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
HEADER = f"{FORMAT}{CONTIGS}{COLUMNS}\n"
RECORD = "chr1\t10\trs1\tA\tG,T\t.\t.\t.\n"
VEP = "Allele|Consequence|SYMBOL|Gene|Feature|HGVSp"
CSQ_LINE = (
    f'##INFO=<ID=CSQ,Number=.,Type=String,Description="Consequence annotations from Ensembl VEP. Format: {VEP}">\n'
)
END_OF_BGZF = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def write(path, text):
    path.write_text(text, newline="")
    return path


def write_bcf(path, text, compressed=True):
    source = write(path.with_suffix(".source.vcf"), text)
    pysam.bcftools.view("-Ob", "--no-version", "-o", str(path), str(source), catch_stdout=False)
    if not compressed:
        path.write_bytes(gzip.decompress(path.read_bytes()))
    return path


def message(path):
    """What is said of a file that cannot be read to its end."""
    with pytest.raises(BadInput) as error:
        list(VcfFile(path))
    return str(error.value)


def site(record):
    return record.chrom, record.start, record.id, record.ref, record.alts


def test_a_record_has_its_line_zero_based_start_and_alleles(tmp_path):
    (record,) = VcfFile(write(tmp_path / "a.vcf", HEADER + RECORD))
    assert record == (5, "chr1", 9, "rs1", "A", ("G", "T"), "")


def test_the_same_records_come_from_every_kind_of_file(tmp_path):
    text = HEADER + RECORD + "chr2\t20\t.\tAC\t.\t.\t.\t.\nchr2\t21\t.\tC\t<DEL>\t.\t.\tSVTYPE=DEL\n"
    more = '##ALT=<ID=DEL,Description="x">\n##INFO=<ID=SVTYPE,Number=1,Type=String,Description="x">\n'
    text = text.replace(COLUMNS, more + COLUMNS)
    plain = write(tmp_path / "plain.vcf", text)
    zipped = tmp_path / "plain gzip.vcf.gz"
    zipped.write_bytes(gzip.compress(text.encode()))
    blocks = tmp_path / "blocks.vcf.gz"
    pysam.tabix_compress(str(plain), str(blocks))
    windows = write(tmp_path / "windows.vcf", text.replace("\n", "\r\n"))
    bcf = write_bcf(tmp_path / "compressed.bcf", text)
    raw_bcf = write_bcf(tmp_path / "raw.bcf", text, compressed=False)
    expected = [site(record) for record in VcfFile(plain)]
    assert expected[1:] == [("chr2", 19, ".", "AC", ()), ("chr2", 20, ".", "C", ("<DEL>",))]
    for path in (zipped, blocks, windows, bcf, raw_bcf):
        vcf = VcfFile(path)
        assert [site(record) for record in vcf] == expected, path.name
        assert vcf.header.contigs == {"chr1": 1000, "chr2": 2000}
    assert [is_bcf(path) for path in (plain, zipped, blocks, bcf, raw_bcf)] == [False, False, False, True, True]


def test_a_file_may_be_iterated_twice(tmp_path):
    vcf = VcfFile(write(tmp_path / "a.vcf", HEADER + RECORD))
    assert list(vcf) == list(vcf)


def test_windows_line_ends_leave_no_trace_in_the_last_column(tmp_path):
    text = f"{FORMAT}#CHROM\tPOS\tID\tREF\tALT\nchr1\t5\t.\tA\tC\n"
    (record,) = VcfFile(write(tmp_path / "a.vcf", text.replace("\n", "\r\n")))
    assert record.alts == ("C",)
    header = VcfFile(write(tmp_path / "b.vcf", (HEADER[:-1] + "\tFORMAT\tNA1\tNA2\n").replace("\n", "\r\n"))).header
    assert header.samples == ["NA1", "NA2"]


def test_a_header_alone_is_a_valid_file_without_records(tmp_path):
    vcf = VcfFile(write(tmp_path / "empty.vcf", HEADER))
    assert list(vcf) == []
    assert list(VcfFile(write_bcf(tmp_path / "empty.bcf", HEADER))) == []


def test_contig_lines_may_lack_the_length_or_be_absent(tmp_path):
    lines = [
        '##contig=<ID=HLA-A*01:01,length=30,assembly="x">\n',
        '##contig=<length=7,ID=b,URL="http://x?ID=wrong,length=8">\n',
        "##contig=<ID=c>\n",
        COLUMNS,
    ]
    assert parse_header(tmp_path, lines).contigs == {"HLA-A*01:01": 30, "b": 7, "c": None}
    assert VcfFile(write(tmp_path / "none.vcf", f"{FORMAT}{COLUMNS}\n")).header.contigs == {}


@pytest.mark.parametrize(
    "line",
    [
        "",
        "chr1",
        "chr1\t10\t.\tA",
        "chr1\tten\t.\tA\tC",
        "chr1\t-1\t.\tA\tC",
        "chr1\t1.5\t.\tA\tC",
        "chr1\t\u0663\t.\tA\tC",
        "chr1\t2147483648\t.\tA\tC",
        "chr1\t" + "9" * 5000 + "\t.\tA\tC",
        "\t10\t.\tA\tC",
        "chr1\t10\t.\t\tC",
        "chr1\t10\t.\tA\t",
        "chr1 10 . A C",
    ],
)
def test_a_line_that_is_no_record_is_handed_on_as_malformed(line):
    record = parse_record(7, line.split("\t", 8), ())
    assert (record.line, record.start) == (7, None)


def test_the_alleles_of_a_malformed_line_are_counted_one_by_one():
    assert parse_record(1, ["chr1", "x", ".", "A", "C,G"], ()).alts == ("C", "G")


def test_position_0_and_the_last_possible_one_are_records():
    assert parse_record(1, ["chr1", "0", ".", "N", "C"], ()).start == -1
    assert parse_record(1, ["chr1", "2147483647", ".", "N", "C"], ()).start == 2**31 - 2


def test_blank_lines_are_skipped_but_counted(tmp_path):
    (record,) = VcfFile(write(tmp_path / "a.vcf", f"{HEADER}\n\r\n{RECORD}\n"))
    assert record.line == 7


def test_genotypes_are_never_looked_at(tmp_path):
    text = HEADER[:-1] + "\tFORMAT\tNA1\n" + "chr1\t10\t.\tA\tG\t.\t.\t.\tnot:a\tgenotype\tand\ttoo many\n"
    (record,) = VcfFile(write(tmp_path / "a.vcf", text))
    assert site(record) == ("chr1", 9, ".", "A", ("G",))


def test_an_identifier_that_is_not_utf8_can_be_encoded(tmp_path):
    path = tmp_path / "latin1.vcf"
    path.write_bytes((HEADER + RECORD).encode().replace(b"rs1", b"caf\xe9"))
    (record,) = VcfFile(path)
    assert record.id.encode().decode() == "caf\ufffd"


# What cannot be read ----------------------------------------------------------------------------------------------


def test_missing_and_empty_files(tmp_path):
    path = tmp_path / "a.vcf"
    assert message(path) == f"{path}: no such file; expected a VCF or BCF file; check the path in the config"
    path.touch()
    expected = f"{path}: the file is empty; expected a VCF or BCF file; check that it was copied completely"
    assert message(path) == expected


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_that_is_no_vcf(tmp_path, zipped):
    path = tmp_path / "genome.vcf"
    data = b">chr1\nACGT\n"
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert message(path) == (
        f"{path}: line 1 is '>chr1', not '##fileformat=VCF...'; expected a VCF or BCF file; "
        "check the path in the config"
    )


@pytest.mark.parametrize("text", [FORMAT, FORMAT + CONTIGS, FORMAT + RECORD, HEADER.replace("\t", " ") + RECORD])
def test_a_file_without_a_proper_column_line(tmp_path, text):
    path = write(tmp_path / "a.vcf", text)
    assert message(path) == (
        f"{path}: no '#CHROM POS ID REF ALT' line separated by tabs after the header; expected a VCF or BCF file; "
        "check how the file was made"
    )


def test_a_sample_that_stands_twice_in_the_header(tmp_path):
    path = write(tmp_path / "a.vcf", HEADER[:-1] + "\tFORMAT\tNA1\tNA2\tNA1\n")
    assert message(path) == f"{path}: sample 'NA1' stands twice in the header; rename one of them"


def many_records():
    return HEADER + "".join(f"chr1\t{1 + i % 900}\tid{i * i}\tA\tG\t.\t.\t.\n" for i in range(20_000))


@pytest.mark.parametrize("kind", ["vcf", "bcf"])
def test_block_gzip_cut_inside_or_between_blocks(tmp_path, kind):
    path = tmp_path / f"a.{kind}.gz"
    if kind == "bcf":
        write_bcf(path, many_records())
    else:
        pysam.tabix_compress(str(write(tmp_path / "a.vcf", many_records())), str(path))
    data = path.read_bytes()
    first_block = int.from_bytes(data[16:18], "little") + 1
    assert first_block < len(data) - 28
    for length in (first_block, first_block + 1000, len(data) - 28):
        path.write_bytes(data[:length])
        expected = f"{path}: the end marker of block-gzip is missing, so the file was cut; copy it again"
        assert message(path) == expected


def test_plain_gzip_cut_short(tmp_path):
    path = tmp_path / "a.vcf.gz"
    data = gzip.compress(many_records().encode())
    for length in (15, len(data) // 2, len(data) - 4):
        path.write_bytes(data[:length])
        assert message(path) == (
            f"{path}: the gzip data end early or are damaged (Compressed file ended before the end-of-stream marker "
            "was reached); copy the file again"
        )


def test_a_changed_byte_inside_block_gzip(tmp_path):
    path = tmp_path / "a.vcf.gz"
    pysam.tabix_compress(str(write(tmp_path / "a.vcf", many_records())), str(path))
    data = bytearray(path.read_bytes())
    for where in (25, len(data) // 2):
        path.write_bytes(data[:where] + bytes([data[where] ^ 0xFF]) + data[where + 1 :])
        assert message(path).startswith(f"{path}: the gzip data end early or are damaged (")


@pytest.mark.parametrize("share", [0.0005, 0.5, 0.9])
def test_uncompressed_bcf_whose_data_end_early(tmp_path, share):
    path = write_bcf(tmp_path / "a.bcf", many_records(), compressed=False)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    said = message(path)
    assert said.startswith(f"{path}: the BCF data end early or are damaged (")
    assert said.endswith("); copy the file again")


def test_compressed_bcf_with_a_missing_middle(tmp_path):
    path = write_bcf(tmp_path / "a.bcf", many_records())
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + END_OF_BGZF)
    assert message(path).startswith(f"{path}: the BCF data end early or are damaged (")


# Consequence annotations ------------------------------------------------------------------------------------------

FIELDS = {
    "CSQ": [name.lower() for name in VEP.split("|")],
    "ANN": ["allele", "annotation", "annotation_impact", "gene_name"],
    "BCSQ": ["consequence", "gene", "transcript", "biotype", "strand", "amino_acid_change", "dna_change"],
}


@pytest.mark.parametrize(
    ("tag", "description", "names"),
    [
        ("CSQ", f"Consequence annotations from Ensembl VEP. Format: {VEP}", FIELDS["CSQ"]),
        ("ANN", "Functional annotations: 'Allele | Annotation | Annotation_Impact | Gene_Name' ", FIELDS["ANN"]),
        (
            "BCSQ",
            "Local consequence annotation from BCFtools/csq, see http://samtools.github.io/bcftools/howtos/"
            "csq-calling.html for details. Format: Consequence|gene|transcript|biotype|strand|amino_acid_change|"
            "dna_change",
            FIELDS["BCSQ"],
        ),
        (
            "BCSQ",
            "Haplotype-aware consequence annotation from BCFtools/csq. Format: '[*]consequence|gene|transcript|biotype"
            "[|strand|amino_acid_change|dna_change]'",
            ["consequence", "gene", "transcript", "biotype", "strand", "amino_acid_change", "dna_change"],
        ),
    ],
)
def test_field_names_come_from_the_header(tmp_path, tag, description, names):
    lines = [f'##INFO=<ID={tag},Number=.,Type=String,Description="{description}">', COLUMNS]
    found = parse_header(tmp_path, lines).annotations[tag]
    assert [name for name in found if name] == names


def test_an_annotation_whose_fields_the_header_does_not_name_is_left_out_with_a_warning(tmp_path, caplog):
    line = '##INFO=<ID=CSQ,Number=.,Type=String,Description="Consequences: see the manual">\n'
    path = write(tmp_path / "a.vcf", HEADER.replace(COLUMNS, line + COLUMNS) + RECORD.replace("\t.\n", "\tCSQ=G|x\n"))
    vcf = VcfFile(path)
    assert vcf.header.annotations == {}
    assert [record.annotation for record in vcf] == [""]
    assert caplog.messages == [f"{path}: INFO CSQ is not used, since the header does not name its fields"]


@pytest.mark.parametrize("info", ["AC=1;CSQ=G|a,T|b;AF=2", "CSQ=G|a,T|b", "XCSQ=1;DB;CSQ=G|a,T|b"])
def test_the_annotation_is_found_among_the_rest_of_info(tmp_path, info):
    header = HEADER.replace(COLUMNS, CSQ_LINE + COLUMNS)
    path = write(tmp_path / "a.vcf", header + RECORD.replace("\t.\n", f"\t{info}\n"))
    assert [record.annotation for record in VcfFile(path)] == ["CSQ=G|a,T|b"]


def entries(annotation):
    return [own.partition("=")[2].split(",") if own else [] for own in annotation]


@pytest.mark.parametrize(
    ("tag", "ref", "alts", "names"),
    [
        ("CSQ", "A", ("G", "T"), ("G", "T")),
        ("CSQ", "CTT", ("C", "CT"), ("-", "T")),  # all share C, lengths differ: VEP takes it off all
        ("CSQ", "CT", ("C", "CA"), ("-", "A")),
        ("CSQ", "T", ("TT", "TTT"), ("T", "TT")),
        ("CSQ", "A", ("AT", "G"), ("AT", "G")),  # one has another first base: as written
        ("CSQ", "CT", ("C", "*"), ("-", "*")),
        ("CSQ", "CT", ("CA", "CG"), ("CA", "CG")),
        ("ANN", "CTT", ("C", "CT"), ("C", "CT")),  # SnpEff: as written
    ],
)
def test_each_alt_of_a_record_gets_its_own_entries(tag, ref, alts, names):
    value = ",".join(f"{name}|{i}" for i, name in enumerate(names)) + f",{names[0]}|more"
    found = entries(annotation_by_allele(f"{tag}={value}", FIELDS, ref, alts))
    assert found == [[f"{names[0]}|0", f"{names[0]}|more"], [f"{names[1]}|1"]]


def test_vep_allele_numbers_are_used_where_given():
    fields = {"CSQ": ["allele", "allele_num"]}
    found = annotation_by_allele("CSQ=-|2,T|1", fields, "CTT", ("CT", "C"))
    assert found == ["CSQ=T|1", "CSQ=-|2"]


def test_an_alt_without_entries_of_its_own_gets_none():
    assert annotation_by_allele("CSQ=G|a", FIELDS, "A", ("G", "T")) == ["CSQ=G|a", ""]


@pytest.mark.parametrize(
    ("ref", "alt", "value", "own"),
    [
        ("CTT", "C", "-|a,-|b", "-|a,-|b"),
        ("CTT", "C", "TT|a", "TT|a"),  # an unknown way to name it, but it can only be this one
        ("CT", "C", "-|a,A|b", "-|a"),  # split from CT>C,CA
        ("T", "A", "-|a,A|b", "A|b"),  # the other half, trimmed by the splitting
        ("A", "AT", "AT|a,G|b", "AT|a"),  # split from A>AT,G
        ("T", "TT", "T|a,TT|b", ""),  # of T>TT,TTT, or another: in doubt
        ("G", "C", "A|a,T|b", ""),
    ],
)
def test_a_record_with_one_alt_may_stem_from_one_with_several(ref, alt, value, own):
    assert annotation_by_allele(f"CSQ={value}", FIELDS, ref, (alt,)) == [f"CSQ={own}" if own else ""]


def test_bcsq_entries_are_told_apart_by_their_dna_change():
    value = (
        "inframe_deletion|G|T1|protein_coding|+|9AB>9A|33TCACC>T,missense|G|T1|protein_coding|+|9A>9B|33TCACC>GCACC,"
        "intron|G|T2|protein_coding,missense|G|T3|protein_coding|+|9A>9C|33TCACC>T+40A>G"
    )
    first, second, site, both = value.split(",")
    found = entries(annotation_by_allele(f"BCSQ={value}", FIELDS, "TCACC", ("T", "GCACC", "TC")))
    assert found == [[first, site, both], [second, site], [site]]


def test_bcsq_of_a_record_that_was_split_and_trimmed_is_kept_whole():
    value = "missense|G|T1|protein_coding|+|9A>9B|33TC>GC"
    assert annotation_by_allele(f"BCSQ={value}", FIELDS, "T", ("G",)) == [f"BCSQ={value}"]


def test_a_pointer_to_another_record_is_kept_for_the_reader_of_the_annotation():
    assert annotation_by_allele("BCSQ=@105", FIELDS, "A", ("G",)) == ["BCSQ=@105"]
