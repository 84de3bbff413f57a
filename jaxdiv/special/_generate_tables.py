"""Writes `_tables.py`: the coefficients behind the log-Bessel functions.

    python -m jaxdiv.special._generate_tables

The Debye coefficients are exact fractions, rounded once; those of K come from mpmath, a
dependency of the tests. Nothing else of the library imports this.
"""

import pathlib
from fractions import Fraction
from typing import Any

Row = list[Fraction]
Rows = list[list[float]]

DEBYE_TERMS = 24
U_TERMS = 13
DIGITS = 60
NEAR = 1.5
# dtype: (upper end of the second form, absolute size of what is dropped)
FAR = {"float64": (25.0, 4e-18), "float32": (10.0, 5e-10)}

_HEADER = '''"""Coefficients of log-Bessel functions; written by `_generate_tables`."""

# ruff: noqa: E501
# fmt: off
'''


def debye_u(terms: int) -> list[Row]:
    """Rows c of the Debye polynomials u_k(p) = p^k sum_j c_j p^(2j), k = 0, 1, ..."""
    rows = [[Fraction(1)]]
    for k in range(terms):
        new = [Fraction(0)] * (k + 2)
        for j, c in enumerate(rows[k]):
            n = k + 2 * j  # u' = n c p^(n-1), and the integral raises the power
            new[j] += c * (Fraction(n, 2) + Fraction(1, 8 * (n + 1)))
            new[j + 1] -= c * (Fraction(n, 2) + Fraction(5, 8 * (n + 3)))
        rows.append(new)
    return rows


def debye_log(terms: int) -> list[Row]:
    """Rows d_k, k = 1, 2, ..., of the logarithm: sum_k d_k(P) / w^k."""
    u = debye_u(terms)
    rows: list[Row] = [[Fraction(0)]]
    for k in range(1, terms + 1):
        row = [k * c for c in u[k]]
        for j in range(1, k):
            for i, a in enumerate(rows[j]):
                for m, b in enumerate(u[k - j]):
                    row[i + m] -= j * a * b
        rows.append([c / k for c in row])
    return rows[1:]


def reciprocal_gamma(terms: int) -> list[Any]:
    """Taylor coefficients of 1/Gamma(1 + mu) at 0, from those of log Gamma."""
    import mpmath as mp

    log = [mp.mpf(0), mp.euler]
    log += [-((-1) ** n) * mp.zeta(n) / n for n in range(2, terms)]
    series = [mp.mpf(1)]
    for n in range(1, terms):
        series.append(mp.fsum(k * log[k] * series[n - k] for k in range(1, n + 1)) / n)
    return series


def k_near(size: float) -> tuple[Rows, ...]:
    r"""Rows of A1 and A2: power of q = x^2/4, then of mu^2.

    .. math:: \sum_k \frac{q^k}{k!\,\Gamma(1 + k \pm \mu)} = A_2 \mp \mu A_1
    """
    import mpmath as mp

    with mp.workdps(DIGITS):
        q, m = mp.mpf(NEAR) ** 2 / 4, mp.mpf(1) / 4
        series, tables = reciprocal_gamma(50), ([], [])
        for k in range(30):
            if k:  # divided by k (k + mu)
                previous = mp.mpf(0)
                for i, c in enumerate(series):
                    previous = (c / k - previous) / k
                    series[i] = previous
            for table, row in zip(
                tables, ([-c for c in series[1::2]], series[::2]), strict=True
            ):
                table.append(_trimmed(row, size / q**k, m))
        return tuple([row for row in table if row] for table in tables)


def _trimmed(row: list[Any], size: Any, at: Any) -> list[float]:
    """The row as floats, without the end that is less than `size` at `at`."""
    keep = max((j + 1 for j, c in enumerate(row) if abs(c) * at**j > size), default=0)
    return [float(c) for c in row[:keep]]


def k_far_chebyshev(top: float, n: int, m: int) -> tuple[Any, Any]:
    r"""Chebyshev coefficients of f and g in 1/x and mu^2, NEAR <= x <= top.

    .. math::
        f = \sqrt{2x/\pi}\, e^x K_\mu(x), \qquad g = -\sqrt{2x/\pi}\, e^x K_\mu'(x)
    """
    import mpmath as mp

    with mp.workdps(DIGITS):
        angle = lambda i, n: mp.cos(mp.pi * (2 * i + 1) / (2 * n))  # noqa: E731
        low, high = 1 / mp.mpf(top), 1 / mp.mpf(NEAR)
        x = [2 / (high + low + (high - low) * angle(i, n)) for i in range(n)]
        mu = [mp.sqrt((1 + angle(j, m)) / 8) for j in range(m)]
        scale = [mp.sqrt(2 * a / mp.pi) * mp.exp(a) for a in x]
        k = lambda order, a: mp.besselk(order, a)  # noqa: E731
        f = mp.matrix(n, m)
        g = mp.matrix(n, m)
        for i, a in enumerate(x):
            for j, b in enumerate(mu):
                f[i, j] = scale[i] * k(b, a)
                g[i, j] = scale[i] * (k(1 - b, a) + k(1 + b, a)) / 2

        def transform(n: int) -> Any:
            rows = mp.matrix(n, n)
            for i in range(n):
                for j in range(n):
                    weight = (1 if i == 0 else 2) / mp.mpf(n)
                    angle = mp.pi * i * (2 * j + 1) / (2 * n)
                    rows[i, j] = weight * mp.cos(angle)
            return rows

        left, right = transform(n), transform(m).T
        return left * f * right, left * g * right


def k_far(top: float, size: float) -> tuple[Rows, ...]:
    """Rows of f and g: power of s in [-1, 1], affine in 1/x, then of 8 mu^2 - 1."""
    import mpmath as mp

    with mp.workdps(DIGITS):
        return tuple(
            _monomials(c, size) for c in k_far_chebyshev(top, *_FAR_NODES[size < 1e-12])
        )


_FAR_NODES = {True: (32, 10), False: (16, 6)}


def _monomials(c: Any, size: float) -> list[list[float]]:
    """A double Chebyshev series, small terms dropped, as rows of monomials."""
    import mpmath as mp

    def polynomials(n: int) -> Any:
        T = mp.matrix(n, n)
        T[0, 0] = 1
        T[1, 1] = 1
        for i in range(2, n):
            for j in range(n):
                T[i, j] = (2 * T[i - 1, j - 1] if j else 0) - T[i - 2, j]
        return T

    kept = mp.matrix(c.rows, c.cols)
    for i in range(c.rows):
        for j in range(c.cols):
            kept[i, j] = c[i, j] if abs(c[i, j]) > size else 0
    power = polynomials(c.rows).T * kept * polynomials(c.cols)
    rows = [_trimmed(list(power[i, :]), 0, 1) for i in range(c.rows)]
    return [row for row in rows if row]


def tables() -> dict[str, Any]:
    """Every table by its name, as nested tuples of floats."""
    near = {dtype: k_near(size) for dtype, (_, size) in FAR.items()}
    far = {dtype: k_far(top, size) for dtype, (top, size) in FAR.items()}
    return {
        "DEBYE": _frozen(debye_log(DEBYE_TERMS)),
        "DEBYE_U": _frozen(debye_u(U_TERMS)[1:]),
        "K_NEAR_END": NEAR,
        "K_FAR_END": {dtype: top for dtype, (top, _) in FAR.items()},
        "K_NEAR": {dtype: _frozen(pair) for dtype, pair in near.items()},
        "K_FAR": {dtype: _frozen(pair) for dtype, pair in far.items()},
    }


def _frozen(rows: Any) -> Any:
    return tuple(map(_frozen, rows)) if isinstance(rows, list | tuple) else float(rows)


def _written(value: Any, indent: int = 0) -> str:
    """Python source; a row of numbers is broken where it is long."""
    space = " " * indent
    if isinstance(value, dict):
        lines = [
            f'{space}    "{k}": {_written(v, indent + 4)},\n' for k, v in value.items()
        ]
        return "{\n" + "".join(lines) + space + "}"
    if not isinstance(value, tuple):
        return repr(value)
    if any(isinstance(v, tuple) for v in value):
        lines = [f"{space}    {_written(v, indent + 4)},\n" for v in value]
        return "(\n" + "".join(lines) + space + ")"
    return "(" + ", ".join(map(repr, value)) + ("," if len(value) == 1 else "") + ")"


def main() -> None:
    text = _HEADER
    for name, value in tables().items():
        text += f"\n{name} = {_written(value)}\n"
    path = pathlib.Path(__file__).with_name("_tables.py")
    path.write_text(text)


if __name__ == "__main__":
    main()
