"""`tether train`: what is learnt from, how each role's training is prepared, and the commands."""
