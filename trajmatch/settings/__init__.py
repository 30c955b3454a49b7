"""What can be asked: settings, their ranges, presets and the words of the command line. Nothing here imports torch."""
