"""The target descriptions: complete, consistent, and strict about mistakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from tessera_runtime.core.errors import TesseraError
from tesseracc.arch import Arch, arch, default_cpu_levels, load, names, resolve

CHIPS = ("sm_70", "sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")


def test_every_chip_and_level_is_there() -> None:
    assert set(CHIPS) <= set(names())
    assert default_cpu_levels() == ("x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64")
    assert set(default_cpu_levels(frozenset({"bf16", "f32"}))) - set(default_cpu_levels()) == {"x86-64-v4-bf16"}
    assert {"ptx_75", "ptx_80", "x86-64-v4-amx"} <= set(names())


@pytest.mark.parametrize("name", names())
def test_description_is_consistent(name: str) -> None:
    target = load(name)
    limits, tool = target.limits, target.toolchain
    assert target.name == name and target.description
    assert limits.threads_per_block <= limits.threads_per_sm
    assert limits.shared_static <= limits.shared_per_block <= limits.shared_per_sm
    assert limits.shared_per_block + limits.shared_reserved <= limits.shared_per_sm
    assert target.vector_bits in (128, 256, 512) and target.group % max(target.lanes, 1) == 0
    assert all(rate > 0 for rate in target.throughput.tflops.values()) and target.throughput.tflops["f32"] > 0
    assert target.memory("global").bytes == 0
    if target.kind == "cuda":
        assert (tool.image, tool.machine) != ("elf", "") and tool.assembler.startswith("sm_") and target.capability
        assert limits.threads_per_sm % target.lanes == 0 and target.memory("shared").bytes == limits.shared_per_sm
        assert not target.requires
    else:
        assert tool.image == "elf" and tool.machine in ("x86-64", "aarch64") and target.capability is None
        assert target.requires and target.vector_registers in (16, 32)
    for row in target.mma:
        assert row.m % 8 == 0 and all(n % 8 == 0 for n in row.n) and row.k % 4 == 0


def test_features_imply_their_instructions() -> None:
    for name in names():
        target = load(name)
        ops = {row.op for row in target.mma}
        assert target.has("wgmma") == ("wgmma" in ops) and target.has("tcgen05") == ("tcgen05" in ops)
        assert target.has("amx_bf16") == ("amx" in ops)
        assert not target.has("tma") or target.has("mbarrier_tx")
        assert target.has("cluster") == (target.limits.cluster > 1)


def test_known_facts() -> None:
    hopper = load("sm_90")
    assert hopper.toolchain.cpu == hopper.toolchain.assembler == "sm_90a"
    assert hopper.limits.shared_per_block == 227 * 1024 and hopper.lanes == 32 and hopper.group == 128
    assert {row.n[-1] for row in hopper.mma if row.op == "wgmma"} == {256}
    assert hopper.capability is not None and hopper.capability.match == "exact"
    blackwell = load("sm_100")
    assert not blackwell.has("wgmma") and blackwell.has("tcgen05") and blackwell.memory("tensor").bytes == 256 * 1024
    assert load("sm_86").limits.shared_per_block == 99 * 1024 and not load("sm_86").has("fp8_convert")
    assert load("x86-64-v4").vector_bits == 512 and "-prefer-256-bit" in load("x86-64-v4").toolchain.features
    assert set(load("x86-64-v3").requires) < set(load("x86-64-v4").requires)


def test_aliases_and_groups() -> None:
    assert load("h100") is load("sm_90") is load("sm_90a")
    assert [target.name for target in resolve(["h100", "cpu", "sm_90"])] == ["sm_90", *default_cpu_levels()]
    aliases = [alias for name in names() for alias in load(name).aliases]
    assert len(set(aliases)) == len(aliases)


NEAR = [("sm_91", "sm_90"), ("x86_64-v3", "x86-64-v3"), ("h1OO", "h100"), ("cpus", "cpu")]


@pytest.mark.parametrize(("wrong", "near"), NEAR)
def test_unknown_target_names_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(TesseraError) as caught:
        load(wrong)
    assert caught.value.code == "E805" and caught.value.exit_code == 2
    assert wrong in caught.value.message and f"did you mean {near}?" in str(caught.value.help)


def test_unknown_feature_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="teleport"):
        load("sm_90").has("teleport")
    assert dataclasses.is_dataclass(Arch)
    with pytest.raises(dataclasses.FrozenInstanceError):
        load("sm_90").lanes = 64  # type: ignore[misc]


def _without(data: Mapping[str, Any], *path: str) -> dict[str, Any]:
    copy = dict(data)
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = _without(copy[path[0]], *path[1:])
    return copy


def test_descriptions_are_read_strictly() -> None:
    good = arch._merged("sm_90")
    assert arch._parse("sm_90", good) == load("sm_90")
    for path in (("lanes",), ("limits", "grid"), ("limits", "barriers"), ("toolchain", "cpu"), ("capability", "match")):
        with pytest.raises(TesseraError, match=path[-1]) as caught:
            arch._parse("sm_90", _without(good, *path))
        assert caught.value.code == "E501"
    mistakes: list[dict[str, Any]] = [{"lane": 3}, {"lanes": "32"}, {"kind": "tpu"}]
    mistakes += [{"features": ["warp_drive"]}, {"features": ["tma", "tma"]}]
    for extra in mistakes:
        with pytest.raises(TesseraError) as caught:
            arch._parse("sm_90", good | extra)
        assert caught.value.code == "E501"


def test_inheritance(monkeypatch: pytest.MonkeyPatch) -> None:
    files: dict[str, Any] = {
        "a": {"aliases": ["first"], "list": ["x", "y"], "map": {"p": 1, "q": 2}, "rows": [{"op": "u"}, {"op": "v"}]},
        "b": {"inherits": "a", "without": {"list": ["x"], "rows": ["u"]}, "list": ["z"], "map": {"q": 3}},
        "c": {"inherits": "a", "without": {"list": ["nothing"]}},
    }
    monkeypatch.setattr(arch, "_read", files.__getitem__)
    assert arch._merged("b") == {"list": ["y", "z"], "map": {"p": 1, "q": 3}, "rows": [{"op": "v"}]}
    with pytest.raises(TesseraError, match="removes nothing"):
        arch._merged("c")
    assert files["a"]["list"] == ["x", "y"]
