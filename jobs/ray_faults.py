"""Out of memory, dead actors and dead servers: what Ray says of itself, told in one line with what to do.

Ray's own texts are pages that name no setting of ours.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lumina.faults import MachineError

if TYPE_CHECKING:
    from jobs.runtime import RuntimeConfig

_OOM = re.compile(r"running low on memory|failed due to oom|Memory usage \d+B exceeded")
_USAGE = re.compile(r"Memory usage (\d+)B exceeded threshold of (\d+)B")
_LESS = {
    "train": (
        "lower runtime.train_workers on this machine or the tasks' micro_batch_size, or set "
        "runtime.activation_checkpointing to full"
    ),
    "evaluate": "lower evaluate.batch_size, or runtime.num_cpus for fewer workers",
    "clips": "give a lower --workers",
}
"""Which setting takes less memory, by the last part of a job's module: its whole name would be read as an import."""
_LESS_CURATION = "lower runtime.curation_workers or runtime.num_cpus"
_FEW = 200
"""Characters of what Ray says."""


@contextmanager
def explained(entry: str, runtime: RuntimeConfig) -> Iterator[None]:
    """Errors of Ray's that say nothing of the stage's own code become a `MachineError`; all others pass.

    Args:
        entry: `module:function` of the stage's job.
        runtime: says which cluster it is.
    """
    try:
        yield
    except Exception as error:
        # Ray hands on what happened in a worker as an error of both classes, whose text is a traceback.
        if isinstance(cause := getattr(error, "cause", None), MachineError):
            raise cause from error
        if (told := explanation(error, entry, runtime)) is not None:
            raise MachineError(told) from error
        raise


def explanation(error: Exception, entry: str, runtime: RuntimeConfig) -> str | None:
    """What to tell of an error of Ray's; None of any other."""
    if "ray" not in sys.modules:
        return None
    from ray import exceptions

    text = str(error)
    about_ray = isinstance(error, exceptions.RayError) or type(error).__module__.startswith("ray.train")
    if about_ray and (isinstance(error, exceptions.OutOfMemoryError) or _OOM.search(text)):
        less = _LESS.get(entry.partition(":")[0].rpartition(".")[2], _LESS_CURATION)
        return f"memory is short: {used(text)} and Ray ended workers again and again; {less}, or free some memory"
    dead = (
        exceptions.RayActorError, exceptions.LocalRayletDiedError, exceptions.WorkerCrashedError,
        exceptions.NodeDiedError, exceptions.ObjectLostError, exceptions.RaySystemError, exceptions.RpcError,
    )  # fmt: skip
    if not isinstance(error, dead):
        return None
    said = f"Ray lost a process that the stage needs ({type(error).__name__}: {first_sentence(text)})"
    if runtime.ray_address is None:
        return f"{said}; what it had done is kept, and the same command continues"
    return f"{said}; see that the head and the nodes of {runtime.ray_address} run, and the same command continues"


def used(text: str) -> str:
    """How much memory was in use, as far as Ray says so."""
    found = _USAGE.search(text)
    if found is None:
        return "a node has used up what Ray allows,"
    usage, limit = (int(number) / 2**30 for number in found.groups())
    return f"{usage:.1f} GiB of a node are in use where Ray allows {limit:.1f} GiB,"


def first_sentence(text: str) -> str:
    """The beginning of a text of Ray's, in one line."""
    line = " ".join(text.strip().partition("\n")[0].split()).partition(". ")[0].rstrip(".")
    return line if len(line) <= _FEW else f"{line[:_FEW]}..."


def shortened(message: str) -> str | None:
    """A line for the driver's terminal of a message that Ray shows there; None of what says nothing to its reader."""
    if _OOM.search(message):
        return f"memory is short: {used(message)} so Ray ended workers; what they did is done again"
    # What was lost with a worker is retried, or told as the stage's error; servers are the supervisor's business.
    return None
