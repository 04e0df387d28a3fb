"""From the results of a run to its table, its ratios and its goals."""
import re
import statistics

SHAPES = {"A": (1, 12, 512, 64), "B": (1, 16, 1024, 64), "C": (1, 16, 4096, 64), "D": (1, 16, 16384, 64),
          "E": (2, 8, 2048, 128), "long": (1, 1, 131072, 64)}  # batch, heads, length, dim
RATES = ("useful_flop", "chunk_free_flop", "tokens", "bytes", "flop")  # counters that Google Benchmark gives per second
FORMS = {"causal": ("quadratic", "recurrent", "chunked", "softmax"), "bidirectional": ("bidirectional", "bidirectional_softmax")}
PEER_COLUMNS = ("quadratic", "bidirectional", "recurrent", "chunked", "softmax", "step")
ELEMENT_TOLERANCE = {"fp64": 1e-5, "fp32": 1e-5, "fp16": 5e-3, "bf16": 2e-2}  # of witnesses, against an fp32 peer
BUSY = 0.05  # a machine is idle enough when a loop on one core waits for no more than this part of the time
RSS_SLACK = 256 * 1024  # the kernel counts resident pages in batches per thread


SOFTMAX = ("Softmax is another function, softmax(q k^T / sqrt(dim)) v by PyTorch's scaled_dot_product_attention: what most models run.")


def median(passes):
    return statistics.median([seconds for one in passes for seconds in one])


def is_spelled(shape):
    return re.fullmatch(r"\d+x\d+x\d+x\d+", shape) is not None


def size_of(shape):
    """batch, heads, length and dim of a shape, by its name or spelled as 1x16x4096x64."""
    return tuple(int(n) for n in shape.split("x")) if is_spelled(shape) else SHAPES[shape]


def split(name):
    """call, shape, mask, element, threads of a row of attention or decoding; None for others. The call is what peers do
    too: a sequence in pieces or with its heads first is a forward pass."""
    parts = name.split("/")
    if parts[0] == "step":
        return parts[0], parts[1], None, parts[2], int(parts[3].split(":")[1])
    call = re.fullmatch(r"(forward|backward|forward_backward)(_packed)?|(forward)_bhsd|(prefill)_\d+", parts[0])
    if call is None:
        return None
    return ("forward" if call[3] or call[4] else parts[0], *parts[1:4], int(parts[4].split(":")[1]))


def peak(results, name, counter):
    """The highest rate of a row of machine.cpp over the passes of the run."""
    row = results["rows"].get(name)
    if not row or not row["passes"]:
        return None
    return row["counters"][counter] / min(statistics.median(one) for one in row["passes"])


def fraction_of_peak(results, name, row):
    """(fraction, of what) for a row."""
    call, _, _, element, threads = split(name)
    if call == "step":
        ceiling, counter, what = peak(results, f"machine/triad/threads:{threads}", "bytes"), "bytes", "triad"
    else:
        kind = "fp64" if element == "fp64" else "fp32"
        ceiling, counter, what = peak(results, f"machine/fma/{kind}/threads:{threads}", "flop"), "useful_flop", "FMA"
    return (row["counters"][counter] / row["median"] / ceiling, what) if ceiling else (None, what)


def floor(results, name, row):
    """(seconds, what sets them): the longer of the time for the useful operations at the FMA peak and the time for the bytes
    at the bandwidth of memory, both measured in the same run: triad's, and for decoding that of an update in place.
    (None, None) without those, and where states stay in the cache from step to step."""
    call, _, _, element, threads = split(name)
    if call == "step" and row["counters"].get("pools", 2) < 2:
        return None, None
    kind = "fp64" if element == "fp64" else "fp32"
    memory = "update" if call == "step" else "triad"
    ceilings = {"FMA": (peak(results, f"machine/fma/{kind}/threads:{threads}", "flop"), "useful_flop"),
                "memory": (peak(results, f"machine/{memory}/threads:{threads}", "bytes"), "bytes")}
    times = {what: row["counters"][counter] / rate for what, (rate, counter) in ceilings.items()
             if rate and counter in row["counters"]}
    what = max(times, key=times.get, default=None)
    return (times[what], what) if len(times) == len(ceilings) else (None, None)


def peers_of(results, name):
    """{form: result} of the peers that do what the row does: same pass, shape, mask and precision, as many threads. Softmax is
    another function, and called so with any mask."""
    call, shape, mask, element, threads = split(name)
    if threads != results["threads"] or element not in ("fp32", "bf16"):
        return {}
    end = "" if element == "fp32" else f"/{element}"
    if call == "step":
        found = {"step": results["peers"].get(f"step/{shape}{end}")}
    else:
        found = {form.removeprefix("bidirectional_"): results["peers"].get(f"{form}/{call}/{shape}{end}") for form in FORMS[mask]}
    return {form: peer for form, peer in found.items() if peer and "seconds" in peer}


def faster_peers(results):
    """(number of comparisons, [(row, form, how many times as fast)]) of rows in which a peer takes less time than we do."""
    compared, faster = 0, []
    for name, row in results["rows"].items():
        if split(name) is None or "median" not in row:
            continue
        for form, peer in peers_of(results, name).items():
            compared += 1
            if peer["median"] < row["median"]:
                faster.append((name, form, row["median"] / peer["median"]))
    return compared, faster


def compare_witnesses(results, name, row):
    """Whether our outputs and the peers' agree: (number of comparisons, list of disagreements)."""
    call, shape, mask, element, _ = split(name)
    if call == "step":
        return 0, []
    pass_name = "forward" if call == "forward" else "forward_backward"
    compared, wrong = 0, []
    # A row of any element is held against fp32 peers, and one of bf16 against those of bf16 too.
    named = [(form, f"{form}/{pass_name}/{shape}{end}") for form in FORMS[mask] if not form.endswith("softmax")
             for end in ("", "/bf16")[:1 + (element == "bf16")]]
    for form, peer in named:
        witnesses = results["peers"].get(peer, {}).get("witness", {})
        for output, theirs in witnesses.items():
            mine = row["counters"].get(f"witness_{output}")
            if mine is None:
                continue
            compared += 1
            difference = abs(mine - theirs["sum"]) / theirs["magnitude"]
            if not difference <= ELEMENT_TOLERANCE[element]:
                wrong.append(f"{name}: {output} differs from PyTorch's {form} form by {difference:.1e}")
    return compared, wrong


def summarise(results):
    """Adds medians, fractions, ratios, goals and disagreements to the results."""
    results["disagreements"], results["comparisons"] = [], 0
    for peer in results["peers"].values():
        if "seconds" in peer:
            peer["median"] = statistics.median(peer["seconds"])
    for row in results["rows"].values():
        if row["passes"]:
            row["median"] = median(row["passes"])
            if len(row["passes"]) > 1:
                ends = [statistics.median(one) for one in row["passes"]]
                row["drift"] = max(ends) / min(ends) - 1
    for name, row in results["rows"].items():
        if split(name) is None or "median" not in row:
            continue
        row["fraction_of_peak"], row["peak"] = fraction_of_peak(results, name, row)
        row["floor_seconds"], row["bound"] = floor(results, name, row)
        row["fraction_of_floor"] = row["floor_seconds"] / row["median"] if row["floor_seconds"] else None
        row["ratios"] = {form: peer["median"] / row["median"] for form, peer in peers_of(results, name).items()}
        compared, wrong = compare_witnesses(results, name, row)
        results["comparisons"] += compared
        results["disagreements"] += wrong
    results["busy"] = busy_share(results)
    results["goals"] = goals(results)


def busy_share(results):
    """How much of the time a loop on one core had to wait for other processes."""
    shares = [share for name, row in results["rows"].items() if name.startswith("machine/fma/") and
              name.endswith("/threads:1") for share in row.get("cpu_share", [])]
    return max(0.0, 1 - statistics.mean(shares)) if shares else 0.0


def goals(results):
    """[{goal, wanted, measured, met}]; measured is None where the run lacks a row, and met there and for speeds on a
    machine that was too busy to tell."""
    threads = results["threads"]
    rows = results["rows"]

    def row(name, count=threads):
        found = rows.get(f"{name}/threads:{count}", {})
        return found if "median" in found else None

    def ratio(a, b):
        return a["median"] / b["median"] if a and b else None

    forward, both = row("forward/C/causal/fp32"), row("forward_backward/C/causal/fp32")
    step = row("step/256/fp32")
    listed = []

    def add(goal, measured, wanted, at_least):
        judged = measured is not None and results["busy"] <= BUSY
        met = bool(measured >= wanted if at_least else measured <= wanted) if judged else None
        listed.append({"goal": goal, "measured": measured, "wanted": wanted, "at_least": at_least, "met": met})

    heads_first = row("forward_bhsd/C/causal/fp32")
    add("forward at C, [batch, heads, length, dim]: useful FLOPs as a fraction of FMA peak",
        heads_first and heads_first["fraction_of_peak"], 0.60, True)
    add("forward at C, [batch, length, heads, dim]: useful FLOPs as a fraction of FMA peak",
        forward and forward["fraction_of_peak"], 0.60, True)
    add("forward + backward at C, in forwards", ratio(both, forward), 6.5, False)
    compared, faster = faster_peers(results)
    add("comparisons in which a peer is faster, softmax included", len(faster) if compared else None, 0, False)
    add(f"1 head, 131,072 tokens: times as fast with {threads} threads as with 1",
        ratio(row("forward/long/causal/fp32", 1), row("forward/long/causal/fp32")) if threads > 1 else None, 1.7, True)
    add("bf16 I/O at C: time of the forward as a multiple of fp32's", ratio(row("forward/C/causal/bf16"), forward), 1.0,
        False)
    add("step, batch 256: bytes as a fraction of triad bandwidth", step and step["fraction_of_peak"], 0.60, True)
    for call in ("forward", "backward"):
        for heads in (1, 16):
            add(f"{call}, {heads} head{'s' if heads > 1 else ''}: bytes beyond inputs and outputs grow from 1,024 to "
                "131,072 tokens by", memory_growth(rows, call, heads, threads), 0, False)
            listed[-1]["met"] = None if listed[-1]["measured"] is None else listed[-1]["measured"] == 0
    return listed


def memory_growth(rows, call, heads, threads):
    """Growth of the workspace and, where it is more than its counting error, of the memory taken besides."""
    ends = [rows.get(f"memory/{call}/heads:{heads}/tokens:{tokens}/threads:{threads}", {}) for tokens in (1024, 131072)]
    if not all(end.get("passes") for end in ends):
        return None
    workspace, resident = (ends[1]["counters"][key] - ends[0]["counters"][key]
                           for key in ("workspace_bytes", "peak_growth_bytes"))
    return workspace + (resident if resident > RSS_SLACK else 0)


def time_text(seconds):
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"


def count_text(value):
    for unit in ("", "k", "M", "G"):
        if value < 1000:
            break
        value /= 1000
    return f"{value:.3g}{unit}"


def print_table(header, lines):
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    def text(line):
        return "| " + " | ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                                 for column, (cell, width) in enumerate(zip(line, widths))) + " |"
    print(text(header))
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for line in lines:
        print(text(line))


def rate_text(work, counter, seconds):
    return f"{work[counter] / seconds / 1e9:.1f}" if counter in work else ""


def peer_line(name, peer, columns):
    """A peer's time, and tokens per second where it says for how many."""
    line = [f"PyTorch {name} ({peer['variant']})" if "variant" in peer else f"PyTorch {name}"] + [""] * 8
    if "median" in peer:
        line[1] = time_text(peer["median"])
        if peer.get("shape"):
            line[2] = count_text(peer["shape"][0] * peer["shape"][2] / peer["median"])
        line[7] = f"{peer['error']:.0e}" if "error" in peer else ""
    elif "peak_growth_bytes" in peer:
        line[8] = f"{peer['peak_growth_bytes']:,} bytes"
    else:
        line[1] = "-"
    return line + [""] * columns


def compiling_text(results):
    """Whether forms were compiled, and what that took, which is in no time of a row."""
    if results["torch"].get("compile") != "yes":
        return results["torch"].get("compile", "not tried")
    taken = [seconds for peer in results["peers"].values() for seconds in peer.get("compile_seconds", {}).values()]
    return f"{len(taken)} forms in {sum(taken):,.0f} s, which is in no row's time"


def attention_table(results):
    columns = [form for form in PEER_COLUMNS
               if any(form in row.get("ratios", {}) for row in results["rows"].values())]
    lines = []
    for name, row in results["rows"].items():
        if split(name) is None:
            continue
        if "median" not in row:
            lines.append([name, row.get("failed", "")[:60]] + [""] * (7 + len(columns)))
            continue
        work, seconds = row["counters"], row["median"]
        step = name.startswith("step/")
        part = "" if row.get("fraction_of_floor") is None else f"{row['fraction_of_floor']:.0%} {row['bound']}"
        lines.append([name, time_text(seconds), count_text(work["tokens"] / seconds), rate_text(work, "bytes", seconds),
                      "" if step else rate_text(work, "useful_flop", seconds),
                      "" if step else rate_text(work, "chunk_free_flop", seconds),
                      time_text(row["floor_seconds"]) if part else "", f"{work['error']:.0e}" if "error" in work else "", part]
                     + [f"{row['ratios'][form]:.1f}x" if form in row["ratios"] else "" for form in columns])
    lines += [peer_line(name, peer, len(columns)) for name, peer in results["peers"].items()]
    print_table(["row", "time", "tokens/s", "GB/s", "useful GFLOP/s", "chunk-free", "floor", "error", "of floor"]
                + [f"x {form}" for form in columns], lines)


def print_torch(results, torch):
    if "torch" in torch:
        changed = " ".join(f"{key}={value}" for key, value in torch["environment"].items() if value)
        print(f"PyTorch {torch['torch']}, {torch['threads']} threads, {torch['blas']} {torch['blas_core']}, "
              f"{torch['cpu_capability']}; {changed}")
        if torch.get("libraries"):
            print(", ".join(f"{library} {version}" for library, version in torch["libraries"].items()) + "; torch.compile: "
                  + compiling_text(results))
    elif "missing" in torch:
        print(f"No peers: {torch['missing']}")


def print_faster(results):
    compared, faster = faster_peers(results)
    if compared:
        print(f"\nOf {compared} comparisons with a peer's time, the peer is faster in {len(faster)}"
              f"{':' if faster else '.'}")
        for name, form, times in faster:
            print(f"  {name}: {form} is {times:.2f} times as fast")


def show(results):
    """Prints everything; returns the exit status."""
    cpu, torch = results["cpu"], results.get("torch", {})
    print(f"\n{cpu['name']}, {cpu['cores']} cores; {results['build']['compiler']}; commit {results['git']['commit']}"
          f"{' with changes' if results['git']['modified'] else ''}; load {results['load_before'][0]:.1f} before")
    if (results["build"]["openmp"] or "").startswith("none"):
        print("BUILT WITHOUT OPENMP: every row of ours ran on one thread, whatever its name says.")
    for name, row in results["rows"].items():
        if name.startswith("machine/") and row["passes"]:
            counter = "flop" if "/fma/" in name else "bytes"
            rates = [row["counters"][counter] / statistics.median(one) / 1e9 for one in row["passes"]]
            print(f"{name:28} {max(rates):8.1f} {'GFLOP/s' if counter == 'flop' else 'GB/s   '}  "
                  f"highest of {len(rates)}, lowest {min(rates):.1f}")
    print_torch(results, torch)
    print("\nUseful FLOPs and bytes: bench/flops.hpp. Floor: their time at the FMA peak or at the bandwidth of memory, the longer.\n"
          "Error: relative RMS against fp64. Ratios: the peer's time over ours, in the same precision, of the fastest way to write\n"
          f"its form. {SOFTMAX}\n")
    attention_table(results)
    for name, row in results["rows"].items():
        if name.startswith("memory/") and row["passes"]:
            print(f"{name}: workspace {row['counters']['workspace_bytes']:,.0f} bytes, "
                  f"{row['counters']['peak_growth_bytes']:,.0f} taken besides")
    print("\nGoals")
    for goal in results["goals"]:
        sign = "at least" if goal["at_least"] else "at most"
        state = ("not measured" if goal["measured"] is None else
                 {True: "met", False: "NOT MET", None: "not judged"}[goal["met"]])
        value = "" if goal["measured"] is None else f"{goal['measured']:,.3g}"
        print(f"  {state:12} {value:>8}  ({sign} {goal['wanted']:g})  {goal['goal']}")
    drifts = sorted(((row["drift"], name) for name, row in results["rows"].items() if split(name) and "drift" in row),
                    reverse=True)
    drifted = [f"{name} by {drift:.0%}" for drift, name in drifts if drift > 0.1]
    if drifted:
        print(f"\n{len(drifted)} of {len(drifts)} rows changed by more than 10% between their two passes; most: "
              f"{', '.join(drifted[:5])}")
    if results["busy"] > BUSY:
        print(f"\nTHE MACHINE WAS BUSY: a loop on one core had to wait for {results['busy']:.0%} of the time. Such figures "
              "are no result; PyTorch's threads suffer most, which flatters our ratios. Speed goals are not judged.")
    print_faster(results)
    if results["peers"]:
        print(f"\nOutputs were compared with PyTorch's {results['comparisons']} times on the same inputs, "
              f"{len(results['disagreements'])} disagreed.")
    failures = [f"{name}: {row['failed']}" for name, row in results["rows"].items() if "failed" in row]
    failures += [f"PyTorch {name}: {peer['failed']}" for name, peer in results["peers"].items() if "failed" in peer]
    for name, peer in results["peers"].items():
        if "skipped" in peer:
            print(f"Skipped PyTorch {name}: {peer['skipped']}")
    for line in results["disagreements"]:
        print(f"DISAGREES {line}")
    for line in failures:
        print(f"FAILED {line}")
    if not results["complete"]:
        print("Interrupted: rows are missing.")
    return 1 if failures or results["disagreements"] else 0


def check(results):
    """0 where our rows were compared with peers and none of those is faster, or else 1 and a line that says why."""
    compared, faster = faster_peers(results)
    if compared and not faster:
        return 0
    rows = ", ".join(dict.fromkeys(name for name, _, _ in faster))
    print(f"CHECK FAILED: a peer is faster in {rows}" if faster else "CHECK FAILED: no row was compared with a peer")
    return 1
