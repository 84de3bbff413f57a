"""Discrepancies between samples: kernel, energy and distance covariance."""

from jaxdiv.discrepancy._distance_covariance import (
    concatenated_distance_covariance_sqr,
    distance_correlation_sqr,
    distance_covariance_sqr,
    joint_distance_covariance_sqr,
    u_center,
    v_center,
)
from jaxdiv.discrepancy._energy import energy_distance
from jaxdiv.discrepancy._mmd import mmd
from jaxdiv.discrepancy._pairwise import pairwise_distance
from jaxdiv.discrepancy._permutation import PermutationTest, permutation_test

__all__ = [
    "PermutationTest",
    "concatenated_distance_covariance_sqr",
    "distance_correlation_sqr",
    "distance_covariance_sqr",
    "energy_distance",
    "joint_distance_covariance_sqr",
    "mmd",
    "pairwise_distance",
    "permutation_test",
    "u_center",
    "v_center",
]
