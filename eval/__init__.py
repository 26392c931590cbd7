"""Cases, metrics and statistics that measure the assistant. Knows no screen, no shell."""
