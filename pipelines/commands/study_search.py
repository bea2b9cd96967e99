"""`lumina study --search`: propose schedules by the losses of a training, check them by a study, write the best."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lumina.evaluation.schedule_search import best_arm, excess_errors, front, within
from lumina.evaluation.study import headline
from lumina.evaluation.study_arms import StudyConfig
from lumina.files import read_json, sha256_file
from lumina.flow_matching.schedules import value_at
from pipelines.commands.written import check_place
from pipelines.errors import PipelineError
from pipelines.terminal import Text, in_line

if TYPE_CHECKING:
    from lumina.flow_matching.schedules import PatchSchedule, SamplerConfig
    from lumina.models.config import NextDiTConfig, PatchSize

SEARCH = "search"
OWN = "own"
"""Arm of the checkpoint's own schedule: what proposals are compared with."""
_SHARES = (1.0, 0.85, 0.7)
"""Of the budget: cheaper proposals are checked too."""


def propose(
    network: NextDiTConfig,
    latent: tuple[int, int, int],
    base: SamplerConfig,
    losses: Mapping[PatchSize, Mapping[int, float]],
    budget: float | None,
) -> tuple[StudyConfig, float]:
    """Arms that check proposals within a budget and cheaper ones, and the budget.

    Args:
        network: of the checkpoint.
        latent: frames, rows and columns.
        base: its own sampler, whose cost is the budget where that is None.
        losses: see `pipelines.commands.study_losses`.
        budget: share of the finest scale alone.

    Raises:
        PipelineError: no schedule is so cheap, or the checkpoint lacks a scale.
    """
    from lumina.cost import forward_cost
    from lumina.evaluation.study import arm_cost
    from lumina.evaluation.study_arms import patch_name
    from lumina.flow_matching.sampler import time_grid
    from lumina.training.metrics import T_BINS

    tokens = 256
    grid = time_grid(base.steps, base.time_shift).tolist()
    sides = [2 if value_at(base.guidance, t) > 0 else 1 for t in grid[:-1]]
    try:
        flops = {patch: forward_cost(network, latent, patch, tokens).flops for patch in losses}
        errors = excess_errors(losses, T_BINS, grid[:-1])
        proposals = front(errors, {patch: [one * side for side in sides] for patch, one in flops.items()}, grid)
        limit = arm_cost(network, latent, base, base, tokens).relative if budget is None else budget
        chosen = [within(proposals, limit)]
        chosen += [within(proposals, share * limit) for share in _SHARES[1:] if share * limit >= proposals[0].cost]
    except ValueError as error:
        raise PipelineError(f"--search: {error}") from error
    finest = min(losses, key=lambda patch: (math.prod(patch), patch))
    candidates = {patch_name(finest): ((0.0, finest),)} | {f"found {one.cost:.2f}": one.patches for one in chosen}
    arms: dict[str, dict[str, Any]] = {OWN: {}}
    # Two that switch between the same steps are one schedule, whatever t they say.
    known = [_steps(base.patches, grid)]
    for name, patches in candidates.items():
        if (steps := _steps(patches, grid)) not in known:
            known.append(steps)
            arms[name] = {"patches": patches}
    return StudyConfig(arms=arms, reference=OWN), limit


def _steps(patches: PatchSchedule, grid: Sequence[float]) -> list[PatchSize]:
    return [value_at(patches, t) for t in grid[:-1]]


def told(content: Mapping[str, Any], budget: float, console: Console) -> str | None:
    """Say which schedule the study chose, and return its arm; None where none that is new and affordable is as good."""
    figure = headline(content)
    candidates = [arm for arm in content["order"] if arm != OWN]
    arm = best_arm(content, figure, candidates, budget)
    if arm is None:
        console.print(Text(f"No other schedule within {budget:.3f} is as good as {OWN}: it stays.", "bold yellow"))
        return None
    found = content["arms"][arm]
    console.print(in_line(f"Chosen: {arm}, {found['cost']['relative']:.3f} of the finest scale alone", "bold green"))
    console.print(f"  patches: {json.dumps(found['sampler']['patches'])}", soft_wrap=True)
    gap = found["difference"][figure]
    console.print(
        f"  {figure} lies {gap['value']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}] from {OWN}, "
        f"{content['arms'][OWN]['cost']['relative']:.3f}; no significant loss, which is no proof of none",
        soft_wrap=True,
    )
    return arm


def check_target(checkpoint: str, target: Path) -> None:
    """PipelineError unless a copy of a checkpoint can be written there."""
    if target.exists():
        raise PipelineError(f"--write {target} is there already: name a directory that does not exist yet")
    if not Path(checkpoint).is_dir():
        raise PipelineError(f"--write copies a directory, and CHECKPOINT {checkpoint} is a model of the hub")
    if target.resolve().is_relative_to(Path(checkpoint).resolve()):
        raise PipelineError(
            f"--write {target} lies in CHECKPOINT {checkpoint}, of which it is a copy: name another place"
        )
    check_place("--write", target)


def write_checkpoint(checkpoint: Path, target: Path, content: Mapping[str, Any], arm: str) -> None:
    """Copy an exported checkpoint with the sampler of an arm as its default; it appears whole, or not at all."""
    from lumina.checkpoints import write_whole
    from lumina.diffusers_export.layout import INDEX_FILE, write_diffusers
    from lumina.flow_matching.schedules import SamplerConfig
    from lumina.generation_config import read_settings
    from lumina.parts import GENERATION_FILE

    found = content["arms"][arm]
    with write_whole(target) as part:
        shutil.copytree(checkpoint, part, dirs_exist_ok=True)
        sampler = SamplerConfig.model_validate(found["sampler"])
        settings = read_settings(part / GENERATION_FILE).model_copy(update={"sampler": sampler})
        (part / GENERATION_FILE).write_text(settings.model_dump_json(indent=1) + "\n", encoding="utf-8")
        if (part / INDEX_FILE).is_file():
            for folder in ("scheduler", "tokenizer"):
                shutil.rmtree(part / folder)
            write_diffusers(part)
        lineage = part / "lineage.json"
        if lineage.is_file():
            known = read_json(lineage)
            files = sorted(path for path in part.rglob("*") if path.is_file() and path != lineage)
            known["files_sha256"] = {path.relative_to(part).as_posix(): sha256_file(path) for path in files}
            known["schedule"] = {"arm": arm, **found}
            lineage.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
