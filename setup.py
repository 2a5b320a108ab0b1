"""What pyproject.toml cannot say: where the packages lie, and the native extension.

CONTRASTILE_NATIVE=0 builds without it, 1 demands it, auto (the default) builds it where a C++17
compiler is found. With a compiler present a compile error is an error in either mode.
CONTRASTILE_CUDA says the same of the CUDA kernels in it: auto builds them where nvcc and an NVIDIA
GPU are found, for the GPUs that are there, 1 also without a GPU, for 80 and 90a. Others may be
named: CONTRASTILE_CUDA_ARCHS="80;90a". Kernels for 90a are sm90.h's; all architectures get those of
sm80.h, later ones by PTX. What is built, why, and each file as it is done, go to stdout: pip shows
it with -v.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.errors import CCompilerError, CompileError, LinkError, PlatformError

from distutils.ccompiler import new_compiler  # isort: skip  # served by setuptools
from distutils.sysconfig import customize_compiler  # isort: skip

FOLDERS = {"contrastile.triton_kernels": "triton_kernels", "contrastile.benches": "benches"}
# Tools for changing the kernels, by the beginning of their names (gpu_check is one): a wheel leaves
# them out. In a checkout an editable install finds them all the same.
UNSHIPPED = ("contrastile.benches.gpu", "contrastile.benches.kernels")

FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden"]
# Contraction to fma and no traps or errno: faster loops, the same NaN and infinity rules.
FLAGS += ["-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
AVX2_FLAGS = ["-mavx2", "-mfma"]
AVX512_FLAGS = ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"]
LEVEL_FLAGS = {
    "level_avx2.cpp": AVX2_FLAGS,
    "level_avx512.cpp": [*AVX2_FLAGS, *AVX512_FLAGS, "-mprefer-vector-width=512"],
}


NVCC_FLAGS = ["-std=c++17", "-O3", "-DCONTRASTILE_LEVEL=device"]
NVCC_FLAGS += ["-Xcompiler", "-fPIC,-fvisibility=hidden"]


# Of the kernels, and what is built for where nobody says otherwise and no GPU is looked for.
OLDEST_ARCH, DEFAULT_ARCHS = 80, ["80", "90a"]
# The driver's numbers of a device's attributes, major and minor.
COMPUTE_CAPABILITY = (75, 76)


def say(line: str) -> None:
    """At once, so that whoever watches sees what takes the time."""
    print(f"contrastile: {line}", flush=True)


def mode_of(variable: str) -> str:
    mode = os.environ.get(variable, "auto")
    if mode not in ("0", "1", "auto"):
        raise SystemExit(f"{variable}: expected 0, 1 or auto, got {mode!r}")
    return mode


def cuda_root() -> Path | None:
    """A CUDA toolkit: a folder that holds both the compiler and the headers."""
    named = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    nvcc = shutil.which("nvcc")
    found = [str(Path(nvcc).resolve().parents[1])] if nvcc else []
    for root in map(Path, filter(None, [*named, *found, "/usr/local/cuda"])):
        if (root / "bin/nvcc").exists() and (root / "include/cuda_runtime.h").exists():
            return root
    return None


def named_archs() -> list[str]:
    """Compute capabilities without the dot; "a" for an architecture's own instructions."""
    archs = os.environ.get("CONTRASTILE_CUDA_ARCHS", "")
    for arch in archs.split(";") if archs else []:
        if not arch.removesuffix("a").isdigit() or int(arch.removesuffix("a")) < OLDEST_ARCH:
            raise SystemExit(f"CONTRASTILE_CUDA_ARCHS: expected such as 80;90a, got {arch!r}")
    return archs.split(";") if archs else []


def present_archs() -> list[str] | str:
    """The architectures of the NVIDIA GPUs of this machine; or why none needs kernels."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "this machine has no NVIDIA driver"
    count, device, value = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or count.value == 0:
        return f"the NVIDIA driver finds no GPU (its status is {status})"
    capabilities = []
    for index in range(count.value):
        driver.cuDeviceGet(ctypes.byref(device), index)
        numbers = []
        for attribute in COMPUTE_CAPABILITY:
            driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            numbers.append(value.value)
        capabilities.append(10 * numbers[0] + numbers[1])
    usable = sorted({arch for arch in capabilities if arch >= OLDEST_ARCH})
    if not usable:
        found = ", ".join(f"{arch // 10}.{arch % 10}" for arch in sorted(set(capabilities)))
        return f"the GPU here has compute capability {found}, the kernels need 8.0"
    return ["90a" if arch == 90 else str(arch) for arch in usable]


@cache
def cuda_archs() -> list[str] | str:
    """What CUDA kernels are built for; or why none are."""
    mode, root, named = mode_of("CONTRASTILE_CUDA"), cuda_root(), named_archs()
    if mode == "0":
        return "CONTRASTILE_CUDA=0 was set"
    archs = (named or DEFAULT_ARCHS) if mode == "1" else present_archs()
    if isinstance(archs, str):
        return f"{archs}; CONTRASTILE_CUDA=1 builds them all the same"
    archs = named or archs
    reason = "nvcc was not found" if root is None else why_nvcc_fails(root, archs)
    if reason is None:
        return archs
    if mode == "1":
        raise SystemExit(f"CONTRASTILE_CUDA=1, but {reason}; CUDA_HOME may name a CUDA toolkit")
    return f"{reason}; CUDA_HOME may name another CUDA toolkit"


def why_nvcc_fails(root: Path, archs: list[str]) -> str | None:
    """None if a kernel compiles, else why not: another host compiler, an architecture too new."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cu")
        source.write_text("#include <cuda_runtime.h>\n#include <vector>\n__global__ void f() {}\n")
        command = [*nvcc(root), *code_flags("probe.cu", archs), "-c", str(source)]
        done = subprocess.run([*command, "-o", f"{source}.o"], capture_output=True, text=True)
    said = (done.stderr + done.stdout).strip().splitlines()
    return None if done.returncode == 0 else f"nvcc does not work: {said[0] if said else '?'}"


def nvcc(root: Path) -> list[str]:
    return [str(root / "bin/nvcc"), *NVCC_FLAGS]


def code_flags(source: str, archs: list[str]) -> list[str]:
    """For which architectures a file of kernels is compiled; of sm_80's also as PTX."""
    if source.startswith("sm90"):
        return ["-gencode=arch=compute_90a,code=sm_90a"]
    plain = sorted({int(arch.removesuffix("a")) for arch in archs})
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in plain]
    return [*flags, f"-gencode=arch=compute_{plain[0]},code=compute_{plain[0]}"]


def cuda_parts() -> dict[str, Any]:
    """What the CUDA kernels add to the extension; or the reason why they add nothing."""
    archs = cuda_archs()
    if isinstance(archs, str):
        say(f"no CUDA kernels: {archs}")
        reason = ("CONTRASTILE_NO_CUDA", json.dumps(archs))
        return {"sources": [], "macros": [reason], "libraries": []}
    root = cuda_root()
    assert root is not None, "architectures to build for without a compiler"
    say(f"CUDA kernels for {' '.join(archs)}, by {root / 'bin/nvcc'}")
    files = sorted(Path("csrc/cuda").glob("*.cu")) + sorted(Path("csrc/cuda").glob("*.cpp"))
    macros = [("CONTRASTILE_CUDA", f'"{" ".join(archs)}"')]
    if "90a" in archs:
        macros.append(("CONTRASTILE_SM90", "1"))
    else:
        files = [path for path in files if not path.name.startswith("sm90")]
    return {
        "sources": [str(path) for path in files],
        "macros": macros,
        # Static: the extension then serves any torch, whichever CUDA that brings.
        "libraries": [f"-L{root / 'lib64'}", "-lcudart_static", "-ldl", "-lrt", "-lpthread"],
    }


def compiles(flags: list[str], code: str) -> str | None:
    """None if a program with these flags compiles and links, else why not."""
    compiler = new_compiler()
    if compiler.compiler_type == "msvc":
        return "the native code is written for GCC and Clang"
    customize_compiler(compiler)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(code)
        try:
            objects = compiler.compile([str(source)], output_dir=folder, extra_postargs=flags)
            compiler.link_executable(
                objects, "probe", folder, extra_postargs=flags, target_lang="c++"
            )
        except (CompileError, LinkError, PlatformError, CCompilerError) as error:
            return str(error)
    return None


def extensions() -> list[Extension]:
    mode = mode_of("CONTRASTILE_NATIVE")
    if mode == "0":
        return []
    reason = compiles(FLAGS, "#include <vector>\nint main() { return std::vector<int>().size(); }")
    if reason is not None:
        if mode == "1":
            raise SystemExit(f"CONTRASTILE_NATIVE=1, but no C++17 compiler works: {reason}")
        say(f"no extension: {reason}")
        return []
    import pybind11

    openmp = ["-fopenmp"]
    reason = compiles([*FLAGS, *openmp], "#include <omp.h>\nint main() { omp_get_max_threads(); }")
    if reason is not None:
        say(f"the extension will use one thread, no OpenMP: {reason}")
        openmp = []
    sources = {path.name: str(path) for path in sorted(Path("csrc").glob("*.cpp"))}
    macros = [("CONTRASTILE_X86_LEVELS", "1")]
    if platform.machine().lower() not in ("x86_64", "amd64"):
        sources = {name: path for name, path in sources.items() if name not in LEVEL_FLAGS}
        macros = []
    cuda = cuda_parts()
    return [
        Extension(
            "contrastile._C",
            [*sources.values(), *cuda["sources"]],
            depends=[str(path) for path in sorted(Path("csrc").rglob("*.h"))],
            include_dirs=[pybind11.get_include()],
            define_macros=[*macros, *cuda["macros"]],
            extra_compile_args=[*FLAGS, *openmp],
            extra_link_args=[*openmp, *cuda["libraries"]],
            language="c++",
        )
    ]


def compile_cuda(source: str, folder: str) -> str:
    """The object file of a file of kernels."""
    root, archs = cuda_root(), cuda_archs()
    assert root is not None and not isinstance(archs, str), "kernels without a compiler for them"
    out = Path(folder, source).with_suffix(".o")
    out.parent.mkdir(parents=True, exist_ok=True)
    flags = code_flags(Path(source).name, archs)
    command = [*nvcc(root), *flags, "-c", source, "-o", str(out)]
    result = subprocess.run(command, capture_output=True, text=True)
    # What ptxas only mentions: wgmma one after the other, register limits it did not keep.
    spoilt = "Potential Performance Loss" in result.stderr or "setmaxnreg" in result.stderr
    if result.returncode != 0 or spoilt:
        raise CompileError(f"{' '.join(command)}\n{result.stderr}")
    return str(out)


class BuildLevels(build_ext):
    """Compiles the sources side by side, each level with the flags of its instruction set."""

    def build_extensions(self) -> None:
        compile_some = self.compiler.compile

        def compile_all(sources: list[str], **options: Any) -> list[str]:
            common = options.pop("extra_postargs", None) or []

            def compile_one(source: str) -> list[str]:
                start = time.perf_counter()
                if source.endswith(".cu"):
                    made = [compile_cuda(source, options["output_dir"])]
                else:
                    flags = [*common, *LEVEL_FLAGS.get(Path(source).name, [])]
                    made = compile_some([source], extra_postargs=flags, **options)
                say(f"{source} compiled in {time.perf_counter() - start:.0f} s")
                return made

            say(f"compiling {len(sources)} files, {os.cpu_count()} at a time")
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return [name for names in pool.map(compile_one, sources) for name in names]

        self.compiler.compile = compile_all
        super().build_extensions()


def packages() -> list[str]:
    found = find_packages("python")
    for name, folder in FOLDERS.items():
        found += [name, *(f"{name}.{part}" for part in find_packages(folder))]
    return [name for name in found if not name.startswith(UNSHIPPED)]


class BuildShipped(build_py):
    """Leaves out single modules too, where packages() leaves out packages."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found = super().find_package_modules(package, package_dir)
        return [entry for entry in found if not f"{package}.{entry[1]}".startswith(UNSHIPPED)]


setup(
    package_dir={"": "python", **FOLDERS},
    packages=packages(),
    # Else what MANIFEST.in puts into the sdist would be data of the package whose folder it is in.
    include_package_data=False,
    package_data={"contrastile": ["py.typed", "backends/triton/launches/*.json"]},
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildLevels, "build_py": BuildShipped},
)
