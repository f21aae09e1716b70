"""How well a model draws what its prompts say: detectors, suites of prompts and the judges of styles."""
