"""The chat template that exports carry, compiled as transformers compiles it."""

import json

import jinja2.sandbox

from medscope_jax.dialogue import CHAT_TEMPLATE


def compile_template(text):
    """A template in the environment that transformers documents for chat templates."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(text)


def render_chat(messages, tools=None, **options):
    """A conversation's text, as apply_chat_template gives it."""
    template = compile_template(CHAT_TEMPLATE.read_text())
    return template.render(messages=messages, tools=tools, **options)
