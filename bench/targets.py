"""What the project wants to reach, as ratios within one run."""

from __future__ import annotations

from dataclasses import dataclass

from bench.rows import Line, Row


@dataclass(frozen=True)
class Target:
    """A bound on one line of one row; ``models`` are folder names, empty for every model."""

    row: str
    line: str
    models: tuple[str, ...] = ()
    ratio_at_least: float = 0.0
    value_at_most: float = 0.0

    def __str__(self) -> str:
        return f"≥ {self.ratio_at_least:g} ×" if self.ratio_at_least else f"≤ {self.value_at_most:g}"

    def is_met(self, row: Row, line: Line) -> bool | None:
        """None where nothing was measured to compare with."""
        if self.ratio_at_least:
            ratio = row.ratio(line)
            return None if ratio is None else ratio >= self.ratio_at_least
        return None if line.median is None else line.median <= self.value_at_most


STORY = ("story", "story-656k")
CHAT = ("chat",)

TARGETS = (
    Target("sampled f32", "transformers", STORY, ratio_at_least=8.0),
    Target("sampled f32", "original", STORY, ratio_at_least=5.0),
    Target("decode f32", "transformers", ("stories15M",), ratio_at_least=2.0),
    Target("decode f32", "llama.cpp", CHAT, ratio_at_least=1.0),
    Target("decode f32", "roofline", CHAT, ratio_at_least=0.85),
    Target("decode bf16", "transformers", CHAT, ratio_at_least=1.5),
    Target("storage", "bf16", CHAT, ratio_at_least=0.9),
    Target("prefill 512 f32", "transformers", ratio_at_least=1.5),
    Target("prefill 512 f32", "llama.cpp", ratio_at_least=2.0),
    Target("batch f32", "8 sessions", CHAT, ratio_at_least=2.5),
    Target("context f32", "4096 tokens", ratio_at_least=0.7),
    Target("speculation ordinary f32", "speculating", ratio_at_least=0.98),
    Target("speculation ordinary bf16", "speculating", ratio_at_least=0.98),
    Target("rebuild f32", "generate again", ratio_at_least=2.0),
    # The time at 4,000 tokens is that at 100, within what a loaded machine lets one measure.
    Target("revert", "4000 tokens", ratio_at_least=0.5),
    # At most 1.15 times what is needed.
    Target("memory f32", "checkpoint", CHAT, ratio_at_least=0.87),
    Target("cold-start", "rewindlm", value_at_most=0.5),
    Target("server", "8 sessions", CHAT, ratio_at_least=2.5),
    Target("server-memory", "checkpoint", CHAT, ratio_at_least=0.87),
    Target("ready", "chat-server", value_at_most=1.5),
    Target("overload", "429, the last", value_at_most=100),
    Target("overload", "/health, the slowest", value_at_most=200),
)


def target_of(model: str, row: Row, line: Line) -> Target | None:
    """The target for this line, if there is one."""
    for target in TARGETS:
        if (target.row, target.line) == (row.key, line.label) and (
            not target.models or model in target.models
        ):
            return target
    return None
