"""Configs that stand for more than they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.config import load_config
from pipelines.load import ConfigError
from pipelines.yaml_text import YamlLimitError, load_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)
MERGED = "a0: &a0 {x: 1, y: 2}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, r"line 6: with its aliases it stands for over 100,000 values"),
        (MERGED, r"line \d: with its aliases it stands for over 100,000 values"),
        ("name: x\na: &a [*a]\n", r"line 2: the alias \*a stands for nothing that ends before it"),
        (
            "scores:\n  quality: {}\n  camera: {}\n  quality: {short_side: 99}\n",
            r"line 4: 'quality' is there twice, in line 2 before: leave one of them out",
        ),
        ("name: x\nb: *b\n", r"line 2: the alias \*b stands for nothing"),
        ("name: x\na: " + "[" * 900 + "]" * 900, r"line 2: it is nested over 60 deep"),
        ("a: " + "{b: " * 50_000, r"line 1: it is nested over 60 deep"),
        ("name: " + "x" * (1 << 21), r"line 1: 2,097,158 characters; at most 1,048,576 are read"),
    ],
)
def test_a_config_that_stands_for_too_much_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bomb.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"bomb\.yaml, {said}") as refused:
        load_config(str(path))
    assert "\n" not in str(refused.value)


def test_an_override_has_the_same_limits() -> None:
    with pytest.raises(ConfigError, match=r"override 'train=.*: it is nested over 60 deep"):
        load_config("demo", ["train=" + "[" * 900])


def test_aliases_as_people_use_them_are_read() -> None:
    text = "base: &base {lr: 1.0e-4, steps: 10}\ntrain: {one: {<<: *base, steps: 20}, two: *base}\n"
    assert load_yaml(text)["train"] == {"one": {"lr": 1e-4, "steps": 20}, "two": {"lr": 1e-4, "steps": 10}}
    assert load_yaml("") is None
    with pytest.raises(YamlLimitError):
        load_yaml(LAUGHS)
