"""Recipes: what is accepted, what is refused, and how the refusal reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from retrodict.bootstrap.recipe import BootstrapRecipe
from retrodict.recipes import Section, load_recipe, save_effective
from retrodict.training.config import TrainRecipe


def test_an_override_leaves_what_yaml_made_the_same_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "alias.yaml"
    path.write_text("data: {labelled: pairs}\ninverse: &training {steps: 600}\nforward: *training\n")
    loaded = load_recipe(path, BootstrapRecipe, ["forward.steps=900"])
    assert (loaded.inverse.steps, loaded.forward.steps) == (600, 900)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text("data:\n  labelled: pairs\n  videos: [videos]\nforward:\n  steps: 20\n  learning_rate: 1e-3\n")
    return path


def refusal(path: Path, *overrides: str, kind: type[Section] = BootstrapRecipe) -> str:
    with pytest.raises(ValueError, match=r"\S") as caught:
        load_recipe(path, kind, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_overrides_and_paths(recipe: Path) -> None:
    loaded = load_recipe(
        recipe, BootstrapRecipe, ["seed=3", "forward.steps=40", "mine.min_gap=0.8s", "bench.ks=[1, 2]"]
    )
    assert (loaded.seed, loaded.forward.steps, loaded.forward.learning_rate, loaded.bench.ks) == (3, 40, 1e-3, (1, 2))
    assert loaded.mine.min_gap == "0.8s"
    assert [source.path for source in loaded.data.labelled] == [recipe.parent / "pairs"]
    assert [videos.path for videos in loaded.data.videos] == [recipe.parent / "videos"]
    (recipe.parent / "models" / "liquid").mkdir(parents=True)
    for given, meant in [
        ("./models/base", str(recipe.parent / "models" / "base")),
        ("models/liquid", str(recipe.parent / "models" / "liquid")),
        ("BAAI/Emu3-Gen-hf", "BAAI/Emu3-Gen-hf"),
        ("small", "small"),
        ("/weights/base", "/weights/base"),
    ]:
        assert load_recipe(recipe, BootstrapRecipe, [f"init={given}"]).init == meant, "counts from the recipe"
    chat = ["labeller=chat:gpt-5@http://localhost:8000/v1", "select.without_likelihood=true"]
    assert load_recipe(recipe, BootstrapRecipe, chat).labeller == chat[0].partition("=")[2]
    with pytest.raises(ValidationError):
        loaded.seed = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.vidoes=[a]", "--set data.vidoes: unknown key; did you mean `data.videos`?"),
        ("steps=4", "--set steps: unknown key; did you mean `tokenizer.steps`?"),
        ("forward.batch=4", "--set forward.batch: unknown key: it is called `per_device_batch_size` now"),
        ("weighting.kind=none", "--set weighting.kind: unknown key: it is called `method` now"),
        ("sampling.temprature=1", "--set sampling.temprature: unknown key; did you mean `sampling.temperature`?"),
        ("sample.n=4", "--set sample.n: unknown key: it is called `sampling` now"),
        ("data.labelled=[{path: a, row: 3}]", "--set data.labelled.0.row: unknown key; did you mean"),
        ("family=smal", "--set family: there is no model family 'smal': did you mean 'small'?"),
        ("world={name: moon}", "--set world.name: no world 'moon': use one of tabletop"),
        ("mine.snapp=0s", "--set mine.snapp: unknown key; did you mean `mine.snap`?"),
        ("mine.jpeg_quality=0", "--set mine.jpeg_quality: jpeg_quality is 0: give 1 to 100"),
        ("xyzzy=4", "--set xyzzy: unknown key; known keys are seed, world, data"),
        ("inverse.steps=many", "--set inverse.steps: input should be a valid integer"),
        ("inverse.steps=0", "--set inverse.steps: input should be greater than 0; it is 0"),
        ("mine.min_gap=[1]", "--set mine.min_gap: "),
        ("mine.min_gap=soon", "--set mine.min_gap: min_gap is 'soon': give a number of frames such as 20"),
        ("seed.a=1", "--set seed.a: "),
        ("seed", "--set seed: write key=value"),
    ],
)
def test_overrides_that_are_refused(recipe: Path, override: str, expected: str) -> None:
    recipe.write_text(recipe.read_text() + "seed: 1\n")
    assert refusal(recipe, override).startswith(expected)


def test_the_file_is_named_where_the_file_is_wrong(recipe: Path) -> None:
    recipe.write_text("data:\n  labeled: pairs\n")
    assert refusal(recipe) == f"{recipe}: `data.labeled`: unknown key; did you mean `data.labelled`?"
    recipe.write_text("direction: inverse\n")
    assert refusal(recipe, kind=TrainRecipe) == f"{recipe}: `data`: is missing"
    recipe.write_text("data: {labelled: pairs, video: [a]}\n")
    assert refusal(recipe) == f"{recipe}: `data.video`: unknown key; did you mean `data.videos`?"
    recipe.write_text("data: [\n")
    assert refusal(recipe).startswith(f"{recipe}, line ")
    recipe.write_text("")
    assert refusal(recipe).startswith(f"{recipe}: a recipe is ")
    with pytest.raises(FileNotFoundError, match="there is no recipe"):
        load_recipe(recipe.parent / "absent.yaml", BootstrapRecipe)


def test_the_effective_recipe_is_a_recipe(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe, BootstrapRecipe, ["weighting.method=softened"])
    saved = save_effective(loaded, tmp_path / "out")
    assert load_recipe(saved, BootstrapRecipe) == loaded
    assert [p.name for p in saved.parent.iterdir()] == ["recipe.yaml"]


def test_one_model_has_its_own_recipe(tmp_path: Path) -> None:
    path = tmp_path / "inverse.yaml"
    path.write_text("direction: inverse\ndata: {train: [pairs]}\n")
    (source,) = load_recipe(path, TrainRecipe).data.train
    assert (source.path, source.rows, source.seed) == (tmp_path / "pairs", None, 0)
    assert "'forward' or 'inverse'; it is 'sideways'" in refusal(path, "direction=sideways", kind=TrainRecipe)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.labelled=[]", "nothing is labelled: name transitions under data.labelled, or a world"),
        ("ablations=[true_labels]", "ablations with true labels need the videos of a world"),
        ("family=liquid", "family liquid needs `init`"),
        ("lora={}", "`lora` adapts a model"),
    ],
)
def test_loops_that_cannot_run_are_refused_before_they_begin(recipe: Path, override: str, expected: str) -> None:
    assert refusal(recipe, override).startswith(f"{recipe}: {expected}")
