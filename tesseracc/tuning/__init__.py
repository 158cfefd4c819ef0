"""Schedule parameters of a kernel: the points of its space, what is known of their speed, and the choice of one."""
