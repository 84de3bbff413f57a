"""Laws on the unit sphere (von Mises-Fisher, Power Spherical) and Gaussian mixtures.

Vectors have their dimension on the last axis; leading axes broadcast. Densities on the
sphere are against the area of the sphere (`base="surface"`) or against the uniform law
(`base="uniform"`), which are log S_d apart: some 1e5 in 32768 dimensions.
"""

from jaxdiv.distributions._gaussian_mixture import GaussianMixture
from jaxdiv.distributions._power_spherical import (
    power_spherical_entropy,
    power_spherical_kl_uniform,
    power_spherical_kl_vmf,
    power_spherical_log_prob,
    power_spherical_sample,
)
from jaxdiv.distributions._vmf_divergences import (
    vmf_bhattacharyya,
    vmf_geometric_js,
    vmf_hellinger,
    vmf_jeffreys,
    vmf_kl,
    vmf_renyi,
)
from jaxdiv.distributions._vmf_fit import vmf_concentration_from_resultant, vmf_fit
from jaxdiv.distributions._vmf_mixture import (
    VmfMixture,
    vmf_mixture_fit,
    vmf_mixture_log_prob,
)
from jaxdiv.distributions._vmf_sample import (
    spherical_uniform_sample,
    vmf_marginal_cdf,
    vmf_sample,
)
from jaxdiv.distributions._von_mises_fisher import (
    vmf_covariance,
    vmf_entropy,
    vmf_fisher_information,
    vmf_kl_uniform,
    vmf_log_normalizer,
    vmf_log_prob,
    vmf_mean_resultant_length,
)

__all__ = [
    "GaussianMixture",
    "VmfMixture",
    "power_spherical_entropy",
    "power_spherical_kl_uniform",
    "power_spherical_kl_vmf",
    "power_spherical_log_prob",
    "power_spherical_sample",
    "spherical_uniform_sample",
    "vmf_bhattacharyya",
    "vmf_concentration_from_resultant",
    "vmf_covariance",
    "vmf_entropy",
    "vmf_fisher_information",
    "vmf_fit",
    "vmf_geometric_js",
    "vmf_hellinger",
    "vmf_jeffreys",
    "vmf_kl",
    "vmf_kl_uniform",
    "vmf_log_normalizer",
    "vmf_log_prob",
    "vmf_marginal_cdf",
    "vmf_mean_resultant_length",
    "vmf_mixture_fit",
    "vmf_mixture_log_prob",
    "vmf_renyi",
    "vmf_sample",
]
