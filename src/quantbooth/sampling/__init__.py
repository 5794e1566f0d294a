"""Generate pictures: requests, the predict loop, image sets on disk."""
