#!/usr/bin/env python3
"""Holds the kernels of tests/kernel/budget.hpp to the shares of a multiprocessor that a committed result file has.

usage: budget_check.py instructions PTX_PROGRAM NVCC NVDISASM RESULT
       budget_check.py shared-memory EMULATED_PROGRAM RESULT
       budget_check.py write PTX_PROGRAM EMULATED_PROGRAM NVCC NVDISASM RESULT
       budget_check.py --self-test

Instructions and products are counted in SASS for sm_90a (sass_counts.py), wavefronts of shared memory by the emulator, operands
of wgmma included. The first two forms fail where a share is higher than the committed one by more than 1% of it, where a kernel is
on one side alone, and where SASS cannot be attributed; `write` makes RESULT anew, and sees that the numbers of lines by which SASS
is attributed do not change it. Where NVDISASM is empty, or ptxas is of another release than RESULT's, SASS cannot be compared:
exit status 77. With any ptxas it is a fault where a kernel spills registers or its wgmma instructions are serialised.
"""
import collections
import copy
import json
import pathlib
import re
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "bench" / "report"))
import budget  # noqa: E402
import machine_code  # noqa: E402
import sass_counts  # noqa: E402
import spill_check  # noqa: E402
from sass_counts import Fault  # noqa: E402

TOLERANCE = 0.01  # of a committed share
ARCHITECTURE = "sm_90a"
SKIPPED = 77


def output_of(command, both=False):
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise Fault(f"{command[0]}: exit status {done.returncode}\n{done.stderr}")
    return done.stdout + done.stderr if both else done.stdout


def ptxas_of(nvcc):
    """Beside nvcc: (its path, its release)."""
    ptxas = pathlib.Path(nvcc).resolve().parent / "ptxas"
    return ptxas, re.search(r"V([\d.]+)", output_of([ptxas, "--version"]))[1]


# ---- Counting


def compiled(ptx, ptxas, cubin, *options):
    """What ptxas says of it."""
    source = cubin.with_suffix(".ptx")
    source.write_text(ptx, encoding="utf-8")
    return output_of([ptxas, f"-arch={ARCHITECTURE}", *options, source, "-o", cubin], both=True)


def require_registers(row, log):
    """That they are enough, by what ptxas -v says."""
    if serialized := spill_check.SERIALIZED.search(log):
        raise Fault(f"{row['name']}: ptxas serialises its wgmma instructions ({serialized[1]})")
    report = spill_check.parse_report(log).get(row["entry"], {}).get(ARCHITECTURE, {})
    if not {"registers", "stack", "spills"} <= report.keys():
        raise Fault(f"{row['name']}: ptxas says nothing of its registers")
    if report["stack"] or report["spills"]:
        raise Fault(f"{row['name']}: {report['spills']} bytes of spills and {report['stack']} bytes of stack, with "
                    f"{report['registers']} registers")


def listing_of(row, ptx, ptxas, nvdisasm, folder):
    cubin = folder / "numbered.cubin"
    require_registers(row, compiled(ptx, ptxas, cubin, "-lineinfo", "-v"))
    return output_of([nvdisasm, "-c", "-g", cubin]) if nvdisasm else ""


def require_same_code(entry, ptx, ptxas, folder):
    """That numbers of lines changed nothing of what was compiled last."""
    cubin = folder / "plain.cubin"
    compiled(re.sub(r"^\.(loc|file) .*\n", "", ptx, flags=re.MULTILINE), ptxas, cubin)
    codes = [machine_code.kernels(path.read_bytes())[entry] for path in (cubin, folder / "numbered.cubin")]
    if codes[0] != codes[1]:
        raise Fault(f"{entry}: ptxas makes other code of PTX whose lines are numbered")


def instructions_of(row, text, ptxas, nvdisasm, folder, thorough):
    """A row of the PTX program's with its counts of SASS."""
    opcodes, ptx = sass_counts.number_lines(text, row["entry"])
    listing = listing_of(row, ptx, ptxas, nvdisasm, folder)
    if thorough:
        require_same_code(row["entry"], ptx, ptxas, folder)
    result = {key: row[key] for key in ("name", "chunk", "warps", "bytes", "tokens")}
    result["instructions"], products, differences = [], collections.Counter(), 0
    for group in range(1, len(row["lines"][0])):
        counts = collections.Counter()
        for line in row["lines"]:
            counts[line[0]] += line[group]
        count = sass_counts.count(listing, row["entry"], opcodes, counts)
        result["instructions"].append(sum(count.issued.values()))
        products.update({opcode: n for opcode, n in count.anchors.items() if not opcode.startswith("LDSM")})
        differences += count.differences
    result["products"], result["differences"] = dict(sorted(products.items())), differences
    return result


def for_each_row(program, f):
    """f(row, the text of its module, a folder) of every row of the PTX program's."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        output_of([program, folder])
        counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
        return [f({**row, "tokens": counts["tokens"]}, (folder / row["module"]).read_text(encoding="utf-8"), folder)
                for row in counts["rows"]]


def counted_instructions(program, nvcc, nvdisasm, thorough=False):
    ptxas = ptxas_of(nvcc)[0]
    return for_each_row(program, lambda row, text, folder: instructions_of(row, text, ptxas, nvdisasm, folder, thorough))


def check_registers(program, nvcc):
    ptxas = ptxas_of(nvcc)[0]
    for_each_row(program, lambda row, text, folder: listing_of(row, sass_counts.number_lines(text, row["entry"])[1], ptxas, "", folder))


def counted_shared_memory(program):
    return [json.loads(line) for line in output_of([program]).splitlines()]


def joined(instructions, shared_memory):
    """Rows of both programs as one."""
    if [row["name"] for row in instructions] != [row["name"] for row in shared_memory]:
        raise Fault("the two programs have other kernels")
    return [{**one, "wavefronts": two["wavefronts"], "conflicts": two["conflicts"]}
            for one, two in zip(instructions, shared_memory)]


# ---- Comparing


def text_of(row):
    shares = [budget.shares(row, device) for device in budget.COPY_BYTES_PER_SECOND]
    cells = [f"{limit} " + " / ".join(f"{100 * of[limit]:.1f}" for of in shares) + "%" for limit in budget.clocks(row)]
    return f"{row['name']}: {', '.join(cells)}"


def faults_of(rows, committed):
    """Where counted rows take more than committed ones."""
    faults, known = [], {row["name"]: row for row in committed}
    for name in known.keys() - {row["name"] for row in rows}:
        faults.append(f"{name}: committed, but not counted")
    for row in rows:
        before = known.get(row["name"])
        if before is None:
            faults.append(f"{row['name']}: counted, but not in the result file")
            continue
        for limit, share in budget.shares(row, "H200").items():
            allowed = budget.shares(before, "H200").get(limit, 0)
            if share > (1 + TOLERANCE) * allowed:
                faults.append(f"{row['name']}: {limit} {100 * share:.1f}% of the H200's floor, committed {100 * allowed:.1f}%")
    return faults


def compare(rows, result):
    print(f"shares of the floor, {' / '.join(budget.COPY_BYTES_PER_SECOND)}:")
    for row in rows:
        print(text_of(row))
    faults = faults_of(rows, result["budget"])
    for fault in faults:
        print(f"FAULT {fault}")
    return 1 if faults else 0


def read(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def instructions(program, nvcc, nvdisasm, path):
    result, release, why_not = read(path), ptxas_of(nvcc)[1], ""
    if not nvdisasm:
        why_not = "no nvdisasm: SASS is not counted"
    elif release != result["ptxas"]:
        why_not = f"ptxas is {release}, and {path} is of {result['ptxas']}: SASS is not compared"
    if why_not:
        check_registers(program, nvcc)
        print(why_not)
        return SKIPPED
    return compare(counted_instructions(program, nvcc, nvdisasm), result)


def shared_memory(program, path):
    return compare(counted_shared_memory(program), read(path))


def write(program, emulated, nvcc, nvdisasm, path):
    rows = joined(counted_instructions(program, nvcc, nvdisasm, thorough=True), counted_shared_memory(emulated))
    lines = ",\n".join("  " + json.dumps(row) for row in rows)
    head = f'"architecture": "{ARCHITECTURE}", "ptxas": "{ptxas_of(nvcc)[1]}"'
    pathlib.Path(path).write_text(f'{{{head}, "budget": [\n{lines}\n]}}\n', encoding="utf-8")
    for row in rows:
        print(text_of(row))
    return 0


# ---- Self-test


PTX = """.version 9.0
.visible .entry other(
)
{
 ret;
}
.visible .entry kernel(
 .param .b64 p
)
{
 .reg .b32 %r<9>;
 ld.param.u64 %rd1, [p];
$L_loop:
 .loc 1 3 0
 add.s32 %r1, %r1, 1;
 mma.sync.aligned.m16n8k16 {%f1}, {%r1}, {%r2}, {%f1};
 setp.eq.s32 %p1, %r1, 0;
 @%p1 bra $L_next;
 mul.f32 %f2, %f2, %f2;
 st.global.f32 [%rd1], %f2;
$L_next:
 @%p2 mul.f32 %f3, %f3, %f3;
 @%p3 bra $L_loop;
 ret;
}
"""
SASS = """	.section	.text.kernel,"ax",@progbits
.text.kernel:
	//## File "kernel.ptx", line 12
        /*0000*/                   LDC R1, c[0x0][0x28] ;
.L_1:
	//## File "kernel.ptx", line 15
        /*0010*/                   IADD3 R1, R1, 0x1, RZ ;
	//## File "kernel.ptx", line 16
        /*0020*/                   HMMA.16816.F32.BF16 R4, R4, R8, R4 ;
	//## File "kernel.ptx", line 18
        /*0030*/               @P0 BRA `(.L_2) ;
	//## File "kernel.ptx", line 19
        /*0040*/                   FMUL R2, R2, R2 ;
        /*0050*/                   FSETP.GT.AND P3, PT, R2, RZ, PT ;
        /*0060*/               @P3 BRA `(.L_3) ;
        /*0070*/                   MOV R20, 0x80 ;
        /*0080*/                   CALL.REL.NOINC `(slow) ;
.L_3:
	//## File "kernel.ptx", line 20
        /*0090*/                   STG.E [R4], R2 ;
.L_2:
	//## File "kernel.ptx", line 22
        /*00a0*/              @!P2 FMUL R3, R3, R3 ;
	//## File "kernel.ptx", line 23
        /*00b0*/               @P1 BRA `(.L_1) ;
	//## File "kernel.ptx", line 24
        /*00c0*/                   EXIT ;
	.section	.text.other,"ax",@progbits
        /*0000*/                   EXIT ;
"""
# Two warpgroups: the first runs the loop 64 times, and stores in 16 of them; the second 32 times, and never stores.
LINES = [[12, 0, 0], [15, 64, 32], [16, 64, 32], [17, 64, 32], [18, 64, 32], [19, 16, 0], [20, 16, 0], [22, 64, 32], [23, 64, 32]]


def count_self(sass=SASS, lines=None):
    opcodes, ptx = sass_counts.number_lines(PTX, "kernel")
    if ".loc 1 16 0\n mma.sync" not in ptx or "other" in ptx or ".loc 1 3 0" in ptx:
        raise Fault("lines of PTX are not numbered")
    totals = []
    for group in (1, 2):
        counted = sass_counts.count(sass, "kernel", opcodes, {line[0]: line[group] for line in lines or LINES})
        totals.append((sum(counted.issued.values()), counted.anchors["HMMA.16816.F32.BF16"]))
    return totals


def refuses(sass=SASS, lines=None):
    try:
        count_self(sass, lines)
    except Fault:
        return True
    return False


def self_test():
    row = {"name": "kernel", "chunk": 64, "warps": 8, "bytes": 512, "tokens": 64, "wavefronts": 900, "conflicts": 0,
           "instructions": [4000, 2000], "products": {"HMMA.16816.F32.BF16": 100, "HGMMA.64x64x16.F32.BF16": 40}}

    def spills(log):
        try:
            require_registers({"name": "kernel", "entry": spill_check.ENTRY_NAME}, log)
        except Fault:
            return True
        return False

    def finds(**changed):
        return len(faults_of([{**copy.deepcopy(row), **changed}], [row])) > 0

    checks = {
        "a loop of two warpgroups, a branch, a predicate, a slow path": count_self() == [(5 * 64 + 4 * 16, 64), (5 * 32, 32)],
        "a product in a block that is not executed": refuses(SASS.replace("`(.L_1) ;", "`(.L_2) ;")),
        "a product that ptxas left out": refuses(re.sub(r".*HMMA.*\n", "", SASS)),
        "a product that ptxas made twice": refuses(re.sub(r"(.*HMMA.*\n)", r"\1\1", SASS)),
        "an indirect branch": refuses(SASS.replace("@P0 BRA `(.L_2)", "BRX R4 -0x10")),
        "a branch to nowhere": refuses(SASS.replace("@P0 BRA `(.L_2)", "@P0 BRA `(.L_9)")),
        "lines that do not fit the branches": refuses(lines=[[n, 8 * a if n == 15 else a, b] for n, a, b in LINES]),
        "no code of the kernel": refuses(SASS.replace(".text.kernel", ".text.others")),
        "registers that are enough": not spills(spill_check.report_of()),
        "spills": spills(spill_check.report_of(stores=8)),
        "stack": spills(spill_check.report_of(stack=8)),
        "nothing said of registers": spills(spill_check.report_of(last="sm_100")),
        "serialised products": spills(spill_check.SERIALIZED_LINE + spill_check.report_of()),
        "the same counts": not finds(),
        "counts within the tolerance": not finds(instructions=[4000, 2050]),
        "more instructions": finds(instructions=[4000, 2100]),
        "more wavefronts": finds(wavefronts=910),
        "more products": finds(products={"HMMA.16816.F32.BF16": 103, "HGMMA.64x64x16.F32.BF16": 41}),
        "a kernel that is not committed": finds(name="another"),
    }
    for what, holds in checks.items():
        if not holds:
            print(f"self-test: {what}")
    return 0 if all(checks.values()) else 1


def main():
    commands = {"instructions": (instructions, 4), "shared-memory": (shared_memory, 2), "write": (write, 5),
                "--self-test": (self_test, 0)}
    what, *arguments = sys.argv[1:] or [""]
    if what not in commands or len(arguments) != commands[what][1]:
        sys.exit(__doc__)
    try:
        return commands[what][0](*arguments)
    except Fault as fault:
        print(fault)
        return 1


if __name__ == "__main__":
    sys.exit(main())
