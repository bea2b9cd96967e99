"""Names of tensors in files: prefixes of wrappers go, and what does not fit is told in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lumina.checkpoints import load_model, save_model
from lumina.models.autoencoder import VideoAutoencoder
from lumina.models.config import NextDiTConfig
from lumina.models.text_encoder import TextEncoder
from lumina.models.unimatch import UniMatch
from lumina.released import read_released
from lumina.tensor_names import misfit, unwrapped
from pipelines.base_config import ZOO
from tests.lumina.tiny import TINY, dit_without_zeros

WANTED = [f"layers.{number}.weight" for number in range(20)]


@pytest.mark.parametrize(
    "prefix",
    [
        "module.",
        "_orig_mod.",
        "model.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "model.module.",
        "_fsdp_wrapped_module.",
        "_fsdp_wrapped_module._orig_mod.",
        "model.diffusion_model.",
        "diffusion_model.",
        "",
    ],
)
def test_prefixes_of_wrappers_are_taken_off(prefix: str) -> None:
    assert list(unwrapped(WANTED, [prefix + name for name in WANTED]).values()) == WANTED


def test_nothing_is_taken_off_where_that_is_ambiguous() -> None:
    one_left = ["norm", *(f"module.{name}" for name in WANTED)]
    assert list(unwrapped(WANTED, one_left).values()) == one_left
    twice = [*WANTED, f"_orig_mod.{WANTED[0]}"]
    assert list(unwrapped(WANTED, twice).values()) == twice
    own = ["model.embed", "model.norm"]
    assert list(unwrapped(own, own).values()) == own
    assert unwrapped(WANTED, []) == {}


def test_parts_that_were_compiled_lose_the_prefix_inside() -> None:
    for mark in ("_orig_mod", "_fsdp_wrapped_module", "_fsdp_wrapped_module._checkpoint_wrapped_module"):
        assert unwrapped(WANTED, [f"layers.1.{mark}.weight"]) == {f"layers.1.{mark}.weight": "layers.1.weight"}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (
            [f"transformer.{name}" for name in WANTED],
            ": all 20 names begin with 'transformer.', which the network's do not; write the file without, e.g. "
            "transformer.layers.0.weight as layers.0.weight",
        ),
        (
            [*(f"first.stage.{name}" for name in WANTED[:12]), *(f"ema.{name}" for name in WANTED[12:]), "step"],
            ": 12 of 21 unexpected names begin with 'first.stage.', 8 with 'ema.', which the network's do not; write "
            "the file without, e.g. first.stage.layers.0.weight as layers.0.weight",
        ),
        (
            ["a", "b", "c", "d", "e"],
            ", 25 tensors (20 missing, 5 unexpected; the network has 20): layers.0.weight: missing; "
            "layers.1.weight: missing; layers.2.weight: missing; a: unexpected; b: unexpected; c: unexpected; ...",
        ),
        ([*WANTED, "a"], ", 1 tensors (1 unexpected; the network has 20): a: unexpected"),
        (WANTED[1:], ", 1 tensors (1 missing; the network has 20): layers.0.weight: missing"),
    ],
)
def test_what_does_not_fit_is_one_line(names: list[str], told: str) -> None:
    missing = [name for name in WANTED if name not in names]
    unexpected = [name for name in names if name not in WANTED]
    said = misfit("x.pth", "the network", WANTED, missing=missing, unexpected=unexpected)
    assert said == f"x.pth does not fit the network{told}"


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def without_one(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensors[name] for name in sorted(tensors)[1:]}


def of_another_shape(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, sorted(tensors)[0]: torch.zeros(3)}


def changed(source: Path, folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    shutil.copytree(source, folder)
    [file] = folder.glob("*.safetensors")
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (prefixed("vae."), "names begin with 'vae.', which the network's do not"),
        (prefixed("first_stage_model."), "names begin with 'first_stage_model.', which the network's do not"),
        (without_one, "1 tensors .1 missing; "),
        (of_another_shape, "1 tensors .1 of another shape; "),
    ],
)
@pytest.mark.parametrize(("name", "load"), [("vae", VideoAutoencoder), ("text_encoder", TextEncoder)])
def test_no_part_of_a_network_is_drawn_at_random(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    name: str,
    load: type[VideoAutoencoder] | type[TextEncoder],
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    told: str,
) -> None:
    folder = changed(ZOO / name, tmp_path / "weights", change)
    with pytest.raises(ValueError, match=told) as caught:
        load.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{folder} does not fit ")
    assert len(capfd.readouterr().err.strip().split("\n")) <= 1  # a bar


def test_the_head_of_a_language_model_is_not_missed(tmp_path: Path) -> None:
    def whole(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**prefixed("model.")(tensors), "lm_head.weight": torch.zeros(2, 2)}

    found = TextEncoder.from_pretrained(changed(ZOO / "text_encoder", tmp_path / "weights", whole))
    right = TextEncoder.from_pretrained(ZOO / "text_encoder")
    assert torch.equal(found.encode(["a red circle"])[0], right.encode(["a red circle"])[0])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.diffusion_model."])
def test_weights_of_wrapped_networks_are_read(tmp_path: Path, prefix: str) -> None:
    model = dit_without_zeros(0.1)
    save_model(model, tmp_path / "plain")
    read = load_model(changed(tmp_path / "plain", tmp_path / "ours", prefixed(prefix)))
    assert all(torch.equal(value, read.state_dict()[name]) for name, value in model.state_dict().items())
    flow = UniMatch.from_pretrained(changed(ZOO / "unimatch", tmp_path / "flow", prefixed(prefix)))
    assert all(torch.equal(a, b) for a, b in zip(flow.parameters(), _flow().parameters(), strict=True))
    torch.save(prefixed(prefix)(model.state_dict()), tmp_path / "consolidated.00-of-01.pth")
    assert read_released(tmp_path, TINY).keys() == model.state_dict().keys()


def _flow() -> UniMatch:
    return UniMatch.from_pretrained(ZOO / "unimatch")


def test_another_prefix_or_network_is_one_line(tmp_path: Path) -> None:
    model = dit_without_zeros(0.1)
    count = len(model.state_dict())
    file = tmp_path / "consolidated.00-of-01.safetensors"
    save_file(prefixed("transformer.")(model.state_dict()), file)
    with pytest.raises(ValueError, match=f"all {count} names begin with 'transformer.', which") as caught:
        read_released(tmp_path, TINY)
    assert "\n" not in str(caught.value)
    larger = NextDiTConfig(**{**TINY.model_dump(), "n_layers": TINY.n_layers + 8})
    save_file(dict(model.state_dict()), file)
    with pytest.raises(
        ValueError, match=r"tensors \(\d+ missing; the network has \d+\): .*: missing; \.\.\.$"
    ) as caught:
        read_released(tmp_path, larger)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
