"""What papers claim of residual connections, and what a study's runs say to it."""
