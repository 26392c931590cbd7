"""Measurements of the whole assistant; run by hand, never imported by the packages."""
