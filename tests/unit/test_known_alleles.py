"""The table of well-known yeast alleles against the reference genome and annotation it is used with."""

from __future__ import annotations

import csv
import gzip
import re
from functools import cache
from pathlib import Path

import pytest

DEMO = Path(__file__).resolve().parents[2] / "resources" / "demo"
TABLE = DEMO / "known_alleles.tsv"
COLUMNS = ["name", "gene", "chrom", "pos", "ref", "alt", "protein_change", "phenotype", "kind", "reference", "evidence"]
AMINO_ACIDS = "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG"  # codons in TCAG order
CODON_TABLE = dict(zip((a + b + c for a in "TCAG" for b in "TCAG" for c in "TCAG"), AMINO_ACIDS, strict=True))
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def read_table() -> list[dict[str, str]]:
    with TABLE.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table, delimiter="\t", quoting=csv.QUOTE_NONE))


ALLELES = read_table()
every_allele = pytest.mark.parametrize("allele", ALLELES, ids=lambda allele: f"{allele['gene']}_{allele['name']}")


@cache
def chromosomes() -> dict[str, str]:
    with gzip.open(DEMO / "S288C.fa.gz", "rt", encoding="ascii") as reference:  # no index is written beside the data
        records = [record.partition("\n") for record in reference.read().split(">")[1:]]
    return {header.split()[0]: sequence.replace("\n", "").upper() for header, _, sequence in records}


@cache
def coding_segments() -> dict[str, list[tuple[str, int, int, str, str]]]:
    """Gene name to its CDS lines as (contig, start, end, strand, phase), 0-based half-open, in genome order."""
    gene_of_transcript, name_of_gene, segments = {}, {}, {}
    with gzip.open(DEMO / "S288C.gff3.gz", "rt", encoding="utf-8") as annotation:
        for line in annotation:
            if line.startswith("#") or not line.strip():
                continue
            contig, _, kind, start, end, _, strand, phase, attributes = line.rstrip("\n").split("\t")
            fields = dict(field.split("=", 1) for field in attributes.split(";") if "=" in field)
            if kind == "gene":
                name_of_gene[fields["ID"]] = fields.get("Name", fields["ID"])
            elif kind == "CDS":
                segments.setdefault(fields["Parent"], []).append((contig, int(start) - 1, int(end), strand, phase))
            elif "ID" in fields and "Parent" in fields:
                gene_of_transcript[fields["ID"]] = fields["Parent"]
    return {name_of_gene.get(gene_of_transcript.get(parent)): sorted(found) for parent, found in segments.items()}


def translate(coding: str) -> str:
    return "".join(CODON_TABLE[coding[i : i + 3]] for i in range(0, len(coding) - len(coding) % 3, 3))


def proteins(allele: dict[str, str]) -> tuple[str, str]:
    """Translation of the gene without and with the allele, reading through stops."""
    segments = coding_segments()[allele["gene"]]
    strand, first = segments[0][3], segments[0] if segments[0][3] == "+" else segments[-1]
    assert {segment[0] for segment in segments} == {allele["chrom"]} and first[4] == "0"
    start, end = int(allele["pos"]) - 1, int(allele["pos"]) - 1 + len(allele["ref"])
    genome, spliced, changed = chromosomes()[allele["chrom"]], "", ""
    for _, left, right, *_ in segments:
        spliced += genome[left:right]
        inside = left <= start and end <= right
        changed += genome[left:start] + allele["alt"] + genome[end:right] if inside else genome[left:right]
    if strand == "-":
        spliced, changed = spliced.translate(COMPLEMENT)[::-1], changed.translate(COMPLEMENT)[::-1]
    return translate(spliced), translate(changed)


def protein_change(allele: dict[str, str]) -> str:
    reference, changed = proteins(allele)
    differing = [i for i, (old, new) in enumerate(zip(reference, changed, strict=False)) if old != new]
    assert differing, "the allele does not change the protein"
    where = f"{reference[differing[0]]}{differing[0] + 1}"
    if (len(allele["ref"]) - len(allele["alt"])) % 3:
        return f"{where}fs"
    assert len(differing) == 1 and len(reference) == len(changed)
    return where + changed[differing[0]]


def test_table_has_the_documented_columns_and_enough_alleles():
    assert TABLE.read_text(encoding="utf-8").splitlines()[0].split("\t") == COLUMNS
    assert len(ALLELES) >= 15


def test_no_allele_is_listed_twice():
    variants = [(allele["chrom"], allele["pos"], allele["ref"], allele["alt"]) for allele in ALLELES]
    assert len(set(variants)) == len(variants)
    assert len({allele["name"] for allele in ALLELES}) == len(ALLELES)


@every_allele
def test_every_cell_is_filled_and_the_reference_can_be_looked_up(allele):
    assert list(allele) == COLUMNS and all(value and value == value.strip() for value in allele.values())
    assert allele["kind"] in {"natural", "laboratory"}
    assert re.search(r"\b(19|20)\d\d\b", allele["reference"])
    assert re.search(r"PMID \d+|DOI 10\.\d{4,9}/\S+", allele["reference"])


@every_allele
def test_ref_is_the_reference_sequence_and_indels_are_left_aligned(allele):
    start, ref, alt = int(allele["pos"]) - 1, allele["ref"], allele["alt"]
    assert chromosomes()[allele["chrom"]][start : start + len(ref)] == ref != alt
    assert set(ref + alt) <= set("ACGT")
    if len(ref) != len(alt):
        assert ref[0] == alt[0] and ref[-1] != alt[-1] and min(len(ref), len(alt)) == 1


@pytest.mark.parametrize(
    "allele",
    [allele for allele in ALLELES if allele["protein_change"] != "-"],
    ids=lambda allele: f"{allele['gene']}_{allele['protein_change']}",
)
def test_the_base_change_gives_the_stated_protein_change(allele):
    assert protein_change(allele) == allele["protein_change"]
