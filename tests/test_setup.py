"""What a build decides: for which GPUs CUDA kernels are compiled, and what it says about it."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import setuptools

ROOT = Path(__file__).parents[1]
VARIABLES = ("CONTRASTILE_NATIVE", "CONTRASTILE_CUDA", "CONTRASTILE_CUDA_ARCHS")
ALL_THE_SAME = "; CONTRASTILE_CUDA=1 builds them all the same"


class Driver:
    """libcuda of a machine with GPUs of these capabilities."""

    def __init__(self, *capabilities: tuple[int, int], status: int = 0) -> None:
        self.capabilities = capabilities
        self.status = status

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.capabilities)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: ctypes.c_int) -> int:
        value._obj.value = self.capabilities[device.value][{75: 0, 76: 1}[attribute]]
        return 0


@pytest.fixture
def build(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py as a module; nothing is set up."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("setup_py", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with monkeypatch.context() as during:
        during.setenv("CONTRASTILE_NATIVE", "0")
        during.setattr(setuptools, "setup", lambda **_: None)
        during.chdir(ROOT)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def machine(
    build: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., None]:
    """Makes this a machine with a driver, or without, and with an nvcc that ends like this."""

    def become(driver: Driver | None, nvcc: str | None = "exit 0") -> None:
        def load(name: str) -> Driver:
            assert name == "libcuda.so.1"
            if driver is None:
                raise OSError(name)
            return driver

        monkeypatch.setattr(ctypes, "CDLL", load)
        if nvcc is None:
            monkeypatch.setattr(build, "cuda_root", lambda: None)
            return
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        for name, text in (("bin/nvcc", f"#!/bin/sh\n{nvcc}\n"), ("include/cuda_runtime.h", "")):
            file = tmp_path / name
            file.parent.mkdir()
            file.write_text(text)
            file.chmod(0o755)

    return become


HOPPER, ADA, TURING = (9, 0), (8, 9), (7, 5)
REFUSED = "echo 'nvcc fatal : Unsupported gpu architecture' >&2; exit 1"


@pytest.mark.parametrize(
    ("settings", "driver", "nvcc", "expected"),
    [
        ({}, None, "exit 0", f"this machine has no NVIDIA driver{ALL_THE_SAME}"),
        (
            {},
            Driver(status=100),
            "exit 0",
            f"the NVIDIA driver finds no GPU (its status is 100){ALL_THE_SAME}",
        ),
        (
            {},
            Driver(TURING),
            "exit 0",
            "the GPU here has compute capability 7.5, the kernels need 8.0" + ALL_THE_SAME,
        ),
        ({}, Driver(HOPPER), "exit 0", ["90a"]),
        ({}, Driver(HOPPER, ADA, TURING, ADA), "exit 0", ["89", "90a"]),
        ({"CONTRASTILE_CUDA_ARCHS": "80"}, Driver(ADA), "exit 0", ["80"]),
        (
            {"CONTRASTILE_CUDA_ARCHS": "80"},
            None,
            "exit 0",
            f"this machine has no NVIDIA driver{ALL_THE_SAME}",
        ),
        ({}, Driver(ADA), None, "nvcc was not found; CUDA_HOME may name another CUDA toolkit"),
        (
            {},
            Driver(ADA),
            REFUSED,
            "nvcc does not work: nvcc fatal : Unsupported gpu architecture; "
            "CUDA_HOME may name another CUDA toolkit",
        ),
        ({"CONTRASTILE_CUDA": "0"}, Driver(HOPPER), "exit 0", "CONTRASTILE_CUDA=0 was set"),
        ({"CONTRASTILE_CUDA": "1"}, None, "exit 0", ["80", "90a"]),
        (
            {"CONTRASTILE_CUDA": "1", "CONTRASTILE_CUDA_ARCHS": "86;120"},
            Driver(HOPPER),
            "exit 0",
            ["86", "120"],
        ),
    ],
)
def test_architectures_that_kernels_are_built_for(
    settings: dict[str, str],
    driver: Driver | None,
    nvcc: str | None,
    expected: list[str] | str,
    build: ModuleType,
    machine: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of the GPUs that are there; none, with a reason, is no error unless asked for."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    machine(driver, nvcc)
    assert build.cuda_archs() == expected


@pytest.mark.parametrize(
    ("nvcc", "words"),
    [(None, "nvcc was not found"), (REFUSED, "nvcc does not work: nvcc fatal")],
)
def test_asked_for_and_impossible_is_an_error(
    nvcc: str | None,
    words: str,
    build: ModuleType,
    machine: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CONTRASTILE_CUDA", "1")
    machine(Driver(HOPPER), nvcc)
    with pytest.raises(SystemExit, match=f"CONTRASTILE_CUDA=1, but {words}.*CUDA_HOME"):
        build.cuda_archs()


def test_the_reason_is_said_and_kept(
    build: ModuleType,
    machine: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The build prints what it decides; the extension keeps it, as C++ reads it, for doctor."""
    machine(Driver(ADA), "echo 'error: \"unsupported\" GNU version' >&2; exit 1")
    parts = build.cuda_parts()
    reason = 'nvcc does not work: error: "unsupported" GNU version'
    assert f"contrastile: no CUDA kernels: {reason}" in capsys.readouterr().out
    ((name, text),) = parts["macros"]
    assert name == "CONTRASTILE_NO_CUDA" and reason.replace('"', '\\"') in text
    assert parts["sources"] == [] and text[0] == text[-1] == '"'


def test_kernels_of_one_family_only(
    build: ModuleType, machine: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Hopper nothing of sm90.h is compiled."""
    monkeypatch.chdir(ROOT)
    machine(Driver(ADA))
    parts = build.cuda_parts()
    assert parts["macros"] == [("CONTRASTILE_CUDA", '"89"')]
    assert parts["sources"] and not [name for name in parts["sources"] if "sm90" in name]


def test_each_file_is_named_when_it_is_done(
    build: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """And how many there are before; each level's flags go to its own file."""
    flags: dict[str, list[str]] = {}

    def compile_one(sources: list[str], *, extra_postargs: list[str], output_dir: str) -> list[str]:
        (source,) = sources
        flags[source] = extra_postargs
        return [f"{output_dir}/{source}.o"]

    command = build.BuildLevels(setuptools.Distribution())
    command.compiler, command.extensions = SimpleNamespace(compile=compile_one), []
    command.build_extensions()
    sources = ["csrc/level_avx2.cpp", "csrc/norms.cpp"]
    made = command.compiler.compile(sources, output_dir="objects", extra_postargs=["-O3"])
    assert made == [f"objects/{source}.o" for source in sources]
    assert flags == {sources[0]: ["-O3", "-mavx2", "-mfma"], sources[1]: ["-O3"]}
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith("contrastile: compiling 2 files")
    assert sorted(others) == [f"contrastile: {source} compiled in 0 s" for source in sources]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CONTRASTILE_CUDA", "yes", "CONTRASTILE_CUDA: expected 0, 1 or auto, got 'yes'"),
        ("CONTRASTILE_CUDA_ARCHS", "70", "CONTRASTILE_CUDA_ARCHS: expected such as 80;90a"),
        ("CONTRASTILE_CUDA_ARCHS", "ninety", "CONTRASTILE_CUDA_ARCHS: expected such as 80;90a"),
    ],
)
def test_bad_settings_stop_the_build(variable: str, value: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "--name"],
        cwd=ROOT,
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and words in done.stderr
