"""Text: tokenizers that turn a prompt into token ids, and the learning of a small vocabulary."""
