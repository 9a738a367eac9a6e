"""Extended XYZ: structures with their labels as text, the format that programs of the field exchange."""
