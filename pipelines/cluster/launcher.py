"""Files of Ray's cluster launcher (`ray up`): Ray's own schema, and what it lets through."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from pipelines.cluster import rules
from pipelines.cluster.document import Document, Location, Problem
from pipelines.cluster.ray_schema import launcher_schema, prepare
from pipelines.cluster.rules import Pool
from pipelines.cluster.schema import schema_problems, unknown_key

_ANY = {
    "type",
    "cache_stopped_nodes",
    "use_internal_ips",
    "disable_node_updaters",
    "disable_launch_config_check",
    "foreground_node_launch",
}
PROVIDERS = {
    "aws": _ANY | {"region", "availability_zone", "key_pair", "security_group", "cloudwatch", "aws_credentials"},
    "gcp": _ANY | {"region", "availability_zone", "project_id", "gcp_credentials"},
    "azure": _ANY
    | {
        "location",
        "resource_group",
        "subscription_id",
        "availability_zone",
        "tags",
        "unique_id",
        "subnet_mask",
        "msi_name",
        "msi_resource_group",
        "use_external_head_ip",
    },
    "local": _ANY | {"head_ip", "worker_ips", "external_head_ip", "coordinator_address"},
}
"""Keys of `provider` that Ray 2.60 reads. Of providers that are not here, any key is taken."""
_NEEDED = {
    "aws": {"region": "such as us-west-2"},
    "gcp": {"region": "such as us-west1", "availability_zone": "such as us-west1-a", "project_id": "of your project"},
    "azure": {"location": "such as westus2", "resource_group": "of your subscription"},
    "local": {"head_ip": "such as 10.0.0.1", "worker_ips": "such as [10.0.0.2, 10.0.0.3]"},
}
_OTHERS = ("aliyun", "external", "fake_multinode", "fake_multinode_docker", "readonly", "spark", "vsphere")
"""Providers whose keys are not known here."""
_COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
_IMAGES = ("image", "head_image", "worker_image")
_TYPES = "available_node_types"


def problems(document: Document, version: str) -> Iterator[Problem]:
    """All that is wrong with a file for this version of Ray, without asking the cloud."""
    refused = list(schema_problems(document, launcher_schema()))
    yield from refused
    yield from _provider(document)
    yield from _images(document, version)
    yield from _node_types(document)
    # What is told above, Ray would tell again, and of the first alone, and without a line.
    if not refused and not list(_provider(document)) and not list(_totals(document)):
        prepared, verdict = prepare(document.data)
        if verdict is not None:
            yield document.problem((), f"Ray refuses the file: {verdict}")
        yield from _commands(document, prepared, version)
    yield from _totals(document)
    yield from _start(document)


def pools(document: Document) -> list[Pool]:
    """The node types that a file has, the head first."""
    found = []
    total = _count(document.get("max_workers"), 2)
    for name, content in document.section(_TYPES).items():
        if not isinstance(content, dict):
            continue
        at: Location = (_TYPES, str(name))
        head = name == document.get("head_node_type")
        resources = content.get("resources")
        found.append(
            Pool(
                str(name),
                {str(key): float(value) for key, value in resources.items() if isinstance(value, int | float)}
                if isinstance(resources, dict)
                else {},
                _count(content.get("min_workers"), 0),
                min(_count(content.get("max_workers"), 0 if head else total), total),
                at,
                (*at, "min_workers"),
                (*at, "max_workers"),
                head,
            )
        )
    return sorted(found, key=lambda pool: not pool.is_head)


def _count(value: object, default: int) -> int:
    return value if isinstance(value, int) else default


def _provider(document: Document) -> Iterator[Problem]:
    provider = document.section("provider")
    kind = str(provider.get("type"))
    known = PROVIDERS.get(kind)
    if known is None and kind not in _OTHERS and "type" in provider:
        near = difflib.get_close_matches(kind, PROVIDERS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join([*PROVIDERS, *_OTHERS])}"
        yield document.problem(("provider", "type"), f"Ray knows no provider {kind}; {hint}")
    for key in provider:
        if known is not None and key not in known:
            yield document.problem(("provider", str(key)), unknown_key(str(key), known))
    for key, example in _NEEDED.get(kind, {}).items():
        if not provider.get(key) and not provider.get("coordinator_address"):
            yield document.problem(("provider", key), f"{key} is missing: add it below provider, {example}")
    region, zones = provider.get("region"), provider.get("availability_zone")
    if isinstance(region, str) and isinstance(zones, str):
        for zone in zones.split(","):
            if not zone.strip().startswith(region):
                words = f"{zone.strip()} is not in the region {region}: write zones such as {region}a"
                yield document.problem(("provider", "availability_zone"), words)
    credentials = provider.get("aws_credentials")
    for name in credentials if isinstance(credentials, dict) else ():
        found = rules.secret_problem(document, ("provider", "aws_credentials", str(name)), str(name))
        if found is not None:
            yield found


def _images(document: Document, version: str) -> Iterator[Problem]:
    docker = document.section("docker")
    if not any(docker.get(key) for key in _IMAGES):
        words = "no image is named: the nodes would run whatever is installed on them; add image and container_name"
        yield document.problem(("docker",), words)
    elif not docker.get("container_name"):
        yield document.problem(("docker",), "container_name is missing: add one below, such as lumina")
    places: list[Location] = [("docker", key) for key in _IMAGES]
    places += [(_TYPES, str(name), "docker", "worker_image") for name in document.section(_TYPES)]
    for at in places:
        image = document.get(*at)
        # A placeholder is told as one.
        if isinstance(image, str) and not re.fullmatch(r"<.*>", image):
            found = rules.image_problem(document, at, image, version)
            if found is not None:
                yield found
    for at, option in document.texts():
        name = re.match(r"(?:-e|--env)[ =](\w+)=.", option) if at[0] == "docker" else None
        secret = rules.secret_problem(document, at, name[1]) if name else None
        if secret is not None:
            yield secret


def _node_types(document: Document) -> Iterator[Problem]:
    found = pools(document)
    head = document.get("head_node_type")
    if found and not any(pool.is_head for pool in found):
        names = ", ".join(pool.name for pool in found)
        yield document.problem(("head_node_type",), f"{head or 'nothing'} is none of the node types; there are {names}")
    yield from rules.pool_problems(document, found)


def _totals(document: Document) -> Iterator[Problem]:
    total = document.get("max_workers")
    least = sum(pool.least for pool in pools(document))
    if isinstance(total, int) and least > total:
        words = f"{total} nodes at most, but the node types want {least} at least: raise it to {least}"
        yield document.problem(("max_workers",), words)


def _commands(document: Document, prepared: dict[str, object], version: str) -> Iterator[Problem]:
    """Commands of the file, and those that Ray puts in the place of missing ones."""
    for key in _COMMANDS:
        written = key in document.section()
        commands = document.items(key) if written else prepared.get(key)
        for number, command in enumerate(commands if isinstance(commands, list) else []):
            found = rules.installed_ray(document, (key, number) if written else (), str(command), version)
            if found is not None and written:
                yield found
            elif found is not None and key == "setup_commands":
                words = f"setup_commands is missing, and Ray's own take its place: {found.message.split(',')[0]}"
                yield document.problem((), f"{words}; add setup_commands: []")
    for name in document.section(_TYPES):
        for key in _COMMANDS:
            for number, command in enumerate(document.items(_TYPES, name, key)):
                found = rules.installed_ray(document, (_TYPES, str(name), key, number), str(command), version)
                if found is not None:
                    yield found


def _start(document: Document) -> Iterator[Problem]:
    commands = [str(command) for command in document.items("head_start_ray_commands")]
    starting = next((number for number, command in enumerate(commands) if "ray start" in command), None)
    at: Location = ("head_start_ray_commands",) if starting is None else ("head_start_ray_commands", starting)
    found = rules.stop_wait(document, at, rules.stop_wait_in(" ".join(commands)))
    if found is not None:
        yield found
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        for number, command in enumerate(document.items(key)):
            if "ray start" in str(command):
                yield from rules.start_problems(document, (key, number), str(command))
    if not any(PurePosixPath(path).match(".ray/auth_token") for path in document.section("file_mounts")) and not (
        starting is not None and "RAY_AUTH_TOKEN" in commands[starting]
    ):
        words = "the nodes get no token: add /home/lumina/.ray/auth_token: ~/.ray/auth_token below file_mounts"
        yield document.problem(("file_mounts",), words)
    if starting is not None and "--autoscaling-config" not in commands[starting]:
        words = "the head would add no nodes: add --autoscaling-config=~/ray_bootstrap_config.yaml to ray start"
        yield document.problem(at, words)
