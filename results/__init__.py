"""What runs mean: the tidy table of runs, statistics over it, figures and the leaderboard.

Everything here is a function of the runs an MLflow store holds; nothing here trains or writes to that store.
"""
