"""Networks, training and data: host functions, so mostly their refusals."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxdiv import networks, training
from tests.cases import Bad, Case

MISSING = pathlib.Path(__file__).parent / "no-such-folder"
SGD = optax.sgd(0.1)
STEP = training.make_train_step(lambda w, batch, key: (w - batch) ** 2, SGD)
STATE = training.init_state(jnp.array(0.0), SGD)
KEY = jax.random.key(0)


def host(name, *bad):
    return Case(
        f"jaxdiv.{name}",
        lambda: None,
        (),
        order=0,
        transforms=False,
        dtypes=False,
        bad=bad,
    )


def fit(data=None, **options):
    if data is None:
        data = jnp.ones(8)
    settings = {"steps": 4, "batch_size": 2} | options
    return lambda: training.fit(STEP, STATE, data, KEY, **settings)


CASES = [
    Case(
        "jaxdiv.training.ema_update",
        training.ema_update,
        (np.array([1.0, -2.0]), np.array([0.5, 3.0]), np.float64(0.9)),
        bad=(
            Bad(lambda: training.ema_update(0.0, 1.0, 1.5), ValueError, ("decay",)),
            Bad(
                lambda: training.ema_update(
                    {"a": jnp.ones(1)}, {"b": jnp.ones(1)}, 0.5
                ),
                ValueError,
            ),
        ),
    ),
    host(
        "training.ema_half_life",
        Bad(
            lambda: training.ema_half_life(0.0, batch_size=2),
            ValueError,
            ("half_life",),
        ),
    ),
    host("training.init_state"),
    host(
        "training.make_train_step",
        Bad(
            lambda: training.make_train_step(lambda *_: 0.0, SGD, ema_decay=2.0),
            ValueError,
            ("ema_decay", "2.0"),
        ),
    ),
    host(
        "training.save",
        Bad(
            lambda: training.save(pathlib.Path(__file__).parent, STATE),
            ValueError,
            ("exists",),
        ),
    ),
    host(
        "training.restore",
        Bad(lambda: training.restore(MISSING, STATE), ValueError, (MISSING.name,)),
    ),
    host(
        "training.data_mesh",
        Bad(lambda: training.data_mesh(999), ValueError, ("999", "at most")),
        Bad(lambda: training.data_mesh(0), ValueError, ("0",)),
    ),
    host(
        "training.shard_batch",
        Bad(
            lambda: training.shard_batch(jnp.float32(1), training.data_mesh(1)),
            ValueError,
            ("leading axis",),
        ),
    ),
    host(
        "training.fit",
        Bad(fit(steps=-1), ValueError, ("steps", "-1")),
        Bad(fit(batch_size=0), ValueError, ("batch_size", "0")),
        Bad(fit(batch_size=None), ValueError, ("batch_size",)),
        Bad(
            fit({"x": jnp.ones(3), "y": jnp.ones(4)}),
            ValueError,
            ("(3,)", "(4,)", "leading"),
        ),
    ),
    host("datasets.digits"),
    host("datasets.mnist5k"),
    host("datasets.color_images"),
    host(
        "networks.pure",
        Bad(
            lambda: networks.pure(nnx.BatchNorm(2, rngs=nnx.Rngs(0))),
            ValueError,
            ("BatchStat", "LayerNorm"),
        ),
        Bad(lambda: networks.ScoreMLP(0, rngs=nnx.Rngs(0)), ValueError, ("size is 0",)),
        Bad(
            lambda: networks.EDMPrecond(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), 0.0),
            ValueError,
            ("sigma_data",),
        ),
        Bad(
            lambda: networks.SongUNet(10, 1, channel_mult=(1, 2, 2), rngs=nnx.Rngs(0)),
            ValueError,
            ("img_resolution is 10",),
        ),
    ),
]
