"""The whole loop on tiny models of families, through the command line. It proves the plumbing and nothing
else: the weights are random, so the scores are those of noise, and the run says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from retrodict.bootstrap.context import Context
from retrodict.bootstrap.loop import RECIPES, stages_of
from retrodict.bootstrap.recipe import TINY, BootstrapRecipe
from retrodict.bootstrap.results import NOTE
from retrodict.cli import app
from retrodict.loading import load
from retrodict.models.registry import UNIFIED
from retrodict.recipes import load_recipe


@pytest.mark.parametrize("family", UNIFIED)
def test_every_family_has_a_demo(family: str, tmp_path: Path) -> None:
    recipe = load_recipe(RECIPES / "demo-tiny.yaml", BootstrapRecipe, [f"family={family}"])
    assert (recipe.family, recipe.init) == (family, TINY)
    names = [stage.name for stage in stages_of(Context(tmp_path, recipe))]
    assert {"tokenizer", "idm", "fdm", "bench_fdm", "bench_fdm_weighted", "bench_fdm_true_labels"} <= set(names)


def test_every_stage_works(tmp_path: Path) -> None:
    """With one family; test_loop.py and test_extend.py have the loop with each of the others."""
    family = "small"
    found = CliRunner().invoke(app, ["demo", "--family", family, "--out", str(tmp_path / "demo"), "--quiet"])
    assert found.exit_code == 0, found.output
    assert NOTE in found.output
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert (results["family"], results["note"]) == (family, NOTE)
    for name in ("ft", "fdm", "fdm_weighted", "fdm_true_labels"):
        system = results["systems"][name]
        assert system["greedy"]["n"] == 12
        assert system["greedy"]["n_unscored"] == 0
        assert {"idm", "idm_fdm", "random", "oracle"} <= system["k2"].keys()
    assert results["ground_truth"]["score"] == 1
    assert results["annotation"]["selected"] == 8
    assert NOTE in (tmp_path / "demo" / "report.html").read_text()
    models = {name: load(tmp_path / "demo" / name, role="forward").family for name in ("ft", "fdm")}
    assert {model.name for model in models.values()} == {family}
    base = load(tmp_path / "demo" / "base", role="forward").family
    assert {model.tokenizer for model in models.values()} == {base.tokenizer}
    for other in models.values():  # they were trained, on different rows
        assert any(
            not weight.equal(trained)
            for weight, trained in zip(base.module.parameters(), other.module.parameters(), strict=True)
        )
    again = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo"), "--quiet"])
    assert again.exit_code == 2, "another family does not go on in this folder"
