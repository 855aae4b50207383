"""In-silico mutagenesis: what each base of a window is worth to an element's classifier.

Every base of a window is changed to the three others and the classifier asked again. A base's contribution is the
logit of the window less the mean logit over its three changes: positive where the base speaks for the element. Unknown
bases contribute nothing. Nothing is approximated but the context: the model sees few bases either side of a window,
for the window itself as for its changes, since the cost grows with them.

seqprior's own network has a state of everything left of a base and one of everything right of it. A change moves only
the left states after it and the right states before it, so only those are computed, each layer from what the unchanged
bases before it gave.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seqprior.adapters import BidirectionalAdapter
from seqprior.batching import Batcher, Progress
from seqprior.bidirectional import PAD_CODE, BidirectionalConvLM, reverse_complement
from seqprior.columns import MOTIFS, SITES
from seqprior.contigs import ContigNames
from seqprior.features import Reader
from seqprior.files import written_whole
from seqprior.motifs import Match, nearest
from seqprior.regions import region_lines
from seqprior.scanning import asked
from seqprior.seqlets import Motif, Seqlet, consensus, find_motifs, find_seqlets, significant
from seqprior.sequence import BASES, encode
from seqprior.shuffling import dinucleotide_shuffle
from seqprior.vectors import HELD_BASES
from seqprior.windows import padded

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from seqprior.heads import Head
    from seqprior.loading import Job
    from seqprior.motifs import Motif as KnownMotif

log = logging.getLogger(__name__)

SEQUENCE_BASES = 2**16  # bases of windows that a head which sees bases alone is given at a time
READ_WINDOWS = 4096  # windows whose bases are held while the most probable ones are sought
CONTROL_WINDOWS = 100  # shuffled windows that seqlets are compared with; each costs as much as a window


@dataclass(frozen=True, slots=True)
class Window:
    """A window of the reference, or a shuffled one. `start` is 0-based; the text holds `first` bases before it."""

    chrom: str
    start: int
    text: str
    first: int


def cut_windows(fasta: Path, places: Sequence[tuple[str, int]], width: int, context: int) -> list[Window]:
    """Windows of `width` bases that start at the places, with `context` bases either side where the contig has them."""
    import pysam

    windows = []
    with pysam.FastaFile(str(fasta)) as reference:
        for chrom, start in places:
            before = min(context, start)
            text = reference.fetch(chrom, start - before, start + width + context).upper()
            windows.append(Window(chrom, start, padded(text, 0, len(text)), before))
    return windows


@dataclass
class Mutagenesis:
    """Asks one head about windows and about every single substitution of them.

    Attributes:
        reader: reads the states that the head was trained on, through its projection; None for a head that sees bases
            alone. device: of the model; the head works on the CPU.
    """

    head: Head
    reader: Reader | None

    def __post_init__(self) -> None:
        if self.head.uses_states and self.reader is None:
            raise ValueError(f"a head of kind {self.head.kind} needs a model")
        self.width: int = self.head.window
        self.device = self.reader.adapter.device if self.reader is not None else torch.device("cpu")

    def logits(self, windows: Sequence[Window]) -> np.ndarray:
        """Logit of each window, float32 (N,)."""
        results = np.zeros(len(windows), np.float32)
        step = self._rows(max((len(window.text) for window in windows), default=1))
        for at in range(0, len(windows), step):
            chunk = windows[at : at + step]
            codes = np.stack([self.codes(window) for window in chunk])
            results[at : at + step] = self._asked([window.text for window in chunk], [w.first for w in chunk], codes)
        return results

    def effects(self, windows: Sequence[Window], what: str = "mutagenesis") -> np.ndarray:
        """Logit with another base less the logit of the window: float32 (N, W, 4), 0 at the base that is there.

        Args:
            what: is being done, for the log.
        """
        effects = np.zeros((len(windows), self.width, 4), np.float32)
        lengths = [3 * len(window.text) for window in windows]
        progress = Progress(what, sum(lengths), "base")
        one_pass = self.head.uses_states and isinstance(self.reader.adapter, BidirectionalAdapter)
        compute = self._by_changed_states if one_pass else self._by_reading

        def batch(numbers: list[int]) -> None:
            effects[numbers] = compute([windows[number] for number in numbers])

        fixed_batches(self.device).run(lengths, batch, progress=progress)
        progress.close()
        return effects

    def codes(self, window: Window) -> np.ndarray:
        """Base codes of the window without its context, int64 (W,)."""
        return encode(window.text)[window.first : window.first + self.width].astype(np.int64)

    def _rows(self, length: int) -> int:
        """Texts of one length that are read together."""
        held = HELD_BASES.get(self.device.type, HELD_BASES["cuda"]) if self.head.uses_states else SEQUENCE_BASES
        return max(held // length, 1)

    def _asked(self, texts: Sequence[str], first: Sequence[int], codes: np.ndarray) -> np.ndarray:
        """Logits of windows with the given codes (N, W), float32 (N,); the texts are read if the head needs states."""
        forward = reverse = None
        if self.head.uses_states:
            read = self.reader.read(texts, [(at, at + self.width) for at in first])
            forward, reverse = (torch.stack([strands[side] for strands in read]) for side in (0, 1))
        return asked(self.head, forward, reverse, torch.from_numpy(codes))

    def _by_reading(self, windows: Sequence[Window]) -> np.ndarray:
        """Effects, float32 (N, W, 4), from texts that are each read as a whole."""
        results = np.zeros((len(windows), self.width, 4), np.float32)
        for number, (window, logit) in enumerate(zip(windows, self.logits(windows), strict=True)):
            codes = self.codes(window)
            places, letters = substitutions(codes)
            step = self._rows(len(window.text))
            for at in range(0, len(places), step):
                place, letter = places[at : at + step], letters[at : at + step]
                changed = np.repeat(codes[None], len(place), 0)
                changed[np.arange(len(place)), place] = letter
                pairs = zip((window.first + place).tolist(), letter.tolist(), strict=True)
                texts = [substituted(window.text, spot, BASES[base]) for spot, base in pairs]
                found = self._asked(texts, [window.first] * len(texts), changed)
                results[number, place, letter] = found - logit
        return results

    def _by_changed_states(self, windows: Sequence[Window]) -> np.ndarray:
        """Effects, float32 (N, W, 4), from the states of seqprior's own network that a change moves."""
        adapter = self.reader.adapter
        network, dtype, width = adapter.network, adapter.dtype, self.width
        context = max(max(window.first, len(window.text) - window.first - width) for window in windows)
        texts = [padded(w.text, w.first - context, w.first + width + context) for w in windows]
        both = torch.from_numpy(np.stack([encode(text) for text in texts]).astype(np.int64)).to(self.device)
        own = both[:, context : context + width]
        count, first = len(windows), context
        results = np.zeros((count, width, 4), np.float32)
        both = torch.cat([both, reverse_complement(both)])
        layers = layer_inputs(network, both, dtype)
        sides = [[layer[:count] for layer in layers], [layer[count:] for layer in layers]]
        left = sides[0][-1][:, first : first + width]
        right = sides[1][-1].flip(1)[:, first : first + width]
        unchanged = self._of_states(left, right, own)
        for place in range(width):
            letters = (own[:, place, None] + torch.arange(1, 4, device=self.device)) % 4
            codes = own.repeat_interleave(3, 0)
            codes[:, place] = letters.reshape(-1)
            after = changed_states(network, both[:count], sides[0], first + place, first + width, letters)
            turned = width - 1 - place
            before = changed_states(network, both[count:], sides[1], first + turned, first + width, 3 - letters)
            lefts = torch.cat([left[:, : place + 1].repeat_interleave(3, 0), after], 1)
            rights = torch.cat([before.flip(1), right[:, place:].repeat_interleave(3, 0)], 1)
            moved = self._of_states(lefts, rights, codes).reshape(count, 3) - unchanged[:, None]
            moved[(own[:, place] >= PAD_CODE).cpu().numpy()] = 0.0
            results[np.arange(count)[:, None], place, letters.cpu().numpy()] = moved
        return results

    def _of_states(self, left: Tensor, right: Tensor, codes: Tensor) -> Tensor:
        """Logits, float32 (B,), from the states left and right of each base (B, W, C) and the bases (B, W)."""
        adapter = self.reader.adapter
        states = torch.cat([left, right], -1).float()
        adapter.require_finite(states)
        project = self.reader.projection or (lambda values: values)
        return asked(self.head, project(states), project(adapter.turned(states)), codes.cpu())


def fixed_batches(device: torch.device, budget: int | None = None) -> Batcher:
    """Batches of a fixed budget: one that is found by timing would make the last digits differ from run to run."""
    return Batcher(device, budget or HELD_BASES.get(device.type, HELD_BASES["cuda"]))


def substitutions(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place and new base of every single substitution of known bases (W,), by place and base."""
    places, letters = np.nonzero((codes[:, None] != np.arange(4)) & (codes < PAD_CODE)[:, None])
    return places, letters


def substituted(text: str, at: int, base: str) -> str:
    """The text with another base at `at`, 0-based."""
    return text[:at] + base + text[at + 1 :]


def contributions(effects: np.ndarray) -> np.ndarray:
    """Contribution of each base that is there, float32 (..., W), from effects (..., W, 4)."""
    return -effects.sum(-1) / 3


def layer_inputs(network: BidirectionalConvLM, codes: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """What each block after the first is given, and what the tower gives: (B, L, C) each, for codes (B, L)."""
    before = F.pad(codes[:, :-1], (network.config.kernel, 0), value=PAD_CODE)
    states = [network.first_states(before, 1, dtype)]
    for block in network.blocks[1:]:
        states.append(block(states[-1]))
    states[-1] = F.rms_norm(states[-1], states[-1].shape[-1:], network.scale.to(dtype), 1e-5)
    return states


def changed_states(
    network: BidirectionalConvLM, codes: Tensor, layers: Sequence[Tensor], at: int, end: int, letters: Tensor
) -> Tensor:
    """What the tower gives after position `at`, up to `end`, when that position holds other bases.

    Args:
        codes: (B, L). layers: of them, from `layer_inputs`. letters: the other bases (B, N).

    Returns:
        (B * N, end - at - 1, C); the N changes of one row follow each other.
    """
    kernel, each, dtype = network.config.kernel, letters.shape[1], layers[0].dtype
    seen = F.pad(codes, (kernel, 0), value=PAD_CODE)[:, at + 1 : end + kernel - 1].repeat_interleave(each, 0)
    if at + 1 >= end:
        return layers[-1].new_empty(len(seen), 0, layers[-1].shape[-1])
    seen[:, kernel - 1] = letters.reshape(-1)
    states = network.first_states(seen, 1, dtype)
    for block, given in zip(network.blocks[1:], layers[:-1], strict=True):
        states = block.continued(given[:, : at + 1].repeat_interleave(each, 0), states)
    return F.rms_norm(states, states.shape[-1:], network.scale.to(dtype), 1e-5)


def labelled_places(intervals: Path, width: int, lengths: Mapping[str, int]) -> list[tuple[str, int]]:
    """Contig and start of a window of `width` bases around each positive of a table of `INTERVALS`."""
    import pyarrow.parquet as pq

    columns = ["chrom", "start", "end"]
    rows = pq.read_table(intervals, columns=columns, filters=[("label", "==", 1)]).to_pylist()
    return _around(((row["chrom"], (row["start"] + row["end"]) // 2) for row in rows), width, lengths)


def called_places(calls: Path, element: str, width: int, names: ContigNames) -> list[tuple[str, int]]:
    """The same around the summit of each call of one element in a BED file of `tracks.write_calls`.

    The summit is the seventh column; a file of fewer columns is read at the middle of each region.
    """
    if calls.is_file() and calls.stat().st_size == 0:  # nothing was called
        return []
    middles = (
        (row.chrom, int(columns[6]) if len(columns) > 6 and columns[6].isdigit() else (row.start + row.end) // 2)
        for row, columns in region_lines(calls, names)
        if row.id == element
    )
    return _around(middles, width, {contig.name: contig.length for contig in names.contigs.values()})


def _around(middles: Iterable[tuple[str, int]], width: int, lengths: Mapping[str, int]) -> list[tuple[str, int]]:
    """Starts of windows around positions, moved into their contigs; contigs that hold none are left out."""
    return [
        (chrom, min(max(middle - width // 2, 0), lengths[chrom] - width))
        for chrom, middle in middles
        if lengths[chrom] >= width
    ]


def most_probable(
    mutagenesis: Mutagenesis, fasta: Path, places: Iterable[tuple[str, int]], most: int, context: int
) -> list[Window]:
    """Up to `most` windows with the highest logits, none of which has more than half of its bases in another.

    The most probable comes first; of equal ones that of the earlier place.
    """
    distinct = list(dict.fromkeys(places)) if most else []
    logits = [
        mutagenesis.logits(cut_windows(fasta, distinct[at : at + READ_WINDOWS], mutagenesis.width, context))
        for at in range(0, len(distinct), READ_WINDOWS)
    ]
    order = np.argsort(-np.concatenate([np.empty(0), *logits]), kind="stable")
    taken: dict[str, list[int]] = {}
    chosen = []
    for chrom, start in (distinct[number] for number in order.tolist()):
        if len(chosen) == most:
            break
        others = taken.setdefault(chrom, [])
        if all(2 * abs(start - other) >= mutagenesis.width for other in others):
            others.append(start)
            chosen.append((chrom, start))
    return cut_windows(fasta, chosen, mutagenesis.width, context)


def shuffled_windows(windows: Sequence[Window], count: int, seed: int) -> list[Window]:
    """`count` windows with the dinucleotides of the given ones, taken from them evenly, several from one if need be."""
    chosen = [windows[number * len(windows) // count] for number in range(count if windows else 0)]
    return [
        Window(window.chrom, window.start, dinucleotide_shuffle(window.text, seed + number), window.first)
        for number, window in enumerate(chosen)
    ]


@dataclass(frozen=True)
class Explanation:
    """What mutagenesis says of an element.

    Attributes:
        windows, contributions: those that were mutated, and float32 (N, W). sites: a table of `SITES`, by contig and
            start. motifs: a table of `MOTIFS`, the most frequent first.
    """

    windows: Sequence[Window]
    contributions: np.ndarray
    sites: pd.DataFrame
    motifs: pd.DataFrame


def explain(
    mutagenesis: Mutagenesis,
    element: str,
    windows: Sequence[Window],
    known: Sequence[KnownMotif],
    fdr: float,
    seed: int,
    order: Iterable[str],
) -> Explanation:
    """Mutate windows and shuffled ones; find seqlets, motifs among them and the known motifs that those are like.

    A seqlet bears the name of a known motif if its own motif is like that one at `fdr`, else that of its own motif; it
    then reads on the strand on which the name's motif does. A seqlet without a motif has no name and no strand.

    Args:
        known: motifs to name by; none leaves them unnamed. order: contigs, as the sites are to be sorted.
    """
    import pandas as pd

    shuffled = shuffled_windows(windows, CONTROL_WINDOWS, seed)
    worth = contributions(mutagenesis.effects(windows, f"{element}, windows"))
    null = contributions(mutagenesis.effects(shuffled, f"{element}, shuffled windows"))
    baseline = float(null.mean() + null.std()) if null.size else 0.0
    seqlets = significant(find_seqlets(worth, baseline), find_seqlets(null, baseline), worth.size, null.size)
    kept = without_copies([seqlet for seqlet in seqlets if seqlet.q_value <= fdr], windows)
    counts = (element, len(kept), len(seqlets), len(windows))
    log.info("%s: %d of %d seqlets in %d windows have a q-value of at most %g", *counts, fdr)
    codes = np.stack([mutagenesis.codes(window) for window in windows]) if windows else np.empty((0, 0), np.int64)
    motifs = find_motifs(kept, codes, worth)
    rows, named = [], {}
    for number, motif in enumerate(motifs, 1):
        name = f"{element}.{number}"
        match = nearest(motif.matrix, known) if known else None
        rows.append(motif_row(element, name, motif, match))
        for member, reverse in zip(motif.members, motif.reverse, strict=True):
            named[member] = (name, reverse, match if match is not None and match.q_value <= fdr else None)
    place = {contig: number for number, contig in enumerate(order)}
    nameless = ("", None, None)
    sites = [site_row(element, seqlet, windows, *named.get(n, nameless)) for n, seqlet in enumerate(kept)]
    sites.sort(key=lambda site: (place[site["chrom"]], site["start"], site["end"]))
    tables = (pd.DataFrame(sites, columns=list(SITES)), pd.DataFrame(rows, columns=list(MOTIFS)))
    return Explanation(windows, worth, *tables)


def without_copies(seqlets: Sequence[Seqlet], windows: Sequence[Window]) -> list[Seqlet]:
    """The seqlets, the highest score first, without those that share bases with a better one of another window."""
    taken: dict[str, list[tuple[int, int]]] = {}
    kept = []
    for seqlet in sorted(seqlets, key=lambda each: (-each.score, each.window, each.start)):
        window = windows[seqlet.window]
        start, end = window.start + seqlet.start, window.start + seqlet.end
        others = taken.setdefault(window.chrom, [])
        if all(end <= other[0] or other[1] <= start for other in others):
            others.append((start, end))
            kept.append(seqlet)
    return kept


def motif_row(element: str, name: str, motif: Motif, match: Match | None) -> dict[str, Any]:
    """A row of `MOTIFS`; without known motifs the match is empty."""
    return {
        "element": element,
        "motif": name,
        "sites": len(motif.members),
        "consensus": consensus(motif.matrix),
        "matrix": motif.matrix.ravel().tolist(),
        "match": match.id if match else "",
        "match_name": match.name if match else "",
        "p_value": match.p_value if match else None,
        "q_value": match.q_value if match else None,
        "offset": match.offset if match else None,
        "match_strand": "" if match is None else "-" if match.reverse else "+",
    }


def site_row(
    element: str, seqlet: Seqlet, windows: Sequence[Window], motif: str, reverse: bool | None, match: Match | None
) -> dict[str, Any]:
    """A row of `SITES`, in coordinates of the reference."""
    window = windows[seqlet.window]
    turned = bool(reverse) != (match is not None and match.reverse)
    return {
        "chrom": window.chrom,
        "start": window.start + seqlet.start,
        "end": window.start + seqlet.end,
        "strand": "." if reverse is None else "-" if turned else "+",
        "source": "mutagenesis",
        "element": element,
        "score": seqlet.score,
        "p_value": seqlet.p_value,
        "q_value": seqlet.q_value,
        "motif": match.id if match else motif,
        "motif_name": match.name if match else motif,
        "motif_p_value": match.p_value if match else None,
        "motif_q_value": match.q_value if match else None,
    }


def write_contributions(explanation: Explanation, contigs: Mapping[str, int], output: Path) -> None:
    """Contributions as bigWig, the mean where windows overlap; no value outside windows.

    Args:
        contigs: length of each contig, in the reference's order.
    """
    import pyBigWig

    place = {contig: number for number, contig in enumerate(contigs)}
    order = sorted(
        range(len(explanation.windows)),
        key=lambda n: (place[explanation.windows[n].chrom], explanation.windows[n].start),
    )
    width = explanation.contributions.shape[1] if order else 0
    runs: list[list[int]] = []
    for number in order:
        window, last = explanation.windows[number], explanation.windows[runs[-1][-1]] if runs else None
        if last is not None and last.chrom == window.chrom and window.start < last.start + width:
            runs[-1].append(number)
        else:
            runs.append([number])
    with written_whole(output) as partial:
        file = pyBigWig.open(str(partial), "w")
        file.addHeader(list(contigs.items()))
        for run in runs:
            first = explanation.windows[run[0]]
            length = explanation.windows[run[-1]].start + width - first.start
            total, count = np.zeros(length), np.zeros(length)
            for number in run:
                at = explanation.windows[number].start - first.start
                total[at : at + width] += explanation.contributions[number]
                count[at : at + width] += 1
            file.addEntries(first.chrom, first.start, values=(total / count).astype(np.float32), span=1, step=1)
        file.close()


def write_table(table: pd.DataFrame, output: Path, schema: pa.Schema) -> None:
    """A table as Parquet, with the types of its columns even where it has no row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with written_whole(output) as partial:
        pq.write_table(pa.Table.from_pandas(table, schema=schema, preserve_index=False), partial)


def open_mutagenesis(head: Head, job: Job, arithmetic: str, batch_tokens: int | None) -> Mutagenesis:
    """The head with the model whose states it reads, which is loaded only if the head does."""
    if not head.uses_states:
        torch.set_num_threads(job.threads)
        return Mutagenesis(head, None)
    adapter = job.load(arithmetic)
    return Mutagenesis(head, Reader(adapter, fixed_batches(adapter.device, batch_tokens), head.projection))
