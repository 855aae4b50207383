"""Changes of the genome from HGVS names on contigs (g., m.) and on the transcripts of prepared gene models (c.).

The grammar, the numbering of transcripts and the check of stated bases are hgvs-weaver's; the nomenclature is that of
https://hgvs-nomenclature.org. What the library lets pass although the transcript has no such place is refused here: an
intron position that starts from no exon's end or lies beyond the intron, and numbers beyond the end of the CDS.

Coordinates are 0-based half-open on the forward strand. `fetch(chrom, start, end)` gives upper-case bases as a slice of
the contig would.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

from seqprior.contigs import Contig, ContigNames
from seqprior.errors import BadInput
from seqprior.genes import CodingTranscript, coding_transcripts
from seqprior.sequence import reverse_complement
from seqprior.translation import choose_transcripts

log = logging.getLogger(__name__)

Fetch = Callable[[str, int, int], str]
Change = tuple[int, str, str]

_VERSION = re.compile(r"\.\d+$")
_NAME = re.compile(r"\s*(?P<own>.+?)(?:\((?P<within>[^()]+)\))?:(?P<rest>[a-z]\..*)")
# hgvs-weaver knows no sequence named '2L', '20' or 'HLA:HLA00001', so it is given this name instead of theirs.
MANY_COPIES = re.compile(r"\[\(?\d{5,}")  # hgvs-weaver would spell each of them out
_STAND_IN = "REF"
_STATED = re.compile(r"expected (\S+), found (\S*) on")
_PLACE = re.compile(r"--> \d+:(\d+)")
_GENOMIC = ("g", "m")


class TranscriptModel:
    """A contig, or a coding transcript under whatever name it is asked for, as hgvs-weaver's `DataProvider`.

    Attributes:
        exons: (start, end) in reading order. before: bases of the transcript before each of them, and in all.
        first, last: of the coding sequence, numbers of its first and last base in the transcript, from 0.

    Raises:
        ValueError: the coding sequence leaves the exons.
    """

    def __init__(self, fetch: Fetch, contig: Contig, transcript: CodingTranscript | None = None) -> None:
        self.fetch, self.contig, self.transcript = fetch, contig, transcript
        if transcript is not None:
            self.exons = transcript.exons[:: self.sign]
            self.before = [0, *accumulate(end - start for start, end in self.exons)]
            low, high = transcript.cds[0][0], max(end for _, end in transcript.cds) - 1
            ends = (low, high) if self.sign == 1 else (high, low)
            self.first, self.last = (self.place(base) for base in ends)

    @property
    def sign(self) -> int:
        return 1 if self.transcript.strand == "+" else -1

    def place(self, base: int) -> int:
        """Number, from 0, of a base of the contig in the transcript."""
        for (start, end), before in zip(self.exons, self.before, strict=False):
            if start <= base < end:
                return before + (base - start if self.sign == 1 else end - 1 - base)
        raise ValueError("the coding sequence leaves the exons")

    def spliced(self) -> str:
        """Bases of the exons, on the transcript's strand."""
        pieces = (self.fetch(self.transcript.contig, start, end) for start, end in self.exons)
        return "".join(pieces if self.sign == 1 else map(reverse_complement, pieces))

    def get_transcript(self, transcript_ac: str, reference_ac: str | None) -> dict:
        exons = [
            {
                "transcript_start": before,
                "transcript_end": before + end - start,
                "reference_start": start,
                # hgvs-weaver 1.0.1 takes the last base here, as its own provider gives it; its stub says otherwise.
                "reference_end": end - 1,
                "alt_strand": self.sign,
                "cigar": f"{end - start}=",
            }
            for (start, end), before in zip(self.exons, self.before, strict=False)
        ]
        return {
            "ac": transcript_ac,
            "gene": self.transcript.gene,
            "cds_start_index": self.first,
            "cds_end_index": self.last,
            "cds_end_open": "cds_end_NF" in self.transcript.tags,
            "strand": self.sign,
            "reference_accession": self.contig.name,
            "exons": exons,
        }

    def get_seq(self, ac: str, start: int, end: int | None, kind) -> str:
        from weaver import IdentifierType

        if kind == IdentifierType.TranscriptAccession:
            return self.spliced()[start:end]
        length = self.contig.length
        return self.fetch(self.contig.name, start, length if end is None else min(end, length))

    def get_symbol_accessions(self, symbol: str, source_kind: str, target_kind: str) -> list:
        return []

    def get_identifier_type(self, identifier: str) -> str:
        return "genomic_accession" if self.transcript is None else "transcript_accession"

    def misplaced(self, position: dict) -> str:
        """What is wrong with a position of a c. name, as hgvs-weaver spells it out; empty if it exists."""
        base, offset = position["base"], position["offset"] or 0
        after_stop = position["anchor"] == "CdsEnd"
        shown = f"{'*' * after_stop}{base}"
        place = self.last + base if after_stop else self.first + base - (base > 0)
        length = self.last - self.first + 1
        if not after_stop and base > length:
            return f"{shown} lies beyond the coding sequence, which ends with {length}"
        if not 0 <= place < self.before[-1]:
            behind = self.before[-1] - 1 - self.last
            first, last = (f"-{self.first}" if self.first else "1"), (f"*{behind}" if behind else length)
            return f"{shown} lies beyond the transcript, which reaches from {first} to {last}"
        if not offset:
            return ""
        shown += f"{offset:+d}"
        number = next(n for n, end in enumerate(self.before[1:]) if place < end)
        edge = self.before[number + 1] - 1 if offset > 0 else self.before[number]
        beyond = number + 1 if offset > 0 else number - 1
        if place != edge:
            return f"{shown} counts from a base that is not at the end of an exon"
        if not 0 <= beyond < len(self.exons):
            return f"{shown} lies beyond the transcript"
        (_, left), (right, _) = sorted((self.exons[number], self.exons[beyond]))
        if abs(offset) > right - left:
            return f"{shown} lies beyond the intron, which has {right - left} bases"
        return ""


class HgvsNames:
    """Reads HGVS names. Of the gene models, only the transcripts that `texts` name are kept in memory.

    Args:
        fetch: bases of the reference.
        genes: prepared gene models; None leaves g. and m. alone.
        order: which transcript stands for a gene, as `protein.transcripts` says.
        texts: the names that will be read.
    """

    def __init__(
        self, fetch: Fetch, names: ContigNames, genes: Path | None, order: Sequence[str], texts: Iterable[str]
    ) -> None:
        self.fetch, self.names, self.genes, self.order = fetch, names, genes, order
        named = (_NAME.fullmatch(text) for text in texts)
        wanted = {self._transcript_name(name) for name in named if name and name["rest"][0] == "c"}
        # By their own names, by those names without version, and by their gene's.
        self.by_id, self.by_plain_id, self.by_gene = defaultdict(list), defaultdict(list), defaultdict(list)
        for transcript in _named(genes, wanted) if genes is not None and wanted else ():
            for index, found in (
                (self.by_id, _ids(transcript)),
                (self.by_plain_id, _plain(_ids(transcript))),
                (self.by_gene, {transcript.gene, transcript.gene_id, *_plain({transcript.gene_id})}),
            ):
                for name in found:
                    index[name].append(transcript)

    def changes(self, text: str, where: str) -> tuple[str, list[Change]]:
        """Contig of the reference and (start, ref, alt) of each change, in the order of the genome.

        REF is as in the reference; it is empty for an insertion, as ALT is for a deletion. No change ('=') gives none.

        Args:
            where: file and line, for the message.

        Raises:
            BadInput: the name cannot be read, or does not fit the reference or the transcript.
        """
        import weaver

        name = _NAME.fullmatch(text)
        if name is None:
            raise BadInput(_unreadable(where, text, "a sequence, a colon and c., g. or m. are not there"))
        if name["rest"][0] == "p":
            raise BadInput(
                f"{where}: '{text}' names a change of a protein, which several changes of the genome can make; "
                "expected a name of DNA; give the one that is meant as c. or g."
            )
        if MANY_COPIES.search(name["rest"]):
            raise BadInput(_unreadable(where, text, "more copies than any allele that is scored"))
        parsed = f"{_STAND_IN}:{name['rest']}"
        try:
            variant = weaver.parse(parsed)
        except weaver.HGVSError as error:
            raise BadInput(_unreadable(where, text, _parse_problem(parsed, str(error)))) from error
        kind = variant.coordinate_type
        if kind not in ("c", *_GENOMIC):
            raise BadInput(f"{where}: '{text}' is numbered as {kind}.; expected c., g. or m.; give the change as g.")
        model, chrom = self._model(name, where)
        members = variant.members or [variant]
        if kind == "c":
            self._require_places(members, model, text, where)
        mapper = weaver.VariantMapper(model)
        try:
            if variant.members:
                variant.validate(model)
            genomic = mapper.c_to_g(variant) if kind == "c" else variant
            found = [self._change(mapper, chrom, member) for member in genomic.members or [genomic]]
        except weaver.ReferenceMismatchError as error:
            if not (stated := _STATED.search(str(error))):
                raise
            there = stated[2].upper()[:20] or "no base"
            raise BadInput(
                f"{where}: '{text}' states {stated[1].upper()[:20]} where {name['own']} has {there}; expected the "
                "bases that are there; check the position, the transcript's version and the assembly"
            ) from error
        except weaver.PositionOutsideSequenceError as error:
            raise BadInput(
                f"{where}: '{text}' lies beyond {chrom}, which has {self.names.contigs[chrom].length:,} bases; "
                "expected a position on it; check the position and the assembly"
            ) from error
        except weaver.HGVSError as error:
            raise BadInput(
                f"{where}: '{text}' describes no single change of the genome ({_plain_words(str(error))}); expected "
                "one whose place and bases are certain; give it as g."
            ) from error
        except _Apart as error:
            raise BadInput(
                f"{where}: '{text}' inserts between bases that are not neighbours; expected two numbers in sequence, "
                "such as c.76_77insT; correct it"
            ) from error
        return chrom, sorted(change for change in found if change is not None)

    def _require_places(self, members: Iterable, model: TranscriptModel, text: str, where: str) -> None:
        for member in members:
            places = member.to_dict()["posedit"]["pos"] or {}
            for position in filter(None, (places.get("start"), places.get("end"))):
                if problem := "base" in position and model.misplaced(position):
                    raise BadInput(
                        f"{where}: '{text}' does not fit the transcript {model.transcript.id}, since {problem}; "
                        "expected a position of it; check the name, or give the change as g."
                    )

    def _change(self, mapper, chrom: str, variant) -> Change | None:
        """(start, ref, alt) of a g. name, placed where it says; None if it states that nothing changes.

        Asking for SPDI is what checks bases and positions. SPDI itself moves a change along a repeat, where it could
        meet another change of the same haplotype.
        """
        spdi = mapper.to_spdi(variant)
        posedit = variant.to_dict()["posedit"]
        first, last = posedit["pos"]["start"], posedit["pos"]["end"] or posedit["pos"]["start"]
        start, end = first["base"] - 1, last["base"]
        ref, edit = self.fetch(chrom, start, end), posedit["edit"]
        match edit["type"]:
            case "RefAlt":
                return None if edit["alt"] is None else (start, ref, edit["alt"].upper())
            case "Del":
                return start, ref, ""
            case "Dup":
                return end, "", ref
            case "Inv":
                return start, ref, reverse_complement(ref)
            case "Ins":
                if end - start != 2:
                    raise _Apart
                return start + 1, "", edit["alt"].upper()
            case _:
                _, place, deleted, inserted = spdi.rsplit(":", 3)
                return int(place), deleted.upper(), inserted.upper()

    def _transcript_name(self, name: re.Match) -> str:
        """The transcript or gene of a c. name: NM_007294.4, also in NC_000017.11(NM_007294.4)."""
        return name["within"] if name["within"] and self.names.resolve(name["own"]) else name["own"]

    def _model(self, name: re.Match, where: str) -> tuple[TranscriptModel, str]:
        """What a name is numbered on, and its contig."""
        contig, text = self.names.resolve(name["own"]), name[0]
        if name["rest"][0] in _GENOMIC:
            if contig is None:
                raise BadInput(
                    f"{where}: the reference has no contig '{name['own']}' ('{text}'); expected one of "
                    f"{', '.join(list(self.names.contigs)[:5])}, ... or a known accession; check the assembly, or add "
                    "it to reference.aliases"
                )
            return TranscriptModel(self.fetch, self.names.contigs[contig]), contig
        if self.genes is None:
            raise BadInput(
                f"{where}: '{text}' is numbered on a transcript, and there are no gene models; set reference.genes, or "
                "give the change as g."
            )
        transcript = self._transcript(self._transcript_name(name), text, where)
        if contig is not None and contig != transcript.contig:
            raise BadInput(
                f"{where}: '{text}' puts {transcript.id} on {contig}, and the gene models have it on "
                f"{transcript.contig}; correct the name"
            )
        if transcript.phase or "cds_start_NF" in transcript.tags:
            raise BadInput(
                f"{where}: '{text}' is numbered on {transcript.id}, whose coding sequence lacks its start, so that c.1 "
                "is not known; give the change as g."
            )
        try:
            model = TranscriptModel(self.fetch, self.names.contigs[transcript.contig], transcript)
        except ValueError as error:
            raise BadInput(
                f"{where}: '{text}' is numbered on {transcript.id}, and in the gene models {error}; correct "
                "reference.genes, or give the change as g."
            ) from error
        if model.last - model.first + 1 != transcript.cds_length:
            raise BadInput(
                f"{where}: '{text}' is numbered on {transcript.id}, which is read with a shift of its frame, so that "
                "numbers behind the shift are not certain; give the change as g."
            )
        return model, transcript.contig

    def _transcript(self, name: str, text: str, where: str) -> CodingTranscript:
        """By its id, as the chosen one of a gene, or by its id of no or another version."""
        exact = self.by_id.get(name) or choose_transcripts(self.by_gene.get(name, ()), self.order)
        plain = _VERSION.sub("", name)
        chosen = exact or self.by_plain_id.get(plain, [])
        if not chosen:
            raise BadInput(
                f"{where}: the gene models have no coding transcript or gene '{name}' ('{text}'); expected a name that "
                "reference.genes has; check its spelling and which annotation it is of"
            )
        if len(chosen) > 1:
            raise BadInput(
                f"{where}: '{name}' ('{text}') may be any of {', '.join(transcript.id for transcript in chosen[:5])}; "
                "expected one transcript; name it"
            )
        found = chosen[0]
        if not exact and name != plain:
            if _VERSION.search(found.id):
                raise BadInput(
                    f"{where}: '{text}' names {name}, and the gene models have {found.id}; expected the same version, "
                    "since another may be numbered otherwise; give the name for that one, or the change as g."
                )
            log.warning("%s: the gene models have %s without version; it is taken for %s", where, found.id, name)
        return found


class _Apart(Exception):
    """An insertion between bases that are not neighbours."""


def _ids(transcript: CodingTranscript) -> set[str]:
    """Names of a transcript itself. SGD's are those of genes, with an ending."""
    return {transcript.id, transcript.id.removesuffix("_mRNA")}


def _plain(names: set[str]) -> set[str]:
    """The names without version."""
    return {_VERSION.sub("", name) for name in names}


def _named(genes: Path, wanted: set[str]) -> Iterator[CodingTranscript]:
    """Transcripts that some name may mean. One contig's are in memory at a time."""
    import pysam

    wanted = wanted | _plain(wanted)
    with pysam.TabixFile(str(genes)) as table:
        contigs = list(table.contigs)
    for contig in contigs:
        for transcript in coding_transcripts(genes, contig):
            own = {*_ids(transcript), transcript.gene, transcript.gene_id}
            if not wanted.isdisjoint(own | _plain(own)):
                yield transcript


def _unreadable(where: str, text: str, problem: str) -> str:
    return (
        f"{where}: '{text}' cannot be read as HGVS ({problem}); expected a name such as NC_001133.9:g.1807A>G or "
        "NM_007294.4:c.181T>G; correct it"
    )


def _plain_words(message: str) -> str:
    """A message of hgvs-weaver on one line."""
    return " ".join(message.replace(f"{_STAND_IN}:", "").split())


def _parse_problem(parsed: str, message: str) -> str:
    """Where the parser stopped, or else its own words."""
    place = _PLACE.search(message)
    if place is None:
        return _plain_words(message)
    rest = parsed[int(place[1]) - 1 :].strip()
    return f"from '{rest}' on" if rest else "it ends too early"
