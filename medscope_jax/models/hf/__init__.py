"""Hugging Face's folders: configurations, weights and adapters, in and out."""
