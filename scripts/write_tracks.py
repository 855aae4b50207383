"""Write the tracks of a scan as bigWigs, the calls of elements as BED, and a session that opens them in IGV."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from seqprior.errors import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scan", type=Path, nargs="+", required=True, help="shards of scan_regions.py, in order")
    parser.add_argument("--fasta", type=Path, required=True, help="prepared reference, for the session")
    parser.add_argument("--contigs", type=Path, required=True, help="contigs.tsv")
    parser.add_argument("--threshold", type=float, required=True, help="probability from which a window is a call")
    parser.add_argument("--also", type=Path, nargs="*", default=[], help="further files that the session opens")
    parser.add_argument("--output", type=Path, required=True, help="folder of the bigWigs, one for each column")
    parser.add_argument("--calls", type=Path, required=True, help="calls of elements, as BED")
    parser.add_argument("--session", type=Path, required=True, help="session for IGV, as XML")
    args = parser.parse_args()

    from seqprior.contigs import read_contigs
    from seqprior.tracks import open_scan, write_bigwigs, write_calls, write_session

    contigs = {contig.name: contig.length for contig in read_contigs(args.contigs)}
    scan = open_scan(args.scan)
    signals = write_bigwigs(scan, contigs, args.output)
    calls = write_calls(scan, args.threshold, contigs, args.calls)
    write_session(scan, args.fasta, [*signals, args.calls, *args.also], args.session)
    logging.info("%d tracks, %d calls", len(signals), calls)


if __name__ == "__main__":
    run_script(main)
