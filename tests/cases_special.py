import jax.numpy as jnp
import numpy as np

from jaxdiv import special
from tests.cases import Bad, Case

# Orders and arguments on both sides of every border.
V = np.array([0.3, 2.25, 4.0, 7.5, 30.0])
X = np.array([0.7, 3.75, 40.0, 5.0, 12.0])


def complex_order(f):
    return Bad(lambda: f(1j, 2.0), TypeError, ("complex",))


def shapes(f):
    return Bad(lambda: f(jnp.ones(2), jnp.ones(3)), ValueError, ("(2,)", "(3,)"))


def bad(f):
    return (complex_order(f), shapes(f))


def method(f):
    return (Bad(lambda: f(1.0, 2.0, method="paper"), ValueError, ("'paper'", "debye")),)


def case(f, *more, args=(V, X), **options):
    name = f"jaxdiv.special.{f.__name__}"
    return Case(name, f, args, bad=(*bad(f), *more), in_scan=True, **options)


CASES = [
    case(special.log_bessel_i, *method(special.log_bessel_i)),
    case(special.log_bessel_k, *method(special.log_bessel_k)),
    case(special.log_bessel_ie),
    case(special.log_bessel_ke),
    case(special.bessel_i_ratio),
    case(special.bessel_i_ratio_complement),
    case(special.bessel_k_ratio),
    case(special.log_hyp0f1, args=(V, X**2 / 4)),
    case(
        special.bessel_i_ratio_inverse,
        args=(V, np.array([0.2, 0.45, 0.7, 0.8, 0.3])),
        rtol=1e-5,
    ),
    Case(
        "jaxdiv.special.matern_kernel",
        special.matern_kernel,
        (X / 5, np.array(1.3), V),
        in_scan=True,
        bad=(
            Bad(
                lambda: special.matern_kernel(1j, 1.0, 1.0),
                TypeError,
                ("distance", "complex"),
            ),
            Bad(
                lambda: special.matern_kernel(-1.0, 1.0, 1.0),
                ValueError,
                ("distance is -1.0",),
            ),
            Bad(
                lambda: special.matern_kernel(1.0, 0.0, 1.0),
                ValueError,
                ("length_scale is 0.0",),
            ),
            Bad(
                lambda: special.matern_kernel(1.0, 1.0, -0.5),
                ValueError,
                ("smoothness is -0.5",),
            ),
        ),
    ),
]
