"""`lumina cluster check`: which kind of cluster file one is, and what is to mend in it before it reaches a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from jobs.runtime import RuntimeConfig
from pipelines.cluster import launcher, rayjob
from pipelines.cluster.document import Document, Problem, fill, read
from pipelines.cluster.ray_schema import ray_version
from pipelines.cluster.rules import Pool, config_problems
from pipelines.errors import PipelineError

Kind = Literal["launcher", "rayjob"]
KINDS: Mapping[Kind, str] = {"launcher": "Ray's cluster launcher", "rayjob": "KubeRay RayJob"}


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
            {"name": pool.name, "head": pool.is_head, "min": pool.least, "max": pool.most, "resources": pool.resources}
            for pool in self.pools
        ]
        problems = [asdict(problem) for problem in self.problems]
        kind = {"file": self.file, "kind": self.kind, "ray": self.ray}
        return {**kind, "ok": not self.problems, "problems": problems, "nodes": nodes}


def check(path: Path, values: Mapping[str, str], runtime: RuntimeConfig | None = None) -> Checked:
    """Look for everything that can be known offline.

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
    version = ray_version()
    rules = launcher if kind == "launcher" else rayjob
    found = [problem for one in documents for problem in (*one.repeated, *one.placeholders())]
    found += rules.problems(document, version)
    pools = rules.pools(document)
    if runtime is None and kind == "rayjob":
        runtime, refused = rayjob.runtime(document)
        found += [refused] if refused is not None else []
    if runtime is not None:
        found += config_problems(document, pools, runtime)
    ordered = sorted(dict.fromkeys(found), key=lambda problem: (problem.line, problem.where))
    return Checked(str(path), kind, version, tuple(ordered), tuple(pools), text)


def _which(documents: list[Document], path: Path) -> tuple[Kind, Document]:
    jobs = [one for one in documents if one.get("kind") == "RayJob"]
    if len(jobs) == 1:
        return "rayjob", jobs[0]
    if not jobs and len(documents) == 1 and (documents[0].section("provider") or documents[0].get("cluster_name")):
        return "launcher", documents[0]
    held = ", ".join(sorted({str(one.get("kind") or "something without a kind") for one in documents}))
    raise PipelineError(
        f"{path} holds {len(jobs)} RayJobs: check one at a time"
        if jobs
        else f"{path} is neither a file of Ray's cluster launcher (it has cluster_name and provider) nor a RayJob "
        f"(kind: RayJob): it holds {held}"
    )
