#!/usr/bin/env python3
"""examples/nvrtc.cpp compiles what it needs, once, and computes it right.

usage: nvrtc_example_check.py TOOLKIT NVRTC ROOT FOLDER COMPILER DRIVER

TOOLKIT is CUDA's, NVRTC a folder with lib*/libnvrtc.so* and include/nvrtc.h. Works in FOLDER. DRIVER is a folder with
the libcuda.so.1 of tests/ptx, which computes what is compiled as PTX for sm_80. Exits with 77 where there is no NVRTC.
"""
import os
import pathlib
import shutil
import subprocess
import sys


class Example:

    def __init__(self, toolkit, nvrtc, root, folder, compiler):
        self.cache, self.toolkit, self.include = folder / "cache", toolkit, folder / "include"
        self.program = folder / "nvrtc"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(root / "include", self.include)
        libraries = {str(found.parent) for found in nvrtc.glob("lib*/libnvrtc.so*")}
        if not libraries or not (nvrtc / "include/nvrtc.h").exists():
            print(f"no NVRTC in {nvrtc}")
            sys.exit(77)
        self.libraries = sorted(libraries)
        subprocess.run([compiler, "-std=c++20", f"-I{root / 'include'}", "-isystem", nvrtc / "include", "-isystem",
                        toolkit / "include", root / "examples/nvrtc.cpp", "-o", self.program, "-ldl"], check=True)

    def start(self, *arguments, driver=None):
        environment = {**os.environ, "XDG_CACHE_HOME": str(self.cache)}
        paths = [str(driver)] if driver else []
        environment["LD_LIBRARY_PATH"] = ":".join([*paths, *self.libraries, os.environ.get("LD_LIBRARY_PATH", "")])
        command = [self.program, self.include, self.toolkit, *arguments]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def files(self):
        return sorted((self.cache / "cottention").iterdir())


def expect(started, what, *texts):
    output = started.communicate()[0]
    missing = [text for text in texts if text not in output]
    if started.returncode != 0 or missing:
        sys.exit(f"{what}: exits with {started.returncode}, without {missing}:\n{output[:4000]}")
    return output


def main():
    *paths, compiler, driver = sys.argv[1:]
    example = Example(*(pathlib.Path(path).absolute() for path in paths), compiler)
    compiled, read, kernel = "compiled by NVRTC", "read from the cache", "bytes of shared memory"
    value = "relative RMS error"  # which decides on the exit status
    odd = ["40", "104", "compute_80"]
    expect(example.start(*odd, driver=driver), "the first run", compiled, "compiled for compute_80", kernel, value)
    expect(example.start(*odd, driver=driver), "the second run", read, kernel, value)
    expect(example.start("40", "24", "compute_80", driver=driver), "other head dimensions", compiled, value)
    expect(example.start("40", "24", "sm_90a"), "another architecture", compiled, "compiled for sm_90a", kernel)
    if len(example.files()) != 3:
        sys.exit(f"three kernels are kept in {example.files()}")

    for file in example.files():
        whole = file.read_bytes()
        file.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    both = [example.start(*odd, driver=driver) for _ in range(2)]  # at the same time
    for started in both:
        expect(started, "a damaged file", compiled, value)
    expect(example.start(*odd, driver=driver), "the file that took its place", read, value)
    if len(example.files()) != 3:
        sys.exit(f"files are left over in {example.files()}")

    with open(example.include / "cottention/tile/normalise.cuh", "a", encoding="utf-8") as header:
        header.write("// changed\n")
    expect(example.start(*odd, driver=driver), "another header", compiled, value)
    print("kernels are compiled once, and compute what the reference does")


main()
