"""Pictures of any size as tiles of a model's size, which may see their neighbours."""
