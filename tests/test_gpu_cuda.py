"""The GPU check's sections of the backend ``cuda``, with a builder and backends of the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import contrastile
import pytest
import torch
from contrastile.benches.gpu import aims, cli, cuda, errors, exact, extension, profile, supervise
from contrastile.benches.gpu.record import FAIL, PASS, SKIPPED, Part, Row
from contrastile.benches.gpu.sections import SECTIONS
from contrastile.benches.gpu.settings import Settings
from contrastile.benches.gpu.speed import OURS, Timed

CPU = torch.device("cpu")
OWN = [section for section in SECTIONS.values() if section.built]


@pytest.fixture
def rows() -> list[Row]:
    return []


@pytest.fixture
def settings(rows: list[Row], tmp_path: Path) -> Settings:
    return Settings(CPU, "cpu", extension=tmp_path / extension.FOLDER, row=rows.append)


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an H200 with nvcc."""
    monkeypatch.setattr(extension, "unable", lambda settings: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def made(place: Path, code: str = "") -> None:
    """What a build leaves."""
    (place / "lib/contrastile").mkdir(parents=True)
    (place / "lib/contrastile/_C.py").write_text(code)


@pytest.mark.usefixtures("able")
def test_a_build_is_for_this_machine_and_opens_the_sections(
    settings: Settings, rows: list[Row]
) -> None:
    given: list[tuple[str, float]] = []

    def builder(place: Path, arch: str, seconds: float) -> None:
        given.append((arch, seconds))
        made(place)

    seen: list[str] = []
    section = cuda.of_cuda(lambda own: seen.append(own.backend) or cuda.Outcome(PASS))
    assert section(settings).verdict == SKIPPED and not seen
    timed = replace(settings, seconds=50.0, start=settings.start)
    assert extension.build_section(timed, builder).verdict == PASS
    assert given[0][0] == "90a" and 0 < given[0][1] <= 50
    assert rows[0]["built"] == ["lib/contrastile/_C.py"]
    assert section(settings).verdict == PASS and seen == ["cuda"]


@pytest.mark.usefixtures("able")
def test_a_build_that_fails_is_the_reason_of_all_that_need_it(settings: Settings) -> None:
    outcome = extension.build_section(settings, lambda *_: "status 1: no such instruction")
    assert outcome.verdict == FAIL and "no such instruction" in str(outcome.reason)
    for section in OWN:
        told = section.run(settings)
        assert told.verdict == SKIPPED and "no such instruction" in str(told.reason)
    # The next build begins anew.
    assert extension.build_section(settings, lambda place, *_: made(place)).verdict == PASS
    assert extension.why_not(settings.extension) is None


def test_where_nothing_can_be_built_nothing_fails(settings: Settings) -> None:
    outcomes = [section.run(settings) for section in (SECTIONS["build"], *OWN)]
    assert {outcome.verdict for outcome in outcomes} == {SKIPPED}
    assert all("CUDA kernels need a GPU" in str(outcome.reason) for outcome in outcomes)


@pytest.mark.parametrize(
    ("missing", "told"),
    [("nvcc", "nvcc was not found"), ("g++", "no C++ compiler"), ("setuptools", "setuptools is")],
)
def test_what_a_build_lacks_is_told(
    missing: str, told: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(extension, "NVCC", Path("/no/such/nvcc"))
    monkeypatch.setattr(torch.version, "hip", None)
    for name, finder in ((extension.shutil, "which"), (extension, "find_spec")):
        monkeypatch.setattr(name, finder, lambda tool: None if tool == missing else tool)
    on_gpu = replace(settings, device=torch.device("cuda", 0))
    assert told in str(extension.unable(on_gpu))


@pytest.mark.parametrize(
    ("capability", "arch"), [((9, 0), "90a"), ((8, 0), "80"), ((10, 0), "100")]
)
def test_architectures(capability: tuple[int, int], arch: str) -> None:
    assert extension.arch_of(*capability) == arch


def test_pybind11_comes_with_a_wheel_or_with_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with extension.headers(tmp_path, None) as where:
        assert where == "installed"
    found = [False]
    monkeypatch.setattr(extension, "find_spec", lambda name: found[0])
    with extension.headers(tmp_path, None) as where:
        assert where == "torch's headers"
    code = "import pybind11; print(pybind11.get_include())"
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "shim")}
    include = subprocess.check_output([sys.executable, "-c", code], env=env, text=True).strip()
    assert (Path(include) / "pybind11" / "pybind11.h").exists()

    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "pybind11-3.0-py3-none-any.whl", "w") as archive:
        archive.writestr("pybind11/__init__.py", "")
    monkeypatch.setattr(extension, "find_spec", lambda name: any("wheels-" in p for p in sys.path))
    with extension.headers(tmp_path / "other", wheels) as where:
        assert where == "of a wheel"


def test_a_build_ends_in_time_and_tells_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(code: str, seconds: float) -> str | None:
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        place.mkdir()
        (tmp_path / "setup.py").write_text(code)
        return extension.build(place, "90a", seconds)

    monkeypatch.setattr(extension, "ROOT", tmp_path)
    monkeypatch.setattr(extension, "TREE", ("setup.py",))
    assert build("pass", 30) is None
    assert build("print('a word'); raise SystemExit(3)", 30) == "status 3: a word\n"
    assert build("import time; time.sleep(60)", 0.2) == "not done in 0 s"


def suffixed(folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(b"no code")
    return path


def test_an_extension_of_another_python_is_one_clear_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = "_C" + extension.EXTENSION_SUFFIXES[0]
    assert extension.misfit(suffixed(tmp_path, own)) is None
    for name in ("_C.cpython-39-x86_64-linux-gnu.so", "other.so", own + ".gz"):
        path = suffixed(tmp_path, name)
        with pytest.raises(SystemExit):
            cli.main(["--extension", str(path)])
        told = capsys.readouterr().err
        assert f"{name} is not for this Python, which loads {own}: build it with Python 3." in told
    with pytest.raises(SystemExit):
        cli.main(["--extension", str(tmp_path / "absent.so")])
    assert "there is no file" in capsys.readouterr().err


@pytest.mark.usefixtures("able")
def test_an_extension_that_cannot_be_loaded_says_why(settings: Settings, tmp_path: Path) -> None:
    path = suffixed(tmp_path, "_C" + extension.EXTENSION_SUFFIXES[0])
    outcome = extension.build_section(replace(settings, carried=path))
    assert outcome.verdict == FAIL
    assert f"{path.name} cannot be loaded here: ImportError" in str(outcome.reason)
    assert "cannot be loaded here" in str(extension.why_not(settings.extension))


@pytest.mark.usefixtures("able")
@pytest.mark.parametrize("archs", ["80 90a", ""])
def test_a_carried_extension_is_used_instead_of_a_build(
    archs: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = json.dumps({"cuda_archs": archs, "no_cuda": "nvcc was not found"})
    monkeypatch.setattr(extension, "ASK", f"print({facts!r})")
    path = suffixed(tmp_path, "_C" + extension.EXTENSION_SUFFIXES[0])
    outcome = extension.build_section(replace(settings, carried=path), lambda *_: "was built")
    assert settings.extension is not None
    if archs:
        assert outcome == cuda.Outcome(PASS, {"carried": path.name, "archs": archs})
        assert extension.why_not(settings.extension) is None
        assert [own.name for own in extension.modules(settings.extension)] == [path.name]
    else:
        told = f"{path.name} has no CUDA kernels: nvcc was not found"
        assert outcome.verdict == FAIL and outcome.reason == told
        assert extension.why_not(settings.extension) == told


def test_what_was_built_is_what_a_new_process_finds(tmp_path: Path) -> None:
    made(tmp_path, "cuda_archs = '90a'\ncuda = 'kernels'\n")
    code = "from contrastile import native\nfrom contrastile.benches.gpu.extension import use\n"
    code += f"from pathlib import Path\nuse(Path({str(tmp_path)!r}))\n"
    code += "print(native.cuda_archs(), native.cuda_kernels())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "90a kernels\n"


def test_an_extension_comes_too_late_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = list(contrastile.__path__)
    monkeypatch.setitem(sys.modules, "contrastile._C", sys)
    extension.use(tmp_path)
    made(tmp_path)
    with pytest.raises(RuntimeError, match="another extension"):
        extension.use(tmp_path)
    assert list(contrastile.__path__) == path


def test_a_build_that_this_folder_lacks_comes_first(tmp_path: Path) -> None:
    def steps(*names: str) -> list[str]:
        return [step.section for step in cli.steps(names, False, 500.0, tmp_path)]

    assert steps("graph", "cuda-graph") == ["build", "graph", "cuda-graph"]
    assert steps("graph") == ["graph"]
    # As where a file of another machine is resumed: it tells what was built, and that is not here.
    Part("build", PASS, 1.0, {}, None, []).save(tmp_path)
    assert steps("graph", "cuda-graph") == ["build", "graph", "cuda-graph"]
    (tmp_path / extension.FOLDER).mkdir()
    assert steps("graph", "cuda-graph") == ["graph", "cuda-graph"]


PROCESS = """
import json, os, pathlib, sys, time
folder = pathlib.Path(sys.argv[3])
for line in sys.stdin:
    part = dict(json.loads((folder / "part").read_text()), section=line.split()[0])
    part["numbers"] = {"process": os.getpid()}
    (folder / "draft").write_text(json.dumps(part))
    (folder / "draft").rename(folder / f"{part['section']}.json")
    (folder / f"{part['section']}.rows").unlink()
"""


def test_after_a_build_the_process_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = {"section": "", "verdict": PASS, "seconds": 0, "numbers": {}, "reason": None}
    part |= {"rows": [], "traceback": None, "healthy": True, "sources": "", "finished": ""}
    (tmp_path / "part").write_text(json.dumps(part))
    (tmp_path / "worker.py").write_text(PROCESS)
    monkeypatch.setattr(supervise, "SCRIPT", tmp_path / "worker.py")
    parts: list[Part] = []
    names = ("environment", "build", "errors", "repeats")
    steps = [supervise.Step(name, 30.0, 100.0, renews=name == "build") for name in names]
    supervise.supervise(steps, tmp_path, [], parts.append, lambda: None)
    one, two, three, four = (part.numbers["process"] for part in parts)
    assert one == two != three == four
    assert [name for name, section in SECTIONS.items() if section.renews] == ["build"]


def test_sections_are_triton_s_with_another_backend(
    settings: Settings, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CPU's takes the place of both: what is judged is what the backend computes."""
    assert settings.extension is not None
    made(settings.extension)
    case = exact.Repeat(contrastile.clip_loss, 33, 8, torch.bfloat16)
    absent = replace(settings, backend="no such backend")
    repeats = cuda.of_cuda(lambda own: exact.repeats_section(own, [case], 2), "cpu")
    assert repeats(absent).verdict == PASS and rows[0]["repeats"] == 2

    rules = cuda.all_rules(CPU, "cuda")
    assert {(r.loss, r.dtype) for r in rules} == {
        (loss, dtype) for loss in errors.LOSSES for dtype in ("bf16", "fp16")
    }
    assert {rule.backend for rule in rules} == {"cuda"}
    assert {rule.shape.size <= 576 for rule in rules} == {True, False}
    assert all(case.dtype in (torch.bfloat16, torch.float16) for case in cuda.REPEATED)
    assert {case.n**2 > 2**31 for case in cuda.LARGE} == {True}
    assert cuda.CAPTURED


def test_backends_side_by_side(
    settings: Settings, rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "median_ms", lambda *_, **__: 2.0)
    shares = {"device ms": 4.0, "reduce share": 0.25, "weigh share": 0.5}
    monkeypatch.setattr(cuda, "kernel_shares", lambda *_: shares)
    outcome = cuda.beside_section(settings, (40, 24), (8,), ("cpu", "reference"), "fp32")
    assert outcome.verdict == PASS
    assert [row["cell"] for row in rows if "cell" in row] == [
        f"clip_loss {n} x 8 fp32, contrastile, {backend}"
        for n in (40, 24)
        for backend in ("cpu", "reference")
    ]
    assert rows[0]["step ms"] == 2.0 and rows[0]["weights ms"] == 2.0 and rows[0]["reduce ms"] == 1
    assert rows[0]["reduce TFLOP/s"] == pytest.approx(2 * 40 * 40 * 8 / 1e-3 / 1e12)
    assert rows[0]["step TFLOP/s"] == pytest.approx(8 * 40 * 40 * 8 / 2e-3 / 1e12)


def test_a_backend_that_fails_is_told(settings: Settings, rows: list[Row]) -> None:
    sides = ("no such backend", "cpu")
    outcome = cuda.beside_section(settings, (24,), (8,), sides, "fp32")
    assert outcome.verdict == FAIL and "no such backend" in str(outcome.reason)
    assert "step ms" in next(row for row in rows if row["cell"].endswith("cpu"))
    assert cuda.beside_section(settings, (24,), (8,), sides[::-1], "fp32").verdict == PASS


def test_passes_and_steps_are_judged() -> None:
    times = {
        ("cuda", 32768, 256): {"step ms": 4.0, "reduce TFLOP/s": 641.0, "weights TFLOP/s": 639.0},
        ("triton", 32768, 256): {"step ms": 4.5},
    }
    found = {
        aim.what: aim.verdict for aim in cuda.aims(times, (32768,), (256, 512), ("cuda", "triton"))
    }
    assert found == {
        "reduce 32768 x 256": aims.MET,
        "weights 32768 x 256": aims.MISSED,
        "clip_loss 32768 x 256 over triton": aims.MISSED,
        "reduce 32768 x 512": aims.UNKNOWN,
        "weights 32768 x 512": aims.UNKNOWN,
    }
    times["triton", 32768, 256] = {"step ms": 4.6}
    (over,) = (a for a in cuda.aims(times, (32768,), (256,), ("cuda", "triton")) if a.unit == "x")
    assert over.verdict == aims.MET


@pytest.mark.parametrize(
    ("kernel", "group"),
    [
        ("reduce", "reduce"),
        ("weigh", "weigh"),
        ("void contrastile::cuda::sm90::reduce<contrastile::cuda::Bf16, true>(int)", "reduce"),
        ("void contrastile::cuda::sm80::weigh<contrastile::cuda::Tf32>(int)", "weigh"),
        ("void at::native::reduce_kernel<512, 1>(int)", "rest"),
        ("nvjet_hsh_128x256_64x4", "products"),
    ],
)
def test_kernels_are_told_apart(kernel: str, group: str) -> None:
    assert profile.group_of(kernel) == group


def test_nothing_is_compiled_where_all_is(settings: Settings) -> None:
    assert [replace(settings, backend=b).compiles for b in ("triton", "cuda")] == [True, False]
    assert cuda.passes_of(
        Timed("clip_loss", OURS, 8, 8),
        {"device ms": 1.0, "reduce share": 0.0, "weigh share": 1.0},
    ).keys() == {"weights ms", "weights TFLOP/s"}
