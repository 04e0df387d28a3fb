"""The documentation's tables on GPUs: what was measured, once there is a result file, and what arithmetic says until then."""
import re
import sys

import budget
import sources
from sources import ROOT

sys.path.insert(0, str(ROOT / "bench" / "peers" / "gpu"))
import rows as gpu_rows  # noqa: E402

ASSUMED_BYTES_PER_SECOND = 3.0e12  # an assumption of the table of floors, not a measurement
# Of one multiprocessor of compute capability 9.0: CUDA C++ Programming Guide, table of technical specifications. Each block
# takes 1 KiB of shared memory for the system; registers are given to warps in units of 256.
REGISTERS, SHARED_KIB, WARPS = 65536, 228, 64


def table(header, lines):
    rows = [header, ["---"] + ["---:"] * (len(header) - 1), *lines]
    return "\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def floors(page):
    lines = []
    for row in gpu_rows.rows_of("standard"):
        if "/bf16/" not in row:
            continue
        count = gpu_rows.floor_bytes(row)
        lines.append([f"`{row}`", f"{count / 2**20:,.1f}", f"{1e6 * count / ASSUMED_BYTES_PER_SECOND:,.1f}"])
    return table(["row", "MiB that must move", "microseconds at 3.0 TB/s (arithmetic)"], lines)


def tuning_rows():
    """elements, dim, chunk, warps, columns, stages, registers, KiB of each row of the table in docs/tuning.md."""
    lines = (ROOT / "docs" / "tuning.md").read_text(encoding="utf-8").splitlines()
    rows, elements, dim = [], "", ""
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 8 or not re.fullmatch(r"\d+ KiB", cells[7]):
            continue
        elements, dim = cells[0] or elements, cells[1] or dim
        rows.append([elements, dim, *cells[2:7], int(cells[7].split()[0])])
    return rows


def occupancy(page):
    lines = []
    for elements, dim, chunk, warps, columns, stages, registers, shared in tuning_rows():
        warps, rounded = int(warps), -(-int(registers) // 8) * 8
        by_registers = REGISTERS // (rounded * 32 * warps)
        by_shared = SHARED_KIB // (shared + 1)
        blocks = min(by_registers, by_shared, WARPS // warps)
        limit = "registers" if by_registers < by_shared else "shared memory" if by_shared < by_registers else "both"
        lines.append([f"{elements}, {dim}", f"{chunk} x {columns}", f"{registers}", f"{shared} KiB", str(by_registers), str(by_shared),
                      f"{blocks} ({blocks * warps} warps)", limit])
    return table(["elements, dim", "chunk x columns", "registers", "shared memory", "blocks by registers", "by shared memory",
                  "blocks", "limited by"], lines)


# Of one multiprocessor: instructions that its four schedulers issue and bytes of shared memory in a clock, the bytes of an
# ldmatrix of four matrices, and a scheduler's clocks for an mma.sync of fp16, bf16 or tf32. An mma takes four clocks at the
# tensor cores' peak, of which mma.sync reaches 63% on compute capability 9.0: arXiv 2402.13499.
SCHEDULERS, SHARED_BYTES_PER_CLOCK, LDMATRIX_BYTES, MMA_CLOCKS = 4, 128, 512, 4 / 0.63
H200_OVER_H100 = 4.3 / 3.0  # of the bandwidth for copies, at the same clock


def instruction_rows():
    """problem, kernel, chunk, warps, {column: instructions of a warp for a chunk}, clocks of the chunk at 3.0 TB/s."""
    lines = (sources.RESULTS / sources.INSTRUCTIONS).read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("problem "))
    rows = []
    for line in lines[start + 1:]:
        problem, rest = re.fullmatch(r"(.*?) {2,}(.*)", line).groups()
        kernel, *cells = rest.split()
        cells = dict(zip(lines[start].split()[2:], cells))
        rows.append((problem, kernel, cells))
    return rows


def limits(page):
    lines = []
    for problem, kernel, cells in instruction_rows():
        count = {name: float(cells[name]) for name in ("instructions", "mma", "ldmatrix", "warps", "clocks")}
        warps = count["warps"]
        clocks = (count["instructions"] * warps / SCHEDULERS, count["ldmatrix"] * warps * LDMATRIX_BYTES / SHARED_BYTES_PER_CLOCK,
                  count["mma"] * warps / SCHEDULERS * MMA_CLOCKS)
        shares = [x / count["clocks"] for x in clocks]
        shown = [f"{100 * x:.0f} / {100 * x * H200_OVER_H100:.0f}%" if x > 0 else "not counted" for x in shares]
        lines.append([f"{problem}, `{kernel}`", f"{cells['chunk']} x {cells['warps']}", *shown])
    return table(["problem, kernel", "chunk x warps", "issue", "shared memory, ldmatrix alone", "tensor cores"], lines)


def budget_shares(page):
    lines = []
    for row in sources.load(sources.BUDGET)["budget"]:
        shares = {device: budget.shares(row, device) for device in budget.COPY_BYTES_PER_SECOND}
        largest = max(budget.LIMITS, key=lambda limit: shares["H200"][limit])
        cells = []
        for limit in budget.LIMITS:
            cell = " / ".join(f"{100 * of[limit]:.0f}" for of in shares.values()) + "%"
            cells.append(f"**{cell}**" if limit == largest else cell)
        lines.append([row["name"], f"{row['chunk']} x {row['warps']}",
                      ", ".join(f"{n:,.0f}" for n in budget.per_chunk(row)), *cells])
    return table(["kernel", "chunk x warps", "SASS a warp and chunk, of each warpgroup", *budget.LIMITS], lines)


def rows_of(results):
    """{row: {variant: row}} of ours and of the peers', those that were measured."""
    found = {}
    for part in ("bench", "peers"):
        for row in (results.get(part) or {}).get("rows", []):
            if "microseconds" in row:
                found.setdefault(row["row"], {})[row["variant"]] = row
    return found


FAMILIES = {"flash-linear-attention": "fla.", "torch, softmax": "torch.sdpa.", "authors' formulas": "torch."}


def best(variants, family):
    """The fastest of the variants of a family; (name without that of the family, row) or None."""
    prefix = FAMILIES[family]
    family = [(row["microseconds"], name) for name, row in variants.items()
              if name.startswith(prefix) and (prefix != "torch." or not name.startswith("torch.sdpa."))]
    if not family:
        return None
    name = min(family)[1]
    return name.removeprefix(prefix), variants[name]


def mebibytes(row):
    """Memory that a call takes beside its inputs."""
    return "" if row.get("peak_bytes") is None else f"{row['peak_bytes'] / 2**20:,.1f}"


def own_cells(row):
    cells = [f"{row['microseconds']:,.1f}", f"{row['floor']:,.1f}", f"{100 * row['fraction_of_floor']:.0f}%"]
    for key, unit in (("tokens_per_second", 1e6), ("bytes_per_second", 1e12), ("flop_per_second", 1e12)):
        cells.append(f"{row[key] / unit:,.2f}" if key in row else "")
    return [*cells, mebibytes(row)]


def table_of_rows(results):
    """Every row of ours beside the fastest of each family of peers; empty where there is none."""
    header = ["row", "cottention, us", "floor, us", "of the floor", "million tokens/s", "TB/s", "TFLOP/s", "MiB"]
    for family in FAMILIES:
        header += [f"{family}, us", "error", "MiB"]
    lines = []
    for name, variants in rows_of(results).items():
        if "default" not in variants:
            continue
        line = [f"`{name}`", *own_cells(variants["default"])]
        for family in FAMILIES:
            variant, row = best(variants, family) or ("", None)
            line += ["", "", ""] if row is None else [f"{row['microseconds']:,.1f} ({variant})",
                                                      f"{row['error']:.1e}" if row.get("error") is not None else "", mebibytes(row)]
        lines.append(line)
    return table(header, lines) if lines else ""


def absent(results):
    """What did not run, ours or a peer's, by reason."""
    reasons = {}
    for part in ("bench", "peers"):
        for row in (results.get(part) or {}).get("rows", []):
            reason = row.get("skipped") or row.get("failed")
            if reason:
                reasons.setdefault((row["variant"], reason), []).append(row["row"])
    return "".join(f"- `{variant}` did not run at {len(rows)} rows: {reason}\n" for (variant, reason), rows in reasons.items())


def shown(page, name, otherwise, plot=""):
    """A result file as a table; `otherwise` where there is no file."""
    if name is None:
        return f"\n{otherwise}\n"
    results = sources.load(name)
    copies = (results.get("bench") or {}).get("copy_bytes_per_second") or {}
    said = (f"\n{results['machine']['name']}, driver {results['driver']}, copies {max(copies.values(), default=0) / 1e12:.2f} TB/s; "
            f"{sources.link(name, page)}.\n")
    return said + table_of_rows(results) + plot + "\n" + absent(results)


def measured(page, name=None):
    name = name or sources.GPU
    plot = "\n![Fractions of the floor on a GPU](figures/gpu.svg)\n" if name == sources.GPU else ""
    return shown(page, name, "No result file of a GPU has been committed: nothing here has been timed on one.", plot)


def swept(page, name=None):
    return shown(page, name or sources.GPU_SWEEP, "No result file of a sweep on a GPU has been committed.")


def authors(page, name=None):
    return shown(page, name or sources.GPU_AUTHORS, "No result file of the authors' sizes on a GPU has been committed.")
