"""The command line: quick to start, and one clear line when something is wrong."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from retrodict import _HOMES, __version__
from retrodict.cli import app
from retrodict.errors import check_output, check_output_file, guarded
from retrodict.versions import command_line

HEAVY = {"torch", "transformers", "cv2", "numpy", "pyarrow", "PIL", "pymunk", "av", "pydantic", "yaml"}
VERBS = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_import_and_help_load_nothing_heavy() -> None:
    code = (
        "import sys, retrodict; from retrodict.cli import main\n"
        "try: main()\n"
        f"except SystemExit: print(sorted({HEAVY} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
    assert all(verb in result.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_with_an_example(verb: str) -> None:
    result = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "100"})
    assert result.exit_code == 0
    assert f"retrodict {verb}" in result.stdout.partition("Example")[2] or verb == "info"
    command = next(c for c in typer.main.get_command(app).commands.items() if c[0] == verb)[1]  # type: ignore[attr-defined]
    assert [p.name for p in command.params if not p.help] == []


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("no\nsuch action"), 2, "no such action"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.png"), 2, "a.png: no such file"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "no space left on device"),
        (ImportError("this needs: pip install 'retrodict[ray]'"), 2, "this needs: pip install 'retrodict[ray]'"),
        (OSError(errno.EIO, "I/O error"), 2, "i/o error"),
        (OSError(errno.EBADF, "Bad descriptor"), 1, "OSError: bad descriptor (for the traceback: RETRODICT_DEBUG=1)"),
        (KeyError("x"), 1, "KeyError: 'x' (for the traceback: RETRODICT_DEBUG=1)"),
        (KeyboardInterrupt(), 130, "stopped; the same command continues"),
    ],
)
def test_errors_are_one_line(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command() -> None:
        raise error

    monkeypatch.delenv("RETRODICT_DEBUG", raising=False)
    with pytest.raises(typer.Exit) as caught:
        guarded(command)()
    assert (caught.value.exit_code, capsys.readouterr().err) == (code, f"retrodict: {line}\n")
    if isinstance(error, Exception):
        monkeypatch.setenv("RETRODICT_DEBUG", "1")
        with pytest.raises(type(error)):
            guarded(command)()


def test_outputs_are_checked_before_work_and_nothing_is_made(tmp_path: Path) -> None:
    assert check_output(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert check_output_file(tmp_path / "new" / "next.png")
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(ValueError, match=r"a file"):
            check_output(wrong)
    with pytest.raises(ValueError, match="is a folder"):
        check_output_file(tmp_path)
    with pytest.raises(OSError, match="nothing can be written there"):
        check_output(Path("/proc/retrodict"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_recipe_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("data: {labelled: pairs, vidoes: [a]}\n")
    code, line = run("bootstrap", str(recipe), "--out", str(tmp_path / "out"))
    assert code == 2
    assert line == f"retrodict: {recipe}: `data.vidoes`: unknown key; did you mean `data.videos`?\n"
    assert run("bootstrap", str(tmp_path / "none.yaml"), "--out", "o")[0] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["r.yaml"]


@pytest.mark.parametrize("name", sorted(_HOMES))
def test_public_names_exist(name: str) -> None:
    import retrodict

    assert name in dir(retrodict)
    assert callable(getattr(retrodict, name))


def test_version() -> None:
    assert run("--version") == (0, f"{__version__}\n")


def test_the_recorded_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/lib/retrodict/__main__.py", "predict", "a.png", "push the ball"])
    assert command_line() == "retrodict predict a.png 'push the ball'"
