"""Records, readers, rendering, stores, and the one DataModule."""
