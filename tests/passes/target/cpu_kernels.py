"""Tile IR kernels, as text, that the tests of the CPU lowering run."""

from __future__ import annotations

SAXPY = """
tile.kernel @saxpy(%x: buf<f32[N], global>, %y: buf<f32[N], global>, %a: f32) {group = 128,
    grid = [<ceildiv(N, 128)>], symbols = ["N"], access = ["read", "readwrite", "value"]} {
  %i = tile.linear_id : lanes<i64>
  %n = tile.dim {expr = <N>} : i64
  %nn = tile.splat %n : lanes<i64>
  %c = arith.cmp %i, %nn {pred = "lt"} : lanes<bool>
  tile.if %c () {
    %xv = tile.load %x, [%i] : lanes<f32>
    %yv = tile.load %y, [%i] : lanes<f32>
    %al = tile.splat %a : lanes<f32>
    %r = arith.fma %al, %xv, %yv : lanes<f32>
    tile.store %r, %y, [%i]
  } () {
  }
}
"""

#: every group writes its number for itself and for those whose work it takes, three at most; the last two never join
SPANS = """
tile.kernel @spans(%o: buf<i64[N], global>) {group = 16, grid = [<N>], symbols = ["N"], access = ["write"]} {
  %g = tile.group_id : i64
  %n = tile.dim {expr = <N>} : i64
  %one = arith.constant {value = 1} : i64
  %three = arith.constant {value = 3} : i64
  %last = arith.sub %n, %one : i64
  %left = arith.sub %last, %g : i64
  %some = arith.max %left, %one : i64
  %limit = arith.min %three, %some : i64
  %s = tile.group_span %limit : i64
  %end = arith.add %g, %s : i64
  scf.for %g, %end, %one, [] (%i: i64) {
    tile.store %g, %o, [%i]
  }
}
"""


def matmul(
    m: int, n: int, k: int, dtype: str = "f32", acc: str = "f32", *, extents: bool = True, transposed: bool = False
) -> str:
    """c = a b + bias over tiles of m x n, k at a time; `extents` bounds the product; `transposed`: of a^T, b^T."""
    a_at, b_at = ("%q, %r", "%q, %r") if transposed else ("%r, %q", "%r, %q")
    a_dims, b_dims = ("K, M", "N, K") if transposed else ("M, K", "K, N")
    bound = ", [%em, %en, %ek]" if extents else ", []"
    return f"""
tile.kernel @mm(%a: buf<{dtype}[{a_dims}], global>, %b: buf<{dtype}[{b_dims}], global>, %bias: buf<{acc}[N], global>,
    %c: buf<{acc}[M, N], global>) {{group = 64, grid = [<ceildiv(N, {n})>, <ceildiv(M, {m})>],
    symbols = ["K", "M", "N"], access = ["read", "read", "read", "write"]}} {{
  %gn = tile.group_id {{axis = 0}} : i64
  %gm = tile.group_id {{axis = 1}} : i64
  %tm = arith.constant {{value = {m}}} : i64
  %tn = arith.constant {{value = {n}}} : i64
  %tk = arith.constant {{value = {k}}} : i64
  %zero = arith.constant {{value = 0}} : i64
  %m0 = arith.mul %gm, %tm : i64
  %n0 = arith.mul %gn, %tn : i64
  %m = tile.dim {{expr = <M>}} : i64
  %n = tile.dim {{expr = <N>}} : i64
  %k = tile.dim {{expr = <K>}} : i64
  %em = arith.sub %m, %m0 : i64
  %en = arith.sub %n, %n0 : i64
  %z = tile.zeros : tile<{acc}[{m}, {n}]>
  %acc = scf.for %zero, %k, %tk, [%z] (%k0: i64, %s: tile<{acc}[{m}, {n}]>) {{
    %ek = arith.sub %k, %k0 : i64
    %ta = tile.map [%em, %ek], [] {{shape = [{m}, {k}]}} (%i: lanes<i64>, %j: lanes<i64>) {{
      %mm = tile.splat %m0 : lanes<i64>
      %kk = tile.splat %k0 : lanes<i64>
      %r = arith.add %mm, %i : lanes<i64>
      %q = arith.add %kk, %j : lanes<i64>
      %v = tile.load %a, [{a_at}] : lanes<{dtype}>
      yield %v
    }} : tile<{dtype}[{m}, {k}]>
    %tb = tile.map [%ek, %en], [] {{shape = [{k}, {n}]}} (%i: lanes<i64>, %j: lanes<i64>) {{
      %nn = tile.splat %n0 : lanes<i64>
      %kk = tile.splat %k0 : lanes<i64>
      %r = arith.add %kk, %i : lanes<i64>
      %q = arith.add %nn, %j : lanes<i64>
      %v = tile.load %b, [{b_at}] : lanes<{dtype}>
      yield %v
    }} : tile<{dtype}[{k}, {n}]>
    %t = tile.mma %ta, %tb, %s{bound} : tile<{acc}[{m}, {n}]>
    yield %t
  }} : tile<{acc}[{m}, {n}]>
  tile.map [%em, %en], [%acc] {{shape = [{m}, {n}]}} (%i: lanes<i64>, %j: lanes<i64>, %v: lanes<{acc}>) {{
    %mm = tile.splat %m0 : lanes<i64>
    %nn = tile.splat %n0 : lanes<i64>
    %r = arith.add %mm, %i : lanes<i64>
    %q = arith.add %nn, %j : lanes<i64>
    %bv = tile.load %bias, [%q] : lanes<{acc}>
    %o = arith.add %v, %bv : lanes<{acc}>
    tile.store %o, %c, [%r, %q]
  }}
}}
"""


#: per row: (x - max) / sum(x - max + 1), rows over groups, columns over lanes
ROWS = """
tile.kernel @rows(%x: buf<f32[N, D], global>, %y: buf<f32[N, D], global>) {group = 64, grid = [<N>],
    symbols = ["D", "N"], access = ["read", "write"]} {
  %row = tile.group_id {axis = 0} : i64
  %lane = tile.local_id : lanes<i64>
  %d = tile.dim {expr = <D>} : i64
  %step = arith.constant {value = 64} : i64
  %low = arith.constant {value = -inf} : lanes<f32>
  %zero = arith.constant {value = 0.0} : lanes<f32>
  %one = arith.constant {value = 1.0} : lanes<f32>
  %m0 = tile.for %lane, %d, %step, [%low] (%j: lanes<i64>, %acc: lanes<f32>) {
    %v = tile.load %x, [%row, %j] : lanes<f32>
    %n = arith.max %acc, %v : lanes<f32>
    yield %n
  } : lanes<f32>
  %m = tile.reduce %m0 {kind = "max"} : f32
  %ml = tile.splat %m : lanes<f32>
  %s0 = tile.for %lane, %d, %step, [%zero] (%j: lanes<i64>, %acc: lanes<f32>) {
    %v = tile.load %x, [%row, %j] : lanes<f32>
    %c = arith.sub %v, %ml : lanes<f32>
    %e = arith.add %c, %one : lanes<f32>
    %n = arith.add %acc, %e : lanes<f32>
    yield %n
  } : lanes<f32>
  %s = tile.reduce %s0 {kind = "add"} : f32
  %sl = tile.splat %s : lanes<f32>
  tile.for %lane, %d, %step, [] (%j: lanes<i64>) {
    %v = tile.load %x, [%row, %j] : lanes<f32>
    %c = arith.sub %v, %ml : lanes<f32>
    %q = arith.div %c, %sl : lanes<f32>
    tile.store %q, %y, [%row, %j]
  }
}
"""

#: y = x > 0 ? (x > 1 ? 2 x : x + z[i]) : -x; also counts in w which branch was taken, by stores in each
BRANCHES = """
tile.kernel @branches(%x: buf<f32[N], global>, %z: buf<f32[N], global>, %y: buf<f32[N], global>,
    %w: buf<i32[N], global>) {group = 128, grid = [<ceildiv(N, 128)>], symbols = ["N"],
    access = ["read", "read", "write", "write"]} {
  %i = tile.linear_id : lanes<i64>
  %n0 = tile.dim {expr = <N>} : i64
  %n = tile.splat %n0 : lanes<i64>
  %c = arith.cmp %i, %n {pred = "lt"} : lanes<bool>
  tile.if %c () {
    %v = tile.load %x, [%i] : lanes<f32>
    %zero = arith.constant {value = 0.0} : lanes<f32>
    %one = arith.constant {value = 1.0} : lanes<f32>
    %pos = arith.cmp %v, %zero {pred = "gt"} : lanes<bool>
    %r = tile.if %pos () {
      %k = arith.constant {value = 1} : lanes<i32>
      tile.store %k, %w, [%i]
      %big = arith.cmp %v, %one {pred = "gt"} : lanes<bool>
      %s = tile.if %big () {
        %t = arith.add %v, %v : lanes<f32>
        yield %t
      } () {
        %u = tile.load %z, [%i] : lanes<f32>
        %t = arith.add %v, %u : lanes<f32>
        yield %t
      } : lanes<f32>
      yield %s
    } () {
      %k = arith.constant {value = 2} : lanes<i32>
      tile.store %k, %w, [%i]
      %t = arith.neg %v : lanes<f32>
      yield %t
    } : lanes<f32>
    tile.store %r, %y, [%i]
  } () {
  }
}
"""

#: steps of the Collatz sequence; lanes leave the loop at different times
COLLATZ = """
tile.kernel @collatz(%x: buf<i64[N], global>, %y: buf<i32[N], global>) {group = 32, grid = [<ceildiv(N, 32)>],
    symbols = ["N"], access = ["read", "write"]} {
  %i = tile.linear_id : lanes<i64>
  %n0 = tile.dim {expr = <N>} : i64
  %n = tile.splat %n0 : lanes<i64>
  %c = arith.cmp %i, %n {pred = "lt"} : lanes<bool>
  tile.if %c () {
    %v = tile.load %x, [%i] : lanes<i64>
    %zero = arith.constant {value = 0} : lanes<i32>
    %inc = arith.constant {value = 1} : lanes<i32>
    %one = arith.constant {value = 1} : lanes<i64>
    %two = arith.constant {value = 2} : lanes<i64>
    %three = arith.constant {value = 3} : lanes<i64>
    %nil = arith.constant {value = 0} : lanes<i64>
    %last, %count = tile.while %v, %zero (%a: lanes<i64>, %s: lanes<i32>) {
      %go = arith.cmp %a, %one {pred = "gt"} : lanes<bool>
      yield %go
    } (%a: lanes<i64>, %s: lanes<i32>) {
      %rest = arith.mod %a, %two : lanes<i64>
      %even = arith.cmp %rest, %nil {pred = "eq"} : lanes<bool>
      %b = tile.if %even () {
        %h = arith.floordiv %a, %two : lanes<i64>
        yield %h
      } () {
        %t = arith.mul %a, %three : lanes<i64>
        %u = arith.add %t, %one : lanes<i64>
        yield %u
      } : lanes<i64>
      %next = arith.add %s, %inc : lanes<i32>
      yield %b, %next
    } : lanes<i64>, lanes<i32>
    tile.store %count, %y, [%i]
  } () {
  }
}
"""

#: one sum per group of 128 by a tree in shared memory; the first lane stores it
TREE = """
tile.kernel @tree(%x: buf<f32[N], global>, %y: buf<f32[M], global>) {group = 128, grid = [<ceildiv(N, 128)>],
    symbols = ["M", "N"], access = ["read", "write"]} {
  %s = tile.alloc : buf<f32[128], shared>
  %i = tile.linear_id : lanes<i64>
  %l = tile.local_id : lanes<i64>
  %g = tile.group_id {axis = 0} : i64
  %n0 = tile.dim {expr = <N>} : i64
  %n = tile.splat %n0 : lanes<i64>
  %in = arith.cmp %i, %n {pred = "lt"} : lanes<bool>
  %v = tile.load %x, [%i], where %in : lanes<f32>
  tile.store %v, %s, [%l]
  tile.barrier
  %half = arith.constant {value = 64} : i64
  %zero = arith.constant {value = 0} : i64
  %two = arith.constant {value = 2} : i64
  %end = scf.while %half (%h: i64) {
    %more = arith.cmp %h, %zero {pred = "gt"} : bool
    yield %more
  } (%h: i64) {
    %hl = tile.splat %h : lanes<i64>
    %low = arith.cmp %l, %hl {pred = "lt"} : lanes<bool>
    tile.if %low () {
      %o = arith.add %l, %hl : lanes<i64>
      %a = tile.load %s, [%l] : lanes<f32>
      %b = tile.load %s, [%o] : lanes<f32>
      %t = arith.add %a, %b : lanes<f32>
      tile.store %t, %s, [%l]
    } () {
    }
    tile.barrier
    %next = arith.floordiv %h, %two : i64
    yield %next
  } : i64
  %zl = tile.splat %zero : lanes<i64>
  %first = arith.cmp %l, %zl {pred = "eq"} : lanes<bool>
  tile.if %first () {
    %t = tile.load %s, [%zero] : f32
    tile.store %t, %y, [%g]
  } () {
  }
}
"""

#: y[x, y, z] = 10000 x + 100 y + z over a grid of three axes, lanes along the last
GRID = """
tile.kernel @grid(%y: buf<i64[A, B, C], global>) {group = 16, grid = [<ceildiv(C, 16)>, <B>, <A>],
    symbols = ["A", "B", "C"], access = ["write"]} {
  %i = tile.linear_id : lanes<i64>
  %j = tile.group_id {axis = 1} : i64
  %k = tile.group_id {axis = 2} : i64
  %c0 = tile.dim {expr = <C>} : i64
  %c = tile.splat %c0 : lanes<i64>
  %in = arith.cmp %i, %c {pred = "lt"} : lanes<bool>
  %h = arith.constant {value = 100} : i64
  %hh = arith.constant {value = 10000} : i64
  %a = arith.mul %k, %hh : i64
  %b = arith.mul %j, %h : i64
  %ab = arith.add %a, %b : i64
  %abl = tile.splat %ab : lanes<i64>
  %v = arith.add %abl, %i : lanes<i64>
  tile.store %v, %y, [%k, %j, %i], where %in
}
"""

#: lane i sums x[i, j] for j from lo[i] below hi[i] in steps of st[i], keeping the last index; x^T is read too
VARYING = """
tile.kernel @varying(%x: buf<f64[N, D], global>, %lo: buf<i64[N], global>, %hi: buf<i64[N], global>,
    %st: buf<i64[N], global>, %y: buf<f64[N], global>, %last: buf<i64[N], global>) {group = 16,
    grid = [<ceildiv(N, 16)>], symbols = ["D", "N"], access = ["read", "read", "read", "read", "write", "write"]} {
  %i = tile.linear_id : lanes<i64>
  %n0 = tile.dim {expr = <N>} : i64
  %n = tile.splat %n0 : lanes<i64>
  %in = arith.cmp %n, %i {pred = "gt"} : lanes<bool>
  tile.if %in () {
    %a = tile.load %lo, [%i] : lanes<i64>
    %b = tile.load %hi, [%i] : lanes<i64>
    %c = tile.load %st, [%i] : lanes<i64>
    %zero = arith.constant {value = 0.0} : lanes<f64>
    %none = arith.constant {value = -1} : lanes<i64>
    %s, %e = tile.for %a, %b, %c, [%zero, %none] (%j: lanes<i64>, %acc: lanes<f64>, %seen: lanes<i64>) {
      %v = tile.load %x, [%i, %j] : lanes<f64>
      %t = arith.add %acc, %v : lanes<f64>
      yield %t, %j
    } : lanes<f64>, lanes<i64>
    tile.store %s, %y, [%i]
    tile.store %e, %last, [%i]
  } () {
  }
}
"""

#: each lane keeps its own array: a histogram of x[i, :] mod 5, written out transposed; bools and division of lanes too
LOCAL = """
tile.kernel @local(%x: buf<i32[N, D], global>, %h: buf<i32[5, N], global>, %odd: buf<bool[N], global>,
    %q: buf<i64[N], global>) {group = 128, grid = [<ceildiv(N, 128)>], symbols = ["D", "N"],
    access = ["read", "write", "write", "write"]} {
  %m = tile.alloc : buf<i32[5], local>
  %i = tile.linear_id : lanes<i64>
  %n0 = tile.dim {expr = <N>} : i64
  %n = tile.splat %n0 : lanes<i64>
  %in = arith.cmp %i, %n {pred = "lt"} : lanes<bool>
  tile.if %in () {
    %zero = arith.constant {value = 0} : i64
    %one = arith.constant {value = 1} : i64
    %five = arith.constant {value = 5} : i64
    %d = tile.dim {expr = <D>} : i64
    %nil = arith.constant {value = 0} : lanes<i32>
    %unit = arith.constant {value = 1} : lanes<i32>
    %by = arith.constant {value = 5} : lanes<i32>
    scf.for %zero, %five, %one, [] (%k: i64) {
      tile.store %nil, %m, [%k]
    }
    scf.for %zero, %d, %one, [] (%j: i64) {
      %v = tile.load %x, [%i, %j] : lanes<i32>
      %r = arith.mod %v, %by : lanes<i32>
      %at = arith.cast %r {to = "i64"} : lanes<i64>
      %old = tile.load %m, [%at] : lanes<i32>
      %new = arith.add %old, %unit : lanes<i32>
      tile.store %new, %m, [%at]
    }
    scf.for %zero, %five, %one, [] (%k: i64) {
      %v = tile.load %m, [%k] : lanes<i32>
      tile.store %v, %h, [%k, %i]
    }
    %two = arith.constant {value = 2} : lanes<i64>
    %seven = arith.constant {value = 7} : lanes<i64>
    %rest = arith.mod %i, %two : lanes<i64>
    %o = arith.cast %rest {to = "bool"} : lanes<bool>
    tile.store %o, %odd, [%i]
    %third = arith.floordiv %i, %seven : lanes<i64>
    tile.store %third, %q, [%i]
  } () {
  }
}
"""

#: carried lanes indices: affine in one loop, swapped and scattered in the other
CARRIED = """
tile.kernel @carried(%x: buf<i64[N], global>, %y: buf<i64[N], global>) {group = 32, grid = [1], symbols = ["N"],
    access = ["read", "write"]} {
  %l = tile.local_id : lanes<i64>
  %zero = arith.constant {value = 0} : i64
  %one = arith.constant {value = 1} : i64
  %n = tile.dim {expr = <N>} : i64
  %nl = tile.splat %n : lanes<i64>
  %step = arith.constant {value = 32} : lanes<i64>
  %size = arith.constant {value = 32} : i64
  %rounds0 = arith.add %n, %size : i64
  %rounds = arith.floordiv %rounds0, %size : i64
  %sum = arith.constant {value = 0} : lanes<i64>
  %end, %total = scf.for %zero, %rounds, %one, [%l, %sum] (%r: i64, %i: lanes<i64>, %s: lanes<i64>) {
    %in = arith.cmp %i, %nl {pred = "lt"} : lanes<bool>
    %v = tile.load %x, [%i], where %in : lanes<i64>
    %t = arith.add %s, %v : lanes<i64>
    %k = arith.add %i, %step : lanes<i64>
    yield %k, %t
  } : lanes<i64>, lanes<i64>
  %a, %b = scf.for %zero, %rounds, %one, [%l, %total] (%r: i64, %p: lanes<i64>, %q: lanes<i64>) {
    yield %q, %p
  } : lanes<i64>, lanes<i64>
  %c = arith.add %a, %b : lanes<i64>
  %in = arith.cmp %l, %nl {pred = "lt"} : lanes<bool>
  tile.store %c, %y, [%l], where %in
}
"""

#: bytes, halves and bools under data-dependent masks, at scattered places; an element that only some lanes ask for;
#: uniform loads and stores that must not happen when nobody takes part
SCATTERED = """
tile.kernel @scattered(%x: buf<i8[N], global>, %p: buf<i64[N], global>, %f: buf<bool[N], global>,
    %s: buf<f16[1], global>, %y: buf<i8[2*N], global>, %h: buf<f16[N], global>, %c: buf<i32[G], global>)
    {group = 64, grid = [<G>], symbols = ["G", "N"],
    access = ["read", "read", "read", "read", "write", "write", "write"]} {
  %i = tile.linear_id : lanes<i64>
  %l = tile.local_id : lanes<i64>
  %g = tile.group_id {axis = 0} : i64
  %zero = arith.constant {value = 0} : i64
  %two = arith.constant {value = 2} : lanes<i64>
  %n0 = tile.dim {expr = <N>} : i64
  %n = tile.splat %n0 : lanes<i64>
  %in = arith.cmp %i, %n {pred = "lt"} : lanes<bool>
  %on0 = tile.load %f, [%i], where %in : lanes<bool>
  %on = arith.and %in, %on0 : lanes<bool>
  %half = tile.load %s, [%zero], where %on : lanes<f16>
  tile.if %in () {
    tile.store %half, %h, [%i]
  } () {
  }
  tile.if %on () {
    %at = tile.load %p, [%i] : lanes<i64>
    %v = tile.load %x, [%at] : lanes<i8>
    %to = arith.mul %at, %two : lanes<i64>
    tile.store %v, %y, [%to]
    %mark = arith.constant {value = 1} : i32
    tile.store %mark, %c, [%g]
  } () {
  }
}
"""

ALL = {name.lower(): text for name, text in sorted(globals().items()) if name.isupper() and isinstance(text, str)} | {
    "matmul": matmul(30, 64, 48),
    "matmul_i8": matmul(16, 32, 16, "i8", "i32"),
}
