"""The argument that tells a network the noise level."""

import jax.numpy as jnp

from jaxdiv.typing import Array

WAVES = 16  # frequencies of the time embedding


def check_level(x: Array, **levels: Array) -> None:
    """Raises ValueError unless the level is a scalar or has one value per sample."""
    ((name, level),) = levels.items()
    if level.ndim and level.shape != x.shape[:1]:
        raise ValueError(
            f"{name} has shape {level.shape}; expected a scalar or {x.shape[:1]}, one "
            f"value for each of the samples of shape {x.shape}."
        )


def waves(c_noise: Array) -> Array:
    """Sines and cosines of the noise level, whose EDM form spans about [-1.6, 1.1]."""
    frequencies = jnp.geomspace(0.5, 16.0, WAVES, dtype=c_noise.dtype)
    angles = c_noise[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=1)
