"""The plan of a sweep says which stages are computed once, and refuses arms that compute the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipelines import cli
from pipelines.engine.fingerprint import Identifier
from pipelines.engine.runner import run
from pipelines.engine.store.store import Store
from pipelines.errors import PipelineError
from pipelines.sweep.arms import read_sweep
from pipelines.sweep.plan import plan_runs, plan_sweep
from tests.pipelines.toy import EXECUTE, diamond, identifier

MIXTURES = """\
all: {}
no web: {train.2.tasks.0.source_weights: {web: 0}}
clean: {train.2.tasks.0.source_weights: {synthetic: 3}}
"""
CURATION = {
    "render_shapes", "ingest", "probe", "motion", "tag", "select", "curation_page", "encode_text",
    "encode_latents@images", "encode_latents@videos",
}  # fmt: skip


@pytest.fixture(scope="module")
def real() -> Identifier:
    """Reads the code once."""
    return Identifier()


def test_three_mixtures_times_two_seeds_share_all_curation(tmp_path: Path, real: Identifier) -> None:
    (tmp_path / "mixtures.yaml").write_text(MIXTURES)
    sweep = read_sweep("demo", arms_file=tmp_path / "mixtures.yaml", seeds=(0, 1), store=f"{tmp_path}/store")
    plan = plan_sweep(sweep, Store(tmp_path / "store"), identifier=real).as_dict()
    assert set(plan["shared_by_all"]) == CURATION
    versions = {stage["name"]: stage["versions"] for stage in plan["stages"]}
    assert versions["train@1"] == [0, 1, 0, 1, 0, 1]
    assert all(versions[name] == list(range(6)) for name in versions.keys() - CURATION - {"train@1"})
    assert (plan["computations"], plan["unshared"], plan["cached"]) == (10 + 2 + 9 * 6, 6 * 20, 0)
    words = ["sweep", "demo", "--arms", f"{tmp_path}/mixtures.yaml", "--seeds", "0,1", "--plan"]
    table = CliRunner().invoke(cli.app, [*words, "--store", f"{tmp_path}/store"], env={"COLUMNS": "120"})
    assert table.exit_code == 2, table.output
    assert "66 computations in place of 120 without sharing: 0 cached, 66 to do" in table.output
    assert "ababab" in table.output
    assert not (tmp_path / "store").exists()


def test_what_is_in_the_store_is_counted_once(tmp_path: Path) -> None:
    runs = read_sweep("demo", ["train.2.lr=1e-3,2e-3,3e-3"]).runs
    pipelines = [diamond(), diamond(b="other"), diamond(d="last")]
    store = Store(tmp_path)
    assert run(pipelines[0], store, EXECUTE, identifier=identifier()).ok
    plan = plan_runs(runs, pipelines, store, identifier())
    assert {stage.name: stage.letters for stage in plan.stages} == {"a": "aaa", "b": "aba", "c": "aaa", "d": "abc"}
    assert (plan.computations, plan.unshared, plan.cached, plan.exit_code) == (7, 12, 4, 2)
    assert plan.shared_by_all() == ("a", "c")


@pytest.mark.parametrize(
    ("overrides", "seeds", "until", "said"),
    [
        (["train.2.lr=1e-3,0.001"], (), None, "arms lr=1e-3 and lr=0.001 are equal"),
        # What is no part of a recipe makes no arm.
        (["runtime.max_parallel=1,2"], (), "probe", "arms max_parallel=1 and max_parallel=2 are equal"),
        ([], (0, 1), "probe", "arm config does not train: so its seeds are all the same"),
    ],
)
def test_equal_arms_are_named(
    tmp_path: Path, real: Identifier, overrides: list[str], seeds: tuple[int, ...], until: str | None, said: str
) -> None:
    with pytest.raises(PipelineError, match=said):
        plan_sweep(read_sweep("demo", overrides, seeds=seeds), Store(tmp_path), until, real)


def test_an_arm_that_cannot_run_is_named(tmp_path: Path) -> None:
    sweep = read_sweep("demo", ["weights.transformer=/nowhere,null"], store=str(tmp_path))
    with pytest.raises(PipelineError, match=r"arm transformer=/nowhere: .*/nowhere.*nothing was started"):
        plan_sweep(sweep, Store(tmp_path))
