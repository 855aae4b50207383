"""A copy of the workflow with a made-up genome, variants and model, so small that a whole run takes seconds."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
CODE = ("Snakefile", "workflow", "rules", "scripts", "envs", "report", "schemas", "config", "pyproject.toml")
MODEL = "tiny"
CONTIG_LENGTH = 20_000
GENES = ((2_000, "+"), (6_000, "-"), (10_000, "+"))  # 0-based start and strand of each contig's genes
CODONS = 200

CONFIG = {
    "cohort": "c1",
    "variants": ["data/samples.vcf", "data/sites.vcf"],
    "reference": {"name": "made.up", "fasta": "data/genome.fa", "genes": "data/genes.gff3"},
    "models": {"dna": [MODEL]},
    "calibration": {"blocks": 6, "block_length": 60, "others": 12},
}


@dataclass
class Project:
    """A folder to run in. `snakefile` may lie elsewhere."""

    folder: Path
    snakefile: str = "Snakefile"
    config: dict = field(default_factory=lambda: json.loads(json.dumps(CONFIG)))

    @property
    def results(self) -> Path:
        return self.folder / "results" / self.config["cohort"]

    def command(self, *arguments: str) -> list[str]:
        (self.folder / "my.yaml").write_text(yaml.safe_dump(self.config))
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--snakefile", self.snakefile]
        return [*command, "--configfile", "my.yaml", "--replace-workflow-config", *arguments]

    def environment(self) -> dict[str, str]:
        folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
        return {**os.environ, "PATH": os.pathsep.join(folders), "XDG_CACHE_HOME": str(self.folder / ".cache")}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Snakemake in a process group of its own, standard error in with standard output."""
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment(),
            text=True,
            start_new_session=True,
            **streams,
        )

    def run(self, *arguments: str) -> str:
        """Output of a run that must succeed."""
        code, output = self.outcome(*arguments)
        assert code == 0, output
        return output

    def outcome(self, *arguments: str) -> tuple[int, str]:
        """Exit code and output."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def planned(self, *arguments: str) -> dict[str, int]:
        """Jobs of a dry run by rule, `all` left out; empty where Snakemake says that there is nothing to do."""
        return job_table(self.run("--dry-run", *arguments))

    def copy(self, folder: Path) -> Project:
        """The project with its results and Snakemake's records of them; modification times stay."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder, self.snakefile, json.loads(json.dumps(self.config)))


def job_table(output: str) -> dict[str, int]:
    if "Nothing to be done" in output:
        return {}
    table = re.search(r"^Job stats:\njob +count\n[- ]+\n(.*?)^total +\d+$", output, re.MULTILINE | re.DOTALL)
    assert table, output
    jobs = {line.split()[0]: int(line.split()[1]) for line in table[1].splitlines()}
    return {rule: count for rule, count in jobs.items() if rule not in {"all", "default"}}


def copy_code(folder: Path) -> None:
    """The workflow's code, without models and demo."""
    for name in CODE:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ruff_cache"))
        else:
            shutil.copy2(source, folder / name)


def write_model(folder: Path, registry: Path, path: str, seed: int = 1) -> None:
    """A random checkpoint in `folder` and a registry that says it is at `path`."""
    import torch
    from safetensors.torch import save_file

    from seqprior.bidirectional import BidirectionalConfig, BidirectionalConvLM

    config = BidirectionalConfig(width=8, kernel=3, dilations=(1, 2), head=8)
    generator = torch.Generator().manual_seed(seed)
    weights = BidirectionalConvLM(config).state_dict()
    weights = {name: torch.randn(value.shape, generator=generator) / 2 for name, value in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"network": config.to_dict()}))
    entry = {
        "name": "tiny 1",
        "family": "bidirectional-conv",
        "objective": "bidirectional",
        "tokenisation": "single-base",
        "window": 2 * config.reach + 1,
        "embedding_window": 2 * config.reach + 1,
        "path": path,
        "digest": sha256(folder / "model.safetensors"),
        "parameters": sum(value.numel() for value in weights.values()),
        "species": "none",
        "licence": "MIT",
        "citation": "none",
        "description": "Random weights.",
        "limits": "It has learned nothing.",
    }
    registry.write_text(yaml.safe_dump({"models": {MODEL: entry}}))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def reverse_complement(sequence: str) -> str:
    return sequence.translate(str.maketrans("ACGT", "TGCA"))[::-1]


def translated(source: str | dict[str, str], contig: str = "", number: int = 0) -> str:
    """Residues of a coding sequence up to its stop, or of one of a genome's `GENES`."""
    from Bio.Seq import Seq

    if isinstance(source, str):
        return str(Seq(source[: len(source) // 3 * 3]).translate(to_stop=True))
    start, strand = GENES[number]
    coding = source[contig][start : start + 3 * CODONS]
    return translated(coding if strand == "+" else reverse_complement(coding))


def make_genome() -> dict[str, str]:
    """Two random contigs with open reading frames at `GENES`."""
    rng = random.Random(7)
    sense = ["AAA", "CTG", "GGC", "TCA", "TGG", "CAA", "GAT", "TTA", "CCT", "ACG", "GTT", "ATC"]
    genome = {}
    for name in ("chr1", "chr2"):
        bases = rng.choices("ACGT", k=CONTIG_LENGTH)
        for start, strand in GENES:
            coding = "ATG" + "".join(rng.choices(sense, k=CODONS - 2)) + "TAA"
            bases[start : start + 3 * CODONS] = coding if strand == "+" else reverse_complement(coding)
        genome[name] = "".join(bases)
    return genome


def write_data(folder: Path) -> None:
    """genome.fa, genes.gff3, samples.vcf (two samples) and sites.vcf (sites only)."""
    folder.mkdir(parents=True)
    genome = make_genome()
    fasta = (f">{name}\n" + "\n".join(re.findall(".{1,60}", bases)) + "\n" for name, bases in genome.items())
    (folder / "genome.fa").write_text("".join(fasta))
    (folder / "genes.gff3").write_text("##gff-version 3\n" + "".join(gene_lines(genome)))
    header = "##fileformat=VCFv4.2\n" + "".join(f"##contig=<ID={n},length={len(s)}>\n" for n, s in genome.items())
    columns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
    rows = [f"{row}\t.\tPASS\t." for row in allele_rows(genome)]
    genotype = '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
    samples = [f"{row}\tGT\t0/1\t0/0" for row in rows[::2]]
    (folder / "samples.vcf").write_text(f"{header}{genotype}{columns}\tFORMAT\ts1\ts2\n" + "\n".join(samples) + "\n")
    (folder / "sites.vcf").write_text(f"{header}{columns}\n" + "\n".join([*rows[1::2], rows[0]]) + "\n")
    (folder / "empty.vcf").write_text(f"{header}{columns}\n")


def gene_lines(genome: dict[str, str]):
    for contig in genome:
        for number, (start, strand) in enumerate(GENES):
            gene = f"{contig}g{number}"
            biotype = "biotype=protein_coding"
            for kind, attributes in (
                ("gene", f"ID=gene:{gene};Name={gene};{biotype}"),
                ("mRNA", f"ID=transcript:{gene};Parent=gene:{gene};{biotype}"),
                ("exon", f"Parent=transcript:{gene}"),
                ("CDS", f"ID=CDS:{gene};Parent=transcript:{gene}"),
            ):
                span = f"{start + 1}\t{start + 3 * CODONS}"
                phase = "0" if kind == "CDS" else "."
                yield f"{contig}\tmade\t{kind}\t{span}\t.\t{strand}\t{phase}\t{attributes}\n"


def allele_rows(genome: dict[str, str]) -> list[str]:
    """CHROM to ALT of records in order: substitutions, insertions, deletions, and one of each kind that is skipped."""
    rng = random.Random(11)
    rows = []
    for contig, bases in genome.items():
        places = sorted({rng.randrange(1_900, 2_700) for _ in range(12)} | set(rng.sample(range(4_000, 19_000), 6)))
        for number, start in enumerate(places):
            ref = bases[start]
            other, another = [base for base in "ACGT" if base != ref][:2]
            alt = {0: f"{other},{another}", 5: f"{ref}{other}{another}"}.get(number % 9, other)
            if number % 9 == 7:
                ref, alt = bases[start : start + 4], ref
            rows.append(f"{contig}\t{start + 1}\tv{number}\t{ref}\t{alt}")
    mismatch = reverse_complement(bases[19_500])
    rows.append(f"chr2\t19501\t.\t{mismatch}\t{mismatch}A")
    skipped = {19_601: "<DEL>", 19_611: "*", 19_621: "N"}
    rows += [f"chr2\t{pos}\t.\t{bases[pos - 1]}\t{alt}" for pos, alt in skipped.items()]
    return [*rows, "chrNone\t5\t.\tA\tC"]
