"""Write the HTML report of a run: one self-contained file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from seqprior.errors import BadInput, run_script
from seqprior.files import require_file
from seqprior.options import add_protein_options


def read_json(path: Path, what: str) -> dict:
    """The JSON object in `path`; raises BadInput if it is none."""
    require_file(path, what)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path}: no valid JSON ({error}); expected the {what}; rerun its stage") from error
    if not isinstance(content, dict):
        raise BadInput(f"{path}: found a {type(content).__name__}, expected a JSON object, the {what}; rerun its stage")
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="run.json")
    parser.add_argument("--ranked", type=Path, required=True, help="ranked.parquet")
    parser.add_argument("--variants-summary", type=Path, required=True, help="summary of the variants stage, JSON")
    parser.add_argument("--highlights", nargs="?", const="", default="", help="TSV of known alleles; empty for none")
    parser.add_argument("--calibration", type=Path, nargs="*", default=[], help="calibration JSON files, one per model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--template-dir", type=Path, required=True, help="folder of template.html.j2 and its assets")
    parser.add_argument("--top", type=int, default=500, help="rows of the ranked table in the report")
    parser.add_argument("--panels", type=int, default=50, help="alleles that get a panel of the changed residue")
    parser.add_argument(
        "--proteins", type=Path, nargs="?", help="sequences of the proteins; none without protein models"
    )
    add_protein_options(parser)
    args = parser.parse_args()
    if args.top < 1:
        raise BadInput(f"report.top is {args.top}; expected a whole number of at least 1; correct the config")
    require_file(args.ranked, "ranked table")

    import pandas

    from seqprior.report import read_highlights, write_report

    calibration = {}
    for path in args.calibration:
        calibration |= read_json(path, "calibration")
    highlights = None
    if args.highlights:
        require_file(Path(args.highlights), "table of known alleles")
        highlights = read_highlights(Path(args.highlights))
    ranked = pandas.read_parquet(args.ranked)
    panels, sources = None, {}
    if args.proteins:
        from seqprior.panels import panels_of_run

        names = ("proteins", "protein_models", "profiles", "structure_models", "structure_profiles", "residues")
        tables = {name: getattr(args, name) for name in (*names, "structures")}
        panels, sources = panels_of_run(ranked.head(args.top), args.panels, **tables)
    write_report(
        run=read_json(args.run, "run record"),
        ranked=ranked,
        variants_summary=read_json(args.variants_summary, "variants summary"),
        highlights=highlights,
        calibration=calibration,
        output=args.output,
        template_dir=args.template_dir,
        top=args.top,
        panels=panels,
        structure_sources=sources,
    )


if __name__ == "__main__":
    run_script(main)
