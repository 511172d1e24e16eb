"""Generated tasks whose difficulty is known: how deep a network must be, or how much it must recall, is a number one sets."""
