// Programs for the emulator's tests. `regenerate.sh` compiles them; the PTX is committed.
extern "C" __global__ void vector_add(const float* a, const float* b, float* c, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) c[i] = a[i] + b[i];
}

extern "C" __global__ void tree_reduce(const float* x, float* out, int n) {
  extern __shared__ float s[];
  int t = threadIdx.x;
  float v = 0;
  for (int i = blockIdx.x * blockDim.x + t; i < n; i += gridDim.x * blockDim.x) v += x[i];
  s[t] = v;
  __syncthreads();
  for (int k = blockDim.x / 2; k > 32; k /= 2) {
    if (t < k) s[t] += s[t + k];
    __syncthreads();
  }
  if (t < 32) {
    v = s[t] + s[t + 32];
    for (int k = 16; k; k /= 2) v += __shfl_down_sync(~0u, v, k);
    if (t == 0) out[blockIdx.x] = v;
  }
}

template <int PAD> __device__ void transpose(const float* in, float* out, int n) {
  __shared__ float tile[32][32 + PAD];
  int x = blockIdx.x * 32 + threadIdx.x, y = blockIdx.y * 32 + threadIdx.y;
  for (int j = 0; j < 32; j += 8) tile[threadIdx.y + j][threadIdx.x] = in[(y + j) * n + x];
  __syncthreads();
  x = blockIdx.y * 32 + threadIdx.x;
  y = blockIdx.x * 32 + threadIdx.y;
  for (int j = 0; j < 32; j += 8) out[(y + j) * n + x] = tile[threadIdx.x][threadIdx.y + j];
}
extern "C" __global__ void transpose_padded(const float* in, float* out, int n) { transpose<1>(in, out, n); }
extern "C" __global__ void transpose_conflicts(const float* in, float* out, int n) { transpose<0>(in, out, n); }

extern "C" __global__ void histogram(const unsigned char* data, unsigned* bins, int n) {
  __shared__ unsigned s[256];
  s[threadIdx.x] = 0;
  __syncthreads();
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&s[data[i]], 1);
  __syncthreads();
  atomicAdd(&bins[threadIdx.x], s[threadIdx.x]);
}

__device__ __noinline__ float horner(float x, int n) {
  float s = x;
  for (int i = 0; i < n; i++) s = s * x + 1.f;
  return s;
}
__constant__ float weights[4] = {1.f, 2.f, 3.f, 4.f};

// Calls, a switch, local memory, constants, double precision.
extern "C" __global__ void assorted(const float* a, float* out, int n, double d) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float v = a[i] * weights[i & 3];
  float local[8];
  for (int j = 0; j < 8; j++) local[(j + n) & 7] = v * j;
  float r = horner(v, i & 7) + local[i & 7] + (float)(d * d);
  switch (i % 5) {
    case 0: r += 1; break;
    case 1: r *= 2; break;
    case 2: r -= 7; break;
    case 3: r /= 3.f; break;
    default: r = sqrtf(fabsf(r));
  }
  out[i] = r;
}

// The last block to finish adds up the partial sums of all: a fence and a counter order the blocks.
__device__ unsigned ticket;
extern "C" __global__ void last_block_sum(const float* x, volatile float* partial, float* out, int n) {
  __shared__ bool last;
  float v = 0;
  for (int i = blockIdx.x * 32 + threadIdx.x; i < n; i += gridDim.x * 32) v += x[i];
  for (int k = 16; k; k /= 2) v += __shfl_xor_sync(~0u, v, k);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = v;
    __threadfence();
    last = atomicAdd(&ticket, 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    __threadfence();
    float s = 0;
    for (int b = 0; b < gridDim.x; b++) s += partial[b];
    *out = s;
  }
}

// Lanes of a warp take a lock in turn.
extern "C" __global__ void spin_lock(int* lock, int* counter) {
  bool done = false;
  while (!done) {
    if (atomicCAS(lock, 0, 1) == 0) {
      __threadfence();
      *(volatile int*)counter += 1;
      __threadfence();
      atomicExch(lock, 0);
      done = true;
    }
  }
}
