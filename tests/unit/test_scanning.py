"""The scan of regions against one window, one position and one pass at a time."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pysam
import pytest
import torch
from random_models import write_checkpoint

from seqprior import scanning
from seqprior.adapters import BidirectionalAdapter, load_adapter
from seqprior.batching import Batcher
from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM
from seqprior.contigs import ContigNames, contigs_of, write_contigs
from seqprior.errors import BadInput
from seqprior.features import Projection, Reader
from seqprior.fetching import fetch
from seqprior.information import MarginalReader, Stretch, information_tracks
from seqprior.models import ModelFacts, model_facts
from seqprior.plans import Reading, read_scheme
from seqprior.scanning import Block, Region, Scanner, blocks_of, control_blocks, merged, share_of, write_scan
from seqprior.sequence import encode
from seqprior.store import ScoreStore

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CONFIG = BidirectionalConfig(width=8, kernel=3, dilations=(1, 2, 4), head=8)
WINDOW = 2 * CONFIG.reach + 1


def bases(length: int, seed: int) -> str:
    return "".join(random.Random(seed).choices("ACGT", k=length))


GENOME = {"one": bases(700, 1), "two": bases(150, 2) + "N" * 60 + bases(290, 3).lower()}


@pytest.fixture(scope="module")
def fasta(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "reference.fa"
    path.write_text("".join(f">{name}\n{text}\n" for name, text in GENOME.items()))
    pysam.faidx(str(path))
    return path


@pytest.fixture
def names(fasta) -> ContigNames:
    return ContigNames(contigs_of(fasta), {})


def small_network() -> BidirectionalConvLM:
    torch.manual_seed(0)
    network = BidirectionalConvLM(CONFIG)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return network


ENTRY = {
    **dict.fromkeys(("name", "species", "licence", "citation", "description", "limits"), "x"),
    "family": "bidirectional-conv",
    "objective": "bidirectional",
    "tokenisation": "single-base",
    "window": WINDOW,
    "embedding_window": 5,
    "parameters": 1,
}


def network_adapter() -> BidirectionalAdapter:
    facts = ModelFacts(id="small", **ENTRY)
    return BidirectionalAdapter(small_network(), read_scheme(facts, Reading()), CPU, "float32")


class RandomHead:
    """A head that weighs every feature and base of a window by random numbers."""

    model, digest, element = "small", "ab" * 32, "any"

    def __init__(
        self,
        seed: int,
        states: int | None,
        window: int = 20,
        context: int = 9,
        components: int | None = 4,
        projection: int = 5,
    ):
        rng = torch.Generator().manual_seed(seed)
        self.window, self.context = window, context
        self.uses_states, self.uses_sequence = states is not None, True
        self.projection = None
        if states is not None and components is not None:
            matrix = torch.randn(states, components, generator=torch.Generator().manual_seed(projection))
            self.projection = Projection(torch.linspace(-1, 1, states), matrix)
        width = components or states or 0
        self.weights = torch.randn(2, window, width, generator=rng) / 10
        self.letters = torch.randn(window, 5, generator=rng)

    def at(self, prevalence):
        assert prevalence is None
        return self

    def logits(self, forward, reverse, codes):
        assert codes.dtype == torch.int64
        found = self.letters[torch.arange(self.window), codes].sum(1)
        if self.uses_states:
            assert forward.dtype == reverse.dtype == torch.float32
            found = found + (forward * self.weights[0]).sum((1, 2)) + (reverse * self.weights[1]).sum((1, 2))
        return found

    def probability(self, logits):
        return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def scan_of(adapter, heads, fasta, regions, stride=7, share=0.5, informs=True, store=None):
    """Blocks, and the columns of each."""
    reader = MarginalReader(adapter.scheme, lambda: adapter, 4096, store)
    scanner = Scanner(reader, heads, stride, informs, share)
    blocks = blocks_of(regions, stride)
    return blocks, list(scanner.scan(partial(scanning.reference_passages, fasta, blocks)))


def window_by_window(adapter, head, text: str, region: Region, stride: int) -> np.ndarray:
    """Probability of each window, read on its own in its context; NaN where half of it is unknown."""
    text, found = text.upper(), []
    reader = Reader(adapter, Batcher(CPU, 4096), head.projection) if head.uses_states else None
    for start in range(region.start, region.end - head.window + 1, stride):
        own = text[start : start + head.window]
        begin = max(start - head.context, 0)
        context = text[begin : start + head.window + head.context]
        states = (None, None)
        if reader is not None:
            ((forward, reverse),) = reader.read([context], [(start - begin, start - begin + head.window)])
            states = (forward[None], reverse[None])
        logit = head.logits(*states, torch.from_numpy(encode(own).astype(np.int64))[None]).numpy()
        found.append(np.nan if own.count("N") > head.window / 2 else head.probability(logit)[0])
    return np.array(found)


REGIONS = [Region("one", 0, 290), Region("one", 320, 700), Region("one", 303, 315), Region("two", 3, 497)]
TOKENS = ("bert-base", "nt-v1", "dnabert-2")


@pytest.mark.parametrize("name", ["network", *TOKENS])
def test_probabilities_are_those_of_single_windows(name, fasta, names, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "BLOCK", 100)  # windows that reach into the next block
    monkeypatch.setattr(scanning, "TILE", 64)
    monkeypatch.setattr(scanning, "HEAD_WINDOWS", 5)
    monkeypatch.setattr(scanning, "READ_WINDOWS", 5)
    if name == "network":
        adapter, width = network_adapter(), 16
        contexts = (CONFIG.reach, CONFIG.reach)
    else:
        facts = write_checkpoint(name, tmp_path, window=60)
        adapter, width = load_adapter(facts, CPU, "float32", Reading(one_pass_marginals=True)), 24
        contexts = (20, 17)
    heads = {
        "first": RandomHead(1, width, 20, contexts[0]),
        "second": RandomHead(2, width, 26, contexts[1]),
        "wide": RandomHead(3, width, 20, contexts[0], None),
        "turned": RandomHead(5, width, 20, contexts[0], projection=6),  # another matrix around the same mean
        "letters": RandomHead(4, None, 20, 0),
    }
    regions = merged(REGIONS, list(names.contigs))
    blocks, rows = scan_of(adapter, heads, fasta, regions, informs=name == "network")
    assert len(blocks) > len(regions)
    for element, head in heads.items():
        for region in regions:
            parts = [row for block, row in zip(blocks, rows, strict=True) if within(block, region)]
            found = np.concatenate([row[f"probability.{element}"] for row in parts])
            wanted = window_by_window(adapter, head, GENOME[region.chrom], region, 7)
            np.testing.assert_allclose(found, wanted, atol=2e-5)
            assert len(wanted) == max((region.end - region.start - head.window) // 7 + 1, 0)
    starts = [block.start - region.start for region in regions for block in blocks if within(block, region)]
    assert all(start % 7 == 0 for start in starts)


def within(block: Block, region: Region) -> bool:
    return block.chrom == region.chrom and region.start <= block.start < region.end


@pytest.mark.parametrize("name", ["network", "bert-base"])
def test_information_is_that_of_whole_contigs(name, fasta, names, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "BLOCK", 100)
    monkeypatch.setattr(scanning, "TILE", 64)
    if name == "network":
        adapter = network_adapter()
    else:
        facts = write_checkpoint(name, tmp_path, window=60)
        adapter = load_adapter(facts, CPU, "float32", Reading(one_pass_marginals=True))
    regions = merged(REGIONS, list(names.contigs))
    blocks, rows = scan_of(adapter, {}, fasta, regions, share=0.3)
    window = adapter.scheme.facts.window
    for block, row in zip(blocks, rows, strict=True):
        text = GENOME[block.chrom].upper()
        reader = MarginalReader(adapter.scheme, lambda: adapter, 4096)
        (logs,) = reader.marginals(lambda: [Stretch(text, block.start, block.end)])  # noqa: B023 - used at once
        for at in range(block.start, block.end):
            seen = text[max(at - window // 2, 0) : at - window // 2 + window]
            if seen.count("N") > 0.3 * len(seen):
                logs[at - block.start] = np.nan
        for track, values in information_tracks(logs).items():
            assert row[track].dtype == np.float32
            np.testing.assert_allclose(row[track], values, atol=1e-5)
    last = rows[-1]["entropy"]
    assert np.isfinite(last).any()
    assert np.isnan(np.concatenate([row["entropy"] for row in rows])).sum() > 60


def test_scan_without_information_reads_only_the_letters(fasta):
    def refuse():
        raise AssertionError("the model was loaded")

    reader = MarginalReader(read_scheme(ModelFacts(id="small", **ENTRY), Reading()), refuse)
    scanner = Scanner(reader, {"letters": RandomHead(4, None)}, 10, False, 0.5)
    blocks = blocks_of([Region("one", 0, 90)], 10)
    (row,) = scanner.scan(partial(scanning.reference_passages, fasta, blocks))
    assert list(row) == ["probability.letters"]
    assert len(row["probability.letters"]) == 8


def test_regions_are_merged_like_sets_of_bases():
    rng = random.Random(3)
    for _ in range(50):
        regions = [Region(rng.choice("ab"), start := rng.randrange(80), start + rng.randint(1, 9)) for _ in range(15)]
        found = merged(regions, ["b", "a"])
        covered = Counter((r.chrom, at) for r in found for at in range(r.start, r.end))
        assert set(covered.values()) == {1}
        assert set(covered) == {(r.chrom, at) for r in regions for at in range(r.start, r.end)}
        assert [r.chrom for r in found] == sorted((r.chrom for r in found), key="ba".index)
        pairs = list(pairwise(found))
        assert all(one.end < two.start for one, two in pairs if one.chrom == two.chrom)  # none touch


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 40])
def test_shares_are_all_blocks_in_order_and_about_equal(shards, monkeypatch):
    monkeypatch.setattr(scanning, "BLOCK", 100)
    blocks = blocks_of([Region("a", 5, 1234), Region("b", 0, 17), Region("b", 40, 800)], 9)
    shares = [share_of(blocks, shard, shards) for shard in range(shards)]
    assert [block for share in shares for block in share] == blocks
    sizes = [sum(block.end - block.start for block in share) for share in shares]
    assert max(sizes) - sum(sizes) / shards <= 100


def test_control_has_the_dinucleotides_and_the_size_that_were_asked_for(fasta, names, monkeypatch):
    monkeypatch.setattr(scanning, "CONTROL_PIECE", 50)
    regions = merged([Region("one", 30, 170), Region("one", 600, 700)], list(names.contigs))
    blocks = control_blocks(regions, 1000, seed=3)
    assert blocks == control_blocks(regions, 1000, seed=3) != control_blocks(regions, 1000, seed=4)
    assert sum(block.end - block.start for block in blocks) == 1000
    passages = list(scanning.control_passages(fasta, blocks, 20, seed=3))
    for block, passage in zip(blocks, passages, strict=True):
        text = GENOME[block.chrom][max(block.start - 20, 0) : block.end + 20]
        assert passage.last - passage.first == block.end - block.start
        assert passage.first == min(20, block.start)
        assert passage.text != text
        pairs = (Counter(map("".join, pairwise(each))) for each in (text, passage.text))
        assert next(pairs) == next(pairs)
    # Each round takes every piece of the regions once, shuffled differently.
    drawn = Counter((block.chrom, block.start) for block in blocks)
    assert set(drawn.values()) <= {4, 5}
    assert len({passage.text for passage in passages}) == len(passages)


def test_control_is_read_like_any_sequence(fasta):
    adapter = network_adapter()
    blocks = control_blocks([Region("one", 200, 400)], 200, seed=1)
    cut = partial(scanning.control_passages, fasta, blocks, WINDOW, 1)
    scanner = Scanner(MarginalReader(adapter.scheme, lambda: adapter), {}, 10, True, 0.5)
    (row,), (passage,) = scanner.scan(cut), cut()
    reader = MarginalReader(adapter.scheme, lambda: adapter)
    (logs,) = reader.marginals(lambda: [Stretch(passage.text, 0, len(passage.text))])
    expected = information_tracks(logs[passage.first : passage.last])
    np.testing.assert_allclose(row["information"], expected["information"], atol=1e-5)


def test_number_of_shards_does_not_change_a_value(fasta, names, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "BLOCK", 100)
    adapter, heads = network_adapter(), {"E": RandomHead(1, 16)}
    blocks = blocks_of(scanning.target_regions(None, fasta, names, 0.5), 10)
    assert sum(block.end - block.start for block in blocks) == 1200

    def written(name: str, chosen) -> list[dict]:
        scanner = Scanner(MarginalReader(adapter.scheme, lambda: adapter), heads, 10, True, 0.5)
        cut = partial(scanning.reference_passages, fasta, chosen)
        stats = write_scan(scanner, cut, chosen, tmp_path / name)
        assert stats["bases"] == sum(block.end - block.start for block in chosen)
        file = pq.ParquetFile(tmp_path / name)
        assert file.num_row_groups == len(chosen)
        assert json.loads(file.schema_arrow.metadata[b"seqprior"]) == {"stride": 10, "windows": {"E": 20}}
        return file.read().to_pylist()

    whole = written("whole.parquet", blocks)
    parts = [row for n in range(20) for row in written(f"{n}.parquet", share_of(blocks, n, 20))]
    assert repr(parts) == repr(whole)  # NaN equals itself as text
    written("again.parquet", blocks)
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_answers_of_a_token_model_are_kept_in_the_store(fasta, tmp_path):
    facts = write_checkpoint("bert-base", tmp_path / "model", window=60)
    adapter = load_adapter(facts, CPU, "float32", Reading())
    for known in (0, 40):
        reader = MarginalReader(adapter.scheme, lambda: adapter, 4096, ScoreStore(tmp_path, "ab" * 32, "float32"))
        blocks = blocks_of([Region("one", 50, 90)], 10)
        list(Scanner(reader, {}, 10, True, 0.5).scan(partial(scanning.reference_passages, fasta, blocks)))
        assert reader.counts == {"requests": 40, "from_store": known}


def test_regions_without_a_known_base_are_refused_if_there_are_no_others(fasta, names, tmp_path):
    bed = tmp_path / "regions.bed"
    bed.write_text("two\t150\t210\none\t10\t40\n")
    assert scanning.target_regions(bed, fasta, names, 0.5) == [Region("one", 10, 40)]
    bed.write_text("two\t150\t210\none\t900\t910\n")
    with pytest.raises(BadInput, match="all regions lie beyond their contig's end or have too many unknown bases"):
        scanning.target_regions(bed, fasta, names, 0.5)


def test_head_of_another_model_is_refused(monkeypatch, tmp_path):
    stand_in = SimpleNamespace(load_head=lambda folder: RandomHead(1, 16))
    monkeypatch.setitem(sys.modules, "seqprior.heads", stand_in)
    assert list(scanning.load_heads({"E": tmp_path}, "small", "ab" * 32)) == ["E"]
    with pytest.raises(BadInput, match=r"the head of E was trained on the states of small with digest abababababab"):
        scanning.load_heads({"E": tmp_path}, "other", "cd" * 32)


def test_the_script_scans_a_bed_file_and_its_control(fasta, names, tmp_path):
    from safetensors.torch import save_file

    source = tmp_path / "source"
    source.mkdir()
    save_file(small_network().state_dict(), source / "model.safetensors")
    (source / "config.json").write_text(json.dumps({"network": CONFIG.to_dict()}))
    registry = tmp_path / "models.yaml"
    registry.write_text(json.dumps({"models": {"small": {**ENTRY, "path": str(source)}}}))
    fetch(model_facts(registry, "small"), tmp_path / "models.lock", tmp_path / "small")
    write_contigs(contigs_of(fasta), tmp_path / "contigs.tsv")
    (tmp_path / "regions.bed").write_text("one\t100\t300\none\t250\t350\n")
    settings = {"information": "fast", "stride": 10, "shards": 1, "control_bases": 1000, "seed": 1, "prevalence": None}
    options = {
        "regions": tmp_path / "regions.bed",
        "fasta": fasta,
        "contigs": tmp_path / "contigs.tsv",
        "registry": registry,
        "model": "small",
        "checkpoint": tmp_path / "small",
        "lock": tmp_path / "models.lock",
        "device": "cpu",
        "settings": json.dumps(settings),
        "max-unknown-share": 0.5,
        "stats": tmp_path / "stats.json",
    }
    command = [sys.executable, str(SCRIPTS / "scan_regions.py")]
    command += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    for extra, bases_read in ((["--elements", "--heads", "--store"], 250), (["--control"], 1000)):
        output = tmp_path / f"{bases_read}.parquet"
        subprocess.run([*command, *extra, "--output", str(output)], check=True, capture_output=True, timeout=60)
        rows = pq.read_table(output).to_pylist()
        assert sum(len(row["information"]) for row in rows) == bases_read
        assert json.loads((tmp_path / "stats.json").read_text())["bases"] == bases_read
