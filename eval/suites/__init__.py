"""The suites behind `tether eval`: public sets, invented facts and attacks, each a module."""
