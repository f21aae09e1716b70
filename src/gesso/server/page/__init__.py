"""The page: the built files of web/, served as they are. It is one more client of the HTTP API."""
