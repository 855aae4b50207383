"""The model registry: its checked entries, and the files of models that lie in a folder."""


def read_models(path):
    """Entries of the model registry by name."""
    with open(path) as registry:
        try:
            entries = yaml.safe_load(registry)
        except yaml.YAMLError as error:
            raise WorkflowError(f"{path}: expected a model registry in YAML ({error})")
    entries = entries if isinstance(entries, dict) else {}
    check(entries, "../schemas/models.schema.yaml", "model registry", "schemas/models.schema.yaml")
    for key, names in (("dna", MODELS), ("remote_code", config["models"]["remote_code"])):
        for name in names:
            if name not in entries["models"]:
                known = ", ".join(sorted(entries["models"]))
                raise WorkflowError(f"config, models.{key}: no model {name!r} in the registry; known are {known}")
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
