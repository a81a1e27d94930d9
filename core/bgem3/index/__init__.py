"""What an embedded store searches with: lexical index, token vectors, sidecar."""
