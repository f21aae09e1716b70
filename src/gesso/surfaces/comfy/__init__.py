"""ComfyUI's HTTP interface over gesso's jobs: graphs are walked back from their outputs to requests."""
