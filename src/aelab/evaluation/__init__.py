"""What a trained model is measured by; nothing here trains."""
