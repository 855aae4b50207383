"""The page of the regulatory stage: how well each element's classifier does, its motifs, the sites, and dependencies.

One self-contained HTML file without scripts: figures are SVG and PNG, made here. See report/regulatory.html.j2.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from seqprior.columns import ELEMENTS, SITES
from seqprior.files import written_whole
from seqprior.motifs import logo_svg
from seqprior.report import environment, inlined, policy_of

if TYPE_CHECKING:
    import pandas

SHOWN = {".bw", ".bed", ".tsv", ".xml"}  # kinds of files that are named
TOP = 20  # rows of each table of calls
MOTIFS_SHOWN = 12  # of an element
LARGEST_MAP = 400  # pixels a side of a dependency map; what is larger is drawn by the strongest of its neighbours
MEASURES = ("auroc", "auprc", "brier", "ece")
MEASURE_TEXT = {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier score", "ece": "Calibration error"}
CURVES = {
    "roc": ("Receiver operating characteristic", "false positive rate", "true positive rate"),
    "precision_recall": ("Precision and recall", "recall", "precision"),
    "reliability": ("Calibration", "probability given", "share that is the element"),
}
SIZE, MARGIN = 220, 34  # of a figure's field and of what stands left of and below it, in SVG units


@dataclass(frozen=True)
class ElementFiles:
    """What was made for one element. `motifs` is None where no window was mutated."""

    name: str
    counts: Path | None
    head: Path
    metrics: Path | None
    curves: Path | None
    motifs: Path | None


def curve_svg(kind: str, curves: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """A figure of curves over the unit square, as SVG; each curve is numbered by its class for the style sheet."""
    from markupsafe import escape

    title, across, up = CURVES[kind]
    end = MARGIN + SIZE
    parts = [
        f'<svg class="curve" viewBox="0 0 {end + 12} {end + 12}" role="img" aria-label="{escape(title)}">',
        f'<rect class="field" x="{MARGIN}" y="8" width="{SIZE}" height="{SIZE}"/>',
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        at, down = MARGIN + tick * SIZE, 8 + (1 - tick) * SIZE
        parts.append(f'<path class="grid" d="M{at} 8V{8 + SIZE}M{MARGIN} {down}H{end}"/>')
        if tick in (0, 0.5, 1):
            parts.append(f'<text x="{at}" y="{SIZE + 22}" text-anchor="middle">{tick:g}</text>')
            parts.append(f'<text x="{MARGIN - 5}" y="{down + 4}" text-anchor="end">{tick:g}</text>')
    if kind != "precision_recall":
        parts.append(f'<path class="chance" d="M{MARGIN} {8 + SIZE}L{end} 8"/>')
    for number, points in enumerate(curves.values()):
        steps = [f"{MARGIN + x * SIZE:.1f} {8 + (1 - y) * SIZE:.1f}" for x, y in points if math.isfinite(x + y)]
        if steps:
            parts.append(f'<path class="line c{number}" d="M{"L".join(steps)}"/>')
    parts.append(f'<text x="{MARGIN + SIZE / 2}" y="{end + 6}" text-anchor="middle">{escape(across)}</text>')
    middle = 8 + SIZE / 2
    parts.append(
        f'<text x="9" y="{middle}" text-anchor="middle" transform="rotate(-90 9 {middle})">{escape(up)}</text></svg>'
    )
    return "".join(parts)


def png(levels: np.ndarray) -> str:
    """A grey picture (H, W) uint8 as a data address (PNG specification, www.w3.org/TR/png-3)."""
    height, width = levels.shape

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(levels))
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def dependency_maps(table: pandas.DataFrame) -> list[dict[str, Any]]:
    """A picture of each region of `columns.DEPENDENCIES`: changed positions downwards, read ones to the right."""
    found = []
    for (region, chrom), rows in table.groupby(["region", "chrom"], sort=False):
        first, last = int(rows["changed"].min()), int(rows["changed"].max())
        size = last - first + 1
        effect = np.zeros((size, size))
        effect[rows["changed"] - first, rows["read"] - first] = rows["effect"]
        step = -(-size // LARGEST_MAP)
        padded = np.pad(effect, (0, -size % step))
        shown = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step).max((1, 3))
        top = float(np.quantile(effect, 0.995)) or 1.0
        levels = 255 - np.clip(shown / top * 255, 0, 255).astype(np.uint8)
        apart = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
        strongest = np.unravel_index(np.argmax(np.where(apart > 5, effect, -1)), effect.shape)
        found.append(
            {
                "region": str(region),
                "chrom": str(chrom),
                "start": first,
                "end": last + 1,
                "picture": png(levels),
                "darkest": top,
                "changed": first + int(strongest[0]) + 1,
                "read": first + int(strongest[1]) + 1,
                "strongest": float(effect[strongest]),
            }
        )
    return found


def element_view(files: ElementFiles) -> dict[str, Any]:
    """What the page says of one element."""
    import pandas as pd
    from markupsafe import Markup

    head = json.loads((files.head / "head.json").read_text(encoding="utf-8"))
    view = {"name": files.name, "head": head, "rows": [], "figures": [], "legend": [], "motifs": [], "counts": None}
    if files.counts:
        view["counts"] = json.loads(files.counts.read_text(encoding="utf-8"))
    if files.metrics:
        metrics = pd.read_csv(files.metrics, sep="\t", keep_default_na=False, na_values=[""])
        for (name, role), rows in metrics.groupby(["head", "role"], sort=False):
            by_metric = rows.drop_duplicates("metric").set_index("metric")[["value", "low", "high"]].to_dict("index")
            view["rows"].append({"name": name, "role": role, **{key: by_metric.get(key) for key in MEASURES}})
    if files.curves:
        curves = json.loads(files.curves.read_text(encoding="utf-8"))
        view["legend"] = list(curves)
        view["figures"] = [
            Markup(curve_svg(kind, {name: own[kind] for name, own in curves.items()})) for kind in CURVES
        ]
    if files.motifs:
        motifs = pd.read_parquet(files.motifs)
        for row in motifs.head(MOTIFS_SHOWN).to_dict("records"):
            matrix = np.asarray(row["matrix"], float).reshape(-1, 4)
            view["motifs"].append({**row, "logo": Markup(logo_svg(matrix, f"Motif {row['motif']}"))})
        view["more_motifs"] = max(len(motifs) - MOTIFS_SHOWN, 0)
    return view


def write_page(
    output: Path,
    template_dir: Path,
    *,
    cohort: str,
    model: str,
    elements: Sequence[ElementFiles],
    calls: Path,
    sites: Path,
    stats: Sequence[Path],
    dependencies: Path | None,
    fdr: float,
    folder: Path,
) -> None:
    """Write the page.

    Args:
        template_dir: folder of regulatory.html.j2 and its style. calls: elements.bed. sites: sites.tsv.
        stats: what each job of the scan reports. folder: of the other results, to be named.
    """
    import pandas as pd

    called = pd.read_csv(calls, sep="\t", header=None, keep_default_na=False, names=range(10)) if _any(calls) else None
    found = pd.read_csv(sites, sep="\t", keep_default_na=False, dtype={"chrom": str}) if _any(sites) else None
    style, style_source = inlined(template_dir / "report.css", template_dir / "regulatory.css")
    scanned = sum(json.loads(path.read_text(encoding="utf-8")).get("bases", 0) for path in stats)
    text = (
        environment(template_dir)
        .get_template("regulatory.html.j2")
        .render(
            cohort=cohort,
            model=model,
            elements=[element_view(own) for own in elements],
            calls=call_rows(called),
            sites=site_rows(found),
            scanned=scanned,
            maps=dependency_maps(pd.read_parquet(dependencies)) if dependencies else [],
            measures=MEASURE_TEXT,
            fdr=fdr,
            files=sorted(path.name for path in folder.glob("*.*") if path.suffix in SHOWN),
            top=TOP,
            style=style,
            policy=policy_of(style_source, "'none'"),
        )
    )
    with written_whole(output) as partial:
        partial.write_text(text, encoding="utf-8", errors="replace")


def _any(path: Path) -> bool:
    return path.stat().st_size > 0


def call_rows(called: pandas.DataFrame | None) -> dict[str, Any]:
    """The number of calls by element, and the most probable ones."""
    if called is None:
        return {"counts": {}, "rows": []}
    frame = called.iloc[:, [0, 1, 2, 3, 9]].set_axis([*ELEMENTS[:5]], axis=1)
    best = frame.sort_values("probability", ascending=False, kind="stable").head(TOP)
    return {"counts": frame["element"].value_counts().to_dict(), "rows": best.to_dict("records")}


def site_rows(found: pandas.DataFrame | None) -> dict[str, Any]:
    """The number of sites by where they come from and by motif, and the surest ones."""
    if found is None or found.empty:
        return {"counts": [], "rows": [], "total": 0}
    missing = set(SITES) - set(found)
    if missing:
        raise AssertionError(f"sites lack {missing}")
    groups = found.groupby(["source", "element", "motif_name"], sort=True).size().sort_values(ascending=False)
    counts = [{"source": s, "element": e, "motif": m, "count": int(n)} for (s, e, m), n in groups.head(TOP).items()]
    best = found.sort_values(["q_value", "score"], ascending=[True, False], kind="stable").head(TOP)
    return {"counts": counts, "rows": best.to_dict("records"), "total": len(found)}
