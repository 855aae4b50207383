"""Write the page of regulatory elements, their motifs and binding sites."""

from __future__ import annotations

import argparse
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cohort", required=True, help="name of the run, for the page's head")
    parser.add_argument("--model", required=True, help="model that was used")
    parser.add_argument("--elements", nargs="*", default=[], help="names of elements")
    parser.add_argument("--heads", type=Path, nargs="*", default=[], help="folder of each element's head")
    parser.add_argument("--trained", nargs="*", default=[], help="elements whose heads were trained in this run")
    parser.add_argument("--mutated", nargs="*", default=[], help="elements whose windows were mutated")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the regulatory stage")
    parser.add_argument("--calls", type=Path, required=True, help="elements.bed")
    parser.add_argument("--sites", type=Path, required=True, help="sites.tsv")
    parser.add_argument("--stats", type=Path, nargs="+", required=True, help="what the jobs of the scan report")
    parser.add_argument("--dependencies", type=Path, nargs="?", help="dependencies.parquet")
    parser.add_argument("--fdr", type=float, required=True, help="false discovery rate of sites")
    parser.add_argument("--template-dir", type=Path, required=True, help="folder of regulatory.html.j2 and its assets")
    parser.add_argument("--output", type=Path, required=True, help="the page, as HTML")
    args = parser.parse_args()

    from seqprior.regulatory_page import ElementFiles, write_page

    elements = []
    for name, head in zip(args.elements, args.heads, strict=True):
        folder = args.folder / "elements" / name
        own = (
            folder / file if name in args.trained else None for file in ("intervals.json", "metrics.tsv", "curves.json")
        )
        counts, metrics, curves = own
        motifs = folder / "motifs.parquet" if name in args.mutated else None
        elements.append(ElementFiles(name, counts, head, metrics, curves, motifs))
    write_page(
        args.output,
        args.template_dir,
        cohort=args.cohort,
        model=args.model,
        elements=elements,
        calls=args.calls,
        sites=args.sites,
        stats=args.stats,
        dependencies=args.dependencies,
        fdr=args.fdr,
        folder=args.folder,
    )


if __name__ == "__main__":
    run_script(main)
