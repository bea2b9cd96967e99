"""Weights are read from their folder, and from nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.checkpoints import CONFIG_FILE, INDEX_FILE, load_weights
from lumina.links import first_that_leads_out
from lumina.pretrained import locate
from pipelines.engine.fingerprint import locate_weights
from pipelines.errors import PipelineError
from tests.lumina.test_checkpoints import TINY


def test_a_folder_of_weights_with_a_link_to_elsewhere_is_refused_by_name(tmp_path: Path) -> None:
    encoder = tmp_path / "encoder"
    (encoder / "sub").mkdir(parents=True)
    (encoder / "config.json").write_text("{}")
    (encoder / "sub" / "config.json").symlink_to("../config.json")
    assert first_that_leads_out(encoder) is None
    (tmp_path / "credentials").write_text("marked-7731")
    (encoder / "merges.txt").symlink_to("../credentials")
    said = f"{encoder / 'merges.txt'} is a link that leads out of the folder: put a copy in its place"
    with pytest.raises(ValueError, match="leads out") as caught:
        locate(encoder, "a text encoder", ("config.json",))
    assert str(caught.value) == said
    with pytest.raises(PipelineError, match="leads out") as refused:
        locate_weights(str(encoder), "weights.text_encoder")
    assert str(refused.value) == f"weights.text_encoder: {said}"
    # The folder itself is what was named, wherever it lies.
    (encoder / "merges.txt").unlink()
    (tmp_path / "linked").symlink_to(encoder)
    assert first_that_leads_out(tmp_path / "linked") is None


def test_the_cache_of_a_hub_is_no_elsewhere(tmp_path: Path) -> None:
    vae = tmp_path / "models--x" / "snapshots" / "1a" / "vae"
    vae.mkdir(parents=True)
    (tmp_path / "models--x" / "blobs").mkdir()
    (tmp_path / "models--x" / "blobs" / "aa11").write_text("{}")
    (vae / "config.json").symlink_to("../../../blobs/aa11")
    assert first_that_leads_out(vae) is None
    assert locate(vae, "a VAE", ("config.json",)).folder == vae


def test_an_index_names_no_file_of_another_folder(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text(TINY.model_dump_json())
    (tmp_path / INDEX_FILE).write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(ValueError, match=r"'\.\./secret\.safetensors' is no safetensors file beside it"):
        load_weights(tmp_path)
