"""Prompt files: three formats, mistakes with file and line, names that are good everywhere, seeds that stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.prompt_files import PromptFileError, PromptRow, read_prompts

HEADER = "prompt,seed,size,frames,source,motion,negative_prompt,output\n"


def _read(folder: Path, name: str, text: str | bytes) -> list[PromptRow]:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_prompts(path)


def test_three_formats_say_the_same(tmp_path: Path) -> None:
    asked = {
        "prompt": 'A fox, "red".',
        "seed": 7,
        "size": "64x32",
        "frames": 8,
        "source": "web",
        "motion": 2.5,
        "negative_prompt": "blur",
        "output": "fox 1",
    }
    cells = ['"A fox, ""red""."', "7", "64x32", "8", "web", "2.5", "blur", "fox 1"]
    [row] = _read(tmp_path, "a.csv", "\ufeff" + HEADER + ",".join(cells) + "\r\n")
    assert row == PromptRow(2, 'A fox, "red".', "fox 1.mp4", 7, (64, 32), 8, "web", 2.5, "blur")
    [same] = _read(tmp_path, "a.jsonl", "\n" + json.dumps(asked))
    assert same == row
    [bare] = _read(tmp_path, "b.csv", 'prompt,seed\n"A fox,\n""red"".",\n')
    lines = _read(tmp_path, "a.txt", "A fox.\r\n\r\n  a fox [bold]$(rm -rf /)\x1b[31m \nA fox.")
    assert bare.prompt == 'A fox,\n"red".'
    assert [(one.line, one.prompt) for one in lines] == [
        (1, "A fox."),
        (3, "a fox [bold]$(rm -rf /)\x1b[31m"),
        (4, "A fox."),
    ]


def test_a_row_keeps_its_seed_and_name_wherever_it_stands(tmp_path: Path) -> None:
    first, second, again = _read(tmp_path, "a.txt", "A fox.\nEin Fuchs läuft.\nA fox.")
    moved, *_ = _read(tmp_path, "b.txt", "Ein Fuchs läuft.\nSomething new.")
    assert (second.seed_of(3), second.file) == (moved.seed_of(3), moved.file)
    assert second.file.startswith("ein-fuchs-lauft-")
    assert len({row.seed_of(seed) for row in (first, second, again) for seed in (3, 4)}) == 6
    assert first.file != again.file
    [large, small] = _read(tmp_path, "c.csv", "prompt,seed,size\nA fox.,5,64x64\nA fox.,5,32x32\n")
    assert (large.seed_of(3), small.seed_of(9)) == (5, 5)
    assert large.file != small.file
    [other] = _read(tmp_path, "d.txt", "雪の中の狐")
    assert other.file.isascii()
    assert other.file.startswith("clip-")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.yaml", "x", "expected a file of prompts that ends in .txt, .csv, .jsonl"),
        ("a.txt", " \n\n", "holds no prompt"),
        ("a.txt", b"\xff\xfe", "is not UTF-8 (byte 0)"),
        ("a.csv", "caption,seed\nx,1\n", "line 1: unknown column 'caption'; there are prompt, seed, size,"),
        ("a.csv", "prompt,sed\nx,1\n", "line 1: unknown column 'sed'; did you mean seed?"),
        ("a.csv", "prompt,Negative Prompt\nx,1\n", "did you mean negative_prompt?"),
        ("a.csv", "seed\n1\n", "line 1: no column prompt"),
        ("a.csv", "prompt,prompt\nx,y\n", "line 1: column prompt is there twice"),
        ("a.csv", 'prompt,seed\n"two\nlines",1\nA fox, red,1\n', "line 4: 3 values for 2 columns"),
        ("a.csv", 'prompt\n"open\n', "no CSV: "),
        ("a.csv", "prompt,seed\nx,1\n ,2\n", "line 3: the prompt is empty"),
        ("a.csv", "prompt,seed\nx,-1\n", "line 2: seed should be a whole number from 0 to"),
        ("a.csv", "prompt,seed\nx,1.5\n", "seed should be a whole number"),
        ("a.csv", "prompt,frames\nx,0\n", "frames should be a whole number from 1 to"),
        ("a.csv", "prompt,size\nx,64\n", "size '64': expected WIDTHxHEIGHT in pixels, such as 672x384"),
        ("a.csv", "prompt,motion\nx,nan\n", "motion should be a score from 0 on, such as 6, got 'nan'"),
        ("a.csv", "prompt,motion\nx,fast\n", "motion should be a score from 0 on"),
        ("a.jsonl", '{"prompt": "x"}\n{"prompt": "x"', "line 2: no JSON"),
        ("a.jsonl", '["x"]', "line 1: expected an object such as"),
        ("a.jsonl", '{"prompt": "x", "prompt": "y"}', "line 1: no JSON: a name stands twice in it"),
        ("a.jsonl", '{"prompt": 7}', "line 1: prompt should be a text, got 7"),
        ("a.jsonl", '{"prompt": "x", "seed": true}', "seed should be a whole number"),
        ("a.jsonl", '{"prompt": "x", "steps": 4}', "line 1: unknown column 'steps'"),
        ("a.jsonl", '{"prompt": "\\ud800"}', "prompt holds half a character"),
        ("a.jsonl", '{"prompt": "x"}\n' + "[" * 100_000, "line 2: no JSON"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path: Path, name: str, text: str | bytes, message: str) -> None:
    with pytest.raises(PromptFileError) as caught:
        _read(tmp_path, name, text)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("../fox", "is a path: give a name"),
        ("/etc/fox.mp4", "is a path"),
        ("a\\fox", "is a path"),
        ("..", "begins with . or -"),
        (".fox", "begins with . or -"),
        ("-rf", "begins with . or -"),
        ("fox.", "ends with . or a space"),
        ("fox .mp4", "ends with . or a space"),
        ("what?", "has '?', which not every system takes"),
        ("a:b", "has ':'"),
        ("fox\u202e", "has '\\u202e'"),
        ("fox\0", "has '\\x00'"),
        ("CON", "is the name of a device"),
        ("com1.a.mp4", "is the name of a device"),
        ("f" * 300, "has over 230 bytes"),
        ("ä" * 116, "has over 230 bytes"),
    ],
)
def test_names_are_good_on_every_system(tmp_path: Path, output: str, message: str) -> None:
    with pytest.raises(PromptFileError, match="line 1: output ") as caught:
        _read(tmp_path, "a.jsonl", json.dumps({"prompt": "x", "output": output}))
    assert message in str(caught.value)


@pytest.mark.parametrize("other", ["fox", "Fox.mp4", "FOX.MP4"])
def test_names_that_one_system_takes_for_the_same_are_refused(tmp_path: Path, other: str) -> None:
    rows = [{"prompt": "x", "output": "fox"}, {"prompt": "y", "output": other}]
    with pytest.raises(PromptFileError, match=r"line 2: output .* is that of line 1 too"):
        _read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))


def test_composed_and_decomposed_letters_are_the_same_name(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match="is that of line 2 too"):
        _read(tmp_path, "a.csv", "prompt,output\nx,f\u00fcchse\ny,fu\u0308chse\n")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match="is no file: give one with a prompt on each line"):
        read_prompts(tmp_path / "none.txt")
