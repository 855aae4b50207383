"""What a base editor can do to a target base, and which other edits of the same shape could be made nearby.

A guide binds beside a PAM and the editor changes any of the editable bases within a window of the protospacer, not only
the one that was meant: Rees and Liu (2018), doi:10.1038/s41576-018-0059-1. Every combination is an outcome.

Protospacer positions are counted from the end away from the PAM, so that the PAM of a 20-base protospacer would be 21
to 23. Coordinates are 0-based half-open on the forward strand. `fetch(chrom, start, end)` gives upper-case bases as a
slice of the contig would: fewer where the contig ends, for a start that is not negative.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, islice

from Bio.Data.IUPACData import ambiguous_dna_values

from seqprior.errors import BadInput
from seqprior.sequence import BASES, reverse_complement
from seqprior.variants import left_align

log = logging.getLogger(__name__)

Fetch = Callable[[str, int, int], str]
Change = tuple[int, str, str]


@dataclass(frozen=True)
class Editor:
    """A base editor: `change` on the strand of the protospacer, PAM 3' of it, first and last edited position."""

    name: str
    change: str
    pam: str
    window: tuple[int, int] = (4, 8)
    protospacer: int = 20


# Main windows and PAMs as two design tools list them, there as distances from the PAM, which is 21 - position: BE-FF
# (github.com/RoyRabinowitz/BE-FF, Scripts/baseEditorsTable.py) and, for ABE8e and SpRY, BE-dot
# (github.com/wendyw630/BE-dot, designsgRNA/baseEditorsTable.py). SpRY binds NYN too, if less: Walton et al. (2020),
# doi:10.1126/science.aba8853.
EDITORS = {
    editor.name: editor
    for editor in (
        Editor("ABE7.10", "A>G", "NGG", (4, 7)),
        Editor("ABE8e", "A>G", "NGG", (4, 8)),
        Editor("NG-ABEmax", "A>G", "NGN", (4, 7)),
        Editor("SpRY-ABE8e", "A>G", "NRN", (4, 8)),
        Editor("BE3", "C>T", "NGG", (4, 8)),
        Editor("BE4max", "C>T", "NGG", (4, 8)),
        Editor("Target-AID", "C>T", "NGG", (2, 4)),
        Editor("Target-AID-NG", "C>T", "NGN", (2, 4)),
        Editor("evoFERNY-BE4max", "C>T", "NGG", (3, 8)),
        Editor("evoCDA1-BE4max", "C>T", "NGG", (1, 12)),
        Editor("SpRY-BE4max", "C>T", "NRN", (3, 9)),
    )
}


@dataclass(frozen=True)
class Outcome:
    """One combination of bases that a guide's editor may change.

    `guide` and `pam` are 5' to 3' on the guide's strand; [start, end) is the protospacer on the forward strand.
    `target_number` and `edited` are protospacer positions; `edited` lacks the target where the target stays as it is.
    `changes` are (position, ref, alt) on the forward strand, by position; `bystanders` counts those beside the target.
    """

    guide: str
    pam: str
    strand: str
    start: int
    end: int
    target_number: int
    edited: tuple[int, ...]
    changes: tuple[Change, ...]
    bystanders: int


@dataclass(frozen=True)
class Guide:
    """Where a guide binds; `editable` are the protospacer positions of its window that the editor may change."""

    spacer: str
    pam: str
    strand: str
    start: int
    end: int
    target_number: int
    editable: tuple[int, ...]

    def position(self, number: int) -> int:
        """Where a protospacer position is on the contig."""
        return self.start + number - 1 if self.strand == "+" else self.end - number


def known_editors(settings: Mapping[str, Mapping]) -> dict[str, Editor]:
    """The presets and the editors of `editing.editors`.

    Raises:
        BadInput: an editor has a preset's name, changes a base into itself, or has a window outside its protospacer.
    """
    editors = dict(EDITORS)
    for name, entry in settings.items():
        editor = Editor(name, **{**entry, "window": tuple(entry.get("window", Editor.window))})
        if name in EDITORS:
            raise BadInput(
                f"editing.editors: {name!r} is the name of a known base editor; expected one of its own; rename it"
            )
        if editor.change[0] == editor.change[2]:
            raise BadInput(
                f"editing.editors: {name!r} has the change {editor.change}; expected two different bases; correct it"
            )
        first, last = editor.window
        if not 1 <= first <= last <= editor.protospacer:
            raise BadInput(
                f"editing.editors: {name!r} has the window {first} to {last}; expected first to last position within "
                f"the {editor.protospacer} bases of its protospacer; correct window or protospacer"
            )
        editors[name] = editor
    return editors


def guides(
    fetch: Fetch, chrom: str, position: int, editor: Editor, *, strand: str | None = None, any_pam: bool = False
) -> list[Guide]:
    """Guides that bring the base at `position` into the editor's window, on both strands, by start.

    A guide with a base other than A, C, G, T in protospacer or PAM cannot be made and is left out.

    Args:
        strand: '+' or '-' to look only at guides of that strand. any_pam: whether the PAM need not fit.
    """
    found = []
    base, length, pam_length = editor.change[0], editor.protospacer, len(editor.pam)
    for side in "+-" if strand is None else strand:
        for number in range(editor.window[0], editor.window[1] + 1):
            if side == "+":
                start = position - number + 1
                low, high = start, start + length + pam_length
            else:
                start = position + number - length
                low, high = start - pam_length, start + length
            site = fetch(chrom, low, high) if low >= 0 else ""
            if len(site) != high - low or set(site) - set(BASES):
                continue
            site = site if side == "+" else reverse_complement(site)
            spacer, pam = site[:length], site[length:]
            fits = any_pam or all(
                found in ambiguous_dna_values[letter] for found, letter in zip(pam, editor.pam, strict=True)
            )
            if spacer[number - 1] == base and fits:
                window = range(editor.window[0], editor.window[1] + 1)
                editable = tuple(place for place in window if spacer[place - 1] == base)
                found.append(Guide(spacer, pam, side, start, start + length, number, editable))
    return sorted(found, key=lambda guide: (guide.start, guide.strand))


def outcomes(
    fetch: Fetch, chrom: str, position: int, editor: Editor, *, strand: str | None = None, most: int = 256
) -> list[Outcome]:
    """Every outcome of every guide that reaches the base at `position`.

    Guides come by start. The outcomes of a guide are all non-empty subsets of the editable bases in its window: first
    those with the target, then those without, each with the fewest bystanders first.

    Args:
        most: outcomes of one guide that are kept; a warning says how many were left out.

    Returns:
        Empty where no guide reaches the target; `why_no_guide` says why.
    """
    found = []
    for guide in guides(fetch, chrom, position, editor, strand=strand):
        total = 2 ** len(guide.editable) - 1
        if total > most:
            log.warning(
                "%s:%d: guide %s (%s) of %s has %d outcomes; the %d with the fewest bystanders are kept",
                *(chrom, position + 1, guide.spacer, guide.strand, editor.name, total, most),
            )
        found += [_outcome(guide, edited, editor) for edited in islice(_subsets(guide), most)]
    return found


def _subsets(guide: Guide) -> Iterator[tuple[int, ...]]:
    """Subsets of the editable positions in the order of `outcomes`, never more of them in memory than one."""
    others = [number for number in guide.editable if number != guide.target_number]
    sizes = range(len(others) + 1)
    with_target = (
        tuple(sorted((guide.target_number, *chosen))) for size in sizes for chosen in combinations(others, size)
    )
    return chain(with_target, (chosen for size in sizes[1:] for chosen in combinations(others, size)))


def _outcome(guide: Guide, edited: tuple[int, ...], editor: Editor) -> Outcome:
    ref, alt = editor.change[0], editor.change[2]
    if guide.strand == "-":
        ref, alt = reverse_complement(ref), reverse_complement(alt)
    changes = tuple(sorted((guide.position(number), ref, alt) for number in edited))
    site = (guide.spacer, guide.pam, guide.strand, guide.start, guide.end, guide.target_number)
    return Outcome(*site, edited, changes, len(edited) - (guide.target_number in edited))


def why_no_guide(fetch: Fetch, chrom: str, position: int, editor: Editor, *, strand: str | None = None) -> str:
    """Why `outcomes` is empty, as the end of a sentence: no editable base there, or no PAM."""
    here = fetch(chrom, position, position + 1) or "no base"
    base = editor.change[0]
    wanted = {"+": base, "-": reverse_complement(base)}
    bases = [wanted[side] for side in ("+-" if strand is None else strand)]
    if here not in bases:
        on = f" for a guide on the {strand} strand" if strand else ""
        return f"the reference has {here} there, and {editor.name} changes {' or '.join(bases)}{on}"
    first, last = editor.window
    if not guides(fetch, chrom, position, editor, strand=strand, any_pam=True):
        return f"no protospacer of known bases has the target at {first} to {last}"
    return f"no PAM {editor.pam} is where it would bring the target to {first} to {last} of the protospacer"


def nearby_shapes(
    fetch: Fetch,
    chrom: str,
    allele: Change,
    around: int,
    changes: Sequence[Change] | None = None,
) -> list[Change]:
    """Alleles of the same shape as an edit up to `around` bases to either side, the edit's own among them.

    One substituted base is compared with every SNV; a deletion with every deletion of as many bases; an insertion with
    the same bases inserted elsewhere. Anything else is moved along as a pattern: each substitution is there of the same
    kind (a transition, or the same of the two transversions), so that a base that the edit changes is changed alike;
    deleted bases are as many, and inserted ones the same.

    Args:
        allele: start, ref, alt; left-aligned, REF as in the reference.
        changes: start, ref and alt of the changes that the allele joins, where it is a haplotype; without them an
            allele with REF and ALT of one length is taken as substitutions, any other one as one replacement.

    Returns:
        Unique left-aligned start, ref, alt, sorted. Left out are places with unknown bases, places outside the contig,
        and those where a replacement would have another size since part of what it writes is already there.
    """
    steps = [step for change in ([allele] if changes is None else changes) for step in _steps(*change)]
    if len(steps) == 1 and len(steps[0][1]) == len(steps[0][2]) == 1:
        moves = [[(steps[0][0], kind, None)] for kind in (1, 2, 3)]
    else:
        moves = [[_move(step) for step in steps]]
    first, last = min(step[0] for step in steps), max(step[0] + len(step[1]) for step in steps)
    low = max(0, first - around)
    text = fetch(chrom, low, last + around)
    bases = ContigBases(fetch, chrom)
    lengths = len(allele[1]), len(allele[2])
    found = {allele}
    for shift in range(-around, around + 1):
        begin, end = first + shift - low, last + shift - low
        window = text[max(begin, 0) : max(end, 0)]
        if begin < 0 or end > len(text) or set(window) - set(BASES):
            continue
        for pattern in moves:
            moved = _apply(window, first, pattern)
            if moved == window:
                continue
            place = left_align(bases, first + shift, window, moved)
            same = len(steps) > 1 or (len(place[1]), len(place[2])) == lengths
            if same and not set(place[1] + place[2]) - set(BASES):
                found.add(place)
    return sorted(found)


class ContigBases:
    """Bases of a contig by index, as `left_align` asks for them."""

    def __init__(self, fetch: Fetch, chrom: str) -> None:
        self.fetch, self.chrom = fetch, chrom

    def __getitem__(self, index: int) -> str:
        return self.fetch(self.chrom, index, index + 1)


def _steps(start: int, ref: str, alt: str) -> list[Change]:
    """A change as substitutions of one base each, or as one deletion, insertion or replacement without shared ends."""
    if len(ref) == len(alt):
        return [(start + place, a, b) for place, (a, b) in enumerate(zip(ref, alt, strict=True)) if a != b]
    shared = 0
    while shared < min(len(ref), len(alt)) and ref[shared] == alt[shared]:
        shared += 1
    start, ref, alt = start + shared, ref[shared:], alt[shared:]
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    return [(start, ref, alt)]


def _move(step: Change) -> tuple[int, int, str | None]:
    """Start, and either the kind of a substitution or the number of bases that are replaced and by what.

    The codes of two bases differ by 2 in a transition, by 1 or 3 in a transversion (exclusive or): a kind of change
    that exists at each of the four bases.
    """
    start, ref, alt = step
    if len(ref) == len(alt) == 1:
        return start, BASES.index(ref) ^ BASES.index(alt), None
    return start, len(ref), alt


def _apply(window: str, first: int, pattern: Sequence[tuple[int, int, str | None]]) -> str:
    """`window`, which stands for bases from `first` on, with a pattern of changes made to it."""
    for start, size, written in sorted(pattern, key=lambda move: move[0], reverse=True):
        place = start - first
        if written is None:
            size, written = 1, BASES[BASES.index(window[place]) ^ size]
        window = window[:place] + written + window[place + size :]
    return window
