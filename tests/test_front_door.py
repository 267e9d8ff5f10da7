"""What a user's editor, type checker and notebook see of `import retrodict`."""

from __future__ import annotations

import base64
import math
import subprocess
import sys
from pathlib import Path

import pytest
from mypy import api as mypy
from PIL import Image

import retrodict
from retrodict.dynamics.best_of_n import Prediction
from retrodict.images import encode_png, read_image
from retrodict.models.protocol import Candidate, Explanation, LogProb
from retrodict.transitions import FramePair, Transition, read_transitions, write_rows
from retrodict.worlds import get_world

SCRIPT = """
import retrodict

reveal_type(retrodict.predict("a.png", "x"))
reveal_type(retrodict.rollout("a.png", ["x", "y"])[0].image)
reveal_type(retrodict.explain("a.png", "b.png").logprob.sum)
reveal_type(retrodict.rerank("a.png", "x", ["b.png"]))
reveal_type(retrodict.load("small", role="inverse"))
retrodict.annotate("pairs", model="small", out="labelled")
retrodict.predict("a.png", "x", nn=3)
retrodict.predictt
"""

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def test_type_checkers_see_real_signatures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MYPYPATH", str(ROOT / "src"))
    # Strict, as the package itself is checked, whose cache makes it quick: from nothing it takes a minute.
    settings = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    seen, _, _ = mypy.run([*settings, "script.py"])
    types = [line.partition("Revealed type is ")[2].strip('"') for line in seen.splitlines() if "Revealed" in line]
    assert types == [
        "retrodict.dynamics.best_of_n.Prediction",
        "PIL.Image.Image",
        "float",
        "list[tuple[str, float]]",
        "retrodict.models.protocol.InverseModel",
    ]
    errors = [line for line in seen.splitlines() if ": error:" in line]
    assert len(errors) == 2, seen
    assert 'Unexpected keyword argument "nn" for "predict"' in errors[0]
    assert 'Module has no attribute "predictt"' in errors[1]


def test_names_are_what_they_say_and_load_nothing_before() -> None:
    assert set(retrodict.__all__) < set(dir(retrodict))
    for name in retrodict.__all__:
        assert getattr(retrodict, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'predictt'"):
        retrodict.predictt  # noqa: B018
    loads = "import sys, retrodict; print({'torch', 'numpy', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", loads], check=True, capture_output=True, text=True).stdout == "set()\n"


# What predicting and labelling with the shipped model has no use for, at seconds each.
UNUSED = {
    *("accelerate", "av", "cv2", "datasets", "huggingface_hub", "jinja2", "peft", "pymunk", "scipy"),
    *("sympy", "torch._dynamo", "transformers"),
}
USES = """
import sys
from retrodict import annotate, explain, predict, rerank

source, target, pairs, labels = sys.argv[1:]
action = explain(source, target).action
predict(source, action, n=2)
rerank(source, action, [source, target])
print(*sorted(sys.modules))
annotate(pairs, model="small", out=labels)
print(*sorted(sys.modules))
"""


def test_using_the_shipped_model_loads_only_what_it_needs(tmp_path: Path) -> None:
    source, target = (EXAMPLES / name for name in ("before.png", "after.png"))
    pair = FramePair(id="pair", source=source.read_bytes(), target=target.read_bytes())
    write_rows(tmp_path / "pairs" / "part-00000.parquet", [pair], FramePair)
    command = [sys.executable, "-c", USES, str(source), str(target), str(tmp_path / "pairs"), str(tmp_path / "labels")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    predicted, labelled = (set(line.split()) for line in done.stdout.splitlines())
    assert "torch" in predicted and "pyarrow" in labelled
    assert not predicted & {*UNUSED, "pyarrow", "pandas"}  # which pyarrow looks for
    assert not labelled & UNUSED


def test_folders_may_be_strings(tiny_model: Path, tmp_path: Path) -> None:
    tabletop = get_world("tabletop")
    tabletop.write_videos(tmp_path / "videos", 2, 0, actions=2, truth=tmp_path / "truth")
    pairs, labelled, chosen = (str(tmp_path / name) for name in ("pairs", "labelled", "chosen"))
    assert retrodict.mine(str(tmp_path / "videos"), pairs, executor_name="serial").pairs > 0
    retrodict.annotate(pairs, model=str(tiny_model), out=labelled)
    retrodict.select(labelled, top_k=1, out=chosen)
    assert len(read_transitions(Path(chosen))) == 1
    assert retrodict.bench("tabletop", out=str(tmp_path / "bench"), model="copy", items=2)["system"] == "copy"


def test_results_show_themselves_in_a_notebook() -> None:
    white = Image.new("RGB", (300, 200), "white")
    candidates = (Candidate(white, logprob=LogProb(-3.0, 2)), Candidate(white))
    shown = Prediction(candidates, (-1.5, math.nan), 0, "<idm>")._repr_html_()
    assert (shown.count("<img"), shown.count("#2a7"), shown.count("-1.50")) == (2, 1, 1)
    assert "&lt;idm&gt;" in shown
    assert "<idm>" not in shown
    first = base64.b64decode(shown.split("base64,")[1].split('"')[0])
    assert read_image(first).size == (128, 85)
    assert read_image(candidates[0]._repr_png_()).size == (300, 200)
    assert len(repr(Prediction(candidates, (-1.5, math.nan), 0, "idm"))) < 100

    row = Transition(id="a", source=encode_png(white), action="put <it> away")
    assert (row._repr_html_().count("<img"), "put &lt;it&gt; away" in row._repr_html_()) == (1, True)
    assert len(repr(row)) < 100
    assert Explanation("go <b>", LogProb(-1, 1))._repr_html_() == "<b>go &lt;b&gt;</b> (log-probability -1.00)"
