"""Releases by some lanes of a warp: what its other lanes did since they last came together is not published by them.

A clock of a warp stands for a release, and whoever knows it knows what came before. Where only the lanes of a mask
released, that is: what those lanes did, and what the warp as a whole had synchronised or released earlier. The lanes of
a warp need not run in step, so an arrival of one lane for all of them needs a bar.warp.sync in front of it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

import numpy as np

from tesseracc.emulator.types import Array

__all__ = ["LaneReleases"]


class LaneReleases:
    """By warp of a batch: clocks of such releases, ascending; of each up to where all lanes did, and its mask."""

    def __init__(self) -> None:
        self.clocks: dict[int, list[int]] = {}
        self.made: dict[int, list[tuple[int, int]]] = {}

    def __bool__(self) -> bool:
        return bool(self.clocks)

    def note(self, warp: int, clock: int, whole: int, mask: int) -> None:
        """The lanes of `mask` release at `clock`; everything up to `whole` is of lanes that had come together."""
        self.clocks.setdefault(warp, []).append(clock)
        self.made.setdefault(warp, []).append((whole, mask))

    def missed(self, warps: Array, known: Array, clocks: Array, lanes: Array) -> Array:
        """Whether accesses [n] by `lanes` of `warps` at `clocks` are hidden from those who know the warp's `known`.

        Who knows a release is taken to know the warp's earlier ones too.
        """
        out = np.zeros(len(warps), np.bool_)
        pairs, which = np.unique(np.stack([warps, known]), axis=1, return_inverse=True)
        which = which.reshape(-1)
        for number, (warp, last) in enumerate(pairs.T.tolist()):
            times = self.clocks.get(warp, [])
            end = bisect_right(times, last)
            if not end or times[end - 1] != last:
                continue
            made = self.made[warp]
            for at in np.flatnonzero(which == number).tolist():
                clock, bit = int(clocks[at]), 1 << int(lanes[at])
                start = bisect_left(times, clock)
                out[at] = clock > made[end - 1][0] and not any(mask & bit for _, mask in made[start:end])
        return out
