"""The argument that tells a network the noise level."""

from jaxdiv.typing import Array


def check_level(x: Array, **levels: Array) -> None:
    """Raises ValueError unless the level is a scalar or has one value per sample."""
    ((name, level),) = levels.items()
    if level.ndim and level.shape != x.shape[:1]:
        raise ValueError(
            f"{name} has shape {level.shape}; expected a scalar or {x.shape[:1]}, one "
            f"value for each of the samples of shape {x.shape}."
        )
