"""What docs/extend.md says, done."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrodict.dynamics import verifiers
from retrodict.dynamics.verifiers import VerifierKind
from retrodict.evaluation import metrics
from retrodict.evaluation.compare import compare_runs
from retrodict.evaluation.judge.kinds import JUDGES, JudgeKind
from retrodict.evaluation.judge.plan import Plan
from retrodict.evaluation.judge.run import judge_run

ROOT = Path(__file__).parents[1]


def fenced(section: str) -> list[str]:
    """The code blocks of a section of docs/extend.md."""
    text = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    body = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(r"```\w+\n(.*?)```", body, flags=re.S)


@pytest.fixture
def registered() -> Iterator[dict[str, Any]]:
    """The verifier of the page, in the table as the page says."""
    program, record = fenced("A verifier")
    names: dict[str, Any] = {"VerifierKind": VerifierKind}
    exec(program.rpartition("\n\n\n")[0], names)  # all but the call
    table = dict(verifiers.VERIFIERS)
    added = eval("{" + record + "}", names)
    verifiers.VERIFIERS.update(added)
    yield names
    verifiers.VERIFIERS.clear()
    verifiers.VERIFIERS.update(table)


def test_a_verifier_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    program, _ = fenced("A verifier")
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(program.replace("retrodict.predict(", "made = retrodict.predict("), names)
    made = names["made"]
    assert (made.verifier, made.scores[made.chosen]) == ("brightest", max(made.scores))


def test_a_verifier_by_name(registered: dict[str, Any], tiny_model: Path, tmp_path: Path) -> None:
    import retrodict
    from retrodict.worlds import get_world

    (row,) = get_world("tabletop").sample(1, 0, namespace="bench")
    made = retrodict.predict(row.source_image, row.action, n=4, model=tiny_model, verifier="brightest")
    brightness = [float(np.asarray(candidate.image).mean()) for candidate in made.candidates]
    assert made.chosen == int(np.argmax(brightness))
    found = retrodict.bench("tabletop", out=tmp_path, model=str(tiny_model), verifier="brightest", n=2, items=2)
    assert found["systems"][tiny_model.name]["k2"]["selector"] == "brightest"
    assert "brightest" in json.loads((tmp_path / "results.json").read_text())["systems"][tiny_model.name]["k2"]
    assert f"by {registered_title()}" in (tmp_path / "report.html").read_text(), "the curve has its name"


def registered_title() -> str:
    return verifiers.VERIFIERS["brightest"].title


def test_commands_offer_every_record() -> None:
    # In a process of its own, where the record is there before the commands are.
    code = (
        "from typer.testing import CliRunner; from retrodict.dynamics import verifiers as v; "
        "v.VERIFIERS['brightest'] = v.VERIFIERS['random']; from retrodict.cli import app; "
        "[print(CliRunner().invoke(app, [command, '--verifier', 'x']).stderr) "
        "for command in ('predict', 'rollout', 'rerank', 'bench')]"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.count("brightest") == 4, said


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    """A run on anybody's folder, measured with the page's metric, too."""
    from retrodict.report.runs import bench
    from retrodict.transitions import write_rows
    from retrodict.worlds import get_world

    names: dict[str, Any] = {"Metric": metrics.Metric, "np": np}
    (record,) = fenced("A metric")
    rows = [replace(row, provenance={}) for row in get_world("tabletop").sample(12, 0, namespace="bench")]
    write_rows(tmp_path / "data" / "rows.parquet", rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(metrics.METRICS, "brightness", eval("{" + record + "}", names)["brightness"])
        bench(str(tmp_path / "data"), out=tmp_path / "run", model="copy", n=1)
        yield tmp_path / "run"


def test_a_metric(run: Path) -> None:
    entry = json.loads((run / "results.json").read_text())["metrics"]["brightness"]["all"]
    assert entry["ground_truth"]["value"] == 0 < entry["copy"]["value"]
    assert '<th scope="col">Brightness</th>' in (run / "report.html").read_text()
    compared = compare_runs(run, run, measure="brightness", rows=("ground_truth", "copy"))
    assert not compared["higher_is_better"] and compared["all"]["difference"] < 0


def test_a_judge(run: Path) -> None:
    program, record = fenced("A judge")
    names: dict[str, Any] = {"JudgeKind": JudgeKind}
    exec(program, names)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(JUDGES, "lenient", eval("{" + record + "}", names)["lenient"])
        with pytest.raises(ValueError, match="not trusted"):
            judge_run(run, Plan(kind="lenient"))
        measured = judge_run(run, Plan(kind="lenient", force=True))
    assert measured["rows"]["copy"]["score"] == 10
    assert json.loads((run / "judge" / "lenient.json").read_text())["forced"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the path of every Python that `python` starts: the page's module and its record are part of them."""
    folder = tmp_path_factory.mktemp("toy")
    module, record = fenced("A model family")
    (folder / "models").mkdir()
    (folder / "models" / "toy.py").write_text(module)
    (folder / "sitecustomize.py").write_text(
        "import retrodict.models\n"
        "from retrodict.models.registry import FAMILIES, Checkpoint, Family, Part, Size\n"
        f"retrodict.models.__path__.append({str(folder / 'models')!r})\n"
        f"FAMILIES['toy'] = {record}"
    )
    return folder


def python(toy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(toy), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=toy, env=environment, capture_output=True, text=True, check=False, timeout=600
    )


USE = """
import json, torch
from pathlib import Path
from PIL import Image
import retrodict
from retrodict.models.registry import card_of, tiny_family
from retrodict.worlds import get_world

torch.manual_seed(0)
made = tiny_family("toy")(get_world("tabletop").vocabulary())
made.save(Path("base"))
red = Image.new("RGB", (96, 96), "red")
prediction = retrodict.predict(red, "push the red ball", n=2, model="base", verifier="idm")
explanation = retrodict.explain(red, prediction.image, model="base")
print(json.dumps({
    "card": card_of(Path("base")), "size": prediction.image.size, "scores": list(prediction.scores),
    "logprob": explanation.logprob.sum, "prompt": explanation.prompt,
}))
"""


PLAN = """
from pathlib import Path

from retrodict.bootstrap.context import Context
from retrodict.bootstrap.loop import RECIPES, stages_of
from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.recipes import load_recipe

recipe = load_recipe(RECIPES / "demo-tiny.yaml", BootstrapRecipe, ["family=toy"])
print([stage.name for stage in stages_of(Context(Path("demo"), recipe)) if stage.name == "bench_fdm"][0])
"""


@pytest.mark.slow
def test_a_family_is_a_module_and_a_record(toy: Path) -> None:
    used = python(toy, "-c", USE)
    assert used.returncode == 0, used.stderr
    said: dict[str, Any] = json.loads(used.stdout)
    assert said["card"] == {"family": "toy"}, "a published folder is known by its config.json"
    assert said["size"] == [96, 96]
    assert np.isfinite([*said["scores"], said["logprob"]]).all()
    assert said["prompt"] == "plain-inverse-1"
    (toy / "recipe.yaml").write_text(
        "direction: forward\nfamily: toy\ninit: nowhere\nlora: {}\ndata: {train: [{path: none, expected: 1000}]}\n"
    )
    # The demo is a recipe of the loop, which test_loop.py runs for families of this kind.
    planned = python(toy, "-c", PLAN)
    assert planned.stdout.split()[-1:] == ["bench_fdm"], planned.stderr
    cost = python(toy, "-m", "retrodict", "train", "recipe.yaml", "--dry-run")
    assert cost.returncode == 0, cost.stderr
    # 16 x (2 x 2048^2 + 2 x 2048 x 512 + 3 x 2048 x 8192), and two tables of 136448 x 2048
    assert "weights      1.53 billion" in cost.stdout
    assert "retrodict download toy --out nowhere" in cost.stdout


def test_a_prompt_is_a_line_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrodict.dynamics.sequences import build
    from retrodict.models.tiny import tiny_liquid
    from retrodict.prompts import PROMPTS, Prompt, Slot
    from retrodict.prompts.chat import load_chat_prompt

    line, file = fenced("A prompt")
    prompt: Prompt = eval(line, {"Prompt": Prompt, "Slot": Slot})
    monkeypatch.setitem(PROMPTS, prompt.id, prompt)
    family = tiny_liquid(["push it"])
    codes_L = np.arange(family.spec.tokens) % family.spec.codebook
    sequence = build(family, "inverse", source_L=codes_L, target_L=codes_L, action="push it", prompt=prompt.id)
    assert sequence.prompt == "toy-inverse-1"
    start, stop = sequence.segments.completion or (0, 0)
    assert family.text(sequence.ids_T[start : stop - 1].tolist()) == "push it"
    assert "What happened?" in family.text(sequence.ids_T[:start].tolist())

    (tmp_path / "my.yaml").write_text(file)
    chat = load_chat_prompt(str(tmp_path / "my.yaml"))
    assert (chat.id, [value for kind, value in chat.parts("open it") if kind == "image"]) == (
        "strict_v1",
        ["source", "prediction"],
    )


def test_a_world_is_a_file_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import retrodict
    from retrodict import worlds

    (line,) = fenced("A world")
    (tmp_path / "dots.py").write_bytes((ROOT / "tests" / "toy_world.py").read_bytes())
    monkeypatch.setattr(worlds, "__path__", [*worlds.__path__, str(tmp_path)])
    for name, module in eval("{" + line + "}").items():
        monkeypatch.setitem(worlds.WORLDS, name, module)
    found = retrodict.bench("dots", out=tmp_path / "run", model="copy", n=1, items=4)
    assert (found["ground_truth"]["score"], found["systems"]["copy"]["greedy"]["score"]) == (1, 0)


def test_a_layout_is_a_file_and_a_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrodict import data
    from retrodict.data.layouts import LAYOUTS, Layout, labelled_layouts
    from retrodict.worlds import get_world

    module, record = fenced("A data layout")
    (tmp_path / "flat.py").write_text(module)
    monkeypatch.setattr(data, "__path__", [*data.__path__, str(tmp_path)])
    monkeypatch.setitem(LAYOUTS, "flat", eval("{" + record + "}", {"Layout": Layout})["flat"])
    (video,) = get_world("tabletop").write_videos(tmp_path / "made", 1, 0, actions=1, truth=tmp_path / "truth")
    (tmp_path / "videos").mkdir()
    video.rename(tmp_path / "videos" / "kitchen3-open the drawer.mp4")
    (ref,) = data.read_clips("flat", tmp_path / "videos")
    (row,) = data.transitions(data.labelled_clips("flat", tmp_path / "videos"), Counter())
    assert (ref.group, row.group, row.action) == ("kitchen3", "kitchen3", "open the drawer")
    assert "flat" in labelled_layouts()
