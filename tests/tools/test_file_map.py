"""``doc/map.md`` is true of the files that are there."""

from __future__ import annotations

from file_map.listing import first_sentence, with_listing
from shared_files import PROJECT


def test_the_map_lists_every_file_with_its_first_sentence() -> None:
    page = (PROJECT / "doc" / "map.md").read_text(encoding="utf-8")
    assert page == with_listing(page, PROJECT), "run: cd tools && python -m file_map"


def test_a_sentence_is_the_first_paragraph_on_one_line() -> None:
    assert first_sentence('"""One\nsentence.\n\nMore."""') == "One sentence."
    assert first_sentence('"""Uses ``x`` and :meth:`y`."""') == "Uses `x` and `y`."
    assert first_sentence("x = 1") == ""
