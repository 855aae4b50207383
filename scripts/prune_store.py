"""Keep a score store small: remove parts, the longest unused first, and merge small ones. Runs may go on meanwhile."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from seqprior.errors import run_script

GIGABYTE = 10**9


def amount(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ValueError
    return number


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="Files younger than an hour stay. What is removed is computed again when needed."
    )
    parser.add_argument(
        "--store", type=Path, required=True, help="folder of the score store, scoring.store of the config"
    )
    parser.add_argument("--keep-gb", type=amount, metavar="GB", help="remove parts until this many gigabytes remain")
    parser.add_argument(
        "--older-than-days", type=amount, metavar="DAYS", help="remove parts that were not used for so many days"
    )
    parser.add_argument(
        "--model",
        metavar="DIGEST",
        help="touch one model only (its digest, the start of it, or a folder's name); alone, remove all of its parts",
    )
    parser.add_argument(
        "--compact", action="store_true", help="merge the small parts of each model, duplicates removed"
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing, only print what would be done")
    args = parser.parse_args()
    if args.keep_gb is None and args.older_than_days is None and args.model is None and not args.compact:
        parser.error("nothing to do: give --keep-gb, --older-than-days, --model or --compact")

    from seqprior.store import prune

    folders = prune(
        args.store,
        keep_bytes=None if args.keep_gb is None else round(args.keep_gb * GIGABYTE),
        older_than_days=args.older_than_days,
        model=args.model,
        compact=args.compact,
        dry_run=args.dry_run,
    )
    would = "would be " if args.dry_run else ""
    for folder in folders:
        done = [f"{would}removed {folder.removed} ({folder.removed_bytes / GIGABYTE:.3f} GB)"]
        if args.compact:
            done.append(f"{would}merged {folder.merged} into {folder.merged_into}")
        if folder.leftovers:
            done.append(f"{would}removed unfinished {folder.leftovers}")
        done.append(f"remaining {folder.parts} ({folder.bytes / GIGABYTE:.3f} GB)")
        sys.stdout.write(f"{folder.folder}: parts {', '.join(done)}\n")
    removed, rest = sum(folder.removed_bytes for folder in folders), sum(folder.bytes for folder in folders)
    sys.stdout.write(f"total: {would}removed {removed / GIGABYTE:.3f} GB, remaining {rest / GIGABYTE:.3f} GB\n")


if __name__ == "__main__":
    run_script(main)
