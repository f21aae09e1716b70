"""The surface in the words of OpenAI's Images API, for its clients as they are: translators, and nothing else."""
