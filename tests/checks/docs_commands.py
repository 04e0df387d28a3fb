"""What a command on a page may be, and whether there is what it names.

A command is run where that is quick, by docs_check.py, and otherwise held to the help text, the preset or the target that it
names. One that no rule knows is a fault of the page.
"""
import itertools
import json
import os
import re
import shlex
import subprocess

# Run as they are, in an empty folder that has a clone in `cottention`.
RUN = {"cmake", "g++", "clang++", "git", "pkg-config", "nvcc", "cd", "mkdir", "export"}
# A word of prose that stands for what the reader has: FILE, OLD, BUILD, FILE...
STANDS_FOR = re.compile(r"^[A-Z]+(\.\.\.)?$")
OPTION = re.compile(r"--[\w-]+")


class Unknown(Exception):
    """There is not what the command names, or no rule for it."""


class Commands:
    def __init__(self, root):
        self.root = root
        self.help_texts = {}
        folders = ("tests", "bench", "examples", "cmake")
        files = [root / "CMakeLists.txt"] + [file for folder in folders for pattern in ("CMakeLists.txt", "*.cmake")
                                             for file in (root / folder).rglob(pattern)]
        self.cmake = "\n".join(file.read_text(encoding="utf-8") for file in files)
        self.targets = set(re.findall(r"(?:add_executable|add_library|add_custom_target|cottention_add_\w+)\(\s*(\w+)", self.cmake))
        for names in re.findall(r"foreach\(\w+ ([\w ]+)\)", self.cmake):
            self.targets |= set(names.split())
        presets = json.loads((root / "CMakePresets.json").read_text(encoding="utf-8"))
        self.presets = {preset["name"] for preset in presets["configurePresets"] if not preset.get("hidden")}

    def help_of(self, *command):
        """What a program of the tree says of itself."""
        if command not in self.help_texts:
            shown = subprocess.run([str(self.root / command[0]), *command[1:]], capture_output=True, text=True, check=False)
            self.help_texts[command] = shown.stdout + shown.stderr
        return self.help_texts[command]

    def need_options(self, words, text, command):
        for word in words:
            option = OPTION.match(word)
            if option and not re.search(re.escape(option[0]) + r"\b", text):
                raise Unknown(f"{command} has no option {option[0]}")

    def of_run(self, words):
        if len(words) == 1:
            return
        usage = self.help_of("run", "help")
        # "  test    build and run all tests", and its options below, further in.
        section = re.search(rf"^  {re.escape(words[1])}(?:  +.*)?\n(?:   .*\n)*", usage, re.MULTILINE)
        if section is None:
            raise Unknown(f"./run help has no command {words[1]}")
        text = section[0]
        if "bench/cpu/run.py" in text:
            text += self.help_of("bench/cpu/run.py", "--help")
        if "run.sh" in text:
            text += self.help_of("bench/gpu/run.sh", "--help")
        if words[1] == "demo":
            text += (self.root / "examples/char_lm/options.cpp").read_text(encoding="utf-8") + "--help"
        self.need_options(words[2:], text, f"./run {words[1]}")

    def of_script(self, words):
        file = self.root / words[0]
        if not file.is_file():
            raise Unknown(f"there is no {words[0]}")
        if not os.access(file, os.X_OK):
            raise Unknown(f"{words[0]} may not be executed")
        text = self.help_of(words[0], "--help") if words[0].startswith("bench/") else file.read_text(encoding="utf-8")
        self.need_options(words[1:], text + "--help", words[0])

    def of_cmake(self, words):
        """Those that only build or test a part, with a preset or a folder that stands for one."""
        if "--preset" in words and words[words.index("--preset") + 1] not in self.presets:
            raise Unknown(f"there is no preset {words[words.index('--preset') + 1]}")
        targets = words[words.index("--target") + 1:] if "--target" in words else []
        for target in itertools.takewhile(lambda word: not word.startswith("-"), targets):
            self.need_target(target, f"there is no target {target}")
        for word in words:
            if word.startswith("-DCOTTENTION_") and word[2:].partition("=")[0] not in self.cmake:
                raise Unknown(f"nothing reads {word[2:]}")

    def need_target(self, name, said):
        """One that a CMakeLists.txt names, whole or for a foreach to put a prefix before it."""
        if not {re.sub("^" + prefix, "", name) for prefix in ("", "test_", "test_ptx_", "example_")} & self.targets:
            raise Unknown(said)

    def of_built(self, words):
        name = words[0].rpartition("/")[2]
        self.need_target(name, f"no build makes {name}")

    def of_package_manager(self, words):
        for word in words[1:]:
            folder = re.search(r"cmake/[\w/]+", word)
            if folder and not (self.root / folder[0]).exists():
                raise Unknown(f"there is no {folder[0]}")
        if not any("cmake/" in word or "cottention" in word for word in words):
            raise Unknown(f"{' '.join(words)} names neither a recipe nor the package")

    def check(self, text, in_prose=False):
        """Whether the command is to be run. Raises Unknown if it is none that there is."""
        lexer = shlex.shlex(text, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split = True
        parts = [[]]
        for word in lexer:
            if set(word) <= set("&|;"):
                parts.append([])
            else:
                parts[-1].append(word)
        runs = True
        for words in parts:
            while words and re.match(r"^\w+=", words[0]):
                words.pop(0)
            if words:
                runs = self.check_one(words, in_prose) and runs
        return runs and not in_prose

    def check_one(self, words, in_prose):
        word = words[0]
        if word == "./run":
            self.of_run(words)
        elif word == "./run.sh":
            self.need_options(words[1:], self.help_of("bench/gpu/run.sh", "--help"), word)
        elif re.match(r"^(bench|tests/checks)/[\w/]*\.(py|sh)$", word):
            self.of_script(words)
        elif word in ("cmake", "ctest") and (in_prose or {"--preset", "--target"} & set(words)):
            self.of_cmake(words)
        elif word in ("conan", "vcpkg"):
            self.of_package_manager(words)
        elif word.startswith("build/"):
            self.of_built(words)
        elif word == "mpirun":
            self.of_built(words[3:])  # after -n N
        elif word == "mpicxx":
            pass  # of what the reader has
        elif word.startswith("clang-format"):
            pass  # on any file
        elif word in RUN or (word.startswith("./") and not in_prose):
            return True
        else:
            raise Unknown(f"no rule for the command {word}; tests/checks/docs_commands.py has them")
        return False

    def check_span(self, text, code):
        """A code span of prose, on a page with that code: a command is held to its rule; a variable is one of the build's or the code's."""
        variable = re.match(r"^(COTTENTION_\w+)(=\S+)?$", text)
        if variable and not re.search(rf"\b{variable[1]}\b", self.cmake + code) and not self.in_sources(variable[1]):
            raise Unknown(f"nothing reads {variable[1]}")
        words = text.split()
        if len(words) > 1 and is_command(text):
            self.check(text, in_prose=True)

    def in_sources(self, name):
        files = [*(self.root / "include").rglob("*.hpp"), *(self.root / "tests").rglob("*.cpp"),
                 *(self.root / "examples/python").rglob("*.py"), self.root / "run"]
        return any(name in file.read_text(encoding="utf-8", errors="replace") for file in files)


def is_command(text):
    """Whether a line looks like one for a shell."""
    word = re.sub(r"^(\w+=\S+ +)*(\$ +)?", "", text.strip()).partition(" ")[0]
    return (word in RUN - {"cd", "export", "mkdir"} or word in ("ctest", "conan", "vcpkg", "pip", "apt-get", "sudo", "python3")
            or word.startswith(("./", "clang-format")) or bool(re.match(r"^(bench|tests/checks|build)/[\w/]+(\.py|\.sh)?$", word)))

