"""Arms come from a grid and from a file, each with every seed; what is no sweep is named before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.config import PipelineConfig
from pipelines.errors import PipelineError
from pipelines.sweep.arms import read_seeds, read_sweep

SEEDED = ["train.1.seed=7", "train.2.seed=7", "train.3.seed=7", "finetune.seed=7"]


def test_a_grid_has_an_arm_for_every_pair() -> None:
    sweep = read_sweep("demo", ["train.2.lr=1e-3,2e-3", "train.3.steps=50,60", "finetune.steps=10"], store="/s")
    assert [arm.name for arm in sweep.arms] == [
        "lr=1e-3, steps=50", "lr=1e-3, steps=60", "lr=2e-3, steps=50", "lr=2e-3, steps=60"
    ]  # fmt: skip
    assert sweep.name == "demo-sweep"
    assert len({run.name for run in sweep.runs}) == 4
    last = sweep.runs[-1]
    assert isinstance(last.settings, PipelineConfig)
    assert (last.settings.train["2"].lr, last.settings.train["3"].steps, last.settings.finetune.steps) == (2e-3, 60, 10)
    assert last.settings.store == "/s"
    assert last.settings.name == last.name


def test_keys_that_end_alike_are_told_apart() -> None:
    sweep = read_sweep("demo", ["train.2.lr=1e-3,2e-3", "finetune.lr=1e-3,3e-3"])
    assert sweep.arms[0].name == "2.lr=1e-3, finetune.lr=1e-3"


def test_a_seed_is_that_of_training_and_of_nothing_else() -> None:
    sweep = read_sweep("demo", ["train.2.lr=1e-3,2e-3"], seeds=(7, 8), name="lrs")
    assert [(run.arm, run.seed) for run in sweep.runs] == [
        ("lr=1e-3", 7), ("lr=1e-3", 8), ("lr=2e-3", 7), ("lr=2e-3", 8)
    ]  # fmt: skip
    first = sweep.runs[0]
    assert first.overrides == ("train.2.lr=1e-3", *SEEDED)
    assert first.name.startswith("lrs.lr-1e-3-")
    assert first.name.endswith(".s7")
    assert len(read_sweep("demo", seeds=(0, 1)).runs) == 2
    sound = read_sweep("sound", seeds=(0, 1)).runs[1]
    assert all(stage.seed == 1 for stage in sound.settings.train.values())


def test_arms_of_a_file(tmp_path: Path) -> None:
    yaml, listed, table = tmp_path / "arms.yaml", tmp_path / "arms.yml", tmp_path / "arms.csv"
    yaml.write_text("all: {}\nno web: {train.2.tasks.0.source_weights: {web: 0}, train.2.lr: 1e-3}\n")
    listed.write_text("- {name: all}\n- {name: no web, train.2.tasks.0.source_weights: {web: 0}, train.2.lr: 1e-3}\n")
    table.write_text('name,train.2.tasks.0.source_weights,train.2.lr\nall,,\nno web,"{""web"": 0}",1e-3\n')
    for path in (yaml, listed, table):
        sweep = read_sweep("demo", arms_file=path)
        assert [arm.name for arm in sweep.arms] == ["all", "no web"], path
        assert sweep.arms[1].overrides == ('train.2.tasks.0.source_weights={"web": 0}', "train.2.lr=1e-3"), path
        settings = sweep.runs[1].settings
        assert isinstance(settings, PipelineConfig)
        assert settings.train["2"].tasks[0].source_weights == {"web": 0}
    crossed = read_sweep("demo", ["finetune.steps=5,6"], arms_file=yaml)
    assert [arm.name for arm in crossed.arms] == ["all, steps=5", "all, steps=6", "no web, steps=5", "no web, steps=6"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.2.lrr=1e-3,2e-3"], r"^demo: train.2.lrr: unknown key; did you mean 'lr'\?$"),
        (["train.2.lr=1e-3,-1"], r"^arm lr=-1: demo: train.2.lr: .*; nothing was started$"),
        (["train.2.lr=1e-3,1e-3"], "arm 'lr=1e-3' is there twice"),
        (["train.2.lr=1e-3,2e-3", "train.2.lr=3e-3,4e-3"], "train.2.lr is given twice"),
        (["train.2.lr=1e-3"], "a sweep of one run is `lumina run`"),
        (["name=a,b"], "--name names the sweep"),
        (["store=a,b"], "all arms share one"),
    ],
)
def test_what_is_no_sweep_is_refused(overrides: list[str], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        read_sweep("demo", overrides)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "a: {train.2.lr: 1}\na: {train.2.lr: 2}\n", "'a' is there twice"),
        ("a.yaml", "- {name: a, train.2.lr: 1}\n- {name: a, train.2.lr: 2}\n", "arm 'a' is there twice"),
        ("a.yaml", "a: 5\nb: 6\n", "a: expected {key: value}"),
        ("a.yaml", "- 5\n", "expected name: {key: value}"),
        ("a.yaml", "{}\n", "there is no arm in it"),
        ("a.yaml", "a: [\n", "not valid YAML"),
        ("a.csv", "train.2.lr\n1\n", "expected a column name"),
        ("a.csv", "name,train.2.lr\na,1,2\n", "line 2: not as many cells"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PipelineError, match=said):
        read_sweep("demo", arms_file=tmp_path / name)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(PipelineError, match=r"--arms none\.yaml: No such file"):
        read_sweep("demo", arms_file=Path("none.yaml"))


def test_seeds() -> None:
    assert read_seeds("0, 12") == (0, 12)
    assert read_seeds(None) == ()
    for text, said in (
        ("0,0", "twice"),
        ("0,", "no whole number"),
        ("-1", "no whole number"),
        ("x", "no whole number"),
    ):
        with pytest.raises(PipelineError, match=said):
            read_seeds(text)
    with pytest.raises(PipelineError, match=r"train\.2\.seed of arm config is what --seeds sets"):
        read_sweep("demo", ["train.2.seed=4"], seeds=(0, 1))
