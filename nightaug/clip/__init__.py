"""CLIP, frozen: image and text embeddings, and a cache of region embeddings on disk."""
