"""From user code to IR: loading a module, tracing functions, lowering kernels."""
