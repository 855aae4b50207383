"""Motifs: MEME files, scanning and comparison against independent computations, logos."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from seqprior.errors import BadInput
from seqprior.motifs import Motif, best_score, iter_lines, log_odds, logo_svg, nearest, place_scores, read_motifs, scan
from seqprior.sequence import encode, reverse_complement

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
REB1 = "TTACCCG"


def motif_of(text: str, name: str = "m", share: float = 0.91) -> Motif:
    matrix = np.full((len(text), 4), (1 - share) / 3)
    matrix[np.arange(len(text)), encode(text)] = share
    return Motif(name, name.upper(), matrix)


def random_motifs(count: int, seed: int = 1) -> list[Motif]:
    rng = np.random.default_rng(seed)
    return [Motif(f"r{n}", f"R{n}", rng.dirichlet(np.full(4, 0.4), size=rng.integers(6, 14))) for n in range(count)]


@pytest.fixture
def meme(tmp_path):
    path = tmp_path / "motifs.meme"

    def write(text: str):
        path.write_text(text)
        return path

    return write


def test_motifs_are_read_as_they_were_written(meme):
    given = [motif_of(REB1, "MA1"), *random_motifs(3)]
    found = read_motifs(meme("".join(iter_lines(given))))
    assert [(m.id, m.name) for m in found] == [(m.id, m.name) for m in given]
    for one, other in zip(found, given, strict=True):
        np.testing.assert_allclose(one.matrix, other.matrix, atol=2e-6)


def test_what_meme_suite_and_jaspar_write_is_read(meme):
    text = (
        "MEME version 4\n\nALPHABET= ACGT\n\nstrands: + -\n\nBackground letter frequencies\n"
        "A 0.25 C 0.25 G 0.25 T 0.25\n\n"
        "MOTIF MA0363.3 MA0363.3.REB1\nletter-probability matrix: alength= 4 w= 2 nsites= 20 E= 0\n"
        " 0.000000  0.000000  0.000000  1.000000  \n 0.25 0.25 0.25 0.25\nURL http://example.org\n\nMOTIF other\n"
        "letter-probability matrix: alength= 4 w= 1\n1 0 0 0\n"
    )
    first, second = read_motifs(meme(text))
    assert (first.id, first.name, second.id, second.name) == ("MA0363.3", "MA0363.3.REB1", "other", "other")
    np.testing.assert_array_equal(first.matrix, [[0, 0, 0, 1], [0.25] * 4])


HEAD = "MEME version 4\nALPHABET= ACGT\nMOTIF m\nletter-probability matrix: alength= 4 w= 2\n"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the file is empty"),
        ("MEME version 4\nALPHABET= ACGT\n", "found no motif; expected a MEME file"),
        ("MEME version 4\nALPHABET= ACDEFGHIKLMNPQRSTVWY\n", "line 2: found 'ALPHABET= ACDEFGHIKLMNPQRSTVWY'"),
        (HEAD + "0.5 0.5 0 0\n", "the file ends within the matrix that starts at line 4, 1 rows short"),
        (HEAD + "0.5 0.5 0 0\n0.5 0.5 0.5 0\n", "line 6: found '0.5 0.5 0.5 0', expected the probabilities"),
        (HEAD + "0.5 0.5 0 0\nnan 0.5 0.5 0\n", "line 6: found 'nan 0.5 0.5 0', expected the probabilities"),
        (HEAD + "0.5 0.5 0 0\n1 0 0\n", "line 6: found '1 0 0', expected the probabilities"),
        (
            HEAD + "1 0 0 0\n1 0 0 0\n" + HEAD.partition("\n")[2] + "1 0 0 0\n1 0 0 0\n",
            "two motifs have the identifier m",
        ),
        ("MOTIF\n", "line 1: a motif without a name"),
        ("MOTIF m\nletter-probability matrix: alength= 4\n", "expected a matrix with its width as w="),
    ],
)
def test_a_file_that_is_no_meme_file_is_refused_with_its_line(meme, text, sentence):
    with pytest.raises(BadInput) as refused:
        read_motifs(meme(text))
    assert sentence in str(refused.value)
    assert str(refused.value).startswith(str(meme(text)))


def test_scores_of_places_are_those_of_a_loop_over_both_strands():
    rng = np.random.default_rng(3)
    motif = random_motifs(1)[0]
    text = "".join(rng.choice(list("ACGTN"), p=[0.24] * 4 + [0.04], size=80))
    odds, width = log_odds(motif.matrix), len(motif.matrix)
    expected = []
    for start in range(len(text) - width + 1):
        piece = text[start : start + width]
        if "N" in piece:
            expected.append(-np.inf)
            continue
        readings = (piece, reverse_complement(piece))
        expected.append(max(sum(odds[i, "ACGT".index(b)] for i, b in enumerate(reading)) for reading in readings))
    np.testing.assert_allclose(place_scores(motif.matrix, encode(text)), expected)
    assert best_score(motif.matrix, encode(text)) == max(expected)
    assert best_score(motif.matrix, encode("ACG")) == -np.inf


def test_a_planted_site_is_found_on_either_strand_and_its_p_value_is_the_share_of_words():
    motif = motif_of(REB1)
    background = "CATGCATGGATTCATGCATGAATC"
    texts = [background + REB1 + background, background + reverse_complement(REB1) + background, background, "ACG"]
    found = scan([motif_of("GGGGGGGGGG", "g"), motif], [encode(text) for text in texts], 1e-3)
    best = found.drop_duplicates("sequence")
    assert best[["sequence", "start", "end", "strand", "motif"]].values.tolist() == [
        [0, 24, 31, "+", 1],
        [1, 24, 31, "-", 1],
    ]
    # one word of 4^7 scores as much
    assert best["p_value"].tolist() == pytest.approx([4.0**-7] * 2, rel=0.02)


def test_p_values_are_the_shares_of_all_words_and_never_0():
    motifs = [Motif(m.id, m.name, m.matrix[:6]) for m in random_motifs(12)]
    words = np.array(list(product(range(4), repeat=6)), np.uint8)
    found = scan(motifs, [motif.matrix.argmax(1) for motif in motifs], 0.02)
    best = found[(found["motif"] == found["sequence"]) & (found["strand"] == "+")]
    assert best["motif"].tolist() == list(range(12))
    for row in found.itertuples():
        scores = log_odds(motifs[row.motif].matrix)[np.arange(6), words].sum(1)
        # memelite rounds each position's score to 0.01 bits
        low, high = (float((scores >= row.score + shift).mean()) for shift in (0.06, -0.06))
        assert max(low, 4.0**-6) * 0.999 <= row.p_value <= high * 1.001


def test_occurrences_are_the_places_whose_score_reaches_the_threshold_and_have_no_unknown_base():
    rng = np.random.default_rng(6)
    motif = motif_of(REB1, share=0.7)
    sequences = [rng.choice(5, size, p=[0.24] * 4 + [0.04]) for size in (300, 40, 7, 211)]
    found = scan([motif], sequences, 0.02)
    assert len(found) > 3
    lowest = found["score"].min()
    for number, codes in enumerate(sequences):
        places = place_scores(motif.matrix, codes)
        own = found[found["sequence"] == number].groupby("start")["score"].max()
        assert own.index.tolist() == np.flatnonzero(places >= lowest - 1e-4).tolist()
        np.testing.assert_allclose(own, places[own.index], atol=1e-4)


def test_scanning_and_comparing_do_not_depend_on_the_number_of_threads():
    import numba

    known = random_motifs(40)
    sequences = [np.random.default_rng(7).integers(0, 4, 200) for _ in range(5)]
    found, match = scan(known, sequences, 1e-3), nearest(known[3].matrix, known)
    assert numba.get_num_threads() == 1
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    try:
        assert scan(known, sequences, 1e-3).equals(found) and nearest(known[3].matrix, known) == match
    finally:
        numba.set_num_threads(1)


def test_motifs_are_scanned_where_no_folder_for_compiled_code_can_be_written():
    program = """
import sys, pathlib
from numba.core import caching
caching.CacheImpl._locator_classes = [caching.UserProvidedCacheLocator]
try:
    import memelite
except RuntimeError as error:
    print(error)
from seqprior.motifs import _memelite
import numba
assert callable(_memelite().tomtom)
print(numba.config.CACHE_DIR)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={"PYTHONPATH": str(SCRIPTS)})
    refusal, folder = done.stdout.splitlines()
    assert "no locator available" in refusal and not Path(folder).exists()


def test_nothing_is_found_in_nothing():
    assert scan([], [encode("ACGT")], 0.1).empty
    assert scan([motif_of(REB1)], [], 0.1).empty
    assert scan([motif_of(REB1)], [encode("ACG")], 0.1).empty


def test_a_motif_is_most_like_itself_also_when_turned_or_cut():
    known = [*random_motifs(60), motif_of(REB1, "reb1"), motif_of("CACGTGAC", "cbf1")]
    for turned in (False, True):
        matrix = known[60].matrix[::-1, ::-1] if turned else known[60].matrix
        match = nearest(matrix, known)
        assert (match.id, match.reverse, match.offset) == ("reb1", turned, 0)
        assert match.q_value < 0.01 and match.p_value <= match.q_value
    assert nearest(known[61].matrix[1:], known).id == "cbf1"


@pytest.mark.parametrize(("cut", "begins"), [(2, 2), (0, 0), (-2, -2)])
def test_the_offset_is_where_the_known_motif_as_read_on_its_strand_meets_the_first_position(cut, begins):
    known = [*random_motifs(60), motif_of("TATCGTTACCCGGA", "long")]
    matrix = known[60].matrix
    matrix = matrix[cut:] if cut >= 0 else np.concatenate([np.full((-cut, 4), 0.25), matrix])
    match = nearest(matrix, known)
    assert (match.id, match.reverse, match.offset) == ("long", False, begins)
    ends = len(known[60].matrix) - len(matrix) - begins
    match = nearest(matrix[::-1, ::-1], known)
    assert (match.id, match.reverse, match.offset) == ("long", True, ends)


def test_shuffled_positions_of_a_motif_are_rarely_like_another():
    known = [*random_motifs(100), motif_of("TATCGTTACCCGGA", "long")]
    rng = np.random.default_rng(9)
    q_values = np.array([nearest(known[100].matrix[rng.permutation(14)], known).q_value for _ in range(40)])
    assert (q_values < 0.01).mean() <= 0.05 and np.median(q_values) > 0.2


def test_a_motif_of_no_information_is_like_none():
    match = nearest(np.full((8, 4), 0.25), [*random_motifs(60), motif_of(REB1, "reb1")])
    assert match.q_value > 0.05


def test_a_logo_is_as_high_as_its_information_and_says_what_it_shows():
    matrix = np.array([[1.0, 0, 0, 0], [0.5, 0, 0, 0.5], [0.25] * 4])
    svg = logo_svg(matrix, "Motif <1>")
    tree = ET.fromstring(svg)
    assert tree.attrib["aria-label"] == "Motif <1>" and tree.attrib["role"] == "img"
    heights = [
        float(node.attrib["transform"].split()[-1].rstrip(")"))
        for node in tree.iter("path")
        if "transform" in node.attrib
    ]
    assert heights == [64.0, 16.0, 16.0]
