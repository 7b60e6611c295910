"""The laboratory: studies of the papers' claims, and their report. It uses the library, which does not know it."""
