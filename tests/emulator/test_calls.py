"""Calls of functions: parameters, results, what is initialised."""

from __future__ import annotations

import numpy as np

from tests.emulator.harness import run_text

PADDED = """
.func (.param .align 8 .b8 r[16]) padded(.param .b64 x)
{ .reg .b64 %v; ld.param.u64 %v, [x]; st.param.b64 [r], %v; st.param.b32 [r+8], 7; ret; }
"""
CALLER = """
.reg .b64 %a, %v; .reg .b32 %w<3>;
ld.param.u64 %a, [p0];
{ .param .b64 arg; st.param.b64 [arg], %a; .param .align 8 .b8 res[16];
call.uni (res), padded, (arg);
ld.param.b64 %v, [res]; ld.param.v2.b32 {%w0, %w1}, [res+8]; }
st.global.u64 [%a], %v; st.global.u32 [%a+8], %w0;
ret;
"""


def test_padding_of_a_result_may_be_read() -> None:
    """Compilers pass structures on as a whole: padding that the callee did not write is no uninitialised read."""
    out = np.zeros(4, np.uint32)
    report = run_text(CALLER, [out], block=(1,), module=PADDED)
    assert not report.findings
    assert out[2] == 7


def test_an_unwritten_argument_is_reported() -> None:
    out = np.zeros(4, np.uint32)
    report = run_text(CALLER.replace("st.param.b64 [arg], %a;", ""), [out], block=(1,), module=PADDED)
    assert [f.code for f in report.findings] == ["E953"]
