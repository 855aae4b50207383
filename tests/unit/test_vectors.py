"""Exported embeddings against transformers' own classes, one sequence at a time, pooled and cut with plain loops."""

from __future__ import annotations

import gzip
import json
import random
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from random_models import KINDS, write_checkpoint

from seqprior.adapters import load_adapter
from seqprior.batching import Batcher
from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM
from seqprior.columns import VARIANTS, Reason
from seqprior.contigs import Contig, ContigNames
from seqprior.errors import BadInput
from seqprior.models import ModelFacts
from seqprior.plans import Reading
from seqprior.vectors import (
    Choice,
    Embedder,
    Row,
    allele_rows,
    described,
    export,
    folder_written_whole,
    read_regions,
    region_rows,
    rows_of,
    tiles,
    window_of,
)
from seqprior.windows import extract_windows

anndata = pytest.importorskip("anndata")
zarr = pytest.importorskip("zarr")

pytestmark = pytest.mark.usefixtures("one_thread")

REPOSITORY = Path(__file__).resolve().parents[2]
OTHER = str.maketrans("ACGTN", "TGCAN")
WINDOW = 60
LAYERS = 3
MODELS = ("bert-base", "dnabert-4", "nt-v1", "esm-base", "modernbert", "generator", "mistral-dna", "gpt2-base")
PORTS = ("nt-v2", "dnabert-2")
STRANDS = ("both", "forward", "reverse")
RNG = random.Random(3)
GENOME = {"chr1": "".join(RNG.choices("ACGT", k=400)), "chr2": "".join(RNG.choices("ACGT", k=37))}
GENOME["chr1"] = GENOME["chr1"][:250] + "N" * 30 + GENOME["chr1"][280:]
NAMES = ContigNames([Contig("chr1", 400, ("1",)), Contig("chr2", 37, ("2",))])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    from random_models import Shape

    folder = tmp_path_factory.mktemp("checkpoints")
    return cache(lambda name: write_checkpoint(name, folder / name, window=WINDOW, shape=Shape(layers=LAYERS)))


@pytest.fixture(scope="module")
def adapters(checkpoints):
    return cache(lambda name: load_adapter(checkpoints(name), torch.device("cpu"), "float32", Reading()))


@pytest.fixture(scope="module")
def conv(tmp_path_factory):
    """seqprior's own network, whose predictions see 13 bases."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("conv")
    config = BidirectionalConfig(width=8, kernel=3, dilations=(1, 2), head=8)
    generator = torch.Generator().manual_seed(1)
    weights = BidirectionalConvLM(config).state_dict()
    save_file(
        {name: torch.randn(value.shape, generator=generator) / 2 for name, value in weights.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps({"network": config.to_dict()}))
    text = dict.fromkeys(("name", "species", "licence", "citation", "description", "limits"), "none")
    facts = ModelFacts(
        id="conv",
        family="bidirectional-conv",
        objective="bidirectional",
        tokenisation="single-base",
        window=2 * config.reach + 1,
        embedding_window=2 * config.reach + 1,
        parameters=1,
        path=folder,
        **text,
    )
    return load_adapter(facts, torch.device("cpu"), "float32", Reading())


@pytest.fixture(scope="module")
def fasta(tmp_path_factory) -> Path:
    import pysam

    path = tmp_path_factory.mktemp("genome") / "genome.fa"
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in GENOME.items()))
    pysam.faidx(str(path))
    return path


def other_strand(text: str) -> str:
    return text.translate(OTHER)[::-1]


class Reference:
    """One model, asked for one unpadded sequence at a time."""

    def __init__(self, adapter) -> None:
        import transformers

        self.facts = facts = adapter.scheme.facts
        self.kind = KINDS[facts.id]
        if facts.id in PORTS:
            self.hidden = lambda ids, layer: adapter.network.states(ids, layer=layer)[0]
        else:
            config = json.loads((facts.path / "config.json").read_text())
            model = getattr(transformers, config["architectures"][0]).from_pretrained(facts.path).eval()

            def hidden(ids, layer):
                answer = model.base_model(input_ids=ids, output_hidden_states=True)
                return answer.last_hidden_state[0] if layer is None else answer.hidden_states[layer][0]

            self.hidden = hidden
        if self.kind.tokenisation == "bpe":
            from tokenizers import Tokenizer

            self.pairs = Tokenizer.from_file(str(facts.path / "tokenizer.json"))
            self.number = self.pairs.get_vocab()
        else:
            self.number = {t: n for n, t in enumerate((facts.path / "vocab.txt").read_text().split("\n")) if t}

    def spans(self, text: str) -> list[tuple[int, int]]:
        k, length = self.kind.k, len(text)
        if self.kind.tokenisation == "bpe":
            return self.pairs.encode(text, add_special_tokens=False).offsets
        if self.kind.tokenisation == "single-base":
            return [(at, at + 1) for at in range(length)]
        if self.kind.tokenisation == "overlapping-kmer":
            return [(at, at + k) for at in range(length - k + 1)]
        spans = []
        for at in range(0, length, k):
            whole = len(text[at : at + k]) == k and "N" not in text[at : at + k]
            spans += [(at, at + k)] if whole else [(b, b + 1) for b in range(at, min(at + k, length))]
        return spans

    @torch.no_grad()
    def states(self, text: str, layer: int | None) -> np.ndarray:
        """One row a token that covers bases."""
        roles = self.facts.tokens
        pieces = [text[a:b] for a, b in self.spans(text)]
        ids = [self.number.get(piece, self.number[roles["unknown"]]) for piece in pieces]
        lead = [self.number[roles["start"]]] if "start" in roles else []
        tail = [self.number[roles["end"]]] if "end" in roles else []
        found = self.hidden(torch.tensor([lead + ids + tail]), layer)
        return found[len(lead) : len(lead) + len(ids)].double().numpy()

    def bases(self, text: str, layer: int | None) -> np.ndarray:
        """One row a base: the state of the token over it, or of the one in whose middle it lies."""
        states, spans = self.states(text, layer), self.spans(text)
        rows = []
        for base in range(len(text)):
            if self.kind.tokenisation == "overlapping-kmer":
                rows.append(states[min(max(base - self.kind.k // 2, 0), len(spans) - 1)])
            else:
                rows.append(states[next(n for n, (a, b) in enumerate(spans) if a <= base < b)])
        return np.array(rows)

    def mean(self, text: str, layer: int | None, strand: str) -> np.ndarray:
        read = {
            "forward": lambda: self.bases(text, layer),
            "reverse": lambda: self.bases(other_strand(text), layer)[::-1],
        }
        return np.mean([read[name]().mean(0) for name in read if strand in (name, "both")], axis=0)


def embedder(adapter, **choice) -> Embedder:
    return Embedder(adapter, Batcher(torch.device("cpu"), 512), Choice(**choice))


def exported(adapter, rows, of: str, folder: Path, *, h5ad: Path | None = None, window: int = 0, **choice):
    rows = list(rows)
    attributes = described(adapter.scheme.facts, "d1", Choice(**choice), of, window, "float32")
    counts = export(embedder(adapter, **choice), rows, len(rows), of, folder, attributes, h5ad)
    assert sum(counts.values()) == len(rows)
    return zarr.open(folder, mode="r")


def regions(*places: tuple[str, int, int]) -> list[Row]:
    return [Row(f"r{n}", c, a, b, texts=(GENOME[c][a:b],), origin=a) for n, (c, a, b) in enumerate(places)]


SHORT = (("chr1", 0, 60), ("chr1", 7, 36), ("chr2", 1, 37), ("chr1", 240, 262))


@pytest.mark.parametrize("strand", STRANDS)
@pytest.mark.parametrize("name", [*MODELS, *PORTS])
def test_a_pooled_region_is_the_mean_over_its_bases_in_the_models_own_class(adapters, tmp_path, name, strand):
    adapter = adapters(name)
    reference = Reference(adapter)
    rows = [row for row in regions(*SHORT) if len(embedder(adapter).pieces(row.texts[0])) == 1]
    assert len(rows) >= 2
    store = exported(adapter, rows, "regions", tmp_path / "x.zarr", strand=strand)
    assert store["vectors"].shape == (len(rows), 24)
    for row, vector in zip(rows, store["vectors"][:], strict=True):
        np.testing.assert_allclose(vector, reference.mean(row.texts[0], None, strand), atol=2e-5)


@pytest.mark.parametrize("layer", [0, 2, LAYERS, None])
@pytest.mark.parametrize("name", [*MODELS, *PORTS])
def test_a_layer_is_that_of_the_models_own_hidden_states(adapters, tmp_path, name, layer):
    adapter = adapters(name)
    (row,) = regions(("chr1", 12, 42))
    store = exported(adapter, [row], "regions", tmp_path / "x.zarr", layer=layer)
    np.testing.assert_allclose(store["vectors"][0], Reference(adapter).mean(row.texts[0], layer, "both"), atol=2e-5)
    assert store.attrs["layer"] == ("last" if layer is None else layer)


def test_layers_differ(adapters, tmp_path):
    found = [
        exported(adapters("bert-base"), regions(("chr1", 3, 40)), "regions", tmp_path / str(layer), layer=layer)[
            "vectors"
        ][0]
        for layer in range(LAYERS + 1)
    ]
    assert min(np.abs(a - b).max() for n, a in enumerate(found) for b in found[:n]) > 0.01


@pytest.mark.parametrize("layer", [LAYERS + 1, 90])
@pytest.mark.parametrize("name", ["bert-base", "generator", "nt-v2"])
def test_a_layer_that_the_model_lacks_is_refused(adapters, tmp_path, name, layer):
    with pytest.raises(BadInput, match=f"{name}: the model has no layer {layer}; set embeddings.layer"):
        exported(adapters(name), regions(("chr1", 0, 30)), "regions", tmp_path / "x.zarr", layer=layer)
    assert list(tmp_path.iterdir()) == []


def test_the_convolutional_model_has_its_last_layer_alone(conv, tmp_path):
    with pytest.raises(BadInput, match="conv has states of its last layer alone"):
        exported(conv, regions(("chr1", 0, 30)), "regions", tmp_path / "x.zarr", layer=0)


@pytest.mark.parametrize("name", [*MODELS, *PORTS])
@pytest.mark.parametrize("strand", ["forward", "reverse"])
def test_token_vectors_are_the_models_states_in_forward_order(adapters, tmp_path, name, strand):
    adapter = adapters(name)
    reference, places = Reference(adapter), [("chr1", 12, 42), ("chr1", 100, 130), ("chr2", 0, 24)]
    store = exported(adapter, regions(*places), "regions", tmp_path / "x.zarr", pool="none", strand=strand)
    offsets = store["offsets"][:]
    assert offsets[0] == 0 and offsets[-1] == store["vectors"].shape[0] and len(offsets) == 4
    for (contig, start, end), (first, last) in zip(places, pairwise(offsets), strict=True):
        text = GENOME[contig][start:end]
        read = text if strand == "forward" else other_strand(text)
        states, spans = reference.states(read, None), reference.spans(read)
        if strand == "reverse":
            states, spans = states[::-1], [(len(text) - b, len(text) - a) for a, b in spans[::-1]]
        np.testing.assert_allclose(store["vectors"][first:last], states, atol=2e-5)
        found = list(zip(store["token_start"][first:last], store["token_end"][first:last], strict=True))
        assert found == [(start + a, start + b) for a, b in spans]


@pytest.mark.parametrize("name", [*MODELS, *PORTS])
def test_token_vectors_of_both_strands_are_the_mean_over_the_same_bases(adapters, tmp_path, name):
    adapter = adapters(name)
    reference, text = Reference(adapter), GENOME["chr1"][10:41]  # 31 bases: the strands' k-mers lie in other frames
    store = exported(adapter, regions(("chr1", 10, 41)), "regions", tmp_path / "x.zarr", pool="none")
    spans, forward = reference.spans(text), reference.states(text, None)
    if reference.kind.tokenisation == "overlapping-kmer":
        expected = (forward + reference.states(other_strand(text), None)[::-1]) / 2
    else:
        other = reference.bases(other_strand(text), None)[::-1]
        expected = np.array([(state + other[a:b].mean(0)) / 2 for state, (a, b) in zip(forward, spans, strict=True)])
    np.testing.assert_allclose(store["vectors"][:], expected, atol=2e-5)
    assert store["token_start"][:].tolist() == [10 + a for a, _ in spans]


def spelled_tiles(length: int, size: int, overlap: int, frame: int) -> list[int]:
    """For each base the tile whose own it is, by its distance to the edges of the tiles."""
    return [
        n for base in range(length) for n, t in enumerate(tiles(length, size, overlap, frame)) if t[2] <= base < t[3]
    ]


@pytest.mark.parametrize("frame", [1, 3, 6])
@pytest.mark.parametrize("length", [1, 59, 60, 61, 65, 66, 90, 119, 121, 500, 507])
def test_tiles_cover_every_base_once_and_overlap(length, frame):
    cut = tiles(length, 60, 15, frame)
    assert len(spelled_tiles(length, 60, 15, frame)) == length
    assert cut[0][0] == cut[0][2] == 0 and cut[-1][1] == cut[-1][3] == length
    for start, end, first, last in cut:
        assert 0 <= start <= first < last <= end <= length and end - start <= 60
        assert start % frame == 0 and first % frame == 0
    for (_, end, _, border), (start, _, first, _) in pairwise(cut):
        assert border == first and end - start >= 15
        assert border - start >= 15 // 2 - frame and end - border >= 15 // 2 - frame


@pytest.mark.parametrize("name", ["bert-base", "dnabert-4", "nt-v2", "generator", "gpt2-base"])
def test_a_region_beyond_the_window_is_pooled_over_tiles_each_base_once(adapters, tmp_path, name):
    adapter = adapters(name)
    reference, text = Reference(adapter), GENOME["chr1"][20:224]
    store = exported(adapter, regions(("chr1", 20, 224)), "regions", tmp_path / "x.zarr")
    frame = 6 if reference.kind.tokenisation == "kmer" else 1
    size, bases = 60, []
    for start, end, first, last in tiles(len(text), size, 15, frame):
        piece = text[start:end]
        forward = reference.bases(piece, None)[first - start : last - start]
        reverse = reference.bases(other_strand(piece), None)[::-1][first - start : last - start]
        bases.append((forward + reverse) / 2)
    bases = np.concatenate(bases)
    assert len(bases) == len(text)
    np.testing.assert_allclose(store["vectors"][0], bases.mean(0), atol=2e-5)


@pytest.mark.parametrize("name", ["bert-base", "dnabert-4", "nt-v2"])
def test_tokens_of_a_tiled_region_follow_one_another(adapters, tmp_path, name):
    adapter = adapters(name)
    reference, text = Reference(adapter), GENOME["chr1"][20:224]
    store = exported(adapter, regions(("chr1", 20, 224)), "regions", tmp_path / "x.zarr", pool="none")
    found = list(zip(store["token_start"][:] - 20, store["token_end"][:] - 20, strict=True))
    assert found == reference.spans(text)


def test_a_tiled_region_of_byte_pairs_has_each_tile_in_order(adapters, tmp_path):
    store = exported(adapters("mistral-dna"), regions(("chr1", 0, 224)), "regions", tmp_path / "x.zarr", pool="none")
    starts, ends = store["token_start"][:], store["token_end"][:]
    assert starts[0] == 0 and ends[-1] == 224
    assert (np.diff(starts) > 0).all() and (ends > starts).all()


@pytest.mark.parametrize("text", ["ACGTN" * 12, "N" * 5 + "ACGTAC" * 9, "ACGTACGTA" * 6 + "ACGTA", "ACGTAC" * 10])
@pytest.mark.parametrize("name", ["nt-v1", "modernbert", "generator", "mistral-dna"])
def test_no_piece_has_more_tokens_than_the_models_window(adapters, name, text):
    adapter = adapters(name)
    reference = Reference(adapter)
    room = WINDOW // 6 if reference.kind.tokenisation == "kmer" else WINDOW // 3
    pieces = embedder(adapter).pieces(text)
    for _, piece in pieces:
        assert all(len(reference.spans(read)) <= room for read in (piece.text, other_strand(piece.text)))
        assert all(at % reference.kind.k == 0 for at, _ in pieces)
    own = [base for at, piece in pieces for base in range(at + piece.first, at + piece.last)]
    assert own == list(range(len(text)))


def test_tiling_changes_nothing_for_the_convolutional_model(conv, tmp_path, monkeypatch):
    """Each base sees as far as the network does, from within its tile."""
    monkeypatch.setattr("seqprior.vectors.MAX_TILE", 30)
    rows = regions(("chr1", 5, 230))
    assert len(embedder(conv).pieces(rows[0].texts[0])) > 5
    tiled = exported(conv, rows, "regions", tmp_path / "tiled", pool="none")["vectors"][:]
    pooled = exported(conv, rows, "regions", tmp_path / "pooled")["vectors"][0]
    text = rows[0].texts[0]
    batcher = Batcher(torch.device("cpu"), 4096)
    forward, reverse = conv.states(batcher, [text, other_strand(text)])
    whole = ((forward + reverse.flip(0)) / 2).numpy()
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    np.testing.assert_allclose(pooled, whole.mean(0), atol=1e-5)


BED = (
    "track name=x\n# a comment\n\nchr1\t10\t50\tpeak1\t0\t-\n1\t390\t420\n2 0 37 .\n"
    "chr1\t240\t290\tunknown\nchr2\t40\t60\tbeyond\n"
)


def test_a_bed_file_gives_rows_of_the_references_contigs(tmp_path, fasta):
    (tmp_path / "r.bed").write_text(BED)
    rows = list(region_rows(tmp_path / "r.bed", fasta, NAMES, 0.1))
    assert [(row.id, row.chrom, row.start, row.end, row.line, row.reason) for row in rows] == [
        ("peak1", "chr1", 10, 50, 4, ""),
        ("1:390-420", "chr1", 390, 400, 5, ""),
        ("2:0-37", "chr2", 0, 37, 6, ""),
        ("unknown", "chr1", 240, 290, 7, "window_ambiguous"),
        ("beyond", "chr2", 40, 60, 8, "window_ambiguous"),
    ]
    assert rows[1].texts == (GENOME["chr1"][390:],) and rows[2].texts == (GENOME["chr2"],)
    assert rows_of(None, tmp_path / "r.bed", NAMES) == 5


def test_a_gzip_bed_of_windows_lines_reads_alike(tmp_path):
    (tmp_path / "a.bed").write_text(BED)
    (tmp_path / "b.bed").write_bytes(gzip.compress(BED.replace("\n", "\r\n").encode()))
    first, second = (list(read_regions(tmp_path / name, NAMES)) for name in ("a.bed", "b.bed"))
    assert first == second


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("chr1\t1\t5\nchr1\t7\n", "line 2: found 2 columns, expected contig, start and end separated by tabs"),
        ("chr1\t5\t5\n", "line 1: found start '5' and end '5', expected whole numbers, 0-based, with start < end"),
        ("chr1\t-1\t5\n", "line 1: found start '-1' and end '5'"),
        ("chr1\t1.0\t5\n", "line 1: found start '1.0' and end '5'"),
        ("chr1\t9\t5\n", "line 1: found start '9' and end '5'"),
        (
            "#x\nchr9\t1\t5\n",
            "line 2: the reference has no contig 'chr9'; expected one of chr1, chr2, ... or a known alias",
        ),
        ("#nothing\n", ": found no region; expected lines of contig, start and end"),
        ("", ": the file is empty; expected a BED file"),
    ],
)
def test_a_bed_file_is_refused_with_file_and_line(tmp_path, text, sentence):
    (tmp_path / "r.bed").write_text(text)
    with pytest.raises(BadInput, match=re.escape(sentence)) as caught:
        rows_of(None, tmp_path / "r.bed", NAMES)
    assert str(caught.value).startswith(str(tmp_path / "r.bed"))


def test_a_truncated_gzip_bed_is_refused(tmp_path):
    content = gzip.compress("".join(f"chr1\t{n}\t{n + 5}\n" for n in range(300)).encode())
    (tmp_path / "r.bed").write_bytes(content[:-30])
    with pytest.raises(BadInput, match="the gzip data end early or are damaged"):
        rows_of(None, tmp_path / "r.bed", NAMES)


def test_rows_that_are_skipped_keep_their_place_and_have_no_numbers(adapters, tmp_path, fasta):
    (tmp_path / "r.bed").write_text(BED + "chr1\t3\t5\tshort\n")
    rows = list(region_rows(tmp_path / "r.bed", fasta, NAMES, 0.1))
    store = exported(adapters("dnabert-4"), rows, "regions", tmp_path / "x.zarr")
    ambiguous, short = str(Reason.WINDOW_AMBIGUOUS), str(Reason.NOT_EVALUABLE_BY_MODEL)
    assert store["reason"][:].tolist() == ["", "", "", ambiguous, ambiguous, short]
    assert store["status"][:].tolist() == ["scored"] * 3 + ["skipped"] * 3
    assert np.isnan(store["vectors"][:]).all(1).tolist() == [False] * 3 + [True] * 3
    ragged = exported(adapters("dnabert-4"), rows, "regions", tmp_path / "y.zarr", pool="none")
    assert np.diff(ragged["offsets"][:]).tolist() == [37, 7, 34, 0, 0, 0]


ALLELES = [
    ("chr1", 1, "", "T"),
    ("chr1", 100, "", "C"),
    ("chr1", 100, "", "G"),
    ("chr1", 150, "", "CAT"),
    ("chr1", 180, "", "del"),
    ("chr1", 265, "", "A"),
    ("chr1", 400, "", "T"),
    ("chr2", 18, "", "A"),
]


def variant_table(path: Path) -> list[tuple]:
    """variants.parquet with alleles of every kind, and two that never reached a sequence."""
    rows = []
    for chrom, pos, _, alt in ALLELES:
        ref = GENOME[chrom][pos - 1 : pos + (3 if alt == "del" else 0)]
        alt = ref[0] if alt == "del" else ref + alt if len(alt) > 1 else alt.replace(ref, {"T": "A"}.get(ref, "T"))
        status = ("skipped", "ambiguous_base") if ref == "N" else ("scored", "")
        rows.append((f"{chrom}-{pos}-{ref}-{alt}", chrom, pos, ref, alt, *status))
    rows.append(("in.vcf:9", "chr2", None, "A", "C", "skipped", "malformed_record"))
    frame = pd.DataFrame(rows, columns=["variant_id", "chrom", "pos", "ref", "alt", "status", "reason"])
    frame["pos"] = frame["pos"].astype("Int64")
    frame.reindex(columns=list(VARIANTS), fill_value="").to_parquet(path)
    return rows


def rows_of_alleles(adapter, folder: Path, fasta: Path, window: int | None = None) -> tuple[list[tuple], list[Row]]:
    table = variant_table(folder / "variants.parquet")
    facts, shards = adapter.scheme.facts, [folder / "0000", folder / "0001"]
    extract_windows(folder / "variants.parquet", fasta, facts, shards, max_unknown_share=0.5)
    lengths = {name: len(bases) for name, bases in GENOME.items()}
    size = window_of(facts, window)
    return table, list(allele_rows(folder / "variants.parquet", shards, adapter.scheme, size, lengths))


@pytest.mark.parametrize("strand", STRANDS)
@pytest.mark.parametrize("name", ["bert-base", "dnabert-4", "nt-v2", "mistral-dna", "generator"])
def test_both_haplotypes_of_every_allele_are_embedded_within_the_contig(adapters, tmp_path, fasta, name, strand):
    adapter = adapters(name)
    reference = Reference(adapter)
    table, rows = rows_of_alleles(adapter, tmp_path, fasta)
    store = exported(adapter, rows, "alleles", tmp_path / "x.zarr", strand=strand, window=30)
    assert store["id"][:].tolist() == [row[0] for row in table]
    assert store["start"][:].tolist() == [-1 if row[2] is None else row[2] - 1 for row in table]
    assert store["ref_allele"][:].tolist() == [row[3] for row in table]
    scored = 0
    for number, (_, chrom, pos, ref, alt, *_) in enumerate(table):
        vectors = [store[kind][number] for kind in ("ref", "alt", "difference")]
        if store["status"][number] == "skipped":
            assert all(np.isnan(vector).all() for vector in vectors) and store["reason"][number]
            continue
        start, text = rows[number].origin, GENOME[chrom]
        end = start + len(rows[number].texts[0])
        flank = (30 - max(len(ref), len(alt))) // 2
        if reference.kind.tokenisation == "kmer":
            assert start % 6 == 0 or end == len(text)
            assert min(pos - 1, 6) <= pos - 1 - start <= flank
            assert 6 <= end - (pos - 1 + len(ref)) <= flank or end == len(text)
        else:
            assert (start, end) == (max(pos - 1 - flank, 0), min(pos - 1 + len(ref) + flank, len(text)))
        before, after = text[start : pos - 1], text[pos - 1 + len(ref) : end]
        expected = [reference.mean(before + allele + after, None, strand) for allele in (ref, alt)]
        np.testing.assert_allclose(vectors[0], expected[0], atol=2e-5)
        np.testing.assert_allclose(vectors[1], expected[1], atol=2e-5)
        np.testing.assert_allclose(vectors[2], expected[1] - expected[0], atol=2e-5)
        scored += 1
    assert scored >= 6


def test_alleles_of_the_convolutional_model_leave_out_what_lies_beyond_the_contig(conv, tmp_path, fasta):
    _, rows = rows_of_alleles(conv, tmp_path, fasta)
    assert rows[0].texts[0] == GENOME["chr1"][:8] and rows[0].origin == 0
    assert rows[6].texts[0] == GENOME["chr1"][392:]
    assert rows[1].texts[0] == GENOME["chr1"][92:107]


def test_token_vectors_of_alleles_count_on_from_the_first_base(adapters, tmp_path, fasta):
    adapter = adapters("bert-base")
    reference = Reference(adapter)
    _, rows = rows_of_alleles(adapter, tmp_path, fasta)
    store = exported(adapter, rows, "alleles", tmp_path / "x.zarr", pool="none", strand="forward")
    assert "difference" not in store
    for number, kind in enumerate(("ref", "alt")):
        offsets = store[f"{kind}_offsets"][:]
        for row, (first, last) in zip(rows, pairwise(offsets), strict=True):
            if row.texts:
                expected = reference.states(row.texts[number], None)
                np.testing.assert_allclose(store[kind][first:last], expected, atol=2e-5)
                assert store[f"{kind}_token_start"][first:last].tolist() == [
                    row.origin + n for n in range(last - first)
                ]
            else:
                assert first == last


def test_a_haplotype_that_alleles_share_is_read_once(adapters, tmp_path, fasta, monkeypatch):
    adapter = adapters("bert-base")
    _, rows = rows_of_alleles(adapter, tmp_path, fasta)
    read: list[str] = []
    states = adapter.states
    monkeypatch.setattr(adapter, "states", lambda b, texts, layer: read.extend(texts) or states(b, texts, layer))
    exported(adapter, rows, "alleles", tmp_path / "x.zarr", strand="forward")
    same_site = [row.texts[0] for row in rows if row.start == 99]
    assert len(same_site) == 2 and len(set(same_site)) == 1
    assert read.count(same_site[0]) == 1


def test_more_bases_around_an_allele_can_be_asked_for_but_no_more_than_windows_have(adapters, tmp_path, fasta):
    adapter = adapters("bert-base")
    _, rows = rows_of_alleles(adapter, tmp_path, fasta, window=50)
    assert len(rows[1].texts[0]) == 49
    with pytest.raises(BadInput, match="embeddings.window is 61, and windows of bert-base have 60 bases"):
        window_of(adapter.scheme.facts, 61)


def test_shards_of_other_alleles_are_a_bug_and_no_result(adapters, tmp_path, fasta):
    adapter = adapters("bert-base")
    rows_of_alleles(adapter, tmp_path, fasta)
    lengths = {name: len(bases) for name, bases in GENOME.items()}
    for shards in (["0000"], ["0001", "0000"], ["0000", "0001", "0001"]):
        rows = allele_rows(tmp_path / "variants.parquet", [tmp_path / s for s in shards], adapter.scheme, 30, lengths)
        with pytest.raises(AssertionError, match="the windows"):
            list(rows)


def test_what_is_computed_together_changes_nothing(adapters, tmp_path, monkeypatch):
    """Blocks of one row, states of one piece at a time, and chunks of two rows."""
    rows = [*SHORT, ("chr1", 20, 224)]
    for pool in ("mean", "none"):
        whole = exported(adapters("bert-base"), regions(*rows), "regions", tmp_path / f"a{pool}", pool=pool)
        with monkeypatch.context() as patch:
            patch.setattr("seqprior.vectors.BLOCK_ROWS", 1)
            patch.setattr("seqprior.vectors.HELD_BASES", {"cpu": 1, "cuda": 1})
            patch.setattr("seqprior.vectors.CHUNK_NUMBERS", 48)
            patch.setattr("seqprior.vectors.CHUNK_ROWS", 3)
            parts = exported(adapters("bert-base"), regions(*rows), "regions", tmp_path / f"b{pool}", pool=pool)
        assert parts["vectors"].chunks == (2, 24)
        for name, array in whole.arrays():
            if array.dtype.kind == "f":
                np.testing.assert_allclose(parts[name][:], array[:], atol=2e-6)
            else:
                assert parts[name][:].tolist() == array[:].tolist()


def test_the_store_says_what_its_vectors_are(adapters, tmp_path):
    store = exported(adapters("nt-v2"), regions(*SHORT), "regions", tmp_path / "x.zarr", layer=1, dtype="float16")
    assert store.metadata.zarr_format == 3
    assert store["vectors"].dtype == np.float16
    assert dict(store.attrs) == {
        "model": "nt-v2",
        "model_name": "random nt-v2",
        "digest": "d1",
        "licence": "MIT",
        "citation": "none",
        "of": "regions",
        "layer": 1,
        "pool": "mean",
        "strand": "both",
        "window": 60,
        "arithmetic": "float32",
        "coordinates": "0-based half-open, on the reference's contigs",
        "seqprior_version": "0.1.0",
    }


def test_numbers_that_do_not_fit_into_float16_are_refused(adapters, tmp_path, monkeypatch):
    adapter = adapters("bert-base")
    states = adapter.states
    monkeypatch.setattr(adapter, "states", lambda b, texts, layer: [1e6 * found for found in states(b, texts, layer)])
    with pytest.raises(BadInput, match="more than float16 can; set embeddings.dtype to float32"):
        exported(adapter, regions(*SHORT), "regions", tmp_path / "x.zarr", dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_complete_or_absent_and_replaces_an_older_one(tmp_path):
    target = tmp_path / "x.zarr"
    with folder_written_whole(target) as partial:
        partial.mkdir()
        (partial / "old").write_text("1")
    with pytest.raises(KeyError), folder_written_whole(target) as partial:  # noqa: PT012 - what fails is the block
        partial.mkdir()
        raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == ["x.zarr", "old"]
    with folder_written_whole(target) as partial:
        partial.mkdir()
        (partial / "new").write_text("2")
    assert [path.name for path in tmp_path.rglob("*")] == ["x.zarr", "new"]


def test_no_rows_give_an_empty_store(adapters, tmp_path):
    for pool in ("mean", "none"):
        h5ad = tmp_path / "x.h5ad" if pool == "mean" else None
        store = exported(adapters("bert-base"), [], "alleles", tmp_path / pool, pool=pool, h5ad=h5ad)
        assert store["ref"].shape == (0, 24) and store["id"].shape == (0,)
    assert anndata.read_h5ad(tmp_path / "x.h5ad").shape == (0, 24)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_anndata_reads_the_same_numbers_of_alleles(adapters, tmp_path, fasta, dtype):
    table, rows = rows_of_alleles(adapters("bert-base"), tmp_path, fasta)
    path = tmp_path / "x.h5ad"
    store = exported(adapters("bert-base"), rows, "alleles", tmp_path / "x.zarr", h5ad=path, dtype=dtype, window=30)
    data = anndata.read_h5ad(path)
    np.testing.assert_array_equal(data.X, store["difference"][:])
    np.testing.assert_array_equal(data.layers["ref"], store["ref"][:])
    np.testing.assert_array_equal(data.layers["alt"], store["alt"][:])
    assert data.X.dtype == dtype
    assert data.obs_names.tolist() == [row[0] for row in table]
    columns = ["chrom", "start", "end", "ref_allele", "alt_allele", "status", "reason"]
    assert data.obs.columns.tolist() == columns
    assert all(data.obs[name].tolist() == store[name][:].tolist() for name in columns)
    assert data.uns["model"] == "bert-base" and data.uns["window"] == 30
    data.obs["label"] = range(len(data))
    assert data[data.obs["status"] == "scored"].n_obs == sum(bool(row.texts) for row in rows)


def test_anndata_reads_the_same_numbers_of_regions(adapters, tmp_path):
    path = tmp_path / "x.h5ad"
    store = exported(adapters("bert-base"), regions(*SHORT), "regions", tmp_path / "x.zarr", h5ad=path)
    data = anndata.read_h5ad(path)
    np.testing.assert_array_equal(data.X, store["vectors"][:])
    assert data.obs.columns.tolist() == ["chrom", "start", "end", "line", "status", "reason"]
    assert not data.layers


def test_anndata_needs_one_vector_a_row(adapters, tmp_path):
    with pytest.raises(BadInput, match="embeddings.h5ad needs one vector a row"):
        exported(adapters("bert-base"), [], "regions", tmp_path / "x", pool="none", h5ad=tmp_path / "x.h5ad")


@pytest.fixture
def embedded(adapters, tmp_path, fasta, monkeypatch):
    """A folder with every file that the page reads."""
    folder = tmp_path / "results" / "demo" / "embeddings"
    folder.mkdir(parents=True)
    _, rows = rows_of_alleles(adapters("bert-base"), tmp_path, fasta)
    exported(adapters("bert-base"), rows, "alleles", folder / "model.zarr", h5ad=folder / "model.h5ad")
    exported(adapters("bert-base"), regions(*SHORT), "regions", folder / "tokens.zarr", pool="none")
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_examples_of_the_page_run(embedded):
    page = (REPOSITORY / "docs" / "embeddings.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 3
    names: dict = {}
    for example in examples:
        exec(example, names)  # noqa: S102 - the page's own code
    assert names["table"].shape[0] == len(names["difference"])
    assert not np.isnan(names["difference"]).any()
    assert names["tokens"].shape[0] == SHORT[0][2] - SHORT[0][1]
    assert names["data"].n_obs == len(names["difference"])
