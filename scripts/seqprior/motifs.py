"""Motifs of binding sites: reading MEME files, scanning, comparing, drawing.

A motif is a matrix of p(base), a row of A, C, G, T for each position. Scanning is FIMO's and comparison Tomtom's, as
memelite has them (Grant et al. 2011, doi:10.1093/bioinformatics/btr064; Gupta et al. 2007,
doi:10.1186/gb-2007-8-2-r24).
"""

from __future__ import annotations

import atexit
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from seqprior.errors import BadInput
from seqprior.files import open_text, require_file
from seqprior.sequence import BASES, UNKNOWN

if TYPE_CHECKING:
    import pandas as pd

HITS = ["motif_name", "sequence_name", "start", "end", "strand", "score", "p-value"]  # memelite's columns that are used
FLOOR = 1e-3  # added to each probability before the logarithm, for positions that have never seen a base
BIN = 0.01  # bits; scores are rounded to it, position by position, for the distribution that p-values are read from
SUM_TOLERANCE = 0.02  # by which the probabilities of a position may miss 1 from rounding
# Letters in a unit square, so that they can be stretched to any height; Okabe and Ito's colours, safe for the
# colour-blind.
GLYPHS = {
    "A": ("#009e73", "M0 1L.4 0H.6L1 1H.78L.7 .76H.3L.22 1ZM.36 .58H.64L.5 .18Z"),
    "C": (
        "#0072b2",
        "M1 .3C.95 .1 .78 0 .53 0 .2 0 0 .2 0 .5S.2 1 .53 1C.78 1 .95 .9 1 .7L.78 .64C.75 .77 .67 .83 .53 .83"
        " .34 .83 .22 .7 .22 .5S.34 .17 .53 .17C.67 .17 .75 .23 .78 .36Z",
    ),
    "G": (
        "#b37400",
        "M1 .3C.95 .1 .78 0 .53 0 .2 0 0 .2 0 .5S.2 1 .53 1C.74 1 .9 .93 1 .82V.46H.52V.62H.79V.74"
        "C.73 .8 .65 .83 .54 .83 .34 .83 .22 .7 .22 .5S.34 .17 .53 .17C.67 .17 .75 .23 .78 .36Z",
    ),
    "T": ("#d55e00", "M0 0H1V.18H.61V1H.39V.18H0Z"),
}
LOGO_WIDTH, LOGO_HEIGHT = 16, 64  # of a position, and of two bits


@dataclass(frozen=True)
class Motif:
    """A motif: `matrix` is p(base), float64 (W, 4)."""

    id: str
    name: str
    matrix: np.ndarray


@dataclass(frozen=True, slots=True)
class Match:
    """The known motif that a motif is most like, and how it lies. `reverse`: on the other strand.

    `q_value` is corrected for the number of known motifs. `offset` is the position of the known motif, as read on that
    strand, at which the other motif begins; below 0 where it begins earlier.
    """

    id: str
    name: str
    p_value: float
    q_value: float
    offset: int
    reverse: bool


def read_motifs(path: Path) -> list[Motif]:
    """The motifs of a MEME file (meme-suite.org/meme/doc/meme-format.html), in its order.

    Raises:
        BadInput: the file has no motif, one of another alphabet, or a matrix that is none of probabilities.
    """
    require_file(path, "MEME motif file")
    motifs: list[Motif] = []
    name, rows, left, start = ("", ""), [], 0, 0
    with open_text(path) as lines:
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if left:
                rows.append(_row(text, f"{path}, line {number}"))
                left -= 1
                if not left:
                    motifs.append(Motif(*name, np.array(rows)))
                    rows = []
            elif text.startswith("ALPHABET") and not re.match(rf"ALPHABET\s*=\s*{BASES}\s*$|ALPHABET .DNA. ", text):
                raise BadInput(f"{path}, line {number}: found '{text}', expected ALPHABET= {BASES}; give motifs of DNA")
            elif text.startswith("MOTIF"):
                words = text.split(maxsplit=2)[1:]
                if not words:
                    raise BadInput(f"{path}, line {number}: a motif without a name; write MOTIF and an identifier")
                name = (words[0], words[1] if len(words) > 1 else words[0])
            elif text.startswith("letter-probability matrix"):
                width = re.search(r"\bw=\s*(\d+)", text)
                if not width or int(width[1]) == 0:
                    raise BadInput(
                        f"{path}, line {number}: found '{text}', expected a matrix with its width as w= of at least 1; "
                        "correct the line"
                    )
                left, start = int(width[1]), number
    if left:
        raise BadInput(
            f"{path}: the file ends within the matrix that starts at line {start}, {left} rows short; copy it again"
        )
    if not motifs:
        raise BadInput(
            f"{path}: found no motif; expected a MEME file with lines of MOTIF and letter-probability matrix"
        )
    if twice := next((motif.id for n, motif in enumerate(motifs) if motif.id in {m.id for m in motifs[:n]}), None):
        raise BadInput(f"{path}: two motifs have the identifier {twice}; give each its own")
    return motifs


def _row(text: str, where: str) -> list[float]:
    try:
        row = [float(word) for word in text.split()]
    except ValueError:
        row = []
    if len(row) != 4 or not all(0 <= value <= 1 for value in row) or abs(sum(row) - 1) > SUM_TOLERANCE:
        raise BadInput(
            f"{where}: found '{text}', expected the probabilities of A, C, G and T, which add up to 1; correct the line"
        )
    return [value / sum(row) for value in row]


@cache
def _memelite() -> ModuleType:
    """memelite, with one thread: a job has the cores that its rule asks for, and results do not depend on them.

    numba keeps what it compiles beside memelite's files or in the user's cache. Where neither can be written, importing
    memelite fails; it is then compiled for this process alone.
    """
    import numba

    try:
        import memelite
    except RuntimeError:
        folder = tempfile.mkdtemp(prefix="seqprior-numba-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        numba.config.CACHE_DIR = folder
        import memelite
    numba.set_num_threads(1)
    return memelite


def floored(matrix: np.ndarray) -> np.ndarray:
    """p(base) without zeros, float64 (W, 4)."""
    raised = matrix + FLOOR
    return raised / raised.sum(1, keepdims=True)


def log_odds(matrix: np.ndarray) -> np.ndarray:
    """log2 of p(base) over equally likely bases, float64 (W, 4)."""
    return np.log2(floored(matrix)) + 2.0


def place_scores(matrix: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Log-odds score, in bits, of a motif at each place of a sequence, the better of both strands.

    Args:
        codes: base codes (L,). A place with an unknown base has minus infinity.

    Returns:
        float64 (L - W + 1,), empty for a sequence shorter than the motif.
    """
    if len(codes) < len(matrix):
        return np.empty(0)
    forward = np.pad(log_odds(matrix), ((0, 0), (0, 1)), constant_values=-np.inf)
    reverse = np.pad(log_odds(matrix)[::-1, ::-1], ((0, 0), (0, 1)), constant_values=-np.inf)
    seen = np.lib.stride_tricks.sliding_window_view(np.minimum(codes, UNKNOWN), len(matrix))
    at = np.arange(len(matrix))
    return np.maximum(forward[at, seen].sum(1), reverse[at, seen].sum(1))


def best_score(matrix: np.ndarray, codes: np.ndarray) -> float:
    """The best of `place_scores`; minus infinity where the motif fits nowhere."""
    return float(place_scores(matrix, codes).max(initial=-np.inf))


def scan(motifs: Sequence[Motif], sequences: Sequence[np.ndarray], threshold: float) -> pd.DataFrame:
    """Occurrences of motifs in sequences, on both strands, up to a p-value; none with an unknown base.

    The p-value is the share of all words, each base equally likely, that score as much on one strand.

    Args:
        sequences: base codes, each (L,).

    Returns:
        sequence (number), start, end, strand, motif (number), score (bits, as of `place_scores`), p_value; the lowest
        p-value of each sequence first.
    """
    import pandas as pd

    columns = ["sequence", "start", "end", "strand", "motif", "score", "p_value"]
    longest = max((len(codes) for codes in sequences), default=0)
    if not motifs or not longest:
        return pd.DataFrame(columns=columns)
    one_hot = np.zeros((len(sequences), 4, longest), np.int8)
    unknown = np.ones((len(sequences), longest + 1), np.int64)  # shorter sequences are filled up with unknown bases
    unknown[:, 0] = 0
    for row, codes in enumerate(sequences):
        known = np.flatnonzero(codes < UNKNOWN)
        one_hot[row, codes[known], known] = 1
        unknown[row, known + 1] = 0
    unknown = unknown.cumsum(1)
    by_number = {
        str(number): floored(motif.matrix).T for number, motif in enumerate(motifs) if len(motif.matrix) <= longest
    }
    hits = _memelite().fimo(by_number, one_hot, bin_size=BIN, eps=0, threshold=threshold) if by_number else []
    found = pd.concat([pd.DataFrame(columns=HITS), *(each for each in hits if len(each))], ignore_index=True)
    table = pd.DataFrame(
        {
            "sequence": found["sequence_name"].astype("int64"),
            "start": found["start"].astype("int64"),
            "end": found["end"].astype("int64"),
            "strand": found["strand"].astype(str),
            "motif": found["motif_name"].astype(str).str.removesuffix("-rc").astype("int64"),
            "score": found["score"].astype(float),
            "p_value": found["p-value"].astype(float),
        }
    )
    # A score that rounding puts above the distribution has p = 0 there, yet at least one word has it.
    table["p_value"] = np.maximum(table["p_value"], 4.0 ** (table["start"] - table["end"]))
    row = table["sequence"].to_numpy()
    whole = unknown[row, table["end"]] == unknown[row, table["start"]]
    table = table[whole & (table["p_value"] <= threshold)]
    return table.sort_values(["sequence", "p_value", "motif", "start"], kind="stable", ignore_index=True)


def nearest(matrix: np.ndarray, known: Sequence[Motif]) -> Match:
    """The known motif that a matrix (W, 4) is most like.

    Tomtom's p-values come from the positions of all known motifs; of fewer than some dozens they mean little, and
    memelite warns.
    """
    from scipy.stats import false_discovery_control

    tomtom = _memelite().tomtom
    p, _, offset, _, strand = (values[0] for values in tomtom([matrix.T], [m.matrix.T for m in known], n_jobs=1))
    q = false_discovery_control(np.clip(p, 0, 1))
    best = int(p.argmin())
    return Match(
        known[best].id, known[best].name, float(p[best]), float(q[best]), int(offset[best]), bool(strand[best])
    )


def information(matrix: np.ndarray) -> np.ndarray:
    """Bits of each position, float64 (W,)."""
    logs = np.log2(matrix, out=np.zeros_like(matrix, float), where=matrix > 0)
    return 2.0 + (matrix * logs).sum(1)


def logo_svg(matrix: np.ndarray, title: str) -> str:
    """A logo (Schneider and Stephens 1990, doi:10.1093/nar/18.20.6097) as SVG: letters as high as their information."""
    from markupsafe import escape

    width, height = LOGO_WIDTH * len(matrix) + 22, LOGO_HEIGHT + 12
    parts = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">']
    for bits in (0, 1, 2):
        down = 4 + LOGO_HEIGHT * (1 - bits / 2)
        parts.append(f'<path d="M18 {down:g}H{width}" stroke="#d8d6cd" stroke-width=".6"/>')
        parts.append(f'<text x="6" y="{down + 3:g}" font-size="9" fill="#5a626b">{bits}</text>')
    parts += _letters(matrix)
    return "".join([*parts, "</svg>"])


def _letters(matrix: np.ndarray) -> Iterator[str]:
    for position, (row, bits) in enumerate(zip(matrix, information(matrix), strict=True)):
        down = 4.0 + LOGO_HEIGHT
        for base in np.argsort(row, kind="stable"):
            tall = float(row[base] * bits) / 2 * LOGO_HEIGHT
            if tall < 0.3:
                continue
            down -= tall
            colour, path = GLYPHS[BASES[base]]
            across = 20 + LOGO_WIDTH * position
            yield (
                f'<path fill="{colour}" fill-rule="evenodd" d="{path}" '
                f'transform="translate({across} {down:.2f}) scale({LOGO_WIDTH - 2} {tall:.2f})"/>'
            )


def iter_lines(motifs: Iterable[Motif]) -> Iterator[str]:
    """Motifs as the lines of a MEME file."""
    yield f"MEME version 4\n\nALPHABET= {BASES}\n\nstrands: + -\n\n"
    for motif in motifs:
        yield f"MOTIF {motif.id} {motif.name}\nletter-probability matrix: alength= 4 w= {len(motif.matrix)}\n"
        yield "".join(" ".join(f"{value:.6f}" for value in row) + "\n" for row in motif.matrix) + "\n"
