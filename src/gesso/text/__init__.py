"""Text: what people type becomes pieces with weights, chunks of token ids, and the rules by which weights act."""
