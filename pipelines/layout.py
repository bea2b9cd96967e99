"""Which sources hold images and which videos, as far as a manifest tells, and whether a config can train on that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from curation.manifests import Manifest
from curation.media_kinds import possible_media
from curation.media_uris import suffix
from jobs.shapes import RenderShapesConfig
from lumina.training.stage import TaskConfig, TrainStageConfig
from pipelines.config import PipelineConfig
from pipelines.errors import PipelineError

Layout = Mapping[str, Mapping[str, int]]
"""Source -> "image" and "video" -> rows that may turn out to be that."""


def layout_of(data: RenderShapesConfig | Manifest) -> Layout:
    """The rows of every source by medium. A file whose name leaves it open, such as a GIF, counts as both."""
    if isinstance(data, Manifest):
        rows = Counter((row.source, suffix(row.uri)) for row in data.rows)
        found: dict[str, Counter[str]] = {source: Counter() for source in data.sources}
        for (source, extension), count in rows.items():
            for media in possible_media(extension):
                found[source][media] += count
        return found
    sides = {"image": data.images, "video": data.clips}
    sources = sorted({name for counts in sides.values() for name, count in counts.items() if count})
    return {source: Counter({media: counts.get(source, 0) for media, counts in sides.items()}) for source in sources}


def trainable(layout: Layout, training: TrainStageConfig) -> tuple[str, ...]:
    """The sources that a stage could train on alone, sorted: those with clips for each task that a choice restricts."""
    tasks = [task for task in training.tasks if task.media == training.selected_media]
    return tuple(source for source in sorted(layout) if all(_takes(task, source, layout) for task in tasks))


def check_layout(config: PipelineConfig, layout: Layout) -> None:
    """Hold what every task trains on against what the manifest lists.

    Raises:
        PipelineError: a task has no clip, or no source has clips to fine-tune on; it names tasks and sources.
    """
    for key, training in config.training().items():
        for task in training.tasks:
            _check_task(key, training, task, layout)
    for branch in config.branches():
        key, training = f"{branch.prefix}finetune", branch.finetune
        chosen_from, media = trainable(layout, training), training.selected_media
        if not chosen_from:
            names = ", ".join(task.name for task in training.tasks if task.media == media)
            raise PipelineError(
                f"{key}: no source has {media}s for each of the tasks {names}, so none can be chosen: {_told(layout)}"
            )
        unfit = sorted(set(branch.choose.sources or ()) - set(chosen_from))
        if unfit:
            raise PipelineError(
                f"{branch.prefix}choose.sources names {', '.join(unfit)}, but the sources with {media}s that {key} can "
                f"train on are {', '.join(chosen_from)}"
            )


def _check_task(key: str, training: TrainStageConfig, task: TaskConfig, layout: Layout) -> None:
    unlisted = sorted(name for name in task.source_weights or {} if not layout[name][task.media])
    if unlisted:
        raise PipelineError(
            f"{key}: source_weights of task {task.name} names {', '.join(unlisted)}, which has no {task.media}s: "
            f"{_told(layout)}"
        )
    # Beside videos, tasks of the selected sources' images go where these have none.
    spared = key.endswith("finetune") and training.image_sources == "selected" and task.media != training.selected_media
    if not spared and not any(_takes(task, source, layout) for source in layout):
        raise PipelineError(f"{key}: task {task.name} trains on {task.media}s, but there are none: {_told(layout)}")


def _takes(task: TaskConfig, source: str, layout: Layout) -> bool:
    return layout[source][task.media] > 0 and (task.source_weights or {}).get(source, 1) > 0


def _told(layout: Layout) -> str:
    told = []
    for source in sorted(layout):
        held = [(layout[source][media], media) for media in ("image", "video") if layout[source][media]]
        counts = [f"{count:,} {media}{'' if count == 1 else 's'}" for count, media in held]
        told.append(f"{source} has {' and '.join(counts)}")
    return "; ".join(told)
