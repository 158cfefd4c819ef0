"""Derivatives and batches, by the rules of the operators.

Each transformation is an interpreter (tessera.interpreters) over whatever executes below it, so they work on eager and
on traced values, and nest: `reverse` records a tape and walks it back, `forward` carries tangents, `batching` carries
a batch axis. `custom` has functions with rules of their own, `gradients` and `jacobians` what users call.
"""

from tessera.derivatives.batching import vmap
from tessera.derivatives.custom import checkpoint, custom_jvp, custom_vjp
from tessera.derivatives.forward import jvp
from tessera.derivatives.gradients import autodiff, grad, value_and_grad
from tessera.derivatives.jacobians import gradcheck, hvp, jacfwd, jacrev
from tessera.derivatives.loss_scaling import all_finite
from tessera.derivatives.reverse import vjp

__all__ = ["all_finite", "autodiff", "checkpoint", "custom_jvp", "custom_vjp", "grad", "gradcheck", "hvp", "jacfwd",
           "jacrev", "jvp", "value_and_grad", "vjp", "vmap"]
