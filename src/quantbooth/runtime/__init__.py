"""What every command runs in: errors, configuration, trainers, trackers, costs."""
