#!/usr/bin/env python3
"""What is taken from PyPI, of which release: installed once, below build/.

usage: pypi.py nvcc             prints the nvcc to use: that of the PATH where it is new enough, or else PyPI's
       pypi.py nvdisasm         prints PyPI's nvdisasm, which takes SASS apart
       pypi.py matplotlib       prints the folder that has it, for PYTHONPATH
       pypi.py torch            prints the interpreter of an environment with the newest PyTorch, of several GB, for ./run bench
       pypi.py python           prints that of one that has that PyTorch and what examples/python and its tests take beside it
       pypi.py peers FOLDER     puts flash-linear-attention into FOLDER, for whatever Python a machine with a GPU has

Exit status 1 where it is not to be had, 3 where PyPI is not reached.
"""
import contextlib
import fcntl
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import venv

BUILD = pathlib.Path(__file__).resolve().parents[2] / "build"
OLDEST_NVCC = "13.0"
# What of NVIDIA's packages makes up nvcc, all of one release.
NVCC = ["nvidia-cuda-nvcc==13.0.88", "nvidia-cuda-crt==13.0.88", "nvidia-nvvm==13.0.88", "nvidia-cuda-cccl==13.0.85",
        "nvidia-cuda-runtime==13.0.96"]
# Compiles kernels at run time; for nvcc's that come without.
NVRTC = ["nvidia-cuda-nvrtc==13.0.88"]
# What GPUs talk to each other by; for machines that have none. It is compiled with and linked, but not run.
NCCL = ["nvidia-nccl-cu13==2.30.7"]
# Takes apart what ptxas of NVCC's release makes. PyPI has none of that release, and later ones read it.
NVDISASM = ["nvidia-cuda-nvdisasm==13.2.51"]
# Peers on GPUs, pure Python: timed there by the PyTorch of the machine. bench/peers/gpu
PEERS = ["fla-core==0.6.0", "flash-linear-attention==0.6.0", "einops==0.8.2"]
# What the recipe for conan is tested with.
CONAN = ["conan==2.34.0"]
# Of one version, since others draw the same plots with other bytes.
MATPLOTLIB = ["matplotlib==3.10.8"]
# What examples/python is tested with, beside the newest PyTorch.
PYTHON = ["pytest==9.2.0", "pytest-xdist==3.8.0", "transformers==5.24.0", *MATPLOTLIB]


class Missing(Exception):
    """What is not to be had, in pip's words."""


class Unreachable(Missing):
    """PyPI did not answer."""


def say(text):
    print(f"==> {text}", file=sys.stderr, flush=True)


def last_line(log):
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def watch(process, log):
    """Waits for a process, and says every ten seconds what it wrote last."""
    start, said = time.monotonic(), ""
    while True:
        try:
            return process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            line = last_line(log)
            elapsed = int(time.monotonic() - start)
            say(f"{elapsed // 60}:{elapsed % 60:02d} {line if line != said else '...'}"[:120])
            said = line


@contextlib.contextmanager
def alone(folder):
    """One process at a time makes this folder; the others wait, and find it made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(folder.name + ".lock"), "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install(packages, *options, folder=None):
    """The folder with these packages, unless it is given that of the first one's name in build/."""
    folder = folder or BUILD / packages[0].replace("==", "-")
    if not folder.is_dir():
        with alone(folder):
            if not folder.is_dir():
                download(packages, options, folder)
    return folder


def download(packages, options, folder):
    name = packages[0].partition("==")[0]
    say(f"installing {', '.join(package.partition('==')[0] for package in packages)} from PyPI")
    new, log = folder.with_name(folder.name + ".new"), BUILD / f"{name}.log"
    shutil.rmtree(new, ignore_errors=True)
    BUILD.mkdir(exist_ok=True)
    with open(log, "w", encoding="utf-8") as file:
        # Large packages may not fit into the folder of temporary files, and need not be copied from it.
        process = subprocess.Popen([sys.executable, "-m", "pip", "install", "--no-compile", "--disable-pip-version-check",
                                    "--retries", "2", *options, "--target", new, *packages],
                                   stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**os.environ, "TMPDIR": str(BUILD)})
        status = watch(process, log)
    if status != 0:
        shutil.rmtree(new, ignore_errors=True)
        text = log.read_text(encoding="utf-8")
        kind = Unreachable if "Retrying (" in text else Missing
        raise kind("\n".join(text.splitlines()[-5:]))
    new.rename(folder)


def number(version):
    return [int(part) for part in version.split(".")]


def nvcc():
    found = shutil.which("nvcc")
    if found:
        said = subprocess.run([found, "--version"], capture_output=True, text=True).stdout
        release = re.search(r"release ([\d.]+),", said)
        if release and number(release[1]) >= number(OLDEST_NVCC):
            return pathlib.Path(found)
    try:
        root = install(NVCC, "--no-deps", folder=BUILD / f"nvcc-{OLDEST_NVCC}") / "nvidia/cu13"
    except Missing as missing:
        raise Missing(f"{missing}\nno nvcc of version {OLDEST_NVCC} or newer is on the PATH") from missing
    if not (root / "lib64").exists():
        (root / "lib64").symlink_to("lib")  # where nvcc and CMake look
    return root / "bin/nvcc"


def nvrtc(compiler):
    """The folder of NVRTC: that of this nvcc, or one from PyPI."""
    toolkit = compiler.resolve().parent.parent
    if (toolkit / "include/nvrtc.h").exists() and any(toolkit.glob("lib*/libnvrtc.so*")):
        return toolkit
    return install(NVRTC) / "nvidia/cu13"


def nccl(compiler):
    """The folder of NCCL: that of this nvcc, or one from PyPI."""
    toolkit = compiler.resolve().parent.parent
    if (toolkit / "include/nccl.h").exists() and any(toolkit.glob("lib*/libnccl.so*")):
        return toolkit
    return install(NCCL, "--no-deps") / "nvidia/nccl"


def nvdisasm():
    return install(NVDISASM, "--no-deps") / "nvidia/cu13/bin/nvdisasm"


def environment(folder, packages):
    """An environment with these packages, and the folder where they are. It is made once, and anew where it has been removed or
    is of another Python."""
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    with alone(folder):
        if not any(site.glob("*.dist-info")):
            venv.create(folder, clear=True)
            site.rmdir()  # until it is complete
            install(packages, folder=site)
    return site


def torch():
    """An environment with the newest PyTorch that PyPI has for this Python and processor."""
    folder = BUILD / "torch"
    try:
        environment(folder, ["torch"])
    except Unreachable as unreachable:
        raise Unreachable("PyPI is not reached from here, so there is no current PyTorch (build/torch.log).") from unreachable
    return folder / "bin/python"


def python():
    """One that has it, too, and what examples/python takes beside it."""
    interpreter = torch()
    try:
        site = environment(BUILD / "python", PYTHON)
    except Unreachable as unreachable:
        raise Unreachable(f"PyPI is not reached from here, so what examples/python takes is not to be had: {unreachable}") from unreachable
    packages = interpreter.parents[1] / site.relative_to(BUILD / "python")
    (site / "torch.pth").write_text(f"{packages}\n", encoding="utf-8")
    return BUILD / "python/bin/python"


def main():
    what, *arguments = sys.argv[1:] or [""]
    try:
        if what == "nvcc":
            print(nvcc())
        elif what == "nvdisasm":
            print(nvdisasm())
        elif what == "matplotlib":
            print(install(MATPLOTLIB))
        elif what == "torch":
            print(torch())
        elif what == "python":
            print(python())
        elif what == "peers":
            install(PEERS, "--no-deps", "--only-binary=:all:", "--python-version", "3.12", folder=pathlib.Path(arguments[0]))
        else:
            sys.exit(__doc__)
    except Unreachable as unreachable:
        print(unreachable, file=sys.stderr)
        sys.exit(3)
    except Missing as missing:
        sys.exit(str(missing))


if __name__ == "__main__":
    main()
