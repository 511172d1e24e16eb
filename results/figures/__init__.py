"""Figures of a study: what is drawn, the numbers behind it, and what is said when there is too little to draw."""
