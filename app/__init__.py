"""Settings and the doors: command line and chat. No logic of its own."""
