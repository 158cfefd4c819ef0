#!/bin/sh
# Compiles the CUDA programs of this directory to PTX with nvcc 13.0. Tests read the committed PTX and never run this.
set -e
cd "$(dirname "$0")"
one() { nvcc -ptx -std=c++17 -lineinfo "$2" "$1.cu" -o "$1.ptx" && sed -i 's|^\(\t*\.file.*"\).*/|\1|' "$1.ptx"; }
one basic -arch=sm_80
for extra in tensor:sm_80 hopper:sm_90a; do
  name=${extra%%:*}
  [ -f "$name.cu" ] && one "$name" "-arch=${extra##*:}"
done
