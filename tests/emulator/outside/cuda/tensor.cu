// Tensor core programs for sm_80: wmma, and mma.sync with ldmatrix fed by a cp.async ring.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <mma.h>
#include <cstdint>
using namespace nvcuda;

// C[16m, 16n] = A B with one warp per 16x16 tile; A row-major, B column-major.
extern "C" __global__ void wmma_matmul(const half* a, const half* b, float* c, int n, int k) {
  int row = blockIdx.y * 16, col = blockIdx.x * 16;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> acc;
  wmma::fill_fragment(acc, 0.f);
  for (int i = 0; i < k; i += 16) {
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> fb;
    wmma::load_matrix_sync(fa, a + row * k + i, k);
    wmma::load_matrix_sync(fb, b + col * k + i, k);
    wmma::mma_sync(acc, fa, fb, acc);
  }
  for (int i = 0; i < acc.num_elements; i++) acc.x[i] *= 2.f;
  wmma::store_matrix_sync(c + row * n + col, acc, n, wmma::mem_row_major);
}

// One warp multiplies 16xK by Kx8; fragments are loaded element by element from the tables of the PTX documentation.
extern "C" __global__ void mma_by_hand(const __nv_bfloat16* a, const __nv_bfloat16* b, float* d, int k) {
  int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  float c[4] = {0, 0, 0, 0};
  for (int i = 0; i < k; i += 16) {
    uint32_t fa[4], fb[2];
    for (int r = 0; r < 4; r++) {
      int row = g + (r % 2) * 8, col = i + t * 2 + (r / 2) * 8;
      fa[r] = *(const uint32_t*)(a + row * k + col);
    }
    for (int r = 0; r < 2; r++) {
      __nv_bfloat162 pair(b[(i + t * 2 + r * 8) * 8 + g], b[(i + t * 2 + r * 8 + 1) * 8 + g]);
      fb[r] = *(uint32_t*)&pair;
    }
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
  }
  for (int r = 0; r < 4; r++) d[(g + (r / 2) * 8) * 8 + t * 2 + r % 2] = c[r];
}

// 64x64 tile by four warps: cp.async ring of three stages, ldmatrix (B by .trans from row-major), mma.sync f16.
extern "C" __global__ void pipelined_matmul(const half* a, const half* b, float* c, int n, int k) {
  constexpr int BK = 32, ST = 3;
  __shared__ __align__(16) half sa[ST][64][BK + 8];
  __shared__ __align__(16) half sb[ST][BK][64 + 8];
  int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
  int row0 = blockIdx.y * 64, col0 = blockIdx.x * 64, steps = k / BK;
  auto load = [&](int s) {
    if (s < steps) {
      for (int i = tid; i < 64 * BK / 8; i += 128) {
        int r = i / (BK / 8), x = i % (BK / 8) * 8;
        __pipeline_memcpy_async(&sa[s % ST][r][x], a + (row0 + r) * k + s * BK + x, 16);
      }
      for (int i = tid; i < BK * 64 / 8; i += 128) {
        int r = i / 8, x = i % 8 * 8;
        __pipeline_memcpy_async(&sb[s % ST][r][x], b + (s * BK + r) * n + col0 + x, 16);
      }
    }
    __pipeline_commit();
  };
  float acc[8][4] = {};
  load(0);
  load(1);
  for (int s = 0; s < steps; s++) {
    __pipeline_wait_prior(1);
    __syncthreads();
    load(s + 2);
    for (int kk = 0; kk < BK; kk += 16) {
      uint32_t fa[4];
      uint32_t pa = (uint32_t)__cvta_generic_to_shared(&sa[s % ST][warp * 16 + lane % 16][kk + lane / 16 * 8]);
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(fa[0]), "=r"(fa[1]), "=r"(fa[2]), "=r"(fa[3]) : "r"(pa));
      for (int j = 0; j < 8; j++) {
        uint32_t fb[2];
        uint32_t pb = (uint32_t)__cvta_generic_to_shared(&sb[s % ST][kk + lane % 16][j * 8]);
        asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];" : "=r"(fb[0]), "=r"(fb[1]) : "r"(pb));
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(acc[j][0]), "+f"(acc[j][1]), "+f"(acc[j][2]), "+f"(acc[j][3])
                     : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
      }
    }
  }
  for (int j = 0; j < 8; j++)
    for (int r = 0; r < 4; r++)
      c[(row0 + warp * 16 + lane / 4 + (r / 2) * 8) * n + col0 + j * 8 + lane % 4 * 2 + r % 2] = acc[j][r];
}

// Integer mma: 16x32 by 32x8 of s8, fragments by the documentation's tables.
extern "C" __global__ void mma_s8(const int8_t* a, const int8_t* b, int* d) {
  int lane = threadIdx.x, g = lane / 4, t = lane % 4;
  int c[4] = {0, 0, 0, 0};
  uint32_t fa[4], fb[2];
  for (int r = 0; r < 4; r++) fa[r] = *(const uint32_t*)(a + (g + r % 2 * 8) * 32 + t * 4 + r / 2 * 16);
  for (int r = 0; r < 2; r++) fb[r] = *(const uint32_t*)(b + g * 32 + t * 4 + r * 16);  // b is column-major
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
  for (int r = 0; r < 4; r++) d[(g + (r / 2) * 8) * 8 + t * 2 + r % 2] = c[r];
}
