"""What is reported: networks trained from scratch on a set, and their accuracy."""
