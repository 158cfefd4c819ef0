# Seed 3, "Tile Ranges and Iteration" (X17). Corrected: the seed leaves `process` undefined; it is defined here, and
# the import added. The kernel is verbatim: each group runs one iteration of the outer loop (rule R3), and its lanes
# share the iterations of the inner one.

import tessera as ts


def process(value):
    if value < 0.0:
        return 0.5 * value
    return value * value + 1.0


@ts.kernel
def process_chunks(input: ts.Tensor["N", ts.f32],
                  output: ts.Tensor["N", ts.f32]):
    # Process data in chunks
    CHUNK_SIZE = 128
    
    for chunk_start in ts.tile.range(0, N, CHUNK_SIZE):
        # Each tile group processes a chunk
        chunk_end = min(chunk_start + CHUNK_SIZE, N)
        
        # Cooperative processing within tile group
        for i in ts.tile.range(chunk_start, chunk_end):
            output[i] = process(input[i])
