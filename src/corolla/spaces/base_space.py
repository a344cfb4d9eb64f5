"""What spaces share that are made of one architecture of another space."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Unpack

from corolla.config.build import build
from corolla.spaces.supernet import Network, Shapes, Supernet


def base_space(base: Supernet | Mapping[str, Any], **known: Unpack[Network]) -> Supernet:
    """Return the space under another one, built where ``base`` is its ``_target_`` node.

    Args:
        base: a space, or its node.
        known: name, classes and channels, whatever the node says of them.

    Raises:
        ValueError: it is no search space.
        RefusedError: what the space refuses.

    """
    if isinstance(base, Mapping):
        node = {key: value for key, value in base.items() if key not in known}
        base = build(node, "space.supernet.base", **known)
    if not isinstance(base, Supernet):
        raise ValueError(f"space.base={base!r}: must be a search space")
    return base


def network_fingerprint(choices: str, shapes: Shapes, *more: Any) -> str:
    """Return a short hash of a space's choices and of its network, which no dimension names.

    Args:
        choices: fingerprint of the dimensions.
        shapes: of the supernet.
        more: what else makes it another space.

    """
    listed = {name: list(shape) for name, shape in shapes.items()}
    text = json.dumps([choices, listed, *more], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
