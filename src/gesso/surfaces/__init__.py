"""Surfaces: the server in the words of OpenAI, AUTOMATIC1111 and ComfyUI, for their clients as they are."""
