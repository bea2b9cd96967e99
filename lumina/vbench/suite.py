"""Evaluation suite of VBench: which clips its dimensions ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from lumina.randomness import generator
from lumina.vbench.clip_files import prompt_of
from lumina.vbench.prompts import VBenchPrompt

_CANDIDATES = 5
"""Clips of a temporal-flickering prompt for each that counts, where the static filter chooses among them: 25 to 5."""
WITHOUT_PROMPTS = (
    "temporal_flickering",
    "dynamic_degree",
    "subject_consistency",
    "background_consistency",
    "aesthetic_quality",
)
"""Dimensions with a judge here that look at clips alone."""


_OFFICIAL = (
    (72, ("subject_consistency", "dynamic_degree", "motion_smoothness")),
    (75, ("temporal_flickering",)),
    (93, ("aesthetic_quality", "imaging_quality", "overall_consistency")),
    (79, ("object_class",)),
    (82, ("multiple_objects",)),
    (100, ("human_action",)),
    (85, ("color",)),
    (84, ("spatial_relationship",)),
    (86, ("scene", "background_consistency")),
    (90, ("appearance_style",)),
    (100, ("temporal_style",)),
)
"""Prompts of the official file, by the dimensions that share them; two of all 946 are there twice."""
_DISTINCT = 944


def official_clips(dimensions: Iterable[str], samples: int, filters: bool) -> int:
    """Clips that the official prompts of some dimensions ask for: 6,220 for all, five of each and with the filter."""
    asked = set(dimensions)
    prompts = min(sum(count for count, shared in _OFFICIAL if asked & set(shared)), _DISTINCT)
    filtered = filters and "temporal_flickering" in asked
    return samples * (prompts + ((_CANDIDATES - 1) * _OFFICIAL[1][0] if filtered else 0))


def clip_seed(seed: int, prompt: str, index: int) -> int:
    """Seed of a clip's noise: it depends on the prompt and the index, whatever the model is told."""
    return int(generator(seed, "vbench-seed", prompt, index).integers(2**31))


def clips_of(prompt: VBenchPrompt, samples: int, filters: bool) -> int:
    """Clips of a prompt: five times as many where the static filter chooses among them."""
    return samples * (_CANDIDATES if filters and "temporal_flickering" in prompt.dimensions else 1)


def judged_by(prompt: VBenchPrompt, index: int, samples: int, filters: bool) -> tuple[str, ...]:
    """Dimensions that look at clip `index` of a prompt: beyond `samples`, temporal flickering alone, if at all."""
    if index < samples:
        return prompt.dimensions
    if index >= clips_of(prompt, samples, filters):
        return ()
    return tuple(name for name in prompt.dimensions if name == "temporal_flickering")


def expected_clips(
    prompts: Sequence[VBenchPrompt], dimensions: Iterable[str], samples: int, filters: bool
) -> dict[str, int]:
    """How many clips each dimension asks for."""
    return {
        name: sum(
            clips_of(prompt, samples, filters and name == "temporal_flickering")
            for prompt in prompts
            if name in prompt.dimensions
        )
        for name in dimensions
    }


def strata_of(prompts: Sequence[VBenchPrompt], clips: Iterable[str]) -> Mapping[str, str]:
    """Stratum of every prompt; one for all where no prompt file tells their dimensions."""
    return dict.fromkeys(map(prompt_of, clips), "") | {prompt.text: prompt.stratum for prompt in prompts}
