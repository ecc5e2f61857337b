"""The tables as queries see them.  ``migrations.py`` makes them; a test compares the two.

``chat_turn`` is a forest: each turn points to the one it followed, several may follow the same one,
and none ever changes.  ``chat_session`` points to the last turn that is in force.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine


class AnyText(TypeDecorator[str]):
    """Text of any characters: PostgreSQL's own cannot hold U+0000, which a model may well say."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        kind: TypeEngine[Any] = sa.LargeBinary() if _is_postgresql(dialect) else sa.Text()
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | bytes | None:
        return value.encode() if value is not None and _is_postgresql(dialect) else value

    def process_result_value(self, value: str | bytes | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        return value.decode() if isinstance(value, bytes) else value


def _is_postgresql(dialect: Dialect) -> bool:
    return dialect.name == "postgresql"


METADATA = sa.MetaData()

STORE = sa.Table(
    "chat_store",
    METADATA,
    # One row: how many migrations have made these tables.
    sa.Column("version", sa.BigInteger, nullable=False),
)

TURN = sa.Table(
    "chat_turn",
    METADATA,
    sa.Column("key", sa.BigInteger, primary_key=True),
    sa.Column("parent", sa.BigInteger, sa.ForeignKey("chat_turn.key")),
    # The key of the first session of the tree: what a removal has to look through.
    sa.Column("tree", sa.BigInteger, nullable=False),
    # The key of the session that took the turn, which a fork's share in it may outlive.
    sa.Column("session", sa.BigInteger, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),  # microseconds since 1970
    sa.Column("request_id", AnyText),
    sa.Column("request_hash", AnyText),
    sa.Column("prompt_kind", sa.Text, nullable=False),
    sa.Column("question", AnyText),
    sa.Column("answer", AnyText, nullable=False),
    sa.Column("finish_reason", sa.Text, nullable=False),
    sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("generated_tokens", sa.BigInteger, nullable=False),
    sa.Column("prompt_seconds", sa.Double, nullable=False),
    sa.Column("generation_seconds", sa.Double, nullable=False),
    sa.Column("params", sa.Text, nullable=False),  # JSON
    # The state after the turn: so much of the state before it, and what follows.
    sa.Column("kept_tokens", sa.BigInteger, nullable=False),
    sa.Column("added_tokens", sa.LargeBinary, nullable=False),
    sa.Column("kept_spans", sa.BigInteger, nullable=False),
    sa.Column("added_spans", sa.LargeBinary, nullable=False),
    sa.Column("kept_rendered", sa.BigInteger, nullable=False),
    sa.Column("added_rendered", AnyText),
    sa.Column("tokens", sa.BigInteger, nullable=False),  # all of them, after the turn
    sa.Column("checksum", sa.LargeBinary, nullable=False),
    sa.UniqueConstraint("session", "request_id"),
)

SESSION = sa.Table(
    "chat_session",
    METADATA,
    sa.Column("key", sa.BigInteger, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("tree", sa.BigInteger, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),  # microseconds since 1970
    sa.Column("system", AnyText),
    sa.Column("sampling", sa.Text, nullable=False),  # JSON
    sa.Column("prefill_chunk", sa.BigInteger, nullable=False),
    sa.Column("head", sa.BigInteger, sa.ForeignKey("chat_turn.key")),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("parent", sa.Text),
    sa.Column("parent_turn", sa.BigInteger),
    sa.UniqueConstraint("owner", "id"),
)
