"""The file that answers of endpoints are kept in."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrodict.chat.cache import open_cache


def test_one_process_at_a_time_has_a_cache(tmp_path: Path) -> None:
    with (
        open_cache(tmp_path / "a.sqlite"),
        pytest.raises(ValueError, match="in use"),
        open_cache(tmp_path / "a.sqlite"),
    ):
        pass


def test_what_is_no_cache_or_a_damaged_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.sqlite").write_text("no database at all, but long enough to look like something " * 40)
    with pytest.raises(ValueError, match="no cache of answers"), open_cache(tmp_path / "b.sqlite"):
        pass
    damaged = tmp_path / "c.sqlite"
    with open_cache(damaged) as cache:
        for number in range(100):
            cache.put(str(number), {"asked": "x" * 500}, {}, {})
    damaged.write_bytes(damaged.read_bytes()[:8192] + b"\xa5" * (damaged.stat().st_size - 8192))
    with pytest.raises(ValueError, match=r"c\.sqlite cannot be read .*backup"), open_cache(damaged) as cache:
        cache.get("3")
