"""The model card: figures, texts and identities; text from outside is shown, and is nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from lumina.diffusers_export.model_card import Origin, escaped, write_card
from lumina.evaluation.selection import Ranked, Selection
from lumina.generation_config import GenerationConfig
from lumina.parts import write_references
from lumina.system_prompts import SystemPrompt

HOSTILE = "a|b\n---\nlicense: mit\n# <script>x</script> [c](http://d) `e` &lt; ![f](g)\x1b[31m"


def test_all_that_is_known_is_told(tmp_path: Path) -> None:
    figure = {"value": 0.71234, "low": 0.65, "high": 0.77}
    unbounded = {"value": 0.5, "low": None, "high": None}
    table = (
        Ranked("web", figure, {"offline/colour": figure, "offline/shape": unbounded}, True, None),
        Ranked("film", unbounded, {"offline/colour": unbounded}, False, figure),
    )
    chosen = Selection("web", ("web",), reason="Best by far.", prompts=20, samples=2, table=table)
    origin = Origin("export", "f" * 64, {"finetune": "sha256:1"}, {"web": 12345, "film": 6}, chosen)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "LICENSE").write_text("...")
    write_card(tmp_path, [SystemPrompt("web", "Web clips.")], GenerationConfig(source="web"), origin)
    card = (tmp_path / "README.md").read_text()
    for text in (
        "| web | 12\\,345 |",
        "| web | 0\\.7123 \\[0\\.65\\, 0\\.77\\] | 0\\.7123 \\[0\\.65\\, 0\\.77\\] | 0\\.5 |",
        "| film | 0\\.5 | 0\\.5 |  |",
        "20 prompts, 2 clips of each",
        "Fine-tuned on web. Best by far\\.",
        "| web | Web clips\\. |",
        "f" * 64,
        "sha256\\:1",
        "vae\\/LICENSE",
        "trust_remote_code=True",
        "lumina rerun RUN",
    ):
        assert text in card


def test_where_parts_are_missing_the_commands_fetch_them(tmp_path: Path) -> None:
    write_references(tmp_path, {"vae": "hf:THUDM/CogVideoX-2b/vae@0123", "text_encoder": "hf:google/gemma-2-2b@4567"})
    write_card(tmp_path, [SystemPrompt("web", "Web clips.")], GenerationConfig())
    card = (tmp_path / "README.md").read_text()
    commands = card.partition("```sh\n")[2].partition("```")[0].splitlines()
    assert commands[:2] == [
        "hf download THUDM/CogVideoX-2b --include 'vae/*' --revision 0123",
        "hf download google/gemma-2-2b --revision 4567",
    ]
    assert commands[2].startswith("lumina generate --checkpoint . ")
    assert "DiffusionPipeline" not in card
    assert "library_name" not in card


def test_text_from_outside_is_data(tmp_path: Path) -> None:
    origin = Origin("export", "f", {HOSTILE: HOSTILE}, {HOSTILE: 1}, Selection(HOSTILE, (HOSTILE,), reason=HOSTILE))
    write_card(tmp_path, [SystemPrompt(HOSTILE, HOSTILE)], GenerationConfig(source=HOSTILE), origin)
    card = (tmp_path / "README.md").read_text()
    assert "\x1b" not in card
    assert "\n# \\<" not in card
    for mark in ("<script", "](", "|b", "&lt;", "`e"):
        assert re.search(rf"(?<![\\\\]){re.escape(mark)}", card) is None
    assert "license: mit" not in card
    _, front, _ = card.split("---\n", 2)
    assert set(yaml.safe_load(front)) == {"library_name", "pipeline_tag", "tags"}
    assert escaped("<b> a_b") == r"\<b\> a\_b"
    lines = [line for line in card.splitlines() if "script" in line]
    assert lines
    assert all(r"\<script\>" in line for line in lines)
