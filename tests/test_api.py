"""The functions that people call, on a model of random weights."""

from __future__ import annotations

import io
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrodict import api
from retrodict.dynamics.confidence import Confidence, write
from retrodict.dynamics.verify import InverseLikelihood, ScoredBy
from retrodict.images import encode_png, read_image
from retrodict.loading import load
from retrodict.report.runs import bench as run_bench
from retrodict.sampling import Sampling
from retrodict.serve.server import serve
from retrodict.transitions import decode_image
from retrodict.worlds import tabletop

EXAMPLE = tabletop.sample(1, 3)[0]
SOURCE, TARGET = tabletop.draw(EXAMPLE.source), tabletop.draw(EXAMPLE.target)
ACTION = "push the red ball to the left"


def red_first(source: Image.Image, action: str, candidate: Image.Image) -> float:
    red = float(np.asarray(candidate)[..., 0].mean())
    return math.nan if red < 1 else red


def test_predict_keeps_the_candidate_that_its_verifier_scores_highest(tiny_model: Path) -> None:
    inverse = load(tiny_model, role="inverse")
    both = {name: api.predict(SOURCE, ACTION, n=4, model=tiny_model, verifier=name) for name in ("idm", "idm_fdm")}
    for name, found in both.items():
        assert (len(found.candidates), found.verifier) == (4, name)
        assert found.scores[found.chosen] == max(found.scores)
        scored = inverse.score([(SOURCE, candidate) for candidate in found.candidates], [ACTION] * 4)
        forward = 2 if name == "idm_fdm" else 0
        expected = [i.sum + forward * c.logprob.sum for i, c in zip(scored, found.candidates, strict=True)]
        assert found.scores == pytest.approx(expected, abs=1e-3)
    assert [c.codes_L.tolist() for c in both["idm"].candidates] == [  # type: ignore[union-attr]
        c.codes_L.tolist()  # type: ignore[union-attr]
        for c in both["idm_fdm"].candidates
    ]
    greedy = api.predict(SOURCE, ACTION, n=4, model=tiny_model, verifier="none")
    assert len(greedy.candidates) == 1
    own = api.predict(SOURCE, ACTION, n=3, model=load(tiny_model, role="forward"), verifier=InverseLikelihood(inverse))
    assert own.scores == pytest.approx(both["idm"].scores[:3], abs=1e-3)
    copied = api.predict(SOURCE, ACTION, n=3, model="copy", verifier="random")
    assert copied.image.tobytes() == SOURCE.tobytes()


def test_what_was_never_trained_is_predicted_and_told(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    wide = SOURCE.resize((192, 96))
    prediction = api.predict(wide, "push the teapot to the lift", n=2, model=tiny_model)
    assert prediction.image.size == (192, 96)
    assert all(math.isfinite(score) for score in prediction.scores)
    (line,) = caplog.messages
    assert line.startswith("retrodict: the model guesses: it was never trained on 'teapot', 'lift'")
    api.explain(wide, wide, model=tiny_model)
    api.score(wide, wide, ACTION, model=tiny_model)
    assert len(caplog.messages) == 1
    api.rerank(wide, "push the teapot", [wide], model=tiny_model)
    assert "it was never trained on 'teapot'" in caplog.messages[1]


def test_a_batch_gives_what_one_after_another_gives(tiny_model: Path) -> None:
    sources, actions = [SOURCE, TARGET, SOURCE], [ACTION, "remove the red ball", "add a blue box at the left wall"]
    together = api.predict_batch(sources, actions, n=3, model=tiny_model)
    for source, action, prediction in zip(sources, actions, together, strict=True):
        alone = api.predict(source, action, n=3, model=tiny_model)
        assert prediction.scores == pytest.approx(alone.scores, abs=1e-3)
        assert prediction.image.tobytes() == alone.image.tobytes()
    with pytest.raises(ValueError, match="1 sources and 2 actions"):
        api.predict_batch([SOURCE], actions[:2])


def test_rollout_goes_on_from_the_codes_that_were_chosen(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrodict.models.small.family import SmallFamily

    encode, encoded = SmallFamily.encode, []

    def counting(self: SmallFamily, images: Any) -> Any:
        encoded.extend(images)
        return encode(self, images)

    monkeypatch.setattr(SmallFamily, "encode", counting)
    steps = api.rollout(SOURCE, [ACTION, "remove the red ball", ACTION], n=2, model=tiny_model)
    assert len(steps) == 3
    images = [image.tobytes() for image in encoded if image is not SOURCE and image.tobytes() != SOURCE.tobytes()]
    assert images == [step.image.tobytes() for step in steps]  # once each, to tell the drift, and not to go on
    model = load(tiny_model, role="forward")
    second = model.sample([steps[0].candidate], ["remove the red ball"], 2, 0)[0]
    assert [c.codes_L.tolist() for c in second] == [c.codes_L.tolist() for c in steps[1].candidates]  # type: ignore[union-attr]


def test_explain_and_score(tiny_model: Path, tmp_path: Path) -> None:
    SOURCE.save(tmp_path / "a.png")
    TARGET.save(tmp_path / "b.png")
    found = api.explain(tmp_path / "a.png", str(tmp_path / "b.png"), model=tiny_model)
    again = api.explain(SOURCE, TARGET, model=load(tiny_model, role="inverse"))
    assert found == again
    assert api.score(SOURCE, TARGET, ACTION, model=tiny_model).count == len(ACTION.split()) + 1


def test_a_calibrated_model_says_how_sure_it_is(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    with pytest.raises(ValueError, match="was not calibrated"):
        api.predict(SOURCE, ACTION, model=tiny_model, sure=0.9)
    write(tmp_path / "model" / "forward", {"idm_fdm": Confidence(intercept=1.0, slope=0.1, n=300)})
    found = api.predict(SOURCE, ACTION, n=6, model=tmp_path / "model")
    expected = 1 / (1 + math.exp(-1 - 0.1 * max(found.scores)))
    assert found.confidence == pytest.approx(expected)
    assert found.fits == (expected >= 0.5)
    one = api.predict(SOURCE, ACTION, n=6, model=tmp_path / "model", sure=expected * 0.01)
    assert len(one.candidates) == 2, "the first two are sure enough"
    second = api.predict(SOURCE, ACTION, n=3, model=tmp_path / "model", second=tiny_model)
    assert len(second.candidates) == 3 and not math.isnan(second.confidence)
    with pytest.raises(ValueError, match="choose one"):
        api.predict(SOURCE, ACTION, model=tiny_model, second=tiny_model, stop_at=1.0)


def test_rerank_sorts_images_of_other_programs(tiny_model: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.png" for name in ("black", "grey", "white")]
    for path, shade in zip(paths, (0, 100, 255), strict=True):
        Image.new("RGB", (40, 30), (shade, shade, shade)).save(path)
    assert api.rerank(SOURCE, ACTION, paths, verifier=ScoredBy("red", red_first)) == [
        (paths[2], 255.0),
        (paths[1], 100.0),
        (paths[0], pytest.approx(math.nan, nan_ok=True)),
    ]
    inverse, forward = (load(tiny_model, role=role) for role in ("inverse", "forward"))  # type: ignore[call-overload]
    images = [Image.open(path) for path in paths]
    explained = inverse.score([(SOURCE, image) for image in images], [ACTION] * 3)
    likely = forward.score_targets([SOURCE] * 3, [ACTION] * 3, images)
    expected = {p: e.sum + 2 * f.sum for p, e, f in zip(paths, explained, likely, strict=True)}
    found = api.rerank(SOURCE, ACTION, paths, model=tiny_model, verifier="idm_fdm")
    assert dict(found) == pytest.approx(expected, abs=1e-3)
    assert [score for _, score in found] == sorted(expected.values(), reverse=True)


def test_a_loaded_model_verifies_itself_or_another_does(tiny_model: Path) -> None:
    named = api.predict(SOURCE, ACTION, n=3, model=tiny_model)
    loaded = api.predict(SOURCE, ACTION, n=3, model=load(tiny_model, role="forward"))
    assert loaded.scores == pytest.approx(named.scores)
    inverse = load(tiny_model, role="inverse")
    copied = api.predict(SOURCE, ACTION, n=2, model="copy", verifier="idm", inverse=inverse)
    assert copied.scores == (inverse.score([(SOURCE, SOURCE)], [ACTION])[0].sum,) * 2
    for frames in (SOURCE, np.asarray(SOURCE), encode_png(SOURCE)):
        assert api.explain(frames, frames, model=inverse) == api.explain(SOURCE, SOURCE, model=inverse)


def test_one_reader_for_depth_and_transparency(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(96, dtype=np.uint16) * 2, (96, 1))
    Image.fromarray(ramp * 257).save(tmp_path / "g16.png")
    assert (np.asarray(read_image(tmp_path / "g16.png"))[:, :, 0] == ramp).all()
    for mode, pixel in (("RGBA", (255, 0, 0, 0)), ("LA", (0, 0))):
        clear = Image.new(mode, (4, 4), pixel)
        assert read_image(encode_png(clear)).getpixel((0, 0)) == (255, 255, 255)
        assert decode_image(encode_png(clear), "source").getpixel((0, 0)) == (255, 255, 255)
    broken = encode_png(SOURCE)[:200]
    with pytest.raises(ValueError, match="is a broken image") as error:
        read_image(broken)
    assert len(str(error.value)) < 300


def test_images_are_turned_the_way_the_camera_was_held(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("L", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    read = read_image(tmp_path / "turned.jpg")
    assert (read.size, read.mode) == ((10, 20), "RGB")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: api.predict(SOURCE, ACTION, n=0), "n must be at least 1"),
        *(
            (call, r"(n|beam|proposals) is 1,000,000,000, and 1,024 at most")
            for call in (
                lambda: api.predict(SOURCE, ACTION, n=10**9, model="nothing"),
                lambda: api.predict_batch([SOURCE], [ACTION], n=10**9, model="nothing"),
                lambda: api.rollout(SOURCE, ACTION, n=10**9, model="nothing"),
                lambda: api.plan(SOURCE, SOURCE, beam=10**9, model="nothing"),
                lambda: api.plan(SOURCE, SOURCE, proposals=10**9, model="nothing"),
                lambda: run_bench("tabletop", out=Path("nowhere"), n=10**9, model="nothing"),
            )
        ),
        (lambda: serve(model="nothing", n=65), "n is 65, and 64 at most"),
        (lambda: api.predict(SOURCE, ACTION, model="copy", verifier="random", stop_at="x"), "stop_at must be a number"),
        (lambda: api.predict(SOURCE, ACTION, model="copy", verifier="random", sure=math.nan), "sure must be a number"),
        (lambda: api.predict(SOURCE, " "), "An action is empty"),
        (lambda: api.predict(SOURCE, "\u200b\ufeff"), "An action is empty"),
        (lambda: api.predict(SOURCE, "go " * 5_000), "An action of 15,000 characters is too long"),
        (lambda: api.rollout(SOURCE, []), "There are no actions"),
        (lambda: api.rollout(SOURCE, [ACTION, ""]), "An action is empty"),
        (lambda: api.predict(SOURCE, ACTION, verifier="fid", model="copy"), 'No verifier "fid": use one of idm_fdm, '),
        (lambda: api.predict(SOURCE, ACTION, model=load("copy", "forward")), "give one as `inverse`"),
        (lambda: api.predict(SOURCE, ACTION, model="copy"), "copy is a copy of the source: it only predicts"),
        (lambda: api.rerank(SOURCE, ACTION, [], model="copy"), "There are no candidates"),
        (lambda: api.rerank(SOURCE, ACTION, [SOURCE], verifier="none"), 'The verifier "none" scores nothing'),
        *(
            (lambda n=n: api.predict(SOURCE, ACTION, n=n), "n must be at least 1, a whole number")
            for n in ("8", 2.5, None, True)
        ),
        (lambda: api.plan(SOURCE, SOURCE, beam=1.5), "beam must be at least 1, a whole number"),
        (lambda: api.predict(SOURCE, "go \ud800"), "holds half a character"),
        (lambda: api.predict(SOURCE, None), "An action is a NoneType: say in words"),
        (lambda: api.rollout(SOURCE, None), "actions must be a list, not a NoneType"),
        (lambda: api.predict_batch([SOURCE], "x"), "actions must be a list, not a str"),
        (lambda: api.predict_batch(SOURCE, [ACTION]), "sources must be a list"),
        (lambda: api.rerank(SOURCE, ACTION, "after.png"), "candidates must be a list, not a str"),
        (lambda: api.predict(SOURCE, ACTION, sampling={"top_k": 3}), "sampling is a dict: give a retrodict.Sampling"),
        (lambda: api.predict(SOURCE, ACTION, model=3, verifier="none"), "The forward model is a int, which has no"),
        (lambda: api.predict(SOURCE, ACTION, model="copy", inverse=3), "The inverse model is a int, which has no"),
        (lambda: api.predict(SOURCE, ACTION, model="copy", verifier=3), "The verifier is a int, which has no `scores`"),
        (lambda: load("copy", "backward"), 'There is no role "backward"'),  # type: ignore[call-overload]
        (lambda: api.explain(SOURCE, io.BytesIO()), "is a BytesIO: give a path, bytes"),
    ],
)
def test_what_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_sampling_can_be_shaped(tiny_model: Path) -> None:
    loaded = {"model": tiny_model, "verifier": "idm", "seed": 3}
    cold = api.predict(SOURCE, ACTION, n=6, sampling=Sampling(0.01), **loaded)
    assert len({c.codes_L.tobytes() for c in cold.candidates if c.codes_L is not None}) == 1
    narrow = api.predict(SOURCE, ACTION, n=6, sampling=Sampling(top_p=1e-6), **loaded)
    assert narrow.image == cold.image
    waves = api.predict(SOURCE, ACTION, n=6, stop_at=-1e9, **loaded)
    assert len(waves.candidates) == 2
    gated = api.predict(SOURCE, ACTION, n=2, reject_copies=True, **loaded)
    assert gated.verifier == "idm_no_copies"
    with pytest.raises(ValueError, match="classifier-free guidance is unavailable"):
        api.predict(SOURCE, ACTION, sampling=Sampling(guidance=3.0), **loaded)
    with pytest.raises(ValueError, match="samples nothing"):
        api.predict(SOURCE, ACTION, model="copy", verifier="random", sampling=Sampling(top_p=0.5))
    with pytest.raises(ValueError, match="scores nothing"):
        api.predict(SOURCE, ACTION, model=tiny_model, verifier="none", stop_at=0.0)
    assert api.predict(SOURCE, ACTION, n=2, model=tiny_model, verifier="exact").scores == (0.0, 0.0)
