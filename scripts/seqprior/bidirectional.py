"""A bidirectional convolutional language model over single bases.

One causal tower of dilated convolutions reads the sequence and, with the same weights, its reverse complement.
The state left of a base and the state right of it meet in a small per-position network, which gives
p(base | every other base in reach) exactly, at every position, in one pass: no position is ever masked.

The tower has no bias and the embedding of N is zero, so N reads exactly like the end of a contig. Its reach is finite:
a position's answer depends on `reach` bases either side and on nothing else, so sites of one tile may share a pass
and still equal the answer of their own windows.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAD_CODE = 4  # N, unknown bases and everything beyond a contig's end


@dataclass(frozen=True)
class BidirectionalConfig:
    """Shape of the network. `dilations` has one entry per block; `head` is the hidden width of the joining network."""

    width: int = 128
    kernel: int = 5
    dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    head: int = 256

    def __post_init__(self) -> None:
        pairs = zip(self.dilations, self.dilations[1:], strict=False)
        if self.dilations[0] != 1 or any(later % earlier for earlier, later in pairs):
            raise ValueError(f"dilations {self.dilations} must start with 1 and each divide the next")

    @property
    def reach(self) -> int:
        """Bases on each side that one position's prediction depends on."""
        return 1 + (self.kernel - 1) * sum(self.dilations)

    def to_dict(self) -> dict:
        return {**asdict(self), "dilations": list(self.dilations)}

    @classmethod
    def from_dict(cls, values: dict) -> BidirectionalConfig:
        return cls(**{**values, "dilations": tuple(values["dilations"])})


class CausalBlock(nn.Module):
    """Residual block: RMS norm, causal dilated convolution, ReLU, 1x1 convolution. (B, L, C) to (B, L, C).

    Weights are stored as matrices (rows are output channels) so that matrix optimisers apply; the convolution runs as
    a channels-last conv2d of height one, which is the fast layout on CPUs.
    """

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.scale = nn.Parameter(torch.ones(width))
        self.mix = nn.Parameter(torch.randn(width, width * kernel) * (width * kernel) ** -0.5)
        self.project = nn.Parameter(torch.zeros(width, width))

    def forward(self, states: Tensor) -> Tensor:
        padded = F.pad(self._normed(states), (0, 0, (self.kernel - 1) * self.dilation, 0))
        return states + self._mixed(padded, dilation=self.dilation)

    def thinned(self, states: Tensor, stride: int) -> Tensor:
        """The block on states that lie `dilation` bases apart, giving every `stride`-th one up to the last."""
        return states[:, self.kernel - 1 :: stride] + self._mixed(self._normed(states), stride=stride)

    def continued(self, past: Tensor, states: Tensor) -> Tensor:
        """The block on states (B, L, C) that follow `past` (B, P, C), whose own output is not wanted: (B, L, C)."""
        reach = (self.kernel - 1) * self.dilation
        past = past[:, max(past.shape[1] - reach, 0) :]
        given = F.pad(torch.cat([past, states], 1), (0, 0, reach - past.shape[1], 0))
        return states + self._mixed(self._normed(given), dilation=self.dilation)

    def _normed(self, states: Tensor) -> Tensor:
        return F.rms_norm(states, (states.shape[-1],), self.scale.to(states.dtype), 1e-5)

    def _mixed(self, normed: Tensor, dilation: int = 1, stride: int = 1) -> Tensor:
        width = normed.shape[-1]
        image = normed.permute(0, 2, 1).unsqueeze(2)
        kernel = self.mix.view(width, width, 1, self.kernel).to(memory_format=torch.channels_last)
        mixed = F.conv2d(image, kernel.to(normed.dtype), dilation=(1, dilation), stride=(1, stride))
        return F.linear(F.relu(mixed.squeeze(2).permute(0, 2, 1)), self.project.to(normed.dtype))


class BidirectionalConvLM(nn.Module):
    """The network. Base codes are A, C, G, T = 0..3 (so that 3 - code complements) and `PAD_CODE`."""

    def __init__(self, config: BidirectionalConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.embedding = nn.Parameter(torch.randn(4, width))
        self.blocks = nn.ModuleList(CausalBlock(width, config.kernel, dilation) for dilation in config.dilations)
        self.scale = nn.Parameter(torch.ones(width))
        self.join = nn.Parameter(torch.randn(config.head, 2 * width) * (2 * width) ** -0.5)
        self.join_bias = nn.Parameter(torch.zeros(config.head))
        self.readout = nn.Parameter(torch.zeros(4, config.head))
        self.readout_bias = nn.Parameter(torch.zeros(4))
        self._tables: dict[torch.dtype, Tensor] = {}

    def tower(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """States of the prefix that ends before each position: codes (B, L) int64 to (B, L, C)."""
        states = self.first_states(F.pad(codes[:, :-1], (self.config.kernel, 0), value=PAD_CODE), 1, dtype)
        for block in self.blocks[1:]:
            states = block(states)
        return F.rms_norm(states, (states.shape[-1],), self.scale.to(dtype), 1e-5)

    def prefix_state(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """State of each whole prefix, of exactly `reach` bases: codes (B, reach) to (B, C).

        Block i is read only every `dilations[i + 1]` bases back from the end, so it is computed only there: the tower
        becomes a pyramid of strided convolutions, the same numbers for a fraction of the work.
        """
        steps = self.config.dilations
        strides = [later // earlier for earlier, later in zip(steps, (*steps[1:], steps[-1]), strict=True)]
        states = self.first_states(codes, strides[0], dtype)
        for block, stride in zip(self.blocks[1:], strides[1:], strict=True):
            states = block.thinned(states, stride)
        return F.rms_norm(states[:, -1], (states.shape[-1],), self.scale.to(dtype), 1e-5)

    def tabulate(self, dtype: torch.dtype) -> None:
        """From now on look the first block up instead of computing it: it sees one k-mer, and there are few of those.

        For inference alone: the table does not follow a change of the weights.
        """
        letters = torch.arange(PAD_CODE + 1, device=self.embedding.device)
        kmers = torch.cartesian_prod(*[letters] * self.config.kernel).view(-1, self.config.kernel)
        with torch.inference_mode():
            self._tables[dtype] = self.blocks[0].thinned(self._embedded(kmers, dtype), 1)[:, 0].clone()

    def first_states(self, codes: Tensor, stride: int, dtype: torch.dtype) -> Tensor:
        """Output of the first block, from its table if there is one, for the k-mers that end at every `stride`-th base.

        Codes (B, k - 1 + L) to (B, L / stride, C).
        """
        if dtype in self._tables:
            return self._tabulated(codes, stride, dtype)
        return self.blocks[0].thinned(self._embedded(codes, dtype), stride)

    def _tabulated(self, codes: Tensor, stride: int, dtype: torch.dtype) -> Tensor:
        """Output of the first block for the k-mers that end at every `stride`-th position up to the last."""
        kernel = self.config.kernel
        ends = codes.shape[1] - kernel + 1
        numbers = sum(codes[:, i : i + ends : stride] * (PAD_CODE + 1) ** (kernel - 1 - i) for i in range(kernel))
        return F.embedding(numbers, self._tables[dtype])

    def _embedded(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        table = F.pad(self.embedding, (0, 0, 0, 1)).to(dtype)  # the row of N is zero
        return F.embedding(codes, table)

    def site_states(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """States left and right of the middle base of windows of 2 * reach + 1 bases: codes (B, W) to (B, C) twice."""
        reach = self.config.reach
        both = torch.cat([codes[:, :reach], reverse_complement(codes[:, reach + 1 :])])
        left, right = self.prefix_state(both, dtype).chunk(2)
        return left, right

    def states(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """States of everything left and everything right of each position, both (B, L, C), in forward order."""
        both = self.tower(torch.cat([codes, reverse_complement(codes)]), dtype)
        left, right = both.chunk(2)
        return left, right.flip(1)

    def strand_logits(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Logits over A, C, G, T (..., 4) as read on the forward and on the reverse strand, both in forward letters."""

        def joined(first: Tensor, second: Tensor) -> Tensor:
            hidden = F.linear(torch.cat([first, second], -1), self.join.to(first.dtype), self.join_bias.to(first.dtype))
            return F.linear(F.relu(hidden), self.readout.to(first.dtype), self.readout_bias.to(first.dtype)).float()

        return joined(left, right), joined(right, left).flip(-1)

    def forward(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Leave-one-out logits on both strands, each (B, L, 4) in forward letters, for codes (B, L)."""
        return self.strand_logits(*self.states(codes, dtype))


def reverse_complement(codes: Tensor) -> Tensor:
    """Base codes of the other strand, read 5' to 3'."""
    return torch.where(codes < PAD_CODE, 3 - codes, codes).flip(-1)
