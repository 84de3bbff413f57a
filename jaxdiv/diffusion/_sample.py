"""Sampling by a named sampler."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv import _check
from jaxdiv.diffusion import _samplers
from jaxdiv.diffusion._noise import NoiseLaw
from jaxdiv.typing import Array, Key, ScoreFn


def _on_grid(method: Callable[..., Array]) -> Callable[..., Array]:
    def sampler(
        law: NoiseLaw,
        score_fn: ScoreFn,
        key: Key,
        x: Array,
        *,
        steps: int = 18,
        rho: float = 7.0,
        **options: float,
    ) -> Array:
        grid = _samplers.times(law, x, steps, rho)
        return method(law, score_fn, key, x, grid, **options)

    return sampler


_SAMPLERS = {
    "ddim": _on_grid(_samplers.ddim),
    "dpmpp_2m": _on_grid(_samplers.dpmpp_2m),
    "euler": _on_grid(_samplers.euler),
    "euler_maruyama": _on_grid(_samplers.euler_maruyama),
    "heun": _on_grid(_samplers.heun),
    "heun_edm": _on_grid(_samplers.heun_edm),
    "one_step": _samplers.one_step,
}


def sample(
    law: NoiseLaw,
    score_fn: ScoreFn,
    key: Key,
    shape: tuple[int, ...],
    sampler: str = "heun_edm",
    *,
    dtype: Any = jnp.float32,
    **options: Any,
) -> Array:
    r"""Draws samples from noise at t_max with the score of the noised law.

    The samplers go down N times uniform in :math:`t^{1/\rho}` from t_max to t_min and
    denoise there, :math:`D = (x + \sigma^2 s)/\alpha`. All but the stochastic one
    solve the probability flow, :math:`dx/dt = (\log\alpha)'\,x - g^2 s/2`:

    ================ ========================================== ===== ==================
    sampler          method                                     order calls of the score
    ================ ========================================== ===== ==================
    `euler`          Euler's                                    1     N
    `ddim`           Euler's for x / alpha over sigma / alpha   1     N
    `dpmpp_2m`       two-step, in log (alpha / sigma)           2     N
    `heun`           Heun's                                     2     2N - 1
    `heun_edm`       Heun's, with EDM's churn                   2     2N - 1
    `euler_maruyama` Euler's on the reverse stochastic equation 1     N
    `one_step`       denoises at t_max                                1
    ================ ========================================== ===== ==================

    The order of `euler_maruyama` is that of the error of expectations. `ddim` is exact
    for a point mass, and `one_step` is what a distilled student does when the law's
    t_max is the student's. Options of all but `one_step`, which has none:

    - `steps` (18): the number N of times, at least 2.
    - `rho` (7): how much denser the times are near t_min; 1 is uniform in t, which
      suits `ve()` and `flow()`.

    Further options of `heun_edm` (for ImageNet-64, EDM takes 256 steps, 40, 0.05, 50
    and 1.003):

    - `s_churn` (0): noise put back over the whole run; before each step the samples
      return from t to (1 + min(s_churn / N, sqrt 2 - 1)) t.
    - `s_min`, `s_max` (0, inf): the times between which noise is put back.
    - `s_noise` (1): scale of that noise.

    Args:
      law: noise law; sampling starts from :math:`N(0, \sigma^2(t_{max}))`.
      score_fn: function of `(x, t)`, t a scalar, that returns the score at x.
      key: key of the initial noise, of the churn and of the stochastic equation.
      shape: shape of the samples, batch first.
      sampler: a name from the table.
      dtype: dtype of the samples, float32 or float64.
      **options: of the sampler.

    Returns:
      Samples of shape `shape`.

    Raises:
      TypeError: the sampler has no such option.
      ValueError: there is no such sampler, or an option is outside its range.

    Differentiable through all evaluations in what `score_fn` closes over.

    Example:
      >>> import jax
      >>> from jaxdiv import diffusion
      >>> score = lambda x, t: -x / (1 + t**2)  # the data are standard normal
      >>> x = diffusion.sample(
      ...     diffusion.edm(), score, jax.random.key(0), (5000, 1), steps=40
      ... )
      >>> print(f"{x.mean():.1f} {x.std():.1f}")
      0.0 1.0

    References:
      Karras et al., 2022, arXiv:2206.00364, algorithm 2; Song et al., 2021,
      arXiv:2011.13456, eqs. (6) and (13); Song, Meng and Ermon, 2021,
      arXiv:2010.02502 (DDIM); Lu et al., 2022, arXiv:2211.01095, algorithm 2.
    """
    _check.one_of("sampler", sampler, _SAMPLERS)
    start, draw = jax.random.split(key)
    t_max = jnp.asarray(law.t_max, dtype)
    x = law.sigma(t_max) * jax.random.normal(start, shape, dtype)
    return _SAMPLERS[sampler](law, score_fn, draw, x, **options)
