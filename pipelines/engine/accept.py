"""Accept an output for code that never computed it: on somebody's word, and for ever visible.

What is written is a manifest at the new fingerprint that names the old attempt. No data are copied.
"""

from __future__ import annotations

import getpass
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from pipelines.engine.cache_miss import Nearest, nearest, reason
from pipelines.engine.cost_gate import ALL, adoptable
from pipelines.engine.fingerprint import Identified, Identifier
from pipelines.engine.recipe_diff import ABSENT, Change
from pipelines.engine.stage import Pipeline, Stage
from pipelines.engine.store.lease import Holder
from pipelines.engine.store.manifest import Acceptance, Manifest
from pipelines.engine.store.store import Store
from pipelines.engine.store.store_lock import in_use
from pipelines.errors import PipelineError


def accept(
    pipeline: Pipeline,
    store: Store,
    identifier: Identifier,
    stage: str,
    why: str,
    *,
    who: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Manifest, ...]:
    """Take the output that a stage has for what its changed code would compute.

    Args:
        pipeline: as it is to run.
        store: where the output is.
        identifier: computes fingerprints.
        stage: name; `all` takes every stage of which nothing but code has changed, each after those that it reads.
        why: reason, one line; recorded in the manifest.
        who: `user@host`; the caller by default.
        note: told if somebody removes from the store, which is waited for.

    Returns the manifests that were written.

    Raises:
        PipelineError: no such stage, no reason, an input that is not there, an output that is there already, one that
            somebody computes, none to accept, or one from which more than code differs. Nothing was written, but with
            `all` for the stages before.
    """
    why = " ".join(why.split())
    if not why:
        raise PipelineError('no reason is given: say why the output is the same, e.g. --reason "renamed a variable"')
    wanted = pipeline if stage == ALL else pipeline.until(stage)
    if not store.root.is_dir():
        raise PipelineError(f"store {store.root} holds no outputs; give another with --store")
    by = who or f"{getpass.getuser()}@{socket.gethostname()}"
    digests: dict[str, str] = {}
    written: list[Manifest] = []
    with in_use(store.root, note):
        for one in wanted.order:
            missing = [name for name in one.inputs.values() if name not in digests]
            asked = one.name == stage or (stage == ALL and not missing)
            if missing:
                if asked:
                    raise PipelineError(
                        f"stage {one.name}: its input {missing[0]} is not there for this code: run or accept that first"
                    )
                continue
            found = identifier.identify(one, digests)
            manifest = store.lookup(one.name, found.fingerprint)
            if asked and (stage != ALL or (manifest is None and any(adoptable(store, one.name, found)))):
                if manifest is not None:
                    raise PipelineError(f"stage {one.name}: its output is there, so there is nothing to accept")
                manifest = _accept(store, one, found, Acceptance(why, by, "", "", {}))
                written.append(manifest)
            if manifest is not None:
                digests[one.name] = manifest.digest
    identifier.cache.save()
    if not written:
        raise PipelineError("there is no stage of which nothing but code has changed; see `lumina plan`")
    return tuple(written)


def _accept(store: Store, stage: Stage, found: Identified, word: Acceptance) -> Manifest:
    old = next(iter(adoptable(store, stage.name, found)), None)
    if old is None:
        raise PipelineError(f"stage {stage.name}: {_why_not(store, stage, found)}")
    attempt = store.acquire(stage.name, found.fingerprint)
    if isinstance(attempt, Holder):
        raise PipelineError(f"stage {stage.name}: {attempt} is computing it now: wait until it is done, or stop it")
    out = attempt.out
    try:
        return store.commit(attempt, _alias(old, found, word))
    except BaseException:
        store.abandon(attempt)
        raise
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _alias(old: Nearest, found: Identified, word: Acceptance) -> Manifest:
    """The record of the old output under the new recipe."""
    acceptance = replace(
        word,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        fingerprint=old.manifest.fingerprint,
        code={change.key: _digests(change) for change in old.changes},
    )
    return replace(
        old.manifest,
        fingerprint=f"sha256:{found.fingerprint}",
        recipe=found.recipe,
        aliased_from=old.manifest.aliased_from or old.manifest.fingerprint,
        accepted=(*old.manifest.accepted, acceptance),
    )


def _digests(change: Change) -> tuple[str | None, str | None]:
    old, new = (None if value == ABSENT else str(value) for value in (change.old, change.new))
    return old, new


def _why_not(store: Store, stage: Stage, found: Identified) -> str:
    history = store.manifests(stage.name)
    old = nearest(history, found.recipe)
    if old is None:
        return "it was never computed in this store, so there is nothing to accept"
    if old.by_code_alone or not old.changes:
        return "its output is gone or damaged, so there is nothing to accept: `lumina run` computes it"
    others = tuple(change for change in old.changes if change.part != "code")
    return f"more than code differs from its last output: {reason(others)}; only changes of code can be accepted"


def undone(recipe: Mapping[str, object], acceptance: Acceptance) -> dict[str, object]:
    """The recipe with the code that an acceptance replaced: that of the output that was accepted."""
    code = recipe.get("code")
    modules = dict(code) if isinstance(code, Mapping) else {}
    for name, (old, _) in acceptance.code.items():
        modules.pop(name, None)
        if old is not None:
            modules[name] = old
    return {**recipe, "code": modules}
