"""Branches and loops of plans: the order of steps, memory of temporaries, and two readers of one mind."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import tessera_runtime
from tessera_runtime.control import BranchStep, CopyStep, LaunchStep, LoopStep, RepeatStep, walk
from tessera_runtime.core import manifest as m
from tessera_runtime.core.check import check
from tessera_runtime.core.errors import InputError, TesseraError
from tessera_runtime.core.manifest import (
    Branch,
    Buffer,
    Capability,
    Copy,
    Function,
    Input,
    Loop,
    Output,
    Plan,
    Put,
    Repeat,
    Symbol,
    Take,
    Target,
)
from tessera_runtime.devices.cuda import CudaDevice
from tessera_runtime.plan import instantiate
from tesseracc.bundle.write import Contents, write
from tests.bundle.base import document
from tests.bundle.second_manifest import Refused, parse
from tests.bundle.second_reader import schema
from tests.runtime.fake_gpu import FakeDriver

ROW = 24  # bytes of a buffer of three i64


def step(number: int) -> CopyStep:
    return CopyStep(number, number, 1)


def order(steps: Any, answers: list[bool]) -> list[int]:
    given = iter(answers)
    return [number for number, _ in walk(steps, lambda _: next(given))]


def test_order() -> None:
    assert order((step(0), BranchStep(9, 1, 2), step(2), step(3), step(4), step(5)), [True]) == [0, 2, 5]
    assert order((step(0), BranchStep(9, 1, 2), step(2), step(3), step(4), step(5)), [False]) == [0, 3, 4, 5]
    assert order((RepeatStep(3, 1), step(1), step(2)), []) == [1, 1, 1, 2]
    assert order((RepeatStep(0, 1), step(1)), []) == []
    assert order((LoopStep(9, 1, 2), step(1), step(2), step(3), step(4)), [True, False]) == [1, 2, 3, 1, 4]
    inner = (RepeatStep(2, 4), step(1), LoopStep(9, 1, 1), step(3), step(4), step(5))
    assert order(inner, [False, True, False]) == [1, 3, 1, 3, 4, 3, 5]


def test_conditions_are_asked_when_what_is_before_has_run() -> None:
    done: list[Any] = []

    def holds(buffer: int) -> bool:
        done.append(f"ask {buffer}")
        return done.count("ask 7") < 3

    for number, _ in walk((LoopStep(7, 1, 1), step(1), step(2)), holds):
        done.append(number)
    assert done == [1, "ask 7", 2, 1, "ask 7", 2, 1, "ask 7"]


# Temporaries ----------------------------------------------------------------------------------------------------------


class Random:
    """Plans of copies that `check` would accept. Buffers: 0 an input of 3 rows, 1 the result, 2 a bool, temporaries."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.buffers = [Buffer("input", "x", "i64", (3, 3)), Buffer("output", "y", "i64", (3,)),
                        Buffer("input", "on", "bool", ())]  # fmt: skip
        self.steps: list[Any] = []
        self.rows: list[int] = []  # what is defined, of one row

    def temp(self) -> int:
        self.buffers.append(Buffer("temp", "", "i64", (3,)))
        return len(self.buffers) - 1

    def pick(self) -> int:
        return int(self.rng.choice(self.rows))

    def block(self, depth: int, repeated: bool) -> None:
        for _ in range(int(self.rng.integers(1, 5))):
            kind = int(self.rng.integers(0, 7))
            if kind < 3 or depth == 3:
                target = self.temp() if kind < 2 else self.pick()
                source = self.pick()
                if source != target:
                    self.steps.append(Copy(source, target))
                    self.rows.append(target)
            elif kind == 3 and repeated:
                self.steps.append(Take(0, self.temp(), bool(self.rng.integers(0, 2))))
                self.rows.append(self.steps[-1].dst)
            elif kind < 6:
                mine = len(self.steps)
                self.steps.append(None)
                first = self.inside(depth, True if kind == 4 else repeated)
                if kind == 4:
                    self.steps[mine] = Repeat(3, first)
                else:
                    self.steps[mine] = Branch(2, first, self.inside(depth, repeated))

    def inside(self, depth: int, repeated: bool) -> int:
        before, known = len(self.steps), list(self.rows)
        self.block(depth + 1, repeated)
        self.rows = known
        return len(self.steps) - before

    def plan(self) -> Plan:
        first = self.temp()
        self.steps += [Repeat(3, 1), Take(0, first)]
        self.rows.append(first)
        self.steps[0:2] = [Repeat(3, 1), Take(0, first)]
        second = self.temp()
        self.steps.append(Copy(first, second))
        self.rows.append(second)
        self.block(0, False)
        self.steps.append(Copy(self.pick(), 1))
        return Plan("f", tuple(self.buffers), tuple(self.steps))


def run(instance: Any, places: list[int], size: int, answers: Iterator[bool]) -> bytes:
    memory = bytearray(size)
    memory[places[0] : places[0] + 3 * ROW] = np.arange(9, dtype=np.int64).tobytes()
    for _, one in walk(instance.steps, lambda _: next(answers)):
        assert isinstance(one, CopyStep)
        source, target = places[one.src] + one.src_at, places[one.dst] + one.dst_at
        memory[target : target + one.nbytes] = memory[source : source + one.nbytes]
    return bytes(memory[places[1] : places[1] + ROW])


@pytest.mark.parametrize("seed", range(60))
def test_temporaries_share_memory_only_where_nothing_is_lost(seed: int) -> None:
    """The result with the arena that the plan gets equals the result with memory of its own for every buffer."""
    rng = np.random.default_rng(seed)
    instance = instantiate(Random(rng).plan(), [], {})
    answers = [bool(v) for v in rng.integers(0, 2, 5000)]
    own = [100 * i for i in range(len(instance.shapes))]
    want = run(instance, own, 100 * len(own), iter(answers))
    shared = [at if at >= 0 else instance.arena + 100 * i for i, at in enumerate(instance.offsets)]
    assert run(instance, shared, instance.arena + 100 * len(own), iter(answers)) == want


def test_rows() -> None:
    buffers = (Buffer("input", "x", "i64", (("N",), 3)), Buffer("temp", "", "i64", (3,)),
               Buffer("output", "y", "i64", (("N",), 3)))  # fmt: skip
    steps = Repeat(("N",), 2), Take(0, 1, True), Put(1, 2)
    made = instantiate(Plan("f", buffers, steps), [], {"N": 4})
    moves = [s for _, s in walk(made.steps, lambda _: False)]
    assert moves[:3] == [CopyStep(0, 1, 24, 72, 0), CopyStep(1, 2, 24, 0, 0), CopyStep(0, 1, 24, 48, 0)]
    assert made.written == {1, 2} and len(moves) == 8
    with pytest.raises(InputError) as caught:
        instantiate(Plan("f", buffers, (Repeat(3, 1), Take(0, 1))), [], {"N": 4})
    assert caught.value.code == "E710"
    flags = (Buffer("input", "x", "bool", (2,)),)
    for control in (Branch(0, 0, 0), Loop(0, 0, 0)):
        with pytest.raises(InputError, match="2 elements decide"):
            instantiate(Plan("f", flags, (control,)), [], {})
    with pytest.raises(InputError) as caught:
        instantiate(Plan("f", (), (Repeat(("N", 9, "sub"), 0),)), [], {"N": 4})
    assert caught.value.code == "E710"


def test_nothing_is_not_repeated() -> None:
    """Rows of no bytes, as often as an extent says: nobody would wait for the end."""
    buffers = (Buffer("input", "x", "f32", (("T",), 0)), Buffer("temp", "", "f32", (0,)))
    steps = Repeat(("T",), 3), Repeat(("T",), 1), Take(0, 1), Take(0, 1), Copy(0, 0)
    assert instantiate(Plan("f", buffers, steps), [], {"T": 1 << 40}).steps == ()



# Readers --------------------------------------------------------------------------------------------------------------


def some_steps(rng: np.random.Generator, launch: Any, copies: Any, depth: int = 0) -> list[Any]:
    """Steps that are well formed but need not fit together."""
    found: list[Any] = []
    for _ in range(int(rng.integers(0 if depth else 1, 4))):
        src, dst = (int(v) for v in rng.integers(0, 7, 2))
        kind = int(rng.integers(0, 9 if depth < 3 else 5))
        if kind < 2:
            found.append(copy.deepcopy(launch))
        elif kind == 2:
            found.append({**copies, "src": src, "dst": dst})
        elif kind < 5:
            found.append({"op": "take" if kind == 3 else "put", "src": src, "dst": dst, "reverse": False})
        else:
            first, second = (some_steps(rng, launch, copies, depth + 1) for _ in range(2))
            lengths = [len(first), len(second)]
            if rng.integers(0, 12) == 0:
                lengths[int(rng.integers(0, 2))] += 1
            on = 6 if rng.integers(0, 5) else src
            if kind < 7:
                found += [{"op": "repeat", "count": ["N"], "body": lengths[0]}, *first]
            elif kind == 7:
                found += [{"op": "branch", "on": on, "then": lengths[0], "other": lengths[1]}, *first, *second]
            else:
                found += [{"op": "loop", "on": on, "head": lengths[0], "body": lengths[1]}, *first, *second]
    return found


def test_both_readers_accept_the_same_plans() -> None:
    rng = np.random.default_rng(3)
    value = document()
    value["versions"]["plan"] = 2
    plan = value["targets"][0]["plans"][0]
    flag = {"dtype": "bool", "shape": []}
    value["functions"][0]["inputs"].append({"name": "flag", "kind": "tensor", "inout": False, **flag})
    for target in value["targets"]:
        first = target["plans"][0]
        first["buffers"] += [{"kind": "temp", "ref": "", "dtype": "f32", "shape": [4]},
                             {"kind": "temp", "ref": "", "dtype": "f32", "shape": [["N"], 4]},
                             {"kind": "input", "ref": "flag", **flag}]  # fmt: skip
    launch, copies = plan["steps"]
    rules, verdicts = schema(), [0, 0]
    for _ in range(1500):
        plan["steps"] = [launch, *some_steps(rng, launch, copies), copies]
        data = m.canonical(value)
        try:
            check(m.from_json(data))
            ours = True
        except TesseraError as error:
            assert error.code == "E623", error
            ours = False
        try:
            parse(data, rules)
            theirs = True
        except Refused:
            theirs = False
        assert ours == theirs, plan["steps"]
        verdicts[ours] += 1
    assert min(verdicts) > 100, verdicts


def test_launches_in_loops_are_given_as_they_are() -> None:
    launch = LaunchStep(0, (1, 1, 1), 1, (), 0)
    assert [s for _, s in walk((RepeatStep(2, 1), launch), lambda _: False)] == [launch, launch]


# A device that only copies --------------------------------------------------------------------------------------------


def copying() -> bytes:
    """f(x[N, 3], a, b, r): x with its rows reversed; the first row of x if a, else the last; that, or by a loop that a
    starts and b keeps up, r. Repeats may run no times, so that rows begin as r."""
    n3: Any = (("N",), 3)
    inputs = (Input("x", "tensor", "i64", n3), Input("a", "tensor", "bool"), Input("b", "tensor", "bool"),
              Input("r", "tensor", "i64", (3,)))  # fmt: skip
    outputs = Output("y", "i64", n3), Output("z", "i64", (3,)), Output("w", "i64", (3,))
    function = Function("f", "", (Symbol("N", "x", 0),), inputs, outputs)
    buffers = (
        *(Buffer("input", i.name, i.dtype, i.shape) for i in inputs),  # 0 x, 1 a, 2 b, 3 r
        *(Buffer("output", o.name, o.dtype, o.shape) for o in outputs),  # 4 y, 5 z, 6 w
        *(Buffer("temp", "", dtype, shape) for dtype, shape in (("i64", (3,)), ("bool", ()), ("bool", ()))),  # 7, 8, 9
    )
    steps = (
        Repeat(("N",), 2), Take(0, 7), Put(7, 4, True), Copy(3, 5),
        Branch(1, 2, 2), Repeat(("N",), 1), Take(0, 5, True), Repeat(("N",), 1), Take(0, 5),
        Copy(5, 6), Copy(1, 8), Loop(9, 1, 2), Copy(8, 9), Copy(3, 6), Copy(2, 8),
    )  # fmt: skip
    target = Target("sm_90", "cuda", "cubin", "images/sm_90.cubin", 1, (), (Plan("f", buffers, steps),),
                    capability=Capability(9, 0, "minor"))  # fmt: skip
    return write(None, Contents((function,), (target,), {"images/sm_90.cubin": b"image"}))


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("flag", [True, False])
def test_steps_on_a_gpu(rows: int, flag: bool) -> None:
    driver = FakeDriver()
    run = tessera_runtime.load(copying(), device=CudaDevice(driver))["f"]
    x = np.random.default_rng(rows).integers(0, 99, (rows, 3))
    r = np.array([7, 8, 9])
    y, z, w = run(x, np.array(flag), np.array(False), r)
    np.testing.assert_array_equal(y, x[::-1])
    np.testing.assert_array_equal(z, x[0] if flag else x[-1])
    np.testing.assert_array_equal(w, r if flag else x[-1])
    asked = [call for call in driver.calls if call[0] == "copy_out" and call[2] == 1]
    assert len(asked) == 2 + flag  # the branch, and the loop once more than it runs
