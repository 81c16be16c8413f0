"""Tables from what has been run: reads run folders and published figures, never the model."""
