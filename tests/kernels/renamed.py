"""The kernels of tessera.kernels as a user would copy them: the same text with other names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import tessera.kernels as K

#: names of dims, and products of them; two letters are a schedule parameter
DIMS = r"[A-Z](?![A-Z])\w*(\*[A-Z]\w*)*"
SOURCES = sorted(Path(K.__file__).parent.glob("*.py"))


class _Texts(ast.NodeTransformer):
    """Other names for dims where they are spelled as text."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if not isinstance(node.value, str) or not re.fullmatch(DIMS, node.value):
            return node
        return ast.copy_location(ast.Constant(re.sub(r"\w+", lambda found: f"{found[0]}q", node.value)), node)


class _Kernel(_Texts):
    """Other names for one kernel's parameters and dims."""

    def __init__(self, names: set[str], dims: set[str]) -> None:
        self.dims = {dim: f"{dim}q" for dim in dims}
        self.new = {name: f"my_{name}" for name in names} | self.dims

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.copy_location(ast.Name(self.new.get(node.id, node.id), node.ctx), node)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        self.generic_visit(node)
        return ast.copy_location(ast.arg(self.new.get(node.arg, node.arg), node.annotation), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.Attribute:
        """`ctx.D`, a dim by name."""
        self.generic_visit(node)
        of_context = ast.unparse(node.value) in ("ctx", "ts.tile.context()")
        name = self.dims.get(node.attr, node.attr) if of_context else node.attr
        return ast.copy_location(ast.Attribute(node.value, name, node.ctx), node)


class _Family(_Texts):
    """A family's function, with the kernels in it."""

    def __init__(self, dims: set[str], kernels: set[str]) -> None:
        self.dims, self.kernels = dims, kernels

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        if node.name not in self.kernels or not _is_kernel(node):
            self.generic_visit(node)
            return node
        decorators, node.decorator_list = node.decorator_list, []
        renamed: ast.FunctionDef = _Kernel({a.arg for a in node.args.args}, self.dims).visit(node)
        renamed.name, renamed.decorator_list = f"my_{node.name}", decorators
        return renamed

    def visit_Name(self, node: ast.Name) -> ast.Name:
        """What the family returns."""
        return ast.copy_location(ast.Name(f"my_{node.id}" if node.id in self.kernels else node.id, node.ctx), node)


def _is_kernel(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and any("kernel" in ast.unparse(d) for d in node.decorator_list)


def _renamed(node: ast.stmt) -> ast.stmt:
    if not isinstance(node, ast.FunctionDef) or not any(ast.unparse(d) == "family" for d in node.decorator_list):
        return node
    texts = [c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)]
    dims = {name for text in texts if re.fullmatch(DIMS, text) for name in text.split("*")}
    kernels = {inner.name for inner in ast.walk(node) if isinstance(inner, ast.FunctionDef) and _is_kernel(inner)}
    family: ast.FunctionDef = _Family(dims, kernels).visit(node)
    family.name = f"my_{family.name}"
    return family


def copies(folder: Path) -> list[Path]:
    """Writes a copy of every module of the library; its families are called my_<name>."""
    written = []
    for source in SOURCES:
        if source.name not in ("__init__.py", "family.py"):
            tree = ast.parse(source.read_text())
            tree.body = [_renamed(node) for node in tree.body]
            written.append(folder / f"my_{source.name}")
            written[-1].write_text(ast.unparse(ast.fix_missing_locations(tree)) + "\n")
    return written
