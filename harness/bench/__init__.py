"""How fast a training run is, beside what it could be."""
