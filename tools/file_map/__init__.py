"""Keeps the list of files in ``doc/map.md``: one sentence each, which is the first of the file itself."""
