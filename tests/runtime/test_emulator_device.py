"""The emulator as a device: a hand-written PTX image gives what NumPy gives, and its faults become errors."""

from __future__ import annotations

import numpy as np
import pytest

import tessera_runtime
from tessera_runtime.core.errors import TesseraError
from tessera_runtime.core.manifest import (
    Arg,
    Buffer,
    Capability,
    Copy,
    Function,
    Input,
    Kernel,
    Launch,
    Output,
    Param,
    Plan,
    Source,
    Symbol,
    Target,
)  # fmt: skip
from tesseracc.bundle import Contents, image_entry, write
from tesseracc.emulator_device import EmulatorDevice

PTX = """
.version 7.0
.target sm_80
.address_size 64
.visible .entry axpw(.param .f32 a, .param .u64 x, .param .u64 w, .param .u64 y, .param .u64 n)
{
    .reg .pred %p<2>;
    .reg .b32 %r<5>;
    .reg .f32 %f<6>;
    .reg .b64 %rd<12>;
    ld.param.f32 %f1, [a];
    ld.param.u64 %rd1, [x];
    ld.param.u64 %rd2, [w];
    ld.param.u64 %rd3, [y];
    ld.param.u64 %rd4, [n];
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mad.lo.s32 %r4, %r1, %r2, %r3;
    cvt.u64.u32 %rd5, %r4;
    setp.ge.s64 %p1, %rd5, %rd4;
    @%p1 bra DONE;
    shl.b64 %rd6, %rd5, 2;
    add.s64 %rd7, %rd1, %rd6;
    add.s64 %rd8, %rd3, %rd6;
    ld.global.f32 %f2, [%rd7];
    ld.global.f32 %f3, [%rd2];
    mul.rn.f32 %f4, %f1, %f2;
    add.rn.f32 %f5, %f4, %f3;
    st.global.f32 [%rd8], %f5;
DONE:
    ret;
}
"""

N = (("N",),)


def bundle(extra: int = 0) -> bytes:
    """y = a*x + w[0] through a temporary; `extra` makes the kernel run beyond the end."""
    function = Function(
        "axpw",
        "",
        (Symbol("N", "x", 0),),
        (Input("a", "scalar", "f32"), Input("x", "tensor", "f32", N)),
        (Output("out", "f32", N),),
    )
    f, w = Param("buffer", "f32"), Param("buffer", "f32", "write")
    kernel = Kernel(
        "axpw", "axpw", (Param("scalar", "f32"), f, f, w, Param("dim", "i64")), group=64, source=Source("m.py", 7)
    )
    size = ("N", extra, "add")
    plan = Plan(
        "axpw",
        (
            Buffer("input", "x", "f32", N),
            Buffer("constant", "w", "f32", (1,)),
            Buffer("temp", "", "f32", N),
            Buffer("output", "out", "f32", N),
        ),
        (
            Launch(
                0,
                ((*size, 64, "ceildiv"), 1, 1),
                (Arg(scalar="a"), Arg(buffer=0), Arg(buffer=1), Arg(buffer=2), Arg(dim=size)),
            ),
            Copy(2, 3),
        ),
    )
    cubin = Target("sm_80", "cuda", "cubin", image_entry("sm_80", "cubin"), 800, (kernel,), (plan,),
                   capability=Capability(8, 0, "minor"), ptx=image_entry("sm_80", "ptx"))  # fmt: skip
    text = Target(
        "ptx_80",
        "cuda",
        "ptx",
        image_entry("ptx_80", "ptx"),
        80,
        (kernel,),
        (plan,),
        capability=Capability(8, 0, "forward"),
    )
    images = {cubin.image: b"cubin", image_entry("sm_80", "ptx"): PTX.encode(), text.image: PTX.encode()}
    return write(None, Contents((function,), (cubin, text), images, {"w": np.array([0.25], np.float32)}))


@pytest.mark.parametrize("target", ["", "sm_80", "ptx_80"])
@pytest.mark.parametrize("n", [0, 1, 63, 64, 200])
def test_results(target: str, n: int) -> None:
    loaded = tessera_runtime.load(bundle(), device=EmulatorDevice(target))
    x = np.random.default_rng(n).standard_normal(n).astype(np.float32)
    assert loaded.target.name == (target or "sm_80")
    for _ in range(2):
        np.testing.assert_array_equal(loaded["axpw"](1.5, x), np.float32(1.5) * x + np.float32(0.25))


def test_a_finding_is_an_error_with_its_place() -> None:
    loaded = tessera_runtime.load(bundle(extra=3), device=EmulatorDevice())
    with pytest.raises(TesseraError) as caught:
        loaded["axpw"](1.0, np.ones(64, np.float32))
    assert caught.value.code == "E951" and caught.value.exit_code == 6
    assert caught.value.message.startswith("kernel axpw (m.py:7): ") and "PTX line" in caught.value.message
    assert not [s for s in loaded.program._emulator.memory.segments if s.size == 256]  # nothing of the call is left


def test_no_ptx() -> None:
    with pytest.raises(TesseraError) as caught:
        tessera_runtime.load(bundle(), device=EmulatorDevice("sm_90"))
    assert caught.value.code == "E904" and "'sm_90'" in caught.value.message
    assert "it has PTX for sm_80, ptx_80" in str(caught.value.help)
