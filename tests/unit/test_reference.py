import gzip
import hashlib
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pysam
import pytest

from seqprior import reference
from seqprior.errors import BadInput
from seqprior.reference import prepare_fasta

TEXT = b">one first\nACGTACGTAC\nGGnnNN\n>two\nTTTTTTTTTT\nA\n"
SEQUENCES = {"one": "ACGTACGTACGGnnNN", "two": "TTTTTTTTTTA"}


def sequences(path):
    with pysam.FastaFile(str(path)) as fasta:
        return {name: fasta.fetch(name) for name in fasta.references}


def bgzip(path, text):
    with pysam.BGZFile(str(path), "wb") as handle:
        handle.write(text)


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out" / "reference.fa.gz"


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def failure(source, output, sha256=None):
    """The message of the error, after checking that nothing was left behind."""
    with pytest.raises(BadInput) as error:
        prepare_fasta(str(source), sha256, output)
    assert list(output.parent.glob("*")) + list(output.parent.glob(".*")) == []
    return str(error.value)


@pytest.mark.parametrize("text", [TEXT, TEXT.replace(b"\n", b"\r\n"), TEXT[:-1], TEXT + b"\n"])
@pytest.mark.parametrize("write", [lambda p, t: p.write_bytes(t), lambda p, t: p.write_bytes(gzip.compress(t)), bgzip])
def test_any_compression_and_line_end_gives_the_same_sequences(tmp_path, output, write, text):
    source = tmp_path / "in.anything"
    write(source, text)
    prepare_fasta(str(source), None, output)
    assert sequences(output) == SEQUENCES
    assert sorted(p.name for p in output.parent.iterdir()) == [
        "reference.fa.gz",
        "reference.fa.gz.fai",
        "reference.fa.gz.gzi",
    ]
    assert b"\r" not in gzip.decompress(output.read_bytes())
    assert output.read_bytes()[12:16] == b"BC\x02\x00"  # the mark of bgzip


@pytest.mark.parametrize("block", [1, 2, 3, 7, 11, 16, 1000])
@pytest.mark.parametrize("wrapped", [True, False])
def test_result_does_not_depend_on_where_reads_end(tmp_path, output, monkeypatch, block, wrapped):
    monkeypatch.setattr(reference, "BLOCK", block)
    source = tmp_path / "in.fa"
    text = "".join(f">{n} a>b\r\n{s}\r\n" for n, s in SEQUENCES.items()).encode()
    source.write_bytes(TEXT if wrapped else text)
    prepare_fasta(str(source), None, output)
    assert sequences(output) == SEQUENCES


def test_complete_bgzip_is_copied_byte_for_byte(tmp_path, output):
    source = tmp_path / "in.fa.gz"
    bgzip(source, TEXT)
    prepare_fasta(str(source), None, output)
    assert output.read_bytes() == source.read_bytes()


def test_nothing_is_written_beside_a_read_only_source(tmp_path, output):
    folder = tmp_path / "read-only"
    folder.mkdir()
    bgzip(folder / "in.fa.gz", TEXT)
    (folder / "in.fa.gz").chmod(0o444)
    folder.chmod(0o555)
    try:
        prepare_fasta(str(folder / "in.fa.gz"), None, output)
        assert [p.name for p in folder.iterdir()] == ["in.fa.gz"]
    finally:
        folder.chmod(0o755)
    assert sequences(output) == SEQUENCES


def test_many_blocks_are_indexed_right(tmp_path, output):
    source = tmp_path / "in.fa"
    bases = "".join("ACGT"[(i * i + i // 7) % 4] for i in range(200_000))
    lines = "\n".join(bases[i : i + 60] for i in range(0, len(bases), 60))
    source.write_text(f">a\n{lines}\n>b\n{lines}\n")
    prepare_fasta(str(source), None, output)
    with pysam.FastaFile(str(output)) as fasta:
        assert fasta.fetch("b", 131_000, 131_500) == bases[131_000:131_500]


def test_earlier_result_is_replaced(tmp_path, output):
    source = tmp_path / "in.fa"
    for text in (b">a\nAC\n", TEXT):
        source.write_bytes(text)
        prepare_fasta(str(source), None, output)
    assert sequences(output) == SEQUENCES


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_url_with_the_right_checksum(server, output, scheme):
    folder, address = server
    (folder / "in.fa.gz").write_bytes(gzip.compress(TEXT))
    url = f"{address}/in.fa.gz" if scheme == "http" else (folder / "in.fa.gz").as_uri()
    prepare_fasta(url, hashlib.sha256((folder / "in.fa.gz").read_bytes()).hexdigest().upper(), output)
    assert sequences(output) == SEQUENCES


def test_url_with_another_checksum(server, output):
    folder, address = server
    (folder / "in.fa").write_bytes(TEXT)
    found = hashlib.sha256(TEXT).hexdigest()
    assert failure(f"{address}/in.fa", output, "0" * 64) == (
        f"{address}/in.fa: the SHA-256 is {found}, expected {'0' * 64}; "
        "fetch the file again or correct the checksum in the config"
    )


def test_url_that_is_not_there(server, output):
    assert failure(f"{server[1]}/none.fa", output, "0" * 64) == (
        f"{server[1]}/none.fa: the download failed (File not found); check the address and the network"
    )


def test_url_without_checksum(output):
    output.parent.mkdir()
    assert failure("https://localhost/x.fa", output) == (
        "https://localhost/x.fa: found a URL without a checksum, expected 64 hexadecimal digits; set its sha256"
    )


def test_path_with_another_checksum(tmp_path, output):
    source = tmp_path / "in.fa"
    source.write_bytes(TEXT)
    assert failure(source, output, "f" * 64) == (
        f"{source}: the SHA-256 is {hashlib.sha256(TEXT).hexdigest()}, expected {'f' * 64}; "
        "fetch the file again or correct the checksum in the config"
    )


EMPTY = "the file is empty; expected a FASTA; check that it was copied completely"
CUT = "the gzip data end early or are damaged (Compressed file ended before the end-of-stream marker was reached)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": " + EMPTY),
        (gzip.compress(b""), ": " + EMPTY),
        (
            b"##fileformat=VCFv4.2\n#CHROM\n",
            ", line 1: found '##fileformat=VCFv4.2', expected a FASTA header that starts with '>'; "
            "check that the file is a FASTA",
        ),
        (gzip.compress(TEXT * 9)[:-9], f": {CUT}; copy the file again"),
        (
            b">a\nAC\n>b\nAC\nAC\n>a\nAC\n",
            ", line 6: contig 'a' is already on line 1, expected each name once; remove or rename one of them",
        ),
        (
            b">a\nAC\n>b\n\n>c\nAC\n",
            ", line 3: contig 'b' has no sequence; expected bases after its header; "
            "remove the header or add the sequence",
        ),
        (
            b">a\nAC\n>b",
            ", line 3: contig 'b' has no sequence; expected bases after its header; "
            "remove the header or add the sequence",
        ),
        (b">a\nAC\n> b\nAC\n", ", line 3: found a header without a name, expected '>name'; name the contig"),
        (
            b">a\nAC\n>b,c\nAC\n",
            ", line 3: contig 'b,c' has a name that VCF does not allow, expected letters, digits and a few signs, "
            "no comma, quote, bracket or blank; rename the contig",
        ),
        (
            b">a\nACGT\nAC\nACGT\n",
            ": the FASTA cannot be indexed; expected lines of equal length within each contig, without blank lines "
            "between; rewrite it with lines of one length",
        ),
    ],
)
def test_bad_content(tmp_path, output, content, message):
    source = tmp_path / "in.fa"
    source.write_bytes(content)
    assert failure(source, output) == f"{source}{message}"


def test_bgzip_cut_between_blocks(tmp_path, output):
    source = tmp_path / "in.fa.gz"
    bgzip(source, TEXT)
    source.write_bytes(source.read_bytes()[:-28])
    assert failure(source, output) == (
        f"{source}: the bgzip data have no end marker; the file was cut short; copy the file again"
    )


def test_missing_file(tmp_path, output):
    assert failure(tmp_path / "none.fa", output) == (
        f"{tmp_path}/none.fa: no such file; expected a FASTA; check the path in the config"
    )


def test_real_genomes(shared_data, output):
    prepare_fasta(str(shared_data / "yeast" / "sacCer3.fa.gz"), None, output)
    with pysam.FastaFile(str(output)) as fasta:
        assert sum(fasta.lengths) == 12_157_105
        with gzip.open(shared_data / "yeast" / "sacCer3.fa.gz", "rt") as original:
            chr1 = original.read().split(">")[1].split("\n", 1)[1].replace("\n", "")
        assert fasta.fetch("chrI") == chr1
    prepare_fasta(str(shared_data / "human" / "GRCh37_chr20.fa.gz"), None, output)
    with pysam.FastaFile(str(output)) as fasta:
        assert dict(zip(fasta.references, fasta.lengths, strict=True)) == {"20": 63_025_520}
