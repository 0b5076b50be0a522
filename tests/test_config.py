"""Loading configs: overrides, schema errors that name the closest key, JSON and fingerprints."""

import json

import pytest

from medscope_jax import config as config_lib
from medscope_jax.config_schema import Key
from medscope_jax.errors import UserError, is_disk_full, run_main

SOURCE = """
from ml_collections import ConfigDict

def get_config(arg=""):
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown argument {arg!r}; known: smoke")
    return ConfigDict({
        "seed": 0,
        "learning_rate": 1e-3,
        "name": "cpu",
        "mesh": {"shape": [2, 1], "axes": ("data", "fsdp")},
        "rl": {"group_size": 2 if arg else 8, "normalize": False, "limit": None},
        "log": {"every": 10},
    })
"""


# The schema of such configs.
KEYS = {
    "seed": Key(int, "of the run"),
    "learning_rate": Key(float, "the highest"),
    "name": Key(str, "of the machine"),
    "mesh.shape": Key(tuple, "devices an axis"),
    "mesh.axes": Key(tuple, "names of the axes"),
    "rl.group_size": Key(int, "rollouts a question"),
    "rl.normalize": Key(bool, "whether rewards are"),
    "rl.limit": Key(int, "None: no limit", optional=True),
    "log.every": Key(int, "steps a line"),
}


@pytest.fixture
def load(tmp_path):
    """Loads config source text against the schema."""

    def load(*overrides, source=SOURCE, arg=""):
        path = tmp_path / "target.py"
        path.write_text(source)
        return config_lib.load_config(f"{path}{arg}", overrides, KEYS)

    return load


def fails(load, match, *args, **kwargs):
    with pytest.raises(config_lib.ConfigError, match=match) as caught:
        load(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_argument_reaches_get_config_and_overrides_keep_types(load):
    config = load(
        "rl.group_size=16",
        "rl.normalize=true",
        "learning_rate=1",
        "name=3",
        "mesh.shape=(4, 2)",
        arg=":smoke",
    )
    assert config.rl.group_size == 16 and config.rl.normalize is True
    assert config.learning_rate == 1.0 and isinstance(config.learning_rate, float)
    assert config.name == "3"
    assert config.mesh.shape == (4, 2) and config.mesh.axes == ("data", "fsdp")
    assert load(arg=":smoke").rl.group_size == 2
    assert load("rl.limit=7").rl.limit == 7 and load("rl.limit=None").rl.limit is None


def test_config_is_locked(load):
    with pytest.raises((KeyError, AttributeError)):
        load().rl.group_sise = 3


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("rl.group_sise=3", "did you mean 'rl.group_size'"),
        ("group_size=3", "did you mean 'rl.group_size'"),
        ("zzz=3", "known there: .*seed"),
        ("rl=3", "is a section; its keys: group_size"),
        ("seed.x=3", "'seed' is a value, not a section"),
        ("rl.group_size=many", "takes int values such as 8, not 'many'"),
        ("rl.group_size=1.5", "takes int"),
        ("rl.normalize=1", "takes bool"),
        ("learning_rate=fast", "takes float"),
        ("mesh.shape=4", "takes list"),
        ("mesh.shape=('a', 'b')", "takes list"),
        ("seed", "has no value"),
        ("rl.limit=a/b", "takes int"),
    ],
)
def test_bad_override_is_one_line(load, override, match):
    fails(load, match, override)


def test_bad_files(load, tmp_path):
    fails(load, "unknown argument 'smok'; known: smoke", arg=":smok")
    fails(load, "has no get_config.*did you mean 'get_configs'", source="def get_configs(): pass")
    fails(load, "not a ConfigDict", source="def get_config(arg): return {}")
    fails(load, r"can't be loaded: SyntaxError.*line 2", source="x = 1\ny = (")
    fails(load, r"NameError.*line 2", source="def get_config(arg):\n    return x")
    fails(load, "takes no argument", source="def get_config(): pass", arg=":x")
    with pytest.raises(config_lib.ConfigError, match=r"did you mean '.*target.py'.*there are"):
        config_lib.load_config(str(tmp_path / "targets.py"))
    with pytest.raises(config_lib.ConfigError, match="no config file"):
        config_lib.load_config(str(tmp_path / "nowhere" / "x.py:smoke"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ('config.rl.group_sise = 8; del config.rl["group_size"]', "rl.group_sise.*'group_size'"),
        ("del config.rl['group_size']", "key rl.group_size is missing"),
        ("del config['rl']; config.rl = 3", "rl must be a section, but is a value"),
        ("config.seed = ConfigDict()", "seed must be a value, but is a section"),
        ("config['seed'] = '0'", "seed is '0'; expected something like 0"),
        ("config['seed'] = 0.5", "seed is 0.5"),
        ("config.rl.limit = {1}", "limit is set"),
    ],
)
def test_schema_mismatch_is_one_line(load, change, match):
    source = SOURCE.replace("return ConfigDict", "config = ConfigDict").rstrip()
    source += (
        f"\n    config = ConfigDict(config.to_dict(), type_safe=False)\n    {change}\n"
        "    return config\n"
    )
    fails(load, match, source=source)


def test_json_round_trip(load):
    config = load()
    again = config_lib.from_json(config_lib.to_json(config))
    assert again == config and again.is_locked
    assert json.loads(config_lib.to_json(config))["mesh"]["shape"] == [2, 1]


def test_placeholder_takes_its_type(tmp_path):
    path = tmp_path / "target.py"
    path.write_text(
        "from ml_collections import ConfigDict, config_dict\n"
        "def get_config(arg):\n"
        "    return ConfigDict({'steps': config_dict.placeholder(int)})\n"
    )
    keys = {"steps": Key(int, "of a stage", optional=True)}
    assert config_lib.load_config(str(path), [], keys).steps is None
    assert config_lib.load_config(str(path), ["steps=3"], keys).steps == 3
    with pytest.raises(config_lib.ConfigError, match="takes int"):
        config_lib.load_config(str(path), ["steps=x"], keys)


def test_a_whole_number_stands_for_a_float(load):
    """In the file; on the command line it may become any other number."""
    source = SOURCE.replace("1e-3", "1")
    assert load("learning_rate=0.5", source=source).learning_rate == 0.5


def test_the_projects_own_configs_are_found_anywhere(tmp_path, monkeypatch):
    """As they stand in a checkout, and by their name; a file that is here comes first."""
    monkeypatch.chdir(tmp_path)
    for spec in ("tpu_configs/cpu.py:smoke", "cpu.py:smoke"):
        assert config_lib.load_config(spec).ga_grpo.steps == 2
    (tmp_path / "cpu.py").write_text("def get_config(): return 3")
    with pytest.raises(config_lib.ConfigError, match="^cpu.py: get_config gave int"):
        config_lib.load_config("cpu.py")
    with pytest.raises(config_lib.ConfigError, match="no config file other/v5e.py"):
        config_lib.load_config("other/v5e.py")


FLAGS = {"--config": {"required": True}, "--workdir": {"required": True}, "--seed": {"type": int}}


def test_command_line():
    line = "--config f.py:smoke --config.rl.group_size=16 --workdir d --config.seed -1"
    parsed = config_lib.parse_arguments("Trains.", line.split(), FLAGS)
    assert (parsed.config, parsed.workdir, parsed.seed) == ("f.py:smoke", "d", None)
    assert parsed.overrides == ["rl.group_size=16", "seed=-1"]
    flags = {"--no-growth": {"action": "store_true"}}
    assert config_lib.parse_arguments("Measures.", ["--no-growth"], flags).no_growth


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("--config f --wrkdir d --workdir d", "did you mean '--workdir'"),
        ("--config f", "required: --workdir"),
        ("--config f --workdir d --config.seed", "needs a value"),
        ("--config f --workdir d --config.seed --seed 3", "needs a value"),
        ("--config f --workdir d --seed x", "invalid int"),
    ],
)
def test_bad_command_line_is_one_line(line, match):
    with pytest.raises(config_lib.ConfigError, match=match) as caught:
        config_lib.parse_arguments("Trains.", line.split(), FLAGS)
    assert "\n" not in str(caught.value)


def test_run_main_turns_errors_into_statuses(capsys):
    def status(error=None, result=None):
        def main(argv):
            if error is not None:
                raise error
            return result

        with pytest.raises(SystemExit) as caught:
            run_main(main)
        return caught.value.code, capsys.readouterr().err

    assert status() == (0, "")
    assert status(result=1) == (1, "")
    assert status(UserError("no file a\nb")) == (2, "error: no file a<U+000A>b\n")
    code, text = status(OSError(28, "No space left on device", "out.json"))
    assert code == 2 and text.startswith("error: disk full while writing out.json")
    assert status(KeyboardInterrupt())[0] == 130
    with pytest.raises(RuntimeError):
        run_main(lambda argv: (_ for _ in ()).throw(RuntimeError("defect")))


def test_disk_full_is_seen_through_wrapping():
    error = ValueError("write failed")
    error.__cause__ = OSError(28, "No space left on device")
    assert is_disk_full(error)
    assert is_disk_full(ValueError("RESOURCE_EXHAUSTED: ... No space left on device"))
    assert not is_disk_full(OSError(2, "no such file"))
