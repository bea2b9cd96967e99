"""Values of a grid are told apart at commas, and keep those of lists, mappings and quotes."""

from __future__ import annotations

import pytest

from pipelines.errors import PipelineError
from pipelines.sweep.values import grid_values


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("a=1", ("1",)),
        ("a=1e-3, 2e-3,null", ("1e-3", "2e-3", "null")),
        ("a=[1, 2],[3]", ("[1, 2]", "[3]")),
        ("a={web: 0, x: [1,2]},{}", ("{web: 0, x: [1,2]}", "{}")),
        ('a="x, y",z', ("x, y", "z")),
        ("a='it''s, here',it's,there", ("it's, here", "it's", "there")),
        (r'a="say \"a, b\"",c', ('say "a, b"', "c")),
        ('a=["x, ]", y],[z]', ('["x, ]", y]', "[z]")),
        ("a=no [bracket, here", ("no [bracket", "here")),
        ("a=b=c,d", ("b=c", "d")),
    ],
)
def test_values(override: str, values: tuple[str, ...]) -> None:
    assert grid_values(override) == ("a", values)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("a", "expected key=value"),
        ("=1,2", "expected key=value"),
        ("a=", "there is no value"),
        ("a=1,,2", "a value is empty"),
        ("a=1,", "a value is empty"),
        ("a=[1,2", "']' is missing"),
        ('a="1,2', "is not closed"),
    ],
)
def test_what_is_no_list_of_values_is_refused(override: str, said: str) -> None:
    with pytest.raises(PipelineError, match=rf"-o {override.replace('[', '.')}.*{said}"):
        grid_values(override)
