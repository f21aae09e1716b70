"""Where models run: the engine with its device, dtype and loaded models, offloading, memory plans, batching."""
