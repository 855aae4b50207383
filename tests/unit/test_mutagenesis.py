"""Mutagenesis against one changed text at a time, and an element's explanation against sites that were planted."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pysam
import pytest
import torch
from random_models import write_checkpoint

from seqprior import mutagenesis
from seqprior.adapters import BidirectionalAdapter, load_adapter
from seqprior.batching import Batcher
from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM
from seqprior.columns import INTERVALS, MOTIFS, SITES, motifs_schema, sites_schema
from seqprior.contigs import ContigNames, contigs_of, write_contigs
from seqprior.features import Projection, Reader
from seqprior.heads import Calibration, Head, Network, save_head
from seqprior.models import ModelFacts
from seqprior.motifs import Motif as KnownMotif
from seqprior.motifs import iter_lines
from seqprior.mutagenesis import (
    Mutagenesis,
    Window,
    called_places,
    contributions,
    cut_windows,
    explain,
    labelled_places,
    most_probable,
    shuffled_windows,
    write_contributions,
)
from seqprior.plans import Reading, read_scheme
from seqprior.sequence import encode, reverse_complement

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
CONFIG = BidirectionalConfig(width=8, kernel=3, dilations=(1, 2, 4), head=8)
WIDTH = 24


def bases(length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=length))


def network_adapter(arithmetic: str = "float32") -> BidirectionalAdapter:
    torch.manual_seed(0)
    network = BidirectionalConvLM(CONFIG)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    values = dict.fromkeys(("name", "species", "licence", "citation", "description", "limits"), "x")
    facts = ModelFacts(
        id="small",
        family="bidirectional-conv",
        objective="bidirectional",
        tokenisation="single-base",
        window=2 * CONFIG.reach + 1,
        embedding_window=5,
        parameters=1,
        **values,
    )
    return BidirectionalAdapter(network, read_scheme(facts, Reading()), CPU, arithmetic)


class RandomHead:
    """A head that multiplies neighbouring features and bases of a window by random numbers."""

    kind = "random"

    def __init__(self, states: int | None, width: int = WIDTH, components: int | None = 5):
        rng = torch.Generator().manual_seed(3)
        self.window, self.uses_states, self.uses_sequence = width, states is not None, True
        self.projection = None
        if states is not None and components is not None:
            self.projection = Projection(
                torch.randn(states, generator=rng), torch.randn(states, components, generator=rng)
            )
        size = 5 + 2 * ((components or states) if states is not None else 0)
        self.weights = torch.randn(width, size, generator=rng) / 10

    def logits(self, forward, reverse, codes):
        found = torch.nn.functional.one_hot(codes, 5).float()
        if self.uses_states:
            assert forward.dtype == reverse.dtype == torch.float32
            found = torch.cat([found, forward, reverse], -1)
        return torch.tanh((found * self.weights).sum(-1)).cumsum(1).square().mean(1)


def one_text_at_a_time(head, adapter, window: Window) -> np.ndarray:
    """Effects (W, 4) from a whole text for every base at every place."""
    reader = None if adapter is None else Reader(adapter, Batcher(CPU, 4096), head.projection)
    own = (window.first, window.first + head.window)

    def logit(text: str) -> float:
        strands = (None, None) if reader is None else [each[None] for each in reader.read([text], [own])[0]]
        codes = torch.from_numpy(encode(text[slice(*own)]).astype(np.int64))[None]
        return head.logits(*strands, codes).double().item()

    found = np.zeros((head.window, 4))
    for place in range(head.window):
        at = window.first + place
        if window.text[at] in "ACGT":
            for number, base in enumerate("ACGT"):
                found[place, number] = logit(window.text[:at] + base + window.text[at + 1 :]) - logit(window.text)
    return found


def small_windows() -> list[Window]:
    """Inside a contig, at its start, at its end, and with unknown bases in the window and around it."""
    text = bases(60, 1)
    return [
        Window("one", 100, text, 18),
        Window("one", 0, bases(WIDTH + 18, 2), 0),
        Window("one", 200, bases(WIDTH + 7, 3), 7),
        Window("one", 300, text[:10] + "NN" + text[12:22] + "N" + text[23:], 18),
    ]


def check(head, adapter, windows, tolerance: float = 2e-5) -> None:
    reader = None if adapter is None else Reader(adapter, Batcher(CPU, 512), head.projection)
    asker = Mutagenesis(head, reader)
    effects = asker.effects(windows)
    assert effects.shape == (len(windows), head.window, 4)
    for found, window in zip(effects, windows, strict=True):
        expected = one_text_at_a_time(head, adapter, window)
        assert np.abs(expected).max() > 100 * tolerance
        np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize("components", [5, None])
def test_changed_states_of_the_own_network_equal_whole_passes(components):
    adapter = network_adapter()
    check(RandomHead(2 * CONFIG.width, components=components), adapter, small_windows())


def test_changed_states_are_exact_without_the_table_of_the_first_block():
    adapter = network_adapter()
    adapter.network._tables.clear()
    check(RandomHead(2 * CONFIG.width), adapter, small_windows())


def test_changed_states_are_exact_where_the_network_sees_less_than_the_window():
    width = 2 * CONFIG.reach + 11
    window = Window("one", 100, bases(width + 8, 5), 4)
    check(RandomHead(2 * CONFIG.width, width), network_adapter(), [window])


@pytest.mark.parametrize("kind", ["nt-v2", "dnabert-3", "dnabert-2", "generator"])
def test_token_models_read_every_changed_window(kind, tmp_path):
    facts = write_checkpoint(kind, tmp_path, window=120)
    adapter = load_adapter(facts, CPU, "float32", Reading())
    states = adapter.states(Batcher(CPU), ["ACGT" * 8])[0].shape[1]
    check(RandomHead(states), adapter, small_windows()[:2], 1e-4)


def test_a_head_that_sees_bases_alone_needs_no_model():
    check(RandomHead(None), None, small_windows())
    with pytest.raises(ValueError, match="needs a model"):
        Mutagenesis(RandomHead(4), None)


def test_effects_do_not_depend_on_the_other_windows(monkeypatch):
    adapter = network_adapter()
    head = RandomHead(2 * CONFIG.width)
    asker = Mutagenesis(head, Reader(adapter, Batcher(CPU, 512), head.projection))
    together = asker.effects(small_windows())
    monkeypatch.setattr(mutagenesis, "HELD_BASES", {"cpu": 1, "cuda": 1})
    np.testing.assert_allclose(asker.effects(small_windows()[::-1])[::-1], together, atol=1e-6)
    np.testing.assert_array_equal(asker.effects([]), np.zeros((0, WIDTH, 4)))


def test_a_contribution_is_the_logit_less_the_mean_over_three_changes():
    head = RandomHead(None)
    window = Window("one", 0, bases(WIDTH, 4), 0)
    found = contributions(Mutagenesis(head, None).effects([window]))[0]
    codes = encode(window.text).astype(np.int64)
    for place in range(WIDTH):
        changed = np.repeat(codes[None], 3, 0)
        changed[:, place] = [base for base in range(4) if base != codes[place]]
        logits = head.logits(None, None, torch.from_numpy(np.vstack([codes, changed]))).double().numpy()
        assert found[place] == pytest.approx(logits[0] - logits[1:].mean(), abs=1e-5)


GENOME = {"one": bases(400, 11), "two": bases(90, 12), "tiny": bases(10, 13)}


@pytest.fixture(scope="module")
def fasta(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "reference.fa"
    path.write_text("".join(f">{name}\n{text.lower()}\n" for name, text in GENOME.items()))
    pysam.faidx(str(path))
    return path


def test_windows_have_what_context_their_contig_has(fasta):
    places = [("one", 0), ("one", 100), ("two", 60)]
    windows = cut_windows(fasta, places, 24, 20)
    assert [window.first for window in windows] == [0, 20, 20]
    assert [window.text for window in windows] == [GENOME["one"][:44], GENOME["one"][80:144], GENOME["two"][40:]]


def test_windows_lie_around_positives_and_summits_and_inside_contigs(fasta, tmp_path):
    rows = [
        ("one", 50, 70, "a", 1, 0, "positives"),
        ("one", 90, 110, "b", 0, 0, "drawn"),
        ("two", 80, 90, "c", 1, 1, "x"),
    ]
    pd.DataFrame([*rows, ("tiny", 0, 10, "d", 1, 1, "x")], columns=list(INTERVALS)).to_parquet(tmp_path / "i.parquet")
    lengths = {name: len(text) for name, text in GENOME.items()}
    assert labelled_places(tmp_path / "i.parquet", 24, lengths) == [("one", 48), ("two", 66)]
    calls = tmp_path / "elements.bed"
    calls.write_text(
        "one\t0\t90\tE\t900\t.\t5\t6\t0\t0.9\none\t100\t300\tE\t900\t.\t150\t151\t0\t0.9\none\t0\t9\tF\t1\n"
    )
    names = ContigNames(contigs_of(fasta), {})
    assert called_places(calls, "E", 24, names) == [("one", 0), ("one", 138)]
    assert called_places(calls, "F", 4, names) == [("one", 2)]
    calls.write_text("")
    assert called_places(calls, "E", 24, names) == []


def test_the_most_probable_windows_are_taken_and_no_two_share_more_than_half(fasta, monkeypatch):
    asker = Mutagenesis(RandomHead(None), None)
    places = [("one", start) for start in range(0, 370, 5)] + [("two", 3), ("two", 3)]
    monkeypatch.setattr(mutagenesis, "READ_WINDOWS", 7)
    windows = most_probable(asker, fasta, places, 9, 10)
    logit = dict(zip(places, asker.logits(cut_windows(fasta, places, WIDTH, 10)), strict=True))
    chosen = [(window.chrom, window.start) for window in windows]
    assert len(chosen) == 9
    assert [logit[place] for place in chosen] == sorted((logit[place] for place in chosen), reverse=True)
    for place in places:  # left out: less probable than the last, or too near a better one
        near = [c for c in chosen if c[0] == place[0] and abs(c[1] - place[1]) < WIDTH / 2 and logit[c] >= logit[place]]
        assert place in chosen or near or logit[place] <= logit[chosen[-1]]
    starts = sorted(start for chrom, start in chosen if chrom == "one")
    assert all(later - start >= WIDTH / 2 for start, later in pairwise(starts))


def test_shuffled_windows_keep_dinucleotides_and_come_from_all_windows():
    windows = small_windows()
    shuffled = shuffled_windows(windows, 8, seed=5)
    assert [window.start for window in shuffled] == [100, 100, 0, 0, 200, 200, 300, 300]
    for window in shuffled:
        original = next(other for other in windows if other.start == window.start)
        assert window.text != original.text
        assert Counter(pairwise(window.text)) == Counter(pairwise(original.text))
    assert shuffled[0].text != shuffled[1].text
    assert shuffled == shuffled_windows(windows, 8, seed=5)
    assert shuffled_windows([], 8, seed=5) == []


SITE = "GTTACCCGGA"


class SiteHead:
    """A head whose logit is the best match to a site on either strand."""

    kind, window, uses_states, uses_sequence, projection = "site", 60, False, True, None

    def logits(self, forward, reverse, codes):
        site = torch.from_numpy(encode(SITE).astype(np.int64))
        other = torch.where(codes < 4, 3 - codes, codes).flip(1)
        matches = [(each.unfold(1, len(SITE), 1) == site).sum(-1).amax(1) for each in (codes, other)]
        return torch.stack(matches).amax(0).float()


def known_motifs() -> list[KnownMotif]:
    rng = np.random.default_rng(9)
    words = [reverse_complement(SITE), *("".join(rng.choice(list("ACGT"), 9)) for _ in range(40))]
    matrices = [np.full((len(word), 4), 0.02) for word in words]
    for matrix, word in zip(matrices, words, strict=True):
        matrix[np.arange(len(word)), encode(word)] = 0.94
    return [KnownMotif(f"M{number}", f"factor {number}", matrix) for number, matrix in enumerate(matrices)]


@pytest.fixture(autouse=True)
def _few_controls(monkeypatch):
    monkeypatch.setattr(mutagenesis, "CONTROL_WINDOWS", 40)


@pytest.fixture(scope="module")
def planted():
    """Thirty windows with one site each, on alternating strands."""
    windows, truth = [], []
    for number in range(30):
        start = 5 + number % 35
        text, site = bases(80, 100 + number), SITE if number % 2 else reverse_complement(SITE)
        text = text[: 10 + start] + site + text[10 + start + len(site) :]
        windows.append(Window("two" if number % 3 else "one", 1000 + 100 * number, text, 10))
        truth.append((windows[-1].chrom, windows[-1].start + start, "+" if number % 2 else "-"))
    return windows, truth


def test_planted_sites_are_found_placed_and_named(planted):
    windows, truth = planted
    asker = Mutagenesis(SiteHead(), None)
    found = explain(asker, "E", windows, known_motifs(), 0.05, 1, ["one", "two"])
    assert tuple(found.sites) == SITES
    assert tuple(found.motifs) == MOTIFS
    (motif,) = found.motifs.to_dict("records")
    assert motif["sites"] == 30
    assert motif["match"] == "M0" and motif["q_value"] < 0.01
    assert motif["consensus"] in (SITE, reverse_complement(SITE))
    # The database has the site's reverse complement, so that what was planted forwards lies on its reverse strand.
    assert (motif["match_strand"] == "-") == (motif["consensus"] == SITE)
    other = {"+": "-", "-": "+"}
    expected = sorted((chrom, start, start + len(SITE), other[strand]) for chrom, start, strand in truth)
    sites = found.sites
    assert list(sites[["chrom", "start", "end", "strand"]].itertuples(index=False, name=None)) == expected
    assert set(sites["motif"]) == {"M0"} and set(sites["motif_name"]) == {"factor 0"}
    assert set(sites["source"]) == {"mutagenesis"} and (sites["q_value"] <= 0.05).all()
    assert sites["score"].to_numpy() == pytest.approx(len(SITE))  # every change costs one of the site's bases


def test_without_known_motifs_sites_bear_the_name_of_their_own(planted):
    found = explain(Mutagenesis(SiteHead(), None), "E", planted[0], [], 0.05, 1, ["one", "two"])
    assert set(found.sites["motif"]) == {"E.1"} and found.sites["motif_q_value"].isna().all()
    assert found.motifs["motif"].tolist() == ["E.1"] and found.motifs["match"].tolist() == [""]


def test_a_head_that_sees_nothing_in_particular_has_no_sites():
    class Blind(SiteHead):
        def logits(self, forward, reverse, codes):
            return (codes == 1).float().mean(1)

    windows = [Window("one", 100 * number, bases(80, number), 10) for number in range(20)]
    found = explain(Mutagenesis(Blind(), None), "E", windows, [], 0.05, 1, ["one"])
    assert len(found.sites) == len(found.motifs) == 0
    assert found.contributions.shape == (20, 60)


def test_a_site_in_two_windows_is_one_site():
    text = bases(40, 1) + SITE + bases(60, 2)
    windows = [Window("one", start, text[start : start + 60], 0) for start in (0, 30)]
    windows += [Window("one", 1000 * n, bases(20, n) + SITE + bases(30, -n), 0) for n in range(1, 20)]
    found = explain(Mutagenesis(SiteHead(), None), "E", windows, [], 0.05, 1, ["one"])
    assert (found.sites["start"] == 40).sum() == 1


def test_contributions_are_averaged_where_windows_overlap(tmp_path):
    rng = np.random.default_rng(1)
    windows = [Window("two", 50, "", 0), Window("one", 20, "", 0), Window("one", 8, "", 0), Window("one", 200, "", 0)]
    values = rng.normal(size=(4, 20)).astype(np.float32)
    empty = pd.DataFrame()
    lengths = {"one": 400, "two": 90}
    write_contributions(mutagenesis.Explanation(windows, values, empty, empty), lengths, tmp_path / "c.bw")
    expected = {name: np.full(length, np.nan) for name, length in lengths.items()}
    for chrom, length in lengths.items():
        for at in range(length):
            covering = [
                v[at - w.start]
                for w, v in zip(windows, values, strict=True)
                if w.chrom == chrom and 0 <= at - w.start < 20
            ]
            if covering:
                expected[chrom][at] = np.mean(covering)
    with pyBigWig.open(str(tmp_path / "c.bw")) as file:
        assert list(file.chroms()) == list(lengths)
        for chrom, length in lengths.items():
            np.testing.assert_allclose(file.values(chrom, 0, length), expected[chrom], rtol=1e-6)


def test_no_window_gives_empty_files_that_can_be_read(tmp_path):
    found = explain(Mutagenesis(SiteHead(), None), "E", [], [], 0.05, 1, ["one"])
    mutagenesis.write_table(found.sites, tmp_path / "s.parquet", sites_schema())
    mutagenesis.write_table(found.motifs, tmp_path / "m.parquet", motifs_schema())
    write_contributions(found, {"one": 400}, tmp_path / "c.bw")
    assert pd.read_parquet(tmp_path / "s.parquet").columns.tolist() == list(SITES)
    assert pd.read_parquet(tmp_path / "m.parquet").columns.tolist() == list(MOTIFS)
    with pyBigWig.open(str(tmp_path / "c.bw")) as file:
        assert file.chroms() == {"one": 400}
        assert np.isnan(file.values("one", 0, 400)).all()


def site_folder(folder: Path) -> Path:
    """A trained head whose first detector knows the site on either strand."""
    network = Network("sequence", 0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.detectors.weight[0, encode(SITE).astype(np.int64), torch.arange(2, 2 + len(SITE))] = 1.0
        network.out.weight[0, 0] = 1.0
    save_head(Head("E", "sequence", 60, network, Calibration("platt")), folder)
    return folder


def test_the_script_explains_a_head_that_sees_bases_alone(tmp_path):
    rng = random.Random(3)
    genome, rows = list(bases(6000, 3)), []
    for number in range(24):
        at = 200 + 230 * number + rng.randrange(40)
        genome[at : at + len(SITE)] = SITE if number % 2 else reverse_complement(SITE)
        rows.append(("one", at - 20, at + 40, f"p{number}", 1, 0, "positives"))
    fasta = tmp_path / "reference.fa"
    fasta.write_text(">one\n" + "".join(genome) + "\n")
    pysam.faidx(str(fasta))
    write_contigs(contigs_of(fasta), tmp_path / "contigs.tsv")
    # Half of the sites are known as positives, the others from a scan.
    pd.DataFrame(rows[:12], columns=list(INTERVALS)).to_parquet(tmp_path / "intervals.parquet")
    calls = [
        f"one\t{start - 50}\t{end + 50}\tE\t990\t.\t{start + 30}\t{start + 31}\t0\t0.99\n" for _, start, end, *_ in rows
    ]
    (tmp_path / "elements.bed").write_text("".join(calls[12:]))
    settings = {"mutagenesis_windows": 30, "mutagenesis_context": 5, "fdr": 0.05, "seed": 1}
    registry, model = ROOT / "config" / "models.yaml", tmp_path / "yeast-mini"
    common = ["--registry", registry, "--model", "yeast-mini", "--lock", tmp_path / "models.lock"]
    command = ["explain_element.py", "--element", "E", "--head", site_folder(tmp_path / "head"), *common]
    command += ["--intervals", tmp_path / "intervals.parquet", "--calls", tmp_path / "elements.bed", "--fasta", fasta]
    command += ["--contigs", tmp_path / "contigs.tsv", "--checkpoint", model, "--device", "cpu"]
    (tmp_path / "known.meme").write_text("".join(iter_lines(known_motifs())))
    command += ["--motifs", tmp_path / "known.meme"]
    command += ["--settings", json.dumps(settings)]
    outputs = []
    for run in ("first", "second"):
        folder = tmp_path / run
        names = {"found": "motifs.parquet", "seqlets": "seqlets.parquet", "contributions": "contributions.bw"}
        command_of_run = [
            *command,
            *(word for option, name in names.items() for word in (f"--{option}", folder / name)),
        ]
        fetching = ["fetch_model.py", *common, "--output", model]
        for script, *arguments in ([fetching] if run == "first" else []) + [command_of_run]:
            subprocess.run([sys.executable, ROOT / "scripts" / script, *map(str, arguments)], check=True, cwd=ROOT)
        outputs.append([(folder / name).read_bytes() for name in names.values()])
    assert outputs[0] == outputs[1]
    sites = pd.read_parquet(tmp_path / "first" / "seqlets.parquet")
    assert sites["start"].tolist() == [start + 20 for _, start, *_ in rows]
    assert (sites["end"] - sites["start"] == len(SITE)).all()
    assert sites["strand"].nunique() == 2 and set(sites["strand"][::2]).isdisjoint(sites["strand"][1::2])
    (motif,) = pd.read_parquet(tmp_path / "first" / "motifs.parquet").to_dict("records")
    assert motif["sites"] == 24 and motif["match"] == "M0" and motif["consensus"] in (SITE, reverse_complement(SITE))
    with pyBigWig.open(str(tmp_path / "first" / "contributions.bw")) as file:
        assert file.values("one", *sites.loc[3, ["start", "end"]]) == pytest.approx([1.0] * len(SITE))
