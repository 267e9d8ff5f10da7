"""The pages of the human study when something is missing, slow, small, or the other way round."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from study_browser import PATIENCE, served, tokens

from retrodict.study.build import Texts, build
from retrodict.study.plan import DATABASE, Design
from retrodict.study.store import Store
from retrodict.study.words import english

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

READY = "main:not(.loading)"
SIZES = ((320, 640), (390, 844), (844, 390), (1024, 768), (1440, 900))
SHOTS = os.environ.get("STUDY_SCREENSHOTS", "")  # a folder to look at what the pages look like


@pytest.fixture(scope="module")
def study(studied_runs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pages") / "s"
    build(studied_runs, out, design=Design(per_subset=1, raters=6, repeat_share=0))
    trained(out)
    return out


def trained(study: Path) -> None:
    with Store(study / DATABASE) as store, store.transaction() as db:
        db.execute("UPDATE rater SET consented_at = 1, trained_at = 1")


@pytest.fixture(scope="module")
def links(study: Path) -> Iterator[list[str]]:
    with served(study) as address:
        yield [f"{address}/r/{token}" for token in tokens(study)]


def stored(study: Path, rater: int, what: str = "best, worst, done") -> list[tuple[object, ...]]:
    query = f"SELECT {what} FROM event JOIN trial ON trial.id = event.trial WHERE rater = ? ORDER BY position, revision"
    with closing(sqlite3.connect(study / DATABASE)) as db:
        return db.execute(query, (rater,)).fetchall()


def judge(page: Page, keys: tuple[str, ...] = ("Digit1", "Shift+Digit2", "Enter")) -> None:
    """Choose, and wait for the next task."""
    page.wait_for_selector(READY)
    count = page.inner_text("#count")
    for key in keys:
        page.keyboard.press(key)
    page.locator("#count", has_text=count).wait_for(state="detached")
    page.wait_for_selector(READY)


def blank(browser: Browser) -> Page:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    return page


def test_nothing_is_judged_before_its_images_are_seen(browser: Browser, study: Path, links: list[str]) -> None:
    """One image fails once, another comes late: both are asked for again or waited for, and the clock starts then."""
    page = blank(browser)
    held: list[Route] = []
    failed: list[str] = []

    def serve_badly(route: Route) -> None:
        address = route.request.url
        if not failed:
            failed.append(address)
            route.abort("connectionreset")
        elif address != failed[0] and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/pictures/*", serve_badly)
    page.goto(links[0], wait_until="domcontentloaded")
    page.wait_for_selector("#notice.trouble", state="visible")
    assert page.inner_text("#notice") == english()["load_failed"]
    for key in ("Digit1", "Shift+Digit2", "Enter", "0", "Enter"):
        page.keyboard.press(key)
    page.wait_for_timeout(1500)
    assert page.locator(".picks button:enabled, #next:enabled").count() == 0
    assert not page.locator(".candidate .after").first.is_visible()  # none is seen before the others
    assert stored(study, 1) == []
    began = time.monotonic()
    held[0].continue_()
    page.wait_for_selector(READY)
    loaded = page.evaluate("[...document.querySelectorAll('main img')].every(i => i.complete && i.naturalWidth > 0)")
    assert (loaded, page.locator("#notice").is_visible()) == (True, False)
    judge(page)
    since_the_last_image = time.monotonic() - began
    assert float(stored(study, 1, "seconds")[-1][0]) <= since_the_last_image  # type: ignore[arg-type]
    page.close()


def test_saved_is_said_only_of_what_is_saved(browser: Browser, study: Path, links: list[str]) -> None:
    page = blank(browser)
    answers = cycle([("text/html", "<html>Please log in to the hotel network</html>"), ("application/json", "{}")])
    logged_in = False

    def portal(route: Route) -> None:
        kind, body = next(answers)
        route.continue_() if logged_in else route.fulfill(status=200, content_type=kind, body=body)

    page.route("**/judge", portal)
    page.goto(links[1])
    page.wait_for_selector(READY)
    page.keyboard.press("Digit1")
    page.locator("#saved", has_text="login page").wait_for()
    assert stored(study, 2) == []
    logged_in = True
    page.keyboard.press("Shift+Digit2")
    page.get_by_text("Saved", exact=True).wait_for()
    assert [row[2] for row in stored(study, 2)] == [0, 0]
    assert page.locator(".picks [aria-pressed=true]").count() == 2
    page.close()


def test_looking_back_changes_nothing_until_something_is_changed(
    browser: Browser, study: Path, links: list[str]
) -> None:
    page = blank(browser)
    page.goto(links[2])
    judge(page)
    judge(page)
    before = stored(study, 3)
    for task in (2, 1):
        page.keyboard.press("Backspace")
        page.wait_for_selector(f"#notice:has-text('Back to task {task}')", state="visible")
        page.wait_for_selector(READY)
    assert stored(study, 3) == before
    page.keyboard.press("Shift+Digit3")
    page.get_by_text("Saved", exact=True).wait_for()
    assert [row[2] for row in stored(study, 3)] == [0, 0, 1, 0, 0, 0, 1]
    page.close()


def test_a_second_tab_is_told_visibly(browser: Browser, study: Path, links: list[str]) -> None:
    first, second = blank(browser), blank(browser)
    for page in (first, second):
        page.goto(links[3])
        page.wait_for_selector(READY)
    judge(first)
    second.keyboard.press("Digit4")
    second.wait_for_selector("#notice:has-text('another place')", state="visible")
    assert second.locator(".is-best").get_attribute("data-position") == "0"  # as the first tab chose
    assert len(stored(study, 4)) == 3
    first.close()
    second.close()


def fits(page: Page, name: str) -> None:
    """Nothing is cut off at the side, and everything that is pressed is large enough, at every size."""
    for width, height in SIZES:
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
        small = page.evaluate(
            "[...document.querySelectorAll('main button, footer button')]"
            ".filter(b => b.offsetHeight && b.offsetHeight < 36).map(b => b.className + b.offsetHeight)"
        )
        assert small == [], (name, width)
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/{name}-{width}.png", full_page=True)


def test_pages_fit_every_screen(browser: Browser, study: Path, links: list[str]) -> None:
    page = blank(browser)
    page.goto(links[4])
    page.wait_for_selector(READY)
    fits(page, "task")
    page.goto(f"{links[4]}?training=again")
    page.wait_for_selector(READY)
    page.keyboard.press("Digit1")
    page.keyboard.press("Shift+Digit2")
    fits(page, "training")
    page.close()


def test_a_page_from_right_to_left(browser: Browser, studied_runs: list[str], tmp_path: Path) -> None:
    file = {name: f"שלום {text}" for name, text in english().items()} | {"lang": "he", "dir": "rtl"}
    build(studied_runs, tmp_path / "s", design=Design(per_subset=1, raters=1, repeat_share=0), texts=Texts(words=file))
    trained(tmp_path / "s")
    with served(tmp_path / "s") as address:
        page = blank(browser)
        page.goto(f"{address}/r/{tokens(tmp_path / 's')[0]}")
        page.wait_for_selector(READY)
        assert (page.evaluate("document.dir"), page.get_attribute("html", "lang")) == ("rtl", "he")
        source, action = (page.locator(one).bounding_box() for one in ("#source", "#action"))
        assert source is not None and action is not None
        assert source["x"] > action["x"]  # the image stands on the right
        fits(page, "rtl")
        judge(page)
        page.close()


def test_pairs_and_ratings_have_their_own_pages(browser: Browser, studied_runs: list[str], tmp_path: Path) -> None:
    pairwise = Design(per_subset=1, raters=1, repeat_share=0, show=2)
    rating = Design(
        per_subset=1, raters=1, repeat_share=0, method="rating", points=5, questions=("Real?", "Done?"), comments=True
    )
    for name, design in (("pairwise", pairwise), ("rating", rating)):
        study = tmp_path / name
        build(studied_runs, study, design=design)
        trained(study)
        with served(study) as address:
            page = blank(browser)
            page.goto(f"{address}/r/{tokens(study)[0]}")
            page.wait_for_selector(READY)
            fits(page, name)
            if name == "pairwise":
                judge(page, ("Digit2", "Enter"))
                assert all(best and worst for best, worst, _ in stored(study, 1))
            else:
                assert page.inner_text("#question") == "Real?"
                page.fill("#comment", "12 is what I typed")  # digits there are text
                page.locator("#action").focus()
                judge(page, ("Digit5", "Digit1", "Digit3", "Digit4", "Enter"))
                assert page.inner_text("#question") == "Done?"
                with closing(sqlite3.connect(study / DATABASE)) as db:
                    rows = db.execute("SELECT ratings, comment FROM detail").fetchall()
                assert (json.loads(rows[-1][0]), rows[-1][1]) == ([5, 1, 3, 4], "12 is what I typed")
            page.close()


def test_candidates_are_covered_when_time_is_up(browser: Browser, studied_runs: list[str], tmp_path: Path) -> None:
    build(studied_runs, tmp_path / "s", design=Design(per_subset=1, raters=1, seconds=1))
    trained(tmp_path / "s")
    with served(tmp_path / "s") as address:
        page = blank(browser)
        page.goto(f"{address}/r/{tokens(tmp_path / 's')[0]}")
        page.wait_for_selector("main.covered")
        assert not page.locator(".candidate .after").first.is_visible()
        assert page.inner_text("#notice") == english()["time_up"]
        judge(page)
        page.close()
