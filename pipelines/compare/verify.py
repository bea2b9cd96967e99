"""Integrity check of a recorded run: whether its outputs are what the run left. Executes and changes nothing.

Four checks, the later ones only where the earlier ones left something to look at: the record of each stage, its files,
their content (`pipelines.compare.verify_content`), and what ties stages together: the run's record, lineage, MLflow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipelines.compare.verification import CheckedStage, Findings, StageFindings, Unchecked, Verification, What
from pipelines.engine.call import count_problem
from pipelines.engine.fingerprint import fingerprint
from pipelines.engine.store.checksum import check_seal
from pipelines.engine.store.manifest import Manifest
from pipelines.engine.store.run_record import RunRecord, run_key
from pipelines.engine.store.store import Store
from pipelines.errors import GoneError, PipelineError, StoreError
from pipelines.run_lock import patch_key, read_lock, read_patch


def verify(
    store: Store, run: str | None, deep: bool = False, rows: bool = False, threads: int | None = None
) -> Verification:
    """Check the outputs of a recorded run.

    Args:
        store: where the outputs are.
        run: id or name; None means the newest.
        deep: hash every file, and compute the content digests again. From a bucket each is read once, into a
            temporary directory.
        rows: read every row of row outputs, and name those that are wrong.
        threads: that hash files; as many as the machine has cores by default.

    Raises:
        StoreError: there is no such run, or its record cannot be read; or a bucket cannot be reached.
    """
    begun = time.monotonic()
    record = store.get_run(run, sealed=False)
    path = store.root / run_key(store.run_id(run))
    whole = Findings(store)
    _check_run(path, record, whole)
    stages = [
        StageFindings(store, name, fingerprint=entry.fingerprint, entry=entry)
        for name, entry in record.stages.items()
        if entry.fingerprint is not None
    ]
    for stage in stages:
        _check_record(stage)
        if stage.manifest is not None:
            _check_files(stage, stage.manifest)
    _check_lineage(stages, path)
    if deep or rows:
        # Reading data takes libraries that a look at the records does without.
        from pipelines.compare.verify_content import check_content

        for stage in stages:
            if stage.manifest is not None:
                check_content(stage, stage.manifest, deep, rows, threads or os.cpu_count() or 1)
    _check_mlflow(record, stages, whole)
    return Verification(
        run=record.run,
        name=record.name,
        started=record.started,
        deep=deep,
        rows=rows,
        stages=tuple(_checked(stage) for stage in stages),
        problems=tuple(whole.problems),
        not_checked=(
            *_left_out(record, deep, rows),
            *whole.not_checked,
            *(note for stage in stages for note in stage.not_checked),
        ),
        seconds=round(time.monotonic() - begun, 3),
    )


def _checked(stage: StageFindings) -> CheckedStage:
    files = stage.manifest.files if stage.manifest else ()
    return CheckedStage(
        stage.name,
        stage.manifest.kind if stage.manifest else "",
        len(files),
        sum(file.bytes for file in files),
        tuple(stage.problems),
        stage.entry.drift,
    )


def _check_run(path: Path, record: RunRecord, found: Findings) -> None:
    """The run's record, and the pointer to the newest run of its name."""
    read = found.store.objects.read(found.store.key(path))
    sealed = check_seal(read.text) if read is not None else "none"
    if sealed == "broken":
        found.add("edited", path, "is not what was written: its checksum is another one")
    elif sealed == "none":
        found.skip("the run's record itself: it was written without a checksum")
    _check_patch(path, record, found)
    pointer = found.store.root / "latest" / record.name
    try:
        found.store.run_id(record.name)
    except StoreError as error:
        found.add("damaged", pointer, str(error))


def _check_patch(run: Path, record: RunRecord, found: Findings) -> None:
    """The code that the run had besides its commit."""
    try:
        patch = read_lock(record).code.patch if record.lock else None
    except StoreError as error:
        found.add("damaged", run, str(error))
        return
    if patch is None:
        return
    try:
        read_patch(found.store, patch)
    except StoreError as error:
        what: What = "missing" if isinstance(error, GoneError) else "damaged"
        found.add(what, found.store.root / patch_key(patch), str(error))


def _check_record(stage: StageFindings) -> None:
    """The manifest: readable, whole, of this stage and fingerprint, and in agreement with itself and with the run."""
    try:
        text = stage.store.record_text(stage.name, stage.fingerprint)
        if text is None:
            stage.blame("missing", "the record of the stage is not there")
            return
        manifest = Manifest.from_json(text)
        sealed = check_seal(text)
    except (OSError, ValueError) as error:
        stage.blame("damaged", f"cannot be read: {error}")
        return
    stage.manifest, stage.sealed = manifest, sealed == "whole"
    if sealed == "broken":
        stage.blame("edited", "is not what was written: its checksum is another one")
    elif sealed == "none":
        stage.skip("its record itself: it was written without a checksum")
    if manifest.stage != stage.name or manifest.recipe.get("stage") != stage.name:
        stage.blame("edited", f"is of stage {manifest.stage!r}")
    try:
        recipe = fingerprint(manifest.recipe)
    except PipelineError as error:
        recipe = f"none ({error})"
    if recipe != manifest.fingerprint:
        stage.blame("edited", f"its recipe has the fingerprint {recipe}, not {manifest.fingerprint}")
    for key in ("fingerprint", "digest"):
        if getattr(manifest, key) != getattr(stage.entry, key):
            stage.blame(
                "edited", f"has the {key} {getattr(manifest, key)}, the run recorded {getattr(stage.entry, key)}"
            )
    _check_counts(stage, manifest)


def _check_counts(stage: StageFindings, manifest: Manifest) -> None:
    if manifest.kind not in ("rows", "checkpoint", "files"):
        stage.blame("edited", f"is of the unknown kind {manifest.kind!r}")
    if problem := count_problem(manifest.counts):
        stage.blame("counts", problem)
    if manifest.kind == "rows":
        scheme, _, rest = manifest.digest.partition(":")
        rows = rest.partition(":")[0]
        if scheme != "rows256-add/1" or rows != str(manifest.counts.get("in")):
            stage.blame("counts", f"counts {manifest.counts.get('in')} rows, its digest is {manifest.digest}")
    names = {file.path for file in manifest.files}
    shown = [*manifest.artifacts, *(name for one in manifest.evaluations for name in one.get("artifacts", ()))]
    for name in sorted(set(shown) - names):
        stage.blame("edited", f"names the artifact {name}, which is none of its files")


def _check_files(stage: StageFindings, manifest: Manifest) -> None:
    """Every recorded file is there with its size, and no other."""
    out = stage.out
    there = stage.store.sizes(out)
    for file in manifest.files:
        size = there.pop(file.path, None)
        if size is None:
            stage.add("missing", out / file.path, "is not there")
        elif size != file.bytes:
            stage.add("damaged", out / file.path, f"has {size:,} bytes, {file.bytes:,} expected")
    for name in sorted(there):
        stage.add("unexpected", out / name, "was not there when the stage was done")


def _check_lineage(stages: Sequence[StageFindings], run: Path) -> None:
    """Every input of a recipe is an output of the run, and the one that the run recorded for its key."""
    by_name = {stage.name: stage for stage in stages}
    for stage in stages:
        if stage.manifest is None:
            continue
        inputs: Mapping[str, str] = stage.manifest.recipe.get("inputs", {})
        recorded = stage.entry.inputs
        if set(inputs) != set(recorded):
            stage.blame("lineage", f"has the inputs {sorted(inputs)}, the run recorded {sorted(recorded)}")
        for key in sorted(set(inputs) & set(recorded)):
            upstream = by_name.get(recorded[key])
            if upstream is None:
                stage.add("lineage", run, f"{stage.name} reads {recorded[key]}, which is no stage of the run")
            elif upstream.manifest is None:
                stage.blame("lineage", f"input {key}: {upstream.name} has no readable record")
            elif upstream.manifest.digest != inputs[key]:
                stage.blame("lineage", f"input {key} is {inputs[key]}, {upstream.name} has {upstream.manifest.digest}")


def _check_mlflow(record: RunRecord, stages: Sequence[StageFindings], whole: Findings) -> None:
    """The tags of the stages' MLflow runs, as far as there is somebody to ask."""
    from pipelines.tracking.mlflow_client import TrackerAwayError
    from pipelines.tracking.mlflow_tags import read_tags
    from pipelines.tracking.uri import default_uri

    tracked: dict[str, list[StageFindings]] = {}
    for stage in stages:
        if stage.manifest is None:
            continue
        uri = stage.manifest.mlflow.get("uri")
        if uri is None or "run_id" not in stage.manifest.mlflow:
            stage.skip("MLflow: its record names no run")
            continue
        if not stage.sealed:
            stage.skip(f"MLflow: nobody asks {uri}, since its record is not what was written")
            continue
        own = default_uri(whole.store)
        if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
            uri = own  # the store was moved
        tracked.setdefault(uri, []).append(stage)
    for uri, members in tracked.items():
        by_run = {stage.manifest.mlflow["run_id"]: stage for stage in members if stage.manifest is not None}
        try:
            tags = read_tags(uri, record.run, by_run)
        except TrackerAwayError as error:
            whole.skip(f"MLflow: {error}")
            continue
        for run_id in sorted(set(by_run) - set(tags)):
            stage = by_run[run_id]
            stage.blame("mlflow", f"names the MLflow run {run_id}, which {uri} does not have")
        by_name = {stage.name: stage for stage in members}
        for run_id, values in sorted(tags.items()):
            named = by_run.get(run_id) or by_name.get(values.get("lumina.stage", ""))
            if named is not None:
                _check_tags(named, run_id, values)


def _check_tags(stage: StageFindings, run_id: str, tags: Mapping[str, str]) -> None:
    if stage.manifest is None:
        return
    wanted = {
        "lumina.stage": stage.name,
        "lumina.fingerprint": stage.manifest.fingerprint,
        "lumina.digest": stage.manifest.digest,
    }
    for tag, value in wanted.items():
        if tag not in tags:
            stage.skip(f"{tag} of MLflow run {run_id}: it was never written")
        elif tags[tag] != value:
            stage.blame("mlflow", f"MLflow run {run_id} has {tag} {tags[tag] or '(empty)'}, the record has {value}")


def _left_out(record: RunRecord, deep: bool, rows: bool) -> list[Unchecked]:
    """What these checks do not look at by their nature."""
    notes = [
        Unchecked(name, f"has no output: {entry.state}")
        for name, entry in record.stages.items()
        if entry.fingerprint is None
    ]
    if not deep:
        notes.append(Unchecked("", "what files contain: sizes only; --deep hashes them"))
    if not rows:
        notes.append(Unchecked("", "single rows; --rows names those that are wrong"))
    notes.append(Unchecked("", "inputs and weights outside the store; leases, logs, caches and curves in it"))
    return notes
