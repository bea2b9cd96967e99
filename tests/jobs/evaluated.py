"""Stages before an evaluation: two tiny checkpoints, tags and pretrained networks; and an evaluation of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Gemma2Config, Gemma2Model, PreTrainedTokenizerFast

from jobs import evaluate, evaluate_vbench
from jobs.choose import ChooseConfig
from jobs.choose import run as choose
from jobs.context import InputRef, JobContext, JobResult
from jobs.evaluate import EvaluateConfig, EvaluateFinalConfig, EvaluationConfig
from jobs.runtime import RuntimeConfig
from lumina.checkpoints import save_model
from lumina.config import Config
from lumina.models.config import NextDiTConfig
from lumina.models.next_dit import MultiScaleNextDiT
from lumina.system_prompts import PROMPT_START, SystemPrompt, write_system_prompts


def _checkpoint(folder: Path, seed: int) -> None:
    config = NextDiTConfig(
        dim=32, n_layers=1, n_heads=2, cap_feat_dim=16, multiple_of=16, patch_sizes=((1, 2, 2), (2, 2, 2))
    )
    rng = torch.Generator().manual_seed(seed)
    model = MultiScaleNextDiT(config, rng)
    with torch.no_grad():
        for parameter in model.parameters():
            # The released initialisation gives zero velocity; this one depends on text and time.
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng))
    save_model(model, folder / "transformer_ema")


def make_stages(root: Path) -> Path:
    """Outputs of the stages before: two checkpoints, tags; and the pretrained networks."""
    torch.manual_seed(0)
    AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=2,
    ).save_pretrained(root / "vae")
    words = {word: i for i, word in enumerate(["<unk>", "A", "red", "circle", "moves"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(root / "text")  # noqa: S106
    Gemma2Model(
        Gemma2Config(
            vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        )
    ).save_pretrained(root / "text")  # fmt: skip
    for name, seed in (("train", 1), ("finetune", 2)):
        _checkpoint(root / name, seed)
    (root / "tag").mkdir()
    prompts = [SystemPrompt(s, f"You make {s} videos.{PROMPT_START}") for s in ("red", "circle")]
    write_system_prompts(root / "tag" / "system_prompts.json", prompts)
    return root


def run_evaluation(
    stages: Path,
    out: Path,
    config: Config,
    runtime: RuntimeConfig | None = None,
    *,
    weights: Mapping[str, str] | None = None,
    files: Mapping[str, Path] | None = None,
    **inputs: Path,
) -> tuple[JobContext, JobResult, list[int]]:
    """Run the job of a config; returns its context, its result and what its progress said was done."""
    folders = {"checkpoint": stages / "train", "tag": stages / "tag"} | inputs
    names = {"checkpoint": "train@2", "before": "train@2", "after": "finetune"}
    done: list[int] = []
    (out / "out").mkdir(parents=True)
    context = JobContext(
        stage="evaluate@x",
        fingerprint="f" * 64,
        operator="",
        config=config,
        runtime=runtime or RuntimeConfig(),
        inputs={key: InputRef(names.get(key, key), path, "") for key, path in folders.items()},
        weights={"vae": str(stages / "vae"), "text_encoder": str(stages / "text"), **(weights or {})},
        media_root="",
        out=out / "out",
        work=out / "work",
        progress=lambda done_, total, unit: done.append(done_),
        log_metrics=lambda metrics, step: None,
        files=files or {},
    )
    by_vbench = isinstance(config, EvaluationConfig) and config.suite.kind == "vbench"
    module = evaluate_vbench if by_vbench else evaluate
    jobs = {EvaluateConfig: module.run, EvaluateFinalConfig: module.run_final, ChooseConfig: choose}
    return context, jobs[type(config)](context), done
