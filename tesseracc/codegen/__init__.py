"""Code generation: LLVM in a worker process, CPU images, PTX, and the assembler."""
