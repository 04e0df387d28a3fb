#!/usr/bin/env python3
"""Kernels compile under NVRTC without a warning, and headers for the host say that they do not.

usage: nvrtc_check.py TOOLKIT NVRTC INCLUDE_DIR

TOOLKIT is CUDA's, with include/cccl, and NVRTC a folder with lib*/libnvrtc.so*. Exits with 77 where there is no NVRTC.
"""
import ctypes
import glob
import pathlib
import sys

KERNEL = """
#include <cottention/device/entry.cuh>
#include <cottention/kernel/step.cuh>
#include <cottention/tuning/step.cuh>
using namespace cottention;
using P = Problem<bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
using Kernel = kernel::Step<P, tuning::step_tilings<P>.list[0]>;
"""
HEADERS = ["sm80/walk.cuh", "sm80/reduce.cuh", "sm80/apply.cuh", "kernel/prefix.cuh", "sm80/project.cuh", "sm80/gradient.cuh",
           "sm80/gradient_apply.cuh", "kernel/scale_grad.cuh", "kernel/count.cuh", "kernel/step.cuh"]
HOST_ONLY = ["cottention.cuh", "forward.cuh", "step.cuh", "cpu.hpp", "reference.hpp", "status.hpp", "dispatch.hpp", "device/launch.cuh"]


class Nvrtc:

    def __init__(self, toolkit, nvrtc, include_dir):
        found = sorted(glob.glob(f"{nvrtc}/lib*/libnvrtc.so*"))
        if not found:
            print(f"no NVRTC in {nvrtc}")
            sys.exit(77)
        self.library = ctypes.CDLL(found[-1])
        self.options = ["-std=c++20", "-arch=sm_90a", "-default-device", f"-I{include_dir}/cottention/rtc", f"-I{include_dir}",
                        f"-I{toolkit}/include/cccl", f"-I{toolkit}/include"]

    def compile(self, source, name=None):
        """(whether it compiles, log, PTX)"""
        program = ctypes.c_void_p()
        n = self.library
        assert n.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None) == 0
        if name:
            assert n.nvrtcAddNameExpression(program, name.encode()) == 0
        argv = (ctypes.c_char_p * len(self.options))(*[o.encode() for o in self.options])
        result = n.nvrtcCompileProgram(program, len(self.options), argv)
        log = self._text(program, "ProgramLog")
        return result == 0, log, self._text(program, "PTX") if result == 0 else ""

    def _text(self, program, what):
        size = ctypes.c_size_t()
        getattr(self.library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(max(size.value, 1))
        getattr(self.library, f"nvrtcGet{what}")(program, text)
        return text.value.decode()


def main():
    toolkit, folder, include_dir = (pathlib.Path(path) for path in sys.argv[1:])
    nvrtc = Nvrtc(toolkit, folder, include_dir)
    failed = []
    headers = "".join(f"#include <cottention/{header}>\n" for header in HEADERS)
    good, log, _ = nvrtc.compile(headers)
    if not good or log.strip("\0\n "):
        failed.append(f"kernel headers:\n{log[:4000]}")
    good, log, ptx = nvrtc.compile(KERNEL, "&cottention::device::entry<Kernel>")
    if not good or log.strip("\0\n ") or ".entry" not in ptx:
        failed.append(f"a kernel:\n{log[:4000]}")
    for header in HOST_ONLY:
        good, log, _ = nvrtc.compile(f"#include <cottention/{header}>\n")
        if good or "this header is for the host" not in log or len(log.splitlines()) > 12:
            failed.append(f"{header} is not refused in a few lines:\n{log[:2000]}")
    print("\n".join(failed) if failed else f"kernels compile, and {len(HOST_ONLY)} headers for the host are refused")
    sys.exit(1 if failed else 0)


main()
