import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.implicit import layers
from tests.cases import Bad, Case

Y = np.array([0.9, 0.2, 1.1, -0.4])
Q = np.array([0.1, 0.2, 0.3, 0.4])
ONES = jnp.ones(4)
KEY = jax.random.key(0)


def integers(call):
    return Bad(lambda: call(ONES.astype(int)), TypeError, ("y", "int"))


def one_hot(y):
    return jax.nn.one_hot(jnp.argmax(y), y.size, dtype=y.dtype)


CASES = [
    Case(
        "jaxdiv.implicit.layers.entmax",
        layers.entmax,
        (Y,),
        in_scan=True,
        bad=(
            integers(layers.entmax),
            Bad(lambda: layers.entmax(ONES, 2.5), ValueError, ("alpha", "2.5")),
        ),
    ),
    Case(
        "jaxdiv.implicit.layers.sparsemax",
        layers.sparsemax,
        (Y,),
        bad=(integers(layers.sparsemax),),
    ),
    Case(
        "jaxdiv.implicit.layers.fenchel_young_loss",
        lambda y, q: layers.fenchel_young_loss(y, q / q.sum()),
        (Y, Q),
        in_scan=True,
        bad=(
            Bad(
                lambda: layers.fenchel_young_loss(ONES, ONES[:3]),
                ValueError,
                ("4", "3", "categories"),
            ),
            Bad(
                lambda: layers.fenchel_young_loss(ONES, -ONES),
                ValueError,
                ("q has the entry -1.0",),
            ),
            Bad(
                lambda: layers.fenchel_young_loss(ONES, ONES, 0.5),
                ValueError,
                ("alpha", "0.5"),
            ),
        ),
    ),
    Case(
        "jaxdiv.implicit.layers.isotonic",
        lambda y: layers.isotonic(y, falling=True),
        (Y,),
        bad=(
            integers(layers.isotonic),
            Bad(
                lambda: layers.isotonic(ONES, regularizer="l1"),
                ValueError,
                ("'l1'", "'kl'", "'l2'"),
            ),
            Bad(lambda: layers.isotonic(ONES, ONES[:3]), ValueError, ("(4,)", "(3,)")),
        ),
    ),
    Case(
        "jaxdiv.implicit.layers.isotonic",
        lambda y, w: layers.isotonic(y, w, regularizer="kl"),
        (Y, Q),
    ),
    Case(
        "jaxdiv.implicit.layers.soft_rank",
        lambda y, strength: layers.soft_rank(y, strength),
        (Y, np.array(0.7)),
        bad=(
            integers(layers.soft_rank),
            Bad(lambda: layers.soft_rank(ONES, 0.0), ValueError, ("strength", "0.0")),
            Bad(
                lambda: layers.soft_rank(ONES, regularizer="l1"),
                ValueError,
                ("'l1'", "'kl'", "'l2'"),
            ),
        ),
    ),
    Case(
        "jaxdiv.implicit.layers.soft_rank",
        lambda y, strength: layers.soft_rank(y, strength, regularizer="kl"),
        (Y, np.array(0.7)),
    ),
    Case(
        "jaxdiv.implicit.layers.perturbed_argmax",
        # Its answers are constants to differences: checked in its own tests.
        lambda y: layers.perturbed_argmax(KEY, one_hot, y, samples=8),
        (Y,),
        order=0,
        dtypes=False,  # other draws in another dtype
        bad=(
            integers(lambda y: layers.perturbed_argmax(KEY, one_hot, y)),
            Bad(
                lambda: layers.perturbed_argmax(KEY, one_hot, ONES, noise="uniform"),
                ValueError,
                ("'uniform'", "'gumbel'"),
            ),
            Bad(
                lambda: layers.perturbed_argmax(KEY, one_hot, ONES, sigma=-1.0),
                ValueError,
                ("sigma",),
            ),
            Bad(
                lambda: layers.perturbed_argmax(KEY, one_hot, ONES, samples=0),
                ValueError,
                ("samples is 0",),
            ),
        ),
    ),
]
