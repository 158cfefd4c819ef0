"""Control flow that data decides: `ts.cond`, `ts.while_loop`, `ts.scan`.

Each is an operator that holds programs (tessera.programs) in place of Python code, closed over their operands; so it
runs eagerly, is traced as one operation with regions, and has derivatives and batches like any other operator.
"""

from tessera.control.base import Control as Control
from tessera.control.branch import Cond as Cond
from tessera.control.branch import cond as cond
from tessera.control.loop import While as While
from tessera.control.loop import while_loop as while_loop
from tessera.control.scan import Scan as Scan
from tessera.control.scan import scan as scan
