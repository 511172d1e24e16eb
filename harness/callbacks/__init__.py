"""What happens around training steps: measuring, validating, saving, stopping, showing."""
