#!/usr/bin/env python3
"""Compiles kernels with nvcc and holds them to registers: no spills, no stack, no wgmma that ptxas serialises, no warnings.

usage: spill_check.py [--rows FILE] [--arch ARCH]... NVCC INCLUDE_DIR SOURCE [DEFINITION...]
       spill_check.py --table FILE...
       spill_check.py --self-test

SOURCE is a program that lists its kernels as tests/cuda_compile/kernels.hpp says; it runs without a GPU. --rows keeps what
was found in FILE, and --table prints such files as one table.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys
import tempfile

ARCHITECTURES = ("sm_80", "sm_90a", "sm_100")
# The most that a block may have on devices of these, which then take another row (docs/tuning.md): what needs more does not
# run there.
MOST_SHARED_BYTES = dict.fromkeys(("sm_86", "sm_89", "sm_120"), 99 * 1024)
ENTRY = re.compile(r"^ptxas info\s*: Compiling entry function '(\S+)' for '(\S+)'$")
STACK = re.compile(r"^\s+(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads$")
REGISTERS = re.compile(r"^ptxas info\s*: Used (\d+) registers")
SERIALIZED = re.compile(r"\((C\d+)\).*wgmma\.mma_async instructions are serialized.*'(\S+)'")
LISTED = ("problem", "tiling", "shared_bytes", "threads", "blocks")


class Fault(Exception):
    """What makes a check fail."""


def demangle(names):
    if not names:
        return {}
    done = subprocess.run(["c++filt"], input="\n".join(names), text=True, capture_output=True, check=True)
    return dict(zip(names, done.stdout.splitlines()))


def kernel_of(entry):
    """K of `void cottention::device::entry<K>(K::Params)`."""
    found = re.match(r"void cottention::device::entry<(.*?) ?>\(\1::Params\)$", entry)
    if not found:
        raise Fault(f"{entry}: not a kernel of device/entry.cuh")
    return found[1]


def short_name(kernel):
    """A kernel's name without its Problem and its Tiling, but with the output that it is for."""
    name = re.sub(r"cottention::(Problem<(?:[^<>]|<[^<>]*>)*>|Tiling\{[^{}]*\})(, )?", "", kernel)
    name = re.sub(r"cottention::kernel::Roles<\(cottention::kernel::Output\)(\d)>(, )?",
                  lambda found: ("o", "dq", "dk", "dv")[int(found[1])] + " ", name)
    return re.sub(r"\(?cottention::(\w+::)*|\)|<>|\W*$", "", name).replace("<", " ")


def parse_report(log):
    """What ptxas says of each entry: {mangled name: {architecture: {registers, stack, spills}}}."""
    found, current = {}, None
    for line in log.splitlines():
        if match := ENTRY.match(line):
            current = found.setdefault(match[1], {}).setdefault(match[2], {})
        elif current is not None and (match := STACK.match(line)) and "stack" not in current:
            current["stack"] = int(match[1])
            current["spills"] = int(match[2]) + int(match[3])
        elif current is not None and (match := REGISTERS.match(line)):
            current["registers"] = int(match[1])
            current = None
    return found


def parse_list(text):
    """What the program says of each kernel: {mangled name: {problem, tiling, ...}}."""
    kernels = {}
    for line in text.splitlines():
        name, *fields = line.split("|")
        if len(fields) != len(LISTED):
            raise Fault(f"the program wrote a line that is no kernel: {line}")
        kernels["_Z" + name] = dict(zip(LISTED, fields))  # a type's name, as c++filt takes it
    return kernels


def rows_of(log, listing, architectures):
    """One row for each kernel, in the order of the list. Raises Fault where report and list do not fit."""
    compiled, listed = parse_report(log), parse_list(listing)
    names = demangle([*compiled, *listed])
    by_name = {names[name]: kernel for name, kernel in listed.items()}
    rows = {}
    for code, mangled in SERIALIZED.findall(log):
        raise Fault(f"{kernel_of(names.get(mangled, mangled))}: ptxas serialises its wgmma instructions ({code})")
    for mangled, report in compiled.items():
        kernel = kernel_of(names[mangled])
        if kernel not in by_name:
            raise Fault(f"{kernel}: compiled, but not among the kernels that the program lists")
        for architecture in architectures:
            if not {"registers", "stack", "spills"} <= report.get(architecture, {}).keys():
                raise Fault(f"{kernel}: ptxas says nothing of it for {architecture}")
        rows[kernel] = {"kernel": short_name(kernel), **by_name[kernel], "report": report}
    for kernel in by_name:
        if kernel not in rows:
            raise Fault(f"{kernel}: listed, but not compiled")
    if not rows:
        raise Fault("no kernel was compiled")
    return [rows[kernel] for kernel in by_name]


def faults_of(rows):
    faults = []
    for row in rows:
        for architecture, report in row["report"].items():
            if int(row["shared_bytes"]) > MOST_SHARED_BYTES.get(architecture, sys.maxsize):
                continue
            if report["spills"] or report["stack"]:
                faults.append(f"{row['kernel']}, {row['problem']}, {row['tiling']}: {report['spills']} bytes of spills and "
                              f"{report['stack']} bytes of stack for {architecture}, with {report['registers']} registers")
    return faults


def table_of(rows):
    """Rows with their registers for each architecture, - where there is no code for it; + marks those that did not suffice."""
    architectures = list(dict.fromkeys(name for row in rows for name in row["report"]))
    lines = [("problem", "kernel", "chunk, warps, stages, columns, blocks", "shared", *architectures)]
    for row in rows:
        registers = [f"{report['registers']}{'+' if report['spills'] or report['stack'] else ''}" if report else "-"
                     for report in (row["report"].get(name) for name in architectures)]
        tiling = ", ".join(re.findall(r"\d+", row["tiling"]))
        lines.append((row["problem"], row["kernel"], tiling, f"{int(row['shared_bytes']):,}", *registers))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [[cell.ljust(width) if i < 3 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))]
            for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in text)


def code_for(architecture):
    return f"-gencode=arch={architecture.replace('sm_', 'compute_')},code={architecture}"


def check(nvcc, include_dir, source, definitions, architectures):
    """Rows of a source."""
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "program"
        command = [nvcc, "-std=c++20", "-I", include_dir, "-Xptxas=-v", "-Werror=all-warnings",
                   *(f"-D{definition}" for definition in definitions), *map(code_for, architectures), source, "-o", str(program)]
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode != 0:
            said = [line for line in done.stdout.splitlines() if not re.match(r"ptxas info|\s+\d+ bytes stack frame", line)]
            raise Fault("\n".join([f"{source} does not compile:", *said]))
        listing = subprocess.run([str(program)], text=True, capture_output=True, check=True).stdout
    return rows_of(done.stdout, listing, architectures)


ENTRY_NAME = "_ZN10cottention6device5entryINS_6kernel4WalkINS_7ProblemINS_8bfloat16EXtlNS_7HeadDimELi64ELi64EEELNS_4MaskE0E" \
             "LNS_5ScaleE1EEEXtlNS_6TilingELi64ELi4ELi2ELi64ELi1ELNS_4ArchE1EEEEEEEvNT_6ParamsE"
SERIALIZED_LINE = "ptxas info    : (C7511) Potential Performance Loss: wgmma.mma_async instructions are serialized due to insufficient " \
                  f"register resources for the wgmma pipeline in the function '{ENTRY_NAME}'\n"
TYPE_NAME = "N10cottention6kernel4WalkINS_7ProblemINS_8bfloat16EXtlNS_7HeadDimELi64ELi64EEELNS_4MaskE0ELNS_5ScaleE1EEE" \
            "XtlNS_6TilingELi64ELi4ELi2ELi64ELi1ELNS_4ArchE1EEEEE"


def report_of(entry=ENTRY_NAME, last="sm_90a", stack=0, stores=0, loads=0):
    """What ptxas writes about one kernel for two architectures; the numbers are those of the last."""
    def about(architecture, *numbers):
        return (f"ptxas info    : Compiling entry function '{entry}' for '{architecture}'\n"
                f"ptxas info    : Function properties for {entry}\n"
                "    {} bytes stack frame, {} bytes spill stores, {} bytes spill loads\n".format(*numbers) +
                "ptxas info    : Used 192 registers, used 1 barriers\n")
    return "ptxas info    : 0 bytes gmem\n" + about("sm_80", 0, 0, 0) + about(last, stack, stores, loads)


def self_test():
    """A report without a fault is accepted, and each fault in it is found."""
    listing = f"{TYPE_NAME}|bf16 64x64 causal by_key|chunk 64, warps 4|4096|128|1\n"
    another = listing.replace("64ELi4ELi2", "32ELi4ELi2")
    cases = {  # what is said -> report and list
        "": (report_of(), listing),
        "24 bytes of spills and 8 bytes of stack for sm_90a, with 192": (report_of(stack=8, stores=16, loads=8), listing),
        "0 bytes of spills and 40 bytes of stack for sm_90a": (report_of(stack=40), listing),
        "not among the kernels that the program lists": (report_of(), another),
        "listed, but not compiled": (report_of(), listing + another),
        "says nothing of it for sm_90a": (report_of(last="sm_100"), listing),
        "not a kernel of device/entry.cuh": (report_of(entry=ENTRY_NAME.replace("5entryI", "5outroI")), listing),
        "ptxas serialises its wgmma instructions (C7511)": (SERIALIZED_LINE + report_of(), listing),
        "no kernel was compiled": ("", ""),
        "a line that is no kernel": (report_of(), "Segmentation fault\n"),
    }
    missed = []
    too_large = listing.replace("4096", str(99 * 1024 + 1))
    for shared, expected in ((listing, 1), (too_large, 0)):
        if len(faults_of(rows_of(report_of(last="sm_86", stack=8), shared, ("sm_80", "sm_86")))) != expected:
            missed.append(f"spills for sm_86 are not {expected} faults of {shared}")
    for expected, (report, names) in cases.items():
        try:
            faults = faults_of(rows_of(report, names, ("sm_80", "sm_90a")))
        except Fault as fault:
            faults = [str(fault)]
        if not expected and faults:
            missed.append(f"a sound report is refused: {faults}")
        if expected and not any(expected in fault for fault in faults):
            missed.append(f"not found: {expected}; reported: {faults}")
    table = table_of(rows_of(report_of(stack=8), listing, ("sm_80", "sm_90a")))
    if table.splitlines()[-1].split() != ["bf16", "64x64", "causal", "by_key", "Walk", "64,", "4", "4,096", "192", "192+"]:
        missed.append(f"the table is wrong:\n{table}")
    fewer = rows_of(report_of(), listing, ("sm_80",)) + rows_of(report_of(last="sm_100"), listing, ("sm_100",))
    if [set(row["report"]) for row in merged(fewer)] != [{"sm_80", "sm_90a", "sm_100"}]:
        missed.append(f"the same kernel of two files is not one row:\n{merged(fewer)}")
    if [line.split()[-3:] for line in table_of(fewer).splitlines()[1:]] != [["192", "192", "-"], ["192", "-", "192"]]:
        missed.append(f"the table of different architectures is wrong:\n{table_of(fewer)}")
    return missed


def read_rows(files):
    """The rows of all files; those that several have, once, for the architectures of all."""
    return merged(row for file in files for row in json.loads(pathlib.Path(file).read_text(encoding="utf-8")))


def merged(rows):
    found = {}
    for row in rows:
        key = tuple(row[name] for name in ("kernel", *LISTED))
        found.setdefault(key, {**row, "report": {}})["report"].update(row["report"])
    return list(found.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", metavar="FILE")
    parser.add_argument("--arch", action="append")
    parser.add_argument("--table", nargs="+", metavar="FILE")
    parser.add_argument("--self-test", action="store_true")
    parser.add_argument("arguments", nargs="*")
    options = parser.parse_args()
    if options.self_test:
        missed = self_test()
        print("\n".join(missed or ["every fault is found"]))
        sys.exit(1 if missed else 0)
    if options.table:
        print(table_of(read_rows(options.table)))
        return
    if len(options.arguments) < 3:
        parser.error("expected NVCC INCLUDE_DIR SOURCE")
    nvcc, include_dir, source, *definitions = options.arguments
    rows = check(nvcc, include_dir, source, definitions, options.arch or ARCHITECTURES)
    if options.rows:
        pathlib.Path(options.rows).write_text(json.dumps(rows), encoding="utf-8")
    print("\n".join([table_of(rows), *faults_of(rows)]))
    sys.exit(1 if faults_of(rows) else 0)


if __name__ == "__main__":
    try:
        main()
    except Fault as fault:
        sys.exit(str(fault))
