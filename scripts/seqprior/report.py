"""The report: one self-contained HTML file about a run.

All text from data passes Jinja2's autoescape or its HTML-safe JSON filter. A content security policy that names the
two inlined assets by digest forbids every other script, style and network request. Figures are drawn with relative
coordinates, so that they follow the page's width and its light, dark or printed colours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqprior.columns import (
    ALLELE,
    KNOWN_ALLELES,
    PROTEIN_REASON_TEXT,
    RANKED_LEAD,
    RANKED_TAIL,
    REASON_TEXT,
    Status,
)
from seqprior.errors import BadInput
from seqprior.files import written_whole

if TYPE_CHECKING:
    import pandas

PAGE_ROWS = 50
STYLES = ("report.css", "panels.css")
VIEWER, VIEWER_LICENCE = "vendor/3Dmol-min.js", "vendor/3Dmol-LICENSE.txt"
MODELS_IN_TABLE = 3
POINTS_BELOW = 10
CLASSES_DRAWN = 20
ALLELE_LETTERS = 12
RESIDUE_LETTERS = 4
DASH = "–"

# label, kind, meaning. Kinds: text, term (Sequence Ontology), count (whole or half ranks), number, residue (a whole
# number, shown with the residues before and after).
COLUMN_TEXT = {
    "rank": ("Rank", "count", "place in the order of the score, 1 is best"),
    "variant_id": ("Identifier", "text", "chromosome, position, reference and alternate allele after normalisation"),
    "chrom": ("Chromosome", "text", "contig as the reference names it"),
    "pos": ("Position", "count", "first base of the reference allele, 1-based"),
    "ref": ("Reference allele", "text", "sequence of the reference"),
    "alt": ("Alternate allele", "text", "sequence that was scored"),
    "gene": ("Gene", "text", "gene whose transcript gives the consequence"),
    "transcript": ("Transcript", "text", "transcript that gives the consequence"),
    "consequence": ("Consequence", "term", "Sequence Ontology term of the predicted consequence"),
    "consequence_source": ("Consequence from", "text", "where the consequence comes from"),
    "hgvs_p": ("Protein change", "text", "change of the protein in HGVS notation"),
    "score": ("Score", "number", "higher means more likely functional; the range beside it is by each strand alone"),
    "score_low": ("Score, low", "number", "score by the strand that finds the change less surprising"),
    "score_high": ("Score, high", "number", "score by the strand that finds the change more surprising"),
    "llr": ("LLR", "number", "log p(alt) - log p(ref), natural logarithm; lower is more surprising"),
    "llr_calibrated": ("Calibrated LLR", "number", "LLR relative to neutral substitutions; lower is more surprising"),
    "llr_fwd": ("LLR, forward", "number", "LLR of the forward strand"),
    "llr_rev": ("LLR, reverse", "number", "LLR of the reverse complement, alleles as on the forward strand"),
    "strand_gap": ("Strand gap", "number", "difference between the LLRs of the two strands; large means uncertain"),
    "entropy": ("Entropy", "number", "uncertainty of the model about the site; low means a constrained site"),
    "embedding_l2": ("Embedding distance", "number", "Euclidean distance between the embeddings of the two alleles"),
    "embedding_cosine": ("Embedding cosine", "number", "cosine measure between the embeddings of the two alleles"),
    "consequence_weight": ("Consequence weight", "number", "part of the score that the consequence alone gives"),
    "model_term": ("Model term", "number", "part of the score that the models give"),
    "rank_by_consequence": ("Rank by consequence", "count", "rank if the consequence were the only evidence"),
    "input_count": ("Copies", "count", "how often the input names this allele"),
    "status": ("Status", "text", "whether the allele was scored or skipped"),
    "reason": ("Reason", "text", "why the allele was skipped"),
}

# The same of what proteins add. Keys are what stands before the model's name.
PROTEIN_COLUMN_TEXT = {
    "protein_transcript": ("Protein's transcript", "text", "transcript whose protein was taken for this gene"),
    "protein": ("Protein", "text", "first digits of the SHA-256 of the protein's residues"),
    "uniprot": ("UniProt", "text", "accession of the protein"),
    "protein_effect": ("Effect on the protein", "term", "Sequence Ontology term of the change of this transcript"),
    "residue": ("Residue", "residue", "first changed residue, 1-based, with the residues before and after the change"),
    "residue_ref": ("Residues before", "text", "residues of the reference that change"),
    "residue_alt": ("Residues after", "text", "residues in their place"),
    "hgvs_c": ("Coding change", "text", "change of the coding sequence in HGVS notation"),
    "protein_hgvs_p": (
        "Protein change, this transcript",
        "text",
        "change of this transcript's protein in HGVS notation",
    ),
    "protein_best": (
        "Protein z",
        "number",
        "the highest z of any protein or structure model, whose name stands beside it",
    ),
    "protein_llr": ("Protein LLR", "number", "log p(alt) - log p(ref) of the residue; lower is more surprising"),
    "protein_z": (
        "Protein z",
        "number",
        "standard deviations by which the change is more surprising than the mean substitution of that protein",
    ),
    "protein_entropy": (
        "Protein entropy",
        "number",
        "uncertainty of the model about the residue, in nats; low: constrained",
    ),
    "protein_method": ("Protein method", "text", "how the protein model was asked"),
    "structure_llr": ("Structure LLR", "number", "log p(alt) - log p(ref) of the residue given the backbone"),
    "structure_z": ("Structure z", "number", "as protein z, of the structure model"),
    "structure_entropy": (
        "Structure entropy",
        "number",
        "uncertainty of the structure model about the residue, in nats",
    ),
    "missense_score": (
        "Missense score",
        "number",
        "ProteinMPNN, the structure and the chemistry of the change in one number; lower does more harm",
    ),
    "structure_method": ("Structure method", "text", "how the structure model was asked"),
    "structure_reason": ("No structure since", "text", "why the residue has no structure features"),
    "blosum62": ("BLOSUM62", "number", "how often related proteins exchange the two residues; below 0 is rare"),
    "hydrophobicity_change": ("Hydrophobicity change", "number", "Kyte-Doolittle scale; above 0 is more hydrophobic"),
    "plddt": ("pLDDT", "number", "confidence of the predicted structure, 0 to 100; it says nothing of damage"),
    "relative_solvent_accessibility": ("Solvent accessibility", "number", "0 is buried, about 1 is fully exposed"),
    "secondary_structure": ("Secondary structure", "text", "H helix, E strand, C neither"),
    "contact_number": ("Contact number", "count", "residues within 10 Å; high in a protein's core"),
    "half_sphere_up": ("Half sphere, up", "count", "residues within 13 Å on the side chain's side"),
    "half_sphere_down": ("Half sphere, down", "count", "residues within 13 Å on the other side"),
    "site_distance": ("Distance to a site", "number", "Å to the nearest annotated site"),
    "pae_domain": ("Domain", "count", "number of the domain by predicted aligned error; -1 for none"),
    "haplotype_hgvs_p": (
        "Joint change",
        "text",
        "change of the protein together with phased alleles of the same codon",
    ),
    "haplotype_with": ("Jointly with", "text", "the other alleles of that codon on the same chromosome"),
    "haplotype_carriers": ("Joint carriers", "count", "chromosomes that carry them together"),
    "haplotype_llr": ("Joint LLR", "number", "protein LLR of the joint change"),
    "protein_term": ("Protein term", "number", "part of the score that protein and structure models give"),
    "protein_status": ("Protein status", "text", "whether protein or structure models scored the change"),
    "protein_reason": ("No protein score since", "text", "why they did not"),
}
COLUMN_TEXT |= PROTEIN_COLUMN_TEXT
DERIVED = ("protein_best", "protein_best_model")  # columns of the page that the run's files do not have

CITATIONS = {
    "snakemake": "Mölder F, et al. Sustainable data analysis with Snakemake. F1000Research 2021;10:33.",
    "pysam": "Danecek P, et al. Twelve years of SAMtools and BCFtools. GigaScience 2021;10:giab008.",
    "csq": "Danecek P, McCarthy SA. BCFtools/csq: haplotype-aware variant consequences. "
    "Bioinformatics 2017;33:2037-2039.",
    "biotite": "Kunzmann P, et al. Biotite: new tools for a versatile Python bioinformatics library. "
    "BMC Bioinformatics 2023;24:236. doi:10.1186/s12859-023-05345-6.",
    "alphafold": "Jumper J, et al. Highly accurate protein structure prediction with AlphaFold. Nature "
    "2021;596:583-589. doi:10.1038/s41586-021-03819-2.",
    "alphafold_db": "Varadi M, et al. AlphaFold Protein Structure Database in 2024: providing structure coverage for "
    "over 214 million protein sequences. Nucleic Acids Research 2024;52:D368-D375. doi:10.1093/nar/gkad1011.",
    "alphafold3": "Abramson J, et al. Accurate structure prediction of biomolecular interactions with AlphaFold 3. "
    "Nature 2024;630:493-500. doi:10.1038/s41586-024-07487-w.",
    "colabfold": "Mirdita M, et al. ColabFold: making protein folding accessible to all. Nature Methods "
    "2022;19:679-682. doi:10.1038/s41592-022-01488-1.",
    "accessibility": "Tien MZ, et al. Maximum allowed solvent accessibilites of residues in proteins. PLoS ONE "
    "2013;8:e80635. doi:10.1371/journal.pone.0080635.",
    "half_sphere": "Hamelryck T. An amino acid has two sides: a new 2D measure provides a different view of solvent "
    "exposure. Proteins 2005;59:38-48. doi:10.1002/prot.20379.",
    "blosum62": "Henikoff S, Henikoff JG. Amino acid substitution matrices from protein blocks. PNAS "
    "1992;89:10915-10919. doi:10.1073/pnas.89.22.10915.",
    "hydrophobicity": "Kyte J, Doolittle RF. A simple method for displaying the hydropathic character of a protein. "
    "Journal of Molecular Biology 1982;157:105-132. doi:10.1016/0022-2836(82)90515-0.",
    "3dmol": "Rego N, Koes D. 3Dmol.js: molecular visualization with WebGL. Bioinformatics 2015;31:1322-1324. "
    "doi:10.1093/bioinformatics/btu829.",
}
# Where structures come from, and what is cited for it.
SOURCES = {
    "alphafold_db": ("from AlphaFold DB", ("alphafold", "alphafold_db")),
    "alphafold2": ("by AlphaFold 2", ("alphafold",)),
    "alphafold3": ("by AlphaFold 3", ("alphafold3",)),
    "colabfold": ("by ColabFold", ("alphafold", "colabfold")),
    "folder": ("from local folders", ()),
    "esmfold": ("folded by ESMFold", ()),
}
PROTEIN_LIMITS = (
    "pLDDT is the confidence of a prediction: a confident residue is not for that reason an important one.",
    "Structures are those of the reference protein; none is folded anew with the change in it.",
    "Stops, frameshifts and lost starts put no residue in the place of another, so no protein model scores them.",
    "Effects on splicing, expression or on partners that the structure lacks are not in these scores.",
)


# --- numbers and words ---


def is_missing(value: object) -> bool:
    """True for None, NaN and pandas' NA."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or value != value


def figure(value: float | None) -> str:
    """A number with three significant digits and a true minus sign; an en dash if it is missing.

    The browser formats the ranked table's numbers by the same rule.
    """
    if is_missing(value):
        return DASH
    number = float(value)
    size = abs(number)
    if math.isinf(number):
        text = "-∞" if number < 0 else "∞"
    elif size == 0:
        text = "0"
    elif size >= 999.5:
        text = f"{number:,.0f}"
    elif size < 1e-3:
        mantissa, exponent = f"{number:.2e}".split("e")
        text = f"{mantissa} × 10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    else:
        text = f"{number:#.3g}".rstrip(".")
    return text.replace("-", "−")


def count(value: float | None) -> str:
    """A count or mid-rank with thousands separators; an en dash if it is missing."""
    if is_missing(value):
        return DASH
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def counted(number: float, singular: str, plural: str | None = None) -> str:
    """`1 allele`, `2,500 alleles`."""
    return f"{count(number)} {singular if number == 1 else plural or singular + 's'}"


def duration(seconds: float | None) -> str:
    """`0.42 s`, `3 min 12 s`, `2 h 5 min`."""
    if is_missing(seconds):
        return DASH
    if seconds < 60:
        return f"{figure(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60} min"


def moment(text: str | None) -> str:
    """An ISO 8601 time as `1 January 2025, 10:05 UTC`; other text as it is."""
    from datetime import datetime

    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text or DASH)
    return f"{time.day} {time:%B %Y, %H:%M} {time.tzname() or ''}".strip()


def size(number_of_bytes: float | None) -> str:
    """Bytes in decimal units, three significant digits."""
    if is_missing(number_of_bytes):
        return DASH
    step = 0 if number_of_bytes < 1000 else min(4, int(math.log10(number_of_bytes) // 3))
    scaled = number_of_bytes / 1000**step
    return f"{count(scaled) if step == 0 else figure(scaled)} {('bytes', 'kB', 'MB', 'GB', 'TB')[step]}"


def term(consequence: object) -> str:
    """A Sequence Ontology term, or several joined by `&`, in words: `missense_variant` is `missense`."""
    parts = str(consequence).split("&") if not is_missing(consequence) and str(consequence) else []
    return ", ".join(part.removesuffix("_variant").replace("_", " ") for part in parts) or DASH


def allele_label(chrom: object, pos: float, ref: object, alt: object) -> str:
    """`chr20:1,234,567 A>G`; of a long allele the first letters and its length."""

    def short(allele: str) -> str:
        if len(allele) <= ALLELE_LETTERS:
            return allele
        return f"{allele[: ALLELE_LETTERS // 2]}… ({len(allele):,} bp)"

    return f"{chrom}:{count(pos)} {short(str(ref))}>{short(str(alt))}"


def listed(items: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))


def link(text: object) -> str | None:
    """The web address of a card or citation: the text itself, else the DOI or PubMed number in it; None without one."""
    text = str(text or "").strip()
    if re.fullmatch(r"https?://[^\s<>\"']+", text):
        return text
    if doi := re.search(r"\b10\.\d{4,9}/[^\s<>\"';,]*[^\s<>\"';,.)]", text):
        return f"https://doi.org/{doi[0]}"
    pubmed = re.search(r"\bPMID:?\s*(\d{1,8})\b", text)
    return f"https://pubmed.ncbi.nlm.nih.gov/{pubmed[1]}/" if pubmed else None


def reason_text(reason: object) -> str:
    """A skip reason in words; an unknown reason as it is, and nothing for no reason."""
    return "" if is_missing(reason) else REASON_TEXT.get(reason, str(reason))


def protein_reason_text(reason: object) -> str:
    """As `reason_text`, of a change of a protein."""
    return "" if is_missing(reason) else PROTEIN_REASON_TEXT.get(reason, str(reason))


# --- what happened to the alleles ---


def account(summary: Mapping[str, Any], ranked: pandas.DataFrame) -> dict[str, Any]:
    """The balance of the input alleles: rows by final status and reason, their sums, and whether these match.

    The rows are counted in the ranked table, since a model may skip what the variants stage let pass; the totals are
    those of the variants stage, so that a row lost on the way shows.
    """
    groups = ranked.assign(reason=ranked["reason"].fillna("")).groupby(["status", "reason"])["input_count"]
    rows = [
        {"status": status, "reason": reason, "input": int(group.sum()), "unique": len(group)}
        for (status, reason), group in groups
    ]
    rows.sort(key=lambda row: (row["status"] != Status.SCORED, -row["input"]))
    sums = {key: sum(row[key] for row in rows) for key in ("input", "unique")}
    scored = sum(row["input"] for row in rows if row["status"] == Status.SCORED)
    totals = {"input": summary["input_alleles"], "unique": summary["unique_alleles"]}
    return {
        **totals,
        "rows": rows,
        "sums": sums,
        "scored": scored,
        "skipped": sums["input"] - scored,
        "adds_up": sums == totals,
    }


def account_proteins(ranked: pandas.DataFrame) -> dict[str, Any] | None:
    """What became of the alleles that touch a coding sequence; None of a run without proteins.

    Returns:
        coding: unique alleles in coding sequences, of `unique`. rows: these by status and reason, with `input` and
        `unique` counts; their sums are in `sums`. structure: whether structures were asked for, and if so, how many
        alleles have their features and why others that a model could score do not, as `structure_rows`.
    """
    if "protein_status" not in ranked:
        return None
    coding = ranked[ranked["protein_status"].map(lambda value: not is_missing(value) and value != "").astype(bool)]

    def counted_by(reasons: pandas.Series, rows: pandas.DataFrame, yes: str) -> list[dict[str, Any]]:
        groups = rows.assign(reason_=reasons.fillna("")).groupby("reason_")["input_count"]
        found = [{"reason": name, "input": int(group.sum()), "unique": len(group)} for name, group in groups]
        found.sort(key=lambda row: (row["reason"] != "", -row["input"]))
        return [row | {"text": protein_reason_text(row["reason"]) or yes} for row in found]

    rows = counted_by(coding["protein_reason"], coding, "")
    for row in rows:
        row["status"] = str(Status.SKIPPED if row["reason"] else Status.SCORED)
    structure_rows = []
    if "structure_reason" in coding:
        asked = coding[coding["contact_number"].notna() | (coding["structure_reason"].fillna("") != "")]
        structure_rows = counted_by(asked["structure_reason"], asked, "the residue is in a structure")
    return {
        "coding": len(coding),
        "unique": len(ranked),
        "rows": rows,
        "sums": {key: sum(row[key] for row in rows) for key in ("input", "unique")},
        "structure_rows": structure_rows,
    }


# --- figures ---


@dataclass(frozen=True)
class Axis:
    """A linear axis; `ticks` are round values inside `low`..`high`."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> str:
        """Position as a percentage of the width, held inside the axis."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return f"{100 * share:.2f}%"

    def labels(self) -> list[tuple[str, str]]:
        """Position and text of every tick."""
        return [(self.at(tick), f"{tick:,.6g}".replace("-", "−")) for tick in self.ticks]

    def span(self, low: float, high: float) -> str:
        """Distance between two values as a percentage of the width."""
        return f"{float(self.at(high)[:-1]) - float(self.at(low)[:-1]):.2f}%"


def axis_over(low: float, high: float, wanted: int = 6) -> Axis:
    """An axis over `low`..`high` with about `wanted` round ticks; a span of zero is widened."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    pad = 0.02 * (high - low)
    low, high = low - pad, high + pad
    ticks = tuple(round(i * step, 12) for i in range(math.ceil(low / step), math.floor(high / step) + 1))
    return Axis(low, high, ticks)


def distribution(ranked: pandas.DataFrame, model: str) -> dict[str, Any] | None:
    """Calibrated LLRs of `model` by consequence class: five quantiles, or the points themselves where they are few.

    Classes come in the order of their consequence weight, else of their median. Plain LLRs stand in where a run has
    no calibrated ones. None if the model scored nothing.
    """
    for measure in ("llr_calibrated", "llr"):
        column = f"{measure}.{model}"
        if column in ranked and ranked[column].notna().any():
            break
    else:
        return None
    valid = ranked[ranked[column].notna()]
    classes = valid["consequence"].map(lambda value: "" if is_missing(value) else str(value))
    common = classes.value_counts().index[:CLASSES_DRAWN]
    classes = classes.where(classes.isin(common), "all other classes")
    rows = []
    for name, group in valid.groupby(classes):
        values = group[column].astype(float)
        weights = group["consequence_weight"] if "consequence_weight" in group else values * math.nan
        quantiles = values.quantile([0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
        points = sorted(values) if len(values) < POINTS_BELOW else []
        rows.append({"name": name, "n": len(values), "quantiles": quantiles, "points": points})
        rows[-1]["weight"] = weights.mean()
    rows.sort(key=lambda row: (-math.inf if is_missing(row["weight"]) else -row["weight"], row["quantiles"][2]))
    ends = [value for row in rows for value in (row["points"] or row["quantiles"])]
    return {"model": model, "measure": measure, "rows": rows, "axis": axis_over(min(*ends, 0.0), max(*ends, 0.0))}


def swarm(positions: Iterable[float], gap: float = 1.1) -> list[tuple[float, float]]:
    """Positions (percent, ascending) with a height from -1 to 1 each, so that neighbours closer than `gap` part.

    Heights are steps up and down from the middle in turn; a tall heap of ties makes the steps smaller.
    """
    ends: list[float] = []
    placed = []
    for position in sorted(positions):
        lane = next((i for i, end in enumerate(ends) if position - end >= gap), len(ends))
        ends[lane : lane + 1] = [position]
        placed.append((position, (lane + 1) // 2 * (1 if lane % 2 else -1)))
    step = 1 / max(2, len(ends) // 2)
    return [(position, height * step) for position, height in placed]


# --- known alleles ---


def read_highlights(path: Path) -> pandas.DataFrame:
    """The table of known alleles (tab-separated, `pos` 1-based).

    Raises:
        BadInput: a column is missing or a position is no whole number.
    """
    import pandas

    table = pandas.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    if absent := [column for column in KNOWN_ALLELES if column not in table]:
        raise BadInput(f"{path} line 1: no column {', '.join(absent)}; expected {', '.join(KNOWN_ALLELES)}; add them")
    wrong = table.index[~table["pos"].str.fullmatch(r"\d+")]
    if len(wrong):
        raise BadInput(
            f"{path} line {wrong[0] + 2}: the position is {table['pos'][wrong[0]]!r}; expected a whole number, "
            "1-based; correct it"
        )
    return table.astype({"pos": "int64"})


def percentiles(ranks: pandas.Series, group_size: pandas.Series | int) -> pandas.Series:
    """Share of the other alleles that a rank is ahead of, in percent: 100 for the first, 0 for the last, NaN alone."""
    others = group_size - 1
    return 100 * (group_size - ranks) / (others.where(others > 0) if hasattr(others, "where") else others or math.nan)


def known_alleles(ranked: pandas.DataFrame, highlights: pandas.DataFrame) -> pandas.DataFrame:
    """The known alleles with their mid-ranks and percentiles among all scored alleles, best first.

    Three orders are compared over the same alleles: the full score, the full score within the consequence class
    (`class_rank` of `class_size`), and the consequence alone. Alleles that the input lacks have `status` NaN.
    """
    pool = ranked[ranked["score"].notna()].copy()
    pool["score_rank"] = pool["score"].rank(ascending=False)
    pool["score_percentile"] = percentiles(pool["score_rank"], len(pool))
    classes = pool.groupby("consequence", dropna=False)["score"]
    pool["class_rank"], pool["class_size"] = classes.rank(ascending=False), classes.transform("size")
    pool["class_percentile"] = percentiles(pool["class_rank"], pool["class_size"])
    by_consequence = pool["rank_by_consequence"] if "rank_by_consequence" in pool else pool["score"] * math.nan
    pool["consequence_rank"] = by_consequence.rank()
    pool["consequence_percentile"] = percentiles(pool["consequence_rank"], len(pool))

    key = list(ALLELE[1:])
    places = [column for column in pool if column not in ranked]
    facts = ranked[[*key, "consequence", "status", "reason"]].join(pool[places])
    facts = facts[facts["pos"].notna()].astype({"pos": "int64"})
    facts = facts.assign(chrom=facts["chrom"].astype(str), ref=facts["ref"].astype(str), alt=facts["alt"].astype(str))
    found = highlights.merge(facts, on=key, how="left")
    return found.sort_values("score_percentile", ascending=False, na_position="last", ignore_index=True)


def known_summary(known: pandas.DataFrame) -> str:
    """How the known alleles fare by full score against by consequence alone, in words that claim no more than that."""
    present = known["status"].notna()
    scored = known[known["score_percentile"].notna() & known["consequence_percentile"].notna()]
    text = f"{counted(present.sum(), 'known allele')} of {len(known):,} in the list occur in this input"
    text = text.replace("occur", "occurs") if present.sum() == 1 else text
    if scored.empty:
        return f"{text}, and none of them has a score, so nothing can be said about their ranks."
    full, alone = scored["score_percentile"], scored["consequence_percentile"]
    ahead, behind = int((full > alone).sum()), int((full < alone).sum())
    gain = full.median() - alone.median()
    verdict = "higher" if gain > 0.05 else "lower" if gain < -0.05 else "no differently"
    inside = scored["class_percentile"].median()
    text += (
        f"; {len(scored):,} of them scored. Their median percentile is {full.median():.1f} by the full score against "
        f"{alone.median():.1f} by the consequence alone: the models place the typical one {verdict}"
        + ("" if verdict == "no differently" else f" by {abs(gain):.1f} points")
        + f" ({ahead:,} rise, {behind:,} fall, {len(scored) - ahead - behind:,} stay)."
    )
    if not is_missing(inside):
        text += (
            f" Within their own consequence class, where the consequence alone gives every allele 50, "
            f"their median percentile is {inside:.1f}."
        )
    return text + " Alleles chosen because they are known are an illustration, not a benchmark."


def strips(known: pandas.DataFrame) -> list[dict[str, Any]]:
    """The three lanes of the strip plot of percentiles; lanes without a value are left out."""
    lanes = {
        "score_percentile": "Full score",
        "class_percentile": "Full score, within its class",
        "consequence_percentile": "Consequence alone",
    }
    drawn = []
    for column, label in lanes.items():
        values = known[column].dropna()
        if len(values):
            drawn.append({"key": column, "label": label, "median": values.median(), "points": swarm(values)})
            drawn[-1].update(n=len(values), low=values.min(), high=values.max())
    return drawn


# --- the ranked table ---


def models_of(ranked: pandas.DataFrame) -> list[str]:
    """Identifiers of the models that the evidence columns name, in column order."""
    return list(dict.fromkeys(column.split(".", 1)[1] for column in ranked if str(column).startswith("llr.")))


def column_facts(ranked: pandas.DataFrame) -> list[dict[str, Any]]:
    """Key, label, kind and meaning of every column of the ranked table; `shown` if the page's table has it."""
    import pandas

    models = models_of(ranked)
    shown = {"rank", "gene", "consequence", "hgvs_p", "score", "input_count", "status", "residue", "protein_best"}
    shown |= {f"llr_calibrated.{model}" for model in models[:MODELS_IN_TABLE]}
    facts = []
    for key in map(str, ranked.columns):
        stem, _, model = key.partition(".")
        numeric = pandas.api.types.is_numeric_dtype(ranked[key])
        label, kind, meaning = COLUMN_TEXT.get(stem, (key, "number" if numeric else "text", ""))
        protein = stem in PROTEIN_COLUMN_TEXT or stem in DERIVED
        if model and (len(models) > 1 or protein) and stem in COLUMN_TEXT:
            label = f"{label}, {model}"
        facts.append({"key": key, "label": label, "kind": kind, "meaning": meaning, "shown": key in shown})
        if protein:
            facts[-1] |= {"protein": True, "derived": stem in DERIVED}
    return facts


def with_best(ranked: pandas.DataFrame) -> pandas.DataFrame:
    """The table with the highest z of any protein or structure model and that model's name; as it is without any."""
    keys = [key for key in map(str, ranked.columns) if key.partition(".")[0] in ("protein_z", "structure_z")]
    if not keys:
        return ranked
    z = ranked[keys].astype(float)
    best = z.max(axis=1)
    names = z.fillna(-math.inf).idxmax(axis=1).map(lambda key: key.partition(".")[2])
    table = ranked.copy()
    place = max(table.columns.get_loc(key) for key in keys) + 1
    table.insert(place, "protein_best", best)
    table.insert(place + 1, "protein_best_model", names.where(best.notna(), ""))
    return table


def residue_label(residue: object, ref: object, alt: object, effect: object = "") -> str:
    """`R175H`, `R175del`, `R175fs`; of several residues the first letters; an en dash for none."""

    def short(letters: object) -> str:
        text = "" if is_missing(letters) else str(letters)
        return text if len(text) <= RESIDUE_LETTERS else f"{text[:RESIDUE_LETTERS]}…"

    if is_missing(residue):
        return DASH
    missing = "fs" if "frameshift" in str(effect) else "del"
    return f"{short(ref)}{int(residue)}{'' if short(ref) else 'ins'}{short(alt) or missing}"


def packed(values: pandas.Series, kind: str) -> dict[str, Any]:
    """A column for the page: five significant digits, null for missing, and repeated text as codes into `levels`."""
    import pandas

    if kind in ("text", "term"):
        text = values.astype(object).where(values.notna(), "").map(str)
        codes, levels = pandas.factorize(text)
        if len(levels) <= len(text) / 2:
            return {"codes": codes.tolist(), "levels": levels.tolist()}
        return {"values": text.tolist()}
    numbers = pandas.to_numeric(values, errors="coerce").astype(float).tolist()
    if kind in ("count", "residue"):
        return {"values": [None if x != x else int(x) if x.is_integer() else round(x, 1) for x in numbers]}
    return {"values": [float(f"{x:.5g}") if math.isfinite(x) else None for x in numbers]}


def shown_cells(row: Mapping[str, Any], facts: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row as the page shows it: the variant after the rank, the score with its range, a skip with its reason."""
    cells = []
    for column in facts:
        if not column["shown"]:
            continue
        key, kind, value, note = column["key"], column["kind"], row[column["key"]], ""
        if kind in ("number", "count"):
            text = figure(value) if kind == "number" else count(value)
        elif kind == "residue":
            text = residue_label(value, *(row.get(k) for k in ("residue_ref", "residue_alt", "protein_effect")))
        else:
            text = term(value) if kind == "term" else str(value) if not is_missing(value) and str(value) else DASH
        if key == "score" and not is_missing(row.get("score_low")) and not is_missing(row.get("score_high")):
            note = f"{figure(row['score_low'])} to {figure(row['score_high'])}"
        if key == "status":
            note = reason_text(row.get("reason"))
        if key == "protein_best" and not is_missing(value):
            note = str(row["protein_best_model"])
        cells.append({"key": key, "kind": kind, "text": text, "note": note})
        if key == "rank":
            label = allele_label(row["chrom"], row["pos"], row["ref"], row["alt"])
            cells.append({"key": "variant", "kind": "variant", "text": label, "note": ""})
    return cells


def ranked_table(ranked: pandas.DataFrame, top: int) -> dict[str, Any]:
    """The first `top` rows for the page: all of them packed by column, and the first page as cells."""
    head = with_best(ranked.head(top))
    facts = column_facts(head)
    data = {column["key"]: packed(head[column["key"]], column["kind"]) for column in facts}
    reasons = {str(reason): text for reason, text in REASON_TEXT.items()}
    records = head.head(PAGE_ROWS).to_dict("records")
    return {
        "facts": facts,
        "first_page": [shown_cells(record, facts) for record in records],
        "rows": len(head),
        "of": len(ranked),
        "consequences": sorted({str(value) for value in head["consequence"].dropna() if str(value)}),
        "statuses": sorted({str(value) for value in head["status"].dropna()}),
        "island": {
            "columns": facts,
            "data": data,
            "rows": len(head),
            "page": PAGE_ROWS,
            "reasons": reasons,
            "protein_reasons": {str(reason): text for reason, text in PROTEIN_REASON_TEXT.items()},
        },
    }


# --- words about the run ---


def plain(value: object) -> str:
    """A config value in running text: mappings as `key value` pairs, lists with commas."""
    if isinstance(value, Mapping):
        pairs = [f"{key} ({plain(v)})" if isinstance(v, Mapping) else f"{key} {plain(v)}" for key, v in value.items()]
        return ", ".join(pairs) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def citations(run: Mapping[str, Any]) -> list[str]:
    """What a paper on this run cites, in the order of the methods text: software, then models."""
    config, software = run.get("config", {}), run.get("software", {})
    keys = [key for key in ("snakemake", "pysam") if key in software]
    annotated = (config.get("consequences") or {}).get("source") == "input"
    keys += ["csq"] if (config.get("reference") or {}).get("genes") and not annotated else []
    if run.get("proteins"):
        keys += ["blosum62", "hydrophobicity"]
    if sources := run.get("structure_sources"):
        keys += [key for source in sources for key in SOURCES.get(source, ("", ()))[1]]
        keys += ["biotite", "accessibility", "half_sphere"]
    models = [str(model["citation"]) for model in run.get("models", []) if model.get("citation")]
    viewer = [CITATIONS["3dmol"]] if run.get("viewer") else []
    return list(dict.fromkeys([*(CITATIONS[key] for key in keys), *models, *viewer]))


def methods_text(run: Mapping[str, Any]) -> str:
    """A methods section to paste into a paper: plain text, paragraphs separated by blank lines.

    `run` is the content of run.json; with the key `calibration` ({model: {definition, neutral_sites,
    neutral_substitutions, sd}}) the calibration is described too. `proteins` (whether alleles were taken to proteins),
    `structure_sources` ({source: proteins}) and `viewer` (whether structures are shown) likewise.
    """
    config, counts = run.get("config", {}), run.get("counts", {})
    software, models = run.get("software", {}), run.get("models", [])
    reference, scoring = config.get("reference") or {}, config.get("scoring") or {}
    sources = citations(run)

    def cited(text: str | None) -> str:
        return f" [{sources.index(text) + 1}]" if text in sources else ""

    version = run.get("seqprior_version")
    workflow = f", a Snakemake workflow{cited(CITATIONS['snakemake'])}" if "snakemake" in software else ""
    prepare = (
        f"Variants of the cohort {run.get('cohort', 'under study')} were scored with seqprior"
        f"{f' {version}' if version else ''}{workflow}. "
        "Every record was split into one record per alternate allele, the reference allele was compared with the "
        f"reference genome{' ' + str(reference['name']) if reference.get('name') else ''}, and alleles were trimmed "
        f"and left-aligned, so that equivalent representations count once (htslib and bcftools through pysam"
        f"{' ' + software['pysam'] if 'pysam' in software else ''}{cited(CITATIONS['pysam'])})."
    )
    if "input_alleles" in counts:
        given, unique = count(counts["input_alleles"]), count(counts.get("unique_alleles"))
        prepare += f" The {given} input alleles gave {unique} unique ones"
        skipped = counts.get("skipped_by_reason") or {}
        reasons = "; ".join(f"{reason_text(reason)}: {count(n)}" for reason, n in skipped.items() if n)
        prepare += f", of which {count(counts.get('scored'))} were scored and {count(counts.get('skipped'))} skipped"
        prepare += f" ({reasons})." if reasons else "."
    if scoring.get("max_allele_length"):
        prepare += f" Alleles longer than {count(scoring['max_allele_length'])} bases were not scored."
    source = (config.get("consequences") or {}).get("source", "csq")
    own = "taken from the annotation of the input"
    if reference.get("genes") and source != "input":
        genes = Path(str(reference["genes"])).name
        where = f"{own} where it has one, else " if source == "auto" else ""
        prepare += (
            f" Consequences were {where}predicted with bcftools csq{cited(CITATIONS['csq'])} from the gene models "
            f"{genes} and are given as Sequence Ontology terms."
        )
    elif source in ("input", "auto"):
        prepare += f" Consequences were {own} and are given as Sequence Ontology terms."

    def described(model: Mapping[str, Any]) -> str:
        unit = "bases" if kind_of(model, config) == "dna" else "residues"
        facts = [
            f"{model[key]} {word}".strip()
            for key, word in (("family", "family"), ("objective", "objective"), ("species", ""))
            if model.get(key)
        ]
        if model.get("parameters"):
            parameters = model["parameters"]
            facts.append(f"{count(parameters) if isinstance(parameters, int) else parameters} parameters")
        if context := model.get("window") or model.get("context"):
            facts.append(f"window of {f'{count(context)} {unit}' if isinstance(context, int) else context}")
        if model.get("digest"):
            facts.append(f"files {str(model['digest']).removeprefix('sha256:')[:12]}")
        if model.get("revision"):
            facts.append(f"revision {str(model['revision'])[:12]}")
        if model.get("licence"):
            facts.append(f"licence {model['licence']}")
        name = model.get("name") or model["id"]
        return f"{name} ({'; '.join(facts)}){cited(str(model.get('citation') or '') or None)}"

    by_kind = {
        kind: [described(model) for model in models if kind_of(model, config) == kind]
        for kind in ("dna", "protein", "structure", "folding")
    }
    score = (
        "Each allele was scored in a window of the reference sequence around it, as long as the model's context "
        "allows"
        + (f", by {listed(by_kind['dna'])}" if by_kind["dna"] else "")
        + ". The score of an allele is the log-likelihood ratio llr = log p(alt) - log p(ref), natural logarithm: the "
        "lower, the more surprising the change. "
    )
    strands = scoring.get("strands", "both")
    if strands == "both":
        score += (
            "The forward strand and its reverse complement were scored and the two strands averaged; their "
            "difference is reported as a measure of uncertainty (strand gap)."
        )
    else:
        score += f"The strand setting was {strands}; strands were not averaged."
    for model, facts in (run.get("calibration") or {}).items():
        score += (
            f" LLRs of {model} were calibrated: the mean LLR of neutral alleles was subtracted, for single-base "
            "substitutions that of the same substitution in the same pentanucleotide context"
        )
        definition = str(facts.get("definition") or "").strip().rstrip(".")
        score += f"; neutral: {definition}" if definition else ""
        score += f" ({calibration_facts(facts)})."

    residues = _protein_methods(run, by_kind, cited)
    settings = dict(config.get("prioritise") or {})
    protein_weight, protein_clip = settings.pop("protein_weight", None), settings.pop("protein_clip", None)
    weights = settings.pop("consequence_weights", None)
    rank = "Alleles were ranked by a score, higher meaning more likely functional: the weight of the consequence plus "
    if {"model_weight", "model_clip"} <= settings.keys():
        clip = plain(settings.pop("model_clip"))
        rank += (
            f"{plain(settings.pop('model_weight'))} times the mean over models of -(calibrated LLR) / (standard "
            f"deviation of calibrated LLRs of neutral alleles of the same kind), held between -{clip} and {clip}."
        )
    else:
        rank += "a term of the calibrated LLRs."
    if (by_kind["protein"] or by_kind["structure"]) and protein_weight is not None:
        rank += (
            f" To this were added {plain(protein_weight)} times the mean over protein and structure models of the "
            f"standard deviations by which a substitution is more surprising than the mean one of its protein"
            + (f", each held between -{plain(protein_clip)} and {plain(protein_clip)}." if protein_clip else ".")
        )
    if weights:
        rank += f" Consequence weights: {plain(weights)}."
    if settings:
        rank += f" Further settings: {plain(settings)}."
    if software:
        rank += " Software: " + ", ".join(f"{name} {number}" for name, number in software.items()) + "."
    sections = [prepare, score, *residues, rank]
    if sources:
        sections.append("References\n" + "\n".join(f"[{i}] {source}" for i, source in enumerate(sources, 1)))
    return "\n\n".join(sections)


def kind_of(model: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """What a model answers for: dna, protein, structure or folding; by the config where the model does not say."""
    if model.get("kind"):
        return str(model["kind"])
    lists = config.get("models") or {}
    return next((kind for kind in ("protein", "structure") if model.get("id") in (lists.get(kind) or [])), "dna")


def _protein_methods(
    run: Mapping[str, Any], by_kind: Mapping[str, Sequence[str]], cited: Callable[[str | None], str]
) -> list[str]:
    """The paragraph of the methods on proteins, if the run has any."""
    if not run.get("proteins"):
        return []
    config = run.get("config", {}).get("protein") or {}
    order = ", ".join(str(name).replace("_", " ") for name in config.get("transcripts") or [])
    text = (
        f"For alleles in coding sequences, the protein of one transcript a gene was taken"
        f"{f' (the first there is of: {order})' if order else ''}, and the reference residue was compared with the "
        f"translation. Each substitution has its BLOSUM62 score{cited(CITATIONS['blosum62'])} and change of "
        f"hydrophobicity{cited(CITATIONS['hydrophobicity'])}."
    )
    if by_kind["protein"]:
        text += (
            f" Proteins were read by {listed(by_kind['protein'])}; the score of a substitution is llr = log p(alt) - "
            "log p(ref) over the 20 residues, and changes of length have the difference of the pseudo-likelihoods of "
            "both proteins. Stops and frameshifts have no protein score."
        )
        if config.get("marginals"):
            text += f" Marginals: {str(config['marginals']).replace('_', ' ')}."
    if sources := run.get("structure_sources"):
        given = ", ".join(
            f"{count(number)} {SOURCES.get(source, ('from ' + source, ()))[0]}"
            + "".join(cited(CITATIONS[key]) for key in SOURCES.get(source, ("", ()))[1])
            for source, number in sources.items()
        )
        text += (
            f" Structures ({given}) were aligned to the proteins, and only residues that agree were described, with "
            f"biotite{cited(CITATIONS['biotite'])}: solvent accessibility relative to the largest of each residue"
            f"{cited(CITATIONS['accessibility'])}, contacts of C-alphas within 10 Å, half-sphere exposure"
            f"{cited(CITATIONS['half_sphere'])} and secondary structure."
        )
    if by_kind["folding"]:
        text += f" Proteins without a structure were folded by {listed(by_kind['folding'])}."
    if by_kind["structure"]:
        text += f" Given the backbone alone, residues were scored by {listed(by_kind['structure'])}."
    return [text]


def calibration_facts(facts: Mapping[str, Any]) -> str:
    """Size and spread of the neutral background of one model."""
    names = ("neutral_alleles", "neutral_substitutions", "neutral_sites")
    parts = [f"{count(facts[name])} {name.replace('_', ' ')}" for name in names if not is_missing(facts.get(name))]
    return ", ".join([*parts, f"standard deviation {figure(facts.get('sd'))}"])


def limits(model: Mapping[str, Any]) -> list[str]:
    """What a model must not be used for: its entry's words, then what its licence and training data rule out."""
    said = model.get("limits") or []
    said = [said] if isinstance(said, str) else list(said)
    words = " ".join(said).lower()
    if re.search(r"\bNC\b|non-?commercial", str(model.get("licence", "")), re.IGNORECASE):
        said.append("Not for commercial purposes: the licence forbids them.")
    if model.get("species") and "species" not in words:
        far = "genomes" if model.get("kind", "dna") == "dna" else "proteins"
        said.append(f"Not for {far} far from its training data ({model['species']}).")
    if "clinical" not in words:
        said.append("Not for clinical decisions: the scores say where to look first, they prove nothing.")
    return said


def summary_text(run: Mapping[str, Any], balance: Mapping[str, Any], ranked: pandas.DataFrame, files: int) -> str:
    """The run in one paragraph of plain words."""
    asked = [model for model in run.get("models", []) if model.get("kind") != "folding"]
    names = [str(model.get("name") or model["id"]) for model in asked]
    text = (
        f"seqprior read {counted(balance['input'], 'allele')} from {counted(files, 'file')} "
        f"({count(balance['unique'])} unique after normalisation) and asked "
        f"{f'the sequence model {names[0]}' if len(names) == 1 else listed(names) or 'no model'} "
        "how surprising each change is in its surroundings. "
    )
    if balance["skipped"]:
        text += (
            f"It scored {count(balance['scored'])} of the input alleles and skipped {count(balance['skipped'])}, "
            "each with a reason given below. "
        )
    else:
        text += "It scored every one of them. "
    if len(ranked) and not is_missing(ranked["score"].iloc[0]):
        best = ranked.iloc[0]
        gene = "" if is_missing(best["gene"]) or not best["gene"] else f" in {best['gene']}"
        label = allele_label(best["chrom"], best["pos"], best["ref"], best["alt"])
        text += f"First in the ranking stands {label}{gene} ({term(best['consequence'])}). "
    return text + "The ranking says where to look first; it is not evidence that an allele causes anything."


# --- the page ---


def environment(template_dir: Path) -> Any:
    """Jinja2 with autoescape on for everything, strict about names, and with this module's words as filters."""
    import jinja2

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template_dir, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":"), "ensure_ascii": False}
    env.filters.update(figure=figure, count=count, counted=counted, duration=duration, size=size, term=term)
    env.filters["moment"] = moment
    env.filters["protein_reason_text"] = protein_reason_text
    env.filters.update(link=link, reason_text=reason_text, limits=limits, calibration_facts=calibration_facts)
    return env


def inlined(*paths: Path) -> tuple[Any, str]:
    """Assets, joined, as trusted markup, and the source expression with which a content security policy admits them."""
    import base64
    import hashlib

    from markupsafe import Markup

    text = "\n".join(path.read_text(encoding="utf-8").replace("\r\n", "\n") for path in paths)
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"'sha256-{digest}'"


def policy_of(style_source: str, script_source: str) -> str:
    """The content security policy of a page that may use its own style and scripts and nothing else."""
    return f"default-src 'none'; img-src data:; style-src {style_source}; script-src {script_source}"


def write_report(
    run: dict,
    ranked: pandas.DataFrame,
    variants_summary: dict,
    highlights: pandas.DataFrame | None,
    calibration: dict,
    output: Path,
    template_dir: Path,
    top: int,
    panels: dict | None = None,
    structure_sources: Mapping[str, int] | None = None,
) -> None:
    """Write the report.

    Args:
        run: content of run.json.
        ranked: all unique alleles, best first: columns.RANKED_LEAD, evidence columns, columns.RANKED_TAIL.
        variants_summary: files, totals and counts by status and reason.
        highlights: known alleles (columns KNOWN_ALLELES, `pos` 1-based), or None.
        calibration: {model: {neutral_sites, neutral_substitutions, sd, definition}}.
        output: the HTML file.
        template_dir: folder of template.html.j2, report.css and report.js.
        top: rows of the ranked table that the report carries.
        panels: see `panels.protein_panels`; None for none. The viewer is embedded only if one shows a structure.
        structure_sources: number of proteins by the source of their structure.

    Raises:
        BadInput: the ranked table lacks a column.
    """
    import json

    if absent := [column for column in (*RANKED_LEAD, "input_count", *RANKED_TAIL) if column not in ranked]:
        raise BadInput(f"ranked table: no column {', '.join(absent)}; expected the prioritise stage's table; rerun it")
    balance = account(variants_summary, ranked)
    files = variants_summary.get("files", [])
    known = None if highlights is None or highlights.empty else known_alleles(ranked, highlights)
    scripts = ["marks.js", *(["panels.js"] if panels else []), "report.js"]
    style, style_source = inlined(*(template_dir / name for name in STYLES))
    script, script_source = inlined(*(template_dir / name for name in scripts))
    viewer, viewer_source, licence = None, "", ""
    if panels and panels["structures"]:
        viewer, viewer_source = inlined(template_dir / VIEWER)
        licence = (template_dir / VIEWER_LICENCE).read_text(encoding="utf-8")
    proteins = account_proteins(ranked)
    run = {**run, "proteins": proteins is not None, "structure_sources": dict(structure_sources or {})}
    run["viewer"] = viewer is not None
    drawn = [figures for model in models_of(ranked) if (figures := distribution(ranked, model))]
    text = (
        environment(template_dir)
        .get_template("template.html.j2")
        .render(
            run=run,
            summary=variants_summary,
            balance=balance,
            proteins=proteins,
            protein_limits=PROTEIN_LIMITS,
            panels=panels,
            viewer=viewer,
            viewer_licence=licence,
            files=files,
            scored=int(ranked["score"].notna().sum()),
            lead=summary_text(run, balance, ranked, len(files)),
            distributions=drawn,
            calibration=calibration,
            table=ranked_table(ranked, top),
            known=None if known is None else known.astype(object).where(known.notna(), None).to_dict("records"),
            known_summary="" if known is None else known_summary(known),
            strips=[] if known is None else strips(known),
            percent_axis=Axis(-2.0, 102.0, (0, 25, 50, 75, 100)),
            methods=methods_text({**run, "calibration": calibration}).split("\n\n"),
            config=json.dumps(run.get("config", {}), indent=2, ensure_ascii=False, default=str),
            allele_label=allele_label,
            style=style,
            script=script,
            policy=policy_of(style_source, f"{script_source} {viewer_source}".strip()),
        )
    )
    with written_whole(output) as partial:
        # Names from files may carry bytes that are not UTF-8 (surrogates after decoding): they show as "?".
        partial.write_text(text, encoding="utf-8", errors="replace")
