"""Tokenisers against slices of the sequence, and vocabularies that do not hold what a model of DNA needs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
from random_models import BERT_SPECIAL, BERT_TOKENS, LLAMA_TOKENS, NT_SPECIAL, NT_TOKENS, facts_of, random_text

from seqprior.errors import BadInput
from seqprior.sequence import encode
from seqprior.tokenisation import BytePair, Kmer, kmer_numbers, kmers, load_tokeniser, read_vocabulary

KIND_OF = {"single-base": "bert-base", "overlapping-kmer": "dnabert-3", "kmer": "nt-v1", "bpe": "modernbert"}
ORDER = "ATCG"  # in which DNABERT and Nucleotide Transformer list their k-mers


def published_kmers(k: int) -> list[str]:
    return ["".join(letters) for letters in itertools.product(ORDER, repeat=k)]


def numbered(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


BASES = [*BERT_SPECIAL, "A", "C", "G", "T", "N"]
DNABERT = [*BERT_SPECIAL, *published_kmers(3)]
TRANSFORMER = [*NT_SPECIAL, *published_kmers(3), *"ATCGN"]


def facts(tokenisation: str, vocabulary: dict[str, int], k: int = 1, folder: Path = Path(), **changes):
    tokens = NT_TOKENS if "<cls>" in vocabulary else BERT_TOKENS
    entry = facts_of(KIND_OF[tokenisation], folder, 60)
    return dataclasses.replace(entry, id="m", vocabulary=vocabulary, **{"k": k, "tokens": tokens, **changes})


def sequences(count: int, longest: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("ACGTN", [8, 8, 8, 8, 1], k=rng.randint(1, longest))) for _ in range(count)]


def naive(tokenisation: str, k: int, text: str, has) -> list[tuple[str, int, int]]:
    """(token, first, last) by string slices; a token that the vocabulary lacks is left as it is."""
    if tokenisation == "single-base":
        return [(base, at, at + 1) for at, base in enumerate(text)]
    if tokenisation == "overlapping-kmer":
        return [(text[at : at + k], at, at + k) for at in range(len(text) - k + 1)]
    found = []
    for at in range(0, len(text), k):
        piece = text[at : at + k]
        if len(piece) == k and has(piece):
            found.append((piece, at, at + k))
        else:
            found += [(base, at + place, at + place + 1) for place, base in enumerate(piece)]
    return found


CASES = [
    ("single-base", 1, BASES, "[UNK]"),
    ("overlapping-kmer", 3, DNABERT, "[UNK]"),
    ("kmer", 3, TRANSFORMER, "<unk>"),
    ("kmer", 3, [token for token in TRANSFORMER if token not in set("ATCGN")], "<unk>"),
]


@pytest.mark.parametrize(("tokenisation", "k", "tokens", "unknown"), CASES)
def test_tokens_are_the_slices_of_the_sequence(tokenisation, k, tokens, unknown):
    number = numbered(tokens)
    tokeniser = load_tokeniser(facts(tokenisation, number, k))
    dna = {token for token in tokens if set(token) <= set("ACGT")}
    for text in [*sequences(60, 40), "A", "N", "ACGTAC" * 3, "NNNNNN"]:
        found = tokeniser.tokens(text)
        expected = naive(tokenisation, k, text, number.__contains__)
        end = 1 if tokeniser.end is not None else 0
        inner = slice(1, len(found) - end)
        assert found.ids[inner].tolist() == [number.get(token, number[unknown]) for token, _, _ in expected]
        spans = list(zip(found.first[inner].tolist(), found.last[inner].tolist(), strict=True))
        assert spans == [(first, last) for _, first, last in expected]
        assert found.known[inner].tolist() == [token in dna for token, _, _ in expected]
        ends = [0] if not end else [0, len(found) - 1]
        assert [(found.first[at], found.last[at], bool(found.known[at])) for at in ends] == [(0, 0, False)] * (1 + end)
        assert found.ids.dtype == np.int32
        assert len(found) == len(found.ids) == len(found.first) == len(found.last) == len(found.known)


@pytest.mark.parametrize(("tokenisation", "k", "tokens", "unknown"), CASES)
def test_outcomes_are_the_tokens_of_bases_with_the_chance_of_random_dna(tokenisation, k, tokens, unknown):
    tokeniser = load_tokeniser(facts(tokenisation, numbered(tokens), k))
    wanted = [token for token in tokens if set(token) <= set("ACGT")]
    assert sorted(tokeniser.outcomes) == sorted(tokens.index(token) for token in wanted)
    for outcome, token in enumerate(tokeniser.outcomes):
        assert tokeniser.index_of[token] == outcome
        assert tokeniser.chance[outcome] == pytest.approx(-len(tokens[token]) * math.log(4))
    others = sorted(set(range(tokeniser.size)) - set(tokeniser.outcomes.tolist()))
    assert (tokeniser.index_of[others] == -1).all()
    assert len(tokeniser.index_of) == tokeniser.size == len(tokens)


@pytest.mark.parametrize(("tokenisation", "k", "tokens", "unknown"), CASES)
def test_outcomes_compete_with_those_of_their_own_length_alone(tokenisation, k, tokens, unknown):
    """Within each group the chances of random DNA add up to one."""
    tokeniser = load_tokeniser(facts(tokenisation, numbered(tokens), k))
    assert sum(tokeniser.groups) == len(tokeniser.outcomes)
    edges = [0, *itertools.accumulate(tokeniser.groups)]
    lengths = [{len(tokens[token]) for token in tokeniser.outcomes[a:b]} for a, b in itertools.pairwise(edges)]
    assert [length for length in lengths if length] == [{k}, {1}][
        : 2 if tokenisation == "kmer" and "A" in tokens else 1
    ]
    for first, last in itertools.pairwise(edges):
        assert last == first or np.exp(tokeniser.chance[first:last]).sum() == pytest.approx(1)


@pytest.mark.parametrize(("tokenisation", "k", "tokens"), [case[:3] for case in CASES if case[1] > 1])
def test_the_outcome_of_a_kmer_is_its_base_4_number_whatever_the_order_of_the_vocabulary(tokenisation, k, tokens):
    tokeniser = load_tokeniser(facts(tokenisation, numbered(tokens), k))
    for number, letters in enumerate(itertools.product("ACGT", repeat=k)):
        assert tokens[tokeniser.outcomes[number]] == "".join(letters) == kmers(k)[number]


@pytest.mark.parametrize(
    ("roles", "before", "after"),
    [
        ({}, [], []),
        ({"start": "[CLS]"}, ["[CLS]"], []),
        ({"end": "[SEP]"}, [], ["[SEP]"]),
        ({"start": "[CLS]", "end": "[SEP]"}, ["[CLS]"], ["[SEP]"]),
    ],
)
def test_start_and_end_tokens_are_those_of_the_entry(roles, before, after):
    number = numbered(BASES)
    tokens = {"mask": "[MASK]", "unknown": "[UNK]", **roles}
    tokeniser = load_tokeniser(facts("single-base", number, tokens=tokens))
    middle = [number[base] for base in "ACGTN"]
    ends = [[number[token] for token in part] for part in (before, after)]
    assert tokeniser.tokens("ACGTN").ids.tolist() == [*ends[0], *middle, *ends[1]]
    assert tokeniser.tokens("ACGTN", end=False).ids.tolist() == [*ends[0], *middle]
    assert tokeniser.lead == len(before)
    assert (tokeniser.mask, tokeniser.unknown, tokeniser.pad) == (number["[MASK]"], number["[UNK]"], None)


def test_one_unknown_base_leaves_all_later_kmers_in_frame():
    tokeniser = load_tokeniser(facts("kmer", numbered(TRANSFORMER), 3))
    text = "ACGTTGCATGCAAGT"
    whole, broken = (tokeniser.tokens(sequence) for sequence in (text, text[:4] + "N" + text[5:]))
    assert len(broken) == len(whole) + 2
    np.testing.assert_array_equal(broken.ids[-3:], whole.ids[-3:])
    np.testing.assert_array_equal(broken.first[-3:], whole.first[-3:])


def test_a_base_without_any_token_of_its_own_is_n_then_unknown_then_mask():
    plain = numbered([*BERT_SPECIAL, *"ACGT"])
    for vocabulary, roles, wanted in (
        (numbered(BASES), {"mask": "[MASK]", "unknown": "[UNK]"}, "N"),
        (plain, {"mask": "[MASK]", "unknown": "[UNK]"}, "[UNK]"),
        (plain, {"mask": "[MASK]"}, "[MASK]"),
    ):
        found = load_tokeniser(facts("single-base", vocabulary, tokens=roles)).cut("ANA")
        assert found[0].tolist() == [vocabulary["A"], vocabulary[wanted], vocabulary["A"]]
        assert found[3].tolist() == [True, False, True]


@pytest.mark.parametrize(("tokenisation", "k", "tokens"), [case[:3] for case in CASES[:3]])
def test_soft_masked_bases_read_as_bases(tokenisation, k, tokens):
    tokeniser = load_tokeniser(facts(tokenisation, numbered(tokens), k))
    for text in sequences(10, 30, seed=5):
        np.testing.assert_array_equal(tokeniser.tokens(text.lower()).ids, tokeniser.tokens(text).ids)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("step", [1, 2, 4])
def test_kmer_numbers_equal_a_loop(k, step):
    for text in (text for text in sequences(30, 25, seed=k) if len(text) >= k):
        expected = []
        for at in range(0, len(text) - k + 1, step):
            number = 0
            for base in text[at : at + k]:
                number = -1 if number < 0 or base == "N" else 4 * number + "ACGT".index(base)
            expected.append(number)
        assert kmer_numbers(encode(text), k, step).tolist() == expected


# --- byte pairs ---


@pytest.fixture(scope="module")
def pairs_folder(tmp_path_factory) -> Path:
    """A tokenizer.json as published ones are: it adds special tokens, pads and truncates unless told not to."""
    from tokenizers import Tokenizer, models, processors, trainers

    folder = tmp_path_factory.mktemp("pairs")
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    trainer = trainers.BpeTrainer(
        vocab_size=80, special_tokens=BERT_SPECIAL, initial_alphabet=list("ACGT"), show_progress=False
    )
    tokenizer.train_from_iterator(random_text(50, 200), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16, pad_token="[PAD]")
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def pairs(pairs_folder) -> BytePair:
    tokeniser = load_tokeniser(facts("bpe", {}, folder=pairs_folder))
    assert isinstance(tokeniser, BytePair)
    return tokeniser


def merged(text: str, merges: list[tuple[str, str]]) -> list[str]:
    """Byte pairs by definition: the earliest learned merge that occurs, at its leftmost place, until none does."""
    pieces, rank = list(text), {tuple(pair): number for number, pair in enumerate(merges)}
    while True:
        found = [(rank[pair], at) for at, pair in enumerate(itertools.pairwise(pieces)) if pair in rank]
        if not found:
            return pieces
        at = min(found)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


def test_byte_pairs_are_merged_by_rank_and_cover_the_sequence_end_to_end(pairs, pairs_folder):
    content = json.loads((pairs_folder / "tokenizer.json").read_text())["model"]
    merges = [tuple(pair.split()) if isinstance(pair, str) else tuple(pair) for pair in content["merges"]]
    for text in (text.replace("N", "") + "A" for text in sequences(60, 90, seed=2)):
        expected = merged(text, merges)
        found = pairs.tokens(text)
        assert found.ids.tolist() == [2, *(content["vocab"][piece] for piece in expected), 3]
        ends = list(itertools.accumulate(map(len, expected)))
        assert found.last[1:-1].tolist() == ends
        assert found.first[1:-1].tolist() == [0, *ends[:-1]]
        assert found.known.tolist() == [False, *[True] * len(expected), False]
    assert max(map(len, merged("ACGT" * 20, merges))) > 1


def test_an_unknown_base_is_one_unknown_piece_at_its_place(pairs):
    found = pairs.tokens("ACGTNACGT")
    (at,) = np.flatnonzero(found.ids == 1)
    assert (found.first[at], found.last[at], bool(found.known[at])) == (4, 5, False)
    assert found.known.sum() == len(found) - 3


def test_the_outcomes_of_byte_pairs_are_all_pieces_of_bases(pairs, pairs_folder):
    vocabulary = json.loads((pairs_folder / "tokenizer.json").read_text())["model"]["vocab"]
    wanted = {piece: number for piece, number in vocabulary.items() if set(piece) <= set("ACGT")}
    assert pairs.pieces == wanted
    assert pairs.outcomes.tolist() == sorted(wanted.values())
    for piece, number in wanted.items():
        assert pairs.chance[pairs.index_of[number]] == pytest.approx(-len(piece) * math.log(4))
    assert (pairs.index_of[:5] == -1).all()


# --- vocabularies of files ---


def written(folder: Path, name: str, content: str, tokenisation: str = "single-base", **changes):
    (folder / name).write_text(content)
    return facts(tokenisation, {}, folder=folder, **changes)


def test_a_vocabulary_comes_from_the_entry_or_from_any_of_three_files(tmp_path):
    number = numbered(BASES)
    assert read_vocabulary(facts("single-base", number)) == number
    assert read_vocabulary(written(tmp_path, "vocab.txt", "\n".join(BASES) + "\n")) == number
    shifted = {token: n + 1 for token, n in number.items()}
    assert read_vocabulary(written(tmp_path, "vocab.json", json.dumps(shifted))) == shifted
    model = {"model": {"vocab": number}, "added_tokens": [{"content": "<x>", "id": 99}]}
    assert read_vocabulary(written(tmp_path, "tokenizer.json", json.dumps(model))) == {**number, "<x>": 99}
    listed = {"model": {"vocab": [[token, -0.5] for token in BASES]}}
    assert read_vocabulary(written(tmp_path, "tokenizer.json", json.dumps(listed))) == number


def test_the_published_vocabulary_of_nucleotide_transformer_is_read_as_it_stands(tmp_path):
    """vocab.txt of nucleotide-transformer-500m-human-ref: <unk> 0, <pad> 1, <mask> 2, <cls> 3, AAAAAA 4 ... N 4104."""
    lines = ["<unk>", "<pad>", "<mask>", "<cls>", *published_kmers(6), "A", "T", "C", "G", "N", "<eos>", "<bos>"]
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    tokeniser = load_tokeniser(dataclasses.replace(facts("kmer", {}, 6, tmp_path), tokens=NT_TOKENS))
    assert isinstance(tokeniser, Kmer)
    assert (tokeniser.size, tokeniser.mask, tokeniser.pad, tokeniser.start, tokeniser.end) == (4107, 2, 1, 3, None)
    assert tokeniser.tokens("AAAAAAATTTTTGGN").ids.tolist() == [3, 4, 4 + int("011111", 4), 4103, 4103, 4104]
    assert len(tokeniser.outcomes) == 4100


def test_the_published_vocabulary_of_dnabert_is_read_as_it_stands(tmp_path):
    """vocab.txt of DNA_bert_6: [PAD], [UNK], [CLS], [SEP], [MASK], then AAAAAA 5, AAAAAT 6, AAAAAC 7, AAAAAG 8 ..."""
    (tmp_path / "vocab.txt").write_text("\n".join([*BERT_SPECIAL, *published_kmers(6)]) + "\n")
    tokeniser = load_tokeniser(facts("overlapping-kmer", {}, 6, tmp_path))
    assert tokeniser.size == 4101
    assert tokeniser.tokens("AAAAAAT").ids.tolist() == [2, 5, 6, 3]
    assert tokeniser.tokens("CAAAAAG").ids.tolist() == [2, 5 + 2 * 4**5, 8, 3]


def refused(entry, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_tokeniser(entry)
    assert str(caught.value) == sentence


def test_no_vocabulary_at_all_is_refused(tmp_path):
    refused(
        facts("single-base", {}, folder=tmp_path),
        f"{tmp_path}: found no vocabulary of m; expected tokenizer.json, vocab.json or vocab.txt, or vocabulary in the "
        "model registry; restore the files",
    )


def test_an_empty_vocabulary_is_refused(tmp_path):
    refused(written(tmp_path, "vocab.txt", ""), f"{tmp_path}: the vocabulary of m is empty; restore the files")


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json"])
@pytest.mark.parametrize("content", ["{", "[]", "null", '{"model": {}}', '{"model": {"vocab": 3}}', '{"A": "one"}'])
def test_a_damaged_vocabulary_is_refused_by_file_name(tmp_path, name, content):
    with pytest.raises(BadInput, match=f"^{re.escape(str(tmp_path / name))}: no vocabulary of m .*; restore the file$"):
        load_tokeniser(written(tmp_path, name, content))


def test_a_vocabulary_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"A\n\xff\xfe\n")
    with pytest.raises(BadInput, match=r"vocab\.txt: no vocabulary of m"):
        load_tokeniser(facts("single-base", {}, folder=tmp_path))


@pytest.mark.parametrize("role", ["start", "end", "mask", "pad", "unknown"])
def test_a_special_token_that_the_vocabulary_lacks_is_refused_by_role(role):
    refused(
        facts("single-base", numbered(BASES), tokens={**BERT_TOKENS, role: "<gone>"}),
        f".: the vocabulary of m has no {role} token '<gone>'; correct tokens in the model registry or restore "
        "the files",
    )


def changed(tokens: list[str], changes: dict[str, int | None]) -> dict[str, int]:
    return {token: number for token, number in {**numbered(tokens), **changes}.items() if number is not None}


@pytest.mark.parametrize(
    ("tokenisation", "k", "tokens", "changes", "named"),
    [
        ("single-base", 1, BASES, {"A": 6}, "some tokens"),  # the number of C
        ("single-base", 1, BASES, {"G": None}, "G"),
        ("single-base", 1, BASES, {"T": 1}, "T"),  # the unknown token's number
        ("single-base", 1, BASES, {"T": 4}, "T"),  # the mask token's
        ("single-base", 1, BASES, {"T": 0}, "T"),  # the padding's
        ("overlapping-kmer", 3, DNABERT, {"ACG": None, "TTT": None}, "ACG, TTT"),
        ("overlapping-kmer", 3, DNABERT, {"ACG": 5}, "some tokens"),
        ("overlapping-kmer", 3, DNABERT, {"ACG": 1}, "ACG"),
        ("kmer", 3, TRANSFORMER, {"ACG": None}, "ACG"),
        ("kmer", 3, TRANSFORMER, dict.fromkeys(("AAA", "AAC", "CCC", "GGG", "TTT")), "AAA, AAC, CCC"),
        ("kmer", 3, TRANSFORMER, {"ACG": 0}, "ACG"),
    ],
)
def test_bases_and_kmers_without_a_number_of_their_own_are_refused(tokenisation, k, tokens, changes, named):
    refused(
        facts(tokenisation, changed(tokens, changes), k),
        f".: the vocabulary of m has no number of its own for {named}; expected {4**k} tokens of A, C, G and T; "
        "check tokenisation and k in the model registry",
    )


def test_a_registry_with_another_k_than_the_vocabulary_is_refused():
    with pytest.raises(BadInput, match="expected 4096 tokens of A, C, G and T; check tokenisation and k"):
        load_tokeniser(facts("overlapping-kmer", numbered(DNABERT), 6))


def test_a_lower_case_vocabulary_is_refused():
    with pytest.raises(BadInput, match="has no number of its own for A, C, G"):
        load_tokeniser(facts("single-base", numbered([token.lower() for token in BASES]), tokens={}))


def test_no_token_for_an_unknown_base_is_refused():
    refused(
        facts("single-base", numbered(list("ACGT")), tokens={}),
        ".: the vocabulary of m has no token for an unknown base; expected N or an unknown or mask token; name one "
        "under tokens in the model registry",
    )


@pytest.mark.parametrize("content", ["{", '{"model": {"type": "Nonesuch", "vocab": {"A": 0}}}'])
def test_a_broken_byte_pair_file_is_refused_by_name(tmp_path, content):
    number = numbered([*BERT_SPECIAL, *"ACGT"])
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(BadInput, match=r"tokenizer\.json: no byte-pair tokeniser of m \(.*\); restore the file$"):
        load_tokeniser(facts("bpe", number, folder=tmp_path))


def test_byte_pairs_that_map_bases_to_unknown_are_refused(tmp_path):
    """A vocabulary with A, C, G, T of a tokeniser that splits words at blanks and so never uses them."""
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel(numbered([*BERT_SPECIAL, *"ACGT"]), unk_token="[UNK]")).save(
        str(tmp_path / "tokenizer.json")
    )
    refused(
        facts("bpe", {}, folder=tmp_path),
        f"{tmp_path / 'tokenizer.json'}: the tokeniser of m does not cut DNA into pieces that spell it (A, C, G, T "
        "and N, each base in one piece); check that it is one of DNA",
    )


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Replace", "pattern": {"String": "T"}, "content": "A"}},
        {"normalizer": {"type": "Prepend", "prepend": "A"}},
        {"model": {"dropout": 0.3}},
        {"model": {"unk_token": None}},
    ],
)
def test_a_byte_pair_file_that_does_not_spell_dna_or_cuts_at_random_is_refused(tmp_path, change):
    import json

    from random_models import KINDS, write_vocabulary

    write_vocabulary(KINDS["dnabert-2"], tmp_path, 300, random_text())
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text())
    for key, value in change.items():
        content[key] = {**content[key], **value} if key == "model" else value
    load_tokeniser(facts("bpe", {}, folder=tmp_path))
    file.write_text(json.dumps(content))
    with pytest.raises(BadInput, match=r"does not cut DNA into pieces that spell it|cuts at random \(dropout\)"):
        load_tokeniser(facts("bpe", {}, folder=tmp_path))


def test_byte_pairs_without_the_four_bases_are_refused(tmp_path):
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE(numbered([*BERT_SPECIAL, "A", "C", "G", "AC"]), [("A", "C")], unk_token="[UNK]"))
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BadInput, match="has no number of its own for T; expected 4 tokens"):
        load_tokeniser(facts("bpe", {}, folder=tmp_path))


def test_roles_that_a_causal_model_lacks_are_none():
    number = numbered(["<oov>", "<s>", "</s>", "<pad>", "<mask>", *"ACGTN"])
    tokeniser = load_tokeniser(facts("single-base", number, tokens=LLAMA_TOKENS))
    assert (tokeniser.start, tokeniser.end, tokeniser.mask, tokeniser.pad) == (1, None, None, 3)
