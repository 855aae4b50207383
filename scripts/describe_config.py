"""Bring the table of config keys in config/README.md into line with the schema."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schema", type=Path, required=True, help="schemas/config.schema.yaml")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file with the marks of the table")
    args = parser.parse_args()

    import yaml

    from seqprior.configuration import key_table, with_table
    from seqprior.files import require_file, written_whole

    for path, what in ((args.schema, "schema of the config"), (args.output, "Markdown file")):
        require_file(path, what)
    text = with_table(
        args.output.read_text(encoding="utf-8"), key_table(yaml.safe_load(args.schema.read_text())), "keys"
    )
    with written_whole(args.output) as partial:
        partial.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
