"""Candidate edits against genomes that are edited by hand, against the variants stage, and what refuses them."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pysam
import pytest

from seqprior import edits as module
from seqprior.base_editing import EDITORS, nearby_shapes, outcomes
from seqprior.columns import EDIT_REASON_TEXT, EDITS, NEARBY, VARIANTS, EditReason, Reason
from seqprior.consequences import annotate_consequences
from seqprior.contigs import ContigNames, contigs_of, write_contigs
from seqprior.edits import Genome, edits_schema, list_edits
from seqprior.errors import BadInput
from seqprior.genes import prepare_genes
from seqprior.reference import prepare_fasta
from seqprior.sequence import reverse_complement
from seqprior.variants import left_align, normalise_variants, scored_alleles, table_schemas

REPOSITORY = Path(__file__).resolve().parents[2]
ORDER = ["MANE_Select", "MANE_Plus_Clinical", "canonical", "longest"]
COLUMNS = ("id", "chrom", "pos", "ref", "alt", "hgvs", "editor", "strand")
OTHER = {"A": "C", "C": "G", "G": "T", "T": "A"}


class Project:
    """A reference of two contigs, a gene on the minus strand of the first, and what `list_edits` makes of edits."""

    def __init__(self, folder: Path) -> None:
        draw = random.Random(11)
        self.bases = {"chr1": "".join(draw.choices("ACGT", k=1500)), "chr2": "".join(draw.choices("AC", k=400))}
        self.bases["chr1"] = self.bases["chr1"][:700] + "A" * 12 + self.bases["chr1"][712:1200] + "N" + "ACGT" * 75
        self.folder = folder
        (folder / "in.fa").write_text(f">chr1\n{self.bases['chr1']}\n>chr2\n{self.bases['chr2'].lower()}\n")
        self.fasta, self.genes = folder / "reference.fa.gz", folder / "genes.gff3.gz"
        prepare_fasta(str(folder / "in.fa"), None, self.fasta)
        contigs = contigs_of(self.fasta)
        write_contigs(contigs, folder / "contigs.tsv")
        self.names = ContigNames(contigs, {"NC_9.1": "chr1"})
        row = "chr1\tx\t{}\t301\t390\t.\t-\t{}\t{}\n"
        (folder / "in.gff3").write_text(
            "##gff-version 3\n"
            + row.format("gene", ".", "ID=gene:G;Name=GENE;biotype=protein_coding")
            + row.format("mRNA", ".", "ID=transcript:NM_1.1;Parent=gene:G;biotype=protein_coding")
            + row.format("exon", ".", "Parent=transcript:NM_1.1")
            + row.format("CDS", "0", "Parent=transcript:NM_1.1")
        )
        prepare_genes(folder / "in.gff3", self.names, self.genes)

    def table(self, rows, name="edits.tsv") -> Path:
        """A table of rows given as mappings."""
        lines = ["\t".join(COLUMNS), *("\t".join(str(row.get(column, "")) for column in COLUMNS) for row in rows)]
        path = self.folder / name
        path.write_text("\n".join(lines) + "\n")
        return path

    def vcf(self, rows, name="edits.vcf") -> Path:
        """A VCF of (chrom, pos, id, ref, alt)."""
        header = "##fileformat=VCFv4.3\n##contig=<ID=chr1,length=1501>\n##contig=<ID=chr2,length=400>\n"
        path = self.folder / name
        path.write_text(header + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
        with path.open("a") as handle:
            handle.writelines("\t".join(map(str, row)) + "\t.\t.\t.\n" for row in rows)
        return path

    def list(self, path: Path, **options):
        """Tables of edits, variants and nearby, and the summary."""
        settings = {"genes": self.genes, "order": ORDER, "editors": EDITORS, "most_outcomes": 256, "nearby": 0}
        settings |= {"max_length": 50, "max_span": 200} | options
        summary = list_edits(path, self.fasta, self.names, self.folder, **settings)
        tables = (pd.read_parquet(self.folder / f"{name}.parquet") for name in ("edits", "variants", "nearby"))
        return *tables, summary

    def change(self, place: int, contig: str = "chr1") -> dict:
        """A substitution of the base at a place (0-based)."""
        ref = self.bases[contig][place]
        return {"chrom": contig, "pos": place + 1, "ref": ref, "alt": OTHER[ref]}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return Project(tmp_path_factory.mktemp("edits"))


def edited(bases: str, changes) -> str:
    """A contig with changes (start, ref, alt) made one by one, the last first."""
    for start, ref, alt in sorted(changes, reverse=True):
        assert bases[start : start + len(ref)] == ref
        bases = bases[:start] + alt + bases[start + len(ref) :]
    return bases


def made(project: Project, allele) -> str:
    """The contig with an allele of `variants.parquet`."""
    return edited(project.bases[allele.chrom], [(allele.pos - 1, allele.ref, allele.alt)])


def random_changes(draw, bases: str) -> list[tuple[int, str, str]]:
    """Changes as a VCF has them, apart from each other by a base or more."""
    found, place = [], draw.randint(5, 1000)
    for _ in range(draw.randint(1, 4)):
        size = draw.choice([1, 1, 1, 2, 4])
        ref = bases[place : place + size]
        alt = draw.choice(
            [OTHER[ref[0]], ref[0] + "".join(draw.choices("ACGT", k=draw.randint(1, 3))), reverse_complement(ref)]
        )
        if ref != alt:
            found.append((place, ref, alt))
        place += size + draw.randint(1, 12)
    return found


# Haplotypes --------------------------------------------------------------------------------------------------------


def test_rows_of_one_id_become_the_allele_with_all_their_changes(project):
    draw = random.Random(2)
    haplotypes = {}
    while len(haplotypes) < 120:
        if changes := random_changes(draw, project.bases["chr1"]):
            haplotypes[f"h{len(haplotypes)}"] = changes
    rows = [
        {"id": name, "chrom": draw.choice(["chr1", "NC_9.1", "1"]), "pos": start + 1, "ref": ref, "alt": alt}
        for name, changes in haplotypes.items()
        for start, ref, alt in changes
    ]
    draw.shuffle(rows)  # rows of one id may stand anywhere
    edits, variants, _, summary = project.list(project.table(rows))
    alleles = variants.set_index("variant_id")
    by_id = edits.set_index("edit_id")
    assert list(by_id.index) == list(dict.fromkeys(row["id"] for row in rows))
    for name, changes in haplotypes.items():
        expected = edited(project.bases["chr1"], changes)
        if expected == project.bases["chr1"]:
            assert by_id.loc[name, "reason"] == Reason.NO_ALTERNATE_ALLELE
            continue
        own = by_id.loc[name]
        allele = alleles.loc[own["variant_id"]]
        assert made(project, allele) == expected, name
        assert left_align(project.bases["chr1"], allele.pos - 1, allele.ref, allele.alt) == (
            *(allele.pos - 1, allele.ref, allele.alt),
        )
        steps = [step.split(" ") for step in own["changes"].split(";")]
        steps = [(int(pos) - 1, *change.split(">")) for pos, change in steps]
        assert len(steps) <= len(changes)
        if all(len(ref) == len(alt) for _, ref, alt in steps):  # else an indel has moved left for the text
            assert edited(project.bases["chr1"], steps) == expected
    assert summary["files"][0]["contigs_mapped"] == {"NC_9.1": "chr1", "1": "chr1"}


def test_a_single_change_becomes_what_the_variants_stage_makes_of_it(project, tmp_path):
    draw = random.Random(3)
    bases = project.bases["chr1"]
    records = []
    for number in range(150):
        (start, ref, alt), *_ = random_changes(draw, bases) or [(9, bases[9], OTHER[bases[9]])]
        if draw.random() < 0.2:
            ref, alt = bases[700 : 700 + draw.randint(2, 6)], "A"
            start = 700
        records.append((draw.choice(["chr1", "1"]), start + 1, f"v{number}", ref, alt))
    records += [
        ("chr1", 20, "mismatch", OTHER[bases[19]], "G" if OTHER[bases[19]] != "G" else "T"),
        ("chrZ", 20, "contig", "A", "C"),
        ("chr1", 21, "star", bases[20], "*"),
        ("chr1", 21, "symbolic", bases[20], "<DEL>"),
        ("chr1", 21, "none", bases[20], "."),
        ("chr1", 21, "letter", bases[20], "R"),
        ("chr1", 21, "long", bases[20], bases[20] + "ACGTA" * 10),
        ("chr1", 21, "fits", bases[20], bases[20] + "ACGTA" * 9 + "ACGT"),
        ("chr1", "x", "malformed", bases[20], "A"),
        ("chr1", 2000, "beyond", "A", "C"),
    ]
    edits, variants, _, summary = project.list(project.vcf(records))
    path = project.vcf(records, "same.vcf")
    normalise_variants([path], project.fasta, project.names, tmp_path, max_length=50, max_mismatch_share=1)
    theirs = pd.read_parquet(tmp_path / "variants.parquet")
    scored = theirs[theirs["status"] == "scored"]
    columns = ["variant_id", "chrom", "pos", "ref", "alt", "input_count", "status", "reason"]
    expected = scored[columns].astype({"pos": int}).reset_index(drop=True)
    pd.testing.assert_frame_equal(variants[columns], expected)
    skipped = edits[edits["status"] == "skipped"]
    reasons = theirs[theirs["status"] == "skipped"].set_index("input_id")["reason"]
    assert dict(zip(skipped["edit_id"], skipped["reason"], strict=True)) == dict(reasons)
    assert {"mismatch", "contig", "star", "symbolic", "none", "letter", "long", "malformed", "beyond"} <= {
        *reasons.index
    }
    assert summary["input_alleles"] == len(records)


def test_names_and_rows_of_one_id_are_joined(project):
    # the gene reads the minus strand: c.1 is base 390, c.4 base 387
    bases = project.bases["chr1"]
    rows = [
        {"id": "both", "hgvs": f"NM_1.1:c.1{reverse_complement(bases[389])}>{OTHER[reverse_complement(bases[389])]}"},
        {"id": "both", **project.change(386)},
        {"id": "cis", "hgvs": "GENE:c.[1_3del;7_8insGG]"},
        {"id": "same", "hgvs": "GENE:c.1="},
    ]
    edits, variants, _, _ = project.list(project.table(rows))
    alleles = variants.set_index("variant_id")
    by_id = edits.set_index("edit_id")
    expected = {
        "both": [
            (389, bases[389], reverse_complement(OTHER[reverse_complement(bases[389])])),
            (386, bases[386], OTHER[bases[386]]),
        ],
        "cis": [(387, bases[387:390], ""), (383, "", "CC")],
    }
    for name, changes in expected.items():
        assert made(project, alleles.loc[by_id.loc[name, "variant_id"]]) == edited(bases, changes)
    assert by_id.loc["both", "given"] == f"{rows[0]['hgvs']}; chr1:387 {bases[386]}>{OTHER[bases[386]]}"
    assert by_id.loc["same", "reason"] == Reason.NO_ALTERNATE_ALLELE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([(100, 1, "+"), (100, 1, "-")], EditReason.CHANGES_OVERLAP),
        ([(100, 4, ""), (102, 1, "+")], EditReason.CHANGES_OVERLAP),
        ([(100, 4, ""), (102, 0, "AC")], EditReason.CHANGES_OVERLAP),
        ([(100, 0, "AC"), (100, 0, "GT")], EditReason.CHANGES_OVERLAP),
        ([(100, 9, ""), (101, 1, "+"), (200, 1, "+")], EditReason.CHANGES_OVERLAP),
        ([(100, 4, ""), (104, 1, "+")], ""),
        ([(100, 4, ""), (104, 0, "AC")], ""),
        ([(100, 0, "AC"), (100, 4, "")], ""),
        ([(100, 1, "+"), (100, 1, "+")], ""),
        ([(100, 1, "+"), (299, 1, "+")], ""),
        ([(100, 1, "+"), (300, 1, "+")], EditReason.CHANGES_TOO_FAR_APART),
        ([(1199, 1, "+"), (1201, 1, "+")], Reason.AMBIGUOUS_BASE),
    ],
)
def test_changes_that_cannot_be_one_allele_have_a_reason(project, changes, reason):
    """Changes are (start, bases that go, what comes); '+' and '-' are two other bases than the one there."""
    bases, rows, steps = project.bases["chr1"], [], set()
    for start, size, new in changes:
        ref = bases[start : start + size]
        if new in ("+", "-"):
            new = OTHER[ref] if new == "+" else OTHER[OTHER[ref]]
        anchor = bases[start - 1] if not (ref and new) else ""
        rows.append(
            {"id": "e", "chrom": "chr1", "pos": start + 1 - len(anchor), "ref": anchor + ref, "alt": anchor + new}
        )
        steps.add((start, ref, new))
    edits, variants, _, _ = project.list(project.table(rows))
    assert list(edits["reason"]) == [reason]
    assert list(edits["status"]) == ["skipped" if reason else "scored"]
    if not reason:
        assert made(project, variants.iloc[0]) == edited(bases, steps)


def test_changes_on_two_contigs_are_no_haplotype(project):
    rows = [{"id": "e", **project.change(50)}, {"id": "e", **project.change(50, "chr2")}]
    edits, variants, _, _ = project.list(project.table(rows))
    assert list(edits["reason"]) == [EditReason.SEVERAL_CONTIGS] and len(variants) == 0


def test_one_bad_row_skips_its_edit_and_no_other(project, caplog):
    good = [{"id": f"good{n}", **project.change(50 + n)} for n in range(3)]
    bad = [
        {"id": "half", **project.change(60)},
        {"id": "half", **project.change(62), "ref": "N"},
        {"id": "comma", **project.change(60), "pos": "1,200"},
        {"id": "zero", **project.change(60), "pos": "0"},
        {"id": "huge", **project.change(60), "pos": "9" * 5000},
        {"id": "dash", **project.change(60), "alt": "-"},
        {"id": "empty", "chrom": "chr1", "pos": 5},
    ]
    edits, variants, _, summary = project.list(project.table([good[0], *bad, *good[1:]]))
    reasons = dict(zip(edits["edit_id"], edits["reason"], strict=True))
    assert reasons == {
        **dict.fromkeys(("good0", "good1", "good2"), ""),
        **dict.fromkeys(("comma", "zero", "huge", "dash", "empty"), Reason.MALFORMED_RECORD),
        "half": Reason.AMBIGUOUS_BASE,
    }
    assert len(variants) == 3 and set(edits["variant_id"]) == {"", *variants["variant_id"]}
    assert [row["input"] for row in summary["by_status_reason"]] == [3, 1, 5]
    assert "edits.tsv, line 3: edit 'half' is skipped, ambiguous_base" in caplog.text
    assert list(edits["line"]) == [2, 3, 5, 6, 7, 8, 9, 10, 11]


# Files -------------------------------------------------------------------------------------------------------------


def test_a_vcf_names_its_edits(project, tmp_path):
    bases = project.bases["chr1"]
    two = "".join(sorted(set("ACGT") - {bases[29]}))[:2]
    records = [
        ("chr1", 11, ".", bases[10], OTHER[bases[10]]),
        ("chr1", 21, "pair", bases[20], OTHER[bases[20]]),
        ("chr1", 30, "multi", bases[29], ",".join(two)),
        ("chr1", 25, "pair", bases[24], OTHER[bases[24]]),
        ("chr1", 35, "clash", bases[34], ",".join(sorted(set("ACGT") - {bases[34]})[:2])),
        ("chr1", 36, "clash", bases[35], OTHER[bases[35]]),
    ]
    path = project.vcf(records)
    edits, _, _, summary = project.list(path)
    assert list(edits["edit_id"]) == [f"chr1-11-{bases[10]}-{OTHER[bases[10]]}", "pair", "multi/1", "multi/2", "clash"]
    assert list(edits["variant_id"][2:4]) == [f"chr1-30-{bases[29]}-{alt}" for alt in two]
    assert edits["changes"][1].count(";") == 1 and edits["reason"][4] == EditReason.CHANGES_OVERLAP
    assert summary["files"][0]["records"] == 6 and summary["input_alleles"] == 5
    with (
        pysam.VariantFile(str(path)) as text,
        pysam.VariantFile(str(tmp_path / "e.bcf"), "wb", header=text.header) as bcf,
    ):
        for record in text:
            bcf.write(record)
    again, *_ = project.list(tmp_path / "e.bcf")
    pd.testing.assert_frame_equal(again.drop(columns="line"), edits.drop(columns="line"))


def test_a_table_needs_only_the_columns_it_uses(project, tmp_path):
    expected, *_ = project.list(project.table([{"id": "e", **project.change(50)}]))
    ref = project.bases["chr1"][50]
    lines = f"#ID\tNote\tPos\tChrom\tAlt\tRef\r\ne\tmine\t51\tchr1\t{OTHER[ref].lower()}\t{ref.lower()}\r\n\r\n"
    with gzip.open(tmp_path / "e.tsv.gz", "wt", newline="") as handle:
        handle.write(lines)
    found, *_ = project.list(tmp_path / "e.tsv.gz")
    pd.testing.assert_frame_equal(found.drop(columns="given"), expected.drop(columns="given"))
    (tmp_path / "names.tsv").write_text(f"id\thgvs\ne\tchr1:g.51{ref}>{OTHER[ref]}\n")
    found, *_ = project.list(tmp_path / "names.tsv")
    pd.testing.assert_frame_equal(found.drop(columns="given"), expected.drop(columns="given"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("id\tchrom\tpos\tref\n", ", line 1: found the columns id, chrom, pos, ref; expected id with chrom"),
        ("chrom\tpos\tref\talt\n", ", line 1: found the columns chrom, pos, ref, alt; expected id with"),
        ("id,chrom,pos,ref,alt\n", ", line 1: found the columns id,chrom,pos,ref,alt; expected"),
        ("id\thgvs\thgvs\n", ", line 1: found the columns id, hgvs, hgvs; expected"),
        ("\n", ", line 1: found the columns ; expected"),
        ("id\thgvs\n\n", ": found no edit below the header"),
        ("id\thgvs\n\tchr1:g.5del\n", ", line 2: the id is empty"),
        ("id\thgvs\ne\tchr1:g.5del\tmore\n", ", line 2: found 3 cells, expected at most 2"),
        ("id\thgvs\teditor\nf\tchr1:g.5del\ne\tchr1:g.5del\tBE3\n", ", line 3: the edit 'e' is described in two ways"),
        (
            "id\tchrom\tpos\teditor\ne\tchr1\t5\tBE9\n",
            ", line 2: no base editor 'BE9' is known; expected one of ABE7.10",
        ),
        (
            "id\tchrom\tpos\teditor\tstrand\ne\tchr1\t5\tBE3\tplus\n",
            ", line 2: found the strand 'plus', expected + or -",
        ),
        ("id\thgvs\ne\tchr1:g.5_3del\n", ", line 2: 'chr1:g.5_3del' cannot be read as HGVS"),
        (
            "id\tchrom\tpos\tref\talt\thgvs\ne\tchrZ\t5\tA\tC\ne\t\t\t\t\tchr1:g.0del\n",
            ", line 3: 'chr1:g.0del' cannot be",
        ),
        ("id\thgvs\ne\tNM_1.2:c.5del\n", ", line 2: 'NM_1.2:c.5del' names NM_1.2, and the gene models have NM_1.1"),
    ],
)
def test_a_table_that_says_nothing_certain_is_refused(project, tmp_path, text, sentence):
    path = tmp_path / "e.tsv"
    path.write_text(text)
    with pytest.raises(BadInput) as refusal:
        project.list(path)
    assert str(refusal.value).startswith(f"{path}{sentence}") and "\n" not in str(refusal.value)
    assert not list(project.folder.glob(".partial*"))


def test_a_base_editor_has_an_id_of_its_own(project):
    editor = {"chrom": "chr1", "pos": 5, "editor": "BE3"}
    with pytest.raises(BadInput, match="line 3: the id 'e' stands on line 2 too, and one of them names a base editor"):
        project.list(project.table([{"id": "e", **editor}, {"id": "e", **project.change(50)}]))


# Base editors ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def target(project) -> int:
    """A place that guides of both strands may not reach, but several outcomes of ABE8e do."""

    def fetch(chrom, start, end):
        return project.bases[chrom][start:end]

    places = (n for n in range(100, 1000) if len(outcomes(fetch, "chr1", n, EDITORS["SpRY-ABE8e"])) > 6)
    return next(places)


def test_every_outcome_of_an_editor_is_an_edit(project, target):
    def fetch(chrom, start, end):
        return project.bases[chrom][start:end]

    expected = outcomes(fetch, "chr1", target, EDITORS["SpRY-ABE8e"])
    row = {"id": "t", "chrom": "1", "pos": target + 1, "editor": "SpRY-ABE8e"}
    edits, variants, _, _ = project.list(project.table([{"id": "other", **project.change(50)}, row]))
    rows = edits[edits["editor"] != ""]
    alleles = variants.set_index("variant_id")
    assert list(rows["edit_id"]) == [f"t/{n}" for n in range(1, len(expected) + 1)]
    for own, outcome in zip(rows.itertuples(), expected, strict=True):
        assert made(project, alleles.loc[own.variant_id]) == edited(project.bases["chr1"], outcome.changes)
        assert (own.guide, own.pam, own.guide_strand) == (outcome.guide, outcome.pam, outcome.strand)
        assert (own.guide_start, own.guide_end) == (outcome.start, outcome.end)
        assert own.edited_in_guide == ",".join(map(str, outcome.edited))
        assert (own.target_in_guide, own.bystanders) == (outcome.target_number, outcome.bystanders)
        assert own.given == f"1:{target + 1} SpRY-ABE8e" and own.line == 3
        assert own.changes == ";".join(f"{start + 1} {ref}>{alt}" for start, ref, alt in outcome.changes)
    assert edits.loc[0, ["guide_start", "bystanders"]].isna().all()
    fewer, *_ = project.list(project.table([row]), most_outcomes=1)
    assert len(fewer) == len({(outcome.start, outcome.strand) for outcome in expected})


def test_a_strand_leaves_the_guides_of_the_other_out(project, target):
    row = {"id": "t", "chrom": "chr1", "pos": target + 1, "editor": "SpRY-ABE8e"}
    both, *_ = project.list(project.table([row]))
    strand = both["guide_strand"][0]
    one, *_ = project.list(project.table([{**row, "strand": strand}]))
    assert set(one["guide_strand"]) == {strand} and len(one) == (both["guide_strand"] == strand).sum()
    none, variants, _, _ = project.list(project.table([{**row, "strand": "-" if strand == "+" else "+"}]))
    assert list(none["reason"]) == [EditReason.NO_GUIDE] and list(none["edit_id"]) == ["t"] and len(variants) == 0


def test_a_target_that_no_guide_reaches_says_why(project, caplog):
    place = project.bases["chr1"].index("A", 100)
    rows = [
        {"id": "wrong", "chrom": "chr1", "pos": place + 1, "editor": "BE3"},
        {"id": "beyond", "chrom": "chr1", "pos": 5000, "editor": "BE3"},
        {"id": "nowhere", "chrom": "chrZ", "pos": 50, "editor": "BE3"},
        {"id": "malformed", "chrom": "chr1", "pos": "?", "editor": "BE3"},
    ]
    edits, *_ = project.list(project.table(rows))
    no_guide = EditReason.NO_GUIDE
    assert list(edits["reason"]) == [no_guide, no_guide, Reason.CONTIG_NOT_IN_REFERENCE, Reason.MALFORMED_RECORD]
    assert f"chr1:{place + 1} BE3: the reference has A there, and BE3 changes C or G" in caplog.text


def test_an_id_like_that_of_an_outcome_is_refused(project, target):
    rows = [
        {"id": "t", "chrom": "chr1", "pos": target + 1, "editor": "SpRY-ABE8e"},
        {"id": "t/2", **project.change(50)},
    ]
    with pytest.raises(BadInput, match="line 3: the id 't/2' is also that of an edit that comes from 't'"):
        project.list(project.table(rows))


# What is written ---------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(project, target) -> Path:
    """Edits of every kind; two share an allele, and two are not in the order of the genome."""
    bases = project.bases["chr1"]
    unmoved = next(n for n in range(63, 200) if left_align(bases, n, bases[n : n + 2], "")[0] == n - 1)
    rows = [
        {"id": "late", **project.change(900)},
        {"id": "other", **project.change(50, "chr2")},
        {"id": "snv", **project.change(60)},
        {"id": "again", **project.change(60)},
        {"id": "near", **project.change(62)},
        {"id": "both", **project.change(60)},
        {"id": "both", **project.change(66)},
        {"id": "kinds", **project.change(60)},
        {"id": "kinds", "hgvs": f"chr1:g.{unmoved + 1}_{unmoved + 2}del"},
        {"id": "del", "hgvs": "GENE:c.10_12del"},
        {"id": "ins", "hgvs": "chr1:g.704_705insAA"},
        {"id": "t", "chrom": "chr1", "pos": target + 1, "editor": "SpRY-ABE8e"},
        {"id": "bad", "chrom": "chrZ", "pos": 5, "ref": "A", "alt": "C"},
    ]
    return project.table(rows, "mixed.tsv")


def test_alleles_nearby_are_those_of_the_edits_shape(project, mixed):
    edits, variants, nearby, summary = project.list(mixed, nearby=15)

    def fetch(chrom, start, end):
        return project.bases[chrom][start:end]

    alleles = variants.set_index("variant_id")
    assert list(nearby.columns) == list(NEARBY) and not nearby.duplicated().any()
    scored = edits[edits["status"] == "scored"].drop_duplicates("variant_id")
    expected = set()
    for own in scored.itertuples():
        allele = alleles.loc[own.variant_id]
        steps = [step.split(" ") for step in own.changes.split(";")]
        steps = [(int(pos) - 1, *change.split(">")) for pos, change in steps]
        place = (int(allele.pos) - 1, allele.ref, allele.alt)
        for start, ref, alt in nearby_shapes(fetch, allele.chrom, place, 15, steps if len(steps) > 1 else None):
            expected.add((own.variant_id, f"{allele.chrom}-{start + 1}-{ref}-{alt}"))
    assert set(nearby.itertuples(index=False, name=None)) == {pair for pair in expected if pair[0] != pair[1]}
    assert set(variants["variant_id"]) == {*scored["variant_id"], *nearby["variant_id"]}
    assert summary["nearby_alleles"] == len(variants) - len(scored)
    for allele in variants.itertuples():
        assert project.bases[allele.chrom][allele.pos - 1 :].startswith(allele.ref)
    counts = variants.set_index("variant_id")["input_count"]
    assert dict(counts[counts > 0]) == dict(edits[edits["variant_id"] != ""]["variant_id"].value_counts())
    # an edit's own row is kept where it is also near another edit
    near = edits.set_index("edit_id").loc["near", "variant_id"]
    assert near in set(nearby["variant_id"]) and alleles.loc[near, "input_id"] == "near"


def test_tables_are_as_the_stages_behind_expect_them(project, mixed):
    edits, variants, _, summary = project.list(mixed, nearby=5)
    assert pq.read_schema(project.folder / "variants.parquet").equals(table_schemas()[0], check_metadata=False)
    assert pq.read_schema(project.folder / "edits.parquet").equals(edits_schema(), check_metadata=False)
    assert tuple(edits) == EDITS and tuple(variants) == VARIANTS
    assert variants["variant_id"].is_unique
    order = variants.assign(contig=variants["chrom"].map({"chr1": 0, "chr2": 1}))
    expected = order.sort_values(["contig", "pos", "ref", "alt"], kind="stable")["variant_id"]
    assert list(variants["variant_id"]) == list(expected)
    assert sum(row["input"] for row in summary["by_status_reason"]) == summary["input_alleles"] == len(edits)
    assert sum(row["unique"] for row in summary["by_status_reason"]) == summary["unique_alleles"]
    scored = edits[edits["status"] == "scored"]
    assert summary["merged_equivalent"] == len(scored) - scored["variant_id"].nunique() > 0


def test_consequences_of_edits_are_called(project, mixed, tmp_path):
    edits, variants, _, summary = project.list(mixed, nearby=5)
    fields = {file["path"]: file["annotations"] for file in summary["files"]}
    path = project.folder / "variants.parquet"
    annotate_consequences(path, project.fasta, project.genes, fields, "csq", tmp_path / "c.parquet")
    found = pd.read_parquet(tmp_path / "c.parquet").set_index("variant_id")
    assert set(found.index) == set(variants["variant_id"])
    deletion = edits.set_index("edit_id").loc["del", "variant_id"]
    assert found.loc[deletion, "gene"] == "GENE" and "intergenic" not in found.loc[deletion, "consequence"]
    assert sum(map(len, scored_alleles(path, ("variant_id",)))) == len(variants)


def test_the_same_edits_give_the_same_bytes_however_they_are_blocked(project, mixed, monkeypatch):
    def digests(**options):
        project.list(mixed, **options)
        return [(project.folder / f"{name}.parquet").read_bytes() for name in ("edits", "variants", "nearby")]

    whole = digests(nearby=10)
    assert digests(nearby=10) == whole
    tables = project.list(mixed, nearby=10)
    monkeypatch.setattr(module, "BLOCK", 7)
    monkeypatch.setattr(module, "BLOCKS", 3)
    monkeypatch.setattr("seqprior.files.ROWS", 3)
    for small, large in zip(project.list(mixed, nearby=10)[:3], tables[:3], strict=True):
        pd.testing.assert_frame_equal(small, large)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_bases_are_read_in_blocks_as_from_a_string(project, monkeypatch, block):
    monkeypatch.setattr(module, "BLOCK", block)
    genome, draw = Genome(project.fasta), random.Random(4)
    for _ in range(200):
        start = draw.randint(0, 1600)
        end = start + draw.randint(-2, 90)
        assert genome.fetch("chr1", start, end) == project.bases["chr1"][start : max(end, 0)]
    assert genome.contig("chr2")[7] == project.bases["chr2"][7]


def test_every_reason_has_a_sentence_and_none_is_of_the_common_list():
    assert set(EDIT_REASON_TEXT) == set(EditReason) and not {*map(str, EditReason)} & {*map(str, Reason)}


# The script --------------------------------------------------------------------------------------------------------


def run(project: Project, edits: Path, output: Path, *options: str) -> subprocess.CompletedProcess:
    command = [
        *(sys.executable, REPOSITORY / "scripts" / "list_edits.py", "--edits", edits, "--fasta", project.fasta),
        *("--contigs", project.folder / "contigs.tsv", "--aliases", '{"NC_9.1": "chr1"}', "--max-allele-length", "50"),
        *("--output", output, "--summary", output / "variants.json", *options),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_script_writes_what_the_library_does(project, mixed, tmp_path):
    edits, variants, nearby, summary = project.list(mixed, nearby=25)
    done = run(project, mixed, tmp_path, "--genes", str(project.genes))
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "variants.json").read_text()) == summary
    for name, table in (("edits", edits), ("variants", variants), ("nearby", nearby)):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet"), table)
    windows = [
        *(sys.executable, REPOSITORY / "scripts" / "extract_windows.py", "--variants", tmp_path / "variants.parquet"),
        *("--fasta", project.fasta, "--registry", REPOSITORY / "config" / "models.yaml", "--model", "yeast-mini"),
        *("--max-unknown-share", "0.5", "--shards", tmp_path / "0000"),
    ]
    subprocess.run(windows, check=True, capture_output=True)
    alleles = pd.read_parquet(tmp_path / "0000" / "alleles.parquet")
    assert list(alleles["variant_id"]) == list(variants["variant_id"])
    assert set(alleles["status"]) == {"scored"}


def test_the_script_takes_editors_of_the_config_and_refuses_in_one_sentence(project, target, tmp_path):
    row = {"id": "t", "chrom": "chr1", "pos": target + 1, "editor": "mine"}
    path = project.table([row], "mine.tsv")
    refused = run(project, path, tmp_path, "--genes")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert f"{path}, line 2: no base editor 'mine' is known" in refused.stderr
    editor = {"mine": {"change": "A>G", "pam": "NNN"}}
    done = run(project, path, tmp_path, "--genes", "--editors", json.dumps(editor), "--nearby", "0")
    assert done.returncode == 0, done.stderr
    edits = pd.read_parquet(tmp_path / "edits.parquet")
    assert set(edits["editor"]) == {"mine"} and len(edits) > 6


def test_edits_without_any_allele_leave_empty_tables(project, tmp_path):
    path = project.table([{"id": "bad", "chrom": "chrZ", "pos": 5, "ref": "A", "alt": "C"}])
    assert run(project, path, tmp_path).returncode == 0
    assert len(pd.read_parquet(tmp_path / "variants.parquet")) == len(pd.read_parquet(tmp_path / "nearby.parquet")) == 0
    edits = pd.read_parquet(tmp_path / "edits.parquet")
    assert list(edits["status"]) == ["skipped"] and list(edits["variant_id"]) == [""]
