#!/usr/bin/env python3
"""Holds code quoted in the docs to the compiled source it is quoted from.

usage: snippet_check.py [--write] ROOT

In README.md and docs/*.md, the code block after `<!-- snippet: FILE NAME -->` must be the text of ROOT/FILE between two
lines `// [NAME]`, without their common indentation. --write puts it there.
"""
import pathlib
import re
import sys
import textwrap

QUOTE = re.compile(r"(^<!-- snippet: (\S+) (\S+) -->\n+```\w*\n)(.*?)(^```)", re.DOTALL | re.MULTILINE)


def region(root, file, name):
    lines = (root / file).read_text(encoding="utf-8").splitlines()
    marks = [i for i, line in enumerate(lines) if line.strip() == f"// [{name}]"]
    if len(marks) != 2:
        raise ValueError(f"{file} has {len(marks)} lines `// [{name}]`, not 2")
    return textwrap.dedent("\n".join(lines[marks[0] + 1:marks[1]])).strip("\n") + "\n"


def main():
    write = "--write" in sys.argv
    root = pathlib.Path(sys.argv[-1])
    problems, count = [], 0
    for page in [root / "README.md", *sorted((root / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        announced = len(re.findall("^<!-- snippet:", text, re.MULTILINE))
        quotes = list(QUOTE.finditer(text))
        if announced != len(quotes):
            problems.append(f"{page.name}: {announced} snippet comments, but {len(quotes)} are followed by a code block")
        for quote in quotes:
            count += 1
            try:
                source = region(root, quote[2], quote[3])
            except (OSError, ValueError) as error:
                problems.append(f"{page.name}: {error}")
                continue
            if quote[4] != source and write:
                text = text.replace(quote[0], quote[1] + source + quote[5])
                page.write_text(text, encoding="utf-8")
            elif quote[4] != source:
                problems.append(f"{page.name}: the snippet {quote[3]} differs from {quote[2]}; "
                                "cmake/snippet_check.py --write . copies it")
    if count == 0:
        problems.append("no page quotes anything")
    print("\n".join(problems) if problems else f"{count} snippets are as compiled")
    sys.exit(1 if problems else 0)


main()
