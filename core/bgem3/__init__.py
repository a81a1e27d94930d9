"""All three representations of BGE-M3: encode, score, fuse, store and search."""
