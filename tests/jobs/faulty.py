"""Curation operators on a machine that fails at a stated moment, and goes on failing until it is mended.

`Fault.set` names the kind and the moment, counted in files that are looked at, for all workers together.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curation import decode, latents, manifests, media, motion_scores
from curation.decoder import Decoder
from curation.operator import Env, Operator
from lumina import faults

ERRORS = {"stale": errno.ESTALE, "files": errno.EMFILE, "read": errno.EIO, "denied": errno.EACCES}
"""Kinds of fault in which the system refuses to look at a file."""
KINDS = (*ERRORS, "away", "full", "decoder")
"""`away`: the media root is renamed; `full`: no byte of a temporary copy can be written; `decoder`: none starts."""

_stat, _started, _TemporaryDirectory = media._stat, Decoder._started, tempfile.TemporaryDirectory


@dataclass(frozen=True)
class Fault:
    """A place through which workers learn of the fault."""

    root: Path

    def set(self, kind: str, moment: int, media_root: Path, times: int = 10**9) -> None:
        """Let `kind` strike when `moment` files have been looked at, `times` times."""
        self.root.mkdir(exist_ok=True)
        plan = {"kind": kind, "moment": moment, "media": str(media_root), "times": times}
        (self.root / "plan.json").write_text(json.dumps(plan))

    def mend(self, media_root: Path) -> None:
        """Make the machine well again."""
        for name in ("plan.json", "looks", "strikes"):
            (self.root / name).unlink(missing_ok=True)
        away = media_root.with_name("away")
        if away.exists():
            away.rename(media_root)

    def strikes(self, kind: str) -> bool:
        """Whether the machine fails in this way now."""
        plan = self._plan()
        return bool(plan) and plan["kind"] == kind and self._size("looks") >= plan["moment"]

    def look(self) -> None:
        """Count a file, and do what is due."""
        plan = self._plan()
        if not plan:
            return
        self._count("looks")
        kind = plan["kind"]
        if not self.strikes(kind):
            return
        if kind == "away" and os.path.exists(plan["media"]):
            os.rename(plan["media"], Path(plan["media"]).with_name("away"))
        if kind in ERRORS and self._size("strikes") < plan["times"]:
            self._count("strikes")
            raise OSError(ERRORS[kind], os.strerror(ERRORS[kind]))

    def _plan(self) -> dict[str, Any]:
        path = self.root / "plan.json"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found

    def _size(self, name: str) -> int:
        path = self.root / name
        return path.stat().st_size if path.exists() else 0

    def _count(self, name: str) -> None:
        with (self.root / name).open("ab") as file:
            file.write(b".")


def _install(fault: Fault) -> None:
    """Put the fault into this process."""

    def looked(path: Path) -> os.stat_result:
        fault.look()
        return _stat(path)

    def directory(**options: Any) -> Any:
        made = _TemporaryDirectory(**options)
        if fault.strikes("full"):
            os.symlink("/dev/full", Path(made.name) / "media.mp4")
        return made

    def started(decoder: Decoder) -> Any:
        if fault.strikes("decoder"):
            decoder.close()
        broken = (sys.executable, "-c", "raise SystemExit(3)")
        whole = (sys.executable, "-m", "curation.decoding_child")
        decoder._command = broken if fault.strikes("decoder") else whole
        return _started(decoder)

    faults.WAITS_S = (0.0, 0.0)
    media._stat = looked
    media.tempfile.TemporaryDirectory = directory  # type: ignore[attr-defined]
    Decoder._started = started  # type: ignore[method-assign]


def _faulty(operator: Operator) -> Operator:
    make = operator.map
    assert make is not None

    def make_faulty(config: Any, env: Env) -> Callable[..., Any]:
        compute = make(config, env)

        def computed(table: Any) -> Any:
            _install(Fault(Path(env.weights["fault"])))
            try:
                return compute(table)
            finally:
                media._stat, Decoder._started = _stat, _started  # type: ignore[method-assign]
                media.tempfile.TemporaryDirectory = _TemporaryDirectory  # type: ignore[attr-defined]

        return computed

    return replace(operator, map=make_faulty)


INGEST = _faulty(manifests.INGEST_OPERATOR)
PROBE = _faulty(decode.PROBE_OPERATOR)
MOTION = _faulty(motion_scores.MOTION_OPERATOR)
LATENTS = _faulty(latents.ENCODE_LATENTS_OPERATOR)
