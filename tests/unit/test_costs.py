"""What is counted is what the engine computes, and what is measured is measured in time."""

from __future__ import annotations

import csv
import io
import json
import math
import random
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from random_models import KINDS, entry_of, write_checkpoint

from seqprior import costs, probing
from seqprior.adapters import load_adapter
from seqprior.costs import Cost, Probe, Rows, Work, asked, count_cost, estimate, rows_of, shards_for
from seqprior.embedding import Scorer, score_shard
from seqprior.errors import BadInput
from seqprior.plans import Reading, read_scheme
from seqprior.shards import ShardWriter, read_groups
from seqprior.store import ScoreStore
from seqprior.windows import Windows

pytestmark = pytest.mark.usefixtures("one_thread")

REPOSITORY = Path(__file__).resolve().parents[2]
WINDOW = 60
OTHER = str.maketrans("ACGT", "TGCA")
MODES = {
    "default": Reading(),
    "one-pass": Reading(one_pass_marginals=True),
    "exact": Reading(exact_likelihoods=True),
}
CASES = [
    (name, mode)
    for name, kind in KINDS.items()
    for mode in MODES
    if not (mode == "exact" and kind.objective == "causal")
]
CONV = "conv"
CONTIG = "".join(random.Random(4).choices("ACGT", k=205)) + "N" + "".join(random.Random(5).choices("ACGT", k=195))


def some_alleles() -> list[tuple[int, str, str]]:
    """(0-based start, ref, alt): several of a site, neighbours in one token, pairs of all kinds, both ends."""
    rng = random.Random(3)
    found = []
    for start in (0, 1, 60, 61, 61, 61, 62, 63, 64, 68, 73, 130, 203, 260, 261, 262, 330, len(CONTIG) - 1):
        taken = {alt for at, _, alt in found if at == start}
        found.append((start, CONTIG[start], rng.choice([b for b in "ACGT" if b != CONTIG[start] and b not in taken])))
    found += [(at, CONTIG[at : at + 2], CONTIG[at : at + 2].translate(OTHER)) for at in (66, 120)]
    found += [(at, CONTIG[at], CONTIG[at] + more) for at, more in ((90, "C"), (90, "GATTAC"), (100, "TT"))]
    found += [(at, CONTIG[at : at + size], CONTIG[at]) for at, size in ((45, 2), (150, 7))]
    return sorted(found)


def write_conv(folder: Path):
    """seqprior's own network, tiny and random."""
    from safetensors.torch import save_file

    from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM
    from seqprior.models import ModelFacts

    folder.mkdir()
    config = BidirectionalConfig(width=8, kernel=3, dilations=(1, 2), head=8)
    torch.manual_seed(1)
    save_file(BidirectionalConvLM(config).state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"network": config.to_dict()}))
    size = 2 * config.reach + 1
    entry = entry_of("bert-base", folder, size) | {"tokens": {}, "embedding_window": size, "path": folder}
    return ModelFacts(id=CONV, **entry | {"family": "bidirectional-conv", "objective": "bidirectional"})


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return cache(
        lambda name: write_conv(folder / name) if name == CONV else write_checkpoint(name, folder / name, window=WINDOW)
    )


def write_shard(folder: Path, facts, reading: Reading, alleles, groups: int = 2, skipped: int = 1) -> Path:
    """A shard of several row groups; its last alleles are skipped already."""
    folder.mkdir(parents=True, exist_ok=True)
    writer, number = ShardWriter(folder / "windows.parquet", folder / "alleles.parquet"), 0
    size = math.ceil(len(alleles) / groups) if alleles else 1
    for first in range(0, max(len(alleles), 1), size):
        part = Windows(facts, 0.5, reading.one_pass_marginals, number)
        for start, ref, alt in alleles[first : first + size]:
            part.add("c", CONTIG, (f"c-{start + 1}-{ref}-{alt}", "c", start + 1, ref, alt))
        part.flush()
        if first + size >= len(alleles):
            part.alleles += [
                (f"c-{n}-A-C", "c", n, "A", "C", None, None, "skipped", "window_ambiguous") for n in range(skipped)
            ]
        writer.write(part)
        number += len(part.sequences)
    writer.close()
    return folder


class Counted:
    """An adapter that counts the rows and the tokens, without padding, that really go through its network."""

    def __init__(self, facts, reading: Reading) -> None:
        self.adapter = load_adapter(facts, torch.device("cpu"), "float32", reading)
        self.rows = Rows()
        self.loads = 0
        inputs = self.adapter._stacked if facts.id == CONV else self.adapter._inputs

        def noted(items, *rest):
            tokens = sum(getattr(item, "length", None) or len(item) for item in items)
            self.rows += Rows(len(items), tokens)
            return inputs(items, *rest)

        setattr(self.adapter, "_stacked" if facts.id == CONV else "_inputs", noted)

    def load(self):
        self.loads += 1
        return self.adapter


def really(facts, reading: Reading, shard: Path, output: Path, store=None) -> tuple[Counted, Scorer]:
    counted = Counted(facts, reading)
    scorer = Scorer(read_scheme(facts, reading), counted.load, 4096, facts.embedding_window, store)
    score_shard(scorer, shard, output)
    return counted, scorer


@pytest.mark.parametrize(("name", "mode"), [*CASES, (CONV, "default")])
def test_counts_equal_what_the_engine_computes(checkpoints, tmp_path, name, mode):
    facts, reading = checkpoints(name), MODES[mode]
    shard = write_shard(tmp_path / "shard", facts, reading, some_alleles())
    cost = count_cost(read_scheme(facts, reading), [shard], facts.embedding_window)
    engine, scorer = really(facts, reading, shard, tmp_path / "scores.parquet")
    assert cost.rows == cost.left == engine.rows
    assert cost.rows.tokens <= scorer.throughput.tokens <= 1.1 * cost.rows.tokens
    assert (cost.requests, cost.alleles) == (scorer.counts["requests"], scorer.counts["alleles"])
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    scored = scores[scores["status"] == "scored"]
    assert cost.evaluable == len(scored) >= 4
    assert cost.reasons == scores.loc[scores["status"] == "skipped", "reason"].value_counts().to_dict()
    single = scored[(scored["ref"].str.len() == 1) & (scored["alt"].str.len() == 1)]
    assert cost.sites == single["pos"].nunique()
    assert cost.windows == pq.read_metadata(shard / "windows.parquet").num_rows
    assert cost.exact


@pytest.mark.parametrize("name", ["nt-v1", "dnabert-3", "modernbert", "generator", CONV])
def test_the_store_is_subtracted_as_the_engine_does(checkpoints, tmp_path, name):
    facts, reading = checkpoints(name), MODES["default"]
    scheme, alleles = read_scheme(facts, reading), some_alleles()
    store = ScoreStore(tmp_path / "store", "0" * 64, "float32")
    empty = count_cost(scheme, [write_shard(tmp_path / "all", facts, reading, alleles)], facts.embedding_window, store)
    assert (empty.cached, empty.left) == (0, empty.rows)
    part = write_shard(tmp_path / "part", facts, reading, alleles[: len(alleles) // 2], groups=1)
    really(facts, reading, part, tmp_path / "part.parquet", store)

    cost = count_cost(scheme, [tmp_path / "all"], facts.embedding_window, store)
    engine, scorer = really(facts, reading, tmp_path / "all", tmp_path / "all.parquet", store)
    assert 0 < cost.cached == scorer.counts["from_store"] < cost.requests == scorer.counts["requests"]
    assert cost.left == engine.rows
    assert cost.rows == empty.rows
    assert 0 < sum(work.fact_bytes for work in cost.work.values()) < sum(w.fact_bytes for w in empty.work.values())

    done = count_cost(scheme, [tmp_path / "all"], facts.embedding_window, store)
    assert (done.cached, done.left) == (done.requests, Rows())
    assert {work.fact_bytes for work in done.work.values()} == {0}
    assert really(facts, reading, tmp_path / "all", tmp_path / "again.parquet", store)[0].loads == 0


def test_the_store_is_asked_in_portions_that_add_up(checkpoints, tmp_path, monkeypatch):
    facts, reading = checkpoints("nt-v1"), MODES["default"]
    scheme, store = read_scheme(facts, reading), ScoreStore(tmp_path / "store", "0" * 64, "float32")
    alleles = [(at, CONTIG[at], "C" if CONTIG[at] != "C" else "G") for at in range(6, 190, 7)]
    shard = write_shard(tmp_path / "all", facts, reading, alleles, groups=5)
    part = write_shard(tmp_path / "part", facts, reading, alleles[:12])
    really(facts, reading, part, tmp_path / "part.parquet", store)
    at_once = count_cost(scheme, [shard], facts.embedding_window, store).cached
    monkeypatch.setattr(costs, "KEYS_HELD", 3)
    assert count_cost(scheme, [shard], facts.embedding_window, store).cached == at_once > 0


def test_answers_take_the_disk_that_was_foreseen(checkpoints, tmp_path):
    """On random sites of a k-mer model, enough of them that the file's own frame does not count."""
    facts, scheme = checkpoints("nt-v1"), read_scheme(checkpoints("nt-v1"), MODES["default"])
    rng = random.Random(1)
    alleles = [(30 + 6 * n, "A", "C") for n in range(3000)]
    contig = "".join(rng.choices("ACGT", k=20_000))
    alleles = [(at, contig[at], "C" if contig[at] != "C" else "G") for at, _, _ in alleles]
    store = ScoreStore(tmp_path / "store", "0" * 64, "float32")
    part = Windows(facts, 0.5)
    for at, ref, alt in alleles:
        part.add("c", contig, (f"c-{at}", "c", at + 1, ref, alt))
    part.flush()
    shard = tmp_path / "shard"
    shard.mkdir()
    writer = ShardWriter(shard / "windows.parquet", shard / "alleles.parquet")
    writer.write(part)
    writer.close()
    cost = count_cost(scheme, [shard], facts.embedding_window, store)
    with store.writer() as answers:
        for frame, windows, first in read_groups(shard):
            for requests in asked(scheme, frame, windows, first, facts.embedding_window).requests.values():
                for request in requests:
                    answers.add([request.key(scheme.salt)], [torch.randn(2 * request.width).numpy()])
    written = sum(path.stat().st_size for path in store.folder.glob("part-*.parquet"))
    assert sum(work.fact_bytes for work in cost.work.values()) == pytest.approx(written, rel=0.05)
    assert cost.window_bytes == sum(path.stat().st_size for path in shard.iterdir())


def test_scores_take_the_disk_that_was_foreseen(tmp_path):
    from seqprior.columns import SCORES

    rng, size = random.Random(1), 5000
    text = {"variant_id", "chrom", "ref", "alt", "method", "status", "reason"}
    frame = pd.DataFrame({name: [rng.gauss(0, 1) for _ in range(size)] for name in SCORES if name not in text})
    frame["pos"] = sorted(rng.sample(range(10**8), size))
    frame["ref"], frame["alt"] = rng.choices("ACGT", k=size), rng.choices("ACGT", k=size)
    frame["variant_id"] = "chr1-" + frame["pos"].astype(str) + "-" + frame["ref"] + "-" + frame["alt"]
    frame["chrom"], frame["method"], frame["status"], frame["reason"] = "chr1", "masked_marginal", "scored", ""
    frame["llr_calibrated"] = float("nan")
    frame.to_parquet(tmp_path / "scores.parquet", compression="zstd", index=False)
    assert size * costs.SCORE_BYTES == pytest.approx((tmp_path / "scores.parquet").stat().st_size, rel=0.2)


def test_a_sample_of_row_groups_stands_for_all_and_says_so(checkpoints, tmp_path, monkeypatch):
    facts, reading = checkpoints("nt-v1"), MODES["default"]
    scheme = read_scheme(facts, reading)
    alleles = [(at, CONTIG[at], "C" if CONTIG[at] != "C" else "G") for at in range(6, 200)]
    shards = [
        write_shard(tmp_path / str(number), facts, reading, alleles[number::2], groups=6, skipped=0)
        for number in (0, 1)
    ]
    exact = count_cost(scheme, shards, facts.embedding_window)
    monkeypatch.setattr(costs, "SAMPLE_ALLELES", 60)
    found = count_cost(scheme, shards, facts.embedding_window)
    assert found.sampled <= 60 < found.alleles == exact.alleles
    assert (exact.exact, found.exact) == (True, False)
    assert (found.requests, found.sites, found.evaluable) == (exact.requests, exact.sites, exact.evaluable)
    assert found.rows.tokens == pytest.approx(exact.rows.tokens, rel=0.1)
    assert found.rows.tokens != exact.rows.tokens
    again = count_cost(scheme, shards, facts.embedding_window)
    assert again.rows == found.rows
    monkeypatch.setattr(costs, "SAMPLE_PASSES", 40)
    fewer = count_cost(scheme, shards, facts.embedding_window)
    assert fewer.rows.tokens == pytest.approx(exact.rows.tokens, rel=0.2)
    assert not fewer.exact
    plain = {costs_row[1]: costs_row[4] for costs_row in estimated(found).rows()}
    assert plain["tokens"] == f"extrapolated from {found.sampled} alleles"
    assert plain["requests"] == "counted"


def test_what_is_left_of_a_sample_follows_the_store(checkpoints, tmp_path, monkeypatch):
    facts, reading = checkpoints("nt-v1"), MODES["default"]
    scheme, store = read_scheme(facts, reading), ScoreStore(tmp_path / "store", "0" * 64, "float32")
    alleles = [(at, CONTIG[at], "C" if CONTIG[at] != "C" else "G") for at in range(6, 198)]
    shard = write_shard(tmp_path / "all", facts, reading, alleles, groups=8, skipped=0)
    part = write_shard(tmp_path / "part", facts, reading, alleles[:96], groups=4, skipped=0)
    really(facts, reading, part, tmp_path / "part.parquet", store)
    exact = count_cost(scheme, [shard], facts.embedding_window, store)
    monkeypatch.setattr(costs, "SAMPLE_ALLELES", 96)
    found = count_cost(scheme, [shard], facts.embedding_window, store)
    assert found.cached == exact.cached > 0
    assert found.left.tokens == pytest.approx(exact.left.tokens, rel=0.1)
    monkeypatch.setattr(costs, "SAMPLE_ALLELES", 24)  # the first group alone, which the store knows
    assert count_cost(scheme, [shard], facts.embedding_window, store).left.tokens == pytest.approx(
        exact.left.tokens, rel=0.1
    )


@pytest.mark.parametrize("name", ["dnabert-3", "mistral-dna"])
def test_memory_bounds_change_no_count_but_for_rows_at_the_cuts(checkpoints, tmp_path, monkeypatch, name):
    facts, reading = checkpoints(name), MODES["default"]
    shard = write_shard(tmp_path / "shard", facts, reading, some_alleles(), groups=1)
    scheme = read_scheme(facts, reading)
    whole = count_cost(scheme, [shard], facts.embedding_window)
    monkeypatch.setattr("seqprior.work.ROWS_AHEAD", 300)
    cut = count_cost(scheme, [shard], facts.embedding_window)
    engine, _ = really(facts, reading, shard, tmp_path / "scores.parquet")
    assert cut.rows == engine.rows
    assert cut.requests == whole.requests
    assert cut.rows.tokens > whole.rows.tokens


def test_nothing_to_score_costs_nothing(checkpoints, tmp_path):
    facts = checkpoints("nt-v1")
    shard = write_shard(tmp_path / "shard", facts, MODES["default"], [], skipped=0)
    cost = count_cost(read_scheme(facts, MODES["default"]), [shard], facts.embedding_window)
    assert (cost.alleles, cost.requests, cost.rows, cost.exact) == (0, 0, Rows(), True)
    found = estimated(cost)
    assert (found.shards, found.device_seconds(cost)) == (1, 0)
    assert "cached_share" in costs.as_table(found)


def test_costs_are_counted_without_torch():
    code = (
        "import sys, seqprior.costs; sys.exit(bool({'torch', 'transformers', 'pandas', 'pyarrow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY / "scripts").returncode == 0


# --- cost and speed together ---


def made_up(**left: int) -> Cost:
    """A cost of so many tokens left by kind."""
    return Cost(
        {kind: Work(1, 0, Rows(1, n), Rows(1, n), 100) for kind, n in left.items()}, alleles=1000, evaluable=1000
    )


def estimated(cost: Cost, **changes):
    probe = Probe({"sites": 100.0, "pairs": 50.0, "embeddings": 200.0}, 30.0, "A device", "float32", 4096)
    return estimate("m", cost, probe, **{"minutes": 10, "shards": 2, "started": False, "stored": True, **changes})


def test_device_hours_are_tokens_by_the_speed_of_their_kind_and_loading_in_each_shard():
    found = estimated(made_up(sites=100_000, pairs=5_000, embeddings=20_000))
    seconds = 1000 + 100 + 100
    assert found.shards == math.ceil(seconds / (600 - 30)) == 3
    assert found.device_seconds(found.cost) == seconds + 3 * 30
    assert found.store_bytes == 300
    assert estimated(made_up(sites=1), stored=False).store_bytes == 0


def test_the_background_is_counted_apart_until_it_is_scored():
    found = estimated(made_up(sites=100), background=made_up(sites=400_000))
    rows = {row[1]: row[2] for row in found.rows()}
    assert rows["background_tokens_left"] == 400_000
    assert rows["background_device_hours"] == pytest.approx((4000 + 30) / 3600)
    assert rows["tokens_left"] == 100
    assert found.shards == 1
    assert found.store_bytes == 200
    assert {row[1]: row[2] for row in estimated(made_up(sites=100)).rows()}["background_device_hours"] == 0


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.5, "share", "50.0 %"),
        (1_234_567, "tokens", "1,234,567 tokens"),
        (1_500, "bytes", "1.5 kB"),
        (2.5e6, "bytes", "2.5 MB"),
        (12_345_678_901, "bytes", "12.3 GB"),
        (0.012345, "hours", "0.01235 hours"),
    ],
)
def test_values_are_written_for_people(value, unit, text):
    assert costs.readable(value, unit) == text


def test_a_kind_that_was_not_measured_takes_as_long_as_the_slowest():
    probe = Probe({"sites": 100.0, "embeddings": 20.0}, 0.0, "A device", "float32", 1)
    assert probe.seconds(made_up(pairs=100)) == 5


@pytest.mark.parametrize(
    ("seconds", "load", "minutes", "alleles", "shards"),
    [
        (0, 5, 30, 100, 1),
        (1795, 5, 30, 100, 1),
        (1796, 5, 30, 100, 2),
        (17_950, 5, 30, 100, 10),
        (1e9, 5, 30, 10**7, 9999),
        (17_950, 5, 30, 4, 4),
        (1800, 3600, 30, 100, 2),  # a model that takes longer to load than a job should take
        (100, 5, 30, 0, 1),
    ],
)
def test_shards_are_as_many_as_fit_into_the_minutes(seconds, load, minutes, alleles, shards):
    assert shards_for(seconds, load, minutes, alleles) == shards


def test_shards_that_have_begun_stay_unless_more_are_needed():
    little, much = made_up(sites=100), made_up(sites=10_000_000)
    assert estimated(little, shards=7, started=True).shards == 7
    assert estimated(little, shards=7, started=False).shards == 1
    assert estimated(much, shards=7, started=True).shards == estimated(much, shards=7, started=False).shards > 7


def test_the_table_the_tsv_and_the_json_say_the_same():
    found = estimated(made_up(sites=123_456))
    rows = list(csv.DictReader(io.StringIO(costs.as_tsv([found])), delimiter="\t"))
    assert list(rows[0]) == list(costs.COLUMNS)
    by_quantity = {row["quantity"]: row["value"] for row in rows}
    content = json.loads(costs.as_json("c1", [found]))
    assert content["cohort"] == "c1"
    model = content["models"]["m"]
    assert model["shards"] == found.shards == int(by_quantity["shards"])
    assert model["tokens_left"] == int(by_quantity["tokens_left"]) == 123_456
    assert model["device_hours"] == pytest.approx(float(by_quantity["device_hours"]), rel=1e-4)
    table = costs.as_table(found)
    assert [name for name in by_quantity if name not in table] == []
    assert "123,456 tokens" in table


PROBE = {
    "tokens_per_second": {"sites": 1.0},
    "load_seconds": 1.0,
    "device_name": "A device",
    "arithmetic": "float32",
    "batch_tokens": 1,
}


def test_a_probe_is_read_as_it_was_written(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps(PROBE))
    assert vars(costs.read_probe(tmp_path / "m.json")) == PROBE


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps({**PROBE, "tokens_per_second": {"sites": 0}}),
        json.dumps({**PROBE, "tokens_per_second": {}}),
        json.dumps({**PROBE, "load_seconds": None}),
    ],
)
def test_a_file_that_is_no_probe_is_refused(tmp_path, content):
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(BadInput, match=r"m\.json: no speed of a model"):
        costs.read_probe(tmp_path / "m.json")
    with pytest.raises(BadInput, match="no speed of a model"):
        costs.read_probe(tmp_path / "absent.json")


# --- the probe ---


@pytest.mark.parametrize("name", ["nt-v1", "dnabert-2", "generator", CONV])
def test_a_probe_measures_each_kind_within_its_time(checkpoints, name):
    facts, reading = checkpoints(name), MODES["default"]
    scheme = read_scheme(facts, reading)
    started = time.perf_counter()
    found = probing.probe(scheme, Counted(facts, reading).load, None, 1.5)
    assert found["seconds"] < 6  # one batch may be running when the time is over
    assert time.perf_counter() - started < 1 + found["seconds"] + found["load_seconds"]
    kinds = {"pairs", "embeddings"} | ({"sites"} if scheme.site_method != scheme.pair_method else set())
    assert set(found["tokens_per_second"]) == kinds
    assert min(found["tokens_per_second"].values()) > 0
    assert found["load_seconds"] > 0
    assert found["batch_tokens"] >= 512
    assert found["device"] == "cpu"
    assert found["device_name"]
    assert found["peak_host_bytes"] > 10**7


class MadeUpClock:
    """Stands for the module `time` in the probe: it goes on when it is read, by a microsecond, and when told to."""

    def __init__(self, monkeypatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(probing, "time", self)

    def perf_counter(self) -> float:
        self.now += 1e-6
        return self.now

    def slow_down(self, adapter, speed: float):
        """The adapter, whose network takes a known time for a token."""
        inputs = adapter._inputs

        def slow(packs, rows):
            self.now += len(packs) * max(pack.length for pack in packs) / speed
            return inputs(packs, rows)

        adapter._inputs = slow
        return adapter


@pytest.fixture
def clock(monkeypatch) -> MadeUpClock:
    return MadeUpClock(monkeypatch)


def exact_adapter(facts, reading: Reading):
    return load_adapter(facts, torch.device("cpu"), "float32", reading)


def test_the_speed_is_that_of_the_network(checkpoints, clock):
    facts, reading = checkpoints("nt-v1"), MODES["default"]
    slow = clock.slow_down(exact_adapter(facts, reading), 2000.0)
    found = probing.probe(read_scheme(facts, reading), lambda: slow, 200, 3.0)
    assert found["tokens_per_second"] == {kind: pytest.approx(2000, rel=0.01) for kind in found["tokens_per_second"]}
    assert found["batch_tokens"] == 200
    assert found["seconds"] < 4


def test_planning_that_is_slower_than_the_network_sets_the_speed(checkpoints, clock, monkeypatch):
    facts, reading = checkpoints("nt-v1"), MODES["default"]
    adapter = clock.slow_down(exact_adapter(facts, reading), 1e6)
    made = probing.make_work

    def slow(scheme, requests):
        clock.now += len(requests) / 50
        return made(scheme, requests)

    monkeypatch.setattr(probing, "make_work", slow)
    found = probing.probe(read_scheme(facts, reading), lambda: adapter, 200, 4.0)
    assert found["tokens_per_second"]["sites"] == pytest.approx(
        50 * 2 * 11, rel=0.05
    )  # 10 6-mers, a start, two strands


def test_a_fast_model_is_not_measured_for_longer_than_it_takes(checkpoints):
    facts, reading = checkpoints("nt-v1"), MODES["default"]
    adapter = load_adapter(facts, torch.device("cpu"), "float32", reading)
    found = probing.probe(read_scheme(facts, reading), lambda: adapter, 300, 60.0)
    assert found["seconds"] < 20


def test_one_request_that_takes_longer_than_there_is_time_does_not_hold_up_the_probe(checkpoints, clock):
    """Exact likelihoods take a pass for every token of both haplotypes."""
    facts, reading = checkpoints("bert-base"), MODES["exact"]
    slow = clock.slow_down(exact_adapter(facts, reading), 500.0)  # 120 rows of 62 tokens a request: 15 s
    found = probing.probe(read_scheme(facts, reading), lambda: slow, 62, 1.0)
    assert found["seconds"] < 2  # one batch may be running when the time is over
    assert 0 < found["tokens_per_second"]["pairs"] <= 500


def test_a_probe_reads_the_windows_of_a_shard_and_random_ones_for_what_it_lacks(checkpoints, tmp_path):
    facts, reading = checkpoints("nt-v1"), MODES["default"]
    scheme = read_scheme(facts, reading)
    alleles = [allele for allele in some_alleles() if len(allele[1]) == len(allele[2]) == 1]
    shard = write_shard(tmp_path / "shard", facts, reading, alleles)
    own = set(probing.shard_requests(scheme, "sites", shard))
    assert own
    assert all(request.sequence in CONTIG for request in own)
    source = probing._source(scheme, "sites", shard)
    assert {next(source) for _ in range(3 * len(own))} == own
    assert list(probing.shard_requests(scheme, "pairs", shard)) == []
    pairs = probing._source(scheme, "pairs", shard)
    assert len({next(pairs) for _ in range(50)}) == 50


def test_a_model_that_can_score_nothing_is_refused(checkpoints, monkeypatch):
    facts, reading = checkpoints("nt-v1"), MODES["default"]
    scheme = read_scheme(facts, reading)
    monkeypatch.setattr(type(scheme), "plan", lambda *_: None)
    monkeypatch.setattr(probing, "GENOME", 1000)
    with pytest.raises(BadInput, match="no allele can be scored"):
        probing.probe(scheme, Counted(facts, reading).load, None, 0.1)


def test_rows_of_no_request_are_none(checkpoints):
    assert rows_of(read_scheme(checkpoints("nt-v1"), MODES["default"]), []) == Rows()
