"""Normalisation against bcftools, the accounting of alleles, and what is no error."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections import Counter, defaultdict

import pandas as pd
import pysam
import pysam.bcftools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqprior import variants
from seqprior.columns import VARIANTS, Reason, Status
from seqprior.contigs import Contig, ContigNames, contigs_of, write_contigs
from seqprior.errors import BadInput
from seqprior.reference import prepare_fasta
from seqprior.variants import AlleleReader, ReferenceSequence, left_align, normalise_variants, require_samples
from seqprior.vcf import VcfFile

COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
# 1-based positions 5-12 of chr1 are CACACACA.
CHR1 = "GTTGCACACACATTGGATCCAAAAAAGTCTNNNNACGTACGGATTACAGATTACACCGG"
CHR2 = "ACGGGGTTTTACGATCGATCGGCTAAATTTCCGCGCGATTAGC"
LATER_REASONS = {Reason.WINDOW_AMBIGUOUS, Reason.NOT_EVALUABLE_BY_MODEL}  # those of the scoring stages


def vcf_text(rows, header=""):
    """Rows: (chrom, pos, ref, alt), or a whole line."""
    lines = [row if isinstance(row, str) else "{}\t{}\t.\t{}\t{}\t.\t.\t.".format(*row) for row in rows]
    return f"##fileformat=VCFv4.2\n{header}{COLUMNS}" + "".join(f"{line}\n" for line in lines)


def write(path, rows, header=""):
    path.write_text(vcf_text(rows, header), newline="")
    return path


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    (folder / "source.fa").write_text(f">chr1\n{CHR1}\n>chr2\n{CHR2.lower()}\n")
    prepare_fasta(str(folder / "source.fa"), None, folder / "genome.fa.gz")
    return folder / "genome.fa.gz"


@pytest.fixture(scope="module")
def names(fasta):
    return ContigNames(contigs_of(fasta))


@pytest.fixture
def normalise(fasta, names, tmp_path):
    """Normalise VCFs, given as rows or as paths; returns variants, records and the summary."""

    def run(*inputs, header="", max_length=20, share=1.0):
        folder = tmp_path / "out"
        paths = [
            given if isinstance(given, os.PathLike) else write(tmp_path / f"input {number}.vcf", given, header)
            for number, given in enumerate(inputs)
        ]
        summary = normalise_variants(paths, fasta, names, folder, max_length=max_length, max_mismatch_share=share)
        assert sorted(path.name for path in folder.iterdir()) == ["records.parquet", "variants.parquet"]
        table, records = (pd.read_parquet(folder / f"{name}.parquet") for name in ("variants", "records"))
        assert tuple(table.columns) == VARIANTS
        assert table["variant_id"].is_unique
        # The accounting, which holds for every input.
        assert table["input_count"].sum() == summary["input_alleles"] == sum(f["alleles"] for f in summary["files"])
        by_reason = table.groupby(["status", "reason"])["input_count"].agg(["size", "sum"])
        stated = {(row["status"], row["reason"]): [row["unique"], row["input"]] for row in summary["by_status_reason"]}
        assert stated == dict(zip(by_reason.index, by_reason.to_numpy().tolist(), strict=True))
        assert summary["unique_alleles"] == len(table)
        assert summary["merged_equivalent"] == summary["input_alleles"] - len(table)
        assert set(records["variant_ids"].explode().dropna()) <= set(table["variant_id"])
        return table, records, summary

    return run


def only(table):
    assert len(table) == 1
    return table.iloc[0]


def reasons(table):
    return dict(zip(table["input_alt"], table["reason"], strict=True))


# Normalisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "ref", "alt", "expected"),
    [
        (0, "G", "A", (0, "G", "A")),
        (2, "TGC", "TAC", (3, "G", "A")),
        (10, "CA", "C", (10, "CA", "C")),
        (8, "CACA", "CA", (3, "GCA", "G")),
        (11, "A", "ACA", (3, "G", "GCA")),
        (8, "CACA", "TT", (8, "CACA", "TT")),
    ],
)
def test_an_allele_is_trimmed_and_moved_to_the_left(start, ref, alt, expected):
    assert left_align(CHR1, start, ref, alt) == expected


def test_at_the_first_base_of_a_contig_the_base_behind_anchors():
    assert left_align("AAAC", 0, "A", "AA") == (0, "A", "AA")
    assert left_align("AAAC", 1, "AA", "A") == (0, "AA", "A")
    assert left_align("ACGT", 0, "AC", "C") == (0, "AC", "C")
    assert left_align("ACGA", 0, "ACGA", "A") == (0, "ACGA", "A")


def test_a_long_deletion_in_a_long_repeat_takes_no_quadratic_time():
    sequence = "G" + "AC" * 500_000
    deleted = 200_000
    ref = sequence[-deleted - 1 :]
    assert left_align(sequence, len(sequence) - len(ref), ref, ref[0]) == (0, sequence[: deleted + 1], "G")


def bcftools_norm(fasta, source, target):
    """Alleles by record ID, one per line, as bcftools writes them; records with another REF are left out."""
    arguments = ["-f", fasta, "-m", "-any", "-c", "x", "-Ov", "-o", target, source]
    code = "import sys, pysam.bcftools; pysam.bcftools.norm(*sys.argv[1:], catch_stdout=False)"
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True)
    alleles = defaultdict(list)
    with target.open() as lines:
        for line in lines:
            if line[0] != "#":
                chrom, pos, name, ref, alt = line.split("\t", 5)[:5]
                alleles[name].append((chrom, int(pos), ref, alt))
    return alleles


REPEATS = st.lists(
    st.tuples(st.text("ACGT", min_size=1, max_size=4), st.integers(1, 6)).map(lambda part: part[0] * part[1]),
    min_size=1,
    max_size=8,
).map("".join)


@st.composite
def contig_and_alleles(draw):
    """A small contig of repeats, and alleles of every kind on it: start (0-based), ref, alt."""
    sequence = draw(REPEATS)
    alleles = []
    for _ in range(draw(st.integers(1, 25))):
        start = draw(st.integers(0, len(sequence) - 1))
        ref = sequence[start : start + draw(st.integers(1, 12))]
        i, j = sorted((draw(st.integers(0, len(ref))), draw(st.integers(0, len(ref)))))
        copied = draw(st.integers(0, len(sequence) - 1))
        inserted = draw(st.sampled_from([sequence[copied : copied + draw(st.integers(1, 6))], draw(st.text("ACGT"))]))
        alt = draw(st.sampled_from([ref[:i] + ref[j:], ref[:i] + inserted + ref[i:], ref[:i] + inserted + ref[j:]]))
        if alt not in ("", ref):
            alleles.append((start, ref, alt))
    return sequence, alleles


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(contig_and_alleles(), min_size=1, max_size=6))
def test_random_alleles_in_repeats_are_normalised_as_bcftools_does(tmp_path_factory, contigs):
    folder = tmp_path_factory.mktemp("norm")
    fasta = folder / "genome.fa"
    fasta.write_text("".join(f">c{number}\n{sequence}\n" for number, (sequence, _) in enumerate(contigs)))
    header = "".join(f"##contig=<ID=c{number},length={len(s)}>\n" for number, (s, _) in enumerate(contigs))
    expected, rows = {}, []
    for number, (sequence, alleles) in enumerate(contigs):
        for start, ref, alt in sorted(alleles):
            new_start, *new = left_align(sequence, start, ref, alt)
            expected[str(len(rows))] = [(f"c{number}", new_start + 1, *new)]
            rows.append(f"c{number}\t{start + 1}\t{len(rows)}\t{ref}\t{alt}\t.\t.\t.")
    assert bcftools_norm(fasta, write(folder / "in.vcf", rows, header), folder / "out.vcf") == expected


@pytest.mark.parametrize(
    ("genome", "vcf"),
    [
        ("yeast/sacCer3.fa.gz", "yeast/by_rm.vcf.gz"),
        ("human/GRCh37_chr20.fa.gz", "human/1000G_b37_chr20_1-4Mb.reference.vcf.gz"),
        ("human/GRCh37_chr20.fa.gz", "human/1000G_b37_chr20_1-4Mb.unphased.vcf.gz"),
        ("human/GRCh37_chr20.fa.gz", "human/1000G_b37_chr20_1-4Mb.scaffold.vcf.gz"),
    ],
)
def test_every_real_allele_is_normalised_as_bcftools_does(shared_data, tmp_path, genome, vcf):
    fasta = tmp_path / "genome.fa.gz"
    prepare_fasta(str(shared_data / genome), None, fasta)
    names = ContigNames(contigs_of(fasta))
    source = VcfFile(shared_data / vcf)
    reader = AlleleReader(source.path, source.header, names, ReferenceSequence(fasta), max_length=10**9)
    ours, skipped, rows = {}, Counter(), []
    for record in source:
        alleles, _ = reader.rows(record)
        fine = [row[1:5] for row in alleles if row[6] == Status.SCORED]
        skipped.update(str(row[7]) for row in alleles if row[6] != Status.SCORED)
        rows.append(
            f"{record.chrom}\t{record.start + 1}\t{record.line}\t{record.ref}\t{','.join(record.alts)}\t.\t.\t."
        )
        if fine:
            ours[str(record.line)] = sorted(fine)
    header = "".join(f"##contig=<ID={contig.name},length={contig.length}>\n" for contig in names.contigs.values())
    theirs = bcftools_norm(fasta, write(tmp_path / "in.vcf", rows, header), tmp_path / "out.vcf")
    # What has no sequence is left as it is by bcftools, and REF mismatches are left out by both.
    assert set(skipped) <= {Reason.REF_MISMATCH, Reason.SPANNING_DELETION}
    mismatched = len(rows) - len(theirs)
    assert mismatched == len(rows) - len(ours) == skipped[Reason.REF_MISMATCH]
    assert len(ours) > 3000 > 100 * mismatched
    for line, alleles in theirs.items():
        assert ours[line] == sorted(allele for allele in alleles if allele[3] != "*")


# Accounting -------------------------------------------------------------------------------------------------------


def test_every_reason_is_given_and_every_allele_is_accounted_for(normalise):
    expected = {
        "scored": ("chr1\t1\t.\tG\tA", ""),
        "ref": ("chr1\t1\t.\tT\tC", Reason.REF_MISMATCH),
        "position 0": ("chr1\t0\t.\tN\tC", Reason.AMBIGUOUS_BASE),
        "position 0 with a base": ("chr1\t0\t.\tA\tC", Reason.REF_MISMATCH),
        "beyond the end": (f"chr1\t{len(CHR1) + 1}\t.\tA\tC", Reason.REF_MISMATCH),
        "over the end": (f"chr1\t{len(CHR1)}\t.\tGA\tG", Reason.REF_MISMATCH),
        "contig": ("chrUn\t1\t.\tG\tA", Reason.CONTIG_NOT_IN_REFERENCE),
        "symbolic": ("chr1\t2\t.\tT\t<DEL>", Reason.SYMBOLIC_ALLELE),
        "gvcf": ("chr1\t2\t.\tT\t<NON_REF>", Reason.SYMBOLIC_ALLELE),
        "breakend": ("chr1\t2\t.\tT\tT[chr2:5[", Reason.SYMBOLIC_ALLELE),
        "single breakend": ("chr1\t2\t.\tT\tT.", Reason.SYMBOLIC_ALLELE),
        "star": ("chr1\t3\t.\tT\t*", Reason.SPANNING_DELETION),
        "iupac alt": ("chr1\t3\t.\tT\tR", Reason.AMBIGUOUS_BASE),
        "iupac ref": ("chr1\t31\t.\tN\tA", Reason.AMBIGUOUS_BASE),
        "lower-case iupac": ("chr1\t3\t.\tT\ty", Reason.AMBIGUOUS_BASE),
        "long": (f"chr1\t1\t.\tG\tG{'ACT' * 10}", Reason.ALLELE_TOO_LONG),
        "no position": ("chr1\tx\t.\tG\tA", Reason.MALFORMED_RECORD),
        "dash": ("chr1\t4\t.\tG\t-", Reason.MALFORMED_RECORD),
        "few columns": ("garbage", Reason.MALFORMED_RECORD),
        "empty ref": ("chr1\t4\t.\t\tA", Reason.MALFORMED_RECORD),
        "empty alt": ("chr1\t4\t.\tG\t", Reason.MALFORMED_RECORD),
        "no alt": ("chr1\t4\t.\tG\t.", Reason.NO_ALTERNATE_ALLELE),
        "alt is ref": ("chr1\t4\t.\tG\tG", Reason.NO_ALTERNATE_ALLELE),
        "alt is ref in lower case": ("chr1\t13\t.\tT\tt", Reason.NO_ALTERNATE_ALLELE),
    }
    assert {reason for _, reason in expected.values() if reason} == set(Reason) - LATER_REASONS
    rows = [row for row, _ in expected.values()]
    table, _, summary = normalise(rows)
    found = table.set_index("input_line")
    for line, (name, (_, reason)) in enumerate(expected.items(), 3):
        assert found.loc[line, "reason"] == reason, name
        assert found.loc[line, "status"] == (Status.SKIPPED if reason else Status.SCORED), name
    assert summary["input_alleles"] == len(expected)


def test_the_alleles_of_one_record_are_judged_one_by_one(normalise):
    table, records, summary = normalise([("chr1", 5, "CA", "C,*,<DEL>,CAA,N,.,TA"), ("chr1", 5, "C", "G,,T")])
    assert reasons(table) == {
        "C": "",
        "*": Reason.SPANNING_DELETION,
        "<DEL>": Reason.SYMBOLIC_ALLELE,
        "CAA": "",
        "N": Reason.AMBIGUOUS_BASE,
        ".": Reason.NO_ALTERNATE_ALLELE,
        "TA": "",
        "G": "",
        "": Reason.MALFORMED_RECORD,
        # T is the same allele as TA above
    }
    assert summary["input_alleles"] == 10
    assert table.set_index("input_alt").loc["TA", "input_count"] == 2
    # A record with a malformed allele cannot be written again; the other keeps its alleles in order.
    record = only(records)
    assert record["alts"] == "C,*,<DEL>,CAA,N,.,TA"
    by_id = table.set_index("variant_id")
    assert [by_id.loc[name, "input_alt"] for name in record["variant_ids"]] == record["alts"].split(",")


def test_equivalent_representations_merge_into_one_row_with_their_count(normalise):
    # Three ways to delete one CA of CACACACA: left, right, padded; one more in a second file, lower-case.
    same = [("chr1", 4, "GCA", "G"), ("chr1", 10, "ACA", "A"), ("chr1", 3, "TGCACA", "TGCA")]
    table, records, summary = normalise(same, [("chr1", 5, "caca", "ca"), ("chr2", 1, "a", "g")])
    row = table.iloc[0]
    assert (row["variant_id"], row["pos"], row["ref"], row["alt"]) == ("chr1-4-GCA-G", 4, "GCA", "G")
    assert row["input_count"] == 4
    assert (row["input_line"], row["input_pos"], row["input_ref"]) == (3, 4, "GCA")
    assert list(table["variant_id"]) == ["chr1-4-GCA-G", "chr2-1-A-G"]
    assert (summary["input_alleles"], summary["unique_alleles"], summary["merged_equivalent"]) == (5, 2, 3)
    assert len(records) == 5  # as they stand in the input


def test_skipped_alleles_merge_as_well(normalise):
    rows = [("chr1", 1, "T", "C"), ("chrUn", 9, "A", "<DEL>"), ("chr1", 3, "T", "*")]
    table, _, _ = normalise(rows, rows, rows[:1])
    assert sorted(table["input_count"]) == [2, 2, 3]


def test_the_lines_of_two_files_stay_apart(normalise):
    table, _, _ = normalise(["bad"], ["bad"])
    assert len(table) == 2
    table, _, _ = normalise(["chr1\tx\t.\tA\tC,G"])
    assert only(table)["input_count"] == 2


def test_alleles_of_a_contig_of_the_same_name_but_another_length_stay_apart(fasta, names, tmp_path):
    row = ("chr1", 1, "G", "A")
    other = write(tmp_path / "other.vcf", [row], "##contig=<ID=chr1,length=7>\n##contig=<ID=chr2,length=43>\n")
    paths = [write(tmp_path / "a.vcf", [row]), other]
    normalise_variants(paths, fasta, names, tmp_path / "out", max_length=20, max_mismatch_share=1)
    table = pd.read_parquet(tmp_path / "out" / "variants.parquet")
    assert dict(zip(table["variant_id"], table["reason"], strict=True)) == {
        "chr1-1-G-A": "",
        f"{other}:chr1-1-G-A": Reason.CONTIG_NOT_IN_REFERENCE,
    }
    records = pd.read_parquet(tmp_path / "out" / "records.parquet")
    assert sorted(records["variant_ids"].explode()) == sorted(table["variant_id"])


def test_the_order_is_that_of_the_reference_then_of_positions(normalise):
    rows = [("chr2", 9, "T", "A"), ("zz", 1, "A", "C"), ("chr1", 9, "C", "T")]
    rows += [("chr2", 2, "C", "T"), ("aa", 1, "A", "C")]
    table, records, _ = normalise([*rows, "chr1\tx\t.\tA\tC", ("chr1", 9, "C", "G")])
    expected = [("chr1", 9, "G"), ("chr1", 9, "T"), ("chr1", None, "C"), ("chr2", 2, "T"), ("chr2", 9, "A")]
    expected += [("aa", 1, "C"), ("zz", 1, "C")]
    assert [(row.chrom, None if pd.isna(row.pos) else row.pos, row.alt) for row in table.itertuples()] == expected
    assert list(records["chrom"]) == ["chr1", "chr1", "chr2", "chr2", "aa", "zz"]


def test_the_size_of_the_parts_on_disk_does_not_show(normalise, monkeypatch):
    rows = [(f"chr{1 + i % 2}", 1 + i % 40, (CHR1, CHR2)[i % 2][i % 40], "ACGT"[i % 3]) for i in range(120)]
    whole = normalise(rows)
    for size in (1, 7):
        monkeypatch.setattr(variants, "SPILL_ROWS", size)
        parts = normalise(rows)
        assert all(a.equals(b) for a, b in zip(whole[:2], parts[:2], strict=True))
        assert whole[2] == parts[2]


def test_the_input_of_an_allele_is_that_with_an_annotation(normalise):
    header = '##INFO=<ID=CSQ,Number=.,Type=String,Description="Format: Allele|Consequence">\n'
    plain = [("chr1", 1, "G", "A")]
    annotated = ["chr1\t1\t.\tG\tC,A\t.\t.\tCSQ=A|missense_variant,C|stop_gained"]
    table, _, _ = normalise(plain, annotated, header=header)
    row = table[table["alt"] == "A"].iloc[0]
    assert row["input_annotation"] == "CSQ=A|missense_variant"
    assert row["input_file"].endswith("input 1.vcf")
    assert row["input_count"] == 2


# What is no error -------------------------------------------------------------------------------------------------


def test_a_header_alone_gives_valid_empty_tables(normalise):
    table, records, summary = normalise([])
    assert (len(table), len(records), summary["input_alleles"], summary["by_status_reason"]) == (0, 0, 0, [])


def test_lower_case_alleles_are_those_in_upper_case(normalise):
    row = only(normalise([("chr1", 1, "g", "a")])[0])
    assert (row["variant_id"], row["status"], row["input_ref"], row["input_alt"]) == ("chr1-1-G-A", "scored", "g", "a")


def test_other_spellings_of_contigs_are_mapped_and_told(normalise):
    table, records, summary = normalise([("1", 1, "G", "A"), ("chr2", 1, "A", "G")])
    assert list(table["chrom"]) == list(records["chrom"]) == ["chr1", "chr2"]
    assert list(table["input_chrom"]) == ["1", "chr2"]
    assert summary["files"][0]["contigs_mapped"] == {"1": "chr1"}


def test_windows_line_ends_and_plain_gzip_and_bcf_give_the_same_alleles(normalise, tmp_path):
    header = f"##contig=<ID=chr1,length={len(CHR1)}>\n##contig=<ID=chr2>\n"
    text = vcf_text([("chr1", 10, "ACA", "A,G"), ("chr2", 1, "A", "G")], header)
    paths = [tmp_path / f"file {number}" for number in range(4)]
    paths[0].write_text(text)
    paths[1].write_text(text.replace("\n", "\r\n"), newline="")
    paths[2].write_bytes(gzip.compress(text.encode()))
    pysam.bcftools.view("-Ob", "-o", str(paths[3]), str(paths[0]), catch_stdout=False)
    ids = [list(normalise(path)[0]["variant_id"]) for path in paths]
    assert ids[0] == ["chr1-4-GCA-G", "chr1-10-ACA-G", "chr2-1-A-G"]
    assert ids[1:] == [ids[0]] * 3


def test_an_identifier_with_bytes_that_are_not_utf8_is_kept_readable(normalise, tmp_path):
    path = tmp_path / "latin1.vcf"
    path.write_bytes(vcf_text(["chr1\t1\tcaf\xe9\tG\tA\t.\t.\t."]).encode("latin1"))
    assert only(normalise(path)[0])["input_id"] == "caf\ufffd"


def test_the_swapped_alleles_are_counted(normalise):
    _, _, summary = normalise([("chr1", 1, "A", "G"), ("chr1", 2, "C", "A")])
    assert summary["ref_alt_swapped"] == 1


# Bad input --------------------------------------------------------------------------------------------------------


def test_another_assembly_is_known_by_the_lengths_of_its_contigs(normalise, tmp_path):
    header = f"##contig=<ID=chr1,length=61>\n##contig=<ID=1,length=62>\n##contig=<ID=chr2,length={len(CHR2)}>\n"
    path = write(tmp_path / "a.vcf", [], header)
    with pytest.raises(BadInput) as error:
        normalise(path)
    assert str(error.value) == (
        f"{path}: the header describes another assembly (chr1 is 61 bases long there and 59 in the reference); "
        "use the reference that the file was called on"
    )


def test_more_agreeing_than_conflicting_contigs_are_no_other_assembly(normalise):
    header = f"##contig=<ID=chr1,length=61>\n##contig=<ID=chr2,length={len(CHR2)}>\n"
    table, _, _ = normalise([("chr1", 1, "G", "A"), ("chr2", 1, "A", "G")], header=header)
    assert dict(zip(table["chrom"], table["reason"], strict=True)) == {
        "chr1": Reason.CONTIG_NOT_IN_REFERENCE,
        "chr2": "",
    }


def test_another_assembly_is_known_by_its_ref_alleles(normalise, tmp_path):
    right = [("chr1", pos, CHR1[pos - 1], "A") for pos in (1, 2, 3, 4, 5, 7, 9)]
    wrong = [("chr1", 1, "C", "A"), ("chr1", 2, "C", "A"), ("chr1", 3, "GG", "A")]
    path = write(tmp_path / "a.vcf", [*right, *wrong])
    with pytest.raises(BadInput) as error:
        normalise(path, share=0.29)
    assert str(error.value) == (
        f"{path}: 3 of 10 alleles do not match the reference (line 10 has REF C at chr1:1 where the reference has G), "
        "more than the limit of 29%; use the assembly that the file was called on, or raise "
        "reference.max_mismatch_share"
    )
    assert len(normalise(path, share=0.3)[0]) == 10
    # Two alone never stop a run.
    assert len(normalise(write(tmp_path / "b.vcf", wrong[:2]), share=0)[0]) == 2


def test_a_failed_run_leaves_nothing_behind(fasta, names, tmp_path):
    good, bad = write(tmp_path / "a.vcf", [("chr1", 1, "G", "A")]), tmp_path / "absent.vcf"
    with pytest.raises(BadInput, match="no such file"):
        normalise_variants([good, bad], fasta, names, tmp_path / "out", max_length=20, max_mismatch_share=1)
    assert list((tmp_path / "out").iterdir()) == []


def test_samples_are_looked_for_in_their_files(tmp_path):
    def genotypes(name, *samples):
        path = tmp_path / name
        path.write_text(vcf_text([]).rstrip("\n") + "".join(f"\t{column}" for column in ("FORMAT", *samples)) + "\n")
        return str(path)

    one, two = genotypes("one.vcf", "NA1", "NA2"), genotypes("two.vcf", *(f"S{i}" for i in range(9)))
    sites = str(write(tmp_path / "sites.vcf", []))
    require_samples([("NA1", one), ("NA2", one), ("S8", two), ("anyone", sites)])
    with pytest.raises(BadInput) as error:
        require_samples([("NA1", one), ("NA1", two)])
    assert str(error.value) == "sample 'NA1' stands twice in the sample sheet; give each sample one row"
    with pytest.raises(BadInput) as error:
        require_samples([("NA1", two)])
    assert str(error.value) == f"{two}: no sample 'NA1'; the file has S0, S1, S2, S3, S4; see the sample sheet"


# The script -------------------------------------------------------------------------------------------------------


def run_cli(repo, fasta, folder, *options):
    write_contigs(contigs_of(fasta), folder / "contigs.tsv")
    arguments = ["--fasta", fasta, "--contigs", folder / "contigs.tsv", "--max-allele-length", "50"]
    arguments += ["--max-mismatch-share", "0.1", "--output", folder, "--summary", folder / "variants.json", *options]
    code = (
        "import resource, runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, repo / "scripts" / "normalise_variants.py", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(repo / "scripts")}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment)


def test_the_script_ends_with_2_and_one_sentence_when_the_input_is_bad(repo, fasta, tmp_path):
    path = tmp_path / "absent.vcf"
    done = run_cli(repo, fasta, tmp_path, "--variants", path)
    assert done.returncode == 2
    said = f"error: {path}: no such file; expected a VCF or BCF file; check the path in the config\n"
    assert done.stderr == said
    path = write(tmp_path / "a.vcf", [])
    done = run_cli(repo, fasta, tmp_path, "--variants", path, "--samples", json.dumps([["A", str(path)]] * 2))
    assert (done.returncode, done.stderr) == (
        2,
        "error: sample 'A' stands twice in the sample sheet; give each sample one row\n",
    )


def test_memory_does_not_depend_on_the_number_of_samples(repo, fasta, tmp_path):
    peaks = []
    for count in (10, 10_000):
        path = tmp_path / f"{count}.vcf"
        samples = "\t".join(f"S{i}" for i in range(count))
        genotypes = "\t".join(["GT:PL"] + ["0|1:" + ",".join(["123456"] * 12)] * count)
        with path.open("w") as handle:
            handle.write(vcf_text([]).rstrip("\n") + f"\tFORMAT\t{samples}\n")
            for pos in range(1, 51):
                base = CHR1[pos - 1]
                handle.write(f"chr1\t{pos}\t.\t{base}\t{'C' if base != 'C' else 'G'}\t.\t.\t.\t{genotypes}\n")
        done = run_cli(repo, fasta, tmp_path, "--variants", path, "--samples", json.dumps([["S9", str(path)]]))
        assert done.returncode == 0, done.stderr
        summary = json.loads((tmp_path / "variants.json").read_text())
        assert (summary["input_alleles"], summary["files"][0]["samples"]) == (50, count)
        peaks.append(int(done.stdout.split()[-1]) * 1024)
    file_size = path.stat().st_size
    assert file_size > 40e6
    assert peaks[1] - peaks[0] < file_size / 3


def test_reference_sequence_gives_upper_case_contigs(fasta):
    reference = ReferenceSequence(fasta)
    assert [reference.contig(name) for name in ("chr2", "chr1", "chr2")] == [CHR2, CHR1, CHR2]


def test_contig_names_may_be_given_by_hand(fasta, tmp_path):
    names = ContigNames([Contig("chr1", len(CHR1), ())], {"first": "chr1"})
    path = write(tmp_path / "a.vcf", [("first", 1, "G", "A")])
    summary = normalise_variants([path], fasta, names, tmp_path / "out", max_length=20, max_mismatch_share=0)
    assert summary["files"][0]["contigs_mapped"] == {"first": "chr1"}


def test_what_a_vcf_or_its_index_cannot_hold_is_kept_out_of_the_records_only(normalise):
    rows = [
        ("chr1", 1, "G", "A"),
        ("chr1", 0, "N", "<DEL>"),
        ("chr1", 600_000_000, "A", "C"),
        ("a,b", 5, "A", "C"),
        ("chr1", 6, "A T", "*"),
        ("chr1", 1, "G", "<DEL;X=1>"),
    ]
    table, records, _ = normalise(rows)
    assert table["input_count"].sum() == len(rows)
    assert records[["chrom", "pos", "alts"]].to_numpy().tolist() == [["chr1", 1, "A"]]
