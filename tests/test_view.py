"""The viewer of items: what it hands out, and a browser that goes through it, served and as files."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_browser import FLAGS, PATIENCE, chromium

from retrodict.evaluation.pool import ItemResult, Scored
from retrodict.evaluation.predictions import write_predictions
from retrodict.files import write_json, write_lines
from retrodict.report.view_server import server
from retrodict.report.viewer import Viewer
from retrodict.transitions import write_rows
from retrodict.worlds import get_world

ATTACK = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs on 60 items. System "s" of a is right on even items, that of b on all; item 3 has no image in a; the
    judge of a likes what is wrong."""
    root = tmp_path_factory.mktemp("runs")
    rows = get_world("tabletop").sample(60, 0, namespace="view-test", split="test")
    rows[1] = replace(rows[1], action=ATTACK)
    for name in ("a", "b"):
        results, lines = [], []
        for i, row in enumerate(rows):
            right = name == "b" or i % 2 == 0
            greedy = Scored(row.target or b"", right, 1.0, float(right), 0.0)
            if (name, i) == ("a", 3):
                greedy = Scored(reason=f"lost {ATTACK}")
            pool = tuple(replace(greedy, verifiers={"idm": float(k)}) for k in range(2))
            results.append(ItemResult(row.id, row.category, row.id, row.action, greedy, pool))
            score = 1.0 + 8 * (not right) + i / 100
            lines.append({"row": "s", "id": row.id, "score": score, "es": score, "me": 10, "reason": "", "detail": ""})
            lines[-1]["replies"] = [f"because {ATTACK}"]
        run = root / name
        write_rows(run / "test" / "test.parquet", rows)
        write_predictions(run / "predictions" / "s.parquet", results)
        write_json(run / "results.json", {"kind": "bench", "bench": "tabletop", "system": "s"})
        if name == "a":
            write_lines(run / "judge" / "j.jsonl", lines)
    return [root / "a", root / "b"]


@pytest.fixture(scope="module")
def viewer(folders: list[Path]) -> Viewer:
    return Viewer(folders)


@pytest.fixture(scope="module")
def address(viewer: Viewer) -> Iterator[str]:
    with server(viewer, 0) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/"
        listening.shutdown()


def test_the_list_has_every_number_and_why_there_is_none(viewer: Viewer) -> None:
    index = viewer.index
    assert [column["title"] for column in index["columns"]] == [
        f"{run}: s{chosen}" for run in "ab" for chosen in ("", " (best of 2 by IDM)")
    ]
    assert [measure["title"] for measure in index["measures"]][:4] == [
        "Score",
        "Edit success",
        "Minimal edit",
        "Judge j",
    ]
    first, third = index["items"][0], index["items"][3]
    assert [values[0] for values in first["values"]] == [1, 1, 1, 1]
    assert first["values"][0][3] == 1.0
    assert first["frames"] == [-1, 1, -1, 1]  # the verifier likes the second candidate
    assert third["frames"] == [None, None, -1, 1]
    assert third["values"][0][:3] == [None, None, None]
    assert third["reasons"][0] == f"lost {ATTACK}"


def test_a_run_that_was_changed_by_hand_is_named(folders: list[Path], tmp_path: Path) -> None:
    for file, write in {
        "judge/j.jsonl": lambda path: path.write_text('{"x": 1}\n'),
        "predictions/s.parquet": lambda path: shutil.copy(folders[0] / "test" / "test.parquet", path),
    }.items():
        run = shutil.copytree(folders[0], tmp_path / file)
        write(run / file)
        with pytest.raises(ValueError, match=rf"{run}.* holds something that no run writes"):
            Viewer([run])


def test_only_what_is_there_is_handed_out(viewer: Viewer, address: str) -> None:
    assert viewer.get("images/source/0") == (viewer.items[viewer.ids[0]].source, "image/png")
    for path in (
        "images/0/s/-1/3",
        "images/0/s/7/0",
        "images/0/t/0/0",
        "images/source/99",
        "details/60.js",
        "../x",
        "x",
    ):
        assert viewer.get(path) is None, path
    port = int(address.rsplit(":", maxsplit=1)[-1].strip("/"))
    for host, status in (("localhost", 200), ("evil.example", 404)):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/items.js", headers={"Host": host})
        answer = connection.getresponse()
        assert answer.status == status
        assert "default-src 'none'" in str(answer.getheader("Content-Security-Policy"))
        connection.close()


def test_a_browser_goes_through_the_items(viewer: Viewer, address: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    viewer.write(tmp_path / "files")
    troubles: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        for start in (address, (tmp_path / "files" / "index.html").as_uri()):
            page = browser.new_page(viewport={"width": 390, "height": 844})
            page.set_default_timeout(PATIENCE)
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("console", lambda said: troubles.append(said.text) if said.type == "error" else None)
            page.goto(start)
            _look(page, viewer)
            page.close()
        browser.close()
    assert not troubles


def _look(page: Any, viewer: Viewer) -> None:
    status, links, item = page.locator("#status"), page.locator("#items a"), page.locator("#item")
    status.get_by_text("60 of 60 items").wait_for()
    assert links.count() == 50
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    page.select_option("#show", "unscored")
    status.get_by_text("1 of 60 items").wait_for()
    page.select_option("#show", "systems")
    status.get_by_text("29 of 60 items").wait_for()  # the odd ones, without the one that has no score
    page.select_option("#show", "judge")
    status.get_by_text("of 60 items").wait_for()
    page.select_option("#show", "worst")
    status.get_by_text("59 of 60 items").wait_for()
    assert links.first.get_attribute("data-id") == viewer.ids[1]
    page.keyboard.press("Escape")  # out of the field
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    item.get_by_text(f"because {ATTACK}").wait_for()  # the judge's words, as text
    assert item.get_by_role("heading", level=2).inner_text() == ATTACK
    assert item.locator("img").count() == 6 + 2 * 3  # side by side, and all candidates of both
    link = page.url
    page.keyboard.press("j")
    status.get_by_text("Item 2 of 59").wait_for()
    page.keyboard.press("Escape")
    page.locator(f"[data-id={json.dumps(viewer.ids[5])}]:focus").wait_for()
    page.goto(link)  # a link leads to the item
    status.get_by_text("Item 1 of 59").wait_for()
