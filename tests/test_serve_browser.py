"""The playground in a real browser: a whole session, by mouse and keyboard, and what axe-core says of every state."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from serving import running
from study_browser import PATIENCE

import retrodict
from retrodict import loading
from retrodict.serve.app import create_app
from retrodict.serve.models import Models
from retrodict.serve.playground import Page
from retrodict.worlds import get_world

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

WORLD: Any = get_world("tabletop")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    if not loading.is_model(loading.SHIPPED / "small" / "forward"):
        pytest.skip("no shipped weights")
    with running(create_app(Models("small"))) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def tab(browser: Browser, address: str) -> Iterator[Tab]:
    """A tab in which nothing goes wrong and nothing is asked of anybody else."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    page, troubles = context.new_page(), list[str]()
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on(
        "console",
        lambda said: troubles.append(f"{said.text} {said.location}") if said.type in ("error", "warning") else None,
    )
    page.on("request", lambda asked: troubles.append(asked.url) if not at_home(asked.url, address) else None)
    page.goto(address)
    page.locator("body[data-ready]").wait_for()
    yield page
    context.close()
    assert not troubles


def at_home(url: str, address: str) -> bool:
    return url.startswith((address, "data:", f"blob:{address}"))


def audit(tab: Tab) -> None:
    import axe_playwright_python

    axe = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    tab.evaluate(axe)
    # Until cards have come up: what is half transparent has half the contrast. Not with `wait_for_function`: what it
    # looks at again later is text to evaluate, which the page's own security policy refuses.
    tab.evaluate(
        "Promise.allSettled(document.getAnimations()"
        ".filter(a => a.effect.getComputedTiming().endTime !== Infinity).map(a => a.finished)).then(() => null)"
    )
    violations = tab.evaluate("axe.run(document).then(r => r.violations.map(v => v.id + ': ' + v.nodes[0].html))")
    assert violations == []


def act(tab: Tab, action: str) -> None:
    tab.locator("#action").fill(action)
    tab.keyboard.press("Enter")
    tab.locator(".card.chosen").wait_for()


def canvas(tab: Tab, selector: str) -> Image.Image:
    url = tab.locator(selector).first.evaluate("c => c.toDataURL()")
    return Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB")


def saved(tab: Tab, button: str) -> bytes:
    with tab.expect_download() as download:
        tab.get_by_role("button", name=button, exact=True).click()
    return Path(download.value.path()).read_bytes()


def test_a_whole_session(tab: Tab, tmp_path: Path) -> None:
    tab.get_by_role("button", name="Draw").click()
    tab.get_by_role("button", name="Empty table").click()
    for colour, shape, cell in (
        ("blue", "box", "Column 2, height 6: empty"),
        ("red", "ball", "Column 5, height 1: empty"),
    ):
        tab.get_by_role("button", name=colour, exact=True).click()
        tab.get_by_role("button", name=shape, exact=True).click()
        tab.get_by_role("button", name=cell).press("Enter")
        tab.get_by_role("button", name=f"{cell[:8]}, height 1: {colour} {shape}").wait_for()
    drawn = WORLD.compose([("blue box", 1, 0), ("red ball", 4, 0)])
    assert canvas(tab, "#now").tobytes() == drawn.tobytes()

    act(tab, "push the red ball to the left")
    prediction = retrodict.predict(drawn, "push the red ball to the left")
    assert tab.locator(".card").count() == 8
    assert canvas(tab, ".card.chosen canvas").tobytes() == prediction.image.tobytes()
    audit(tab)
    for view in ("Difference", "Recognition", "Blink", "Image"):
        tab.get_by_role("button", name=view, exact=True).click()
    tab.locator("#action").blur()
    tab.keyboard.press("1")
    tab.locator("#strip [aria-current=true]", has_text="push the red ball").wait_for()

    tab.get_by_role("button", name="What happened?").click()
    tab.locator("#answer").click()
    said = tab.locator("#answered .big")
    said.wait_for()
    assert WORLD.explains(said.inner_text(), drawn, prediction.image)
    audit(tab)
    tab.get_by_role("button", name="How to get there?").click()
    tab.locator("#strip button").first.click()
    tab.locator("#answer").click()
    said.wait_for()
    assert "confidence" in said.inner_text()
    audit(tab)
    tab.get_by_role("button", name="What happens next?").click()

    act(tab, "paint the red ball green")
    tab.locator(".card.chosen button").click()
    tab.locator("#strip [aria-current=true]", has_text="paint the red ball green").wait_for()
    tab.locator("#action").blur()
    tab.keyboard.press("u")
    tab.locator("#strip [aria-current=true]", has_text="push the red ball").wait_for()
    act(tab, "remove the red ball")  # another branch
    tab.locator(".card.chosen button").click()
    tab.locator("#branches button", has_text="paint the red ball green").wait_for()
    end = canvas(tab, "#now")

    with Image.open(io.BytesIO(saved(tab, "GIF"))) as film:
        assert film.n_frames == 3
        film.seek(2)
        shown = film.convert("RGB").resize(end.size, Image.Resampling.NEAREST)
    off = sum(abs(a - b) for a, b in zip(shown.tobytes(), end.tobytes(), strict=True)) / len(end.tobytes())
    assert off < 3
    assert saved(tab, "PNG").startswith(b"\x89PNG")
    record = saved(tab, "JSON")
    assert [node["action"] for node in json.loads(record)["nodes"]][-1] == "remove the red ball"

    tab.reload()  # the address holds everything
    tab.locator("body[data-ready]").wait_for()
    assert canvas(tab, "#now").tobytes() == end.tobytes()
    assert tab.locator("#branches button").count() == 1
    (tmp_path / "film.json").write_bytes(record)
    tab.goto(tab.url.split("#")[0])
    tab.locator("body[data-ready]").wait_for()
    tab.locator("#file").set_input_files(tmp_path / "film.json")
    tab.locator("#strip li").nth(2).wait_for()
    assert canvas(tab, "#now").tobytes() == end.tobytes()


def test_a_late_answer_undoes_nothing_that_was_done_meanwhile(tab: Tab) -> None:
    tab.evaluate(
        "() => { const f = fetch; fetch = (...a) => new Promise((r) => setTimeout(r, 500)).then(() => f(...a)); }"
    )
    tab.get_by_role("button", name="Draw").click()
    tab.get_by_role("button", name="Empty table").click()
    tab.locator("#said", has_text="The table is empty").wait_for()
    tab.get_by_role("button", name="box", exact=True).click()
    for colour, column in (("blue", 2), ("red", 5)):  # the second before the first is answered
        tab.get_by_role("button", name=colour, exact=True).click()
        tab.get_by_role("button", name=f"Column {column}, height 1: empty").dispatch_event("click")
    for colour, column in (("blue", 2), ("red", 5)):
        tab.get_by_role("button", name=f"Column {column}, height 1: {colour} box").wait_for()

    act(tab, "paint the blue box green")
    tab.locator(".card.chosen button").click()
    tab.locator("#strip li").nth(1).wait_for()
    tab.locator("#action").blur()
    tab.keyboard.press("u")
    tab.locator("#strip li").nth(1).wait_for(state="detached")
    tab.locator("#action").fill("remove")
    tab.wait_for_timeout(1500)
    assert tab.locator("#action").input_value() == "remove"

    for action in ("remove the blue box", "remove the red box"):  # asked before the first is answered
        tab.locator("#action").fill(action)
        tab.keyboard.press("Enter")
    tab.locator(".card.chosen button").click()
    tab.locator("#strip [aria-current=true]", has_text="remove the red box").wait_for()


def test_strange_images_and_words_are_shown_as_text(tab: Tab, tmp_path: Path) -> None:
    Image.effect_noise((300, 200), 80).save(tmp_path / "noise.png")
    tab.locator("#file").set_input_files(tmp_path / "noise.png")
    tab.locator("#notes", has_text="trained on no images like this").wait_for()
    assert tab.locator("#suggested button").count() == 0
    words = "<img src=x onerror=alert(1)>"
    act(tab, words)
    tab.locator(".card button").first.click()
    tab.locator("#strip li").nth(1).wait_for()
    assert tab.locator("#strip li").nth(1).inner_text().endswith(words)
    (tmp_path / "no.json").write_text('{"retrodict": 2}')
    tab.locator("#file").set_input_files(tmp_path / "no.json")
    tab.locator("#toast", has_text="no saved session").wait_for()
    audit(tab)


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_other_screens(browser: Browser, address: str, width: int, scheme: Any) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(address)
    page.locator("#suggested button").first.click()
    page.locator(".card.chosen").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    audit(page)
    context.close()


def test_the_page_holds_nothing_of_others_and_its_policy_allows_one_script() -> None:
    page = Page.read()
    assert "http://" not in page.text.replace("http://www.w3.org/2000/svg", "") and "https://" not in page.text
    assert "unsafe" not in page.policy and page.policy.count("'sha256-") == 2
    assert "innerHTML" not in page.text and "\nexport " not in page.text
