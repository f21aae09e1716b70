"""What people type: it becomes pieces with weights, chunks of token ids, and the rules by which weights act."""
