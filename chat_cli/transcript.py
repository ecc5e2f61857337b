"""``:save``: a conversation as a file, in Markdown or JSON."""

from __future__ import annotations

import json
from pathlib import Path

from chat_cli.records import History
from lm_core.errors import InvalidParameter


def save(history: History, path: Path) -> None:
    """Write ``history``; a name that ends in ``.json`` gets what the server sent, all others Markdown.

    Raises:
        InvalidParameter: the file exists already, or cannot be written.
    """
    text = as_json(history) if path.suffix.lower() == ".json" else as_markdown(history)
    try:
        file = path.open("xb")
    except FileExistsError:
        raise InvalidParameter("file", f"{path} exists already; choose another name") from None
    except (OSError, ValueError) as error:
        raise _cannot_write(path, error) from error
    try:
        with file:
            file.write(text.encode("utf-8", errors="replace"))
    except OSError as error:
        # Half a conversation under that name would look like all of it.
        path.unlink(missing_ok=True)
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: Exception) -> InvalidParameter:
    reason = error.strerror if isinstance(error, OSError) else error
    return InvalidParameter("file", f"{path} cannot be written: {reason}")


def as_json(history: History) -> str:
    """The session object with its turns."""
    return json.dumps(history.session.raw, ensure_ascii=False, indent=2) + "\n"


def as_markdown(history: History) -> str:
    """A heading for each question, the answers as the model wrote them."""
    session = history.session
    parts = [f"# {session.id}", f"Model {session.model}, begun {session.created_at}."]
    if session.system is not None:
        parts.append(f"**System:** {session.system}")
    for turn in history.turns:
        parts += [f"## You({turn.index})", turn.user, f"### Assistant({turn.index})", turn.assistant.strip()]
    return "\n\n".join(parts) + "\n"
