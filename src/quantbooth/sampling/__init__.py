"""Draw pictures: requests, the predict loop, sets of pictures on disk."""
