"""The table of instructions: every entry says where it is documented and what it means; variants come first."""

from __future__ import annotations

import re

import numpy as np
import pytest

import tesseracc.emulator.operations  # noqa: F401  fills the table
from tesseracc.emulator import parse_ptx
from tesseracc.emulator.table import TABLE, entry_of
from tests.emulator.harness import run_text


@pytest.mark.parametrize("name", sorted(TABLE))
def test_entries_are_documented(name: str) -> None:
    entry = TABLE[name]
    assert entry.opcode == name and re.match(r"9\.7(\.\d+)*\b", entry.section), entry.section
    assert entry.meaning.endswith(".")


def test_variants_have_entries_of_their_own() -> None:
    forms = {
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32": "mma",
        "mma.sp::ordered_metadata.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32": "mma.sp",
        "wgmma.mma_async.sp.sync.aligned.m64n8k32.f32.f16.f16": "wgmma.sp", "wgmma.fence.sync.aligned": "wgmma",
        "cvt.pack.sat.u8.s32.b32": "cvt.pack", "cvt.rn.f16.f32": "cvt", "tcgen05.wait::ld.sync.aligned": "tcgen05.wait",
        "ldmatrix.sync.aligned.m8n16.x1.shared.b8x16.b4x16_p64": "ldmatrix.m8n16",
    }  # fmt: skip
    body = "\n".join(f"{form};" for form in forms)
    module = parse_ptx(f".version 8.8\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{{\n{body}\nret;\n}}\n")
    found = [entry_of(i) for i in module.entries["k"].body[: len(forms)]]
    assert [entry.opcode if entry else None for entry in found] == list(forms.values())


def test_an_unknown_action_is_named() -> None:
    with pytest.raises(Exception, match=r"E941.*line 7: unknown instruction `tcgen05.weigh"):
        run_text("tcgen05.weigh.cta_group::1;\nret;", [np.zeros(1, np.uint32)])
