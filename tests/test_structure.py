"""How the project is built: imports run one way, modules are small, names stand once.

Read from the source, nothing is imported; each check is also shown something that it must find.
"""

import ast
import collections
import functools
import itertools
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("medscope_jax", "tfds_builders", "tpu_configs", "benchmarks")

# A room is a folder of medscope_jax, a module beside these folders, or one of the other packages.
# It may import the rooms of its own layer and of those below.
LAYERS = (
    "benchmarks",
    "tpu_configs",
    "medscope_jax cli train evaluate evaluate_out evaluate_flags ask plan check convert encode "
    "inference question_file",
    "tfds_builders",
    "planning invariants evaluation",
    "training",
    "rollout rl report metrics",
    "data models bank",
    "phantom dialogue tools video",
    "distributed",
    "config config_schema config_source config_text config_values arguments buckets copies "
    "errors files locks manifest owners parts paths quiet stored strict_json visible workers",
)
# Who imports a room of which others know nothing.
ONLY = {"tfds_builders": "train tfds_builders benchmarks", "benchmarks": "benchmarks"}
LONGEST, MEDIAN, LONGEST_COPY = 400, 150, 8

parse = functools.cache(ast.parse)


@functools.cache
def sources() -> dict[str, str]:
    """The text of each module by its name; a package's is that of its __init__."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): (
            path.read_text()
        )
        for path in files
    }


def imports(texts: dict[str, str]) -> dict[str, set[str]]:
    """The modules among `texts` that each imports, wherever in its text."""
    graph = {}
    for name, text in texts.items():
        found = graph[name] = set()
        for node in ast.walk(parse(text)):
            if isinstance(node, ast.ImportFrom):
                named = [(f"{node.module}.{item.name}", node.module) for item in node.names]
            elif isinstance(node, ast.Import):
                named = [(item.name,) for item in node.names]
            else:
                continue
            found |= {next((n for n in names if n in texts), name) for names in named}
        found.discard(name)
    return graph


def room(module: str) -> str:
    """medscope_jax.rollout.loop: rollout; medscope_jax.files: files; tfds_builders.cut: itself."""
    package, *inside = module.split(".")
    return inside[0] if package == "medscope_jax" and inside else package


def between_rooms(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The rooms that the modules of each room import."""
    rooms = {room(module): set() for module in graph}
    for module, found in graph.items():
        rooms[room(module)] |= {room(other) for other in found} - {room(module)}
    return rooms


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Names that lead back to the first, each by what it imports; [] if there are none."""
    done, path = set(), []

    def visit(name):
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        path.append(name)
        for other in sorted(graph.get(name, ())):
            if found := visit(other):
                return found
        done.add(path.pop())
        return []

    return next((found for name in sorted(graph) if (found := visit(name))), [])


def forbidden(graph: dict[str, set[str]], strangers: dict[str, list[str]]) -> list[str]:
    """The imports from one module to another that LAYERS, ONLY or BUILD.md's table rules out."""
    layer = {name: depth for depth, names in enumerate(LAYERS) for name in names.split()}
    found = []
    for module in sorted(graph):
        for other in sorted(graph[module]):
            above, below = room(module), room(other)
            if (
                layer[below] < layer[above]
                or below in strangers.get(above, ())
                or above not in ONLY.get(below, above).split()
            ):
                found.append(f"{module} imports {other}")
    return found


def manual(text: str) -> dict[str, list[str]]:
    """BUILD.md's table: each room, from the top, and what it knows nothing of."""
    lines = text.splitlines()
    start = lines.index("| room | what | knows nothing of |") + 2
    rows = {}
    for line in itertools.takewhile(lambda line: line.startswith("|"), lines[start:]):
        first, *_, last = line.strip("|").split("|")
        rows[first.strip(" `/")] = last.replace(",", " ").split()
    return rows


def upward(rooms: dict[str, set[str]], order: list[str]) -> list[str]:
    """Imports between the rooms of a list that do not lead down it."""
    return [
        f"{above} is imported by {below}"
        for place, above in enumerate(order)
        for below in order[place + 1 :]
        if above in rooms.get(below, ())
    ]


def twice(names: list[tuple[str, str]]) -> list[str]:
    """Of (name, where) pairs the names that stand in several places, with the places."""
    places = collections.defaultdict(list)
    for name, where in names:
        places[name].append(where)
    return [f"{name}: {', '.join(found)}" for name, found in places.items() if len(found) > 1]


def classes(texts: dict[str, str]) -> list[tuple[str, str]]:
    """(class, module) of each class."""
    return [
        (node.name, module)
        for module, text in texts.items()
        for node in ast.walk(parse(text))
        if isinstance(node, ast.ClassDef)
    ]


def copies(texts: dict[str, str]) -> list[str]:
    """Where more than LONGEST_COPY lines of code, imports aside, stand in two rooms."""
    first: dict[tuple[str, ...], tuple[str, int]] = {}
    found = []
    for module, text in texts.items():
        skipped = {
            number
            for node in ast.walk(parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for number in range(node.lineno, node.end_lineno + 1)
        }
        lines = [
            (number, line.strip())
            for number, line in enumerate(text.splitlines(), 1)
            if line.strip() and number not in skipped and not line.strip().startswith("#")
        ]
        for start in range(len(lines) - LONGEST_COPY):
            run = tuple(line for _, line in lines[start : start + LONGEST_COPY + 1])
            other, line = first.setdefault(run, (module, lines[start][0]))
            if room(other) != room(module):
                found.append(f"{other}:{line} and {module}:{lines[start][0]}")
    return found


@pytest.fixture(scope="module")
def graph():
    return imports(sources())


@pytest.fixture(scope="module")
def strangers():
    return manual((ROOT / "BUILD.md").read_text())


def test_imports_run_one_way(graph, strangers):
    assert sum(map(len, graph.values())) > 500  # else they were not found
    assert not circle(graph) and not circle(between_rooms(graph))
    assert not forbidden(graph, strangers)


def test_the_manuals_table_is_true(graph, strangers):
    """It has every room, imports lead down it, and what a room knows nothing of is a room."""
    inside = [module.split(".")[1:] for module in sources() if module.startswith("medscope_jax.")]
    folders = {names[0] for names in inside if len(names) > 1}
    assert strangers.keys() == folders and len(folders) > 10
    assert not upward(between_rooms(graph), list(strangers))
    assert {name for names in strangers.values() for name in names} <= set(map(room, graph))


def test_every_room_is_in_a_layer():
    named = " ".join(LAYERS).split()
    assert sorted(named) == sorted(set(map(room, sources()))) and len(named) == len(set(named))


def test_what_imports_may_not_do_is_found():
    graph = imports(
        {
            "medscope_jax.models.qwen": "from medscope_jax.tools import grammar",
            "medscope_jax.tools.grammar": "def late():\n    import medscope_jax.training.run",
            "medscope_jax.training.run": "from medscope_jax.models.qwen import forward",
            "medscope_jax.evaluate": "import tfds_builders.cut, json",
            "tfds_builders.cut": "from medscope_jax.errors import UserError",
            "medscope_jax.errors": "from pathlib import Path",
        }
    )
    assert circle(graph)[0] == "medscope_jax.models.qwen" and len(circle(graph)) == 3
    assert sorted(circle(between_rooms(graph))) == ["models", "tools", "training"]
    assert forbidden(graph, {"models": ["tools"]}) == [
        "medscope_jax.evaluate imports tfds_builders.cut",  # of others than train
        "medscope_jax.models.qwen imports medscope_jax.tools.grammar",  # a stranger below
        "medscope_jax.tools.grammar imports medscope_jax.training.run",  # upwards
    ]
    rooms_alone = {"medscope_jax.rl.a": {"medscope_jax.metrics.b"}}
    rooms_alone |= {"medscope_jax.metrics.c": {"medscope_jax.rl.d"}}
    assert not circle(rooms_alone) and circle(between_rooms(rooms_alone)) == ["metrics", "rl"]


def modules() -> dict[str, str]:
    """sources, without those of packages."""
    packages = {name.rpartition(".")[0] for name in sources()}
    return {name: text for name, text in sources().items() if name not in packages}


def test_modules_are_small():
    lengths = {module: text.count("\n") for module, text in modules().items()}
    assert not [module for module, length in lengths.items() if length > LONGEST]
    assert statistics.median(lengths.values()) < MEDIAN


def test_names_stand_once():
    assert not twice(classes(sources()))
    files = [(name.rpartition(".")[2], name) for name in modules()]
    assert not twice([(name, where) for name, where in files if name != "__main__"])
    texts = {"a.one": "class Row:\n    class Part: ...", "b.one": "class Row: ...\nclass All: ..."}
    assert twice(classes(texts)) == ["Row: a.one, b.one"]


def test_no_code_stands_in_two_rooms():
    assert not copies(sources())
    body = "import {}\n" + "\n".join(f"line_{number}()" for number in range(9))
    texts = {"medscope_jax.rl.a": body.format("a"), "medscope_jax.data.b": body.format("b")}
    assert copies(texts) == ["medscope_jax.rl.a:2 and medscope_jax.data.b:2"]
    shorter = texts | {"medscope_jax.data.b": body.format("b").removesuffix("line_8()")}
    assert not copies(shorter)


def test_a_manual_that_is_not_true_is_found():
    text = "## Layout\n\n| room | what | knows nothing of |\n|---|---|---|\n"
    text += "| `rl/` | rewards | files, models |\n| `models/` | Qwen | |\n\n| `a/` | b | c |\n"
    assert manual(text) == {"rl": ["files", "models"], "models": []}
    rooms = {"rl": {"dialogue"}, "models": {"rl"}}
    assert upward(rooms, ["rl", "models"]) == ["rl is imported by models"]
    assert not upward(rooms, ["models", "rl"])


# Tests of several rooms at once, such as every entry point or the notebook.
ACROSS = {"bad_input", "config_files", "notebook", "package", "structure"}
HELPERS = ("_cases", "_program", "_server", "_reference")


def misnamed(tests: list[str], modules: set[str]) -> list[str]:
    """Files of tests/ that are named neither after a module or room, nor as helpers are.

    tests: paths below tests/, such as rl/test_judge.py; modules: names of modules and rooms.
    """
    found = []
    for path in map(Path, tests):
        name = path.stem.removeprefix("test_")
        heads = {name[:end] for end in range(1, len(name) + 1) if name[end : end + 1] in ("", "_")}
        if path.stem == name:
            fits = (
                name == "conftest"
                or name.startswith(("make_", "corpus"))
                or (name.endswith(HELPERS))
            )
        else:
            fits = name in ACROSS or heads & modules
        found += [] if fits else [str(path)]
    return sorted(found)


def test_tests_are_named_after_what_they_test():
    files = [str(path.relative_to(ROOT / "tests")) for path in (ROOT / "tests").rglob("*.py")]
    names = {part.strip("_") for module in sources() for part in module.split(".")[1:]}
    assert misnamed(files, names) == []
    assert misnamed(["rl/test_judge.py", "rl/test_judge_more.py"], {"judge"}) == []
    assert misnamed(["rl/test_jud.py", "rl/stuff.py"], {"judge"}) == [
        "rl/stuff.py",
        "rl/test_jud.py",
    ]


def lost(page: str, root: Path) -> list[str]:
    """Tests that a page names, `tests/a/test_b.py` or `test_c.py` beside it, that are not there."""
    folder, found = "tests", []
    for name in re.findall(r"`((?:tests/[\w/]*)?test_[\w*]+\.py)(?:::\w+)?`", page):
        if name.startswith("tests/"):
            folder = name.rpartition("/")[0]
        else:
            name = f"{folder}/{name}"
        found += [] if list(root.glob(name)) else [name]
    return found


def test_the_tests_that_build_md_names_are_there():
    assert lost((ROOT / "BUILD.md").read_text(), ROOT) == []
    assert lost("`tests/rl/test_judge.py`, `test_none.py`", ROOT) == ["tests/rl/test_none.py"]
