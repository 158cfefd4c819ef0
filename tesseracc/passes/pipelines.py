"""Which passes run, in which order, and why: data.

A pipeline is a sequence of steps. Every pass leaves functions of other levels alone, so a module may hold several.
"""

from __future__ import annotations

from tesseracc.ir.pipeline import Step, parse_pipeline
from tesseracc.passes.graph import algebra as _algebra
from tesseracc.passes.graph import canonicalize as _canonicalize
from tesseracc.passes.graph import cse as _graph_cse
from tesseracc.passes.graph import decompose as _decompose
from tesseracc.passes.graph import fold_constants as _fold_constants
from tesseracc.passes.graph import relax as _relax
from tesseracc.passes.graph import remove_dead as _graph_remove_dead
from tesseracc.passes.graph import specialise as _specialise
from tesseracc.passes.graph import to_schedule as _to_schedule
from tesseracc.passes.schedule import choose_strategy as _choose_strategy
from tesseracc.passes.schedule import collapse_dims as _collapse_dims
from tesseracc.passes.schedule import copies_to_views as _copies_to_views
from tesseracc.passes.schedule import drop_unit_axes as _drop_unit_axes
from tesseracc.passes.schedule import flatten_accesses as _flatten_accesses
from tesseracc.passes.schedule import fuse as _fuse
from tesseracc.passes.schedule import fuse_siblings as _fuse_siblings
from tesseracc.passes.schedule import join_chains as _join_chains
from tesseracc.passes.schedule import mark_updates as _mark_updates
from tesseracc.passes.schedule import order_results as _order_results
from tesseracc.passes.schedule import split_products as _split_products
from tesseracc.passes.schedule import split_reductions as _split_reductions
from tesseracc.passes.schedule import stream_weights as _stream_weights
from tesseracc.passes.schedule import tidy as _tidy
from tesseracc.passes.schedule import to_tile as _to_tile
from tesseracc.passes.target import contract as _contract
from tesseracc.passes.target import expand_fma as _expand_fma
from tesseracc.passes.target import expand_math as _expand_math
from tesseracc.passes.target import expand_narrow as _expand_narrow
from tesseracc.passes.target import lower_cpu as _lower_cpu
from tesseracc.passes.target import lower_gpu as _lower_gpu
from tesseracc.passes.tile import carry_blocks as _carry_blocks
from tesseracc.passes.tile import choose_warps as _choose_warps
from tesseracc.passes.tile import count_flops as _count_flops
from tesseracc.passes.tile import exact_units as _exact_units
from tesseracc.passes.tile import forward_shared as _forward_shared
from tesseracc.passes.tile import join_launches as _join_launches
from tesseracc.passes.tile import join_variants as _join_variants
from tesseracc.passes.tile import keep_operands as _keep_operands
from tesseracc.passes.tile import maps_to_tiles as _maps_to_tiles
from tesseracc.passes.tile import name_operations as _name_operations
from tesseracc.passes.tile import pipeline_loads as _pipeline_loads
from tesseracc.passes.tile import place_groups as _place_groups
from tesseracc.passes.tile import share_copies as _share_copies
from tesseracc.passes.tile import share_tiles as _share_tiles
from tesseracc.passes.tile import sink_reads as _sink_reads
from tesseracc.passes.tile import tiles_to_maps as _tiles_to_maps
from tesseracc.passes.tile import update_in_place as _update_in_place
from tesseracc.passes.tile import version_copies as _version_copies

# importing a pass registers it
_PASSES = (
    _stream_weights, _algebra, _split_products,
    _specialise, _decompose, _canonicalize, _relax, _graph_cse, _fold_constants, _graph_remove_dead, _to_schedule,
    _fuse, _drop_unit_axes, _tidy, _flatten_accesses, _collapse_dims, _copies_to_views, _split_reductions,
    _choose_strategy, _to_tile, _join_variants, _contract, _expand_fma, _expand_math, _expand_narrow,
    _lower_cpu, _lower_gpu, _mark_updates, _update_in_place, _forward_shared, _maps_to_tiles, _exact_units,
    _pipeline_loads, _place_groups, _share_copies, _tiles_to_maps, _version_copies, _carry_blocks,
    _count_flops, _share_tiles, _keep_operands, _choose_warps, _join_launches,
    _fuse_siblings, _join_chains, _name_operations, _order_results, _sink_reads,
)  # fmt: skip

# Variants for known sizes are functions of their own from the start, so that every pass makes the best of them.
# Equations between whole operators come before these are taken apart.
# Identities are looked for on the primitives that compositions leave, first those that hold bit for bit; equal
# operations are shared before constants are folded, so that each is folded once.
GRAPH: tuple[Step, ...] = parse_pipeline(
    "specialise,algebra,decompose,canonicalize,relax,graph-cse,fold-constants,graph-remove-dead"
)

# Fusion wants one group per operator, in pull form, with all axes; so it comes first, then that of siblings, which have
# equal axes still. Loops of extent 1 go next (they hide that indices are affine), then the clean-up that cancels index
# arithmetic. What still is not affine is read through merged axes, for which results are laid out, and only then loops
# collapse, for both look at the accesses as they will be. A group that by now only copies is a view. Long reductions
# are cut last: partial results are in memory, so nothing fuses across them. What groups read and write is final then:
# state that can be updated where it lies is marked.
SCHEDULE: tuple[Step, ...] = parse_pipeline(
    "graph-to-schedule,join-chains,fuse,fuse-siblings,drop-unit-axes,tidy,order-results,flatten-accesses,"
    "collapse-dims,tidy,copies-to-views,split-reductions,mark-updates"
)

# What streams is one group before strategies are chosen, and says itself how it runs; parts of products are groups
# like others. The strategy of others is recorded before the target is known to matter; the lowering reads the target's
# sizes. Launches are joined when it is known which memory each of them writes. What kernels do is counted last.
TILE: tuple[Step, ...] = parse_pipeline(
    "stream-weights,split-products,choose-strategy,schedule-to-tile,update-in-place,join-launches,join-variants,"
    "count-flops,name-operations"
)

# Products and sums contract before functions become polynomials, whose steps are chosen for where they round; functions
# become polynomials before narrow types become integers (their arguments are f32 and f64); what both leave
# of fused multiply-add is expanded last.
_EXPAND = "contract,expand-math,expand-narrow,expand-fma"
# What a tile kernel says of shared memory goes before loops get rings of their own; versions come last, for what is
# copied is known by then. Who does which block of the work comes last: versions differ in it. Operands are read where
# they are used first once it is known from where.
_RINGS = (
    "forward-shared,carry-blocks,share-tiles,choose-warps,keep-operands,pipeline-loads,version-copies,share-copies,"
    "place-groups,sink-reads"
)
TARGET: dict[str, tuple[Step, ...]] = {
    "cpu": parse_pipeline(f"tiles-to-maps,tile-to-cpu,{_EXPAND}"),
    "cuda": parse_pipeline(f"maps-to-tiles,exact-units,{_RINGS},tile-to-gpu,{_EXPAND}"),
}

#: what stays apart, and why
APART: tuple[str, ...] = (
    "Products of one input with several matrices, as q, k and v, are a launch each on GPUs. One launch that branches "
    "to the code of each holds the rings of all in shared memory (sm_90, bf16, tiles of 128 x 128: 224 KiB, and 128 "
    "KiB apart) and has no version with tensor copies, for `version-copies` takes kernels of one pipeline. One product "
    "with the matrices side by side copies them in every call where they are arguments. What is missing is an "
    "operation that picks one of several buffers by the number of a group, through which accesses, `multiples` and "
    "tensor maps (a descriptor belongs to one parameter) would have to be followed.",
    "Attention of 32 static query rows or fewer is not streamed on GPUs: a tile would have all rows, so that there "
    "are no more groups than heads. Scores, weights, their sums and the result are a launch each, of which the first "
    "and the last run in parallel along the keys or the columns.",
)
