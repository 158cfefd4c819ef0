"""All operators and the functions that apply them. A new operator goes into the file of its family."""

from tessera.ops.compare import *  # noqa: F403
from tessera.ops.create import *  # noqa: F403
from tessera.ops.elementwise import *  # noqa: F403
from tessera.ops.functions import *  # noqa: F403
from tessera.ops.indexing import *  # noqa: F403
from tessera.ops.linalg import *  # noqa: F403
from tessera.ops.nn import *  # noqa: F403
from tessera.ops.parts import *  # noqa: F403
from tessera.ops.reduce import *  # noqa: F403
from tessera.ops.subscript import *  # noqa: F403
from tessera.ops.views import *  # noqa: F403
