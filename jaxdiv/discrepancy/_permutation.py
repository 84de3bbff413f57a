"""Permutation tests of independence."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.typing import Array, ArrayLike, Key


class PermutationTest(NamedTuple):
    """Result of `permutation_test`.

    Attributes:
      statistic: the statistic of the samples as they are.
      p_value: share of the permutations, the identity included, that reach it.
      null: the statistics of the permuted samples, shape `(num,)`.
    """

    statistic: Array
    p_value: Array
    null: Array


def permutation_test(
    key: Key, stat: Callable[..., Array], xs: Sequence[ArrayLike], num: int = 100
) -> PermutationTest:
    r"""Permutation test of the independence of the first sample from the others.

    .. math:: p = \frac{1 + \#\{b : T_b \ge T\}}{B + 1}

    with the statistics :math:`T_b` of B independent permutations of the rows of the
    first sample. Under independence :math:`P(p \le a) \le a` for every level a.

    Args:
      key: random key.
      stat: `stat(*xs)`, a scalar that is large under dependence; it is traced.
      xs: the samples, of one length.
      num: number B of permutations, which run one after another.

    Returns:
      `PermutationTest`; the p-value is NaN where a statistic is.

    Raises:
      ValueError: there is no sample, the lengths differ, or `num` is not positive.

    The p-value is piecewise constant: its derivative is zero.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from jaxdiv import discrepancy
      >>> x = jnp.linspace(0.0, 1.0, 20)
      >>> test = discrepancy.permutation_test(
      ...     jax.random.key(0), discrepancy.distance_covariance_sqr, [x, x**2], num=19
      ... )
      >>> print(f"{test.p_value:.2f}")
      0.05

    References:
      Phipson and Smyth, 2010, arXiv:1603.05766, section 4 (why 1 is added).
    """
    if num < 1:
        raise ValueError(f"num is {num}; expected at least 1.")
    samples = [jnp.asarray(x) for x in xs]
    lengths = [x.shape[:1] for x in samples]
    if len(set(lengths)) != 1 or () in lengths:
        shapes = [x.shape for x in samples]
        raise ValueError(f"xs has shapes {shapes}; expected samples of one length.")
    first, *others = samples
    statistic = stat(*samples)

    def permuted(key: Key) -> Array:
        return stat(jax.random.permutation(key, first), *others)

    null = jax.lax.map(permuted, jax.random.split(key, num))
    reached = jnp.sum(null >= statistic, dtype=null.dtype)
    defined = ~(jnp.isnan(statistic) | jnp.any(jnp.isnan(null)))
    p_value = jnp.where(defined, (1 + reached) / (num + 1), jnp.nan)
    return PermutationTest(statistic, p_value, null)
