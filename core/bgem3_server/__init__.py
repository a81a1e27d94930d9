"""`bgem3 serve`: one process that holds the model, with an HTTP API for programs and a page for people."""
