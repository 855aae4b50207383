"""List the models of a registry: what each is, whether its files are here and which commit models.lock has."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry", type=Path, required=True, help="model registry")
    parser.add_argument("--folder", type=Path, default=Path("results/models"), help="folder of the fetched checkpoints")
    parser.add_argument("--lock", type=Path, default=Path("models.lock"), help="models.lock; it may be missing")
    parser.add_argument("--output", type=Path, help="table of the same columns, separated by tabs")
    parser.add_argument("--page", type=Path, help="Markdown page whose table of models to bring into line, no listing")
    args = parser.parse_args()

    from seqprior.catalogue import aligned, as_tsv, catalogue, model_table
    from seqprior.configuration import with_table
    from seqprior.files import require_file, written_whole
    from seqprior.models import read_registry

    if args.page:
        require_file(args.page, "Markdown page")
        text = with_table(args.page.read_text(encoding="utf-8"), model_table(read_registry(args.registry)), "models")
        with written_whole(args.page) as partial:
            partial.write_text(text, encoding="utf-8")
        return
    rows = catalogue(args.registry, args.folder, args.lock)
    sys.stdout.write(aligned(rows))
    if args.output:
        with written_whole(args.output) as partial:
            partial.write_text(as_tsv(rows), encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
