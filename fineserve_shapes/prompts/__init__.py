"""A request becomes tokens or text of exactly the asked length."""
