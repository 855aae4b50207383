"""Every family and tokenisation, scored by the engine, against one row, one allele and one strand at a time.

The reference below cuts tokens with string slices and asks the network for the full logits of one unpadded row.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from random_models import KINDS, write_checkpoint

from seqprior.adapters import load_adapter
from seqprior.embedding import Scorer
from seqprior.plans import Reading, read_scheme
from seqprior.shards import ALLELE_COLUMNS
from seqprior.windows import Windows

pytestmark = pytest.mark.usefixtures("one_thread")

OTHER = str.maketrans("ACGT", "TGCA")
WINDOW = 60
MODES = {
    "default": Reading(),
    "one-pass": Reading(one_pass_marginals=True),
    "exact": Reading(exact_likelihoods=True),
}
CONTIG = "".join(random.Random(4).choices("ACGT", k=205)) + "N" + "".join(random.Random(5).choices("ACGT", k=95))


def other_strand(text: str) -> str:
    return text.translate(OTHER)[::-1]


def some_alleles() -> list[tuple[int, str, str]]:
    """(0-based start, ref, alt): all kinds, at both ends, in one k-mer and over the border of two, beside an N."""
    rng = random.Random(9)
    last = len(CONTIG) - 1
    found = []
    for start in (0, 1, 30, 60, 61, 62, 65, 66, 130, 203, 207, last - 1, last):
        ref = CONTIG[start]
        found += [
            (start, ref, alt) for alt in rng.sample([b for b in "ACGT" if b != ref], 2 if start in (61, 130) else 1)
        ]
    found += [(s, CONTIG[s : s + 2], CONTIG[s : s + 2].translate(OTHER)) for s in (63, 65, 120)]
    found += [(s, CONTIG[s], CONTIG[s] + ins) for s, ins in ((40, "C"), (90, "GATTAC"), (100, "TT"))]
    found += [(s, CONTIG[s : s + n], CONTIG[s]) for s, n in ((45, 2), (150, 7), (110, 4))]
    return sorted(found)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    return cache(lambda name: write_checkpoint(name, folder / name, window=WINDOW))


def scored(facts, reading: Reading, budget: int | None = 4096, order=None, arithmetic: str = "float32") -> pd.DataFrame:
    adapter = load_adapter(facts, torch.device("cpu"), arithmetic, reading)
    part = Windows(facts, 0.5, reading.one_pass_marginals)
    for start, ref, alt in some_alleles():
        part.add("c", CONTIG, (f"c-{start + 1}-{ref}-{alt}", "c", start + 1, ref, alt))
    part.flush()
    frame = pd.DataFrame(part.alleles, columns=list(ALLELE_COLUMNS))
    if order is not None:
        frame = frame.iloc[order].reset_index(drop=True)
    scheme = read_scheme(facts, reading)
    result = Scorer(scheme, lambda: adapter, budget, facts.embedding_window).score(frame, part.sequences)
    result["window"] = [None if pd.isna(n) else part.sequences[int(n)] for n in frame["window"]]
    result["offset"] = frame["offset"]
    return result


class Reference:
    """One model, asked row by row."""

    def __init__(self, facts) -> None:
        import transformers

        self.facts, self.kind = facts, KINDS[facts.id]
        self.read: dict[tuple[int, ...], torch.Tensor] = {}
        config = json.loads((facts.path / "config.json").read_text())
        if self.kind.family in ("esm-gated", "mosaic-bert"):
            self.adapter = load_adapter(facts, torch.device("cpu"), "float32", Reading())
            network = self.adapter.network
            self.logits = lambda ids: network.head(network.states(ids))
        else:
            model = getattr(transformers, config["architectures"][0]).from_pretrained(facts.path).eval()
            self.logits = lambda ids: model(input_ids=ids).logits
        if self.kind.tokenisation == "bpe":
            from tokenizers import Tokenizer

            self.pairs = Tokenizer.from_file(str(facts.path / "tokenizer.json"))
            self.number = self.pairs.get_vocab()
        else:
            self.number = {t: n for n, t in enumerate((facts.path / "vocab.txt").read_text().split("\n")) if t}
        self.dna = [n for t, n in self.number.items() if t and set(t) <= set("ACGT")]
        if self.kind.tokenisation == "overlapping-kmer":
            self.dna = [n for t, n in self.number.items() if len(t) == self.kind.k and set(t) <= set("ACGT")]

    def cut(self, text: str) -> list[str]:
        k = self.kind.k
        if self.kind.tokenisation == "bpe":
            return [text[a:b] for a, b in self.pairs.encode(text, add_special_tokens=False).offsets]
        if self.kind.tokenisation == "single-base":
            return list(text)
        if self.kind.tokenisation == "overlapping-kmer":
            return [text[at : at + k] for at in range(len(text) - k + 1)]
        pieces = [text[at : at + k] for at in range(0, len(text), k)]
        return [t for piece in pieces for t in ([piece] if piece in self.number else list(piece))]

    def row(self, tokens: list[str], masked=(), end: bool = True) -> tuple[torch.Tensor, int]:
        roles = self.facts.tokens
        ids = [self.number.get(t, self.number[roles["unknown"]]) for t in tokens]
        for at in masked:
            ids[at] = self.number[roles["mask"]]
        lead = int("start" in roles)
        ids = [self.number[roles["start"]]] * lead + ids
        if end and "end" in roles:
            ids.append(self.number[roles["end"]])
        return torch.tensor([ids]), lead

    @torch.no_grad()
    def log_probability(self, tokens: list[str], at: int, wanted: str, masked=(), among=None) -> float:
        """log p(wanted) for token `at`, over the tokens of bases or over those of `among`."""
        causal = self.kind.objective == "causal"
        ids, lead = self.row(tokens, masked, end=not causal)
        key = tuple(ids[0].tolist())
        if key not in self.read:  # one row is read at many places
            self.read[key] = self.logits(ids)[0].double()
        logits = self.read[key][at + lead - int(causal)]
        others = self.dna
        if self.kind.tokenisation == "kmer":  # whole k-mers among k-mers, left-over bases among bases
            others = [n for t, n in self.number.items() if len(t) == len(wanted) and set(t) <= set("ACGT")]
        if among is not None:
            others = [self.number[token] for token in among]
        return (logits[self.number[wanted]] - torch.logsumexp(logits[others], 0)).item()

    def known(self, token: str) -> bool:
        return self.number.get(token, -1) in set(self.dna)

    def llr(self, method: str, window: str, offset: int, ref: str, alt: str) -> list[float]:
        """By the definition of each method in docs/scores.md, on both strands."""
        if method == "masked_spelling_likelihood":  # the fewest masks that do for both strands
            pieces = window[:offset], ref, alt, window[offset + len(ref) :]
            other = [other_strand(piece) for piece in (pieces[3], ref, alt, pieces[0])]
            for more in (0, 1, 2):
                found = [self.masked_spelling_likelihood(*strand, more) for strand in (pieces, other)]
                if None not in found:
                    return found
        results = []
        for strand in range(2):
            left, right = window[:offset], window[offset + len(ref) :]
            if strand:
                left, right = other_strand(right), other_strand(left)
                ref, alt = other_strand(ref), other_strand(alt)
            results.append(getattr(self, method)(left, ref, alt, right))
        return results

    def masked_marginal(self, left, ref, alt, right):
        tokens, at = self.cut(left + ref + right), len(left)
        if self.kind.tokenisation == "overlapping-kmer":
            k = self.kind.k
            over = [t for t in range(len(left) - k + 1, len(left) + 1) if 0 <= t < len(tokens)]
            hidden = self.masks * tuple(over)
            changed = self.cut(left + alt + right)
            each = [
                self.log_probability(tokens, t, changed[t], hidden) - self.log_probability(tokens, t, tokens[t], hidden)
                for t in over
            ]
            return sum(each) / len(each)
        hidden = self.masks * (at,)
        return self.log_probability(tokens, at, alt, hidden) - self.log_probability(tokens, at, ref, hidden)

    masks = 1

    def unmasked_marginal(self, *pieces):
        self.masks = 0
        try:
            return self.masked_marginal(*pieces)
        finally:
            self.masks = 1

    def masked_token_marginal(self, left, ref, alt, right):
        k = self.kind.k
        text, at = left + ref + right, len(left) // k * k
        token, other = text[at : at + k], (left + alt + right)[at : at + k]
        tokens = self.cut(text)
        spot = len(self.cut(text[:at]))
        assert tokens[spot] == token
        hidden = self.masks * (spot,)
        return self.log_probability(tokens, spot, other, hidden) - self.log_probability(tokens, spot, token, hidden)

    def unmasked_token_marginal(self, left, ref, alt, right):
        if self.kind.tokenisation == "kmer":
            self.masks = 0
            try:
                return self.masked_token_marginal(left, ref, alt, right)
            finally:
                self.masks = 1
        tokens, before = self.cut(left + ref + right), 0
        for spot, token in enumerate(tokens):
            if before <= len(left) < before + len(token):
                other = token[: len(left) - before] + alt + token[len(left) - before + 1 :]
                return self.log_probability(tokens, spot, other) - self.log_probability(tokens, spot, token)
            before += len(token)
        raise AssertionError

    def haplotype(self, text: str, exact: bool) -> float:
        tokens, k, total = self.cut(text), self.kind.k, 0.0
        if self.kind.tokenisation == "overlapping-kmer" and exact:
            for base in range(len(text)):
                over = [t for t in range(base - k + 1, base + 1) if 0 <= t < len(tokens) and self.known(tokens[t])]
                if text[base] in "ACGT" and over:
                    changed = [self.cut(text[:base] + letter + text[base + 1 :]) for letter in "ACGT"]
                    each = [
                        self.log_probability(tokens, t, tokens[t], tuple(over), [other[t] for other in changed])
                        for t in over
                    ]
                    total += sum(each) / len(each) + math.log(4)
            return total
        share = k if self.kind.tokenisation == "overlapping-kmer" else 1
        for spot, token in enumerate(tokens):
            if self.known(token):
                log_p = self.log_probability(tokens, spot, token, (spot,) if exact else ())
                total += (log_p + len(token) * math.log(4)) / share
        return total

    def unmasked_pseudo_likelihood(self, left, ref, alt, right, exact=False):
        return self.haplotype(left + alt + right, exact) - self.haplotype(left + ref + right, exact)

    def masked_pseudo_likelihood(self, left, ref, alt, right):
        return self.unmasked_pseudo_likelihood(left, ref, alt, right, exact=True)

    def masked_spelling_likelihood(self, left, ref, alt, right, more=0):
        """Every way to cut the span's bases into as many pieces, each piece a token of the vocabulary."""
        tokens = self.cut(left + ref + right)
        ends = np.cumsum([len(token) for token in tokens])
        starts = ends - [len(token) for token in tokens]
        over = [t for t in range(len(tokens)) if starts[t] < len(left) + len(ref) and ends[t] > len(left)]
        first, last = over[0], over[-1] + 1
        first -= first > 0 and self.known(tokens[first - 1])
        last += last < len(tokens) and self.known(tokens[last])
        span = tuple(range(first, last + more))
        ends = [0, *ends]
        begin, end = ends[first], ends[last]
        tokens = tokens[:last] + tokens[last - 1 : last] * more + tokens[last:]  # what the masks hide does not matter
        sums = []
        for allele in (alt, ref):
            bases = (left + allele + right)[begin:end]
            ways = []
            for cuts in itertools.combinations(range(1, len(bases)), len(span) - 1):
                pieces = [bases[a:b] for a, b in itertools.pairwise([0, *cuts, len(bases)])]
                if all(map(self.known, pieces)):
                    ways.append(
                        sum(self.log_probability(tokens, t, p, span) for t, p in zip(span, pieces, strict=True))
                    )
            sums.append(np.logaddexp.reduce(ways) if ways else None)
        return None if None in sums else sums[0] - sums[1]

    def masked_span_likelihood(self, left, ref, alt, right):
        first, second = self.cut(left + alt + right), self.cut(left + ref + right)
        start = 0
        while start < min(len(first), len(second)) and first[start] == second[start]:
            start += 1
        tail = 0
        while tail < min(len(first), len(second)) - start and first[-1 - tail] == second[-1 - tail]:
            tail += 1
        if min(len(first), len(second)) - start - tail == 0:
            start, tail = (start - 1, tail) if start else (start, tail - 1)
        sums = []
        for tokens in (first, second):
            span = tuple(range(start, len(tokens) - tail))
            sums.append(
                sum(self.log_probability(tokens, at, tokens[at], span) + len(tokens[at]) * math.log(4) for at in span)
            )
        return sums[0] - sums[1]

    def causal_likelihood(self, left, ref, alt, right):
        after = right[: WINDOW // 4 // self.kind.k * self.kind.k]
        sums = []
        for allele in (alt, ref):
            text = left + allele + after
            if self.kind.k > 1:
                text = text[: len(text) // self.kind.k * self.kind.k]
            tokens = self.cut(text)
            # The tokens before the allele are the same in both haplotypes and cancel.
            sums.append(
                sum(
                    self.log_probability(tokens, at, token) + len(token) * math.log(4)
                    for at, token in enumerate(tokens)
                    if self.known(token)
                )
            )
        return sums[0] - sums[1]

    def causal_marginal(self, left, ref, alt, right):
        return self.unmasked_token_marginal(left, ref, alt, right)


CASES = [
    (name, mode)
    for name, kind in KINDS.items()
    for mode in MODES
    if not (mode == "exact" and kind.objective == "causal")
]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_scores_equal_one_row_and_one_allele_at_a_time(checkpoints, name, mode):
    facts = checkpoints(name)
    found, reference = scored(facts, MODES[mode]), Reference(facts)
    assert len(found) == len(some_alleles())
    done = found[found["status"] == "scored"]
    for row in done.iloc[:: 5 if mode == "exact" else 1].itertuples():  # the reference takes a pass for every token
        expected = reference.llr(row.method, row.window, int(row.offset), row.ref, row.alt)
        np.testing.assert_allclose(
            [row.llr_fwd, row.llr_rev], expected, atol=1e-4, err_msg=f"{row.variant_id} {row.method}"
        )
        assert row.llr == pytest.approx(np.mean(expected), abs=1e-4)
    assert done["llr"].abs().median() > 0.01
    assert set(found.loc[found["status"] != "scored", "reason"]) <= {"not_evaluable_by_model"}
    least = 4 if (mode, KINDS[name].tokenisation) == ("one-pass", "bpe") else 16
    assert len(done) >= least, found[["variant_id", "status", "reason"]]
