"""Files and named tensors: hardened reading, atomic writing, key maps between layouts, detection."""
