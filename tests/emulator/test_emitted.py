"""Every instruction that our compiler emits has a test of its meaning.

PTX of the samples and of a module of many operators is scanned for every NVIDIA target. What acts lane by lane is in
LANEWISE and is executed here, each form by itself, against a second meaning written in Python integers and fractions;
ELSEWHERE names the test of every other form.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tesseracc.arch import load, names
from tesseracc.driver import Build, front
from tesseracc.emulator import parse_ptx
from tesseracc.frontend import source
from tests.emulator.harness import lanewise, same_bits

SAMPLES = Path(__file__).parents[2] / "samples"
OPERATORS = """import tessera as ts

@ts.function
def elementary(x: ts.Tensor["N", ts.f32], y: ts.Tensor["N", ts.f32]):
    return {"a": ts.exp(x) + ts.log(y), "b": ts.sin(x) * ts.cos(y), "c": ts.tanh(x) / ts.sqrt(y), "d": ts.gelu(x),
            "e": ts.maximum(x, y), "f": abs(x)}

@ts.function
def narrow(x: ts.Tensor["N", ts.f16], y: ts.Tensor["N", ts.bf16], z: ts.Tensor["N", ts.f64]):
    return {"a": ts.exp(x), "b": ts.relu(y) * y, "c": ts.exp(z) * z + 1.0}

@ts.function
def integers(x: ts.Tensor["N", ts.i32], y: ts.Tensor["N", ts.i64], z: ts.Tensor["N", ts.u8]):
    return {"a": x * x + x, "b": y - y * y, "c": z + z, "d": abs(x)}

@ts.function
def reductions(x: ts.Tensor["M", "N", ts.f32]):
    return {"a": ts.sum(x, axis=1), "b": ts.max(x, axis=0), "c": ts.softmax(x), "d": ts.mean(x, axis=1)}
"""

#: forms that act on one lane: opcode, then modifiers
LANEWISE = {
    word
    for line in """
abs: f32 s32 s64
add: rn.f32 rn.f64 s16 s32 s64
and: b16 b32 b64 pred
bfe: u32 u64
cvt: f64.f32 rn.f32.f64 rn.f32.s32 rn.f32.s64 rn.f32.u16 rn.f32.u32 rn.f64.s32 rni.f64.f64 rzi.s32.f32 rzi.s64.f64
cvt: s32.s16 s64.s32 u16.u32 u16.u64 u32.u16 u32.u64 u64.u16 u64.u32
div: rn.f32 rn.f64 s32 s64 u32 u64
fma: rn.f32 rn.f64
mad: lo.s32 lo.s64
max: NaN.f32 f32 f64 s32 s64 u32
min: NaN.f32 f32 f64 s32 s64 u32
mov: b16 b32 b64 u32 pred
mul: hi.s32 hi.u32 lo.s16 lo.s32 lo.s64 rn.f32 rn.f64 wide.s32 wide.u16 wide.u32
neg: f32 f64 s32 s64
not: b16 b32 b64 pred
or: b16 b32 b64 pred
rcp: rn.f32
rem: s32 s64 u32 u64
selp: b16 b32 b64 f32 f64
setp: eq.b32 eq.b64 eq.f32 eq.f64 ge.f32 ge.s32 ge.s64 ge.u32 ge.u64 gt.f32 gt.f64 gt.s32 gt.s64 gt.u16 gt.u32 gt.u64
setp: le.f32 le.s32 le.s64 le.u32 le.u64 lt.f32 lt.f64 lt.s32 lt.s64 lt.u32 lt.u64 ltu.f64 ltu.f32
setp: geu.f32 gtu.f32 leu.f32 nan.f32 nan.f64 ne.b32 ne.b64 ne.f32 neu.f32 num.f32 equ.f32
shl: b16 b32 b64
shr: s32 s64 u16 u32 u64
sqrt: rn.f32 rn.f64
sub: rn.f32 rn.f64 s16 s32 s64
xor: b16 b32 b64 pred
""".strip().split("\n")
    for opcode, forms in [line.split(": ")]
    for word in (f"{opcode}.{form}" for form in forms.split())
}

#: all other forms, by pattern: the test of their meaning
ELSEWHERE = {
    r"bar\.sync": "test_counters.test_barriers",
    r"bar\.warp\.sync": "test_corpus.test_bug_is_reported_at_its_line",
    r"barrier\.cluster\.(arrive|wait)\S*|mapa\.shared::cluster\.u32":
        "outside.test_cuda_cluster.test_rows_travel_round_a_cluster",
    r"bra(\.uni)?|ret": "outside.test_cuda_odd.test_loops_that_jump_into_each_other",
    r"cp\.async\.bulk\.(tensor\.[1-5]d\.)?(shared::(cluster|cta)\.global|global\.shared::cta)\S*":
        "test_fast_paths.test_boxes_element_by_element",
    r"cp\.async\.bulk\.(commit|wait)_group(\.read)?": "outside.test_cuda_tensor.test_bulk_copies",
    r"cp\.async\.c[ag]\.shared\.global": "test_async_copies.test_any_number_of_source_bytes",
    r"cp\.async\.(commit_group|wait_group|wait_all)": "outside.test_cuda_tensor.test_cp_async_ring_with_ldmatrix",
    r"cvta\.param\.u64": "test_counters.test_tensor_copies",
    r"cvt\.rn\.b?f16\.f32": "test_compare_convert.test_float_narrowing",
    r"cvt\.rn\.b?f16x2\.f32": "test_compare_convert.test_bf16_pairs_and_tf32",
    r"cvt\.f32\.b?f16": "test_compare_convert.test_widening_and_integral_rounding",
    r"elect\.sync": "test_warp.test_elect_and_activemask",
    r"fence\.(mbarrier_init\.release\.cluster|proxy\.async\S*)": "test_corpus.test_twin_is_clean_and_right",
    r"ld\.(param|global|shared)\.(v[24]\.)?(b8|b16|b32|b64|f32|f64)": "test_counters.test_bytes_of_every_memory",
    r"st\.(global|shared)\.(v[24]\.)?(b8|b16|b32|b64|f32|f64)": "test_counters.test_global_accesses",
    r"ldmatrix\.sync\.aligned\.m8n8\.x[124](\.trans)?\.shared\.b16":
        "outside.test_cuda_tensor.test_cp_async_ring_with_ldmatrix",
    r"stmatrix\.sync\.aligned\.m8n8\.x[124](\.trans)?\.shared\.b16":
        "outside.test_triton.test_matmul_by_tensor_descriptors",
    r"mbarrier\.(init|arrive|arrive\.expect_tx|try_wait\.parity)\.shared::cta\.b64":
        "test_counters.test_mbarrier_arrivals",
    r"mbarrier\.(arrive\.release|try_wait\.parity\.acquire)\.cluster\.shared::(cluster|cta)\.b64":
        "outside.test_cuda_cluster.test_specialised_warps_with_multicast",
    r"mma\.sync\.aligned\.m16n8k\d+\.row\.col\S*": "test_matrix.test_mma",
    r"setmaxnreg\.\S+": "outside.test_cuda_cluster.test_specialised_warps_with_multicast",
    r"shfl\.sync\.(bfly|down|idx|up)\.b32": "test_warp.test_shuffle",
    r"tcgen05\.(alloc|dealloc|relinquish_alloc_permit|ld|st|wait::ld|wait::st|mma|commit|fence::\w+)\S*":
        "test_tcgen05.test_products",
    r"wgmma\.(fence|commit_group|wait_group)\.sync\.aligned":
        "test_deletions.test_every_deletion_is_found_or_redundant",
    r"wgmma\.mma_async\.sync\.aligned\.m64n\d+k\d+\S*": "test_matrix.test_wgmma_operand_layouts",
}  # fmt: skip

DTYPE: dict[str, Any] = {
    **{
        f"{kind}{8 << k}": np.dtype(f"{'i' if kind == 's' else 'u'}{1 << k}").type
        for kind in "sub"
        for k in range(1, 4)
    },
    "f32": np.float32,
    "f64": np.float64,
}


# -- the second meaning ------------------------------------------------------------------------------------------------


def nearest(x: Fraction, dtype: Any) -> Any:
    """A rational to the nearest float, ties to even: to f64 by Python, to f32 through a sticky f64."""
    try:
        y = x.numerator / x.denominator
    except OverflowError:
        y = math.inf if x > 0 else -math.inf
    if dtype is np.float64:
        return np.float64(y)
    if math.isfinite(y) and Fraction(y) != x and np.float64(y).view(np.uint64) & 1 == 0:  # make the last bit sticky
        y = math.nextafter(y, math.inf if x > Fraction(y) else -math.inf)
    with np.errstate(over="ignore", under="ignore"):
        return np.float32(y)


def finite(*values: Any) -> bool:
    """Whether none is infinite or not a number."""
    return all(math.isfinite(float(v)) for v in values)


def float_of(op: str, mods: list[str], dtype: Any, *v: Any) -> Any:
    a, b, c = (*v, dtype(0), dtype(0))[:3]
    with np.errstate(all="ignore"):
        if op == "fma":
            if np.isinf(c) and finite(a, b):
                return c
            exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)) if finite(a, b, c) else Fraction(0)
            return nearest(exact, dtype) if exact else dtype(a * b + c)
        if op in ("min", "max"):
            if np.isnan(a) or np.isnan(b):
                return dtype(np.nan) if "NaN" in mods or (np.isnan(a) and np.isnan(b)) else (b if np.isnan(a) else a)
            low, high = sorted((a, b), key=lambda x: (x, not np.signbit(x)))
            return low if op == "min" else high
        table: dict[str, Callable[[], Any]] = {
            "add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b, "div": lambda: a / b,
            "rcp": lambda: dtype(1) / a, "sqrt": lambda: np.sqrt(a), "neg": lambda: -a, "abs": lambda: abs(a),
        }  # fmt: skip
        return table[op]()


COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip


def compare(how: str, a: Any, b: Any) -> bool:
    """Ordered unless the word ends in u (of floats); num and nan ask whether both are numbers."""
    unordered = a != a or b != b
    if how in ("num", "nan"):
        return bool(unordered == (how == "nan"))
    if how[:-1] in COMPARE:
        return bool(unordered or COMPARE[how[:-1]](a, b))
    return bool(not unordered and COMPARE[how](a, b))


def integer_of(op: str, mods: list[str], bits: int, signed: bool, *v: int) -> int:
    """The value before it wraps to the result's width."""
    a, b, c = (*v, 0, 0)[:3]
    low = (1 << bits) - 1
    if op in ("div", "rem"):
        q = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        return q if op == "div" else a - q * b
    if op in ("shl", "shr"):
        n = min(b & 0xFFFFFFFF, bits)
        return (a & low) << n if op == "shl" else a >> n
    if op == "bfe":
        return (a & low) >> (b & 255) & ((1 << (c & 255)) - 1)
    table: dict[str, Callable[[], int]] = {
        "add": lambda: a + b, "sub": lambda: a - b, "mul": lambda: a * b >> (bits if "hi" in mods else 0),
        "mad": lambda: a * b + c, "and": lambda: a & b, "or": lambda: a | b, "xor": lambda: a ^ b, "not": lambda: ~a,
        "neg": lambda: -a, "abs": lambda: abs(a), "min": lambda: min(a, b), "max": lambda: max(a, b), "mov": lambda: a,
    }  # fmt: skip
    return table[op]()


def convert(mods: list[str], x: Any) -> Any:
    to, of = mods[-2], mods[-1]
    if to[0] == "f":
        if of[0] == "f":
            with np.errstate(all="ignore"):
                return np.rint(x) if mods[0] == "rni" else DTYPE[to](x)
        return nearest(Fraction(int(x)), DTYPE[to])
    if of[0] == "f":
        info = np.iinfo(DTYPE[to])
        if x != x:  # NaN: zero, or the lowest value where either side is wide
            return DTYPE[to](info.min if "64" in to + of else 0)
        whole = math.trunc(float(x)) if math.isfinite(x) else int(math.copysign(2**64, x))
        return DTYPE[to](min(max(whole, info.min), info.max))
    return wrap(int(x), DTYPE[to])


def wrap(value: int, dtype: Any) -> Any:
    bits = 8 * dtype().itemsize
    return np.array(value & (1 << bits) - 1, np.uint64).astype(f"u{bits // 8}").view(dtype)[()]


# -- inputs, and one form at a time ------------------------------------------------------------------------------------


def inputs(kind: str, seed: int, n: int = 300) -> Any:
    rng = np.random.default_rng(seed)
    if kind == "pred":
        return rng.integers(0, 2, n).astype(np.uint32)
    dtype = DTYPE[kind]
    size = dtype().itemsize
    raw = rng.integers(0, 256, (n, size), dtype=np.uint8).view(dtype).reshape(n)
    if kind[0] == "f":
        f = np.finfo(dtype)
        special = np.array([0, -0.0, 1, -1, 0.5, np.inf, -np.inf, np.nan, f.tiny, f.max, 2.0**31], dtype)
        odd = np.where(rng.random(n) < 0.3, rng.choice(special, n), raw)
        return np.where(rng.random(n) < 0.4, rng.normal(size=n).astype(dtype) * dtype(8), odd).astype(dtype)
    info = np.iinfo(dtype)
    special = np.array([0, 1, 2, info.max, info.min, info.max // 2], dtype)
    small = rng.integers(0, 40, n).astype(dtype)
    return np.where(rng.random(n) < 0.3, small, np.where(rng.random(n) < 0.2, rng.choice(special, n), raw)).astype(
        dtype
    )


@pytest.mark.parametrize("form", sorted(LANEWISE))
def test_form(form: str) -> None:
    op, *mods = form.split(".")
    kind = mods[-1]
    seeds = [sum(form.encode()) + k for k in range(3)]
    if kind == "pred":
        flags = [inputs("pred", s) for s in seeds[: 1 if op in ("not", "mov") else 2]]
        read = "".join(f".reg .pred %q{k}; setp.ne.u32 %q{k}, %{k}, 0;\n" for k in range(len(flags)))
        text = read + f"{form} %d, " + ", ".join(f"%q{k}" for k in range(len(flags))) + ";"
        expected = [integer_of(op, mods, 1, False, *(int(f[k]) for f in flags)) & 1 for k in range(len(flags[0]))]
        np.testing.assert_array_equal(lanewise(text, *flags, out=bool), np.array(expected, bool))
        return
    dtype, bits = DTYPE[kind], 8 * DTYPE[kind]().itemsize
    if op == "setp":
        a, b = inputs(kind, seeds[0]), inputs(kind, seeds[1])
        b = np.where(np.random.default_rng(1).random(len(a)) < 0.3, a, b)
        got = lanewise(f"{form} %d, %0, %1;", a, b, out=bool)
        np.testing.assert_array_equal(got, [compare(mods[0], x, y) for x, y in zip(a, b)])
        return
    if op == "selp":
        a, b, p = inputs(kind, seeds[0]), inputs(kind, seeds[1]), inputs("pred", seeds[2])
        got = lanewise(f".reg .pred %q; setp.ne.u32 %q, %2, 0; {form} %d, %0, %1, %q;", a, b, p, out=dtype)
        same_bits(got, np.where(p != 0, a, b))
        return
    if op == "cvt":
        a = inputs(kind, seeds[0])
        want = np.array([convert(mods, x) for x in a], DTYPE[mods[-2]])
        agree(lanewise(f"{form} %d, %0;", a, out=DTYPE[mods[-2]]), want)
        return
    count = {"fma": 3, "mad": 3, "bfe": 3}.get(op, 1 if op in ("abs", "mov", "neg", "not", "rcp", "sqrt") else 2)
    values = [inputs(kind, s) for s in seeds[:count]]
    if op in ("shl", "shr"):
        values[1] = inputs("u32", seeds[1]) % np.uint32(80)
    if op == "bfe":
        values[1:] = [inputs("u32", s) % np.uint32(bits + 1) for s in seeds[1:]]
    if op in ("div", "rem") and kind[0] != "f":
        values[1] = np.where(values[1] == 0, dtype(3), values[1])
    text = f"{form} %d, " + ", ".join(f"%{k}" for k in range(count)) + ";"
    if kind[0] == "f":
        want = np.array([float_of(op, mods, dtype, *row) for row in zip(*values)], dtype)
        agree(lanewise(text, *values, out=dtype), want)
        return
    out = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{bits // 8 * (2 if 'wide' in mods else 1)}").type
    whole = [integer_of(op, mods, bits, kind[0] == "s", *(int(x) for x in row)) for row in zip(*values)]
    same_bits(lanewise(text, *values, out=out), np.array([wrap(x, out) for x in whole], out))


def agree(got: Any, want: Any) -> None:
    """Equal bits; any NaN for a NaN."""
    if want.dtype.kind == "f":
        both = np.isnan(got) & np.isnan(want)
        got, want = np.where(both, want, got), want
    same_bits(got, want)


# -- the scan ----------------------------------------------------------------------------------------------------------


def emitted(path: Path, targets: tuple[str, ...]) -> dict[str, str]:
    """The forms in the PTX of a module for NVIDIA targets, with a target of each."""
    module = front(source.load(path).entries, fixed={"D": 64})
    found: dict[str, str] = {}
    for name in targets:
        text = Build(module, [load(name)]).text("ptx", load(name))
        for function in parse_ptx(text).functions.values():
            found.update({i.text: name for i in function.body})
    return found


def untested(forms: dict[str, str]) -> dict[str, str]:
    return {
        form: target for form, target in forms.items()
        if form not in LANEWISE and not any(re.fullmatch(pattern, form) for pattern in ELSEWHERE)
    }  # fmt: skip


GPUS = tuple(name for name in names() if load(name).kind == "cuda")
SMALL = [
    *("fused_elementwise", "row_normalise", "moving_average", "seeds/saxpy", "seeds/cooperative_reduction"),
    "seeds/memory_hierarchy_example",
]


@pytest.mark.parametrize("name", SMALL)
def test_samples_emit_what_is_tested(name: str) -> None:
    assert untested(emitted(SAMPLES / f"{name}.py", GPUS)) == {}


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_products_emit_what_is_tested(target: str) -> None:
    forms = emitted(SAMPLES / "seeds/gemm.py", (target,))
    assert untested(forms) == {}
    assert any(form.startswith("mma" if target == "sm_80" else "wgmma") for form in forms)


@pytest.mark.slow
@pytest.mark.parametrize("target", GPUS)
@pytest.mark.parametrize("name", ["double_buffered_gemm", "flash_attention", "optimized_memory_access", "gemm"])
def test_large_samples_emit_what_is_tested(name: str, target: str) -> None:
    assert untested(emitted(SAMPLES / f"seeds/{name}.py", (target,))) == {}


def test_operators_emit_what_is_tested(tmp_path: Path) -> None:
    path = tmp_path / "operators.py"
    path.write_text(OPERATORS)
    forms = emitted(path, ("sm_75", "sm_80", "sm_90"))
    assert untested(forms) == {} and len(forms) > 60


@pytest.mark.parametrize("test", sorted(set(ELSEWHERE.values())))
def test_the_tests_named_exist(test: str) -> None:
    module, _, name = test.rpartition(".")
    assert callable(getattr(importlib.import_module(f"tests.emulator.{module}"), name))
