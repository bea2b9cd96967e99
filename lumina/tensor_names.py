"""Names of tensors: prefixes that wrappers of a network leave in a file, and one line about what does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from functools import reduce

_INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What `torch.compile`, FSDP and activation checkpointing put before the names of whatever part they wrap."""
_WRAPPERS = ("module.", "model.", "diffusion_model.")
"""Of DistributedDataParallel, DeepSpeed, Lightning and ComfyUI."""
_SHOWN = 3


def unwrapped(wanted: Collection[str], names: Collection[str]) -> dict[str, str]:
    """Each name, and what it is without the prefixes of wrappers, where these are on all names and nothing is lost.

    `wanted` are the names of the network: a prefix that one of them has is no wrapper's.
    """
    found = {name: reduce(lambda plain, mark: plain.replace(mark, ""), _INSIDE, name) for name in names}
    wrappers = [prefix for prefix in _WRAPPERS if not any(name.startswith(prefix) for name in wanted)]
    while found and (common := [p for p in wrappers if all(name.startswith(p) for name in found.values())]):
        found = {name: plain.removeprefix(common[0]) for name, plain in found.items()}
    return found if len(set(found.values())) == len(found) else {name: name for name in names}


def misfit(
    place: str,
    network: str,
    wanted: Collection[str],
    *,
    missing: Sequence[str] = (),
    unexpected: Sequence[str] = (),
    misshapen: Sequence[str] = (),
) -> str:
    """One line about the tensors in `place` that are not those of `network`; empty if all are.

    Args:
        place: file or directory.
        network: whose they should be.
        wanted: names that the network has.
        missing, unexpected, misshapen: names, which may be followed by a space and more about the tensor.
    """
    problems = [
        *(f"{name}: missing" for name in missing[:_SHOWN]),
        *(f"{name}: unexpected" for name in unexpected[:_SHOWN]),
        *misshapen[:_SHOWN],
    ]
    if not problems:
        return ""
    named = _prefixes([name.partition(" ")[0] for name in unexpected], frozenset(wanted))
    prefixes = Counter(named.values())
    if prefixes.total() * 2 > len(unexpected):
        (first, count), *others = prefixes.most_common(_SHOWN)
        amount = f"all {count}" if count == len(unexpected) else f"{count} of {len(unexpected)} unexpected"
        told = ", ".join([f"{amount} names begin with {first!r}", *(f"{more} with {one!r}" for one, more in others)])
        name = next(iter(named))
        return (
            f"{place} does not fit {network}: {told}, which the network's do not; write the file without, e.g. {name} "
            f"as {name.removeprefix(named[name])}"
        )
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    counts = ", ".join(f"{len(names)} {kind}" for kind, names in kinds.items() if names)
    total = sum(map(len, kinds.values()))
    return (
        f"{place} does not fit {network}, {total} tensors ({counts}; the network has {len(wanted)}): "
        f"{'; '.join(problems)}{'; ...' if total > len(problems) else ''}"
    )


def _prefixes(names: Sequence[str], wanted: frozenset[str]) -> dict[str, str]:
    """What stands before the name of a tensor that is wanted, by name, where that is so."""
    found = {}
    for name in names:
        at = name.find(".") + 1
        while at and name[at:] not in wanted:
            at = name.find(".", at) + 1
        if at:
            found[name] = name[:at]
    return found
