"""What gpt.py and bert.py share: options, the text, training of the two models in turn, and reports."""
import argparse
import contextlib
import datetime
import json
import math
import os
import pathlib
import platform
import sys
import time

import torch
from torch import nn

import attention_cost
from model import KINDS, LanguageModel

ROOT = pathlib.Path(__file__).resolve().parents[2]
TEXT = ROOT / "examples" / "char_lm" / "text" / "persuasion.txt"
VALIDATION, TEST = 0.04, 0.06  # shares of the text, at its end. The defaults were chosen by the first alone
REPORTS = 10  # validation losses along the way


def _at_least(least):
    def parse(text):
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text}: must be a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{text}: must be at least {least}")
        return value

    return parse


def options(name, description, defaults, quick, arguments=None):
    """The command line's options. `defaults` and `quick` (for --quick) give sizes."""
    parser = argparse.ArgumentParser(prog=f"{name}.py", description=description)
    parser.add_argument("--quick", action="store_true", help="a few seconds: smaller sizes where none are given")
    for option, least, words in (("steps", 1, "steps of training"), ("length", 16, "characters of a sequence at most"),
                                 ("batch", 1, "sequences of a step"), ("dim", 8, "width of the model"), ("heads", 1, "heads of attention"),
                                 ("layers", 1, "blocks"), ("seed", 0, "of weights and batches")):
        parser.add_argument(f"--{option}", type=_at_least(least), metavar="N", help=f"{words} ({defaults[option]})")
    parser.add_argument("--lr", type=float, metavar="X", help="highest learning rate of both models (cosine "
                        f"{defaults['lr']['cosine']}, softmax {defaults['lr']['softmax']}: the best of those tried for each)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (cpu)")
    parser.add_argument("--text", type=pathlib.Path, default=TEXT, metavar="FILE", help="what to learn (the novel of examples/char_lm)")
    for kind, suffix in (("json", "json"), ("plot", "svg")):
        parser.add_argument(f"--{kind}", type=pathlib.Path, metavar="FILE", default=ROOT / "build" / "python" / f"{name}.{suffix}",
                            help=f"where the {kind} goes (build/python/{name}.{suffix})")
    chosen = parser.parse_args(arguments)
    for option, value in {**defaults, **(quick if chosen.quick else {})}.items():
        if getattr(chosen, option) is None:
            setattr(chosen, option, value)
    if chosen.dim % chosen.heads != 0:
        parser.error(f"--dim {chosen.dim}: must be a multiple of --heads, {chosen.heads}")
    if not isinstance(chosen.lr, dict):
        if not 0 < chosen.lr < 1:
            parser.error(f"--lr {chosen.lr}: must lie between 0 and 1")
        chosen.lr = dict.fromkeys(KINDS, chosen.lr)
    if chosen.device.split(":")[0] not in ("cpu", "cuda"):
        parser.error(f"--device {chosen.device}: must be cpu or cuda")
    if chosen.device != "cpu" and not torch.cuda.is_available():
        parser.error(f"--device {chosen.device}: PyTorch finds no CUDA device here")
    try:
        chosen.characters = chosen.text.read_text()
    except (OSError, UnicodeDecodeError) as error:
        parser.error(f"--text {chosen.text}: {error}")
    # Both held-out parts fill a sequence.
    if len(chosen.characters) * VALIDATION < chosen.length + 1:
        parser.error(f"--length {chosen.length}: the text has {len(chosen.characters):,} characters, too few for it")
    for path in (chosen.json, chosen.plot):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"{path}: {error}")
    return chosen


class Vocabulary:
    """The text's characters, by number, and further symbols after them."""

    def __init__(self, text, further=()):
        self.characters = sorted(set(text))
        self.number = {c: i for i, c in enumerate(self.characters)}
        self.further = {name: len(self.characters) + i for i, name in enumerate(further)}

    def __len__(self):
        return len(self.characters) + len(self.further)

    def encode(self, text):
        return torch.tensor([self.number[c] for c in text])

    def decode(self, numbers):
        return "".join(self.characters[n] for n in numbers)


def parts(items):
    """What is trained on, the validation part and the test part."""
    first, second = round(len(items) * (1 - VALIDATION - TEST)), round(len(items) * (1 - TEST))
    return items[:first], items[first:second], items[second:]


class Progress:
    """A bar on stderr: drawn over itself on a terminal, a line for each report elsewhere."""

    def __init__(self, total, stream=sys.stderr):
        self.total, self.done, self.stream, self.started = total, 0, stream, time.monotonic()
        self.terminal = stream.isatty()
        self.words, self.drawn = "", 0.0

    def advance(self, words=None):
        self.done += words is None
        self.words = words or self.words
        now = time.monotonic()
        if words is None and (not self.terminal or now - self.drawn < 0.2):
            return
        self.drawn = now
        filled = 30 * self.done // self.total
        left = (now - self.started) * (self.total / max(self.done, 1) - 1)
        line = f"[{'#' * filled}{'.' * (30 - filled)}] {100 * self.done // self.total:3}%  {self.words}  {left:.0f} s left"
        self.stream.write(f"\r\033[K{line}" if self.terminal else f"{line}\n")
        self.stream.flush()

    def finish(self):
        if self.terminal:
            self.stream.write("\n")


class Run:
    """One model, its optimizer and its batches, on the way through training."""

    def __init__(self, kind, vocabulary, causal, batches, chosen):
        torch.manual_seed(chosen.seed)
        self.kind, self.steps, self.lr = kind, chosen.steps, chosen.lr[kind]
        model = LanguageModel(kind, vocabulary, dim=chosen.dim, heads=chosen.heads, layers=chosen.layers, causal=causal)
        self.model = model.to(chosen.device)
        self.batches = batches(torch.Generator().manual_seed(chosen.seed))
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        vectors = [p for p in self.model.parameters() if p.dim() <= 1]
        self.optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
                                           betas=(0.9, 0.99), fused=True)
        self.device = chosen.device
        self.step, self.tokens, self.seconds, self.loss, self.validation, self.test = 0, 0, 0.0, [], [], None

    def loss_of(self, inputs, targets, mask):
        """Mean over targets that are not -100, in nats, and how many tokens there were."""
        inputs, targets = inputs.to(self.device), targets.to(self.device)
        tokens = inputs.numel() if mask is None else int(mask.sum())
        logits = self.model(inputs, None if mask is None else mask.to(self.device))
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()), tokens

    def rate(self):
        """Up over the first twentieth of the steps, then down along a cosine to a twentieth of the highest rate."""
        up = min(1.0, (self.step + 1) / max(1, self.steps // 20))
        return self.lr * up * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * self.step / self.steps)))

    def train_step(self):
        started = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        loss, tokens = self.loss_of(*next(self.batches))
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.loss.append(loss.item())
        self.seconds += time.monotonic() - started
        self.step, self.tokens = self.step + 1, self.tokens + tokens

    @torch.no_grad()
    def mean_loss(self, batches):
        counts = [int((targets != -100).sum()) for _, targets, _ in batches]
        losses = [count * self.loss_of(*batch)[0].item() for count, batch in zip(counts, batches)]
        return sum(losses) / sum(counts)

    def result(self):
        return {"parameters": sum(p.numel() for p in self.model.parameters()), "tokens": self.tokens, "seconds": round(self.seconds, 2),
                "tokens_per_second": round(self.tokens / self.seconds), "first_loss": self.loss[0], "validation": self.validation,
                "test": self.test}


def train(vocabulary, causal, batches, validation, test, chosen):
    """Trains both models, {kind: Run}: some steps of one, then of the other, so that what disturbs the machine disturbs both."""
    runs = {kind: Run(kind, vocabulary, causal, batches, chosen) for kind in KINDS}
    progress = Progress(len(KINDS) * chosen.steps)
    for run in runs.values():
        run.loss_of(*validation[0])[0].backward()  # compiles what is compiled on first use, outside of the times
        run.optimizer.zero_grad()
        run.validation.append([0, run.mean_loss(validation)])
    for report in range(1, REPORTS + 1):
        for run in runs.values():
            while run.step < chosen.steps * report // REPORTS:
                run.train_step()
                progress.advance()
            if run.step > run.validation[-1][0]:
                run.validation.append([run.step, run.mean_loss(validation)])
        progress.advance("validation loss " + ", ".join(f"{kind} {run.validation[-1][1]:.3f}" for kind, run in runs.items()))
    progress.finish()
    for run in runs.values():
        run.test = run.mean_loss(test)
    return runs


def machine(device):
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        name = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")][0]
    found = {"cpu": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "load_before": os.getloadavg(),
             "instructions": torch.backends.cpu.get_cpu_capability(), "system": platform.system(),
             "python": platform.python_version(), "torch": torch.__version__}
    if device != "cpu":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def begin(chosen, name, vocabulary, words):
    """The result to fill, with the first lines printed."""
    print(f"text               {len(chosen.characters):,} characters, {len(vocabulary.characters)} different ones; the last tenth is held out: "
          f"{100 * VALIDATION:.0f}% to validate, {100 * TEST:.0f}% to test")
    print(f"models             {chosen.layers} blocks, dim {chosen.dim}, {chosen.heads} heads of {chosen.dim // chosen.heads}")
    print(f"training           {chosen.steps} steps of {chosen.batch} x {words}, on {chosen.device}", flush=True)
    sizes = {key: getattr(chosen, key) for key in ("steps", "length", "batch", "dim", "heads", "layers", "seed", "lr", "device", "quick")}
    return {"what": name, "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "options": sizes,
            "machine": machine(chosen.device), "text": {"characters": len(chosen.characters), "different": len(vocabulary.characters)}}


def report(result, runs, unit):
    """Adds what training found, and prints it."""
    result["models"] = {kind: run.result() for kind, run in runs.items()}
    cosine, softmax = (result["models"][kind]["test"] for kind in KINDS)
    result["loss"] = {"cosine": cosine, "softmax": softmax, "ratio": cosine / softmax, "unit": unit}
    print(f"test loss          cosine {cosine:.4f}, softmax {softmax:.4f} {unit}: {100 * (cosine / softmax - 1):+.1f}%")
    rates = {kind: model["tokens_per_second"] for kind, model in result["models"].items()}
    print(f"training           cosine {rates['cosine']:,}, softmax {rates['softmax']:,} characters per second, all of a step", flush=True)


def _rounded(value):
    """Six digits are more than any measurement has."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def finish(result, chosen, started):
    """Measures attention by itself, and writes what was found."""
    lengths = (256, 512) if chosen.quick else (512, 1024, 2048, 4096, 8192)
    result["attention"] = attention_cost.in_child(chosen.heads, chosen.dim // chosen.heads, result["what"] == "gpt", lengths, chosen.device)
    attention_cost.show(result["attention"])
    result["seconds"] = round(time.monotonic() - started, 1)
    print(f"in all             {result['seconds']} s")
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(_rounded(value))}" for key, value in result.items())
    chosen.json.write_text(f"{{\n{lines}\n}}\n")
    print(f"result             {chosen.json}")
    try:
        import plot
    except ImportError as missing:
        print(f"plot               none: matplotlib is not installed ({missing})")
        return
    plot.draw(result, chosen.plot)
    print(f"plot               {chosen.plot}")
