"""Real data that ordinary Python packages ship: nothing is downloaded.

`pip install "jaxdiv[examples]"` brings the packages, which are imported when a data
set is asked for. What comes back are NumPy arrays.
"""

from jaxdiv.datasets._images import (
    ColorImages,
    Images,
    color_images,
    digits,
    mnist5k,
)

__all__ = ["ColorImages", "Images", "color_images", "digits", "mnist5k"]
