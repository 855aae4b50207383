"""Small classifiers of windows: from features of each base, from the bases themselves, or from both, to a probability.

A head sees a window as either strand reads it and pools both readings alike, by their mean or by the larger value, so
that a window and its reverse complement have the same logit. Kinds:

- linear: logistic regression on features pooled over the window, by mean and by maximum
- attention: means of the features, each weighted by its own attention over the window (Ilse et al. 2018, ICML)
- sequence: motif detectors, convolutions over the bases of which the strongest match counts (Alipanahi et al. 2015)
- convolution: convolutions over the features, pooled by mean and maximum
- convolution-and-sequence: both of these side by side

A head's folder holds head.safetensors, head.json and a model card, README.md. Nothing is unpickled.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqprior import VERSION
from seqprior.bidirectional import reverse_complement
from seqprior.errors import BadInput
from seqprior.features import Projection

KINDS = ("sequence", "linear", "attention", "convolution", "convolution-and-sequence")  # the simplest first
WEIGHTS, DESCRIPTION = "head.safetensors", "head.json"
DETECTORS, MOTIF_LENGTH = 32, 15  # of the bases
# Detectors of the features, and their length: few beside those of the bases, or a few hundred positives teach neither.
HIDDEN = {"convolution": (16, 5), "convolution-and-sequence": (8, 1)}
ATTENTIONS = 4
DROPOUT = 0.3
DROPPED_STATES = 0.5  # of the windows of a training step whose features are withheld, so that bases are learned too
QUIETER = 4.0  # by which pooled features are scaled down beside those of the bases, for the same reason
SMALLEST_SPREAD = 1e-6  # of a pooled feature, lest one that is constant be divided by zero


def uses_states(kind: str) -> bool:
    return kind != "sequence"


def uses_sequence(kind: str) -> bool:
    return kind in ("sequence", "convolution-and-sequence")


class Network(nn.Module):
    """From features and bases to a logit.

    Args:
        kind: one of `KINDS`. features: D, the number of features of a base; ignored by `sequence`.
    """

    def __init__(self, kind: str, features: int) -> None:
        super().__init__()
        self.kind = kind
        pooled = 0
        if uses_sequence(kind):
            self.detectors = nn.Conv1d(4, DETECTORS, MOTIF_LENGTH, padding=MOTIF_LENGTH // 2)
        if kind == "attention":
            self.query = nn.Linear(features, ATTENTIONS, bias=False)
            pooled = ATTENTIONS * features
        elif kind == "linear":
            pooled = 2 * features
        elif kind != "sequence":
            count, length = HIDDEN[kind]
            self.hidden = nn.Conv1d(features, count, length, padding=length // 2)
            pooled = 2 * count
        self.register_buffer("centre", torch.zeros(pooled))
        self.register_buffer("spread", torch.ones(pooled))
        self.dropout = nn.Dropout(DROPOUT)
        self.out = nn.Linear(pooled + DETECTORS * uses_sequence(kind), 1)

    def forward(self, forward: Tensor | None, reverse: Tensor | None, codes: Tensor) -> Tensor:
        """Logits (B,) of windows: features (B, W, D) by strand, both in forward order, and base codes (B, W)."""
        parts = []
        if uses_sequence(self.kind):
            forth, back = (self.detectors(one_hot(each)).amax(-1) for each in (codes, reverse_complement(codes)))
            parts.append(F.relu(torch.maximum(forth, back)))
        if uses_states(self.kind):
            assert forward is not None
            assert reverse is not None
            pooled = (self.pooled(forward, reverse) - self.centre) / self.spread
            if self.training and parts:
                pooled = pooled * (torch.rand(len(pooled), 1) >= DROPPED_STATES)
            parts.append(pooled)
        return self.out(self.dropout(torch.cat(parts, 1)))[:, 0]

    def pooled(self, forward: Tensor, reverse: Tensor) -> Tensor:
        """Features of windows (B, W, D) by strand, pooled over bases and strands: (B, P)."""
        if self.kind == "attention":
            first, second = (self._attended(strand) for strand in (forward, reverse))
            return (first + second) / 2
        if self.kind != "linear":
            readings = (forward, reverse.flip(1))  # each from its strand's 5' end
            forward, reverse = (F.relu(self.hidden(each.transpose(1, 2)).transpose(1, 2)) for each in readings)
        mean = (forward.mean(1) + reverse.mean(1)) / 2
        return torch.cat([mean, torch.maximum(forward.amax(1), reverse.amax(1))], 1)

    def _attended(self, features: Tensor) -> Tensor:
        weight = self.query(features).softmax(1)
        return torch.einsum("bwa,bwd->bad", weight, features).flatten(1)

    def scale(self, pooled: Tensor) -> None:
        """Centre and scale pooled features as they are in windows (N, P) from now on."""
        self.centre.copy_(pooled.mean(0))
        self.spread.copy_(
            pooled.std(0, correction=0).clamp(min=SMALLEST_SPREAD) * (QUIETER if uses_sequence(self.kind) else 1)
        )


def one_hot(codes: Tensor) -> Tensor:
    """Base codes (B, W), 4 for unknown bases, as float32 (B, 4, W); an unknown base is zero everywhere."""
    return F.one_hot(codes, 5)[..., :4].transpose(1, 2).float()


@dataclass(frozen=True)
class Calibration:
    """From logits to probabilities.

    Attributes:
        method: 'platt', a logistic curve with `slope` and `intercept` (Platt 1999), or 'isotonic', the line through
            the `points` (logit, probability), ascending in both (Zadrozny and Elkan 2002).
    """

    method: str
    slope: float = 1.0
    intercept: float = 0.0
    points: tuple[tuple[float, float], ...] = ()

    def __call__(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities, float64 of the same shape."""
        if self.method == "isotonic":
            return np.interp(logits, *np.array(self.points).T)
        return _expit(self.scaled(logits))

    def moved(self, trained: float, prevalence: float) -> Calibration:
        """The same for windows of which another share is the element: odds change as the shares' odds do.

        Bayes' rule for a change of prevalence alone (Saerens et al. 2002, doi:10.1162/089976602753284446).

        Args:
            trained: share of the intervals that it was fitted to. prevalence: share of the windows that are asked now.
        """
        shift = math.log(prevalence / (1 - prevalence)) - math.log(trained / (1 - trained))
        points = tuple((logit, _expit(math.log(p / (1 - p)) + shift)) for logit, p in self.points)
        return Calibration(self.method, self.slope, self.intercept + shift, points)

    def scaled(self, logits: np.ndarray) -> np.ndarray:
        """Of the method 'platt', the logits of the probabilities."""
        return self.slope * np.asarray(logits, np.float64) + self.intercept


def _expit(logits):
    return 0.5 * (1 + np.tanh(logits / 2))


def fit_platt(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """A logistic curve; logits (N,), labels (N,) of 0 and 1, both present.

    As Platt has it, each label counts as a little less than sure, so that perfect separation gives a finite slope. A
    curve that would fall, of logits that are worse than chance, is flat.
    """
    from sklearn.linear_model import LogisticRegression

    positives = int(np.sum(labels))
    alike = np.where(labels == 1, positives, len(labels) - positives)  # how many have an interval's label
    sure = (alike + 1) / (alike + 2)
    logits = np.asarray(logits, np.float64)[:, None]
    fitted = LogisticRegression(C=1e6, max_iter=1000).fit(
        np.concatenate([logits, logits]), np.concatenate([labels, 1 - labels]), np.concatenate([sure, 1 - sure])
    )
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    if slope < 0:
        slope, intercept = 0.0, math.log(positives / (len(labels) - positives))
    return Calibration("platt", slope, intercept)


def fit_isotonic(logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """A rising curve through the middles of isotonic regression's steps (Oron and Flournoy 2017): steps would tie.

    Its ends are those of as many windows as there were, not 0 and 1.
    """
    from sklearn.isotonic import IsotonicRegression

    least = 1 / (len(labels) + 2)
    logits = np.asarray(logits, np.float64)
    levels = IsotonicRegression(y_min=least, y_max=1 - least).fit_transform(logits, labels)
    heights, step = np.unique(levels, return_inverse=True)
    middles = np.bincount(step, logits) / np.bincount(step)
    return Calibration("isotonic", points=tuple(zip(middles.tolist(), heights.tolist(), strict=True)))


FITTERS = {"platt": fit_platt, "isotonic": fit_isotonic}


@dataclass
class Head:
    """A trained classifier of one element.

    Attributes:
        window: bases that it sees. context: bases either side that the sequence model saw in training.
        model, digest, dtype: of the sequence model whose states it reads, empty if it reads none; `projection` turns
            these into its features.
        prevalence: share of the intervals that are the element, at which `calibration` holds.
        threshold: calibrated probability from which a window is called an element.
        finding: one sentence on whether the model's states add to the bases alone.
    """

    element: str
    kind: str
    window: int
    network: Network
    calibration: Calibration
    model: str = ""
    digest: str = ""
    dtype: str = ""
    context: int = 0
    projection: Projection | None = None
    prevalence: float = 0.5
    threshold: float = 0.5
    finding: str = ""
    version: str = field(default=VERSION)

    @property
    def uses_states(self) -> bool:
        return uses_states(self.kind)

    @property
    def uses_sequence(self) -> bool:
        return uses_sequence(self.kind)

    def logits(self, forward: Tensor | None, reverse: Tensor | None, codes: Tensor) -> Tensor:
        """Logits float32 (B,) of windows, the same for a window and its reverse complement.

        Args:
            forward, reverse: features (B, W, D) as `features.Reader` reads them, in forward order of bases; None if
                the head uses no states.
            codes: int64 (B, W), as `sequence.encode` gives them.
        """
        self.network.eval()
        return self.network(forward, reverse, codes)

    def at(self, prevalence: float | None) -> Head:
        """The head for windows of which such a share is the element; itself for None."""
        if prevalence is None:
            return self
        return replace(self, calibration=self.calibration.moved(self.prevalence, prevalence), prevalence=prevalence)

    def probability(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float64."""
        return self.calibration(logits)


def save_head(head: Head, folder: Path) -> None:
    """Write head.safetensors and head.json. The same head gives the same bytes."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"network.{name}": value.contiguous() for name, value in sorted(head.network.state_dict().items())}
    if head.projection is not None:
        tensors |= {"projection.mean": head.projection.mean, "projection.matrix": head.projection.matrix.contiguous()}
    save_file(tensors, folder / WEIGHTS)
    description = {
        "element": head.element,
        "kind": head.kind,
        "window": head.window,
        "context": head.context,
        "model": head.model,
        "digest": head.digest,
        "dtype": head.dtype,
        "calibration": {
            "method": head.calibration.method,
            "slope": head.calibration.slope,
            "intercept": head.calibration.intercept,
            "points": head.calibration.points,
        },
        "prevalence": head.prevalence,
        "threshold": head.threshold,
        "finding": head.finding,
        "version": head.version,
        "shapes": {name: list(value.shape) for name, value in sorted(tensors.items())},
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def load_head(folder: Path) -> Head:
    """A head that `save_head` wrote.

    Raises:
        BadInput: a file is missing or damaged, or the two do not fit each other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    description = _description(folder / DESCRIPTION)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"{folder / WEIGHTS}: no weights of a head ({error}); restore the file or train the head again"
        ) from error
    try:
        projection = None
        if uses_states(description["kind"]):
            mean, matrix = tensors.pop("projection.mean"), tensors.pop("projection.matrix")
            if mean.ndim != 1 or matrix.ndim != 2 or len(mean) != len(matrix):
                raise ValueError(f"a projection of {tuple(mean.shape)} and {tuple(matrix.shape)}")
            projection = Projection(mean.float(), matrix.float())
        network = Network(description["kind"], 0 if projection is None else projection.matrix.shape[1])
        network.load_state_dict({name.removeprefix("network."): value for name, value in tensors.items()})
        every = [*network.state_dict().values(), *([] if projection is None else [projection.mean, projection.matrix])]
        if not all(torch.isfinite(value).all() for value in every):
            raise ValueError("NaN or infinity among the weights")
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BadInput(
            f"{folder / WEIGHTS}: not the weights that {DESCRIPTION} describes ({reason}); restore both files or train "
            "the head again"
        ) from error
    return Head(network=network.eval(), projection=projection, **description)


def _description(file: Path) -> dict:
    """What head.json says, as arguments of `Head`."""
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        method, points = given["calibration"]["method"], given["calibration"]["points"]
        calibration = Calibration(
            str(method),
            float(given["calibration"]["slope"]),
            float(given["calibration"]["intercept"]),
            tuple((float(logit), float(probability)) for logit, probability in points),
        )
        if given["kind"] not in KINDS:
            raise ValueError(f"kind is {given['kind']!r}, known are {', '.join(KINDS)}")
        if method not in FITTERS or (method == "isotonic" and not points):
            raise ValueError(f"no calibration of method {method!r}")
        numbers = [calibration.slope, calibration.intercept, *(number for point in points for number in point)]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("NaN or infinity in the calibration")
        heights = [probability for _, probability in calibration.points]
        if (
            calibration.slope < 0
            or not all(0 < p < 1 for p in heights)
            or list(calibration.points) != sorted(calibration.points)
            or heights != sorted(heights)
        ):
            raise ValueError("a calibration that is no rising curve of probabilities")
        window, context = int(given["window"]), int(given["context"])
        if window < 1 or context < 0:
            raise ValueError(f"window is {window} and context {context}")
        if not 0 < float(given["prevalence"]) < 1:
            raise ValueError(f"prevalence is {given['prevalence']}")
        words = {name: str(given[name]) for name in ("element", "kind", "model", "digest", "dtype", "finding")}
        return {
            **words,
            "window": window,
            "context": context,
            "calibration": calibration,
            "prevalence": float(given["prevalence"]),
            "threshold": float(given["threshold"]),
            "version": str(given["version"]),
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise BadInput(
            f"{file}: no description of a head ({error}); expected a folder that train_element.py made; correct "
            "regulatory.elements or restore the file"
        ) from error
