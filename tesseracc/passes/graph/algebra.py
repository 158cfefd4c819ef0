"""`algebra`: equations between whole operators, applied from left to right where the numeric profile allows their rule.

Runs while compositions are whole, so a transform is one operation. Every equation leaves less work: fewer transforms or
transpositions, or fewer multiplications by `direct_is_cheaper`; so rewriting ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from tessera.ops.convolution import Convolution
from tessera.ops.fourier import radices
from tessera.ops.spectral_convolution import by_spectra, spectra_are_cheaper
from tesseracc.ir.builder import Builder, make
from tesseracc.ir.dialects.graph import operator_of, to_lang
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs, remove_dead, substitute, uses
from tesseracc.ir.types import TensorType, element
from tesseracc.ir.value import Func, Module, Op, Region, Value
from tesseracc.numerics import allows
from tesseracc.passes.graph.decompose import emit_composition
from tesseracc.passes.graph.terms import Attrs, Bindings, Equation, Pattern, Term, matches, tensor


def _transposed(x: Pattern) -> Term:
    """x with its last two axes exchanged."""

    def axes(t: TensorType) -> Attrs:
        rank = len(t.dims)
        return {"axes": (*range(rank - 2), rank - 1, rank - 2)}

    return Term("transpose", (x,), axes)


def _product(x: Pattern, y: Pattern) -> Term:
    return Term("matmul", (x, y), kept="product")


def _fourier(x: Pattern, inverse: bool, scaled: bool) -> Term:
    return Term("fourier", (x,), lambda _: {"inverse": inverse, "scaled": scaled})


def _spectrum(x: Pattern) -> Term:
    return _fourier(x, False, False)


def _same_rank(found: Bindings) -> bool:
    return len(tensor(found.values["x"]).dims) == len(tensor(found.values["y"]).dims)


def _one_precision(found: Bindings) -> bool:
    """Operands of one type of 32 bits or more: narrower spectra would be rounded to it."""
    types = {element(value.type) for value in found.values.values()}
    return len(types) == 1 and types <= {"f32", "f64"}


def direct_is_cheaper(found: Bindings) -> bool:
    """Whether N * N multiplications of numbers are fewer than three transforms and the product of two spectra take."""
    size = tensor(found.values["x"]).dims[-2]
    return not isinstance(size, int) or size * size <= size * (3 * sum(radices(size)) + 1)


def _convolution(op: Op) -> Convolution:
    found = operator_of(op)
    assert isinstance(found, Convolution)
    return found


def _wide_windows(found: Bindings) -> bool:
    x, w = (to_lang(found.values[name].type) for name in ("x", "w"))
    return spectra_are_cheaper(_convolution(found.ops[0]), x, w)


SPECTRAL_PRODUCT = _fourier(Term("complex_mul", (_spectrum("x"), _spectrum("y"))), True, True)
CONVOLUTION = Term("circular_convolution", ("x", "y"))

EQUATIONS: tuple[Equation, ...] = (
    # transpose(x) @ transpose(y) = transpose(y @ x)
    Equation("transpose-product", _product(_transposed("x"), _transposed("y")), _transposed(_product("y", "x")),
             _same_rank),
    # transpose(transpose(x) @ y) = transpose(y) @ x
    Equation("transpose-product", _transposed(_product(_transposed("x"), "y")), _product(_transposed("y"), "x"),
             _same_rank),
    # transpose(x @ transpose(y)) = y @ transpose(x)
    Equation("transpose-product", _transposed(_product("x", _transposed("y"))), _product("y", _transposed("x")),
             _same_rank),
    # the transform of one sign undoes that of the other, where one of both is scaled
    *(Equation("inverse-transform", _fourier(_fourier("x", inverse, scaled), not inverse, not scaled), "x",
               _one_precision)
      for inverse in (False, True) for scaled in (False, True)),
    # fft(x (*) y) = fft(x) fft(y)
    Equation("convolution-theorem", _spectrum(CONVOLUTION), Term("complex_mul", (_spectrum("x"), _spectrum("y"))),
             _one_precision),
    # ifft(fft(x) fft(y)) = x (*) y for short ones, the reverse for long ones
    Equation("convolution-theorem", SPECTRAL_PRODUCT, CONVOLUTION,
             lambda found: _one_precision(found) and direct_is_cheaper(found)),
    Equation("convolution-theorem", CONVOLUTION, SPECTRAL_PRODUCT,
             lambda found: _one_precision(found) and not direct_is_cheaper(found)),
    # a convolution with large windows is a product of spectra, filled up with zeros
    Equation("spectral-convolution", Term("convolution", ("x", "w")),
             lambda op: partial(by_spectra, _convolution(op)), _wide_windows),
)  # fmt: skip


@dataclass
class _Graph:
    """The function as far as it is written, and how often each value is used."""

    equations: Sequence[Equation]
    context: Context
    used: Counter[Value]
    b: Builder = field(default_factory=Builder)
    made: dict[Value, Op] = field(default_factory=dict)

    def fits(self, equation: Equation, op: Op) -> Bindings | None:
        """What an operation binds, if the equation applies to it and leaves nothing that is computed twice."""
        found = Bindings()
        if not matches(equation.before, op.result, {**self.made, op.result: op}, found) or not equation.when(found):
            return None
        if callable(equation.after):
            return found
        if isinstance(equation.after, str):
            return found if found.values[equation.after].type == op.result.type else None
        inner = [made for made in found.ops[1:] if made.name != "graph.transpose"]
        return found if all(self.used[made.result] == 1 for made in inner) else None

    def place(self, op: Op) -> Value | None:
        """Writes an operation, or what equations make of it; gives the value of that."""
        if len(op.results) == 1:
            for equation in self.equations:
                if op.name != f"graph.{equation.before.name}":
                    continue
                found = self.fits(equation, op)
                if found is not None:
                    self.context.permit(equation.rule, op.name.removeprefix("graph."), op.loc)
                    if callable(equation.after):
                        (made,) = emit_composition(self.b, equation.after(op), op.operands)
                        return made
                    return self.build(equation.after, found)
        self.b.append(op)
        self.made.update(dict.fromkeys(op.results, op))
        return None

    def build(self, term: Pattern, found: Bindings) -> Value:
        if isinstance(term, str):
            return found.values[term]
        args = [self.build(arg, found) for arg in term.args]
        attrs = found.attrs[term.kept] if term.kept else term.attrs(tensor(args[0]))
        self.used.update(args)
        op = make(f"graph.{term.name}", *args, loc=self.b.loc, **attrs)
        return self.place(op) or op.result


def algebra(func: Func, context: Context) -> Func:
    """The function with every allowed equation applied where its left side occurs."""
    equations = [equation for equation in EQUATIONS if allows(context.numerics, equation.rule)]
    if not equations:
        return func
    g = _Graph(equations, context, uses(func.body))
    same: dict[Value, Value] = {}
    for old in func.body.ops:
        (op,) = substitute(Region((), (old,)), same).ops
        g.b.loc = op.loc
        found = g.place(op)
        if found is not None:
            same[op.result] = found
            g.used[found] += g.used[op.result]
    yields = tuple(same.get(v, v) for v in func.body.yields)
    return func.with_(body=remove_dead(replace(func.body, ops=tuple(g.b.ops), yields=yields)))


@register("algebra", level="graph")
def run(module: Module, context: Context) -> Module:
    """Applies equations between whole operators, where the numeric profile allows them."""
    return module.with_(funcs=map_funcs(module.funcs, "graph.func", lambda func: algebra(func, context)))
