"""`fuse`: producers move into the groups that read them, so that few loop nests remain.

Groups are visited from the last to the first: when a producer is looked at, the groups that read it have their final
place. Producers are in pull form (one value per point of their domain), so moving one means putting its region where
its result is read, with the indices of the read (see inline.py). What is worth it is decided by four rules:

  free       A producer that costs little (views, casts, one or two cheap operations on one tensor) moves into every
             reader, even where a loop reads its elements many times (operands of a contraction).
  once       A pointwise producer moves into its only reader if the loops around each read visit every element once;
             with costly functions (exp, division) at most at two places, as in softmax.
  load       What decodes narrow elements (a cast, a dequantisation by scales, unpacking) moves into the contractions
             that read it, where each tile of the operand is filled: the wide copy is never stored.
  point      A reduction moves into its only reader if it is needed once per point of that group's domain. A reader
             over [N, D] that needs a value per row first becomes a group over [N] with an inner loop over D: so
             softmax and layer_norm become one group. A contraction moves only into a reader without other
             loops: its epilogue.

A producer with several readers, or one that the function returns, moves into its first reader under `once` or `point`
where that reader visits the same points, and is also written there, as one more result of that group. Else it stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tessera.shapes import known_equal, product
from tesseracc.analysis.access import is_contraction
from tesseracc.ir.pipeline import Context, register
from tesseracc.ir.rewrite import map_funcs
from tesseracc.ir.value import Func, Module, Op, Value
from tesseracc.passes.schedule.decide import cost_of, decide, dims_of
from tesseracc.passes.schedule.groups import tensors_read
from tesseracc.passes.schedule.inline import add_result, inline, inline_all, pulled_value
from tesseracc.passes.schedule.join_chains import MOST_RESULTS, MOST_WORK, work_of
from tesseracc.passes.schedule.tidy import tidy

#: operations, those on indices too, of a group into which others move
MOST_OPS = 4 * MOST_WORK


class _Fusion:
    def __init__(self, func: Func) -> None:
        self.ops: list[Op | None] = _with_constants(func.body.ops)
        self.kept = set(func.body.yields)  # tensors that must exist in memory
        # new values of state: who reads one should not compute it again from the old value, which it is to overwrite
        self.updated = {func.body.yields[number] for _, number in func.attrs.get("state", ())}
        for op in func.body.ops:
            if op.name != "schedule.group":
                self.kept.update(op.operands)
        groups = [op for op in self.ops if op is not None and op.name == "schedule.group"]
        self.makers = {op.results[0]: op for op in groups}
        self.made = set(self.makers)
        self.looped = {op.results[0] for op in groups if any(inner.regions for inner in op.regions[0].ops)}
        self.contractions = {op.results[0] for op in groups if is_contraction(op) is not None}

        self._readers: dict[Value, set[int]] = {}
        self.sizes = [(0, 0)] * len(self.ops)  # of groups: their work, and how many operations they are
        for at, entry in enumerate(self.ops):
            self._index(at, entry)
        # Tensors behind whose maker stands a loop; what is visited later only adds readers to what lies before it, so
        # that the numbers of readers here are those that count.
        self.behind: set[Value] = set()
        for tensor, maker in self.makers.items():
            size = product(maker.attrs["domain"])
            sole = [v for v in tensors_read(maker) if self._is_sole(v)]
            if any(self.ends_in_loop(v) and known_equal(product(dims_of(v)), size) for v in sole):
                self.behind.add(tensor)

    def _is_sole(self, tensor: Value) -> bool:
        """Whether a group makes a tensor for one other alone."""
        return tensor in self.makers and tensor not in self.kept and len(self.readers(tensor)) == 1

    def _index(self, at: int, op: Op | None) -> None:
        if op is not None and op.name == "schedule.group":
            for tensor in tensors_read(op):
                self._readers.setdefault(tensor, set()).add(at)
            self.sizes[at] = work_of(op), sum(1 for _ in op.walk())

    def put(self, at: int, op: Op | None) -> None:
        """Another operation, or none, at a position."""
        old = self.ops[at]
        if old is not None and old.name == "schedule.group":
            for tensor in tensors_read(old):
                self._readers[tensor].discard(at)
        self.ops[at] = op
        self._index(at, op)

    def readers(self, tensor: Value) -> list[int]:
        """Positions of the groups that read a tensor."""
        return sorted(self._readers.get(tensor, ()))

    def run(self) -> list[Op]:
        for at in range(len(self.ops) - 1, -1, -1):
            op = self.ops[at]
            if op is not None and op.name == "schedule.group" and len(op.results) == 1:
                self.place(at, op)
        return [op for op in self.ops if op is not None]

    def ends_in_loop(self, tensor: Value) -> bool:
        """Whether a tensor with one reader is made by a group with loops, or by pointwise groups behind such a one."""
        return self._is_sole(tensor) and (tensor in self.looped or tensor in self.behind)

    def with_sources(self, producer: Op) -> Op:
        """The producer with the pointwise groups in it that it alone reads, and those that they alone read."""
        while True:
            private = (
                maker
                for tensor in tensors_read(producer)
                if (maker := self.makers.get(tensor)) is not None
                and tensor not in self.looped
                and tensor not in self.kept
                and len(self.readers(tensor)) == 1
                and len(maker.results) == 1
            )
            source = next(private, None)
            if source is None or not cost_of(producer).is_light:
                return producer
            producer = tidy(inline(source, producer))

    def fits(self, at: int, readers: list[int]) -> bool:
        """Whether groups with a producer in them are of the size that `join-chains` makes."""
        work, size = self.sizes[at]
        return all(
            (work == 0 or work + own <= MOST_WORK) and size + whole <= MOST_OPS
            for own, whole in map(self.sizes.__getitem__, readers)
        )

    def group(self, at: int) -> Op:
        op = self.ops[at]
        assert op is not None
        return op

    def place(self, at: int, producer: Op) -> None:
        """Moves one producer where the rules allow it."""
        tensor = producer.result
        readers = self.readers(tensor)
        stays = tensor in self.kept
        if readers and not self.fits(at, readers[:1]):
            return
        if readers:
            sole = {source for source in tensors_read(producer) if self.ends_in_loop(source)}
            into = [self.group(i) for i in readers]
            products = not stays and all(is_contraction(reader) is not None for reader in into)
            whole = self.with_sources(producer) if products else producer
            move = decide(producer, into, stays, self.made, self.contractions, sole, whole)
            if move is None or (move.everywhere and (tensor in self.updated or not self.fits(at, readers))):
                return
            if move.site is not None and len(into[0].results) >= MOST_RESULTS:
                return
            if move.everywhere:
                for i in readers:
                    self.put(i, tidy(inline(producer, self.group(i))))
            else:
                assert move.reader is not None
                reader = add_result(producer, move.reader, move.site) if move.site is not None else move.reader
                self.put(readers[0], tidy(inline(producer, reader)))
                stays = False
        if not stays:
            self.put(at, None)


def _with_constants(ops: Sequence[Op]) -> list[Op | None]:
    """The operations, groups tidied, with what comes out as constants inside of every group that reads it: so constants
    that are computed are known as such before anything is decided about their readers."""
    constants: dict[Value, Op] = {}
    found: list[Op | None] = []
    for op in ops:
        if op.name == "schedule.group":
            op = tidy(inline_all(constants, op))
            if len(op.results) == 1 and work_of(op) == 0 and not tensors_read(op) and pulled_value(op) is not None:
                constants[op.result] = op
        found.append(op)
    return found


@register("fuse", level="schedule")
def run(module: Module, context: Context) -> Module:
    """Moves producers into the groups that read them."""

    def change(func: Func) -> Func:
        return func.with_(body=replace(func.body, ops=tuple(_Fusion(func).run())))

    return module.with_(funcs=map_funcs(module.funcs, "schedule.func", change))
