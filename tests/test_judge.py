"""Judges without a network: how answers are read, what a number depends on, the card, batches, costs."""

from __future__ import annotations

import asyncio
import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from retrodict.chat.cache import open_cache
from retrodict.chat.cost import Prices
from retrodict.chat.parsing import Failure, Reply, read_body
from retrodict.chat.request import Request, Settings, build, check_base_url, image_tokens
from retrodict.cli import app
from retrodict.evaluation.bench import score_images, write_predictions
from retrodict.evaluation.judge.card import make_card
from retrodict.evaluation.judge.chat import ChatJudge
from retrodict.evaluation.judge.exact import ExactJudge
from retrodict.evaluation.judge.local import LocalModel, LocalSource
from retrodict.evaluation.judge.offline import batch_in, batch_out, dry_run
from retrodict.evaluation.judge.parsing import read_scores
from retrodict.evaluation.judge.plan import Plan
from retrodict.evaluation.judge.predictions import Row
from retrodict.evaluation.judge.protocol import Question, Verdict, merge, unscored, verdict
from retrodict.evaluation.judge.results import estimate
from retrodict.evaluation.judge.run import comparisons, judge_run
from retrodict.evaluation.pool import exact_scorer
from retrodict.files import write_json
from retrodict.images import encode_png
from retrodict.prompts.chat import chat_prompts, load_chat_prompt
from retrodict.report import write_report
from retrodict.shards import Share
from retrodict.transitions import Transition, write_rows
from retrodict.worlds import get_world, tabletop

SCORER = exact_scorer(get_world("tabletop"))

PROMPT = load_chat_prompt("paper_fig10_v1")
IMAGES = {"source": encode_png(Image.new("RGB", (8, 8))), "prediction": encode_png(Image.new("RGB", (8, 8), "red"))}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"score": [0, 10], "reasoning": ""}', (0, 10)),
        ('{"reasoning": "see [1, 2]", "score": [7.5, 8]}', (7.5, 8)),
        ("{'score': [8, 9], 'reasoning': \"it's fine\"}", (8, 9)),
        ("```python\n{'score': [8, 9], 'reasoning': ''}\n```", (8, 9)),
        ('<think>maybe {"score": [1, 1]}?</think>{"score": [8, 9]}', (8, 9)),
        ('<|channel|>analysis<|message|>{"score": [1, 1]}<|end|><|channel|>final<|message|>{"score": [8, 9]}', (8, 9)),
        ('[THINK]{"score": [1, 1]}[/THINK]{"score": [8, 9]}', (8, 9)),
        ('<|channel|>analysis<|message|>maybe {"score": [1, 1]}', "parse"),  # cut off while it thought
        ('[THINK]maybe {"score": [1, 1]}', "parse"),
        ("", "parse"),
        ("[8, 9]", "parse"),
        ("ES 8, ME 9", "parse"),
        ('{"score": [8, 9, 9]}', "parse"),
        ('{"score": 8}', "parse"),
        ('{"score": ["8", "9"]}', "parse"),
        ('{"score": [true, 9]}', "parse"),
        ('{"score": [NaN, 9]}', "parse"),
        ('{"score": [1e999, 9]}', "parse"),
        ('{"score": [8, 9], "score": [1, 2]}', "parse"),
        ("{'score': [8, 9], 'score': [1, 2]}", "parse"),
        ('{"answer": {"score": [8, 9]}}', "parse"),
        ('{"score": [8, 9], "alternatively": {"score": [1, 2]', "parse"),
        ('As asked, {"score": [x, y]}: {"score": [8, 9]}', "parse"),
        ("__import__('os')", "parse"),
        ('{"score": [8, 10.01]}', "range"),
        ('{"score": [-0.1, 10]}', "range"),
        ('{"score": [1' + "0" * 400 + ", 1]}", "range"),
        ("I cannot rate images of people.", "refused"),
    ],
)
def test_an_answer_is_read_strictly(text: str, expected: tuple[float, float] | str) -> None:
    found = read_scores(Reply(text))
    assert (found.reason if isinstance(found, Failure) else found) == expected


@given(st.text() | st.binary().map(lambda b: b.decode("latin1")))
def test_no_text_makes_a_score_by_accident(text: str) -> None:
    found = read_scores(Reply("The result: " + text))
    assert isinstance(found, Failure) or '"score"' in text


KEYS = ("choices", "message", "content", "error", "usage", "finish_reason", "refusal", "code")
ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
)


@given(ANY_JSON)
def test_no_body_breaks_the_reader(body: Any) -> None:
    reply = read_body(body if isinstance(body, dict) else {"choices": body})
    assert isinstance(read_scores(reply), Failure)


def test_prompts_are_files_with_a_hash_and_an_origin(tmp_path: Path) -> None:
    assert chat_prompts() == [
        *("editscore_style_v1", "explain_v1", "pairwise_v1", "paper_fig10_v1", "viescore_style_v1")
    ]
    for name in chat_prompts():
        prompt = load_chat_prompt(name)
        assert prompt.id == name
        assert prompt.origin
        assert len(prompt.sha256) == 64
    assert "not the authors" in PROMPT.origin
    parts = PROMPT.parts("say {source} and {0}")
    assert [value for kind, value in parts if kind == "image"] == ["source", "prediction"]
    assert parts[-1][1].endswith("Editing instruction: say {source} and {0}")
    for text, message in (("id: x", "no chat prompt"), ("[", "no chat prompt")):
        (tmp_path / "p.yaml").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_chat_prompt(str(tmp_path / "p.yaml"))
    own = "id: x\norigin: mine\nanswer: scores\nscores: [a, b]\nuser: '{source} {prediction}'"
    (tmp_path / "p.yaml").write_text(own)
    with pytest.raises(ValueError, match=r"lacks \{instruction\}"):
        load_chat_prompt(str(tmp_path / "p.yaml"))
    with pytest.raises(ValueError, match="no chat prompt"):
        load_chat_prompt("paper")


def test_an_empty_instruction_is_refused_up_front() -> None:
    for action in ("", "  \n"):
        with pytest.raises(ValueError, match="no instruction"):
            Question("1", b"", action, b"")
        with pytest.raises(ValueError, match="no instruction"):
            build("1", PROMPT, Settings("m"), action, IMAGES)
    for url in ("localhost", "https://me:secret@host/v1", "https://host/v1?key=secret"):
        with pytest.raises(ValueError, match="--base-url"):
            check_base_url(url)


def test_an_image_is_known_by_its_pixels() -> None:
    noisy = Image.effect_noise((64, 48), 50).convert("RGB")
    key = build("1", PROMPT, Settings("m"), "do it", {**IMAGES, "source": encode_png(noisy)}).key
    for kind, same in (("BMP", True), ("JPEG", False)):  # any lossless file of the same pixels is the same image
        buffer = io.BytesIO()
        noisy.save(buffer, kind)
        again = build("2", PROMPT, Settings("m"), " do it", {**IMAGES, "source": buffer.getvalue()}).key
        assert (again == key) is same
    # What OpenAI's own examples say of the tile rule.
    assert [image_tokens(s, "high") for s in ((1024, 1024), (2048, 4096), (512, 512))] == [765, 1105, 255]
    assert image_tokens((4096, 8192), "low") == 85


def test_means_bounds_and_repeats_by_hand() -> None:
    items = [Transition(id=str(i), category="ab"[i // 2], group=str(i)) for i in range(4)]
    verdicts = [verdict(8, 6), verdict(2, 9), unscored("refused"), verdict(10, 10)]
    entry = estimate(verdicts, items)
    assert entry["score"] == pytest.approx((6 + 2 + 10) / 3)
    assert entry["es"] == pytest.approx(20 / 3)  # min(ES, ME) per item first, not the min of the means
    assert entry["bounds"] == pytest.approx([18 / 4, 28 / 4])
    assert (entry["n"], entry["n_total"], entry["unscored"]) == (3, 4, {"refused": 1})
    assert entry["macro"] == pytest.approx((4 + 10) / 2)
    assert estimate([unscored("parse")] * 4, items)["bounds"] == [0, 10]
    both = merge([verdict(8, 2), unscored("parse", "x"), verdict(2, 8)])
    assert (both.es, both.me, both.score, both.scored, both.repeats, both.reason) == (5, 5, 2, 2, 3, "")
    assert math.isnan(merge([unscored("parse"), unscored("refused")]).score)


class Says:
    """A judge whose score is a function of the question."""

    facts = {"kind": "test"}  # noqa: RUF012

    def __init__(self, score: Any) -> None:
        self.says = score

    def score(self, questions: Any, progress: Any = None) -> list[Verdict]:
        return [verdict(self.says(q), 10) for q in questions]


def examples(count: int) -> list[Transition]:
    return [example.transition("test") for example in tabletop.sample(count, 3, namespace="test")]


def test_the_card_knows_a_judge_that_sees_from_one_that_does_not() -> None:
    items = examples(40)
    exact = make_card(ExactJudge(items), items, 30)
    assert exact["trusted"]
    assert exact["rows"]["ground_truth"]["score"] == 10
    for row in ("copy", "inverse", "random", "counterfactual"):
        scored = exact["rows"][row]
        assert not scored["score"] >= 5, row  # backwards, an action can rarely happen at all: unscored
        assert scored["n"] + scored["n_unscored"] + scored["n_without"] == 30
    # An action that is its own inverse is no negative; a valid other action always is one.
    assert exact["rows"]["counterfactual"]["n"] > 25
    assert exact["blind_to"] == []
    sees_change = make_card(Says(lambda q: 9 if q.prediction != q.source else 0), items, 30)
    assert (sees_change["trusted"], sees_change["blind_to"]) == (True, ["inverse", "random", "counterfactual"])
    assert "it does not tell it from: inverse, random, counterfactual" in sees_change["why"]
    likes_all = make_card(Says(lambda q: 9), items, 30)
    assert not likes_all["trusted"]
    assert "does not tell them apart" in likes_all["why"]
    likes_copies = make_card(Says(lambda q: 9 if q.prediction == q.source else 3), items, 30)
    assert not likes_copies["trusted"]
    assert likes_copies["differences"]["copy"]["difference"] == -6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Right on every other item, a copy on the rest, and no image for the last."""
    out = tmp_path_factory.mktemp("run")
    test = examples(10)
    frames = [t.target_image if i % 2 else t.source_image for i, t in enumerate(test)]
    write_rows(out / "test" / "test.parquet", test)
    write_predictions(out / "predictions" / "half.parquet", score_images(frames, test, SCORER)[:-1])
    write_json(out / "results.json", {"kind": "bench", "bench": "tabletop"})
    return out


def test_the_exact_judge_agrees_with_the_world_and_counts_what_is_missing(run: Path) -> None:
    found = judge_run(run, Plan(kind="exact"))
    assert found["rows"]["half"]["score"] == pytest.approx(10 * 4 / 9)
    assert found["rows"]["half"]["unscored"] == {"missing": 1}
    assert found["rows"]["half"]["bounds"] == pytest.approx([4, 5])
    assert found["comparisons"]["half - copy"]["n_unscored"] == 1
    assert json.loads((run / "judge" / "exact.json").read_text())["scale"] == [0, 10]
    assert "it tells the ground truth from a copy" in write_report(run).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="no exact state"):
        ExactJudge([Transition(id="a")])


def test_several_rows_against_copy_are_one_family_of_tests() -> None:
    items = examples(8)
    rows = [Row(name, name, (None,) * 8, ()) for name in ("copy", "a", "b")]
    verdicts = {"copy": [verdict(0, 0)] * 8, "a": [verdict(9, 9)] * 8, "b": [verdict(i % 3, 9) for i in range(8)]}
    compared = comparisons(rows, verdicts, items)
    assert [entry["p"] for entry in compared.values()] == pytest.approx([2 / 2**8, 2 / 2**5])  # 3 of b are copy's 0
    assert [entry["p_holm"] for entry in compared.values()] == pytest.approx([4 / 2**8, 2 / 2**5])


def settings(**changes: Any) -> Settings:
    return Settings("fake", "http://localhost:1/v1", **changes)


def test_batches_go_out_and_come_back(run: Path, tmp_path: Path) -> None:
    plan = Plan(settings=settings(), card_items=4, cache=tmp_path / "a.sqlite", online=False, prices=Prices(2, 8))
    cost = dry_run(run, plan)
    paths = batch_out(run, plan, tmp_path / "out.jsonl")
    lines = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    assert len(lines) == len({line["custom_id"] for line in lines}) == cost["requests"]
    assert {line["url"] for line in lines} == {"/v1/chat/completions"}
    expected = (2 * cost["prompt_tokens"] + 8 * 400 * len(lines)) / 1e6
    assert cost["cost_at_most"] == pytest.approx(expected)

    def answer(line: dict[str, Any], number: int) -> dict[str, Any]:
        shown = [p["image_url"]["url"] for p in line["body"]["messages"][0]["content"] if p["type"] == "image_url"]
        text = json.dumps({"score": [9 if len(set(shown)) == 2 else 1, 10], "reasoning": ""})
        body: dict[str, Any] = {"choices": [{"finish_reason": "stop", "message": {"content": text}}]}
        if number == 0:
            return {"custom_id": line["custom_id"], "response": None, "error": {"code": "batch_expired"}}
        if number == 1:
            body = {"error": {"code": "content_filter", "message": "no"}}
        return {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": body}, "error": None}

    answers = [json.dumps(answer(line, i)) for i, line in enumerate(lines)]
    (tmp_path / "in.jsonl").write_text("\n".join(reversed(answers)) + "\n")
    taken = batch_in(run, plan, tmp_path / "in.jsonl")
    assert (taken.answered, len(taken.lost), taken.already) == (len(lines) - 1, 1, 0)
    assert batch_in(run, plan, tmp_path / "in.jsonl").already == len(lines) - 1  # twice changes nothing
    assert dry_run(run, plan)["requests"] == 1  # the lost one
    found = judge_run(run, Plan(**{**vars(plan), "force": True}))
    reasons = {reason for row in found["card"]["rows"].values() for reason in row["unscored"]}
    assert reasons == {"filtered", "unsent"}
    with pytest.raises(ValueError, match="no question of this run"):
        batch_in(run, Plan(settings=settings(seed=5), cache=tmp_path / "b.sqlite"), tmp_path / "in.jsonl")
    (tmp_path / "cut.jsonl").write_text("\n".join(answers)[:-40])
    with pytest.raises(ValueError, match="download the file again"):
        batch_in(run, plan, tmp_path / "cut.jsonl")


def test_what_the_command_is_given_is_checked_before_anything_is_sent(run: Path, tmp_path: Path) -> None:
    def judge(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["judge", str(run), "--cache", str(tmp_path / "a.sqlite"), *arguments])
        return result.exit_code, result.output

    assert "at most about" in judge("--model", "x", "--dry-run", "--price-in", "1", "--price-out", "2")[1]
    for arguments, message in (
        ((), "--model"),
        (("--model", "x", "--price-in", "1"), "both prices"),
        (("--model", "x", "--max-cost", "1"), "--max-cost needs the prices"),
        (("--model", "x", "--temperature", "hot"), "--temperature"),
        (("--model", "x", "--prompt", "nonsense"), "no chat prompt"),
        (("--model", "x", "--base-url", "ftp://x"), "--base-url"),
        (("--judge", "local", "--model", str(tmp_path)), "no safetensors"),
        (("--judge", "exact", "--batch-out", str(tmp_path / "b.jsonl")), "behind an endpoint"),
    ):
        code, output = judge(*arguments)
        assert (code, message in output) == (2, True), output
    code, output = judge("--model", "x", "--offline")
    assert (code, "gave no answers" in output) == (2, True)


def tiny_vlm(folder: Path) -> None:
    """A LLaVA of random weights that speaks in single letters."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from retrodict.models.checkpoint import no_bars

    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    template = (
        "{% for m in messages %}{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=["<image>"], **special),
        patch_size=8,
        vision_feature_select_strategy="default",
        chat_template=template,
        num_additional_image_tokens=1,
    )
    small: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(num_hidden_layers=2, image_size=16, patch_size=8, **small),
        text_config=LlamaConfig(vocab_size=len(words), num_hidden_layers=1, num_key_value_heads=2, **small),
        image_token_index=4,
        vision_feature_layer=-1,
    )
    torch.manual_seed(0)
    with no_bars():
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)


def test_a_local_model_goes_the_same_way(run: Path, tmp_path: Path) -> None:
    tiny_vlm(tmp_path / "tiny")
    plan = Plan(
        kind="local",
        settings=Settings(str(tmp_path / "tiny"), max_tokens=12, max_side=32),
        card_items=2,
        cache=tmp_path / "a.sqlite",
        force=True,
    )
    found = judge_run(run, plan)
    assert found["judge"]["served"].startswith("weights sha256:")
    assert found["rows"]["copy"]["unscored"] == {"parse": 10}  # random weights speak no JSON, and nobody guesses
    assert found["rows"]["copy"]["bounds"] == [0, 10]
    assert found["usage"]["calls"]["asked"] == found["usage"]["answers"] > 10
    lines = [json.loads(line) for line in (run / "judge" / "tiny-paper_fig10_v1.jsonl").read_text().splitlines()]
    assert any(line["replies"][0] for line in lines if line["replies"])
    again = judge_run(run, plan)
    assert again["usage"]["calls"] == {}
    assert again["usage"]["from_cache"] == found["usage"]["answers"]


def test_processes_share_the_questions_and_one_that_died_asks_nothing_twice(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_vlm(tmp_path / "tiny")
    settings = Settings(str(tmp_path / "tiny"), max_tokens=4, max_side=32)
    plan = Plan("local", settings, name="shared", card_items=2, cache=tmp_path / "a.sqlite", force=True)
    alone, lines = judge_run(run, plan), run / "judge" / "shared.jsonl"
    said = lines.read_bytes()
    asked: list[str] = []
    whole = LocalSource._bodies

    def bodies(self: LocalSource, requests: Sequence[Request]) -> list[Any]:
        if len(asked) == 8:
            asked.append("killed")
            raise KeyboardInterrupt
        asked.extend(request.key for request in requests)
        return whole(self, requests)

    monkeypatch.setattr(LocalSource, "_bodies", bodies)
    monkeypatch.setattr("retrodict.evaluation.judge.shared.PART", 12)
    plan = replace(plan, cache=tmp_path / "b.sqlite", width=4)
    with pytest.raises(KeyboardInterrupt):
        judge_run(run, plan, where=Share(1, 2))
    assert judge_run(run, plan, where=Share(1, 2)) == {}
    assert judge_run(run, plan, where=Share(0, 2))["rows"].keys() == alone["rows"].keys()
    asked.remove("killed")
    assert len(asked) == len(set(asked)) == alone["usage"]["answers"] > 12
    assert lines.read_bytes() == said
    assert not list(tmp_path.glob("b.sqlite*parts/*"))
    with pytest.raises(ValueError, match="another --name"):  # before anything is asked
        judge_run(run, replace(plan, settings=replace(settings, seed=1)), where=Share(1, 2))
    assert len(asked) == alone["usage"]["answers"]
    with pytest.raises(ValueError, match="asks nothing"):
        judge_run(run, Plan(kind="exact"), where=Share(0, 2))


def test_a_local_model_answers_each_question_as_if_it_were_alone(tmp_path: Path) -> None:
    """At a temperature every question has noise of its own, whoever shares its batch; equal ones say the same."""
    tiny_vlm(tmp_path / "tiny")
    model = LocalModel(str(tmp_path / "tiny"))
    asked = model.settings(Settings("tiny", temperature=1.0, max_tokens=12, max_side=32))
    requests = [build(name, PROMPT, asked, name, IMAGES, 0) for name in ("push", "a longer instruction", "pull")]

    async def answers(source: Any, some: list[Request]) -> list[Any]:
        return [outcome.body for outcome in await asyncio.gather(*(source.ask(r, lambda: False) for r in some))]

    together = asyncio.run(answers(model.source(), requests))
    alone = [asyncio.run(answers(model.source(), [request]))[0] for request in requests]
    assert together == alone
    said = [body["choices"][0]["message"]["content"] for body in together]
    assert len(set(said)) == 3
    assert {body["choices"][0]["finish_reason"] for body in together} <= {"stop", "length"}


def test_aurora_is_judged_where_its_images_lie(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "aurora_bench_small"
    if not folder.is_dir():
        pytest.skip(f"no AURORA-Bench in {folder}")
    write_json(tmp_path / "results.json", {"kind": "bench", "bench": "aurora", "system": "copy"})
    plan = Plan(settings=settings(), cache=tmp_path / "a.sqlite", card_items=50)
    with pytest.raises(ValueError, match="--data"):
        dry_run(tmp_path, plan)
    cost = dry_run(tmp_path, Plan(**{**vars(plan), "data": folder}))
    assert 250 + 4 * 45 < cost["requests"] <= 250 + 4 * 50  # copies of the card are rows of the table, too


def test_without_a_source_nothing_is_asked(tmp_path: Path) -> None:
    with open_cache(tmp_path / "a.sqlite") as cache:
        judge = ChatJudge(PROMPT, settings(repeats=2), cache)
        found = judge.score([Question("1", IMAGES["source"], "do it", IMAGES["prediction"])])
        assert (found[0].reason, found[0].repeats, judge.metadata["prompt_sha256"]) == ("unsent", 2, PROMPT.sha256)
        with pytest.raises(ValueError, match="asks for a choice"):
            ChatJudge(load_chat_prompt("pairwise_v1"), settings(), cache)


@pytest.mark.parametrize(
    ("text", "count", "scale", "expected"),
    [
        ('{"score": [20, 10, 25]}', 3, 25, (8, 4, 10)),
        ('{"score": [20, 10]}', 3, 25, "parse"),
        ('{"score": [26, 10, 1]}', 3, 25, "range"),
        ('{"score": 3}', 1, 4, (7.5,)),
        ('{"score": [3]}', 1, 4, (7.5,)),
        ('{"score": 3}', 2, 10, "parse"),
    ],
)
def test_a_prompt_has_its_own_numbers_and_scale(text: str, count: int, scale: float, expected: Any) -> None:
    scores = read_scores(Reply(text), count, scale)
    assert (scores.reason if isinstance(scores, Failure) else scores) == expected


def test_one_and_three_numbers_make_a_score() -> None:
    assert verdict(7).score == 7
    three = verdict(8, 4, 9)
    assert (three.es, three.me, three.score) == (8, 4, 6)  # the root of 4 * 9
    prompt = load_chat_prompt("editscore_style_v1")
    assert (len(prompt.scores), prompt.scale) == (3, 25)
    assert prompt.schema["properties"]["score"]["items"]["maximum"] == 25
