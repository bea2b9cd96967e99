"""What axe says of a page in a browser."""

from __future__ import annotations

from typing import Any

import pytest


def serious_violations(page: Any) -> list[tuple[str, str]]:
    """Rule and element of what axe calls serious or critical; the test is skipped where axe is not installed.

    The page's context bypasses its content security policy, which lets no script run but its own, and axe is one.
    """
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed (extra dev)")
    found = axe.Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
