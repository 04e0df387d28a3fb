"""Shares of a multiprocessor that a kernel takes in the time in which memory moves its bytes, from the counts of a result file
that tests/checks/budget_check.py wrote. Nothing here is timed."""

# 132 multiprocessors at 1.755 GHz, and bytes a second of copies.
CLOCKS_PER_SECOND, MULTIPROCESSORS = 1.755e9, 132
COPY_BYTES_PER_SECOND = {"H200": 4.3e12, "H100": 3.0e12}
# Of a multiprocessor: each of its schedulers issues one instruction in a clock; shared memory has one wavefront of 128 bytes.
SCHEDULERS = 4
# A tensor core multiplies 16x8x16 of 16 bits, or 16x8x8 of tf32, in 4 clocks, of which mma.sync reaches 63% on compute
# capability 9.0 (arXiv 2402.13499); four multiply 64xNx16 for wgmma in N / 2.
MMA_SYNC_OF_PEAK = 0.63
LIMITS = ("issue", "shared memory", "tensor cores")


def product_clocks(opcode):
    """Of a multiprocessor's clocks, those of one warp's part of a product."""
    name, shape = opcode.split(".")[:2]
    if name == "HGMMA":
        rows, columns, depth = (int(x) for x in shape.split("x"))
        if (rows, depth) == (64, 16):
            return columns / 2 / 4
    if name == "HMMA" and shape == "16816":
        return 4 / MMA_SYNC_OF_PEAK / SCHEDULERS
    if name == "HMMA" and shape == "1688":
        return (4 if "TF32" in opcode else 2) / MMA_SYNC_OF_PEAK / SCHEDULERS
    raise ValueError(f"no clocks are known for {opcode}")


def clocks(row):
    """{limit: clocks of a multiprocessor for the tokens of a row}, of what was counted."""
    found = {}
    if "instructions" in row:
        found["issue"] = sum(row["instructions"]) / SCHEDULERS
        found["tensor cores"] = sum(n * product_clocks(opcode) for opcode, n in row["products"].items())
    if "wavefronts" in row:
        found["shared memory"] = row["wavefronts"]
    return found


def floor(row, device):
    """Clocks in which memory moves the bytes of its tokens to or from one multiprocessor."""
    return row["tokens"] * row["bytes"] * MULTIPROCESSORS * CLOCKS_PER_SECOND / COPY_BYTES_PER_SECOND[device]


def shares(row, device):
    return {limit: count / floor(row, device) for limit, count in clocks(row).items()}


def per_chunk(row):
    """Instructions that a warp executes for a chunk, of each warpgroup."""
    chunks = row["tokens"] / row["chunk"]
    warps = [min(4, row["warps"] - 4 * group) for group in range(len(row["instructions"]))]
    return [n / chunks / w for n, w in zip(row["instructions"], warps)]
