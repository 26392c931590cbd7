"""The HTTP interfaces: OpenAI's and Tether's own, and the guard around them and the page."""
