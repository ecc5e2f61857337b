from __future__ import annotations

from bench import markdown, report
from bench.machine import describe
from bench.rows import Line, Reference, Row
from bench.samples import Samples


def test_the_page_has_every_line_with_ratio_target_and_command() -> None:
    lines = (
        Line("rewindlm", Samples((900.0, 1000.0, 1100.0))),
        Line("transformers", Samples((200.0, 250.0, 260.0))),
        Line("llama.cpp", absence="not installed (llama_cpp)"),
        Line("original", reference=Reference("original", 100.0, "measured once")),
    )
    rows = [
        Row("sampled f32", "generate", "tokens/s", True, lines),
        Row(
            "revert",
            "revert",
            "µs",
            False,
            (Line("100 tokens", Samples((2.0,))), Line("4000 tokens", Samples((8.0,)))),
            "each line against the first",
        ),
    ]
    figures = report.document(
        describe(threads=2) | {"blas": "openblas"}, {"repeats": 3}, {"story": ({}, rows)}
    )
    page = markdown.page(figures, "python -m bench --only sampled").splitlines()
    assert "`python -m bench --only sampled`" in page[2]
    table = page[page.index("## story") + 4 :]
    assert table == [
        "| generate | rewindlm | 1,000 tokens/s | 900 – 1,100 |  |  |",
        "|  | transformers | 250 tokens/s | 200 – 260 | 4 | ≥ 8 × **missed** |",
        "|  | llama.cpp | not installed (llama_cpp) | | | |",
        "|  | original | 100 tokens/s | measured once | 10 | ≥ 5 × met |",
        "| revert (×: against the first line) | 100 tokens | 2 µs | 2 – 2 |  |  |",
        "|  | 4000 tokens | 8 µs | 8 – 8 | 0.25 | ≥ 0.5 × **missed** |",
    ]
