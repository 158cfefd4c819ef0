"""Joins the modules of several entries into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tesseracc.ir.rewrite import map_ops
from tesseracc.ir.value import Func, Module, Op

Array = np.ndarray[Any, Any]


def merge(parts: Sequence[Module]) -> Module:
    """One module. Equal constants become one; different ones of the same name get names of their own."""
    constants: dict[str, Array] = {}
    funcs: list[Func] = []
    for part in parts:
        names = {name: _place(constants, name, array) for name, array in part.constants.items()}
        funcs += [_renamed(func, names) for func in part.funcs]
    return Module(tuple(funcs), constants=constants)


def _place(constants: dict[str, Array], name: str, array: Array) -> str:
    """The name under which an array is kept: its own, or one with a number."""
    candidate, number = name, 1
    while candidate in constants and not _same(constants[candidate], array):
        number += 1
        candidate = f"{name}_{number}"
    constants.setdefault(candidate, array)
    return candidate


def _same(a: Array, b: Array) -> bool:
    return a is b or (a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())


def _renamed(func: Func, names: dict[str, str]) -> Func:
    if all(old == new for old, new in names.items()):
        return func

    def visit(op: Op) -> list[Op] | None:
        if op.name.endswith(".constant") and op.defn.dialect != "arith":
            return [replace(op, attrs={**op.attrs, "name": names[op.attrs["name"]]})]
        return None

    return func.with_(body=map_ops(func.body, visit))
