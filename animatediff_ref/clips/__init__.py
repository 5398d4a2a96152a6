"""Videos, folders of videos, and their latents."""
