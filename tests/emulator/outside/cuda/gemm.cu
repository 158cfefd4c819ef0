// A 128x128x64-tile GEMM for sm_90a: TMA loads into a ring, two warpgroups of wgmma, bf16 in, f32 sums, bf16 out.
#include <cuda_bf16.h>
#include <cstdint>

struct __align__(64) TensorMap { char bytes[128]; };

constexpr int TILE = 128, DEPTH = 64, STAGES = 3, HALF = 64 * 128;  // HALF: bytes of 64 rows of A or B in one stage
constexpr int STAGE = 4 * HALF;

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
#define R4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define R16(i) R4(i), R4(i + 4), R4(i + 8), R4(i + 12)
__device__ void mma(float (&d)[64], uint64_t a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
      "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,"
      "%61,%62,%63}, %64, %65, 1, 1, 1, 0, 0;"
      : R16(0), R16(16), R16(32), R16(48) : "l"(a), "l"(b));
}

// C[M, N] = A[M, K] B[N, K]^T; the first thread of the first warpgroup fills a stage as soon as both warpgroups left it.
extern "C" __global__ void __launch_bounds__(256) gemm(const __grid_constant__ TensorMap ma,
                                                       const __grid_constant__ TensorMap mb, __nv_bfloat16* c, int n, int k) {
  extern __shared__ __align__(1024) char smem[];
  __shared__ __align__(8) uint64_t full[STAGES], empty[STAGES];
  uint32_t base = shared_of(smem);
  int group = threadIdx.x / 128, steps = k / DEPTH;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(shared_of(&full[s])));
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 256;" :: "r"(shared_of(&empty[s])));
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  auto issue = [&](int i) {
    uint32_t bar = shared_of(&full[i % STAGES]), at = base + i % STAGES * STAGE;
    if (i >= STAGES) wait_parity(shared_of(&empty[i % STAGES]), (i / STAGES - 1) % 2);
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" :: "r"(bar), "r"(STAGE) : "memory");
    load_box(at, &ma, bar, i * DEPTH, blockIdx.y * TILE);
    load_box(at + 2 * HALF, &mb, bar, i * DEPTH, blockIdx.x * TILE);
  };
  if (threadIdx.x == 0)
    for (int i = 0; i < STAGES - 1 && i < steps; i++) issue(i);
  float d[64] = {};
  for (int i = 0; i < steps; i++) {
    if (threadIdx.x == 0 && i + STAGES - 1 < steps) issue(i + STAGES - 1);
    __syncwarp();
    wait_parity(shared_of(&full[i % STAGES]), i / STAGES % 2);
    uint32_t at = base + i % STAGES * STAGE;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    for (int kk = 0; kk < 4; kk++) mma(d, descriptor(at + group * HALF + kk * 32), descriptor(at + 2 * HALF + kk * 32));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" : R16(0), R16(16), R16(32), R16(48) :: "memory");
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared_of(&empty[i % STAGES])) : "memory");
  }
  int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32, row = blockIdx.y * TILE + group * 64 + warp * 16 + lane / 4;
  for (int r = 0; r < 64; r += 2) {
    int col = blockIdx.x * TILE + r / 4 * 8 + lane % 4 * 2;
    *(__nv_bfloat162*)&c[(row + r / 2 % 2 * 8) * n + col] = __floats2bfloat162_rn(d[r], d[r + 1]);
  }
}
