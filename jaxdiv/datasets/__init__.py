"""Real data that ordinary Python packages ship, and toys: nothing is downloaded.

`pip install "jaxdiv[examples]"` brings the packages, which are imported when a data
set is asked for. Real data come back as NumPy arrays.
"""

from jaxdiv.datasets._images import (
    ColorImages,
    Images,
    color_images,
    digits,
    mnist5k,
)
from jaxdiv.datasets._mixtures import gaussian_mixture_2d

__all__ = [
    "ColorImages",
    "Images",
    "color_images",
    "digits",
    "gaussian_mixture_2d",
    "mnist5k",
]
