"""Write every substitution of chosen proteins: a table, and a page of heat maps."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from seqprior.errors import run_script
from seqprior.options import add_protein_options


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--proteins", type=Path, required=True, help="sequences of the proteins")
    add_protein_options(parser)
    parser.add_argument("--cohort", default="", help="name of the run, for the page's head")
    parser.add_argument("--template-dir", type=Path, required=True, help="folder of saturation.html.j2 and its assets")
    parser.add_argument("--table", type=Path, required=True, help="table of all substitutions, as TSV")
    parser.add_argument("--output", type=Path, required=True, help="the page, as HTML")
    args = parser.parse_args()

    from seqprior.panels import read_evidence
    from seqprior.saturation import write_page, write_table

    names = ("proteins", "protein_models", "profiles", "structure_models", "structure_profiles", "residues")
    evidence = read_evidence(**{name: getattr(args, name) for name in (*names, "structures")})
    rows = write_table(evidence, args.table)
    write_page(evidence, args.output, args.template_dir, args.cohort)
    logging.info("%d substitutions of %d proteins", rows, len(evidence.proteins))


if __name__ == "__main__":
    run_script(main)
