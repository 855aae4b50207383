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


class ProteinReason(StrEnum):
    """Why a change of a protein has no protein evidence. The closed list; each is explained in docs/outputs.md."""

    SAME_PROTEIN = "same_protein"
    STOP_OR_FRAMESHIFT = "stop_or_frameshift"
    START_LOST = "start_lost"
    CROSSES_EXON_END = "crosses_exon_end"
    INCOMPLETE_CDS = "incomplete_cds"
    INTERNAL_STOP = "internal_stop"
    AMBIGUOUS_CODON = "ambiguous_codon"
    NONSTANDARD_RESIDUE = "nonstandard_residue"
    GENETIC_CODE_UNKNOWN = "genetic_code_unknown"
    NOT_EVALUABLE_BY_MODEL = "not_evaluable_by_model"
    NO_ACCESSION = "no_accession"
    NO_STRUCTURE = "no_structure"
    STRUCTURE_OF_OTHER_PROTEIN = "structure_of_other_protein"
    NOT_IN_STRUCTURE = "not_in_structure"
    NO_MODEL = "no_model"


PROTEIN_REASON_TEXT = {
    ProteinReason.SAME_PROTEIN: "the protein stays the same",
    ProteinReason.STOP_OR_FRAMESHIFT: "a stop or frameshift puts no residue in the place of another",
    ProteinReason.START_LOST: "the start codon is changed, so what is translated is not known",
    ProteinReason.CROSSES_EXON_END: "the allele crosses the end of a coding exon",
    ProteinReason.INCOMPLETE_CDS: "the transcript's coding sequence is incomplete there",
    ProteinReason.INTERNAL_STOP: "the transcript's coding sequence has a stop codon before its end",
    ProteinReason.AMBIGUOUS_CODON: "the reference has an unknown base in the codon",
    ProteinReason.NONSTANDARD_RESIDUE: "the residue is none of the 20 that models know",
    ProteinReason.GENETIC_CODE_UNKNOWN: "the contig's genetic code is not known; name it in reference.genetic_codes",
    ProteinReason.NOT_EVALUABLE_BY_MODEL: "the model has no score for this change",
    ProteinReason.NO_ACCESSION: "no UniProt accession is known for the gene or transcript",
    ProteinReason.NO_STRUCTURE: "no structure was found for the protein",
    ProteinReason.STRUCTURE_OF_OTHER_PROTEIN: "the structure is that of another protein",
    ProteinReason.NOT_IN_STRUCTURE: "the structure lacks the residue or has another one there",
    ProteinReason.NO_MODEL: "no protein or structure model is configured",
}

# A change of a protein: residues [start, start + len(ref)) become alt; start is 0-based. `effect` is a term of the
# Sequence Ontology. One row per allele that touches the coding sequence of its chosen transcript.
PROTEIN_CHANGES = (
    "variant_id",
    "gene",
    "transcript",
    "protein",
    "effect",
    "start",
    "ref",
    "alt",
    "hgvs_c",
    "hgvs_p",
    "status",
    "reason",
)
# Alleles of one codon on one phased chromosome; `variant_ids` joined by '+', `carriers` counts chromosomes.
PROTEIN_HAPLOTYPES = ("variant_ids", "transcript", "protein", "effect", "start", "ref", "alt", "hgvs_p", "carriers")
# Each distinct protein once; lists are joined by ','.
PROTEINS = ("protein", "sequence", "transcripts", "genes", "accessions")
# log p of each of the 20 residues at a place, in the order of residues.AMINO_ACIDS. `residue` is 0-based.
PROFILES = ("protein", "residue", "method", "logp")


def profiles_schema():
    """Arrow schema of a table of `PROFILES`."""
    import pyarrow as pa

    kinds = {"residue": pa.int64(), "logp": pa.list_(pa.float32(), 20)}
    return pa.schema([(name, kinds.get(name, pa.string())) for name in PROFILES])


# Scores of changes that no single profile gives.
CHANGE_SCORES = ("protein", "start", "ref", "alt", "method", "llr")
# Where the structure of a protein is; a protein in several fragments has several rows.
STRUCTURES = ("protein", "accession", "source", "version", "path", "sha256", "pae", "reason")
# What a structure says of each residue that agrees with the protein. `residue` is 0-based.
RESIDUE_FEATURES = (
    "protein",
    "residue",
    "structure",
    "chain",
    "number",
    "plddt",
    "relative_solvent_accessibility",
    "secondary_structure",
    "contact_number",
    "half_sphere_up",
    "half_sphere_down",
    "site_distance",
    "pae_domain",
)

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

# A labelled interval of an element's classifier. All of one width, around the middle or summit of what the input had.
# `label` is 1 for the element and 0 for anything else; `source` is positives, negatives (as given) or drawn.
INTERVALS = ("chrom", "start", "end", "name", "label", "fold", "source")
# What each head says of an interval when it was trained without the interval's fold.
PREDICTIONS = ("chrom", "start", "end", "label", "fold", "head", "logit", "probability")
# Measures of the heads and baselines of an element, over all held-out folds.
ELEMENT_METRICS = ("element", "head", "role", "metric", "value", "low", "high", "intervals", "positives")
# Calls of an element: merged windows whose probability reaches the threshold.
ELEMENTS = ("chrom", "start", "end", "element", "probability", "summit")
# A binding site. `source` is constraint (of the sequence model) or mutagenesis (of an element's classifier); `score` is
# the sum of information or of contribution over the site; `q_value` counts sites of shuffled sequence.
SITES = (
    "chrom",
    "start",
    "end",
    "strand",
    "source",
    "element",
    "score",
    "p_value",
    "q_value",
    "motif",
    "motif_name",
    "motif_p_value",
    "motif_q_value",
)


def sites_schema():
    """Arrow schema of a table of `SITES`."""
    import pyarrow as pa

    kinds = {"start": pa.int64(), "end": pa.int64()}
    kinds |= dict.fromkeys(("score", "p_value", "q_value", "motif_p_value", "motif_q_value"), pa.float64())
    return pa.schema([(name, kinds.get(name, pa.string())) for name in SITES])


# A motif that was found, and the motif of a database that is most like it. `matrix` is p(base), a row of A, C, G, T for
# each position, flattened.
MOTIFS = (
    "element",
    "motif",
    "sites",
    "consensus",
    "matrix",
    "match",
    "match_name",
    "p_value",
    "q_value",
    "offset",
    "match_strand",
)


def motifs_schema():
    """Arrow schema of a table of `MOTIFS`."""
    import pyarrow as pa

    kinds = {"sites": pa.int64(), "matrix": pa.list_(pa.float64()), "offset": pa.int64()}
    kinds |= dict.fromkeys(("p_value", "q_value"), pa.float64())
    return pa.schema([(name, kinds.get(name, pa.string())) for name in MOTIFS])


# How far the prediction at one position moves when another is changed. Positions are 0-based.
DEPENDENCIES = ("region", "chrom", "changed", "read", "effect")


class EditReason(StrEnum):
    """Why an edit has no allele, beside those of `Reason`. The closed list, explained in docs/outputs.md."""

    CHANGES_OVERLAP = "changes_overlap"
    SEVERAL_CONTIGS = "several_contigs"
    CHANGES_TOO_FAR_APART = "changes_too_far_apart"
    NO_GUIDE = "no_guide"


EDIT_REASON_TEXT = {
    EditReason.CHANGES_OVERLAP: "changes of this id overlap, so they cannot be on one chromosome",
    EditReason.SEVERAL_CONTIGS: "changes of this id are on several contigs, so they are no haplotype",
    EditReason.CHANGES_TOO_FAR_APART: "the first and last change of this id are too far apart to be scored as one",
    EditReason.NO_GUIDE: "no guide of the editor reaches the target: no base there that it changes, or no PAM",
}


# One candidate edit, or one outcome of a base editor; `changes` is pos ref>alt joined by ';', pos 1-based.
EDITS = (
    "edit_id",
    "line",
    "given",
    "changes",
    "editor",
    "guide",
    "pam",
    "guide_strand",
    "guide_start",
    "guide_end",
    "target_in_guide",
    "edited_in_guide",
    "bystanders",
    "variant_id",
    "status",
    "reason",
)
# Alleles of the same shape nearby, with which an edit is compared.
NEARBY = ("edit_variant_id", "variant_id")

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
