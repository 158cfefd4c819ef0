"""Flags, tickets and locks inside a CTA order accesses; the same without their fences do not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.emulator.harness import run_text

# Warp 0 stores data, then a flag; warp 1 spins on the flag, then loads the data.
FLAG = """
.shared .align 4 .b32 s[2];
.reg .b32 %t, %v<3>; .reg .b64 %o; .reg .pred %p;
ld.param.u64 %o, [p0]; mov.u32 %t, %tid.x; shr.u32 %v0, %t, 5;
setp.eq.u32 %p, %t, 0; @%p st.volatile.shared.u32 [s+4], 0; bar.sync 0;
setp.ne.u32 %p, %v0, 0; @%p bra READER;
setp.ne.u32 %p, %t, 0; @%p bra END;
st.shared.u32 [s], 77;
WRITER_FENCE
st.volatile.shared.u32 [s+4], 1;
bra END;
READER:
ld.volatile.shared.u32 %v1, [s+4]; setp.eq.u32 %p, %v1, 0; @%p bra READER;
READER_FENCE
ld.shared.u32 %v2, [s];
st.global.u32 [%o], %v2;
END: ret;
"""


def flag(writer: str, reader: str) -> tuple[list[str], int]:
    out = np.zeros(1, np.uint32)
    body = FLAG.replace("WRITER_FENCE", writer).replace("READER_FENCE", reader)
    report = run_text(body, [out], block=(64,))
    return [f.code for f in report.findings], int(out[0])


@pytest.mark.parametrize("fence", ["membar.cta;", "fence.acq_rel.gpu;", "fence.sc.cta;"])
def test_a_flag_between_two_fences_orders(fence: str) -> None:
    assert flag(fence, fence) == ([], 77)


@pytest.mark.parametrize(("writer", "reader"), [("", "membar.cta;"), ("membar.cta;", ""), ("", "")])
def test_a_flag_with_a_fence_missing_does_not(writer: str, reader: str) -> None:
    assert flag(writer, reader) == (["E955"], 77)


def test_release_and_acquire_are_their_own_fences() -> None:
    out = np.zeros(1, np.uint32)
    body = FLAG.replace("WRITER_FENCE\nst.volatile", "st.release.cta").replace("READER_FENCE", "")
    acquiring = body.replace("ld.volatile.shared.u32 %v1", "ld.acquire.cta.shared.u32 %v1")
    assert not run_text(acquiring, [out], block=(64,)).findings
    relaxed = body.replace("ld.volatile.shared.u32 %v1", "ld.relaxed.cta.shared.u32 %v1")
    assert [f.code for f in run_text(relaxed, [out], block=(64,)).findings] == ["E955"]


# Every warp adds its number to a plain sum and takes a ticket; whoever takes the last one reads the sum of all.
TICKET = """
.shared .align 4 .b32 s[4]; .shared .align 4 .b32 count;
.reg .b32 %t, %w, %v<4>, %a; .reg .b64 %o; .reg .pred %p;
ld.param.u64 %o, [p0]; mov.u32 %t, %tid.x; shr.u32 %w, %t, 5; and.b32 %v0, %t, 31;
setp.eq.u32 %p, %t, 0; @%p st.shared.u32 [count], 0; bar.sync 0;
setp.ne.u32 %p, %v0, 0; @%p bra END;
mov.u32 %a, s; mad.lo.u32 %a, %w, 4, %a; st.shared.u32 [%a], %w;
FENCE
atom.shared.add.u32 %v1, [count], 1;
setp.ne.u32 %p, %v1, 3; @%p bra END;
FENCE
ld.shared.u32 %v0, [s]; ld.shared.u32 %v1, [s+4]; ld.shared.u32 %v2, [s+8]; ld.shared.u32 %v3, [s+12];
add.u32 %v0, %v0, %v1; add.u32 %v0, %v0, %v2; add.u32 %v0, %v0, %v3; st.global.u32 [%o], %v0;
END: ret;
"""


def test_the_last_ticket_sees_what_all_others_wrote() -> None:
    out = np.zeros(1, np.uint32)
    assert not run_text(TICKET.replace("FENCE", "membar.cta;"), [out], block=(128,)).findings
    assert out[0] == 6
    assert {f.code for f in run_text(TICKET.replace("FENCE", ""), [out], block=(128,)).findings} == {"E955"}


def test_a_fence_of_the_cta_does_not_reach_another_one() -> None:
    out, data = np.zeros(1, np.uint32), np.zeros(2, np.uint32)
    body = """
.reg .b32 %v<3>; .reg .b64 %o, %d; .reg .pred %p;
ld.param.u64 %o, [p0]; ld.param.u64 %d, [p1]; mov.u32 %v0, %ctaid.x; setp.ne.u32 %p, %v0, 0; @%p bra READER;
st.global.u32 [%d], 5; fence.acq_rel.SCOPE; st.relaxed.gpu.global.u32 [%d+4], 1; ret;
READER: ld.relaxed.gpu.global.u32 %v1, [%d+4]; setp.eq.u32 %p, %v1, 0; @%p bra READER;
fence.acq_rel.SCOPE; ld.global.u32 %v2, [%d]; st.global.u32 [%o], %v2; ret;
"""
    for cluster in (None, (2, 1, 1)):
        data[:] = 0
        assert not run_text(body.replace("SCOPE", "gpu"), [out, data], (2,), (32,), cluster=cluster).findings
        data[:] = 0
        found = run_text(body.replace("SCOPE", "cta"), [out, data], (2,), (32,), cluster=cluster).findings
        assert [f.code for f in found] == ["E956"]
