"""The reference genome as a bgzipped FASTA with its indices, from whatever the user has."""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
import shutil
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

from seqprior import files
from seqprior.contigs import CONTIG_NAME
from seqprior.errors import BadInput

log = logging.getLogger(__name__)

BLOCK = 1 << 20
TIMEOUT_SECONDS = 60
HEADER = re.compile(rb"^>(\S*)[^\n]*\n", re.MULTILINE)


def prepare_fasta(source: str, sha256: str | None, output: Path) -> None:
    """Write `source` as bgzipped FASTA at `output`, with `output`.fai and `output`.gzi beside it.

    The three appear only when complete, the FASTA last. Memory does not grow with the genome.

    Args:
        source: a path, or an http, https or file URL; plain, gzip or bgzip FASTA.
        sha256: hexadecimal digest of the source's bytes; required for a URL, optional for a path.
        output: ends in .fa.gz.

    Raises:
        BadInput: the source is missing, empty, damaged, not what the digest says, or not a FASTA with at least one
            contig, each named once and with a sequence.
    """
    import pysam

    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=output.parent, prefix=".partial-fasta-") as folder,
        files.full_disk_named(output.parent),
    ):
        path, name = _fetch(source, sha256, Path(folder)), str(source)
        bgzipped = Path(folder) / "reference.fa.gz"
        if _is_clean_bgzip(path, name):
            shutil.copyfile(path, bgzipped)
        else:
            with _content(path, name) as blocks, pysam.BGZFile(str(bgzipped), "wb") as compressed:
                for lines in _checked(blocks, name):
                    compressed.write(lines)
        try:
            pysam.faidx(str(bgzipped))
        except pysam.SamtoolsError as error:
            raise BadInput(
                f"{name}: the FASTA cannot be indexed; expected lines of equal length within each contig, without "
                "blank lines between; rewrite it with lines of one length"
            ) from error
        for suffix in (".fai", ".gzi", ""):
            Path(f"{bgzipped}{suffix}").replace(f"{output}{suffix}")


def _fetch(source: str, sha256: str | None, folder: Path) -> Path:
    """The source as a local file whose digest has been verified."""
    if urlsplit(source).scheme not in ("http", "https", "file"):
        path = Path(source)
        files.require_file(path, "FASTA")
        if sha256:
            _verify(source, files.sha256(path), sha256)
        return path
    if not sha256:
        raise BadInput(f"{source}: found a URL without a checksum, expected 64 hexadecimal digits; set its sha256")
    path, digest = folder / "download", hashlib.sha256()
    log.info("downloading %s", source)
    try:
        with urllib.request.urlopen(source, timeout=TIMEOUT_SECONDS) as remote, path.open("wb") as local:
            while block := remote.read(BLOCK):
                digest.update(block)
                local.write(block)
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise BadInput(f"{source}: the download failed ({reason}); check the address and the network") from error
    _verify(source, digest.hexdigest(), sha256)
    return path


def _verify(source: str, found: str, expected: str) -> None:
    if found != expected.strip().lower():
        raise BadInput(
            f"{source}: the SHA-256 is {found}, expected {expected.strip().lower()}; "
            "fetch the file again or correct the checksum in the config"
        )


def _is_clean_bgzip(path: Path, name: str) -> bool:
    """True if the file is a complete bgzip of a good FASTA with Unix line ends, so that its bytes may be copied."""
    with path.open("rb") as handle:
        head = handle.read(16)
        if head[:4] != b"\x1f\x8b\x08\x04" or head[12:16] != b"BC\x02\x00":
            return False
        handle.seek(-min(len(files.BGZF_END), path.stat().st_size), 2)
        if handle.read() != files.BGZF_END:
            raise BadInput(f"{name}: the bgzip data have no end marker; the file was cut short; copy the file again")
    with _content(path, name) as blocks:
        carriage_return = False

        def noted() -> Iterator[bytes]:
            nonlocal carriage_return
            for block in blocks:
                carriage_return |= b"\r" in block
                yield block

        for _ in _checked(noted(), name):
            pass
    return not carriage_return


@contextmanager
def _content(path: Path, name: str) -> Iterator[Iterator[bytes]]:
    """Decompressed blocks of a plain or gzip file."""
    opener = gzip.open if files.is_gzip(path) else open
    try:
        with opener(path, "rb") as handle:
            yield iter(lambda: handle.read(BLOCK), b"")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInput(f"{name}: the gzip data end early or are damaged ({error}); copy the file again") from error


def _whole_headers(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes without carriage returns, cut anywhere but in a header, since a sequence may be one long line."""
    rest = b""
    for block in blocks:
        block = rest + block.replace(b"\r", b"")
        cut = block.rfind(b"\n") + 1
        cut = cut if block[cut : cut + 1] == b">" else len(block)
        rest = block[cut:]
        if cut:
            yield block[:cut]
    if rest:
        yield rest + b"\n"


def _checked(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Pass on a FASTA in pieces that hold whole headers; raise `BadInput` where it is none."""
    seen: dict[str, int] = {}
    contig, empty, number = "", False, 1

    def require_sequence() -> None:
        if empty:
            raise BadInput(
                f"{name}, line {seen[contig]}: contig '{contig}' has no sequence; expected bases after its header; "
                "remove the header or add the sequence"
            )

    for lines in _whole_headers(blocks):
        if not seen and lines[:1] != b">":
            found = lines[:30].split(b"\n")[0].decode("ascii", "backslashreplace")
            raise BadInput(
                f"{name}, line 1: found '{found}', expected a FASTA header that starts with '>'; "
                "check that the file is a FASTA"
            )
        start = 0
        for header in chain(HEADER.finditer(lines), (None,)):
            end = header.start() if header else len(lines)
            empty = empty and not lines[start:end].strip()
            number += lines.count(b"\n", start, end)
            if header is None:
                break
            require_sequence()
            contig = header[1].decode("utf-8", "backslashreplace")
            if not contig:
                raise BadInput(
                    f"{name}, line {number}: found a header without a name, expected '>name'; name the contig"
                )
            if not CONTIG_NAME.match(contig):
                raise BadInput(
                    f"{name}, line {number}: contig '{contig}' has a name that VCF does not allow, expected letters, "
                    "digits and a few signs, no comma, quote, bracket or blank; rename the contig"
                )
            if contig in seen:
                raise BadInput(
                    f"{name}, line {number}: contig '{contig}' is already on line {seen[contig]}, expected each name "
                    "once; remove or rename one of them"
                )
            seen[contig], empty = number, True
            number, start = number + 1, header.end()
        yield lines
    if not seen:
        raise BadInput(f"{name}: the file is empty; expected a FASTA; check that it was copied completely")
    require_sequence()
