"""The laboratory's commands: `tether frontier`, `eval`, `report` and `compare`."""
