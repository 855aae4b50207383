"""Training and judging of heads: against scikit-learn and loops, on windows in which what is to be learned is known."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pysam
import pytest
import torch
import yaml
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score, roc_auc_score

from seqprior import elements
from seqprior.adapters import load_adapter
from seqprior.batching import Batcher
from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM
from seqprior.columns import ELEMENT_METRICS, INTERVALS, PREDICTIONS
from seqprior.elements import (
    Resamples,
    Training,
    Windows,
    compared,
    cross_calibrated,
    curves_of,
    embedded,
    final_head,
    hold_out,
    judge,
    kmer_presence,
    logits_of,
    read_intervals,
    train,
    train_element,
    weighted_auprc,
    weighted_auroc,
    weighted_brier,
    weighted_ece,
)
from seqprior.errors import BadInput
from seqprior.features import Reader, context_of, fit_projection, random_windows
from seqprior.heads import KINDS, load_head, uses_states
from seqprior.models import model_facts
from seqprior.plans import Reading
from seqprior.sequence import encode, reverse_complement

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
REACH, WIDTH, MOTIF = 7, 40, "TGACGTCA"[:6] + "GG"


def scores_and_labels(count: int = 300, ties: bool = True, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    scores = rng.normal(labels, 1.5)
    return np.round(scores, 1) if ties else scores, labels


# --- measures ---


@pytest.mark.parametrize("ties", [True, False])
def test_areas_equal_those_of_scikit_learn_with_and_without_weights(ties):
    scores, labels = scores_and_labels(ties=ties)
    weights = np.random.default_rng(1).integers(0, 4, (5, len(labels))).astype(float)
    pairs = ((weighted_auroc, roc_auc_score), (weighted_auprc, average_precision_score))
    for own, theirs in pairs:
        assert own(scores, labels)[0] == pytest.approx(theirs(labels, scores))
        expected = [theirs(labels, scores, sample_weight=row) for row in weights]
        np.testing.assert_allclose(own(scores, labels, weights), expected)


def test_brier_and_calibration_error_equal_loops_over_repeated_intervals():
    scores, labels = scores_and_labels()
    probabilities = 1 / (1 + np.exp(-scores))
    probabilities[:2] = 0.0, 1.0
    weights = np.random.default_rng(2).integers(0, 3, len(labels))
    drawn = np.repeat(np.arange(len(labels)), weights)
    chosen, truth = probabilities[drawn], labels[drawn]
    gaps = 0.0
    for number in range(10):
        low, high = number / 10, (number + 1) / 10
        inside = [i for i, p in enumerate(chosen) if low <= p < high or (number == 9 and p == 1)]
        if inside:
            gaps += len(inside) * abs(np.mean([chosen[i] - truth[i] for i in inside]))
    assert weighted_ece(probabilities, labels, weights[None].astype(float))[0] == pytest.approx(gaps / len(drawn))
    brier = np.mean([(p - y) ** 2 for p, y in zip(chosen, truth, strict=True)])
    assert weighted_brier(probabilities, labels, weights[None].astype(float))[0] == pytest.approx(brier)


def test_blocks_of_a_contig_are_drawn_as_one():
    starts = np.arange(0, 3_000_000, 20_000)
    table = pd.DataFrame({"chrom": ["a"] * len(starts) + ["b"] * len(starts), "start": np.tile(starts, 2)})
    resamples = Resamples.of(table, 1)
    assert resamples.draws.shape == (elements.RESAMPLES, 60)
    assert (resamples.draws.sum(1) == 60).all()
    assert len(set(resamples.blocks[:5])) == 1  # five intervals in the first 100 kb
    assert resamples.blocks[0] != resamples.blocks[len(starts)]


def test_intervals_are_drawn_one_by_one_where_there_are_few_blocks():
    table = pd.DataFrame({"chrom": "a", "start": np.arange(0, 1_000_000, 20_000)})
    assert len(set(Resamples.of(table, 1).blocks)) == len(table)


def test_a_95_percent_interval_covers_what_the_resamples_give():
    scores, labels = scores_and_labels(ties=False)
    resamples = Resamples.of(pd.DataFrame({"chrom": "a", "start": np.arange(len(labels))}), 1)
    values = []
    for row in resamples.draws[:, resamples.blocks]:
        drawn = np.repeat(np.arange(len(labels)), row)
        values.append(roc_auc_score(labels[drawn], scores[drawn]))
    found = resamples.interval(lambda weights: weighted_auroc(scores, labels, weights))
    assert found == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


def test_curves_end_where_they_must_and_have_few_points():
    scores, labels = scores_and_labels(3000, ties=False)
    found = curves_of(scores, 1 / (1 + np.exp(-scores)), labels)
    assert all(2 <= len(points) <= 200 for points in found.values())
    assert found["roc"][0] == [0, 0]
    assert found["roc"][-1] == [1, 1]
    assert found["precision_recall"][-1] == [1, pytest.approx(labels.mean(), abs=1e-5)]
    assert all(one[0] <= two[0] and one[1] <= two[1] for one, two in pairwise(found["roc"]))
    x, y = np.array(found["roc"]).T
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(labels, scores), abs=0.01)


def test_what_states_add_is_said_with_its_interval():
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 300)
    resamples = Resamples.of(pd.DataFrame({"chrom": "a", "start": np.arange(600)}), 1)
    weak, strong = (labels + rng.normal(0, spread, 600) for spread in (2.0, 0.5))
    assert compared(strong, weak, labels, resamples).startswith("The model's states add to what the bases alone say: ")
    assert "make the head worse" in compared(weak, strong, labels, resamples)
    assert "show no effect" in compared(weak, weak + rng.normal(0, 0.01, 600), labels, resamples)


# --- baselines ---


def test_presence_of_kmers_equals_a_search_on_both_strands():
    rng = random.Random(1)
    texts = ["".join(rng.choices("ACGTN", [8, 8, 8, 8, 1], k=25)) for _ in range(20)]
    codes = np.stack([encode(text) for text in texts])
    patterns = [(0, 1, 2), (0, 2, 3)]
    found = kmer_presence(codes, patterns).toarray()
    for row, text in enumerate(texts):
        for block, pattern in enumerate(patterns):
            expected = np.zeros(64)
            for strand in (text, reverse_complement(text)):
                for start in range(len(strand) - max(pattern)):
                    letters = [strand[start + offset] for offset in pattern]
                    if "N" not in letters:
                        expected[sum("ACGT".index(one) * 4**power for power, one in enumerate(letters[::-1]))] = 1
            np.testing.assert_array_equal(found[row, 64 * block : 64 * (block + 1)], expected)


# --- windows whose answer is known ---


def planted(count: int = 300, margin: int = 5, seed: int = 0, motif: bool = True, states: bool = True) -> Windows:
    """Random windows; positives have a motif on either strand, and states whose first number is a little higher."""
    rng = np.random.default_rng(seed)
    width = WIDTH + 2 * margin
    codes = rng.integers(0, 4, (count, width)).astype(np.uint8)
    labels = np.arange(count) % 2
    for row in np.flatnonzero(labels) if motif else ():
        at = rng.integers(2 * margin, width - 2 * margin - len(MOTIF))
        codes[row, at : at + len(MOTIF)] = encode(MOTIF if rng.random() < 0.5 else reverse_complement(MOTIF))
    features = rng.normal(0, 1, (count, 2, width, 4)).astype(np.float16)
    features[labels == 1, :, :, 0] += 0.4 * states
    return Windows(codes, features, labels, (np.arange(count) // 2) % 3, margin)


def halves(windows: Windows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return tuple(np.flatnonzero(windows.folds == fold) for fold in range(3))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_learns_what_it_can_see(kind):
    windows = planted(600, motif=not uses_states(kind), states=uses_states(kind))
    training, validation, held_out = halves(windows)
    network = train(kind, windows, training, validation, epochs=25, seed=1)
    found = logits_of(network, windows, held_out)
    assert roc_auc_score(windows.labels[held_out], found) > 0.9


def test_the_same_seed_gives_the_same_weights_and_another_one_others():
    windows = planted(120)
    training, validation, _ = halves(windows)
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    one, two, three = (
        train("convolution-and-sequence", windows, training, validation, 3, seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["out.weight"], three["out.weight"])
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's random numbers are used up


def test_training_stops_at_the_epoch_with_the_least_loss_in_validation(monkeypatch):
    windows = planted(90, motif=False, states=False)  # nothing to learn: every later epoch only learns by heart
    training, validation, _ = halves(windows)
    reached = []
    own = elements.log_loss
    monkeypatch.setattr(elements, "log_loss", lambda *given: reached.append(own(*given)) or reached[-1])
    network = train("sequence", windows, training, validation, 40, 1)
    assert len(reached) < 40
    assert len(reached) - 1 - int(np.argmin(reached)) == elements.PATIENCE
    found = own(logits_of(network, windows, validation), windows.labels[validation])
    assert found == pytest.approx(min(reached), abs=1e-6)


def test_a_batch_holds_the_shifted_windows():
    windows = planted(20)
    which, shifts = np.array([3, 7, 11]), np.array([-5, 0, 5])
    forward, reverse, codes = windows.batch("convolution-and-sequence", which, shifts)
    for row, (number, shift) in enumerate(zip(which, shifts, strict=True)):
        span = slice(5 + shift, 5 + shift + WIDTH)
        np.testing.assert_array_equal(codes[row], windows.codes[number, span])
        np.testing.assert_array_equal(forward[row], windows.features[number, 0, span])
        np.testing.assert_array_equal(reverse[row], windows.features[number, 1, span])
    assert windows.batch("sequence", which)[0] is None


def test_labels_of_a_fold_do_not_reach_what_is_said_of_it():
    windows, choice = planted(120), Training(WIDTH, ("sequence", "linear"), epochs=2)
    told = hold_out(windows, choice)
    own = windows.folds == 1
    lied = Windows(windows.codes, windows.features, np.where(own, 1 - windows.labels, windows.labels), windows.folds, 5)
    found = hold_out(lied, choice)
    for name, logits in told.logits.items():
        np.testing.assert_array_equal(found.logits[name][own], logits[own])
        assert not np.array_equal(found.logits[name][~own], logits[~own])


def table_of(windows: Windows) -> pd.DataFrame:
    starts = np.arange(len(windows.labels)) * 1000
    table = pd.DataFrame({"chrom": "a", "start": starts, "end": starts + WIDTH, "name": "x", "label": windows.labels})
    return table.assign(fold=windows.folds, source="positives")


@pytest.fixture(scope="module")
def judged(one_thread):
    windows, choice = planted(240, seed=3), Training(WIDTH, KINDS, epochs=8)
    found = hold_out(windows, choice)
    return windows, choice, found, judge("E", table_of(windows), found, 1)


def test_every_head_and_baseline_is_reported_with_each_measure(judged):
    _, _, found, report = judged
    assert list(report.metrics.columns) == list(ELEMENT_METRICS)
    assert list(report.predictions.columns) == list(PREDICTIONS)
    roles = dict(zip(report.metrics["head"], report.metrics["role"], strict=True))
    expected = {**dict.fromkeys(KINDS, "head"), "selected": "selected"}
    assert roles == {**expected, **dict.fromkeys(("6-mers", "gapped 6-mers"), "baseline")}
    assert set(report.curves) == set(roles)
    for (name, metric), row in report.metrics.set_index(["head", "metric"]).iterrows():
        own = report.predictions[report.predictions["head"] == name]
        truth, logit, probability = (own[column].to_numpy() for column in ("label", "logit", "probability"))
        value = {
            "auroc": lambda y, x, p: roc_auc_score(y, x),
            "auprc": lambda y, x, p: average_precision_score(y, x),
            "brier": lambda y, x, p: np.mean((p - y) ** 2),
            "ece": lambda y, x, p: weighted_ece(p, y)[0],
        }[metric](truth, logit, probability)
        assert row["value"] == pytest.approx(value)
        assert row["low"] <= row["value"] <= row["high"] or metric == "ece"
        assert (row["intervals"], row["positives"]) == (240, 120)
    assert set(report.metrics["metric"]) == {"auroc", "auprc", "brier", "ece"}
    np.testing.assert_allclose(report.predictions["logit"][:240], found.logits[KINDS[0]])


def test_selected_is_in_each_fold_the_head_that_inner_validation_chose(judged):
    windows, _, found, report = judged
    by_head = {name: rows.reset_index(drop=True) for name, rows in report.predictions.groupby("head")}
    for fold, chosen in enumerate(found.chosen):
        own = windows.folds == fold
        assert found.inner[chosen][fold] == max(scores[fold] for scores in found.inner.values())
        mine, others = (by_head[name]["probability"][own] for name in ("selected", chosen))
        np.testing.assert_array_equal(mine, others)
        order = by_head["selected"]["logit"][own].argsort(kind="stable")
        assert by_head[chosen]["logit"][own].iloc[order].is_monotonic_increasing


def test_the_final_head_is_of_the_preferred_kind_and_calibrated_on_held_out_logits(judged):
    windows, choice, found, report = judged
    means = {kind: np.mean(scores) for kind, scores in found.inner.items()}
    assert means[found.preferred] == max(means.values())
    head = final_head("E", windows, found, choice, report.finding, {})
    assert head.kind == found.preferred
    assert head.calibration == elements.FITTERS["platt"](found.logits[head.kind], windows.labels)
    assert "states" in head.finding


def test_of_equal_heads_the_simplest_is_kept():
    found = elements.HeldOut({}, {"convolution-and-sequence": [0.9, 0.8], "sequence": [0.8, 0.9], "linear": [0.5, 0.9]})
    assert found.preferred == "sequence"


def test_probabilities_of_a_fold_are_calibrated_on_the_others():
    scores, labels = scores_and_labels(1200, ties=False)
    folds = np.arange(1200) % 3
    found = cross_calibrated(scores, labels, folds)
    other = cross_calibrated(scores, np.where(folds == 2, 1 - labels, labels), folds)
    assert set(found.probabilities) == {"platt", "isotonic"}
    for name, values in found.probabilities.items():
        np.testing.assert_array_equal(values[folds == 2], other.probabilities[name][folds == 2])
        assert not np.array_equal(values[folds != 2], other.probabilities[name][folds != 2])
        assert found.briers[name] == pytest.approx(np.mean((values - labels) ** 2))
        assert found.briers[found.method] <= found.briers[name]
    np.testing.assert_allclose(1 / (1 + np.exp(-found.scaled)), found.probabilities["platt"])
    assert set(cross_calibrated(scores[:900], labels[:900], folds[:900]).probabilities) == {"platt"}


# --- intervals of a genome ---


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    """A folder with a reference, a small sequence model with its registry, and intervals that end at contigs' ends."""
    folder = tmp_path_factory.mktemp("genome")
    rng = random.Random(1)
    contigs = {f"chr{number}": rng.choices("ACGT", k=4000) for number in (1, 2, 3)}
    rows = []
    for number, (name, bases) in enumerate(contigs.items()):
        for step in range(40):
            start = 4000 - WIDTH if step == 39 else step * 100
            label = step % 2
            if label:
                at = start + 8 + rng.randrange(WIDTH - 24)
                bases[at : at + len(MOTIF)] = rng.choice([MOTIF, reverse_complement(MOTIF)])
            rows.append((name, start, start + WIDTH, f"{name}:{start}", label, number, "positives"))
    fasta = folder / "genome.fa"
    fasta.write_text("".join(f">{name}\n{''.join(bases)}\n" for name, bases in contigs.items()))
    pysam.faidx(str(fasta))
    pd.DataFrame(rows, columns=list(INTERVALS)).to_parquet(folder / "intervals.parquet")
    (folder / "intervals.json").write_text('{"split": "contigs"}')
    write_model(folder)
    return folder


def write_model(folder) -> None:
    config = BidirectionalConfig(width=8, kernel=3, dilations=(1, 2), head=8)
    torch.manual_seed(0)
    network = BidirectionalConvLM(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model = folder / "model"
    model.mkdir()
    save_file(network.state_dict(), model / "model.safetensors")
    (model / "config.json").write_text(json.dumps({"network": config.to_dict()}))
    words = dict.fromkeys(("name", "species", "licence", "citation", "description", "limits"), "x")
    family = {"family": "bidirectional-conv", "objective": "bidirectional", "tokenisation": "single-base"}
    entry = {**family, **words, "window": 15, "embedding_window": 5, "parameters": 1, "path": str(model)}
    (folder / "models.yaml").write_text(yaml.safe_dump({"models": {"small": entry}}))


def adapter_of(genome):
    return load_adapter(model_facts(genome / "models.yaml", "small"), CPU, "float32", Reading())


def test_intervals_are_embedded_with_their_context_and_the_file_is_removed(genome, tmp_path):
    adapter = adapter_of(genome)
    plain = Reader(adapter, Batcher(CPU, 512), None)
    projection = fit_projection(plain, random_windows(genome / "genome.fa", 20, 100, 1), 6)
    reader = Reader(adapter, Batcher(CPU, 512), projection)
    table = read_intervals(genome / "intervals.parquet", WIDTH)
    context = context_of(adapter.scheme.facts, WIDTH)
    with (
        pysam.FastaFile(str(genome / "genome.fa")) as reference,
        embedded(table, genome / "genome.fa", reader, context, 5, tmp_path / "out" / "head") as windows,
    ):
        assert len(list((tmp_path / "out").iterdir())) == 1
        for row in (0, 1, 39, 40, 119):
            chrom, start = table["chrom"][row], int(table["start"][row])
            whole = reference.fetch(chrom)
            first, last = max(start - 5, 0), min(start + WIDTH + 5, 4000)
            offset = first - (start - 5)
            span = slice(offset, offset + last - first)
            np.testing.assert_array_equal(windows.codes[row, span], encode(whole[first:last]))
            for strand, expected in enumerate(reader.read([whole], [(first, last)])[0]):
                np.testing.assert_allclose(windows.features[row, strand, span], expected, atol=2e-2)
            outside = np.delete(np.arange(WIDTH + 10), np.arange(span.start, span.stop))
            assert (windows.codes[row, outside] == 4).all()
            assert not windows.features[row][:, outside].any()
    assert list((tmp_path / "out").iterdir()) == []


def test_the_file_of_features_is_removed_when_training_fails(genome, tmp_path):
    table = read_intervals(genome / "intervals.parquet", WIDTH)
    with (
        pytest.raises(RuntimeError, match="stop"),
        embedded(table, genome / "genome.fa", None, 0, 5, tmp_path / "head"),
    ):
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.assign(end=t["end"] + 1), "found intervals of 41 bases, expected 40"),
        (lambda t: t.iloc[:0], "found intervals of no bases"),
        (lambda t: t.assign(fold=t["fold"] % 2), "found 2 folds, of which 0 lack a label"),
        (lambda t: t.assign(label=t["label"] * (t["fold"] > 0)), "found 3 folds, of which 1 lack a label"),
    ],
)
def test_intervals_that_cannot_be_held_out_are_refused(genome, tmp_path, change, sentence):
    change(pd.read_parquet(genome / "intervals.parquet")).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(BadInput, match=sentence):
        read_intervals(tmp_path / "a.parquet", WIDTH)


def outputs(folder) -> dict:
    names = {"head": "head", "metrics": "metrics.tsv", "predictions": "predictions.parquet", "curves": "curves.json"}
    return {key: folder / name for key, name in names.items()}


def test_the_script_writes_what_the_library_does_to_the_byte(genome, tmp_path, repo):
    """Two processes, one after the other: nothing depends on time, on hashes or on what ran before."""
    settings = {"window": WIDTH, "heads": list(KINDS), "epochs": 4, "threshold": 0.4, "seed": 3}
    arguments = {"element": "E", "intervals": genome / "intervals.parquet", "summary": genome / "intervals.json"}
    arguments |= {"fasta": genome / "genome.fa", "registry": genome / "models.yaml", "model": "small"}
    arguments |= {"lock": tmp_path / "models.lock", "checkpoint": tmp_path / "model", "device": "cpu"}
    arguments |= {"settings": json.dumps(settings), **outputs(tmp_path / "script")}
    fetch = [f"--registry={genome / 'models.yaml'}", "--model=small", f"--lock={arguments['lock']}"]
    scripts = repo / "scripts"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for command in (
        ["fetch_model.py", *fetch, f"--checkpoint={genome / 'model'}", f"--output={arguments['checkpoint']}"],
        ["train_element.py", *(f"--{name}={value}" for name, value in arguments.items())],
    ):
        answer = subprocess.run(
            [sys.executable, str(scripts / command[0]), *command[1:]], capture_output=True, text=True, env=environment
        )
        assert answer.returncode == 0, answer.stderr
    head = load_head(tmp_path / "script" / "head")
    train_element(
        "E",
        genome / "intervals.parquet",
        {"split": "contigs"},
        genome / "genome.fa",
        lambda: adapter_of(genome),
        ("small", head.digest or json.loads((tmp_path / "model" / "manifest.json").read_text())["digest"]),
        None,
        Training(WIDTH, KINDS, 4, 0.4, 3),
        **outputs(tmp_path / "library"),
    )
    written = sorted(path.relative_to(tmp_path / "script") for path in (tmp_path / "script").rglob("*.*"))
    assert {str(path) for path in written} == {
        *(f"head/{name}" for name in ("README.md", "head.json", "head.safetensors")),
        *("metrics.tsv", "predictions.parquet", "curves.json"),
    }
    for path in written:
        assert (tmp_path / "script" / path).read_bytes() == (tmp_path / "library" / path).read_bytes(), path
    assert (head.element, head.window, head.threshold) == ("E", WIDTH, 0.4)
    card = (tmp_path / "script" / "head" / "README.md").read_text()
    metrics = pd.read_csv(tmp_path / "script" / "metrics.tsv", sep="\t")
    auroc = metrics[(metrics["head"] == "6-mers") & (metrics["metric"] == "auroc")].iloc[0]
    assert f"| 6-mers | baseline | {auroc['value']:.3f} ({auroc['low']:.3f} to {auroc['high']:.3f}) |" in card
    assert head.finding in card
    assert "What it cannot do" in card


def test_heads_of_bases_alone_need_no_model(genome, tmp_path):
    def load():
        raise AssertionError("no model is needed")

    choice, files = Training(WIDTH, ("sequence",), epochs=12), outputs(tmp_path)
    intervals, fasta = genome / "intervals.parquet", genome / "genome.fa"
    train_element("E", intervals, {}, fasta, load, ("small", "d"), None, choice, **files)
    head = load_head(files["head"])
    assert (head.kind, head.model, head.context, head.projection) == ("sequence", "", 0, None)
    assert "was not measured" in (files["head"] / "README.md").read_text()
