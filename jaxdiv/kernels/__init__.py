"""Pallas kernels, each beside the `jnp` expression that it computes.

What is here is for the rooms above; no name is public. A kernel chooses its form where
it is lowered: Triton for CUDA and ROCm, Mosaic for TPU, and elsewhere the interpreter.
"""

__all__: list[str] = []
