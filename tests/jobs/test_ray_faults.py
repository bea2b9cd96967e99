"""What Ray says of itself becomes one line with a setting; what a stage's own code raises passes as it is."""

from __future__ import annotations

import pytest
from ray import exceptions

from jobs.ray_faults import explained, first_sentence, shortened
from jobs.runtime import RuntimeConfig
from lumina.faults import MachineError

OOM = """\
Task _render_chunk failed due to oom. There are infinite oom retries remaining, so the task will be retried. Error: 4 \
worker(s) were killed due to the node running low on memory.
OOM kill reason: Memory usage 7516192768B exceeded threshold of 2147483648B (10.0% of 25276510208B limit)
Object store memory usage: [- objects spillable: 0
"""


@pytest.mark.parametrize(
    ("entry", "setting"),
    [
        ("jobs.curate:run", "lower runtime.curation_workers or runtime.num_cpus"),
        ("jobs.train:run", "lower runtime.train_workers on this machine"),
        ("jobs.evaluate:run", "lower evaluate.batch_size"),
        ("elsewhere.score:run", "lower runtime.curation_workers"),
    ],
)
def test_short_memory_names_the_setting(entry: str, setting: str) -> None:
    with pytest.raises(MachineError) as caught, explained(entry, RuntimeConfig()):
        raise exceptions.OutOfMemoryError(OOM)
    said = str(caught.value)
    assert said.startswith("memory is short: 7.0 GiB of a node are in use where Ray allows 2.0 GiB, and Ray ended ")
    assert setting in said
    assert "\n" not in said
    assert len(said) < 350


@pytest.mark.parametrize(
    "error", [exceptions.ActorUnavailableError("gone. And more", None), exceptions.NodeDiedError("x")]
)
def test_a_dead_process_of_ray_s_is_named(error: Exception) -> None:
    here, there = RuntimeConfig(), RuntimeConfig(ray_address="head:6379")
    kept = r"needs \(\w+Error: .*\); what it had done is kept"
    with pytest.raises(MachineError, match=kept) as caught, explained("jobs.train:run", here):
        raise error
    assert caught.value.__cause__ is error
    look = r"see that the head and the nodes of head:6379 run, and the same command continues"
    with pytest.raises(MachineError, match=look), explained("jobs.train:run", there):
        raise error


@pytest.mark.parametrize(
    "error",
    [ValueError("running low on memory"), KeyError("a"), MachineError("a disk"), exceptions.GetTimeoutError("x")],
)
def test_other_errors_pass_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explained("jobs.train:run", RuntimeConfig()):
        raise error
    assert caught.value is error


def test_of_ray_s_messages_only_short_memory_reaches_the_terminal() -> None:
    assert shortened(OOM) == (
        "memory is short: 7.0 GiB of a node are in use where Ray allows 2.0 GiB, so Ray ended workers; what they did "
        "is done again"
    )
    assert shortened("Raylet is terminated. Termination is unexpected.\n  raylet.out: ...") is None


def test_a_sentence_is_short_and_one_line() -> None:
    assert first_sentence("  The actor  died.\tIt was\nkilled. Then") == "The actor died. It was".partition(". ")[0]
    assert len(first_sentence("a" * 5000)) < 250


def test_a_fault_in_a_worker_is_its_one_line() -> None:
    fault = MachineError("attention fa3: there is no module flash_attn_interface")
    dual = exceptions.RayTaskError("make", "Traceback\n  ...\n", fault).as_instanceof_cause()
    with pytest.raises(MachineError) as caught, explained("jobs.evaluate:run", RuntimeConfig()):
        raise dual
    assert caught.value is fault
    assert "\n" not in str(caught.value)
