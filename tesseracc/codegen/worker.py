"""The LLVM worker: a separate process that turns LLVM IR text into objects, assembly or optimised IR.

LLVM ends the process that it runs in when it cannot select an instruction or lacks a library function, so it runs in
this one and `tesseracc.codegen.pool` in the compiler turns its death into a diagnostic. The file is run by path, not
imported, and needs the standard library and llvmlite only, to start fast: `python -I -S worker.py SYS_PATH...`.

Protocol, on standard input and output, both ways: two little-endian u32 (length of header, length of body), a header in
JSON, a body in bytes. The worker speaks first, when LLVM is ready.

    greeting  {"llvm": "22.1.0"}, empty
    request   {"triple", "cpu", "features", "emit": "object" | "assembly" | "llvm", "opt": 0..3, "only": name | null},
              IR text
    reply     {"ok": true}, the result      or      {"ok": false, "stage": "parse" | ..., "message"}, empty

`opt` chooses the work done on the IR before instruction selection:

    0   none
    1   a short list of scalar clean-ups (below). The compiler's IR arrives tiled, unrolled and vectorised, and code
        generation does its own common-subexpression elimination, loop-invariant code motion and strength reduction:
        on kernels of the usual kind this gives the code of `2` for about a quarter of its time
    2   LLVM's O1 pipeline
    3   LLVM's O3 pipeline

Loop and SLP vectorisers and LLVM's unroller are off everywhere, and so is the recognition of loops as memset or memcpy:
an image has no C library to call. Nothing here allows floating-point contraction or reassociation.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from typing import Any, Protocol

HEAD = struct.Struct("<II")


class Sink(Protocol):
    """What messages are written to: `write` takes everything."""

    def write(self, data: bytes, /) -> object: ...

    def flush(self) -> object: ...


class Source(Protocol):
    """What messages are read from: `read` gives as many bytes as asked for, fewer only at the end."""

    def read(self, size: int, /) -> bytes: ...


def write_message(stream: Sink, header: dict[str, Any], body: bytes) -> None:
    """Send one message."""
    text = json.dumps(header).encode()
    stream.write(HEAD.pack(len(text), len(body)) + text + body)
    stream.flush()


def read_message(stream: Source) -> tuple[dict[str, Any], bytes] | None:
    """Receive one message; None when the other side has closed the pipe."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    header_size, body_size = HEAD.unpack(head)
    header, body = stream.read(header_size), stream.read(body_size)
    if len(header) < header_size or len(body) < body_size:
        return None
    return json.loads(header), body


class Failure(Exception):
    """LLVM refused the module in an orderly way, in the named stage."""

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message)
        self.stage = stage


class Compiler:
    """One process's LLVM. Target machines are kept, one per target and level."""

    def __init__(self) -> None:
        from llvmlite import binding

        self.llvm = binding
        binding.initialize_all_targets()
        binding.initialize_all_asmprinters()
        binding.set_option("tesseracc", "--disable-loop-idiom-all")
        self.machines: dict[tuple[str, str, str, int], Any] = {}

    def machine(self, triple: str, cpu: str, features: str, opt: int) -> Any:
        key = (triple, cpu, features, opt)
        if key not in self.machines:
            try:
                target = self.llvm.Target.from_triple(triple)
            except RuntimeError as error:
                raise Failure("target", str(error)) from error
            # Code generation below level 3 moves wgmma accumulators about; level 0 of ours only skips the IR passes.
            self.machines[key] = target.create_target_machine(
                cpu=cpu, features=features, opt=3, reloc="pic", codemodel="small"
            )
        return self.machines[key]

    def compile(self, request: dict[str, Any], text: str) -> bytes:
        """The reply's body. Raises Failure; may also end the process."""
        machine = self.machine(request["triple"], request["cpu"], request["features"], request["opt"])
        try:
            module = self.llvm.parse_assembly(text)
        except RuntimeError as error:
            raise Failure("parse", str(error)) from error
        module.triple = request["triple"]
        module.data_layout = str(machine.target_data)
        try:
            module.verify()
        except RuntimeError as error:
            raise Failure("verify", str(error)) from error
        if request["only"] is not None:
            # The other bodies stay visible to the optimiser but no code is made for them.
            for function in module.functions:
                if not function.is_declaration and function.name != request["only"]:
                    function.linkage = self.llvm.Linkage.available_externally
        self.optimise(module, machine, request["opt"])
        if request["emit"] == "llvm":
            return str(module).encode()
        if request["emit"] == "assembly":
            assembly: str = machine.emit_assembly(module)
            return assembly.encode()
        image: bytes = machine.emit_object(module)
        return image

    def optimise(self, module: Any, machine: Any, opt: int) -> None:
        if opt == 0:
            return
        tuning = self.llvm.create_pipeline_tuning_options(speed_level={1: 1, 2: 1, 3: 3}[opt])
        tuning.loop_vectorization = tuning.slp_vectorization = False
        tuning.loop_interleaving = tuning.loop_unrolling = False
        builder = self.llvm.create_pass_builder(machine, tuning)
        if opt == 1:
            passes = self.llvm.create_new_module_pass_manager()
            passes.add_always_inliner_pass()
            passes.add_sroa_pass()
            passes.add_instruction_combine_pass()
            passes.add_simplify_cfg_pass()
            passes.add_loop_rotate_pass()
            passes.add_new_gvn_pass()
            passes.add_instruction_combine_pass()
            passes.add_simplify_cfg_pass()
            passes.add_global_dead_code_eliminate_pass()
        else:
            passes = builder.getModulePassManager()
        passes.run(module, builder)


def main() -> None:
    """Serve requests until standard input is closed."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the compiler decides; it closes our input when it stops
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever LLVM prints must not land among the replies
    sys.path[:] = sys.argv[1:]
    compiler = Compiler()
    write_message(replies, {"llvm": ".".join(map(str, compiler.llvm.llvm_version_info))}, b"")
    while (message := read_message(requests)) is not None:
        request, body = message
        try:
            result = compiler.compile(request, body.decode())
        except Failure as failure:
            write_message(replies, {"ok": False, "stage": failure.stage, "message": str(failure)}, b"")
        else:
            write_message(replies, {"ok": True}, result)


if __name__ == "__main__":
    main()
