"""What the machine does: processes, memory, locks, signals and progress. Nothing here imports another part."""
