"""Bases to tokens, and which bases each token stands for. Nothing here imports torch.

A tokeniser belongs to a way of cutting, not to a model: one token a base, one k-mer a position (overlapping), one for
each k bases in a fixed frame, byte-pair pieces, one token a residue (proteins). Token numbers come from the
checkpoint's own vocabulary.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import product
from math import log
from pathlib import Path

import numpy as np

from seqprior.errors import BadInput
from seqprior.models import ModelFacts
from seqprior.residues import AMINO_ACIDS
from seqprior.sequence import BASES, UNKNOWN, encode

LOG_4, LOG_20 = log(4), log(20)


@dataclass(frozen=True)
class Tokens:
    """A tokenised sequence.

    Attributes:
        ids: int32 (T,), with the start and end tokens that the model wants.
        first, last: int32 (T,), the bases [first, last) of each token; special tokens cover none.
        known: bool (T,), the token is one of the tokeniser's outcomes: bases without an unknown one among them.
    """

    ids: np.ndarray
    first: np.ndarray
    last: np.ndarray
    known: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)


class Tokeniser(ABC):
    """Cuts sequences for one model.

    Attributes:
        outcomes: int64 (O,), the token numbers over which probabilities are normalised: those that stand for bases.
        groups: how many outcomes of each group, in order; probabilities are normalised within a group, since the
            cutting decides which group a token is of.
        chance: float64 (O,), log probability of each outcome where all bases are equally likely.
        mask, pad, unknown: token numbers; None where the model has none.
        k: bases in the frame of a token (1 where there is no frame).
        lead: special tokens before the first base.
        letters, unit, stand_in: what tokens are made of, one of it, and the letter of an unknown one, in words.
    """

    outcomes: np.ndarray
    chance: np.ndarray
    k = 1
    letters, unit, stand_in = "A, C, G and T", "base", "N"

    def __init__(self, facts: ModelFacts, vocabulary: dict[str, int]) -> None:
        numbers = {role: self._special(facts, vocabulary, role) for role in ("start", "end", "mask", "pad", "unknown")}
        self.start, self.end = numbers["start"], numbers["end"]
        self.mask, self.pad, self.unknown = numbers["mask"], numbers["pad"], numbers["unknown"]
        self.lead = int(self.start is not None)
        self.size = max(vocabulary.values()) + 1
        self._facts = facts

    @property
    def groups(self) -> tuple[int, ...]:
        return (len(self.outcomes),)

    @staticmethod
    def _special(facts: ModelFacts, vocabulary: dict[str, int], role: str) -> int | None:
        name = facts.tokens.get(role)
        if name is not None and name not in vocabulary:
            raise BadInput(
                f"{facts.path}: the vocabulary of {facts.id} has no {role} token {name!r}; "
                "correct tokens in the model registry or restore the files"
            )
        return None if name is None else vocabulary[name]

    @abstractmethod
    def cut(self, sequence: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """`Tokens`' fields for the bases alone. `sequence` holds A, C, G, T, N in upper case."""

    @property
    @abstractmethod
    def index_of(self) -> np.ndarray:
        """Index among `outcomes` of each token number, -1 for other tokens: int64 (size,)."""

    def tokens(self, sequence: str, end: bool = True) -> Tokens:
        """The sequence as the model reads it. Without `end` the end token is left out, as a prefix needs it."""
        ids, first, last, known = self.cut(sequence)
        tail = int(end and self.end is not None)
        if not self.lead and not tail:
            return Tokens(ids, first, last, known)
        inner = slice(self.lead, self.lead + len(ids))
        framed = Tokens(*(np.zeros(self.lead + len(ids) + tail, kind) for kind in (np.int32, np.int32, np.int32, bool)))
        framed.ids[inner], framed.first[inner], framed.last[inner], framed.known[inner] = ids, first, last, known
        framed.ids[: self.lead] = self.start if self.lead else 0
        framed.ids[inner.stop :] = self.end if tail else 0
        return framed

    def _require(self, vocabulary: dict[str, int], names: list[str]) -> np.ndarray:
        """Numbers of tokens that the vocabulary must have, each one of its own."""
        special = {None, self.start, self.end, self.mask, self.pad, self.unknown}
        absent = [name for name in names if vocabulary.get(name) in special]
        if absent or len({vocabulary[name] for name in names}) < len(names):
            raise BadInput(
                f"{self._facts.path}: the vocabulary of {self._facts.id} has no number of its own for "
                f"{', '.join(absent[:3]) or 'some tokens'}; expected {len(names)} tokens of {self.letters}; "
                "check tokenisation and k in the model registry"
            )
        return np.array([vocabulary[name] for name in names], np.int64)

    def _other(self, number: int | None) -> int:
        """The token for an unknown base, which every model needs."""
        if number is None:
            raise BadInput(
                f"{self._facts.path}: the vocabulary of {self._facts.id} has no token for an unknown {self.unit}; "
                f"expected {self.stand_in} or an unknown or mask token; name one under tokens in the model registry"
            )
        return number

    def _inverse(self) -> np.ndarray:
        index = np.full(self.size, -1, np.int64)
        index[self.outcomes] = np.arange(len(self.outcomes))
        return index


def kmers(k: int) -> list[str]:
    """All k-mers in order of their base-4 number."""
    return ["".join(letters) for letters in product(BASES, repeat=k)]


def kmer_numbers(codes: np.ndarray, k: int, step: int) -> np.ndarray:
    """Base-4 number of the k-mer at every `step`-th position, -1 where it has an unknown base. codes (L,)."""
    count = (len(codes) - k) // step + 1
    numbers = np.zeros(count, np.int64)
    known = np.ones(count, bool)
    for place in range(k):
        letters = codes[place : place + (count - 1) * step + 1 : step]
        numbers = 4 * numbers + letters
        known &= letters < UNKNOWN
    numbers[~known] = -1
    return numbers


class SingleBase(Tokeniser):
    """One token a base. An unknown base is the token N, or the unknown or mask token where there is no N."""

    def __init__(self, facts: ModelFacts, vocabulary: dict[str, int]) -> None:
        super().__init__(facts, vocabulary)
        self.outcomes = self._require(vocabulary, list(BASES))
        other = self._other(vocabulary.get("N", self.unknown if self.unknown is not None else self.mask))
        self._token_of = np.array([*self.outcomes, other], np.int32)
        self.chance = np.full(4, -LOG_4)
        self._index = self._inverse()

    @property
    def index_of(self) -> np.ndarray:
        return self._index

    def cut(self, sequence: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        codes = encode(sequence)
        at = np.arange(len(codes), dtype=np.int32)
        return self._token_of[codes], at, at + 1, codes < UNKNOWN


class OverlappingKmer(Tokeniser):
    """One k-mer for each position at which one fits (DNABERT). A k-mer with an unknown base is the unknown token."""

    def __init__(self, facts: ModelFacts, vocabulary: dict[str, int]) -> None:
        super().__init__(facts, vocabulary)
        self.width = facts.k
        self.outcomes = self._require(vocabulary, kmers(facts.k))
        other = self._other(self.unknown if self.unknown is not None else self.mask)
        self._token_of = np.append(self.outcomes, other).astype(np.int32)
        self.chance = np.full(len(self.outcomes), -LOG_4 * facts.k)
        self._index = self._inverse()

    @property
    def index_of(self) -> np.ndarray:
        return self._index

    def cut(self, sequence: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        if len(sequence) < self.width:
            empty = np.empty(0, np.int32)
            return empty, empty, empty, empty.astype(bool)
        numbers = kmer_numbers(encode(sequence), self.width, 1)
        at = np.arange(len(numbers), dtype=np.int32)
        return self._token_of[numbers], at, at + self.width, numbers >= 0


class Kmer(Tokeniser):
    """One token for each k bases, in a frame that starts with the sequence (Nucleotide Transformer, GENERator).

    Where a k-mer has an unknown base, and for the bases that are left at the end, each base is a token of its own, so
    that all later k-mers stay in frame. Outcomes are the k-mers by number, then the single bases.
    """

    def __init__(self, facts: ModelFacts, vocabulary: dict[str, int]) -> None:
        super().__init__(facts, vocabulary)
        self.k = facts.k
        whole = self._require(vocabulary, kmers(facts.k))
        single = [vocabulary[base] for base in BASES if base in vocabulary]
        self.outcomes = np.concatenate([whole, single]).astype(np.int64)
        self._groups = (len(whole), len(single))
        self.chance = np.concatenate([np.full(len(whole), -LOG_4 * self.k), np.full(len(single), -LOG_4)])
        fallback = vocabulary.get("N", self.unknown if self.unknown is not None else self.mask)
        self._token_of_kmer = whole.astype(np.int32)
        letters = [self._other(vocabulary.get(base, fallback)) for base in (*BASES, "N")]
        self._token_of_base = np.array(letters, np.int32)
        self._index = self._inverse()

    @property
    def groups(self) -> tuple[int, ...]:
        return self._groups

    @property
    def index_of(self) -> np.ndarray:
        return self._index

    def cut(self, sequence: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        codes, k = encode(sequence), self.k
        whole = len(codes) // k
        numbers = kmer_numbers(codes[: whole * k], k, k) if whole else np.empty(0, np.int64)
        at = np.arange(whole, dtype=np.int32) * k
        if (numbers >= 0).all() and whole * k == len(codes):
            return self._token_of_kmer[numbers], at, at + k, np.ones(whole, bool)
        ids, first, size = [], [], []
        for start, number in zip(at, numbers, strict=True):
            if number >= 0:
                ids.append(self._token_of_kmer[number : number + 1])
                first.append([start])
                size.append([k])
            else:
                ids.append(self._token_of_base[codes[start : start + k]])
                first.append(np.arange(start, start + k))
                size.append([1] * k)
        ids.append(self._token_of_base[codes[whole * k :]])
        first.append(np.arange(whole * k, len(codes)))
        size.append([1] * (len(codes) - whole * k))
        tokens, starts = np.concatenate(ids).astype(np.int32), np.concatenate(first).astype(np.int32)
        known = self._index[np.maximum(tokens, 0)] >= 0
        return tokens, starts, starts + np.concatenate(size).astype(np.int32), known


class BytePair(Tokeniser):
    """Byte-pair pieces of unequal length, by the checkpoint's tokenizer.json."""

    def __init__(self, facts: ModelFacts, vocabulary: dict[str, int]) -> None:
        from tokenizers import Tokenizer

        super().__init__(facts, vocabulary)
        assert facts.path is not None
        file = facts.path / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:
            raise BadInput(f"{file}: no byte-pair tokeniser of {facts.id} ({error}); restore the file") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if getattr(self._tokenizer.model, "dropout", None):
            raise BadInput(
                f"{file}: the tokeniser of {facts.id} cuts at random (dropout), so no score could be repeated; set "
                "dropout in the file to null"
            )
        pieces = {piece: number for piece, number in vocabulary.items() if piece and set(piece) <= set(BASES)}
        self._require(vocabulary, list(BASES))
        self.pieces = pieces
        self.outcomes = np.array(sorted(pieces.values()), np.int64)
        length = {number: len(piece) for piece, number in pieces.items()}
        self.chance = np.array([-LOG_4 * length[number] for number in self.outcomes])
        self._index = self._inverse()
        self._require_faithful(file)

    def _require_faithful(self, file: Path) -> None:
        """Pieces tile the sequence and spell it, whatever the file's normaliser and splitter do."""
        letters = np.random.default_rng(0).choice(list(BASES), 600)
        for text in ("".join(letters[:300]), "".join(letters[300:450]) + "N" + "".join(letters[450:])):
            ids, first, last, known = self.cut(text)
            tiled = len(ids) > 0 and first[0] == 0 and last[-1] == len(text) and (first[1:] == last[:-1]).all()
            spelt = all(
                self.pieces.get(text[a:b]) == i for i, a, b in zip(ids[known], first[known], last[known], strict=True)
            )
            unknown = sum(last[~known] - first[~known])
            if not tiled or not spelt or unknown > text.count("N"):
                raise BadInput(
                    f"{file}: the tokeniser of {self._facts.id} does not cut DNA into pieces that spell it (A, C, G, T "
                    "and N, each base in one piece); check that it is one of DNA"
                )

    @property
    def index_of(self) -> np.ndarray:
        return self._index

    def cut(self, sequence: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        encoding = self._tokenizer.encode(sequence, add_special_tokens=False)
        ids = np.array(encoding.ids, np.int32)
        spans = np.array(encoding.offsets, np.int32).reshape(-1, 2)
        return ids, spans[:, 0], spans[:, 1], self._index[ids] >= 0


class Residues(Tokeniser):
    """One token a residue; outcomes are the 20 amino acids in the order of `residues.AMINO_ACIDS`.

    Any other letter (X, selenocysteine U, pyrrolysine O, the ambiguous B, Z and J) is the vocabulary's own token of it,
    else its X, else the unknown or mask token. It is read and never asked for.
    """

    letters, unit, stand_in = "the 20 amino acids", "residue", "X"

    def __init__(self, facts: ModelFacts, vocabulary: dict[str, int]) -> None:
        super().__init__(facts, vocabulary)
        self.outcomes = self._require(vocabulary, list(AMINO_ACIDS))
        self.chance = np.full(len(AMINO_ACIDS), -LOG_20)
        other = self._other(vocabulary.get("X", self.unknown if self.unknown is not None else self.mask))
        self._token_of = np.full(128, other, np.int32)
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
            self._token_of[ord(letter)] = vocabulary.get(letter, other)
        self._index = self._inverse()

    @property
    def index_of(self) -> np.ndarray:
        return self._index

    def cut(self, sequence: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """`Tokens`' fields for the residues alone. `sequence` holds one-letter codes in upper case."""
        ids = self._token_of[np.frombuffer(sequence.encode("ascii"), np.uint8)]
        at = np.arange(len(ids), dtype=np.int32)
        return ids, at, at + 1, self._index[ids] >= 0


TOKENISERS = {
    "single-base": SingleBase,
    "overlapping-kmer": OverlappingKmer,
    "kmer": Kmer,
    "bpe": BytePair,
    "residue": Residues,
}


def read_vocabulary(facts: ModelFacts) -> dict[str, int]:
    """Token to number, from the registry entry or from the checkpoint's own file.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    if facts.vocabulary:
        return facts.vocabulary
    assert facts.path is not None
    for name, read in (("tokenizer.json", _from_tokenizer), ("vocab.json", json.loads), ("vocab.txt", _from_lines)):
        file = facts.path / name
        if file.is_file():
            try:
                found = read(file.read_text(encoding="utf-8"))
                return {str(token): int(number) for token, number in found.items()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise BadInput(f"{file}: no vocabulary of {facts.id} ({error}); restore the file") from error
    raise BadInput(
        f"{facts.path}: found no vocabulary of {facts.id}; expected tokenizer.json, vocab.json or vocab.txt, or "
        "vocabulary in the model registry; restore the files"
    )


def _from_tokenizer(text: str) -> dict[str, int]:
    content = json.loads(text)
    vocabulary = content["model"]["vocab"]
    if isinstance(vocabulary, list):  # unigram models list pairs of piece and score
        vocabulary = {piece: number for number, (piece, _) in enumerate(vocabulary)}
    return {**vocabulary, **{token["content"]: token["id"] for token in content.get("added_tokens", ())}}


def _from_lines(text: str) -> dict[str, int]:
    return {token: number for number, token in enumerate(text.splitlines())}


def load_tokeniser(facts: ModelFacts) -> Tokeniser:
    """The tokeniser of a fetched model.

    Raises:
        BadInput: its vocabulary is missing or lacks tokens that it must have.
    """
    vocabulary = read_vocabulary(facts)
    if not vocabulary:
        raise BadInput(f"{facts.path}: the vocabulary of {facts.id} is empty; restore the files")
    return TOKENISERS[facts.tokenisation](facts, vocabulary)
