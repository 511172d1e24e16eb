"""The static site: an index of tracks and rows, a page for each scheme, and how everything was measured."""
