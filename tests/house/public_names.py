"""What the packages export: the names in the `__all__` of fedquit and of the packages in its rooms."""

import ast
import inspect
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import fedquit

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("client", "server", "strategies", "unlearning", "simulations", "fedquit/settings", "fedquit/trackers")
API, INNER = "docs/reference.md", "docs/reference_rooms.md"


def packages() -> dict[str, list[str]]:
    """Return the packages that say what they export, and what that is, in order."""
    found = {"fedquit": list(fedquit.__all__)}
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("__init__.py")):
            if "__all__" in file.read_text(encoding="utf-8"):
                parts = [part for part in file.parent.relative_to(ROOT).parts if part != "fedquit"]
                name = ".".join(["fedquit", *parts])
                found[name] = list(import_module(name).__all__)
    return found


def resolve(path: str) -> Any:
    """Return what a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def documented(page: str) -> list[str]:
    """Return the paths whose documentation a page shows."""
    return re.findall(r"^::: ([\w.]+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)


def doc_of(package: str, name: str) -> str:
    """Return the docstring of an exported name: its own, or the one below the assignment of a constant."""
    found = resolve(f"{package}.{name}")
    if inspect.isclass(found) or inspect.isfunction(found) or hasattr(found, "__wrapped__"):
        text = found.__doc__ or ""
        return "" if text.startswith(f"{found.__name__}(") else text  # what dataclass makes up
    module = ast.parse(Path(import_module(package).__file__ or "").read_text(encoding="utf-8"))
    for node in module.body:
        if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
            return doc_of(node.module or "", name)
    for node, after in zip(module.body, [*module.body[1:], None], strict=True):
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if name in [getattr(target, "id", "") for target in targets]:
            value = after.value if isinstance(after, ast.Expr) else None
            return str(value.value) if isinstance(value, ast.Constant) else ""
    return ""
