"""A vision transformer for small images: one fixed network, for methods that search nothing.

Dosovitskiy et al., ICLR 2021, https://arxiv.org/abs/2010.11929. Sizes are FedTP's (Li et al., 2023,
https://arxiv.org/abs/2211.01572): patches of 4 pixels, 128 numbers a token, 6 blocks of 8 heads with 64
numbers each; query, key and value are one fused layer without bias, ``blocks.K.attention.qkv``. The swap of
CNNs for it (Qu et al., CVPR 2022) is made with pretrained weights there; here it learns from scratch.
"""

from __future__ import annotations

from functools import partial
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from corolla.spaces.fixed import FixedNetwork
from corolla.spaces.layers import Resize
from corolla.spaces.nasvit_blocks import Perceptron, initialise_linear, to_tokens
from corolla.spaces.supernet import Network


class Attention(nn.Module):
    """LayerNorm, then attention of ``heads`` among tokens ``(n, tokens, width)``."""

    def __init__(self, *, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_dim, bias=False)
        self.project = nn.Linear(heads * head_dim, width)
        if not self.qkv.weight.is_meta:
            initialise_linear(self.qkv)
            initialise_linear(self.project)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``(n, tokens, width)``, to be added to ``tokens``."""
        fused = self.qkv(self.norm(tokens)).unflatten(-1, (3, self.heads, -1))
        query, key, value = fused.permute(2, 0, 3, 1, 4)  # each (n, heads, tokens, head_dim)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.project(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention, then a perceptron, each beside the identity."""

    def __init__(self, *, width: int, heads: int, head_dim: int, hidden: int) -> None:
        super().__init__()
        self.attention = Attention(width=width, heads=heads, head_dim=head_dim)
        self.perceptron = Perceptron(width=width, hidden=hidden, activation=functional.gelu)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``(n, tokens, width)``."""
        tokens = tokens + self.attention(tokens)
        return tokens + self.perceptron(tokens)  # type: ignore[no-any-return]


class Positions(nn.Module):
    """Puts the class's token before those of the patches, and adds a vector to each place."""

    def __init__(self, *, patches: int, width: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.table = nn.Parameter(torch.empty(1, 1 + patches, width))
        if not self.table.is_meta:
            nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return ``(n, 1 + patches, width)``."""
        first = self.first.expand(tokens.shape[0], -1, -1)
        return torch.cat((first, tokens), dim=1) + self.table


class ViT(nn.Module):
    """Patches, positions, blocks; the classifier reads the class's token."""

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        resolution: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        head_dim: int,
        hidden: int,
    ) -> None:
        super().__init__()
        self.resize = Resize(resolution)
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.positions = Positions(patches=(resolution // patch) ** 2, width=width)
        self.blocks = nn.Sequential(
            *(
                Block(width=width, heads=heads, head_dim=head_dim, hidden=hidden)
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(n, num_classes)``."""
        tokens = self.positions(to_tokens(self.patches(self.resize(images))))
        first = self.blocks(tokens)[:, 0]
        logits: Tensor = self.classifier(self.norm(first))
        return logits


class ViTSpace(FixedNetwork):
    """A vision transformer; its dimensions are its sizes."""

    def __init__(
        self,
        *,
        resolution: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        head_dim: int,
        hidden: int,
        **network: Unpack[Network],
    ) -> None:
        sizes = {"patch": patch, "width": width, "depth": depth}
        sizes |= {"heads": heads, "head_dim": head_dim, "hidden": hidden}
        for key, value in sizes.items():
            if value < 1:
                raise ValueError(f"{key}={value}: needs 1 or more")
        if resolution < patch or resolution % patch:
            raise ValueError(
                f"resolution={resolution}: must be a multiple of patch={patch}; "
                "images of another size are scaled to it inside the network"
            )
        super().__init__(sizes, partial(ViT, **sizes), resolution=resolution, **network)
