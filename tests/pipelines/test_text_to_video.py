"""The DAG has the arrows of the design, and a fingerprint moves for what changes the output alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.config import load_config
from pipelines.fingerprint import Identifier
from pipelines.text_to_video import build

ARROWS = {
    "render_shapes": set(),
    "ingest": {"render_shapes"},
    "probe": {"ingest", "render_shapes"},
    "motion": {"probe", "render_shapes"},
    "tag": {"probe"},
    "select": {"probe", "motion", "tag"},
    "curation_page": {"probe", "motion", "tag", "select", "render_shapes"},
    "encode_text": {"select", "tag"},
    "encode_latents@images": {"select", "tag", "render_shapes"},
    "encode_latents@videos": {"select", "tag", "render_shapes"},
    "train@1": {"encode_latents@images", "encode_text"},
    "train@2": {"train@1", "encode_latents@videos", "encode_text"},
    "train@3": {"train@2", "encode_latents@images", "encode_latents@videos", "encode_text"},
    "evaluate@handheld": {"train@3", "tag"},
    "evaluate@synthetic": {"train@3", "tag"},
    "evaluate@web": {"train@3", "tag"},
    "choose": {"evaluate@handheld", "evaluate@synthetic", "evaluate@web", "encode_latents@videos"},
    "finetune": {"train@3", "choose", "encode_latents@videos", "encode_text"},
    "evaluate_final": {"train@3", "finetune", "choose", "tag"},
    "export": {"finetune", "choose", "tag"},
}  # fmt: skip


@pytest.fixture(scope="module")
def identifier() -> Identifier:
    return Identifier()


def fingerprints(identifier: Identifier, name: str, overrides: Sequence[str] = ()) -> dict[str, str]:
    """Fingerprint of every stage, as if each gave another output whenever its own fingerprint changes."""
    found: dict[str, str] = {}
    for stage in build(load_config(name, overrides)).order:
        found[stage.name] = identifier.identify(stage, found).fingerprint
    return found


def changed(identifier: Identifier, *overrides: str) -> set[str]:
    before, after = (fingerprints(identifier, "demo", change) for change in ((), overrides))
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_the_demo_is_the_dag_of_the_design() -> None:
    pipeline = build(load_config("demo"))
    assert len(pipeline.stages) == 20
    assert {stage.name: set(stage.inputs.values()) for stage in pipeline.stages} == ARROWS


def test_how_a_run_is_executed_is_in_no_identity(identifier: Identifier) -> None:
    code = {name for stage in build(load_config("demo")).stages for name in identifier.base(stage)[0]["code"]}
    assert "jobs.context" in code
    assert not {"jobs.runtime", "jobs.cluster"} & code


def test_settings_that_change_no_output_change_no_fingerprint(identifier: Identifier) -> None:
    assert not changed(
        identifier,
        "runtime={train_workers: 4, use_gpu: true, checkpoint_every: 7, ray_address: auto, num_cpus: 9}",
        "store=/elsewhere",
        "tracking_uri=http://mlflow:5000",
        "min_free_gb=0",
        "name=other",
    )


@pytest.mark.parametrize(
    ("override", "same", "different"),
    [
        ("select.min_motion=0.5", {"ingest", "probe", "motion", "tag"}, {"select", "encode_latents@videos", "train@1"}),
        ("motion.samples=4", {"probe", "tag"}, {"motion", "select"}),
        ("choose.on_tie=union", {"train@3", "evaluate@web"}, {"choose", "finetune", "evaluate_final", "export"}),
        ("finetune.lr=1e-4", {"choose", "evaluate@web"}, {"finetune", "evaluate_final", "export"}),
        ("train.2.steps=999", {"train@1", "encode_text"}, {"train@2", "train@3", "evaluate@web", "choose", "finetune"}),
    ],
)
def test_a_change_reaches_what_comes_after_it(
    identifier: Identifier, override: str, same: set[str], different: set[str]
) -> None:
    found = changed(identifier, override)
    assert different <= found
    assert not same & found


def test_nothing_but_the_page_depends_on_the_page(identifier: Identifier) -> None:
    assert changed(identifier, "curation_page.seed=1") == {"curation_page"}
    page = build(load_config("demo")).by_name["curation_page"]
    # The template is no module, so the digest of code does not see it.
    assert "template" in identifier.base(page)[0]["files"]


def test_a_folder_is_identified_by_its_rows_and_files_and_not_by_its_place(
    identifier: Identifier, tmp_path: Path
) -> None:
    def make(name: str, caption: str) -> dict[str, str]:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "clips.csv").write_text(f"video,caption,source\na.mp4,{caption},web\nb.mp4,two,phone\n")
        return fingerprints(identifier, "folder", [f"data.manifest={folder / 'clips.csv'}"])

    one, two, three = make("one", "one"), make("two", "one"), make("three", "another")
    assert one == two
    assert {"evaluate@phone", "evaluate@web"} <= set(one)
    assert "render_shapes" not in one
    assert one["ingest"] != three["ingest"]
