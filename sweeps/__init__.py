"""Many runs: sweep files, their plans, Optuna searches, and workers that survive being killed."""
