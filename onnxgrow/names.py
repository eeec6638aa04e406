"""Names that users choose among. Nothing is imported here, so that the command line can list them at once."""

from __future__ import annotations

__all__ = ["ACTIVATIONS", "BLOCKS", "INITS", "METHODS", "STARTS"]

METHODS = ("zero-fan-out", "zero-fan-in", "near-zero", "net2wider")
"""What is zero in the new channels of a layer."""
INITS = ("kaiming", "xavier", "lecun", "orthogonal", "copy", "zeros")
"""How new weights are drawn."""
ACTIVATIONS = (
    *("auto", "elu", "gelu", "gelu-tanh", "hard-swish", "leaky-relu", "mish", "relu", "selu", "sigmoid", "silu"),
    *("softplus", "softsign", "tanh"),
)
"""Non-linear functions of inserted layers."""
BLOCKS = ("mlp", "bottleneck", "separable")
"""Kinds of new residual blocks."""
STARTS = {"linear": (1.0, 0.0), "nonlinear": (0.0, 1.0)}
"""a and b of an ActiSwitch a·x + b·f(x) at its exact starts."""
