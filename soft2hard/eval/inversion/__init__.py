"""Textual inversion from images: a hard prompt whose place in the space of a CLIP is near that of images."""
