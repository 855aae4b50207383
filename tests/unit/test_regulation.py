"""Effects of alleles on heads and on planted binding sites, against loops over single windows and places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pysam
import pytest
import torch

from seqprior import regulation
from seqprior.columns import SITES, VARIANTS
from seqprior.features import Projection
from seqprior.motifs import Motif, log_odds
from seqprior.regulation import Allele, Effects, Haplotypes, Regions, Sites, score_regulation, site_effect
from seqprior.scanning import Region
from seqprior.sequence import encode, reverse_complement

WINDOW, CONTEXT = 20, 6
LENGTH = 400


class BaseHead:
    """A head of bases alone: its logit counts how far A's lie into the window."""

    uses_states, uses_sequence, window, projection = False, True, WINDOW, None

    def logits(self, forward, reverse, codes):
        assert codes.shape[1] == WINDOW
        return ((codes == 0) * torch.arange(WINDOW)).sum(1).float() / 7 + (codes == 4).sum(1)

    def probability(self, logits):
        return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


class StateHead(BaseHead):
    """A head of features, which `FakeReader` gives."""

    uses_states, uses_sequence = True, False

    def logits(self, forward, reverse, codes):
        return (forward - 2 * reverse).sum((1, 2))


class FakeReader:
    """Features that depend on the base and on how many bases of context a text has before it."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def read(self, texts, own):
        self.seen += texts
        found = []
        for text, (first, last) in zip(texts, own, strict=True):
            codes = torch.from_numpy(encode(text).astype(np.float32))
            state = (codes + codes.roll(CONTEXT))[first:last, None]
            found.append((state, state.flip(0)))
        return found


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    rng = np.random.default_rng(2)
    texts = {name: "".join(rng.choice(list("ACGT"), LENGTH)) for name in ("one", "two")}
    fasta = folder / "genome.fa"
    fasta.write_text("".join(f">{name}\n{text}\n" for name, text in texts.items()))
    pysam.faidx(str(fasta))
    return fasta, texts


def alleles_of(texts: dict[str, str]) -> list[Allele]:
    rng = np.random.default_rng(4)
    found = []
    for chrom, text in texts.items():
        for start in (0, 3, *sorted(rng.integers(20, LENGTH - 30, 12)), LENGTH - 1):
            start, ref = int(start), text[int(start)]
            alts = [("ACGT"[("ACGT".index(ref) + 1) % 4], ref), (ref + "AATA", ref), (ref, text[start : start + 4])]
            for alt, own in alts[: 1 if start + 4 > LENGTH else 3]:
                found.append(Allele(f"{chrom}-{start + 1}-{own}-{alt}", chrom, start, own, alt))
    return found


def write_variants(path: Path, alleles: list[Allele], skipped: int = 0) -> Path:
    rows = []
    for allele in alleles:
        row = dict.fromkeys(VARIANTS, "") | {"input_count": 1, "input_line": 1, "status": "scored"}
        row |= {"variant_id": allele.name, "chrom": allele.chrom, "pos": allele.start + 1, "ref": allele.ref}
        rows.append(row | {"alt": allele.alt})
    rows[skipped]["status"] = "skipped"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def by_hand(texts: dict[str, str], allele: Allele, bases: str, offset: int) -> str:
    """One haplotype's window with its context, `offset` bases right of where the longer allele is in its middle."""
    text = texts[allele.chrom]
    haplotype = "N" * 99 + text[: allele.start] + bases + text[allele.start + len(allele.ref) :] + "N" * 99
    start = 99 + allele.start - (WINDOW - max(len(allele.ref), len(allele.alt))) // 2 + offset
    return haplotype[start - CONTEXT : start + WINDOW + CONTEXT]


@pytest.mark.parametrize("head", [BaseHead(), StateHead()], ids=["bases", "states"])
def test_effects_are_those_of_single_windows(genome, tmp_path, head):
    fasta, texts = genome
    alleles = alleles_of(texts)
    variants = write_variants(tmp_path / "variants.parquet", alleles)
    output = tmp_path / "regulation.parquet"
    regions = [Region(name, 0, LENGTH) for name in texts]
    effects = Effects({"E": head}, FakeReader(), CONTEXT)
    counts = score_regulation(variants, fasta, regions, effects, [], None, output)
    table = pd.read_parquet(output)
    assert counts == {"alleles": len(alleles) - 1, "in_regions": len(alleles) - 1, "with_site": 0}
    assert table["variant_id"].tolist() == [allele.name for allele in alleles[1:]]
    assert list(table) == ["variant_id", "element_probability.E", "element_change.E"]
    reader = FakeReader()
    for allele, row in zip(alleles[1:], table.itertuples(index=False), strict=True):
        logits = {}
        for which, bases in (("ref", allele.ref), ("alt", allele.alt)):
            asked = []
            for offset in (-WINDOW // 4, 0, WINDOW // 4):
                text = by_hand(texts, allele, bases, offset)
                ((forward, reverse),) = reader.read([text], [(CONTEXT, CONTEXT + WINDOW)])
                if head.uses_states:  # the fake reverse reading turns a whole text, not a window
                    whole = Haplotypes(WINDOW, CONTEXT)
                    own = (CONTEXT, whole.length - CONTEXT)
                    full = whole.text(texts[allele.chrom], allele, bases)
                    ((long_forward, long_reverse),) = reader.read([full], [own])
                    at = offset + WINDOW // 4
                    torch.testing.assert_close(long_forward[at : at + WINDOW], forward)
                    reverse = long_reverse[at : at + WINDOW]
                codes = torch.from_numpy(encode(text)[CONTEXT:-CONTEXT].astype(np.int64))
                asked.append(float(head.logits(forward[None], reverse[None], codes[None])))
            logits[which] = np.array(asked)
        assert row[1] == pytest.approx(head.probability(logits["ref"]).mean(), abs=1e-6)
        assert row[2] == pytest.approx(logits["alt"].mean() - logits["ref"].mean(), abs=1e-4)


def test_tokens_before_an_indel_are_the_same_in_both_haplotypes(genome):
    _, texts = genome
    cut = Haplotypes(WINDOW, CONTEXT)
    for allele in alleles_of(texts):
        ref, alt = (cut.text(texts[allele.chrom], allele, bases) for bases in (allele.ref, allele.alt))
        assert len(ref) == len(alt) == cut.length
        before = cut.context + cut.quarter + (WINDOW - max(len(allele.ref), len(allele.alt))) // 2
        assert ref[:before] == alt[:before]
        assert (ref[before:].startswith(allele.ref), alt[before:].startswith(allele.alt)) == (True, True)


def test_haplotypes_that_several_alleles_share_are_read_once(genome):
    _, texts = genome
    reader = FakeReader()
    cut = Haplotypes(WINDOW, CONTEXT)
    ref = texts["one"][100]
    alleles = [Allele(alt, "one", 100, ref, alt) for alt in "ACGT" if alt != ref]
    pairs = [tuple(cut.text(texts["one"], allele, bases) for bases in (allele.ref, allele.alt)) for allele in alleles]
    Effects({"E": StateHead(), "F": StateHead()}, reader, CONTEXT).of(WINDOW, pairs)
    assert len(reader.seen) == 4


class WideHead(StateHead):
    """A head of another width whose features are doubled by its projection."""

    window = WINDOW + 6
    projection = Projection(torch.zeros(1), torch.full((1, 1), 2.0))

    def logits(self, forward, reverse, codes):
        assert codes.shape[1] == self.window
        return super().logits(forward, reverse, codes)


@pytest.mark.parametrize("portion", [1, 5, 64])
def test_heads_of_different_kinds_and_widths_are_asked_as_if_each_were_alone(genome, tmp_path, portion, monkeypatch):
    fasta, texts = genome
    monkeypatch.setattr(regulation, "READ_TEXTS", portion)
    variants = write_variants(tmp_path / "variants.parquet", alleles_of(texts))
    heads = {"bases": BaseHead(), "states": StateHead(), "wide": WideHead()}

    def table(own: dict) -> pd.DataFrame:
        regions = [Region(name, 0, LENGTH) for name in texts]
        score_regulation(
            variants, fasta, regions, Effects(own, FakeReader(), CONTEXT), [], None, tmp_path / "o.parquet"
        )
        return pd.read_parquet(tmp_path / "o.parquet").set_index("variant_id")

    alone = pd.concat([table({name: head}) for name, head in heads.items()], axis=1)
    pd.testing.assert_frame_equal(table(heads), alone, rtol=1e-6)
    assert (alone["element_change.states"].abs() > 0).any()
    single = WideHead()
    single.projection = None
    plain = table({"wide": single})["element_change.wide"]
    assert alone["element_change.wide"].to_numpy() == pytest.approx(2 * plain.to_numpy())


def test_alleles_outside_the_regions_are_left_out(genome, tmp_path):
    fasta, texts = genome
    alleles = alleles_of(texts)
    variants = write_variants(tmp_path / "variants.parquet", alleles)
    regions = [Region("one", 50, 250), Region("one", 300, 310)]
    effects = Effects({"E": BaseHead()}, None, 0)
    counts = score_regulation(variants, fasta, regions, effects, [], None, tmp_path / "out.parquet")
    inside = [a.name for a in alleles if a.chrom == "one" and (50 <= a.start < 250 or 300 <= a.start < 310)]
    assert pd.read_parquet(tmp_path / "out.parquet")["variant_id"].tolist() == inside
    assert counts["in_regions"] == len(inside) > 3
    assert Allele("", "two", 60, "A", "C") not in Regions(regions)


def test_an_allele_longer_than_the_window_has_no_effect_on_the_head(genome, tmp_path):
    fasta, texts = genome
    long = Allele("long", "one", 100, texts["one"][100], texts["one"][100] + "A" * WINDOW)
    short = Allele("short", "one", 110, texts["one"][110], texts["one"][110] + "A")
    variants = write_variants(tmp_path / "v.parquet", [short, short, long])
    score_regulation(
        variants,
        fasta,
        [Region("one", 0, LENGTH)],
        Effects({"E": BaseHead()}, None, 0),
        [],
        None,
        tmp_path / "o.parquet",
    )
    assert pd.read_parquet(tmp_path / "o.parquet")["element_change.E"].isna().tolist() == [False, True]


# --- binding sites ---


WORD = "TTACCCG"


def word_motif(identifier: str = "M1", name: str = "REB1") -> Motif:
    matrix = np.full((len(WORD), 4), 0.02)
    matrix[np.arange(len(WORD)), encode(WORD)] = 0.94
    return Motif(identifier, name, matrix)


def site_table(*places: tuple[str, int, int, str, float]) -> pd.DataFrame:
    rows = [
        dict.fromkeys(SITES, "") | {"chrom": c, "start": s, "end": e, "motif": m, "q_value": q}
        for c, s, e, m, q in places
    ]
    return pd.DataFrame(rows, columns=list(SITES))


def best_touching(text: str, start: int, end: int, matrix: np.ndarray) -> float:
    """Best score of a motif at the places of a text that share a base with [start, end)."""
    odds, width = log_odds(matrix), len(matrix)
    best = -np.inf
    for at in range(max(start - width + 1, 0), min(end - 1, len(text) - width) + 1):
        word = text[at : at + width]
        for reading in (word, reverse_complement(word)):
            best = max(best, sum(odds[i, "ACGT".index(base)] for i, base in enumerate(reading)))
    return best


@pytest.mark.parametrize(("ref", "alt"), [("C", "G"), ("C", "CAC"), ("CC", "C")])
@pytest.mark.parametrize("turned", [False, True])
def test_the_change_of_a_site_is_that_of_its_best_place(ref, alt, turned):
    flank = "GATCATGCATGGATTCATGC"
    text = flank + WORD + flank
    start = len(flank) + 3
    assert text[start : start + len(ref)] == ref
    if turned:
        start = len(text) - start - len(ref)
        text, ref, alt = reverse_complement(text), reverse_complement(ref), reverse_complement(alt)
    allele = Allele("a", "one", start, ref, alt)
    motif = word_motif()
    sites = Sites(site_table(("one", len(flank), len(flank) + 7, "M1", 0.01), ("one", 0, 5, "M1", 0.5)), [motif])
    touched = sites.touched(allele)
    assert [site.start for site in touched] == [len(flank)]
    other = text[:start] + alt + text[start + len(ref) :]
    expected = best_touching(other, start, start + len(alt), motif.matrix) - best_touching(
        text, start, start + len(ref), motif.matrix
    )
    name, change, q_value = site_effect(text, allele, touched, [motif])
    assert (name, q_value) == ("REB1", 0.01)
    assert change == pytest.approx(expected) and change < -3


def test_of_several_sites_the_one_that_changes_most_counts():
    text = "GATCATGC" + WORD + "GATCATGC"
    weak = Motif("M2", "weak", np.full((5, 4), 0.25))
    motifs = [weak, word_motif()]
    sites = Sites(
        site_table(("one", 8, 15, "M2", 0.02), ("one", 8, 15, "M1", 0.03), ("one", 8, 15, "none", 0.0)), motifs
    )
    allele = Allele("a", "one", 11, "C", "G")
    assert len(sites.touched(allele)) == 2
    assert site_effect(text, allele, sites.touched(allele), motifs)[0] == "REB1"
    assert site_effect(text, allele, [], motifs) is None


def test_sites_are_columns_of_the_table(genome, tmp_path):
    fasta, texts = genome
    alleles = alleles_of(texts)
    variants = write_variants(tmp_path / "v.parquet", alleles)
    hit = alleles[10]
    table = site_table((hit.chrom, hit.start - 2, hit.start + 3, "M1", 0.04))
    effects = Effects({}, None, 0)
    score_regulation(
        variants, fasta, [Region(n, 0, LENGTH) for n in texts], effects, [word_motif()], table, tmp_path / "o.parquet"
    )
    found = pd.read_parquet(tmp_path / "o.parquet").set_index("variant_id")
    assert list(found) == ["site", "site_change", "site_q"]
    assert found.loc[hit.name, "site"] == "REB1" and found.loc[hit.name, "site_q"] == 0.04
    expected = {
        a.name
        for a in alleles[1:]
        if a.chrom == hit.chrom and a.start < hit.start + 3 and a.start + len(a.ref) > hit.start - 2
    }
    assert set(found.index[found["site"].notna()]) == expected
