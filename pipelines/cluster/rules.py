"""What holds for every kind of cluster file, and no schema knows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from jobs.capacity import Need, Work, needs, room, shortage
from jobs.runtime import RuntimeConfig
from pipelines.cluster.document import Document, Location, Problem

_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_RAY_IMAGE = re.compile(r"(?:^|/)ray(?:-ml|-llm)?:(?P<version>\d+\.\d+\.\d+|nightly|latest)?")
_PINNED = re.compile(r"\bray(?:\[[\w,-]*\])?\s*==\s*(?P<version>\d[\w.]*)|\bray-(?P<wheel>\d[\w.]*?)-cp\d")
_INSTALLED = re.compile(r"\bpip3?\s+install\b(?P<words>[^;&|]*)")
_SECRET = re.compile(r"(?i)(password|passwd|secret|token|access_?key|api_?key|credential)")
_MOST_NODES = 10_000
"""Counted one by one; a file that allows more allows enough."""
_STOP_WAIT = "RAY_JOB_STOP_WAIT_TIME_S"


@dataclass(frozen=True)
class Pool:
    """Nodes of one kind."""

    name: str
    resources: Mapping[str, float]
    """Of one node, as Ray counts them."""
    least: int
    most: int
    at: Location
    least_at: Location
    most_at: Location
    is_head: bool = False


def image_problem(document: Document, at: Location, image: str, version: str) -> Problem | None:
    """An image has to be named by its digest: a tag may be another image tomorrow, on the nodes that join tomorrow."""
    named = _RAY_IMAGE.search(image)
    if named and named["version"] and named["version"] != version:
        return document.problem(
            at, f"the image has Ray {named['version']}, and this is for Ray {version}: take an image with {version}"
        )
    if not _DIGEST.search(image):
        return document.problem(
            at,
            f"{image} is not named by digest: write NAME@sha256:..., as `docker push` prints it, or "
            "`docker inspect --format '{{index .RepoDigests 0}}' NAME`",
        )
    return None


def installed_ray(document: Document, at: Location, command: str, version: str) -> Problem | None:
    """A command that installs another Ray, or whichever is the newest."""
    for found in _PINNED.finditer(command):
        other = found["version"] or found["wheel"]
        if other != version:
            return document.problem(
                at, f"this installs Ray {other}, and this is for Ray {version}: write ray=={version}"
            )
    for found in _INSTALLED.finditer(command):
        words = [word.strip("'\"") for word in found["words"].split()]
        if any(re.fullmatch(r"ray(\[[\w,-]*\])?([<>~!].*)?", word) for word in words) and not (
            {"-c", "--constraint"} & set(words)
        ):
            return document.problem(at, f"this installs whichever Ray is the newest: write ray=={version}")
    return None


def secret_problem(document: Document, at: Location, name: str) -> Problem | None:
    """A password that stands in the file itself; the path of one is none."""
    if _SECRET.search(name) and not name.upper().endswith(("_PATH", "_FILE")):
        return document.problem(at, f"{name} stands here for everybody to read: keep it in a secret, and refer to that")
    return None


def start_problems(document: Document, at: Location, command: str) -> Iterator[Problem]:
    """A node that would take commands from everybody, or whose token everybody could read."""
    if not re.search(r"\bRAY_AUTH_MODE=['\"]?token\b", command):
        words = "whoever reaches this node's ports would run commands there: write RAY_AUTH_MODE=token before ray start"
        yield document.problem(at, words)
    if re.search(r"\bRAY_AUTH_TOKEN=['\"]?[^\s'\"$]", command):
        secret = secret_problem(document, at, "RAY_AUTH_TOKEN")
        yield from [secret] if secret is not None else []


def stop_wait(document: Document, at: Location, seconds: str | None) -> Problem | None:
    """Jobs that are stopped need their time, or their stages leave leases and half-written files behind."""
    if seconds is None or not seconds.isdigit() or int(seconds) < 30:
        return document.problem(
            at, f"{_STOP_WAIT} is {seconds or 'not set'}, so stopped jobs are killed after 3 s: set {_STOP_WAIT}=120"
        )
    return None


def stop_wait_in(command: str) -> str | None:
    """What a shell command sets it to."""
    found = re.search(rf"\b{_STOP_WAIT}=(\S*)", command)
    return found[1].strip("'\";") if found else None


def pool_problems(document: Document, pools: Sequence[Pool]) -> Iterator[Problem]:
    """Numbers of nodes that contradict each other, heads with GPUs, and pools that never have a node."""
    for pool in pools:
        if pool.is_head:
            if pool.resources.get("GPU", 0) > 0:
                words = f"the head has {pool.resources['GPU']:g} GPU, which would wait for drivers: take a node without"
                yield document.problem((*pool.at, "resources", "GPU"), words)
            continue
        if pool.least > pool.most:
            words = (
                f"at least {pool.least} nodes of {pool.name}, but at most {pool.most}: lower the one or raise the other"
            )
            yield document.problem(pool.least_at, words)
        elif pool.most == 0:
            words = f"{pool.name} never has a node, since it may have 0 at most: raise it, or delete {pool.name}"
            yield document.problem(pool.most_at, words)


def config_problems(document: Document, pools: Sequence[Pool], runtime: RuntimeConfig) -> Iterator[Problem]:
    """What a config needs and the cluster does not have, at its largest; and GPUs that nothing uses."""
    workers = [pool for pool in pools if not pool.is_head]
    if not workers:
        words = "the file does not say what its nodes have, so no config can be held against it: leave out --config"
        yield document.problem((), words)
    uncounted = [pool for pool in workers if "CPU" not in pool.resources]
    if uncounted or not workers:
        words = "how many CPUs a node has is not written: the config cannot be held against it; write resources.CPU"
        yield from (document.problem(pool.at, words) for pool in uncounted)
        return
    wanted = needs(runtime, Work())
    largest = [pool.resources for pool in pools for _ in range(1 if pool.is_head else min(pool.most, _MOST_NODES))]
    for need in wanted:
        short = shortage(largest, [need])
        if short is not None:
            pool = _closest(workers, need)
            words = f"{short} even with all nodes that the file allows: raise it, or lower the setting"
            yield document.problem(pool.most_at if pool else (), words)
    if not any(shortage(largest, [need]) for need in wanted) and not runtime.autoscaling:
        smallest = [
            pool.resources for pool in pools for _ in range(1 if pool.is_head else min(pool.least, _MOST_NODES))
        ]
        for need in wanted:
            short = shortage(smallest, [need])
            pool = _closest(workers, need)
            if short is not None and pool is not None:
                words = f"the cluster starts with too few nodes: {short}; a run would be refused until they are there. "
                words += "Raise it, or add -o runtime.autoscaling=true -o runtime.curation_workers=N"
                yield document.problem(pool.least_at, words)
                break
    if not (runtime.use_gpu or runtime.curates_on_gpu):
        for pool in workers:
            if pool.resources.get("GPU", 0) > 0 and pool.most > 0:
                yield document.problem(
                    pool.at,
                    f"nothing in the config uses the GPUs of {pool.name}: set runtime.use_gpu=true, or delete it",
                )


def _closest(pools: Sequence[Pool], need: Need) -> Pool | None:
    """The pool that has the most room for such workers; else one with what they are short of."""
    rarest = list(need.resources)[-1]
    able = [pool for pool in pools if room([pool.resources], need.resources) > 0]
    near = able or [pool for pool in pools if pool.resources.get(rarest, 0) > 0] or list(pools)
    return max(near, key=lambda pool: room([pool.resources], need.resources) * max(1, pool.most), default=None)
