"""Bad input is one clear line before any work starts, and a config says all of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lumina.flow_matching.schedules import PRESETS
from lumina.models.config import RELEASED_MODELS
from pipelines import cli
from pipelines.config import PipelineConfig, load_config
from pipelines.errors import PipelineError
from pipelines.text_to_video import build

CSV = "video,caption,source\na.mp4,a red circle,web\nb.mp4,a blue square,phone\n"


@pytest.fixture
def lumina(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call `lumina run` in a folder with manifests good and bad; nothing may get as far as tracking or Ray."""
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "clips.csv": CSV,
        "columns.csv": "clip,words\na.mp4,x\n",
        "spaces.csv": "video,caption,source\na.mp4,x,my phone\n",
        "file": "",
        "notes/readme.txt": "no clips here",
        "bare/a.mp4": "",
        "weights/config.json": '{"hidden_size": 7}',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("work has started")

    monkeypatch.setattr("pipelines.tracking.tracker.MlflowTracking", refuse)
    monkeypatch.setattr("jobs.cluster.ensure", refuse)
    return lambda *arguments: CliRunner().invoke(cli.app, ["run", *arguments])


LIST_SUITE = "{kind: list, choose: [A cat.], report: [A dog.], count: 3}"
IMAGE_TASK = "{name: i, media: image, patch: [1, 2, 2], time_shift: 1, batch_size: 4}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "folder: data: no clips are named; add e.g. -o data.manifest=clips.csv"),
        (["data.manifest=nowhere.csv"], "manifest nowhere.csv does not exist"),
        (["data.manifest=columns.csv"], "caption (or text, prompt); it has clip, words"),
        (["ingest.media_dir=nowhere"], "ingest.media_dir: nowhere is no directory"),
        (["ingest.format=panda"], "lacks the columns timestamp and videoID; it has video, caption, source"),
        (["ingest.format=folder"], "ingest.format is folder, but clips.csv is a file"),
        (["data.manifest=notes"], "folder notes holds no video"),
        (["data.manifest=spaces.csv"], "source 'my phone' names a stage of its own"),
        (["scoring.a.operator=os:system"], "scoring.a.operator: String should match pattern"),
        (["scoring.a.operator=curation.no:X"], "scoring.a.settings: the operator cannot be had: No module named"),
        (["scoring.a={operator: 'curation.sources:TAG_OPERATOR', settings: {x: 1}}"], "scoring.a.settings.x: unknown"),
        (["select.near_duplicates=best"], "select.near_duplicates needs to know them; add -o duplicates={}"),
        (["tag.template="], "no system prompt for the source(s) 'phone', 'web': add them to tag.system_prompts"),
        (["trian.1.steps=3"], "trian: unknown key; did you mean 'train'?"),
        (["model.dimm=64"], "model.dimm: unknown key; did you mean 'dim'?"),
        (["finetune.tasks.0.bach_size=3"], "finetune.tasks.0.bach_size: unknown key; did you mean 'batch_size'?"),
        (["train.1.lr=-1e-4"], "train.1.lr: Input should be greater than 0; got"),
        (["model.dim=100"], "model: dim / n_heads must be a multiple of 16"),
        (["pipeline=video"], "pipeline: there is no 'video'; there are: text_to_video"),
        (["pipeline={}"], "pipeline: there is no '{}'; there are: text_to_video"),
        (["pipeline=text_to_video", "trian={}"], "trian: unknown key where pipeline is 'text_to_video'; did you mean"),
        (["evaluate.suite.cuont=3"], "suite.cuont: unknown key where kind is 'captions'; did you mean 'count'?"),
        (["probe.decoder=pyav"], "probe.decoder: unknown key; known here: none"),
        ([f"evaluate.suite={LIST_SUITE}"], "count: unknown key where kind is 'list'; known here: choose, kind, report"),
        (["evaluate.suite.kind=caption"], "kind: there is no 'caption'; there are: captions, list, shapes, vbench; "),
        (["train.2.latents=[images]"], "train.2.latents names 'images'; there are videos"),
        ([f"train.2.tasks.0={IMAGE_TASK}"], "train.2: task i trains on images, but train.2.latents (videos) holds"),
        (["latents.videos.min_frames=5"], "train.1: task video-2x2 needs 2 latents after the first"),
        (["choose.score={shapes/colour_acc: 1}"], "choose.score names shapes/colour_acc, which evaluate does not"),
        (["evaluate.metrics=[offline/constant_rate]"], "choose.score names offline/dynamic_degree_dis"),
        (["evaluate.fps=12"], "evaluate.fps is 12, but the model learns from latents.videos at 8 fps"),
        (["export.fps=12"], "export.fps is 12, but"),
        (["finetune.tasks.0.batch_size=1"], "task video-1x2 has batch_size 1, but runtime.train_workers is 2"),
        (["runtime.activation_checkpointing={trian@1: full}"], "names 'trian@1', which is no training stage; did you"),
        (["runtime.activation_checkpointing={train.2: full}"], "no training stage; did you mean 'train@2'?"),
        (["runtime.activation_checkpointing={stage4: full}"], "training stage; there are train@1, train@2, finetune"),
        (["runtime.activation_checkpointing={train@1: all}"], "activation_checkpointing.train@1: Input should be"),
        (["runtime={attention: fa3, use_gpu: true}"], "bfloat16, but float32 is set, or the default, in train.1.p"),
        (["runtime.attention=fa2"], "runtime: attention fa2 is a kernel of GPUs: set use_gpu: true"),
        (["runtime.activation_checkpointing=all"], "runtime.activation_checkpointing: Input should be 'none'"),
        (["runtime.curation_gpus={encode_latent: 0.125}"], "'encode_latent', which is no stage with a network; did"),
        (["runtime.curation_gpus={select: 0.5}"], "network; there are motion, encode_text, encode_latents, encode_lat"),
        (["runtime.curation_gpus=2"], "runtime.curation_gpus: a worker takes more than 0 and at most 1 GPU, got 2"),
        (["runtime.curation_gpus={motion: 0}"], "more than 0 and at most 1 GPU, got 0 for motion"),
        (["choose.sources=[web]"], "choose: sources and reason go together: a decision by hand says why"),
        (["choose.sources=[web, web]", "choose.reason=Clean."], "sources names one twice: web, web"),
        (["choose.sources=[wbe]", "choose.reason=Clean."], "choose.sources names wbe, but the sources with videos"),
        (["export.source=wbe"], "export.source names wbe; the sources are phone, web"),
        (["train.1.tasks.0.source_weights={wbe: 2}"], "source_weights of task video-2x2 names wbe; the sources are"),
        (["data.manifest=bare", "store=bare/runs"], "lies in the folder of clips bare"),
        (["export.sampler.patches.0.1=[1,4,4]"], "export.sampler.patches uses (1, 4, 4), which no task of train has"),
        (["weights.vae=/nowhere"], "weights.vae: /nowhere is no folder; give a path"),
        (["weights.vae=notes"], "holds no config.json"),
        (["weights.vae=org/repo/vae"], "org/repo/vae is no folder; a model of the hub is written hf:org/repo/vae"),
        (["weights.vae=hf:org/repo/vae"], "fetch it with `hf download org/repo --include 'vae/*'`"),
        (["weights.text_encoder=weights"], "has hidden_size 7: set model.cap_feat_dim=7"),
        (["weights.vae=weights"], "does not say 'latent_channels'"),
        (["motion.estimator=unimatch", "weights.unimatch=weights"], "is no config of a UniMatch network: hidden_size"),
        (["motion.estimator=unimatch", "motion.width=100"], "needs a multiple of 8: set motion.width=96"),
        (["motion.estimator=unimatch", "weights.unimatch=notes"], "give a released UniMatch .pth file"),
        (["store=file/x"], "cannot be written (Not a directory); choose another with --store"),
        (["min_free_gb=1e9"], "GB free, 1e+09 GB are needed"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_any_work(
    lumina: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, overrides: list[str], message: str
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    given = [] if not overrides or "data" in overrides[0] else ["data.manifest=clips.csv"]
    failed = lumina("folder", *(word for text in [*given, *overrides] for word in ("-o", text)))
    assert failed.exit_code == 1, failed.output
    assert failed.output.startswith("error: ")
    assert message in failed.output
    assert failed.output.count("\n") == 1
    assert not list(tmp_path.glob("runs/stages"))


def test_the_demo_takes_no_manifest(lumina: Any) -> None:
    failed = lumina("demo", "-o", "data.manifest=clips.csv")
    assert "so it takes no data.manifest; the config `folder` does" in failed.output
    failed = lumina("demo", "-o", "ingest.media_dir=clips")
    assert "ingest tells how a manifest is read, but this config renders its clips" in failed.output


@pytest.mark.parametrize(("name", "overrides"), [("demo", []), ("folder", ["data.manifest=clips.csv"])])
def test_a_resolved_config_is_a_config(name: str, overrides: list[str]) -> None:
    config = load_config(name, [*overrides, "finetune.lr=1e-4", "finetune.tasks.0.batch_size=4"])
    assert config.finetune.lr == 1e-4
    assert config.finetune.tasks[0].batch_size == 4
    assert config.train["2"].tasks[0].batch_size != 4
    assert PipelineConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_prompt_to_try_is_one_that_was_seen(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text(CSV)
    assert load_config("folder", [f"data.manifest={tmp_path}"]).example_prompt() == "a red circle"
    assert load_config("demo").example_prompt().startswith("A red circle")


def test_the_paper_s_run_is_the_released_model_in_four_stages(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("video,caption,source\na.mp4,a red circle,web\nb.png,a square,pictures\n")
    config = load_config("paper", [f"data.manifest={tmp_path / 'clips.csv'}"])
    assert config.model == RELEASED_MODELS["2B_GQA"]
    assert config.export.sampler == config.evaluate.sampler == PRESETS["f24F96R960-MultiScale"]
    # The two models of section 5: after stage 3, which the tables are of, and after stage 4; a few hundred steps each.
    made = [(one.after, one.evaluate.fps, one.export.width, one.finetune.steps) for one in config.branches()]
    assert made == [("3", 16, 672, 500), ("4", 24, 1248, 500)]
    assert config.after["3"].evaluate.sampler == config.after["3"].export.sampler == PRESETS["f16F64R512-MultiScale"]
    videos = [config.latents[f"videos-{side}"] for side in (256, 512, 960)]
    assert [(one.resolution, one.fps) for one in videos] == [(256, 8), (512, 16), (960, 24)]
    assert all((one.num_frames - 1) / one.fps == 4 for one in videos if one.fps)
    assert [stage.latents for stage in config.train.values()] == [
        ("images-256",), ("images-256", "videos-256"), ("images-512", "videos-512"), ("images-960", "videos-960")
    ]  # fmt: skip
    shifts = {task.name: (task.patch, task.time_shift) for task in config.train["2"].tasks}
    assert shifts == {
        "image": ((1, 2, 2), 1), "video-1x2": ((1, 2, 2), 2), "video-2x2": ((2, 2, 2), 4), "video-2x4": ((2, 4, 4), 8)
    }  # fmt: skip
    assert {name: config.runtime.checkpointing(name) for name in ("train@3", "train@4", "finetune")} == {
        "train@3": "none", "train@4": "attention", "finetune": "attention"
    }  # fmt: skip
    assert all(stage.compile and stage.precision == "bf16" for stage in config.training().values())
    assert PipelineConfig.model_validate(config.model_dump(mode="json")) == config
    with pytest.raises(PipelineError, match=r"vae: hf:THUDM/CogVideoX-2b/vae is not in the Hugging Face cache"):
        build(config)
