"""The server put together: gesso's API, the surfaces and the page behind one guard, run by `gesso serve`."""
