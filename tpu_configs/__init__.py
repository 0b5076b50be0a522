"""One config a file, one file a target; medscope_jax.config_schema says what their keys mean."""
