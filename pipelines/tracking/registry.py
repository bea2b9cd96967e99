"""Model registry and prompt registry of MLflow: checkpoints and system prompts as pointers and copies, no truth.

Everything here looks before it makes: the same checkpoint or the same text again gives no new version.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import PromptVersion
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import PROMPT_TEMPLATE_VARIABLE_PATTERN

from curation.control_characters import shown_in_line
from pipelines.engine.stage import RegisteredModel
from pipelines.tracking.made import Made

_LINKED_PROMPTS = "mlflow.linkedPrompts"
_PROMPT_EXPERIMENTS = "_mlflow_experiment_ids"
_ABOUT = (
    "Checkpoints of the pipeline runs of one name, where the pipeline put them: a version tells the place and the "
    "command. An alias stands at the checkpoint of the newest run."
)


def prompt_name(source: str) -> str:
    """Name of a source's prompt, which may hold letters, digits, `_`, `.` and `-` only; no two sources share one."""
    clean = re.sub(r"[^A-Za-z0-9_.\-]", "_", source)
    if clean != source:
        clean += f"-{hashlib.sha256(source.encode()).hexdigest()[:8]}"
    return f"system-prompt.{clean}"


def as_code(text: str) -> str:
    """Text from outside as a span of code in Markdown, where it is neither a link nor a picture from elsewhere."""
    fence = "`" * (1 + max((len(found) for found in re.findall("`+", text)), default=0))
    blank = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{blank}{shown_in_line(text)}{blank}{fence}"


def looks_like_a_template(text: str) -> bool:
    """Whether MLflow would take a part of a text for a variable or a command: `{{x}}`, `{% if %}`."""
    return bool(PROMPT_TEMPLATE_VARIABLE_PATTERN.search(text)) or ("{%" in text and "%}" in text)


class Registry:
    """The registries of one tracking server, for one pipeline run."""

    def __init__(
        self,
        client: MlflowClient,
        uri: str,
        experiments: tuple[str, ...],
        artifact: Callable[[str, Callable[[], object]], None],
    ) -> None:
        """Look at the registries of `uri`; `artifact` sends one of the run that is named."""
        self._client, self._remote, self._experiments = client, not uri.startswith("sqlite:"), experiments
        self._artifact = artifact
        self._versions: dict[str, tuple[str, str]] = {}

    def model(self, name: str, about: RegisteredModel, made: Made, run: str, pipeline_run: str) -> tuple[str, str]:
        """Register a checkpoint where it lies, without copying it; returns name and version.

        The version's source is the checkpoint's URI. A server refuses paths that are not its own: there it is a text
        beside the stage's run that names the checkpoint. Neither is a model that `mlflow.pyfunc` can load.

        Args:
            name: of the registered model.
            about: what the stage says of it.
            made: the checkpoint.
            run: the stage's MLflow run.
            pipeline_run: id of the pipeline run; the alias goes to the newest.
        """
        text = _how_to_use(about, made)
        self._unless_there(self._client.create_registered_model, name, description=_ABOUT)
        found = self._client.search_model_versions(f"name = '{name}' and tags.`lumina.digest` = '{made.digest}'")
        tags = {
            "lumina.digest": made.digest,
            "lumina.fingerprint": made.manifest.fingerprint,
            "lumina.manifest": made.record,
            "lumina.checkpoint": made.uri,
            "lumina.stage": made.stage,
            "lumina.run": pipeline_run,
        }
        if found:
            version = str(max(int(one.version) for one in found))
            # The same weights may lie elsewhere by now.
            self._client.update_model_version(name, version, text)
            for key, value in tags.items():
                self._client.set_model_version_tag(name, version, key, value)
        else:
            source = made.uri
            if self._remote and source.startswith("file:"):
                self._artifact(run, lambda: self._client.log_text(run, text, "checkpoint/README.md"))
                source = f"runs:/{run}/checkpoint"
            version = str(self._client.create_model_version(name, source, run, tags, description=text).version)
        # A record that is replayed late must not take the alias from a newer run.
        held = f"lumina.{about.alias}.run"
        if self._client.get_registered_model(name).tags.get(held, "") <= pipeline_run:
            self._client.set_registered_model_alias(name, about.alias, version)
            self._client.set_registered_model_tag(name, held, pipeline_run)
        return name, version

    def prompts(self, texts: Mapping[str, str]) -> list[str]:
        """Mirror system prompts, source -> text; returns the sources whose new text MLflow takes for a template."""
        braces = []
        for source, text in sorted(texts.items()):
            name, digest = prompt_name(source), hashlib.sha256(text.encode()).hexdigest()
            self._unless_there(
                self._client.create_prompt, name, description=f"System prompt of the source {as_code(source)}.",
                tags={_PROMPT_EXPERIMENTS: f",{','.join(self._experiments)},", "lumina.source": source},
            )  # fmt: skip
            known = {one.tags.get("lumina.sha256"): str(one.version) for one in self._prompt_versions(name)}
            if digest in known:
                self._versions[source] = (name, known[digest])
                continue
            tags, about = {"lumina.sha256": digest, "lumina.source": source}, f"sha256 {digest[:12]}"
            if looks_like_a_template(text):
                braces.append(source)
                tags["lumina.literal"] = "true"
                about += "; braces are literal text: the pipeline fills in nothing"
            made = self._client.create_prompt_version(name, text, description=about, tags=tags)
            self._versions[source] = (name, str(made.version))
        return braces

    def link(self, run: str, sources: Iterable[str]) -> None:
        """Show at a run which system prompts it used, and at those prompts the run; unknown sources are left out."""
        linked = [self._versions[source] for source in sorted(sources) if source in self._versions]
        if linked:
            # MlflowClient.link_prompt_version_to_run writes to the process-wide tracking URI, which is not ours.
            value = json.dumps([{"name": name, "version": version} for name, version in linked])
            self._client.set_tag(run, _LINKED_PROMPTS, value)

    def _prompt_versions(self, name: str) -> Iterator[PromptVersion]:
        token: str | None = ""
        while token is not None:
            page = self._client.search_prompt_versions(name, page_token=token or None)
            yield from page
            token = page.token or None

    @staticmethod
    def _unless_there(create: Any, name: str, **fields: Any) -> None:
        try:
            create(name, **fields)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _how_to_use(about: RegisteredModel, made: Made) -> str:
    """Description of a model version, in Markdown."""
    command = about.use.format(checkpoint=shlex.quote(str(made.path))).replace("\n", "\n    ")
    return (
        f"{about.what} Stage `{made.stage}`.\n\n"
        f"The weights stay where the pipeline put them:\n\n    {made.path}\n\n"
        f"Use them:\n\n    {command}\n\n"
        f"What they were made from: `{made.record}`, digest `{made.digest}`."
    )
