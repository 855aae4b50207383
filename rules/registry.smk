"""The model registry: its checked entries, and the files of models that lie in a folder."""

FOLDING = config["protein"]["folding"]
# Key of the config, kind of model (None for any), the names there.
NAMED = [(f"models.{kind}", kind, config["models"][kind]) for kind in ("dna", "protein", "structure")]
NAMED += [("protein.folding", "folding", [FOLDING] if FOLDING else [])]
NAMED += [("regulatory.model", "dna", [config["regulatory"]["model"]] if config["regulatory"]["model"] else [])]
NAMED += [("models.remote_code", None, config["models"]["remote_code"])]
ALL_MODELS = list(dict.fromkeys(name for _, kind, names in NAMED if kind for name in names))


wildcard_constraints:
    model=one_of(ALL_MODELS),


def read_models(path):
    """Entries of the model registry by name."""
    with open(path) as registry:
        try:
            entries = yaml.safe_load(registry)
        except yaml.YAMLError as error:
            raise WorkflowError(f"{path}: expected a model registry in YAML ({error})")
    entries = entries if isinstance(entries, dict) else {}
    check(entries, "../schemas/models.schema.yaml", "model registry", "schemas/models.schema.yaml")
    for key, kind, names in NAMED:
        for name in names:
            known = sorted(name for name, entry in entries["models"].items() if kind in (None, entry["kind"]))
            if name not in known:
                what = "model" if kind is None else f"{kind} model"
                raise WorkflowError(
                    f"config, {key}: no {what} {name!r} in the registry; known are {', '.join(known) or 'none'}"
                )
    return entries["models"]


def checkpoint_files(model):
    """Files of a model's folder; none for a model of a hub. Paths of the shipped registry count from seqprior's folder."""
    folder = REGISTERED[model].get("path")
    if folder is None:
        return []
    if not config["models"]["registry"]:
        return [workflow.source_path(f"../{folder}/{name}") for name in ("model.safetensors", "config.json")]
    kinds = (".safetensors", ".json", ".txt", ".bin", ".py")
    found = sorted(name for name in os.listdir(folder) if name.endswith(kinds)) if os.path.isdir(folder) else []
    return [os.path.join(folder, name) for name in found or ["config.json"]]


REGISTERED = read_models(REGISTRY)

# Library files of every job that asks a model.
ENGINE = ("errors", "options", "files", "columns", "sequence", "residues", "models", "fetching", "claims", "device")
ENGINE += ("shards", "tokenisation", "plans", "work", "batching", "bidirectional", "ports", "gated_esm", "mosaic_bert")
ENGINE += ("networks", "adapters", "loading")
