"""Where the protein stage keeps its files, and what the config asks of it."""

PROTEINS = f"{VARIANTS}/protein"
SATURATION = f"results/{COHORT}/saturation"
PROTEIN_SHARDS = [f"{number:04d}" for number in range(config["protein"]["shards"])]
PROTEIN_MODELS = config["models"]["protein"]
STRUCTURE_MODELS = config["models"]["structure"]
FOLDERS, DATABASE = (config["protein"]["structures"][key] for key in ("folders", "alphafold_db"))
STRUCTURES = bool(FOLDERS or DATABASE or FOLDING)


wildcard_constraints:
    proteins=one_of((PROTEINS, f"{EDITED}/protein", SATURATION)),


for key in ("sequences", "uniprot"):
    require_files([config["protein"][key]], f"config, protein.{key}")
require_files([config["protein"]["structures"]["sites"]], "config, protein.structures.sites")
for folder in FOLDERS:
    if STANDALONE and not os.path.isdir(folder):
        raise WorkflowError(f"config, protein.structures.folders: no folder {folder!r}; name one that exists")
if not GENES and (PROTEIN_MODELS or STRUCTURE_MODELS or STRUCTURES or config["protein"]["saturation"]):
    raise WorkflowError("config: proteins come from gene models, and reference.genes is empty; name a GFF3 or GTF file")
if STRUCTURE_MODELS and not STRUCTURES:
    raise WorkflowError(
        f"config, models.structure: {STRUCTURE_MODELS[0]} needs structures; name folders or alphafold_db under "
        "protein.structures, or a model under protein.folding"
    )


def protein_changes(folder):
    """Changes to be scored; a folder of saturated proteins has none, since all its residues are."""
    return [] if folder == SATURATION else [f"{folder}/changes.parquet", f"{folder}/haplotypes.parquet"]


def saturated():
    """Genes and transcripts of the target saturation."""
    if not config["protein"]["saturation"]:
        raise WorkflowError("config, protein.saturation is empty; name the genes or transcripts to saturate")
    return config["protein"]["saturation"]


# Library files of the jobs that translate, and of those that draw residues.
PROTEIN_CHANGES = (
    "errors",
    "options",
    "files",
    "columns",
    "contigs",
    "sequence",
    "vcf",
    "variants",
    "genes",
    "consequences",
)
PROTEIN_CHANGES += ("residues", "translation", "phasing", "protein_changes")
PANELS = (
    "errors",
    "options",
    "files",
    "columns",
    "residues",
    "structures",
    "structure_features",
    "profiles",
    "panels",
    "report",
)
ASSETS = (
    "report.css",
    "report.js",
    "panels.css",
    "panels.js",
    "marks.js",
    "saturation.js",
    "vendor/3Dmol-min.js",
    "vendor/3Dmol-LICENSE.txt",
)
FOLDS = ("errors", "options", "files", "columns", "sequence", "residues", "models", "fetching", "claims", "device")
FOLDS += ("tokenisation", "batching", "ports", "gated_esm", "mosaic_bert", "networks")
