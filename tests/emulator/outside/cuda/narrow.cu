// Arithmetic on narrow floats: half2, bfloat162, fp8, through the intrinsics of the toolkit's headers.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cstdint>

extern "C" __global__ void half2_ops(const half2* a, const half2* b, half2* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  half2 x = a[i], y = b[i], *o = out + 12 * i;
  o[0] = __hadd2(x, y);
  o[1] = __hsub2_sat(x, y);
  o[2] = __hmul2(x, y);
  o[3] = __hfma2(x, y, x);
  o[4] = __hfma2_relu(x, y, y);
  o[5] = __hmax2(x, y);
  o[6] = __hmin2_nan(x, y);
  o[7] = __habs2(__hneg2(x));
  o[8] = h2exp2(x);
  o[9] = h2rsqrt(__habs2(y));
  o[10] = __h2div(x, y);
  o[11] = __hlt2(x, y) * __float2half2_rn(0.5f);
}

extern "C" __global__ void bf162_ops(const __nv_bfloat162* a, const __nv_bfloat162* b, __nv_bfloat162* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  __nv_bfloat162 x = a[i], y = b[i], *o = out + 8 * i;
  o[0] = __hadd2(x, y);
  o[1] = __hsub2(x, y);
  o[2] = __hmul2(x, y);
  o[3] = __hfma2(x, y, x);
  o[4] = __hmax2_nan(x, y);
  o[5] = __hmin2(x, y);
  o[6] = __floats2bfloat162_rn(__low2float(x) * 3.f, __high2float(y) / 3.f);
  o[7] = __hfma2_relu(x, y, y);
}

// Every conversion of the narrow types: roundings, saturation, integers.
extern "C" __global__ void conversions(const float* x, uint16_t* h, uint8_t* q, int* k, float* back, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float v = x[i];
  uint16_t* o = h + 6 * i;
  o[0] = __half_as_ushort(__float2half_rn(v));
  o[1] = __half_as_ushort(__float2half_rz(v));
  o[2] = __half_as_ushort(__double2half((double)v));
  o[3] = __bfloat16_as_ushort(__float2bfloat16_rn(v));
  o[4] = __bfloat16_as_ushort(__float2bfloat16_rz(v));
  o[5] = __half_as_ushort(__int2half_rn((int)v));
  q[4 * i] = __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
  q[4 * i + 1] = __nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E5M2);
  __nv_fp8x2_storage_t two = __nv_cvt_float2_to_fp8x2(make_float2(v, -v * 0.5f), __NV_SATFINITE, __NV_E4M3);
  q[4 * i + 2] = two & 0xff, q[4 * i + 3] = two >> 8;
  k[3 * i] = __half2int_rn(__float2half(v)), k[3 * i + 1] = __float2int_rz(v), k[3 * i + 2] = __float2uint_ru(v);
  back[2 * i] = __half2float(__half(__nv_cvt_fp8_to_halfraw(q[4 * i], __NV_E4M3)));
  back[2 * i + 1] = __bfloat162float(__ushort_as_bfloat16(o[3]));
}

// A dot product in half2 with a float sum, and packed atomics.
extern "C" __global__ void half_dot(const half2* a, const half2* b, float* sum, half2* total, __nv_bfloat162* wide, int n) {
  half2 acc = __float2half2_rn(0.f);
  float s = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    acc = __hfma2(a[i], b[i], acc);
    float2 p = __half22float2(acc);
    s += p.x - p.y;
  }
  for (int k = 16; k; k /= 2) s += __shfl_xor_sync(~0u, s, k);
  if (threadIdx.x % 32 == 0) atomicAdd(sum, s);
  atomicAdd(total, __float2half2_rn((float)(threadIdx.x % 8)));
  atomicAdd(wide, __float2bfloat162_rn(1.f));
}
