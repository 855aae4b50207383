"""What seqprior's ports of published architectures share."""

from __future__ import annotations

from torch import Tensor, nn


class Port(nn.Module):
    """A masked model with a published shape, in the dtype of its parameters.

    A checkpoint loads with `load_state_dict(tie(weights))` once the entries that the module's `IGNORED` matches are
    dropped.
    """

    def __init__(self, config) -> None:
        super().__init__()
        self.config = config

    @property
    def vocab_size(self) -> int:
        """Number of tokens that the head predicts."""
        return self.config.vocab_size

    @property
    def width(self) -> int:
        """Numbers in the state of one token."""
        return self.config.hidden_size

    def require_layer(self, layer: int | None, keep: Tensor | None) -> None:
        """Raise ValueError if `layer` is out of range, or comes together with `keep`."""
        depth = self.config.num_hidden_layers
        if layer is not None and (keep is not None or not 0 <= layer <= depth):
            raise ValueError(f"layer {layer} is not within 0 to {depth}, or comes together with keep")


def gathered(states: Tensor, keep: Tensor) -> Tensor:
    """The states at the positions of each row: (B, T, H) and (B, n) to (B, n, H)."""
    return states.gather(1, keep.unsqueeze(-1).expand(-1, -1, states.shape[-1]))
