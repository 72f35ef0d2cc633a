"""Results to files: safetensors in place, tables, and outputs that are moved into place when complete."""
