"""The human study in a real browser: three raters at once, by keyboard and touch, with reloads and second thoughts."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from study_browser import FLAGS, PATIENCE, chromium, served, tokens

from retrodict.study.build import build
from retrodict.study.plan import DATABASE, Design, read_plan

if TYPE_CHECKING:
    from playwright.async_api import Browser, Locator, Page


Chosen = dict[int, tuple[str, str] | None]  # position -> best and worst image, or None for "can't tell"


class Visitor:
    """A person at a browser, who remembers what they chose."""

    def __init__(self, browser: Browser, link: str, phone: bool) -> None:
        self.browser, self.link, self.phone = browser, link, phone
        self.chosen: Chosen = {}
        self.troubles: list[str] = []
        self.page: Page

    async def open(self) -> None:
        """On a new device: nothing is left of earlier visits."""
        size = {"width": 390, "height": 844} if self.phone else {"width": 1440, "height": 900}
        context = await self.browser.new_context(viewport=size, has_touch=self.phone)  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE)
        self.page = await context.new_page()
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", lambda said: self.troubles.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda asked: self._at_home(asked.url))
        await self.page.goto(self.link)

    def _at_home(self, address: str) -> None:
        if not address.startswith(self.link.split("/r/")[0]):
            self.troubles.append(f"asked for {address}")

    async def begin(self) -> None:
        await self.page.get_by_role("button", name="I agree, begin").press("Enter")
        for lesson in ("1", "2"):
            await self.page.locator("#number", has_text=f"Example {lesson} of 2").wait_for()
            await self.ready()
            await self.page.keyboard.press("1")
            await self.page.keyboard.press("Shift+Digit2")
            await self.page.locator("#next:enabled").click()
        await self.page.locator("#count:not(:empty)").wait_for()
        await self.ready()

    async def ready(self) -> None:
        """Until all images can be seen, as before that nothing can be chosen."""
        await self.page.locator("main:not(.loading)").wait_for()

    async def position(self) -> int:
        return int((await self.page.locator("#count").inner_text()).split()[0]) - 1

    def at(self, position: int) -> Locator:
        return self.page.locator("#count", has_text=re.compile(f"^{position + 1} of"))

    async def images(self) -> list[str]:
        found = await self.page.locator(".candidate .after").evaluate_all("all => all.map(i => i.getAttribute('src'))")
        return [str(address).split("/")[-1].removesuffix(".png") for address in found]

    async def choose(self, best: int, worst: int) -> None:
        shown = await self.images()
        self.chosen[await self.position()] = (shown[best], shown[worst])

    async def go_on(self, press: Callable[[], Any]) -> None:
        """Press, and wait for the next task or the end."""
        here = await self.position()
        await press()
        await self.at(here).wait_for(state="detached")
        if not await self.is_finished():
            await self.ready()

    async def is_finished(self) -> bool:
        await self.page.wait_for_load_state()
        return await self.page.locator("h1", has_text="Thank you").count() > 0


async def by_keyboard(visitor: Visitor) -> None:
    await visitor.open()
    await visitor.begin()
    while not await visitor.is_finished():
        here = await visitor.position()
        best, worst = here % 4, (here + 1) % 4
        if here == 2:
            await visitor.page.keyboard.press("0")
            visitor.chosen[here] = None
        else:
            await visitor.page.keyboard.press(f"Digit{best + 1}")
            await visitor.page.keyboard.press(f"Shift+Digit{worst + 1}")
            await visitor.choose(best, worst)
        await visitor.go_on(lambda: visitor.page.keyboard.press("Enter"))


async def by_touch_on_two_devices(visitor: Visitor, middle: int) -> None:
    """Reloads after the best pick of the middle task, and goes on elsewhere: the pick is still there."""
    await visitor.open()
    await visitor.begin()
    while not await visitor.is_finished():
        here = await visitor.position()
        best, worst = (here + 2) % 4, here % 4
        await visitor.page.locator(".best").nth(best).click()
        if here == middle:
            await visitor.page.locator("#saved", has_text="Saved").wait_for()
            await visitor.page.reload()
            await visitor.ready()
            assert await visitor.position() == here
            await visitor.page.context.close()
            await visitor.open()
            await visitor.ready()
            assert await visitor.position() == here
            assert await visitor.page.locator(".candidate").nth(best).get_by_role("button", pressed=True).count() == 1
        await visitor.page.locator(".worst").nth(worst).click()
        await visitor.choose(best, worst)
        await visitor.go_on(lambda: visitor.page.locator("#next").click())


async def with_second_thoughts(visitor: Visitor) -> None:
    """Undoes a pick before going on, and goes back to a task that was done; looks at the scene before, and enlarges."""
    await visitor.open()
    await visitor.begin()
    went_back = False
    while not await visitor.is_finished():
        here = await visitor.position()
        keys = visitor.page.keyboard
        if here == 1:
            await keys.press("Digit1")
            await keys.press("Shift+Digit1")  # the best and the worst must differ: the best is free again
            assert await visitor.page.locator(".is-best").count() == 0
            await keys.press("Backspace")
            assert await visitor.page.locator("[aria-pressed=true]").count() == 0
            await keys.down("f")
            assert await visitor.page.locator(".candidate .before").first.is_visible()
            await keys.up("f")
            assert not await visitor.page.locator(".candidate .before").first.is_visible()
            await keys.press("z")
            assert await visitor.page.locator("#zoom[open] #zoomname").inner_text() == "Candidate 1"
            await keys.press("Escape")
            await visitor.page.locator("#keys").click()
            await keys.press("Escape")
        if here == 3 and not went_back:
            went_back = True
            await keys.press("Backspace")
            await visitor.at(2).wait_for()
            await visitor.ready()
            assert await visitor.page.locator(".is-best").count() == 1  # as it was chosen
            continue
        best, worst = (3, 0) if went_back else (1, 2)
        await keys.press(f"Digit{best + 1}")
        await keys.press(f"Shift+Digit{worst + 1}")
        await visitor.choose(best, worst)
        # Enter must not be caught by the button that opened the last dialog.
        await visitor.go_on(lambda: visitor.page.keyboard.press("Enter"))


async def three_raters(browser_path: str, links: list[str], middle: int) -> list[Visitor]:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        visitors = [Visitor(browser, link, phone=i == 1) for i, link in enumerate(links)]
        await asyncio.gather(
            by_keyboard(visitors[0]), by_touch_on_two_devices(visitors[1], middle), with_second_thoughts(visitors[2])
        )
        await browser.close()
    return visitors


def finish_in_browsers(study: Path, middle: int) -> None:
    """Three raters at once; then the database holds what they chose, each judgement exactly once."""
    with served(study) as address:
        links = [f"{address}/r/{token}" for token in tokens(study)[:3]]
        visitors = asyncio.run(three_raters(chromium(), links, middle))
    with closing(sqlite3.connect(study / DATABASE)) as db:
        stored = db.execute(
            "SELECT rater, position, best, worst, done FROM trial LEFT JOIN judgement ON trial.id = judgement.trial"
        ).fetchall()
    total = len(stored) // 3
    expected = {(i + 1, at): chosen for i, visitor in enumerate(visitors) for at, chosen in visitor.chosen.items()}
    assert len(expected) == len(stored) == 3 * total
    assert all(row[4] == 1 for row in stored)
    assert {(row[0], row[1]): None if row[2] is None else (row[2], row[3]) for row in stored} == expected
    assert [visitor.troubles for visitor in visitors] == [[], [], []]


@pytest.mark.slow
def test_three_raters_finish_at_once_in_a_browser(studied_runs: list[str], tmp_path: Path) -> None:
    chromium()
    study = tmp_path / "s"
    build(studied_runs, study, design=Design(per_subset=1, raters=3, repeat_share=0.4))
    assert len(read_plan(study).items) == 3
    finish_in_browsers(study, middle=2)
