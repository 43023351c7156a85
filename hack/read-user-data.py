#!/usr/bin/env python3
"""Splits user data into files for the checks of hack/lint-user-data.sh.

Usage: read-user-data.py USER_DATA FOLDER KUBELET_ROOT

Writes to FOLDER: `scripts/`, every file of the guest with a shebang, and cloud-init's commands as one script; `files`,
paths of all files; and, if there is a kubelet, `kubelet`, its command line with one word a line and all paths below KUBELET_ROOT,
where its files are written.
"""

import base64
import gzip
import json
import pathlib
import shlex
import sys


def guest_files(text):
    """Paths and contents, and the commands of a cloud-config."""
    if text.startswith("#cloud-config\n"):
        # Below its first line it is JSON, which is YAML, too.
        config = json.loads(text.split("\n", 1)[1])
        files = {f["path"]: base64.b64decode(f["content"], validate=True) for f in config["write_files"]}
        return files, config.get("runcmd", [])
    files = {}
    for file in json.loads(text)["storage"]["files"]:
        content = base64.b64decode(file["contents"]["source"].removeprefix("data:;base64,"), validate=True)
        if file["contents"].get("compression") == "gzip":
            content = gzip.decompress(content)
        files[file["path"]] = content
    return files, []


def command_line(unit):
    """The words of ExecStart, as systemd would read them."""
    lines = unit.replace("\\\n", " ").splitlines()
    line = next(line for line in lines if line.startswith("ExecStart="))
    words = shlex.split(line.removeprefix("ExecStart="))
    return [word.replace("$$", "$").replace("%%", "%").replace("${NODE_IP}", "10.0.0.5,fd00::5") for word in words]


def main():
    source, folder, root = (pathlib.Path(argument) for argument in sys.argv[1:])
    files, commands = guest_files(source.read_text())
    scripts = folder / "scripts"
    scripts.mkdir(parents=True)
    if commands:
        lines = [c if isinstance(c, str) else shlex.join(c) for c in commands]
        (scripts / "runcmd").write_text("\n".join(["#!/bin/sh"] + lines) + "\n")
    for path, content in files.items():
        if content.startswith(b"#!"):
            (scripts / path.strip("/").replace("/", "_")).write_bytes(content)
    (folder / "files").write_text("\n".join(files) + "\n")

    def here(text):
        for path in ("/etc/kubernetes/", "/var/lib/kubelet"):
            text = text.replace(path, f"{root}{path}")
        return text

    for path, content in files.items():
        if path.startswith("/etc/kubernetes/") and not path.endswith("/ca.crt"):
            target = root / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            text = here(content.decode())
            if path.endswith("/kubelet-config.yaml"):
                # Guests have cgroups v2; the machine that lints may not.
                text = json.dumps(json.loads(text) | {"failCgroupV1": False}, indent=2)
            target.write_text(text)
    words = command_line(files["/etc/systemd/system/kubelet.service"].decode())
    (folder / "kubelet").write_text("\n".join(here(word) for word in words[1:]) + "\n")


main()
