"""Captions by a vision-language model: stated frames of each clip, a prompt, and an answer that is held for one.

Rows in: probed clips. Rows out: the same ids with the old and the new caption side by side, and all that was asked and
answered. A clip that does not decode, or of which the model says nothing that is a caption, is quarantined.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from curation.caption_answers import accepted
from curation.caption_choice import AGREEMENT, agreement
from curation.caption_config import CaptionConfig
from curation.caption_prompts import prompt_of
from curation.decode import READ_COLUMNS, clip_times, frames_at
from curation.decoder import Decoder
from curation.fitting import Fit
from curation.operator import Env, Halves, Input, Operator, Report, RowsFunction, aside
from curation.schema import CAPTION, STATUS_COLUMNS, Reason, RowError, Status, iterate, status_ok, to_table
from curation.short_side import to_short_side_at_most
from lumina.faults import MachineError, is_of_machine, machine_error, patiently

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from curation.caption_endpoint import Answer, Question

Columns = dict[str, Any]
Asked = Callable[[], Columns]
"""Waits for the columns that a clip gets; MachineError passes."""


def _plan(inputs: Mapping[str, Input], config: CaptionConfig, _env: Env) -> pa.Table:
    columns = ["clip_id", *READ_COLUMNS, "source", "caption", *STATUS_COLUMNS]
    return prompted(inputs["clips"].rows(columns).sort_by("clip_id"), config)


def prompted(clips: pa.Table, config: CaptionConfig) -> pa.Table:
    """Probed clips with their prompts: a corrected caption or another source concerns an answer only through these."""
    prompts = [
        prompt_of(config.templates.get(row["source"], config.template), config.style, config.language, row)
        if row["status"] == Status.OK
        else None
        for row in iterate(clips)
    ]
    return clips.append_column("caption_prompt", pa.array(prompts, pa.string()))


def _make(config: CaptionConfig, env: Env) -> RowsFunction:
    decoder, ask = Decoder(env.limits), _asker(config, env)

    def load(table: pa.Table) -> list[tuple[Columns, Asked]]:
        return [(row, _asked(row)) for row in table.to_pylist()]

    def _asked(row: Columns) -> Asked:
        try:
            question = patiently(lambda: _question(decoder, row, env, config), row["uri"])
        except MachineError as error:
            return partial(_raise, error)
        except Exception as error:  # noqa: BLE001 - one bad file must not take its neighbours along
            return partial(_same, {"caption_prompt": None} | aside(CAPTION_OPERATOR.name, error))
        return ask.of(question, partial(_columns, question, config))

    def compute(loaded: list[tuple[Columns, Asked]]) -> pa.Table:
        try:
            return to_table((row | asked() for row, asked in loaded), CAPTION)
        except MachineError:
            ask.stop()
            raise
        except KeyboardInterrupt:
            # Ray cancels a task so, and keeps the process: its threads would ask on for a stage that is over.
            ask.cancel()
            raise

    return Halves(load, compute)


def _question(decoder: Decoder, row: Columns, env: Env, config: CaptionConfig) -> Question:
    from curation.caption_endpoint import Question, question_key

    times = [0.0]
    if row["media"] != "image":
        parts = [(2 * part + 1) * row["duration_s"] / (2 * config.samples) for part in range(config.samples)]
        times = clip_times(row, parts if config.times_s is None else config.times_s)
    if not times:
        raise RowError(Reason.TOO_FEW_FRAMES, f"{row['duration_s']:.6g} s: no frame to show", Status.FILTERED)
    fit = Fit(to_short_side_at_most, (config.short_side, config.short_side))
    frames = frames_at(decoder, row, env, times, fit)
    prompt = row["caption_prompt"]
    return Question(question_key(row["clip_id"], times, prompt), prompt, times, frames.pixels)


def _columns(question: Question, config: CaptionConfig, ask: Callable[[Question], Answer]) -> Columns:
    """What is asked and answered, and the caption or why there is none."""
    from curation.caption_endpoint import NoCaption

    columns: Columns = {"caption_prompt": question.prompt, "caption_times_s": list(question.times_s)}
    try:
        answer = ask(question)
        columns |= _answered(answer)
        return columns | {"caption_new": accepted(answer.text, config)} | status_ok()
    except Exception as error:
        # One clip must not take its neighbours along; a full disk says nothing of a clip.
        if is_of_machine(error):
            raise machine_error(error, "an answer cannot be kept") from error
        kept = _answered(error.answer) if isinstance(error, NoCaption) else {}
        return columns | kept | aside(CAPTION_OPERATOR.name, error)


def _answered(answer: Answer) -> Columns:
    return {
        "caption_answer": answer.text,
        "caption_model": answer.model,
        "caption_version": answer.version,
        "caption_tokens": answer.tokens,
    }


def _same(columns: Columns) -> Columns:
    return columns


def _raise(error: MachineError) -> Columns:
    raise error


class _Server:
    """Asks an endpoint, as many questions at once as it may have under way."""

    def __init__(self, config: CaptionConfig, env: Env) -> None:
        from curation.caption_endpoint import Endpoint

        self._endpoint = Endpoint(config, env.aside, Path(env.work))
        self._check = partial(accepted, config=config)
        self._threads = ThreadPoolExecutor(env.aside.in_flight, "ask")

    def of(self, _question: Question, columns: Callable[[Callable[[Question], Answer]], Columns]) -> Asked:
        return self._threads.submit(columns, partial(self._endpoint.ask, check=self._check)).result

    def cancel(self) -> None:
        self._endpoint.cancel()

    def stop(self) -> None:
        self._endpoint.stop()


class _Local:
    """Asks a network in this process, one question after the other."""

    def __init__(self, config: CaptionConfig, env: Env) -> None:
        import torch

        from curation.caption_network import network

        # One thread: sums in a fixed order, so the answers do not depend on the machine's cores.
        torch.set_num_threads(1)
        self._ask = network(env.weights["model"], config, env.device)

    def of(self, _question: Question, columns: Callable[[Callable[[Question], Answer]], Columns]) -> Asked:
        return partial(columns, self._ask)

    def cancel(self) -> None:
        return

    def stop(self) -> None:
        return


def _asker(config: CaptionConfig, env: Env) -> _Server | _Local:
    return _Local(config, env) if config.endpoint is None else _Server(config, env)


def _runs_network(config: CaptionConfig) -> bool:
    return config.endpoint is None


def _waiting(env: Env) -> int:
    return 1 if env.aside is None else int(env.aside.in_flight)


def _report(dataset: ds.Dataset, _config: CaptionConfig, _out: Path) -> Report:
    metrics, found, tokens = dict[str, float](), array("d"), 0
    for batch in dataset.to_batches(columns=["caption", "caption_new", "caption_tokens"]):
        tokens += pc.sum(batch["caption_tokens"]).as_py() or 0
        pairs = zip(batch["caption"].to_pylist(), batch["caption_new"].to_pylist(), strict=True)
        said = (agreement(old or "", new or "") for old, new in pairs)
        found.extend(one for one in said if one is not None)
    if found:
        tenths = zip(("p10", "p50", "p90"), np.quantile(found, [0.1, 0.5, 0.9]).tolist(), strict=True)
        metrics = {f"{AGREEMENT}_{name}": value for name, value in tenths}
    return Report(metrics | {"caption_tokens": float(tokens)})


CAPTION_OPERATOR = Operator(
    name="caption",
    config=CaptionConfig,
    schema=CAPTION,
    reads_media=True,
    # A model answers what it likes; the same answers give the same rows.
    tier="tolerance",
    inputs=("clips",),
    plan=_plan,
    map=_make,
    waiting=_waiting,
    passthrough_columns=("uri", "caption", "source"),
    runs_network=_runs_network,
    depends=("pillow",),
    report=_report,
)
"""Reads the input `clips`, the output of `probe`; weights `model` where it asks no endpoint."""
