"""Model servers as supervised processes, and the client that talks to them."""
