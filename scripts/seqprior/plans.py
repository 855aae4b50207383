"""What has to be asked of a model to score alleles: torch-free, so that jobs can be planned and costed without one.

A `Request` is one fact about a model that a forward pass can answer, for example the marginal of one site or the
likelihood of one haplotype, on both strands. Equal requests of different alleles are one request. A request knows the
bytes that identify it, under which the score store keeps its answer, and the `Part`s of token rows that compute it.

An answer is a vector for each strand; DNA has two strands and a protein has one. `llr` is always the difference of two
entries: of one answer for a marginal, of two answers for a pair of haplotypes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise

import numpy as np

from seqprior.errors import BadInput
from seqprior.models import ModelFacts, checkpoint_folder, read_config
from seqprior.residues import AMINO_ACIDS, INDEX_OF
from seqprior.sequence import BASES, encode
from seqprior.sequence import reverse_complement as other_strand
from seqprior.shards import Cutter
from seqprior.tokenisation import LOG_4, BytePair, OverlappingKmer, Tokeniser, Tokens, load_tokeniser

REQUEST_VERSION = 2  # to be raised when a request of the same identity would get another answer
MAX_SPELT = 4  # byte-pair tokens over an allele whose spellings are summed; their number grows with each
MORE_MASKS = (0, 1, 2)  # masks than tokens were there; the fewest with which both alleles can be spelt are taken
MAX_SPAN = 32  # byte-pair tokens that may be masked together; more is no longer a local change
BLOCK = 64  # residues of a protein whose profiles are one answer
TILED = "_tiled"  # ends the method of a score that was read from a part of its protein


@dataclass(frozen=True, slots=True)
class Row:
    """One input of the network: token numbers, and which of them are replaced by the mask token.

    `prefix` tokens at the start are shared with other rows of the same prefix (causal models); 0 where none are.
    """

    ids: np.ndarray
    masked: tuple[int, ...] = ()
    prefix: int = 0

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Part:
    """A share of an answer: sum over reads of weight * log p(candidate | row), plus a constant.

    Attributes:
        strand: 0 forward, 1 reverse.
        positions: (M,) token positions that are read.
        candidates: (M, C) indices among the tokeniser's outcomes; each read adds to all C entries of the answer.
        own: if not -1, candidates are alternatives to each other, and each read adds the log probability of this one
            among them to the answer's only entry.
        spelt: each column of candidates is one way to spell the same bases, all of them add up to the answer's only
            entry; -1 fills up the columns that a part lacks.
        apart: the reads are not added up; the answer has C entries for each of them in turn, and zeros at its end.
    """

    strand: int
    row: Row
    positions: np.ndarray
    candidates: np.ndarray
    weight: float = 1.0
    constant: float = 0.0
    own: int = -1
    spelt: bool = False
    apart: bool = False

    @property
    def sums(self) -> int:
        """Rows of C entries that the reads come to."""
        return len(self.positions) if self.apart else 1


@dataclass(frozen=True, slots=True)
class Request:
    """One fact. `kind`, `sequence` and `at` identify it; `width` is the number of entries of its answer a strand.

    Where `reach` is not 0, the answer depends on so many bases either side of `at` alone.
    """

    kind: str
    sequence: str
    at: tuple[int, ...] = ()
    width: int = 1
    reach: int = 0

    def key(self, salt: bytes) -> bytes:
        """16 bytes under which a score store keeps the answer; `salt` stands for how the model reads."""
        sequence, at = self.sequence, self.at
        if self.reach:
            sequence, at = sequence[at[0] - self.reach : at[0] + self.reach + 1], (self.reach,)
        text = f"{self.kind}\n{at}\n{sequence}"
        return blake2b(text.encode("ascii"), digest_size=16, key=salt).digest()


@dataclass(frozen=True, slots=True)
class Plan:
    """How one allele's score is read: answer `alt`, entry `alt_entry`, minus answer `ref`, entry `ref_entry`.

    `site` is the first of four entries over A, C, G, T in the answer, from which an entropy follows; -1 for none.
    The scores of the plans in `more` are added.
    """

    method: str
    alt: Request
    ref: Request
    alt_entry: int = 0
    ref_entry: int = 0
    site: int = -1
    more: tuple[Plan, ...] = ()

    @property
    def requests(self) -> tuple[Request, ...]:
        """All that has to be asked, some of it repeatedly."""
        return (self.alt, self.ref, *(request for plan in self.more for request in plan.requests))

    def llr(self, answers: Mapping[Request, np.ndarray]) -> np.ndarray:
        """The score on each strand, float64 (strands,), from answers (strands, width)."""
        own = answers[self.alt][:, self.alt_entry] - answers[self.ref][:, self.ref_entry]
        return sum((plan.llr(answers) for plan in self.more), own)


@dataclass(frozen=True)
class Reading:
    """Which of a model's ways of scoring are used.

    Attributes:
        one_pass_marginals: read substitutions from whole unmasked windows.
        exact_likelihoods: mask every token in turn for likelihoods of haplotypes.
    """

    one_pass_marginals: bool = False
    exact_likelihoods: bool = False


class Scheme(ABC):
    """From alleles to requests, and from requests to token rows, for one tokenisation and objective.

    Attributes:
        site_method, pair_method: names of the scores, as documented in docs/scores.md.
        strands: ways to read a sequence, each of which has an answer: 2 for DNA, 1 for proteins.
        room: tokens that the network has positions for; None for any number.
    """

    site_method: str
    pair_method: str
    strands = 2

    def __init__(self, facts: ModelFacts, tokeniser: Tokeniser | None, reading: Reading) -> None:
        self.facts, self.reading = facts, reading
        self.tokeniser = tokeniser
        if tokeniser is not None:
            self._tokens = lru_cache(maxsize=64)(tokeniser.tokens)  # neighbouring sites share windows
        self.cutter = Cutter(facts, reading.one_pass_marginals)
        self.room: int | None = None

    def fits(self, *sequences: str) -> bool:
        """False if a sequence has more tokens, on any strand, than the network has positions.

        Sequences of one length differ in tokens with byte pairs, and where unknown bases break a k-mer up; bases that
        are left over by k-mers are tokens of their own.
        """
        if self.room is None:
            return True
        return all(self.fit_as_read(*self.texts(sequence)) for sequence in sequences)

    def texts(self, sequence: str) -> tuple[str, ...]:
        """A sequence as it is read on each strand."""
        return (sequence,) if self.strands == 1 else (sequence, other_strand(sequence))

    def fit_as_read(self, *texts: str) -> bool:
        """The same on the one strand that each text is written in."""
        return self.room is None or all(len(self._tokens(text)) <= self.room for text in texts)

    @property
    def salt(self) -> bytes:
        """What, beside the weights, decides an answer."""
        facts = self.facts
        text = (
            REQUEST_VERSION,
            facts.family,
            facts.tokenisation,
            facts.objective,
            facts.k,
            sorted(facts.tokens.items()),
            sorted(facts.vocabulary.items()),
        )
        return blake2b(repr(text).encode(), digest_size=32).digest()

    @abstractmethod
    def plan(self, window: str, offset: int, ref: str, alt: str) -> Plan | None:
        """How to score an allele at `offset` of its window; None if the model cannot."""

    @abstractmethod
    def parts(self, request: Request) -> Iterator[Part]:
        """The token rows that answer a request."""

    def passes(self, request: Request) -> int:
        """Token rows that a request takes, about."""
        exact = self.reading.exact_likelihoods and request.kind == "masked_pseudo_likelihood"
        bases = self.facts.k if self.facts.tokenisation == "kmer" else 1  # that one masked row answers for
        return self.strands * (len(request.sequence) // bases if exact else 1)

    def within_token(self, window: str, token: str, first: int, within: int, ref: str, alt: str) -> Plan:
        """An allele at place `within` of the k-mer that starts at base `first`, read from that token's marginal."""
        if len(ref) == 1:
            # 4k entries: base b at place j of the token, the others as in the reference.
            request = Request(self.site_method, window, (first,), 4 * len(token))
            entries = (4 * within + BASES.index(base) for base in (alt, ref))
            return Plan(self.site_method, request, request, *entries, site=4 * within)
        kmer = token[:within] + alt + token[within + len(ref) :]
        request = Request(self.site_method, window, (first, _number(kmer)), 2)
        return Plan(self.site_method, request, request, 1, 0)

    def pair(self, window: str, offset: int, ref: str, alt: str) -> Plan | None:
        """Both haplotypes of an allele, over the same flanks."""
        left, right = window[:offset], window[offset + len(ref) :]
        haplotypes = [left + allele + right for allele in (alt, ref)]
        if not self.fits(*haplotypes):
            return None
        return Plan(self.pair_method, *(Request(self.pair_method, haplotype) for haplotype in haplotypes))

    def likelihood_parts(self, sequence: str) -> Iterator[Part]:
        """Log-likelihood of a sequence against equally likely bases, on its strands, from its tokens' readings."""
        tokeniser = self.tokeniser
        assert tokeniser is not None
        for strand, text in enumerate(self.texts(sequence)):
            tokens = self._tokens(text)
            at = np.flatnonzero(tokens.known)
            if not len(at):
                continue
            outcomes = tokeniser.index_of[tokens.ids[at]]
            background = -tokeniser.chance[outcomes]
            if not self.reading.exact_likelihoods:
                yield Part(strand, Row(tokens.ids), at, outcomes[:, None], 1.0, float(background.sum()))
                continue
            for position, outcome, constant in zip(at, outcomes, background, strict=True):
                read, row = np.array([position]), Row(tokens.ids, (int(position),))
                yield Part(strand, row, read, np.array([[outcome]]), 1.0, float(constant))

    def haplotype_flanks(self, offset: int, longest: int, size: int) -> tuple[int, int]:
        """Bases kept left and right of an allele within a haplotype of `size`, the left ones in frame."""
        frame = self.tokeniser.k if self.tokeniser is not None else 1
        least = self.facts.k if self.facts.tokenisation == "overlapping-kmer" else 1
        flank = max(least, (size - longest) // 2)
        if frame == 1:
            return min(flank, offset), flank
        left = offset % frame + max(flank - offset % frame, 0) // frame * frame
        return min(left, offset), flank


class MaskedBases(Scheme):
    """One token a base, masked language models and seqprior's own bidirectional network."""

    def __init__(self, facts: ModelFacts, tokeniser: Tokeniser | None, reading: Reading) -> None:
        super().__init__(facts, tokeniser, reading)
        if facts.objective == "bidirectional":
            self.site_method = "leave_one_out_marginal"
            self.pair_method = "leave_one_out_pseudo_likelihood"
        else:
            self.site_method = "unmasked_marginal" if reading.one_pass_marginals else "masked_marginal"
            exact = reading.exact_likelihoods
            self.pair_method = "masked_pseudo_likelihood" if exact else "unmasked_pseudo_likelihood"

    def plan(self, window: str, offset: int, ref: str, alt: str) -> Plan | None:
        if len(ref) == len(alt) == 1:
            # A tile's far bases are no part of the fact.
            reach = self.facts.window // 2 if self.facts.objective == "bidirectional" else 0
            request = Request(self.site_method, window, (offset,), 4, reach)
            return Plan(self.site_method, request, request, BASES.index(alt), BASES.index(ref), 0)
        return self.pair(window, offset, ref, alt)

    def parts(self, request: Request) -> Iterator[Part]:
        if request.kind == self.pair_method:
            yield from self.likelihood_parts(request.sequence)
            return
        (offset,) = request.at
        tokeniser = self.tokeniser
        assert tokeniser is not None
        strands = (
            (request.sequence, offset, (0, 1, 2, 3)),
            (
                other_strand(request.sequence),
                len(request.sequence) - 1 - offset,
                (3, 2, 1, 0),
            ),
        )
        for strand, (text, at, order) in enumerate(strands):
            position = at + tokeniser.lead
            masked = () if self.reading.one_pass_marginals else (position,)
            yield Part(strand, Row(self._tokens(text).ids, masked), np.array([position]), np.array([order]))


class MaskedOverlappingKmers(MaskedBases):
    """Overlapping k-mers: all k tokens that cover the site are masked, and each of them is asked for it.

    The marginal of a base is the mean over these tokens of the log probability of the k-mer with that base in it.
    """

    def parts(self, request: Request) -> Iterator[Part]:
        if request.kind == self.pair_method:
            yield from self._likelihood(request.sequence)
            return
        (offset,) = request.at
        sequence = request.sequence
        for strand, text in enumerate((sequence, other_strand(sequence))):
            at = offset if strand == 0 else len(sequence) - 1 - offset
            part = self._site(strand, text, at, masked=not self.reading.one_pass_marginals)
            if part is not None:
                yield part

    def plan(self, window: str, offset: int, ref: str, alt: str) -> Plan | None:
        k = self.facts.k
        if len(window) + min(0, len(alt) - len(ref)) < k:
            return None  # a haplotype without a whole k-mer
        around = window[max(offset - k + 1, 0) : offset + len(ref) + k - 1]
        if len(window) < k or not set(around) <= set(BASES):
            return None
        return super().plan(window, offset, ref, alt)

    def _site(self, strand: int, text: str, at: int, masked: bool) -> Part | None:
        """The tokens over base `at`, in letters of `text`; entries in forward letters."""
        tokeniser, k = self.tokeniser, self.facts.k
        assert isinstance(tokeniser, OverlappingKmer)
        starts = np.arange(max(at - k + 1, 0), min(at, len(text) - k) + 1)
        codes = encode(text)
        place = 4 ** (k - 1 - (at - starts))  # weight of the base within each k-mer's number
        numbers = np.lib.stride_tricks.sliding_window_view(codes, k)[starts].astype(np.int64)
        known = (numbers < 4).all(1)
        if not known.any():
            return None
        starts, place, numbers = starts[known], place[known], numbers[known] @ (4 ** np.arange(k - 1, -1, -1))
        bases = np.arange(4) if strand == 0 else np.arange(3, -1, -1)
        candidates = (numbers - codes[at] * place)[:, None] + bases[None] * place[:, None]
        positions = starts + tokeniser.lead
        row = Row(self._tokens(text).ids, tuple(map(int, positions)) if masked else ())
        return Part(strand, row, positions, candidates, 1.0 / len(starts))

    def _likelihood(self, sequence: str) -> Iterator[Part]:
        """Each base counts once, though k tokens hold it."""
        if not self.reading.exact_likelihoods:
            for part in self.likelihood_parts(sequence):
                k = self.facts.k
                yield Part(part.strand, part.row, part.positions, part.candidates, 1.0 / k, part.constant / k)
            return
        codes = encode(sequence)
        for at in np.flatnonzero(codes < 4):
            for strand, text in enumerate((sequence, other_strand(sequence))):
                place = int(at) if strand == 0 else len(sequence) - 1 - int(at)
                part = self._site(strand, text, place, masked=True)
                if part is not None:
                    yield replace(part, constant=LOG_4, own=int(codes[at]))


class MaskedKmers(Scheme):
    """Non-overlapping k-mers in a fixed frame: one masked token answers for every allele within it."""

    def __init__(self, facts: ModelFacts, tokeniser: Tokeniser | None, reading: Reading) -> None:
        super().__init__(facts, tokeniser, reading)
        self.site_method = "unmasked_token_marginal" if reading.one_pass_marginals else "masked_token_marginal"
        exact = reading.exact_likelihoods
        self.pair_method = "masked_pseudo_likelihood" if exact else "unmasked_pseudo_likelihood"

    def plan(self, window: str, offset: int, ref: str, alt: str) -> Plan | None:
        k = self.facts.k
        first = offset // k * k
        token = window[first : first + k]
        if len(ref) != len(alt) or offset + len(ref) > first + k or len(token) < k:
            return self.pair(window, offset, ref, alt)
        if not set(token) <= set(BASES) or not self.fits(window):
            return None
        return self.within_token(window, token, first, offset - first, ref, alt)

    def parts(self, request: Request) -> Iterator[Part]:
        if request.kind == self.pair_method:
            yield from self.likelihood_parts(request.sequence)
            return
        first, *other = request.at
        k, window = self.facts.k, request.sequence
        token = window[first : first + k]
        for strand, text in enumerate((window, other_strand(window))):
            at = first if strand == 0 else len(window) - k - first
            yield self._read(strand, text, at, _candidates(token, strand, *other))

    def _read(self, strand: int, text: str, at: int, candidates: np.ndarray) -> Part:
        """One whole token that starts at base `at`."""
        assert self.tokeniser is not None
        tokens = self._tokens(text)
        position = _token_at(tokens, at)
        masked = () if self.reading.one_pass_marginals else (position,)
        return Part(strand, Row(tokens.ids, masked), np.array([position]), candidates[None])


def _token_at(tokens: Tokens, base: int) -> int:
    """Position of the token that covers a base. Special tokens cover none."""
    return int(np.flatnonzero((tokens.first <= base) & (base < tokens.last))[0])


def _number(kmer: str) -> int:
    number = 0
    for base in kmer:
        number = 4 * number + BASES.index(base)
    return number


@lru_cache(maxsize=2**14)
def _candidates(token: str, strand: int, other: int | None = None) -> np.ndarray:
    """Numbers of the k-mers that a token may become, as read on a strand: each base at each place, or one other."""
    kmers = _substituted(token) if other is None else [token, _kmer(other, len(token))]
    return np.array([_number(kmer if strand == 0 else other_strand(kmer)) for kmer in kmers])


def _kmer(number: int, k: int) -> str:
    return "".join(BASES[number // 4 ** (k - 1 - place) % 4] for place in range(k))


def _substituted(kmer: str) -> list[str]:
    """The k-mer with each base at each place: 4k of them."""
    return [kmer[:place] + base + kmer[place + 1 :] for place in range(len(kmer)) for base in BASES]


class MaskedPieces(Scheme):
    """Byte-pair pieces: an allele may change several tokens, so a span of tokens is masked and read.

    Substitutions: the tokens over the allele and one on either side are masked, and the probability that the masks
    spell the bases with the allele is the sum over all ways to do so. One pass serves all alleles within a token.

    Other alleles: the tokens in which the two haplotypes differ are masked, and each haplotype's own tokens are read.
    """

    def __init__(self, facts: ModelFacts, tokeniser: Tokeniser | None, reading: Reading) -> None:
        super().__init__(facts, tokeniser, reading)
        if reading.one_pass_marginals:
            self.site_method = "unmasked_token_marginal"
            self.pair_method = "unmasked_pseudo_likelihood"
        else:
            self.site_method = "masked_spelling_likelihood"
            self.pair_method = "masked_span_likelihood"
        if reading.exact_likelihoods:
            self.pair_method = "masked_pseudo_likelihood"
        self._longest = max(map(len, tokeniser.pieces)) if isinstance(tokeniser, BytePair) else 0
        self._spellings = lru_cache(maxsize=2**14)(self._spell)

    def plan(self, window: str, offset: int, ref: str, alt: str) -> Plan | None:
        left, right = window[:offset], window[offset + len(ref) :]
        haplotypes = [left + allele + right for allele in (alt, ref)]
        if self.site_method == "masked_spelling_likelihood" and len(ref) == len(alt):
            return self._spelling(window, offset, ref, alt) if self.fits(window) else None
        if not self.fits(*haplotypes):
            return None
        if self.reading.one_pass_marginals and len(ref) == len(alt) == 1:
            return self._substitution(window, offset, alt)
        if self.pair_method != "masked_span_likelihood":
            return self.pair(window, offset, ref, alt)
        spans = []
        for texts in (haplotypes, list(map(other_strand, haplotypes))):
            alternate, reference = map(self._tokens, texts)
            span = _differing(alternate.ids, reference.ids, self.tokeniser.lead)
            if span is None or max(span[1], span[2]) - span[0] > MAX_SPAN:
                return None
            if not all(t.known[span[0] : end].all() for t, end in zip((alternate, reference), span[1:], strict=True)):
                return None
            spans.append(span)
        requests = []
        for number, haplotype in enumerate(haplotypes):
            at = tuple(value for span in spans for value in (span[0], span[1 + number]))
            requests.append(Request(self.pair_method, haplotype, at))
        return Plan(self.pair_method, *requests)

    def _spelling(self, window: str, offset: int, ref: str, alt: str) -> Plan | None:
        longest = max(len(self._tokens(text)) for text in (window, other_strand(window)))
        for more in MORE_MASKS:
            if self.room is not None and longest + more > self.room:
                return None
            # The allele is identified by its bases, base 4, under its length.
            places = [(offset, len(ref), _number(allele), more) for allele in (alt, ref)]
            requests = [Request(self.site_method, window, place) for place in places]
            if all(self._spelt(request, strand) is not None for request in requests for strand in range(2)):
                return Plan(self.site_method, *requests)
        return None

    def _spelt(self, request: Request, strand: int) -> tuple[int, int, np.ndarray] | None:
        """The tokens [first, last) around an allele, and the ways (masks, S) to spell its bases there; or None."""
        offset, size, number, more = request.at
        window, allele = request.sequence, _kmer(number, size)
        text, at = (window, offset) if strand == 0 else (other_strand(window), len(window) - offset - size)
        allele = allele if strand == 0 else other_strand(allele)
        tokens = self._tokens(text)
        over = np.flatnonzero((tokens.first < at + size) & (tokens.last > at))
        first, last = int(over[0]), int(over[-1]) + 1
        if not tokens.known[first:last].all() or last - first > MAX_SPELT:
            return None
        first -= int(first > 0 and tokens.known[first - 1])
        last += int(last < len(tokens) and tokens.known[last])
        begin, end = int(tokens.first[first]), int(tokens.last[last - 1])
        ways = self._spellings(text[begin:at] + allele + text[at + size : end], last - first + more)
        return (first, last, np.array(ways).T) if ways else None

    def _spell(self, text: str, count: int) -> tuple[tuple[int, ...], ...]:
        """All ways to cut a text into so many pieces of the vocabulary, as outcomes."""
        index, pieces = self.tokeniser.index_of, self.tokeniser.pieces
        if count == 1:
            return ((int(index[pieces[text]]),),) if text in pieces else ()
        return tuple(
            (int(index[pieces[text[:size]]]), *rest)
            for size in range(1, min(self._longest, len(text) - count + 1) + 1)
            if text[:size] in pieces
            for rest in self._spell(text[size:], count - 1)
        )

    def _substitution(self, window: str, offset: int, alt: str) -> Plan | None:
        """In the reference's own segmentation, if the piece with the other base is in the vocabulary."""
        request = Request(self.site_method, window, (offset,), 4)
        ref = window[offset]
        for strand, text in enumerate((window, other_strand(window))):
            at = offset if strand == 0 else len(window) - 1 - offset
            found = self._pieces(text, at)[1]
            wanted = (ref, alt) if strand == 0 else (other_strand(ref), other_strand(alt))
            if any(found[BASES.index(base)] < 0 for base in wanted):
                return None
        return Plan(self.site_method, request, request, BASES.index(alt), BASES.index(ref))

    def _pieces(self, text: str, at: int) -> tuple[int, list[int]]:
        """Position of the piece over base `at`, and the outcome for each base there, -1 where it is no piece."""
        tokeniser, tokens = self.tokeniser, self._tokens(text)
        position = _token_at(tokens, at)
        first, last = tokens.first[position], tokens.last[position]
        outcomes = []
        for base in BASES:
            token = tokeniser.pieces.get(text[first:at] + base + text[at + 1 : last])
            outcomes.append(-1 if token is None else int(tokeniser.index_of[token]))
        return position, outcomes

    def _hidden(self, ids: np.ndarray, first: int, last: int, masks: int) -> np.ndarray:
        """Token numbers with so many masks in the place of [first, last)."""
        return np.concatenate([ids[:first], np.full(masks, self.tokeniser.mask, ids.dtype), ids[last:]])

    def parts(self, request: Request) -> Iterator[Part]:
        sequence = request.sequence
        if request.kind == self.pair_method and self.pair_method != "masked_span_likelihood":
            yield from self.likelihood_parts(sequence)
            return
        tokeniser = self.tokeniser
        for strand, text in enumerate((sequence, other_strand(sequence))):
            tokens = self._tokens(text)
            if request.kind == "masked_spelling_likelihood":
                found = self._spelt(request, strand)
                assert found is not None
                first, last, ways = found
                row = Row(self._hidden(tokens.ids, first, last, len(ways)))
                yield Part(strand, row, first + np.arange(len(ways)), ways, constant=request.at[1] * LOG_4, spelt=True)
                continue
            if request.kind == "unmasked_token_marginal":
                at = request.at[0] if strand == 0 else len(sequence) - 1 - request.at[0]
                position, outcomes = self._pieces(text, at)
                bases = outcomes if strand == 0 else outcomes[::-1]
                # An entry that no piece stands for is read by no plan; any outcome does in its place.
                yield Part(strand, Row(tokens.ids), np.array([position]), np.maximum(np.array([bases]), 0))
                continue
            first, last = request.at[2 * strand : 2 * strand + 2]
            at = np.arange(first, last)
            outcomes = tokeniser.index_of[tokens.ids[at]]
            yield Part(
                strand,
                Row(self._hidden(tokens.ids, first, last, last - first)),
                at,
                outcomes[:, None],
                1.0,
                float(-tokeniser.chance[outcomes].sum()),
            )


def _differing(first: np.ndarray, second: np.ndarray, lead: int) -> tuple[int, int, int] | None:
    """The differing tokens [start, end) of two sequences: start, end in the first, end in the second; both not empty.

    None if the sequences are equal.
    """
    shorter = min(len(first), len(second))
    same = first[:shorter] == second[:shorter]
    start = shorter if same.all() else int(np.argmin(same))
    if start == shorter and len(first) == len(second):
        return None
    backwards = first[::-1][: shorter - start] == second[::-1][: shorter - start]
    tail = shorter - start if backwards.all() else int(np.argmin(backwards))
    if shorter - start == tail:  # one of them lacks tokens: mask a neighbour with it
        if start > lead:
            start -= 1
        else:
            tail -= 1
    return start, len(first) - tail, len(second) - tail


class Causal(Scheme):
    """Left-to-right models: the likelihood of the allele and what follows it, given what comes before.

    What comes before an allele is the same for all alleles of a site and is computed once for all of them.
    """

    def __init__(self, facts: ModelFacts, tokeniser: Tokeniser | None, reading: Reading) -> None:
        super().__init__(facts, tokeniser, reading)
        self.pair_method = "causal_likelihood"
        one_pass = reading.one_pass_marginals and facts.tokenisation != "bpe"
        self.site_method = "causal_marginal" if one_pass else self.pair_method

    def plan(self, window: str, offset: int, ref: str, alt: str) -> Plan | None:
        k = self.tokeniser.k
        first = offset // k * k
        if self.site_method == "causal_marginal" and len(ref) == len(alt) and offset + len(ref) <= first + k:
            return self._marginal(window, first, offset - first, ref, alt)
        left, right = window[:offset], window[offset + len(ref) :]
        down = self.cutter.downstream
        if not self._readable(left, ref + right[:down]) or not self._readable(right, ref + left[-down:]):
            return None
        if self.room is not None:
            forward = (left + allele + right[:down] for allele in (ref, alt))
            reverse = (other_strand(left[-down:] + allele + right) for allele in (ref, alt))
            if not self.fit_as_read(*forward, *reverse):
                return None
        alleles = [(allele, self._cuts(left, allele, right, ref, alt)) for allele in (alt, ref)]
        plan = Plan(self.pair_method, *(Request(self.pair_method, left + allele + right, at) for allele, at in alleles))
        edge = "N" in left[-k:] + ref + right[:k] or min(len(left), len(right)) < down + k
        return None if k > 1 and edge and self._unread(plan) else plan

    def _unread(self, plan: Plan) -> bool:
        """True if both haplotypes have the same tokens on a strand: unknown or left-over bases hide the allele."""
        rows = ([part.row.ids for part in self.parts(request)] for request in (plan.alt, plan.ref))
        return any(np.array_equal(*pair) for pair in zip(*rows, strict=True))

    def _readable(self, before: str, after: str) -> bool:
        """There is something to read before the first token that is predicted, or a start token."""
        return bool(after) and (len(before) >= self.tokeniser.k or self.tokeniser.start is not None)

    def _cuts(self, left: str, allele: str, right: str, ref: str, alt: str) -> tuple[int, ...]:
        """For each strand: bases before the part that is read, bases of that part."""
        down, k = self.cutter.downstream, self.tokeniser.k
        cuts = []
        for before, after, own, other in (
            (left, right, allele, (ref, alt)),
            (other_strand(right), other_strand(left), other_strand(allele), tuple(map(other_strand, (ref, alt)))),
        ):
            split = len(before) // k * k
            if self.facts.tokenisation == "bpe":
                split = self._shared_pieces(before, after, other)
            cuts += [split, len(before) - split + len(own) + min(down, len(after))]
        return tuple(cuts)

    def _shared_pieces(self, before: str, after: str, alleles: tuple[str, ...]) -> int:
        """Bases of the pieces that both haplotypes begin with."""
        down = self.cutter.downstream
        first, second = (self.tokeniser.cut(before + allele + after[:down]) for allele in alleles)
        shorter = min(len(first[0]), len(second[0]))
        same = (first[0][:shorter] == second[0][:shorter]) & (first[2][:shorter] <= len(before))
        shared = shorter if same.all() else int(np.argmin(same))
        return int(first[2][shared - 1]) if shared else 0

    def _marginal(self, window: str, first: int, within: int, ref: str, alt: str) -> Plan | None:
        k = self.tokeniser.k
        token = window[first : first + k]
        ends = (first, len(window) - first - k)
        if len(token) < k or not set(token) <= set(BASES) or (min(ends) < k and self.tokeniser.start is None):
            return None
        if not self.fits(window):
            return None
        return self.within_token(window, token, first, within, ref, alt)

    def parts(self, request: Request) -> Iterator[Part]:
        sequence, k = request.sequence, self.tokeniser.k
        for strand, text in enumerate((sequence, other_strand(sequence))):
            if request.kind == "causal_marginal":
                first, *other = request.at
                token = sequence[first : first + k]
                at = first if strand == 0 else len(sequence) - k - first
                tokens = self._tokens(text, end=False)
                candidates = _candidates(token, strand, *other)[None]
                yield Part(strand, Row(tokens.ids), np.array([_token_at(tokens, at)]), candidates)
                continue
            split, size = request.at[2 * strand : 2 * strand + 2]
            end = split + size
            if k > 1:  # bases left over at the end are no k-mer, and a causal model has seen only k-mers
                end = split + size // k * k
            tokens = self._tokens(text[:end], end=False)
            prefix = int(np.searchsorted(tokens.last[self.tokeniser.lead :], split, side="right")) + self.tokeniser.lead
            at = np.arange(prefix, len(tokens))
            at = at[tokens.known[at] & (at > 0)]
            outcomes = self.tokeniser.index_of[tokens.ids[at]]
            yield Part(
                strand,
                Row(tokens.ids, (), prefix),
                at,
                outcomes[:, None],
                1.0,
                float(-self.tokeniser.chance[outcomes].sum()),
            )


class MaskedResidues(Scheme):
    """Proteins: one token a residue, one strand; what is longer than the model's window is read in tiles.

    Wild-type marginals (`Reading.one_pass_marginals`) read all residues of a tile from one pass over it, masked ones
    mask the changed residues, all of a change together, after Meier et al. 2021, doi:10.1101/2021.07.09.450648. Changes
    of a protein's length compare the pseudo-likelihoods of both proteins. Positions are 0-based residues.
    """

    strands = 1
    wild_type_method = "wild_type_marginal"
    masked_method = "masked_marginal"

    def __init__(self, facts: ModelFacts, tokeniser: Tokeniser | None, reading: Reading) -> None:
        super().__init__(facts, tokeniser, reading)
        self.site_method = self.wild_type_method if reading.one_pass_marginals else self.masked_method
        self.pair_method = "masked_pseudo_likelihood" if reading.exact_likelihoods else "unmasked_pseudo_likelihood"

    def tiles(self, length: int) -> list[tuple[int, int]]:
        """The parts in which a protein is read, half a window apart from its start on, the last one at its end."""
        size = self.facts.window
        if length <= size:
            return [(0, length)]
        starts = [*range(0, length - size, max(size // 2, 1)), length - size]
        return [(start, start + size) for start in starts]

    def tile_of(self, length: int, start: int, end: int) -> tuple[int, int] | None:
        """The tile in which residues [start, end) lie most central, the first of two; None if none has all of them."""
        tiles = [tile for tile in self.tiles(length) if tile[0] <= start and end <= tile[1]]
        return min(tiles, key=lambda tile: abs(start + end - sum(tile)), default=None)

    def named(self, method: str, length: int) -> str:
        """The name of a marginal's method for a protein of so many residues."""
        return method if length <= self.facts.window else method + TILED

    def profile(self, sequence: str) -> list[tuple[Request, int, int, int]]:
        """What is asked for the wild-type marginals of all residues: one pass for each tile.

        Returns:
            Requests, the residues [first, last) that each answers for, and the entry of its answer at which they start.
        """
        tiles = self.tiles(len(sequence))
        # Between the middles of two tiles a residue belongs to the nearer one, as in `tile_of`.
        ends = [(sum(one) + sum(two) - 2) // 4 + 1 for one, two in pairwise(tiles)]
        found = []
        for (begin, end), first, last in zip(tiles, [0, *ends], [*ends, len(sequence)], strict=True):
            text = sequence[begin:end]
            for block in range((first - begin) // BLOCK * BLOCK, last - begin, BLOCK):
                own = max(first, begin + block), min(last, begin + block + BLOCK)
                found.append((self._block(text, block), *own, (own[0] - begin - block) * len(AMINO_ACIDS)))
        return found

    def residue(self, sequence: str, place: int) -> Request:
        """What is asked for the masked marginal of one residue: 20 entries in the order of `residues.AMINO_ACIDS`."""
        tile = self.tile_of(len(sequence), place, place + 1)
        assert tile is not None
        return Request(self.masked_method, sequence[slice(*tile)], (place - tile[0],), len(AMINO_ACIDS))

    def plan(self, window: str, offset: int, ref: str, alt: str) -> Plan | None:
        """How to score a change of a protein at residue `offset`; `window` is the whole protein, whatever its length.

        `ref` is what the protein has there. An insertion has none, a deletion has no `alt`.
        """
        if len(ref) != len(alt):
            return self._indel(window, *leftmost(window, offset, ref, alt))
        changed = [place for place in range(len(ref)) if ref[place] != alt[place]]
        if not changed or not all({ref[place], alt[place]} <= INDEX_OF.keys() for place in changed):
            return None
        first, last = offset + changed[0], offset + changed[-1] + 1
        if self.reading.one_pass_marginals:
            tiles = [self.tile_of(len(window), offset + place, offset + place + 1) for place in changed]
        else:
            tiles = [self.tile_of(len(window), first, last)] * len(changed)
        plans = []
        for number, (place, tile) in enumerate(zip(changed, tiles, strict=True)):
            if tile is None:
                return None
            text, at = window[slice(*tile)], offset + place - tile[0]
            if self.reading.one_pass_marginals:
                request, entry = self._block(text, at // BLOCK * BLOCK), at % BLOCK * len(AMINO_ACIDS)
            else:
                places = tuple(offset + other - tile[0] for other in changed)
                request = Request(self.masked_method, text, places, len(changed) * len(AMINO_ACIDS))
                entry = number * len(AMINO_ACIDS)
            entries = (entry + INDEX_OF[letter] for letter in (alt[place], ref[place]))
            plans.append(Plan(self.named(self.site_method, len(window)), request, request, *entries))
        return replace(plans[0], more=tuple(plans[1:]))

    def _block(self, text: str, first: int) -> Request:
        """The wild-type marginals of the residues of a tile from `first` on."""
        return Request(self.wild_type_method, text, (first,), BLOCK * len(AMINO_ACIDS))

    def _indel(self, sequence: str, start: int, ref: str, alt: str) -> Plan | None:
        """Both proteins over the same flanks, as much of them as the window has room for."""
        after = len(sequence) - start - len(ref)
        room = self.facts.window - max(len(ref), len(alt))
        left = min(start, max(room // 2, room - after))
        right = min(after, room - left)
        if room < 1 or left + right < 1 or not set(alt) <= INDEX_OF.keys():
            return None
        plan = self.pair(sequence[start - left : start + len(ref) + right], left, ref, alt)
        whole = left == start and right == after
        return plan if plan is None or whole else replace(plan, method=self.pair_method + TILED)

    def parts(self, request: Request) -> Iterator[Part]:
        if request.kind == self.pair_method:
            yield from self.likelihood_parts(request.sequence)
            return
        assert self.tokeniser is not None
        places = np.array(request.at)
        if request.kind == self.wild_type_method:
            places = np.arange(places[0], min(places[0] + BLOCK, len(request.sequence)))
        positions = places + self.tokeniser.lead
        masked = tuple(map(int, positions)) if request.kind == self.masked_method else ()
        every = np.broadcast_to(np.arange(len(AMINO_ACIDS)), (len(places), len(AMINO_ACIDS)))
        yield Part(0, Row(self._tokens(request.sequence).ids, masked), positions, every, apart=True)


def leftmost(sequence: str, start: int, ref: str, alt: str) -> tuple[int, str, str]:
    """A change without what both sides share, an indel at the first of the places where it gives the same protein."""
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    while ref and alt and ref[0] == alt[0]:
        start, ref, alt = start + 1, ref[1:], alt[1:]
    if not ref or not alt:
        while start and sequence[start - 1] == (ref or alt)[-1]:
            start -= 1
            ref, alt = (text and sequence[start] + text[:-1] for text in (ref, alt))
    return start, ref, alt


SCHEMES: dict[tuple[str, str], type[Scheme]] = {
    ("single-base", "bidirectional"): MaskedBases,
    ("single-base", "masked"): MaskedBases,
    ("overlapping-kmer", "masked"): MaskedOverlappingKmers,
    ("kmer", "masked"): MaskedKmers,
    ("bpe", "masked"): MaskedPieces,
    ("residue", "masked"): MaskedResidues,
    **{(tokenisation, "causal"): Causal for tokenisation in ("single-base", "kmer", "bpe")},
}


# What each family predicts; code of a checkpoint may do either.
OBJECTIVES = {
    "bidirectional-conv": "bidirectional",
    **dict.fromkeys(("bert", "esm", "esm-gated", "mosaic-bert", "modernbert", "esmc"), "masked"),
    **dict.fromkeys(("llama", "mistral", "mixtral", "gpt-neox", "gpt2"), "causal"),
}


def read_scheme(facts: ModelFacts, reading: Reading) -> Scheme:
    """How a fetched model is asked, by its tokenisation and objective, with its tokeniser and without its network.

    Raises:
        BadInput: no scheme fits the registry entry, or the vocabulary does not.
    """
    kind = SCHEMES.get((facts.tokenisation, facts.objective))
    if kind is None or facts.objective != OBJECTIVES.get(facts.family, facts.objective):
        raise BadInput(
            f"{facts.id}: no way to score a {facts.family} network with tokenisation {facts.tokenisation} and "
            f"objective {facts.objective}; correct the model registry"
        )
    if (facts.tokenisation == "residue") != (facts.kind == "protein"):
        raise BadInput(
            f"{facts.id}: the entry says kind: {facts.kind} and tokenisation: {facts.tokenisation}, and residue goes "
            "with protein alone; correct the model registry"
        )
    if facts.objective == "bidirectional":
        return kind(facts, None, reading)
    scheme = kind(facts, load_tokeniser(facts), reading)
    scheme.room = learned_positions(facts)
    return scheme


def learned_positions(facts: ModelFacts) -> int | None:
    """Tokens that a network with a table of positions can take; None for one that has no table.

    Raises:
        BadInput: config.json has no number there.
    """
    unsaid = {"bert": 512, "gpt2": 1024, "esm": 1026}  # what transformers takes where config.json is silent
    if facts.family not in unsaid:
        return None
    config = read_config(facts)
    if facts.family == "esm" and config.get("position_embedding_type", "absolute") != "absolute":
        return None
    name = "n_positions" if facts.family == "gpt2" else "max_position_embeddings"
    try:
        room = int(config.get(name, unsaid[facts.family]))
        # ESM's positions count on from the padding token's number.
        return room - int(config["pad_token_id"]) - 1 if facts.family == "esm" else room
    except (KeyError, TypeError, ValueError) as error:
        file = checkpoint_folder(facts) / "config.json"
        raise BadInput(f"{file}: no config of a {facts.family} network ({error}); restore the file") from error
