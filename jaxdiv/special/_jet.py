"""Truncated Taylor polynomials in one or two variables.

A recurrence on them gives all partial derivatives of what it computes, with as few
operations as by hand; nested `jax.jvp` of the same recurrence compiles for minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp

from jaxdiv.special._rule import derivative
from jaxdiv.typing import Array

Index = tuple[int, int]


class Jet:
    """Coefficients of h^i k^j for i <= a and j <= b; an absent one is zero."""

    def __init__(self, terms: Mapping[Index, Array | float], order: Index) -> None:
        self.terms, self.order = dict(terms), order

    def __getitem__(self, index: Index) -> Array | float:
        return self.terms.get(index, 0.0)

    def __add__(self, other: Jet | Array | float) -> Jet:
        added = dict(self.terms)
        terms = other.terms if isinstance(other, Jet) else {(0, 0): other}
        for index, c in terms.items():
            added[index] = added[index] + c if index in added else c
        return Jet(added, self.order)

    __radd__ = __add__

    def __neg__(self) -> Jet:
        return Jet({index: -c for index, c in self.terms.items()}, self.order)

    def __sub__(self, other: Jet | Array | float) -> Jet:
        return self + -other

    def __rsub__(self, other: Jet | Array | float) -> Jet:
        return -self + other

    def __mul__(self, other: Jet | Array | float) -> Jet:
        if not isinstance(other, Jet):
            return Jet({i: c * other for i, c in self.terms.items()}, self.order)
        product: dict[Index, Array | float] = {}
        for (i, j), c in self.terms.items():
            for (k, l), d in other.terms.items():  # noqa: E741
                index = (i + k, j + l)
                if index[0] <= self.order[0] and index[1] <= self.order[1]:
                    term = c * d
                    product[index] = product[index] + term if index in product else term
        return Jet(product, self.order)

    __rmul__ = __mul__

    def _indices(self) -> list[Index]:
        a, b = self.order
        return [(i, j) for i in range(a + 1) for j in range(b + 1)][1:]

    def reciprocal(self) -> Jet:
        """1 / self."""
        first = 1 / self[0, 0]
        inverse = Jet({(0, 0): first}, self.order)
        rest = Jet({i: c for i, c in self.terms.items() if i != (0, 0)}, self.order)
        for index in self._indices():
            c = (rest * inverse).terms.get(index)
            if c is not None:
                inverse.terms[index] = -first * c
        return inverse

    def log_slope(self) -> Jet:
        """Coefficients of the logarithm from the first order on, in one variable."""
        first = 1 / self[0, 0]
        log: dict[Index, Array | float] = {}
        for i in range(1, self.order[0] + 1):
            c = self[i, 0]
            for k in range(1, i):
                c = c - log[k, 0] * self[i - k, 0] * (k / i)
            log[i, 0] = c * first
        return Jet(log, self.order)


def variable(x: Array, order: Index, *, axis: int = 0) -> Jet:
    """X + h, or x + k on axis 1."""
    terms: dict[Index, Array | float] = {(0, 0): x}
    if order[axis]:
        terms[(1, 0) if axis == 0 else (0, 1)] = 1.0
    return Jet(terms, order)


def of_function(
    f: Callable[[Array, Array], Array], x: Array, y: Array, order: Index
) -> Jet:
    """The jet of a differentiable elementwise function of two arrays."""
    indices = [(i, j) for i in range(order[0] + 1) for j in range(order[1] + 1)]
    return Jet(
        {
            (i, j): derivative(f, (i, j))(x, y)
            / (math.factorial(i) * math.factorial(j))
            for i, j in indices
        },
        order,
    )


def select(condition: Array, x: Jet, y: Jet) -> Jet:
    """`jnp.where` on jets."""
    indices = {**x.terms, **y.terms}
    return Jet({i: jnp.where(condition, x[i], y[i]) for i in indices}, x.order)


def compose(taylor: Sequence[Array], inner: Jet) -> Jet:
    """Sum of taylor[i] inner^i, `inner` without a constant term."""
    total = Jet({(0, 0): taylor[-1]}, inner.order)
    for c in reversed(taylor[:-1]):
        total = total * inner + c
    return total
