from __future__ import annotations

from pathlib import Path

from bench.roofline import ASSUMED_CACHE_BYTES, last_level_cache_bytes


def test_the_last_level_is_the_largest_cache(tmp_path: Path) -> None:
    for level, size in (("1", "48K"), ("2", "1024K"), ("3", "32M")):
        cache = tmp_path / f"index{level}"
        cache.mkdir()
        for name, text in (("level", level), ("type", "Unified"), ("size", size)):
            (cache / name).write_text(text + "\n")
    assert last_level_cache_bytes(tmp_path) == 32 << 20


def test_a_system_that_does_not_tell_gets_an_assumption(tmp_path: Path) -> None:
    assert last_level_cache_bytes(tmp_path) == ASSUMED_CACHE_BYTES
