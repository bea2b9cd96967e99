"""Stage `curation_page`: one HTML page that shows what curation kept, what it set aside, and why.

Nothing reads its output but people; it is an artifact of the stage's MLflow run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from curation.page import PageConfig, make_page, read_tables
from jobs.context import Job, JobContext, JobResult
from jobs.files import files_digest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "curation.html"


@partial(Job, reads_media=True, depends=("pillow", "jinja2"), uses_cluster=False)
def run(ctx: JobContext) -> JobResult:
    """Write `curation.html` (config: PageConfig) from the inputs `clips`, `select`, and `motion`, `tag`,
    `duplicates`, `scores` and `score@...` if there are such stages.

    A clip that does not decode is shown with the reason.

    Raises:
        ValueError: the inputs are not of one run.
        MachineError: the machine is at fault for a clip that does not decode.
    """
    from curation.decode import frames_at
    from curation.decoder import Decoder
    from curation.operator import Env, Input
    from curation.sources import SYSTEM_PROMPTS_FILE
    from jobs.curate import decode_limits
    from lumina.faults import patiently
    from lumina.system_prompts import read_system_prompts

    config: PageConfig = ctx.config
    decoder = Decoder(decode_limits(ctx.runtime))
    env = Env(ctx.media_root, stores=ctx.runtime.object_stores)

    def decode(row: Mapping[str, Any], times_s: Sequence[float]) -> NDArray[np.uint8]:
        return patiently(lambda: frames_at(decoder, row, env, times_s).pixels, row["uri"])

    tag = ctx.inputs.get("tag")
    prompts = {} if tag is None else read_system_prompts(tag.path / SYSTEM_PROMPTS_FILE)
    tables = read_tables(
        {key: Input(ref.path) for key, ref in ctx.inputs.items()},
        {source: prompt.text for source, prompt in prompts.items()},
    )
    page = make_page(
        tables,
        config,
        decode,
        {ref.stage: ref.digest for _, ref in sorted(ctx.inputs.items())},
        ctx.progress,
    )
    decoder.close()
    # The same bytes on every platform, since they are the output's identity.
    content = page.html.encode()
    (ctx.out / FILE).write_bytes(content)
    return JobResult(
        kind="files",
        digest=files_digest(ctx.out),
        counts={"clips": page.clips, "pictured": page.pictured},
        metrics={"undecodable": float(page.undecodable), "bytes": float(len(content))},
        artifacts=(FILE,),
    )
