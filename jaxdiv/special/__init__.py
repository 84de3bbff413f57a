"""Logarithms of Bessel functions at machine precision, in order and argument.

Limits: orders and arguments are real, and w = sqrt(v^2 + x^2) may not overflow when it
is squared, w < 1e154 in float64 and 1e19 in float32; beyond, results are NaN. float16
and bfloat16 are computed in float32. Derivatives follow by rules of their own in every
mode and order; a program for a second derivative takes seconds to compile.
"""

from jaxdiv.special._bessel import (
    log_bessel_i,
    log_bessel_ie,
    log_bessel_k,
    log_bessel_ke,
)
from jaxdiv.special._hypergeometric import log_hyp0f1
from jaxdiv.special._inverse import bessel_i_ratio_inverse
from jaxdiv.special._matern import matern_kernel
from jaxdiv.special._ratio import (
    bessel_i_ratio,
    bessel_i_ratio_complement,
    bessel_k_ratio,
)

__all__ = [
    "bessel_i_ratio",
    "bessel_i_ratio_complement",
    "bessel_i_ratio_inverse",
    "bessel_k_ratio",
    "log_bessel_i",
    "log_bessel_ie",
    "log_bessel_k",
    "log_bessel_ke",
    "log_hyp0f1",
    "matern_kernel",
]
