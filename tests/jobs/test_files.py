from __future__ import annotations

import os
from pathlib import Path

from jobs.files import files_digest


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_digest_is_of_names_and_contents_alone(tmp_path: Path) -> None:
    files = {"b/2.txt": "two", "a.txt": "one", "b/1.txt": "three"}
    one = _tree(tmp_path / "one", files)
    two = _tree(tmp_path / "two", dict(reversed(files.items())))
    (two / "empty").mkdir()
    os.utime(two / "a.txt", (1, 1))
    (two / "a.txt").chmod(0o600)
    assert files_digest(one) == files_digest(two)
    found = {files_digest(one)}
    for number, change in enumerate(({"a.txt": "One"}, {"c.txt": ""}, {"b/1.txt": "two", "b/2.txt": "three"})):
        found.add(files_digest(_tree(tmp_path / f"changed-{number}", files | change)))
    assert len(found) == 4
