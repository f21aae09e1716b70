"""One plug-in of each kind for gesso. Nothing is imported here: gesso imports the module of the row that it needs."""
