"""What each allele does to the genes: by `bcftools csq`, or as the input's CSQ, ANN or BCSQ field has it.

Consequences are Sequence Ontology terms. Per allele the most severe one is kept; among transcripts with the same, the
preferred one (MANE Select, MANE Plus Clinical, canonical, longest CDS).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote

from seqprior.columns import CONSEQUENCES, Reason, Status
from seqprior.files import written_whole

# Most severe first: Ensembl's order, https://www.ensembl.org/info/genome/variation/prediction/predicted_data.html
SEVERITY = (
    "transcript_ablation",
    "splice_acceptor_variant",
    "splice_donor_variant",
    "stop_gained",
    "frameshift_variant",
    "stop_lost",
    "start_lost",
    "transcript_amplification",
    "feature_elongation",
    "feature_truncation",
    "inframe_insertion",
    "inframe_deletion",
    "missense_variant",
    "protein_altering_variant",
    "splice_donor_5th_base_variant",
    "splice_region_variant",
    "splice_donor_region_variant",
    "splice_polypyrimidine_tract_variant",
    "incomplete_terminal_codon_variant",
    "start_retained_variant",
    "stop_retained_variant",
    "synonymous_variant",
    "coding_sequence_variant",
    "mature_miRNA_variant",
    "5_prime_UTR_variant",
    "3_prime_UTR_variant",
    "non_coding_transcript_exon_variant",
    "intron_variant",
    "NMD_transcript_variant",
    "non_coding_transcript_variant",
    "coding_transcript_variant",
    "upstream_gene_variant",
    "downstream_gene_variant",
    "TFBS_ablation",
    "TFBS_amplification",
    "TF_binding_site_variant",
    "regulatory_region_ablation",
    "regulatory_region_amplification",
    "regulatory_region_variant",
    "intergenic_variant",
    "sequence_variant",
)
# Terms of SnpEff that Ensembl does not have, as severe as the term that Ensembl would give.
_SAME_SEVERITY = {
    "exon_loss_variant": "feature_truncation",
    "conservative_inframe_insertion": "inframe_insertion",
    "disruptive_inframe_insertion": "inframe_insertion",
    "conservative_inframe_deletion": "inframe_deletion",
    "disruptive_inframe_deletion": "inframe_deletion",
    "rare_amino_acid_variant": "missense_variant",
    "splice_branch_variant": "splice_region_variant",
    "initiator_codon_variant": "start_retained_variant",
    "5_prime_UTR_premature_start_codon_gain_variant": "5_prime_UTR_variant",
    "non_coding_exon_variant": "non_coding_transcript_exon_variant",
    "intergenic_region": "intergenic_variant",
}
_SEVERITY_OF = {term: rank for rank, term in enumerate(SEVERITY)}
_SEVERITY_OF |= {term: _SEVERITY_OF[like] for term, like in _SAME_SEVERITY.items()}
INTERGENIC = "intergenic_variant"
NOT_ANNOTATED = "not_annotated"

_LENGTH_CHANGE = {"feature_truncation", "feature_elongation"}
# The short names that bcftools csq prints, http://samtools.github.io/bcftools/howtos/csq-calling.html
_CSQ_TERMS = {
    "3_prime_utr": "3_prime_UTR_variant",
    "5_prime_utr": "5_prime_UTR_variant",
    "non_coding": "non_coding_transcript_exon_variant",
    "intron": "intron_variant",
    "intergenic": INTERGENIC,
    "splice_acceptor": "splice_acceptor_variant",
    "splice_donor": "splice_donor_variant",
    "splice_region": "splice_region_variant",
    "missense": "missense_variant",
    "synonymous": "synonymous_variant",
    "stop_retained": "stop_retained_variant",
    "start_retained": "start_retained_variant",
    "frameshift": "frameshift_variant",
    "inframe_altering": "protein_altering_variant",
    "coding_sequence": "coding_sequence_variant",
}

_THREE_LETTERS = {
    "A": "Ala",
    "C": "Cys",
    "D": "Asp",
    "E": "Glu",
    "F": "Phe",
    "G": "Gly",
    "H": "His",
    "I": "Ile",
    "K": "Lys",
    "L": "Leu",
    "M": "Met",
    "N": "Asn",
    "P": "Pro",
    "Q": "Gln",
    "R": "Arg",
    "S": "Ser",
    "T": "Thr",
    "U": "Sec",
    "V": "Val",
    "W": "Trp",
    "Y": "Tyr",
    "X": "Xaa",
    "*": "Ter",
}
_CHANGE = re.compile(r"(\d+)([A-Z*]+)(?:\.\.\d*)?(?:>(\d+)([A-Z*]+))?")


@dataclass(frozen=True)
class Consequence:
    """One consequence of one allele on one transcript; `term` may join several with '&'."""

    gene: str
    transcript: str
    term: str
    hgvs_p: str
    source: str

    @property
    def severity(self) -> int:
        """Rank of the most severe of the joined terms; unknown terms come last."""
        return min(_SEVERITY_OF.get(term, len(SEVERITY)) for term in self.term.split("&"))


def most_severe_term(term: str) -> str:
    return min(term.split("&"), key=lambda part: _SEVERITY_OF.get(part, len(SEVERITY)))


def residues(letters: str) -> str:
    return "".join(_THREE_LETTERS.get(letter, "Xaa") for letter in letters)


def protein_hgvs(change: str, terms: str) -> str:
    """HGVS-like protein change from csq's amino acid field ('30D>30G', '16E', '44KQ>44N').

    Frameshifts name the first changed residue alone. An insertion is a delins of the residue before or after it, since
    csq does not tell the other one, and nothing is shifted to the right as HGVS would.
    """
    match = _CHANGE.match(change)
    if not match:
        return ""
    position, before, after = int(match[1]), match[2], match[4]
    if "start_lost" in terms:
        return "p.Met1?"
    if after is None or before == after:
        return f"p.{_range(before, position)}="
    shared = 0
    while shared < min(len(before), len(after)) and before[shared] == after[shared]:
        shared += 1
    if shared == len(before):  # an insertion behind the last residue named
        shared -= 1
    before, after, position = before[shared:], after[shared:], position + shared
    first = f"{residues(before[0])}{position}"
    if after[:1] == "*":
        return f"p.{first}Ter"
    if "frameshift" in terms:
        return f"p.{first}fs"
    if before == "*" and after:
        return f"p.{first}{residues(after[0])}extTer?"
    while len(before) > 1 and after and before[-1] == after[-1]:
        before, after = before[:-1], after[:-1]
    if not after:
        return f"p.{_range(before, position)}del"
    if len(before) == len(after) == 1:
        return f"p.{first}{residues(after)}"
    return f"p.{_range(before, position)}delins{residues(after)}"


def _range(letters: str, position: int) -> str:
    """Residues from `position` (1-based) on, as HGVS names them: the first and, of several, the last."""
    first = f"{residues(letters[0])}{position}"
    return first if len(letters) == 1 else f"{first}_{residues(letters[-1])}{position + len(letters) - 1}"


def parse_bcsq(value: str, source: str) -> list[Consequence]:
    """Consequences of a BCSQ value; entries that point at another record ('@123') are left out.

    csq says feature_truncation or feature_elongation of every allele that replaces bases by more or fewer, within
    introns as well. The entry says more only where it comes with a change of residues.
    """
    found = []
    for entry in value.split(","):
        if entry.startswith("@") or not entry:
            continue
        fields = (entry.split("|") + [""] * 7)[:7]
        term, gene, transcript, _, _, amino_acids, _ = fields
        terms = [part for part in term.lstrip("*").split("&") if part not in _LENGTH_CHANGE]
        if not terms:
            terms = ["protein_altering_variant" if amino_acids else "sequence_variant"]
        terms = "&".join(_CSQ_TERMS.get(part, part) for part in terms)
        found.append(Consequence(gene, transcript, terms, protein_hgvs(amino_acids, terms), source))
    return found


def parse_input_annotation(annotation: str, fields: dict[str, list[str]]) -> list[Consequence]:
    """Consequences of one allele as the input file states them.

    Args:
        annotation: 'TAG=value', the entries of this allele alone.
        fields: lower-case names of the '|' separated fields of each tag, from the header.
    """
    tag, _, value = annotation.partition("=")
    if tag == "BCSQ":
        return parse_bcsq(value, "input:BCSQ")
    found = []
    for entry in value.split(","):
        values = dict(zip(fields.get(tag, ()), entry.split("|"), strict=False))
        gene = values.get("symbol") or values.get("gene_name") or values.get("gene") or values.get("gene_id", "")
        transcript = values.get("feature") or values.get("feature_id", "")
        change = unquote(values.get("hgvsp") or values.get("hgvs.p") or "").rpartition(":")[2]
        if term := values.get("consequence") or values.get("annotation"):
            found.append(Consequence(gene, transcript, term, change, f"input:{tag}"))
    return found


def most_severe(found: Iterable[Consequence], preference: dict[str, int]) -> Consequence | None:
    """The consequence to keep. `preference`: rank of a transcript, lower first; unknown ones come last."""
    last = len(preference)
    return min(found, key=lambda item: (item.severity, preference.get(item.transcript, last)), default=None)


def transcript_preference(transcripts) -> dict[str, int]:
    """Order of the transcripts of `genes.transcript_table`: MANE and canonical first, then longest CDS."""
    table = transcripts.sort_values(
        ["preference", "cds_length", "transcript"], ascending=[True, False, True], kind="stable"
    )
    return {transcript: rank for rank, transcript in enumerate(table["transcript"])}


def run_csq(sites: Path, fasta: Path, genes: Path, output: Path) -> None:
    """Annotate a sites-only VCF with BCSQ, each record on its own (`--local-csq`)."""
    import pysam.bcftools

    arguments = ["--local-csq", "--fasta-ref", fasta, "--gff-annot", genes, "--output-type", "v", "--output", output]
    pysam.bcftools.csq(*map(str, arguments), "--verbosity", "0", str(sites), catch_stdout=False)


def annotate_consequences(
    variants: Path, fasta: Path, genes: Path | None, files: dict[str, dict[str, list[str]]], source: str, output: Path
) -> int:
    """Write `consequences.parquet`, one row per allele that has a sequence, in the order of `variants.parquet`.

    Args:
        files: annotation fields by input file, from the variants summary.
        source: 'csq' ignores what the input says, 'input' uses nothing else, 'auto' prefers the input per allele.

    Returns:
        Number of alleles.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from seqprior.genes import transcript_table

    transcripts = transcript_table(genes) if genes else None
    preference = transcript_preference(transcripts) if genes else {}
    contigs = set(transcripts["chrom"]) if genes else set()  # csq refuses alleles on any other
    use_csq = genes is not None and source != "input"
    nothing_found = ("", "", INTERGENIC, "", "csq") if use_csq else ("", "", NOT_ANNOTATED, "", "")
    schema = pa.schema([(name, pa.string()) for name in CONSEQUENCES])
    total = 0
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(dir=output.parent, prefix=".partial-csq-") as folder,
        written_whole(output) as partial,
        pq.ParquetWriter(partial, schema, compression="zstd") as writer,
    ):
        answers = csq_answers(variants, contigs, fasta, genes, Path(folder)) if use_csq else iter(())
        for frame in annotatable(variants):
            rows = []
            for allele in frame.itertuples(index=False):
                found: list[Consequence] = []
                if use_csq and allele.chrom in contigs:
                    info = info_of(next(answers, ""), allele)
                    found = parse_bcsq(info.removeprefix("BCSQ="), "csq") if info != "." else []
                if source != "csq" and allele.input_annotation:
                    found = parse_input_annotation(allele.input_annotation, files.get(allele.input_file, {})) or found
                best = most_severe(found, preference)
                row = nothing_found
                if best is not None:
                    row = (best.gene, best.transcript, most_severe_term(best.term), best.hgvs_p, best.source)
                rows.append((allele.variant_id, *row))
            total += len(rows)
            columns = list(zip(*rows, strict=True)) or [()] * len(CONSEQUENCES)
            arrays = [pa.array(column, pa.string()) for column in columns]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        if next(answers, None) is not None:
            raise AssertionError("bcftools csq answered more alleles than were asked")
    return total


def csq_answers(variants: Path, contigs: set[str], fasta: Path, genes: Path, folder: Path) -> Iterator[str]:
    """Lines of csq's VCF, one per allele on `contigs` in the order of `annotatable`; files are left in `folder`."""
    sites, called = folder / "sites.vcf", folder / "csq.vcf"
    write_sites(variants, contigs, fasta, sites)
    run_csq(sites, fasta, genes, called)
    with called.open() as lines:
        yield from (line for line in lines if not line.startswith("#"))


def info_of(line: str, allele) -> str:
    """INFO of a line of csq's output, which must describe the allele: csq answers in the order it was asked."""
    chrom, pos, _, ref, alt, _, _, info = (line.rstrip("\n").split("\t") + [""] * 8)[:8]
    if (chrom, pos, ref, alt) != (allele.chrom, str(int(allele.pos)), allele.ref, allele.alt):
        answer = f"{chrom}-{pos}-{ref}-{alt}" if line else "nothing"
        raise AssertionError(f"bcftools csq answered {answer} where {allele.variant_id} was asked")
    return info


def annotatable(variants: Path):
    """Frames of the alleles that have a normalised sequence, too long ones included."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(variants) as table:
        for batch in table.iter_batches():
            frame = batch.to_pandas()
            yield frame[(frame["status"] == Status.SCORED) | (frame["reason"] == Reason.ALLELE_TOO_LONG)]


def write_sites(variants: Path, contigs: set[str], fasta: Path, path: Path) -> None:
    """The annotatable alleles on `contigs` as a sites-only VCF, one record each."""
    import pysam

    with pysam.FastaFile(str(fasta)) as reference, path.open("w") as vcf:
        vcf.write("##fileformat=VCFv4.3\n")
        for name, length in zip(reference.references, reference.lengths, strict=True):
            vcf.write(f"##contig=<ID={name},length={length}>\n")
        vcf.write("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
        for frame in annotatable(variants):
            frame = frame[frame["chrom"].isin(contigs)]
            for chrom, pos, ref, alt in frame[["chrom", "pos", "ref", "alt"]].itertuples(index=False, name=None):
                vcf.write(f"{chrom}\t{int(pos)}\t.\t{ref}\t{alt}\t.\t.\t.\n")
