// Programs for sm_90a: clusters with distributed shared memory, TMA multicast, warp specialisation, wgmma variants.
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>
namespace cg = cooperative_groups;

struct __align__(64) TensorMap { char bytes[128]; };

__device__ uint32_t shared_of(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ void init_barrier(uint32_t bar, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(bar), "r"(count) : "memory");
}
__device__ void wait_parity(uint32_t bar, uint32_t parity) {
  uint32_t done = 0;
  while (!done)
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done) : "r"(bar), "r"(parity) : "memory");
}
__device__ void expect(uint32_t bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(bar), "r"(bytes) : "memory");
}
__device__ void arrive_remote(uint32_t bar, uint32_t rank) {
  asm volatile("{\n.reg .b32 remote;\nmapa.shared::cluster.u32 remote, %0, %1;\n"
               "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n}" :: "r"(bar), "r"(rank) : "memory");
}
__device__ uint32_t cluster_rank() {
  uint32_t r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
__device__ void cluster_sync() {
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}
__device__ uint64_t descriptor(uint32_t address, uint64_t leading, uint64_t stride, uint64_t swizzle) {
  return (uint64_t)((address & 0x3FFFF) >> 4) | leading << 16 | stride << 32 | swizzle << 62;
}
__device__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ void wgmma_end() {
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
}
#define REGS8(d) "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])

// C[128, 32] per cluster of two blocks, 64 rows each, bf16 in and out. Warpgroup 0 copies, warpgroup 1 multiplies.
// Each block loads its rows of A and half of B, and sends that half to both; slots return through remote arrivals.
extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(256)
specialised(const __grid_constant__ TensorMap ma, const __grid_constant__ TensorMap mb, const __grid_constant__ TensorMap mc, int k) {
  extern __shared__ __align__(1024) char smem[];
  __shared__ __align__(8) uint64_t full[3], empty[3];
  constexpr int A = 64 * 128, B = 32 * 128, STAGE = A + B, SLOTS = 3;
  uint32_t base = shared_of(smem), rank = cluster_rank();
  if (threadIdx.x == 0) {
    for (int s = 0; s < SLOTS; s++) init_barrier(shared_of(&full[s]), 1), init_barrier(shared_of(&empty[s]), 2);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  cluster_sync();
  int steps = k / 64, row = blockIdx.x * 64, column = blockIdx.y * 32;
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) {
      for (int i = 0; i < steps; i++) {
        int s = i % SLOTS;
        if (i >= SLOTS) wait_parity(shared_of(&empty[s]), (i / SLOTS + 1) & 1);
        uint32_t bar = shared_of(&full[s]), at = base + s * STAGE;
        expect(bar, STAGE);
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                     :: "r"(at), "l"(&ma), "r"(bar), "r"(i * 64), "r"(row) : "memory");
        asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
                     " [%0], [%1, {%3, %4}], [%2], %5;"
                     :: "r"(at + A + rank * (B / 2)), "l"(&mb), "r"(bar), "r"(i * 64), "r"(column + (int)rank * 16), "h"((uint16_t)3)
                     : "memory");
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    float d[16] = {};
    int t = threadIdx.x - 128, warp = t / 32, lane = t % 32;
    for (int i = 0; i < steps; i++) {
      int s = i % SLOTS;
      wait_parity(shared_of(&full[s]), i / SLOTS & 1);
      uint32_t at = base + s * STAGE;
      wgmma_begin();
      for (int kk = 0; kk < 4; kk++)
        asm volatile("wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15},"
                     " %16, %17, 1, 1, 1, 0, 0;"
                     : REGS8(d), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
                     : "l"(descriptor(at + kk * 32, 1, 64, 1)), "l"(descriptor(at + A + kk * 32, 1, 64, 1)));
      wgmma_end();
      if (t < 2) arrive_remote(shared_of(&empty[s]), t);
    }
    // The slots are free: rows of 64 bytes for the store go where slot 0 was, once the other block copies no more.
    asm volatile("bar.sync 1, 128;" ::: "memory");
    for (int j = 0; j < 2; j++) {
      uint32_t r[4];
      for (int h = 0; h < 4; h++) {
        __nv_bfloat162 pair = __floats2bfloat162_rn(d[8 * j + 2 * h], d[8 * j + 2 * h + 1]);
        r[h] = *(uint32_t*)&pair;
      }
      uint32_t to = base + (warp * 16 + lane % 16) * 64 + j * 32 + lane / 16 * 16;
      asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" :: "r"(to), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;\nbar.sync 1, 128;" ::: "memory");
    if (t == 0) {
      asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%2, %3}], [%1];"
                   :: "l"(&mc), "r"(base), "r"(column), "r"(row) : "memory");
      asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory");
    }
  }
  __syncwarp();
  cluster_sync();  // nobody leaves while the other block may still send to it or arrive at its barriers
}

// A sum over a cluster of four: partial sums travel by st.async to the leader, whose mbarrier counts their bytes.
extern "C" __global__ void __cluster_dims__(4, 1, 1) cluster_sum(const float* x, float* out, int n) {
  __shared__ float parts[4][32];
  __shared__ __align__(8) uint64_t bar;
  uint32_t rank = cluster_rank(), b = shared_of(&bar);
  if (threadIdx.x == 0) {
    init_barrier(b, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    expect(b, 4 * 32 * 4);
  }
  cluster_sync();
  float v = 0;
  for (int i = blockIdx.x * 32 + threadIdx.x; i < n; i += gridDim.x * 32) v += x[i];
  asm volatile("{\n.reg .b32 to, at;\nmapa.shared::cluster.u32 to, %0, 0;\nmapa.shared::cluster.u32 at, %1, 0;\n"
               "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [to], %2, [at];\n}"
               :: "r"(shared_of(&parts[rank][threadIdx.x])), "r"(b), "f"(v) : "memory");
  if (rank == 0) {
    wait_parity(b, 0);
    float sum = parts[0][threadIdx.x] + parts[1][threadIdx.x] + parts[2][threadIdx.x] + parts[3][threadIdx.x];
    for (int k = 16; k; k /= 2) sum += __shfl_xor_sync(~0u, sum, k);
    if (threadIdx.x == 0) out[blockIdx.x / 4] = sum;
  }
  cluster_sync();
}

// Rows pass to the right neighbour round a cluster, three times, through distributed shared memory.
extern "C" __global__ void __cluster_dims__(4, 1, 1) cluster_ring(const int* x, int* y) {
  __shared__ int box[2][64];
  cg::cluster_group cluster = cg::this_cluster();
  int rank = cluster.block_rank(), t = threadIdx.x;
  box[0][t] = x[blockIdx.x * 64 + t];
  for (int r = 0; r < 3; r++) {
    cluster.sync();
    const int* left = cluster.map_shared_rank(box[r % 2], (rank + 3) % 4);
    box[(r + 1) % 2][t] = left[t] + box[r % 2][63 - t];
  }
  cluster.sync();
  y[blockIdx.x * 64 + t] = box[1][t];
}

// A[64, 32] from registers (tf32) times B in shared memory without swizzle, core matrices of 8 rows by 16 bytes.
extern "C" __global__ void wgmma_registers(const float* a, const float* b, float* c) {
  __shared__ __align__(128) float sb[2 * 8 * 4 * 4];  // [k half 8][n block 1][8 rows][4 words], k-major, n = 8, k = 32
  int t = threadIdx.x, warp = t / 32, lane = t % 32, g = lane / 4, q = lane % 4;
  for (int i = t; i < 256; i += 128) sb[i / 32 * 32 + i % 32] = b[(i % 32 / 4) * 32 + i / 32 * 4 + i % 4];
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  float d[4] = {};
  uint32_t r[4][4];
  for (int kk = 0; kk < 4; kk++)
    for (int h = 0; h < 4; h++) r[kk][h] = __float_as_uint(a[(warp * 16 + g + h % 2 * 8) * 32 + kk * 8 + q + h / 2 * 4]);
  wgmma_begin();
  for (int kk = 0; kk < 4; kk++)
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, %8, 1, 1, 1;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(r[kk][0]), "r"(r[kk][1]), "r"(r[kk][2]), "r"(r[kk][3]), "l"(descriptor(shared_of(sb) + kk * 256, 8, 16, 0)));
  wgmma_end();
  for (int r = 0; r < 4; r++) c[(warp * 16 + g + r / 2 * 8) * 8 + q * 2 + r % 2] = d[r];
}

// f16 with both operands stored along m and n (transposed), 128-byte swizzle, loaded by TMA; -A * B + C.
extern "C" __global__ void wgmma_transposed(const __grid_constant__ TensorMap ma, const __grid_constant__ TensorMap mb, float* c) {
  __shared__ __align__(1024) char sa[16 * 128], sb[16 * 128];
  __shared__ __align__(8) uint64_t bar;
  uint32_t b = shared_of(&bar);
  if (threadIdx.x == 0) {
    init_barrier(b, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    expect(b, 2 * 16 * 128);
    for (int h = 0; h < 2; h++)
      asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %4}], [%2];"
                   :: "r"(shared_of(h ? sb : sa)), "l"(h ? &mb : &ma), "r"(b), "r"(0), "r"(0) : "memory");
  }
  __syncthreads();
  wait_parity(b, 0);
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float d[8];
  for (int r = 0; r < 8; r++) d[r] = c[(warp * 16 + lane / 4 + r / 2 % 2 * 8) * 16 + r / 4 * 8 + lane % 4 * 2 + r % 2];
  wgmma_begin();
  asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%0,%1,%2,%3,%4,%5,%6,%7}, %8, %9, 1, -1, 1, 1, 1;"
               : REGS8(d) : "l"(descriptor(shared_of(sa), 64, 64, 1)), "l"(descriptor(shared_of(sb), 64, 64, 1)));
  wgmma_end();
  for (int r = 0; r < 8; r++) c[(warp * 16 + lane / 4 + r / 2 % 2 * 8) * 16 + r / 4 * 8 + lane % 4 * 2 + r % 2] = d[r];
}

// Tiles of a 3-D tensor are added into another by TMA reductions, boxes reaching over every edge.
extern "C" __global__ void tensor_reduce(const __grid_constant__ TensorMap from, const __grid_constant__ TensorMap to, int x, int y, int z) {
  __shared__ __align__(128) float box[2 * 4 * 8];
  __shared__ __align__(8) uint64_t bar;
  uint32_t b = shared_of(&bar);
  int cx = blockIdx.x * 8 + x, cy = blockIdx.y * 4 + y, cz = blockIdx.z * 2 + z;
  if (threadIdx.x == 0) {
    init_barrier(b, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("prefetch.tensormap [%0];" :: "l"(&from));
    expect(b, sizeof box);
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];"
                 :: "r"(shared_of(box)), "l"(&from), "r"(b), "r"(cx), "r"(cy), "r"(cz) : "memory");
  }
  __syncthreads();
  wait_parity(b, 0);
  box[threadIdx.x] *= 2.f;
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int h = 0; h < 2; h++)
      asm volatile("cp.reduce.async.bulk.tensor.3d.global.shared::cta.add.tile.bulk_group [%0, {%2, %3, %4}], [%1];"
                   :: "l"(&to), "r"(shared_of(box)), "r"(cx), "r"(cy), "r"(cz) : "memory");
    asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
  }
}

// Integers by wgmma (s8, 32-byte swizzle) and bulk reductions of the result into global memory.
extern "C" __global__ void wgmma_integers(const __grid_constant__ TensorMap ma, const __grid_constant__ TensorMap mb, int* c) {
  __shared__ __align__(256) char sa[64 * 32];
  __shared__ __align__(256) char sb[8 * 32];
  __shared__ __align__(16) int out[64 * 8];
  __shared__ __align__(8) uint64_t bar;
  uint32_t b = shared_of(&bar);
  if (threadIdx.x == 0) {
    init_barrier(b, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, d[4];
  for (int i = 0; i < 3; i++) {
    if (threadIdx.x == 0) {
      expect(b, 72 * 32);
      asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                   :: "r"(shared_of(sa)), "l"(&ma), "r"(b), "r"(i * 32), "r"(0) : "memory");
      asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
                   :: "r"(shared_of(sb)), "l"(&mb), "r"(b), "r"(i * 32), "r"(0) : "memory");
    }
    wait_parity(b, i & 1);
    wgmma_begin();
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %6, 0;\nwgmma.mma_async.sync.aligned.m64n8k32.s32.s8.s8 {%0,%1,%2,%3}, %4, %5, p;\n}"
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
                 : "l"(descriptor(shared_of(sa), 1, 16, 3)), "l"(descriptor(shared_of(sb), 1, 16, 3)), "r"(i));
    wgmma_end();
    __syncthreads();
  }
  for (int r = 0; r < 4; r++) out[(warp * 16 + lane / 4 + r / 2 * 8) * 8 + lane % 4 * 2 + r % 2] = d[r];
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.s32 [%0], [%1], 2048;" :: "l"(c), "r"(shared_of(out)) : "memory");
    asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;" ::: "memory");
  }
}
