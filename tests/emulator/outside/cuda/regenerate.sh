#!/bin/sh
# Compiles the CUDA programs of this directory to PTX with nvcc 13.0. Tests read the committed PTX and never run this.
set -e
cd "$(dirname "$0")"
one() { nvcc -ptx -std=c++17 -diag-suppress 20054 $3 "-arch=$2" "$1.cu" -o "$1.ptx"; sed -i 's|^\(\t*\.file.*"\).*/|\1|' "$1.ptx"; }
one basic sm_80 -lineinfo
one tensor sm_80 -lineinfo
one hopper sm_90a -lineinfo
one simt sm_80
one narrow sm_90
one library sm_90
one cluster sm_90a
one gemm sm_90a
one odd sm_80
