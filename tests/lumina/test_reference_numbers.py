"""Today's numbers are those that were stored when they agreed with the released model's."""

from __future__ import annotations

from safetensors.torch import load_file

from tests.lumina import golden, reference_numbers


def test_numbers_are_those_that_agreed_with_the_released_code() -> None:
    stored, computed = load_file(reference_numbers.FILE), reference_numbers.compute()
    assert stored.keys() == computed.keys()
    for name, value in computed.items():
        kind = "flow" if name == "flow" else "grad" if name.startswith("grad") else "fp32"
        golden.assert_close(name, value, stored[name], kind)
