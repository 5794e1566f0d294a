"""What interruptions, faults and hostile inputs do to the commands."""
