"""KubeRay's RayJob manifests: the fields that KubeRay knows, and what it would only find out on the cluster."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from jobs.runtime import RuntimeConfig
from pipelines.cluster import rules
from pipelines.cluster.document import Document, Location, Problem
from pipelines.cluster.rules import Pool
from pipelines.cluster.schema import schema_problems
from pipelines.config import load_config
from pipelines.load import ConfigError, shipped

_CLUSTER: Location = ("spec", "rayClusterSpec")
_HEAD: Location = (*_CLUSTER, "headGroupSpec")
_GROUPS: Location = (*_CLUSTER, "workerGroupSpecs")
_GPU = "nvidia.com/gpu"
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m?)")


def problems(document: Document, version: str) -> Iterator[Problem]:
    """All that is wrong with a manifest for this version of Ray, without a Kubernetes cluster."""
    schema = yaml.safe_load(Path(__file__).with_name("rayjob.schema.yaml").read_text(encoding="utf-8"))
    yield from schema_problems(document, schema)
    yield from _job(document)
    found = document.get(*_CLUSTER, "rayVersion")
    if document.section(*_CLUSTER) and found != version:
        words = f'this is for Ray {version}, not {found or "whichever KubeRay takes"}: write rayVersion: "{version}"'
        yield document.problem((*_CLUSTER, "rayVersion"), words)
    for at in _pods(document):
        yield from _pod(document, at, version)
    head = document.items(*_HEAD, "template", "spec", "containers")
    if head and isinstance(head[0], dict):
        env = {one.get("name"): one.get("value") for one in head[0].get("env") or () if isinstance(one, dict)}
        at = (*_HEAD, "template", "spec", "containers", 0, "env")
        unset = rules.stop_wait(document, at, env.get("RAY_JOB_STOP_WAIT_TIME_S"))
        if unset is not None:
            yield unset
        if "token" not in (env.get("RAY_AUTH_MODE"), document.get(*_CLUSTER, "authOptions", "mode")):
            words = "whoever reaches the head's ports would run commands there: add authOptions: {mode: token}"
            yield document.problem((*_CLUSTER, "authOptions"), words)
    yield from rules.pool_problems(document, pools(document))
    for at in _groups(document):
        limits = (*at, "template", "spec", "containers", 0, "resources", "limits")
        asked, given = _number(document.get(*limits, _GPU)) or 0, _pool(document, at).resources.get("GPU", 0)
        if asked != given:
            words = f"Ray would hand out {given:g} GPUs, but the container gets {asked:g}: write {_GPU}: {given:g}"
            yield document.problem((*limits, _GPU), words)
    for number, group in enumerate(document.items(*_GROUPS)):
        replicas = group.get("replicas") if isinstance(group, dict) else None
        if isinstance(replicas, int):
            pool = _pool(document, (*_GROUPS, number))
            if not pool.least <= replicas <= pool.most:
                words = f"replicas {replicas} is not within minReplicas {pool.least} and maxReplicas {pool.most}"
                yield document.problem((*_GROUPS, number, "replicas"), f"{words}: write a number between them")
    yield from _store(document)


def pools(document: Document) -> list[Pool]:
    """The head, and the worker groups."""
    return [_pool(document, at) for at in _groups(document)]


def runtime(document: Document) -> tuple[RuntimeConfig | None, Problem | None]:
    """How the run that the entry point starts is executed, and what is wrong with its config.

    Both None where it starts no shipped config: what lies in the image alone cannot be read here.
    """
    words = _entrypoint(document)
    if words is None or words[:2] != ["lumina", "run"] or len(words) < 3 or words[2] not in shipped():
        return None, None
    overrides = [value for word, value in pairwise(words) if word in ("-o", "--override")]
    try:
        found = load_config(words[2], overrides, needs_clips=False).runtime
    except ConfigError as error:
        return None, document.problem(("spec", "entrypoint"), f"the run would refuse its config: {error}")
    if found.ray_address is None:
        text = "the run would start a cluster of its own inside the head: add -o runtime.ray_address=auto"
        return found, document.problem(("spec", "entrypoint"), text)
    return found, None


def _entrypoint(document: Document) -> list[str] | None:
    """Words of the command; None where a quote in it is not closed."""
    try:
        return shlex.split(str(document.get("spec", "entrypoint") or ""))
    except ValueError:
        return None


def _groups(document: Document) -> list[Location]:
    heads = [_HEAD] if document.section(*_HEAD) else []
    return [*heads, *((*_GROUPS, number) for number in range(len(document.items(*_GROUPS))))]


def _pods(document: Document) -> list[Location]:
    found = [(*at, "template", "spec") for at in _groups(document)]
    return [*found, ("spec", "submitterPodTemplate", "spec")]


def _pool(document: Document, at: Location) -> Pool:
    """Resources as KubeRay finds them: the group's own, else those of `ray start`, else the container's limits."""
    container = (*at, "template", "spec", "containers", 0, "resources")
    limits = {**document.section(*container, "requests"), **document.section(*container, "limits")}
    given = {"CPU": limits.get("cpu"), "GPU": limits.get(_GPU)}
    started = document.section(*at, "rayStartParams")
    given |= {name: started[key] for name, key in (("CPU", "num-cpus"), ("GPU", "num-gpus")) if key in started}
    given |= document.section(*at, "resources")
    resources = {str(name): number for name, value in given.items() if (number := _number(value)) is not None}
    if at == _HEAD:
        return Pool("the head", resources, 1, 1, at, at, at, is_head=True)
    least = _whole(document.get(*at, "minReplicas"), 0)
    most = _whole(document.get(*at, "maxReplicas"), least)
    hosts = _whole(document.get(*at, "numOfHosts"), 1)
    name = str(document.get(*at, "groupName"))
    return Pool(name, resources, least * hosts, most * hosts, at, (*at, "minReplicas"), (*at, "maxReplicas"))


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) else default


def _number(value: Any) -> float | None:
    """A quantity of Kubernetes that counts something: 4, "4", 500m."""
    found = _QUANTITY.fullmatch(str(value))
    return float(found[1]) / (1000 if found[2] else 1) if found else None


def _job(document: Document) -> Iterator[Problem]:
    spec = document.section("spec")
    if not spec.get("jobId"):
        words = "jobId is missing, so every retry would be another job: add one, such as lumina-paper-1"
        yield document.problem(("spec", "jobId"), words)
    if spec.get("entrypointNumGpus"):
        words = "the driver computes nothing, and would keep a GPU from training: delete the line"
        yield document.problem(("spec", "entrypointNumGpus"), words)
    if not spec.get("entrypointNumCpus"):
        words = "the driver takes no CPU, so that it may land on a full node: write entrypointNumCpus: 1"
        yield document.problem(("spec", "entrypointNumCpus"), words)
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        words = "it holds only for a cluster that is shut down: write shutdownAfterJobFinishes: true"
        yield document.problem(("spec", "ttlSecondsAfterFinished"), words)
    if not spec.get("activeDeadlineSeconds"):
        words = "activeDeadlineSeconds is missing, so a job that hangs keeps its GPUs for ever: add one, in seconds"
        yield document.problem(("spec", "activeDeadlineSeconds"), words)
    if spec.get("submissionMode") == "SidecarMode":
        if spec.get("submitterPodTemplate"):
            words = "SidecarMode takes none, since it submits from the head: delete it"
            yield document.problem(("spec", "submitterPodTemplate"), words)
        if document.get(*_HEAD, "template", "spec", "restartPolicy") != "Never":
            words = "SidecarMode needs a head that is not restarted: write restartPolicy: Never"
            yield document.problem((*_HEAD, "template", "spec", "restartPolicy"), words)
    try:
        environment = yaml.safe_load(str(spec.get("runtimeEnvYAML", "")))
    except yaml.YAMLError:
        yield document.problem(("spec", "runtimeEnvYAML"), "this is not valid YAML: look at its indentation and quotes")
        return
    variables = environment.get("env_vars") if isinstance(environment, dict) else None
    for name in variables if isinstance(variables, dict) else ():
        secret = rules.secret_problem(document, ("spec", "runtimeEnvYAML"), str(name))
        if secret is not None:
            yield secret


def _pod(document: Document, at: Location, version: str) -> Iterator[Problem]:
    volumes = [one.get("name") for one in document.items(*at, "volumes") if isinstance(one, dict)]
    for kind in ("containers", "initContainers"):
        for number in range(len(document.items(*at, kind))):
            here = (*at, kind, number)
            image = document.get(*here, "image")
            if image is None:
                yield document.problem(here, "the container has no image: add one, by digest")
            elif not re.fullmatch(r"<.*>", str(image)):
                found = rules.image_problem(document, (*here, "image"), str(image), version)
                if found is not None:
                    yield found
            for place, one in enumerate(document.items(*here, "env")):
                if isinstance(one, dict) and "value" in one:
                    found = rules.secret_problem(document, (*here, "env", place), str(one.get("name")))
                    if found is not None:
                        yield found
            for place, one in enumerate(document.items(*here, "volumeMounts")):
                name = one.get("name") if isinstance(one, dict) else None
                if name is not None and name not in volumes:
                    words = f"the pod has no volume {name}; it has {', '.join(map(str, volumes)) or 'none'}"
                    yield document.problem((*here, "volumeMounts", place, "name"), f"{words}: name one of them")


def _store(document: Document) -> Iterator[Problem]:
    """What goes from node to node lies in the store, so every node has to mount it."""
    words = _entrypoint(document)
    if words is None:
        yield document.problem(("spec", "entrypoint"), "a quote is not closed: close it")
        return
    given = [value for word, value in pairwise(words) if word == "--store"]
    given += [word.partition("=")[2] for word in words if word.startswith("--store=")]
    if not given:
        text = "no --store is given, so that outputs would vanish with the pod: add --store and a path that is mounted"
        yield document.problem(("spec", "entrypoint"), text)
        return
    store = PurePosixPath(given[-1])
    for at in _groups(document):
        mounts = (*at, "template", "spec", "containers", 0, "volumeMounts")
        paths = [str(one.get("mountPath")) for one in document.items(*mounts) if isinstance(one, dict)]
        if "://" not in given[-1] and not any(store.is_relative_to(path) for path in paths):
            name, mounted = _pool(document, at).name, ", ".join(paths) or "nothing"
            text = f"{name} does not mount the store {store}; it mounts {mounted}"
            yield document.problem(mounts, f"{text}: add a volumeMount of the volume that the others have there")
