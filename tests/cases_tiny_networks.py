"""The two small transformers: their refusals."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiv import networks
from tests.cases import Bad
from tests.cases_floor4 import host

TOKENS = np.zeros((2, 4), np.int32)
IMAGES, LEVEL = jnp.ones((2, 8, 8, 1)), jnp.zeros(2)
SMALL = {"width": 8, "depth": 1, "heads": 2}


def abstract(network, *sizes, **options):
    """The network without weights: enough for what is refused before they are used."""
    options = SMALL | options
    return nnx.eval_shape(lambda: network(*sizes, **options, rngs=nnx.Rngs(0)))


def dit(*sizes, **options):
    return lambda: abstract(networks.TinyDiT, *(sizes or (8, 1)), **options)


def language(vocab=5, **options):
    options = {"max_length": 4} | options
    return lambda: abstract(networks.TinyTransformer, vocab, **options)


def called(build, *args, **options):
    return lambda: build()(*args, **options)


def refused(*args, **options):
    return called(language(), *args, **options)


CASES = [
    host(
        "networks.TinyDiT",
        Bad(dit(9, 1), ValueError, ("img_resolution is 9", "patch = 2")),
        Bad(dit(0, 1), ValueError, ("img_resolution is 0",)),
        Bad(dit(8, 0), ValueError, ("in_channels is 0",)),
        Bad(dit(patch=0), ValueError, ("patch is 0",)),
        Bad(dit(depth=0), ValueError, ("depth is 0",)),
        Bad(dit(heads=3), ValueError, ("width is 8", "multiple of 12", "3 heads")),
        Bad(dit(width=6), ValueError, ("width is 6", "multiple of 4")),
        Bad(dit(mlp_ratio=0.5), ValueError, ("mlp_ratio is 0.5",)),
        Bad(dit(label_dim=-1), ValueError, ("label_dim is -1",)),
        Bad(
            called(dit(), jnp.ones((2, 9, 9, 1)), LEVEL), ValueError, ("(2, 9, 9, 1)",)
        ),
        Bad(called(dit(), IMAGES, jnp.ones(3)), ValueError, ("c_noise", "(3,)")),
        Bad(called(dit(), IMAGES.astype(int), LEVEL), TypeError, ("x has dtype int",)),
        Bad(
            called(dit(), IMAGES, LEVEL, jnp.ones((2, 3))),
            ValueError,
            ("class_labels has shape (2, 3)", "label_dim is 0"),
        ),
        Bad(
            called(dit(label_dim=3), IMAGES, LEVEL, jnp.ones((1, 4))),
            ValueError,
            ("class_labels has shape (1, 4)", "(2, 3) or None"),
        ),
    ),
    host(
        "networks.TinyTransformer",
        Bad(language(0), ValueError, ("vocab_size is 0",)),
        Bad(language(max_length=0), ValueError, ("max_length is 0",)),
        Bad(language(heads=0), ValueError, ("heads is 0",)),
        Bad(language(heads=8), ValueError, ("width is 8", "multiple of 16")),
        Bad(refused(TOKENS.astype(np.float32)), TypeError, ("tokens", "float32")),
        Bad(refused(TOKENS + 5), ValueError, ("tokens is", "[0, 4]")),
        Bad(refused(TOKENS - 1), ValueError, ("tokens is", "[0, 4]")),
        Bad(refused(np.zeros(5, int)), ValueError, ("(5,)", "max_length = 4")),
        Bad(refused(np.zeros((2, 0), int)), ValueError, ("(2, 0)", "from 1")),
        Bad(refused(np.int32(1)), ValueError, ("tokens has shape ()",)),
        Bad(refused(TOKENS, mask=np.ones((4, 4))), TypeError, ("mask", "booleans")),
        Bad(
            refused(TOKENS, mask=np.ones((2, 4), bool)),
            ValueError,
            ("mask has shape (2, 4)", "(2, 4, 4)"),
        ),
        Bad(
            refused(TOKENS, positions=np.ones(4)),
            TypeError,
            ("positions", "integers"),
        ),
        Bad(
            refused(TOKENS, positions=np.ones((3, 4), int)),
            ValueError,
            ("positions has shape (3, 4)", "(2, 4)"),
        ),
    ),
]
