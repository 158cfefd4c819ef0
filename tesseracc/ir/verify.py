"""What holds for every module of every level: definitions, arities, attribute kinds, types, dominance.

The verifier is run between passes under `--verify-each`, on everything parsed, and in tests.
"""

from __future__ import annotations

from typing import NoReturn

from tessera.shapes import Expr
from tessera_runtime.core.errors import TesseraError
from tesseracc.ir.printer import op_text
from tesseracc.ir.value import Attr, Func, Module, Op, Region, Value


def _fail(op: Op, func: Func, message: str) -> NoReturn:
    where = f" ({op.loc.file}:{op.loc.line})" if op.loc else ""
    raise TesseraError("E404", f"@{func.name}{where}: {message}\n    {op_text(op)}")


def _kind_ok(value: Attr, kinds: tuple[str, ...]) -> bool:
    for kind in kinds:
        match kind:
            case "bool" if isinstance(value, bool):
                return True
            case "int" if isinstance(value, int) and not isinstance(value, bool):
                return True
            case "float" if isinstance(value, float):
                return True
            case "str" if isinstance(value, str):
                return True
            case "dim" if isinstance(value, Expr) or (isinstance(value, int) and not isinstance(value, bool)):
                return True
            case "tuple" if isinstance(value, tuple):
                return True
            case "any":
                return True
    return False


def _check_alone(op: Op, func: Func) -> None:
    """What follows from an operation and the types of its operands."""
    defn = op.defn
    if sum(op.segments) != len(op.operands) or len(op.segments) != len(defn.operands):
        _fail(op, func, "operand segments do not add up")
    for spec, count in zip(defn.operands, op.segments, strict=True):
        if (spec.arity == "1" and count != 1) or (spec.arity == "?" and count > 1):
            _fail(op, func, f"operand `{spec.name}` is given {count} times")
    for key, attr in defn.attrs.items():
        if key not in op.attrs:
            if attr.required:
                _fail(op, func, f"attribute `{key}` is missing")
        elif not (op.attrs[key] is None and not attr.required) and not _kind_ok(op.attrs[key], attr.kinds):
            _fail(op, func, f"attribute `{key}` is {op.attrs[key]!r}, expected {' or '.join(attr.kinds)}")
    for key in op.attrs:
        if key not in defn.attrs:
            _fail(op, func, f"unknown attribute `{key}`")
    if len(op.regions) != defn.regions:
        _fail(op, func, f"has {len(op.regions)} regions, expected {defn.regions}")
    if defn.infer is not None:
        try:
            expected = defn.infer(op.operands, op.attrs)
        except TesseraError as error:
            _fail(op, func, error.message)
        if tuple(r.type for r in op.results) != tuple(expected):
            _fail(op, func, f"results should have types {', '.join(map(str, expected))}")


class _Check:
    """One function. Operations are immutable: those in `known` were found right on their own before."""

    def __init__(self, func: Func, allowed: frozenset[str], known: set[Op]) -> None:
        self.func, self.allowed, self.known = func, allowed, known

    def region(self, region: Region, scope: set[Value]) -> None:
        """`scope` holds the values defined around the region, afterwards too."""
        func, known = self.func, self.known
        fresh = [arg for arg in region.args if arg not in scope]
        scope.update(fresh)
        for op in region.ops:
            defn = op.defn
            if defn.dialect not in self.allowed:
                _fail(op, func, f"`{op.name}` does not belong in a {func.kind}")
            for value in op.operands:
                if value not in scope:
                    _fail(op, func, f"operand {value!r} is not defined before its use")
            seen = op in known
            if not seen:
                _check_alone(op, func)
            for inner in op.regions:
                self.region(inner, set() if defn.closed else scope)
            if not seen:
                problem = defn.verify(op) if defn.verify is not None else None
                if problem:
                    _fail(op, func, problem)
                known.add(op)
            for result in op.results:
                if result in scope:
                    _fail(op, func, "defines a value twice")
                scope.add(result)
                fresh.append(result)
        for value in region.yields:
            if value not in scope:
                raise TesseraError("E404", f"@{func.name}: yields {value!r}, which is not defined there")
        scope.difference_update(fresh)


#: dialects that may appear in a function of each kind
LEVELS: dict[str, frozenset[str]] = {
    "graph.func": frozenset({"graph"}),
    "schedule.func": frozenset({"schedule", "arith"}),
    "tile.kernel": frozenset({"tile", "arith", "scf"}),
    "tile.program": frozenset({"tile"}),
    "target.func": frozenset({"target", "arith", "scf"}),
}


def verify_func(func: Func, known: set[Op] | None = None) -> None:
    """Raises E404 with the operation that is wrong."""
    allowed = LEVELS.get(func.kind)
    if allowed is None:
        raise TesseraError("E404", f"@{func.name}: unknown kind of function `{func.kind}`")
    _Check(func, allowed, set() if known is None else known).region(func.body, set())


def verify(module: Module, known: set[Op] | None = None) -> Module:
    """Checks every function; returns the module, so that it can stand in a chain. `known` are operations that need no
    check on their own, for they passed an earlier one; those that are right join them."""
    names: set[str] = set()
    for func in module.funcs:
        if func.name in names:
            raise TesseraError("E404", f"two functions are named @{func.name}")
        names.add(func.name)
        verify_func(func, known)
    return module
