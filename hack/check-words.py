#!/usr/bin/env python3
"""Finds words of the first version's private vocabulary, and British spelling, in names, comments and texts.

    hack/check-words.py [--counts] [PATH ...]

hack/words.txt has the words, each with a replacement, and the exceptions, each with a reason. An identifier is read as its words:
`AT_ONCE` and `atOnce` are "at once". In CHANGELOG.md, only the unreleased part counts.
"""

import collections
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIST = "hack/words.txt"
# What people read or write. Recordings, corpora, lock files and pictures are not.
KINDS = (".rs", ".md", ".yaml", ".yml", ".tpl", ".txt", ".sh", ".py", ".toml", ".go", ".j2", "dashboard.json", "schema.json")
NAMED = ("Makefile", "Containerfile", "run")
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def texts():
    """Path and text of each file that counts."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for path in listed:
        file = ROOT / path
        if path == LIST or "corpora/" in path or "regressions/" in path or not file.is_file():
            continue
        if path.endswith(KINDS) or path.rsplit("/", 1)[-1] in NAMED:
            text = file.read_text()
            if path == "CHANGELOG.md":
                text = "## ".join(text.split("\n## ")[:2])
            yield path, text


def read_list():
    """Patterns by word, and exceptions as (path, word, reason)."""
    words, exceptions = {}, []
    for number, line in enumerate((ROOT / LIST).read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [field.strip() for field in re.split(r"\s+\|\s+", line)]
        if len(fields) == 2 and all(fields):
            words[fields[0]] = (re.compile(rf"(?<![^ ]){fields[0]}(?![^ ])", 0 if fields[0].startswith("type ") else re.I), fields[1])
        elif len(fields) == 3 and all(fields):
            exceptions.append(fields)
        else:
            sys.exit(f"{LIST}:{number}: neither `word | instead` nor `path | word | reason`")
    return words, exceptions


def find(text, words):
    """(word, line) of each finding."""
    spans = list(WORD.finditer(text))
    lines, at, line = [], 0, 1
    for span in spans:
        line += text.count("\n", at, span.start())
        at = span.start()
        lines.append(line)
    flat = " ".join(span[0] for span in spans)
    starts = {}
    offset = 0
    for index, span in enumerate(spans):
        starts[offset] = index
        offset += len(span[0]) + 1
    for word, (pattern, _) in words.items():
        if word.startswith("type "):
            name = word.removeprefix("type ")
            for match in re.finditer(rf"\b(?:struct|enum|trait|type) {name}\b", text):
                yield word, text.count("\n", 0, match.start()) + 1
            continue
        for match in pattern.finditer(flat):
            yield word, lines[starts[match.start()]]


def main():
    words, exceptions = read_list()
    only = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    used = [False] * len(exceptions)
    counts, known = collections.defaultdict(collections.Counter), collections.Counter()
    findings = []
    for path, text in texts():
        if only and not path.startswith(tuple(only)):
            continue
        top = path.split("/")[0]
        for word, line in find(text, words):
            counts[word][top] += 1
            excepted = False
            for index, (where, which, _) in enumerate(exceptions):
                if path.startswith(where) and which in ("*", word):
                    used[index] = excepted = True
            if excepted:
                known[top] += 1
            else:
                findings.append(f"{path}:{line}: {word}: write {words[word][1]}")

    if "--counts" in sys.argv:
        tops = sorted({top for row in counts.values() for top in row})
        print("\t".join(["word", *tops, "all"]))
        for word, row in sorted(counts.items(), key=lambda item: -item[1].total()):
            print("\t".join([word, *(str(row[top] or "") for top in tops), str(row.total())]))
        print("\t".join(["all", *(str(sum(row[top] for row in counts.values())) for top in tops), str(sum(row.total() for row in counts.values()))]))
    for finding in findings:
        print(f"check-words: {finding}", file=sys.stderr)
    idle = [] if only else [entry for entry, needed in zip(exceptions, used) if not needed]
    for where, which, _ in idle:
        print(f"check-words: {LIST}: nothing needs the exception of {which} in {where} any more", file=sys.stderr)
    excepted = ", ".join(f"{top} {count}" for top, count in sorted(known.items())) or "none"
    if findings or idle:
        sys.exit(f"check-words: {len(findings)} words to replace, {len(idle)} exceptions to delete; excepted: {excepted}")
    print(f"check-words: none of {len(words)} words where none may be; excepted: {excepted}")


if __name__ == "__main__":
    main()
