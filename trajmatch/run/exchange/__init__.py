"""What goes to other programs and comes from them: sets exported, sets and experts imported."""
