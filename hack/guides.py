"""How the guides are written: fenced blocks, the commands in them, and those that the test bed cannot run."""

import pathlib
import re
import subprocess
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent


def blocks(text):
    """(language, first line, text) of each fenced block."""
    for match in re.finditer(r"^( *)```(\w+)\n(.*?)^\1```$", text, re.S | re.M):
        yield match[2], text[: match.start()].count("\n") + 1, textwrap.dedent(match[3])


def simple_commands(text):
    """Each simple command of shell text, without the insides of quotes, which begin no command."""
    text = re.sub(r"\\\n\s*", " ", text)
    text = re.sub(r"'[^']*'", "''", text)
    for line in text.splitlines():
        for piece in re.split(r"\||&&|;|\$\(", line.split(" #")[0]):
            piece = piece.strip().rstrip('&)"').strip()
            piece = re.sub(r'^(\w+="?[^\s"]*"?\s*)+', "", piece)
            if piece and not piece.startswith("#"):
                yield piece


def whole_commands(text):
    """Each command of shell text as it is typed: continued lines, open quotes and pipes belong to one."""
    lines = text.splitlines()
    while lines:
        command = lines.pop(0)
        while lines and (
            command.endswith("\\")
            or re.match(r"\s*\|", lines[0])
            or subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False).returncode
        ):
            command += "\n" + lines.pop(0)
        if command.strip() and not command.startswith("#"):
            yield command


def cannot_run():
    """Why the test bed cannot run a command, by the beginning of the command."""
    lines = (ROOT / "hack/guides-cannot-run.txt").read_text().splitlines()
    return dict(re.split(r"\s+\|\s+", line) for line in lines if line and not line.startswith("#"))
