"""The DAG has the arrows of the design, and a fingerprint moves for what changes the output alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from curation.page import PageConfig
from curation.rules import Range
from lumina.checkpoints import save_model
from lumina.models.next_dit import MultiScaleNextDiT
from pipelines.config import load_config, stage_name
from pipelines.engine.fingerprint import Identifier
from pipelines.engine.stage import Execution, Stage
from pipelines.errors import PipelineError
from pipelines.load import ConfigError
from pipelines.run_lock import portable
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


def test_checkpoints_that_people_look_for_are_registered_which_changes_no_identity(identifier: Identifier) -> None:
    stages = build(load_config("demo")).stages
    registered = {stage.name: stage.execution.model for stage in stages if stage.execution.model is not None}
    assert {name: model.alias for name, model in registered.items()} == {
        "train@3": "base", "finetune": "best-subset", "export": "final"
    }  # fmt: skip
    for name, model in registered.items():
        assert "/store/x" in model.use.format(checkpoint="/store/x"), name
    assert [stage.name for stage in stages if stage.execution.system_prompts] == ["tag"]
    for stage in stages:
        assert identifier.base(stage) == identifier.base(replace(stage, execution=Execution()))


def test_how_a_run_is_executed_is_in_no_identity(identifier: Identifier) -> None:
    code = {name for stage in build(load_config("demo")).stages for name in identifier.base(stage)[0]["code"]}
    assert "jobs.context" in code
    assert not {"jobs.runtime", "jobs.cluster"} & code


def test_settings_that_change_no_output_change_no_fingerprint(identifier: Identifier) -> None:
    assert not changed(
        identifier,
        "runtime={train_workers: 4, checkpoint_every: 7, ray_address: auto, num_cpus: 9}",
        "store=/elsewhere",
        "tracking_uri=http://mlflow:5000",
        "min_free_gb=0",
        "name=other",
    )


def test_the_type_that_networks_have_on_gpus_is_part_of_what_they_compute(identifier: Identifier) -> None:
    encoders = {"encode_text", "encode_latents@images", "encode_latents@videos"}
    evaluations = {"evaluate@handheld", "evaluate@synthetic", "evaluate@web", "evaluate_final"}
    for override, on_gpu in (
        ("runtime={use_gpu: true}", encoders | evaluations),
        ("runtime={use_gpu: true, curation_use_gpu: false}", evaluations),
        ("runtime={curation_use_gpu: true}", encoders),
    ):
        stages = {stage.name: stage for stage in build(load_config("demo", [override])).stages}
        plain = {stage.name: stage for stage in build(load_config("demo")).stages}
        for name in encoders | evaluations:
            key = "compute_dtype" if name in encoders else "dtype"
            assert getattr(plain[name].config, key) == "float32"
            assert getattr(stages[name].config, key) == ("bfloat16" if name in on_gpu else "float32")
        differ = {name for name, one in stages.items() if identifier.base(one)[0] != identifier.base(plain[name])[0]}
        assert differ == on_gpu
    named = ["evaluate.dtype=float32", "encode_text={dtype: float32, compute_dtype: float32, batch_size: 1}"]
    named += [f"latents.{name}.compute_dtype=float32" for name in ("images", "videos")]
    stages = build(load_config("demo", ["runtime={use_gpu: true}", *named])).stages
    assert all(identifier.base(one)[0] == identifier.base(plain[one.name])[0] for one in stages)


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


def test_rules_of_one_latents_set_are_known_to_select_with_all_sets(identifier: Identifier) -> None:
    stages = {stage.name: stage.config for stage in build(load_config("demo")).stages}
    assert stages["select"].encoded == {}
    assert stages["encode_latents@videos"].name == "videos"
    stages = {
        stage.name: stage.config for stage in build(load_config("demo", ["select.sets.videos.min_area=9"])).stages
    }
    assert stages["select"].encoded == {"images": ("image",), "videos": ("video",)}
    found = changed(identifier, "select.sources.web.min_fps=null")
    assert "select" in found


def test_another_threshold_computes_no_score_again(identifier: Identifier) -> None:
    scored = [
        f"scoring.{name}.operator=curation.{module}"
        for name, module in (("sound", "sound:SOUND_OPERATOR"), ("beat", "av_align:AV_ALIGN_OPERATOR"))
    ]
    scored.append("scores.quality={}")
    rules = [
        (),
        ("select.scores.av_align.min=0.2",),
        ("select.scores={av_align: {min: 0.3}, audio_rms_dbfs: {min: -50}}",),
        ("select.sources.web.scores.audio_silence.max=0.5", "select.sets.videos.scores.av_align.min=0.1"),
        ("select.scores.sharpness.min=20",),
        ("select.scores.sharpness.min=30", "select.sets.videos.scores.black_bars.max=0.1"),
    ]
    found = [fingerprints(identifier, "demo", [*scored, *rule]) for rule in rules]
    computed = {"ingest", "probe", "motion", "tag", "scores", "score@sound", "score@beat"}
    for before, after in pairwise(found):
        assert {name for name in before if before[name] == after[name]} == {"render_shapes", *computed}


def test_near_duplicates_are_found_on_demand_and_another_rule_of_them_finds_none_again(identifier: Identifier) -> None:
    pipeline = build(load_config("demo", ["duplicates={}"]))
    arrows = {stage.name: set(stage.inputs.values()) for stage in pipeline.stages}
    assert arrows == ARROWS | {
        "frame_hashes": {"probe", "render_shapes"},
        "duplicates": {"frame_hashes"},
        "select": ARROWS["select"] | {"duplicates"},
        "curation_page": ARROWS["curation_page"] | {"duplicates"},
    }
    best, every = (
        fingerprints(identifier, "demo", ["duplicates={}", *rule]) for rule in ((), ("select.near_duplicates=all",))
    )
    same = {name for name in best if best[name] == every[name]}
    assert same == {"render_shapes", "ingest", "probe", "motion", "tag", "frame_hashes", "duplicates"}


def test_semantic_duplicates_embed_clips_and_another_limit_embeds_none_again(identifier: Identifier) -> None:
    semantic = "duplicates.semantic.weights=zoo:clip"
    pipeline = build(load_config("demo", ["duplicates={}", semantic]))
    arrows = {name: set(pipeline.by_name[name].inputs.values()) for name in ("embeddings", "duplicates")}
    assert arrows == {"embeddings": {"probe", "render_shapes"}, "duplicates": {"frame_hashes", "embeddings"}}
    assert {"torch", "transformers"} <= set(pipeline.by_name["embeddings"].depends)
    [place] = pipeline.by_name["embeddings"].weights.values()
    first, *others = (
        fingerprints(identifier, "demo", ["duplicates={}", *rule])
        for rule in (
            (semantic,),
            (semantic, "duplicates.semantic.similarity=0.9"),
            (semantic, "duplicates.semantic.samples=2"),
            (f"duplicates.semantic.weights={place}",),
        )
    )
    assert others[2] == first
    computed = {"render_shapes", "ingest", "probe", "motion", "tag", "frame_hashes"}
    for found, same in zip(others, ({*computed, "embeddings"}, computed), strict=False):
        assert {name for name in first if first[name] == found[name]} == same


def test_networks_of_scorers_are_known_by_content_wherever_they_lie(identifier: Identifier) -> None:
    def scores(*overrides: str) -> Stage:
        return build(load_config("demo", overrides)).by_name["scores"]

    zoo = scores("scores.caption_match.weights=zoo:clip")
    [place] = zoo.weights.values()
    there = scores(f"scores.caption_match.weights={place}")
    assert identifier.base(zoo)[0] == identifier.base(there)[0]
    assert {"torch", "transformers"} <= set(zoo.depends)
    assert not {"torch", "transformers"} & set(scores("scores.quality={}").depends)
    assert load_config("demo", ["scores.caption_match.weights=zoo:clip", "runtime.curation_gpus.scores=0.5"])


def test_a_scorer_in_a_stage_of_its_own_leaves_the_others_as_they_are(identifier: Identifier) -> None:
    quality = ["scores.quality={}", "select.scores.sharpness.min=20"]
    camera = "scoring.c={operator: 'curation.scores:CAMERA_OPERATOR', settings: {camera: {}}}"
    before, after = (fingerprints(identifier, "demo", chosen) for chosen in (quality, [*quality, camera]))
    # The page shows every score, whether a rule names it or not.
    assert {name for name, _ in after.items() - before.items()} == {"score@c", "curation_page"}
    given = ["select.scores.camera_shake.max=1", "select.sources.web.scores.sharpness=null"]
    stages = build(load_config("demo", [*quality, camera, *given])).by_name
    for name in ("select", "curation_page"):
        assert {"scores", "score@c"} <= set(stages[name].inputs.values())
    page = stages["curation_page"].config
    assert isinstance(page, PageConfig)
    limits = page.limits
    assert limits["sharpness"].of("web") == []
    assert limits["sharpness"].of("phone") == [("", Range(min=20))]
    assert limits["camera_shake"].of("web") == [("", Range(max=1))]
    match = "{operator: 'curation.scores:CAPTION_MATCH_OPERATOR', settings: {caption_match: {}}, weights: {%s}}"
    # Scorers in stages of their own stand beside each other.
    build(load_config("demo", [camera, "scoring.m=" + match % "caption_match.weights: 'hf:a/b'"]))
    for override, message in (
        (f"scoring.m={match % ''}", "stage score@m loads caption_match.weights, which its setting `weights` does not"),
        ("scoring.q={operator: 'curation.scores:QUALITY_OPERATOR'}", "scoring.q measures .*, as does scores.quality"),
    ):
        with pytest.raises(PipelineError, match=message):
            build(load_config("demo", [*quality, override]))


def test_a_scorer_s_library_is_asked_for_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("demo", ["scores.text={}"])
    monkeypatch.setattr("pipelines.stages.find_spec", lambda _name: None)
    with pytest.raises(
        PipelineError, match=r"^scores.text: rapidocr is not installed; `pip install 'lumina-video\[ocr"
    ):
        build(config)
    monkeypatch.setattr("pipelines.stages.find_spec", lambda name: name)
    assert {"rapidocr", "onnxruntime"} <= set(build(config).by_name["scores"].depends)


CAPTION = "caption.endpoint={model: m, url: 'http://localhost:8000/v1'}"


def test_captions_are_off_and_where_they_come_from_is_in_no_identity(identifier: Identifier) -> None:
    assert "caption" not in build(load_config("demo")).by_name
    before = fingerprints(identifier, "demo", [CAPTION])
    stages = build(load_config("demo", [CAPTION])).by_name
    for name in ("select", "curation_page"):
        assert stages[name].inputs["caption"] == "caption"
    assert stages["caption"].execution.aside == load_config("demo", [CAPTION]).caption.endpoint  # type: ignore[union-attr]
    asked = [CAPTION, "caption.endpoint={model: m, url: 'https://other/v1', key_env: K, in_flight: 2, max_requests: 9}"]
    assert fingerprints(identifier, "demo", asked) == before
    for override, same in (
        ("caption.style=short", {"motion", "tag"}),
        ("caption.use=longest", {"motion", "tag", "caption"}),
        ("select.scores.caption_agreement.min=0.4", {"motion", "tag", "caption"}),
    ):
        after = fingerprints(identifier, "demo", [CAPTION, override])
        assert {name for name in before if before[name] == after[name]} >= same
        assert {"select", "encode_text", "curation_page"} <= {name for name in before if before[name] != after[name]}
        assert ("caption" in same) == (before["caption"] == after["caption"])


def test_old_and_new_captions_are_both_scored_and_a_threshold_of_either_computes_nothing_dear(
    identifier: Identifier,
) -> None:
    match = (
        "scoring.%s={operator: 'curation.%s_OPERATOR', settings: {caption_match: {}}, "
        "weights: {caption_match.weights: 'zoo:clip'}}"
    )
    both = [match % ("old", "scores:CAPTION_MATCH"), match % ("new", "caption_scores:NEW_CAPTION_MATCH")]
    with pytest.raises(PipelineError, match=r"scoring.new reads new .*, but nothing captions clips: set caption"):
        build(load_config("demo", both))
    stages = build(load_config("demo", [*both, CAPTION])).by_name
    assert {"probe", "caption"} <= set(stages["score@new"].inputs.values())
    assert "caption" not in stages["score@old"].inputs.values()
    rules = [
        (),
        ("select.scores.caption_match_new.min=0.2",),
        ("select.scores={caption_match_new: {min: 0.3}, caption_match: {min: 0.2}}",),
        ("select.scores={caption_match_new: {min: 0.3}, caption_match: {min: 0.2}, caption_agreement: {min: 0.4}}",),
    ]
    found = [fingerprints(identifier, "demo", [*both, CAPTION, *rule]) for rule in rules]
    computed = {"render_shapes", "ingest", "probe", "motion", "tag", "caption", "score@old", "score@new"}
    for before, after in pairwise(found):
        assert {name for name in before if before[name] == after[name]} == computed


def test_captions_that_train_nothing_change_nothing(identifier: Identifier) -> None:
    plain = fingerprints(identifier, "demo")
    original = [CAPTION, "caption.use=original"]
    found = fingerprints(identifier, "demo", original)
    assert {name for name in plain if plain[name] != found[name]} == {"curation_page"}
    for rule in ("caption_agreement.min=0.4", "caption_tokens.max=500"):
        stages = build(load_config("demo", [*original, f"select.scores.{rule}"])).by_name
        assert "caption" in stages["select"].inputs.values()
        page = stages["curation_page"].config
        assert isinstance(page, PageConfig)
        assert f"{next(iter(page.limits))}.{rule.partition('.')[2]}" == rule


def test_a_local_captioner_is_known_by_content(tmp_path: Path) -> None:
    stage = build(load_config("demo", [f"caption.model={tmp_path}", "runtime.curation_gpus.caption=0.5"])).by_name[
        "caption"
    ]
    assert (stage.weights, stage.config.model, stage.execution.aside) == ({"model": str(tmp_path)}, "", None)
    assert {"torch", "transformers"} <= set(stage.depends)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("caption.endpoint.model=m", "caption.endpoint.url is not given: name the server"),
        ("caption={model: a, templates: {wep: x}}", "caption.templates names wep; the sources are handheld, synthetic"),
        ("select.scores.caption_agreement.min=1", "names 'caption_agreement', but nothing captions clips: set caption"),
        ("select.caption={use: new, mix_share: 0.5, seed: 0}", "select.caption: leave it out"),
        ("select.sources.wep.min_fps=9", "select.sources names wep; the sources are handheld, synthetic, web"),
        ("select.sets.video.min_area=9", "select.sets names video; the latents sets are images, videos"),
        ("select.scores.flow_mag_men.min=1", "select.scores names 'flow_mag_men'.*did you mean 'flow_mag_mean'"),
        ("select.scores.beauty.min=1", "no score of any clip.*extra.<column> for the columns of the manifest"),
        ("latents.videos.name=images", "latents.videos.name: leave it out"),
        ("scoring.a.operator=curation.motion_scores:MOTION_OPERATOR", "scoring.a measures 'flow_.*, as does motion"),
        (
            "scoring={a: {operator: 'curation.sound:SOUND_OPERATOR'}, b: {operator: 'curation.sound:SOUND_OPERATOR'}}",
            "scoring.b measures 'audio_channels', as does scoring.a",
        ),
        ("select.scores.sharpness.min=1", "select.scores names 'sharpness'.*off: set scores.quality={}$"),
        ("duplicates.semantic={}", "duplicates.semantic.weights is not given: name a path"),
        ("scores.aesthetic.weights=/clip", "scores.aesthetic.head is not given: name a path"),
        ("select.encoded={videos: [video]}", "select.encoded: leave it out"),
    ],
)
def test_a_policy_that_names_nothing_is_refused_before_any_work(override: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        build(load_config("demo", [override]))


PAPER = [
    "weights={vae: 'zoo:vae', text_encoder: 'zoo:text_encoder', unimatch: 'zoo:unimatch'}",
    "model.cap_feat_dim=128",
]
JOURNEY = "i.jpg,a tree,journeydb\n"
VIDEOS = "a.mp4,one,openvid\nb.mp4,two,panda\nc.mp4,three,synthetic\n"


def paper(folder: Path, rows: str, *overrides: str, name: str = "paper") -> Mapping[str, Stage]:
    manifest, prompts = folder / "clips.csv", folder / "VBench_full_info.json"
    manifest.write_text(f"video,caption,source\n{rows}")
    prompts.write_text(json.dumps([{"prompt_en": "a dog", "dimension": ["temporal_flickering"]}]))
    suite = f"{{kind: vbench, prompts: {prompts}, dimensions: [temporal_flickering]}}"
    judged = [
        f"{key}{setting}"
        for key in (("", "after.3.") if name == "paper" else ())
        for setting in (f"evaluate.suite={suite}", "choose.score={vbench_native/temporal_flickering: 1}")
    ]
    return build(load_config(name, [f"data.manifest={manifest}", *PAPER, *judged, *overrides])).by_name


def test_images_of_one_source_and_videos_of_others_are_the_paper_s_layout(tmp_path: Path) -> None:
    stages = paper(tmp_path, JOURNEY + VIDEOS)
    evaluated = {f"evaluate@{source}" for source in ("openvid", "panda", "synthetic")}
    # The images' source cannot be chosen, so its prompt is not sampled either.
    assert {name for name in stages if name.startswith("evaluate@") and "." not in name} == evaluated
    assert set(stages["choose"].inputs) == {"video@videos-960", *evaluated}


@pytest.mark.parametrize(
    ("rows", "overrides", "message"),
    [
        (VIDEOS, (), r"train.1: task image trains on images, but there are none: openvid has 1 video; panda has 1 vid"),
        (JOURNEY, (), r"train.2: task video-1x2 trains on videos, but there are none: journeydb has 1 image$"),
        (
            JOURNEY + VIDEOS,
            ("choose.sources=[journeydb, panda]", "choose.reason=Best."),
            r"choose.sources names journeydb, but the sources with videos that finetune can train on are openvid, pa",
        ),
        (
            JOURNEY + VIDEOS,
            ("finetune.tasks.1.source_weights={journeydb: 2}",),
            r"finetune: source_weights of task video-1x2 names journeydb, which has no videos: journeydb has 1 image; ",
        ),
        (
            JOURNEY + VIDEOS,
            (
                "finetune.tasks.1.source_weights={panda: 0}",
                "finetune.tasks.2.source_weights={openvid: 0, synthetic: 0}",
            ),
            r"finetune: no source has videos for each of the tasks video-1x2, video-2x2, video-2x4, so none can be",
        ),
        (
            JOURNEY + VIDEOS,
            ("train.1.tasks.0.source_weights={journeydb: 0}",),
            r"train.1: task image trains on images, but there are none: journeydb has 1 image; ",
        ),
    ],
)
def test_a_layout_that_cannot_be_trained_on_is_refused_before_any_work(
    tmp_path: Path, rows: str, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        paper(tmp_path, rows, *overrides)


def test_a_name_that_leaves_open_what_a_file_is_refuses_nothing(tmp_path: Path) -> None:
    assert "finetune" in paper(tmp_path, "a.gif,one,web\nb.webp,two,web\n")
    images = "{name: i, media: image, patch: [1, 2, 2], time_shift: 1, batch_size: 32}"
    stages = paper(tmp_path, JOURNEY + VIDEOS, f"finetune.tasks=[{images}]")
    # Images alone: then it is images that a source must have.
    assert set(stages["choose"].inputs) == {"image@images-960", "evaluate@journeydb"}


FOLDER_AFTER = """{finetune: {latents: [videos], steps: 3, tasks: [{name: t, media: video, patch: [2, 2, 2],
time_shift: 4, batch_size: 8}]}, evaluate: {suite: {kind: captions}, sampler: {patches: [[0.0, [2, 2, 2]]]}},
choose: {score: {offline/constant_rate: -1}}, export: {sampler: {patches: [[0.0, [2, 2, 2]]]}}}"""


def test_any_stage_may_be_fine_tuned_and_evaluated(identifier: Identifier, tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("video,caption,source\na.mp4,one,web\nb.mp4,two,phone\n")
    given = [f"data.manifest={tmp_path / 'clips.csv'}"]
    plain = build(load_config("folder", given)).by_name
    config = load_config("folder", [*given, f"after.1={FOLDER_AFTER}"])
    both = build(config).by_name
    assert {name: stage for name, stage in both.items() if name in plain and name != "train@1"} == {
        name: stage for name, stage in plain.items() if name != "train@1"
    }
    arrows = {name: set(stage.inputs.values()) for name, stage in both.items() if name not in plain}
    assert arrows == {
        "evaluate@1.phone": {"train@1", "tag", "select"},
        "evaluate@1.web": {"train@1", "tag", "select"},
        "choose@1": {"evaluate@1.phone", "evaluate@1.web", "encode_latents@videos"},
        "finetune@1": {"train@1", "choose@1", "encode_latents@videos", "encode_text"},
        "evaluate_final@1": {"train@1", "finetune@1", "choose@1", "tag", "select"},
        "export@1": {"finetune@1", "choose@1", "tag"},
    }  # fmt: skip
    aliases = {name: one.execution.model.alias for name, one in both.items() if one.execution.model is not None}
    assert aliases == {
        "train@1": "base-1", "finetune@1": "best-subset-1", "export@1": "final-1",
        "train@2": "base", "finetune": "best-subset", "export": "final",
    }  # fmt: skip
    assert list(config.training()) == ["train.1", "train.2", "after.1.finetune", "finetune"]
    assert [stage_name(key) for key in config.training()] == ["train@1", "train@2", "finetune@1", "finetune"]
    assert both["evaluate@1.web"].config.source == "web"
    for wrong, message in (
        ("after.2", "after names '2': the sections at the top are for the last stage; others are 1"),
        ("after.x", "after names 'x': it is no stage of train"),
    ):
        with pytest.raises(PipelineError, match=message):
            load_config("folder", [*given, f"{wrong}={FOLDER_AFTER}"])
    for wrong, message in (
        ("after.1.evaluate.fps=9", r"after.1.evaluate.fps is 9, but the model learns from latents.videos at 8 fps"),
        ("after.1.choose.score={shapes/shape_acc: 1}", r"after.1.choose.score names shapes/shape_acc, which evaluate"),
        ("after.1.export.sampler.patches.0.1=[1, 2, 2]", r"after.1.export.sampler.patches uses \(1, 2, 2\), which no"),
        ("after.1.finetune.latents=[images]", r"after.1.finetune.latents names 'images'"),
    ):
        with pytest.raises(PipelineError, match=message):
            load_config("folder", [*given, f"after.1={FOLDER_AFTER}", wrong])


def test_scores_from_elsewhere_are_known_by_content_and_read_in_the_plan(
    identifier: Identifier, tmp_path: Path
) -> None:
    (tmp_path / "clips.csv").write_text("video,caption,source\na.mp4,one,web\nb.mp4,two,phone\n")
    texts = {"a": "source,q\nweb,1\nphone,2\n", "b": "source,q\nweb,1\nphone,2\n", "c": "source,q\nweb,3\nphone,2\n"}
    for name, text in texts.items():
        (tmp_path / f"{name}.csv").write_text(text)

    def given(*changes: str) -> list[str]:
        return [f"data.manifest={tmp_path / 'clips.csv'}", "choose.score={q: 1}", *changes]

    a, b, c = (fingerprints(identifier, "folder", given(f"choose.scores={tmp_path / name}.csv")) for name in texts)
    assert a == b
    assert {name for name in a if a[name] != c[name]} == {"choose", "finetune", "evaluate_final", "export"}
    with pytest.raises(PipelineError, match=r"choose: unknown metric 'q'"):
        load_config("folder", given())
    (tmp_path / "d.csv").write_text("source,q\nweb,1\nphnoe,2\n")
    message = r"choose.scores: .*d.csv, line 3: unknown source 'phnoe'; the sources are phone, web$"
    with pytest.raises(PipelineError, match=message):
        build(load_config("folder", given(f"choose.scores={tmp_path / 'd.csv'}")))
    # A lock names files from the root, so that a run can be computed again from anywhere.
    (tmp_path / "link").symlink_to(tmp_path)
    after = FOLDER_AFTER.replace(
        "score: {offline/constant_rate: -1}", f"scores: {{web: {tmp_path / 'link' / 'a.csv'}}}"
    )
    config = load_config("folder", given(f"choose.scores={tmp_path / 'link' / 'a.csv'}", f"after.1={after}"))
    kept = portable(config)
    assert kept["choose"]["scores"] == str(tmp_path / "a.csv")
    assert kept["after"]["1"]["choose"]["scores"] == {"web": str(tmp_path / "a.csv")}


def test_what_is_evaluated_and_what_a_stage_starts_from(tmp_path: Path) -> None:
    stages = build(load_config("demo")).by_name
    for before, after in (("train@1", "train@2"), ("train@2", "train@3"), ("train@3", "finetune")):
        assert stages[after].inputs["init"] == before
    for name in ("evaluate@web", "evaluate@handheld", "evaluate@synthetic"):
        assert stages[name].inputs["checkpoint"] == "train@3"
        assert stages[name].config.source == name.partition("@")[2]
        assert stages["choose"].inputs[name] == name
    final = stages["evaluate_final"].inputs
    assert (final["before"], final["after"]) == ("train@3", "finetune")
    assert stages["export"].inputs["checkpoint"] == "finetune"
    assert {stages[name].inputs["selection"] for name in ("finetune", "evaluate_final", "export")} == {"choose"}


def test_nothing_but_the_page_depends_on_the_page(identifier: Identifier) -> None:
    assert changed(identifier, "curation_page.seed=1") == {"curation_page"}


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


def test_a_manifest_behind_a_link_is_planned_and_read_where_the_link_lies(
    identifier: Identifier, tmp_path: Path
) -> None:
    for name in ("blobs", "snapshots", "plain"):
        (tmp_path / name).mkdir()
    text = '{"video": "a.mp4", "caption": "one", "source": "web"}\n'
    (tmp_path / "blobs" / "2222").write_text(text)
    link, plain = tmp_path / "snapshots" / "clips.jsonl", tmp_path / "plain" / "clips.jsonl"
    link.symlink_to("../blobs/2222")
    plain.write_text(text)
    (tmp_path / "latest").symlink_to("snapshots")
    expected = fingerprints(identifier, "folder", [f"data.manifest={plain}"])
    for manifest in (link, tmp_path / "latest" / "clips.jsonl"):
        assert fingerprints(identifier, "folder", [f"data.manifest={manifest}"]) == expected
        stages = build(load_config("folder", [f"data.manifest={manifest}"])).by_name
        assert stages["ingest"].execution.locations == {"manifest": link}
        assert {stages[name].execution.media_root for name in ("ingest", "probe", "motion")} == {str(link.parent)}
    (tmp_path / "blobs" / "2222").unlink()
    with pytest.raises(PipelineError, match=r"clips.jsonl is a link to ../blobs/2222, which does not exist: fetch it"):
        build(load_config("folder", [f"data.manifest={link}"]))


def test_clips_are_cut_into_shots_where_that_is_asked_for(identifier: Identifier) -> None:
    plain, cut = (build(load_config("demo", change)) for change in ((), ["split={}"]))
    arrows = {stage.name: set(stage.inputs.values()) for stage in cut.stages}
    assert arrows == ARROWS | {"split": {"ingest", "render_shapes"}, "probe": {"split", "render_shapes"}}
    assert "split" not in {stage.name for stage in plain.stages}
    one, two = (fingerprints(identifier, "demo", [f"split={{min_shot_s: {length}}}"]) for length in (1, 2))
    assert one["ingest"] == two["ingest"]
    assert one["probe"] != two["probe"]


def test_the_media_may_lie_elsewhere_than_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "media").mkdir()
    manifest = tmp_path / "lists" / "clips.csv"
    manifest.write_text("video,caption,source\na.mp4,one,web\n")
    pipeline = build(load_config("folder", [f"data.manifest={manifest}", "ingest.media_dir=../media"]))
    roots = {stage.name: stage.execution.media_root for stage in pipeline.stages if stage.execution.media_root}
    assert {Path(roots[name]).resolve() for name in ("ingest", "probe", "motion")} == {tmp_path / "media"}


def test_training_starts_from_given_weights(identifier: Identifier, tmp_path: Path) -> None:
    config = load_config("demo")
    save_model(MultiScaleNextDiT(config.model), tmp_path / "export" / "transformer")
    for given in (tmp_path / "export", tmp_path / "export" / "transformer"):
        stages = build(load_config("demo", [f"weights.transformer={given}"])).by_name
        assert stages["train@1"].weights == {"init": str(tmp_path / "export" / "transformer")}
        assert not stages["train@2"].weights
    moved = changed(identifier, f"weights.transformer={tmp_path / 'export'}")
    assert {"train@1", "train@3", "export"} <= moved
    assert not {"select", "encode_text"} & moved

    with pytest.raises(PipelineError, match=r"holds no transformer of ours; .* `lumina convert SOURCE OUT`"):
        build(load_config("demo", [f"weights.transformer={tmp_path}"]))
    with pytest.raises(PipelineError, match=r"is another network: set model.n_layers=4$"):
        build(load_config("demo", [f"weights.transformer={tmp_path / 'export'}", "model.n_layers=2"]))
    with pytest.raises(PipelineError, match=r"train.1.lora adapts weights, but the stage starts from none"):
        load_config("demo", ["train.1.lora.rank=4"])
    build(load_config("demo", ["train.1.lora.rank=4", f"weights.transformer={tmp_path / 'export'}"]))


def test_a_study_reads_the_fine_tuned_model_and_changes_no_other_stage(identifier: Identifier) -> None:
    overrides = ["study.schedules={}", 'study.steps={"arms": {"few": {"steps": 5}, "own": {}}, "samples": 2}']
    pipeline = build(load_config("demo", overrides))
    stages = {stage.name: stage for stage in pipeline.order}
    assert set(stages["study@schedules"].inputs.values()) == {"finetune", "choose", "tag"}
    schedules, steps = (stages[f"study@{name}"].config for name in ("schedules", "steps"))
    assert list(schedules.arms) == ["1x2x2", "2x2x2", "2x4x4", "combined", "own"]
    assert (steps.reference, steps.samples, steps.arms["few"].steps) == ("few", 2, 5)
    assert steps.score == load_config("demo").choose.score
    before, after = fingerprints(identifier, "demo"), fingerprints(identifier, "demo", overrides)
    assert {name for name in after if after[name] != before.get(name)} == {"study@schedules", "study@steps"}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("study.other={}", "study.other: it has no arms"),
        ('study.a.arms={"x": {"patches": [[0, [4, 4, 4]]]}}', "which training lacks"),
        ('study.a.arms={"x": {"patches": [[0, [4, 4, 4]]], "stpes": 1}}', "there is no 'stpes' in a sampler"),
        ('study.schedules.metrics=["offline/beauty"]', "unknown metric 'offline/beauty'"),
    ],
)
def test_a_study_that_cannot_be_made_is_named_before_anything_runs(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config("demo", [override])
