"""Whole files or none, and what damaged ones are told."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from types import SimpleNamespace

import pysam
import pytest

from seqprior.errors import BadInput
from seqprior.files import is_gzip, open_text, require_bgzf_end, require_file, sha256, written_whole

TEXT = "".join(f"line {number} of a file that is longer than one block of bgzip\n" for number in range(5000))


def bgzip(path, text):
    with pysam.BGZFile(str(path), "wb") as handle:
        handle.write(text.encode())
    return path


def block_ends(data):
    """Offsets at which the blocks of a BGZF file end."""
    ends, start = [], 0
    while start < len(data):
        start += int.from_bytes(data[start + 16 : start + 18], "little") + 1
        ends.append(start)
    return ends


def test_a_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "table.tsv"
    with written_whole(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
        assert partial.parent == path.parent  # so that the renaming is atomic
        assert partial.suffix == ".tsv"
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_block_leaves_the_old_file_and_no_part_of_the_new_one(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("old")
    with pytest.raises(RuntimeError), written_whole(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(TEXT.encode())
    assert sha256(path) == hashlib.sha256(TEXT.encode()).hexdigest()


def test_a_missing_or_empty_file_is_named_with_its_role(tmp_path):
    path = tmp_path / "no such.vcf"
    with pytest.raises(BadInput) as error:
        require_file(path, "VCF")
    assert str(error.value) == f"{path}: no such file; expected a VCF; check the path in the config"
    path.touch()
    with pytest.raises(BadInput) as error:
        require_file(path, "VCF")
    assert str(error.value) == f"{path}: the file is empty; expected a VCF; check that it was copied completely"
    with pytest.raises(BadInput, match="no such file"):
        require_file(tmp_path, "VCF")


@pytest.mark.parametrize("kind", ["plain", "gzip", "bgzip"])
def test_text_is_read_whatever_the_compression_and_the_name(tmp_path, kind):
    path = tmp_path / "a name with spaces.txt"
    write = {"plain": path.write_bytes, "gzip": lambda data: path.write_bytes(gzip.compress(data))}
    bgzip(path, TEXT) if kind == "bgzip" else write[kind](TEXT.encode())
    assert is_gzip(path) == (kind != "plain")
    with open_text(path) as lines:
        assert "".join(lines) == TEXT


def test_bytes_that_are_not_utf8_can_still_be_written_as_utf8(tmp_path):
    path = tmp_path / "latin1.txt"
    path.write_bytes(b"caf\xe9\n")
    with open_text(path) as lines:
        assert next(lines).encode() == "caf\ufffd\n".encode()


def test_a_gzip_that_ends_early_is_bad_input(tmp_path):
    path = tmp_path / "cut.gz"
    data = gzip.compress(TEXT.encode())
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(BadInput) as error, open_text(path) as lines:
        list(lines)
    assert str(error.value) == (
        f"{path}: the gzip data end early or are damaged (Compressed file ended before the end-of-stream marker was "
        "reached); copy the file again"
    )


@pytest.mark.parametrize("where", [0.3, 0.6, 0.999])
def test_a_gzip_with_a_changed_byte_is_bad_input(tmp_path, where):
    path = tmp_path / "damaged.gz"
    data = bytearray(gzip.compress(TEXT.encode()))
    data[int(len(data) * where)] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(BadInput, match="the gzip data end early or are damaged"), open_text(path) as lines:
        list(lines)


def test_bgzip_cut_inside_or_between_blocks_lacks_its_end_marker(tmp_path):
    path = bgzip(tmp_path / "cut.gz", TEXT)
    require_bgzf_end(path)
    data = path.read_bytes()
    ends = block_ends(data)
    assert len(ends) >= 3
    for length in (ends[0], ends[-2], ends[0] + 100, len(data) - 1, 20):
        path.write_bytes(data[:length])
        with pytest.raises(BadInput) as error:
            require_bgzf_end(path)
        assert str(error.value) == (
            f"{path}: the end marker of block-gzip is missing, so the file was cut; copy it again"
        )


def test_plain_gzip_needs_no_end_marker(tmp_path):
    path = tmp_path / "plain.gz"
    path.write_bytes(gzip.compress(b"text"))
    require_bgzf_end(path)


def write_half(path):
    with written_whole(path) as partial:
        partial.write_text("half")
        raise OSError("Error closing BGZFile object")


def test_a_full_disk_is_named_and_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0))
    with pytest.raises(BadInput, match="no space left on the device; free some and run again"):
        write_half(tmp_path / "table.tsv")
    assert list(tmp_path.iterdir()) == []
