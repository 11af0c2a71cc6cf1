"""The bundled model, loading any Hugging Face folder safely, and walking its linear layers."""
