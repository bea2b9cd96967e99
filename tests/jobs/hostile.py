"""Curation operators whose decoding child is `tests.curation.hostile_child`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from curation import decode, latents, motion_scores
from curation.decoder import Decoder
from curation.operator import Env, Operator

_COMMAND = (sys.executable, "-m", "tests.curation.hostile_child")


def _hostile(operator: Operator, module: Any) -> Operator:
    make = operator.map
    assert make is not None

    def make_hostile(config: Any, env: Env) -> Callable[..., Any]:
        module.Decoder = partial(Decoder, command=_COMMAND)
        try:
            return make(config, env)
        finally:
            module.Decoder = Decoder

    return replace(operator, map=make_hostile)


PROBE = _hostile(decode.PROBE_OPERATOR, decode)
MOTION = _hostile(motion_scores.MOTION_OPERATOR, motion_scores)
LATENTS = _hostile(latents.ENCODE_LATENTS_OPERATOR, latents)
