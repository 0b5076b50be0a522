"""Compiled programs are kept where a run asks, and found there by the next start."""

import jax
import jax.numpy as jnp
import pytest

from medscope_jax.training.compiled import compiling_into


@pytest.fixture
def events(nothing_kept):
    """JAX's events, as they come; programs are kept however fast they compile."""
    found = []

    def listen(event, **_):
        found.append(event.removeprefix("/jax/compilation_cache/"))

    old = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.monitoring.register_event_listener(listen)
    yield found
    jax.monitoring.unregister_event_listener(listen)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", old)


def start(folder, environment):
    """A program that compiles something, as the first of a new process."""
    jax.clear_caches()
    with compiling_into(folder, environment):
        return jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))(jnp.ones((7, 7)))


def test_a_second_start_compiles_nothing(tmp_path, events):
    start(tmp_path / "compiled", {})
    assert "cache_misses" in events and "cache_hits" not in events
    assert list((tmp_path / "compiled").iterdir())
    events.clear()
    start(tmp_path / "compiled", {})
    assert "cache_hits" in events and "cache_misses" not in events
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.parametrize("value", ["elsewhere", ""])
def test_what_the_user_says_counts(tmp_path, events, value):
    start(tmp_path / "compiled", {"JAX_COMPILATION_CACHE_DIR": value})
    assert not (tmp_path / "compiled").exists()
