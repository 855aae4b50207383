from collections import Counter

import pysam
import pytest

from seqprior.contigs import (
    CHROMOSOMES,
    Contig,
    ContigNames,
    aliases_of,
    contigs_of,
    read_contigs,
    spellings,
    write_contigs,
)
from seqprior.errors import BadInput


def names_of(*contigs: tuple[str, int], extra=None) -> ContigNames:
    return ContigNames([Contig(name, length, aliases_of(name, length)) for name, length in contigs], extra)


@pytest.mark.parametrize(
    ("reference", "length", "alias"),
    [
        ("20", 63025520, "chr20"),
        ("chr20", 63025520, "20"),
        ("chr20", 63025520, "NC_000020.10"),
        ("chr20", 64444167, "NC_000020.11"),
        ("1", 248956422, "CM000663.2"),
        ("chr1", 248387328, "NC_060925.1"),
        ("chr1", 248387328, "CP068277.2"),
        ("NC_000020.11", 64444167, "chr20"),
        ("NC_000020.11", 64444167, "20"),
        ("chrM", 16569, "NC_012920.1"),
        ("chrM", 16569, "MT"),
        ("MT", 16569, "chrM"),
        ("chrIV", 1531933, "IV"),
        ("IV", 1531933, "chrIV"),
        ("chrIV", 1531933, "NC_001136.10"),
        ("chrXIV", 784333, "BK006947.3"),
        ("chrM", 85779, "NC_001224.1"),
        ("chrM", 85779, "Mito"),
        ("chr1", 195471971, "NC_000067.6"),
        ("chr1", 195154279, "NC_000067.7"),
        ("2L", 23513712, "chr2L"),
    ],
)
def test_alias_resolves_to_the_references_own_name(reference, length, alias):
    assert names_of((reference, length)).resolve(alias) == reference


@pytest.mark.parametrize(
    ("reference", "length", "name"),
    [
        ("chr20", 64444167, "NC_000020.10"),  # GRCh37 accession, GRCh38 sequence
        ("chr20", 63025520, "NC_000020.11"),
        ("chr20", 1000, "NC_000020.11"),
        ("chrM", 16571, "NC_012920.1"),  # hg19's chrM is not the rCRS
        ("chrM", 16569, "NC_001807.4"),
        ("Un_gl000220", 161802, "chrUn_gl000220"),
        ("scaffold1", 5, "chrscaffold1"),
        ("chr20", 63025520, "21"),
    ],
)
def test_unknown_or_foreign_name_is_not_guessed(reference, length, name):
    assert names_of((reference, length)).resolve(name) is None


def test_own_name_comes_before_alias():
    names = names_of(("20", 10), ("chr20", 20))
    assert (names.resolve("20"), names.resolve("chr20")) == ("20", "chr20")


def test_alias_shared_by_two_contigs_stands_for_neither():
    names = ContigNames([Contig("a", 1, ("x",)), Contig("b", 1, ("x",)), Contig("c", 1, ("x",))])
    assert names.resolve("x") is None


def test_other_length_is_not_mapped_and_reported_as_conflict():
    names = names_of(("MT", 16569))
    assert names.resolve("chrM") == names.resolve("chrM", 16569) == "MT"
    assert names.resolve("chrM", 16571) is None
    assert names.length_conflict("chrM", 16571) == names.contigs["MT"]
    assert names.length_conflict("chrM", 16569) is None
    assert names.length_conflict("chr7", 5) is None


def test_extra_alias_comes_before_known_alias():
    names = names_of(("1", 10), ("mine", 20), extra={"chr1": "mine"})
    assert names.resolve("chr1") == "mine"


def test_extra_alias_to_an_unknown_contig_is_an_error():
    with pytest.raises(BadInput) as error:
        names_of(("1", 10), extra={"one": "chrOne"})
    assert str(error.value) == (
        "contig alias 'one': the reference has no contig 'chrOne'; expected one of 1, ...; "
        "correct the alias in the config"
    )


def test_every_roman_numeral_up_to_thirty_has_two_spellings():
    units, tens = ["", *["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX"]], ["", "X", "XX"]
    romans = [ten + unit for ten in tens for unit in units if ten + unit]
    assert all(spellings(f"chr{roman}") == (f"chr{roman}", roman) for roman in romans)


def test_accession_table_names_each_sequence_once():
    rows = [line.split() for line in CHROMOSOMES.splitlines() if line and not line.startswith("#")]
    assert max(Counter(accession for row in rows for accession in row[2:]).values()) == 1
    assert max(Counter((row[0], row[1]) for row in rows).values()) == 1


def test_contig_table_round_trip(tmp_path):
    fasta = tmp_path / "x.fa"
    fasta.write_text(f">chr2 two\n{'A' * 7}\n>chrUn_1\nACGT\n>MT\nAC\n")
    pysam.faidx(str(fasta))
    contigs = contigs_of(fasta)
    assert [(c.name, c.length) for c in contigs] == [("chr2", 7), ("chrUn_1", 4), ("MT", 2)]
    assert contigs[0].aliases == ("2",)
    assert contigs[1].aliases == ()
    write_contigs(contigs, tmp_path / "contigs.tsv")
    assert (tmp_path / "contigs.tsv").read_text().startswith("contig\tlength\taliases\nchr2\t7\t2\nchrUn_1\t4\t\n")
    assert read_contigs(tmp_path / "contigs.tsv") == contigs


def test_malformed_contig_table_names_the_line(tmp_path):
    table = tmp_path / "contigs.tsv"
    table.write_text("contig\tlength\taliases\nchr1\tlong\t1\n")
    with pytest.raises(BadInput) as error:
        read_contigs(table)
    assert str(error.value) == (
        f"{table}, line 2: found 'chr1\tlong\t1', expected a contig, its length and its aliases separated by tabs; "
        "make the table with prepare_reference.py"
    )
    table.write_text("name\tsize\n")
    with pytest.raises(BadInput) as error:
        read_contigs(table)
    assert str(error.value) == (
        f"{table}, line 1: found the header 'name\tsize', expected 'contig', 'length' and 'aliases' separated by "
        "tabs; make the table with prepare_reference.py"
    )


def test_real_yeast_chromosomes_have_the_lengths_of_their_accessions(shared_data):
    lengths = Counter()
    with pysam.FastxFile(str(shared_data / "yeast" / "sacCer3.fa.gz")) as records:
        for record in records:
            lengths[record.name] = len(record.sequence)
    assert len(lengths) == 17
    assert all(any(a.startswith("NC_") for a in aliases_of(name, length)) for name, length in lengths.items())


def test_numbered_yeast_chromosomes_are_known_by_their_length():
    names = ContigNames([Contig("chrXIV", 784333, aliases_of("chrXIV", 784333))])
    assert names.resolve("chr14") == "chrXIV"
    assert ContigNames([Contig("chrXIV", 1000, aliases_of("chrXIV", 1000))]).resolve("chr14") is None
