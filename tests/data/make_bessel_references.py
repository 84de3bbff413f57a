"""Reference values of the log-Bessel functions, at 60 digits and exact floats.

    python -m tests.data.make_bessel_references

Each number is stored as a float64 and the float32 rest, so that what is measured is the
error of the library. mpmath's own `besselk` is wrong at some points below 60 digits and
`besseli` does not converge for large arguments: here the power series, `besselk` at two
precisions, and for w > 80 forty terms of the Debye series.
"""

import pathlib

import mpmath as mp
import numpy as np

from jaxdiv.special._generate_tables import debye_log

FILE = pathlib.Path(__file__).with_name("bessel_references.npz")
DIGITS = 60
FAR = 80
NAMES = ("log_i", "log_k", "ratio", "complement", "k_ratio", "log_i_v", "log_k_v")
NAMES += ("ratio_x", "log_hyp0f1")
DEBYE = [[mp.mpf(c.numerator) / c.denominator for c in row] for row in debye_log(40)]


def points(dtype):
    """(v, x) of one precision: a grid, borders of all formulas, random ones."""
    border = 25.0 if dtype == np.float64 else 10.0
    orders = [0, 1e-7, 0.3, 0.5, 1, 2.7, 7.5, 12, 24.9, 60, 1023, 1e4, 1e5]
    arguments = [1e-10, 1e-3, 0.1, 0.7, 1.999, 2.001, 5, 9, 17, 40, 200, 3e4, 1e6]
    grid = [(v, x) for v in orders for x in arguments]
    nearly = [(v, 0.66274 * v) for v in (3, 11, 26, 100, 1e3, 1e5)]
    nearly += [(v, v * (1 + 1e-5)) for v in (1, 6, 18, 30, 500, 1e5)]
    nearly += [(n + d, x) for n in (1, 5) for d in (-1e-9, 1e-9) for x in (0.4, 3)]
    nearly += [(n + 0.5 + d, 1.5) for n in (0, 3, 9) for d in (-1e-6, 1e-6)]
    angles = np.linspace(0, np.pi / 2, 7)[:, None]
    radii = border * (1 + np.array([-1e-6, 1e-6]))
    edge = np.stack([radii * np.sin(angles), radii * np.cos(angles)], -1)
    rng = np.random.default_rng(0)
    small = rng.uniform(0, 1.2 * border, (60, 2))
    wide = 10 ** rng.uniform([-3, -6], [5, 6], (100, 2))
    every = [*grid, *nearly, *edge.reshape(-1, 2), *small, *wide]
    return np.maximum(np.array(every, dtype), np.array([0, 1e-10], dtype))


def series(v, q):
    """0F1(; v + 1; q) by its terms, all positive."""
    term = total = mp.mpf(1)
    k = 0
    while term > total * mp.mpf(10) ** (-mp.mp.dps - 5):
        k += 1
        term = term * q / (k * (v + k))
        total += term
    return total


def debye(v, x, sign):
    """log I (sign 1) or log K (sign -1)."""
    w = mp.sqrt(v**2 + x**2)
    P, u = v**2 / w**2, sign / w
    tail = mp.fsum(
        u**k * c * P**j for k, row in enumerate(DEBYE, 1) for j, c in enumerate(row)
    )
    factor = 2 * mp.pi * w if sign > 0 else 2 * w / mp.pi
    return sign * (w - v * mp.log((v + w) / x)) - mp.log(factor) / 2 + tail


def log_i(v, x):
    if mp.hypot(v, x) > FAR:
        return debye(v, x, 1)
    return v * mp.log(x / 2) - mp.loggamma(v + 1) + mp.log(series(v, x**2 / 4))


def log_k(v, x):
    if mp.hypot(v, x) > FAR:
        return debye(v, x, -1)
    coarse = mp.log(mp.besselk(v, x))
    with mp.extradps(40):
        fine = mp.log(mp.besselk(v, x))
    assert abs(coarse - fine) < mp.mpf(10) ** -35 * (1 + abs(fine)), (v, x)
    return fine


def i_ratio(v, x):
    if mp.hypot(v, x) > FAR:
        return mp.diff(lambda x: log_i(v, x), x) - v / x
    q = x**2 / 4
    return x / 2 / (v + 1) * series(v + 1, q) / series(v, q)


def hypergeometric(b, z):
    v, x = b - 1, 2 * mp.sqrt(z)
    if mp.hypot(v, x) > FAR and z > b / 1000:
        return debye(v, x, 1) - v * mp.log(x / 2) + mp.loggamma(v + 1)
    return mp.log1p(series(v, z) - 1)


def references(v, x):
    """Every quantity at exact v and x, and 0F1 at the rounded b and z."""
    b, z = (mp.mpf(float(c)) for c in (v + type(v)(1), x * x / type(x)(4)))
    v, x = mp.mpf(float(v)), mp.mpf(float(x))
    r = i_ratio(v, x)
    return {
        "log_i": log_i(v, x),
        "log_k": log_k(v, x),
        "ratio": r,
        "complement": 1 - r,
        "k_ratio": mp.exp(log_k(v + 1, x) - log_k(v, x)),
        "log_i_v": mp.diff(lambda v: log_i(v, x), v),
        "log_k_v": mp.diff(lambda v: log_k(abs(v), x), v) if v else mp.mpf(0),
        "ratio_x": 1 - r**2 - (2 * v + 1) * r / x,
        "log_hyp0f1": hypergeometric(b, z),
    }


def main():
    mp.mp.dps = DIGITS
    arrays = {}
    for dtype in (np.float64, np.float32):
        name = np.dtype(dtype).name
        at = points(dtype)
        rows = [references(*point) for point in at]
        arrays[f"{name}/points"] = at
        for quantity in NAMES:
            exact = [row[quantity] for row in rows]
            high = np.array([float(c) for c in exact])
            rest = [float(c - mp.mpf(h)) for c, h in zip(exact, high, strict=True)]
            arrays[f"{name}/{quantity}"] = high
            arrays[f"{name}/{quantity}/rest"] = np.array(rest, np.float32)
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
