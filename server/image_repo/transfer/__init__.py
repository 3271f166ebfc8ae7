"""Moving originals: from one store to another, and from a folder into a store."""
