"""Material: images, networks, expert trajectories and synthetic sets, and the files that hold them."""
