"""A curation operator whose rows fail for one reason, until a file says that the cause is mended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from curation.operator import Env, Input, Operator, map_rows
from curation.schema import Reason, RowError, Status, status_not_ok, status_ok
from lumina.config import Config

ROWS = pa.schema(
    {name: pa.string() for name in ("clip_id", "uri", "status", "reason", "reason_stage", "detail")}
    | {"number": pa.int64()}
)


class AlikeConfig(Config):
    reason: str = "decode_error"
    rows: int = 45


def _plan(_inputs: Mapping[str, Input], config: AlikeConfig, _env: Env) -> pa.Table:
    rows = [{"clip_id": f"{n:03}", "uri": f"{n}.mp4", "number": n, **status_ok()} for n in range(config.rows)]
    for row in rows[40:]:
        row |= status_not_ok("alike", Status.QUARANTINED, Reason(config.reason), "it came so")
    return pa.Table.from_pylist(rows, schema=ROWS)


def _make(config: AlikeConfig, env: Env) -> Any:
    def look(row: dict[str, Any]) -> dict[str, Any]:
        if row["number"] >= 19 and not (Path(env.media_root) / "mended").exists():
            raise RowError(Reason(config.reason), "line 1\nline 2")
        return {}

    return lambda table: map_rows(table, ROWS, "alike", look)


ALIKE = Operator("alike", AlikeConfig, ROWS, (), _plan, map=_make)
