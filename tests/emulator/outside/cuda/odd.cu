// Programs off the beaten track: 128-bit integers, tables of pointers, jumps into loops, local arrays, groups by label.
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
#include <cooperative_groups/scan.h>
#include <cassert>
#include <cstdint>
#include <cstdio>
namespace cg = cooperative_groups;

// Quotient, remainder, high product and shift of 128-bit integers, signed and unsigned.
extern "C" __global__ void wide(const uint64_t* a, const uint64_t* b, const int64_t* c, uint64_t* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  unsigned __int128 x = (unsigned __int128)a[i] << 64 | b[i], y = (unsigned __int128)b[i] * (a[i] >> 40) | 1;
  __int128 s = (__int128)c[i] * (int64_t)b[i];
  uint64_t* o = out + i * 6;
  o[0] = (uint64_t)(x / y), o[1] = (uint64_t)(x % y), o[2] = (uint64_t)(x * y >> 64);
  o[3] = (uint64_t)(s / (c[i] | 3)), o[4] = (uint64_t)(s % 1000003), o[5] = (uint64_t)(s >> (b[i] & 127));
}

__constant__ int table[16] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3};
__device__ int offset = 7;
__device__ int* where = &offset;
__constant__ const int* inside = table + 3;
__device__ const char* words[3] = {"one", "three", "seventeen"};
struct Mixed { float x; double y; short z[3]; };

// Pointers in constant and global memory to constant and global memory; a structure by value.
extern "C" __global__ void variables(const int* a, int* out, Mixed by, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int s = table[a[i] & 15] + *where + inside[a[i] & 3];
  for (const char* w = words[(unsigned)a[i] % 3]; *w; w++) s = s * 31 + *w;
  out[i] = s + (int)by.x * 100 + (int)by.y + by.z[a[i] & 1] * 3;
}

// A loop that is entered in its middle.
extern "C" __global__ void duff(const int* a, int* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n || !(a[i] & 31)) return;
  int count = a[i] & 31, s = 0, k = 0, rounds = (count + 3) / 4;
  switch (count % 4) {
    case 0: do { s += k++ * 3;
    case 3: s ^= k++;
    case 2: s -= 2 * k++;
    case 1: s += k++ << 2;
            } while (--rounds > 0);
  }
  out[i] = s;
}

// Two loops that jump into each other.
extern "C" __global__ void irreducible(const int* a, int* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int x = a[i], s = 0, c = 0;
  if (x & 1) goto middle;
top:
  s += x, x = x * 5 + 1;
  if (++c > 20) goto out;
  if (x & 2) goto top;
middle:
  s ^= x, x += 3;
  if (++c > 20) goto out;
  if (x & 4) goto top;
  if (x & 8) goto middle;
out:
  out[i] = s * 64 + c;
}

template <typename T> __device__ double fold(const T* v, int n) {
  T s = v[0];
  for (int k = 1; k < n; k++) s = s * T(3) + v[k];
  return s;
}

// Arrays of a thread's own, of several types, filled in an order that only the run knows.
extern "C" __global__ void locals(const int* a, double* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float f[9]; double g[5]; short h[7]; unsigned char u[13];
  int m = a[i] & 7;
  for (int k = 0; k < 9; k++) f[(k * 4 + m) % 9] = k + m;
  for (int k = 0; k < 5; k++) g[(k * 2 + m) % 5] = k * 0.5;
  for (int k = 0; k < 7; k++) h[(k * 3 + m) % 7] = k - m;
  for (int k = 0; k < 13; k++) u[(k * 5 + m) % 13] = k * m;
  out[i] = fold(f, 9) + fold(g, 5) + fold(h, 7) + fold(u, 13);
}

// Threads gathered by label: sums, ranks, and scans inside tiles of eight.
extern "C" __global__ void gathered(const int* a, int* out) {
  int i = blockIdx.x * blockDim.x + threadIdx.x, v = a[i], *o = out + i * 5;
  auto tile = cg::tiled_partition<8>(cg::this_thread_block());
  o[0] = cg::reduce(tile, v, cg::plus<int>()), o[1] = cg::inclusive_scan(tile, v, cg::bit_xor<int>());
  auto same = cg::labeled_partition(cg::coalesced_threads(), v & 3);
  o[2] = cg::reduce(same, v, cg::greater<int>()), o[3] = same.thread_rank() * 100 + same.size();
  o[4] = v & 8 ? __reduce_add_sync(__activemask(), v & 0xff) : __popc(__match_any_sync(__activemask(), v & 3));
}

// Compare-and-swap on 16 and 64 bits, wrapping counters, exchange: every thread counts once.
extern "C" __global__ void contended(const int* a, unsigned short* small, unsigned long long* big, unsigned* wrap,
                                     int* tickets, int* next, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int s = a[i] & 3;
  unsigned short old = *(volatile unsigned short*)(small + s), seen;
  do seen = old, old = atomicCAS(small + s, seen, (unsigned short)(seen + 3)); while (old != seen);
  unsigned long long o = *(volatile unsigned long long*)(big + s), was;
  do was = o, o = atomicCAS(big + s, was, was * 3 + 1); while (o != was);
  atomicInc(wrap + s, 6);
  atomicDec(wrap + 4 + s, 6);
  tickets[i] = atomicAdd(next, 1);
  tickets[n + i] = atomicExch(next + 1, i);
}

// Formatted output of every width, an assertion, cache hints, a copy of a structure that is not aligned.
extern "C" __global__ void told(const int* a, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  assert(a[i] < 90);
  printf("%d of %u: %6.2f|%-8s|%c %lld %#x %hd %%\n", i, blockDim.x, a[i] * 0.25, words[(unsigned)a[i] % 3], 'a' + i % 26,
         -5ll * a[i] << 30, a[i], (short)(a[i] * 1000));
}
struct Odd { char c[23]; };
extern "C" __global__ void bytes(const char* a, char* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  char buffer[40];
  memset(buffer, i, 40);
  memcpy(buffer + 3, a + i * 8, 17);
  Odd s;
  memcpy(&s, buffer + 1, 23);
  for (int k = 0; k < 23; k++) __stcs(out + i * 23 + k, s.c[k]);
}
