"""The whole chain with token models of several families at once: nothing is lost, and nothing is computed twice."""

from __future__ import annotations

import json
from collections import Counter

import pandas as pd
import pytest
import yaml
from random_models import entry_of, write_checkpoint
from small_project import Project

MODELS = ("nt-v2", "dnabert-2", "generator", "dnabert-6")
WINDOW = 48


@pytest.fixture(scope="module")
def families(untouched, tmp_path_factory) -> Project:
    """The small project with four random models of its own registry, run once."""
    project = untouched.copy(tmp_path_factory.mktemp("families") / "project")
    entries = {}
    for name in MODELS:
        write_checkpoint(name, project.folder / "models" / name, window=WINDOW)
        entries[name] = entry_of(name, f"models/{name}", WINDOW)
    (project.folder / "registry.yaml").write_text(yaml.safe_dump({"models": entries}))
    project.config["models"] = {"dna": list(MODELS), "registry": "registry.yaml"}
    project.config["scoring"] = {"max_allele_length": 20, "shards": 1}
    project.config["calibration"] = {"blocks": 2, "block_length": 50, "others": 6}
    project.run()
    return project


def tables(project: Project) -> dict[str, pd.DataFrame]:
    return {name: pd.read_parquet(project.results / "scores" / f"{name}.parquet") for name in MODELS}


def test_every_allele_is_scored_or_has_a_reason_by_every_model(families):
    variants = pd.read_parquet(families.results / "variants.parquet")
    reached = variants["status"] == "scored"
    for name, table in tables(families).items():
        assert table["variant_id"].tolist() == variants["variant_id"].tolist(), name
        assert (table.loc[~reached, "reason"] == variants.loc[~reached, "reason"]).all()
        states = Counter(zip(table.loc[reached, "status"], table.loc[reached, "reason"], strict=True))
        assert set(states) <= {("scored", ""), ("skipped", "not_evaluable_by_model")}, (name, states)
        assert states["scored", ""] > 0.7 * reached.sum(), (name, states)
        scored = table["status"] == "scored"
        assert table.loc[scored, ["llr", "llr_fwd", "llr_rev", "embedding_l2"]].notna().all(axis=None)
        assert table.loc[~scored, ["llr", "embedding_l2", "entropy"]].isna().all(axis=None)
        assert table.loc[scored, "llr"].nunique() > 30


def test_the_record_of_the_run_says_how_much_each_model_could_evaluate(families):
    run = json.loads((families.results / "run.json").read_text())
    variants = pd.read_parquet(families.results / "variants.parquet")
    reached = int((variants["status"] == "scored").sum())
    lock = json.loads((families.folder / "models.lock").read_text())
    for model, (name, table) in zip(run["models"], tables(families).items(), strict=True):
        assert model["id"] == name
        assert model["evaluable_share"] == pytest.approx((table["status"] == "scored").sum() / reached)
        assert model["not_evaluable"] == (table["reason"] == "not_evaluable_by_model").sum()
        manifest = json.loads((families.folder / "results" / "models" / name / "manifest.json").read_text())
        assert model["digest"] == manifest["digest"]
        assert set(lock[name]["files"]) >= {"config.json", "model.safetensors"}
    counts = run["counts"]
    assert counts["scored"] + counts["skipped"] == counts["unique_alleles"] == len(variants)
    assert sum(counts["skipped_by_reason"].values()) == counts["skipped"]


def test_methods_follow_tokenisation_and_objective(families):
    found = {name: set(table["method"]) - {""} for name, table in tables(families).items()}
    assert found == {
        "nt-v2": {"masked_token_marginal", "unmasked_pseudo_likelihood"},
        "dnabert-2": {"masked_spelling_likelihood", "masked_span_likelihood"},
        "generator": {"causal_likelihood"},
        "dnabert-6": {"masked_marginal", "unmasked_pseudo_likelihood"},
    }


def test_what_the_store_knows_is_not_computed_again(families):
    before = tables(families)
    families.run("--forcerun", "score_variants", "--until", "gather_scores")
    for name, table in tables(families).items():
        pd.testing.assert_frame_equal(table, before[name])
        for stats in (families.results / "shards" / name).glob("*.json"):
            job = json.loads(stats.read_text())
            assert job["from_store"] == job["requests"] > 0
            assert (job["tokens"], job["device"]) == (0, "none"), "the model was not even loaded"


def test_a_second_cohort_at_known_sites_costs_nothing(families):
    """Other alleles of the same sites, under another name: SNVs of a k-mer model are in its marginals already."""
    table = tables(families)["nt-v2"]
    single = table[(table["ref"].str.len() == 1) & (table["alt"].str.len() == 1) & (table["status"] == "scored")]
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    for row in single.itertuples():
        other = next(base for base in "ACGT" if base not in (row.ref, row.alt))
        lines.append(f"{row.chrom}\t{row.pos}\t.\t{row.ref}\t{other}\t.\tPASS\t.")
    (families.folder / "data" / "second.vcf").write_text("\n".join(lines) + "\n")
    second = Project(families.folder, families.snakefile, json.loads(json.dumps(families.config)))
    second.config |= {"cohort": "c2", "variants": ["data/second.vcf"]}
    second.config["models"]["dna"] = ["nt-v2"]
    second.config["scoring"]["embeddings"] = False
    second.run("results/c2/scores/nt-v2.parquet")
    jobs = [json.loads(path.read_text()) for path in (second.results / "shards" / "nt-v2").glob("*.json")]
    assert sum(job["requests"] for job in jobs) > 20
    assert sum(job["tokens"] for job in jobs) == 0
