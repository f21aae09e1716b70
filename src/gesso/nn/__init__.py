"""Blocks that several models share: attention, residual blocks, embeddings. torch only."""
