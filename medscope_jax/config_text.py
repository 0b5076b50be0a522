"""The config's schema as text: for `--help`, and as a page.

python -m medscope_jax.config_text > docs/config.md
"""

import shutil
import textwrap

from medscope_jax.config_schema import KEYS, SECTIONS
from medscope_jax.config_source import FOLDER, call_get_config
from medscope_jax.config_values import value_at

_PAGE = """\
# The keys of a config

Made by `python -m medscope_jax.config_text` of `medscope_jax/config_schema.py` and the values of
`tpu_configs/cpu.py`. On a command line, `--config.KEY=VALUE` replaces a value.
"""


def keys_help() -> str:
    """All keys with what they take and mean, by section, as wide as the terminal."""
    width = min(shutil.get_terminal_size().columns, 100)
    lines = ["keys of a config, --config.KEY=VALUE:"]
    section = ""
    for name, key in KEYS.items():
        if (of := name.rpartition(".")[0]) != section:
            lines += ["", *textwrap.wrap(SECTIONS[of], width, subsequent_indent="  ")]
            section = of
        text = f"  {name}: {key.takes}; {key.about}"
        lines += textwrap.wrap(text, width, subsequent_indent="      ", break_on_hyphens=False)
    return "\n".join(lines)


def keys_page() -> str:
    """All keys as tables of Markdown, a section each, with the values of tpu_configs/cpu.py."""
    config = call_get_config(FOLDER / "cpu.py", "")
    lines, section = [_PAGE], None
    for name, key in KEYS.items():
        if (of := name.rpartition(".")[0]) != section:
            title = [f"\n## {of}\n", f"{SECTIONS[of]}\n"] if of else []
            lines += [*title, "| key | value | takes | what |", "|---|---|---|---|"]
            section = of
        lines.append(f"| `{name}` | `{value_at(config, name)!r}` | {key.takes} | {key.about} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(keys_page(), end="")
