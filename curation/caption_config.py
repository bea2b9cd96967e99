"""Config of captioning: which vision-language model is asked, where, for what, and which caption then counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from curation.caption_choice import CaptionChoice, Use
from curation.caption_prompts import TEMPLATE, Language, Style, check_template
from lumina.config import Config
from lumina.precision import Precision, precision_on


class EndpointConfig(Config):
    """A server that speaks OpenAI's `/v1/chat/completions`: vLLM, SGLang, llama.cpp, or a service. All but the model
    is about how it is asked, and is part of no identity: the same model elsewhere is asked nothing again."""

    model: str = Field(min_length=1)
    """Name of the model, as the server has it."""
    url: str | None = None
    """Where it answers, up to and with `/v1`: `http://localhost:8000/v1`."""
    key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """Name of the environment variable that holds the key, on every node. The key itself is written down nowhere."""
    in_flight: int = Field(default=8, ge=1, le=1024)
    """Requests that are under way at once, of all workers together."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Requests of all workers together; None is as many as there can be."""
    timeout_s: float = Field(default=120.0, gt=0, le=3600)
    """Seconds after which a request without an answer is given up, and made again."""
    patience_s: float = Field(default=300.0, ge=0, le=86400)
    """Seconds from its first failure for which a request is made again (429, 5xx, time-outs, refused connections);
    then the stage stops."""
    max_requests: int | None = Field(default=None, ge=0)
    """Requests of the stage at most, repeated ones counted; it then stops in order, and a larger number continues."""
    max_total_tokens: int | None = Field(default=None, ge=0)
    """Tokens of prompts and answers of the stage at most, as the server counts them; what is under way is let end."""

    @field_validator("url")
    @classmethod
    def _plain(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{parts.scheme}://{parts.hostname or ''} is no address such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "the address is written down, so it may hold no key: name its environment variable (key_env)"
            )
        return value.rstrip("/")


class CaptionConfig(Config):
    """Captions by a vision-language model: exactly one of `endpoint` and `model`."""

    endpoint: EndpointConfig | None = None
    """A server that is asked over HTTP."""
    model: str | None = None
    """Or a model of transformers (`AutoModelForImageTextToText`): a directory, or `hf:` and a model of the hub."""
    dtype: Precision = "auto"
    """Type in which `model` runs; `auto` is bfloat16 on GPUs and float32 on CPUs."""
    style: Style = "dense"
    """One sentence (`short`), a paragraph (`dense`), or a line for each event with its times (`per_event`), whose
    sentences together are the caption."""
    language: Language | None = "en"
    """Language that is asked for; an answer in another script is no caption. None asks for none."""
    template: str = TEMPLATE
    """The prompt, with place-holders: {style}, {language}, {caption}, {source}, {media}, {duration_s}."""
    templates: dict[str, str] = Field(default_factory=dict)
    """The prompt for the clips of a source, by its name."""
    samples: int = Field(default=8, ge=1, le=128)
    """Frames that are shown to the model: the middles of so many equal parts of the clip."""
    times_s: tuple[float, ...] | None = Field(default=None, min_length=1, max_length=128)
    """Instead: seconds from the clip's start, ascending; those beyond its end are left out."""
    short_side: int = Field(default=448, ge=32, le=2160)
    """Pixels of the short side of these frames, at most."""
    max_tokens: int = Field(default=512, ge=1)
    """Tokens of an answer at most; one that is cut there is no caption."""
    min_chars: int = Field(default=8, ge=1)
    """A shorter answer is no caption."""
    max_chars: int = Field(default=3000, ge=1)
    """Nor is a longer one."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """Of the endpoint's sampling; 0 takes the likeliest token, as a model of transformers does always."""
    seed: int = 0
    """Of the endpoint's sampling, and of `use: mix`."""
    request: dict[str, Any] = Field(default_factory=dict)
    """Further fields of the endpoint's requests, such as `top_p`; null takes one out:
    `{max_tokens: null, max_completion_tokens: 512}`."""
    use: Use = "new"
    """Which caption trains: the clip's `original`, the `new` one, the `longest` of both, or a `mix`."""
    mix_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the clips that take the new caption under `mix`, drawn by clip id and seed."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.endpoint is None) == (self.model is None):
            raise ValueError("name one of caption.endpoint (a server) and caption.model (a local network)")
        for template in (self.template, *self.templates.values()):
            check_template(template)
        if self.times_s is not None and (list(self.times_s) != sorted(set(self.times_s)) or self.times_s[0] < 0):
            raise ValueError(f"times_s {list(self.times_s)} do not ascend from 0 or later")
        if self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} is larger than max_chars {self.max_chars}")
        if reserved := sorted({"messages", "model", "stream", "n"} & set(self.request)):
            raise ValueError(f"request names {', '.join(reserved)}, which the stage fills in")
        if secret := next(filter(_is_secret, _keys(self.request)), None):
            raise ValueError(
                f"request.{secret} looks like a credential: name its environment variable (endpoint.key_env)"
            )
        return self

    def identity(self, device: str = "cpu") -> CaptionConfig:
        """What captions depend on, on a device: not how the endpoint is asked, where a network lies, what it has no use
        for, or which one trains."""
        endpoint = None if self.endpoint is None else EndpointConfig(model=self.endpoint.model)
        model = None if self.model is None else ""
        dtype = "auto" if self.model is None else precision_on(device, self.dtype)
        of_others = ("use", "mix_share") if endpoint else ("use", "mix_share", "seed", "temperature", "request")
        defaults = {name: getattr(CaptionConfig(model=""), name) for name in of_others}
        return self.model_copy(update={"endpoint": endpoint, "model": model, "dtype": dtype, **defaults})

    def choice(self) -> CaptionChoice:
        """What `select` has to know."""
        return CaptionChoice(use=self.use, mix_share=self.mix_share, seed=self.seed)


def _is_secret(name: str) -> bool:
    return re.search("key|token$|secret|auth|password", name, re.I) is not None


def _keys(value: object) -> Iterator[str]:
    """Names of all fields, those inside of others with theirs before: `extra_body.api_key`."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield str(name)
            yield from (f"{name}.{inner}" for inner in _keys(one))
    elif isinstance(value, list | tuple):
        yield from (inner for one in value for inner in _keys(one))
