"""Bundles running on the CPU: results, in/out parameters, sizes 0 and 1, threads, concurrent calls."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import tessera_runtime
from tessera_runtime.core.errors import TesseraError
from tessera_runtime.devices.cpu import CpuDevice
from tessera_runtime.devices.threads import Pool
from tesseracc.bundle import write
from tests.runtime.support import WEIGHT, bundle_bytes, contents, cpu_target


@pytest.fixture(scope="module")
def bundle() -> tessera_runtime.Bundle:
    return tessera_runtime.load(bundle_bytes(), threads=2)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 2, 127, 128, 129, 1000, 100_003])
def test_saxpy(bundle: tessera_runtime.Bundle, n: int) -> None:
    x, y = normal(n, n), normal(n + 1, n)
    expected = np.float32(0.37) * x + y
    result = bundle["saxpy"](0.37, x, y)
    assert result is y  # in place, and returned
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_inout_of_an_array_that_cannot_be_written(bundle: tessera_runtime.Bundle) -> None:
    x, y = normal(1, 200), normal(2, 200)
    kept = y.copy()
    y.flags.writeable = False
    result = bundle["saxpy"](a=2.0, x=x, y=y)
    np.testing.assert_array_equal(y, kept)
    np.testing.assert_allclose(result, 2 * x + kept, rtol=1e-6)
    wide = normal(3, 400)
    kept = wide.copy()
    result = bundle["saxpy"](2.0, x, wide[::2])
    np.testing.assert_array_equal(wide, kept)
    np.testing.assert_allclose(result, 2 * x + kept[::2], rtol=1e-6)


def test_one_array_read_and_written(bundle: tessera_runtime.Bundle) -> None:
    """Refused as by eager execution (E222), nothing done; neighbours and elements in turn share nothing."""
    y = normal(4, 501)
    before = y.copy()
    for x, written in ((y[:-1], y[1:]), (y, y), (y[::2], y[::-2]), (y[:100:2], y[98:198:2])):
        with pytest.raises(TesseraError, match="inputs 'y' and 'x' share memory, and 'y' is written") as caught:
            bundle["saxpy"](3.0, x, written)
        assert caught.value.code == "E708"
    np.testing.assert_array_equal(y, before)
    bundle["saxpy"](3.0, y[:200], y[200:400])
    np.testing.assert_allclose(y[200:400], np.float32(3) * before[:200] + before[200:400], rtol=1e-6)
    result = bundle["saxpy"](3.0, y[:100:2], y[1:101:2])
    np.testing.assert_allclose(result, np.float32(3) * before[:100:2] + before[1:101:2], rtol=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 3, 64, 65, 1001])
def test_chain_with_a_temporary_a_constant_and_a_copy(bundle: tessera_runtime.Bundle, rows: int) -> None:
    x = normal(rows, rows, 5)
    out0, out1 = bundle["chain"](x)
    np.testing.assert_array_equal(out0, x[:, ::-1] + WEIGHT)
    np.testing.assert_array_equal(out1, x[:, ::-1])


def test_inputs_in_any_layout(bundle: tessera_runtime.Bundle) -> None:
    x = normal(5, 5, 9).T
    np.testing.assert_array_equal(bundle["reverse"](x), x[:, ::-1])
    raw = np.zeros(4 * 6 + 1, dtype=np.uint8)
    shifted = raw[1:].view(np.float32).reshape(2, 3)  # not aligned to its items
    shifted[...] = normal(6, 2, 3)
    np.testing.assert_array_equal(bundle["reverse"](shifted), shifted[:, ::-1])


def test_scalars_are_their_bits(bundle: tessera_runtime.Bundle) -> None:
    bits = bundle["scalars"](-1.5, -3, 1.00390625)
    assert int(bits[0]) == int(np.float32(-1.5).view(np.uint32))
    assert int(bits[1]) == 0xFD
    assert int(bits[2]) == int(np.asarray(1.00390625, dtype=ml_dtypes.bfloat16).view(np.uint16))
    again = bundle["scalars"](np.float32(-1.5), np.int64(-3), ml_dtypes.bfloat16(1.0))
    np.testing.assert_array_equal(again, bits)


def test_the_same_bits_for_any_number_of_threads() -> None:
    x = normal(7, 777, 5)
    results = [tessera_runtime.load(bundle_bytes(), threads=n)["chain"](x)[0] for n in (1, 2, 3, 8)]
    for result in results:
        np.testing.assert_array_equal(result, x[:, ::-1] + WEIGHT)


def test_concurrent_calls(bundle: tessera_runtime.Bundle) -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        for k in range(40):
            x = normal(seed * 100 + k, 1 + (seed * 7 + k * 13) % 90, 5)
            out0, out1 = bundle["chain"](x)
            if not (np.array_equal(out0, x[:, ::-1] + WEIGHT) and np.array_equal(out1, x[:, ::-1])):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_load_from_path_bytes_and_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "m.tsb"
    data = write(path, contents())
    assert path.read_bytes() == data == bundle_bytes()
    x = normal(8, 3, 5)
    expected = x[:, ::-1]
    np.testing.assert_array_equal(tessera_runtime.load(path)["reverse"](x), expected)
    np.testing.assert_array_equal(tessera_runtime.load(str(path))["reverse"](x), expected)
    np.testing.assert_array_equal(tessera_runtime.load(bytearray(data))["reverse"](x), expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(tessera_runtime.load(file.fileno())["reverse"](x), expected)
        assert file.read(4) == b"PK\x03\x04"


def test_bundle_is_a_mapping(bundle: tessera_runtime.Bundle) -> None:
    assert (
        list(bundle) == ["saxpy", "chain", "doubled", "reverse", "scalars"] and "chain" in bundle and len(bundle) == 5
    )
    assert bundle["saxpy"].doc == "a*x + y"
    assert bundle["saxpy"].signature == "saxpy(a: f32, x: f32[N], y: inout f32[N]) -> y: f32[N]"
    assert bundle.functions["doubled"].inputs[0].dtype == "f32"
    with pytest.raises(tessera_runtime.InputError) as caught:
        bundle["nope"]
    assert caught.value.code == "E714"


# --- choosing an image -------------------------------------------------------------------------------------------


def levels() -> tessera_runtime.Bundle:
    v2 = cpu_target("x86-64-v2", machine="x86-64", requires=("sse4_2",), preference=2)
    v4 = cpu_target("x86-64-v4", machine="x86-64", requires=("avx512f", "avx2"), preference=4)
    v3 = cpu_target("x86-64-v3", machine="x86-64", requires=("avx2",), preference=3)
    arm = cpu_target("aarch64", machine="aarch64", requires=("asimd",), preference=9)
    return tessera_runtime.load(write(None, contents(targets=(v2, v4, v3, arm))), device=_Recorder())


class _Recorder(CpuDevice):
    """Chooses as a CPU does and loads whatever image is there."""

    def select(self, manifest):  # type: ignore[no-untyped-def]
        return manifest.targets[0]

    def load(self, file, target):  # type: ignore[no-untyped-def]
        return None


@pytest.mark.parametrize(
    ("features", "machine", "chosen"),
    [
        ({"sse4_2", "avx2", "avx512f"}, "x86-64", "x86-64-v4"), ({"sse4_2", "avx2"}, "x86-64", "x86-64-v3"),
        ({"sse4_2", "avx512f"}, "x86-64", "x86-64-v2"), ({"asimd"}, "aarch64", "aarch64"),
    ],
)  # fmt: skip
def test_best_supported_level_is_chosen(features: set[str], machine: str, chosen: str) -> None:
    manifest = levels().manifest
    assert CpuDevice(features=frozenset(features), machine_name=machine).select(manifest).name == chosen


def test_no_suitable_level_is_an_error_that_names_what_is_missing() -> None:
    manifest = levels().manifest
    for features, machine in ((frozenset({"avx2"}), "x86-64"), (frozenset(), "riscv64")):
        if machine == "x86-64":
            features = frozenset({"ssse3"})
        with pytest.raises(tessera_runtime.DeviceError) as caught:
            CpuDevice(features=features, machine_name=machine).select(manifest)
        assert caught.value.code == "E902" and caught.value.exit_code == 6
        assert "x86-64-v3 needs" in caught.value.message


def test_unknown_devices() -> None:
    for name in ("gpu", "cpu:", "cuda:x", "", "cuda:-1"):
        with pytest.raises(tessera_runtime.DeviceError) as caught:
            tessera_runtime.load(bundle_bytes(), device=name)
        assert caught.value.code == "E901"
    with pytest.raises(tessera_runtime.DeviceError):
        tessera_runtime.load(bundle_bytes(), threads=0)


def test_pool_covers_every_group_once_and_passes_errors_on() -> None:
    for threads in (1, 2, 5):
        pool = Pool(threads)
        for count in (1, 2, 63, 64, 65, 1000):
            seen = np.zeros(count, dtype=np.int64)

            def work(begin: int, end: int, slot: int, seen: np.ndarray = seen, threads: int = threads) -> None:
                assert 0 <= slot < threads
                seen[begin:end] += 1

            for known in (0.0, 1e-9, 1.0):  # seconds of a group: not known, not worth a thread, worth it at once
                seen[:] = 0
                assert pool.run(work, count, known) > 0
                assert (seen == 1).all()

        def fail(begin: int, end: int, slot: int) -> None:
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            pool.run(fail, 10)


def test_pool_shares_the_first_range_too_when_groups_are_known_to_take_long() -> None:
    pool, slots = Pool(2), set()
    both = threading.Barrier(2, timeout=20)

    def work(begin: int, end: int, slot: int) -> None:
        slots.add(slot)
        both.wait()  # each of the two ranges waits for the other one

    pool.run(work, 2, 1.0)
    assert slots == {0, 1}


def test_ranges_of_the_pool_become_shorter_but_not_too_short() -> None:
    for known in (1.0, 1e-5):
        ranges: list[tuple[int, int]] = []

        def work(begin: int, end: int, slot: int, ranges: list[tuple[int, int]] = ranges) -> None:
            ranges.append((begin, end))

        Pool(2).run(work, 1000, known)
        lengths = [end - begin for begin, end in sorted(ranges)]
        assert sum(lengths) == 1000 and lengths[0] == 375 and len(lengths) < 40
        assert lengths == sorted(lengths, reverse=True) and min(lengths[:-1]) * known >= 50e-6


def test_threads_of_the_pool_keep_off_the_caller() -> None:
    mine = os.sched_getaffinity(0)
    pool = Pool(2)
    try:
        pool.run(lambda begin, end, slot: None, 100, 1.0)
        for processor in sorted(mine)[:3]:
            os.sched_setaffinity(0, {processor})  # the caller's thread alone
            pool.run(lambda begin, end, slot: None, 100, 1.0)
            (other,) = (thread.native_id for thread in threading.enumerate() if thread.native_id in pool._others)
            assert os.sched_getaffinity(other) == (mine - {processor} or mine)
    finally:
        os.sched_setaffinity(0, mine)


def test_pool_finishes_when_a_later_range_fails() -> None:
    pool = Pool(3)

    def work(begin: int, end: int, slot: int) -> None:
        time.sleep(0.0002)
        if begin >= 500:
            raise ValueError("later")

    for _ in range(3):
        with pytest.raises(ValueError, match="later"):
            pool.run(work, 1000)


def test_pool_after_fork() -> None:
    """A child has none of its parent's threads and starts its own."""
    code = (
        "import os, sys, time, warnings; warnings.simplefilter('ignore')\n"
        "from tessera_runtime.devices.threads import Pool\n"
        "pool, seen = Pool(3), []\n"
        "work = lambda b, e, s: (time.sleep(0.001), seen.append((b, e)))\n"
        "pool.run(work, 100)\n"
        "if os.fork() == 0:\n"
        "    seen.clear(); pool.run(work, 100); os._exit(0 if sum(e - b for b, e in seen) == 100 else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(tessera_runtime.__file__).parent.parent)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=60).returncode == 0


def test_pool_that_another_thread_was_starting_at_a_fork() -> None:
    code = (
        "import os, sys, threading, time, warnings; warnings.simplefilter('ignore')\n"
        "from tessera_runtime.devices.threads import Pool\n"
        "pool, seen, held = Pool(2), [], threading.Event()\n"
        "def start():\n"
        "    with pool._lock:\n"
        "        held.set(); time.sleep(60)\n"
        "threading.Thread(target=start, daemon=True).start(); held.wait()\n"
        "if os.fork() == 0:\n"
        "    pool.run(lambda b, e, s: seen.append(e - b), 100, 0.001); os._exit(0 if sum(seen) == 100 else 1)\n"
        "os._exit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(tessera_runtime.__file__).parent.parent)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=20).returncode == 0


def test_narrow_types_without_ml_dtypes(tmp_path: Path) -> None:
    """bf16 and fp8 arrays are raw integers then, and the whole path works."""
    path = tmp_path / "m.tsb"
    path.write_bytes(bundle_bytes())
    code = (
        "import sys; sys.modules['ml_dtypes'] = None\n"
        "import numpy as np, tessera_runtime\n"
        "from tessera_runtime.core.dtypes import accepts, np_dtype\n"
        "from tessera_runtime.core.inputspec import load_array, parse\n"
        "assert np_dtype('bf16') == np.uint16 and accepts('bf16', np.dtype(np.uint16))\n"
        "assert not accepts('bf16', np.dtype(np.float16))\n"
        "assert load_array(parse('x=2xbf16=1 -2')).tolist() == [0x3F80, 0xC000]\n"
        "assert load_array(parse('x=2xfp8_e4m3=1 1e9')).tolist() == [0x38, 0x7E]\n"
        "assert tessera_runtime.load(sys.argv[1])['scalars'](1.0, 2, 1.0)[2] == 0x3F80\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(tessera_runtime.__file__).parent.parent)}
    assert subprocess.run([sys.executable, "-c", code, str(path)], env=environment, timeout=60).returncode == 0


def test_results_into_given_arrays(bundle: tessera_runtime.Bundle) -> None:
    x = normal(9, 4, 5)
    out1 = np.empty((4, 5), np.float32)
    out0, again = bundle["chain"].into({"out1": out1}, x)
    assert again is out1
    np.testing.assert_array_equal(out1, x[:, ::-1])
    np.testing.assert_array_equal(out0, x[:, ::-1] + WEIGHT)
    readonly = np.empty((4, 5), np.float32)
    readonly.flags.writeable = False
    wrong = [
        {"out1": np.empty((4, 4), np.float32)},
        {"out1": np.empty((4, 5))},
        {"out1": np.empty((5, 4), np.float32).T},
    ]
    wrong += [{"out1": readonly}, {"out1": x}, {"out1": [1.0]}, {"x": out1}, {"out0": out1, "out1": out1}]
    for given in wrong:
        kept = x.copy()
        with pytest.raises(tessera_runtime.InputError) as caught:
            bundle["chain"].into(given, x)
        assert caught.value.code == "E708", given
        np.testing.assert_array_equal(x, kept)
    with pytest.raises(tessera_runtime.InputError, match="expected a dict"):
        bundle["chain"].into(out1, x)
    with pytest.raises(tessera_runtime.InputError):
        bundle["saxpy"].into({"y": np.empty(3, np.float32)}, 1.0, np.ones(3, np.float32), np.ones(3, np.float32))
