"""Trains the classifier whose hidden units measure digits, and stores its weights.

    python -m examples.assets.make_digits_features

Frechet distances depend on the classifier: to compare runs, keep it. The archive holds
plain arrays and no pickle.
"""

import pathlib

import numpy as np

from examples._digits import train_features
from jaxdiv import datasets

PATH = pathlib.Path(__file__).with_name("digits_features.npz")

if __name__ == "__main__":
    layers, accuracy = train_features(*datasets.digits(), size=1400)
    arrays = {}
    for i, (weights, bias) in enumerate(layers):
        arrays |= {f"weights{i}": weights, f"bias{i}": bias}
    np.savez(PATH, **arrays)
    print(f"{PATH.name}: {accuracy:.3f} of the images left out are classified right.")
