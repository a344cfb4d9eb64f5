"""The nested family: by hand on a toy space, nested on a real one; the largest that fits is taken."""

from __future__ import annotations

import itertools

import pytest

from corolla.errors import RefusedError
from corolla.search.proposals.growth import Growth, GrowthSettings, path
from corolla.search.proposals.protocol import SearchContext
from corolla.spaces.architecture import Architecture, Dimension
from corolla.spaces.space import SearchSpace
from tests.conftest import make_space

ORDER = ["depth", "width", "others"]


def test_kind_after_kind_and_evenly_within_one() -> None:
    """Widths have 2 and 3 choices: levels 0, 0 (the first of equal costs), then 1, 0, then 1, 1/2."""
    names = {"a.width": (0, 1), "a.kernel": (0, 1), "b.width": (0, 1, 2)}
    space = SearchSpace(
        name="toy", dimensions=tuple(Dimension(name, choices) for name, choices in names.items())
    )
    found = [member.choices for member in path(space, ["width", "others"])]
    assert found == [(0, 0, 0), (1, 0, 0), (1, 0, 1), (1, 0, 2), (1, 1, 2)]
    assert [m.choices for m in path(space, ["kernel"])] == [(0, 0, 0), (0, 1, 0)]


def below(one: Architecture, other: Architecture) -> bool:
    return all(a <= b for a, b in zip(one.choices, other.choices, strict=True))


def test_members_lie_inside_each_other_and_the_largest_that_fits_is_taken() -> None:
    space = make_space("mobilenetv2_8")
    family = list(path(space, ORDER))
    assert family[0] == space.smallest()
    assert family[-1] == space.largest()
    pairs = list(itertools.pairwise(family))
    assert all(below(small, large) for small, large in pairs)
    assert all(sum(b.choices) == sum(a.choices) + 1 for a, b in pairs)
    context = SearchContext(space=space, seed=0, max_draws=3)
    growth = Growth(settings=GrowthSettings(order=ORDER), context=context)
    for member in family:
        cap = space.cost(member)
        found = growth.chosen("0", fits=lambda one, cap=cap: space.cost(one) <= cap)
        assert space.cost(found) == cap
    # Between two members steps of the same kind are taken where they fit: it holds the smaller one.
    for before, after in pairs:
        cap = space.cost(after) - 1
        found = growth.chosen("0", fits=lambda one, cap=cap: space.cost(one) <= cap)
        assert space.cost(before) <= space.cost(found) <= cap
        assert found == before or below(before, found)
    by_lot = [list(path(space, ["others"], shuffle=seed)) for seed in (0, 0, 1)]
    assert by_lot[0] == by_lot[1] != by_lot[2]
    assert {one[-1] for one in by_lot} == {space.largest()}
    assert len(by_lot[2]) == len(family)
    with pytest.raises(RefusedError, match="smallest"):
        growth.chosen("0", fits=lambda one: False)
    with pytest.raises(RefusedError, match="names depth twice"):
        Growth(settings=GrowthSettings(order=["depth", "depth"]), context=context)
    with pytest.raises(RefusedError, match="height: no kind of dimension of space 'mobilenetv2_8'"):
        Growth(settings=GrowthSettings(order=["width", "height"]), context=context)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("mobilenetv2_8", ["width", "expand"]),
        ("elastic_cnn", ["width"]),
        ("darts_small", ["others"]),
    ],
)
def test_unless_an_order_is_given_widths_grow_or_all_where_there_are_none(
    name: str, order: list[str]
) -> None:
    space = make_space(name)
    usual = Growth(
        settings=GrowthSettings(order=None),
        context=SearchContext(space=space, seed=0, max_draws=3),
    )
    assert usual.family == list(path(space, order))
