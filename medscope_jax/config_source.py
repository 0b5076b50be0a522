"""Config files: where `FILE[:ARG]` lies, and what its `get_config(arg)` gives."""

import importlib.util
import inspect
import traceback
from pathlib import Path

from ml_collections import ConfigDict

from medscope_jax.errors import ConfigError, UserError, closest, one_line

# The project's own files: of this checkout, or installed beside this package.
FOLDER = Path(__file__).resolve().parent.parent / "tpu_configs"


def config_file(spec: str) -> Path:
    """The file of `FILE[:ARG]`."""
    return split_spec(spec)[0]


def split_spec(spec: str) -> tuple[Path, str]:
    """Splits FILE[:ARG]; FILE may hold colons, as long as it ends in .py.

    `tpu_configs/cpu.py`, or cpu.py alone, is the project's own where there is no such file here.
    """
    file, mark, arg = spec.rpartition(".py:")
    path = Path(f"{file}.py" if mark else spec)
    own = FOLDER / path.name
    if path.parent in (Path(), Path(FOLDER.name)) and not path.exists() and own.is_file():
        path = own
    return path, arg if mark else ""


def call_get_config(path: Path, arg: str) -> ConfigDict:
    """What a config file gives for an argument, "" for none.

    Raises:
      ConfigError: one line: no such file, it can't be loaded, no get_config, an unknown argument.
    """
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else FOLDER
        files = sorted(str(folder / file.name) for file in folder.glob("[!_]*.py"))
        there = f"; there are: {', '.join(files)}" if files else f"; {folder} has no .py files"
        raise ConfigError(f"no config file {path}{closest(str(path), files)}{there}")
    module_spec = importlib.util.spec_from_file_location("medscope_config", path)
    if module_spec is None or module_spec.loader is None:
        raise ConfigError(f"{path} is not a Python file; give FILE.py[:ARG]")
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path} can't be loaded: {_where(error, path)}") from error
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        names = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(
            f"{path} has no get_config(arg){closest('get_config', names)}; "
            f"it defines: {', '.join(names) or 'nothing'}"
        )
    if arg and not inspect.signature(get_config).parameters:
        raise ConfigError(f"{path}: get_config() takes no argument, so leave out ':{arg}'")
    try:
        config = get_config(arg) if inspect.signature(get_config).parameters else get_config()
    except UserError as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValueError as error:  # how a config file says that it does not know ARG
        raise ConfigError(f"{path}: {one_line(error)}") from error
    except Exception as error:
        raise ConfigError(f"{path}: get_config({arg!r}) failed: {_where(error, path)}") from error
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{path}: get_config gave {type(config).__name__}, not a ConfigDict")
    return config


def _where(error: Exception, path: Path) -> str:
    """The error on one line, with the line of the config file that it came from."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    place = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {one_line(error)}{place}"
