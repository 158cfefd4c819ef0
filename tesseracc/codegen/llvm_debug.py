"""Line tables: source locations of operations as LLVM metadata, so that PTX carries `.loc` lines.

Only files, lines and columns; no variables, no types.
"""

from __future__ import annotations

import json

from tesseracc.ir.value import Loc


class Debug:
    """The metadata of one module. Numbers are given in order of first use."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.known: dict[object, int] = {}
        self.scope: int | None = None
        self.scope_file = ""
        self.start = 1
        self.unit: int | None = None

    def _node(self, key: object, text: str) -> int:
        if key not in self.known:
            self.known[key] = len(self.lines)
            self.lines.append(f"!{len(self.lines)} = {text}")
        return self.known[key]

    def _file(self, name: str) -> int:
        return self._node(("file", name), f'!DIFile(filename: {json.dumps(name)}, directory: "")')

    def function(self, symbol: str, loc: Loc | None) -> str:
        """Opens a function; returns what follows its attributes. Functions without a location get no lines."""
        if loc is None:
            self.scope = None
            return ""
        file = self._file(loc.file)
        if self.unit is None:
            kinds = 'producer: "tesseracc", isOptimized: true, runtimeVersion: 0, emissionKind: DebugDirectivesOnly'
            self.unit = self._node("unit", f"distinct !DICompileUnit(language: DW_LANG_C99, file: !{file}, {kinds})")
        kind = self._node("type", "!DISubroutineType(types: !{null})")
        self.scope_file, self.start = loc.file, loc.line
        self.scope = self._node(
            ("scope", symbol),
            f"distinct !DISubprogram(name: {json.dumps(symbol)}, scope: !{file}, file: !{file}, line: {loc.line}, "
            f"type: !{kind}, scopeLine: {loc.line}, spFlags: DISPFlagDefinition, unit: !{self.unit})",
        )
        return f" !dbg !{self.scope}"

    def suffix(self, loc: Loc | None) -> str:
        """What an instruction at `loc` ends with."""
        if self.scope is None:
            return ""
        if loc is None:
            loc = Loc(self.scope_file, self.start)
        scope = self.scope
        if loc.file != self.scope_file:
            file = self._file(loc.file)
            scope = self._node(
                ("block", self.scope, loc.file),
                f"!DILexicalBlockFile(scope: !{self.scope}, file: !{file}, discriminator: 0)",
            )
        # No column: Python 3.10 does not know it, and the bytes are the same for every version.
        node = self._node(("loc", scope, loc.line), f"!DILocation(line: {loc.line}, scope: !{scope})")
        return f", !dbg !{node}"

    def text(self) -> list[str]:
        """The module's metadata."""
        if self.unit is None:
            return []
        flags = len(self.lines)
        return [
            *self.lines,
            f'!{flags} = !{{i32 2, !"Debug Info Version", i32 3}}',
            f"!llvm.module.flags = !{{!{flags}}}",
            f"!llvm.dbg.cu = !{{!{self.unit}}}",
        ]
