from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.engine.reuse_candidates import reuse_candidates
from pipelines.engine.runner import run
from pipelines.engine.stage import Pipeline, Stage
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.open_store import open_store
from pipelines.engine.store.store import Store
from tests.pipelines.toy import EXECUTE, identifier, stage


def rows(**config: str) -> Stage:
    return replace(stage("rows", inputs=("raw",), **config), operator="tests.pipelines.toy:write")


def go(store: Store, text: str) -> Manifest:
    summary = run(Pipeline("toy", (stage("raw", text=text), rows())), store, EXECUTE, identifier=identifier())
    manifest = summary.outcomes["rows"].manifest
    assert manifest is not None
    return manifest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def found(store: Store, wanted: Stage, inputs: tuple[str, ...] = ("raw",)) -> list[str]:
    recipe = identifier().identify(replace(wanted, inputs={name: name for name in inputs}), dict.fromkeys(inputs, "d"))
    return [one.fingerprint for one in reuse_candidates(store, wanted, recipe)]


def test_outputs_of_other_inputs_come_newest_first(store: Store) -> None:
    made = [go(store, text) for text in "abcdef"]
    assert found(store, rows()) == [one.fingerprint for one in reversed(made[2:])]
    [newest, *_] = reuse_candidates(store, rows(), identifier().identify(rows(), {"raw": "d"}))
    assert newest.fetch(lambda path: path == "text.txt") == store.output(made[-1])


def test_what_differs_in_more_than_inputs_is_none_of_them(store: Store) -> None:
    go(store, "a")
    assert found(store, rows(text="other")) == []
    assert found(store, rows(), ("raw", "more")) == []
    assert found(store, replace(rows(), operator="")) == []


def test_what_is_damaged_is_none_of_them(store: Store) -> None:
    damaged = go(store, "a")
    (store.output(damaged) / "text.txt").unlink()
    assert found(store, rows()) == []


def test_of_an_output_in_a_bucket_only_wanted_files_are_fetched(s3_store: str, tmp_path: Path) -> None:
    made = go(open_store(s3_store, tmp_path / "one"), "a")
    elsewhere = open_store(s3_store, tmp_path / "two")
    [earlier] = reuse_candidates(elsewhere, rows(), identifier().identify(rows(), {"raw": "d"}))
    out = earlier.fetch(lambda path: path == "text.txt")
    assert earlier.fingerprint == made.fingerprint
    assert [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()] == ["text.txt"]


def test_an_output_that_another_machine_computed_again_is_fetched_as_it_is_now(s3_store: str, tmp_path: Path) -> None:
    here, elsewhere = (open_store(s3_store, tmp_path / name) for name in ("one", "two"))
    first = go(here, "a")
    assert elsewhere.manifests("rows") == [first]
    here.repair("rows", first.fingerprint)
    assert go(here, "a").attempt != first.attempt
    [earlier] = reuse_candidates(elsewhere, rows(), identifier().identify(rows(), {"raw": "d"}))
    assert (earlier.fetch(lambda path: True) / "text.txt").is_file()
