"""Drawing: a request and a model become a picture."""
