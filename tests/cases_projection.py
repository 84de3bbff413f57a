import jax.numpy as jnp
import numpy as np

from jaxdiv.implicit import projection
from tests.cases import Bad, Case

Y = np.array([0.9, -0.2, 1.4, 0.35])
ONES = jnp.ones(4)
W = np.array([0.6, 1.1, 0.8, 0.9])


def case(name, *args, bad=(), in_scan=False, **options):
    project = getattr(projection, name)
    integer = Bad(lambda: project(ONES.astype(int), *args[1:]), TypeError, ("y", "int"))
    return Case(
        f"jaxdiv.implicit.projection.{name}",
        lambda *arrays: project(*arrays, **options),
        args,
        in_scan=in_scan,
        bad=(integer, *bad),
    )


def sized(name, size):
    project = getattr(projection, name)
    return case(
        name,
        Y,
        np.array(0.8),
        bad=(
            Bad(lambda: project(ONES, 0.0), ValueError, (size, "0.0")),
            Bad(lambda: project(SQUARE, jnp.ones(3)), ValueError, (size, "(3,)")),
            Bad(lambda: project(ONES, 1.0, axis=1), ValueError, ("axis", "1")),
        ),
    )


def bad(name, *args, words, error=ValueError):
    return Bad(lambda: getattr(projection, name)(*args), error, words)


HALF = jnp.array([0.5, 0.5])
SQUARE = jnp.ones((2, 2))

CASES = [
    sized("simplex", "scale"),
    *(
        sized(name, "radius")
        for name in ("l1_ball", "l2_ball", "linf_ball", "l1_sphere", "l2_sphere")
    ),
    case("nonnegative", Y),
    case(
        "box",
        Y,
        np.array(0.0),
        np.array(1.0),
        bad=(
            bad("box", ONES, 1.0, 0.0, words=("lo is", "hi")),
            bad("box", ONES, jnp.ones(3), 2.0, words=("broadcast", "(3,)")),
        ),
    ),
    *(
        case(
            name,
            Y,
            W,
            np.array(0.7),
            bad=(
                bad(name, ONES, 0 * ONES, 1.0, words=("a is zero",)),
                bad(name, ONES, jnp.ones(3), 1.0, words=("a", "(3,)")),
            ),
        )
        for name in ("hyperplane", "halfspace")
    ),
    case(
        "affine",
        Y,
        np.stack([W, W**2]),
        np.array([0.7, 0.2]),
        in_scan=True,
        bad=(
            bad("affine", ONES, jnp.ones((2, 3)), jnp.ones(2), words=("(2, 3)",)),
            bad(
                "affine",
                ONES,
                jnp.ones((2, 4)),
                jnp.arange(2.0),
                words=("no solution",),
            ),
        ),
    ),
    case(
        "box_section",
        Y,
        np.array(-0.1),
        np.array(1.0),
        W,
        np.array(1.3),
        bad=(
            bad("box_section", ONES, 1.0, 0.0, ONES, 1.0, words=("lo is",)),
            bad("box_section", ONES, 0.0, 1.0, ONES, 9.0, words=("c is", "9.0")),
            bad("box_section", ONES[:1], 0.0, 1.0, ONES, 1.0, words=("1", "4")),
        ),
    ),
    case(
        "transport",
        np.array([[0.3, -0.2, 0.1], [0.05, 0.25, -0.4]]),
        np.array([0.62, 0.38]),
        np.array([0.45, 0.35, 0.2]),
        bad=(
            bad("transport", SQUARE, HALF, 2 * HALF, words=("equal totals",)),
            bad("transport", SQUARE, HALF, jnp.ones(3), words=("(3,)",)),
            bad("transport", SQUARE, -HALF, -HALF, words=("a is",)),
        ),
    )._replace(
        # Only moves that keep the totals equal have a difference to compare with.
        call=lambda y, a, b: projection.transport(
            y, jnp.abs(a) / jnp.sum(jnp.abs(a)), jnp.abs(b) / jnp.sum(jnp.abs(b))
        )
    ),
    Case(
        "jaxdiv.implicit.projection.birkhoff",
        projection.birkhoff,
        (np.array([[0.3, -0.2, 0.4], [0.1, 0.4, 0.0], [0.9, 0.3, 0.2]]),),
        bad=(bad("birkhoff", jnp.ones((2, 3)), words=("(2, 3)", "square")),),
        slow=True,
    ),
    case("isotonic", Y),
    case("soc", Y, bad=(bad("soc", jnp.ones((2, 0)), words=("(2, 0)",)),)),
    Case(
        "jaxdiv.implicit.projection.psd",
        projection.psd,
        (np.array([[1.0, 0.4, 0.2], [0.3, -0.7, 0.1], [0.0, 0.5, 0.3]]),),
        in_scan=True,
        bad=(bad("psd", jnp.ones((2, 3)), words=("(2, 3)", "square")),),
    ),
]
