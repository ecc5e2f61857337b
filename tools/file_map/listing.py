"""The list of files: a table a package, a row a file, the first sentence of its docstring."""

from __future__ import annotations

import ast
import re
from pathlib import Path

FOLDERS = (
    "lm_core",
    "lm_models",
    "lm_cli",
    "story_teller",
    "chat_revert",
    "chat_server",
    "chat_cli",
    "bench",
    "tools",
    "tests",
)
# What Sphinx would understand, and Markdown does not.
_ROLE = re.compile(r":[a-z]+:(?=`)")
BEGIN, END = "<!-- files: python -m file_map -->\n", "<!-- end of files -->\n"


def with_listing(page: str, project: Path) -> str:
    """``page`` with the list between its two marks replaced by what is true of ``project``."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    tables = [_table(project, folder) for folder in FOLDERS if (project / folder).is_dir()]
    return before + BEGIN + "\n" + "\n".join(tables) + "\n" + END + after


def first_sentence(source: str) -> str:
    """The first paragraph of a module's docstring, on one line of Markdown."""
    docstring = ast.get_docstring(ast.parse(source)) or ""
    return _ROLE.sub("", " ".join(docstring.split("\n\n")[0].split())).replace("``", "`")


def _table(project: Path, folder: str) -> str:
    rows = [f"### {folder}\n", "| file | what it is |", "|---|---|"]
    for file in sorted((project / folder).rglob("*.py")):
        sentence = first_sentence(file.read_text(encoding="utf-8"))
        name = file.relative_to(project / folder).as_posix()
        # A test file is found by the name of what it tests.
        if sentence and not file.name.startswith("test_"):
            rows.append(f"| `{name}` | {sentence.replace('|', '∣')} |")
    return "\n".join(rows) + "\n"
