"""Results that leave one machine and enter a shared leaderboard: the file they travel in, and what is checked before it is believed."""
