# Seed 3, "Tiles and Groups" (X16). Verbatim but for the import. `N` is the extent of data (rule R1); a tile is one
# lane here.

import tessera as ts

@ts.kernel
def tile_example(data: ts.Tensor["N", ts.f32]):
    # Get tile identification
    tile_id = ts.tile.linear_id()
    group_id = ts.tile.group_id()
    lane_id = ts.tile.lane_id()
    
    # Tile-level operations
    if tile_id < N:
        # Each tile processes one element
        data[tile_id] *= 2.0
