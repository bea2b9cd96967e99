"""Reading a config: overrides land where they say, and every mistake is answered with what to type instead."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, model_validator

from lumina.config import Config
from pipelines.load import ConfigError, load, shipped


class Part(Config):
    width: int = Field(default=4, ge=1)


class Square(Config):
    kind: Literal["square"] = "square"
    side: int = 1


class Round(Config):
    kind: Literal["round"] = "round"
    radius: float = 1.0


class Stage(Config):
    part: Part
    rate: float = Field(default=0.1, gt=0)
    sizes: tuple[tuple[int, int], ...] = ((1, 2),)


class Whole(Config):
    part: Part = Part()
    form: Annotated[Square | Round, Field(discriminator="kind")] = Square()
    stages: dict[str, Stage] = Field(default_factory=dict)
    limit: float | None = 1.0
    names: dict[str, str] = Field(default_factory=dict)
    note: str | None = "note"
    where: Path | None = None
    word: Literal["off", "on"] = "on"
    shade: Literal["dark"] | float | dict[str, str] = 0.5

    @model_validator(mode="before")
    @classmethod
    def _share(cls, data: dict) -> dict:
        stages = {name: {"part": data.get("part", {}), **stage} for name, stage in data.get("stages", {}).items()}
        return {**data, "stages": stages}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.limit == 13:
            raise ValueError("limit must not be 13")
        return self


BASE = """
part: {width: 8}
stages:
  1: {rate: 0.5, sizes: &sizes [[1, 2], [3, 4]]}
  b: {sizes: *sizes}
"""


def read(tmp_path: Path, *overrides: str, text: str = BASE) -> Whole:
    path = tmp_path / "whole.yaml"
    path.write_text(text)
    return load({"whole": Whole}, str(path), overrides)


def test_overrides_reach_every_place(tmp_path: Path) -> None:
    found = read(
        tmp_path, "stages.1.rate=1e-4", "stages.b.sizes.1.0=7", "limit=", "stages.new={rate: 2}", "part.width=3"
    )
    assert found.stages["1"].rate == 1e-4
    assert found.limit is None
    assert found.stages["new"] == Stage(part=Part(width=3), rate=2)
    assert found.stages["b"].sizes == ((1, 2), (7, 4))


def test_defaults_stand_in_for_sections_that_are_empty(tmp_path: Path) -> None:
    (tmp_path / "whole.yaml").write_text("part: {}\n")
    defaults = {"part": {"width": 5}, "limit": 2.0}
    found = load({"whole": Whole}, str(tmp_path / "whole.yaml"), ["limit=7"], defaults)
    assert (found.part.width, found.limit) == (5, 7)
    assert load({"whole": Whole}, str(tmp_path / "whole.yaml"), ["part.width=3"], defaults).part.width == 3


def test_an_alias_is_a_copy(tmp_path: Path) -> None:
    found = read(tmp_path, "stages.b.sizes.0.0=9")
    assert found.stages["1"].sizes[0] == (1, 2)
    assert found.stages["b"].sizes[0] == (9, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prat.width=2", "prat: unknown key; did you mean 'part'?"),
        ("stages.1.part.widht=2", "stages.1.part.widht: unknown key; did you mean 'width'?"),
        ("stages.b.zzz=2", "stages.b.zzz: unknown key; known here: part, rate, sizes"),
        ("part.width=0", "part.width: Input should be greater than or equal to 1; got 0"),
        ("part.wdth=2", "part.wdth: unknown key; did you mean 'width'?"),
        ("stages.b.rate=0", "stages.b.rate: Input should be greater than 0; got 0"),
        ("form.sied=2", "form.sied: unknown key where kind is 'square'; did you mean 'side'?"),
        ("form={kind: round, sied: 2}", "form.sied: unknown key where kind is 'round'; known here: kind, radius"),
        ("form={kind: round, side: 2}", "form.side: unknown key where kind is 'round'; known here: kind, radius"),
        ("form.kind=rund", "form.kind: there is no 'rund'; there are: round, square; did you mean 'round'?"),
        ("form.kind=x", "form.kind: there is no 'x'; there are: round, square"),
        ("form={side: 2}", "form.kind: missing; there are: round, square"),
        ("form.side=x", "form.side: Input should be a valid integer, unable to parse string as an integer; got 'x'"),
        ("limit=13", "limit must not be 13"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_the_key(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "form={kind: square}", override)
    assert str(caught.value) == f"{tmp_path / 'whole.yaml'}: {message}"


@pytest.mark.parametrize("key", ["names.a", "note", "where"])
@pytest.mark.parametrize(
    "text",
    [
        "the world's #1 assistant", "#1", "a: b", "a:", "{a", "{a: b}", "[a, b]", "@a", "*a", "&a", "- a", "-", "%a",
        "!a", "!!int 3", "|", "> a", "'a", "'a'", '"a"', "true", "no", "~", "123", "1e3", "0x10", "2026-01-01",
        "2026-13-45", "a=b", " a ", "a\nb", "---", "`a`", "ä 🎬", "Null", "a, b",
    ],
)  # fmt: skip
def test_a_key_for_text_takes_the_text_as_it_is(tmp_path: Path, key: str, text: str) -> None:
    found = read(tmp_path, f"{key}={text}")
    assert {"names.a": found.names.get("a"), "note": found.note, "where": found.where}[key] == (
        Path(text) if key == "where" else text
    )


def test_null_is_none_where_that_may_be(tmp_path: Path) -> None:
    for override in ("note=null", "note=", "where=null", "where="):
        found = read(tmp_path, "where=a", override)
        assert [found.note, found.where].count(None) == 1
    assert read(tmp_path, "names.a=null", "names.b=").names == {"a": "null", "b": ""}


def test_words_of_a_choice_are_texts_and_sections_are_yaml(tmp_path: Path) -> None:
    assert read(tmp_path, "word=off").word == "off"
    assert read(tmp_path, "names={a: hello, b: 'x # y'}").names == {"a": "hello", "b": "x # y"}
    with pytest.raises(ConfigError, match="word: Input should be 'off' or 'on'; got '- on'"):
        read(tmp_path, "word=- on")
    # One of several forms: the one that is written.
    assert [read(tmp_path, f"shade={text}").shade for text in ("dark", "0.25", "{a: b}")] == ["dark", 0.25, {"a": "b"}]
    with pytest.raises(ConfigError, match="got '@dark'"):
        read(tmp_path, "shade=@dark")


def test_several_mistakes_are_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 settings to mend\n  part.width: .*\n  stages.b.rate: "):
        read(tmp_path, "part.width=0", "stages.b.rate=-1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rate", "expected key=value"),
        ("=3", "expected key=value"),
        ("a={b: [", "a: unknown key; known here: form, limit, names, note, part, shade, stages, where, word"),
        ("part={width: [", "expected a section like {key: value}, which '{width: [' is not: as YAML, "),
        ("stages.b.sizes=[1, #2]", "<stream end>'; text inside goes in quotes"),
        ("part.width=@8", "expected a whole number, which '@8' is not: as YAML, found character '@' that cannot start"),
        ("limit=%8", "expected a number, which '%8' is not: as YAML, "),
        (
            "part.width=2026-13-01",
            "expected a whole number, which '2026-13-01' is not: as YAML, month must be in 1..12",
        ),
        ("part.width=8 # wide", "in YAML # begins a comment"),
        ("names=a: the world's #1 assistant", "in YAML # begins a comment"),
        ("names.a=caf\udce9", "the value is not UTF-8"),
        ("stages.b.sizes.5.0=1", "'5' is no position of a list of 2"),
        ("stages.b.sizes.0.0.0=1", "stages.b.sizes.0.0 is no section"),
    ],
)
def test_an_override_that_is_none(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, override)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="not valid YAML: month must be in"):
        read(tmp_path, text="limit: 2026-13-01")


def test_a_config_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config is named 'dmeo'; there are: demo, folder.*did you mean 'demo'"):
        load({"whole": Whole}, "dmeo")
    with pytest.raises(ConfigError, match="no such file"):
        load({"whole": Whole}, str(tmp_path / "nowhere.yaml"))
    with pytest.raises(ConfigError, match="not valid YAML"):
        read(tmp_path, text="a: [")
    with pytest.raises(ConfigError, match="expected a mapping"):
        read(tmp_path, text="- a")
    assert {"demo", "folder"} <= set(shipped())


def test_a_config_is_read_by_its_byte_order_mark_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_text("# Größe\npart: {width: 7}\n", encoding=encoding)
        assert load({"whole": Whole}, str(path)).part.width == 7
    path.write_text("part:\n  width: 7  # Größe\n", encoding="cp1252")
    with pytest.raises(ConfigError, match=r"mine.yaml, line 2: byte 22 \(0xf6\) is not UTF-8: save it as UTF-8"):
        load({"whole": Whole}, str(path))
