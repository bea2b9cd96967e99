"""Export: the directory works, holds the averaged weights, and says where it came from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.context import InputRef, JobContext
from jobs.export import ExportConfig, run
from jobs.runtime import RuntimeConfig
from lumina.checkpoints import digest, save_model
from lumina.flow_matching.schedules import SamplerConfig
from lumina.generate import TextToVideo
from lumina.models.config import NextDiTConfig
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.system_prompts import SystemPrompt, write_system_prompts
from pipelines.engine.code_closure import CodeIndex
from tests.lumina import tiny
from tests.lumina.hub_cache import download


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MultiScaleNextDiT]:
    """A folder with the job's inputs, and the averaged weights among them."""
    root = tmp_path_factory.mktemp("inputs")
    model = MultiScaleNextDiT(NextDiTConfig(dim=32, n_layers=1, n_heads=2, multiple_of=32, cap_feat_dim=24))
    save_model(model, root / "checkpoint" / "transformer_ema")
    tiny.save_parts(root)
    for name in ("tag", "selection"):
        (root / name).mkdir()
    prompts = [SystemPrompt(name, f"{name} <Prompt Start> ") for name in ("synthetic", "web")]
    write_system_prompts(root / "tag" / "system_prompts.json", prompts)
    tagged = {"clip_id": ["a", "b", "c"], "source": ["web", "web", "synthetic"], "status": ["ok", "failed", "ok"]}
    (root / "tag" / "data").mkdir()
    pq.write_table(pa.table(tagged), root / "tag" / "data" / "part-0.parquet")
    choice = {"chosen": "web", "sources": ["web"], "decided_by": "hand", "reason": "Chosen by hand: Calm.", "table": []}
    (root / "selection" / "selection.json").write_text(json.dumps(choice))
    return root, model


def context(root: Path, out: Path, config: ExportConfig, *keys: str) -> JobContext:
    """The job's context over the given inputs."""
    out.mkdir()
    return JobContext(
        stage="export",
        fingerprint="f" * 64,
        operator="",
        config=config,
        runtime=RuntimeConfig(),
        inputs={key: InputRef(key, root / key, f"sha256:{key}") for key in keys},
        weights={name: str(root / name) for name in ("vae", "text_encoder")},
        media_root="",
        out=out,
        work=out,
        progress=lambda done, total, unit: None,
        log_metrics=lambda metrics, step: None,
    )


def test_the_directory_generates(inputs: tuple[Path, MultiScaleNextDiT], tmp_path: Path) -> None:
    root, model = inputs
    config = ExportConfig(num_frames=8, width=32, height=32, fps=5.0, sampler=SamplerConfig(steps=1))
    ctx = context(root, tmp_path / "out", config, "checkpoint", "tag", "selection")
    result = run(ctx)
    assert result.kind == "checkpoint"
    assert result.digest == digest({"transformer": model.state_dict()})
    pipeline = TextToVideo.from_pretrained(ctx.out)
    clip = pipeline("a red circle")
    assert (clip.frames.shape, clip.fps) == ((1, 8, 32, 32, 3), 5.0)
    assert pipeline.defaults.source == "web"
    lineage = json.loads((ctx.out / "lineage.json").read_text())
    assert lineage["inputs"]["checkpoint"] == {"stage": "checkpoint", "digest": "sha256:checkpoint"}
    assert lineage["choice"] == {
        "chosen": "web", "sources": ["web"], "decided_by": "hand", "reason": "Chosen by hand: Calm."
    }  # fmt: skip
    assert "transformer/model.safetensors" in lineage["files_sha256"]
    assert str(tmp_path) not in json.dumps(lineage)
    assert {"model_index.json", "pipeline.py", "README.md"} < set(lineage["files_sha256"])
    card = (ctx.out / "README.md").read_text()
    assert "| web | 1 |" in card
    assert r"Fine-tuned on web. Chosen by hand\: Calm\." in card
    assert "f" * 64 in card


def test_what_generation_costs_is_no_part_of_an_export() -> None:
    reached = CodeIndex().closure(["jobs.export"])
    assert "lumina.parts" in reached
    assert not reached.keys() & {"lumina.cost", "lumina.generate", "lumina.memory_plan"}


def test_default_source_must_have_a_prompt(inputs: tuple[Path, MultiScaleNextDiT], tmp_path: Path) -> None:
    ctx = context(inputs[0], tmp_path / "out", ExportConfig(source="film"), "checkpoint", "tag")
    with pytest.raises(ValueError, match="only for synthetic, web"):
        run(ctx)


def test_only_files_of_networks_are_copied_and_no_link_leads_out(
    inputs: tuple[Path, MultiScaleNextDiT], tmp_path: Path
) -> None:
    root = tmp_path / "inputs"
    shutil.copytree(inputs[0], root)
    encoder = root / "text_encoder"
    (encoder / "notes.txt").write_text("not to be published")
    (encoder / "LICENSE").write_text("as it is")
    (tmp_path / "credentials").write_text("marked-7731")
    (encoder / "merges.txt").symlink_to(tmp_path / "credentials")
    ctx = context(root, tmp_path / "out", ExportConfig(), "checkpoint", "tag")
    with pytest.raises(ValueError, match=r"text_encoder/merges\.txt is a link that leads out of the folder: "):
        run(ctx)
    assert not [path for path in ctx.out.rglob("*") if path.is_file() and b"marked-7731" in path.read_bytes()]
    (encoder / "merges.txt").unlink()
    made = context(root, tmp_path / "again", ExportConfig(), "checkpoint", "tag")
    run(made)
    copied = {path.name for path in (made.out / "text_encoder").iterdir()}
    assert {"config.json", "model.safetensors", "LICENSE"} < copied
    assert "notes.txt" not in copied


def test_models_of_the_hub_are_copied_as_files(
    inputs: tuple[Path, MultiScaleNextDiT], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("vae", "text_encoder"):
        download(tmp_path / "hub", f"some/{name}", {path.name: path for path in (inputs[0] / name).iterdir()})
    made = context(inputs[0], tmp_path / "out", ExportConfig(), "checkpoint", "tag")
    run(replace(made, weights={name: f"hf:some/{name}" for name in made.weights}))
    for name in made.weights:
        for path in (tmp_path / "out" / name).iterdir():
            assert not path.is_symlink()
            assert path.read_bytes() == (inputs[0] / name / path.name).read_bytes()
    (tmp_path / "hub").rename(tmp_path / "gone")
    TextToVideo.from_pretrained(tmp_path / "out")
