from __future__ import annotations

import numpy as np
import torch
from torch import nn

from corolla.spaces.vit import Block
from tests.conftest import make_space

TINY = {"resolution": 8, "width": 16, "depth": 2, "heads": 3, "head_dim": 4, "hidden": 24}


def test_sizes() -> None:
    costs = make_space("vit_32").costs(make_space("vit_32").largest())
    # 64 patches of 48 numbers and the class's token, 128 numbers each; 8 heads of 64 are 512.
    attention = 2 * 128 + 128 * 3 * 512 + 512 * 128 + 128
    perceptron = 2 * 128 + 128 * 256 + 256 + 256 * 128 + 128
    ends = 48 * 128 + 128 + 128 + 65 * 128 + 2 * 128 + 128 * 10 + 10
    assert costs.params == 6 * (attention + perceptron) + ends == 1_988_490
    block = 65 * (128 * 3 * 512 + 512 * 128 + 2 * 128 * 256) + 2 * 65 * 65 * 512
    assert costs.macs == 64 * 48 * 128 + 6 * block + 1280 == 154_148_096
    assert costs.payload_bytes == 4 * costs.params  # no statistics


def test_a_block_is_torchs_own_where_heads_share_the_width() -> None:
    block = Block(width=12, heads=3, head_dim=4, hidden=20).eval()
    theirs = nn.TransformerEncoderLayer(
        12, 3, dim_feedforward=20, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).eval()
    attention, perceptron = block.attention, block.perceptron
    pairs = [
        (theirs.self_attn.in_proj_weight, attention.qkv.weight),
        (theirs.self_attn.out_proj.weight, attention.project.weight),
        (theirs.self_attn.out_proj.bias, attention.project.bias),
        (theirs.linear1.weight, perceptron.widen.weight),
        (theirs.linear1.bias, perceptron.widen.bias),
        (theirs.linear2.weight, perceptron.narrow.weight),
        (theirs.linear2.bias, perceptron.narrow.bias),
    ]
    tokens = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs.self_attn.in_proj_bias.zero_()
        for target, source in pairs:
            target.copy_(source)
        torch.testing.assert_close(block(tokens), theirs(tokens))


def test_query_key_and_value_are_one_array_a_block_found_by_name() -> None:
    space = make_space("vit_32")
    fused = {name: shape for name, shape in space.supernet_shapes.items() if "qkv" in name}
    assert fused == {f"blocks.{k}.attention.qkv.weight": (3 * 8 * 64, 128) for k in range(6)}
    assert space.parts["head"] == ("classifier.weight", "classifier.bias")
    assert space.parts["stem"] == ("patches.weight", "patches.bias")
    assert len(space.parts["norm"]) == 2 * (2 * 6 + 1)


def test_the_order_of_patches_matters_through_their_places_alone() -> None:
    """Swapping the upper and the lower half of an image, and of the table, gives the same logits."""
    space = make_space("vit_32", **TINY)
    state = space.initial_state(0)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = space.load(space.largest(), state)(images)
    swapped = images.roll(4, dims=2)
    assert not torch.allclose(space.load(space.largest(), state)(swapped), logits, atol=1e-3)
    table = state["positions.table"]  # the class's place, then two above two
    state["positions.table"] = np.ascontiguousarray(table[:, [0, 3, 4, 1, 2]])
    torch.testing.assert_close(space.load(space.largest(), state)(swapped), logits)


def test_there_is_one_architecture_named_by_its_sizes() -> None:
    space = make_space("vit_32", **TINY)
    assert space.size == 1
    assert space.values(space.largest()) == {
        k: v for k, v in (TINY | {"patch": 4}).items() if k != "resolution"
    }
    assert space.fingerprint() != make_space("vit_32").fingerprint()
