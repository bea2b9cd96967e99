"""What is a path, and what is a model of the hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.hub import HubModel, dataset_path, hub_model, no_folder

PATHS = (
    "runs/export/",
    "./runs/export",
    "../export",
    "/runs/export",
    "~/export",
    "export",
    "runs//export",
    "a/../b",
    "a/b@../c",
)


@pytest.mark.parametrize("text", PATHS)
def test_what_begins_or_ends_like_a_path_is_one(text: str) -> None:
    assert hub_model(text) is None
    assert "give a path that exists, or a model of the hub as hf:owner/name" in no_folder(f"hf:{text}")


def test_a_folder_that_is_here_begins_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_model("runs/export") == HubModel("runs/export", "", "main")
    (tmp_path / "runs").mkdir()
    assert hub_model("runs/export") is None
    assert no_folder("runs/export") == "runs/export is no folder; a model of the hub is written hf:runs/export"
    assert hub_model("hf:runs/export") == HubModel("runs/export", "", "main")


def test_a_folder_and_a_revision_are_part_of_an_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model = hub_model("hf:a-b/c.d/e/f@refs/pr/1")
    assert model == HubModel("a-b/c.d", "e/f", "refs/pr/1")
    assert str(model) == "hf:a-b/c.d/e/f@refs/pr/1"
    assert model.fetch == "hf download a-b/c.d --include 'e/f/*' --revision refs/pr/1"
    assert model.snapshot is None
    found = tmp_path / "models--a-b--c.d" / "snapshots" / "refs" / "pr" / "1" / "e" / "f"
    found.mkdir(parents=True)
    assert model.snapshot == found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hf://datasets/owner/name/data", "fetch it with `hf download owner/name --repo-type dataset`"),
        ("hf://datasets/owner/name@v1", "fetch it with `hf download owner/name --repo-type dataset --revision v1`"),
        ("hf://datasets/owner", "names no dataset of the hub"),
        ("hf://datasets/owner/name/../../secret", "names no dataset of the hub"),
        ("hf://models/owner/name", "names no dataset of the hub"),
        ("hf://datasets/-x/name", "names no dataset of the hub"),
    ],
)
def test_a_dataset_that_is_not_in_the_cache_is_one_line(
    text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="hf://") as error:
        dataset_path(text)
    assert told in str(error.value)
