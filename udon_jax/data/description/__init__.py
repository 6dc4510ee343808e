"""What a run will be trained on, in numbers and pictures."""
