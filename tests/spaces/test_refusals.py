"""What each space refuses of its settings: key, value and what to do, a row each."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.conftest import make_space

ELASTIC = {"width": [4], "depth": [1], "kernel": [3]}
MOBILE = {"width": [8], "depth": [1], "kernel": [3], "expand": [1], "stride": 1, "se": False}
RATES = "space.rates= ... ascending numbers above 0, the last one 1"
# The space, what is changed of its file, and what is said; dots stand for any words.
# fmt: off
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("darts", {"operations": "s5"}, "operations='s5': no such set of operations. Did you mean 's"),
    ("darts", {"operations": ["sep_conv_7x7"]}, "no such operation. Did you mean 'sep_conv_"),
    ("darts", {"operations": ["skip_connect", "skip_connect"]}, "names an operation twice"),
    ("darts", {"operations": ["none"]}, "leaves nothing that could be trained. Add at least one of skip_"),
    ("darts", {"operations": []}, "leaves nothing that could be trained"),
    ("darts", {"resolution": 30}, "resolution=30: two reduction cells halve ... Use 28 or 32"),
    ("darts", {"resolution": 2}, "resolution=2: two reduction cells halve ... Use 4 or 8"),
    ("darts", {"cells": 2}, "cells=2: cells at 1/3 and 2/3 of the depth reduce ... Use 3 or more"),
    ("darts", {"channels": 0}, "channels=0: must be at least 1"),
    ("elastic_cnn", {"resolution": 7}, "resolution=7: 3 stages halve it, nothing is left; use 8 or more"),
    ("elastic_cnn", {"stages": []}, "space.stages=[]: needs at least one stage"),
    ("elastic_cnn", {"stages": [{"width": [4]}]}, "space.stages[0] has ['width']: need ['depth', 'kern"),
    ("elastic_cnn", {"stages": [ELASTIC | {"width": [8, 4]}]}, "stages[0].width=[8, 4]: write distinct"),
    ("elastic_cnn", {"stages": [ELASTIC | {"kernel": [3, 4]}]}, "space.stages[0].kernel=[3, 4]: must be odd"),
    ("elastic_cnn", {"hidden": []}, "space.hidden=[]: write distinct numbers"),
    ("elastic_cnn", {"norm": "grop"}, "norm='grop': Did you mean 'group'?"),
    ("mobilenetv2_8", {"dropout": 1.0}, "space.dropout=1.0: must be at least 0 and below 1"),
    ("mobilenetv2_8", {"drop_connect": -0.1}, "space.drop_connect=-0.1: must be at least 0 and below 1"),
    ("mobilenetv2_8", {"last": []}, "space.last=[]: write distinct numbers"),
    ("mobilenetv2_8", {"resolution": [3]}, "resolution=3: the strides of 'mobilenetv2_8' divide it by 4"),
    ("mobilenetv2_8", {"stages": [{"width": [8]}]}, "space.stages[0] has ['width']: need"),
    ("mobilenetv3_8", {"resolution": [3]}, "resolution=3: the strides of 'mobilenetv3_8' divide it by 4"),
    ("mobilenetv3_8", {"stem_stride": 0}, "space.stem_stride=0: must be 1 or 2"),
    ("mobilenetv3_8", {"num_classes": 1}, "num_classes=1 must be >= 2"),
    ("mobilenetv3_8", {"stages": [{"width": [8]}]}, "space.stages[0] has ['width']: need"),
    ("mobilenetv3_8", {"stages": [MOBILE | {"width": [16, 8]}]}, "space.stages[0].width ... write distinct"),
    ("mobilenetv3_8", {"stages": [MOBILE | {"kernel": [4]}]}, "space.stages[0].kernel ... must be odd"),
    ("mobilenetv3_8", {"stages": [MOBILE | {"stride": 3}]}, "space.stages[0].stride ... must be 1 or 2"),
    ("mobilenetv3_8", {"stages": [MOBILE | {"se": "false"}]}, "space.stages[0].se ... must be true or false"),
    ("mobilenetv3_8", {"stages": [MOBILE | {"depth": [1.5]}]}, "space.stages[0].depth ... whole numbers"),
    ("nasvit_32", {"resolution": [4, 32]}, "space.resolution=4: the strides of 'nasvit_32' divide it by 8"),
    ("nasvit_32", {"resolution": [8, 32]}, "resolution=8: leaves a single position to space.stages[3]"),
    ("nasvit_32", {"resolution": [32, 16]}, "space.resolution=[32, 16]: write distinct numbers"),
    ("nasvit_32", {"stem": []}, "space.stem=[]: write distinct numbers"),
    ("nasvit_32", {"last": [512, 384]}, "space.last=[512, 384]: write distinct numbers"),
    ("nasvit_32", {"head_dim": 16}, "space.stages[2].width=[40, 48]: ... multiples of space.head_dim=16"),
    ("nasvit_32", {"head_dim": 0}, "space.head_dim=0: must be at least 1"),
    ("nasvit_32", {"stages": []}, "space.stages=[]: 'nasvit_32' needs at least one"),
    ("nasvit_32", {"stages": [{"width": [8]}]}, "space.stages[0] has ['width']: need ['attention', "),
    ("lenet", {"resolution": 15}, "resolution=15: 2 convolutions of 5 pixels, each halved, leave"),
    ("lenet", {"resolution": 8}, "use 16 or more (smaller images are scaled up"),
    ("lenet", {"channels": []}, "channels=[]: needs a convolution or more"),
    ("lenet", {"channels": [6, 0]}, "channels=[6, 0]: needs 1 or more in every layer"),
    ("lenet", {"hidden": [-1]}, "hidden=[-1]: needs 1 or more in every layer"),
    ("lenet", {"kernel": 0}, "kernel=0: needs 1 pixel or more"),
    ("resnet18", {"resolution": 7}, "resolution=7: the stages need 8 pixels or more"),
    ("resnet18", {"width": 0}, "width=0: needs 1 channel or more"),
    ("resnet18", {"norm": "bath"}, "norm='bath': Did you mean 'batch'?"),
    ("resnet18", {"norm": "group", "groups": 3}, "groups=3: must divide width=64"),
    ("resnet18", {"norm": "group", "groups": 0}, "groups=0: must divide width=64"),
    ("vit_32", {"resolution": 30}, "resolution=30: must be a multiple of patch=4; images of another size"),
    ("vit_32", {"resolution": 2}, "resolution=2: must be a multiple of patch=4"),
    ("vit_32", {"depth": 0}, "depth=0: needs 1 or more"),
    ("vit_32", {"heads": -1}, "heads=-1: needs 1 or more"),
    ("mobilenetv2_width_8", {"rates": []}, RATES),
    ("mobilenetv2_width_8", {"rates": [0.5]}, RATES),
    ("mobilenetv2_width_8", {"rates": [1.0, 0.5]}, RATES),
    ("mobilenetv2_width_8", {"rates": [0.0, 1.0]}, RATES),
    ("mobilenetv2_width_8", {"rates": [0.5, 0.5, 1.0]}, RATES),
    ("mobilenetv2_width_8", {"rates": ["a", 1.0]}, RATES),
]
# fmt: on


@pytest.mark.parametrize(("space", "changes", "words"), REFUSED)
def test_what_is_refused(space: str, changes: dict[str, Any], words: str) -> None:
    pattern = "(?s)" + ".*".join(re.escape(part) for part in words.split(" ... "))
    with pytest.raises(ValueError, match=pattern):
        make_space(space, **changes)
