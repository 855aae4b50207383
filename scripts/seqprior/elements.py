"""Training and judging the classifiers of one element, fold by fold.

Each fold of intervals is held out in turn. One other fold is the inner validation, by which training is stopped early
and strengths of regularisation are chosen; the rest trains. What is reported of a head, of a baseline, and of choosing
between heads by inner validation (`selected`), is what they say of intervals in folds they have not seen. Probabilities
are calibrated the same way: on the held-out logits of the other folds.

The features of all intervals lie in a file beside the output while training goes on; memory holds one batch of them.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from seqprior.batching import Batcher
from seqprior.columns import ELEMENT_METRICS, INTERVALS, PREDICTIONS
from seqprior.errors import BadInput
from seqprior.features import FITTED_BASES, FITTED_WINDOWS, Reader, context_of, fit_projection, random_windows
from seqprior.files import full_disk_named, written_whole
from seqprior.heads import FITTERS, KINDS, Head, Network, save_head, uses_states
from seqprior.sequence import UNKNOWN, encode
from seqprior.vectors import folder_written_whole
from seqprior.windows import padded

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

    from seqprior.adapters import Adapter

log = logging.getLogger(__name__)

SHIFTED = 8  # training windows are shifted by up to window / SHIFTED, as scanned ones lie off an element's middle
BATCH, ASKED = 64, 256  # windows of a training step, and that are asked together
READ, FETCHED = 32, 4096  # windows that are embedded, or fetched, together
BATCH_TOKENS = 8192  # that the sequence model reads together
RATE, DECAY, WARM_UP, PATIENCE = 0.01, 0.01, 0.2, 8  # AdamW's, share of steps that warms up, epochs without a gain
STRENGTHS = (0.001, 0.01, 0.1)  # inverse penalties of logistic regressions
BASELINE_WINDOWS = 20_000  # that a baseline is fitted to at most: its counts are in memory
KMERS = {"6-mers": [range(6)], "gapped 6-mers": [(0, 1, 2, 3 + gap, 4 + gap, 5 + gap) for gap in range(11)]}
FEWEST_ISOTONIC = 1000  # intervals from which isotonic calibration is tried
RESAMPLES, RESAMPLED_TOGETHER = 1000, 50
BLOCK, FEWEST_BLOCKS = 100_000, 20  # bases of a contig that are resampled as one, unless there are too few such blocks
BINS = 10  # of probabilities, for the calibration error
POINTS = 200  # of a curve
LARGEST_HALF = 60_000.0  # float16 ends at 65,504
BOTH, ALONE = "convolution-and-sequence", "sequence"  # whose difference is what the model's states add


@dataclass(frozen=True)
class Training:
    """What decides about the heads; the config's section `regulatory`."""

    window: int
    heads: Sequence[str] = KINDS
    epochs: int = 40
    threshold: float = 0.5
    seed: int = 1


@dataclass
class Windows:
    """The intervals as a head sees them, each with `margin` bases either side to shift into.

    Attributes:
        codes: uint8 (N, W + 2 * margin), unknown beyond a contig's end.
        features: float16 (N, 2, W + 2 * margin, D) by strand, in forward order of bases, zero beyond a contig's end;
            None without a sequence model. A file on disk.
        labels: int64 (N,). folds: int64 (N,), numbered from 0.
    """

    codes: np.ndarray
    features: np.ndarray | None
    labels: np.ndarray
    folds: np.ndarray
    margin: int

    @property
    def width(self) -> int:
        return self.codes.shape[1] - 2 * self.margin

    def batch(
        self, kind: str, which: np.ndarray, shifts: np.ndarray | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """What a head of this kind is given of the windows `which` (B,): features by strand and codes."""
        shifts = np.zeros(len(which), np.int64) if shifts is None else shifts
        places = (self.margin + shifts)[:, None] + np.arange(self.width)
        codes = torch.from_numpy(self.codes[which[:, None], places].astype(np.int64))
        if not uses_states(kind):
            return None, None, codes
        assert self.features is not None
        cut = np.stack(
            [self.features[number, :, at : at + self.width] for number, at in zip(which, places[:, 0], strict=True)]
        )
        strands = torch.from_numpy(cut).float()
        return strands[:, 0], strands[:, 1], codes


def read_intervals(path: Path, window: int) -> pd.DataFrame:
    """The labelled intervals, with folds numbered from 0.

    Raises:
        BadInput: they are of another width, or have too few folds or labels to hold some out.
    """
    import pandas as pd

    table = pd.read_parquet(path, columns=list(INTERVALS))
    widths = sorted(set((table["end"] - table["start"]).tolist()))
    if widths != [window]:
        raise BadInput(
            f"{path}: found intervals of {', '.join(map(str, widths[:5])) or 'no'} bases, expected {window} as "
            "regulatory.window says; draw the intervals again"
        )
    table["fold"] = np.unique(table["fold"], return_inverse=True)[1]
    counts = table.groupby("fold")["label"].nunique()
    if len(counts) < 3 or counts.min() < 2:
        raise BadInput(
            f"{path}: found {len(counts)} folds, of which {int((counts < 2).sum())} lack a label; expected three or "
            "more with positives and negatives; give more intervals or lower regulatory.folds"
        )
    return table


@contextmanager
def embedded(
    table: pd.DataFrame, fasta: Path, reader: Reader | None, context: int, margin: int, beside: Path
) -> Iterator[Windows]:
    """The intervals' bases and features; the file that holds the features is removed at the end, whatever happens.

    Args:
        reader: with a projection; None for heads that use bases alone. context: bases either side of what is kept that
            the model sees, where the contig has them. beside: the temporary file is made in this file's folder.
    """
    import pysam

    width = int(table["end"].iloc[0] - table["start"].iloc[0]) + 2 * margin
    codes = np.full((len(table), width), UNKNOWN, np.uint8)
    labels, folds = table["label"].to_numpy(np.int64), table["fold"].to_numpy(np.int64)
    beside.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=".features-", dir=beside.parent) as folder,
        full_disk_named(beside.parent),
        pysam.FastaFile(str(fasta)) as reference,
    ):
        features = None
        if reader is not None:
            assert reader.projection is not None
            shape = (len(table), 2, width, reader.projection.matrix.shape[1])
            log.info(
                "the features of %d intervals take %.2f GB of disk meanwhile", len(table), 2 * math.prod(shape) / 1e9
            )
            features = np.lib.format.open_memmap(Path(folder) / "features.npy", "w+", np.float16, shape)
        step = READ if reader is not None else FETCHED
        for first in range(0, len(table), step):
            texts, own, offsets = [], [], []
            rows = table.iloc[first : first + step]
            for row, (chrom, start) in enumerate(zip(rows["chrom"], rows["start"], strict=True), first):
                length = reference.get_reference_length(chrom)
                begin, end = max(start - margin, 0), min(start - margin + width, length)
                left, right = max(begin - context, 0), min(end + context, length)
                text = padded(reference.fetch(chrom, left, right).upper(), 0, right - left)
                offset = begin - (start - margin)
                codes[row, offset : offset + end - begin] = encode(text[begin - left : end - left])
                texts.append(text)
                own.append((begin - left, end - left))
                offsets.append(offset)
            if reader is None or features is None:
                continue
            for row, (offset, strands) in enumerate(zip(offsets, reader.read(texts, own), strict=True), first):
                for strand, values in enumerate(strands):
                    kept = values.clamp(-LARGEST_HALF, LARGEST_HALF).cpu().numpy()
                    features[row, strand, offset : offset + len(kept)] = kept
            if first // step % 10 == 0:
                log.info("embedded %d of %d intervals", first + len(rows), len(table))
        yield Windows(codes, features, labels, folds, margin)
        del features


def logits_of(network: Network, windows: Windows, which: np.ndarray) -> np.ndarray:
    """Logits of unshifted windows, float32 (B,)."""
    network.eval()
    with torch.inference_mode():
        parts = [
            network(*windows.batch(network.kind, which[at : at + ASKED])).numpy() for at in range(0, len(which), ASKED)
        ]
    return np.concatenate([np.empty(0, np.float32), *parts])


def pooled_of(network: Network, windows: Windows, which: np.ndarray) -> Tensor:
    """Pooled features of unshifted windows, float32 (B, P)."""
    with torch.inference_mode():
        parts = [
            network.pooled(*windows.batch(network.kind, which[at : at + ASKED])[:2])
            for at in range(0, len(which), ASKED)
        ]
    return torch.cat(parts)


def train(kind: str, windows: Windows, training: np.ndarray, validation: np.ndarray, epochs: int, seed: int) -> Network:
    """A head of one kind, fitted to some windows and stopped, or its penalty chosen, by others (numbers of windows)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Network(kind, 0 if windows.features is None else windows.features.shape[3])
        if uses_states(kind):
            network.scale(pooled_of(network, windows, training))
        if kind == "linear":
            _fit_linear(network, windows, training, validation)
        else:
            _fit_steps(network, windows, training, validation, epochs, seed)
    return network.eval()


def _fit_linear(network: Network, windows: Windows, training: np.ndarray, validation: np.ndarray) -> None:
    from sklearn.linear_model import LogisticRegression

    near, far = (
        ((pooled_of(network, windows, which) - network.centre) / network.spread).numpy()
        for which in (training, validation)
    )

    def fitted(strength: float) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=1000).fit(near, windows.labels[training])

    models = [fitted(strength) for strength in STRENGTHS]
    best = min(models, key=lambda model: log_loss(model.decision_function(far), windows.labels[validation]))
    with torch.no_grad():
        network.out.weight.copy_(torch.from_numpy(best.coef_))
        network.out.bias.copy_(torch.from_numpy(best.intercept_))


def _fit_steps(
    network: Network, windows: Windows, training: np.ndarray, validation: np.ndarray, epochs: int, seed: int
) -> None:
    """Steps down the gradient; ends with the weights of the epoch that has the least loss in validation."""
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
    steps = epochs * math.ceil(len(training) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=WARM_UP)
    least, best, since = math.inf, {}, 0
    for _ in range(epochs):
        network.train()
        order = rng.permutation(training)
        for at in range(0, len(order), BATCH):
            which = order[at : at + BATCH]
            shifts = rng.integers(-windows.margin, windows.margin + 1, len(which))
            labels = torch.from_numpy(windows.labels[which]).float()
            loss = F.binary_cross_entropy_with_logits(network(*windows.batch(network.kind, which, shifts)), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        reached = log_loss(logits_of(network, windows, validation), windows.labels[validation])
        since += 1
        if reached < least:
            least, since = reached, 0
            best = {name: value.clone() for name, value in network.state_dict().items()}
        if since >= PATIENCE:
            break
    if best:
        network.load_state_dict(best)


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.logaddexp(0, np.where(labels == 1, -logits, logits).astype(np.float64))))


# --- baselines ---


def kmer_presence(codes: np.ndarray, patterns: Sequence[Sequence[int]]) -> sparse.csr_matrix:
    """Which k-mers a window has on either strand: codes (N, W) to a sparse 0/1 float32 (N, patterns * 4 ** k).

    Args:
        patterns: offsets of the k letters of a k-mer from its first one.
    """
    from scipy import sparse

    other = np.where(codes < UNKNOWN, 3 - codes, codes)[:, ::-1]
    blocks = []
    for pattern in patterns:
        rows, columns = [], []
        for strand in (codes, other):
            ends = strand.shape[1] - max(pattern)
            letters = [strand[:, offset : offset + ends] for offset in pattern]
            known = np.all([letter < UNKNOWN for letter in letters], axis=0)
            number = np.zeros(known.shape, np.int32)
            for letter in letters:
                number = number * 4 + letter
            rows.append(np.nonzero(known)[0].astype(np.int32))
            columns.append(number[known])
        placed = np.concatenate(rows), np.concatenate(columns)
        ones = np.ones(len(placed[0]), np.float32)
        block = sparse.csr_matrix((ones, placed), (len(codes), 4 ** len(pattern)))  # sums what stands twice
        block.data[:] = 1
        blocks.append(block)
    return sparse.hstack(blocks, "csr")


def baseline_logits(
    name: str, windows: Windows, training: np.ndarray, validation: np.ndarray, held_out: np.ndarray, seed: int
) -> np.ndarray:
    """Logits of the held-out windows by logistic regression on k-mers, its penalty chosen by validation."""
    from sklearn.linear_model import LogisticRegression

    def presence(which: np.ndarray) -> sparse.csr_matrix:
        return kmer_presence(windows.codes[which, windows.margin : windows.margin + windows.width], KMERS[name])

    if len(training) > BASELINE_WINDOWS:
        training = np.sort(np.random.default_rng(seed).permutation(training)[:BASELINE_WINDOWS])
    counts = presence(training)
    models = [LogisticRegression(C=each, max_iter=1000).fit(counts, windows.labels[training]) for each in STRENGTHS]

    def asked(model: LogisticRegression, which: np.ndarray) -> np.ndarray:
        parts = (which[at : at + BASELINE_WINDOWS] for at in range(0, len(which), BASELINE_WINDOWS))
        return np.concatenate([model.decision_function(presence(part)) for part in parts])

    best = min(models, key=lambda model: log_loss(asked(model, validation), windows.labels[validation]))
    return asked(best, held_out)


# --- folds ---


@dataclass
class HeldOut:
    """What was said of each interval by those that had not seen its fold.

    Attributes:
        logits: of each head and baseline, float64 (N,).
        inner: AUROC in inner validation of each head, one for each outer fold.
        chosen: the head that inner validation prefers, for each outer fold.
    """

    logits: dict[str, np.ndarray]
    inner: dict[str, list[float]]
    chosen: list[str] = field(default_factory=list)

    @property
    def preferred(self) -> str:
        """The head that inner validation prefers on average; of equals the simplest."""
        return _best({kind: float(np.mean(scores)) for kind, scores in self.inner.items()})


def _best(scores: Mapping[str, float]) -> str:
    return max(sorted(scores, key=KINDS.index), key=lambda kind: scores[kind])


def hold_out(windows: Windows, choice: Training) -> HeldOut:
    """Train and ask every head and baseline, each fold held out in turn; the next fold is the inner validation."""
    folds = int(windows.folds.max()) + 1
    found = HeldOut({name: np.zeros(len(windows.labels)) for name in (*choice.heads, *KMERS)}, {})
    found.inner = {kind: [] for kind in choice.heads}
    for fold in range(folds):
        held_out, training, validation = (
            np.flatnonzero(chosen)
            for chosen in (
                windows.folds == fold,
                (windows.folds != fold) & (windows.folds != (fold + 1) % folds),
                windows.folds == (fold + 1) % folds,
            )
        )
        for kind in choice.heads:
            network = train(kind, windows, training, validation, choice.epochs, choice.seed + fold)
            found.logits[kind][held_out] = logits_of(network, windows, held_out)
            inner = weighted_auroc(logits_of(network, windows, validation), windows.labels[validation])
            found.inner[kind].append(float(inner[0]))
        for name in KMERS:
            asked = baseline_logits(name, windows, training, validation, held_out, choice.seed + fold)
            found.logits[name][held_out] = asked
        found.chosen.append(_best({kind: scores[-1] for kind, scores in found.inner.items()}))
        log.info(
            "fold %d of %d: inner validation prefers %s, AUROC %.3f",
            fold + 1,
            folds,
            found.chosen[-1],
            found.inner[found.chosen[-1]][-1],
        )
    return found


@dataclass
class CrossCalibrated:
    """Probabilities of each interval by calibrations that were fitted to the other folds.

    Attributes:
        probabilities: of each method that was tried, float64 (N,). briers: their Brier scores.
        scaled: the logits on the scale of Platt's curve, so that those of different heads compare.
    """

    probabilities: dict[str, np.ndarray]
    briers: dict[str, float]
    scaled: np.ndarray

    @property
    def method(self) -> str:
        """The one with the lower Brier score."""
        return min(self.briers, key=lambda method: self.briers[method])


def cross_calibrated(logits: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> CrossCalibrated:
    """Isotonic regression is tried where there are `FEWEST_ISOTONIC` intervals: of few it makes a ragged curve."""
    methods = tuple(FITTERS) if len(labels) >= FEWEST_ISOTONIC else ("platt",)
    found = {method: np.zeros(len(logits)) for method in methods}
    scaled = np.zeros(len(logits))
    for fold in np.unique(folds):
        own = folds == fold
        for method in methods:
            fitted = FITTERS[method](logits[~own], labels[~own])
            found[method][own] = fitted(logits[own])
            if method == "platt":
                scaled[own] = fitted.scaled(logits[own])
    return CrossCalibrated(
        found, {name: float(weighted_brier(each, labels)[0]) for name, each in found.items()}, scaled
    )


# --- measures: every one takes weights (R, N), one row for each resample, and gives (R,) ---


def _totals(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of the positives and of the negatives at or above each distinct score, highest first: (R, S) twice."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    weights, positive = weights[:, order], labels[order] == 1
    return (weights * positive).cumsum(1)[:, last], (weights * ~positive).cumsum(1)[:, last]


def _unweighted(labels: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    return np.ones((1, len(labels))) if weights is None else weights


def weighted_auroc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Area under the receiver operating characteristic; ties count half. NaN where a label has no weight."""
    positives, negatives = _totals(scores, labels, _unweighted(labels, weights))
    steps = np.diff(negatives, axis=1, prepend=0)
    above = positives - np.diff(positives, axis=1, prepend=0) / 2
    with np.errstate(invalid="ignore"):
        return (above * steps).sum(1) / (positives[:, -1] * negatives[:, -1])


def weighted_auprc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Average precision, as scikit-learn defines it."""
    positives, negatives = _totals(scores, labels, _unweighted(labels, weights))
    steps = np.diff(positives, axis=1, prepend=0)
    with np.errstate(invalid="ignore"):
        precision = np.where(steps > 0, positives / (positives + negatives), 0.0)
        return (precision * steps).sum(1) / positives[:, -1]


def weighted_brier(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Mean squared difference of probability and label (Brier 1950)."""
    weights = _unweighted(labels, weights)
    return weights @ (probabilities - labels) ** 2 / weights.sum(1)


def weighted_ece(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Expected calibration error (Naeini et al. 2015): mean gap of probability and label over `BINS` equal bins."""
    weights = _unweighted(labels, weights)
    member = np.minimum((probabilities * BINS).astype(int), BINS - 1)[:, None] == np.arange(BINS)
    return np.abs(weights @ ((probabilities - labels)[:, None] * member)).sum(1) / weights.sum(1)


MEASURES = {"auroc": weighted_auroc, "auprc": weighted_auprc, "brier": weighted_brier, "ece": weighted_ece}
OF_LOGITS = ("auroc", "auprc")


@dataclass
class Resamples:
    """Bootstrap samples of the intervals, drawn as whole blocks of a contig, since neighbours are alike.

    Attributes:
        draws: how often each block is drawn, uint16 (RESAMPLES, blocks). blocks: that of each interval, int64 (N,).
    """

    draws: np.ndarray
    blocks: np.ndarray

    @classmethod
    def of(cls, table: pd.DataFrame, seed: int) -> Resamples:
        """Single intervals are drawn where there are fewer than `FEWEST_BLOCKS` blocks."""
        blocks = table.groupby(["chrom", table["start"] // BLOCK], sort=False).ngroup().to_numpy()
        if blocks.max() + 1 < FEWEST_BLOCKS:
            blocks = np.arange(len(table))
        count = int(blocks.max()) + 1
        rng = np.random.default_rng(seed)
        draws = [np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(RESAMPLES)]
        return cls(np.array(draws, np.uint16), blocks)

    def interval(self, measure: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """95 % interval of a measure that takes weights (R, N) and gives (R,)."""
        starts = range(0, len(self.draws), RESAMPLED_TOGETHER)
        values = [measure(self.draws[at : at + RESAMPLED_TOGETHER][:, self.blocks].astype(float)) for at in starts]
        low, high = np.nanquantile(np.concatenate(values), [0.025, 0.975])
        return float(low), float(high)


# --- what is reported ---


@dataclass
class Report:
    """Tables and figures of one element.

    `briers` has, for each head and baseline, the held-out Brier score of each calibration that was tried. `finding` is
    a sentence on what the model's states add.
    """

    metrics: pd.DataFrame
    predictions: pd.DataFrame
    curves: dict[str, dict[str, list[list[float]]]]
    briers: dict[str, dict[str, float]]
    finding: str


def judge(element: str, table: pd.DataFrame, found: HeldOut, seed: int) -> Report:
    """Measures, predictions and curves of every head and baseline, and of choosing between the heads."""
    import pandas as pd

    labels, folds = table["label"].to_numpy(np.int64), table["fold"].to_numpy(np.int64)
    resamples = Resamples.of(table, seed)
    heads = list(found.inner)
    calibrated = {name: cross_calibrated(values, labels, folds) for name, values in found.logits.items()}
    logits = dict(found.logits)
    probabilities = {name: each.probabilities[each.method] for name, each in calibrated.items()}
    in_fold = [folds == fold for fold in range(len(found.chosen))]
    logits["selected"] = np.select(in_fold, [calibrated[kind].scaled for kind in found.chosen])
    probabilities["selected"] = np.select(in_fold, [probabilities[kind] for kind in found.chosen])
    rows, parts, curves = [], [], {}
    for name in (*heads, "selected", *KMERS):
        role = "baseline" if name in KMERS else "selected" if name == "selected" else "head"
        for metric, measure in MEASURES.items():
            values = logits[name] if metric in OF_LOGITS else probabilities[name]
            low, high = resamples.interval(lambda weights, m=measure, v=values: m(v, labels, weights))
            value = float(measure(values, labels)[0])
            rows.append((element, name, role, metric, value, low, high, len(labels), int(labels.sum())))
        part = table[["chrom", "start", "end", "label", "fold"]].assign(
            head=name, logit=logits[name], probability=probabilities[name]
        )
        parts.append(part[list(PREDICTIONS)])
        curves[name] = curves_of(logits[name], probabilities[name], labels)
    metrics = pd.DataFrame(rows, columns=list(ELEMENT_METRICS))
    finding = ""
    if BOTH in heads and ALONE in heads:
        finding = compared(logits[BOTH], logits[ALONE], labels, resamples)
    briers = {name: each.briers for name, each in calibrated.items()}
    return Report(metrics, pd.concat(parts, ignore_index=True), curves, briers, finding)


def compared(both: np.ndarray, alone: np.ndarray, labels: np.ndarray, resamples: Resamples) -> str:
    """One sentence on whether the model's states add to the bases alone: difference of AUROC, paired bootstrap."""

    def difference(weights: np.ndarray | None = None) -> np.ndarray:
        return weighted_auroc(both, labels, weights) - weighted_auroc(alone, labels, weights)

    low, high = resamples.interval(difference)
    verdict = "The model's states show no effect beyond the bases alone"
    if low > 0:
        verdict = "The model's states add to what the bases alone say"
    elif high < 0:
        verdict = "The model's states make the head worse than the bases alone"
    first, second = (float(weighted_auroc(values, labels)[0]) for values in (both, alone))
    return (
        f"{verdict}: AUROC {first:.3f} with both and {second:.3f} with the bases alone, a difference of "
        f"{first - second:+.3f} (95 % interval {low:+.3f} to {high:+.3f})."
    )


def curves_of(logits: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, list[list[float]]]:
    """Curves as lists of points (x, y), at most `POINTS` of each.

    roc: false and true positive rate. precision_recall: recall and precision. reliability: mean probability and share
    of positives of each bin of probabilities that has intervals.
    """
    positives, negatives = (totals[0] for totals in _totals(logits, labels, np.ones((1, len(labels)))))
    member = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    bins = [member == number for number in range(BINS) if (member == number).any()]
    return {
        "roc": _thinned(np.append(0, negatives / negatives[-1]), np.append(0, positives / positives[-1])),
        "precision_recall": _thinned(positives / positives[-1], positives / (positives + negatives)),
        "reliability": [[round(float(v[own].mean()), 5) for v in (probabilities, labels)] for own in bins],
    }


def _thinned(across: np.ndarray, up: np.ndarray) -> list[list[float]]:
    kept = np.unique(np.linspace(0, len(across) - 1, min(len(across), POINTS)).round().astype(int))
    return [[round(float(x), 5), round(float(y), 5)] for x, y in zip(across[kept], up[kept], strict=True)]


def final_head(
    element: str, windows: Windows, found: HeldOut, choice: Training, finding: str, reading: Mapping[str, Any]
) -> Head:
    """The head of the preferred kind, trained on all folds but the last, which stops it.

    Args:
        reading: of what model, digest, dtype and context its features are, and the projection.
    """
    kind = found.preferred
    last = windows.folds == windows.folds.max()
    network = train(kind, windows, np.flatnonzero(~last), np.flatnonzero(last), choice.epochs, choice.seed)
    method = cross_calibrated(found.logits[kind], windows.labels, windows.folds).method
    calibration = FITTERS[method](found.logits[kind], windows.labels)
    read = reading if uses_states(kind) else {}
    said = {"prevalence": float(windows.labels.mean()), "threshold": choice.threshold, "finding": finding}
    return Head(element, kind, choice.window, network, calibration, **said, **read)


def card(head: Head, report: Report, found: HeldOut, counts: Mapping[str, Any], choice: Training) -> str:
    """The model card, as Markdown. `counts` is what draw_intervals.py says of the intervals."""
    metrics = report.metrics
    first = metrics.iloc[0]
    total, positives = int(first["intervals"]), int(first["positives"])
    states = (
        f"It reads the states of `{head.model}` (digest `{head.digest[:16]}`, {head.dtype}), of which it keeps "
        f"{head.projection.matrix.shape[1]} principal components; in training the model saw {head.context} bases "
        "either side of the window."
        if head.projection is not None
        else "It reads bases alone; no sequence model is needed."
    )
    folds = len(found.chosen)
    split = {
        "contigs": f"{folds} folds of whole contigs",
        "blocks": f"{folds} folds of blocks of contigs, since too few contigs have positives",
    }.get(str(counts.get("split")), f"{folds} folds")
    lines = [
        f"# Head of {head.element}",
        "",
        f"A classifier of kind **{head.kind}**, made by seqprior {head.version}: the calibrated probability that a "
        f"window of {head.window} bases is {head.element}. {states}",
        "",
        "## How good it is",
        "",
        f"{total} intervals, {positives} of them positive (prevalence {positives / total:.3f}, which is the AUPRC of "
        f"chance), in {split}. Each figure is of intervals whose fold was held out; 95 % bootstrap intervals over "
        f"blocks of {BLOCK // 1000} kb. `selected` is the head that inner validation chose, fold by fold.",
        "",
        "| head | role | AUROC | AUPRC | Brier score | calibration error |",
        "|---|---|---|---|---|---|",
    ]
    for (name, role), rows in metrics.groupby(["head", "role"], sort=False):
        cells = [f"{row.value:.3f} ({row.low:.3f} to {row.high:.3f})" for row in rows.itertuples()]
        lines.append(f"| {name} | {role} | {' | '.join(cells)} |")
    brier = report.briers[head.kind]
    inner = ", ".join(f"{kind} {np.mean(scores):.3f}" for kind, scores in found.inner.items())
    lines += [
        "",
        report.finding
        or "What the model's states add was not measured: that takes the heads "
        f"`{BOTH}` and `{ALONE}` in regulatory.heads.",
        "",
        f"Mean AUROC in inner validation, by which the kind was chosen: {inner}. This flatters heads that the same "
        "validation stopped; the table above does not.",
        "",
        "## How it was made",
        "",
        f"Trained on all folds but one, which stopped it; at most {choice.epochs} epochs, seed {choice.seed}. "
        f"Calibration: {head.calibration.method}, fitted to the held-out logits of heads of this kind (held-out Brier "
        f"score: {', '.join(f'{method} {value:.4f}' for method, value in brier.items())}). Windows are called from a "
        f"probability of {head.threshold:g}.",
        "",
        "Of the intervals, as draw_intervals.py says:",
        "",
        "```json",
        json.dumps(counts, indent=1),
        "```",
        "",
        "## What it cannot do",
        "",
        f"- Its probabilities hold at the prevalence above. In a genome, where {head.element} is rarer, fewer of the "
        "windows with a given probability are real; regulatory.prevalence moves them to another share.",
        "- It tells the element from the negatives it was shown, not from every other kind of sequence. Those that are "
        "drawn have the positives' GC content and repeats, but lie anywhere: a head may tell by the surroundings, such "
        "as genes or the lack of them.",
        "- It was judged on the genome that it was trained on, and knows no other cell, condition or species. A "
        "sequence model may have read the held-out contigs, without labels, when it was trained.",
        "- A window says nothing of what lies beyond it, except as far as the sequence model sees it.",
        "- Not for clinical decisions.",
        "",
    ]
    return "\n".join(lines)


def train_element(
    element: str,
    intervals: Path,
    counts: Mapping[str, Any],
    fasta: Path,
    load: Callable[[], Adapter],
    source: tuple[str, str],
    batch_tokens: int | None,
    choice: Training,
    *,
    head: Path,
    metrics: Path,
    predictions: Path,
    curves: Path,
) -> None:
    """Train, judge and write everything for one element. The same input gives the same bytes.

    Args:
        counts: what draw_intervals.py says of the intervals. load: gives the sequence model, if a head needs it.
        source: the model's id and digest. batch_tokens: None for a fixed number, since batches found by timing would
            make the last digits differ from run to run.
        head: folder of the head and its card. metrics, predictions, curves: TSV, Parquet and JSON.
    """
    table = read_intervals(intervals, choice.window)
    reader, reading = None, {}
    if any(map(uses_states, choice.heads)):
        adapter = load()
        facts = adapter.scheme.facts
        batcher = Batcher(adapter.device, batch_tokens or BATCH_TOKENS)
        texts = random_windows(fasta, FITTED_WINDOWS, min(FITTED_BASES, facts.window), choice.seed)
        projection = fit_projection(Reader(adapter, batcher, None), texts)
        reader = Reader(adapter, batcher, projection)
        context = context_of(facts, choice.window)
        model, digest = source
        reading = {"model": model, "digest": digest, "dtype": adapter.arithmetic, "context": context}
        reading |= {"projection": projection}
    margin = choice.window // SHIFTED
    with embedded(table, fasta, reader, reading.get("context", 0), margin, head) as windows:
        found = hold_out(windows, choice)
        report = judge(element, table, found, choice.seed)
        trained = final_head(element, windows, found, choice, report.finding, reading)
    log.info("%s: kept %s. %s", element, trained.kind, report.finding)
    with written_whole(metrics) as partial:
        report.metrics.to_csv(partial, sep="\t", index=False)
    with written_whole(predictions) as partial:
        report.predictions.to_parquet(partial, index=False)
    with written_whole(curves) as partial:
        partial.write_text(json.dumps(report.curves) + "\n", encoding="utf-8")
    with folder_written_whole(head) as partial:
        save_head(trained, partial)
        (partial / "README.md").write_text(card(trained, report, found, counts, choice), encoding="utf-8")
