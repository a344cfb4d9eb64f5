"""The transformer block of NASViT on square feature maps, and its plan.

Gong et al., ICLR 2022, https://openreview.net/forum?id=Qaw16njk6L: attention over all positions with
talking heads (Shazeer et al. 2020, https://arxiv.org/abs/2003.02436), a depthwise convolution of the
values beside it, relative position bias; then a two-layer perceptron.

Everything in it can be cut to leading slices. A narrower block has fewer heads of the same dimension,
so the scale of the scores does not depend on the width, and query, key and value each have a tensor of
their own, so that the kept heads lie first in each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from corolla.spaces.layers import Activation


class TalkingHeadsAttention(nn.Module):
    """Attention among the positions of a ``side x side`` map, on tokens ``(n, side * side, width)``.

    LayerNorm, not BatchNorm: it has no running statistics, which are those of one width only and of
    one client's labels only, so there is nothing to average or recalibrate, and a cut block computes
    exactly what the supernet does at that width. Query, key and value have no bias: a key's would
    cancel in the softmax, and LayerNorm's bias does for the others.
    """

    def __init__(
        self, *, width: int, head_dim: int, kernel: int, side: int, activation: Activation
    ) -> None:
        super().__init__()
        heads = width // head_dim
        self.head_dim, self.side, self.activation = head_dim, side, activation
        # (heads, 1, row offset, column offset): an offset is the same distance in pixels at every
        # resolution, so the map of a smaller one owns the centre.
        self.position = nn.Parameter(torch.empty(heads, 1, 2 * side - 1, 2 * side - 1))
        self.before = nn.Parameter(torch.empty(heads, heads))  # mixes heads before the softmax
        self.after = nn.Parameter(torch.empty(heads, heads))  # and after it
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.local = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.project = nn.Linear(width, width)
        if not self.before.is_meta:
            self._initialise()

    def _initialise(self) -> None:
        nn.init.trunc_normal_(self.position, std=0.02)
        for mixing in (self.before, self.after):
            # Heads start apart: no number of heads then changes the size of what comes out.
            nn.init.trunc_normal_(mixing, std=0.02)
            mixing.data.diagonal().add_(1.0)
        for layer in (self.query, self.key, self.value, self.project):
            initialise_linear(layer)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``(n, side * side, width)``, to be added to ``tokens``."""
        x = self.norm(tokens)
        query, key = self._split(self.query(x)), self._split(self.key(x))
        value = self.value(x)
        scores = (query * self.head_dim**-0.5) @ key.transpose(-2, -1)  # (n, heads, from, to)
        scores = _mix(self.before, scores + self._bias())
        weights = _mix(self.after, scores.softmax(-1))
        attended = (weights @ self._split(value)).transpose(1, 2).flatten(2)
        local = to_tokens(self.local(to_map(value, self.side)))
        return self.project(self.activation(attended + local))  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        """Return ``(n, heads, positions, head_dim)``."""
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)

    def _bias(self) -> Tensor:
        """Return the table's entry for every pair of positions, ``(heads, from, to)``."""
        # [h, 0, a, b, row, column] is entry (a + row, b + column); the one of the pair is
        # (side - 1 - from_row + to_row, ...), which counts a and b backwards. Ten times faster than
        # looking entries up by index, mostly in the backward pass, and in a fixed order of sums.
        windows = self.position.unfold(2, self.side, 1).unfold(3, self.side, 1).flip(2, 3)
        return windows.reshape(-1, self.side**2, self.side**2)


class Perceptron(nn.Module):
    """LayerNorm, widen, activation, narrow; on tokens."""

    def __init__(self, *, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.activation = activation
        if not self.widen.weight.is_meta:
            initialise_linear(self.widen)
            initialise_linear(self.narrow)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``(n, positions, width)``, to be added to ``tokens``."""
        return self.narrow(self.activation(self.widen(self.norm(tokens))))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Attention and perceptron, each beside the identity; a map in, a map of the same shape out."""

    def __init__(self, plan: TransformerPlan, activation: Activation) -> None:
        super().__init__()
        width, self.side = plan.outputs, plan.out_side
        self.attention = TalkingHeadsAttention(
            width=width,
            head_dim=plan.head_dim,
            kernel=plan.kernel,
            side=self.side,
            activation=activation,
        )
        self.perceptron = Perceptron(width=width, hidden=plan.hidden, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(n, width, side, side)``."""
        tokens = to_tokens(x).contiguous()  # a view where x is channels-last, as our outputs are
        tokens = tokens + self.attention(tokens)
        return to_map(tokens + self.perceptron(tokens), self.side)


@dataclass(frozen=True, kw_only=True)
class TransformerPlan:
    """A transformer block of one architecture on a map of ``out_side`` rows and columns."""

    name: str
    outputs: int
    head_dim: int
    hidden: int
    kernel: int
    out_side: int

    @property
    def heads(self) -> int:
        """Heads that the width has room for."""
        return self.outputs // self.head_dim

    def build(self, activation: Activation) -> nn.Module:
        """Return the plain module."""
        return TransformerBlock(self, activation)

    def macs(self) -> int:
        """Return multiply-accumulates for one image."""
        positions, width = self.out_side**2, self.outputs
        layers = 4 * width**2 + width * self.kernel**2 + 2 * width * self.hidden
        pairs = 2 * width + 2 * self.heads**2  # scores, weighted values; two mixings
        return positions * layers + positions**2 * pairs

    def kept(self) -> int:
        """Return how many numbers one image's forward pass keeps for the backward pass."""
        positions, width = self.out_side**2, self.outputs
        # Per position: the two tokens sums and their norms, query, key, value (once more as split for
        # the product), what the activation and the projection take; hidden before and after its own.
        per_position = 10 * width + 2 * self.hidden
        # Per pair and head: scores, weights of the softmax, weights after mixing.
        return positions * per_position + 3 * self.heads * positions**2


def to_tokens(x: Tensor) -> Tensor:
    """Return a map ``(n, c, h, w)`` as tokens ``(n, h * w, c)``."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, side: int) -> Tensor:
    """Return tokens ``(n, side * side, c)`` as a map ``(n, c, side, side)``, channels last in memory."""
    return tokens.transpose(1, 2).view(tokens.shape[0], tokens.shape[2], side, side)


def initialise_linear(layer: nn.Linear) -> None:
    """Draw weights that keep the variance of their input; biases start at 0."""
    nn.init.trunc_normal_(layer.weight, std=layer.in_features**-0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _mix(mixing: Tensor, maps: Tensor) -> Tensor:
    """Return for each head its combination of all heads' ``maps`` (n, heads, from, to)."""
    # bmm, as an expanded matrix copies nothing: a 1x1 convolution takes three times as long.
    mixed = torch.bmm(mixing.expand(maps.shape[0], -1, -1), maps.flatten(2))
    return mixed.view_as(maps)
