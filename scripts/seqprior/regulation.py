"""What alleles do to regulation: the change of an element's probability, and of the binding sites that they touch.

A head sees both haplotypes of an allele in windows of its own width: the allele at the middle, and a quarter of one
to either side of it, so that the answer hangs on no single frame. The logits of the three are averaged. The windows of
both haplotypes start at the same base of the reference, so that tokens of several bases keep their frame up to the
allele, and end where they are as wide as the head's; the model sees `context` more bases.

A binding site's motif is scored, in bits, at all places that touch the allele, on both strands, in either haplotype.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from seqprior.batching import Progress
from seqprior.features import Reader
from seqprior.files import written_whole
from seqprior.motifs import Motif, best_score
from seqprior.scanning import Region, asked, distinct_projections, place_of, projected
from seqprior.sequence import encode
from seqprior.variants import ReferenceSequence, scored_alleles
from seqprior.windows import padded

if TYPE_CHECKING:
    import pandas as pd

    from seqprior.heads import Head

log = logging.getLogger(__name__)

BLOCK = 512  # alleles that are worked on at a time
READ_TEXTS = 64  # haplotypes whose states are held at a time
SITE_COLUMNS = ("site", "site_change", "site_q")


@dataclass(frozen=True, slots=True)
class Allele:
    """An allele of the reference. `start` is 0-based."""

    name: str
    chrom: str
    start: int
    ref: str
    alt: str


@dataclass(frozen=True, slots=True)
class Site:
    """A binding site [start, end), 0-based, with the number of its motif."""

    start: int
    end: int
    motif: int
    q_value: float


class Regions:
    """Tells whether an allele lies in what was scanned. Regions do not overlap and are sorted within a contig."""

    def __init__(self, regions: Iterable[Region]) -> None:
        self._ends: dict[str, tuple[list[int], list[int]]] = {}
        for region in regions:
            starts, ends = self._ends.setdefault(region.chrom, ([], []))
            starts.append(region.start)
            ends.append(region.end)

    def __contains__(self, allele: Allele) -> bool:
        starts, ends = self._ends.get(allele.chrom, ([], []))
        at = bisect_right(starts, allele.start) - 1
        return at >= 0 and allele.start < ends[at]


class Sites:
    """Binding sites by place, those whose motif is known."""

    def __init__(self, table: pd.DataFrame, motifs: Sequence[Motif]) -> None:
        number = {motif.id: at for at, motif in enumerate(motifs)}
        known = table[table["motif"].isin(number.keys())].sort_values(["chrom", "start"], kind="stable")
        self._sites: dict[str, list[Site]] = {}
        for chrom, start, end, motif, q_value in known[["chrom", "start", "end", "motif", "q_value"]].itertuples(
            index=False, name=None
        ):
            self._sites.setdefault(str(chrom), []).append(Site(int(start), int(end), number[motif], float(q_value)))
        self._longest = max((site.end - site.start for sites in self._sites.values() for site in sites), default=0)

    def touched(self, allele: Allele) -> list[Site]:
        """Sites that share a base with the allele's REF."""
        sites = self._sites.get(allele.chrom, [])
        end = allele.start + len(allele.ref)
        first = bisect_left(sites, allele.start - self._longest, key=lambda site: site.start)
        last = bisect_left(sites, end, key=lambda site: site.start)
        return [site for site in sites[first:last] if site.end > allele.start]


@dataclass
class Haplotypes:
    """Cuts the texts in which a head sees alleles.

    Attributes:
        window: bases of a head's window. context: bases that the model sees either side of it.
    """

    window: int
    context: int

    @property
    def quarter(self) -> int:
        return self.window // 4

    @property
    def length(self) -> int:
        """Bases of a text: three windows, a quarter apart, and the context."""
        return self.window + 2 * self.quarter + 2 * self.context

    def text(self, sequence: str, allele: Allele, bases: str) -> str | None:
        """One haplotype with `bases`, REF or ALT, in the allele's place; None if either is longer than the window."""
        longest = max(len(allele.ref), len(allele.alt))
        if longest > self.window:
            return None
        left = (self.window - longest) // 2 + self.quarter + self.context
        right = self.length - left - len(bases)
        end = allele.start + len(allele.ref)
        return padded(sequence, allele.start - left, allele.start) + bases + padded(sequence, end, end + right)

    @property
    def starts(self) -> tuple[int, int, int]:
        """Where the three windows start in a text without its context."""
        return (0, self.quarter, 2 * self.quarter)


class Effects:
    """Asks the heads of one config about alleles.

    Args:
        heads: by element. reader: without a projection; None if no head reads states of the model.
        context: bases either side of a window that the model sees.
    """

    def __init__(self, heads: Mapping[str, Head], reader: Reader | None, context: int) -> None:
        self.heads, self.reader, self.context = heads, reader, context

    def windows(self) -> list[int]:
        """The heads' widths."""
        return list(dict.fromkeys(head.window for head in self.heads.values()))

    def logits(self, window: int, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Logits, float32 (N, 3) by element, of the three windows of each text (`Haplotypes.text`).

        Of the heads of that width; the model reads a text once for all of them.
        """
        heads = {element: head for element, head in self.heads.items() if head.window == window}
        found: dict[str, list[np.ndarray]] = {element: [] for element in heads}
        reading = [head for head in heads.values() if head.uses_states]
        projections = distinct_projections(reading)
        cut = Haplotypes(window, self.context)
        last = cut.length - cut.context
        for first in range(0, len(texts), READ_TEXTS):
            portion = texts[first : first + READ_TEXTS]
            codes = torch.from_numpy(np.stack([encode(text)[cut.context : last] for text in portion]).astype(np.int64))
            features = []
            if reading:
                assert self.reader is not None
                read = self.reader.read(portion, [(cut.context, last)] * len(portion))
                strands = [torch.stack([each[n] for each in read]) for n in range(2)]
                features = [[projected(projection, strand) for strand in strands] for projection in projections]
            for element, head in heads.items():
                both = features[place_of(head.projection, projections)] if head.uses_states else (None, None)
                asked_of = []
                for start in cut.starts:
                    own = slice(start, start + window)
                    cuts = (None if states is None else states[:, own] for states in both)
                    asked_of.append(asked(head, *cuts, codes[:, own]))
                found[element].append(np.stack(asked_of, 1))
        return {element: np.concatenate(parts) for element, parts in found.items()}

    def of(self, window: int, pairs: Sequence[tuple[str, str]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """By element of that width: mean probability of REF and change of the mean logit, float64 (N,) each.

        Args:
            pairs: texts of REF and ALT; equal ones are read once.
        """
        distinct = {text: n for n, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
        places = np.array([[distinct[text] for text in pair] for pair in pairs])
        effects = {}
        for element, logits in self.logits(window, list(distinct)).items():
            ref, alt = (logits.astype(np.float64)[places[:, n]] for n in range(2))
            effects[element] = (self.heads[element].probability(ref).mean(1), alt.mean(1) - ref.mean(1))
        return effects


def site_effect(sequence: str, allele: Allele, sites: Sequence[Site], motifs: Sequence[Motif]) -> tuple | None:
    """Motif, change in bits and q-value of the site that changes most; None without a site."""
    best = None
    for site in sites:
        motif = motifs[site.motif]
        reach = len(motif.matrix) - 1
        end = allele.start + len(allele.ref)
        left, right = padded(sequence, allele.start - reach, allele.start), padded(sequence, end, end + reach)
        ref, alt = (best_score(motif.matrix, encode(left + bases + right)) for bases in (allele.ref, allele.alt))
        change = alt - ref
        if np.isfinite(change) and (best is None or abs(change) > abs(best[1])):
            best = (motif.name, change, site.q_value)
    return best


def score_regulation(
    variants: Path,
    fasta: Path,
    regions: Sequence[Region],
    effects: Effects,
    motifs: Sequence[Motif],
    sites: pd.DataFrame | None,
    output: Path,
) -> dict[str, int]:
    """Write variant_id, `element_probability.{element}` and `element_change.{element}` of each element, and the sites'
    columns, for every scored allele that lies in a region, in the order of `variants.parquet`.

    Args:
        sites: a table of `columns.SITES`; None leaves the columns of sites out.

    Returns:
        How many alleles there are, lie in a region, and touch a site.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    scanned, known = Regions(regions), None if sites is None else Sites(sites, motifs)
    reference = ReferenceSequence(fasta)
    numbers = [f"{what}.{element}" for element in effects.heads for what in ("element_probability", "element_change")]
    kinds = [("variant_id", pa.string()), *((name, pa.float64()) for name in numbers)]
    if known is not None:
        kinds += [("site", pa.string()), ("site_change", pa.float64()), ("site_q", pa.float64())]
    schema = pa.schema(kinds)
    counts = {"alleles": 0, "in_regions": 0, "with_site": 0}
    progress = Progress("alleles", pq.read_metadata(variants).num_rows, "allele")
    with written_whole(output) as partial, pq.ParquetWriter(partial, schema) as writer:
        for block in _blocks(variants, scanned, counts):
            rows = [{"variant_id": allele.name} for allele in block]
            for window in effects.windows():
                cut = Haplotypes(window, effects.context)
                pairs = {}
                for number, allele in enumerate(block):
                    sequence = reference.contig(allele.chrom)
                    pair = tuple(cut.text(sequence, allele, bases) for bases in (allele.ref, allele.alt))
                    if None not in pair:
                        pairs[number] = pair
                found = effects.of(window, list(pairs.values())) if pairs else {}
                for element, values in found.items():
                    for number, probability, change in zip(pairs, *values, strict=True):
                        rows[number] |= {
                            f"element_probability.{element}": float(probability),
                            f"element_change.{element}": float(change),
                        }
            for allele, row in zip(block, rows, strict=True) if known is not None else ():
                effect = site_effect(reference.contig(allele.chrom), allele, known.touched(allele), motifs)
                if effect is not None:
                    counts["with_site"] += 1
                    row |= dict(zip(SITE_COLUMNS, effect, strict=True))
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            progress.add(counts["alleles"] - progress.done)
    progress.close()
    log.info("%d alleles, %d in scanned regions, %d touch a site", *counts.values())
    return counts


def _blocks(variants: Path, scanned: Regions, counts: dict[str, int]) -> Iterator[list[Allele]]:
    """Alleles in scanned regions, some hundred at a time."""

    def alleles() -> Iterator[Allele]:
        for frame in scored_alleles(variants, ("variant_id", "chrom", "pos", "ref", "alt")):
            for name, chrom, pos, ref, alt in frame.itertuples(index=False, name=None):
                counts["alleles"] += 1
                allele = Allele(name, chrom, int(pos) - 1, ref, alt)
                if allele in scanned:
                    counts["in_regions"] += 1
                    yield allele

    waiting = alleles()
    while block := list(islice(waiting, BLOCK)):
        yield block
