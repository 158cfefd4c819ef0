"""The instructions, by family. Importing this package fills the table."""

from tesseracc.emulator.operations import (
    arithmetic as arithmetic,
)
from tesseracc.emulator.operations import (
    async_copy as async_copy,
)
from tesseracc.emulator.operations import (
    atomics as atomics,
)
from tesseracc.emulator.operations import (
    bits as bits,
)
from tesseracc.emulator.operations import (
    compare as compare,
)
from tesseracc.emulator.operations import (
    control as control,
)
from tesseracc.emulator.operations import (
    convert as convert,
)
from tesseracc.emulator.operations import (
    convert_packed as convert_packed,
)
from tesseracc.emulator.operations import (
    floating as floating,
)
from tesseracc.emulator.operations import (
    matrix as matrix,
)
from tesseracc.emulator.operations import (
    matrix_narrow as matrix_narrow,
)
from tesseracc.emulator.operations import (
    mbarriers as mbarriers,
)
from tesseracc.emulator.operations import (
    memory as memory,
)
from tesseracc.emulator.operations import (
    mma as mma,
)
from tesseracc.emulator.operations import (
    moves as moves,
)
from tesseracc.emulator.operations import (
    synchronize as synchronize,
)
from tesseracc.emulator.operations import (
    tcgen05 as tcgen05,
)
from tesseracc.emulator.operations import (
    tcgen05_copies as tcgen05_copies,
)
from tesseracc.emulator.operations import (
    tcgen05_products as tcgen05_products,
)
from tesseracc.emulator.operations import (
    video as video,
)
from tesseracc.emulator.operations import (
    warp as warp,
)
from tesseracc.emulator.operations import (
    wgmma as wgmma,
)
