#!/usr/bin/env python3
"""Tries the library with oldest and newest compilers, and writes what came of it to docs/compilers.md and docs/compilers.json.

usage: compilers.py ROOT [NAME...]

Without names, all. Compilers that the machine lacks come from PyPI and from the packages of its Debian, unpacked below
build/compilers; nothing is installed. What is not to be had is listed as such.
"""
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(sys.argv[1]).resolve()
sys.path.insert(0, str(ROOT / "tests" / "run"))
import pypi  # noqa: E402

FOLDER = ROOT / "build" / "compilers"
NVCC_PARTS = [package.partition("==")[0] for package in pypi.NVCC]
CLANG_CUDA = ["nvidia-cuda-nvcc-cu12==12.4.131", "nvidia-cuda-cccl-cu12==12.4.127", "nvidia-cuda-runtime-cu12==12.4.127",
              "nvidia-curand-cu12==10.3.5.147"]
CPU, CUDA = "tests/compilers/cpu.cpp", "tests/compilers/cuda.cu"


class Missing(Exception):
    """A compiler that is not to be had here."""


@dataclasses.dataclass
class Result:
    compiler: str
    version: str
    what: str
    result: str
    seconds: float


def run(command, **options):
    return subprocess.run([str(word) for word in command], text=True, capture_output=True, stdin=subprocess.DEVNULL, **options)


def from_pypi(name, packages):
    """The folder with these packages."""
    folder = FOLDER / name
    if not folder.is_dir():
        new = FOLDER / f"{name}.new"
        shutil.rmtree(new, ignore_errors=True)
        done = run([sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--target", new, *packages])
        if done.returncode != 0:
            raise Missing((done.stderr.strip().splitlines() or ["pip failed"])[-1])
        new.rename(folder)
    return folder


def from_debian(name, packages):
    """The folder where these packages of the machine's release are unpacked."""
    folder = FOLDER / name
    if not folder.is_dir():
        new = FOLDER / f"{name}.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(parents=True)
        if run(["apt-get", "download", *packages], cwd=new).returncode != 0:
            raise Missing("not among the packages of this machine's release")
        for package in sorted(new.glob("*.deb")):
            if run(["dpkg", "-x", package, new / "root"]).returncode != 0:
                raise Missing(f"{package.name} does not unpack")
            package.unlink()
        new.rename(folder)
    return folder / "root"


def newest_debian_clang():
    if shutil.which("apt-cache") is None:
        raise Missing("no apt on this machine")
    listed = run(["apt-cache", "search", "--names-only", "^clang-[0-9]+$"]).stdout
    versions = [int(n) for n in re.findall(r"^clang-(\d+)", listed, re.MULTILINE)]
    if not versions:
        raise Missing("no clang among the packages of this machine's release")
    n = max(versions)
    root = from_debian(f"clang-{n}", [f"clang-{n}", f"libclang-common-{n}-dev", f"libllvm{n}", f"libclang-cpp{n}"])
    libraries = [root / "usr/lib/x86_64-linux-gnu", root / f"usr/lib/llvm-{n}/lib"]
    return [root / f"usr/lib/llvm-{n}/bin/clang++"], {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}


def with_libcxx(found):
    """As found, with the libc++ of its version, linked statically, so that it needs no package where it runs."""
    command, environment = found
    n = re.search(r"clang.*?(\d+)", str(command[0])).group(1)
    llvm = from_debian(f"libc++-{n}", [f"libc++-{n}-dev", f"libc++abi-{n}-dev"]) / f"usr/lib/llvm-{n}"
    libraries = [llvm / "lib/libc++.a", llvm / "lib/libc++abi.a"]
    return [*command, "-nostdinc++", "-isystem", llvm / "include/c++/v1", "-nostdlib++"], environment, libraries


def installed(name):
    if shutil.which(name) is None:
        raise Missing("not installed")
    return [name], {}


def newest_gxx():
    names = [f"g++-{n}" for n in range(30, 11, -1) if shutil.which(f"g++-{n}")]
    if not names:
        raise Missing("not installed")
    return [names[0]], {}


def zig():
    return [sys.executable, "-m", "ziglang", "c++"], {"PYTHONPATH": str(from_pypi("ziglang", ["ziglang"]))}


def nvcc(name, packages):
    folder = from_pypi(name, packages)
    found = sorted(folder.glob("nvidia/*/bin/nvcc"))
    if not found:
        raise Missing("the packages have no nvcc")
    root = found[0].parent.parent
    if not (root / "lib64").exists():
        (root / "lib64").symlink_to("lib")
    return [found[0], "-arch=sm_80"], {}


def clang_cuda():
    command, environment = newest_debian_clang()
    folder = from_pypi("cuda-12.4", CLANG_CUDA)
    toolkit = folder / "toolkit"  # of the packages' folders, one as clang looks for it
    if not toolkit.exists():
        for part in sorted(folder.glob("nvidia/*")):
            if part.is_dir():
                shutil.copytree(part, toolkit, dirs_exist_ok=True)
        (toolkit / "lib64").symlink_to("lib")
        (toolkit / "version.json").write_text('{"cuda": {"name": "CUDA SDK", "version": "12.4.0"}}')
    return [*command, f"--cuda-path={toolkit}", "--cuda-gpu-arch=sm_80", "-Wno-unknown-cuda-version"], environment


def version_of(command, environment):
    text = run([*command[:4 if "ziglang" in map(str, command) else 1], "--version"], env={**os.environ, **environment}).stdout
    found = re.search(r"release [\d.]+, V([\d.]+)", text) or re.search(r"(\d+\.\d+\.\d+)", text)
    return found.group(1) if found else "?"


def compile_cpu(command, environment, libraries=()):
    program = FOLDER / "cpu"
    env = {**os.environ, **environment}
    done = run([*command, "-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'include'}", ROOT / CPU, *libraries, "-lpthread",
                "-o", program], env=env)
    if done.returncode != 0:
        return first_error(done.stderr)
    done = run([program], env=env)
    return "right" if done.returncode == 0 else "wrong: " + done.stdout.strip()


def compile_cuda(command, environment):
    done = run([*command, "-std=c++20", f"-I{ROOT / 'include'}", "-c", ROOT / CUDA, "-o", FOLDER / "cuda.o"],
               env={**os.environ, **environment})
    return "compiles" if done.returncode == 0 else first_error(done.stderr)


def first_error(text):
    lines = [line for line in text.splitlines() if "error" in line] or text.splitlines()[-1:] or ["failed"]
    return "fails: " + re.sub(r"^\S*/", "", lines[0])[:160].replace("|", "/")


def configure_cmake(command, environment):
    build = FOLDER / "cmake_build"
    shutil.rmtree(build, ignore_errors=True)
    env = {**os.environ, **environment}
    done = run([*command, "-S", ROOT / "tests/package/add_subdirectory", "-B", build, f"-DCOTTENTION_SOURCE={ROOT}",
                "-DCMAKE_CXX_FLAGS=-O0"], env=env)
    if done.returncode == 0:
        done = run([*command, "--build", build], env=env)
    if done.returncode == 0:
        done = run([build / "consumer"])
    return "builds and runs" if done.returncode == 0 else first_error(done.stderr or done.stdout)


def cmake(version):
    folder = from_pypi(f"cmake-{version or 'newest'}", [f"cmake=={version}" if version else "cmake"])
    return [folder / "bin/cmake"], {"PYTHONPATH": str(folder)}


CASES = {
    "g++ 12": (lambda: installed("g++-12"), compile_cpu, "CPU, compared with the reference"),
    "g++, newest of the machine": (newest_gxx, compile_cpu, "CPU, compared with the reference"),
    "clang++ 14": (lambda: installed("clang++-14"), compile_cpu, "CPU, compared with the reference"),
    "clang++ 14, libc++": (lambda: with_libcxx(installed("clang++-14")), compile_cpu, "CPU, compared with the reference"),
    "clang++, Debian's newest": (newest_debian_clang, compile_cpu, "CPU, compared with the reference"),
    "clang++, Debian's newest, libc++": (lambda: with_libcxx(newest_debian_clang()), compile_cpu, "CPU, compared with the reference"),
    "clang++ of ziglang, libc++": (zig, compile_cpu, "CPU, compared with the reference"),
    "nvcc 13.0": (lambda: nvcc("nvcc-13.0", pypi.NVCC), compile_cuda, "CUDA and CPU in one source, sm_80"),
    "nvcc, PyPI's newest": (lambda: nvcc("nvcc-newest", NVCC_PARTS), compile_cuda, "CUDA and CPU in one source, sm_80"),
    "clang++ for CUDA, Debian's newest": (clang_cuda, compile_cuda, "CUDA and CPU in one source, sm_80, CUDA 12.4"),
    "CMake 3.22": (lambda: cmake("3.22.6"), configure_cmake, "a project that uses the library"),
    "CMake, PyPI's newest": (lambda: cmake(None), configure_cmake, "a project that uses the library"),
}


def try_case(name):
    find, check, what = CASES[name]
    started = time.monotonic()
    try:
        command, environment, *libraries = find()
        version = version_of(command, environment)
        started = time.monotonic()
        result = check(command, environment, *libraries)
    except Missing as missing:
        version, result = "", f"not tried: {missing}"
    return Result(name, version, what, result, round(time.monotonic() - started, 1))


def table(rows):
    lines = ["| compiler | version | what | result |", "|---|---|---|---|"]
    lines += [f"| {r.compiler} | {r.version} | {r.what} | {r.result} |" for r in rows]
    return "\n".join(lines)


def main():
    names = sys.argv[2:] or list(CASES)
    FOLDER.mkdir(parents=True, exist_ok=True)
    raw = ROOT / "docs" / "compilers.json"
    tried = {}
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}: ", end="", flush=True)
        tried[name] = try_case(name)
        print(f"{tried[name].version} {tried[name].result} ({tried[name].seconds} s)", flush=True)
    known = {row["compiler"]: Result(**row) for row in json.loads(raw.read_text())} if raw.exists() else {}
    known |= tried
    rows = [known[name] for name in CASES if name in known]
    raw.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1) + "\n")
    (ROOT / "docs" / "compilers.md").write_text(f"""# Compilers that have been tried

`./run compilers` writes this page and [compilers.json](compilers.json). It compiles `{CPU}` (forward, backward and step, run
and compared with the reference) and `{CUDA}` (compiled alone), with warnings as errors on the CPU.

{table(rows)}
""")
    sys.exit(any(row.result.startswith(("fails", "wrong")) for row in rows))


main()
