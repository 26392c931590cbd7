"""The page people use in a browser: tabs over one service, and how what they show looks."""
