#!/usr/bin/env python3
"""Finds files of one crate that import each other in a circle.

    hack/check-circles.py [--edges] [CRATE ...]

A path like `crate::cache::Stores` counts as an import of the file that defines the item: re-exports are followed, `mod`
declarations, tests and what a submodule takes from the module that it is in do not count. Circles are an error.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATES = ["shared", "infra", "certs", "webhook", "controller", "command_line", "cli"]

LITERALS = re.compile(
    r'//[^\n]*|/\*.*?\*/|r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?\'(?:\\[^\']*|[^\'\\])\'', re.DOTALL
)
TEST = re.compile(r"#\[cfg\((?:test|all\(test[^\]]*)\)\]\s*(?:#\[[^\]]*\]\s*)*")
MOD = re.compile(r"\bmod\s+(\w+)\s*;")
USE = re.compile(r"\b(pub(?:\([^)]*\))?\s+)?use\s+([^;]+);")
PATH = re.compile(r"(?<![\w:.])(\w+)((?:::\w+)+)")
ITEM = re.compile(r"\b(?:struct|enum|trait|type|fn|const|static|union|macro_rules!)\s+(\w+)")


def blank(match):
    """The text as so many spaces and line ends: what follows keeps its line."""
    return "".join(char if char == "\n" else " " for char in match)


def end_of_item(text, at):
    """Where the item that begins at `at` ends: after its block, or its semicolon."""
    depth = 0
    while at < len(text):
        char = text[at]
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0 and char == "}":
                return at + 1
        elif char == ";" and depth == 0:
            return at + 1
        at += 1
    return at


def expand(tree, prefix=()):
    """The paths of a `use` tree, each with the name that it binds."""
    tree = tree.strip()
    if "{" in tree:
        head, rest = tree.split("{", 1)
        head = tuple(part for part in re.split(r"\s*::\s*", head.strip()) if part)
        depth, part = 0, ""
        for char in rest[: rest.rindex("}")] + ",":
            depth += {"{": 1, "}": -1}.get(char, 0)
            if char == "," and depth == 0:
                if part.strip():
                    yield from expand(part, prefix + head)
                part = ""
            else:
                part += char
        return
    path, _, name = re.sub(r"\s+as\s+", "\0", tree).partition("\0")
    path = prefix + tuple(part.strip() for part in path.split("::") if part.strip())
    if path[-1] == "self":
        path = path[:-1]
    yield path, name.strip() or path[-1]


class Module:
    """One file: its submodules, what it defines, binds and refers to."""

    def __init__(self, path, name, text):
        self.path, self.name = path, name
        self.children, self.names, self.globs, self.refs = set(), {}, [], []
        self.tests = set()
        text = LITERALS.sub(lambda match: blank(match.group()), text)
        while match := TEST.search(text):
            end = end_of_item(text, match.end())
            self.tests |= set(MOD.findall(text[match.end() : end]))
            text = text[: match.start()] + blank(text[match.start() : end]) + text[end:]
        self.items = set(ITEM.findall(text))
        self.children = set(MOD.findall(text))
        for match in USE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            for path, name in expand(match[2]):
                if name == "*":
                    self.globs.append(path[:-1])
                else:
                    self.names[name] = path
                self.refs.append((path, line))
        text = USE.sub(lambda match: blank(match.group()), text)
        for match in PATH.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            self.refs.append((tuple(match.group().split("::")), line))


class Crate:
    """All modules of a crate that are no tests, by their paths."""

    def __init__(self, name):
        self.name, self.src, self.modules = name, ROOT / name / "src", {}
        for root in ("lib.rs", "main.rs"):
            if (self.src / root).exists():
                self.load(self.src / root, (root.removesuffix(".rs"),), self.src)

    def load(self, path, name, folder):
        module = Module(path, name, path.read_text())
        self.modules[name] = module
        for child in module.children:
            for file, inner in (
                (folder / f"{child}.rs", folder / child),
                (folder / child / "mod.rs", folder / child),
            ):
                if file.exists():
                    self.load(file, (*name, child), inner)

    def resolve(self, module, path, seen=()):
        """The module that defines what `path` means in `module`; nothing if that is no item of this crate."""
        at, rest = module.name, list(path)
        first = rest[0]
        if first == "crate":
            at, rest = at[:1], rest[1:]
        elif first in ("self", "super"):
            while rest and rest[0] in ("self", "super"):
                at, rest = (at[:-1] if rest[0] == "super" else at), rest[1:]
        elif first not in module.children and first not in module.names:
            return None
        return self.descend(at, rest, seen)

    def descend(self, at, rest, seen):
        """The same, of what `rest` means within the module `at`."""
        while rest:
            module = self.modules.get(at)
            if module is None or (at, rest[0]) in seen:
                return None
            if rest[0] in module.children and (*at, rest[0]) in self.modules:
                at, rest = (*at, rest[0]), rest[1:]
                continue
            seen = (*seen, (at, rest[0]))
            # What is bound to a module is that at the start of a path, also beside a method of its name.
            if rest[0] in module.items and (len(rest) == 1 or rest[0] not in module.names):
                return at
            if rest[0] in module.names:
                path = module.names[rest[0]]
                bound = self.resolve(module, path, seen)
                if isinstance(bound, tuple) and self.is_module(bound, path) and rest[1:]:
                    at, rest = bound, rest[1:]
                    continue
                return bound
            for glob in module.globs:
                inner = self.resolve(module, glob, seen)
                if inner and rest[0] in self.modules[inner].items | set(self.modules[inner].names):
                    return self.descend(inner, rest, seen)
            return at
        return at if at in self.modules else None

    @staticmethod
    def is_module(found, path):
        """Whether the path itself leads to a module, and not to an item in it."""
        return found[-1] == path[-1]

    def edges(self):
        """Which file imports which, and in which line first."""
        edges = {}
        for module in self.modules.values():
            for path, line in module.refs:
                found = self.resolve(module, path)
                # A module's own files may use what it defines: they are a part of it.
                if not found or module.name[: len(found)] == found:
                    continue
                # A module that is imported as such is referred to where something of it is named.
                if found[-1] == path[-1] and path[-1][0].islower() and path[-1] not in self.modules[found].items:
                    continue
                edges.setdefault(module.name, {}).setdefault(found, line)
        return edges

    def file(self, name):
        return str(self.modules[name].path.relative_to(ROOT))


def circles(edges):
    """Strongly connected components of more than one file (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges.get(node, {}):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            found.append(stack[at:])
            del stack[at:]

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return [component for component in found if len(component) > 1]


def main():
    names = [name for name in sys.argv[1:] if not name.startswith("--")] or CRATES
    wrong = False
    sys.setrecursionlimit(10_000)
    for name in names:
        crate = Crate(name)
        edges = crate.edges()
        if "--edges" in sys.argv:
            for module, others in sorted(edges.items()):
                print(crate.file(module), *sorted(crate.file(other) for other in others))
        for circle in circles(edges):
            wrong = True
            print(f"{name}: {len(circle)} files import each other:")
            for module in sorted(circle):
                for other, line in sorted(edges[module].items()):
                    if other in circle:
                        print(f"  {crate.file(module)}:{line} imports {crate.file(other)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
