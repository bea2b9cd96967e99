"""Bundle of Python code: one file that holds a class and what it needs of our own modules, for people without them.

A statement of a module is taken whole, with its comments, if something that is taken names it; other libraries stay
imports. Annotations of functions are not followed, since they are never evaluated.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

OURS = "lumina"


@dataclass(frozen=True, eq=False)
class _Statement:
    text: str
    """With the comments above it, and the docstring below."""
    defines: frozenset[str]
    uses: frozenset[str]
    """Names that must be there when it runs."""
    mentions: frozenset[str]
    """Those, and the names of annotations."""


@dataclass(frozen=True, eq=False)
class _Module:
    name: str
    statements: tuple[_Statement, ...]
    ours: dict[str, str]
    """Name in the module to the module of ours that it is from."""
    others: dict[str, str]
    """Name in the module to the statement that imports it from elsewhere."""


def bundle(module: str, name: str) -> str:
    """The source of one file that defines `name` of `module`, the same bytes for the same sources.

    Raises ValueError if two things that it needs have one name, or are imported in a way that one file cannot hold.
    """
    wanted: dict[str, set[int]] = {}
    imports: set[str] = set()
    owners: dict[str, str] = {}
    _take(module, name, wanted, imports, owners)
    parts = []
    for one in _sorted(module, wanted, []):
        statements = _read(one).statements
        text = "\n\n\n".join(statements[number].text for number in sorted(wanted[one]))
        parts.append(f"# {'-' * 20} {one}\n\n{text}")
    head = (
        f'"""{name}: a part of lumina-video in one file, put together of its modules. Edit them, not this file."""\n\n'
        "from __future__ import annotations\n\n"
    )
    return head + "\n".join(sorted(imports)) + "\n\n\n" + "\n\n\n".join(parts) + "\n"


def _take(module: str, name: str, wanted: dict[str, set[int]], imports: set[str], owners: dict[str, str]) -> None:
    """Take what defines `name`, after all that it needs."""
    found = _read(module)
    numbers = [number for number, one in enumerate(found.statements) if name in one.defines]
    if not numbers:
        raise ValueError(f"{module} defines no {name}: import it from where it is defined")
    taken = wanted.setdefault(module, set())
    for number in numbers:
        if number in taken:
            continue
        taken.add(number)
        statement = found.statements[number]
        for defined in statement.defines:
            if owners.setdefault(defined, module) != module:
                raise ValueError(f"{defined} is defined by {owners[defined]} and by {module}: rename one of them")
        for used in sorted(statement.uses):
            if used in found.ours:
                _take(found.ours[used], used, wanted, imports, owners)
            elif any(used in one.defines for one in found.statements):
                _take(module, used, wanted, imports, owners)
        imports.update(found.others[used] for used in statement.mentions if used in found.others)


def _sorted(module: str, wanted: dict[str, set[int]], done: list[str]) -> list[str]:
    """The modules of which something is taken, each behind those that it needs."""
    found = _read(module)
    used = {name for number in wanted[module] for name in found.statements[number].uses}
    for source in sorted({found.ours[name] for name in used if name in found.ours}):
        if source not in done:
            _sorted(source, wanted, done)
    done.append(module)
    return done


@cache
def _read(name: str) -> _Module:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ValueError(f"there is no module {name}")
    source = Path(spec.origin).read_text(encoding="utf-8")
    lines = source.splitlines()
    ours: dict[str, str] = {}
    others: dict[str, str] = {}
    statements: list[_Statement] = []
    body = ast.parse(source).body
    for number, node in enumerate(body):
        if isinstance(node, ast.ImportFrom | ast.Import):
            _import(name, node, ours, others)
        elif isinstance(node, ast.Expr) or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            continue
        else:
            after = body[number + 1] if number + 1 < len(body) else None
            statements.append(_statement(name, node, after if _is_text(after) else None, lines))
    return _Module(name, tuple(statements), ours, others)


def _import(module: str, node: ast.ImportFrom | ast.Import, ours: dict[str, str], others: dict[str, str]) -> None:
    source = node.module or "" if isinstance(node, ast.ImportFrom) else ""
    if source == "__future__":
        return
    for alias in node.names:
        name = alias.asname or alias.name.partition(".")[0]
        if isinstance(node, ast.ImportFrom):
            if source.partition(".")[0] == OURS:
                if alias.asname not in (None, alias.name):
                    raise ValueError(f"{module} imports {alias.name} of {source} as {alias.asname}: use its own name")
                ours[name] = source
                continue
            others[name] = f"from {source} import {ast.unparse(alias)}"
        else:
            others[name] = f"import {ast.unparse(alias)}"


def _statement(module: str, node: ast.stmt, docstring: ast.stmt | None, lines: list[str]) -> _Statement:
    first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))]) - 1
    while first and lines[first - 1].startswith("#"):
        first -= 1
    last = (docstring or node).end_lineno
    for inner in ast.walk(node):
        if isinstance(inner, ast.ImportFrom) and (inner.module or "").partition(".")[0] == OURS:
            raise ValueError(f"{module}, line {inner.lineno}: an import inside a function: one file cannot hold it")
    ignored = {id(inner) for annotation in _annotations(node) for inner in ast.walk(annotation)}
    names = [inner for inner in ast.walk(node) if isinstance(inner, ast.Name)]
    return _Statement(
        "\n".join(lines[first:last]),
        frozenset(_defined(node)),
        frozenset(one.id for one in names if id(one) not in ignored),
        frozenset(one.id for one in names),
    )


def _annotations(node: ast.stmt) -> Iterator[ast.expr]:
    """Those of the functions in it, and of what is assigned in there."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef):
            yield from filter(None, [inner.returns])
            yield from (one.annotation for one in ast.walk(inner) if isinstance(one, ast.AnnAssign))
        elif isinstance(inner, ast.arg):
            yield from filter(None, [inner.annotation])


def _defined(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    else:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in filter(None, targets):
            yield from (inner.id for inner in ast.walk(target) if isinstance(inner, ast.Name))


def _is_text(node: ast.stmt | None) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
