"""What a whole run leaves behind."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest
from small_project import MODEL, Project, sha256

ALLELE = ["variant_id", "chrom", "pos", "ref", "alt"]
VARIANTS = [*ALLELE, "input_count", "status", "reason"]
SCORES = ["llr", "llr_fwd", "llr_rev", "strand_gap", "llr_calibrated", "entropy"]
SCORES += ["embedding_l2", "embedding_cosine", "status", "reason"]
RANKED = ["rank", *ALLELE, "gene", "transcript", "consequence", "hgvs_p", "score", "score_low", "score_high"]
SKIPPED = {
    "ref_mismatch": 1,
    "symbolic_allele": 1,
    "spanning_deletion": 1,
    "ambiguous_base": 1,
    "contig_not_in_reference": 1,
}
VIEW = """
import sys
import pysam.bcftools
print(pysam.bcftools.view(sys.argv[1]), end="")
"""


def alleles_in(vcf) -> int:
    lines = [line for line in vcf.read_text().splitlines() if not line.startswith("#")]
    return sum(len(line.split("\t")[4].split(",")) for line in lines)


def read_tsv(path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", keep_default_na=False)


@pytest.fixture(scope="module")
def run(completed) -> dict:
    return json.loads((completed.results / "run.json").read_text())


def test_tables_have_the_promised_columns_in_order(completed):
    variants = pd.read_parquet(completed.results / "variants.parquet")
    scores = pd.read_parquet(completed.results / "scores" / f"{MODEL}.parquet")
    ranked = read_tsv(completed.results / "ranked.tsv")
    assert list(variants)[: len(VARIANTS)] == VARIANTS
    assert [name for name in scores if name in {*ALLELE, *SCORES}] == [*ALLELE, *SCORES]
    assert list(ranked)[: len(RANKED)] == RANKED
    assert list(ranked)[-2:] == ["status", "reason"]


def test_every_input_allele_is_accounted_for_in_every_file(completed, run):
    given = sum(alleles_in(completed.folder / name) for name in completed.config["variants"])
    variants = pd.read_parquet(completed.results / "variants.parquet")
    scores = pd.read_parquet(completed.results / "scores" / f"{MODEL}.parquet")
    ranked = read_tsv(completed.results / "ranked.tsv")
    assert variants["input_count"].sum() == given
    assert scores["variant_id"].tolist() == variants["variant_id"].tolist()
    assert sorted(ranked["variant_id"]) == sorted(variants["variant_id"])
    assert ranked["rank"].tolist() == list(range(1, len(ranked) + 1))
    for table in (scores, ranked):
        assert set(table["status"]) == {"scored", "skipped"}
        assert Counter(table.loc[table["status"] == "skipped", "reason"]) == SKIPPED
    assert run["counts"] == {
        "input_alleles": given,
        "unique_alleles": len(variants),
        "scored": len(variants) - sum(SKIPPED.values()),
        "skipped": sum(SKIPPED.values()),
        "skipped_by_reason": SKIPPED,
    }


def test_scored_alleles_have_every_score_and_skipped_ones_none(completed):
    scores = pd.read_parquet(completed.results / "scores" / f"{MODEL}.parquet")
    numbers = ["llr", "llr_fwd", "llr_rev", "strand_gap", "llr_calibrated", "embedding_l2", "embedding_cosine"]
    scored = scores["status"] == "scored"
    assert scores.loc[scored, numbers].notna().all(axis=None)
    assert scores.loc[~scored, numbers].isna().all(axis=None)
    assert ((scores["llr_fwd"] + scores["llr_rev"]) / 2 - scores["llr"]).abs().max() < 1e-6
    assert scores.loc[scored, "llr"].nunique() > 30


def test_both_forms_of_the_ranked_table_agree(completed):
    parquet = pd.read_parquet(completed.results / "ranked.parquet")
    tsv = read_tsv(completed.results / "ranked.tsv")
    assert list(parquet) == list(tsv)
    for name in ("rank", *ALLELE, "gene", "consequence", "status", "reason"):
        assert parquet[name].tolist() == tsv[name].tolist(), name
    assert (parquet["score"] - pd.to_numeric(tsv["score"])).abs().max() < 1e-4


def test_bcftools_reads_the_ranked_vcf_without_a_warning_and_finds_the_ranks_in_it(completed):
    path = completed.results / "ranked.vcf.gz"
    view = subprocess.run([sys.executable, "-c", VIEW, str(path)], capture_output=True, text=True, check=True)
    assert view.stderr == ""
    rank_of, score_of = {}, {}
    for line in view.stdout.splitlines():
        if line.startswith("#"):
            continue
        chrom, pos, _, ref, alts, _, _, info = line.split("\t")[:8]
        values = dict(item.split("=") for item in info.split(";"))
        assert {"SP_RANK", "SP_SCORE", "SP_LLR", "SP_STATUS"} <= set(values)
        ranks, scores = values["SP_RANK"].split(","), values["SP_SCORE"].split(",")
        for alt, rank, score in zip(alts.split(","), ranks, scores, strict=True):
            rank_of[chrom, int(pos), ref, alt], score_of[chrom, int(pos), ref, alt] = rank, score
    ranked = read_tsv(completed.results / "ranked.tsv")
    single = ranked[(ranked["ref"].str.len() == 1) & (ranked["alt"].str.len() == 1) & (ranked["status"] == "scored")]
    assert len(single) > 25
    for row in single.itertuples():
        place = (row.chrom, row.pos, row.ref, row.alt)
        assert int(rank_of[place]) == row.rank
        assert float(score_of[place]) == pytest.approx(float(row.score), abs=1e-3)


def test_the_index_of_the_ranked_vcf_finds_a_region(completed):
    import pysam

    ranked = read_tsv(completed.results / "ranked.tsv")
    wanted = ranked[(ranked["chrom"] == "chr1") & ranked["pos"].between(4_001, 19_000)]
    with pysam.TabixFile(str(completed.results / "ranked.vcf.gz")) as index:
        found = {int(line.split("\t")[1]) for line in index.fetch("chr1", 4_000, 19_000)}
    assert found == set(wanted["pos"])


def test_consequences_are_those_of_the_made_up_genes(completed):
    ranked = read_tsv(completed.results / "ranked.tsv")
    inside = ranked["pos"].between(2_001, 2_600) & (ranked["status"] == "scored")
    assert set(ranked.loc[inside, "gene"]) == {"chr1g0", "chr2g0"}
    assert (ranked.loc[~inside & (ranked["pos"] < 6_000) & (ranked["status"] == "scored"), "gene"] == "").all()


def test_run_json_has_the_digests_of_the_files(completed, run):
    files = [*completed.config["variants"], *(completed.config["reference"][name] for name in ("fasta", "genes"))]
    assert {entry["path"]: entry["sha256"] for entry in run["inputs"]} == {
        name: sha256(completed.folder / name) for name in files
    }
    weights = completed.folder / "resources" / "models" / MODEL / "model.safetensors"
    manifest = json.loads((completed.folder / "results" / "models" / MODEL / "manifest.json").read_text())
    assert manifest["files"]["model.safetensors"] == sha256(weights)
    assert [model["digest"] for model in run["models"]] == [manifest["digest"]]
    assert run["models"][0]["licence"] == "MIT"
    assert run["config"]["reference"] == completed.config["reference"] | {
        "aliases": {},
        "genetic_codes": {},
        "max_mismatch_share": 0.1,
        "sha256": "",
    }
    assert {"python", "snakemake", "torch", "pysam"} <= set(run["software"])
    assert len(run["timings"]) == 2


def test_the_report_names_the_best_allele_and_loads_nothing(completed):
    html = (completed.results / "report.html").read_text()
    best = read_tsv(completed.results / "ranked.tsv").iloc[0]
    assert str(best["pos"]) in html and best["gene"] in html
    assert "<script src=" not in html and '<link rel="stylesheet"' not in html


def test_nothing_partial_stays_and_every_job_has_a_log(completed):
    assert list(completed.folder.rglob(".partial*")) == []
    logs = {path.relative_to(completed.folder / "logs") for path in completed.folder.glob("logs/**/*.log")}
    assert {log.name.split(".")[0] for log in logs} == {
        "fetch_model",
        "prepare_reference",
        "prepare_genes",
        "draw_background",
        "normalise_variants",
        "annotate_consequences",
        "list_protein_changes",
        "gather_protein_evidence",
        "extract_windows",
        "score_variants",
        "calibrate_scores",
        "gather_scores",
        "rank_variants",
        "record_run",
        "write_report",
    }


def test_a_second_cohort_shares_the_reference_and_an_empty_vcf_gives_a_report(done):
    shutil.copy(done.results / "ranked.tsv", done.folder / "first.tsv")
    shared = {path: path.stat().st_mtime_ns for path in (done.folder / "results" / "shared").rglob("*")}
    done.config |= {"cohort": "c1.v-2_x", "variants": ["data/empty.vcf"]}
    jobs = done.planned()
    assert not {"prepare_reference", "prepare_genes", "draw_background", "calibrate_scores"} & set(jobs)
    assert (jobs["annotate_consequences"], jobs["extract_windows"], jobs["score_variants"]) == (1, 1, 2)
    done.run()
    assert {path: path.stat().st_mtime_ns for path in (done.folder / "results" / "shared").rglob("*")} == shared
    assert read_tsv(done.results / "ranked.tsv").empty
    assert json.loads((done.results / "run.json").read_text())["counts"]["input_alleles"] == 0
    assert "<html" in (done.results / "report.html").read_text()
    with gzip.open(done.results / "ranked.vcf.gz", "rt") as vcf:
        assert [line for line in vcf if not line.startswith("#")] == []
    assert (done.folder / "results" / "c1" / "ranked.tsv").read_text() == (done.folder / "first.tsv").read_text()


def test_the_run_is_the_same_as_a_module_in_a_folder_with_an_awkward_name(completed, untouched, tmp_path):
    """Everywhere at once: own registry, another working directory, and paths that a shell would take apart."""
    folder = tmp_path / "o'neil's \"data\" $(touch executed)"
    folder.mkdir()
    project = Project(folder)
    awkward = "in put/$(touch executed)`touch executed`;touch executed \"a\" 'b'.vcf"
    (folder / "in put").mkdir()
    shutil.copy(untouched.folder / "data" / "samples.vcf", folder / awkward)
    for name in ("sites.vcf", "genome.fa", "genes.gff3"):
        shutil.copy(untouched.folder / "data" / name, folder / "in put" / name)
    shutil.copytree(untouched.folder / "resources" / "models" / "tiny", folder / "own models" / "tiny")
    registry = (untouched.folder / "config" / "models.yaml").read_text()
    (folder / "own models" / "registry.yaml").write_text(registry.replace("resources/models/tiny", "own models/tiny"))
    (folder / "sheet one.tsv").write_text(f"sample\tvcf\ns1\t{awkward}\n")
    (folder / "in put").chmod(0o555)
    project.config |= {
        "samples": "sheet one.tsv",
        "variants": ["in put/sites.vcf"],
        "reference": {"name": "made.up", "fasta": "in put/genome.fa", "genes": "in put/genes.gff3"},
    }
    project.config["models"]["registry"] = "own models/registry.yaml"
    (folder / "Snakefile").write_text(
        f"module seqprior:\n    snakefile: {str(untouched.folder / 'workflow' / 'Snakefile')!r}\n    config: config\n\n"
        "use rule * from seqprior\n"
    )
    before = sorted((folder / "in put").iterdir())
    project.run("all")
    assert (project.results / "ranked.tsv").read_bytes() == (completed.results / "ranked.tsv").read_bytes()
    assert sorted((folder / "in put").iterdir()) == before
    assert list(tmp_path.rglob("executed")) == []
    assert project.planned("all") == {}
