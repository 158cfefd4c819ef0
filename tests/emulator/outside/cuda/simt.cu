// Programs without tensor cores: warp primitives, divergence, local memory, calls, mathematics, wide accesses.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <cstdint>
namespace cg = cooperative_groups;

// Inclusive scan of one block's 256 elements: shuffles inside warps, shared memory between them.
extern "C" __global__ void warp_scan(const int* x, int* y, int n) {
  __shared__ int totals[8];
  int i = blockIdx.x * 256 + threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int v = i < n ? x[i] : 0;
  for (int k = 1; k < 32; k *= 2) {
    int other = __shfl_up_sync(~0u, v, k);
    if (lane >= k) v += other;
  }
  if (lane == 31) totals[warp] = v;
  __syncthreads();
  if (warp == 0) {
    int t = lane < 8 ? totals[lane] : 0;
    for (int k = 1; k < 8; k *= 2) {
      int other = __shfl_up_sync(~0u, t, k);
      if (lane >= k) t += other;
    }
    if (lane < 8) totals[lane] = t;
  }
  __syncthreads();
  if (warp) v += totals[warp - 1];
  if (i < n) y[i] = v;
}

// Scan of a whole array in one pass: a block waits for its predecessor's running total in global memory.
extern "C" __global__ void chained_scan(const int* x, int* y, volatile int* sums, volatile int* flags, int n) {
  __shared__ int before;
  cg::thread_block block = cg::this_thread_block();
  auto warp = cg::tiled_partition<32>(block);
  int i = blockIdx.x * 32 + threadIdx.x;
  int v = cg::inclusive_scan(warp, i < n ? x[i] : 0);
  if (threadIdx.x == 31) {
    int base = 0;
    if (blockIdx.x) {
      while (flags[blockIdx.x - 1] == 0) {}
      __threadfence();
      base = sums[blockIdx.x - 1];
    }
    sums[blockIdx.x] = base + v;
    __threadfence();
    flags[blockIdx.x] = 1;
    before = base;
  }
  block.sync();
  if (i < n) y[i] = before + v;
}

// One warp per row; the row may be shorter or longer than the warp, and need not be a multiple of it.
extern "C" __global__ void softmax_rows(const float* x, float* y, int rows, int cols) {
  int row = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
  if (row >= rows) return;
  float top = -INFINITY;
  for (int c = lane; c < cols; c += 32) top = fmaxf(top, x[row * cols + c]);
  for (int k = 16; k; k /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, k));
  float sum = 0;
  for (int c = lane; c < cols; c += 32) sum += expf(x[row * cols + c] - top);
  for (int k = 16; k; k /= 2) sum += __shfl_xor_sync(~0u, sum, k);
  for (int c = lane; c < cols; c += 32) y[row * cols + c] = expf(x[row * cols + c] - top) / sum;
}

extern "C" __global__ void bitonic_sort(uint32_t* keys, int n) {
  __shared__ uint32_t s[512];
  int t = threadIdx.x, at = blockIdx.x * 512;
  for (int k = t; k < 512; k += 256) s[k] = at + k < n ? keys[at + k] : ~0u;
  for (int size = 2; size <= 512; size *= 2)
    for (int step = size / 2; step; step /= 2) {
      __syncthreads();
      int low = 2 * t - (t & (step - 1)), high = low + step;
      bool up = (low & size) == 0;
      uint32_t a = s[low], b = s[high];
      if ((a > b) == up) s[low] = b, s[high] = a;
    }
  __syncthreads();
  for (int k = t; k < 512; k += 256)
    if (at + k < n) keys[at + k] = s[k];
}

extern "C" __global__ void dot_dp4a(const int* a, const int* b, const unsigned* c, int* out, int words) {
  int row = blockIdx.x, s = 0, m = 0;
  for (int k = threadIdx.x; k < words; k += 32) {
    s = __dp4a(a[row * words + k], b[row * words + k], s);
    m = __dp2a_lo(a[row * words + k], b[row * words + k], m);
    s += (int)__dp4a(c[row * words + k], c[row * words + k], 0u);
    m ^= (int)__vabsdiffu4(c[row * words + k], (unsigned)b[row * words + k]);
    m += (int)__byte_perm(a[row * words + k], b[row * words + k], 0x5140) + __funnelshift_l(a[row * words + k], m, 5);
  }
  s = __reduce_add_sync(~0u, s);
  m = __reduce_xor_sync(~0u, (unsigned)m);
  if (threadIdx.x == 0) out[2 * row] = s, out[2 * row + 1] = m;
}

struct Pair { double mean; int count; short flags[3]; };
__device__ __noinline__ Pair merge(Pair a, Pair b) {
  Pair r;
  r.count = a.count + b.count;
  r.mean = (a.mean * a.count + b.mean * b.count) / r.count;
  for (int k = 0; k < 3; k++) r.flags[k] = a.flags[k] | b.flags[k];
  return r;
}
__device__ __noinline__ float leaf(float x, int n, const float* table) {
  if (n & 1) return x * table[n];
  return x + table[n];
}
__device__ __noinline__ float branchy(float x, int n, const float* table) {
  float s = x;
  for (int k = 0; k < n; k++) s = k % 3 ? leaf(s, k & 7, table) : leaf(s, 7 - (k & 7), table) * 0.5f;
  return s;
}
// Functions that are not inlined: structures by value, nested calls, a return inside divergence, calls from both sides.
extern "C" __global__ void calls(const float* x, const float* table, float* y, double* means, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float v = x[i];
  y[i] = i % 2 ? branchy(v, i % 11, table) : leaf(branchy(v, i % 5, table), i & 7, table);
  Pair p = {v, 1, {(short)(i & 1), 2, 0}}, q = {2.0 * v, i % 4 + 1, {0, (short)(i & 4), 1}};
  Pair r = merge(p, merge(q, p));
  means[i] = r.mean + r.count * 1000.0 + r.flags[0] + 10 * r.flags[1] + 100 * r.flags[2];
}

// Each thread sorts 16 values of its own in local memory.
extern "C" __global__ void local_sort(const short* x, short* y, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  short v[16];
  for (int k = 0; k < 16; k++) v[k] = x[16 * i + k];
  for (int k = 1; k < 16; k++) {
    short key = v[k];
    int j = k;
    while (j > 0 && v[j - 1] > key) v[j] = v[j - 1], j--;
    v[j] = key;
  }
  for (int k = 0; k < 16; k++) y[16 * i + k] = v[(k + i) % 16];
}

// Seven-point stencil on a 3-D grid of blocks with a halo in shared memory; any extents.
extern "C" __global__ void stencil3d(const float* x, float* y, int nx, int ny, int nz, float c0, float c1) {
  __shared__ float s[6][6][10];
  int x0 = blockIdx.x * 8 - 1, y0 = blockIdx.y * 4 - 1, z0 = blockIdx.z * 4 - 1;
  int t = (threadIdx.z * 4 + threadIdx.y) * 8 + threadIdx.x;
  for (int k = t; k < 360; k += 128) {
    int a = k % 10, b = k / 10 % 6, c = k / 60, gx = x0 + a, gy = y0 + b, gz = z0 + c;
    bool inside = gx >= 0 && gx < nx && gy >= 0 && gy < ny && gz >= 0 && gz < nz;
    s[c][b][a] = inside ? x[(gz * ny + gy) * nx + gx] : 0.f;
  }
  __syncthreads();
  int a = threadIdx.x + 1, b = threadIdx.y + 1, c = threadIdx.z + 1, gx = x0 + a, gy = y0 + b, gz = z0 + c;
  if (gx < nx && gy < ny && gz < nz) {
    float near = s[c][b][a - 1] + s[c][b][a + 1] + s[c][b - 1][a] + s[c][b + 1][a] + s[c - 1][b][a] + s[c + 1][b][a];
    y[(gz * ny + gy) * nx + gx] = c0 * s[c][b][a] + c1 * near;
  }
}

extern "C" __global__ void collatz(const unsigned long long* start, unsigned* steps, unsigned long long* top, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  unsigned long long v = start[i], high = v;
  unsigned count = 0;
  while (v != 1) {
    if (v % 2) {
      v = 3 * v + 1;
      if (v > high) high = v;
      if (count > 5000) break;
    } else {
      do v /= 2, count++; while (v % 2 == 0);
      continue;
    }
    count++;
  }
  steps[i] = count;
  top[i] = high;
}

// Accesses of 2, 4, 8 and 16 bytes per lane, also through the read-only path and with streaming hints.
extern "C" __global__ void wide_copy(const float4* a, const double2* b, const longlong2* c, const uchar4* d,
                                     float4* oa, double2* ob, longlong2* oc, ushort4* od, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float4 v = __ldg(a + i);
  oa[i] = make_float4(v.w, v.z, v.y, v.x);
  double2 w = __ldcs(b + i);
  __stcs(ob + i, make_double2(w.x + w.y, w.x - w.y));
  longlong2 z = __ldcg(c + i);
  __stwt(oc + i, make_longlong2(z.y / (z.x | 1), z.x % (z.y | 1)));
  uchar4 u = d[i];
  od[i] = make_ushort4(u.x * u.y, u.z << 3, u.w, u.x ^ u.w);
}

// The numerical library: slow paths (large arguments of sinf), powf, erf, integer division by a variable.
extern "C" __global__ void library(const float* x, float* f, double* d, int* q, int n, int divisor) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float v = x[i];
  float* o = f + 10 * i;
  o[0] = sinf(v); o[1] = cosf(v * 1e6f); o[2] = expf(v); o[3] = logf(fabsf(v)); o[4] = powf(fabsf(v), 1.7f);
  o[5] = erff(v); o[6] = tanhf(v); o[7] = atan2f(v, 1.5f); o[8] = cbrtf(v); o[9] = fmodf(v, 0.7f);
  double w = v;
  double* p = d + 6 * i;
  p[0] = sin(w); p[1] = exp(w); p[2] = log(fabs(w)); p[3] = rsqrt(fabs(w)); p[4] = pow(fabs(w), -0.3); p[5] = w / (w * w + 1);
  int k = __float2int_rd(v * 1000.f);
  q[3 * i] = k / divisor; q[3 * i + 1] = k % divisor; q[3 * i + 2] = (int)((unsigned)k / (unsigned)divisor) + __brev(k) + __clz(k) + __ffs(k);
}

// Atomics of every kind, whose results do not depend on their order.
extern "C" __global__ void atomics(const int* x, int* i32, unsigned* u32, unsigned long long* u64, float* f32, double* f64, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int v = x[i], slot = i % 3;
  atomicAdd(i32 + slot, v); atomicMin(i32 + 3 + slot, v); atomicMax(i32 + 6 + slot, v); atomicSub(i32 + 9 + slot, v);
  atomicAnd(u32 + slot, (unsigned)v | 0xff); atomicOr(u32 + 3 + slot, v & 0x0f0f0f); atomicXor(u32 + 6 + slot, v);
  atomicInc(u32 + 9 + slot, 16); atomicDec(u32 + 12 + slot, 12);
  atomicAdd(u64 + slot, (unsigned long long)(long long)v); atomicMax(u64 + 3 + slot, (unsigned long long)(unsigned)v << 7);
  atomicAdd(f32 + slot, (float)(v % 64)); atomicAdd(f64 + slot, (double)v);
  int* bits = (int*)(f32 + 3 + slot);  // the maximum of floats by compare and swap
  int old = *(volatile int*)bits, seen;
  float mine = v * 0.5f;
  do {
    seen = old;
    if (__int_as_float(seen) >= mine) break;
    old = atomicCAS(bits, seen, __float_as_int(mine));
  } while (old != seen);
}

// Stream compaction: ballots, leader election among matching lanes, groups that diverged.
extern "C" __global__ void compact(const int* x, int* kept, int* count, int* buckets, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, lane = threadIdx.x % 32;
  int v = i < n ? x[i] : -1;
  unsigned take = __ballot_sync(~0u, i < n && v % 3 == 0);
  int base = 0;
  if (lane == 0 && take) base = atomicAdd(count, __popc(take));
  base = __shfl_sync(~0u, base, 0);
  if (take >> lane & 1) kept[base + __popc(take & ((1u << lane) - 1))] = v;
  if (i < n) {
    unsigned same = __match_any_sync(__activemask(), v & 7);
    if (lane == __ffs(same) - 1) atomicAdd(buckets + (v & 7), __popc(same));
    if (v & 1) {
      cg::coalesced_group odd = cg::coalesced_threads();
      int sum = cg::reduce(odd, v, cg::plus<int>());
      if (odd.thread_rank() == 0) atomicAdd(buckets + 8, sum);
    }
  }
}

// Mandelbrot set in double precision, with early exits of single lanes.
extern "C" __global__ void mandelbrot(uint16_t* out, int width, int height, double scale) {
  int px = blockIdx.x * blockDim.x + threadIdx.x, py = blockIdx.y * blockDim.y + threadIdx.y;
  if (px >= width || py >= height) return;
  double cx = (px - width * 0.7) * scale, cy = (py - height * 0.5) * scale, x = 0, y = 0;
  int k = 0;
  for (; k < 200 && x * x + y * y <= 4; k++) {
    double t = x * x - y * y + cx;
    y = 2 * x * y + cy;
    x = t;
  }
  out[py * width + px] = k;
}
