"""Make the documentation: `python tools/docs.py` writes docs/reference/, `python tools/docs.py site` builds build/site.

The site is README.md (its first page), docs/, ARCHITECTURE.md, CONTRIBUTING.md, SECURITY.md and CHANGELOG.md, each as
it is in the repository but for links, which are made to hold on the site. It loads nothing from anywhere else.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

import retrodict
from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.dynamics.verify import Verifier
from retrodict.models import protocol
from retrodict.models.token_family import TokenFamily
from retrodict.recipes.reference import Key, keys
from retrodict.training.config import TrainRecipe
from retrodict.worlds.base import World

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build"
HOME = {"README.md": "index.md"} | {
    f"{name}.md": f"{name.lower()}.md" for name in ("ARCHITECTURE", "CONTRIBUTING", "SECURITY", "CHANGELOG", "AGENTS")
}
MADE = "<!-- Made by tools/docs.py: change what it is made from, then run `make docs`. -->\n\n"
PROTOCOLS = (
    protocol.InverseModel,
    protocol.ProposingInverseModel,
    protocol.ForwardModel,
    protocol.ScoringForwardModel,
    Verifier,
    World,
    TokenFamily,
    protocol.Candidate,
    protocol.LogProb,
)


def recipe_page() -> str:
    """Every key of both recipes; a section that stands twice is described once."""
    lines = [
        MADE + "# Recipe reference\n",
        "A recipe is YAML. An unknown key is an error that names the nearest one; relative paths count from the "
        "recipe's folder; `--set forward.steps=200` overrides a key; `recipe.yaml` beside the output "
        "records what was used. "
        "The same text in a terminal: `retrodict recipe --explain forward.steps`.\n",
    ]
    described: dict[object, tuple[str, dict[str, Key]]] = {}
    for command, kind in (("bootstrap", BootstrapRecipe), ("train", TrainRecipe)):
        sections: dict[str, list[Key]] = {"": []}
        for key in keys(kind):
            sections.setdefault(key.name.rpartition(".")[0], []).append(key)
        lines.append(f"## `retrodict {command}` { {'bootstrap': 'the whole loop', 'train': 'one model'}[command] }\n")
        owners = {key.name: key for group in sections.values() for key in group if key.section}
        for name, group in sections.items():
            owner = owners.get(name.replace("[]", "")) or owners.get(name)
            if name:
                lines.append(f"### `{command}`: `{name}`\n")
                lines.append(f"{owner.meaning}\n" if owner else "")
            leaves = {key.name.rpartition(".")[2]: key for key in group}
            if owner and owner.section in described:
                where, before = described[owner.section]
                other = [
                    f"`{leaf}`: {key.default}" for leaf, key in leaves.items() if key.default != before[leaf].default
                ]
                lines.append(
                    f"The keys of [{where}](#{slug(where)})"
                    + (f"; defaults here: {', '.join(other)}" * bool(other))
                    + ".\n"
                )
                continue
            if owner:
                described[owner.section] = f"`{command}`: `{name}`", leaves
            lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
            lines += [
                f"| `{leaf}` | {k.type} | {_code(k.default)} | {_cell(k.meaning)} |" for leaf, k in leaves.items()
            ]
            lines.append("")
    return "\n".join(lines)


def api_page() -> str:
    """What `import retrodict` offers, and the protocols that models meet."""
    lines = [MADE + "# Python reference\n", "## Names of `retrodict`\n"]
    for name in sorted(retrodict.__all__, key=str.lower):
        lines += _entry(f"retrodict.{name}", getattr(retrodict, name))
    lines.append("## Protocols and what they exchange\n")
    for kind in PROTOCOLS:
        lines += _entry(f"{kind.__module__}.{kind.__name__}", kind)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n"


def _entry(name: str, thing: object) -> Iterator[str]:
    short = name.rpartition(".")[2]
    yield f"### `{short}`\n"
    if not inspect.isclass(thing):
        yield f"```\n{_signature(name, thing)}\n```\n"
        yield _text(inspect.getdoc(thing) or "")
        return
    yield f"```\nclass {name}\n```\n"
    yield _text(inspect.getdoc(thing) or "")
    if dataclasses.is_dataclass(thing):
        yield "\n".join(f"- `{field.name}`: `{field.type}`" for field in dataclasses.fields(thing)) + "\n"
    for attribute, given in vars(thing).items():
        getter = given.fget if isinstance(given, property) else getattr(given, "func", None)
        method = getter or getattr(given, "__func__", given)
        if not attribute.startswith("_") and inspect.isfunction(method) and method.__doc__:
            yield f"#### `{short}.{attribute}`\n"
            yield f"```\n{_signature(attribute, method, is_value=getter is not None)}\n```\n"
            yield _text(inspect.getdoc(method) or "")


def _signature(name: str, function: object, *, is_value: bool = False) -> str:
    assert callable(function)
    signature = inspect.signature(function)
    result = "" if signature.return_annotation is inspect.Signature.empty else f" -> {signature.return_annotation}"
    if is_value:
        return name + result.replace(" ->", ":")
    parts = []
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts and not any(p.startswith("*") for p in parts):
            parts.append("*")
        text = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "") + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {parameter.annotation}"
        if parameter.default is not parameter.empty:
            text += f" = {_default(parameter.default)}"
        parts.append(text)
    line = f"{name}({', '.join(parts)}){result}"
    return line if len(line) <= 100 else f"{name}(\n    " + ",\n    ".join(parts) + f",\n){result}"


def _default(value: object) -> str:
    if dataclasses.is_dataclass(value):
        changed = [
            f"{field.name}={getattr(value, field.name)!r}"
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != field.default
        ]
        return f"{type(value).__name__}({', '.join(changed)})"
    return getattr(value, "__name__", type(value).__name__ + "()") if callable(value) else repr(value)


def _text(doc: str) -> str:
    """A docstring of Google's style as Markdown."""
    lines, inside = [], False
    for line in doc.splitlines():
        if re.fullmatch(r"(Args|Returns|Raises|Attributes):", line):
            inside = True
            lines.append(f"\n**{line.removesuffix(':')}**\n")
        elif inside and (match := re.match(r" {4}(\*{0,2}\w+): (.*)", line)):
            lines.append(f"- `{match[1]}`: {match[2]}")
        elif inside and line.startswith("    "):
            lines.append(("  " if lines[-1].startswith(("- ", "  ")) else "") + line.strip())
        else:
            inside = inside and not line.strip()
            lines.append(line)
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(default: str) -> str:
    return default if default in ("required", "none", "those of its keys") else f"`{default}`"


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


def pages() -> dict[str, str]:
    """The site's pages: their path on it, and their text with its links."""
    sources = {target: ROOT / name for name, target in HOME.items()}
    sources |= {p.relative_to(ROOT / "docs").as_posix(): p for p in sorted((ROOT / "docs").rglob("*.md"))}
    at = {source.resolve(): target for target, source in sources.items()}

    def link(match: re.Match[str], target: str) -> str:
        path, hash_, anchor = match[2].partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        there = (sources[target].parent / path).resolve()
        if not there.exists():
            raise ValueError(f"{sources[target].relative_to(ROOT)} links to {path}, which is not there.")
        if there in at:
            up = "../" * target.count("/")
            return f"[{match[1]}]({up}{at[there]}{hash_}{anchor})"
        if there.suffix in (".png", ".svg"):
            return match[0]
        return match[1] if match[1].startswith("`") else f"`{there.relative_to(ROOT).as_posix()}`"  # not on the site

    return {
        target: re.sub(r"(?<!!)\[([^]]+)\]\(([^)\s]+)\)", lambda m, t=target: link(m, t), source.read_text("utf-8"))
        for target, source in sources.items()
    }


def write_references(folder: Path) -> None:
    """Write the pages that are made from the code."""
    (folder / "reference").mkdir(parents=True, exist_ok=True)
    (folder / "reference" / "recipe.md").write_text(recipe_page(), encoding="utf-8")
    (folder / "reference" / "api.md").write_text(api_page(), encoding="utf-8")


def build_site() -> None:
    """Build build/site with Zensical, and what language models read there: llms.txt and llms-full.txt."""
    docs, site = BUILD / "docs", BUILD / "site"
    shutil.rmtree(docs, ignore_errors=True)
    shutil.copytree(ROOT / "docs", docs, ignore=shutil.ignore_patterns("*.md"))
    texts = pages()
    for path, text in texts.items():
        (docs / path).parent.mkdir(parents=True, exist_ok=True)
        (docs / path).write_text(text, encoding="utf-8")
    subprocess.run(["zensical", "build", "--clean", "--strict", "-f", str(ROOT / "mkdocs.yml")], check=True, cwd=ROOT)
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))
    index = [f"# {settings['site_name']}\n", f"> {settings['site_description']}\n"]
    for part in settings["nav"]:
        for title, entries in part.items():
            index.append(f"## {title}\n")
            for entry in [{title: entries}] if isinstance(entries, str) else entries:
                index += [f"- [{name}]({path})" for name, path in entry.items()]
            index.append("")
    (site / "llms.txt").write_text("\n".join(index), encoding="utf-8")
    (site / "llms-full.txt").write_text("\n\n".join(texts.values()), encoding="utf-8")
    for path, text in texts.items():  # what llms.txt links to
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_references(ROOT / "docs")
    if sys.argv[1:] == ["site"]:
        build_site()
