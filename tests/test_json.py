"""JSON files that any language reads."""

from __future__ import annotations

import json
import math
from pathlib import Path

from retrodict.files import made_once, number_of, write_json


def test_a_number_that_there_is_not_is_null(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    file = tmp_path / "results.json"
    write_json(file, {"mean": math.nan, "rows": [(1.5, math.inf), {"low": -math.inf, "n": 3}], "right": True})
    read = json.loads(file.read_text(), parse_constant=refuse)
    assert read == {"mean": None, "rows": [[1.5, None], {"low": None, "n": 3}], "right": True}
    assert math.isnan(number_of(read["mean"])) and number_of(2) == 2


def test_what_is_made_once_comes_back_as_it_was(tmp_path: Path) -> None:
    first, again = (made_once(tmp_path / "made.json", lambda: [math.nan, 0.1]) for _ in range(2))
    assert first[1:] == again[1:] == [0.1] and math.isnan(first[0]) and math.isnan(again[0])
