"""`ts.profiler`: where the time goes, for compiled functions by kernel and for eager ones by operator.

    with ts.profiler.profile() as prof:
        y = model(x)
    print(prof.table())
    prof.export_chrome_trace("model.json")
"""

from __future__ import annotations

from tessera_runtime.profile import Profile as Profile
from tessera_runtime.profile import profile as profile

__all__ = ["Profile", "profile"]
