"""``python -m file_map``: write the list of files into ``doc/map.md``."""

from __future__ import annotations

from pathlib import Path

from file_map.listing import with_listing

PROJECT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Bring ``doc/map.md`` up to date."""
    page = PROJECT / "doc" / "map.md"
    page.write_text(with_listing(page.read_text(encoding="utf-8"), PROJECT), encoding="utf-8")


if __name__ == "__main__":
    main()
