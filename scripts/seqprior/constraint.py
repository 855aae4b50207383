"""Binding sites that a sequence model constrains: runs of positions whose base it expects.

A run stands out of the track of information where that lies above what nine of ten positions of shuffled sequence have.
Shuffled sequence, with the same dinucleotides, also says how many runs of a score are found by chance, from which the
false discovery rate follows. Sites are named by the motif that scans best in them, if that is significant: with some
hundred motifs, nearly every stretch of bases has one at p < 0.001.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqprior.columns import SITES, sites_schema
from seqprior.files import written_whole
from seqprior.motifs import Motif, scan
from seqprior.sequence import encode
from seqprior.significance import error_rates, standing_out
from seqprior.tracks import Scan

log = logging.getLogger(__name__)

TRACK = "information"
BASELINE = 0.9  # quantile of the control's positions above which a position counts
FLANK = 5  # bases either side of a site in which its motif may lie
MOTIF_P = 1e-3  # p-value of a motif in a site, one place at a time
NAMED = 4096  # sites that are scanned for motifs at a time


@dataclass
class Runs:
    """Runs of a scan: number of the contig, start, end (0-based half-open) and score of each, and what was searched."""

    contig: np.ndarray
    start: np.ndarray
    end: np.ndarray
    score: np.ndarray
    bases: int


def find_runs(table: Scan, baseline: float, contigs: Mapping[str, int]) -> Runs:
    """Runs above the baseline in every block of a scan.

    Memory: some bytes for each run. A run does not go on over the border of two blocks.
    """
    number = {name: at for at, name in enumerate(contigs)}
    parts = [np.empty((0, 4))]
    bases = 0
    for chrom, start, _, (values,) in table.rows([TRACK]):
        known = np.isfinite(values)
        bases += int(known.sum())
        found = standing_out(np.where(known, values, 0.0).astype(np.float64), baseline)
        if found:
            place = number[chrom]
            parts.append(np.array([(place, start + first, start + last, score) for first, last, score in found]))
    rows = np.concatenate(parts)
    contig, first, last = (rows[:, column].astype(np.int64) for column in range(3))
    return Runs(contig, first, last, rows[:, 3], bases)


def control_baseline(control: Scan) -> float:
    """The quantile `BASELINE` of information in shuffled sequence, in bits, to a thousandth."""
    edges = np.arange(0.0, 2.002, 0.001)
    counts = np.zeros(len(edges) - 1, np.int64)
    for *_, (values,) in control.rows([TRACK]):
        counts += np.histogram(values[np.isfinite(values)], edges)[0]
    if not counts.sum():
        return 2.0
    return float(edges[1 + np.searchsorted(np.cumsum(counts), BASELINE * counts.sum())])


def find_constrained(
    table: Scan,
    control: Scan,
    fasta: Path,
    contigs: Mapping[str, int],
    motifs: Sequence[Motif],
    fdr: float,
    output: Path,
) -> int:
    """Write `columns.SITES` of the runs whose q-value is at most `fdr`, in order; none is a result too.

    Args:
        contigs: length of each contig, in the reference's order.

    Returns:
        The number of sites.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if TRACK not in table.tracks:
        rows: Iterator[list[dict]] = iter(())
        kept = 0
        log.info("the scan has no information tracks, so no constrained sites are looked for")
    else:
        baseline = control_baseline(control)
        runs, null = find_runs(table, baseline, contigs), find_runs(control, baseline, contigs)
        p_values, q_values = error_rates(runs.score, null.score, runs.bases, null.bases)
        chosen = np.flatnonzero(q_values <= fdr)
        kept = len(chosen)
        log.info(
            "%d runs above %.3f bits in %d bases, %d in %d shuffled ones; %d sites at a false discovery rate of %g",
            len(runs.score),
            baseline,
            runs.bases,
            len(null.score),
            null.bases,
            kept,
            fdr,
        )
        names = list(contigs)
        places = [(names[runs.contig[n]], int(runs.start[n]), int(runs.end[n])) for n in chosen]
        figures = np.stack([runs.score, p_values, q_values], 1)[chosen]
        rows = named(places, figures, fasta, motifs, fdr)
    schema = sites_schema()
    with written_whole(output) as partial, pq.ParquetWriter(partial, schema) as writer:
        for part in rows:
            writer.write_table(pa.Table.from_pylist(part, schema=schema))
    return kept


def named(
    places: Sequence[tuple[str, int, int]], figures: np.ndarray, fasta: Path, motifs: Sequence[Motif], fdr: float
) -> Iterator[list[dict]]:
    """Rows of `SITES`, some thousand at a time, each with its best motif if that has a q-value of at most `fdr`.

    Args:
        places: contig, start, end of each site. figures: score, p- and q-value, (N, 3).
    """
    best = best_motifs(places, fasta, motifs)
    for first in range(0, len(places), NAMED):
        rows = []
        for n in range(first, min(first + NAMED, len(places))):
            values = (*places[n], ".", "constraint", "", *map(float, figures[n]), "", "", None, None)
            row = dict(zip(SITES, values, strict=True))
            if best.motif[n] >= 0 and best.q_value[n] <= fdr:
                motif = motifs[best.motif[n]]
                row |= {"strand": "-" if best.reverse[n] else "+", "motif": motif.id, "motif_name": motif.name}
                row |= {"motif_p_value": float(best.p_value[n]), "motif_q_value": float(best.q_value[n])}
            rows.append(row)
        yield rows


@dataclass
class BestMotifs:
    """The motif of the lowest p-value in each site: its number (-1 for none), strand, p- and q-value, each (N,)."""

    motif: np.ndarray
    reverse: np.ndarray
    p_value: np.ndarray
    q_value: np.ndarray


def best_motifs(places: Sequence[tuple[str, int, int]], fasta: Path, motifs: Sequence[Motif]) -> BestMotifs:
    """The best motif of each site.

    The p-value is that of one place. The q-value is Benjamini and Hochberg's over all sites, of the p-value times the
    number of places at which motifs were tried in the site (Bonferroni).
    """
    import pysam
    from scipy.stats import false_discovery_control

    count = len(places)
    best = BestMotifs(np.full(count, -1), np.zeros(count, bool), np.ones(count), np.ones(count))
    widths = np.array([len(motif.matrix) for motif in motifs], np.int64)
    with pysam.FastaFile(str(fasta)) as reference:
        for first in range(0, count, NAMED):
            portion = places[first : first + NAMED]
            texts = [reference.fetch(name, max(start - FLANK, 0), end + FLANK) for name, start, end in portion]
            hits = scan(motifs, [encode(text) for text in texts], MOTIF_P).drop_duplicates("sequence")
            at = first + hits["sequence"].to_numpy(np.int64)
            best.motif[at], best.reverse[at] = hits["motif"], hits["strand"] == "-"
            best.p_value[at] = hits["p_value"]
            tried = np.array([2 * np.maximum(len(text) - widths + 1, 0).sum() for text in texts])
            best.q_value[at] = np.minimum(best.p_value[at] * tried[at - first], 1.0)
    if count:
        best.q_value = false_discovery_control(best.q_value)
    return best


def gather_sites(tables: Sequence[Path], contigs: Mapping[str, int], tsv: Path, bed: Path) -> int:
    """All sites in one table and as BED, in the reference's order; a site that two sources find stays two.

    The BED file has contig, start, end, name (the motif's, or `site`), score (-10 log10 of the q-value, at most 1000),
    strand, source, element and q-value.

    Returns:
        The number of sites.
    """
    import pandas as pd

    frames = [pd.read_parquet(path) for path in tables]
    frames = [frame for frame in frames if len(frame)]
    sites = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(SITES))
    order = {name: at for at, name in enumerate(contigs)}
    sites = sites.assign(place=sites["chrom"].map(order))
    sites = sites.sort_values(["place", "start", "end", "source", "element"], kind="stable").drop(columns="place")
    with written_whole(tsv) as partial:
        sites.to_csv(partial, sep="\t", index=False, float_format="%.6g", lineterminator="\n")
    with written_whole(bed) as partial, partial.open("w", encoding="utf-8") as handle:
        for row in sites.itertuples():
            height = min(round(-10 * np.log10(max(row.q_value, 1e-100))), 1000)
            name = (row.motif_name or "site").replace("\t", " ").replace(" ", "_")
            fields = (row.chrom, row.start, row.end, name, height, row.strand, row.source, row.element or ".")
            print(*fields, f"{row.q_value:.4g}", sep="\t", file=handle)
    return len(sites)
