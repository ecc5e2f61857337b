"""``chat-revert``: proves that a reverted session is the session it claims to be."""
