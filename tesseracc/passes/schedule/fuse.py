"""`fuse`: producers move into the groups that read them, so that few loop nests remain.

Groups are visited from the last to the first: when a producer is looked at, the groups that read it have their final
place. Producers are in pull form (one value per point of their domain), so moving one means putting its region where
its result is read, with the indices of the read (see inline.py). What is worth it is decided by three rules:

  free       A producer that costs little (views, casts, one or two cheap operations on one tensor) moves into every
             reader, even where a loop reads its elements many times (operands of a contraction).
  once       A pointwise producer moves into its only reader if the loops around each read visit every element once;
             with costly functions (exp, division) at most at two places, as in softmax.
  point      A reduction moves into its only reader if it is needed once per point of that group's domain. A reader
             over [N, D] that needs a value per row first becomes a group over [N] with an inner loop over D: so
             softmax and layer_norm become one group. A contraction moves only into a reader without other
             loops: its epilogue.

A producer with several readers, or one that the function returns, moves into its first reader under `once` or `point`
where that reader visits the same points, and is also written there, as one more result of that group. Else it stays.
"""

from __future__ import annotations

from dataclasses import replace

from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs
from tesseracc.ir.value import Func, Module, Op, Value
from tesseracc.passes.schedule.decide import Decision, decide
from tesseracc.passes.schedule.groups import tensors_read
from tesseracc.passes.schedule.inline import add_result, inline, nest
from tesseracc.passes.schedule.tidy import tidy


class _Fusion:
    def __init__(self, func: Func) -> None:
        self.ops: list[Op | None] = [tidy(op) if op.name == "schedule.group" else op for op in func.body.ops]
        self.kept = set(func.body.yields)  # tensors that must exist in memory
        for op in func.body.ops:
            if op.name == "schedule.view":
                self.kept.add(op["tensor"])
        self.renamed: dict[Value, Value] = {}

    def readers(self, tensor: Value) -> list[int]:
        """Positions of the groups that read a tensor."""
        return [i for i, op in enumerate(self.ops) if op is not None and op.name == "schedule.group" and tensor in tensors_read(op)]

    def run(self) -> list[Op]:
        for at in range(len(self.ops) - 1, -1, -1):
            op = self.ops[at]
            if op is not None and op.name == "schedule.group" and len(op.results) == 1:
                self.place(at, op)
        return [op for op in self.ops if op is not None]

    def group(self, at: int) -> Op:
        op = self.ops[at]
        assert op is not None
        return op

    def place(self, at: int, producer: Op) -> None:
        """Moves one producer where the rules allow it."""
        tensor = producer.result
        readers = self.readers(tensor)
        if not readers:
            if tensor not in self.kept:
                self.ops[at] = None
            return
        stays = tensor in self.kept
        found = decide(producer, [self.group(i) for i in readers], stays)
        if found is Decision.STAY:
            return
        if found is Decision.FREE:
            for i in readers:
                self.ops[i] = tidy(inline(producer, self.group(i)))
        else:
            # the only reader, or the first of several: then the result is written there too
            first = readers[0]
            reader = self.group(first)
            if found.axes is not None:
                reader = tidy(nest(reader, found.axes))
            if stays or len(readers) > 1:
                reader = add_result(producer, reader)
                stays = False
            self.ops[first] = tidy(inline(producer, reader))
        if not stays and (found is Decision.FREE or True):
            self.ops[at] = None


@register("fuse", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Moves producers into the groups that read them."""

    def change(func: Func) -> Func:
        return func.with_(body=replace(func.body, ops=tuple(_Fusion(func).run())))

    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", change))
