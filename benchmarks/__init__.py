"""Measurements of speed and memory against other libraries; no part of the package that is installed."""
