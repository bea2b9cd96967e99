"""Code identity: a digest per first-party module and data file that a stage reaches, found without importing any.

The digest is of the syntax tree, walked field by field with absent values left out, which gives the same text on
Python 3.11 to 3.13 (`ast.dump` and `ast.unparse` do not). Comments, layout and docstrings do not count.

A module reaches what it imports, what it names in a text (`python -m curation.decoding_child`), and the data files
beside it that it names in a text (`page.html.j2`); those count by their bytes. What static reading cannot see, such as
modules imported by computed names, needs `Stage.operator` or `Stage.version`.

A module that says `IN_NO_DIGEST = True` at its top level makes only what no stage's digest covers, such as plots: it
and what it alone imports are left out, so that another colour trains nothing again.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.errors import PipelineError

NO_DIGEST = "IN_NO_DIGEST"
"""The name by which a module leaves itself out."""
_IGNORED_FIELDS = {"type_comment", "kind", "type_ignores"}
_BLOCKS = ("body", "orelse", "handlers", "finalbody", "cases")
"""Fields of a statement that hold statements, or clauses that do."""
_DIGEST_CHARS = 32
_LONGEST_NAME = 100


def first_party() -> dict[str, Path]:
    """Package name -> directory of the packages whose code identifies a stage.

    `pipelines` is none of them: how stages are wired, stored and shown does not change what they compute.
    """
    home = Path(__file__).resolve().parents[2]
    return {name: home / name for name in ("lumina", "curation", "jobs")}


@dataclass(frozen=True)
class _Module:
    digests: Mapping[str, str]
    """Of the module itself, and of the data files that it names."""
    imports: frozenset[str]


@dataclass
class CodeIndex:
    """Digests and imports of first-party modules, each file read once.

    Args:
        roots: package name -> directory of the package.
    """

    roots: Mapping[str, Path] = field(default_factory=first_party)
    _modules: dict[str, _Module | None] = field(default_factory=dict)
    _closures: dict[tuple[str, ...], dict[str, str]] = field(default_factory=dict)

    def closure(self, modules: Iterable[str]) -> dict[str, str]:
        """Digests of `modules` and all that they reach, sorted by name: module names, and paths of data files.

        Raises:
            PipelineError: one of `modules` is no first-party module, or a file does not parse.
        """
        wanted = tuple(modules)
        if wanted not in self._closures:
            self._closures[wanted] = self._reach(wanted)
        return dict(self._closures[wanted])

    def _reach(self, modules: Iterable[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        seen: set[str] = set()
        queue: list[str] = []
        for name in modules:
            if self._module(name) is None:
                raise PipelineError(
                    f"module {name!r} is not among the first-party packages ({', '.join(self.roots)}): its code cannot "
                    "be identified; check the stage's entry and operator"
                )
            queue += _with_parents(name)
        while queue:
            name = queue.pop()
            if name in seen:
                continue
            seen.add(name)
            module = self._module(name)
            if module is not None:
                found |= module.digests
                queue += module.imports
        return dict(sorted(found.items()))

    def _module(self, name: str) -> _Module | None:
        if name not in self._modules:
            path = self._path(name)
            self._modules[name] = None if path is None else self._read(name, path)
        return self._modules[name]

    def _path(self, name: str) -> Path | None:
        package, _, rest = name.partition(".")
        if package not in self.roots:
            return None
        base = self.roots[package].joinpath(*rest.split(".")) if rest else self.roots[package]
        for candidate in (base / "__init__.py", base.with_suffix(".py")):
            if candidate.is_file():
                return candidate
        return None

    def _read(self, name: str, path: Path) -> _Module:
        try:
            tree = ast.parse(path.read_bytes(), filename=str(path))
        except (SyntaxError, ValueError) as error:
            raise PipelineError(f"{path}: does not parse: {error}") from error
        if _is_in_no_digest(tree):
            return _Module({}, frozenset())
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        texts = _texts(tree)
        targets = {
            *_imports(tree.body, package),
            *(text.partition(":")[0] for text in texts if self._names_module(text)),
        }
        digests = {name: syntax_digest(tree)}
        folder = package.replace(".", "/")
        for text in sorted(texts):
            if _may_be_file(text) and (path.parent / text).is_file():
                content = (path.parent / text).read_bytes()
                digests[f"{folder}/{text}"] = hashlib.sha256(content).hexdigest()[:_DIGEST_CHARS]
        return _Module(digests, frozenset(parent for target in targets for parent in _with_parents(target)))

    def _names_module(self, text: str) -> bool:
        """Whether a text is `package.module`, or `package.module:name`, of ours."""
        module = text.partition(":")[0]
        return "." in module and all(part.isidentifier() for part in module.split(".")) and bool(self._path(module))


def syntax_digest(tree: ast.AST) -> str:
    """First 32 hex digits of the SHA-256 of the normalised tree."""
    parts: list[str] = []
    _add_canonical(tree, parts)
    return hashlib.sha256("".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]


def _add_canonical(value: object, parts: list[str]) -> None:
    # No generator: each text of a deep tree would pass through all those above it, and every plan waits for this.
    if isinstance(value, ast.AST):
        parts.append(f"({type(value).__name__}")
        for name in sorted(value._fields):
            child = getattr(value, name, None)
            if name in _IGNORED_FIELDS:
                continue
            if isinstance(child, list):
                # Python 3.12 leaves empty texts in the format of an f-string.
                child = [item for item in child if not _is_docstring(item) and not _is_empty_part(value, item)]
            # Fields that a newer Python added are empty in older code, so empty ones are left out.
            if child is None and not (name == "value" and isinstance(value, ast.Constant)):
                continue
            if child == []:
                continue
            parts.append(f" {name}=")
            _add_canonical(child, parts)
        parts.append(")")
    elif isinstance(value, list):
        parts.append("[")
        for item in value:
            _add_canonical(item, parts)
            parts.append(",")
        parts.append("]")
    else:
        # Which characters `repr` writes as they are depends on the Unicode version of the Python.
        parts.append(f"{type(value).__name__}:{value!a}")


def _is_docstring(node: object) -> bool:
    """Whether the statement is a bare string: a docstring of a module, class, function or field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _is_in_no_digest(tree: ast.Module) -> bool:
    return any(
        isinstance(statement, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == NO_DIGEST for target in statement.targets)
        and isinstance(statement.value, ast.Constant)
        and statement.value.value is True
        for statement in tree.body
    )


def _texts(tree: ast.AST) -> set[str]:
    """The string constants of the code, docstrings left out."""
    found, waiting = set[str](), [tree]
    while waiting:
        for child in ast.iter_child_nodes(waiting.pop()):
            if isinstance(child, ast.Constant):
                if isinstance(child.value, str):
                    found.add(child.value)
            elif not _is_docstring(child):
                waiting.append(child)
    return found


def _may_be_file(text: str) -> bool:
    """Whether a text may be the relative path of a data file: `page.html.j2`, `templates/page.css`."""
    parts = text.split("/")
    return (
        len(text) < _LONGEST_NAME
        and "." in parts[-1].strip(".")
        and text.isprintable()
        and not text.endswith(".py")
        and not {"", ".", ".."} & set(parts)
    )


def _is_empty_part(node: ast.AST, part: object) -> bool:
    return isinstance(node, ast.JoinedStr) and isinstance(part, ast.Constant) and part.value == ""


def _imports(statements: Iterable[ast.AST], package: str) -> Iterator[str]:
    """Dotted names that the code may import, wherever the statement stands, but not for type checkers only."""
    for one in statements:
        if isinstance(one, ast.Import):
            yield from (alias.name for alias in one.names)
        elif isinstance(one, ast.ImportFrom):
            base = one.module or ""
            if one.level:
                parts = package.split(".")
                parts = parts[: len(parts) - one.level + 1]
                base = ".".join([*parts, base] if base else parts)
            yield base
            # `from package import module` looks the same as `from module import name`: offer both.
            yield from (f"{base}.{alias.name}" for alias in one.names if alias.name != "*")
        else:
            typing_only = isinstance(one, ast.If) and _is_type_checking(one.test)
            for name in ("orelse",) if typing_only else _BLOCKS:
                yield from _imports(getattr(one, name, ()), package)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _with_parents(name: str) -> list[str]:
    """`a.b.c` -> `a`, `a.b`, `a.b.c`: importing a module runs every package above it."""
    parts = name.split(".")
    return [".".join(parts[: index + 1]) for index in range(len(parts))]
