import jax.numpy as jnp

from jaxdiv import loop
from tests.cases import Bad, Case

CASES = [
    Case(
        "jaxdiv.loop.chunks",
        lambda: None,
        (),
        order=0,
        transforms=False,
        dtypes=False,
        bad=(
            Bad(
                lambda: list(
                    loop.chunks(lambda x, i, c: (x, {}), jnp.ones(1), steps=1, size=0)
                ),
                ValueError,
                ("size is 0", "at least 1"),
            ),
        ),
    ),
]
