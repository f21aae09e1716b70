"""Pictures with exact captions, composed from the colour emoji font: what gesso's own model learns from and is scored on."""
