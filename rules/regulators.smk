"""Where regulatory elements, candidate edits and saturated regions are, and what the config asks of them."""

REGULATORY = f"{VARIANTS}/regulatory"
ELEMENTS = config["regulatory"]["elements"]
# Elements with labelled intervals get a head here; the others bring one.
TRAINED = [name for name, source in ELEMENTS.items() if not source["head"]]
REGULATOR = config["regulatory"]["model"] or MODELS[0]
SCANS = [f"{number:04d}" for number in range(config["regulatory"]["shards"])]
CONTROL = "control"
# Alleles of a cohort and edits get evidence from heads, where there are any.
REGULATED = bool(ELEMENTS)
MUTATED = list(ELEMENTS) if config["regulatory"]["mutagenesis_windows"] else []


wildcard_constraints:
    element=one_of(TRAINED if config["regulatory"]["mutagenesis_windows"] == 0 else list(ELEMENTS)),
    scan=one_of([*SCANS, CONTROL]),


for name, source in ELEMENTS.items():
    where = f"config, regulatory.elements.{name}"
    if bool(source["head"]) == bool(source["intervals"]):
        raise WorkflowError(f"{where}: name either intervals, to train a head on them, or head, a trained one")
    require_files([source["intervals"], source["negatives"]], where)
    require_files([f"{source['head']}/head.json"] if source["head"] else [], where)
if not ELEMENTS and config["regulatory"]["information"] == "none":
    raise WorkflowError(
        "config, regulatory: neither elements nor information tracks are asked for; name an element or set information"
    )
for key in ("motifs", "dependencies"):
    require_files([config["regulatory"][key]], f"config, regulatory.{key}")


def head_files(name):
    """Description and weights of an element's head."""
    folder = ELEMENTS[name]["head"] or f"{REGULATORY}/elements/{name}/head"
    return [f"{folder}/{file}" for file in ("head.json", "head.safetensors")]


def head_folder(name):
    return os.path.dirname(head_files(name)[0])


def edits_file():
    if not config["edits"]:
        raise WorkflowError("config, edits: this target needs candidate edits; name a table or a VCF file")
    return config["edits"]


def saturations():
    """What the target makes: proteins, regions or both."""
    found = [*(rules.write_saturation.output if config["protein"]["saturation"] else [])]
    found += rules.write_region_saturation.output if config["regions"] else []
    if not found:
        raise WorkflowError(
            "config: nothing to saturate; name genes or transcripts in protein.saturation, or a BED file in regions"
        )
    return found


# Library files of the jobs that read states of windows, and of those that scan.
READER = ("contigs", "features", "heads", "regions", "variants", "vcf", "vectors", "windows")
SCANNER = ("embedding", "information", "scanning", "shuffling", "tracks")
SITES = ("errors", "files", "columns", "contigs", "sequence", "significance", "tracks", "motifs", "constraint")
REGION_ALLELES = ("errors", "files", "columns", "contigs", "sequence", "vcf", "variants", "models", "shards", "windows")
REGION_ALLELES += ("regions", "region_alleles")
REGION_SATURATION = ("residues", "structures", "structure_features", "profiles", "panels", "report", "saturation")
REGION_SATURATION += ("region_saturation",)
