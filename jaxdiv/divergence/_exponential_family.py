r"""Divergences between members of one exponential family, from its log-partition.

With natural parameters :math:`\theta` and log-partition A, everything is read off the
convex function :math:`g(s) = A((1 - s)\theta_1 + s\theta_2)` of one number.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.divergence._families import BUILT_IN, ExponentialFamily
from jaxdiv.divergence._segment import gap_along, line, renyi_gap
from jaxdiv.typing import Array, ArrayLike, PyTree

_REGISTRY = {record.name: record for record in BUILT_IN}


def register_family(record: ExponentialFamily) -> ExponentialFamily:
    """Adds an exponential family of your own to those known by name.

    Args:
      record: the family; its name must be free.

    Returns:
      The record.

    Raises:
      ValueError: the name is taken, or `record` is not an `ExponentialFamily`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> rayleigh = divergence.ExponentialFamily(  # theta = -1 / (2 scale^2)
      ...     "rayleigh",
      ...     log_partition=lambda theta: -jnp.log(-2 * theta),
      ...     natural=lambda scale: -1 / (2 * scale**2),
      ...     in_domain=lambda theta: ~(theta >= 0),
      ... )
      >>> rayleigh = divergence.register_family(rayleigh)
      >>> print(f"{divergence.expfam_kl('rayleigh', -0.5, -0.125):.4f}")
      0.6363
    """
    if not isinstance(record, ExponentialFamily):
        raise ValueError(
            f"record is a {type(record).__name__}; expected an ExponentialFamily."
        )
    if record.name in _REGISTRY:
        raise ValueError(f"The name {record.name!r} is taken; expected a free one.")
    _REGISTRY[record.name] = record
    return record


def families() -> tuple[str, ...]:
    """The names of the exponential families, in alphabetical order.

    Returns:
      Tuple of the names that `family` and the `expfam_` functions take.

    Example:
      >>> from jaxdiv import divergence
      >>> print(divergence.families()[:3])
      ('bernoulli', 'beta', 'categorical')
    """
    return tuple(sorted(_REGISTRY))


def family(name: str) -> ExponentialFamily:
    r"""The record of an exponential family.

    ===============  ==========================  =======================================
    name             ordinary parameters         natural parameters
    ===============  ==========================  =======================================
    "bernoulli"      p                           log p/(1 - p)
    "beta"           a, b                        (a - 1, b - 1)
    "categorical"    p, ``[..., k]``             logits, ``[..., k]``
    "dirichlet"      alpha, ``[..., k]``         alpha - 1, ``[..., k]``
    "exponential"    rate                        -rate
    "gamma"          shape, rate                 (shape - 1, -rate)
    "gaussian"       mean, covariance            :math:`(\Sigma^{-1}\mu,
                                                 -\frac12\Sigma^{-1})`
    "geometric"      p, counting failures        log(1 - p)
    "inverse_gamma"  shape, scale                (-shape - 1, -scale)
    "laplace"        location, scale             (location, scale)
    "poisson"        rate                        log rate
    "vmf"            direction ``[..., d]``,     concentration times direction,
                     concentration               ``[..., d]``
    ===============  ==========================  =======================================

    Two parameters are a tuple of two arrays or, but for the Gaussian, one array with a
    last axis of 2. The Laplace laws are no exponential family in their location: they
    have closed forms, from the ordinary parameters. The von Mises-Fisher laws ("vmf")
    have their densities against the uniform law on the sphere.

    Args:
      name: one of `families`.

    Returns:
      The `ExponentialFamily`; its `natural` turns ordinary parameters into natural.

    Raises:
      ValueError: the name is unknown.

    Example:
      >>> from jaxdiv import divergence
      >>> gamma = divergence.family("gamma")
      >>> theta = gamma.natural(2.0, 3.0)
      >>> print([float(x) for x in theta], f"{gamma.log_partition(theta):.4f}")
      [1.0, -3.0] -2.1972
    """
    _check.one_of("name", name, _REGISTRY)
    return _REGISTRY[name]


def _known(which: str | ExponentialFamily) -> ExponentialFamily:
    if isinstance(which, ExponentialFamily):
        return which
    _check.one_of("family", which, _REGISTRY)
    return _REGISTRY[which]


# Compiled here: one by one, the many small operations would each be compiled at their
# first call. A record is hashable, so each family is compiled once a shape.


@partial(jax.jit, static_argnums=0)
def _in_domain(record: ExponentialFamily, theta: PyTree) -> Array:
    return record.in_domain(theta)


@partial(jax.jit, static_argnums=0)
def _kl(record: ExponentialFamily, t1: PyTree, t2: PyTree) -> Array:
    if record.kl is not None:
        return record.kl(t1, t2)
    return gap_along(line(record.log_partition, t1, t2), _dtype(t1))


@partial(jax.jit, static_argnums=0)
def _renyi(record: ExponentialFamily, t1: PyTree, t2: PyTree, a: Array) -> Array:
    if record.renyi is not None:
        return record.renyi(t1, t2, a)
    e = 1 - a
    mixture = jax.tree.map(lambda x, y: (1 - e) * x + e * y, t1, t2)
    defined = record.in_domain(mixture)
    gap = renyi_gap(line(record.log_partition, t1, t2), e, defined)
    return jnp.where(defined, gap, jnp.inf)


def _dtype(theta: PyTree) -> jnp.dtype:
    return jax.tree.leaves(theta)[0].dtype


def _parameters(
    record: ExponentialFamily, t1: PyTree, t2: PyTree
) -> tuple[PyTree, PyTree, Array]:
    """Both parameters in one dtype, and whether they are in the domain."""
    leaves, tree = jax.tree.flatten(t1)
    other, other_tree = jax.tree.flatten(t2)
    if tree != other_tree:
        raise ValueError(f"t1 is {tree}, t2 is {other_tree}; expected one structure.")
    n = len(leaves)
    names = [f"[{i}]" if n > 1 else "" for i in range(n)]
    arrays = _check.floating(
        **{f"t1{i}": x for i, x in zip(names, leaves, strict=True)},
        **{f"t2{i}": x for i, x in zip(names, other, strict=True)},
    )
    for i, x, y in zip(names, arrays[:n], arrays[n:], strict=True):
        _check.broadcastable(**{f"t1{i}": x, f"t2{i}": y})
    t1, t2 = tree.unflatten(arrays[:n]), tree.unflatten(arrays[n:])
    inside = []
    for name, theta in (("t1", t1), ("t2", t2)):
        valid = _in_domain(record, theta)
        concrete = _check.concrete(valid)
        if concrete is not None and not concrete.all():
            raise ValueError(
                f"{name} has entries outside of the domain of the {record.name} "
                f"family, got {theta}; expected natural parameters, as "
                "family.natural gives them."
            )
        inside.append(valid)
    if n == 1:  # the event axes are then known, and must not broadcast
        events = [x.shape[v.ndim :] for x, v in zip(arrays, inside, strict=True)]
        if events[0] != events[1]:
            raise ValueError(
                f"t1 has shape {arrays[0].shape}, t2 {arrays[1].shape}; expected the "
                "same parameter axes."
            )
    return t1, t2, inside[0] & inside[1]


def expfam_kl(family: str | ExponentialFamily, t1: PyTree, t2: PyTree) -> Array:
    r"""Kullback-Leibler divergence between two laws of an exponential family.

    .. math:: D(p_1\|p_2) = A(\theta_2) - A(\theta_1)
       - \langle\theta_2 - \theta_1, \nabla A(\theta_1)\rangle

    A Bregman divergence of A, exactly 0 between equal parameters and accurate between
    near ones, where the difference would lose its digits.

    Args:
      family: name, one of `families`, or a record.
      t1: natural parameters of the first law, under which the expectation is; an array
        or a tuple of two, as `family` lists them.
      t2: as `t1`, of the second law; leading axes broadcast.

    Returns:
      Array ``[...]`` in nats, at least float32; NaN where a traced parameter leaves the
      domain.

    Raises:
      TypeError: a parameter is not of a floating dtype.
      ValueError: the family is unknown, the shapes do not fit, or a concrete parameter
        leaves the domain.

    Differentiable in both parameters, in every mode and order.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> poisson = divergence.family("poisson")
      >>> t1, t2 = poisson.natural(4.0), poisson.natural(2.0)
      >>> print(f"{divergence.expfam_kl('poisson', t1, t2):.4f}")
      0.7726

    References:
      Nielsen and Nock, 2010, "Entropies and cross-entropies of exponential families".
    """
    record = _known(family)
    t1, t2, inside = _parameters(record, t1, t2)
    return jnp.where(inside, _kl(record, t1, t2), jnp.nan)


def expfam_renyi(
    family: str | ExponentialFamily, t1: PyTree, t2: PyTree, a: ArrayLike
) -> Array:
    r"""Renyi divergence of order a between two laws of an exponential family.

    .. math:: R_a(p_1\|p_2) = A(\theta_2) - A(\theta_1)
       - \frac{A(a\theta_1 + (1 - a)\theta_2) - A(\theta_1)}{1 - a}

    Continuous in a, in value and derivative; a = 1 is the Kullback-Leibler divergence
    and a = 0 gives 0, as the laws share their support.

    Args:
      family: name, one of `families`, or a record.
      t1: natural parameters of the first law; an array or a tuple of two, as `family`
        lists them.
      t2: as `t1`, of the second law; leading axes broadcast.
      a: order, a number or scalar array, at least 0.

    Returns:
      Array ``[...]`` in nats, at least float32; `inf` where a > 1 takes the mixture of
      the parameters out of the domain; NaN where a traced parameter or order leaves its
      own.

    Raises:
      TypeError: a parameter is not of a floating dtype.
      ValueError: the family is unknown, the shapes do not fit, or a concrete parameter
        or order leaves its domain.

    Differentiable in the parameters and in a, in every mode and order, where the value
    is finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxdiv import divergence
      >>> t1, t2 = jnp.array([-2.0, -0.5]), jnp.array([-1.0, -1.0])  # minus the rates
      >>> print(divergence.expfam_renyi("exponential", t1, t2, 2.0).round(4))
      [0.2877    inf]

    References:
      van Erven and Harremoes, 2014, arXiv:1206.2459; Gil, Alajaji and Linder, 2013,
      "Renyi divergence measures for commonly used univariate continuous distributions".
    """
    record = _known(family)
    t1, t2, inside = _parameters(record, t1, t2)
    order = _check.concrete(a)
    if order is not None and not (order.ndim == 0 and 0 <= order < math.inf):
        raise ValueError(f"a is {a}; expected one finite order, at least 0.")
    order = jnp.asarray(a, _dtype(t1))
    value = _renyi(record, t1, t2, order)
    return jnp.where(inside & (order >= 0), value, jnp.nan)


def expfam_chernoff(
    family: str | ExponentialFamily, t1: PyTree, t2: PyTree, a: ArrayLike
) -> Array:
    r"""Chernoff divergence of order a between two laws of an exponential family.

    .. math:: C_a = -\log \int p_1^a p_2^{1-a}
       = a A(\theta_1) + (1 - a) A(\theta_2) - A(a\theta_1 + (1 - a)\theta_2)

    Args:
      family: name, one of `families`, or a record.
      t1: natural parameters of the first law; an array or a tuple of two, as `family`
        lists them.
      t2: as `t1`, of the second law; leading axes broadcast.
      a: order, a number or scalar array, at least 0; in [0, 1] the value is
        non-negative, above it is not positive.

    Returns:
      Array ``[...]``, :math:`(1 - a) R_a`; `-inf` where the integral diverges.

    Raises:
      TypeError: a parameter is not of a floating dtype.
      ValueError: the family is unknown, the shapes do not fit, or a concrete parameter
        or order leaves its domain.

    Differentiable as `expfam_renyi`.

    Example:
      >>> from jaxdiv import divergence
      >>> print(f"{divergence.expfam_chernoff('exponential', -2.0, -1.0, 0.3):.4f}")
      0.0544

    References:
      Nielsen, 2013, arXiv:1102.2684, eq. (13).
    """
    value = expfam_renyi(family, t1, t2, a)
    return (1 - jnp.asarray(a, value.dtype)) * value


def expfam_bhattacharyya(
    family: str | ExponentialFamily, t1: PyTree, t2: PyTree
) -> Array:
    r"""Bhattacharyya distance between two laws of an exponential family.

    .. math:: -\log \int \sqrt{p_1 p_2} = \tfrac12 A(\theta_1) + \tfrac12 A(\theta_2)
       - A\bigl(\tfrac12(\theta_1 + \theta_2)\bigr)

    Args:
      family: name, one of `families`, or a record.
      t1: natural parameters of the first law; an array or a tuple of two, as `family`
        lists them.
      t2: as `t1`, of the second law; leading axes broadcast.

    Returns:
      Array ``[...]``, finite and at least 0; the Chernoff divergence of order 1/2.

    Raises:
      TypeError: a parameter is not of a floating dtype.
      ValueError: the family is unknown, the shapes do not fit, or a concrete parameter
        leaves the domain.

    Differentiable in both parameters, in every mode and order.

    Example:
      >>> from jaxdiv import divergence
      >>> print(f"{divergence.expfam_bhattacharyya('exponential', -2.0, -1.0):.4f}")
      0.0589

    References:
      Bhattacharyya, 1943; Nielsen, 2013, arXiv:1102.2684.
    """
    return expfam_renyi(family, t1, t2, 0.5) / 2


def expfam_squared_hellinger(
    family: str | ExponentialFamily, t1: PyTree, t2: PyTree
) -> Array:
    r"""Squared Hellinger distance between two laws of an exponential family.

    .. math:: H^2 = \tfrac12 \int (\sqrt{p_1} - \sqrt{p_2})^2
       = 1 - \int \sqrt{p_1 p_2}

    Args:
      family: name, one of `families`, or a record.
      t1: natural parameters of the first law; an array or a tuple of two, as `family`
        lists them.
      t2: as `t1`, of the second law; leading axes broadcast.

    Returns:
      Array ``[...]`` in [0, 1].

    Raises:
      TypeError: a parameter is not of a floating dtype.
      ValueError: the family is unknown, the shapes do not fit, or a concrete parameter
        leaves the domain.

    Differentiable in both parameters, in every mode and order.

    Example:
      >>> from jaxdiv import divergence
      >>> print(f"{divergence.expfam_squared_hellinger('exponential', -2.0, -1.0):.4f}")
      0.0572

    References:
      Nielsen and Garcia, 2009, arXiv:0911.4863.
    """
    return -jnp.expm1(-expfam_bhattacharyya(family, t1, t2))
