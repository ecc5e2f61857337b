"""``chat-cli``: a terminal client of chat-server, and the client library it is made of.

Nothing here imports NumPy or the engine; everything goes over HTTP.
"""
