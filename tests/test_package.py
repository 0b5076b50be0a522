"""What is installed: dependencies from one source, every package, the templates, the command."""

import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import jinja2
import pytest
from packaging.requirements import Requirement

from medscope_jax.paths import SCHEMES

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = ("medscope_jax", "tfds_builders", "tpu_configs")


def requirements(name):
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_dependencies_stand_in_one_place():
    """In the files that README's commands install; the package reads the same."""
    assert set(PROJECT["project"]["dynamic"]) >= {"dependencies", "optional-dependencies"}
    dynamic = PROJECT["tool"]["setuptools"]["dynamic"]
    assert dynamic["dependencies"] == {"file": ["requirements.txt"]}
    extras = dynamic["optional-dependencies"]
    assert set(extras) == {"tpu", "cuda12", "cuda13", "dicom", "metrics", "dev", *SCHEMES}
    for extra in extras.values():
        (name,) = extra["file"]
        assert requirements(name)
    for name in ("tpu", "cuda12", "cuda13"):
        (needed,) = requirements(f"requirements/{name}.txt")
        assert needed.name == "jax" and needed.extras == {name}
    for name, (module, install) in SCHEMES.items():
        assert [needed.name for needed in requirements(f"requirements/{name}.txt")] == [module]
        assert install == f"python -m pip install {module}"
    readme = (ROOT / "README.md").read_text()
    assert "-r requirements.txt" in readme and "-r tests/requirements.txt" in readme


def test_every_folder_with_modules_is_a_package():
    settings = PROJECT["tool"]["setuptools"]["packages"]["find"]
    assert settings == {"include": [f"{room}*" for room in ROOMS], "namespaces": False}
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            assert (path.parent / "__init__.py").is_file()


def test_every_other_file_is_package_data():
    data = PROJECT["tool"]["setuptools"]["package-data"]
    taken = {
        file
        for package, patterns in data.items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    files = {file for room in ROOMS for file in (ROOT / room).rglob("*") if file.is_file()}
    left = {file for file in files if file.suffix not in (".py", ".pyc")}
    assert left == taken
    for package in ("medscope_jax.report", "tfds_builders"):
        folder = ROOT.joinpath(*package.split("."), "templates")
        assert sorted(jinja2.PackageLoader(package).list_templates()) == sorted(os.listdir(folder))


def test_the_command_is_there():
    module, _, name = PROJECT["project"]["scripts"]["medscope"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    attribute = PROJECT["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    module, _, name = attribute.rpartition(".")
    assert re.fullmatch(r"\d+\.\d+\.\d+", getattr(importlib.import_module(module), name))


@pytest.mark.slow
def test_an_installed_wheel_works_anywhere(tmp_path):
    """Built and installed without its dependencies, which are those of this environment."""
    source, target = tmp_path / "source", tmp_path / "site"
    source.mkdir()  # a build leaves files in its folder
    for name in (*ROOMS, "requirements", "tests/requirements.txt"):
        path, copied = ROOT / name, source / name
        copied.parent.mkdir(exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy)(path, copied)
    for name in ("pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    (installed,) = importlib.metadata.distributions(path=[str(target)])
    needed = {line for line in installed.requires or () if "extra ==" not in line}
    assert set(map(Requirement, needed)) == set(requirements("requirements.txt"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = os.environ | {"PYTHONPATH": str(target)}

    def run(*command):
        return subprocess.run(
            command, cwd=elsewhere, env=environment, capture_output=True, text=True, timeout=300
        )

    listed = run(str(target / "bin" / "medscope"))
    assert listed.returncode == 0 and "synthesis" in listed.stdout
    template = "import jinja2; print(jinja2.PackageLoader('tfds_builders').list_templates())"
    assert run(sys.executable, "-c", template).stdout == "['card.html.j2']\n"
    refused = run(
        *(str(target / "bin" / "medscope"), "train", "--config", "tpu_configs/cpu.py:smoke"),
        *("--config.seed=-1", "--workdir", "run"),
    )
    assert refused.stderr == "error: config.seed is -1; it must be at least 0\n"
    assert not (elsewhere / "run").exists()
