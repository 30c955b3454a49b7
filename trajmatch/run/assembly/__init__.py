"""From settings to things: images, networks, engines and rules."""
