"""What scoring a cohort will cost, counted before any model runs. Nothing here imports torch.

Alleles are planned as in a scoring job, a row group at a time, so alleles, sites, requests and what the score store has
of them are counted. Token rows, which take longer to make, are counted on a sample where there are many alleles; the
rest is taken to be like the sample, kind by kind. Rows are counted as the engine makes them, but for two things: a
batch pads rows to the longest by up to a tenth, and where a group is cut up to fit into memory, rows on both sides of a
cut are computed twice.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from seqprior.columns import Reason, Status
from seqprior.errors import BadInput
from seqprior.plans import Request, Scheme
from seqprior.sequence import reverse_complement
from seqprior.shards import read_groups
from seqprior.work import DISTANCES, make_packs, make_work, plan_group, portions

if TYPE_CHECKING:
    import pandas as pd

    from seqprior.store import ScoreStore

log = logging.getLogger(__name__)

KINDS = ("sites", "pairs", "embeddings")
SAMPLE_ALLELES = 20_000  # of which token rows are counted
SAMPLE_PASSES = 400_000  # of one kind, at which its sample ends: exact likelihoods take a pass for every token
KEYS_HELD = 500_000  # looked up in the store at a time
FACT_BYTES = 16 + 4 + 2  # of a stored answer beside its numbers: key, length, levels and checksums
SCORE_BYTES = 80  # of a row of scores: seven numbers that hardly compress, and the allele
MOST_SHARDS = 9999
LEAST_USE = 0.5  # share of a job that should be left for the model after loading


@dataclass(frozen=True)
class Rows:
    """Inputs of the network and the tokens in them, without padding."""

    passes: int = 0
    tokens: int = 0

    def __add__(self, other: Rows) -> Rows:
        return Rows(self.passes + other.passes, self.tokens + other.tokens)

    def times(self, factor: float) -> Rows:
        return self if factor == 1 else Rows(round(self.passes * factor), round(self.tokens * factor))


@dataclass
class Work:
    """What one kind of requests takes.

    Attributes:
        requests: that are asked, equal ones of a group once. cached: how many of them the store has.
        rows: of all requests. left: of those that the store lacks.
        fact_bytes: on disk, of the answers that the store lacks.
    """

    requests: int = 0
    cached: int = 0
    rows: Rows = field(default_factory=Rows)
    left: Rows = field(default_factory=Rows)
    fact_bytes: int = 0


@dataclass
class Cost:
    """What scoring takes.

    Attributes:
        alleles: of all shards. evaluable: those that the model can score. reasons: why the others are skipped.
        sites: distinct places of evaluable substitutions of one base. pairs: alleles that are scored as two haplotypes.
        sampled: alleles in the row groups whose rows were counted. exact: rows were counted for all alleles.
    """

    work: dict[str, Work]
    alleles: int = 0
    evaluable: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    sites: int = 0
    pairs: int = 0
    windows: int = 0
    window_bytes: int = 0
    sampled: int = 0
    exact: bool = True

    @property
    def requests(self) -> int:
        return sum(work.requests for work in self.work.values())

    @property
    def cached(self) -> int:
        return sum(work.cached for work in self.work.values())

    @property
    def rows(self) -> Rows:
        return sum((work.rows for work in self.work.values()), Rows())

    @property
    def left(self) -> Rows:
        return sum((work.left for work in self.work.values()), Rows())


@dataclass
class Asked:
    """What a scoring job asks for one group of alleles.

    Attributes:
        requests: distinct ones, by the engine's kind and width, each in the order of the alleles.
        substitutions: (contig, position) of each evaluable substitution of one base, in order.
    """

    requests: dict[tuple[str, int], dict[Request, None]] = field(default_factory=dict)
    evaluable: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    pairs: int = 0
    substitutions: list[tuple[str, int]] = field(default_factory=list)

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.requests.setdefault((request.kind, request.width), {})[request] = None


def asked(
    scheme: Scheme, frame: pd.DataFrame, windows: Sequence[str], first: int, embedding_window: int | None
) -> Asked:
    """Plan a group of `shards.read_groups` as the engine does.

    Args:
        first: number of `windows`' first. embedding_window: bases over which embeddings are compared; None for none.
    """
    planned = plan_group(scheme, frame, windows, first, embedding_window)
    group = Asked(evaluable=len(planned.rows), pairs=sum(plan.alt != plan.ref for plan in planned.plans))
    group.add(*planned.requests)
    skipped = frame["status"] != Status.SCORED
    group.reasons.update(map(str, frame.loc[skipped, "reason"]))
    if refused := int((~skipped).sum()) - group.evaluable:
        group.reasons[str(Reason.NOT_EVALUABLE_BY_MODEL)] += refused
    scored = frame.iloc[planned.rows]
    single = scored[(scored["ref"].str.len() == 1) & (scored["alt"].str.len() == 1)]
    group.substitutions = list(zip(single["chrom"], single["pos"], strict=True))
    return group


def kind_of(scheme: Scheme, kind: str) -> str:
    """Which of `KINDS` a kind of request is. Models that score a substitution by two haplotypes have no sites."""
    if kind == DISTANCES:
        return "embeddings"
    return "pairs" if kind == scheme.pair_method else "sites"


def rows_of(scheme: Scheme, requests: Iterable[Request]) -> Rows:
    """The distinct rows that answer requests of one kind and width which are asked together."""
    total = Rows()
    for portion in portions(list(requests), scheme.passes):
        if portion[0].kind == DISTANCES:
            total += _embedded(scheme, portion)
        elif scheme.facts.objective == "bidirectional":
            total += _whole_sequences(portion, shared=portion[0].kind == scheme.site_method)
        else:
            branches = scheme.facts.objective == "causal" and scheme.facts.family != "remote-code"
            packs = make_packs(make_work(scheme, portion).rows, branches)
            total += Rows(len(packs), sum(pack.length for pack in packs))
    return total


def _embedded(scheme: Scheme, requests: Sequence[Request]) -> Rows:
    """Both strands of each distinct haplotype; a bidirectional network reads both at once."""
    haplotypes = set()
    for request in requests:
        left, ref, alt, right = request.sequence.split(" ")
        haplotypes |= {left + ref + right, left + alt + right}
    tokeniser = scheme.tokeniser
    if tokeniser is None:
        return Rows(len(haplotypes), sum(map(len, haplotypes)))
    texts = (text for haplotype in haplotypes for text in (haplotype, reverse_complement(haplotype)))
    return Rows(2 * len(haplotypes), sum(len(tokeniser.tokens(text)) for text in texts))


def _whole_sequences(requests: Sequence[Request], shared: bool) -> Rows:
    """Sequences that answer for both strands in one pass; sites that lie in one window share it."""
    sequences = [request.sequence for request in requests]
    if shared:
        sequences = list(set(sequences))
    return Rows(len(sequences), sum(map(len, sequences)))


@dataclass
class _Sampled:
    """Those requests of a kind whose rows were counted."""

    requests: int = 0
    missing: int = 0
    passes: int = 0
    rows: Rows = field(default_factory=Rows)
    left: Rows = field(default_factory=Rows)


@dataclass
class _Waiting:
    """Requests of one kind that were not yet looked up in the store. Equal ones of different groups have one key."""

    requests: int = 0
    keys: set[bytes] = field(default_factory=set)


class _Count:
    """A count in progress."""

    def __init__(self, scheme: Scheme, embedding_window: int | None, store: ScoreStore | None) -> None:
        self.scheme, self.embedding_window, self.store = scheme, embedding_window, store
        self.cost = Cost({kind: Work() for kind in KINDS})
        self._samples = {kind: _Sampled() for kind in KINDS}
        self._waiting = {kind: _Waiting() for kind in KINDS}
        self._answer_bytes: Counter[str] = Counter()
        self._cached = dict.fromkeys(KINDS, 0.0)
        self._place: tuple[str, int] | None = None

    def add(self, frame: pd.DataFrame, windows: Sequence[str], first: int, sampled: bool) -> None:
        """Count a group of `shards.read_groups`; `sampled` groups have their rows counted."""
        group = asked(self.scheme, frame, windows, first, self.embedding_window)
        cost = self.cost
        cost.alleles += len(frame)
        cost.evaluable += group.evaluable
        cost.reasons.update(group.reasons)
        cost.pairs += group.pairs
        cost.windows += len(windows)
        cost.sampled += len(frame) if sampled else 0
        for place in group.substitutions:
            cost.sites += place != self._place
            self._place = place
        for (kind, width), requests in group.requests.items():
            name = kind_of(self.scheme, kind)
            cost.work[name].requests += len(requests)
            self._answer_bytes[name] += len(requests) * (FACT_BYTES + 2 * 4 * width)
            keys = self._keys(name, requests)
            if sampled:
                self._sample(name, list(requests), keys)

    def _keys(self, name: str, requests: Iterable[Request]) -> list[bytes]:
        if self.store is None:
            return []
        salt = self.scheme.salt
        keys = [request.key(salt) for request in requests]
        self._waiting[name].requests += len(keys)
        self._waiting[name].keys.update(keys)
        if sum(len(waiting.keys) for waiting in self._waiting.values()) >= KEYS_HELD:
            self._look_up()
        return keys

    def _look_up(self) -> None:
        for name, waiting in self._waiting.items():
            if waiting.keys and self.store is not None:
                share = self.store.known(list(waiting.keys)) / len(waiting.keys)
                self._cached[name] += share * waiting.requests
            self._waiting[name] = _Waiting()

    def _sample(self, name: str, requests: list[Request], keys: list[bytes]) -> None:
        sample = self._samples[name]
        count = 0
        for request in requests:
            if sample.passes >= SAMPLE_PASSES:
                break
            sample.passes += self.scheme.passes(request)
            count += 1
        counted = requests[:count]
        missing = counted
        if keys and counted and self.store is not None:
            found = self.store.lookup_arrays(keys[:count])[0]
            missing = [request for request, known in zip(counted, found, strict=True) if not known]
        rows = rows_of(self.scheme, counted)
        sample.requests += count
        sample.missing += len(missing)
        sample.rows += rows
        sample.left += rows if len(missing) == count else rows_of(self.scheme, missing)

    def finish(self) -> Cost:
        """The whole count, the rows extrapolated from the sample."""
        self._look_up()
        for name, work in self.cost.work.items():
            sample = self._samples[name]
            if not work.requests:
                continue
            work.cached = round(self._cached[name])
            missing = work.requests - work.cached
            self.cost.exact &= sample.requests == work.requests
            if sample.requests:
                work.rows = sample.rows.times(work.requests / sample.requests)
            whole = sample.requests == work.requests
            if sample.missing:
                work.left = sample.left if whole else sample.left.times(missing / sample.missing)
            elif not whole:
                work.left = work.rows.times(missing / work.requests)
            work.fact_bytes = round(self._answer_bytes[name] * missing / work.requests)
        return self.cost


def count_cost(
    scheme: Scheme, shards: Sequence[Path], embedding_window: int | None, store: ScoreStore | None = None
) -> Cost:
    """Count what scoring shards takes. Memory holds a row group and some keys, whatever the number of alleles.

    Args:
        shards: folders that `windows.extract_windows` wrote.
        embedding_window: bases over which embeddings are compared; None if none are.
        store: where answers are kept; None if nowhere.
    """
    sizes = [size for shard in shards for size in _group_sizes(shard)]
    chosen = sampled_groups(sizes)
    count, number = _Count(scheme, embedding_window, store), 0
    for shard in shards:
        for frame, windows, first in read_groups(shard):
            count.add(frame, windows, first, number in chosen)
            number += 1
        count.cost.window_bytes += sum(file.stat().st_size for file in shard.glob("*.parquet"))
        log.info("%s: planned %d of %d alleles", scheme.facts.id, count.cost.alleles, sum(sizes))
    return count.finish()


def _group_sizes(shard: Path) -> list[int]:
    """Alleles in each row group of a shard."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(shard / "alleles.parquet") as table:
        return [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]


def sampled_groups(sizes: Sequence[int]) -> set[int]:
    """Numbers of the row groups whose rows are counted: all, or as many evenly spaced ones as hold `SAMPLE_ALLELES`."""
    if sum(sizes) <= SAMPLE_ALLELES:
        return set(range(len(sizes)))
    count = max(1, SAMPLE_ALLELES // max(sizes))
    return {number * len(sizes) // count for number in range(count)}


@dataclass(frozen=True)
class Probe:
    """What `probing.probe` measured of a model on a device; the file holds more, for people."""

    tokens_per_second: dict[str, float]
    load_seconds: float
    device_name: str
    arithmetic: str
    batch_tokens: int

    def seconds(self, cost: Cost) -> float:
        """Seconds for the tokens that the store lacks."""
        return sum(work.left.tokens / self.speed(kind) for kind, work in cost.work.items())

    def speed(self, kind: str) -> float:
        """Tokens a second; of the slowest kind where this one was not measured."""
        return self.tokens_per_second.get(kind, min(self.tokens_per_second.values()))


def read_probe(path: Path) -> Probe:
    """What probe_model.py wrote.

    Raises:
        BadInput: it is no such file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rates = {kind: float(found["tokens_per_second"][kind]) for kind in KINDS if kind in found["tokens_per_second"]}
        if not rates or min(rates.values()) <= 0:
            raise ValueError("no positive tokens_per_second")
        return Probe(
            rates,
            float(found["load_seconds"]),
            str(found["device_name"]),
            str(found["arithmetic"]),
            int(found["batch_tokens"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path}: no speed of a model, as probe_model.py writes it ({error}); delete it and run again"
        ) from error


def shards_for(seconds: float, load_seconds: float, minutes: float, alleles: int) -> int:
    """How many shards of `minutes` each, the loading included, take `seconds` of computing; at least 1."""
    room = max(60 * minutes - load_seconds, 60 * minutes * LEAST_USE)
    return max(1, min(ceil(seconds / room), MOST_SHARDS, alleles))


@dataclass(frozen=True)
class Estimate:
    """Cost and speed of one model together.

    Attributes:
        shards: the recommended number.
        stored: answers are kept in a score store.
        background: cost of the reference's neutral background, which is scored once for all cohorts; None if it is
            scored already.
    """

    model: str
    cost: Cost
    probe: Probe
    shards: int
    stored: bool
    background: Cost | None = None

    def device_seconds(self, cost: Cost | None) -> float:
        """On the device, loading in each shard included; 0 if nothing is left to compute."""
        if cost is None or not cost.left.tokens:
            return 0.0
        return self.probe.seconds(cost) + self.shards * self.probe.load_seconds

    @property
    def store_bytes(self) -> int:
        costs = [cost for cost in (self.cost, self.background) if cost is not None]
        return sum(work.fact_bytes for cost in costs for work in cost.work.values()) if self.stored else 0

    def rows(self) -> list[tuple[str, str, int | float, str, str]]:
        """`COLUMNS` of estimate.tsv: model, quantity, value, unit, how it was found."""
        cost, probe = self.cost, self.probe
        counted = "counted" if cost.exact else f"extrapolated from {cost.sampled} alleles"
        rate = f"tokens left at the probe's speed on {probe.device_name}"
        cached = "looked up in the score store" if self.stored else "no score store"
        found: list[tuple[str, int | float, str, str]] = [
            ("alleles", cost.alleles, "alleles", "counted"),
            ("evaluable", cost.evaluable, "alleles", "counted"),
            *((f"skipped_{reason}", number, "alleles", "counted") for reason, number in sorted(cost.reasons.items())),
            ("sites", cost.sites, "sites", "counted"),
            ("pairs", cost.pairs, "haplotype pairs", "counted"),
            ("windows", cost.windows, "windows", "counted"),
            ("requests", cost.requests, "requests", "counted"),
            ("requests_cached", cost.cached, "requests", cached),
            ("cached_share", cost.cached / cost.requests if cost.requests else 0.0, "share", cached),
            ("passes", cost.rows.passes, "token rows", counted),
            ("tokens", cost.rows.tokens, "tokens", counted),
            ("tokens_left", cost.left.tokens, "tokens", counted),
        ]
        for kind, work in cost.work.items():
            if work.requests:
                found.append((f"tokens_left_{kind}", work.left.tokens, "tokens", counted))
                found.append(
                    (f"speed_{kind}", probe.speed(kind), "tokens a second", f"measured on {probe.device_name}")
                )
        found += [
            ("load_seconds", probe.load_seconds, "seconds a job", f"measured on {probe.device_name}"),
            ("device_hours", self.device_seconds(self.cost) / 3600, "hours", f"{rate}, and loading in each shard"),
            *self._background_rows(rate),
            ("shards", self.shards, "jobs", "recommended by scoring.shard_minutes"),
            ("store_bytes", self.store_bytes, "bytes", "answers that the store lacks" if self.stored else cached),
            ("window_bytes", cost.window_bytes, "bytes", "on disk now"),
            ("score_bytes", cost.alleles * SCORE_BYTES, "bytes", f"{SCORE_BYTES} bytes a row"),
        ]
        return [(self.model, *row) for row in found]

    def _background_rows(self, rate: str) -> list[tuple[str, int | float, str, str]]:
        cost = self.background
        if cost is None:
            return [("background_device_hours", 0.0, "hours", "the neutral background is scored already")]
        counted = "counted" if cost.exact else f"extrapolated from {cost.sampled} alleles"
        hours = self.device_seconds(cost) / 3600
        return [
            ("background_tokens_left", cost.left.tokens, "tokens", f"{counted}, once for all cohorts of the reference"),
            ("background_device_hours", hours, "hours", f"{rate}, and loading in each shard"),
        ]


COLUMNS = ("model", "quantity", "value", "unit", "how")


def estimate(
    model: str,
    cost: Cost,
    probe: Probe,
    *,
    minutes: float,
    shards: int,
    started: bool,
    stored: bool,
    background: Cost | None = None,
) -> Estimate:
    """Put cost and speed together; see `Estimate`.

    Args:
        minutes: that a scoring job should take. shards: how many there are now.
        started: some are scored already. Their number then stays unless more are needed, since other shards would have
            to be scored anew.
    """
    wanted = shards_for(probe.seconds(cost), probe.load_seconds, minutes, cost.alleles)
    return Estimate(model, cost, probe, max(wanted, shards) if started else wanted, stored, background)


def as_tsv(estimates: Sequence[Estimate]) -> str:
    """estimate.tsv."""
    rows = [COLUMNS, *(row for found in estimates for row in found.rows())]
    return "".join("\t".join(map(_number, row)) + "\n" for row in rows)


def as_json(cohort: str, estimates: Sequence[Estimate]) -> str:
    """estimate.json: the quantities by model."""
    models = {
        found.model: {quantity: value for _, quantity, value, _, _ in found.rows()}
        | {
            "device_name": found.probe.device_name,
            "arithmetic": found.probe.arithmetic,
            "batch_tokens": found.probe.batch_tokens,
        }
        for found in estimates
    }
    return json.dumps({"cohort": cohort, "models": models}, indent=2) + "\n"


def as_table(found: Estimate) -> str:
    """One model's estimate for people."""
    rows = [(quantity, readable(value, unit), how) for _, quantity, value, unit, how in found.rows()]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [f"{found.model} in {found.probe.arithmetic} on {found.probe.device_name}"]
    lines += [f"  {quantity:<{widths[0]}}  {value:>{widths[1]}}  {how}" for quantity, value, how in rows]
    return "\n".join(lines) + "\n"


def _number(value: str | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def readable(value: float, unit: str) -> str:
    """A value with its unit: shares in per cent, bytes in kB, MB or GB, thousands apart."""
    if unit == "share":
        return f"{100 * value:.1f} %"
    if unit == "bytes":
        name, size = next(((n, s) for n, s in (("GB", 1e9), ("MB", 1e6)) if value >= s), ("kB", 1e3))
        return f"{value / size:,.1f} {name}"
    number = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"
    return f"{number} {unit}"
