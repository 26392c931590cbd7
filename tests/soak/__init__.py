"""Long forms of the tests, run by `make soak`."""
