"""Motifs: MEME files, scanning and comparison against independent computations, logos."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from seqprior.errors import BadInput
from seqprior.motifs import Motif, best_score, iter_lines, log_odds, logo_svg, nearest, place_scores, read_motifs, scan
from seqprior.sequence import encode, reverse_complement

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
