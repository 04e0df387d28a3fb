"""How often warps execute the SASS of a kernel, from how often they execute its PTX.

ptxas says for every instruction of SASS from which line it comes. `number_lines` makes these lines those of the PTX itself, so
every instruction of SASS has the executions of one of PTX, which the PTX machine has counted. Basic blocks get the executions that
agree with most of their instructions and of which as many enter each block as leave it: a flow of least cost. What ptxas moved
out of a loop, or executes without effect under a predicate, so counts as often as the block where it stands.
"""
import collections
import heapq
import re

LABEL = re.compile(r"^(\.\w+|\$\S+|[\w.$]+):\s*$")
LINE = re.compile(r'//## File ".*", line (\d+)')
INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
# Of executions, how many may differ between an instruction of SASS and its line of PTX: what ptxas moved.
MOST_DIFFERENCES = 0.10
# What has one instruction of SASS for each of PTX, in the block that it came from.
ANCHORS = {"mma.sync": "HMMA", "wgmma.mma_async": "HGMMA", "ldmatrix": "LDSM"}


class Fault(Exception):
    """Why SASS cannot be counted."""


# ---- PTX


def is_instruction(text):
    return bool(re.match(r"(@!?%\w+\s+)?[a-z][\w.:]*(\s|;|$)", text)) and not text.endswith(":")


def number_lines(text, entry):
    """The PTX of one entry, every instruction with its line of TEXT; ({line: opcode}, PTX)."""
    out, opcodes, kept, depth, seen = [], {}, True, 0, False
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if stripped.startswith((".section", ".loc", ".file")):
            if stripped.startswith(".section") and depth == 0:
                break
            continue
        if depth == 0 and re.search(r"\.entry\s", stripped):
            kept = re.search(r"\.entry\s+([\w$]+)", stripped)[1] == entry
            seen = seen or kept
        inside = depth > 0
        depth += stripped.count("{") - stripped.count("}")
        if not kept:
            kept = inside and depth == 0
            continue
        if inside and (match := re.match(r"(?:\{\s*)?((?:@!?%\w+\s+)?([a-z][\w.:]*).*)", stripped)) and is_instruction(match[1]):
            opcodes[number] = match[2]
            out.append(f".loc 1 {number} 0")
        out.append(line)
    if not seen:
        raise Fault(f"no entry {entry} in the PTX")
    return opcodes, "\n".join([*out, '.file 1 "kernel.ptx"', ""])


# ---- SASS


class Block:
    def __init__(self):
        self.instructions = []  # (opcode, line of PTX or None, whether under a predicate)
        self.next = []  # numbers of blocks
        self.closed = False  # ends in a slow path, which is taken never


def function_of(listing, entry):
    """(label or None, line, address, text) of what `nvdisasm -c -g` printed of an entry."""
    found, line, on = [], None, False
    for text in listing.split("\n"):
        if match := re.match(r"\s*\.section\s+\.text\.([^,\s]+)", text):
            on, line = match[1] == entry, None
        elif not on:
            continue
        elif match := LINE.search(text):
            line = int(match[1])
        elif match := LABEL.match(text):
            found.append((match[1], None, None, None))
        elif match := INSTRUCTION.match(text):
            found.append((None, line, int(match[1], 16), match[2]))
    if not any(text for *_, text in found):
        raise Fault(f"nvdisasm lists no instruction of {entry}")
    return found


def blocks_of(listing, entry):
    """The basic blocks of an entry, the first one its own."""
    blocks, at, pending, ends = [Block()], {}, [], True
    jumps = []  # block, label
    for label, line, _, text in function_of(listing, entry):
        if label is not None:
            pending.append(label)
            continue
        if pending or ends:
            if blocks[-1].instructions:
                blocks.append(Block())
            at.update(dict.fromkeys(pending, len(blocks) - 1))
            pending, ends = [], False
        block, number = blocks[-1], len(blocks) - 1
        guard, rest = re.match(r"(@!?U?P\w+\s+)?(.*)", text).groups()
        opcode, *operands = rest.split(None, 1)
        block.instructions.append((opcode, line, guard is not None))
        name = opcode.split(".")[0]
        operands = operands[0] if operands else ""
        if name in ("BRX", "BRXU", "JMX", "JMXU", "JMP"):
            raise Fault(f"{entry}: an indirect branch: {text}")
        if name == "BRA" and ".DIV" not in opcode:  # that is taken by warps whose lanes have gone apart
            jumps.append((number, re.search(r"`\((\S+?)\)", operands)[1]))
            if guard or "," in operands:
                block.next.append(number + 1)
            ends = True
        elif name in ("EXIT", "RET"):
            if guard:
                block.next.append(number + 1)
            ends = True
        elif name == "BRA":
            block.next.append(number + 1)
            ends = True
        elif name == "CALL":
            block.closed = True  # of a division or a root
    for number, block in enumerate(blocks[:-1]):
        last = block.instructions[-1][0].split(".")[0]
        if last not in ("BRA", "EXIT", "RET"):
            block.next.append(number + 1)
    for number, label in jumps:
        if label not in at:
            raise Fault(f"{entry}: a branch to {label}, which is nowhere")
        blocks[number].next.append(at[label])
    return blocks


# ---- Flow of least cost


class Network:
    """Arcs with capacities and costs; circulate() gives each the flow of a circulation of least cost."""

    def __init__(self, nodes):
        self.out = [[] for _ in range(nodes)]
        self.to, self.room, self.cost = [], [], []
        self.excess = [0] * nodes

    def add(self, a, b, room, cost):
        for start, end, its_room, its_cost in ((a, b, room, cost), (b, a, 0, -cost)):
            self.out[start].append(len(self.to))
            self.to.append(end), self.room.append(its_room), self.cost.append(its_cost)
        arc = len(self.to) - 2
        if cost < 0:  # full to begin with
            self.push(arc, room)
            self.excess[b] += room
            self.excess[a] -= room
        return arc

    def push(self, arc, amount):
        self.room[arc] -= amount
        self.room[arc ^ 1] += amount

    def flow(self, arc):
        return self.room[arc ^ 1]

    def circulate(self):
        potential = [0] * len(self.out)
        while any(x > 0 for x in self.excess):
            distance, via = self.nearest(potential)
            for node, d in enumerate(distance):
                potential[node] += min(d, self.reach)
            end = self.end
            path = []
            while via[end] is not None:
                path.append(via[end])
                end = self.to[via[end] ^ 1]
            amount = min([self.excess[end], -self.excess[self.end], *(self.room[arc] for arc in path)])
            for arc in path:
                self.push(arc, amount)
            self.excess[end] -= amount
            self.excess[self.end] += amount

    def nearest(self, potential):
        """Distances from where flow is left over, up to the nearest place where it lacks: self.end, self.reach away."""
        infinite = float("inf")
        distance, via, done = [infinite] * len(self.out), [None] * len(self.out), set()
        heap = [(0, node) for node, x in enumerate(self.excess) if x > 0]
        for _, node in heap:
            distance[node] = 0
        while heap:
            d, node = heapq.heappop(heap)
            if node in done:
                continue
            done.add(node)
            if self.excess[node] < 0:
                self.end, self.reach = node, d
                return distance, via
            for arc in self.out[node]:
                if self.room[arc] > 0:
                    there = self.to[arc]
                    new = d + self.cost[arc] + potential[node] - potential[there]
                    if new < distance[there]:
                        distance[there], via[there] = new, arc
                        heapq.heappush(heap, (new, there))
        raise Fault("no flow fits the branches")


def executions(blocks, counts):
    """How often each block is executed, from {line of PTX: times}."""
    most = 2 * max([1, *counts.values()])
    network = Network(2 * len(blocks))
    arcs = []
    for number, block in enumerate(blocks):
        into, out = 2 * number, 2 * number + 1
        own = []
        values = sorted(counts.get(line, 0) for _, line, _ in block.instructions if line is not None)
        if not block.closed:
            steps = sorted({0, *values, most})
            for low, high in zip(steps, steps[1:]):
                below = sum(x <= low for x in values)
                own.append(network.add(into, out, high - low, 2 * below - len(values)))
        arcs.append(own)
        for following in dict.fromkeys(block.next):
            if following < len(blocks):
                network.add(out, 2 * following, most, 0)
    network.circulate()
    return [sum(network.flow(arc) for arc in own) for own in arcs]


def reachable(blocks):
    found, left = set(), [0]
    while left:
        number = left.pop()
        if number in found or number >= len(blocks) or blocks[number].closed:
            continue
        found.add(number)
        left += blocks[number].next
    return found


# ---- A kernel


class Count:
    """Of a kernel, or of some of its warps: executions of each opcode, those of ANCHORS whose predicate held, and by how many
    executions SASS and PTX differ where no predicate explains it."""

    def __init__(self):
        self.issued, self.anchors, self.differences = collections.Counter(), collections.Counter(), 0

    def add(self, opcode, line, guarded, times, counts):
        self.issued[opcode] += times
        if line is not None and not (guarded and times > counts.get(line, 0)):
            self.differences += abs(times - counts.get(line, 0))
        if opcode.split(".")[0] in ANCHORS.values():
            self.anchors[opcode] += min(times, counts.get(line, 0)) if guarded else times


def count(listing, entry, opcodes, counts):
    """The Count of an entry in what `nvdisasm -c -g` printed. OPCODES is {line of PTX: opcode}, COUNTS {line: times}."""
    blocks = blocks_of(listing, entry)
    times = executions(blocks, counts)
    result = Count()
    for number in reachable(blocks):
        for opcode, line, guarded in blocks[number].instructions:
            result.add(opcode, line, guarded, times[number], counts)
    for ptx, sass in ANCHORS.items():
        wanted = sum(counts.get(line, 0) for line, opcode in opcodes.items() if opcode.startswith(ptx))
        found = sum(n for opcode, n in result.anchors.items() if opcode.split(".")[0] == sass)
        if wanted != found:
            raise Fault(f"{entry}: {found} executions of {sass} were attributed, but {wanted} of {ptx} counted")
    total = sum(result.issued.values())
    if result.differences > MOST_DIFFERENCES * total:
        raise Fault(f"{entry}: SASS and PTX differ in {result.differences} of {total} executions")
    return result
