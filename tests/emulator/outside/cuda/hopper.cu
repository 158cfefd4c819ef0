// Programs for sm_90a: TMA + mbarrier + wgmma in inline assembly, bulk copies, a cooperative cluster kernel.
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cstdint>
namespace cg = cooperative_groups;

struct __align__(64) TensorMap { char bytes[128]; };

__device__ uint32_t shared_of(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }
__device__ void wait_parity(uint32_t bar, uint32_t parity) {
  asm volatile("{\n.reg .pred p;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra WAIT;\nDONE:\n}"
               :: "r"(bar), "r"(parity) : "memory");
}
__device__ void load_box(uint32_t dst, const TensorMap* map, uint32_t bar, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];"
               :: "r"(dst), "l"(map), "r"(bar), "r"(x), "r"(y) : "memory");
}
__device__ uint64_t descriptor(uint32_t address) {  // K-major, 128-byte swizzle
  return (uint64_t)((address & 0x3FFFF) >> 4) | (uint64_t)1 << 16 | (uint64_t)64 << 32 | (uint64_t)1 << 62;
}

// C[64, 16] tile per block = A[64, K] B[16, K]^T, K in steps of 64, two stages, one warpgroup that also issues the TMA.
extern "C" __global__ void __launch_bounds__(128) wgmma_tma(const __grid_constant__ TensorMap ma,
                                                            const __grid_constant__ TensorMap mb, float* c, int n, int k) {
  extern __shared__ __align__(1024) char smem[];
  __shared__ __align__(8) uint64_t full[2];
  constexpr int A = 64 * 128, B = 16 * 128, STAGE = A + B;
  uint32_t base = shared_of(smem);
  if (threadIdx.x == 0) {
    for (int s = 0; s < 2; s++) asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(shared_of(&full[s])));
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  int steps = k / 64;
  auto issue = [&](int i) {
    if (threadIdx.x == 0 && i < steps) {
      uint32_t bar = shared_of(&full[i % 2]), at = base + i % 2 * STAGE;
      asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(bar), "r"(STAGE) : "memory");
      load_box(at, &ma, bar, i * 64, blockIdx.y * 64);
      load_box(at + A, &mb, bar, i * 64, blockIdx.x * 16);
    }
  };
  float d[8] = {0, 0, 0, 0, 0, 0, 0, 0};
  issue(0);
  for (int i = 0; i < steps; i++) {
    issue(i + 1);
    wait_parity(shared_of(&full[i % 2]), i / 2 % 2);
    uint32_t at = base + i % 2 * STAGE;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    for (int kk = 0; kk < 4; kk++)
      asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7}, %8, %9, 1, 1, 1, 0, 0;"
                   : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
                   : "l"(descriptor(at + kk * 32)), "l"(descriptor(at + A + kk * 32)));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]) :: "memory");
    __syncthreads();
  }
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int r = 0; r < 8; r++) {
    int row = blockIdx.y * 64 + warp * 16 + lane / 4 + (r / 2 % 2) * 8, col = blockIdx.x * 16 + (r / 4) * 8 + lane % 4 * 2 + r % 2;
    c[row * n + col] = d[r];
  }
}

// Rows travel through shared memory by bulk copies; each block scales its row with ordinary instructions.
extern "C" __global__ void bulk_scale(const float* x, float* y, float factor) {
  __shared__ __align__(16) float row[256];
  __shared__ __align__(8) uint64_t bar;
  uint32_t b = shared_of(&bar);
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(b));
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], 1024;" :: "r"(b) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 1024, [%2];"
                 :: "r"(shared_of(row)), "l"(x + blockIdx.x * 256), "r"(b) : "memory");
  }
  __syncthreads();
  wait_parity(b, 0);
  for (int i = threadIdx.x; i < 256; i += blockDim.x) row[i] *= factor;
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (threadIdx.x == 0) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], 1024;"
                 :: "l"(y + blockIdx.x * 256), "r"(shared_of(row)) : "memory");
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
}

// A cluster of four blocks: each block's histogram bins are spread over the shared memory of all of them.
extern "C" __global__ void __cluster_dims__(4, 1, 1) cluster_histogram(const unsigned char* data, unsigned* bins, int n) {
  __shared__ unsigned mine[64];
  cg::cluster_group cluster = cg::this_cluster();
  if (threadIdx.x < 64) mine[threadIdx.x] = 0;
  cluster.sync();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    unsigned* remote = cluster.map_shared_rank(mine, data[i] / 64);
    atomicAdd(remote + data[i] % 64, 1);
  }
  cluster.sync();
  if (threadIdx.x < 64) atomicAdd(&bins[cluster.block_rank() * 64 + threadIdx.x], mine[threadIdx.x]);
}
