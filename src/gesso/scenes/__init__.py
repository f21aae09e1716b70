"""Pictures with exact captions: composed from the colour emoji font; gesso's own model learns from them."""
