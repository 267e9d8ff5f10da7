"""A model behind endpoints that fail, against the same model on this machine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from family_checks import ACTIONS, noise_images
from tiny_vlms import FAULTS, Served, idefics3
from typer.testing import CliRunner

from retrodict.bootstrap.annotate import annotate_dir
from retrodict.bootstrap.select import select_dir
from retrodict.chat.endpoint import RefusedError
from retrodict.chat.inverse import ChatInverse
from retrodict.chat.likelihoods import of_answer
from retrodict.cli import app
from retrodict.dynamics.best_of_n import predict
from retrodict.dynamics.verify import InverseLikelihood, Pool
from retrodict.images import encode_png
from retrodict.loading import load
from retrodict.models.editors import CopyModel
from retrodict.models.protocol import Candidate, LogProb
from retrodict.models.vlm import Captioner, extended
from retrodict.training.config import LoraConfig, TrainConfig
from retrodict.training.reader import Reader, train_reader
from retrodict.transitions import FramePair, read_transitions, write_manifest, write_rows

PAIRS = list(zip(noise_images(12, 16, 0), noise_images(12, 24, 1), strict=True))
ASKED = [ACTIONS[i % 3] for i in range(len(PAIRS))]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    """Taught to name an action and to end its turn, so that what it writes is read as the same tokens again."""
    captioner = Captioner.load(idefics3(tmp_path_factory.mktemp("idefics3")))
    vlm = captioner.vlm
    inputs = captioner.ask(PAIRS[:3])
    answers = [captioner.answer(action) for action in ACTIONS]
    batch = extended(inputs, answers, vlm.tokenizer.pad_token_id)
    labels = batch["input_ids"].where(batch["attention_mask"].bool(), -100)
    labels[:, : inputs["input_ids"].shape[1]] = -100
    optimizer = torch.optim.Adam(vlm.model.parameters(), 3e-3)
    for _ in range(40):
        loss = vlm.model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 1
    return captioner


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    yield


def pairs_folder(folder: Path) -> Path:
    """Three files of pairs, of two classes."""
    for number in range(3):
        chosen = range(number * 4, number * 4 + 4)
        rows = [
            FramePair(id=str(i), category="ab"[i % 2], source=encode_png(PAIRS[i][0]), target=encode_png(PAIRS[i][1]))
            for i in chosen
        ]
        write_rows(folder / f"pairs-{number:05d}.parquet", rows)
    write_manifest(folder, kind="pairs", config={}, kept=len(PAIRS), dropped={})
    return folder


def test_vllm_servers_that_fail_lose_nothing_and_are_as_sure_as_the_model_is(local: Captioner, tmp_path: Path) -> None:
    served = Served(local, "tiny", share=0.2)
    pairs = pairs_folder(tmp_path / "pairs")
    with served.servers(2) as urls:
        name = f"chat:tiny,width=4,price=1/10@{urls}"
        annotate_dir(pairs, model=name, out=tmp_path / "labels")
        select_dir(tmp_path / "labels", top_k=4, out=tmp_path / "selected")
        model = load(name, role="inverse")
        scores = model.score(PAIRS, ASKED)
        prediction = predict(CopyModel(), InverseLikelihood(model), PAIRS[0][0], ACTIONS[0], n=2, seed=0)
        asked = sum(served.paid.values())
        again = load(f"chat:tiny@{urls.partition(',')[0]}", role="inverse")  # the first one names them all
        assert [e.action for e in again.explain(PAIRS)] == [e.action for e in model.explain(PAIRS)]
        assert again.score(PAIRS, ASKED) == scores
    assert sum(served.paid.values()) == asked, "what is known is not asked again"
    assert set(served.paid.values()) == {1}, "nothing is paid twice"
    assert set(served.faults) == set(FAULTS)
    labels = read_transitions(tmp_path / "labels")
    assert len(labels) == len(PAIRS)
    for label, explained in zip(sorted(labels, key=lambda row: int(row.id)), local.explain(PAIRS), strict=True):
        assert (label.action, label.tokens) == (explained.action, explained.logprob.count)
        assert label.logprob == pytest.approx(explained.logprob.sum, abs=1e-3)
    for ours, theirs in zip(scores, local.score(PAIRS, ASKED), strict=True):
        assert (ours.sum, ours.count) == (pytest.approx(theirs.sum, abs=1e-3), theirs.count)
    selected = read_transitions(tmp_path / "selected")
    assert [row.category for row in selected] == ["a", "b", "a", "b"]
    assert all(map(math.isfinite, prediction.scores))

    # What was selected trains the model further, and what was trained is served as it is used here.
    Reader(local).save(tmp_path / "base")
    config = TrainConfig(steps=3, per_device_batch_size=4, learning_rate=1e-2, warmup_steps=1, optimizer="adamw")
    lora = LoraConfig(rank=2, alpha=4)
    train_reader(str(tmp_path / "base"), selected, config, tmp_path / "trained", seed=0, lora=lora)
    trained = load(tmp_path / "trained", role="inverse")
    assert isinstance(trained, Captioner)
    with Served(trained, "idm").servers(1) as url:
        verifier = InverseLikelihood(load(f"chat:idm@{url}", role="inverse"))
        (found,) = verifier.scores([Pool(PAIRS[0][0], ACTIONS[0], [Candidate(target) for _, target in PAIRS[:3]])])
    theirs = trained.score([(PAIRS[0][0], target) for _, target in PAIRS[:3]], ACTIONS[:1] * 3)
    assert found == pytest.approx([p.sum for p in theirs], abs=1e-3)
    assert found != pytest.approx([p.sum for p in local.score([PAIRS[0]] * 3, ACTIONS[:1] * 3)], abs=1e-3)


def test_servers_of_openais_dialect_are_sure_of_what_they_said_alone(local: Captioner, tmp_path: Path) -> None:
    served = Served(local, "tiny", vllm=False)
    with served.servers(1) as url:
        model = ChatInverse(f"chat:tiny@{url}", tmp_path / "a.sqlite")
        for ours, theirs in zip(model.explain(PAIRS), local.explain(PAIRS), strict=True):
            assert (ours.action, ours.logprob.count) == (theirs.action, theirs.logprob.count - 1)  # without the end
            assert theirs.logprob.sum < ours.logprob.sum < 0
        (unscored,) = model.score(PAIRS[:1], ACTIONS[:1])
        assert math.isnan(unscored.sum)
        assert "HTTP 400: Unrecognized request argument" in unscored.reason
        with pytest.raises(ValueError, match="action is empty"):
            model.score(PAIRS[:1], [" "])
        stranger = ChatInverse(f"chat:other@{url}", tmp_path / "a.sqlite")
        with pytest.raises(RefusedError, match="answers as tiny, not as other: give the name that it uses"):
            stranger.explain(PAIRS)


def test_labels_without_likelihoods_say_which_stage_to_change(
    local: Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(local, "tiny", vllm=False, share=1.0)
    monkeypatch.setattr(Served, "fault", lambda self, raw: "no likelihood")
    with served.servers(1) as url:
        annotate_dir(pairs_folder(tmp_path / "pairs"), model=f"chat:tiny@{url}", out=tmp_path / "labels")
    labels = read_transitions(tmp_path / "labels")
    assert {math.isnan(row.logprob) for row in labels} == {True}
    done = CliRunner().invoke(app, ["select", str(tmp_path / "labels"), "--top-k", "2", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "the server sends no logprobs. Run `annotate` with a model that says how likely" in " ".join(
        done.output.split()
    )


def test_the_likelihood_of_an_action_inside_an_object_is_that_of_its_own_tokens() -> None:
    tokens = {'{"': -1.0, "action": -1.0, '": "': -1.0, "push": -0.5, " it": -0.25, '"': -0.125, "}": -4.0}
    content = [{"token": token, "logprob": value} for token, value in tokens.items()]
    choice = {"message": {"content": "".join(tokens)}, "logprobs": {"content": content}}
    assert of_answer({"choices": [choice]}) == LogProb(-0.875, 3)
    assert of_answer({"choices": [{**choice, "logprobs": None}]}).reason == "the server sends no logprobs"
    content[0]["logprob"] = content[3]["logprob"] = "none"
    assert of_answer({"choices": [choice]}).reason == "the server sends log-probabilities that are none"


@pytest.mark.parametrize("name", ["chat:m,width=none", "chat:m,price=1", "chat:m,speed=2"])
def test_options_that_are_none_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no option of a chat endpoint: use prompt=explain_v1, width=32"):
        load(name, role="inverse")
