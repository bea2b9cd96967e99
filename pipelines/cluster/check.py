"""Cluster files: hold a file of Ray's launcher or a RayJob against JSON schemas, and its nodes against a config."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from jobs.capacity import Need, Work, needs, room, shortage
from jobs.runtime import RuntimeConfig
from pipelines.cluster.document import Document, Location, Problem, fill, read
from pipelines.config import load_config
from pipelines.errors import PipelineError, did_you_mean
from pipelines.load import ConfigError, shipped

Kind = Literal["launcher", "rayjob"]
KINDS: Mapping[Kind, str] = {"launcher": "Ray's cluster launcher", "rayjob": "KubeRay RayJob"}

_TYPES = "available_node_types"
_HEAD: Location = ("spec", "rayClusterSpec", "headGroupSpec")
_GROUPS: Location = ("spec", "rayClusterSpec", "workerGroupSpecs")
_CONTAINER = ("template", "spec", "containers", 0)
_GPU = "nvidia.com/gpu"
_OTHER_RAY = re.compile(r"(?:\bray(?:\[[\w,-]*\])?\s*==\s*|/ray(?:-ml|-llm)?:)(\d+\.\d+\.\d+)")
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m?)")
_MOST_NODES = 10_000
"""Counted one by one; a file that allows more allows enough."""


@dataclass(frozen=True)
class Pool:
    """Nodes of one kind."""

    name: str
    head: bool
    min: int
    max: int
    resources: Mapping[str, float]
    """Of one node, as Ray counts them."""
    at: Location
    bounds: tuple[str, str] = ("min_workers", "max_workers")
    """Keys of the file that hold `min` and `max`."""


@dataclass(frozen=True)
class Checked:
    """What came out of a check."""

    file: str
    kind: Kind
    ray: str
    """Version of Ray that the file was held against."""
    problems: tuple[Problem, ...]
    pools: tuple[Pool, ...]
    text: str
    """The file, with what was filled in."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        nodes = [
            {key: getattr(pool, key) for key in ("name", "head", "min", "max", "resources")} for pool in self.pools
        ]
        kind = {"file": self.file, "kind": self.kind, "ray": self.ray, "ok": not self.problems}
        return {**kind, "problems": [asdict(problem) for problem in self.problems], "nodes": nodes}


def check(path: Path, values: Mapping[str, str], runtime: RuntimeConfig | None = None) -> Checked:
    """Look for what can be known offline.

    Args:
        path: a file of Ray's cluster launcher, or a RayJob manifest, alone or among other documents.
        values: what takes the place of `<NAME>`.
        runtime: what the cluster is to run; None takes what a RayJob's entry point says, and leaves the size of a
            launcher's cluster alone.

    Raises:
        PipelineError: the file cannot be read, or is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path} cannot be read: {error}; give a YAML file, such as ray_cluster.yaml") from error
    text = fill(text, values)
    documents = read(text, str(path))
    kind, document = _which(documents, path)
    version = importlib.metadata.version("ray")
    found = [problem for one in documents for problem in one.yaml_problems()]
    found += [problem for schema in _schemas(kind, version) for problem in _violations(document, schema)]
    for at, value in document.texts():
        words = f"this is for Ray {version}: write that version"
        found += [
            document.problem(at, f"Ray {one} here, and {words}") for one in _OTHER_RAY.findall(value) if one != version
        ]
    pools = _launcher_pools(document) if kind == "launcher" else [_group(document, at) for at in _groups(document)]
    found += _pool_problems(document, pools)
    if kind == "rayjob":
        started = list(_entrypoint(document))
        found += [one for one in started if isinstance(one, Problem)]
        runtime = runtime or next((one for one in started if isinstance(one, RuntimeConfig)), None)
    if runtime is not None:
        found += _shortages(document, pools, runtime)
    ordered = sorted(dict.fromkeys(found), key=lambda problem: (problem.line, problem.where))
    return Checked(str(path), kind, version, tuple(ordered), tuple(pools), text)


def _which(documents: list[Document], path: Path) -> tuple[Kind, Document]:
    jobs = [one for one in documents if one.get("kind") == "RayJob"]
    if len(jobs) == 1:
        return "rayjob", jobs[0]
    if not jobs and len(documents) == 1 and (documents[0].section("provider") or documents[0].get("cluster_name")):
        return "launcher", documents[0]
    held = f"it holds {len(jobs)} RayJobs: check one at a time" if jobs else "it is neither"
    raise PipelineError(
        f"{path}: expected a file of `ray up` (cluster_name, provider) or a RayJob (kind: RayJob); {held}"
    )


def _schemas(kind: Kind, version: str) -> Iterator[dict[str, Any]]:
    ours = Path(__file__).with_name(f"{kind}.schema.yaml").read_text(encoding="utf-8")
    yield yaml.safe_load(ours.replace("RAY_VERSION", version))
    if kind == "launcher":
        spec = importlib.util.find_spec("ray")
        [folder] = spec.submodule_search_locations if spec and spec.submodule_search_locations else [""]
        yield json.loads(Path(folder, "autoscaler", "ray-schema.json").read_text(encoding="utf-8"))


def _violations(document: Document, schema: Mapping[str, Any]) -> Iterator[Problem]:
    """All that a schema refuses, each at its line; a rule's `says` takes the place of the validator's words."""
    from jsonschema import validators

    for error in validators.validator_for(schema)(schema).iter_errors(document.data):
        at = tuple(error.absolute_path)
        if "says" in error.schema:
            yield document.problem(at, error.schema["says"])
        elif error.validator == "additionalProperties" and error.validator_value is False:
            known = error.schema.get("properties", {})
            yield from (_unknown(document, (*at, key), known) for key in error.instance if key not in known)
        elif "propertyNames" in error.schema_path:
            yield _unknown(document, (*at, error.instance), error.validator_value)
        elif error.validator == "required":
            key = error.message.split("'")[1]
            yield document.problem(at, f"{key} is missing: add it below")
        elif error.validator == "enum":
            hint = did_you_mean(str(error.instance), map(str, error.validator_value))
            yield document.problem(at, "; ".join(filter(None, [error.message, hint])))
        elif error.validator == "const":
            yield document.problem(at, f"expected {error.validator_value}, got {error.instance!r}")
        else:
            hint = ": write a number without quotes" if error.validator_value == "integer" else ""
            yield document.problem(at, error.message + hint)


def _unknown(document: Document, at: Location, known: Any) -> Problem:
    hint = did_you_mean(str(at[-1]), known, f"known here: {', '.join(sorted(known))}")
    return document.problem(at, f"unknown key; {hint}")


def _launcher_pools(document: Document) -> list[Pool]:
    total, head = _whole(document.get("max_workers"), 2), document.get("head_node_type")
    found = []
    for name, content in document.section(_TYPES).items():
        kind = content if isinstance(content, dict) else {}
        least, most = _whole(kind.get("min_workers"), 0), _whole(kind.get("max_workers"), 0 if name == head else total)
        resources = _amounts(kind.get("resources"))
        found.append(Pool(name, name == head, least, min(most, total), resources, (_TYPES, name)))
    return sorted(found, key=lambda pool: not pool.head)


def _groups(document: Document) -> list[Location]:
    heads = [_HEAD] if document.section(*_HEAD) else []
    return [*heads, *((*_GROUPS, number) for number in range(len(document.items(*_GROUPS))))]


def _group(document: Document, at: Location) -> Pool:
    """Resources as KubeRay finds them: the group's own, else those of `ray start`, else the container's limits."""
    limits = document.section(*at, *_CONTAINER, "resources", "limits")
    started = document.section(*at, "rayStartParams")
    given = {"CPU": limits.get("cpu"), "GPU": limits.get(_GPU)}
    given |= {name: started[key] for name, key in (("CPU", "num-cpus"), ("GPU", "num-gpus")) if key in started}
    resources = _amounts(given | document.section(*at, "resources"))
    if at == _HEAD:
        return Pool("the head", True, 1, 1, resources, at)
    hosts = _whole(document.get(*at, "numOfHosts"), 1)
    least = _whole(document.get(*at, "minReplicas"), 0)
    most = _whole(document.get(*at, "maxReplicas"), least)
    name = str(document.get(*at, "groupName"))
    return Pool(name, False, least * hosts, most * hosts, resources, at, ("minReplicas", "maxReplicas"))


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) else default


def _amounts(given: Any) -> dict[str, float]:
    """Quantities that count something, as Kubernetes writes them too: 4, "4", 500m."""
    found = {
        str(name): _QUANTITY.fullmatch(str(value)) for name, value in (given if isinstance(given, dict) else {}).items()
    }
    return {name: float(one[1]) / (1000 if one[2] else 1) for name, one in found.items() if one}


def _pool_problems(document: Document, pools: list[Pool]) -> Iterator[Problem]:
    for pool in pools:
        if pool.head and pool.resources.get("GPU", 0) > 0:
            words = f"the head has {pool.resources['GPU']:g} GPU, which would wait for drivers: take a node without"
            yield document.problem((*pool.at, "resources", "GPU"), words)
        if pool.min > pool.max and not pool.head:
            words = (
                f"at least {pool.min} nodes of {pool.name}, but at most {pool.max}: lower the one or raise the other"
            )
            yield document.problem((*pool.at, pool.bounds[0]), words)


def _entrypoint(document: Document) -> Iterator[Problem | RuntimeConfig]:
    """What is wrong with the run that a RayJob starts, and how it is executed where its config can be read here."""
    at: Location = ("spec", "entrypoint")
    try:
        words = shlex.split(str(document.get(*at) or ""))
    except ValueError:
        yield document.problem(at, "a quote is not closed: close it")
        return
    stores = [value for word, value in pairwise(words) if word == "--store"]
    if not stores:
        yield document.problem(
            at, "no --store is given, so outputs would vanish with the pod: add --store and a mounted path"
        )
    for group in _groups(document):
        mounts, name = (*group, *_CONTAINER, "volumeMounts"), _group(document, group).name
        paths = [str(one.get("mountPath")) for one in document.items(*mounts) if isinstance(one, dict)]
        for store in stores[-1:]:
            if "://" not in store and not any(PurePosixPath(store).is_relative_to(path) for path in paths):
                yield document.problem(mounts, f"{name} does not mount the store {store}: mount its volume here too")
        limit = (*group, *_CONTAINER, "resources", "limits", _GPU)
        asked, given = (
            _amounts({_GPU: document.get(*limit)}).get(_GPU, 0),
            _group(document, group).resources.get("GPU", 0),
        )
        if asked != given:
            told = f"Ray would hand out {given:g} GPUs, but the container gets {asked:g}: write {_GPU}: {given:g}"
            yield document.problem(limit, told)
    if words[:2] != ["lumina", "run"] or len(words) < 3 or words[2] not in shipped():
        return
    try:
        overrides = [value for word, value in pairwise(words) if word in ("-o", "--override")]
        runtime = load_config(words[2], overrides, needs_clips=False).runtime
    except ConfigError as error:
        yield document.problem(at, f"the run would refuse its config: {error}")
        return
    if runtime.ray_address is None:
        yield document.problem(at, "the run would start a cluster inside the head: add -o runtime.ray_address=auto")
    yield runtime


def _shortages(document: Document, pools: list[Pool], runtime: RuntimeConfig) -> Iterator[Problem]:
    """What a config needs and the cluster does not have: at its largest, and at its smallest if it stays so."""
    workers = [pool for pool in pools if not pool.head]
    if not workers or any("CPU" not in pool.resources for pool in workers):
        words = "how many CPUs each node has is not written, so no config can be held against it: write resources.CPU"
        yield document.problem((_TYPES,), words)
        return

    def nodes(largest: bool) -> list[Mapping[str, float]]:
        return [
            pool.resources
            for pool in pools
            for _ in range(1 if pool.head else min(pool.max if largest else pool.min, _MOST_NODES))
        ]

    for need in needs(runtime, Work()):
        pool = max(workers, key=lambda pool: _fit(pool, need))
        if short := shortage(nodes(True), [need]):
            words = f"{short} even with all nodes that the file allows: raise it, or lower the setting"
            yield document.problem((*pool.at, pool.bounds[1]), words)
        elif not runtime.autoscaling and (short := shortage(nodes(False), [need])):
            words = f"the cluster starts with too few nodes: {short}: raise it, or add -o runtime.autoscaling=true"
            yield document.problem((*pool.at, pool.bounds[0]), f"{words} -o runtime.curation_workers=N")


def _fit(pool: Pool, need: Need) -> tuple[int, float]:
    """How near a pool is to having room for such workers: in how many, else whether it has the rarest resource."""
    rarest = list(need.resources)[-1]
    return room([pool.resources], need.resources) * max(1, pool.max), pool.resources.get(rarest, 0)
