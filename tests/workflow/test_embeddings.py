"""The target `embeddings`, from a config to arrays that stand beside what the network itself gives."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from small_project import MODEL, Project, make_genome

anndata = pytest.importorskip("anndata")
zarr = pytest.importorskip("zarr")

BED = "chr1\t100\t160\tfirst\n2\t19990\t20010\tbeyond the end\nchr2\t20000\t20010\tnowhere\nchr1\t500\t12000\tlong\n"
OTHER = str.maketrans("ACGT", "TGCA")


def network(project: Project):
    """The project's model, read without the library's adapters."""
    from safetensors.torch import load_file

    from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM

    folder = project.folder / "resources" / "models" / MODEL
    config = json.loads((folder / "config.json").read_text())["network"]
    model = BidirectionalConvLM(BidirectionalConfig.from_dict(config))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model.eval()


def mean_state(model, text: str) -> np.ndarray:
    """Both states of every base, over the bases of both strands."""
    import torch

    means = []
    for read in (text, text.translate(OTHER)[::-1]):
        codes = torch.tensor([["ACGT".index(base) for base in read]])
        with torch.no_grad():
            means.append(torch.cat(model.states(codes, torch.float32), -1)[0].double().mean(0).numpy())
    return np.mean(means, 0)


def embeddings(project: Project):
    return zarr.open(project.results / "embeddings" / f"{MODEL}.zarr", mode="r")


@pytest.fixture(scope="module")
def alleles(untouched, tmp_path_factory) -> Project:
    """The project after the target, its alleles embedded and nothing scored."""
    project = untouched.copy(tmp_path_factory.mktemp("alleles") / "project")
    project.config["embeddings"] = {"h5ad": True}
    project.run("embeddings")
    return project


def test_every_unique_allele_has_a_row_in_order(alleles):
    store, variants = embeddings(alleles), pd.read_parquet(alleles.results / "variants.parquet")
    assert store["id"][:].tolist() == variants["variant_id"].tolist()
    assert (store["status"][:] == "scored").tolist() == (variants["status"] == "scored").tolist()
    skipped = variants["status"] == "skipped"
    assert skipped.sum() >= 5
    assert store["reason"][:][skipped].tolist() == variants["reason"][skipped].tolist()
    assert np.isnan(store["difference"][:]).any(1).tolist() == skipped.tolist()


def test_the_vectors_of_an_allele_are_the_means_of_its_haplotypes(alleles):
    store, genome, model = embeddings(alleles), make_genome(), network(alleles)
    window, checked = store.attrs["window"], 0
    for row in np.flatnonzero(store["status"][:] == "scored"):
        ref, alt, start = store["ref_allele"][row], store["alt_allele"][row], int(store["start"][row])
        flank = (window - max(len(ref), len(alt))) // 2
        bases = genome[store["chrom"][row]]
        before, after = bases[start - flank : start], bases[start + len(ref) : start + len(ref) + flank]
        for name, allele in (("ref", ref), ("alt", alt)):
            np.testing.assert_allclose(store[name][row], mean_state(model, before + allele + after), atol=1e-5)
        checked += 1
    assert checked > 20


def test_anndata_holds_the_same(alleles):
    store = embeddings(alleles)
    data = anndata.read_h5ad(alleles.results / "embeddings" / f"{MODEL}.h5ad")
    assert data.obs_names.tolist() == store["id"][:].tolist()
    np.testing.assert_array_equal(data.X, store["difference"][:])
    assert data.uns["model"] == MODEL and data.uns["layer"] == "last"


def test_alleles_are_embedded_without_being_scored(alleles):
    assert not (alleles.results / "shards").exists()
    assert alleles.planned("embeddings") == {}
    assert list(alleles.folder.rglob(".partial*")) == []


def test_another_strand_embeds_anew_and_cuts_no_window_anew(alleles):
    project = Project(alleles.folder, config=alleles.config | {"embeddings": {"h5ad": True, "strand": "forward"}})
    assert project.planned("embeddings") == {"embeddings": 1, "export_embeddings": 1}


@pytest.fixture
def regions(fresh) -> Project:
    """A config that names regions and no variants."""
    (fresh.folder / "data" / "regions.bed").write_text(BED)
    fresh.config |= {"variants": [], "regions": "data/regions.bed", "embeddings": {"of": "regions"}}
    return fresh


def test_regions_need_no_variants(regions):
    regions.run("embeddings")
    store, genome, model = embeddings(regions), make_genome(), network(regions)
    assert store["id"][:].tolist() == ["first", "beyond the end", "nowhere", "long"]
    assert list(zip(store["chrom"][:], store["start"][:], store["end"][:], strict=True)) == [
        ("chr1", 100, 160),
        ("chr2", 19990, 20000),
        ("chr2", 20000, 20010),
        ("chr1", 500, 12000),
    ]
    assert store["reason"][:].tolist() == ["", "", "window_ambiguous", ""]
    for row in (0, 1, 3):  # the last in tiles
        text = genome[store["chrom"][:][row]][store["start"][row] : store["end"][row]]
        np.testing.assert_allclose(store["vectors"][row], mean_state(model, text), atol=1e-5)
    assert not (regions.results / "variants.parquet").exists()


def test_the_ranking_needs_variants_and_says_so(regions):
    for target in ([], ["variants"]):
        code, output = regions.outcome(*target)
        assert code != 0 and "Traceback (most recent call last)" not in output
        assert (
            "config: this target needs variants, and neither samples nor variants names a file; "
            "name a VCF or BCF file" in output
        )


def test_a_broken_bed_line_ends_the_job_with_one_sentence_and_no_store(regions):
    (regions.folder / "data" / "regions.bed").write_text(BED + "chr1\t9\tx\n")
    code, output = regions.outcome("embeddings")
    assert code != 0 and "Traceback" not in output
    assert "error: data/regions.bed, line 5: found start '9' and end 'x', expected whole numbers" in output
    assert [path for path in regions.results.rglob("*") if path.is_file()] == []


FAULTS = {
    "regions without a file": (
        {"embeddings": {"of": "regions"}},
        "config, embeddings: of is regions and the key regions names no BED file; name one",
    ),
    "a missing file": ({"regions": "no.bed"}, "config, regions: no file 'no.bed'"),
    "anndata of tokens": (
        {"embeddings": {"pool": "none", "h5ad": True}},
        "config, embeddings: h5ad needs one vector a row; set pool to mean, or h5ad to false",
    ),
    "a negative layer": ({"embeddings": {"layer": -1}}, "config, embeddings.layer: -1 is less than the minimum of 0"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_config_is_refused_before_any_job(fresh, what):
    change, sentence = FAULTS[what]
    fresh.config |= change
    code, output = fresh.outcome("embeddings")
    assert code != 0 and "Traceback" not in output
    assert sentence in output
    assert not fresh.results.exists()


def test_the_convolutional_model_has_its_last_layer_alone(regions):
    regions.config["embeddings"] = {"of": "regions", "layer": 1}
    code, output = regions.outcome("embeddings")
    assert code != 0 and f"error: {MODEL} has states of its last layer alone; leave the layer out" in output
