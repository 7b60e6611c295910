"""lit_rlhf: reward models, and what policy optimisation does to them, as LightningModules.

Importing the package is cheap; every room imports what it needs. Imports run one way:
``functional ← data ← world, networks ← rewards ← policy ← evaluation ← cli``.
"""

__version__ = "0.1.0"
