"""Data: what every residual scheme is trained on, as Lightning data modules with a fingerprint and a fixed order."""
