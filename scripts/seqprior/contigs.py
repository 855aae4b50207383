"""Contig names and lengths of the reference, and the other names under which files may know its contigs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from seqprior.errors import BadInput
from seqprior.files import open_text, require_file, written_whole

# What the VCF specification (4.3, section 1.4.7) allows as a contig's name.
CONTIG_NAME = re.compile(r"[0-9A-Za-z!#$%&+./:;?@^_|~-][0-9A-Za-z!#$%&*+./:;=?@^_|~-]*\Z")

MITOCHONDRION = ("chrM", "MT", "M", "chrMT", "Mito", "chrMito", "chrmt")

# Only names of these shapes have a spelling with and one without `chr`: numbers with an arm or fusion letter (2L, 2A),
# sex chromosomes, Roman numerals. `chrUn_gl000220` is thus never taken for `Un_gl000220`.
_CHROMOSOME = re.compile(r"\d{1,2}[ABLR]?|[WXYZ]|X{0,2}(?:IX|IV|V?I{1,3}|V|X)")


@dataclass(frozen=True)
class Contig:
    """One reference sequence; `length` in bases; `aliases` exclude its own name."""

    name: str
    length: int
    aliases: tuple[str, ...]


def spellings(name: str) -> tuple[str, ...]:
    """`name` in the styles of UCSC and Ensembl, itself included; only itself if it has no known other style."""
    if name in MITOCHONDRION:
        return MITOCHONDRION
    bare = name.removeprefix("chr")
    return (f"chr{bare}", bare) if _CHROMOSOME.fullmatch(bare) else (name,)


@cache
def _known_names() -> dict[tuple[str, int], tuple[str, ...]]:
    """(any name, length) -> every name of that chromosome. The length tells assemblies apart."""
    names: dict[tuple[str, int], tuple[str, ...]] = {}
    for line in CHROMOSOMES.split("\n"):
        if line and not line.startswith("#"):
            chromosome, length, *accessions = line.split()
            group = (*spellings(chromosome), *accessions)
            names |= {(name, int(length)): group for name in group}
    return names


def aliases_of(name: str, length: int) -> tuple[str, ...]:
    """Other names of a contig: spellings, and accessions where its length is the one known for them."""
    names = _known_names().get((name, length), spellings(name))
    return tuple(alias for alias in names if alias != name)


def contigs_of(fasta: Path) -> list[Contig]:
    """Contigs of an indexed FASTA, in file order."""
    import pysam

    with pysam.FastaFile(str(fasta)) as reference:
        sizes = zip(reference.references, reference.lengths, strict=True)
        return [Contig(name, length, aliases_of(name, length)) for name, length in sizes]


def write_contigs(contigs: Iterable[Contig], path: Path) -> None:
    """TSV with columns contig, length, aliases (joined by commas)."""
    with written_whole(path) as partial, partial.open("w", encoding="utf-8") as table:
        print("contig", "length", "aliases", sep="\t", file=table)
        for contig in contigs:
            print(contig.name, contig.length, ",".join(contig.aliases), sep="\t", file=table)


def read_contigs(path: Path) -> list[Contig]:
    """Read the table that `write_contigs` writes.

    Raises:
        BadInput: no such file, another header, or a row that does not fit.
    """
    require_file(path, "contig table")
    contigs = []
    with open_text(path) as lines:
        header = next(lines).rstrip("\r\n")
        if header.split("\t") != ["contig", "length", "aliases"]:
            raise BadInput(
                f"{path}, line 1: found the header '{header}', expected 'contig', 'length' and 'aliases' "
                "separated by tabs; make the table with prepare_reference.py"
            )
        for number, line in enumerate(lines, start=2):
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) != 3 or not fields[1].isdecimal():
                raise BadInput(
                    f"{path}, line {number}: found '{line.rstrip()}', expected a contig, its length and its aliases "
                    "separated by tabs; make the table with prepare_reference.py"
                )
            name, length, aliases = fields
            contigs.append(Contig(name, int(length), tuple(filter(None, aliases.split(",")))))
    return contigs


class ContigNames:
    """Finds the reference's own name for a contig.

    The reference's own names come first, then the user's `extra` aliases (alias -> name in the reference), then known
    aliases. An alias that two contigs share stands for neither.

    Raises:
        BadInput: an extra alias for a contig that the reference does not have.
    """

    def __init__(self, contigs: Iterable[Contig], extra: Mapping[str, str] | None = None) -> None:
        self.contigs = {contig.name: contig for contig in contigs}
        self._by_name: dict[str, Contig | None] = {}
        for contig in self.contigs.values():
            for alias in contig.aliases:
                self._by_name[alias] = None if alias in self._by_name else contig
        for alias, name in (extra or {}).items():
            if name not in self.contigs:
                raise BadInput(
                    f"contig alias '{alias}': the reference has no contig '{name}'; expected one of "
                    f"{', '.join(list(self.contigs)[:5])}, ...; correct the alias in the config"
                )
            self._by_name[alias] = self.contigs[name]
        self._by_name |= self.contigs

    def resolve(self, name: str, length: int | None = None) -> str | None:
        """The reference's name for `name`, or None if it has none, or one of another length than `length` (bases)."""
        contig = self._by_name.get(name)
        if contig is None or length not in (None, contig.length):
            return None
        return contig.name

    def length_conflict(self, name: str, length: int) -> Contig | None:
        """The reference contig that `name` means but whose length is not `length`: a sign of another assembly."""
        contig = self._by_name.get(name)
        return contig if contig is not None and contig.length != length else None


# Chromosome, length and accessions (RefSeq, GenBank), as in NCBI's assembly reports, and other names. T2T-CHM13's own
# mitochondrion (CP068254.1) is left out: it is as long as the rCRS, so the length cannot tell the two apart.
CHROMOSOMES = """
# GRCh37
1 249250621 NC_000001.10 CM000663.1
2 243199373 NC_000002.11 CM000664.1
3 198022430 NC_000003.11 CM000665.1
4 191154276 NC_000004.11 CM000666.1
5 180915260 NC_000005.9 CM000667.1
6 171115067 NC_000006.11 CM000668.1
7 159138663 NC_000007.13 CM000669.1
8 146364022 NC_000008.10 CM000670.1
9 141213431 NC_000009.11 CM000671.1
10 135534747 NC_000010.10 CM000672.1
11 135006516 NC_000011.9 CM000673.1
12 133851895 NC_000012.11 CM000674.1
13 115169878 NC_000013.10 CM000675.1
14 107349540 NC_000014.8 CM000676.1
15 102531392 NC_000015.9 CM000677.1
16 90354753 NC_000016.9 CM000678.1
17 81195210 NC_000017.10 CM000679.1
18 78077248 NC_000018.9 CM000680.1
19 59128983 NC_000019.9 CM000681.1
20 63025520 NC_000020.10 CM000682.1
21 48129895 NC_000021.8 CM000683.1
22 51304566 NC_000022.10 CM000684.1
X 155270560 NC_000023.10 CM000685.1
Y 59373566 NC_000024.9 CM000686.1
# hg19 only: its chrM is not the rCRS
MT 16571 NC_001807.4
# GRCh38
1 248956422 NC_000001.11 CM000663.2
2 242193529 NC_000002.12 CM000664.2
3 198295559 NC_000003.12 CM000665.2
4 190214555 NC_000004.12 CM000666.2
5 181538259 NC_000005.10 CM000667.2
6 170805979 NC_000006.12 CM000668.2
7 159345973 NC_000007.14 CM000669.2
8 145138636 NC_000008.11 CM000670.2
9 138394717 NC_000009.12 CM000671.2
10 133797422 NC_000010.11 CM000672.2
11 135086622 NC_000011.10 CM000673.2
12 133275309 NC_000012.12 CM000674.2
13 114364328 NC_000013.11 CM000675.2
14 107043718 NC_000014.9 CM000676.2
15 101991189 NC_000015.10 CM000677.2
16 90338345 NC_000016.10 CM000678.2
17 83257441 NC_000017.11 CM000679.2
18 80373285 NC_000018.10 CM000680.2
19 58617616 NC_000019.10 CM000681.2
20 64444167 NC_000020.11 CM000682.2
21 46709983 NC_000021.9 CM000683.2
22 50818468 NC_000022.11 CM000684.2
X 156040895 NC_000023.11 CM000685.2
Y 57227415 NC_000024.10 CM000686.2
MT 16569 NC_012920.1 J01415.2
# T2T-CHM13v2.0
1 248387328 NC_060925.1 CP068277.2
2 242696752 NC_060926.1 CP068276.2
3 201105948 NC_060927.1 CP068275.2
4 193574945 NC_060928.1 CP068274.2
5 182045439 NC_060929.1 CP068273.2
6 172126628 NC_060930.1 CP068272.2
7 160567428 NC_060931.1 CP068271.2
8 146259331 NC_060932.1 CP068270.2
9 150617247 NC_060933.1 CP068269.2
10 134758134 NC_060934.1 CP068268.2
11 135127769 NC_060935.1 CP068267.2
12 133324548 NC_060936.1 CP068266.2
13 113566686 NC_060937.1 CP068265.2
14 101161492 NC_060938.1 CP068264.2
15 99753195 NC_060939.1 CP068263.2
16 96330374 NC_060940.1 CP068262.2
17 84276897 NC_060941.1 CP068261.2
18 80542538 NC_060942.1 CP068260.2
19 61707364 NC_060943.1 CP068259.2
20 66210255 NC_060944.1 CP068258.2
21 45090682 NC_060945.1 CP068257.2
22 51324926 NC_060946.1 CP068256.2
X 154259566 NC_060947.1 CP068255.2
Y 62460029 NC_060948.1 CP086569.2
# GRCm38
1 195471971 NC_000067.6
2 182113224 NC_000068.7
3 160039680 NC_000069.6
4 156508116 NC_000070.6
5 151834684 NC_000071.6
6 149736546 NC_000072.6
7 145441459 NC_000073.6
8 129401213 NC_000074.6
9 124595110 NC_000075.6
10 130694993 NC_000076.6
11 122082543 NC_000077.6
12 120129022 NC_000078.6
13 120421639 NC_000079.6
14 124902244 NC_000080.6
15 104043685 NC_000081.6
16 98207768 NC_000082.6
17 94987271 NC_000083.6
18 90702639 NC_000084.6
19 61431566 NC_000085.6
X 171031299 NC_000086.7
Y 91744698 NC_000087.7
# GRCm39
1 195154279 NC_000067.7
2 181755017 NC_000068.8
3 159745316 NC_000069.7
4 156860686 NC_000070.7
5 151758149 NC_000071.7
6 149588044 NC_000072.7
7 144995196 NC_000073.7
8 130127694 NC_000074.7
9 124359700 NC_000075.7
10 130530862 NC_000076.7
11 121973369 NC_000077.7
12 120092757 NC_000078.7
13 120883175 NC_000079.7
14 125139656 NC_000080.7
15 104073951 NC_000081.7
16 98008968 NC_000082.7
17 95294699 NC_000083.7
18 90720763 NC_000084.7
19 61420004 NC_000085.7
X 169476592 NC_000086.8
Y 91455967 NC_000087.8
MT 16299 NC_005089.1 AY172335.1
# R64 (sacCer3); some peak files number its chromosomes
I 230218 NC_001133.9 BK006935.2 1 chr1
II 813184 NC_001134.8 BK006936.2 2 chr2
III 316620 NC_001135.5 BK006937.2 3 chr3
IV 1531933 NC_001136.10 BK006938.2 4 chr4
V 576874 NC_001137.3 BK006939.2 5 chr5
VI 270161 NC_001138.5 BK006940.2 6 chr6
VII 1090940 NC_001139.9 BK006941.2 7 chr7
VIII 562643 NC_001140.6 BK006934.2 8 chr8
IX 439888 NC_001141.2 BK006942.2 9 chr9
X 745751 NC_001142.9 BK006943.2 10 chr10
XI 666816 NC_001143.9 BK006944.2 11 chr11
XII 1078177 NC_001144.5 BK006945.2 12 chr12
XIII 924431 NC_001145.3 BK006946.2 13 chr13
XIV 784333 NC_001146.8 BK006947.3 14 chr14
XV 1091291 NC_001147.6 BK006948.2 15 chr15
XVI 948066 NC_001148.4 BK006949.2 16 chr16
MT 85779 NC_001224.1
"""
