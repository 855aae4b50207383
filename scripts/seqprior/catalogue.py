"""What a registry offers and what of it is fetched and locked, as a table to read. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from seqprior.fetching import MANIFEST, Locked, read_lock
from seqprior.models import ModelFacts, read_registry

COLUMNS = (
    "model",
    "kind",
    "family",
    "tokenisation",
    "objective",
    "window",
    "parameters",
    "licence",
    "source",
    "code",
    "here",
    "locked",
)
NONE = "-"  # no cell is empty, so that columns of the printed table can be told apart
COMMIT_DIGITS = 12
REPOSITORY = Path(__file__).resolve().parents[2]

Row = dict[str, str | int]


def catalogue(registry: Path, folder: Path, lock: Path) -> list[Row]:
    """One row for each model of a registry, in its order; the keys are `COLUMNS`.

    Args:
        registry: model registry.
        folder: folder of the fetched checkpoints, {folder}/{model}/manifest.json; it need not exist.
        lock: models.lock; it need not exist.

    Raises:
        BadInput: registry or lock is damaged.
    """
    locked, root = read_lock(lock), path_root(registry)
    return [_row(facts, folder, locked.get(facts.id), root) for facts in read_registry(registry).values()]


def path_root(registry: Path) -> Path:
    """Folder from which the paths of a registry count: the folder above config/ for the shipped one, else here."""
    shipped = REPOSITORY / "config" / "models.yaml"
    return REPOSITORY if registry.resolve() == shipped else Path()


def _row(facts: ModelFacts, folder: Path, entry: Locked | None, root: Path) -> Row:
    fetched = (folder / facts.id / MANIFEST).is_file()
    here = fetched or (facts.path is not None and (root / facts.path).is_dir())
    return {
        "model": facts.id,
        "kind": facts.kind,
        "family": facts.family,
        "tokenisation": tokenisation_words(facts),
        "objective": facts.objective,
        "window": facts.window or NONE,
        "parameters": facts.parameters,
        "licence": facts.licence,
        "source": source_words(facts),
        "code": "to be allowed" if facts.family == "remote-code" else NONE,
        "here": "yes" if here else "no",
        "locked": locked_words(facts, entry),
    }


def tokenisation_words(facts: ModelFacts) -> str:
    """The tokenisation, with k where there is one: `kmer 6`."""
    return f"{facts.tokenisation} {facts.k}" if facts.k > 1 else facts.tokenisation


def source_words(facts: ModelFacts) -> str:
    """Where the checkpoint comes from: `hub:owner/name`, with `@revision` unless main, `package:` and file, or path."""
    if facts.package:
        return f"package:{facts.package}"
    if not facts.hub:
        return str(facts.path)
    return f"hub:{facts.hub}" + ("" if facts.revision == "main" else f"@{facts.revision}")


def locked_words(facts: ModelFacts, entry: Locked | None) -> str:
    """What models.lock has: the start of the commit, `files` for a folder, which has none, or that it differs.

    `other source` means that the registry has meanwhile got another source or revision; fetching would stop there.
    """
    if entry is None:
        return NONE
    source = f"hub:{facts.hub}" if facts.hub else f"package:{facts.package}" if facts.package else "path"
    if (entry.source, entry.requested) != (source, facts.revision * bool(facts.hub)):
        return "other source"
    return entry.revision[:COMMIT_DIGITS] or "files"


def aligned(rows: Iterable[Row]) -> str:
    """The rows below `COLUMNS` as text with columns of equal width; numbers have thousands marked, to the right."""
    rows = list(rows)
    lines = [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]
    texts = [
        [f"{line[name]:,}" if isinstance(line[name], int) else str(line[name]) for name in COLUMNS] for line in lines
    ]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    right = [any(isinstance(row[name], int) for row in rows) for name in COLUMNS]
    padded = (
        [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        for line in texts
    )
    return "".join("  ".join(line).rstrip() + "\n" for line in padded)


def as_tsv(rows: Iterable[Row]) -> str:
    """The rows below `COLUMNS`, separated by tabs; tabs and line ends of a cell become blanks."""
    lines = [dict(zip(COLUMNS, COLUMNS, strict=True)), *rows]
    return "".join("\t".join(" ".join(str(line[name]).split()) for name in COLUMNS) + "\n" for line in lines)


def model_table(models: Mapping[str, ModelFacts]) -> str:
    """A Markdown table of the models for docs/models.md; each name links to its card."""
    heading = ("model", "kind", "family", "tokens", "objective", "window", "weights", "trained on", "licence")
    rows = [f"| {' | '.join(heading)} |", "|" + "---|" * len(heading)]
    for facts in models.values():
        cells = (
            _linked(facts),
            facts.kind,
            f"`{facts.family}`",
            tokenisation_words(facts),
            facts.objective,
            f"{facts.window:,}" if facts.window else NONE,
            short_count(facts.parameters),
            facts.species,
            facts.licence,
        )
        rows.append(f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |")
    return "\n".join(rows) + "\n"


def _linked(facts: ModelFacts) -> str:
    """A model's name as a link to its card, from a page in docs/."""
    if not facts.card:
        return f"`{facts.id}`"
    address = facts.card if "://" in facts.card else f"https://{facts.card}" if facts.hub else f"../{facts.card}"
    return f"[`{facts.id}`]({address})"


def short_count(number: int) -> str:
    """A number of weights to three digits: 756484 is `0.756 M`, 2547801226 is `2.55 B`."""
    unit, letter = (1e9, "B") if number >= 999_500_000 else (1e6, "M")
    return f"{number / unit:.3g} {letter}"
