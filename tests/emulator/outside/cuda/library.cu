// Synchronisation by the C++ library: barriers, pipelines, atomics with orders, bulk copies; grids that work together.
#include <cooperative_groups.h>
#include <cuda/atomic>
#include <cuda/barrier>
#include <cuda/pipeline>
#include <cstdint>
namespace cg = cooperative_groups;
using block_barrier = cuda::barrier<cuda::thread_scope_block>;

// Two stages of rows copied by cuda::memcpy_async while the other stage is summed.
extern "C" __global__ void pipeline_sum(const float* x, float* out, int rows, int columns) {
  extern __shared__ __align__(16) float stage[];
  __shared__ cuda::pipeline_shared_state<cuda::thread_scope_block, 2> state;
  auto block = cg::this_thread_block();
  auto pipe = cuda::make_pipeline(block, &state);
  float sum = 0;
  for (int r = 0, fetched = 0; r < rows; r++) {
    for (; fetched < rows && fetched < r + 2; fetched++) {
      pipe.producer_acquire();
      cuda::memcpy_async(block, stage + fetched % 2 * columns, x + fetched * columns,
                         cuda::aligned_size_t<16>(columns * 4), pipe);
      pipe.producer_commit();
    }
    pipe.consumer_wait();
    for (int c = threadIdx.x; c < columns; c += blockDim.x) sum += stage[r % 2 * columns + (c + 7) % columns];
    pipe.consumer_release();
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}

// Split arrival: half of the warps produce, the others consume, over two barriers and one buffer.
extern "C" __global__ void produce_consume(const int* x, int* y, int rounds) {
  __shared__ int buffer[64];
  __shared__ block_barrier ready, done;
  if (threadIdx.x == 0) init(&ready, 128), init(&done, 128);
  __syncthreads();
  int t = threadIdx.x % 64;
  if (threadIdx.x < 64) {
    for (int r = 0; r < rounds; r++) {
      if (r) done.arrive_and_wait();
      buffer[t] = x[r * 64 + t] * 3;
      (void)ready.arrive();
    }
  } else {
    for (int r = 0; r < rounds; r++) {
      ready.arrive_and_wait();
      y[r * 64 + t] = buffer[63 - t] + r;
      if (r + 1 < rounds) (void)done.arrive();
    }
  }
}

// Blocks hand a token round: release and acquire at device scope order what travels with it.
extern "C" __global__ void token_ring(int* turn, int* value, int blocks) {
  if (threadIdx.x == 0) {
    cuda::atomic_ref<int, cuda::thread_scope_device> mine(*turn);
    while (mine.load(cuda::memory_order_acquire) != blockIdx.x) {}
    *value = *value * 3 + blockIdx.x;
    mine.store(blockIdx.x + 1, cuda::memory_order_release);
  }
}

// A barrier over the whole grid by an atomic counter; every block then reads what the others wrote.
extern "C" __global__ void grid_exchange(const int* x, int* shared_sums, int* out, unsigned* arrived) {
  int v = x[blockIdx.x * 32 + threadIdx.x];
  for (int k = 16; k; k /= 2) v += __shfl_xor_sync(~0u, v, k);
  if (threadIdx.x == 0) {
    shared_sums[blockIdx.x] = v;
    cuda::atomic_ref<unsigned, cuda::thread_scope_device> count(*arrived);
    count.fetch_add(1, cuda::memory_order_acq_rel);
    while (count.load(cuda::memory_order_acquire) < gridDim.x) {}
  }
  __syncthreads();
  int total = 0;
  for (int b = threadIdx.x; b < gridDim.x; b += 32) total += shared_sums[b];
  total = __reduce_add_sync(~0u, total);
  if (threadIdx.x == 0) out[blockIdx.x] = total - v;
}

// Named barriers: each pair of warps synchronises by a number of its own, chosen at run time.
extern "C" __global__ void named_barriers(const int* x, int* y) {
  __shared__ int s[4][64];
  int pair = threadIdx.x / 64, t = threadIdx.x % 64;
  s[pair][t] = x[threadIdx.x];
  for (int r = 0; r < pair + 1; r++) {
    asm volatile("barrier.sync %0, 64;" :: "r"(pair + 1) : "memory");
    int v = s[pair][(t + 33) % 64];
    asm volatile("bar.sync %0, %1;" :: "r"(pair + 1), "r"(64) : "memory");
    s[pair][t] = v + 1;
  }
  asm volatile("barrier.sync %0, 64;" :: "r"(pair + 1) : "memory");
  int any;
  asm volatile("{\n.reg .pred p, q;\nsetp.gt.s32 p, %1, 100;\nbarrier.red.or.pred q, %2, 64, p;\nselp.s32 %0, 1, 0, q;\n}"
               : "=r"(any) : "r"(s[pair][63 - t]), "r"(pair + 5) : "memory");
  y[threadIdx.x] = s[pair][63 - t] * 2 + any;
}
