"""f-divergences: one record for all, and exact values between categorical laws."""

from jaxdiv.divergence._categorical import js, kl, reverse_kl
from jaxdiv.divergence._generators import FDivergence, get, names

__all__ = ["FDivergence", "get", "js", "kl", "names", "reverse_kl"]
