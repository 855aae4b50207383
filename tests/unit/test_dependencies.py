"""Dependency maps against one changed text at a time."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pysam
import pytest
import torch
from random_models import write_checkpoint

from seqprior.adapters import BidirectionalAdapter, load_adapter
from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM
from seqprior.columns import DEPENDENCIES
from seqprior.contigs import ContigNames, contigs_of, write_contigs
from seqprior.dependencies import Target, dependency_map, read_targets, write_maps
from seqprior.embedding import Scorer
from seqprior.errors import BadInput
from seqprior.information import MarginalReader
from seqprior.models import ModelFacts
from seqprior.plans import Reading, read_scheme
from seqprior.sequence import encode
from seqprior.shards import ALLELE_COLUMNS
from seqprior.windows import Windows

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]
CONFIG = BidirectionalConfig(width=8, kernel=3, dilations=(1, 2), head=8)
GENOME = {
    "one": "".join(random.Random(1).choices("ACGT", k=1500)),
    "two": "".join(random.Random(2).choices("acgt", k=60)),
}


@pytest.fixture(scope="module")
def fasta(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "reference.fa"
    path.write_text("".join(f">{name}\n{text}\n" for name, text in GENOME.items()))
    pysam.faidx(str(path))
    return path


@pytest.fixture
def names(fasta) -> ContigNames:
    return ContigNames(contigs_of(fasta), {})


def network_adapter() -> BidirectionalAdapter:
    torch.manual_seed(0)
    network = BidirectionalConvLM(CONFIG)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    words = dict.fromkeys(("name", "species", "licence", "citation", "description", "limits"), "x")
    facts = ModelFacts(
        id="small",
        family="bidirectional-conv",
        objective="bidirectional",
        tokenisation="single-base",
        parameters=1,
        window=2 * CONFIG.reach + 1,
        embedding_window=5,
        **words,
    )
    return BidirectionalAdapter(network, read_scheme(facts, Reading()), CPU, "float32")


def network_logs(adapter, text: str, first: int, last: int) -> np.ndarray:
    """log p (L, 2, 4) of the whole text by one plain pass."""
    with torch.no_grad():
        strands = adapter.network(torch.from_numpy(encode(text).astype(np.int64))[None])
    return torch.stack(strands, 2)[0].log_softmax(-1).numpy()[first:last]


def scored_logs(adapter, text: str, first: int, last: int) -> np.ndarray:
    """log p (L, 2, 4) from the scores of every SNV as a variant."""
    part = Windows(adapter.scheme.facts, 1.0, one_pass=True)
    for at in range(first, last):
        for alt in "ACGT".replace(text[at], ""):
            part.add("c", text, (f"c-{at}-{alt}", "c", at + 1, text[at], alt))
    part.flush()
    scores = Scorer(adapter.scheme, lambda: adapter, 4096).score(
        pd.DataFrame(part.alleles, columns=list(ALLELE_COLUMNS)), part.sequences
    )
    logits = np.full((last - first, 2, 4), np.nan)
    for row in scores.itertuples():
        logits[row.pos - 1 - first, :, "ACGT".index(row.alt)] = row.llr_fwd, row.llr_rev
        logits[row.pos - 1 - first, :, "ACGT".index(row.ref)] = 0.0
    return logits - np.log(np.exp(logits).sum(2, keepdims=True))


def by_definition(logs_of, adapter, target: Target) -> np.ndarray:
    """The largest change of the log odds of any base, one changed text at a time: (W, W)."""

    def odds(text: str) -> np.ndarray:
        chance = np.exp(logs_of(adapter, text, target.first, target.last).mean(1))
        chance /= chance.sum(1, keepdims=True)
        return chance / (1 - chance)

    width = target.last - target.first
    found, expected = np.full((width, width), np.nan), odds(target.text)
    for changed in range(width):
        at = target.first + changed
        others = [odds(target.text[:at] + base + target.text[at + 1 :]) for base in "ACGT" if base != target.text[at]]
        for read in range(width):
            if read != changed and "N" not in (target.text[at], target.text[target.first + read]):
                found[changed, read] = max(
                    abs(np.log(other[read, base] / expected[read, base])) for other in others for base in range(4)
                )
    return found


def test_the_map_of_the_own_network_equals_one_pass_a_change():
    adapter = network_adapter()
    text = GENOME["one"][:70]
    target = Target("r", "one", 25, text[:31] + "N" + text[32:], 25, 45)
    effects = dependency_map(MarginalReader(adapter.scheme, lambda: adapter, 512), target)
    expected = by_definition(network_logs, adapter, target)
    assert np.isnan(expected).sum() == 20 + 2 * 19
    np.testing.assert_allclose(effects, expected, atol=1e-4)
    reach = CONFIG.reach
    far = np.abs(np.subtract.outer(np.arange(20), np.arange(20))) > reach
    assert far.any() and (effects[far & ~np.isnan(effects)] == 0).all()
    assert np.nanmin(np.where(far, np.nan, effects)) > 0
    assert not np.allclose(effects, effects.T, equal_nan=True)


@pytest.mark.parametrize("kind", ["bert-base", "nt-v2", "dnabert-3"])
def test_the_map_of_a_token_model_is_that_of_scores_from_whole_windows(kind, tmp_path):
    facts = write_checkpoint(kind, tmp_path, window=48)
    adapter = load_adapter(facts, CPU, "float32", Reading(one_pass_marginals=True))
    target = Target("r", "one", 36, GENOME["one"][:90], 36, 43)
    effects = dependency_map(MarginalReader(adapter.scheme, lambda: adapter, 4096), target)
    expected = by_definition(scored_logs, adapter, target)
    assert np.nanmax(expected) > 0.1
    np.testing.assert_allclose(effects, expected, atol=2e-3, rtol=1e-3)


def test_targets_hold_what_the_model_may_see_in_the_contigs_frame(fasta, names, tmp_path):
    bed = tmp_path / "r.bed"
    bed.write_text("one\t100\t130\tpromoter\none\t5\t9\ntwo\t50\t99\n")
    facts = write_checkpoint("nt-v2", tmp_path / "m", window=48)
    targets = list(read_targets(bed, fasta, names, facts))
    assert [target.name for target in targets] == ["promoter", "one:5-9", "two:50-99"]
    for target, (start, end) in zip(targets, [(100, 130), (5, 9), (50, 60)], strict=True):
        genome = GENOME[target.chrom].upper()
        begin = target.start - target.first
        assert begin % 6 == 0 and 0 <= begin <= max(start - 48, 0)
        assert target.text == genome[begin : end + 48]
        assert target.text[target.first : target.last] == genome[start:end]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("one\t100\t1101", "found a region of 1001 bases, expected at most 1000"),
        ("two\t60\t70", "starts at 60, expected a start below 60, the length of two"),
    ],
)
def test_regions_that_cannot_be_mapped_are_named(line, message, fasta, names, tmp_path):
    bed = tmp_path / "r.bed"
    bed.write_text(f"one\t100\t1100\n{line}\n")
    with pytest.raises(BadInput, match=f"line 2: .*{message}"):
        list(read_targets(bed, fasta, names, network_adapter().scheme.facts))


def test_the_table_holds_every_pair_by_region(tmp_path):
    adapter = network_adapter()
    reader = MarginalReader(adapter.scheme, lambda: adapter, 512)
    targets = [Target("a", "one", 20, GENOME["one"][:40], 20, 25), Target("b", "two", 3, GENOME["one"][:40], 3, 7)]
    assert write_maps(reader, targets, tmp_path / "d.parquet") == 2
    table = pd.read_parquet(tmp_path / "d.parquet")
    assert tuple(table) == DEPENDENCIES
    assert len(table) == 5 * 4 + 4 * 3
    for target in targets:
        effects = dependency_map(reader, target)
        for row in table[table["region"] == target.name].itertuples():
            assert row.chrom == target.chrom
            assert row.effect == effects[row.changed - target.start, row.read - target.start]


def test_the_script_maps_regions_by_the_embedded_model(fasta, names, tmp_path):
    write_contigs(contigs_of(fasta), tmp_path / "contigs.tsv")
    (tmp_path / "r.bed").write_text("one\t700\t704\tsite\n")
    registry = ROOT / "config" / "models.yaml"
    model = tmp_path / "yeast-mini"
    fetching = ["fetch_model.py", "--registry", registry, "--model", "yeast-mini"]
    fetching += ["--lock", tmp_path / "models.lock", "--output", model]
    command = ["map_dependencies.py", "--regions", tmp_path / "r.bed", "--fasta", fasta]
    command += ["--contigs", tmp_path / "contigs.tsv", "--registry", registry, "--model", "yeast-mini"]
    command += ["--checkpoint", model, "--lock", tmp_path / "models.lock", "--device", "cpu"]
    command += ["--output", tmp_path / "d.parquet"]
    for script, *arguments in (fetching, command):
        subprocess.run([sys.executable, ROOT / "scripts" / script, *map(str, arguments)], check=True, cwd=ROOT)
    table = pd.read_parquet(tmp_path / "d.parquet")
    assert sorted(zip(table["changed"], table["read"], strict=True)) == [
        (changed, read) for changed in range(700, 704) for read in range(700, 704) if changed != read
    ]
    assert (table["effect"] > 0).all()
