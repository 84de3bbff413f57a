import jax.numpy as jnp
import numpy as np

from jaxdiv.implicit import layers
from tests.cases import Bad, Case

Q = np.array([[4.0, 1, 0], [1, 3, -1], [0, -1, 2]])
C = np.array([1.0, -2.0, 0.5])
E, D = np.ones((1, 3)), np.ones(1)
M, H = -np.eye(3), np.zeros(3)
ONE = jnp.ones(3)

CASES = [
    Case(
        "jaxdiv.implicit.layers.qp",
        lambda *args: layers.qp(*args).value,
        (Q, C, E, D, M, H),
        in_scan=True,
        bad=(
            Bad(lambda: layers.qp(Q[:2], C), ValueError, ("Q", "(2, 3)")),
            Bad(lambda: layers.qp(Q, C[:2]), ValueError, ("Q", "(3, 3)", "(2,)")),
            Bad(lambda: layers.qp(Q, C, E), ValueError, ("E", "d")),
            Bad(lambda: layers.qp(Q, C, E, C), ValueError, ("E", "d", "(3,)")),
            Bad(lambda: layers.qp(Q, C, tol=0.0), ValueError, ("tol",)),
            Bad(lambda: layers.qp(Q, C, maxiter=0), ValueError, ("maxiter is 0",)),
            Bad(lambda: layers.qp(-Q, C), ValueError, ("Q", "eigenvalue")),
            Bad(lambda: layers.qp(Q.astype(int), C), TypeError, ("Q", "int")),
        ),
    ),
    Case(
        "jaxdiv.implicit.layers.lp",
        lambda *args: layers.lp(*args, smoothing=0.5).value,
        (C, E, D, M, H),
        order=1,  # the second is that of qp, through which it goes
        in_scan=True,
        bad=(
            Bad(lambda: layers.lp(C, smoothing=-1.0), ValueError, ("smoothing", "-1")),
            Bad(lambda: layers.lp(C.astype(int)), TypeError, ("c", "int")),
        ),
    ),
]
