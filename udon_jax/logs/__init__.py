"""What a run tells of itself: where metrics go, speed, work, surroundings."""
