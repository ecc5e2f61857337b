"""Progress: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import io

from lm_models.progress import PlainProgress, RichProgress, megabytes, terminal_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_now_and_then() -> None:
    stream, now = io.StringIO(), [0.0]
    progress = PlainProgress(stream, interval=10.0, clock=lambda: now[0])
    with progress.bar("weights", 50_000_000, done=10_000_000) as advance:
        for _ in range(4):
            now[0] += 6.0
            advance(10_000_000)
    assert stream.getvalue().splitlines() == [
        "weights: 10.0 MB of 50.0 MB",
        "weights: 30.0 MB of 50.0 MB",
        "weights: 50.0 MB of 50.0 MB",
        "weights: done",
    ]


def test_what_failed_is_not_called_done() -> None:
    stream = io.StringIO()
    try:
        with PlainProgress(stream).bar("weights", 1000):
            raise OSError
    except OSError:
        pass
    assert stream.getvalue() == "weights: 1.0 kB\n"


def test_a_terminal_gets_a_bar() -> None:
    stream = Terminal()
    progress = terminal_progress(stream)
    assert isinstance(progress, RichProgress)
    with progress.bar("[weights]", 4_000_000, done=1_000_000) as advance:
        advance(1_000_000)
    progress.note("[done] so far")
    assert "[weights]" in stream.getvalue()
    assert "━" in stream.getvalue()
    assert "4.0/4.0 MB" in stream.getvalue()
    assert "[done] so far" in stream.getvalue()


def test_anything_else_gets_plain_text() -> None:
    stream = io.StringIO()
    assert isinstance(terminal_progress(stream), PlainProgress)
    terminal_progress(stream).note("fetching")
    assert stream.getvalue() == "fetching\n"


def test_sizes_for_people() -> None:
    sizes = [megabytes(size) for size in (999, 1000, 92_871_040, 2_200_000_000)]
    assert sizes == ["999 bytes", "1.0 kB", "92.9 MB", "2.2 GB"]
