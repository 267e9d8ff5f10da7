"""Walk the commands of README.md in this folder: say what is there and what is missing, or run them.

    python recipes/paper/walk.py --dry-run [--family liquid]

From the repository's root, as `make paper`. README.md is the list: what to download is the table of section 1, what to
run are the lines of its `sh` blocks. A command whose output is there is not run again, except those of retrodict that
continue by themselves; the walk stops before a command whose input is missing.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

README = Path(__file__).with_name("README.md")
TOPS = ("recipes/", "runs/")  # what begins so in a command is a path
SHARED = ("bootstrap", "annotate")  # several GPUs share these


@dataclass(frozen=True)
class Command:
    section: str
    words: tuple[str, ...]

    @property
    def outputs(self) -> list[Path]:
        """What it makes: after `--out` or `-o`; of git the folder, of an archive what is in it."""
        if self.words[0] == "git":
            return [Path(self.words[-1])]
        if "zipfile" in self.words:
            archive, folder = map(Path, self.words[-2:])
            return [folder / name for name in ZipFile(archive).namelist()] if archive.is_file() else []
        return [Path(after) for word, after in zip(self.words, self.words[1:], strict=False) if word in ("--out", "-o")]

    @property
    def inputs(self) -> list[Path]:
        made = {str(path) for path in self.outputs}
        paths = [Path(word) for word in self.words if word.startswith(TOPS) and word not in made]
        return paths[:1] if "zipfile" in self.words else [] if self.words[0] == "git" else paths

    @property
    def is_done(self) -> bool:
        outputs = self.outputs
        return self.words[0] != "retrodict" and bool(outputs) and all(path.exists() for path in outputs)


def commands(family: str) -> Iterator[Command]:
    section, inside = "", False
    for line in _text(family).splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        elif line.startswith("```"):
            inside = line == "```sh"
        elif inside:
            yield Command(section, tuple(shlex.split(line)))


def downloads(family: str) -> Iterator[tuple[Path, str]]:
    """Where each thing has to be, and what it is: the rows of the table."""
    for row in re.findall(r"^\| `(.+?)` \| (.+) \|$", _text(family), flags=re.MULTILINE):
        yield Path(row[0]), row[1].replace(r"\|", "|").replace(" | ", "; ")


def _text(family: str) -> str:
    text = README.read_text(encoding="utf-8")
    if family == "chameleon":
        return text
    return re.sub(r"(?<=[/ ])chameleon(?=[-./ `]|$)", family, text, flags=re.MULTILINE)


def missing(command: Command, family: str, made: set[Path]) -> list[str]:
    """Inputs that are not there and that no command before makes, with where to get them."""
    known = dict(downloads(family))
    absent = [path for path in command.inputs if not path.exists() and made.isdisjoint((path, *path.parents))]
    homes = {path: next((place for place in (path, *path.parents) if place in known), path) for path in absent}
    return [f"{path}: {known.get(homes[path], 'made by no command')}" for path in absent]


def dry_run(family: str) -> None:
    for path, what in downloads(family):
        print(f"there    {path}" if path.exists() else f"MISSING  {path}\n         {what}")
    section, made = "", set()
    for command in commands(family):
        if command.section != section:
            section = command.section
            print(f"\n{section}")
        there = bool(command.outputs) and all(path.exists() for path in command.outputs)
        waits = missing(command, family, made)
        made.update(command.outputs)
        state = "done" if command.is_done else "begun" if there else "waits" if waits else ""
        print(f"  {state:6} {shlex.join(command.words)}")
        for line in waits:
            print(f"         for {line.partition(':')[0]}")


def run(command: Command, gpus: int) -> int:
    name, *rest = command.words
    python = [sys.executable, *rest] if name == "python" else list(command.words)
    if name == "retrodict":
        several = gpus > 1 and rest[0] in SHARED and "--dry-run" not in rest
        launch = ["torch.distributed.run", f"--nproc-per-node={gpus}", "-m"] if several else []
        python = [sys.executable, "-m", *launch, "retrodict", *rest]
    return subprocess.run(python, check=False).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="only say what is there and what is missing")
    parser.add_argument("--family", default="chameleon", choices=("chameleon", "liquid"))
    parser.add_argument("--gpus", type=int, default=1, help="processes that share training and labelling")
    arguments = parser.parse_args()
    if arguments.dry_run:
        dry_run(arguments.family)
        return 0
    for command in commands(arguments.family):
        if command.is_done:
            continue
        if lacking := missing(command, arguments.family, set()):
            print(f"{shlex.join(command.words)}\nwaits for\n  " + "\n  ".join(lacking), file=sys.stderr)
            return 2
        print(f"$ {shlex.join(command.words)}", flush=True)
        if code := run(command, arguments.gpus):
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
