"""Orphans, left beside the outputs of a store by writers that died: half-written files, and how killed runs stood.

Outputs and attempts are for `pipelines.engine.store.gc` to judge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lumina.files import PARTIAL
from pipelines.engine.store.lease import Holder
from pipelines.engine.store.run_record import RunRecord
from pipelines.engine.store.typed import checked, parse, read_text

_FOLDERS = ("cache", "latest", "live", "patches", "runs", "sweeps")
"""Those whose files are replaced whole."""
_WRITING_S = 86400.0
"""A file that somebody is writing is younger than this, even where the clocks of hosts differ by hours."""


What = Literal["output", "attempt", "unfinished", "partial", "status"]
"""`attempt`: a directory that no record names; `unfinished`: work from which a run could go on; `partial`: a file that
was never written to its end; `status`: how a run stood that was killed."""


@dataclass(frozen=True)
class Orphan:
    """Something in a store that no kept run needs."""

    what: What
    path: Path
    goes: bool
    """Whether nobody can want it."""
    why: str


def orphaned_files(root: Path, records: Mapping[str, RunRecord], cutoff: float | None, now: float) -> Iterator[Orphan]:
    """Find files that nobody writes any more; what belongs to a run that goes on is none.

    Args:
        root: of the store.
        records: of the runs that ended, by id.
        cutoff: seconds since the epoch: who was killed before that will not be continued; None if nobody can know.
        now: seconds since the epoch.
    """
    for folder in _FOLDERS:
        for path in sorted((root / folder).glob(PARTIAL)):
            with contextlib.suppress(FileNotFoundError):  # it is whole by now
                if path.stat().st_mtime < now - _WRITING_S:
                    yield Orphan("partial", path, True, "who wrote it died")
    yield from _statuses(root, records, cutoff, now)


@dataclass(frozen=True)
class _Told:
    """What a run told of itself; see `pipelines.reports.status`."""

    path: Path
    name: str
    started: float
    writer: Holder


def _statuses(root: Path, records: Mapping[str, RunRecord], cutoff: float | None, now: float) -> Iterator[Orphan]:
    begun = [(record.name, record.began, run) for run, record in records.items()]
    killed = []
    for path in sorted((root / "live").glob("[!.]*.json")):
        try:
            told = _read(path)
        except FileNotFoundError:
            continue  # the run has ended
        except (OSError, ValueError, TypeError, KeyError) as error:
            yield Orphan("status", path, path.stat().st_mtime < now - _WRITING_S, f"it cannot be read: {error!r}")
            continue
        begun.append((told.name, told.started, path.stem))
        if not told.writer.is_alive(now):
            killed.append(told)
    newest = {name: (started, run) for name, started, run in sorted(begun)}
    for told in killed:
        run, goes = told.path.stem, True
        if run in records:
            why = "the record of the run says how it ended"
        elif newest[told.name] > (told.started, run):
            why = f"of a run that was killed; {newest[told.name][1]} came after it"
        elif cutoff is not None and told.writer.heartbeat < cutoff:
            why = "of a run that was killed long ago"
        else:
            why, goes = "of a run that was killed: `lumina status` says how to go on", False
        yield Orphan("status", told.path, goes, why)


def _read(path: Path) -> _Told:
    told = parse(read_text(path))
    writer = checked(Holder, {**told, "owner": path.stem, "heartbeat": path.stat().st_mtime})
    return _Told(path, str(told["name"]), float(told["started"]), writer)
