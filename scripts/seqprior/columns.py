"""Names that tables, VCFs and the report share, defined once: columns, statuses, reasons."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """What became of an allele."""

    SCORED = "scored"
    SKIPPED = "skipped"


class Reason(StrEnum):
    """Why an allele was skipped. The closed list; each is explained in docs/outputs.md."""

    REF_MISMATCH = "ref_mismatch"
    CONTIG_NOT_IN_REFERENCE = "contig_not_in_reference"
    SYMBOLIC_ALLELE = "symbolic_allele"
    SPANNING_DELETION = "spanning_deletion"
    AMBIGUOUS_BASE = "ambiguous_base"
    ALLELE_TOO_LONG = "allele_too_long"
    WINDOW_AMBIGUOUS = "window_ambiguous"
    NOT_EVALUABLE_BY_MODEL = "not_evaluable_by_model"
    MALFORMED_RECORD = "malformed_record"
    NO_ALTERNATE_ALLELE = "no_alternate_allele"


REASON_TEXT = {
    Reason.REF_MISMATCH: "REF is not what the reference has there",
    Reason.CONTIG_NOT_IN_REFERENCE: "the reference has no contig of this name or a known alias",
    Reason.SYMBOLIC_ALLELE: "a symbolic allele or breakend has no sequence to score",
    Reason.SPANNING_DELETION: "the allele * stands for a deletion that another record describes",
    Reason.AMBIGUOUS_BASE: "the allele has a letter other than A, C, G, T",
    Reason.ALLELE_TOO_LONG: "the allele is longer than scoring.max_allele_length",
    Reason.WINDOW_AMBIGUOUS: "too much of the reference around the allele is unknown",
    Reason.NOT_EVALUABLE_BY_MODEL: "the model has no score for this allele",
    Reason.MALFORMED_RECORD: "the record cannot be read",
    Reason.NO_ALTERNATE_ALLELE: "the record has no alternate allele that differs from REF",
}

ALLELE = ("variant_id", "chrom", "pos", "ref", "alt")

VARIANTS = (
    *ALLELE,
    "input_count",
    "status",
    "reason",
    "input_file",
    "input_line",
    "input_chrom",
    "input_pos",
    "input_ref",
    "input_alt",
    "input_id",
    "input_annotation",
)

SCORES = (
    *ALLELE,
    "method",
    "llr",
    "llr_fwd",
    "llr_rev",
    "strand_gap",
    "llr_calibrated",
    "entropy",
    "embedding_l2",
    "embedding_cosine",
    "status",
    "reason",
)


def scores_schema():
    """Arrow schema of a table of `SCORES`."""
    import pyarrow as pa

    text = {"variant_id", "chrom", "ref", "alt", "method", "status", "reason"}
    kinds = {**dict.fromkeys(text, pa.string()), "pos": pa.int64()}
    return pa.schema([(name, kinds.get(name, pa.float64())) for name in SCORES])


CONSEQUENCES = ("variant_id", "gene", "transcript", "consequence", "hgvs_p", "consequence_source")

RANKED_LEAD = (
    "rank",
    *ALLELE,
    "gene",
    "transcript",
    "consequence",
    "hgvs_p",
    "score",
    "score_low",
    "score_high",
)
RANKED_TAIL = ("status", "reason")

KNOWN_ALLELES = (
    "name",
    "gene",
    "chrom",
    "pos",
    "ref",
    "alt",
    "protein_change",
    "phenotype",
    "kind",
    "reference",
    "evidence",
)
