"""Labelled intervals against plain loops over every window, and drawn negatives against what they must match."""

from __future__ import annotations

import gzip
import json
import random
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pandas as pd
import pysam
import pytest

from seqprior import intervals
from seqprior.columns import INTERVALS
from seqprior.contigs import Contig, ContigNames, contigs_of, write_contigs
from seqprior.errors import BadInput
from seqprior.intervals import BORDER, Choice, Covered, Reference, assign_folds, draw_intervals, read_given
from seqprior.repeats import repeat_masks
from seqprior.sequence import encode, reverse_complement

WINDOW = 40
CHOICE = Choice(window=WINDOW, folds=3, ratio=1.0, max_unknown_share=0.1, seed=1)


def random_bases(rng: random.Random, length: int, gc: float) -> str:
    return "".join(rng.choices("ACGT", (1 - gc, gc, gc, 1 - gc), k=length))


def write_fasta(path, genome: dict[str, str]):
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in genome.items()))
    pysam.faidx(str(path))
    return path


def write_bed(path, rows):
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path


def names_of(genome: dict[str, str]) -> ContigNames:
    return ContigNames([Contig(name, len(sequence), (f"alias-{name}",)) for name, sequence in genome.items()])


def isochores(rng: random.Random, length: int) -> str:
    """Stretches of 500 bases with GC contents from .2 to .8."""
    return "".join(random_bases(rng, 500, rng.uniform(0.2, 0.8)) for _ in range(length // 500))


@pytest.fixture(scope="module")
def genome() -> dict[str, str]:
    rng = random.Random(1)
    return {f"chr{number}": isochores(rng, 30_000) for number in range(1, 6)}


@pytest.fixture(scope="module")
def fasta(genome, tmp_path_factory):
    return write_fasta(tmp_path_factory.mktemp("genome") / "genome.fa", genome)


def gc_rich_rows(genome: dict[str, str], count: int, seed: int = 2) -> list[tuple]:
    """Windows of GC content over .55, apart from one another."""
    rng, rows = random.Random(seed), []
    for name, sequence in genome.items():
        starts = [start for start in range(0, len(sequence) - WINDOW, 100) if gc_of(sequence, start) > 0.55]
        rows += [(name, start, start + WINDOW, "peak") for start in rng.sample(starts, min(count, len(starts)))]
    return rows


def gc_of(sequence: str, start: int, width: int = WINDOW) -> float:
    text = sequence[start : start + width].upper()
    return (text.count("G") + text.count("C")) / sum(map(text.count, "ACGT"))


def starts_of(tmp_path, rows, choice: Choice = CHOICE, length: int = 1000, suffix: str = "x.bed"):
    bed = write_bed(tmp_path / suffix, rows)
    return read_given(bed, None, ContigNames([Contig("chr1", length, ("1",)), Contig("tiny", 30, ())]), choice)


def test_windows_lie_around_the_middle_or_the_summit_of_a_narrow_peak(tmp_path):
    peak = ("chr1", 100, 200, "p", 0, ".", 5.1, -1, 2.5)
    rows = [("chr1", 100, 200), ("1", 500, 501, "one"), (*peak, 10), (*peak, -1), (*peak, 100)]
    rows += [(*("chr1", 100, 200, "bed12", 0, "+", 100, 200, 0, 2), "5,5", "0,95"), (*peak, "text")]
    given = starts_of(tmp_path, rows)
    assert given.start.tolist() == [130, 480, 90, 130, 180, 130, 130]
    assert given.name[:3] == ["chr1:100-200", "one", "p"]
    assert given.positive.all()


def test_windows_are_moved_into_the_contig_and_left_out_where_none_fits(tmp_path):
    rows = [("chr1", 0, 4), ("chr1", 990, 5000), ("chr1", 1000, 1001), ("chr1", 10**30, 10**31), ("tiny", 0, 10)]
    given = starts_of(tmp_path, rows)
    assert given.start[:2].tolist() == [0, 960]
    assert given.reason.tolist() == ["", "", "outside_contig", "outside_contig", "contig_too_short"]


def test_gzip_and_plain_files_give_the_same(tmp_path):
    rows = [("chr1", start, start + 7, "a") for start in range(0, 900, 90)]
    plain = starts_of(tmp_path, rows)
    (tmp_path / "y").write_bytes(gzip.compress((tmp_path / "x.bed").read_bytes()))
    zipped = read_given(tmp_path / "y", None, ContigNames([Contig("chr1", 1000, ())]), CHOICE)
    assert zipped.start.tolist() == plain.start.tolist()


def test_a_summit_beyond_its_peak_is_refused(tmp_path):
    with pytest.raises(
        BadInput, match=r"x.bed, line 1: found a summit 101 bases from the start of a peak of 100 bases"
    ):
        starts_of(tmp_path, [("chr1", 100, 200, "p", 0, ".", 1, 1, 1, 101)])


def test_the_label_of_the_fourth_column_says_what_is_positive(tmp_path):
    rows = [("chr1", 10 * n, 10 * n + 5, label) for n, label in enumerate(["promoter", "other", "promoter", "."])]
    choice = Choice(WINDOW, 3, 1.0, 0.1, 1, label="promoter")
    bed, more = write_bed(tmp_path / "a.bed", rows), write_bed(tmp_path / "b.bed", rows[:1])
    names = ContigNames([Contig("chr1", 1000, ())])
    assert read_given(bed, more, names, choice).positive.tolist() == [True, False, True, False, False]
    assert read_given(bed, more, names, CHOICE).positive.tolist() == [True] * 4 + [False]


def test_a_label_that_no_row_has_is_refused_with_those_there_are(tmp_path):
    bed = write_bed(tmp_path / "a.bed", [("chr1", 10 * n, 10 * n + 5, f"l{n}") for n in range(7)])
    more = write_bed(tmp_path / "b.bed", [("chr1", 0, 9, "enhancer")])
    sentence = "a.bed: no row has the label 'enhancer' in its fourth column, found 'l0', 'l1', 'l2', 'l3', 'l4', ...;"
    with pytest.raises(BadInput, match=re.escape(sentence)):
        read_given(bed, more, names_of({"chr1": "A" * 100}), Choice(WINDOW, 3, 1.0, 0.1, 1, label="enhancer"))


@pytest.mark.parametrize("small", [False, True])
def test_composition_and_repeats_equal_a_loop_over_bases(tmp_path, monkeypatch, small):
    rng = random.Random(3)
    unit = random_bases(rng, 60, 0.5)
    genome = {
        "a": unit + random_bases(rng, 900, 0.3) + unit[:30] + "N" * 25 + random_bases(rng, 300, 0.6),
        "b": random_bases(rng, 200, 0.5) + reverse_complement(unit) + random_bases(rng, 31, 0.5) + unit[7:45],
        "c": random_bases(rng, WINDOW, 0.5),
    }
    if small:
        for name, value in (("BLOCK", 90), ("GAP", 5), ("KMER_BLOCK", 41), ("KMERS_AT_ONCE", 1000)):
            monkeypatch.setattr(intervals, name, value)
    places = [(n, at) for n, text in enumerate(genome.values()) for at in range(len(text) - WINDOW + 1) if at % 10 < 3]
    rng.shuffle(places)
    contig, start = np.array(places).T
    masks = repeat_masks({name: encode(text) for name, text in genome.items()})
    with pysam.FastaFile(str(write_fasta(tmp_path / "g.fa", genome))) as sequences:
        reference = Reference(sequences, list(genome))
        gc, unknown = reference.composition(contig, start, WINDOW)
        repeats = reference.repeats(contig, start, WINDOW)
    assert reference.repeats_from == "24-mers"
    assert repeats.max() > 0.9 and repeats.min() == 0
    for row, (number, first) in enumerate(places):
        name = "abc"[number]
        text = genome[name][first : first + WINDOW]
        known = len(text) - text.count("N")
        assert gc[row] == pytest.approx((text.count("G") + text.count("C")) / known)
        assert unknown[row] == pytest.approx(text.count("N") / WINDOW)
        assert repeats[row] == pytest.approx(masks[name][first : first + WINDOW].mean())


def test_repeats_are_the_soft_mask_where_there_is_one(tmp_path):
    genome = {"a": "ACGT" * 10 + "acgt" * 5 + "nnnn" + "ACGT" * 4, "b": "ACGT" * 20}
    with pysam.FastaFile(str(write_fasta(tmp_path / "g.fa", genome))) as sequences:
        reference = Reference(sequences, list(genome))
        assert reference.repeats_from == "soft mask"
        assert reference.repeats(np.array([0, 0, 1]), np.array([0, 30, 0]), 40).tolist() == [0, 0.5, 0]


def test_a_reference_all_in_lower_case_has_no_soft_mask(tmp_path, monkeypatch, caplog):
    path = write_fasta(tmp_path / "g.fa", {"a": "acgtnN" * 20})
    with pysam.FastaFile(str(path)) as sequences:
        assert Reference(sequences, ["a"]).repeats_from == "24-mers"
        monkeypatch.setattr(intervals, "KMER_GENOME", 100)
        reference = Reference(sequences, ["a"])
    assert reference.repeats_from is None
    assert "matched by GC content alone" in caplog.text


def test_overlap_equals_a_comparison_of_all_pairs():
    rng = np.random.default_rng(4)
    contig, start = rng.integers(0, 3, 60), rng.integers(0, 2000, 60)
    end = start + rng.integers(1, 60, 60)
    asked_contig, asked = rng.integers(0, 4, 400), rng.integers(0, 2100, 400)
    expected = [
        any(c == contig[n] and s < end[n] and s + 25 > start[n] for n in range(60))
        for c, s in zip(asked_contig, asked, strict=True)
    ]
    assert 50 < sum(expected) < 350
    assert Covered(contig, start, end).overlap(asked_contig, asked, 25).tolist() == expected


def test_rows_left_out_have_a_reason_and_counts_add_up(genome, tmp_path):
    rng = random.Random(5)
    genome = genome | {"short": "ACGT" * 5, "chr6": "N" * 300 + random_bases(rng, 3000, 0.5)}
    fasta = write_fasta(tmp_path / "g.fa", genome)
    positive = [(f"chr{n}", start, start + 10, "p") for n in range(1, 7) for start in range(1000, 2000, 200)]
    positive += [("chr1", 1014, 1015, "p"), ("chr1", 1014, 1016, "p"), ("chr1", 1015, 1017, "p")]
    positive += [("short", 0, 5, "p"), ("chr6", 100, 110, "p"), ("chr6", 280, 281, "p"), ("chr2", 10**9, 10**9 + 1)]
    negative = [(f"chr{n}", start, start + 10, "n") for n in range(1, 7) for start in range(1100, 2000, 200)]
    negative += [("chr1", 1044, 1045), ("chr1", 1095, 1096), ("chr1", 1096, 1097), ("chr2", 1000, 1010)]
    bed, other = write_bed(tmp_path / "p.bed", positive), write_bed(tmp_path / "n.bed", negative)
    table, summary = draw_intervals(bed, other, fasta, names_of(genome), CHOICE)
    # Ten bases apart is far enough: of the middles 1005, 1014, 1015, 1016 and 1095, 1096, 1105 the second and 1016 go.
    assert summary["dropped"] == {
        "positive": {"contig_too_short": 1, "duplicate": 2, "outside_contig": 1, "unknown_bases": 2},
        "negative": {"duplicate": 1, "overlaps_positive": 2},
    }
    assert summary["rows"] == {"positive": len(positive), "negative": len(negative)}
    for label, value in (("positive", 1), ("negative", 0)):
        kept = summary["rows"][label] - sum(summary["dropped"][label].values())
        assert summary["intervals"][label] == kept == (table["label"] == value).sum()
    assert {985, 995} == set(table["start"][(table["chrom"] == "chr1") & (table["start"] < 1000)])
    assert summary["drawn"] is None
    assert list(zip(table["source"], table["label"], strict=True)) == [
        ("positives", 1) if label else ("negatives", 0) for label in table["label"]
    ]


def draw(fasta, genome, rows, tmp_path, **settings):
    choice = Choice(**({"window": WINDOW, "folds": 3, "ratio": 1.0, "max_unknown_share": 0.1, "seed": 1} | settings))
    return draw_intervals(write_bed(tmp_path / "p.bed", rows), None, fasta, names_of(genome), choice)


@pytest.mark.parametrize(("ratio", "count"), [(1.0, 100), (2.5, 250), (0.5, 50)])
def test_drawn_negatives_overlap_no_positive_and_one_another_nowhere(genome, fasta, tmp_path, ratio, count):
    rows = gc_rich_rows(genome, 20)
    rows[0] = (rows[0][0], rows[0][1], rows[0][1] + 3000, "a broad peak")
    table, summary = draw(fasta, genome, rows, tmp_path, ratio=ratio)
    drawn = table[table["source"] == "drawn"]
    assert len(drawn) == summary["drawn"]["found"] == summary["drawn"]["wanted"] == count
    assert (drawn["label"] == 0).all() and (drawn["end"] - drawn["start"] == WINDOW).all()
    for chrom, group in drawn.groupby("chrom"):
        assert all(second - first >= WINDOW for first, second in pairwise(group["start"]))
        for start in group["start"]:
            assert not any(c == chrom and start < end and start + WINDOW > first for c, first, end, _ in rows)
            assert 0 <= start <= len(genome[chrom]) - WINDOW


def test_drawn_negatives_have_the_positives_gc_content_and_contigs(genome, fasta, tmp_path):
    rows = gc_rich_rows({name: genome[name] for name in ("chr1", "chr2", "chr4")}, 40)
    table, summary = draw(fasta, genome, rows, tmp_path)
    gc = {
        label: np.sort([gc_of(genome[chrom], start) for chrom, start in zip(part["chrom"], part["start"], strict=True)])
        for label, part in table.groupby("label")
    }
    anywhere = np.mean([gc_of(text, start) for text in genome.values() for start in range(0, 29_000, 40)])
    assert gc[1].mean() - anywhere > 0.1
    assert abs(gc[1] - gc[0]).max() < 0.05  # quantile by quantile
    assert summary["gc"] == pytest.approx({"positive": gc[1].mean(), "negative": gc[0].mean()})
    contigs = [Counter(table["chrom"][table["label"] == label]) for label in (1, 0)]
    assert contigs[0].keys() == contigs[1].keys()
    assert all(abs(contigs[0][one] - contigs[1][one]) <= 4 for one in contigs[0])


def test_drawn_negatives_have_the_positives_share_of_repeats(genome, tmp_path):
    rng = random.Random(6)
    masked = {}
    for name, text in genome.items():
        pieces = [text[at : at + 100] for at in range(0, len(text), 100)]
        masked[name] = "".join(piece.lower() if rng.random() < 0.3 else piece for piece in pieces)
    rows = [
        (name, at, at + WINDOW, "p")
        for name, text in masked.items()
        for at in range(0, 29_900, 100)
        if text[at].islower() or at % 1500 == 0
    ]
    rows = rng.sample(rows, 150)
    table, summary = draw(write_fasta(tmp_path / "g.fa", masked), masked, rows, tmp_path)
    share = {
        label: np.mean(
            [
                sum(map(str.islower, masked[chrom][start : start + WINDOW])) / WINDOW
                for chrom, start in zip(part["chrom"], part["start"], strict=True)
            ]
        )
        for label, part in table.groupby("label")
    }
    assert summary["repeats_from"] == "soft mask"
    assert share[1] > 0.7
    assert share[0] == pytest.approx(share[1], abs=0.05)
    assert summary["repeats"] == pytest.approx({"positive": share[1], "negative": share[0]})


def test_negatives_that_cannot_be_matched_are_counted_as_missing(tmp_path, caplog):
    rng = random.Random(7)
    genome = {f"chr{n}": "GC" * 200 + random_bases(rng, 2000, 0.4) for n in range(1, 4)}
    rows = [(name, at, at + WINDOW, "p") for name in genome for at in (0, 70, 140, 210, 280, 350, 1000, 1500)]
    table, summary = draw(write_fasta(tmp_path / "g.fa", genome), genome, rows, tmp_path)
    assert summary["drawn"] == {"wanted": 24, "found": 6, "missing": 18}
    assert (table["source"] == "drawn").sum() == 6
    assert "18 of 24 negatives could not be drawn" in caplog.text


def test_neighbouring_bins_stand_in_where_the_own_one_is_empty(tmp_path):
    """Positives of GC content .5 exactly, elsewhere only .45 and .4: those of .45 are taken first."""
    exact, near, far = "ACGT" * 10, ("ACGT" * 9 + "ATGT"), ("ACGT" * 7 + "ATAT" * 2 + "ACGT")
    genome = {f"chr{n}": (exact + "N" * 40) * 5 + (near + "N" * 40) * 5 + (far + "N" * 40) * 20 for n in range(1, 4)}
    rows = [(name, 80 * n, 80 * n + WINDOW, "p") for name in genome for n in range(5)]
    table, summary = draw(
        write_fasta(tmp_path / "g.fa", genome), genome, rows, tmp_path, max_unknown_share=0.0, ratio=2.0
    )
    drawn = table[table["source"] == "drawn"]
    gc = Counter(
        round(gc_of(genome[chrom], start), 3) for chrom, start in zip(drawn["chrom"], drawn["start"], strict=True)
    )
    assert summary["drawn"]["missing"] == 0
    assert gc == {0.475: 15, 0.4: 15}


def test_folds_are_whole_contigs_of_about_as_many_positives(genome, fasta, tmp_path):
    genome_of = dict(zip(genome, (12, 50, 31, 18, 5), strict=True))
    rows = [(name, 150 * n + 500, 150 * n + 501, "p") for name, count in genome_of.items() for n in range(count)]
    table, summary = draw(fasta, genome, rows, tmp_path)
    assert summary["split"] == "contigs"
    folds = table.groupby("chrom")["fold"].agg(set)
    assert all(len(fold) == 1 for fold in folds)
    # Largest first, each to the emptiest fold: 50 | 31 | 18 + 12 + 5.
    assert [fold["contigs"] for fold in summary["folds"]] == [["chr2"], ["chr3"], ["chr1", "chr4", "chr5"]]
    for number, fold in enumerate(summary["folds"]):
        part = table[table["fold"] == number]
        assert set(fold["contigs"]) == set(part["chrom"])
        assert (fold["positive"], fold["negative"]) == ((part["label"] == 1).sum(), (part["label"] == 0).sum())


def test_too_few_contigs_are_cut_into_blocks_that_lie_apart(monkeypatch):
    rng = np.random.default_rng(8)
    start = np.sort(rng.integers(0, 500_000, 400))
    table = pd.DataFrame({"contig": np.repeat([0, 1], [250, 150]), "start": 0, "label": rng.integers(0, 2, 400)})
    table["start"] = np.concatenate([start[:250], np.sort(rng.integers(0, 300_000, 150))])
    folds, split = assign_folds(table, Choice(WINDOW, 4, 1.0, 0.1, 1))
    assert split == "blocks"
    expected = np.repeat(np.arange(4), 100)
    border = []
    for first in (100, 200, 300):
        before, after = table["start"][first - 1] + WINDOW, table["start"][first]
        border.append((table["contig"][first], (before + after) // 2))
    for row, (contig, at) in enumerate(zip(table["contig"], table["start"], strict=True)):
        if any(one == contig and at < place + BORDER and at + WINDOW > place - BORDER for one, place in border):
            expected[row] = -1
    assert 0 < (expected < 0).sum() < 200
    assert folds.tolist() == expected.tolist()


def test_the_border_between_blocks_keeps_exactly_its_distance():
    """Of the windows around the border at 50,020, those that end 10,000 bases before it or start so far after stay."""
    start = [1, 2, 39_980, 39_981, 50_000 - WINDOW, 50_080 - WINDOW, 60_019, 60_020, 70_000, 70_001]
    table = pd.DataFrame({"contig": 0, "start": start, "label": 1})
    folds, _ = assign_folds(table, Choice(WINDOW, 2, 1.0, 0.1, 1))
    assert folds.tolist() == [0, 0, 0, -1, -1, -1, -1, 1, 1, 1]


def test_intervals_at_a_border_between_blocks_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(intervals, "BORDER", 300)
    genome = {"chr1": isochores(random.Random(9), 30_000)}
    rows = [("chr1", at, at + WINDOW, "p") for at in range(0, 29_000, 200)]
    table, summary = draw(write_fasta(tmp_path / "g.fa", genome), genome, rows, tmp_path)
    assert summary["split"] == "blocks"
    near = {label: summary["dropped"][label]["near_border"] for label in ("positive", "negative")}
    assert summary["intervals"]["positive"] + near["positive"] == len(rows)
    assert summary["intervals"]["negative"] + near["negative"] == summary["drawn"]["found"]
    for fold, following in pairwise(range(3)):
        gap = table["start"][table["fold"] == following].min() - table["end"][table["fold"] == fold].max()
        assert gap >= 600


def test_a_fold_without_one_of_the_labels_is_refused(genome, fasta, tmp_path):
    positive = write_bed(tmp_path / "p.bed", [(name, 50, 60) for name in genome])
    negative = write_bed(tmp_path / "n.bed", [("chr1", 500, 600), ("chr1", 700, 800)])
    sentence = "p.bed: 5 positive and 2 negative intervals on 5 contigs leave fold 2 of 3 without a negative one"
    with pytest.raises(BadInput, match=sentence):
        draw_intervals(positive, negative, fasta, names_of(genome), CHOICE)


def test_an_element_without_any_interval_left_is_refused(genome, fasta, tmp_path):
    rows = [("chr1", 10**6, 10**6 + 5), ("chr2", 10**6, 10**6 + 5)]
    with pytest.raises(BadInput, match=r"p.bed: no interval of the element is left of 2 \(outside_contig 2\)"):
        draw(fasta, genome, rows, tmp_path)


def run(repo, fasta, bed, folder, *more):
    write_contigs(contigs_of(fasta), folder / "contigs.tsv")
    command = [sys.executable, repo / "scripts" / "draw_intervals.py", "--intervals", bed, "--fasta", fasta]
    command += ["--contigs", folder / "contigs.tsv", "--window", 40, "--folds", 3, "--negative-ratio", 1]
    command += ["--max-unknown-share", 0.1, "--output", folder / "intervals.parquet"]
    command += ["--summary", folder / "intervals.json", *more]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def test_the_script_writes_the_same_bytes_for_the_same_seed_and_sorted_rows(repo, genome, fasta, tmp_path):
    rows = gc_rich_rows(genome, 20)
    random.Random(10).shuffle(rows)
    bed = write_bed(tmp_path / "p.bed", rows)
    written = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / folder).mkdir()
        result = run(repo, fasta, bed, tmp_path / folder, "--label", "--negatives", "--seed", seed)
        assert result.returncode == 0, result.stderr
        written.append([(tmp_path / folder / name).read_bytes() for name in ("intervals.parquet", "intervals.json")])
    assert written[0] == written[1] != written[2]
    table = pd.read_parquet(tmp_path / "a" / "intervals.parquet")
    assert tuple(table.columns) == INTERVALS
    order = [list(genome).index(chrom) for chrom in table["chrom"]]
    assert sorted(zip(order, table["start"], strict=True)) == list(zip(order, table["start"], strict=True))
    summary = json.loads((tmp_path / "a" / "intervals.json").read_text())
    assert sum(fold["positive"] for fold in summary["folds"]) == len(rows)
    given = table[table["label"] == 1]
    assert sorted(zip(given["chrom"], given["start"], strict=True)) == sorted(row[:2] for row in rows)


def test_the_script_ends_with_2_and_one_sentence_for_bad_input(repo, fasta, tmp_path):
    bed = write_bed(tmp_path / "p.bed", [("chr9", 1, 2)])
    result = run(repo, fasta, bed, tmp_path, "--seed", 1)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {bed}, line 1: the reference has no contig 'chr9'")
    assert not (tmp_path / "intervals.parquet").exists()


def test_real_peaks_named_by_number_get_matched_negatives(shared_data, tmp_path):
    genome = {}
    with pysam.FastxFile(str(shared_data / "yeast" / "sacCer3.fa.gz")) as records:
        for record in records:
            if record.name in ("chrI", "chrII", "chrIII"):
                genome[record.name] = record.sequence
    fasta = write_fasta(tmp_path / "g.fa", genome)
    lines = (shared_data / "yeast" / "chip_exo" / "Reb1.bed").read_text().splitlines()
    rows = [line.split("\t") for line in lines if line.split("\t")[0] in ("chr1", "chr2", "chr3")]
    choice = Choice(200, 3, 1.0, 0.1, 1)
    names = ContigNames(contigs_of(fasta))
    table, summary = draw_intervals(write_bed(tmp_path / "p.bed", rows), None, fasta, names, choice)
    assert summary["rows"]["positive"] == len(rows) > 90
    assert summary["drawn"]["missing"] == 0
    assert summary["gc"]["negative"] == pytest.approx(summary["gc"]["positive"], abs=0.01)
    assert summary["repeats"]["negative"] == pytest.approx(summary["repeats"]["positive"], abs=0.02)
    assert set(table["chrom"]) == {"chrI", "chrII", "chrIII"}
