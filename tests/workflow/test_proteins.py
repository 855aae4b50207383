"""The protein stage in a whole run: a random ESM-2, made-up structures with ProteinMPNN, and a random ESMFold."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from protein_builder import globule, write
from random_models import entry_of, write_checkpoint
from small_project import CODONS, GENES, REPOSITORY, Project, make_genome, reverse_complement, translated

from seqprior.residues import AMINO_ACIDS, protein_id

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from test_folding import write_checkpoint as write_folding_checkpoint

ESM, MPNN, FOLD = "tiny-esm2", "proteinmpnn", "tiny-esmfold"
WITH_STRUCTURE = "chr1g0"


def phased_rows(genome: dict[str, str]) -> list[str]:
    """Two substitutions of one codon of chr2g0 on a chromosome of the first sample, one of them in the other."""
    start = GENES[0][0] + 3 * 20
    bases = genome["chr2"][start : start + 2]
    alts = ["ACGT"[("ACGT".index(base) + 1) % 4] for base in bases]
    return [
        f"chr2\t{start + 1 + place}\tphased{place}\t{bases[place]}\t{alts[place]}\t.\tPASS\t.\tGT\t{genotypes}"
        for place, genotypes in enumerate(("0|1\t0|0", "0|1\t1|0"))
    ]


@pytest.fixture(scope="module")
def ran(untouched, tmp_path_factory) -> Project:
    """The small project with protein and structure models, one structure in a folder, the other proteins folded."""
    project = untouched.copy(tmp_path_factory.mktemp("proteins") / "project")
    genome = make_genome()
    registry = yaml.safe_load((project.folder / "config" / "models.yaml").read_text())["models"]
    shipped = yaml.safe_load((REPOSITORY / "config" / "models.yaml").read_text())["models"]
    write_checkpoint("esm2", project.folder / "models" / ESM, window=128)
    write_folding_checkpoint(project.folder / "models" / FOLD)
    fold = {key: value for key, value in shipped["esmfold"].items() if key not in ("hub", "revision")}
    registry |= {
        ESM: entry_of("esm2", f"models/{ESM}", 128),
        MPNN: shipped["proteinmpnn"],
        FOLD: fold | {"path": f"models/{FOLD}"},
    }
    (project.folder / "registry.yaml").write_text(yaml.safe_dump({"models": registry}))
    card = "resources/models/missense-structure"
    shutil.copytree(REPOSITORY / card, project.folder / card)
    write(project.folder / "structures" / f"{WITH_STRUCTURE}.cif.gz", globule(translated(genome, "chr1", 0)))
    header = (project.folder / "data" / "samples.vcf").read_text().split("\tFORMAT")[0]
    rows = "\n".join(phased_rows(genome))
    (project.folder / "data" / "phased.vcf").write_text(f"{header}\tFORMAT\ts1\ts2\n{rows}\n")
    (project.folder / "accessions.tsv").write_text(f"name\taccession\n{WITH_STRUCTURE}\tP12345\n")
    project.config["variants"].append("data/phased.vcf")
    project.config["models"] = {"dna": ["tiny"], "protein": [ESM], "structure": [MPNN], "registry": "registry.yaml"}
    project.config["protein"] = {
        "uniprot": "accessions.tsv",
        "structures": {"folders": ["structures"]},
        "folding": FOLD,
        "saturation": [WITH_STRUCTURE],
        "shards": 2,
    }
    project.run()
    return project


def ranked(project: Project) -> pd.DataFrame:
    return pd.read_parquet(project.results / "ranked.parquet")


def substituted(table: pd.DataFrame) -> pd.Series:
    """True where one residue takes the place of one."""
    return (table["residue_ref"].str.len() == 1) & (table["residue_alt"].str.len() == 1)


def test_every_allele_in_a_gene_is_accounted_for(ran):
    table = ranked(ran)
    variants = pd.read_parquet(ran.results / "variants.parquet")
    assert sorted(table["variant_id"]) == sorted(variants["variant_id"])
    inside = table["protein_status"] != ""
    within = [
        any(start < row.pos + len(row.ref) - 1 and row.pos <= start + 3 * CODONS for start, _ in GENES)
        for row in table[table["status"] == "scored"].itertuples()
    ]
    assert inside[table["status"] == "scored"].sum() == sum(within) > 20
    counts = Counter(table.loc[inside, "protein_reason"])
    assert counts[""] > 10
    assert set(counts) <= {"", "same_protein", "stop_or_frameshift", "start_lost", "not_evaluable_by_model"}
    scored = table["protein_reason"].eq("") & inside
    assert table.loc[scored, f"protein_llr.{ESM}"].notna().all()
    assert table.loc[inside & ~scored, f"protein_llr.{ESM}"].isna().all()


def test_residues_are_those_of_the_translated_genes(ran):
    genome, table = make_genome(), ranked(ran)
    single = table[(table["protein_status"] == "scored") & substituted(table)]
    assert len(single) > 10
    for row in single.itertuples():
        contig, number = row.gene[:4], int(row.gene[-1])
        start, strand = GENES[number]
        coding = genome[contig][start : start + 3 * CODONS]
        changed = coding[: row.pos - 1 - start] + row.alt + coding[row.pos - 1 - start + len(row.ref) :]
        if strand == "-":
            coding, changed = reverse_complement(coding), reverse_complement(changed)
        before, after = translated(coding), translated(changed)
        assert (before[row.residue - 1], after[row.residue - 1]) == (row.residue_ref, row.residue_alt)
        assert row.protein == protein_id(before)


def test_the_structures_come_from_the_folder_and_from_folding(ran):
    structures = pd.read_parquet(ran.results / "protein" / "structures.parquet").set_index("protein")
    own = protein_id(translated(make_genome(), "chr1", 0))
    assert structures.loc[own, "source"] == "folder"
    assert "structures" in next(iter(structures.loc[own, "paths"]))
    assert len(structures) > 1
    assert set(structures["reason"]) == {""}
    assert set(structures.drop(own)["source"]) == {"esmfold"}
    table = ranked(ran)
    scored = (table["protein_status"] == "scored") & substituted(table)
    assert table.loc[scored, ["plddt", "contact_number", "relative_solvent_accessibility"]].notna().all(axis=None)
    assert table.loc[scored, f"structure_z.{MPNN}"].notna().all()
    assert table["missense_score"].notna().tolist() == scored.tolist()
    assert table.loc[scored & (table["protein"] == own), "uniprot"].eq("P12345").all()


def test_alleles_of_one_codon_on_one_chromosome_are_taken_together(ran):
    table = ranked(ran).set_index("variant_id")
    pair = table[table["haplotype_hgvs_p"].fillna("") != ""]
    assert len(pair) == 2
    assert set(pair["haplotype_carriers"]) == {1}
    assert set(pair["haplotype_with"]) == set(pair.index)


def test_protein_terms_are_part_of_the_score(ran):
    table = ranked(ran)
    scored = table[table["score"].notna()]
    total = scored["consequence_weight"] + scored["model_term"].fillna(0) + scored["protein_term"].fillna(0)
    np.testing.assert_allclose(scored["score"], total)
    assert scored["protein_term"].notna().sum() > 10


def test_the_record_of_the_run_has_all_models_and_jobs(ran):
    run = json.loads((ran.results / "run.json").read_text())
    assert [model["id"] for model in run["models"]] == ["tiny", ESM, MPNN, FOLD]
    stages = Counter(timing["stage"] for timing in run["timings"])
    assert stages[f"score {ESM}"] == 2
    assert stages[f"score {MPNN}"] == 1
    lock = json.loads((ran.folder / "models.lock").read_text())
    assert set(lock) == {"tiny", ESM, MPNN, FOLD}


def test_the_report_has_panels_and_a_viewer(ran):
    page = (ran.results / "report.html").read_text()
    assert "3Dmol" in page
    assert WITH_STRUCTURE in page


def test_a_second_run_has_nothing_to_do_and_the_store_answers_a_repeated_job(ran):
    assert ran.planned() == {}
    before = ranked(ran)
    ran.run("--forcerun", "score_proteins", "score_structures")
    pd.testing.assert_frame_equal(before, ranked(ran))
    for path in [
        *(ran.results / "protein" / "scores" / ESM).glob("*.json"),
        ran.results / "protein" / "structure_scores" / f"{MPNN}.json",
    ]:
        job = json.loads(path.read_text())
        assert job["device"] == "none", path


def test_saturation_scores_every_substitution_of_the_chosen_protein(ran):
    ran.run("saturation")
    table = pd.read_csv(ran.results / "saturation.tsv", sep="\t")
    sequence = translated(make_genome(), "chr1", 0)
    assert len(table) == 19 * len(sequence)
    assert table.groupby("residue").size().eq(19).all()
    for row in table.sample(50, random_state=1).itertuples():
        assert row.ref == sequence[row.residue - 1]
        assert row.alt in AMINO_ACIDS.replace(row.ref, "")
    ours = ranked(ran)
    mine = ours[(ours["gene"] == WITH_STRUCTURE) & substituted(ours) & (ours["protein_status"] == "scored")]
    joined = mine.merge(table, left_on=["residue", "residue_alt"], right_on=["residue", "alt"])
    assert len(joined) == len(mine) > 2
    columns = [name for name in table if name.startswith(("llr.", "protein_llr."))]
    assert columns
    assert (ran.results / "saturation.html").stat().st_size > 10_000


def test_saturation_needs_no_variants(untouched, tmp_path, ran):
    project = Project(tmp_path / "project", ran.snakefile, json.loads(json.dumps(ran.config)))
    shutil.copytree(ran.folder, project.folder, symlinks=True, ignore=shutil.ignore_patterns("results", ".snakemake"))
    project.config |= {"variants": [], "cohort": "chosen"}
    planned = project.planned("saturation")
    assert planned["write_saturation"] == 1
    assert "normalise_variants" not in planned


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"models": {"structure": [MPNN]}, "protein": {}}, "config, models.structure: proteinmpnn needs structures"),
        ({"models": {"protein": ["tiny"]}}, "config, models.protein: no protein model 'tiny' in the registry"),
        (
            {"protein": {"structures": {"folders": ["nowhere"]}}},
            "config, protein.structures.folders: no folder 'nowhere'",
        ),
        ({"reference": {"genes": None}}, "config: proteins come from gene models, and reference.genes is empty"),
        ({"protein": {"saturation": ["absent"]}}, "no coding gene or transcript is called 'absent'"),
    ],
)
def test_a_wrong_config_is_refused_with_a_sentence(ran, tmp_path, change, sentence):
    project = Project(tmp_path / "project", ran.snakefile, json.loads(json.dumps(ran.config)))
    shutil.copytree(ran.folder, project.folder, symlinks=True, ignore=shutil.ignore_patterns("results", ".snakemake"))
    for key, value in change.items():
        project.config[key] = project.config[key] | value if value else value
    code, output = project.outcome("saturation")
    assert code != 0
    assert sentence in output
