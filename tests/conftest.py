import os

import jax
import pytest


def pytest_configure(config):
    # Nearly all the time of these tests is XLA's. Its older emitters compile the same
    # programs in two thirds of the time; `make test-newest` takes the default ones.
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
    # What one test has compiled, the other worker, the programs that they start and the
    # next run read from here.
    cache = str(config.rootpath / ".cache" / "jax")
    for name, value in {
        "jax_compilation_cache_dir": os.environ.get("JAX_COMPILATION_CACHE_DIR", cache),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }.items():
        os.environ[name.upper()] = str(value)
        jax.config.update(name, value)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def _compiled_programs_do_not_pile_up():
    yield
    jax.clear_caches()
